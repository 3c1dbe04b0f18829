"""The exported file: names, dynamic batch, versions that the model server's runtime reads, metadata."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from contracts.errors import ArtifactError, ShapeError
from contracts.tensors import MODELS, ModelSpec, TensorSpec
from training.export.onnx import MAX_IR_VERSION, OPSET, check_loadable, check_tensors, example_inputs, export, finish, run_torch
from training.export.parity import onnx_run

ROOT = Path(__file__).resolve().parents[3]
PAIR = ModelSpec(
    "pair",
    inputs=(TensorSpec("a", "float32", (4,)), TensorSpec("b", "int64", (2,))),
    outputs=(TensorSpec("total", "float32", (4,)), TensorSpec("count", "float32", (1,))),
    max_batch_size=16,
)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.dropout(a) + self.table(b).sum(dim=1), b.sum(dim=1, keepdim=True).float()


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Pair, Path]:
    module = Pair().train()
    path = export(module, PAIR, tmp_path_factory.mktemp("pair") / "pair.onnx", {"version": "7"})
    assert module.training, "the module's mode is put back"
    return module, path


def test_any_module_with_its_spec_exports_with_a_dynamic_batch(pair):
    module, path = pair
    run = onnx_run(path)
    for rows in (1, 2, 16):
        inputs = example_inputs(PAIR, rows, seed=rows)
        expected, found = run_torch(module, PAIR, inputs), run(inputs)
        for tensor in PAIR.outputs:
            np.testing.assert_allclose(found[tensor.name], expected[tensor.name], atol=1e-6)
            assert found[tensor.name].shape == (rows, *tensor.shape)


def test_metadata_and_versions(pair):
    model = onnx.load(pair[1])
    assert {p.key: p.value for p in model.metadata_props} == {"model": "pair", "version": "7"}
    assert model.ir_version <= MAX_IR_VERSION
    assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]
    assert not [*pair[1].parent.glob("*.data"), *pair[1].parent.glob("*.tmp")], "one file, nothing beside it"


@pytest.mark.parametrize("spec", MODELS.values(), ids=lambda s: s.name)
def test_the_model_servers_own_runtime_loads_and_runs_the_towers(spec, bundle):
    """ONNX Runtime of the .triton environment, older than ours."""
    python = ROOT / ".triton" / "bin" / "python"
    if not python.exists():
        pytest.skip("no model server in .triton: make setup")
    code = (
        "import sys, numpy as np, onnxruntime as ort\n"
        "assert np.__version__.startswith('1.'), np.__version__\n"
        "s = ort.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
        "kinds = {'tensor(float)': np.float32, 'tensor(int64)': np.int64}\n"
        "print(s.run(None, {i.name: np.zeros([5, *i.shape[1:]], kinds[i.type]) for i in s.get_inputs()})[0].shape)\n"
    )
    done = subprocess.run([str(python), "-c", code, str(bundle.path / f"{spec.name}.onnx")], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str((5, *spec.outputs[0].shape)), done.stderr


def test_a_module_that_does_not_match_its_spec_is_refused(tmp_path):
    class One(nn.Module):
        def forward(self, a, b):
            return a

    class Wide(nn.Module):
        def forward(self, a, b):
            return torch.cat([a, a], dim=1), b.sum(dim=1, keepdim=True).float()

    for module, message in ((One(), "1 outputs"), (Wide(), r"\(3, 8\)")):
        with pytest.raises(ShapeError, match=message):
            export(module, PAIR, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_file_before(pair, tmp_path, monkeypatch):
    def refuse(*_):
        raise ArtifactError("no")

    path = tmp_path / "x.onnx"
    path.write_bytes(b"before")
    monkeypatch.setattr("training.export.onnx.finish", refuse)
    with pytest.raises(ArtifactError):
        export(pair[0], PAIR, path)
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]


def _changed(path: Path, change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = onnx.load(path)
    change(model)
    return model


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "ir_version", MAX_IR_VERSION + 1),
        lambda m: setattr(m.opset_import[0], "version", OPSET + 1),
        lambda m: m.opset_import.add(domain="com.microsoft", version=1),
    ],
    ids=["IR", "operator set", "foreign operators"],
)
def test_a_file_too_new_for_the_model_server_is_refused(pair, change):
    with pytest.raises(ArtifactError, match="IR version"):
        check_loadable(_changed(pair[1], change), "pair.onnx")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m.graph.input[0], "name", "input.1"),
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 3),
        lambda m: setattr(m.graph.output[0].type.tensor_type, "elem_type", onnx.TensorProto.DOUBLE),
    ],
    ids=["name", "fixed batch", "type"],
)
def test_a_file_with_other_tensors_is_refused(pair, change):
    with pytest.raises(ArtifactError, match="puts" if change else ""):
        check_tensors(_changed(pair[1], change), PAIR)


def test_a_file_that_is_not_onnx_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"no")
    with pytest.raises(ArtifactError, match="not a valid ONNX"):
        finish(tmp_path / "x", PAIR, {})
