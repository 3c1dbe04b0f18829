"""What is set on a later slice than the one trained on: the churn probabilities, the sum of the spend, the width of the interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from contracts.tensors import HORIZONS_DAYS
from training import metrics
from training.sequence.data import Samples
from training.sequence.model import LEVEL, SequenceModel

PRIOR = 200.0
"""Customers' worth of trust that a probability is right as it is: a small slice moves it little."""
CHUNK = 4_096


@dataclass(frozen=True)
class Raw:
    """What the networks say before calibration, of n samples.

    Attributes:
        log_odds: float64 (n, 3), of no purchase within each horizon. spend: float64 (n, 12). interval: float32 (n, 2), the two logits.
    """

    log_odds: np.ndarray
    spend: np.ndarray
    interval: np.ndarray


@torch.inference_mode()
def raw(model: SequenceModel, samples: Samples) -> Raw:
    """Forecasts of a model whose calibration is still that of a new one."""
    from training.sequence.model import quiet_logits

    parts = []
    for begin in range(0, len(samples), CHUNK):
        rows = slice(begin, begin + CHUNK)
        logits, _ = model.logits(torch.from_numpy(samples.weeks[rows]), torch.from_numpy(samples.statics[rows]))
        quiet, _, month, amount, spread, interval = logits.split(model.SIZES, -1)
        parts.append((quiet_logits(quiet).double(), model.spend(month, amount, spread).double(), interval))
    log_odds, spend, interval = (torch.cat(p).numpy() for p in zip(*parts, strict=True))
    return Raw(log_odds, spend, interval)


def platt(log_odds: np.ndarray, label: np.ndarray, prior: float = PRIOR) -> tuple[float, float]:
    """Slope and intercept on the log-odds by maximum likelihood, drawn to 1 and 0 as by `prior` samples. Source: Platt (1999).

    Args:
        log_odds: float64 (n,). label: bool (n,).
    """
    x = np.stack([log_odds, np.ones(len(log_odds))], axis=1)
    start = np.array([1.0, 0.0])
    pull = prior * 0.1 * np.eye(2)
    weights = start.copy()
    for _ in range(30):  # Newton
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ weights, -30.0, 30.0)))
        gradient = x.T @ (p - label) + pull @ (weights - start)
        step = np.linalg.solve(x.T @ (x * (p * (1 - p))[:, None]) + pull, gradient)
        weights -= step
        if np.abs(step).max() < 1e-9:
            break
    return float(max(weights[0], 0.05)), float(weights[1])


def spend_scale(samples: Samples, spend: np.ndarray) -> float:
    """Actual over expected spend of the slice's known months, between a half and two."""
    known = np.arange(spend.shape[1]) < samples.months_seen[:, None]
    expected, actual = float((spend * known).sum()), float((samples.monthly_spend * known).sum(dtype=np.float64))
    return float(np.clip(actual / expected, 0.5, 2.0)) if expected > 0 and actual > 0 else 1.0


@torch.inference_mode()
def intervals(model: SequenceModel, spend: np.ndarray, logits: np.ndarray, months: int) -> np.ndarray:
    """The interval of the sum of the first `months` months, float64 (n, 2), of calibrated spend (n, 12)."""
    total = torch.from_numpy(spend[:, :months].sum(1, keepdims=True).astype(np.float32))
    return model.interval(total, torch.from_numpy(logits), torch.full_like(total, float(months))).double().numpy()


def inside(interval: np.ndarray, actual: np.ndarray) -> float:
    """Share of actual sums within their interval; a hundredth of a unit of money is forgiven."""
    return float(((actual >= interval[:, 0] - 0.01) & (actual <= interval[:, 1] + 0.01)).mean()) if len(actual) else float("nan")


def interval_scale(model: SequenceModel, samples: Samples, spend: np.ndarray, logits: np.ndarray) -> float:
    """The factor on the deviation with which the interval covers `LEVEL` of the slice, by bisection.

    Source: split conformal prediction, Vovk, Gammerman and Shafer (2005).
    """
    months = int(samples.months_seen.min())
    actual = samples.monthly_spend[:, :months].sum(1)
    low, high = 0.2, 4.0
    for _ in range(20):
        middle = (low * high) ** 0.5
        model.interval_scale.fill_(middle)
        low, high = (middle, high) if inside(intervals(model, spend, logits, months), actual) < LEVEL else (low, middle)
    return (low * high) ** 0.5


def churn_rows(samples: Samples, horizon_days: int) -> np.ndarray:
    """bool (n,): active customers whose horizon is known."""
    return samples.active & (samples.observed_days >= horizon_days)


def calibrate(model: SequenceModel, samples: Samples) -> dict[str, float | list[float]]:
    """Set the model's calibration on a slice that it was not trained on, and measure it there.

    Half of the customers set, the other half measures, and the other way round; then all set.

    Returns:
        `ece`, `auc` and `churned` at the longest horizon, `bias` of the sum, `coverage` of the interval: all on customers that did not set
        them, except the auc, which needs no setting; and what was set.
    """
    found = raw(model, samples)
    half = samples.customer % 2 == 0
    months = int(samples.months_seen.min())
    actual = samples.monthly_spend[:, :months].sum(1)
    stated, sums, covered = np.full(len(samples), np.nan), np.full(len(samples), np.nan), []
    for part in (half, ~half):
        _set(model, samples.take(np.flatnonzero(~part)), Raw(found.log_odds[~part], found.spend[~part], found.interval[~part]))
        slope, intercept = float(model.churn_slope[-1]), float(model.churn_intercept[-1])
        stated[part] = 1.0 / (1.0 + np.exp(-(slope * found.log_odds[part, -1] + intercept)))
        spend = found.spend[part] * float(model.spend_scale)
        sums[part] = spend[:, :months].sum(1)
        covered.append((inside(intervals(model, spend, found.interval[part], months), actual[part]), int(part.sum())))
    _set(model, samples, found)
    rows = churn_rows(samples, HORIZONS_DAYS[-1])
    label = samples.churned(HORIZONS_DAYS[-1])[rows]
    return {
        "ece": metrics.ece(stated[rows], label),
        "auc": auc(found.log_odds[rows, -1], label),
        "churned": float(label.mean()) if len(label) else float("nan"),
        "bias": float(sums.sum() / actual.sum() - 1.0) if actual.sum() > 0 else float("nan"),
        "coverage": float(sum(c * n for c, n in covered if n) / max(sum(n for _, n in covered), 1)),
        "slope": model.churn_slope.tolist(),
        "intercept": model.churn_intercept.tolist(),
        "spend_scale": float(model.spend_scale),
        "interval_scale": float(model.interval_scale),
    }


def _set(model: SequenceModel, samples: Samples, found: Raw) -> None:
    for i, horizon in enumerate(HORIZONS_DAYS):
        rows = churn_rows(samples, horizon)
        if rows.any():
            slope, intercept = platt(found.log_odds[rows, i], samples.churned(horizon)[rows])
            model.churn_slope[i], model.churn_intercept[i] = slope, intercept
    model.spend_scale.fill_(spend_scale(samples, found.spend))
    if len(samples):
        model.interval_scale.fill_(interval_scale(model, samples, found.spend * float(model.spend_scale), found.interval))


def auc(score: np.ndarray, label: np.ndarray) -> float:
    """Area under the ROC curve; not a number where one class is missing."""
    from scipy.stats import rankdata

    ones = int(label.sum())
    zeros = len(label) - ones
    if not ones or not zeros:
        return float("nan")
    return float((rankdata(score)[label].sum() - ones * (ones + 1) / 2) / (ones * zeros))
