"""Counts of all customers, against a second implementation over plain Python sets."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.tables import TABLES
from features.state import CustomerState
from ray_apps.deployments.population import (
    LIFT_BOUNDS,
    MAX_NEIGHBOURS,
    MIN_TOGETHER,
    MIN_TOGETHER_LIFT,
    PART_OF_HOUR,
    PARTS,
    PEERS,
    ContextLifts,
    Population,
    peers_of,
    populations,
)

NOW = datetime(2026, 11, 20, tzinfo=UTC)


def counted(**rows: list[dict]) -> dict[str, Population]:
    with duckdb.connect() as connection:
        for name in ("rewards", "customers", "events", "transactions"):
            schema = pa.schema([pa.field(f.name, pa.float64() if pa.types.is_decimal(f.type) else f.type) for f in TABLES[name].schema])
            connection.register(name, pa.Table.from_pylist(rows.get(name, []), schema=schema))
        found = populations(connection)
        again = populations(connection, found)  # a refresh
        assert {b: (p.total, p.redeemers) for b, p in again.items()} == {b: (p.total, p.redeemers) for b, p in found.items()}
        assert all(again[b].together is found[b].together for b in found)
        return found


def _rewards(count: int, business: str = "biz") -> list[dict]:
    return [
        {"business_id": business, "reward_id": f"r-{i}", "name": f"R {i}", "reward_type": "bogo", "category": "x"} for i in range(count)
    ]


def _redemption(customer: str, reward: str, business: str = "biz", hour: int = 8) -> dict:
    return {
        "business_id": business, "event_id": "e", "customer_id": customer, "reward_id": reward, "event_type": "redemption",
        "occurred_at": NOW.replace(hour=hour),
    }  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 40))
def test_what_is_redeemed_together_is_counted_as_sets_are(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    got = {(f"c-{int(c)}", f"r-{int(r)}") for c, r in zip(rng.integers(0, 60, 900), rng.zipf(1.3, 900) % (count + 2), strict=True)}
    events = [_redemption(c, r) for c, r in [*sorted(got), min(got)]]  # one of them twice
    population = counted(rewards=_rewards(count), events=events)["biz"]
    who = {r: {c for c, x in got if x == r} for r in {x for _, x in got if int(x[2:]) < count}}
    everyone = set().union(*who.values())
    assert population.redeemers == {r: len(c) for r, c in who.items()}
    assert population.redeeming == population.customers == len(everyone)
    for reward, redeemers in who.items():
        expected = {}
        for anchor, others in who.items():
            both = len(redeemers & others)
            lift = both / len(others) / (len(redeemers) / len(everyone))
            if anchor != reward and both >= MIN_TOGETHER and lift >= MIN_TOGETHER_LIFT:
                expected[anchor] = (both, len(others), lift)
        found = {a: (t.both, t.others, t.lift) for a, t in population.together.get(reward, {}).items()}
        assert len(found) == min(MAX_NEIGHBOURS, len(expected))
        assert all(found[a] == pytest.approx(expected[a]) for a in found)
        bounds = [lift * (1 - both**-0.5) for both, _, lift in found.values()]
        assert bounds == sorted(bounds, reverse=True)


def test_businesses_are_counted_apart_and_foreign_rewards_not_at_all() -> None:
    events = [_redemption("c", "r-0"), _redemption("c", "r-0", "other"), _redemption("d", "r-0", "other"), _redemption("c", "gone")]
    found = counted(rewards=_rewards(1) + _rewards(1, "other"), events=events)
    assert {b: (p.total, p.redeemers, p.by_category) for b, p in found.items()} == {
        "biz": (1, {"r-0": 1}, {"x": 1}),
        "other": (2, {"r-0": 2}, {"x": 2}),
    }
    assert counted(rewards=_rewards(1)) == {}


def test_peers_are_groups_of_age_and_gender() -> None:
    people = [
        {"business_id": "biz", "customer_id": f"c-{i}", "birth_date": date(1990, 1, 1) if i < 60 else None, "gender": "F" if i % 2 else "M"}
        for i in range(100)
    ]
    population = counted(rewards=_rewards(1), customers=people, events=[_redemption(f"c-{i}", "r-0") for i in range(0, 40)])["biz"]
    assert population.peers.tolist() == [0, 0, 60, 0, 0, 0, 50, 50, 0]
    assert population.peer_share("r-0", 2) == pytest.approx((40 / 60, 40 / 60 / 0.4))
    assert population.peer_share("r-0", PEERS.index("women")) == pytest.approx((0.4, 1.0))
    assert population.peer_share("r-0", 0) is None
    assert population.peer_share("r-9", 2) is None
    assert population.context_lift("r-0", 0, (2,)) == pytest.approx((40 + 20 * 0.6) / 60 / 0.6)
    assert population.context_lift("r-9", 0, (2,)) == population.context_lift("r-0", 0) == 1.0


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_lifts_of_a_catalogue_are_those_of_its_rewards(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = ["r-0", "unknown", "r-1", "r-2"]
    population = Population(
        by_reward={r: rng.integers(0, 400, 4).astype(float) for r in ids if r != "unknown"}, by_part=np.array([500.0, 300, 0, 90]),
        redeemers=dict.fromkeys(ids, 300), peer_redeemers={r: rng.integers(0, 90, 9).astype(float) for r in ids if r != "unknown"},
        peers=np.array([100.0, 200, 0, 50, 100, 100, 300, 300, 10]), customers=700,
    )  # fmt: skip
    lifts = ContextLifts.build(population, ids)
    rows = rng.permutation(4)
    for part, peers in ((0, ()), (2, (1,)), (3, (0, 6)), (1, (2, 8))):
        expected = np.clip([population.context_lift(ids[r], part, peers) for r in rows], *LIFT_BOUNDS)
        np.testing.assert_allclose(lifts.of(rows, part, peers), expected)
    assert ContextLifts.build(population, []).of(np.array([], dtype=int), 0, (1,)).tolist() == []


def test_who_is_in_which_group() -> None:
    assert peers_of(None, 0.0) == peers_of(CustomerState(), 0.0) == ()
    state = CustomerState()
    state.demographics[:] = np.nan, datetime(1991, 11, 21, tzinfo=UTC).timestamp(), np.nan, np.nan, 2
    assert [PEERS[p] for p in peers_of(state, NOW.timestamp())] == ["customers aged 25 to 34", "men"]
    state.demographics[:] = np.nan, np.nan, 70.0, np.nan, np.nan
    assert [PEERS[p] for p in peers_of(state, NOW.timestamp())] == ["customers aged 65 or older"]


@pytest.mark.parametrize(
    ("age", "peer"), [(24.9, 0), (25.1, 1), (34.9, 1), (35.1, 2), (45.1, 3), (54.9, 3), (55.1, 4), (64.9, 4), (65.1, 5), (25.0, 1)]
)
def test_the_customer_is_put_where_the_counts_put_everyone(age: float, peer: int) -> None:
    state = CustomerState()
    state.demographics[2] = age
    assert peers_of(state, NOW.timestamp()) == (peer,)
    born = NOW - timedelta(days=age * 365.25)
    person = {"business_id": "biz", "customer_id": "c", "birth_date": born.date()}
    assert counted(rewards=_rewards(1), customers=[person], events=[_redemption("c", "r-0")])["biz"].peers[peer] == 1


def test_a_part_of_the_day_needs_ten_redemptions_and_few_are_drawn_to_one() -> None:
    events = [_redemption(f"c-{i}", "r-0", hour=8) for i in range(9)] + [_redemption(f"c-{i}", "r-1", hour=20) for i in range(27)]
    population = counted(rewards=_rewards(2), events=events)["biz"]
    assert population.part_lift("r-0", PARTS.index("morning")) is None
    assert population.part_lift("r-1", PARTS.index("evening")) == pytest.approx(1 / 0.75)
    assert population.part_lift("r-1", PARTS.index("night")) is None  # nobody redeems anything then
    assert population.context_lift("r-0", 0) == pytest.approx((9 + 20 * 0.25) / 29 / 0.25)


def test_average_basket_is_of_the_business() -> None:
    bought = [
        {"business_id": "biz", "transaction_id": f"t-{i}", "customer_id": "c", "occurred_at": NOW, "amount": 5.0 + i} for i in range(3)
    ]
    assert counted(rewards=_rewards(1), events=[_redemption("c", "r-0")], transactions=bought)["biz"].basket == pytest.approx(6.0)


def test_every_hour_belongs_to_one_part() -> None:
    assert Counter(PART_OF_HOUR) == {"morning": 7, "afternoon": 5, "evening": 5, "night": 7}
