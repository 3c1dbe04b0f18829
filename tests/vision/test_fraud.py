"""Award, review or refuse."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import ContractError
from vision.fingerprint import Likeness
from vision.fraud import CODES, Earlier, Judgement, PointsSettings, judge, points
from vision.types import Receipt

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SURE = {"merchant": 0.97, "date": 0.99, "total": 0.99}
GOOD = Receipt(merchant="Corner Cafe", date=date(2026, 11, 18), total=Decimal("12.40"), currency="EUR", confidences=SURE, reconciled=True)
RULES = PointsSettings()


def said(judgement: Judgement) -> list[tuple[str, str]]:
    return [(f.code, f.verdict) for f in judgement.flags]


def test_a_good_receipt_is_awarded() -> None:
    assert judge(GOOD, NOW, settings=RULES) == Judgement("award", 12)


@pytest.mark.parametrize(
    ("change", "code", "verdict"),
    [
        ({"date": date(2026, 11, 22)}, "future", "refuse"),
        ({"date": date(2026, 10, 20)}, "too_old", "refuse"),
        ({"date": date(2026, 10, 20), "confidences": SURE | {"date": 0.5}}, "too_old", "review"),
        ({"total": Decimal("0.00")}, "amount", "refuse"),
        ({"total": Decimal("-3.00")}, "amount", "refuse"),
        ({"total": Decimal("501")}, "amount", "review"),
        ({"total": Decimal("5001")}, "amount", "refuse"),
        ({"reconciled": False}, "arithmetic", "review"),
        ({"total": None}, "unreadable", "review"),
        ({"date": None}, "unreadable", "review"),
        ({"confidences": SURE | {"total": 0.89}}, "unsure", "review"),
        ({"confidences": {}}, "unsure", "review"),
        ({"review": ("two totals",)}, "reading", "review"),
    ],
)
def test_each_doubt_is_flagged(change: dict[str, object], code: str, verdict: str) -> None:
    found = judge(replace(GOOD, **change), NOW, settings=RULES)  # type: ignore[arg-type]
    assert (code, verdict) in said(found)
    assert found.decision == verdict
    assert all(f.code in CODES and f.reason.endswith((".", "totals")) for f in found.flags)


@pytest.mark.parametrize("day", [date(2026, 11, 21), date(2026, 11, 20), date(2026, 10, 21)])
def test_dates_at_the_bounds_pass(day: date) -> None:
    assert judge(replace(GOOD, date=day), NOW, settings=RULES).decision == "award"


def test_only_accepted_currencies() -> None:
    rules = PointsSettings(currencies=("CHF", "USD"))
    assert said(judge(GOOD, NOW, settings=rules)) == [("currency", "refuse")]
    assert judge(replace(GOOD, currency="CHF"), NOW, settings=rules).decision == "award"
    assert judge(replace(GOOD, currency=None), NOW, settings=rules).decision == "award"


@pytest.mark.parametrize(
    ("merchant", "sureness", "decision"),
    [
        ("CORNER CAFE", 0.97, "award"),
        ("Corner  Cafe.", 0.97, "award"),
        ("C0RNER CAFE", 0.97, "award"),
        ("Other Bakery", 0.97, "refuse"),
        ("Other Bakery", 0.4, "review"),
        (None, 0.0, "review"),
    ],
)
def test_only_partners_where_a_list_is_set(merchant: str | None, sureness: float, decision: str) -> None:
    rules = PointsSettings(partners=("Corner Cafe", "Third Place"))
    receipt = replace(GOOD, merchant=merchant, confidences=SURE | {"merchant": sureness})
    assert judge(receipt, NOW, settings=rules).decision == decision


def test_many_in_a_day_or_a_week_go_to_a_person() -> None:
    rules = PointsSettings(per_day=2, per_week=4)
    hours = [NOW - timedelta(hours=h) for h in (1, 5)]
    assert judge(GOOD, NOW, hours[:1], settings=rules).decision == "award"
    assert said(judge(GOOD, NOW, hours, settings=rules)) == [("velocity", "review")]
    days = [NOW - timedelta(days=d, hours=1) for d in (1, 2, 3, 5)]
    assert said(judge(GOOD, NOW, days, settings=rules)) == [("velocity", "review")]
    assert judge(GOOD, NOW, [NOW - timedelta(days=8)] * 9, settings=rules).decision == "award"


@pytest.mark.parametrize(
    ("likeness", "decision"),
    [
        (Likeness(1.0, "file", ("it is the same file",)), "refuse"),
        (Likeness(0.95, "text", ("the same date, 2026-11-18",)), "refuse"),
        (Likeness(0.7, "text"), "review"),
        (Likeness(0.99, "picture"), "review"),
        (Likeness(0.3, "text"), "award"),
    ],
)
def test_the_same_receipt_is_not_awarded_again(likeness: Likeness, decision: str) -> None:
    found = judge(GOOD, NOW, earlier=[Earlier("r-1", likeness, own=False)], settings=RULES)
    assert found.decision == decision
    assert (found.points == 0) == (decision == "refuse")
    if decision != "award":
        assert found.flags[0].code == "same_receipt"
        assert "r-1 of another customer" in found.flags[0].reason


def test_the_gravest_comes_first_and_all_are_told() -> None:
    receipt = replace(GOOD, reconciled=False, date=date(2027, 1, 1))
    found = judge(receipt, NOW, earlier=[Earlier("r-1", Likeness(0.6, "text"), own=True)], settings=RULES)
    assert said(found) == [("future", "refuse"), ("arithmetic", "review"), ("same_receipt", "review")]


def test_points_are_within_bounds_and_rounded_down() -> None:
    rules = PointsSettings(per_unit=Decimal("2.5"), minimum=5, maximum=100)
    assert points(Decimal("3.99"), rules) == 9
    assert points(Decimal("0.10"), rules) == 5
    assert points(Decimal("4000"), rules) == 100
    assert points(None, rules) == points(Decimal(0), rules) == points(Decimal(-5), rules) == 0


@given(st.decimals(0, 10_000, places=2), st.decimals(0, 10_000, places=2))
def test_more_is_never_worth_less(a: Decimal, b: Decimal) -> None:
    low, high = sorted((a, b))
    assert points(low, RULES) <= points(high, RULES) <= RULES.maximum


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ContractError, match="no time zone"):
        judge(GOOD, NOW.replace(tzinfo=None), settings=RULES)
    with pytest.raises(ContractError, match="no time zone"):
        judge(GOOD, NOW, [NOW.replace(tzinfo=None)], settings=RULES)


def test_rules_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGULARS_POINTS_PER_UNIT", "10")
    monkeypatch.setenv("REGULARS_POINTS_CURRENCIES", '["EUR"]')
    assert judge(GOOD, NOW) == Judgement("award", 124)
