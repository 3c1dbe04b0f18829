"""The whole chain on public data, with the commands a user types: import, train, export, serve, ask."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.realdata, pytest.mark.timeout(900)]


@pytest.mark.parametrize("name", ["starbucks_rewards", "online_retail_ii"])
def test_imported_history_is_trained_served_and_answered(name: str, realdata: Path, tmp_path: Path, tools: SimpleNamespace) -> None:
    home = tmp_path / "home"
    small = {"REGULARS_TRAIN_MAX_EXAMPLES": "6000", "REGULARS_TRAIN_MAX_TEST": "1000", "REGULARS_TRAIN_MAX_VALIDATION": "300"}
    small |= {"REGULARS_TRAIN_CALIBRATION_CUSTOMERS": "300", "REGULARS_TRAIN_RANKER_EPOCHS": "3"}
    for arguments in (("data", "import", name, "--from", str(realdata / name)), ("train", "recommender", "--epochs", "2"), ("export",)):
        done = tools.regulars(home, *arguments, environment=small)
        assert done.returncode == 0, done.stderr
    known = orjson.loads(tools.regulars(home, "data", "info", "--json").stdout)
    served = tools.wait_ready(tools.begin(home))
    try:
        assert served.record["clock"] == "warehouse"  # the history is years old: without it all would be stale
        customer = _a_customer(home)
        with served.client() as client:
            answer = client.post("/api/v1/ml/recommendations", json={"customerId": customer, "numRecommendations": 5}).json()
        assert answer["coverage"] == "full"
        assert not answer["degraded"]
        assert len(answer["recommendations"]) == 5
        assert len({r["rewardId"] for r in answer["recommendations"]}) == 5
        assert all(0 <= r["score"] <= 1 and r["name"] and r["explanation"] for r in answer["recommendations"])
        assert served.record["data_version"] == known["data_version"]
    finally:
        assert served.stop() == 0
        shutil.rmtree(served.temporary, ignore_errors=True)


def _a_customer(home: Path) -> str:
    from warehouse.store import Warehouse

    with Warehouse(home / "warehouse").connect() as db:
        row = db.execute("SELECT customer_id FROM transactions GROUP BY ALL ORDER BY count(*) DESC, customer_id LIMIT 1").fetchone()
    assert row is not None
    return str(row[0])
