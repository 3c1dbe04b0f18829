"""Pictures with what was seen in them: sizes, places, colours, texts of every length."""

from __future__ import annotations

import io
from datetime import date
from decimal import Decimal

import numpy as np
import pytest
from PIL import Image

from contracts.errors import ShapeError
from vision import annotate as module
from vision.annotate import COLOURS, LONGEST_PX, SHORTEST_PX, annotate
from vision.recognizer import Seen
from vision.types import Box, DetectedProduct, LineItem, Picture, Receipt

RECEIPT = Receipt(
    merchant="Green Leaf Bakery", date=date(2021, 8, 23), total=Decimal("13.14"), currency="GBP",
    items=(LineItem("Rye bread " * 20, Decimal("4.00"), confidence=0.9), LineItem("x" * 300, Decimal("9.14"), confidence=0.2)),
    confidences={"merchant": 0.97, "total": 0.99},
    boxes={"total": (((200.0, 300.0), (300.0, 300.0), (300.0, 320.0), (200.0, 320.0)),), "items": ()}, review=("date: not found",),
)  # fmt: skip


def pictured(width: int = 800, height: int = 1000, shade: int = 128, scale: int = 1) -> Picture:
    return Picture(np.full((height, width, 3), shade, np.uint8), "", "PNG", scale)


def opened(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    assert (image.format, image.mode) == ("PNG", "RGB")
    return np.asarray(image)


def near(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (np.abs(pixels.astype(int) - colour) < 12).all(-1)


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_a_field_is_outlined_where_it_stands_and_told_beside_the_picture(shade: int) -> None:
    pixels = opened(annotate(pictured(shade=shade), Seen("receipt", 800, 1000, receipt=RECEIPT)))
    assert pixels.shape[0] >= 1000
    assert pixels.shape[1] > 800
    drawn = np.argwhere(near(pixels[:, :800], COLOURS["total"]))
    assert drawn.min(0) == pytest.approx((300, 200), abs=6)
    assert drawn.max(0) == pytest.approx((320, 300), abs=6)
    assert (pixels[300:320, 200:300] == shade).all(), "the print itself is not drawn over"
    panel = pixels[:, 800:]
    assert near(panel, COLOURS["total"]).any(), "the panel has a key of the colour"
    assert near(panel, module._BRIGHT).any()


def test_a_product_is_boxed_and_named() -> None:
    seen = Seen(
        "product", 1600, 1200, products=(DetectedProduct("Oat milk", "Acme", 0.94, Box(400, 600, 200, 300), "classifier"),), scale=2
    )
    pixels = opened(annotate(pictured(800, 600, 255, 2), seen))
    assert pixels.shape == (600, 800, 3)
    drawn = np.argwhere(near(pixels, module._PRODUCT))
    assert drawn[:, 0].max() == pytest.approx(450, abs=4)
    assert drawn[:, 1].min() == pytest.approx(200, abs=4)
    plate = near(pixels, module._PANEL)
    assert plate[260:300].any(), "the name stands above the box"
    assert not plate[310:440, 210:290].any()


@pytest.mark.parametrize("box", [Box(0, 0, 300, 300), Box(290, 0, 10, 10), Box(0, 290, 300, 10), Box(-40, -40, 400, 400)])
def test_names_stay_inside_the_picture(box: Box) -> None:
    seen = Seen("product", 300, 300, products=(DetectedProduct("a very long name " * 9, "of a brand", 0.5, box, "catalogue"),))
    pixels = opened(annotate(pictured(300, 300, 255), seen))
    assert pixels.shape == (SHORTEST_PX, SHORTEST_PX, 3)
    assert near(pixels, module._PANEL).any()


def test_sizes_are_brought_into_bounds() -> None:
    seen = Seen("nothing", 4000, 100, notes=("nothing is known of it",))
    assert opened(annotate(pictured(4000, 100), seen)).shape[1] > LONGEST_PX
    tiny = Seen("nothing", 32, 32, notes=("why",))
    assert opened(annotate(pictured(32, 32), tiny)).shape[0] == SHORTEST_PX
    assert opened(annotate(pictured(32, 32), Seen("product", 32, 32))).shape[:2] == (SHORTEST_PX, SHORTEST_PX)


def test_a_receipt_of_which_nothing_was_read_says_so() -> None:
    seen = Seen("receipt", 400, 400, receipt=Receipt())
    assert [line.text for line in module._lines(seen)] == ["RECEIPT", "merchant: not found", "date: not found", "total: not found"]


def test_long_texts_are_cut_into_rows_that_fit() -> None:
    font = module._font(20)
    rows = list(module._wrapped(module._Line("several words that do not fit " + "x" * 200, (1, 2, 3)), font, 200))
    assert len(rows) > 2
    assert all(font.getlength(row.text) <= 200 for row in rows)
    assert [row.colour for row in rows] == [(1, 2, 3)] + [None] * (len(rows) - 1)


def test_another_picture_is_refused() -> None:
    with pytest.raises(ShapeError, match="the picture has 800 x 1000"):
        annotate(pictured(), Seen("nothing", 640, 480))
