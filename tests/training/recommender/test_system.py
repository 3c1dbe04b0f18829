"""Both stages together: candidates above the rest, interruptible, and nothing calibrated where time means nothing."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from rich.console import Console

from features.pairs import WINDOWS_DAYS, part_of_hour
from training.recommender import fitting, system
from training.recommender.data import DAY_S, Dataset, take_index, with_unknown
from training.recommender.evaluate import user_vectors
from training.recommender.model import TwoTower
from training.settings import TrainSettings


@pytest.fixture(scope="module")
def quick(settings: TrainSettings) -> TrainSettings:
    """Fewer candidates than rewards, so that some are none."""
    found = TrainSettings.load(
        environ={}, **{**settings.public(), "epochs": 1, "ranker_epochs": 6, "ranker_batch_size": 8, "ranker_width": 16}
    )
    return found.model_copy(update={"candidates": 3})


@pytest.fixture(scope="module")
def towers(dataset: Dataset, quick: TrainSettings, tmp_path_factory: pytest.TempPathFactory) -> TwoTower:
    return fitting.fit(dataset, quick, tmp_path_factory.mktemp("towers"), Console(quiet=True)).model


@pytest.fixture(scope="module")
def fitted(connection: duckdb.DuckDBPyConnection, dataset: Dataset, quick: TrainSettings, towers: TwoTower) -> system.System:
    return system.fit_second(connection, dataset, quick, towers, Console(quiet=True))


def test_every_candidate_is_above_every_other_reward(fitted: system.System, dataset: Dataset) -> None:
    queries, index = dataset.test, np.arange(len(dataset.test))[::3]
    scores = fitted.scores(queries, index)
    part = take_index(queries, index)
    indptr, rows, logits = fitted.logits(part)
    is_candidate = np.zeros(scores.shape, bool)
    is_candidate[np.repeat(np.arange(len(index)), np.diff(indptr)), rows] = True
    assert 0.1 < is_candidate.mean() < 0.9
    cosine = user_vectors(fitted.model, part) @ fitted.items.T
    for q in range(len(index)):
        inside, rest = scores[q, is_candidate[q]], scores[q, ~is_candidate[q]]
        assert not len(rest) or inside.min() > rest.max()
        here = slice(indptr[q], indptr[q + 1])
        np.testing.assert_array_equal(scores[q, rows[here]], logits[here, 0])
        order = np.argsort(-cosine[q, ~is_candidate[q]], kind="stable")
        assert (np.diff(rest[order]) <= 0).all()  # by cosine, to the precision that is left a million below
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(fitted.scores(queries, index[4:5])[0], scores[4], atol=1e-4)  # one query alone is scored the same


@pytest.mark.parametrize("scale", [1e-3, 1e5])
def test_the_order_holds_whatever_the_logits_are(
    fitted: system.System, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    real = fitted.logits

    def scaled(queries: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        indptr, rows, logits = real(queries)
        return indptr, rows, (logits * scale).astype(np.float32)

    monkeypatch.setattr(fitted, "logits", scaled)
    index = np.arange(20)
    indptr, rows, _ = scaled(take_index(dataset.test, index))
    for q, scores in enumerate(fitted.scores(dataset.test, index)):
        mine = rows[indptr[q] : indptr[q + 1]]
        rest = np.setdiff1d(np.arange(len(scores)), mine)
        assert scores[mine].min() > scores[rest].max(initial=-np.inf)


def test_somebody_without_a_touch_gets_what_is_popular_at_the_moment(fitted: system.System, dataset: Dataset) -> None:
    whole = with_unknown(dataset.test, 1.0, 0)
    count = len(dataset.test)
    cold, known = np.arange(count, count + 9), np.arange(9)
    unknown = fitted.scores(whole, cold)
    for scores, q in zip(unknown, cold, strict=True):
        stats, hour = fitted.statistics.at(float(whole.as_of[q])), whole.as_of[q] % DAY_S / 3_600
        expected = (stats.shares[0] + stats.shares[1]) / 2 + stats.part_lift[:, part_of_hour(hour)]
        np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert not np.array_equal(np.argsort(fitted.scores(whole, known)), np.argsort(unknown))  # the control: the same moments, but known


def test_it_ranks_what_is_redeemed_first(fitted: system.System, dataset: Dataset) -> None:
    index = np.arange(len(dataset.test))
    allowed, relevant = dataset.test.candidates(dataset.catalogue, index), dataset.test.relevant(index, len(dataset.catalogue))

    def mean_place(scores: np.ndarray) -> float:
        order = np.argsort(-np.where(allowed, scores, -np.inf), axis=1)
        return float(np.nonzero(np.take_along_axis(relevant, order, axis=1))[1].mean())

    scores = fitted.scores(dataset.test, index)
    assert mean_place(scores) < 2.5  # three tastes, now and then two at once: 1.1 at the best
    assert mean_place(np.random.default_rng(0).random(scores.shape)) > 4  # the control: chance


def test_the_report_says_what_was_seen(fitted: system.System, dataset: Dataset) -> None:
    report = fitted.report
    assert report["queries"] == len(dataset.validation)
    assert 3 <= report["candidates"] <= 2 * len(dataset.catalogue)
    assert 0.5 < report["candidate_recall"] <= 1
    assert 1 <= len(report["epochs"]) <= 6
    assert fitted.ranking is not None
    assert report["ece"] == report["calibration"]["ece"] == fitted.ranking.ece


def test_an_interruption_ends_both_stages(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, quick: TrainSettings, towers: TwoTower, tmp_path: Path
) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(fitting.Interrupted):
        system.fit_second(connection, dataset, quick, towers, Console(quiet=True), stop)
    with pytest.raises(fitting.Interrupted):
        system.fit_system(connection, dataset, quick, tmp_path, Console(quiet=True), stop)
    assert (tmp_path / fitting.LAST).is_file()  # the towers go on from there
    whole = system.fit_system(connection, dataset, quick, tmp_path, Console(quiet=True))
    assert whole.ranking is not None


def test_nothing_is_calibrated_where_the_split_is_not_by_time(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, quick: TrainSettings, towers: TwoTower
) -> None:
    found = system.fit_second(connection, replace(dataset, split="fold"), quick, towers, Console(quiet=True))
    assert found.ranking is None
    assert not {"calibration", "ece"} & set(found.report)


def test_the_ranker_learns_from_what_the_towers_have_not_seen(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, quick: TrainSettings, towers: TwoTower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its examples are of the validation slice, their statistics of before it."""
    seen: list[Any] = []

    class Enough(Exception):  # noqa: N818
        pass

    def look(examples: Any, *rest: Any) -> None:
        seen.append(examples)
        raise Enough

    monkeypatch.setattr(system.second_stage, "fit_ranker", look)
    with pytest.raises(Enough):
        system.fit_second(connection, dataset, quick, towers, Console(quiet=True))
    early, late = float(dataset.cuts.validation_from[0]), float(dataset.cuts.test_from[0])
    assert early - quick.lead_s <= seen[0].as_of.min() <= seen[0].as_of.max() < late
    assert seen[0].viewed.any()


def test_a_bundle_carries_statistics_of_the_whole_log(dataset: Dataset, quick: TrainSettings) -> None:
    found, log = system.served_statistics(dataset, quick, 300.0), dataset.log
    end = (log.time.max() // DAY_S + 1) * DAY_S
    for row, days in enumerate(WINDOWS_DAYS):
        mine = log.item[log.time >= end - days * DAY_S]
        expected = np.log(np.bincount(mine, minlength=12) / len(mine) + 1e-5)
        np.testing.assert_allclose(found.shares[row], expected, rtol=1e-5)
