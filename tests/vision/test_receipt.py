"""Whole receipts: many countries' forms, turned and shaken pages, misread letters, hostile text, and real ones where they are at hand."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.errors import ConfigError, ShapeError, TooLarge
from tests.vision.receipts import RECEIPTS, MadeUp, lines_of
from vision.evaluate import Truth, score_receipts
from vision.receipt import ReceiptSettings, read_receipt
from vision.types import Receipt, TextLine

AS_OF = date(2025, 1, 1)
BY_NAME = {r.name: r for r in RECEIPTS}


def _check(receipt: Receipt, made_up: MadeUp) -> None:
    assert receipt.merchant == made_up.merchant
    assert str(receipt.date) == made_up.date
    assert receipt.total == Decimal(made_up.total or "0")
    assert receipt.currency == made_up.currency
    for name, value in made_up.more.items():
        assert getattr(receipt, name) == Decimal(value or "0"), name
    if made_up.items:
        read = [(i.description.upper(), i.quantity, i.amount) for i in receipt.items]
        assert read == [(d.upper(), Decimal(q), Decimal(a)) for d, q, a in made_up.items]
    assert receipt.reconciled is made_up.reconciled


@pytest.mark.parametrize("made_up", [r for r in RECEIPTS if r.total], ids=lambda r: r.name)
def test_reads_made_up_receipts(made_up: MadeUp) -> None:
    _check(read_receipt(lines_of(made_up.text), AS_OF), made_up)


@pytest.mark.parametrize("name", ["malaysian shop", "german supermarket", "american restaurant with a tip", "petrol"])
@pytest.mark.parametrize("degrees", [-9.0, 3.0, 12.0, 95.0, 180.0, 266.0])
def test_a_turned_and_shaken_page_reads_the_same(name: str, degrees: float) -> None:
    made_up = BY_NAME[name]
    _check(read_receipt(lines_of(made_up.text, degrees=degrees, jitter_px=2.0, seed=3, shuffle=True), AS_OF), made_up)


@pytest.mark.parametrize("name", ["malaysian shop", "tax added", "description above code and amount"])
def test_the_order_of_pieces_does_not_matter(name: str) -> None:
    lines = lines_of(BY_NAME[name].text)
    assert replace(read_receipt(lines[::-1], AS_OF), lines=()) == replace(read_receipt(lines, AS_OF), lines=())


def test_misread_letters_are_seen_through() -> None:
    text = BY_NAME["malaysian shop"].text
    worse = (
        text.replace("TOTAL       ", "T0TAI       ")
        .replace("110.00", "11O.OO")
        .replace("05/03/2018", "O5/03/2O18")
        .replace("CHANGE", "CHANCE")
    )
    receipt = read_receipt(lines_of(worse), AS_OF)
    assert (receipt.total, receipt.cash, receipt.date) == (Decimal("102.50"), Decimal("110.00"), date(2018, 3, 5))


def test_words_without_blanks_are_read() -> None:
    text = (
        BY_NAME["quantity below"]
        .text.replace("TOTAL SALES (INCLUSIVE GST) RM", "TOTALSALES(INCLUSIVEGST)RM")
        .replace("22-11-17", "22-11-1709:28")
    )
    receipt = read_receipt(lines_of(text), AS_OF)
    assert (receipt.total, receipt.date) == (Decimal("57.10"), date(2017, 11, 22))


def test_one_misread_digit_of_the_total_is_repaired_by_arithmetic() -> None:
    text = BY_NAME["malaysian shop"].text.replace("TOTAL                           102.50", "TOTAL                           102.60")
    text = "\n".join(row for row in text.split("\n") if not row.startswith(("SUB-TOTAL", "RICE", "PAPER")))
    receipt = read_receipt(lines_of(text), AS_OF)
    assert (receipt.total, receipt.reconciled) == (Decimal("102.50"), True)
    assert any("corrected" in reason for reason in receipt.review)
    whole = read_receipt(lines_of(BY_NAME["malaysian shop"].text), AS_OF)
    assert receipt.confidences["total"] < whole.confidences["total"]


def test_sums_that_contradict_lower_confidence_and_go_to_review() -> None:
    receipt = read_receipt(lines_of(BY_NAME["sums contradict"].text), AS_OF)
    agreed = read_receipt(lines_of(BY_NAME["sums contradict"].text.replace("93.70", " 8.00")), AS_OF)
    assert agreed.reconciled is True
    assert receipt.reconciled is False
    assert receipt.confidences["total"] < 0.7 < agreed.confidences["total"]
    assert "total: the page's sums contradict it" in receipt.review


def test_boxes_are_those_of_the_pieces_a_field_was_read_from() -> None:
    lines = lines_of(BY_NAME["malaysian shop"].text, degrees=4.0)
    receipt = read_receipt(lines, AS_OF)
    by_quad = {line.quad: line.text for line in lines}
    assert [by_quad[q] for q in receipt.boxes["total"]] == ["102.50"]
    assert [by_quad[q] for q in receipt.boxes["merchant"]] == ["BLUE HERON MART SDN BHD"]
    assert [by_quad[q] for q in receipt.boxes["date"]] == ["DATE: 05/03/2018"]
    assert "RICE COOKER" in {by_quad[q] for q in receipt.boxes["items"]}
    assert all(quad in by_quad for quads in receipt.boxes.values() for quad in quads)


def test_nothing_on_the_page_is_a_receipt_with_reasons() -> None:
    receipt = read_receipt([], AS_OF)
    assert (receipt.merchant, receipt.date, receipt.total, receipt.currency, receipt.items) == (None, None, None, None, ())
    assert set(receipt.review) == {"merchant: not found", "date: not found", "total: not found"}


def test_a_date_after_the_day_of_upload_goes_to_review() -> None:
    receipt = read_receipt(lines_of(BY_NAME["tax added"].text), date(2023, 1, 1))
    assert any(reason.startswith("date: 2024-02-29 is after") for reason in receipt.review)


def test_a_large_total_goes_to_review_where_a_bound_is_set() -> None:
    lines = lines_of(BY_NAME["german thousands"].text)
    bound = ReceiptSettings.load(environ={}, review_largest=Decimal(500))
    assert any("above 500" in reason for reason in read_receipt(lines, AS_OF, bound).review)
    assert not any("above" in reason for reason in read_receipt(lines, AS_OF).review)


def test_settings_refuse_what_is_no_probability() -> None:
    with pytest.raises(ConfigError, match="review_below"):
        ReceiptSettings.load(environ={}, review_below=1.5)


def test_a_poorly_read_page_is_less_sure_of_itself() -> None:
    text = "BLUE HERON MART SDN BHD\nDATE: 05/03/2018\nTOTAL  12.50"
    sharp, poor = (read_receipt(lines_of(text, confidence=c), AS_OF) for c in (0.99, 0.55))
    for name in ("merchant", "date", "total"):
        assert poor.confidences[name] < sharp.confidences[name]


def test_too_many_pieces_are_refused() -> None:
    line = lines_of("A")[0]
    with pytest.raises(TooLarge, match="at most 3000"):
        read_receipt([line] * 3001)


@pytest.mark.parametrize("quad", [((0.0, 0.0), (1.0, 0.0), (1.0, 1.0)), ((0.0, 0.0), (1.0, 0.0), (1.0, float("nan")), (0.0, 1.0))])
def test_a_place_that_is_no_quadrilateral_is_refused(quad: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ShapeError, match="four finite"):
        read_receipt([TextLine(quad, "TOTAL 1.00", 1.0)])  # type: ignore[arg-type]


_AMOUNTS = st.integers(5, 19999).map(lambda cents: Decimal(cents) / 100)
_WORDS = st.sampled_from(
    ["WALNUT BREAD", "GREEN TEA", "SOAP BAR", "BLUE PEN", "LAMP OIL", "RICE BAG", "CANDLE", "NOODLES", "TOWEL", "HONEY JAR"]
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    items=st.lists(st.tuples(_WORDS, st.integers(1, 9), _AMOUNTS), min_size=1, max_size=8),
    tax_percent=st.sampled_from([0, 6, 19]),
    day=st.dates(date(2005, 1, 1), date(2024, 12, 31)),
    degrees=st.floats(-12, 12),
    seed=st.integers(0, 999),
)
def test_what_is_printed_is_read_back(
    items: list[tuple[str, int, Decimal]], tax_percent: int, day: date, degrees: float, seed: int
) -> None:
    subtotal = sum((q * p for _, q, p in items), Decimal(0))
    tax = (subtotal * tax_percent / 100).quantize(Decimal("0.01"))
    total = subtotal + tax
    cash = (total // 50 + 1) * 50
    rows = ["SILVER BIRCH STORES LTD", "12 Mill Lane", f"DATE {day:%d %b %Y}  10:22", "ITEM                QTY      PRICE      AMOUNT"]
    rows += [f"{name:<18}{q:>4}{p:>12.2f}{q * p:>12.2f}" for name, q, p in items]
    rows += [f"{'SUBTOTAL':<30}{subtotal:>16.2f}"]
    if tax:
        rows += [f"{'VAT ' + str(tax_percent) + '%':<30}{tax:>16.2f}"]
    rows += [f"{'TOTAL':<30}{total:>16.2f}", f"{'CASH':<30}{cash:>16.2f}", f"{'CHANGE':<30}{cash - total:>16.2f}"]
    receipt = read_receipt(lines_of("\n".join(rows), degrees=degrees, jitter_px=1.5, seed=seed, shuffle=True), AS_OF)
    assert (receipt.merchant, receipt.date, receipt.total) == ("SILVER BIRCH STORES LTD", day, total)
    assert receipt.reconciled is True
    assert [(i.description, i.amount) for i in receipt.items] == [(name, q * p) for name, q, p in items]
    assert sum((i.quantity * (i.unit_price or Decimal(0)) for i in receipt.items), Decimal(0)) == subtotal


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="TOTAL0123456789.,-/: RM$€()xX@%SCGABDEIN年\u0660٣²½", max_size=60), max_size=25))
def test_no_text_breaks_the_parser(texts: list[str]) -> None:
    lines = [
        line
        for n, text in enumerate(texts)
        for line in [TextLine(((0.0, n * 20.0), (90.0, n * 20.0), (90.0, n * 20 + 15.0), (0.0, n * 20 + 15.0)), text, 0.9)]
    ]
    receipt = read_receipt(lines, AS_OF)
    assert all(0.0 <= c <= 1.0 for c in receipt.confidences.values())


@pytest.mark.parametrize(
    "text", ["SR" * 5000, "1." * 5000, "TOTAL" * 3000, "(" * 9000, "12/" * 3000, "1 X " * 3000, "- " * 4000, "A.B" * 3000]
)
def test_long_hostile_text_does_not_keep_the_parser_busy(text: str) -> None:
    began = time.process_time()
    read_receipt([TextLine(((0.0, n * 20.0), (90.0, n * 20.0), (90.0, n * 20 + 15.0), (0.0, n * 20 + 15.0)), text, 0.9) for n in range(20)])
    assert time.process_time() - began < 20  # exponential patterns would take years; a slow machine takes a second


@pytest.mark.realdata
def test_real_receipts_from_their_annotated_text(realdata: Path) -> None:
    """A sample of the scanned receipts, from the text that a person annotated; the floor is well under what was measured."""
    folder = realdata / "receipts_sroie"
    keys = pq.read_table(folder / "keys.parquet").to_pylist()[:60]
    boxes: dict[str, list[TextLine]] = {key["receipt_id"]: [] for key in keys}
    for box in pq.read_table(folder / "text_boxes.parquet").to_pylist():
        if box["receipt_id"] in boxes:
            a, b, c, d = (float(box[n]) for n in ("x_min", "y_min", "x_max", "y_max"))
            boxes[box["receipt_id"]].append(TextLine(((a, b), (c, b), (c, d), (a, d)), box["text"], 0.98))
    truths = {key["receipt_id"]: Truth(key["company"], key["date"], key["total"]) for key in keys}
    scores = score_receipts({key: read_receipt(lines, date(2019, 6, 1)) for key, lines in boxes.items()}, truths)
    assert scores["total"].rate >= 0.92
    assert scores["date"].rate >= 0.93
    assert scores["merchant"].rate >= 0.82
    assert np.isclose(scores["total"].rate, scores["total"].right / 60)
