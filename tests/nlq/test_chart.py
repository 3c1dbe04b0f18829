"""The chart suits the rows, holds its data, reads nothing else, and can be drawn."""

from __future__ import annotations

import json
import struct
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from contracts.errors import ContractError, UpstreamError
from nlq.chart import COLOURS, MOST_BARS, MOST_POINTS, choose, png
from nlq.types import OutputColumn, Rows, Translation

JAN = datetime(2026, 1, 1, tzinfo=UTC)
TIERS = ("PLATINUM", "BRONZE", "GOLD", "SILVER")


def month(i: int) -> datetime:
    return datetime(2025 + i // 12, i % 12 + 1, 1, tzinfo=UTC)


def chosen(columns: dict[str, str], data: list[tuple[Any, ...]], sql: str = "SELECT 1", **more: Any) -> dict[str, Any] | None:
    kinds = tuple(OutputColumn(name, kind) for name, kind in columns.items())  # type: ignore[arg-type]
    reading = Translation("How many of each?", False, sql=sql, interpretation="number of each", columns=kinds)
    return choose(reading, Rows(tuple(columns), tuple(data)), **more)


def spec_of(*args: Any, **more: Any) -> dict[str, Any]:
    spec = chosen(*args, **more)
    assert spec is not None
    json.dumps(spec, allow_nan=False)  # plain JSON, all of it
    assert spec["description"]
    assert spec["title"]["text"] == ["Number of each"]
    return spec


EXAMPLES: dict[str, tuple[dict[str, str], list[tuple[Any, ...]]]] = {
    "line": ({"month": "time", "revenue": "money"}, [(month(i), Decimal(i)) for i in range(12)]),
    "lines": ({"month": "time", "channel": "category", "n": "number"}, [(month(i), c, i) for i in range(12) for c in ("app", "web")]),
    "two quantities in time": ({"month": "time", "sent": "number", "opened": "number"}, [(month(i), 2 * i + 9, i) for i in range(12)]),
    "bars": ({"membership_tier": "category", "n": "number"}, [(t, i) for i, t in enumerate(TIERS)]),
    "lying bars": ({"name": "name", "n": "number"}, [(f"Free Organic Tea {i}", i) for i in range(9)]),
    "ring": ({"tier": "category", "share": "fraction"}, [("a", 0.5), ("b", 0.3), ("c", 0.2)]),
    "grouped": ({"tier": "category", "channel": "category", "n": "number"}, [(t, c, 1) for t in TIERS for c in ("app", "web")]),
    "grouped quantities": ({"name": "name", "sent": "number", "opened": "number"}, [(f"c{i}", 9, i) for i in range(5)]),
    "heat": ({"city": "category", "hour": "time", "n": "number"}, [(f"city {c}", h, c * h) for c in range(6) for h in range(6, 22)]),
    "points": ({"price": "money", "sold": "number"}, [(Decimal(i), i * i) for i in range(40)]),
    "compared": ({"this_month": "money", "last_month": "money"}, [(Decimal(5), Decimal(7))]),
    "odd names": ({"a b.c[0]": "category", "n'x": "number"}, [("x", 1), ("y", 2)]),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_form_can_be_drawn(name: str) -> None:
    """By Vega itself: a mistake in the specification raises or leaves the picture empty."""
    picture = png(spec_of(*EXAMPLES[name]), scale=1)
    assert picture.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", picture[16:24])
    assert width > 150
    assert height > 60
    assert len(picture) > 4_000  # an empty one has about 1,400


def test_form_follows_the_columns() -> None:
    def mark(name: str) -> Any:
        return spec_of(*EXAMPLES[name]).get("mark", {}).get("type")

    assert [mark(n) for n in ("line", "lines", "two quantities in time")] == ["line"] * 3
    assert [mark(n) for n in ("bars", "lying bars", "grouped", "grouped quantities", "compared", "odd names")] == ["bar"] * 6
    assert (mark("heat"), mark("points")) == ("rect", "point")
    assert spec_of(*EXAMPLES["ring"])["layer"][0]["mark"]["type"] == "arc"


@pytest.mark.parametrize(
    ("columns", "data"),
    [
        ({"n": "number"}, [(5,)]),
        ({"n": "number"}, [(5,), (6,)]),
        ({"customer_id": "id"}, [("c1",), ("c2",)]),
        ({"customer_id": "id", "n": "number"}, [(f"c{i}", i) for i in range(MOST_BARS + 1)]),
        ({"name": "name", "n": "number"}, []),
        ({"name": "name", "n": "number"}, [("a", 1)]),
        ({"name": "name", "n": "number"}, [("a", 1), ("a", 2)]),
        ({"a": "category", "b": "category", "c": "category", "n": "number"}, [("x", "y", "z", 1), ("x", "y", "w", 1)]),
        ({"tier": "category", "spend": "money", "n": "number", "rate": "fraction"}, []),
        ({"this": "money", "count": "number"}, [(Decimal(5), 7)]),
    ],
)
def test_no_chart_where_it_would_say_nothing(columns: dict[str, str], data: list[tuple[Any, ...]]) -> None:
    assert chosen(columns, data) is None


def test_columns_of_one_name_give_no_chart() -> None:
    reading = Translation("q", False, sql="SELECT 1")
    assert choose(reading, Rows(("n", "n"), (("a", 1), ("b", 2)))) is None
    assert choose(reading, Rows(("n", "n"), ((1, 2),))) is None


def test_values_have_their_own_order_where_they_have_one() -> None:
    tiers = spec_of(*EXAMPLES["bars"])
    assert tiers["encoding"]["x"]["sort"] == ["BRONZE", "SILVER", "GOLD", "PLATINUM"]
    ages = spec_of({"age_group": "category", "n": "number"}, [("65+", 9), ("18-24", 3), ("25-34", 5)])
    assert ages["encoding"]["x"]["sort"] == ["18-24", "25-34", "65+"]
    days = spec_of({"weekday": "time", "n": "number"}, [("Sunday", 9), ("Monday", 3)])
    assert days["encoding"]["x"]["sort"] == ["Monday", "Sunday"]
    hours = spec_of({"hour": "time", "n": "number"}, [(h, h) for h in (9, 7, 8)])
    assert hours["encoding"]["x"]["sort"] == ["7", "8", "9"]


def test_other_bars_are_sorted_by_size_and_lie_where_names_are_long() -> None:
    lying = spec_of(*EXAMPLES["lying bars"])
    assert lying["encoding"]["y"]["sort"][0] == "Free Organic Tea 8"
    up = "SELECT channel, count(*) AS n FROM transactions GROUP BY 1 ORDER BY n LIMIT 3"
    rising = spec_of({"channel": "category", "n": "number"}, [("a", 1), ("b", 2), ("c", 3)], up)
    assert rising["encoding"]["x"]["sort"] == ["a", "b", "c"]


def test_many_bars_are_cut_to_the_largest_and_say_so() -> None:
    spec = spec_of({"brand": "category", "n": "number"}, [(f"brand {i}", i) for i in range(100)])
    assert len(spec["data"]["values"]) == MOST_BARS
    assert {p["brand"] for p in spec["data"]["values"]} == {f"brand {i}" for i in range(70, 100)}
    assert spec["title"]["subtitle"] == "30 of 100."


def test_points_are_capped() -> None:
    line = spec_of({"day": "time", "n": "number"}, [(JAN + timedelta(days=i), i) for i in range(900)])
    assert len(line["data"]["values"]) == MOST_POINTS
    assert line["data"]["values"][-1]["value"] == 899
    cloud = spec_of({"price": "money", "sold": "number"}, [(Decimal(i), i) for i in range(1100)])
    assert 300 < len(cloud["data"]["values"]) <= MOST_POINTS
    assert "of 1,100 rows" in cloud["title"]["subtitle"]


def test_many_lines_are_cut_to_the_largest() -> None:
    spec = spec_of({"month": "time", "city": "category", "n": "number"}, [(month(i), f"c{c}", c) for i in range(3) for c in range(1, 12)])
    names = spec["encoding"]["color"]["scale"]["domain"]
    assert sorted(names, key=lambda n: int(n[1:])) == [f"c{i}" for i in range(5, 12)]
    assert spec["title"]["subtitle"] == "The 7 largest of 11."
    assert len(set(spec["encoding"]["color"]["scale"]["range"])) == 7
    assert spec["encoding"]["strokeDash"]["scale"]["domain"] == names  # colour is not the only difference


def test_times_are_utc_and_formats_follow_kind_and_grain() -> None:
    spec = spec_of(*EXAMPLES["line"], currency="USD")
    assert spec["data"]["values"][0] == {"when": "2025-01-01T00:00:00Z", "series": "revenue", "value": 0.0}
    assert spec["encoding"]["x"]["scale"] == {"type": "utc"}
    assert spec["encoding"]["x"]["axis"]["format"] == "%b %Y"
    assert spec["encoding"]["y"]["title"] == "Revenue (USD)"
    assert spec_of(*EXAMPLES["line"])["encoding"]["y"]["title"] == "Revenue"
    rates = spec_of({"channel": "category", "open_rate": "fraction"}, [("email", 0.31), ("push", 0.02)])
    assert rates["encoding"]["y"]["axis"]["format"] == ".0%"
    small = spec_of({"channel": "category", "open_rate": "fraction"}, [("email", 0.031), ("push", 0.002)])
    assert small["encoding"]["y"]["axis"]["format"] == ".1%"
    assert spec_of(*EXAMPLES["bars"])["encoding"]["y"]["axis"]["tickMinStep"] == 1


def test_a_ring_only_for_the_parts_of_one_whole() -> None:
    half = spec_of({"tier": "category", "rate": "fraction"}, [("a", 0.5), ("b", 0.3), ("c", 0.4)])
    assert half["mark"]["type"] == "bar"
    five = spec_of({"tier": "category", "share": "fraction"}, [(t, 0.2) for t in "abcde"])
    assert five["mark"]["type"] == "bar"


def test_quantities_of_unlike_size_or_kind_do_not_share_an_axis() -> None:
    far = spec_of({"month": "time", "sent": "number", "n": "number"}, [(month(i), 10_000 + i, i) for i in range(5)])
    assert {p["series"] for p in far["data"]["values"]} == {"sent"}
    unlike = spec_of({"name": "name", "spend": "money", "n": "number"}, [(f"c{i}", Decimal(i), i) for i in range(5)])
    assert unlike["data"]["values"][0].keys() == {"name", "spend"}


def test_missing_values_are_left_out_of_lines_and_named_in_bars() -> None:
    line = spec_of({"month": "time", "n": "number"}, [(month(0), 1), (month(1), None), (month(2), 3)])
    assert len(line["data"]["values"]) == 2
    bars = spec_of({"store": "category", "n": "number"}, [(None, 1), ("a", 2)])
    assert {p["store"] for p in bars["data"]["values"]} == {"(not known)", "a"}


def test_the_colours_are_those_that_everybody_tells_apart() -> None:
    assert len(set(COLOURS)) == 7
    assert spec_of(*EXAMPLES["bars"])["mark"]["color"] == COLOURS[0]


def test_long_titles_are_broken() -> None:
    spec = choose(Translation("word " * 80, False, sql="SELECT 1"), Rows(("channel", "n"), (("a", 1), ("b", 2))))
    assert spec is not None
    assert len(spec["title"]["text"]) == 3
    assert spec["title"]["text"][-1].endswith("...")


@pytest.mark.parametrize("data", [{"url": "file:///etc/passwd"}, {"url": "https://example.com/x.json"}])
def test_nothing_is_read_from_elsewhere(data: dict[str, str]) -> None:
    spec = {**spec_of(*EXAMPLES["bars"]), "data": data}
    with pytest.raises(ContractError, match="must carry its data inside"):
        png(spec)


def test_a_column_called_url_is_data() -> None:
    assert png(spec_of({"url": "category", "n": "number"}, [("a", 1), ("b", 2)]), scale=1)


def test_what_cannot_be_drawn_is_an_error_of_ours() -> None:
    with pytest.raises(UpstreamError, match="cannot be drawn"):
        png(
            {
                "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
                "mark": "bar",
                "data": {"values": []},
                "encoding": {"x": 5},
                "layer": 3,
            }
        )
    with pytest.raises(ContractError, match="scale is 99"):
        png(spec_of(*EXAMPLES["bars"]), scale=99)
