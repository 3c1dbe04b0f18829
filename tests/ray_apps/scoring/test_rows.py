"""Rows of scores against what is said of one customer at a time."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa

from contracts.sequence import BaseRates, ChurnDefinition, Forecasting, days_until_churn
from contracts.tensors import FACTORS, STATIC_COUNT
from features.weekly import STATICS, DailyHistory
from ray_apps.scoring.rows import SCHEMA, Scoring, historical_spend, money, rows

AS_OF = datetime(2025, 6, 15, 10, 30, tzinfo=UTC)


def forecasting() -> Forecasting:
    rates = BaseRates(
        churn=(0.7, 0.6, 0.5), silent_by=(0.5,) * 10, purchase_probability=(0.3,) * 12, spend=(1.25,) * 12, spend_interval=(5.0, 20.0)
    )
    return Forecasting(
        definition=ChurnDefinition(),
        reference_statics=(0.0,) * STATIC_COUNT,
        base_rates={"": rates, "b": rates.model_copy(update={"churn": (0.99, 0.98, 0.97)})},
        clv_cuts={"": (10.0, 100.0, 1000.0), "b": (1.0, 2.0, 3.0)},
        ece=0.0,
        spend_months_seen=3,
    )


def statics(recency: float, purchase_days: float, first: float) -> np.ndarray:
    row = np.zeros(STATIC_COUNT, np.float32)
    for name, value in (("days_since_purchase", recency), ("purchase_days", purchase_days), ("days_since_first_purchase", first)):
        row[STATICS.index(name)] = np.log1p(value)
    return row


def scored(*, impacts: list[list[float]] | None = None) -> list[dict[str, object]]:
    """Four customers: known, lapsed, one of whom nothing is known, and such a one of another business."""
    known = np.stack([statics(20, 5, 200), statics(100, 2, 300), statics(3650, 0, 3650), statics(3650, 0, 3650)])
    outputs = {
        "churn": np.array([[0.8, 0.7, 0.65], [0.9, 0.9, 0.85], [0, 0, 0], [0, 0, 0]], np.float32),
        "silent_by": np.array([np.linspace(0.65, 0.9, 10), np.linspace(0.85, 0.9, 10), np.zeros(10), np.zeros(10)], np.float32),
        "spend": np.array([[12.344] * 12, [0.1] * 12, [999.0] * 12, [999.0] * 12], np.float32),
        "impact_estimates": np.array(impacts or [[0.1, 0.3, -0.9, 0, 0, 0, 0, 0], [-0.1] * 8, [1.0] * 8, [1.0] * 8], np.float32),
    }
    customers = pa.table({"business_id": ["a", "a", "a", "b"], "customer_id": ["1", "2", "3", "4"]})
    scoring = Scoring(AS_OF, AS_OF + timedelta(microseconds=1), "sequence/7", forecasting(), (0.4, 0.6, 0.8))
    table = rows(customers, known, np.array([100.256, 5.0, 0.0, -3.5]), outputs, scoring)
    assert table.schema == SCHEMA
    return table.to_pylist()


def test_a_known_customer_has_the_models_numbers() -> None:
    row = scored()[0]
    assert (row["business_id"], row["customer_id"], row["scored_at"]) == ("a", "1", AS_OF + timedelta(microseconds=1))
    assert [round(float(row[f"churn_{h}"]), 6) for h in (30, 60, 90)] == [0.8, 0.7, 0.65]
    assert (row["risk_level"], row["coverage"], row["model_version"]) == ("HIGH", "full", "sequence/7")
    expected = days_until_churn(np.linspace(0.65, 0.9, 10, dtype=np.float32)[None], np.array([20.0]))[0]
    assert (row["days_until_churn"], expected) == (70, 70.0)
    assert row["predicted_churn_date"] == date(2025, 6, 15) + timedelta(days=70)
    assert (row["historical_clv"], row["predicted_clv"]) == (Decimal("100.26"), Decimal("148.08"))
    assert (row["clv_segment"], row["segment_id"]) == ("HIGH", None)


def test_the_top_factor_is_the_one_that_raises_the_risk_most() -> None:
    found = scored()
    assert found[0]["top_factor"] == FACTORS[1]
    assert found[1]["top_factor"] is None, "none raises it"


def test_somebody_silent_for_long_enough_churned_on_the_day_that_was_reached() -> None:
    row = scored()[1]
    last_purchase = date(2025, 6, 15) - timedelta(days=100)
    assert (row["days_until_churn"], row["predicted_churn_date"]) == (0, last_purchase + timedelta(days=90))
    assert (row["risk_level"], row["coverage"]) == ("CRITICAL", "sparse")


def test_of_whom_nothing_is_known_the_businesss_base_rates_are_said() -> None:
    of_any, of_b = scored()[2:]
    assert [of_any[f"churn_{h}"] for h in (30, 60, 90)] == [0.7, 0.6, 0.5]
    assert [of_b[f"churn_{h}"] for h in (30, 60, 90)] == [0.99, 0.98, 0.97]
    assert (of_any["coverage"], of_any["top_factor"], of_any["predicted_clv"]) == ("cold_start", None, Decimal("15"))
    assert (of_any["days_until_churn"], of_any["predicted_churn_date"]) == (90, date(2025, 9, 13))
    assert (of_any["clv_segment"], of_b["clv_segment"]) == ("MEDIUM", "VERY_HIGH")
    assert of_b["historical_clv"] == Decimal("-3.5")


def test_the_as_of_midnight_belongs_to_the_day_before() -> None:
    """Nothing of the day that begins then is used, so the newest day of the history is the one before."""
    scoring = Scoring(datetime(2025, 6, 15, tzinfo=UTC), AS_OF, "sequence/7", forecasting(), (0.4, 0.6, 0.8))
    outputs = {"churn": (1, 3), "silent_by": (1, 10), "spend": (1, 12), "impact_estimates": (1, 8)}
    found = rows(
        pa.table({"business_id": ["a"], "customer_id": ["1"]}), statics(100, 2, 300)[None], np.zeros(1),
        {name: np.ones(shape, np.float32) for name, shape in outputs.items()}, scoring,
    ).to_pylist()  # fmt: skip
    assert found[0]["predicted_churn_date"] == date(2025, 6, 14) - timedelta(days=10)


def test_money_is_exact_to_the_cent() -> None:
    values = [0.0, 0.006, -0.01, 12.34, -98765.43, 1e9 + 0.25]
    assert money(np.array(values)).to_pylist() == [Decimal(str(round(v, 2))).quantize(Decimal("0.0001")) for v in values]


def test_historical_spend_counts_the_days_before() -> None:
    sums = np.zeros((4, 10), np.float32)
    sums[:, 1] = [10.5, -2.0, 3.0, 100.0]
    history = DailyHistory(np.array([0, 3, 3, 4]), np.array([1, 2, 3, 9], np.int32), sums, np.zeros(3, np.int32))
    np.testing.assert_allclose(historical_spend(history, 3), [8.5, 0.0, 0.0])
