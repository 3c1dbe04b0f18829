"""A chart that suits an answer, as a Vega-Lite specification, and as a PNG.

The data lies inside the specification and nothing is read from anywhere else: no address, no font from a network. Colours are those of
Okabe and Ito (2008), which people with any kind of colour vision tell apart; lines also differ in their dashes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from contracts.errors import ContractError, UpstreamError
from nlq.columns import UNKNOWN, Grain, Shape, grain_of, period, shape_of, shown, words
from nlq.types import ColumnKind, Rows, Translation

SCHEMA_URL = "https://vega.github.io/schema/vega-lite/v5.json"
VEGA_LITE = "5.21"
MOST_POINTS = 500
MOST_BARS = 30
MOST_SERIES = 7
MOST_PIXELS_SCALE = 4.0
_LONG_LABEL, _MANY_BARS = 9, 8
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000"]
DASHES = [[1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [1, 3], [10, 4], [4, 1]]
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december")
_ORDERS = (
    ("bronze", "silver", "gold", "platinum"), ("low", "medium", "high", "critical"), ("low", "medium", "high", "very_high"),
    ("negative", "neutral", "positive"), _WEEKDAYS, _MONTHS, tuple(d[:3] for d in _WEEKDAYS), tuple(m[:3] for m in _MONTHS),
)  # fmt: skip
_FORMATS: dict[Grain, str] = {
    "year": "%Y",
    "quarter": "%b %Y",
    "month": "%b %Y",
    "week": "%-d %b %Y",
    "day": "%-d %b %Y",
    "instant": "%-d %b %H:%M",
}
_CONFIG = {
    "font": "Liberation Sans, Arial, Helvetica, sans-serif",
    "background": "white",
    "view": {"stroke": None},
    "axis": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "titleColor": "#333333", "labelColor": "#333333",
             "gridColor": "#e5e5e5", "domainColor": "#888888", "tickColor": "#888888", "labelLimit": 260},
    "legend": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "symbolSize": 120, "labelLimit": 240},
    "title": {"anchor": "start", "fontSize": 14, "fontWeight": "bold", "subtitleFontSize": 12, "subtitleColor": "#555555", "offset": 12,
              "color": "#222222"},
}  # fmt: skip
_TITLE_LETTERS = 74


def choose(translation: Translation, rows: Rows, *, currency: str | None = None) -> dict[str, Any] | None:
    """A Vega-Lite 5 specification for these rows, or None where a chart would show less than the sentence or the table does.

    A time axis gives lines, a category bars (lying, where the names are long or many), two categories grouped bars or a heat map, a share
    of one whole in up to four parts a ring, two quantities points. One number, lists, and rows without a quantity give none.

    Args:
        currency: ISO code for the axis title of money; None when not known.
    """
    shape = shape_of(translation, rows)
    if len(rows.data) < 2 or not shape.measures or len(set(rows.columns)) < len(rows.columns):
        return _compared(translation, shape, currency) if len(rows.data) == 1 else None
    drawn = _Chart(translation, shape, currency)
    ranked = shape.order.column is not None and shape.order.column in shape.measures
    if shape.times and len(shape.labels) <= 1 and not (ranked and shape.cut) and (spec := drawn.over_time()):
        return spec
    dimensions = [*shape.labels, *shape.times]
    if len(dimensions) == 1:
        return drawn.by_one(dimensions[0])
    if len(dimensions) == 2:
        return drawn.by_two(*dimensions)
    return drawn.points(None) if not dimensions and len(shape.measures) >= 2 else None


def _compared(translation: Translation, shape: Shape, currency: str | None) -> dict[str, Any] | None:
    """Bars for one row of several quantities of one kind, as this month beside last month."""
    kinds = {shape.kinds[m] for m in shape.measures}
    if len(shape.measures) < 2 or len(kinds) > 1 or shape.labels or shape.times or len(set(shape.names)) < len(shape.names):
        return None
    row = shape.rows.data[0]
    turned = Rows(("of", "value"), tuple((words(shape.names[m]), row[m]) for m in shape.measures))
    chart = _Chart(translation, Shape(turned, ("category", kinds.pop()), shape.order), currency)
    return chart.bars(
        [{"of": label, "value": _json(value)} for label, value in turned.data], "of", 0, 1, [label for label, _ in turned.data]
    )


class _Chart:
    """One chart over the columns of a shape. Fields of the data are named as the columns where that is a plain word, else `c0`, ..."""

    def __init__(self, translation: Translation, shape: Shape, currency: str | None) -> None:
        self.translation, self.shape, self.currency = translation, shape, currency
        self.fields = [name if re.fullmatch(r"[A-Za-z_]\w*", name) else f"c{i}" for i, name in enumerate(shape.names)]

    # -- forms --

    def over_time(self) -> dict[str, Any] | None:
        """Lines; one a category, or one a quantity where there are several of a kind."""
        s, t = self.shape, self.shape.times[0]
        moments = s.moments(t)
        if moments is None or len(set(moments)) < 2 or len(s.times) > 1:
            return None
        grain = grain_of(moments, s.names[t])
        series = self._alike()
        if s.labels:
            g = s.labels[0]
            groups = self._largest(g, s.measure, MOST_SERIES)
            points = [
                {"when": _utc(when), "series": self._text(g, row[g]), "value": _json(row[s.measure])}
                for when, row in zip(moments, s.rows.data, strict=True)
                if row[g] in groups
            ]
            left_out, legend = len(set(s.column(g))) - len(groups), _title(words(s.names[g]))
        else:
            if len(set(moments)) < len(moments):
                return None
            points = [
                {"when": _utc(when), "series": words(s.names[m]), "value": _json(row[m])}
                for when, row in zip(moments, s.rows.data, strict=True)
                for m in series
            ]
            left_out, legend = 0, ""
        names = list(dict.fromkeys(p["series"] for p in points))
        points = sorted((p for p in points if p["value"] is not None), key=lambda p: p["when"])[-MOST_POINTS:]
        several = len(names) > 1
        measure = s.measure if s.labels or len(series) == 1 else None
        encoding: dict[str, Any] = {
            "x": {"field": "when", "type": "temporal", "title": _title(words(s.names[t])), "scale": {"type": "utc"},
                  "axis": {"format": _FORMATS[grain], "labelAngle": 0, "labelOverlap": True, "grid": False,
                           "tickCount": min(8, len(set(moments)))}},
            "y": self._quantity("value", s.measure, "y", None if measure is not None else ""),
            "tooltip": [{**_tip("when", _title(words(s.names[t])), _FORMATS[grain]), "type": "temporal"},
                        _tip("value", self._name(s.measure) if measure is not None else "Value", self._format(s.measure))],
        }  # fmt: skip
        if several:
            encoding["color"] = _colour("series", legend, names)
            dashes = {"domain": names, "range": DASHES[: len(names)]}
            encoding["strokeDash"] = {"field": "series", "type": "nominal", "sort": names, "scale": dashes, "title": legend or None}
            encoding["tooltip"].append(_tip("series", legend or "Series"))
        mark: dict[str, Any] = {"type": "line", "point": len(points) <= 80, "strokeWidth": 2}
        if not several:
            mark |= {"color": COLOURS[0], "point": {"color": COLOURS[0]} if len(points) <= 80 else False}
        note = f"The {len(names)} largest of {len(names) + left_out}." if left_out > 0 else ""
        about = f"Line chart of {self._words(s.measure)} over {len(set(moments))} points in time"
        return self._spec(mark, encoding, points, about + (f", one line for each of {len(names)}" if several else ""), 560, 280, note)

    def by_one(self, d: int) -> dict[str, Any] | None:
        """One bar for each value; points where there are two quantities and too many rows for bars."""
        s = self.shape
        alike = self._alike()
        if len(s.measures) == 2 and len(alike) == 1 and len(s.rows.data) > MOST_BARS:
            return self.points(d)
        if s.kinds[d] in ("text", "id") and len(s.rows.data) > MOST_BARS:
            return None
        if len({row[d] for row in s.rows.data}) < len(s.rows.data):
            return None  # several rows of one name: a bar would add them up, which nobody asked for
        kept = self._most(s.rows.data, s.measure, MOST_BARS)
        note = f"{len(kept)} of {len(s.rows.data):,}." if len(kept) < len(s.rows.data) else ""
        if len(alike) > 1:
            points = [{"of": self._text(d, row[d]), "series": words(s.names[m]), "value": _json(row[m])} for row in kept for m in alike]
            return self.grouped(points, d, None, note)
        m, of = s.measure, self.fields[d]
        value = self.fields[m]
        points = [{of: self._text(d, row[d]), value: _json(row[m])} for row in kept]
        whole = s.kinds[m] in ("fraction", "percent") and self._is_whole(m) and not s.cut
        if whole and 2 <= len(points) <= 4:
            return self.ring(points, of, value, d, m)
        return self.bars(points, of, d, m, self._inner_order(d), note)

    def bars(self, points: list[dict[str, Any]], of: str, d: int, m: int, order: list[str] | None, note: str = "") -> dict[str, Any]:
        """Bars in the category's own order where it has one, else by size as the rows are."""
        value = next(k for k in points[0] if k != of)
        labels = [str(p[of]) for p in points]
        widest = max(map(len, labels))
        lying = widest > _LONG_LABEL or (len(labels) > _MANY_BARS and not (widest <= 3 and self.shape.kinds[d] == "time"))
        if order is None:
            down = not (self.shape.order.column == m and not self.shape.order.descending)
            order = [str(p[of]) for p in sorted(points, key=lambda p: (p[value] is None, -(p[value] or 0) if down else (p[value] or 0)))]
        category = {"field": of, "type": "nominal", "sort": order, "title": self._axis_title(d)}
        across = {**category, "axis": {"labelAngle": 0}} if not lying else category
        quantity = self._quantity(value, m, "x" if lying else "y")
        encoding = {
            "y" if lying else "x": across,
            "x" if lying else "y": quantity,
            "tooltip": [_tip(of, self._axis_title(d)),
                        _tip(value, quantity["title"], self._format(m))],
        }  # fmt: skip
        mark = {"type": "bar", "color": COLOURS[0]}
        about = f"Bar chart of {self._words(m)} for {len(points)} {words(self.shape.names[d])} values"
        size: Any = {"step": 22} if lying else max(160, len(labels) * max(24, 9 * widest))
        return self._spec(mark, encoding, points, about, 460 if lying else size, size if lying else 280, note)

    def ring(self, points: list[dict[str, Any]], of: str, value: str, d: int, m: int) -> dict[str, Any]:
        """A whole in at most four parts."""
        names = self._inner_order(d) or [str(p[of]) for p in points]
        encoding = {
            "theta": {"field": value, "type": "quantitative", "stack": True},
            "order": {"field": value, "type": "quantitative", "sort": "descending"},
            "color": _colour(of, self._axis_title(d), names),
            "tooltip": [_tip(of, self._axis_title(d)),
                        _tip(value, self._name(m), self._format(m))],
        }  # fmt: skip
        labels = {"type": "text", "radius": 136, "fontSize": 12, "color": "#333333"}
        text = {"field": value, "type": "quantitative", "format": self._format(m)}
        about = f"Ring chart of {self._words(m)} in {len(points)} parts"
        spec = self._spec({"type": "arc", "innerRadius": 60, "outerRadius": 112}, encoding, points, about, 300, 290)
        place = {name: encoding[name] for name in ("theta", "order")}
        named = {"mark": labels, "encoding": {**place, "text": text, "detail": {"field": of, "type": "nominal"}}}
        layers = [{"mark": spec.pop("mark"), "encoding": spec.pop("encoding")}, named]
        return {**spec, "layer": layers}

    def by_two(self, one: int, other: int) -> dict[str, Any] | None:
        """Grouped bars where one of the two has few values, else a heat map."""
        s, m = self.shape, self.shape.measure
        if len({(row[one], row[other]) for row in s.rows.data}) < len(s.rows.data) or len(s.measures) > 1:
            return None
        counts = {i: len(set(s.column(i))) for i in (one, other)}
        outer, inner = (one, other) if counts[one] >= counts[other] else (other, one)
        if counts[outer] > MOST_BARS:
            return None
        points = [
            {"of": self._text(outer, row[outer]), "series": self._text(inner, row[inner]), "value": _json(row[m])} for row in s.rows.data
        ]
        if counts[inner] <= 4 and counts[outer] * counts[inner] <= 40:
            return self.grouped(points, outer, inner, "")
        if counts[inner] > MOST_BARS:
            return None
        return self.heat(points, outer, inner)

    def grouped(self, points: list[dict[str, Any]], outer: int, inner: int | None, note: str) -> dict[str, Any]:
        """Bars side by side; `inner` is None where the series are quantities."""
        m = self.shape.measure
        series = (self._inner_order(inner) if inner is not None else None) or list(dict.fromkeys(p["series"] for p in points))
        order = self._inner_order(outer) or list(dict.fromkeys(p["of"] for p in points))
        legend = self._axis_title(inner) if inner is not None else ""
        lying = max(len(o) for o in order) > _LONG_LABEL or len(order) > 6
        category = {"field": "of", "type": "nominal", "sort": order, "title": self._axis_title(outer)}
        title = None if inner is not None else ""
        encoding = {
            "y" if lying else "x": category if lying else {**category, "axis": {"labelAngle": 0}},
            "yOffset" if lying else "xOffset": {"field": "series", "type": "nominal", "sort": series},
            "x" if lying else "y": self._quantity("value", m, "x" if lying else "y", title),
            "color": _colour("series", legend, series),
            "tooltip": [_tip("of", self._axis_title(outer)), _tip("series", legend or "Quantity"),
                        _tip("value", "Value", self._format(m))],
        }  # fmt: skip
        about = f"Grouped bar chart of {len(order)} {words(self.shape.names[outer])} values in {len(series)} series"
        width: Any = 460 if lying else {"step": 18}
        height: Any = {"step": 12} if lying else 280
        return self._spec({"type": "bar"}, encoding, points, about, width, height, note)

    def heat(self, points: list[dict[str, Any]], outer: int, inner: int) -> dict[str, Any]:
        """A colour for each pair; darker is more."""
        m = self.shape.measure
        flat = {"axis": {"labelAngle": 0}} if max(len(p["series"]) for p in points) <= 6 else {}
        encoding = {
            "y": {**_tip("of", self._axis_title(outer)), "sort": self._inner_order(outer) or self._seen(points, "of")},
            "x": {**_tip("series", self._axis_title(inner)), **flat, "sort": self._inner_order(inner) or self._seen(points, "series")},
            "color": {"field": "value", "type": "quantitative", "scale": {"scheme": "viridis", "reverse": True}, "title": self._name(m),
                      "legend": {"format": self._format(m, axis=True)}},
            "tooltip": [_tip("of", self._axis_title(outer)), _tip("series", self._axis_title(inner)),
                        _tip("value", self._name(m), self._format(m))],
        }  # fmt: skip
        about = f"Heat map of {self._words(m)} by {words(self.shape.names[outer])} and {words(self.shape.names[inner])}"
        return self._spec({"type": "rect"}, encoding, points[:MOST_POINTS], about, {"step": 40}, {"step": 22})

    def points(self, d: int | None) -> dict[str, Any]:
        """One point a row, two quantities as its place."""
        s = self.shape
        x, y = s.measures[:2]
        step = max(1, -(-len(s.rows.data) // MOST_POINTS))
        kept = s.rows.data[::step]
        data = [
            {self.fields[x]: _json(row[x]), self.fields[y]: _json(row[y]), **({"of": self._text(d, row[d])} if d is not None else {})}
            for row in kept
        ]
        data = [p for p in data if p[self.fields[x]] is not None and p[self.fields[y]] is not None]
        tooltip = [_tip(self.fields[i], self._name(i), self._format(i)) for i in (x, y)]
        if d is not None:
            tooltip.insert(0, _tip("of", self._axis_title(d)))
        encoding = {
            "x": self._quantity(self.fields[x], x, "x", zero=False),
            "y": self._quantity(self.fields[y], y, "y", zero=False),
            "tooltip": tooltip,
        }
        note = f"{len(data):,} of {len(s.rows.data):,} rows, evenly taken." if step > 1 else ""
        mark = {"type": "point", "filled": True, "size": 50, "opacity": 0.7, "color": COLOURS[0]}
        return self._spec(
            mark,
            encoding,
            data,
            f"Scatter plot of {self._words(y)} against {self._words(x)}, {len(data)} points",
            460,
            320,
            note,
        )

    # -- pieces --

    def _spec(
        self, mark: Any, encoding: Any, points: list[dict[str, Any]], about: str, width: Any, height: Any, note: str = ""
    ) -> dict[str, Any]:
        heading = (self.translation.interpretation or self.translation.question).strip()
        title: dict[str, Any] = {"text": list(_lines(heading[:1].upper() + heading[1:]))}
        if note:
            title["subtitle"] = note
        return {
            "$schema": SCHEMA_URL,
            "description": f"{about}. {heading[:1].upper() + heading[1:]}",
            "title": title,
            "width": width,
            "height": height,
            "data": {"values": points},
            "mark": {**mark, "tooltip": True} if mark["type"] != "arc" else mark,
            "encoding": encoding,
            "config": _CONFIG,
        }

    def _quantity(self, field: str, m: int, axis: str, title: str | None = None, zero: bool = True) -> dict[str, Any]:
        settings: dict[str, Any] = {"format": self._format(m, axis=True), "grid": True, "tickCount": 6, "labelOverlap": True}
        if self._whole_numbers(m):
            settings["tickMinStep"] = 1
        encoded: dict[str, Any] = {
            "field": field,
            "type": "quantitative",
            "title": self._name(m) if title is None else title or None,
            "axis": settings,
        }
        return encoded if zero else {**encoded, "scale": {"zero": False}}

    def _name(self, m: int) -> str:
        unit = (
            f" ({self.currency.upper()})"
            if self.currency and self.shape.kinds[m] == "money"
            else " (%)"
            if self.shape.kinds[m] == "percent"
            else ""
        )
        return _title(words(self.shape.names[m])) + unit

    def _words(self, m: int) -> str:
        return words(self.shape.names[m])

    def _axis_title(self, d: int) -> str:
        """Empty where the name says nothing that the values do not."""
        return _title(words(self.shape.names[d])) if self.shape.names[d] not in ("of", "name") else ""

    def _format(self, m: int, axis: bool = False) -> str:
        """A d3-format for a column's kind. On an axis, as many decimals as its numbers need to differ."""
        kind: ColumnKind = self.shape.kinds[m]
        known = [abs(float(v)) for v in self.shape.column(m) if isinstance(v, int | float | Decimal)]
        top = max(known, default=0.0)
        if kind == "fraction":
            return ".1%" if not axis or top < 0.08 else ".0%"
        if kind == "percent":
            return ".1f"
        if kind == "money":
            return ",.2f" if not axis or top < 20 else ",.0f"
        if self._whole_numbers(m) or (axis and top >= 20):
            return ",.0f"
        return ",.2f" if top >= 1 else ",.3~g"

    def _whole_numbers(self, m: int) -> bool:
        return self.shape.kinds[m] == "number" and all(v is None or v == int(v) for v in self.shape.column(m))

    def _alike(self) -> list[int]:
        """Quantities of the main one's kind and of its size, which may share an axis; at most four."""
        s = self.shape
        found = [m for m in s.measures if s.kinds[m] == s.kinds[s.measure]]
        if len(found) < len(s.measures) or len(found) > 4:
            return [s.measure]
        tops = [max((abs(float(v)) for v in s.column(m) if v is not None), default=0.0) for m in found]
        return found if min(tops) * 50 >= max(tops) else [s.measure]

    def _is_whole(self, m: int) -> bool:
        known = [float(v) for v in self.shape.column(m) if v is not None]
        total = sum(known) / (100 if self.shape.kinds[m] == "percent" else 1)
        return min(known, default=-1.0) >= 0 and abs(total - 1) < 0.01

    def _largest(self, g: int, m: int, count: int) -> set[Any]:
        sizes: dict[Any, float] = {}
        for row in self.shape.rows.data:
            sizes[row[g]] = sizes.get(row[g], 0.0) + abs(float(row[m] or 0))
        return set(sorted(sizes, key=lambda k: (-sizes[k], str(k)))[:count])

    def _most(self, data: Sequence[tuple[Any, ...]], m: int, count: int) -> list[tuple[Any, ...]]:
        """The first rows where the query orders them, else those of the largest values, in the order they came."""
        if len(data) <= count or self.shape.order.column == m:
            return list(data[:count])
        kept = sorted(range(len(data)), key=lambda i: (data[i][m] is None, -float(data[i][m] or 0), i))[:count]
        return [data[i] for i in sorted(kept)]

    def _inner_order(self, d: int) -> list[str] | None:
        """The order that a column's values have of themselves: tiers, risk levels, weekdays, dates, numbers; None where they have none."""
        s, values = self.shape, self.shape.column(d)
        if s.kinds[d] == "time" and (moments := s.moments(d)) is not None:
            pairs = sorted(dict(zip(moments, values, strict=True)).items())
            return [self._text(d, v) for _, v in pairs]
        known = list(dict.fromkeys(v for v in values if v is not None))
        if known and s.kinds[d] == "time" and all(isinstance(v, int | float) for v in known):
            return [self._text(d, v) for v in sorted(known)]
        for order in _ORDERS:
            if len(known) > 1 and all(str(v).lower() in order for v in known):
                return [self._text(d, v) for v in sorted(known, key=lambda v: order.index(str(v).lower()))] + (
                    [UNKNOWN] if None in values else []
                )
        if known and all(re.match(r"\d+", str(v)) for v in known) and s.kinds[d] == "category":  # age groups: 18-24, 25-34, 65+
            return [self._text(d, v) for v in sorted(known, key=lambda v: (int(re.match(r"\d+", str(v))[0]), str(v)))]  # type: ignore[index]
        return None

    def _seen(self, points: Sequence[dict[str, Any]], key: str) -> list[str]:
        return list(dict.fromkeys(str(p[key]) for p in points))

    def _text(self, d: int, value: Any) -> str:
        s = self.shape
        if s.kinds[d] == "time" and value is not None and (moments := s.moments(d)) is not None:
            return period(moments[s.column(d).index(value)], grain_of(moments, s.names[d]))
        return shown(value, s.kinds[d], self.currency, s.names[d])


def _colour(field: str, title: str, names: list[str]) -> dict[str, Any]:
    scale = {"domain": names, "range": [COLOURS[i % len(COLOURS)] for i in range(len(names))]}
    return {"field": field, "type": "nominal", "sort": names, "scale": scale, "title": title or None}


def _tip(field: str, title: str, number_format: str | None = None) -> dict[str, Any]:
    """A line of what is shown when a mark is pointed at."""
    shared = {"field": field, "title": title}
    return {**shared, "type": "nominal"} if number_format is None else {**shared, "type": "quantitative", "format": number_format}


def _title(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lines(text: str) -> Iterator[str]:
    """At most three lines of a title."""
    line, lines = "", 0
    for word in text.split():
        if line and len(line) + len(word) + 1 > _TITLE_LETTERS:
            lines += 1
            if lines == 3:
                yield f"{line} ..."
                return
            yield line
            line = word
        else:
            line = f"{line} {word}".strip()
    if line:
        yield line


def _utc(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(value: Any) -> Any:
    """A cell as JSON has it."""
    if isinstance(value, Decimal) or (isinstance(value, int) and abs(value) > 2**53):
        return float(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    return value


def png(spec: dict[str, Any], scale: float = 2.0) -> bytes:
    """The chart as a picture. Takes 2 s for the first one of a process, then about 50 ms; it holds the interpreter only in part.

    Args:
        spec: of `choose`; a specification from elsewhere must carry its data inside, too.
        scale: pixels for each unit, 0.5 to 4.

    Raises:
        ContractError: the scale is out of range, or the specification names data elsewhere.
        UpstreamError: it cannot be drawn.
    """
    if not 0.5 <= scale <= MOST_PIXELS_SCALE:
        raise ContractError(f"scale is {scale}, must be 0.5 to {MOST_PIXELS_SCALE:g}. Leave it out for 2.")
    if any(key in ("url", "href") for key in _keys(spec)):
        raise ContractError(
            "the chart names data or pictures elsewhere (url, href), must carry its data inside. Put the values into data.values."
        )
    import vl_convert

    try:
        return bytes(vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, scale=scale, allowed_base_urls=[]))
    except ValueError as exc:
        raise UpstreamError(f"the chart cannot be drawn: {str(exc).splitlines()[0]}. Ask for the rows instead.") from exc


def _keys(value: Any) -> Iterator[str]:
    """Every key of a specification but those of its data's rows."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            if key != "values":
                yield from _keys(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _keys(inner)
