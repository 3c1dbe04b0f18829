"""`regulars recognize`: receipts and products in the terminal, bad files among good ones; text is read by the real networks."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from contracts.errors import ArtifactError, ConfigError, ContractError, UnknownItem
from regulars import recognize as module
from regulars.cli import app
from regulars.recognize import Looked, paths_of
from tests.vision import drawn
from tests.vision.by_colour import write_artifact
from tests.vision.products_drawn import picture as product
from vision import recognizer
from vision.export_ocr import export
from vision.products import products_folder
from warehouse.store import Warehouse


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that reads text, knows three products and has a warehouse with products of two businesses."""
    home = tmp_path_factory.mktemp("home")
    export(home / "vision" / "ocr")
    write_artifact(products_folder(home))
    rows = [("p1", "cafe", "Rye bread large", "4.85"), ("p2", "cafe", "Oat milk 1L", "1.99"), ("x", "bar", "Beer", "5.00")]
    columns = zip(*rows, strict=True)
    table = pa.table(dict(zip(("product_id", "business_id", "name", "price"), map(list, columns), strict=True)))
    Warehouse(home / "warehouse").land("products", table, "test")
    return home


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    save(folder / "receipt.png", drawn.receipt())
    save(folder / "sub" / "product.jpg", product("circle-red", 1, 320, 240))
    return folder


@pytest.fixture(scope="module", autouse=True)
def opened_once() -> Iterator[None]:
    """Each command opens a home's networks anew; here they stay open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recognizer, "open_recognizer", functools.cache(recognizer.open_recognizer))
        yield


def run(home: Path, *arguments: Any) -> Result:
    return CliRunner().invoke(app, ["recognize", "--home", str(home), *map(str, arguments)], env={"COLUMNS": "160"})


def objects(done: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


# --- what is found ---


def test_a_receipt_is_shown_with_its_fields_and_items(home: Path, pictures: Path) -> None:
    done = run(home, pictures / "receipt.png", "--as-of", "2021-09-01")
    assert done.exit_code == 0, done.output
    shown = done.stdout
    assert all(text in shown for text in ("receipt", "GREEN LEAF BAKERY", "2021-08-23", "13.14", "GBP", "Rye bread large", "sums"))
    assert "%" in shown


def test_a_product_is_shown_with_its_place(home: Path, pictures: Path) -> None:
    shown = run(home, pictures / "sub" / "product.jpg").stdout
    assert all(text in shown for text in ("circle-red", "Acme", "round", "320 x 240", "the network"))


def test_json_is_one_object_a_picture_in_the_shape_of_the_api(home: Path, pictures: Path) -> None:
    done = run(home, pictures, "--json", "--as-of", "2021-09-01")
    assert done.exit_code == 0, done.output
    receipt, found = objects(done)
    assert receipt["file"] == str(pictures / "receipt.png")
    assert (receipt["isReceiptDetected"], receipt["detectedObjects"]) == (True, [])
    assert (receipt["receipt"]["total"], receipt["receipt"]["date"], receipt["receipt"]["currency"]) == (13.14, "2021-08-23", "GBP")
    assert len(receipt["receipt"]["lineItems"]) == 3
    assert found["file"] == str(pictures / "sub" / "product.jpg")
    assert (found["isReceiptDetected"], found["receipt"], found["detectedObjects"][0]["object"]) == (False, None, "circle-red")
    assert set(found["detectedObjects"][0]["boundingBox"]) == {"x", "y", "width", "height"}
    for one in (receipt, found):
        assert next(iter(one)) == "file"
        assert one["latency"] > 0
        assert one["modelVersion"].startswith("paddle-")
    assert "1 receipts, 1 of products" in done.stderr


def test_annotated_pictures_are_written_and_none_over_another(home: Path, pictures: Path, tmp_path: Path) -> None:
    again = save(tmp_path / "receipt.png", product("circle-blue", 2, 320, 240))
    out = tmp_path / "out" / "deep"
    found = objects(run(home, pictures / "receipt.png", again, "--annotate", out, "--json"))
    assert sorted(p.name for p in out.iterdir()) == ["receipt.png-2.png", "receipt.png.png"]
    assert [one["annotated"] for one in found] == [str(out / "receipt.png.png"), str(out / "receipt.png-2.png")]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in out.iterdir())
    assert "drawn in" in run(home, again, "--annotate", out).stdout


def test_what_it_is_may_be_told(home: Path, pictures: Path) -> None:
    (found,) = objects(run(home, pictures / "receipt.png", "--kind", "product", "--json"))
    assert (found["kind"], found["notes"]) == ("nothing", ["it shows no product that is known"])
    shown = run(home, pictures / "receipt.png", "--kind", "product").stdout
    assert "the nearest products" in shown


def test_many_pictures_have_a_row_each(home: Path, pictures: Path, tmp_path: Path) -> None:
    files = [save(tmp_path / f"{n}.png", product("circle-red", n, 320, 240)) for n in range(4)]
    done = run(
        home, *files, pictures / "receipt.png", tmp_path / "gone.png", save(tmp_path / "wall.png", np.full((90, 90, 3), 99, np.uint8))
    )
    assert done.exit_code == 2
    shown = done.stdout
    assert shown.count("circle-red") == 4
    assert all(text in shown for text in ("GREEN LEAF BAKERY", "13.14 GBP", "not read", "nothing"))
    assert "7 pictures: 1 receipts, 4 of products, 1 with nothing that is known, 1 not read" in " ".join(done.stderr.split())


def test_line_items_are_matched_where_asked(home: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embeddings.text.embed", lambda texts: np.ones((len(texts), 1), np.float32))  # spelling decides: torch is slow
    (found,) = objects(run(home, pictures / "receipt.png", "--products", home, "--business", "cafe", "--json"))
    assert {item["description"]: item["productId"] for item in found["receipt"]["lineItems"]}["Rye bread large"] == "p1"
    shown = run(home, pictures / "receipt.png", "--products", home / "warehouse", "--business", "cafe").stdout
    assert "p2 " in shown


# --- files ---


def test_a_bad_file_is_told_and_does_not_stop_the_others(home: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes((pictures / "receipt.png").read_bytes()[:900])
    bad = [tmp_path / "text.jpg", tmp_path / "empty.png", tmp_path / "cut.png", tmp_path / "gone.jpg"]
    done = run(home, *bad, pictures / "sub" / "product.jpg", "--json")
    assert done.exit_code == 2
    *problems, good = objects(done)
    assert [p["file"] for p in problems] == [str(b) for b in bad]
    assert [p["error"]["status"] for p in problems] == [415, 422, 422, 422]
    assert [p["error"].get("reason") for p in problems[1:3]] == ["empty", "truncated"]
    assert all(set(p) == {"file", "error"} and {"type", "title", "detail"} <= set(p["error"]) for p in problems)
    assert good["kind"] == "product"
    shown = run(home, tmp_path / "text.jpg")
    assert shown.exit_code == 2
    assert "must be a JPEG, PNG or WebP" in " ".join(shown.stderr.split())


def test_a_pipe_is_not_waited_for(home: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (found,) = objects(run(home, tmp_path / "pipe.jpg", "--json"))
    assert "is not a file" in found["error"]["detail"]


def test_files_folders_and_patterns_are_put_together_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.jpg", "a.PNG", "notes.txt", "sub/c.webp", ".hidden/d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert [str(p) for p in paths_of(["b.jpg", "*.jpg", ".", "gone.jpg"])] == ["b.jpg", "a.PNG", "sub/c.webp", "gone.jpg"]
    assert [str(p) for p in paths_of(["notes.txt"])] == ["notes.txt"], "a file that is named is opened whatever it is called"
    assert [str(p) for p in paths_of(["**/*.webp"])] == ["sub/c.webp"]
    (tmp_path / "odd[1].jpg").write_bytes(b"x")
    assert [str(p) for p in paths_of(["odd[1].jpg", "none*.jpg"])] == ["odd[1].jpg", "none*.jpg"]
    (tmp_path / "none").mkdir()
    with pytest.raises(ContractError, match="no pictures in none"):
        list(paths_of(["none"]))


def test_wrong_use_is_told(home: Path, pictures: Path, tmp_path: Path) -> None:
    file = pictures / "receipt.png"
    assert "must be one of auto" in str(run(home, file, "--kind", "bill").exception)
    assert isinstance(run(home, file, "--products", tmp_path).exception, ArtifactError)
    assert isinstance(run(home, file, "--products", home).exception, UnknownItem)
    assert "there are some of bar, cafe" in str(run(home, file, "--products", home, "--business", "zoo").exception)
    Warehouse(tmp_path / "warehouse").land("products", pa.table({"product_id": pa.array([], pa.string())}), "none")
    assert "has no products" in str(run(home, file, "--products", tmp_path).exception)
    (tmp_path / "taken").write_text("")
    assert isinstance(run(home, file, "--annotate", tmp_path / "taken").exception, ConfigError)
    assert run(home).exit_code == 2


def test_a_picture_that_cannot_be_written_is_that_picture_s_error(home: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "receipt.png.png").mkdir()
    done = run(home, pictures, "--annotate", tmp_path, "--json")
    assert done.exit_code == 2
    first, second = objects(done)
    assert "cannot write" in first["error"]["detail"]
    assert second["kind"] == "product"


def test_without_a_product_network_it_says_how_to_get_one(
    home: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vision.recognizer.shipped_folder", lambda: tmp_path / "nothing")
    shutil.copytree(home / "vision" / "ocr", tmp_path / "vision" / "ocr")
    done = run(tmp_path, pictures / "sub" / "product.jpg")
    assert done.exit_code == 0
    assert "regulars train products" in " ".join(done.stdout.split())


def test_an_error_s_line_has_nothing_of_a_request() -> None:
    found = module.as_dict(Looked("a.jpg", error=UnknownItem("no such thing.")))
    assert found == {
        "file": "a.jpg",
        "error": {"type": "https://regulars.invalid/problems/not-found", "title": "Not found", "status": 404, "detail": "no such thing."},
    }
