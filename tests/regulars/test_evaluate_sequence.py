"""`regulars evaluate sequence`."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from contracts.errors import ArtifactError, ConfigError
from regulars.cli import app
from training.sequence.scorecard import COLUMNS, MODELS


def cds(folder: Path, people: int = 250) -> Path:
    """A folder in the format of cdnow: half buy every few weeks, half leave at once or soon."""
    folder.mkdir()
    rng, begin = np.random.default_rng(0), datetime(1997, 1, 1)
    rows: list[dict[str, Any]] = []
    for c in range(1, people + 1):
        day, gap, leave = rng.uniform(0, 90), rng.gamma(2.0, 15.0), 0.05 if c % 2 else 0.5
        while day < 545:
            rows.append(
                {"customer_id": c, "date": begin + timedelta(days=int(day)), "cds": 1, "amount_usd": round(rng.gamma(2.0, 15.0), 2)}
            )
            if rng.random() < leave:
                break
            day += rng.exponential(gap) + 1
    rows.append({"customer_id": 1, "date": begin + timedelta(days=545), "cds": 1, "amount_usd": 10.0})
    table = pa.Table.from_pylist(rows)
    pq.write_table(table.set_column(1, "date", table["date"].cast(pa.timestamp("us"))), folder / "transactions.parquet")
    return folder


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGULARS_SEQUENCE_THREADS", "1")


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """Settings of a training of a second."""
    file = tmp_path / "tiny.yaml"
    file.write_text("max_samples: 800\nepochs: 1\nmembers: 1\nhidden: 4\nwidth: 8\nexplained: 50\nstep_days: 60\n")
    return str(file)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["evaluate", "sequence", *arguments])


def test_json_is_one_object_with_the_promised_keys(tmp_path: Path, tiny: str) -> None:
    folder = cds(tmp_path / "whatever it is called")
    done = run("--data", str(folder), "--home", str(tmp_path / "home"), "--config", tiny, "--json", "--seed", "3")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["data"], found["as_of"], found["horizon_days"], found["value_days"]) == (str(folder), "1997-10-01", 90, 273)
    assert found["customers"] == 250
    assert 0 < found["active"] < 250
    assert 0 < found["churn_rate"] < 1
    assert [r["model"] for r in found["rows"]] == list(MODELS)
    assert all(set(COLUMNS) < set(r) for r in found["rows"])
    assert all(r["auc_low"] < r["auc"] < r["auc_high"] for r in found["rows"])
    assert all(r["auc"] > 0.6 for r in found["rows"][1:])  # ours was hardly trained
    assert found["rows"][0]["coverage_80"] is not None
    assert set(found["versus_best_peer"]) == {"auc", "spearman", "gini"}


def test_people_get_a_table_at_their_own_day(tmp_path: Path) -> None:
    folder = cds(tmp_path / "cds")
    common = ("--data", str(folder), "--home", str(tmp_path / "home"), "--fast", "--as-of", "1997-11-15", "--horizon-days", "30")
    done = run(*common, "--models", "regulars,last_period")
    assert done.exit_code == 0, done.output
    assert "as of 1997-11-15: churn within 30 days" in " ".join(done.stdout.split())
    assert "last_period" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("--data", "no_such_set"), ArtifactError, "cdnow, online_retail_ii, generator"),
        (("--data", "complete_journey"), ArtifactError, "holes"),
        (("--data", "generator", "--models", "magic"), ConfigError, "no model magic"),
        (("--data", "generator", "--as-of", "yesterday"), ConfigError, "is not a day"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_read(
    arguments: tuple[str, ...], error: type[Exception], words: str, tmp_path: Path
) -> None:
    done = run(*arguments, "--home", str(tmp_path))
    assert isinstance(done.exception, error)
    assert words in str(done.exception)
    assert not (tmp_path / "evaluate").exists()


def test_the_generator_is_scored_against_its_truth(tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CUSTOMERS", "400"), ("MONTHS", "11"), ("REWARDS", "40"), ("END", "2026-01-01")):
        monkeypatch.setenv(f"REGULARS_GENERATE_{name}", value)
    done = run("--data", "generator", "--home", str(tmp_path), "--models", "regulars,rfm_logistic", "--config", tiny, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["as_of"] == "2025-10-02"
    assert [r["model"] for r in found["rows"]] == ["regulars", "rfm_logistic", "truth"]
    truth = found["rows"][-1]
    assert truth["auc"] > 0.6
    assert truth["gini"] is None
    assert found["attainable"]["active"] > 50


@pytest.mark.realdata
def test_a_part_of_cdnow(realdata: Path, tmp_path: Path, tiny: str) -> None:
    folder = tmp_path / "part"
    folder.mkdir()
    rows = pq.read_table(realdata / "cdnow" / "transactions.parquet")
    pq.write_table(rows.filter(pa.array(rows["customer_id"].to_numpy() % 8 == 0)), folder / "transactions.parquet")
    done = run("--data", str(folder), "--home", str(tmp_path / "home"), "--config", tiny, "--json")
    assert done.exit_code == 0, done.output
    found = {r["model"]: r for r in json.loads(done.stdout)["rows"]}
    for name in ("lightgbm", "rfm_logistic", "bg_nbd"):  # ours was hardly trained
        assert found[name]["auc"] > 0.6, name
        assert found[name]["gini"] > 0.5, name
