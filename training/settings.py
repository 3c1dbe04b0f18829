"""Settings of the training process (`REGULARS_TRAIN_*`)."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field

from contracts.settings import StackSettings, settings_config

FEW_EXAMPLES = 10_000
_NOT_IN_FINGERPRINT = frozenset({"tracking_uri", "devices", "accelerator", "threads", "bootstrap"})


class TrainSettings(StackSettings):
    """Everything that decides what a training run gives; logged with the run and stored in its artifacts."""

    model_config = settings_config("REGULARS_TRAIN_")

    epochs: int | None = Field(None, ge=1, le=1000, description="most passes over the training examples; 4, or 10 with fewer than 10,000")
    patience: int = Field(2, ge=1, description="epochs without a better validation NDCG@10 before training stops")
    batch_size: int = Field(256, ge=2, description="queries a step and process")
    max_examples: int = Field(80_000, ge=1, description="training queries kept, sampled with the seed")
    max_per_customer: int = Field(40, ge=1, description="training queries kept of one customer; the evenly spaced ones")
    max_validation: int = Field(8_000, ge=1, description="validation queries: they choose the epoch of the towers and teach the ranker")
    max_test: int = Field(6_000, ge=1, description="test queries scored at the end")
    max_positives: int = Field(16, ge=1, description="rewards of one query that enter one step")
    validation_from: float = Field(0.8, gt=0, lt=1, description="share of the redemptions before the validation slice")
    test_from: float = Field(0.9, gt=0, lt=1, description="share of the redemptions before the test slice")
    lead_s: float = Field(60.0, ge=0, description="seconds before a redemption at which its inputs are taken")
    recency_half_life_days: float = Field(
        120.0, gt=0, description="weight of a training query halves every so many days before the cut-off"
    )

    width: int = Field(64, ge=8, le=1024, description="width of the sequence encoder")
    heads: int = Field(4, ge=1)
    layers: int = Field(1, ge=1, le=4, description="self-attention layers")
    dropout: float = Field(0.1, ge=0, lt=1)
    id_dropout: float = Field(0.1, ge=0, lt=1, description="share of rewards shown as <unknown> to the item tower in training")

    cold_share: float = Field(0.05, ge=0, le=1, description="share of training queries shown once more as those of an unknown customer")

    candidates: int = Field(
        200, ge=10, le=400, description="nearest rewards that the ranker sees, beside the customer's own and their neighbours"
    )
    ease_ridges: tuple[float, ...] = Field(
        (100.0, 300.0, 1000.0), min_length=1, description="ridges of the item-item weights to choose from"
    )
    neighbours: int = Field(256, ge=8, le=4096, description="item-item weights kept for each reward")
    ranker_epochs: int = Field(10, ge=1, le=1000)
    ranker_patience: int = Field(3, ge=1, description="epochs without a better NDCG@10 on the latest queries before the ranker stops")
    ranker_batch_size: int = Field(64, ge=2, description="queries a step")
    ranker_negatives: int = Field(100, ge=1, description="candidates of a query, beside the redeemed ones, that enter one step")
    ranker_width: int = Field(64, ge=8, le=1024)
    ranker_dropout: float = Field(0.2, ge=0, lt=1)
    ranker_learning_rate: float = Field(2e-3, gt=0)
    ranker_weight_decay: float = Field(0.05, ge=0)
    view_weight: float = Field(0.2, ge=0, description="weight of the view head's loss beside the redeem head's")

    full_softmax_items: int = Field(5_000, ge=1, description="up to so many rewards every one is a negative; above, they are sampled")
    extra_negatives: int = Field(1_024, ge=0, description="sampled negatives a step beside the batch's own")
    learning_rate: float = Field(3e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup_share: float = Field(0.05, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    gradient_clip: float = Field(1.0, gt=0)

    horizon_days: int = Field(30, ge=1, description="days after the as-of time in which a redemption counts for the probability")
    calibration_customers: int = Field(2_000, ge=1, description="active customers per as-of time of the calibration sample")
    bootstrap: int = Field(1_000, ge=100, description="resamples behind each interval")
    seed: int = Field(7, ge=0)
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = Field(1, ge=1, description="processes; more than one trains with DDP")
    threads: int = Field(0, ge=0, description="CPU threads of torch; 0 takes one less than the cores, 4 at most")
    tracking_uri: str | None = Field(None, description="an MLflow server; None keeps runs in SQLite under the home folder")

    def epochs_for(self, examples: int) -> int:
        """Most passes over so many training examples."""
        return self.epochs or (10 if examples < FEW_EXAMPLES else 4)

    def fingerprint(self, data_version: str) -> str:
        """Short hash of what decides the weights: the run to resume is the unfinished one with the same hash."""
        values: dict[str, Any] = {k: v for k, v in self.public().items() if k not in _NOT_IN_FINGERPRINT}
        text = json.dumps({"data": data_version, "settings": values}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
