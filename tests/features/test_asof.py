from __future__ import annotations

import math
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.errors import ContractError
from contracts.tables import EVENT_TYPES
from contracts.tensors import USER_TOWER
from features import asof
from features.definitions import FEATURE_NAMES, GROUPS, HALF_LIVES_DAYS, epoch_seconds
from features.state import CustomerState, fold, state_at, tensors
from features.vocabulary import Vocabulary

VOCABULARY = Vocabulary(["<pad>", "<unknown>", "r:r1", "c:tea", "c:coffee"])
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Few distinct times over ten years, so that ties and touches at the very as-of instant are common.
DAYS = st.sampled_from([0.0, 0.5, 1.0, 1.0001, 30.0, 400.0, 2000.0, 3649.0, 3650.0])
VALUES = st.one_of(st.none(), st.floats(-500, 500, allow_nan=False).map(lambda v: round(v, 4)))
ACTS = st.tuples(
    st.sampled_from(["a", "b"]), DAYS, st.sampled_from([*EVENT_TYPES, "purchase", "ticket"]), VALUES, st.sampled_from([None, "r1", "r2"])
)


def _do(shop, at, act) -> None:
    customer, days, kind, value, reward = act
    if kind == "purchase":
        shop.purchase(customer, at(days), value or 0.0, *([("p1", 2.0)] if reward else []))
    elif kind == "ticket":
        shop.ticket(customer, at(days), None if value is None else int(abs(value)) % 5 + 1)
    else:
        shop.event(customer, at(days), kind, reward, value)


def _equal(one: asof.AsofRows, other: asof.AsofRows) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one.batch(slice(None)).values(), other.batch(slice(None)).values(), strict=True))


@FEW
@given(acts=st.lists(ACTS, max_size=40), when=DAYS, base=DAYS, seed=st.integers(0, 9))
def test_offline_rows_equal_online_state(shop, refill, at, examples, acts, when, base, seed) -> None:
    """A base state of some earlier time, plus the rest of the touches folded in any order, gives what the warehouse gives."""
    refill(shop)
    shop.add("customers", {"customer_id": "a", "joined_at": at(1), "gender": "M", "income": 40_000})
    for act in acts:
        _do(shop, at, act)
    as_of, earlier = at(when), epoch_seconds(at(min(base, when)))
    offline = asof.rows(shop.connection, examples(("a", as_of), ("b", as_of)), VOCABULARY).batch(slice(None))
    customers = pa.table({"business_id": ["b", "b"], "customer_id": ["a", "b"]})
    touches = asof.load_touches(shop.connection, customers)
    states = []
    for code, (_, _, state) in enumerate(asof.states(shop.connection, customers, earlier)):
        mine = asof._slice(touches, int(touches.starts[code]), int(touches.starts[code + 1]))
        late = [t for t in mine if t.time >= earlier]
        order = np.random.default_rng(seed).permutation(len(late))
        state.pending = []
        states.append(state_at(state, [late[i] for i in order], epoch_seconds(as_of)))
    online = tensors(states, epoch_seconds(as_of), VOCABULARY)
    assert np.array_equal(offline["sequence_ids"], online["sequence_ids"])
    np.testing.assert_allclose(online["sequence_values"], offline["sequence_values"], atol=1e-5)
    np.testing.assert_allclose(online["features"], offline["features"], atol=1e-5)


@FEW
@given(acts=st.lists(ACTS, max_size=15), later=st.lists(ACTS, min_size=1, max_size=15), when=DAYS)
def test_nothing_at_or_after_the_as_of_time_changes_a_feature(shop, refill, at, examples, acts, later, when) -> None:
    refill(shop)
    for act in acts:
        _do(shop, at, act)
    asked = examples(("a", at(when)), ("b", at(when)))
    before = asof.rows(shop.connection, asked, VOCABULARY)
    for customer, days, kind, value, reward in later:
        _do(shop, at, (customer, when + days, kind, value, reward))  # days 0: the same instant
    shop.add("products", {"product_id": "new", "category": "new"})
    shop.add("rewards", {"reward_id": "new", "name": "New", "reward_type": "bogo"})
    shop.add("campaigns", {"campaign_id": "new", "name": "New", "started_at": at(when)})
    assert _equal(before, asof.rows(shop.connection, asked, VOCABULARY))


@pytest.mark.parametrize("kind", ["purchase", "ticket", "redemption", "review"])
def test_an_earlier_row_does_change_a_feature(shop, at, examples, kind) -> None:
    """The negative control of the test above."""
    asked = examples(("a", at(10)))
    before = asof.rows(shop.connection, asked, VOCABULARY)
    _do(shop, at, ("a", 9.999, kind, 5.0, "r1"))
    assert not _equal(before, asof.rows(shop.connection, asked, VOCABULARY))


def _reference(touches: list[tuple[float, str, float]], as_of: float) -> list[float]:
    """The 24 sums straight from their definition, one touch at a time."""
    out = []
    for group, kinds in GROUPS.items():
        for half_life in HALF_LIVES_DAYS:
            parts = [(v if group == "spend" else 1.0) * 2 ** (-(as_of - t) / half_life) for t, k, v in touches if k in kinds and t < as_of]
            total = math.fsum(parts)
            out.append(math.copysign(math.log1p(abs(total)), total) / (8.0 if group == "spend" else 4.0))
    return out


def test_decayed_sums_equal_their_definition_over_ten_years_and_many_blocks(shop, at, examples) -> None:
    rng = np.random.default_rng(3)
    kinds = ["offer_received", "offer_viewed", "redemption", "app_open", "unsubscribe"]
    acts = [(float(d), kinds[i % 5]) for i, d in enumerate(np.sort(rng.uniform(0, 3650, 700)))]
    rows = [{"event_id": f"e{i}", "customer_id": "long", "occurred_at": at(d), "event_type": k} for i, (d, k) in enumerate(acts)]
    shop.add("events", *rows)
    for i in range(30):
        shop.purchase("long", at(120 * i), 20.0 + i)
        shop.event(f"short-{i}", at(i), "app_open")
    days = [0.0, 1.0, 1825.0, 3649.5, 3700.0]
    found = asof.rows(shop.connection, examples(*(("long", at(d)) for d in days)), VOCABULARY).features[:, :24]
    touches = [*((d, k, 0.0) for d, k in acts), *((120.0 * i, "purchase", 20.0 + i) for i in range(30))]
    np.testing.assert_allclose(found, [_reference(touches, d) for d in days], atol=1e-6)


def test_a_history_of_forty_years_stays_finite(shop, at, examples) -> None:
    for years in range(0, 41, 5):
        shop.purchase("a", at(365.25 * years), 10.0)
    features = asof.rows(shop.connection, examples(("a", at(365.25 * 40 + 1))), VOCABULARY).features
    assert np.isfinite(features).all()
    assert features[0, FEATURE_NAMES.index("purchases_7d")] == pytest.approx(math.log1p(2 ** (-1 / 7)) / 4, abs=1e-6)


def test_rows_keep_the_examples_order_and_iterate_gives_the_same(shop, at, examples) -> None:
    shop.event("a", at(0), "app_open")
    shop.event("b", at(1), "redemption", "r1")
    asked = examples(("b", at(2)), ("a", at(2)), ("b", at(0.5)), ("nobody", at(2)), ("a", at(3)))
    seen: list[tuple[int, int]] = []
    rows = asof.rows(shop.connection, asked, VOCABULARY, progress=lambda done, total: seen.append((done, total)))
    assert rows.sequence_ids[:, -1, 0].tolist() == [2, 1, 0, 0, 1]
    assert (rows.features[3, :24] == 0).all()
    assert rows.features[3, 24:30].tolist() == [1.0] * 6
    assert seen == [(5, 5)]
    parts = list(asof.iterate(shop.connection, asked, VOCABULARY, chunk=2))
    assert [len(p) for _, p in parts] == [2, 2, 1]
    assert all(_equal(part, asof.AsofRows(rows.features[i], rows.sequence_ids[i], rows.sequence_values[i])) for i, part in parts)


def test_a_batch_is_what_the_user_tower_takes(shop, at, examples) -> None:
    shop.event("a", at(0), "app_open")
    batch = asof.rows(shop.connection, examples(("a", at(1)), ("b", at(1))), VOCABULARY).batch(np.array([1, 0]))
    for spec in USER_TOWER.inputs:
        spec.check(batch[spec.name])


def test_businesses_do_not_mix(shop, at, examples) -> None:
    shop.add("events", {"event_id": "x", "business_id": "other", "customer_id": "a", "occurred_at": at(0), "event_type": "app_open"})
    assert not asof.rows(shop.connection, examples(("a", at(1))), VOCABULARY).sequence_ids.any()


def test_no_examples_and_an_empty_warehouse_give_no_rows(shop, examples) -> None:
    assert len(asof.rows(shop.connection, examples(), VOCABULARY)) == 0


def test_times_without_zone_are_utc(shop, at, examples) -> None:
    shop.event("a", at(0), "app_open")
    aware = examples(("a", at(0) + timedelta(microseconds=1)))
    naive = aware.set_column(2, "as_of", aware["as_of"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).cast(pa.timestamp("us")))
    assert _equal(asof.rows(shop.connection, aware, VOCABULARY), asof.rows(shop.connection, naive, VOCABULARY))


def test_a_missing_column_or_time_is_refused(shop, examples, at) -> None:
    asked = examples(("a", at(0)))
    with pytest.raises(ContractError, match="lack as_of"):
        asof.rows(shop.connection, asked.drop_columns(["as_of"]), VOCABULARY)
    empty = asked.set_column(2, "as_of", pa.array([None], asked.schema.field("as_of").type))
    with pytest.raises(ContractError, match="1 examples have no as_of"):
        asof.rows(shop.connection, empty, VOCABULARY)


def test_states_hold_what_rules_and_explanations_need(shop, at) -> None:
    shop.event("a", at(0), "redemption", "r1")
    shop.event("a", at(1), "redemption", "r1")
    shop.event("a", at(2), "reward_dismissed", "r2")
    shop.purchase("a", at(3), 5.0)
    shop.event("a", at(9), "redemption", "r2")
    customers = asof.customers_table(shop.connection)
    ((business, customer, state),) = asof.states(shop.connection, customers, epoch_seconds(at(9)), watermark=4)
    assert (business, customer, state.watermark, state.touch_count) == ("b", "a", 4, 4)
    assert (state.redeemed, state.dismissed) == ({"r1": 2}, {"r2"})
    assert state.purchase_hours.nonzero()[0].tolist() == [12]
    assert [t.token for t in state.pending] == ["r:r2"]
    folded = fold(CustomerState(), state.recent)
    assert (folded.redeemed, folded.dismissed, folded.time) == (state.redeemed, state.dismissed, state.time)


def test_customers_table_finds_those_who_are_only_in_history(shop, at) -> None:
    shop.add("customers", {"customer_id": "known"})
    shop.ticket("complainer", at(0))
    assert asof.customers_table(shop.connection, "b")["customer_id"].to_pylist() == ["complainer", "known"]
    assert asof.customers_table(shop.connection, "other").num_rows == 0
