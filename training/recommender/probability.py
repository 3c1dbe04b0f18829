"""From the ranker's logits to a probability that the customer redeems the reward within the horizon.

Customers redeem at a rate, and the ranker says how it is shared among the rewards: log(rate) is linear in the customer's features (Poisson
regression), the share is the softmax of the redeem logits, and P(at least one redemption) = 1 - exp(-rate * share), calibrated on the
complementary log-log scale, on which it is linear. Within one customer the order of the probabilities is the ranker's order.

Fitted at moments of the validation slice for active customers, measured at moments of the later test slice. No moment looks beyond its
slice.

Letters: M customers at moments, K candidates of one, F features.
Source: thinning of a Poisson process; McCullagh and Nelder (1989) for both regressions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from scipy.optimize import minimize

from contracts.bundle import Ranking
from contracts.errors import ArtifactError
from features import asof
from training import metrics
from training.recommender.calibrate import MOMENTS, active_customers, common_horizon, fit_logistic
from training.recommender.candidates import Candidates
from training.recommender.data import DAY_S, Dataset, Log, Queries, examples_table, seen_before
from training.recommender.second_stage import viewed_after
from training.settings import TrainSettings

TOP, OTHERS = 20, 20
SHOWN = 10
RIDGE = 1.0
Score = Callable[[Queries], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Queries to the candidates' boundaries int64 (M + 1,), rows int64 (sum K,) and logits float32 (sum K, 2)."""


@dataclass(frozen=True)
class Observed:
    """Customers at moments with their candidates and what they did within the horizon.

    Attributes:
        features: float32 (M, F). count: float64 (M,), different rewards redeemed.
        log_share: float64 (R,), log softmax of the redeem logit among all candidates; view_logit: float64 (R,).
        owner: int64 (R,), the customer of each kept candidate. redeemed, viewed: bool (R,). shown: bool (R,), among the best ten.
    """

    features: np.ndarray
    count: np.ndarray
    log_share: np.ndarray
    view_logit: np.ndarray
    owner: np.ndarray
    redeemed: np.ndarray
    viewed: np.ndarray
    shown: np.ndarray


def observe(
    connection: duckdb.DuckDBPyConnection, score: Score, dataset: Dataset, views: pa.Table, begin: np.ndarray, end: np.ndarray,
    horizon_days: float, settings: TrainSettings,
) -> Observed:  # fmt: skip
    """Draw active customers at a few moments of [begin, end - horizon] of each business, and see what followed.

    Raises:
        ArtifactError: nobody was active.
    """
    queries = _queries(connection, dataset, begin, end, horizon_days, settings)
    indptr, rows, logits = score(queries)
    owner = np.repeat(np.arange(len(queries)), np.diff(indptr))
    redeemed, count = _followed(queries.log, queries, owner, rows, horizon_days)
    found = Candidates(indptr, rows, np.zeros((len(rows), 0), np.float32), redeemed)
    viewed = viewed_after(views, queries, found, horizon_days)
    log_share = log_softmax(logits[:, 0].astype(np.float64), indptr)
    place = places(logits[:, 0], indptr)
    rng = np.random.default_rng([settings.seed, int(begin.min())])
    kept = (place < TOP) | (rng.random(len(rows)) < OTHERS / np.maximum(np.diff(indptr)[owner], 1))
    return Observed(
        queries.rows.features, count, log_share[kept], logits[kept, 1].astype(np.float64), owner[kept], redeemed[kept], viewed[kept],
        place[kept] < SHOWN,
    )  # fmt: skip


def _queries(
    connection: duckdb.DuckDBPyConnection,
    dataset: Dataset,
    begin: np.ndarray,
    end: np.ndarray,
    horizon_days: float,
    settings: TrainSettings,
) -> Queries:
    log, rng = dataset.log, np.random.default_rng([settings.seed, int(begin.min())])
    people, when, business = [], [], []
    for number, name in enumerate(dataset.catalogue.businesses):
        last = max(float(begin[number]), float(end[number]) - horizon_days * DAY_S)
        for moment in np.linspace(float(begin[number]), last, MOMENTS):
            active = active_customers(connection, name, float(moment))
            kept = np.sort(rng.choice(active.num_rows, min(active.num_rows, settings.calibration_customers), replace=False))
            people.append(active.take(pa.array(kept)))
            when.append(np.full(len(kept), moment))
            business.append(np.full(len(kept), number))
    table, as_of = pa.concat_tables(people), np.concatenate(when)
    if not table.num_rows:
        raise ArtifactError("0 active customers to calibrate on, at least 1 is needed. Bring more history in: regulars data import")
    known = {key: i for i, key in enumerate(_keys(log.customers))}
    customer = np.array([known.get(k, -1) for k in _keys(table)])
    rows = asof.rows(connection, examples_table(table, np.arange(table.num_rows), as_of), dataset.vocabulary)
    seen_indptr, seen = seen_before(log, dataset.catalogue.single_use, np.maximum(customer, 0), np.where(customer < 0, -np.inf, as_of))
    none = np.zeros(table.num_rows + 1, np.int64)
    ones = np.ones(table.num_rows, np.float32)
    return Queries(customer, np.concatenate(business), as_of, rows, none, none[:0], seen_indptr, seen, ones, log)


def _keys(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["business_id"].to_pylist(), table["customer_id"].to_pylist(), strict=True))


def _followed(log: Log, queries: Queries, owner: np.ndarray, rows: np.ndarray, days: float) -> tuple[np.ndarray, np.ndarray]:
    """bool (sum K,), redeemed in [as_of, as_of + days); and how many different ones by customer, float64 (M,)."""
    out, count = np.zeros(len(rows), dtype=bool), np.zeros(len(queries))
    bounds = np.searchsorted(owner, np.arange(len(queries) + 1))
    for q in np.flatnonzero(queries.customer >= 0):
        begin, end = log.starts[queries.customer[q]], log.starts[queries.customer[q] + 1]
        a, b = begin + np.searchsorted(log.time[begin:end], [queries.as_of[q], queries.as_of[q] + days * DAY_S])
        if b > a:
            part = slice(bounds[q], bounds[q + 1])
            out[part] = np.isin(rows[part], log.item[a:b])
            count[q] = out[part].sum()
    return out, count


def log_softmax(values: np.ndarray, indptr: np.ndarray) -> np.ndarray:
    """Log of the softmax within each ragged row, float64 (sum K,)."""
    if not len(values):
        return values
    sizes = np.diff(indptr)
    begins = indptr[:-1][sizes > 0]
    top = np.repeat(np.maximum.reduceat(values, begins), sizes[sizes > 0])
    total = np.add.reduceat(np.exp(values - top), begins)
    result: np.ndarray = values - top - np.log(np.repeat(total, sizes[sizes > 0]))
    return result


def places(values: np.ndarray, indptr: np.ndarray) -> np.ndarray:
    """int64 (sum K,): 0 for the highest of each ragged row."""
    owner = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    order = np.lexsort((-values, owner))
    out = np.empty(len(values), dtype=np.int64)
    out[order] = np.arange(len(values)) - indptr[:-1][owner[order]]
    return out


def fit_rate(features: np.ndarray, count: np.ndarray, ridge: float = RIDGE, steps: int = 50) -> tuple[np.ndarray, float]:
    """Poisson regression by Newton's method with halving: weights float64 (F,) and the intercept.

    Args:
        features: float64 (M, F), standardised. count: float64 (M,).
    """
    x = np.column_stack([features, np.ones(len(features))])
    penalty = np.append(np.full(features.shape[1], ridge), 1e-6)
    w = np.zeros(x.shape[1])
    w[-1] = np.log(max(count.mean(), 1e-6))

    def loss(v: np.ndarray) -> float:
        z = np.clip(x @ v, -30.0, 30.0)
        return float(np.exp(z).sum() - count @ z + 0.5 * (penalty * v * v).sum())

    now = loss(w)
    for _ in range(steps):
        mean = np.exp(np.clip(x @ w, -30.0, 30.0))
        step = np.linalg.solve((x * mean[:, None]).T @ x + np.diag(penalty + 1e-9), x.T @ (mean - count) + penalty * w)
        scale = 1.0
        while scale > 1e-4 and loss(w - scale * step) > now:
            scale *= 0.5
        w = w - scale * step
        before, now = now, loss(w)
        if before - now < 1e-9 * max(1.0, abs(before)):
            break
    return w[:-1], float(w[-1])


def fit_cloglog(x: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Slope (positive) and intercept of P = 1 - exp(-exp(slope * x + intercept)) by maximum likelihood."""

    def loss(v: np.ndarray) -> float:
        hazard = np.exp(np.clip(np.exp(v[0]) * x + v[1], -700.0, 4.0))
        return float(hazard[~label].sum() - np.log(-np.expm1(-hazard[label]) + 1e-300).sum()) / len(label)

    start = np.array([0.0, 0.0])
    found = minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-10, "maxiter": 1000})
    return float(np.exp(np.clip(found.x[0], -7.0, 3.0))), float(found.x[1])


def fit_ranking(
    connection: duckdb.DuckDBPyConnection, score: Score, dataset: Dataset, views: pa.Table, settings: TrainSettings
) -> tuple[Ranking, dict[str, Any]]:
    """Fit on the validation slice, measure on the test slice.

    Returns:
        the calibration and a JSON-ready report: `ece` over the ten that would be shown, `ece_all` over all kept candidates.

    Raises:
        ArtifactError: nobody was active in one of the slices.
    """
    cuts = dataset.cuts
    horizon = common_horizon([*cuts.validation_from, *cuts.test_from], [*cuts.test_from, *cuts.end], settings.horizon_days)
    seen = observe(connection, score, dataset, views, cuts.validation_from, cuts.test_from, horizon, settings)
    mean, std = seen.features.mean(axis=0).astype(np.float64), seen.features.std(axis=0).astype(np.float64)
    std = np.where(std > 1e-6, std, 1.0)
    blank = Ranking(
        rate_weights=(0.0,) * len(mean), rate_intercept=0.0, feature_mean=tuple(mean.tolist()), feature_std=tuple(std.tolist()),
        temperature=1.0, slope=1.0, intercept=0.0, horizon_days=max(1, round(horizon)), ece=0.0,
    )  # fmt: skip
    weights, intercept = fit_rate(blank.standardised(seen.features), seen.count)
    rated = blank.model_copy(update={"rate_weights": tuple(weights.tolist()), "rate_intercept": intercept})
    slope, shift = fit_cloglog(rated.log_rate(seen.features)[seen.owner] + seen.log_share, seen.redeemed)
    view = fit_logistic(seen.view_logit[:, None], seen.viewed.astype(np.float64)) if seen.viewed.any() else np.array([1.0, 0.0])
    fitted = rated.model_copy(update={"slope": slope, "intercept": shift, "view_slope": float(view[0]), "view_intercept": float(view[1])})
    later = observe(connection, score, dataset, views, cuts.test_from, cuts.end, horizon, settings)
    stated = probabilities(fitted, later)
    shown = later.shown
    error = metrics.ece(stated[shown], later.redeemed[shown].astype(np.float64))
    report = {
        "horizon_days": round(horizon, 3), "asked_horizon_days": settings.horizon_days, "fitted_on": len(seen.redeemed),
        "fitted_rate": _mean(seen.redeemed), "tested_on": len(later.redeemed), "tested_rate": _mean(later.redeemed),
        "stated_rate": _mean(stated),
        "ece": error, "ece_all": metrics.ece(stated, later.redeemed.astype(np.float64)), "shown_rate": _mean(later.redeemed[shown]),
        "view_ece": _view_error(fitted, later), "slope": slope,
    }  # fmt: skip
    return fitted.model_copy(update={"ece": error}), report


def probabilities(ranking: Ranking, observed: Observed) -> np.ndarray:
    """float64 (R,), as `Ranking.probabilities` gives them."""
    z = ranking.slope * (ranking.log_rate(observed.features)[observed.owner] + observed.log_share) + ranking.intercept
    return -np.expm1(-np.exp(np.clip(z, -700.0, 4.0)))


def _view_error(ranking: Ranking, observed: Observed) -> float | None:
    if not observed.viewed.any():
        return None
    return metrics.ece(ranking.view_probabilities(observed.view_logit), observed.viewed.astype(np.float64))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
