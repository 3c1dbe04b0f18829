"""How quickly does the running stack answer a question in plain English? Against a route that does nothing.

The whole way over HTTP: key, linking, decoding in Triton, guard, DuckDB on the warehouse, sentence, chart, related questions, audit. The
questions are those that were kept out of training, in turn, refused ones among them as they come; and a no-op route of the same Ray Serve
behind the same HAProxy, taking turns in one run.

    python -m benchmarks.bench_ask --home var        needs what `make demo` made

Target at concurrency 1: p50 300 ms or less, p95 800 ms or less. Prints a table; writes results/bench_ask.json and .png.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import harness
from benchmarks.bench_churn import show
from benchmarks.bench_recommend import child, serve_record, wait
from benchmarks.harness import Row, Target
from contracts.paths import Home

LEVELS = (1, 4)
ASK, NOOP = "question to answer", "no-op route"
P50_MS, P95_MS = 300.0, 800.0
QUESTIONS = harness.ROOT / "tests" / "nlq" / "data" / "questions.jsonl"
PACKAGES = ("ray", "fastapi", "duckdb", "onnxruntime", "sqlglot", "tritonclient")
console = Console()


def analyst_key(home: Home, business_id: str) -> str:
    """A key that may ask."""
    create = [sys.executable, "-m", "regulars", "key", "create", "--home", str(home.root)]
    made = subprocess.run([*create, "--business", business_id, "--role", "analyst", "--json"], check=True, capture_output=True, text=True)
    return str(json.loads(made.stdout)["key"])


async def outcomes_of(target: Target) -> dict[str, float]:
    """Share of the questions that were answered, and that were refused."""
    found: collections.Counter[str] = collections.Counter()
    for request in target.requests:
        status, content = await harness.fetch(target, request)
        if status != 200:
            raise SystemExit(f"the query endpoint answered {status}: {content[:300].decode()}")
        found["refused" if json.loads(content)["refused"] else "answered"] += 1
    return {name: n / len(target.requests) for name, n in found.items()}


async def _measure(arguments: argparse.Namespace, questions: list[str], record: dict[str, Any], key: str) -> dict[str, Any]:
    headers, host, port = {"Authorization": f"Bearer {key}"}, "127.0.0.1", int(record["port"])
    asked = [harness.http_post("/api/v1/ml/query", {"query": q}, host, port, headers) for q in questions]
    ask, noop = Target(ASK, host, port, asked), Target(NOOP, host, port, [harness.http_post("/noop/", {}, host, port)])
    outcomes = await outcomes_of(ask)
    blocks = await harness.alternate([ask, noop], LEVELS, arguments.rounds, arguments.seconds)
    rows = harness.rows(blocks)
    show(rows)
    console.print("Outcomes: " + ", ".join(f"{k} {v:.0%}" for k, v in outcomes.items()))
    one = next(r for r in rows if (r.target, r.concurrency) == (ASK, 1))
    met = one.p50_ms <= P50_MS and one.p95_ms <= P95_MS
    found = f"{one.p50_ms:.0f} and {one.p95_ms:.0f}, {'met' if met else 'not met'}"
    console.print(f"Target p50 <= {P50_MS:g} ms, p95 <= {P95_MS:g} ms at concurrency 1: {found}.")
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items() if k not in ("json", "home")}
    return harness.record(__doc__.splitlines()[0], settings | {"levels": LEVELS}, PACKAGES) | {
        "rows": [r.__dict__ for r in rows],
        "outcomes": outcomes,
        "target": {"p50_ms": P50_MS, "p95_ms": P95_MS, "met": bool(met)},
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, default=Path("var"), help="data directory with trained and exported models")
    parser.add_argument("--questions", type=Path, default=QUESTIONS, help='lines of {"q": question}')
    parser.add_argument("--rounds", type=int, default=5, help="rounds in which the routes take turns")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one block")
    parser.add_argument("--name", default="bench_ask", help="of the files under results/")
    parser.add_argument("--json", action="store_true", help="also print the result as JSON")
    arguments = parser.parse_args()
    console.stderr = arguments.json
    home = Home(arguments.home)
    questions = [json.loads(line)["q"] for line in arguments.questions.read_text(encoding="utf-8").splitlines()]
    serve = [sys.executable, "-m", "regulars", "serve", "--home", str(home.root), "--port", "0", "--json"]
    with child(serve, {"REGULARS_SERVE_NOOP_ROUTE": "true"}) as process:
        record = wait("the stack", lambda: serve_record(home, process.pid), process, 300.0)
        result = asyncio.run(_measure(arguments, questions, record, analyst_key(home, str(record["business_id"]))))
    path = harness.write_json(arguments.name, result)
    harness.plot([Row(**r) for r in result["rows"]], "Questions over HTTP", path.with_suffix(".png"))
    if arguments.json:
        sys.stdout.write(json.dumps(result, default=float) + "\n")
    console.print(f"Written: {path.relative_to(harness.ROOT)} and its .png")


if __name__ == "__main__":
    main()
