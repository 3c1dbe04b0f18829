# ruff: noqa: S608 - queries of the tests
"""Ten thousand queries bent out of shape, against the guard alone: nothing is written, no foreign row is seen, nothing but
QueryRefused is raised.

Good queries are changed in their text (fragments of attacks put in, words swapped, cut, doubled) and in their tree (parts of one query put
into another), by a seeded generator. What passes the guard is run on a database that holds two businesses and has nothing shut, and again
where the business is alone.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from contracts.errors import QueryRefused
from nlq.guard import check
from nlq.schema import SCHEMA

from .test_guard import GOOD, HOSTILE, database, loose_tables, reason_of
from .two_businesses import FOREIGN, MINE, is_foreign, is_private

PARTS, CASES = 5, 2_000
SEED = 20_261_014
SIGNS = [*"'\";()$?\\.,*{}[]@\x00\u200b", "--", "/*", "*/", "$$", "$1", "::", "->>", "#1", ":="]
ATTACKS = re.split(
    r"\s* ¦ \s*|\n",
    r"""OR 1=1 ¦ OR true ¦ OR business_id = 'biz-2' ¦ OR business_id IS NOT NULL ¦ AND business_id <> 'biz-1' ¦ ' OR '1'='1
'; DROP TABLE customers; -- ¦ UNION ALL SELECT * FROM customers ¦ UNION SELECT email FROM customers
UNION ALL SELECT name FROM products ¦ , email ¦ , c.email ¦ , customers ¦ , birth_date AS b
EXCEPT SELECT business_id FROM customers ¦ , (SELECT max(email) FROM customers) ¦ , (SELECT min(business_id) FROM transactions)
WHERE EXISTS (SELECT 1 FROM tickets) ¦ FROM main.customers ¦ FROM read_csv('/etc/passwd') ¦ FROM 'x.parquet'
JOIN events ON true ¦ CROSS JOIN transaction_items ¦ , transactions ¦ NATURAL JOIN customers ¦ LIMIT 1000000 ¦ LIMIT ALL
OFFSET 5 ¦ USING SAMPLE 5 ¦ FOR UPDATE ¦ INTO x ¦ RETURNING * ¦ COLUMNS(*) ¦ COLUMNS('email') ¦ * EXCLUDE (name)
* REPLACE (email AS name) ¦ getenv('HOME') ¦ query('SELECT 1') ¦ unnest([1]) ¦ range(5) ¦ WITH customers AS (SELECT 1)
WITH x AS (SELECT * FROM customers) ¦ WITH x AS (DELETE FROM customers RETURNING *) ¦ WITH RECURSIVE r AS (SELECT 1)
INSERT INTO customers ¦ COPY ( ¦ ) TO 'x.csv' ¦ EXPLAIN ¦ PRAGMA ¦ SET x = 1; ¦ LATERAL (SELECT * FROM products) l
(SELECT * FROM customers) c ¦ struct_pack(a := name) ¦ row(name) ¦ list(name) ¦ string_agg(name, ',') ¦ any_value(name)
max(name) ¦ count(*)""",
)
SWAPS = [
    *SCHEMA.tables,
    *sorted({c.name for c in SCHEMA.columns}),
    *re.split(
        r"\s* ¦ \s*|\n",
        """'biz-2' ¦ 'biz-1' ¦ 1 ¦ 0 ¦ NULL ¦ true ¦ * ¦ c ¦ t ¦ x ¦ JOIN ¦ LEFT JOIN ¦ SEMI JOIN ¦ ANTI JOIN ¦ FULL JOIN ¦ UNION
INTERSECT ¦ SELECT ¦ SELECT DISTINCT ¦ FROM ¦ WHERE ¦ ON ¦ USING ¦ GROUP BY ¦ ORDER BY ¦ HAVING ¦ QUALIFY ¦ AND ¦ OR ¦ NOT ¦ IN
EXISTS ¦ LIKE ¦ IS ¦ BETWEEN ¦ = ¦ <> ¦ < ¦ || ¦ + ¦ / ¦ %""",
    ),
]
WORDS = re.compile(r"\s+|\w+|'[^']*'|\"[^\"]*\"|.", re.DOTALL)


def mutated(rng: random.Random, trees: list[exp.Expr]) -> str:
    """One bent query."""
    kind = rng.random()
    if kind < 0.35:
        return grafted(rng, trees)
    sql = rng.choice(GOOD) if kind < 0.96 else rng.choice(HOSTILE)["sql"][:600]
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        words = WORDS.findall(sql) or [""]
        at = rng.randrange(len(words))
        action = rng.random()
        if action < 0.35:
            words.insert(at, rng.choice(SIGNS) if rng.random() < 0.3 else f" {rng.choice(ATTACKS)} ")
        elif action < 0.7:
            names = [i for i, w in enumerate(words) if w.strip() and (w[0].isalnum() or w[0] in "'\"*=<")] or [at]
            words[rng.choice(names)] = rng.choice(SWAPS)
        elif action < 0.8:
            del words[at : at + rng.randrange(1, 6)]
        elif action < 0.87:
            words[at:at] = words[at : at + rng.randrange(1, 12)]
        elif action < 0.95:
            other = WORDS.findall(rng.choice(GOOD))
            start = rng.randrange(len(other))
            words[at:at] = [" ", *other[start : start + rng.randrange(1, 20)], " "]
        else:
            words[at] = rng.choice((words[at].swapcase(), f'"{words[at]}"', f"/*x*/{words[at]}", f"({words[at]})"))
        sql = "".join(words)
    return sql


def grafted(rng: random.Random, trees: list[exp.Expr]) -> str:
    """A good query with parts of others in it: it parses, and means something else."""
    tree = rng.choice(trees).copy()
    for _ in range(rng.choice((1, 1, 2, 3))):
        donor = rng.choice(trees)
        kind = rng.choice((exp.Table, exp.Column, exp.Condition, exp.Condition, exp.Select, exp.Where, exp.Join, exp.Subquery))
        places = [n for n in tree.find_all(kind) if n.parent is not None]
        parts = [n for n in donor.find_all(kind) if n.parent is not None]
        if not places or not parts:
            continue
        place, part = rng.choice(places), rng.choice(parts).copy()
        if isinstance(part, exp.Table) and rng.random() < 0.5:
            part = exp.table_(rng.choice(list(SCHEMA.tables)), alias=place.alias_or_name or None)
        place.replace(part)
    try:
        return tree.sql(dialect="duckdb")
    except (SqlglotError, ValueError, AttributeError, TypeError):
        return "SELECT"  # a tree that no text stands for


UNORDERED = re.compile(
    r"\b(limit|row_number|rank|ntile|lag|lead|first|last|any_value|listagg|arg_m|mode|qualify|over|now|current_|distinct on)", re.IGNORECASE
)
"""Where ties or the order of rows may decide: such results are searched for foreign values, and not compared."""


@pytest.fixture(scope="module")
def both() -> Iterator[duckdb.DuckDBPyConnection]:
    with database(FOREIGN, MINE) as connection:
        yield connection


@pytest.fixture(scope="module")
def alone() -> Iterator[duckdb.DuckDBPyConnection]:
    with database(MINE) as connection:
        yield connection


def contents(connection: duckdb.DuckDBPyConnection) -> list[object]:
    """What is there: every object of the catalog, and of every table a sum over its rows."""
    names = connection.execute("SELECT table_name, sql FROM duckdb_tables() ORDER BY ALL").fetchall()
    views = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY ALL").fetchall()
    sums = [connection.execute(f"SELECT count(*), sum(hash({name})) FROM {name}").fetchall() for name in SCHEMA.tables]
    settings = connection.execute("SELECT name, value FROM duckdb_settings() ORDER BY name").fetchall()
    return [names, views, sums, settings]


def run(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[object, ...]] | None:
    """The rows, or None where DuckDB finds a mistake in it (a type, a division)."""
    try:
        return connection.execute(sql).fetchall()
    except duckdb.Error:
        return None


@pytest.mark.parametrize("part", range(PARTS))
def test_no_bent_query_writes_or_shows_a_foreign_row_or_breaks_the_guard(
    part: int, both: duckdb.DuckDBPyConnection, alone: duckdb.DuckDBPyConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = random.Random(SEED + part)
    trees = [sqlglot.parse_one(sql, read="duckdb") for sql in GOOD]
    before = contents(both)
    seen: Counter[str] = Counter()
    compared = 0
    for _ in range(CASES):
        sql = mutated(rng, trees)
        try:
            guarded = check(sql, business_id=MINE, row_limit=100)
        except QueryRefused as exc:
            seen[exc.reason] += 1
            continue
        tree = json.loads(both.execute("SELECT json_serialize_sql(?)", [guarded.sql]).fetchall()[0][0])
        assert list(loose_tables(tree)) == [], (sql, guarded.sql)
        found = run(both, guarded.sql)
        if found is None:
            seen["cannot_run"] += 1
            continue
        seen["rows"] += 1
        assert len(found) <= 101, sql
        assert not is_private(found), (sql, guarded.sql)
        assert foreign_values(found, sql) == [], (sql, guarded.sql)
        if not UNORDERED.search(guarded.sql.removesuffix(f" LIMIT {guarded.limit + 1}")) and len(found) <= 100:
            compared += 1
            assert sorted(map(repr, found)) == sorted(map(repr, alone.execute(guarded.sql).fetchall())), (sql, guarded.sql)
    assert contents(both) == before
    assert list(tmp_path.iterdir()) == []
    # The generator reaches far enough: many run, and many kinds of refusal are met.
    assert seen["rows"] > CASES // 10, seen
    assert compared > CASES // 20, compared
    assert {"not_sql", "cross_join", "function", "table_function", "unknown_column", "not_select"} <= set(seen), seen


def foreign_values(found: list[tuple[object, ...]], sql: str) -> list[object]:
    """Values that only the other business has, but for those that the query itself spells out."""
    return [v for row in found for v in row if is_foreign(v) and "two" not in sql.lower() and "biz-2" not in sql and "2090" not in sql]


def test_the_markers_would_show_a_leak(both: duckdb.DuckDBPyConnection, alone: duckdb.DuckDBPyConnection) -> None:
    """Negative control: good queries without the guard show foreign rows, and differ from those of the business alone."""
    leaks = [sql for sql in GOOD if is_foreign(both.execute(sql).fetchall())]
    differs = [sql for sql in GOOD if both.execute(sql).fetchall() != alone.execute(sql).fetchall()]
    assert len(leaks) > 15
    assert len(differs) > 25


def test_the_guards_output_passes_the_guard_again() -> None:
    """What was narrowed once can be narrowed again: the printed text is of the same allow-list."""
    for sql in GOOD:
        once = check(sql, business_id=MINE)
        assert check(once.sql, business_id=MINE).tables >= once.tables


def test_hostile_fragments_alone_are_refused() -> None:
    for fragment in (*SIGNS, *ATTACKS):
        assert reason_of(fragment)
