"""How much of the exact answer an index finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from contracts.errors import ShapeError
from embeddings.index import Filter, RewardIndex, exact_search

TIE = 1e-5
"""Scores this near each other count as equal: float32 sums in another order differ by about 1e-6."""


class Recall(NamedTuple):
    """`mean` over the queries that are owed anything, 0..1; `worst` of them; `n` of them."""

    mean: float
    worst: float
    n: int


def recall_at_k(index: RewardIndex, user_vectors: np.ndarray, k: int, filters: Sequence[Filter], tie: float = TIE) -> Recall:
    """Share of the exact k best allowed rows that the index returns; among equal scores any choice is right.

    A returned row counts when it is allowed and its *true* score is at least the exact k-th best, less `tie`. So an index that picks
    another of two equal rows loses nothing, and one that returns the same row twice gains nothing.

    Args:
        user_vectors: float32 (B, D); filters: B of them.

    Returns:
        nan as the mean and the worst where no query is owed anything.

    Source: the idea of comparing neighbours by distance rather than by id is FAISS's contrib/evaluation.py.
    """
    shares = []
    for vector, query, found in zip(user_vectors, filters, index.search(user_vectors, k, filters), strict=True):
        allowed = index.allowed_rows(query)
        if len(allowed):
            shares.append(tie_aware_recall(index.vectors, allowed, vector, found.rows, k, tie))
    if not shares:
        return Recall(float("nan"), float("nan"), 0)
    return Recall(float(np.mean(shares)), float(np.min(shares)), len(shares))


def tie_aware_recall(vectors: np.ndarray, allowed: np.ndarray, vector: np.ndarray, found: np.ndarray, k: int, tie: float = TIE) -> float:
    """The same for one answer: `allowed` and `found` are rows, int64.

    Raises:
        ShapeError: nothing is allowed, so there is no answer to compare with.
    """
    if not len(allowed):
        raise ShapeError("no row is allowed, recall needs at least one. Leave such queries out.")
    exact = exact_search(vectors, allowed, vector, k)
    good = np.intersect1d(found, allowed)
    scores = np.einsum("nd,d->n", vectors[good], vector)
    hits = int((scores >= exact.scores[-1] - tie).sum())
    return min(hits, len(exact.rows)) / len(exact.rows)
