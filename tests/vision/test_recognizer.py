"""One look at a picture: what decides, what is read, what the answer looks like; text is read by the real networks."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from contracts.errors import ArtifactError, ConfigError, ContractError
from tests.vision import drawn
from tests.vision.by_colour import write_artifact
from tests.vision.products_drawn import picture as product
from vision import recognizer as module
from vision.engines import ocr_folder as home_ocr
from vision.matching import Product, ProductMatcher
from vision.ocr import LocalNetworks, PaddleOcr
from vision.products import LocalNetwork, ProductRecognizer, products_folder
from vision.recognizer import Recognizer, RecognizerSettings, Seen, open_recognizer, to_api
from vision.types import Box, DetectedProduct, LineItem, Picture, Receipt, TextLine
from vision.upload import open_picture

TODAY = date(2021, 9, 1)


def pictured(pixels: np.ndarray, scale: int = 1) -> Picture:
    return Picture(np.ascontiguousarray(pixels), "00" * 32, "PNG", scale)


def on_table(pixels: np.ndarray, colour: tuple[int, int, int], degrees: float = 6.0) -> np.ndarray:
    """A receipt on a table of a colour, turned a little."""
    height, width = pixels.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 0.8)
    return np.asarray(cv2.warpAffine(pixels, matrix, (width, height), borderValue=colour))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("products") / "artifact")


@pytest.fixture(scope="module")
def recognizer(networks: LocalNetworks, artifact: Path) -> Recognizer:
    return Recognizer(PaddleOcr(networks), ProductRecognizer(artifact), text_version="abc")


# --- what a picture shows ---


def test_a_receipt_is_read_and_not_looked_at_for_products(recognizer: Recognizer) -> None:
    seen = recognizer.look(pictured(drawn.receipt()), TODAY)
    assert seen.kind == "receipt"
    assert seen.receipt is not None
    assert (seen.receipt.total, seen.receipt.date, seen.receipt.currency) == (Decimal("13.14"), date(2021, 8, 23), "GBP")
    assert drawn.plain(seen.receipt.merchant or "") == "GREENLEAFBAKERY"
    assert {Decimal("4.85"), Decimal("1.99")} <= {item.amount for item in seen.receipt.items}
    assert seen.receipt_probability >= recognizer.settings.receipt_from
    assert "product_network" not in seen.stages_ms
    assert {"gate", "text_detect", "text_recognize", "parse", "total"} <= set(seen.stages_ms)
    assert seen.stages_ms["total"] >= sum(ms for name, ms in seen.stages_ms.items() if name != "total") * 0.99
    assert seen.model_version == "paddle-abc+products-products/test"
    assert seen.notes == ()


@pytest.mark.parametrize("colour", [(150, 90, 40), (30, 60, 160), (40, 40, 40)])
def test_a_receipt_on_a_table_is_a_receipt(recognizer: Recognizer, colour: tuple[int, int, int]) -> None:
    seen = recognizer.look(pictured(on_table(drawn.receipt(), colour)), TODAY)
    assert seen.kind == "receipt"
    assert seen.receipt is not None
    assert seen.receipt.total == Decimal("13.14")


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_receipt_on_its_side_or_head_is_a_receipt(recognizer: Recognizer, quarters: int) -> None:
    seen = recognizer.look(pictured(np.rot90(drawn.receipt(), quarters)), TODAY)
    assert seen.kind == "receipt"
    assert seen.receipt is not None
    assert seen.receipt.total == Decimal("13.14")


@pytest.mark.parametrize("seed", range(3))
def test_a_product_is_recognised_and_its_picture_not_read(recognizer: Recognizer, seed: int) -> None:
    seen = recognizer.look(pictured(product("circle-red", seed, 160, 120)), TODAY)
    assert (seen.kind, seen.products[0].name, seen.products[0].brand, seen.receipt) == ("product", "circle-red", "Acme", None)
    assert seen.known > 0.5
    assert seen.nearest[0][0] == "circle-red"
    assert not {name for name in seen.stages_ms if name.startswith("text_")}


def test_boxes_and_sizes_are_in_pixels_of_the_upload(recognizer: Recognizer) -> None:
    pixels = product("circle-red", 1, 160, 120)
    as_is, larger = recognizer.look(pictured(pixels), TODAY), recognizer.look(pictured(pixels, 2), TODAY)
    box = as_is.products[0].box
    assert (as_is.width, as_is.height, as_is.scale) == (160, 120, 1)
    assert (larger.width, larger.height, larger.scale) == (320, 240, 2)
    assert larger.products[0].box == Box(box.x * 2, box.y * 2, box.width * 2, box.height * 2)


def test_neither_is_nothing_and_a_note_says_so(recognizer: Recognizer) -> None:
    wall = np.full((120, 160, 3), 128, np.uint8)
    seen = recognizer.look(pictured(wall), TODAY)
    assert (seen.kind, seen.receipt, seen.products) == ("nothing", None, ())
    assert seen.notes == ("it shows neither a receipt nor a product that is known",)
    assert "text_detect" in seen.stages_ms, "a receipt may lie too small in the picture to be seen at a glance"


def test_text_that_is_no_receipt_is_nothing(recognizer: Recognizer) -> None:
    letter = ("Dear neighbour,", "we are happy to invite you", "to our summer party in the", "garden behind the house.", "See you there!")
    seen = recognizer.look(pictured(drawn.receipt(letter)), TODAY)
    assert seen.kind == "nothing"
    assert seen.notes[0].startswith("it has text, but not that of a receipt")


# --- what the caller knows ---


def test_what_the_caller_knows_is_not_found_out_again(recognizer: Recognizer) -> None:
    seen = recognizer.look(pictured(product("circle-red", 1, 160, 120)), TODAY, kind="product")
    assert seen.kind == "product"
    assert "gate" not in seen.stages_ms
    told = recognizer.look(pictured(drawn.receipt()), TODAY, kind="product")
    assert (told.kind, told.notes) == ("nothing", ("it shows no product that is known",))
    read = recognizer.look(pictured(drawn.receipt(("HELLO", "THERE"))), TODAY, kind="receipt")
    assert (read.kind, read.receipt_probability) == ("receipt", 1.0)
    assert read.receipt is not None
    assert "total: not found" in read.receipt.review
    blank = recognizer.look(pictured(np.full((80, 80, 3), 200, np.uint8)), TODAY, kind="receipt")
    assert (blank.kind, blank.notes) == ("nothing", ("no text was read in it",))
    with pytest.raises(ContractError, match="must be one of auto, receipt, product"):
        recognizer.look(pictured(drawn.receipt()), TODAY, kind="invoice")  # type: ignore[arg-type]


def test_line_items_get_their_products(recognizer: Recognizer) -> None:
    def embed(texts):  # every text alike: spelling decides
        return np.ones((len(texts), 1), np.float32)

    matcher = ProductMatcher([Product("p1", "Rye bread large"), Product("p2", "Shoe polish")], embed)
    seen = recognizer.look(pictured(drawn.receipt()), TODAY, matcher=matcher)
    assert seen.receipt is not None
    assert "p1" in {item.product_id for item in seen.receipt.items}
    assert "match" in seen.stages_ms


# --- what is missing ---


def test_without_a_product_network_receipts_are_read_all_the_same(networks: LocalNetworks) -> None:
    alone = Recognizer(PaddleOcr(networks), None)
    assert alone.look(pictured(drawn.receipt()), TODAY).kind == "receipt"
    for kind in ("auto", "product"):
        seen = alone.look(pictured(product("circle-red", 1, 160, 120)), TODAY, kind=kind)  # type: ignore[arg-type]
        assert seen.kind == "nothing"
        assert "regulars train products" in seen.notes[0]
    assert alone.version == "paddle"


class Reads:
    """An engine without a map of text: the look has nothing to go by, so both are done."""

    name = "told"

    def __init__(self, *rows: str) -> None:
        self.lines = [
            TextLine(((10.0, y), (10.0 + 11 * len(row), y), (10.0 + 11 * len(row), y + 18), (10.0, y + 18)), row, 0.97)
            for y, row in zip(range(10, 1000, 26), rows, strict=False)
        ]

    def read(self, pixels: np.ndarray) -> list[TextLine]:
        return self.lines


def test_with_another_engine_both_are_done_and_what_is_found_decides(artifact: Path) -> None:
    pixels = pictured(product("circle-red", 1, 160, 120))
    read = Recognizer(Reads(*drawn.ROWS), ProductRecognizer(artifact)).look(pixels, TODAY)
    assert (read.kind, read.products, read.receipt_probability) == ("receipt", (), 0.5)
    assert {"text", "product_network"} <= set(read.stages_ms)
    seen = Recognizer(Reads("FRESH JUICE", "1 L"), ProductRecognizer(artifact)).look(pixels, TODAY)
    assert (seen.kind, seen.receipt) == ("product", None)


def test_bounds_that_cross_are_refused(networks: LocalNetworks) -> None:
    with pytest.raises(ConfigError, match="must not be over receipt_from"):
        Recognizer(PaddleOcr(networks), None, RecognizerSettings.load(environ={}, receipt_from=0.4, product_below=0.6))


# --- opening one ---


@pytest.fixture
def home(ocr_folder: Path, tmp_path: Path) -> Path:
    """A home that can read text already."""
    shutil.copytree(ocr_folder, home_ocr(tmp_path))
    return tmp_path


def test_a_home_is_set_up_once_also_by_two_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "shipped_folder", lambda: tmp_path / "none")
    found: list[Recognizer] = []
    threads = [threading.Thread(target=lambda: found.append(open_recognizer(tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0].version == found[1].version
    assert found[0].version.startswith("paddle-")
    assert found[0].products is None
    made = (home_ocr(tmp_path) / "model.json").stat().st_mtime_ns
    assert found[0].look(pictured(drawn.receipt()), TODAY).kind == "receipt"
    open_recognizer(tmp_path)
    assert (home_ocr(tmp_path) / "model.json").stat().st_mtime_ns == made


def test_the_home_s_own_product_network_wins_over_the_one_that_is_shipped(
    home: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = home / "shipped"
    monkeypatch.setattr(module, "shipped_folder", lambda: shipped)
    assert open_recognizer(home).products is None
    shutil.copytree(artifact, shipped)
    assert open_recognizer(home).products is not None
    shutil.copytree(artifact, products_folder(home))
    opened: list[Path] = []
    recognizer = open_recognizer(home, product_network=lambda folder: opened.append(folder) or LocalNetwork(folder, 1))
    assert opened == [products_folder(home)]
    assert recognizer.look(pictured(product("circle-blue", 1, 160, 120)), TODAY).products[0].name == "circle-blue"
    (products_folder(home) / "means.npz").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="another checksum"):
        open_recognizer(home)


def test_products_that_a_business_taught_are_known_to_it(home: Path, artifact: Path) -> None:
    shutil.copytree(artifact, products_folder(home))
    first = open_recognizer(home)
    assert first.products is not None
    assert first.products.catalogue is not None
    first.products.catalogue.teach("cafe", "p9", "Yellow box", "Sol", [product("square-yellow", 4)])
    other = open_recognizer(home)  # another process, later
    best = other.look(pictured(product("square-yellow", 5)), TODAY, "cafe").products[0]
    assert (best.name, best.product_id, best.source) == ("Yellow box", "p9", "catalogue")
    assert other.look(pictured(product("square-yellow", 5)), TODAY).products == ()


def test_a_home_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="home that can be written to"):
        open_recognizer(tmp_path / "file")


# --- the answer ---

RECEIPT = Receipt(
    merchant="Green Leaf Bakery", date=date(2021, 8, 23), total=Decimal("13.14"), currency="GBP", tax=Decimal("0.60"),
    items=(LineItem("Rye bread", Decimal("4.00"), Decimal(2), Decimal("2.00"), 0.91234567, "p1", 0.8),),
    confidences={"merchant": 0.97, "date": 0.99, "total": 0.98765432, "items": 0.9}, reconciled=True, review=("merchant: not found",),
)  # fmt: skip


def test_the_answer_of_a_receipt() -> None:
    seen = Seen("receipt", 640, 480, receipt=RECEIPT, model_version="v", stages_ms={"gate": 1.0, "total": 211.6})
    assert json.loads(json.dumps(to_api(seen))) == {
        "kind": "receipt", "picture": {"width": 640, "height": 480}, "detectedObjects": [], "isReceiptDetected": True,
        "receipt": {
            "merchant": "Green Leaf Bakery", "date": "2021-08-23", "total": 13.14, "currency": "GBP", "subtotal": None, "tax": 0.6,
            "discount": None, "rounding": None, "cash": None, "change": None,
            "lineItems": [
                {"description": "Rye bread", "quantity": 2, "unitPrice": 2, "amount": 4, "productId": "p1", "confidence": 0.9123},
            ],
            "confidences": {"merchant": 0.97, "date": 0.99, "total": 0.9877, "lineItems": 0.9},
            "reconciled": True, "review": ["merchant: not found"],
        },
        "notes": [], "modelVersion": "v", "latency": 212,
    }  # fmt: skip


def test_the_answer_of_a_product_and_of_nothing() -> None:
    found = DetectedProduct("Oat milk", "Acme", 0.94321, Box(120, 340, 200, 280), "classifier", "Milk")
    taught = DetectedProduct("Cup", "", 0.5, Box(0, 0, 1, 1), "catalogue", "", "p9")
    answer = to_api(Seen("product", 640, 480, products=(found, taught), model_version="v", stages_ms={"total": 61.0}))
    assert answer["detectedObjects"] == [
        {"object": "Oat milk", "brand": "Acme", "group": "Milk", "productId": None, "source": "classifier", "confidence": 0.9432,
         "boundingBox": {"x": 120, "y": 340, "width": 200, "height": 280}},
        {"object": "Cup", "brand": None, "group": None, "productId": "p9", "source": "catalogue", "confidence": 0.5,
         "boundingBox": {"x": 0, "y": 0, "width": 1, "height": 1}},
    ]  # fmt: skip
    assert (answer["isReceiptDetected"], answer["receipt"], answer["latency"]) == (False, None, 61)
    nothing = to_api(Seen("nothing", 640, 480, notes=("why",)))
    assert (nothing["kind"], nothing["detectedObjects"], nothing["receipt"], nothing["notes"]) == ("nothing", [], None, ["why"])


def test_what_could_not_be_read_is_null() -> None:
    answer = to_api(Seen("receipt", 1, 1, receipt=replace(Receipt(), review=("total: not found",))))["receipt"]
    assert (answer["merchant"], answer["date"], answer["total"], answer["lineItems"]) == (None, None, None, [])


# --- real pictures ---


@pytest.mark.realdata
def test_real_receipts_and_products_are_told_apart(networks: LocalNetworks, realdata: Path, tmp_path: Path) -> None:
    """Against a network that takes everything for a product it knows, so that the picture and its text decide alone."""
    recognizer = Recognizer(PaddleOcr(networks), ProductRecognizer(write_artifact(tmp_path / "all", known_from=-2.0)))
    receipts = sorted((realdata / "receipts_sroie" / "images").glob("*.jpg"))[::25]
    rows = pq.read_table(realdata / "grocery_products" / "labels.parquet").to_pylist()
    products = [realdata / "grocery_products" / r["file"] for r in rows if r["split"] == "val"][::30]
    assert (len(receipts), len(products)) == (6, 10)
    told = {p.name: recognizer.look(open_picture(p.read_bytes()), date(2019, 6, 1)).kind for p in [*receipts, *products]}
    assert [told[p.name] for p in receipts] == ["receipt"] * 6
    assert [told[p.name] for p in products] == ["product"] * 10
