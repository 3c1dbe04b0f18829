"""Scoring over Ray Data, killed for real, and jobs of the running stack."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest

from contracts import api_batch
from warehouse.store import Warehouse

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
ROOT = Path(__file__).resolve().parent.parent.parent
RAY = ("--engine", "ray", "--shards", "12", "--workers", "2")


@pytest.fixture
def home(trained_home: Path, tmp_path: Path, tools: SimpleNamespace) -> Path:
    """A home of one's own, never served, with a sequence model."""
    made = tmp_path / "home"
    for name in ("warehouse", "models"):
        shutil.copytree(trained_home / name, made / name)
    if not (made / "models" / "sequence" / "deployed.json").is_file():
        tools.sequence_bundle(made)
    return made


def rows(home: Path) -> list[tuple[Any, ...]]:
    with Warehouse(home / "warehouse").connect() as connection:
        return connection.execute("SELECT * FROM customer_risk_scores ORDER BY ALL").fetchall()


def ray_processes(home: Path) -> list[psutil.Process]:
    """What a scoring of this home has started and is still there."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and str(home) in process.environ().get("REGULARS_HOME", ""):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_run_over_ray_that_is_killed_goes_on_and_leaves_nothing(home: Path, tmp_path: Path, tools: SimpleNamespace) -> None:
    other, before = Path(shutil.copytree(home, tmp_path / "other")), rows(home)
    as_of = ("--as-of", (Warehouse(home / "warehouse").as_of() - timedelta(days=20)).strftime("%Y-%m-%d"))
    command = [sys.executable, "-m", "regulars", "score", *RAY, *as_of]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"REGULARS_HOME": str(home)}, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list((home / "scores").glob("*/part-*.parquet"))) < 4 and time.monotonic() < deadline:
        assert process.poll() is None, "it was over before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert rows(home) == before
    deadline = time.monotonic() + 60
    while (left := ray_processes(home)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == [], "Ray ends with the command, however that ends"
    done = tools.regulars(home, "score", *RAY, *as_of, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["engine"], found["resumed"] >= 4) in (("ray", True), ("none", True))
    whole = tools.regulars(other, "score", "--engine", "local", "--shards", "12", *as_of, "--json")
    assert whole.returncode == 0, whole.stderr
    assert rows(home) == rows(other), "bit for bit, whichever engine"
    assert len(rows(home)) - len(before) == found["customers"] == json.loads(whole.stdout)["customers"] > 500


def test_a_job_of_the_running_stack(stack: Any, tools: SimpleNamespace) -> None:
    made = tools.regulars(stack.home, "key", "create", "--business", "biz-1", "--role", "analyst", "--json")
    assert made.returncode == 0, made.stderr
    key = json.loads(made.stdout)["key"]
    with httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        answer = client.post("/api/v1/predictions/batch", json={"customerIds": "all"})
        assert answer.status_code == 202, answer.text
        job = answer.json()
        deadline = time.monotonic() + 300
        while job["status"] in ("queued", "running") and time.monotonic() < deadline:
            time.sleep(0.5)
            job = client.get(f"/api/v1/predictions/batch/{job['jobId']}").json()
        assert job["status"] == "finished", job
        found = api_batch.BatchJob.model_validate(job)
        assert found.result is not None
        assert found.done == found.total == found.result.customers > 500
        page = client.get("/api/v1/ml/churn/at-risk", params={"riskLevel": ["LOW", "MEDIUM", "HIGH", "CRITICAL"], "churned": "true"})
        assert page.status_code == 200, page.text
        assert page.json()["total"] == found.total
        assert page.json()["runId"] == found.job_id
