"""Pairs to train on: linked, roughened, and nothing that is held out."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from nlq.corpus.bank import Line, held_out, read
from nlq.corpus.check import open_business, values_of
from nlq.corpus.pairs import Pair, pairs, roughen, typo
from nlq.link import Catalog, Linker
from nlq.program import parse
from warehouse.store import Warehouse

MARKED = "how many gold customers in [V0] [customers.location] bought more than [N0] products [T0]"


@pytest.fixture(scope="module")
def made(small_home: Path) -> list[Pair]:
    root = small_home / "warehouse"
    connection = open_business(root, "biz-1")
    linker = Linker(Catalog.read(connection, "biz-1", Warehouse(root).as_of("biz-1")))
    found = pairs(linker, values_of(connection), read(), np.random.default_rng(0), connection=connection)
    return list(itertools.islice(found, 400))


def test_held_out_programs_never_come(made: list[Pair]) -> None:
    lines = read()
    held = {line.program for line in lines if held_out(line) and line.program != "refuse end"}
    assert len(held) > 50
    assert not held & {p.program for p in made}
    where = {line.where for line in lines if held_out(line)}
    assert not where & {p.source for p in made}


def test_a_held_out_program_does_not_come_from_the_grammar_either(small_home: Path) -> None:
    root = small_home / "warehouse"
    connection = open_business(root, "biz-1")
    linker, values = Linker(Catalog.read(connection, "biz-1", Warehouse(root).as_of("biz-1"))), values_of(connection)
    free = [p.program for p in itertools.islice(pairs(linker, values, [], np.random.default_rng(1)), 150)]
    kept = {p for p in free if held_out(Line("", p, ""))}
    assert kept, "no program of the draw would be held out, so this test says nothing: draw more"
    shut = [p.program for p in itertools.islice(pairs(linker, values, [Line("x", p, "") for p in kept], np.random.default_rng(1)), 150)]
    assert not kept & set(shut)


def test_pairs_are_linked_and_their_programs_fit(made: list[Pair]) -> None:
    for p in made:
        tree = parse(p.program)
        if tree.kind != "refuse":
            named = {t for t in p.program.split() if re.fullmatch(r"[NVT]\d", t)}
            assert named <= set(re.findall(r"\[([NVT]\d)\]", p.text)), p


def test_both_sources_and_refusals_are_there(made: list[Pair]) -> None:
    shares = [p.source == "grammar" for p in made]
    assert 0.35 < sum(shares) / len(shares) < 0.65
    assert any(p.program == "refuse end" for p in made)


def test_the_same_seed_gives_the_same_pairs(small_home: Path, made: list[Pair]) -> None:
    root = small_home / "warehouse"
    connection = open_business(root, "biz-1")
    linker = Linker(Catalog.read(connection, "biz-1", Warehouse(root).as_of("biz-1")))
    again = pairs(linker, values_of(connection), read(), np.random.default_rng(0), connection=connection)
    assert list(itertools.islice(again, 40)) == made[:40]


def test_roughening_keeps_slots_whole_and_changes_the_rest() -> None:
    found = {roughen(MARKED, np.random.default_rng(seed), typos=1.0) for seed in range(300)}
    marks = re.findall(r"\[[^\]]+\]", MARKED)
    assert all(re.findall(r"\[[^\]]+\]", f) == marks for f in found)
    assert len(found) > 100
    assert MARKED not in found or len(found) > 200


def test_without_typos_most_questions_keep_their_words() -> None:
    found = [roughen("number of customers in [V0]", np.random.default_rng(seed), typos=0.0) for seed in range(200)]
    assert all({"customers", "in", "[V0]"} <= set(f.rstrip("?. ").split() + re.findall(r"\[V0\]", f)) for f in found)
    assert "number of customers in [V0]" in found


def test_a_typo_is_one_letter_away() -> None:
    kinds = set()
    for seed in range(200):
        made = typo("customers", np.random.default_rng(seed))
        assert made[0] == "c"
        assert abs(len(made) - 9) <= 1
        kinds.add(len(made) - 9)
    assert kinds == {-1, 0, 1}
