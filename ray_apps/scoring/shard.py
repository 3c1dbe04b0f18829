"""One shard of customers, from the warehouse to a Parquet file: what every engine runs.

A shard is read at once and goes through the model in chunks, so that its memory is that of its days plus one chunk.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.bundle import read_manifest
from contracts.errors import ArtifactError
from contracts.sequence import MODEL_NAME, Forecasting
from contracts.tensors import SEQUENCE
from features import weekly
from ray_apps.scoring.rows import SCHEMA, Scoring, historical_spend, rows
from ray_apps.scoring.runs import Run, RunFolder

CHUNK = 4096
Tick = Callable[[int], None]


@dataclass(frozen=True)
class ShardReport:
    """What became of one shard; seconds of each part of the work."""

    shard: int
    customers: int
    read_s: float
    features_s: float
    model_s: float
    rows_s: float
    write_s: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Forecaster:
    """The deployed model in ONNX Runtime, with its record.

    Args:
        models: the models folder. version: of `sequence`.
        threads: of one call.

    Raises:
        ArtifactError: the bundle is missing, damaged or changed.
    """

    def __init__(self, models: Path, version: str, threads: int = 1) -> None:
        import onnxruntime

        folder = models / MODEL_NAME / version
        read_manifest(folder)
        try:
            self.forecasting = Forecasting.model_validate_json((folder / "forecast.json").read_bytes())
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
            options.log_severity_level = 3
            self._session = onnxruntime.InferenceSession(folder / "sequence.onnx", options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # ONNX Runtime's errors have no common parent of ours
            raise ArtifactError(f"cannot load {folder}: {exc}. Build the bundle again: regulars export --model {MODEL_NAME}") from exc
        self._names = [t.name for t in SEQUENCE.outputs]

    def run(self, inputs: Mapping[str, np.ndarray], batch_size: int) -> dict[str, np.ndarray]:
        """The outputs of `contracts.tensors.SEQUENCE` for any number of rows, in batches."""
        n = len(inputs["statics"])
        fed = [{t.name: inputs[t.name][i : i + batch_size] for t in SEQUENCE.inputs} for i in range(0, n, batch_size)]
        found = [self._session.run(self._names, batch) for batch in fed]
        return {name: np.concatenate([answer[k] for answer in found]) for k, name in enumerate(self._names)}


class ShardScorer:
    """Scores shards of one run; one per process or actor.

    Args:
        home: as in the settings. run: its record. threads: of the model.

    Raises:
        ArtifactError: the bundle cannot be read.
    """

    def __init__(self, home: Path, run: Run, threads: int = 1) -> None:
        self.folder, self.run = RunFolder(home, run.run), run
        self.forecaster = Forecaster(home / "models", run.version, threads)
        self.scoring = Scoring(run.as_of, run.scored_at, f"{MODEL_NAME}/{run.version}", self.forecaster.forecasting, run.risk_cuts)

    def score(self, shard: int, tick: Tick = lambda count: None) -> ShardReport:
        """Score one shard and put its file in place, whole or not at all.

        Args:
            shard: 0 to the run's shards - 1. tick: told how many customers more are done.

        Raises:
            ArtifactError: the customers or their acts are gone or damaged.
        """
        began = time.perf_counter()
        customers = self.folder.customers(shard)
        history = weekly.read_part(self.folder.acts, shard, customers.num_rows)
        read_s = time.perf_counter() - began
        day, spent = weekly.as_of_day(self.run.as_of), np.zeros(4)
        path = self.folder.part(shard)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with pq.ParquetWriter(temporary, SCHEMA, compression="zstd", compression_level=1) as writer:
                for begin in range(0, customers.num_rows, CHUNK):
                    chunk = customers.slice(begin, CHUNK)
                    t0 = time.perf_counter()
                    mine = history.part(begin, begin + chunk.num_rows)
                    inputs = weekly.tensors(mine, day)
                    historical = historical_spend(mine, day)
                    t1 = time.perf_counter()
                    outputs = self.forecaster.run(inputs, self.run.batch_size)
                    t2 = time.perf_counter()
                    table = rows(chunk, inputs["statics"], historical, outputs, self.scoring)
                    t3 = time.perf_counter()
                    writer.write_table(table)
                    spent += np.diff([t0, t1, t2, t3, time.perf_counter()])
                    tick(chunk.num_rows)
            began = time.perf_counter()
            put_in_place(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        features_s, model_s, rows_s, write_s = spent.tolist()
        return ShardReport(shard, customers.num_rows, read_s, features_s, model_s, rows_s, write_s + time.perf_counter() - began)


def put_in_place(temporary: Path, path: Path) -> None:
    """Give a written file its name once it is on disk, so that whoever finds the name finds all of it."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def part_rows(path: Path) -> int | None:
    """Rows of a finished part; None where there is none, or one that cannot be read."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException):
        return None
