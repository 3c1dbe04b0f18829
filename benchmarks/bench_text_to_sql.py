"""Reading a question: the decoding loop inside Triton, in this process, and (worked out) with a hop per token.

    python -m benchmarks.bench_text_to_sql            the model of nlq/artifact
    python -m benchmarks.bench_text_to_sql --home var the one trained in a home

The questions are linked beforehand, so what is measured is encoder, steps and grammar. Both ways take turns on each question and must find
the same program. `a hop per token` adds, for each step, one request's measured cost to the time of the loop here; it leaves out what the
cached keys and values would weigh on the wire, so it is the least that such a design could take.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import record, write_json
from nlq.program import Slots
from nlq.tokens import Tokens
from nlq.translate import TOKENIZER, Decoder, LocalDecoder, Model, model_in
from ray_apps.decoder import TritonDecoder
from serving import repository
from serving.triton import TritonServer, TritonSettings

QUESTIONS = (
    "how many customers are there", "how many customers are there by membership tier", "which stores sold most [T0]", "revenue by month",
    "top [N0] customers by spend", "customers in [V0] who never bought", "who is at risk of churn", "average basket value by channel",
    "redemption rate by reward type", "how many gold members joined [T0]", "tickets by issue type [T0]", "most popular rewards",
    "customers who have not bought [T0]", "share of customers who redeemed a reward", "average rating of tickets", "discount by store",
    "how many orders [T0]", "customers with more than [N0] tickets", "which campaigns are running", "what is the weather in paris",
)  # fmt: skip
SLOTS = Slots(1, (frozenset({"customers.location"}),), 1, frozenset({0}))
CONCURRENT = 4
console = Console()


def measure(folder: Path, work: Path, rounds: int) -> dict[str, Any]:
    """Milliseconds of each way, questions a second, and the length of programs."""
    model, tokens = Model.read(folder), Tokens(folder / TOKENIZER)
    asked = [tokens.batch([text]) for text in QUESTIONS]
    repository.build_questions(folder, work / "repository", instances=1)
    with TritonServer(TritonSettings.load(start_timeout_s=120), work / "repository", work / "run") as server:
        ways: dict[str, Decoder] = {"in this process": LocalDecoder(folder), "inside Triton": TritonDecoder(server.url, 60.0)}
        took: dict[str, list[float]] = {name: [] for name in ways}
        steps: list[int] = []
        different = 0
        for number in range(rounds + 1):  # the first warms
            for ids, mask in asked:
                found = {}
                for name in list(ways)[:: 1 if number % 2 else -1]:
                    began = time.perf_counter()
                    found[name] = ways[name].decode(ids, mask, SLOTS, model.width)
                    if number:
                        took[name].append((time.perf_counter() - began) * 1e3)
                here, there = (found[name][0].program for name in ways)
                different += here != there
                if number:
                    steps.append(max(len(h.program) for h in found["in this process"]))
        with ThreadPoolExecutor(CONCURRENT) as threads:
            began = time.perf_counter()
            list(threads.map(lambda q: ways["inside Triton"].decode(q[0], q[1], SLOTS, model.width), asked * rounds))
            rate = len(asked) * rounds / (time.perf_counter() - began)
    local, remote = (np.asarray(took[name]) for name in ways)
    hop = float(np.median(remote - local))
    hopping = local + np.asarray(steps) * max(hop, 0.0)
    all_ways = {"in this process": local, "inside Triton": remote, "a hop per token, at least": hopping}
    return {
        "rows": [
            {"way": name, "p50_ms": float(np.percentile(ms, 50)), "p95_ms": float(np.percentile(ms, 95))} for name, ms in all_ways.items()
        ],
        "request_ms": hop,
        "ratio": float(np.median(remote / local)),
        "questions_per_s_of_one_instance": rate,
        "steps_median": float(np.median(steps)),
        "different_programs": different,
        "model": model.version,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="take the model trained in this home")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        found = measure(model_in(arguments.home), Path(name), arguments.rounds)
    table = Table("reading a question", "p50 ms", "p95 ms")
    for row in found["rows"]:
        table.add_row(row["way"], f"{row['p50_ms']:.1f}", f"{row['p95_ms']:.1f}")
    console.print(table)
    console.print({k: v for k, v in found.items() if k != "rows"})
    settings = {"questions": len(QUESTIONS), "rounds": arguments.rounds, "load_average_before": busy}
    made = record("what does decoding inside the model server cost?", settings, ("onnxruntime", "tritonclient", "numpy"))
    write_json("text_to_sql_triton", made | found)


if __name__ == "__main__":
    main()
