"""A customer's weekly history as it is stored: the same tensors as offline, whatever comes late, in whatever order."""

from __future__ import annotations

import random
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import ArtifactError
from contracts.tables import EVENT_TYPES
from features import history, weekly
from features.history import CustomerHistory, DayAct, event_acts, extended, histories, pack, purchase_acts, tensors_of, ticket_acts, unpack

NOW = datetime(2026, 11, 21, tzinfo=UTC)
TODAY = weekly.as_of_day(NOW)
CUSTOMERS = [f"c{n}" for n in range(6)]

ACTS = st.lists(
    st.builds(
        DayAct,
        st.one_of(st.integers(TODAY - 30, TODAY + 1), st.integers(TODAY - 460, TODAY), st.integers(TODAY - 4000, TODAY)),
        st.integers(0, len(weekly.DAILY) - 1),
        st.integers(1, 4).map(float),
    ),
    max_size=30,
)
FOLDED = st.sampled_from([weekly.NO_DAY, TODAY - 400, TODAY - 366])


def by_day(acts: list[DayAct]) -> weekly.DailyHistory:
    """What `weekly.read` would say of the acts of one customer."""
    days = sorted({a.day for a in acts})
    sums = np.zeros((len(days), len(weekly.DAILY)), dtype=np.float32)
    for act in acts:
        sums[days.index(act.day), act.channel] += act.value
    joined = np.array([days[0] if days else history.UNKNOWN_DAY], dtype=np.int32)
    return weekly.DailyHistory(np.array([0, len(days)]), np.array(days, dtype=np.int32), sums, joined)


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], atol: float = 1e-5) -> None:
    assert set(found) == set(expected) == {"weeks", "statics"}
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], array, atol=atol, err_msg=name)


def assert_equal(found: CustomerHistory, expected: CustomerHistory) -> None:
    for f in fields(CustomerHistory):
        np.testing.assert_array_equal(getattr(found, f.name), getattr(expected, f.name), err_msg=f.name)


@settings(max_examples=60, deadline=None)
@given(ACTS, FOLDED, st.randoms())
def test_folding_in_any_order_and_in_several_goes_gives_the_tensors_of_all_rows(acts: list[DayAct], border: int, shuffled) -> None:
    mixed = list(acts)
    shuffled.shuffle(mixed)
    cut = shuffled.randint(0, len(mixed))
    found = extended(extended(CustomerHistory(folded_before=border), mixed[:cut]), mixed[cut:])
    assert_equal(found, extended(CustomerHistory(folded_before=border), acts))
    assert_same(tensors_of(found, NOW), weekly.tensors(by_day(acts), TODAY), atol=0)
    assert len(found.days) <= TODAY + 2 - border or border == weekly.NO_DAY


Landing = tuple[str, dict[str, Any], list[DayAct]]
"""An act as a row of a table of the warehouse, and as parts of its day."""


def fill(shop: Any, rng: random.Random) -> dict[str, list[Landing]]:
    """Random acts of every kind in a warehouse; those of the last two days and a fifth of the others have not landed, and are returned."""
    late: dict[str, list[Landing]] = {c: [] for c in CUSTOMERS}
    for customer in CUSTOMERS[:-1]:  # the last one has no rows at all
        if rng.random() < 0.5:
            shop.add("customers", {"customer_id": customer, "joined_at": NOW - timedelta(days=rng.randint(-1, 900))})
        for _ in range(rng.randint(1, 120)):
            when = NOW - timedelta(days=rng.choice([rng.uniform(0, 20), rng.uniform(0, 500), rng.uniform(300, 2500)]))
            made = random_act(rng, shop.id(), customer, when)
            if when > NOW - timedelta(days=2) or rng.random() < 0.2:
                late[customer].append(made)
            else:
                shop.add(*made[:2])
    return late


def random_act(rng: random.Random, key: str, customer: str, when: datetime) -> Landing:
    kind = rng.choice(["purchase", "purchase", "ticket", *EVENT_TYPES])
    if kind == "purchase":
        amount, discount = round(rng.uniform(-20, 90), 2), rng.choice([None, 0.0, 1.25])
        row = {"transaction_id": key, "customer_id": customer, "occurred_at": when, "amount": Decimal(str(amount)),
               "discount_amount": None if discount is None else Decimal(str(discount))}  # fmt: skip
        return "transactions", row, purchase_acts(when, amount, discount)
    if kind == "ticket":
        rating, sentiment = rng.choice([None, 1, 2, 3, 5]), rng.choice([None, "NEGATIVE", "POSITIVE"])
        row = {"ticket_id": key, "customer_id": customer, "created_at": when, "rating": rating, "sentiment": sentiment}
        return "tickets", row, ticket_acts(when, rating, sentiment)
    return "events", {"event_id": key, "customer_id": customer, "occurred_at": when, "event_type": kind}, event_acts(kind, when)


@pytest.mark.parametrize("seed", range(4))
def test_stored_histories_and_what_came_since_are_what_offline_reads(shop, seed: int) -> None:
    rng = random.Random(seed)
    late = fill(shop, rng)
    table = pa.table({"business_id": ["b"] * len(CUSTOMERS), "customer_id": CUSTOMERS})
    written = NOW - timedelta(days=rng.choice([0, 0.5, 20]))
    stored = {c: unpack(pack(h)) for _, c, h in histories(shop.connection, table, written, watermark=7)}
    assert all(h.watermark == 7 for h in stored.values())
    assert any(len(h.old_days) for h in stored.values())
    online = {}
    for customer, missing in late.items():
        acts = [act for *_, parts in missing for act in parts]
        rng.shuffle(acts)
        online[customer] = extended(stored[customer], acts)
        for name, row, _ in missing:
            shop.add(name, row)
    offline = weekly.read(shop.connection, table, NOW)
    for moment in (NOW, NOW - timedelta(days=3)):
        expected = weekly.tensors(offline, weekly.as_of_day(moment))
        for row, customer in enumerate(CUSTOMERS):
            assert_same(tensors_of(online[customer], moment), {name: array[row : row + 1] for name, array in expected.items()})
    # Negative control: without what came late, somebody differs.
    expected = weekly.tensors(offline, TODAY)
    stale = np.concatenate([tensors_of(stored[c], NOW)["statics"] for c in CUSTOMERS])
    assert np.abs(stale - expected["statics"]).max() > 0.1


def test_nobody_knows_anything_of_a_stranger() -> None:
    found = tensors_of(extended(None, []), NOW)
    assert_same(found, weekly.tensors(by_day([]), TODAY), atol=0)
    known = weekly.facts(found["statics"])
    assert known["purchase_days"][0] == 0
    assert known["tenure"][0] == 0
    first = extended(None, purchase_acts(NOW - timedelta(days=40), 12.5))
    assert weekly.facts(tensors_of(first, NOW)["statics"])["spend_ever"][0] == pytest.approx(12.5, abs=1e-4)
    assert first.watermark == 0


def test_a_very_late_purchase_on_a_day_that_is_folded_is_not_another_day() -> None:
    base = CustomerHistory(folded_before=TODAY - 400)
    day = NOW - timedelta(days=1000)
    once = extended(base, purchase_acts(day, 5.0))
    twice = extended(once, purchase_acts(day + timedelta(hours=3), 7.0))
    known = weekly.facts(tensors_of(twice, NOW)["statics"])
    assert known["purchase_days"][0] == pytest.approx(1)
    assert known["purchases_ever"][0] == pytest.approx(2)
    assert known["basket"][0] == pytest.approx(6)


def test_a_bad_ticket_is_negative_or_rated_two_or_less() -> None:
    def bad(rating: float | None, sentiment: str | None) -> bool:
        return weekly.BAD in {act.channel for act in ticket_acts(NOW, rating, sentiment)}

    assert [bad(r, s) for r, s in ((2, None), (1, "POSITIVE"), (None, "NEGATIVE"), (5, "NEGATIVE"))] == [True] * 4
    assert [bad(r, s) for r, s in ((3, None), (None, None), (None, "NEUTRAL"), (5, "POSITIVE"))] == [False] * 4


def test_an_event_that_no_sum_counts_adds_no_day() -> None:
    counted = {kind for kinds in weekly.EVENT_SUMS.values() for kind in kinds}
    assert {kind for kind in EVENT_TYPES if event_acts(kind, NOW)} == counted
    assert extended(None, event_acts("points_earned", NOW)).joined == history.UNKNOWN_DAY


def test_as_of_long_before_the_writing_is_refused_and_a_month_before_is_not() -> None:
    acts = [DayAct(TODAY - age, weekly.PURCHASES, 1.0) for age in (10, 300, 380, 410, 900)]
    written = extended(CustomerHistory(folded_before=TODAY - history.KEPT_DAYS), acts)
    assert_same(tensors_of(written, NOW - timedelta(days=35)), weekly.tensors(by_day(acts), TODAY - 35), atol=0)
    with pytest.raises(ArtifactError, match="behind that of the writer"):
        tensors_of(written, NOW - timedelta(days=36))


@settings(max_examples=60, deadline=None)
@given(ACTS, FOLDED, st.integers(0, 2**63))
def test_packed_histories_come_back_as_they_were(acts: list[DayAct], border: int, watermark: int) -> None:
    made = extended(CustomerHistory(folded_before=border, watermark=watermark), acts)
    assert_equal(unpack(pack(made)), made)
    assert pack(unpack(pack(made))) == pack(made)


@pytest.mark.parametrize("at", [20, 60, 130, 150, -5, -1])
def test_a_damaged_history_is_an_artifact_error(at: int) -> None:
    packed = bytearray(pack(extended(CustomerHistory(folded_before=TODAY - 400), [DayAct(TODAY - d, 0, 1.0) for d in range(1, 600, 7)])))
    packed[at] ^= 1
    with pytest.raises(ArtifactError, match="checksum"):
        unpack(bytes(packed))


def test_other_bytes_and_other_formats_are_artifact_errors() -> None:
    packed = pack(CustomerHistory())
    for other in (b"", b"RGST" + packed[4:], packed[:50]):
        with pytest.raises(ArtifactError, match="is not one"):
            unpack(other)
    with pytest.raises(ArtifactError, match="format 9, this program reads"):
        unpack(packed[:4] + b"\x09" + packed[5:])


def test_a_history_of_years_stays_small() -> None:
    rng = random.Random(5)
    acts = [a for n in range(2000) for a in random_act(rng, "k", "c", NOW - timedelta(days=rng.uniform(0, 3650)))[2]]
    made = extended(CustomerHistory(folded_before=TODAY - history.KEPT_DAYS), acts)
    assert len(made.days) <= history.KEPT_DAYS
    assert len(pack(made)) < 8_000
