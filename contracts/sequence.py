"""What goes with a version of the sequence model: its definition of churn, its reference customer, what is known of a customer of whom
nothing is known, and how its numbers become levels, dates and segments.

<models dir>/sequence/<version>/
    manifest.json           BundleManifest
    sequence.onnx           forecasts (contracts.tensors.SEQUENCE)
    sequence_factors.onnx   forecasts with attributions (contracts.tensors.SEQUENCE_FACTORS)
    forecast.json           Forecasting
    golden.npz              inputs and torch's answers
<models dir>/sequence/deployed.json   {"version": "4"}
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from contracts.tensors import HORIZONS_DAYS, MONTH_COUNT, STATIC_COUNT, STEP_COUNT

MODEL_NAME = "sequence"
FILES = ("sequence.onnx", "sequence_factors.onnx", "forecast.json", "golden.npz")
STEP_DAYS = 30
LONGEST_DAYS = 730
"""No churn date is stated further away than this."""


class ChurnDefinition(BaseModel):
    """What counts as churn. By default: no purchase for 90 days.

    A label at time t with horizon h is "no act of `activity` in (t, t + h]". It is about customers with such an act in the `silent_days`
    before t; for the others, churn has already happened.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    activity: Literal["purchase"] = "purchase"
    silent_days: int = Field(90, ge=1)
    horizons_days: tuple[int, int, int] = HORIZONS_DAYS


class BaseRates(BaseModel):
    """What is said of a customer of whom nothing is known: means of the business's new customers, shapes as the model's outputs."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    churn: tuple[float, ...] = Field(min_length=len(HORIZONS_DAYS), max_length=len(HORIZONS_DAYS))
    silent_by: tuple[float, ...] = Field(min_length=STEP_COUNT, max_length=STEP_COUNT)
    purchase_probability: tuple[float, ...] = Field(min_length=MONTH_COUNT, max_length=MONTH_COUNT)
    spend: tuple[float, ...] = Field(min_length=MONTH_COUNT, max_length=MONTH_COUNT)
    spend_interval: tuple[float, float]


class Forecasting(BaseModel):
    """The record `forecast.json`.

    Attributes:
        definition: of churn, as trained.
        reference_statics: the reference customer's static features (mean of the active customers of the latest training as-of time), in the
            model's input units; attributions are differences from this customer.
        base_rates: by business id; "" holds those over all businesses.
        clv_cuts: by business id ("" over all): predicted CLV from which on a customer is MEDIUM, HIGH, VERY_HIGH (the 50th, 80th and 95th
            percentile of the customers at the latest training as-of time).
        interval_level: of `spend_interval`, for example 0.8.
        ece: of churn at 90 days on the later slice. interval_coverage: share of the later slice inside the interval; None where the history
            is too short to see it.
        spend_months_seen: the longest run of months that a training label covered; later months are extrapolated.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    definition: ChurnDefinition
    reference_statics: tuple[float, ...] = Field(min_length=STATIC_COUNT, max_length=STATIC_COUNT)
    base_rates: dict[str, BaseRates]
    clv_cuts: dict[str, tuple[float, float, float]]
    interval_level: float = Field(0.8, gt=0, lt=1)
    ece: float = Field(ge=0, le=1)
    interval_coverage: float | None = Field(None, ge=0, le=1)
    spend_months_seen: int = Field(ge=1, le=MONTH_COUNT)

    def rates_of(self, business_id: str) -> BaseRates:
        """A business's base rates; those over all where it was not in training."""
        return self.base_rates.get(business_id) or self.base_rates[""]

    def segments(self, business_id: str, predicted_clv: np.ndarray) -> np.ndarray:
        """Position in `contracts.tables.CLV_SEGMENTS` of predicted CLVs, int64 (n,)."""
        cuts = self.clv_cuts.get(business_id) or self.clv_cuts[""]
        return np.searchsorted(np.asarray(cuts), predicted_clv, side="right")


def risk_levels(churn_90: np.ndarray, cuts: tuple[float, float, float] = (0.4, 0.6, 0.8)) -> np.ndarray:
    """Position in `contracts.tables.RISK_LEVELS` of probabilities: LOW below the first cut, CRITICAL from the last, int64 (n,)."""
    return np.searchsorted(np.asarray(cuts), churn_90, side="right")


def days_until_churn(silent_by: np.ndarray, recency_days: np.ndarray, silent_days: int = 90) -> np.ndarray:
    """Days until it is as likely as not that the customer has churned, that is: has been silent for `silent_days`.

    Who is silent from now on has churned when the silence that has begun is long enough; who falls silent in step k, 90 days after the
    middle of that step. Between those days the cumulative probability is interpolated; beyond the last step the mean hazard of the steps
    goes on. Ties to the model: `silent_by[:, 0]` is churn at 90 days.

    Args:
        silent_by: (n, 10), see contracts.tensors. recency_days: (n,), days since the last purchase.

    Returns:
        float64 (n,), 0 for those silent for long enough already, at most `LONGEST_DAYS`.
    """
    n, steps = silent_by.shape
    left = np.maximum(silent_days - recency_days.astype(np.float64), 0.0)
    cumulative = np.concatenate([np.zeros((n, 1)), silent_by.astype(np.float64)], axis=1)
    later = np.broadcast_to(silent_days + STEP_DAYS * (np.arange(1, steps) - 0.5), (n, steps - 1))
    when = np.concatenate([np.zeros((n, 1)), left[:, None], later], axis=1)
    row, first = np.arange(n), np.maximum(np.argmax(cumulative >= 0.5, axis=1), 1)
    a, b, begin, end = (x[row, k] for x, k in ((cumulative, first - 1), (cumulative, first), (when, first - 1), (when, first)))
    # In the first step the silence has begun: it will be long enough on that day and no earlier.
    between = np.where(first == 1, left, begin + (end - begin) * (0.5 - a) / np.maximum(b - a, 1e-12))
    survival = np.maximum(1.0 - cumulative[:, -1], 1e-12)
    hazard = 1.0 - (survival / np.maximum(1.0 - cumulative[:, 1], 1e-12)) ** (1.0 / (steps - 1))
    beyond = when[:, -1] + STEP_DAYS * np.log(survival / 0.5) / -np.log1p(-np.clip(hazard, 1e-6, 1 - 1e-9))
    out = np.where((cumulative >= 0.5).any(axis=1), between, beyond)
    return np.minimum(np.where(left == 0.0, 0.0, out), float(LONGEST_DAYS))
