"""A small programme with a taste that can be learned: each customer redeems rewards of a few kinds, again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch
from rich.console import Console

from contracts.paths import Home
from contracts.tables import EVENTS, REWARDS, TRANSACTIONS
from contracts.tensors import TEXT_DIM
from training.recommender import data
from training.recommender.train import TrainResult, train_recommender
from training.settings import TrainSettings
from warehouse.store import Warehouse

BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
CUSTOMERS, REWARD_COUNT, DAYS = 60, 12, 200
SMALL = {"epochs": 3, "batch_size": 64, "width": 16, "heads": 2, "bootstrap": 100, "calibration_customers": 40, "horizon_days": 5}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def embed(texts: list[str]) -> np.ndarray:
    """Vectors that follow from the text alone, without a language model."""
    return np.stack([np.random.default_rng(sum(map(ord, t))).standard_normal(TEXT_DIM) for t in texts]).astype(np.float32) / 20


def rewards_table() -> pa.Table:
    rows = [
        {"reward_id": f"rew-{i:02d}", "business_id": "biz-1", "name": f"Reward {i}", "category": ("coffee", "food", "gift")[i % 3],
         "reward_type": "experience" if i == 11 else "discount", "points_cost": 100 + i,
         "valid_from": BEGIN + timedelta(days=150) if i == 10 else None}
        for i in range(REWARD_COUNT)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=REWARDS.schema)


def events_table() -> pa.Table:
    """Every few days each customer views and then redeems a reward of their own taste; sometimes two at once."""
    rng = np.random.default_rng(5)
    rows: list[dict[str, object]] = []
    for c in range(CUSTOMERS):
        day = rng.uniform(0, 10)
        while day < DAYS:
            when = BEGIN + timedelta(days=day)
            mine = [int(i) for i in rng.choice([c % 10, (c + 3) % 10, (c + 5) % 10], 2, replace=False)]
            if c % 9 == 0 and day > 160:
                mine.append(10)
            for i in mine[: 1 + int(rng.random() < 0.4) + len(mine) - 2]:
                act = {"reward_id": f"rew-{i:02d}", "customer_id": f"c{c:02d}"}
                rows.append({**act, "event_type": "offer_viewed", "occurred_at": when - timedelta(hours=3)})
                rows.append({**act, "event_type": "redemption", "occurred_at": when})
            day += rng.uniform(5, 15)
    rows += [{"event_type": "redemption", "reward_id": "rew-11", "customer_id": "c01", "occurred_at": BEGIN + timedelta(days=20)}]
    for i, row in enumerate(rows):
        row.update(event_id=f"e{i}", business_id="biz-1")
    return pa.Table.from_pylist(rows, schema=EVENTS.schema)


@pytest.fixture(scope="session")
def home(new_home: Callable[[], Home]) -> Home:
    """A home folder with the programme landed."""
    home = new_home()
    warehouse = Warehouse(home.warehouse)
    warehouse.land("rewards", rewards_table(), "test")
    warehouse.land("events", events_table(), "test")
    warehouse.land("transactions", TRANSACTIONS.schema.empty_table(), "test")
    return home


@pytest.fixture(scope="session")
def settings() -> TrainSettings:
    return TrainSettings.load(environ={}, **SMALL)


@pytest.fixture(scope="session")
def connection(home: Home) -> Iterator[duckdb.DuckDBPyConnection]:
    connection = Warehouse(home.warehouse).connect()
    yield connection
    connection.close()


@pytest.fixture(scope="session")
def dataset(connection: duckdb.DuckDBPyConnection, settings: TrainSettings) -> data.Dataset:
    table = data.load_catalogue(connection)
    return data.build(connection, table, embed([str(r) for r in table["reward_id"].to_pylist()]), settings)


@pytest.fixture
def console() -> Console:
    return Console(file=StringIO(), width=160)


@pytest.fixture(scope="session", name="embed")
def embed_fixture() -> Callable[[list[str]], np.ndarray]:
    return embed


@pytest.fixture(scope="session")
def trained(home: Home, settings: TrainSettings) -> TrainResult:
    """One whole run, recorded."""
    return train_recommender(home, settings, embed, Console(file=StringIO()))
