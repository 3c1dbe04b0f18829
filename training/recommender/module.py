"""The Lightning module: one step of training and one of validation, the same on a CPU, a GPU and several processes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from training import metrics
from training.recommender import losses
from training.recommender.data import Catalogue, Queries
from training.recommender.model import ModelConfig, TwoTower
from training.settings import TrainSettings

TOP = 10
Batch = dict[str, Tensor]


class Recommender(pl.LightningModule):
    """Trains a `TwoTower` on a catalogue.

    Args:
        config: sizes of the model.
        settings: of the training process.
        catalogue: all rewards; the item tower runs over all of them (or the sampled ones) at every step.
        popularity: float64 (N,), how often each reward was redeemed in the training queries, for the sampling of negatives.
        steps: optimiser steps of the whole run, for the learning rate.
    """

    item_ids: Tensor
    attributes: Tensor
    texts: Tensor
    item_business: Tensor
    valid_from: Tensor
    valid_to: Tensor
    draw: Tensor
    in_batch: Tensor

    def __init__(self, config: ModelConfig, settings: TrainSettings, catalogue: Catalogue, popularity: np.ndarray, steps: int) -> None:
        super().__init__()
        self.settings, self.steps = settings, steps
        self.model = TwoTower(config)
        self.model.item.standardise.set(*_moments(catalogue.attributes))
        self._constant("item_ids", torch.from_numpy(catalogue.item_ids))
        self._constant("attributes", torch.from_numpy(catalogue.attributes))
        self._constant("texts", torch.from_numpy(catalogue.text_vectors))
        self._constant("item_business", torch.from_numpy(catalogue.business))
        self._constant("valid_from", torch.tensor(catalogue.valid_from))
        self._constant("valid_to", torch.tensor(catalogue.valid_to))
        share = (popularity + 1.0) ** 0.75
        self._constant("draw", torch.from_numpy(share / share.sum()).float())
        self._constant("in_batch", torch.from_numpy(popularity / max(popularity.sum(), 1.0)).float())
        self._vectors: Tensor | None = None

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    def fit_features(self, queries: Queries) -> None:
        """Take mean and deviation of the customer features from the training queries."""
        self.model.user.standardise.set(*_moments(queries.rows.features))

    @property
    def sampled(self) -> bool:
        return len(self.item_ids) > self.settings.full_softmax_items

    def candidates(self, batch: Batch, rows: Tensor | None = None) -> Tensor:
        """bool (B, N): as `Queries.candidates`, on the device; for some rows of the catalogue only where given."""
        pick: Any = slice(None) if rows is None else rows
        as_of = batch["as_of"][:, None]
        mine = self.item_business[None, pick] == batch["business"][:, None]
        out = mine & (self.valid_from[None, pick] <= as_of) & (as_of <= self.valid_to[None, pick])
        numbers = torch.arange(len(self.item_ids), device=out.device) if rows is None else rows
        for column in batch["seen"].unbind(dim=1) if bool((batch["seen"] >= 0).any()) else ():
            out &= numbers[None, :] != column[:, None]
        return out

    def item_vectors(self, rows: Tensor | None = None) -> Tensor:
        """float (N, D), of all rewards or of some rows."""
        pick: Any = slice(None) if rows is None else rows
        return self.model.item(self.model.hide_ids(self.item_ids[pick]), self.attributes[pick], self.texts[pick])

    def user_vectors(self, batch: Batch) -> Tensor:
        """float (B, D)."""
        return self.model.user(batch["sequence_ids"], batch["sequence_values"], batch["features"])

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout follows from the step alone, so a resumed run goes on exactly as the uninterrupted one would have.
        torch.manual_seed(self.settings.seed * 1_000_003 + self.global_step * 1_009 + self.global_rank)

    def loss(self, batch: Batch) -> Tensor:
        """Full softmax for a small catalogue, sampled softmax for a big one."""
        users, scale = self.user_vectors(batch), self.model.scale
        if not self.sampled:
            logits = users @ self.item_vectors().T * scale
            return losses.full_softmax(logits, batch["positives"], self.candidates(batch), batch["weight"])
        return self._sampled_loss(batch, users, scale)

    def _sampled_loss(self, batch: Batch, users: Tensor, scale: Tensor) -> Tensor:
        positives = batch["positives"]
        own = positives[positives >= 0]
        extra = torch.multinomial(self.draw, self.settings.extra_negatives, replacement=True) if self.settings.extra_negatives else own[:0]
        rows = torch.unique(torch.cat([own, extra]))
        place = torch.searchsorted(rows, positives.clamp(min=0)).clamp(max=len(rows) - 1)  # (B, P)
        logits = users @ self.item_vectors(rows).T * scale  # (B, M)
        # Chance that an item is among the distinct rows: in the batch, or drawn.
        absent = len(own) * torch.log1p(-self.in_batch[rows].clamp(max=0.999)) + len(extra) * torch.log1p(-self.draw[rows].clamp(max=0.999))
        log_q = torch.log(-torch.expm1(absent) + 1e-9)
        return losses.sampled_softmax(
            logits.gather(1, place), positives, logits, rows, log_q, self.candidates(batch, rows), batch["weight"]
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["weight"]), sync_dist=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._vectors = self.item_vectors()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        assert self._vectors is not None  # noqa: S101 - set at the start of the epoch
        scores = (self.user_vectors(batch) @ self._vectors.T).float().cpu().numpy()
        candidates = self.candidates(batch).cpu().numpy()
        relevant = np.zeros_like(candidates)
        positives = batch["positives"].cpu().numpy()
        row, column = np.nonzero(positives >= 0)
        relevant[row, positives[row, column]] = True
        query, rank = metrics.ranks(scores, candidates, relevant)
        value = metrics.ndcg(query, rank, len(scores), TOP).mean()
        self.log(
            "val_ndcg", torch.tensor(value, dtype=torch.float32, device=self.device), on_epoch=True, batch_size=len(scores), sync_dist=True
        )

    def configure_optimizers(self) -> Any:
        """AdamW; no decay for vectors and tables; a rise, then a cosine down to a twentieth."""
        plain = [p for p in self.model.parameters() if p.ndim < 2 or p is self.model.tokens.weight]
        ids = {id(p) for p in plain}
        matrices = [p for p in self.model.parameters() if id(p) not in ids]
        groups = [{"params": matrices, "weight_decay": self.settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.settings.learning_rate)
        warmup = max(1, int(self.steps * self.settings.warmup_share))

        def rate(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            progress = min(1.0, (step - warmup) / max(1, self.steps - warmup))
            return 0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * progress))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _moments(values: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(values.mean(axis=0).astype(np.float32)), torch.from_numpy(values.std(axis=0).astype(np.float32))
