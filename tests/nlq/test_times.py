"""Time words at a fixed as-of time, a Wednesday: what they stand for, and what is no time at all."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import ContractError
from nlq.times import UNITS, Window, add_months, find, floor, relative, shift, shift_days, unit_days

NOW = datetime(2026, 10, 14, 13, tzinfo=UTC)
N = "2026-10-14 13:00"


def at(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)


def windows(text: str, now: datetime = NOW) -> list[tuple[str, Window]]:
    return [(text[start:end], window) for start, end, window in find(text, now)]


WHOLE: list[tuple[str, str | None, str | None]] = [
    # rolling, back from now
    ("last 30 days", "2026-09-14 13:00", None),
    ("in the last 30 days", "2026-09-14 13:00", None),
    ("over the past two weeks", "2026-09-30 13:00", None),
    ("the past week", "2026-10-07 13:00", None),
    ("past month", "2026-09-14 13:00", None),
    ("last fortnight", "2026-09-30 13:00", None),
    ("last 24 hours", "2026-10-13 13:00", None),
    ("past 3 quarters", "2026-01-14 13:00", None),
    ("within 60 days", "2026-08-15 13:00", None),
    ("for 60 days", "2026-08-15 13:00", None),
    ("60+ days", "2026-08-15 13:00", None),
    ("90-day", "2026-07-16 13:00", None),
    ("last couple of weeks", "2026-09-30 13:00", None),
    ("last 12 months", "2025-10-14 13:00", None),
    ("last five years", "2021-10-14 13:00", None),
    ("last 6 wks", "2026-09-02 13:00", None),
    # the calendar's; weeks start on Monday
    ("today", "2026-10-14", "2026-10-15"),
    ("yesterday", "2026-10-13", "2026-10-14"),
    ("last day", "2026-10-13", "2026-10-14"),
    ("this week", "2026-10-12", None),
    ("last week", "2026-10-05", "2026-10-12"),
    ("the week before last", "2026-09-28", "2026-10-05"),
    ("this month", "2026-10-01", None),
    ("current month", "2026-10-01", None),
    ("last month", "2026-09-01", "2026-10-01"),
    ("the month before last", "2026-08-01", "2026-09-01"),
    ("this quarter", "2026-10-01", None),
    ("during the previous quarter", "2026-07-01", "2026-10-01"),
    ("this year so far", "2026-01-01", None),
    ("last year", "2025-01-01", "2026-01-01"),
    ("last calendar month", "2026-09-01", "2026-10-01"),
    ("ytd", "2026-01-01", None),
    ("month to date", "2026-10-01", None),
    ("qtd", "2026-10-01", None),
    ("last weekend", "2026-10-10", "2026-10-12"),
    ("this weekend", "2026-10-17", "2026-10-19"),
    ("same month last year", "2025-10-01", "2025-11-01"),
    # named months, quarters, halves, years: the last that has begun
    ("in march", "2026-03-01", "2026-04-01"),
    ("in may", "2026-05-01", "2026-06-01"),
    ("october", "2026-10-01", "2026-11-01"),
    ("november", "2025-11-01", "2025-12-01"),
    ("dec", "2025-12-01", "2026-01-01"),
    ("sept 2025", "2025-09-01", "2025-10-01"),
    ("may 2026", "2026-05-01", "2026-06-01"),
    ("in the month of may", "2026-05-01", "2026-06-01"),
    ("march last year", "2025-03-01", "2025-04-01"),
    ("june of this year", "2026-06-01", "2026-07-01"),
    ("2026-03", "2026-03-01", "2026-04-01"),
    ("q1", "2026-01-01", "2026-04-01"),
    ("q4", "2026-10-01", "2027-01-01"),
    ("in q3 2025", "2025-07-01", "2025-10-01"),
    ("q1 of 2025", "2025-01-01", "2025-04-01"),
    ("the third quarter of 2026", "2026-07-01", "2026-10-01"),
    ("second quarter", "2026-04-01", "2026-07-01"),
    ("q4 last year", "2025-10-01", "2026-01-01"),
    ("the first quarter of this year", "2026-01-01", "2026-04-01"),
    ("first half of 2025", "2025-01-01", "2025-07-01"),
    ("second half of last year", "2025-07-01", "2026-01-01"),
    ("h2 2025", "2025-07-01", "2026-01-01"),
    ("in 2024", "2024-01-01", "2025-01-01"),
    ("2025", "2025-01-01", "2026-01-01"),
    # days
    ("on 2026-03-05", "2026-03-05", "2026-03-06"),
    ("on march 5", "2026-03-05", "2026-03-06"),
    ("on the 5th of march", "2026-03-05", "2026-03-06"),
    ("december 24", "2025-12-24", "2025-12-25"),
    ("march 5th, 2025", "2025-03-05", "2025-03-06"),
    ("feb 29 2024", "2024-02-29", "2024-03-01"),
    # from, to
    ("since march", "2026-03-01", None),
    ("since last month", "2026-09-01", None),
    ("since the start of the year", "2026-01-01", None),
    ("after june 2025", "2025-07-01", None),
    ("after 2026-05-01", "2026-05-02", None),
    ("before march 2026", None, "2026-03-01"),
    ("until june", None, "2026-07-01"),
    ("before yesterday", None, "2026-10-13"),
    ("from march to may", "2026-03-01", "2026-06-01"),
    ("between november and february", "2025-11-01", "2026-03-01"),
    ("from january to march 2025", "2025-01-01", "2025-04-01"),
    ("between 2026-01-05 and 2026-02-10", "2026-01-05", "2026-02-11"),
    ("between q1 and q2", "2026-01-01", "2026-07-01"),
    ("from 2024 to 2025", "2024-01-01", "2026-01-01"),
    # the days of a month
    ("from 1 to 7 september", "2026-09-01", "2026-09-08"),
    ("between october 1 and 15", "2026-10-01", "2026-10-16"),  # begun, though it has not ended
    ("between october 20 and 25", "2025-10-20", "2025-10-26"),
    ("25-31 december 2025", "2025-12-25", "2026-01-01"),
    ("on 3 and 4 july", "2026-07-03", "2026-07-05"),
    ("from the 9th to the 3rd of june", "2026-06-03", "2026-06-10"),
    ("during february 9–15 2026", "2026-02-09", "2026-02-16"),
    ("in their first month", "2026-09-14 13:00", None),
    # ago
    ("two years ago", "2024-01-01", "2025-01-01"),
    ("3 months ago", "2026-07-01", "2026-08-01"),
    ("a week ago", "2026-10-05", "2026-10-12"),
    ("10 days ago", "2026-10-04", "2026-10-05"),
    ("more than a year ago", None, "2025-10-14 13:00"),
    ("over 90 days ago", None, "2026-07-16 13:00"),
    ("less than 30 days ago", "2026-09-14 13:00", None),
    ("the 30 days before that", "2026-08-15 13:00", "2026-09-14 13:00"),
    # ahead
    ("next 30 days", N, "2026-11-13 13:00"),
    ("in the next two weeks", N, "2026-10-28 13:00"),
    ("next month", "2026-11-01", "2026-12-01"),
    ("next week", "2026-10-19", "2026-10-26"),
]


@pytest.mark.parametrize(("text", "start", "end"), WHOLE, ids=[w[0] for w in WHOLE])
def test_what_the_words_stand_for(text: str, start: str | None, end: str | None) -> None:
    ((words, window),) = windows(text)
    assert words == text
    assert window.label == text
    assert (window.start, window.end) == (at(start), at(end))


@pytest.mark.parametrize(
    ("now", "text", "start", "end"),
    [
        ("2026-01-01 00:00", "yesterday", "2025-12-31", "2026-01-01"),
        ("2026-01-01 00:00", "last month", "2025-12-01", "2026-01-01"),
        ("2026-01-01 00:00", "last quarter", "2025-10-01", "2026-01-01"),
        ("2026-01-01 00:00", "last week", "2025-12-22", "2025-12-29"),
        ("2025-12-31 23:59", "next week", "2026-01-05", "2026-01-12"),
        ("2025-12-31 23:59", "next month", "2026-01-01", "2026-02-01"),
        ("2025-12-31 23:59", "next year", "2026-01-01", "2027-01-01"),
        ("2026-10-11 23:00", "this week", "2026-10-05", None),  # a Sunday
        ("2026-10-12 00:00", "this week", "2026-10-12", None),  # a Monday
        ("2026-10-12 00:00", "last weekend", "2026-10-10", "2026-10-12"),
        ("2026-03-31 12:00", "last 1 months", "2026-02-28 12:00", None),
        ("2024-03-31 12:00", "last 1 months", "2024-02-29 12:00", None),
        ("2024-02-29 12:00", "last 1 years", "2023-02-28 12:00", None),
        ("2024-02-29 12:00", "same month last year", "2023-02-01", "2023-03-01"),
        ("2024-03-10 12:00", "february 29", "2024-02-29", "2024-03-01"),
        ("2026-04-01 00:00", "this quarter", "2026-04-01", None),
        ("2026-03-31 23:59", "this quarter", "2026-01-01", None),
        ("2026-05-15 00:00", "q2", "2026-04-01", "2026-07-01"),
        ("2026-05-15 00:00", "q3", "2025-07-01", "2025-10-01"),
        ("2026-05-15 00:00", "h2", "2025-07-01", "2026-01-01"),
    ],
)
def test_at_the_edges_of_the_calendar(now: str, text: str, start: str, end: str | None) -> None:
    then = at(now)
    assert then is not None
    ((_, window),) = windows(text, then)
    assert (window.start, window.end) == (at(start), at(end))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "may",
        "how many may have left",
        "march",
        "marching on",
        "second",
        "the second customer",
        "over 2000",
        "more than 2000 points",
        "= 2020",
        "2050",
        "1999",
        "30 days old",
        "took more than 4 hours",
        "in 4 hours",
        "weekend",
        "monday",
        "every month",
        "by month",
        "per week",
        "monthly",
        "a day",
        "first",
        "quarter",
        "february 30",
        "feb 29",
        "2026-13",
        "2026-02-30",
        "top 3 months",
        "the busiest 2 weeks",
        "1.5 years",
        "1,000 days",
        "2026/05/12",
        "12/05/2026",
        "05.12.2026",
        "rew-2025",
        "2025-rew",
        "last 9999 years",
        "99999999999 days",
        "next 9999 years",
        "9999 years ago",
        "last 3 month\u017f",
        "f\u0131ve days",
        "sum",
        "decent",
        "mayor",
        "junior",
        "q5",
        "h3",
    ],
)
def test_what_is_no_time(text: str) -> None:
    assert windows(text) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("revenue this month vs last month", ["this month", "last month"]),
        ("from last month to this month", ["last month", "this month"]),
        ("difference between last week and this week", ["last week", "this week"]),
        ("revenue in april and may", ["in april", "may"]),
        # a change has two periods, everything else spans them
        ("change between august and september 2025", ["august", "september 2025"]),
        ("which category grew most from august to september", ["august", "september"]),
        ("spend fell from q1 to q2 2026", ["q1", "q2 2026"]),
        ("orders dropped from 2025 to 2026", ["2025", "2026"]),
        ("revenue from august to september", ["from august to september"]),
        ("different stores from august to september", ["from august to september"]),
        ("growth from 1 to 7 september", ["from 1 to 7 september"]),
        ("who spent more in 2026 than in 2025", ["in 2026", "in 2025"]),
        ("who spent more 2026 than 2025", ["2026", "2025"]),
        ("more than 2025 points", []),
        ("31-32 june", ["june"]),
        ("march vs april", ["march", "april"]),
        ("last march", ["march"]),
        ("q1 versus q2 2025", ["q1", "q2 2025"]),
        ("customers who joined in 2025 and bought in the last 30 days", ["in 2025", "in the last 30 days"]),
        ("purchases over 2000 in 2025", ["in 2025"]),
        ("in 2025, 2024.", ["in 2025", "2024"]),
        ("joined more than 90 days ago but bought last week", ["more than 90 days ago", "last week"]),
        ("between 10 and 20 days", ["20 days"]),
    ],
)
def test_several_in_one_question(text: str, found: list[str]) -> None:
    assert [words for words, _ in windows(text)] == found


def test_two_periods_of_a_change_have_the_same_length_and_year() -> None:
    for text, wanted in (
        ("sales grew between august and september 2025", [("2025-08-01", "2025-09-01"), ("2025-09-01", "2025-10-01")]),
        ("sales fell from q1 to q2 2026", [("2026-01-01", "2026-04-01"), ("2026-04-01", "2026-07-01")]),
        ("sales rose from 2024 to 2025", [("2024-01-01", "2025-01-01"), ("2025-01-01", "2026-01-01")]),
    ):
        assert [(w.start, w.end) for _, w in windows(text)] == [(at(a), at(b)) for a, b in wanted]


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("in 30 days", N, "2026-11-13 13:00"),
        ("within 2 weeks", N, "2026-10-28 13:00"),
        ("this month", N, "2026-11-01"),
        ("next month", "2026-11-01", "2026-12-01"),
        ("in december", "2026-12-01", "2027-01-01"),  # the nearest one
        ("in january", "2027-01-01", "2027-02-01"),
        ("in may", "2026-05-01", "2026-06-01"),
        ("december 2025", "2025-12-01", "2026-01-01"),
        ("before december", None, "2026-12-01"),
        ("until december", None, "2027-01-01"),
        ("after november", "2026-12-01", None),
        ("since q1 2026", "2026-01-01", None),
        ("q1", "2027-01-01", "2027-04-01"),
    ],
)
def test_of_what_lies_ahead_the_same_words_look_forward(text: str, start: str | None, end: str | None) -> None:
    ((_, window),) = windows(text)
    assert window.ahead == (at(start), at(end))


def test_the_past_has_nothing_ahead() -> None:
    for text in ("last month", "yesterday", "3 days ago", "the week before last"):
        ((_, window),) = windows(text)
        assert window.ahead is None or window.ahead == (window.start, window.end)


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("last 30 days", 30),
        ("for two weeks", 14),
        ("3 months", 90),
        ("more than a year ago", 365),
        ("last 12 hours", 0.5),
        ("next month", 30),
        ("last quarter", 90),
        ("in march", None),
        ("this month", None),
        ("since 2025", None),
        ("less than 30 days ago", None),
    ],
)
def test_a_length_in_days_where_the_words_name_one(text: str, days: float | None) -> None:
    ((_, window),) = windows(text)
    assert window.days == days


def test_months_leave_the_calendar_with_an_error() -> None:
    assert add_months(datetime(2026, 1, 31, tzinfo=UTC), 1) == datetime(2026, 2, 28, tzinfo=UTC)
    with pytest.raises(ContractError, match="years go from 1 to 9999"):
        add_months(NOW, -12 * 2026)
    with pytest.raises(ContractError, match="years go from 1 to 9999"):
        add_months(NOW, 12 * 8000)


def test_days_earlier() -> None:
    assert shift_days(NOW, 1.5) == NOW - timedelta(hours=36)
    assert shift_days(None, 3) is None


MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2080, 1, 1), timezones=st.just(UTC))


@given(MOMENTS, st.sampled_from(UNITS), st.integers(-40, 40))
def test_units_start_at_their_floor(t: datetime, unit: str, count: int) -> None:
    start = floor(t, unit)
    assert start <= t < shift(start, 1, unit)
    assert floor(start, unit) == start
    apart = abs(shift(t, count, unit) - t).total_seconds() / 86400
    assert apart == pytest.approx(abs(count) * unit_days(unit), rel=0.04, abs=3.5)


WORDS = st.sampled_from(
    re.findall(
        r"\S+",
        """last next past this in within over since before after until between and from to of ago more than a two 3 30
        2025 99999 q1 h2 may march
        dec 29 feb 30th day days weeks month quarter year half first second weekend today - , . ytd old 9999 2026-02-29 2026-02""",
    )
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=9).map(" ".join)), MOMENTS)
def test_no_text_raises_and_windows_are_in_order(text: str, now: datetime) -> None:
    before = 0
    for start, end, window in find(text, now):
        assert before <= start < end <= len(text)
        before = end
        for a, b in ((window.start, window.end), window.ahead or (None, now)):
            assert a is not None or b is not None
            assert a is None or b is None or a <= b
        assert window.days is None or window.days >= 0
        assert window.label


def bounds(text: str) -> list[tuple[datetime | None, datetime | None]]:
    return [(w.start, w.end) for _, _, w in find(text, datetime(2026, 11, 21, 21, tzinfo=UTC))]


def day(month: int, day: int, year: int = 2026) -> datetime:
    return datetime(year, month, day, tzinfo=UTC)


def test_whole_units_end_where_the_present_one_begins() -> None:
    assert bounds("revenue in the last 8 full weeks") == [(day(9, 21), day(11, 16))]
    assert bounds("revenue over the past 2 complete quarters") == [(day(4, 1), day(10, 1))]


def test_until_the_end_of_a_unit() -> None:
    assert bounds("expected to churn before the end of the year") == [(None, day(1, 1, 2027))]
    (found,) = [w for _, _, w in find("expire by the end of the month", datetime(2026, 11, 21, tzinfo=UTC))]
    assert found.ahead == (day(11, 21), day(12, 1))
    (rest,) = bounds("rewards that end in the rest of this quarter")
    assert rest[1] == day(1, 1, 2027)


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ("last month vs the month before", (day(9, 1), day(10, 1))), ("this month and the month before", (day(10, 1), day(11, 1))),
        ("this quarter vs the quarter before?", (day(7, 1), day(10, 1))),
        ("in august 2025 and one month earlier", (day(7, 1, 2025), day(8, 1, 2025))),
    ],
)  # fmt: skip
def test_the_unit_before_is_told_by_the_one_named_first(text: str, second: tuple[datetime, datetime]) -> None:
    first, other = [w for _, _, w in find(text, datetime(2026, 11, 21, 21, tzinfo=UTC))]
    told = relative(other, first)
    assert (told.start, told.end) == second


def test_a_month_before_something_else_is_no_window() -> None:
    assert bounds("average basket the month before campaigns start") == []
