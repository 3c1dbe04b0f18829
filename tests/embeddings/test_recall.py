"""embeddings/recall.py"""

from __future__ import annotations

import math

import numpy as np
import pytest

from contracts.errors import ShapeError
from embeddings.index import Filter, IndexSettings, RewardIndex, RewardTable, exact_search
from embeddings.recall import recall_at_k, tie_aware_recall


def unit(rng: np.random.Generator, n: int, dim: int = 16) -> np.ndarray:
    x = rng.standard_normal((n, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def index_of(kind: str, **more: object) -> RewardIndex:
    vectors = unit(np.random.default_rng(0), 600)
    table = RewardTable.build([f"r{i}" for i in range(600)], ["b"] * 600, inventory=np.where(np.arange(600) % 10 == 0, 0, -1))
    return RewardIndex(vectors, table, IndexSettings(kind=kind, exact_below=0, **more))  # type: ignore[arg-type]


def test_exact_index_has_recall_one_and_a_lazy_one_less() -> None:
    users, filters = unit(np.random.default_rng(1), 30), [Filter("b", 0.0)] * 30
    assert recall_at_k(index_of("exact"), users, 10, filters) == (1.0, 1.0, 30)
    lazy = recall_at_k(index_of("ivf", nprobe=1, lists=15), users, 10, filters)
    thorough = recall_at_k(index_of("ivf", nprobe=15, lists=15), users, 10, filters)
    assert lazy.mean < thorough.mean == 1.0


def test_queries_that_are_owed_nothing_do_not_count() -> None:
    users = unit(np.random.default_rng(1), 2)
    assert recall_at_k(index_of("exact"), users, 5, [Filter("b", 0.0), Filter("nobody", 0.0)]).n == 1
    nothing = recall_at_k(index_of("exact"), users[:1], 5, [Filter("nobody", 0.0)])
    assert math.isnan(nothing.mean)
    assert nothing.n == 0


def test_any_of_equal_rows_counts_and_no_row_counts_twice_or_unallowed() -> None:
    vectors = np.array([[1, 0], [0, 1], [0, 1], [0, 1]], dtype=np.float32)
    user, allowed = np.array([0, 1], dtype=np.float32), np.array([0, 1, 2])
    recall = lambda *rows: tie_aware_recall(vectors, allowed, user, np.array(rows, dtype=np.int64), 1)  # noqa: E731
    assert recall(1) == recall(2) == 1.0
    assert recall(0) == recall(3) == recall() == 0.0
    assert tie_aware_recall(vectors, allowed, user, np.array([1, 1]), 2) == 0.5
    assert tie_aware_recall(vectors, allowed, user, exact_search(vectors, allowed, user, 3).rows, 3) == 1.0


def test_nothing_allowed_is_refused() -> None:
    with pytest.raises(ShapeError, match="no row is allowed"):
        tie_aware_recall(np.eye(2, dtype=np.float32), np.empty(0, dtype=np.int64), np.ones(2, dtype=np.float32), np.array([0]), 1)
