"""What a policy would have earned, from the log of another one; and whether it may get traffic.

The log holds (context, action, propensity, reward) of a policy that chose at random with known probabilities. A target policy is given by
its probability of every action in each of those contexts. Letters: N rows, F features, A actions, G independent groups of rows (customers).

`ips`    mean of w r, with the weight w = target probability / propensity
`snips`  sum of w r over sum of w: what the weights miss of 1 cancels
`dr`     doubly robust: a reward model's mean under the target, corrected by w times the model's mistakes on what was chosen. The model of
         each part of the log is fitted on the other parts, so it never saw the reward that it is corrected by.

Weights are clipped, which trades variance for a bias; how much target probability lies above the clip is known, and the interval is widened
by the worst that it may hide. So a policy that the log says little of gets a wide interval, not a confident number.

Source: Horvitz and Thompson (1952); Swaminathan and Joachims (2015); Dudík, Langford and Li (2011); cross-fitting: Chernozhukov et al.
(2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from contracts.errors import ContractError, ShapeError
from decisions.settings import DecisionSettings
from decisions.statistics import Interval, bernstein, group_sums, standard_error, studentised

Method = Literal["ips", "snips", "dr"]
METHODS: tuple[Method, ...] = ("ips", "snips", "dr")
Predictor = Callable[[np.ndarray], np.ndarray]
"""Context float64 (M, F) to expected rewards float64 (M, A)."""
RewardModel = Callable[[np.ndarray, np.ndarray, np.ndarray, int], Predictor]
"""Fitted from context (M, F), action (M,), reward (M,) and the number of actions."""


@dataclass(frozen=True)
class Log:
    """What a policy did and what came of it.

    Attributes:
        context: float (N, F), finite; F may be 0.
        action: int (N,), 0 to A - 1.
        propensity: float (N,), probability with which the logging policy chose this action, above 0 and at most 1.
        reward: float (N,), finite.
        group: (N,) who a row belongs to; rows of one group are resampled together. None: every row stands alone.
        logging: float (N, A), the logging policy's probability of every action, where it is known; says exactly what is out of reach.
    """

    context: np.ndarray
    action: np.ndarray
    propensity: np.ndarray
    reward: np.ndarray
    group: np.ndarray | None = None
    logging: np.ndarray | None = None


@dataclass(frozen=True)
class Estimate:
    """The value of a policy, mean reward per row.

    Attributes:
        value, low, high: with its 95 % interval, widened by `slack`.
        n, groups: rows, and independent groups of them.
        effective: rows without weights that would say as much, (sum w)^2 / sum w^2.
        largest_weight, clip: before clipping, and where it was clipped.
        missing: share of the target's choices of which the log says nothing or too little (clipped, or never chosen).
        mean_weight: should be 1; `weight_z` is how many standard errors it is away.
        slack: what `missing` may hide below and above the value; inside low and high already.
        terms: float64 (G, 2), numerator and denominator of the value by group, for paired comparisons.
    """

    method: Method | Literal["logged"]
    value: float
    low: float
    high: float
    n: int
    groups: int
    effective: float
    largest_weight: float
    clip: float
    missing: float
    mean_weight: float
    weight_z: float
    slack: tuple[float, float] = (0.0, 0.0)
    span: float = 0.0
    terms: np.ndarray = field(repr=False, default_factory=lambda: np.zeros((0, 2)))

    @property
    def interval(self) -> Interval:
        return Interval(self.value, self.low, self.high)


@dataclass(frozen=True)
class Verdict:
    """May a policy get traffic?

    Attributes:
        allowed: yes or no.
        code: `ok`, `propensities`, `support`, `overlap`, `worse` or `not_shown`.
        reason: one sentence for whoever approves.
        gain: estimate minus baseline, with its 95 % interval.
    """

    allowed: bool
    code: str
    reason: str
    gain: Interval


def estimate(
    log: Log,
    target: np.ndarray,
    method: Method = "dr",
    settings: DecisionSettings | None = None,
    model: RewardModel | None = None,
    reward_range: tuple[float, float] | None = None,
) -> Estimate:
    """Value of a target policy from the log.

    Args:
        target: float (N, A), the target's probability of every action in each context; rows sum to 1.
        model: reward model of `dr`; `ridge` when None.
        reward_range: smallest and largest possible reward. When given, the interval stays inside it; when None, those of the log stand in.

    Raises:
        ShapeError: arrays that do not belong together.
        ContractError: values that are no probabilities, actions or rewards; an unknown method.
    """
    settings = settings or DecisionSettings.load()
    if method not in METHODS:
        raise ContractError(f"no off-policy method {method!r}. There are {', '.join(METHODS)}.")
    _check(log, target, reward_range)
    n, actions = target.shape
    rows = np.arange(n)
    low, high = reward_range or (min(0.0, float(log.reward.min())), float(log.reward.max()))
    weight = target[rows, log.action] / log.propensity
    clip = settings.clip or max(1.0, float(np.sqrt(n)))
    clipped = np.minimum(weight, clip)
    missing = _missing(log, target, weight, clip)
    if method == "dr":
        expected = cross_fitted(log, actions, model or ridge, settings)
        direct = (target * expected).sum(axis=1)
        top = direct + clipped * (log.reward - expected[rows, log.action])
        bottom = np.ones(n)
        below, above = low - float(expected.max()), high - float(expected.min())
    else:
        top = clipped * log.reward
        bottom = clipped if method == "snips" else np.ones(n)
        middle = float(top.sum() / bottom.sum()) if method == "snips" and bottom.sum() > 0 else 0.0
        below, above = low - middle, high - middle
    if bottom.sum() <= 0.0:
        raise ContractError("the target never chooses what the log chose, so nothing can be said of it. Log with a policy that explores.")
    terms = group_sums(np.stack([top, bottom], axis=1), log.group)
    largest_group = 1 if log.group is None else int(np.unique(log.group, return_counts=True)[1].max())
    span = min(clip, float(weight.max())) * (high - low) * largest_group * len(terms) / float(bottom.sum())
    found = _interval(terms, span, settings)
    slack = (max(0.0, -missing * below), max(0.0, missing * above))
    limits = [found.low - slack[0], found.high + slack[1]]
    if reward_range is not None:
        limits = [min(max(x, low), high) for x in limits]
    weights = group_sums(np.stack([weight, np.ones(n)], axis=1), log.group)
    error = standard_error(weights)
    square = float((clipped**2).sum())
    return Estimate(
        method=method, value=found.value, low=limits[0], high=limits[1], n=n, groups=len(terms),
        effective=float(clipped.sum() ** 2 / square) if square > 0 else 0.0,
        largest_weight=float(weight.max()), clip=clip, missing=missing, mean_weight=float(weight.mean()),
        weight_z=float((weight.mean() - 1.0) / error) if error > 1e-12 else (0.0 if abs(weight.mean() - 1.0) < 1e-6 else np.inf),
        slack=slack, span=span, terms=terms,
    )  # fmt: skip


def logged(log: Log, settings: DecisionSettings | None = None) -> Estimate:
    """What the logging policy itself earned: the mean reward, as the baseline to beat."""
    settings = settings or DecisionSettings.load()
    n = len(log.reward)
    if n < 2:
        raise ShapeError(f"a log of {n} rows says nothing. Give at least 2.")
    terms = group_sums(np.stack([log.reward, np.ones(n)], axis=1).astype(np.float64), log.group)
    largest_group = float(terms[:, 1].max())
    span = float(np.ptp(log.reward)) * largest_group * len(terms) / n
    found = _interval(terms, span, settings)
    return Estimate("logged", found.value, found.low, found.high, n, len(terms), float(n), 1.0, 1.0, 0.0, 1.0, 0.0, span=span, terms=terms)


def gate(estimate: Estimate, baseline: Estimate | float, settings: DecisionSettings | None = None) -> Verdict:
    """Whether a policy may get traffic: the log must speak of it, and the lower limit of its gain must reach what is asked.

    Args:
        estimate: of the policy.
        baseline: an estimate from the same log (`logged`, or another policy's), compared pair by pair; or a known value.
        settings: `gate_*`. The gain asked for is `gate_min_gain` times the baseline's size, 0 by default: at least as good.

    Raises:
        ShapeError: the two estimates are not of the same log.
    """
    settings = settings or DecisionSettings.load()
    gain = difference(estimate, baseline, settings)
    size = abs(baseline.value if isinstance(baseline, Estimate) else baseline)
    asked = settings.gate_min_gain * size
    shown = f"gain {gain.value:+.4g} [{gain.low:+.4g}, {gain.high:+.4g}]"
    if abs(estimate.weight_z) > settings.gate_max_weight_z:
        return Verdict(
            False,
            "propensities",
            f"weights average {estimate.mean_weight:.3f}, {abs(estimate.weight_z):.1f} standard errors from 1: the logged propensities "
            "are not those that the log was made with, or the log cannot show what the policy chooses. Correct the log.",
            gain,
        )
    if estimate.missing > settings.gate_max_missing:
        return Verdict(
            False,
            "support",
            f"of {estimate.missing:.1%} of the policy's choices the log says too little (allowed {settings.gate_max_missing:.1%}). "
            "Log with more exploration, or keep the policy nearer to the logged one.",
            gain,
        )
    if estimate.effective < settings.gate_min_effective:
        return Verdict(
            False,
            "overlap",
            f"the log is worth {estimate.effective:.0f} rows for this policy, {settings.gate_min_effective:.0f} are needed. Log more rows.",
            gain,
        )
    if gain.high < asked:
        return Verdict(False, "worse", f"{shown} against the {asked:+.4g} asked for: the policy is worse. Keep the baseline.", gain)
    if gain.low < asked:
        return Verdict(
            False, "not_shown", f"{shown}: a gain of {asked:+.4g} is not shown yet. Log more rows, or test it with a holdout.", gain
        )
    return Verdict(
        True, "ok", f"{shown}: at least the {asked:+.4g} asked for, from {estimate.n:,} rows worth {estimate.effective:,.0f}.", gain
    )


def difference(estimate: Estimate, baseline: Estimate | float, settings: DecisionSettings | None = None) -> Interval:
    """Estimate minus baseline with its 95 % interval, paired by group where both come from the same log.

    Raises:
        ShapeError: the two estimates are not of the same log.
    """
    settings = settings or DecisionSettings.load()
    if not isinstance(baseline, Estimate):
        return Interval(estimate.value - baseline, estimate.low - baseline, estimate.high - baseline)
    if len(estimate.terms) != len(baseline.terms) or estimate.n != baseline.n:
        raise ShapeError(
            f"estimate of {estimate.n} rows in {len(estimate.terms)} groups, baseline of {baseline.n} in {len(baseline.terms)}; "
            "must be of one log. Make both from the same one, or give the baseline's value."
        )
    apart = estimate.value - baseline.value
    moves = _influence(estimate) - _influence(baseline)
    found = _interval(np.stack([moves + apart, np.ones(len(moves))], axis=1), estimate.span + baseline.span, settings)
    return Interval(apart, found.low - estimate.slack[0] - baseline.slack[1], found.high + estimate.slack[1] + baseline.slack[0])


def cross_fitted(log: Log, actions: int, model: RewardModel, settings: DecisionSettings) -> np.ndarray:
    """Expected reward of every action in every context, float64 (N, A), each row from a model that saw neither it nor its group."""
    n = len(log.reward)
    _, group = np.unique(np.arange(n) if log.group is None else log.group, return_inverse=True)
    groups = int(group.max()) + 1
    fold = (np.random.default_rng([settings.seed, 1]).permutation(groups) % min(settings.folds, groups))[group]
    low, high = float(log.reward.min()), float(log.reward.max())
    out = np.zeros((n, actions))
    for part in np.unique(fold):
        seen, held = fold != part, fold == part
        if seen.any():
            out[held] = model(log.context[seen], log.action[seen], log.reward[seen], actions)(log.context[held])
    return np.clip(out, low, high)


def ridge(context: np.ndarray, action: np.ndarray, reward: np.ndarray, actions: int) -> Predictor:
    """A reward model in closed form: a ridge of what all actions share, then a ridge for each action on what is left.

    An action seen in few rows stays near what all share; one never seen is exactly that.
    """
    x = np.asarray(context, dtype=np.float64)
    centre, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 1e-12, scale, 1.0)

    def design(raw: np.ndarray) -> np.ndarray:
        return np.concatenate([np.ones((len(raw), 1)), (np.asarray(raw, dtype=np.float64) - centre) / scale], axis=1)

    z = design(x)
    penalty = np.diag([1e-6, *np.full(x.shape[1], _SHARED_ROWS)])
    shared = np.linalg.solve(z.T @ z + penalty, z.T @ reward)
    rest = reward - z @ shared
    own = np.zeros((z.shape[1], actions))
    keep = np.diag([_INTERCEPT_ROWS, *np.full(x.shape[1], _SLOPE_ROWS)])
    for a in np.unique(action):
        of = action == a
        own[:, a] = np.linalg.solve(z[of].T @ z[of] + keep, z[of].T @ rest[of])
    return lambda raw: design(raw) @ (own + shared[:, None])


_SHARED_ROWS, _INTERCEPT_ROWS, _SLOPE_ROWS = 10.0, 10.0, 50.0
"""How many rows' worth of doubt a shared slope, an action's level and an action's slope start with."""


def _missing(log: Log, target: np.ndarray, weight: np.ndarray, clip: float) -> float:
    """Target probability that the log does not show.

    Exact where the logging probabilities are known. Else what lies above the clip in the log's own rows, or, when that is more, what the
    clipped weights miss of their mean of 1: choices of which the log happens to hold none show only there.
    """
    if log.logging is not None:
        return float(np.maximum(target - clip * log.logging, 0.0).sum(axis=1).mean())
    clipped = group_sums(np.stack([np.minimum(weight, clip), np.ones(len(weight))], axis=1), log.group)
    short, error = 1.0 - clipped[:, 0].sum() / len(weight), standard_error(clipped)
    return min(1.0, max(float(np.maximum(weight - clip, 0.0).mean()), float(short) if short > 2 * error else 0.0))


def _influence(of: Estimate) -> np.ndarray:
    top, bottom = of.terms[:, 0], of.terms[:, 1]
    return (top - of.value * bottom) / bottom.mean()


def _interval(terms: np.ndarray, span: float, settings: DecisionSettings) -> Interval:
    """Studentised; with few groups that move the value, or none, never narrower than what holds for any bounded distribution."""
    found = studentised(terms, settings.resamples, settings.seed)
    values, counts = np.unique(np.round(terms[:, 0] / np.maximum(terms[:, 1], 1e-300), 12), return_counts=True)
    moving = len(terms) - (int(counts.max()) if len(values) else 0)
    if moving >= settings.few_events and np.isfinite([found.low, found.high]).all():
        return found
    wide = bernstein(terms, span)
    lows, highs = [x for x in (found.low, wide.low) if np.isfinite(x)], [x for x in (found.high, wide.high) if np.isfinite(x)]
    return Interval(found.value, min(lows), max(highs))


def _check(log: Log, target: np.ndarray, reward_range: tuple[float, float] | None) -> None:
    n = len(log.reward)
    if n < 2:
        raise ShapeError(f"a log of {n} rows says nothing. Give at least 2.")
    if target.ndim != 2 or len(target) != n:
        raise ShapeError(f"target has shape {target.shape}, must be (rows of the log, actions) = ({n}, A). Give one row a logged row.")
    shapes = {"context": (log.context, 2), "action": (log.action, 1), "propensity": (log.propensity, 1), "reward": (log.reward, 1)}
    shapes |= {"group": (log.group, 1)} if log.group is not None else {}
    for name, (array, ndim) in shapes.items():
        if array.ndim != ndim or len(array) != n:
            raise ShapeError(f"{name} has shape {array.shape}, must have {ndim} dimensions and {n} rows. Give one row a logged choice.")
    if log.logging is not None and log.logging.shape != target.shape:
        raise ShapeError(
            f"logging has shape {log.logging.shape}, target {target.shape}; must be equal. Give a probability for each action."
        )
    if not np.issubdtype(log.action.dtype, np.integer) or log.action.min() < 0 or log.action.max() >= target.shape[1]:
        raise ContractError(f"actions must be integers from 0 to {target.shape[1] - 1}, as the target has columns. Number them so.")
    if not (np.isfinite(log.propensity).all() and (log.propensity > 0).all() and (log.propensity <= 1 + 1e-9).all()):
        raise ContractError(
            "propensities must be above 0 and at most 1: the log holds only what its policy could choose. Leave such rows out."
        )
    if not (np.isfinite(log.reward).all() and np.isfinite(log.context).all()):
        raise ContractError("context and reward must be finite. Fill or leave out rows with missing values.")
    if not np.isfinite(target).all() or (target < 0).any() or np.abs(target.sum(axis=1) - 1.0).max() > 1e-6:
        raise ContractError("a row of the target must hold probabilities, none negative, that sum to 1. Normalise them.")
    if log.logging is not None and np.abs(log.logging[np.arange(n), log.action] - log.propensity).max() > 1e-6:
        raise ContractError("propensity differs from the logging policy's probability of the chosen action. Take both from one record.")
    if reward_range is not None and not (reward_range[0] <= log.reward.min() and log.reward.max() <= reward_range[1]):
        raise ContractError(
            f"rewards from {log.reward.min():g} to {log.reward.max():g} lie outside reward_range {reward_range}. "
            "Give the range that they can have."
        )
