"""What a good engineer would try first: the methods that the recommender is measured against.

Each peer is tuned on the validation slice (fitted to what lies before it), one setting after another, and then fitted once more to the
history before the test slice, validation included. At a query it may use the customer's whole history before the query's as-of time:
the history is folded in, so nobody is scored by what was known of them at the cut-off. Where customers redeem rewards again, it is tuned
too whether what a customer had is put last, left where it is, or lifted by how often. Who has no history gets popularity.

`popularity`           redemptions before the cut-off, all of them or of the last 30 or 90 days: whichever is best on the validation slice.
`recent_popularity`    redemptions in the 30 whole days before the query's day: it goes on counting after the cut-off.
`personal_popularity`  what the customer redeemed most often, then popularity.
`item_knn`             cosine of the rewards' customers, the k nearest (Sarwar and others, 2001; shrinkage as in Bell and Koren, 2007).
`ials`                 weighted matrix factorisation (Hu, Koren and Volinsky, 2008), `implicit`.
`bpr`                  Bayesian personalised ranking (Rendle and others, 2009), `implicit`.
`ease`                 ridge regression of each reward on all others (Steck, 2019), closed form.
`plain_two_tower`      customer number and the mean of the history against the reward number, two small networks, in-batch softmax.

Letters: C customers, N rewards, B queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from training import metrics
from training.recommender.data import DAY_S, Dataset, Log, Queries
from training.recommender.evaluate import RecentCounts

TOP = 10
MOST_VALIDATION = 1_000
MOST_WINDOW = 300
EASE_MOST_ITEMS = 8_000
FILTERED = -1.0
BOOSTS = (FILTERED, 0.0, 0.05, 0.15, 0.4, 1.0, 3.0, 10.0)
"""How far what a customer had is lifted: the scores lie in 0..1, the lift is this times the share of the customer's most frequent one."""
CHUNK = 500


class Peer(Protocol):
    """A method to compare with.

    Attributes:
        name: its row in the table.
        chosen: the setting that was best on the validation slice, and what it reached there.
    """

    name: str
    chosen: dict[str, Any]

    def fit(self, dataset: Dataset) -> None:
        """Tune on the validation slice, then fit to all that lies before the test slice."""

    def scores(self, queries: Queries, index: np.ndarray) -> np.ndarray:
        """float (B, N): higher is better; candidates are not yet taken into account."""


# ---- interactions and histories ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interactions:
    """What a peer is fitted to.

    Attributes:
        log: its rows before `cut` (float64 (businesses,), epoch seconds) may be used.
        counts: float32 (C, N) CSR, redemptions of each customer of `log` before the cut.
    """

    log: Log
    cut: np.ndarray
    counts: sp.csr_matrix

    @classmethod
    def before(cls, log: Log, cut: np.ndarray, items: int) -> Interactions:
        inside = log.time < cut[log.customer_business[log.customer]]
        shape = (len(log.customers), items)
        pairs = (log.customer[inside], log.item[inside])
        return cls(log, cut, sp.csr_matrix((np.ones(int(inside.sum()), np.float32), pairs), shape=shape))

    def recent(self, days: float) -> np.ndarray:
        """float64 (N,): redemptions in the last days before the cut."""
        return self.log.counts(self.counts.shape[1], self.cut - days * DAY_S, self.cut)


def histories(queries: Queries, index: np.ndarray, items: int) -> sp.csr_matrix:
    """float32 (B, N) CSR: how often each customer had redeemed each reward before the query."""
    indptr, what, _ = queries.history(index)
    out = sp.csr_matrix((np.ones(len(what), np.float32), what, indptr), shape=(len(index), items))
    out.sum_duplicates()
    return out


def weighted(counts: sp.csr_matrix, logs: bool) -> sp.csr_matrix:
    """Counts as log(1 + count), or as ones."""
    out = counts.copy()
    out.data = np.log1p(out.data) if logs else np.ones_like(out.data)
    return out


def chunks(n: int, size: int = CHUNK) -> Iterator[np.ndarray]:
    for begin in range(0, n, size):
        yield np.arange(begin, min(n, begin + size))


def unit(scores: np.ndarray) -> np.ndarray:
    """Each row moved and scaled into 0..1; a constant row becomes 0."""
    low, high = scores.min(axis=1, keepdims=True), scores.max(axis=1, keepdims=True)
    return (scores - low) / np.where(high > low, high - low, 1.0)


class Fallback:
    """Popularity for who has no history, and to order what a method leaves equal."""

    def __init__(self, popularity: np.ndarray) -> None:
        self.popularity = (popularity / max(1.0, popularity.max())).astype(np.float32)

    def __call__(self, scores: np.ndarray, history: sp.csr_matrix) -> np.ndarray:
        empty = np.diff(history.indptr) == 0
        return np.where(empty[:, None], self.popularity, scores + np.float32(1e-4) * self.popularity)


def lifted(scores: np.ndarray, history: sp.csr_matrix, boost: float) -> np.ndarray:
    """Scores in 0..1, with what each customer had before put last (`FILTERED`) or lifted by how often."""
    out = unit(scores)
    if boost == 0.0:
        return out
    own = weighted(history, logs=True)
    rows = np.repeat(np.arange(own.shape[0]), np.diff(own.indptr))
    most = np.maximum(own.max(axis=1).toarray().ravel(), 1e-9)
    out[rows, own.indices] += FILTERED * 2 if boost == FILTERED else boost * own.data / most[rows]
    return out


# ---- tuning -----------------------------------------------------------------------------------------------------------------


def sample_of(queries: Queries, most: int = MOST_VALIDATION) -> np.ndarray:
    """Evenly spaced queries, most of all."""
    n = len(queries)
    return np.arange(n) if n <= most else np.unique(np.linspace(0, n - 1, most).astype(np.int64))


def goodness(
    dataset: Dataset, score: Callable[[np.ndarray], np.ndarray], queries: Queries | None = None, most: int = MOST_VALIDATION
) -> float:
    """Mean NDCG@10 of a scoring function on (a part of) the validation slice."""
    queries = queries or dataset.validation
    index, values = sample_of(queries, most), list[np.ndarray]()
    for part in chunks(len(index)):
        some = index[part]
        candidates, relevant = queries.candidates(dataset.catalogue, some), queries.relevant(some, len(dataset.catalogue))
        query, rank = metrics.ranks(score(some), candidates, relevant)
        values.append(metrics.ndcg(query, rank, len(some), TOP))
    return float(np.concatenate(values).mean())


def best_window(dataset: Dataset, early: Interactions, most: int = MOST_VALIDATION) -> tuple[float, float]:
    """Days before the cut-off over which popularity is best on the validation slice (infinite: all), and how good it is."""
    windows = (math.inf, 90.0, 30.0) if dataset.split == "time" else (math.inf,)
    found = []
    for days in windows:
        counts = early.recent(days)
        found.append((goodness(dataset, lambda i, counts=counts: np.broadcast_to(counts, (len(i), len(counts))), most=most), days))  # type: ignore[misc]
    best = max(found, key=lambda f: f[0])
    return best[1], best[0]


@dataclass(frozen=True)
class _Tried:
    goodness: float
    setting: dict[str, Any]
    boost: float


class Tuned:
    """A peer with a grid: a subclass says how to fit one setting, and how to score with what came of it.

    The settings are tuned one after another, each with the best values of those before it and the first values of those after it.

    Args:
        grid: the values of each setting, the first is the usual one.
        repeats: whether customers redeem a reward again; else the lift is not tuned, as what they had is no candidate.
        seed: of all that is random.
    """

    name = ""
    grid: dict[str, tuple[Any, ...]] = {}  # noqa: RUF012 - replaced, never changed

    def __init__(self, repeats: bool, seed: int = 0, grid: dict[str, tuple[Any, ...]] | None = None) -> None:
        self.repeats, self.seed = repeats, seed
        self.grid = self.grid if grid is None else grid
        self.chosen: dict[str, Any] = {}
        self.boost = 0.0

    def train(self, interactions: Interactions, dataset: Dataset, setting: dict[str, Any]) -> Any:
        """What is learned from the interactions with one setting."""
        raise NotImplementedError

    def predict(self, state: Any, setting: dict[str, Any], queries: Queries, index: np.ndarray, history: sp.csr_matrix) -> np.ndarray:
        """float (B, N) from what was learned."""
        raise NotImplementedError

    def retrained(self, before: dict[str, Any], setting: dict[str, Any]) -> bool:
        """Whether what was learned with the one setting does not serve the other."""
        return True

    def fit(self, dataset: Dataset) -> None:
        items, cuts = len(dataset.catalogue), dataset.cuts
        early = Interactions.before(dataset.validation.log, cuts.validation_from, items)
        days = best_window(dataset, early, MOST_WINDOW)[0]
        self.fallback = Fallback(early.recent(days))
        self.before: tuple[dict[str, Any], Any] | None = None
        best = self._try(early, dataset, {name: values[0] for name, values in self.grid.items()}, None)
        for name, values in self.grid.items():
            start = best.setting
            for value in values[1:]:
                best = max(best, self._try(early, dataset, {**start, name: value}, best), key=lambda t: t.goodness)
        self.chosen = {**best.setting, **({"lift": best.boost} if self.repeats else {}), "validation_ndcg_at_10": round(best.goodness, 6)}
        late = Interactions.before(dataset.test.log, cuts.test_from, items)
        self.setting, self.boost, self.fallback, self.before = best.setting, best.boost, Fallback(late.recent(days)), None
        self.state = self.train(late, dataset, self.setting)

    def _try(self, early: Interactions, dataset: Dataset, setting: dict[str, Any], best: _Tried | None) -> _Tried:
        """The best lift with one setting, and how good it is on the validation slice."""
        if self.before is None or self.retrained(self.before[0], setting):
            self.before = (setting, self.train(early, dataset, setting))
        self.state, self.setting = self.before[1], setting
        found = []
        for boost in self._boosts(best):
            self.boost = boost
            found.append(_Tried(goodness(dataset, lambda index: self.scores(dataset.validation, index)), setting, boost))
        return max(found, key=lambda t: t.goodness)

    def _boosts(self, best: _Tried | None) -> tuple[float, ...]:
        """All lifts for the first setting; then the neighbours of the best so far."""
        if not self.repeats:
            return (0.0,)
        if best is None:
            return BOOSTS
        at = BOOSTS.index(best.boost)
        return BOOSTS[max(0, at - 1) : at + 2]

    def scores(self, queries: Queries, index: np.ndarray) -> np.ndarray:
        history = histories(queries, index, len(self.fallback.popularity))
        raw = self.predict(self.state, self.setting, queries, index, history)
        return self.fallback(lifted(raw, history, self.boost), history)


# ---- popularity -------------------------------------------------------------------------------------------------------------


class Popularity:
    """Redemptions before the cut-off, of the window that is best on the validation slice."""

    name = "popularity"

    def __init__(self) -> None:
        self.chosen: dict[str, Any] = {}

    def fit(self, dataset: Dataset) -> None:
        items, cuts = len(dataset.catalogue), dataset.cuts
        best, found = best_window(dataset, Interactions.before(dataset.validation.log, cuts.validation_from, items))
        self.chosen = {"days": None if math.isinf(best) else best, "validation_ndcg_at_10": round(found, 6)}
        self.counts = Interactions.before(dataset.test.log, cuts.test_from, items).recent(best)

    def scores(self, queries: Queries, index: np.ndarray) -> np.ndarray:
        return np.broadcast_to(self.counts, (len(index), len(self.counts)))


class RecentPopularity:
    """Redemptions in the 30 whole days before the query's day."""

    name = "recent_popularity"

    def __init__(self) -> None:
        self.chosen: dict[str, Any] = {"days": 30}

    def fit(self, dataset: Dataset) -> None:
        self.recent = RecentCounts(dataset)

    def scores(self, queries: Queries, index: np.ndarray) -> np.ndarray:
        return self.recent.before(queries.as_of[index])


class PersonalPopularity(Tuned):
    """What the customer redeemed most often, then popularity; which popularity is tuned."""

    name = "personal_popularity"
    grid = {"days": (math.inf, 30.0)}  # noqa: RUF012

    def train(self, interactions: Interactions, dataset: Dataset, setting: dict[str, Any]) -> np.ndarray:
        counts = interactions.recent(setting["days"] if dataset.split == "time" else math.inf)
        return (counts / max(1.0, counts.max())).astype(np.float32)

    def predict(self, state: Any, setting: dict[str, Any], queries: Queries, index: np.ndarray, history: sp.csr_matrix) -> np.ndarray:
        return history.toarray() + 0.99 * state

    def _boosts(self, best: _Tried | None) -> tuple[float, ...]:
        return (0.0,)


# ---- neighbours and linear models -------------------------------------------------------------------------------------------


def cosine_neighbours(x: sp.csr_matrix, k: int, shrink: float) -> sp.csr_matrix:
    """float32 (N, N) CSR: the k largest cosines of each column of x with the other columns; the diagonal is 0.

    Args:
        x: float32 (C, N).
        shrink: added to the product of the norms: similarities that few customers support count less.
    """
    norms = np.sqrt(np.asarray(x.multiply(x).sum(axis=0)).ravel())
    columns, rows_t = x.tocsc(), x.T.tocsr()
    parts = []
    for part in chunks(x.shape[1], 1_000):
        products = (rows_t @ columns[:, part]).toarray().T  # (b, N)
        products[np.arange(len(part)), part] = 0.0
        similarity = products / (norms[part][:, None] * norms[None, :] + shrink + 1e-9)
        if k < x.shape[1]:
            edge = -np.partition(-similarity, k - 1, axis=1)[:, k - 1 : k]
            similarity[similarity < np.maximum(edge, 1e-12)] = 0.0
        parts.append(sp.csr_matrix(similarity.astype(np.float32)))
    return sp.vstack(parts).tocsr()


def ease_weights(x: sp.csr_matrix, ridge: float) -> np.ndarray:
    """float32 (N, N): the matrix B of zero diagonal that minimises |X - XB|² + ridge |B|².

    Source: Steck, "Embarrassingly shallow autoencoders for sparse data" (2019): B = I - P / diag(P), P = (XᵀX + ridge I)⁻¹.
    """
    gram = (x.T @ x).toarray().astype(np.float64)
    gram[np.diag_indices_from(gram)] += ridge
    lower = scipy.linalg.cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
    inverse, _ = scipy.linalg.lapack.dpotri(lower, lower=1, overwrite_c=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    weights = inverse / -np.diag(inverse)[None, :]
    np.fill_diagonal(weights, 0.0)
    return weights.astype(np.float32)


class ItemKnn(Tuned):
    name = "item_knn"
    grid = {"logs": (True, False), "k": (100, 20, 400, 1_500), "shrink": (0.0, 20.0, 100.0)}  # noqa: RUF012

    def train(self, interactions: Interactions, dataset: Dataset, setting: dict[str, Any]) -> sp.csr_matrix:
        return cosine_neighbours(weighted(interactions.counts, setting["logs"]), setting["k"], setting["shrink"])

    def predict(self, state: Any, setting: dict[str, Any], queries: Queries, index: np.ndarray, history: sp.csr_matrix) -> np.ndarray:
        return np.asarray((weighted(history, setting["logs"]) @ state).todense())


class Ease(Tuned):
    name = "ease"
    grid = {"logs": (True, False), "ridge": (300.0, 30.0, 100.0, 1_000.0, 3_000.0)}  # noqa: RUF012

    def train(self, interactions: Interactions, dataset: Dataset, setting: dict[str, Any]) -> np.ndarray:
        return ease_weights(weighted(interactions.counts, setting["logs"]), setting["ridge"])

    def predict(self, state: Any, setting: dict[str, Any], queries: Queries, index: np.ndarray, history: sp.csr_matrix) -> np.ndarray:
        return weighted(history, setting["logs"]) @ state


# ---- matrix factorisation ---------------------------------------------------------------------------------------------------


class Ials(Tuned):
    """Factors of a query's customer are computed anew from the history."""

    name = "ials"
    grid = {"alpha": (2.0, 1.0, 5.0, 20.0), "regularization": (10.0, 1.0, 5.0, 20.0, 50.0), "factors": (32, 16, 64, 128)}  # noqa: RUF012

    def train(self, interactions: Interactions, dataset: Dataset, setting: dict[str, Any]) -> Any:
        from implicit.cpu.als import AlternatingLeastSquares

        with threadpool_limits(1, "blas"):  # implicit's own threads and those of BLAS would wait for each other
            model = AlternatingLeastSquares(
                factors=setting["factors"], alpha=setting["alpha"], regularization=setting["regularization"],
                iterations=15, random_state=self.seed,
            )  # fmt: skip
            model.fit(weighted(interactions.counts, logs=True), show_progress=False)
        return model

    def predict(self, state: Any, setting: dict[str, Any], queries: Queries, index: np.ndarray, history: sp.csr_matrix) -> np.ndarray:
        with threadpool_limits(1, "blas"):
            users = state.recalculate_user(np.arange(len(index)), weighted(history, logs=True))
            return np.atleast_2d(users) @ state.item_factors.T


class Bpr(Tuned):
    """A query's customer has the trained factors, or (`folded`, and whoever is new) the mean of the factors of its history."""

    name = "bpr"
    grid = {"factors": (64,), "folded": (False, True), "learning_rate": (0.02, 0.1), "regularization": (0.005, 0.05)}  # noqa: RUF012

    def train(self, interactions: Interactions, dataset: Dataset, setting: dict[str, Any]) -> tuple[Any, np.ndarray]:
        from implicit.cpu.bpr import BayesianPersonalizedRanking

        with threadpool_limits(1, "blas"):
            model = BayesianPersonalizedRanking(
                factors=setting["factors"], learning_rate=setting["learning_rate"], regularization=setting["regularization"],
                iterations=60, num_threads=1, random_state=self.seed,
            )  # fmt: skip
            model.fit(weighted(interactions.counts, logs=False), show_progress=False)
        return model, np.diff(interactions.counts.indptr) > 0

    def retrained(self, before: dict[str, Any], setting: dict[str, Any]) -> bool:
        return {**before, "folded": None} != {**setting, "folded": None}

    def predict(self, state: Any, setting: dict[str, Any], queries: Queries, index: np.ndarray, history: sp.csr_matrix) -> np.ndarray:
        model, known = state
        items = model.item_factors  # (N, F + 1), the last is the bias
        mean = sp.diags(1.0 / np.maximum(np.asarray(history.sum(axis=1)).ravel(), 1.0)) @ history @ items
        mean = mean.astype(np.float32)
        mean[:, -1] = 1.0
        customer = queries.customer[index]
        trained = ~np.array(setting["folded"]) & known[customer]
        users = np.where(trained[:, None], model.user_factors[customer], mean)
        return users @ items.T


# ---- a plain two-tower ------------------------------------------------------------------------------------------------------


class Towers(nn.Module):
    """The textbook pair: [customer number, mean of the history's rewards] and [reward number], each through a small network."""

    def __init__(self, customers: int, items: int, width: int) -> None:
        super().__init__()
        self.customer = nn.Embedding(customers + 1, width)  # the last is for whoever training did not meet
        self.reward, self.had = nn.Embedding(items, width), nn.Embedding(items + 1, width, padding_idx=items)
        for table in (self.customer, self.reward, self.had):
            nn.init.normal_(table.weight, std=0.05)
        self.user_net = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.item_net = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def user(self, customer: torch.Tensor, had: torch.Tensor) -> torch.Tensor:
        """customer int64 (B,), had int64 (B, H) padded with N -> (B, D)."""
        sizes = (had < self.had.num_embeddings - 1).sum(dim=1, keepdim=True).clamp(min=1)
        pooled = self.had(had).sum(dim=1) / sizes  # (B, D)
        return nn.functional.normalize(self.user_net(torch.cat([self.customer(customer), pooled], dim=1)), dim=1)

    def item(self, item: torch.Tensor) -> torch.Tensor:
        """int64 (N,) -> (N, D)."""
        return nn.functional.normalize(self.item_net(self.reward(item)), dim=1)


class PlainTwoTower(Tuned):
    name = "plain_two_tower"
    grid = {"epochs": (3, 10), "learning_rate": (1e-2, 2e-3)}  # noqa: RUF012
    width, batch_size, temperature, most, longest = 64, 512, 0.1, 60_000, 50

    def train(self, interactions: Interactions, dataset: Dataset, setting: dict[str, Any]) -> Towers:
        rng = np.random.default_rng(self.seed)
        torch.manual_seed(self.seed)
        queries = dataset.train
        people, self.numbers = _people(queries.log), {k: i for i, k in enumerate(dict.fromkeys(_people(queries.log)))}
        person = np.array([self.numbers[p] for p in people])[queries.customer]
        had = self._had(queries, np.arange(len(queries)), len(dataset.catalogue))
        pairs = np.repeat(np.arange(len(queries)), np.diff(queries.indptr))
        popularity = np.bincount(queries.items, minlength=len(dataset.catalogue)) / max(1, len(queries.items))
        log_q = torch.from_numpy(np.log(popularity + 1e-9).astype(np.float32))
        model = Towers(len(self.numbers), len(dataset.catalogue), self.width)
        optimizer = torch.optim.Adam(model.parameters(), lr=setting["learning_rate"], weight_decay=1e-6)
        for _ in range(setting["epochs"]):
            order = rng.permutation(len(pairs))[: self.most]
            for at in range(0, len(order), self.batch_size):
                chosen = order[at : at + self.batch_size]
                query, item = pairs[chosen], torch.from_numpy(queries.items[chosen])
                who = torch.from_numpy(np.where(rng.random(len(query)) < 0.1, len(self.numbers), person[query]))
                logits = model.user(who, torch.from_numpy(had[query])) @ model.item(item).T / self.temperature - log_q[item]
                same = (item[:, None] == item[None, :]) & ~torch.eye(len(item), dtype=torch.bool)
                loss = nn.functional.cross_entropy(logits.masked_fill(same, -1e9), torch.arange(len(item)))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return model.eval()

    def _had(self, queries: Queries, index: np.ndarray, items: int) -> np.ndarray:
        """int64 (B, H): the last rewards of each history, padded with N."""
        indptr, what, _ = queries.history(index)
        place = indptr[1:, None] - np.arange(1, self.longest + 1)
        inside = place >= indptr[:-1, None]
        out = np.full(place.shape, items)
        out[inside] = what[place[inside]]
        return out

    def predict(self, state: Any, setting: dict[str, Any], queries: Queries, index: np.ndarray, history: sp.csr_matrix) -> np.ndarray:
        items = history.shape[1]
        people = queries.log.customers.take(queries.customer[index])
        who = [self.numbers.get(p, len(self.numbers)) for p in zip(*(people[c].to_pylist() for c in _KEY), strict=True)]
        with torch.inference_mode():
            users = state.user(torch.tensor(who), torch.from_numpy(self._had(queries, index, items)))
            return (users @ state.item(torch.arange(items)).T).numpy()


_KEY = ("business_id", "customer_id")


def _people(log: Log) -> list[tuple[str, str]]:
    return list(zip(*(log.customers[c].to_pylist() for c in _KEY), strict=True))


def all_peers(repeats: bool, seed: int, items: int) -> list[Peer]:
    """Every peer that can be fitted to a catalogue of so many rewards."""
    tuned: list[type[Tuned]] = [PersonalPopularity, ItemKnn, Ials, Bpr, *([Ease] if items <= EASE_MOST_ITEMS else []), PlainTwoTower]
    return [Popularity(), RecentPopularity(), *(kind(repeats, seed) for kind in tuned)]


PEERS = ("popularity", "recent_popularity", "personal_popularity", "item_knn", "ials", "bpr", "ease", "plain_two_tower")
