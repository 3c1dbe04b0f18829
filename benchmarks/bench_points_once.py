"""What does paying a receipt once cost, as receipts add up?

    python -m benchmarks.bench_points_once                                  SQLite, 1,000 and 20,000 receipts
    python -m benchmarks.bench_points_once --database postgresql://USER@HOST/DATABASE

Fills a database with made-up receipts of one business (a chain: one telephone number, few shops), then sends new ones and ones that
came before, in turn. Measured is `PictureStore.award_receipt` alone: two times candidates by key, comparing, one transaction.
A database given by URL must be empty and one's own: it is filled.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import tempfile
import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from benchmarks.harness import record, write_json
from ray_apps.migrations import upgrade_async
from ray_apps.picture_rows import receipt_keys, receipts
from ray_apps.pictures import PictureStore, RecognitionRow
from ray_apps.store import OperationalStore
from vision import fraud
from vision.fingerprint import Fingerprint, fingerprint, keys
from vision.fraud import PointsSettings
from vision.types import Receipt, TextLine

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SURE = {"merchant": 0.97, "date": 0.99, "total": 0.99}
QUAD = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))


def receipt_of(number: int) -> Receipt:
    """One of a chain's: the head is the same on all, prices are few, ids differ."""
    luck = random.Random(number)  # noqa: S311 - made-up data
    day = date(2026, 11, 19) - timedelta(days=luck.randrange(30))
    prices = [luck.choice((195, 240, 310, 450, 525, 990)) for _ in range(luck.randint(1, 6))]
    total = Decimal(sum(prices)) / 100
    texts = [
        "CORNER CAFE", "TEL 03 5551 2345", f"STORE {luck.randrange(20):05d}", f"INVOICE {number:010d}",
        f"{day:%d/%m/%Y} {luck.randrange(7, 22):02d}:{luck.randrange(60):02d}",
        *(f"ITEM {p / 100:.2f}" for p in prices), f"TOTAL {total}", f"CARD {luck.randrange(10**6):06d}",
    ]  # fmt: skip
    lines = [TextLine(QUAD, text, 0.99) for text in texts]
    return Receipt(merchant="Corner Cafe", date=day, total=total, currency="EUR", confidences=SURE, reconciled=True, lines=lines)


def print_of(number: int) -> Fingerprint:
    """With a picture of the usual size, which nothing is read from."""
    luck = random.Random(~number)  # noqa: S311 - made-up data
    return replace(fingerprint(receipt_of(number)), sha256=f"{number:064x}", small=luck.randbytes(5_000), looks=luck.getrandbits(63))


async def fill(store: OperationalStore, first: int, last: int) -> None:
    """Receipts as they stand after they were paid."""
    for start in range(first, last, 500):
        made, found = [], []
        for n in range(start, min(start + 500, last)):
            one, print_ = receipt_of(n), print_of(n)
            made.append(
                {
                    "business_id": "b", "receipt_id": f"r{n}", "customer_id": f"c{n % 5_000}", "at": NOW, "merchant": one.merchant,
                    "day": one.date, "total_minor": print_.total, "currency": "EUR", "fingerprint": print_.to_bytes(), "status": "award",
                    "points": 1, "flags": "[]",
                }
            )  # fmt: skip
            found += [{"business_id": "b", "key": key, "receipt_id": f"r{n}"} for key in keys(print_)]
        async with store.transaction() as connection:
            await connection.execute(sa.insert(receipts), made)
            await connection.execute(sa.insert(receipt_keys), found)


async def send(pictures: PictureStore, name: str, number: int, print_: Fingerprint) -> tuple[str, float]:
    """The decision, and milliseconds."""
    receipt, rules = receipt_of(number), PointsSettings.load()
    row = RecognitionRow(name, "b", f"{name}-customer", NOW, "receipt", print_.sha256, "ocr/1", {}, 1.0)
    started = time.perf_counter()
    decided = await pictures.award_receipt(row, receipt, print_, lambda recent, earlier: fraud.judge(receipt, NOW, recent, earlier, rules))
    return decided.decision, (time.perf_counter() - started) * 1e3


async def measure(url: str, sizes: list[int], times: int) -> list[dict[str, Any]]:
    await upgrade_async(url)
    store = OperationalStore(url, timeout_s=60)
    pictures, results, filled = PictureStore(store), [], 0
    for size in sizes:
        await fill(store, filled, size)
        filled = size
        sent: dict[str, list[float]] = {"new": [], "again": []}
        wrong = {"new": 0, "again": 0}
        for n in range(times + 3):
            old = 7_919 * n % size
            again = replace(print_of(old), sha256=f"again {n}", numbers=print_of(old).numbers - {f"{old:010d}"})
            new = 10_000_000 + size + n
            for kind, number, print_, expected in (("new", new, print_of(new), "award"), ("again", old, again, "duplicate")):
                decision, took = await send(pictures, f"{size}-{kind}-{n}", number, print_)
                wrong[kind] += decision != expected
                if n >= 3:  # the first ones warm up
                    sent[kind].append(took)
        for kind, ms in sent.items():
            p50, p95 = np.percentile(ms, [50, 95])
            results.append({"receipts": size, "kind": kind, "p50_ms": p50, "p95_ms": p95, "n": len(ms), "wrong": wrong[kind]})
            print(f"{size:>8,} stored  {kind:<6} p50 {p50:7.1f} ms  p95 {p95:7.1f} ms  n {len(ms)}  not as expected {wrong[kind]}")
    await store.close()
    return results


def main() -> None:
    """Run, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--database", help="an empty database of one's own; a SQLite file that is deleted when left out")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 20_000], help="receipts that are stored before")
    parser.add_argument("--times", type=int, default=60, help="receipts that are sent of each kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = options.database or f"sqlite:///{Path(folder) / 'points.db'}"
        results = asyncio.run(measure(url, options.sizes, options.times))
    engine = url.split(":")[0]
    settings = {"sizes": options.sizes, "times": options.times, "engine": engine, "load": os.getloadavg()[0]}
    result = record("What does paying a receipt once cost, as receipts add up?", settings, ["sqlalchemy"])
    print(write_json(f"points_once_{engine}", result | {"results": results}).name)


if __name__ == "__main__":
    main()
