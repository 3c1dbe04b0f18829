"""How well a score says whom an action moves: Qini curve and coefficient, AUUC, uplift among the best, with intervals. NumPy only.

Customers are taken from the highest score down. At each share of them the curve holds the outcome gained per customer of all, had these
been treated alone: `(sum of treated outcomes - sum of untreated outcomes x treated / untreated) / customers`. A customer weighs one over
the probability of the group that chance put it in. Customers with one score enter together: a constant score is exactly the straight line.

Source: Radcliffe (2007), "Using control groups to target on predicted lift"; the weights make it hold for any known propensity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from contracts.errors import ContractError, ShapeError
from decisions.statistics import Interval, poisson_counts

_BLOCK = 2**22


@dataclass(frozen=True)
class Trial:
    """A randomised (or propensity-known) trial of one action.

    Attributes:
        treatment: bool (N,), who got it.
        outcome: float (N,).
        propensity: float (N,), probability of being treated, strictly between 0 and 1.
    """

    treatment: np.ndarray
    outcome: np.ndarray
    propensity: np.ndarray

    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the treated and of the untreated, float64 (N,) each, 0 for the others."""
        return self.treatment / self.propensity, ~self.treatment / (1.0 - self.propensity)


@dataclass(frozen=True)
class Curve:
    """The Qini curve.

    Attributes:
        share: float64 (K,), share of customers treated, 0 to 1.
        gain: float64 (K,), outcome gained per customer of all.
        coefficient: area between the curve and the straight line from nobody to everybody.
        auuc: area under the curve.
    """

    share: np.ndarray
    gain: np.ndarray
    coefficient: float
    auuc: float


def curve(score: np.ndarray, trial: Trial) -> Curve:
    """The Qini curve of one score.

    Args:
        score: float (N,), higher is to be treated sooner.

    Raises:
        ShapeError: arrays of different length.
        ContractError: values that are no trial.
    """
    check(trial, score)
    order, ends = _order(score)
    share, gain = _curves(trial, order, ends, np.ones((1, len(score))))
    return Curve(share[0], gain[0], float(_areas(share, gain)[0][0]), float(_areas(share, gain)[1][0]))


def compare(scores: dict[str, np.ndarray], trial: Trial, fold: np.ndarray | None = None, resamples: int = 500, seed: int = 7) -> dict:
    """Qini coefficients of several scores on the same customers, with bootstrap intervals, and all differences paired.

    Args:
        scores: name to float (N,).
        fold: int (N,), which model scored a customer. Customers are ranked within a fold only, and folds averaged by size: scores of
            different models need not be on one scale.

    Returns:
        `{"qini": {name: Interval}, "auuc": {name: Interval}, "difference": {(a, b): Interval of qini a - b}}`.
    """
    for score in scores.values():
        check(trial, score)
    n = len(trial.outcome)
    folds = [np.arange(n)] if fold is None else [np.flatnonzero(fold == f) for f in np.unique(fold)]
    names = list(scores)
    areas = np.zeros((2, len(names), resamples + 1))
    for number, rows in enumerate(folds):
        part = Trial(trial.treatment[rows], trial.outcome[rows], trial.propensity[rows])
        orders = [_order(scores[name][rows]) for name in names]
        rng = np.random.default_rng([seed, number])
        step = max(1, _BLOCK // len(rows))
        for start in range(0, resamples + 1, step):
            size = min(step, resamples + 1 - start)
            counts = poisson_counts(rng, size, len(rows))
            if start == 0:
                counts[0] = 1.0
            for i, (order, ends) in enumerate(orders):
                found = _areas(*_curves(part, order, ends, counts))
                areas[:, i, start : start + size] += np.stack(found) * len(rows) / n
    qini, auuc = areas
    return {
        "qini": {name: _percentile(qini[i]) for i, name in enumerate(names)},
        "auuc": {name: _percentile(auuc[i]) for i, name in enumerate(names)},
        "difference": {(a, b): _percentile(qini[i] - qini[j]) for i, a in enumerate(names) for j, b in enumerate(names) if i != j},
    }


def uplift_among_best(score: np.ndarray, trial: Trial, share: float, resamples: int = 500, seed: int = 7) -> Interval:
    """Mean effect among the best-scored share of customers, with a bootstrap interval; ties at the border enter together.

    Raises:
        ContractError: a share that is not above 0 and at most 1.
    """
    check(trial, score)
    if not 0 < share <= 1:
        raise ContractError(f"share is {share}, must be above 0 and at most 1. Give 0.3 for three in ten.")
    rows = np.flatnonzero(score >= np.sort(score)[::-1][max(0, round(share * len(score)) - 1)])
    treated, untreated = (w[rows] for w in trial.weights())
    if not (treated.any() and untreated.any()):
        raise ContractError(f"the best {share:.0%} hold only one of treated and untreated customers. Take a larger share.")
    columns = np.stack([treated * trial.outcome[rows], treated, untreated * trial.outcome[rows], untreated], axis=1)
    rng = np.random.default_rng(seed)
    step = max(1, _BLOCK // len(rows))
    sums = np.concatenate(
        [
            columns.sum(axis=0)[None],
            *(poisson_counts(rng, min(step, resamples - k), len(rows)) @ columns for k in range(0, resamples, step)),
        ]
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        effects = sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3]
    return _percentile(effects)


def check(trial: Trial, score: np.ndarray | None = None) -> None:
    """Whether these arrays are a trial, and a score of its customers.

    Raises:
        ShapeError: arrays of different length.
        ContractError: values that are no trial.
    """
    n = len(trial.outcome)
    arrays = [trial.treatment, trial.outcome, trial.propensity, *([] if score is None else [score])]
    if any(a.ndim != 1 or len(a) != n for a in arrays):
        raise ShapeError(f"treatment, outcome, propensity and score have shapes {[a.shape for a in arrays]}; must be ({n},) each.")
    if trial.treatment.dtype != np.bool_ or not trial.treatment.any() or trial.treatment.all():
        raise ContractError("treatment must be bool and hold both treated and untreated customers. Give a trial with a control group.")
    if not ((trial.propensity > 0) & (trial.propensity < 1)).all():
        raise ContractError("propensity must be strictly between 0 and 1: nobody's treatment may be certain. Leave such customers out.")
    if not np.isfinite(trial.outcome).all() or (score is not None and not np.isfinite(score).all()):
        raise ContractError("outcome and score must be finite. Leave out customers without an outcome.")


def _order(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows from the highest score down, and the positions at which a run of equal scores ends."""
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    return order, np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(score) - 1)


def _curves(trial: Trial, order: np.ndarray, ends: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share and gain, float64 (R, K + 1) each, for every resample (R, N) of the customers."""
    treated, untreated = trial.weights()
    sums = [
        np.cumsum(counts[:, order] * column[order], axis=1)[:, ends]
        for column in (np.ones(len(order)), treated, untreated, treated * trial.outcome, untreated * trial.outcome)
    ]
    size, t, u, yt, yu = sums
    everyone = np.maximum(size[:, -1:], 1.0)
    gain = (yt - np.divide(yu * t, u, out=np.zeros_like(u), where=u > 0)) / everyone
    start = np.zeros((len(counts), 1))
    return np.concatenate([start, size / everyone], axis=1), np.concatenate([start, gain], axis=1)


def _areas(share: np.ndarray, gain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficient and area under the curve, float64 (R,) each, by trapezoids."""
    under = np.trapezoid(gain, share, axis=1)
    return under - gain[:, -1] / 2, under


def _percentile(values: np.ndarray) -> Interval:
    """The first is of the whole sample, the others of resamples."""
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return Interval(float(values[0]), float(low), float(high))
