"""The factors of a forecast in words."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.tensors import FACTORS
from ray_apps.deployments.factors import described

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)


def facts(**more: float) -> dict[str, float]:
    angle = 2 * math.pi * (31 + 28 + 31 + 14) / 365.2425  # mid April
    base = {
        "days_since_purchase": 35.0, "usual_gap": 15.0, "purchase_days": 9.0, "purchases_90d": 3.0, "spend_90d": 120.5,
        "engagement_30d": 1.0, "redemptions_90d": 0.0, "tenure": 210.0, "bad_tickets_365d": 2.0,
        "year_sin": math.sin(angle), "year_cos": math.cos(angle),
    }  # fmt: skip
    return base | more


def say(mine: dict[str, float], other: dict[str, float], **impacts: float) -> dict[str, dict[str, Any]]:
    moved = dict.fromkeys(FACTORS, 0.0) | impacts
    return {f["factor"]: f for f in described(moved, mine, other, NOW)}


REFERENCE = facts(days_since_purchase=20.0, usual_gap=24.5, purchases_90d=4.2, spend_90d=98.2, engagement_30d=6.0, redemptions_90d=1.0,
                  tenure=400.0, bad_tickets_365d=0.1)  # fmt: skip


@pytest.mark.parametrize(
    ("factor", "text", "current", "expected"),
    [
        ("recency", "35 days since last purchase (usual: 15 days)", 35, 15),
        ("frequency", "3 purchases in the last 90 days (typical customer: 4.2)", 3, 4.2),
        ("monetary", "120.50 spent in the last 90 days (typical customer: 98.20)", 120.5, 98.2),
        ("engagement", "1 app or e-mail visit in the last 30 days (typical customer: 6)", 1, 6),
        ("redemption", "0 rewards redeemed in the last 90 days (typical customer: 1)", 0, 1),
        ("tenure", "210 days since joining (typical customer: 400 days)", 210, 400),
        ("feedback", "2 complaints in the last 365 days (typical customer: 0.1)", 2, 0.1),
        ("season", "November (compared with April)", 11, 4),
    ],
)
def test_each_factor_is_said_with_its_numbers(factor: str, text: str, current: float, expected: float) -> None:
    found = say(facts(), REFERENCE)[factor]
    assert (found["description"], found["currentValue"], found["expectedValue"]) == (text, current, expected)


def test_whose_own_gap_is_not_known_is_compared_with_the_typical_customer() -> None:
    found = say(facts(purchase_days=1.0, usual_gap=99.0, days_since_purchase=0.9999), REFERENCE)["recency"]
    assert found["description"] == "1 day since last purchase (typical customer: 24.5 days)"
    assert (found["currentValue"], found["expectedValue"]) == (1, 24.5)


def test_the_noise_of_the_log_scale_is_not_shown() -> None:
    found = say(facts(purchases_90d=2.9999998, spend_90d=-0.0000001), REFERENCE)
    assert found["frequency"]["description"].startswith("3 purchases")
    assert found["monetary"]["description"].startswith("0.00 spent")
    assert str(found["monetary"]["currentValue"]) == "0.0"


def test_the_strongest_come_first_whichever_way_they_push() -> None:
    impacts = {"tenure": -0.3, "recency": 0.2, "season": 0.25}
    order = [f["factor"] for f in described(dict.fromkeys(FACTORS, 0.0) | impacts, facts(), REFERENCE, NOW)]
    assert order[:3] == ["tenure", "season", "recency"]
    assert order[3:] == [f for f in FACTORS if f not in impacts]
