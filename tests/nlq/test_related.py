"""Related questions are near, known to be answerable, and not the question itself."""

from __future__ import annotations

import pytest

from nlq.related import PER_CATEGORY, nearest, related
from nlq.templates import TEMPLATES, by_id, example, query
from nlq.types import Translation


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: t.id)
def test_three_others_for_every_template(template) -> None:
    text = example(template)
    found = nearest(text, Translation(text, False, sql=query(template)))
    assert len({t.id for t in found}) == 3
    assert template not in found
    assert max(sum(t.category == c for t in found) for c in {t.category for t in found}) <= PER_CATEGORY + 1


def test_near_means_near() -> None:
    def ids(question: str) -> list[str]:
        return [t.id for t in nearest(question)]

    assert ids("how many gold members live in boston?")[0] == "customers-city-tier"
    assert ids("open rate of our e-mails by campaign")[0] == "engagement-email-rate"
    assert {"purchases-revenue-month", "purchases-revenue-last-month"} & set(ids("monthly revenue please"))
    assert all(t.category in ("churn", "value", "segments") for t in nearest("who will churn, and at which risk level?"))


@pytest.mark.parametrize("question", ["", "tell me a joke", "?!", "ünïcödé 漢字", "x" * 5_000])
def test_something_is_offered_where_nothing_is_near(question: str) -> None:
    assert len(related(question)) == 3
    assert related(question) == related(question)


def test_the_sql_counts_where_words_say_little() -> None:
    reading = Translation("hm", False, sql="SELECT issue_type, avg(rating) AS rating FROM tickets GROUP BY 1")
    assert all(t.category == "support" for t in nearest("hm", reading)[:2])
    refused = Translation("hm", True, "out_of_scope", sql=reading.sql)
    assert nearest("hm", refused) == nearest("hm")


def test_the_question_itself_is_never_offered_whatever_its_values() -> None:
    asked = "How many silver members live in Boston?"
    template = by_id("customers-city-tier")
    for values in (None, {"tier": "silver", "city": "Boston"}):
        assert asked not in related(asked, values=values)
    assert template not in nearest(asked, values={"tier": "silver", "city": "Boston"})


def test_number_and_fillers() -> None:
    assert len(related("revenue", n=5)) == 5
    assert related("revenue", n=0) == ()
    assert any("Boston" in q for q in related("average spend per customer in a city", values={"city": "Boston"}))
