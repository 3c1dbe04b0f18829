"""Cut points, classes and tiers of the customer base."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from contracts.errors import ArtifactError
from contracts.paths import Home
from contracts.tables import TABLES
from features.weekly import facts, read, tensors
from ray_apps.deployments.base import CustomerBase, Cuts, count_cuts, loyalty, rfm_class
from warehouse.store import Warehouse

NOW = datetime(2026, 11, 20, tzinfo=UTC)
DAY = 20_777
"""NOW, days since 1970."""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """50 customers of biz-1 with 1 to 10 purchases, one of whom only returned something; one of biz-2."""
    rng = np.random.default_rng(5)
    rows = []
    for customer in range(50):
        for _ in range(int(rng.integers(1, 11))):
            rows.append(("biz-1", f"c{customer}", NOW - timedelta(days=float(rng.uniform(0.1, 500))), Decimal(int(rng.integers(1, 90)))))
    rows += [("biz-1", "returner", NOW - timedelta(days=3), Decimal(-5)), ("biz-2", "x", NOW - timedelta(days=9), Decimal(7))]
    rows += [("biz-1", "c0", NOW + timedelta(days=1), Decimal(1000))]  # later than now
    columns = ("business_id", "customer_id", "occurred_at", "amount")
    found = [{"transaction_id": f"t{i}", **dict(zip(columns, row, strict=True))} for i, row in enumerate(rows)]
    warehouse = Warehouse(tmp_path / "warehouse")
    warehouse.land("transactions", pa.Table.from_pylist(found, schema=TABLES["transactions"].schema), "test")
    people = [{"business_id": "biz-1", "customer_id": "c0", "membership_tier": "GOLD", "points_balance": 12},
              {"business_id": "biz-1", "customer_id": "c1"}]  # fmt: skip
    warehouse.land("customers", pa.Table.from_pylist(people, schema=TABLES["customers"].schema), "test")
    return Home(tmp_path)


def test_quintiles_are_those_of_the_customers_who_bought(home: Home) -> None:
    with Warehouse(home.warehouse).connect() as connection:
        cuts = count_cuts(connection, NOW)
        people = pa.table({"business_id": ["biz-1"] * 50, "customer_id": [f"c{i}" for i in range(50)]})
        known = facts(tensors(read(connection, people, NOW), DAY)["statics"])
    assert set(cuts) == {"biz-1", "biz-2"}
    rows = [cuts["biz-1"].rfm({name: float(v[i]) for name, v in known.items()}) for i in range(50)]
    for name, source, sign in (("recency", "days_since_purchase", -1), ("frequency", "purchases_365d", 1), ("monetary", "spend_365d", 1)):
        scores, values = np.array([r[name] for r in rows if r]), sign * known[source]
        assert set(scores) <= {1, 2, 3, 4, 5}
        order = np.argsort(values, kind="stable")
        assert (np.diff(scores[order]) >= 0).all(), name
        assert 5 <= (scores == 5).sum() <= 15, name
        expected = np.quantile(values, [0.2, 0.4, 0.6, 0.8])
        near = np.abs(values[:, None] - expected).min(axis=1) > 1.01  # whole days and ties at a cut may fall on either side
        assert (np.searchsorted(expected, values, side="left")[near] + 1 == scores[near]).all(), name


def test_who_never_bought_is_in_no_class() -> None:
    assert Cuts(*(np.arange(4.0),) * 3).rfm({"days_since_purchase": 3650.0}) is None


@pytest.mark.parametrize(
    ("r", "f", "m", "new", "name"),
    [(5, 5, 4, False, "CHAMPION"), (4, 3, 1, False, "LOYAL"), (5, 1, 1, True, "NEW"), (4, 2, 2, False, "PROMISING"),
     (1, 5, 5, False, "AT_RISK"), (2, 1, 3, False, "AT_RISK"), (1, 1, 1, True, "HIBERNATING")],
)  # fmt: skip
def test_classes(r: int, f: int, m: int, new: bool, name: str) -> None:
    assert rfm_class(r, f, m, new) == name


def test_every_triple_has_a_class() -> None:
    from typing import get_args

    from contracts.api_churn import RfmClass

    names = {rfm_class(r, f, m, n) for r in range(1, 6) for f in range(1, 6) for m in range(1, 6) for n in (False, True)}
    assert names == set(get_args(RfmClass))


@pytest.mark.parametrize(
    ("tier", "spend", "above", "lacking", "progress"),
    [("BRONZE", 100.0, "SILVER", 200.0, 0.3333), ("GOLD", 2000.0, "PLATINUM", 0.0, 1.0), ("PLATINUM", 9.0, None, None, None),
     (None, 9.0, None, None, None), ("BRONZE", None, "SILVER", None, None), ("BRONZE", -5.0, "SILVER", 305.0, 0.0)],
)  # fmt: skip
def test_tiers(tier: str | None, spend: float | None, above: str | None, lacking: float | None, progress: float | None) -> None:
    found = loyalty(tier, 5, spend, (300.0, 900.0, 1800.0))
    assert (found["tier"], found["nextTier"], found["spendToNextTier"], found["progress"]) == (tier, above, lacking, progress)


async def test_members_are_looked_up_and_cuts_counted_in_the_background(home: Home) -> None:
    base = CustomerBase(home, lambda: NOW, 0.05)
    assert await base.member("biz-1", "c0") == ("GOLD", 12)
    assert await base.member("biz-1", "c1") == (None, None)
    assert await base.member("biz-2", "c0") is None
    assert base.cuts("biz-1") is None
    base.start()
    for _ in range(200):
        if base.cuts("biz-1") is not None:
            break
        await asyncio.sleep(0.02)
    assert base.cuts("biz-2") is not None
    assert base.cuts("biz-3") is None
    await base.stop()
    await base.stop()


async def test_a_warehouse_that_cannot_be_read_is_said_and_tried_again(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    base = CustomerBase(home, lambda: NOW, 0.01)
    assert await base.member("biz-1", "c0") == ("GOLD", 12)
    files = sorted((home.warehouse).rglob("*.parquet"))
    kept = {f: f.read_bytes() for f in files}
    for file in files:
        file.write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match=r"customers cannot be read|gone or damaged"):
        await base.member("biz-1", "c0")
    base.start()
    await asyncio.sleep(0.3)
    assert "cannot count the customer base" in caplog.text
    for file, content in kept.items():
        file.write_bytes(content)
    for _ in range(200):
        if base.cuts("biz-1") is not None:
            break
        await asyncio.sleep(0.02)
    assert await base.member("biz-1", "c0") == ("GOLD", 12)
    await base.stop()
