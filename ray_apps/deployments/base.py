"""What a profile needs of the business's whole customer base: cut points of recency, frequency and monetary value, tiers and points.

The cut points are counted once per refresh in DuckDB, in the background; tiers and points are looked up for one customer over the same
snapshot of the warehouse, so nothing of the size of the customer base is kept in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb
import numpy as np

from contracts.errors import ArtifactError, StackError
from contracts.paths import Home
from contracts.tables import TIERS
from features.weekly import NEVER_DAYS
from warehouse.store import Warehouse

logger = logging.getLogger("regulars.base")

_QUINTILES = "[0.2, 0.4, 0.6, 0.8]"
_CUTS = f"""
SELECT business_id, quantile_cont(recency, {_QUINTILES}), quantile_cont(bought, {_QUINTILES}), quantile_cont(spent, {_QUINTILES})
FROM (SELECT business_id, customer_id, date_diff('day', max(occurred_at) FILTER (amount >= 0), $now)::DOUBLE AS recency,
             count(*) FILTER (amount >= 0 AND occurred_at >= $now - INTERVAL 365 DAY)::DOUBLE AS bought,
             coalesce(sum(amount) FILTER (occurred_at >= $now - INTERVAL 365 DAY), 0)::DOUBLE AS spent
      FROM transactions WHERE occurred_at < $now GROUP BY business_id, customer_id)
WHERE recency IS NOT NULL GROUP BY business_id
"""  # noqa: S608 - our own constants; the time is bound
_LOYALTY = "SELECT membership_tier, points_balance FROM customers WHERE business_id = $business AND customer_id = $customer LIMIT 1"
_CLASSES: tuple[tuple[str, Callable[[int, int, int], bool]], ...] = (
    ("CHAMPION", lambda r, f, m: r >= 4 and f >= 4 and m >= 4),
    ("LOYAL", lambda r, f, m: r >= 3 and f >= 3),
    ("AT_RISK", lambda r, f, m: r <= 2 and max(f, m) >= 3),
    ("HIBERNATING", lambda r, f, m: r <= 2),
)


@dataclass(frozen=True)
class Cuts:
    """Cut points of one business, float64 (4,) each: days since the last purchase; purchases and net spend of the last 365 days."""

    recency: np.ndarray
    frequency: np.ndarray
    monetary: np.ndarray

    def rfm(self, facts: Mapping[str, float]) -> dict[str, Any] | None:
        """The body of an `Rfm` of one customer; None for one who never bought.

        Args:
            facts: see `features.weekly.facts`.
        """
        days = round(facts["days_since_purchase"])
        if days >= NEVER_DAYS:
            return None
        bought, spent = round(facts["purchases_365d"]), round(facts["spend_365d"], 2) + 0.0
        r = 5 - int(np.searchsorted(self.recency, days, side="left"))
        f, m = (1 + int(np.searchsorted(cuts, value, side="left")) for cuts, value in ((self.frequency, bought), (self.monetary, spent)))
        new = round(facts["purchase_days"]) <= 1
        return {
            "recency": r,
            "frequency": f,
            "monetary": m,
            "rfmClass": rfm_class(r, f, m, new),
            "daysSincePurchase": days,
            "purchases": max(0, bought),
            "spend": spent,
        }


def rfm_class(r: int, f: int, m: int, new: bool) -> str:
    """A name for three quintiles.

    CHAMPION: 4 or 5 in each. LOYAL: recency and frequency 3 or more. AT_RISK: recency 1 or 2, frequency or spend 3 or more. HIBERNATING:
    the others of recency 1 or 2. Of the rest NEW after a single day with a purchase, else PROMISING.
    """
    found = next((name for name, fits in _CLASSES if fits(r, f, m)), None)
    if found is not None:
        return found
    return "NEW" if new else "PROMISING"


def count_cuts(connection: duckdb.DuckDBPyConnection, now: datetime) -> dict[str, Cuts]:
    """Cut points of every business with purchases before an instant, over the customers who ever bought."""
    rows = connection.execute(_CUTS, {"now": now}).fetchall()
    return {business: Cuts(*(np.array(cut, dtype=np.float64) for cut in cuts)) for business, *cuts in rows}


def loyalty(tier: str | None, points: int | None, spend_365d: float | None, tier_spend: Sequence[float]) -> dict[str, Any]:
    """The body of a `Loyalty`.

    Args:
        spend_365d: net spend of the last 365 days; None where it is not known.
        tier_spend: what SILVER, GOLD and PLATINUM need.
    """
    at = TIERS.index(tier) if tier in TIERS else None
    above = TIERS[at + 1] if at is not None and at + 1 < len(TIERS) else None
    lacking = progress = None
    if above is not None and at is not None and spend_365d is not None:
        lacking = round(max(0.0, tier_spend[at] - spend_365d), 2)
        progress = round(min(1.0, max(0.0, spend_365d / tier_spend[at])), 4)
    return {"tier": tier, "pointsBalance": points, "nextTier": above, "spendToNextTier": lacking, "progress": progress}


class CustomerBase:
    """Keeps the cut points, and a snapshot of the warehouse to look customers up in.

    Args:
        home: whose warehouse.
        now: serving time.
        refresh_s: pause between two counts.
    """

    def __init__(self, home: Home, now: Callable[[], datetime], refresh_s: float) -> None:
        self._home, self._now, self._refresh_s = home, now, refresh_s
        self._cuts: Mapping[str, Cuts] = {}
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to count in the background; needs a running event loop."""
        self._task = asyncio.create_task(self._run(), name="customer-base")

    async def stop(self) -> None:
        """End it."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._connection = None

    def cuts(self, business_id: str) -> Cuts | None:
        """The business's cut points; None until they are counted."""
        return self._cuts.get(business_id)

    async def member(self, business_id: str, customer_id: str) -> tuple[str | None, int | None] | None:
        """The customer's stored tier and points; None for one whom the programme does not list.

        Raises:
            ArtifactError: the warehouse cannot be read.
        """
        return await asyncio.to_thread(self._look_up, business_id, customer_id)

    def _look_up(self, business_id: str, customer_id: str) -> tuple[str | None, int | None] | None:
        connection = self._connection
        if connection is None:
            connection = self._connection = Warehouse(self._home.warehouse).connect()
        try:
            row = connection.cursor().execute(_LOYALTY, {"business": business_id, "customer": customer_id}).fetchone()
        except duckdb.Error as exc:
            self._connection = None
            raise ArtifactError(f"the warehouse's customers cannot be read: {type(exc).__name__}. Try again; see: regulars doctor") from exc
        return None if row is None else (row[0], None if row[1] is None else int(row[1]))

    def refresh(self) -> None:
        """Count anew over the warehouse as it is now. Takes a second: call it in a thread.

        Raises:
            StackError: the warehouse cannot be read.
        """
        connection = Warehouse(self._home.warehouse).connect()
        self._cuts = count_cuts(connection, self._now())
        self._connection = connection  # the one before is closed when the last look-up lets go of it

    async def _run(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.refresh)
            except (StackError, duckdb.Error) as exc:
                logger.warning("cannot count the customer base: %s", exc)
            await asyncio.sleep(self._refresh_s)
