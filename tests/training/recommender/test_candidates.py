"""First stage: who is a candidate, what was known of the customer, and what is the answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from features.pairs import COLUMN, GROUP_COLUMNS, History, ItemStats
from training.recommender.candidates import Candidates, Histories, collect, pick, token_rows
from training.recommender.data import Dataset, Queries, take_index, with_unknown
from training.recommender.statistics import Statistics

N = 12


@pytest.fixture(scope="module")
def known(dataset: Dataset) -> Statistics:
    return Statistics(dataset.catalogue, dataset.validation.log, dataset.cuts.validation_from)


@pytest.fixture(scope="module")
def stats(dataset: Dataset, known: Statistics) -> ItemStats:
    """Reward 7 says something for 9, 10 and, less than nothing, for 11; no other says anything."""
    weights = np.zeros((N, 3), np.float32)
    weights[7] = [0.9, 0.5, -0.3]
    return replace(known.at(float(dataset.cuts.test_from[0])), neighbours=np.tile(np.array([9, 10, 11], np.int32), (N, 1)), weights=weights)


@pytest.fixture(scope="module")
def vectors(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """User vectors of the validation slice and item vectors, length 1, drawn."""
    rng = np.random.default_rng(2)
    users, items = rng.normal(size=(len(dataset.validation), 64)), rng.normal(size=(N, 64))
    return tuple((v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32) for v in (users, items))  # type: ignore[return-value]


def found(
    dataset: Dataset, known: Statistics, vectors: tuple[np.ndarray, np.ndarray], most: int, queries: Queries | None = None
) -> Candidates:
    queries = queries or dataset.validation
    tokens = token_rows(dataset.catalogue, len(dataset.vocabulary))
    return collect(queries, queries.log, dataset.catalogue, known, *vectors, tokens, most)


def history(*rows: int) -> History:
    return History.of(np.array(rows, np.int64), np.arange(len(rows)) * 1e6)


COSINE = -np.arange(N, dtype=np.float32)
ALLOWED = ~np.isin(np.arange(N), [0, 9])


def test_the_nearest_allowed_ones_the_own_and_their_neighbours(stats: ItemStats) -> None:
    assert pick(COSINE, ALLOWED, history(), stats, 3).tolist() == [1, 2, 3]
    assert pick(COSINE, ALLOWED, history(7), stats, 3).tolist() == [1, 2, 3, 7, 10]  # 9 is not allowed, 11 is unlikely
    assert pick(COSINE, ALLOWED, history(9), stats, 3).tolist() == [1, 2, 3]
    assert pick(COSINE, np.ones(N, bool), history(9, 2), stats, 3).tolist() == [0, 1, 2, 9]


@pytest.mark.parametrize("most", [10, 11, 99])
def test_a_small_catalogue_is_taken_whole(stats: ItemStats, most: int) -> None:
    assert pick(COSINE, ALLOWED, history(7), stats, most).tolist() == np.flatnonzero(ALLOWED).tolist()
    assert pick(COSINE, np.zeros(N, bool), history(7), stats, most).tolist() == []


def test_a_history_ends_strictly_before_the_moment(dataset: Dataset) -> None:
    log, histories = dataset.log, Histories(dataset.log)
    for customer in (0, 7, len(log.customers) - 1):
        mine = slice(log.starts[customer], log.starts[customer + 1])
        moment = float(log.time[mine][len(log.time[mine]) // 2])
        before = log.time[mine] < moment
        for at, kept in ((moment, before), (np.nextafter(moment, np.inf), log.time[mine] <= moment)):
            here, expected = histories.before(customer, at), History.of(log.item[mine][kept], log.time[mine][kept])
            for name in ("rows", "count", "first", "last"):
                np.testing.assert_array_equal(getattr(here, name), getattr(expected, name))
        assert histories.before(customer, moment).count.sum() < histories.before(customer, float(np.nextafter(moment, np.inf))).count.sum()
    assert not len(histories.before(0, -np.inf).rows)
    assert not len(histories.before(-1, np.inf).rows)


def test_every_answer_is_a_candidate_where_all_are_taken(
    dataset: Dataset, known: Statistics, vectors: tuple[np.ndarray, np.ndarray]
) -> None:
    queries, told = dataset.validation, []
    tokens = token_rows(dataset.catalogue, len(dataset.vocabulary))
    whole = collect(queries, queries.log, dataset.catalogue, known, *vectors, tokens, 400, lambda done, most: told.append((done, most)))
    allowed = queries.candidates(dataset.catalogue, np.arange(len(queries)))
    relevant = queries.relevant(np.arange(len(queries)), N)
    for q in range(len(queries)):
        part = slice(whole.indptr[q], whole.indptr[q + 1])
        assert whole.rows[part].tolist() == np.flatnonzero(allowed[q]).tolist()
        assert whole.redeemed[part].tolist() == relevant[q, whole.rows[part]].tolist()
    assert whole.redeemed.sum() == relevant.sum()
    np.testing.assert_array_equal(np.bincount(whole.query(), minlength=len(whole)), np.diff(whole.indptr))
    assert told[-1] == (len(queries), len(queries))
    cosine = (vectors[0][whole.query()] * vectors[1][whole.rows]).sum(axis=1)
    np.testing.assert_allclose(whole.pairs[:, COLUMN["cosine"]], cosine, atol=1e-6)


def test_few_candidates_are_the_nearest_and_what_the_customer_had(
    dataset: Dataset, known: Statistics, vectors: tuple[np.ndarray, np.ndarray]
) -> None:
    queries, few = dataset.validation, found(dataset, known, vectors, 2)
    cosine, allowed = vectors[0] @ vectors[1].T, queries.candidates(dataset.catalogue, np.arange(len(queries)))
    assert len(few.rows) < allowed.sum()
    for q in range(0, len(queries), 7):
        rows = few.rows[few.indptr[q] : few.indptr[q + 1]]
        nearest = np.argsort(-np.where(allowed[q], cosine[q], -np.inf))[:2]
        had = Histories(queries.log).before(int(queries.customer[q]), float(queries.as_of[q])).rows
        assert set(nearest) | {r for r in had if allowed[q, r]} <= set(rows)
        assert allowed[q, rows].all()


def test_an_unknown_customer_has_the_nearest_only(dataset: Dataset, known: Statistics, vectors: tuple[np.ndarray, np.ndarray]) -> None:
    queries = dataset.validation
    nobody = take_index(with_unknown(queries, 1.0, 0), np.arange(len(queries), 2 * len(queries)))
    assert (nobody.customer == -1).all()
    few, control = found(dataset, known, vectors, 3, nobody), found(dataset, known, vectors, 3)
    assert (np.diff(few.indptr) == 3).all()
    for group in ("again", "neighbours", "offer"):
        assert (few.pairs[:, GROUP_COLUMNS[group]] == 0).all()
        assert control.pairs[:, GROUP_COLUMNS[group]].any()
    labelled = [queries.items[queries.indptr[q] : queries.indptr[q + 1]] for q in few.query()]
    assert few.redeemed.tolist() == [row in items for row, items in zip(few.rows, labelled, strict=True)]


def test_tokens_lead_to_rows_and_unknown_ones_nowhere(dataset: Dataset) -> None:
    (rows,) = token_rows(dataset.catalogue, len(dataset.vocabulary))
    assert rows[:2].tolist() == [-1, -1]
    ids = dataset.catalogue.item_ids[:, 0]
    for row, token in enumerate(ids):
        assert token <= 1 or rows[token] == row
    assert (rows >= 0).sum() == (ids > 1).sum()
