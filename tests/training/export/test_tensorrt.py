"""What can be held about TensorRT without it: profiles, operators, names, refusals, and the steps against a stand-in for its API."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import json
import sys
import types

import numpy as np
import onnx
import pytest

from contracts.bundle import BUNDLES, SERVED_MODELS
from contracts.errors import ArtifactError, ConfigError
from contracts.tensors import ITEM_TOWER, SEQUENCE, USER_TOWER
from regulars.export import PRECISIONS
from training.export import tensorrt
from training.export.bundle import golden_rows, read_golden
from training.export.parity import FP16_TOLERANCE, Hop

SPECS = pytest.mark.parametrize("spec", SERVED_MODELS.values(), ids=lambda s: s.name)
BUNDLE_OF = {model: b.name for b in BUNDLES.values() for model in b.models}


@SPECS
def test_profiles_are_the_specs_shapes_at_one_usual_and_largest_batch(spec):
    found = {p.name: p for p in tensorrt.profiles(spec)}
    assert set(found) == {t.name for t in spec.inputs}
    for tensor in spec.inputs:
        p = found[tensor.name]
        usual = 16 if spec.name == "sequence_factors" else 32
        assert (p.smallest, p.usual, p.largest) == ((1, *tensor.shape), (usual, *tensor.shape), (spec.max_batch_size, *tensor.shape))


def test_the_usual_batch_is_never_above_the_largest():
    small = type(USER_TOWER)("s", USER_TOWER.inputs, USER_TOWER.outputs, 8)
    assert all(p.usual[0] == 8 for p in tensorrt.profiles(small))


@SPECS
def test_tensorrt_takes_every_operator_of_the_exported_models(spec, bundles):
    assert tensorrt.unsupported_operators(bundles[BUNDLE_OF[spec.name]].path / f"{spec.name}.onnx") == []


def test_the_lstm_stays_one_operator(bundles):
    """TensorRT has a kernel for it; a loop over 52 weeks would be hundreds of small ones."""
    for name in BUNDLES["sequence"].models:
        model = onnx.load(bundles["sequence"].path / f"{name}.onnx")
        assert sum(n.op_type == "LSTM" for n in model.graph.node) == 2, "one a member"
        assert len(model.graph.node) < 400


def test_an_operator_that_tensorrt_lacks_is_named(bundle, tmp_path):
    model = onnx.load(bundle.path / "item_tower.onnx")
    model.graph.node[0].op_type, model.graph.node[1].domain = "StringConcat", "com.microsoft"
    onnx.save(model, tmp_path / "x.onnx")
    found = tensorrt.unsupported_operators(tmp_path / "x.onnx")
    assert "StringConcat" in found
    assert any(name.startswith("com.microsoft::") for name in found)
    (tmp_path / "y.onnx").write_bytes(b"no")
    with pytest.raises(ArtifactError, match="cannot read"):
        tensorrt.unsupported_operators(tmp_path / "y.onnx")


def test_every_name_that_is_used_exists_in_the_bindings():
    name = next((n for n in ("tensorrt", "tensorrt_cu13_bindings", "tensorrt_bindings") if importlib.util.find_spec(n)), None)
    if name is None:
        pytest.skip("no TensorRT bindings here: pip install tensorrt_cu13_bindings")
    bindings = importlib.import_module(name)
    for owner, names in tensorrt.API.items():
        where = getattr(bindings, owner) if owner else bindings
        assert [n for n in names if not hasattr(where, n)] == []


def test_without_tensorrt_it_refuses_and_says_how(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    with pytest.raises(ConfigError, match=r"no TensorRT.*docker build -f Dockerfile\.gpu --target compile"):
        tensorrt.compile(bundle.path / "user_tower.onnx", USER_TOWER, tmp_path / "model.plan")
    assert list(tmp_path.iterdir()) == []


class _Shapes(dict):
    def set_shape(self, name, *shapes):
        self[name] = shapes


class _Fake:
    """The calls of `compile` on a TensorRT that builds nothing; records what it was asked."""

    def __init__(self, version: str = "10.9.0", parses: bool = True, builds: bool = True) -> None:
        self.asked: dict[str, object] = {"flags": []}
        fake = self

        class Config:
            set_flag = staticmethod(lambda flag: fake.asked["flags"].append(flag))
            clear_flag = staticmethod(lambda flag: fake.asked["flags"].append(f"no {flag}"))
            set_memory_pool_limit = staticmethod(lambda *_: None)
            add_optimization_profile = staticmethod(lambda p: fake.asked.update(profile=p))
            create_timing_cache = staticmethod(lambda content: fake.asked.update(cache=content))
            set_timing_cache = staticmethod(lambda cache, ignore_mismatch: None)
            get_timing_cache = staticmethod(lambda: types.SimpleNamespace(serialize=lambda: b"timings"))

        class Builder:
            def __init__(self, logger):
                pass

            create_network = staticmethod(lambda flags: object())
            create_builder_config = staticmethod(Config)
            create_optimization_profile = staticmethod(_Shapes)
            build_serialized_network = staticmethod(lambda network, config: b"plan" if builds else None)

        class Parser:
            num_errors = 1

            def __init__(self, network, logger):
                pass

            parse = staticmethod(lambda content: parses)
            get_error = staticmethod(lambda i: "node 3: no")

        self.module = types.ModuleType("tensorrt")
        self.module.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
        self.module.__dict__.update(
            __version__=version, Builder=Builder, OnnxParser=Parser,
            Logger=type("Logger", (), {"WARNING": 1, "__init__": lambda *_: None}),
            MemoryPoolType=types.SimpleNamespace(WORKSPACE=0),
            BuilderFlag=types.SimpleNamespace(FP16="fp16", TF32="tf32", VERSION_COMPATIBLE="compatible"),
        )  # fmt: skip


@pytest.fixture
def fake_gpu(monkeypatch):
    """Puts a stand-in TensorRT and a stand-in GPU in place; engines answer with the golden vectors plus `error`."""

    def install(golden, error: float = 0.0, **options) -> _Fake:
        import torch

        fake = _Fake(**options)
        monkeypatch.setitem(sys.modules, "tensorrt", fake.module)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA Test")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))

        def engine_run(trt, plan, spec):
            order = {row.tobytes(): i for i, row in enumerate(golden[spec.inputs[-1].name])}
            rows = lambda inputs: [order[r.tobytes()] for r in inputs[spec.inputs[-1].name]]  # noqa: E731
            return lambda inputs: {t.name: golden[t.name][rows(inputs)] + np.float32(error) for t in spec.outputs}

        monkeypatch.setattr(tensorrt, "engine_run", engine_run)
        return fake

    return install


def test_compile_builds_checks_and_records(bundle, tmp_path, fake_gpu):
    golden = read_golden(bundle.path)
    fake = fake_gpu(golden, error=1e-3)
    out, cache = tmp_path / "engines" / "item_tower.plan", tmp_path / "timing.cache"
    record = tensorrt.compile(bundle.path / "item_tower.onnx", ITEM_TOWER, out, "fp16", golden, cache, version_compatible=True)
    assert fake.asked["flags"] == ["fp16", "compatible"]
    assert fake.asked["cache"] == b""
    assert fake.asked["profile"] == {p.name: (p.smallest, p.usual, p.largest) for p in tensorrt.profiles(ITEM_TOWER)}
    assert out.read_bytes() == b"plan"
    assert cache.read_bytes() == b"timings"
    written = json.loads((tmp_path / "engines" / "item_tower.plan.json").read_text())
    assert (written["device"], written["compute_capability"], written["tensorrt"]) == ("NVIDIA Test", "9.0", "10.9.0")
    assert record.parity["ok"]
    fake_again = fake_gpu(golden)
    tensorrt.compile(bundle.path / "item_tower.onnx", ITEM_TOWER, out, "fp32", golden, cache)
    assert fake_again.asked["flags"] == ["no tf32"]
    assert fake_again.asked["cache"] == b"timings", "the second build reads the first one's timings"


def test_an_engine_that_differs_is_not_written(bundle, tmp_path, fake_gpu):
    golden = read_golden(bundle.path)
    fake_gpu(golden, error=2 * FP16_TOLERANCE)
    with pytest.raises(ArtifactError, match="parity failed"):
        tensorrt.compile(bundle.path / "item_tower.onnx", ITEM_TOWER, tmp_path / "x.plan", "fp16", golden)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("options", "message"), [({"parses": False}, "node 3"), ({"builds": False}, "could not build")])
def test_what_tensorrt_cannot_do_is_an_artifact_error(bundle, tmp_path, fake_gpu, options, message):
    fake_gpu({}, **options)
    with pytest.raises(ArtifactError, match=message):
        tensorrt.compile(bundle.path / "item_tower.onnx", ITEM_TOWER, tmp_path / "x.plan")


def test_the_sequence_model_is_compiled_and_compared_within_its_tolerance(sequence_bundle, tmp_path, fake_gpu):
    golden = read_golden(sequence_bundle.path)
    fake_gpu(golden, error=1e-4)
    path = sequence_bundle.path / "sequence.onnx"
    assert tensorrt.compile(path, SEQUENCE, tmp_path / "x.plan", "fp32", golden).parity["ok"]
    fake_gpu(golden, error=1e-3)
    with pytest.raises(ArtifactError, match="parity failed: sequence torch → tensorrt fp32"):
        tensorrt.compile(path, SEQUENCE, tmp_path / "y.plan", "fp32", golden)


def test_a_comparison_of_its_own_decides_instead_of_golden_rows(bundle, tmp_path, fake_gpu):
    fake_gpu(read_golden(bundle.path))
    path = bundle.path / "item_tower.onnx"
    for seen, out in ((0.5, "x"), (1.5, "y")):
        hop = Hop("item_tower", "mine", 3, seen, 1.0, "item_vector")
        if hop.ok:
            record = tensorrt.compile(path, ITEM_TOWER, tmp_path / f"{out}.plan", compare=lambda run, hop=hop: hop)
            assert record.parity["hop"] == "mine"
        else:
            with pytest.raises(ArtifactError, match="parity failed: item_tower mine"):
                tensorrt.compile(path, ITEM_TOWER, tmp_path / f"{out}.plan", compare=lambda run, hop=hop: hop)
            assert not (tmp_path / f"{out}.plan").exists()


def test_a_foreign_operator_ends_before_the_build(bundle, tmp_path, fake_gpu, monkeypatch):
    fake_gpu({})
    monkeypatch.setattr(tensorrt, "unsupported_operators", lambda path: ["Loop"])
    with pytest.raises(ArtifactError, match="uses Loop"):
        tensorrt.compile(bundle.path / "item_tower.onnx", ITEM_TOWER, tmp_path / "x.plan")


def test_another_tensorrt_or_no_gpu_is_refused(fake_gpu, monkeypatch):
    import torch

    fake_gpu({}, version="8.6.1")
    with pytest.raises(ConfigError, match=r"8\.6\.1, must be 10"):
        tensorrt.require_tensorrt()
    fake_gpu({})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device"):
        tensorrt.require_tensorrt()


def _runtime(engine: object) -> types.SimpleNamespace:
    logger = type("Logger", (), {"WARNING": 1, "__init__": lambda *_: None})
    return types.SimpleNamespace(Logger=logger, Runtime=lambda _: types.SimpleNamespace(deserialize_cuda_engine=lambda plan: engine))


def test_an_engine_of_another_gpu_or_model_is_refused():
    with pytest.raises(ArtifactError, match="does not load here"):
        tensorrt.engine_run(_runtime(None), b"plan", ITEM_TOWER)
    other = types.SimpleNamespace(num_io_tensors=1, get_tensor_name=lambda i: "x")
    with pytest.raises(ArtifactError, match="has tensors"):
        tensorrt.engine_run(_runtime(other), b"plan", ITEM_TOWER)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("spec", "precision"), [(s, p) for s in SERVED_MODELS.values() for p in sorted({"fp32", PRECISIONS[BUNDLE_OF[s.name]]})],
    ids=lambda v: getattr(v, "name", v),
)  # fmt: skip
def test_a_real_engine_gives_what_torch_gives(spec, precision, bundles, tmp_path):
    if importlib.util.find_spec("tensorrt") is None:
        pytest.skip("no TensorRT here: run in the image of Dockerfile.gpu --target compile")
    bundle = bundles[BUNDLE_OF[spec.name]]
    golden = read_golden(bundle.path)
    record = tensorrt.compile(bundle.path / f"{spec.name}.onnx", spec, tmp_path / "x.plan", precision, golden)
    assert record.parity["rows"] == len(next(iter(golden_rows(spec, golden).values())))
