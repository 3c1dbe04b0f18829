"""Churn, value, risk and profile over the app, with a model whose attributions are known and ONNX Runtime in place of Triton."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from contracts import api_churn
from contracts.errors import ArtifactError, UpstreamError
from contracts.tables import CLV_SEGMENTS, RISK_LEVELS
from contracts.tensors import FACTORS
from features.online import OnlineStore
from features.weekly import facts
from ray_apps.deployments.recommend import Recommender

CHURN, CLV = "/api/v1/ml/churn/predict", "/api/v1/ml/clv/predict"
NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
MODELS = {
    "churn": api_churn.ChurnPrediction,
    "clv": api_churn.ClvPrediction,
    "risk": api_churn.CustomerRisk,
    "profile": api_churn.CustomerProfile,
}


async def get(api: Any, what: str = "churn", customer: str = "cust-0", **query: Any) -> dict[str, Any]:
    """An answer that must succeed and meet the contract."""
    path = {"churn": CHURN, "clv": CLV}.get(what, f"/api/v1/customers/{customer}/{what}")
    asked = query if what in ("risk", "profile") else {"customerId": customer, **query}
    answer = await api.http.get(path, params=asked)
    assert answer.status_code == 200, answer.text
    body = dict(answer.json())
    MODELS[what].model_validate(body)
    return body


def is_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    return dict(answer.json())


async def break_triton(api: Any) -> None:
    api.tower.fail = UpstreamError("away")


# --- churn


async def test_a_known_customer_gets_the_models_forecast(churn_api) -> None:
    body = await get(churn_api)
    assert (body["coverage"], body["degraded"], body["source"], body["modelVersion"]) == ("full", False, "model", "sequence/1")
    assert list(body["horizons"]) == ["30", "60", "90"]
    assert body["horizons"]["30"] >= body["horizons"]["60"] >= body["horizons"]["90"] == body["churnProbability"]
    assert body["riskLevel"] == RISK_LEVELS[sum(body["churnProbability"] >= cut for cut in (0.4, 0.6, 0.8))]
    assert body["latency"] > 0
    as_of = datetime.fromisoformat(body["asOf"])
    assert timedelta(0) <= as_of - NOW < timedelta(minutes=1)
    assert date.fromisoformat(body["predictedChurnDate"]) == as_of.date() + timedelta(days=body["daysUntilChurn"])


@pytest.mark.parametrize("shown", [1, 3, 8])
async def test_what_is_shown_and_the_rest_add_up_to_the_probability(churn_api, shown: int) -> None:
    for customer in ("cust-0", "cust-5", "cust-9"):
        body = await get(churn_api, customer=customer, factors=shown)
        impacts = [f["impact"] for f in body["topFactors"]]
        assert len(impacts) == shown
        assert body["referenceProbability"] == pytest.approx(0.42, abs=1e-6)
        assert body["referenceProbability"] + sum(impacts) + body["otherFactors"] == pytest.approx(body["churnProbability"], abs=1e-5)
        assert [abs(i) for i in impacts] == sorted((abs(i) for i in impacts), reverse=True)
        assert all(abs(i) >= abs(body["otherFactors"]) / (8 - shown) - 1e-6 for i in impacts if shown < 8)
    assert body["otherFactors"] == 0 if shown == 8 else body["otherFactors"] != 0


async def test_every_factor_is_said_in_the_customers_own_numbers(churn_api) -> None:
    with_all = {f["factor"]: f for f in (await get(churn_api, factors=8))["topFactors"]}
    assert set(with_all) == set(FACTORS)
    known = await churn_api.service.churn.histories.known("biz-1", "cust-0", churn_api.service.clock.now())
    recency = with_all["recency"]
    assert recency["currentValue"] == round(known.facts["days_since_purchase"])
    assert recency["expectedValue"] == round(known.facts["usual_gap"], 1)
    assert recency["description"].startswith(f"{recency['currentValue']:g} day")
    assert "usual" in recency["description"]
    assert (with_all["frequency"]["currentValue"], with_all["redemption"]["currentValue"]) == (8, 8)
    assert with_all["monetary"]["currentValue"] == pytest.approx(76.0)
    assert with_all["tenure"]["currentValue"] == 300
    assert with_all["season"]["description"].startswith("November (compared with ")
    reference = churn_api.service.churn.models.current.reference
    assert with_all["monetary"]["expectedValue"] == round(reference["spend_90d"], 2)


async def test_what_a_customer_just_did_is_inside(churn_api) -> None:
    before = await get(churn_api, factors=8)
    await churn_api.send({"eventId": "e-now", "customerId": "cust-0", "eventType": "purchase", "amount": 100.0})
    after = await get(churn_api, factors=8)
    recency = next(f for f in after["topFactors"] if f["factor"] == "recency")
    assert recency["currentValue"] == 0
    assert recency["description"].startswith("0 days since last purchase")
    assert after["churnProbability"] != before["churnProbability"]
    gained = (await get(churn_api, "clv"))["historicalCLV"]
    assert gained == pytest.approx(176.0)


@pytest.mark.parametrize("customer", ["nobody", "cust-1", "cust-2"])
async def test_who_never_bought_gets_the_base_rates(churn_api, customer: str) -> None:
    calls = churn_api.tower.calls
    for what in ("churn", "clv", "risk", "profile"):
        body = await get(churn_api, what, customer)
        assert (body["coverage"], body["degraded"], body["source"]) == ("cold_start", False, "base_rates")
    assert churn_api.tower.calls == calls
    body = await get(churn_api, customer=customer)
    assert (body["churnProbability"], body["referenceProbability"], body["topFactors"], body["otherFactors"]) == (0.55, 0.55, [], 0)
    assert body["daysUntilChurn"] == 90
    value = await get(churn_api, "clv", customer)
    assert (value["historicalCLV"], value["predictedCLV"], value["totalCLV"]) == (0, 37.44, 37.44)
    assert (await get(churn_api, "profile", customer))["rfm"] is None


async def test_who_has_been_silent_for_90_days_has_churned_on_that_day(churn_api) -> None:
    last = NOW - timedelta(days=130)
    await churn_api.send({"eventId": "old", "customerId": "gone", "eventType": "purchase", "amount": 10.0, "occurredAt": last.isoformat()})
    body = await get(churn_api, customer="gone")
    assert body["daysUntilChurn"] == 0
    assert date.fromisoformat(body["predictedChurnDate"]) == last.date() + timedelta(days=90)
    assert body["coverage"] == "sparse"
    risk = await get(churn_api, "risk", "gone")
    assert risk["riskAssessment"]["timeToChurnDays"] == 0


# --- when a part is away


async def test_without_triton_a_stored_forecast_stands_in_and_says_so(churn_api) -> None:
    first = await get(churn_api, factors=8)
    await get(churn_api, "clv")
    await churn_api.service.churn.log.flush()
    await break_triton(churn_api)
    body = await get(churn_api, factors=8)
    assert (body["degraded"], body["source"], body["coverage"]) == (True, "stored", "full")
    for same in ("predictionId", "churnProbability", "topFactors", "referenceProbability", "asOf", "predictedChurnDate", "daysUntilChurn"):
        assert body[same] == first[same], same
    value = await get(churn_api, "clv")
    assert (value["source"], value["predictedCLV"]) == ("stored", round(sum(m["predictedSpend"] for m in value["monthlyBreakdown"]), 2))


async def test_without_triton_and_without_an_earlier_forecast_base_rates_do(churn_api) -> None:
    await break_triton(churn_api)
    for what in ("churn", "clv", "risk", "profile"):
        body = await get(churn_api, what, "cust-5")
        assert (body["degraded"], body["source"], body["coverage"]) == (True, "base_rates", "full")
    assert (await get(churn_api, "clv", "cust-5"))["historicalCLV"] == pytest.approx(76.0)


async def test_an_earlier_forecast_that_is_too_old_does_not_stand_in(churn_api) -> None:
    await get(churn_api)
    await churn_api.service.churn.log.flush()
    await break_triton(churn_api)
    later = churn_api.service.clock.now() + timedelta(days=8)
    churn_api.service.churn.forecaster._clock = type("Later", (), {"now": staticmethod(lambda: later)})
    assert (await get(churn_api))["source"] == "base_rates"


async def test_the_breaker_closes_when_triton_is_back(churn_api) -> None:
    await break_triton(churn_api)
    for _ in range(4):
        await get(churn_api)
    assert churn_api.service.churn.forecaster.breaker.open
    assert (await churn_api.http.get("/-/readyz")).json()["checks"]["sequence"] is False
    calls = churn_api.tower.calls
    assert (await get(churn_api))["degraded"]
    churn_api.tower.fail = None
    for _ in range(200):
        if not churn_api.service.churn.forecaster.breaker.open:
            break
        await asyncio.sleep(0.01)
    assert churn_api.tower.calls > calls
    assert (await get(churn_api))["source"] == "model"


async def test_without_stored_histories_a_regular_is_not_taken_for_somebody_new(churn_api, monkeypatch) -> None:
    await get(churn_api)
    await churn_api.service.churn.log.flush()

    async def broken(*_: object) -> None:
        raise ArtifactError("no file")

    monkeypatch.setattr(churn_api.service.states, "read_history", broken)
    body = await get(churn_api)
    assert (body["degraded"], body["source"], body["coverage"]) == (True, "stored", "full")
    other = await get(churn_api, customer="cust-7")
    assert (other["degraded"], other["source"], other["coverage"]) == (True, "base_rates", "cold_start")
    for _ in range(5):
        await get(churn_api)
    assert churn_api.service.churn.histories.breaker.open
    assert (await churn_api.recommend())["degraded"] is False, "the recommender goes on"


async def test_a_history_of_the_future_is_no_500(churn_api, monkeypatch) -> None:
    early = NOW - timedelta(days=300)
    monkeypatch.setattr(churn_api.service.churn.forecaster, "_clock", type("Early", (), {"now": staticmethod(lambda: early)}))
    assert (await get(churn_api))["degraded"]


async def test_without_the_inbox_the_stored_history_answers_degraded(churn_api, monkeypatch) -> None:
    async def broken(*_: object) -> list[Any]:
        raise UpstreamError("down")

    monkeypatch.setattr(churn_api.service.store, "recent_events", broken)
    body = await get(churn_api)
    assert (body["degraded"], body["source"]) == (True, "model")


async def test_without_the_database_base_rates_still_answer(churn_api, monkeypatch) -> None:
    async def broken(*_: object) -> list[Any]:
        raise UpstreamError("down")

    await break_triton(churn_api)
    monkeypatch.setattr(churn_api.service.churn.predictions, "newest", broken)
    assert (await get(churn_api))["source"] == "base_rates"


# --- a home without a sequence model, and one that gets one


async def test_without_a_sequence_model_everything_else_works_and_the_answer_says_what_to_do(api) -> None:
    for path in (f"{CHURN}?customerId=c", f"{CLV}?customerId=c", "/api/v1/customers/c/risk", "/api/v1/customers/c/profile"):
        body = is_problem(await api.http.get(path), 503)
        assert "regulars train sequence" in body["detail"]
        assert "regulars export" in body["detail"]
    ready = (await api.http.get("/-/readyz")).json()
    assert (ready["ready"], ready["checks"]["sequence"]) == (True, False)
    assert (await api.recommend())["coverage"] == "full"
    assert (await api.http.get("/api/v1/ml/churn/calibration")).json()["n"] == 0


async def wait_for(api: Any, name: str) -> None:
    for _ in range(300):
        if api.service.churn.model_name == name:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(api.service.churn.models.problem)


async def test_a_model_that_is_deployed_later_is_served_and_replaced_without_a_restart(api, bundle) -> None:
    bundle(api.home, "1")
    await wait_for(api, "sequence/1")
    assert (await api.http.get("/-/readyz")).json()["checks"]["sequence"] is True
    first = await get(api)
    bundle(api.home, "2", seed=2)
    await wait_for(api, "sequence/2")
    second = await get(api)
    assert (first["modelVersion"], second["modelVersion"]) == ("sequence/1", "sequence/2")
    assert first["churnProbability"] != second["churnProbability"]
    assert 'regulars_sequence_model_info{version="2"} 1.0' in (await api.http.get("/metrics")).text


async def test_a_version_that_answers_wrongly_is_not_served(churn_api, bundle) -> None:
    folder = bundle(churn_api.home, "2", seed=2, deployed=False)
    with np.load(folder / "golden.npz") as file:
        golden = {name: file[name] for name in file.files}
    golden["impacts"] = golden["impacts"] + 0.1
    np.savez(folder / "golden.npz", allow_pickle=False, **golden)
    sign(folder)
    _deploy(churn_api.home, "2")
    for _ in range(300):
        if churn_api.service.churn.models.problem:
            break
        await asyncio.sleep(0.01)
    assert "sequence_factors 2 is off by" in churn_api.service.churn.models.problem
    assert (await get(churn_api))["modelVersion"] == "sequence/1"
    assert (await churn_api.http.get("/-/readyz")).json()["checks"]["sequence"] is False


async def test_a_damaged_first_version_is_refused_until_another_is_deployed(api, bundle) -> None:
    folder = bundle(api.home, "1", deployed=False)
    (folder / "golden.npz").write_bytes(b"no archive")
    sign(folder)
    _deploy(api.home, "1")
    for _ in range(300):
        if "version 1" in (api.service.churn.models.problem or ""):
            break
        await asyncio.sleep(0.01)
    body = is_problem(await api.http.get(f"{CHURN}?customerId=c"), 503)
    assert "cannot read the bundle" in body["detail"]
    bundle(api.home, "2")
    await wait_for(api, "sequence/2")


async def test_a_first_version_that_answers_wrongly_is_not_served(api, bundle) -> None:
    folder = bundle(api.home, "1", deployed=False)
    with np.load(folder / "golden.npz") as file:
        golden = {name: file[name] + (0.1 if name == "churn" else 0) for name in file.files}
    np.savez(folder / "golden.npz", allow_pickle=False, **golden)
    sign(folder)
    _deploy(api.home, "1")
    for _ in range(300):
        if "is off by" in (api.service.churn.models.problem or ""):
            break
        await asyncio.sleep(0.01)
    assert "is off by" in api.service.churn.models.problem
    is_problem(await api.http.get(f"{CHURN}?customerId=c"), 503)


async def test_a_first_version_is_served_by_base_rates_until_the_model_server_is_there(api, bundle) -> None:
    await break_triton(api)
    bundle(api.home, "1")
    await wait_for(api, "sequence/1")
    assert (await get(api))["source"] == "base_rates"
    assert not api.service.churn.models.loaded
    api.tower.fail = None
    for _ in range(300):
        if api.service.churn.models.loaded and not api.service.churn.forecaster.breaker.open:
            break
        await asyncio.sleep(0.01)
    assert (await get(api))["source"] == "model"


def sign(folder: Path) -> None:
    """Make the manifest's checksums those of the files as they are."""
    import json

    from contracts.bundle import file_sha256

    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"] = {name: file_sha256(folder / name) for name in manifest["files"]}
    path.write_text(json.dumps(manifest))


def _deploy(home: Path, version: str) -> None:
    from contracts.bundle import deploy

    deploy(home / "models", version, "sequence")


# --- value


async def test_the_months_add_up_to_the_cent(churn_api) -> None:
    for customer in ("cust-0", "cust-5", "nobody"):
        body = await get(churn_api, "clv", customer)
        months = body["monthlyBreakdown"]
        cents = [round(m["predictedSpend"] * 100) for m in months]
        assert sum(cents) == round(body["predictedCLV"] * 100)
        assert body["totalCLV"] == pytest.approx(body["historicalCLV"] + body["predictedCLV"], abs=1e-9)
        assert body["interval"]["low"] <= body["predictedCLV"] <= body["interval"]["high"]
        assert body["interval"]["level"] == 0.8
        assert body["clvSegment"] == CLV_SEGMENTS[sum(body["predictedCLV"] >= cut for cut in (50, 150, 400))]
        advice = body["recommendations"]
        assert advice["maxAcquisitionCost"] == round(0.2 * body["totalCLV"], 2)
        assert advice["maxRetentionSpend"] == round(0.1 * body["predictedCLV"], 2)
        assert advice["recommendedActions"]
        begins = [date.fromisoformat(m["startsOn"]) for m in months]
        assert begins[0] == datetime.fromisoformat(body["asOf"]).date()
        assert all(m["month"] == m["startsOn"][:7] for m in months)
        assert {(b - a).days for a, b in itertools.pairwise(begins)} <= {30, 31}


# --- risk and profile


async def test_risk_is_of_the_same_forecast(churn_api) -> None:
    churn, clv, risk = [await get(churn_api, what) for what in ("churn", "clv", "risk")]
    assert risk["riskAssessment"]["riskLevel"] == churn["riskLevel"]
    assert risk["riskAssessment"]["churnProbability"] == pytest.approx(churn["churnProbability"], abs=1e-3)
    assert risk["riskAssessment"]["timeToChurnDays"] == churn["daysUntilChurn"]
    assert risk["customerValue"] == {"clv": pytest.approx(clv["predictedCLV"], abs=0.1), "segment": clv["clvSegment"]}
    assert risk["recommendation"]["basis"] == "rules"


async def test_a_profile_tells_what_is_known(churn_api) -> None:
    await asyncio.to_thread(churn_api.service.churn.base.refresh)
    body = await get(churn_api, "profile")
    churn, clv = await get(churn_api), await get(churn_api, "clv")
    assert body["churn"]["riskLevel"] == churn["riskLevel"]
    assert body["segment"] == clv["clvSegment"] == body["clv"]["clvSegment"]
    assert body["clv"]["historicalCLV"] == clv["historicalCLV"] == 76.0
    assert (body["rfm"]["purchases"], body["rfm"]["spend"]) == (8, 76.0)
    loyalty = body["loyalty"]
    assert (loyalty["tier"], loyalty["pointsBalance"], loyalty["nextTier"]) == ("SILVER", 120, "GOLD")
    assert loyalty["spendToNextTier"] == pytest.approx(900 - 76, abs=0.01)
    assert loyalty["progress"] == pytest.approx(76 / 900, abs=1e-3)
    assert body.get("embedding") is None
    assert body["degraded"] is False
    assert body["freshness"]["ageSeconds"] >= 0
    untold = await get(churn_api, "profile", "nobody")
    assert (untold["loyalty"], untold["freshness"]["newestEventAt"]) == (None, None)


async def test_freshness_is_that_of_the_newest_event(churn_api) -> None:
    await churn_api.send({"eventId": "f-1", "customerId": "cust-0", "eventType": "app_open"})
    body = await get(churn_api, "profile")
    assert body["freshness"]["ageSeconds"] < 30
    stored = await get(churn_api, "profile", "cust-3")
    assert stored["freshness"]["ageSeconds"] > 60


async def test_the_embedding_is_the_recommenders(churn_api) -> None:
    body = await get(churn_api, "profile", embedding="true")
    assert len(body["embedding"]) == 64
    assert np.linalg.norm(body["embedding"]) == pytest.approx(1, abs=1e-4)
    assert body["embeddingVersion"] == "two-tower/1"
    nobody = await get(churn_api, "profile", "nobody", embedding="true")
    assert (nobody["embedding"], nobody["degraded"]) == (None, False)


async def test_a_profile_without_its_parts_is_degraded_and_no_error(churn_api, monkeypatch) -> None:
    async def broken(*_: object) -> None:
        raise UpstreamError("down")

    for owner, name, query in (
        (churn_api.service.states, "read", {}),
        (churn_api.service.churn.base, "member", {}),
        (churn_api.service.recommender, "customer", {"embedding": "true"}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, broken)
            body = await get(churn_api, "profile", **query)
            assert body["degraded"], name
    with monkeypatch.context() as patch:
        patch.setattr(Recommender, "_infer", broken_infer)
        body = await get(churn_api, "profile", embedding="true")
        assert (body["embedding"], body["degraded"]) == (None, True)
    assert not (await get(churn_api, "profile", embedding="true"))["degraded"], "the control"


async def broken_infer(*_: object) -> None:
    return None


# --- what came of it


async def test_interventions_are_recorded_once(churn_api) -> None:
    made = await get(churn_api)
    path = f"/api/v1/ml/churn/{made['predictionId']}/intervention"
    given = {"campaignId": "camp-1", "interventionType": "RETENTION_OFFER"}
    answers = [(await churn_api.http.put(path, json=given)).json() for _ in range(2)]
    for answer, duplicate in zip(answers, (False, True), strict=True):
        api_churn.InterventionResponse.model_validate(answer)
        assert (answer["duplicate"], answer["customerId"], answer["modelVersion"]) == (duplicate, "cust-0", "sequence/1")
    is_problem(await churn_api.http.put(path, json={**given, "campaignId": "camp-2"}), 409)
    other = {"Authorization": f"Bearer {churn_api.keys['other']}"}
    is_problem(await churn_api.http.put(path, json=given, headers=other), 404)
    is_problem(await churn_api.http.put("/api/v1/ml/churn/unknown/intervention", json=given), 404)


async def test_outcomes_are_recorded_once(churn_api) -> None:
    made = await get(churn_api, "risk")
    path = f"/api/v1/ml/churn/{made['predictionId']}/actual-churn"
    given = {"churned": True, "churnDate": "2026-11-19"}
    for duplicate in (False, True):
        answer = (await churn_api.http.post(path, json=given)).json()
        api_churn.OutcomeResponse.model_validate(answer)
        assert (answer["duplicate"], answer["churnDate"]) == (duplicate, "2026-11-19")
        assert answer["churnProbability"] == made["riskAssessment"]["churnProbability"]
    for contradiction in ({"churned": False}, {"churned": True}, {"churned": True, "churnDate": "2026-11-18"}):
        is_problem(await churn_api.http.post(path, json=contradiction), 409)
    other = {"Authorization": f"Bearer {churn_api.keys['other']}"}
    is_problem(await churn_api.http.post(path, json=given, headers=other), 404)


async def test_an_outcome_of_the_future_is_refused(churn_api) -> None:
    made = await get(churn_api)
    path = f"/api/v1/ml/churn/{made['predictionId']}/actual-churn"
    body = is_problem(await churn_api.http.post(path, json={"churned": True, "churnDate": "9999-01-01"}), 422)
    assert "after today" in body["detail"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "intervention", {}),
        ("PUT", "intervention", {"campaignId": "", "interventionType": "x"}),
        ("PUT", "intervention", {"campaignId": "c", "interventionType": "x", "more": 1}),
        ("POST", "actual-churn", {}),
        ("POST", "actual-churn", {"churned": "yes"}),
        ("POST", "actual-churn", {"churned": 1}),
        ("POST", "actual-churn", {"churned": True, "churnDate": 5}),
        ("POST", "actual-churn", {"churned": True, "churnDate": "2026-11-19T00:00:00Z"}),
        ("POST", "actual-churn", {"churned": False, "churnDate": "2026-11-19"}),
    ],
)
async def test_bodies_that_are_not_the_contracts_are_refused(churn_api, method: str, path: str, body: dict[str, Any]) -> None:
    is_problem(await churn_api.http.request(method, f"/api/v1/ml/churn/x/{path}", json=body), 422)


async def test_calibration_is_made_of_what_was_reported_and_seen(churn_api) -> None:
    made = [await get(churn_api, customer=f"cust-{i}") for i in (0, 3, 4, 5)]
    for i, body in enumerate(made[:3]):
        path = f"/api/v1/ml/churn/{body['predictionId']}/actual-churn"
        assert (await churn_api.http.post(path, json={"churned": i == 0})).status_code == 200
    given = {"campaignId": "camp-1", "interventionType": "CALL"}
    assert (await churn_api.http.put(f"/api/v1/ml/churn/{made[2]['predictionId']}/intervention", json=given)).status_code == 200

    async def calibrated(**query: Any) -> dict[str, Any]:
        answer = await churn_api.http.get("/api/v1/ml/churn/calibration", params=query)
        assert answer.status_code == 200, answer.text
        api_churn.ChurnCalibration.model_validate(answer.json())
        return dict(answer.json())

    body = await calibrated(bins=5)
    assert (body["n"], body["reported"], body["seen"], body["pending"], body["intervened"]) == (2, 2, 0, 1, 1)
    assert (body["churnRate"], len(body["bins"]), sum(b["n"] for b in body["bins"])) == (0.5, 5, 2)
    high, low = made[0]["churnProbability"], made[1]["churnProbability"]
    assert body["auc"] == (1.0 if high > low else 0.0)
    assert body["predicted"] == pytest.approx((high + low) / 2, abs=1e-5)
    assert (await calibrated(withInterventions="true"))["n"] == 3
    assert (await calibrated(horizonDays="30"))["n"] == 0, "reports are about 90 days"
    assert (await calibrated(modelVersion="sequence/9"))["pending"] == 0


# --- HTTP


async def test_parameters_are_checked(churn_api) -> None:
    for path in (CHURN, f"{CHURN}?customerId=", f"{CHURN}?customerId=c&factors=9", f"{CHURN}?customerId=c&factors=0", CLV,
                 "/api/v1/customers/c/profile?embedding=1", "/api/v1/ml/churn/calibration?horizonDays=45",
                 "/api/v1/ml/churn/calibration?bins=1", "/api/v1/ml/churn/calibration?withInterventions=yes"):  # fmt: skip
        is_problem(await churn_api.http.get(path), 422)


async def test_roles_and_keys(churn_api) -> None:
    reads = (f"{CHURN}?customerId=cust-0", f"{CLV}?customerId=cust-0", "/api/v1/customers/cust-0/risk", "/api/v1/customers/cust-0/profile",
             "/api/v1/ml/churn/calibration")  # fmt: skip
    analyst = {"Authorization": f"Bearer {churn_api.keys['analyst']}"}
    for path in reads:
        is_problem(await churn_api.http.get(path, headers={"Authorization": "Bearer no"}), 401)
        assert (await churn_api.http.get(path, headers=analyst)).status_code == 200
    for method, path, body in (
        ("PUT", "/api/v1/ml/churn/x/intervention", {"campaignId": "c", "interventionType": "x"}),
        ("POST", "/api/v1/ml/churn/x/actual-churn", {"churned": True}),
    ):
        is_problem(await churn_api.http.request(method, path, json=body, headers=analyst), 403)
        is_problem(await churn_api.http.request(method, path, json=body, headers={"Authorization": ""}), 401)


async def test_another_business_sees_its_own_customers_only(churn_api) -> None:
    other = {"Authorization": f"Bearer {churn_api.keys['other']}"}
    answer = await churn_api.http.get(CHURN, params={"customerId": "cust-0"}, headers=other)
    assert answer.json()["coverage"] == "cold_start"


async def test_more_requests_than_places_are_told_to_come_back(churn_api) -> None:
    churn_api.service.gate._bound = 0
    for path in (f"{CHURN}?customerId=c", "/api/v1/ml/churn/calibration"):
        assert int((await churn_api.http.get(path)).headers["retry-after"]) >= 1


async def test_stages_and_forecasts_are_counted_without_ids(churn_api) -> None:
    answer = await churn_api.http.get(CHURN, params={"customerId": "cust-0"})
    stages = [part.partition(";")[0] for part in answer.headers["server-timing"].split(", ")]
    assert stages == ["auth", "features", "forecast", "rules", "total"]
    text = (await churn_api.http.get("/metrics")).text
    assert 'regulars_forecasts_total{coverage="full",route="churn",source="model"} 1.0' in text
    assert "cust-0" not in text


async def test_no_customer_id_reaches_the_log(churn_api, caplog, monkeypatch) -> None:
    caplog.set_level("DEBUG", logger="regulars")
    for name in ("_packed",):
        monkeypatch.setattr(OnlineStore, name, lambda self, view, customers: [b"x" if view is self._view else b"" for _ in customers])
    await get(churn_api, customer="very-private-id")
    assert "very-private-id" not in caplog.text
    assert "answering without the stored history" in caplog.text


async def test_every_route_is_documented(churn_api) -> None:
    schema = (await churn_api.http.get("/openapi.json")).json()
    names = {part.split("'")[0] for part in str(schema).split("#/components/schemas/")[1:]}
    assert names <= set(schema["components"]["schemas"])
    for model in (*MODELS.values(), api_churn.ChurnCalibration, api_churn.InterventionRequest, api_churn.OutcomeResponse):
        assert model.__name__ in names


async def test_the_reference_is_the_records(churn_api) -> None:
    served = churn_api.service.churn.models.current
    raw = facts(np.array([served.forecasting.reference_statics], dtype=np.float32))
    assert served.reference["usual_gap"] == pytest.approx(float(raw["usual_gap"][0]))
