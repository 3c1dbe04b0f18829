"""From an exported ONNX file to a TensorRT engine (`model.plan`), on the machine whose GPU will run it.

TensorRT's builder is not on PyPI, so this runs inside the image that Dockerfile.gpu builds (`--target compile`); elsewhere it refuses and
says so. Against the API of TensorRT 10: Builder, OnnxParser, optimisation profiles, timing cache, execute_async_v3.

Letters: B batch.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from contracts.bundle import file_sha256
from contracts.errors import ArtifactError, ConfigError
from contracts.tensors import ModelSpec, TensorSpec
from training.export import parity
from training.export.parity import Hop, Run

Precision = Literal["fp32", "fp16"]
OPTIMAL_BATCH = 32
WORKSPACE_BYTES = 2 * 2**30

SUPPORTED_OPERATORS = frozenset({
    "Abs", "Add", "And", "ArgMax", "AveragePool", "BatchNormalization", "Cast", "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape",
    "Conv", "ConvTranspose", "Cos", "CumSum", "Div", "Einsum", "Equal", "Erf", "Exp", "Expand", "Flatten", "Floor", "Gather",
    "GatherElements", "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "Greater", "GreaterOrEqual", "HardSigmoid", "Identity", "LSTM",
    "LayerNormalization", "Less", "LessOrEqual", "Log", "MatMul", "Max", "MaxPool", "Mean", "Min", "Mul", "Neg", "Not", "Or", "Pow",
    "Range", "Reciprocal", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape", "Resize", "Round",
    "ScatterElements", "Shape", "Sigmoid", "Sign", "Sin", "Slice", "Softmax", "Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Sum",
    "Tanh", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Where", "Xor",
})  # fmt: skip
"""Operators that the ONNX parser of TensorRT 10 takes and that our kind of model may use. Source: onnx-tensorrt, docs/operators.md."""

API = {
    "": ("Builder", "OnnxParser", "Logger", "Runtime", "BuilderFlag", "MemoryPoolType"),
    "Builder": ("create_network", "create_builder_config", "create_optimization_profile", "build_serialized_network"),
    "IBuilderConfig": ("set_flag", "clear_flag", "set_memory_pool_limit", "add_optimization_profile", "create_timing_cache",
                       "set_timing_cache", "get_timing_cache"),
    "IOptimizationProfile": ("set_shape",),
    "OnnxParser": ("parse", "get_error", "num_errors"),
    "Runtime": ("deserialize_cuda_engine",),
    "ICudaEngine": ("create_execution_context", "get_tensor_name", "num_io_tensors"),
    "IExecutionContext": ("set_input_shape", "get_tensor_shape", "set_tensor_address", "execute_async_v3"),
    "ITimingCache": ("serialize",),
}  # fmt: skip
"""Every class and method of TensorRT that this file calls; a test compares them with the bindings where those are installed."""


@dataclass(frozen=True)
class Profile:
    """Smallest, usual and largest shape of one input."""

    name: str
    smallest: tuple[int, ...]
    usual: tuple[int, ...]
    largest: tuple[int, ...]


@dataclass(frozen=True)
class EngineRecord:
    """What lies beside an engine, since an engine runs on one kind of GPU and one version of TensorRT only."""

    model: str
    precision: str
    onnx_sha256: str
    tensorrt: str
    device: str
    compute_capability: str
    version_compatible: bool
    parity: dict[str, Any]


def profiles(spec: ModelSpec) -> list[Profile]:
    """One optimisation profile's shapes: a batch of 1, of 32 and of the largest, each with the smallest, usual and largest free sizes."""
    usual = min(OPTIMAL_BATCH, spec.max_batch_size)
    return [Profile(t.name, (1, *t.shaped(0)), (usual, *t.shaped(1)), (spec.max_batch_size, *t.shaped(2))) for t in spec.inputs]


def unsupported_operators(path: Path) -> list[str]:
    """Operators of an ONNX file that TensorRT's parser is not known to take.

    Raises:
        ArtifactError: the file cannot be read.
    """
    try:
        model = onnx.load(path)
    except Exception as exc:
        raise ArtifactError(f"cannot read {path}: {exc}. Export the model again: regulars export") from exc
    return sorted({f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in model.graph.node} - SUPPORTED_OPERATORS)


def require_tensorrt() -> Any:
    """The tensorrt module.

    Raises:
        ConfigError: there is none here, or no GPU that torch can use for the buffers.
    """
    how = (
        "TensorRT engines are built on the GPU machine that runs them, inside the image that holds TensorRT: "
        "docker build -f Dockerfile.gpu --target compile -t regulars-compile . && "
        "docker run --gpus all -v $PWD/var:/var/regulars regulars-compile"
    )
    if importlib.util.find_spec("tensorrt") is None:
        raise ConfigError(f"there is no TensorRT in this environment, --target tensorrt needs TensorRT 10. {how}")
    module = importlib.import_module("tensorrt")
    version = str(getattr(module, "__version__", "unknown"))
    if version.split(".")[0] != "10":
        raise ConfigError(f"TensorRT here is {version}, must be 10. {how}")
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(f"torch finds no CUDA device here, an engine is built for the GPU that runs it. {how}")
    return module


def compile(
    onnx_path: Path, spec: ModelSpec, out: Path, precision: Precision = "fp16", golden: Mapping[str, np.ndarray] | None = None,
    timing_cache: Path | None = None, version_compatible: bool = False, compare: Callable[[Run], Hop] | None = None,
) -> EngineRecord:  # fmt: skip
    """Build an engine, compare it with the golden rows and write it with its record `<out>.json`.

    Args:
        onnx_path: the exported model.
        out: the engine's file; replaced only when parity holds.
        golden: inputs and torch's answers by tensor name; ONNX Runtime's answers on seeded rows when None.
        timing_cache: file that makes a second build quick; read when there, written after.
        version_compatible: also runs under later TensorRT 10 versions, a little slower.
        compare: measures the engine in a way of its own, instead of on golden rows.

    Raises:
        ConfigError: no TensorRT or no GPU here.
        ArtifactError: an operator that TensorRT lacks, a file that it cannot parse, a failed build, or failed parity.
    """
    trt = require_tensorrt()
    foreign = unsupported_operators(onnx_path)
    if foreign:
        raise ArtifactError(f"{onnx_path} uses {', '.join(foreign)}, TensorRT's parser is not known to take them. Serve it by ONNX Runtime")
    plan = _build(trt, onnx_path, spec, precision, timing_cache, version_compatible)
    hop = compare(engine_run(trt, plan, spec)) if compare else check_engine(trt, plan, onnx_path, spec, precision, golden)
    parity.require([hop])
    record = _record(trt, onnx_path, spec, precision, version_compatible, hop)
    out.parent.mkdir(parents=True, exist_ok=True)
    _write(out.with_name(out.name + ".json"), json.dumps(asdict(record), indent=2).encode())
    _write(out, plan)
    return record


def _build(trt: Any, onnx_path: Path, spec: ModelSpec, precision: Precision, timing_cache: Path | None, version_compatible: bool) -> bytes:
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(0)  # explicit batch, the only kind in TensorRT 10
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx_path.read_bytes()):
        problems = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise ArtifactError(f"TensorRT cannot parse {onnx_path}: {problems}. Export it again: regulars export")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    if precision == "fp16":
        config.set_flag(trt.BuilderFlag.FP16)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and no more exact than fp16
    if version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    config.add_optimization_profile(_profile(builder, profiles(spec)))
    cache = config.create_timing_cache(timing_cache.read_bytes() if timing_cache is not None and timing_cache.is_file() else b"")
    config.set_timing_cache(cache, ignore_mismatch=True)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ArtifactError(
            f"TensorRT could not build an engine from {onnx_path} in {precision}. Its log above says why; try --precision fp32"
        )
    if timing_cache is not None:
        _write(timing_cache, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def _profile(builder: Any, shapes: Sequence[Profile]) -> Any:
    profile = builder.create_optimization_profile()
    for shape in shapes:
        profile.set_shape(shape.name, shape.smallest, shape.usual, shape.largest)
    return profile


def check_engine(
    trt: Any, plan: bytes, onnx_path: Path, spec: ModelSpec, precision: Precision, golden: Mapping[str, np.ndarray] | None
) -> Hop:
    """Parity of an engine with torch's recorded answers (or with ONNX Runtime's) on the golden rows."""
    inputs = {t.name: golden[t.name] for t in spec.inputs} if golden is not None else parity.golden_inputs(spec)
    answers = {t.name: golden[t.name] for t in spec.outputs} if golden is not None else parity.onnx_run(onnx_path)(inputs)
    tolerance = parity.FP16_TOLERANCE if precision == "fp16" else parity.TOLERANCE * 10  # other kernels, other orders of summation
    return parity.compare(spec, f"torch → tensorrt {precision}", lambda _: dict(answers), engine_run(trt, plan, spec), inputs, tolerance)


def engine_run(trt: Any, plan: bytes, spec: ModelSpec) -> Run:
    """An engine through TensorRT's Python runtime, with torch tensors on the GPU as buffers.

    Raises:
        ArtifactError: the engine does not load here, or has other tensors than the spec.
    """
    import torch

    engine = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(plan)
    if engine is None:
        raise ArtifactError(
            "the engine does not load here: it is of another GPU or another TensorRT. Build it on this machine: regulars compile"
        )
    found = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
    wanted = {t.name for t in (*spec.inputs, *spec.outputs)}
    if found != wanted:
        raise ArtifactError(
            f"the engine has tensors {sorted(found)}, {spec.name} needs {sorted(wanted)}. Export the model again: regulars export"
        )
    context = engine.create_execution_context()
    stream = torch.cuda.Stream()

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.cuda.stream(stream):
            buffers = {t.name: torch.from_numpy(np.ascontiguousarray(inputs[t.name])).cuda() for t in spec.inputs}
            rows = len(next(iter(buffers.values())))
            for t in spec.inputs:
                context.set_input_shape(t.name, tuple(buffers[t.name].shape))
            buffers |= {
                t.name: torch.empty(tuple(context.get_tensor_shape(t.name)), dtype=_torch_dtype(torch, t), device="cuda")
                for t in spec.outputs
            }
            for name, buffer in buffers.items():
                context.set_tensor_address(name, buffer.data_ptr())
            if not context.execute_async_v3(stream.cuda_stream):
                raise ArtifactError(f"TensorRT refused to run {spec.name} on {rows} rows. Build the engine again: regulars compile")
        stream.synchronize()
        return {t.name: buffers[t.name].cpu().numpy() for t in spec.outputs}

    return run


def _torch_dtype(torch: Any, tensor: TensorSpec) -> Any:
    return getattr(torch, tensor.dtype)


def _record(trt: Any, onnx_path: Path, spec: ModelSpec, precision: str, version_compatible: bool, hop: Hop) -> EngineRecord:
    import torch

    major, minor = torch.cuda.get_device_capability()
    return EngineRecord(
        model=spec.name,
        precision=precision,
        onnx_sha256=file_sha256(onnx_path),
        tensorrt=str(trt.__version__),
        device=torch.cuda.get_device_name(),
        compute_capability=f"{major}.{minor}",
        version_compatible=version_compatible,
        parity=hop.as_dict(),
    )


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
