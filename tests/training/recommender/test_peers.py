"""Each peer against a case worked out another way, and none of them sees what comes after the query."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from training.recommender import data, peers
from training.recommender.data import Dataset


@pytest.fixture(scope="module")
def counts() -> sp.csr_matrix:
    rng = np.random.default_rng(3)
    return sp.csr_matrix((rng.random((30, 7)) < 0.3).astype(np.float32) * rng.integers(1, 4, (30, 7)))


def small(kind: type[peers.Tuned], **grid: tuple[object, ...]) -> peers.Tuned:
    return kind(True, seed=1, grid=grid or {k: v[:1] for k, v in kind.grid.items()})


SMALL: dict[str, Callable[[], peers.Peer]] = {
    "popularity": peers.Popularity,
    "recent_popularity": peers.RecentPopularity,
    "personal_popularity": lambda: small(peers.PersonalPopularity),
    "item_knn": lambda: small(peers.ItemKnn, logs=(True,), k=(5,), shrink=(1.0,)),
    "ials": lambda: small(peers.Ials, factors=(8,), alpha=(5.0,), regularization=(0.1,)),
    "bpr": lambda: small(peers.Bpr, factors=(8,), learning_rate=(0.05,), regularization=(0.01,), folded=(False, True)),
    "ease": lambda: small(peers.Ease, logs=(False,), ridge=(10.0,)),
    "plain_two_tower": lambda: small(peers.PlainTwoTower, epochs=(2,), learning_rate=(0.01,)),
}


@pytest.fixture(scope="module")
def fitted(dataset: Dataset) -> dict[str, peers.Peer]:
    out = {name: make() for name, make in SMALL.items()}
    for peer in out.values():
        peer.fit(dataset)
    return out


def test_ease_is_ridge_regression_of_each_reward_on_all_others(counts: sp.csr_matrix) -> None:
    x, ridge = counts.toarray().astype(np.float64), 2.5
    found = peers.ease_weights(counts, ridge)
    for item in range(x.shape[1]):
        others = np.delete(np.arange(x.shape[1]), item)
        a = x[:, others]
        direct = np.linalg.solve(a.T @ a + ridge * np.eye(len(others)), a.T @ x[:, item])
        np.testing.assert_allclose(found[others, item], direct, atol=1e-5)
        assert found[item, item] == 0.0


def test_neighbours_are_the_largest_cosines() -> None:
    x = sp.csr_matrix(np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1]], dtype=np.float32))
    found = peers.cosine_neighbours(x, 3, 0.0).toarray()
    np.testing.assert_allclose(found, [[0, 2 / np.sqrt(6), 0.5], [2 / np.sqrt(6), 0, 2 / np.sqrt(6)], [0.5, 2 / np.sqrt(6), 0]], rtol=1e-5)
    one = peers.cosine_neighbours(x, 1, 0.0).toarray()
    assert one[0, 2] == 0.0
    assert one[0, 1] == pytest.approx(2 / np.sqrt(6))
    shrunk = peers.cosine_neighbours(x, 3, 1.0).toarray()
    assert shrunk[0, 2] == pytest.approx(1 / (2 + 1))


def test_ials_factors_of_a_customer_solve_the_weighted_least_squares(dataset: Dataset, fitted: dict[str, peers.Peer]) -> None:
    peer = fitted["ials"]
    assert isinstance(peer, peers.Ials)
    history = peers.weighted(peers.histories(dataset.test, np.arange(1), len(dataset.catalogue)), logs=True)
    y = peer.state.item_factors.astype(np.float64)
    confidence = np.where(history.toarray()[0] > 0, 5.0 * history.toarray()[0], 1.0)
    wanted = (history.toarray()[0] > 0).astype(float)
    direct = np.linalg.solve(y.T @ np.diag(confidence) @ y + 0.1 * np.eye(8), y.T @ (confidence * wanted))
    found = peer.predict(peer.state, peer.setting, dataset.test, np.arange(1), peers.histories(dataset.test, np.arange(1), len(y)))
    np.testing.assert_allclose(found[0], y @ direct, rtol=0.02, atol=0.02)  # implicit works in float32


def test_personal_popularity_is_own_counts_then_popularity(dataset: Dataset, fitted: dict[str, peers.Peer]) -> None:
    index = np.arange(20)
    scores = fitted["personal_popularity"].scores(dataset.test, index)
    own = peers.histories(dataset.test, index, len(dataset.catalogue)).toarray()
    popular = dataset.log.counts(len(dataset.catalogue), dataset.cuts.begin * 0, dataset.cuts.test_from)
    for row in range(len(index)):
        order = np.argsort(-scores[row], kind="stable")
        assert (np.diff(own[row][order]) <= 0).all()
        never = order[own[row][order] == 0]
        assert (np.diff(popular[never]) <= 0).all()


def test_histories_count_what_came_before(dataset: Dataset) -> None:
    log, queries, index = dataset.log, dataset.test, np.arange(30)
    found = peers.histories(queries, index, len(dataset.catalogue)).toarray()
    for row, q in enumerate(index):
        before = (log.customer == queries.customer[q]) & (log.time < queries.as_of[q])
        np.testing.assert_array_equal(found[row], np.bincount(log.item[before], minlength=found.shape[1]))


def test_what_a_customer_had_is_lifted_or_put_last() -> None:
    history = sp.csr_matrix(np.array([[0, 3, 1, 0]], dtype=np.float32))
    scores = np.array([[4.0, 1.0, 2.0, 3.0]])
    assert np.argsort(-peers.lifted(scores, history, 0.0))[0].tolist() == [0, 3, 2, 1]
    assert np.argsort(-peers.lifted(scores, history, 10.0))[0].tolist() == [1, 2, 0, 3]
    assert np.argsort(-peers.lifted(scores, history, peers.FILTERED))[0].tolist()[:2] == [0, 3]
    assert peers.unit(np.ones((1, 3))).tolist() == [[0.0, 0.0, 0.0]]


def test_who_has_no_history_gets_popularity(dataset: Dataset, fitted: dict[str, peers.Peer]) -> None:
    nobody = replace(dataset.test, log=dataset.log.without(np.ones(len(dataset.log.item), dtype=bool)))
    popular = fitted["popularity"].scores(dataset.test, np.arange(1))[0]
    for name in ("item_knn", "ials", "bpr", "ease", "plain_two_tower"):
        order = np.argsort(-fitted[name].scores(nobody, np.arange(2))[0], kind="stable")
        assert (np.diff(popular[order]) <= 0).all(), name


@pytest.mark.parametrize("name", SMALL)
def test_nothing_after_the_query_changes_a_score(name: str, dataset: Dataset, fitted: dict[str, peers.Peer]) -> None:
    index = np.arange(0, len(dataset.test), max(1, len(dataset.test) // 25))
    moment = dataset.test.as_of[index].max()
    late = dataset.log.time >= moment - moment % data.DAY_S if name == "recent_popularity" else dataset.log.time >= moment
    item = np.where(late, (dataset.log.item + 1) % len(dataset.catalogue), dataset.log.item)
    # The fit reads only what lies before the test slice, so changed rows of the slice may not move anything for earlier queries.
    changed = replace(dataset.log, item=item)
    other = replace(dataset, log=changed, **{n: replace(getattr(dataset, n), log=changed) for n in ("train", "validation", "test")})
    peer = SMALL[name]()
    peer.fit(other)
    early = np.array([i for i in index if dataset.test.as_of[i] <= moment])
    np.testing.assert_allclose(peer.scores(other.test, early), fitted[name].scores(dataset.test, early), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["item_knn", "ease", "ials", "personal_popularity"])
def test_peers_learn_the_taste(name: str, dataset: Dataset, fitted: dict[str, peers.Peer]) -> None:
    found = peers.goodness(dataset, lambda i: fitted[name].scores(dataset.test, i), dataset.test)
    popular = peers.goodness(dataset, lambda i: fitted["popularity"].scores(dataset.test, i), dataset.test)
    assert found > popular * 1.2


def test_the_best_setting_of_the_grid_is_taken(dataset: Dataset) -> None:
    peer = peers.ItemKnn(True, grid={"logs": (True,), "k": (1, 12), "shrink": (0.0,)})
    peer.fit(dataset)
    alone = []
    for k in (1, 12):
        one = peers.ItemKnn(True, grid={"logs": (True,), "k": (k,), "shrink": (0.0,)})
        one.fit(dataset)
        alone.append(one.chosen["validation_ndcg_at_10"])
    assert peer.chosen["validation_ndcg_at_10"] == pytest.approx(max(alone), abs=1e-6)


def test_a_large_catalogue_goes_without_ease() -> None:
    names = [p.name for p in peers.all_peers(True, 0, peers.EASE_MOST_ITEMS + 1)]
    assert "ease" not in names
    assert tuple(p.name for p in peers.all_peers(True, 0, 10)) != ()
    assert {p.name for p in peers.all_peers(True, 0, 10)} == set(peers.PEERS)
