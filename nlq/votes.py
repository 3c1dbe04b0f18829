"""Which readings of a question come to the same? By their rows on the data that is asked about.

Two programs may differ and mean one thing: another order of conditions, one more column shown, a count of rows or of their ids. What the
network is torn between is then no doubt, so their probabilities are added. Rows are compared by a fingerprint that DuckDB computes, so
that none of them is fetched.

Source: execution-based minimum Bayes risk decoding, Shi and others, "Natural language to code translation with execution", EMNLP 2022.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from contracts.errors import StackError
from nlq.decode import Hypothesis
from nlq.lower import Lowered
from nlq.types import Rows

Run = Callable[[str], Rows]
"""Runs one SELECT on the rows of the business that is asked about."""
REACH = 4.0
"""Readings less likely than the best one by more than this (natural logarithm) are not run: all together they change little."""
_NOTHING = ("0.00000e+00", "false", "", "None")
_TEXT = "coalesce(format('{{:.5e}}', TRY_CAST(CAST(c{0} AS VARCHAR) AS DOUBLE)), CAST(c{0} AS VARCHAR), '')"
"""A value as text: numbers to six digits, so that a count is equal to the same count as a decimal."""


def within_reach(hypotheses: Sequence[Hypothesis], at: int) -> list[int]:
    """Places of the readings beside the one at a place that are likely enough to be run."""
    best = max(h.score for h in hypotheses)
    return [i for i, h in enumerate(hypotheses) if i != at and h.score > best - REACH]


def agreeing(mine: Lowered, rivals: Mapping[int, Lowered | None], run: Run | None) -> frozenset[int]:
    """Which of the rivals, by place, come to the same as `mine`; nothing is run where there are none.

    Args:
        rivals: None for one that SQL cannot say.
        run: None where there is no data to run on: then nothing agrees.
    """
    told = {i: made for i, made in rivals.items() if made is not None}
    if run is None or not told:
        return frozenset()
    wanted = _print(mine, run)
    if wanted is None:
        return frozenset()
    return frozenset(i for i, made in told.items() if made.sql == mine.sql or _alike(wanted, _print(made, run)))


_Print = tuple[int, Counter[Any]]
"""Number of rows, and the fingerprints of its columns."""


def fingerprint_sql(made: Lowered) -> str:
    """A SELECT of one row: the number of rows, then of each column a sum of hashes, which no order changes, and one of its values."""
    count = len(made.columns)
    named = ", ".join(f"c{i}" for i in range(count))
    texts = [_TEXT.format(i) for i in range(count)]
    parts = ", ".join(f"CAST(sum(hash({t})) AS VARCHAR), any_value({t})" for t in texts)
    return f"SELECT count(*), {parts} FROM ({made.sql}) AS found({named})"  # noqa: S608 - SQL that lowering made


def _read(row: Sequence[Any]) -> _Print | None:
    """None where there are no rows, or one that holds nothing: readings that find nothing need not mean the same."""
    rows, values = int(row[0]), row[2::2]
    if rows == 0 or (rows == 1 and all(str(v) in _NOTHING for v in values)):
        return None
    return rows, Counter(row[1::2])


def _print(made: Lowered, run: Run) -> _Print | None:
    try:
        return _read(run(fingerprint_sql(made)).data[0])
    except StackError:  # what cannot be run, or not in time, agrees with nothing
        return None


def _alike(one: _Print, other: _Print | None) -> bool:
    """As many rows, and the columns of one are among those of the other."""
    return other is not None and one[0] == other[0] and (not one[1] - other[1] or not other[1] - one[1])


__all__ = ["REACH", "Run", "agreeing", "fingerprint_sql", "within_reach"]
