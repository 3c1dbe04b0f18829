"""`regulars export` and `regulars compile` from the outside: a run in, a deployed version out."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from contracts.bundle import MODEL_NAME, SERVED_MODELS, deployed_version, read_manifest
from contracts.errors import ArtifactError, ConfigError
from contracts.paths import Home
from contracts.tensors import MODELS, SEQUENCE_MODELS
from regulars.cli import app
from serving import repository
from serving.triton import CHECKOUT

RUNNER = CliRunner()


def run(*arguments: str) -> str:
    result = RUNNER.invoke(app, arguments, catch_exceptions=False, standalone_mode=False)
    return result.stdout


@pytest.fixture(scope="module")
def files() -> ModuleType:
    """What makes small models and their runs' files."""
    spec = importlib.util.spec_from_file_location("export_files", CHECKOUT / "tests" / "training" / "export" / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


TAGS = {"data_version": "data-1", "code_version": "code-1", "as_of": "2026-01-01T00:00:00Z"}


@pytest.fixture(scope="module")
def home(tmp_path_factory, files) -> Path:
    """A home with one finished training run of the recommender and nothing exported."""
    import torch

    from training.registry import Registry

    torch.set_num_threads(1)
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("home")
    model = files.TwoTower(files.ModelConfig(vocabulary=2 + files.REWARD_COUNT + 3, kinds=8, width=16)).eval()
    artifacts = files.write_artifacts(folder / "files", model)
    Registry(Home(folder)).log_run(MODEL_NAME, artifacts, {}, TAGS, [], {})
    return folder


@pytest.fixture(scope="module")
def home_of_both(home, files, tmp_path_factory) -> tuple[Path, str]:
    """The same with a run of the sequence model as well, and that run's id."""
    from training.registry import Registry

    folder = tmp_path_factory.mktemp("both") / "home"
    shutil.copytree(home / "files", folder / "files")
    registry = Registry(Home(folder))
    registry.log_run(MODEL_NAME, folder / "files", {}, TAGS, [], {})
    files.sequence_files.save(folder / "more", files.new_sequence(), {}, {})
    return folder, registry.log_run("sequence", folder / "more", {}, TAGS, [], {})


def exported(*arguments: str) -> list[dict[str, Any]]:
    return json.loads(run("export", "--json", *arguments))["exported"]


def test_export_makes_proves_and_deploys_a_version(home):
    if not (CHECKOUT / ".triton" / "bin" / "python").exists():
        pytest.skip("no model server in .triton: make setup")
    paths = Home(home)
    (first,) = exported("--no-deploy", "--no-verify-triton", "--home", str(home))
    assert (first["model"], first["deployed"]) == (MODEL_NAME, False)
    with pytest.raises(ArtifactError, match="no deployed"):
        deployed_version(paths.models)
    (second,) = exported("--home", str(home))
    assert second["reused"]
    assert (second["version"], second["run"]) == (first["version"], first["run"])
    assert [(h["model"], h["hop"]) for h in second["hops"]] == [(m, hop) for hop in ("torch → onnx", "torch → triton") for m in MODELS]
    assert all(h["ok"] and h["max_difference"] < 1e-5 for h in second["hops"])
    assert deployed_version(paths.models) == second["version"]
    manifest = read_manifest(Path(second["bundle"]))
    assert (manifest.data_version, manifest.code_version) == ("data-1", "code-1")
    assert repository.versions(paths.triton_repo, "user_tower") == [int(second["version"])]
    assert not list(paths.run.iterdir()), "the model server that was asked left nothing"
    assert "torch → onnx" in run("compile", "--target", "onnxruntime", "--home", str(home))
    (compiled,) = json.loads(run("compile", "--target", "onnxruntime", "--home", str(home), "--json"))["compiled"]
    assert [h["ok"] for h in compiled["hops"]] == [True] * len(MODELS)


def test_both_models_have_versions_of_their_own(home_of_both):
    if not (CHECKOUT / ".triton" / "bin" / "python").exists():
        pytest.skip("no model server in .triton: make setup")
    home, sequence_run = home_of_both
    paths, where = Home(home), ("--home", str(home))
    (one,) = exported("--run", sequence_run, *where)
    assert (one["model"], one["version"], one["run"]) == ("sequence", "1", sequence_run)
    assert [h["hop"] for h in one["hops"] if h["model"] == "sequence_factors"] == [
        "torch → onnx", "sum of impacts", "sequence → sequence_factors", "torch → triton",
    ]  # fmt: skip
    with pytest.raises(ArtifactError, match="no deployed two-tower"):
        deployed_version(paths.models)
    both = exported("--no-verify-triton", *where)
    assert [(e["model"], e["version"], e["reused"]) for e in both] == [(MODEL_NAME, "1", False), ("sequence", "1", True)]
    assert all(h["ok"] for e in both for h in e["hops"])
    assert (deployed_version(paths.models), deployed_version(paths.models, "sequence")) == ("1", "1")
    assert {name: repository.versions(paths.triton_repo, name) for name in SERVED_MODELS} == {name: [1] for name in SERVED_MODELS}
    compiled = json.loads(run("compile", "--target", "onnxruntime", *where, "--json"))["compiled"]
    assert [c["model"] for c in compiled] == [MODEL_NAME, "sequence"]
    (compiled,) = json.loads(run("compile", "--target", "onnxruntime", "--model", "sequence", "--version", "1", *where, "--json"))[
        "compiled"
    ]
    assert [h["model"] for h in compiled["hops"]] == list(SEQUENCE_MODELS)
    with pytest.raises(ConfigError, match=f"run {sequence_run} is of sequence, --model says two-tower"):
        run("export", "--run", sequence_run, "--model", MODEL_NAME, *where)
    for command in ("export", "compile"):
        with pytest.raises(ConfigError, match="no bundle 'towers', must be one of two-tower, sequence"):
            run(command, "--model", "towers", *(("--target", "onnxruntime") if command == "compile" else ()), *where)


def test_a_model_server_that_answers_otherwise_is_noticed(tmp_path, monkeypatch):
    from regulars import export

    golden = {t.name: np.zeros((8, *t.shape), t.dtype) for s in MODELS.values() for t in (*s.inputs, *s.outputs)}
    bundle = tmp_path / MODEL_NAME / "1"
    bundle.mkdir(parents=True)
    np.savez(bundle / "golden.npz", **golden)
    ones = lambda client, spec, version: lambda i: {t.name: np.ones((len(next(iter(i.values()))), *t.shape), "f4") for t in spec.outputs}  # noqa: E731
    monkeypatch.setattr(export, "_served", ones)
    with pytest.raises(ArtifactError, match="torch → triton"):
        export._triton_hops(bundle, "127.0.0.1:1")


def test_engines_of_each_bundle_are_built_in_its_precision(home_of_both, monkeypatch, tmp_path):
    """The builder is a stand-in; what it is asked for, and that what it writes becomes a repository of its own, is ours."""
    from training.export import tensorrt

    asked = {}

    def build(onnx_path, spec, out, precision, golden, cache):
        asked[spec.name] = precision
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(b"plan")
        parity = {"model": spec.name, "hop": precision, "rows": 1, "max_difference": 0.0, "tolerance": 1.0, "tensor": "", "ok": True}
        return tensorrt.EngineRecord(spec.name, precision, "", "10", "test", "9.0", False, parity)

    monkeypatch.setattr(tensorrt, "require_tensorrt", lambda: None)
    monkeypatch.setattr(tensorrt, "compile", build)
    home = tmp_path / "home"
    shutil.copytree(home_of_both[0] / "models", home / "models")
    compiled = json.loads(run("compile", "--home", str(home), "--json"))["compiled"]
    assert [(c["model"], c["precision"]) for c in compiled] == [(MODEL_NAME, "fp16"), ("sequence", "fp32")]
    assert asked == dict.fromkeys(MODELS, "fp16") | dict.fromkeys(SEQUENCE_MODELS, "fp32")
    assert all((home / "triton_repo_tensorrt" / name / "1" / "model.plan").is_file() for name in SERVED_MODELS)
    run("compile", "--model", "sequence", "--precision", "fp16", "--home", str(home))
    assert asked["sequence"] == "fp16"


def test_compile_for_tensorrt_refuses_without_it(home, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "tensorrt" else real(name, *more))
    with pytest.raises(ConfigError, match="docker build") as caught:
        run("compile", "--home", str(home))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("option", "value"), [("--target", "tpu"), ("--precision", "int3")])
def test_compile_refuses_what_it_does_not_know(home, option, value):
    with pytest.raises(ConfigError, match=value):
        run("compile", option, value, "--home", str(home))


def test_export_without_a_run_says_what_to_do(tmp_path):
    with pytest.raises(ArtifactError, match="regulars train recommender"):
        run("export", "--home", str(tmp_path))
