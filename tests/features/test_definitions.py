from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest

from contracts.errors import ContractError
from contracts.tensors import FEATURE_COUNT
from features import asof
from features.definitions import (
    FEATURE_NAMES,
    KIND_CODES,
    KINDS,
    NO_DEMOGRAPHICS,
    basket_category,
    context_features,
    demographic_features,
    epoch_seconds,
    event_touch,
    purchase_touch,
    ticket_touch,
)

CUSTOMER = pa.table({"business_id": ["b"], "customer_id": ["c"]})


def test_there_are_44_distinct_features_and_no_snapshot_of_today() -> None:
    assert len(set(FEATURE_NAMES)) == FEATURE_COUNT
    assert not any("tier" in n or "points" in n for n in FEATURE_NAMES)


def test_kind_codes_leave_zero_to_padding() -> None:
    assert min(KIND_CODES.values()) == 1
    assert all(KINDS[code] == kind for kind, code in KIND_CODES.items())


def test_sql_and_python_make_the_same_touches(shop, at) -> None:
    shop.event("c", at(0.1234567), "redemption", "r1", 3.5)
    shop.event("c", at(2), "app_open")
    shop.purchase("c", at(3), 12.5, ("p1", 2.0), ("p2", 5.0), ("p2", 1.0), ("p3", 90.0))
    shop.purchase("c", at(4), -3.0)
    shop.ticket("c", at(5), 2)
    shop.ticket("c", at(6))
    touches = asof.load_touches(shop.connection, CUSTOMER)
    lines = [("tea", 2.0), ("coffee", 5.0), ("coffee", 1.0), (None, 90.0)]
    assert asof._slice(touches, 0, 6) == [
        event_touch("redemption", at(0.1234567), "r1", 3.5),
        event_touch("app_open", at(2)),
        purchase_touch(at(3), 12.5, basket_category(lines)),
        purchase_touch(at(4), -3.0),
        ticket_touch(at(5), 2),
        ticket_touch(at(6)),
    ]


def test_equal_amounts_give_the_first_category_by_name_in_both(shop, at) -> None:
    shop.purchase("c", at(1), 4.0, ("p1", 2.0), ("p2", 2.0))
    assert asof.load_touches(shop.connection, CUSTOMER).tokens == ["c:coffee"]
    assert basket_category([("tea", 2.0), ("coffee", 2.0)]) == "coffee"
    assert basket_category([(None, 2.0)]) is None


def test_a_value_that_is_not_finite_counts_as_none() -> None:
    now = datetime(2020, 1, 1, tzinfo=UTC)
    assert [event_touch("review", now, None, v).value for v in (float("nan"), float("inf"), None)] == [0.0, 0.0, 0.0]


def test_unknown_event_type_is_refused() -> None:
    with pytest.raises(ContractError, match="'teleport' is not known"):
        event_touch("teleport", datetime(2020, 1, 1, tzinfo=UTC))


def test_epoch_seconds_takes_a_time_without_zone_as_utc() -> None:
    aware = datetime(2020, 6, 1, 14, tzinfo=timezone(timedelta(hours=2)))
    assert epoch_seconds(datetime(2020, 6, 1, 12)) == epoch_seconds(aware)


def test_context_knows_hour_weekday_and_month() -> None:
    monday_6h = epoch_seconds(datetime(2024, 4, 1, 6, tzinfo=UTC))  # a quarter through the day, Monday, a quarter through the year
    np.testing.assert_allclose(context_features(np.array([monday_6h]))[0], [1, 0, 0, 1, 1, 0], atol=1e-12)


def test_demographics_of_a_customer(shop, at) -> None:
    shop.add("customers", {"customer_id": "c", "joined_at": at(10), "birth_date": date(1985, 3, 1), "gender": "female", "income": 0})
    row = asof.load_demographics(shop.connection, CUSTOMER)
    before, after = (demographic_features(row, np.array([epoch_seconds(at(d))]))[0] for d in (0, 375))
    assert before[0] == 0.0
    assert after[0] == pytest.approx(np.log1p(365) / np.log1p(3650))
    assert before[1:].tolist() == pytest.approx([1, 0.30, 1, 0, 1, 0, 0], abs=1e-3)


@pytest.mark.parametrize(("gender", "expected"), [("M", [0, 1, 0]), ("O", [0, 0, 1]), (None, [0, 0, 0]), (" ", [0, 0, 0])])
def test_gender_is_one_hot_and_unknown_is_zero(shop, gender, expected) -> None:
    shop.add("customers", {"customer_id": "c", "gender": gender})
    row = asof.load_demographics(shop.connection, CUSTOMER)
    assert demographic_features(row, np.zeros(1))[0, 5:].tolist() == expected


def test_an_age_group_stands_in_for_a_birth_date(shop) -> None:
    shop.add("customers", {"customer_id": "c", "age_group": "25-34"})
    features = demographic_features(asof.load_demographics(shop.connection, CUSTOMER), np.zeros(1))[0]
    assert features[1:3].tolist() == pytest.approx([1, 0.295])


def test_an_impossible_age_is_unknown() -> None:
    row = NO_DEMOGRAPHICS.copy()
    row[1] = epoch_seconds(datetime(1850, 1, 1, tzinfo=UTC))
    assert demographic_features(row[None], np.array([1.6e9]))[0, 1:3].tolist() == [0, 0]
