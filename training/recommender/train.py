"""The training run: data, both stages, next offer, evaluation, record. Interruptible at any step, and taken up where it stopped."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console

from contracts.bundle import MODEL_NAME, Calibration
from contracts.errors import ArtifactError
from contracts.paths import Home
from contracts.runs import stop_on_signal
from features.rewards import texts
from training.recommender import calibrate, data, evaluate, next_offer
from training.recommender.fitting import LAST, Fitted, Interrupted, fit, weights_of
from training.recommender.model import ModelConfig, TwoTower
from training.recommender.ranker import save_ranker
from training.recommender.system import System, fit_second, served_statistics
from training.registry import Registry, code_version
from training.settings import TrainSettings
from warehouse.store import Warehouse

__all__ = ["Fitted", "Interrupted", "TrainResult", "fit", "load_model", "train_recommender"]

Embed = Callable[[list[str]], np.ndarray]
"""Texts to float32 (N, 384); given by the caller, so that training does not depend on how texts are embedded."""


@dataclass(frozen=True)
class TrainResult:
    """What a run gave: its id, its folder of artifacts and its metrics (JSON-ready)."""

    run_id: str
    metrics: dict[str, Any]


def train_recommender(home: Home, settings: TrainSettings, embed: Embed, console: Console, fresh: bool = False) -> TrainResult:
    """Train on the home's warehouse, evaluate on its last part and record the run.

    An unfinished run with the same settings on the same data goes on where it stopped, unless `fresh`. The evaluated model is the one
    that is recorded and served: it is not trained again on the later slices, so that its figures are its own.

    Raises:
        KeyboardInterrupt: interrupted; a checkpoint was written and the console says how to go on.
        ArtifactError: the warehouse lacks rewards or redemptions.
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
    connection = warehouse.connect()
    table = data.load_catalogue(connection)
    with console.status("reading the history"):
        dataset = data.build(connection, table, embed(texts(table)), settings)
    _say(console, dataset, settings)
    if (folder / LAST).is_file():
        console.print("An unfinished run with these settings and data is there: going on from its checkpoint (--fresh starts anew).")
    with stop_on_signal() as stop:
        try:
            fitted = fit(dataset, settings, folder, console, stop)
            towers = time.monotonic() - began
            system = fit_second(connection, dataset, settings, fitted.model, console, stop)
        except Interrupted:
            console.print(f"Stopped; checkpoint in {folder}. Run the same command again to go on, with --fresh to start anew.")
            raise KeyboardInterrupt from None
    trained = time.monotonic() - began
    with console.status("evaluating on the test slice"):
        calibration, retrieval = calibrate.calibrate(connection, fitted.model, dataset, settings)
        result = evaluate.evaluate(fitted.model, dataset, settings.bootstrap, settings.seed, system)
    result["calibration"] = system.report["calibration"]
    result["retrieval_calibration"] = retrieval
    result["ranker"] = {k: v for k, v in system.report.items() if k not in ("calibration", "ece")}
    result["training"] = _facts(fitted, dataset, trained) | {"towers_seconds": round(towers, 1)}
    offers = next_offer.fit_next_offer(connection, fitted.model, dataset, settings, console)
    result["next_offer"] = offers.report
    artifacts = folder / "artifacts"
    with console.status("recording the run"):
        rewards = redeemer_columns(warehouse, connection, dataset)
        _write_artifacts(artifacts, fitted, system, calibration, offers, rewards, result)
        run_id = _record(home, settings, artifacts, version, fitted, result)
    shutil.rmtree(folder, ignore_errors=True)
    return TrainResult(run_id, result)


def _facts(fitted: Fitted, dataset: data.Dataset, seconds: float) -> dict[str, Any]:
    moments = (dataset.cuts.validation_from.max(), dataset.cuts.test_from.max())
    return {
        "epochs": len(fitted.history),
        "best_validation_ndcg@10": max(h.get("val_ndcg", 0.0) for h in fitted.history),
        "seconds": round(seconds, 1),
        "queries": len(dataset.train),
        "queries_available": dataset.available["train"],
        "resumed": fitted.resumed,
        "cuts": [datetime.fromtimestamp(float(m), UTC).isoformat() for m in moments],
    }


def default_threads() -> int:
    """One less than the cores, 4 at most.

    Torch's threads wait for each other by spinning: with as many threads as cores and one other busy process, a step took about eight times
    as long as with one thread (measured on 2 cores). The model is too small to gain from more than 4.
    """
    return min(4, max(1, len(os.sched_getaffinity(0)) - 1 if hasattr(os, "sched_getaffinity") else 1))


def _say(console: Console, dataset: data.Dataset, settings: TrainSettings) -> None:
    """What is trained on, and what was left out."""
    for name, queries in (("train", dataset.train), ("validation", dataset.validation), ("test", dataset.test)):
        whole = dataset.available[name]
        cut = f" of {whole:,} (capped; see max_examples, max_per_customer, max_validation, max_test)" if len(queries) < whole else ""
        console.print(f"{name}: {len(queries):,} queries{cut}")
    kind = "full softmax" if len(dataset.catalogue) <= settings.full_softmax_items else "sampled softmax"
    console.print(f"{len(dataset.catalogue):,} rewards, {kind}; {len(dataset.vocabulary):,} tokens")


def redeemer_columns(warehouse: Warehouse, connection: Any, dataset: data.Dataset) -> pa.Table:
    """The catalogue with `redemptions` and `redeemer_share` of the 90 days up to the newest row of each business."""
    latest = dataset.cuts.end.copy()
    for number, name in enumerate(dataset.catalogue.businesses):
        latest[number] = max(latest[number], warehouse.as_of(name).timestamp())
    counts, share = calibrate.redeemer_shares(connection, dataset.catalogue, dataset.log, latest + 1e-6)
    table = dataset.catalogue.table
    return table.append_column("redemptions", pa.array(counts.astype(np.int64))).append_column("redeemer_share", pa.array(share))


def _write_artifacts(
    folder: Path, fitted: Fitted, system: System, calibration: Calibration, offers: next_offer.NextOffer, rewards: pa.Table,
    result: dict[str, Any],
) -> None:  # fmt: skip
    """The files of `training.registry.RUN_FILES`."""
    assert system.ranking is not None  # noqa: S101 - a run is cut by time
    folder.mkdir(parents=True, exist_ok=True)
    dataset, settings = system.dataset, system.settings
    torch.save(weights_of(fitted.model), folder / "checkpoint.pt")
    (folder / "model.json").write_text(json.dumps(fitted.model.config.as_dict()), encoding="utf-8")
    dataset.vocabulary.save(folder / "vocabulary.json")
    (folder / "calibration.json").write_text(calibration.model_dump_json(), encoding="utf-8")
    pq.write_table(rewards, folder / "rewards.parquet")
    np.save(folder / "text_vectors.npy", dataset.catalogue.text_vectors)
    save_ranker(system.ranker, folder)
    (folder / "ranking.json").write_text(system.ranking.model_dump_json(), encoding="utf-8")
    np.savez(folder / "item_stats.npz", allow_pickle=False, **served_statistics(dataset, settings, system.report["ease_ridge"]).arrays())
    offers.save(folder)
    (folder / "settings.json").write_text(json.dumps(settings.public()), encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(result), encoding="utf-8")


def _record(home: Home, settings: TrainSettings, folder: Path, version: str, fitted: Fitted, result: dict[str, Any]) -> str:
    final = {f"{method}/{name}": value["value"] for method, values in result["methods"].items() for name, value in values.items()}
    final["ece"] = result["calibration"]["ece"]
    final["lift_over_popularity"] = result["lift"]["popularity"]["ratio"]["value"]
    tags = {"data_version": version, "code_version": code_version(), "as_of": result["training"]["cuts"][0]}
    return Registry(home, settings.tracking_uri).log_run(MODEL_NAME, folder, settings.public(), tags, fitted.history, final)


def load_model(folder: Path) -> TwoTower:
    """The trained model of a run's artifacts, in eval mode.

    Raises:
        ArtifactError: the files are missing or do not match each other.
    """
    try:
        config = ModelConfig(**json.loads((folder / "model.json").read_text(encoding="utf-8")))
        model = TwoTower(config)
        model.load_state_dict(torch.load(folder / "checkpoint.pt", weights_only=True, map_location="cpu"))
    except Exception as exc:  # a damaged file raises whatever its bytes lead to: an unpickling error, EOFError, KeyError, ...
        why = str(exc).partition(". ")[0]  # torch goes on with advice to load it unsafely
        raise ArtifactError(f"cannot read the model in {folder}: {why}. Train again: regulars train recommender") from exc
    return model.eval()
