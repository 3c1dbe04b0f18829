"""From a cosine to a probability that the customer redeems the reward within the horizon.

At as-of times inside the validation slice, active customers are drawn; for each, the rewards that the model ranks highest and some others
are taken, and labelled by what was redeemed in the days after. A logistic regression on the cosine and on the log of the share of active
customers who redeemed the reward lately gives `contracts.bundle.Calibration`. It is measured on the later test slice. No as-of time
looks beyond its slice: where a slice is shorter than the horizon, the horizon is cut, and what was used is recorded.

Source: Platt (1999), with Newton's method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from contracts.bundle import Calibration
from contracts.errors import ArtifactError
from features import asof
from training import metrics
from training.recommender.data import ACTIVE_DAYS, DAY_S, Catalogue, Dataset, Log, Queries, examples_table, seen_before
from training.recommender.evaluate import item_vectors, user_vectors
from training.recommender.model import TwoTower
from training.settings import TrainSettings

TOP = 20
OTHERS = 20
MOMENTS = 3


@dataclass(frozen=True)
class Sample:
    """Candidates with their labels: cosine, log share and label float64 (M,), customer int64 (M,)."""

    cosine: np.ndarray
    log_share: np.ndarray
    label: np.ndarray


def redeemer_shares(
    connection: duckdb.DuckDBPyConnection, catalogue: Catalogue, log: Log, as_of: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How many redemptions each reward had in the last 90 days, and which share of the active customers redeemed it.

    Args:
        as_of: float64 (businesses,), epoch seconds.

    Returns:
        redemptions int64 (N,) and redeemer_share float64 (N,) in 0..1; active means any purchase, event or ticket in these days.
    """
    n = len(catalogue)
    b = log.customer_business[log.customer]
    inside = (log.time < as_of[b]) & (log.time >= as_of[b] - ACTIVE_DAYS * DAY_S)
    pairs = np.unique(log.item[inside] * len(log.customers) + log.customer[inside])
    redeemers = np.bincount(pairs // len(log.customers), minlength=n)
    active = np.array([max(1, active_customers(connection, name, as_of[i]).num_rows) for i, name in enumerate(catalogue.businesses)])
    share = redeemers / active[catalogue.business]
    return np.bincount(log.item[inside], minlength=n), np.minimum(share, 1.0)


def active_customers(connection: duckdb.DuckDBPyConnection, business_id: str, as_of: float) -> pa.Table:
    """business_id, customer_id of everyone with an event or a purchase in the 90 days before; sorted."""
    sql = """
        SELECT DISTINCT business_id, customer_id FROM (
            SELECT business_id, customer_id, occurred_at FROM events UNION ALL
            SELECT business_id, customer_id, occurred_at FROM transactions)
        WHERE business_id = ? AND epoch_us(occurred_at) / 1e6 < ? AND epoch_us(occurred_at) / 1e6 >= ? ORDER BY ALL"""
    return connection.sql(sql, params=[business_id, as_of, as_of - ACTIVE_DAYS * DAY_S]).to_arrow_table()


def common_horizon(begins: list[float], ends: list[float], horizon_days: int) -> float:
    """The horizon in days that fits into three quarters of every slice; whole days where it can, an hour at least."""
    shortest = min(end - begin for begin, end in zip(begins, ends, strict=True))
    days = min(float(horizon_days), max(shortest * 0.75, 3_600.0) / DAY_S)
    return float(int(days)) if days >= 1 else days


def draw_sample(
    connection: duckdb.DuckDBPyConnection, model: TwoTower, dataset: Dataset, begin: np.ndarray, end: np.ndarray, settings: TrainSettings,
    horizon_days: float,
) -> Sample:  # fmt: skip
    """Labelled candidates at a few moments whose horizon lies between the two times of each business."""
    rng = np.random.default_rng([settings.seed, int(begin.min())])
    parts: list[Sample] = []
    for number, name in enumerate(dataset.catalogue.businesses):
        last = max(float(begin[number]), float(end[number]) - horizon_days * DAY_S)
        for moment in np.linspace(float(begin[number]), last, MOMENTS):
            parts.append(_at(connection, model, dataset, number, name, float(moment), horizon_days, settings, rng))
    return Sample(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("cosine", "log_share", "label")))


def _at(
    connection: duckdb.DuckDBPyConnection, model: TwoTower, dataset: Dataset, number: int, name: str, moment: float, horizon_days: float,
    settings: TrainSettings, rng: np.random.Generator,
) -> Sample:  # fmt: skip
    catalogue, log = dataset.catalogue, dataset.log
    people = active_customers(connection, name, moment)
    if people.num_rows == 0:
        return Sample(np.zeros(0), np.zeros(0), np.zeros(0))
    people = people.take(
        pa.array(np.sort(rng.choice(people.num_rows, min(people.num_rows, settings.calibration_customers), replace=False)))
    )
    known = {key: i for i, key in enumerate(zip(*(log.customers[c].to_pylist() for c in ("business_id", "customer_id")), strict=True))}
    customer = np.array([known.get(k, -1) for k in zip(*(people[c].to_pylist() for c in ("business_id", "customer_id")), strict=True)])
    when = np.full(people.num_rows, moment)
    rows = asof.rows(connection, examples_table(people, np.arange(people.num_rows), when), dataset.vocabulary)
    seen_indptr, seen = seen_before(log, catalogue.single_use, np.maximum(customer, 0), np.where(customer < 0, -np.inf, when))
    none = np.zeros(people.num_rows + 1, np.int64)
    business = np.full(people.num_rows, number)
    queries = Queries(customer, business, when, rows, none, none[:0], seen_indptr, seen, np.ones(people.num_rows, np.float32), log)
    cosine = user_vectors(model, queries) @ item_vectors(model, catalogue.item_ids, catalogue.attributes, catalogue.text_vectors).T
    candidates = queries.candidates(catalogue, np.arange(len(queries)))
    labels = _labels(log, customer, moment, horizon_days, candidates.shape)
    picked = _pick(cosine, candidates, rng)
    share = redeemer_shares(connection, catalogue, log, np.full(len(catalogue.businesses), moment))[1]
    row, item = np.nonzero(picked)
    return Sample(cosine[row, item].astype(np.float64), np.log(share[item] + 1e-6), labels[row, item].astype(np.float64))


def _labels(log: Log, customer: np.ndarray, moment: float, horizon_days: float, shape: tuple[int, ...]) -> np.ndarray:
    """bool (B, N): redeemed in [moment, moment + horizon)."""
    out = np.zeros(shape, dtype=bool)
    place = np.full(len(log.customers), -1)
    place[customer[customer >= 0]] = np.flatnonzero(customer >= 0)
    inside = (log.time >= moment) & (log.time < moment + horizon_days * DAY_S) & (place[log.customer] >= 0)
    out[place[log.customer[inside]], log.item[inside]] = True
    return out


def _pick(cosine: np.ndarray, candidates: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """bool (B, N): the best TOP candidates of each row and about OTHERS more, drawn evenly."""
    order = np.argsort(-np.where(candidates, cosine, -np.inf), axis=1)[:, :TOP]
    out = rng.random(cosine.shape) < OTHERS / max(1, cosine.shape[1])
    np.put_along_axis(out, order, True, axis=1)
    return out & candidates


def fit_logistic(x: np.ndarray, y: np.ndarray, ridge: float = 1e-3, steps: int = 50) -> np.ndarray:
    """Weights and intercept of a logistic regression by Newton's method.

    Args:
        x: float64 (M, C). y: float64 (M,), 0 or 1. ridge: penalty on the weights, so that separable data stay finite.

    Returns:
        float64 (C + 1,), the intercept last.
    """
    x = np.column_stack([x, np.ones(len(x))])
    penalty = np.append(np.full(x.shape[1] - 1, ridge), 1e-9)
    w = np.zeros(x.shape[1])
    w[-1] = np.log((y.sum() + 0.5) / (len(y) - y.sum() + 0.5))
    for _ in range(steps):
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ w, -60, 60)))
        gradient = x.T @ (p - y) + penalty * w
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.diag(penalty + 1e-9)
        step = np.linalg.solve(hessian, gradient)
        w -= np.clip(step, -5.0, 5.0)
        if np.abs(step).max() < 1e-9:
            break
    return w


def calibrate(
    connection: duckdb.DuckDBPyConnection, model: TwoTower, dataset: Dataset, settings: TrainSettings
) -> tuple[Calibration, dict[str, Any]]:
    """Fit on the validation slice, measure on the test slice.

    Raises:
        ArtifactError: no active customer in the validation slice, so nothing to fit on.
    """
    cuts = dataset.cuts
    horizon = common_horizon([*cuts.validation_from, *cuts.test_from], [*cuts.test_from, *cuts.end], settings.horizon_days)
    fitted = draw_sample(connection, model, dataset, cuts.validation_from, cuts.test_from, settings, horizon)
    if len(fitted.label) == 0:
        raise ArtifactError(
            "0 active customers in the validation slice, calibration needs some. Bring more history in: regulars data import"
        )
    slope, popularity, intercept = (float(v) for v in fit_logistic(np.column_stack([fitted.cosine, fitted.log_share]), fitted.label))
    tested = draw_sample(connection, model, dataset, cuts.test_from, cuts.end, settings, horizon)
    z = slope * tested.cosine + popularity * tested.log_share + intercept
    probability = 1.0 / (1.0 + np.exp(-np.clip(z, -60, 60)))
    error = metrics.ece(probability, tested.label)
    report = {
        "horizon_days": round(horizon, 3), "asked_horizon_days": settings.horizon_days, "fitted_on": len(fitted.label),
        "fitted_rate": _mean(fitted.label), "tested_on": len(tested.label), "tested_rate": _mean(tested.label),
        "stated_rate": _mean(probability), "ece": error,
    }  # fmt: skip
    return Calibration(slope=slope, popularity=popularity, intercept=intercept, horizon_days=max(1, round(horizon)), ece=error), report


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
