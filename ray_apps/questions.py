"""Plain-English questions in the operational database: every one that was asked, those that were kept, and what analysts corrected.

`questions` is the audit: rows are only ever added, and triggers of the database refuse to change or delete one. It holds who asked, when,
what, the SQL and how many rows came, never the rows, nor a sentence made of them. Corrections are a log, too: taking one back is one more
entry, so that a reader who knows the last entry's number sees by one look whether there are newer ones.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.errors import Conflict, UnknownItem
from ray_apps.store import Micros, OperationalStore, metadata

_SEQ = sa.BigInteger().with_variant(sa.Integer, "sqlite")
questions = sa.Table(
    "questions",
    metadata,
    sa.Column("seq", _SEQ, primary_key=True, autoincrement=True),
    sa.Column("question_id", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("business_id", sa.Text, nullable=False),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("asked_at", Micros, nullable=False),
    sa.Column("question", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("interpretation", sa.Text),
    sa.Column("sql", sa.Text),
    sa.Column("columns", sa.Text, nullable=False),
    sa.Column("row_limit", sa.Integer),
    sa.Column("row_count", sa.Integer),
    sa.Column("confidence", sa.Double),
    sa.Column("source", sa.Text),
    sa.Column("model_version", sa.Text, nullable=False),
    sa.Column("ms", sa.Double, nullable=False),
    sa.Index("questions_id", "business_id", "question_id"),
    sa.Index("questions_asked", "business_id", "action", "seq"),
    sqlite_autoincrement=True,
)
saved_questions = sa.Table(
    "saved_questions",
    metadata,
    sa.Column("saved_id", sa.Text, primary_key=True),
    sa.Column("business_id", sa.Text, nullable=False),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("question", sa.Text, nullable=False),
    sa.Column("created_at", Micros, nullable=False),
    sa.UniqueConstraint("business_id", "name", name="saved_questions_name"),
)
question_feedback = sa.Table(
    "question_feedback",
    metadata,
    sa.Column("seq", _SEQ, primary_key=True, autoincrement=True),
    sa.Column("question_id", sa.Text, nullable=False),
    sa.Column("business_id", sa.Text, nullable=False),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("correct", sa.Boolean, nullable=False),
    sa.Column("note", sa.Text),
    sa.Column("correction_id", sa.Text),
    sa.Column("created_at", Micros, nullable=False),
    sa.Index("question_feedback_question", "business_id", "question_id"),
    sqlite_autoincrement=True,
)
question_corrections = sa.Table(
    "question_corrections",
    metadata,
    sa.Column("seq", _SEQ, primary_key=True, autoincrement=True),
    sa.Column("correction_id", sa.Text, nullable=False),
    sa.Column("removes", sa.Text),
    sa.Column("business_id", sa.Text, nullable=False),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("question_id", sa.Text),
    sa.Column("question", sa.Text, nullable=False),
    sa.Column("sql", sa.Text, nullable=False),
    sa.Column("interpretation", sa.Text),
    sa.Column("columns", sa.Text, nullable=False),
    sa.Column("created_at", Micros, nullable=False),
    sa.UniqueConstraint("correction_id", name="question_corrections_id"),
    sa.UniqueConstraint("removes", name="question_corrections_removed_once"),
    sa.Index("question_corrections_business", "business_id", "seq"),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """One question as it was answered, or one later use of it.

    Attributes:
        action: `ask`, or what a later use of the answer was: `chart`, `csv`, `pdf`.
        sql: of the reading, before the guard: a later use passes the guard again, with the rights of whoever uses it.
        columns: of the result, (name, kind), in order.
        row_limit: rows that were asked for at most.
        row_count: rows that came.
        source: `model` or `correction`.
        ms: milliseconds in the server.
    """

    question_id: str
    business_id: str
    key_id: str
    role: str
    asked_at: datetime
    question: str
    outcome: str
    model_version: str
    ms: float
    action: str = "ask"
    reason: str | None = None
    interpretation: str | None = None
    sql: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    row_limit: int | None = None
    row_count: int | None = None
    confidence: float | None = None
    source: str | None = None

    def values(self) -> dict[str, Any]:
        plain = {c.name: _storable(getattr(self, c.name)) for c in questions.c if c.name not in ("seq", "columns")}
        return plain | {"columns": orjson.dumps(self.columns).decode()}


@dataclass(frozen=True, slots=True)
class SavedQuestion:
    """A question kept under a name that is unique in its business."""

    saved_id: str
    business_id: str
    key_id: str
    name: str
    question: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Correction:
    """What a question means, as an analyst said.

    Attributes:
        seq: grows with each entry of the log.
        removes: the correction that this entry takes back; then it is no correction itself.
        sql: before the guard, as in `AskedQuestion`. columns: as there; empty where not known.
    """

    seq: int
    correction_id: str
    business_id: str
    key_id: str
    question: str
    sql: str
    created_at: datetime
    question_id: str | None = None
    removes: str | None = None
    interpretation: str | None = None
    columns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a question means: SQL before the guard, its reading in words, its columns as (name, kind); the latter two where known."""

    sql: str
    interpretation: str | None = None
    columns: tuple[tuple[str, str], ...] = ()


class Page(NamedTuple):
    """Some of `total` records."""

    items: list[Any]
    total: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A saved question, and whether it is new."""

    saved: SavedQuestion
    created: bool = field(default=True)


def new_id(prefix: str) -> str:
    """A random id: 96 bits, so that nobody meets another's by chance."""
    return f"{prefix}-{secrets.token_hex(12)}"


class Questions:
    """The questions of the operational database.

    Every method raises UpstreamError if the database fails.
    """

    def __init__(self, store: OperationalStore) -> None:
        self._store = store

    async def record(self, asked: AskedQuestion) -> None:
        """Add one entry to the audit; it is on disk when this returns."""
        async with self._store.transaction() as connection:
            await connection.execute(sa.insert(questions).values(asked.values()))

    async def get(self, business_id: str, question_id: str) -> AskedQuestion:
        """A question as it was asked.

        Raises:
            UnknownItem: this business has no such question.
        """
        mine = (questions.c.business_id == business_id, questions.c.question_id == _storable(question_id), questions.c.action == "ask")
        async with self._store.reading() as connection:
            row = (await connection.execute(sa.select(questions).where(*mine))).mappings().first()
        if row is None:
            raise UnknownItem(f"there is no question {question_id}. Use the queryId of an answer to this business.")
        return _asked(row)

    async def history(self, business_id: str, limit: int, offset: int = 0, key_id: str | None = None) -> Page:
        """Questions of a business, newest first; of one key only where it is given."""
        mine = [questions.c.business_id == business_id, questions.c.action == "ask"]
        if key_id is not None:
            mine.append(questions.c.key_id == key_id)
        query = sa.select(questions).where(*mine).order_by(questions.c.seq.desc()).limit(limit).offset(offset)
        async with self._store.reading() as connection:
            total = (await connection.execute(sa.select(sa.func.count()).select_from(questions).where(*mine))).scalar_one()
            return Page([_asked(row) for row in (await connection.execute(query)).mappings()], total)

    async def save(self, business_id: str, key_id: str, name: str, question: str) -> Kept:
        """Keep a question under a name; the same again changes nothing.

        Raises:
            Conflict: the name is taken by another question.
        """
        made = SavedQuestion(new_id("sq"), business_id, key_id, name, question, datetime.now(UTC))
        row = {c.name: getattr(made, c.name) for c in saved_questions.c}
        statement = self._store.insert_into(saved_questions).values(row).on_conflict_do_nothing(index_elements=["business_id", "name"])
        async with self._store.transaction() as connection:
            created = (await connection.execute(statement.returning(saved_questions.c.saved_id))).first() is not None
            query = sa.select(saved_questions).where(saved_questions.c.business_id == business_id, saved_questions.c.name == name)
            found = SavedQuestion(**(await connection.execute(query)).mappings().one())
        if found.question != question:
            raise Conflict(f"the name {name!r} is taken by another question, a name is unique. Choose another, or delete {found.saved_id}.")
        return Kept(found, created)

    async def saved(self, business_id: str, limit: int, offset: int = 0) -> Page:
        """Kept questions of a business, by name."""
        mine = saved_questions.c.business_id == business_id
        query = sa.select(saved_questions).where(mine).order_by(saved_questions.c.name).limit(limit).offset(offset)
        async with self._store.reading() as connection:
            total = (await connection.execute(sa.select(sa.func.count()).select_from(saved_questions).where(mine))).scalar_one()
            return Page([SavedQuestion(**row) for row in (await connection.execute(query)).mappings()], total)

    async def forget(self, business_id: str, saved_id: str) -> None:
        """Delete a kept question.

        Raises:
            UnknownItem: this business keeps no such question.
        """
        mine = (saved_questions.c.business_id == business_id, saved_questions.c.saved_id == _storable(saved_id))
        async with self._store.transaction() as connection:
            gone = (await connection.execute(sa.delete(saved_questions).where(*mine))).rowcount
        if not gone:
            raise UnknownItem(f"there is no saved question {saved_id}. See them with GET /api/v1/ml/query/saved.")

    async def add_feedback(
        self, asked: AskedQuestion, key_id: str, correct: bool, note: str | None, means: Meaning | None
    ) -> Correction | None:
        """Record whether an answer was right and, with `means`, what answers its question from now on; both or neither.

        The same correction again changes nothing; another one of the same question takes its place.
        """
        now = datetime.now(UTC)
        async with self._store.transaction() as connection:
            correction = None if means is None else await self._correct(connection, asked, key_id, means, now)
            row = {
                "question_id": asked.question_id,
                "business_id": asked.business_id,
                "key_id": key_id,
                "correct": correct,
                "note": note,
                "correction_id": None if correction is None else correction.correction_id,
                "created_at": now,
            }
            await connection.execute(sa.insert(question_feedback).values(row))
        return correction

    async def _correct(self, connection: AsyncConnection, asked: AskedQuestion, key_id: str, means: Meaning, now: datetime) -> Correction:
        same = (question_corrections.c.business_id == asked.business_id, question_corrections.c.question == asked.question)
        for row in (await connection.execute(sa.select(question_corrections).where(*_in_force(), *same))).mappings():
            old = _corrected(row)
            if old.sql == means.sql:
                return old
            await self._remove(connection, old, key_id, now)
        made = {
            "correction_id": new_id("qc"),
            "business_id": asked.business_id,
            "key_id": key_id,
            "question_id": asked.question_id,
            "question": asked.question,
            "sql": means.sql,
            "interpretation": means.interpretation,
            "columns": orjson.dumps(means.columns).decode(),
            "created_at": now,
        }
        return await self._log(connection, made)

    async def _log(self, connection: AsyncConnection, values: Mapping[str, Any]) -> Correction:
        statement = sa.insert(question_corrections).values(dict(values)).returning(question_corrections)
        return _corrected((await connection.execute(statement)).mappings().one())

    async def _remove(self, connection: AsyncConnection, old: Correction, key_id: str, now: datetime) -> None:
        plain = {"business_id": old.business_id, "question": old.question, "sql": old.sql, "question_id": old.question_id, "columns": "[]"}
        made = plain | {"correction_id": new_id("qr"), "removes": old.correction_id, "key_id": key_id, "created_at": now}
        await self._log(connection, made)

    async def take_back(self, business_id: str, correction_id: str, key_id: str) -> None:
        """End a correction.

        Raises:
            UnknownItem: this business has no such correction in force.
        """
        mine = (question_corrections.c.business_id == business_id, question_corrections.c.correction_id == _storable(correction_id))
        async with self._store.transaction() as connection:
            row = (await connection.execute(sa.select(question_corrections).where(*_in_force(), *mine))).mappings().first()
            if row is None:
                raise UnknownItem(f"there is no correction {correction_id} in force. See them with GET /api/v1/ml/query/corrections.")
            await self._remove(connection, _corrected(row), key_id, datetime.now(UTC))

    async def corrections(self, business_id: str, limit: int, offset: int = 0) -> Page:
        """Corrections of a business in force, newest first."""
        mine = (*_in_force(), question_corrections.c.business_id == business_id)
        query = sa.select(question_corrections).where(*mine).order_by(question_corrections.c.seq.desc()).limit(limit).offset(offset)
        async with self._store.reading() as connection:
            total = (await connection.execute(sa.select(sa.func.count()).select_from(question_corrections).where(*mine))).scalar_one()
            return Page([_corrected(row) for row in (await connection.execute(query)).mappings()], total)

    async def corrections_above(self, seq: int, limit: int = 10_000) -> Sequence[Correction]:
        """Entries of the corrections' log above a number, oldest first, of all businesses."""
        query = sa.select(question_corrections).where(question_corrections.c.seq > seq).order_by(question_corrections.c.seq).limit(limit)
        async with self._store.reading() as connection:
            return [_corrected(row) for row in (await connection.execute(query)).mappings()]


def _in_force() -> tuple[sa.ColumnElement[bool], ...]:
    """Corrections that are neither a taking back nor taken back."""
    ends = question_corrections.alias("ends")
    taken_back = sa.select(ends.c.seq).where(ends.c.removes == question_corrections.c.correction_id).exists()
    return question_corrections.c.removes.is_(None), ~taken_back


def _storable(value: Any) -> Any:
    """Text without NUL, which PostgreSQL cannot hold."""
    return value.replace("\x00", " ") if isinstance(value, str) else value


def _asked(row: Mapping[Any, Any]) -> AskedQuestion:
    plain = {c.name: row[c.name] for c in questions.c if c.name not in ("seq", "columns")}
    return AskedQuestion(**plain, columns=_columns(row))


def _corrected(row: Mapping[Any, Any]) -> Correction:
    return Correction(**{**row, "columns": _columns(row)})


def _columns(row: Mapping[Any, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((name, kind) for name, kind in orjson.loads(row["columns"]))
