"""What becomes of a run of the sequence model: two graphs with the same weights, and the record of how their numbers are to be read.

Letters: n golden rows, W = 52 weeks, C channels, S static features.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from contracts.errors import ArtifactError
from contracts.tensors import SEQUENCE, SEQUENCE_FACTORS, SEQUENCE_MODELS, ModelSpec, difference
from features import weekly
from training.export import parity
from training.export.parity import GOLDEN_ROWS, Hop
from training.sequence import artifacts as run_files

FORECAST = "forecast.json"
AGREEMENT = 1e-3
"""Largest gap between impacts added up and what they explain, and between what the two graphs say of one customer."""
AS_OF_DAY = 20_500
EXTREME = 15.0
"""Inputs are logarithms: three million of anything."""


@dataclass(frozen=True)
class SequenceRun:
    """The models of one run; see `training.export.bundle.Models`."""

    trained: run_files.Trained

    nudge_within = "heads"

    def served(self) -> dict[str, tuple[ModelSpec, nn.Module]]:
        """What is exported, by name, in the order of `contracts.tensors.SEQUENCE_MODELS`."""
        modules: dict[str, nn.Module] = {SEQUENCE.name: self.trained.model, SEQUENCE_FACTORS.name: self.trained.factors}
        return {spec.name: (spec, modules[spec.name]) for spec in SEQUENCE_MODELS.values()}

    def limits(self) -> Mapping[str, Sequence[int]]:
        """No input is an id."""
        return {}

    def known(self) -> dict[str, np.ndarray]:
        """Golden inputs: see `golden_histories`."""
        return golden_histories()

    def checks(self, folder: Path, golden: Mapping[str, np.ndarray]) -> list[Hop]:
        """See `consistency`, of the exported files in ONNX Runtime."""
        inputs = {t.name: golden[t.name] for t in SEQUENCE.inputs}
        return consistency(*(parity.onnx_run(folder / f"{name}.onnx")(inputs) for name in SEQUENCE_MODELS))


def load(artifacts: Path) -> SequenceRun:
    """The models of a run's artifacts, in eval mode.

    Raises:
        ArtifactError: a file is missing, damaged or does not match another.
    """
    trained = run_files.load(artifacts)
    gap = np.abs(np.asarray(trained.forecasting.reference_statics) - trained.factors.reference_statics.numpy()).max()
    if not gap <= AGREEMENT:
        raise ArtifactError(
            f"the reference customers of {FORECAST} and reference.npz in {artifacts} differ by {gap:.3g}, must not by over {AGREEMENT:g}. "
            "The files are of different runs; train again: regulars train sequence"
        )
    return SequenceRun(trained)


def files(artifacts: Path, models: SequenceRun) -> Callable[[Path, Callable[[str], None]], None]:
    """What else the bundle needs of a run's artifacts: returns what writes it into the bundle."""

    def write(stage: Path, progress: Callable[[str], None]) -> None:
        shutil.copyfile(artifacts / FORECAST, stage / FORECAST)

    return write


def golden_histories(rows: int = GOLDEN_ROWS, seed: int = 7) -> dict[str, np.ndarray]:
    """Seeded customers as `features.weekly` describes them, from a week to three years of them.

    Row 0 is a customer of whom nothing is known, rows 1 and 2 have every input far out on one side (the model cuts them); the rest buy
    at rates from twice a week to twice a year, receive, view and redeem, some have left, some complain.

    Args:
        rows: at least 4.

    Returns:
        weeks float32 (n, W, C), statics float32 (n, S).
    """
    rng = np.random.default_rng(seed)
    tenure = np.concatenate([[0], rng.permutation(np.geomspace(7, 1100, rows - 1)).astype(np.int64)])
    days, sums, starts = [], [], [0]
    for known_days in tenure:
        age = np.flatnonzero(rng.random(known_days) < rng.choice([2 / 365, 1 / 30, 1 / 7, 2 / 7])) + rng.choice([0, 0, known_days // 2])
        days.append(AS_OF_DAY - 1 - age[age < known_days][::-1])
        sums.append(_some_days(len(days[-1]), rng))
        starts.append(starts[-1] + len(days[-1]))
    joined = AS_OF_DAY - tenure
    joined[0] = np.iinfo(np.int32).max
    history = weekly.DailyHistory(
        np.asarray(starts), np.concatenate(days).astype(np.int32), np.concatenate(sums).astype(np.float32), joined.astype(np.int32)
    )
    found = weekly.tensors(history, AS_OF_DAY)
    for array in found.values():
        array[1], array[2] = EXTREME, -EXTREME
    return found


def _some_days(count: int, rng: np.random.Generator) -> np.ndarray:
    """Sums of `count` days, (count, 10), see `features.weekly.DAILY`: most with a purchase, some with a return."""
    purchases = rng.poisson(1.0, count)
    spend = purchases * rng.lognormal(3.0, 0.8, count) - (rng.random(count) < 0.05) * 20.0
    others = rng.poisson((2.0, 0.4, 0.3, 0.2, 0.05, 0.05, 0.03), (count, 7))
    return np.column_stack([purchases, spend, spend.clip(0) * rng.choice([0.0, 0.1], count), others])


def consistency(forecasts: Mapping[str, np.ndarray], explained: Mapping[str, np.ndarray]) -> list[Hop]:
    """What must hold between the outputs of the two graphs for the same rows.

    - the exact impacts add up to churn at 90 days less the reference customer's;
    - so do the estimates, from the same reference;
    - both graphs forecast the same.

    Args:
        forecasts: of SEQUENCE, explained: of SEQUENCE_FACTORS, by name, (n, ...).
    """
    moved = explained["churn"][:, -1] - explained["reference"][:, 0]
    rows = len(moved)

    def sums_up(model: ModelSpec, tensor: str, values: np.ndarray) -> Hop:
        gap = np.abs(values.astype(np.float64).sum(-1) - moved).max()
        return Hop(model.name, f"sum of {tensor}", rows, float(gap) if np.isfinite(gap) else float("inf"), AGREEMENT, tensor)

    shared = [t.name for t in SEQUENCE.outputs if t.name in explained]
    gaps = {name: difference(explained[name], forecasts[name]) for name in shared}
    worst = max(gaps, key=lambda name: gaps[name])
    return [
        sums_up(SEQUENCE_FACTORS, "impacts", explained["impacts"]),
        sums_up(SEQUENCE, "impact_estimates", forecasts["impact_estimates"]),
        Hop(SEQUENCE_FACTORS.name, f"{SEQUENCE.name} → {SEQUENCE_FACTORS.name}", rows, gaps[worst], AGREEMENT, worst),
    ]
