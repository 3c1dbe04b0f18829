"""`regulars train`: options reach the settings; people and machines each get their output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from contracts.errors import ConfigError
from contracts.paths import Home
from regulars.cli import app
from training.recommender import train
from training.settings import TrainSettings

_VALUE = {"value": 0.5, "low": 0.4, "high": 0.6}
METRICS: dict[str, Any] = {
    "queries": 10,
    "customers": 5,
    "rewards": 3,
    "methods": {"two_tower": {"ndcg@10": _VALUE, "recall@10": _VALUE, "mrr": _VALUE}},
    "lift": {"popularity": {"difference": _VALUE, "ratio": _VALUE, "better": True}},
    "lift_of": "as_served",
    "calibration": {"ece": 0.01, "horizon_days": 30.0},
}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command passes on; nothing is trained."""
    seen: dict[str, Any] = {}

    def fake(home: Home, settings: TrainSettings, embed: object, console: Console, fresh: bool) -> train.TrainResult:
        seen.update(home=home.root, settings=settings, fresh=fresh)
        return train.TrainResult("run-1", METRICS)

    monkeypatch.setattr(train, "train_recommender", fake)
    return seen


def test_json_is_one_object(seen: dict[str, Any], tmp_path: Path) -> None:
    command = ["train", "recommender", "--home", str(tmp_path), "--epochs", "2", "--seed", "5", "--max-examples", "9", "--fresh", "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["run_id"] == "run-1"
    assert (seen["settings"].epochs, seen["settings"].seed, seen["settings"].max_examples) == (2, 5, 9)
    assert seen["fresh"] is True
    assert seen["home"] == tmp_path


def test_people_get_a_table_and_the_next_step(seen: dict[str, Any], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", "recommender", "--home", str(tmp_path)])
    assert "NDCG@10" in result.stdout
    assert "regulars export" in result.stdout
    assert seen["fresh"] is False


def test_a_wrong_setting_ends_before_anything_is_read(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", "recommender", "--home", str(tmp_path), "--epochs", "0"])
    assert isinstance(result.exception, ConfigError)
