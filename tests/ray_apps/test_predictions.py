"""Predictions, interventions and outcomes in the operational database, on both engines."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from contracts.errors import Conflict, UnknownItem, UpstreamError
from ray_apps.predictions import PredictionLog, Predictions, StoredPrediction
from ray_apps.store import OperationalStore

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)


def prediction(prediction_id: str = "p-1", **more: Any) -> StoredPrediction:
    row: dict[str, Any] = {
        "prediction_id": prediction_id, "business_id": "biz-1", "customer_id": "c", "created_at": NOW, "as_of": NOW,
        "model_version": "sequence/1", "coverage": "full", "degraded": False, "active": True, "churn": (0.6, 0.5, 0.4),
        "payload": {"spend": [1.5, 2.25], "text": "é"},
    }  # fmt: skip
    return StoredPrediction(**(row | more))


@pytest.fixture
def found(store: OperationalStore) -> Predictions:
    return Predictions(store)


async def test_what_is_saved_is_found_and_a_repeat_changes_nothing(found: Predictions) -> None:
    await found.save([])
    await found.save([prediction()])
    await found.save([prediction(churn=(0.1, 0.1, 0.1)), prediction("p-2")])
    assert await found.get("biz-1", "p-1") == prediction()
    assert (await found.get("biz-1", "p-2")).churn == (0.6, 0.5, 0.4)


@pytest.mark.parametrize(("business", "name"), [("biz-2", "p-1"), ("biz-1", "p-9"), ("biz-1", "p\x001")])
async def test_foreign_and_unknown_predictions_are_not_found(found: Predictions, business: str, name: str) -> None:
    await found.save([prediction()])
    for asked in (
        lambda: found.get(business, name),
        lambda: found.add_intervention(business, name, "camp", "OFFER"),
        lambda: found.add_outcome(business, name, True, None),
    ):
        with pytest.raises(UnknownItem, match="there is no prediction"):
            await asked()


async def test_the_newest_are_the_models_own_and_not_too_old(found: Predictions) -> None:
    days = {"a": 1, "b": 3, "c": 9}
    await found.save([prediction(name, as_of=NOW - timedelta(days=ago)) for name, ago in days.items()])
    await found.save([prediction("d", degraded=True), prediction("e", customer_id="other"), prediction("f", business_id="biz-2")])
    assert [p.prediction_id for p in await found.newest("biz-1", "c", NOW - timedelta(days=7))] == ["a", "b"]
    assert [p.prediction_id for p in await found.newest("biz-1", "c", NOW - timedelta(days=7), limit=1)] == ["a"]
    assert await found.newest("biz-1", "c", NOW) == []


async def test_interventions_and_outcomes_are_recorded_once(found: Predictions) -> None:
    await found.save([prediction()])
    day = date(2026, 12, 24)
    for created in (True, False):
        assert (await found.add_intervention("biz-1", "p-1", "camp-1", "OFFER")).created is created
        recorded = await found.add_outcome("biz-1", "p-1", True, day)
        assert (recorded.created, recorded.prediction) == (created, prediction())
    with pytest.raises(Conflict, match="campaign_id camp-1, intervention_type OFFER"):
        await found.add_intervention("biz-1", "p-1", "camp-2", "OFFER")
    for churned, when in ((False, None), (True, None), (True, date(2026, 12, 25))):
        with pytest.raises(Conflict, match="churned True, churn_date 2026-12-24"):
            await found.add_outcome("biz-1", "p-1", churned, when)


async def test_contradictions_at_once_leave_one_record(found: Predictions) -> None:
    await found.save([prediction()])
    done = await asyncio.gather(*(found.add_outcome("biz-1", "p-1", i % 2 == 0, None) for i in range(8)), return_exceptions=True)
    assert sum(not isinstance(d, BaseException) and d.created for d in done) == 1
    assert sum(isinstance(d, Conflict) for d in done) == 4


async def test_only_the_models_first_forecast_of_a_day_about_the_active_is_judged(found: Predictions) -> None:
    early = NOW - timedelta(hours=2)
    await found.save(
        [
            prediction("late", churn=(0.9, 0.9, 0.9)), prediction("early", as_of=early), prediction("next", as_of=NOW + timedelta(days=1)),
            prediction("v2", model_version="sequence/2"), prediction("a", customer_id="x", active=False),
            prediction("b", customer_id="x", degraded=True), prediction("c", customer_id="x", coverage="cold_start"),
            prediction("d", customer_id="x", business_id="biz-2"), prediction("old", customer_id="y", as_of=NOW - timedelta(days=50)),
        ]
    )  # fmt: skip
    await found.add_intervention("biz-1", "late", "camp", "OFFER")
    await found.add_outcome("biz-1", "late", True, None)
    await found.add_outcome("biz-1", "next", False, None)
    rows, more = await found.judged("biz-1", NOW - timedelta(days=30), NOW + timedelta(days=2))
    assert not more
    got = {(r.as_of, r.model_version): (r.churn, r.intervened, r.reported) for r in rows}
    same = (0.6, 0.5, 0.4)
    assert got == {
        (early, "sequence/1"): (same, True, True),
        (NOW, "sequence/2"): (same, False, None),
        (NOW + timedelta(days=1), "sequence/1"): (same, False, False),
    }
    assert len((await found.judged("biz-1", NOW - timedelta(days=60), NOW + timedelta(days=2)))[0]) == 4
    rows, more = await found.judged("biz-1", NOW - timedelta(days=60), NOW + timedelta(days=2), limit=1)
    assert ([r.as_of for r in rows], more) == ([NOW + timedelta(days=1)], True)


async def test_pruning_takes_what_was_recorded_with_it(found: Predictions) -> None:
    await found.save([prediction(), prediction("new", created_at=NOW + timedelta(days=1))])
    for name in ("p-1", "new"):
        await found.add_outcome("biz-1", name, True, None)
        await found.add_intervention("biz-1", name, "camp", "OFFER")
    assert await found.prune(NOW + timedelta(hours=1)) == 1
    await found.save([prediction()])
    assert (await found.add_outcome("biz-1", "p-1", False, None)).created
    assert not (await found.add_outcome("biz-1", "new", True, None)).created


async def test_the_log_writes_behind_and_keeps_what_cannot_be_written(found: Predictions) -> None:
    async with PredictionLog(found, interval_s=0.01) as log:
        await log.append(prediction())
    assert (await found.get("biz-1", "p-1")).customer_id == "c"

    async def broken(batch: object) -> None:
        raise UpstreamError("down")

    log = PredictionLog(found)
    log._save = broken
    await log.append(prediction("p-3"))
    with pytest.raises(UpstreamError):
        await log.close()
    assert len(log) == 1
