"""The operational database: keys, inbox, put-aside events, recommendations, feedback. SQLite by default, PostgreSQL in production.

Times are stored as whole microseconds since 1970 (UTC) in a BIGINT: the same on both engines, and cheap on the request path.

`recent_events` is read in every recommendation request. Measured on SQLite with 200,000 rows, 3 to 4 of them found, four ways in turn on
2 cores busy with other work (load 7), p50 / p99: a plain sqlite3 connection read in the event loop 0.12 / 0.32 ms, a reader thread
0.21 / 8.1, aiosqlite 0.24 / 8.0, SQLAlchemy Core on aiosqlite 1.21 / 25. The plain read is chosen (alone it takes 0.02 to 0.03 ms): it is
shorter than the switch to another thread, and in WAL mode a reader never waits for a writer (0.03 / 0.78 ms beside 3,700 inserts a second).

Commit order: on PostgreSQL a lower `seq` could be committed after a higher one. Writers of the inbox hold a shared advisory lock and
the lander takes it exclusively before it reads, so no lower `seq` can appear below one that it has seen. SQLite has one writer at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, NamedTuple, Self, TypeVar

import orjson
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from contracts.api import EventIn, Rejection
from contracts.errors import ConfigError, ContractError, Overloaded, UnknownItem, UpstreamError, UpstreamTimeout

log = logging.getLogger(__name__)
T = TypeVar("T")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
INBOX_LOCK = 0x5265_6701  # "Reg", 1: PostgreSQL advisory lock between writers of the inbox and the lander
MAX_RAW_BYTES = 65_536
NEGATIVE = "NEGATIVE_FEEDBACK"


def to_micros(when: datetime) -> int:
    """Whole microseconds since 1970; a time without a zone is taken as UTC. Exact, unlike `timestamp()`."""
    delta = (when if when.tzinfo else when.replace(tzinfo=UTC)) - EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def from_micros(micros: int) -> datetime:
    """The inverse of `to_micros`."""
    return EPOCH + timedelta(microseconds=micros)


class Micros(sa.types.TypeDecorator[datetime]):
    """A UTC time, stored as microseconds since 1970."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else to_micros(value)

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else from_micros(value)


metadata = sa.MetaData()
# SQLite counts up only an INTEGER PRIMARY KEY; AUTOINCREMENT keeps it from giving a pruned number again.
_SEQ = sa.BigInteger().with_variant(sa.Integer, "sqlite")

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("business_id", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("created_at", Micros, nullable=False),
    sa.Column("revoked_at", Micros),
    sa.CheckConstraint("role IN ('app', 'analyst', 'private_reader', 'admin')", name="api_keys_role"),
)
inbox = sa.Table(
    "inbox",
    metadata,
    sa.Column("seq", _SEQ, primary_key=True, autoincrement=True),
    sa.Column("business_id", sa.Text, nullable=False),
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("customer_id", sa.Text, nullable=False),
    sa.Column("event_type", sa.Text, nullable=False),
    sa.Column("occurred_at", Micros, nullable=False),
    sa.Column("received_at", Micros, nullable=False),
    sa.Column("content_hash", sa.Text, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.UniqueConstraint("business_id", "event_id", name="inbox_event"),
    sa.Index("inbox_customer", "business_id", "customer_id", "seq"),
    sqlite_autoincrement=True,
)
rejected_events = sa.Table(
    "rejected_events",
    metadata,
    sa.Column("rejected_id", _SEQ, primary_key=True, autoincrement=True),
    sa.Column("business_id", sa.Text, nullable=False),
    sa.Column("raw", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("received_at", Micros, nullable=False),
    sa.Index("rejected_events_received", "received_at"),
    sqlite_autoincrement=True,
)
recommendations = sa.Table(
    "recommendations",
    metadata,
    sa.Column("recommendation_id", sa.Text, primary_key=True),
    sa.Column("business_id", sa.Text, nullable=False),
    sa.Column("customer_id", sa.Text, nullable=False),
    sa.Column("created_at", Micros, nullable=False),
    sa.Column("model_version", sa.Text, nullable=False),
    sa.Column("degraded", sa.Boolean, nullable=False),
    sa.Column("coverage", sa.Text, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Index("recommendations_customer", "business_id", "customer_id", "created_at"),
    sa.Index("recommendations_created", "created_at"),
)
feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("recommendation_id", sa.Text, primary_key=True),
    sa.Column("reward_id", sa.Text, primary_key=True),
    sa.Column("event_type", sa.Text, primary_key=True),
    sa.Column("business_id", sa.Text, nullable=False),
    sa.Column("created_at", Micros, nullable=False),
    sa.Column("metadata", sa.Text, nullable=False),
    sa.Index("feedback_created", "business_id", "created_at"),
)
landed = sa.Table(
    "landed",
    metadata,
    sa.Column("marker", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
)


class InboxRow(NamedTuple):
    """One stored event.

    Attributes:
        seq: grows in the order of commits.
        occurred_at: UTC, the time from which it counts.
        payload: what the caller sent, camelCase (`contracts.api.EventIn.content`).
    """

    seq: int
    business_id: str
    event_id: str
    customer_id: str
    event_type: str
    occurred_at: datetime
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class InsertReport:
    """What became of events: how many are new, how many were known, and (position, why) of those not taken."""

    accepted: int
    duplicates: int
    rejected: list[tuple[int, Rejection]]


@dataclass(frozen=True, slots=True)
class StoredRecommendation:
    """One answer as kept for history and feedback.

    Attributes:
        recommendations: what was shown, in wire form (camelCase), best first; each has `rewardId`.
    """

    recommendation_id: str
    business_id: str
    customer_id: str
    created_at: datetime
    model_version: str
    degraded: bool
    coverage: str
    recommendations: list[dict[str, Any]]

    def columns(self) -> dict[str, Any]:
        return {
            "recommendation_id": self.recommendation_id,
            "business_id": self.business_id,
            "customer_id": self.customer_id,
            "created_at": self.created_at,
            "model_version": self.model_version,
            "degraded": self.degraded,
            "coverage": self.coverage,
            "payload": orjson.dumps(self.recommendations).decode(),
        }


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Newest first; `total` counts all of the customer's."""

    items: list[StoredRecommendation]
    total: int


@dataclass(frozen=True, slots=True)
class FeedbackReport:
    """Whether feedback was new, and whose recommendation it is about."""

    created: bool
    recommendation: StoredRecommendation


@dataclass(frozen=True, slots=True)
class Shown:
    """What one customer was shown lately.

    Attributes:
        times: reward id -> when answers that held it were given, epoch seconds, newest first.
        acted: reward id -> the newest of those answers in which it was clicked or converted.
    """

    times: dict[str, list[float]]
    acted: dict[str, float]


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One bearer key without its secret; `hash` is the SHA-256 (hex) of the secret."""

    key_id: str
    business_id: str
    role: str
    hash: str
    name: str
    created_at: datetime
    revoked_at: datetime | None


def async_url(url: str) -> sa.URL:
    """The URL with the async driver we use.

    Raises:
        ConfigError: not a SQLite file and not PostgreSQL. The URL is not repeated: it may hold a password.
    """
    try:
        parsed = make_url(url)
    except SQLAlchemyError as exc:
        raise ConfigError(f"database URL cannot be read, must be {_URL_FORMS}. Correct database_url.") from exc
    driver = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
    backend = parsed.drivername.split("+")[0]
    if backend not in driver or (backend == "sqlite" and parsed.database in (None, "", ":memory:")):
        raise ConfigError(f"database URL is of kind {parsed.drivername}, must be {_URL_FORMS}. Correct database_url.")
    return parsed.set(drivername=driver[backend])


_URL_FORMS = "sqlite:///FILE or postgresql://USER@HOST/DATABASE"


class OperationalStore:
    """Async access to the operational database. Build one per event loop; `await close()` at the end.

    Every method raises UpstreamError (UpstreamTimeout when no connection got free) if the database fails.

    Args:
        url: `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/DATABASE`; migrated before (`ray_apps.migrations.upgrade`).
        pool_size: connections at most, on PostgreSQL.
        timeout_s: longest wait for a connection, a lock or (PostgreSQL) a statement.
    """

    def __init__(self, url: str | SecretStr, *, pool_size: int = 8, timeout_s: float = 5.0) -> None:
        self._url = async_url(url.get_secret_value() if isinstance(url, SecretStr) else url)
        self.dialect = self._url.get_backend_name()
        self._where = "SQLite" if self.is_sqlite else f"PostgreSQL at {self._url.host or 'localhost'}"
        self._timeout_s = timeout_s
        self._write, self._read = self._engines(pool_size)
        self._reader: sqlite3.Connection | None = None

    @property
    def is_sqlite(self) -> bool:
        return self.dialect == "sqlite"

    def _engines(self, pool_size: int) -> tuple[AsyncEngine, AsyncEngine]:
        common: dict[str, Any] = {"hide_parameters": True, "pool_timeout": self._timeout_s}
        if not self.is_sqlite:
            milliseconds = str(int(self._timeout_s * 1000))
            server = {"application_name": "regulars", "statement_timeout": milliseconds, "lock_timeout": milliseconds}
            engine = create_async_engine(
                self._url, pool_size=pool_size, max_overflow=0, pool_pre_ping=True,
                connect_args={"server_settings": server, "timeout": self._timeout_s}, **common,
            )  # fmt: skip
            return engine, engine
        engines = []
        # One writer connection: writers of this process queue in the pool instead of polling for SQLite's lock.
        for size, begin in ((1, "BEGIN IMMEDIATE"), (2, "BEGIN")):
            engine = create_async_engine(self._url, pool_size=size, max_overflow=0, **common)
            sa.event.listen(engine.sync_engine, "connect", self._prepare_sqlite)
            sa.event.listen(engine.sync_engine, "begin", _beginner(begin))
            engines.append(engine)
        return engines[0], engines[1]

    def _prepare_sqlite(self, connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver begins nothing; `_beginner` does
        cursor = connection.cursor()
        for pragma in (f"busy_timeout={int(self._timeout_s * 1000)}", "synchronous=NORMAL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
        connection.run_async(self._into_wal)

    async def _into_wal(self, driver: Any) -> None:
        """Write-ahead log. Of two connections that change a new file at once, SQLite fails one without waiting: it tries again."""
        until = time.monotonic() + self._timeout_s
        while True:
            try:
                await driver.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.02)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turns every failure of the database into UpstreamError; messages name the engine and the kind of failure, never values."""
        try:
            yield
        except (PoolTimeout, TimeoutError) as exc:
            raise UpstreamTimeout(
                f"no answer from the operational database ({self._where}) within {self._timeout_s:g} s. See that it keeps up."
            ) from exc
        except (SQLAlchemyError, sqlite3.Error, OSError) as exc:
            kind = type(getattr(exc, "orig", None) or exc).__name__
            raise UpstreamError(
                f"operational database ({self._where}) failed: {kind}. See that it runs, is reachable and was migrated by `regulars serve`."
            ) from exc

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """One write transaction; commits at the end, rolls back on any error."""
        with self._guarded():
            async with self._write.begin() as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection to read with."""
        with self._guarded():
            async with self._read.connect() as connection:
                yield connection

    async def ping(self) -> None:
        """Raise UpstreamError unless the database answers and has our tables."""
        async with self.reading() as connection:
            await connection.execute(sa.select(landed.c.seq).limit(1))

    async def close(self) -> None:
        """Close all connections; the store may be used again and opens new ones."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        await self._write.dispose()
        await self._read.dispose()

    def insert_into(self, table: sa.Table) -> Any:
        """The engine's own INSERT, which knows ON CONFLICT."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    # Inbox

    async def insert_events(
        self, business_id: str, events: Sequence[EventIn], counted_at: Callable[[datetime], datetime] | None = None
    ) -> InsertReport:
        """Store events in one transaction; durable when this returns.

        An `eventId` that is known with the same content is a duplicate; with other content it is rejected (`event_id_conflict`).

        Args:
            counted_at: from an event's own time to the one that is stored (`ServingClock.counted_at`); its ContractError
                rejects that event alone (`occurred_at_in_future`).
        """
        rows: dict[str, tuple[int, dict[str, Any]]] = {}
        duplicates, rejected = 0, []
        received = datetime.now(UTC)
        for index, event in enumerate(events):
            try:
                row = _inbox_columns(business_id, event, received, counted_at)
            except ContractError as exc:
                rejected.append((index, Rejection("occurred_at_in_future", str(exc), event.event_id)))
                continue
            first = rows.setdefault(event.event_id, (index, row))[1]
            if first is not row and first["content_hash"] == row["content_hash"]:
                duplicates += 1
            elif first is not row:
                rejected.append((index, _conflict(event.event_id)))
        if not rows:
            return InsertReport(0, duplicates, rejected)
        async with self.transaction() as connection:
            known = await self._insert_inbox(connection, business_id, [row for _, row in rows.values()])
        for event_id, content_hash in known.items():
            index, row = rows[event_id]
            if content_hash == row["content_hash"]:
                duplicates += 1
            else:
                rejected.append((index, _conflict(event_id)))
        return InsertReport(len(rows) - len(known), duplicates, sorted(rejected, key=lambda r: r[0]))

    async def _insert_inbox(self, connection: AsyncConnection, business_id: str, rows: list[dict[str, Any]]) -> dict[str, str]:
        """Insert what is new; returns the content hashes of what was known, by event id."""
        if not self.is_sqlite:
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock_shared(INBOX_LOCK)))
            rows = sorted(rows, key=lambda r: r["event_id"])  # one order for all writers, so that two batches cannot deadlock
        statement = self.insert_into(inbox).on_conflict_do_nothing(index_elements=["business_id", "event_id"]).returning(inbox.c.event_id)
        inserted = set((await connection.execute(statement, rows)).scalars())
        old = [r["event_id"] for r in rows if r["event_id"] not in inserted]
        if not old:
            return {}
        query = sa.select(inbox.c.event_id, inbox.c.content_hash).where(inbox.c.business_id == business_id, inbox.c.event_id.in_(old))
        return {event_id: content_hash for event_id, content_hash in await connection.execute(query)}  # noqa: C416 - rows, not pairs

    async def put_aside(self, business_id: str, rejected: Sequence[tuple[Any, str]]) -> None:
        """Keep events that were not taken, as (raw, reason); a raw event is cut at 64 KiB."""
        now = datetime.now(UTC)
        rows = [{"business_id": business_id, "raw": _raw_text(raw), "reason": reason[:128], "received_at": now} for raw, reason in rejected]
        if rows:
            async with self.transaction() as connection:
                await connection.execute(sa.insert(rejected_events), rows)

    async def recent_events(self, business_id: str, customer_id: str, above_seq: int, limit: int = 1000) -> list[InboxRow]:
        """The customer's inbox events above a sequence number, oldest first: what the stored base state does not hold yet.

        Of more than `limit` the newest are given: the older ones matter least, and a request must stay cheap.
        """
        if self.is_sqlite:
            with self._guarded():
                return self._read_recent(business_id, customer_id, above_seq, limit)
        with self._guarded():
            async with self._read.connect() as connection:
                connection = await connection.execution_options(isolation_level="AUTOCOMMIT")  # saves two round trips
                found = await connection.execute(
                    _RECENT, {"business_id": business_id, "customer_id": customer_id, "above_seq": above_seq, "limit": limit}
                )
                rows = [_inbox_row(*row) for row in found]
        rows.reverse()
        return rows

    def _read_recent(self, business_id: str, customer_id: str, above_seq: int, limit: int) -> list[InboxRow]:
        if self._reader is None:
            self._reader = self._open_reader()
        found = self._reader.execute(_RECENT_SQLITE, (business_id, customer_id, above_seq, limit)).fetchall()
        rows = [_inbox_row(*row) for row in found]
        rows.reverse()
        return rows

    def _open_reader(self) -> sqlite3.Connection:
        """A read-only connection; it waits at most 50 ms, because it would hold up the whole event loop."""
        connection = sqlite3.connect(f"file:{_quoted(self._url.database or '')}?mode=ro", uri=True, isolation_level=None, timeout=0.05)
        connection.execute("PRAGMA query_only=ON")
        return connection

    async def events_to_land(self, limit: int, older_than_s: float = 2.0) -> list[InboxRow]:
        """The next rows to land, in order of `seq`, up to the first that was received less than `older_than_s` ago."""
        newest = datetime.now(UTC) - timedelta(seconds=older_than_s)
        marker = sa.select(landed.c.seq).where(landed.c.marker == "inbox").scalar_subquery()
        query = (
            sa.select(*_INBOX_COLUMNS, inbox.c.received_at)
            .where(inbox.c.seq > sa.func.coalesce(marker, 0))
            .order_by(inbox.c.seq)
            .limit(limit)
        )
        async with self.transaction() if not self.is_sqlite else self.reading() as connection:
            if not self.is_sqlite:
                await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(INBOX_LOCK)))
            found = (await connection.execute(query)).all()
        rows: list[InboxRow] = []
        for *columns, received_at in found:
            if received_at > newest:
                break
            rows.append(_inbox_row(*columns))
        return rows

    async def customers_above(self, above_seq: int, limit: int = 1000) -> list[tuple[int, str, str]]:
        """Whose events lie above a sequence number: (seq, business_id, customer_id) of each event, oldest first."""
        columns = (inbox.c.seq, inbox.c.business_id, inbox.c.customer_id)
        async with self.reading() as connection:
            found = await connection.execute(sa.select(*columns).where(inbox.c.seq > above_seq).order_by(inbox.c.seq).limit(limit))
            return [(int(seq), str(business), str(customer)) for seq, business, customer in found]

    async def landed_seq(self) -> int:
        """Up to which `seq` everything is in the warehouse and in the base states; 0 at first."""
        async with self.reading() as connection:
            return (await connection.execute(sa.select(landed.c.seq).where(landed.c.marker == "inbox"))).scalar_one_or_none() or 0

    async def mark_landed(self, seq: int) -> None:
        """Everything up to `seq` is landed. The marker never goes back."""
        statement = self.insert_into(landed).values(marker="inbox", seq=seq)
        statement = statement.on_conflict_do_update(index_elements=["marker"], set_={"seq": seq}, where=landed.c.seq < seq)
        async with self.transaction() as connection:
            await connection.execute(statement)

    # Recommendations and feedback

    async def save_recommendations(self, batch: Sequence[StoredRecommendation]) -> None:
        """Store answers in one transaction; one that is there already stays as it is."""
        if not batch:
            return
        statement = self.insert_into(recommendations).on_conflict_do_nothing(index_elements=["recommendation_id"])
        async with self.transaction() as connection:
            await connection.execute(statement, [r.columns() for r in batch])

    async def history(self, business_id: str, customer_id: str, limit: int, offset: int = 0) -> HistoryPage:
        """One page of a customer's past answers, newest first."""
        mine = (recommendations.c.business_id == business_id, recommendations.c.customer_id == customer_id)
        newest_first = (recommendations.c.created_at.desc(), recommendations.c.recommendation_id)
        async with self.reading() as connection:
            total = (await connection.execute(sa.select(sa.func.count()).select_from(recommendations).where(*mine))).scalar_one()
            page = await connection.execute(sa.select(recommendations).where(*mine).order_by(*newest_first).limit(limit).offset(offset))
            return HistoryPage([_recommendation(row) for row in page.mappings()], total)

    async def shown_to(self, business_id: str, customer_id: str, since: datetime, limit: int = 100) -> Shown:
        """What a customer was shown since an instant, for the frequency cap; of more than `limit` answers the newest count.

        Times are those of the answers (serving time), also for clicks. Read only where a cap is set; on SQLite in place, as the inbox is:
        10 answers of 5 rewards take 0.12 ms, 100 take 0.9 ms. An answer counts once its batch is written, at most 0.05 s later.
        """
        bound = {"business_id": business_id, "customer_id": customer_id, "since": to_micros(since), "limit": limit}
        if self.is_sqlite:
            with self._guarded():
                if self._reader is None:
                    self._reader = self._open_reader()
                return _shown(*(self._reader.execute(query, bound).fetchall() for query in (_SHOWN, _ACTED)))
        with self._guarded():
            async with self._read.connect() as connection:
                connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
                shown = (await connection.execute(sa.text(_SHOWN), bound)).all()
                return _shown(shown, (await connection.execute(sa.text(_ACTED), bound)).all())

    async def recommendation(self, business_id: str, recommendation_id: str) -> StoredRecommendation:
        """One past answer.

        Raises:
            UnknownItem: this business has no such answer.
        """
        async with self.reading() as connection:
            return await _find_recommendation(connection, business_id, recommendation_id)

    async def add_feedback(
        self, business_id: str, recommendation_id: str, reward_id: str, event_type: str, metadata: Mapping[str, Any], now: datetime
    ) -> FeedbackReport:
        """Store feedback once per (recommendation, reward, type).

        NEGATIVE_FEEDBACK also puts a `reward_dismissed` event into the inbox in the same transaction, so that the customer's next
        answer leaves the reward out.

        Args:
            now: serving time, the time of the dismissal.

        Raises:
            UnknownItem: this business has no such answer, or the reward was not in it.
        """
        async with self.transaction() as connection:
            found = await _find_recommendation(connection, business_id, recommendation_id)
            if reward_id not in {r["rewardId"] for r in found.recommendations}:
                raise UnknownItem(f"reward {reward_id} is not in recommendation {recommendation_id}. Send one that is.")
            row = {
                "recommendation_id": recommendation_id,
                "reward_id": reward_id,
                "event_type": event_type,
                "business_id": business_id,
                "created_at": datetime.now(UTC),
                "metadata": orjson.dumps(metadata).decode(),
            }
            keys = ["recommendation_id", "reward_id", "event_type"]
            statement = self.insert_into(feedback).values(row).on_conflict_do_nothing(index_elements=keys).returning(feedback.c.reward_id)
            created = (await connection.execute(statement)).first() is not None
            if created and event_type == NEGATIVE:
                event = _dismissal(recommendation_id, found.customer_id, reward_id, now)
                await self._insert_inbox(connection, business_id, [_inbox_columns(business_id, event, datetime.now(UTC), None)])
        return FeedbackReport(created, found)

    # Keys

    async def add_key(self, row: KeyRow) -> None:
        """Store a new key."""
        async with self.transaction() as connection:
            await connection.execute(sa.insert(api_keys).values({c.name: getattr(row, c.name) for c in api_keys.c}))

    async def key(self, key_id: str) -> KeyRow | None:
        """One key, revoked or not; None when there is none."""
        async with self.reading() as connection:
            row = (await connection.execute(sa.select(api_keys).where(api_keys.c.key_id == key_id))).mappings().first()
        return None if row is None else KeyRow(**row)

    async def keys(self, business_id: str | None = None) -> list[KeyRow]:
        """All keys, oldest first."""
        query = sa.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.key_id)
        if business_id is not None:
            query = query.where(api_keys.c.business_id == business_id)
        async with self.reading() as connection:
            return [KeyRow(**row) for row in (await connection.execute(query)).mappings()]

    async def revoke_key(self, key_id: str) -> bool:
        """Revoke a key; False when it was revoked before.

        Raises:
            UnknownItem: there is no such key.
        """
        async with self.transaction() as connection:
            statement = sa.update(api_keys).where(api_keys.c.key_id == key_id, api_keys.c.revoked_at.is_(None))
            changed = (await connection.execute(statement.values(revoked_at=datetime.now(UTC)))).rowcount
            known = (await connection.execute(sa.select(api_keys.c.key_id).where(api_keys.c.key_id == key_id))).first()
        if known is None:
            raise UnknownItem(f"there is no key {key_id}. See the ids with: regulars key list")
        return bool(changed)

    # Upkeep

    async def prune(self, before: datetime) -> dict[str, int]:
        """Delete what was received before a time: landed inbox rows, put-aside events, recommendations and their feedback.

        A repeat of a pruned event is taken again; the warehouse drops it when it lands.

        Returns:
            Rows deleted, by table.
        """
        marker = sa.select(landed.c.seq).where(landed.c.marker == "inbox").scalar_subquery()
        conditions = {
            inbox: (inbox.c.received_at < before, inbox.c.seq <= sa.func.coalesce(marker, 0)),
            rejected_events: (rejected_events.c.received_at < before,),
            recommendations: (recommendations.c.created_at < before,),
            feedback: (feedback.c.created_at < before,),
        }
        async with self.transaction() as connection:
            return {table.name: (await connection.execute(sa.delete(table).where(*where))).rowcount for table, where in conditions.items()}


class WriteBehind(Generic[T]):
    """Writes what was answered behind the answers: in batches, in order, and never drops one silently.

    At most `capacity` wait in memory. When they are that many, `append` waits up to `patience_s` for room (counted in `waits`) and
    then raises Overloaded (counted in `refused`). A batch that cannot be written stays first in line and is tried again. What is in
    memory is lost if the process is killed: at most `interval_s` of answers; they can then no longer be given feedback.

    Use it as an async context manager, or call `start` and `close`.

    Args:
        save: stores a batch in one transaction, repeatable; raises UpstreamError.
        what: the records' name in messages, plural.
    """

    def __init__(
        self,
        save: Callable[[Sequence[T]], Awaitable[object]],
        what: str,
        *,
        capacity: int = 10_000,
        batch: int = 200,
        interval_s: float = 0.05,
        patience_s: float = 0.25,
    ) -> None:
        self._save, self._what, self._capacity, self._batch = save, what, capacity, batch
        self._interval_s, self._patience_s = interval_s, patience_s
        self._waiting: deque[T] = deque()
        self._lock = asyncio.Lock()
        self._some, self._full_batch, self._room = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.waits = self.refused = self.failures = self.written = 0

    def __len__(self) -> int:
        return len(self._waiting)

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def start(self) -> None:
        """Begin to write in the background; needs a running event loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"{self._what}-log")

    async def append(self, record: T) -> None:
        """Hand over one answer; returns at once unless the log is full.

        Raises:
            Overloaded: still full after `patience_s`.
        """
        if len(self._waiting) >= self._capacity:
            await self._wait_for_room()
        self._waiting.append(record)
        self._some.set()
        if len(self._waiting) >= self._batch:
            self._full_batch.set()

    async def _wait_for_room(self) -> None:
        self.waits += 1
        deadline = time.monotonic() + self._patience_s
        while len(self._waiting) >= self._capacity:
            self._room.clear()
            try:
                await asyncio.wait_for(self._room.wait(), max(0.0, deadline - time.monotonic()))
            except TimeoutError as exc:
                self.refused += 1
                raise Overloaded(
                    f"{len(self._waiting)} {self._what} wait to be written, at most {self._capacity} may. Try again soon."
                ) from exc

    async def flush(self) -> None:
        """Write everything that was handed over before this call.

        Raises:
            UpstreamError: the database failed; the answers stay in line.
        """
        target = self.written + len(self._waiting)
        async with self._lock:
            while self._waiting and self.written < target:
                batch = [self._waiting[i] for i in range(min(self._batch, len(self._waiting)))]
                await self._save(batch)
                for _ in batch:  # only now: a failed batch must stay
                    self._waiting.popleft()
                self.written += len(batch)
                self._room.set()

    async def _run(self) -> None:
        pause_s = self._interval_s
        while True:
            await self._some.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._full_batch.wait(), pause_s)
            self._some.clear()
            self._full_batch.clear()
            try:
                await self.flush()
                pause_s = self._interval_s
            except UpstreamError as exc:
                self.failures += 1
                pause_s = min(5.0, pause_s * 2)
                log.warning("%d %s could not be written, next try in %.2f s: %s", len(self._waiting), self._what, pause_s, exc)
            if self._waiting:
                self._some.set()

    async def close(self) -> None:
        """Write what is left and stop.

        Raises:
            UpstreamError: the database failed; the number of lost answers is in the log.
        """
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        try:
            await self.flush()
        except UpstreamError:
            log.error("%d %s were not written before the end", len(self._waiting), self._what)
            raise


class RecommendationLog(WriteBehind[StoredRecommendation]):
    """Writes recommendations behind the answers. Arguments beside the store: see `WriteBehind`."""

    def __init__(self, store: OperationalStore, **sizes: Any) -> None:
        super().__init__(store.save_recommendations, "recommendations", **sizes)


_INBOX_COLUMNS = (
    inbox.c.seq,
    inbox.c.business_id,
    inbox.c.event_id,
    inbox.c.customer_id,
    inbox.c.event_type,
    sa.type_coerce(inbox.c.occurred_at, sa.BigInteger).label("occurred_at"),
    inbox.c.payload,
)
_RECENT = (
    sa.select(*_INBOX_COLUMNS)
    .where(
        inbox.c.business_id == sa.bindparam("business_id"),
        inbox.c.customer_id == sa.bindparam("customer_id"),
        inbox.c.seq > sa.bindparam("above_seq", type_=sa.BigInteger),
    )
    .order_by(inbox.c.seq.desc())
    .limit(sa.bindparam("limit", type_=sa.Integer))
)
_RECENT_SQLITE = (
    "SELECT seq, business_id, event_id, customer_id, event_type, occurred_at, payload FROM inbox "
    "WHERE business_id = ? AND customer_id = ? AND seq > ? ORDER BY seq DESC LIMIT ?"
)

# The same text on both engines; `created_at` is microseconds.
_SHOWN = (
    "SELECT created_at, payload FROM recommendations WHERE business_id = :business_id AND customer_id = :customer_id "
    "AND created_at >= :since ORDER BY created_at DESC LIMIT :limit"
)
_ACTED = (
    "SELECT f.reward_id, max(r.created_at) FROM recommendations r JOIN feedback f ON f.recommendation_id = r.recommendation_id "
    "WHERE r.business_id = :business_id AND r.customer_id = :customer_id AND r.created_at >= :since "
    "AND f.event_type IN ('CLICK', 'CONVERSION') GROUP BY f.reward_id"
)


def _shown(answers: Sequence[Sequence[Any]], acted: Sequence[Sequence[Any]]) -> Shown:
    times: dict[str, list[float]] = {}
    for micros, payload in answers:
        for entry in orjson.loads(payload):
            times.setdefault(entry["rewardId"], []).append(micros / 1e6)
    return Shown(times, {reward_id: micros / 1e6 for reward_id, micros in acted})


def _beginner(statement: str) -> Callable[[Connection], None]:
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(statement)

    return begin


def _quoted(path: str) -> str:
    """A path for a SQLite `file:` URI."""
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _inbox_row(seq: int, business_id: str, event_id: str, customer_id: str, event_type: str, micros: int, payload: str) -> InboxRow:
    return InboxRow(seq, business_id, event_id, customer_id, event_type, EPOCH + timedelta(microseconds=micros), orjson.loads(payload))


def _inbox_columns(
    business_id: str, event: EventIn, received_at: datetime, counted_at: Callable[[datetime], datetime] | None
) -> dict[str, Any]:
    return {
        "business_id": business_id,
        "event_id": event.event_id,
        "customer_id": event.customer_id,
        "event_type": event.event_type,
        "occurred_at": event.occurred_at if counted_at is None else counted_at(event.occurred_at),
        "received_at": received_at,
        "content_hash": event.content_hash(),
        "payload": orjson.dumps(event.content()).decode(),
    }


def _conflict(event_id: str) -> Rejection:
    detail = f"eventId {event_id} was received before with other content. Give every event an id of its own."
    return Rejection("event_id_conflict", detail, event_id)


def _dismissal(recommendation_id: str, customer_id: str, reward_id: str, now: datetime) -> EventIn:
    event_id = f"feedback-{recommendation_id}-{hashlib.sha256(reward_id.encode()).hexdigest()[:16]}"
    content = {"event_id": event_id, "customer_id": customer_id, "event_type": "reward_dismissed", "reward_id": reward_id}
    return EventIn.model_validate({**content, "occurred_at": now, "metadata": {"recommendationId": recommendation_id}})


def _raw_text(raw: Any) -> str:
    """JSON text of what was sent, or its start; a NUL, which PostgreSQL cannot store, cannot occur in JSON text."""
    try:
        return orjson.dumps(raw, default=str)[:MAX_RAW_BYTES].decode("utf-8", "ignore")
    except orjson.JSONEncodeError:
        return ascii(raw)[:MAX_RAW_BYTES]


def _recommendation(row: Mapping[Any, Any]) -> StoredRecommendation:
    columns = {k: row[k] for k in recommendations.c.keys() if k != "payload"}  # noqa: SIM118 - a ColumnCollection, not a dict
    return StoredRecommendation(**columns, recommendations=orjson.loads(row["payload"]))


async def _find_recommendation(connection: AsyncConnection, business_id: str, recommendation_id: str) -> StoredRecommendation:
    query = sa.select(recommendations).where(
        recommendations.c.recommendation_id == recommendation_id, recommendations.c.business_id == business_id
    )
    row = None if "\x00" in recommendation_id else (await connection.execute(query)).mappings().first()  # PostgreSQL has no NUL in text
    if row is None:
        raise UnknownItem(f"there is no recommendation {recommendation_id}. Use the recommendationId of an answer to this business.")
    return _recommendation(row)
