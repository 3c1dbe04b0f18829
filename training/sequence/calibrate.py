"""What is set on a later slice than the one trained on: the churn probabilities, the sum of the spend, the width of the interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from contracts.tensors import HORIZONS_DAYS
from training import metrics
from training.sequence import metrics as measures
from training.sequence.data import Samples
from training.sequence.model import LEVEL, SequenceModel, quiet_logits, spread_of

POWERS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
PRIOR = 200.0
"""Customers' worth of trust that a probability is right as it is: a small slice moves it little."""
CHUNK = 4_096


@dataclass(frozen=True)
class Raw:
    """What the networks say before calibration, of n samples.

    Attributes:
        log_odds: float64 (n, 3), of no purchase within each horizon. chance: float64 (n, 12), of a purchase in each month.
        log_mean: float64 (n, 12), of a month's spend given a purchase. interval: float32 (n, 2), the two logits.
    """

    log_odds: np.ndarray
    chance: np.ndarray
    log_mean: np.ndarray
    interval: np.ndarray

    def spend(self, centre: float, power: float) -> np.ndarray:
        """Expected spend of each month before scaling, float64 (n, 12)."""
        return self.chance * np.exp(np.clip(centre + power * (self.log_mean - centre), -10.0, 16.0))

    def take(self, rows: np.ndarray) -> Raw:
        """Some of the samples."""
        return Raw(self.log_odds[rows], self.chance[rows], self.log_mean[rows], self.interval[rows])


@torch.inference_mode()
def raw(model: SequenceModel, samples: Samples) -> Raw:
    """Forecasts of a model whose calibration is still that of a new one."""
    parts = []
    for begin in range(0, len(samples), CHUNK):
        rows = slice(begin, begin + CHUNK)
        logits, _ = model.logits(torch.from_numpy(samples.weeks[rows]), torch.from_numpy(samples.statics[rows]))
        quiet, _, month, amount, spread, interval = logits.split(model.SIZES, -1)
        mean = amount.double() + 0.5 * spread_of(spread.double()) ** 2
        parts.append((quiet_logits(quiet).double(), torch.sigmoid(month.double()), mean, interval))
    return Raw(*(torch.cat(p).numpy() for p in zip(*parts, strict=True)))


def platt(log_odds: np.ndarray, label: np.ndarray, prior: float = PRIOR) -> tuple[float, float]:
    """Slope and intercept on the log-odds by maximum likelihood, drawn to 1 and 0 as by `prior` samples. Source: Platt (1999).

    Args:
        log_odds: float64 (n,). label: bool (n,).
    """
    x = np.stack([np.clip(log_odds, -30.0, 30.0), np.ones(len(log_odds))], axis=1)
    start = np.array([1.0, 0.0])
    pull = prior * 0.1 * np.eye(2)

    def loss(weights: np.ndarray) -> float:
        z = x @ weights
        away = weights - start
        return float(np.logaddexp(0.0, z).sum() - z[label].sum() + 0.5 * away @ pull @ away)

    weights, best = start.copy(), loss(start)
    for _ in range(50):  # Newton, in steps short enough to get better
        p = 1.0 / (1.0 + np.exp(-(x @ weights)))
        step = np.linalg.solve(x.T @ (x * (p * (1 - p))[:, None]) + pull, x.T @ (p - label) + pull @ (weights - start))
        while (tried := loss(weights - step)) > best and np.abs(step).max() > 1e-9:
            step = step / 2
        weights, best = weights - step, tried
        if np.abs(step).max() < 1e-9:
            break
    return float(max(weights[0], 0.05)), float(weights[1])


@torch.inference_mode()
def intervals(model: SequenceModel, spend: np.ndarray, logits: np.ndarray, months: int) -> np.ndarray:
    """The interval of the sum of the first `months` months, float64 (n, 2), of calibrated spend (n, 12)."""
    total = torch.from_numpy(spend[:, :months].sum(1, keepdims=True).astype(np.float32))
    return model.interval(total, torch.from_numpy(logits), torch.full_like(total, float(months))).double().numpy()


def inside(interval: np.ndarray, actual: np.ndarray) -> float:
    """Share of actual sums within their interval; a hundredth of a unit of money is forgiven."""
    return float(((actual >= interval[:, 0] - 0.01) & (actual <= interval[:, 1] + 0.01)).mean()) if len(actual) else float("nan")


@torch.inference_mode()
def interval_scale(model: SequenceModel, samples: Samples, spend: np.ndarray, logits: np.ndarray) -> float:
    """The factor on the deviation with which the interval covers `LEVEL` of those in the slice who will probably spend something.

    For the others the interval is [0, a little] whatever the factor. By bisection.
    Source: split conformal prediction, Vovk, Gammerman and Shafer (2005).
    """
    months = int(samples.months_seen.min())
    total = torch.from_numpy(spend[:, :months].sum(1, keepdims=True).astype(np.float32))
    nothing = model.total_law(total, torch.from_numpy(logits), torch.full_like(total, float(months)))[0][:, 0].numpy()
    rows = nothing < 0.5
    if rows.sum() < 50:
        return 1.0
    actual = samples.monthly_spend[rows, :months].sum(1)
    low, high = 0.1, 3.0
    for _ in range(14):
        middle = (low * high) ** 0.5
        model.interval_scale.fill_(middle)
        low, high = (middle, high) if inside(intervals(model, spend[rows], logits[rows], months), actual) < LEVEL else (low, middle)
    return float((low * high) ** 0.5)


def amount_power(samples: Samples, found: Raw, centre: float) -> float:
    """How far the amounts' means are drawn together: the power of `POWERS` with which the slice's customers are put in the best order.

    Best by the rank correlation and the Gini coefficient of the known months' sum, together.
    """
    known = np.arange(found.chance.shape[1]) < samples.months_seen[:, None]
    actual = (samples.monthly_spend * known).sum(1, dtype=np.float64)
    if len(samples) < 100 or not actual.any():
        return 1.0

    def quality(power: float) -> float:
        expected = (found.spend(centre, power) * known).sum(1)
        return _of(measures.spearman(expected, actual), len(actual)) + _of(measures.gini(expected, actual), len(actual))

    return max(POWERS, key=quality)


def calibrate(model: SequenceModel, samples: Samples) -> dict[str, float | list[float]]:
    """Set the model's calibration on a slice that it was not trained on, and measure it there.

    Half of the customers set, the other half measures, and the other way round; then all set. Only shapes are set (slopes, the drawing
    together of amounts, the width of the interval), never a level: that of the slice is no better guess of the time after it than what a
    model says that was trained on the slice too.

    Returns:
        `ece` and `churned` at the longest horizon, `bias` of the sum, `coverage` of the interval, all on customers that did not set them;
        `auc`, `rank_correlation` and `gini`; and what was set.
    """
    found = raw(model, samples)
    half = samples.customer % 2 == 0
    months = int(samples.months_seen.min())
    actual = samples.monthly_spend[:, :months].sum(1, dtype=np.float64)
    stated, sums, covered = np.full(len(samples), np.nan), np.full(len(samples), np.nan), []
    for part in (half, ~half):
        _set(model, samples.take(np.flatnonzero(~part)), found.take(~part))
        mine = found.take(part)
        stated[part] = _sigmoid(float(model.churn_slope[-1]) * mine.log_odds[:, -1] + float(model.churn_intercept[-1]))
        spend = mine.spend(float(model.amount_centre), float(model.amount_power)) * float(model.spend_scale)
        sums[part] = spend[:, :months].sum(1)
        covered.append((inside(intervals(model, spend, mine.interval, months), actual[part]), int(part.sum())))
    _set(model, samples, found)
    rows = samples.asked(HORIZONS_DAYS[-1])
    label = samples.churned(HORIZONS_DAYS[-1])[rows]
    return {
        "ece": metrics.ece(stated[rows], label),
        "auc": _of(measures.auc(found.log_odds[rows, -1], label), len(label)),
        "churned": float(label.mean()) if len(label) else float("nan"),
        "bias": float(sums.sum() / actual.sum() - 1.0) if actual.sum() > 0 else float("nan"),
        "rank_correlation": _of(measures.spearman(sums, actual), len(actual)),
        "gini": _of(measures.gini(sums, actual), len(actual)),
        "coverage": float(sum(c * n for c, n in covered if n) / max(sum(n for _, n in covered), 1)),
        "slope": model.churn_slope.tolist(),
        "amount_power": float(model.amount_power),
        "interval_scale": float(model.interval_scale),
    }


def _of(measure: measures.Measure, n: int) -> float:
    """A measure of all n samples, each counted once."""
    return measure(measures.ones(n))


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(z, -60.0, 60.0))))


def _set(model: SequenceModel, samples: Samples, found: Raw) -> None:
    if not len(samples):
        return
    for i, horizon in enumerate(HORIZONS_DAYS):
        rows = samples.asked(horizon)
        model.churn_slope[i] = platt(found.log_odds[rows, i], samples.churned(horizon)[rows])[0] if rows.any() else 1.0
    _centre(model, samples, found, amount_power(samples, found, _typical(found)))
    spend = found.spend(float(model.amount_centre), float(model.amount_power)) * float(model.spend_scale)
    model.interval_scale.fill_(interval_scale(model, samples, spend, found.interval))


def _typical(found: Raw) -> float:
    """Log of a typical month's spend given a purchase."""
    return float(np.average(found.log_mean, weights=found.chance))


def _centre(model: SequenceModel, samples: Samples, found: Raw, power: float) -> None:
    """Turn slopes and powers about these customers' means, so that they move neither the mean log-odds nor the sum of the spend."""
    rows = samples.active if samples.active.any() else np.ones(len(samples), dtype=bool)
    means = torch.from_numpy(found.log_odds[rows].mean(0)).float()
    model.churn_intercept.copy_((1.0 - model.churn_slope) * means)
    centre = _typical(found)
    model.amount_centre.fill_(centre)
    model.amount_power.fill_(power)
    model.spend_scale.fill_(float(found.spend(centre, 1.0).sum() / found.spend(centre, power).sum()))


def take_over(model: SequenceModel, early: SequenceModel, now: Samples) -> None:
    """Give a model that has seen the slice the calibration of one that had not, turned about the customers of now."""
    model.churn_slope.copy_(early.churn_slope)
    model.interval_scale.copy_(early.interval_scale)
    if len(now):
        _centre(model, now, raw(model, now), float(early.amount_power))
