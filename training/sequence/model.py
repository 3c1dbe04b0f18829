"""The sequence model: an LSTM over weekly steps beside static features, with two heads (when silence begins, what is spent).

Letters: B batch, W = 52 weeks, C channels, S static features, H hidden size, M members of the ensemble, N coalitions of factors.

Padded input, newest week last: the state after the last step is the customer's, so no lengths are needed and the graph exports
(packed sequences do not). Weeks before a customer was known are zeros, and the channel `known` says so.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from contracts.tensors import CHANNEL_COUNT, FACTORS, HORIZONS_DAYS, MONTH_COUNT, STATIC_COUNT, STEP_COUNT, WEEK_COUNT
from features.weekly import CHANNEL_FACTORS, STATIC_FACTORS

_Q, _L = len(HORIZONS_DAYS), STEP_COUNT - 1
CUT = 6.0
"""Standardised inputs are cut to +-CUT, so that no rare value runs away with a forecast."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the network.

    Attributes:
        hidden: H, of each member's LSTM. width: of the layer after it. members: M. dropout: in training, before the heads.
    """

    hidden: int = 32
    width: int = 64
    members: int = 3
    dropout: float = 0.2

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Member(nn.Module):
    """One network of the ensemble.

    Returns logits (B, 3 + 9 + 12 + 12 + 1 + 2): quiet hazards, silence hazards, month purchases, month log spends, log sigma, interval.
    """

    SIZES = (_Q, _L, MONTH_COUNT, MONTH_COUNT, 1, 2)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.lstm = nn.LSTM(CHANNEL_COUNT, config.hidden, batch_first=True)
        self.mix = nn.Sequential(
            nn.Linear(config.hidden + STATIC_COUNT, config.width), nn.SiLU(), nn.Dropout(config.dropout),
            nn.Linear(config.width, config.width), nn.SiLU(), nn.Dropout(config.dropout),
        )  # fmt: skip
        self.heads = nn.Linear(config.width + STATIC_COUNT, sum(self.SIZES))

    def encode(self, weeks: Tensor) -> Tensor:
        """Standardised weeks (B, W, C) to (B, H)."""
        return self.lstm(weeks)[0][:, -1]

    def decide(self, state: Tensor, statics: Tensor) -> Tensor:
        """State (..., H) and standardised statics (..., S) to logits (..., 39)."""
        return self.heads(torch.cat([self.mix(torch.cat([state, statics], -1)), statics], -1))


class SequenceModel(nn.Module):
    """M members, averaged on the scale of their logits, then calibrated. Inputs and outputs as `contracts.tensors.SEQUENCE`."""

    week_mean: Tensor
    week_std: Tensor
    static_mean: Tensor
    static_std: Tensor
    churn_slope: Tensor
    churn_intercept: Tensor
    spend_scale: Tensor
    interval_shift: Tensor
    reference_churn: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(Member(config) for _ in range(config.members))
        for name, size in (("week", CHANNEL_COUNT), ("static", STATIC_COUNT)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))
        self.register_buffer("churn_slope", torch.ones(_Q))
        self.register_buffer("churn_intercept", torch.zeros(_Q))
        self.register_buffer("spend_scale", torch.ones(MONTH_COUNT))
        self.register_buffer("interval_shift", torch.zeros(2))
        self.register_buffer("reference_churn", torch.full((1,), 0.5))
        inputs = config.members * config.hidden + STATIC_COUNT
        self.explainer = nn.Sequential(nn.Linear(inputs, config.width), nn.SiLU(), nn.Linear(config.width, len(FACTORS)))

    def networks(self) -> list[Member]:
        """The members."""
        return [m for m in self.members if isinstance(m, Member)]

    def standardise(self, weeks: Tensor, statics: Tensor) -> tuple[Tensor, Tensor]:
        """Mean 0, deviation 1, cut; weeks before the customer was known stay near the mean of such weeks."""
        return (
            ((weeks - self.week_mean) / self.week_std).clamp(-CUT, CUT),
            ((statics - self.static_mean) / self.static_std).clamp(-CUT, CUT),
        )

    def logits(self, weeks: Tensor, statics: Tensor) -> tuple[Tensor, Tensor]:
        """Mean logits of the members, (B, 39), and what the explainer reads, (B, M * H + S)."""
        w, s = self.standardise(weeks, statics)
        states = [m.encode(w) for m in self.networks()]
        mean = torch.stack([m.decide(h, s) for m, h in zip(self.networks(), states, strict=True)]).mean(0)
        return mean, torch.cat([*states, s], -1)

    def impact_estimates(self, seen: Tensor, churn: Tensor) -> Tensor:
        """What each factor adds to churn at 90 days, (B, 8), learned from the exact values; the sum is made exact.

        Source: amortised Shapley values, Jethani et al. (2022), here by regression.
        """
        estimate = self.explainer(seen)
        return estimate + (churn[:, -1:] - self.reference_churn - estimate.sum(-1, keepdim=True)) / len(FACTORS)

    def churn(self, quiet: Tensor) -> Tensor:
        """Calibrated P(no purchase within each horizon), (..., 3), from the quiet hazards' logits (..., 3)."""
        log_p = torch.cumsum(nn.functional.logsigmoid(quiet), -1)
        logit = log_p - torch.log(-torch.expm1(log_p.clamp(max=-1e-6)))
        p = torch.sigmoid(self.churn_slope * logit + self.churn_intercept)
        a, b, c = p.unbind(-1)
        b = torch.minimum(a, b)
        return torch.stack([a, b, torch.minimum(b, c)], -1)

    def forecast(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The five outputs of `contracts.tensors.SEQUENCE` from the mean logits (B, 39)."""
        quiet, leave, month, amount, sigma, interval = logits.split(Member.SIZES, -1)
        churn = self.churn(quiet)
        still = torch.cumsum(nn.functional.logsigmoid(-leave), -1).exp()  # not fallen silent by each later step
        stay = 1.0 - churn[:, -1:]
        silent_by = 1.0 - torch.cat([stay, stay * still], -1)
        probability = torch.sigmoid(month)
        spread = nn.functional.softplus(sigma) + 0.05
        spend = probability * torch.exp((amount + 0.5 * spread**2).clamp(-10.0, 16.0)) * self.spend_scale
        total = spend.sum(-1, keepdim=True)
        low, high = (nn.functional.softplus(interval) * torch.exp(self.interval_shift)).unbind(-1)
        return churn, silent_by, probability, spend, torch.cat([total * torch.exp(-low[:, None]), total * torch.exp(high[:, None])], -1)

    def forward(self, weeks: Tensor, statics: Tensor) -> tuple[Tensor, ...]:
        logits, seen = self.logits(weeks, statics)
        outputs = self.forecast(logits)
        return (*outputs, self.impact_estimates(seen, outputs[0]))


def shapley_weights() -> np.ndarray:
    """float64 (2^F, F): the Shapley value of each factor is its column's product with the coalitions' values.

    Row r is the coalition of the factors whose bit is set in r. Source: Shapley (1953); as explanations, Lundberg and Lee (2017).
    """
    f = len(FACTORS)
    rows = np.arange(2**f)
    member = (rows[:, None] >> np.arange(f)) & 1
    size = member.sum(1)
    joined = np.array([math.factorial(max(s - 1, 0)) * math.factorial(f - max(s, 1)) / math.factorial(f) for s in size])
    absent = np.array([math.factorial(s) * math.factorial(max(f - s - 1, 0)) / math.factorial(f) for s in size])
    return np.where(member == 1, joined[:, None], -absent[:, None])


class FactorsModel(nn.Module):
    """The same weights run on all 256 coalitions of factors: a factor outside a coalition takes the reference customer's inputs.

    Inputs and outputs as `contracts.tensors.SEQUENCE_FACTORS`. No channel of the weeks belongs to the last factor (season), so only 128
    histories go through the LSTM.

    Args:
        reference_weeks: float32 (W, C). reference_statics: float32 (S,); as the model's inputs.
    """

    week_mask: Tensor
    static_mask: Tensor
    weights: Tensor
    reference_weeks: Tensor
    reference_statics: Tensor

    def __init__(self, model: SequenceModel, reference_weeks: Tensor, reference_statics: Tensor) -> None:
        super().__init__()
        self.model = model
        half = 2 ** (len(FACTORS) - 1)
        bits = torch.arange(2 * half)[:, None] >> torch.arange(len(FACTORS)) & 1
        self.register_buffer("week_mask", bits[:half][:, [FACTORS.index(f) for f in CHANNEL_FACTORS]].float()[:, None, :])
        self.register_buffer("static_mask", bits[:, [FACTORS.index(f) for f in STATIC_FACTORS]].float())
        self.register_buffer("weights", torch.from_numpy(shapley_weights()).float())
        self.register_buffer("reference_weeks", reference_weeks.reshape(WEEK_COUNT, CHANNEL_COUNT))
        self.register_buffer("reference_statics", reference_statics.reshape(STATIC_COUNT))

    def forward(self, weeks: Tensor, statics: Tensor) -> tuple[Tensor, ...]:
        m = self.model
        mixed = self.reference_weeks + (weeks - self.reference_weeks)[:, None] * self.week_mask
        w, s = m.standardise(
            mixed.reshape(-1, WEEK_COUNT, CHANNEL_COUNT),
            self.reference_statics + (statics - self.reference_statics)[:, None] * self.static_mask,
        )
        half = self.week_mask.shape[0]
        logits = []
        for member in m.networks():
            state = member.encode(w).reshape(-1, half, m.config.hidden)
            logits.append(member.decide(torch.cat([state, state], 1), s))
        mean = torch.stack(logits).mean(0)  # (B, 256, 39)
        values = m.churn(mean[..., :_Q])[..., -1]
        return (*m.forecast(mean[:, -1]), values @ self.weights, values[:, :1])
