"""Realized calibration against an independent implementation, and outcomes against the events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from contracts.api_churn import ChurnCalibration
from contracts.tables import TABLES
from ray_apps.calibration import auc, calibration, seen_outcomes
from ray_apps.predictions import Judged
from warehouse.store import Warehouse

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def judged(
    customer: str = "c", churn: float = 0.5, as_of: datetime = NOW, intervened: bool = False, reported: bool | None = None
) -> Judged:
    return Judged(customer, as_of, "sequence/1", (churn, churn, churn), intervened, reported)


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    """Purchases of "c" 10 and 60 days after NOW, a return of "r"; the business's newest row is 100 days after NOW."""
    rows = [("c", 10, 5), ("c", 60, 5), ("r", 20, -5), ("late", 100, 5), ("edge", 90, 5)]
    found = [
        {"transaction_id": f"t{i}", "business_id": b, "customer_id": c, "occurred_at": NOW + timedelta(days=d), "amount": Decimal(a)}
        for i, (b, c, d, a) in enumerate([("biz-1", *row) for row in rows] + [("biz-2", "r", 5, 5), ("biz-1", "c", -1, 5)])
    ]
    Warehouse(tmp_path).land("transactions", pa.Table.from_pylist(found, schema=TABLES["transactions"].schema), "test")
    return tmp_path


def test_the_events_show_who_came_back(warehouse: Path) -> None:
    asked = [judged("c"), judged("r"), judged("late"), judged("edge"), judged("nobody"), judged("c", as_of=NOW + timedelta(days=61)),
             judged("c", as_of=NOW + timedelta(days=10))]  # fmt: skip
    assert seen_outcomes(warehouse, "biz-1", asked, 90) == [False, True, True, False, True, None, None]
    assert seen_outcomes(warehouse, "biz-1", asked, 30) == [False, True, True, True, True, True, True]
    assert seen_outcomes(warehouse, "biz-2", asked[:2], 90) == [None, None], "its own newest row is too early"
    assert seen_outcomes(warehouse, "biz-1", [], 90) == []


def test_a_purchase_before_the_end_of_the_horizon_does_not_count_early(warehouse: Path) -> None:
    """Those who stay would be known sooner than those who leave, and the rate would be too low."""
    assert seen_outcomes(warehouse, "biz-1", [judged("c", as_of=NOW + timedelta(days=50))], 90) == [None]


def test_measures_agree_with_another_implementation() -> None:
    rng = np.random.default_rng(2)
    chance = np.round(rng.uniform(size=400), 2)  # with ties
    churned = rng.uniform(size=400) < chance
    found = calibration([judged(churn=float(p)) for p in chance], churned.tolist(), 90, 10)
    ChurnCalibration.model_validate(
        found | {"horizonDays": 90, "since": NOW.isoformat(), "truncated": False, "modelVersion": "x", "latency": 1}
    )
    assert found["auc"] == pytest.approx(roc_auc_score(churned, chance), abs=1e-6)
    edges = np.minimum((chance * 10).astype(int), 9)
    slow = sum(abs(chance[edges == k].mean() - churned[edges == k].mean()) * (edges == k).sum() for k in range(10)) / 400
    assert found["ece"] == pytest.approx(slow, abs=1e-6)
    assert (found["n"], found["seen"], found["reported"], sum(b["n"] for b in found["bins"])) == (400, 400, 0, 400)
    assert found["churnRate"] == pytest.approx(churned.mean(), abs=1e-6)
    tilted = calibration([judged(churn=float(p) ** 3) for p in chance], churned.tolist(), 90, 10)
    assert tilted["ece"] > found["ece"] + 0.1, "negative control"


def test_a_report_wins_over_what_was_seen_and_is_about_90_days() -> None:
    rows = [judged(reported=True), judged(reported=None), judged(reported=False)]
    found = calibration(rows, [False, None, None], 90, 10)
    assert (found["n"], found["reported"], found["seen"], found["pending"], found["churnRate"]) == (2, 2, 0, 1, 0.5)
    shorter = calibration(rows, [False, None, None], 30, 10)
    assert (shorter["n"], shorter["reported"], shorter["seen"], shorter["churnRate"]) == (1, 0, 1, 0.0)


def test_what_was_intervened_in_is_left_out_unless_asked_for() -> None:
    rows, seen = [judged(intervened=True), judged()], [True, False]
    assert [calibration(rows, seen, 90, 10, w)["n"] for w in (False, True)] == [1, 2]
    assert [calibration(rows, seen, 90, 10, w)["intervened"] for w in (False, True)] == [1, 0]


def test_nothing_known_says_nothing() -> None:
    found = calibration([], [], 90, 4)
    assert (found["n"], found["ece"], found["auc"], found["predicted"], len(found["bins"])) == (0, None, None, None, 4)
    assert auc(np.array([0.1, 0.2]), np.array([True, True])) is None
    assert calibration([judged(churn=1.0)], [True], 90, 4)["bins"][-1]["n"] == 1
