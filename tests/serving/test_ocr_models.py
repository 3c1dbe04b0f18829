"""The networks that read text in a real Triton, and the folder they come from."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from contracts.bundle import file_sha256
from contracts.errors import ArtifactError, ShapeError, UpstreamError
from contracts.ocr import FINGERPRINT, OCR_DETECT, OCR_MODELS, OCR_RECOGNIZE, RECORD
from ray_apps.ocr_networks import TritonNetworks, open_networks
from serving import repository
from serving.client import BlockingTritonClient
from serving.repository import build_ocr, check_config, config_text, read_config
from serving.triton import TritonServer
from vision.export_ocr import export, read_record
from vision.ocr import LocalNetworks, PaddleOcr
from vision.ocr_settings import OcrSettings

from ..vision.drawn import receipt


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("ocr") / "model"
    export(out)
    return out


def changed(folder, out):
    """A copy of an OCR folder whose recognition answers other characters, with a record that fits."""
    shutil.copytree(folder, out)
    path = out / f"{OCR_RECOGNIZE.name}.onnx"
    before = file_sha256(path)
    model = onnx.load(path)
    largest = max(model.graph.initializer, key=lambda i: int(np.prod(i.dims)))
    largest.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(largest)[::-1]), largest.name))
    onnx.save(model, path)
    after = file_sha256(path)
    record = (out / RECORD).read_text().replace(before, after).replace(before[:16], after[:16])
    (out / RECORD).write_text(record)
    return out


@pytest.mark.parametrize("spec", OCR_MODELS.values(), ids=lambda s: s.name)
def test_committed_config_has_the_tensors_of_the_contract(spec):
    config = read_config(repository.TEMPLATES / spec.name / "config.pbtxt")
    check_config(config, spec)
    assert config.backend == "onnxruntime"
    assert not config.HasField("dynamic_batching"), "requests were left waiting by the Python-based backend's batcher"


def test_config_for_tensorrt_batches_dynamically(tmp_path):
    (tmp_path / "config.pbtxt").write_text(config_text(OCR_RECOGNIZE.name, "tensorrt"))
    config = read_config(tmp_path / "config.pbtxt")
    check_config(config, OCR_RECOGNIZE)
    assert (config.backend, config.HasField("dynamic_batching")) == ("tensorrt", True)


def test_build_places_both_and_repeats_without_a_change(folder, tmp_path):
    root = tmp_path / "repo"
    assert build_ocr(folder, root) == [root / name / "1" for name in OCR_MODELS]
    for name, spec in OCR_MODELS.items():
        config = read_config(root / name / "config.pbtxt")
        check_config(config, spec)
        assert config.parameters[FINGERPRINT].string_value == read_record(folder)["fingerprint"]
        assert file_sha256(root / name / "1" / "model.onnx") == file_sha256(folder / f"{name}.onnx")
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    build_ocr(folder, root)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


def test_build_replaces_other_weights_and_takes_engines(folder, tmp_path):
    root, other = tmp_path / "repo", changed(folder, tmp_path / "other")
    build_ocr(folder, root)
    build_ocr(other, root)
    assert file_sha256(root / OCR_RECOGNIZE.name / "1" / "model.onnx") == file_sha256(other / f"{OCR_RECOGNIZE.name}.onnx")
    with pytest.raises(ArtifactError, match=r"ocr_detect\.plan is missing"):
        build_ocr(folder, tmp_path / "engines", target="tensorrt")
    (other / "engines").mkdir()
    for name in OCR_MODELS:
        (other / "engines" / f"{name}.plan").write_bytes(b"plan")
    assert [p.joinpath("model.plan").is_file() for p in build_ocr(other, tmp_path / "engines", target="tensorrt")] == [True, True]


def test_build_refuses_a_damaged_folder(folder, tmp_path):
    with pytest.raises(ArtifactError, match="cannot read the OCR networks"):
        build_ocr(tmp_path, tmp_path / "repo")
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "ocr_detect.onnx").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="another checksum"):
        build_ocr(tmp_path / "copy", tmp_path / "repo")


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory, quick_settings):
    place = tmp_path_factory.mktemp("triton-ocr")
    build_ocr(folder, place / "repository")

    def probe(client: BlockingTritonClient) -> None:
        assert client.infer(OCR_DETECT, {"pixels": np.zeros((1, 32, 64, 3), np.uint8)})["text_map"].shape == (1, 32, 64)

    running = TritonServer(quick_settings(), place / "repository", place / "run", probe)
    try:
        running.start()
        yield running
    finally:
        running.stop()


def test_triton_finds_the_same_boxes_and_texts_as_this_process(server, folder):
    local, remote = LocalNetworks(folder, 1), TritonNetworks(server.url, folder, 60)
    picture = receipt()
    here = PaddleOcr(local, OcrSettings.load()).read(picture)
    there = PaddleOcr(remote, OcrSettings.load()).read(picture)
    assert [(line.quad, line.text) for line in there] == [(line.quad, line.text) for line in here]
    assert [line.confidence for line in there] == pytest.approx([line.confidence for line in here], abs=1e-3)
    assert len(here) > 5
    remote.close()


def test_triton_answers_sizes_that_differ_and_refuses_what_is_no_picture(server):
    with BlockingTritonClient(server.url, 60) as client:
        batches = [{"crops": np.full((rows, 48, width, 3), 127, np.uint8)} for rows, width in ((1, 64), (3, 320), (2, 96))]
        answers = client.infer_all(OCR_RECOGNIZE, batches)
        assert [a["characters"].shape for a in answers] == [(1, 8, 3), (3, 40, 3), (2, 12, 3)]
        assert client.infer_all(OCR_RECOGNIZE, []) == []
        with pytest.raises(ShapeError, match="crops is uint8"):
            client.infer_all(OCR_RECOGNIZE, [{"crops": np.zeros((1, 47, 64, 3), np.uint8)}])
        with pytest.raises(UpstreamError, match="ocr_recognize version 7"):
            client.infer_all(OCR_RECOGNIZE, batches[:1], "7")
        with pytest.raises(UpstreamError):  # a size that is no multiple of 32
            client.infer(OCR_DETECT, {"pixels": np.zeros((1, 33, 70, 3), np.uint8)})
        assert client.ready(OCR_DETECT.name), "a bad request leaves the model serving"


def test_other_weights_are_loaded_into_a_running_server_and_read_otherwise(server, folder, tmp_path):
    """The negative control of parity: weights that differ are told apart by their fingerprint, and by what they read."""
    other, picture = changed(folder, tmp_path / "other"), receipt()
    place = server.repository
    first = open_networks(server.url, place, folder, 60)
    assert isinstance(first, TritonNetworks)
    settings = OcrSettings.load(min_confidence=0)
    texts = [line.text for line in PaddleOcr(first, settings).read(picture)]
    second = open_networks(server.url, place, other, 60)
    assert isinstance(second, TritonNetworks)
    assert not first.served.serves(read_record(folder)["fingerprint"])
    assert [line.text for line in PaddleOcr(second, settings).read(picture)] != texts
    again = open_networks(server.url, place, folder, 60)
    assert [line.text for line in PaddleOcr(again, settings).read(picture)] == texts
    for networks in (first, second, again):
        networks.close()


def test_without_its_server_text_is_read_in_this_process(folder, tmp_path, free_port, caplog):
    with caplog.at_level(logging.WARNING, "regulars.networks"):
        networks = open_networks(f"127.0.0.1:{free_port()}", tmp_path / "repo", folder, 2)
    assert isinstance(networks, LocalNetworks)
    assert "text is read in this process" in caplog.text
    assert isinstance(open_networks("", tmp_path / "repo", folder, threads=1), LocalNetworks)
    with pytest.raises(ArtifactError, match="cannot read the OCR networks"):
        open_networks("", tmp_path / "repo", tmp_path)


def test_a_server_with_another_repository_costs_only_speed(server, folder, tmp_path, caplog):
    """What we put into our repository does not reach a server that reads another one."""
    other = changed(folder, tmp_path / "other")
    with caplog.at_level(logging.WARNING, "regulars.networks"):
        assert isinstance(open_networks(server.url, tmp_path / "elsewhere", other, 60), LocalNetworks)
    assert "repository is not" in caplog.text
