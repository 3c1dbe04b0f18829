"""A sentence for people, made from the reading of the question and its rows.

It says only what the rows hold: the largest of all only where all are there or the order of the query says so, a change only between
periods that are over, and that there may be more rows where there may be.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from nlq.columns import Shape, after, grain_of, period, plural, shape_of, shown, words
from nlq.schema import SCHEMA
from nlq.types import Rows, Translation

FEW = 4
"""So many rows are listed one by one."""
_SINGULAR = ("number", "count", "total", "sum", "average", "mean", "median", "share", "rate", "percentage", "fraction", "highest", "lowest",
             "largest", "smallest", "maximum", "minimum", "difference", "ratio", "latest", "earliest", "first", "last", "redemption rate",
             "open rate", "view rate", "click rate", "churn rate")  # fmt: skip
_FLAT = 0.0005


def sentence(translation: Translation, rows: Rows, *, currency: str | None = None, as_of: datetime | None = None) -> str:
    """The answer in a sentence or two of plain English.

    Args:
        translation: what was asked, as the model read it; not a refusal.
        rows: what the engine found.
        currency: ISO code of the business's money, None when not known: then amounts carry no sign.
        as_of: end of the data; a period that it falls into is called unfinished.
    """
    shape = shape_of(translation, rows)
    if not rows.data or (len(rows.data) == 1 and all(v is None for v in rows.data[0])):
        return _nothing(translation, bool(rows.data))
    teller = _Teller(translation, shape, currency, as_of)
    text = teller.tell()
    if rows.truncated:
        text += f" Only the first {len(rows.data):,} rows are shown; there are more."
    return text


class _Teller:
    """One answer. `tell` picks the form that suits its rows."""

    def __init__(self, translation: Translation, shape: Shape, currency: str | None, as_of: datetime | None) -> None:
        self.shape, self.currency, self.as_of = shape, currency, as_of
        self.what = (translation.interpretation or "").strip().rstrip(".?!")
        self.data = shape.rows.data

    def tell(self) -> str:
        s = self.shape
        if len(self.data) == 1:
            return self._one_value() if len(s.names) == 1 else self._one_row()
        ranked = s.order.column is not None and s.order.column in s.measures
        if s.times and s.measures and not s.labels and not ranked and (trend := self._trend()):
            return trend
        if s.times and s.measures and len(s.labels) == 1 and not ranked and (several := self._several_trends()):
            return several
        if s.measures and (s.labels or s.times):
            return self._ranking()
        return self._list() if not s.measures else self._ranges()

    # -- one row --

    def _one_value(self) -> str:
        text = self._value(0, self.data[0][0])
        if self.what.lower().startswith(_SINGULAR):
            return f"The {_lower(self.what)} is {text}."
        return f"{_upper(self.what)}: {text}." if self.what else f"{_upper(words(self.shape.names[0]))}: {text}."

    def _one_row(self) -> str:
        s, row = self.shape, self.data[0]
        parts = [f"{words(s.names[i])} {self._value(i, v)}" for i, v in enumerate(row) if i in (*s.labels, *s.times, *s.measures)]
        text = _join(parts)
        if s.labels and s.measures:
            inside = ", ".join(f"{words(s.names[m])} {self._value(m, row[m])}" for m in s.measures)
            text = f"{self._label(row)} ({inside})"
        if len(s.measures) == 2 and not s.labels and not s.times and s.kinds[s.measures[0]] == s.kinds[s.measures[1]]:
            first, second = s.measures
            text += _against(
                words(s.names[first]), row[first], words(s.names[second]), row[second], s.kinds[first] in ("fraction", "percent")
            )
        return self._say(text)

    # -- many rows --

    def _ranking(self) -> str:
        s, m = self.shape, self.shape.measure
        named = [(self._label(row), row[m]) for row in self.data if row[m] is not None]
        if not named:
            return self._say(f"{self._count()}, without a value of {words(s.names[m])}")
        if len(self.data) <= FEW and len(s.measures) == 1:
            listed = named if s.order.column is not None else sorted(named, key=lambda pair: -pair[1])
            return self._say(_join([f"{label} {self._value(m, v)}" for label, v in listed]))
        high, low = max(v for _, v in named), min(v for _, v in named)
        by = s.order.column == m
        name = words(s.names[m])
        if high == low:
            return self._say(f"all {len(named):,} {'shown ' if s.cut else ''}have the same {name}, {self._value(m, high)}")
        upward = by and not s.order.descending
        top, bottom = ("most", "fewest") if s.kinds[m] == "number" and _counted(name) else ("highest", "lowest")
        most, least = (bottom, top) if upward else (top, bottom)
        told = self._leader(named, m, name, most, low if upward else high, upward)
        if s.cut and not by:
            return self._say(f"of the {len(self.data):,} shown, {told}")
        if not s.cut:
            other = high if upward else low
            ends = [label for label, v in named if v == other]
            count = f"of {len(named):,}{'' if self._noun() == 'rows' else ' ' + self._noun()}"
            who = f"{ends[0]} has" if len(ends) == 1 else f"{len(ends):,} have"
            told += f"; {count}, {who} the {least} ({self._value(m, other)})"
        return self._say(told)

    def _leader(self, named: Sequence[tuple[str, Any]], m: int, name: str, most: str, best: Any, upward: bool) -> str:
        first = [label for label, v in named if v == best]
        if len(first) > 1:
            shown_first = _join(first) if len(first) <= 3 else f"{len(first):,} {self._noun()}"
            return f"{shown_first} share the {most} {name} ({self._value(m, best)})"
        rest = [v for _, v in named if v != best]
        second = min(rest) if upward else max(rest)
        after_it = [label for label, v in named if v == second]
        then = after_it[0] if len(after_it) == 1 else f"{len(after_it):,} {self._noun()}"
        each = "" if len(after_it) == 1 else " each"
        return f"{first[0]} has the {most} {name} ({self._value(m, best)}), followed by {then} ({self._value(m, second)}{each})"

    def _trend(self) -> str | None:
        s, t, m = self.shape, self.shape.times[0], self.shape.measure
        moments = s.moments(t)
        if moments is None or len(set(moments)) < len(moments) or len(moments) < 2:
            return None
        grain = grain_of(moments, s.names[t])
        points = sorted((when, row[m]) for when, row in zip(moments, self.data, strict=True) if row[m] is not None)
        unfinished = ""
        if self.as_of is not None and grain != "instant" and points and points[-1][0] <= self.as_of < _nearly(points[-1][0], grain):
            when, value = points[-1]
            if len(points) > 2:
                points = points[:-1]
                unfinished = f" {_upper(_the(when, grain))} is not over in the data: {self._value(m, value)} so far."
            else:
                unfinished = f" {_upper(_the(when, grain))} is not over in the data."
        if len(points) < 2:
            return None
        (start, first), (end, last) = points[0], points[-1]
        share = s.kinds[m] in ("fraction", "percent")
        text = f"{words(s.names[m])} went from {self._value(m, first)} in {_the(start, grain)} to "
        text += f"{self._value(m, last)} in {_the(end, grain)}"
        text += f", {_change(first, last, share, s.kinds[m] == 'fraction')}"
        text += self._extremes(points, m, grain)
        return self._say(text) + unfinished

    def _extremes(self, points: Sequence[tuple[datetime, Any]], m: int, grain: Any) -> str:
        if len(points) < 3:
            return ""
        parts = []
        for name, pick in (("peak", max), ("low", min)):
            value = pick(v for _, v in points)
            at = [when for when, v in points if v == value]
            if len(at) == 1 and at[0] not in (points[0][0], points[-1][0]):
                parts.append(f"{name} {self._value(m, value)} in {_the(at[0], grain)}")
            elif len(at) == 1:
                parts.append(f"{name} at the {'end' if at[0] == points[-1][0] else 'start'}")
        return f"; {', '.join(parts)}" if parts else ""

    def _several_trends(self) -> str | None:
        s, t, m, g = self.shape, self.shape.times[0], self.shape.measure, self.shape.labels[0]
        moments = s.moments(t)
        if moments is None or len(set(moments)) < 2:
            return None
        grain, last = grain_of(moments, s.names[t]), max(moments)
        at_end = [
            (self._value(g, row[g]), row[m]) for when, row in zip(moments, self.data, strict=True) if when == last and row[m] is not None
        ]
        groups, periods = len(set(s.column(g))), len(set(moments))
        text = f"{groups:,} {plural(s.names[g])} over {periods:,} {'moments' if grain == 'instant' else grain + 's'}"
        if at_end:
            best = max(v for _, v in at_end)
            leaders = [label for label, v in at_end if v == best]
            if len(leaders) == 1:
                text += f"; in {_the(last, grain)}, the latest, {leaders[0]} has the highest {words(s.names[m])} ({self._value(m, best)})"
        return self._say(text)

    def _list(self) -> str:
        labels = list(dict.fromkeys(self._label(row) for row in self.data))
        count = self._count() if len(labels) == len(self.data) else f"{self._count()}, {len(labels):,} different"
        if len(labels) <= FEW:
            return self._say(f"{count}: {_join(labels)}")
        return self._say(f"{count}: {', '.join(labels[:3])} and {len(labels) - 3:,} more")

    def _ranges(self) -> str:
        s = self.shape
        parts = []
        for m in s.measures:
            known = [v for v in s.column(m) if v is not None]
            if known:
                parts.append(f"{words(s.names[m])} from {self._value(m, min(known))} to {self._value(m, max(known))}")
        return self._say(f"{self._count()}{': ' if parts else ''}{_join(parts)}")

    # -- pieces --

    def _say(self, text: str) -> str:
        return f"{_upper(self.what)}: {text}." if self.what else f"{_upper(text)}."

    def _value(self, place: int, value: Any) -> str:
        s = self.shape
        if s.kinds[place] == "time" and (moments := s.moments(place)) and value is not None:
            when = moments[s.column(place).index(value)]
            return period(when, grain_of(moments, s.names[place]))
        return shown(value, s.kinds[place], self.currency, s.names[place])

    def _label(self, row: Sequence[Any]) -> str:
        places = self.shape.labels or self.shape.times or tuple(range(len(row)))
        return ", ".join(self._value(i, row[i]) for i in places)

    def _noun(self) -> str:
        s = self.shape
        ids = [i for i, kind in enumerate(s.kinds) if kind == "id"]
        if len(s.labels) == 1 and s.kinds[s.labels[0]] == "name" and len(ids) == 1:
            return plural(s.names[ids[0]])
        if len(s.labels) == 1:
            return plural(s.names[s.labels[0]])
        return "combinations" if s.labels else "rows"

    def _count(self) -> str:
        s = self.shape
        alone = len(s.labels) == 1 and len({row[s.labels[0]] for row in self.data}) == len(self.data)
        return f"{len(self.data):,} {self._noun() if alone else 'rows'}"


def _counted(name: str) -> bool:
    """`redemptions`, `sold`, `dismissed`: of these one has the most, of a rate or a price the highest."""
    last = name.split()[-1]
    return (
        last in ("sold", "points")
        or last.endswith("ed")
        or (last.endswith("s") and not last.endswith("ss") and last not in ("hours", "days"))
    )


def _the(when: datetime, grain: Any) -> str:
    return ("the " if grain == "week" else "") + period(when, grain)


def _nearly(start: datetime, grain: Any) -> datetime:
    """End of a period, an hour early: data that goes on until late in the last evening is complete."""
    end = after(start, grain)
    return start + (end - start) * (1 - 1 / (24 * max(1, (end - start).days)))


def _change(first: Any, last: Any, share: bool, fraction: bool) -> str:
    a, b = float(first), float(last)
    if share:
        points = (b - a) * (100 if fraction else 1)
        return "no change" if abs(points) < _FLAT * 100 else f"{'up' if points > 0 else 'down'} {abs(points):.1f} percentage points"
    if math.isclose(a, b, rel_tol=_FLAT):
        return "no change"
    word = "up" if b > a else "down"
    return f"{word} {abs(b - a) / a * 100:,.1f} %" if a > 0 else f"{word} {shown(abs(b - a), 'number')}"


def _against(one: str, a: Any, other: str, b: Any, share: bool) -> str:
    """How the first of two quantities stands to the second; nothing where that has no meaning."""
    if share or not isinstance(a, int | float | Decimal) or not isinstance(b, int | float | Decimal) or b <= 0 or a < 0:
        return ""
    ratio = float(a) / float(b)
    if math.isclose(ratio, 1, abs_tol=_FLAT):
        return f"; {one} equals {other}" if a == b else f"; {one} is nearly the same as {other}"
    return f"; {one} is {abs(ratio - 1) * 100:,.1f} % {'above' if ratio > 1 else 'below'} {other}"


def _nothing(translation: Translation, a_row: bool) -> str:
    """No row, or one without a value: say so, and why that may be."""
    what = (translation.interpretation or "").strip().rstrip(".?!")
    start = (
        f"There is nothing to compute this from: {what or 'no row matches'}." if a_row else f"No rows match{': ' + what if what else ''}."
    )
    literals, dated = _conditions(translation.sql or "")
    reasons = []
    if literals:
        quoted = _join([f'"{text}"' for text in literals[:3]], "or")
        reasons.append(f"{quoted} may not occur in the data, or not together with the rest")
    if dated:
        reasons.append("the period may hold nothing; ask about a longer one")
    return f"{start} {_upper('; '.join(reasons))}." if reasons else start


def _conditions(sql: str) -> tuple[list[str], bool]:
    """Texts that columns are compared with, and whether a time bound is set."""
    try:
        tree = sqlglot.parse_one(sql, read="duckdb")
    except SqlglotError:
        return [], False
    texts: list[str] = []
    for node in tree.find_all(exp.EQ, exp.Like, exp.ILike, exp.In):
        sides = [node.args.get("this"), node.args.get("expression"), *node.expressions]
        texts += [s.name.strip("%") for s in sides if isinstance(s, exp.Literal) and s.is_string]
    closed = {value for column in SCHEMA.columns for value in column.values}  # these are right; what they meet in the data is not known
    return [t for t in dict.fromkeys(texts) if t and t not in closed], any(
        True for _ in tree.find_all(exp.Interval, exp.TimestampTrunc, exp.DateTrunc)
    )


def _upper(text: str) -> str:
    """With a capital; ids and codes (`cust-000042`, `free_item`) stay as they are."""
    return text if re.match(r"[a-z]+[-_\d]", text) else text[:1].upper() + text[1:]


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _join(parts: Sequence[str], word: str = "and") -> str:
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} {word} {parts[-1]}"
