"""Intervals of a ratio of sums over independent groups. NumPy only: the serving path may load it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
_MOST_GROUPS = 16_384
_BLOCK = 2**21
_COUNT_OF = np.searchsorted(
    np.cumsum([math.exp(-1.0) / math.factorial(k) for k in range(12)]), (np.arange(2**16) + 0.5) / 2**16, side="right"
).astype(np.float64)


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return {"value": round(self.value, 6), "low": round(self.low, 6), "high": round(self.high, 6)}


def group_sums(columns: np.ndarray, group: np.ndarray | None) -> np.ndarray:
    """Sums of the columns by group.

    Args:
        columns: float64 (N, C), a row an observation.
        group: (N,) which observations belong together (one customer's), or None where each stands alone.

    Returns:
        float64 (G, C).
    """
    if group is None:
        return np.asarray(columns, dtype=np.float64)
    _, index = np.unique(group, return_inverse=True)
    return np.stack([np.bincount(index, weights=columns[:, c]) for c in range(columns.shape[1])], axis=1)


def studentised(terms: np.ndarray, resamples: int, seed: int) -> Interval:
    """Interval of sum(A) / sum(B) by the studentised bootstrap.

    Each resample is centred and scaled by its own standard error, which follows a skewed statistic (rare rewards under large weights) where
    a normal interval stops short on the long side.

    Args:
        terms: float64 (G, 2), A and B of each independent group.
        resamples: bootstrap resamples; counts are Poisson(1), so a ratio needs no resample of exactly G groups.

    Returns:
        The ratio with its interval; a limit is infinite where the resamples do not bound it (a handful of rewards).

    Source: Efron and Tibshirani (1993), chapter 12; Poisson counts: Hanley and MacGibbon (2006).
    """
    terms = _at_most(terms, _MOST_GROUPS, seed)
    a, b = terms[:, 0], terms[:, 1]
    value, error = a.sum() / b.sum(), standard_error(terms)
    if error == 0.0:
        return Interval(float(value), float(value), float(value))
    rest = a - value * b
    columns = np.stack([rest, b, rest * rest, rest * b, b * b], axis=1)
    rng = np.random.default_rng(seed)
    sums = np.concatenate([poisson_counts(rng, k, len(a)) @ columns for k in _blocks(resamples, max(1, _BLOCK // len(a)))])
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = sums[:, 0] / sums[:, 1]
        spread = np.sqrt(np.maximum(sums[:, 2] - 2 * moved * sums[:, 3] + moved**2 * sums[:, 4], 0.0)) / sums[:, 1]
        t = np.where(spread > 1e-12 * error, moved / spread, np.sign(moved) * np.inf)
    low, high = np.quantile(t[~np.isnan(t)], [(1 + LEVEL) / 2, (1 - LEVEL) / 2], method="inverted_cdf")
    return Interval(float(value), float(value - low * error), float(value - high * error))


def poisson_counts(rng: np.random.Generator, resamples: int, groups: int) -> np.ndarray:
    """How often each group is in each resample: Poisson(1), float64 (R, G), by a table of 65,536 quantiles (several times faster)."""
    return _COUNT_OF[rng.integers(0, len(_COUNT_OF), size=(resamples, groups), dtype=np.uint16)]


def standard_error(terms: np.ndarray) -> float:
    """Standard error of sum(A) / sum(B) over independent groups, by linearisation (delta method)."""
    a, b = terms[:, 0], terms[:, 1]
    rest = a - a.sum() / b.sum() * b
    return float(np.sqrt((rest**2).sum() * len(a) / max(len(a) - 1, 1)) / abs(b.sum()))


def bernstein(terms: np.ndarray, span: float) -> Interval:
    """Interval of sum(A) / sum(B) that holds for any distribution of bounded terms; wide, and never empty.

    Args:
        terms: float64 (G, 2), A and B of each independent group.
        span: largest minus smallest possible A of one group, in units of the mean B.

    Source: empirical Bernstein bound, Maurer and Pontil (2009), theorem 4, both sides.
    """
    groups = len(terms)
    value = terms[:, 0].sum() / terms[:, 1].sum()
    reach = math.log(4 / (1 - LEVEL))
    half = math.sqrt(2 * reach) * standard_error(terms) + 7 * span * reach / (3 * max(groups - 1, 1))
    return Interval(float(value), float(value - half), float(value + half))


def _at_most(terms: np.ndarray, groups: int, seed: int) -> np.ndarray:
    """The same total in fewer groups: sums of independent groups, put together at random, are independent too."""
    if len(terms) <= groups:
        return terms
    place = np.random.default_rng([seed, len(terms)]).permutation(len(terms)) % groups
    return np.stack([np.bincount(place, weights=terms[:, c], minlength=groups) for c in range(terms.shape[1])], axis=1)


def _blocks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]
