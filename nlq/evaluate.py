"""Is an answer right? The rows of a reading against the rows of reference SQL.

A reading is right when the reference's columns are among its own: some choice of as many of its columns holds the same rows, as often
(in the same order where the question ranks). Names of columns do not count; numbers are compared to six significant digits, dates as
instants.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

MAX_CHOICES = 5000


def canonical(value: Any) -> Any:
    """A value that equals what means the same: numbers to six significant digits, a date as its midnight in UTC."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, Decimal | int | float):
        return float(f"{float(value):.6g}") + 0.0
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC).replace(tzinfo=None)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    return value


def _column(rows: Sequence[Sequence[Any]], at: int) -> tuple[Any, ...]:
    return tuple(row[at] for row in rows)


def same_rows(found: Sequence[Sequence[Any]], wanted: Sequence[Sequence[Any]], *, ordered: bool = False) -> bool:
    """Whether `wanted`'s columns are among those of `found`, row for row (in any order unless `ordered`)."""
    if len(found) != len(wanted):
        return False
    if not wanted:
        return True
    mine = [[canonical(v) for v in row] for row in found]
    theirs = [[canonical(v) for v in row] for row in wanted]
    candidates: list[list[int]] = []
    for at in range(len(theirs[0])):
        column = _column(theirs, at)
        fits = [i for i in range(len(mine[0])) if (_column(mine, i) == column if ordered else Counter(_column(mine, i)) == Counter(column))]
        if not fits:
            return False
        candidates.append(fits)
    goal = [tuple(row) for row in theirs] if ordered else Counter(tuple(row) for row in theirs)
    for choice in itertools.islice(itertools.product(*candidates), MAX_CHOICES):
        if len(set(choice)) < len(choice):
            continue
        picked = [tuple(row[i] for i in choice) for row in mine]
        if (picked if ordered else Counter(picked)) == goal:
            return True
    return False
