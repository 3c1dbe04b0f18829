"""How receipts are scored."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from scipy.stats import binomtest

from contracts.errors import ContractError
from vision.evaluate import Truth, normalize_company, normalize_date, normalize_total, right, score_receipts, wilson
from vision.types import Receipt

RECEIPT = Receipt("Mr. D.Y.I. (M) Sdn Bhd", date(2018, 3, 5), Decimal("12.5"), confidences={"merchant": 0.95, "date": 0.95, "total": 0.5})
TRUTH = Truth("MR D.Y.I (M) SDN. BHD.", "05/03/2018", "RM 12.50")


def test_case_marks_and_blanks_of_a_company_do_not_count_and_letters_do() -> None:
    assert normalize_company("Café  L'Été S/B") == normalize_company("CAFE LETE SB") == "CAFELETESB"
    assert normalize_company("RSTORAN") != normalize_company("RESTORAN")


@pytest.mark.parametrize(
    ("text", "value"),
    [("RM 1,234.50", "1234.50"), ("$8.20", "8.20"), ("1.234,50", "1234.50"), ("-1.73", "-1.73"), ("76", "76.00"), (".50", "0.50")],
)
def test_totals_as_annotated(text: str, value: str) -> None:
    assert normalize_total(text) == Decimal(value)


@pytest.mark.parametrize(
    ("text", "day"), [("23/12/17", "2017-12-23"), ("20180428", "2018-04-28"), ("15 APR 2018", "2018-04-15"), ("OCT 3, 2016", "2016-10-03")]
)
def test_dates_as_annotated(text: str, day: str) -> None:
    assert str(normalize_date(text)) == day


def test_what_is_neither_is_refused() -> None:
    with pytest.raises(ContractError, match="holds no number"):
        normalize_total("RM")
    with pytest.raises(ContractError, match="is not one"):
        normalize_date("yesterday")
    with pytest.raises(ContractError, match="no annotated receipts"):
        score_receipts({}, {})


def test_each_field_is_right_wrong_or_not_annotated() -> None:
    assert [right(f, RECEIPT, TRUTH) for f in ("merchant", "date", "total")] == [True, True, True]
    assert right("total", RECEIPT, Truth(None, None, "12.51")) is False
    assert right("merchant", RECEIPT, Truth(None, None, "12.50")) is None
    assert right("date", Receipt(), TRUTH) is False


def test_scores_count_what_was_sure_and_wrong() -> None:
    wrong = Receipt("OTHER", date(2018, 3, 5), Decimal("99"), confidences={"merchant": 0.95, "date": 0.2, "total": 0.97})
    scores = score_receipts({"a": RECEIPT, "b": wrong}, {"a": TRUTH, "b": TRUTH, "c": TRUTH})
    assert (scores["merchant"].right, scores["merchant"].n, scores["merchant"].sure, scores["merchant"].sure_wrong) == (1, 3, 2, 1)
    assert (scores["total"].sure, scores["total"].sure_wrong, scores["total"].sure_wrong_share) == (1, 1, 1.0)
    assert scores["date"].rate == pytest.approx(2 / 3)


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (3, 7), (50, 50), (140, 150)])
def test_intervals_are_those_of_another_implementation(hits: int, n: int) -> None:
    other = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((other.low, other.high), abs=1e-4)


def test_without_receipts_nothing_is_known() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
