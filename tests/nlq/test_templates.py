"""Supported questions: enough of them, answerable, and filled without harm."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from contracts.errors import ContractError
from nlq.execute import Engine
from nlq.guard import check
from nlq.schema import SCHEMA
from nlq.templates import CATEGORIES, PARAMETERS, TEMPLATES, by_id, example, query
from nlq.wording import meaning


def test_there_are_enough_of_every_category_and_none_twice() -> None:
    assert len(TEMPLATES) >= 60
    assert set(Counter(t.category for t in TEMPLATES)) == set(CATEGORIES)
    assert min(Counter(t.category for t in TEMPLATES).values()) >= 5
    assert len({t.id for t in TEMPLATES}) == len({tuple(sorted(meaning(t.text).items())) for t in TEMPLATES}) == len(TEMPLATES)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: t.id)
def test_each_is_answered_by_its_sql(template, small_engine: Engine) -> None:
    """Guard and engine let it through, and it reads the tables it says; blanks of text and SQL are the same."""
    assert set(re.findall(r"\{(\w+)\}", template.sql)) == set(template.parameters) <= PARAMETERS.keys()
    guarded = check(query(template), business_id="biz-1")
    rows = small_engine.run(guarded.sql, "biz-1", limit=guarded.limit)
    assert rows.columns
    assert template.tables <= guarded.tables <= template.tables | {"transactions", "customer_risk_scores"}
    assert template.tables <= SCHEMA.tables.keys()


@pytest.mark.parametrize("name", [n for n, p in PARAMETERS.items() if p.values_sql])
def test_fillers_are_found_in_the_data(name: str, small_engine: Engine) -> None:
    guarded = check(PARAMETERS[name].values_sql or "", business_id="biz-1")
    rows = small_engine.run(guarded.sql, "biz-1")
    assert 1 <= len(rows.data) <= 5
    assert all(isinstance(row[0], str) and row[0] for row in rows.data)


def test_blanks_are_filled_with_values_or_defaults() -> None:
    template = by_id("customers-city-tier")
    assert template.parameters == ("tier", "city")
    assert example(template) == "How many gold members live in Austin?"
    assert example(template, {"city": "Boston", "n": "3"}) == "How many gold members live in Boston?"
    assert example(template, {"city": ""}) == example(template)


def test_a_quote_in_a_value_stays_inside_the_text(small_engine: Engine) -> None:
    sql = query(by_id("products-of-one"), {"product": "O'Brien's' OR 1=1 --"})
    assert "O''Brien''s'' OR 1=1 --" in sql
    assert small_engine.run(check(sql, business_id="biz-1").sql, "biz-1").data == ((0,),)


def test_an_unknown_id_is_refused() -> None:
    with pytest.raises(ContractError, match="no template 'nothing'"):
        by_id("nothing")
