"""Why a reward was recommended: sentences whose numbers are computed from the customer's own data, or not said at all.

Each claim can be recomputed from the raw events; `tests/ray_apps/test_explain.py` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import duckdb
import numpy as np

from features.state import CustomerState

PARTS = ("morning", "afternoon", "evening", "night")
PART_OF_HOUR = tuple(PARTS[0] if 5 <= h < 12 else PARTS[1] if 12 <= h < 17 else PARTS[2] if 17 <= h < 22 else PARTS[3] for h in range(24))
HOUR_OF_PART = {"morning": 9, "afternoon": 14, "evening": 19, "night": 23}
"""The hour that stands for a part of the day in a request's context."""

MIN_CATEGORY_REDEMPTIONS, MIN_CATEGORY_RATIO = 2, 1.2
MIN_PART_PURCHASES, MIN_PART_SHARE = 5, 0.35
MIN_REWARD_PART_REDEMPTIONS, MIN_REWARD_PART_LIFT = 10, 1.2
MIN_SHARE, MIN_SIMILARITY, NEW_DAYS = 0.01, 0.6, 30
DAY_S = 86_400.0


@dataclass(frozen=True)
class Population:
    """What all customers of one business did, ever: redemptions of the catalogue's rewards.

    Attributes:
        by_category: redemptions by the reward's category.
        total: their sum.
        by_reward: reward id -> float64 (4,), redemptions by part of the day (`PARTS`, UTC).
        by_part: float64 (4,), their sum.
    """

    by_category: Mapping[str, int] = field(default_factory=dict)
    total: int = 0
    by_reward: Mapping[str, np.ndarray] = field(default_factory=dict)
    by_part: np.ndarray = field(default_factory=lambda: np.zeros(len(PARTS)))

    def part_lift(self, reward_id: str, part: int) -> float | None:
        """How much likelier the reward's redemptions are to fall in this part of the day than all redemptions; None for too few."""
        mine = self.by_reward.get(reward_id)
        if mine is None or mine.sum() < MIN_REWARD_PART_REDEMPTIONS or not self.by_part[part]:
            return None
        return float((mine[part] / mine.sum()) / (self.by_part[part] / self.by_part.sum()))


def populations(connection: duckdb.DuckDBPyConnection) -> dict[str, Population]:
    """One `Population` per business, from the warehouse."""
    rows = connection.execute(
        "SELECT e.business_id, e.reward_id, coalesce(any_value(r.category), ''), hour(e.occurred_at AT TIME ZONE 'UTC') AS hour, count(*) "
        "FROM events e JOIN rewards r ON r.business_id = e.business_id AND r.reward_id = e.reward_id "
        "WHERE e.event_type = 'redemption' GROUP BY e.business_id, e.reward_id, hour"
    ).fetchall()
    categories: dict[str, Counter[str]] = {}
    rewards: dict[str, dict[str, np.ndarray]] = {}
    for business_id, reward_id, category, hour, count in rows:
        categories.setdefault(business_id, Counter())[category] += count
        mine = rewards.setdefault(business_id, {}).setdefault(reward_id, np.zeros(len(PARTS)))
        mine[PARTS.index(PART_OF_HOUR[hour])] += count
    return {
        business_id: Population(found, sum(found.values()), rewards[business_id], np.sum(list(rewards[business_id].values()), axis=0))
        for business_id, found in categories.items()
    }


@dataclass(frozen=True)
class Catalogue:
    """The rewards of a model version as plain lists, row for row with its vectors; lists, because one is read at a time.

    Attributes:
        vectors: float32 (N, D), L2 norm 1.
        share: redeemers among the business's customers in the 90 days before the model's as-of time, 0..1.
        row: (business id, reward id) -> row.
    """

    reward_ids: list[str]
    names: list[str]
    categories: list[str]
    valid_from: list[float | None]
    share: list[float]
    vectors: np.ndarray
    row: Mapping[tuple[str, str], int]

    @classmethod
    def build(cls, columns: Mapping[str, Sequence[Any]], vectors: np.ndarray) -> Catalogue:
        """From the columns of rewards.parquet."""
        ids, business = list(columns["reward_id"]), list(columns["business_id"])
        return cls(
            reward_ids=ids,
            names=[name or reward_id for name, reward_id in zip(columns["name"], ids, strict=True)],
            categories=[c or "" for c in columns["category"]],
            valid_from=[None if t is None else t.timestamp() for t in columns["valid_from"]],
            share=[float(s or 0.0) for s in columns["redeemer_share"]],
            vectors=vectors,
            row={(b, r): i for i, (b, r) in enumerate(zip(business, ids, strict=True))},
        )


class Reason(NamedTuple):
    """One reason: a code for programs and a sentence for the customer."""

    code: str
    sentence: str


class Explainer:
    """Explains the rewards of one answer; what depends on the customer only is computed once.

    Args:
        business_id: the tenant.
        catalogue: of the model version that made the answer.
        population: of the business.
        state: the customer's, as of now; None for a customer of whom nothing is known.
        now: epoch seconds, serving time.
        part: part of the day that the answer is for.
    """

    def __init__(
        self, business_id: str, catalogue: Catalogue, population: Population, state: CustomerState | None, now: float, part: str
    ) -> None:
        self._catalogue, self._population, self._now, self._part = catalogue, population, now, part
        self._state = state if state is not None and state.touch_count else None
        self._redeemed = dict(self._state.redeemed) if self._state else {}
        self._rows = {catalogue.row[business_id, r]: n for r, n in self._redeemed.items() if (business_id, r) in catalogue.row}
        self._by_category = Counter[str]()
        for row, count in self._rows.items():
            self._by_category[catalogue.categories[row]] += count
        self._total = sum(self._by_category.values())

    def reasons(self, row: int) -> list[Reason]:
        """Reasons for one row of the catalogue, strongest first; at least one."""
        found = [self._category(row), self._before(row), self._time_of_day(row), self._popular(row), self._taste(row), self._new(row)]
        return [r for r in found if r is not None] or [self._otherwise(row)]

    def category_ratio(self, category: str) -> float | None:
        """The customer's share of redemptions in a category over the other customers' share; None where it cannot be said."""
        own, everyone = self._by_category[category], self._population
        others, others_total = everyone.by_category.get(category, 0) - own, everyone.total - self._total
        if own < MIN_CATEGORY_REDEMPTIONS or others <= 0 or others_total <= 0:
            return None
        return (own / self._total) / (others / others_total)

    def _category(self, row: int) -> Reason | None:
        category = self._catalogue.categories[row]
        ratio = self.category_ratio(category) if category else None
        if ratio is None or ratio < MIN_CATEGORY_RATIO:
            return None
        return Reason("high_affinity_category", f"You redeem {category} rewards {_times(ratio)} more than other customers")

    def _before(self, row: int) -> Reason | None:
        count = self._rows.get(row, 0)
        if not count:
            return None
        return Reason(
            "redeemed_before", f"You redeemed this {'once' if count == 1 else 'twice' if count == 2 else f'{count} times'} before"
        )

    def _time_of_day(self, row: int) -> Reason | None:
        hours = self._state.purchase_hours if self._state else None
        if hours is None or hours.sum() < MIN_PART_PURCHASES:
            return None
        mine = sum(int(n) for n, part in zip(hours, PART_OF_HOUR, strict=True) if part == self._part) / int(hours.sum())
        lift = self._population.part_lift(self._catalogue.reward_ids[row], PARTS.index(self._part))
        if mine < MIN_PART_SHARE or lift is None or lift < MIN_REWARD_PART_LIFT:
            return None
        when = f"{'at' if self._part == 'night' else 'in the'} {self._part}"
        return Reason("time_of_day_match", f"{_percent(mine)} of your purchases are {when}, when this is redeemed {_times(lift)} as often")

    def _popular(self, row: int) -> Reason | None:
        share = self._catalogue.share[row]
        if share < MIN_SHARE:
            return None
        return Reason("popular_now", f"Redeemed by {_percent(share)} of customers in the last 90 days")

    def _taste(self, row: int) -> Reason | None:
        others = [r for r in self._rows if r != row]
        if not others:
            return None
        cosines = self._catalogue.vectors[others] @ self._catalogue.vectors[row]
        best = int(np.argmax(cosines))
        if cosines[best] < MIN_SIMILARITY:
            return None
        return Reason("matches_taste", f"Similar to {self._catalogue.names[others[best]]}, which you redeemed")

    def _new(self, row: int) -> Reason | None:
        start = self._catalogue.valid_from[row]
        if start is None or not 0 <= self._now - start <= NEW_DAYS * DAY_S:
            return None
        return Reason("new_reward", f"New since {datetime.fromtimestamp(start, UTC):%-d %B %Y}")

    def _otherwise(self, row: int) -> Reason:
        """What is always true: what the model looked at."""
        if self._state is None:
            share = self._catalogue.share[row]
            if not share:
                return Reason("new_reward", "Nobody has redeemed this in the last 90 days: be the first")
            return Reason("popular_now", f"Redeemed by {_percent(share)} of customers in the last 90 days")
        count = len(self._state.recent)
        return Reason("matches_taste", f"Chosen from your last {count} activities" if count > 1 else "Chosen from your latest activity")


def _times(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio < 10 else f"{ratio:.0f}x"


def _percent(share: float) -> str:
    """A whole number of percent, never rounded to 0 or 100 unless it is."""
    if 0 < share < 0.01:
        return "less than 1 %"
    return f"{min(99, round(share * 100)) if share < 1 else 100} %"
