"""Does our uplift learner rank customers by what an e-mail does to them better than S- and T-learners with gradient boosting?

    python -m benchmarks.bench_uplift --data ../shared/data/hillstrom_email       all outcomes; some ten minutes on one core
    python -m benchmarks.bench_uplift --outcomes visit --repeats 1                the one that tells models apart
    python -m benchmarks.bench_uplift --train HALF --data OTHER_HALF              fitted on one set of customers, judged on another

The Hillstrom e-mail test: three groups by lot, so the propensity is known. Each e-mail against none, and any e-mail against none. Every
customer is scored by models that did not see it (stratified cross-validation, the same folds for every model); scores are ranked within a
fold, as each fold has models of its own. Intervals are a bootstrap over customers for the models as fitted; differences are paired. Peers:
LightGBM as it comes and with small trees (the setting most favourable to the peers of those tried), and a random order.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd

from benchmarks.harness import ROOT, record, write_json
from decisions.qini import Trial, compare, uplift_among_best
from decisions.uplift import fit

ARMS = {"mens": ("Mens E-Mail",), "womens": ("Womens E-Mail",), "any": ("Mens E-Mail", "Womens E-Mail")}
OUTCOMES = ("visit", "conversion", "spend")
FIXED = {"objective": "regression", "verbose": -1, "num_threads": 1, "deterministic": True, "force_row_wise": True}
AS_IT_COMES: dict[str, Any] = {}
SMALL = {"num_leaves": 6, "min_data_in_leaf": 200, "learning_rate": 0.05}
PEERS = ("S-learner", "T-learner", "S-learner, small trees", "T-learner, small trees")
Scorer = Callable[[np.ndarray], np.ndarray]


def features(table: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """What was known before the e-mail, float64 (N, F), and names."""
    columns = {"recency": table.recency, "log_history": np.log(table.history), "mens": table.mens, "womens": table.womens}
    columns |= {"newbie": table.newbie, "urban": table.zip_code == "Urban", "rural": table.zip_code == "Rural"}
    columns |= {"web": table.channel == "Web", "phone": table.channel == "Phone"}
    return np.column_stack([np.asarray(c, dtype=np.float64) for c in columns.values()]), list(columns)


def trial_of(table: pd.DataFrame, arm: str, outcome: str) -> tuple[np.ndarray, Trial]:
    """Features and trial of the customers who got this e-mail or none; a third of all was in each group."""
    used = table[table.segment.isin((*ARMS[arm], "No E-Mail"))]
    treatment = used.segment.isin(ARMS[arm]).to_numpy()
    share = len(ARMS[arm]) / (len(ARMS[arm]) + 1)
    return features(used)[0], Trial(treatment, used[outcome].to_numpy(dtype=np.float64), np.full(len(used), share))


def boosted(x: np.ndarray, y: np.ndarray, setting: dict[str, Any], seed: int) -> Scorer:
    booster = lightgbm.train({**FIXED, **setting, "seed": seed}, lightgbm.Dataset(x, y), 100)
    return lambda z: np.asarray(booster.predict(z))


def t_learner(x: np.ndarray, trial: Trial, setting: dict[str, Any], seed: int) -> Scorer:
    """Two models, one an arm; their difference."""
    t = trial.treatment
    one, none = boosted(x[t], trial.outcome[t], setting, seed), boosted(x[~t], trial.outcome[~t], setting, seed)
    return lambda z: one(z) - none(z)


def s_learner(x: np.ndarray, trial: Trial, setting: dict[str, Any], seed: int) -> Scorer:
    """One model with the treatment as a feature; its difference with and without."""
    model = boosted(np.column_stack([x, trial.treatment]), trial.outcome, setting, seed)
    return lambda z: model(np.column_stack([z, np.ones(len(z))])) - model(np.column_stack([z, np.zeros(len(z))]))


def ours(x: np.ndarray, trial: Trial) -> Scorer:
    return fit(x, trial.treatment, trial.outcome, trial.propensity).raw


def fitted(x: np.ndarray, trial: Trial, seed: int) -> dict[str, Scorer]:
    """Every model on the same customers."""
    return {
        "ours": ours(x, trial),
        "S-learner": s_learner(x, trial, AS_IT_COMES, seed),
        "T-learner": t_learner(x, trial, AS_IT_COMES, seed),
        "S-learner, small trees": s_learner(x, trial, SMALL, seed),
        "T-learner, small trees": t_learner(x, trial, SMALL, seed),
    }


def cross_validated(x: np.ndarray, trial: Trial, folds: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Scores of every customer by models that did not see it, and its fold; treated and untreated spread evenly."""
    rng = np.random.default_rng(seed)
    fold = np.zeros(len(x), dtype=np.int64)
    for arm in (True, False):
        rows = np.flatnonzero(trial.treatment == arm)
        fold[rows] = rng.permutation(len(rows)) % folds
    scores: dict[str, np.ndarray] = {}
    for part in range(folds):
        seen, held = fold != part, fold == part
        known = Trial(trial.treatment[seen], trial.outcome[seen], trial.propensity[seen])
        for name, score in fitted(x[seen], known, seed).items():
            scores.setdefault(name, np.zeros(len(x)))[held] = score(x[held])
    scores["random"] = rng.random(len(x))
    return scores, fold


def measure(train: pd.DataFrame | None, data: pd.DataFrame, arm: str, outcome: str, options: argparse.Namespace) -> dict[str, Any]:
    """One comparison: Qini and AUUC of every model, ours against each peer, and the effect among the best third."""
    x, trial = trial_of(data, arm, outcome)
    runs = []
    for repeat in range(options.repeats if train is None else 1):
        fold: np.ndarray | None = None
        if train is None:
            scores, fold = cross_validated(x, trial, options.folds, options.seed + repeat)
        else:
            scores = {name: score(x) for name, score in fitted(*trial_of(train, arm, outcome), options.seed).items()}
            scores["random"] = np.random.default_rng(options.seed).random(len(x))
        runs.append((compare(scores, trial, fold, options.resamples, options.seed), scores, fold))
    found, scores, fold = runs[0]
    best = max(PEERS, key=lambda name: float(np.mean([run["qini"][name].value for run, _, _ in runs])))
    ranks = scores["ours"] if fold is None else within(scores["ours"], fold)
    return {
        "customers": len(x),
        "average_effect": uplift_among_best(np.zeros(len(x)), trial, 1.0, options.resamples, options.seed).as_dict(),
        "effect_among_best_third": uplift_among_best(ranks, trial, 1 / 3, options.resamples, options.seed).as_dict(),
        "qini": {name: v.as_dict() for name, v in found["qini"].items()},
        "auuc": {name: v.as_dict() for name, v in found["auuc"].items()},
        "qini_of_each_repeat": {name: [round(run["qini"][name].value, 6) for run, _, _ in runs] for name in found["qini"]},
        "best_peer": best,
        "ours_minus": {name: found["difference"]["ours", name].as_dict() for name in (*PEERS, "random")},
    }


def within(score: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Rank of each score within its fold, 0 to 1."""
    out = np.zeros(len(score))
    for part in np.unique(fold):
        rows = np.flatnonzero(fold == part)
        out[rows] = pd.Series(score[rows]).rank(pct=True).to_numpy()
    return out


def show(arm: str, outcome: str, found: dict[str, Any]) -> None:
    print(f"\n{outcome}, {arm} e-mail against none: {found['customers']:,} customers, average effect {text(found['average_effect'])}")
    print(f"   effect among our best third {text(found['effect_among_best_third'])}")
    for name, v in found["qini"].items():
        apart = f"   ours minus it {text(found['ours_minus'][name])}" if name in found["ours_minus"] else ""
        mean = np.mean(found["qini_of_each_repeat"][name])
        print(f"   {name:<24} Qini {text(v)}  mean of repeats {mean:9.6f}{apart}", flush=True)


def text(v: dict[str, float]) -> str:
    return f"{v['value']:9.6f} [{v['low']:9.6f}, {v['high']:9.6f}]"


def simple_mean(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Qini of each model as a multiple of ours, averaged over the comparisons of one outcome."""
    names = next(iter(results.values()))["qini"]
    total = {name: float(np.mean([np.mean(r["qini_of_each_repeat"][name]) for r in results.values()])) for name in names}
    return {name: round(value / total["ours"], 3) for name, value in total.items()}


def main() -> None:
    """Run, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data" / "hillstrom_email", help="folder of customers.parquet"
    )
    parser.add_argument("--train", type=Path, default=None, help="folder to fit on, when the customers of --data are only to be judged on")
    parser.add_argument("--outcomes", nargs="+", default=list(OUTCOMES), choices=OUTCOMES)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2, help="cross-validations with folds of their own; intervals are of the first")
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    data = pd.read_parquet(options.data / "customers.parquet")
    train = None if options.train is None else pd.read_parquet(options.train / "customers.parquet")
    settings = {k: v.name if isinstance(v, Path) else v for k, v in vars(options).items()} | {"load": os.getloadavg()[0]}
    result = record("Whom does an e-mail move?", settings, ["numpy", "lightgbm"])
    found: dict[str, dict[str, Any]] = {}
    for outcome in options.outcomes:
        for arm in ARMS:
            found.setdefault(outcome, {})[arm] = measure(train, data, arm, outcome, options)
            show(arm, outcome, found[outcome][arm])
    means = {outcome: simple_mean(of) for outcome, of in found.items()}
    print("\nQini as a multiple of ours, mean over the comparisons:", means)
    name = "uplift" if train is None else "uplift_other_customers"
    print(write_json(name, result | {"results": found, "multiples_of_ours": means}).name)


if __name__ == "__main__":
    main()
