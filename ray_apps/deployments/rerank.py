"""From probabilities to the order of an answer: what is to be earned (objective), variety (diversity) and what may not be shown (caps).

Pure NumPy, no I/O; a few microseconds where nothing but the probability counts. The `score` of a reward stays its probability whatever the
objective: only the order is the objective's.

Letters: K candidates, D embedding dim, N rewards of the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from contracts.api import Objective
from contracts.errors import ContractError
from features.definitions import DAY_S, DEMOGRAPHICS, GROUP_COUNT, GROUPS, HALF_LIFE_COUNT, HALF_LIVES_S, SPEND_GROUP
from features.state import CustomerState
from ray_apps.settings import ServeSettings

NEW_DAYS = 30
YEAR_DAYS = 365.25
MIN_OBSERVED_DAYS = 30.0
CATEGORY_WEIGHT = 0.5
_PURCHASES = list(GROUPS).index("purchases")
_JOINED = DEMOGRAPHICS.index("joined_at")
_ENOUGH = 0.01
"""Decayed purchases below which a customer's basket is not known: one purchase three years ago."""


@dataclass(frozen=True)
class Offers:
    """What the catalogue's rewards cost and are, row for row; what is not known is 0 (money, points), -1 (codes) or NaN (times).

    Attributes:
        face_value: float64 (N,), money.
        difficulty: float64 (N,), least spend, money.
        points_cost: float64 (N,), points.
        category, kind: int64 (N,), codes of category and reward type; -1 = unknown, which no cap counts.
        valid_from: float64 (N,), epoch seconds.
    """

    face_value: np.ndarray
    difficulty: np.ndarray
    points_cost: np.ndarray
    category: np.ndarray
    kind: np.ndarray
    valid_from: np.ndarray

    @classmethod
    def build(cls, columns: Mapping[str, Sequence[Any]]) -> Offers:
        """From the columns of rewards.parquet; a column that is missing is one that is not known."""
        empty = [None] * len(columns["reward_id"])
        starts = columns.get("valid_from", empty)
        return cls(
            face_value=_numbers(columns.get("face_value", empty)),
            difficulty=_numbers(columns.get("difficulty", empty)),
            points_cost=_numbers(columns.get("points_cost", empty)),
            category=_codes(columns.get("category", empty)),
            kind=_codes(columns.get("reward_type", empty)),
            valid_from=np.array([np.nan if t is None else t.timestamp() for t in starts], dtype=np.float64),
        )

    def new(self, rows: np.ndarray, now: float) -> np.ndarray:
        """bool (K,): which of these rewards began in the last 30 days."""
        age = now - self.valid_from[rows]
        return (age >= 0) & (age <= NEW_DAYS * DAY_S)


def _numbers(values: Sequence[Any]) -> np.ndarray:
    return np.array([0.0 if v is None or v != v else float(v) for v in values], dtype=np.float64)


def _codes(values: Sequence[Any]) -> np.ndarray:
    known = {v: i for i, v in enumerate(sorted({v for v in values if v}))}
    return np.array([known.get(v, -1) for v in values], dtype=np.int64)


class Spend(NamedTuple):
    """What a customer spends: an average basket and a rate, money and money a year; 0 where nothing is known."""

    basket: float
    per_year: float


def spend_of(state: CustomerState | None, now: float, usual_basket: float = 0.0) -> Spend:
    """Read a customer's spend from the decayed sums (half-life 180 days), so that what was bought lately weighs more.

    A customer who spends at a constant rate q has the decayed sum q * (h / ln 2) * (1 - 2^(-T / h)) after T observed days, which is
    solved for q. T is the tenure, at least 30 days; without a join date the sum is taken as complete (q is then low, never high).

    Args:
        usual_basket: stands for the basket of a customer of whom no purchase is known: the business's average.
    """
    if state is None or not state.touch_count:
        return Spend(usual_basket, 0.0)
    sums = state.sums.reshape(GROUP_COUNT, HALF_LIFE_COUNT)
    half_life = float(HALF_LIVES_S[-1])
    fade = 2.0 ** (-max(now - state.time, 0.0) / half_life)
    purchases, spend = float(sums[_PURCHASES, -1]) * fade, float(sums[SPEND_GROUP, -1]) * fade
    joined = float(state.demographics[_JOINED])
    observed = max(now - joined, MIN_OBSERVED_DAYS * DAY_S) if joined == joined else np.inf
    per_second = spend * np.log(2.0) / half_life / (1.0 - 2.0 ** (-observed / half_life))
    return Spend(spend / purchases if purchases >= _ENOUGH else usual_basket, float(per_second) * YEAR_DAYS * DAY_S)


@dataclass(frozen=True)
class Policy:
    """How answers are ordered; see `ServeSettings` for what each number means and its default."""

    objective: Objective = "redemption"
    diversity: float = 0.0
    max_per_category: int | None = None
    max_per_type: int | None = None
    new_share: float = 0.0
    gross_margin: float = 0.6
    reward_cost_share: float = 0.35
    point_value: float = 0.01
    yearly_retention: float = 0.8
    yearly_discount_rate: float = 0.1
    retention_lift: float = 0.01

    @classmethod
    def of(cls, settings: ServeSettings, objective: Objective | None = None, diversity: float | None = None) -> Policy:
        """The process's policy; what a request asks for takes its place."""
        return cls(
            objective=objective if objective is not None else settings.objective,
            diversity=diversity if diversity is not None else settings.diversity,
            max_per_category=settings.max_per_category,
            max_per_type=settings.max_per_type,
            new_share=settings.new_share,
            gross_margin=settings.gross_margin,
            reward_cost_share=settings.reward_cost_share,
            point_value=settings.point_value,
            yearly_retention=settings.yearly_retention,
            yearly_discount_rate=settings.yearly_discount_rate,
            retention_lift=settings.retention_lift,
        )

    @property
    def plain(self) -> bool:
        """Nothing but the objective orders the answer."""
        return not self.diversity and self.max_per_category is None and self.max_per_type is None and not self.new_share


def margins(policy: Policy, offers: Offers, rows: np.ndarray, spend: Spend) -> np.ndarray:
    """What one redemption of each reward leaves, money, float64 (K,).

    The visit's gross margin on a basket of at least the reward's least spend, less what the reward costs to give, plus the liability of
    the points that the customer pays with, which the redemption releases.
    """
    basket = np.maximum(offers.difficulty[rows], spend.basket)
    cost = policy.reward_cost_share * offers.face_value[rows]
    return policy.gross_margin * basket - cost + policy.point_value * offers.points_cost[rows]


def retention_value(policy: Policy, spend: Spend) -> float:
    """What one redemption is worth by keeping the customer, money; the same for every reward, larger for a customer who spends more.

    The value of a customer with yearly margin m, yearly retention r and discount rate d is m * r / (1 + d - r); its derivative by r is
    m * (1 + d) / (1 + d - r)^2. A redemption raises r by `retention_lift`. With the defaults (r 0.8, d 0.1, lift 0.01) that is 12 % of a
    year's margin.

    Source: Gupta and Lehmann, Customers as Assets (2003), for the value; that redeeming raises later purchases: Taylor and Neslin (2005),
    Dorotic et al. (2014). The lift of 0.01 is an assumption, to be replaced by a measured one.
    """
    room = 1.0 + policy.yearly_discount_rate - policy.yearly_retention
    return policy.retention_lift * policy.gross_margin * spend.per_year * (1.0 + policy.yearly_discount_rate) / room**2


def values(policy: Policy, offers: Offers, rows: np.ndarray, probabilities: np.ndarray, spend: Spend) -> np.ndarray:
    """What the objective makes of each candidate, float64 (K,): larger is better.

    `redemption`: the probability. `expected_value`: probability x margin. `clv`: probability x (margin + retention value): for a customer
    who spends little the order is that of the margin, for one who spends much it nears that of the probability.
    """
    if policy.objective == "redemption":
        return probabilities
    earned = margins(policy, offers, rows, spend)
    if policy.objective == "clv":
        earned = earned + retention_value(policy, spend)
    return np.asarray(probabilities * earned)


def rerank(
    policy: Policy,
    offers: Offers,
    rows: np.ndarray,
    probabilities: np.ndarray,
    count: int,
    *,
    spend: Spend = Spend(0.0, 0.0),  # noqa: B008 - a tuple
    vectors: np.ndarray | None = None,
    held: np.ndarray | None = None,
    now: float = 0.0,
) -> np.ndarray:
    """Choose and order an answer.

    Args:
        rows: int64 (K,), rows of the catalogue, each once.
        probabilities: float64 (K,), 0..1.
        count: how many are wanted.
        spend: the customer's, for objectives in money.
        vectors: float32 (N, D) of the catalogue, L2 norm 1; without them diversity looks at categories only.
        held: bool (K,), what may not be shown (frequency cap).
        now: epoch seconds, decides which rewards are new.

    Returns:
        int64 (at most count,), positions in `rows`, best first. Ties of the objective go to the higher probability, then to the input's
        order. Caps are never broken: fewer are returned where they leave fewer.

    Raises:
        ContractError: rows and probabilities differ in length.

    Source of the diversity: maximal marginal relevance, Carbonell and Goldstein (1998).
    """
    if len(rows) != len(probabilities):
        raise ContractError(f"{len(rows)} rows have {len(probabilities)} probabilities, must be one each. Score the candidates again.")
    value = values(policy, offers, rows, probabilities, spend)
    order = np.lexsort((-probabilities, -value))
    if held is not None and held.any():
        order = order[~held[order]]
    if policy.plain or not len(order):
        return order[:count]
    chosen = rows[order]
    category, kind = offers.category[chosen], offers.kind[chosen]
    alike = _alike(chosen, category, vectors) if policy.diversity else None
    picked = _greedy(policy, _unit(value[order]), category, kind, offers.new(chosen, now), alike, min(count, len(order)))
    return order[picked]


def _unit(value: np.ndarray) -> np.ndarray:
    """Values brought to 0..1, so that they can be weighed against similarities."""
    low, high = float(value.min()), float(value.max())
    return (value - low) / (high - low) if high > low else np.zeros(len(value))


def _alike(rows: np.ndarray, category: np.ndarray, vectors: np.ndarray | None) -> np.ndarray:
    """Similarity of each pair of candidates, (K, K), 0..1: half the cosine (negative ones count as 0), half the same category."""
    same = (category[:, None] == category[None, :]) & (category >= 0)[:, None]
    if vectors is None:
        return same.astype(np.float32)
    mine = vectors[rows]
    cosine = np.clip(mine @ mine.T, 0.0, 1.0)
    return np.asarray(CATEGORY_WEIGHT * same + (1.0 - CATEGORY_WEIGHT) * cosine, dtype=np.float32)


def _greedy(
    policy: Policy, value: np.ndarray, category: np.ndarray, kind: np.ndarray, new: np.ndarray, alike: np.ndarray | None, count: int
) -> list[int]:
    """One candidate after another: the best by value less similarity to those chosen, among those that the caps leave."""
    free = np.ones(len(value), dtype=bool)
    nearest = np.zeros(len(value))
    gain = (1.0 - policy.diversity) * value
    due = int(policy.new_share * count + 1e-9)
    used: dict[tuple[str, int], int] = {}
    picked: list[int] = []
    while len(picked) < count:
        pool = free & new if due and count - len(picked) <= due else free
        if not pool.any():
            if pool is free or not free.any():
                break
            pool = free  # no new reward is left
        current = gain - policy.diversity * nearest if alike is not None else gain
        best = int(np.argmax(np.where(pool, current, -np.inf)))
        picked.append(best)
        free[best] = False
        due -= int(new[best] and due > 0)
        if alike is not None:
            np.maximum(nearest, alike[best], out=nearest)
        for name, codes, most in (("category", category, policy.max_per_category), ("type", kind, policy.max_per_type)):
            code = int(codes[best])
            if most is None or code < 0:
                continue
            used[name, code] = used.get((name, code), 0) + 1
            if used[name, code] >= most:
                free &= codes != code
    return picked


def held_back(
    shown: Mapping[str, Sequence[float]],
    acted: Mapping[str, float],
    times: int,
    days: float,
    now: float,
) -> frozenset[str]:
    """Rewards that were shown often enough for now.

    Args:
        shown: reward id -> epoch seconds of the answers that held it.
        acted: reward id -> epoch seconds of the customer's latest click on it or redemption of it; showings up to then do not count.
        times, days: a reward shown `times` times or more in the last `days` days is held back.
    """
    since = now - days * DAY_S
    return frozenset(reward for reward, when in shown.items() if sum(t > max(since, acted.get(reward, since)) for t in when) >= times)
