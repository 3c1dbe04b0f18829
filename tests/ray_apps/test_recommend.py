"""The pipeline: who gets what, and what happens when a part is away."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from contracts.errors import ArtifactError, UpstreamError
from contracts.tensors import RANKER, USER_TOWER
from embeddings.table import Filter
from ray_apps.deployments.model import refreshed
from ray_apps.deployments.recommend import by_model, by_popularity
from ray_apps.metrics import Stopwatch


@pytest.fixture(scope="module")
def made() -> ModuleType:
    """The conftest beside this file, for its `write_bundle`."""
    path = Path(__file__).with_name("conftest.py")
    spec = importlib.util.spec_from_file_location("ray_apps_conftest", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def ids(body: dict) -> list[str]:
    return [r["rewardId"] for r in body["recommendations"]]


async def test_coverage_follows_what_is_known(api) -> None:
    assert [(await api.recommend(c))["coverage"] for c in ("cust-0", "cust-1", "cust-2", "nobody")] == [
        "full",
        "sparse",
        "cold_start",
        "cold_start",
    ]


async def test_first_event_turns_cold_start_into_sparse(api) -> None:
    await api.send({"eventId": "n-1", "customerId": "newcomer", "eventType": "app_open"})
    body = await api.recommend("newcomer")
    assert (body["coverage"], body["degraded"]) == ("sparse", False)


@pytest.mark.parametrize("customer", ["cust-0", "nobody"])
async def test_expired_sold_out_and_foreign_rewards_never_leave(api, customer: str) -> None:
    assert set(ids(await api.recommend(customer, numRecommendations=50))) == {f"rew-{i:02d}" for i in range(10)}


async def test_other_business_sees_only_its_own(api) -> None:
    api.http.headers["Authorization"] = f"Bearer {api.keys['other']}"
    assert ids(await api.recommend("cust-0")) == ["rew-12"]


async def test_time_of_day_changes_the_features(api, monkeypatch) -> None:
    seen = []
    infer = api.tower.infer

    async def keep(spec, inputs, version="", deadline_s=None):
        if spec is USER_TOWER:
            seen.append(inputs["features"])
        return await infer(spec, inputs, version, deadline_s)

    monkeypatch.setattr(api.tower, "infer", keep)
    for part in ("morning", "night", None):
        api.service.recommender.vectors.clear()
        await api.recommend("cust-0", context={"timeOfDay": part} if part else {})
    assert np.abs(seen[0][0, 38:40] - seen[1][0, 38:40]).max() > 0.5
    np.testing.assert_allclose(seen[0][0, 38:40], seen[2][0, 38:40], atol=0.01)  # NOW is in the morning
    np.testing.assert_allclose(seen[0][0, :38], seen[1][0, :38], atol=0.01)


async def test_the_ranker_scores_all_candidates_in_one_call_and_orders_the_answer(api, monkeypatch) -> None:
    calls = []
    infer = api.tower.infer

    async def keep(spec, inputs, version="", deadline_s=None):
        answer = await infer(spec, inputs, version, deadline_s)
        calls.append((spec.name, len(next(iter(inputs.values()))), answer))
        return answer

    monkeypatch.setattr(api.tower, "infer", keep)
    body = await api.recommend("cust-0", numRecommendations=50)
    names = [name for name, _, _ in calls]
    assert names == ["user_tower", "ranker", "ranker"]  # the second one asks what moved the scores
    scores = [r["score"] for r in body["recommendations"]]
    assert scores == sorted(scores, reverse=True)
    assert calls[1][1] == len(scores)
    logits = np.sort(calls[1][2]["logits"][:, 0])[::-1]
    assert scores[0] / scores[-1] == pytest.approx(float(np.exp(logits[0] - logits[-1])), rel=0.5)


async def test_without_the_ranker_the_nearest_rewards_are_the_answer(api, monkeypatch) -> None:
    infer = api.tower.infer

    async def broken(spec, inputs, version="", deadline_s=None):
        if spec is RANKER:
            raise UpstreamError("gone")
        return await infer(spec, inputs, version, deadline_s)

    monkeypatch.setattr(api.tower, "infer", broken)
    body = await api.recommend("cust-0")
    assert body["degraded"] is True
    assert body["recommendations"][0]["explanation"]


async def test_without_the_attribution_an_answer_is_whole(api, monkeypatch) -> None:
    infer, asked = api.tower.infer, []

    async def once(spec, inputs, version="", deadline_s=None):
        if spec is RANKER:
            asked.append(spec)
            if len(asked) == 2:
                raise UpstreamError("slow")
        return await infer(spec, inputs, version, deadline_s)

    monkeypatch.setattr(api.tower, "infer", once)
    body = await api.recommend("cust-0")
    assert body["degraded"] is False
    assert all("impact" not in reason for r in body["recommendations"] for reason in r["reasons"])


async def test_a_kept_vector_spares_the_tower_until_something_happens(api, monkeypatch) -> None:
    names, infer = [], api.tower.infer

    async def keep(spec, inputs, version="", deadline_s=None):
        names.append(spec.name)
        return await infer(spec, inputs, version, deadline_s)

    monkeypatch.setattr(api.tower, "infer", keep)
    await api.recommend("cust-0")
    await api.recommend("cust-0")
    assert names.count("user_tower") == 1
    await api.send({"eventId": "v-1", "customerId": "cust-0", "eventType": "app_open"})
    await api.recommend("cust-0")
    assert names.count("user_tower") == 2


async def test_a_reward_shown_too_often_is_held_back(api, monkeypatch) -> None:
    capped = api.service.settings.model_copy(update={"frequency_cap": 2})
    monkeypatch.setattr(api.service.recommender, "_settings", capped)
    for _ in range(2):
        first = ids(await api.recommend("cust-0", numRecommendations=2))
        await api.service.log.flush()
    later = ids(await api.recommend("cust-0", numRecommendations=2))
    assert first
    assert not set(first) & set(later)


async def test_what_is_redeemed_now_is_counted_anew(api) -> None:
    before = api.service.models.current
    after = refreshed(before, api.service.settings.folder)
    assert after.version == before.version
    assert after.stats.shares.shape == before.stats.shares.shape
    assert np.isfinite(after.stats.shares).all()
    api.service.models._refresh_s = 0.0
    await api.service.models.refresh()
    assert api.service.models.current is not before


async def test_model_order_is_that_of_the_calibrated_probability(api) -> None:
    served = api.service.models.current
    vector = (await api.tower.infer(USER_TOWER, {t.name: served.golden[t.name] for t in USER_TOWER.inputs}, "1"))["user_vector"]
    rules = Filter("biz-1", api.service.clock.now().timestamp())
    ranked = by_model(served, vector, rules, 50)
    cosines = served.catalogue.vectors[list(ranked.rows)] @ vector[0]
    expected = [
        served.snapshot.calibration.probability(float(c), served.catalogue.share[r]) for c, r in zip(cosines, ranked.rows, strict=True)
    ]
    np.testing.assert_allclose(ranked.scores, expected, atol=1e-6)
    assert ranked.scores == sorted(ranked.scores, reverse=True)


async def test_popularity_scores_are_probabilities_and_nothing_allowed_is_no_answer(api) -> None:
    served, now = api.service.models.current, api.service.clock.now().timestamp()
    ranked = by_popularity(served, Filter("biz-1", now), None, now, "morning", 50)
    assert all(0 <= s <= 1 for s in ranked.scores)
    assert ranked.scores == sorted(ranked.scores, reverse=True)
    assert list(by_popularity(served, Filter("nobody", now), None, now, "night", 5).rows) == []


async def test_without_the_model_server_answers_are_degraded_quick_and_filtered(api) -> None:
    await api.send({"eventId": "d-1", "customerId": "cust-0", "eventType": "reward_dismissed", "rewardId": "rew-00"})
    api.tower.fail = UpstreamError("gone")
    bodies = [await api.recommend("cust-0", numRecommendations=50) for _ in range(6)]
    assert all(b["degraded"] and b["coverage"] == "full" for b in bodies)
    assert all("rew-00" not in ids(b) and "rew-10" not in ids(b) for b in bodies)
    assert api.service.recommender.tower.open
    calls = api.tower.calls
    await api.service.recommender.recommend("biz-1", _request("cust-0"), Stopwatch())
    assert api.tower.calls <= calls + 1  # a probe at most: the open breaker asks nobody
    answer = await api.http.get("/-/readyz")
    assert (answer.status_code, answer.json()["checks"]["triton"]) == (503, False)
    api.tower.fail = None
    await _until(lambda: not api.service.recommender.tower.open)
    assert (await api.recommend("cust-0"))["degraded"] is False


async def test_slow_model_server_is_not_waited_for(api) -> None:
    api.tower.delay_s = 5.0
    body = await api.recommend("cust-0")
    assert body["degraded"] is True
    assert body["latency"] < 4000


async def test_unknown_customer_needs_no_model_server(api) -> None:
    api.tower.fail = UpstreamError("gone")
    body = await api.recommend("nobody")
    assert (body["degraded"], body["coverage"]) == (False, "cold_start")
    assert ids(body)


async def test_without_stored_states_the_inbox_still_counts(api, monkeypatch) -> None:
    await api.send({"eventId": "s-1", "customerId": "cust-0", "eventType": "reward_dismissed", "rewardId": "rew-00"})

    async def broken(*_: object) -> None:
        raise ArtifactError("no file")

    monkeypatch.setattr(api.service.states, "read", broken)
    body = await api.recommend("cust-0", numRecommendations=50)
    assert body["degraded"] is True
    assert "rew-00" not in ids(body)


async def test_without_the_inbox_stored_states_still_count(api, monkeypatch) -> None:
    async def broken(*_: object) -> None:
        raise UpstreamError("no database")

    monkeypatch.setattr(api.service.store, "recent_events", broken)
    body = await api.recommend("cust-0")
    assert (body["degraded"], body["coverage"]) == (True, "full")


async def test_deployed_version_is_swapped_in_and_a_damaged_one_is_not(api, made: ModuleType) -> None:
    made.write_bundle(api.home, "2", seed=2)
    await _until(lambda: api.service.models.current.version == "2")
    assert (await api.recommend("cust-0"))["modelVersion"] == "two-tower/2"
    broken = made.write_bundle(api.home, "3", seed=3)
    (broken / "calibration.json").write_text("{}")
    await _until(lambda: api.service.models.problem is not None)
    body = await api.recommend("cust-0")
    assert (body["modelVersion"], body["degraded"]) == ("two-tower/2", False)
    ready = await api.http.get("/-/readyz")
    assert (ready.status_code, ready.json()["checks"]["model"]) == (200, False)
    assert 'regulars_model_info{version="2"} 1.0' in (await api.http.get("/metrics")).text


async def test_version_whose_tower_answers_wrongly_is_not_served(api, made: ModuleType, monkeypatch) -> None:
    infer = api.tower.infer

    async def off(spec, inputs, version="", deadline_s=None):
        found = await infer(spec, inputs, version, deadline_s)
        return {k: -v for k, v in found.items()} if version == "2" else found

    monkeypatch.setattr(api.tower, "infer", off)
    made.write_bundle(api.home, "2", seed=2)
    await _until(lambda: api.service.models.problem is not None)
    assert "known row" in api.service.models.problem
    assert api.service.models.current.version == "1"


@pytest.mark.parametrize(("customer", "away"), [("nobody", ()), ("cust-0", (RANKER,)), ("cust-0", (USER_TOWER, RANKER)), ("cust-0", ())])
async def test_caps_and_the_objective_hold_whoever_answers(api, monkeypatch, customer: str, away: tuple) -> None:
    """Known or not, with the ranker, the towers alone or popularity."""
    infer = api.tower.infer

    async def some(spec, inputs, version="", deadline_s=None):
        if spec in away:
            raise UpstreamError("away. Wait.")
        return await infer(spec, inputs, version, deadline_s)

    monkeypatch.setattr(api.tower, "infer", some)
    free = await api.recommend(customer, numRecommendations=50)
    assert free["degraded"] == bool(away)
    assert len(free["recommendations"]) == 10
    capped = api.service.settings.model_copy(update={"max_per_category": 1})
    monkeypatch.setattr(api.service.recommender, "_settings", capped)
    few = await api.recommend(customer, numRecommendations=50)
    assert len({int(r[-2:]) % 4 for r in ids(few)}) == len(few["recommendations"]) == 4  # the categories of the catalogue
    assert ids(few)[0] == ids(free)[0]
    offers = api.service.models.current.catalogue.offers
    monkeypatch.setattr(api.service.recommender, "_settings", api.service.settings)
    unlike = offers.face_value.copy()
    offers.face_value[:] = np.arange(len(unlike)) * 1_000.0  # the later ones cost a fortune
    try:
        earned = (await api.recommend(customer, numRecommendations=50, objective="expected_value"))["recommendations"]
        lost = np.array([r["score"] * int(r["rewardId"][-2:]) for r in earned])
        assert (np.diff(lost) >= -0.05 * lost.max()).all()
        assert ids({"recommendations": earned}) != ids(free)
        assert ids(await api.recommend(customer, numRecommendations=50)) == ids(free)
    finally:
        offers.face_value[:] = unlike


async def test_answer_before_any_model_is_refused(api) -> None:
    api.service.models._holder = None
    with pytest.raises(ArtifactError, match="no model is loaded"):
        await api.service.recommender.recommend("biz-1", _request("cust-0"), Stopwatch())


async def test_event_dated_after_the_serving_clock_counts_from_now(api) -> None:
    later = api.service.clock.read() + timedelta(minutes=1)
    sent = {"eventId": "f-1", "customerId": "cust-0", "eventType": "redemption", "rewardId": "rew-03", "occurredAt": later.isoformat()}
    assert (await api.send(sent))["accepted"] == 1
    assert "rew-03" not in ids(await api.recommend("cust-0", numRecommendations=50))


def _request(customer: str):
    from contracts.api import RecommendationRequest

    return RecommendationRequest(customer_id=customer)


async def _until(true, timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not true():
            await asyncio.sleep(0.02)
