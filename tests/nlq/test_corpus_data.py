"""The sample warehouse: every table filled, the same rows each time."""

from __future__ import annotations

from datetime import date
from itertools import pairwise
from pathlib import Path

import pytest

from nlq.corpus.check import open_business, values_of
from nlq.corpus.data import FACTORS, SEGMENTS, build
from nlq.vocabulary import TABLES, fields
from warehouse.store import Warehouse


def contents(store: Warehouse, table: str) -> list[tuple[object, ...]]:
    connection = store.connect()
    rows = connection.sql(f"SELECT * FROM {table}").fetchall()  # noqa: S608 - our own names
    connection.close()
    return sorted(rows, key=repr)


@pytest.fixture(scope="module")
def store(small_home: Path) -> Warehouse:
    return Warehouse(small_home / "warehouse")


def test_every_table_has_rows_of_both_businesses(store: Warehouse) -> None:
    connection = store.connect()
    for table in TABLES:
        of = "transactions" if table == "transaction_items" else table
        found = connection.sql(f"SELECT DISTINCT business_id FROM {of} ORDER BY 1").fetchall()  # noqa: S608
        assert found == [("biz-1",), ("biz-2",)], table
        assert connection.sql(f"SELECT count(*) FROM {table}").fetchall()[0][0] > 0  # noqa: S608


def test_the_same_arguments_give_the_same_rows_and_another_seed_others(tmp_path: Path) -> None:
    sizes = {"customers": 20, "months": 2, "rewards": 40, "businesses": 1}
    one, two = (build(tmp_path / name, **sizes) for name in ("one", "two"))
    other = build(tmp_path / "other", **sizes, seed=12)
    for table in TABLES:
        assert contents(one, table) == contents(two, table), table
    assert contents(one, "customer_risk_scores") != contents(other, "customer_risk_scores")


def test_the_end_is_where_it_is_asked_for(tmp_path: Path) -> None:
    made = build(tmp_path, end=date(2025, 3, 1), customers=20, months=2, rewards=40, businesses=1)
    assert date(2025, 2, 25) <= made.as_of("biz-1").date() <= date(2025, 3, 1)


def test_scores_agree_with_themselves(store: Warehouse) -> None:
    connection = store.connect()
    wrong = connection.sql(
        """SELECT count(*) FROM customer_risk_scores
           WHERE NOT (churn_30 <= 1 AND churn_30 >= churn_60 AND churn_60 >= churn_90 AND churn_90 >= 0
             AND days_until_churn >= 1 AND predicted_clv >= 0)"""
    ).fetchall()
    ordered = connection.sql("SELECT risk_level, min(churn_90), max(churn_90) FROM customer_risk_scores GROUP BY 1 ORDER BY 2").fetchall()
    assert [r[0] for r in ordered] == [level for level in ("LOW", "MEDIUM", "HIGH", "CRITICAL") if level in {r[0] for r in ordered}]
    assert all(a[2] <= b[1] for a, b in pairwise(ordered))
    assert wrong == [(0,)]
    sizes = connection.sql("SELECT name, size FROM segments WHERE business_id = 'biz-1'").fetchall()
    assert {name for name, _ in sizes} == {name for name, _ in SEGMENTS}
    assert sum(size for _, size in sizes) == connection.sql("SELECT count(*) FROM customers WHERE business_id = 'biz-1'").fetchall()[0][0]
    assert {r[0] for r in connection.sql("SELECT DISTINCT top_factor FROM customer_risk_scores").fetchall()} <= set(FACTORS)


def test_one_business_is_opened_alone(small_home: Path, store: Warehouse) -> None:
    connection = open_business(small_home / "warehouse", "biz-2")
    assert connection.execute("SELECT DISTINCT business_id FROM customers").fetchall() == [("biz-2",)]
    mine = connection.execute("SELECT count(*) FROM transaction_items").fetchall()[0][0]
    assert 0 < mine < len(contents(store, "transaction_items"))


def test_values_are_those_of_open_columns(small_home: Path) -> None:
    found = values_of(open_business(small_home / "warehouse", "biz-1"))
    assert set(found) == {t for t, f in fields().items() if f.open}
    assert all(found.values())
    assert found["customers.location"] == sorted(set(found["customers.location"]))
