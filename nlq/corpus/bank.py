"""Written phrases: lines of `question <tab> program`, where one line stands for many questions.

In a question, `(how many|number of|)` is a choice, which may be nested, and `{city}` a value drawn from the data or made up:

    {city} {state} {store} {category} {brand} {product} {reward} {campaign} {segment} {customer} (a name) {customer_id} {reward_id} {product_id}
    {campaign_id} {segment_id} {ticket_id} {transaction_id} {age}      values of the data
    {product_word} {reward_word} {campaign_word}     a word that names of these share ("vegan"): like products.name V0
    {n} {n:1-20} {money} {money:50-500} {pct} {pct:50-90} {points} {days}     numbers
    {past} any stretch of the past ("last 30 days", "in March", "this year", "since June")   {roll} a rolling one ("last 30 days")
    {gap} for how long something did not happen ("in 60 days", "for three months")   {cal} {cal2} two calendar periods that can be compared
    {next} a stretch ahead ("next 30 days")   {since} a starting point ("since March")   {ago} "more than a year ago"

The program names what the question mentions as N0, N1, V0, V1, T0, T1: numbers, values and times, each counted from left to right.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contracts.errors import ContractError
from nlq.link import shared_words
from nlq.program import parse

FOLDER = Path(__file__).parent / "phrases"
Values = Mapping[str, Sequence[str]]
"""Column token -> values that a question may mention."""
_COLUMNS = {
    "city": "customers.location", "store": "transactions.store", "category": "products.category", "brand": "products.brand",
    "product": "products.name", "reward": "rewards.name", "campaign": "campaigns.name", "segment": "segments.name",
    "customer": "customers.name", "customer_id": "customers.customer_id", "reward_id": "rewards.reward_id", "product_id": "products.product_id",
    "campaign_id": "campaigns.campaign_id", "segment_id": "segments.segment_id", "ticket_id": "tickets.ticket_id",
    "transaction_id": "transactions.transaction_id", "age": "customers.age_group",
}  # fmt: skip
_MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]
_SHORT = {"February": "Feb", "August": "Aug", "September": "Sept", "October": "Oct", "November": "Nov"}
_ROLLS = (1, 2, 3, 6, 7, 10, 12, 14, 18, 21, 24, 30, 45, 60, 90, 100, 120, 180, 365)
_WORDS = {2: "two", 3: "three", 6: "six", 12: "twelve", 30: "thirty", 60: "sixty", 90: "ninety"}


@dataclass(frozen=True)
class Line:
    """A line of the bank; `where` says file and number, for messages."""

    question: str
    program: str
    where: str


def read(folder: Path = FOLDER) -> list[Line]:
    """Every line of every `*.tsv`; `#` starts a remark.

    Raises:
        ContractError: a line has no tab, or its program is not one.
    """
    lines = []
    for path in sorted(folder.glob("*.tsv")):
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not text.strip() or text.startswith("#"):
                continue
            where = f"{path.name}:{number}"
            question, tab, program = text.partition("\t")
            if not tab:
                raise ContractError(f"{where} has no tab, must be question, tab, program. Correct the line")
            try:
                parse(program.strip())
            except (ContractError, IndexError) as exc:
                raise ContractError(f"{where}: {exc}") from exc
            lines.append(Line(question.strip(), program.strip(), where))
    return lines


def held_out(line: Line) -> bool:
    """Whether a line is kept for measuring: one in twelve, by its program, so that no wording of that program is trained on.

    A refusal is kept back by its question.
    """
    text = line.question if line.program.startswith("refuse") else line.program
    return hashlib.sha256(text.encode()).digest()[0] % 12 == 0


def fitted_on(line: Line) -> bool:
    """Of the lines that are kept back, the half that the confidence is fitted on; the other half only measures."""
    text = line.question if line.program.startswith("refuse") else line.program
    return hashlib.sha256(text.encode()).digest()[1] % 2 == 0


def expand(line: Line, values: Values, rng: np.random.Generator) -> str:
    """One question of a line, choices and values drawn.

    Raises:
        ContractError: an unknown placeholder.
    """
    text = choose(line.question, rng)
    taken: set[str] = set()

    def filled(m: re.Match[str]) -> str:
        for _ in range(12):  # "both tea and tea" asks nothing
            found = fill(m[1], m[2], m[3], values, rng, line.where)
            value = found.lower().split(",")[0] if m[1] == "city" else found.lower()
            if m[1] not in _COLUMNS or value not in taken:
                break
        taken.add(value)
        return found

    text = re.sub(r"\{(\w+)(?::([\d.]+)-([\d.]+))?\}", filled, text)
    return re.sub(r"\s+", " ", re.sub(r"\s+([?,.!])", r"\1", text)).strip()


def choose(text: str, rng: np.random.Generator) -> str:
    """Draws from innermost choices outwards."""
    inner = re.compile(r"\(([^()]*\|[^()]*)\)")
    while m := inner.search(text):
        options = m[1].split("|")
        text = text[: m.start()] + str(options[rng.integers(len(options))]) + text[m.end() :]
    return text


def fill(name: str, low: str | None, high: str | None, values: Values, rng: np.random.Generator, where: str = "") -> str:
    """Words for one placeholder."""
    if name.endswith("_word"):
        shared = name_words(tuple(values[{"product": "products.name", "reward": "rewards.name", "campaign": "campaigns.name"}[name[:-5]]]))
        return shared[rng.integers(len(shared))]
    if name in _COLUMNS:
        found = values[_COLUMNS[name]]
        value = str(found[int(rng.integers(len(found)))])
        if name == "city" and rng.random() < 0.8:
            value = value.split(",")[0]
        return value.lower() if rng.random() < 0.25 else value
    if name in ("n", "money", "points", "days", "pct"):
        return _number(name, low, high, rng)
    made = _TIMES.get(name)
    if made is None:
        raise ContractError(f"{where}: unknown placeholder {{{name}}}. See the list in nlq/corpus/bank.py")
    return made(rng)


@functools.cache
def name_words(names: tuple[str, ...]) -> tuple[str, ...]:
    """Words and pairs of words that several names share ("vegan", "come back"), which a question may search for."""
    return tuple(sorted(shared_words(names)))


def _number(name: str, low: str | None, high: str | None, rng: np.random.Generator) -> str:
    ranges = {"n": (2, 25), "money": (10, 2000), "points": (100, 20000), "days": (7, 120), "pct": (5, 95)}
    a, b = (float(low), float(high)) if low and high else ranges[name]
    value = float(np.exp(rng.uniform(np.log(max(a, 1)), np.log(max(b, 1.01)))))
    if name in ("money", "points") and value > 40:
        value = round(value, -1 if value < 400 else -2)
    whole = max(round(value), int(a))
    if name == "pct":
        return f"{whole}{rng.choice(['%', ' percent', '%', ' %'])}"
    if name == "money":
        shown = f"{whole:,}" if rng.random() < 0.4 else str(whole)
        if whole >= 1000 and whole % 1000 == 0 and rng.random() < 0.5:
            shown = f"{whole // 1000}k"
        return [f"${shown}", shown, f"{shown} dollars", shown][rng.integers(4)]
    if name == "n" and whole <= 12 and whole >= 2 and rng.random() < 0.25:
        return ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"][whole - 2]
    return f"{whole:,}" if whole >= 1000 and rng.random() < 0.5 else str(whole)


def _units(rng: np.random.Generator, *units: str) -> str:
    unit = str(rng.choice(units or ("days", "days", "days", "weeks", "months")))
    n = int(rng.choice({"days": _ROLLS[4:], "weeks": (2, 3, 4, 6, 8, 12), "months": (2, 3, 4, 6, 9, 12), "years": (2, 3)}[unit]))
    return f"{_WORDS[n] if n in _WORDS and rng.random() < 0.25 else n} {unit}"


def _pick(*options: str | Callable[[np.random.Generator], str]) -> Callable[[np.random.Generator], str]:
    def draw(rng: np.random.Generator) -> str:
        chosen = options[rng.integers(len(options))]
        return chosen if isinstance(chosen, str) else chosen(rng)

    return draw


def _month(rng: np.random.Generator) -> str:
    name = _MONTHS[rng.integers(12)]
    shown = _SHORT.get(name, name) if rng.random() < 0.3 else name
    year = int(rng.integers(2024, 2027))
    plain = shown if rng.random() < 0.5 and name not in ("May", "March") else f"{shown} {year}"
    return plain.lower() if rng.random() < 0.3 else plain


def _day(rng: np.random.Generator) -> str:
    month, day, year = _MONTHS[rng.integers(12)], int(rng.integers(1, 29)), int(rng.integers(2025, 2027))
    options = (
        f"{month} {day}, {year}",
        f"{day} {month} {year}",
        f"{year}-{_MONTHS.index(month) + 1:02d}-{day:02d}",
        f"{month} {day}",
        f"{day} {month}",
    )
    return options[rng.integers(len(options))]


def _quarter(rng: np.random.Generator) -> str:
    name = f"{rng.choice(['Q', 'q'])}{rng.integers(1, 5)}"
    return name if rng.random() < 0.5 else f"{name} {rng.integers(2025, 2027)}"


def _roll(rng: np.random.Generator) -> str:
    lead = str(rng.choice(["in the last", "over the last", "in the past", "last", "past", "during the last", "for the last", "within the past", "in the previous",
                           "over the trailing", "in last"]))  # fmt: skip
    if rng.random() < 0.12:
        return f"{rng.choice(['in', 'over'])} the past {rng.choice(['week', 'month', 'year'])}"
    return f"{lead} {_units(rng)}"


_calendar = _pick(
    "last month", "this month", "last week", "this week", "this year", "last year", "last quarter", "this quarter", "yesterday", "today",
    "this year so far", "year to date", "ytd", "so far this month", "in the current month", "in the previous month", "this month so far",
    "during the last quarter", "in the current year", "over the last year", "the previous week", "month to date",
)  # fmt: skip


def _named(rng: np.random.Generator) -> str:
    lead = str(rng.choice(["in", "during", "in", "for"]))
    made = (_month, _month, _quarter, lambda r: str(r.integers(2024, 2027)))[rng.integers(4)](rng)
    return f"{lead} {made}"


def _between(rng: np.random.Generator) -> str:
    if rng.random() < 0.5:
        a = int(rng.integers(0, 8))
        year = int(rng.integers(2025, 2027))
        b = int(rng.integers(a + 1, 10))
        tail = f" {year}" if rng.random() < 0.7 else ""
        return (
            f"{rng.choice(['between', 'from'])} {_MONTHS[a]} {{}} {_MONTHS[b]}{tail}".replace("{}", "and")
            if rng.random() < 0.5
            else f"from {_MONTHS[a]} to {_MONTHS[b]}{tail}"
        )
    return f"between 2026-0{rng.integers(1, 4)}-{rng.integers(1, 28):02d} and 2026-0{rng.integers(5, 10)}-{rng.integers(1, 28):02d}"


_since = _pick(lambda r: f"since {_month(r)}", lambda r: f"since {_day(r)}", lambda r: f"after {_day(r)}", lambda r: f"since {r.integers(2024, 2027)}",
               "since the start of the year", "since the beginning of this month", lambda r: f"from {_month(r)} onwards", "since last month", "since yesterday",
               lambda r: f"since {_quarter(r)}")  # fmt: skip
_before = _pick(
    lambda r: f"before {_month(r)}",
    lambda r: f"before {r.integers(2024, 2027)}",
    lambda r: f"until {_month(r)}",
    lambda r: f"before {_day(r)}",
)
_past = _pick(
    _roll, _roll, _roll, _calendar, _calendar, _calendar, _named, _named, _since, _between, lambda r: f"on {_day(r)}", _before,
    lambda r: f"{r.integers(2, 7)} {r.choice(['days', 'weeks', 'months'])} ago",
)  # fmt: skip
_gap = _pick(
    lambda r: f"in {_units(r)}", lambda r: f"for {_units(r)}", lambda r: f"in the last {_units(r)}", lambda r: f"for more than {_units(r)}",
    lambda r: f"for at least {_units(r)}", lambda r: f"in over {_units(r)}" if False else f"in the past {_units(r)}", _since, lambda r: f"for over {_units(r)}",
    "this month", "this year", "since last month", "in a month", "this quarter",
)  # fmt: skip
_next = _pick(
    lambda r: f"in the next {_units(r)}", lambda r: f"within the next {_units(r)}", "next month", "next week", "this month", "this week",
    lambda r: f"over the coming {_units(r)}", "in the coming month", lambda r: f"in {_units(r)}", lambda r: f"within {_units(r)}",
)  # fmt: skip
_ago = _pick(
    lambda r: f"more than {_units(r, 'days', 'months', 'years')} ago",
    "more than a year ago",
    "over a year ago",
    lambda r: f"over {_units(r, 'months', 'years')} ago",
    _before,
)
_PAIRS = (
    ("this month", "last month"), ("last month", "this month"), ("this week", "last week"), ("this year", "last year"), ("this quarter", "last quarter"),
    ("last month", "the month before last"), ("{m1} 2026", "{m2} 2026"), ("{m1} 2026", "{m1} 2025"), ("{m1}", "{m2}"), ("2026", "2025"), ("2025", "2026"),
    ("Q1 2026", "Q2 2026"), ("Q3", "Q2"), ("yesterday", "today"), ("today", "yesterday"), ("the last 30 days", "the 30 days before that"),
    ("the last 7 days", "the 7 days before that"), ("the last 90 days", "the previous 90 days"), ("this month", "the same month last year"),
)  # fmt: skip


class _Pair:
    """{cal} and {cal2} of one question belong together."""

    second = ""

    def first(self, rng: np.random.Generator) -> str:
        a, b = _PAIRS[rng.integers(len(_PAIRS))]
        m1, m2 = (_MONTHS[i] for i in rng.choice(9, 2, replace=False))
        filled = [t.replace("{m1}", m1).replace("{m2}", m2) for t in (a, b)]
        if "May" in filled or "March" in filled:
            filled = ["June", "July"]
        self.second = filled[1]
        return filled[0]


_pair = _Pair()
_TIMES: dict[str, Callable[[np.random.Generator], str]] = {
    "past": _past, "roll": _roll, "gap": _gap, "next": _next, "since": _since, "ago": _ago, "cal": _pair.first, "cal2": lambda r: _pair.second,
}  # fmt: skip


def samples(lines: Sequence[Line], values: Values, rng: np.random.Generator, count: int) -> Iterator[tuple[str, Line]]:
    """`count` questions, each line about equally often."""
    for i in range(count):
        line = lines[i % len(lines)]
        yield expand(line, values, rng), line
