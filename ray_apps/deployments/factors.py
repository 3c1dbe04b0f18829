"""The eight factors of a churn forecast in words: each with the customer's own numbers and what they are compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from contracts.tensors import FACTORS
from features.weekly import NEVER_DAYS

Facts = Mapping[str, float]
"""Static features in natural units, see `features.weekly.facts`."""
TYPICAL = "typical customer"
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December")


def described(impacts: Mapping[str, float], facts: Facts, reference: Facts, now: datetime) -> list[dict[str, Any]]:
    """All eight factors as answers show them, those with the largest impact first, whichever its sign.

    Args:
        impacts: what each factor adds to churn at 90 days.
        facts: the customer's. reference: the reference customer's, with which the impacts compare.
    """
    out = []
    for factor in FACTORS:
        text, current, expected = _SAY[factor](facts, reference, now)
        impact = min(1.0, max(-1.0, round(impacts[factor], 6)))
        out.append({"factor": factor, "impact": impact, "description": text, "currentValue": current, "expectedValue": expected})
    return sorted(out, key=lambda f: (-abs(f["impact"]), FACTORS.index(f["factor"])))


def _recency(facts: Facts, reference: Facts, now: datetime) -> tuple[str, float, float]:
    """Compared with the customer's own usual gap; of one with a single purchase day none is known, so with the reference customer's."""
    current = _plain(facts["days_since_purchase"])
    own = round(facts["purchase_days"]) > 1
    expected = _plain(facts["usual_gap"] if own else reference["usual_gap"], 1)
    return f"{_count(current, 'day')} since last purchase ({'usual' if own else TYPICAL}: {_count(expected, 'day')})", current, expected


def _counted(name: str, what: str, many: str, days: int) -> Callable[[Facts, Facts, datetime], tuple[str, float, float]]:
    def say(facts: Facts, reference: Facts, now: datetime) -> tuple[str, float, float]:
        current, expected = _plain(facts[name]), _plain(reference[name], 1)
        return f"{_count(current, what, many)} in the last {days} days ({TYPICAL}: {_number(expected)})", current, expected

    return say


def _monetary(facts: Facts, reference: Facts, now: datetime) -> tuple[str, float, float]:
    current, expected = _plain(facts["spend_90d"], 2), _plain(reference["spend_90d"], 2)
    return f"{current:.2f} spent in the last 90 days ({TYPICAL}: {expected:.2f})", current, expected


def _tenure(facts: Facts, reference: Facts, now: datetime) -> tuple[str, float, float]:
    current, expected = _plain(facts["tenure"]), _plain(reference["tenure"])
    return f"{_count(current, 'day')} since joining ({TYPICAL}: {_count(expected, 'day')})", current, expected


def _season(facts: Facts, reference: Facts, now: datetime) -> tuple[str, float, float]:
    """Both are numbers of months. The reference is the time of year that the model's reference customer stands in."""
    angle = math.atan2(reference["year_sin"], reference["year_cos"]) % (2.0 * math.pi)
    expected = int(angle / (2.0 * math.pi) * 12.0) % 12 + 1
    return f"{MONTHS[now.month - 1]} (compared with {MONTHS[expected - 1]})", float(now.month), float(expected)


_SAY: dict[str, Callable[[Facts, Facts, datetime], tuple[str, float, float]]] = {
    "recency": _recency,
    "frequency": _counted("purchases_90d", "purchase", "purchases", 90),
    "monetary": _monetary,
    "engagement": _counted("engagement_30d", "app or e-mail visit", "app or e-mail visits", 30),
    "redemption": _counted("redemptions_90d", "reward redeemed", "rewards redeemed", 90),
    "tenure": _tenure,
    "feedback": _counted("bad_tickets_365d", "complaint", "complaints", 365),
    "season": _season,
}


def _plain(value: float, digits: int = 0) -> float:
    """Without the noise of the model's log scale; `NEVER_DAYS` stays the largest number of days."""
    found = round(min(value, NEVER_DAYS) if digits == 0 else value, digits)
    return found + 0.0  # no minus zero


def _number(value: float) -> str:
    return f"{value:.0f}" if value == round(value) else f"{value:.1f}"


def _count(value: float, one: str, many: str | None = None) -> str:
    return f"{_number(value)} {one if value == 1 else many or one + 's'}"
