"""Labels are what happened between the as-of day and the end, against a slow reference; what is not known yet is not taken for silence."""

from __future__ import annotations

from datetime import datetime, timedelta

import duckdb
import numpy as np
import pytest

from contracts.errors import ArtifactError
from features import weekly
from training.sequence import data
from training.sequence.data import MONTH_DAYS, Samples, midnight
from warehouse.store import Warehouse


@pytest.fixture(scope="module")
def day(shop: duckdb.DuckDBPyConnection) -> int:
    return data.span(shop)[1] - 120


@pytest.fixture(scope="module")
def samples(shop: duckdb.DuckDBPyConnection, day: int) -> Samples:
    return data.build(shop, [day - 60, day], day + 75)


def purchases(shop: duckdb.DuckDBPyConnection) -> dict[str, list[tuple[datetime, float]]]:
    found: dict[str, list[tuple[datetime, float]]] = {}
    for customer, when, amount in shop.sql("SELECT customer_id, occurred_at, amount::DOUBLE FROM transactions").fetchall():
        found.setdefault(customer, []).append((when, amount))
    return found


def test_labels_are_those_of_a_slow_reference(shop: duckdb.DuckDBPyConnection, samples: Samples) -> None:
    acts, names = purchases(shop), samples.customers["customer_id"].to_pylist()
    for i in range(0, len(samples), 7):
        begin = midnight(int(samples.as_of_day[i]))
        end = begin + timedelta(days=int(samples.observed_days[i]))
        mine = [((w - begin) / timedelta(days=1), a) for w, a in acts[names[samples.customer[i]]] if w < end]
        later = sorted(d for d, a in mine if d >= 0 and a >= 0)
        assert samples.next_purchase_days[i] == (np.floor(later[0]) if later else np.inf)
        assert samples.active[i] == any(-90 <= d < 0 and a >= 0 for d, a in mine)
        assert any(d < 0 and a >= 0 for d, a in mine), "somebody who had not bought before"
        for b in range(data.BLOCKS):
            assert samples.bought[i, b] == any(30 * b <= d < 30 * (b + 1) for d in later)
        for m in range(int(samples.months_seen[i])):
            inside = [a for d, a in mine if d >= 0 and m <= np.floor(d) / MONTH_DAYS < m + 1]
            assert samples.monthly_spend[i, m] == pytest.approx(sum(inside), abs=0.01)
            assert samples.monthly_purchases[i, m] == any(a >= 0 for a in inside)


def test_nothing_after_the_end_is_a_label(shop: duckdb.DuckDBPyConnection, samples: Samples, day: int) -> None:
    later = data.build(shop, [day - 60, day], day + 110)
    known = later.next_purchase_days < samples.observed_days
    assert (samples.next_purchase_days[known] == later.next_purchase_days[known]).all()
    assert np.isinf(samples.next_purchase_days[~known]).all()
    assert (~known & np.isfinite(later.next_purchase_days)).any()  # the control: there was something to leave out
    assert (samples.weeks == later.weeks).all()
    assert (samples.statics == later.statics).all()


def test_months_that_are_known() -> None:
    assert [data.months_in(d) for d in (29, 30, 91, 182, 273, 364, 365, 2000)] == [0, 1, 3, 6, 9, 11, 12, 12]


def test_a_draw_is_seeded_and_rows_can_be_taken(shop: duckdb.DuckDBPyConnection, day: int) -> None:
    some, again, other = (data.build(shop, [day], day + 30, max_per_day=50, seed=s) for s in (1, 1, 2))
    assert len(some) == 50
    assert (some.customer == again.customer).all()
    assert (some.customer != other.customer).any()
    few = some.take(np.array([3, 1]))
    assert few.customer.tolist() == [some.customer[3], some.customer[1]]
    assert (few.statics == some.statics[[3, 1]]).all()


def test_histories_of_some_customers_are_theirs(shop: duckdb.DuckDBPyConnection, day: int) -> None:
    everyone = data.load_customers(shop, day)
    history = weekly.read(shop, everyone, midnight(day))
    who = np.array([0, 5, 17])
    picked, whole = weekly.tensors(data.pick(history, who), day), weekly.tensors(history, day)
    assert all((picked[name] == whole[name][who]).all() for name in picked)


def test_one_business_only(shop: duckdb.DuckDBPyConnection, day: int) -> None:
    assert data.load_customers(shop, day, "biz-1").num_rows == data.load_customers(shop, day).num_rows
    assert data.load_customers(shop, day, "other").num_rows == 0


def test_without_transactions_or_customers_it_says_what_to_do(shop: duckdb.DuckDBPyConnection, tmp_path) -> None:
    with Warehouse(tmp_path / "empty").connect() as empty, pytest.raises(ArtifactError, match=r"no transactions.*regulars data"):
        data.span(empty)
    with pytest.raises(ArtifactError, match="nobody bought before"):
        data.build(shop, [data.span(shop)[0]], data.span(shop)[0] + 60)
