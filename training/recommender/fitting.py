"""Fitting the towers: checkpoints, progress, early stopping, and going on after an interruption at any step."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from contracts.errors import ConfigError
from features.definitions import KIND_COUNT
from training.recommender import data
from training.recommender.model import ModelConfig, TwoTower
from training.recommender.module import Recommender
from training.settings import TrainSettings

LAST, BEST = "last.ckpt", "best.pt"


class Interrupted(Exception):  # noqa: N818 - not an error: the user asked for it
    """Ctrl-C, after the checkpoint was written."""


class Checkpoints(pl.Callback):
    """A checkpoint to go on from, after each epoch and when the user asked to stop.

    Attributes:
        folder: for `last.ckpt`. stop: set when the user asked to stop. history: a row for each epoch. started: for the seconds in it.
    """

    def __init__(self, folder: Path, stop: threading.Event) -> None:
        self.folder, self.stop, self.history, self.started = folder, stop, list[dict[str, float]](), time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        # After the last step of an epoch its end stops the run: else the epoch would be neither measured nor recorded.
        if self._asked(trainer) and batch_idx + 1 < int(trainer.num_training_batches):
            self._save(trainer)
            raise Interrupted

    def end_epoch(self, trainer: pl.Trainer) -> None:
        """Write the checkpoint; stop here when that was asked for."""
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


class Keeper(Checkpoints):
    """Also keeps the best weights, and stops when they get no better.

    Args:
        folder: for `last.ckpt` (everything to go on) and `best.pt` (weights only).
        patience: epochs without a better `val_ndcg`.
        stop: set when the user asked to stop.
    """

    def __init__(self, folder: Path, patience: int, stop: threading.Event) -> None:
        super().__init__(folder, stop)
        self.patience, self.best, self.bad = patience, -1.0, 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "bad": self.bad, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.bad, self.history = state_dict["best"], state_dict["bad"], list(state_dict["history"])

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
                _replace(self.folder / BEST, lambda path: torch.save(weights_of(model), path))
        seconds = round(time.monotonic() - self.started, 3)
        self.history.append({"epoch": float(trainer.current_epoch), **values, "seconds": seconds, "scale": float(model.scale.detach())})
        if self.bad >= self.patience:
            trainer.should_stop = True
        self.end_epoch(trainer)


class Bar(pl.Callback):
    """One line of progress on the console, and one line for each finished epoch."""

    def __init__(self, console: Console, epochs: int, keeper: Checkpoints) -> None:
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


def weights_of(model: TwoTower) -> dict[str, torch.Tensor]:
    return {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    temporary = path.with_suffix(path.suffix + ".tmp")
    write(temporary)
    temporary.replace(path)


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
    quiet_libraries()
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
    keeper, epochs = Keeper(folder, settings.patience, stop), settings.epochs_for(len(dataset.train))
    trainer = pl.Trainer(
        accelerator="gpu" if gpu else "cpu", devices=settings.devices, strategy="ddp" if settings.devices > 1 else "auto",
        precision="bf16-mixed" if gpu else "32-true", max_epochs=epochs, gradient_clip_val=settings.gradient_clip,
        callbacks=[Bar(console, epochs, keeper), keeper], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False, default_root_dir=folder,
    )  # fmt: skip
    rank, world = trainer.global_rank, trainer.world_size
    shown = data.with_unknown(dataset.train, settings.cold_share, settings.seed)
    train = data.BatchLoader(shown, settings.batch_size, settings.seed, True, settings.max_positives, rank=rank, world=world)
    validation = data.BatchLoader(dataset.validation, 2 * settings.batch_size, rank=rank, world=world)
    popularity = np.bincount(dataset.train.items, minlength=len(dataset.catalogue)).astype(np.float64)
    config = ModelConfig(
        len(dataset.vocabulary), KIND_COUNT, settings.width, settings.heads, settings.layers, settings.dropout, settings.id_dropout
    )
    module = Recommender(config, settings, dataset.catalogue, popularity, epochs * len(train))
    module.fit_features(dataset.train)
    return trainer, module, keeper, (train, validation)


def quiet_libraries() -> None:
    """Lightning's notices are not for the user of a command."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
