"""The same inputs through two runtimes must give the same outputs, and the check must be able to fail.

A *hop* is one change of runtime: torch → ONNX Runtime → Triton, torch → TensorRT. Each is compared on golden rows, alone and in batches.
Letters: B batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from contracts.errors import ArtifactError
from contracts.tensors import EMBEDDING_DIM, ModelSpec, TensorSpec, difference
from training.export.onnx import run_torch

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
"""One runtime with one model loaded: inputs by name (B, *shape) to outputs by name."""

TOLERANCE = 2e-5
"""float32 against float32: sums of some hundred products in another order differ by about 1e-6; vectors have length 1."""
TOLERANCES = dict.fromkeys(("churn", "silent_by", "purchase_probability", "impacts", "reference"), 1e-4) | {
    "spend": 5e-4,
    "spend_interval": 5e-4,
}
"""Of tensors that have one of their own: probabilities, absolute; money, which is an exponential, relative to the row's largest amount.

Hundreds of purchases times the logarithm of a ratio, in float32, move a logit by some 1e-5 between two orders of summation; trained models
were seen at 1.2e-5 for probabilities and 5.1e-5 for money.
"""
FP16_TOLERANCE = 1e-2
"""float16 keeps 11 bits: half a thousandth for each of some dozen roundings on values of about 1."""
BATCHES = (1, 7)
GOLDEN_ROWS = 24
NUDGE = 0.25
EXTREME = 1e4
EXTREMES = {"pair_features": 10.0, "user_vector": EMBEDDING_DIM**-0.5, "item_vector": EMBEDDING_DIM**-0.5}
"""The largest values of inputs that are bounded by how they are made: pair features are scaled, vectors have length 1."""


@dataclass(frozen=True)
class Hop:
    """What one comparison found.

    Attributes:
        model: name of the model. hop: for example `torch → onnx`.
        rows: golden rows compared.
        max_difference: largest difference (`contracts.tensors.difference`: in proportion to values over 1) of the output that is nearest
            to, or furthest beyond, what is allowed for it; infinite where a value is not finite.
        tolerance: what is allowed for that output.
        tensor: that output.
    """

    model: str
    hop: str
    rows: int
    max_difference: float
    tolerance: float
    tensor: str = ""

    @property
    def ok(self) -> bool:
        return self.max_difference <= self.tolerance

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}


def golden_inputs(
    spec: ModelSpec,
    limits: Mapping[str, Sequence[int]] | None = None,
    rows: int = GOLDEN_ROWS,
    seed: int = 7,
    known: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Seeded rows that cover what a model meets.

    Row 0 is all zeros (an all-padding history), row 1 has the highest ids and large positive values, row 2 large negative ones; the rest
    are random, sequences padded in front by a random length.

    Args:
        known: tensors that are taken as they are: inputs shared with an earlier model, and its outputs.
        limits: for an integer input, the exclusive upper bound of each of its last axis's columns; 2 where not given.
        rows: at least 4.

    Returns:
        each input by name, (rows, *shape).
    """
    rng = np.random.default_rng(seed)
    real = _real_steps(spec, rows, rng)
    made = {t.name: _golden(t, (limits or {}).get(t.name), rows, real, rng) for t in spec.inputs}
    return made | {name: array for name, array in (known or {}).items() if name in made}


def _real_steps(spec: ModelSpec, rows: int, rng: np.random.Generator) -> np.ndarray:
    """bool (rows, T): which steps are not padding; rows 0 has none, rows 1 and 2 have all."""
    steps = max((t.shape[0] for t in spec.inputs if len(t.shape) > 1), default=1)
    lengths = rng.integers(1, steps + 1, rows)
    lengths[:3] = (0, steps, steps)
    return np.arange(steps)[None, :] >= steps - lengths[:, None]


def _golden(tensor: TensorSpec, limit: Sequence[int] | None, rows: int, real: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    shape = (rows, *tensor.shape)
    dtype = np.dtype(tensor.dtype)
    out: np.ndarray
    if dtype.kind == "f":
        extreme = EXTREMES.get(tensor.name, EXTREME)
        out = np.clip(rng.standard_normal(shape), -extreme, extreme)
        out[1], out[2] = extreme, -extreme
    else:
        high = np.broadcast_to(np.asarray(limit if limit is not None else 2), tensor.shape[-1:])
        out = rng.integers(1, np.maximum(high, 2), shape)
        out[1], out[2] = high - 1, 1
    out[0] = 0
    if len(tensor.shape) > 1:
        out = out * real.reshape(*real.shape, *[1] * (len(tensor.shape) - 1))
    return out.astype(dtype)


def compare(
    spec: ModelSpec, hop: str, reference: Run, candidate: Run, inputs: Mapping[str, np.ndarray], tolerance: float | None = None
) -> Hop:
    """Run the golden rows through both, the candidate also in batches of 1 and of 7, and measure.

    Args:
        tolerance: for every output; each output's own (`TOLERANCES`, else `TOLERANCE`) when None.

    Raises:
        ShapeError: an output is not what the spec says.
    """
    expected = reference(inputs)
    rows = len(next(iter(inputs.values())))
    worst = dict.fromkeys((t.name for t in spec.outputs), 0.0)
    for size in sorted({min(n, spec.max_batch_size) for n in (*BATCHES, rows)}):
        for start in range(0, rows, size):
            part = slice(start, start + size)
            answer = candidate({name: array[part] for name, array in inputs.items()})
            for t in spec.outputs:
                worst[t.name] = max(worst[t.name], _difference(t, answer[t.name], expected[t.name][part]))
    allowed = {name: TOLERANCES.get(name, TOLERANCE) if tolerance is None else tolerance for name in worst}
    name = max(worst, key=lambda n: worst[n] / allowed[n])
    return Hop(spec.name, hop, rows, worst[name], allowed[name], name)


def _difference(tensor: TensorSpec, found: np.ndarray, expected: np.ndarray) -> float:
    tensor.check(found)
    return difference(found, expected)


def require(hops: Sequence[Hop]) -> None:
    """Raise ArtifactError naming each hop that is beyond its tolerance."""
    bad = [f"{h.model} {h.hop}: {h.tensor} off by {h.max_difference:.3g} > {h.tolerance:g}" for h in hops if not h.ok]
    if bad:
        raise ArtifactError(f"parity failed: {'; '.join(bad)} over the golden rows. Nothing was deployed; export again: regulars export")


def nudged(module: nn.Module, within: str = "") -> nn.Module:
    """A copy with one weight changed: the largest of the last weight matrix (of those with `within` in their name)."""
    other = copy.deepcopy(module)
    weight = [p for name, p in other.named_parameters() if p.ndim > 1 and within in name][-1]
    with torch.no_grad():
        index = int(weight.abs().argmax())
        weight.view(-1)[index] += NUDGE
    return other


def negative_control(
    spec: ModelSpec, module: nn.Module, candidate: Run, inputs: Mapping[str, np.ndarray], tolerance: float | None = None, within: str = ""
) -> Hop:
    """Compare the candidate with a model that differs in one weight (see `nudged`): the result must not be ok.

    Raises:
        ArtifactError: it was within the tolerance, so the parity check proves nothing.
    """
    hop = compare(spec, "one weight nudged", torch_run(nudged(module, within), spec), candidate, inputs, tolerance)
    if hop.ok:
        raise ArtifactError(
            f"{spec.name}: a weight changed by {NUDGE} moved the golden rows by {hop.max_difference:.3g}, within {hop.tolerance:g}: the "
            "parity check cannot see a wrong model. Train the model (its weights may be all zero), or use other golden rows"
        )
    return hop


def torch_run(module: nn.Module, spec: ModelSpec) -> Run:
    """torch in evaluation mode."""
    return lambda inputs: run_torch(module, spec, inputs)


def onnx_run(path: Path, threads: int = 1) -> Run:
    """ONNX Runtime on the CPU.

    Raises:
        ArtifactError: the file cannot be loaded.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # ONNX Runtime has a class for each status, with no common parent of its own
        raise ArtifactError(f"ONNX Runtime cannot load {path}: {exc}. Export the model again: regulars export") from exc
    names = [o.name for o in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))
