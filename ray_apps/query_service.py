"""What the routes about plain-English questions do."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any, NamedTuple

from contracts import api_query as api
from contracts.errors import ContractError, StackError
from nlq.schema import PRIVATE_READER
from ray_apps.keys import Caller
from ray_apps.metrics import Metrics, Stopwatch
from ray_apps.middleware import Gate
from ray_apps.question_desk import NO_MODEL, Again, Asked, Desk
from ray_apps.question_files import json_value
from ray_apps.questions import AskedQuestion, Correction, Meaning, Page, Questions, SavedQuestion, new_id
from ray_apps.store import OperationalStore

SEES_PRIVATE = ("private_reader", "admin")
_STATUS_S, STATUS_DEADLINE_S = 5.0, 1.0
EMPTY = "There is no question in this. Ask one, for example: how many customers joined last month?"


class NotAcceptable(ContractError):  # noqa: N818 - as in contracts.errors
    """There is no such form of the answer."""

    status = 406
    title = "Not acceptable"
    slug = "not-acceptable"


class Answered(NamedTuple):
    """An answer in wire form, and its chart's specification."""

    body: api.QueryResponse
    chart: dict[str, Any] | None


class QueryService:
    """Questions, history, kept questions, exports and corrections, without HTTP.

    An answer is given only when the audit holds the question: a database that fails is an error, not an answer without a trace.

    Args:
        store: the operational database. desk: who answers. gate: bounds the requests that are worked on.
    """

    def __init__(self, store: OperationalStore, desk: Desk, gate: Gate, metrics: Metrics) -> None:
        self.questions, self.desk, self._gate, self._metrics = Questions(store), desk, gate, metrics
        self._version, self._known_until = NO_MODEL, float("-inf")

    async def ask(self, caller: Caller, wanted: api.QueryRequest, stopwatch: Stopwatch) -> Answered:
        """Answer a question, or say why not.

        Raises:
            ArtifactError: no model reads questions. UpstreamTimeout: it took too long. Overloaded: too many at once.
        """
        async with self._gate.enter():
            return await self._answered(caller, wanted.query, wanted.limit or api.MAX_ROWS, stopwatch)

    async def _answered(self, caller: Caller, question: str, limit: int, stopwatch: Stopwatch) -> Answered:
        question_id = new_id("q")
        try:
            asked = await self._asked(caller, question, limit)
        except Exception as exc:
            reason = exc.slug if isinstance(exc, StackError) else "internal"
            failed = Asked(question, refused=True, reason=reason, model_version=self._version)
            await self._record(caller, question_id, failed, limit, stopwatch, "failed")
            raise
        self._seen(asked.model_version)
        stopwatch.stages |= {name: ms / 1000 for name, ms in asked.ms.items() if name in STAGES}
        latency = await self._record(caller, question_id, asked, limit, stopwatch, "refused" if asked.refused else "answered")
        return Answered(_response(question_id, asked, latency), asked.chart)

    async def _asked(self, caller: Caller, question: str, limit: int) -> Asked:
        if not question:
            return Asked(question, refused=True, reason="empty", message=EMPTY, confidence=1.0, model_version=self._version)
        return await self.desk.ask(question, caller.business_id, roles_of(caller), limit)

    async def _record(self, caller: Caller, question_id: str, asked: Asked, limit: int, stopwatch: Stopwatch, outcome: str) -> float:
        """Add the question to the audit; the milliseconds until then."""
        await self.questions.record(
            AskedQuestion(
                question_id=question_id,
                business_id=caller.business_id,
                key_id=caller.key_id,
                role=caller.role,
                asked_at=datetime.now(UTC),
                question=asked.question,
                outcome=outcome,
                reason=asked.reason,
                interpretation=asked.interpretation,
                sql=asked.sql,
                columns=asked.columns,
                row_limit=limit,
                row_count=None if asked.rows is None else len(asked.rows.data),
                confidence=asked.confidence,
                source=None if outcome == "failed" else asked.source,
                model_version=asked.model_version,
                ms=round(stopwatch.stop(), 3),
            )
        )
        latency = stopwatch.stop()
        self._metrics.observe_question(stopwatch, outcome, asked.reason)
        return latency

    async def chart(self, answered: Answered) -> bytes:
        """The chart of an answer just given, PNG.

        Raises:
            NotAcceptable: it was refused, or no chart suits it.
        """
        if answered.chart is None:
            why = answered.body.message if answered.body.refused else "no chart suits these rows."
            raise NotAcceptable(f"question {answered.body.query_id} has no picture: {why} Ask for application/json.")
        async with self._gate.enter():
            return await self.desk.draw(answered.chart)

    async def file(self, caller: Caller, question_id: str, form: api.Action, stopwatch: Stopwatch) -> bytes:
        """An earlier answer made again as a file: `csv`, `pdf` or `chart`. The use is audited like a question.

        Raises:
            UnknownItem: this business asked no such question.
            ContractError: it was refused, so there is no answer. QueryRefused: this caller may not see all of its columns.
            NotAcceptable: no chart suits its rows.
        """
        async with self._gate.enter():
            asked = await self.questions.get(caller.business_id, question_id)
            if asked.sql is None:
                raise ContractError(f"question {question_id} was {asked.outcome}, so it has no answer to export. Ask it in other words.")
            again = Again(asked.question, asked.sql, asked.interpretation, asked.columns, asked.confidence or 0.0, _facts(asked))
            outcome, reason, rows = "answered", None, None
            try:
                made = await self.desk.make(form, again, caller.business_id, roles_of(caller))
                rows = made.rows
                if made.content is None:
                    raise NotAcceptable(f"question {question_id} has no chart: none suits its rows. Export it as csv or pdf.")
                return made.content
            except StackError as exc:
                outcome, reason = ("refused" if exc.status < 500 else "failed"), exc.slug
                raise
            finally:
                use = {
                    "action": form,
                    "key_id": caller.key_id,
                    "role": caller.role,
                    "asked_at": datetime.now(UTC),
                    "outcome": outcome,
                    "reason": reason,
                    "row_count": rows,
                    "ms": round(stopwatch.stop(), 3),
                }
                await self.questions.record(AskedQuestion(**(_fields(asked) | use)))

    async def history(self, caller: Caller, limit: int, offset: int, mine: bool, stopwatch: Stopwatch) -> api.QueryHistory:
        """Questions of the business, or of this key, newest first."""
        async with self._gate.enter():
            page = await self.questions.history(caller.business_id, limit, offset, caller.key_id if mine else None)
            version = await self._now()
        return api.QueryHistory(items=[_record(q) for q in page.items], **_paging(page, limit, offset, version, stopwatch))

    async def templates(self, category: str | None, limit: int, offset: int, stopwatch: Stopwatch) -> api.QueryTemplates:
        """Questions that are known to be answered, of one category where it is given."""
        from nlq.templates import TEMPLATES, example

        found = [t for t in TEMPLATES if category in (None, t.category)]
        items = [
            api.QueryTemplate(
                template_id=t.id, category=t.category, template=t.text, example=example(t), parameters=list(t.parameters)
            )
            for t in found[offset : offset + limit]
        ]  # fmt: skip
        return api.QueryTemplates(items=items, **_paging(Page(items, len(found)), limit, offset, await self._now(), stopwatch))

    async def save(self, caller: Caller, given: api.SaveRequest, stopwatch: Stopwatch) -> api.SavedResponse:
        """Keep a question under a name.

        Raises:
            UnknownItem: there is no question `queryId`. Conflict: the name is taken.
        """
        async with self._gate.enter():
            question = given.query
            if question is None:
                question = (await self.questions.get(caller.business_id, str(given.query_id))).question
            kept = await self.questions.save(caller.business_id, caller.key_id, given.name, question)
        return api.SavedResponse(**_saved(kept.saved), duplicate=not kept.created, latency=round(stopwatch.stop(), 3))

    async def saved(self, caller: Caller, limit: int, offset: int, stopwatch: Stopwatch) -> api.SavedQueries:
        """Kept questions of the business, by name."""
        async with self._gate.enter():
            page = await self.questions.saved(caller.business_id, limit, offset)
            version = await self._now()
        items = [api.SavedQuery(**_saved(s)) for s in page.items]
        return api.SavedQueries(items=items, **_paging(page, limit, offset, version, stopwatch))

    async def forget(self, caller: Caller, saved_id: str) -> None:
        """Delete a kept question; raises UnknownItem."""
        async with self._gate.enter():
            await self.questions.forget(caller.business_id, saved_id)

    async def feedback(
        self, caller: Caller, question_id: str, given: api.QueryFeedbackRequest, stopwatch: Stopwatch
    ) -> api.QueryFeedbackResponse:
        """Record whether an answer was right; a correction answers the question from now on.

        Raises:
            UnknownItem: this business asked no such question.
            QueryRefused: the SQL may not be run, or cannot. ContractError: `correctedQuery` cannot be read either.
        """
        async with self._gate.enter():
            asked = await self.questions.get(caller.business_id, question_id)
            means: Meaning | None = None
            if given.corrected_query is not None:
                means = await self._reworded(caller, given.corrected_query)
            elif given.corrected_sql is not None:
                await self.desk.trial(given.corrected_sql, caller.business_id, roles_of(caller))
                means = Meaning(given.corrected_sql)
            correction = await self.questions.add_feedback(asked, caller.key_id, given.correct, given.note, means)
        self._metrics.question_feedback.labels("correct" if given.correct else "corrected" if correction else "wrong").inc()
        return api.QueryFeedbackResponse(
            query_id=question_id,
            correct=given.correct,
            correction_id=None if correction is None else correction.correction_id,
            sql=None if means is None else means.sql,
            interpretation=None if means is None else means.interpretation,
            model_version=asked.model_version,
            latency=round(stopwatch.stop(), 3),
        )

    async def _reworded(self, caller: Caller, question: str) -> Meaning:
        """What a question that stands for another means; it is a question, too, and audited as one."""
        answered = await self._answered(caller, question, 1, Stopwatch())
        if answered.body.sql is None:
            raise ContractError(
                f"correctedQuery was refused: {answered.body.message} Give it in words of the suggestions, or give correctedSql."
            )
        kinds = answered.body.results.kinds if answered.body.results is not None else []
        names = answered.body.results.columns if answered.body.results is not None else []
        return Meaning(answered.body.sql, answered.body.interpretation, tuple(zip(names, kinds, strict=True)))

    async def corrections(self, caller: Caller, limit: int, offset: int, stopwatch: Stopwatch) -> api.QueryCorrections:
        """Corrections in force, newest first."""
        async with self._gate.enter():
            page = await self.questions.corrections(caller.business_id, limit, offset)
            version = await self._now()
        items = [_correction(c) for c in page.items]
        return api.QueryCorrections(items=items, **_paging(page, limit, offset, version, stopwatch))

    async def take_back(self, caller: Caller, correction_id: str) -> None:
        """End a correction; raises UnknownItem."""
        async with self._gate.enter():
            await self.questions.take_back(caller.business_id, correction_id, caller.key_id)

    async def ready(self) -> bool:
        """Whether questions are answered by the deployed model."""
        return await self._now() != NO_MODEL

    async def _now(self) -> str:
        """What answers questions, at most five seconds ago."""
        if time.monotonic() > self._known_until:
            try:
                self._seen((await asyncio.wait_for(self.desk.status(), STATUS_DEADLINE_S)).model_version)
            except (StackError, TimeoutError):
                self._seen(NO_MODEL)
        return self._version

    def _seen(self, version: str) -> None:
        self._version, self._known_until = version, time.monotonic() + _STATUS_S


STAGES = ("corrections", "translate", "guard", "execute", "answer", "chart", "related")
"""Stages of an answer that `Server-Timing` and the metrics show."""


def roles_of(caller: Caller) -> frozenset[str]:
    """The roles that the guard knows."""
    return frozenset({PRIVATE_READER}) if caller.role in SEES_PRIVATE else frozenset()


def _response(question_id: str, asked: Asked, latency: float) -> api.QueryResponse:
    common: dict[str, Any] = {
        "query_id": question_id,
        "query": asked.question,
        "refused": asked.refused,
        "confidence": min(1.0, max(0.0, asked.confidence)),
        "source": asked.source,
        "model_version": asked.model_version,
        "latency": round(latency, 3),
    }
    if asked.refused or asked.rows is None:
        return api.QueryResponse(
            **common, reason=asked.reason or "unsupported", message=asked.message, suggestions=list(asked.related),
            interpretation=asked.interpretation,
        )  # fmt: skip
    names = list(asked.rows.columns)
    kinds = dict(asked.columns)
    results = api.Results(
        total=len(asked.rows.data),
        columns=names,
        kinds=[kinds.get(n, "text") for n in names],
        data=[dict(zip(names, map(json_value, row), strict=True)) for row in asked.rows.data],
        truncated=asked.rows.truncated,
    )
    here = f"{api.QUERIES}/{question_id}"
    links = [api.ExportOption(format=f, href=f"{here}/export?format={f}") for f in ("csv", "pdf")]
    if asked.chart is not None:
        links.append(api.ExportOption(format="png", href=f"{here}/chart.png"))
    return api.QueryResponse(
        **common, interpretation=asked.interpretation, sql=asked.sql, answer=asked.sentence, results=results, visualization=asked.chart,
        export_options=links, related_queries=list(asked.related),
    )  # fmt: skip


def _facts(asked: AskedQuestion) -> tuple[tuple[str, str], ...]:
    facts = [("Read as", asked.interpretation)] if asked.interpretation else []
    who = "an analyst's correction" if asked.source == "correction" else asked.model_version
    facts += [("Answered by", who), ("Made", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"), ("SQL", asked.sql or "")]
    return tuple((name, text) for name, text in facts if text)


def _fields(asked: AskedQuestion) -> dict[str, Any]:
    return {name: getattr(asked, name) for name in AskedQuestion.__slots__}


def _record(asked: AskedQuestion) -> api.QueryRecord:
    return api.QueryRecord(
        query_id=asked.question_id,
        query=asked.question,
        asked_at=asked.asked_at,
        key_id=asked.key_id,
        outcome=asked.outcome,  # type: ignore[arg-type]
        reason=asked.reason,
        interpretation=asked.interpretation,
        sql=asked.sql,
        rows=asked.row_count,
        confidence=asked.confidence,
        source=asked.source,  # type: ignore[arg-type]
        model_version=asked.model_version,
        ms=asked.ms,
    )


def _saved(saved: SavedQuestion) -> dict[str, Any]:
    return {
        "saved_id": saved.saved_id,
        "name": saved.name,
        "query": saved.question,
        "key_id": saved.key_id,
        "created_at": saved.created_at,
    }


def _correction(correction: Correction) -> api.QueryCorrection:
    return api.QueryCorrection(
        correction_id=correction.correction_id,
        query=correction.question,
        sql=correction.sql,
        key_id=correction.key_id,
        created_at=correction.created_at,
    )


def _paging(page: Page, limit: int, offset: int, version: str, stopwatch: Stopwatch) -> dict[str, Any]:
    following = offset + len(page.items)
    return {
        "total": page.total,
        "limit": limit,
        "offset": offset,
        "next_offset": following if page.items and following < page.total else None,
        "model_version": version,
        "latency": round(stopwatch.stop(), 3),
    }
