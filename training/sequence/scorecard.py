"""One table: our sequence model and its peers on the same customers, with intervals.

Churn is measured on the customers who were active at the as-of day, value on all who had bought before it. Intervals are 95 %, over
resampled customers; the resamples are the same for every model, so that a difference is judged by the customers' own differences.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from contracts.tensors import HORIZONS_DAYS, MONTH_COUNT
from training.sequence import metrics, peers
from training.sequence.data import Samples, midnight
from training.sequence.peers import Answer, Peer, Question
from training.sequence.protocols import Problem

OURS, TRUTH = "regulars", "truth"
MODELS = (OURS, *peers.PEERS)
PAIRED = ("auc", "spearman", "gini")
"""Measures with intervals; the others are plain numbers."""
COLUMNS = (
    "auc", "auc_low", "auc_high", "pr_auc", "log_loss", "ece", "ece_floor", "lift_10",
    "spearman", "spearman_low", "spearman_high", "gini", "gini_low", "gini_high", "mae", "bias", "coverage_80",
)  # fmt: skip
_LOWER_IS_BETTER = ("log_loss", "ece", "mae")


class Fitted(Protocol):
    """What fitting our model to the history before an as-of day gives.

    Attributes:
        train: samples that it learned from. calibration: the later slice.
    """

    @property
    def train(self) -> Samples: ...

    @property
    def calibration(self) -> Samples: ...

    def predict(self, samples: Samples, months: int = MONTH_COUNT) -> dict[str, np.ndarray]:
        """The outputs of `contracts.tensors.SEQUENCE` by name; `spend_interval` is that of the first months."""


@dataclass
class Run:
    """Every model's forecasts for one problem.

    Attributes:
        answers: by the row's name. chosen, seconds: settings that were chosen, and time spent, likewise.
    """

    problem: Problem
    answers: dict[str, Answer] = field(default_factory=dict)
    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def run(problem: Problem, fit: Callable[[], Fitted], models: tuple[str, ...], seed: int, threads: int, console: Console) -> Run:
    """Fit ours and the peers to what lies before the as-of day, and forecast.

    Args:
        fit: fits our model; its samples are the peers' too, so it is called whichever rows are asked for.
        models: names out of `MODELS`.
        console: told what is being done.
    """
    found, begin = Run(problem), time.perf_counter()
    fitted = fit()
    if OURS in models:
        found.answers[OURS] = ours(fitted.predict(problem.now, problem.months), problem)
        found.chosen[OURS], found.seconds[OURS] = {}, time.perf_counter() - begin
    question = Question(fitted.train, fitted.calibration, problem.now, problem.horizon_days, problem.months, seed, threads)
    for name in (m for m in models if m != OURS):
        begin, peer = time.perf_counter(), _peer(name)
        with console.status(f"fitting {name}"):
            found.answers[name] = peer.answer(question)
        found.chosen[name], found.seconds[name] = peer.chosen, time.perf_counter() - begin
    return found


def _peer(name: str) -> Peer:
    return peers.PEERS[name]()


def ours(outputs: dict[str, np.ndarray], problem: Problem) -> Answer:
    """Our outputs as an answer. The interval must be that of the problem's months."""
    value = outputs["spend"][:, : problem.months].sum(1, dtype=np.float64)
    low, high = outputs["spend_interval"].astype(np.float64).T
    return Answer(outputs["churn"][:, HORIZONS_DAYS.index(problem.horizon_days)].astype(np.float64), value, low, high)


# ---- what comes of it -------------------------------------------------------------------------------------------------------


def summary(found: Run, seed: int, resamples: int) -> dict[str, Any]:
    """The object that `--json` prints; what cannot be measured is None.

    `shapes_only` holds the peers' measures if they took over from the later slice what ours does: the shape and no level.

    Args:
        resamples: behind each interval.
    """
    problem = found.problem
    active, everyone = problem.test.active, np.ones(len(problem.test), dtype=bool)
    label, value = problem.test.churned(problem.horizon_days), peers.spent(problem.test, problem.months)
    names = list(found.answers)
    rows = {name: _plain(found.answers[name], active, label, value, seed) for name in names}
    churn = {n: metrics.auc(found.answers[n].churn[active], label[active]) for n in names}
    spearman = {n: metrics.spearman(found.answers[n].value, value) for n in names}
    gini = {n: metrics.gini(found.answers[n].value, value) for n in names}
    versus = {}
    for measure, of, who in (("auc", churn, active), ("spearman", spearman, everyone), ("gini", gini, everyone)):
        n = int(who.sum())
        draws = metrics.resampled(of, n, resamples, seed)
        points = {name: of[name](metrics.ones(n)) for name in names}
        for name in names:
            rows[name] |= _interval(measure, points[name], draws[name])
        versus[measure] = _versus(points, draws)
    out: dict[str, Any] = {
        "data": problem.name, "as_of": f"{midnight(problem.as_of_day):%Y-%m-%d}", "horizon_days": problem.horizon_days,
        "value_days": problem.value_days, "customers": len(problem.test), "active": int(active.sum()),
        "churn_rate": _number(float(label[active].mean())) if active.any() else None, "mean_value": _number(float(value.mean())),
        "seed": seed, "rows": [{"model": n, **{c: rows[n].get(c) for c in COLUMNS}} for n in names], "versus_best_peer": versus,
    }  # fmt: skip
    if problem.truth is not None:
        out["attainable"] = _attainable(found, problem.truth, seed, resamples)
        best = out["attainable"]["rows"][-1]
        out["rows"].append({"model": TRUTH, **{c: best.get(c) for c in COLUMNS}})
    out["shapes_only"] = {
        n: _plain(Answer(*a.shaped), active, label, value, seed) for n, a in found.answers.items() if a.shaped is not None
    }
    out["chosen"] = found.chosen
    out["seconds"] = {name: round(s, 1) for name, s in found.seconds.items()}
    return out


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _interval(measure: str, point: float, draws: np.ndarray) -> dict[str, float | None]:
    i = metrics.interval(point, draws)
    return {measure: _number(i.value), f"{measure}_low": _number(i.low), f"{measure}_high": _number(i.high)}


def _of_churn(probability: np.ndarray, label: np.ndarray, seed: int) -> dict[str, float | None]:
    """The measures of churn that have no interval."""
    found = {
        "pr_auc": metrics.pr_auc(probability, label), "log_loss": metrics.log_loss(probability, label),
        "ece": metrics.ece(probability, label), "ece_floor": metrics.ece_floor(probability, seed),
        "lift_10": metrics.lift(probability, label),
    }  # fmt: skip
    return {name: _number(v) for name, v in found.items()}


def _plain(answer: Answer, active: np.ndarray, label: np.ndarray, value: np.ndarray, seed: int) -> dict[str, float | None]:
    """The measures of one model that have no interval."""
    out = _of_churn(answer.churn[active], label[active], seed) if active.any() else {}
    out |= {"mae": _number(float(np.abs(answer.value - value).mean())), "bias": _number(metrics.bias(answer.value, value))}
    if answer.low is not None and answer.high is not None:
        out["coverage_80"] = _number(metrics.coverage(answer.low, answer.high, value))
    return out


def _versus(points: dict[str, float], draws: dict[str, np.ndarray]) -> dict[str, Any] | None:
    """Ours less the best peer by one measure; None where one of them was not asked for."""
    rivals = {name: v for name, v in points.items() if name != OURS and math.isfinite(v)}
    if OURS not in points or not rivals:
        return None
    best = max(rivals, key=lambda name: rivals[name])
    i = metrics.interval(points[OURS] - points[best], draws[OURS] - draws[best])
    return {"peer": best, "difference": _number(i.value), "low": _number(i.low), "high": _number(i.high)}


def _attainable(found: Run, truth: np.ndarray, seed: int, resamples: int) -> dict[str, Any]:
    """Every model and the generator's own chances on the active customers for whom these were written; the chances come last."""
    problem = found.problem
    rows = np.flatnonzero(problem.test.active & np.isfinite(truth))
    label = problem.test.churned(problem.horizon_days)[rows]
    forecasts = {**{n: a.churn[rows] for n, a in found.answers.items()}, TRUTH: truth[rows]}
    of = {n: metrics.auc(p, label) for n, p in forecasts.items()}
    draws = metrics.resampled(of, len(rows), resamples, seed) if len(rows) else {n: np.empty(0) for n in of}
    out = []
    for name, probability in forecasts.items():
        point = of[name](metrics.ones(len(rows)))
        row = {"model": name, **_interval("auc", point, draws[name]), **(_of_churn(probability, label, seed) if len(rows) else {})}
        if name != TRUTH and len(rows):
            best = of[TRUTH](metrics.ones(len(rows)))
            i = metrics.interval(point - best, draws[name] - draws[TRUTH])
            row |= {"less_truth": _number(i.value), "less_truth_low": _number(i.low), "less_truth_high": _number(i.high)}
        out.append(row)
    return {"active": len(rows), "rows": out}


# ---- for people -------------------------------------------------------------------------------------------------------------


_SHOWN: tuple[tuple[str, str, str], ...] = (
    ("auc", "AUC\n95 %", ".3f"), ("pr_auc", "PR\nAUC", ".3f"), ("log_loss", "log\nloss", ".3f"), ("ece", "ECE\nfloor", ".3f"),
    ("lift_10", "lift\n10 %", ".2f"), ("spearman", "rank\ncorr.", ".3f"), ("gini", "Gini\n95 %", ".3f"), ("mae", "MAE", ".1f"),
    ("bias", "bias", "+.0%"), ("coverage_80", "in\n80 %", ".0%"),
)  # fmt: skip


def table(result: dict[str, Any]) -> Table:
    """The result as one table of at most 80 columns, ours first, the best of each column bold (the generator's truth does not compete)."""
    rate = result["churn_rate"]
    title = f"{result['data']} as of {result['as_of']}: churn within {result['horizon_days']} days"
    title += f" of {result['active']:,} active customers" + (f" ({rate:.0%} churn)" if rate is not None else "")
    title += f", value of {result['value_days']} days of {result['customers']:,}"
    out = Table(title=title, padding=(0, 0), pad_edge=False)
    out.add_column("model", no_wrap=True)
    for _, head, _ in _SHOWN:
        out.add_column(head, justify="right", no_wrap=True)
    best = {name: _best(result["rows"], name) for name, _, _ in _SHOWN}
    for row in result["rows"]:
        out.add_row(row["model"], *(_cell(row, name, shape, best[name]) for name, _, shape in _SHOWN))
    out.caption = "\n".join(
        f"{OURS} less {v['peer']}, {name}: {v['difference']:+.4f} ({v['low']:+.4f} to {v['high']:+.4f})"
        for name, v in result["versus_best_peer"].items()
        if v
    )
    return out


def _best(rows: list[dict[str, Any]], name: str) -> float | None:
    values = [r[name] for r in rows if r[name] is not None and r["model"] != TRUTH]
    if not values or name == "coverage_80":
        return None
    return min(values, key=abs) if name == "bias" else min(values) if name in _LOWER_IS_BETTER else max(values)


def _cell(row: dict[str, Any], name: str, shape: str, best: float | None) -> Text:
    """A number, below it its interval or floor; bold where it is the best."""
    if row[name] is None:
        return Text("")
    text = Text(format(row[name], shape), style="bold" if row[name] == best and row["model"] != TRUTH else "")
    if name in PAIRED and row[f"{name}_low"] is not None:
        text.append(f"\n{row[f'{name}_low']:.2f}–{row[f'{name}_high']:.2f}".replace("0.", "."), style="not bold")
    if name == "ece":
        text.append(f"\n{row['ece_floor']:.3f}", style="not bold")
    return text
