"""Who is at risk and what it is worth: the newest finished scoring of a business, read from the warehouse.

CLV at risk is churn at 90 days times the predicted CLV: what would be lost, weighed by how likely that is. The list is sorted by it.
"""

from __future__ import annotations

import csv
import io
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from contracts.errors import UnknownItem
from contracts.tables import RISK_LEVELS, TABLES
from ray_apps.scoring.runs import TABLE, Run, latest_finished
from warehouse.store import Warehouse

AT_RISK = ("HIGH", "CRITICAL")
"""The levels that are listed where none is asked for."""
CLV_AT_RISK = "churn_90 * predicted_clv::DOUBLE"
CSV_COLUMNS = (*(c for c in TABLES[TABLE].columns if c != "business_id"), "clv_at_risk")
_CSV_ROWS = 5_000
_KEPT = 256
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Wanted:
    """Which customers.

    Attributes:
        levels: risk levels; HIGH and CRITICAL by default.
        days: at most so many days until churn. segment: a segment id or a CLV segment.
        churned: also those who have been silent for long enough to count as gone; what is at risk is what can still be lost.
    """

    levels: tuple[str, ...] = AT_RISK
    days: int | None = None
    segment: str | None = None
    churned: bool = False

    def where(self) -> tuple[str, dict[str, Any]]:
        """Conditions beside the level's, and the values bound in them."""
        parts, values = ["business_id = $business AND scored_at = $scored_at"], dict[str, Any]()
        if self.days is not None:
            parts.append("days_until_churn <= $days")
            values["days"] = self.days
        if self.segment is not None:
            parts.append("(segment_id = $segment OR clv_segment = $segment)")
            values["segment"] = self.segment
        if not self.churned:
            parts.append("days_until_churn > 0")
        return " AND ".join(parts), values


@dataclass(frozen=True)
class Totals:
    """Over all that is wanted.

    Attributes:
        levels: customers by risk level, also of levels that are not wanted. total, clv_at_risk: of those that are.
    """

    levels: dict[str, int]
    total: int
    clv_at_risk: float


@dataclass(frozen=True)
class Page:
    """Rows with the names of the table, and `clv_at_risk`; highest first."""

    run: Run
    rows: list[dict[str, Any]]
    totals: Totals


class AtRisk:
    """Reads the scores of one home. Any thread may ask; one query at a time.

    The connection stays until the warehouse has changed, totals as long as their run is the newest.

    Args:
        home: folder of everything.
    """

    def __init__(self, home: Path) -> None:
        self._home, self._warehouse = home, Warehouse(home / "warehouse")
        self._lock = threading.Lock()
        self._open: tuple[tuple[int, int, int], duckdb.DuckDBPyConnection] | None = None
        self._totals: OrderedDict[tuple[str, str, Wanted], Totals] = OrderedDict()

    def page(self, business_id: str, wanted: Wanted, limit: int, offset: int = 0) -> Page:
        """One page.

        Raises:
            UnknownItem: the business was not scored yet.
            ArtifactError: the warehouse cannot be read.
        """
        run = self._run(business_id)
        with self._lock:
            connection = self._connection()
            totals = self._totals_of(connection, run, business_id, wanted)
            rows = _select(connection, run.scored_at, business_id, wanted, f"LIMIT {int(limit)} OFFSET {int(offset)}")
            names = [d[0] for d in rows.description]
            return Page(run, [dict(zip(names, row, strict=True)) for row in rows.fetchall()], totals)

    def csv(self, business_id: str, wanted: Wanted, limit: int | None = None) -> Iterator[bytes]:
        """All of it as CSV with a header, in pieces; from one snapshot, whatever lands meanwhile.

        Raises:
            UnknownItem, ArtifactError: as `page`, before the first piece.
        """
        run = self._run(business_id)
        connection = self._warehouse.connect()
        ends = "" if limit is None else f"LIMIT {int(limit)}"
        return _closing(connection, csv_pieces(_select(connection, run.scored_at, business_id, wanted, ends)))

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._open is not None:
                self._open[1].close()
                self._open = None

    def _run(self, business_id: str) -> Run:
        run = latest_finished(self._home, business_id)
        if run is None:
            raise UnknownItem(
                f"the customers of {business_id} were not scored yet, so nobody is known to be at risk. Score them: regulars score, or "
                'POST /api/v1/predictions/batch with {"customerIds": "all"}'
            )
        return run

    def _connection(self) -> duckdb.DuckDBPyConnection:
        found = (self._home / "warehouse" / "manifest.json").stat()
        key = (found.st_mtime_ns, found.st_size, found.st_ino)
        if self._open is None or self._open[0] != key:
            if self._open is not None:
                self._open[1].close()
            connection = self._warehouse.connect()
            connection.execute("SET threads = 1")  # beside what answers requests
            self._open = (key, connection)
        return self._open[1]

    def _totals_of(self, connection: duckdb.DuckDBPyConnection, run: Run, business_id: str, wanted: Wanted) -> Totals:
        key = (run.run, business_id, wanted)
        if key not in self._totals:
            where, values = replace(wanted, levels=RISK_LEVELS).where()
            found = connection.execute(
                f"SELECT risk_level, count(*), sum({CLV_AT_RISK}) FROM {TABLE} WHERE {where} GROUP BY 1",  # noqa: S608 - our constants
                {"business": business_id, "scored_at": run.scored_at, **values},
            ).fetchall()
            counts = {level: (count, value or 0.0) for level, count, value in found}
            mine = [counts.get(level, (0, 0.0)) for level in dict.fromkeys(wanted.levels)]
            self._totals[key] = Totals(
                {level: counts.get(level, (0, 0.0))[0] for level in RISK_LEVELS},
                sum(count for count, _ in mine),
                round(sum(value for _, value in mine), 2),
            )
            while len(self._totals) > _KEPT:
                self._totals.popitem(last=False)
        return self._totals[key]


def _select(
    connection: duckdb.DuckDBPyConnection, scored_at: datetime, business_id: str, wanted: Wanted, ends: str
) -> duckdb.DuckDBPyConnection:
    where, values = wanted.where()
    names = ", ".join(CSV_COLUMNS[:-1])
    sql = (
        f"SELECT {names}, round({CLV_AT_RISK}, 2) AS clv_at_risk FROM {TABLE} "  # noqa: S608 - names are our constants, values are bound
        f"WHERE {where} AND list_contains($levels, risk_level) ORDER BY {CLV_AT_RISK} DESC, customer_id {ends}"
    )
    return connection.execute(sql, {"business": business_id, "scored_at": scored_at, "levels": list(wanted.levels), **values})


def run_csv(home: Path, run: Run) -> Iterator[bytes]:
    """All rows of one run as CSV, as in the table, highest CLV at risk first."""
    connection = Warehouse(home / "warehouse").connect()
    names = ", ".join(TABLES[TABLE].columns)
    sql = f"SELECT {names}, round({CLV_AT_RISK}, 2) AS clv_at_risk FROM {TABLE} WHERE scored_at = $scored_at"  # noqa: S608
    ordered = f"{sql} ORDER BY {CLV_AT_RISK} DESC, business_id, customer_id"
    return _closing(connection, csv_pieces(connection.execute(ordered, {"scored_at": run.scored_at})))


def csv_pieces(rows: duckdb.DuckDBPyConnection) -> Iterator[bytes]:
    """A query's rows as CSV (RFC 4180, UTF-8) with a header. Text that a spreadsheet would run as a formula gets an apostrophe in front."""
    names = [d[0] for d in rows.description]
    yield _lines([names])
    while found := rows.fetchmany(_CSV_ROWS):
        yield _lines([_cell(value) for value in row] for row in found)


def _lines(rows: Iterable[Iterable[Any]]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _closing(connection: duckdb.DuckDBPyConnection, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces, of which the first is made at once (so that an error is raised here), then the connection closed."""
    try:
        first = next(pieces)
    except BaseException:
        connection.close()
        raise

    def rest() -> Iterator[bytes]:
        try:
            yield first
            yield from pieces
        finally:
            connection.close()

    return rest()
