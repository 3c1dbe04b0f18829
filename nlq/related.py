"""Questions near the one that was asked, and known to be answerable.

No vectors: tables, columns and form of the SQL, and words weighed by how rare they are among the templates. The same input always gives the
same questions.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from nlq.schema import SCHEMA
from nlq.templates import TEMPLATES, Template, example, query
from nlq.types import Translation
from nlq.wording import content, meaning

PER_CATEGORY = 2
_LEAST = 0.12
_FORMS = {
    "groups": r"\bGROUP\s+BY\b", "ranks": r"\bORDER\s+BY\b", "limited": r"\bLIMIT\b", "over_time": r"\bdate_trunc\b.*\bGROUP\s+BY\b",
    "sums": r"\bsum\s*\(", "counts": r"\bcount\s*\(", "averages": r"\bavg\s*\(", "absent": r"\bNOT\s+EXISTS\b|\bNOT\s+IN\b|\bIS\s+NULL\b",
    "recent": r"\bINTERVAL\b",
}  # fmt: skip
_START = ("churn-levels", "rewards-popular", "purchases-revenue-month", "value-top", "products-best", "customers-tiers")
"""Offered where nothing is near: one of each kind, for people who see for the first time what can be asked."""


@dataclass(frozen=True)
class _Sketch:
    """What is compared of one question."""

    tables: frozenset[str]
    columns: frozenset[str]
    forms: frozenset[str]
    words: Counter[str]


def nearest(
    question: str,
    translation: Translation | None = None,
    templates: Sequence[Template] = TEMPLATES,
    n: int = 3,
    values: Mapping[str, str] | None = None,
) -> list[Template]:
    """At most `n` templates near the question, the nearest first, none that asks the same; general ones where none is near.

    Args:
        translation: its SQL counts where it was not refused.
        values: fillers that the question may share with a template.
    """
    asked = _sketch(translation.sql if translation is not None and not translation.refused else None, question)
    same, blank = meaning(question), _blanked(question)
    weights = _weights(tuple(templates))
    scored = []
    for place, template in enumerate(templates):
        if _blank(template) == blank or _meant(example(template, values)) == same:
            continue
        score = _nearness(asked, _of(template), weights)
        if score >= _LEAST:
            scored.append((-score, place, template))
    chosen: list[Template] = []
    for _, _, template in sorted(scored, key=lambda s: s[:2]):
        if len(chosen) < n and sum(t.category == template.category for t in chosen) < PER_CATEGORY:
            chosen.append(template)
    general = [t for t in templates if t.id in _START and t not in chosen and _meant(example(t, values)) != same]
    return (chosen + general)[:n] if len(chosen) < n else chosen


def related(
    question: str,
    translation: Translation | None = None,
    templates: Sequence[Template] = TEMPLATES,
    n: int = 3,
    values: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """The texts of `nearest`, their blanks filled with `values` (a city that the business has, and so on) or defaults."""
    return tuple(example(t, values) for t in nearest(question, translation, templates, n, values))


def _nearness(a: _Sketch, b: _Sketch, weights: Mapping[str, float]) -> float:
    """0 to 1. Without SQL only the words count."""
    words = _cosine(a.words, b.words, weights)
    if not a.tables:
        return words
    return 0.4 * words + 0.25 * _jaccard(a.tables, b.tables) + 0.25 * _jaccard(a.columns, b.columns) + 0.1 * _jaccard(a.forms, b.forms)


def _sketch(sql: str | None, text: str) -> _Sketch:
    names = frozenset(re.findall(r"[a-z_]+\d*(?:_\d+)?", (sql or "").lower()))
    tables = names & SCHEMA.tables.keys()
    columns = names & {c.name for c in SCHEMA.columns}
    forms = {name for name, pattern in _FORMS.items() if re.search(pattern, sql or "", re.IGNORECASE | re.DOTALL)}
    return _Sketch(frozenset(tables), frozenset(columns - {"occurred_at"}), frozenset(forms), Counter(content(text)))


@lru_cache(maxsize=1_000)
def _of(template: Template) -> _Sketch:
    return _sketch(query(template), example(template))


@lru_cache(maxsize=8)
def _weights(templates: tuple[Template, ...]) -> dict[str, float]:
    """How much a word says: the rarer among the templates, the more."""
    seen = Counter(word for t in templates for word in _of(t).words)
    return {word: math.log(1 + len(templates) / count) for word, count in seen.items()}


def _cosine(a: Counter[str], b: Counter[str], weights: Mapping[str, float]) -> float:
    """Of words that templates have; what is strange to all of them is near to none, so it counts in the length."""
    strange = max(weights.values(), default=1.0)

    def length(words: Counter[str]) -> float:
        return math.sqrt(sum((weights.get(w, strange / 2)) ** 2 for w in words))

    both = sum(weights[w] ** 2 for w in a.keys() & b.keys() if w in weights)
    return both / (length(a) * length(b)) if both else 0.0


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


@lru_cache(maxsize=4_000)
def _meant(text: str) -> Counter[str]:
    return meaning(text)


@lru_cache(maxsize=1_000)
def _blank(template: Template) -> tuple[str, ...]:
    return _blanked(re.sub(r"\{\w+\}", " ", template.text))


def _blanked(text: str) -> tuple[str, ...]:
    """Words in order, without numbers."""
    return tuple(t for t in content(text) if not t[0].isdigit())
