"""Whom an action moves: a doubly robust uplift learner, small on purpose.

Effects of an offer differ little between customers and hide in the noise of what customers do anyway, so two large models subtracted from
each other (the T-learner) mostly rank by noise. Here outcome models take out what is explained without the action; what is left is each
customer's doubly robust score, an unbiased and very noisy reading of the effect. On it are fitted, averaged over several splits:

1. bags of shallow boosted trees, each on a random half of the customers, with few steps and strong penalties;
2. a ridge on the features as they are, which carries where an effect is a slope and not a step.

Their mean is scaled around the average effect by how well it tells, for customers that a bag had not seen, what their scores are. So where
nothing differs everyone gets the average, and where something does, the ranking and the size of the effect are both of use.

Source: doubly robust learner, Kennedy (2023); scores, Robins and Rotnitzky (1995); cross-fitting, Chernozhukov et al. (2018).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

from contracts.errors import ArtifactError, ContractError, ShapeError
from decisions.qini import Trial, check
from decisions.statistics import Interval

FORMAT = 1
_BOUND = 2**31 - 1


@dataclass(frozen=True)
class UpliftSettings:
    """How an uplift model is fitted; the defaults were chosen by cross-validation and are meant to be left alone.

    Attributes:
        splits: cross-fittings of the outcome models that the scores are averaged over.
        folds: parts of a split.
        bags, trees, leaves, rate: of the effect's boosted trees.
        least: customers in a leaf of them, at least; on few customers a tenth of a bag.
        penalty: L2 penalty of a leaf, in customers.
        ridge: penalty of a slope, in customers.
        seed: of splits and bags; equal seeds give equal models.
    """

    splits: int = 3
    folds: int = 4
    bags: int = 16
    trees: int = 40
    leaves: int = 4
    rate: float = 0.03
    least: int = 250
    penalty: float = 50.0
    ridge: float = 3000.0
    seed: int = 7


@dataclass(frozen=True)
class UpliftModel:
    """A fitted model.

    Attributes:
        features: names, in the order of the columns of X.
        average: the mean effect, with its 95 % interval.
        scale: what the spread of the raw prediction is multiplied by, 0 to 2; 0 where no difference between customers was found.
        low, high: limits of a prediction.
    """

    features: tuple[str, ...]
    average: Interval
    scale: float
    centre: float
    slopes: np.ndarray
    intercept: float
    low: float
    high: float
    boosters: tuple[lightgbm.Booster, ...]

    def raw(self, x: np.ndarray) -> np.ndarray:
        """The prediction before scaling, float64 (N,); it ranks customers also where `scale` is 0."""
        x = _matrix(x, len(self.features))
        return (_trees(self.boosters, x) + self.intercept + x @ self.slopes) / 2

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Effect of the action on each customer's expected outcome.

        Args:
            x: float (N, F), finite, in the order of `features`.

        Returns:
            float32 (N,), in the outcome's unit.

        Raises:
            ShapeError: X has other columns than the model was fitted on.
            ContractError: a value that is not finite.
        """
        effect = self.average.value + self.scale * (self.raw(x) - self.centre)
        return np.clip(effect, self.low, self.high).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write `model.json`, last and atomically: the trees as LightGBM's own text, no pickle."""
        body = {
            "features": list(self.features), "average": [self.average.value, self.average.low, self.average.high], "scale": self.scale,
            "centre": self.centre, "slopes": self.slopes.tolist(), "intercept": self.intercept, "low": self.low, "high": self.high,
            "trees": [b.model_to_string() for b in self.boosters],
        }  # fmt: skip
        text = json.dumps({"format": FORMAT, "sha256": _digest(body), "body": body})
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".model.json.{os.getpid()}.tmp"
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(folder / "model.json")
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path) -> UpliftModel:
        """What `save` wrote.

        Raises:
            ArtifactError: the file is missing, damaged, or of another format.
        """
        path, again = folder / "model.json", "Fit and save the uplift model again."
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            body, version, expected = read["body"], read["format"], read["sha256"]
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise ArtifactError(f"cannot read uplift model {path}: {exc}. {again}") from exc
        if version != FORMAT:
            raise ArtifactError(f"uplift model {path} has format {version}, this release reads {FORMAT}. {again}")
        if _digest(body) != expected:
            raise ArtifactError(f"uplift model {path} has checksum {_digest(body)[:12]}, its record says {expected[:12]}. {again}")
        return cls(
            features=tuple(body["features"]), average=Interval(*body["average"]), scale=body["scale"], centre=body["centre"],
            slopes=np.asarray(body["slopes"]), intercept=body["intercept"], low=body["low"], high=body["high"],
            boosters=tuple(lightgbm.Booster(model_str=text) for text in body["trees"]),
        )  # fmt: skip


def fit(
    x: np.ndarray,
    treatment: np.ndarray,
    outcome: np.ndarray,
    propensity: np.ndarray,
    features: Sequence[str] | None = None,
    monotone: Sequence[int] | None = None,
    settings: UpliftSettings | None = None,
) -> UpliftModel:
    """Fit the effect of an action.

    Args:
        x: float (N, F), finite; what was known before the action.
        treatment: bool (N,).
        outcome: float (N,); a share, a count or money.
        propensity: float (N,), probability of being treated, strictly between 0 and 1; known from the trial's design.
        features: names of the columns; `f0`, `f1`, … when None.
        monotone: for each column 1 where the effect can only rise with it, -1 only fall, 0 either: what is known beforehand. The slope
            of a column against its direction is taken out.
        settings: `UpliftSettings()` when None.

    Raises:
        ShapeError: arrays that do not belong together.
        ContractError: values that are no trial; fewer than `8 * folds` customers or fewer than `2 * folds` in an arm.
    """
    settings = settings or UpliftSettings()
    trial = Trial(treatment, np.asarray(outcome, dtype=np.float64), np.asarray(propensity, dtype=np.float64))
    check(trial)
    names = tuple(features) if features is not None else tuple(f"f{i}" for i in range(x.shape[1] if x.ndim == 2 else 0))
    x = _matrix(x, len(names))
    if len(x) != len(outcome):
        raise ShapeError(f"X has {len(x)} rows, outcome {len(outcome)}; must be equal. Give one row a customer.")
    signs = list(monotone) if monotone is not None else [0] * len(names)
    if len(signs) != len(names) or not set(signs) <= {-1, 0, 1}:
        raise ContractError(f"monotone is {signs}, must hold -1, 0 or 1 for each of {len(names)} features. Give one direction a column.")
    smallest = int(min(treatment.sum(), (~treatment).sum()))
    if len(x) < 8 * settings.folds or smallest < 2 * settings.folds:
        raise ContractError(
            f"{len(x)} customers, {smallest} in the smaller arm; at least {8 * settings.folds} and {2 * settings.folds} are needed. "
            "Wait for more outcomes."
        )
    boosters: list[lightgbm.Booster] = []
    unseen, times = np.zeros(len(x)), np.zeros(len(x))
    mean_scores = np.zeros(len(x))
    bag = 0
    for split in range(settings.splits):
        scores = effect_scores(x, trial, settings.folds, settings.seed + split)
        mean_scores += scores / settings.splits
        for _ in range(_share(settings.bags, settings.splits, split)):
            rng = np.random.default_rng([settings.seed, 2, bag])
            held = rng.permutation(len(x)) < len(x) // 2
            trees = _effect_trees(x[~held], scores[~held], signs, settings, bag)
            intercept, slopes = _ridge(x[~held], scores[~held], settings.ridge / 2, signs)
            unseen[held] += (np.asarray(trees.predict(x[held])) + intercept + x[held] @ slopes) / 2
            times[held] += 1
            boosters.append(trees)
            bag += 1
    intercept, slopes = _ridge(x, mean_scores, settings.ridge, signs)
    raw = (_trees(boosters, x) + intercept + x @ slopes) / 2
    value = float(mean_scores.mean())
    error = float(mean_scores.std(ddof=1) / np.sqrt(len(x)))
    span = float(np.ptp(trial.outcome))
    return UpliftModel(
        features=names, average=Interval(value, value - 1.96 * error, value + 1.96 * error),
        scale=_scale(unseen, times, mean_scores), centre=float(raw.mean()), slopes=slopes, intercept=intercept, low=-span, high=span,
        boosters=tuple(boosters),
    )  # fmt: skip


def effect_scores(x: np.ndarray, trial: Trial, folds: int, seed: int) -> np.ndarray:
    """Doubly robust score of each customer, float64 (N,): unbiased for the effect given the features, whatever the outcome models are.

    The outcome models (a ridge and shallow trees, averaged) of a part are fitted on the other parts, parts of equal share of treated.
    """
    fold = _folds(trial.treatment, folds, seed)
    expected = np.zeros((2, len(x)))
    for part in range(folds):
        held = fold == part
        for arm in (0, 1):
            seen = ~held & (trial.treatment == bool(arm))
            intercept, slopes = _ridge(x[seen], trial.outcome[seen], 100.0, None)
            trees = _outcome_trees(x[seen], trial.outcome[seen], seed)
            expected[arm, held] = (intercept + x[held] @ slopes + np.asarray(trees.predict(x[held]))) / 2
    treated, untreated = trial.weights()
    return expected[1] - expected[0] + treated * (trial.outcome - expected[1]) - untreated * (trial.outcome - expected[0])


def _folds(treatment: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Part of each customer, int64 (N,), treated and untreated spread evenly."""
    rng = np.random.default_rng([seed, 1])
    fold = np.zeros(len(treatment), dtype=np.int64)
    for arm in (False, True):
        rows = np.flatnonzero(treatment == arm)
        fold[rows] = rng.permutation(len(rows)) % folds
    return fold


def _fixed(seed: int) -> dict[str, Any]:
    return {
        "verbose": -1,
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "seed": seed % _BOUND,
        "objective": "regression",
    }


def _outcome_trees(x: np.ndarray, y: np.ndarray, seed: int) -> lightgbm.Booster:
    least = max(1, min(100, len(x) // 10))
    setting = {"num_leaves": 8, "min_data_in_leaf": least, "learning_rate": 0.05, "lambda_l2": 10.0}
    return lightgbm.train({**_fixed(seed), **setting}, lightgbm.Dataset(x, y), 100)


def _effect_trees(x: np.ndarray, scores: np.ndarray, signs: list[int], settings: UpliftSettings, number: int) -> lightgbm.Booster:
    setting: dict[str, Any] = {
        "num_leaves": settings.leaves, "min_data_in_leaf": max(1, min(settings.least, len(x) // 10)), "learning_rate": settings.rate,
        "lambda_l2": settings.penalty,
    }  # fmt: skip
    if any(signs):
        setting |= {"monotone_constraints": signs, "monotone_constraints_method": "basic"}
    return lightgbm.train({**_fixed(settings.seed + 101 * number), **setting}, lightgbm.Dataset(x, scores), settings.trees)


def _ridge(x: np.ndarray, y: np.ndarray, penalty: float, signs: list[int] | None) -> tuple[float, np.ndarray]:
    """Intercept and slopes (F,) on the features as they are; the penalty is on standardised ones, the intercept free."""
    centre, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 1e-9, scale, np.inf)
    free = np.ones(x.shape[1], dtype=bool)
    while True:
        z = ((x - centre) / scale)[:, free]
        slopes = np.zeros(x.shape[1])
        slopes[free] = np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T @ (y - y.mean())) / scale[free]
        against = free & (slopes * (0 if signs is None else np.asarray(signs)) < 0)
        if not against.any():
            return float(y.mean() - centre @ slopes), slopes
        free &= ~against


def _scale(unseen: np.ndarray, times: np.ndarray, scores: np.ndarray) -> float:
    """Slope of the scores on what was predicted without having seen them, between 0 and 2."""
    seen = times > 0
    predicted = unseen[seen] / times[seen]
    predicted = predicted - predicted.mean()
    square = float(predicted @ predicted)
    return float(np.clip(predicted @ scores[seen] / square, 0.0, 2.0)) if square > 0 else 0.0


def _trees(boosters: Sequence[lightgbm.Booster], x: np.ndarray) -> np.ndarray:
    return np.mean([np.asarray(b.predict(x)) for b in boosters], axis=0)


def _share(total: int, parts: int, part: int) -> int:
    return total * (part + 1) // parts - total * part // parts


def _matrix(x: np.ndarray, features: int) -> np.ndarray:
    if x.ndim != 2 or x.shape[1] != features or not features:
        raise ShapeError(f"X has shape {x.shape}, must be (customers, {features or 'features'}). Give the columns that the model names.")
    x = np.asarray(x, dtype=np.float64)
    if not np.isfinite(x).all():
        raise ContractError("X must be finite. Fill missing values, with a column that says so where that may matter.")
    return x


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
