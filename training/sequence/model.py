"""The sequence model: an LSTM over weekly steps beside static features, with two heads (when silence begins, what is spent).

Letters: B batch, W = 52 weeks, C channels, S static features, H hidden size, M members of the ensemble, N coalitions of factors.

Padded input, newest week last: the state after the last step is the customer's, so no lengths are needed and the graph exports
(packed sequences do not). Weeks before a customer was known are zeros, and the channel `known` says so.

What the heads say of later steps and months lies on a line in the logarithm of the step, with a yearly wave: months that no training
label has reached yet are extrapolated along it, rather than left to chance.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from contracts.tensors import CHANNEL_COUNT, FACTORS, HORIZONS_DAYS, MONTH_COUNT, MONTH_DAYS, STATIC_COUNT, STEP_COUNT, WEEK_COUNT
from features.weekly import CHANNEL_FACTORS, STATIC_FACTORS, STATICS

_Q, _L = len(HORIZONS_DAYS), STEP_COUNT - 1
_YEAR = (STATICS.index("year_sin"), STATICS.index("year_cos"))
CUT = 6.0
"""Standardised inputs are cut to +-CUT, so that no rare value runs away with a forecast."""
LEVEL = 0.8
"""Of the interval."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the network.

    Attributes:
        hidden: H, of each member's LSTM. width: of the layers after it. members: M. dropout: in training, before the heads.
    """

    hidden: int = 32
    width: int = 64
    members: int = 2
    dropout: float = 0.2

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


LIVES = 3
LIFE_PARAMETERS = 7


class Lives(nn.Module):
    """What buy-till-you-die models say of a customer, as inputs of the network: log rate of purchases, log-odds of being alive, log amount.

    BG/NBD for the first two (Fader, Hardie and Lee 2005), Gamma-Gamma for the third (Fader and Hardie 2013), from five of the static
    features; their parameters were fitted to the training customers' histories (`training.sequence.bgnbd`) and are not trained further.
    Attributes: `parameters_of` r, alpha, a, b (weeks), p, q, gamma.
    """

    parameters_of: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("parameters_of", torch.tensor([0.5, 8.0, 0.5, 2.0, 4.0, 3.5, 30.0]))

    def forward(self, statics: Tensor) -> Tensor:
        """Static features (..., S) as they are, not standardised, to (..., 3)."""
        r, alpha, a, b, p, q, gamma = self.parameters_of.unbind()
        days, first, last, spend = (
            torch.expm1(statics[..., STATICS.index(name)].clamp(min=0.0))
            for name in ("purchase_days", "days_since_first_purchase", "days_since_purchase", "spend_ever")
        )
        bought = days.clamp(min=1.0)
        x, whole = bought - 1.0, first.clamp(max=3650.0) / 7.0 + 1.0 / 7.0
        gone = torch.minimum((last + 1.0) / 7.0, whole)
        # Odds of having left: only after a purchase that was not the first can somebody be seen to stay away.
        odds = torch.log(a / (b + (x - 1.0).clamp(min=0.0))) + (r + x) * torch.log((alpha + whole) / (alpha + whole - gone))
        odds = torch.where(x > 0.5, odds.clamp(max=20.0), torch.log(a / b) * torch.ones_like(odds) + r * torch.log1p(gone / alpha))
        rate = torch.log((r + x) / (alpha + whole)) - nn.functional.softplus(odds)
        amount = torch.log((p * (gamma + spend) / (p * bought + q - 1.0)).clamp(min=1e-2))
        return torch.stack([rate, -odds, amount], -1)


def prior_of(lives: Tensor) -> Tensor:
    """Log-odds of a purchase in a month and log of a month's spend given one, (..., 2), as `Lives` (..., 3) would have them.

    The heads learn corrections of these: where data is scarce, a forecast stays near what two well-tried models say.
    """
    mean = torch.exp(lives[..., :1]).clamp(1e-6, 50.0) * (MONTH_DAYS / 7.0)  # purchases of a month
    odds = mean + torch.log(-torch.expm1(-mean))
    return torch.cat([odds, lives[..., 2:] + torch.log(mean) - torch.log(-torch.expm1(-mean))], -1)


class Member(nn.Module):
    """One network of the ensemble."""

    SIZES = (_Q, 2, 2, 2, 1, 2)
    """Logits: quiet hazards; level and slope of the silence hazards, of the months' purchases and log spends; log spread; interval."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.lstm = nn.LSTM(CHANNEL_COUNT, config.hidden, batch_first=True)
        self.mix = nn.Sequential(
            nn.Linear(config.hidden + STATIC_COUNT + LIVES, config.width), nn.SiLU(), nn.Dropout(config.dropout),
            nn.Linear(config.width, config.width), nn.SiLU(), nn.Dropout(config.dropout),
        )  # fmt: skip
        self.heads = nn.Linear(config.width + STATIC_COUNT + LIVES, sum(self.SIZES))
        self.trust = nn.Parameter(torch.tensor([1.0, 0.7]))  # in the prior's two numbers; customers differ less than their past amounts do
        self.wave = nn.Parameter(torch.zeros(3, 4))  # of the silence hazards, the purchases, the log spends: over the year

    def encode(self, weeks: Tensor) -> Tensor:
        """Standardised weeks (B, W, C) to (B, H)."""
        return self.lstm(weeks)[0][:, -1]

    def decide(self, state: Tensor, statics: Tensor, phases: Tensor, prior: Tensor) -> Tensor:
        """State (..., H), standardised statics with lives (..., S + 3), phases (..., 12, 4), prior (..., 2) to what
        `SequenceModel.logits` returns."""
        raw = self.heads(torch.cat([self.mix(torch.cat([state, statics], -1)), statics], -1))
        quiet, leave, month, amount, spread, total = raw.split(self.SIZES, -1)
        waves = phases @ self.wave.T  # (..., 12, 3)
        log_month = _log_steps(MONTH_COUNT, raw)
        return torch.cat(
            [
                quiet,
                leave[..., :1] + 0.3 * leave[..., 1:] * log_month[:_L] + waves[..., :_L, 0],
                self.trust[0] * prior[..., :1] + month[..., :1] + 0.3 * month[..., 1:] * log_month + waves[..., 1],
                self.trust[1] * prior[..., 1:] + amount[..., :1] + 0.3 * amount[..., 1:] * log_month + waves[..., 2],
                spread,
                total,
            ],
            -1,
        )


def _log_steps(count: int, like: Tensor) -> Tensor:
    return torch.log(torch.arange(1, count + 1, dtype=like.dtype, device=like.device))


class SequenceModel(nn.Module):
    """M members, averaged on the scale of their logits, then calibrated. Inputs and outputs as `contracts.tensors.SEQUENCE`."""

    SIZES = (_Q, _L, MONTH_COUNT, MONTH_COUNT, 1, 2)
    """Of the mean logits: quiet hazards, silence hazards, months' purchases, months' log spends, log spread, interval."""

    week_mean: Tensor
    week_std: Tensor
    static_mean: Tensor
    static_std: Tensor
    churn_slope: Tensor
    churn_intercept: Tensor
    spend_scale: Tensor
    amount_power: Tensor
    amount_centre: Tensor
    interval_scale: Tensor
    reference_churn: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(Member(config) for _ in range(config.members))
        self.lives = Lives()
        for name, size in (("week", CHANNEL_COUNT), ("static", STATIC_COUNT + LIVES)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))
        self.register_buffer("churn_slope", torch.ones(_Q))
        self.register_buffer("churn_intercept", torch.zeros(_Q))
        self.register_buffer("spend_scale", torch.ones(1))
        self.register_buffer("amount_power", torch.ones(1))
        self.register_buffer("amount_centre", torch.zeros(1))
        self.register_buffer("interval_scale", torch.ones(1))
        self.window = nn.Parameter(torch.tensor([0.7, 0.2]))  # how the chance of no spend at all, and the spread, fall with the window
        self.register_buffer("reference_churn", torch.full((1,), 0.5))
        inputs = config.members * config.hidden + STATIC_COUNT + LIVES
        self.explainer = nn.Sequential(nn.Linear(inputs, config.width), nn.SiLU(), nn.Linear(config.width, len(FACTORS)))

    def networks(self) -> list[Member]:
        """The members."""
        return [m for m in self.members if isinstance(m, Member)]

    def standardise(self, weeks: Tensor, statics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weeks, and static features with `Lives` (..., S + 3), of mean 0, deviation 1, cut to +-CUT; and the heads' prior (..., 2)."""
        lives = self.lives(statics)
        known = torch.cat([statics, lives], -1)
        return (
            ((weeks - self.week_mean) / self.week_std).clamp(-CUT, CUT),
            ((known - self.static_mean) / self.static_std).clamp(-CUT, CUT),
            prior_of(lives),
        )

    def phases(self, statics: Tensor) -> Tensor:
        """Sine and cosine, once and twice a year, of the middle of each of the 12 months after the as-of day, (..., 12, 4)."""
        turn = 2.0 * math.pi * MONTH_DAYS / 365.2425 * (torch.arange(MONTH_COUNT, dtype=statics.dtype, device=statics.device) + 0.5)
        sine, cosine = statics[..., _YEAR[0] : _YEAR[0] + 1], statics[..., _YEAR[1] : _YEAR[1] + 1]
        a, b = sine * torch.cos(turn) + cosine * torch.sin(turn), cosine * torch.cos(turn) - sine * torch.sin(turn)
        return torch.stack([a, b, 2.0 * a * b, b * b - a * a], -1)

    def logits(self, weeks: Tensor, statics: Tensor) -> tuple[Tensor, Tensor]:
        """Mean logits of the members, (B, 39), and what the explainer reads, (B, M * H + S + 3)."""
        w, s, prior = self.standardise(weeks, statics)
        phases = self.phases(statics)
        states = [m.encode(w) for m in self.networks()]
        mean = torch.stack([m.decide(h, s, phases, prior) for m, h in zip(self.networks(), states, strict=True)]).mean(0)
        return mean, torch.cat([*states, s], -1)

    def churn(self, quiet: Tensor) -> Tensor:
        """Calibrated P(no purchase within each horizon), (..., 3), from the quiet hazards' logits (..., 3)."""
        p = torch.sigmoid(self.churn_slope * quiet_logits(quiet) + self.churn_intercept)
        a, b, c = p.unbind(-1)
        b = torch.minimum(a, b)
        return torch.stack([a, b, torch.minimum(b, c)], -1)

    def spend(self, month: Tensor, amount: Tensor, spread: Tensor) -> Tensor:
        """Expected net spend of each month, (..., 12): probability times the mean of a log-normal amount.

        The means are drawn together by a power below 1, as far as the later slice says that customers differ less than they did.
        """
        log_mean = amount + 0.5 * spread_of(spread) ** 2
        log_mean = self.amount_centre + self.amount_power * (log_mean - self.amount_centre)
        return torch.sigmoid(month) * torch.exp(log_mean.clamp(-10.0, 16.0)) * self.spend_scale

    def total_law(self, total: Tensor, interval: Tensor, months: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The law of the sum over a window: P(nothing), and log-mean and deviation of the logarithm of the rest.

        Args:
            total: expected sum, (..., 1). interval: the two logits, (..., 2). months: length of the window, broadcast to (..., 1).
        """
        grow = torch.log(months / 3.0)
        # Cut off: a chance of 1 in float32 would divide by zero below, and the loss's gradient would not be a number.
        nothing = torch.sigmoid((interval[..., :1] - nn.functional.softplus(self.window[0]) * grow).clamp(-12.0, 12.0))
        deviation = spread_of(interval[..., 1:] - self.window[1] * grow)
        return nothing, torch.log(total.clamp(min=1e-3) / (1.0 - nothing)) - 0.5 * deviation**2, deviation

    def interval(self, total: Tensor, interval: Tensor, months: Tensor) -> Tensor:
        """The 80 % interval of the sum over a window, (..., 2): from 0 for those who may well spend nothing, else central."""
        nothing, mean, deviation = self.total_law(total, interval, months)
        top = LEVEL + 0.5 * (1.0 - LEVEL) * (1.0 - nothing / (0.5 * (1.0 - LEVEL))).clamp(min=0.0)
        ends = []
        for level in (top - LEVEL, top):
            inside = ((level - nothing) / (1.0 - nothing)).clamp(1e-6, 1.0 - 1e-6)
            normal = 4.91 * (inside**0.14 - (1.0 - inside) ** 0.14)  # quantile of the normal law, Tukey's lambda; erfinv does not export
            ends.append(torch.where(level > nothing, torch.exp(mean + self.interval_scale * deviation * normal), torch.zeros_like(mean)))
        return torch.cat(ends, -1)

    def forecast(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The first five outputs of `contracts.tensors.SEQUENCE` from the mean logits (B, 39)."""
        quiet, leave, month, amount, spread, interval = logits.split(self.SIZES, -1)
        churn = self.churn(quiet)
        still = torch.cumsum(nn.functional.logsigmoid(-leave), -1).exp()  # not fallen silent by each later step
        stay = 1.0 - churn[..., -1:]
        silent_by = 1.0 - torch.cat([stay, stay * still], -1)
        spend = self.spend(month, amount, spread)
        total = spend.sum(-1, keepdim=True)
        window = torch.full_like(total, float(MONTH_COUNT))
        return churn, silent_by, torch.sigmoid(month), spend, self.interval(total, interval, window)

    def impact_estimates(self, seen: Tensor, churn: Tensor) -> Tensor:
        """What each factor adds to churn at 90 days, (B, 8), learned from the exact values; the sum is made exact.

        Source: amortised Shapley values, Jethani et al. (2022), here by regression.
        """
        estimate = self.explainer(seen)
        return estimate + (churn[:, -1:] - self.reference_churn - estimate.sum(-1, keepdim=True)) / len(FACTORS)

    def forward(self, weeks: Tensor, statics: Tensor) -> tuple[Tensor, ...]:
        logits, seen = self.logits(weeks, statics)
        outputs = self.forecast(logits)
        return (*outputs, self.impact_estimates(seen, outputs[0]))


def quiet_logits(quiet: Tensor) -> Tensor:
    """Log-odds of no purchase within each horizon, (..., 3), from the hazards' logits: each is given that the one before was quiet."""
    log_p = torch.cumsum(nn.functional.logsigmoid(quiet), -1).clamp(max=-1e-6)
    return log_p - torch.log(-torch.expm1(log_p))


def spread_of(raw: Tensor) -> Tensor:
    """A deviation, positive, from a head's output."""
    return nn.functional.softplus(raw) + 0.05


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
        inputs = self.reference_statics + (statics - self.reference_statics)[:, None] * self.static_mask
        w, s, prior = m.standardise(mixed.reshape(-1, WEEK_COUNT, CHANNEL_COUNT), inputs)
        phases, half = m.phases(inputs), self.week_mask.shape[0]
        logits = []
        for member in m.networks():
            state = member.encode(w).reshape(-1, half, m.config.hidden)
            logits.append(member.decide(torch.cat([state, state], 1), s, phases, prior))
        mean = torch.stack(logits).mean(0)  # (B, 256, 39)
        values = m.churn(mean[..., :_Q])[..., -1]
        return (*m.forecast(mean[:, -1]), values @ self.weights, values[:, :1])
