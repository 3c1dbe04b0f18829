"""From logits to probabilities: the parts against planted truths, the whole on the small programme."""

from __future__ import annotations

from dataclasses import replace

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from contracts.bundle import Ranking
from contracts.errors import ArtifactError
from contracts.tensors import FEATURE_COUNT
from ray_apps.deployments.rank import of_share
from training.recommender import probability
from training.recommender.candidates import Histories
from training.recommender.data import DAY_S, Cuts, Dataset, Queries
from training.recommender.second_stage import load_views
from training.settings import TrainSettings


def ranking(**changes: object) -> Ranking:
    rng = np.random.default_rng(8)
    plain = Ranking(
        rate_weights=tuple(rng.normal(0, 0.2, FEATURE_COUNT).tolist()), rate_intercept=0.3, feature_mean=(0.1,) * FEATURE_COUNT,
        feature_std=(0.5,) * FEATURE_COUNT, temperature=1.0, slope=0.9, intercept=-0.2, horizon_days=30, ece=0.01,
    )  # fmt: skip
    return plain.model_copy(update=changes)


@pytest.fixture(scope="module")
def by_history(dataset: Dataset) -> probability.Score:
    """A ranker without a model: all valid rewards, those that the customer redeemed more often first."""

    def score(queries: Queries) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        histories, allowed = Histories(queries.log), queries.candidates(dataset.catalogue, np.arange(len(queries)))
        counts = np.zeros(allowed.shape)
        for q in range(len(queries)):
            mine = histories.before(int(queries.customer[q]), float(queries.as_of[q]))
            counts[q, mine.rows] = mine.count
        logits = np.log(counts + 0.05)[allowed].astype(np.float32)
        return np.concatenate([[0], np.cumsum(allowed.sum(axis=1))]), np.nonzero(allowed)[1], np.stack([logits, logits / 2], axis=1)

    return score


@pytest.fixture(scope="module")
def views(connection: duckdb.DuckDBPyConnection, dataset: Dataset) -> pa.Table:
    return load_views(connection, dataset.catalogue)


# --- the parts ---

RAGGED = np.array([0, 2, 2, 5, 6])


def test_softmax_within_each_row_of_a_ragged_array() -> None:
    values = np.array([0.0, np.log(3.0), 700.0, 701.0, -900.0, 5.0])
    found = np.exp(probability.log_softmax(values, RAGGED))
    np.testing.assert_allclose(found[:2], [0.25, 0.75])
    np.testing.assert_allclose(found[2:5], [1 / (1 + np.e), np.e / (1 + np.e), 0.0])
    assert found[5] == 1.0
    assert not len(probability.log_softmax(np.zeros(0), np.zeros(3, np.int64)))


def test_places_within_each_row_of_a_ragged_array() -> None:
    assert probability.places(np.array([1.0, 2.0, 5.0, 5.0, 9.0, -1.0]), RAGGED).tolist() == [1, 0, 1, 2, 0, 0]
    assert probability.places(np.zeros(0), np.zeros(3, np.int64)).tolist() == []


def test_a_planted_rate_is_found() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(8_000, 3))
    weights, intercept = probability.fit_rate(x, rng.poisson(np.exp(x @ [0.5, -0.3, 0.0] - 0.7)).astype(float))
    np.testing.assert_allclose(weights, [0.5, -0.3, 0.0], atol=0.05)
    assert intercept == pytest.approx(-0.7, abs=0.05)


def test_a_rate_of_nothing_and_one_that_a_column_decides_stay_finite() -> None:
    x = np.random.default_rng(1).normal(size=(200, 2))
    weights, intercept = probability.fit_rate(x, np.zeros(200))
    assert np.abs(weights).max() < 0.1
    assert -40 < intercept < -8
    weights, intercept = probability.fit_rate(x, np.where(x[:, 0] > 0, 9.0, 0.0))
    assert np.isfinite(weights).all()
    assert weights[0] > abs(weights[1])
    assert abs(intercept) < 10


@pytest.mark.parametrize(("slope", "intercept"), [(0.7, 0.4), (1.3, -0.5)])
def test_a_planted_calibration_is_found(slope: float, intercept: float) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(-2, 1.5, 40_000)
    label = rng.random(40_000) < -np.expm1(-np.exp(slope * x + intercept))
    assert probability.fit_cloglog(x, label) == pytest.approx((slope, intercept), abs=0.06)


def test_a_calibration_of_labels_that_are_all_the_same_stays_finite_and_rising() -> None:
    x = np.random.default_rng(2).normal(size=500)
    for label in (np.zeros(500, bool), np.ones(500, bool), x < 0):
        slope, intercept = probability.fit_cloglog(x, label)
        assert 0 < slope < 21
        assert np.isfinite(intercept)


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=1, max_size=30), st.integers(0, 99), st.floats(0.05, 3.0), st.floats(-3.0, 3.0))
def test_probabilities_are_in_the_order_of_the_logits(logits: list[float], seed: int, slope: float, intercept: float) -> None:
    known, values = ranking(slope=slope, intercept=intercept), np.array(logits, np.float32)
    features = np.random.default_rng(seed).normal(size=FEATURE_COUNT).astype(np.float32)
    found = known.probabilities(values, features)
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found[np.argsort(values, kind="stable")]) >= 0).all()
    log_share = probability.log_softmax(values.astype(np.float64), np.array([0, len(values)]))
    none = np.zeros(len(values), bool)
    observed = probability.Observed(features[None], np.zeros(1), log_share, log_share, np.zeros(len(values), int), none, none, none)
    np.testing.assert_allclose(probability.probabilities(known, observed), found, rtol=1e-9)  # what is measured is what is served
    np.testing.assert_allclose(of_share(known, features)(np.exp(log_share)), found, rtol=1e-6, atol=1e-12)  # and explained


# --- the whole ---


def test_it_is_calibrated_on_a_later_slice(
    connection: duckdb.DuckDBPyConnection, by_history: probability.Score, dataset: Dataset, views: pa.Table, settings: TrainSettings
) -> None:
    found, report = probability.fit_ranking(connection, by_history, dataset, views, settings)
    assert report["ece"] == found.ece < 0.1
    assert report["ece_all"] < 0.1
    assert report["view_ece"] < 0.1
    assert found.slope > 0
    assert found.view_slope > 0
    assert report["horizon_days"] == report["asked_horizon_days"] == found.horizon_days == 5
    assert report["stated_rate"] == pytest.approx(report["tested_rate"], rel=0.3)
    assert report["shown_rate"] >= report["tested_rate"] > 0.02
    cuts = dataset.cuts
    later = probability.observe(connection, by_history, dataset, views, cuts.test_from, cuts.end, 5.0, settings)
    for wrong in ({"intercept": found.intercept + 1.5}, {"intercept": found.intercept - 1.5}):  # negative control
        stated = probability.probabilities(found.model_copy(update=wrong), later)
        assert abs(stated.mean() - later.redeemed.mean()) > 3 * abs(report["stated_rate"] - report["tested_rate"])


def test_without_views_the_view_probability_is_the_plain_one(
    connection: duckdb.DuckDBPyConnection, by_history: probability.Score, dataset: Dataset, views: pa.Table, settings: TrainSettings
) -> None:
    found, report = probability.fit_ranking(connection, by_history, dataset, views.slice(0, 0), settings)
    assert report["view_ece"] is None
    assert (found.view_slope, found.view_intercept) == (1.0, 0.0)


def test_what_followed_is_seen_within_the_horizon_and_the_slice(
    connection: duckdb.DuckDBPyConnection, by_history: probability.Score, dataset: Dataset, views: pa.Table, settings: TrainSettings
) -> None:
    cuts, log = dataset.cuts, dataset.log

    def seen(known: Dataset, shown: pa.Table) -> probability.Observed:
        return probability.observe(connection, by_history, known, shown, cuts.validation_from, cuts.test_from, 5.0, settings)

    def cut(moment: float) -> probability.Observed:
        earlier = views.filter(pc.less(views["time"], moment))
        return seen(replace(dataset, log=log.without(log.time >= moment)), earlier)

    here = seen(dataset, views)
    assert here.count.sum() == here.redeemed.sum() > 0  # twelve rewards: all of them are kept
    assert here.viewed.any()
    np.testing.assert_array_equal(np.bincount(here.owner, here.shown), np.minimum(10, np.bincount(here.owner)))
    same, control = cut(float(cuts.test_from[0])), cut(float(cuts.test_from[0]) - 5 * DAY_S)
    for name in ("count", "redeemed", "viewed", "log_share", "owner", "features"):
        np.testing.assert_array_equal(getattr(same, name), getattr(here, name))
    assert control.redeemed.sum() < here.redeemed.sum()
    assert control.viewed.sum() < here.viewed.sum()
    slow = 0
    moments = np.linspace(cuts.validation_from[0], cuts.test_from[0] - 5 * DAY_S, probability.MOMENTS)
    for moment in moments:
        inside = (log.time >= moment) & (log.time < moment + 5 * DAY_S)
        slow += len(set(zip(log.customer[inside].tolist(), log.item[inside].tolist(), strict=True)))
    assert 0.4 * slow < here.count.sum() < 0.9 * slow  # 40 of the 60 customers are drawn


def test_it_needs_someone_active(
    connection: duckdb.DuckDBPyConnection, by_history: probability.Score, dataset: Dataset, views: pa.Table, settings: TrainSettings
) -> None:
    c = dataset.cuts
    far = Cuts(*(moment + 1e9 for moment in (c.begin, c.validation_from, c.test_from, c.end)))
    with pytest.raises(ArtifactError, match="0 active customers"):
        probability.fit_ranking(connection, by_history, replace(dataset, cuts=far), views, settings)
