"""Compiled networks are compared by what is decided from them; a comparison that cannot fail would prove nothing."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from contracts.errors import ArtifactError, ShapeError
from contracts.ocr import OCR_DETECT, OCR_MODELS, OCR_RECOGNIZE
from contracts.products import NAME
from contracts.tensors import ModelSpec
from regulars.cli import app
from training.export import parity, tensorrt
from vision import compiled
from vision.engines import ocr_folder as ocr_of_home
from vision.export import export, spec_of
from vision.model import ProductConfig, ProductNet


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelSpec, object]:
    config = ProductConfig("test_efficientnet", 64, (0, 0, 1, 1), 2, 16)
    net = ProductNet(config).eval()
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("net")
    return spec_of(net), export(net, folder, rng.integers(0, 256, (2, 64, 64, 3)).astype(np.uint8))


@pytest.mark.parametrize("spec", OCR_MODELS.values(), ids=lambda s: s.name)
def test_networks_that_read_agree_with_themselves_and_not_with_others(spec, ocr_folder):
    run = parity.onnx_run(ocr_folder / f"{spec.name}.onnx", 2)
    compare = compiled.comparison(spec, ocr_folder / f"{spec.name}.onnx", "onnx → x")
    assert compare(run).ok
    assert compare(run).rows == (1 if spec is OCR_DETECT else len(compiled.LINES))

    def other(inputs):
        found = run(inputs)
        if spec is OCR_RECOGNIZE:
            found["characters"] = found["characters"] + (found["probabilities"] > 0.5)  # the next character of the alphabet
        else:
            found["text_map"] = np.roll(found["text_map"], 40, axis=1)
        return {t.name: found[t.name].astype(t.dtype) for t in spec.outputs}

    assert not compare(other).ok
    with pytest.raises(ShapeError):
        compare(lambda inputs: {t.name: np.zeros((1,), t.dtype) for t in spec.outputs})


def test_a_network_of_products_agrees_with_itself_and_not_with_others(product):
    spec, path = product
    run = parity.onnx_run(path)
    compare = compiled.comparison(spec, path, "onnx → x")
    assert compare(run).ok

    def changed(**by):
        return lambda inputs: {name: value + np.asarray(by.get(name, 0), value.dtype) for name, value in run(inputs).items()}

    assert compare(changed(fine_logits=3.0)).ok, "the same to every class changes no probability"
    assert not compare(changed(fine_logits=[1.0, 0, 0, 0])).ok
    assert not compare(changed(embedding=0.2)).ok
    assert not compare(changed(embedding=np.nan)).ok


def test_tensorrt_takes_every_operator(product, ocr_folder):
    for path in (product[1], *(ocr_folder / f"{name}.onnx" for name in OCR_MODELS)):
        assert tensorrt.unsupported_operators(path) == [], path.name


def test_profiles_cover_the_sizes_of_pages_and_lines(product):
    (page,), (line,) = tensorrt.profiles(OCR_DETECT), tensorrt.profiles(OCR_RECOGNIZE)
    assert (page.smallest, page.usual, page.largest) == ((1, 32, 32, 3), (4, 960, 960, 3), (4, 2048, 2048, 3))
    assert (line.smallest, line.largest) == ((1, 48, 32, 3), (16, 48, 2048, 3))
    assert product[0].name == NAME
    assert tensorrt.profiles(product[0])[0].largest == (32, 64, 64, 3)


def test_compile_checks_the_networks_of_a_home(ocr_folder, tmp_path):
    def run(*options: str) -> dict:
        where = ("--target", "onnxruntime", "--home", str(tmp_path), "--json")
        result = CliRunner().invoke(app, ("compile", *options, *where), catch_exceptions=False, standalone_mode=False)
        return json.loads(result.stdout)

    assert run("--model", "ocr") == {"compiled": []}
    shutil.copytree(ocr_folder, ocr_of_home(tmp_path))
    for options in (("--model", "ocr"), ()):  # nothing else is in this home
        (found,) = run(*options)["compiled"]
        assert (found["model"], found["precision"]) == ("ocr", "fp32")
        assert [h["model"] for h in found["hops"]] == list(OCR_MODELS)
    (ocr_of_home(tmp_path) / "ocr_detect.onnx").write_bytes(b"half")
    with pytest.raises(ArtifactError, match="checksum"):
        run()
