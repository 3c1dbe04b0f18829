"""Receipts by regular expressions, and pictures enlarged for an engine."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import numpy as np
import pytest

from tests.vision.receipts import lines_of
from vision.baselines import Enlarged, read_by_regex
from vision.types import TextLine

PAGE = """
          TAX INVOICE
BLUE HERON MART SDN BHD (1234567-X)
NO 12, JALAN KENANGA 3/4
TEL 03-1234 5678
DATE: 14/02/2018 10:33
KAYA TOAST          4.00
TEH O               2.50
SUB TOTAL           6.50
TOTAL GST 6%        0.39
TOTAL (INCL GST)    6.90
CASH               10.00
CHANGE              3.10
"""


def read(text):
    """Each row of the page a piece, as tesseract gives them."""
    return read_by_regex(lines_of(text, gap=40))


def test_company_date_and_total_of_a_plain_page():
    found = read(PAGE)
    assert (found.merchant, found.date, found.total) == ("BLUE HERON MART SDN BHD", date(2018, 2, 14), Decimal("6.90"))
    assert found.confidences == {}


@pytest.mark.parametrize(
    ("row", "day"),
    [
        ("2018-03-25", "2018-03-25"), ("25.03.18", "2018-03-25"), ("03/25/2018", "2018-03-25"), ("25 Mar 2018", "2018-03-25"),
        ("25-MAR-18", "2018-03-25"), ("March 25, 2018", "2018-03-25"), ("31/02/2018", None), ("1234567", None),
    ],
)  # fmt: skip
def test_dates_in_many_forms(row, day):
    found = read_by_regex(lines_of(row, gap=40)).date
    assert (str(found) if found else None) == day


def test_a_date_that_says_so_goes_before_another():
    assert read("PRINTED 01/01/2019\nDATE 25/03/2018").date == date(2018, 3, 25)


@pytest.mark.parametrize(
    ("rows", "total"),
    [
        ("TOTAL 12.00\nROUNDING 0.01\nGRAND TOTAL 12.01", "12.01"),
        ("TOTAL\n1,234.50", "1234.50"),
        ("TOTAL QTY 3.00\nTOTAL 7.20", "7.20"),
        ("TEA 3,50\nCAKE 4,10\nCASH 10,00", "4.10"),
        ("THANK YOU", None),
    ],
)
def test_totals_by_label_and_else_the_largest_amount(rows, total):
    found = read(rows).total
    assert (str(found) if found is not None else None) == total


def test_a_name_over_two_rows_is_one_and_without_a_legal_form_the_first_name_counts():
    assert read("POPULAR BOOK\nCO. (M) SDN BHD (123456-X)").merchant == "POPULAR BOOK CO. (M) SDN BHD"
    assert read("INVOICE\nTHE COPPER KETTLE\nYORK").merchant == "THE COPPER KETTLE"
    assert read("12345").merchant is None


class Sized:
    """Says how large a picture it was given, with a box as large as it."""

    name = "sized"

    def read(self, pixels):
        height, width = pixels.shape[:2]
        return [TextLine(((0, 0), (width, 0), (width, height), (0, height)), f"{width}x{height}", 1.0)]


@pytest.mark.parametrize(("size", "seen"), [((100, 60), "200x120"), ((1500, 60), "1500x60")])
def test_small_pictures_are_read_enlarged_and_boxes_are_those_of_the_picture(size, seen):
    engine = Enlarged(Sized())
    line = engine.read(np.zeros((size[1], size[0], 3), np.uint8))[0]
    assert (engine.name, line.text, line.quad[2]) == ("sized", seen, size)
