"""Sentences say what the rows hold, and no more."""

from __future__ import annotations

import json
import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from nlq.answer import sentence
from nlq.chart import choose
from nlq.columns import Shape, grain_of, guess, moment, order_of, period, plural, shape_of, shown, words
from nlq.types import OutputColumn, Rows, Translation


def said(
    columns: dict[str, str],
    data: list[tuple[Any, ...]],
    sql: str = "SELECT 1",
    what: str | None = None,
    truncated: bool = False,
    **more: Any,
) -> str:
    kinds = tuple(OutputColumn(name, kind) for name, kind in columns.items())  # type: ignore[arg-type]
    reading = Translation("q", False, sql=sql, interpretation=what, columns=kinds, confidence=0.9)
    return sentence(reading, Rows(tuple(columns), tuple(data), truncated), **more)


def months(*values: Any, start: int = 1) -> list[tuple[Any, ...]]:
    return [(datetime(2026, start + i, 1, tzinfo=UTC), v) for i, v in enumerate(values)]


# ---- one row ----


def test_one_number() -> None:
    what = "number of customers where membership tier is GOLD"
    assert said({"customers": "number"}, [(1234,)], what=what) == "The number of customers where membership tier is GOLD is 1,234."
    assert said({"revenue": "money"}, [(Decimal("1234.5"),)], what="revenue in May") == "Revenue in May: 1,234.50."
    assert said({"revenue": "money"}, [(Decimal("1234.5"),)], what="revenue in May", currency="USD") == "Revenue in May: $1,234.50."
    assert said({"share": "fraction"}, [(0.1234,)], what="share of app purchases") == "The share of app purchases is 12.3 %."
    assert said({"customers": "number"}, [(0,)]) == "Customers: 0."


def test_two_quantities_of_one_kind_are_compared() -> None:
    columns = {"this_month": "money", "last_month": "money"}
    text = said(columns, [(Decimal("50"), Decimal("200"))], what="revenue")
    assert text == "Revenue: this month 50.00 and last month 200.00; this month is 75.0 % below last month."
    assert "below" not in said(columns, [(Decimal("50"), Decimal("0"))]) + said(columns, [(None, Decimal("1"))])
    assert "equals" in said(columns, [(Decimal("5"), Decimal("5"))])
    assert "nearly the same" in said(columns, [(Decimal("10000"), Decimal("10001"))])


def test_one_labelled_row() -> None:
    assert said({"name": "name", "churn_rate": "fraction"}, [("Deal Hunters", 0.4)]) == "Deal Hunters (churn rate 40.0 %)."


# ---- rankings ----


def test_a_ranking_names_leader_runner_up_and_last() -> None:
    rows = [("Seattle", 9), ("Boston", 7), ("Austin", 5), ("Miami", 4), ("Denver", 1)]
    text = said({"city": "category", "customers": "number"}, rows, what="customers by city")
    assert text == "Customers by city: Seattle has the most customers (9), followed by Boston (7); of 5 cities, Denver has the fewest (1)."


def test_of_a_limited_ranking_nothing_is_said_about_the_rest() -> None:
    rows = [(f"cust-{i:06d}", Decimal(100 - i)) for i in range(5)]
    sql = "SELECT customer_id, sum(amount) AS spend FROM transactions GROUP BY 1 ORDER BY spend {} LIMIT 5"
    text = said({"customer_id": "id", "spend": "money"}, rows, sql.format("DESC"))
    assert text == "cust-000000 has the highest spend (100.00), followed by cust-000001 (99.00)."
    assert "has the lowest spend (100.00)" not in said({"customer_id": "id", "spend": "money"}, rows[::-1], sql.format("ASC"))
    assert "cust-000004 has the lowest spend (96.00)" in said({"customer_id": "id", "spend": "money"}, rows[::-1], sql.format("ASC"))


def test_rows_cut_without_an_order_are_no_ranking_of_all() -> None:
    rows = [(f"c{i}", i) for i in range(6)]
    text = said({"city": "category", "customers": "number"}, rows, truncated=True)
    assert text.startswith("Of the 6 shown, c5 has the most customers (5)")
    assert "fewest" not in text
    assert text.endswith("Only the first 6 rows are shown; there are more.")


def test_ties_are_said() -> None:
    rows = [("a", 5), ("b", 5), ("c", 3), ("d", 3), ("e", 1), ("f", 1)]
    text = said({"brand": "category", "orders": "number"}, rows)
    assert text == "A and b share the most orders (5); of 6 brands, 2 have the fewest (1)."
    assert "all 5 have the same orders, 2" in said({"brand": "category", "orders": "number"}, [(x, 2) for x in "abcde"]).lower()
    many = said({"brand": "category", "orders": "number"}, [(x, 2) for x in "abcd"] + [("e", 1)])
    assert "4 brands share the most orders (2)" in many
    assert "followed by 2 brands (3 each)" in said(
        {"brand": "category", "orders": "number"}, [("a", 5), ("b", 3), ("c", 3), ("d", 1), ("e", 0)]
    )


def test_few_rows_are_listed_largest_first_unless_the_query_orders_them() -> None:
    columns = {"channel": "category", "share": "fraction"}
    assert said(columns, [("app", 0.2), ("store", 0.8)], what="share by channel") == "Share by channel: store 80.0 % and app 20.0 %."
    ordered = "SELECT channel, 1 AS share FROM transactions GROUP BY 1 ORDER BY channel"
    assert said(columns, [("app", 0.2), ("store", 0.8)], ordered) == "App 20.0 % and store 80.0 %."


def test_missing_values_and_labels() -> None:
    columns = {"store": "category", "sales": "money"}
    rows = [(None, Decimal(9)), ("a", Decimal(4)), ("b", None), ("c", Decimal(3)), ("d", Decimal(2))]
    assert "(not known) has the highest sales (9.00)" in said(columns, rows)
    assert said(columns, [("a", None), ("b", None)]) == "2 stores, without a value of sales."
    assert "(not known)" not in said({"n": "category", "x": "number"}, [("a", float("nan")), ("b", 1.0), ("c", 2.0)])


def test_two_labels() -> None:
    rows = [(a, b, i) for i, (a, b) in enumerate((x, y) for x in "pqr" for y in "uv")]
    text = said({"age_group": "category", "membership_tier": "category", "customers": "number"}, rows)
    assert "R, v has the most customers (5), followed by r, u (4); of 6 combinations, p, u has the fewest (0)" in text


# ---- in time ----


def test_a_trend_says_first_last_change_and_extremes() -> None:
    text = said({"month": "time", "revenue": "money"}, months(*map(Decimal, (100, 180, 80, 150))), what="revenue by month", currency="EUR")
    start, _, extremes = text.partition("; ")
    assert start == "Revenue by month: revenue went from €100.00 in Jan 2026 to €150.00 in Apr 2026, up 50.0 %"
    assert extremes == "peak €180.00 in Feb 2026, low €80.00 in Mar 2026."


def test_rows_of_a_trend_may_come_in_any_order() -> None:
    columns = {"month": "time", "orders": "number"}
    assert said(columns, months(1, 2, 3)[::-1]) == said(columns, months(1, 2, 3))


def test_the_period_that_the_data_ends_in_is_not_compared() -> None:
    columns = {"month": "time", "orders": "number"}
    text = said(columns, months(100, 110, 30), as_of=datetime(2026, 3, 9, tzinfo=UTC))
    assert "to 110 in Feb 2026, up 10.0 %" in text
    assert text.endswith("Mar 2026 is not over in the data: 30 so far.")
    whole = said(columns, months(100, 110, 120), as_of=datetime(2026, 3, 31, 23, 40, tzinfo=UTC))
    assert "to 120 in Mar 2026" in whole
    assert "not over" not in whole
    assert "is not over" in said(columns, months(100, 110), as_of=datetime(2026, 2, 9, tzinfo=UTC))


def test_rates_change_by_percentage_points_and_from_zero_by_amount() -> None:
    assert "up 5.0 percentage points" in said({"month": "time", "open_rate": "fraction"}, months(0.10, 0.15))
    assert "down 5.0 percentage points" in said({"month": "time", "open_rate": "percent"}, months(15.0, 10.0))
    assert "no change" in said({"month": "time", "open_rate": "fraction"}, months(0.1, 0.1))
    assert "up 7" in said({"month": "time", "orders": "number"}, months(0, 7))
    assert "no change" in said({"month": "time", "orders": "number"}, months(7, 7))


def test_a_trend_by_group_names_the_leader_of_the_last_period() -> None:
    rows = [(when, c, v) for c, f in (("app", 1), ("web", 2)) for when, v in months(*(f * x for x in (3, 2, 5)))]
    text = said({"month": "time", "channel": "category", "orders": "number"}, rows)
    assert text == "2 channels over 3 months; in Mar 2026, the latest, web has the highest orders (10)."


def test_the_best_month_is_a_ranking() -> None:
    sql = "SELECT date_trunc('month', occurred_at) AS month, sum(amount) AS revenue FROM transactions GROUP BY 1 ORDER BY 2 DESC"
    text = said({"month": "time", "revenue": "money"}, [(m, Decimal(v)) for m, v in months(9, 8, 7, 6, 5)], sql)
    assert text.startswith("Jan 2026 has the highest revenue (9.00), followed by Feb 2026 (8.00)")


def test_weekdays_are_ranked_not_followed_in_time() -> None:
    rows = list(zip(("Monday", "Tuesday", "Wednesday", "Thursday", "Friday"), (1, 2, 3, 4, 9), strict=True))
    assert said({"weekday": "time", "orders": "number"}, rows).startswith("Friday has the most orders (9), followed by Thursday (4)")


# ---- lists and nothing ----


def test_lists_name_the_first() -> None:
    ids = [(f"cust-{i:06d}",) for i in range(7)]
    assert said({"customer_id": "id"}, ids) == "7 customers: cust-000000, cust-000001, cust-000002 and 4 more."
    assert said({"customer_id": "id"}, ids[:2]) == "2 customers: cust-000000 and cust-000001."
    assert said({"customer_id": "id"}, ids[:1] * 6) == "6 rows, 1 different: cust-000000."
    assert said({"reward_id": "id", "name": "name"}, [("r1", "A"), ("r2", "B")]) == "2 rewards: A and B."


def test_points_without_labels_give_their_ranges() -> None:
    text = said({"price": "money", "sold": "number"}, [(Decimal(1), 5), (Decimal(3), 2), (Decimal(2), None)])
    assert text == "3 rows: price from 1.00 to 3.00 and sold from 2 to 5."


def test_nothing_found_says_why_that_may_be() -> None:
    sql = (
        "SELECT customer_id FROM customers WHERE location = 'Atlantis' AND membership_tier = 'GOLD' AND joined_at > now() - INTERVAL 3 DAY"
    )
    text = said({"customer_id": "id"}, [], sql, what="gold customers in Atlantis")
    assert text.startswith("No rows match: gold customers in Atlantis.")
    assert '"Atlantis" may not occur in the data' in text
    assert "GOLD" not in text  # a value of the schema is spelled right
    assert "longer" in text
    assert said({"customer_id": "id"}, [], "not sql (") == "No rows match."
    assert said({"average": "number"}, [(None,)], what="average price").startswith("There is nothing to compute this from: average price.")


# ---- columns ----


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("customer_id", ["c1"], "id"), ("name", ["x"], "name"), ("reward_name", ["x"], "name"), ("month", ["2026-01"], "time"),
        ("hour", [7, 9], "time"), ("this_month", [7], "number"), ("revenue", [Decimal(1)], "money"), ("churn_90", [0.4], "fraction"),
        ("redemption_rate", [1.2], "fraction"), ("open_percent", [12.0], "percent"), ("ok", [True], "flag"),
        ("joined_at", [date(2026, 1, 1)], "time"),
        ("tickets", [3], "number"), ("text", ["x" * 90], "text"), ("tier", ["GOLD", None], "category"), ("rate", [7.5], "number"),
    ],
)  # fmt: skip
def test_kinds_are_guessed_where_nobody_declared_them(name: str, values: list[Any], kind: str) -> None:
    assert guess(name, values) == kind


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (1234, "number", "1,234"), (12.345, "number", "12.35"), (0.0042, "number", "0.0042"), (1e-9, "number", "almost 0"),
        (3.0, "number", "3"),
        (Decimal("-4.5"), "money", "-$4.50"), (0.123, "fraction", "12.3 %"), (0.99999, "fraction", "over 99.9 %"),
        (1, "fraction", "100.0 %"),
        (12.34, "percent", "12.3 %"), (None, "number", "(not known)"), (True, "flag", "yes"), (float("nan"), "number", "(not known)"),
        (date(2026, 10, 4), "time", "4 Oct 2026"), (datetime(2026, 10, 4, 9, 5, tzinfo=UTC), "time", "4 Oct 2026 09:05"),
        ("x", "category", "x"),
        (2024, "category", "2024"), (7, "time", "7"),
    ],
)  # fmt: skip
def test_values_read_as_people_write_them(value: Any, kind: Any, text: str) -> None:
    assert shown(value, kind, "USD") == text


def test_money_of_other_currencies() -> None:
    assert (shown(4.5, "money"), shown(4.5, "money", "chf"), shown(-0.001, "money", "GBP")) == ("4.50", "CHF 4.50", "£0.00")


def test_periods() -> None:
    def at(*parts: int) -> datetime:
        return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]

    assert grain_of([at(2026, 1, 1), at(2026, 2, 1)]) == "month"
    assert grain_of([at(2025, 1, 1), at(2026, 1, 1)]) == "year"
    assert grain_of([at(2026, 1, 1), at(2026, 4, 1)]) == "quarter"
    assert grain_of([at(2026, 1, 1), at(2026, 4, 1)], "month") == "month"
    assert grain_of([at(2026, 10, 5), at(2026, 10, 12)]) == "week"
    assert grain_of([at(2026, 10, 5)]) == "day"
    assert grain_of([at(2026, 10, 5, 3)]) == "instant"
    assert [period(at(2026, 10, 5), g) for g in ("year", "quarter", "month", "week")] == [
        "2026",
        "Q4 2026",
        "Oct 2026",
        "week of 5 Oct 2026",
    ]  # type: ignore[arg-type]
    assert moment("2026-13-01") is None
    assert moment(2026, "year") == at(2026, 1, 1)
    assert moment("2026-02") == at(2026, 2, 1)


def test_the_order_of_a_query_is_read() -> None:
    columns = ("store", "sales")
    assert order_of("SELECT store, sum(amount) AS sales FROM transactions GROUP BY 1 ORDER BY 2 DESC LIMIT 5", columns).limit == 5
    by_name = order_of("SELECT store, sum(amount) AS sales FROM transactions GROUP BY 1 ORDER BY sales", columns)
    assert (by_name.column, by_name.descending) == (1, False)
    assert order_of("SELECT store, sum(amount) AS sales FROM transactions GROUP BY 1 ORDER BY sum(amount) DESC", columns).column == 1
    assert order_of("SELECT store, 1 FROM t ORDER BY other", columns).column is None
    assert order_of("DELETE FROM t", columns) == order_of("((", columns) == order_of("SELECT 1", columns)


def test_words() -> None:
    assert (words("average_clv"), words("churn_30"), plural("customer_id"), plural("category"), plural("name")) == (
        "average CLV", "churn probability in 30 days", "customers", "categories", "rows",
    )  # fmt: skip


def test_an_id_is_no_label_beside_a_name_that_tells_rows_apart() -> None:
    columns = (OutputColumn("reward_id", "id"), OutputColumn("name", "name"))
    reading = Translation("q", False, sql="SELECT 1", columns=columns)
    unique = shape_of(reading, Rows(("reward_id", "name"), (("r1", "A"), ("r2", "B"))))
    assert isinstance(unique, Shape)
    assert unique.labels == (1,)
    assert shape_of(reading, Rows(("reward_id", "name"), (("r1", "A"), ("r2", "A")))).labels == (0, 1)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_the_rows_hold_there_is_a_sentence_and_a_drawable_chart_or_none(seed: int) -> None:
    """Kinds, values, names and orders at random: quantities that are text, dates that are none, missing values, two columns of one name."""
    rng = random.Random(seed)
    moments = (
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 3, 1, tzinfo=UTC),
        datetime(2026, 1, 1),
        date(2026, 1, 9),
        "Monday",
        "2026-03",
        7,
        2026,
    )
    numbers = (0, 1, -3, 2.5, 10**20, float("nan"), float("inf"), Decimal("1.5"), True, "x", timedelta(1), None)
    pools = {
        "id": ("c1", "c2", "c3"), "name": ("a" * 60, "é", "b", None), "category": ("GOLD", "18-24", "", None), "text": ("t" * 99, "u"),
        "flag": (True, False, None), "time": moments, "number": numbers, "money": (Decimal(-5), Decimal(7), None),
        "fraction": (0.0, 0.4, 1.0), "percent": (0.0, 40.0),
    }  # fmt: skip
    for _ in range(150):
        kinds = rng.choices(list(pools), k=rng.randint(1, 4))
        names = tuple(rng.choice(("month", "n", "a b", "weekday", "name", "year")) + rng.choice(("", str(i))) for i in range(len(kinds)))
        rows = tuple(tuple(rng.choice(pools[k]) for k in kinds) for _ in range(rng.choice((0, 1, 2, 3, 5, 12, 40))))
        declared = tuple(OutputColumn(n, k) for n, k in zip(names, kinds, strict=True)) if rng.random() < 0.8 else ()  # type: ignore[arg-type]
        sql = rng.choice(("SELECT 1", "SELECT * FROM t ORDER BY 2 DESC LIMIT 5", "SELECT * FROM t ORDER BY 1", "(("))
        reading = Translation("q", False, sql=sql, columns=declared)
        text = sentence(reading, Rows(names, rows, rng.random() < 0.2), as_of=datetime(2026, 3, 5, tzinfo=UTC))
        assert text.endswith(".")
        assert "nan" not in text
        json.dumps(choose(reading, Rows(names, rows)), allow_nan=False)
