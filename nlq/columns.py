"""What the columns of an answer are for: which one names a row, which counts, which dates it; and how a value reads.

Shared by sentences, charts and the terminal, so that the three never read the same rows in different ways.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal, get_args

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from nlq.types import ColumnKind, Rows, Translation

Grain = Literal["year", "quarter", "month", "week", "day", "instant"]
MEASURES = frozenset({"number", "money", "fraction", "percent"})
LABELS = frozenset({"id", "name", "category", "text", "flag"})
SYMBOLS = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥", "INR": "₹"}
UNKNOWN = "(not known)"

_TIMES = re.compile(r"^(?!this_|last_|previous_|prior_|current_)(.*_)?(day|date|week|weekday|month|quarter|year|hour|period)$|_at$")
_FRACTIONS = re.compile(r"(^|_)(rate|share|fraction|ratio|probability|churn_\d+)($|_)")
_PERCENTS = re.compile(r"(^|_)(percent|pct|percentage)($|_)")
_MONEY = re.compile(r"(^|_)(amount|revenue|spend|spent|sales|clv|price|budget|income|turnover|discount|basket|face_value)($|_)")
_CATEGORY_LETTERS = 40
_NOUNS = {"category": "categories", "city": "cities", "country": "countries", "loyalty": "loyalties", "status": "statuses"}


@dataclass(frozen=True)
class Order:
    """What the SQL says about order and number of its rows.

    Attributes:
        column: place (from 0) of the output column that the rows are ordered by first; None when by none of them.
        descending: largest first.
        limit: most rows that the question wants, None where it wants all.
    """

    column: int | None = None
    descending: bool = False
    limit: int | None = None


@dataclass(frozen=True)
class Shape:
    """Rows with the part that each column plays.

    Attributes:
        rows: as the engine gave them.
        kinds: one a column.
        order: of the SQL.
    """

    rows: Rows
    kinds: tuple[ColumnKind, ...]
    order: Order

    @property
    def names(self) -> tuple[str, ...]:
        return self.rows.columns

    @cached_property
    def measures(self) -> tuple[int, ...]:
        """Places of columns that hold quantities."""
        return tuple(i for i, kind in enumerate(self.kinds) if kind in MEASURES)

    @cached_property
    def times(self) -> tuple[int, ...]:
        """Places of columns that hold instants, days or periods."""
        return tuple(i for i, kind in enumerate(self.kinds) if kind == "time")

    @cached_property
    def labels(self) -> tuple[int, ...]:
        """Places of columns that say what a row is about; an id is left out where a name that tells all rows apart stands beside it."""
        found = [i for i, kind in enumerate(self.kinds) if kind in LABELS]
        ids = [i for i in found if self.kinds[i] == "id"]
        others = [i for i in found if self.kinds[i] != "id"]
        if not ids or not others:
            return tuple(found)
        unique = len({tuple(row[i] for i in others) for row in self.rows.data}) == len(self.rows.data)
        return tuple(others) if unique else tuple(found)

    @property
    def measure(self) -> int:
        """Place of the quantity that matters most: the one that orders the rows, else the first."""
        return self.order.column if self.order.column in self.measures else self.measures[0]

    def column(self, place: int) -> list[Any]:
        return [row[place] for row in self.rows.data]

    def moments(self, place: int) -> list[datetime] | None:
        """A time column as UTC datetimes; None when a value is no date (a weekday's name, an hour of the day) or missing."""
        found = [moment(value, self.names[place]) for value in self.column(place)]
        return None if any(m is None for m in found) else [m for m in found if m is not None]

    @property
    def cut(self) -> bool:
        """There may be more rows than these, so that nothing can be said about all of them unless the order says it."""
        limited = self.order.limit is not None and len(self.rows.data) >= self.order.limit
        return self.rows.truncated or limited


def shape_of(translation: Translation, rows: Rows) -> Shape:
    """Columns as the translation declares them; where it declares none, or others than the rows have, by name and values."""
    declared = translation.columns
    rows = replace(rows, data=tuple(tuple(None if _no_number(v) else v for v in row) for row in rows.data))
    if len(declared) == len(rows.columns):
        kinds = tuple(c.kind for c in declared)
    else:
        kinds = tuple(guess(name, [row[i] for row in rows.data]) for i, name in enumerate(rows.columns))
    # What is declared a quantity and holds something else (text, an interval) cannot be compared or drawn.
    numbers = tuple(all(isinstance(row[i], int | float | Decimal | None) for row in rows.data) for i in range(len(kinds)))
    kinds = tuple("text" if kind in MEASURES and not fits else kind for kind, fits in zip(kinds, numbers, strict=True))
    return Shape(rows, kinds, order_of(translation.sql or "", rows.columns))


def _no_number(value: Any) -> bool:
    """0/0 and 1/0 are no values to compare."""
    return isinstance(value, float) and not math.isfinite(value)


def guess(name: str, values: Sequence[Any]) -> ColumnKind:
    """The kind of a column that nobody declared, by its values first and its name where they leave it open."""
    known = [v for v in values if v is not None]
    low = name.lower()
    if known and all(isinstance(v, bool) for v in known):
        return "flag"
    if known and all(isinstance(v, datetime | date) for v in known):
        return "time"
    if known and all(isinstance(v, int | float | Decimal) for v in known):
        if _PERCENTS.search(low):
            return "percent"
        if _FRACTIONS.search(low) and all(0 <= v <= (2 if "rate" in low else 1) for v in known):
            return "fraction"  # redemptions without an offer count too, so that a rate may pass 1
        if _MONEY.search(low) and not low.startswith(("count", "number", "purchases")):
            return "money"
        return "time" if _TIMES.search(low) and all(isinstance(v, int) for v in known) else "number"
    if low.endswith("_id") or low == "id":
        return "id"
    if _TIMES.search(low):
        return "time"
    if low == "name" or low.endswith("_name"):
        return "name"
    return "category" if all(len(str(v)) <= _CATEGORY_LETTERS for v in known) else "text"


def order_of(sql: str, columns: Sequence[str]) -> Order:
    """Order and limit of a query's outermost SELECT; of SQL that cannot be read, none."""
    try:
        tree = sqlglot.parse_one(sql, read="duckdb")
    except SqlglotError:
        return Order()
    if not isinstance(tree, exp.Query):
        return Order()
    limit = tree.args.get("limit")
    count = limit.expression if limit is not None else None
    number = int(count.name) if isinstance(count, exp.Literal) and count.name.isdigit() else None
    ordered = tree.args.get("order")
    if ordered is None or not ordered.expressions:
        return Order(limit=number)
    first = ordered.expressions[0]
    by, descending = (first.this, bool(first.args.get("desc"))) if isinstance(first, exp.Ordered) else (first, False)
    return Order(_place(by, tree, columns), descending, number)


def _place(by: exp.Expression, tree: exp.Query, columns: Sequence[str]) -> int | None:
    if isinstance(by, exp.Literal) and by.name.isdigit() and 1 <= int(by.name) <= len(columns):
        return int(by.name) - 1
    if isinstance(by, exp.Column) and by.name in columns:
        return list(columns).index(by.name)
    same = [i for i, s in enumerate(tree.selects) if s.unalias() == by]
    return same[0] if same and same[0] < len(columns) else None


# ---- times ------------------------------------------------------------------------------------------------------------------


def moment(value: Any, name: str = "") -> datetime | None:
    """A value as a UTC datetime: datetimes, dates, `2026-10-14`, `2026-10`, and a year in a column that is called so."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return datetime(int(value), 1, 1, tzinfo=UTC) if "year" in name.lower() and 1900 <= value <= 2200 and value == int(value) else None
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}(-\d{2})?", value):
        try:
            return datetime.strptime(value if len(value) > 7 else f"{value}-01", "%Y-%m-%d").replace(tzinfo=UTC)
        except ValueError:
            return None
    return None


def grain_of(moments: Sequence[datetime], name: str = "") -> Grain:
    """The longest period that all moments begin; a single one only counts as a period when the column's name says so."""
    if any((m.hour, m.minute, m.second, m.microsecond) != (0, 0, 0, 0) for m in moments):
        return "instant"
    low, several = name.lower(), len(set(moments)) > 1
    gaps = [(b - a).days for a, b in zip(sorted(set(moments)), sorted(set(moments))[1:], strict=False)]
    first = all(m.day == 1 for m in moments)
    if first and all(m.month == 1 for m in moments) and ("year" in low or (several and "month" not in low and "quarter" not in low)):
        return "year"
    if first and all(m.month % 3 == 1 for m in moments) and ("quarter" in low or (several and "month" not in low and min(gaps) > 31)):
        return "quarter"
    if first and ("month" in low or several):
        return "month"
    if all(m.weekday() == 0 for m in moments) and ("week" in low or (several and "day" not in low and "date" not in low)):
        return "week"
    return "day"


def period(when: datetime, grain: Grain) -> str:
    """A moment as people write the period that it begins: `2026`, `Q4 2026`, `Oct 2026`, `week of 12 Oct 2026`, `12 Oct 2026`."""
    day = f"{when.day} {when:%b %Y}"
    return {
        "year": f"{when:%Y}",
        "quarter": f"Q{(when.month + 2) // 3} {when:%Y}",
        "month": f"{when:%b %Y}",
        "week": f"week of {day}",
        "day": day,
        "instant": f"{day} {when:%H:%M}",
    }[grain]


def after(when: datetime, grain: Grain) -> datetime:
    """The first moment after the period that begins at `when`."""
    if grain == "instant":
        return when
    if grain in ("day", "week"):
        return when + timedelta(days=7 if grain == "week" else 1)
    months = when.month - 1 + {"year": 12, "quarter": 3}.get(grain, 1)
    return when.replace(year=when.year + months // 12, month=months % 12 + 1, day=1)


# ---- values as text ---------------------------------------------------------------------------------------------------------


def shown(value: Any, kind: ColumnKind, currency: str | None = None, name: str = "") -> str:
    """A value as people read it: 1,234; 12.3 %; $4.50 where the currency is known, else 4.50; Oct 2026.

    Args:
        currency: ISO code, as `USD`; None when nobody said.
        name: of the column, which tells whether a date begins a period.
    """
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    when = moment(value, name) if kind == "time" or isinstance(value, datetime | date) else None
    if when is not None:
        return period(when, grain_of([when], name))
    if not isinstance(value, int | float | Decimal) or kind in LABELS or kind == "time":
        return str(value)
    if _no_number(value):
        return UNKNOWN
    if kind in ("fraction", "percent"):
        percent = float(value) * (100 if kind == "fraction" else 1)
        return "over 99.9 %" if 99.95 <= percent < 100 else f"{_plain(percent, 1)} %"
    if kind == "money":
        return _money(value, currency)
    return f"{int(value):,}" if value == int(value) else _plain(float(value), 2)


def _plain(value: float, places: int) -> str:
    """With `places` decimals; small values with two significant digits, so that 0.0042 does not read 0."""
    if value and abs(value) < 10**-places:
        return f"{value:.2g}" if abs(value) >= 1e-4 else "almost 0"
    return f"{value:,.{places}f}"


def _money(value: int | float | Decimal, currency: str | None) -> str:
    text = f"{abs(value):,.2f}"
    minus = "-" if value < 0 and text.strip("0.,") else ""
    if currency is None:
        return minus + text
    symbol = SYMBOLS.get(currency.upper())
    return f"{minus}{symbol}{text}" if symbol else f"{minus}{currency.upper()} {text}"


def words(name: str) -> str:
    """A column's name as words: `average_clv` gives `average CLV`."""
    text = re.sub(r"[_\s]+", " ", name).strip().lower()
    text = re.sub(r"^churn (\d+)$", r"churn probability in \1 days", text)
    return re.sub(r"\b(clv|sms|id)\b", lambda m: m[0].upper() if m[0] != "id" else "id", text) or "value"


def plural(name: str) -> str:
    """What rows named by this column are called together: `customer_id` gives `customers`, `category` gives `categories`."""
    noun = words(re.sub(r"_?(id|name)$", "", name.lower()) or "row")
    head, _, last = noun.rpartition(" ")
    many = _NOUNS.get(last) or (last if last.endswith("s") else f"{last}s")
    return f"{head} {many}".strip()


assert MEASURES | LABELS | {"time"} == set(get_args(ColumnKind))  # noqa: S101 - every kind plays one part
