"""Runs and versions in MLflow on SQLite."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from contracts.errors import ArtifactError
from contracts.paths import Home
from training import registry


@pytest.fixture(scope="module")
def home(new_home: Callable[[], Home]) -> Home:
    return new_home()


def log(home: Home, folder: Path, names: tuple[str, ...]) -> str:
    folder.mkdir()
    for name in names:
        (folder / name).write_text(name)
    history = [{"epoch": 0.0, "val_ndcg": 0.1}, {"epoch": 1.0, "val_ndcg": 0.2}]
    return registry.Registry(home).log_run("two-tower", folder, {"seed": 7}, {"data_version": "d"}, history, {"two_tower/ndcg@10": 0.3})


def test_nothing_there_is_an_error(home: Home) -> None:
    with pytest.raises(ArtifactError, match="Train first"):
        registry.latest_run(home)
    with pytest.raises(ArtifactError, match="cannot read run nobody"):
        registry.run_artifacts(home, "nobody")


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
