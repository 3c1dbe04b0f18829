# ruff: noqa: S608 - queries of the tests
"""The second wall alone, without a guard: whatever the statement, only one business's rows are read, and nothing is written anywhere."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from contracts.errors import ArtifactError, ConfigError, QueryRefused, UnknownItem, UpstreamTimeout
from contracts.tables import TABLES
from nlq.execute import AskSettings, Engine
from nlq.schema import PRIVATE_READER
from nlq.types import Rows
from warehouse.store import Warehouse

from .test_guard import GOOD, HOSTILE
from .two_businesses import FOREIGN, MINE, is_foreign, is_private, land, rows


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse of one business, to be copied."""
    return land_quickly(tmp_path_factory.mktemp("one"), MINE)


def land_quickly(folder: Path, business: str) -> Path:
    """Without flushing each file to disk, which a busy machine takes a minute for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warehouse.store._flush", lambda _: None)
        return land(Warehouse(folder), business).root


@pytest.fixture
def copied(landed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(landed, tmp_path / "copied")


@pytest.fixture(scope="module")
def root(landed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(landed, tmp_path_factory.mktemp("it's a [home]") / "warehouse")
    return land_quickly(folder, FOREIGN)


@pytest.fixture(scope="module")
def engine(root: Path) -> Iterator[Engine]:
    with Engine(root, AskSettings(memory="200MB", timeout_s=5)) as engine:
        yield engine


def reason_of(engine: Engine, sql: str, business: str = MINE) -> str:
    with pytest.raises(QueryRefused) as refused:
        engine.run(sql, business)
    return refused.value.reason


def tree_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(folder.rglob("*"))}


# --- rows ---


def test_both_walls_together_give_the_rows_of_the_business_alone(engine: Engine, landed: Path) -> None:
    """Tenant isolation as a property of the whole: a warehouse of two against one in which there is no other business."""
    with Engine(landed, AskSettings()) as alone:
        for sql in GOOD:
            found = engine.ask(sql, MINE)
            assert rounded(found) == rounded(alone.ask(sql, MINE)), sql
            assert not is_foreign(found)
            assert not is_private(found)
    assert is_foreign(engine.ask("SELECT * FROM transactions", FOREIGN))


def test_rows_have_plain_values(engine: Engine) -> None:
    found = engine.run(
        "SELECT 1 AS i, 1.5 AS d, 'x' AS t, NULL AS n, true AS b, TIMESTAMPTZ '2026-01-02 03:04:05+02' AS z, TIMESTAMP '2026-01-02' AS w, "
        "DATE '2026-01-02' AS day, INTERVAL 2 DAY AS span, 'nan'::DOUBLE AS nan, [1, 2] AS l, struct_pack(a := DATE '2026-01-02') AS pair, "
        "sum(points_balance) AS huge FROM customers",
        MINE,
    )
    assert found.columns == ("i", "d", "t", "n", "b", "z", "w", "day", "span", "nan", "l", "pair", "huge")
    row = dict(zip(found.columns, found.data[0], strict=True))
    assert row["z"] == datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC)
    assert row["z"].tzinfo is UTC
    assert row["w"] == datetime(2026, 1, 2, tzinfo=UTC)
    day = row["day"]
    assert row == {
        "i": 1, "d": Decimal("1.5"), "t": "x", "n": None, "b": True, "z": row["z"], "w": row["w"], "day": day, "span": "2 days, 0:00:00",
        "nan": None, "l": [1, 2], "pair": {"a": day}, "huge": 7800,
    }  # fmt: skip
    assert day.isoformat() == "2026-01-02"


@pytest.mark.parametrize(("limit", "shown", "cut"), [(None, 40, False), (40, 40, False), (39, 39, True), (1, 1, True)])
def test_what_is_over_the_limit_is_cut_and_said(engine: Engine, limit: int | None, shown: int, cut: bool) -> None:
    found = engine.run("SELECT name FROM customers", MINE, limit=limit)
    assert (len(found.data), found.truncated) == (shown, cut)


def test_asking_cuts_at_the_setting(root: Path) -> None:
    with Engine(root, AskSettings(row_limit=5)) as engine:
        assert engine.ask("SELECT name FROM customers", MINE).truncated
        assert not engine.ask("SELECT name FROM customers LIMIT 5", MINE).truncated


def test_private_columns_need_the_role(engine: Engine) -> None:
    with pytest.raises(QueryRefused, match="private"):
        engine.ask("SELECT email FROM customers", MINE)
    assert is_private(engine.ask("SELECT email FROM customers", MINE, frozenset({PRIVATE_READER})))


def test_as_of_is_the_latest_purchase_of_the_business(engine: Engine) -> None:
    assert engine.as_of(MINE) == engine.run("SELECT max(occurred_at) FROM transactions", MINE).data[0][0]
    assert engine.as_of(MINE).year == 2026
    assert engine.as_of(FOREIGN).year == 2090
    assert engine.businesses() == [MINE, FOREIGN]


# --- the wall ---


def test_one_businesss_database_holds_no_other(engine: Engine) -> None:
    """Without any filter in the query: every table, and lines of purchases too, which name no business."""
    for table in TABLES:
        assert not is_foreign(engine.run(f"SELECT * FROM {table}", MINE)), table
        assert is_foreign(engine.run(f"SELECT * FROM {table}", FOREIGN)), table


ENDLESS = "SELECT count(*) FROM range(100000000000) a WHERE hash(a.range) = 1"
WRITES = re.split(
    r" ¦ |\n",
    """CREATE TABLE x (a INT) ¦ CREATE TEMP TABLE x (a INT) ¦ CREATE OR REPLACE VIEW customers AS SELECT 1
CREATE TEMP VIEW customers AS SELECT 1 ¦ CREATE MACRO count(a) AS 1 ¦ CREATE SCHEMA s ¦ CREATE SEQUENCE s
CREATE TYPE t AS ENUM ('a') ¦ CREATE SECRET s (TYPE s3, KEY_ID 'k', SECRET 's') ¦ DROP VIEW customers
ALTER VIEW customers RENAME TO c ¦ INSERT INTO customers VALUES ('x') ¦ DELETE FROM customers
UPDATE customers SET name = 'x' ¦ TRUNCATE customers ¦ COPY customers TO '{out}/x.csv'
COPY (SELECT 1) TO '{out}/x.parquet' (FORMAT parquet) ¦ COPY customers FROM '{out}/in.csv' ¦ EXPORT DATABASE '{out}/x'
IMPORT DATABASE '{out}/x' ¦ ATTACH '{out}/x.duckdb' ¦ ATTACH ':memory:' AS m ¦ DETACH views ¦ USE memory ¦ CHECKPOINT ¦ VACUUM
INSTALL httpfs ¦ LOAD httpfs ¦ SET memory_limit = '9GB' ¦ SET enable_external_access = true ¦ SET allowed_paths = ['/']
RESET threads ¦ SET lock_configuration = false ¦ SET VARIABLE x = 1 ¦ SET schema = 'main' ¦ PRAGMA threads = 9
PRAGMA database_list ¦ CALL pragma_version() ¦ CALL enable_logging() ¦ BEGIN ¦ COMMIT ¦ PREPARE p AS SELECT 1
EXPLAIN SELECT 1 ¦ SELECT 1; SELECT 2 ¦ SELECT 1; DROP VIEW customers ¦ COMMENT ON VIEW customers IS 'x' ¦ UPDATE EXTENSIONS
PIVOT customers ON gender USING count(*)""",
)
READS = re.split(
    r" ¦ |\n",
    """SELECT * FROM '{other}' ¦ SELECT * FROM read_parquet('{other}') ¦ SELECT * FROM read_parquet('{folder}/**/*.parquet')
SELECT * FROM read_csv('/etc/passwd') ¦ SELECT * FROM read_text('/etc/passwd') ¦ SELECT * FROM read_blob('/proc/self/environ')
SELECT * FROM glob('/*') ¦ SELECT * FROM glob('{folder}/*') ¦ SELECT * FROM sniff_csv('/etc/passwd')
SELECT * FROM parquet_metadata('{other}') ¦ SELECT * FROM read_json('{folder}/manifest.json')
SELECT * FROM 'https://example.com/x.csv' ¦ SELECT * FROM 's3://bucket/x.parquet' ¦ SELECT * FROM duckdb_secrets()
SELECT * FROM read_duckdb('{out}/x.duckdb') ¦ SELECT * FROM sqlite_scan('{out}/x.db', 't') ¦ SELECT getenv('HOME')
SELECT * FROM visible_to_python ¦ WITH x AS (INSERT INTO customers VALUES ('x') RETURNING *) SELECT * FROM x
WITH x AS (DELETE FROM customers RETURNING *) SELECT * FROM x
WITH x AS (UPDATE customers SET name = 'x' RETURNING *) SELECT * FROM x ¦ SELECT nextval('s') ¦ SELECT * FROM nothing
SELECT nothing FROM customers ¦ SELECT CAST('x' AS INT) ¦ SELECT error('x')""",
)


@pytest.mark.parametrize("sql", ["", *WRITES])
def test_only_one_select_is_run(sql: str, engine: Engine, root: Path, tmp_path: Path) -> None:
    before = tree_of(root)
    (tmp_path / "in.csv").write_text("a\n")
    assert reason_of(engine, sql.format(out=tmp_path)) in ("not_select", "cannot_run")
    assert tree_of(root) == before
    assert [p.name for p in tmp_path.iterdir()] == ["in.csv"]
    assert len(engine.run("SELECT * FROM customers", MINE).data) == 40


@pytest.mark.parametrize("sql", READS)
def test_a_select_reads_nothing_else_and_writes_nothing(sql: str, engine: Engine, root: Path, tmp_path: Path) -> None:
    visible_to_python = pa.table({"a": [1]})
    other = next((root / "customers" / f"business_id={FOREIGN}").glob("*.parquet"))
    before = tree_of(root)
    with pytest.raises((QueryRefused, ArtifactError)):
        engine.run(sql.format(out=tmp_path, other=str(other).replace("'", "''"), folder=str(root).replace("'", "''")), MINE)
    assert tree_of(root) == before
    assert list(tmp_path.iterdir()) == []
    assert len(engine.run("SELECT * FROM customers", MINE).data) == 40
    assert visible_to_python.num_rows == 1


def test_the_statements_alone_do_their_harm_where_nothing_is_shut(tmp_path: Path) -> None:
    """Negative control of the two tests above: an ordinary DuckDB runs such statements."""
    visible_to_python = pa.table({"a": [1]})
    with duckdb.connect() as open_to_all:
        open_to_all.execute("SELECT * FROM visible_to_python")
        open_to_all.execute("SELECT * FROM read_text('/etc/passwd')")
        open_to_all.execute(f"COPY (SELECT 1) TO '{tmp_path}/x.csv'")
        open_to_all.execute("CREATE TABLE t (a INT)")
        assert open_to_all.execute("WITH x AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM x").fetchall() == [(1,)]
    assert (tmp_path / "x.csv").is_file()
    assert visible_to_python.num_rows == 1


def test_hostile_statements_past_the_guard_write_nothing_and_show_nothing_foreign(
    engine: Engine, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All that the guard's own test refuses, here without it. Some run, for example a cross join: of the business's own rows."""
    monkeypatch.chdir(tmp_path)
    before = tree_of(root)
    ran = 0
    for case in HOSTILE:
        if len(case["sql"]) > 3_000 or "1000000" in case["sql"] or "sleep" in case["sql"]:
            continue
        try:
            found = engine.run(case["sql"], MINE)
        except (QueryRefused, UpstreamTimeout, ArtifactError):
            continue
        ran += 1
        assert not is_foreign(found) or "two" in case["sql"] or "biz-2" in case["sql"], case
        assert "root:" not in repr(found)
    assert ran > 20
    assert tree_of(root) == before
    assert list(tmp_path.iterdir()) == []


def test_nothing_stays_for_the_next_query(engine: Engine) -> None:
    """A cursor each: what one query leaves in its session is gone."""
    for sql in ("CREATE TEMP TABLE customers AS SELECT 1 AS a", "SET schema = 'temp'", "BEGIN"):
        reason_of(engine, sql)
    assert engine.run("SELECT count(*) FROM customers", MINE).data == ((40,),)


def test_no_file_stays_in_the_temporary_folder(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Engine(root, AskSettings()) as engine:
        assert engine.run("SELECT count(*) FROM customers", MINE).data == ((40,),)
        assert list(tmp_path.iterdir()) == []


# --- bounds ---


def test_a_query_that_takes_too_long_is_stopped(root: Path) -> None:
    with Engine(root, AskSettings(timeout_s=0.2, memory="300MB")) as engine:
        with pytest.raises(UpstreamTimeout, match=r"longer than 0\.2 s"):
            engine.run(ENDLESS, MINE)
        assert engine.run("SELECT count(*) FROM customers", MINE).data == ((40,),)


def test_a_query_that_takes_too_much_memory_is_refused_and_spills_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Engine(root, AskSettings(memory="40MB", timeout_s=20)) as engine:
        assert reason_of(engine, "SELECT list(a.range ORDER BY hash(a.range)) FROM range(20000000) a") == "too_large"
        assert engine.run("SELECT count(*) FROM customers", MINE).data == ((40,),)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_business_says_which_there_are(engine: Engine) -> None:
    with pytest.raises(UnknownItem, match=r"no business 'biz-9' in .*, there are biz-1, biz-2"):
        engine.run("SELECT 1", "biz-9")


def test_settings_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGULARS_ASK_ROW_LIMIT", "7")
    assert AskSettings.load().row_limit == 7
    with pytest.raises(ConfigError, match="memory"):
        AskSettings.load(memory="lots")


# --- many threads, changing data ---


def test_many_threads_get_their_own_rows(root: Path) -> None:
    """Also while each business's database is closed for the other's."""
    with Engine(root, AskSettings(open_businesses=1)) as engine, ThreadPoolExecutor(6) as pool:
        jobs = [(b, pool.submit(engine.ask, "SELECT * FROM transactions", b)) for b in (MINE, FOREIGN) * 6]
        assert [is_foreign(job.result()) for _, job in jobs] == [business == FOREIGN for business, _ in jobs]


def test_one_slow_query_does_not_hold_up_others(root: Path) -> None:
    with Engine(root, AskSettings(timeout_s=2)) as engine, ThreadPoolExecutor(2) as pool:
        slow = pool.submit(engine.run, ENDLESS, MINE)
        assert engine.run("SELECT count(*) FROM customers", MINE).data == ((40,),)
        assert not slow.done()
        with pytest.raises(UpstreamTimeout):
            slow.result()


def test_what_lands_later_is_seen_and_a_query_that_runs_is_left_alone(copied: Path) -> None:
    with Engine(copied, AskSettings(timeout_s=3)) as engine, ThreadPoolExecutor(1) as pool:
        assert engine.run("SELECT count(*) FROM customers", MINE).data == ((40,),)
        slow = pool.submit(engine.run, ENDLESS, MINE)
        one = rows(MINE)["customers"].slice(0, 1)
        Warehouse(copied).land("customers", one.set_column(0, "customer_id", pa.array(["cust-new"])), "later")
        Warehouse(copied).land("products", rows(FOREIGN)["products"], "another business")
        assert engine.run("SELECT count(*) FROM customers", MINE).data == ((41,),)
        assert engine.businesses() == [MINE, FOREIGN]
        with pytest.raises(UpstreamTimeout):
            slow.result()


def test_a_file_that_is_gone_is_looked_for_anew_and_then_said(copied: Path) -> None:
    with Engine(copied, AskSettings()) as engine:
        assert engine.run("SELECT count(*) FROM products", MINE).data == ((9,),)
        shutil.rmtree(copied / "products")
        with pytest.raises(ArtifactError, match=r"cannot open"):
            engine.run("SELECT sum(price) FROM products", MINE)


def test_a_file_that_is_damaged_while_open_says_so(copied: Path) -> None:
    with Engine(copied, AskSettings()) as engine:
        assert engine.run("SELECT 1", MINE).data == ((1,),)
        for file in (copied / "products").rglob("*.parquet"):
            file.write_bytes(file.read_bytes()[:40] + b"x" * 400)
        with pytest.raises((ArtifactError, QueryRefused)):
            engine.run("SELECT sum(price) FROM products", MINE)


# --- other places where rows lie ---


def as_folder(folder: Path, kind: str, *businesses: str) -> Path:
    for table in TABLES:
        parts = pa.concat_tables([rows(b)[table] for b in businesses])
        if kind == "csv":
            folder.mkdir(exist_ok=True)
            pa_csv.write_csv(parts, folder / f"{table}.csv")
        elif kind == "parquet":
            folder.mkdir(exist_ok=True)
            pq.write_table(parts, folder / f"{table}.parquet")
        elif kind == "folders":
            for number, part in enumerate((parts.slice(0, 5), parts.slice(5))):
                (folder / table / f"part={number}").mkdir(parents=True, exist_ok=True)
                pq.write_table(part, folder / table / f"part={number}" / "x.parquet")
        else:
            with duckdb.connect(str(folder)) as connection:
                connection.execute(f"CREATE TABLE {table} AS SELECT * FROM parts")
    return folder


def rounded(found: Rows) -> list[list[object]]:
    """Sums of floats depend on the order of rows in the files."""
    return [[round(v, 9) if isinstance(v, float) else v for v in row] for row in found.data]


@pytest.mark.parametrize("kind", ["csv", "parquet", "folders", "duckdb"])
def test_files_and_databases_give_the_same_rows_as_a_warehouse(kind: str, engine: Engine, tmp_path: Path) -> None:
    folder = as_folder(tmp_path / f"own{'.duckdb' if kind == 'duckdb' else ''}", kind, FOREIGN, MINE)
    with Engine(folder, AskSettings()) as own:
        assert own.businesses() == [MINE, FOREIGN]
        for sql in GOOD[::4]:
            assert rounded(own.ask(sql, MINE)) == rounded(engine.ask(sql, MINE)), sql
        for table in TABLES:
            assert not is_foreign(own.run(f"SELECT * FROM {table}", MINE)), table
        assert own.as_of(MINE) == engine.as_of(MINE)
        for sql in ("DROP TABLE source.main.customers", "DELETE FROM source.main.customers", "COPY customers TO 'x'"):
            assert reason_of(own, sql) == "not_select"
        with pytest.raises(QueryRefused):
            own.run("WITH x AS (DELETE FROM source.main.customers RETURNING *) SELECT * FROM x", MINE)
        with pytest.raises((QueryRefused, ArtifactError)):
            own.run("SELECT * FROM read_text('/etc/passwd')", MINE)


def test_a_home_is_taken_for_its_warehouse(root: Path) -> None:
    with Engine(root.parent, AskSettings()) as engine:
        assert engine.businesses() == [MINE, FOREIGN]


def test_missing_tables_and_columns_are_empty(tmp_path: Path) -> None:
    (tmp_path / "customers.csv").write_text("Customer_ID,name,Points_Balance,joined_at\nc1,Ann,5,2026-01-02 03:04:05\nc2,,,\n")
    with Engine(tmp_path, AskSettings()) as engine:
        assert engine.businesses() == ["default"]
        found = engine.ask("SELECT customer_id, business_id, name, points_balance, joined_at, gender FROM customers ORDER BY 1", "default")
        assert found.data == (
            ("c1", "default", "Ann", 5, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), None),
            ("c2", "default", None, None, None, None),
        )
        assert engine.ask("SELECT count(*) FROM transactions", "default").data == ((0,),)
        with pytest.raises(ArtifactError, match="no transaction of business 'default'"):
            engine.as_of("default")
        os.utime(tmp_path / "customers.csv", ns=(1, 1))
        (tmp_path / "customers.csv").write_text("customer_id\nc3\n")
        assert engine.ask("SELECT customer_id FROM customers", "default").data == (("c3",),)


def test_a_table_without_business_beside_several_is_refused(tmp_path: Path) -> None:
    as_folder(tmp_path, "parquet", MINE, FOREIGN)
    pq.write_table(rows(MINE)["products"].drop_columns(["business_id"]), tmp_path / "products.parquet")
    with Engine(tmp_path, AskSettings()) as engine, pytest.raises(ArtifactError, match="products has no column business_id"):
        engine.run("SELECT 1", MINE)


@pytest.mark.parametrize("what", ["nothing", "empty", "text"])
def test_a_place_without_tables_says_what_is_needed(what: str, tmp_path: Path) -> None:
    place = tmp_path / what
    if what == "empty":
        place.mkdir()
    elif what == "text":
        place.write_text("x")
    with pytest.raises(ArtifactError, match=r"no warehouse at .*manifest\.json.*Run: regulars data"):
        Engine(place, AskSettings())


def test_a_damaged_database_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.duckdb").write_bytes(b"not a database" * 1000)
    with Engine(tmp_path / "x.duckdb", AskSettings()) as engine, pytest.raises(ArtifactError, match="cannot read the tables"):
        engine.businesses()


def test_a_damaged_file_says_so(copied: Path) -> None:
    for file in (copied / "customers").rglob("*.parquet"):
        file.write_bytes(b"PAR1 no")
    with Engine(copied, AskSettings()) as engine, pytest.raises(ArtifactError, match="cannot open"):
        engine.run("SELECT 1", MINE)


def test_a_manifest_that_goes_away_says_so(copied: Path) -> None:
    with Engine(copied, AskSettings()) as engine:
        (copied / "manifest.json").unlink()
        with pytest.raises(ArtifactError, match=r"cannot read .*manifest"):
            engine.businesses()
