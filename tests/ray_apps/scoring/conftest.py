"""A home that can be scored: a made-up history of two businesses, and a bundle of the sequence model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from contracts.tables import MONEY, TABLES, TIMESTAMP
from warehouse.store import Warehouse

AS_OF = datetime(2025, 6, 15, 10, 30, tzinfo=UTC)
CUSTOMERS = 300
"""Of biz-1; every tenth never bought, every tenth bought last half a year ago. biz-2 has 40."""


@pytest.fixture(scope="session")
def scorable_template(tmp_path_factory: pytest.TempPathFactory, bundle: Callable[..., Path]) -> Path:
    """Made once; `scorable` is a copy to write to."""
    home = tmp_path_factory.mktemp("scorable") / "home"
    warehouse = Warehouse(home / "warehouse")
    for business, count in (("biz-1", CUSTOMERS), ("biz-2", 40)):
        for name, table in history(business, count, seed=count).items():
            warehouse.land(name, table, f"{business} {name}")
    bundle(home)
    return home


@pytest.fixture
def scorable(scorable_template: Path, tmp_path: Path) -> Path:
    """A home of one's own."""
    return Path(shutil.copytree(scorable_template, tmp_path / "home"))


def history(business: str, count: int, seed: int) -> dict[str, pa.Table]:
    """Customers, purchases and events; seeded."""
    rng = np.random.default_rng(seed)
    ids = [f"cust-{n:04d}" for n in range(count)]
    bought = [(n, 180.0 if n % 10 == 1 else 0.0) for n in range(count) if n % 10 for _ in range(int(rng.integers(1, 12)))]
    when = [AS_OF - timedelta(days=ago + float(rng.uniform(1, 80))) for _, ago in bought]
    seen = rng.integers(0, count, 3 * count)
    return {
        "customers": pa.table(
            {
                "customer_id": ids,
                "business_id": [business] * count,
                "joined_at": pa.array([AS_OF - timedelta(days=300)] * count, TIMESTAMP),
            }
        ),
        "transactions": pa.table(
            {
                "transaction_id": [f"t-{business}-{i}" for i in range(len(bought))],
                "business_id": [business] * len(bought),
                "customer_id": [ids[n] for n, _ in bought],
                "occurred_at": pa.array(when, TIMESTAMP),
                "amount": pa.array(np.round(rng.uniform(2, 90, len(bought)), 2)).cast(MONEY, safe=False),
            }
        ),
        "events": pa.table(
            {
                "event_id": [f"e-{business}-{i}" for i in range(len(seen))],
                "business_id": [business] * len(seen),
                "customer_id": [ids[n] for n in seen],
                "occurred_at": pa.array([AS_OF - timedelta(days=float(d)) for d in rng.uniform(0.1, 200, len(seen))], TIMESTAMP),
                "event_type": ["app_open"] * len(seen),
            },
            schema=pa.schema([f for f in TABLES["events"].schema if not f.nullable]),
        ),
    }  # fmt: skip


@pytest.fixture
def scores() -> Callable[..., list[tuple[object, ...]]]:
    """A function that reads the rows of `customer_risk_scores` of a home, sorted; without `scored_at` where `timeless`."""

    def read(home: Path, timeless: bool = False) -> list[tuple[object, ...]]:
        columns = [c for c in TABLES["customer_risk_scores"].columns if not (timeless and c == "scored_at")]
        with Warehouse(home / "warehouse").connect() as connection:
            return connection.execute(f"SELECT {', '.join(columns)} FROM customer_risk_scores ORDER BY ALL").fetchall()  # noqa: S608

    return read
