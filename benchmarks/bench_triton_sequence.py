"""The sequence model on Triton: how long one customer's attributed forecast takes with 1 or 2 threads and with 1 or 2 instances, and how
many customers a second come through in full batches.

    python -m benchmarks.bench_triton_sequence               an untrained model of the usual size: the time does not depend on the weights
    python -m benchmarks.bench_triton_sequence --home var    the deployed one

The model servers differ in nothing but that, run at the same time and take turns, so that whatever else the machine does meets all of
them. Prints medians, and the ratio of each round's median to that of one instance of one thread.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import record, write_json
from contracts.bundle import deployed_version
from contracts.paths import Home
from contracts.sequence import MODEL_NAME
from contracts.tensors import SEQUENCE, SEQUENCE_FACTORS, ModelSpec
from serving import repository
from serving.client import TritonClient
from serving.triton import TritonServer, TritonSettings
from training.export.sequence import golden_histories

SHAPES = ((1, 1), (2, 1), (1, 2))
"""Threads of an instance, instances."""
DEADLINE_S = 60.0
console = Console()


@dataclass(frozen=True)
class Load:
    """Requests of `rows` customers to one model, `concurrency` of them under way."""

    spec: ModelSpec
    rows: int
    concurrency: int
    requests: int

    @property
    def name(self) -> str:
        return f"{self.spec.name}, {self.rows} a request, {self.concurrency} at once"


LOADS = (Load(SEQUENCE_FACTORS, 1, 1, 60), Load(SEQUENCE_FACTORS, 1, 4, 80), Load(SEQUENCE, 1, 1, 60), Load(SEQUENCE, 1024, 1, 6))


def untrained(folder: Path) -> str:
    """A model repository of untrained models of the usual size; returns their version."""
    import torch

    from training.export import onnx
    from training.sequence.model import FactorsModel, ModelConfig, SequenceModel

    model = SequenceModel(ModelConfig()).eval()
    reference = (torch.from_numpy(golden_histories()[name][3]) for name in ("weeks", "statics"))
    modules = {SEQUENCE: model, SEQUENCE_FACTORS: FactorsModel(model, *reference).eval()}
    for spec, module in modules.items():
        (folder / spec.name / "1").mkdir(parents=True)
        onnx.export(module, spec, folder / spec.name / "1" / "model.onnx")
        (folder / spec.name / "config.pbtxt").write_text(repository.config_text(spec.name, "onnxruntime"), encoding="utf-8")
    return "1"


async def block(url: str, version: str, load: Load) -> tuple[np.ndarray, float]:
    """Latencies in ms, and customers a second."""
    inputs = {name: np.resize(array[3:], (load.rows, *array.shape[1:])) for name, array in golden_histories().items()}
    took: list[float] = []
    async with TritonClient(url, DEADLINE_S) as client:
        left = iter(range(load.requests))

        async def worker() -> None:
            for _ in left:
                began = time.perf_counter()
                await client.infer(load.spec, inputs, version)
                took.append((time.perf_counter() - began) * 1e3)

        await client.infer(load.spec, inputs, version)
        began = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(load.concurrency)))
        return np.asarray(took), load.requests * load.rows / (time.perf_counter() - began)


def _server(folder: Path, models: Path, threads: int, instances: int) -> TritonServer:
    shutil.copytree(models, folder / "repository")
    for config in (folder / "repository").glob("*/config.pbtxt"):
        config.write_text(config.read_text(encoding="utf-8").replace("count: 1", f"count: {instances}"), encoding="utf-8")
    return TritonServer(TritonSettings.load(instance_threads=threads, start_timeout_s=120), folder / "repository", folder / "run")


def measure(folder: Path, models: Path, version: str, rounds: int) -> list[dict[str, Any]]:
    """One row a load and shape: median and 95th percentile over all rounds, and the ratio to the first shape's."""
    with ExitStack() as stack:
        servers = {s: stack.enter_context(_server(folder / f"{s[0]}-{s[1]}", models, *s)) for s in SHAPES}
        found: dict[tuple[Load, tuple[int, int]], list[tuple[np.ndarray, float]]] = {(load, s): [] for load in LOADS for s in SHAPES}
        for number in range(rounds):
            for load in LOADS:
                for shape in SHAPES if number % 2 else SHAPES[::-1]:
                    found[load, shape].append(asyncio.run(block(servers[shape].url, version, load)))
    rows = []
    for (load, (threads, instances)), blocks in found.items():
        one = [np.median(ms) for ms, _ in found[load, SHAPES[0]]]
        ratios = [np.median(ms) / base for (ms, _), base in zip(blocks, one, strict=True)]
        p50, p95 = np.percentile(np.concatenate([ms for ms, _ in blocks]), (50, 95))
        rate = np.median([r for _, r in blocks])
        rows.append(
            {"load": load.name, "threads": threads, "instances": instances, "p50_ms": float(p50), "p95_ms": float(p95),
             "customers_per_s": float(rate), "ratio": float(np.median(ratios))}
        )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="take the deployed version of this home")
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    busy = os.getloadavg()[0]  # of others: the medians are of that machine, the ratios less so
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = folder / "repository"
        if arguments.home is None:
            version = untrained(models)
        else:
            home = Home(arguments.home)
            version = deployed_version(home.models, MODEL_NAME)
            repository.build(home.models / MODEL_NAME / version, models)
        rows = measure(folder, models, version, arguments.rounds)
    table = Table(title="Sequence model on Triton", title_justify="left")
    for column in rows[0]:
        table.add_column(column.replace("_", " "), justify="left" if column == "load" else "right")
    for row in rows:
        table.add_row(*(f"{v:,.2f}" if isinstance(v, float) else str(v) for v in row.values()))
    console.print(table)
    model = "untrained" if arguments.home is None else f"deployed {version}"
    settings = {"shapes": SHAPES, "rounds": arguments.rounds, "model": model, "load_average_before": busy}
    made = record("how many threads and instances for the sequence model?", settings, ("onnxruntime", "tritonclient", "numpy", "torch"))
    write_json("triton_sequence", made | {"rows": rows})


if __name__ == "__main__":
    main()
