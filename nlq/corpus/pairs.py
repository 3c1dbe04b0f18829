"""Pairs to train on: questions of the bank and of the grammar, linked as they will be in use, roughened as people type."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import numpy as np

from contracts.errors import ContractError
from nlq.corpus.bank import Line, Values, expand, held_out
from nlq.corpus.grammar import Grammar
from nlq.link import Linker
from nlq.lower import lower
from nlq.program import MAX_TOKENS, parse

_BEFORE = (
    "please ", "hi, ", "hey, ", "can you tell me ", "could you tell me ", "i want to know ", "i'd like to know ", "tell me ", "show me ", "give me ",
    "quick question: ", "hello, ", "pls ", "do you know ", "let me know ", "i need ", "could you show me ", "what about ", "ok so ", "and ",
)  # fmt: skip
_AFTER = (" please", " pls", "?", "?", "?", "?", " thanks", ".", " ?", "??", " for me", " asap", " thank you")
_RUNS = 2
"""So often a program is run: what differs afterwards are values in its slots."""
_MARK = re.compile(r"\[[A-Za-z0-9_.]+\]")


@dataclass(frozen=True)
class Pair:
    """A linked question and its program; `source` is `grammar` or the bank's file and line."""

    text: str
    program: str
    source: str


def roughen(text: str, rng: np.random.Generator, typos: float = 0.15) -> str:
    """A linked question as it might be typed: lead-ins, endings, lost articles, typos. Slots and hints stay whole."""
    if rng.random() < 0.12:
        text = _BEFORE[rng.integers(len(_BEFORE))] + text
    if rng.random() < 0.35 and not text.endswith(("?", ".")):
        text += _AFTER[rng.integers(len(_AFTER))]
    if rng.random() < 0.08:
        text = re.sub(r"\b(?:the|a|an|our|of) ", lambda m: "" if rng.random() < 0.6 else m[0], text)
    if rng.random() < typos:
        words = text.split(" ")
        plain = [i for i, w in enumerate(words) if len(w) > 3 and w.isalpha() and not _MARK.search(w)]
        for i in rng.permutation(plain)[: 1 + int(rng.random() < 0.3)]:
            words[i] = typo(words[i], rng)
        text = " ".join(words)
    return text


def typo(word: str, rng: np.random.Generator) -> str:
    """One letter lost, doubled, swapped with the next, or replaced."""
    at = int(rng.integers(1, len(word) - 1))
    how = rng.integers(4)
    if how == 0:
        return word[:at] + word[at + 1 :]
    if how == 1:
        return word[:at] + word[at] + word[at:]
    if how == 2:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + chr(ord("a") + int(rng.integers(26))) + word[at + 1 :]


def pairs(
    linker: Linker,
    values: Values,
    lines: list[Line],
    rng: np.random.Generator,
    *,
    bank_share: float = 0.5,
    connection: duckdb.DuckDBPyConnection | None = None,
) -> Iterator[Pair]:
    """Endless pairs. One whose question does not link to what its program names is left out, and so is every program that is held out.

    Args:
        connection: where given, each program is also lowered and executed the first times it comes, and left out if that fails.
    """
    runs: Counter[str] = Counter()
    failed: set[str] = set()
    grammar = Grammar(values, rng)
    held = {line.program for line in lines if held_out(line) and not line.program.startswith("refuse")}
    lines = [line for line in lines if not held_out(line)]
    order: list[int] = []
    while True:
        if lines and rng.random() < bank_share:
            if not order:
                order = list(rng.permutation(len(lines)))
            line = lines[order.pop()]
            question, program, source = expand(line, values, rng), line.program, line.where
        else:
            question, program = grammar.draw()
            source = "grammar"
        if program in held or program in failed:
            continue
        linked = linker.link(question)
        try:
            tree = parse(program, linked.slots())
            if len(program.split()) >= MAX_TOKENS:
                continue
        except ContractError:
            continue
        if connection is not None and tree.kind != "refuse" and runs[program] < _RUNS:
            runs[program] += 1
            try:
                connection.execute(lower(tree, linked, linker.catalog.as_of).sql).fetchmany(1)
            except (ContractError, duckdb.Error):
                failed.add(program)
                continue
        yield Pair(roughen(linked.text, rng), program, source)
