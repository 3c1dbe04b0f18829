"""The way of a question: corrections or the model read it, the guard narrows it, the engine runs it, and the rows become an answer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from contracts.errors import ArtifactError, ContractError, QueryRefused, StackError
from nlq.answer import sentence
from nlq.chart import choose
from nlq.columns import shape_of
from nlq.corrections import Corrections
from nlq.guard import Guarded, check
from nlq.related import nearest
from nlq.templates import PARAMETERS, example
from nlq.types import OutputColumn, Reason, Rows, Translation, Translator
from nlq.wording import meaning

MODEL, CORRECTION = "model", "correction"
_VALUES_KEPT_S = 3_600.0
_REASONS: dict[str, Reason] = {"private": "private", "tenant": "hostile"}
_MESSAGES: dict[Reason, str] = {
    "out_of_scope": "This is not a question about the loyalty programme's data.",
    "hostile": "Questions can only read, and only your own data.",
    "private": "This asks for personal data that your role may not see.",
    "low_confidence": "I am not sure what is meant, so I do not answer rather than answer wrongly.",
    "ambiguous": "The question can be read in more than one way. Say more exactly what you mean.",
    "unsupported": "I cannot answer this from the data there is.",
    "too_long": "The question is too long. Ask for one thing at a time.",
    "empty": "There is no question.",
}


class Runner(Protocol):
    """What runs guarded SQL: `nlq.execute.Engine`."""

    def run(self, sql: str, business_id: str, limit: int | None = None) -> Rows: ...

    def as_of(self, business_id: str) -> datetime: ...


@runtime_checkable
class Readers(Protocol):
    """A translator that reads questions of one business differently from another's: it links cities, products, names that are there."""

    def for_business(self, business_id: str) -> Translator: ...


@dataclass(frozen=True)
class Limits:
    """Bounds of one question.

    Attributes:
        rows: most rows of an answer; a question may ask for fewer.
        characters: longer questions are refused.
        suggestions: related questions beside an answer or a refusal.
    """

    rows: int = 1_000
    characters: int = 500
    suggestions: int = 3

    def __post_init__(self) -> None:
        if self.rows < 1 or self.characters < 1 or self.suggestions < 0:
            raise ContractError(f"{self} is not possible: rows and characters must be at least 1, suggestions at least 0. Correct it.")


@dataclass(frozen=True)
class Answer:
    """What became of a question.

    Attributes:
        refused: there are no rows; `reason` says why for machines and `message` for people.
        sql: as the question was read, before the guard: for people to check, and to be run again through the guard.
        executed_sql: what ran: of the guard, narrowed to the business.
        columns: of the rows; where the reading named no kinds, as guessed from names and values.
        related: questions near this one that can be answered.
        confidence: 0 to 1 that the reading is right.
        source: `model` or `correction`.
        ms: milliseconds by stage, `total` among them.
    """

    question: str
    business_id: str
    refused: bool
    reason: Reason | None = None
    message: str | None = None
    interpretation: str | None = None
    program: str | None = None
    sql: str | None = None
    executed_sql: str | None = None
    columns: tuple[OutputColumn, ...] = ()
    rows: Rows | None = None
    sentence: str | None = None
    chart: dict[str, Any] | None = None
    related: tuple[str, ...] = ()
    confidence: float = 0.0
    source: str = MODEL
    ms: Mapping[str, float] = field(default_factory=dict)


class Asker:
    """Answers questions. Safe from several threads when the translator is.

    Args:
        translator: reads questions; one that has `for_business` gives one a business.
        engine: runs SQL on the warehouse.
        corrections: win over the translator; None for none.
        currency: ISO code of amounts in sentences and charts; None when not known.
    """

    def __init__(
        self,
        translator: Translator | Readers,
        engine: Runner,
        corrections: Corrections | None = None,
        limits: Limits | None = None,
        *,
        currency: str | None = None,
    ) -> None:
        self._translator, self._engine, self._corrections = translator, engine, corrections
        self.limits, self._currency = limits or Limits(), currency
        self._values: dict[str, tuple[float, dict[str, str]]] = {}

    def ask(self, question: str, business_id: str, roles: frozenset[str] = frozenset(), *, limit: int | None = None) -> Answer:
        """Answer, or refuse in the answer: nothing that a user may type raises.

        Args:
            business_id: whose rows; of the caller's key, never of the question.
            roles: `private_reader` may see private columns.
            limit: most rows, where fewer than `limits.rows` are wanted.

        Raises:
            UnknownItem: no such business.
            UpstreamError: the model server or the engine is away, or took too long.
            ArtifactError: the warehouse cannot be read.
        """
        ms: dict[str, float] = {}
        with _timed(ms, "total"):
            answer = self._answer(question, business_id, roles, min(limit or self.limits.rows, self.limits.rows), ms)
        return answer

    def _answer(self, question: str, business_id: str, roles: frozenset[str], limit: int, ms: dict[str, float]) -> Answer:
        if not question.strip():
            return self._refusal(Translation(question, True, "empty"), business_id, ms)
        if len(question) > self.limits.characters:
            message = f"The question has {len(question):,} characters, {self.limits.characters:,} are allowed. Ask for one thing at a time."
            return self._refusal(Translation(question, True, "too_long", message), business_id, ms)
        if (corrected := self._corrected(question, business_id, roles, limit, ms)) is not None:
            return corrected
        with _timed(ms, "translate"):
            reading = self._reader(business_id).translate(question, roles=roles)
        ms.update({f"translate.{name}": value for name, value in reading.ms.items()})
        if reading.refused or not reading.sql:
            return self._refusal(reading, business_id, ms)
        try:
            return self._run(reading, business_id, roles, limit, MODEL, ms)
        except QueryRefused as exc:
            return self._refusal(_refused(reading, exc), business_id, ms)

    def _reader(self, business_id: str) -> Translator:
        """The translator that knows this business's values and the end of its data, where it makes that difference."""
        return self._translator.for_business(business_id) if isinstance(self._translator, Readers) else self._translator

    def _corrected(self, question: str, business_id: str, roles: frozenset[str], limit: int, ms: dict[str, float]) -> Answer | None:
        if self._corrections is None:
            return None
        with _timed(ms, "corrections"):
            found = self._corrections.find(question, business_id)
        if found is None:
            return None
        reading = found.translation(question)
        try:
            return self._run(reading, business_id, roles, limit, CORRECTION, ms)
        except QueryRefused as exc:
            # What the caller may not see stays unseen; a correction that no longer runs is the model's to answer.
            return self._refusal(_refused(reading, exc), business_id, ms) if exc.reason in _REASONS else None

    def _run(self, reading: Translation, business_id: str, roles: frozenset[str], limit: int, source: str, ms: dict[str, float]) -> Answer:
        with _timed(ms, "guard"):
            guarded: Guarded = check(reading.sql or "", business_id=business_id, roles=roles, row_limit=limit)
        with _timed(ms, "execute"):
            rows = self._engine.run(guarded.sql, business_id, limit=guarded.limit)
        with _timed(ms, "answer"):
            shape = shape_of(reading, rows)
            text = sentence(reading, rows, currency=self._currency, as_of=self._as_of(business_id) if shape.times else None)
        with _timed(ms, "chart"):
            chart = choose(reading, rows, currency=self._currency)
        with _timed(ms, "related"):
            near = self._near(reading, business_id)
        return Answer(
            question=reading.question, business_id=business_id, refused=False, interpretation=reading.interpretation,
            program=reading.program, sql=reading.sql, executed_sql=guarded.sql,
            columns=tuple(OutputColumn(name, kind) for name, kind in zip(rows.columns, shape.kinds, strict=True)),
            rows=rows, sentence=text, chart=chart, related=near, confidence=reading.confidence, source=source, ms=ms,
        )  # fmt: skip

    def _refusal(self, reading: Translation, business_id: str, ms: dict[str, float]) -> Answer:
        reason = reading.reason or "unsupported"
        near = reading.suggestions[: self.limits.suggestions] or self._near(reading, business_id)
        return Answer(
            question=reading.question, business_id=business_id, refused=True, reason=reason, message=reading.message or _MESSAGES[reason],
            interpretation=reading.interpretation, related=near, confidence=reading.confidence, ms=ms,
        )  # fmt: skip

    def _as_of(self, business_id: str) -> datetime | None:
        try:
            return self._engine.as_of(business_id)
        except ArtifactError:
            return None  # a business without purchases has no end of its data

    def _near(self, reading: Translation, business_id: str) -> tuple[str, ...]:
        """Related questions, with values that this business has: its largest city, its best-sold product, and so on."""
        count = self.limits.suggestions
        if count == 0:
            return ()
        chosen = nearest(reading.question, reading, n=count + 1)
        values = self._fillers(business_id, {name for template in chosen for name in template.parameters})
        texts = [example(template, values) for template in chosen]
        asked = meaning(reading.question)
        return tuple(text for text in texts if meaning(text) != asked)[:count]

    def _fillers(self, business_id: str, names: set[str]) -> dict[str, str]:
        """Values of blanks, looked up once an hour. A blank that cannot be looked up keeps its default: what is broken shows elsewhere."""
        since, found = self._values.get(business_id, (0.0, {}))
        if not found or time.monotonic() - since > _VALUES_KEPT_S:
            since, found = time.monotonic(), {}
        for name in sorted(names - found.keys()):
            sql = PARAMETERS[name].values_sql
            rows = None
            if sql is not None:
                with suppress(StackError):
                    guarded = check(sql, business_id=business_id, row_limit=1)
                    rows = self._engine.run(guarded.sql, business_id, limit=1)
            found = {**found, name: str(rows.data[0][0]) if rows is not None and rows.data else PARAMETERS[name].default}
        self._values[business_id] = (since, found)
        return found


def _refused(reading: Translation, exc: QueryRefused) -> Translation:
    reason = _REASONS.get(exc.reason, "unsupported")
    message = _MESSAGES[reason] if exc.reason in _REASONS else f"{_MESSAGES[reason]} ({exc.reason.replace('_', ' ')})"
    return Translation(reading.question, True, reason, message, interpretation=reading.interpretation, confidence=reading.confidence)


@contextmanager
def _timed(ms: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        ms[stage] = round((time.perf_counter() - start) * 1e3, 3)
