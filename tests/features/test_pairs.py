"""What the ranker sees of one customer and one reward: small cases by hand, and nothing that depends on the order of the candidates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import ArtifactError
from contracts.tensors import FEATURE_COUNT, PAIR_COUNT
from features.definitions import DAY_S, KIND_CODES, Touch, event_touch
from features.pairs import COLUMN, GROUP_COLUMNS, Context, History, ItemStats, context_of, log_shares, nearest, pair_features, part_of_hour
from features.state import CustomerState, fold, tensors
from features.vocabulary import Vocabulary

NOW = 1_000 * DAY_S
N = 6


def stats(**changes: np.ndarray) -> ItemStats:
    zeros = np.zeros(N, np.float32)
    plain = ItemStats(
        shares=np.full((3, N), -4.0, np.float32), repeat_share=zeros + 0.5, gap_days=zeros + 30, part_lift=np.zeros((N, 4), np.float32),
        first_seen=np.zeros(N), valid_to=np.full(N, np.inf), category=np.array([0, 0, 1, 1, 2, 2], np.int32), category_share=zeros + 1 / 3,
        difficulty=np.array([np.nan, 1, 2, 3, 4, 5], np.float32), points=zeros + np.nan, value=zeros, text=np.eye(N, 32, dtype=np.float32),
        neighbours=np.tile(np.arange(N, dtype=np.int32), (N, 1)), weights=np.roll(np.eye(N, dtype=np.float32), 1, axis=1),
        followers=np.tile(np.arange(N, dtype=np.int32), (N, 1)), follow=np.roll(np.eye(N, dtype=np.float32), 2, axis=1),
    )  # fmt: skip
    return replace(plain, **changes)


def context(**changes: object) -> Context:
    none = np.zeros(0, np.int64)
    return replace(Context(NOW, 0, none, none, np.zeros(0), float("nan")), **changes)  # type: ignore[arg-type]


VECTORS = np.eye(N, 64, dtype=np.float32)
NOBODY = History.of(np.zeros(0, np.int64), np.zeros(0))


def seen(history: History, moment: Context | None = None, found: ItemStats | None = None, rows: np.ndarray | None = None) -> np.ndarray:
    rows = np.arange(N) if rows is None else rows
    return pair_features(rows, VECTORS[rows, 0], history, moment or context(), found or stats(), VECTORS)


def test_every_feature_is_in_one_group() -> None:
    assert sorted(c for columns in GROUP_COLUMNS.values() for c in columns) == list(range(PAIR_COUNT))


def test_somebody_unknown_differs_by_the_reward_only() -> None:
    found = seen(NOBODY)
    for group in ("neighbours", "again", "offer"):
        assert (found[:, GROUP_COLUMNS[group]] == 0).all()
    assert np.isfinite(found).all()
    assert found[:, COLUMN["share_30d"]] == pytest.approx(-1.0)


def test_what_was_redeemed_before() -> None:
    times = np.array([NOW - 40 * DAY_S, NOW - 30 * DAY_S, NOW - 20 * DAY_S, NOW - 5 * DAY_S])
    found = seen(History.of(np.array([1, 3, 1, 1]), times))
    assert found[:, COLUMN["redeemed"]].tolist() == [0, 1, 0, 1, 0, 0]
    assert found[1, COLUMN["count"]] == pytest.approx(np.log1p(3))
    assert found[1, COLUMN["count_share"]] == pytest.approx(0.75)
    assert found[1, COLUMN["own_rhythm"]] == pytest.approx(np.log(6 / 18.5), rel=1e-5)  # 5 days since, every 17.5 days
    assert found[3, COLUMN["item_rhythm"]] == pytest.approx(0.0)  # 30 days since, everyone's pause is 30
    assert found[:, COLUMN["in_last"]].tolist() == [0, 1, 0, 0, 0, 0]
    assert found[1, COLUMN["days_since"]] < found[3, COLUMN["days_since"]]


def test_neighbours_of_what_was_redeemed() -> None:
    found = seen(History.of(np.array([1]), np.array([NOW - 30 * DAY_S])))
    assert found[:, COLUMN["affinity"]].tolist() == [0, 0, 1, 0, 0, 0]
    assert found[2, COLUMN["affinity_recent"]] == pytest.approx(0.5)  # half-life 30 days
    assert found[:, COLUMN["follows_last"]].tolist() == [0, 0, 0, 1, 0, 0]
    assert found[2, COLUMN["affinity_rank"]] == found[:, COLUMN["affinity_rank"]].max()
    assert nearest(History.of(np.array([1]), np.array([NOW])), stats()).tolist() == [1, 2]
    assert nearest(NOBODY, stats()).tolist() == []


def test_the_category_and_the_price() -> None:
    found = seen(History.of(np.array([2]), np.array([NOW - DAY_S])), context(basket=2.5))
    assert found[:, COLUMN["category_share"]].tolist() == [0, 0, 1, 1, 0, 0]
    assert found[2, COLUMN["category_lift"]] > 0 > found[0, COLUMN["category_lift"]]
    assert found[:, COLUMN["difficulty_fit"]].tolist() == [0, -1.5, -0.5, 0.5, 1.5, 2.5]


def test_offers_received_viewed_and_taken() -> None:
    kinds = [KIND_CODES[k] for k in ("offer_received", "offer_viewed", "offer_received", "redemption", "app_open")]
    touched = context(sequence_rows=np.array([1, 1, 2, 2, -1]), kinds=np.array(kinds), ages_days=np.array([5.0, 3, 4, 2, 0]))
    found = seen(NOBODY, touched)
    assert found[:, COLUMN["received"]].tolist() == [0, 1, 1, 0, 0, 0]
    assert found[:, COLUMN["viewed"]].tolist() == [0, 1, 0, 0, 0, 0]
    assert found[:, COLUMN["open_offer"]].tolist() == [0, 1, 0, 0, 0, 0]
    assert found[1, COLUMN["days_since_viewed"]] > found[1, COLUMN["days_since_received"]] > 0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, N - 1), st.floats(0.1, 900.0)), max_size=20),
    st.permutations(list(range(N))),
)
def test_a_candidates_features_do_not_depend_on_the_others(history: list[tuple[int, float]], order: list[int]) -> None:
    ordered = sorted(history, key=lambda h: -h[1])
    mine = History.of(np.array([h[0] for h in ordered], np.int64), NOW - np.array([h[1] for h in ordered]) * DAY_S)
    whole = seen(mine)
    again = seen(mine, rows=np.array(order))
    relative = {COLUMN["cosine_rank"], COLUMN["affinity_rank"]}  # ranks among the candidates; equal ones fall by order
    kept = [c for c in range(PAIR_COUNT) if c not in relative]
    np.testing.assert_allclose(again[:, kept], whole[order][:, kept], atol=1e-6)
    assert np.isfinite(whole).all()
    assert np.abs(whole).max() <= 20


def test_a_state_and_a_log_give_the_same_history() -> None:
    rng = np.random.default_rng(3)
    rows, times = rng.integers(0, N, 30), NOW - np.sort(rng.uniform(1, 500, 30))[::-1] * DAY_S
    touches = [
        event_touch("redemption", np.datetime64(int(t * 1e6), "us").astype(object), f"rew-{r}") for r, t in zip(rows, times, strict=True)
    ]
    state = fold(fold(CustomerState(), touches[::2]), touches[1::2])
    catalogue = {("biz", f"rew-{i}"): i for i in range(N) if i != 4}  # 4 has left the catalogue
    found, kept = History.of_state(state, "biz", catalogue), rows != 4
    expected = History.of(rows[kept], np.floor(times[kept] * 1e6) / 1e6)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.count, expected.count)
    np.testing.assert_allclose(found.first, expected.first, atol=1e-5)
    np.testing.assert_allclose(found.last, expected.last, atol=1e-5)
    assert found.moments == expected.moments
    assert len(History.of_state(CustomerState(), "biz", catalogue).rows) == 0


def test_the_context_is_read_from_the_towers_inputs() -> None:
    vocabulary = Vocabulary(["<pad>", "<unknown>", "r:a", "r:b"])
    state = fold(
        CustomerState(),
        [Touch(NOW - 3 * DAY_S, KIND_CODES["offer_viewed"], "r:b", 0.0), Touch(NOW - DAY_S, KIND_CODES["purchase"], "", 20.0)],
    )
    evening = NOW + 19 * 3600
    inputs = tensors([state], NOW, vocabulary, evening)
    found = context_of(inputs["features"][0], inputs["sequence_ids"][0], inputs["sequence_values"][0], NOW, np.array([-1, -1, 7, 8]))
    assert found.part == part_of_hour(19) == 2
    assert found.sequence_rows[-2:].tolist() == [8, -1]
    assert found.ages_days[-2] == pytest.approx(3.0, rel=1e-3)
    assert found.basket == pytest.approx(np.log1p(20.0), rel=1e-3)
    empty = tensors([CustomerState()], NOW, vocabulary, NOW)
    blank = context_of(empty["features"][0], empty["sequence_ids"][0], empty["sequence_values"][0], NOW, np.array([-1, -1, 7, 8]))
    assert np.isnan(blank.basket)
    assert inputs["features"].shape == (1, FEATURE_COUNT)


def test_parts_of_the_day() -> None:
    assert [part_of_hour(h) for h in (4, 5, 11.9, 12, 17, 21.9, 22, 0)] == [3, 0, 0, 1, 2, 2, 3, 3]


def test_statistics_survive_a_file_and_must_be_of_one_catalogue() -> None:
    arrays = stats().arrays()
    again = ItemStats.from_arrays(arrays)
    assert len(again) == N
    np.testing.assert_array_equal(again.weights, stats().weights)
    with pytest.raises(ArtifactError, match="lack shares"):
        ItemStats.from_arrays({k: v for k, v in arrays.items() if k != "shares"})
    with pytest.raises(ArtifactError, match="must be of one catalogue"):
        ItemStats.from_arrays(arrays | {"value": np.zeros(2, np.float32)})


def test_shares_of_nothing_are_finite() -> None:
    assert log_shares(np.zeros(2), np.zeros(2)) == pytest.approx(np.log(1e-5))
    assert log_shares(np.array([1.0]), np.array([2.0])) == pytest.approx(np.log(0.5), abs=1e-4)
