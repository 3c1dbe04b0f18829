"""The schema of questions says of every table of the contract what it means, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from contracts.errors import ContractError
from contracts.tables import TABLES
from nlq.schema import SCHEMA, TENANT


def test_tables_and_columns_are_those_of_the_contract_in_their_order() -> None:
    assert list(SCHEMA.tables) == list(TABLES)
    for name, table in SCHEMA.tables.items():
        assert list(table.columns) == TABLES[name].columns
        assert table.key == tuple(c for c in TABLES[name].key if c != TENANT)
        assert all(c.table == name and c.name == column and c.description for column, c in table.columns.items())


def test_kinds_fit_the_types() -> None:
    fits = {
        "id": {"VARCHAR"}, "text": {"VARCHAR"}, "category": {"VARCHAR"}, "json": {"VARCHAR"}, "number": {"BIGINT", "DOUBLE"},
        "money": {"DECIMAL(18, 4)"}, "time": {"TIMESTAMPTZ"}, "date": {"DATE"}, "flag": {"BOOLEAN"},
    }  # fmt: skip
    assert [c.full_name for c in SCHEMA.columns if c.sql_type not in fits[c.kind]] == []
    assert all(c.name.endswith("_id") for c in SCHEMA.columns if c.kind == "id")


def test_times_partition_as_in_the_contract_and_are_times() -> None:
    for name, table in SCHEMA.tables.items():
        assert TABLES[name].time in (None, table.time)
        assert table.time is None or table.columns[table.time].kind == "time"
        assert table.name_column is None or table.columns[table.name_column].kind == "text"


def test_closed_categories_hold_what_the_checks_allow() -> None:
    checked = {
        (name, check.name.removesuffix("_unknown")): check.predicate
        for name, table in TABLES.items()
        for check in table.checks
        if check.name.endswith("_unknown")
    }
    for (table, column), predicate in checked.items():
        listed = tuple(part.strip(" '") for part in predicate.partition("(")[2].rstrip(")").split(","))
        assert SCHEMA.column(table, column).values == listed
    assert {(c.table, c.name) for c in SCHEMA.columns if c.values} - checked.keys() == {("customer_risk_scores", "top_factor")}


def test_private_columns_are_email_and_birth_date() -> None:
    assert SCHEMA.private == {("customers", "email"), ("customers", "birth_date")}


def test_foreign_keys_point_at_the_key_of_a_table() -> None:
    for key in SCHEMA.foreign_keys:
        assert SCHEMA.column(key.table, key.column).kind == "id"
        assert SCHEMA.table(key.to_table).key == (key.to_column,)
    assert SCHEMA.joins("customers", "transactions")[0].condition == "transactions.customer_id = customers.customer_id"
    assert SCHEMA.joins("products", "tickets") == ()


def test_a_path_follows_many_to_one_joins_only() -> None:
    path = SCHEMA.path("transaction_items", "customers")
    assert path is not None
    assert [k.to_table for k in path] == ["transactions", "customers"]
    assert SCHEMA.path("customers", "customers") == ()
    assert SCHEMA.path("customers", "transactions") is None


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(ContractError, match=r"no table 'orders', there are customers, .*Use one"):
        SCHEMA.table("orders")
    with pytest.raises(ContractError, match=r"no column 'phone' in customers, there are customer_id, .*Use one"):
        SCHEMA.column("customers", "phone")


def test_the_schema_loads_no_engine() -> None:
    code = "import sys, nlq.schema; print(sorted({'duckdb', 'sqlglot', 'torch', 'transformers'} & set(sys.modules)))"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
