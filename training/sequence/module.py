"""The Lightning module of the sequence model, and fitting with checkpoints: the same on a CPU, a GPU and several processes."""

from __future__ import annotations

import math
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from rich.console import Console
from torch import Tensor

from contracts.errors import ArtifactError, ConfigError
from training.recommender.fitting import LAST, Bar, Checkpoints, quiet_libraries
from training.sequence import losses
from training.sequence.data import Samples
from training.sequence.model import SequenceModel
from training.sequence.settings import SequenceSettings

DONE = "weights.pt"
Batch = dict[str, Tensor]


class SampleLoader:
    """Shuffled batches of samples with their targets; a pass's order follows from the seed and its number alone, and the place in it can be
    saved and taken up again.

    Lightning calls `set_epoch` through `sampler`, and `state_dict`/`load_state_dict` with its checkpoints.

    Args:
        rank, world: of this process; each takes every world-th batch, all take as many.
    """

    def __init__(self, samples: Samples, settings: SequenceSettings, rank: int = 0, world: int = 1) -> None:
        found = losses.targets(samples, settings.inactive_weight)
        self.arrays = {"weeks": samples.weeks, "statics": samples.statics, **found.arrays()}
        self.settings, self.rank, self.world, self.size = settings, rank, world, len(samples)
        self.epoch = self.done = self._skip = 0
        self.sampler, self.batch_sampler = self, None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._skip = int(state["done"]) % len(self)

    def __len__(self) -> int:
        return max(1, self.size // (self.settings.batch_size * self.world))

    def __iter__(self) -> Iterator[Batch]:
        order = np.random.default_rng((self.settings.seed, self.epoch)).permutation(self.size)
        self.done, self._skip = self._skip, 0
        for number in range(self.done, len(self)):
            self.done = number + 1
            begin = (number * self.world + self.rank) * self.settings.batch_size
            rows = np.sort(order[begin : begin + self.settings.batch_size])
            yield {name: torch.from_numpy(array[rows]) for name, array in self.arrays.items()}


class SequenceModule(pl.LightningModule):
    """Trains every member of a `SequenceModel` on the same batches.

    Args:
        model: with its constants set. settings: of the training. scale: typical spend of a month. season: whether the time of the year is
            learned. steps: of the whole run, for the learning rate.
    """

    def __init__(self, model: SequenceModel, settings: SequenceSettings, scale: float, season: bool, steps: int) -> None:
        super().__init__()
        self.model, self.settings, self.scale, self.season, self.steps = model, settings, scale, season, steps

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout follows from the step alone, so a resumed run goes on exactly as the uninterrupted one would have.
        torch.manual_seed(self.settings.seed * 1_000_003 + self.global_step * 1_009 + self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        model = self.model
        weeks, statics, prior = model.standardise(batch["weeks"], batch["statics"])
        phases = model.phases(batch["statics"]) * float(self.season)
        total = torch.zeros((), device=self.device)
        for member in model.networks():
            logits = member.decide(member.encode(weeks), statics, phases, prior).float()
            parts = losses.loss(model, logits, batch, self.scale)
            parts["tweedie"] = parts["tweedie"] * self.settings.tweedie_weight
            total = total + torch.stack(list(parts.values())).sum()
        mean = total.detach() / len(model.networks())
        self.log("train_loss", mean, on_step=False, on_epoch=True, batch_size=len(batch["weeks"]), sync_dist=True)
        return total

    def configure_optimizers(self) -> Any:
        """AdamW without decay of biases; a rise, then a cosine down to nothing. The explainer is taught later."""
        trained = [p for name, p in self.model.named_parameters() if not name.startswith("explainer")]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self.settings.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.settings.learning_rate)
        warmup = max(1, int(self.steps * self.settings.warmup_share))

        def rate(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, self.steps - warmup))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Keeper(Checkpoints):
    """Checkpoints, and loss and seconds of each pass."""

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = list(state_dict["history"])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss, seconds = float(trainer.callback_metrics["train_loss"]), round(time.monotonic() - self.started, 3)
        self.history.append({"epoch": float(trainer.current_epoch), "train_loss": loss, "seconds": seconds})
        self.end_epoch(trainer)


class Progress(Bar):
    """The recommender's bar, with a line for each pass that says what this one measures."""

    def __init__(self, console: Console, epochs: int, keeper: Keeper, what: str) -> None:
        super().__init__(console, epochs, keeper)
        self.what = what

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss = float(trainer.callback_metrics.get("train_loss", float("nan")))
        seconds = time.monotonic() - self.keeper.started
        self.console.print(f"{self.what}: pass {trainer.current_epoch + 1}/{self.epochs}, loss {loss:.4f}, {seconds:.0f} s")


def fit(
    model: SequenceModel, samples: Samples, settings: SequenceSettings, season: bool, folder: Path, console: Console, stop: threading.Event,
    what: str,
) -> list[dict[str, float]]:  # fmt: skip
    """Train in place, from `folder/last.ckpt` where there is one; nothing is done where `folder/weights.pt` is there. Returns the passes.

    Raises:
        Interrupted: `stop` was set; `folder/last.ckpt` is there to go on.
        ConfigError: a GPU was asked for and there is none.
        ArtifactError: training diverged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done, last = folder / DONE, folder / LAST
    if done.is_file():
        kept = torch.load(done, weights_only=True, map_location="cpu")
        model.load_state_dict(kept["model"])
        model.eval()
        return [dict(row) for row in kept["history"]]
    quiet_libraries()
    pl.seed_everything(settings.seed, verbose=False)
    gpu = settings.accelerator == "gpu" or (settings.accelerator == "auto" and torch.cuda.is_available())
    if gpu and not torch.cuda.is_available():
        raise ConfigError(
            "accelerator is gpu, this machine offers torch no CUDA device. Use --accelerator cpu or auto, or repair the driver."
        )
    epochs, keeper = settings.epochs_for(len(samples)), Keeper(folder, stop)
    trainer = pl.Trainer(
        accelerator="gpu" if gpu else "cpu", devices=settings.devices, strategy="ddp" if settings.devices > 1 else "auto",
        precision="bf16-mixed" if gpu else "32-true", max_epochs=epochs, gradient_clip_val=settings.gradient_clip,
        callbacks=[Progress(console, epochs, keeper, what), keeper], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False, default_root_dir=folder,
    )  # fmt: skip
    loader = SampleLoader(samples, settings, trainer.global_rank, trainer.world_size)
    spend = samples.monthly_spend[samples.monthly_purchases & (samples.monthly_spend > 0)]
    module = SequenceModule(model, settings, float(spend.mean()) if len(spend) else 1.0, season, epochs * len(loader))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch")  # advice on loaders, devices and logging
        trainer.fit(module, loader, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
    if not trainer.is_global_zero:
        raise SystemExit(0)  # the first process goes on
    model.cpu().eval()
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise ArtifactError(
            f"the weights are no numbers after {len(keeper.history)} passes: training diverged. Lower REGULARS_SEQUENCE_LEARNING_RATE "
            "and start anew with --fresh."
        )
    temporary = folder / f"{DONE}.tmp"
    torch.save({"model": model.state_dict(), "history": keeper.history}, temporary)
    temporary.replace(done)
    return keeper.history
