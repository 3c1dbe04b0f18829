"""Samples of the sequence model: inputs as of a day, and what came after it as far as that is known.

Letters: n samples, B = 12 blocks of 30 days, M = 12 months of 30.4375 days.

A label is only what lies between the as-of day and the end day (the first day that is not known). What would lie after the end day is
censored: it is masked, never taken for silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from contracts.errors import ArtifactError
from contracts.sequence import STEP_DAYS
from contracts.tensors import MONTH_COUNT, MONTH_DAYS, STEP_COUNT
from features import weekly

BLOCKS = STEP_COUNT + 2
"""30-day blocks that are looked at; a silent period of 90 days is three empty ones."""
ACTIVE_DAYS = 90


@dataclass(frozen=True)
class Samples:
    """n (customer, as-of day) pairs of customers who had bought before.

    Attributes:
        customer: int32 (n,), row in `customers`. as_of_day: int32 (n,), days since 1970-01-01.
        weeks, statics: inputs, see `contracts.tensors.SEQUENCE`.
        active: bool (n,), bought in the 90 days before.
        next_purchase_days: float32 (n,), days from the as-of day to the next purchase (0 = on that day); inf where none is known.
        observed_days: int32 (n,), days after the as-of day that are known.
        bought: bool (n, B), a purchase in each block of 30 days.
        monthly_spend: float32 (n, M), net. monthly_purchases: bool (n, M). months_seen: int8 (n,), whole months that are known.
        customers: columns business_id, customer_id.
    """

    customer: np.ndarray
    as_of_day: np.ndarray
    weeks: np.ndarray
    statics: np.ndarray
    active: np.ndarray
    next_purchase_days: np.ndarray
    observed_days: np.ndarray
    bought: np.ndarray
    monthly_spend: np.ndarray
    monthly_purchases: np.ndarray
    months_seen: np.ndarray
    customers: pa.Table

    def __len__(self) -> int:
        return len(self.customer)

    def take(self, index: np.ndarray) -> Samples:
        """Some of the samples."""
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "customers"})

    def churned(self, horizon_days: int) -> np.ndarray:
        """bool (n,): no purchase within the horizon. Only meaningful where `observed_days` >= horizon_days."""
        return self.next_purchase_days >= horizon_days

    def asked(self, horizon_days: int) -> np.ndarray:
        """bool (n,): whose churn is asked for and known: active, and seen for the whole horizon."""
        return self.active & (self.observed_days >= horizon_days)

    def spent(self, days: int) -> np.ndarray:
        """float64 (n,): net spend of the whole months of 30.4375 days that lie within `days`."""
        return self.monthly_spend[:, : months_in(days)].sum(1, dtype=np.float64)


def months_in(days: int) -> int:
    """Whole months of 30.4375 days in a number of days, at most 12; a day short of one is forgiven (91 days are 3 months)."""
    return int(min((days + 1) / MONTH_DAYS, MONTH_COUNT))


def day_of(when: datetime) -> int:
    """The as-of day of an instant."""
    return weekly.as_of_day(when)


def midnight(day: int) -> datetime:
    """The beginning of a day."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)


def span(connection: duckdb.DuckDBPyConnection, business_id: str | None = None) -> tuple[int, int]:
    """First day with a transaction, and the day after the last.

    Raises:
        ArtifactError: there are no transactions.
    """
    sql = "SELECT epoch_us(min(occurred_at)) // 86400000000, epoch_us(max(occurred_at)) // 86400000000 FROM transactions"
    found = connection.sql(
        sql + (" WHERE business_id = $business" if business_id else ""), params={"business": business_id} if business_id else None
    ).fetchall()[0]
    if found[0] is None:
        raise ArtifactError("the warehouse holds no transactions, a history needs some. Bring data in: regulars data")
    return int(found[0]), int(found[1]) + 1


def load_customers(connection: duckdb.DuckDBPyConnection, before: int, business_id: str | None = None) -> pa.Table:
    """Everyone who bought before a day: business_id, customer_id, sorted."""
    sql = (
        "SELECT DISTINCT business_id, customer_id FROM transactions WHERE amount >= 0 AND customer_id IS NOT NULL AND occurred_at < $before"
    )
    params: dict[str, Any] = {"before": midnight(before)}
    if business_id:
        sql, params = sql + " AND business_id = $business", params | {"business": business_id}
    return connection.sql(sql + " ORDER BY business_id, customer_id", params=params).to_arrow_table()


def build(
    connection: duckdb.DuckDBPyConnection,
    as_of_days: Sequence[int],
    end_day: int,
    business_id: str | None = None,
    max_per_day: int | None = None,
    seed: int = 0,
    customers: pa.Table | None = None,
    history: weekly.DailyHistory | None = None,
) -> Samples:
    """Samples at several as-of days, with labels up to `end_day`.

    Args:
        as_of_days: ascending. end_day: the first day that is not known.
        max_per_day: customers drawn at each as-of day, with the seed; all when None.
        customers, history: given together, they are not read again; the history must reach to `end_day`.

    Raises:
        ArtifactError: nobody had bought before the as-of days.
    """
    if customers is None or history is None:
        customers = load_customers(connection, max(as_of_days), business_id)
        history = weekly.read(connection, customers, midnight(end_day))
    rng = np.random.default_rng(seed)
    first = first_purchase(history)
    parts = []
    for day in as_of_days:
        who = np.flatnonzero(first < day)
        if max_per_day is not None and len(who) > max_per_day:
            who = np.sort(rng.choice(who, max_per_day, replace=False))
        if len(who):
            parts.append(_at(pick(history, who), who, day, end_day))
    if not parts:
        raise ArtifactError(
            f"nobody bought before {midnight(max(as_of_days)):%Y-%m-%d}, a sample needs a purchase. Take a later as-of time"
        )
    return Samples(**{name: np.concatenate([p[name] for p in parts]) for name in parts[0]}, customers=customers)


def first_purchase(history: weekly.DailyHistory) -> np.ndarray:
    """Day of each customer's first purchase, int64 (C,); far away where there is none."""
    owner = np.repeat(np.arange(len(history)), np.diff(history.starts))
    bought = history.sums[:, weekly.PURCHASES] > 0
    first = np.full(len(history), np.iinfo(np.int32).max, dtype=np.int64)
    np.minimum.at(first, owner[bought], history.days[bought])
    return first


def pick(history: weekly.DailyHistory, who: np.ndarray) -> weekly.DailyHistory:
    """The histories of some customers (ascending rows)."""
    lengths = np.diff(history.starts)[who]
    rows = np.repeat(history.starts[:-1][who] - np.r_[0, np.cumsum(lengths)[:-1]], lengths) + np.arange(lengths.sum())
    return weekly.DailyHistory(np.r_[0, np.cumsum(lengths)], history.days[rows], history.sums[rows], history.joined[who])


def _at(history: weekly.DailyHistory, who: np.ndarray, day: int, end_day: int) -> dict[str, np.ndarray]:
    """The columns of `Samples` at one as-of day."""
    n = len(who)
    inputs = weekly.tensors(history, day)
    owner = np.repeat(np.arange(n), np.diff(history.starts))
    later = (history.days >= day) & (history.days < end_day)
    owner_later, after, sums = owner[later], (history.days[later] - day).astype(np.int64), history.sums[later]
    bought = sums[:, weekly.PURCHASES] > 0
    upcoming = np.full(n, np.inf, dtype=np.float32)
    np.minimum.at(upcoming, owner_later[bought], after[bought].astype(np.float32))
    blocks = np.zeros((n, BLOCKS), dtype=bool)
    near = bought & (after < BLOCKS * STEP_DAYS)
    blocks[owner_later[near], after[near] // STEP_DAYS] = True
    month = (after / MONTH_DAYS).astype(np.int64)
    near = month < MONTH_COUNT
    cell = owner_later[near] * MONTH_COUNT + month[near]
    spend = np.bincount(cell, weights=sums[near, weekly.SPEND], minlength=n * MONTH_COUNT).reshape(n, MONTH_COUNT)
    purchases = np.bincount(cell, weights=bought[near], minlength=n * MONTH_COUNT).reshape(n, MONTH_COUNT) > 0
    recent = (history.days < day) & (history.days >= day - ACTIVE_DAYS) & (history.sums[:, weekly.PURCHASES] > 0)
    observed = end_day - day
    return {
        "customer": who.astype(np.int32),
        "as_of_day": np.full(n, day, dtype=np.int32),
        "weeks": inputs["weeks"],
        "statics": inputs["statics"],
        "active": np.bincount(owner[recent], minlength=n) > 0,
        "next_purchase_days": upcoming,
        "observed_days": np.full(n, observed, dtype=np.int32),
        "bought": blocks,
        "monthly_spend": spend.astype(np.float32),
        "monthly_purchases": purchases,
        "months_seen": np.full(n, months_in(observed), dtype=np.int8),
    }
