"""What cannot be said is recognised by narrow words, and nothing that can be said is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nlq.beyond import beyond
from nlq.corpus.bank import read

QUESTIONS = Path(__file__).parent / "data" / "questions.jsonl"


@pytest.mark.parametrize(
    ("question", "what"),
    [
        ("which two products are bought together most often?", "bought together"),
        ("How many customers had two negative tickets in a row?", "in a row"),
        ("customers whose latest ticket was negative", "latest act"),
        ("median days between a customer's first and second purchase", "between two acts"),
        ("average time between purchases", "between two acts"),
        ("who has not bought anything since their last ticket?", "another act"),
        ("average days from joining to the first purchase", "first act"),
        ("how many customers bought in every month of this year", "several periods"),
        ("what is the average age of our gold members", "age groups"),
        ("how many bought within 3 days after the click", "within a time"),
    ],
)
def test_what_cannot_be_said(question: str, what: str) -> None:
    found = beyond(question)
    assert found is not None
    assert what in found


@pytest.mark.parametrize(
    "question",
    [
        "average order value in each month", "customers whose last purchase was over 60 days ago", "revenue between March and May",
        "which age group spends most", "average purchases by age group", "first 10 customers by points",
        "customers who bought in March and April",
        "how many tickets were closed within 3 days", "total sales every month this year",
    ],
)  # fmt: skip
def test_what_can_be_said(question: str) -> None:
    assert beyond(question) is None


def test_no_question_with_an_answer_is_turned_away() -> None:
    """The questions of others that have SQL, and every line that the network is taught."""
    asked = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    assert [q["q"] for q in asked if q.get("sql") and beyond(q["q"])] == []
    lines = [line for line in read() if not line.program.startswith("refuse")]
    turned = [line.question for line in lines if beyond(line.question)]
    assert len(turned) <= len(lines) // 500, turned
