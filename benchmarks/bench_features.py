"""Weekly histories: how many events a second become the sequence model's inputs, and how long one customer's take from the online store.

    python -m benchmarks.bench_features --home var      a warehouse that is there
    python -m benchmarks.bench_features                 one of 20,000 customers and 18 months, generated and deleted; two minutes

Compared are the reading of `features.weekly` (acts ungrouped, sorted in NumPy) and the grouping by customer and day in DuckDB; the two take
turns, and must agree first. CPU seconds are given beside wall seconds: they hardly change with what else the machine does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from benchmarks.bench_scale import peak_rss
from benchmarks.harness import ratio_interval, record, write_json
from contracts.paths import Home
from features import history, weekly
from features.online import OnlineSettings, OnlineStore
from warehouse.store import Warehouse

TABLES = ("transactions", "events", "tickets")
_DAY = "(epoch_us({}) // 86400000000)::INTEGER AS day"
_COUNTS = ", ".join(
    f"count(*) FILTER (event_type IN ({', '.join(repr(t) for t in kinds)}))::FLOAT AS {name}" for name, kinds in weekly.EVENT_SUMS.items()
)
_MINE = f"JOIN {weekly.WANTED} w ON w.business_id = x.business_id AND w.customer_id = x.customer_id"
GROUPED_SQL = f"""
WITH parts AS (
    SELECT code, {_DAY.format("occurred_at")}, count(*) FILTER (amount >= 0)::FLOAT AS purchases, sum(amount)::FLOAT AS spend,
           coalesce(sum(discount_amount), 0)::FLOAT AS discount
    FROM transactions x {_MINE} WHERE occurred_at < $until GROUP BY ALL
    UNION ALL BY NAME
    SELECT code, {_DAY.format("occurred_at")}, {_COUNTS} FROM events x {_MINE}
    WHERE occurred_at < $until AND event_type IN ({", ".join(repr(t) for kinds in weekly.EVENT_SUMS.values() for t in kinds)}) GROUP BY ALL
    UNION ALL BY NAME
    SELECT code, {_DAY.format("created_at")}, count(*)::FLOAT AS tickets,
           count(*) FILTER (sentiment = 'NEGATIVE' OR rating <= 2)::FLOAT AS bad_tickets
    FROM tickets x {_MINE} WHERE created_at < $until GROUP BY ALL)
SELECT code, day, {", ".join(f"coalesce(sum({name}), 0)::FLOAT AS {name}" for name in weekly.DAILY)}
FROM parts GROUP BY code, day ORDER BY code, day
"""  # noqa: S608 - our own constants
"""The baseline: DuckDB groups each table, then all together."""


def generate(home: Path, customers: int, months: int) -> None:
    """A generated warehouse, by the product's own command."""
    command = [sys.executable, "-m", "regulars", "data", "generate", "--customers", str(customers), "--months", str(months), "--no-truth"]
    subprocess.run([*command, "--home", str(home)], check=True, stdout=subprocess.DEVNULL)


def events_of(connection: duckdb.DuckDBPyConnection) -> int:
    """Rows that a history is made of, counted or not."""
    return sum(connection.sql(f"SELECT count(*) FROM {t}").fetchall()[0][0] for t in TABLES)  # noqa: S608


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds (all threads) of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def bulk(connection: duckdb.DuckDBPyConnection, until: datetime, rounds: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Rows of the table, and the ratio of grouped to ungrouped reading with its 95 % interval."""
    customers, day = weekly.shards(connection, 1)[0], weekly.as_of_day(until)
    coded = weekly.coded([customers])

    def grouped() -> Any:
        connection.register(weekly.WANTED, coded)
        try:
            return connection.sql(GROUPED_SQL, params={"until": until}).to_arrow_table()
        finally:
            connection.unregister(weekly.WANTED)

    found, table = weekly.read(connection, customers, until), grouped()
    for k, name in enumerate(weekly.DAILY):
        assert np.allclose(table[name].to_numpy(), found.sums[:, k], rtol=1e-6), name
    assert np.array_equal(table["day"].to_numpy(), found.days)
    works: dict[str, Callable[[], Any]] = {
        "read, grouped in SQL": grouped,
        "read": lambda: weekly.read(connection, customers, until),
        "tensors": lambda: weekly.tensors(found, day),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            seconds = timed(work)
            if turn:  # the first is warm-up
                taken[name].append(seconds)
    taken["read + tensors"] = [(a[0] + b[0], a[1] + b[1]) for a, b in zip(taken["read"], taken["tensors"], strict=True)]
    events = events_of(connection)
    rows = []
    for name, seconds_of in taken.items():
        wall, cpu = (np.median([s[i] for s in seconds_of]) for i in (0, 1))
        rows.append(
            {"what": name, "customers": customers.num_rows, "events": events, "days": len(found.days), "wall_s": float(wall),
             "cpu_s": float(cpu), "events_per_s": float(events / wall), "events_per_cpu_s": float(events / cpu), "n": rounds}
        )  # fmt: skip
    ratio, low, high = ratio_interval([s[1] for s in taken["read, grouped in SQL"]], [s[1] for s in taken["read"]])
    return rows, {"cpu_grouped_over_read": ratio, "low": low, "high": high}


def single(connection: duckdb.DuckDBPyConnection, home: Path, until: datetime, n: int) -> list[dict[str, Any]]:
    """Milliseconds of each step for one customer, from a store of `n` customers on SQLite."""
    customers = weekly.shards(connection, 1)[0].slice(0, n)
    store = OnlineStore(OnlineSettings(), Home(home))
    store.write_histories(history.histories(connection, customers, until))
    names = list(zip(customers["business_id"].to_pylist(), customers["customer_id"].to_pylist(), strict=True))
    acts = history.purchase_acts(until, 12.5)
    stored = [found for name in names if (found := store.read_history(*name)) is not None]
    assert len(stored) == len(names)
    sizes = [len(history.pack(h)) for h in stored]
    works: dict[str, Callable[[int], Any]] = {
        "read from SQLite": lambda i: store.read_history(*names[i]),
        "one new act": lambda i: history.extended(stored[i], acts),
        "tensors of one": lambda i: history.tensors_of(stored[i], until),
    }
    taken: dict[str, list[float]] = {name: [] for name in works}
    for i in range(len(names)):
        for name, work in works.items():
            taken[name].append(timed(lambda work=work, i=i: work(i))[0] * 1e3)  # type: ignore[misc]
    taken["together"] = [sum(t) for t in zip(*taken.values(), strict=True)]
    store.close()
    return [
        {"what": name, "p50_ms": float(np.percentile(ms, 50)), "p95_ms": float(np.percentile(ms, 95)),
         "p99_ms": float(np.percentile(ms, 99)), "n": len(ms), "bytes_p50": float(np.median(sizes)), "bytes_max": max(sizes)}
        for name, ms in taken.items()
    ]  # fmt: skip


def main() -> None:
    """Run, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--home", type=Path, help="with a warehouse; one is generated when absent")
    parser.add_argument("--customers", type=int, default=20_000, help="of a generated warehouse")
    parser.add_argument("--months", type=int, default=18, help="of a generated warehouse")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--single", type=int, default=2_000, help="customers read one by one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = options.home or Path(folder) / "home"
        if options.home is None:
            generate(home, options.customers, options.months)
        warehouse = Warehouse(Home(home).warehouse)
        until = warehouse.as_of()
        settings = {
            **vars(options),
            "home": "given" if options.home else "generated",
            "as_of": until.isoformat(),
            "load_at_start": os.getloadavg()[0],
        }
        result = record("How many events a second become the sequence model's inputs?", settings, ["duckdb", "numpy", "pyarrow", "feast"])
        with warehouse.connect() as connection:
            rows, ratio = bulk(connection, until, options.rounds)
            ones = single(connection, Path(folder) / "online", until, options.single)
    print(f"{'':<22}{'events':>12}{'wall s':>8}{'CPU s':>8}{'events/s':>12}{'per CPU s':>12}")
    for r in rows:
        print(
            f"{r['what']:<22}{r['events']:>12,}{r['wall_s']:>8.2f}{r['cpu_s']:>8.2f}{r['events_per_s']:>12,.0f}{r['events_per_cpu_s']:>12,.0f}"
        )
    print(f"grouping in SQL takes {ratio['cpu_grouped_over_read']:.2f} times the CPU ({ratio['low']:.2f} to {ratio['high']:.2f})\n")
    for r in ones:
        print(f"{r['what']:<22} p50 {r['p50_ms']:.3f} ms, p95 {r['p95_ms']:.3f}, p99 {r['p99_ms']:.3f} (n {r['n']:,})")
    peak = peak_rss()
    load = os.getloadavg()[0]
    print(f"peak memory {peak / 1e9:.2f} GB, load {result['settings']['load_at_start']:.1f} to {load:.1f}")
    more = {"results": rows, "one_customer": ones, "ratio": ratio, "peak_rss_bytes": peak, "load_at_end": load}
    print(write_json("features", result | more).name)


if __name__ == "__main__":
    main()
