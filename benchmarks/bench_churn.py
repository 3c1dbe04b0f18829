"""How quickly does the running stack say who will leave, and why? Against a route that does nothing, and the model alone.

The whole way over HTTP (key, stored history, inbox, all 256 coalitions of factors on Triton, sentences, write-behind) with factors, the
lifetime value (one plain forecast), and a no-op route of the same Ray Serve behind the same HAProxy, taking turns in one run. Beside them
the attributing graph alone, one thread of ONNX Runtime in this process: what is left is ours.

    python -m benchmarks.bench_churn --home var        needs what `make demo` made, with a sequence model

Target at concurrency 1: p50 15 ms or less, p99 60 ms or less. Prints a table; writes results/bench_churn.json and .png.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import onnxruntime
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from benchmarks import harness
from benchmarks.bench_recommend import child, customers, serve_record, stage_times, wait
from benchmarks.harness import Row, Target
from contracts.bundle import deployed_version
from contracts.paths import Home
from contracts.sequence import MODEL_NAME
from features.weekly import as_of_day, read, tensors
from warehouse.store import Warehouse

LEVELS = (1, 4, 16)
CHURN, CLV, NOOP = "churn with factors", "lifetime value", "no-op route"
P50_MS, P99_MS = 15.0, 60.0
PACKAGES = ("ray", "fastapi", "onnxruntime", "numpy", "tritonclient", "feast")
console = Console()


def http_get(path: str, host: str, port: int, headers: dict[str, str]) -> bytes:
    """One complete keep-alive GET."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}:{port}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def check_sums(target: Target, count: int = 40) -> tuple[float, int]:
    """The largest distance between the probability and what its factors add up to, and how many of the answers were the model's."""
    worst, by_model = 0.0, 0
    for request in target.requests[:count]:
        status, content = await harness.fetch(target, request)
        if status != 200:
            raise SystemExit(f"the churn endpoint answered {status}: {content[:300].decode()}")
        body = json.loads(content)
        total = body["referenceProbability"] + sum(f["impact"] for f in body["topFactors"]) + body["otherFactors"]
        worst = max(worst, abs(total - body["churnProbability"]))
        by_model += body["source"] == "model"
    return worst, by_model


async def sources(target: Target) -> dict[str, float]:
    """Share of the churn answers so far by where their numbers came from: under overload others than the model's are quick, but worse."""
    request = http_get("/metrics", target.host, target.port, {})
    text = (await harness.fetch(target, request))[1].decode()
    counts: dict[str, float] = {}
    for source, value in re.findall(r'regulars_forecasts_total\{[^}]*route="churn",source="(\w+)"\} ([0-9.e+]+)', text):
        counts[source] = counts.get(source, 0.0) + float(value)
    return {name: value / sum(counts.values()) for name, value in counts.items()}


def model_alone(home: Home, sample: list[str], business_id: str, count: int = 200) -> dict[str, float]:
    """Milliseconds of one row of the attributing graph in ONNX Runtime, one thread, in this process."""
    folder = home.models / MODEL_NAME / deployed_version(home.models, MODEL_NAME)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "sequence_factors.onnx", options, providers=["CPUExecutionProvider"])
    warehouse = Warehouse(home.warehouse)
    when = warehouse.as_of(business_id)
    with warehouse.connect() as connection:
        found = read(connection, pa.table({"business_id": [business_id] * len(sample), "customer_id": sample}), when)
    inputs = tensors(found, as_of_day(when))
    times = []
    for i in range(count + 20):
        row = {name: value[i % len(sample)][None] for name, value in inputs.items()}
        began = time.perf_counter()
        session.run(None, row)
        times.append((time.perf_counter() - began) * 1e3)
    p50, p99 = np.percentile(times[20:], [50, 99])
    return {"p50_ms": float(p50), "p99_ms": float(p99)}


def show(rows: list[Row]) -> None:
    """Print the table."""
    table = Table(title="Closed loop, milliseconds", title_justify="left")
    for name in ("route", "concurrency", "p50", "p95", "p99", "requests/s", "n", "failed"):
        table.add_column(name, justify="left" if name == "route" else "right")
    for r in sorted(rows, key=lambda r: (r.concurrency, r.target)):
        figures = (f"{x:.2f}" for x in (r.p50_ms, r.p95_ms, r.p99_ms))
        table.add_row(r.target, str(r.concurrency), *figures, f"{r.rate:,.0f}", f"{r.n:,}", str(r.failed))
    console.print(table)


async def _measure(arguments: argparse.Namespace, sample: list[str], record: dict[str, Any]) -> dict[str, Any]:
    key = Path(record["key_file"]).read_text(encoding="utf-8").strip()
    headers, host, port = {"Authorization": f"Bearer {key}"}, "127.0.0.1", int(record["port"])

    def target(name: str, path: str) -> Target:
        return Target(name, host, port, [http_get(path.format(quote(c, safe="")), host, port, headers) for c in sample])

    churn, clv = target(CHURN, "/api/v1/ml/churn/predict?customerId={}"), target(CLV, "/api/v1/ml/clv/predict?customerId={}")
    noop = Target(NOOP, host, port, [harness.http_post("/noop/", {}, host, port)])
    worst, by_model = await check_sums(churn)
    console.print(
        f"Factors add up to within {worst:.1e}; {by_model} of 40 answers are the model's own, the others of customers who never bought."
    )
    blocks = await harness.alternate([churn, clv, noop], LEVELS, arguments.rounds, arguments.seconds)
    rows = harness.rows(blocks)
    show(rows)
    shares = await sources(churn)
    console.print("Churn answers by source: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items()))
    stages = await stage_times(churn)
    console.print("Stages at concurrency 1, median ms: " + ", ".join(f"{k} {v:.2f}" for k, v in stages.items()))
    alone = model_alone(Home(arguments.home), sample, str(record["business_id"]))
    one = next(r for r in rows if (r.target, r.concurrency) == (CHURN, 1))
    met = one.p50_ms <= P50_MS and one.p99_ms <= P99_MS
    console.print(f"The graph alone, one thread: p50 {alone['p50_ms']:.2f} ms, p99 {alone['p99_ms']:.2f} ms.")
    found = f"{one.p50_ms:.2f} and {one.p99_ms:.2f}, {'met' if met else 'not met'}"
    console.print(f"Target p50 <= {P50_MS:g} ms, p99 <= {P99_MS:g} ms at concurrency 1: {found}.")
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items() if k not in ("json", "home")}
    return harness.record(__doc__.splitlines()[0], settings | {"levels": LEVELS}, PACKAGES) | {
        "model_version": deployed_version(Home(arguments.home).models, MODEL_NAME),
        "sum_error": worst,
        "answered_by_model": by_model / 40,
        "sources": shares,
        "rows": [r.__dict__ for r in rows],
        "stages_ms": stages,
        "graph_alone": alone,
        "target": {"p50_ms": P50_MS, "p99_ms": P99_MS, "met": bool(met)},
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, default=Path("var"), help="data directory with trained and exported models")
    parser.add_argument("--customers", type=int, default=400, help="known customers to ask about, in turn")
    parser.add_argument("--rounds", type=int, default=5, help="rounds in which the routes take turns")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one block")
    parser.add_argument("--seed", type=int, default=0, help="of the sample of customers")
    parser.add_argument("--name", default="bench_churn", help="of the files under results/")
    parser.add_argument("--json", action="store_true", help="also print the result as JSON")
    arguments = parser.parse_args()
    console.stderr = arguments.json
    home = Home(arguments.home)
    sample = customers(home, arguments.customers, arguments.seed)
    serve = [sys.executable, "-m", "regulars", "serve", "--home", str(home.root), "--port", "0", "--json"]
    with child(serve, {"REGULARS_SERVE_NOOP_ROUTE": "true"}) as process:
        record = wait("the stack", lambda: serve_record(home, process.pid), process, 300.0)
        result = asyncio.run(_measure(arguments, sample, record))
    path = harness.write_json(arguments.name, result)
    harness.plot([Row(**r) for r in result["rows"]], "Forecasts over HTTP", path.with_suffix(".png"))
    if arguments.json:
        sys.stdout.write(json.dumps(result, default=float) + "\n")
    console.print(f"Written: {path.relative_to(harness.ROOT)} and its .png")


if __name__ == "__main__":
    main()
