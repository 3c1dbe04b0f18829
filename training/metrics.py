"""How good a ranking or a probability is, with intervals. NumPy only, vectorised over queries.

A *query* is one customer at one as-of time with one or more relevant items. The functions take *hits*: for each (query, relevant item)
pair its query number and its rank (1 = best). Ties get the average rank, so a constant score earns what a random order would, not the
luck of the order of the catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata


def ranks(scores: np.ndarray, candidates: np.ndarray, relevant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank of every relevant item among the candidates of its query.

    Args:
        scores: float (Q, N), higher is better.
        candidates: bool (Q, N), items that may be shown.
        relevant: bool (Q, N); a relevant item counts as a candidate.

    Returns:
        query int64 (M,) ascending and rank float64 (M,), from 1; tied items share their average rank.
    """
    masked = np.where(candidates | relevant, scores.astype(np.float64), -np.inf)
    places = rankdata(-masked, method="average", axis=1)
    query, item = np.nonzero(relevant)
    return query.astype(np.int64), places[query, item]


def ndcg(query: np.ndarray, rank: np.ndarray, queries: int, k: int) -> np.ndarray:
    """NDCG@k with binary relevance, float64 (Q,): discounted hits in the first k, divided by the best possible.

    Source: Järvelin and Kekäläinen (2002), discount 1 / log2(1 + rank).
    """
    gained = np.bincount(query, weights=np.where(rank <= k, 1.0 / np.log2(1.0 + rank), 0.0), minlength=queries)
    best = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(1.0 + np.arange(1, k + 1)))])
    relevant = np.minimum(np.bincount(query, minlength=queries), k)
    return _divide(gained, best[relevant])


def recall(query: np.ndarray, rank: np.ndarray, queries: int, k: int) -> np.ndarray:
    """Share of a query's relevant items among its first k, float64 (Q,)."""
    return _divide(np.bincount(query, weights=rank <= k, minlength=queries), np.bincount(query, minlength=queries))


def mrr(query: np.ndarray, rank: np.ndarray, queries: int) -> np.ndarray:
    """One over the rank of a query's best relevant item, float64 (Q,)."""
    out = np.zeros(queries)
    np.maximum.at(out, query, 1.0 / rank)
    return out


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros(len(a), dtype=np.float64), where=b > 0)


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return {"value": round(self.value, 6), "low": round(self.low, 6), "high": round(self.high, 6)}


def bootstrap_means(values: np.ndarray, groups: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means of the columns over resampled groups (customers), so that one busy customer does not count as many.

    Args:
        values: float (Q, C), one row a query, one column a quantity.
        groups: int (Q,), which group each row belongs to.

    Returns:
        float64 (R, C): column means of each of the R resamples. Columns of one row are resampled together: differences are paired.

    Source: cluster bootstrap, Davison and Hinkley (1997).
    """
    _, group = np.unique(groups, return_inverse=True)
    n = int(group.max()) + 1
    sums = np.stack([np.bincount(group, weights=values[:, c], minlength=n) for c in range(values.shape[1])], axis=1)
    sizes = np.bincount(group, minlength=n).astype(np.float64)
    rng = np.random.default_rng(seed)
    out = np.empty((resamples, values.shape[1]))
    for r in range(resamples):
        times = np.bincount(rng.integers(0, n, n), minlength=n)
        out[r] = times @ sums / (times @ sizes)
    return out


def interval(value: float, resampled: np.ndarray) -> Interval:
    """The percentile interval of resampled values around the value of the whole sample."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


def ece(probability: np.ndarray, label: np.ndarray, bins: int = 15, weight: np.ndarray | None = None) -> float:
    """Expected calibration error, 0..1: the mean gap between stated and seen frequency over equal-width bins, weighted by bin size.

    Source: Naeini, Cooper and Hauskrecht (2015).
    """
    if len(probability) == 0:
        return 0.0
    w = np.ones(len(probability)) if weight is None else weight
    which = np.minimum((probability * bins).astype(np.int64), bins - 1)
    gap = np.bincount(which, weights=w * (label - probability), minlength=bins)
    return float(np.abs(gap).sum() / w.sum())
