"""Training of the ranker: listwise over the candidates of each query, with a second head for views.

The ranker learns from the validation slice, which the towers and the fixed statistics have not seen: on their own training queries the
retrieval score would look better than it will ever be. The latest part of that slice chooses the epoch.

Letters: Q queries, B of them in a batch, K candidates of a query (padded), P pair features, D embedding dim, F features, N rewards.

Source: listwise softmax of ListNet (Cao et al. 2007); multi-task as in Caruana (1997).
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import duckdb
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional as F

from features.definitions import DAY_S
from features.pairs import COLUMN
from training import metrics
from training.recommender.candidates import Candidates
from training.recommender.data import Catalogue, Queries, padded
from training.recommender.losses import multi_positive
from training.recommender.ranker import Ranker
from training.settings import TrainSettings

TOP = 10
VIEW_DAYS = 7.0
HELD_OUT = 0.15
REDEEM, VIEW = 0, 1
Report = Callable[[int, int, float], None]


class Stopped(Exception):  # noqa: N818 - not an error: the user asked for it
    """The stop event was set."""


@dataclass(frozen=True)
class Examples:
    """Queries with their candidates, as the ranker trains on and scores them.

    Attributes:
        users: float32 (Q, D). features: float32 (Q, F). as_of: float64 (Q,).
        viewed: bool (sum K,), the candidate was viewed in the week after the query; all False where no views are recorded.
    """

    candidates: Candidates
    users: np.ndarray
    features: np.ndarray
    as_of: np.ndarray
    viewed: np.ndarray

    def __len__(self) -> int:
        return len(self.as_of)


def load_views(connection: duckdb.DuckDBPyConnection, catalogue: Catalogue) -> pa.Table:
    """Views of rewards of the catalogue: business_id, customer_id, time (epoch seconds), item (row of the catalogue)."""
    rows = catalogue.table.select(["business_id", "reward_id"]).append_column("item", pa.array(np.arange(len(catalogue))))
    connection.register("catalogue_rows", rows)
    try:
        return connection.sql(
            "SELECT e.business_id, e.customer_id, epoch_us(e.occurred_at) / 1e6 AS time, c.item FROM events e JOIN catalogue_rows c "
            "ON c.business_id = e.business_id AND c.reward_id = e.reward_id WHERE e.event_type = 'offer_viewed'"
        ).to_arrow_table()
    finally:
        connection.unregister("catalogue_rows")


def viewed_after(views: pa.Table, queries: Queries, candidates: Candidates, days: float = VIEW_DAYS) -> np.ndarray:
    """bool (sum K,): the candidate was viewed by the query's customer in [as_of, as_of + days)."""
    people = queries.log.customers
    number = {key: i for i, key in enumerate(zip(people["business_id"].to_pylist(), people["customer_id"].to_pylist(), strict=True))}
    who = np.array([number.get(k, -1) for k in zip(views["business_id"].to_pylist(), views["customer_id"].to_pylist(), strict=True)])
    when, what = views["time"].to_numpy(), views["item"].to_numpy()
    order = np.lexsort((when, who)) if len(who) else np.zeros(0, np.int64)
    who, when, what = who[order] if len(who) else np.zeros(0, np.int64), when[order], what[order]
    out = np.zeros(len(candidates.rows), dtype=bool)
    begin, end = np.searchsorted(who, queries.customer), np.searchsorted(who, queries.customer, side="right")
    for q in np.flatnonzero((end > begin) & (queries.customer >= 0)):
        inside = (when[begin[q] : end[q]] >= queries.as_of[q]) & (when[begin[q] : end[q]] < queries.as_of[q] + days * DAY_S)
        if inside.any():
            part = slice(candidates.indptr[q], candidates.indptr[q + 1])
            out[part] = np.isin(candidates.rows[part], what[begin[q] : end[q]][inside])
    return out


def with_views(examples: Examples, views: pa.Table, queries: Queries) -> Examples:
    """The same examples, told which candidates were viewed afterwards."""
    return replace(examples, viewed=viewed_after(views, queries, examples.candidates)) if views.num_rows else examples


@dataclass(frozen=True)
class _Batch:
    pairs: Tensor  # (B, K, P)
    users: Tensor  # (B, D)
    rows: Tensor  # (B, K)
    features: Tensor  # (B, F)
    real: Tensor  # bool (B, K)
    redeemed: Tensor  # bool (B, K)
    viewed: Tensor  # bool (B, K)


def _batch(examples: Examples, index: np.ndarray, most: int | None = None, rng: np.random.Generator | None = None) -> _Batch:
    """Some queries padded to the longest; with `most`, all redeemed candidates and a random choice of so many others."""
    c = examples.candidates
    places = [np.arange(c.indptr[q], c.indptr[q + 1]) for q in index]
    if most is not None and rng is not None:
        places = [_sampled(p, c.redeemed[p], most, rng) for p in places]
    longest = max(1, *(len(p) for p in places))
    at = np.full((len(index), longest), -1, dtype=np.int64)
    for row, p in enumerate(places):
        at[row, : len(p)] = p
    real = at >= 0
    safe = np.maximum(at, 0)
    return _Batch(
        torch.from_numpy(c.pairs[safe]), torch.from_numpy(examples.users[index]), torch.from_numpy(c.rows[safe]),
        torch.from_numpy(examples.features[index]), torch.from_numpy(real), torch.from_numpy(c.redeemed[safe] & real),
        torch.from_numpy(examples.viewed[safe] & real),
    )  # fmt: skip


def _sampled(places: np.ndarray, redeemed: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    others = places[~redeemed]
    if len(others) <= most:
        return places
    return np.concatenate([places[redeemed], rng.choice(others, most, replace=False)])


def _forward(ranker: Ranker, batch: _Batch, items: Tensor) -> Tensor:
    """float (B, K, 2)."""
    b, k, p = batch.pairs.shape
    users = batch.users[:, None, :].expand(b, k, -1).reshape(b * k, -1)
    features = batch.features[:, None, :].expand(b, k, -1).reshape(b * k, -1)
    logits: Tensor = ranker(batch.pairs.reshape(b * k, p), users, items[batch.rows].reshape(b * k, -1), features)
    return logits.reshape(b, k, -1)


def _loss(logits: Tensor, batch: _Batch, view_weight: float, any_views: bool) -> Tensor:
    redeem = logits[..., REDEEM]
    loss = multi_positive(redeem, batch.redeemed, redeem, batch.real & ~batch.redeemed, torch.ones(len(redeem), device=redeem.device))
    if not any_views:
        return loss
    view = F.binary_cross_entropy_with_logits(logits[..., VIEW], batch.viewed.float(), reduction="none")
    return loss + view_weight * (view * batch.real).sum() / batch.real.sum()


def fit_ranker(
    examples: Examples, items: np.ndarray, settings: TrainSettings, report: Report | None = None, stop: threading.Event | None = None
) -> tuple[Ranker, list[dict[str, float]]]:
    """Train on queries with at least one redeemed candidate; the weights of the best epoch on the latest queries.

    Args:
        items: float32 (N, D), length 1.
        report: told the epoch, how many there are at most, and NDCG@10 on the held-out queries.
        stop: set it to end at the next step.

    Returns:
        the ranker in eval mode, and the record of its epochs.

    Raises:
        Stopped: `stop` was set.
    """
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    ranker = Ranker.empty(settings)
    warm_start(ranker)
    ranker.standardise_pairs.set(*_moments(examples.candidates.pairs))
    ranker.standardise_features.set(*_moments(examples.features))
    train, held = _split(examples, rng)
    any_views = bool(examples.viewed.any())
    table = torch.from_numpy(items)
    optimizer = torch.optim.AdamW(ranker.parameters(), lr=settings.ranker_learning_rate, weight_decay=settings.ranker_weight_decay)
    size = settings.ranker_batch_size
    steps = max(11, settings.ranker_epochs * -(-len(train) // size))  # of exactly 10, OneCycleLR divides by 0.1 * 10 - 1
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.ranker_learning_rate, total_steps=steps, pct_start=0.1)
    best, state, bad, history = -1.0, copy.deepcopy(ranker.state_dict()), 0, list[dict[str, float]]()
    for epoch in range(settings.ranker_epochs):
        ranker.train()
        total, order = 0.0, rng.permutation(train)
        for begin in range(0, len(order), size):
            if stop is not None and stop.is_set():
                raise Stopped
            batch = _batch(examples, order[begin : begin + size], settings.ranker_negatives, rng)
            loss = _loss(_forward(ranker, batch, table), batch, settings.view_weight, any_views)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(ranker.parameters(), settings.gradient_clip)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        value = _ndcg(ranker, examples, held, items)
        history.append({"epoch": float(epoch), "train_loss": total / max(1, -(-len(order) // size)), "val_ndcg": value})
        if report is not None:
            report(epoch + 1, settings.ranker_epochs, value)
        if value > best:
            best, state, bad = value, copy.deepcopy(ranker.state_dict()), 0
        else:
            bad += 1
            if bad >= settings.ranker_patience:
                break
    ranker.load_state_dict(state)
    return ranker.eval(), history


def warm_start(ranker: Ranker) -> None:
    """Begin as a linear score that is known to be good, item-item affinity and half as much of the cosine; all else is learned on top.

    With a few hundred queries (one fold of `movielens_100k`) a random start cost up to 3 % of NDCG@10, by the luck of the seed.
    """
    with torch.no_grad():
        for cross in ranker.crosses:
            for value in cross.get_submodule("up").parameters():
                value.zero_()
        ranker.heads.weight.zero_()
        ranker.heads.bias.zero_()
        ranker.heads.weight[REDEEM, COLUMN["affinity"]] = 1.0
        ranker.heads.weight[REDEEM, COLUMN["cosine"]] = 0.5


def _split(examples: Examples, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Queries that teach (those with a redeemed candidate) and those that choose the epoch: later in time, or any where all are at once."""
    hits = np.bincount(examples.candidates.query(), examples.candidates.redeemed, len(examples)) > 0
    if examples.as_of.max() - examples.as_of.min() < DAY_S:
        late = rng.random(len(examples)) < HELD_OUT
    else:
        late = examples.as_of >= np.quantile(examples.as_of, 1.0 - HELD_OUT)
    train, held = np.flatnonzero(hits & ~late), np.flatnonzero(hits & late)
    if not len(train) or not len(held):  # a handful of queries: learn from all, choose on all
        train = held = np.flatnonzero(hits)
    return train, held


def _ndcg(ranker: Ranker, examples: Examples, index: np.ndarray, items: np.ndarray) -> float:
    """Mean NDCG@10 among the candidates."""
    if not len(index):
        return 0.0
    scores = logits_of(ranker, examples, items, index)[..., REDEEM]
    at = padded(examples.candidates.indptr, np.arange(len(examples.candidates.rows)), index)
    real = at >= 0
    relevant = examples.candidates.redeemed[np.maximum(at, 0)] & real
    query, rank = metrics.ranks(scores, real, relevant)
    return float(metrics.ndcg(query, rank, len(index), TOP).mean())


def logits_of(ranker: Ranker, examples: Examples, items: np.ndarray, index: np.ndarray | None = None, size: int = 128) -> np.ndarray:
    """float32 (Q, K, 2), K the longest; what is beyond a query's own candidates is 0."""
    index = np.arange(len(examples)) if index is None else index
    sizes = np.diff(examples.candidates.indptr)[index]
    out = np.zeros((len(index), max(1, int(sizes.max(initial=0))), 2), dtype=np.float32)
    table = torch.from_numpy(items)
    ranker.eval()
    with torch.inference_mode():
        for begin in range(0, len(index), size):
            batch = _batch(examples, index[begin : begin + size])
            logits = _forward(ranker, batch, table) * batch.real[..., None]
            out[begin : begin + size, : logits.shape[1]] = logits.numpy()
    return out


def _moments(values: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(values.mean(axis=0).astype(np.float32)), torch.from_numpy(values.std(axis=0).astype(np.float32))
