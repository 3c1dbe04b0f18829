"""How good a churn probability or a forecast of value is, on a sample and on its resamples. NumPy only.

A resample is given by counts: how often each customer was drawn, float64 (n,). Measures take them, so that a bootstrap sorts the scores
once and not once a resample. Ties get what the average over their orders would: a constant score has AUC 0.5, Spearman 0 and Gini 0.

Letters: n customers, g groups of tied scores, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training import metrics

BINS = 15
FLOOR_DRAWS = 200
_TINY = 1e-7

Measure = Callable[[np.ndarray], float]
"""Takes counts (n,), gives the measure on the resample that they stand for; not a number where it is not defined."""


@dataclass(frozen=True)
class Ordered:
    """Scores sorted once.

    Attributes:
        group: int64 (n,), number of each customer's group of tied scores; ascending with the score.
        count: g.
    """

    group: np.ndarray
    count: int

    @classmethod
    def of(cls, scores: np.ndarray) -> Ordered:
        values, group = np.unique(scores, return_inverse=True)
        return cls(group.reshape(-1), len(values))

    def total(self, weights: np.ndarray) -> np.ndarray:
        """float64 (g,): sums of (n,) weights over each group."""
        return np.bincount(self.group, weights=weights, minlength=self.count)

    def middle(self, weights: np.ndarray) -> np.ndarray:
        """float64 (g,): the weight below each group and half of its own."""
        own = self.total(weights)
        return np.cumsum(own) - own / 2


def ones(n: int) -> np.ndarray:
    """The counts of the sample itself."""
    return np.ones(n)


# ---- churn: scores against a bool label -------------------------------------------------------------------------------------


def auc(score: np.ndarray, label: np.ndarray) -> Measure:
    """Chance that a positive scores higher than a negative, ties half. Source: Mann and Whitney (1947)."""
    order, positive = Ordered.of(score), label.astype(np.float64)

    def of(counts: np.ndarray) -> float:
        up, down = order.total(counts * positive), order.total(counts * (1.0 - positive))
        pairs = up.sum() * down.sum()
        return float(up @ (np.cumsum(down) - down / 2) / pairs) if pairs > 0 else float("nan")

    return of


def pr_auc(score: np.ndarray, label: np.ndarray) -> float:
    """Average precision: the mean precision at the positives, tied scores taken together; not a number without a positive."""
    order = Ordered.of(-score)
    positives, everyone = order.total(label.astype(np.float64)), order.total(ones(len(score)))
    if positives.sum() == 0:
        return float("nan")
    return float((positives * np.cumsum(positives) / np.cumsum(everyone)).sum() / positives.sum())


def log_loss(probability: np.ndarray, label: np.ndarray) -> float:
    """Mean of -log of the probability that was given to what happened, nats."""
    p = np.clip(probability.astype(np.float64), _TINY, 1.0 - _TINY)
    return float(-np.where(label, np.log(p), np.log1p(-p)).mean())


def lift(score: np.ndarray, label: np.ndarray, share: float = 0.1) -> float:
    """Rate of positives among the highest-scored share over the rate of all; tied scores at the edge count in part."""
    order = Ordered.of(-score)
    everyone, positives = order.total(ones(len(score))), order.total(label.astype(np.float64))
    wanted = share * len(score)
    taken = np.clip(wanted - (np.cumsum(everyone) - everyone), 0.0, everyone)
    rate = positives.sum() / len(score)
    return float((positives * taken / everyone).sum() / wanted / rate) if rate > 0 else float("nan")


def ece(probability: np.ndarray, label: np.ndarray) -> float:
    """Expected calibration error, see `training.metrics.ece`."""
    return metrics.ece(probability.astype(np.float64), label.astype(np.float64), BINS)


def ece_floor(probability: np.ndarray, seed: int, draws: int = FLOOR_DRAWS) -> float:
    """The calibration error that these probabilities would show on average if each were true: what luck alone gives at this n.

    Labels are drawn from the probabilities. An error at or below the floor is no sign of miscalibration.
    """
    rng, p = np.random.default_rng(seed), probability.astype(np.float64)
    return float(np.mean([metrics.ece(p, (rng.random(len(p)) < p).astype(np.float64), BINS) for _ in range(draws)]))


# ---- value: predicted against actual spend ----------------------------------------------------------------------------------


def spearman(predicted: np.ndarray, actual: np.ndarray) -> Measure:
    """Correlation of the ranks, ties on their average rank; 0 where one side is constant. Source: Spearman (1904)."""
    a, b = Ordered.of(predicted), Ordered.of(actual)

    def of(counts: np.ndarray) -> float:
        total = counts.sum()
        x, y = a.middle(counts)[a.group] - total / 2, b.middle(counts)[b.group] - total / 2  # ranks less their mean
        spread = np.sqrt((counts @ (x * x)) * (counts @ (y * y)))
        return float(counts @ (x * y) / spread) if spread > 0 else 0.0

    return of


def gini(predicted: np.ndarray, actual: np.ndarray) -> Measure:
    """How much of the spend is found by going through customers in the predicted order, 1 = as in the true order, 0 = as at random.

    The concentration index of the spend in the predicted order over that in its own order (normalised Gini). Source: Kakwani (1977).
    """
    a, b = Ordered.of(predicted), Ordered.of(actual)
    spend = actual.astype(np.float64)

    def of(counts: np.ndarray) -> float:
        weights, half = counts * spend, counts.sum() / 2
        found, best = (float(o.total(weights) @ (o.middle(counts) - half)) for o in (a, b))
        return found / best if best > 0 else float("nan")

    return of


def bias(predicted: np.ndarray, actual: np.ndarray) -> float:
    """Predicted total over the actual one, less 1; not a number where nothing was spent."""
    total = float(actual.sum())
    return float(predicted.sum()) / total - 1.0 if total > 0 else float("nan")


def coverage(low: np.ndarray, high: np.ndarray, actual: np.ndarray) -> float:
    """Share of customers whose spend lies within the interval, edges included."""
    return float(((actual >= low) & (actual <= high)).mean())


# ---- intervals --------------------------------------------------------------------------------------------------------------


def resampled(measures: dict[str, Measure], n: int, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Each measure on the same resamples of customers, float64 (R,) each: differences between them are paired.

    Source: bootstrap of cases, Efron and Tibshirani (1993).
    """
    rng = np.random.default_rng(seed)
    out = {name: np.empty(resamples) for name in measures}
    for r in range(resamples):
        counts = np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)
        for name, measure in measures.items():
            out[name][r] = measure(counts)
    return out


def interval(value: float, draws: np.ndarray) -> metrics.Interval:
    """The 95 % percentile interval; resamples on which the measure is not defined are left out."""
    known = draws[np.isfinite(draws)]
    return metrics.interval(value, known) if len(known) else metrics.Interval(value, float("nan"), float("nan"))
