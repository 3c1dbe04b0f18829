"""`regulars export` and `regulars compile` from the outside: a run in, a deployed version out."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from contracts.bundle import MODEL_NAME, deployed_version, read_manifest
from contracts.errors import ArtifactError, ConfigError
from contracts.paths import Home
from contracts.tensors import MODELS
from regulars.cli import app
from serving import repository
from serving.triton import CHECKOUT

RUNNER = CliRunner()


def run(*arguments: str) -> str:
    result = RUNNER.invoke(app, arguments, catch_exceptions=False, standalone_mode=False)
    return result.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A home with one finished training run and nothing exported."""
    spec = importlib.util.spec_from_file_location("export_files", CHECKOUT / "tests" / "training" / "export" / "conftest.py")
    files = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = files
    spec.loader.exec_module(files)
    import torch

    from training.registry import Registry

    torch.set_num_threads(1)
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("home")
    model = files.TwoTower(files.ModelConfig(vocabulary=2 + files.REWARD_COUNT + 3, kinds=8, width=16)).eval()
    artifacts = files.write_artifacts(folder / "files", model)
    tags = {"data_version": "data-1", "code_version": "code-1", "as_of": "2026-01-01T00:00:00Z"}
    Registry(Home(folder)).log_run(MODEL_NAME, artifacts, {}, tags, [], {})
    return folder


def test_export_makes_proves_and_deploys_a_version(home):
    if not (CHECKOUT / ".triton" / "bin" / "python").exists():
        pytest.skip("no model server in .triton: make setup")
    paths = Home(home)
    first = json.loads(run("export", "--no-deploy", "--no-verify-triton", "--home", str(home), "--json"))
    assert not first["deployed"]
    with pytest.raises(ArtifactError, match="no deployed"):
        deployed_version(paths.models)
    second = json.loads(run("export", "--home", str(home), "--json"))
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
    compiled = json.loads(run("compile", "--target", "onnxruntime", "--home", str(home), "--json"))
    assert [h["ok"] for h in compiled["hops"]] == [True] * len(MODELS)


def test_a_model_server_that_answers_otherwise_is_noticed(tmp_path, monkeypatch):
    from regulars import export

    golden = {t.name: np.zeros((8, *t.shape), t.dtype) for s in MODELS.values() for t in (*s.inputs, *s.outputs)}
    np.savez(tmp_path / "golden.npz", **golden)
    ones = lambda client, spec, version: lambda i: {t.name: np.ones((len(next(iter(i.values()))), *t.shape), "f4") for t in spec.outputs}  # noqa: E731
    monkeypatch.setattr(export, "_served", ones)
    with pytest.raises(ArtifactError, match="torch → triton"):
        export._triton_hops(tmp_path, "127.0.0.1:1")


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
