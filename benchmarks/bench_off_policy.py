"""Do off-policy intervals hold the truth, and does a log of one policy tell what another one earned?

    python -m benchmarks.bench_off_policy                                  200 simulated logs a row; some twenty minutes on one core
    python -m benchmarks.bench_off_policy --runs 50 --methods dr
    python -m benchmarks.bench_off_policy --data ../shared/data/open_bandit_sample

Simulated: five features, eight actions, softmax policies more and less alike (`overlap`), rewards that are common, rare, or money with a
long tail; the truth is the target's mean over 400,000 contexts. A row counts how often the 95 % interval held it, with and without the
logging policy's probabilities of the actions that it did not choose.

Open Bandit: two policies ran at the same time, so what the log of one says of the other can be compared with what the other earned. The
Thompson sampler's probabilities drift, and only those of chosen items were logged; its policy is its mean over the week, the share of each
item at each position. Clicks are few (some 40 a log): the intervals are wide, and are reported.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.harness import ROOT, record, write_json
from decisions.off_policy import METHODS, Log, Method, estimate, gate, logged
from decisions.settings import DecisionSettings

FEATURES, ACTIONS = 5, 8
OVERLAPS = {"good": (0.3, 0.6), "medium": (0.4, -0.2), "poor": (0.6, -0.3)}
"""How sharply the logging policy and the target prefer; a negative sign turns the target's preferences round."""
REWARDS = {"common": 0.2, "rare": 0.02, "money": 0.1}


class World:
    """Contexts, policies and rewards whose truth is known."""

    def __init__(self, reward: str, seed: int = 3) -> None:
        rng = np.random.default_rng(seed)
        self.kind, level = reward, REWARDS[reward]
        self.moves = rng.normal(size=(FEATURES, ACTIONS)) * 0.42
        self.levels = rng.normal(size=ACTIONS) * 0.4 + np.log(level / (1 - level))
        self.tastes = rng.normal(size=(FEATURES, ACTIONS))

    def policy(self, x: np.ndarray, sharp: float) -> np.ndarray:
        z = sharp * x @ self.tastes
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))

    def chance(self, x: np.ndarray) -> np.ndarray:
        """Probability of a reward; not linear, so no reward model of ours is right."""
        return np.asarray(1 / (1 + np.exp(-(x @ self.moves + 0.5 * np.sin(2 * x[:, :1]) + self.levels))))

    def truth(self, sharp: float) -> float:
        x = np.random.default_rng(99).normal(size=(400_000, FEATURES))
        return float((self.policy(x, sharp) * self.chance(x)).sum(axis=1).mean()) * (float(np.exp(0.5)) if self.kind == "money" else 1.0)

    def log(self, rows: int, sharp: float, seed: int) -> Log:
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(rows, FEATURES))
        p = self.policy(x, sharp)
        action = np.minimum((rng.random((rows, 1)) > p.cumsum(axis=1)).sum(axis=1), ACTIONS - 1)
        at = np.arange(rows)
        reward = (rng.random(rows) < self.chance(x)[at, action]).astype(np.float64)
        if self.kind == "money":
            reward *= np.exp(rng.normal(size=rows))
        return Log(x, action, p[at, action], reward, logging=p)


def simulated(options: argparse.Namespace, settings: DecisionSettings) -> list[dict[str, Any]]:
    """A row for each kind of reward, overlap and method."""
    rows = []
    for reward in REWARDS:
        for overlap, (logs, wants) in OVERLAPS.items():
            world = World(reward)
            truth = world.truth(wants)
            for known in (True, False):
                found: dict[Method, list[Any]] = {m: [] for m in options.methods}
                for run in range(options.runs):
                    log = world.log(options.rows, logs, options.seed * 10_000 + run)
                    if not known:
                        log = Log(log.context, log.action, log.propensity, log.reward)
                    for method in options.methods:
                        found[method].append(estimate(log, world.policy(log.context, wants), method, settings))
                for method, of in found.items():
                    rows.append(row(reward, overlap, known, method, truth, of))
                    show(rows[-1])
    return rows


def row(reward: str, overlap: str, known: bool, method: Method, truth: float, of: list[Any]) -> dict[str, Any]:
    values = np.array([e.value for e in of])
    inside = np.mean([e.low <= truth <= e.high for e in of])
    return {
        "reward": reward, "overlap": overlap, "logging_known": known, "method": method, "runs": len(of), "truth": round(truth, 5),
        "coverage": float(inside), "median_width_over_truth": round(float(np.median([e.high - e.low for e in of])) / truth, 3),
        "bias_over_truth": round(float(values.mean()) / truth - 1, 4),
        "rmse_over_truth": round(float(np.sqrt(np.mean((values - truth) ** 2))) / truth, 4),
        "effective_share": round(float(np.median([e.effective / e.n for e in of])), 3),
        "missing": round(float(np.median([e.missing for e in of])), 4),
    }  # fmt: skip


def show(r: dict[str, Any]) -> None:
    known = "known" if r["logging_known"] else "chosen only"
    print(
        f"{r['reward']:<7}{r['overlap']:<7} probabilities {known:<12}{r['method']:<6} holds the truth {r['coverage']:6.1%} of {r['runs']}"
        f"   width {r['median_width_over_truth']:6.3f}  bias {r['bias_over_truth']:+.3f}  rmse {r['rmse_over_truth']:.3f} (of the truth)"
        f"   effective {r['effective_share']:.2f}  missing {r['missing']:.3f}",
        flush=True,
    )


def open_bandit(folder: Path, settings: DecisionSettings) -> list[dict[str, Any]]:
    """Each policy's log on the other policy, by campaign and method, beside what that one earned."""
    table = pd.read_parquet(folder / "impressions.parquet")
    found: list[dict[str, Any]] = []
    for campaign in sorted(table.campaign.unique()):
        of = table[table.campaign == campaign]
        items = int(of.item_id.max()) + 1
        shares = position_shares(of[of.behavior_policy == "bts"], items)
        uniform = np.full_like(shares, 1 / items)
        for source, goal, policy in (("random", "bts", shares), ("bts", "random", uniform)):
            log, position = log_of(of[of.behavior_policy == source], items)
            own, _ = log_of(of[of.behavior_policy == goal], items)
            truth = logged(own, settings)
            for method in METHODS:
                guess = estimate(log, policy[position], method, settings, reward_range=(0.0, 1.0))
                verdict = gate(guess, logged(log, settings), settings)
                found.append({
                    "campaign": str(campaign), "log": source, "policy": goal, "method": method, "rows": guess.n,
                    "clicks": int(log.reward.sum()), "estimate": guess.interval.as_dict(), "on_policy": truth.interval.as_dict(),
                    "holds": bool(guess.low <= truth.value <= guess.high), "effective": round(guess.effective, 1),
                    "missing": round(guess.missing, 4), "largest_weight": round(guess.largest_weight, 1),
                    "verdict": verdict.code, "reason": verdict.reason,
                })  # fmt: skip
                r = found[-1]
                print(
                    f"{r['campaign']:<6} log of {source:<7} policy {goal:<7}{method:<6} {span(r['estimate'])}"
                    f"   earned {span(r['on_policy'])}   effective {r['effective']:,.0f} of {r['rows']:,}   gate: {verdict.code}",
                    flush=True,
                )
    return found


def span(v: dict[str, float]) -> str:
    return f"{v['value']:.4f} [{v['low']:.4f}, {v['high']:.4f}]"


def position_shares(of: pd.DataFrame, items: int) -> np.ndarray:
    """Share of each item at each position, float64 (3, items)."""
    counts = np.zeros((3, items))
    np.add.at(counts, (of.position.to_numpy() - 1, of.item_id.to_numpy()), 1.0)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def log_of(of: pd.DataFrame, items: int) -> tuple[Log, np.ndarray]:
    """The log, with position and the user's features as context, and the position (0 to 2) of each row."""
    position = of.position.to_numpy() - 1
    context = [position[:, None] == np.arange(2)]
    for name in (f"user_feature_{i}" for i in range(4)):
        codes = of[name].astype(str)
        common = codes.value_counts().index[:4]
        context += [(codes == value).to_numpy()[:, None] for value in common[1:]]
    x = np.concatenate(context, axis=1).astype(np.float64)
    return Log(x, of.item_id.to_numpy(), of.propensity_score.to_numpy(), of.click.to_numpy().astype(np.float64)), position


def main() -> None:
    """Run, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data" / "open_bandit_sample", help="folder of impressions.parquet"
    )
    parser.add_argument("--runs", type=int, default=200, help="simulated logs a row")
    parser.add_argument("--rows", type=int, default=1000, help="choices in a simulated log")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--resamples", type=int, default=300)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    settings = DecisionSettings.load(resamples=options.resamples, seed=options.seed)
    shown = {k: v.name if isinstance(v, Path) else v for k, v in vars(options).items()} | {"load": os.getloadavg()[0]}
    result = record("Do off-policy intervals hold the truth?", shown | {"decisions": settings.public()}, ["numpy"])
    bandit = open_bandit(options.data, settings) if (options.data / "impressions.parquet").is_file() else []
    rows = simulated(options, settings)
    worst = min(rows, key=lambda r: r["coverage"])
    print(
        f"lowest share of intervals that hold the truth: {worst['coverage']:.1%} ({worst['reward']}, {worst['overlap']}, {worst['method']})"
    )
    print(write_json("off_policy", result | {"simulated": rows, "open_bandit": bandit, "lowest_coverage": worst["coverage"]}).name)


if __name__ == "__main__":
    main()
