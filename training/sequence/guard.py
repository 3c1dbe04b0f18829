"""No input and no label may know what came after its time. Held by computing both again from tables that end there.

The rows of some customers are copied into a database of their own. For labels it ends at the as-of day of the whole history; for inputs it
is cut down to each sample's own as-of day, so that what comes later is not merely left out by a condition: it is not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

import duckdb
import numpy as np
import pyarrow as pa

from contracts.errors import ArtifactError
from features import weekly
from training.sequence import data
from training.sequence.data import Samples, midnight

MOST = 300
TOLERANCE = 1e-3
"""Sums of float32 in another order differ by less than this; a planted column would by more."""
_DATED = {"transactions": "occurred_at", "events": "occurred_at", "tickets": "created_at"}
_INPUTS = ("weeks", "statics")
_COLUMNS = {"weeks": weekly.CHANNELS, "statics": weekly.STATICS}
_NO_LABELS = ("customer", "as_of_day", "customers", *_INPUTS)


def check(connection: duckdb.DuckDBPyConnection, as_of_day: int, samples: Samples, most: int = MOST, seed: int = 0) -> None:
    """Refuse samples that know what came later.

    Args:
        connection: with the warehouse's tables, which may go on after the as-of day.
        as_of_day: the first day that nothing may know about: every label must end before it, every input before its own as-of day.
        most: samples that are computed again, drawn with the seed.

    Raises:
        ArtifactError: a label reaches beyond the as-of day, or an input or a label is not what the tables up to its time give; the message
            names the column.
    """
    ends = samples.as_of_day.astype(np.int64) + samples.observed_days
    if len(samples) and int(ends.max()) > as_of_day:
        raise ArtifactError(
            f"labels reach to {midnight(int(ends.max())):%Y-%m-%d}, nothing after {midnight(as_of_day):%Y-%m-%d} may be known. "
            "Build the samples with that day as end_day."
        )
    rows = np.arange(len(samples))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    some = samples.take(rows)
    who, code = np.unique(some.customer, return_inverse=True)
    customers = samples.customers.take(pa.array(who)).select(["business_id", "customer_id"])
    with _cut(connection, customers, as_of_day) as cut:
        history = weekly.read(cut, customers, midnight(as_of_day))
        for end in np.unique(ends[rows]).tolist():
            of_end = ends[rows] == end
            for day in np.unique(some.as_of_day[of_end]).tolist():
                at = np.flatnonzero(of_end & (some.as_of_day == day))
                _same(some.take(at), _again(cut, customers, history, code[at], day, end), labels=True)
        for day in np.unique(some.as_of_day)[::-1].tolist():
            _end(cut, day)
            at = np.flatnonzero(some.as_of_day == day)
            _same(some.take(at), _again(cut, customers, weekly.read(cut, customers, midnight(day)), code[at], day, day), labels=False)


def _again(
    cut: duckdb.DuckDBPyConnection, customers: pa.Table, history: weekly.DailyHistory, code: np.ndarray, day: int, end: int
) -> Samples:
    """Samples of some customers (rows of `customers`) at one day, computed from a history alone."""
    order = np.argsort(code)
    own = data.pick(history, code[order])
    if (data.first_purchase(own) >= day).any():
        raise ArtifactError(
            f"a sample of {midnight(day):%Y-%m-%d} is of a customer who had not bought by then, so it knows that a purchase follows. "
            "Take customers with a purchase before the as-of day only."
        )
    built = data.build(cut, [day], end, customers=customers.take(pa.array(code[order])), history=own)
    return built.take(np.argsort(order))


def _same(used: Samples, again: Samples, labels: bool) -> None:
    """Compare the inputs, or the labels."""
    names = [f.name for f in fields(Samples) if f.name not in _NO_LABELS] if labels else list(_INPUTS)
    for name in names:
        mine, theirs = getattr(used, name).astype(np.float64), getattr(again, name).astype(np.float64)
        with np.errstate(invalid="ignore"):  # inf less inf
            off = ~((mine == theirs) | (np.abs(mine - theirs) <= TOLERANCE * (1.0 + np.abs(theirs))))
        if off.any():
            which = (
                ", ".join(_column(name, int(c)) for c in np.flatnonzero(off.reshape(-1, off.shape[-1]).any(axis=0)))
                if off.ndim > 1
                else name
            )
            raise ArtifactError(
                f"{which} of {int(off.reshape(len(off), -1).any(axis=1).sum())} of {len(off)} samples as of "
                f"{midnight(int(used.as_of_day[0])):%Y-%m-%d} differ from what the tables up to {'the end' if labels else 'then'} give: "
                "they know what came later. Compute them from earlier rows only."
            )


def _column(name: str, number: int) -> str:
    return f"{name}.{_COLUMNS[name][number]}" if name in _COLUMNS else f"{name}[{number}]"


@contextmanager
def _cut(connection: duckdb.DuckDBPyConnection, customers: pa.Table, day: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database of its own with the rows of some customers before a day, as tables."""
    with duckdb.connect() as own:
        own.execute("SET TimeZone = 'UTC'")
        connection.register("guard_wanted", customers)
        try:
            for table in (*_DATED, "customers"):
                sql = f"SELECT x.* FROM {table} x SEMI JOIN guard_wanted w USING (business_id, customer_id)"  # noqa: S608 - our own names
                own.register("incoming", connection.sql(sql).to_arrow_table())
                own.execute(f"CREATE TABLE {table} AS SELECT * FROM incoming")  # noqa: S608 - our own names
                own.unregister("incoming")
        finally:
            connection.unregister("guard_wanted")
        _end(own, day)
        yield own


def _end(own: duckdb.DuckDBPyConnection, day: int) -> None:
    """Let a database end at a day: rows from then on are deleted, and who joins later has not joined."""
    for table, time in _DATED.items():
        own.execute(f"DELETE FROM {table} WHERE {time} >= $day", {"day": midnight(day)})  # noqa: S608 - our own names
    own.execute("UPDATE customers SET joined_at = NULL WHERE joined_at >= $day", {"day": midnight(day)})
