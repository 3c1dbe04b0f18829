"""The operational database, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from contracts.api import EventIn, parse_event
from contracts.errors import ConfigError, ContractError, Overloaded, UnknownItem, UpstreamError, UpstreamTimeout
from ray_apps.migrations import config, revise, upgrade, upgrade_async
from ray_apps.store import (
    INBOX_LOCK,
    MAX_RAW_BYTES,
    KeyRow,
    OperationalStore,
    RecommendationLog,
    StoredRecommendation,
    api_keys,
    async_url,
    feedback,
    from_micros,
    inbox,
    metadata,
    recommendations,
    rejected_events,
    to_micros,
)

NOW = datetime(2026, 11, 21, 8, 30, 0, 123456, tzinfo=UTC)


def event(event_id: str, customer: str = "c1", kind: str = "app_open", **more: Any) -> EventIn:
    made = parse_event({"eventId": event_id, "customerId": customer, "eventType": kind, **more})
    assert isinstance(made, EventIn), made
    return made


def answer(
    name: str = "r1", customer: str = "c1", business: str = "biz-1", at: datetime = NOW, rewards: tuple[str, ...] = ("w1", "w2")
) -> StoredRecommendation:
    shown = [{"rewardId": r, "name": r, "score": 0.5, "rank": i + 1, "explanation": "é", "reasoning": []} for i, r in enumerate(rewards)]
    return StoredRecommendation(name, business, customer, at, "two-tower/1", False, "full", shown)


async def rows_of(store: OperationalStore, table: sa.Table) -> list[dict[str, Any]]:
    async with store.transaction() as connection:
        return [dict(r) for r in (await connection.execute(sa.select(table))).mappings()]


# ---- migrations


async def test_upgrade_from_empty_gives_the_models_and_can_go_back(empty_database_url: str) -> None:
    await upgrade_async(empty_database_url)
    store = OperationalStore(empty_database_url)

    def differences(connection: sa.Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata))

    async with store.transaction() as connection:
        assert await connection.run_sync(differences) == []
    async with store.transaction() as connection:
        await connection.run_sync(lambda c: command.downgrade(config(c), "base"))
    async with store.transaction() as connection:  # negative control: without the tables there is a difference
        assert len(await connection.run_sync(differences)) >= len(metadata.tables)
    await store.close()


async def test_upgrades_at_once_wait_for_each_other(empty_database_url: str) -> None:
    await asyncio.gather(*(upgrade_async(empty_database_url) for _ in range(4)))
    store = OperationalStore(SecretStr(empty_database_url))
    await store.ping()
    await store.close()


def test_upgrade_without_a_loop_and_revise_need_no_ini_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path / 'new folder' / 'x.db'}"
    upgrade(url)
    seen: list[str] = []
    monkeypatch.setattr(command, "revision", lambda made, message, autogenerate: seen.append(message))
    revise(url, "what changes")
    assert seen == ["what changes"]


def test_a_folder_that_cannot_be_made_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot make folder"):
        upgrade(f"sqlite:///{tmp_path / 'file' / 'sub' / 'x.db'}")


# ---- connections


@pytest.mark.parametrize("url", ["mysql://u:hush@h/d", "sqlite://", "sqlite:///:memory:", "no url at all hush"])
def test_other_databases_are_refused_without_echoing_the_url(url: str) -> None:
    with pytest.raises(ConfigError, match="must be sqlite:///FILE or postgresql://") as seen:
        async_url(url)
    assert "hush" not in str(seen.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg", "postgresql+psycopg"])
def test_every_spelling_of_postgresql_gets_the_async_driver(scheme: str) -> None:
    if scheme == "postgresql+psycopg":
        assert async_url(f"{scheme}://h/d").drivername == "postgresql+asyncpg"
    assert async_url(f"{scheme}://u:p@h/d").drivername == "postgresql+asyncpg"


async def test_no_server_is_an_upstream_error_without_the_password(free_port: Callable[[], int]) -> None:
    store = OperationalStore(f"postgresql://u:hush@127.0.0.1:{free_port()}/d", timeout_s=2)
    for call in (store.ping(), store.recent_events("b", "c", 0), store.insert_events("b", [event("e")])):
        with pytest.raises(UpstreamError, match=r"operational database \(PostgreSQL at 127.0.0.1\) failed") as seen:
            await call
        assert "hush" not in str(seen.value)
    await store.close()


async def test_a_database_without_tables_is_an_upstream_error(empty_database_url: str) -> None:
    store = OperationalStore(empty_database_url)
    for call in (store.ping(), store.recent_events("b", "c", 0), store.keys()):
        with pytest.raises(UpstreamError, match="migrated by `regulars serve`"):
            await call
    await store.close()


async def test_a_lock_that_is_held_too_long_is_an_upstream_error(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    await upgrade_async(url)
    store = OperationalStore(url, timeout_s=0.1)
    other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UpstreamError, match="OperationalError"):
        await store.insert_events("b", [event("e")])
    assert await store.recent_events("b", "c1", 0) == []  # readers do not wait for a writer
    other.close()
    assert (await store.insert_events("b", [event("e")])).accepted == 1
    await store.close()


async def test_no_free_connection_is_an_upstream_timeout(store: OperationalStore, database_url: str) -> None:
    small = OperationalStore(database_url, pool_size=1, timeout_s=0.2)
    async with small.transaction():
        with pytest.raises(UpstreamTimeout, match=r"within 0\.2 s"):
            await small.mark_landed(1)
    await small.close()


async def test_sqlite_runs_in_wal_mode_with_our_pragmas(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a%b#d.db'}"  # characters that mean something in a URI
    await upgrade_async(url)
    store = OperationalStore(url, timeout_s=3)
    async with store.transaction() as connection:
        found = {
            name: (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "busy_timeout": 3000}
    assert await store.recent_events("b", "c", 0) == []
    await store.close()


async def test_many_open_a_new_sqlite_file_at_once(tmp_path: Path) -> None:
    async def first_use(file: Path) -> None:
        store = OperationalStore(f"sqlite:///{file}")
        async with store.transaction():
            pass
        await store.close()

    for i in range(25):  # one in twelve failed before connections tried again
        await asyncio.gather(*(first_use(tmp_path / f"{i}.db") for _ in range(8)))


async def test_a_file_that_stays_locked_is_an_upstream_error(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    store = OperationalStore(f"sqlite:///{file}", timeout_s=0.1)
    with pytest.raises(UpstreamError, match="OperationalError"):
        async with store.transaction():
            pass
    holder.close()
    await store.close()


@given(st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1)))
@settings(max_examples=50, deadline=None)
def test_micros_are_exact(when: datetime) -> None:
    assert from_micros(to_micros(when)) == when.replace(tzinfo=UTC)
    assert to_micros(when.replace(tzinfo=UTC)) == to_micros(when)


# ---- inbox


async def test_events_are_stored_once(store: OperationalStore) -> None:
    batch = [
        event(f"e{i}", f"c{i % 2}", "redemption", rewardId="w1", occurredAt=NOW.isoformat(), metadata={"k": "é\u0000"}) for i in range(5)
    ]
    first = await store.insert_events("biz-1", batch)
    assert (first.accepted, first.duplicates, first.rejected) == (5, 0, [])
    again = await store.insert_events("biz-1", [*batch, event("e9")])
    assert (again.accepted, again.duplicates, again.rejected) == (1, 5, [])
    assert (await store.insert_events("biz-2", batch)).accepted == 5  # ids are unique within a business only
    rows = await store.recent_events("biz-1", "c0", 0)
    assert [r.event_id for r in rows] == ["e0", "e2", "e4"]
    assert [r.seq for r in rows] == sorted(r.seq for r in rows)
    assert rows[0].occurred_at == NOW
    assert rows[0].payload == batch[0].content()
    assert rows[0].payload["metadata"] == {"k": "é\u0000"}
    assert [r.event_id for r in await store.recent_events("biz-1", "c0", rows[0].seq)] == ["e2", "e4"]
    assert [r.event_id for r in await store.recent_events("biz-1", "c0", 0, limit=2)] == ["e2", "e4"]
    assert await store.recent_events("biz-3", "c0", 0) == []
    assert (await store.insert_events("biz-1", [])).accepted == 0


async def test_the_same_id_with_other_content_is_rejected_alone(store: OperationalStore) -> None:
    await store.insert_events("b", [event("e1")])
    report = await store.insert_events("b", [event("new"), event("e1", kind="email_open"), event("new", "c2"), event("new")])
    assert (report.accepted, report.duplicates) == (1, 1)
    assert [(i, r.reason, r.event_id) for i, r in report.rejected] == [(1, "event_id_conflict", "e1"), (2, "event_id_conflict", "new")]
    assert [r.event_id for r in await store.recent_events("b", "c1", 0)] == ["e1", "new"]


async def test_a_repeat_without_a_time_of_its_own_is_a_duplicate(store: OperationalStore) -> None:
    assert (await store.insert_events("b", [event("e1")])).accepted == 1
    later = parse_event({"eventId": "e1", "customerId": "c1", "eventType": "app_open"}, now=NOW + timedelta(days=-3))
    assert isinstance(later, EventIn)
    assert (await store.insert_events("b", [later])).duplicates == 1


async def test_the_serving_clock_moves_or_refuses_a_time(store: OperationalStore) -> None:
    def counted_at(when: datetime) -> datetime:
        if when > NOW:
            raise ContractError("occurredAt is after now")
        return when - timedelta(days=1)

    batch = [event("e1", occurredAt="2026-11-20T00:00:00Z"), event("e2", occurredAt="2026-11-21T09:00:00Z")]
    report = await store.insert_events("b", batch, counted_at)
    assert report.accepted == 1
    assert [(i, r.reason) for i, r in report.rejected] == [(1, "occurred_at_in_future")]
    assert (await store.recent_events("b", "c1", 0))[0].occurred_at == datetime(2026, 11, 19, tzinfo=UTC)


async def test_batches_at_once_with_the_same_events_store_each_once(store: OperationalStore) -> None:
    batch = [event(f"e{i}") for i in range(60)]
    reports = await asyncio.gather(*(store.insert_events("b", batch[::step]) for step in (1, -1, 1, -1)))
    assert sum(r.accepted for r in reports) == 60
    assert sum(r.duplicates for r in reports) == 180


async def test_a_thousand_events_are_one_batch(store: OperationalStore) -> None:
    batch = [event(f"e{i}", "c1" if i % 10 else "c2", metadata={"i": i}) for i in range(1000)]
    assert (await store.insert_events("b", batch)).accepted == 1000
    assert (await store.insert_events("b", batch)).duplicates == 1000
    assert len(await store.recent_events("b", "c1", 0)) == 900


async def test_what_was_not_taken_is_put_aside(store: OperationalStore) -> None:
    await store.put_aside(
        "b", [({"eventId": 5}, "event_id_invalid"), ("x" * 100_000, "not_an_object"), ({"a": "\ud800"}, "metadata_invalid")]
    )
    await store.put_aside("b", [])
    rows = await rows_of(store, rejected_events)
    assert [r["reason"] for r in rows] == ["event_id_invalid", "not_an_object", "metadata_invalid"]
    assert rows[0]["raw"] == '{"eventId":5}'
    assert len(rows[1]["raw"]) == MAX_RAW_BYTES
    assert "ud800" in rows[2]["raw"]


async def test_rows_to_land_are_a_prefix_in_commit_order(store: OperationalStore) -> None:
    await store.insert_events("b", [event(f"e{i}") for i in range(6)])
    assert await store.events_to_land(10, older_than_s=60) == []
    seqs = [r.seq for r in await store.events_to_land(10, 0)]
    assert len(seqs) == 6
    async with store.transaction() as connection:  # a row in the middle is too new: it and all after it wait
        late = sa.update(inbox).where(inbox.c.seq == seqs[3]).values(received_at=datetime.now(UTC) + timedelta(hours=1))
        await connection.execute(late)
    assert [r.seq for r in await store.events_to_land(10, 0)] == seqs[:3]
    assert [r.seq for r in await store.events_to_land(2, 0)] == seqs[:2]
    assert await store.landed_seq() == 0
    await store.mark_landed(seqs[1])
    await store.mark_landed(seqs[0])  # never goes back
    assert await store.landed_seq() == seqs[1]
    assert [r.seq for r in await store.events_to_land(10, 0)] == [seqs[2]]


async def test_customers_with_events_above_a_number_in_their_order(store: OperationalStore) -> None:
    await store.insert_events("b", [event("e1", "c1"), event("e2", "c2")])
    await store.insert_events("other", [event("e1", "c1")])
    found = await store.customers_above(0)
    assert [row[1:] for row in found] == [("b", "c1"), ("b", "c2"), ("other", "c1")]
    assert await store.customers_above(found[0][0], 1) == found[1:2]
    assert await store.customers_above(found[-1][0]) == []


@pytest.mark.services
@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)  # SQLite has one writer at a time and cannot commit out of order
async def test_the_lander_waits_for_writers_with_lower_numbers(database_url: str) -> None:
    store = OperationalStore(database_url)
    async with store.transaction() as slow:  # has taken its number and has not committed
        await slow.execute(sa.select(sa.func.pg_advisory_xact_lock_shared(INBOX_LOCK)))
        row = {"business_id": "b", "event_id": "slow", "customer_id": "c", "event_type": "app_open", "content_hash": "h", "payload": "{}"}
        await slow.execute(sa.insert(inbox).values(**row, occurred_at=NOW, received_at=NOW))
        await store.insert_events("b", [event("fast")])
        reading = asyncio.create_task(store.events_to_land(10, 0))
        await asyncio.sleep(0.2)
        assert not reading.done()
    assert [r.event_id for r in await reading] == ["slow", "fast"]
    await store.close()


async def test_prune_keeps_what_is_not_landed(store: OperationalStore) -> None:
    await store.insert_events("b", [event("e1"), event("e2")])
    await store.put_aside("b", [("x", "y")])
    await store.save_recommendations([answer(business="b")])
    await store.add_feedback("b", "r1", "w1", "CLICK", {}, NOW)
    seqs = [r.seq for r in await store.events_to_land(10, 0)]
    future = datetime.now(UTC) + timedelta(days=1)
    assert (await store.prune(datetime(2020, 1, 1, tzinfo=UTC))) == {"inbox": 0, "rejected_events": 0, "recommendations": 0, "feedback": 0}
    await store.mark_landed(seqs[0])
    assert (await store.prune(future)) == {"inbox": 1, "rejected_events": 1, "recommendations": 1, "feedback": 1}
    await store.insert_events("b", [event("e3")])
    assert (await store.events_to_land(10, 0))[-1].seq > seqs[1]  # a pruned number is never given again


# ---- recommendations and feedback


async def test_history_is_paged_newest_first_and_of_one_business(store: OperationalStore) -> None:
    mine = [answer(f"r{i}", at=NOW + timedelta(seconds=i)) for i in range(5)]
    await store.save_recommendations([*mine, answer("x", business="biz-2"), answer("y", customer="c2")])
    await store.save_recommendations([answer("r0", customer="other")])  # there already: stays as it is
    await store.save_recommendations([])
    page = await store.history("biz-1", "c1", 2, 1)
    assert page.total == 5
    assert page.items == [mine[3], mine[2]]
    assert (await store.history("biz-1", "c1", 10, 5)).items == []
    assert await store.recommendation("biz-1", "r0") == mine[0]
    with pytest.raises(UnknownItem, match="there is no recommendation r0"):
        await store.recommendation("biz-2", "r0")


async def test_feedback_counts_once(store: OperationalStore) -> None:
    await store.save_recommendations([answer()])
    first = await store.add_feedback("biz-1", "r1", "w1", "CLICK", {"a": 1}, NOW)
    assert first.created
    assert first.recommendation == answer()
    assert not (await store.add_feedback("biz-1", "r1", "w1", "CLICK", {"a": 2}, NOW)).created
    assert (await store.add_feedback("biz-1", "r1", "w2", "CLICK", {}, NOW)).created
    assert len(await rows_of(store, feedback)) == 2
    assert await store.recent_events("biz-1", "c1", 0) == []


async def test_what_a_customer_was_shown_lately_and_clicked(store: OperationalStore) -> None:
    at = [NOW - timedelta(days=d) for d in (0, 1, 2, 9)]
    await store.save_recommendations([answer(f"r{i}", at=when, rewards=("w1", "w2")[: 2 - i % 2]) for i, when in enumerate(at)])
    await store.save_recommendations([answer("y", customer="c2"), answer("z", business="biz-2")])
    for name in ("r1", "r2"):
        await store.add_feedback("biz-1", name, "w1", "CLICK", {}, NOW)
    await store.add_feedback("biz-1", "r1", "w1", "CONVERSION", {}, NOW)
    await store.add_feedback("biz-1", "r0", "w2", "IMPRESSION", {}, NOW)
    found = await store.shown_to("biz-1", "c1", NOW - timedelta(days=7))
    assert found.times == {"w1": [w.timestamp() for w in at[:3]], "w2": [at[0].timestamp(), at[2].timestamp()]}
    assert found.acted == {"w1": at[1].timestamp()}
    assert (await store.shown_to("biz-1", "c1", NOW - timedelta(days=7), limit=1)).times == {r: [NOW.timestamp()] for r in ("w1", "w2")}
    nobody = await store.shown_to("biz-1", "nobody", NOW)
    assert (nobody.times, nobody.acted) == ({}, {})


async def test_negative_feedback_is_a_dismissal_in_the_inbox(store: OperationalStore) -> None:
    long = "w" * 128
    await store.save_recommendations([answer(rewards=(long,))])
    for _ in range(2):
        await store.add_feedback("biz-1", "r1", long, "NEGATIVE_FEEDBACK", {}, NOW)
    (row,) = await store.recent_events("biz-1", "c1", 0)
    assert (row.event_type, row.payload["rewardId"], row.occurred_at) == ("reward_dismissed", long, NOW)


async def test_feedback_on_what_was_not_shown_is_refused(store: OperationalStore) -> None:
    await store.save_recommendations([answer()])
    with pytest.raises(UnknownItem, match="there is no recommendation"):  # PostgreSQL could not even be asked for it
        await store.recommendation("biz-1", "a\x00b")
    with pytest.raises(UnknownItem, match="there is no recommendation nope"):
        await store.add_feedback("biz-1", "nope", "w1", "CLICK", {}, NOW)
    with pytest.raises(UnknownItem, match="there is no recommendation r1"):
        await store.add_feedback("biz-2", "r1", "w1", "CLICK", {}, NOW)
    with pytest.raises(UnknownItem, match="reward w9 is not in recommendation r1"):
        await store.add_feedback("biz-1", "r1", "w9", "CLICK", {}, NOW)


async def test_the_log_writes_in_the_background_and_at_once_on_flush(store: OperationalStore) -> None:
    async with RecommendationLog(store, interval_s=0.01, batch=3) as log:
        log.start()  # a second start changes nothing
        for i in range(7):
            await log.append(answer(f"a{i}"))
        while log.written < 7:
            await asyncio.sleep(0.01)
        await log.append(answer("b"))
        await log.flush()
        assert (await store.recommendation("biz-1", "b")).recommendation_id == "b"
        assert len(log) == 0
        await log.append(answer("last"))
    assert len(await rows_of(store, recommendations)) == 9  # closing flushed


class Flaky:
    """Stands for a store whose database is down until `up` is set."""

    def __init__(self) -> None:
        self.up, self.saved = False, []

    async def save_recommendations(self, batch: list[StoredRecommendation]) -> None:
        if not self.up:
            raise UpstreamError("down")
        self.saved.extend(batch)


async def test_the_log_keeps_answers_while_the_database_is_down() -> None:
    flaky = Flaky()
    log = RecommendationLog(flaky, interval_s=0.001, batch=2)  # type: ignore[arg-type]
    log.start()
    for i in range(5):
        await log.append(answer(f"a{i}"))
    with pytest.raises(UpstreamError, match="down"):
        await log.flush()
    while log.failures < 2:
        await asyncio.sleep(0.005)
    flaky.up = True
    await log.close()
    assert [r.recommendation_id for r in flaky.saved] == [f"a{i}" for i in range(5)]


async def test_a_log_that_cannot_write_at_the_end_says_so(caplog: pytest.LogCaptureFixture) -> None:
    log = RecommendationLog(Flaky())  # type: ignore[arg-type]
    await log.append(answer())
    with pytest.raises(UpstreamError, match="down"):
        await log.close()
    assert "1 recommendations were not written" in caplog.text


async def test_a_full_log_waits_then_refuses() -> None:
    flaky = Flaky()
    log = RecommendationLog(flaky, capacity=2, patience_s=0.02)  # type: ignore[arg-type]
    await log.append(answer("a"))
    await log.append(answer("b"))
    with pytest.raises(Overloaded, match="2 recommendations wait to be written, at most 2 may"):
        await log.append(answer("c"))
    assert (log.waits, log.refused) == (1, 1)
    flaky.up = True
    log._patience_s = 30.0
    waiting = asyncio.create_task(log.append(answer("d")))
    await asyncio.sleep(0)
    await log.flush()
    await waiting
    assert log.waits == 2
    await log.close()
    assert [r.recommendation_id for r in flaky.saved] == ["a", "b", "d"]


# ---- keys


async def test_keys_are_kept_listed_and_revoked(store: OperationalStore) -> None:
    rows = [KeyRow(f"k{i}", f"biz-{i}", "app", "h", "n", NOW + timedelta(seconds=i), None) for i in range(2)]
    for row in rows:
        await store.add_key(row)
    assert await store.keys() == rows
    assert await store.keys("biz-1") == rows[1:]
    assert await store.revoke_key("k0")
    assert not await store.revoke_key("k0")
    revoked = await store.key("k0")
    assert revoked is not None
    assert revoked.revoked_at is not None
    assert await store.key("nope") is None
    with pytest.raises(UnknownItem, match="there is no key nope"):
        await store.revoke_key("nope")
    with pytest.raises(UpstreamError, match=r"IntegrityError|CheckViolationError"):  # the database itself refuses an unknown role
        await store.add_key(KeyRow("k9", "b", "boss", "h", "n", NOW, None))
    assert api_keys.name == "api_keys"


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), max_size=8))
@settings(max_examples=15, deadline=None)
def test_however_events_are_repeated_the_first_content_stays(sent: list[tuple[int, int]]) -> None:
    async def run(folder: Path) -> None:
        url = f"sqlite:///{folder / 'x.db'}"
        await upgrade_async(url)
        store = OperationalStore(url)
        report = await store.insert_events("b", [event(f"e{i}", metadata={"v": v}) for i, v in sent])
        first = {}
        for i, v in sent:
            first.setdefault(f"e{i}", v)
        assert report.accepted == len(first)
        assert report.duplicates == sum(first[f"e{i}"] == v for i, v in sent) - len(first)
        assert report.accepted + report.duplicates + len(report.rejected) == len(sent)
        assert {r.event_id: r.payload["metadata"]["v"] for r in await store.recent_events("b", "c1", 0)} == first
        await store.close()

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))
