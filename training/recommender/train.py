"""The training run: data, fit, evaluation, calibration, record. Interruptible at any step, and taken up where it stopped."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from contracts.bundle import MODEL_NAME, Calibration
from contracts.errors import ArtifactError, ConfigError
from contracts.paths import Home
from features.definitions import KIND_COUNT
from features.rewards import texts
from training.recommender import calibrate, data, evaluate, next_offer
from training.recommender.model import ModelConfig, TwoTower
from training.recommender.module import Recommender
from training.registry import Registry, code_version
from training.settings import TrainSettings
from warehouse.store import Warehouse

Embed = Callable[[list[str]], np.ndarray]
"""Texts to float32 (N, 384); given by the caller, so that training does not depend on how texts are embedded."""
LAST, BEST = "last.ckpt", "best.pt"


class Interrupted(Exception):  # noqa: N818 - not an error: the user asked for it
    """Ctrl-C, after the checkpoint was written."""


@dataclass(frozen=True)
class TrainResult:
    """What a run gave: its id, its folder of artifacts and its metrics (JSON-ready)."""

    run_id: str
    metrics: dict[str, Any]


class Keeper(pl.Callback):
    """Checkpoints after each epoch and on interruption, keeps the best weights, and stops when they get no better.

    Args:
        folder: for `last.ckpt` (everything to go on) and `best.pt` (weights only).
        patience: epochs without a better `val_ndcg`.
        stop: set when the user asked to stop.
    """

    def __init__(self, folder: Path, patience: int, stop: threading.Event) -> None:
        self.folder, self.patience, self.stop = folder, patience, stop
        self.best, self.bad, self.history = -1.0, 0, list[dict[str, float]]()
        self.started = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "bad": self.bad, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.bad, self.history = state_dict["best"], state_dict["bad"], list(state_dict["history"])

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._asked(trainer):
            self._save(trainer)
            raise Interrupted

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        values: dict[str, float] = {
            k: float(trainer.callback_metrics[k]) for k in ("train_loss", "val_ndcg") if k in trainer.callback_metrics
        }
        score = values.get("val_ndcg", 0.0)
        self.bad = 0 if score > self.best else self.bad + 1
        assert isinstance(pl_module, Recommender)  # noqa: S101 - only ours are trained here
        model = pl_module.model
        if score > self.best:
            self.best = score
            if trainer.is_global_zero:
                _replace(self.folder / BEST, lambda path: torch.save(_weights(model), path))
        seconds = round(time.monotonic() - self.started, 3)
        self.history.append({"epoch": float(trainer.current_epoch), **values, "seconds": seconds, "scale": float(model.scale.detach())})
        if self.bad >= self.patience:
            trainer.should_stop = True
        self._save(trainer)
        if self._asked(trainer):
            raise Interrupted

    def _asked(self, trainer: pl.Trainer) -> bool:
        """Whether any process was asked to stop: all have to write the checkpoint at the same step."""
        asked = self.stop.is_set()
        return asked if trainer.world_size == 1 else bool(trainer.strategy.reduce_boolean_decision(asked, all=False))

    def _save(self, trainer: pl.Trainer) -> None:
        temporary = self.folder / f"{LAST}.tmp"
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            temporary.replace(self.folder / LAST)


class Bar(pl.Callback):
    """One line of progress on the console, and one line for each finished epoch."""

    def __init__(self, console: Console, epochs: int, keeper: Keeper) -> None:
        self.console, self.epochs, self.keeper = console, epochs, keeper
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        total = self.epochs * int(trainer.num_training_batches)
        self.progress.start()
        self.task = self.progress.add_task("training", total=total, completed=trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.progress.update(self.task, completed=trainer.global_step)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss, score = (float(trainer.callback_metrics.get(k, float("nan"))) for k in ("train_loss", "val_ndcg"))
        self.console.print(
            f"epoch {trainer.current_epoch + 1}/{self.epochs}: loss {loss:.4f}, validation NDCG@10 {score:.4f}, "
            f"{time.monotonic() - self.keeper.started:.0f} s"
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.progress.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.progress.stop()


def _weights(model: TwoTower) -> dict[str, torch.Tensor]:
    return {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    temporary = path.with_suffix(path.suffix + ".tmp")
    write(temporary)
    temporary.replace(path)


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """The first Ctrl-C asks the run to stop at the next step; the second one is an ordinary one."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass
class Fitted:
    """A trained model, and the record of its epochs."""

    model: TwoTower
    history: list[dict[str, float]] = field(default_factory=list)
    resumed: bool = False


def fit(dataset: data.Dataset, settings: TrainSettings, folder: Path, console: Console, stop: threading.Event | None = None) -> Fitted:
    """Train on a dataset, from `folder/last.ckpt` where there is one.

    Args:
        folder: for checkpoints; kept by the caller until the run is recorded.
        stop: set it to end at the next step, with a checkpoint.

    Raises:
        Interrupted: `stop` was set; `folder/last.ckpt` is there to go on.
        ConfigError: a GPU was asked for and there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _quiet_libraries()
    trainer, module, keeper, loaders = _prepare(dataset, settings, folder, console, stop or threading.Event())
    last = folder / LAST
    resumed = last.is_file()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch")  # advice on loaders, devices and logging
        trainer.fit(module, *loaders, ckpt_path=str(last) if resumed else None, weights_only=True)
    if not trainer.is_global_zero:
        raise SystemExit(0)  # the first process evaluates and records
    model = TwoTower(module.model.config)
    model.load_state_dict(torch.load(folder / BEST, weights_only=True, map_location="cpu"))
    return Fitted(model.eval(), keeper.history, resumed)


def _prepare(
    dataset: data.Dataset, settings: TrainSettings, folder: Path, console: Console, stop: threading.Event
) -> tuple[pl.Trainer, Recommender, Keeper, tuple[data.BatchLoader, data.BatchLoader]]:
    pl.seed_everything(settings.seed, verbose=False)
    gpu = settings.accelerator == "gpu" or (settings.accelerator == "auto" and torch.cuda.is_available())
    if gpu and not torch.cuda.is_available():
        raise ConfigError(
            "accelerator is gpu, this machine offers torch no CUDA device. Use --accelerator cpu or auto, or repair the driver."
        )
    keeper = Keeper(folder, settings.patience, stop)
    trainer = pl.Trainer(
        accelerator="gpu" if gpu else "cpu", devices=settings.devices, strategy="ddp" if settings.devices > 1 else "auto",
        precision="bf16-mixed" if gpu else "32-true", max_epochs=settings.epochs, gradient_clip_val=settings.gradient_clip,
        callbacks=[Bar(console, settings.epochs, keeper), keeper], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False, default_root_dir=folder,
    )  # fmt: skip
    rank, world = trainer.global_rank, trainer.world_size
    shown = data.blanked(dataset.train, settings.cold_share, settings.seed)
    train = data.BatchLoader(shown, settings.batch_size, settings.seed, True, settings.max_positives, rank=rank, world=world)
    validation = data.BatchLoader(dataset.validation, 2 * settings.batch_size, rank=rank, world=world)
    popularity = np.bincount(dataset.train.items, minlength=len(dataset.catalogue)).astype(np.float64)
    config = ModelConfig(
        len(dataset.vocabulary), KIND_COUNT, settings.width, settings.heads, settings.layers, settings.dropout, settings.id_dropout
    )
    module = Recommender(config, settings, dataset.catalogue, popularity, settings.epochs * len(train))
    module.fit_features(dataset.train)
    return trainer, module, keeper, (train, validation)


def _quiet_libraries() -> None:
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)


def train_recommender(home: Home, settings: TrainSettings, embed: Embed, console: Console, fresh: bool = False) -> TrainResult:
    """Train on the home's warehouse, evaluate on its last part and record the run.

    An unfinished run with the same settings on the same data goes on where it stopped, unless `fresh`. The evaluated model is the one
    that is recorded and served: it is not trained again on the later slices, so that its figures are its own.

    Raises:
        KeyboardInterrupt: interrupted; a checkpoint was written and the console says how to go on.
        ArtifactError: the warehouse lacks rewards or redemptions.
    """
    torch.set_num_threads(settings.threads or _default_threads())
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
    with _stop_on_signal() as stop:
        try:
            fitted = fit(dataset, settings, folder, console, stop)
        except Interrupted:
            console.print(f"Stopped; checkpoint in {folder}. Run the same command again to go on, with --fresh to start anew.")
            raise KeyboardInterrupt from None
    trained = time.monotonic() - began
    with console.status("evaluating on the test slice"):
        calibration, report = calibrate.calibrate(connection, fitted.model, dataset, settings)
        shares = calibrate.redeemer_shares(connection, dataset.catalogue, dataset.log, dataset.cuts.test_from)[1]
        log_share = np.log(shares + 1e-6)
        result = evaluate.evaluate(fitted.model, dataset, settings.bootstrap, settings.seed, calibration, log_share)
    result["calibration"] = report
    offers = next_offer.fit_next_offer(connection, fitted.model, dataset, settings, console)
    result["next_offer"] = offers.report
    result["training"] = _facts(fitted, dataset, trained)
    with console.status("recording the run"):
        _write_artifacts(
            folder / "artifacts", fitted, dataset, calibration, settings, redeemer_columns(warehouse, connection, dataset), result
        )
        offers.save(folder / "artifacts")
        run_id = _record(home, settings, folder / "artifacts", version, fitted, result)
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


def _default_threads() -> int:
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
    folder: Path,
    fitted: Fitted,
    dataset: data.Dataset,
    calibration: Calibration,
    settings: TrainSettings,
    rewards: pa.Table,
    result: dict[str, Any],
) -> None:
    """The files of `training.registry.RUN_FILES`."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(_weights(fitted.model), folder / "checkpoint.pt")
    (folder / "model.json").write_text(json.dumps(fitted.model.config.as_dict()), encoding="utf-8")
    dataset.vocabulary.save(folder / "vocabulary.json")
    (folder / "calibration.json").write_text(calibration.model_dump_json(), encoding="utf-8")
    pq.write_table(rewards, folder / "rewards.parquet")
    np.save(folder / "text_vectors.npy", dataset.catalogue.text_vectors)
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
    except (OSError, ValueError, TypeError, RuntimeError) as exc:
        raise ArtifactError(f"cannot read the model in {folder}: {exc}. Train again: regulars train recommender") from exc
    return model.eval()
