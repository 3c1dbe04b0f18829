"""A small generated warehouse with every table filled, on which the pairs of the corpus are executed.

`segments` and `customer_risk_scores` are outputs of other models; here they get plausible seeded stand-ins made from the purchase history,
so that questions about them have rows. They are not predictions.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from contracts.tables import CLV_SEGMENTS, TABLES
from warehouse.generate import GeneratorSettings, generate_into
from warehouse.store import Warehouse

SEGMENTS = (
    ("Weekend Regulars", "Buy most weekends, mostly in a store"), ("Morning Commuters", "Small baskets before nine on working days"),
    ("Deal Hunters", "Buy when there is an offer"), ("Big Baskets", "Few, large purchases"), ("App Fans", "Order and redeem in the app"),
    ("New Faces", "Joined in the last two months"), ("Fading Away", "Bought often, seldom now"),
    ("Quiet Loyalists", "Old members, steady and undemanding"),
    ("Occasional Visitors", "A purchase now and then"), ("Champions", "The most frequent and the best spenders"),
)  # fmt: skip
FACTORS = ("recency", "frequency", "monetary", "engagement", "redemption", "tenure", "feedback", "season")
DEFAULT = {"customers": 1500, "businesses": 2, "months": 15, "rewards": 60, "seed": 11}


def build(home: Path, *, end: date = date(2026, 10, 15), **settings: int) -> Warehouse:
    """Generate into `home`/warehouse and fill the two output tables. The same arguments give the same rows.

    Args:
        end: UTC date at which the history ends.
        settings: fields of GeneratorSettings; `DEFAULT` where not given.
    """
    store = Warehouse(home / "warehouse")
    numbers: dict[str, Any] = {**DEFAULT, **settings}
    chosen = GeneratorSettings(end=end, truth=False, **numbers)
    for _ in generate_into(home, store, chosen):
        pass
    for number, business in enumerate(chosen.business_ids()):
        _fill(store, business, np.random.default_rng([chosen.seed, number]))
    return store


def _fill(store: Warehouse, business: str, rng: np.random.Generator) -> None:
    connection = store.connect()
    rows = connection.sql(
        """
        SELECT c.customer_id, count(t.transaction_id) AS purchases, coalesce(sum(t.amount), 0)::DOUBLE AS spend,
               date_diff('day', max(t.occurred_at), (SELECT max(occurred_at) FROM transactions WHERE business_id = $b)) AS days
        FROM customers c LEFT JOIN transactions t ON t.customer_id = c.customer_id AND t.business_id = c.business_id
        WHERE c.business_id = $b GROUP BY c.customer_id ORDER BY c.customer_id
        """,
        params={"b": business},
    ).fetchall()
    connection.close()
    as_of = store.as_of(business).replace(minute=0, second=0, microsecond=0)
    n = len(rows)
    days = np.array([400 if r[3] is None else r[3] for r in rows], float)
    spend, purchases = np.array([r[2] for r in rows]), np.array([r[1] for r in rows])
    churn_90 = 1 / (1 + np.exp(-(days - 55) / 18 + rng.normal(0, 0.7, n)))
    churn_60, churn_30 = (churn_90**p for p in (0.85, 0.65))
    levels = np.select([churn_90 >= 0.8, churn_90 >= 0.55, churn_90 >= 0.25], ["CRITICAL", "HIGH", "MEDIUM"], "LOW")
    predicted = np.round(spend * rng.lognormal(-0.3, 0.5, n), 2)
    cuts = np.searchsorted(np.quantile(predicted, [0.4, 0.75, 0.93]), predicted)
    segment = rng.integers(1, len(SEGMENTS) + 1, n)
    until = np.maximum(1, np.round(110 * (1 - churn_90))).astype(int)
    scores = {
        "customer_id": [r[0] for r in rows], "business_id": [business] * n, "scored_at": [as_of] * n,
        "churn_30": churn_30, "churn_60": churn_60, "churn_90": churn_90, "risk_level": levels,
        "predicted_churn_date": [date.fromordinal(as_of.date().toordinal() + int(d)) for d in until], "days_until_churn": until,
        "top_factor": rng.choice(FACTORS, n, p=[0.34, 0.2, 0.12, 0.12, 0.08, 0.05, 0.06, 0.03]),
        "historical_clv": np.round(spend, 2), "predicted_clv": predicted, "clv_segment": [CLV_SEGMENTS[i] for i in cuts],
        "segment_id": [f"seg-{i}" for i in segment], "model_version": ["sequence/1"] * n,
        "coverage": np.select([purchases >= 3, purchases >= 1], ["full", "sparse"], "cold_start"),
    }  # fmt: skip
    store.land("customer_risk_scores", _table("customer_risk_scores", scores), f"corpus {business}")
    kept = [i for i in range(len(SEGMENTS)) if (segment == i + 1).any()]  # of few customers, a segment may have none
    members = [segment == i + 1 for i in kept]
    segments = {
        "segment_id": [f"seg-{i + 1}" for i in kept], "business_id": [business] * len(kept),
        "name": [SEGMENTS[i][0] for i in kept], "description": [SEGMENTS[i][1] for i in kept], "size": [int(m.sum()) for m in members],
        "average_clv": [round(float(predicted[m].mean()), 2) for m in members], "churn_rate": [float(churn_90[m].mean()) for m in members],
        "redemption_rate": rng.uniform(0.05, 0.4, len(SEGMENTS))[kept],
        "updated_at": [datetime(as_of.year, as_of.month, 1, tzinfo=UTC)] * len(kept),
    }  # fmt: skip
    store.land("segments", _table("segments", segments), f"corpus {business}")


def _table(name: str, columns: dict[str, object]) -> pa.Table:
    schema = TABLES[name].schema
    return pa.table({f.name: pa.array(list(columns[f.name])).cast(f.type) for f in schema}, schema=schema)  # type: ignore[call-overload]
