"""Reading made-up receipts: upright, turned, skewed, dark, blurred."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from difflib import SequenceMatcher

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from contracts.errors import ArtifactError, ConfigError, ShapeError
from contracts.ocr import OCR_RECOGNIZE
from vision.ocr import LocalNetworks, PaddleOcr
from vision.ocr_settings import OcrSettings

from .drawn import ROWS, plain, receipt, rotated


@pytest.fixture(scope="module")
def ocr(networks):
    return PaddleOcr(networks, OcrSettings.load())


def text_of(lines):
    return plain("".join(line.text for line in lines))


def likeness(lines, rows=ROWS):
    return SequenceMatcher(None, text_of(lines), plain("".join(rows)), autojunk=False).ratio()


def test_an_upright_receipt_is_read_in_order_with_its_corners(ocr):
    picture = receipt()
    page = ocr.page(picture)
    assert text_of(page.lines) == plain("".join(ROWS))
    assert (page.turned, page.stretched) == (0, False)
    assert page.skew == pytest.approx(0, abs=0.01)
    for line in page.lines:
        corners = np.array(line.quad)
        assert (corners >= 0).all()
        assert (corners <= (picture.shape[1], picture.shape[0])).all()
        assert 0.5 <= line.confidence <= 1
        assert len(line.characters) == len(line.alternatives) == len(line.text)
    top = np.array(page.lines[0].quad)
    assert (top.min(0) < (50, 60)).all(), "the shop's name stands in the upper left"
    assert page.stages_ms["recognize"] > 0
    assert set(page.stages_ms) == {"prepare", "detect", "boxes", "crops", "recognize", "decode"}


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_page_is_read_as_the_upright_one(ocr, quarters):
    """Corners are given on the picture as it came, in the order of the text."""
    picture = receipt()
    height, width = picture.shape[:2]
    upright = ocr.page(picture)
    turned = ocr.page(np.ascontiguousarray(np.rot90(picture, quarters)))
    assert turned.turned == quarters  # np.rot90 turns the other way
    assert text_of(turned.lines) == text_of(upright.lines)
    first, same = np.array(upright.lines[0].quad[0]), np.array(turned.lines[0].quad[0])
    where = {1: (first[1], width - first[0]), 2: (width - first[0], height - first[1]), 3: (height - first[1], first[0])}
    assert same == pytest.approx(where[quarters], abs=6)


@pytest.mark.parametrize("degrees", [-15, 8])
def test_a_skewed_page_is_read(ocr, degrees):
    page = ocr.page(rotated(receipt(), degrees))
    assert likeness(page.lines) > 0.97
    assert np.degrees(page.skew) == pytest.approx(-degrees, abs=1.5)


def test_a_page_seen_from_the_side_is_read(ocr):
    picture = receipt()
    height, width = picture.shape[:2]
    corners = np.float32([[0, 0], [width, 0], [width, height], [0, height]])
    seen = np.float32([[40, 10], [width - 30, 30], [width, height], [0, height - 25]])
    matrix = cv2.getPerspectiveTransform(corners, seen)
    assert likeness(ocr.read(cv2.warpPerspective(picture, matrix, (width, height), borderValue=(90, 90, 90)))) > 0.97


def test_a_blurred_page_is_read(ocr):
    assert likeness(ocr.read(cv2.GaussianBlur(receipt(), (0, 0), 1.4))) > 0.95


def test_dark_thermal_paper_is_read_with_its_contrast_raised(ocr):
    rng = np.random.default_rng(2)
    dark = receipt(paper=60, ink=38).astype(float) + rng.normal(0, 2, (*receipt().shape[:2], 1))
    page = ocr.page(dark.clip(0, 255).astype(np.uint8))
    assert page.stretched
    assert likeness(page.lines) > 0.95


def test_what_is_read_from_a_line_does_not_depend_on_the_others(networks):
    """Batches are made by each crop's own width, so a page's other lines change nothing."""
    from vision import ocr_detect, ocr_recognize, preprocess

    picture = receipt()
    height, width = picture.shape[:2]
    fitted = preprocess.fitted(picture, 960)
    found = ocr_detect.boxes(networks.detect(fitted), width, height, 0.3, 0.5, 1.6)
    crops = [preprocess.crop(picture, quad, 2048) for quad in found.quads]
    together = networks.recognize([batch for _, batch in ocr_recognize.batches(crops)])
    places = {m: (b, r) for b, (members, _) in enumerate(ocr_recognize.batches(crops)) for r, m in enumerate(members)}
    for position, crop in enumerate(crops[:4]):
        (_, alone), *_ = ocr_recognize.batches([crop])
        ((characters, probabilities),) = networks.recognize([alone])
        batch, row = places[position]
        np.testing.assert_array_equal(characters[0, :, 0], together[batch][0][row, :, 0])
        np.testing.assert_allclose(probabilities[0], together[batch][1][row], atol=1e-4)


def test_several_threads_read_at_once(ocr):
    pictures = [receipt(ROWS[i : i + 3]) for i in range(4)]
    alone = [ocr.read(p) for p in pictures]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ocr.read, pictures)) == alone


def test_an_empty_page_and_a_tiny_one_hold_no_text(ocr):
    assert ocr.read(np.full((200, 160, 3), 240, np.uint8)) == []
    assert ocr.read(np.zeros((1, 400, 3), np.uint8)) == []
    assert ocr.read(np.zeros((9, 9, 3), np.uint8)) == []


@pytest.mark.parametrize("wrong", [np.zeros((40, 40), np.uint8), np.zeros((40, 40, 3), np.float32), np.zeros((40, 40, 4), np.uint8)])
def test_what_is_no_picture_is_refused(ocr, wrong):
    with pytest.raises(ShapeError, match=r"must be uint8 \(H, W, 3\)"):
        ocr.read(wrong)


def test_other_weights_read_something_else(ocr_folder, tmp_path, ocr):
    """What reads is the exported network: with one of its layers changed the text is another one."""
    from contracts.bundle import file_sha256

    folder = tmp_path / "changed"
    folder.mkdir()
    model = onnx.load(ocr_folder / f"{OCR_RECOGNIZE.name}.onnx")
    largest = max(model.graph.initializer, key=lambda i: int(np.prod(i.dims)))
    largest.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(largest)[::-1]), largest.name))
    onnx.save(model, folder / f"{OCR_RECOGNIZE.name}.onnx")
    (folder / "ocr_detect.onnx").write_bytes((ocr_folder / "ocr_detect.onnx").read_bytes())
    record = (ocr_folder / "model.json").read_text()
    old, new = (file_sha256(f / f"{OCR_RECOGNIZE.name}.onnx") for f in (ocr_folder, folder))
    (folder / "model.json").write_text(record.replace(old, new))
    changed = LocalNetworks(folder, 1)
    assert likeness(PaddleOcr(changed, OcrSettings.load(min_confidence=0)).read(receipt())) < 0.8
    assert likeness(ocr.read(receipt())) > 0.99


def test_networks_of_a_damaged_folder_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="regulars export"):
        LocalNetworks(tmp_path)


def test_a_mistyped_setting_is_refused(monkeypatch):
    monkeypatch.setenv("REGULARS_OCR_ENGIN", "paddle")
    with pytest.raises(ConfigError, match="REGULARS_OCR_ENGINE"):
        OcrSettings.load()
    monkeypatch.delenv("REGULARS_OCR_ENGIN")
    with pytest.raises(ConfigError, match="engine"):
        OcrSettings.load(engine="abbyy")
