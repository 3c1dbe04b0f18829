"""When two answers are the same."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlq.evaluate import canonical, same_rows

Rows = list[tuple[Any, ...]]


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ([], []),
        ([(3,)], [(3.0,)]),
        ([(Decimal("12.5000"),)], [(12.5,)]),
        ([(True,)], [(1,)]),
        ([(-0.0,)], [(0,)]),
        ([(1 / 3,)], [(0.3333333,)]),
        ([(1234567.4,)], [(1234567.0,)]),  # six digits
        ([(date(2026, 5, 1),)], [(datetime(2026, 5, 1),)]),
        ([(datetime(2026, 5, 1, tzinfo=UTC),)], [(date(2026, 5, 1),)]),
        ([(datetime(2026, 5, 1, 2, tzinfo=timezone(timedelta(hours=2))),)], [(datetime(2026, 5, 1, tzinfo=UTC),)]),
        ([(time(9, 30),)], [(time(9, 30),)]),
        ([(None,)], [(None,)]),
        ([("a", 1), ("b", 2)], [("b", 2), ("a", 1)]),
        ([("a", 1), ("a", 1)], [("a", 1), ("a", 1)]),
        ([("id-1", "Ann", 7), ("id-2", "Bo", 3)], [("Ann", 7), ("Bo", 3)]),  # more columns than asked for
        ([("Ann", 7)], [(7, "Ann")]),  # in another order
        ([(1, 2), (2, 1)], [(2, 1), (1, 2)]),  # both columns hold the same values, only one choice fits
        ([(5, 5)], [(5, 5)]),
    ],
)
def test_the_same(found: Rows, wanted: Rows) -> None:
    assert same_rows(found, wanted)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ([], [(1,)]),
        ([(1,)], []),
        ([(1,)], [(2,)]),
        ([(1,)], [("1",)]),
        ([(None,)], [(0,)]),
        ([(0.333,)], [(0.3333333,)]),
        ([(date(2026, 5, 1),)], [(date(2026, 5, 2),)]),
        ([(time(9, 30),)], [(time(9, 31),)]),
        ([("Ann", 7)], [("Ann", 7), ("Ann", 7)]),  # as often
        ([("a", 1), ("a", 1), ("b", 1)], [("a", 1), ("b", 1), ("b", 1)]),
        ([("Ann", 7), ("Bo", 3)], [("Ann", 3), ("Bo", 7)]),  # each column alone is right
        ([("Ann",)], [("Ann", 7)]),  # a column short
        ([(5,)], [(5, 5)]),  # one column is not two
    ],
)
def test_not_the_same(found: Rows, wanted: Rows) -> None:
    assert not same_rows(found, wanted)


def test_order_counts_where_the_question_ranks() -> None:
    ranked = [("Ann", 7), ("Bo", 3)]
    assert same_rows(ranked, ranked, ordered=True)
    assert not same_rows(ranked[::-1], ranked, ordered=True)
    assert same_rows([(7, "x", "Ann"), (3, "y", "Bo")], ranked, ordered=True)
    assert not same_rows([(7, "Bo"), (3, "Ann")], ranked, ordered=True)


CELLS = st.one_of(st.none(), st.integers(-5, 5), st.floats(-3, 3), st.sampled_from("abc"), st.dates(), st.booleans())


@given(st.data(), st.integers(1, 4), st.integers(1, 3))
def test_rows_shuffled_and_columns_added_stay_the_same(draw: st.DataObject, height: int, width: int) -> None:
    rows = [tuple(draw.draw(CELLS) for _ in range(width)) for _ in range(height)]
    order = draw.draw(st.permutations(range(width)))
    extra = draw.draw(st.lists(CELLS, min_size=height, max_size=height))
    mine = draw.draw(st.permutations([(*(row[i] for i in order), more) for row, more in zip(rows, extra, strict=True)]))
    assert same_rows(mine, rows)
    assert same_rows(rows, rows, ordered=True)
    assert not same_rows([*mine, mine[0]], rows)


@given(
    st.one_of(
        CELLS, st.decimals(allow_nan=False, allow_infinity=False, places=2, max_value=10**9, min_value=-(10**9)), st.datetimes(), st.times()
    )
)
def test_canonical_of_canonical_changes_nothing(value: Any) -> None:
    assert canonical(canonical(value)) == canonical(value)
