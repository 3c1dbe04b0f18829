"""What a good engineer would try first: the methods that the sequence model is measured against.

Each peer sees the same training samples with the same labels as ours. As ours it learns first from what was known when the later slice
began, and gets its settings and its correction there (Platt's slope and intercept on the churn probability, one factor on the value); then
it learns from all samples and keeps both. Ours takes over the slope alone and no level; what the peers would be that way is `shaped`,
reported beside. Forecasts are made from samples that end at the as-of day, in which no label can be. Value is asked for some months from
there on; where the labels of training are shorter, a peer extends what it knows in its own way, as ours does.

`lightgbm`      boosted trees on the 40 statics and the last 13 weeks' purchases and spend; value: a month's spend, Tweedie, month as input.
`rfm_logistic`  logistic regression on log recency, frequency and mean basket; value: linear regression of log spend on the same, smeared.
`bg_nbd`        BG/NBD and Gamma-Gamma (`bgnbd.py`), fitted to all histories up to the as-of day; no labels but for the corrections.
`last_period`   churn: the rate lately seen at this recency (isotonic); value: spend of the period of the same length before. Not corrected.

Letters: n samples, M = 12 months.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import lightgbm
import numpy as np
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LinearRegression, LogisticRegression

from contracts.errors import ArtifactError
from contracts.sequence import STEP_DAYS
from contracts.tensors import MONTH_COUNT, MONTH_DAYS
from features import weekly
from features.definitions import signed_log1p
from training.sequence import metrics
from training.sequence.bgnbd import BgNbd, GammaGamma
from training.sequence.calibrate import platt
from training.sequence.data import ACTIVE_DAYS, Samples

RECENT_WEEKS = 13
MOST_ROWS = 200_000
MOST_ROUNDS, USUAL_ROUNDS = 1_000, 100
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
        shaped: churn and value if only the later slice's shape were taken over, not its levels; None where nothing is corrected.
    """

    churn: np.ndarray
    value: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    shaped: tuple[np.ndarray, np.ndarray] | None = None


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
    return np.flatnonzero(samples.asked(horizon_days))


def value_months(samples: Samples, months: int, least: int = 200) -> int:
    """The most months, up to those asked for, whose spend is known of enough samples (`least`, or a tenth of them); at least 1."""
    enough = min(least, len(samples) // 10)
    return max((m for m in range(1, months + 1) if int((samples.months_seen >= m).sum()) > enough), default=1)


@dataclass(frozen=True)
class Platt:
    """Probability = sigmoid(slope * logit + intercept), set by the same function as ours (`calibrate.platt`)."""

    slope: float = 1.0
    intercept: float = 0.0

    @classmethod
    def fit(cls, probability: np.ndarray, label: np.ndarray) -> Platt:
        return cls(*platt(_logit(probability), label)) if len(label) else cls()

    def __call__(self, probability: np.ndarray) -> np.ndarray:
        return expit(self.slope * _logit(probability) + self.intercept)

    def turned(self, probability: np.ndarray, active: np.ndarray) -> np.ndarray:
        """The slope alone, turned about the mean log-odds of the active customers so that it moves no level: what ours takes over."""
        odds = _logit(probability)
        middle = odds[active].mean() if active.any() else 0.0
        return expit(middle + self.slope * (odds - middle))


def _logit(probability: np.ndarray) -> np.ndarray:
    return logit(np.clip(probability.astype(np.float64), EDGE, 1.0 - EDGE))


def factor(predicted: np.ndarray, actual: np.ndarray) -> float:
    """What a forecast of value is multiplied with to get the total right, between a half and two as ours; 1 without a total above zero."""
    a, b = float(actual.sum()), float(predicted.sum())
    return float(np.clip(a / b, 0.5, 2.0)) if a > 0 and b > 0 else 1.0


def ended(samples: Samples, day: int) -> Samples:
    """What of some samples was known at an earlier day: those before it, their labels censored there. A month counts when its last hour is
    known: unlike in `months_in`, no day is forgiven, as what it held can no longer be taken out."""
    before = samples.take(np.flatnonzero(samples.as_of_day < day))
    seen = (day - before.as_of_day).astype(np.int32)
    months = np.minimum(seen / MONTH_DAYS, MONTH_COUNT).astype(np.int8)
    known = np.arange(MONTH_COUNT) < months[:, None]
    return replace(
        before,
        observed_days=seen,
        months_seen=months,
        next_purchase_days=np.where(before.next_purchase_days < seen, before.next_purchase_days, np.inf).astype(np.float32),
        bought=before.bought & (STEP_DAYS * np.arange(1, before.bought.shape[1] + 1) <= seen[:, None]),
        monthly_spend=np.where(known, before.monthly_spend, 0.0).astype(np.float32),
        monthly_purchases=before.monthly_purchases & known,
    )


class Learned:
    """A peer that learns churn and value in ours' two steps: on what was known when the later slice began, to choose settings and
    corrections there; then, with these, on all samples."""

    name = ""

    def __init__(self) -> None:
        self.chosen: dict[str, Any] = {}

    def learn(self, question: Question, train: Samples, later: Samples | None) -> None:
        """Learn from some samples. With a later slice, settings are chosen by it; without, those chosen before are kept."""
        raise NotImplementedError

    def churn(self, samples: Samples) -> np.ndarray:
        """float64 (n,), before the correction."""
        raise NotImplementedError

    def value(self, samples: Samples, months: int) -> np.ndarray:
        """float64 (n,), before the correction."""
        raise NotImplementedError

    def answer(self, question: Question) -> Answer:
        later, now, corrected, scale = question.calibration, question.now, Platt(), 1.0
        if len(later):
            early = ended(question.train, int(later.as_of_day.min()))
            self.learn(question, early, later)
            if len(churn_rows(early, question.horizon_days)):
                rows = later.take(churn_rows(later, question.horizon_days))
                corrected = Platt.fit(self.churn(rows), rows.churned(question.horizon_days))
            months = value_months(later, question.months)
            known = later.take(np.flatnonzero(later.months_seen >= months))
            scale = factor(self.value(known, months), spent(known, months))
        self.learn(question, question.train, None)
        self.chosen |= {"platt": [round(corrected.slope, 4), round(corrected.intercept, 4)], "value_factor": round(scale, 4)}
        churn, value = self.churn(now), self.value(now, question.months)
        return Answer(corrected(churn), scale * value, shaped=(corrected.turned(churn, now.active), value))


def spent(samples: Samples, months: int) -> np.ndarray:
    """float64 (n,): net spend of the first months after the as-of day."""
    return samples.monthly_spend[:, :months].sum(1, dtype=np.float64)


# ---- boosted trees ----------------------------------------------------------------------------------------------------------


def features_of(samples: Samples) -> np.ndarray:
    """float32 (n, 66): the statics, then the last 13 weeks' purchases and spend, log scale as in the inputs."""
    recent = samples.weeks[:, -RECENT_WEEKS:]
    return np.concatenate([samples.statics, recent[..., weekly.PURCHASES], recent[..., weekly.SPEND]], axis=1)


_OBJECTIVES = {
    "churn": {"objective": "binary", "metric": "binary_logloss"}, "value": {"objective": "tweedie", "metric": "tweedie"},
}  # fmt: skip


class LightGbm(Learned):
    """Two ensembles of trees: churn (log loss) and spend of a month (Tweedie). The best of a small grid each, by the later slice."""

    name = "lightgbm"
    grids: dict[str, tuple[dict[str, float], ...]] = {  # noqa: RUF012 - never changed
        "churn": ({"num_leaves": 7}, {"num_leaves": 15}, {"num_leaves": 31}),
        "value": ({"num_leaves": 15, "tweedie_variance_power": 1.2}, {"num_leaves": 15, "tweedie_variance_power": 1.5}),
    }

    def learn(self, question: Question, train: Samples, later: Samples | None) -> None:
        self.common = {
            "learning_rate": 0.05, "min_data_in_leaf": 40, "feature_fraction": 0.6, "bagging_fraction": 0.8, "bagging_freq": 1,
            "lambda_l2": 1.0, "seed": question.seed, "num_threads": question.threads, "deterministic": True, "force_row_wise": True,
            "verbosity": -1,
        }  # fmt: skip
        h = question.horizon_days
        known = train.take(churn_rows(train, h))
        label = known.churned(h)
        self.rate = float(np.clip(label.mean(), EDGE, 1 - EDGE)) if len(known) else 0.5
        self.trees = None
        if len(known) and label.any() and not label.all():
            asked = None if later is None else later.take(churn_rows(later, h))
            held = None if asked is None or not len(asked) else (features_of(asked), asked.churned(h).astype(np.float32))
            self.trees = self._best("churn", features_of(known), label.astype(np.float32), held)
        rng = np.random.default_rng(question.seed)
        x, y = _monthly(train, rng)
        self.amounts, self.most_months = None, 1
        if len(y) and y.max() > 0:
            held = None if later is None else _monthly(later, rng)
            self.amounts, self.most_months = (
                self._best("value", x, y, held if held is not None and len(held[1]) else None),
                int(x[:, -1].max()),
            )

    def _best(self, what: str, x: np.ndarray, y: np.ndarray, held: tuple[np.ndarray, np.ndarray] | None) -> lightgbm.Booster:
        """The setting and the number of trees that are best on held-out rows; without them, what was chosen before."""
        fixed = {**self.common, **_OBJECTIVES[what]}
        if held is None:
            chosen = self.chosen.setdefault(what, {**self.grids[what][0], "trees": USUAL_ROUNDS})
            setting = {name: v for name, v in chosen.items() if name in self.grids[what][0]}
            return lightgbm.train({**fixed, **setting}, lightgbm.Dataset(x, y), chosen["trees"])
        found = []
        for setting in self.grids[what]:
            data = lightgbm.Dataset(x, y)
            stop = lightgbm.early_stopping(30, verbose=False)
            booster = lightgbm.train(
                {**fixed, **setting}, data, MOST_ROUNDS, valid_sets=[lightgbm.Dataset(*held, reference=data)], callbacks=[stop]
            )
            said = np.asarray(booster.predict(held[0]))
            good = -metrics.log_loss(said, held[1] > 0) if what == "churn" else metrics.gini(said, held[1])(metrics.ones(len(said)))
            found.append((good, booster, setting))
        good, booster, setting = max(found, key=lambda f: f[0])
        self.chosen[what] = {**setting, "trees": max(booster.best_iteration, 1), "later": round(good, 6)}
        return booster

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

    def learn(self, question: Question, train: Samples, later: Samples | None) -> None:
        h = question.horizon_days
        asked = train.take(churn_rows(train, h))
        label = asked.churned(h)
        self.rate = float(np.clip(label.mean(), EDGE, 1 - EDGE)) if len(asked) else 0.5
        both = len(asked) > 0 and bool(label.any()) and not bool(label.all())
        self.line = LogisticRegression(max_iter=1_000).fit(rfm(asked), label) if both else None
        if later is not None or "value_months" not in self.chosen:  # the correction is for so many months: they are kept with it
            self.chosen["value_months"] = value_months(train, question.months)
        self.months = int(self.chosen["value_months"])
        known = train.take(np.flatnonzero(train.months_seen >= self.months))
        self.amount = LinearRegression().fit(rfm(known), signed_log1p(spent(known, self.months))) if len(known) else None
        self.smear = 1.0
        if len(known):  # back from logs a line gives a typical spend, below the mean: its total is made that of the training samples
            actual, said = spent(known, self.months).sum(), self.value(known, self.months).sum()
            self.smear = float(actual / said) if actual > 0 and said > 0 else 1.0

    def churn(self, samples: Samples) -> np.ndarray:
        if self.line is None or not len(samples):
            return np.full(len(samples), self.rate)
        return np.asarray(self.line.predict_proba(rfm(samples))[:, 1], dtype=np.float64)

    def value(self, samples: Samples, months: int) -> np.ndarray:
        if self.amount is None or not len(samples):
            return np.zeros(len(samples))
        return self.smear * np.expm1(np.maximum(self.amount.predict(rfm(samples)), 0.0)) * (months / self.months)


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
        corrected, scale = self._corrections(question)
        lives = Lives.of(question.now)
        counts, amounts = self._fit(lives)
        churn, value = counts.quiet(horizon, *lives.times), counts.purchases(weeks, *lives.times) * amounts.mean(lives.k, lives.m)
        low, high = _interval(counts, amounts, lives, weeks, question.seed)
        self.chosen = {
            **{n: round(v, 4) for n, v in vars(counts).items()}, **{f"spend_{n}": round(v, 4) for n, v in vars(amounts).items()},
            "platt": [round(corrected.slope, 4), round(corrected.intercept, 4)], "value_factor": round(scale, 4),
        }  # fmt: skip
        shaped = corrected.turned(churn, question.now.active), value
        return Answer(corrected(churn), scale * value, scale * low, scale * high, shaped)

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
