"""A seeded loyalty programme to try everything on: a coffee, bakery and grocery retailer, its customers and what they do.

`generate` yields the contract's tables in chunks; `generate_into` lands them, resumes after an interruption and refuses to mix
two programmes in one business. The model lies in `warehouse.generator`: tastes, habits, seasons, campaigns, bad days and churn.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.errors import ConfigError
from warehouse.generator.assemble import campaigns_table, events_table, products_table, purchase_tables, rewards_table, tickets_table
from warehouse.generator.behaviour import Block
from warehouse.generator.catalogue import World, build_world
from warehouse.generator.people import customers_table, draw_people
from warehouse.generator.settings import BLOCK, GeneratorSettings
from warehouse.generator.truth import SAMPLE, TruthRecorder
from warehouse.store import LandingReport, Warehouse

__all__ = ["GeneratorSettings", "generate", "generate_into"]

Progress = Callable[[int, int], None]
Chunk = tuple[str, str, pa.Table]
SHARED_TABLES = ("products", "rewards", "campaigns")
BLOCK_TABLES = ("customers", "transactions", "transaction_items", "events", "tickets")
TRUTH_TABLES = ("redemptions", "churn", "traits")


def generate(
    settings: GeneratorSettings,
    progress: Progress | None = None,
    *,
    landed: Callable[[str, str], bool] | None = None,
    truth: Path | None = None,
) -> Iterator[Chunk]:
    """Generate every table of every business, chunk by chunk.

    Args:
        progress: called as progress(done, total) in customer-weeks.
        landed: says whether (table, source) is in the warehouse; a chunk of customers that is wholly there is not computed again.
        truth: folder for the model's own probabilities, one subfolder a business; None writes none.

    Yields:
        (table, source, rows) in the schema of the contract; `source` names the chunk, the same for the same settings.
    """
    meter = _Meter(settings, progress)
    for business in settings.business_ids():
        world = build_world(settings, business)
        for table, build in zip(SHARED_TABLES, (products_table, rewards_table, campaigns_table), strict=True):
            yield table, _source(settings, business, table, 0), build(business, world)
        for number in range(_blocks(settings)):
            if landed is not None and _is_done(settings, business, number, landed, truth):
                meter.skip(_block_size(settings, number))
            else:
                yield from _block(settings, business, world, number, meter, truth)


def _block(settings: GeneratorSettings, business: str, world: World, number: int, meter: _Meter, truth: Path | None) -> Iterator[Chunk]:
    size = _block_size(settings, number)
    entropy = [settings.seed, *business.encode()]
    people_rng, life_rng, truth_rng = (np.random.default_rng(s) for s in np.random.SeedSequence(entropy, spawn_key=(1, number)).spawn(3))
    people = draw_people(world, number * BLOCK, size, people_rng)
    recorder = TruthRecorder(business, min(1.0, SAMPLE / settings.customers), truth_rng) if truth is not None else None
    block = Block(world, people, life_rng, recorder)
    block.run(lambda: meter.advance(size))
    if truth is not None and recorder is not None:
        for name, rows in recorder.tables(block).items():
            _write_atomically(rows, _truth_file(truth, settings, business, name, number))
    transactions, items = purchase_tables(business, block, number)
    tables = {
        "customers": customers_table(business, people, block.state.tier, block.state.balance),
        "transactions": transactions,
        "transaction_items": items,
        "events": events_table(business, block, number),
        "tickets": tickets_table(business, block, number),
    }
    for table in BLOCK_TABLES:
        yield table, _source(settings, business, table, number), tables.pop(table)


def _blocks(settings: GeneratorSettings) -> int:
    return -(-settings.customers // BLOCK)


def _block_size(settings: GeneratorSettings, number: int) -> int:
    return min(BLOCK, settings.customers - number * BLOCK)


def _source(settings: GeneratorSettings, business: str, table: str, number: int) -> str:
    return f"generate-{settings.digest()}-{business}-{table}-{number}"


def _truth_file(truth: Path, settings: GeneratorSettings, business: str, name: str, number: int) -> Path:
    return truth / business / f"{name}-{number:04d}-{settings.digest()}.parquet"


def _is_done(settings: GeneratorSettings, business: str, number: int, landed: Callable[[str, str], bool], truth: Path | None) -> bool:
    written = truth is None or all(_truth_file(truth, settings, business, name, number).is_file() for name in TRUTH_TABLES)
    return written and all(landed(table, _source(settings, business, table, number)) for table in BLOCK_TABLES)


def _write_atomically(rows: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    pq.write_table(rows, temporary, compression="zstd")
    temporary.replace(path)


class _Meter:
    """Customer-weeks done so far."""

    def __init__(self, settings: GeneratorSettings, progress: Progress | None) -> None:
        self.weeks, self.progress, self.done = settings.window().weeks, progress, 0
        self.total = settings.customers * settings.businesses * self.weeks

    def advance(self, customer_weeks: int) -> None:
        self.done += customer_weeks
        if self.progress:
            self.progress(self.done, self.total)

    def skip(self, customers: int) -> None:
        self.advance(customers * self.weeks)


def generate_into(
    home: Path, warehouse: Warehouse, settings: GeneratorSettings, progress: Progress | None = None
) -> Iterator[LandingReport]:
    """Generate and land; whatever was landed before with the same settings is left as it is.

    The settings of each business are kept in `<home>/generated/<business>.json` before anything is landed.

    Raises:
        ConfigError: a business is in the warehouse already, from elsewhere or with other settings.
    """
    for business in settings.business_ids():
        _claim(home, warehouse, settings, business)
    sources = warehouse.sources()
    truth = home / "truth" if settings.truth else None
    for table, source, rows in generate(settings, progress, landed=lambda t, s: s in sources.get(t, ()), truth=truth):
        yield warehouse.land(table, rows, source)


def recorded_end(home: Path, settings: GeneratorSettings) -> str | None:
    """The end date of an earlier run that differs at most in `end`, so that a repeat tomorrow goes on with it; None where there is none."""
    record = _read_record(home, settings.business_id)
    same = {k: v for k, v in record.items() if k not in _FREE} == {k: v for k, v in settings.public().items() if k not in _FREE}
    return str(record["end"]) if record and same else None


_FREE = {"end", "truth", "business_id", "businesses"}


def _read_record(home: Path, business: str) -> dict[str, object]:
    path = home / "generated" / f"{business}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _claim(home: Path, warehouse: Warehouse, settings: GeneratorSettings, business: str) -> None:
    record = _read_record(home, business)
    wanted = settings.public()
    differ = sorted(k for k in wanted if k not in _FREE - {"end"} and record.get(k) != wanted[k])
    present = business in warehouse.info()["businesses"]
    if present and record and differ:
        seen = ", ".join(f"{k} {record.get(k)} (now {wanted[k]})" for k in differ)
        raise ConfigError(
            f"business {business} under {home} was generated with {seen}. Choose another --home or --business, or the same settings."
        )
    if present and not record:
        raise ConfigError(
            f"business {business} under {home} holds rows from elsewhere, generated rows would mix with them. "
            "Choose another --home or --business."
        )
    path = home / "generated" / f"{business}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({**wanted, "business_id": business}), encoding="utf-8")
    temporary.replace(path)
