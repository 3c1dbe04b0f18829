"""Runs and versions in MLflow on SQLite."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from contracts.errors import ArtifactError, ConfigError
from contracts.paths import Home
from training import registry


@pytest.fixture(scope="module")
def home(new_home: Callable[[], Home]) -> Home:
    return new_home()


def log(home: Home, folder: Path, names: tuple[str, ...], model: str = "two-tower") -> str:
    folder.mkdir()
    for name in names:
        (folder / name).write_text(name)
    history = [{"epoch": 0.0, "val_ndcg": 0.1}, {"epoch": 1.0, "val_ndcg": 0.2}]
    return registry.Registry(home).log_run(model, folder, {"seed": 7}, {"data_version": "d"}, history, {"two_tower/ndcg@10": 0.3})


def test_nothing_there_is_an_error(home: Home) -> None:
    with pytest.raises(ArtifactError, match="Train first"):
        registry.latest_run(home)
    with pytest.raises(ArtifactError, match=r"Train first: regulars train sequence"):
        registry.latest_run(home, "sequence")
    with pytest.raises(ArtifactError, match=r"cannot read run nobody.*regulars train recommender or regulars train sequence"):
        registry.run_artifacts(home, "nobody")
    with pytest.raises(ConfigError, match="no bundle 'towers'"):
        registry.latest_run(home, "towers")
    with pytest.raises(ConfigError, match="no bundle 'towers'"):
        registry.run_files("towers")


def test_a_run_comes_back_and_gets_one_version(home: Home, tmp_path: Path) -> None:
    first = log(home, tmp_path / "a", registry.RUN_FILES)
    second = log(home, tmp_path / "b", registry.RUN_FILES)
    assert registry.latest_run(home) == second
    folder = registry.run_artifacts(home, first)
    assert (folder / "checkpoint.pt").read_text() == "checkpoint.pt"
    assert [registry.register(home, r) for r in (first, second, first)] == ["1", "2", "1"]
    registry.set_alias(home, "2")
    client = registry.Registry(home).client
    assert client.get_model_version_by_alias("two-tower", "deployed").version in (2, "2")
    assert [m.value for m in client.get_metric_history(first, "val_ndcg")] == [0.1, 0.2]


def test_a_run_without_its_files_is_an_error(home: Home, tmp_path: Path) -> None:
    run = log(home, tmp_path / "c", registry.RUN_FILES[:3])
    with pytest.raises(ArtifactError, match=r"lacks calibration\.json"):
        registry.run_artifacts(home, run)


def test_a_run_whose_files_are_gone_is_an_error(home: Home, tmp_path: Path) -> None:
    run = log(home, tmp_path / "gone", registry.RUN_FILES)
    shutil.rmtree(home.mlruns / "artifacts" / run)
    with pytest.raises(ArtifactError, match=f"cannot read the files of run {run}|run {run} lacks checkpoint"):
        registry.run_artifacts(home, run)


def test_models_have_runs_and_versions_of_their_own(home: Home, tmp_path: Path) -> None:
    first = log(home, tmp_path / "s", registry.run_files("sequence"), "sequence")
    assert registry.latest_run(home, "sequence") == first
    assert registry.latest_run(home) != first
    assert (registry.Registry(home).model_of(first), registry.register(home, first, model="sequence")) == ("sequence", "1")
    registry.set_alias(home, "1", model="sequence")
    assert str(registry.Registry(home).client.get_model_version_by_alias("sequence", "deployed").version) == "1"
    assert (registry.run_artifacts(home, first) / "reference.npz").is_file()
    short = log(home, tmp_path / "t", registry.run_files("sequence")[:2], "sequence")
    with pytest.raises(ArtifactError, match=r"lacks reference\.npz, .*must hold 6 files.*regulars train sequence"):
        registry.run_artifacts(home, short)


def test_code_version_names_the_commit_and_whether_it_is_dirty(tmp_path: Path) -> None:
    assert registry.code_version(tmp_path) == "unknown"
    (tmp_path / "f").write_text("1")
    for command in (["init", "-q"], ["add", "f"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-m", "x"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    clean = registry.code_version(tmp_path)
    assert len(clean) == 40
    (tmp_path / "f").write_text("2")
    assert registry.code_version(tmp_path) == clean + "-dirty"


def test_git_that_fails_is_unknown(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    assert registry.code_version(tmp_path) == "unknown"
