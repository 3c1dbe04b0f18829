"""What a good engineer would try first: the methods that the sequence model is measured against.

Each peer sees the same training samples with the same labels as ours, chooses its settings on the same later slice, and gets the same two
corrections there: Platt's slope and intercept on its churn probability, one factor on its value. It forecasts from samples that end at the
as-of day, in which no label can be. Value is asked for some months from the as-of day on; where the labels of training are shorter, a peer
extends what it knows in its own way, as ours does.

`lightgbm`      boosted trees on the 40 statics and the last 13 weeks' purchases and spend; value: a month's spend, Tweedie, month as input.
`rfm_logistic`  logistic regression on log recency, frequency and mean basket; value: linear regression of log spend on the same.
`bg_nbd`        BG/NBD and Gamma-Gamma (`bgnbd.py`), fitted to all histories up to the as-of day; no labels but for the corrections.
`last_period`   churn: the rate lately seen at this recency (isotonic); value: spend of the period of the same length before. Not corrected.

Letters: n samples, M = 12 months.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import lightgbm
import numpy as np
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LinearRegression, LogisticRegression

from contracts.errors import ArtifactError
from contracts.tensors import MONTH_COUNT, MONTH_DAYS
from features import weekly
from features.definitions import signed_log1p
from training.sequence import metrics
from training.sequence.bgnbd import BgNbd, GammaGamma
from training.sequence.data import ACTIVE_DAYS, Samples

RECENT_WEEKS = 13
MOST_ROWS = 300_000
MOST_ROUNDS = 1_000
DRAWS = 400
LEVEL = 0.8
EDGE = 1e-6
_CHUNK = 2_000


@dataclass(frozen=True)
class Question:
    """What is asked, and what may be learned from.

    Attributes:
        train: samples at earlier as-of days with their labels. calibration: the later slice.
        now: samples as of the evaluation's as-of day, built to end there: none of their labels is known.
        horizon_days: of churn. months: of value, 1 to 12.
        seed: of all that is random. threads: of LightGBM.
    """

    train: Samples
    calibration: Samples
    now: Samples
    horizon_days: int
    months: int
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True)
class Answer:
    """Forecasts for n samples.

    Attributes:
        churn: float64 (n,), chance of no purchase within the horizon. value: float64 (n,), net spend of the months.
        low, high: float64 (n,) each, the 80 % interval of the value; None where a method states none.
    """

    churn: np.ndarray
    value: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


class Peer(Protocol):
    """A method to compare with.

    Attributes:
        name: its row in the table.
        chosen: the settings that it chose, for the report.
    """

    name: str
    chosen: dict[str, Any]

    def answer(self, question: Question) -> Answer:
        """Learn from the question's samples and forecast for its `now`."""


# ---- labels, corrections ----------------------------------------------------------------------------------------------------


def churn_rows(samples: Samples, horizon_days: int) -> np.ndarray:
    """int64: the samples whose churn is asked for and known: active, and seen for the whole horizon."""
    return np.flatnonzero(samples.active & (samples.observed_days >= horizon_days))


def value_months(samples: Samples, months: int, least: int = 200) -> int:
    """The most months, up to those asked for, whose spend is known of enough samples (`least`, or a tenth of them); at least 1."""
    enough = min(least, len(samples) // 10)
    return max((m for m in range(1, months + 1) if int((samples.months_seen >= m).sum()) > enough), default=1)


@dataclass(frozen=True)
class Platt:
    """Probability = sigmoid(slope * logit + intercept). Source: Platt (1999)."""

    slope: float = 1.0
    intercept: float = 0.0

    @classmethod
    def fit(cls, probability: np.ndarray, label: np.ndarray) -> Platt:
        """By Newton's method on the log loss; nothing is corrected where the labels are all alike, or the slope would not be positive."""
        if len(label) < 2 or label.all() or not label.any():
            return cls()
        x = np.stack([_logit(probability), np.ones(len(label))], axis=1)
        w = np.array([1.0, 0.0])
        for _ in range(50):
            p = expit(x @ w)
            step = np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + 1e-9 * np.eye(2), x.T @ (label - p))
            w = w + np.clip(step, -2.0, 2.0)
            if np.abs(step).max() < 1e-10:
                break
        return cls(float(w[0]), float(w[1])) if np.isfinite(w).all() and w[0] > 0 else cls()

    def __call__(self, probability: np.ndarray) -> np.ndarray:
        return expit(self.slope * _logit(probability) + self.intercept)


def _logit(probability: np.ndarray) -> np.ndarray:
    return logit(np.clip(probability.astype(np.float64), EDGE, 1.0 - EDGE))


def factor(predicted: np.ndarray, actual: np.ndarray) -> float:
    """What a forecast of value is multiplied with so that its total is right; 1 where one of the totals is not above zero."""
    a, b = float(actual.sum()), float(predicted.sum())
    return a / b if a > 0 and b > 0 else 1.0


class Learned:
    """A peer that learns churn and value, and is then corrected on the later slice."""

    name = ""

    def __init__(self) -> None:
        self.chosen: dict[str, Any] = {}

    def learn(self, question: Question) -> None:
        """Learn from `train`, with `calibration` to choose settings."""
        raise NotImplementedError

    def churn(self, samples: Samples) -> np.ndarray:
        """float64 (n,), before the correction."""
        raise NotImplementedError

    def value(self, samples: Samples, months: int) -> np.ndarray:
        """float64 (n,), before the correction."""
        raise NotImplementedError

    def answer(self, question: Question) -> Answer:
        self.learn(question)
        later, now = question.calibration, question.now
        rows = later.take(churn_rows(later, question.horizon_days))
        platt = Platt.fit(self.churn(rows), rows.churned(question.horizon_days)) if len(rows) else Platt()
        months = value_months(later, question.months)
        known = later.take(np.flatnonzero(later.months_seen >= months))
        scale = factor(self.value(known, months), spent(known, months)) if len(known) else 1.0
        self.chosen |= {"platt": [round(platt.slope, 4), round(platt.intercept, 4)], "value_factor": round(scale, 4)}
        return Answer(platt(self.churn(now)), scale * self.value(now, question.months))


def spent(samples: Samples, months: int) -> np.ndarray:
    """float64 (n,): net spend of the first months after the as-of day."""
    return samples.monthly_spend[:, :months].sum(1, dtype=np.float64)


# ---- boosted trees ----------------------------------------------------------------------------------------------------------


def features_of(samples: Samples) -> np.ndarray:
    """float32 (n, 66): the statics, then the last 13 weeks' purchases and spend, log scale as in the inputs."""
    recent = samples.weeks[:, -RECENT_WEEKS:]
    return np.concatenate([samples.statics, recent[..., weekly.PURCHASES], recent[..., weekly.SPEND]], axis=1)


class LightGbm(Learned):
    """Two ensembles of trees: churn (log loss) and spend of a month (Tweedie). The best of a small grid each, by the later slice."""

    name = "lightgbm"
    churn_grid = ({"num_leaves": 7}, {"num_leaves": 15}, {"num_leaves": 31})
    value_grid = ({"num_leaves": 15, "tweedie_variance_power": 1.2}, {"num_leaves": 15, "tweedie_variance_power": 1.5})

    def learn(self, question: Question) -> None:
        self.common = {
            "learning_rate": 0.05, "min_data_in_leaf": 40, "feature_fraction": 0.6, "bagging_fraction": 0.8, "bagging_freq": 1,
            "lambda_l2": 1.0, "seed": question.seed, "num_threads": question.threads, "deterministic": True, "force_row_wise": True,
            "verbosity": -1,
        }  # fmt: skip
        self.trees, self.rate = self._churn(question)
        self.amounts, self.most_months = self._value(question)

    def _churn(self, question: Question) -> tuple[lightgbm.Booster | None, float]:
        h = question.horizon_days
        train, later = (s.take(churn_rows(s, h)) for s in (question.train, question.calibration))
        label = train.churned(h)
        rate = float(np.clip(label.mean(), EDGE, 1 - EDGE)) if len(train) else 0.5
        if not len(train) or label.all() or not label.any() or not len(later):
            return None, rate
        data = features_of(train), label.astype(np.float32), features_of(later), later.churned(h).astype(np.float32)
        best, found = None, np.inf
        for setting in self.churn_grid:
            booster = self._train({**self.common, **setting, "objective": "binary", "metric": "binary_logloss"}, *data)
            loss = metrics.log_loss(np.asarray(booster.predict(data[2])), data[3] > 0)
            if loss < found:
                best, found = booster, loss
                self.chosen["churn"] = {**setting, "trees": booster.best_iteration, "later_log_loss": round(loss, 6)}
        return best, rate

    def _value(self, question: Question) -> tuple[lightgbm.Booster | None, int]:
        rng = np.random.default_rng(question.seed)
        x, y = _monthly(question.train, rng)
        later_x, later_y = _monthly(question.calibration, rng)
        if not len(y) or not len(later_y) or y.max() <= 0:
            return None, 1
        best, found = None, -np.inf
        for setting in self.value_grid:
            booster = self._train({**self.common, **setting, "objective": "tweedie", "metric": "tweedie"}, x, y, later_x, later_y)
            found_here = metrics.gini(np.asarray(booster.predict(later_x)), later_y)(metrics.ones(len(later_y)))
            if found_here > found:
                best, found = booster, found_here
                self.chosen["value"] = {**setting, "trees": booster.best_iteration, "later_gini": round(found_here, 6)}
        return best, int(x[:, -1].max())

    def _train(
        self, parameters: dict[str, Any], x: np.ndarray, y: np.ndarray, later_x: np.ndarray, later_y: np.ndarray
    ) -> lightgbm.Booster:
        data = lightgbm.Dataset(x, y, free_raw_data=True)
        later = lightgbm.Dataset(later_x, later_y, reference=data)
        stop = lightgbm.early_stopping(30, verbose=False)
        return lightgbm.train(parameters, data, MOST_ROUNDS, valid_sets=[later], callbacks=[stop])

    def churn(self, samples: Samples) -> np.ndarray:
        if self.trees is None or not len(samples):
            return np.full(len(samples), self.rate)
        return np.asarray(self.trees.predict(features_of(samples)), dtype=np.float64)

    def value(self, samples: Samples, months: int) -> np.ndarray:
        """Months beyond those of training are taken to be like the last of them."""
        total = np.zeros(len(samples))
        if self.amounts is None or not len(samples):
            return total
        x = features_of(samples)
        for month in range(1, months + 1):
            number = np.full((len(x), 1), min(month, self.most_months), dtype=np.float32)
            total += np.asarray(self.amounts.predict(np.concatenate([x, number], axis=1)))
        return total


def _monthly(samples: Samples, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """float32 (rows, 67) features with the month's number, and float32 (rows,) its spend (not below 0), of the months that are seen."""
    sample, month = np.nonzero(np.arange(MONTH_COUNT) < samples.months_seen[:, None])
    if len(sample) > MOST_ROWS:
        kept = np.sort(rng.choice(len(sample), MOST_ROWS, replace=False))
        sample, month = sample[kept], month[kept]
    x = np.concatenate([features_of(samples)[sample], (month + 1)[:, None].astype(np.float32)], axis=1)
    return x, np.maximum(samples.monthly_spend[sample, month], 0.0)


# ---- recency, frequency, monetary -------------------------------------------------------------------------------------------


class RfmLogistic(Learned):
    """Three numbers and two lines."""

    name = "rfm_logistic"

    def learn(self, question: Question) -> None:
        h = question.horizon_days
        train = question.train.take(churn_rows(question.train, h))
        label = train.churned(h)
        self.rate = float(np.clip(label.mean(), EDGE, 1 - EDGE)) if len(train) else 0.5
        both = len(train) > 0 and bool(label.any()) and not bool(label.all())
        self.line = LogisticRegression(max_iter=1_000).fit(rfm(train), label) if both else None
        self.months = value_months(question.train, question.months)
        known = question.train.take(np.flatnonzero(question.train.months_seen >= self.months))
        self.amount = LinearRegression().fit(rfm(known), signed_log1p(spent(known, self.months))) if len(known) else None
        self.chosen = {"value_months": self.months}

    def churn(self, samples: Samples) -> np.ndarray:
        if self.line is None or not len(samples):
            return np.full(len(samples), self.rate)
        return np.asarray(self.line.predict_proba(rfm(samples))[:, 1], dtype=np.float64)

    def value(self, samples: Samples, months: int) -> np.ndarray:
        if self.amount is None or not len(samples):
            return np.zeros(len(samples))
        return np.expm1(np.maximum(self.amount.predict(rfm(samples)), 0.0)) * (months / self.months)


def rfm(samples: Samples) -> np.ndarray:
    """float64 (n, 3): logs of days since the last purchase, of days with a purchase, of the mean basket."""
    wanted = [weekly.STATICS.index(name) for name in ("days_since_purchase", "purchase_days", "basket")]
    return samples.statics[:, wanted].astype(np.float64)


# ---- buy till you die -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lives:
    """x, t_x, T in weeks as BG/NBD wants them, k and m as Gamma-Gamma does (`bgnbd.py`); float64 (n,) each."""

    x: np.ndarray
    t_x: np.ndarray
    T: np.ndarray
    k: np.ndarray
    m: np.ndarray

    @classmethod
    def of(cls, samples: Samples) -> Lives:
        """From the statics; days with a purchase are purchases. Counts and days survive the log scale exactly, after rounding."""
        facts = weekly.facts(samples.statics)
        k, first, last = (np.rint(facts[n]) for n in ("purchase_days", "days_since_first_purchase", "days_since_purchase"))
        return cls(np.maximum(k - 1, 0), (first - last) / 7, (first + 1) / 7, k, facts["spend_ever"] / np.maximum(k, 1))

    @property
    def times(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.x, self.t_x, self.T


class BuyTillYouDie:
    """Parameters of the histories up to a day tell of the days after it; corrected by how the same went at the later slice."""

    name = "bg_nbd"

    def __init__(self) -> None:
        self.chosen: dict[str, Any] = {}

    def answer(self, question: Question) -> Answer:
        horizon, weeks = question.horizon_days / 7, question.months * MONTH_DAYS / 7
        platt, scale = self._corrections(question)
        lives = Lives.of(question.now)
        counts, amounts = self._fit(lives)
        churn, value = counts.quiet(horizon, *lives.times), counts.purchases(weeks, *lives.times) * amounts.mean(lives.k, lives.m)
        low, high = _interval(counts, amounts, lives, weeks, question.seed)
        self.chosen = {
            **{n: round(v, 4) for n, v in vars(counts).items()}, **{f"spend_{n}": round(v, 4) for n, v in vars(amounts).items()},
            "platt": [round(platt.slope, 4), round(platt.intercept, 4)], "value_factor": round(scale, 4),
        }  # fmt: skip
        return Answer(platt(churn), scale * value, scale * low, scale * high)

    def _fit(self, lives: Lives) -> tuple[BgNbd, GammaGamma]:
        return BgNbd.fit(*lives.times), GammaGamma.fit(lives.k, lives.m)

    def _corrections(self, question: Question) -> tuple[Platt, float]:
        """Of models fitted to the histories before the later slice's last as-of day, against what followed."""
        later = question.calibration
        later = later.take(np.flatnonzero(later.as_of_day == later.as_of_day.max())) if len(later) else later
        lives = Lives.of(later)
        try:
            counts, amounts = self._fit(lives)
        except ArtifactError:  # too early for anybody to have bought twice: nothing to correct with
            return Platt(), 1.0
        rows = churn_rows(later, question.horizon_days)
        churn = counts.quiet(question.horizon_days / 7, *lives.times)[rows]
        months = value_months(later, question.months)
        known = later.months_seen >= months
        value = counts.purchases(months * MONTH_DAYS / 7, *lives.times) * amounts.mean(lives.k, lives.m)
        return Platt.fit(churn, later.churned(question.horizon_days)[rows]), factor(value[known], spent(later, months)[known])


def _interval(counts: BgNbd, amounts: GammaGamma, lives: Lives, weeks: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The 80 % interval of spend by drawing lives, float64 (n,) each."""
    rng, ends = np.random.default_rng(seed), list[np.ndarray]()
    for begin in range(0, len(lives.x), _CHUNK):
        x, t_x, T, k, m = (np.repeat(v[begin : begin + _CHUNK], DRAWS) for v in vars(lives).values())  # noqa: N806 - as published
        drawn = amounts.draw_sums(counts.draw_purchases(weeks, x, t_x, T, rng), k, m, rng).reshape(-1, DRAWS)
        ends.append(np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1))
    low, high = np.concatenate(ends, axis=1)
    return low, high


# ---- the same again ---------------------------------------------------------------------------------------------------------


class LastPeriod:
    """The next period is like the last one.

    Of who is active nobody fell silent in the last period, so for churn "the same again" would say nothing: recency alone does, at the
    rate seen at this recency on the later slice.
    """

    name = "last_period"

    def __init__(self) -> None:
        self.chosen: dict[str, Any] = {}

    def answer(self, question: Question) -> Answer:
        slices = [s.take(churn_rows(s, question.horizon_days)) for s in (question.calibration, question.train)]
        latest = next((s for s in slices if len(s)), None)
        if latest is None:
            raise ArtifactError(
                f"no training sample is active and seen for {question.horizon_days} days, churn cannot be learned. Take a later --as-of."
            )
        rates = IsotonicRegression(out_of_bounds="clip").fit(recency(latest), latest.churned(question.horizon_days).astype(np.float64))
        weeks = min(round(question.months * MONTH_DAYS / 7), question.now.weeks.shape[1])
        spend = question.now.weeks[:, -weeks:, weekly.SPEND].astype(np.float64)
        value = (np.copysign(np.expm1(np.abs(spend)), spend)).sum(1)
        self.chosen = {"weeks": weeks}
        return Answer(np.clip(rates.predict(recency(question.now)), 0.0, 1.0), value)


def recency(samples: Samples) -> np.ndarray:
    """float64 (n,): days since the last purchase, at most the 90 of an active customer."""
    return np.minimum(np.rint(weekly.facts(samples.statics)["days_since_purchase"]), float(ACTIVE_DAYS))


PEERS: dict[str, type[LightGbm] | type[RfmLogistic] | type[BuyTillYouDie] | type[LastPeriod]] = {
    p.name: p for p in (LightGbm, RfmLogistic, BuyTillYouDie, LastPeriod)
}
"""By their row's name, in the order of the table."""
