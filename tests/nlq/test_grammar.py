"""Composed questions: what is asked and what is meant fit together."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import duckdb
import numpy as np
import pytest

from contracts.errors import ContractError
from nlq.corpus.bank import Values
from nlq.corpus.check import open_business, values_of
from nlq.corpus.grammar import GROUPS, METRICS, TIMES, Grammar, _one
from nlq.link import Catalog, Linker
from nlq.lower import lower
from nlq.program import parse
from nlq.vocabulary import tokens
from warehouse.store import Warehouse

DRAWS = 300


@pytest.fixture(scope="module")
def business(small_home: Path) -> tuple[duckdb.DuckDBPyConnection, Values, Linker]:
    root = small_home / "warehouse"
    connection = open_business(root, "biz-1")
    return connection, values_of(connection), Linker(Catalog.read(connection, "biz-1", Warehouse(root).as_of("biz-1")))


def draws(values: Values, seed: int, count: int) -> list[tuple[str, str]]:
    grammar = Grammar(values, np.random.default_rng(seed))
    return [grammar.draw() for _ in range(count)]


def test_nearly_all_questions_link_to_what_their_programs_name_and_run(business: tuple[duckdb.DuckDBPyConnection, Values, Linker]) -> None:
    connection, values, linker = business
    failed, kinds = [], Counter[str]()
    for question, program in draws(values, 1, DRAWS):
        linked = linker.link(question)
        try:
            tree = parse(program, linked.slots())
            connection.execute(lower(tree, linked, linker.catalog.as_of).sql).fetchmany(1)
        except ContractError as exc:  # a DuckDB error is a fault of the lowering, and ends the test
            failed.append((question, linked.text, program, str(exc)[:60]))
            continue
        kinds[program.split()[1]] += 1
    assert len(failed) <= 0.03 * DRAWS, failed
    assert len(kinds) > 15  # all sorts of questions come


def test_the_same_seed_gives_the_same_questions(business: tuple[duckdb.DuckDBPyConnection, Values, Linker]) -> None:
    values = business[1]
    assert draws(values, 5, 40) == draws(values, 5, 40)
    assert draws(values, 5, 40) != draws(values, 6, 40)


def test_questions_are_plain_text_and_programs_are_of_the_language(business: tuple[duckdb.DuckDBPyConnection, Values, Linker]) -> None:
    known = set(tokens())
    for question, program in draws(business[1], 2, 200):
        assert not re.search(r"[\x00-\x1f{}|]", question), question
        assert question == " ".join(question.split())
        assert set(program.split()) <= known
        assert program.endswith(" end")


def test_slots_are_numbered_as_they_are_said(business: tuple[duckdb.DuckDBPyConnection, Values, Linker]) -> None:
    """A program may name slots in any order, but none that a question does not have, and all that it has."""
    for question, program in draws(business[1], 3, 200):
        for kind in "NVT":
            used = {int(t[1:]) for t in program.split() if re.fullmatch(kind + r"\d", t)}
            assert used == set(range(len(used))), (question, program)


def test_questions_vary(business: tuple[duckdb.DuckDBPyConnection, Values, Linker]) -> None:
    found = draws(business[1], 4, 200)
    assert len({q for q, _ in found}) > 190
    assert len({p for _, p in found}) > 150


def test_every_metric_is_a_program_by_itself() -> None:
    for m in METRICS:
        where = f" ; ; {m.where}" if m.where else ""
        assert parse(f"agg {m.tokens}{where} end").table == m.base or "ratio" in m.tokens


def test_every_group_goes_with_its_table() -> None:
    for base, groups in GROUPS.items():
        for _, _, token in groups:
            parse(f"agg count {base} ; {token} end")
    for base, column in TIMES.items():
        parse(f"agg count {base} ; month {column} end")


@pytest.mark.parametrize(("many", "one"), [("people", "person"), ("customers", "customer"), ("business", "business")])
def test_a_noun_in_the_singular(many: str, one: str) -> None:
    assert _one(many) == one
