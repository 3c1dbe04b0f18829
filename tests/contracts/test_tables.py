"""The warehouse's tables."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest

from contracts.tables import EVENT_TYPES, TABLES, Table

EVERY = pytest.mark.parametrize("table", TABLES.values(), ids=lambda t: t.name)


@EVERY
def test_keys_and_times_are_required_columns(table: Table) -> None:
    assert set(table.key) <= set(table.required) <= set(table.columns)
    if table.time is not None:
        assert table.schema.field(table.time).type == pa.timestamp("us", tz="UTC")
        assert table.time in table.required
    assert TABLES[table.name] is table


@EVERY
def test_check_names_tell_the_reasons_apart(table: Table) -> None:
    names = [c.name for c in table.checks]
    assert len(set(names)) == len(names)


@EVERY
def test_checks_run_in_duckdb_and_let_unknown_values_pass(table: Table) -> None:
    row = pa.Table.from_pylist([dict.fromkeys(table.columns)], schema=pa.schema([f.with_nullable(True) for f in table.schema]))
    with duckdb.connect() as connection:
        connection.register("row", row)
        for check in table.checks:
            passed = connection.execute(f"SELECT ({check.predicate}) IS NOT FALSE FROM row").fetchall()  # noqa: S608
            assert passed == [(True,)], check.name


def event_reasons(**values: object) -> list[str]:
    table = TABLES["events"]
    base = {"event_id": "e", "business_id": "b", "customer_id": "c", "event_type": "app_open"}
    row = pa.Table.from_pylist([{**base, **values}], schema=pa.schema([f.with_nullable(True) for f in table.schema]))
    with duckdb.connect() as connection:
        connection.register("row", row)
        return [c.name for c in table.checks if connection.execute(f"SELECT ({c.predicate}) IS FALSE FROM row").fetchall() == [(True,)]]  # noqa: S608


def test_event_checks_name_what_is_wrong() -> None:
    assert event_reasons() == []
    assert event_reasons(event_type="purchase") == ["event_type_unknown"]
    assert event_reasons(event_type="redemption") == ["reward_id_missing"]
    assert event_reasons(event_type="redemption", reward_id="r") == []
    assert event_reasons(channel="fax", value=float("nan"), metadata="{") == ["channel_unknown", "value_not_finite", "metadata_not_json"]
    assert all(event_reasons(event_type=kind, reward_id="r") == [] for kind in EVENT_TYPES)
