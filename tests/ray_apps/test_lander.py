"""Inbox to warehouse and base states: nothing lost, nothing counted twice, whatever step is interrupted."""

from __future__ import annotations

import asyncio
import fcntl
import random
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import features.online
from contracts.api import ApiEventType, EventIn, parse_event
from contracts.errors import UpstreamError
from contracts.paths import Home
from contracts.tables import EVENT_TYPES
from features import weekly
from features.definitions import KIND_CODES, TOUCHES_SQL, Touch
from features.history import CustomerHistory, extended, tensors_of
from features.online import OnlineSettings, OnlineStore
from features.state import CustomerState, finalize, state_at
from ray_apps.deployments.lander import Lander, LanderReport, LanderSettings, Materialize, _source, acts_of, touches_of, warehouse_rows
from ray_apps.migrations import upgrade_async
from ray_apps.store import InboxRow, OperationalStore
from warehouse.store import Warehouse

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
CATEGORIES = {"p1": "coffee", "p2": "tea", "p3": "", "p4": "cake"}
AT_ONCE = LanderSettings(older_than_s=0)


def category_of(business: str, product: str) -> str | None:
    return CATEGORIES.get(product) if business == "biz-1" else None


def event(event_id: str, customer: str = "c1", kind: str = "app_open", **more: Any) -> EventIn:
    made = parse_event({"eventId": event_id, "customerId": customer, "eventType": kind, **more}, now=NOW - timedelta(hours=1))
    assert isinstance(made, EventIn), made
    return made


def one_of_each() -> list[EventIn]:
    """Every event type, with and without the optional parts."""
    items = [
        {"productId": "p1", "quantity": 2, "amount": 3.5},
        {"productId": "p2", "amount": 3.5},
        {"productId": "p1"},
        {"productId": "p9"},
    ]
    bought = {"items": items, "store": "Main", "discountAmount": 0.5}
    odd = {"items": [{"productId": "p1", "amount": 0.3}, {"productId": "p2", "amount": 0.1}, {"productId": "p2", "amount": 0.2}]}
    return [
        event("t1", kind="purchase", amount=12.4, channel="app", metadata=bought, occurredAt="2026-11-20T08:30:00.123456Z"),
        event("t2", kind="purchase", amount=0.12345, metadata={"items": [{"productId": "p3"}]}),
        event("t3", kind="purchase", amount=1e9, metadata=odd),
        event("t4", "c2", kind="purchase", amount=7, metadata={"items": []}),
        event(
            "k1", kind="ticket", metadata={"text": "too cold", "rating": 2, "issueType": "product", "resolutionHours": 3}, channel="email"
        ),
        event("k2", kind="ticket", metadata={"text": "hello"}),
        event("f1", kind="feedback", metadata={"rating": 4, "text": "good"}, rewardId="w1"),
        event("f2", kind="feedback", value=0.5, metadata={"rating": 4}),
        event("f3", kind="feedback"),
        *(event(f"e-{kind}", "c2", kind, rewardId="w2") for kind in EVENT_TYPES),
        event("v1", kind="points_earned", value=30, metadata={"a": [1, {"b": None}]}),
        event("v2", kind="redemption", rewardId="w1", amount=2.5, campaignId="camp", channel="push"),
    ]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    products = [{"product_id": p, "business_id": "biz-1", "category": c, "name": p} for p, c in CATEGORIES.items()]
    Warehouse(made.warehouse).land("products", pa.Table.from_pylist(products), "products")
    return made


@pytest.fixture
async def store(home: Home) -> AsyncIterator[OperationalStore]:
    await upgrade_async(home.database_url)
    opened = OperationalStore(home.database_url)
    yield opened
    await opened.close()


@pytest.fixture
def online(home: Home) -> Any:
    opened = OnlineStore(OnlineSettings.load(), home)
    opened.apply()
    yield opened
    opened.close()


def recompute(online: OnlineStore) -> Materialize:
    """`features.online.materialize` with the store bound."""

    def run(connection: Any, *, as_of: datetime, watermark: int, customers: pa.Table) -> int:
        pairs = list(zip(*customers.to_pydict().values(), strict=True))
        return features.online.materialize(connection, online, as_of, watermark, pairs)

    return run


@pytest.fixture
def lander(store: OperationalStore, home: Home, online: OnlineStore) -> Lander:
    return Lander(store, Warehouse(home.warehouse), recompute(online), AT_ONCE, lambda: NOW)


def landed_touches(home: Home, customers: list[tuple[str, str]]) -> list[Touch]:
    with Warehouse(home.warehouse).connect() as connection:
        wanted = pa.table({"business_id": [b for b, _ in customers], "customer_id": [c for _, c in customers]})
        connection.register("touch_customers", wanted)
        rows = connection.execute(f"SELECT time, kind, token, value FROM ({TOUCHES_SQL})").fetchall()  # noqa: S608
    return sorted(Touch(*row) for row in rows)


def count(home: Home, table: str) -> int:
    with Warehouse(home.warehouse).connect() as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])  # noqa: S608


async def now_state(store: OperationalStore, online: OnlineStore, customer: str, business: str = "biz-1") -> CustomerState:
    """As the request path makes it: the stored state and the inbox events above its watermark."""
    base = online.read(business, customer)
    rows = await store.recent_events(business, customer, base.watermark if base is not None else 0)
    return state_at(base, touches_of(rows, category_of), NOW.timestamp())


def assert_same(a: CustomerState, b: CustomerState) -> None:
    assert (a.touch_count, a.redeemed, a.dismissed) == (b.touch_count, b.redeemed, b.dismissed)
    assert sorted(a.recent) == sorted(b.recent)
    np.testing.assert_allclose(finalize([a], NOW.timestamp()), finalize([b], NOW.timestamp()), rtol=1e-6, atol=1e-7)


# ---- the mapping


async def test_touches_are_equal_before_and_after_landing(store: OperationalStore, lander: Lander, home: Home) -> None:
    events = one_of_each()
    assert {e.event_type for e in events} == set(ApiEventType.__args__)  # type: ignore[attr-defined]
    await store.insert_events("biz-1", events)
    rows = await store.events_to_land(1000, 0)
    before = sorted(touches_of(rows, category_of))
    report = await lander.land_once()
    assert [(r.table, r.landed, r.rejected) for r in report.tables] == [
        ("transactions", 4, 0), ("transaction_items", 6, 0), ("events", len(EVENT_TYPES) + 5, 0), ("tickets", 2, 0),
    ]  # fmt: skip
    assert landed_touches(home, [("biz-1", "c1"), ("biz-1", "c2")]) == before
    assert {t.token for t in before if t.kind == KIND_CODES["purchase"]} == {"c:coffee", ""}


async def test_random_purchases_have_equal_touches(store: OperationalStore, lander: Lander, home: Home) -> None:
    chance = random.Random(7)
    batch = []
    for i in range(200):
        items = [
            {"productId": chance.choice([*CATEGORIES, "p9"]), "amount": chance.choice([0.1, 0.2, 0.3, 1.00005, None]), "quantity": 1}
            for _ in range(chance.randrange(5))
        ]
        batch.append(event(f"t{i}", kind="purchase", amount=round(chance.uniform(0, 99), chance.randrange(7)), metadata={"items": items}))
    await store.insert_events("biz-1", batch)
    before = sorted(touches_of(await store.events_to_land(1000, 0), category_of))
    await lander.land_once()
    assert landed_touches(home, [("biz-1", "c1")]) == before


async def now_history(store: OperationalStore, online: OnlineStore, customer: str, business: str = "biz-1") -> CustomerHistory:
    """As the request path makes it: the stored history and the inbox events above its watermark."""
    base = online.read_history(business, customer)
    return extended(base, acts_of(await store.recent_events(business, customer, base.watermark if base is not None else 0)))


async def test_weekly_histories_are_equal_before_and_after_landing(
    store: OperationalStore, lander: Lander, home: Home, online: OnlineStore
) -> None:
    old = [event(f"old-{n}", kind="purchase", amount=20 + n, occurredAt=f"{2022 + n}-03-01T10:00:00Z") for n in range(4)]
    unhappy = [
        event(f"bad-{n}", kind="ticket", metadata=m, occurredAt=f"2026-11-0{n + 1}T10:00:00Z")
        for n, m in enumerate(
            ({"rating": 1}, {"text": "x", "sentiment": "NEGATIVE"}, {"rating": 3, "sentiment": "NEUTRAL"}, {"rating": 2.0})
        )
    ]
    sent = [*one_of_each(), *old, *unhappy]
    random.Random(3).shuffle(sent)
    tomorrow = NOW + timedelta(days=1)
    seen: list[dict[str, np.ndarray]] = []
    for part in (sent[:10], sent[10:]):
        await store.insert_events("biz-1", part)
        before = await now_history(store, online, "c1")
        report = await lander.land_once()
        after = await now_history(store, online, "c1")
        assert after.watermark == report.last > before.watermark
        for name, array in (found := tensors_of(after, tomorrow)).items():
            np.testing.assert_allclose(tensors_of(before, tomorrow)[name], array, atol=1e-5)
        seen.append(found)
    with Warehouse(home.warehouse).connect() as connection:
        wanted = pa.table({"business_id": ["biz-1"], "customer_id": ["c1"]})
        offline = weekly.tensors(weekly.read(connection, wanted, tomorrow), weekly.as_of_day(tomorrow))
    for name, array in offline.items():
        np.testing.assert_allclose(seen[1][name], array, atol=1e-5)
        assert not np.allclose(seen[0][name], array, atol=1e-5)  # the first landing did not hold it all
    known = weekly.facts(offline["statics"])
    assert known["bad_tickets_90d"][0] == pytest.approx(4, abs=1e-4)  # two ratings of 1 and 2, one sentiment, and `k1`, rated 2
    assert known["purchase_days"][0] == pytest.approx(6, abs=1e-4)


async def test_each_event_lands_with_all_that_was_said(store: OperationalStore, lander: Lander, home: Home) -> None:
    await store.insert_events("biz-1", one_of_each())
    await lander.land_once()
    with Warehouse(home.warehouse).connect() as connection:
        bought = connection.execute("SELECT * EXCLUDE occurred_at FROM transactions WHERE transaction_id = 't1'").fetchall()
        assert bought == [("t1", "biz-1", "c1", Decimal("12.4000"), Decimal("0.5000"), "app", "Main")]
        items = connection.execute(
            "SELECT product_id, quantity, amount FROM transaction_items WHERE transaction_id = 't1' ORDER BY 1"
        ).fetchall()
        assert items == [("p1", 3, Decimal("3.5000")), ("p2", 1, Decimal("3.5000")), ("p9", 1, None)]
        ticket = connection.execute(
            "SELECT channel, issue_type, rating, resolution_hours, text FROM tickets WHERE ticket_id = 'k1'"
        ).fetchall()
        assert ticket == [("email", "product", 2, 3.0, "too cold")]
        seen = connection.execute("SELECT event_type, reward_id, campaign_id, channel, value FROM events WHERE event_id = 'v2'").fetchall()
        assert seen == [("redemption", "w1", "camp", "push", 2.5)]
        said = connection.execute("SELECT event_type, value, metadata FROM events WHERE event_id = 'f1'").fetchall()
        assert said == [("review", 4.0, '{"rating":4,"text":"good"}')]


def test_a_purchase_whose_id_another_business_uses_gets_a_name_of_its_own() -> None:
    sent = {"amount": 1.0, "metadata": {"items": [{"productId": "p1"}]}}
    rows = [InboxRow(i, b, "t1", "c", "purchase", NOW, sent) for i, b in enumerate(["biz-1", "biz-2"])]
    made = warehouse_rows(rows, {("biz-2", "t1")})
    assert made["transactions"]["transaction_id"].to_pylist() == ["t1", "biz-2:t1"]
    assert made["transaction_items"]["transaction_id"].to_pylist() == ["t1", "biz-2:t1"]


async def test_items_never_reach_another_business(
    store: OperationalStore, lander: Lander, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = event("t1", kind="purchase", amount=1, metadata={"items": [{"productId": "p1"}]})
    theirs = event("t1", kind="purchase", amount=2, metadata={"items": [{"productId": "p4"}]})
    await store.insert_events("biz-1", [mine])
    await store.insert_events("biz-2", [theirs])
    monkeypatch.setattr(features.online, "materialize", fail)
    with pytest.raises(UpstreamError):
        await lander.land_once()  # both are in the warehouse, the marker did not move
    monkeypatch.undo()
    await lander.land_once()
    await store.insert_events("biz-3", [theirs])
    await lander.land_once()
    with Warehouse(home.warehouse).connect() as connection:
        query = "SELECT business_id, transaction_id, product_id FROM transactions JOIN transaction_items USING (transaction_id) ORDER BY 1"
        assert connection.execute(query).fetchall() == [("biz-1", "t1", "p1"), ("biz-2", "biz-2:t1", "p4"), ("biz-3", "biz-3:t1", "p4")]


# ---- interrupted landings


def fail(*_: object, **__: object) -> None:
    raise UpstreamError("injected")


def failing_at(step: str, monkeypatch: pytest.MonkeyPatch, store: OperationalStore) -> None:
    """Stop the landing before or after one of its steps, as a kill would."""
    when, _, name = step.partition(" ")

    def around(work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if name in ("materialize", args[1] if len(args) > 1 else None):
                if when == "after":
                    work(*args, **kwargs)
                fail()
            return work(*args, **kwargs)

        return wrapped

    async def mark(seq: int) -> None:
        if when == "after":
            await OperationalStore.mark_landed(store, seq)
        fail()

    if name == "mark":
        monkeypatch.setattr(store, "mark_landed", mark)
    elif name == "materialize":
        monkeypatch.setattr(features.online, "materialize", around(features.online.materialize))
    else:
        monkeypatch.setattr(Warehouse, "land", around(Warehouse.land))


# "after" a step is "before" the next one.
STEPS = ["before transactions", *(f"after {n}" for n in ("transactions", "transaction_items", "events", "tickets", "materialize", "mark"))]


@pytest.mark.parametrize("step", STEPS)
async def test_interrupted_anywhere_nothing_is_lost_or_counted_twice(
    step: str, store: OperationalStore, lander: Lander, home: Home, online: OnlineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    early, late = one_of_each()[:6], one_of_each()[6:]
    await store.insert_events("biz-1", early)
    await lander.land_once()
    await store.insert_events("biz-1", late)
    await store.insert_events("biz-1", [event("last", kind="purchase", amount=3), event("k9", kind="ticket", metadata={"rating": 5})])
    await store.insert_events("biz-1", [event("last2", kind="purchase", amount=3, metadata={"items": [{"productId": "p4"}]})])
    wanted = {c: await now_state(store, online, c) for c in ("c1", "c2")}

    with monkeypatch.context() as patched:
        failing_at(step, patched, store)
        with pytest.raises(UpstreamError, match="injected"):
            await lander.land_once()
    for customer, state in wanted.items():  # a request between the crash and the repeat
        assert_same(await now_state(store, online, customer), state)

    await store.insert_events("biz-1", [event("newer", "c3")])  # the repeat takes another batch
    await lander.land_once()
    for customer, state in wanted.items():
        assert_same(await now_state(store, online, customer), state)
        assert (await now_state(store, online, customer)).touch_count == len(landed_touches(home, [("biz-1", customer)]))
    assert await store.events_to_land(10, 0) == []
    total = len(early) + len(late) + 4
    assert count(home, "transactions") + count(home, "events") + count(home, "tickets") == total
    assert (await lander.land_once()) == LanderReport()


async def test_a_state_without_its_watermark_would_count_twice(store: OperationalStore, lander: Lander, online: OnlineStore) -> None:
    """Negative control of the test above."""
    await store.insert_events("biz-1", one_of_each())
    wanted = await now_state(store, online, "c1")
    await lander.land_once()
    base = online.read("biz-1", "c1")
    assert base is not None
    rows = await store.recent_events("biz-1", "c1", 0)
    assert state_at(base, touches_of(rows, category_of), NOW.timestamp()).touch_count == 2 * wanted.touch_count


async def test_landings_in_small_pieces_give_the_same_state(store: OperationalStore, home: Home, online: OnlineStore) -> None:
    await store.insert_events("biz-1", one_of_each())
    wanted = {c: await now_state(store, online, c) for c in ("c1", "c2")}
    lander = Lander(store, Warehouse(home.warehouse), recompute(online), LanderSettings(older_than_s=0, limit=7), lambda: NOW)
    while (await lander.land_once()).rows:
        for customer, state in wanted.items():
            assert_same(await now_state(store, online, customer), state)


async def test_a_sender_ahead_of_the_serving_clock_is_not_forgotten(store: OperationalStore, home: Home, online: OnlineStore) -> None:
    await store.insert_events("biz-1", [event("e1", occurredAt=NOW.isoformat())])
    lander = Lander(store, Warehouse(home.warehouse), recompute(online), AT_ONCE, lambda: NOW - timedelta(hours=2))
    await lander.land_once()
    base = online.read("biz-1", "c1")
    assert base is not None
    assert base.touch_count == 1


# ---- running


async def test_new_rows_wait(store: OperationalStore, home: Home, online: OnlineStore) -> None:
    await store.insert_events("biz-1", [event("e1")])
    lander = Lander(store, Warehouse(home.warehouse), recompute(online))
    assert (await lander.land_once()) == LanderReport()


async def test_only_one_process_lands(store: OperationalStore, lander: Lander, home: Home) -> None:
    await store.insert_events("biz-1", [event("e1")])
    with (home.warehouse / ".lander.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert (await lander.land_once()) == LanderReport()
    assert (await lander.land_once()).rows == 1


def test_a_new_database_does_not_repeat_an_old_name() -> None:
    def row(name: str) -> InboxRow:
        return InboxRow(1, "b", name, "c", "app_open", NOW, {})

    assert _source([row("a")]) == _source([row("a")])
    assert _source([row("a")]) != _source([row("b")])
    assert _source([row("a")]).startswith("inbox-1-1-")


async def test_it_runs_on_after_failures(
    store: OperationalStore, lander: Lander, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.insert_events("biz-1", [event("e1")])
    real, failures = store.events_to_land, iter([UpstreamError("down"), ValueError("surprise")])

    async def sometimes(limit: int, older_than_s: float) -> list[InboxRow]:
        for failure in failures:
            raise failure
        return await real(limit, older_than_s)

    monkeypatch.setattr(store, "events_to_land", sometimes)
    task = asyncio.create_task(lander.run_forever(0.01))
    while await store.landed_seq() == 0:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "landing failed, next try in 0.01 s: down" in caplog.text
    assert "surprise" in caplog.text


async def test_a_cancelled_landing_ends_before_the_cancel_returns(
    store: OperationalStore, lander: Lander, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.insert_events("biz-1", [event("e1")])
    began, loop = asyncio.Event(), asyncio.get_running_loop()
    ended = []

    def slow(rows: list[InboxRow]) -> LanderReport:
        import time

        loop.call_soon_threadsafe(began.set)
        time.sleep(0.2)
        ended.append(len(rows))
        return LanderReport()

    monkeypatch.setattr(lander, "_land", slow)
    task = asyncio.create_task(lander.land_once())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [1]


async def test_rows_that_the_warehouse_puts_aside_are_logged(
    store: OperationalStore, lander: Lander, home: Home, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.insert_events("biz-1", [event("e1")])
    monkeypatch.setattr("ray_apps.deployments.lander._value", lambda row: float("nan"))
    report = await lander.land_once()
    assert report.tables[0].rejected == 1
    assert "1 rows of events put aside" in caplog.text
