"""Orders by objective, variety and caps: properties over many made-up catalogues."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import ContractError
from features.definitions import event_touch, purchase_touch
from features.state import CustomerState, fold
from ray_apps.deployments.rerank import Offers, Policy, Spend, held_back, margins, rerank, retention_value, spend_of, values
from ray_apps.settings import ServeSettings

DAY = 86_400.0
NOW = datetime(2026, 11, 20, tzinfo=UTC).timestamp()
few = settings(max_examples=60, deadline=None)


def made(seed: int, n: int = 40) -> tuple[Offers, np.ndarray, np.ndarray, np.ndarray]:
    """Offers, rows (a shuffled part of them), probabilities with ties, unit vectors."""
    rng = np.random.default_rng(seed)
    money = rng.uniform(0, 20, (2, n))
    offers = Offers(
        money[0], money[1], rng.integers(0, 500, n).astype(float), rng.integers(-1, 5, n), rng.integers(0, 4, n),
        np.where(rng.random(n) < 0.2, NOW - 5 * DAY, np.nan),
    )  # fmt: skip
    rows = rng.permutation(n)[: int(rng.integers(1, n + 1))]
    vectors = rng.normal(size=(n, 8)).astype(np.float32)
    return offers, rows, rng.integers(0, 12, len(rows)) / 20.0, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


policies = st.builds(
    Policy,
    objective=st.sampled_from(["redemption", "expected_value", "clv"]),
    diversity=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    max_per_category=st.sampled_from([None, 1, 3]),
    max_per_type=st.sampled_from([None, 2]),
    new_share=st.sampled_from([0.0, 0.3]),
)


@few
@given(seed=st.integers(0, 10_000), policy=policies, count=st.integers(1, 50), with_vectors=st.booleans())
def test_an_answer_is_part_of_the_candidates_and_caps_hold(seed: int, policy: Policy, count: int, with_vectors: bool) -> None:
    offers, rows, probabilities, vectors = made(seed)
    held = np.random.default_rng(seed).random(len(rows)) < 0.3
    found = rerank(
        policy, offers, rows, probabilities, count, spend=Spend(12.0, 600.0), vectors=vectors if with_vectors else None, held=held, now=NOW
    )
    assert len(found) == len(set(found.tolist())) <= count
    assert set(found.tolist()) <= set(np.flatnonzero(~held).tolist())
    for codes, most in ((offers.category, policy.max_per_category), (offers.kind, policy.max_per_type)):
        mine = codes[rows[found]]
        if most is not None and (mine >= 0).any():
            assert np.bincount(mine[mine >= 0]).max() <= most
    if policy.max_per_category is None and policy.max_per_type is None:
        free = int((~held).sum())
        assert len(found) == min(count, free)
        new = offers.new(rows, NOW)
        assert new[found].sum() >= min(int(policy.new_share * min(count, free) + 1e-9), (new & ~held).sum())


@few
@given(seed=st.integers(0, 10_000), count=st.integers(1, 50))
def test_by_default_the_order_is_that_of_the_probability_and_ties_keep_theirs(seed: int, count: int) -> None:
    offers, rows, probabilities, vectors = made(seed)
    found = rerank(Policy(), offers, rows, probabilities, count, vectors=vectors)
    assert found.tolist() == sorted(range(len(rows)), key=lambda i: (-probabilities[i], i))[:count]


@few
@given(seed=st.integers(0, 10_000), cap=st.sampled_from([None, 50]))
def test_limits_that_do_not_bind_change_nothing(seed: int, cap: int | None) -> None:
    offers, rows, probabilities, vectors = made(seed)
    plain = rerank(Policy("expected_value"), offers, rows, probabilities, 10, spend=Spend(9.0, 0.0))
    loose = Policy("expected_value", max_per_category=50, max_per_type=cap)
    assert rerank(loose, offers, rows, probabilities, 10, spend=Spend(9.0, 0.0), vectors=vectors).tolist() == plain.tolist()


@few
@given(
    seed=st.integers(0, 10_000), objective=st.sampled_from(["expected_value", "clv"]), which=st.integers(0, 1000), less=st.floats(0.1, 20)
)
def test_a_higher_margin_never_lowers_the_rank(seed: int, objective: str, which: int, less: float) -> None:
    offers, rows, probabilities, _ = made(seed)
    at = which % len(rows)
    cheaper = offers.face_value.copy()
    cheaper[rows[at]] -= less
    policy, spend = Policy(objective), Spend(10.0, 300.0)  # type: ignore[arg-type]
    before = rerank(policy, offers, rows, probabilities, len(rows), spend=spend).tolist()
    after = rerank(policy, replace(offers, face_value=cheaper), rows, probabilities, len(rows), spend=spend).tolist()
    assert after.index(at) <= before.index(at)


def test_margin_and_clv_are_the_documented_sums() -> None:
    offers = Offers.build(
        {
            "reward_id": ["a", "b"],
            "face_value": [4.0, None],
            "difficulty": [20.0, None],
            "points_cost": [None, 300],
            "category": ["x", None],
        }
    )
    policy, rows, spend = Policy(), np.array([0, 1]), Spend(10.0, 500.0)
    np.testing.assert_allclose(margins(policy, offers, rows, spend), [0.6 * 20 - 0.35 * 4, 0.6 * 10 + 0.01 * 300])

    def worth(retention: float) -> float:  # yearly margin 300, the closed form and its slope by a difference
        return 300 * retention / (1.1 - retention)

    slope = (worth(0.8 + 1e-6) - worth(0.8 - 1e-6)) / 2e-6
    assert retention_value(policy, spend) == pytest.approx(0.01 * slope, rel=1e-6)
    clv = values(Policy("clv"), offers, rows, np.array([0.5, 0.1]), spend)
    np.testing.assert_allclose(clv, np.array([0.5, 0.1]) * (margins(policy, offers, rows, spend) + retention_value(policy, spend)))
    assert (offers.category.tolist(), offers.kind.tolist()) == ([0, -1], [-1, -1])


def test_keeping_a_big_spender_weighs_more_than_the_margin() -> None:
    offers = Offers.build({"reward_id": ["likely", "rich"], "face_value": [0.0, 0.0], "difficulty": [0.0, 40.0]})
    rows, probabilities = np.array([0, 1]), np.array([0.30, 0.12])
    order = [rerank(Policy("clv"), offers, rows, probabilities, 2, spend=Spend(10.0, yearly)).tolist() for yearly in (50.0, 5000.0)]
    assert order == [[1, 0], [0, 1]]


def test_diversity_puts_something_else_second() -> None:
    offers = Offers.build({"reward_id": ["a", "b", "c"], "category": ["x", "x", "y"]})
    vectors = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    rows, probabilities = np.arange(3), np.array([0.5, 0.49, 0.4])
    for given_vectors in (vectors, None):
        assert rerank(Policy(diversity=0.5), offers, rows, probabilities, 3, vectors=given_vectors).tolist() == [0, 2, 1]
    assert rerank(Policy(diversity=0.01), offers, rows, probabilities, 3, vectors=vectors).tolist() == [0, 1, 2]


def test_exploration_slot_is_the_last_place_that_is_left() -> None:
    start = datetime(2026, 11, 10, tzinfo=UTC)
    offers = Offers.build({"reward_id": list("abcd"), "valid_from": [None, None, None, start]})
    found = rerank(Policy(new_share=0.4), offers, np.arange(4), np.array([0.9, 0.8, 0.7, 0.01]), 3, now=NOW)
    assert found.tolist() == [0, 1, 3]
    assert rerank(Policy(new_share=0.4), offers, np.arange(3), np.array([0.9, 0.8, 0.7]), 3, now=NOW).tolist() == [0, 1, 2]


def test_no_candidates_is_no_answer_and_lengths_must_agree() -> None:
    offers = Offers.build({"reward_id": ["a"]})
    none = np.array([], dtype=np.int64)
    for policy in (Policy(), Policy(diversity=0.5)):
        assert rerank(policy, offers, none, np.array([]), 5).tolist() == []
        assert rerank(policy, offers, np.array([0]), np.array([0.5]), 5, held=np.array([True])).tolist() == []
    with pytest.raises(ContractError, match="must be one each"):
        rerank(Policy(), offers, np.array([0]), np.array([]), 5)


def test_spend_is_read_back_from_the_decayed_sums() -> None:
    nobody = spend_of(None, NOW, usual_basket=7.0)
    assert nobody == spend_of(CustomerState(), NOW, usual_basket=7.0) == Spend(7.0, 0.0)
    weekly = [purchase_touch(datetime.fromtimestamp(NOW - 7 * DAY * i, UTC), 20.0) for i in range(1, 53)]
    state = fold(CustomerState(), weekly)
    state.demographics[0] = NOW - 52 * 7 * DAY
    spend = spend_of(state, NOW)
    assert spend.basket == pytest.approx(20.0)
    assert spend.per_year == pytest.approx(20.0 * 52, rel=0.05)
    assert spend_of(state, NOW + 180 * DAY).per_year < 0.7 * spend.per_year  # bought nothing since
    state.demographics[0] = np.nan
    assert spend_of(state, NOW).per_year < spend.per_year
    opened = fold(CustomerState(), [event_touch("app_open", datetime.fromtimestamp(NOW - DAY, UTC))])
    assert spend_of(opened, NOW, usual_basket=7.0) == Spend(7.0, 0.0)


def test_frequency_cap_counts_what_nobody_acted_on() -> None:
    shown = {"often": [NOW - i * DAY for i in range(3)], "old": [NOW - 9 * DAY] * 5, "clicked": [NOW - 2 * DAY] * 5, "once": [NOW]}
    assert held_back(shown, {"clicked": NOW - DAY}, 3, 7, NOW) == {"often"}
    assert held_back(shown, {"often": NOW - 1.5 * DAY}, 3, 7, NOW) == {"clicked"}


def test_policy_comes_from_the_settings_unless_the_request_says_otherwise() -> None:
    process = ServeSettings(objective="clv", diversity=0.2, max_per_category=2, gross_margin=0.5)
    assert Policy.of(process) == Policy("clv", 0.2, 2, gross_margin=0.5)
    assert Policy.of(process, "redemption", 0.0) == Policy("redemption", 0.0, 2, gross_margin=0.5)
    assert Policy.of(ServeSettings()) == Policy()
