"""A small shop whose customers come as a Poisson process and leave for good; some of what they do beside buying."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch

from contracts.tables import CUSTOMERS, EVENTS, TICKETS, TRANSACTIONS
from warehouse.store import Warehouse

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
PEOPLE, DAYS = 400, 480


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def land_shop(folder: Path) -> Warehouse:
    """A warehouse of 400 customers and 480 days."""
    rng = np.random.default_rng(11)
    customers, transactions, events, tickets = [], [], [], []
    for c in range(PEOPLE):
        who = {"business_id": "biz-1", "customer_id": f"c{c:03d}"}
        day, rate, leave, mean = rng.uniform(0, 300), rng.gamma(2.0, 0.02), rng.beta(1.0, 8.0), rng.gamma(4.0, 8.0)
        if c % 3:
            customers.append({**who, "joined_at": BEGIN + timedelta(days=day - rng.uniform(0, 20))})
        while day < DAYS:
            when = BEGIN + timedelta(days=day)
            returned = rng.random() < 0.03
            amount = Decimal(str(round(rng.gamma(3.0, mean / 3.0), 2))) * (-1 if returned else 1)
            transactions.append({**who, "occurred_at": when, "amount": amount, "discount_amount": Decimal("0.5")})
            if rng.random() < 0.5:
                events.append({**who, "occurred_at": when + timedelta(hours=5), "event_type": "app_open"})
            if rng.random() < 0.1:
                tickets.append({**who, "created_at": when + timedelta(days=1), "rating": 1})
            if rng.random() < leave:
                break
            day += rng.exponential(1 / max(rate, 1e-3))
    for name, rows in (("transaction", transactions), ("event", events), ("ticket", tickets)):
        for i, row in enumerate(rows):
            row[f"{name}_id"] = f"{name}{i}"
    warehouse = Warehouse(folder)
    for spec, rows in ((CUSTOMERS, customers), (TRANSACTIONS, transactions), (EVENTS, events), (TICKETS, tickets)):
        report = warehouse.land(spec.name, pa.Table.from_pylist(rows, schema=spec.schema), "test")
        assert report.rejected == 0, report
    return warehouse


@pytest.fixture(scope="session")
def shop_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with the shop in its warehouse."""
    home = tmp_path_factory.mktemp("shop")
    land_shop(home / "warehouse")
    return home


@pytest.fixture(scope="session")
def shop(shop_home: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with Warehouse(shop_home / "warehouse").connect() as connection:
        yield connection
