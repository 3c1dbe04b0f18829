"""Each measure against a second implementation, on the sample and on a resample that is written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.metrics import log_loss as reference_log_loss

from training.sequence import metrics

N = 400


@pytest.fixture(scope="module")
def churn() -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties, and labels that lean on them."""
    rng = np.random.default_rng(1)
    score = np.round(rng.random(N), 1).clip(0.05, 0.95)
    return score, rng.random(N) < score


@pytest.fixture(scope="module")
def value() -> tuple[np.ndarray, np.ndarray]:
    """Forecasts with ties, and spend of which half is nothing and a little is negative."""
    rng = np.random.default_rng(2)
    predicted = np.round(rng.gamma(1.0, 30.0, N), -1)
    actual = np.where(rng.random(N) < 0.5, 0.0, predicted * rng.gamma(2.0, 1.0, N))
    actual[:5] = -3.0
    return predicted, actual


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A resample as rows and as counts."""
    rows = np.random.default_rng(seed).integers(0, N, N)
    return rows, np.bincount(rows, minlength=N).astype(float)


def slow_gini(predicted: np.ndarray, actual: np.ndarray, seed: int = 0) -> float:
    """By sorting and adding up, ties in random order, mean of many orders."""
    rng = np.random.default_rng(seed)

    def area(key: np.ndarray) -> float:
        ordered = actual[np.lexsort((rng.random(len(key)), -key))]
        return float((np.cumsum(ordered) / ordered.sum()).sum() / len(key) - (len(key) + 1) / (2 * len(key)))

    return float(np.mean([area(predicted) for _ in range(400)])) / area(actual)


def test_churn_measures_are_those_of_scikit_learn(churn: tuple[np.ndarray, np.ndarray]) -> None:
    score, label = churn
    assert metrics.auc(score, label)(metrics.ones(N)) == pytest.approx(roc_auc_score(label, score))
    assert metrics.pr_auc(score, label) == pytest.approx(average_precision_score(label, score))
    assert metrics.log_loss(score, label) == pytest.approx(reference_log_loss(label, score))


def test_measures_of_counts_are_those_of_the_written_out_resample(
    churn: tuple[np.ndarray, np.ndarray], value: tuple[np.ndarray, np.ndarray]
) -> None:
    score, label = churn
    predicted, actual = value
    for seed in range(3):
        rows, counts = drawn(seed)
        assert metrics.auc(score, label)(counts) == pytest.approx(roc_auc_score(label[rows], score[rows]))
        assert metrics.spearman(predicted, actual)(counts) == pytest.approx(spearmanr(predicted[rows], actual[rows]).statistic)
        again = metrics.gini(predicted[rows], actual[rows])(metrics.ones(N))
        assert metrics.gini(predicted, actual)(counts) == pytest.approx(again)


def test_gini_is_that_of_adding_up_in_order(value: tuple[np.ndarray, np.ndarray]) -> None:
    predicted, actual = value
    assert metrics.gini(predicted, actual)(metrics.ones(N)) == pytest.approx(slow_gini(predicted, actual), abs=0.005)
    assert metrics.gini(actual, actual)(metrics.ones(N)) == pytest.approx(1.0)
    assert metrics.gini(-actual, actual)(metrics.ones(N)) == pytest.approx(-1.0)


def test_a_constant_score_is_worth_nothing(churn: tuple[np.ndarray, np.ndarray], value: tuple[np.ndarray, np.ndarray]) -> None:
    flat, label, actual = np.full(N, 0.3), churn[1], value[1]
    assert metrics.auc(flat, label)(metrics.ones(N)) == 0.5
    assert metrics.pr_auc(flat, label) == pytest.approx(label.mean())
    assert metrics.lift(flat, label) == pytest.approx(1.0)
    assert metrics.spearman(flat, actual)(metrics.ones(N)) == 0.0
    assert metrics.gini(flat, actual)(metrics.ones(N)) == pytest.approx(0.0)


def test_lift_counts_the_highest_tenth() -> None:
    score, label = np.arange(100.0), np.arange(100) >= 95
    assert metrics.lift(score, label) == pytest.approx((5 / 10) / 0.05)
    assert metrics.lift(score, label, share=0.05) == pytest.approx(20.0)
    tied = np.repeat([1.0, 0.0], 50)  # the tenth is a fifth of the upper half
    assert metrics.lift(tied, label[::-1]) == pytest.approx(0.1 / 0.05)


def test_the_floor_is_what_a_true_probability_shows() -> None:
    rng = np.random.default_rng(3)
    p = rng.random(2_000)
    seen = [metrics.ece(p, rng.random(len(p)) < p) for _ in range(200)]
    floor = metrics.ece_floor(p, seed=4)
    assert floor == pytest.approx(np.mean(seen), rel=0.05)
    assert metrics.ece(np.clip(p + 0.1, 0, 1), rng.random(len(p)) < p) > 2 * floor
    assert metrics.ece_floor(p[:200], seed=4) > 2 * floor  # fewer customers, more luck


def test_bias_and_coverage_are_counted() -> None:
    actual = np.array([0.0, 10.0, 20.0, 30.0])
    assert metrics.bias(np.full(4, 12.0), actual) == pytest.approx(-0.2)
    assert metrics.coverage(np.array([0.0, 11.0, 20.0, 0.0]), np.array([0.0, 20.0, 20.0, 29.0]), actual) == 0.5


def test_what_is_not_defined_is_not_a_number() -> None:
    nothing, some = np.zeros(5), np.arange(5.0)
    label = np.zeros(5, dtype=bool)
    for found in (
        metrics.auc(some, label)(metrics.ones(5)), metrics.pr_auc(some, label), metrics.lift(some, label),
        metrics.gini(some, nothing)(metrics.ones(5)), metrics.bias(some, nothing),
    ):  # fmt: skip
        assert math.isnan(found)
    missing = metrics.interval(0.5, np.full(10, np.nan))
    assert math.isnan(missing.low)
    assert metrics.interval(0.5, np.array([0.4, np.nan, 0.6])).high <= 0.6


def test_resamples_are_paired_and_wide_as_theory_says() -> None:
    rng = np.random.default_rng(5)
    label = rng.random(1_500) < 0.4
    score = label + rng.standard_normal(1_500)
    measure = metrics.auc(score, label)
    draws = metrics.resampled({"a": measure, "b": measure}, 1_500, 300, seed=6)
    assert np.array_equal(draws["a"], draws["b"])
    found = metrics.interval(measure(metrics.ones(1_500)), draws["a"])
    a, up, down = found.value, label.sum(), (~label).sum()
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    expected = math.sqrt((a * (1 - a) + (up - 1) * (q1 - a * a) + (down - 1) * (q2 - a * a)) / (up * down))  # Hanley and McNeil (1982)
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(expected, rel=0.2)
    assert found.low < a < found.high
