"""The served networks against the package's own files: only the first and the last layer are other ones."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest

from contracts.errors import ArtifactError, ConfigError
from contracts.ocr import CROP_HEIGHT, OCR_DETECT, OCR_MODELS, OCR_RECOGNIZE, RECORD, STEP
from training.export.tensorrt import profiles, unsupported_operators
from vision import export_ocr
from vision.export_ocr import SOURCES, characters_of, export, read_record, source_folder

from .drawn import receipt


def original(name, pixels):
    """The package's file on float BGR planes, as the package feeds it."""
    planes = (pixels[..., ::-1].astype(np.float32) / 255 - 0.5) / 0.5
    session = onnxruntime.InferenceSession(source_folder() / SOURCES[name])
    return session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(planes.transpose(0, 3, 1, 2))})[0]


def ours(folder, name, pixels):
    session = onnxruntime.InferenceSession(folder / f"{name}.onnx")
    return session.run(None, {session.get_inputs()[0].name: pixels})


@pytest.fixture(scope="module")
def page():
    """A picture in colour, so that swapped channels would show, at a size that detection takes."""
    pixels = cv2.resize(receipt(("TOTAL 12.40", "CASH 20.00")), (256, 128)).astype(float)
    return (pixels * (1.0, 0.7, 0.4)).astype(np.uint8)[None]


@pytest.fixture(scope="module")
def crops():
    rows = [receipt((text,), size=30, margin=8) for text in ("TOTAL 12.40", "Café 3 x 2.10")]
    return np.stack([(cv2.resize(r, (256, CROP_HEIGHT)) * (0.6, 0.8, 1.0)).astype(np.uint8) for r in rows])


def test_detection_is_the_packages_in_bytes(ocr_folder, page):
    expected = original(OCR_DETECT.name, page)[:, 0] * 255
    (found,) = ours(ocr_folder, OCR_DETECT.name, page)
    assert found.dtype == np.uint8
    assert found.shape == page.shape[:3]
    assert np.abs(found - expected).max() <= 0.51  # half a step of rounding
    assert expected.max() > 200, "there is text to be found"
    (swapped,) = ours(ocr_folder, OCR_DETECT.name, np.ascontiguousarray(page[..., ::-1]))
    assert np.abs(swapped - expected).max() > 2, "the order of the channels matters, so it was right"


def test_recognition_with_all_characters_answers_the_packages_likeliest(tmp_path, crops):
    record = export(tmp_path / "all", "all")
    expected = original(OCR_RECOGNIZE.name, crops)
    characters, probabilities = ours(tmp_path / "all", OCR_RECOGNIZE.name, crops)
    assert characters.shape == (2, crops.shape[2] // STEP, 3)
    assert expected.shape[2] == len(record["characters"]) + 1
    np.testing.assert_allclose(probabilities, np.sort(expected, axis=-1)[..., ::-1][..., :3], atol=1e-4)
    np.testing.assert_array_equal(characters[..., 0], expected.argmax(-1))


def test_recognition_of_latin_is_the_packages_over_its_characters(ocr_folder, crops):
    """The probabilities are the package's, divided by what they add up to over the characters that were kept."""
    metadata = {p.key: p.value for p in onnx.load(source_folder() / SOURCES[OCR_RECOGNIZE.name]).metadata_props}
    all_of_them = [*metadata["character"].splitlines(), " "]
    kept = [0, *(i + 1 for i in characters_of("latin", all_of_them))]
    expected = original(OCR_RECOGNIZE.name, crops)[..., kept]
    expected = expected / expected.sum(-1, keepdims=True)
    characters, probabilities = ours(ocr_folder, OCR_RECOGNIZE.name, crops)
    np.testing.assert_array_equal(characters[..., 0], expected.argmax(-1))
    np.testing.assert_allclose(probabilities[..., 0], expected.max(-1), atol=1e-3)
    assert [all_of_them[i - 1] for i in kept[1:]] == read_record(ocr_folder)["characters"]


def test_latin_is_letters_digits_and_signs_of_money_and_nothing_of_other_scripts():
    known = ["A", "z", "7", "é", "ß", "Ø", "€", "£", "%", " ", "店", "あ", "Ω", "Ａ", "①"]
    assert [known[i] for i in characters_of("latin", known)] == ["A", "z", "7", "é", "ß", "Ø", "€", "£", "%", " "]
    assert characters_of("all", known) == list(range(len(known)))
    with pytest.raises(ConfigError, match="'greek', must be one of latin, all"):
        characters_of("greek", known)


def test_the_graphs_are_what_the_contract_says(ocr_folder):
    for name, spec in OCR_MODELS.items():
        graph = onnx.load(ocr_folder / f"{name}.onnx").graph
        assert [i.name for i in graph.input] == [t.name for t in spec.inputs]
        assert [o.name for o in graph.output] == [t.name for t in spec.outputs]
        assert not [n for n in graph.node if n.op_type == "Identity"]


def test_the_graphs_can_be_compiled_for_a_range_of_sizes(ocr_folder):
    for name, spec in OCR_MODELS.items():
        assert unsupported_operators(ocr_folder / f"{name}.onnx") == []
        (profile,) = profiles(spec)
        assert all(a <= b <= c for a, b, c in zip(profile.smallest, profile.usual, profile.largest, strict=True))
        assert min(profile.smallest) >= 1
        assert profile.largest[0] == spec.max_batch_size


def test_the_record_says_where_the_weights_come_from(ocr_folder):
    record = read_record(ocr_folder)
    assert record["licence"] == "Apache-2.0"
    assert "PaddleOCR" in record["origin"]
    assert record["package"].startswith("rapidocr 3.10")
    assert record["made_from"].keys() == set(SOURCES.values())
    assert onnx.load(ocr_folder / "ocr_detect.onnx").metadata_props[0].value


def test_export_again_keeps_what_is_whole_and_renews_what_is_not(tmp_path):
    folder = tmp_path / "ocr"
    first = export(folder)
    before = (folder / "ocr_detect.onnx").stat().st_mtime_ns
    assert export(folder) == first
    assert (folder / "ocr_detect.onnx").stat().st_mtime_ns == before
    (folder / "ocr_detect.onnx").write_bytes(b"damaged")
    assert export(folder) == first
    assert read_record(folder) == first
    assert [p.name for p in tmp_path.iterdir()] == ["ocr"], "nothing is left beside it"


def test_a_damaged_folder_is_refused(tmp_path, ocr_folder):
    with pytest.raises(ArtifactError, match="cannot read the OCR networks"):
        read_record(tmp_path)
    folder = tmp_path / "copy"
    shutil.copytree(ocr_folder, folder)
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(record | {"format": 0}))
    with pytest.raises(ArtifactError, match="of format 0"):
        read_record(folder)
    (folder / RECORD).write_text(json.dumps(record))
    with (folder / "ocr_recognize.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactError, match="another checksum"):
        read_record(folder)


def test_weights_that_are_not_there_are_asked_for(tmp_path, monkeypatch):
    with pytest.raises(ArtifactError, match=r"cannot read .*PP-OCRv6_det_small"):
        export(tmp_path / "ocr", source=tmp_path)
    monkeypatch.setattr(export_ocr.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install rapidocr==3\.10"):
        source_folder()


def test_a_package_without_the_weights_is_told_apart(tmp_path, monkeypatch):
    (tmp_path / "rapidocr").mkdir()
    (tmp_path / "rapidocr" / "__init__.py").touch()
    spec = export_ocr.importlib.util.spec_from_file_location("rapidocr", tmp_path / "rapidocr" / "__init__.py")
    monkeypatch.setattr(export_ocr.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ArtifactError, match=r"lacks PP-OCRv6_det_small\.onnx, PP-OCRv6_rec_small\.onnx"):
        source_folder()


def test_other_graphs_are_refused(tmp_path):
    source = tmp_path / "weights"
    source.mkdir()
    (source / SOURCES[OCR_DETECT.name]).write_bytes(b"not a graph")
    (source / SOURCES[OCR_RECOGNIZE.name]).write_bytes(b"not a graph")
    with pytest.raises(ArtifactError, match=r"cannot read .*pip install"):
        export(tmp_path / "ocr", source=source)
    for name in SOURCES.values():
        shutil.copy(source_folder() / SOURCES[OCR_DETECT.name], source / name)  # detection twice: no characters
    with pytest.raises(ArtifactError, match=r"not the graphs that vision/export_ocr\.py was written for"):
        export(tmp_path / "ocr", source=source)
    shutil.copy(source_folder() / SOURCES[OCR_RECOGNIZE.name], source)
    model = onnx.load(source / SOURCES[OCR_RECOGNIZE.name])
    next(p for p in model.metadata_props if p.key == "character").value = "a\nb"
    onnx.save(model, source / SOURCES[OCR_RECOGNIZE.name])
    with pytest.raises(ArtifactError, match="classes, the record"):
        export(tmp_path / "ocr", source=source)
    model = onnx.load(source_folder() / SOURCES[OCR_DETECT.name])
    model.graph.node.append(onnx.helper.make_node("Relu", [model.graph.input[0].name], ["unused"]))
    onnx.save(model, source / SOURCES[OCR_DETECT.name])
    with pytest.raises(ArtifactError, match="more than one node"):
        export(tmp_path / "ocr", source=source)
    assert not (tmp_path / "ocr").exists()
