"""The training run of the sequence model: samples, both fits, attributions, record. Interrupted, it is taken up where it stopped."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table

from contracts.paths import Home
from contracts.runs import stop_on_signal
from contracts.sequence import MODEL_NAME, BaseRates, ChurnDefinition, Forecasting
from features import weekly
from training.recommender.fitting import Interrupted
from training.recommender.train import default_threads
from training.registry import Registry, code_version
from training.sequence import artifacts, data, fit
from training.sequence.artifacts import Trained
from training.sequence.data import Samples, midnight
from training.sequence.fit import Fitted
from training.sequence.model import LEVEL, FactorsModel
from training.sequence.settings import SequenceSettings
from warehouse.store import Warehouse

NEW_DAYS = 30
LEAST_NEW = 50
CLV_PERCENTILES = (50, 80, 95)


@dataclass(frozen=True)
class TrainResult:
    """What a run gave: its id and its metrics (JSON-ready)."""

    run_id: str
    metrics: dict[str, Any]


def train_sequence(home: Home, settings: SequenceSettings, console: Console, fresh: bool = False) -> TrainResult:
    """Train on the home's warehouse, calibrate and measure on its later slice, and record the run.

    An unfinished run with the same settings on the same data goes on where it stopped, unless `fresh`.

    Raises:
        KeyboardInterrupt: interrupted; checkpoints were written and the console says how to go on.
        ArtifactError: too little history.
    """
    torch.set_num_threads(settings.threads or default_threads())
    began = time.monotonic()
    warehouse = Warehouse(home.warehouse)
    version = warehouse.data_version()
    folder = home.mlruns / "unfinished" / settings.fingerprint(version)
    main = getattr(rank_zero_only, "rank", 0) in (None, 0)  # Lightning starts the other DDP processes with this same command
    console.quiet = console.quiet or not main
    if fresh and main:
        shutil.rmtree(folder, ignore_errors=True)
    with warehouse.connect() as connection, stop_on_signal() as stop:
        try:
            end = data.span(connection)[1]
            fitted = fit.fit_history(connection, end, settings, console, folder, stop)
        except Interrupted:
            console.print(f"Stopped; checkpoints in {folder}. Run the same command again to go on, with --fresh to start anew.")
            raise KeyboardInterrupt from None
    with console.status("teaching the quick attributions"):
        trained, agreement = finish(fitted, settings)
    metrics = {
        "as_of": f"{midnight(end):%Y-%m-%d}",
        "customers": len(fitted.now),
        "samples": len(fitted.train),
        "passes": len(fitted.history),
        "slice": fitted.slice_report,
        "same_top_factor": agreement,
        "reference_churn": float(trained.model.reference_churn),
        "seconds": round(time.monotonic() - began, 1),
    }
    with console.status("recording the run"):
        artifacts.save(folder / "artifacts", trained, settings.public(), metrics)
        final = {k: v for k, v in fitted.slice_report.items() if isinstance(v, float) and np.isfinite(v)} | {"same_top_factor": agreement}
        tags = {"data_version": version, "code_version": code_version(), "as_of": midnight(end).isoformat()}
        run_id = Registry(home, settings.tracking_uri).log_run(
            MODEL_NAME, folder / "artifacts", settings.public(), tags, fitted.history, final
        )
    shutil.rmtree(folder, ignore_errors=True)
    return TrainResult(run_id, metrics)


def finish(fitted: Fitted, settings: SequenceSettings) -> tuple[Trained, float]:
    """Reference customer, quick attributions and the record `forecast.json` of a fitted model.

    Returns:
        the run's models, and how often the quick attributions name the same largest factor as the exact ones.
    """
    now = fitted.now
    rows = np.flatnonzero(now.active) if now.active.any() else np.arange(len(now))
    reference = torch.from_numpy(now.weeks[rows].mean(0)), torch.from_numpy(now.statics[rows].mean(0))
    factors = FactorsModel(fitted.model, *reference).eval()
    agreement = fit.explain(fitted.model, factors, now.take(rows), settings.explained, settings.seed)
    outputs = fitted.predict(now)
    report = fitted.slice_report
    forecasting = Forecasting(
        definition=ChurnDefinition(silent_days=data.ACTIVE_DAYS),
        reference_statics=tuple(float(v) for v in reference[1]),
        base_rates=_by_business(now, lambda at: _base_rates(now, outputs, at)),
        clv_cuts=_by_business(now, lambda at: _cuts(outputs["spend"][at].sum(1, dtype=np.float64))),
        interval_level=LEVEL,
        ece=_finite(report.get("ece"), 1.0),
        interval_coverage=_finite(report.get("coverage"), None),
        spend_months_seen=max(1, int(fitted.train.months_seen.max())),
    )
    return Trained(fitted.model, factors, forecasting), agreement


def _finite(value: Any, other: Any) -> Any:
    return value if isinstance(value, float) and np.isfinite(value) else other


def _by_business(samples: Samples, of: Any) -> dict[str, Any]:
    """`of(rows)` for each business, and for all of them under ""."""
    names = samples.customers["business_id"].combine_chunks()
    mine = np.asarray(pc.index_in(names, names.unique()))[samples.customer]
    found = {name: of(np.flatnonzero(mine == i)) for i, name in enumerate(names.unique().to_pylist()) if (mine == i).any()}
    return found | {"": of(np.arange(len(samples)))}


def _base_rates(samples: Samples, outputs: Mapping[str, np.ndarray], rows: np.ndarray) -> BaseRates:
    """Means over the newest customers: those whose first purchase is at most 30 days old, or the newest 50."""
    since = samples.statics[rows, weekly.STATICS.index("days_since_first_purchase")]
    new = rows[since <= np.log1p(NEW_DAYS)]
    if len(new) < LEAST_NEW:
        new = rows[np.argsort(since, kind="stable")[:LEAST_NEW]]
    means = {name: outputs[name][new].mean(0, dtype=np.float64).tolist() for name in BaseRates.model_fields}
    return BaseRates(**means)


def _cuts(clv: np.ndarray) -> tuple[float, float, float]:
    low, middle, high = (float(v) for v in np.percentile(clv, CLV_PERCENTILES))
    return low, middle, high


def table(metrics: Mapping[str, Any]) -> Table:
    """What the later slice showed, for the terminal."""
    out = Table(title="On the later slice, by a model that was not trained on it", title_justify="left", show_header=False)
    out.add_column()
    out.add_column(justify="right")
    report = metrics["slice"]
    for name, key in (
        ("churned within 90 days", "churned"), ("AUC", "auc"), ("expected calibration error", "ece"),
        ("spend, predicted / actual - 1", "bias"), ("inside the 80 % interval", "coverage"),
    ):  # fmt: skip
        out.add_row(name, f"{report[key]:.3f}" if key in report else "history too short")
    out.add_row("quick and exact attributions name the same factor", f"{metrics['same_top_factor']:.1%}")
    return out
