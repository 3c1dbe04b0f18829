"""Both stages together, as they are served: towers, candidates, ranker, probabilities.

Letters: Q queries, B of them, K candidates of a query, N rewards, D embedding dim.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from rich.console import Console

from contracts.bundle import Ranking
from features.pairs import ItemStats, part_of_features, popularity_in_context
from training.recommender import candidates, fitting, probability, second_stage
from training.recommender.data import Dataset, Queries, take_index, with_unknown
from training.recommender.evaluate import item_vectors, user_vectors
from training.recommender.model import TwoTower
from training.recommender.ranker import Ranker
from training.recommender.statistics import Statistics, choose_ridge
from training.settings import TrainSettings

BELOW = np.float32(2.5)
"""How far rewards that are not candidates rank below the lowest that is: cosines are at most 1."""


@dataclass
class System:
    """A trained recommender.

    Attributes:
        statistics: as the test slice may see them. items: float32 (N, D).
        ranking: None where the split knows no time after the training, so that nothing can be calibrated.
        report: JSON-ready: epochs of the ranker, seconds, calibration.
    """

    model: TwoTower
    ranker: Ranker
    dataset: Dataset
    settings: TrainSettings
    statistics: Statistics
    items: np.ndarray
    ranking: Ranking | None = None
    report: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._tokens = candidates.token_rows(self.dataset.catalogue, len(self.dataset.vocabulary))

    def collect(self, queries: Queries, statistics: Statistics, progress: candidates.Progress | None = None) -> second_stage.Examples:
        """The candidates of some queries and what the ranker sees of them."""
        users = user_vectors(self.model, queries)
        found = candidates.collect(
            queries, queries.log, self.dataset.catalogue, statistics, users, self.items, self._tokens, self.settings.candidates, progress
        )
        return second_stage.Examples(found, users, queries.rows.features, queries.as_of, np.zeros(len(found.rows), dtype=bool))

    def logits(self, queries: Queries) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boundaries int64 (Q + 1,), rows int64 (sum K,) and logits float32 (sum K, 2) of the candidates."""
        indptr, rows, logits = [np.zeros(1, np.int64)], [], []
        for begin in range(0, len(queries), 1_000):
            part = take_index(queries, np.arange(begin, min(begin + 1_000, len(queries))))
            examples = self.collect(part, self.statistics)
            padded = second_stage.logits_of(self.ranker, examples, self.items)
            sizes = np.diff(examples.candidates.indptr)
            logits.append(padded[np.arange(padded.shape[1])[None, :] < sizes[:, None]])
            rows.append(examples.candidates.rows)
            indptr.append(indptr[-1][-1] + examples.candidates.indptr[1:])
        return np.concatenate(indptr), np.concatenate(rows), np.concatenate(logits)

    def scores(self, queries: Queries, index: np.ndarray) -> np.ndarray:
        """Redeem logits of the candidates, float32 (B, N); the rest ranks below them, by cosine. For a customer without any touch,
        popularity in the context of the moment."""
        part = take_index(queries, index)
        cosine = user_vectors(self.model, part) @ self.items.T
        indptr, rows, logits = self.logits(part)
        owner, redeem = np.repeat(np.arange(len(index)), np.diff(indptr)), logits[:, second_stage.REDEEM]
        lowest = np.zeros(len(index), dtype=np.float32)
        np.minimum.at(lowest, owner, redeem)
        out: np.ndarray = cosine + (lowest - BELOW)[:, None]
        out[owner, rows] = redeem
        for place in np.flatnonzero(part.rows.sequence_ids[:, -1, 1] == 0):  # nobody knows this customer: as the endpoint does
            as_of = float(part.as_of[place])
            out[place] = popularity_in_context(self.statistics.at(as_of), part_of_features(part.rows.features[place]))
        return out


def fit_system(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, settings: TrainSettings, folder: Path, console: Console,
    stop: threading.Event | None = None,
) -> System:  # fmt: skip
    """Train both stages and calibrate.

    Args:
        connection: with the warehouse's tables. folder: for checkpoints of the towers.

    Raises:
        Interrupted: `stop` was set; the towers go on from their checkpoint, the ranker starts again.
    """
    fitted = fitting.fit(dataset, settings, folder, console, stop)
    return fit_second(connection, dataset, settings, fitted.model, console, stop)


def fit_second(
    connection: duckdb.DuckDBPyConnection, dataset: Dataset, settings: TrainSettings, model: TwoTower, console: Console,
    stop: threading.Event | None = None,
) -> System:  # fmt: skip
    """The second stage on top of trained towers: statistics, ranker, probabilities.

    Raises:
        Interrupted: `stop` was set.
    """
    began = time.monotonic()
    c, cuts = dataset.catalogue, dataset.cuts
    items = item_vectors(model, c.item_ids, c.attributes, c.text_vectors)
    with console.status("ranker: statistics of the catalogue"):
        ridge = choose_ridge(c, dataset.validation.log, cuts.validation_from, dataset.validation, settings.ease_ridges)
        known = Statistics(c, dataset.validation.log, cuts.validation_from, ridge, settings.neighbours)
        later = Statistics(c, dataset.test.log, cuts.test_from, ridge, settings.neighbours)
    system = System(model, Ranker.empty(settings), dataset, settings, later, items)
    with console.status("ranker: candidates of the validation slice") as status:
        shown = with_unknown(dataset.validation, settings.cold_share, settings.seed)
        examples = system.collect(shown, known, _progress(status, "ranker: candidates of query"))
        views = second_stage.load_views(connection, c)
        examples = second_stage.with_views(examples, views, shown)

    def epoch(number: int, most: int, value: float) -> None:
        console.print(f"ranker epoch {number}/{most}: NDCG@10 {value:.4f} on the latest queries, {time.monotonic() - began:.0f} s")

    try:
        system.ranker, history = second_stage.fit_ranker(examples, items, settings, epoch, stop)
    except second_stage.Stopped:
        raise fitting.Interrupted from None
    report: dict[str, Any] = {
        "queries": len(dataset.validation),
        "ease_ridge": ridge,
        "candidates": round(len(examples.candidates.rows) / max(1, len(dataset.validation)), 1),
        "candidate_recall": float(examples.candidates.redeemed.sum() / max(1, len(shown.items))),
        "epochs": history,
    }
    if dataset.split == "time":
        with console.status("ranker: probabilities"):
            system.ranking, report["calibration"] = probability.fit_ranking(connection, system.logits, dataset, views, settings)
        report["ece"] = report["calibration"]["ece"]
    system.report = report | {"seconds": round(time.monotonic() - began, 1)}
    return system


def served_statistics(dataset: Dataset, settings: TrainSettings, ridge: float) -> ItemStats:
    """Statistics that know the whole log, as of its end: what a bundle carries."""
    c, forever = dataset.catalogue, np.full(len(dataset.cuts.end), np.inf)
    return Statistics(c, dataset.log, forever, ridge, settings.neighbours).at(float(dataset.log.time.max()) + 86_400.0)


def _progress(status: Any, text: str) -> Callable[[int, int], None]:
    return lambda done, total: status.update(f"{text} {done:,} of {total:,}")
