"""The measures against direct counting, and the object that `--json` prints."""

from __future__ import annotations

import math
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from rich.console import Console
from scipy.stats import rankdata

from training.recommender import scorecard
from training.recommender.data import Dataset
from training.recommender.fitting import Interrupted
from training.recommender.protocols import Attainable, Problem
from training.settings import TrainSettings

MODELS = ("popularity", "recent_popularity", "item_knn", "random")


class Fixed:
    """Scores drawn once."""

    def __init__(self, queries: int, items: int) -> None:
        self.table = np.random.default_rng(8).random((queries, items))

    def scores(self, queries: Any, index: np.ndarray) -> np.ndarray:
        return self.table[index]


@pytest.fixture(scope="module")
def fixed(dataset: Dataset) -> Fixed:
    return Fixed(len(dataset.test), len(dataset.catalogue))


@pytest.fixture(scope="module")
def measured(dataset: Dataset, fixed: Fixed) -> scorecard.Measured:
    return scorecard.measure(fixed, dataset.test, dataset, True)


@pytest.fixture(scope="module")
def result(dataset: Dataset, connection: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    settings = TrainSettings.load(environ={}, bootstrap=100)
    truth = np.random.default_rng(0).random((len(dataset.test), len(dataset.catalogue))).astype(np.float32)
    truth[dataset.test.relevant(np.arange(len(dataset.test)), len(dataset.catalogue))] += 1
    problem = Problem("time", connection, connection, dataset, True, Attainable(dataset.test, truth))
    folder = tmp_path_factory.mktemp("runs")
    found = scorecard.run([problem], settings, MODELS, folder, Console(quiet=True))
    return scorecard.summary("small", "time", found, settings)


def test_measures_are_those_of_direct_counting(dataset: Dataset, fixed: Fixed, measured: scorecard.Measured) -> None:
    test, n = dataset.test, len(dataset.catalogue)
    for q in range(0, len(test), 7):
        index = np.array([q])
        relevant = test.relevant(index, n)[0]
        candidates = test.candidates(dataset.catalogue, index)[0] | relevant
        places = rankdata(-np.where(candidates, fixed.table[q], -np.inf), method="ordinal")[relevant]
        gained = sum(1 / math.log2(1 + p) for p in places if p <= 10)
        best = sum(1 / math.log2(2 + i) for i in range(min(10, relevant.sum())))
        assert measured.values["ndcg_at_10"][q] == pytest.approx(gained / best)
        assert measured.values["recall_at_10"][q] == pytest.approx((places <= 10).mean())
        assert measured.values["mrr"][q] == pytest.approx(1 / places.min())


def test_hits_of_repeats_and_of_new_ones_add_up(dataset: Dataset, measured: scorecard.Measured) -> None:
    test, n = dataset.test, len(dataset.catalogue)
    index = np.arange(len(test))
    relevant = test.relevant(index, n)
    had = np.zeros_like(relevant)
    indptr, items, _ = test.history(index)
    had[np.repeat(index, np.diff(indptr)), items] = True
    repeat, new = (relevant & had).sum(axis=1), (relevant & ~had).sum(axis=1)
    assert repeat.sum() > 0
    assert new.sum() > 0
    hits = np.nan_to_num(measured.values["repeat_recall_at_10"]) * repeat + np.nan_to_num(measured.values["new_recall_at_10"]) * new
    np.testing.assert_allclose(hits, measured.values["recall_at_10"] * relevant.sum(axis=1), atol=1e-9)
    np.testing.assert_array_equal(np.isfinite(measured.values["repeat_ndcg_at_10"]), repeat > 0)
    np.testing.assert_array_equal(np.isfinite(measured.values["new_ndcg_at_10"]), new > 0)


def test_sampled_measures_are_the_mean_over_many_draws() -> None:
    rng = np.random.default_rng(1)
    negatives, rank, k, drawn = 40, 6, 3, 12
    places = 1 + np.array([(rng.choice(negatives, drawn, replace=False) < rank - 1).sum() for _ in range(20_000)])
    ndcg, recall = scorecard.expected_sampled(np.array([rank]), np.array([negatives]), k, drawn)
    assert recall[0] == pytest.approx((places <= k).mean(), abs=0.02)
    assert ndcg[0] == pytest.approx(np.where(places <= k, 1 / np.log2(1 + places), 0).mean(), abs=0.02)
    few = scorecard.expected_sampled(np.array([2]), np.array([5]))  # fewer negatives than are drawn: all of them
    assert few[0][0] == pytest.approx(1 / math.log2(3))


def test_the_expected_ndcg_of_a_random_order() -> None:
    rng = np.random.default_rng(2)
    draws = [[1 / math.log2(1 + p) for p in rng.permutation(30)[:2] + 1 if p <= 10] for _ in range(20_000)]
    best = 1 + 1 / math.log2(3)
    assert scorecard.random_ndcg(np.array([2]), np.array([30]))[0] == pytest.approx(np.mean([sum(d) for d in draws]) / best, rel=0.03)


def test_cold_rewards_are_those_without_a_redemption_before_the_cut(dataset: Dataset, measured: scorecard.Measured) -> None:
    cold = dataset.log.counts(len(dataset.catalogue), np.array([-np.inf]), dataset.cuts.validation_from) == 0
    relevant = dataset.test.relevant(np.arange(len(dataset.test)), len(dataset.catalogue))
    np.testing.assert_array_equal(np.isfinite(measured.values["cold_ndcg_at_10"]), (relevant & cold).any(axis=1))


def test_the_object_has_the_promised_keys(result: dict[str, Any], dataset: Dataset) -> None:
    assert {"data", "split", "seed", "queries", "customers", "rewards", "rows", "best_peer", "ratio_to_best_peer", "cold_start",
            "attainable", "repeat", "new"} <= set(result)  # fmt: skip
    assert [r["model"] for r in result["rows"]] == list(MODELS)
    assert result["queries"] == len(dataset.test)
    for row in result["rows"]:
        assert row["ndcg_at_10_low"] <= row["ndcg_at_10"] <= row["ndcg_at_10_high"]
        assert {
            "recall_at_10",
            "recall_at_20",
            "recall_at_100",
            "mrr",
            "coverage_at_10",
            "novelty_at_10",
            "ece",
            "training_seconds",
        } <= set(row)
        assert row["recall_at_10"] <= row["recall_at_20"] <= row["recall_at_100"]
    assert (
        "null" not in orjson.dumps([[r[c] for c in scorecard.COLUMNS] for r in result["rows"]], option=orjson.OPT_SERIALIZE_NUMPY).decode()
    )
    assert result["best_peer"] == "item_knn"
    assert result["ratio_to_best_peer"] is None  # ours was not asked for
    assert set(result["cold_start"]) == {"rewards", "unknown_customers", "new_customers"}


def test_the_truth_is_the_best_attainable(result: dict[str, Any]) -> None:
    rows = {r["model"]: r for r in result["attainable"]["rows"]}
    assert rows["truth"]["share"]["value"] == 1.0
    assert all(r["ndcg_at_10"] <= rows["truth"]["ndcg_at_10"] for r in rows.values())
    assert rows["random"]["share"]["value"] < 1.0


def test_an_unknown_customer_gets_what_is_popular(result: dict[str, Any]) -> None:
    rows = {r["model"]: r for r in result["cold_start"]["unknown_customers"]["rows"]}
    assert rows["item_knn"]["ndcg_at_10"] == pytest.approx(rows["popularity"]["ndcg_at_10"], abs=0.02)
    main = {r["model"]: r for r in result["rows"]}
    assert rows["item_knn"]["ndcg_at_10"] < main["item_knn"]["ndcg_at_10"]


def test_tables_show_every_row(result: dict[str, Any]) -> None:
    console = Console(record=True, width=80, file=StringIO())
    for table in scorecard.tables(result):
        console.print(table)
    text = console.export_text()
    assert all(name in text for name in (*MODELS, "truth", "NDCG@10", "coverage"))
    assert "…" not in text


def test_the_same_run_again_gives_the_same(dataset: Dataset, connection: Any, tmp_path: Path) -> None:
    settings = TrainSettings.load(environ={}, bootstrap=100)
    problem = Problem("time", connection, connection, dataset, True)
    both = [
        scorecard.summary("s", "time", scorecard.run([problem], settings, ("item_knn", "random"), tmp_path, Console(quiet=True)), settings)
        for _ in range(2)
    ]
    for r in (r for b in both for r in b["rows"]):
        r.pop("training_seconds")
    assert both[0]["rows"] == both[1]["rows"]
    assert both[0]["attainable"] is None


def test_ours_is_the_whole_system(dataset: Dataset, connection: Any, tmp_path: Path) -> None:
    settings = TrainSettings.load(
        environ={}, epochs=1, batch_size=64, width=16, heads=2, bootstrap=100, calibration_customers=40, horizon_days=5
    )
    problem = Problem("time", connection, connection, dataset, True)
    found = scorecard.run([problem], settings, ("regulars", "two_tower", "popularity"), tmp_path, Console(quiet=True))
    result = scorecard.summary("small", "time", found, settings)
    assert [r["model"] for r in result["rows"]] == ["regulars", "two_tower", "popularity"]
    assert result["ratio_to_best_peer"]["low"] <= result["ratio_to_best_peer"]["value"] <= result["ratio_to_best_peer"]["high"]
    assert 0 <= result["rows"][0]["ece"] <= 1
    assert result["rows"][0]["training_seconds"] > 0


def test_ctrl_c_while_ours_trains_is_ctrl_c(dataset: Dataset, connection: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any) -> None:
        raise Interrupted

    monkeypatch.setattr(scorecard, "fit_system", stopped)
    with pytest.raises(KeyboardInterrupt):
        scorecard.fit_ours(connection, dataset, TrainSettings.load(environ={}), tmp_path, Console(quiet=True))
