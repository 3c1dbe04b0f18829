"""Is the running stack quicker than what a user would otherwise write, and how far is it from a route that does nothing?

Three servers on one machine, on the same weights, taking turns in one run: the whole stack over HTTP (key, features, inbox, Triton,
index, rules, explanations, history), `baseline_fastapi` (FastAPI, eager torch, NumPy; none of the rest), and a no-op route of the same
Ray Serve behind the same HAProxy.

    python -m benchmarks.bench_recommend --home var        needs what `make demo` made

Prints a table and, for the ratios, 95 % bootstrap intervals over the rounds; writes results/bench_recommend.json and .png.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import harness
from benchmarks.harness import Row, Target
from contracts.errors import UpstreamError
from contracts.paths import Home
from warehouse.store import Warehouse

LEVELS = (1, 8, 32)
OURS, BASELINE, NOOP = "regulars", "fastapi + torch", "no-op route"
PACKAGES = ("ray", "fastapi", "torch", "onnxruntime", "faiss-cpu", "numpy", "tritonclient", "feast", "uvicorn")
console = Console()


def customers(home: Home, count: int, seed: int) -> list[str]:
    """A seeded sample of known customers."""
    with Warehouse(home.warehouse).connect() as db:
        ids = [r[0] for r in db.execute("SELECT customer_id FROM customers ORDER BY ALL").fetchall()]
    return np.random.default_rng(seed).choice(ids, size=min(count, len(ids)), replace=False).tolist()


@contextlib.contextmanager
def child(command: list[str], environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is interrupted, and waited for, on leaving."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | (environment or {}))
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait(what: str, ready: Any, process: subprocess.Popen[bytes], timeout_s: float = 180.0) -> Any:
    """The first true answer of `ready`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = ready()
        if found:
            return found
        if process.poll() is not None:
            raise UpstreamError(f"{what} ended with {process.returncode} before it was ready. Run its command alone to see why.")
        time.sleep(0.3)
    raise UpstreamError(f"{what} was not ready within {timeout_s:g} s. Run its command alone to see why.")


def serve_record(home: Home, pid: int) -> dict[str, Any] | None:
    """What `regulars serve` wrote about itself, once ready."""
    path = home.run / "serve.json"
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.get("ready") and found.get("pid") == pid:
            return dict(found)
    return None


def answers(port: int) -> bool:
    """Whether something listens."""
    import socket

    with socket.socket() as s:
        s.settimeout(0.5)
        return s.connect_ex(("127.0.0.1", port)) == 0


async def check_agreement(ours: Target, baseline: Target, count: int = 40) -> float:
    """Share of the baseline's first reward that is among our first five: the same weights must give nearly the same answers.

    Not 1: ours orders by calibrated probability, leaves out what may not be shown again, and knows the newest events.
    """
    agreed = []
    for mine, theirs in zip(ours.requests[:count], baseline.requests[:count], strict=True):
        a, b = [json.loads((await harness.fetch(t, r))[1])["recommendations"] for t, r in ((ours, mine), (baseline, theirs))]
        agreed.append(b[0]["rewardId"] in {r["rewardId"] for r in a})
    return float(np.mean(agreed))


def show(rows: list[Row]) -> dict[str, Any]:
    """Print both tables; returns the ratios."""
    table = Table(title="Closed loop, milliseconds", title_justify="left")
    for name in ("server", "concurrency", "p50", "p95", "p99", "requests/s", "n", "failed"):
        table.add_column(name, justify="left" if name == "server" else "right")
    for r in sorted(rows, key=lambda r: (r.concurrency, r.target)):
        table.add_row(
            r.target,
            str(r.concurrency),
            f"{r.p50_ms:.2f}",
            f"{r.p95_ms:.2f}",
            f"{r.p99_ms:.2f}",
            f"{r.rate:,.0f}",
            f"{r.n:,}",
            str(r.failed),
        )
    console.print(table)
    by = {(r.target, r.concurrency): r for r in rows}
    ratios: dict[str, Any] = {}
    second = Table(title="Ratios, median over rounds [95 % interval]", title_justify="left")
    for name in ("concurrency", "throughput, regulars / baseline", "p50, regulars / baseline", "throughput, regulars / no-op"):
        second.add_column(name, justify="right")
    for level in dict.fromkeys(r.concurrency for r in rows):
        ours, baseline, noop = (by[(name, level)] for name in (OURS, BASELINE, NOOP))
        found = {
            "throughput_vs_baseline": harness.ratio_interval(ours.rates, baseline.rates),
            "p50_vs_baseline": harness.ratio_interval(ours.medians, baseline.medians),
            "throughput_vs_noop": harness.ratio_interval(ours.rates, noop.rates),
        }
        ratios[str(level)] = found
        second.add_row(str(level), *(f"{m:.2f} [{low:.2f}, {high:.2f}]" for m, low, high in found.values()))
    console.print(second)
    return ratios


async def stage_times(target: Target, count: int = 300) -> dict[str, float]:
    """Median milliseconds of each stage, from the Server-Timing header of sequential requests."""
    reader, writer = await asyncio.open_connection(target.host, target.port)
    stages: dict[str, list[float]] = {}
    for i in range(count):
        writer.write(target.requests[i % len(target.requests)])
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        await reader.readexactly(int(headers["content-length"]))
        for part in headers["server-timing"].split(","):
            name, _, duration = part.strip().partition(";dur=")
            stages.setdefault(name, []).append(float(duration))
    writer.close()
    return {name: float(np.median(v)) for name, v in stages.items()}


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("var"))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one block")
    parser.add_argument("--customers", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--name", default="bench_recommend", help="name of the files under results/")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    arguments = parser.parse_args()
    console.stderr = arguments.json
    home = Home(arguments.home)
    sample = customers(home, arguments.customers, arguments.seed)
    command = [sys.executable, "-m", "regulars", "serve", "--home", str(home.root), "--port", "0"]
    with child(command, {"REGULARS_SERVE_NOOP_ROUTE": "true"}) as stack:
        record = wait("regulars serve", lambda: serve_record(home, stack.pid), stack)
        port = int(record["url"].rsplit(":", 1)[1])
        now = dt.datetime.fromisoformat(record["serving_time"]).timestamp()
        from ray_apps.host import free_ports

        (other,) = free_ports(1)
        baseline = [sys.executable, "-m", "benchmarks.baseline_fastapi", "--home", str(home.root), "--port", str(other), "--now", str(now)]
        with child(baseline) as process:
            wait("the baseline", lambda: answers(other), process)
            key = Path(record["key_file"]).read_text(encoding="utf-8").strip()
            result = asyncio.run(_measure(arguments, sample, port, other, key))
    path = harness.write_json(arguments.name, result)
    harness.plot([Row(**r) for r in result["rows"]], "Recommendation over HTTP", path.with_suffix(".png"))
    if arguments.json:
        sys.stdout.write(json.dumps(result, default=float) + "\n")
    console.print(f"Written: {path.relative_to(harness.ROOT)} and its .png")


async def _measure(arguments: argparse.Namespace, sample: list[str], port: int, other: int, key: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}"}
    bodies = [{"customerId": c, "numRecommendations": 5, "context": {"page": "homepage"}} for c in sample]
    host = "127.0.0.1"
    ours = Target(OURS, host, port, [harness.http_post("/api/v1/ml/recommendations", b, host, port, headers) for b in bodies])
    base = Target(BASELINE, host, other, [harness.http_post("/recommend", b, host, other) for b in bodies])
    noop = Target(NOOP, host, port, [harness.http_post("/noop/", b, host, port) for b in bodies])
    agreement = await check_agreement(ours, base)
    console.print(f"The baseline's first choice is among our first five for {agreement:.0%} of customers.")
    blocks = await harness.alternate([ours, base, noop], LEVELS, arguments.rounds, arguments.seconds)
    rows = harness.rows(blocks)
    ratios = show(rows)
    stages = await stage_times(ours)
    console.print("Stages at concurrency 1, median ms: " + ", ".join(f"{k} {v:.2f}" for k, v in stages.items()))
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items() if k not in ("json", "home")}
    return harness.record(__doc__.splitlines()[0], settings | {"levels": LEVELS}, PACKAGES) | {
        "agreement": agreement,
        "rows": [r.__dict__ for r in rows],
        "ratios": ratios,
        "stages_ms": stages,
    }


if __name__ == "__main__":
    main()
