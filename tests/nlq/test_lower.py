# ruff: noqa: S608 - queries of the tests
"""Programs as SQL: the rows are those of independent SQL written by hand, and whatever can be said runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.errors import ContractError, QueryRefused
from nlq.corpus.check import open_business
from nlq.evaluate import same_rows
from nlq.guard import check
from nlq.link import Linked, Number, Value
from nlq.lower import Lowered, lower
from nlq.program import Automaton, Program, Simple, Wrapped, parse
from nlq.schema import PRIVATE_READER
from nlq.times import Window, find
from nlq.vocabulary import TABLES, fields

AS_OF = datetime(2026, 10, 14, 13, tzinfo=UTC)
MINE, READER = "biz-1", frozenset({PRIVATE_READER})


def window(words: str) -> Window:
    return next(w for _, _, w in find(words, AS_OF))


def values(**columns: tuple[str, ...]) -> Value:
    return Value({name.replace("__", "."): stored for name, stored in columns.items()}, "")


def linked(numbers: tuple[float, ...] = (), values: tuple[Value, ...] = (), times: tuple[str, ...] = ()) -> Linked:
    return Linked("", "", tuple(Number(n) for n in numbers), values, tuple(window(t) for t in times))


def lowered(said: str, slots: Linked, **how: bool) -> Lowered:
    return lower(parse(said, slots.slots()), slots, AS_OF, **how)


@pytest.fixture(scope="module")
def business(small_home: Path) -> duckdb.DuckDBPyConnection:
    """The rows of one business, in tables that the hand-written SQL reads, too."""
    connection = open_business(small_home / "warehouse", MINE)
    connection.execute("SET threads = 1")
    return connection


def ask(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    return connection.execute(sql).fetchall()


AUSTIN = values(customers__location=("Austin, TX", "Denver, CO", "Boston, MA"))

SINCE = "TIMESTAMPTZ '2026-09-14 13:00:00+00'"
LAST = "BETWEEN TIMESTAMPTZ '2026-09-01 00:00:00+00' AND TIMESTAMPTZ '2026-09-30 23:59:59.999999+00'"
SPENT = "(SELECT customer_id, sum(amount) AS s, count(*) AS n FROM transactions GROUP BY customer_id)"
OPENED = "ratio only count events eq events.event_type =email_open ) only count events eq events.event_type =email_sent )"
COFFEE, BAKERY = values(products__category=("coffee",)), values(products__category=("bakery",))
BASKETS = (
    "(SELECT transaction_id, sum(quantity) AS units, list(DISTINCT category) AS categories FROM transaction_items "
    "JOIN products USING (product_id) GROUP BY 1)"
)
IN_MONTH = (
    "coalesce((SELECT sum(amount) FROM transactions t WHERE t.customer_id = customers.customer_id "
    "AND month(occurred_at) = {} AND year(occurred_at) = 2026), 0)"
)
SOON = (
    "(SELECT customer_id FROM transactions t JOIN customers c USING (customer_id) "
    "WHERE t.occurred_at BETWEEN c.joined_at AND c.joined_at + INTERVAL {} DAY)"
)

CASES: list[tuple[str, Linked, str]] = [
    # counts, enums, values, conditions
    (
        "agg count customers ; ; eq customers.membership_tier =BRONZE end",
        linked(),
        "FROM customers SELECT count(*) WHERE membership_tier = 'BRONZE'",
    ),
    (
        "agg count customers ; customers.membership_tier ; in customers.location V0 ) end",
        linked(values=(AUSTIN,)),
        "SELECT membership_tier, count(*) FROM customers WHERE location IN ('Austin, TX', 'Denver, CO', 'Boston, MA') GROUP BY 1",
    ),
    (
        "agg count customers ; ; ne customers.location V0 end",
        linked(values=(values(customers__location=("Austin, TX",)),)),
        "SELECT count(*) FROM customers WHERE location <> 'Austin, TX'",
    ),
    (
        "agg count customers ; ; notin customers.location V0 ) end",
        linked(values=(AUSTIN,)),
        "SELECT count(*) FROM customers WHERE location NOT IN ('Austin, TX', 'Denver, CO', 'Boston, MA')",
    ),
    (
        "list products ; like products.name V0 end",
        linked(values=(replace(values(products__name=("VEGAN",)), like=True),)),
        "SELECT product_id, name FROM products WHERE name ILIKE '%vegan%'",
    ),
    (
        "agg count products ; ; ne products.name V0 end",
        linked(values=(replace(values(products__name=("vegan",)), like=True),)),
        "SELECT count(*) FROM products WHERE name NOT ILIKE '%vegan%'",
    ),
    (
        "agg count products ; ; in products.price N0 N1 ) end",
        linked((4, 5)),
        "SELECT count(*) FROM products WHERE price = 4 OR price = 5",
    ),
    (
        "agg count products ; ; notin products.price N0 N1 ) end",
        linked((4, 5)),
        "SELECT count(*) FROM products WHERE price <> 4 AND price <> 5",
    ),
    (
        "agg count products ; ; between products.price N0 N1 end",
        linked((9, 3)),  # "between 9 and 3"
        "SELECT count(*) FROM products WHERE price >= 3 AND price <= 9",
    ),
    (
        "agg count transactions ; ; or eq transactions.channel =app gt transactions.amount N0 end",
        linked((30,)),
        "SELECT count(*) FROM transactions WHERE channel = 'app' OR amount > 30",
    ),
    (
        "list customers customers.points_balance ; gt customers.points_balance mean end",
        linked(),
        "SELECT customer_id, name, points_balance FROM customers WHERE points_balance > (SELECT avg(points_balance) FROM customers)",
    ),
    ("agg count transactions ; ; null transactions.store end", linked(), "SELECT count(*) FROM transactions WHERE store IS NULL"),
    ("agg count transactions ; ; notnull transactions.store end", linked(), "SELECT count(store) FROM transactions"),
    (
        "agg count customers ; ; gt customer_risk_scores.churn_90 N0 end",
        linked((70,)),  # "over 70" of a share is percent
        "SELECT count(*) FROM customer_risk_scores WHERE churn_90 > 0.7",
    ),
    (
        "agg count customers ; ; gt customer_risk_scores.churn_90 #0.5 end",
        linked(),
        "SELECT count(*) FROM customer_risk_scores WHERE churn_90 > 0.5",
    ),
    # joins
    (
        "agg sum transactions.amount ; customers.membership_tier end",
        linked(),
        "SELECT c.membership_tier, sum(t.amount) FROM transactions t JOIN customers c USING (customer_id) GROUP BY 1",
    ),
    (
        "agg sum transaction_items.quantity ; products.category customers.gender ; eq transactions.channel =app end",
        linked(),
        "SELECT p.category, c.gender, sum(i.quantity) FROM transaction_items i, products p, transactions t, customers c "
        "WHERE i.product_id = p.product_id AND i.transaction_id = t.transaction_id AND t.customer_id = c.customer_id AND "
        "t.channel = 'app' GROUP BY 1, 2",
    ),
    (
        "agg count events ; rewards ; eq events.event_type =redemption end",
        linked(),
        "SELECT r.reward_id, r.name, count(*) FROM events e JOIN rewards r USING (reward_id) WHERE e.event_type = 'redemption' "
        "GROUP BY 1, 2",
    ),
    (
        "agg avg transactions.amount ; segments end",
        linked(),
        "SELECT s.segment_id, s.name, avg(t.amount) FROM transactions t JOIN customer_risk_scores k USING (customer_id) "
        "JOIN segments s ON s.segment_id = k.segment_id GROUP BY 1, 2",
    ),
    (
        "agg sum transaction_items.amount ; customers.location ; during transactions.occurred_at T0 end",
        linked(times=("last month",)),
        "SELECT c.location, sum(i.amount) FROM transaction_items i JOIN transactions t USING (transaction_id) JOIN customers c "
        "USING (customer_id) "
        f"WHERE t.occurred_at {LAST} GROUP BY 1",
    ),
    # has, hasnot, hasagg
    (
        "agg count customers ; ; has transactions during transactions.occurred_at T0 ) end",
        linked(times=("last 30 days",)),
        f"SELECT count(DISTINCT customer_id) FROM transactions WHERE occurred_at >= {SINCE}",
    ),
    (
        "agg count customers ; ; hasnot transactions during transactions.occurred_at T0 ) end",
        linked(times=("last 30 days",)),
        f"SELECT count(*) FROM customers WHERE customer_id NOT IN (SELECT customer_id FROM transactions WHERE occurred_at >= {SINCE})",
    ),
    (
        "list rewards ; hasnot events eq events.event_type =redemption ) end",
        linked(),
        "SELECT reward_id, name FROM rewards r ANTI JOIN (FROM events WHERE event_type = 'redemption') e USING (reward_id)",
    ),
    (
        "list products ; hasnot transaction_items ) end",
        linked(),
        "SELECT product_id, name FROM products WHERE product_id NOT IN (SELECT product_id FROM transaction_items)",
    ),
    (
        "agg count transactions ; ; has tickets eq tickets.sentiment =NEGATIVE ) end",
        linked(),
        "SELECT count(*) FROM transactions SEMI JOIN (FROM tickets WHERE sentiment = 'NEGATIVE') k USING (customer_id)",
    ),
    (
        "agg count customers ; ; has transaction_items eq products.category V0 ) end",
        linked(values=(values(products__category=("coffee",)),)),
        "SELECT count(DISTINCT t.customer_id) FROM transactions t JOIN transaction_items i USING (transaction_id) "
        "JOIN products p USING (product_id) WHERE p.category = 'coffee'",
    ),
    (
        "agg count customers ; ; hasagg gt sum transactions.amount N0 ) end",
        linked((100,)),
        f"SELECT count(*) FROM {SPENT} WHERE s > 100",
    ),
    (
        "list customers ; hasagg lt count transactions N0 ) end",
        linked((4,)),  # those without any, too
        f"SELECT c.customer_id, c.name FROM customers c LEFT JOIN {SPENT} t USING (customer_id) WHERE coalesce(n, 0) < 4",
    ),
    (
        "agg count customers ; ; hasagg eq count transactions #0 ) end",
        linked(),
        f"SELECT count(*) FROM customers c ANTI JOIN {SPENT} t USING (customer_id)",
    ),
    (
        "agg count customers ; ; hasagg gt sum transactions.amount mean ) end",
        linked(),
        f"SELECT count(*) FROM {SPENT} WHERE s > (SELECT avg(s) FROM {SPENT})",
    ),
    (
        "agg count customers ; ; hasagg ge distinct transaction_items.product_id N0 during transactions.occurred_at T0 ) end",
        linked((3,), times=("last month",)),
        "SELECT count(*) FROM (SELECT customer_id FROM transactions JOIN transaction_items USING (transaction_id) "
        f"WHERE occurred_at {LAST} GROUP BY 1 HAVING count(DISTINCT product_id) >= 3)",
    ),
    (
        "list rewards ; hasagg ge count events N0 eq events.event_type =redemption ) end",
        linked((2,)),
        "SELECT r.reward_id, r.name FROM rewards r JOIN events e ON e.reward_id = r.reward_id WHERE event_type = 'redemption' "
        "GROUP BY 1, 2 HAVING count(*) >= 2",
    ),
    # having, each, growth, vs, share, pct, of_total, cumulative, ratio
    (
        "agg count customers ; customers.location ; ; gt count customers N0 end",
        linked((5,)),
        "SELECT * FROM (SELECT location, count(*) AS n FROM customers GROUP BY 1) WHERE n > 5",
    ),
    (
        "agg sum transactions.amount ; transactions.store ; ; gt sum transactions.amount mean end",
        linked(),
        "WITH s AS (SELECT store, sum(amount) AS a FROM transactions WHERE store IS NOT NULL GROUP BY 1) "
        "SELECT * FROM s WHERE a > (SELECT avg(a) FROM s)",
    ),
    (
        "agg sum transactions.amount ; customers.membership_tier customers ; ; ; desc m0 one each end",
        linked(),
        "WITH s AS (SELECT membership_tier AS m, customer_id, name, sum(amount) AS a FROM transactions JOIN customers USING "
        "(customer_id) GROUP BY 1, 2, 3) "
        "SELECT * FROM s WHERE a = (SELECT max(a) FROM s AS o WHERE o.m = s.m)",
    ),
    (
        "agg growth sum transactions.amount ; month transactions.occurred_at end",
        linked(),
        "WITH s AS (SELECT date_trunc('month', occurred_at)::DATE AS m, sum(amount)::DOUBLE AS a FROM transactions GROUP BY 1) "
        "SELECT m, a, a / (SELECT a FROM s AS o WHERE o.m = s.m - INTERVAL 1 MONTH) - 1 FROM s",
    ),
    (
        "agg growth count transactions ; transactions.channel month transactions.occurred_at end",
        linked(),
        "WITH s AS (SELECT channel AS c, date_trunc('month', occurred_at)::DATE AS m, count(*)::DOUBLE AS a FROM transactions "
        "GROUP BY 1, 2) "
        "SELECT c, m, a, a / (SELECT a FROM s AS o WHERE o.m = s.m - INTERVAL 1 MONTH AND o.c = s.c) - 1 FROM s",
    ),
    (
        "agg vs sum transactions.amount T0 T1 end",
        linked(times=("this month", "last month")),
        "WITH a AS (SELECT sum(amount)::DOUBLE AS a FROM transactions WHERE occurred_at >= TIMESTAMPTZ '2026-10-01 00:00:00+00'), "
        f"b AS (SELECT sum(amount)::DOUBLE AS b FROM transactions WHERE occurred_at {LAST}) SELECT a, b, a - b, (a - b) / b FROM a, b",
    ),
    (
        "agg share count customers eq customers.gender =F ) ; customers.membership_tier end",
        linked(),
        "SELECT membership_tier, avg((gender = 'F' AND gender IS NOT NULL)::INT) FROM customers GROUP BY 1",
    ),
    (
        "agg pct share sum transactions.amount eq transactions.channel =app ) end",
        linked(),
        "SELECT 100 * sum(CASE channel WHEN 'app' THEN amount ELSE 0 END)::DOUBLE / sum(amount) FROM transactions",
    ),
    (
        "agg pct of_total sum transactions.amount ; transactions.channel end",
        linked(),
        "SELECT channel, sum(amount), 100 * sum(amount)::DOUBLE / (SELECT sum(amount) FROM transactions) FROM transactions GROUP BY 1",
    ),
    (
        "agg cumulative count customers ; quarter customers.joined_at end",
        linked(),
        "WITH q AS (SELECT DISTINCT date_trunc('quarter', joined_at) AS q FROM customers) "
        "SELECT q::DATE, (SELECT count(*) FROM customers WHERE date_trunc('quarter', joined_at) <= q) FROM q",
    ),
    (
        "agg ratio only count events eq events.event_type =redemption ) only count events eq events.event_type =offer_viewed ) ; "
        "events.channel end",
        linked(),
        "SELECT channel, sum((event_type = 'redemption')::INT) / nullif(sum((event_type = 'offer_viewed')::INT), 0) FROM events "
        "WHERE event_type IN ('redemption', 'offer_viewed') GROUP BY 1",
    ),
    (
        "agg ratio sum transactions.amount distinct transactions.customer_id end",
        linked(),
        "SELECT sum(amount) / count(DISTINCT customer_id) FROM transactions",
    ),
    # two tables: each side by itself
    (
        "agg ratio count tickets count transactions end",
        linked(),
        "SELECT (SELECT count(*) FROM tickets) / (SELECT count(*) FROM transactions)",
    ),
    (
        "agg pct ratio count tickets count transactions ; customers ; ; ; desc m0 end",
        linked(),
        "WITH k AS (SELECT customer_id, count(*) AS n FROM tickets GROUP BY 1), t AS (SELECT customer_id, count(*) AS n FROM "
        "transactions GROUP BY 1) "
        "SELECT customer_id, name, 100 * k.n / t.n FROM k JOIN t USING (customer_id) JOIN customers USING (customer_id)",
    ),
    (
        "agg ratio sum transactions.amount sum transaction_items.quantity ; customers.gender ; eq transactions.channel =store end",
        linked(),
        "WITH t AS (SELECT transaction_id, amount, gender FROM transactions JOIN customers USING (customer_id) WHERE "
        "transactions.channel = 'store'), "
        "i AS (SELECT gender, sum(quantity) AS q FROM transaction_items JOIN t USING (transaction_id) GROUP BY 1) "
        "SELECT gender, sum(amount) / any_value(q) FROM t JOIN i USING (gender) GROUP BY 1",
    ),
    (
        "agg ratio max campaigns.budget only count events eq events.event_type =email_click ) ; campaigns end",
        linked(),
        "SELECT c.campaign_id, c.name, c.budget / nullif(sum((event_type = 'email_click')::INT), 0) FROM campaigns c "
        "JOIN events e USING (campaign_id) GROUP BY 1, 2, budget",
    ),
    # one to one, so both may be summed
    (
        "agg count customers sum customer_risk_scores.predicted_clv ; customers.gender end",
        linked(),
        "SELECT gender, count(*), sum(predicted_clv) FROM customers JOIN customer_risk_scores USING (customer_id) GROUP BY 1",
    ),
    # the second of two metrics orders, behind one of two columns
    (
        "agg of_total count transactions max transactions.amount ; transactions.channel ; ; ; asc m1 one end",
        linked(),
        "SELECT channel, count(*), count(*) / (SELECT count(*) FROM transactions), max(amount) FROM transactions GROUP BY 1 "
        "ORDER BY 4 LIMIT 1",
    ),
    # times and dates
    (
        "agg count customers ; ; notduring customers.joined_at T0 end",
        linked(times=("this year",)),
        "SELECT count(*) FROM customers WHERE joined_at < TIMESTAMPTZ '2026-01-01 00:00:00+00'",
    ),
    (
        "agg count customers ; ; during customer_risk_scores.predicted_churn_date T0 end",
        linked(times=("in 60 days",)),  # of a time that lies ahead, it looks forward
        "SELECT count(*) FROM customer_risk_scores WHERE predicted_churn_date >= DATE '2026-10-14' AND predicted_churn_date < "
        "DATE '2026-12-13'",
    ),
    (
        "list rewards rewards.valid_to ; during rewards.valid_to T0 end",
        linked(times=("next 30 days",)),
        "SELECT reward_id, name, valid_to FROM rewards WHERE valid_to >= TIMESTAMPTZ '2026-10-14 13:00+00' AND valid_to < "
        "TIMESTAMPTZ '2026-11-13 13:00+00'",
    ),
    (
        "agg count customers ; ; during customers.birth_date T0 end",
        linked(times=("before 2000",)),
        "SELECT count(*) FROM customers WHERE year(birth_date) < 2000",
    ),
    (
        "agg count transactions ; week transactions.occurred_at ; during transactions.occurred_at T0 end",
        linked(times=("last 30 days",)),
        f"SELECT (occurred_at::DATE - (isodow(occurred_at) - 1)::INT), count(*) FROM transactions WHERE occurred_at >= {SINCE} GROUP BY 1",
    ),
    (
        "agg count transactions ; weekday transactions.occurred_at hour transactions.occurred_at end",
        linked(),
        "SELECT strftime(occurred_at, '%A'), hour(occurred_at), count(*) FROM transactions GROUP BY 1, 2",
    ),
    (
        "agg count tickets ; ; lt tickets.resolution_hours T0 end",
        linked(times=("2 days",)),
        "SELECT count(*) FROM tickets WHERE resolution_hours < 48",
    ),
    # columns that are computed
    (
        "agg count customers ; ; gt customers.days_since_purchase T0 end",
        linked(times=("30 days",)),
        "SELECT count(*) FROM (SELECT customer_id FROM transactions GROUP BY 1 HAVING max(occurred_at)::DATE < DATE '2026-10-14' - 30)",
    ),
    (
        "list customers customers.first_purchase_at customers.last_purchase_at customers.tenure_days end",
        linked(),
        "SELECT customer_id, name, min(occurred_at), max(occurred_at), any_value(DATE '2026-10-14' - joined_at::DATE) "
        "FROM customers LEFT JOIN transactions USING (customer_id) GROUP BY 1, 2",
    ),
    (
        "agg count rewards ; ; true rewards.active end",
        linked(),
        "SELECT count(*) FROM rewards WHERE coalesce(valid_from, '1970-01-01') <= TIMESTAMPTZ '2026-10-14 13:00+00' "
        "AND coalesce(valid_to, '2999-01-01') >= TIMESTAMPTZ '2026-10-14 13:00+00'",
    ),
    (
        "agg count rewards ; ; true rewards.expired end",
        linked(),
        "SELECT count(*) FROM rewards WHERE valid_to < TIMESTAMPTZ '2026-10-14 13:00+00'",
    ),
    (
        "list campaigns campaigns.duration_days ; false campaigns.running end",
        linked(),
        "SELECT campaign_id, name, ended_at::DATE - started_at::DATE FROM campaigns WHERE NOT (TIMESTAMPTZ '2026-10-14 13:00+00' "
        "BETWEEN started_at AND coalesce(ended_at, '2999-01-01'))",
    ),
    (
        "agg sum transactions.net_amount count transactions ; transactions.weekend end",
        linked(),
        "SELECT isodow(occurred_at) > 5, sum(amount) - coalesce(sum(discount_amount), 0), count(*) FROM transactions GROUP BY 1",
    ),
    (
        "agg count transactions ; transactions.weekday ; lt transactions.hour N0 end",
        linked((9,)),
        "SELECT strftime(occurred_at, '%A'), count(*) FROM transactions WHERE extract(hour FROM occurred_at) < 9 GROUP BY 1",
    ),
    (
        "agg count events ; events.to_tier ; true events.upgrade end",
        linked(),
        "SELECT metadata::JSON->>'to', count(*) FROM events WHERE event_type = 'tier_change' AND "
        "list_position(['BRONZE','SILVER','GOLD','PLATINUM'], metadata::JSON->>'to') > "
        "list_position(['BRONZE','SILVER','GOLD','PLATINUM'], metadata::JSON->>'from') GROUP BY 1",
    ),
    ("agg count customers ; ; eq customers.birth_month =May end", linked(), "SELECT count(*) FROM customers WHERE month(birth_date) = 5"),
    (
        "agg distinct transaction_items.customer_id end",
        linked(),
        "SELECT count(DISTINCT customer_id) FROM transactions SEMI JOIN transaction_items USING (transaction_id)",
    ),
    # lists
    (
        "list transactions transactions.channel ; eq customers.name V0 ; desc transactions.amount #100 end",
        linked(values=(values(customers__name=("Thandiwe Haddad",)),)),
        "SELECT transaction_id, customer_id, occurred_at, amount, channel FROM transactions "
        "WHERE customer_id = (SELECT customer_id FROM customers WHERE name = 'Thandiwe Haddad')",
    ),
    (
        "list transaction_items ; gt transaction_items.quantity N0 end",
        linked((2,)),
        "SELECT transaction_id, product_id, quantity, amount FROM transaction_items WHERE quantity > 2",
    ),
    (
        "list customers customers.location ; eq customers.membership_tier =GOLD ; desc customers.points_balance end",
        linked(),
        "SELECT customer_id, name, location, points_balance FROM customers WHERE membership_tier = 'GOLD'",
    ),
    # a bound on the figure that is shown
    (
        f"agg {OPENED} ; campaigns ; ; lt m0 N0 end",
        linked((60,)),
        "SELECT c.campaign_id, c.name, o / s FROM (SELECT campaign_id, count(*) FILTER (event_type = 'email_open')::DOUBLE AS o, "
        "count(*) FILTER (event_type = 'email_sent') AS s FROM events GROUP BY 1) JOIN campaigns c USING (campaign_id) "
        "WHERE s > 0 AND o / s < 0.6",
    ),
    (
        "agg share count customers eq customers.membership_tier =GOLD ) ; customers.location ; ; gt m0 N0 end",
        linked((10,)),
        "FROM (SELECT location, avg((membership_tier = 'GOLD')::INT) AS s FROM customers GROUP BY 1) WHERE s > 0.1",
    ),
    (
        "agg pct share count customers eq customers.membership_tier =GOLD ) ; customers.location ; ; gt m0 N0 end",
        linked((10,)),
        "FROM (SELECT location, avg((membership_tier = 'GOLD')::INT) * 100 AS s FROM customers GROUP BY 1) WHERE s > 10",
    ),
    (
        "agg ratio sum transactions.amount distinct transactions.customer_id ; transactions.channel ; ; gt m0 N0 end",
        linked((100,)),
        "FROM (SELECT channel, sum(amount)::DOUBLE / count(DISTINCT customer_id) AS s FROM transactions GROUP BY 1) WHERE s > 100",
    ),
    (
        "agg ratio sum transactions.discount_amount sum transactions.amount ; transactions.store ; ; gt m0 N0 end",
        replace(linked(), numbers=(Number(4, percent=True),)),  # a ratio of money, yet held against per cent
        "FROM (SELECT store, sum(discount_amount)::DOUBLE / sum(amount) AS s FROM transactions WHERE store IS NOT NULL GROUP BY 1) "
        "WHERE s > 0.04",
    ),
    (
        "agg count transactions share count transactions eq transactions.channel =app ) ; customers.location ; ; "
        "gt count transactions N0 gt m1 N1 end",
        linked((20, 20)),
        "FROM (SELECT location, count(*) AS n, avg((channel = 'app')::INT) AS s FROM transactions JOIN customers USING (customer_id) "
        "GROUP BY 1) WHERE n > 20 AND s > 0.2",
    ),
    (
        "agg ratio count tickets count customers ; customers.membership_tier ; ; gt m0 N0 end",
        linked((0.1,)),
        "FROM (SELECT membership_tier, (SELECT count(*) FROM tickets k JOIN customers d USING (customer_id) "
        "WHERE d.membership_tier = c.membership_tier) / count(*) AS r FROM customers c GROUP BY 1) WHERE r > 0.1",
    ),
    (
        "agg pct ratio count tickets count customers ; customers.membership_tier ; ; gt m0 N0 end",
        linked((10,)),
        "FROM (SELECT membership_tier, 100 * (SELECT count(*) FROM tickets k JOIN customers d USING (customer_id) "
        "WHERE d.membership_tier = c.membership_tier) / count(*) AS r FROM customers c GROUP BY 1) WHERE r > 10",
    ),
    # an order and its own items
    (
        "agg count transactions ; ; has transaction_items eq products.category V0 ) has transaction_items eq products.category V1 ) end",
        linked(values=(COFFEE, BAKERY)),
        f"SELECT count(*) FROM {BASKETS} WHERE list_contains(categories, 'coffee') AND list_contains(categories, 'bakery')",
    ),
    (
        "agg avg transactions.amount ; ; has transaction_items eq products.category V0 ) "
        "hasnot transaction_items eq products.category V1 ) end",
        linked(values=(COFFEE, BAKERY)),
        f"SELECT avg(amount) FROM {BASKETS} JOIN transactions USING (transaction_id) "
        "WHERE list_contains(categories, 'coffee') AND NOT list_contains(categories, 'bakery')",
    ),
    (
        "agg count transactions ; transactions.channel ; hasagg eq sum transaction_items.quantity #1 ) end",
        linked(),
        f"SELECT channel, count(*) FROM {BASKETS} JOIN transactions USING (transaction_id) WHERE units = 1 GROUP BY 1",
    ),
    (
        "agg pct share count transactions hasagg ge distinct products.category N0 ) ) end",
        linked((2,)),
        f"SELECT 100.0 * count(*) FILTER (len(categories) >= 2) / count(*) FROM {BASKETS}",
    ),
    (
        "agg count transactions ; ; hasagg gt sum transaction_items.quantity mean ) end",
        linked(),
        f"SELECT count(*) FROM {BASKETS} WHERE units > (SELECT avg(units) FROM {BASKETS})",
    ),
    (
        "agg count transaction_items ; products.category ; has transaction_items eq products.category V0 ) ne products.category V0 end",
        linked(values=(COFFEE,)),
        "SELECT p.category, count(*) FROM transaction_items i JOIN products p USING (product_id) WHERE p.category <> 'coffee' "
        "AND transaction_id IN (SELECT transaction_id FROM transaction_items JOIN products q USING (product_id) "
        "WHERE q.category = 'coffee') GROUP BY 1",
    ),
    (
        "list customers ; has transactions has transaction_items eq products.category V0 ) "
        "has transaction_items eq products.category V1 ) ) end",
        linked(values=(COFFEE, BAKERY)),
        f"SELECT customer_id, name FROM customers WHERE customer_id IN (SELECT customer_id FROM {BASKETS} JOIN transactions "
        "USING (transaction_id) WHERE list_contains(categories, 'coffee') AND list_contains(categories, 'bakery'))",
    ),
    # different things, through items and events
    (
        "list customers ; hasagg ge distinct products.brand N0 during transactions.occurred_at T0 ) end",
        linked((3,), times=("last month",)),
        "SELECT customer_id, c.name FROM customers c JOIN transactions t USING (customer_id) JOIN transaction_items "
        f"USING (transaction_id) JOIN products p USING (product_id) WHERE occurred_at {LAST} "
        "GROUP BY ALL HAVING count(DISTINCT p.brand) >= 3",
    ),
    (
        "agg count customers ; ; hasagg eq distinct transactions.channel N0 ) end",
        linked((3,)),
        "SELECT count(*) FROM (SELECT customer_id FROM transactions GROUP BY 1 HAVING count(DISTINCT channel) = 3)",
    ),
    (
        "agg count customers ; ; hasagg ge distinct rewards.category N0 eq events.event_type =redemption ) end",
        linked((2,)),
        "SELECT count(*) FROM (SELECT customer_id FROM events JOIN rewards r USING (reward_id) WHERE event_type = 'redemption' "
        "GROUP BY 1 HAVING count(DISTINCT r.category) >= 2)",
    ),
    # figures per day, week, month
    (
        "agg per sum transactions.amount day end",
        linked(),
        "SELECT avg(s) FROM (SELECT sum(amount)::DOUBLE AS s FROM transactions GROUP BY occurred_at::DATE)",
    ),
    (
        "agg per count transactions month ; transactions.channel end",
        linked(),
        "SELECT channel, avg(n) FROM (SELECT channel, count(*) AS n FROM transactions "
        "GROUP BY 1, date_trunc('month', occurred_at)) GROUP BY 1",
    ),
    (
        "agg per count events week ; customers.membership_tier ; eq events.event_type =redemption ; ge m0 N0 end",
        linked((1,)),
        "SELECT membership_tier, avg(n) FROM (SELECT membership_tier, count(*) AS n FROM events JOIN customers USING (customer_id) "
        "WHERE event_type = 'redemption' GROUP BY 1, date_trunc('week', occurred_at)) GROUP BY 1 HAVING avg(n) >= 1",
    ),
    (
        "agg per sum transaction_items.quantity day ; weekday transactions.occurred_at end",
        linked(),
        "SELECT dayname(d), avg(s) FROM (SELECT occurred_at::DATE AS d, sum(quantity)::DOUBLE AS s FROM transaction_items "
        "JOIN transactions USING (transaction_id) GROUP BY 1) GROUP BY 1",
    ),
    # what the largest few make of the whole
    (
        "agg topshare sum transactions.amount customers N0 end",
        linked((5,)),
        f"SELECT (SELECT sum(s) FROM (SELECT s FROM {SPENT} ORDER BY s DESC LIMIT 5))::DOUBLE / sum(amount) FROM transactions",
    ),
    (
        "agg pct topshare sum transactions.amount customers N0 ; ; eq transactions.channel =app end",
        replace(linked(), numbers=(Number(10, percent=True),)),
        "WITH s AS (SELECT sum(amount)::DOUBLE AS s FROM transactions WHERE channel = 'app' GROUP BY customer_id) "
        "SELECT 100 * list_sum(list_reverse_sort(list(s))[:ceil(count(*) * 0.1)::INT]) / sum(s) FROM s",
    ),
    (
        "agg topshare count events rewards one ; ; eq events.event_type =redemption end",
        linked(),
        "SELECT max(n)::DOUBLE / sum(n) FROM (SELECT count(*) AS n FROM events JOIN rewards USING (reward_id) "
        "WHERE event_type = 'redemption' GROUP BY reward_id)",
    ),
    (
        "agg topshare sum transaction_items.quantity products N0 ; ; during transactions.occurred_at T0 end",
        linked((3,), times=("last month",)),
        "WITH s AS (SELECT sum(quantity)::DOUBLE AS s FROM transaction_items JOIN transactions USING (transaction_id) "
        f"WHERE occurred_at {LAST} GROUP BY product_id) SELECT (SELECT sum(s) FROM (FROM s ORDER BY s DESC LIMIT 3)) / sum(s) FROM s",
    ),
    # more in one period than in another
    (
        "list customers ; hasmore sum transactions.amount T0 T1 ) end",
        linked(times=("in august", "in september")),
        f"SELECT customer_id, name FROM customers WHERE {IN_MONTH.format(8)} > {IN_MONTH.format(9)}",
    ),
    (
        "agg pct share count customers hasmore sum transactions.amount T1 T0 ) ) end",
        linked(times=("in august", "in september")),
        f"SELECT 100.0 * count(*) FILTER ({IN_MONTH.format(9)} > {IN_MONTH.format(8)}) / count(*) FROM customers",
    ),
    (
        "agg count customers ; ; hasmore count events T0 T1 eq events.event_type =app_open ) end",
        linked(times=("in august", "in september")),
        "SELECT count(*) FROM (SELECT customer_id FROM events WHERE event_type = 'app_open' GROUP BY 1 "
        "HAVING count(*) FILTER (month(occurred_at) = 8) > count(*) FILTER (month(occurred_at) = 9))",
    ),
    (
        "agg count transactions ; ; hasmore sum transaction_items.quantity T0 T1 ) end",  # the purchases of such customers
        linked(times=("in august", "in september")),
        "SELECT count(*) FROM transactions WHERE customer_id IN (SELECT customer_id FROM transactions JOIN transaction_items "
        "USING (transaction_id) GROUP BY 1 HAVING sum(CASE month(occurred_at) WHEN 8 THEN quantity WHEN 9 THEN -quantity ELSE 0 END) > 0)",
    ),
    # within so many days of joining
    (
        "list customers ; hasin transactions T0 ) end",
        linked(times=("within 30 days",)),
        f"SELECT customer_id, name FROM customers WHERE customer_id IN {SOON.format(30)}",
    ),
    (
        "agg share count customers hasin transactions N0 eq transactions.channel =app ) ) ; customers.membership_tier end",
        linked((45,)),
        "SELECT membership_tier, count(*) FILTER (customer_id IN (SELECT customer_id FROM transactions t JOIN customers c "
        "USING (customer_id) WHERE channel = 'app' AND t.occurred_at BETWEEN c.joined_at AND c.joined_at + INTERVAL 45 DAY)) / count(*) "
        "FROM customers GROUP BY 1",
    ),
    (
        "agg count customers ; ; hasin transaction_items T0 eq products.category V0 ) end",
        linked(values=(COFFEE,), times=("within 60 days",)),
        "SELECT count(DISTINCT customer_id) FROM transactions t JOIN customers c USING (customer_id) JOIN transaction_items "
        "USING (transaction_id) JOIN products p USING (product_id) WHERE p.category = 'coffee' "
        "AND t.occurred_at BETWEEN c.joined_at AND c.joined_at + INTERVAL 60 DAY",
    ),
    (
        "agg sum transactions.amount ; ; hasin tickets T0 ) end",
        linked(times=("within 60 days",)),
        "SELECT sum(amount) FROM transactions WHERE customer_id IN (SELECT customer_id FROM tickets k JOIN customers c "
        "USING (customer_id) WHERE k.created_at BETWEEN c.joined_at AND c.joined_at + INTERVAL 60 DAY)",
    ),
    (
        "agg ratio count transactions count customers ; ; hasin transactions T0 ) end",  # on both sides
        linked(times=("within 30 days",)),
        f"SELECT (SELECT count(*) FROM transactions WHERE customer_id IN {SOON.format(30)}) / count(*) FROM customers "
        f"WHERE customer_id IN {SOON.format(30)}",
    ),
    # words in texts
    (
        "agg count tickets ; tickets.sentiment ; like tickets.text V0 end",
        linked(values=(replace(values(tickets__text=("MY",)), like=True),)),
        "SELECT sentiment, count(*) FROM tickets WHERE text ILIKE '%my%' GROUP BY 1",
    ),
    # the days of a month
    (
        "agg sum transactions.amount ; ; during transactions.occurred_at T0 end",
        linked(times=("from 3 to 9 september",)),
        "SELECT sum(amount) FROM transactions WHERE occurred_at::DATE BETWEEN '2026-09-03' AND '2026-09-09'",
    ),
]


@pytest.mark.parametrize(("said", "slots", "wanted"), CASES, ids=[c[0] for c in CASES])
def test_rows_are_those_of_sql_written_by_hand(said: str, slots: Linked, wanted: str, business: duckdb.DuckDBPyConnection) -> None:
    made = lowered(said, slots)
    mine, theirs = ask(business, made.sql), ask(business, wanted)
    assert [d[0] for d in business.execute(made.sql).description] == [c.name for c in made.columns]
    assert theirs not in ([], [(0,)], [(None,)])  # or the case says nothing
    assert same_rows(mine, theirs), made.sql
    assert check(made.sql, business_id=MINE, roles=READER)
    assert made.interpretation


def test_order_and_limit(business: duckdb.DuckDBPyConnection) -> None:
    points = [r[0] for r in ask(business, "SELECT points_balance FROM customers")]
    most = ask(business, lowered("list customers ; ; desc customers.points_balance N0 end", linked((7,))).sql)
    assert [r[2] for r in most] == sorted(points, reverse=True)[:7]
    least = ask(business, lowered("list customers ; ; asc customers.points_balance one end", linked()).sql)
    assert [r[2] for r in least] == [min(points)]
    everyone = ask(business, lowered("list customers ; ; asc customers.points_balance end", linked()).sql)
    assert [r[2] for r in everyone] == sorted(points)
    cities = ask(business, "SELECT count(*) AS n FROM customers GROUP BY location ORDER BY n")
    by_city = lowered("agg avg customers.income count customers ; customers.location ; ; ; asc m1 #3 end", linked())
    assert [r[2] for r in ask(business, by_city.sql)] == [r[0] for r in cities[:3]]
    by_name = ask(business, lowered("agg count customers ; customers.location ; ; ; desc d0 end", linked()).sql)
    assert [r[0] for r in by_name] == sorted((r[0] for r in by_name), reverse=True)
    by_month = ask(business, lowered("agg count transactions ; month transactions.occurred_at end", linked()).sql)
    assert len(by_month) > 2
    assert by_month == sorted(by_month)  # periods come in their order unasked


@pytest.mark.parametrize(("asked", "given"), [(0.2, 1), (2.7, 2), (1e15, 1_000_000_000)])
def test_a_limit_is_a_whole_number(asked: float, given: int) -> None:
    assert lowered("list customers ; ; desc customers.income N0 end", linked((asked,))).sql.endswith(f"LIMIT {given}")


def test_of_each_group_the_first(business: duckdb.DuckDBPyConnection) -> None:
    said = "agg sum transactions.amount ; transactions.channel customers ; ; ; desc m0 #2 each end"
    found = ask(business, lowered(said, linked()).sql)
    whole = ask(business, lowered(said.replace(" #2 each", ""), linked()).sql)
    for channel in ("app", "store", "web"):
        best = sorted((r[3] for r in whole if r[0] == channel), reverse=True)[:2]
        assert [r[3] for r in found if r[0] == channel] == best
    assert len(found) == 6


def test_the_order_of_a_change(business: duckdb.DuckDBPyConnection) -> None:
    slots = linked((4,), times=("in august", "in september"))
    both = (
        "SELECT p.product_id, p.name, sum(i.amount) FILTER (month(occurred_at) = 8) AS a, "
        "sum(i.amount) FILTER (month(occurred_at) = 9) AS s FROM transaction_items i JOIN transactions USING (transaction_id) "
        "JOIN products p USING (product_id) GROUP BY ALL"
    )
    change = f"SELECT coalesce(s, 0) - coalesce(a, 0) FROM ({both})"
    said = "agg vs sum transaction_items.amount T1 T0 ; products ; ; ; {} change N0 end"
    for way in ("desc", "asc"):
        rows = ask(business, lowered(said.format(way), slots).sql)
        assert [r[4] for r in rows] == [c for (c,) in ask(business, f"{change} ORDER BY 1 {way} LIMIT 4")]
        assert all(r[2] - r[3] == r[4] for r in rows)
    # What was bought in one month and not in the other has changed, too.
    every = ask(business, lowered("agg vs sum transaction_items.amount T1 T0 ; products end", slots).sql)
    assert any(r[2] == 0 and r[3] > 0 and r[4] < 0 for r in every)
    assert sorted(r[4] for r in every) == sorted(c for (c,) in ask(business, change))


def test_the_order_of_growth(business: duckdb.DuckDBPyConnection) -> None:
    monthly = "SELECT date_trunc('month', occurred_at)::DATE AS m, sum(amount)::DOUBLE AS s FROM transactions GROUP BY 1"
    wanted = ask(business, f"SELECT m FROM (SELECT m, s / lag(s) OVER (ORDER BY m) AS g FROM ({monthly})) ORDER BY g DESC NULLS LAST")
    rows = ask(business, lowered("agg growth sum transactions.amount ; month transactions.occurred_at ; ; ; desc change end", linked()).sql)
    assert [(r[0],) for r in rows] == wanted
    assert rows[-1][2] is None  # the first month has none before it
    best = lowered("agg pct growth sum transactions.amount ; month transactions.occurred_at ; ; ; desc change one end", linked())
    assert ask(business, best.sql)[0][0] == wanted[0][0]
    assert [c.name for c in best.columns] == ["month", "revenue", "growth_percent"]


def test_what_is_unknown_comes_last(business: duckdb.DuckDBPyConnection) -> None:
    for way in ("asc", "desc"):
        rows = ask(business, lowered(f"list customers ; ; {way} customers.last_purchase_at end", linked()).sql)
        assert rows[-1][2] is None
        assert rows[0][2] is not None


def test_a_column_that_comes_twice_has_two_names() -> None:
    made = lowered("list events rewards.name campaigns.name events.channel events.channel end", linked())
    assert [c.name for c in made.columns] == [
        "event_id",
        "customer_id",
        "occurred_at",
        "event_type",
        "reward_name",
        "campaign_name",
        "channel",
        "channel_2",
    ]
    one = lowered("agg count transactions ; customers segments end", linked())
    assert [c.name for c in one.columns] == ["customer_id", "customer_name", "segment_id", "segment_name", "purchases"]
    same = lowered("agg vs count tickets T0 T0 end", linked(times=("last month",)))
    assert [c.name for c in same.columns] == ["first_period", "second_period", "change", "change_share"]


@pytest.mark.parametrize(
    ("said", "kinds"),
    [
        ("agg count customers avg customers.income max customers.joined_at end", ["number", "money", "time"]),
        ("agg share count customers eq customers.gender =F ) ; customers.location end", ["category", "fraction"]),
        ("agg pct share count customers eq customers.gender =F ) end", ["percent"]),
        ("agg growth sum transactions.amount ; month transactions.occurred_at end", ["time", "money", "fraction"]),
        ("agg count transactions ; weekday transactions.occurred_at customers end", ["category", "id", "name", "number"]),
        ("agg ratio only count events ) only count events ) end", ["fraction"]),
        ("agg ratio sum transactions.amount count transactions end", ["money"]),
        ("agg pct ratio count tickets count transactions end", ["percent"]),
        ("agg avg customer_risk_scores.churn_30 distinct customers.location end", ["fraction", "number"]),
        ("agg per sum transactions.amount day per count transactions week end", ["money", "number"]),
        ("agg topshare sum transactions.amount customers one end", ["fraction"]),
        ("agg pct topshare count tickets customers #10 end", ["percent"]),
    ],
)
def test_what_the_columns_hold(said: str, kinds: list[str]) -> None:
    assert [c.kind for c in lowered(said, linked()).columns] == kinds


def test_the_newest_score_counts_where_there_are_several() -> None:
    connection = duckdb.connect()
    for table in TABLES:
        columns = {
            f.name: ("TIMESTAMPTZ" if f.type == "time" else "VARCHAR") for f in fields().values() if f.table == table and not f.virtual
        }
        connection.execute(f"CREATE TABLE {table} ({', '.join(f'{n} {t}' for n, t in columns.items())})")
    connection.execute("INSERT INTO customers (customer_id, gender) VALUES ('a', 'F'), ('b', 'F'), ('c', 'M')")
    connection.execute(
        "INSERT INTO customer_risk_scores (customer_id, scored_at, risk_level) VALUES ('a', '2026-01-01 00:00+00', 'HIGH'), "
        "('a', '2026-05-01 00:00+00', 'LOW'), ('b', '2026-05-01 00:00+00', 'HIGH'), "
        "('c', '2026-05-01 00:00+00', 'HIGH'), ('c', '2026-02-01 00:00+00', 'LOW')"
    )
    said = "agg count customers ; customers.gender ; eq customer_risk_scores.risk_level =HIGH end"
    assert sorted(ask(connection, lowered(said, linked(), several_scores=True).sql)) == [("F", 1), ("M", 1)]
    assert sorted(ask(connection, lowered(said, linked()).sql)) == [("F", 2), ("M", 1)]
    listed = "list customer_risk_scores ; eq customer_risk_scores.risk_level =HIGH end"
    assert sorted(ask(connection, lowered(listed, linked(), several_scores=True).sql)) == [("b",), ("c",)]
    connection.close()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("agg count transactions sum customers.points_balance end", "only be a ratio"),
        ("agg count transactions ; customers.gender ; ; gt sum customers.points_balance #5 end", "only be a ratio"),
        ("agg sum transaction_items.quantity sum transactions.amount ; products.category end", "only be a ratio"),
        ("agg ratio count tickets count transactions avg tickets.rating end", "only be a ratio"),
        ("agg ratio count tickets count transactions ; customers customers.gender ; ; ; desc m0 #3 each end", "only be a ratio"),
        ("agg ratio count transactions count tickets ; transactions.channel end", "tickets cannot be grouped by transactions.channel"),
        ("agg ratio count tickets count transactions ; month tickets.created_at end", "cannot be grouped"),
        ("agg growth count transactions ; transactions.channel end", "a growth figure goes from one period to the next"),
        ("agg cumulative count transactions end", "a cumulative figure"),
        ("agg vs count products T0 T0 end", "products has no time of its own"),
        ("agg per count products month end", "products has no time of its own"),
        ("agg of_total sum transactions.amount ; transactions.store ; ; gt m0 #10 end", "cannot be a condition"),
        ("agg growth sum transactions.amount ; month transactions.occurred_at ; ; gt m0 #10 end", "cannot be a condition"),
        ("agg cumulative count tickets ; week tickets.created_at ; ; gt m0 #10 end", "cannot be a condition"),
        ("agg ratio count tickets count transactions ; customers.gender ; ; gt avg tickets.rating #3 end", "only be a ratio"),
        ("agg topshare count tickets customers #10 ; tickets.channel end", "the largest few stands alone"),
        ("agg topshare count tickets customers #10 count tickets end", "the largest few stands alone"),
        ("agg count tickets topshare count tickets customers #10 end", "the largest few stands alone"),
        ("agg count tickets pct topshare count tickets customers #10 end", "the largest few stands alone"),
        ("agg count products ; ; between products.price mean #5 end", "an average of what is not clear"),
        ("refuse end", "a refusal has no SQL"),
    ],
)
def test_what_cannot_be_said_in_sql_is_refused(said: str, why: str) -> None:
    with pytest.raises(ContractError, match=why):
        lowered(said, linked(times=("last month",)))


def test_the_largest_of_what_the_rows_do_not_belong_to() -> None:
    top = Wrapped("topshare", (Simple("sum", "transactions.amount"),), times=("products", "one"))
    with pytest.raises(ContractError, match="transactions do not belong to products"):
        lower(Program("agg", "transactions", metrics=(top,)), linked(), AS_OF)


@pytest.mark.parametrize(
    ("said", "slots", "reading"),
    [
        ("agg count customers ; ; eq customers.membership_tier =GOLD end", linked(), "number of customers, where membership tier is GOLD"),
        (
            "agg sum transactions.amount ; transactions.store ; during transactions.occurred_at T0 ; ; desc m0 N0 end",
            linked((5,), times=("last month",)),
            "total amount by store, where occurred at is last month, highest total amount first, the first 5",
        ),
        (
            "list customers customers.income ; hasnot transactions ) in customers.location V0 ) end",
            linked(values=(values(customers__location=("Austin, TX",)),)),
            "customers with income, where there are no purchases and location is Austin, TX",
        ),
        (
            "agg pct share count customers notin customers.gender =F =O ) ) ; customers customers.gender ; ; gt avg customers.income "
            "N0 ; asc d0 one each end",
            linked((2500,)),
            "percentage: share of customers where gender is not F or O by customer and gender, "
            "only those with average customer income over 2,500, "
            "lowest the group first, the first 1 of each",
        ),
        (
            "agg count products ; ; notin products.price #4 ) ge products.price mean end",
            linked(),
            "number of products, where price is not 4 and price is at least the average",
        ),
        (
            "agg per sum transactions.amount day ; transactions.store ; ; gt m0 N0 ; desc m0 end",
            linked((80,)),
            "total amount per day on average by store, only those with total amount per day on average over 80, "
            "highest total amount per day on average first",
        ),
        (
            "agg pct topshare sum transactions.amount customers N0 end",
            replace(linked(), numbers=(Number(10, percent=True),)),
            "percentage: share of total amount that the top 10 % customers make",
        ),
        ("agg topshare count events rewards one end", linked(), "share of number of events that the top 1 rewards make"),
        (
            "list customers ; hasmore sum transactions.amount T1 T0 eq transactions.channel =app ) hasin events T2 ) end",
            linked(times=("last month", "this month", "within 30 days")),
            "customers, where total amount with channel is app this month is more than last month "
            "and there are events within 30 days of joining",
        ),
        (
            "agg vs count tickets T0 T1 ; tickets.channel ; ; ; asc change one end",
            linked(times=("last month", "this month")),
            "number of tickets in last month compared with this month by channel, lowest change first, the first 1",
        ),
        (
            "list customers ; hasagg ge distinct products.category N0 ) end",
            linked((3,)),
            "customers, where number of different product categories is at least 3",
        ),
    ],
)
def test_the_reading_in_english(said: str, slots: Linked, reading: str) -> None:
    assert lowered(said, slots).interpretation == reading


# ---- whatever can be said


STORED: Mapping[str, tuple[str, ...]] = {
    "customers.location": ("Austin, TX", "O'Fallon; DROP TABLE x --"),
    "products.name": ("vegan",),
    "rewards.name": ("10 % off",),
    "products.category": ("coffee",),
    "rewards.category": ("coffee",),
    "transactions.store": ("Austin Station",),
    "customers.customer_id": ("cust-000001",),
}
OFFERED = [
    linked(),
    linked(
        (5, 0.25, 1e6, 80),
        (Value(STORED, "a"), Value({"tickets.text": ("late",), "products.name": ("tea",)}, "b", like=True)),
        ("last 30 days", "2025", "next week"),
    ),
    linked((3,), (Value({"customers.name": ("Ann",)}, "c"),), ("more than a year ago",)),
]
LEAN = (
    "during", "has", "hasnot", "hasagg", "hasmore", "hasin", "growth", "vs", "ratio", "share", "pct", "per", "topshare", "change", "m0",
    "m1", "each", "mean", *TABLES,
)  # fmt: skip


def said_at_random(draw: st.DataObject, slots: Linked, free: int) -> tuple[str, ...]:
    automaton, program = Automaton(slots.slots()), list[str]()
    while not automaton.done:
        allowed = sorted(automaton.allowed() - {"refuse"})
        way_out = [t for t in ("end", ")") if t in allowed]
        rare = [t for t in LEAN if t in allowed]
        choice = rare if rare and len(program) < free and draw.draw(st.booleans()) else allowed
        program.append(way_out[0] if way_out and len(program) >= free else draw.draw(st.sampled_from(choice)))
        automaton.push(program[-1])
    return tuple(program)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data(), st.sampled_from(OFFERED), st.integers(3, 22), st.booleans())
def test_whatever_can_be_said_passes_the_guard_and_runs(
    business: duckdb.DuckDBPyConnection, draw: st.DataObject, slots: Linked, free: int, several_scores: bool
) -> None:
    said = said_at_random(draw, slots, free)
    program = parse(said, slots.slots())
    try:
        made = lower(program, slots, AS_OF, several_scores=several_scores)
    except ContractError:
        return
    try:
        check(made.sql, business_id=MINE, roles=READER)
    except QueryRefused as exc:
        assert exc.reason == "too_complex"  # noqa: PT017 - so many joins that nobody would ask for them
    found = business.execute(made.sql)
    assert [d[0] for d in found.description] == [c.name for c in made.columns]
    assert len({c.name for c in made.columns}) == len(made.columns)
    found.fetchmany(3)
