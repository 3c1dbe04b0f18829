"""The programme that the blind question sets were written against: generated, with two runs of made-up risk scores and six segments.

The scores are no forecasts: they only have to look like some. The same every time.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from contracts.tables import TABLES
from warehouse.generate import GeneratorSettings, generate_into
from warehouse.store import Warehouse

SEGMENTS = {
    "seg-1": "Coffee Regulars", "seg-2": "Weekend Brunchers", "seg-3": "Deal Hunters", "seg-4": "Big Baskets", "seg-5": "Newcomers",
    "seg-6": "Fading Away",
}  # fmt: skip
FACTORS = ("recency", "frequency", "monetary", "engagement", "redemption", "tenure", "feedback", "season")
FACTOR_SHARES = (0.12, 0.22, 0.13, 0.2, 0.12, 0.08, 0.07, 0.06)
BUSINESS = "biz-1"


def build(home: Path, end: date = date(2026, 11, 22)) -> Warehouse:
    """2,000 customers, 18 months, 120 rewards; `home`/warehouse, made once."""
    store = Warehouse(home / "warehouse")
    if not (home / "warehouse" / "manifest.json").is_file():
        for _ in generate_into(
            home, store, GeneratorSettings.load(environ={}, customers=2000, months=18, rewards=120, end=end, truth=False)
        ):
            pass
    if "customer_risk_scores" not in store.sources() or not store.sources()["customer_risk_scores"]:
        _fill(store)
    return store


def _fill(store: Warehouse) -> None:
    rng = np.random.default_rng(20261122)
    as_of = store.as_of(BUSINESS)
    runs = [_scores(store, as_of - timedelta(days=back), rng) for back in (14, 0)]
    _land(store, "customer_risk_scores", [row for run in runs for row in run])
    newest = runs[1]
    segments = []
    for segment, name in SEGMENTS.items():
        members = [r for r in newest if r["segment_id"] == segment]
        segments.append({
            "segment_id": segment, "business_id": BUSINESS, "name": name, "description": f"{name}, found from 12 months of behaviour",
            "size": len(members), "average_clv": round(float(np.mean([r["predicted_clv"] for r in members] or [0])), 2),
            "churn_rate": round(float(np.mean([r["churn_90"] for r in members] or [0])), 4),
            "redemption_rate": round(float(rng.uniform(0.08, 0.35)), 4), "updated_at": as_of,
        })  # fmt: skip
    _land(store, "segments", segments)


def _scores(store: Warehouse, moment: datetime, rng: np.random.Generator) -> list[dict[str, Any]]:
    """A row for each customer who had joined by then."""
    query = """
        SELECT c.customer_id, coalesce(sum(t.amount), 0)::DOUBLE, count(t.transaction_id),
               coalesce(date_diff('day', max(t.occurred_at), $moment), 400)
        FROM customers c LEFT JOIN transactions t ON t.customer_id = c.customer_id AND t.occurred_at <= $moment
        WHERE c.joined_at <= $moment GROUP BY 1 ORDER BY 1
    """
    connection = store.connect()
    found = connection.execute(query, {"moment": moment}).fetchall()
    connection.close()
    spent, count, silent = (np.array([row[i] for row in found], float) for i in (1, 2, 3))
    n = len(found)
    z = silent.clip(0, 200) / 22 - 3.2 - np.log1p(count) * 0.25 + rng.normal(0, 0.7, n)
    churn = {days: np.round(1 / (1 + np.exp(-(z - shift))), 6) for days, shift in ((30, 1.2), (60, 0.5), (90, 0.0))}
    worth = np.round(np.maximum(spent / 1.5 * (1 - churn[90]) * rng.uniform(0.6, 1.3, n), 0), 2)
    wait = np.maximum(1, np.round(np.log(2) * 90 / np.maximum(-np.log(1 - np.minimum(churn[90], 0.999)), 0.09))).astype(int)
    other = np.array(list(SEGMENTS))[rng.integers(0, 4, n)]
    segment = np.where(silent > 120, "seg-6", np.where(count < 8, "seg-5", other))
    drawn = np.array(FACTORS)[rng.choice(8, n, p=FACTOR_SHARES)]
    factor = np.where((silent > 60) & (rng.random(n) < 0.75), "recency", drawn)
    risk = np.array(["LOW", "MEDIUM", "HIGH", "CRITICAL"])[np.searchsorted([0.2, 0.5, 0.8], churn[90], side="right")]
    value = np.array(["LOW", "MEDIUM", "HIGH", "VERY_HIGH"])[np.searchsorted(np.quantile(worth, [0.4, 0.75, 0.93]), worth)]
    return [
        {
            "customer_id": found[i][0], "business_id": BUSINESS, "scored_at": moment, "churn_30": churn[30][i], "churn_60": churn[60][i],
            "churn_90": churn[90][i], "risk_level": risk[i], "predicted_churn_date": (moment + timedelta(days=int(wait[i]))).date(),
            "days_until_churn": int(wait[i]), "top_factor": factor[i], "historical_clv": round(spent[i], 2), "predicted_clv": worth[i],
            "clv_segment": value[i], "segment_id": segment[i], "model_version": "made-up",
            "coverage": "cold_start" if count[i] == 0 else "sparse" if count[i] < 5 else "full",
        }
        for i in range(n)
    ]  # fmt: skip


def _land(store: Warehouse, table: str, rows: list[dict[str, Any]]) -> None:
    schema = TABLES[table].schema
    columns = []
    for f in schema:
        values = [row[f.name] for row in rows]
        if pa.types.is_decimal(f.type):
            values = [Decimal(f"{float(v):.2f}") for v in values]
        columns.append(pa.array([v.item() if isinstance(v, np.generic) else v for v in values], f.type))
    store.land(table, pa.table(columns, schema=schema), f"made-up:{table}")
