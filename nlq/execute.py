"""The second wall: a DuckDB in which a query can do nothing but read one business's rows, whatever the query is.

It needs no guard in front of it. For each business that is asked about, a DuckDB of its own is opened on a file that holds nothing but
views, and then closed up:

- read-only, so that nothing can be created, changed or dropped, by a WITH that writes neither;
- `enable_external_access = false` with the files of that business as the only `allowed_paths`: no other file, folder, address or database;
- no extension is installed or loaded, Python's variables are not tables, nothing is spilled to disk;
- `lock_configuration = true`: none of this can be undone;
- memory and threads are limited, and a watch interrupts what takes too long;
- one statement, and DuckDB's own parser must call it a SELECT; a cursor of its own, so that nothing is left for the next query.
"""

from __future__ import annotations

import math
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import duckdb
from pydantic import Field

from contracts.errors import ArtifactError, QueryRefused, UnknownItem, UpstreamTimeout
from contracts.settings import StackSettings, settings_config
from nlq.guard import check
from nlq.schema import SCHEMA, TENANT
from nlq.types import Rows
from warehouse.store import View, Warehouse

ALONE = "default"
"""The business of files that name none."""


class AskSettings(StackSettings):
    """Bounds of one question's query."""

    model_config = settings_config("REGULARS_ASK_")

    row_limit: int = Field(1_000, ge=1, le=100_000, description="most rows of an answer")
    timeout_s: float = Field(10.0, gt=0, le=600, description="seconds after which a query is interrupted")
    memory: str = Field("1GB", pattern=r"^[1-9]\d{0,5}(MB|GB)$", description="memory of one business's queries together")
    threads: int = Field(2, ge=1, le=64, description="threads of one business's queries together")
    open_businesses: int = Field(8, ge=1, le=1_000, description="businesses kept open; the one not asked for longest is closed")


class Engine:
    """Runs queries on a warehouse folder, a plain folder of files, or one DuckDB file. Safe from any number of threads.

    When the data has changed on disk, the next query sees it; queries that run keep the snapshot that they began with.

    Args:
        root: the warehouse's folder (`manifest.json`), or one of `<table>.parquet`, `<table>.csv` and `<table>/**/*.parquet`, or a
            `.duckdb` file. Tables and columns that are missing are empty; times without a zone are UTC.
        settings: bounds; those of the environment when None.

    Raises:
        ArtifactError: there is nothing of the kind at `root`.
    """

    def __init__(self, root: Path, settings: AskSettings | None = None) -> None:
        self.root = root
        self.settings = settings or AskSettings.load()
        self._source = _source(root)
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _Database] = OrderedDict()
        self._known: tuple[Hashable, list[str]] | None = None

    def ask(self, sql: str, business_id: str, roles: frozenset[str] = frozenset()) -> Rows:
        """Both walls: guard the query, then run it.

        Raises:
            QueryRefused: the guard or DuckDB refuses it.
            UnknownItem, ArtifactError, UpstreamTimeout: as `run`.
        """
        guarded = check(sql, business_id=business_id, roles=roles, row_limit=self.settings.row_limit)
        return self.run(guarded.sql, business_id, limit=guarded.limit)

    def run(self, sql: str, business_id: str, limit: int | None = None) -> Rows:
        """Run one SELECT on the rows of one business.

        Args:
            sql: as `nlq.guard.check` gives it. This wall holds without the guard too, but for the private columns.
            limit: most rows to give back; the setting when None.

        Raises:
            QueryRefused: it is not one SELECT, DuckDB cannot run it, or it needs more memory than is allowed.
            UnknownItem: no such business.
            UpstreamTimeout: it took longer than the setting allows.
            ArtifactError: a file of the warehouse is gone or damaged.
        """
        most = self.settings.row_limit if limit is None else limit
        for again in (True, False):
            database = self._database(business_id)
            try:
                return self._run(database, sql, most)
            except (duckdb.IOException, duckdb.PermissionException) as exc:
                if isinstance(exc, duckdb.PermissionException) and all(file.exists() for file in database.files):
                    raise QueryRefused(
                        "the query reads something that is no table of the schema. Name the schema's tables.", "cannot_run"
                    ) from exc
                # Files go when the warehouse merges them, a day later: open the newer snapshot and try once more.
                self._forget(business_id, database)
                if not again:
                    raise ArtifactError(f"cannot read a file of {self.root}: {_first_line(exc)} Restore it, or import again.") from exc
        raise AssertionError

    def businesses(self) -> list[str]:
        """The businesses that have rows, sorted."""
        with self._lock:
            return list(self._businesses())

    def as_of(self, business_id: str) -> datetime:
        """Latest `occurred_at` in the business's transactions, UTC: what "now" is in a question.

        Raises:
            ArtifactError: it has no transaction.
            UnknownItem: no such business.
        """
        found = self.run("SELECT max(occurred_at) FROM transactions", business_id).data[0][0]
        if found is None:
            raise ArtifactError(f"no transaction of business {business_id!r} in {self.root}, at least one is needed. Import its purchases.")
        return found

    def close(self) -> None:
        """Close all databases. The engine may be used again afterwards."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].connection.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- databases ----------------------------------------------------------------------------------------------------------

    def _database(self, business_id: str) -> _Database:
        with self._lock:
            stamp = self._source.stamp()
            found = self._open.get(business_id)
            if found is None or found.stamp != stamp:
                if business_id not in self._businesses():
                    raise UnknownItem(f"no business {business_id!r} in {self.root}, there are {', '.join(self._businesses())}. Take one.")
                # The old one is not closed but dropped: queries that run on it end as they began.
                found = self._opened(business_id, stamp)
                self._open[business_id] = found
            self._open.move_to_end(business_id)
            while len(self._open) > self.settings.open_businesses:
                self._open.popitem(last=False)
            return found

    def _businesses(self) -> list[str]:
        stamp = self._source.stamp()
        if self._known is None or self._known[0] != stamp:
            self._known = (stamp, self._source.businesses())
        return self._known[1]

    def _forget(self, business_id: str, database: _Database) -> None:
        with self._lock:
            if self._open.get(business_id) is database:
                del self._open[business_id]

    def _opened(self, business_id: str, stamp: Hashable) -> _Database:
        """A database of views over one business's files, with everything else shut."""
        views = self._source.views(business_id, len(self._businesses()) == 1)
        try:
            with tempfile.TemporaryDirectory(prefix="regulars-ask-") as folder:
                # Open files outlive their names: nothing stays behind on disk, and nobody else can open it.
                file = str(Path(folder) / "views.duckdb")
                with duckdb.connect(file) as making:
                    self._attach(making)
                    for name, view in views.items():
                        making.execute(f'CREATE VIEW "{name}" AS {view.select}')
                connection = duckdb.connect(file, read_only=True, config=self._config())
            self._attach(connection)
            files = tuple(dict.fromkeys(file for view in views.values() for file in view.files))
            _shut(connection, files)
        except duckdb.Error as exc:
            raise ArtifactError(f"cannot open {self.root}: {_first_line(exc)} Restore the files, or import again.") from exc
        return _Database(stamp, connection, files, threading.Lock())

    def _config(self) -> dict[str, str | bool | int | float | list[str]]:
        return {
            "memory_limit": self.settings.memory,
            "threads": str(self.settings.threads),
            "temp_directory": "",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "python_enable_replacements": "false",
        }

    def _attach(self, connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute("SET TimeZone = 'UTC'")
        if self._source.attached is not None:
            connection.execute(f"ATTACH {_literal(str(self._source.attached))} AS source (READ_ONLY)")

    # ---- one query ----------------------------------------------------------------------------------------------------------

    def _run(self, database: _Database, sql: str, most: int) -> Rows:
        with database.lock:
            cursor = database.connection.cursor()
        try:
            statements = cursor.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                kinds = ", ".join(s.type.name for s in statements) or "nothing"
                raise QueryRefused(f"this is {kinds}; exactly one SELECT is allowed. Ask for rows.", "not_select")
            with _interrupted_after(cursor, self.settings.timeout_s):
                cursor.execute(statements[0])
                found = cursor.fetchmany(most + 1)
                names = tuple(column[0] for column in cursor.description or ())
        except duckdb.InterruptException as exc:
            raise UpstreamTimeout(
                f"the query took longer than {self.settings.timeout_s:g} s, and was stopped. Ask for less at once."
            ) from exc
        except duckdb.OutOfMemoryException as exc:
            raise QueryRefused(f"the query needs more than {self.settings.memory} of memory. Ask for less at once.", "too_large") from exc
        except (duckdb.IOException, duckdb.PermissionException):
            raise
        except (duckdb.Error, ValueError, OverflowError, RuntimeError) as exc:
            raise QueryRefused(f"the query cannot be run: {_first_line(exc)} Correct it.", "cannot_run") from exc
        finally:
            cursor.close()
        data = tuple(tuple(_plain(value) for value in row) for row in found[:most])
        return Rows(names, data, truncated=len(found) > most)


@dataclass(frozen=True, eq=False)
class _Database:
    stamp: Hashable
    connection: duckdb.DuckDBPyConnection
    files: tuple[Path, ...]
    lock: threading.Lock


def _shut(connection: duckdb.DuckDBPyConnection, files: tuple[Path, ...]) -> None:
    """Shut everything but these files; the last line makes it final."""
    # Both spellings: a path with brackets is checked as the view spells it, and as the file is called.
    paths = ", ".join(_literal(path) for file in files for path in dict.fromkeys((str(file), _no_glob(str(file)))))
    connection.execute("SET enable_object_cache = true")
    connection.execute("SET parquet_metadata_cache = true")
    connection.execute(f"SET allowed_paths = [{paths}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


@contextmanager
def _interrupted_after(cursor: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    done = threading.Event()

    def watch() -> None:
        wait = seconds
        # Again and again, since an interrupt between two steps of a query is lost.
        while not done.wait(wait):
            with suppress(duckdb.Error):
                cursor.interrupt()
            wait = 0.05

    watcher = threading.Thread(target=watch, name="ask-timeout", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _plain(value: Any) -> Any:
    """A value as `Rows` promises: what JSON has, Decimal, date, or datetime in UTC."""
    if value is None or isinstance(value, str | bool | int | Decimal):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if isinstance(value, date):
        return value
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return str(value)


def _first_line(error: BaseException) -> str:
    line = str(error).strip().split("\n")[0]
    return line[:200].rstrip(".") + "."


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# ---- where the rows are -----------------------------------------------------------------------------------------------------


class _Source(Protocol):
    """Where rows lie. `attached` is a DuckDB file to be attached as `source` before its views are made."""

    attached: Path | None

    def stamp(self) -> Hashable:
        """Another value when the data may have changed."""

    def businesses(self) -> list[str]: ...

    def views(self, business_id: str, alone: bool) -> dict[str, View]:
        """How to read each table, of this business only; `alone` says that there is no other."""


def _source(root: Path) -> _Source:
    for folder in (root, root / "warehouse"):
        if (folder / "manifest.json").is_file():
            return _Landed(folder)
    if root.is_file() and root.suffix in (".duckdb", ".db", ".ddb"):
        return _File(root)
    if root.is_dir() and _files_of(root):
        return _Folder(root)
    raise ArtifactError(
        f"no warehouse at {root}: a folder with manifest.json, a folder of <table>.parquet or <table>.csv files, or a .duckdb file is "
        "needed. Run: regulars data generate (or import), or give another path."
    )


class _Landed:
    """A folder that `warehouse.store` wrote."""

    attached: Path | None = None

    def __init__(self, root: Path) -> None:
        self._warehouse = Warehouse(root)

    def stamp(self) -> Hashable:
        return _stamp(self._warehouse.root / "manifest.json")

    def businesses(self) -> list[str]:
        return self._warehouse.businesses()

    def views(self, business_id: str, alone: bool) -> dict[str, View]:
        views = self._warehouse.views(business_id)
        if not alone:
            items = views["transaction_items"]
            views["transaction_items"] = View(_of_purchases(items.select), items.files)
        return views


class _Typed:
    """What a folder of files and a DuckDB file have in common: any columns, cast to those of the contract."""

    attached: Path | None = None

    def relations(self) -> dict[str, tuple[str, list[Path]]]:
        """What stands after FROM for each table that there is, and its files."""
        raise NotImplementedError

    def businesses(self) -> list[str]:
        with self._look() as connection:
            tables = self._columns(connection)
            named = [self.relations()[name][0] for name, columns in tables.items() if TENANT in columns]
            if not named:
                return [ALONE]
            union = " UNION ".join(f"SELECT DISTINCT CAST({TENANT} AS VARCHAR) AS b FROM {relation}" for relation in named)  # noqa: S608
            return sorted(row[0] for row in connection.execute(union).fetchall() if row[0] is not None)

    def views(self, business_id: str, alone: bool) -> dict[str, View]:
        with self._look() as connection:
            present = self._columns(connection)
        relations = self.relations()
        silent = [n for n, t in SCHEMA.tables.items() if n in present and t.has_tenant and TENANT not in present[n]]
        if silent and not alone:
            raise ArtifactError(
                f"{', '.join(silent)} has no column {TENANT}, and other tables name several businesses. Add the column to every table."
            )
        views = {}
        for name, table in SCHEMA.tables.items():
            columns = present.get(name, {})
            parts = []
            for column in table.columns.values():
                given = _quoted(columns[column.name]) if column.name in columns else "NULL"
                if column.name == TENANT and TENANT not in columns:
                    given = _literal(business_id)
                parts.append(f"CAST({given} AS {column.sql_type}) AS {column.name}")
            relation, files = relations.get(name, ("(SELECT 1 WHERE false)", []))
            select = f"SELECT {', '.join(parts)} FROM {relation}"  # noqa: S608 - names of the schema, and quoted ones
            if TENANT in columns:
                select += f" WHERE CAST({_quoted(columns[TENANT])} AS VARCHAR) = {_literal(business_id)}"
            if not table.has_tenant and not alone:
                select = _of_purchases(select)
            views[name] = View(select, tuple(files))
        return views

    @contextmanager
    def _look(self) -> Iterator[duckdb.DuckDBPyConnection]:
        connection = duckdb.connect(config={"python_enable_replacements": "false"})
        try:
            connection.execute("SET TimeZone = 'UTC'")
            if self.attached is not None:
                connection.execute(f"ATTACH {_literal(str(self.attached))} AS source (READ_ONLY)")
            yield connection
        except duckdb.Error as exc:
            raise ArtifactError(f"cannot read the tables: {_first_line(exc)} Give readable files, and close other programs' hold.") from exc
        finally:
            connection.close()

    def _columns(self, connection: duckdb.DuckDBPyConnection) -> dict[str, dict[str, str]]:
        """For each table that there is, its columns: the contract's name to the name in the file."""
        found = {}
        for name, (relation, _) in self.relations().items():
            described = connection.execute(f"SELECT * FROM {relation} LIMIT 0").description or []  # noqa: S608
            found[name] = {column[0].lower(): column[0] for column in described}
        return found


class _Folder(_Typed):
    """A folder of Parquet or CSV files named after the tables."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def stamp(self) -> Hashable:
        return tuple(_stamp(file) for files in _files_of(self._root).values() for file in files)

    def relations(self) -> dict[str, tuple[str, list[Path]]]:
        found = {}
        for name, files in _files_of(self._root).items():
            paths = "[" + ", ".join(_literal(_no_glob(str(file))) for file in files) + "]"
            if files[0].suffix == ".csv":
                relation = f"read_csv({paths}, header = true, all_varchar = true, union_by_name = true)"
            else:
                hive = "true" if any("=" in part for part in files[0].relative_to(self._root.resolve()).parts) else "false"
                relation = f"read_parquet({paths}, hive_partitioning = {hive}, union_by_name = true)"
            found[name] = (relation, files)
        return found


class _File(_Typed):
    """One DuckDB file with tables (or views of its own tables) in its schema `main`."""

    def __init__(self, file: Path) -> None:
        self._file = self.attached = file.resolve()

    def stamp(self) -> Hashable:
        return _stamp(self._file)

    def relations(self) -> dict[str, tuple[str, list[Path]]]:
        with self._look() as connection:
            query = "SELECT table_name FROM information_schema.tables WHERE table_catalog = 'source' AND table_schema = 'main'"
            names = {row[0].lower() for row in connection.execute(query).fetchall()}
        return {name: (f"source.main.{name}", []) for name in SCHEMA.tables if name in names}


def _of_purchases(items: str) -> str:
    """Of a SELECT of lines of purchases, those of purchases in the view `transactions`, which holds one business's only."""
    return f"SELECT * FROM ({items}) WHERE transaction_id IN (SELECT transaction_id FROM transactions)"  # noqa: S608


def _files_of(root: Path) -> dict[str, list[Path]]:
    """The files of each table in a plain folder, sorted; `<table>.parquet` wins over a folder, and that over `<table>.csv`."""
    base = root.resolve()
    found = {}
    for name in SCHEMA.tables:
        files = [base / f"{name}.parquet"] if (base / f"{name}.parquet").is_file() else sorted((base / name).rglob("*.parquet"))
        if not files and (base / f"{name}.csv").is_file():
            files = [base / f"{name}.csv"]
        if files:
            found[name] = files
    return found


def _stamp(file: Path) -> tuple[str, int, int, int]:
    try:
        seen = file.stat()
    except OSError as exc:
        raise ArtifactError(f"cannot read {file}: {exc}. Restore it, or give another path.") from exc
    return str(file), seen.st_mtime_ns, seen.st_size, seen.st_ino


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _no_glob(path: str) -> str:
    """A path that DuckDB takes literally."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)
