"""The file of training pairs, made in chunks by several processes; a chunk depends on its number and the seed only."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np

from nlq.corpus.bank import Line, read
from nlq.corpus.check import open_business, values_of
from nlq.corpus.pairs import Pair, pairs
from nlq.link import Catalog, Linker
from warehouse.store import Warehouse

CHUNK = 5_000
_CUSTOMERS = 200


@dataclass(frozen=True)
class Recipe:
    """What pairs are made of.

    Attributes:
        root: of the sample warehouse, whose `biz-1` gives the values.
        known: words that are never taken for misspelt values.
        execute: run programs on the sample warehouse and leave out what fails.
    """

    root: Path
    known: frozenset[str]
    bank_share: float
    execute: bool
    seed: int


def chunks(recipe: Recipe, count: int, workers: int = 0) -> Iterator[list[Pair]]:
    """`count` pairs in order of their chunks.

    Args:
        workers: processes; as many as there are processors when 0.

    Raises:
        ContractError: a line of the bank is wrong.
    """
    lines = read()  # here, so that what is wrong with them is said once and plainly
    sizes = [min(CHUNK, count - start) for start in range(0, count, CHUNK)]
    workers = min(workers or os.cpu_count() or 1, len(sizes))
    # Fresh processes: DuckDB and tokenizers have threads, which a fork would lose.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_open, initargs=(recipe, lines)) as pool:
        yield from pool.map(_chunk, range(len(sizes)), sizes)


@dataclass(frozen=True)
class _Opened:
    recipe: Recipe
    linker: Linker
    values: dict[str, list[str]]
    lines: list[Line]
    connection: duckdb.DuckDBPyConnection


_opened: _Opened | None = None


def _open(recipe: Recipe, lines: list[Line]) -> None:
    global _opened
    connection = open_business(recipe.root, "biz-1")
    linker = Linker(Catalog.read(connection, "biz-1", Warehouse(recipe.root).as_of("biz-1")), recipe.known)
    values = values_of(connection)
    _thin(connection)
    _opened = _Opened(recipe, linker, values, lines, connection)


def _thin(connection: duckdb.DuckDBPyConnection) -> None:
    """Keep the rows of some customers: whether a program runs does not hang on how many there are."""
    some = f"(SELECT customer_id FROM customers ORDER BY customer_id LIMIT {_CUSTOMERS})"  # noqa: S608 - our own number
    for table in ("transactions", "events", "tickets", "customer_risk_scores", "customers"):
        connection.execute(f"DELETE FROM {table} WHERE customer_id NOT IN {some}")  # noqa: S608 - our own names
    connection.execute("DELETE FROM transaction_items WHERE transaction_id NOT IN (SELECT transaction_id FROM transactions)")


def _chunk(number: int, size: int) -> list[Pair]:
    assert _opened is not None  # noqa: S101 - the initializer ran
    o, recipe = _opened, _opened.recipe
    made = pairs(
        o.linker, o.values, o.lines, np.random.default_rng([recipe.seed, number]), bank_share=recipe.bank_share,
        connection=o.connection if recipe.execute else None,
    )  # fmt: skip
    return list(itertools.islice(made, size))


def write(found: list[Pair]) -> str:
    """Pairs as lines of JSON."""
    return "".join(json.dumps([p.text, p.program, p.source]) + "\n" for p in found)
