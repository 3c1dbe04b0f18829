"""Row by row: what is read, what is put aside, and why."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import ContractError
from contracts.tables import MONEY, TABLES, TEXT, TIMESTAMP
from warehouse.quality import aside, convert, type_name, validate

NOW = datetime(2025, 1, 1, tzinfo=UTC)


def read(values: list[Any], source: pa.DataType, target: pa.DataType) -> tuple[list[Any], set[str]]:
    out, bad = convert(pa.chunked_array([pa.array(values, source)]), target)
    assert out.type == target
    return out.to_pylist(), set(bad)


@pytest.mark.parametrize(
    ("values", "source", "target", "expected", "reasons"),
    [
        (["12", " 7 ", "1.0", "-3"], pa.string(), pa.int64(), [12, 7, 1, -3], set()),
        (["1.5", "0x10", "1_000", "", "9" * 19, "٣"], pa.string(), pa.int64(), [None] * 6, {"not_integer"}),
        ([1.0, 2.5, float("nan"), float("inf"), 1e30, -0.0], pa.float64(), pa.int64(), [1, None, None, None, None, 0], {"not_integer"}),
        ([2**64 - 1, 5], pa.uint64(), pa.int64(), [None, 5], {"not_integer"}),
        (["1.25", "1e3", "nan", "inf", "1e999", "a"], pa.string(), pa.float64(), [1.25, 1000.0, None, None, None, None], {"not_number"}),
        ([1, None], pa.int8(), pa.float64(), [1.0, None], set()),
        (["10.5", "0.00005", "1e15", "-2", "NaN"], pa.string(), MONEY,
         [Decimal("10.5000"), Decimal("0.0000"), None, Decimal("-2.0000"), None], {"not_money"}),
        ([0.1, float("nan"), 1e14, -1e14], pa.float64(), MONEY, [Decimal("0.1000"), None, None, None], {"not_money"}),
        ([3, 10**15], pa.int64(), MONEY, [Decimal("3.0000"), None], {"not_money"}),
        ([Decimal("1.00005")], pa.decimal128(20, 5), MONEY, [Decimal("1.0000")], set()),
        ([Decimal("7.00"), Decimal("7.50")], pa.decimal128(20, 2), pa.int64(), [7, None], {"not_integer"}),
        ([Decimal("7.00"), Decimal("7.50")], pa.decimal128(20, 2), TEXT, ["7", None], {"not_text"}),
        ([Decimal("1")], pa.decimal128(20, 2), pa.bool_(), [None], {"not_boolean"}),
        (["2024-05-01", "2024-05-01T10:00:00+02:00", "2024-05-01T10:00:00Z", "May"], pa.string(), TIMESTAMP,
         [datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 1, 8, tzinfo=UTC), datetime(2024, 5, 1, 10, tzinfo=UTC), None],
         {"not_timestamp"}),
        (["0001-01-01", "9999-12-31T23:59:59-10:00"], pa.string(), TIMESTAMP, [None, None], {"out_of_range", "not_timestamp"}),
        ([datetime(2024, 5, 1)], pa.timestamp("ns"), TIMESTAMP, [datetime(2024, 5, 1, tzinfo=UTC)], set()),
        ([date(2024, 5, 1), date(1, 1, 1)], pa.date32(), TIMESTAMP, [datetime(2024, 5, 1, tzinfo=UTC), None], {"out_of_range"}),
        ([5], pa.int64(), TIMESTAMP, [None], {"not_timestamp"}),
        (["1990-02-03", "1990-02-30"], pa.string(), pa.date32(), [date(1990, 2, 3), None], {"not_date"}),
        ([datetime(1960, 2, 3, 23)], pa.timestamp("s"), pa.date32(), [date(1960, 2, 3)], set()),
        (["Yes", "0", "maybe"], pa.string(), pa.bool_(), [True, False, None], {"not_boolean"}),
        ([1, 0, 2], pa.int32(), pa.bool_(), [True, False, None], {"not_boolean"}),
        ([17, None], pa.int64(), TEXT, ["17", None], set()),
        ([17.0, 17.5], pa.float64(), TEXT, ["17", None], {"not_text"}),
        ([True], pa.bool_(), TEXT, [None], {"not_text"}),
        ([["a"]], pa.list_(pa.string()), TEXT, [None], {"not_text"}),
        ([b"ok", b"\xff\xfe"], pa.binary(), TEXT, ["ok", None], {"not_text"}),
        (["x"], pa.large_string(), TEXT, ["x"], set()),
        ([None, None], pa.null(), MONEY, [None, None], set()),
    ],
)  # fmt: skip
def test_values_are_read_or_refused_one_by_one(
    values: list[Any], source: pa.DataType, target: pa.DataType, expected: list[Any], reasons: set[str]
) -> None:
    assert read(values, source, target) == (expected, reasons)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_at_the_ends_of_their_range_are_out_of_range_not_wrapped(unit: str) -> None:
    raw = pa.array([2**63 - 1, -(2**63) + 1, 0], pa.int64()).view(pa.timestamp(unit))
    out, bad = convert(pa.chunked_array([raw]), TIMESTAMP)
    assert out[2].as_py() == datetime(1970, 1, 1, tzinfo=UTC)
    assert set(bad) == {"out_of_range"}
    assert bad["out_of_range"].tolist() == [True, True, False]


def test_invalid_utf8_in_a_text_column_puts_aside_that_row_only() -> None:
    broken = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"\xff"], pa.binary()).buffers())
    batch = pa.table({"product_id": broken, "business_id": ["b", "b"]})
    verdict = validate(TABLES["products"], batch)
    assert verdict.good["product_id"].to_pylist() == ["ok"]
    assert json.loads(aside(batch, verdict, "s", NOW)["row"][0].as_py())["product_id"] == r"b'\xff'"


def test_dictionary_columns_are_read_as_their_values() -> None:
    out, bad = convert(pa.chunked_array([pa.array(["a", "b", "a"]).dictionary_encode()]), TEXT)
    assert (out.to_pylist(), bad) == (["a", "b", "a"], {})


def test_type_names_of_every_contract_column_are_known() -> None:
    assert {type_name(f.type) for t in TABLES.values() for f in t.schema} == {
        "text",
        "integer",
        "number",
        "money",
        "timestamp",
        "date",
        "boolean",
    }


def event(**changes: Any) -> dict[str, Any]:
    return {
        "event_id": "e", "business_id": "b", "customer_id": "c", "occurred_at": "2024-01-01", "event_type": "redemption", "reward_id": "r",
        "channel": "app", "value": 1.0, "metadata": "{}", **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"reward_id": None, "event_type": "app_open", "channel": None, "value": None, "metadata": None}, None),
        ({"customer_id": None}, "customer_id_missing"),
        ({"customer_id": "  "}, "customer_id_missing"),
        ({"occurred_at": None}, "occurred_at_missing"),
        ({"occurred_at": "yesterday"}, "occurred_at_not_timestamp"),
        ({"occurred_at": "1700-01-01"}, "occurred_at_out_of_range"),
        ({"event_type": "dance"}, "event_type_unknown"),
        ({"channel": "fax"}, "channel_unknown"),
        ({"value": float("inf")}, "value_not_finite"),
        ({"value": float("nan")}, "value_not_finite"),
        ({"metadata": "{not json"}, "metadata_not_json"),
        ({"reward_id": None}, "reward_id_missing"),
    ],
)
def test_each_rule_of_events_has_its_reason(changes: dict[str, Any], reason: str | None) -> None:
    verdict = validate(TABLES["events"], pa.Table.from_pylist([event(**changes), event(event_id="good")]))
    assert verdict.reasons.tolist() == [reason, None]
    assert verdict.counts() == ({reason: 1} if reason else {})


def test_missing_optional_columns_become_null_and_missing_required_ones_put_rows_aside() -> None:
    verdict = validate(TABLES["products"], pa.table({"product_id": ["p"], "business_id": ["b"]}))
    assert verdict.good.to_pylist() == [
        {"product_id": "p", "business_id": "b", "name": None, "brand": None, "category": None, "price": None}
    ]
    assert validate(TABLES["products"], pa.table({"product_id": ["p"]})).counts() == {"business_id_missing": 1}


def test_unknown_and_repeated_columns_are_refused() -> None:
    with pytest.raises(ContractError, match="products has no column colour"):
        validate(TABLES["products"], pa.table({"product_id": ["p"], "colour": ["red"]}))
    with pytest.raises(ContractError, match="product_id twice"):
        validate(TABLES["products"], pa.table([pa.array(["a"]), pa.array(["b"])], names=["product_id", "product_id"]))


_TEXTS = st.one_of(st.none(), st.text(max_size=6), st.sampled_from(["1.5", "-2", "1e2", "nan", "2024-05-01", "true"]))
_INT64 = st.integers(-(2**63), 2**63 - 1)
COLUMNS = st.one_of(
    st.lists(_TEXTS, max_size=5).map(lambda v: pa.array(v, pa.string())),
    st.lists(st.one_of(st.none(), st.floats(width=64)), max_size=5).map(lambda v: pa.array(v, pa.float64())),
    st.lists(st.one_of(st.none(), _INT64), max_size=5).map(lambda v: pa.array(v, pa.int64())),
    st.lists(st.one_of(st.none(), st.binary(max_size=4)), max_size=5).map(lambda v: pa.array(v, pa.binary())),
    st.lists(_INT64, max_size=5).map(lambda v: pa.array(v, pa.int64()).view(pa.timestamp("ns"))),
    st.lists(_INT64, max_size=5).map(lambda v: pa.array(v, pa.int64()).view(pa.timestamp("s", "UTC"))),
    st.lists(st.booleans(), max_size=5).map(lambda v: pa.array(v, pa.bool_())),
)


@settings(max_examples=25, deadline=None)
@given(
    column=COLUMNS,
    target=st.sampled_from(["points_balance", "income", "joined_at", "birth_date", "consent_personalization", "name"]),
)
def test_any_content_is_judged_row_by_row_and_never_crashes(column: pa.Array, target: str) -> None:
    n = len(column)
    batch = pa.table(
        {"customer_id": pa.array([str(i) for i in range(n)], pa.string()), "business_id": pa.array(["b"] * n, pa.string()), target: column}
    )
    whole = validate(TABLES["customers"], batch)
    assert whole.good.num_rows + sum(whole.counts().values()) == n
    if whole.rejected:
        kept = aside(batch, whole, "s", NOW)
        assert all(isinstance(json.loads(row), dict) for row in kept["row"].to_pylist())
    alone = [validate(TABLES["customers"], batch.slice(i, 1)) for i in range(n)]
    assert [v.reasons[0] for v in alone] == whole.reasons.tolist()
    if n:
        assert pa.concat_tables([v.good for v in alone]).equals(whole.good)
