"""Odd ways of saying things become plain ones; everything else stays as it was typed."""

from __future__ import annotations

import pytest

from nlq.reword import plainer


@pytest.mark.parametrize(
    ("typed", "plain"),
    [
        ("share of buyers with 2+ orders", "share of buyers with at least 2 orders"),
        ("members with 3 or more purchases", "members with at least 3 purchases"),
        ("members with 3 or fewer purchases", "members with at most 3 purchases"),
        ("tickets over the last half year", "tickets over the last 6 months"),
        ("tickets that took more than a day to resolve", "tickets that took more than 24 hours to resolve"),
        ("tickets that took under two days to be fixed", "tickets that took under 48 hours to be fixed"),
        ("who is at risk at the moment?", "who is at risk?"),
        ("tickets resolved in under a day: how many?", "tickets resolved in under 24 hours: how many?"),
        ("tickets closed within 2 days", "tickets closed in at most 48 hours"),
        ("signed up in May, 0 purchases", "signed up in May, no purchases"),
        ("Quick question: how many members?", "how many members?"),
        ("If it is not too much trouble, who spent most?", "who spent most?"),
        ("Which segment has the most members, if I may ask?", "Which segment has the most members?"),
        ("Monthly revenue please, for the chart on slide 4", "Monthly revenue"),
        ("who is at critical risk right now?", "who is at critical risk?"),
        ("sales this yr pls", "sales this year"),
        ("ppl who havent bought", "people who haven't bought"),
        ("customer quantity for each tier", "number of customers for each tier"),
        ("app vs store vs web sales this month", "sales this month by channel"),
        ("Revenue in app, store and web?", "Revenue in by channel?"),
        ("members who have consent switched off", "members who have no consent"),
    ],
)
def test_odd_ways_become_plain_ones(typed: str, plain: str) -> None:
    assert plainer(typed) == plain


@pytest.mark.parametrize(
    "text",
    [
        "customers aged 65+",
        "first half of the year",
        "joined more than two days ago",
        'mentions "2+ orders"',
        "at least one purchase",
        "app vs web sales",
        "",
    ],
)
def test_the_rest_stays(text: str) -> None:
    assert plainer(text) == text
