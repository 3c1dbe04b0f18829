"""Time words of a question, relative to the warehouse's as-of time: "last 30 days" rolls back from it, "last month" is the calendar's.

Every window is half-open, [start, end), in UTC. Weeks start on Monday.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from contracts.errors import ContractError

MONTHS = {
    name: number + 1
    for number, names in enumerate(
        ("january jan", "february feb", "march mar", "april apr", "may", "june jun", "july jul", "august aug", "september sept sep",
         "october oct", "november nov", "december dec")
    )
    for name in names.split()
}  # fmt: skip
UNITS = ("hour", "day", "week", "fortnight", "month", "quarter", "year")
SMALL = {
    w: i for i, w in enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"])
}
SMALL |= {"a": 1, "an": 1, "couple of": 2, "a couple of": 2, "few": 3, "a few": 3, "fourteen": 14, "fifteen": 15, "eighteen": 18, "twenty": 20,
          "twenty four": 24, "thirty": 30, "forty five": 45, "sixty": 60, "ninety": 90, "hundred": 100, "a hundred": 100}  # fmt: skip


@dataclass(frozen=True)
class Window:
    """A stretch of time a question speaks of.

    Attributes:
        start, end: [start, end), None where open.
        ahead: the same words read forwards, for columns that lie in the future ("expire in 30 days"); None where they only look back.
        days: the length, where the words name one ("60 days"); it may then also serve as a number.
        label: the words, for interpretations and column names.
    """

    start: datetime | None
    end: datetime | None
    label: str
    ahead: tuple[datetime | None, datetime | None] | None = None
    days: float | None = None


def add_months(t: datetime, months: int) -> datetime:
    """The same day of another month, or its last day."""
    index = t.year * 12 + t.month - 1 + months
    year, month = divmod(index, 12)
    if not 1 <= year <= 9999:
        raise ContractError(f"{months} months from {t.date()} is no date, years go from 1 to 9999. Ask for less")
    for day in (t.day, 30, 29, 28):
        try:
            return t.replace(year=year, month=month + 1, day=day)
        except ValueError:
            continue
    raise AssertionError("every month has 28 days")


def shift(t: datetime, count: float, unit: str) -> datetime:
    """t moved by so many units; whole months and years by the calendar."""
    if unit in ("month", "quarter", "year"):
        return add_months(t, int(count * {"month": 1, "quarter": 3, "year": 12}[unit]))
    return t + timedelta(days=count * {"hour": 1 / 24, "day": 1, "week": 7, "fortnight": 14}[unit])


def shift_days(t: datetime | None, days: float) -> datetime | None:
    """t so many days earlier."""
    return None if t is None else t - timedelta(days=days)


def floor(t: datetime, unit: str) -> datetime:
    """Start of the calendar unit that holds t."""
    day = t.replace(hour=0, minute=0, second=0, microsecond=0)
    if unit == "hour":
        return t.replace(minute=0, second=0, microsecond=0)
    if unit in ("week", "fortnight"):
        return day - timedelta(days=day.weekday())
    if unit == "month":
        return day.replace(day=1)
    if unit == "quarter":
        return day.replace(month=(day.month - 1) // 3 * 3 + 1, day=1)
    return day.replace(month=1, day=1) if unit == "year" else day


def unit_days(unit: str) -> float:
    return {"hour": 1 / 24, "day": 1, "week": 7, "fortnight": 14, "month": 30, "quarter": 90, "year": 365}[unit]


def relative(window: Window, earlier: Window) -> Window:
    """A window that is told by another one named before it: "last 30 days … the previous 30 days", "this month … the month before"."""
    if earlier.start is None or window.start is None:
        return window
    if (
        window.days
        and earlier.start == window.start
        and earlier.days == window.days
        and re.search("previous|prior|preceding", window.label)
    ):
        return Window(shift_days(window.start, window.days), window.start, window.label, None, window.days)
    if (m := re.search(r"(week|month|quarter|year) (?:before|earlier|prior)$", window.label)) and floor(
        earlier.start, m[1]
    ) == earlier.start:
        start = shift(earlier.start, -1, m[1])
        return Window(start, shift(start, 1, m[1]), window.label)
    return window


_NUMBER = r"(?P<n>\d+|" + "|".join(sorted((re.escape(w) for w in SMALL), key=len, reverse=True)) + ")"
_UNIT = r"(?P<unit>hours?|hrs?|days?|d|weeks?|wks?|wk|fortnights?|months?|mos?|mths?|quarters?|qtrs?|years?|yrs?)"
_MONTH = r"(?P<month>" + "|".join(sorted(MONTHS, key=len, reverse=True)) + r")\.?"
_YEAR = r"(?P<year>(?:19|20)\d\d)"
_ISO = r"(?:19|20)\d\d-\d\d?-\d\d?"
_DAY = r"(?:(?:the )?\d{1,2}(?:st|nd|rd|th)?)"
_NAME = "(?:" + "|".join(sorted(MONTHS, key=len, reverse=True)) + r")\.?"
_QUARTER = r"(?:q[1-4]|(?:the )?(?:first|second|third|fourth|1st|2nd|3rd|4th) quarter)"
_POINT = (
    (
        rf"(?:{_ISO}|{_DAY} (?:of )?MONTH(?:,? (?:19|20)\d\d)?|MONTH {_DAY}(?:,? (?:19|20)\d\d)?|MONTH,?(?: of)? (?:19|20)\d\d|MONTH|QUARTER(?:(?: of)? (?:19|20)\d\d)?|"
        r"(?:19|20)\d\d-\d\d?|(?:19|20)\d\d|yesterday|today|(?:last|this) (?:week|month|quarter|year)|the (?:start|beginning) of (?:the|this) (?:week|month|quarter|year))"
    )
    .replace("MONTH", _NAME)
    .replace("QUARTER", _QUARTER)
)


def _unit(text: str) -> str:
    t = text.rstrip("s")
    return {"hr": "hour", "d": "day", "wk": "week", "mo": "month", "mth": "month", "qtr": "quarter", "yr": "year"}.get(t, t)


def _count(text: str | None) -> float:
    if not text:
        return 1
    return float(text) if text.isdigit() else float(SMALL[text])


def _point(text: str, now: datetime, nearest: bool = False) -> tuple[datetime, datetime] | None:
    """[start, end) of a date, month, quarter, year or named period. Without a year it is the last one that has begun, or the `nearest`."""

    def placed(start: datetime) -> datetime:
        years = (start, add_months(start, -12), add_months(start, 12)) if nearest else (start, add_months(start, -12))
        return min(years, key=lambda t: abs(t - now)) if nearest else next(t for t in years if t <= now)

    text = text.strip().lower().replace("the ", "", 1) if text.lower().startswith("the ") else text.strip().lower()
    if m := re.fullmatch(r"(\d{4})-(\d{1,2})-(\d{1,2})", text):
        start = _date(*(int(g) for g in m.groups()))
        return (start, start + timedelta(days=1)) if start else None
    if m := re.fullmatch(r"(\d{4})-(\d{1,2})", text):
        start = _date(int(m[1]), int(m[2]), 1)
        return (start, add_months(start, 1)) if start else None
    if re.fullmatch(r"\d{4}", text):
        return datetime(int(text), 1, 1, tzinfo=UTC), datetime(int(text) + 1, 1, 1, tzinfo=UTC)
    if m := re.fullmatch(rf"({_QUARTER})(?:(?: of)? (\d{{4}}))?", text):
        start = datetime(int(m[2]) if m[2] else now.year, _first_month(m[1]), 1, tzinfo=UTC)
        if not m[2]:
            start = placed(start)
        return start, add_months(start, 3)
    if text in ("today", "yesterday"):
        start = floor(now, "day") - timedelta(days=text == "yesterday")
        return start, start + timedelta(days=1)
    if m := re.fullmatch(r"(last|this) (week|month|quarter|year)", text):
        start = floor(now, m[2])
        return (start, shift(start, 1, m[2])) if m[1] == "this" else (shift(start, -1, m[2]), start)
    if m := re.fullmatch(r"(?:start|beginning) of (?:the|this) (week|month|quarter|year)", text):
        start = floor(now, m[1])
        return start, start + timedelta(days=1)
    words = re.sub(r"[.,]| of\b|(?<=\d)(?:st|nd|rd|th)", "", text).split()
    month = next((MONTHS[w] for w in words if w in MONTHS), None)
    if month is None:
        return None
    numbers = [int(w) for w in words if w.isdigit()]
    years = [n for n in numbers if n > 1900]
    days = [n for n in numbers if n <= 31]
    year = years[0] if years else now.year
    start = _date(year, month, days[0] if days else 1)
    if start is None:
        return None
    if not years:
        start = placed(start)
    return start, start + timedelta(days=1) if days else add_months(start, 1)


def _first_month(quarter: str) -> int:
    number = re.search(r"[1-4]", quarter)
    return 3 * (int(number[0]) if number else 1 + ["first", "second", "third", "fourth"].index(quarter.split()[-2])) - 2


def _date(year: int, month: int, day: int) -> datetime | None:
    try:
        return datetime(year, month, day, tzinfo=UTC)
    except ValueError:
        return None


def _half(m: re.Match[str], now: datetime) -> Window | None:
    year = int(m["year"]) if m["year"] else now.year - (m["which"] == "last")
    first = m["half"].lower() in ("first", "1st", "h1")
    start = datetime(year, 1 if first else 7, 1, tzinfo=UTC)
    if not m["year"] and not m["which"] and start > now:
        start = add_months(start, -12)
    return Window(start, add_months(start, 6), m[0], (start, add_months(start, 6)))


def _month_of_year(m: re.Match[str], now: datetime) -> Window:
    start = datetime(now.year - (m["which"] == "last"), MONTHS[m["month"].lower()], 1, tzinfo=UTC)
    return Window(start, add_months(start, 1), m[0], (start, add_months(start, 1)))


def _quarter_of_year(m: re.Match[str], now: datetime) -> Window:
    start = datetime(now.year - (m["which"] == "last"), _first_month(m["quarter"]), 1, tzinfo=UTC)
    return Window(start, add_months(start, 3), m[0], (start, add_months(start, 3)))


def _since(m: re.Match[str], now: datetime) -> Window | None:
    if m[0].startswith("from") and re.fullmatch(r"(?:last|this) \w+", m["point"]):
        return None  # "from last month to this month"
    at, near = _point(m["point"], now), _point(m["point"], now, nearest=True)
    return Window(at[0], None, m[0], (near[0], None)) if at and near else None


def _until(m: re.Match[str], now: datetime) -> Window | None:
    at, near = _point(m["point"], now), _point(m["point"], now, nearest=True)
    bound = 0 if m["word"] in ("before", "prior to", "earlier than") else 1
    return Window(None, at[bound], m[0], (None, near[bound])) if at and near else None


def _after(m: re.Match[str], now: datetime) -> Window | None:
    at, near = _point(m["point"], now), _point(m["point"], now, nearest=True)
    return Window(at[1], None, m[0], (near[1], None)) if at and near else None


def _between(m: re.Match[str], now: datetime) -> Window | None:
    if re.fullmatch(r"(?:last|this) \w+", m["first"]):
        return None  # "the difference between last month and this month" has two
    second = _point(m["second"], now)
    first = _point(m["first"], now)
    if first is None or second is None:
        return None
    if re.fullmatch(r".*\d{4}", m["second"]) and not re.search(r"\d{4}", m["first"]):
        first = _point(f"{m['first']} {second[0].year}", now) or first
    return Window(first[0], second[1], m[0], (first[0], second[1])) if first[0] < second[1] else None


def _days_of_month(m: re.Match[str], now: datetime) -> Window | None:
    a, b = sorted((int(m["a"]), int(m["b"])))
    year = f" {m['year']}" if m["year"] else ""
    first, last = _point(f"{m['month']} {a}{year}", now), _point(f"{m['month']} {b}{year}", now)
    if first is None or last is None:
        return None
    end = last[1] if last[1] > first[0] else add_months(last[1], 12)
    return Window(first[0], end, m[0], (first[0], end))


def _own_first(m: re.Match[str], now: datetime) -> Window:
    count, unit = _count(m["n"]), _unit(m["unit"])
    return Window(shift(now, -count, unit), None, m[0], None, count * unit_days(unit))


_CHANGE = re.compile(
    r"\b(?:gr[eo]w\w*|chang\w+|increas\w+|decreas\w+|drop\w*|r[io]se\w*|f[ae]ll\w*|declin\w+|improv\w+|differ(?!ent)\w*|compar\w+|shrank|gain\w*|delta)\b"
)


def _two(m: re.Match[str], now: datetime) -> tuple[Window, Window] | None:
    """ "Change between August and September 2025" compares two months, it does not span them."""
    whole = _between(m, now)
    second = _point(m["second"], now)
    first = _point(m["first"], now)
    if whole is None or whole.start is None or first is None or second is None or re.search(r"\d\b.*[a-z]|[a-z].*\b\d{1,2}\b", m["second"]):
        return None
    length = first[1] - first[0]
    months = next((n for n, days in ((12, 300), (3, 80), (1, 27)) if length.days > days), 0)
    first = (whole.start, add_months(whole.start, months) if months else whole.start + length)
    return Window(*first, m["first"], first), Window(*second, m["second"], second)


_SEASONS = {"spring": 3, "summer": 6, "autumn": 9, "fall": 9, "winter": 12}


def _season(m: re.Match[str], now: datetime) -> Window:
    """Three calendar months of the northern year; a winter is named after the year it begins in."""
    groups = m.groupdict()
    year = int(m["year"]) if groups.get("year") else now.year - (m["which"] == "last" and floor(now, "year").year == now.year)
    start = datetime(year, _SEASONS[m["season"]], 1, tzinfo=UTC)
    if not groups.get("year") and not m["which"] and start > now:
        start = add_months(start, -12)
    return Window(start, add_months(start, 3), m[0], (start, add_months(start, 3)))


def _part_of_month(m: re.Match[str], now: datetime) -> Window | None:
    at = _point(m["point"], now)
    if at is None or not 27 < (at[1] - at[0]).days < 32:
        return None
    count = _count(m["n"]) if m["n"] else 1
    days = count * (7 if m["unit"].startswith("week") else 1)
    if days >= (at[1] - at[0]).days:
        return None
    if m["which"] == "first":
        return Window(at[0], at[0] + timedelta(days=days), m[0], (at[0], at[0] + timedelta(days=days)))
    return Window(at[1] - timedelta(days=days), at[1], m[0], (at[1] - timedelta(days=days), at[1]))


def _in(m: re.Match[str], now: datetime) -> Window | None:
    at = _point(m["point"], now)
    return Window(*at, m[0], _point(m["point"], now, nearest=True)) if at else None


def _rolling(m: re.Match[str], now: datetime) -> Window | None:
    count, unit = _count(m["n"]), _unit(m["unit"])
    if unit == "hour" and not re.search(r"last|past|previous|recent|trailing|latest", m[0]):
        return None  # "took more than 4 hours" is a number
    return Window(shift(now, -count, unit), None, m[0], (now, shift(now, count, unit)), count * unit_days(unit))


def _next(m: re.Match[str], now: datetime) -> Window:
    groups = m.groupdict()
    unit = _unit(m["unit"])
    if groups.get("n"):
        count = _count(m["n"])
        return Window(now, shift(now, count, unit), m[0], (now, shift(now, count, unit)), count * unit_days(unit))
    start = shift(floor(now, unit), 1, unit)
    return Window(start, shift(start, 1, unit), m[0], (start, shift(start, 1, unit)), unit_days(unit))


def _before_last(m: re.Match[str], now: datetime) -> Window:
    unit = _unit(m["unit"])
    start = shift(floor(now, unit), -2, unit)
    return Window(start, shift(start, 1, unit), m[0])


def _previous_rolling(m: re.Match[str], now: datetime) -> Window:
    count, unit = _count(m["n"]), _unit(m["unit"])
    return Window(shift(now, -2 * count, unit), shift(now, -count, unit), m[0])


def _whole(m: re.Match[str], now: datetime) -> Window:
    """ "The last 8 full weeks" end where this week begins."""
    count, unit = _count(m["n"]), _unit(m["unit"])
    end = floor(now, unit)
    return Window(shift(end, -count, unit), end, m[0], None, count * unit_days(unit))


def _by_end(m: re.Match[str], now: datetime) -> Window:
    end = shift(floor(now, m["unit"]), 1, m["unit"])
    return Window(None, end, m[0], (now, end))


def _rest(m: re.Match[str], now: datetime) -> Window:
    end = shift(floor(now, m["unit"]), 1, m["unit"])
    return Window(now, end, m[0], (now, end))


def _calendar(m: re.Match[str], now: datetime) -> Window:
    unit = _unit(m["unit"])
    start = floor(now, unit)
    if m["which"] in ("this", "the current", "current", "to date"):
        return Window(start, None, m[0], (now, shift(start, 1, unit)))
    return Window(shift(start, -1, unit), start, m[0], None, unit_days(unit))


def _weekend(m: re.Match[str], now: datetime) -> Window:
    start = floor(now, "week") + timedelta(days=5)
    if m["which"] != "this" and start + timedelta(days=2) > now:
        start -= timedelta(days=7)
    return Window(start, start + timedelta(days=2), m[0])


def _to_date(m: re.Match[str], now: datetime) -> Window:
    unit = {"y": "year", "q": "quarter", "m": "month", "w": "week"}.get(m[0].lower()[0], "year")
    return Window(floor(now, unit), None, m[0])


def _ago(m: re.Match[str], now: datetime) -> Window:
    count, unit = _count(m["n"]), _unit(m["unit"])
    at = shift(now, -count, unit)
    if m["more"]:
        return Window(None, at, m[0], None, count * unit_days(unit)) if "less" not in m["more"] else Window(at, None, m[0])
    start = floor(at, "day" if unit in ("day", "hour") else unit)
    return Window(start, shift(start, 1, "day" if unit in ("day", "hour") else unit), m[0], None, count * unit_days(unit))


def _same_last_year(m: re.Match[str], now: datetime) -> Window:
    unit = _unit(m["unit"])
    start = add_months(floor(now, unit), -12)
    return Window(start, shift(start, 1, unit), m[0])


_LAST = r"(?:(?:the|our) )?(?:last|past|previous|preceding|most recent|trailing|prior|latest)"
_RULES: tuple[tuple[str, Callable[[re.Match[str], datetime], Window | None]], ...] = (
    (
        r"(?:between |from |in |on |during )?(?:the )?(?:days )?(?P<a>\d{1,2})(?:st|nd|rd|th)? ?(?:and|to|till|until|through|-|–) ?(?:the )?(?P<b>\d{1,2})"
        rf"(?:st|nd|rd|th)? (?:of )?{_MONTH}(?:,? (?:of )?{_YEAR})?",
        _days_of_month,
    ),
    (
        rf"(?:between |from |in |on |during )?{_MONTH} (?:the )?(?P<a>\d{{1,2}})(?:st|nd|rd|th)? ?(?:and|to|till|until|through|-|–) ?(?:the )?(?P<b>\d{{1,2}})"
        rf"(?:st|nd|rd|th)?(?:,? {_YEAR})?",
        _days_of_month,
    ),
    (
        rf"(?:in |during |within |for )?(?:the )?(?P<which>first|last) (?:{_NUMBER} )?(?P<unit>days?|weeks?) (?:of|in) (?P<point>{_POINT})",
        _part_of_month,
    ),
    (
        rf"(?:in |during |since |over |for )?(?:the |this |(?P<which>last) )?(?P<season>spring|summer|autumn|winter|fall(?= of| (?:19|20)\d\d))(?:(?: of)? {_YEAR})?",
        _season,
    ),
    (rf"(?:in |within |during )?(?:their|his|her|its) (?:very )?first (?:{_NUMBER} )?{_UNIT}", _own_first),
    (rf"(?:between|from) (?P<first>{_POINT}) (?:and|to|till|until|through|thru|-) (?P<second>{_POINT})", _between),
    (rf"(?:since|from|starting(?: in| from)?) (?P<point>{_POINT})(?: on(?:wards?)?)?", _since),
    (rf"(?P<more>more than|over|at least|less than) {_NUMBER} {_UNIT} ago", _ago),
    (rf"(?P<more>){_NUMBER} {_UNIT} ago", _ago),
    (
        r"(?:in |during |for )?(?:the )?(?P<half>first|second|1st|2nd) half(?: of (?:(?:the )?(?P<which>this|last)? ?year|(?P<year>(?:19|20)\d\d)))?",
        _half,
    ),
    (r"(?:in |during |for )?(?P<which>)(?P<half>h1|h2)(?: (?P<year>(?:19|20)\d\d))?", _half),
    (rf"(?:in |during |for )?{_MONTH}(?: of)? (?P<which>this|last) year", _month_of_year),
    (rf"(?:in |during |for )?(?P<quarter>{_QUARTER})(?: of)? (?P<which>this|last) year", _quarter_of_year),
    (r"same (?P<unit>week|month|quarter) (?:of )?last year", _same_last_year),
    (r"(?:the )?(?P<unit>week|month|quarter|year) (?:before (?:last|that|it)|prior)", _before_last),
    (
        r"(?:the |one )(?P<unit>week|month|quarter|year) (?:before|earlier)(?=\s*(?:$|[?.!,;:)]|\b(?:and|or|by|in|for|per|top|did)\b))",
        _before_last,
    ),
    (rf"(?:the )?{_NUMBER} {_UNIT} before (?:that|it|then)", _previous_rolling),
    (rf"(?:in |within |during |over |for )?(?:the )?(?:next|coming|following|upcoming) {_NUMBER} {_UNIT}", _next),
    (r"(?:in |within |during |over )?(?:the )?(?:next|coming|following|upcoming) (?P<unit>day|week|month|quarter|year)", _next),
    (
        rf"(?:in |within |during |over |for |throughout |across )?{_LAST} {_NUMBER} (?:full|whole|complete|completed|calendar|entire) {_UNIT}",
        _whole,
    ),
    (rf"(?:in |within |during |over |for |throughout |across )?{_LAST} {_NUMBER} {_UNIT}", _rolling),
    (r"(?:before|by|until|till|up to) (?:the )?end of (?:the |this |the current )?(?P<unit>week|month|quarter|year)", _by_end),
    (r"(?:before|by|until|till) (?P<unit>year|month|quarter)[ -](?:end|s end)", _by_end),
    (r"(?:the )?rest of (?:the |this |the current )?(?P<unit>week|month|quarter|year)", _rest),
    (r"(?:in |within |during |over |for )?the past (?P<n>)(?P<unit>day|week|fortnight|month|quarter|year)", _rolling),
    (r"(?:(?:over|in|during|within|for) )?past (?P<n>)(?P<unit>day|week|fortnight|month|quarter|year)", _rolling),
    (r"(?:(?:over|in|during|within|for) )?(?:the )?last (?P<n>)(?P<unit>fortnight)", _rolling),
    (
        r"(?:in |during |over |for )?(?:the )?(?P<which>last|previous|prior|preceding) (?:calendar |full |whole )?(?P<unit>day|week|month|quarter|year)",
        _calendar,
    ),
    (
        r"(?:in |during |over |for |so far )?(?P<which>this|the current|current) (?:calendar )?(?P<unit>day|week|month|quarter|year)(?: so far| to date)?",
        _calendar,
    ),
    (r"(?:on |over |during )?(?:the )?(?P<which>last|this|previous|past) weekend", _weekend),
    (r"(?:year|quarter|month|week)[ -]to[ -]date|\b(?:ytd|qtd|mtd|wtd)\b", _to_date),
    (rf"(?P<word>before|until|till|prior to|up to|earlier than) (?P<point>{_POINT})", _until),
    (rf"(?:after|later than) (?P<point>{_POINT})", _after),
    (rf"(?:in|within|for|over|during|inside) (?:about |at least |more than |over |the )?{_NUMBER} {_UNIT}(?! old)", _rolling),
    (rf"(?!an? ){_NUMBER}\+? {_UNIT}(?! old)", _rolling),
    (r"(?P<n>\d+)[ -]?(?P<unit>day|week|month|year)\b", _rolling),
    (rf"(?:in |during |for |on |of |throughout |as of )?(?:the (?:month|year|week|quarter) of )?(?P<point>{_POINT})(?! old)", _in),
)
# Not within a longer number or date: "1.5 years" are not five, and "1,000 days" not zero.
_COMPILED = tuple((re.compile(rf"(?<![\w-])(?<!\d[.,/])(?:{pattern})(?![\w-]|[.,/]\d)"), make) for pattern, make in _RULES)
_NEIGHBOUR = r"(?: and | or | to | vs\.? | versus |, ?| ?- ?| compared (?:to|with) | against | than )"


def find(text: str, now: datetime) -> Iterator[tuple[int, int, Window]]:
    """Time expressions in a text, left to right, without overlaps.

    Args:
        text: lower case question.
        now: the as-of time.

    Yields:
        (start, end) of the characters and the window.
    """
    taken: list[tuple[int, int, Window]] = []
    for pattern, make in _COMPILED:
        for m in pattern.finditer(text):
            if any(m.start() < e and s < m.end() for s, e, _ in taken):
                continue
            if _is_plain_word(text, m):
                continue
            if make is _between and _CHANGE.search(text[: m.start()] + text[m.end() :]) and (both := _two(m, now)):
                taken += [(*m.span(name), window) for name, window in zip(("first", "second"), both, strict=True)]
                continue
            try:
                window = make(m, now)
            except (ContractError, OverflowError, ValueError):  # "the last 9999 years" leave the calendar
                continue
            if window is not None:
                taken.append((m.start(), m.end(), window))
    yield from sorted(taken, key=lambda t: t[0])


def _is_plain_word(text: str, m: re.Match[str]) -> bool:
    """ "may" and "march" alone are no months, and "over 2000" is no year."""
    word = m[0].lower().rstrip(".")
    if re.match(rf"(?:\d+|{'|'.join(SMALL)}) \w+s$", word) and re.search(
        r"\b(?:top|best|worst|bottom|highest|lowest|busiest|slowest|strongest|weakest|peak)$", text[: m.start()].rstrip()
    ):
        return True  # "the best 3 months" are three of them
    if word.isdigit():
        before = text[: m.start()].rstrip()
        if re.search(r"\b20\d\d than$", before):
            return False  # "more in 2026 than 2025"
        return not 2010 <= int(word) <= 2035 or bool(
            re.search(r"(?:[<>=$]|than|over|under|above|below|least|most|up to|exactly|exceeding)$", before)
        )
    if word not in ("may", "march"):
        return False
    near = re.search(rf"(?:{_NAME}{_NEIGHBOUR}|\b(?:last|this|past) )$", text[: m.start()]) or re.match(
        rf"{_NEIGHBOUR}{_NAME}\b", text[m.end() :]
    )
    return near is None
