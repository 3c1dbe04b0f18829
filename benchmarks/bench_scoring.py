"""Batch scoring against ONNX Runtime alone on the same rows.

    python -m benchmarks.bench_scoring                                   20,000 customers, generated; some minutes
    python -m benchmarks.bench_scoring --home var                        a home that is there (its sequence model, else an untrained one)
    python -m benchmarks.bench_scoring --customers 1000000 --kill        and a run killed half way and gone on with, nothing lost or doubled

Two ratios, of customers a second, both sides in turn in one process and on one thread:
    without features: what a shard does after its inputs are there (model, rows, file), to the model alone
    with features: a whole shard (read, inputs, model, rows, file), to reading, inputs and the model alone
CPU seconds count, so that what else the machine does weighs less; wall seconds are given beside them. The command as a whole (planning, its
processes, landing in the warehouse) is timed for each engine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.harness import ratio_interval, record, write_json
from contracts.bundle import BundleManifest, deploy, deployed_version, file_sha256
from contracts.paths import Home
from contracts.sequence import MODEL_NAME, BaseRates, Forecasting
from contracts.tensors import SEQUENCE, STATIC_COUNT, STEP_COUNT
from features import weekly
from ray_apps.scoring.rows import SCHEMA, historical_spend, rows
from ray_apps.scoring.runs import RunFolder, default_as_of, plan, runs
from ray_apps.scoring.shard import CHUNK, ShardScorer
from warehouse.store import Warehouse

ROUNDS = 15
BATCH = 1024
KILLED_SHARDS = 20


def untrained_bundle(home: Path) -> None:
    """A deployed bundle of an untrained model of the default size, unless one is deployed: its cost does not depend on the weights."""
    from training.export.onnx import export
    from training.sequence.model import ModelConfig, SequenceModel

    models = Home(home).models
    if (models / MODEL_NAME / "deployed.json").is_file():
        return
    folder = models / MODEL_NAME / "1"
    folder.mkdir(parents=True)
    export(SequenceModel(ModelConfig()).eval(), SEQUENCE, folder / "sequence.onnx")
    rates = BaseRates(
        churn=(0.7, 0.6, 0.5), silent_by=tuple(0.5 + 0.04 * k for k in range(STEP_COUNT)), purchase_probability=(0.3,) * 12,
        spend=(10.0,) * 12, spend_interval=(50.0, 200.0),
    )  # fmt: skip
    written = Forecasting.model_validate(
        {
            "definition": {}, "reference_statics": (0.0,) * STATIC_COUNT, "base_rates": {"": rates}, "ece": 0.0, "spend_months_seen": 1,
            "clv_cuts": {"": (100.0, 300.0, 900.0)},
        }
    )  # fmt: skip
    (folder / "forecast.json").write_text(written.model_dump_json(), encoding="utf-8")
    manifest = BundleManifest(
        model=MODEL_NAME, version="1", created_at="untrained", data_version="none", code_version="none", as_of="none", settings={},
        metrics={}, files={f.name: file_sha256(f) for f in sorted(folder.iterdir())},
    )  # fmt: skip
    (folder / "manifest.json").write_text(manifest.model_dump_json(), encoding="utf-8")
    deploy(models, "1", MODEL_NAME)


def ratios(home: Path, rounds: int) -> dict[str, Any]:
    """Both ratios over one shard, the two sides in turn."""
    warehouse = Warehouse(Home(home).warehouse)
    version = deployed_version(Home(home).models, MODEL_NAME)
    run = plan(
        home, warehouse, run="benchmark", business_id=None, as_of=default_as_of(warehouse, None), version=version, shards=None,
        shard_size=8 * CHUNK, batch_size=BATCH, landing_rows=1, risk_cuts=(0.4, 0.6, 0.8),
    )  # fmt: skip
    scorer, folder = ShardScorer(home, run), RunFolder(home, run.run)
    customers, day = folder.customers(0), weekly.as_of_day(run.as_of)
    history = weekly.read_part(folder.acts, 0, customers.num_rows)
    spans = [(begin, min(begin + CHUNK, customers.num_rows)) for begin in range(0, customers.num_rows, CHUNK)]
    inputs = [weekly.tensors(history.part(*span), day) for span in spans]
    spent = [historical_spend(history.part(*span), day) for span in spans]

    def model_alone() -> None:
        for chunk in inputs:
            scorer.forecaster.run(chunk, BATCH)

    def model_rows_file() -> None:
        with pq.ParquetWriter(folder.path / "benchmark.parquet", SCHEMA, compression="zstd", compression_level=1) as writer:
            for span, chunk, net in zip(spans, inputs, spent, strict=True):
                found = scorer.forecaster.run(chunk, BATCH)
                writer.write_table(rows(customers.slice(span[0], span[1] - span[0]), chunk["statics"], net, found, scorer.scoring))

    def features_and_model() -> None:
        mine = weekly.read_part(folder.acts, 0, customers.num_rows)
        for span in spans:
            scorer.forecaster.run(weekly.tensors(mine.part(*span), day), BATCH)

    def whole_shard() -> None:
        scorer.score(0)

    try:
        pairs = {
            "without_features": _pair(model_alone, model_rows_file, rounds, customers.num_rows),
            "with_features": _pair(features_and_model, whole_shard, rounds, customers.num_rows),
        }
    finally:
        folder.remove()
    return {"customers": customers.num_rows, **pairs}


def _pair(baseline: Callable[[], None], candidate: Callable[[], None], rounds: int, customers: int) -> dict[str, Any]:
    """Customers a second of each side, and the ratio candidate / baseline with its interval."""
    seconds: dict[str, list[tuple[float, float]]] = {"baseline": [], "candidate": []}
    for turn in range(rounds + 1):
        for name, do in (("baseline", baseline), ("candidate", candidate))[:: 1 if turn % 2 else -1]:
            wall, cpu = time.perf_counter(), time.process_time()
            do()
            if turn:  # the first round warms up
                seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    taken = {name: np.array(found) for name, found in seconds.items()}
    out: dict[str, Any] = {}
    for k, kind in enumerate(("wall", "cpu")):
        rates = {name: customers / found[:, k] for name, found in taken.items()}
        ratio, low, high = ratio_interval(rates["candidate"].tolist(), rates["baseline"].tolist())
        out[kind] = {"ratio": ratio, "low": low, "high": high, **{f"{name}_per_s": float(np.median(r)) for name, r in rates.items()}}
    return out


def command(home: Path, *more: str) -> dict[str, Any]:
    """`regulars score` to its end."""
    done = subprocess.run(_command(home, *more), check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _command(home: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "regulars", "score", "--home", str(home), "--json", *more]


def killed_and_resumed(home: Path, customers: int) -> dict[str, Any]:
    """A run killed when half of its shards are done, and gone on with; counts what is in the table then.

    Fails when a customer of the warehouse is missing or there twice.
    """
    began = time.perf_counter()
    shards = str(max(KILLED_SHARDS, customers // 25_000))
    process = subprocess.Popen(_command(home, "--fresh", "--shards", shards), stdout=subprocess.DEVNULL)
    scores = home / "scores"
    known = {r.run for r in runs(home)}
    while True:
        mine = [r for r in runs(home) if r.run not in known]
        parts = len(list((scores / mine[0].run).glob("part-*.parquet"))) if mine else 0
        if mine and parts >= mine[0].shards / 2:
            break
        assert process.poll() is None, "it was over before it could be killed"
        time.sleep(0.05)
    process.kill()
    process.wait()
    killed_s = time.perf_counter() - began
    found = command(home)
    with Warehouse(Home(home).warehouse).connect() as connection:
        sql = "SELECT count(*), count(DISTINCT (business_id, customer_id)) FROM customer_risk_scores WHERE scored_at = $at"
        total, distinct = connection.execute(sql, {"at": found["scored_at"]}).fetchall()[0]
        missing = connection.execute(
            "SELECT count(*) FROM customers c ANTI JOIN (SELECT * FROM customer_risk_scores WHERE scored_at = $at) s "
            "USING (business_id, customer_id)",
            {"at": found["scored_at"]},
        ).fetchall()[0][0]
    assert total == distinct == found["customers"], f"{total} rows of {distinct} customers, {found['customers']} were planned"
    assert missing == 0, f"{missing} customers have no score"
    assert found["resumed"] >= found["shards"] / 2, "it did not go on where it was"
    return {
        "killed_after_s": killed_s,
        "parts_when_killed": parts,
        "rows": total,
        "distinct": distinct,
        "missing": missing,
        "resumed": found,
    }


def main() -> None:
    """Run, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--home", type=Path, help="with a warehouse; generated when not given")
    parser.add_argument("--customers", type=int, default=20_000, help="of the generated warehouse")
    parser.add_argument("--months", type=int, default=6, help="of its history")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--engines", nargs="*", default=["local", "ray"], choices=["local", "ray"], help="of the whole command")
    parser.add_argument("--kill", action="store_true", help="also kill a run half way and go on with it")
    parser.add_argument("--name", default="scoring", help="of the result")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-scoring-"))
    try:
        home = options.home or folder / "home"
        if options.home is None:
            made = [sys.executable, "-m", "regulars", "data", "generate", "--home", str(home), "--no-truth"]
            subprocess.run(
                [*made, "--customers", str(options.customers), "--months", str(options.months)], check=True, stdout=subprocess.DEVNULL
            )
        untrained_bundle(home)
        settings = {k: v for k, v in vars(options).items() if k not in ("home", "name")} | {
            "chunk": CHUNK, "batch": BATCH, "threads": 1, "load_at_start": os.getloadavg()[0],
        }  # fmt: skip
        result = record("What does batch scoring add to ONNX Runtime?", settings, ["duckdb", "numpy", "onnxruntime", "pyarrow", "ray"])
        found: dict[str, Any] = {}
        if options.rounds:
            found["ratios"] = ratios(home, options.rounds)
            for name in ("without_features", "with_features"):
                for kind, r in found["ratios"][name].items():
                    print(
                        f"{name:<17}{kind:<5}ratio {r['ratio']:.3f} ({r['low']:.3f}-{r['high']:.3f}); scoring {r['candidate_per_s']:,.0f} "
                        f"customers/s, {'ONNX Runtime' if name == 'without_features' else 'features and it'} {r['baseline_per_s']:,.0f}",
                        flush=True,
                    )
        found["commands"] = {engine: command(home, "--fresh", "--engine", engine) for engine in options.engines}
        for engine, done in found["commands"].items():
            print(
                f"command, {engine:<6} {done['customers']:>10,} customers in {done['seconds']:.1f} s, {done['customers_per_second']:,.0f}/s"
            )
        if options.kill:
            found["killed"] = killed_and_resumed(home, options.customers)
            print(
                f"killed with {found['killed']['parts_when_killed']} of {found['killed']['resumed']['shards']} shards done, gone on: "
                f"{found['killed']['rows']:,} rows of {found['killed']['distinct']:,} customers, {found['killed']['missing']} missing"
            )
        print(write_json(options.name, result | {"load_at_end": os.getloadavg()[0], "results": found}).name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
