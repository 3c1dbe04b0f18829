"""Batch predictions and who is at risk, over the app."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.api_batch import AtRiskResponse, BatchJob
from ray_apps.scoring.jobs import JobRunner
from ray_apps.scoring.runner import score
from ray_apps.scoring.settings import ScoreSettings

BATCH, AT_RISK = "/api/v1/predictions/batch", "/api/v1/ml/churn/at-risk"


def is_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    return dict(answer.json())


@pytest.fixture
def analyst(churn_api: Any) -> Any:
    """The app with an analyst's key."""
    churn_api.http.headers["Authorization"] = f"Bearer {churn_api.keys['analyst']}"
    return churn_api


async def test_a_job_is_accepted_worked_on_and_asked_about(analyst: Any) -> None:
    answer = await analyst.http.post(BATCH, json={"customerIds": ["cust-0", "cust-2", "nobody"]})
    assert answer.status_code == 202, answer.text
    job = BatchJob.model_validate(answer.json())
    assert (job.status, job.scope, job.done, job.total, job.model_version) == ("queued", "ids", 0, None, "sequence/1")
    assert abs(job.as_of - analyst.service.clock.now()) < timedelta(minutes=1), "the serving clock's time"
    assert await JobRunner(analyst.service.store, analyst.home, analyst.home / "run" / "logs").run_next()
    over = BatchJob.model_validate((await analyst.http.get(f"{BATCH}/{job.job_id}")).json())
    assert (over.status, over.total, over.done, over.error) == ("finished", 2, 2, None), over
    assert over.result is not None
    assert (over.result.customers, over.result.unknown) == (2, 1)
    counts = over.result.levels
    assert counts.low + counts.medium + counts.high + counts.critical == 2
    is_problem(await analyst.http.get(AT_RISK), 404)  # some customers are not all


async def test_everyone_asked_for_twice_is_one_job(analyst: Any) -> None:
    ids = {(await analyst.http.post(BATCH, json={"customerIds": "all"})).json()["jobId"] for _ in range(3)}
    assert len(ids) == 1


async def test_bad_requests_are_refused(analyst: Any) -> None:
    for body in (
        {},
        {"customerIds": []},
        {"customerIds": "some"},
        {"customerIds": [1]},
        {"customerIds": ["a"] * 10_001},
        {"customerIds": "all", "x": 1},
    ):
        is_problem(await analyst.http.post(BATCH, json=body), 422)
    is_problem(await analyst.http.post(BATCH, json={"customerIds": "all", "businessId": "biz-2"}), 403)
    is_problem(await analyst.http.post(BATCH, content=b"{", headers={"Content-Type": "application/json"}), 400)
    is_problem(await analyst.http.get(f"{BATCH}/nothing"), 404)
    for query in (
        {"riskLevel": "SEVERE"},
        {"daysUntilChurn": -1},
        {"limit": 0},
        {"limit": 1001},
        {"offset": -1},
        {"format": "xml"},
        {"churned": "1"},
    ):
        is_problem(await analyst.http.get(AT_RISK, params=query), 422)


async def test_the_key_of_an_app_is_not_enough(churn_api: Any) -> None:
    for ask in (churn_api.http.post(BATCH, json={"customerIds": "all"}), churn_api.http.get(f"{BATCH}/x"), churn_api.http.get(AT_RISK)):
        assert "analyst" in is_problem(await ask, 403)["detail"]
    del churn_api.http.headers["Authorization"]
    is_problem(await churn_api.http.get(AT_RISK), 401)


async def test_without_a_model_nothing_is_queued(api: Any) -> None:
    api.http.headers["Authorization"] = f"Bearer {api.keys['analyst']}"
    assert "regulars train sequence" in is_problem(await api.http.post(BATCH, json={"customerIds": "all"}), 503)["detail"]


async def test_nobody_scored_says_how(analyst: Any) -> None:
    assert "regulars score" in is_problem(await analyst.http.get(AT_RISK), 404)["detail"]
    is_problem(await analyst.http.get(AT_RISK, params={"format": "csv"}), 404)


async def test_at_risk_is_paged_and_a_spreadsheet(analyst: Any, home: Path) -> None:
    score(ScoreSettings(home=home, as_of=analyst.service.clock.now()))
    everyone = {"riskLevel": ["LOW", "MEDIUM", "HIGH", "CRITICAL"], "churned": "true"}
    whole = AtRiskResponse.model_validate((await analyst.http.get(AT_RISK, params=everyone)).json())
    assert (whole.total, len(whole.items), whole.next_offset, whole.model_version) == (30, 30, None, "sequence/1")
    values = [c.clv_at_risk for c in whole.items]
    assert values == sorted(values, reverse=True)
    assert whole.clv_at_risk == pytest.approx(sum(values), abs=0.2)
    for customer in whole.items:
        assert customer.clv_at_risk == pytest.approx(customer.churn_probability * customer.predicted_clv, abs=0.006)
    page = AtRiskResponse.model_validate((await analyst.http.get(AT_RISK, params={**everyone, "limit": 4, "offset": 4})).json())
    assert (page.items, page.next_offset, page.total) == (whole.items[4:8], 8, 30)
    answer = await analyst.http.get(AT_RISK, params={**everyone, "format": "csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [r["customer_id"] for r in rows] == [c.customer_id for c in whole.items]
    one = await analyst.http.get(AT_RISK, params={**everyone, "format": "csv", "limit": 1})
    assert len(one.text.splitlines()) == 2


async def test_the_routes_are_documented(churn_api: Any) -> None:
    schema = (await churn_api.http.get("/openapi.json")).json()
    assert set(schema["paths"][BATCH]["post"]["responses"]) >= {"202", "401", "403", "422", "503"}
    assert "200" not in schema["paths"][BATCH]["post"]["responses"]
    assert set(schema["paths"][AT_RISK]["get"]["responses"]["200"]["content"]) == {"application/json", "text/csv"}
    assert {"BatchJob", "BatchRequest", "AtRiskResponse", "RiskCounts"} <= set(schema["components"]["schemas"])
