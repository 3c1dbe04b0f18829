"""First stage, offline: which rewards of each query the ranker sees, and what it sees of them. The endpoint does the same for one query.

Letters: Q queries, K candidates of a query, P pair features, N rewards, D embedding dim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from features.pairs import History, ItemStats, context_of, nearest, pair_features
from training.recommender.data import Catalogue, Log, Queries
from training.recommender.statistics import Statistics

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Candidates:
    """Ragged: the candidates of query q are rows[indptr[q]:indptr[q + 1]].

    Attributes:
        indptr: int64 (Q + 1,). rows: int64 (sum K,), rows of the catalogue.
        pairs: float32 (sum K, P).
        redeemed: bool (sum K,), redeemed at the query.
    """

    indptr: np.ndarray
    rows: np.ndarray
    pairs: np.ndarray
    redeemed: np.ndarray

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def query(self) -> np.ndarray:
        """int64 (sum K,): the query of each candidate."""
        return np.repeat(np.arange(len(self)), np.diff(self.indptr))


class Histories:
    """What each customer redeemed before a moment, from a log."""

    def __init__(self, log: Log) -> None:
        self.log = log

    def before(self, customer: int, as_of: float) -> History:
        """Redemptions of a customer (row of `Log.customers`; -1 is unknown) strictly before the moment."""
        if customer < 0:
            return History.of(np.zeros(0, np.int64), np.zeros(0))
        begin, end = self.log.starts[customer], self.log.starts[customer + 1]
        until = begin + int(np.searchsorted(self.log.time[begin:end], as_of))
        return History.of(self.log.item[begin:until], self.log.time[begin:until])


def token_rows(catalogue: Catalogue, vocabulary_size: int) -> list[np.ndarray]:
    """For each business int64 (V,): the row of the catalogue of each token, -1 where there is none; unknown tokens have none."""
    out = []
    for number in range(len(catalogue.businesses)):
        rows = np.full(vocabulary_size, -1, dtype=np.int64)
        mine = np.flatnonzero((catalogue.business == number) & (catalogue.item_ids[:, 0] > 1))
        rows[catalogue.item_ids[mine, 0]] = mine
        out.append(rows)
    return out


def collect(
    queries: Queries, log: Log, catalogue: Catalogue, statistics: Statistics, users: np.ndarray, items: np.ndarray,
    tokens: list[np.ndarray], most: int, progress: Progress | None = None,
) -> Candidates:  # fmt: skip
    """Candidates and their pair features.

    Args:
        log: where the histories of these queries are read.
        users: float32 (Q, D). items: float32 (N, D). tokens: of `token_rows`.
        most: nearest rewards by vector; the customer's own and their neighbours come on top.
    """
    histories = Histories(log)
    rows_, pairs_, labels, sizes = [], [], [], []
    for begin in range(0, len(queries), 512):
        index = np.arange(begin, min(begin + 512, len(queries)))
        allowed = queries.candidates(catalogue, index)
        cosine = users[index] @ items.T
        for place, q in enumerate(index):
            as_of = float(queries.as_of[q])
            stats = statistics.at(as_of)
            history = histories.before(int(queries.customer[q]), as_of)
            rows = pick(cosine[place], allowed[place], history, stats, most)
            context = context_of(
                queries.rows.features[q], queries.rows.sequence_ids[q], queries.rows.sequence_values[q], as_of, tokens[queries.business[q]]
            )
            rows_.append(rows)
            pairs_.append(pair_features(rows, cosine[place, rows], history, context, stats, items))
            labels.append(np.isin(rows, queries.items[queries.indptr[q] : queries.indptr[q + 1]]))
            sizes.append(len(rows))
        if progress is not None:
            progress(int(index[-1]) + 1, len(queries))
    return Candidates(np.concatenate([[0], np.cumsum(sizes)]), np.concatenate(rows_), np.concatenate(pairs_), np.concatenate(labels))


def pick(cosine: np.ndarray, allowed: np.ndarray, history: History, stats: ItemStats, most: int) -> np.ndarray:
    """int64 (K,), ascending: the `most` nearest allowed rewards, the customer's own and the nearest neighbours of those.

    Args:
        cosine: float32 (N,). allowed: bool (N,).
    """
    count = int(allowed.sum())
    best = (
        np.argpartition(-np.where(allowed, cosine, -np.inf), min(most, len(cosine) - 1))[:most] if count > most else np.flatnonzero(allowed)
    )
    rows = np.union1d(best, nearest(history, stats))
    return rows[allowed[rows]]
