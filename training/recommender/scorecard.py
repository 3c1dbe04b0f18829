"""One table: our recommender and its peers on the same questions, with intervals.

Every query is scored against the whole catalogue that was valid then. `sampled_*` is the convention of older papers, for comparison with
them only: each relevant reward among 100 negatives drawn at random, as the exact expected value over the draws (Krichene and Rendle, "On
sampled metrics for item recommendation", 2020), so without the luck of one draw. Intervals are 95 %, over resampled customers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import duckdb
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import hypergeom

from contracts.runs import stop_on_signal
from training import metrics
from training.recommender import peers
from training.recommender.data import Dataset, Queries, take_index
from training.recommender.evaluate import item_vectors, training_counts, user_vectors
from training.recommender.fitting import Interrupted
from training.recommender.protocols import Problem, unknown
from training.recommender.system import fit_system
from training.settings import TrainSettings

OURS, RETRIEVAL, RANDOM = "regulars", "two_tower", "random"
TOP = 10
CUTS = (10, 20, 100)
NEGATIVES = 100
CHUNK = 500
NEW_TOUCHES = 2
COLUMNS = (
    "ndcg_at_10",
    "recall_at_10",
    "recall_at_20",
    "recall_at_100",
    "mrr",
    "sampled_ndcg_at_10",
    "sampled_recall_at_10",
    "novelty_at_10",
)
MODELS = (OURS, RETRIEVAL, *peers.PEERS, RANDOM)


class Scorer(Protocol):
    """Anything that scores the whole catalogue for some queries."""

    def scores(self, queries: Queries, index: np.ndarray) -> np.ndarray:
        """float (B, N)."""


# ---- ours -------------------------------------------------------------------------------------------------------------------


@dataclass
class Retrieval:
    """The two-tower alone: the cosine of customer and reward."""

    model: Any
    dataset: Dataset

    def __post_init__(self) -> None:
        c = self.dataset.catalogue
        self.items = item_vectors(self.model, c.item_ids, c.attributes, c.text_vectors)

    def scores(self, queries: Queries, index: np.ndarray) -> np.ndarray:
        return user_vectors(self.model, take_index(queries, index)) @ self.items.T


def fit_ours(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, settings: TrainSettings, folder: Path, console: Console
) -> tuple[Scorer, Scorer, dict[str, Any]]:
    """Our system, its retrieval stage alone, and the system's report.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    with stop_on_signal() as stop:
        try:
            system = fit_system(connection, dataset, settings, folder, console, stop)
        except Interrupted:
            raise KeyboardInterrupt from None
    return system, Retrieval(system.model, dataset), system.report


class Random:
    """Scores without meaning, the same for the same query."""

    name = RANDOM

    def __init__(self, items: int, seed: int) -> None:
        self.items, self.seed = items, seed
        self.chosen: dict[str, Any] = {}

    def fit(self, dataset: Dataset) -> None:
        """Nothing to learn."""

    def scores(self, queries: Queries, index: np.ndarray) -> np.ndarray:
        return np.random.default_rng([self.seed, int(index[0])]).random((len(index), self.items))


# ---- measures ---------------------------------------------------------------------------------------------------------------


@dataclass
class Measured:
    """What one scorer reached on some queries.

    Attributes:
        values: name of the measure -> float64 (Q,); not a number where a query has no such answer.
        shown: bool (N,), whether a reward is among anyone's first 10.
    """

    values: dict[str, np.ndarray]
    shown: np.ndarray


def expected_sampled(rank: np.ndarray, negatives: np.ndarray, k: int = TOP, drawn: int = NEGATIVES) -> tuple[np.ndarray, np.ndarray]:
    """Expected NDCG@k and recall@k of one relevant reward among `drawn` random negatives, float64 (M,) each.

    Args:
        rank: its rank among all negatives and itself, from 1; rounded down. negatives: int64 (M,), how many there are.
    """
    above = np.clip(np.floor(rank).astype(np.int64) - 1, 0, negatives)
    key, back = np.unique(np.stack([above, negatives]), axis=1, return_inverse=True)
    places = np.arange(k)
    chance = hypergeom.pmf(places[None, :], key[1][:, None], key[0][:, None], np.minimum(drawn, key[1])[:, None])  # (U, k)
    back = back.ravel()
    return (chance @ (1.0 / np.log2(2.0 + places)))[back], chance.sum(axis=1)[back]


def measure(scorer: Scorer, queries: Queries, dataset: Dataset, repeats: bool, tick: Callable[[int], None] = lambda _: None) -> Measured:
    """Score all queries, a chunk at a time."""
    novelty = _surprise(dataset)
    n = len(dataset.catalogue)
    cold = training_counts(dataset) == 0
    parts: list[dict[str, np.ndarray]] = []
    shown = np.zeros(n, dtype=bool)
    for index in peers.chunks(len(queries), CHUNK):
        scores = scorer.scores(queries, index)
        candidates, relevant = queries.candidates(dataset.catalogue, index), queries.relevant(index, n)
        candidates |= relevant
        found, top = _measure_chunk(scores, candidates, relevant)
        valid = np.take_along_axis(candidates, top, axis=1)
        shown[top[valid]] = True
        found["novelty_at_10"] = (novelty[top] * valid).sum(axis=1) / np.maximum(1, valid.sum(axis=1))
        if repeats:
            had = peers.histories(queries, index, n).toarray() > 0
            found |= _kind("repeat", scores, candidates, relevant, had) | _kind("new", scores, candidates, relevant, ~had)
        found |= _kind("cold", scores, candidates, relevant, np.broadcast_to(cold, relevant.shape))
        parts.append(found)
        tick(len(index))
    return Measured({name: np.concatenate([p[name] for p in parts]) for name in parts[0]}, shown)


def _surprise(dataset: Dataset) -> np.ndarray:
    """float64 (N,): -log2 of each reward's share of the redemptions before the train cut-off (plus one each)."""
    counts = training_counts(dataset) + 1.0
    return -np.log2(counts / counts.sum())


def _measure_chunk(scores: np.ndarray, candidates: np.ndarray, relevant: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    b = len(scores)
    query, rank = metrics.ranks(scores, candidates, relevant)
    out = {"ndcg_at_10": metrics.ndcg(query, rank, b, TOP), "mrr": metrics.mrr(query, rank, b)}
    for k in CUTS:
        out[f"recall_at_{k}"] = metrics.recall(query, rank, b, k)
    sizes = np.bincount(query, minlength=b)
    negatives = candidates.sum(axis=1) - sizes
    among = rank - _better_relevant(query, rank)
    ndcg, recall = expected_sampled(among, negatives[query])
    for name, value in (("sampled_ndcg_at_10", ndcg), ("sampled_recall_at_10", recall)):
        out[name] = np.bincount(query, weights=value, minlength=b) / np.maximum(sizes, 1)
    masked = np.where(candidates, scores, -np.inf)
    top = np.argpartition(-masked, min(TOP, masked.shape[1] - 1), axis=1)[:, :TOP]
    return out, top


def _better_relevant(query: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """float64 (M,): how many other relevant rewards of the same query are ranked better."""
    order = np.lexsort((rank, query))
    starts = np.searchsorted(query[order], query[order], side="left")
    out = np.empty(len(query))
    out[order] = np.arange(len(query)) - starts
    return out


def _kind(name: str, scores: np.ndarray, candidates: np.ndarray, relevant: np.ndarray, mine: np.ndarray) -> dict[str, np.ndarray]:
    """NDCG@10 and recall@10 of the relevant rewards of one kind only: in the whole list, and in a list of that kind alone.

    `_among_random` is what a random order would reach in the latter, and `_random` in the former, exactly.
    """
    b, wanted = len(scores), relevant & mine
    none = ~wanted.any(axis=1)
    out: dict[str, np.ndarray] = {}
    if none.all():
        keys = ("ndcg_at_10", "recall_at_10", "ndcg_among", "random", "among_random")
        return {f"{name}_{k}": np.full(b, np.nan) for k in keys}
    some = ~none
    # Ranks in the whole list; other relevant rewards stay in it.
    query, rank = metrics.ranks(scores[some], candidates[some], wanted[some])
    inside = candidates & mine
    among_query, among_rank = metrics.ranks(scores[some], inside[some], wanted[some])
    n, sizes = int(some.sum()), wanted[some].sum(axis=1)
    values = {
        "ndcg_at_10": metrics.ndcg(query, rank, n, TOP),
        "recall_at_10": metrics.recall(query, rank, n, TOP),
        "ndcg_among": metrics.ndcg(among_query, among_rank, n, TOP),
        "random": random_ndcg(sizes, candidates[some].sum(axis=1)),
        "among_random": random_ndcg(sizes, inside[some].sum(axis=1)),
    }
    for key, value in values.items():
        out[f"{name}_{key}"] = np.full(b, np.nan)
        out[f"{name}_{key}"][some] = value
    return out


def random_ndcg(relevant: np.ndarray, candidates: np.ndarray, k: int = TOP) -> np.ndarray:
    """Expected NDCG@k of a random order, float64 (Q,), with so many relevant rewards among so many candidates, int64 (Q,) each."""
    discount = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(1.0 + np.arange(1, k + 1)))])
    gained = discount[np.minimum(candidates, k)] * relevant / np.maximum(candidates, 1)
    return gained / np.maximum(discount[np.minimum(relevant, k)], 1e-12)


# ---- one run ----------------------------------------------------------------------------------------------------------------


@dataclass
class Entry:
    """One row over all problems of a split."""

    measured: list[Measured] = field(default_factory=list)
    seconds: float = 0.0
    chosen: list[dict[str, Any]] = field(default_factory=list)
    unknown: list[Measured] = field(default_factory=list)
    attainable: list[Measured] = field(default_factory=list)


@dataclass
class Run:
    """What one split gave, gathered problem by problem."""

    entries: dict[str, Entry] = field(default_factory=dict)
    customers: list[str] = field(default_factory=list)
    attainable_customers: list[str] = field(default_factory=list)
    new: list[np.ndarray] = field(default_factory=list)
    rewards: int = 0
    reports: list[dict[str, Any]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)


def run(problems: Iterable[Problem], settings: TrainSettings, models: tuple[str, ...], folder: Path, console: Console) -> Run:
    """Fit and measure every model on every problem.

    Args:
        models: of `MODELS`.
        folder: for checkpoints of ours.
        console: progress and one line for each model that is done.
    """
    torch.set_num_threads(settings.threads or max(1, min(4, (os.cpu_count() or 2) - 1)))  # they wait by spinning: leave a core free
    out = Run()
    for number, problem in enumerate(problems):
        out.labels.append(problem.label)
        out.rewards = len(problem.dataset.catalogue)
        out.customers += _names(problem.dataset.test)
        out.new.append((problem.dataset.test.rows.sequence_ids[:, :, 1] > 0).sum(axis=1) <= NEW_TOUCHES)
        if problem.attainable is not None:
            out.attainable_customers += _names(problem.attainable.queries)
        console.print(f"{problem.label}: {len(problem.dataset.test):,} test queries, {out.rewards:,} rewards", highlight=False)
        nobody = unknown(problem.dataset.test, problem.test_connection, problem.dataset.vocabulary)
        for name, scorer, seconds, chosen in _fitted(problem, settings, models, folder / str(number), console, out.reports):
            entry = out.entries.setdefault(name, Entry())
            entry.seconds += seconds
            entry.chosen.append(chosen)
            with console.status(f"{problem.label}: measuring {name}"):
                entry.measured.append(measure(scorer, problem.dataset.test, problem.dataset, problem.repeats))
                entry.unknown.append(measure(scorer, nobody, problem.dataset, False))
                if problem.attainable is not None:
                    entry.attainable.append(measure(scorer, problem.attainable.queries, problem.dataset, False))
            found = float(np.mean(entry.measured[-1].values["ndcg_at_10"]))
            console.print(f"{problem.label}: {name}: NDCG@10 {found:.4f}, {seconds:.1f} s {chosen or ''}", highlight=False)
        if problem.attainable is not None:
            truth = measure(_Truth(problem.attainable.truth), problem.attainable.queries, problem.dataset, False)
            out.entries.setdefault("truth", Entry()).attainable.append(truth)
    return out


@dataclass
class _Truth:
    probability: np.ndarray

    def scores(self, queries: Queries, index: np.ndarray) -> np.ndarray:
        return self.probability[index]


def _names(queries: Queries) -> list[str]:
    people = queries.log.customers.take(queries.customer)
    return [f"{b}\n{c}" for b, c in zip(*(people[n].to_pylist() for n in ("business_id", "customer_id")), strict=True)]


def _fitted(
    problem: Problem, settings: TrainSettings, models: tuple[str, ...], folder: Path, console: Console, reports: list[dict[str, Any]]
) -> Iterable[tuple[str, Scorer, float, dict[str, Any]]]:
    items = len(problem.dataset.catalogue)
    if OURS in models or RETRIEVAL in models:
        began = time.monotonic()
        ours, retrieval, report = fit_ours(problem.connection, problem.dataset, settings, folder, console)
        seconds = time.monotonic() - began
        reports.append(report)
        for name, scorer in ((OURS, ours), (RETRIEVAL, retrieval)):
            if name in models:
                yield name, scorer, seconds, {}
    for peer in (*peers.all_peers(problem.repeats, settings.seed, items), Random(items, settings.seed)):
        if peer.name in models:
            began = time.monotonic()
            with console.status(f"{problem.label}: tuning and fitting {peer.name}"):
                peer.fit(problem.dataset)
            yield peer.name, peer, time.monotonic() - began, peer.chosen


# ---- the object -------------------------------------------------------------------------------------------------------------


def summary(data: str, split: str, found: Run, settings: TrainSettings) -> dict[str, Any]:
    """JSON-ready: what `regulars evaluate recommender --json` prints."""
    names = [m for m in MODELS if m in found.entries]
    groups = np.unique(np.array(found.customers), return_inverse=True)[1]
    means, draws, column = _bootstrapped(found, names, "measured", COLUMNS, groups, settings)
    rows = []
    for name in names:
        entry = found.entries[name]
        row: dict[str, Any] = {"model": name}
        for c in COLUMNS:
            row[c] = round(float(means[column[name, c]]), 6)
        interval = metrics.interval(means[column[name, "ndcg_at_10"]], draws[:, column[name, "ndcg_at_10"]])
        row |= {"ndcg_at_10_low": round(interval.low, 6), "ndcg_at_10_high": round(interval.high, 6)}
        row["coverage_at_10"] = round(float(np.mean([m.shown.mean() for m in entry.measured])), 6)
        row["ece"] = _mean([r.get("ece") for r in found.reports]) if name == OURS else None
        row["training_seconds"] = round(entry.seconds, 1)
        row["setting"] = entry.chosen[0] if len(entry.chosen) == 1 else entry.chosen
        rows.append(row)
    out: dict[str, Any] = {
        "data": data, "split": split, "seed": settings.seed, "queries": len(found.customers), "customers": len(np.unique(groups)),
        "rewards": found.rewards, "parts": found.labels, "metrics": _LABELS, "rows": rows,
    }  # fmt: skip
    rivals = [n for n in names if n in peers.PEERS]
    out["best_peer"] = max(rivals, key=lambda n: means[column[n, "ndcg_at_10"]]) if rivals else None
    ours = column.get((OURS, "ndcg_at_10"))
    rival = column.get((out["best_peer"], "ndcg_at_10"))
    out["ratio_to_best_peer"] = None if ours is None or rival is None else _ratio(means, draws, ours, rival)
    out["repeat"] = _kind_summary(found, names, "repeat", groups, settings)
    out["new"] = _kind_summary(found, names, "new", groups, settings)
    out["cold_start"] = {
        "rewards": _kind_summary(found, names, "cold", groups, settings),
        "unknown_customers": _subset(found, names, "unknown", np.ones(len(groups), dtype=bool), groups, settings),
        "new_customers": _subset(found, names, "measured", np.concatenate(found.new), groups, settings),
    }
    out["attainable"] = _attainable(found, names, settings)
    out["report"] = found.reports
    return out


_LABELS = {
    "ndcg_at_10": "unsampled: the whole catalogue valid at the query",
    "recall_at_10": "unsampled", "recall_at_20": "unsampled", "recall_at_100": "unsampled", "mrr": "unsampled",
    "sampled_ndcg_at_10": "100 sampled negatives for each relevant reward, expected value; only for comparison with old papers",
    "sampled_recall_at_10": "100 sampled negatives for each relevant reward, expected value; only for comparison with old papers",
    "coverage_at_10": "share of the catalogue that is in anyone's first 10",
    "novelty_at_10": "mean of -log2 of the popularity share of the first 10, bits",
    "ece": "calibration error of the score as a probability, 15 bins, on the test slice",
}  # fmt: skip
Columns = dict[tuple[str, str], int]


def _bootstrapped(
    found: Run, names: list[str], which: str, measures: tuple[str, ...], groups: np.ndarray, settings: TrainSettings,
    mask: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, Columns]:  # fmt: skip
    """Means, resampled means, and the column of each (model, measure)."""
    column = {(n, m): i * len(measures) + j for i, n in enumerate(names) for j, m in enumerate(measures)}
    stacked = np.stack([_values(found.entries[n], which, m) for n in names for m in measures], axis=1)
    if mask is not None:
        stacked, groups = stacked[mask], groups[mask]
    return stacked.mean(axis=0), metrics.bootstrap_means(stacked, groups, settings.bootstrap, settings.seed), column


def _values(entry: Entry, which: str, measure_: str) -> np.ndarray:
    return np.concatenate([m.values[measure_] for m in getattr(entry, which)])


def _ratio(means: np.ndarray, draws: np.ndarray, a: int, b: int) -> dict[str, float]:
    floor = 1e-12
    return metrics.interval(means[a] / max(means[b], floor), draws[:, a] / np.maximum(draws[:, b], floor)).as_dict()


def _kind_summary(found: Run, names: list[str], kind: str, groups: np.ndarray, settings: TrainSettings) -> dict[str, Any] | None:
    """Rows for the relevant rewards of one kind; None where the split has no such kind."""
    first = found.entries[names[0]].measured[0].values
    if f"{kind}_ndcg_at_10" not in first:
        return None
    mask = np.isfinite(_values(found.entries[names[0]], "measured", f"{kind}_ndcg_at_10"))
    if not mask.any():
        return {"queries": 0, "rows": []}
    measures = tuple(f"{kind}_{m}" for m in ("ndcg_at_10", "recall_at_10", "ndcg_among", "random", "among_random"))
    means, draws, column = _bootstrapped(found, names, "measured", measures, groups, settings, mask)
    rows = []
    for name in names:
        low_high = metrics.interval(means[column[name, measures[0]]], draws[:, column[name, measures[0]]])
        row: dict[str, Any] = {"model": name, "ndcg_at_10": round(low_high.value, 6)}
        row |= {"ndcg_at_10_low": round(low_high.low, 6), "ndcg_at_10_high": round(low_high.high, 6)}
        row["recall_at_10"] = round(float(means[column[name, measures[1]]]), 6)
        row["ndcg_at_10_among_these"] = round(float(means[column[name, measures[2]]]), 6)
        row["ratio_to_random"] = _ratio(means, draws, column[name, measures[0]], column[name, measures[3]])
        row["ratio_to_random_among_these"] = _ratio(means, draws, column[name, measures[2]], column[name, measures[4]])
        rows.append(row)
    return {"queries": int(mask.sum()), "rows": rows}


def _subset(found: Run, names: list[str], which: str, mask: np.ndarray, groups: np.ndarray, settings: TrainSettings) -> dict[str, Any]:
    """NDCG@10 on some of the queries, and ours against the better popularity there."""
    if not mask.any():
        return {"queries": 0, "rows": []}
    means, draws, column = _bootstrapped(found, names, which, ("ndcg_at_10", "recall_at_10"), groups, settings, mask)
    rows = []
    for name in names:
        at = column[name, "ndcg_at_10"]
        low_high = metrics.interval(means[at], draws[:, at])
        rows.append({
            "model": name, "ndcg_at_10": round(low_high.value, 6), "ndcg_at_10_low": round(low_high.low, 6),
            "ndcg_at_10_high": round(low_high.high, 6), "recall_at_10": round(float(means[column[name, "recall_at_10"]]), 6),
        })  # fmt: skip
    out: dict[str, Any] = {"queries": int(mask.sum()), "rows": rows}
    for rival in ("popularity", "recent_popularity"):
        if OURS in names and rival in names:
            out[f"ratio_to_{rival}"] = _ratio(means, draws, column[OURS, "ndcg_at_10"], column[rival, "ndcg_at_10"])
    return out


def _attainable(found: Run, names: list[str], settings: TrainSettings) -> dict[str, Any] | None:
    """How much of what the generator's own probabilities reach is reached; None without a truth."""
    if "truth" not in found.entries:
        return None
    every = [*names, "truth"]
    groups = np.unique(np.array(found.attainable_customers), return_inverse=True)[1]
    means, draws, column = _bootstrapped(found, every, "attainable", ("ndcg_at_10",), groups, settings)
    truth = column["truth", "ndcg_at_10"]
    rows = []
    for name in every:
        at = column[name, "ndcg_at_10"]
        rows.append({"model": name, **_prefixed(metrics.interval(means[at], draws[:, at])), "share": _ratio(means, draws, at, truth)})
    return {"queries": len(groups), "rows": rows}


def _prefixed(i: metrics.Interval) -> dict[str, float]:
    return {"ndcg_at_10": round(i.value, 6), "ndcg_at_10_low": round(i.low, 6), "ndcg_at_10_high": round(i.high, 6)}


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return round(float(np.mean(known)), 6) if known else None


# ---- for people -------------------------------------------------------------------------------------------------------------


_ACCURACY = {"recall_at_10": "R@10", "recall_at_20": "R@20", "recall_at_100": "R@100", "mrr": "MRR"}
_BESIDE = {
    "sampled_ndcg_at_10": "sampled NDCG@10", "sampled_recall_at_10": "sampled R@10", "coverage_at_10": "coverage",
    "novelty_at_10": "novelty",
    "ece": "ECE", "training_seconds": "train s",
}  # fmt: skip


def tables(result: dict[str, Any]) -> list[Table]:
    """The result as tables for the console, none wider than 80 columns."""
    title = f"{result['data']}, split {result['split']}: {result['queries']:,} queries of {result['customers']:,} customers, "
    main = _table(f"{title}{result['rewards']:,} rewards", ("NDCG@10", "95 %", *_ACCURACY.values()))
    beside = _table("sampled: among 100 negatives, only for comparison with old papers", tuple(_BESIDE.values()))
    for r in result["rows"]:
        main.add_row(r["model"], *_value_and_interval(r), *(f"{r[c]:.4f}" for c in _ACCURACY))
        beside.add_row(r["model"], *("" if r[c] is None else f"{r[c]:.{_DIGITS.get(c, 4)}f}" for c in _BESIDE))
    ratio = result["ratio_to_best_peer"]
    if ratio:
        main.caption = f"{OURS} over {result['best_peer']}: ×{ratio['value']:.3f} ({ratio['low']:.3f}–{ratio['high']:.3f})"
    cold = result["cold_start"]
    kinds = (
        ("redeemed before by that customer", result["repeat"]),
        ("new to that customer", result["new"]),
        ("rewards without a redemption before the train cut-off", cold["rewards"]),
        ("unknown customers: nothing known but the moment", cold["unknown_customers"]),
        (f"new customers: at most {NEW_TOUCHES} touches", cold["new_customers"]),
        ("attainable: share of what the true probabilities reach", result["attainable"]),
    )
    return [main, beside, *(_kind_table(name, part) for name, part in kinds if part and part["rows"])]


_DIGITS = {"coverage_at_10": 2, "novelty_at_10": 1, "training_seconds": 0}
_KINDS = {
    "ndcg_at_10_among_these": "among these", "ratio_to_random": "× random", "ratio_to_random_among_these": "among these", "share": "share",
}  # fmt: skip


def _table(title: str, heads: tuple[str, ...]) -> Table:
    out = Table(title=title, padding=(0, 0), pad_edge=False)
    out.add_column("model", no_wrap=True)
    for head in heads:
        out.add_column(head, justify="right", no_wrap="sampled" not in head)
    return out


def _value_and_interval(row: dict[str, Any]) -> tuple[str, str]:
    return f"{row['ndcg_at_10']:.4f}", f"{row['ndcg_at_10_low']:.4f}–{row['ndcg_at_10_high']:.4f}"


def _kind_table(title: str, part: dict[str, Any]) -> Table:
    keys = [k for k in _KINDS if k in part["rows"][0]]
    out = _table(f"{title} ({part['queries']:,} queries)", ("NDCG@10", "95 %", *(_KINDS[k] for k in keys)))
    for r in part["rows"]:
        extra = [f"{v['value']:.2f}" if isinstance(v, dict) else f"{v:.4f}" for v in (r[k] for k in keys)]
        out.add_row(r["model"], *_value_and_interval(r), *extra)
    return out
