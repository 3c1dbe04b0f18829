# ruff: noqa: S608 - queries of the tests
"""The guard by itself: the queries it gives back run on a database that holds two businesses, with no second wall behind it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlglot
from sqlglot import exp

from contracts.errors import ContractError, QueryRefused
from nlq.guard import REASONS, Guarded, check
from nlq.schema import PRIVATE_READER, SCHEMA

from .two_businesses import FOREIGN, MINE, is_foreign, is_private, rows

DATA = Path(__file__).parent / "data"
HOSTILE = [json.loads(line) for line in (DATA / "hostile_sql.jsonl").read_text(encoding="utf-8").splitlines()]
READER = frozenset({PRIVATE_READER})

GOOD = [
    "SELECT count(*) AS n FROM customers WHERE membership_tier = 'GOLD'",
    "SELECT * FROM customers ORDER BY customer_id",
    "SELECT c.* FROM customers c JOIN tickets k ON k.customer_id = c.customer_id ORDER BY k.ticket_id LIMIT 5",
    "select Count(*) From CUSTOMERS Where Membership_Tier = 'GOLD'",
    'SELECT "c"."name" FROM "customers" AS "c" ORDER BY "c"."customer_id" LIMIT 3',
    "SELECT c.location, sum(t.amount) AS revenue FROM transactions t JOIN customers c ON c.customer_id = t.customer_id "
    "WHERE t.occurred_at >= TIMESTAMP '2026-02-01' GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5",
    "WITH m AS (SELECT date_trunc('month', occurred_at) AS month, sum(amount) AS revenue FROM transactions GROUP BY 1), "
    "n AS (SELECT month, revenue, lag(revenue) OVER (ORDER BY month) AS before FROM m) "
    "SELECT month, revenue - before AS growth FROM n WHERE before IS NOT NULL ORDER BY month",
    "SELECT p.name, sum(i.quantity) AS sold FROM transaction_items i JOIN products p USING (product_id) JOIN transactions t "
    "USING (transaction_id) WHERE t.channel = 'app' GROUP BY ALL ORDER BY sold DESC, p.name LIMIT 10",
    "SELECT sum(quantity) FROM transaction_items",
    "SELECT name FROM customers c WHERE NOT EXISTS (SELECT 1 FROM transactions t WHERE t.customer_id = c.customer_id) ORDER BY name",
    "SELECT count(*) FROM transactions, (SELECT max(occurred_at) AS as_of FROM transactions) a "
    "WHERE transactions.occurred_at > a.as_of - INTERVAL 30 DAY",
    "WITH a AS (SELECT max(occurred_at) AS as_of FROM transactions) SELECT count(*) FROM events CROSS JOIN a WHERE occurred_at < as_of",
    "SELECT round(100.0 * count(*) FILTER (WHERE channel = 'app') / count(*), 1) AS share FROM transactions "
    "WHERE occurred_at >= (SELECT max(occurred_at) FROM transactions) - INTERVAL '90 days'",
    "SELECT membership_tier, name FROM customers "
    "QUALIFY row_number() OVER (PARTITION BY membership_tier ORDER BY points_balance DESC, name) = 1 ORDER BY ALL",
    'SELECT location, avg(points_balance) AS "Average points (Ø)" FROM customers GROUP BY location HAVING count(*) > 5 '
    'ORDER BY "Average points (Ø)" DESC',
    "SELECT 'a' AS what, count(*) AS n FROM events WHERE event_type = 'redemption' UNION ALL "
    "SELECT 'b', count(*) FROM events WHERE event_type = 'offer_viewed' ORDER BY what",
    "SELECT t.amount, b.l FROM transactions t JOIN LATERAL (SELECT count(*) AS l FROM tickets k WHERE k.customer_id = t.customer_id) b "
    "ON true ORDER BY t.transaction_id LIMIT 3",
    "SELECT points_balance / 100 AS hundreds, hundreds * 2 AS twice, points_balance // 7 AS w, -points_balance % 3 AS r "
    "FROM customers ORDER BY customer_id",
    "SELECT year(occurred_at) AS y, strftime(occurred_at, '%Y-%m') AS m, extract(dow FROM occurred_at) AS d, isodow(occurred_at) AS i, "
    "date_diff('day', min(occurred_at), max(occurred_at)) AS span FROM events GROUP BY ALL ORDER BY ALL",
    "SELECT json_extract_string(metadata, '$.from') AS origin, count(*) AS n FROM events "
    "WHERE json_extract_string(metadata, '$.from') = 'one' AND metadata->>'$.from' <> 'x' GROUP BY 1",
    "SELECT customer_id FROM customers INTERSECT SELECT customer_id FROM tickets ORDER BY customer_id LIMIT 5",
    "SELECT customer_id FROM customers EXCEPT SELECT customer_id FROM transactions ORDER BY 1",
    "SELECT t.store, quantile_cont(t.amount, 0.5) AS median, stddev(t.amount) AS s FROM transactions AS t "
    "SEMI JOIN customers c ON c.customer_id = t.customer_id AND c.gender = 'o1' GROUP BY t.store ORDER BY 1",
    "SELECT CASE WHEN churn_90 > 0.5 THEN 'high' ELSE 'low' END AS risk, round(avg(predicted_clv), 2) AS clv FROM customer_risk_scores "
    "GROUP BY 1 ORDER BY 1",
    "SELECT s.name, s.size FROM segments s WHERE s.churn_rate > (SELECT avg(churn_rate) FROM segments) ORDER BY s.size DESC",
    "SELECT c.name, x.n FROM customers c LEFT JOIN (SELECT customer_id, count(*) AS n FROM events WHERE event_type IN "
    "('redemption', 'referral') GROUP BY customer_id) x ON x.customer_id = c.customer_id "
    "ORDER BY x.n DESC NULLS LAST, c.customer_id LIMIT 9",
    "SELECT name FROM customers WHERE customer_id IN (SELECT customer_id FROM tickets WHERE rating <= ALL (SELECT rating FROM tickets)) "
    "ORDER BY name",
    "SELECT gender, location, count(*) AS n FROM customers GROUP BY ROLLUP (gender, location) ORDER BY ALL",
    "SELECT DISTINCT location FROM customers WHERE location ILIKE '%austin%' OR name LIKE 'one%' ORDER BY location",
    "SELECT sum(amount) OVER (ORDER BY occurred_at ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS moving FROM transactions "
    "ORDER BY occurred_at LIMIT 20",
    "SELECT d.name, count(*) AS n FROM events e JOIN rewards d ON d.reward_id = e.reward_id "
    "JOIN campaigns g ON g.campaign_id = e.campaign_id WHERE e.occurred_at BETWEEN g.started_at AND g.ended_at "
    "GROUP BY d.name ORDER BY n DESC, d.name",
    "SELECT count(*) FROM customers WHERE business_id = 'biz-1'",
    "(SELECT name FROM products ORDER BY price DESC LIMIT 2)",
    "SELECT c.name FROM customers AS c, tickets AS k WHERE c.customer_id = k.customer_id AND k.rating = 5 ORDER BY c.name",
    "SELECT trim(upper(name)) AS n, length(name) AS l, concat_ws('-', gender, location) AS w, coalesce(age_group, 'none') AS a, "
    "try_cast(points_balance AS DOUBLE) AS p, cast(joined_at AS DATE) AS day FROM customers ORDER BY customer_id LIMIT 4",
    "SELECT name -- a comment\n FROM /* another; DROP TABLE customers */ customers ORDER BY customer_id LIMIT 1",
    "SELECT avg(points_balance) IS NOT NULL AS known, bool_or(consent_personalization) AS some FROM customers;",
    "SELECT last_day(occurred_at) AS d, dayname(occurred_at) AS n, count(DISTINCT customer_id) AS c "
    "FROM transactions GROUP BY 1, 2 ORDER BY ALL",
]


def database(*businesses: str) -> duckdb.DuckDBPyConnection:
    """The tables of these businesses in memory, with nothing shut."""
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("SET TimeZone = 'UTC'")
    for number, business in enumerate(businesses):
        for name, table in rows(business).items():
            connection.register("batch", table)
            connection.execute(f"INSERT INTO {name} FROM batch" if number else f"CREATE TABLE {name} AS FROM batch")
            connection.unregister("batch")
    return connection


@pytest.fixture(scope="module")
def both() -> Iterator[duckdb.DuckDBPyConnection]:
    with database(FOREIGN, MINE) as connection:
        yield connection


@pytest.fixture(scope="module")
def alone() -> Iterator[duckdb.DuckDBPyConnection]:
    with database(MINE) as connection:
        yield connection


def reason_of(sql: str, **arguments: Any) -> str:
    with pytest.raises(QueryRefused) as refused:
        check(sql, business_id=MINE, **arguments)
    assert refused.value.reason in REASONS
    assert refused.value.status == 422
    return refused.value.reason


# --- what is allowed gives the right rows ---


@pytest.mark.parametrize("sql", GOOD, ids=range(len(GOOD)))
def test_rows_are_those_of_the_business_alone(sql: str, both: duckdb.DuckDBPyConnection, alone: duckdb.DuckDBPyConnection) -> None:
    """Tenancy, and the rewriting: what was written, run where there is no other business, against what the guard made of it."""
    guarded = check(sql, business_id=MINE)
    found = both.execute(guarded.sql).fetchall()
    # Without the private columns, as `SELECT *` does without the role.
    public = ", ".join(c for c in SCHEMA.tables["customers"].columns if ("customers", c) not in SCHEMA.private)
    written = (
        alone.execute(sql.replace("* FROM customers ORDER", f"{public} FROM customers ORDER")).fetchall() if "c.*" not in sql else found
    )
    assert found == written
    assert found
    assert not is_foreign(found)
    assert not is_private(found)


def test_the_other_business_sees_its_own(both: duckdb.DuckDBPyConnection) -> None:
    """Negative control of the markers: the same query for the other business shows them."""
    found = both.execute(check("SELECT * FROM transactions", business_id=FOREIGN).sql).fetchall()
    assert is_foreign(found)
    assert all("two" in row[0] for row in found)


@pytest.mark.parametrize("table", SCHEMA.tables)
def test_every_table_is_narrowed_wherever_it_stands(table: str, both: duckdb.DuckDBPyConnection, alone: duckdb.DuckDBPyConnection) -> None:
    key = SCHEMA.tables[table].key[0]
    for sql in (
        f"SELECT count(*) FROM {table}",
        f"SELECT (SELECT count(*) FROM {table})",
        f"WITH q AS (SELECT * FROM {table}) SELECT count(*) FROM q",
        f"SELECT count(*) FROM (SELECT {key} FROM {table} UNION ALL SELECT {key} FROM {table})",
        f"SELECT count(*) FROM {table} a JOIN {table} b ON a.{key} = b.{key}",
        f"SELECT count(*) FROM customers WHERE EXISTS (SELECT 1 FROM {table} x WHERE x.{key} LIKE '%2%')",
        f"SELECT count(*) FROM customers c, LATERAL (SELECT max({key}) AS m FROM {table} x WHERE x.{key} > c.customer_id) l",
        f"SELECT sum(n) OVER () FROM (SELECT {key}, count(*) AS n FROM {table} GROUP BY 1) LIMIT 1",
    ):
        guarded = check(sql, business_id=MINE)
        assert both.execute(guarded.sql).fetchall() == alone.execute(sql).fetchall()
        assert table in guarded.tables


def test_duckdbs_own_parser_sees_only_narrowed_tables(both: duckdb.DuckDBPyConnection) -> None:
    """A second reading of what the guard printed, by the parser that will run it: no table but inside a filter, and no function as one."""
    for sql in GOOD:
        printed = check(sql, business_id=MINE).sql
        tree = json.loads(both.execute("SELECT json_serialize_sql(?)", [printed]).fetchall()[0][0])
        assert not tree["error"], tree
        loose = list(loose_tables(tree["statements"]))
        assert loose == [], printed
    raw = json.loads(both.execute("SELECT json_serialize_sql(?)", ["SELECT * FROM customers, range(5)"]).fetchall()[0][0])
    assert sorted(loose_tables(raw["statements"])) == ["TABLE_FUNCTION", "customers"]


def loose_tables(node: Any) -> Iterator[str]:
    """Tables that DuckDB's tree reads outside a `WHERE business_id = 'biz-1'` on exactly that table, and functions in place of tables."""
    if isinstance(node, dict) and isinstance(node.get("from_table"), dict):
        where = json.dumps(node.get("where_clause"))
        narrowed = '"business_id"' in where and f'"{MINE}"' in where
        if narrowed and node["from_table"].get("type") == "BASE_TABLE":
            node = {key: value for key, value in node.items() if key != "from_table"}
    if isinstance(node, dict) and node.get("type") == "BASE_TABLE" and node["table_name"] in SCHEMA.tables:
        yield node["table_name"]
    if isinstance(node, dict) and node.get("type") == "TABLE_FUNCTION":
        yield "TABLE_FUNCTION"
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from loose_tables(value)


# --- what is refused ---


@pytest.mark.parametrize("case", HOSTILE, ids=[f"{i}-{c['reason']}" for i, c in enumerate(HOSTILE)])
def test_hostile_sql_is_refused_for_its_reason(case: dict[str, str]) -> None:
    assert reason_of(case["sql"]) == case["reason"]


def test_there_are_many_hostile_statements_of_every_reason() -> None:
    assert len({c["sql"] for c in HOSTILE}) == len(HOSTILE) >= 200
    assert {c["reason"] for c in HOSTILE} == set(REASONS) - {"cannot_run", "too_large"}


def test_a_message_says_what_is_wrong_what_is_allowed_and_what_to_do_and_is_short() -> None:
    for case in HOSTILE:
        with pytest.raises(QueryRefused) as refused:
            check(case["sql"], business_id=MINE)
        message = str(refused.value)
        assert message.endswith("."), message
        assert "\n" not in message
        assert len(message) < 500


@pytest.mark.parametrize("business", ["", "x" * 201, "a\x00b"])
def test_a_business_id_must_be_plausible(business: str) -> None:
    with pytest.raises(ContractError, match="business_id has"):
        check("SELECT 1", business_id=business)


def test_a_row_limit_is_at_least_one() -> None:
    with pytest.raises(ContractError, match="row_limit is 0"):
        check("SELECT 1", business_id=MINE, row_limit=0)


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError()])
def test_a_mistake_of_the_parser_refuses(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("nlq.guard.qualify", broken)
    assert reason_of("SELECT count(*) FROM customers") == ("too_deep" if isinstance(error, RecursionError) else "not_sql")


def test_something_that_is_not_sql_inside_a_node_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only an allow-list stands between a new kind of argument in a later sqlglot and the text that is run."""
    tree = sqlglot.parse_one("SELECT abs(points_balance) FROM customers", read="duckdb")
    for value, reason in ((object(), "construct"), ("1) FROM secrets --", "construct")):
        changed = tree.copy()
        changed.find(exp.Abs).args["extra"] = value  # type: ignore[union-attr]
        monkeypatch.setattr("nlq.guard.sqlglot.parse", lambda *_, t=changed, **__: [t])
        assert reason_of("SELECT 1") == reason
    changed = tree.copy()
    changed.find(exp.Column).replace(exp.Literal(this="1 FROM x", is_string=False))  # type: ignore[union-attr]
    monkeypatch.setattr("nlq.guard.sqlglot.parse", lambda *_, **__: [changed])
    assert reason_of("SELECT 1") == "construct"


# --- one business, its name included ---


@pytest.mark.parametrize("business", ["it's", "x' OR '1'='1", "\\' OR 1=1 --", 'a"b', "бизнес", "; DROP TABLE customers", "$$x$$", "%"])
def test_a_business_id_is_only_ever_a_literal(business: str, both: duckdb.DuckDBPyConnection) -> None:
    printed = check("SELECT count(*) AS n FROM customers", business_id=business).sql
    assert both.execute(printed).fetchall() == [(0,)]
    assert both.execute(printed.replace(exp.Literal.string(business).sql("duckdb"), "'biz-1'")).fetchall() == [(40,)]


def test_values_keep_their_quotes(both: duckdb.DuckDBPyConnection) -> None:
    for value in ("O'Brien", "a\\'b", "--", "/*", "';DROP", "\\"):
        literal = exp.Literal.string(value).sql("duckdb")
        assert both.execute(check(f"SELECT {literal} AS v, name FROM customers LIMIT 1", business_id=MINE).sql).fetchall()[0][0] == value


# --- private columns ---


def test_a_reader_of_private_columns_sees_them_of_its_own_business(both: duckdb.DuckDBPyConnection) -> None:
    guarded = check("SELECT email, birth_date FROM customers ORDER BY email", business_id=MINE, roles=READER)
    found = both.execute(guarded.sql).fetchall()
    assert is_private(found)
    assert not is_foreign(found)
    assert guarded.columns == {"customers.email", "customers.birth_date"}


def test_star_shows_private_columns_to_the_role_only(both: duckdb.DuckDBPyConnection) -> None:
    columns: Callable[[Guarded], list[str]] = lambda g: [c[0] for c in both.execute(g.sql).description or []]  # noqa: E731
    assert columns(check("SELECT * FROM customers", business_id=MINE, roles=READER)) == list(SCHEMA.tables["customers"].columns)
    shown = columns(check("SELECT * FROM customers", business_id=MINE, roles=frozenset({"admin"})))
    assert set(SCHEMA.tables["customers"].columns) - set(shown) == {"email", "birth_date"}


# --- what is given back ---


def test_tables_and_columns_read_are_named() -> None:
    guarded = check(
        "WITH q AS (SELECT customer_id, sum(amount) AS s FROM transactions GROUP BY 1) "
        "SELECT c.name FROM customers c JOIN q ON q.customer_id = c.customer_id WHERE q.s > 5",
        business_id=MINE,
    )
    assert guarded.tables == {"customers", "transactions"}
    assert guarded.columns == {"customers.name", "customers.customer_id", "transactions.customer_id", "transactions.amount"}


@pytest.mark.parametrize(("own", "asked"), [("", 8), (" LIMIT 3", 3), (" LIMIT 7", 7), (" LIMIT 8", 8), (" LIMIT 900000", 8)])
def test_rows_are_limited_to_one_more_than_may_be_shown(own: str, asked: int, both: duckdb.DuckDBPyConnection) -> None:
    guarded = check(f"SELECT name FROM customers{own}", business_id=MINE, row_limit=7)
    assert guarded.limit == 7
    assert len(both.execute(guarded.sql).fetchall()) == asked


def test_a_union_is_limited_as_a_whole(both: duckdb.DuckDBPyConnection) -> None:
    guarded = check("SELECT name FROM customers UNION ALL SELECT name FROM products", business_id=MINE, row_limit=7)
    assert len(both.execute(guarded.sql).fetchall()) == 8


def test_nothing_of_the_text_survives_but_its_tree() -> None:
    printed = check("select /* one remark */ NAME from Customers -- another", business_id=MINE).sql
    assert "remark" not in printed
    assert "another" not in printed
    assert check(printed.replace("LIMIT 1001", ""), business_id=MINE).tables == {"customers"}
