"""What a question mentions: times, numbers, and values of the data, each replaced by a slot that a program can name.

    "top 5 customers in Austin last month"  ->  "top [N0] customers in [V0] [customers.location] [T0]"

The model reads the linked text, so that a city it never saw is as good as one it saw often.
"""

from __future__ import annotations

import difflib
import itertools
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from nlq.program import Slots
from nlq.reword import plainer
from nlq.spelling import Speller
from nlq.times import Window, find, relative
from nlq.vocabulary import NUMBER_SLOTS, TIME_SLOTS, VALUE_SLOTS, fields

MAX_VALUES = 50_000
"""Distinct values of a column beyond which it is not indexed (a business's customers are then found by id)."""
_ID_COLUMNS = {
    "cust": "customers.customer_id", "rew": "rewards.reward_id", "prod": "products.product_id", "camp": "campaigns.campaign_id",
    "seg": "segments.segment_id", "tx": "transactions.transaction_id", "tick": "tickets.ticket_id",
}  # fmt: skip
_ID_WORDS = {
    "customer": "customers.customer_id", "member": "customers.customer_id", "reward": "rewards.reward_id", "product": "products.product_id",
    "campaign": "campaigns.campaign_id", "segment": "segments.segment_id", "transaction": "transactions.transaction_id",
    "ticket": "tickets.ticket_id",
}  # fmt: skip
_WORD_NUMBERS = {
    w: float(n)
    for n, words in (
        (2, "two twice"), (3, "three thrice"), (4, "four"), (5, "five"), (6, "six"), (7, "seven"), (8, "eight"), (9, "nine"), (10, "ten"),
        (11, "eleven"), (12, "twelve dozen"), (15, "fifteen"), (20, "twenty"), (25, "twenty-five"), (30, "thirty"), (40, "forty"), (50, "fifty"),
        (60, "sixty"), (90, "ninety"), (100, "hundred"), (1000, "thousand"),
    )
    for w in words.split()
}  # fmt: skip
_STATES = {
    "AL": "alabama", "AZ": "arizona", "CA": "california", "CO": "colorado", "CT": "connecticut", "FL": "florida", "GA": "georgia", "IL": "illinois",
    "IN": "indiana", "MA": "massachusetts", "MD": "maryland", "MI": "michigan", "MN": "minnesota", "MO": "missouri", "NC": "north carolina",
    "NJ": "new jersey", "NV": "nevada", "OH": "ohio", "OR": "oregon", "PA": "pennsylvania", "TN": "tennessee", "TX": "texas", "UT": "utah",
    "VA": "virginia", "WA": "washington", "WI": "wisconsin",
}  # fmt: skip
_NICKNAMES = {
    "la": "los angeles",
    "nyc": "new york",
    "new york city": "new york",
    "sf": "san francisco",
    "san fran": "san francisco",
    "philly": "philadelphia",
}
_PLAIN = frozenset(
    [
        "house",
        "a",
        "an",
        "the",
        "all",
        "any",
        "new",
        "other",
        "none",
        "product",
        "products",
        "reward",
        "rewards",
        "customer",
        "customers",
        "store",
        "stores",
        "app",
        "web",
        "email",
        "push",
        "sms",
        "card",
        "set",
        "more",
        "most",
        "best",
        "top",
        "gold",
        "silver",
        "bronze",
        "platinum",
        "online",
        "regular",
        "regulars",
    ]
)
_NUMBER = re.compile(
    r"(?<![\w.\-])[$€£]?\s?(?P<n>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)\s?(?P<k>k|m|mn|million|thousand|grand)?(?P<p>\s?(?:%|percent\b|per cent\b|pct\b))?(?![\w])",
    re.I,
)
_AGES = (
    (re.compile(r"\b(\d{2})\s?(?:-|–|to|and)\s?(\d{2})(?:[- ]?years?[- ]olds?| year[- ]olds?)?(?=\W|$)"), "range"),
    (re.compile(r"\b(?:over|above|older than|at least)\s(?:the age of\s|age\s)?(\d{2})s?\b(?!\d| ?(?:%|percent|days|points|purchases|euro|dollar|(?!years? (?:old|of age))[a-z]+s\b))|\b(\d{2})\s?\+"), "over"),
)  # fmt: skip

_AGED = r"\baged?\b(?! group| band| bracket| range)|\bold\b|years"


_MARK = re.compile(r"\[([A-Za-z0-9_.]+)\]")
"""What a slot looks like; whoever types one means none."""
MAX_NUMBER = 1e15


def normalize(text: str) -> str:
    """Lower case, no accents, words of letters and digits parted by one space."""
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(c for c in plain if not unicodedata.combining(c)).lower().replace("&", " and ")
    return " ".join(re.findall(r"[a-z0-9]+", plain))


def _lower(text: str) -> str:
    """Lower case, each character in its place."""
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


@dataclass(frozen=True)
class Number:
    value: float
    percent: bool = False


@dataclass(frozen=True)
class Value:
    """A value found in the data: by column, what is stored there (several when the words fit several, as a state does cities).

    Attributes:
        columns: column token -> stored values.
        text: as asked.
        like: it is a text to search for, not a whole value.
    """

    columns: Mapping[str, tuple[str, ...]]
    text: str
    like: bool = False


@dataclass(frozen=True)
class Linked:
    """A question with its slots."""

    question: str
    text: str
    numbers: tuple[Number, ...] = ()
    values: tuple[Value, ...] = ()
    times: tuple[Window, ...] = ()

    def slots(self) -> Slots:
        durations = frozenset(i for i, t in enumerate(self.times) if t.days is not None)
        return Slots(len(self.numbers), tuple(frozenset(v.columns) for v in self.values), len(self.times), durations)


@dataclass
class Catalog:
    """The values of a business's data that a question may mention, by normalised phrase.

    Attributes:
        phrases: phrase -> column token -> stored values.
        as_of: what time words are relative to.
        several_scores: customers may have been scored more than once, so the newest score counts.
    """

    as_of: datetime
    phrases: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    several_scores: bool = False
    longest: int = 1
    fuzzy: tuple[str, ...] = ()
    shared: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def build(cls, values: Mapping[str, Iterable[str]], as_of: datetime, several_scores: bool = False) -> Catalog:
        """From distinct values by column token."""
        phrases: dict[str, dict[str, list[str]]] = {}

        def add(phrase: str, column: str, value: str) -> None:
            if len(phrase) >= 3 and not phrase.isdigit():
                stored = phrases.setdefault(phrase, {}).setdefault(column, [])
                if value not in stored:
                    stored.append(value)

        fuzzy: list[str] = []
        for column, found in values.items():
            listed = sorted({v for v in found if v})
            if len(listed) > MAX_VALUES or column.endswith("_id"):
                continue
            for value in listed:
                phrase = normalize(value)
                add(phrase, column, value)
                words = phrase.split()
                if words and column != "customers.name":
                    add(" ".join([*words[:-1], _singular(words[-1])]), column, value)
                    add(" ".join([*words[:-1], words[-1] + "s"]), column, value)
                if column == "customers.location" and "," in value:
                    city, region = (part.strip() for part in value.rsplit(",", 1))
                    add(normalize(city), column, value)
                    add(_STATES.get(region, normalize(region)), column, value)
                    if len(region) == 2 and region.isupper():
                        stored = phrases.setdefault(f"{region.lower()} state", {}).setdefault(column, [])
                        stored.append(value)
                if len(listed) <= 200 and len(phrase) >= 5:
                    fuzzy.append(normalize(value.split(",")[0]))
        for store in values.get("transactions.store", ()):  # "the Austin stores" are those whose name begins with a city
            words = normalize(store).split()
            for n in (1, 2, 3):
                homes = phrases.get(" ".join(words[:n]), {}).get("customers.location", ()) if n < len(words) else ()
                for phrase in (" ".join(words[:n]), *map(normalize, homes)) if homes else ():
                    add(phrase, "transactions.store", store)
        for nick, name in _NICKNAMES.items():
            if name in phrases:
                phrases[nick] = phrases[name]
        longest = max((len(p.split()) for p in phrases), default=1)
        made = {p: {c: tuple(v) for c, v in by.items()} for p, by in phrases.items()}
        shared = {c: frozenset(shared_words(values.get(c, ())) - set(made)) for c in sorted(set(_SEARCHED.values()))}
        return cls(as_of, made, several_scores, min(longest, 10), tuple(dict.fromkeys(fuzzy)), shared)

    @classmethod
    def read(cls, connection: Any, business_id: str, as_of: datetime) -> Catalog:
        """From a DuckDB connection with the warehouse's tables."""
        values: dict[str, list[str]] = {}
        for token, f in fields().items():
            if not f.open or f.type == "id":
                continue
            query = f'SELECT DISTINCT "{f.name}" FROM "{f.table}" WHERE business_id = $b AND "{f.name}" IS NOT NULL LIMIT {MAX_VALUES + 1}'  # noqa: S608 - names of our own schema
            values[token] = [r[0] for r in connection.execute(query, {"b": business_id}).fetchall()]
        count = connection.execute(
            "SELECT count(*) > count(DISTINCT customer_id) FROM customer_risk_scores WHERE business_id = $b", {"b": business_id}
        ).fetchall()
        return cls.build(values, as_of, bool(count[0][0]))


_SEARCHED = {"product": "products.name", "item": "products.name", "reward": "rewards.name", "offer": "rewards.name", "deal": "rewards.name", "perk": "rewards.name",
             "campaign": "campaigns.name"}  # fmt: skip
_NOT_SEARCHED = _PLAIN | frozenset(
    [
        "off",
        "on",
        "of",
        "and",
        "or",
        "with",
        "in",
        "to",
        "free",
        "item",
        "items",
        "buy",
        "one",
        "get",
        "week",
        "back",
        "cash",
        "points",
        "point",
        "bonus",
        "bogo",
        "discount",
        "cashback",
        "experience",
        "upgrade",
        "informational",
        "day",
        "double",
        "triple",
        "email",
        "push",
        "sms",
        "app",
        "web",
        "store",
        "first",
        "last",
        "best",
        "worst",
        "many",
        "which",
        "what",
        "how",
        "show",
        "list",
        "our",
        "their",
        "these",
        "those",
        "active",
        "expired",
        "running",
        "current",
        "live",
        "valid",
        "available",
        "cheap",
        "cheapest",
        "expensive",
        "popular",
        "redeemed",
        "sold",
        "viewed",
        "small",
        "large",
        "medium",
        "big",
        "bigger",
        "least",
        "fewest",
        "each",
        "every",
        "per",
        "by",
        "for",
        "from",
        "few",
        "several",
        "some",
        "certain",
        "different",
        "distinct",
        "number",
        "coffee",
        "tea",
        "bakery",
        "breakfast",
        "salads",
        "smoothies",
        "sandwiches",
        "snacks",
        "desserts",
        "pantry",
        "spend",
        "single",
        "extra",
        "more",
    ]
)


_LONE_WORD = re.compile(r"\b[A-Za-z]{4,}\b(?! (?:products?|items?|rewards?|offers?|deals?|perks?|campaigns?)\b)")
_MENTION = re.compile(
    r"\b(?:mention(?:s|ed|ing)?|talk(?:s|ed|ing)? about|with the (?:word|text|phrase|term)|contain(?:s|ed|ing)?|say(?:s|ing)?|(?:the|a) (?:word|term|phrase))\s+"
    r"(?:(?:the|a) (?:word|term|phrase|text) )?(?:of |an? |the |their |our |being )?(?P<word>[A-Za-z][A-Za-z-]{2,})\b(?! (?:items?|products?|than|purchases?|orders?)\b)",
    re.I,
)
_NO_MENTION = frozenset(
    """
    the any some more less than least most both all each every only same what which who how that this these those one two
    three four five six seven eight nine ten word words text phrase term terms item items product products multiple several
    different discount discounts offer offers reward rewards ticket tickets churn points customers members campaign
    campaigns about and for with from neither either nor not only just also even many few another other others nothing
    something anything everything single exactly over under above below them
    """.split()  # noqa: SIM905 - a list of words
)


def shared_words(names: Iterable[str]) -> set[str]:
    """Words, and pairs of words, that at least two names have in common and that are no plain words of questions."""
    counts: dict[str, int] = {}
    for name in names:
        words = normalize(name).split()
        singles = {w for w in words if len(w) > 2 and w.isalpha() and w not in _NOT_SEARCHED}
        both = {
            f"{a} {b}"
            for a, b in itertools.pairwise(words)
            if a.isalpha() and b.isalpha() and len(a) > 2 and len(b) > 2 and "week" not in (a, b)
        }
        for w in singles | both:
            counts[w] = counts.get(w, 0) + 1
    return {w for w, n in counts.items() if n >= 2}


def _singular(word: str) -> str:
    for ending, instead in (("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("sses", "ss"), ("s", "")):
        if word.endswith(ending) and len(word) > len(ending) + 2 and not word.endswith("ss"):
            return word[: -len(ending)] + instead
    return word


@dataclass
class _Found:
    start: int
    end: int
    slot: str
    hint: str = ""


class Linker:
    """Links questions over one catalog. `known` words are never taken for misspelt values; `speller` puts plain words right first."""

    def __init__(self, catalog: Catalog, known: frozenset[str] = frozenset(), speller: Speller | None = None) -> None:
        self.catalog, self.known, self._speller = catalog, known, speller
        self._value_words = frozenset(w for phrase in catalog.phrases for w in phrase.split()) if speller else frozenset()
        self._ages = sorted({v for by in catalog.phrases.values() for v in by.get("customers.age_group", ())})

    def link(self, question: str) -> Linked:
        text = plainer(_MARK.sub(r"(\1)", question.strip()))
        if self._speller is not None:
            text = self._speller.correct(text, self._value_words, self.catalog.fuzzy)
        text = self._product_words(text)
        found: list[_Found] = []
        values: list[Value] = []
        numbers: list[Number] = []
        times: list[Window] = []

        def free(start: int, end: int) -> bool:
            return all(end <= f.start or f.end <= start for f in found)

        def value(start: int, end: int, v: Value) -> None:
            if free(start, end) and len(values) < VALUE_SLOTS:
                values.append(v)
                hint = " [like]" if v.like else "".join(f" [{c}]" for c in sorted(v.columns)[:4])
                found.append(_Found(start, end, f"[V{len(values) - 1}]", hint))

        self._ids(text, value)
        self._quoted(text, value)
        self._states(text, value)
        self._known_values(text, value, free)
        self._ages_in(text, value)
        self._searched(text, value, free)
        self._mentioned(text, value, free)
        masked = list(_lower(text))
        for f in found:  # "Sol y Mar last year" holds no month
            masked[f.start : f.end] = "#" * (f.end - f.start)
        for start, end, window in find("".join(masked), self.catalog.as_of):
            if free(start, end) and len(times) < TIME_SLOTS:
                if times:
                    window = relative(window, times[-1])
                times.append(window)
                ahead = f" {text[start:end].lower()}" if re.search(r"next|coming|upcoming|following|day", window.label, re.I) else ""
                found.append(_Found(start, end, f"[T{len(times) - 1}]", ahead))
        self._fuzzy(text, value, free)
        for m in re.finditer(r"\b(\d{1,2})\s?([ap])\.?m\b\.?", text, re.I):
            if free(m.start(), m.end()) and len(numbers) < NUMBER_SLOTS and 1 <= int(m[1]) <= 12:
                numbers.append(Number(float(int(m[1]) % 12 + (12 if m[2].lower() == "p" else 0))))
                found.append(_Found(m.start(), m.end(), f"[N{len(numbers) - 1}]", f" {m[2].lower()}m"))
        for m in _NUMBER.finditer(text):
            if free(m.start(), m.end()) and len(numbers) < NUMBER_SLOTS:
                scale = {"k": 1e3, "thousand": 1e3, "grand": 1e3}.get((m["k"] or "").lower(), 1e6 if m["k"] else 1.0)
                number = float(m["n"].replace(",", "")) * scale
                if number > MAX_NUMBER:
                    continue
                numbers.append(Number(number, bool(m["p"])))
                found.append(_Found(m.start(), m.end(), f"[N{len(numbers) - 1}]", " percent" if m["p"] else ""))
        for m in re.finditer(r"[a-z-]+", _lower(text)):
            if m[0] in _WORD_NUMBERS and free(m.start(), m.end()) and len(numbers) < NUMBER_SLOTS:
                numbers.append(Number(_WORD_NUMBERS[m[0]]))
                found.append(_Found(m.start(), m.end(), f"[N{len(numbers) - 1}]", " times" if m[0] in ("twice", "thrice") else ""))
        return self._in_order(question, text, found, numbers, values, times)

    @staticmethod
    def _in_order(question: str, text: str, found: list[_Found], numbers: list[Number], values: list[Value], times: list[Window]) -> Linked:
        """Slots of a kind are numbered from left to right, whatever order they were found in."""
        found.sort(key=lambda f: f.start)
        order: dict[str, list[int]] = {"N": [], "V": [], "T": []}
        out, at = [], 0
        for f in found:
            kind, index = f.slot[1], int(f.slot[2:-1])
            out += [text[at : f.start], f" [{kind}{len(order[kind])}]{f.hint} "]
            order[kind].append(index)
            at = f.end
        linked = re.sub(r"\s+", " ", "".join([*out, text[at:]])).strip()
        return Linked(
            question,
            linked,
            tuple(numbers[i] for i in order["N"]),
            tuple(values[i] for i in order["V"]),
            tuple(times[i] for i in order["T"]),
        )

    def _ids(self, text: str, value: Any) -> None:
        for m in re.finditer(r"\b(cust|rew|prod|camp|seg|tx|tick)-[\w-]*\d", text, re.I):
            value(m.start(), m.end(), Value({_ID_COLUMNS[m[1].lower()]: (m[0].lower(),)}, m[0]))
        for m in re.finditer(
            r"\b(customer|member|reward|product|campaign|segment|transaction|ticket)(?: id| number| no\.?| #)?[ #:]+([A-Za-z]*[-_]?\d[\w-]{2,})\b",
            text,
            re.I,
        ):
            if not re.search(r"\d(?:st|nd|rd|th)$", m[2]):
                value(m.start(2), m.end(2), Value({_ID_WORDS[m[1].lower()]: (m[2],)}, m[2]))

    def _quoted(self, text: str, value: Any) -> None:
        for m in re.finditer(r"\"([^\"]{2,80})\"|“([^”]{2,80})”|(?<!\w)'([^']{2,80})'(?!\w)", text):
            raw = next(g for g in m.groups() if g)
            known = self.catalog.phrases.get(normalize(raw))
            if known:
                value(m.start(), m.end(), Value(known, raw))
            else:
                texts = {t: (raw,) for t, f in fields().items() if f.type == "text" and not f.private}
                value(m.start(), m.end(), Value(texts, raw, like=True))

    def _states(self, text: str, value: Any) -> None:
        """ "in TX": two capital letters behind a preposition, in a question that is not all capitals."""
        if text.isupper():
            return
        for m in re.finditer(r"\b(?:in|from|of|for|across|within) ([A-Z]{2})\b", text):
            found = self.catalog.phrases.get(f"{m[1].lower()} state")
            if found and m[1] != "LA":
                value(m.start(1), m.end(1), Value(found, m[1]))

    def _words(self, text: str) -> list[tuple[int, int, str]]:
        return [(m.start(), m.end(), normalize(m[0])) for m in re.finditer(r"[^\W_]+(?:['’][^\W_]+)?|&", text)]

    def _known_values(self, text: str, value: Any, free: Any) -> None:
        words = [(s, e, re.sub(r" s$", "", w)) for s, e, w in self._words(text)]
        at = 0
        while at < len(words):
            for n in range(min(self.catalog.longest, len(words) - at), 0, -1):
                phrase = " ".join(w for _, _, w in words[at : at + n])
                by = self.catalog.phrases.get(phrase)
                start, end = words[at][0], words[at + n - 1][1]
                if by and free(start, end) and not self._is_plain(phrase, text[start:end]):
                    value(start, end, Value(by, text[start:end]))
                    at += n - 1
                    break
            at += 1

    def _is_plain(self, phrase: str, raw: str) -> bool:
        if phrase in ("la", "sf"):
            return not raw.isupper()
        return phrase in _PLAIN and not (raw[:1].isupper() and phrase == "house")

    def _ages_in(self, text: str, value: Any) -> None:
        if not self._ages:
            return
        for pattern, kind in _AGES:
            for m in pattern.finditer(_lower(text)):
                low = int(next(g for g in m.groups() if g))
                fits = [a for a in self._ages if re.match(r"\d+", a) and int(re.match(r"\d+", a)[0]) >= low]  # type: ignore[index]
                if kind == "range":
                    fits = self._whole_groups(low, int(m[2]))
                    if fits:
                        value(m.start(), m.end(), Value({"customers.age_group": tuple(fits)}, m[0]))
                elif any(a.startswith(f"{low}-") or a == f"{low}+" for a in fits) and (
                    re.search(r"\+$|older", m[0]) or re.search(_AGED, _lower(text))
                ):
                    value(m.start(), m.end(), Value({"customers.age_group": tuple(fits)}, m[0]))
        people = r"\b(?:customers?|members?|shoppers?|people|users?|women|men|clients?|buyers?|cust\w+|everyone|those)\s(under|over|above|below)[ -](\d\d)s?\b(?!\s?(?:%|percent|\w*points|purchases|orders|days|dollars|tickets|visits))"
        for m in re.finditer(people, _lower(text)):
            young = m[1] in ("under", "below")
            limit = int(m[2])
            bounds = [
                (a, int(re.findall(r"\d+", a)[0]), int(([*re.findall(r"\d+", a), "999"])[1])) for a in self._ages if re.match(r"\d", a)
            ]
            fits = [a for a, low, high in bounds if (high < limit if young else low >= limit)]
            edge = any((high + 1 == limit) if young else low == limit for _, low, high in bounds)
            if fits and edge:
                value(m.start(1), m.end(2), Value({"customers.age_group": tuple(fits)}, m[0]))
        for m in re.finditer(r"\b(?:under|below|younger than)\s(?:the age of\s|age\s)?(\d{2})s?\b", _lower(text)):
            fits = [a for a in self._ages if re.fullmatch(r"\d+-\d+", a) and int(a.split("-")[1]) < int(m[1])]
            edge = any(a.endswith(f"-{int(m[1]) - 1}") for a in fits)  # "under 30" is no number of whole groups
            if edge and ("younger" in m[0] or re.search(_AGED, _lower(text))):
                value(m.start(), m.end(), Value({"customers.age_group": tuple(fits)}, m[0]))

    def _whole_groups(self, low: int, high: int) -> list[str]:
        """The age groups that make up exactly the ages from low to high; none when there are no such."""
        bounds = sorted((int(a.split("-")[0]), int(a.split("-")[1]), a) for a in self._ages if re.fullmatch(r"\d+-\d+", a))
        inside = [b for b in bounds if low <= b[0] and b[1] <= high]
        whole = inside and inside[0][0] == low and inside[-1][1] == high and all(a[1] + 1 == b[0] for a, b in itertools.pairwise(inside))
        return [b[2] for b in inside] if whole else []

    def _searched(self, text: str, value: Any, free: Any) -> None:
        """ "vegan products": a word that several names share, before the thing it is in."""
        for m in re.finditer(r"((?:[A-Za-z][\w-]*[ ]){1,2})(products?|items?|rewards?|offers?|deals?|perks?|campaigns?)\b", text, re.I):
            column = _SEARCHED[m[2].lower().rstrip("s")]
            words = m[1].split()
            for taken in (words, words[-1:]):
                phrase = normalize(" ".join(taken))
                start = m.end(1) - 1 - len(" ".join(taken))
                if phrase in self.catalog.shared.get(column, ()) and free(start, m.end(1) - 1):
                    value(start, m.end(1) - 1, Value({column: (" ".join(taken),)}, phrase, like=True))
                    break

    def _product_words(self, text: str) -> str:
        """ "Croissants sold" becomes "croissant products sold": a word that several names of products share and questions do not use."""
        shared = self.catalog.shared.get("products.name", frozenset())
        if not shared or not self.known:
            return text

        for m in _LONE_WORD.finditer(text):
            word = m[0].lower()
            kind = next((w for w in (word, _singular(word)) if w in shared), None)
            if kind is not None and not {word, kind} & self.known and not self._in_a_value(text, m.start(), m.end()):
                return f"{text[: m.start()]}{kind} products{text[m.end() :]}"
        return text

    def _in_a_value(self, text: str, start: int, end: int) -> bool:
        """Whether a word is one, or is part of one that is longer."""
        words = self._words(text)
        at = next((i for i, (s, e, _) in enumerate(words) if s <= start and end <= e), None)
        if at is None:
            return True
        spans = ((a, b) for a in range(max(0, at - self.catalog.longest), at + 1) for b in range(at + 1, len(words) + 1))
        return any(" ".join(w for _, _, w in words[a:b]) in self.catalog.phrases for a, b in spans if b - a <= self.catalog.longest)

    def _mentioned(self, text: str, value: Any, free: Any) -> None:
        """ "tickets that mention a refund": the word that a text is searched for."""
        for m in _MENTION.finditer(text):
            word = m["word"]
            if word.lower() in _NO_MENTION or not free(m.start("word"), m.end("word")):
                continue
            texts = {t: (word,) for t, f in fields().items() if f.type == "text" and not f.private}
            value(m.start("word"), m.end("word"), Value(texts, word, like=True))

    def _fuzzy(self, text: str, value: Any, free: Any) -> None:
        """A word no one knows that is nearly a value: a misspelt city or category."""
        if not self.catalog.fuzzy or not self.known:
            return
        words = self._words(text)
        for n in (2, 1):
            for at in range(len(words) - n + 1):
                some = words[at : at + n]
                if all(w in self.known for _, _, w in some) or not free(some[0][0], some[-1][1]):
                    continue
                phrase = " ".join(w for _, _, w in some)
                if len(phrase) < 5 or not phrase.isascii() or any(c.isdigit() for c in phrase):
                    continue
                near = difflib.get_close_matches(phrase, self.catalog.fuzzy, 1, 0.84)
                if near and near[0] in self.catalog.phrases:
                    value(some[0][0], some[-1][1], Value(self.catalog.phrases[near[0]], near[0]))
