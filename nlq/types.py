"""What passes between the parts of a question's way: question, reading, SQL, rows, answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

ColumnKind = Literal["id", "name", "category", "text", "flag", "time", "number", "money", "fraction", "percent"]
Reason = Literal["out_of_scope", "hostile", "private", "low_confidence", "ambiguous", "unsupported", "too_long", "empty"]


@dataclass(frozen=True)
class OutputColumn:
    """A column of the answer: its name in the SQL and what it holds, for sentences and charts.

    Attributes:
        name: as in the SQL's SELECT.
        kind: `money` is in the business's currency, `fraction` lies in 0..1, `percent` in 0..100.
    """

    name: str
    kind: ColumnKind


@dataclass(frozen=True)
class Translation:
    """What the model made of a question.

    Attributes:
        question: as asked.
        refused: there is no SQL that may be run; `reason` and `message` say why.
        sql: one DuckDB SELECT over the tables of the schema, *before* the guard: no tenant filter, no row limit of ours.
        program: the reading in the model's own language (`nlq.program`), which corrections and history keep.
        interpretation: the reading in plain English, for people to check ("number of customers where membership tier is GOLD").
        columns: of the result, in order.
        confidence: calibrated probability (0..1) that the reading is right.
        suggestions: questions that are near and can be answered.
        ms: milliseconds by stage.
    """

    question: str
    refused: bool
    reason: Reason | None = None
    message: str | None = None
    sql: str | None = None
    program: str | None = None
    interpretation: str | None = None
    columns: tuple[OutputColumn, ...] = ()
    confidence: float = 0.0
    suggestions: tuple[str, ...] = ()
    ms: dict[str, float] = field(default_factory=dict)


class Translator(Protocol):
    """Turns a question into SQL. Implementations: the model in this process, the model behind Triton."""

    def translate(self, question: str, *, roles: frozenset[str] = frozenset()) -> Translation:
        """Never raises for what a user may type: a question that cannot be read is refused in the answer."""
        ...


@dataclass(frozen=True)
class Rows:
    """Rows of an answer.

    Attributes:
        columns: names, in order.
        data: one tuple a row; values are what JSON has, or Decimal, date, datetime (UTC).
        truncated: there were more rows than the limit.
    """

    columns: tuple[str, ...]
    data: tuple[tuple[Any, ...], ...]
    truncated: bool = False
