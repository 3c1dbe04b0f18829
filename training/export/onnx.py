"""Any nn.Module plus its ModelSpec to an ONNX file that every place we run can load.

Letters: B batch.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from contracts.errors import ArtifactError, ShapeError
from contracts.tensors import ModelSpec, TensorSpec

OPSET = 18
"""ONNX Runtime 1.23 (the model server's) reads up to 23, TensorRT 10 up to 20; 18 has all that the towers need."""
MAX_IR_VERSION = 11
"""ONNX Runtime 1.23 reads up to IR 11 or newer; the container's may be older, so we stay at or below."""
_EXAMPLE_ROWS = 3  # torch.export makes a constant of a batch of 0 or 1


def example_inputs(spec: ModelSpec, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded inputs (rows, *shape) for each input of the spec; integers are 0 or 1, ids that every vocabulary has."""
    rng = np.random.default_rng(seed)

    def one(tensor: TensorSpec) -> np.ndarray:
        shape = (rows, *tensor.shape)
        if np.dtype(tensor.dtype).kind == "f":
            return rng.standard_normal(shape).astype(tensor.dtype)
        return rng.integers(0, 2, shape).astype(tensor.dtype)

    return {t.name: one(t) for t in spec.inputs}


def export(module: nn.Module, spec: ModelSpec, path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Write `module` as ONNX with the spec's tensor names, the batch dimension dynamic and everything else fixed.

    Args:
        module: takes the spec's inputs in order, gives its outputs (a tensor, or a tuple in order).
        spec: names, dtypes and shapes.
        path: the file to write; replaced only when the new one passed every check.
        metadata: goes into the file's `metadata_props`; the model's name is added.

    Raises:
        ShapeError: the module's outputs are not what the spec says.
        ArtifactError: the file cannot be loaded by the oldest runtime that we serve with.
    """
    check_module(module, spec)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        _write(module, spec, temporary)
        finish(temporary, spec, {"model": spec.name, **(metadata or {})})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def run_torch(module: nn.Module, spec: ModelSpec, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The module's answer in evaluation mode, on the device of its weights: each output by name, (B, *shape)."""
    device = next(module.parameters(), torch.zeros(0)).device
    was_training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            answer = module(*(torch.from_numpy(np.ascontiguousarray(inputs[t.name])).to(device) for t in spec.inputs))
    finally:
        module.train(was_training)
    outputs = answer if isinstance(answer, tuple) else (answer,)
    if len(outputs) != len(spec.outputs):
        raise ShapeError(
            f"{spec.name} gives {len(outputs)} outputs, its spec has {len(spec.outputs)}. Correct contracts/tensors.py or the module"
        )
    return {t.name: o.cpu().numpy() for t, o in zip(spec.outputs, outputs, strict=True)}


def check_module(module: nn.Module, spec: ModelSpec) -> None:
    """Run a small batch and compare with the spec.

    Raises:
        ShapeError: another number of outputs, or an output of another shape or dtype.
    """
    answer = run_torch(module, spec, example_inputs(spec, _EXAMPLE_ROWS))
    for tensor in spec.outputs:
        tensor.check(answer[tensor.name])


def _write(module: nn.Module, spec: ModelSpec, path: Path) -> None:
    example = example_inputs(spec, _EXAMPLE_ROWS)
    batch = torch.export.Dim("batch", min=1, max=spec.max_batch_size)
    was_training = module.training
    module.eval()
    try:
        with _quiet():
            torch.onnx.export(
                module,
                tuple(torch.from_numpy(example[t.name]) for t in spec.inputs),
                path,
                input_names=[t.name for t in spec.inputs],
                output_names=[t.name for t in spec.outputs],
                dynamic_shapes=tuple({0: batch} for _ in spec.inputs),
                opset_version=OPSET,
                external_data=False,
                dynamo=True,
                verbose=False,
            )
    finally:
        module.train(was_training)


class _quiet:  # noqa: N801 - used like a function
    """The exporter's progress and deprecation notes concern its authors, not whoever exports a model."""

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")
        self._levels = {name: logging.getLogger(name).level for name in ("onnxscript", "torch.onnx", "onnx_ir")}
        for name in self._levels:
            logging.getLogger(name).setLevel(logging.ERROR)

    def __exit__(self, *exc: Any) -> None:
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)
        self._warnings.__exit__(*exc)


def finish(path: Path, spec: ModelSpec, metadata: Mapping[str, str]) -> None:
    """Add the metadata to a written ONNX file and check it: valid, old enough to be loaded, the spec's names and shapes.

    Raises:
        ArtifactError: it is not valid, too new, or has other tensors than the spec.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
    except Exception as exc:
        raise ArtifactError(f"{path} is not a valid ONNX file: {exc}. Export the model again: regulars export") from exc
    check_loadable(model, path.name)
    check_tensors(model, spec)
    del model.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


def check_loadable(model: onnx.ModelProto, name: str) -> None:
    """Raise ArtifactError where the file is newer than the oldest runtime that we serve with."""
    opsets = {o.domain or "ai.onnx": o.version for o in model.opset_import}
    if model.ir_version > MAX_IR_VERSION or opsets.get("ai.onnx", 0) != OPSET or set(opsets) - {"ai.onnx"}:
        raise ArtifactError(
            f"{name} has IR version {model.ir_version} and operator sets {opsets}, must have at most {MAX_IR_VERSION} and only "
            f"ai.onnx {OPSET}. Export it with training.export.onnx.export"
        )


def check_tensors(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Raise ArtifactError unless the graph has the spec's tensors, each with a dynamic batch dimension first."""
    for side, values, specs in (("inputs", model.graph.input, spec.inputs), ("outputs", model.graph.output, spec.outputs)):
        found = {v.name: _describe(v) for v in values}
        wanted = {t.name: (t.dtype, (None, *t.shape)) for t in specs}
        if found != wanted:
            raise ArtifactError(f"{spec.name} has {side} {found}, must have {wanted} (None: the batch). Export it with its ModelSpec")


def _describe(value: onnx.ValueInfoProto) -> tuple[str, tuple[int | None, ...]]:
    tensor = value.type.tensor_type
    dims = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)), dims
