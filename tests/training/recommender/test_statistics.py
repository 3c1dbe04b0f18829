"""Statistics of the catalogue: small cases worked out another way, and nothing that comes after the moment."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

from features.definitions import DAY_S
from features.pairs import SHARE_FLOOR, TEXT_SIZE, ItemStats
from training.recommender import statistics
from training.recommender.candidates import Histories
from training.recommender.data import Dataset, Log
from training.recommender.statistics import Statistics

SHARES_AND_FIRST = {"shares", "first_seen"}


def log_of(*rows: tuple[int, int, float]) -> Log:
    """From (customer, reward, day)."""
    customer, item, day = (np.array(column) for column in zip(*sorted(rows, key=lambda r: (r[0], r[2], r[1])), strict=True))
    people = int(customer.max()) + 1
    names = pa.table({"business_id": ["biz-1"] * people, "customer_id": [f"c{i}" for i in range(people)]})
    starts = np.searchsorted(customer, np.arange(people + 1))
    return Log(customer, item, day * DAY_S, starts, names, np.zeros(people, np.int64), np.ones(len(item), bool))


def everything(log: Log) -> np.ndarray:
    return np.ones(len(log.item), dtype=bool)


# --- each statistic by itself ---


def test_ease_is_the_ridge_regression_of_each_reward_on_the_others() -> None:
    x = (np.random.default_rng(0).random((30, 7)) < 0.4).astype(np.float32)
    found, ridge = statistics.ease(sparse.csr_matrix(x), 3.0), 3.0
    for j in range(7):
        others = np.delete(np.arange(7), j)
        a = x[:, others].astype(np.float64)
        expected = np.linalg.solve(a.T @ a + ridge * np.eye(6), a.T @ x[:, j])
        np.testing.assert_allclose(found[others, j], expected, atol=1e-5)
    assert (np.diag(found) == 0).all()
    assert found.dtype == np.float32


def test_cosine_neighbours_shrink_what_was_seen_rarely() -> None:
    x = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]], np.float32)
    found = statistics.cosine_neighbours(sparse.csr_matrix(x), shrink=2.0).toarray()
    assert found[0, 1] == pytest.approx(2 / (np.sqrt(3 * 2) + 2))
    assert found[1, 0] == found[0, 1]
    assert (np.diag(found) == 0).all()
    assert (found[2] == 0).all()
    assert not statistics.cosine_neighbours(sparse.csr_matrix((4, 3), dtype=np.float32)).nnz


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_the_strongest_are_those_with_the_largest_absolute_value(kind: type) -> None:
    weights = np.array([[0, 0.1, -0.9, 0.5], [0, 0, 0, 0.2]], np.float32)
    weights = np.vstack([weights, np.zeros((2, 4), np.float32)])
    columns, values = statistics.strongest(kind(weights), 2)
    assert columns.shape == values.shape == (4, 2)
    assert dict(zip(columns[0].tolist(), values[0].tolist(), strict=True)) == pytest.approx({2: -0.9, 3: 0.5})
    assert sorted(values[1].tolist()) == pytest.approx([0, 0.2])
    assert (values[2:] == 0).all()
    whole, _ = statistics.strongest(kind(weights), 99)
    assert sorted(whole[0].tolist()) == [0, 1, 2, 3]


def test_followers_come_at_the_next_moment_more_often_than_expected() -> None:
    first = [(c, 0, 1.0) for c in range(3)] + [(c, 2, 1.2) for c in range(3)] + [(c, 1, 5.0) for c in range(3)]
    second = [(c, 3, 1.0) for c in range(3, 6)] + [(c, 4, 9.0) for c in range(3, 6)]
    once = [(6, 3, 1.0), (6, 1, 2.0)]
    log = log_of(*first, *second, *once)
    columns, lifts = statistics.followers(log, everything(log), 5, 3)
    found = [dict(zip(c.tolist(), v.tolist(), strict=True)) for c, v in zip(columns, lifts, strict=True)]
    share_b, share_e = (4 + 1e-3) / 7, (3 + 1e-3) / 7
    assert found[0][1] == pytest.approx(np.log((3 + 5 * share_b) / (8 * share_b)), rel=1e-5)
    assert found[2] == pytest.approx(found[0])  # the same day is the same moment: 2 leads to 1 as 0 does, and 0 not to 2
    assert found[3][4] == pytest.approx(np.log((3 + 5 * share_e) / (9 * share_e)), rel=1e-5)
    assert sum(v > 0 for v in found[3].values()) == 1  # 3 to 1 was seen once: says nothing
    assert not any(found[1].values())
    assert not any(found[4].values())


def test_followers_of_nothing() -> None:
    log = log_of((0, 0, 1.0), (1, 1, 2.0))
    for mask in (everything(log), ~everything(log)):
        assert not statistics.followers(log, mask, 2, 2)[1].any()


def test_rhythm_is_who_came_again_and_after_how_long() -> None:
    rows = [(0, 0, 10.0 * i) for i in range(5)] + [(1, 0, 3.0)] + [(2, 1, 40.0 * i) for i in range(6)] + [(1, 2, 9.0)]
    log = log_of(*rows, (3, 2, 9.0), (3, 2, 9.0))  # twice at one instant is not again
    again, gap = statistics.rhythm(log, everything(log), 4)
    overall, prior = 40.0, (2 + 1) / (5 + 2)
    assert again == pytest.approx([(1 + 5 * prior) / 7, (1 + 5 * prior) / 6, 5 * prior / 7, prior], rel=1e-6)
    assert gap == pytest.approx([np.median([10] * 4 + [overall] * 3), 40, overall, overall])
    some = log.time < 5 * DAY_S
    assert statistics.rhythm(log, some, 4)[1] == pytest.approx([30] * 4)  # nobody came again: 30 days are supposed


def test_part_lift_is_drawn_to_nothing_where_few_were_seen() -> None:
    mornings = [(c, 0, c + 8 / 24) for c in range(20)]
    evenings = [(c, 1, c + 19 / 24) for c in range(20)]
    log = log_of(*mornings, *evenings, (0, 2, 0.8))
    found = statistics.part_lift(log, everything(log), 4)
    morning = (20 + 1) / (41 + 4)
    assert found[0, 0] == pytest.approx(np.log((20 + 20 * morning) / 40 / morning), rel=1e-5)
    assert found[0, 0] > 0.3 > 0 > found[0, 2]
    assert found[1, 2] > 0.3
    assert 0 < found[2, 2] < 0.1
    assert found[3] == pytest.approx(np.zeros(4), abs=1e-6)


def test_text_axes_keep_the_angles() -> None:
    rng = np.random.default_rng(4)
    vectors = np.zeros((9, 50))
    vectors[:8] = np.vstack([rng.normal(size=(4, 50))] * 2)
    vectors[4:8] *= -1
    found = statistics.text_axes(vectors)  # the mean is zero, and the last text is the mean
    length = np.linalg.norm(vectors[:8], axis=1)
    np.testing.assert_allclose(found[:8] @ found[:8].T, vectors[:8] @ vectors[:8].T / np.outer(length, length), atol=1e-5)
    assert found.shape == (9, TEXT_SIZE)
    assert np.abs(found[8]).max() < 1e-3
    assert statistics.text_axes(vectors, 2).shape == (9, 2)


# --- all together, as of a day ---


def changed(log: Log, late: np.ndarray) -> list[Log]:
    """The log without the late rows, and with other rewards in them."""
    other = log.item.copy()
    other[late] = (other[late] + 5) % 12
    return [log.without(late), replace(log, item=other)]


def differing(a: ItemStats, b: ItemStats, as_of: float) -> set[str]:
    """Names of the arrays that differ; a reward first seen after the moment is as one never seen (`item_age` is 0 for both)."""
    pairs = {name: (value, getattr(b, name)) for name, value in a.arrays().items()}
    pairs["first_seen"] = tuple(np.where(x < as_of, x, np.inf) for x in pairs["first_seen"])  # type: ignore[assignment]
    return {name for name, (x, y) in pairs.items() if not np.array_equal(x, y, equal_nan=True)}


def test_nothing_after_the_day_is_known(dataset: Dataset) -> None:
    log, until = dataset.log, dataset.cuts.validation_from
    for days in (0.3, 5.6, 20.0, 30.0, 400.0):
        as_of = float(until[0]) + days * DAY_S
        here = Statistics(dataset.catalogue, log, until).at(as_of)
        for other in changed(log, log.time >= as_of // DAY_S * DAY_S):
            assert differing(here, Statistics(dataset.catalogue, other, until).at(as_of), as_of) == set(), days


def test_what_comes_between_changes_the_shares_only(dataset: Dataset) -> None:
    log, until = dataset.log, dataset.cuts.validation_from
    as_of = float(until[0]) + 10 * DAY_S
    here = Statistics(dataset.catalogue, log, until).at(as_of)
    for other in changed(log, (log.time >= until[0]) & (log.time < as_of)):
        found = differing(here, Statistics(dataset.catalogue, other, until).at(as_of), as_of)
        assert "shares" in found
        assert found <= SHARES_AND_FIRST


def test_what_came_before_is_known(dataset: Dataset) -> None:
    """Negative control of the two tests above."""
    log, until = dataset.log, dataset.cuts.validation_from
    as_of = float(until[0]) + 10 * DAY_S
    here = Statistics(dataset.catalogue, log, until).at(as_of)
    learned = {"weights", "follow", "repeat_share", "gap_days", "part_lift", "category_share", "shares"}
    for other in changed(log, log.time < until[0] - 30 * DAY_S):
        assert differing(here, Statistics(dataset.catalogue, other, until).at(as_of), as_of) >= learned


def test_shares_are_a_slow_count_of_whole_days(dataset: Dataset) -> None:
    log = dataset.log
    known = Statistics(dataset.catalogue, log, dataset.cuts.validation_from)
    for as_of in (log.time.min() - 5 * DAY_S, dataset.cuts.test_from[0], log.time.max() + DAY_S, log.time.max() + 12.5 * DAY_S):
        day = as_of // DAY_S * DAY_S
        for row, window in enumerate((7, 30, 90)):
            mine = log.item[(log.time < day) & (log.time >= day - window * DAY_S)]
            expected = np.log(np.bincount(mine, minlength=12) / max(len(mine), 1) + SHARE_FLOOR)
            np.testing.assert_allclose(known.at(float(as_of)).shares[row], expected, rtol=1e-5)
    assert known.at(float(as_of)) is known.at(float(as_of // DAY_S * DAY_S))  # kept for the day
    for number in range(80):  # and not for ever
        known.at(float(log.time.min()) + number * DAY_S)
    assert len(known._cache) <= 65


def test_a_reward_is_first_seen_at_its_start_or_first_redemption(dataset: Dataset) -> None:
    found = Statistics(dataset.catalogue, dataset.log, dataset.cuts.test_from).at(float(dataset.cuts.test_from[0]))
    assert found.first_seen[10] == dataset.catalogue.valid_from[10]
    assert found.first_seen[3] == dataset.log.time[dataset.log.item == 3].min()
    assert found.category.tolist() == [0, 1, 2] * 4
    assert np.isnan(found.difficulty).all()
    assert found.points[4] == pytest.approx(np.log1p(104))


def test_a_large_catalogue_takes_the_cosine(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    until = dataset.cuts.test_from
    binary = statistics.interactions(dataset.log, statistics.visible(dataset.log, until), 12)
    binary.data[:] = 1.0
    ways = {12: statistics.ease(binary, 200.0), 11: statistics.cosine_neighbours(binary).toarray()}
    for limit, expected in ways.items():
        monkeypatch.setattr(statistics, "EASE_LIMIT", limit)
        found = Statistics(dataset.catalogue, dataset.log, until, neighbours=12).at(float(until[0]))
        dense = np.zeros((12, 12), np.float32)
        np.put_along_axis(dense, found.neighbours.astype(np.int64), found.weights, axis=1)
        np.testing.assert_allclose(dense, expected, atol=1e-6)


def test_the_ridge_is_that_with_which_the_neighbours_alone_rank_best(dataset: Dataset) -> None:
    grid, queries, until = (1.0, 50.0, 5_000.0), dataset.validation, dataset.cuts.validation_from
    allowed = queries.candidates(dataset.catalogue, np.arange(len(queries)))
    binary = statistics.interactions(dataset.log, statistics.visible(dataset.log, until), 12)
    binary.data[:] = 1.0

    def slow(ridge: float) -> float:
        """NDCG@10 of what is redeemed, each reward of a history counting once as in the ranker's affinity."""
        weights, total = statistics.ease(binary, ridge), 0.0
        for q in range(len(queries)):
            had = Histories(queries.log).before(int(queries.customer[q]), float(queries.as_of[q])).rows
            score = np.where(allowed[q], weights[had].sum(axis=0), -np.inf)
            place = np.argsort(np.argsort(-score, kind="stable"))
            mine = place[queries.items[queries.indptr[q] : queries.indptr[q + 1]]]
            ideal = (1 / np.log2(np.arange(min(len(mine), 10)) + 2)).sum()
            total += (1 / np.log2(mine[mine < 10] + 2)).sum() / ideal
        return total / len(queries)

    values = {ridge: slow(ridge) for ridge in grid}
    best = statistics.choose_ridge(dataset.catalogue, dataset.log, until, queries, grid)
    assert values[best] == pytest.approx(max(values.values()))
    assert max(values.values()) > min(values.values())  # the control: the choice matters


def test_a_catalogue_too_large_to_invert_takes_the_middle_of_the_grid(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "EASE_LIMIT", 11)
    asked = (dataset.catalogue, dataset.log, dataset.cuts.validation_from, dataset.validation)
    assert statistics.choose_ridge(*asked, (500.0, 20.0, 100.0)) == 100.0
    assert statistics.choose_ridge(*asked, (7.0,)) == 7.0
