"""How good the recommendations are on the test slice, beside two baselines.

Every query is scored against the whole catalogue of its business that was valid then; nothing is sampled. Simultaneous redemptions are
one query. Intervals are over customers. The baselines: `popularity`, redemptions in the training period; `recent_popularity`,
redemptions in the 30 days before the day of the query, which knows more than the model does (the model stops at the train cut-off).
`as_served` is the order of the endpoint: candidates ordered by the ranker (`training.recommender.system`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from rich.table import Table

from training import metrics
from training.recommender.data import DAY_S, Dataset, Queries
from training.recommender.model import TwoTower

TOP = 10
RECENT_DAYS = 30
MODEL, SERVED, POPULARITY, RECENT = "two_tower", "as_served", "popularity", "recent_popularity"
METRICS = ("ndcg@10", "recall@10", "mrr")


class Scorer(Protocol):
    """Anything that scores the whole catalogue for some queries."""

    def scores(self, queries: Queries, index: np.ndarray) -> np.ndarray:
        """float (B, N)."""


def user_vectors(model: TwoTower, queries: Queries, batch_size: int = 512) -> np.ndarray:
    """float32 (Q, D)."""
    model.eval()
    out = []
    with torch.inference_mode():
        for begin in range(0, len(queries), batch_size):
            rows = queries.rows.batch(slice(begin, begin + batch_size))
            out.append(model.user(*(torch.from_numpy(rows[n]) for n in ("sequence_ids", "sequence_values", "features"))).numpy())
    return np.concatenate(out) if out else np.zeros((0, model.tokens.embedding_dim), np.float32)


def item_vectors(model: TwoTower, item_ids: np.ndarray, attributes: np.ndarray, text_vectors: np.ndarray) -> np.ndarray:
    """float32 (N, D)."""
    model.eval()
    with torch.inference_mode():
        return model.item(*(torch.tensor(a) for a in (item_ids, attributes, text_vectors))).numpy()


class RecentCounts:
    """Redemptions of each reward in the days before a moment, counted by whole days so that a lookup is a difference."""

    def __init__(self, dataset: Dataset, days: int = RECENT_DAYS) -> None:
        log = dataset.log
        self.days = days
        self.first = int(log.time.min() // DAY_S)
        last = int(log.time.max() // DAY_S)
        counts = np.zeros((last - self.first + 2, len(dataset.catalogue)), dtype=np.int32)
        np.add.at(counts, ((log.time // DAY_S).astype(np.int64) - self.first + 1, log.item), 1)
        self.total = np.cumsum(counts, axis=0, dtype=np.int32)

    def before(self, as_of: np.ndarray) -> np.ndarray:
        """float64 (B, N): redemptions on the `days` whole days that ended before each moment."""
        end = np.clip((as_of // DAY_S).astype(np.int64) - self.first, 0, len(self.total) - 1)
        begin = np.clip(end - self.days, 0, None)
        return (self.total[end] - self.total[begin]).astype(np.float64)


def training_counts(dataset: Dataset) -> np.ndarray:
    """float64 (N,): redemptions of each reward before the train cut-off."""
    cuts = dataset.cuts
    return dataset.log.counts(len(dataset.catalogue), np.full_like(cuts.begin, -np.inf), cuts.validation_from)


def evaluate(
    model: TwoTower,
    dataset: Dataset,
    resamples: int,
    seed: int,
    served: Scorer | None = None,
) -> dict[str, Any]:
    """Metrics of the model and the baselines on the test slice.

    Args:
        served: both stages together; without it there is no `as_served`.

    Returns:
        JSON-ready: for each method the metrics with intervals; `lift`, the paired difference and ratio of NDCG@10 to each baseline, of
        the method that `lift_of` names.
    """
    values = {name: np.concatenate(parts) for name, parts in _values(model, dataset, served).items()}
    names = list(values)
    stacked = np.concatenate([values[n] for n in names], axis=1)  # (Q, methods * metrics)
    means = stacked.mean(axis=0)
    draws = metrics.bootstrap_means(stacked, dataset.test.customer, resamples, seed)
    columns = {(n, m): i * len(METRICS) + j for i, n in enumerate(names) for j, m in enumerate(METRICS)}
    out: dict[str, Any] = {
        "queries": len(dataset.test),
        "customers": len(np.unique(dataset.test.customer)),
        "rewards": len(dataset.catalogue),
        "methods": {n: {m: metrics.interval(means[columns[n, m]], draws[:, columns[n, m]]).as_dict() for m in METRICS} for n in names},
    }
    ours = SERVED if served is not None else MODEL
    out["lift"] = {b: _lift(means, draws, columns[ours, METRICS[0]], columns[b, METRICS[0]]) for b in (POPULARITY, RECENT)}
    out["lift_of"] = ours
    return out


def _lift(means: np.ndarray, draws: np.ndarray, model: int, baseline: int) -> dict[str, Any]:
    difference = metrics.interval(means[model] - means[baseline], draws[:, model] - draws[:, baseline])
    floor = 1e-12
    ratio = metrics.interval(means[model] / max(means[baseline], floor), draws[:, model] / np.maximum(draws[:, baseline], floor))
    return {"difference": difference.as_dict(), "ratio": ratio.as_dict(), "better": difference.low > 0}


def _values(model: TwoTower, dataset: Dataset, served: Scorer | None) -> dict[str, list[np.ndarray]]:
    catalogue, test = dataset.catalogue, dataset.test
    users = user_vectors(model, test)
    items = item_vectors(model, catalogue.item_ids, catalogue.attributes, catalogue.text_vectors)
    counts, recent = training_counts(dataset), RecentCounts(dataset)
    names = [MODEL, *([SERVED] if served is not None else []), POPULARITY, RECENT]
    out: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for index in _chunks(len(test), 1_000):
        candidates, relevant = test.candidates(catalogue, index), test.relevant(index, len(catalogue))
        scores = {
            MODEL: users[index] @ items.T,
            POPULARITY: np.broadcast_to(counts, candidates.shape),
            RECENT: recent.before(test.as_of[index]),
        }
        if served is not None:
            scores[SERVED] = served.scores(test, index)
        for name, s in scores.items():
            out[name].append(_three(s, candidates, relevant))
    return out


def _three(scores: np.ndarray, candidates: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """float64 (B, 3), in the order of METRICS."""
    n = len(scores)
    query, rank = metrics.ranks(scores, candidates, relevant)
    return np.stack([metrics.ndcg(query, rank, n, TOP), metrics.recall(query, rank, n, TOP), metrics.mrr(query, rank, n)], axis=1)


def _chunks(n: int, size: int) -> Iterator[np.ndarray]:
    for begin in range(0, n, size):
        yield np.arange(begin, min(n, begin + size))


def table(result: dict[str, Any]) -> Table:
    """The result for people."""
    out = Table(title=f"Test slice: {result['queries']:,} queries of {result['customers']:,} customers, {result['rewards']:,} rewards")
    for column in ("method", "NDCG@10", "Recall@10", "MRR"):
        out.add_column(column, justify="left" if column == "method" else "right")
    for name, values in result["methods"].items():
        cells = [f"{v['value']:.4f} [{v['low']:.4f}, {v['high']:.4f}]" for v in values.values()]
        out.add_row(name.replace("_", " "), *(c.replace("[", "\\[") for c in cells))
    for name, lift in result["lift"].items():
        ratio = lift["ratio"]
        line = f"{result['lift_of']} over {name}: ×{ratio['value']:.2f} \\[{ratio['low']:.2f}, {ratio['high']:.2f}]".replace("_", " ")
        out.caption = f"{out.caption}\n{line}" if out.caption else line
    return out
