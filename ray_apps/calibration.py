"""How well past predictions of churn fit what came of them.

An outcome is what was reported; where nothing was, what the events show once the warehouse holds a transaction of the business from after
the horizon: whether the customer made a purchase in (as of, as of + horizon].
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from contracts.tensors import HORIZONS_DAYS
from ray_apps.predictions import Judged
from ray_apps.store import to_micros
from warehouse.store import Warehouse

REPORTED_DAYS = HORIZONS_DAYS[-1]
"""Reports are about this horizon."""
_BOUGHT = """
SELECT p.row FROM judged p SEMI JOIN (
    SELECT customer_id, epoch_us(occurred_at) AS at FROM transactions WHERE business_id = $business AND amount >= 0 AND occurred_at > $since
) t ON t.customer_id = p.customer_id AND t.at > p.begins AND t.at <= p.ends
"""
_LATEST = "SELECT max(epoch_us(occurred_at)) FROM transactions WHERE business_id = $business"


def seen_outcomes(root: Path, business_id: str, predictions: Sequence[Judged], horizon_days: int) -> list[bool | None]:
    """For each prediction whether the customer made no purchase within the horizon, as the events show; None while that is not over.

    A purchase counts only once the horizon is over, too: those who stay would else be known sooner than those who leave.

    Takes as long as reading the transactions since the oldest prediction: call it in a thread.

    Raises:
        ArtifactError: the warehouse cannot be read.
    """
    if not predictions:
        return []
    span = timedelta(days=horizon_days)
    begins = np.array([to_micros(p.as_of) for p in predictions])
    ends = np.array([to_micros(p.as_of + span) for p in predictions])
    table = pa.table(
        {"row": np.arange(len(predictions)), "customer_id": [p.customer_id for p in predictions], "begins": begins, "ends": ends}
    )
    with Warehouse(root).connect() as connection:
        latest = connection.execute(_LATEST, {"business": business_id}).fetchall()[0][0] or 0
        connection.register("judged", table)
        asked = {"business": business_id, "since": min(p.as_of for p in predictions)}
        bought = {row for (row,) in connection.execute(_BOUGHT, asked).fetchall()}
    return [i not in bought if end < latest else None for i, end in enumerate(ends.tolist())]


def calibration(
    predictions: Sequence[Judged], seen: Sequence[bool | None], horizon_days: int, bins: int, with_interventions: bool = False
) -> dict[str, Any]:
    """The judgement of `ChurnCalibration`, without the fields about the request.

    Args:
        seen: of `seen_outcomes`, in the order of the predictions.
        bins: number of bins of equal width.
        with_interventions: count also predictions that something was done about: their outcome is no longer the one predicted.
    """
    at = HORIZONS_DAYS.index(horizon_days)
    reported = [p.reported if horizon_days == REPORTED_DAYS else None for p in predictions]
    wanted = [with_interventions or not p.intervened for p in predictions]
    outcome = [r if r is not None else s for r, s in zip(reported, seen, strict=True)]
    known = [i for i, o in enumerate(outcome) if o is not None and wanted[i]]
    chance = np.array([predictions[i].churn[at] for i in known], dtype=np.float64)
    churned = np.array([outcome[i] for i in known], dtype=bool)
    rows = _bins(chance, churned, bins)
    total = len(known)
    gaps = [row["n"] / total * abs(row["predicted"] - row["seen"]) for row in rows if row["n"]]
    return {
        "n": total,
        "reported": sum(reported[i] is not None for i in known),
        "seen": sum(reported[i] is None for i in known),
        "pending": sum(o is None and w for o, w in zip(outcome, wanted, strict=True)),
        "intervened": len(predictions) - sum(wanted),
        "predicted": round(float(chance.mean()), 6) if total else None,
        "churnRate": round(float(churned.mean()), 6) if total else None,
        "ece": round(sum(gaps), 6) if total else None,
        "auc": auc(chance, churned),
        "bins": rows,
    }


def _bins(chance: np.ndarray, churned: np.ndarray, bins: int) -> list[dict[str, Any]]:
    place = np.minimum((chance * bins).astype(int), bins - 1)
    out: list[dict[str, Any]] = []
    for k in range(bins):
        mine = place == k
        row: dict[str, Any] = {"low": round(k / bins, 6), "high": round((k + 1) / bins, 6), "n": int(mine.sum())}
        if mine.any():
            row |= {"predicted": round(float(chance[mine].mean()), 6), "seen": round(float(churned[mine].mean()), 6)}
        out.append(row)
    return out


def auc(chance: np.ndarray, churned: np.ndarray) -> float | None:
    """Area under the ROC curve, ties counting half (Mann-Whitney); None where all or none churned.

    Args:
        chance: float64 (n,). churned: bool (n,).
    """
    positive = int(churned.sum())
    negative = len(churned) - positive
    if not positive or not negative:
        return None
    _, inverse, counts = np.unique(chance, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2.0
    return round(float((ranks[inverse][churned].sum() - positive * (positive + 1) / 2) / (positive * negative)), 6)
