"""Settings of the decisions: how estimates are made, and what a policy must show before it gets traffic."""

from __future__ import annotations

from pydantic import Field

from contracts.settings import StackSettings, settings_config


class DecisionSettings(StackSettings):
    """Prefix `REGULARS_DECISIONS_`."""

    model_config = settings_config("REGULARS_DECISIONS_")

    seed: int = Field(7, ge=0, description="of folds and resamples")
    folds: int = Field(4, ge=2, le=50, description="parts of the log; the reward model of a part is fitted on the others")
    resamples: int = Field(1000, ge=200, le=20_000, description="bootstrap resamples behind an interval")
    clip: float | None = Field(None, ge=1.0, description="largest importance weight; the square root of the rows when not given")
    few_events: int = Field(12, ge=1, description="with fewer rewards than this an interval holds for any distribution within its bounds")

    gate_min_effective: float = Field(200.0, ge=1.0, description="effective rows of the log that a policy needs")
    gate_max_missing: float = Field(0.02, ge=0.0, le=1.0, description="largest share of a policy's choices of which the log says nothing")
    gate_max_weight_z: float = Field(4.5, ge=1.0, description="how many standard errors the mean weight may lie from 1")
    gate_min_gain: float = Field(0.0, ge=-1.0, le=10.0, description="gain over the baseline, as a share of it, that must be shown")
