"""`regulars evaluate receipts` and `regulars evaluate products`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from contracts.errors import ArtifactError, ConfigError
from regulars.cli import app
from tests.vision import products_drawn
from tests.vision.receipt_set import write_set
from vision import product_scorecard
from vision.products import ProductRecognizer


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["evaluate", *arguments])


def test_json_of_receipts_is_one_object_with_the_promised_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGULARS_REALDATA", str(tmp_path / "sets"))
    write_set(tmp_path / "sets" / "drawn")
    common = ("receipts", "--data", "drawn", "--home", str(tmp_path / "home"), "--as-of", "2024-01-01")
    done = run(*common, "--engine", "annotated", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["data"], found["pictures"], found["as_of"]) == ("drawn", 2, "2024-01-01")
    assert {"rapidocr", "tesseract", "numpy"} <= set(found["versions"])
    keys = {"model", "company", "company_low", "company_high", "date", "total", "wrong_sure_totals", "sure_totals", "detection_f1",
            "character_accuracy", "median_s"}  # fmt: skip
    assert keys <= set(found["rows"][0])
    done = run(*common, "--engine", "annotated", "--pictures", "1")
    assert done.exit_code == 0, done.output
    assert "drawn: 1 receipts" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("--data", "no_such_set"), ArtifactError, "REGULARS_REALDATA"),
        (("--data", ".", "--engine", "magic"), ConfigError, "no engine magic"),
        (("--data", ".", "--as-of", "soon"), ConfigError, "--as-of"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_read(
    arguments: tuple[str, ...], error: type[Exception], words: str, tmp_path: Path
) -> None:
    done = run("receipts", *arguments, "--home", str(tmp_path / "home"))
    assert isinstance(done.exception, error)
    assert words in str(done.exception)
    assert not (tmp_path / "home").exists()


def test_json_of_products_is_one_object_with_the_promised_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGULARS_REALDATA", str(tmp_path / "sets"))
    monkeypatch.setattr(
        product_scorecard, "ProductRecognizer", lambda folder, threads: ProductRecognizer(folder, products_drawn.ByColour())
    )
    products_drawn.write_set(tmp_path / "sets" / "drawn", 3)
    (tmp_path / "model").mkdir()
    model = products_drawn.write_artifact(tmp_path / "model")
    common = ("products", "--data", "drawn", "--model", str(model), "--home", str(tmp_path / "home"), "--shots", "2,1")
    done = run(*common, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["data"], found["split"], found["model"]) == ("drawn", "val", "products/test")
    assert [r["model"] for r in found["rows"]] == ["regulars", "catalogue_1", "catalogue_2", "nearest_neighbour"]
    keys = {"fine_top1", "fine_top1_low", "fine_top1_high", "coarse_top1", "fine_top5", "expected_calibration_error", "median_ms"}
    assert keys <= set(found["rows"][0])
    done = run(*common, "--split", "train", "--others", str(tmp_path / "sets" / "drawn" / "val"))
    assert done.exit_code == 0, done.output
    assert "drawn, split train" in done.stdout
    assert "refused" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("--data", "no_such_set"), ArtifactError, "REGULARS_REALDATA"),
        (("--data", ".", "--shots", "1,many"), ConfigError, "--shots"),
        (("--data", ".", "--shots", "0"), ConfigError, "1 to 100"),
        (("--data", ".", "--teach", "no_such_set"), ArtifactError, "no data no_such_set"),
        (("--data", ".", "--others", "no_such_set"), ArtifactError, "no data no_such_set"),
    ],
)
def test_a_wrong_wish_about_products_is_said_at_once(
    arguments: tuple[str, ...], error: type[Exception], words: str, tmp_path: Path
) -> None:
    done = run("products", *arguments, "--home", str(tmp_path / "home"))
    assert isinstance(done.exception, error)
    assert words in str(done.exception)
    assert not (tmp_path / "home").exists()
