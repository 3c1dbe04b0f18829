"""From the sequence model's inputs and outputs to rows of `customer_risk_scores`, for many customers at once.

Letters: n customers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa

from contracts.sequence import BaseRates, Forecasting, days_until_churn, risk_levels
from contracts.tables import CLV_SEGMENTS, COVERAGES, MONEY, RISK_LEVELS, TABLES, TIMESTAMP
from contracts.tensors import FACTORS
from features.weekly import NEVER_DAYS, SPEND, DailyHistory, as_of_day, coverage, facts

SCHEMA = TABLES["customer_risk_scores"].schema
COLD = COVERAGES.index("cold_start")


@dataclass(frozen=True)
class Scoring:
    """What is the same for every row of a run.

    Attributes:
        as_of: nothing at or after it counts. scored_at: key of the run's rows.
        model_version: for example `sequence/4`. risk_cuts: where MEDIUM, HIGH and CRITICAL begin.
    """

    as_of: datetime
    scored_at: datetime
    model_version: str
    forecasting: Forecasting
    risk_cuts: tuple[float, float, float]


def rows(customers: pa.Table, statics: np.ndarray, historical: np.ndarray, outputs: Mapping[str, np.ndarray], scoring: Scoring) -> pa.Table:
    """One row a customer.

    Customers without a purchase (`cold_start`) get their business's base rates instead of the model's answer, and no factor. Who has been
    silent for long enough already has 0 days left and the day on which that was reached as date.

    Args:
        customers: business_id, customer_id; n rows.
        statics: float32 (n, 40), the model's input. historical: float64 (n,), net spend until now.
        outputs: of `contracts.tensors.SEQUENCE`: churn (n, 3), silent_by (n, 10), spend (n, 12), impact_estimates (n, 8).

    Returns:
        The table's columns and types, in the order of `customers`. `top_factor` is the factor that raises churn at 90 days the most above
        the reference customer's, null where none does.
    """
    known = coverage(statics)
    business, codes = _codes(customers["business_id"])
    churn, silent_by, spend = (outputs[name].astype(np.float64) for name in ("churn", "silent_by", "spend"))
    _fill_cold(known == COLD, codes, business, scoring.forecasting, churn, silent_by, spend)
    recency = np.rint(facts(statics)["days_since_purchase"])
    recency = np.where(recency >= NEVER_DAYS, 0.0, recency)
    silent_days = scoring.forecasting.definition.silent_days
    days = np.ceil(days_until_churn(silent_by, recency, silent_days)).astype(np.int64)
    ahead = np.where(recency >= silent_days, silent_days - recency.astype(np.int64), days)
    predicted = np.round(spend, 2).sum(axis=1)
    impacts = outputs["impact_estimates"]
    n = customers.num_rows
    columns = {
        "customer_id": customers["customer_id"],
        "business_id": customers["business_id"],
        "scored_at": pa.repeat(pa.scalar(scoring.scored_at, TIMESTAMP), n),
        **{f"churn_{h}": pa.array(churn[:, i]) for i, h in enumerate(scoring.forecasting.definition.horizons_days)},
        "risk_level": _named(RISK_LEVELS, risk_levels(churn[:, -1], scoring.risk_cuts)),
        "predicted_churn_date": pa.array((as_of_day(scoring.as_of) - 1 + ahead).astype(np.int32)).cast(pa.date32()),
        "days_until_churn": pa.array(days),
        "top_factor": _named(FACTORS, impacts.argmax(axis=1), (impacts.max(axis=1) <= 0) | (known == COLD)),
        "historical_clv": money(historical),
        "predicted_clv": money(predicted),
        "clv_segment": _named(CLV_SEGMENTS, _segments(predicted, codes, business, scoring.forecasting)),
        "segment_id": pa.nulls(n, pa.string()),
        "model_version": pa.repeat(pa.scalar(scoring.model_version), n),
        "coverage": _named(COVERAGES, known),
    }
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def historical_spend(history: DailyHistory, until_day: int) -> np.ndarray:
    """Net spend of each customer on the days before one, float64 (C,)."""
    owner = np.repeat(np.arange(len(history)), np.diff(history.starts))
    counts = np.where(history.days < until_day, history.sums[:, SPEND].astype(np.float64), 0.0)
    return np.bincount(owner, weights=counts, minlength=len(history))


def money(values: np.ndarray) -> pa.Array:
    """Amounts as decimal(18, 4), to the cent; int64 units beside their sign, the bytes that Arrow keeps of a 128-bit number."""
    units = np.round(values * 100.0).astype(np.int64) * 100
    pairs = np.stack([units, units >> 63], axis=1)
    return pa.Array.from_buffers(MONEY, len(units), [None, pa.py_buffer(np.ascontiguousarray(pairs))])


def _named(names: Sequence[str], positions: np.ndarray, unknown: np.ndarray | None = None) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(positions.astype(np.int32), mask=unknown), pa.array(names)).cast(pa.string())


def _codes(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """The distinct values, and which of them each row has."""
    coded = column.combine_chunks().dictionary_encode()
    return coded.dictionary.to_pylist(), coded.indices.to_numpy()


def _fill_cold(cold: np.ndarray, codes: np.ndarray, business: list[str], forecasting: Forecasting, *outputs: np.ndarray) -> None:
    """Put each business's base rates into churn, silent_by and spend where nothing is known of the customer."""
    churn, silent_by, spend = outputs
    for code, business_id in enumerate(business):
        mine = cold & (codes == code)
        if mine.any():
            rates: BaseRates = forecasting.rates_of(business_id)
            churn[mine], silent_by[mine], spend[mine] = rates.churn, rates.silent_by, rates.spend


def _segments(predicted: np.ndarray, codes: np.ndarray, business: list[str], forecasting: Forecasting) -> np.ndarray:
    out = np.zeros(len(predicted), dtype=np.int64)
    for code, business_id in enumerate(business):
        mine = codes == code
        out[mine] = forecasting.segments(business_id, predicted[mine])
    return out
