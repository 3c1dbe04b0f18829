"""Churn, value, risk and profile of the running stack, with the sequence model on Triton."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import time
from datetime import date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from contracts import api_churn
from contracts.tensors import FACTORS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
CHURN = "/api/v1/ml/churn/predict"


def get(client: httpx.Client, path: str, **query: Any) -> dict[str, Any]:
    answer = client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def churn(client: httpx.Client, customer: str, **query: Any) -> dict[str, Any]:
    found = get(client, CHURN, customerId=customer, **query)
    api_churn.ChurnPrediction.model_validate(found)
    total = found["referenceProbability"] + sum(f["impact"] for f in found["topFactors"]) + found["otherFactors"]
    assert total == pytest.approx(found["churnProbability"], abs=1e-3)
    return found


@pytest.fixture(scope="module")
def known(stack) -> list[str]:
    """Customers with many purchases, not the very first, which other tests change."""
    from warehouse.store import Warehouse

    query = "SELECT customer_id FROM transactions GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 20 OFFSET 5"
    with Warehouse(stack.home / "warehouse").connect() as connection:
        return [str(r[0]) for r in connection.execute(query).fetchall()]


def test_every_factor_adds_up_and_the_answer_is_the_models(client: httpx.Client, known: list[str]) -> None:
    for customer in known[:5]:
        found = churn(client, customer, factors=8)
        assert (found["degraded"], found["source"], found["otherFactors"]) == (False, "model", 0)
        assert found["modelVersion"].startswith("sequence/")
        assert {f["factor"] for f in found["topFactors"]} == set(FACTORS)
        assert found["horizons"]["30"] >= found["horizons"]["60"] >= found["horizons"]["90"]


def test_a_served_forecast_is_that_of_the_warehouse(stack, client: httpx.Client, known: list[str]) -> None:
    """The offline features and the exported model, by themselves, say what the endpoint says."""
    import onnxruntime
    import pyarrow as pa

    from contracts.bundle import deployed_version
    from features.weekly import as_of_day, read, tensors
    from warehouse.store import Warehouse

    mine = known[5:10]
    served = [churn(client, c) for c in mine]
    when = datetime.fromisoformat(served[0]["asOf"])
    people = pa.table({"business_id": [stack.record["business_id"]] * len(mine), "customer_id": mine})
    with Warehouse(stack.home / "warehouse").connect() as connection:
        inputs = tensors(read(connection, people, when), as_of_day(when))
    folder = stack.home / "models" / "sequence" / deployed_version(stack.home / "models", "sequence")
    session = onnxruntime.InferenceSession(folder / "sequence_factors.onnx", providers=["CPUExecutionProvider"])
    expected = session.run(["churn"], inputs)[0]
    found = np.array([list(s["horizons"].values()) for s in served])
    assert np.abs(found - expected).max() < 1e-4


def test_what_just_happened_is_inside(client: httpx.Client, known: list[str]) -> None:
    customer = known[10]
    before, spent = churn(client, customer, factors=8), get(client, "/api/v1/ml/clv/predict", customerId=customer)["historicalCLV"]
    event = {"eventId": secrets.token_hex(8), "customerId": customer, "eventType": "purchase", "amount": 33.25}
    assert client.post("/api/v1/events", json=event).json()["accepted"] == 1
    after = churn(client, customer, factors=8)
    assert next(f for f in after["topFactors"] if f["factor"] == "recency")["currentValue"] == 0
    assert after["churnProbability"] != before["churnProbability"]
    assert get(client, "/api/v1/ml/clv/predict", customerId=customer)["historicalCLV"] == pytest.approx(spent + 33.25, abs=0.02)
    assert get(client, f"/api/v1/customers/{customer}/profile")["freshness"]["ageSeconds"] < 60


def test_value_risk_and_profile_agree(client: httpx.Client, known: list[str]) -> None:
    customer = known[11]
    value = get(client, "/api/v1/ml/clv/predict", customerId=customer)
    risk, profile = (get(client, f"/api/v1/customers/{customer}/{what}") for what in ("risk", "profile"))
    api_churn.ClvPrediction.model_validate(value)
    api_churn.CustomerRisk.model_validate(risk)
    api_churn.CustomerProfile.model_validate(profile)
    assert sum(round(m["predictedSpend"] * 100) for m in value["monthlyBreakdown"]) == round(value["predictedCLV"] * 100)
    assert risk["customerValue"]["clv"] == pytest.approx(value["predictedCLV"], abs=0.05)
    assert profile["segment"] == risk["customerValue"]["segment"] == value["clvSegment"]
    assert profile["loyalty"]["tier"] in ("BRONZE", "SILVER", "GOLD", "PLATINUM")
    assert len(get(client, f"/api/v1/customers/{customer}/profile", embedding="true")["embedding"]) == 64
    deadline = time.monotonic() + 30  # the cut points are counted in the background
    while get(client, f"/api/v1/customers/{customer}/profile")["rfm"] is None:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_unknown_customers_get_base_rates(client: httpx.Client) -> None:
    found = churn(client, f"nobody-{secrets.token_hex(4)}")
    assert (found["coverage"], found["degraded"], found["source"], found["topFactors"]) == ("cold_start", False, "base_rates", [])


def test_interventions_and_outcomes_are_kept(client: httpx.Client, known: list[str]) -> None:
    name = churn(client, known[12])["predictionId"]
    given = {"campaignId": "camp-1", "interventionType": "OFFER"}
    answers = [client.put(f"/api/v1/ml/churn/{name}/intervention", json=given) for _ in range(2)]
    assert [(a.status_code, a.json()["duplicate"]) for a in answers] == [(200, False), (200, True)]
    day = (date.fromisoformat(churn(client, known[12])["asOf"][:10]) - timedelta(days=1)).isoformat()
    path = f"/api/v1/ml/churn/{name}/actual-churn"
    assert client.post(path, json={"churned": True, "churnDate": day}).json()["duplicate"] is False
    assert client.post(path, json={"churned": False}).status_code == 409
    found = get(client, "/api/v1/ml/churn/calibration", withInterventions="true")
    api_churn.ChurnCalibration.model_validate(found)
    assert found["reported"] >= 1


def test_a_home_without_the_model_gets_it_while_it_runs_and_survives_the_model_server(
    trained_home: Path, tmp_path: Path, tools: SimpleNamespace
) -> None:
    home = tmp_path / "home"
    for name in ("warehouse", "models"):
        shutil.copytree(trained_home / name, home / name)
    record = home / "models" / "sequence" / "deployed.json"
    kept = record.read_bytes()
    record.unlink()
    served = tools.wait_ready(tools.begin(home))
    try:
        with served.client() as client:
            answer = client.get(CHURN, params={"customerId": "cust-000001"})
            assert answer.status_code == 503
            assert "regulars train sequence" in answer.json()["detail"]
            ready = client.get("/-/readyz")
            assert (ready.status_code, ready.json()["checks"]["sequence"]) == (200, False)
            assert client.post("/api/v1/ml/recommendations", json={"customerId": "cust-000001"}).status_code == 200
            record.write_bytes(kept)
            _until(lambda: client.get(CHURN, params={"customerId": "cust-000001"}).status_code == 200)
            regular = next(c for n in range(1, 40) if (c := f"cust-{n:06d}") and churn(client, c)["source"] == "model")
            first = churn(client, regular)
            time.sleep(0.2)  # until the prediction is written
            os.kill(_triton_pid(served), signal.SIGKILL)
            _until(lambda: (found := churn(client, regular))["degraded"] and found["source"] == "stored")
            _until(lambda: churn(client, regular)["source"] == "model")
            assert churn(client, regular)["churnProbability"] == pytest.approx(first["churnProbability"], abs=1e-3)
    finally:
        code = served.stop()
        left = served.left()
        shutil.rmtree(served.temporary, ignore_errors=True)
    assert (code, left) == (0, ([], set(), []))


def _triton_pid(stack) -> int:
    return int(orjson.loads((stack.home / "run" / "triton" / "triton.json").read_bytes()).get("pid", 0)) or stack.record["triton"]["pid"]


def _until(true: Any, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
