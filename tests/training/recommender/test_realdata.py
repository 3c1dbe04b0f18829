"""On public data the model beats popularity, with little training.

At full size: `regulars data import`, then `regulars train recommender --json`.
"""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from features.rewards import texts
from training.recommender import data, evaluate, train
from training.settings import TrainSettings
from warehouse.importers import import_into
from warehouse.store import Warehouse

pytestmark = pytest.mark.realdata


def lift(realdata: Path, name: str, tmp_path: Path, embed: Callable[[list[str]], np.ndarray], **changes: Any) -> dict[str, Any]:
    """Import a set, train a little, and compare with popularity on the test slice."""
    warehouse = Warehouse(tmp_path / "warehouse")
    import_into(warehouse, name, realdata / name, "biz-1")
    connection = warehouse.connect()
    settings = TrainSettings.load(environ={}, bootstrap=200, max_validation=300, max_test=1_000, width=32, **changes)
    table = data.load_catalogue(connection)
    dataset = data.build(connection, table, embed(texts(table)), settings)
    fitted = train.fit(dataset, settings, tmp_path / "fit", Console(file=StringIO()))
    return evaluate.evaluate(fitted.model, dataset, settings.bootstrap, settings.seed)["lift"]["popularity"]


def test_better_than_popularity_on_starbucks(realdata: Path, tmp_path: Path, embed: Callable[[list[str]], np.ndarray]) -> None:
    found = lift(realdata, "starbucks_rewards", tmp_path, embed, epochs=2, max_examples=4_000, learning_rate=0.005)
    assert found["better"], found


def test_better_than_popularity_on_online_retail(realdata: Path, tmp_path: Path, embed: Callable[[list[str]], np.ndarray]) -> None:
    found = lift(realdata, "online_retail_ii", tmp_path, embed, epochs=3, max_examples=6_000, learning_rate=0.01)
    assert found["better"], found
