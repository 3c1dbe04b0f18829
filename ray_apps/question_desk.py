"""What the ingress and whoever answers questions say to each other; light, since the ingress needs none of what answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from nlq.types import Rows

BUNDLE = "text-to-sql"
NO_MODEL = "none"


@dataclass(frozen=True)
class Asked:
    """A question and its answer.

    Attributes:
        sql: of the reading, before the guard; None when refused.
        columns: of the rows, as (name, kind).
        rows: None when refused.
        sentence: made of the rows.
        chart: a Vega-Lite specification, or None.
        related: questions near this one that can be answered; of a refused one, what to ask instead.
        source: `model` or `correction`.
        ms: milliseconds by stage.
    """

    question: str
    refused: bool
    reason: str | None = None
    message: str | None = None
    interpretation: str | None = None
    sql: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    rows: Rows | None = None
    sentence: str | None = None
    chart: dict[str, Any] | None = None
    related: tuple[str, ...] = ()
    confidence: float = 0.0
    source: str = "model"
    model_version: str = NO_MODEL
    ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Again:
    """An earlier answer, to be made again: its SQL passes guard and engine anew, with the rights of whoever asks now.

    Attributes:
        facts: lines below the title of a PDF, as (name, text).
    """

    question: str
    sql: str
    interpretation: str | None
    columns: tuple[tuple[str, str], ...]
    confidence: float
    facts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Made:
    """A file; `content` is None where no chart suits the rows."""

    content: bytes | None
    rows: int


@dataclass(frozen=True)
class DeskStatus:
    """What answers, and why not; the version is `none` while nothing does."""

    model_version: str = NO_MODEL
    problem: str | None = None


class Desk(Protocol):
    """Whoever answers questions, here or in another process. All but `close` may raise UpstreamError, UpstreamTimeout, Overloaded."""

    async def ask(self, question: str, business_id: str, roles: frozenset[str], limit: int) -> Asked:
        """Answer; a question that cannot be answered is refused in the answer. Raises ArtifactError without a model."""
        ...

    async def make(self, form: str, again: Again, business_id: str, roles: frozenset[str]) -> Made:
        """An answer as `csv`, `pdf` or `chart`. Raises QueryRefused where the guard does."""
        ...

    async def draw(self, chart: dict[str, Any]) -> bytes:
        """A chart as PNG."""
        ...

    async def trial(self, sql: str, business_id: str, roles: frozenset[str]) -> tuple[str, ...]:
        """Run SQL once, and give the names of its columns. Raises QueryRefused."""
        ...

    async def status(self) -> DeskStatus:
        """What answers."""
        ...

    async def close(self) -> None:
        """Let go of what this process holds for it."""
        ...
