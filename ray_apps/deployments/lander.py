"""From the inbox to the warehouse and the base states.

One landing: read the rows above the marker, land them in the warehouse, recompute the base state of the touched customers with the last
sequence number as its watermark, move the marker. It may be killed between any two steps and is then repeated: the warehouse drops rows
whose key it knows, a recomputed state is the same state, and a request counts an inbox event only above its customer's watermark. So no
event is lost and none is counted twice.

    API event          warehouse table                          touch
    purchase           transactions, transaction_items          purchase, token of the basket's category, the amount
    ticket             tickets                                  ticket, the rating
    feedback           events, as `review`                      review, value or rating
    all others         events                                   the event type, token of the reward, value (else amount)
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Protocol

import orjson
import pyarrow as pa

from contracts.errors import StackError
from contracts.tables import TABLES
from features.definitions import Touch, basket_category, event_touch, purchase_touch, ticket_touch
from features.history import DayAct, event_acts, purchase_acts, ticket_acts
from ray_apps.store import InboxRow, OperationalStore
from warehouse.store import LandingReport, Warehouse

log = logging.getLogger(__name__)

CategoryOf = Callable[[str, str], str | None]
"""From (business_id, product_id) to the product's category."""
_CENT = Decimal("0.0001")
_TABLE_OF = {"purchase": "transactions", "ticket": "tickets"}


class Materialize(Protocol):
    """Recompute the base state of some customers: `features.online.materialize` with its store bound.

    Args of a call:
        connection: DuckDB over a snapshot of the warehouse that holds every inbox row up to `watermark`.
        as_of: later than every landed row.
        watermark: last sequence number that is inside.
        customers: columns business_id and customer_id, each customer once.
    """

    def __call__(self, connection: Any, *, as_of: datetime, watermark: int, customers: pa.Table) -> object: ...


@dataclass(frozen=True, slots=True)
class LanderSettings:
    """How a landing goes.

    Attributes:
        older_than_s: rows received later than this ago wait for the next landing, so that no lower sequence number can still appear.
        limit: rows of one landing at most.
    """

    older_than_s: float = 2.0
    limit: int = 20_000


@dataclass(frozen=True, slots=True)
class LanderReport:
    """One landing: its rows `first`..`last` (0 when there was nothing), how many, the tables' reports, the customers recomputed."""

    rows: int = 0
    first: int = 0
    last: int = 0
    customers: int = 0
    tables: list[LandingReport] = field(default_factory=list)


class Lander:
    """Lands the inbox, one landing at a time over all processes of a home (a file lock beside the warehouse).

    Args:
        store: the operational database.
        warehouse: where rows land.
        materialize: recomputes base states.
        settings: sizes and the safety delay.
        now: serving time.
    """

    def __init__(
        self,
        store: OperationalStore,
        warehouse: Warehouse,
        materialize: Materialize,
        settings: LanderSettings | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store, self._warehouse, self._materialize = store, warehouse, materialize
        self._settings, self._now = settings or LanderSettings(), now

    async def land_once(self) -> LanderReport:
        """One landing; an empty report when nothing waits or another process is landing.

        Raises:
            UpstreamError: the operational database or the online store failed; nothing is lost, land again.
            ArtifactError: the warehouse cannot be read.
        """
        with self._only_one() as mine:
            if not mine:
                return LanderReport()
            rows = await self._store.events_to_land(self._settings.limit, self._settings.older_than_s)
            if not rows:
                return LanderReport()
            report = await _to_the_end(self._land, rows)
            await self._store.mark_landed(report.last)
            return report

    def _land(self, rows: list[InboxRow]) -> LanderReport:
        tables = warehouse_rows(rows, self._taken_by_others(rows))
        source = _source(rows)
        reports = [self._warehouse.land(name, batch, source) for name, batch in tables.items()]
        for r in reports:
            if r.rejected:
                log.warning("%d rows of %s put aside from %s: %s", r.rejected, r.table, source, r.reasons)
        customers = customers_of(rows)
        # Later than every row even if two clocks disagree: a state counts only touches strictly before its as-of time.
        as_of = max(self._now(), max(r.occurred_at for r in rows) + timedelta(microseconds=1))
        with self._warehouse.connect() as connection:
            self._materialize(connection, as_of=as_of, watermark=rows[-1].seq, customers=customers)
        return LanderReport(len(rows), rows[0].seq, rows[-1].seq, customers.num_rows, reports)

    def _taken_by_others(self, rows: Sequence[InboxRow]) -> set[tuple[str, str]]:
        """(business, event) of the purchases whose id names a transaction of another business.

        Items carry no business: two transactions with one id would share theirs. Such a purchase lands as `<business>:<event>`. A
        repeat decides alike: who landed first under the plain id keeps it.
        """
        owners: dict[str, set[str]] = {}
        purchases = [r for r in rows if r.event_type == "purchase"]
        if not purchases:
            return set()
        with self._warehouse.connect() as connection:
            connection.register("wanted_ids", pa.table({"transaction_id": sorted({r.event_id for r in purchases})}))
            query = "SELECT DISTINCT transaction_id, business_id FROM transactions SEMI JOIN wanted_ids USING (transaction_id)"
            for transaction_id, business_id in connection.execute(query).fetchall():
                owners.setdefault(transaction_id, set()).add(business_id)
        taken = set()
        for row in purchases:
            holders = owners.setdefault(row.event_id, set())
            if holders and row.business_id not in holders:
                taken.add((row.business_id, row.event_id))
            else:
                holders.add(row.business_id)
        return taken

    @contextmanager
    def _only_one(self) -> Iterator[bool]:
        self._warehouse.root.mkdir(parents=True, exist_ok=True)
        with (self._warehouse.root / ".lander.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    async def run_forever(self, interval_s: float) -> None:
        """Land until cancelled. A failed landing is logged and tried again; a full one is followed by the next at once."""
        while True:
            rows = 0
            try:
                rows = (await self.land_once()).rows
            except StackError as exc:
                log.warning("landing failed, next try in %g s: %s", interval_s, exc)
            except Exception:
                log.exception("landing failed, next try in %g s", interval_s)
            if rows < self._settings.limit:
                await asyncio.sleep(interval_s)


async def _to_the_end(work: Callable[[list[InboxRow]], LanderReport], rows: list[InboxRow]) -> LanderReport:
    """Run in a thread. When cancelled, wait for the thread: it must not go on behind the back of a closed store or lock."""
    task = asyncio.ensure_future(asyncio.to_thread(work, rows))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _source(rows: Sequence[InboxRow]) -> str:
    """Names a batch for ever. The hash keeps a new database, whose numbers begin at 1 again, from repeating an old name."""
    names = hashlib.sha256(orjson.dumps([[r.business_id, r.event_id] for r in rows])).hexdigest()[:12]
    return f"inbox-{rows[0].seq}-{rows[-1].seq}-{names}"


def customers_of(rows: Iterable[InboxRow]) -> pa.Table:
    """business_id, customer_id: each customer once."""
    pairs = sorted({(r.business_id, r.customer_id) for r in rows})
    return pa.table({name: pa.array([p[i] for p in pairs], pa.string()) for i, name in enumerate(("business_id", "customer_id"))})


def warehouse_rows(rows: Iterable[InboxRow], taken: set[tuple[str, str]] | frozenset[tuple[str, str]] = frozenset()) -> dict[str, pa.Table]:
    """Inbox rows as warehouse rows, by table; in the order in which they must land (items after their transactions).

    Args:
        taken: (business_id, event_id) of purchases whose id another business uses.
    """
    out: dict[str, list[dict[str, Any]]] = {"transactions": [], "transaction_items": [], "events": [], "tickets": []}
    for row in rows:
        made = _MAKERS.get(row.event_type, _event)(row)
        table = _TABLE_OF.get(row.event_type, "events")
        if table == "transactions":
            if (row.business_id, row.event_id) in taken:
                made["transaction_id"] = f"{row.business_id}:{row.event_id}"
            out["transaction_items"].extend({"transaction_id": made["transaction_id"], **line} for line in _lines(row))
        out[table].append(made)
    return {name: pa.Table.from_pylist(made, schema=_landing_schema(name)) for name, made in out.items() if made}


def _landing_schema(table: str) -> pa.Schema:
    return pa.schema([f.with_nullable(True) for f in TABLES[table].schema])


def touches_of(rows: Iterable[InboxRow], category_of: CategoryOf = lambda business_id, product_id: None) -> list[Touch]:
    """Inbox rows as touches, for the request path: what `features.definitions.TOUCHES_SQL` makes of them once they have landed.

    Args:
        category_of: the products' categories; without them a purchase has no token until it has landed.
    """
    return [_touch(row, category_of) for row in rows]


def _touch(row: InboxRow, category_of: CategoryOf) -> Touch:
    sent = row.payload
    if row.event_type == "purchase":
        return purchase_touch(row.occurred_at, float(_money(sent["amount"])), _category(row, category_of))
    if row.event_type == "ticket":
        return ticket_touch(row.occurred_at, sent.get("metadata", {}).get("rating"))
    kind = "review" if row.event_type == "feedback" else row.event_type
    return event_touch(kind, row.occurred_at, sent.get("rewardId"), _value(row))


def acts_of(rows: Iterable[InboxRow]) -> list[DayAct]:
    """Inbox rows as parts of days, for the request path: what `features.weekly.ACTS_SQL` makes of them once they have landed."""
    return [act for row in rows for act in _acts(row)]


def _acts(row: InboxRow) -> list[DayAct]:
    sent, extra = row.payload, row.payload.get("metadata", {})
    if row.event_type == "purchase":
        discount = _money_or_none(extra.get("discountAmount"))
        return purchase_acts(row.occurred_at, float(_money(sent["amount"])), None if discount is None else float(discount))
    if row.event_type == "ticket":
        rating = extra.get("rating")
        return ticket_acts(row.occurred_at, None if rating is None else int(rating), extra.get("sentiment"))
    return event_acts(row.event_type, row.occurred_at)  # no sum counts a review, so feedback needs no other name here


def _category(row: InboxRow, category_of: CategoryOf) -> str | None:
    totals: dict[str, Decimal] = {}
    for line in _lines(row):
        category = category_of(row.business_id, line["product_id"])
        if category:  # added up as decimals, as the warehouse does, so that equal sums are equal
            totals[category] = totals.get(category, Decimal(0)) + (line["amount"] or Decimal(0))
    return basket_category((name, float(total)) for name, total in totals.items())


def _value(row: InboxRow) -> float | None:
    sent = row.payload
    rating = sent.get("metadata", {}).get("rating") if row.event_type == "feedback" else None
    return next((float(v) for v in (sent.get("value"), rating, sent.get("amount")) if v is not None), None)


def _money(value: float) -> Decimal:
    return Decimal(str(value)).quantize(_CENT, rounding=ROUND_HALF_EVEN)


def _money_or_none(value: float | None) -> Decimal | None:
    return None if value is None else _money(value)


def _purchase(row: InboxRow) -> dict[str, Any]:
    sent, extra = row.payload, row.payload.get("metadata", {})
    return {
        "transaction_id": row.event_id,
        "business_id": row.business_id,
        "customer_id": row.customer_id,
        "occurred_at": row.occurred_at,
        "amount": _money(sent["amount"]),
        "discount_amount": _money_or_none(extra.get("discountAmount")),
        "channel": sent.get("channel"),
        "store": extra.get("store"),
    }


def _lines(row: InboxRow) -> list[dict[str, Any]]:
    """A purchase's items, one row a product: the same product on two lines is added up."""
    lines: dict[str, dict[str, Any]] = {}
    for item in row.payload.get("metadata", {}).get("items") or ():
        line = lines.setdefault(item["productId"], {"product_id": item["productId"], "quantity": 0, "amount": None})
        quantity, amount = item.get("quantity"), item.get("amount")
        line["quantity"] += 1 if quantity is None else int(quantity)
        if amount is not None:
            line["amount"] = (line["amount"] or Decimal(0)) + _money(amount)
    return list(lines.values())


def _ticket(row: InboxRow) -> dict[str, Any]:
    sent, extra = row.payload, row.payload.get("metadata", {})
    rating = extra.get("rating")
    return {
        "ticket_id": row.event_id,
        "business_id": row.business_id,
        "customer_id": row.customer_id,
        "created_at": row.occurred_at,
        "channel": sent.get("channel"),
        "issue_type": extra.get("issueType"),
        "rating": None if rating is None else int(rating),
        "resolution_hours": None if extra.get("resolutionHours") is None else float(extra["resolutionHours"]),
        "text": extra.get("text"),
        "sentiment": extra.get("sentiment"),
    }


def _event(row: InboxRow) -> dict[str, Any]:
    sent = row.payload
    return {
        "event_id": row.event_id,
        "business_id": row.business_id,
        "customer_id": row.customer_id,
        "occurred_at": row.occurred_at,
        "event_type": "review" if row.event_type == "feedback" else row.event_type,
        "reward_id": sent.get("rewardId"),
        "campaign_id": sent.get("campaignId"),
        "channel": sent.get("channel"),
        "value": _value(row),
        "metadata": orjson.dumps(sent["metadata"]).decode() if sent.get("metadata") else None,
    }


_MAKERS: dict[str, Callable[[InboxRow], dict[str, Any]]] = {"purchase": _purchase, "ticket": _ticket}
