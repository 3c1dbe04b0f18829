"""Answers plain-English questions: the translator, the engine and the corrections, in a replica of their own.

A reading takes tens to hundreds of milliseconds of a core and a query may take all the memory it is allowed; beside the recommendations'
event loop they would hold those up. `ray_apps.app` puts a `QuestionDesk` into a deployment which the ingress calls by its handle; without
Ray (tests) the service calls it directly. What crosses between them is data that pickles: `Asked`, `Again`, `Made`, and our own errors.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from contracts.api_query import MAX_ROWS
from contracts.errors import ArtifactError, StackError, UnknownItem, UpstreamError
from nlq.corrections import Correction, Corrections, by_words
from nlq.execute import AskSettings, Engine
from nlq.guard import check
from nlq.pipeline import Answer, Asker
from nlq.types import OutputColumn, Rows, Translation
from ray_apps.question_desk import BUNDLE, NO_MODEL, Again, Asked, DeskStatus, Made
from ray_apps.question_files import Report, to_csv, to_pdf
from ray_apps.questions import Correction as LogEntry
from ray_apps.questions import Questions
from ray_apps.settings import ServeSettings
from ray_apps.store import OperationalStore
from ray_apps.tuning import QuestionSettings

logger = logging.getLogger("regulars.questions")
T = TypeVar("T")


class QuestionDesk:
    """Answers questions in this process.

    Without a model `ask` raises ArtifactError and the rest works: charts and exports of earlier answers need none. A model that is
    deployed later, or in place of another, is used from the next question on.

    Args:
        settings: whose home, model server and database.
        open_translator: from the settings and the engine to a translator; the model of the home, else the shipped one, when None.
    """

    def __init__(
        self,
        settings: ServeSettings,
        *,
        open_translator: Callable[[ServeSettings, Engine], Any] | None = None,
    ) -> None:
        self.settings, self.tuning = settings, QuestionSettings.load()
        self._store = OperationalStore(settings.database_url or settings.folder.database_url)
        self._questions = Questions(self._store)
        self._open = open_translator or _translator
        self._threads = ThreadPoolExecutor(self.tuning.threads, thread_name_prefix="question")
        self._opening = asyncio.Lock()
        self._engine: Engine | None = None
        self._asker: Asker | None = None
        self._version = NO_MODEL
        self._learnt, self._learning = _Learnt(Corrections(by_words)), asyncio.Lock()
        self._deployed: object = None
        self._problem: StackError | None = None
        self._looked = float("-inf")

    async def close(self) -> None:
        """End the threads, the engine and the database connections."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        if self._engine is not None:
            await asyncio.to_thread(self._engine.close)
        await self._store.close()

    async def ask(self, question: str, business_id: str, roles: frozenset[str], limit: int) -> Asked:
        asker, version = await self._ready()
        await self._learn()
        return asked_of(await self._running(lambda: asker.ask(question, business_id, roles, limit=limit)), version)

    async def make(self, form: str, again: Again, business_id: str, roles: frozenset[str]) -> Made:
        most = {"csv": self.tuning.csv_rows, "pdf": self.tuning.pdf_rows}.get(form, MAX_ROWS)
        engine = await self._engine_ready()
        return await self._running(lambda: self._made(form, again, run(engine, again.sql, business_id, roles, most)))

    def _made(self, form: str, again: Again, rows: Rows) -> Made:
        if form == "csv":
            return Made(to_csv(rows), len(rows.data))
        translation = reading_of(again, rows)
        chart = _drawn(translation, rows, self.tuning.chart_scale)
        if form == "chart":
            return Made(chart, len(rows.data))
        from nlq.answer import sentence

        kinds = tuple(c.kind for c in translation.columns)
        report = Report(again.question, sentence(translation, rows), rows, kinds, again.facts, chart, self.tuning.pdf_rows)
        return Made(to_pdf(report), len(rows.data))

    async def draw(self, chart: dict[str, Any]) -> bytes:
        from nlq.chart import png

        return await self._in_thread(lambda: png(chart, self.tuning.chart_scale))

    async def trial(self, sql: str, business_id: str, roles: frozenset[str]) -> tuple[str, ...]:
        engine = await self._engine_ready()
        return (await self._running(lambda: run(engine, sql, business_id, roles, 1))).columns

    async def status(self) -> DeskStatus:
        try:
            await self._ready()
        except StackError as exc:
            return DeskStatus(NO_MODEL, str(exc))
        return DeskStatus(self._version, None if self._problem is None else str(self._problem))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _running(self, work: Callable[[], T]) -> T:
        """Work on the warehouse; what is wrong with that is logged, since its messages name files and other businesses."""
        try:
            return await self._in_thread(work)
        except UnknownItem as exc:
            raise ArtifactError(
                "the warehouse holds nothing of this business yet. Bring its data in: regulars data, or send events."
            ) from exc
        except ArtifactError as exc:
            logger.error("%s", exc)
            raise ArtifactError("the warehouse cannot be read. Its operator finds the reason in the log.") from exc

    async def _engine_ready(self) -> Engine:
        async with self._opening:
            if self._engine is None:
                self._engine = await self._running(lambda: Engine(self.settings.folder.warehouse, AskSettings.load()))
            return self._engine

    async def _ready(self) -> tuple[Asker, str]:
        """The asker and its model's name; looks for another deployed version, and after a failure tries again, every `look_s`.

        Raises:
            ArtifactError: no model can be used.
        """
        if self._asker is None or time.monotonic() - self._looked > self.tuning.look_s:
            engine = await self._engine_ready()
            async with self._opening:
                if time.monotonic() - self._looked > self.tuning.look_s:
                    # Noted first: while another version is opened, the one there is goes on answering.
                    self._looked = time.monotonic()
                    await self._look(engine)
        if self._asker is None:
            raise self._problem or ArtifactError(_HOW)
        return self._asker, self._version

    async def _look(self, engine: Engine) -> None:
        deployed = _stamp(self.settings)
        if self._asker is None or deployed != self._deployed:
            try:
                translator = await self._in_thread(lambda: self._open(self.settings, engine))
                # The corrections are taken in anew: a model may bring sentence vectors that tell better which questions are the same.
                self._learnt = _Learnt(Corrections(getattr(translator, "encode", None) or by_words))
                self._asker, self._version = Asker(translator, engine, self._learnt.memory), version_of(translator)
                self._problem, self._deployed = None, deployed
                logger.warning("questions are answered by %s", self._version)
            except StackError as exc:
                if str(exc) != str(self._problem):
                    logger.warning("questions: %s", exc)
                self._problem = exc if isinstance(exc, ArtifactError | UpstreamError) else ArtifactError(str(exc))

    async def _learn(self) -> None:
        """Take in the corrections made since the last question, here or in another replica."""
        learnt = self._learnt
        async with self._learning:
            for entry in await self._questions.corrections_above(learnt.seen):
                await self._in_thread(lambda entry=entry: learn(learnt.memory, entry))  # type: ignore[misc]
                learnt.seen = entry.seq


@dataclass
class _Learnt:
    """Corrections, and the last entry of their log that is inside."""

    memory: Corrections
    seen: int = 0


_HOW = f"no {BUNDLE} model is here, so questions cannot be read. Train one: regulars train text-to-sql; it is used at once."


def _translator(settings: ServeSettings, engine: Engine) -> Any:
    from nlq.translate import model_in, open_translator
    from ray_apps.decoder import open_decoder

    folder = model_in(settings.home)
    return open_translator(engine, folder=folder, decoder=open_decoder(settings, QuestionSettings.load(), folder))


def run(engine: Engine, sql: str, business_id: str, roles: frozenset[str], most: int) -> Rows:
    """SQL through both walls.

    Raises:
        QueryRefused: the guard refuses it, or it cannot be run. UpstreamTimeout: it took too long.
    """
    guarded = check(sql, business_id=business_id, roles=roles, row_limit=most)
    return engine.run(guarded.sql, business_id, limit=guarded.limit)


def learn(memory: Corrections, entry: LogEntry) -> None:
    """Take one entry of the corrections' log in."""
    if entry.removes is not None:
        memory.remove(entry.business_id, entry.removes)
        return
    columns = tuple(OutputColumn(name, kind) for name, kind in entry.columns)  # type: ignore[arg-type]
    memory.add(Correction(entry.correction_id, entry.business_id, entry.question, entry.sql, entry.interpretation, columns))


def reading_of(again: Again, rows: Rows) -> Translation:
    """The reading of an earlier answer, for its sentence and its chart."""
    kinds = dict(again.columns)
    columns = tuple(OutputColumn(n, kinds[n]) for n in rows.columns if n in kinds)  # type: ignore[arg-type]
    return Translation(
        question=again.question, refused=False, sql=again.sql, interpretation=again.interpretation, confidence=again.confidence,
        columns=columns if len(columns) == len(rows.columns) else (),
    )  # fmt: skip


def asked_of(answer: Answer, version: str) -> Asked:
    """An answer as it crosses to the ingress."""
    return Asked(
        question=answer.question,
        refused=answer.refused,
        reason=answer.reason,
        message=answer.message,
        interpretation=answer.interpretation,
        sql=None if answer.refused else answer.sql,
        columns=tuple((c.name, c.kind) for c in answer.columns),
        rows=answer.rows,
        sentence=answer.sentence,
        chart=answer.chart,
        related=answer.related,
        confidence=float(answer.confidence),
        source=answer.source,
        model_version=version,
        ms=dict(answer.ms),
    )


def _drawn(translation: Translation, rows: Rows, scale: float) -> bytes | None:
    from nlq.chart import choose, png

    chart = choose(translation, rows)
    return None if chart is None else png(chart, scale)


def version_of(translator: Any) -> str:
    """As answers name the model."""
    found = getattr(translator, "version", None) or getattr(translator, "name", None) or "unknown"
    return found if "/" in str(found) else f"{BUNDLE}/{found}"


def _stamp(settings: ServeSettings) -> object:
    """Changes when there is another model to use."""
    from nlq.translate import MODEL, model_in

    try:
        found = (model_in(settings.home) / MODEL).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
