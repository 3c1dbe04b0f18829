"""What a touch is and what each feature means: the one place that the offline and the online path both read.

Letters: B customers (rows), G = 8 groups of touches, H = 3 half-lives, R = 6 recencies.

The 44 features, in the order of `FEATURE_NAMES`:
    0..23   G x H exponentially decayed sums, group-major: S(as_of) = sum of w * 2^(-(as_of - t) / half-life) over the touches
            strictly before the as-of time; w is 1, for `spend` the purchase amount. Scaled by a signed log1p.
    24..29  R times log1p(days since the last touch of its kind); "never" counts as ten years.
    30..37  demographics: tenure, age (known, scaled), income (known, scaled), gender one-hot (F, M, other).
    38..43  hour, weekday and month of the request's time (UTC), each as sine and cosine.

Not among them, on purpose: `membership_tier` and `points_balance`. The warehouse holds today's value of both, so a row for an
earlier as-of time would know the future.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from contracts.errors import ContractError
from contracts.tables import EVENT_TYPES
from contracts.tensors import FEATURE_COUNT

PURCHASE, TICKET = "purchase", "ticket"
KINDS: tuple[str, ...] = ("<pad>", *EVENT_TYPES, PURCHASE, TICKET)
"""Kinds of touches; the index is the code. 0 is padding."""
KIND_CODES: dict[str, int] = {kind: code for code, kind in enumerate(KINDS) if code}
KIND_COUNT = len(KINDS)

DAY_S = 86_400.0
HALF_LIVES_DAYS = (7, 30, 180)
HALF_LIVES_S = np.array(HALF_LIVES_DAYS, dtype=np.float64) * DAY_S

ENGAGEMENT = ("app_open", "email_open", "email_click", "push_click")
GROUPS: dict[str, tuple[str, ...]] = {
    "purchases": (PURCHASE,),
    "spend": (PURCHASE,),
    "offers": ("offer_received",),
    "views": ("offer_viewed",),
    "redemptions": ("redemption",),
    "engagement": ENGAGEMENT,
    "negative": ("reward_dismissed", "unsubscribe"),
    "tickets": (TICKET,),
}
SPEND_GROUP = list(GROUPS).index("spend")
RECENCIES: dict[str, tuple[str, ...]] = {
    "purchase": (PURCHASE,),
    "offer": ("offer_received",),
    "view": ("offer_viewed",),
    "redemption": ("redemption",),
    "engagement": ENGAGEMENT,
    "ticket": (TICKET,),
}
GROUP_COUNT, HALF_LIFE_COUNT, RECENCY_COUNT = len(GROUPS), len(HALF_LIVES_DAYS), len(RECENCIES)
SUM_COUNT = GROUP_COUNT * HALF_LIFE_COUNT
NEVER_DAYS = 3650.0

DEMOGRAPHICS = ("joined_at", "birth_at", "group_age", "income", "gender")
"""What a state keeps of a customer, float64: epoch seconds, epoch seconds, years, money, code 1 F, 2 M, 3 other; NaN = unknown."""
NO_DEMOGRAPHICS = np.full(len(DEMOGRAPHICS), np.nan)

FEATURE_NAMES: tuple[str, ...] = (
    *(f"{group}_{days}d" for group in GROUPS for days in HALF_LIVES_DAYS),
    *(f"days_since_{name}" for name in RECENCIES),
    "tenure", "age_known", "age", "income_known", "income", "gender_f", "gender_m", "gender_other",
    "hour_sin", "hour_cos", "weekday_sin", "weekday_cos", "month_sin", "month_cos",
)  # fmt: skip
assert len(FEATURE_NAMES) == FEATURE_COUNT  # noqa: S101 - our own mistake, at import

# Divisors that bring each block to about -1..1; constants, so that no statistics of the data have to travel with a model.
COUNT_SCALE, SPEND_SCALE, _INCOME_SCALE, _YEAR_S = 4.0, 8.0, 12.0, 365.25 * DAY_S
_SUM_SCALES = np.array([SPEND_SCALE if g == "spend" else COUNT_SCALE for g in GROUPS for _ in HALF_LIVES_DAYS])
_LOG_NEVER = math.log1p(NEVER_DAYS)


def _membership(groups: Mapping[str, tuple[str, ...]]) -> np.ndarray:
    table = np.zeros((KIND_COUNT, len(groups)))
    for column, kinds in enumerate(groups.values()):
        table[[KIND_CODES[k] for k in kinds], column] = 1.0
    return table


GROUP_OF_KIND = _membership(GROUPS)
"""float64 (KIND_COUNT, G): 1 where touches of the kind count in the group."""
RECENCY_OF_KIND = _membership(RECENCIES)
"""float64 (KIND_COUNT, R): likewise for the recencies."""


class Touch(NamedTuple):
    """One dated act of a customer. Tuples compare as the whole system orders touches: by time, then by content.

    Ordering by content rather than by id makes equal touches interchangeable, so ties need no ids in the state.

    Attributes:
        time: epoch seconds, UTC, with microseconds.
        kind: code in `KINDS`, 1 or more.
        token: `r:<reward_id>`, else `c:<category>`, else empty.
        value: purchase amount, the event's value, a ticket's rating; finite, 0 where there is none.
    """

    time: float
    kind: int
    token: str
    value: float


def epoch_seconds(when: datetime) -> float:
    """Epoch seconds of a datetime; one without a zone is taken as UTC. Equal to DuckDB's `epoch_us(x) / 1e6`."""
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def finite(value: float | None) -> float:
    """The value, or 0 for None, NaN and infinities."""
    return float(value) if value is not None and math.isfinite(value) else 0.0


def event_touch(event_type: str, occurred_at: datetime, reward_id: str | None = None, value: float | None = None) -> Touch:
    """The touch of one event, as `touches_sql` makes it.

    Raises:
        ContractError: not one of the event types.
    """
    if event_type not in EVENT_TYPES:
        raise ContractError(f"event type {event_type!r} is not known; it must be one of {', '.join(EVENT_TYPES)}. Correct the event.")
    return Touch(epoch_seconds(occurred_at), KIND_CODES[event_type], f"r:{reward_id}" if reward_id else "", finite(value))


def purchase_touch(occurred_at: datetime, amount: float | None, category: str | None = None) -> Touch:
    """The touch of one purchase; `category` is that of `basket_category`."""
    return Touch(epoch_seconds(occurred_at), KIND_CODES[PURCHASE], f"c:{category}" if category else "", finite(amount))


def ticket_touch(created_at: datetime, rating: float | None = None) -> Touch:
    """The touch of one service ticket."""
    return Touch(epoch_seconds(created_at), KIND_CODES[TICKET], "", finite(rating))


def basket_category(lines: Iterable[tuple[str | None, float | None]]) -> str | None:
    """The category with the largest amount in a basket of (category, amount) lines; the first by name where two are equal."""
    totals: dict[str, float] = {}
    for category, amount in lines:
        if category:
            totals[category] = totals.get(category, 0.0) + finite(amount)
    return min(totals, key=lambda c: (-totals[c], c)) if totals else None


WANTED = "touch_customers"
"""Name of the relation (business_id, customer_id) that must be registered before `TOUCHES_SQL` runs."""

_KIND_LIST = "[" + ", ".join(f"'{kind}'" for kind in KINDS[1:]) + "]"

# Identifiers and literals are our own constants, never a user's text.
TOUCHES_SQL = f"""
WITH wanted AS (SELECT DISTINCT business_id, customer_id FROM {WANTED}),
bought AS (SELECT t.business_id, t.transaction_id, t.customer_id, t.occurred_at, t.amount
           FROM transactions t SEMI JOIN wanted w ON t.business_id = w.business_id AND t.customer_id = w.customer_id),
sold AS MATERIALIZED (  -- keeps DuckDB from joining purchases with products on the business alone, which is nearly a cross product
    SELECT b.business_id, b.transaction_id, i.product_id, i.amount
    FROM transaction_items i JOIN bought b ON b.transaction_id = i.transaction_id),
categories AS (
    SELECT s.business_id, s.transaction_id, p.category, sum(coalesce(s.amount, 0))::DOUBLE AS amount
    FROM sold s JOIN products p ON p.business_id = s.business_id AND p.product_id = s.product_id
    WHERE p.category IS NOT NULL AND p.category <> ''
    GROUP BY ALL),
baskets AS (
    SELECT business_id, transaction_id, category FROM categories
    QUALIFY row_number() OVER (PARTITION BY business_id, transaction_id ORDER BY amount DESC, category) = 1),
touches AS (
    SELECT b.business_id, b.customer_id, b.occurred_at, '{PURCHASE}' AS kind, coalesce('c:' || k.category, '') AS token,
           b.amount::DOUBLE AS value
    FROM bought b LEFT JOIN baskets k ON k.business_id = b.business_id AND k.transaction_id = b.transaction_id
    UNION ALL
    SELECT e.business_id, e.customer_id, e.occurred_at, e.event_type,
           CASE WHEN e.reward_id <> '' THEN 'r:' || e.reward_id ELSE '' END, e.value
    FROM events e SEMI JOIN wanted w ON e.business_id = w.business_id AND e.customer_id = w.customer_id
    UNION ALL
    SELECT t.business_id, t.customer_id, t.created_at, '{TICKET}', '', t.rating::DOUBLE
    FROM tickets t SEMI JOIN wanted w ON t.business_id = w.business_id AND t.customer_id = w.customer_id)
SELECT business_id, customer_id, epoch_us(occurred_at) / 1e6 AS time, list_position({_KIND_LIST}, kind)::UTINYINT AS kind, token,
       CASE WHEN isfinite(value) THEN value ELSE 0 END AS value
FROM touches
WHERE occurred_at IS NOT NULL AND list_contains({_KIND_LIST}, kind)
"""  # noqa: S608
"""All touches of the customers in `touch_customers`: business_id, customer_id, time (float64), kind (uint8), token, value (float64)."""

DEMOGRAPHICS_SQL = f"""
SELECT w.business_id, w.customer_id, epoch_us(c.joined_at) / 1e6 AS joined_at, epoch_us(c.birth_date::TIMESTAMP) / 1e6 AS birth_at,
       list_avg([x::DOUBLE FOR x IN regexp_extract_all(c.age_group, '[0-9]+')]) AS group_age, c.income::DOUBLE AS income,
       CASE WHEN c.gender IS NULL OR trim(c.gender) = '' THEN NULL WHEN upper(c.gender) IN ('F', 'FEMALE', 'W', 'WOMAN') THEN 1
            WHEN upper(c.gender) IN ('M', 'MALE', 'MAN') THEN 2 ELSE 3 END::DOUBLE AS gender
FROM (SELECT DISTINCT business_id, customer_id FROM {WANTED}) w
JOIN customers c ON c.business_id = w.business_id AND c.customer_id = w.customer_id
"""  # noqa: S608
"""The columns of `DEMOGRAPHICS` for the customers in `touch_customers`; none of them changes with time."""


def signed_log1p(values: np.ndarray) -> np.ndarray:
    """sign(x) * log(1 + |x|): defined for returns (negative amounts) too."""
    return np.copysign(np.log1p(np.abs(values)), values)


def decay(ages_s: np.ndarray) -> np.ndarray:
    """2^(-age / half-life) for each half-life.

    Args:
        ages_s: float64 (...), seconds.

    Returns:
        float64 (..., H).
    """
    return np.exp2(-ages_s[..., None] / HALF_LIVES_S)


def assemble(sums: np.ndarray, last: np.ndarray, demographics: np.ndarray, as_of: np.ndarray, context_time: np.ndarray) -> np.ndarray:
    """The 44 features from what both paths have computed.

    Args:
        sums: float64 (B, 24), decayed to the as-of time.
        last: float64 (B, 6), epoch seconds of the last touches; NaN = never.
        demographics: float64 (B, 5), see `DEMOGRAPHICS`.
        as_of, context_time: float64 (B,), epoch seconds.

    Returns:
        float32 (B, 44), finite.
    """
    out = np.empty((len(as_of), FEATURE_COUNT), dtype=np.float32)
    out[:, :SUM_COUNT] = signed_log1p(sums) / _SUM_SCALES
    days = np.maximum(as_of[:, None] - last, 0.0) / DAY_S
    out[:, 24:30] = np.log1p(np.where(np.isnan(days), NEVER_DAYS, days)) / _LOG_NEVER
    out[:, 30:38] = demographic_features(demographics, as_of)
    out[:, 38:44] = context_features(context_time)
    return out


def demographic_features(demographics: np.ndarray, as_of: np.ndarray) -> np.ndarray:
    """float64 (B, 8): tenure, age known, age, income known, income, gender F, M, other. Joined after the as-of time is tenure 0."""
    joined, birth, group_age, income, gender = demographics.T
    out = np.zeros((len(as_of), 8))
    out[:, 0] = np.log1p(np.fmax(as_of - joined, 0.0) / DAY_S) / _LOG_NEVER
    age = (as_of - birth) / _YEAR_S
    age = np.where((age > 0) & (age < 120), age, group_age)
    out[:, 1] = ~np.isnan(age)
    out[:, 2] = np.nan_to_num(age) / 100.0
    out[:, 3] = ~np.isnan(income)
    out[:, 4] = signed_log1p(np.nan_to_num(income)) / _INCOME_SCALE
    out[:, 5:8] = gender[:, None] == np.array([1.0, 2.0, 3.0])
    return out


def context_features(times: np.ndarray) -> np.ndarray:
    """float64 (B, 6): hour (with its fraction), weekday and month of the times (epoch seconds, UTC), as sine and cosine each."""
    hour = (times % DAY_S) / DAY_S
    weekday = ((times // DAY_S + 3) % 7) / 7.0  # 1 January 1970 was a Thursday
    month = (times.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64) % 12) / 12.0
    angles = 2.0 * np.pi * np.stack([hour, hour, weekday, weekday, month, month], axis=1)
    out = np.sin(angles)
    out[:, 1::2] = np.cos(angles[:, 1::2])
    return out
