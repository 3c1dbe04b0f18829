"""A real Triton on toy models with the right tensors, made without torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from contracts.bundle import BUNDLES, MODEL_NAME
from contracts.tensors import USER_TOWER, ModelSpec
from serving.client import BlockingTritonClient
from serving.triton import TritonServer, TritonSettings

ROOT = Path(__file__).resolve().parents[2]
_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


def toy_model(spec: ModelSpec, scale: float = 1.0) -> onnx.ModelProto:
    """Each input flattened and multiplied by a constant matrix, summed, for each output: every input matters, and the answer is known."""
    nodes, constants = [], []
    for number, tensor in enumerate(spec.inputs):
        nodes += [
            helper.make_node("Flatten", [tensor.name], [f"flat{number}"], axis=1),
            helper.make_node("Cast", [f"flat{number}"], [f"real{number}"], to=TensorProto.FLOAT),
        ]
    for output in spec.outputs:
        terms = []
        for number, tensor in enumerate(spec.inputs):
            size = int(np.prod(tensor.shape))
            weight = np.random.default_rng(number).standard_normal((size, output.shape[0])).astype(np.float32) * scale / size
            constants.append(numpy_helper.from_array(weight, f"w{number}-{output.name}"))
            nodes.append(helper.make_node("MatMul", [f"real{number}", f"w{number}-{output.name}"], [f"term{number}-{output.name}"]))
            terms.append(f"term{number}-{output.name}")
        nodes.append(helper.make_node("Sum", terms, [output.name]))
    inputs, outputs = (
        [helper.make_tensor_value_info(t.name, _TYPES[t.dtype], ["batch", *t.shape]) for t in side] for side in (spec.inputs, spec.outputs)
    )
    graph = helper.make_graph(nodes, spec.name, inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def toy_answer(spec: ModelSpec, inputs: dict[str, np.ndarray], scale: float = 1.0, output: int = 0) -> np.ndarray:
    """What `toy_model` computes, in NumPy."""
    total: np.ndarray = np.zeros(1, np.float32)
    width = spec.outputs[output].shape[0]
    for number, tensor in enumerate(spec.inputs):
        flat = inputs[tensor.name].reshape(len(inputs[tensor.name]), -1).astype(np.float32)
        weight = np.random.default_rng(number).standard_normal((flat.shape[1], width)).astype(np.float32)
        total = total + flat @ (weight * scale / flat.shape[1])
    return total


def toy_inputs(spec: ModelSpec, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        t.name: rng.standard_normal((rows, *t.shape)).astype(t.dtype)
        if t.dtype == "float32"
        else rng.integers(0, 9, (rows, *t.shape)).astype(t.dtype)
        for t in spec.inputs
    }


def write_version(repository: Path, version: str, scale: float = 1.0, bundle: str = MODEL_NAME) -> None:
    """A bundle's models, as toys, as one more version."""
    for spec in BUNDLES[bundle].models.values():
        folder = repository / spec.name / version
        folder.mkdir(parents=True)
        onnx.save(toy_model(spec, scale), folder / "model.onnx")
        config = ROOT / "serving" / "triton_repo" / spec.name / "config.pbtxt"
        if not (folder.parent / "config.pbtxt").is_file():
            (folder.parent / "config.pbtxt").write_text(config.read_text())


def toy_probe(client: BlockingTritonClient) -> None:
    inputs = toy_inputs(USER_TOWER, 1)
    found = client.infer(USER_TOWER, inputs, "1")["user_vector"]
    np.testing.assert_allclose(found, toy_answer(USER_TOWER, inputs), atol=1e-4)


@pytest.fixture(scope="session")
def quick_settings() -> Callable[..., TritonSettings]:
    """Settings with patience for a busy machine at start, and little of it in health checks."""
    if not (ROOT / ".triton" / "bin" / "python").exists() or sys.platform != "linux":
        pytest.skip("no model server in .triton: make setup")

    def make(**more: object) -> TritonSettings:
        return TritonSettings.load(**{"start_timeout_s": 90, "health_interval_s": 0.2, **more})

    return make


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory, quick_settings: Callable[..., TritonSettings]) -> Iterator[TritonServer]:
    """A server that tests only ask. Loaded are versions 1 (scale 1) and 2 (scale 2) of two-tower, and 4 of sequence."""
    folder = tmp_path_factory.mktemp("triton")
    write_version(folder / "repository", "1", 1.0)
    write_version(folder / "repository", "2", 2.0)
    write_version(folder / "repository", "4", 1.0, "sequence")
    server = TritonServer(quick_settings(), folder / "repository", folder / "run", toy_probe)
    try:
        yield server.start()
    finally:
        server.stop()
