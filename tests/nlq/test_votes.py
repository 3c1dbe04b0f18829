"""Readings that come to the same, by a fingerprint of their rows."""

from __future__ import annotations

import duckdb
import pytest

from contracts.errors import UpstreamTimeout
from nlq.decode import Hypothesis
from nlq.lower import Lowered
from nlq.types import OutputColumn, Rows
from nlq.votes import REACH, agreeing, fingerprint_sql, within_reach


def made(sql: str, columns: int = 1) -> Lowered:
    return Lowered(sql, tuple(OutputColumn(f"x{i}", "number") for i in range(columns)), "")


def run(sql: str) -> Rows:
    return Rows((), tuple(duckdb.connect().execute(sql).fetchall()))


def agree(one: Lowered, other: Lowered) -> bool:
    return bool(agreeing(one, {1: other}, run))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (made("SELECT 5"), made("SELECT 5.0::DECIMAL(9,2)")),
        (made("SELECT 1/3.0"), made("SELECT 0.33333333::DOUBLE")),
        (made("FROM range(9)"), made("SELECT * FROM range(9) ORDER BY 1 DESC")),
        (made("SELECT range, range * 2 FROM range(9)", 2), made("SELECT range * 2 FROM range(9)")),
        (made("SELECT range FROM range(9)"), made("SELECT 'a', range FROM range(9)", 2)),
        (made("SELECT unnest(['b', NULL])"), made("SELECT unnest([NULL, 'b'])")),
        (made('SELECT 1 AS "n", 2 AS "n"', 2), made("SELECT 2, 1", 2)),
    ],
)
def test_the_same_rows_agree(one: Lowered, other: Lowered) -> None:
    assert agree(one, other)
    assert agree(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (made("SELECT 5"), made("SELECT 6")),
        (made("FROM range(9)"), made("FROM range(10)")),
        (made("SELECT unnest([1, 1, 2])"), made("SELECT unnest([1, 2, 2])")),
        (made("SELECT unnest([3, 3, 2, 2])"), made("SELECT unnest([4, 4, 5, 5])")),  # pairs do not cancel
        (made("SELECT 'a', 1", 2), made("SELECT 'a', 2", 2)),
    ],
)
def test_other_rows_do_not(one: Lowered, other: Lowered) -> None:
    assert not agree(one, other)


@pytest.mark.parametrize("nothing", ["SELECT 0", "SELECT NULL", "SELECT 1 WHERE false", "SELECT 0.0::DECIMAL(9,2)", "SELECT false"])
def test_nothing_agrees_with_nothing(nothing: str) -> None:
    """Two conditions that no row meets are not therefore the same."""
    assert not agree(made(nothing), made(nothing + " ORDER BY 1"))


def test_what_fails_or_is_late_agrees_with_nothing() -> None:
    def late(sql: str) -> Rows:
        if "7" in sql:
            raise UpstreamTimeout("the query took longer than 1 s. Ask for less.")
        return run(sql)

    rivals = {1: made("SELECT 7"), 2: made("SELECT 5 + 0"), 3: None}
    assert agreeing(made("SELECT 5"), rivals, late) == {2}
    assert agreeing(made("SELECT 7"), rivals, late) == frozenset()


def test_without_rivals_or_data_nothing_is_run() -> None:
    def never(sql: str) -> Rows:
        raise AssertionError(sql)

    assert agreeing(made("SELECT 1"), {1: None}, never) == frozenset()
    assert agreeing(made("SELECT 1"), {1: made("SELECT 1")}, None) == frozenset()


def test_only_what_is_likely_enough_is_within_reach() -> None:
    scores = (-0.1, -1.0, -0.1 - REACH - 0.01, -2.0)
    found = [Hypothesis(("x",), s, s, 1.0) for s in scores]
    assert within_reach(found, 0) == [1, 3]
    assert within_reach(found, 1) == [0, 3]


def test_a_fingerprint_is_one_row_however_many_there_are() -> None:
    assert len(run(fingerprint_sql(made("SELECT range, 'x' FROM range(100000)", 2))).data) == 1
