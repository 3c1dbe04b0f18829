"""The words of programs fit the warehouse's tables, and their order is that of the trained model."""

from __future__ import annotations

import json

from contracts.tables import TABLES as STORED
from nlq.link import Linked
from nlq.program import Automaton, Slots
from nlq.tokens import marks
from nlq.translate import ARTIFACT, MODEL
from nlq.vocabulary import (
    CONDITIONS,
    CONSTANTS,
    DEFAULT_COLUMNS,
    DOWN,
    ENTITIES,
    NUMBER_SLOTS,
    SLOTS,
    TABLES,
    TIME,
    TIME_SLOTS,
    UP,
    VALUE_SLOTS,
    WRAPPED,
    fields,
    token_ids,
    tokens,
)


def test_columns_are_those_of_the_warehouse() -> None:
    assert set(TABLES) == set(STORED)
    for field in fields().values():
        assert field.virtual or field.name in STORED[field.table].schema.names, field.token
        assert not (field.virtual and field.name in STORED[field.table].schema.names and field.name != "customer_id"), field.token
        assert not (field.virtual and field.open)
    named = {f.token for f in fields().values()}
    left_out = {f"{t}.{c}" for t, table in STORED.items() for c in table.schema.names} - named
    assert {c.split(".")[1] for c in left_out} == {"business_id", "transaction_id", "metadata"}


def test_private_columns_are_marked() -> None:
    assert {t for t, f in fields().items() if f.private} == {"customers.email", "customers.birth_date", "customers.birth_month"}


def test_each_token_is_one_word_and_has_one_id() -> None:
    words = tokens()
    assert len(set(words)) == len(words)
    assert token_ids() == {word: i for i, word in enumerate(words)}
    assert words[:3] == ("<pad>", "<start>", "end")
    assert not any(any(c.isspace() for c in w) for w in words)


def test_the_order_is_that_of_the_trained_model() -> None:
    record = json.loads((ARTIFACT / MODEL).read_text(encoding="utf-8"))
    assert record["tokens"] == list(tokens())[: len(record["tokens"])]  # words are only ever appended
    assert record["marks"] == list(marks())


def test_enums_have_values_and_only_enums() -> None:
    for field in fields().values():
        assert bool(field.values) == (field.type == "enum"), field.token


def test_tables_reach_themselves_and_what_those_reach() -> None:
    assert set(UP) == set(DOWN) == set(DEFAULT_COLUMNS) == set(TABLES)
    for table, up in UP.items():
        assert table in up
        for other in up:
            assert set(UP[other]) <= set(up), (table, other)
        assert not set(DOWN[table]) - set(TABLES)
    assert all(f"{e}.name" in fields() for e in ENTITIES)


def test_times_and_default_columns_are_columns() -> None:
    for table, name in TIME.items():
        field = fields()[name if "." in name else f"{table}.{name}"]
        assert field.type == "time"
        assert field.table in UP[table]
    for table, names in DEFAULT_COLUMNS.items():
        assert all(f"{table}.{n}" in fields() or n == "transaction_id" for n in names)


def test_there_are_as_many_slots_as_a_question_may_fill() -> None:
    assert len(SLOTS) == NUMBER_SLOTS + VALUE_SLOTS + TIME_SLOTS
    assert set(SLOTS) <= set(marks())
    assert Linked("", "").slots() == Slots()
    assert all(float(word.removeprefix("#")) == number for word, number in CONSTANTS.items())


def test_every_operator_may_be_said_somewhere() -> None:
    automaton = Automaton(Slots(1, (frozenset({"customers.location"}),), 1))
    automaton.push("agg")
    assert set(WRAPPED) <= automaton.allowed()
    for token in ("count", "customers", ";", ";"):
        automaton.push(token)
    assert set(CONDITIONS) <= automaton.allowed()
