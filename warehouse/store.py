"""The warehouse: Parquet files that only a manifest makes visible, and DuckDB to read them.

    <root>/manifest.json                                            what there is; replaced atomically, never edited
    <root>/<table>/business_id=<b>/month=YYYY-MM/<name>.parquet     rows (no month for tables without time, no business for items)
    <root>/quarantine/<table>/<name>.parquet                        rows put aside, with the reason
    <root>/landing                                                  there while a landing runs; left behind by a killed one

A landing writes its files under fresh names, flushes them to disk, and then replaces the manifest. A reader sees the manifest before
or after, so a landing is whole or absent. Files that no manifest names are left-overs of a killed landing; the next one deletes them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.bundle import file_sha256
from contracts.errors import ArtifactError, ContractError
from contracts.tables import TABLES, Table
from warehouse.quality import Verdict, aside, validate

FORMAT = 1
MERGE_AT = 32
"""So many small files in one folder are merged into one by the landing that completes them; else a landing a minute leaves thousands."""
SMALL_ROWS = 100_000
KEEP_MERGED_S = 24 * 3600
"""Merged files stay on disk so long, for readers that opened an earlier snapshot."""
KEEP_REPORTS = 5_000
"""Reports of so many landings are kept per table. An older source is no longer known by name: landed again, its rows are duplicates."""
OUTPUTS = ("customer_risk_scores",)
"""Tables that are made from the others: they are no part of what `data_version` names."""


@dataclass(frozen=True)
class LandingReport:
    """What became of one batch; `landed + duplicates + rejected` is its number of rows.

    Attributes:
        reasons: rows put aside, by reason.
        repeated: this source was landed before; the counts are those of the first time and nothing changed.
    """

    table: str
    source: str
    landed: int
    duplicates: int
    rejected: int
    reasons: dict[str, int] = field(default_factory=dict)
    repeated: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _File:
    """One line of the manifest. Times are ISO 8601 of the partition column, null where the table has none."""

    table: str
    path: str
    rows: int
    bytes: int
    sha256: str
    source: str
    business_id: str | None = None
    month: str | None = None
    time_min: str | None = None
    time_max: str | None = None


@dataclass(frozen=True)
class _Manifest:
    """One snapshot.

    Attributes:
        aside: the files of rows put aside.
        landings: `[table][source]`, the report of each of the last landings.
        totals: `[table]`, counts over all landings: landings, duplicates, rejected, reasons.
        merged: path and UTC time of files that were merged into others, not part of the snapshot any more.
    """

    files: tuple[_File, ...] = ()
    aside: tuple[_File, ...] = ()
    landings: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    totals: dict[str, dict[str, Any]] = field(default_factory=dict)
    merged: dict[str, str] = field(default_factory=dict)

    def of(self, table: str) -> list[_File]:
        return [f for f in self.files if f.table == table]


@dataclass(frozen=True)
class View:
    """How to read one table: a SELECT of the contract's columns, and the files that it reads."""

    select: str
    files: tuple[Path, ...]


class Warehouse:
    """The history of every business under one folder.

    Any number of readers, one writer at a time (others wait for the lock). Safe against SIGKILL at any instant.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    # ---- writing ------------------------------------------------------------------------------------------------------------

    def land(self, table: str, batch: pa.Table, source: str) -> LandingReport:
        """Validate, deduplicate and store a batch; all of it becomes visible at one instant.

        Args:
            table: a name of `contracts.tables.TABLES`.
            batch: any subset of the table's columns; missing optional ones become null. Values are read tolerantly, row by row.
            source: names this batch for ever. The same source again changes nothing.

        Raises:
            ContractError: no such table, an unknown column, or an empty source.
            ArtifactError: the manifest or a file cannot be read, or nothing can be written (disk full, no right to).
        """
        spec = _table(table)
        if not source:
            raise ContractError("source is empty, a landing needs a name so that a repeat can be told. Give for example the file's name.")
        try:
            with self._writer() as manifest:
                first = manifest.landings.get(table, {}).get(source)
                if first is not None:
                    return LandingReport(**{**first, "repeated": True})
                return self._land(spec, batch, source, manifest)
        except (OSError, duckdb.IOException) as exc:
            raise ArtifactError(f"cannot land in {self.root}: {exc}. Nothing was landed; put this right and land it again.") from exc

    def _land(self, spec: Table, batch: pa.Table, source: str, manifest: _Manifest) -> LandingReport:
        verdict = validate(spec, batch)
        fresh = self._without_known(spec, verdict.good, manifest)
        report = LandingReport(
            spec.name, source, fresh.num_rows, verdict.good.num_rows - fresh.num_rows, verdict.rejected, verdict.counts()
        )
        files = [self._write(spec.name, folder, part, source, facts) for folder, part, facts in _partitions(spec, fresh)]
        put_aside = self._write_aside(spec, batch, verdict, source)
        now = datetime.now(UTC)
        all_files, merged = self._merge((*manifest.files, *files), files)
        all_aside, merged_aside = self._merge((*manifest.aside, *put_aside), put_aside)
        expired = [path for path, at in manifest.merged.items() if (now - datetime.fromisoformat(at)).total_seconds() > KEEP_MERGED_S]
        kept = {path: at for path, at in manifest.merged.items() if path not in expired}
        kept |= dict.fromkeys((*merged, *merged_aside), now.isoformat())
        self._commit(_Manifest(all_files, all_aside, _remember(manifest, report), _add_up(manifest, report), kept))
        for path in expired:
            (self.root / path).unlink(missing_ok=True)
        return report

    def _merge(self, files: tuple[_File, ...], fresh: list[_File]) -> tuple[tuple[_File, ...], list[str]]:
        """Merge the small files of each folder that just grew, where there are MERGE_AT: (files of the snapshot, paths replaced)."""
        gone: set[str] = set()
        new: list[_File] = []
        for folder in sorted({str(Path(f.path).parent) for f in fresh}):
            small = [f for f in files if f.rows < SMALL_ROWS and str(Path(f.path).parent) == folder]
            if len(small) >= MERGE_AT:
                rows = pa.concat_tables([pq.ParquetFile(self.root / f.path).read() for f in small])
                new.append(self._write(small[0].table, folder, rows, "merged", _merged_facts(small)))
                gone |= {f.path for f in small}
        return (*(f for f in files if f.path not in gone), *new), sorted(gone)

    @contextmanager
    def _writer(self) -> Iterator[_Manifest]:
        """The current manifest, with the right to replace it."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            manifest = self._read()
            marker = self.root / "landing"
            if marker.exists():
                self._sweep(manifest)
            marker.touch()
            yield manifest
            # After an exception the marker stays: the next landing sweeps what this one left.
            marker.unlink()

    def _sweep(self, manifest: _Manifest) -> None:
        """Delete what a killed landing left: files that the manifest does not name."""
        known = {f.path for f in (*manifest.files, *manifest.aside)} | set(manifest.merged)
        for path in self.root.glob("manifest.*.tmp"):
            path.unlink(missing_ok=True)
        for path in self.root.rglob("*.parquet"):
            if str(path.relative_to(self.root)) not in known:
                path.unlink(missing_ok=True)

    def _without_known(self, spec: Table, good: pa.Table, manifest: _Manifest) -> pa.Table:
        """Rows whose key is new; of equal keys inside the batch the first stays."""
        if not good.num_rows:
            return good
        keys = ", ".join(spec.key)
        numbered = good.select(list(spec.key)).append_column("row_index__", pa.array(np.arange(good.num_rows)))
        query = f"SELECT min(row_index__) AS keep FROM batch GROUP BY {keys}"  # noqa: S608 - names are constants of the contract
        with _duckdb(self.root) as connection:
            connection.register("batch", numbered)
            files = self._of_businesses(spec, good, manifest)
            if files:
                connection.execute(f"CREATE VIEW known AS {_select(spec, self.root, files, spec.key)}")
                query = f"SELECT min(row_index__) AS keep FROM batch ANTI JOIN known USING ({keys}) GROUP BY {keys}"  # noqa: S608
            keep = connection.sql(query).to_arrow_table()["keep"]
        if len(keep) == good.num_rows:
            return good
        return good.take(keep.combine_chunks().sort())

    def _of_businesses(self, spec: Table, good: pa.Table, manifest: _Manifest) -> list[_File]:
        files = manifest.of(spec.name)
        if "business_id" not in spec.columns:
            return files
        present = set(pc.unique(good["business_id"]).to_pylist())
        files = [f for f in files if f.business_id in present]
        if spec.time in spec.key:  # rows of one key have one time
            span = pc.min_max(good[spec.time].cast(pa.int64())).as_py()
            low, high = _iso(span["min"]), _iso(span["max"])
            files = [f for f in files if (f.time_min or low) <= high and (f.time_max or high) >= low]
        return files

    def _write(self, table: str, folder: str, part: pa.Table, source: str, facts: dict[str, str | None]) -> _File:
        target = self.root / folder
        target.mkdir(parents=True, exist_ok=True)
        path = target / f"{uuid.uuid4().hex}.parquet"
        pq.write_table(part, path, compression="zstd", compression_level=3, row_group_size=262_144)
        _flush(path)
        _flush_folders(target, self.root)
        size = path.stat().st_size
        return _File(table, str(path.relative_to(self.root)), part.num_rows, size, file_sha256(path), source, **facts)

    def _write_aside(self, spec: Table, batch: pa.Table, verdict: Verdict, source: str) -> list[_File]:
        if not verdict.rejected:
            return []
        rows = aside(batch, verdict, source, datetime.now(UTC))
        return [self._write(spec.name, f"quarantine/{spec.name}", rows, source, {})]

    def _commit(self, manifest: _Manifest) -> None:
        text = json.dumps({"format": FORMAT, **asdict(manifest)}, separators=(",", ":"))
        temporary = self.root / f"manifest.{os.getpid()}.tmp"
        temporary.write_text(text, encoding="utf-8")
        _flush(temporary)
        temporary.replace(self.root / "manifest.json")
        _flush(self.root)

    # ---- reading ------------------------------------------------------------------------------------------------------------

    def _read(self) -> _Manifest:
        path = self.root / "manifest.json"
        if not path.exists():
            return _Manifest()
        try:
            raw = json.loads(path.read_bytes())
            if raw["format"] != FORMAT:
                raise ValueError(f"format {raw['format']}, this version reads {FORMAT}")
            files, put_aside = (tuple(_File(**f) for f in raw[part]) for part in ("files", "aside"))
            return _Manifest(files, put_aside, raw["landings"], raw.get("totals", {}), raw.get("merged", {}))
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise ArtifactError(f"cannot read {path}: {exc}. Restore it from a backup, or start again in another folder.") from exc

    def connect(self) -> duckdb.DuckDBPyConnection:
        """An in-memory DuckDB (time zone UTC) with one view per table over the files of this instant; later landings do not show.

        Raises:
            ArtifactError: the manifest cannot be read, or names a file that is gone.
        """
        views = self.views()
        connection = _duckdb(self.root)
        try:
            for name, view in views.items():
                connection.execute(f'CREATE VIEW "{name}" AS {view.select}')
        except duckdb.Error as exc:
            connection.close()
            raise ArtifactError(
                f"a file of the warehouse {self.root} is gone or damaged: {exc}. Restore the folder, or import again into a new one."
            ) from exc
        return connection

    def views(self, business_id: str | None = None) -> dict[str, View]:
        """What `connect` makes its views of, by table: over all files of this instant, or over those of one business.

        `transaction_items` has no business of its own: its files hold the lines of all.
        """
        manifest = self._read()
        views = {}
        for spec in TABLES.values():
            files = [f for f in manifest.of(spec.name) if business_id is None or f.business_id in (None, business_id)]
            select = _select(spec, self.root, files, tuple(spec.columns))
            views[spec.name] = View(select, tuple(self.root.resolve() / f.path for f in files))
        return views

    def businesses(self) -> list[str]:
        """The businesses that have a row in any table, sorted."""
        return sorted({f.business_id for f in self._read().files if f.business_id})

    def data_version(self) -> str:
        """16 hex digits that name the history: the same rows landed in the same batches give the same version anywhere. Scores made
        from it (`OUTPUTS`) do not change it."""
        lines = sorted(f"{f.table} {f.business_id} {f.month} {f.rows} {f.sha256}" for f in self._read().files if f.table not in OUTPUTS)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def as_of(self, business_id: str | None = None) -> datetime:
        """Latest `occurred_at` in `transactions`, else in `events`, of one business or of all; UTC.

        Raises:
            ArtifactError: neither table has a row.
        """
        found = _as_of(self._read(), business_id)
        if found is None:
            whose = f"of business {business_id} " if business_id else ""
            raise ArtifactError(
                f"no transaction or event {whose}in {self.root}, at least one is needed. Run: regulars data generate (or import)"
            )
        return datetime.fromisoformat(found)

    def sources(self) -> dict[str, set[str]]:
        """The sources landed so far, by table."""
        return {table: set(reports) for table, reports in self._read().landings.items()}

    def info(self) -> dict[str, Any]:
        """What there is, JSON-ready: data_version, as_of, bytes, businesses {id: customers, rewards, as_of}, and for each table
        rows, files, bytes, from, to, landings, duplicates, rejected, reasons."""
        manifest = self._read()
        businesses = sorted({f.business_id for f in manifest.files if f.business_id})
        return {
            "data_version": self.data_version(),
            "as_of": _as_of(manifest, None),
            "bytes": sum(f.bytes for f in (*manifest.files, *manifest.aside)),
            "businesses": {b: _business_info(manifest, b) for b in businesses},
            "tables": {name: _table_info(manifest, name) for name in TABLES},
        }


def _table(name: str) -> Table:
    if name not in TABLES:
        raise ContractError(f"no table {name!r}, there are {', '.join(TABLES)}. Use one of these names.")
    return TABLES[name]


def _as_of(manifest: _Manifest, business_id: str | None) -> str | None:
    for table in ("transactions", "events"):
        times = [f.time_max for f in manifest.of(table) if f.time_max and business_id in (None, f.business_id)]
        if times:
            return max(times)
    return None


def _business_info(manifest: _Manifest, business_id: str) -> dict[str, Any]:
    rows = {
        t: sum(f.rows for f in manifest.of(t) if f.business_id == business_id) for t in ("customers", "rewards", "events", "transactions")
    }
    return {**rows, "as_of": _as_of(manifest, business_id)}


def _table_info(manifest: _Manifest, name: str) -> dict[str, Any]:
    files = manifest.of(name)
    return {
        "rows": sum(f.rows for f in files),
        "files": len(files),
        "bytes": sum(f.bytes for f in files),
        "from": min((f.time_min for f in files if f.time_min), default=None),
        "to": max((f.time_max for f in files if f.time_max), default=None),
        **{"landings": 0, "duplicates": 0, "rejected": 0, "reasons": {}, **manifest.totals.get(name, {})},
    }


def _remember(manifest: _Manifest, report: LandingReport) -> dict[str, dict[str, dict[str, Any]]]:
    """The reports of the last landings, with this one."""
    reports = {**manifest.landings.get(report.table, {}), report.source: report.as_dict()}
    return {**manifest.landings, report.table: dict(list(reports.items())[-KEEP_REPORTS:])}


def _add_up(manifest: _Manifest, report: LandingReport) -> dict[str, dict[str, Any]]:
    """The totals of all landings, with this one."""
    so_far = manifest.totals.get(report.table, {"landings": 0, "duplicates": 0, "rejected": 0, "reasons": {}})
    total = {
        "landings": so_far["landings"] + 1,
        "duplicates": so_far["duplicates"] + report.duplicates,
        "rejected": so_far["rejected"] + report.rejected,
        "reasons": {r: so_far["reasons"].get(r, 0) + report.reasons.get(r, 0) for r in sorted({*so_far["reasons"], *report.reasons})},
    }
    return {**manifest.totals, report.table: total}


def _merged_facts(files: list[_File]) -> dict[str, str | None]:
    return {
        "business_id": files[0].business_id,
        "month": files[0].month,
        "time_min": min((f.time_min for f in files if f.time_min), default=None),
        "time_max": max((f.time_max for f in files if f.time_max), default=None),
    }


# ---- partitions -------------------------------------------------------------------------------------------------------------


def _partitions(spec: Table, rows: pa.Table) -> Iterator[tuple[str, pa.Table, dict[str, str | None]]]:
    """Split good rows by business and month: (folder, rows, facts for the manifest), in a fixed order."""
    if not rows.num_rows:
        return
    if "business_id" not in spec.columns:
        yield spec.name, rows, {}
        return
    business = rows["business_id"].combine_chunks().dictionary_encode()
    months = _months(rows[spec.time]) if spec.time else np.zeros(rows.num_rows, dtype=np.int64)
    names = business.dictionary.to_pylist()
    group = business.indices.to_numpy().astype(np.int64) * 100_000 + months
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) != 0])
    sorted_rows = rows if len(starts) == 1 else rows.take(pa.array(order))
    for start, stop in zip(starts, [*starts[1:], rows.num_rows], strict=True):
        code, month = divmod(int(group[order[start]]), 100_000)
        part = sorted_rows.slice(start, stop - start)
        yield _partition(spec, names[code], month, part)


def _partition(spec: Table, business_id: str, month: int, part: pa.Table) -> tuple[str, pa.Table, dict[str, str | None]]:
    folder = f"{spec.name}/business_id={_folder_name(business_id)}"
    facts: dict[str, str | None] = {"business_id": business_id}
    if spec.time:
        span = pc.min_max(part[spec.time].cast(pa.int64())).as_py()
        facts |= {"month": f"{month // 12:04d}-{month % 12 + 1:02d}", "time_min": _iso(span["min"]), "time_max": _iso(span["max"])}
        folder += f"/month={facts['month']}"
    return folder, part, facts


def _months(column: pa.ChunkedArray) -> np.ndarray:
    """Months since year 0 of each timestamp, int64."""
    micros = column.combine_chunks().cast(pa.int64()).to_numpy()
    return micros.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64) + 1970 * 12


def _iso(micros: int) -> str:
    """ISO 8601 with microseconds and offset: always the same length, so that text order is time order."""
    return str(np.datetime64(micros, "us")) + "+00:00"


def _folder_name(business_id: str) -> str:
    quoted = quote(business_id, safe=" ")
    return quoted if len(quoted) <= 150 else f"{quoted[:100]}-{hashlib.sha256(business_id.encode()).hexdigest()[:32]}"


# ---- DuckDB and disk --------------------------------------------------------------------------------------------------------


def _duckdb(root: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(f"SET temp_directory = {_literal(str(root.resolve() / '.spill'))}")
    return connection


def _select(spec: Table, root: Path, files: list[_File], columns: tuple[str, ...]) -> str:
    """A SELECT of exactly these columns over these files. Names are constants of the contract, paths are our own."""
    if not files:
        empty = ", ".join(f"CAST(NULL AS {_sql_type(spec.schema.field(c).type)}) AS {c}" for c in columns)
        return f"SELECT {empty} WHERE false"
    base = root.resolve()
    paths = ", ".join(_literal(_no_glob(str(base / f.path))) for f in files)
    return f"SELECT {', '.join(columns)} FROM read_parquet([{paths}], hive_partitioning = false, union_by_name = false)"  # noqa: S608


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _no_glob(path: str) -> str:
    """A path that DuckDB takes literally."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)


_SQL_TYPES = {
    pa.string(): "VARCHAR", pa.int64(): "BIGINT", pa.float64(): "DOUBLE", pa.bool_(): "BOOLEAN", pa.date32(): "DATE",
    pa.decimal128(18, 4): "DECIMAL(18,4)", pa.timestamp("us", tz="UTC"): "TIMESTAMP WITH TIME ZONE",
}  # fmt: skip


def _sql_type(arrow: pa.DataType) -> str:
    return _SQL_TYPES[arrow]


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush_folders(folder: Path, root: Path) -> None:
    """Make the names of new files and folders durable, up to the root."""
    while True:
        _flush(folder)
        if folder == root:
            return
        folder = folder.parent
