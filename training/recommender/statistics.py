"""Statistics of the catalogue for the ranker: what `features.pairs.ItemStats` holds, as of any day.

Letters: N rewards, C customers, L redemptions, M neighbours.

Fixed ones (neighbours, followers, rhythm, parts of the day, categories) come from redemptions before `fit_until`. Shares of redemptions
are counted by whole days before the as-of time, so a production system that refreshes them daily sees the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import sparse

from features.definitions import DAY_S
from features.pairs import PARTS, TEXT_SIZE, WINDOWS_DAYS, ItemStats, log_shares, part_of_hour
from training import metrics
from training.recommender.data import Catalogue, Log, Queries

EASE_LIMIT = 8_000
MIN_PART = 20.0  # redemptions that the prior of the parts of the day weighs
FOLLOW_PRIOR = 5.0


def visible(log: Log, until: np.ndarray) -> np.ndarray:
    """bool (L,): redemptions before the instant of their business, float64 (businesses,)."""
    return log.time < until[log.customer_business[log.customer]]


def interactions(log: Log, mask: np.ndarray, items: int) -> sparse.csr_matrix:
    """float32 (C, N): how often each customer redeemed each reward."""
    ones = np.ones(int(mask.sum()), dtype=np.float32)
    return sparse.csr_matrix((ones, (log.customer[mask], log.item[mask])), shape=(len(log.customers), items))


def ease(matrix: sparse.csr_matrix, ridge: float) -> np.ndarray:
    """Item-item weights B, float32 (N, N), zero diagonal, minimising |X - XB|^2 + ridge |B|^2.

    Args:
        matrix: (C, N), interactions.
        ridge: above 0.

    Source: Steck (2019), Embarrassingly shallow autoencoders for sparse data.
    """
    gram = (matrix.T @ matrix).toarray().astype(np.float64)
    gram[np.diag_indices_from(gram)] += ridge
    inverse = np.linalg.inv(gram)
    weights = -inverse / np.diag(inverse)[None, :]
    np.fill_diagonal(weights, 0.0)
    return weights.astype(np.float32)


def choose_ridge(catalogue: Catalogue, log: Log, until: np.ndarray, queries: Queries, grid: Sequence[float], most: int = 1_000) -> float:
    """The ridge of the grid with which EASE alone ranks the queries best (NDCG@10); the middle one where the catalogue is too large."""
    n = len(catalogue)
    if n > EASE_LIMIT or len(grid) == 1:
        return float(sorted(grid)[len(grid) // 2])
    binary = interactions(log, visible(log, until), n)
    binary.data[:] = 1.0
    index = np.unique(np.linspace(0, len(queries) - 1, min(most, len(queries))).astype(np.int64))
    indptr, items, _ = queries.log.before(queries.customer[index], queries.as_of[index])
    histories = sparse.csr_matrix((np.ones(len(items), np.float32), items, indptr), shape=(len(index), n))
    histories.sum_duplicates()
    histories.data[:] = 1.0
    candidates, relevant = queries.candidates(catalogue, index), queries.relevant(index, n)

    def quality(ridge: float) -> float:
        query, rank = metrics.ranks(histories @ ease(binary, ridge), candidates, relevant)
        return float(metrics.ndcg(query, rank, len(index), 10).mean())

    return max(grid, key=quality)


def cosine_neighbours(matrix: sparse.csr_matrix, shrink: float = 10.0) -> sparse.csr_matrix:
    """Item-item cosine with shrinkage, zero diagonal: for catalogues too large to invert."""
    gram = sparse.coo_matrix(matrix.T @ matrix)
    norm = np.sqrt(np.maximum(gram.diagonal(), 1e-9))
    rows, columns = gram.row, gram.col
    values = gram.data / (norm[rows] * norm[columns] + shrink)
    values[rows == columns] = 0.0
    return sparse.csr_matrix((values.astype(np.float32), (rows, columns)), shape=gram.shape)


def strongest(weights: np.ndarray | sparse.csr_matrix, most: int) -> tuple[np.ndarray, np.ndarray]:
    """For each row its strongest entries by absolute value: columns int32 (N, M) and values float32 (N, M); 0 where there are fewer."""
    n = weights.shape[0]
    m = min(most, n)
    columns, values = np.zeros((n, m), dtype=np.int32), np.zeros((n, m), dtype=np.float32)
    for begin in range(0, n, 512):
        part = weights[begin : begin + 512]
        dense = part if isinstance(part, np.ndarray) else part.toarray()
        best = np.argpartition(-np.abs(dense), m - 1, axis=1)[:, :m]
        columns[begin : begin + 512] = best
        values[begin : begin + 512] = np.take_along_axis(dense, best, axis=1)
    return columns, values


def followers(log: Log, mask: np.ndarray, items: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """For each reward those redeemed at the customer's next moment more often than expected.

    Returns:
        rewards int32 (N, M) and log lifts float32 (N, M), 0 where there is none.
    """
    who, when, what = log.customer[mask], np.floor(log.time[mask] / DAY_S), log.item[mask]
    new = np.ones(len(who), dtype=bool)
    new[1:] = (who[1:] != who[:-1]) | (when[1:] != when[:-1])
    moment = np.cumsum(new) - 1
    first = np.flatnonzero(new)
    count = int(moment[-1]) + 1 if len(moment) else 0
    baskets = sparse.csr_matrix((np.ones(len(what), np.float32), (moment, what)), shape=(count, items))
    baskets.data[:] = 1.0
    follows = np.flatnonzero(who[first[1:]] == who[first[:-1]]) if count > 1 else np.zeros(0, np.int64)
    before, after = baskets[follows], baskets[follows + 1]
    pairs = sparse.coo_matrix(before.T @ after)
    times = np.asarray(before.sum(axis=0)).ravel()
    share = (np.asarray(after.sum(axis=0)).ravel() + 1e-3) / max(len(follows), 1)
    rows, columns, seen = pairs.row, pairs.col, pairs.data
    lift = np.log((seen + FOLLOW_PRIOR * share[columns]) / ((times[rows] + FOLLOW_PRIOR) * share[columns]))
    lift[seen < 2] = 0.0
    return strongest(sparse.csr_matrix((np.maximum(lift, 0.0).astype(np.float32), (rows, columns)), shape=pairs.shape), most)


def rhythm(log: Log, mask: np.ndarray, items: int) -> tuple[np.ndarray, np.ndarray]:
    """Share of each reward's redeemers who redeemed it again (float32 (N,)), and their median pause in days (float32 (N,))."""
    who, when, what = log.customer[mask], log.time[mask], log.item[mask]
    order = np.lexsort((when, what, who))
    who, when, what = who[order], when[order], what[order]
    same = (who[1:] == who[:-1]) & (what[1:] == what[:-1]) & (when[1:] > when[:-1])
    pause, item = (when[1:] - when[:-1])[same] / DAY_S, what[1:][same]
    redeemers = np.bincount(np.unique(what * len(log.customers) + who) // len(log.customers), minlength=items)
    again = np.bincount(np.unique(item * len(log.customers) + who[1:][same]) // len(log.customers), minlength=items)
    overall = float(np.median(pause)) if len(pause) else 30.0
    by_item = np.argsort(item, kind="stable")
    parts = np.split(pause[by_item], np.cumsum(np.bincount(item, minlength=items))[:-1])
    gap = np.array([np.median(np.append(p, [overall] * 3)) for p in parts])
    prior = (again.sum() + 1.0) / (redeemers.sum() + 2.0)
    return ((again + 5.0 * prior) / (redeemers + 5.0)).astype(np.float32), gap.astype(np.float32)


def part_lift(log: Log, mask: np.ndarray, items: int) -> np.ndarray:
    """float32 (N, 4): log of a reward's share in a part of the day over that of all, drawn to 0 where few were seen."""
    part = np.array([part_of_hour(h) for h in range(24)])[(log.time[mask] % DAY_S // 3600).astype(np.int64)]
    counts = np.zeros((items, PARTS))
    np.add.at(counts, (log.item[mask], part), 1.0)
    overall = (counts.sum(axis=0) + 1.0) / (counts.sum() + PARTS)
    mine = (counts + MIN_PART * overall) / (counts.sum(axis=1, keepdims=True) + MIN_PART)
    return np.log(mine / overall).astype(np.float32)


def text_axes(vectors: np.ndarray, size: int = TEXT_SIZE) -> np.ndarray:
    """Text vectors on their main axes, float32 (N, size), length 1 (0 where a text says nothing of its own)."""
    centred = vectors - vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    out = np.zeros((len(vectors), size), dtype=np.float32)
    short = centred @ axes[:size].T
    out[:, : short.shape[1]] = short / np.maximum(np.linalg.norm(short, axis=1, keepdims=True), 1e-6)
    return out


class Statistics:
    """Item statistics of a catalogue as of any day.

    Args:
        until: float64 (businesses,); the fixed statistics know only redemptions before it.
        ridge: of EASE. neighbours: kept for each reward.
    """

    def __init__(self, catalogue: Catalogue, log: Log, until: np.ndarray, ridge: float = 200.0, neighbours: int = 256) -> None:
        self.catalogue, self.log = catalogue, log
        n, mask = len(catalogue), visible(log, until)
        binary = interactions(log, mask, n)
        binary.data[:] = 1.0
        weights = ease(binary, ridge) if n <= EASE_LIMIT else cosine_neighbours(binary)
        near, weight = strongest(weights, neighbours)
        after, follow = followers(log, mask, n, 64)
        again, gap = rhythm(log, mask, n)
        names = [c or "" for c in catalogue.table["category"].to_pylist()]
        codes = {name: i for i, name in enumerate(sorted(set(names)))}
        category = np.array([codes[c] for c in names], dtype=np.int32)
        counts = np.bincount(log.item[mask], minlength=n).astype(np.float64)
        by_business = np.bincount(catalogue.business, counts, len(catalogue.businesses))[catalogue.business]
        in_category = np.zeros(n)
        for b in range(len(catalogue.businesses)):
            mine = catalogue.business == b
            in_category[mine] = np.bincount(category[mine], counts[mine], len(codes))[category[mine]]
        first = np.full(n, np.inf)
        np.minimum.at(first, log.item, log.time)
        self._base = ItemStats(
            shares=np.zeros((len(WINDOWS_DAYS), n), np.float32), repeat_share=again, gap_days=gap, part_lift=part_lift(log, mask, n),
            first_seen=np.where(np.isfinite(catalogue.valid_from), catalogue.valid_from, first), valid_to=catalogue.valid_to,
            category=category, category_share=((in_category + 1e-3) / (by_business + 1.0)).astype(np.float32),
            difficulty=_logs(catalogue, "difficulty"), points=_logs(catalogue, "points_cost"), value=_logs(catalogue, "face_value"),
            text=text_axes(catalogue.text_vectors), neighbours=near, weights=weight, followers=after, follow=follow,
        )  # fmt: skip
        self._first_day = int(log.time.min() // DAY_S) if len(log.time) else 0
        days = int(log.time.max() // DAY_S) - self._first_day + 2 if len(log.time) else 1
        by_day = np.zeros((days, n), dtype=np.int32)
        np.add.at(by_day, ((log.time // DAY_S).astype(np.int64) - self._first_day + 1, log.item), 1)
        self._total = np.cumsum(by_day, axis=0, dtype=np.int32)
        self._cache: dict[int, ItemStats] = {}

    def at(self, as_of: float) -> ItemStats:
        """As of the start of that day."""
        beyond = len(self._total) + max(WINDOWS_DAYS)  # nothing is in any window from there on
        day = int(np.clip(as_of // DAY_S - self._first_day, 0, beyond))
        if day not in self._cache:
            if len(self._cache) > 64:
                self._cache.clear()
            self._cache[day] = replace(self._base, shares=np.stack([self._share(day, w) for w in WINDOWS_DAYS]))
        return self._cache[day]

    def _share(self, day: int, window: int) -> np.ndarray:
        last = len(self._total) - 1
        counts = (self._total[min(day, last)] - self._total[min(max(day - window, 0), last)]).astype(np.float64)
        total = np.bincount(self.catalogue.business, counts, len(self.catalogue.businesses))[self.catalogue.business]
        return log_shares(counts, total)


def _logs(catalogue: Catalogue, column: str) -> np.ndarray:
    values = [np.nan if v is None else float(v) for v in catalogue.table[column].to_pylist()]
    return np.log1p(np.maximum(np.array(values, dtype=np.float32), 0.0))
