"""What every importer needs: files that are there, with the columns that are needed, as DuckDB views."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.errors import ArtifactError, ContractError

Notes = Callable[[str], None]
"""Takes one sentence about what an importer left out or decided."""


class Importer(Protocol):
    """Reads a folder; gives (table name, rows) one after another and tells `notes` what it left out."""

    def __call__(self, folder: Path, business_id: str, notes: Notes) -> Iterator[tuple[str, pa.Table]]: ...


AGE_GROUPS = ((18, "under-18"), (25, "18-24"), (35, "25-34"), (45, "35-44"), (55, "45-54"), (65, "55-64"), (75, "65-74"))
"""(first age beyond the band, its name); older than all is `75+`."""


def age_group_sql(column: str) -> str:
    """DuckDB expression: the age band of a column of years; null stays null."""
    bands = " ".join(f"WHEN {column} < {limit} THEN '{name}'" for limit, name in AGE_GROUPS)
    return f"CASE {bands} WHEN {column} IS NOT NULL THEN '75+' END"


@contextmanager
def opened(folder: Path, needed: Mapping[str, tuple[str, ...]]) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB (time zone UTC) with a view `<name>` for each `<folder>/<name>.parquet`.

    Args:
        folder: where the files lie.
        needed: file name without suffix, and the columns that it must have.

    Raises:
        ArtifactError: the folder or a file is missing or is not Parquet.
        ContractError: a file lacks a column.
    """
    if not folder.is_dir():
        raise ArtifactError(
            f"no folder {folder}, it must hold {', '.join(f'{n}.parquet' for n in needed)}. Give the right folder with --from."
        )
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, columns in needed.items():
            path = folder / f"{name}.parquet"
            _check(path, columns)
            connection.read_parquet(str(path)).create_view(name)
        yield connection


def _check(path: Path, columns: tuple[str, ...]) -> None:
    if not path.is_file():
        raise ArtifactError(f"no file {path}, the importer needs it. Give the folder that holds it with --from.")
    try:
        names = pq.read_schema(path).names
    except (pa.ArrowException, OSError) as exc:
        raise ArtifactError(f"cannot read {path}: {exc}. Copy the file again.") from exc
    lacking = [c for c in columns if c not in names]
    if lacking:
        raise ContractError(
            f"{path} has no column {', '.join(lacking)}; it has {', '.join(names)}. Give the right file, or write a mapping."
        )


def arrow(connection: duckdb.DuckDBPyConnection, query: str, **parameters: object) -> pa.Table:
    """Run one of our own queries with named parameters, result as an Arrow table."""
    used = {name: value for name, value in parameters.items() if f"${name}" in query}
    return connection.sql(query, params=used).to_arrow_table()


def single(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    """The one number that a query gives."""
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0
