"""What the sequence model is trained on. Everything that is not known yet is masked.

Letters: B batch, M = 12 months.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from contracts.sequence import STEP_DAYS
from contracts.tensors import HORIZONS_DAYS, MONTH_COUNT, STEP_COUNT
from training.sequence.data import Samples
from training.sequence.model import SequenceModel, spread_of

_Q = len(HORIZONS_DAYS)


@dataclass(frozen=True)
class Targets:
    """Labels and masks as arrays of n rows, float32.

    Attributes:
        quiet: (n, 3), no purchase in each 30-day block. quiet_known: (n, 3), at risk and known.
        silent: (n, 9), three empty blocks from step 1..9 on. silent_known: (n, 9).
        bought: (n, 12), a purchase in the month. spend: (n, 12). known: (n, 12).
        total: (n, 1), spend of the known months. months: (n, 1), how many those are.
        weight: (n, 1).
    """

    quiet: np.ndarray
    quiet_known: np.ndarray
    silent: np.ndarray
    silent_known: np.ndarray
    bought: np.ndarray
    spend: np.ndarray
    known: np.ndarray
    total: np.ndarray
    months: np.ndarray
    weight: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        return dict(vars(self))


def targets(samples: Samples, inactive_weight: float = 0.5) -> Targets:
    """The labels of some samples, censored at the end of what is known.

    Args:
        inactive_weight: of customers who have not bought for 90 days: they have churned already, and only their value is asked for.
    """
    seen = samples.observed_days[:, None]
    empty = ~samples.bought
    steps = np.arange(1, samples.bought.shape[1] + 1)
    whole = seen >= STEP_DAYS * steps  # the block's end is known
    quiet = empty[:, :_Q]
    at_risk = np.concatenate([np.ones((len(samples), 1), bool), np.logical_and.accumulate(quiet, axis=1)[:, :-1]], axis=1)
    silent = empty[:, :STEP_COUNT] & empty[:, 1 : STEP_COUNT + 1] & empty[:, 2 : STEP_COUNT + 2]
    not_yet = ~np.logical_or.accumulate(silent, axis=1)[:, :-1]
    known = np.arange(MONTH_COUNT) < samples.months_seen[:, None]
    spend = np.where(known, samples.monthly_spend, 0.0)
    found: Mapping[str, np.ndarray] = {
        "quiet": quiet,
        "quiet_known": at_risk & whole[:, :_Q],
        "silent": silent[:, 1:],
        "silent_known": not_yet & whole[:, _Q : STEP_COUNT + 2],
        "bought": samples.monthly_purchases,
        "spend": spend,
        "known": known,
        "total": spend.sum(1, keepdims=True),
        "months": np.maximum(samples.months_seen, 1)[:, None],
        "weight": np.where(samples.active, 1.0, inactive_weight)[:, None],
    }
    return Targets(**{k: v.astype(np.float32) for k, v in found.items()})


def loss(model: SequenceModel, logits: Tensor, t: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The parts of the loss of a batch, each a mean over its samples.

    Discrete-time survival likelihood for the two hazards (Gensheimer and Narasimhan 2019); zero-inflated log-normal likelihood for a
    month's spend (Wang, Liu and Miao 2019) beside a Tweedie deviance of the sums, which keeps the means right under heavy tails; a
    zero-inflated log-normal likelihood of the window's sum, with the mean given, for the interval.

    Args:
        logits: (B, 39), of one member. t: the fields of `Targets`. scale: typical spend of a month, which amounts are divided by.
    """
    quiet, leave, month, amount, spread, interval = logits.split(model.SIZES, -1)
    weight = t["weight"]

    def mean(value: Tensor, mask: Tensor) -> Tensor:
        return (value * mask * weight).sum() / weight.sum()

    bce = nn.functional.binary_cross_entropy_with_logits
    deviation = spread_of(spread)
    paid = t["known"] * t["bought"] * (t["spend"] > 0)
    log_spend = torch.log(t["spend"].clamp(min=1e-2))
    normal = 0.5 * ((log_spend - amount) / deviation) ** 2 + torch.log(deviation)
    spend = torch.sigmoid(month) * torch.exp((amount + 0.5 * deviation**2).clamp(-10.0, 16.0))
    total = (spend * t["known"]).sum(-1, keepdim=True)
    some = (t["months"] >= 1) * (t["known"][:, :1])
    return {
        "quiet": mean(bce(quiet, t["quiet"], reduction="none"), t["quiet_known"]),
        "silent": mean(bce(leave, t["silent"], reduction="none"), t["silent_known"]) / 3.0,
        "month": mean(bce(month, t["bought"], reduction="none"), t["known"]) / 3.0,
        "amount": mean(normal, paid) / 3.0,
        "tweedie": mean(tweedie(t["total"].clamp(min=0.0) / scale, total / scale), some),
        "total": mean(total_likelihood(model, total.detach(), interval, t), some),
    }


def tweedie(y: Tensor, mean: Tensor, power: float = 1.5) -> Tensor:
    """Tweedie deviance up to a constant; its minimum over means is the mean. Source: Jorgensen (1987)."""
    mean = mean.clamp(min=1e-4)
    return -y * mean ** (1.0 - power) / (1.0 - power) + mean ** (2.0 - power) / (2.0 - power)


def total_likelihood(model: SequenceModel, total: Tensor, interval: Tensor, t: Mapping[str, Tensor]) -> Tensor:
    """Negative log-likelihood of the window's sum, (B, 1), given its expected value."""
    nothing, centre, deviation = model.total_law(total, interval, t["months"])
    y, nothing = t["total"], nothing.clamp(1e-5, 1.0 - 1e-5)
    gap = (torch.log(y.clamp(min=1e-2)) - centre) / deviation
    some = 0.5 * gap**2 + torch.log(deviation) - torch.log1p(-nothing)
    return torch.where(y > 0, some, -torch.log(nothing))
