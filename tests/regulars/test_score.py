"""`regulars score` and `regulars at-risk`, on a home whose scores are made up or made by a small model."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from contracts.bundle import BundleManifest, deploy, file_sha256
from contracts.errors import ArtifactError, ConfigError, ContractError, UnknownItem
from contracts.sequence import Forecasting
from contracts.tables import MONEY, TIMESTAMP
from contracts.tensors import CHANNEL_COUNT, SEQUENCE, STATIC_COUNT, STEP_COUNT, WEEK_COUNT
from regulars.cli import app
from warehouse.store import Warehouse

AS_OF = datetime(2025, 6, 15, 10, 30, tzinfo=UTC)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def said(*arguments: str) -> dict[str, Any]:
    """The JSON of a command that must succeed."""
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output or done.exception
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 customers of two businesses, and a model that says the same of each but for what they have spent."""
    home = tmp_path_factory.mktemp("score") / "home"
    ids, business = [f"=cust-{n:02d}" for n in range(30)], ["biz-1"] * 20 + ["biz-2"] * 10
    when = pa.array([AS_OF - timedelta(days=1 + n % 25) for n in range(30)], TIMESTAMP)
    warehouse = Warehouse(home / "warehouse")
    warehouse.land("customers", pa.table({"customer_id": ids, "business_id": business}), "customers")
    amounts = pa.array([Decimal(n + 1) for n in range(30)], MONEY)
    warehouse.land(
        "transactions",
        pa.table({"transaction_id": ids, "business_id": business, "customer_id": ids, "occurred_at": when, "amount": amounts}),
        "bought",
    )
    write_constant_model(home)
    return home


def write_constant_model(home: Path) -> None:
    """churn 0.95, 0.9, 0.85 and a spend of 10 a month for everybody."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder = home / "models" / "sequence" / "1"
    folder.mkdir(parents=True)
    answers = {
        "churn": [0.95, 0.9, 0.85], "silent_by": np.linspace(0.85, 0.9, STEP_COUNT), "purchase_probability": [0.1] * 12,
        "spend": [10.0] * 12, "spend_interval": [50.0, 200.0], "impact_estimates": [0.3, *[0.0] * 7],
    }  # fmt: skip
    nodes = [
        helper.make_node("ReduceSum", ["statics", "axis"], ["one"], keepdims=1),
        helper.make_node("Mul", ["one", "nothing"], ["zero"]),
        *(helper.make_node("Add", ["zero", f"{name}_value"], [name]) for name in answers),
    ]
    constants = [numpy_helper.from_array(np.array([1], np.int64), "axis"), numpy_helper.from_array(np.float32([[0.0]]), "nothing")]
    constants += [numpy_helper.from_array(np.float32([value]), f"{name}_value") for name, value in answers.items()]
    graph = helper.make_graph(
        nodes,
        "sequence",
        [
            helper.make_tensor_value_info("weeks", TensorProto.FLOAT, ["b", WEEK_COUNT, CHANNEL_COUNT]),
            helper.make_tensor_value_info("statics", TensorProto.FLOAT, ["b", STATIC_COUNT]),
        ],
        [helper.make_tensor_value_info(t.name, TensorProto.FLOAT, ["b", *t.shape]) for t in SEQUENCE.outputs],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "sequence.onnx")
    rates = {
        "churn": (0.7, 0.6, 0.5), "silent_by": (0.5,) * STEP_COUNT, "purchase_probability": (0.3,) * 12, "spend": (1.0,) * 12,
        "spend_interval": (5.0, 20.0),
    }  # fmt: skip
    record = Forecasting.model_validate(
        {"definition": {}, "reference_statics": (0.0,) * STATIC_COUNT, "base_rates": {"": rates}, "clv_cuts": {"": (50.0, 100.0, 200.0)},
         "ece": 0.0, "spend_months_seen": 1}
    )  # fmt: skip
    (folder / "forecast.json").write_text(record.model_dump_json())
    manifest = BundleManifest(
        model="sequence", version="1", created_at="now", data_version="t", code_version="t", as_of="now", settings={}, metrics={},
        files={f.name: file_sha256(f) for f in folder.iterdir()},
    )  # fmt: skip
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    deploy(home / "models", "1", "sequence")


def test_before_anything_was_scored_at_risk_says_how(tmp_path: Path, made: Path) -> None:
    done = run("at-risk", "--home", str(made), "--business", "biz-9")
    assert isinstance(done.exception, UnknownItem)
    assert "regulars score" in str(done.exception)
    done = run("at-risk", "--home", str(tmp_path))
    assert isinstance(done.exception, ArtifactError)
    assert "is empty" in str(done.exception)


def test_score_says_what_it_did_and_at_risk_shows_it(made: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "scores.csv"
    first = said("score", "--home", str(made), "--shards", "3", "--workers", "1", "--batch-size", "4", "--csv", str(sheet))
    assert (first["customers"], first["scored"], first["shards"], first["version"]) == (30, 30, 3, "sequence/1")
    assert first["levels"] == {"LOW": 0, "MEDIUM": 0, "HIGH": 0, "CRITICAL": 30}
    assert first["clv_at_risk"] == pytest.approx(30 * 120 * 0.85, abs=0.1)
    with sheet.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    assert all(r["customer_id"].startswith("'=cust-") and r["top_factor"] == "recency" for r in rows)
    again = run("score", "--home", str(made))
    assert again.exit_code == 0
    assert "nothing changed" in again.stdout
    shown = run("at-risk", "--home", str(made), "--n", "5")
    assert shown.exit_code == 0, shown.exception
    assert "20 customers" in shown.stdout, "the business with the most customers"
    listed = said("at-risk", "--home", str(made), "--business", "biz-2", "--level", "critical", "--days", "400", "--segment", "HIGH")
    assert (listed["total"], len(listed["customers"]), listed["levels"]["CRITICAL"]) == (10, 10, 10)
    assert listed["customers"][0]["clv_at_risk"] == pytest.approx(102.0)
    assert said("at-risk", "--home", str(made), "--level", "LOW")["total"] == 0
    risky = tmp_path / "risky.csv"
    assert run("at-risk", "--home", str(made), "--csv", str(risky)).exit_code == 0
    assert len(risky.read_text().splitlines()) == 21


def test_one_business_as_of_a_day(made: Path) -> None:
    found = said("score", "--home", str(made), "--business", "biz-2", "--as-of", "2025-06-01", "--fresh")
    assert (found["customers"], found["as_of"], found["business_id"]) == (10, "2025-06-01T00:00:00+00:00", "biz-2")
    same = said("score", "--home", str(made), "--run", found["run"])
    assert (same["repeated"], same["run"]) == (True, found["run"])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("score", "--engine", "magic"), ConfigError, "engine"),
        (("score", "--run", "nothing"), UnknownItem, "no scoring run nothing"),
        (("score", "--csv", "/nowhere/x.csv"), ConfigError, "cannot write /nowhere/x.csv"),
        (("at-risk", "--level", "SEVERE"), ContractError, "must be one of LOW, MEDIUM, HIGH, CRITICAL"),
    ],
)
def test_what_cannot_be_is_said(arguments: tuple[str, ...], error: type[Exception], words: str, made: Path) -> None:
    done = run(*arguments, "--home", str(made))
    assert isinstance(done.exception, error), done.exception
    assert words in str(done.exception)


def test_a_job_that_is_not_there_is_named(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray_apps.migrations import upgrade
    from ray_apps.scoring import jobs

    upgrade(f"sqlite:///{made / 'regulars.db'}")
    monkeypatch.setattr(jobs.os, "nice", lambda by: 0)
    monkeypatch.setattr(jobs, "prctl", lambda option, value: None)
    done = run("score", "--home", str(made), "--job", "nothing")
    assert isinstance(done.exception, UnknownItem)
