"""Settings of the sequence model's training (`REGULARS_SEQUENCE_*`)."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field

from contracts.settings import StackSettings, settings_config

_NOT_IN_FINGERPRINT = frozenset({"tracking_uri", "devices", "accelerator", "threads"})


class SequenceSettings(StackSettings):
    """Everything that decides what a training run gives; logged with the run and stored in its artifacts."""

    model_config = settings_config("REGULARS_SEQUENCE_")

    epochs: int | None = Field(None, ge=1, le=1000, description="passes over the samples; 3 to 10, fewer with more samples")
    batch_size: int = Field(512, ge=2, description="samples a step and process")
    max_samples: int = Field(80_000, ge=100, description="samples kept, drawn with the seed evenly over the as-of days")
    step_days: int = Field(28, ge=1, description="days between two as-of times of the samples; half of it in a history under 300 days")
    first_days: int = Field(56, ge=7, description="days of history before the first as-of time; half of it in a history under 300 days")
    slice_days: int = Field(91, ge=31, description="length of the later slice that calibrates")
    season_days: int = Field(430, ge=1, description="days of history from which on a yearly wave of purchases and spend is learned")
    season_input_days: int = Field(
        730, ge=1, description="days of history from which on the time of the year is an input too; before, it cannot be told from a trend"
    )

    hidden: int = Field(32, ge=2, le=512, description="hidden size of each LSTM")
    width: int = Field(64, ge=4, le=1024, description="width of the layers after it")
    members: int = Field(2, ge=1, le=10, description="networks whose forecasts are averaged; each adds 3 ms to an attributed forecast")
    dropout: float = Field(0.2, ge=0, lt=1)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    warmup_share: float = Field(0.15, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    gradient_clip: float = Field(1.0, gt=0)
    prior: Literal["auto", "on", "off"] = Field(
        "auto", description="whether the spend begins at what buy-till-you-die models say; auto lets the later slice choose"
    )
    inactive_weight: float = Field(0.5, ge=0, le=1, description="weight of samples of customers who have not bought for 90 days")
    tweedie_weight: float = Field(1.0, ge=0, description="weight of the deviance of the sums beside the likelihoods")
    explained: int = Field(2_000, ge=50, description="customers whose exact attributions teach the quick ones")

    seed: int = Field(7, ge=0)
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = Field(1, ge=1, description="processes; more than one trains with DDP")
    threads: int = Field(0, ge=0, description="CPU threads of torch; 0 takes one less than the cores, 4 at most")
    tracking_uri: str | None = Field(None, description="an MLflow server; None keeps runs in SQLite under the home folder")

    def epochs_for(self, samples: int) -> int:
        """Passes over so many samples."""
        return self.epochs or int(min(10, max(3, round(240_000 / max(samples, 1)))))

    def fingerprint(self, data_version: str) -> str:
        """Short hash of what decides the weights: the run to resume is the unfinished one with the same hash."""
        values: dict[str, Any] = {k: v for k, v in self.public().items() if k not in _NOT_IN_FINGERPRINT}
        return hashlib.sha256(json.dumps({"data": data_version, "sequence": values}, sort_keys=True).encode()).hexdigest()[:16]
