"""ray_apps/deployments/similar.py: nearest customers over HTTP, and how their vectors are kept."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.errors import ArtifactError, UpstreamError
from embeddings.customers import CustomerIndex
from ray_apps.deployments import similar as module
from ray_apps.deployments.similar import SimilarCustomers, neutral_time
from ray_apps.metrics import Metrics, Stopwatch
from ray_apps.tuning import SimilarSettings
from warehouse.store import Warehouse

BUSINESS, OTHER = "biz-1", "biz-2"
PATH = "/api/v1/ml/customers/{}/similar"


async def ask(api: Any, customer: str = "cust-0", status: int = 200, **params: object) -> dict[str, Any]:
    answer = await api.http.get(PATH.format(customer), params=params)
    assert answer.status_code == status, answer.text
    return dict(answer.json())


def index_of(api: Any) -> CustomerIndex:
    return api.service.customers._build.index  # type: ignore[no-any-return]


def another(api: Any, **changes: object) -> SimilarCustomers:
    """A second replica on the same home: its own vectors, metrics and file lock."""
    s = api.service
    settings = SimilarSettings(background=False, **changes)  # type: ignore[arg-type]
    return SimilarCustomers(
        s.settings.folder, s.models, s.states, s.store, api.tower, s.recommender.tower, s.clock, Metrics(), s.settings, settings=settings
    )


def embedded(customers: SimilarCustomers, reason: str) -> float:
    return float(customers._embedded.labels(reason)._value.get())


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not happen in time")


async def test_before_anyone_is_embedded_it_says_when_to_try_again(api) -> None:
    answer = await api.http.get(PATH.format("cust-0"))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"].endswith("/not-built")


async def test_who_was_asked_about_is_there_for_the_next(api) -> None:
    await ask(api, "cust-0", 503)
    body = await ask(api, "cust-3")
    assert [s["customerId"] for s in body["similar"]] == ["cust-0"]
    assert body["freshness"] == {"vectorAgeSeconds": 0.0, "indexed": 2, "total": 2}


async def test_the_nearest_of_the_own_business_without_the_asked_one(api) -> None:
    await api.service.customers.look()
    body = await ask(api, "cust-0", limit=100)
    index = index_of(api)
    mine = index.get(BUSINESS, "cust-0").vector
    others = {c: float(index.get(BUSINESS, c).vector @ mine) for c in index.customers(BUSINESS) if c != "cust-0"}
    assert len(others) == 29
    assert [s["customerId"] for s in body["similar"]] == sorted(others, key=lambda c: (-others[c], c))
    assert [s["similarity"] for s in body["similar"]] == pytest.approx(sorted(others.values(), reverse=True), abs=2e-6)
    assert (body["modelVersion"], body["coverage"]) == ("two-tower/1", "full")
    assert body["freshness"] == {"vectorAgeSeconds": 0.0, "indexed": 30, "total": 30}
    assert len((await ask(api))["similar"]) == 10
    assert [(await ask(api, c))["coverage"] for c in ("cust-1", "cust-2")] == ["sparse", "cold_start"]


async def test_shared_rewards_are_what_both_redeemed(api, home: Path) -> None:
    await api.service.customers.look()
    query = "SELECT customer_id, r.name FROM events e JOIN rewards r USING (business_id, reward_id) WHERE event_type = 'redemption'"
    with Warehouse(home / "warehouse").connect() as connection:
        count = Counter(connection.execute(query).fetchall())
    names = {name for _, name in count}
    for similar in (await ask(api, "cust-0", limit=100))["similar"]:
        both = {n: min(count["cust-0", n], count[similar["customerId"], n]) for n in names}
        both = {n: c for n, c in both.items() if c}
        assert len(similar["sharedRewards"]) == min(3, len(both))
        assert [both[n] for n in similar["sharedRewards"]] == sorted(both.values(), reverse=True)[:3]


async def test_another_business_is_never_met(api) -> None:
    await api.service.customers.look()
    api.http.headers["Authorization"] = f"Bearer {api.keys['other']}"
    assert (await ask(api, "cust-other", limit=100))["similar"] == []
    await ask(api, "cust-0", 404)
    api.http.headers["Authorization"] = f"Bearer {api.keys['analyst']}"
    assert "cust-other" not in {s["customerId"] for s in (await ask(api, "cust-0", limit=100))["similar"]}


async def test_an_unknown_customer_is_a_404_that_says_what_to_do(api) -> None:
    body = await ask(api, "nobody", 404)
    assert "POST /api/v1/events" in body["detail"]
    await api.send({"eventId": "n-1", "customerId": "nobody", "eventType": "app_open"})
    await ask(api, "cust-0", 503)
    assert (await ask(api, "nobody"))["coverage"] == "sparse"


@pytest.mark.parametrize("limit", [0, 101, -1, "ten", 1.5])
async def test_limit_out_of_range_is_refused(api, limit: object) -> None:
    assert (await ask(api, "cust-0", 422, limit=limit))["errors"][0]["field"] == "limit"


async def test_without_a_key_nothing_is_answered(api) -> None:
    assert (await api.http.get(PATH.format("cust-0"), headers={"Authorization": ""})).status_code == 401


async def test_new_events_are_followed_by_whoever_looks(api) -> None:
    customers = api.service.customers
    await customers.look()
    before, calls = index_of(api).get(BUSINESS, "cust-5"), api.tower.calls
    await customers.look()
    assert api.tower.calls == calls, "nothing happened, so nothing is computed"
    await api.send(
        {"eventId": "a", "customerId": "cust-5", "eventType": "redemption", "rewardId": "rew-01"},
        {"eventId": "b", "customerId": "cust-5", "eventType": "app_open"},
        {"eventId": "c", "customerId": "newcomer", "eventType": "app_open"},
    )
    await customers.look()
    after = index_of(api).get(BUSINESS, "cust-5")
    assert (after.touches, after.as_of > before.as_of) == (before.touches + 2, True)
    assert not np.allclose(after.vector, before.vector, atol=1e-3)
    assert index_of(api).get(BUSINESS, "newcomer").touches == 1
    assert embedded(customers, "event") == 2
    found = await ask(api, "newcomer", limit=1)
    assert found["freshness"]["indexed"] == found["freshness"]["total"] == 31


async def test_many_new_events_are_followed_to_the_last(api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_LIMIT", 5)
    monkeypatch.setattr(module, "OVERLAP", 3)
    await api.service.customers.look()
    await api.send(*({"eventId": f"e{i}", "customerId": f"n-{i % 20}", "eventType": "app_open"} for i in range(40)))
    await api.service.customers.look()
    assert [index_of(api).get(BUSINESS, f"n-{i}").touches for i in range(20)] == [2] * 20


async def test_without_the_model_server_the_stored_vector_answers(api) -> None:
    await ask(api, "cust-0", 503)
    await ask(api, "cust-3")
    await asyncio.sleep(0.02)
    api.tower.fail = UpstreamError("away")
    body = await ask(api, "cust-3")
    assert body["similar"][0]["customerId"] == "cust-0"
    assert body["freshness"]["vectorAgeSeconds"] > 0
    await ask(api, "cust-4", 503)


async def test_without_a_model_it_says_so(api) -> None:
    api.service.models._holder = None
    assert "no model" in (await ask(api, "cust-0", 503))["detail"]
    await api.service.customers.look()
    with pytest.raises(ArtifactError):
        await api.service.customers.similar(BUSINESS, "cust-0", 1, Stopwatch())


async def test_after_a_restart_only_who_acted_is_embedded_again(api, home: Path) -> None:
    customers = api.service.customers
    await customers.look()
    await api.send({"eventId": "a", "customerId": "cust-5", "eventType": "app_open"})
    await customers.stop()
    again = another(api)
    await again.look()
    assert len(again._build.index) == 31
    assert (embedded(again, "walk"), embedded(again, "event")) == (0, 1)
    await again.stop()


async def test_touches_that_landed_between_two_runs_are_noticed(api, home: Path) -> None:
    first = another(api)
    await first.look()
    row = first._build.index.get(BUSINESS, "cust-5")
    first._build.index.upsert(BUSINESS, ["cust-5"], row.vector[None], row.as_of + 1e-3, [row.touches - 1])
    first._build.changed = True
    await first.stop()
    again = another(api)
    await again.look()
    assert embedded(again, "walk") == 1
    await again.stop()


async def test_old_vectors_are_computed_again(api) -> None:
    first = another(api)
    await first.look()
    await first.stop()
    again = another(api, refresh_s=1)
    again._clock = api.service.clock.__class__(api.service.clock.serving, api.service.clock.wall - timedelta(seconds=30))
    await again.look()
    assert embedded(again, "walk") == 31
    await again.stop()


async def test_one_replica_walks_and_the_others_load(api) -> None:
    first, second = another(api), another(api)
    await first.look()
    await second.look()
    assert len(second._build.index) == 31
    assert embedded(second, "walk") == 0
    assert (second._build.known, second._build.complete) == ({BUSINESS: 30, OTHER: 1}, True)
    await api.send({"eventId": "a", "customerId": "cust-5", "eventType": "app_open"})
    await second.look()
    assert embedded(second, "event") == 1, "each replica follows events itself"
    first.forget(BUSINESS, "cust-7")
    await first.look()
    await second.look()
    assert second._build.index.get(BUSINESS, "cust-7") is None, "an erasure reaches the others with the file"
    assert (first._lock is not None, second._lock is not None) == (True, False)
    first.forget(BUSINESS, "cust-8")
    await first.stop()
    await second.look()
    assert second._build.index.get(BUSINESS, "cust-8") is None
    assert second._lock is not None, "when the walking one has ended another takes over"
    await second.stop()


async def test_what_is_there_answers_while_the_rest_is_embedded(api) -> None:
    customers = api.service.customers
    customers.settings = SimilarSettings(background=False, batch=4, pause_s=0.0, save_s=1e-6, poll_s=1e-6)
    seen: list[int] = []
    embed = customers._embed

    async def watched(*arguments: Any) -> np.ndarray:
        if customers._build is not None and customers._build.index.count(BUSINESS) >= 8 and not seen:
            seen.append(customers._build.index.count(BUSINESS))
            body = await ask(api, "cust-29")
            seen.append(len(body["similar"]))
            assert (body["freshness"]["indexed"], body["freshness"]["total"]) == (9, 30)
        return await embed(*arguments)  # type: ignore[no-any-return]

    customers._embed = watched
    await customers.look()
    assert seen[0] == seen[1] == 8
    assert index_of(api).count(BUSINESS) == 30


async def test_the_machine_is_left_to_requests_for_as_long_as_a_batch_took(api, monkeypatch: pytest.MonkeyPatch) -> None:
    customers, rests = api.service.customers, []
    customers.settings = SimilarSettings(background=False, batch=8, pause_s=0.001)
    api.tower.delay_s = 0.02
    rest = customers._rest

    async def watched(took_s: float) -> None:
        rests.append(took_s)
        await rest(took_s)

    monkeypatch.setattr(customers, "_rest", watched)
    began = time.monotonic()
    await customers.look()
    assert len(rests) == 4
    assert time.monotonic() - began >= 2 * sum(rests)


async def test_another_model_version_begins_anew(api, home: Path) -> None:
    customers = api.service.customers
    await customers.look()
    old = index_of(api)
    write_second_version(home)
    await until(lambda: api.service.models.current.version == "2")
    await ask(api, "cust-0", 503)
    await customers.look()
    assert (await ask(api, "cust-0"))["modelVersion"] == "two-tower/2"
    assert index_of(api) is not old
    assert not np.allclose(index_of(api).get(BUSINESS, "cust-0").vector, old.get(BUSINESS, "cust-0").vector, atol=0.1)
    assert sorted(p.name for p in (home / "embeddings").glob("*.npz")) == ["customers-1.npz", "customers-2.npz"]


async def test_a_swap_in_the_middle_of_a_walk_ends_it(api, home: Path) -> None:
    customers = api.service.customers
    embed, done = customers._embed, []

    async def swapping(*arguments: Any) -> np.ndarray:
        if not done:
            done.append(1)
            write_second_version(home)
            await until(lambda: api.service.models.current.version == "2")
        return await embed(*arguments)  # type: ignore[no-any-return]

    customers.settings = SimilarSettings(background=False, batch=4)
    customers._embed = swapping
    await customers.look()
    assert len(index_of(api)) == 4
    assert not (home / "embeddings" / "customers-1.npz").exists()


def write_second_version(home: Path) -> None:
    """With the conftest beside this file."""
    path = Path(__file__).with_name("conftest.py")
    spec = importlib.util.spec_from_file_location("ray_apps_conftest", path)
    assert spec is not None
    assert spec.loader is not None
    made = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    made.write_bundle(home, "2", seed=2)


async def test_only_the_newest_files_are_kept(api, home: Path) -> None:
    folder = home / "embeddings"
    folder.mkdir()
    for i, version in enumerate(("8", "9")):
        (folder / f"customers-{version}.npz").write_bytes(b"old")
        os.utime(folder / f"customers-{version}.npz", (i, i))
    await api.service.customers.look()
    assert sorted(p.name for p in folder.glob("*.npz")) == ["customers-1.npz", "customers-9.npz"]


async def test_a_damaged_file_is_made_again(api, home: Path) -> None:
    (home / "embeddings").mkdir()
    path = home / "embeddings" / "customers-1.npz"
    path.write_bytes(b"nonsense")
    await api.service.customers.look()
    assert len(CustomerIndex.load(path, "1")[0]) == 31


async def test_erased_customers_stay_away(api) -> None:
    customers = api.service.customers
    assert not customers.forget(BUSINESS, "cust-7"), "nothing is there yet"
    await customers.look()
    assert customers.forget(BUSINESS, "cust-7")
    assert "cust-7" not in {s["customerId"] for s in (await ask(api, "cust-0", limit=100))["similar"]}
    gone = index_of(api).get(BUSINESS, "cust-8")
    long_ago = gone.as_of - 2 * module.FORGET_AFTER_S
    fresh = another(api)
    fresh._of(api.service.models.current).index.upsert(BUSINESS, ["who-left", "cust-8"], np.repeat(gone.vector[None], 2, axis=0), long_ago)
    fresh._forget_the_gone(fresh._build, [(BUSINESS, "cust-8")], gone.as_of)
    assert fresh._build.index.customers(BUSINESS) == ["cust-8"]


async def test_the_task_outlives_what_it_meets_and_saves_at_the_end(api, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FAILED_PAUSE_S", 0.01)
    customers = api.service.customers
    customers.settings = SimilarSettings(poll_s=0.01)
    meets: list[Callable[[], Awaitable[None]]] = []

    async def strange() -> None:
        raise RuntimeError("nobody expected this")

    look = customers.look

    async def first_strange() -> None:
        meets.append(strange)
        await (strange() if len(meets) == 1 else look())

    customers.look = first_strange
    api.tower.fail = UpstreamError("away")
    customers.start()
    await until(lambda: len(meets) > 3)
    api.tower.fail = None
    await until(lambda: customers._build is not None and customers._build.complete)
    await api.send({"eventId": "a", "customerId": "late", "eventType": "app_open"})
    await until(lambda: customers._build.index.get(BUSINESS, "late") is not None)
    await customers.stop()
    assert len(CustomerIndex.load(home / "embeddings" / "customers-1.npz", "1")[0]) == 32


async def test_a_full_disk_does_not_hold_up_the_end(api, monkeypatch: pytest.MonkeyPatch) -> None:
    customers = api.service.customers
    await customers.look()
    customers._build.changed = True

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(CustomerIndex, "save", full)
    await customers.stop()
    assert customers._lock is None


async def test_progress_is_a_metric_and_does_not_hold_up_readiness(api) -> None:
    assert (await api.http.get("/-/readyz")).status_code == 200
    await api.service.customers.look()
    shown = (await api.http.get("/metrics")).text
    assert 'regulars_similar_customers{state="indexed"} 31.0' in shown
    assert 'regulars_similar_customers{state="known"} 31.0' in shown
    assert 'regulars_customer_embeddings_total{reason="walk"} 31.0' in shown


@pytest.mark.parametrize("day", range(14))
def test_the_neutral_time_is_noon_of_a_wednesday_before(day: int) -> None:
    as_of = datetime(2026, 11, 10, 3, 4, 5, tzinfo=UTC) + timedelta(days=day)
    found = datetime.fromtimestamp(neutral_time(as_of.isoformat()), UTC)
    assert (found.weekday(), found.hour, found.minute) == (2, 12, 0)
    assert timedelta(days=-1) < as_of - found < timedelta(days=7)
