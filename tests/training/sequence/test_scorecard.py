"""The object that `--json` prints and the table, with a stand-in for our model: the run with the real one is the command's test."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import orjson
import pytest
from rich.console import Console
from sklearn.metrics import roc_auc_score

from contracts.tensors import SEQUENCE
from training.sequence import data, metrics, peers, protocols, scorecard
from training.sequence.data import Samples
from training.sequence.protocols import Problem, Source

MODELS = ("regulars", "rfm_logistic", "last_period")


@dataclass(frozen=True)
class StandIn:
    """Forecasts by recency, with the model's names and shapes."""

    train: Samples
    calibration: Samples

    def predict(self, samples: Samples, months: int = 12) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        churn = np.clip(peers.recency(samples) / 120 + rng.normal(0, 0.05, len(samples)), 0.01, 0.99)
        out = {t.name: np.zeros((len(samples), *t.shape), dtype=np.float32) for t in SEQUENCE.outputs}
        out["churn"] = np.stack([churn + 0.005, churn + 0.002, churn], axis=1).astype(np.float32)
        out["spend"] = np.repeat((1 - churn)[:, None] * 20, 12, axis=1).astype(np.float32)
        out["spend_interval"] = np.stack([np.zeros(len(churn)), np.full(len(churn), 400.0 * months / 12)], axis=1).astype(np.float32)
        return out


@pytest.fixture(scope="module")
def problem(shop: duckdb.DuckDBPyConnection, shop_home: Path) -> Problem:
    found = protocols.build(Source("home", shop_home, "shop"), shop, shop_home)
    rng = np.random.default_rng(1)
    label = found.test.churned(90)
    truth = np.where(rng.random(len(label)) < 0.7, np.clip(label * 0.4 + 0.3 + rng.normal(0, 0.1, len(label)), 0, 1), np.nan)
    return replace(found, truth=truth)


@pytest.fixture(scope="module")
def run(shop: duckdb.DuckDBPyConnection, problem: Problem) -> scorecard.Run:
    day = problem.as_of_day
    fitted = StandIn(data.build(shop, [day - 220, day - 190], day), data.build(shop, [day - 91], day))
    return scorecard.run(problem, lambda: fitted, MODELS, 5, 1, Console(quiet=True))


@pytest.fixture(scope="module")
def result(run: scorecard.Run) -> dict[str, Any]:
    return scorecard.summary(run, 5, 100)


def test_the_object_has_the_promised_keys_and_is_json(result: dict[str, Any]) -> None:
    assert [r["model"] for r in result["rows"]] == [*MODELS, "truth"]
    assert all(list(r) == ["model", *scorecard.COLUMNS] for r in result["rows"])
    keys = {"data", "as_of", "horizon_days", "value_days", "customers", "active", "churn_rate", "rows", "versus_best_peer"}
    assert keys <= set(result)
    assert orjson.loads(orjson.dumps(result)) == result
    assert (result["horizon_days"], result["value_days"]) == (90, 91)
    assert list(result["shapes_only"]) == ["rfm_logistic"]
    assert result["shapes_only"]["rfm_logistic"]["bias"] != result["rows"][1]["bias"]


def test_churn_is_measured_on_the_active_and_value_on_all(result: dict[str, Any], run: scorecard.Run, problem: Problem) -> None:
    active, label = problem.test.active, problem.test.churned(90)
    assert 0 < active.sum() < len(active)
    assert (result["customers"], result["active"]) == (len(active), active.sum())
    assert result["churn_rate"] == pytest.approx(label[active].mean(), abs=1e-6)
    for row in result["rows"][:-1]:
        answer = run.answers[row["model"]]
        assert row["auc"] == pytest.approx(roc_auc_score(label[active], answer.churn[active]), abs=1e-6)
        assert row["mae"] == pytest.approx(np.abs(answer.value - problem.test.monthly_spend[:, :3].sum(1)).mean(), rel=1e-5)
        assert row["auc_low"] < row["auc"] < row["auc_high"]
        assert row["gini_low"] < row["gini"] < row["gini_high"]
        assert row["spearman_low"] < row["spearman"] < row["spearman_high"]


def test_differences_are_paired_and_to_the_best_peer(result: dict[str, Any], run: scorecard.Run, problem: Problem) -> None:
    rows = {r["model"]: r for r in result["rows"]}
    for measure, found in result["versus_best_peer"].items():
        best = max(("rfm_logistic", "last_period"), key=lambda n: rows[n][measure])
        assert found["peer"] == best
        assert found["difference"] == pytest.approx(rows["regulars"][measure] - rows[best][measure], abs=2e-6)
        assert found["low"] <= found["difference"] <= found["high"]
    twin = replace(run, answers={"regulars": run.answers["rfm_logistic"], "rfm_logistic": run.answers["rfm_logistic"]})
    same = scorecard.summary(twin, 5, 100)["versus_best_peer"]
    assert all((v["difference"], v["low"], v["high"]) == (0, 0, 0) for v in same.values())


def test_the_truth_is_compared_on_its_own_customers(result: dict[str, Any], problem: Problem) -> None:
    assert problem.truth is not None
    who = problem.test.active & np.isfinite(problem.truth)
    found = result["attainable"]
    assert found["active"] == who.sum() < result["active"]
    assert [r["model"] for r in found["rows"]] == [*MODELS, "truth"]
    best = found["rows"][-1]
    assert best["auc"] == pytest.approx(roc_auc_score(problem.test.churned(90)[who], problem.truth[who]), abs=1e-6)
    assert found["rows"][0]["less_truth"] == pytest.approx(found["rows"][0]["auc"] - best["auc"], abs=2e-6)
    last = result["rows"][-1]
    assert last["auc"] == best["auc"]
    assert last["spearman"] is None


def test_our_answer_is_that_of_the_horizon_and_of_the_months(problem: Problem, run: scorecard.Run) -> None:
    outputs = {
        "churn": np.array([[0.9, 0.8, 0.7]], dtype=np.float32), "spend": np.array([[4.0, 3.0, 3.0, *[10.0] * 9]], dtype=np.float32),
        "spend_interval": np.array([[5.0, 20.0]], dtype=np.float32),
    }  # fmt: skip
    found = scorecard.ours(outputs, problem)
    assert (found.churn[0], found.value[0]) == (pytest.approx(0.7), 10.0)
    year = scorecard.ours(outputs, replace(problem, months=12, horizon_days=30))
    assert (year.churn[0], year.value[0]) == (pytest.approx(0.9), 100.0)
    high = run.answers["regulars"].high
    assert high is not None
    assert high[0] == 100.0  # asked for with the problem's three months


def test_without_ours_or_without_peers_there_is_no_difference(run: scorecard.Run) -> None:
    for names in (("regulars",), ("rfm_logistic", "last_period")):
        some = replace(run, answers={n: run.answers[n] for n in names}, problem=replace(run.problem, truth=None))
        found = scorecard.summary(some, 5, 100)
        assert set(found["versus_best_peer"].values()) == {None}
        assert "attainable" not in found


def test_nobody_active_leaves_churn_empty(run: scorecard.Run) -> None:
    test = replace(run.problem.test, active=np.zeros(len(run.problem.test), dtype=bool))
    found = scorecard.summary(replace(run, problem=replace(run.problem, test=test)), 5, 100)
    assert (found["active"], found["churn_rate"], found["rows"][0]["auc"], found["rows"][0]["ece"]) == (0, None, None, None)
    assert found["rows"][0]["gini"] is not None
    assert printed(found)


def printed(result: dict[str, Any]) -> str:
    out = StringIO()
    Console(file=out, width=80, force_terminal=True, color_system="truecolor").print(scorecard.table(result))
    return out.getvalue()


def test_people_get_one_table_with_the_best_in_bold(result: dict[str, Any]) -> None:
    plain = StringIO()
    Console(file=plain, width=80).print(scorecard.table(result))
    lines = plain.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in plain.getvalue()
    names = [
        line.strip("│ ").split("│")[0].strip() for line in lines if line.lstrip("│ ").startswith((*MODELS, "truth")) and "less" not in line
    ]
    assert names == [*MODELS, "truth"]
    best = max(result["rows"][:-1], key=lambda r: r["auc"])
    bold = {found.strip() for found in re.findall("\x1b\\[1m *([^\x1b]+)", printed(result))}
    for measure, best in (("auc", max), ("gini", max), ("log_loss", min)):
        values = [r[measure] for r in result["rows"][:-1]]
        assert f"{best(values):.3f}" in bold
        assert not bold & {f"{v:.3f}" for v in [*values, result["rows"][-1]["auc"]] if f"{v:.3f}" != f"{best(values):.3f}"}
    assert "regulars less" in plain.getvalue()


def test_metrics_of_a_row_are_those_of_the_module(result: dict[str, Any], run: scorecard.Run, problem: Problem) -> None:
    active, label = problem.test.active, problem.test.churned(90)
    p = run.answers["regulars"].churn[active]
    row = result["rows"][0]
    assert row["ece"] == pytest.approx(metrics.ece(p, label[active]), abs=1e-6)
    assert row["ece_floor"] == pytest.approx(metrics.ece_floor(p, 5), abs=1e-6)
    assert row["lift_10"] == pytest.approx(metrics.lift(p, label[active]), abs=1e-6)
