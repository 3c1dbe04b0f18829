"""Metrics against a slow second implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training import metrics


@st.composite
def rankings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    queries, items = draw(st.integers(1, 5)), draw(st.integers(1, 15))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = rng.permuted(np.tile(np.arange(items, dtype=np.float64), (queries, 1)), axis=1)
    relevant = rng.random((queries, items)) < 0.3
    return scores, rng.random((queries, items)) < 0.8, relevant


def slow_ranks(scores: np.ndarray, candidates: np.ndarray, relevant: np.ndarray) -> list[list[int]]:
    out = []
    for s, c, r in zip(scores, candidates, relevant, strict=True):
        order = sorted((i for i in range(len(s)) if c[i] or r[i]), key=lambda i: -s[i])
        out.append([place + 1 for place, i in enumerate(order) if r[i]])
    return out


@settings(max_examples=60, deadline=None)
@given(rankings(), st.integers(1, 12))
def test_ranking_metrics_equal_a_slow_implementation(case: tuple[np.ndarray, np.ndarray, np.ndarray], k: int) -> None:
    query, rank = metrics.ranks(*case)
    n = len(case[0])
    for q, mine in enumerate(slow_ranks(*case)):
        best = sum(1 / math.log2(1 + i) for i in range(1, min(len(mine), k) + 1))
        assert metrics.ndcg(query, rank, n, k)[q] == pytest.approx(
            sum(1 / math.log2(1 + r) for r in mine if r <= k) / best if mine else 0.0
        )
        assert metrics.recall(query, rank, n, k)[q] == pytest.approx(sum(r <= k for r in mine) / len(mine) if mine else 0.0)
        assert metrics.mrr(query, rank, n)[q] == pytest.approx(1 / min(mine) if mine else 0.0)


@settings(max_examples=30, deadline=None)
@given(rankings(), st.integers(0, 1000))
def test_the_order_of_the_catalogue_does_not_matter_even_with_ties(case: tuple[np.ndarray, np.ndarray, np.ndarray], seed: int) -> None:
    scores, candidates, relevant = case
    scores = np.floor(scores / 3)
    order = np.random.default_rng(seed).permutation(scores.shape[1])
    plain = metrics.ranks(scores, candidates, relevant)
    mixed = metrics.ranks(scores[:, order], candidates[:, order], relevant[:, order])
    for name in ("ndcg", "recall"):
        a, b = (getattr(metrics, name)(*r, len(scores), 10) for r in (plain, mixed))
        np.testing.assert_allclose(a, b)
        assert (a <= 1 + 1e-12).all()


def test_constant_scores_earn_the_average_rank() -> None:
    _, rank = metrics.ranks(np.zeros((1, 9)), np.ones((1, 9), bool), np.eye(9, dtype=bool)[:1])
    assert rank.tolist() == [5.0]


def test_bootstrap_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(60):
        offsets = rng.normal(size=80)  # queries of one customer resemble each other
        groups = np.repeat(np.arange(80), 5)
        values = (offsets[groups] + 0.1 * rng.normal(size=400))[:, None]
        found = metrics.interval(values.mean(), metrics.bootstrap_means(values, groups, 200, trial)[:, 0])
        covered += found.low <= 0 <= found.high
    assert covered >= 50
    alone = metrics.bootstrap_means(values, np.arange(400), 200, 1)[:, 0]
    assert alone.std() < 0.7 * metrics.bootstrap_means(values, groups, 200, 1)[:, 0].std()  # ignoring customers would promise too much


def test_interval_is_json_ready() -> None:
    assert metrics.interval(0.5, np.linspace(0, 1, 1001)).as_dict() == {"value": 0.5, "low": 0.025, "high": 0.975}


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(0, 10_000))
def test_ece_equals_a_slow_implementation(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, y, w = rng.random(n), (rng.random(n) < 0.4).astype(float), rng.random(n) + 0.1
    total = 0.0
    for b in range(15):
        mine = [i for i in range(n) if min(int(p[i] * 15), 14) == b]
        if mine:
            weight = sum(w[i] for i in mine)
            gap = sum(w[i] * p[i] for i in mine) / weight - sum(w[i] * y[i] for i in mine) / weight
            total += weight * abs(gap)
    assert metrics.ece(p, y, weight=w) == pytest.approx(total / w.sum())


def test_ece_is_small_for_true_probabilities_and_large_for_wrong_ones() -> None:
    rng = np.random.default_rng(3)
    p = rng.random(50_000)
    y = (rng.random(50_000) < p).astype(float)
    assert metrics.ece(p, y) < 0.01
    assert metrics.ece(1 - p, y) > 0.3
    assert metrics.ece(np.zeros(0), np.zeros(0)) == 0.0
