"""Questions in the operational database: the audit, kept questions, corrections."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from contracts.errors import Conflict, UnknownItem, UpstreamError
from ray_apps.keys import create_key
from ray_apps.migrations import config, upgrade_async
from ray_apps.questions import AskedQuestion, Meaning, Questions, new_id, question_corrections, question_feedback, questions
from ray_apps.store import OperationalStore

NOW = datetime(2026, 10, 14, 9, 30, tzinfo=UTC)


def asked(question_id: str = "q-1", business: str = "biz-1", **more: Any) -> AskedQuestion:
    values = {"question": "How many customers?", "outcome": "answered", "sql": "SELECT count(*) AS n FROM customers", "key_id": "k1"}
    values |= {"role": "analyst", "asked_at": NOW, "model_version": "text-to-sql/1", "ms": 12.5, "columns": (("n", "number"),)}
    return AskedQuestion(question_id=question_id, business_id=business, **{**values, "row_count": 1, "confidence": 0.9, **more})


async def test_a_question_is_kept_as_it_was_asked(store: OperationalStore) -> None:
    found = Questions(store)
    refused = asked("q-2", outcome="refused", reason="hostile", sql=None, columns=(), row_count=None)
    for one in (asked(), refused, asked("q-3", "biz-2"), asked("q-1", action="csv", key_id="k2")):
        await found.record(one)
    assert await found.get("biz-1", "q-1") == asked()
    assert await found.get("biz-1", "q-2") == refused
    page = await found.history("biz-1", 10)
    assert ([q.question_id for q in page.items], page.total) == (["q-2", "q-1"], 2)  # a later use is no question
    assert [q.question_id for q in (await found.history("biz-1", 1, 1)).items] == ["q-1"]
    assert (await found.history("biz-1", 10, key_id="k2")).total == 0
    for business, question_id in (("biz-1", "q-3"), ("biz-2", "q-1"), ("biz-1", "q\x00")):
        with pytest.raises(UnknownItem, match="there is no question"):
            await found.get(business, question_id)


async def test_nul_is_no_reason_to_lose_a_question(store: OperationalStore) -> None:
    found = Questions(store)
    await found.record(asked(question="a\x00b"))
    assert (await found.get("biz-1", "q-1")).question == "a b"


@pytest.mark.parametrize("table", [questions, question_corrections], ids=lambda t: t.name)
async def test_the_database_itself_refuses_to_change_what_was_asked(store: OperationalStore, table: sa.Table) -> None:
    found = Questions(store)
    await found.record(asked())
    await found.add_feedback(asked(), "k1", False, None, Meaning("SELECT 1"))
    for statement in (sa.update(table).values(question="other"), sa.delete(table)):
        with pytest.raises(UpstreamError, match="failed"):
            async with store.transaction() as connection:
                await connection.execute(statement)
    async with store.reading() as connection:
        assert [r.question for r in await connection.execute(sa.select(table))] == ["How many customers?"]


async def test_a_kept_question_has_a_name_of_its_own(store: OperationalStore) -> None:
    found = Questions(store)
    first = await found.save("biz-1", "k1", "Mine", "How many customers?")
    again = await found.save("biz-1", "k2", "Mine", "How many customers?")
    assert (first.created, again.created, again.saved) == (True, False, first.saved)
    with pytest.raises(Conflict, match="the name 'Mine' is taken"):
        await found.save("biz-1", "k1", "Mine", "Another?")
    assert (await found.save("biz-2", "k9", "Mine", "Another?")).created
    await found.save("biz-1", "k1", "A", "First by name?")
    page = await found.saved("biz-1", 1)
    assert ([s.name for s in page.items], page.total) == (["A"], 2)
    with pytest.raises(UnknownItem, match="no saved question"):
        await found.forget("biz-2", first.saved.saved_id)
    await found.forget("biz-1", first.saved.saved_id)
    with pytest.raises(UnknownItem, match="no saved question"):
        await found.forget("biz-1", first.saved.saved_id)
    assert (await found.saved("biz-1", 10)).total == 1


async def test_of_a_question_one_correction_is_in_force(store: OperationalStore) -> None:
    found = Questions(store)
    assert await found.add_feedback(asked(), "k1", True, "fine", None) is None
    first = await found.add_feedback(asked(), "k1", False, None, Meaning("SELECT 1"))
    same = await found.add_feedback(asked(), "k2", False, None, Meaning("SELECT 1"))
    second = await found.add_feedback(asked(), "k2", False, None, Meaning("SELECT 2"))
    other = await found.add_feedback(asked("q-9", "biz-2"), "k9", False, None, Meaning("SELECT 3"))
    assert first is not None
    assert second is not None
    assert other is not None
    assert same == first
    page = await found.corrections("biz-1", 10)
    assert ([c.sql for c in page.items], page.total) == (["SELECT 2"], 1)
    log = await found.corrections_above(0)
    assert [(c.sql, c.removes) for c in log] == [
        ("SELECT 1", None),
        ("SELECT 1", first.correction_id),
        ("SELECT 2", None),
        ("SELECT 3", None),
    ]
    assert [c.seq for c in await found.corrections_above(second.seq)] == [other.seq]
    with pytest.raises(UnknownItem, match="in force"):
        await found.take_back("biz-2", second.correction_id, "k9")
    await found.take_back("biz-1", second.correction_id, "k1")
    with pytest.raises(UnknownItem, match="in force"):
        await found.take_back("biz-1", second.correction_id, "k1")
    assert (await found.corrections("biz-1", 10)).total == 0
    async with store.reading() as connection:
        kept = [tuple(r) for r in await connection.execute(sa.select(question_feedback.c.correct, question_feedback.c.note))]
    assert kept == [(True, "fine"), (False, None), (False, None), (False, None), (False, None)]


async def test_going_back_a_migration_keeps_the_keys(database_url: str) -> None:
    store = OperationalStore(database_url)
    made = await create_key(store, "biz-1", "private_reader", "may see birth dates")
    other = await create_key(store, "biz-1", "app", "app")
    async with store.transaction() as connection:
        await connection.run_sync(lambda c: command.downgrade(config(c), "0003_batch_jobs"))
    assert {k.key_id: k.role for k in await store.keys()} == {made.row.key_id: "analyst", other.row.key_id: "app"}
    with pytest.raises(UpstreamError, match="failed"):
        await create_key(store, "biz-1", "private_reader", "unknown again")
    await store.close()
    await upgrade_async(database_url)
    store = OperationalStore(database_url)
    assert len(await store.keys()) == 2
    await store.close()


def test_ids_are_long_and_differ() -> None:
    ids = {new_id("q") for _ in range(100)}
    assert len(ids) == 100
    assert all(len(i) == 26 for i in ids)
