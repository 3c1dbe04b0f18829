"""From the warehouse to training queries.

A *query* is one customer at one moment with the rewards redeemed at that moment (a basket of several is one query; times within the
same second are one moment). Its inputs are what was known strictly before its as-of time, `lead_s` (a minute) before the moment: a
recommendation must be there before the till, and some sources write the purchase that completes an offer a microsecond before its
redemption. Queries are cut by time into train | validation | test, for each business at its own cut-offs; nothing after the train
cut-off enters training: no query, no token, no count.

Letters: Q queries, N rewards of the catalogue (all businesses), B batch, P positives, S rewards seen before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from contracts.errors import ArtifactError
from contracts.tables import REWARDS, SINGLE_USE_REWARD_TYPES, TIMESTAMP
from features import asof, rewards
from features.state import CustomerState, finalize
from features.vocabulary import Vocabulary
from training.settings import TrainSettings

DAY_S = 86_400.0
ACTIVE_DAYS = 90
DEMOGRAPHIC_COLUMNS = slice(30, 38)  # of features.definitions.FEATURE_NAMES
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Catalogue:
    """Every reward of every business, in the order of (business_id, reward_id).

    Attributes:
        table: columns of the `rewards` table.
        item_ids int64 (N, 2), attributes float32 (N, 12), text_vectors float32 (N, 384): inputs of the item tower.
        business: int64 (N,), index in `businesses`.
        valid_from, valid_to: float64 (N,), epoch seconds, infinite where open.
        single_use: bool (N,), redeemed at most once by a customer.
    """

    table: pa.Table
    businesses: list[str]
    item_ids: np.ndarray
    attributes: np.ndarray
    text_vectors: np.ndarray
    business: np.ndarray
    valid_from: np.ndarray
    valid_to: np.ndarray
    single_use: np.ndarray

    def __len__(self) -> int:
        return len(self.business)

    def candidates(self, business: np.ndarray, as_of: np.ndarray) -> np.ndarray:
        """bool (B, N): rewards of that business that were valid at that moment."""
        mine = self.business[None, :] == business[:, None]
        return mine & (self.valid_from[None, :] <= as_of[:, None]) & (as_of[:, None] <= self.valid_to[None, :])


@dataclass(frozen=True)
class Log:
    """Every redemption of a reward of the catalogue, sorted by customer and time; doubles removed.

    Attributes:
        customer: int64 (L,), row of `customers`. item: int64 (L,), row of the catalogue.
        time: float64 (L,), epoch seconds. starts: int64 (C + 1,), where each customer begins.
        customers: business_id, customer_id.
        customer_business: int64 (C,), index in `Catalogue.businesses`.
        target: bool (L,), whether a query may ask for it; the others are history only.
    """

    customer: np.ndarray
    item: np.ndarray
    time: np.ndarray
    starts: np.ndarray
    customers: pa.Table
    customer_business: np.ndarray
    target: np.ndarray

    def without(self, dropped: np.ndarray) -> Log:
        """The log less some rows, bool (L,); customers keep their numbers, also those that keep no row."""
        kept = ~dropped
        starts = np.concatenate([[0], np.cumsum(kept)])[self.starts]
        return replace(
            self, customer=self.customer[kept], item=self.item[kept], time=self.time[kept], starts=starts, target=self.target[kept]
        )

    def before(self, customer: np.ndarray, as_of: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What each customer had redeemed strictly before each moment, oldest first.

        Args:
            customer: int64 (B,), rows of `customers`. as_of: float64 (B,), epoch seconds.

        Returns:
            indptr int64 (B + 1,), items int64 and times float64: those of b are items[indptr[b]:indptr[b + 1]]. Repeats stay.
        """
        begin, limit = self.starts[customer], self.starts[customer + 1]
        pairs = zip(begin.tolist(), limit.tolist(), as_of.tolist(), strict=True)
        end = np.array([b + np.searchsorted(self.time[b:e], t) for b, e, t in pairs], dtype=np.int64)
        index = ranges(begin, end)
        return np.concatenate([[0], np.cumsum(end - begin)]), self.item[index], self.time[index]

    def counts(self, items: int, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
        """float64 (N,): redemptions of each reward in [begin, end) of its business, both float64 (businesses,)."""
        b = self.customer_business[self.customer]
        inside = (self.time >= begin[b]) & (self.time < end[b])
        return np.bincount(self.item[inside], minlength=items).astype(np.float64)


@dataclass(frozen=True)
class Queries:
    """Queries with their inputs and answers.

    Attributes:
        customer, business: int64 (Q,). as_of: float64 (Q,), epoch seconds.
        rows: the user tower's inputs.
        indptr int64 (Q + 1,), items int64: the redeemed rewards of query q are items[indptr[q]:indptr[q + 1]].
        seen_indptr, seen: likewise the single-use rewards that the customer had redeemed before; never candidates.
        weight: float32 (Q,), of the query in the loss.
        log: the redemptions that the inputs were made from. In a split that is not by time, what the queries ask for is left out
            of it; its customers are numbered for itself (one person may be there several times, each time with other rows left out).
    """

    customer: np.ndarray
    business: np.ndarray
    as_of: np.ndarray
    rows: asof.AsofRows
    indptr: np.ndarray
    items: np.ndarray
    seen_indptr: np.ndarray
    seen: np.ndarray
    weight: np.ndarray
    log: Log

    def __len__(self) -> int:
        return len(self.as_of)

    def history(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the customers of some queries had redeemed before, oldest first; see `Log.before`."""
        return self.log.before(self.customer[index], self.as_of[index])

    def candidates(self, catalogue: Catalogue, index: np.ndarray) -> np.ndarray:
        """bool (B, N): valid rewards of the query's business, less single-use ones that the customer had."""
        out = catalogue.candidates(self.business[index], self.as_of[index])
        seen = padded(self.seen_indptr, self.seen, index)
        row, column = np.nonzero(seen >= 0)
        out[row, seen[row, column]] = False
        return out

    def relevant(self, index: np.ndarray, items: int) -> np.ndarray:
        """bool (B, N): the rewards redeemed at the query."""
        out = np.zeros((len(index), items), dtype=bool)
        positives = padded(self.indptr, self.items, index)
        row, column = np.nonzero(positives >= 0)
        out[row, positives[row, column]] = True
        return out


@dataclass(frozen=True)
class Cuts:
    """Time cut-offs of each business, epoch seconds, float64 (businesses,).

    train < validation_from <= validation < test_from <= test <= end.
    """

    begin: np.ndarray
    validation_from: np.ndarray
    test_from: np.ndarray
    end: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """Everything that training and evaluation read, in memory."""

    catalogue: Catalogue
    vocabulary: Vocabulary
    log: Log
    cuts: Cuts
    train: Queries
    validation: Queries
    test: Queries
    available: dict[str, int]
    """Queries that the history holds for each slice, before the caps."""
    split: str = "time"
    """How the slices were cut: `time`, `fold` (at random) or `last` (each customer's last one). Cut-offs in time mean something
    for the first only; for the others all of them lie after the last event, and held-out rows are left out of the logs."""


def load_catalogue(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """The `rewards` table in the order of the catalogue.

    Raises:
        ArtifactError: there is no reward.
    """
    columns = ", ".join(REWARDS.columns)
    table = connection.sql(f"SELECT {columns} FROM rewards ORDER BY business_id, reward_id").to_arrow_table()  # noqa: S608
    if table.num_rows == 0:
        raise ArtifactError("the warehouse holds 0 rewards, training needs some. Bring data in first: regulars data generate (or import)")
    return table


def build_catalogue(table: pa.Table, vocabulary: Vocabulary, text_vectors: np.ndarray) -> Catalogue:
    """Inputs of the item tower and the validity of each reward.

    Raises:
        ArtifactError: the text vectors are not one for each reward.
    """
    if len(text_vectors) != table.num_rows:
        raise ArtifactError(
            f"{len(text_vectors)} text vectors for {table.num_rows} rewards, must be one each. Embed the texts of this catalogue."
        )
    names = table["business_id"].to_pylist()
    businesses = sorted(set(names))
    code = {name: i for i, name in enumerate(businesses)}
    return Catalogue(
        table=table,
        businesses=businesses,
        item_ids=rewards.item_ids(table, vocabulary),
        attributes=rewards.attributes(table),
        text_vectors=np.asarray(text_vectors, dtype=np.float32),
        business=np.array([code[n] for n in names], dtype=np.int64),
        valid_from=_seconds(table["valid_from"], -np.inf),
        valid_to=_seconds(table["valid_to"], np.inf),
        single_use=np.isin(np.array(table["reward_type"].to_pylist()), SINGLE_USE_REWARD_TYPES),
    )


def _seconds(column: pa.ChunkedArray, missing: float) -> np.ndarray:
    micros = pc.cast(pc.cast(column, TIMESTAMP, safe=False), pa.int64())
    return pc.fill_null(pc.divide(pc.cast(micros, pa.float64(), safe=False), 1e6), missing).to_numpy()


def load_log(
    connection: duckdb.DuckDBPyConnection, table: pa.Table, viewed_only: bool = False, kinds: tuple[str, ...] = ("redemption",)
) -> Log:
    """Read the redemptions of the rewards in `table`.

    Args:
        viewed_only: a redemption that its metadata call `"viewed_before": false` is history, but no target.
        kinds: event types that are read; only redemptions are targets.

    Raises:
        ArtifactError: fewer than 10, too few to cut by time.
    """
    connection.register(
        "catalogue_rows", table.select(["business_id", "reward_id"]).append_column("item", pa.array(np.arange(table.num_rows)))
    )
    try:
        found = connection.sql(
            "SELECT e.business_id, e.customer_id, epoch_us(e.occurred_at) / 1e6 AS time, c.item, "
            "bool_or(e.event_type = 'redemption' AND NOT ($viewed_only AND "
            "coalesce(json_extract_string(e.metadata, '$.viewed_before'), 'true') = 'false')) AS target FROM events e "
            "JOIN catalogue_rows c ON c.business_id = e.business_id AND c.reward_id = e.reward_id "
            "WHERE list_contains($kinds, e.event_type) GROUP BY ALL ORDER BY e.business_id, e.customer_id, time, item",
            params={"kinds": list(kinds), "viewed_only": viewed_only},
        ).to_arrow_table()
    finally:
        connection.unregister("catalogue_rows")
    if found.num_rows < 10:
        raise ArtifactError(
            f"the warehouse holds {found.num_rows} redemptions, training needs at least 10. Bring more history in: regulars data import"
        )
    business, names = found["business_id"].to_pylist(), found["customer_id"].to_pylist()
    new = np.array([True] + [a != b or c != d for a, b, c, d in zip(names[1:], names, business[1:], business, strict=False)])
    starts = np.flatnonzero(new)
    code = {name: i for i, name in enumerate(sorted(set(table["business_id"].to_pylist())))}
    return Log(
        customer=np.cumsum(new) - 1,
        item=found["item"].to_numpy().astype(np.int64),
        time=found["time"].to_numpy(),
        starts=np.append(starts, found.num_rows),
        customers=found.select(["business_id", "customer_id"]).take(pa.array(starts)),
        customer_business=np.array([code[business[s]] for s in starts], dtype=np.int64),
        target=found["target"].to_numpy(),
    )


def time_cuts(log: Log, businesses: int, settings: TrainSettings) -> Cuts:
    """Cut-offs at the quantiles of each business's redemption times; a business without redemptions gets the latest of the others."""
    b = log.customer_business[log.customer]
    out = np.full((4, businesses), np.nan)
    for business in np.unique(b):
        times = log.time[b == business]
        out[:, business] = np.quantile(times, [0.0, settings.validation_from, settings.test_from, 1.0], method="higher")
    return Cuts(*np.where(np.isnan(out), np.nanmax(out, axis=1, keepdims=True), out))


def known_tokens(connection: duckdb.DuckDBPyConnection, log: Log, catalogue: pa.Table, cuts: Cuts, businesses: list[str]) -> Vocabulary:
    """Tokens with an event before the train cut-off of a business that has the reward."""
    latest = float(cuts.validation_from.max())
    moment = np.datetime64(int(latest * 1e6), "us").astype(object)
    built = Vocabulary.build(connection, moment)
    if len(businesses) == 1:
        return built
    limits = pa.table({"business_id": businesses, "cut": cuts.validation_from})
    connection.register("train_cuts", limits)
    try:
        seen = connection.sql(
            "SELECT DISTINCT 'r:' || e.reward_id FROM events e JOIN train_cuts t USING (business_id) "
            "WHERE e.reward_id <> '' AND epoch_us(e.occurred_at) / 1e6 < t.cut"
        ).fetchall()
    finally:
        connection.unregister("train_cuts")
    early = {row[0] for row in seen}
    return Vocabulary([t for t in built.tokens if not t.startswith("r:") or t in early])


def moments(log: Log) -> tuple[np.ndarray, np.ndarray]:
    """Group redemptions of a customer within the same second: first row of each group (Q,), and the boundaries (Q + 1,)."""
    new = np.ones(len(log.time), dtype=bool)
    new[1:] = (log.customer[1:] != log.customer[:-1]) | (np.floor(log.time[1:]) != np.floor(log.time[:-1]))
    first = np.flatnonzero(new)
    return first, np.append(first, len(log.time))


def choose(index: np.ndarray, customer: np.ndarray, most: int, per_customer: int | None, rng: np.random.Generator) -> np.ndarray:
    """Cap queries: of each customer the evenly spaced ones (the latest always), then a uniform sample; ascending.

    Args:
        index: int64 (Q,), positions sorted by customer and time. customer: int64 (Q,), whose each is.
    """
    if per_customer is not None and len(index):
        start = np.flatnonzero(np.r_[True, customer[1:] != customer[:-1]])
        size = np.diff(np.append(start, len(index)))
        place = np.arange(len(index)) - np.repeat(start, size)  # 0 .. size - 1 within the customer
        size = np.repeat(size, size)
        keep = (place + 1) * per_customer // size > place * per_customer // size
        index = index[keep | (size <= per_customer)]
    return index if len(index) <= most else np.sort(rng.choice(index, most, replace=False))


def make_queries(
    connection: duckdb.DuckDBPyConnection, log: Log, catalogue: Catalogue, vocabulary: Vocabulary, chosen: np.ndarray,
    lead_s: float = 0.0, progress: Progress | None = None,
) -> Queries:  # fmt: skip
    """Inputs and answers of the chosen groups of `moments`; the answers are the targets among them.

    Args:
        chosen: int64 (Q,), numbers of groups.
        lead_s: seconds from the as-of time to the redemption.
    """
    first, bounds = moments(log)
    index = ranges(bounds[chosen], bounds[chosen + 1])
    group = np.repeat(np.arange(len(chosen)), bounds[chosen + 1] - bounds[chosen])[log.target[index]]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=len(chosen)))])
    customer, as_of = log.customer[first[chosen]], log.time[first[chosen]] - lead_s
    return queries_at(connection, log, catalogue, vocabulary, customer, as_of, indptr, log.item[index[log.target[index]]], progress)


def queries_at(
    connection: duckdb.DuckDBPyConnection, log: Log, catalogue: Catalogue, vocabulary: Vocabulary, customer: np.ndarray,
    as_of: np.ndarray, indptr: np.ndarray, items: np.ndarray, progress: Progress | None = None, seen_log: Log | None = None,
) -> Queries:  # fmt: skip
    """Queries of given customers at given moments with given answers.

    Args:
        connection: its events are what the inputs are made from, and should be those of `log`.
        customer int64 (Q,), as_of float64 (Q,), indptr int64 (Q + 1,), items int64: see `Queries`.
        seen_log: with the customers of `log`; all that a customer has in it is seen. Without it, single-use rewards of `log` are.
    """
    if seen_log is None:
        seen_indptr, seen = seen_before(log, catalogue.single_use, customer, as_of)
    else:
        seen_indptr, seen = seen_before(seen_log, np.ones(len(catalogue), dtype=bool), customer, as_of)
    return Queries(
        customer=customer,
        business=log.customer_business[customer],
        as_of=as_of,
        rows=asof.rows(connection, examples_table(log.customers, customer, as_of), vocabulary, progress),
        indptr=indptr,
        items=items,
        seen_indptr=seen_indptr,
        seen=seen,
        weight=np.ones(len(customer), np.float32),
        log=log,
    )


def examples_table(customers: pa.Table, customer: np.ndarray, as_of: np.ndarray) -> pa.Table:
    """What `features.asof.rows` takes."""
    stamps = pa.array(np.round(as_of * 1e6).astype(np.int64)).cast(TIMESTAMP)
    return customers.take(pa.array(customer)).append_column("as_of", stamps)


def seen_before(log: Log, single_use: np.ndarray, customer: np.ndarray, as_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Single-use rewards that each customer redeemed strictly before each moment: boundaries (Q + 1,) and rows of the catalogue."""
    kept = single_use[log.item]
    who, when, what = log.customer[kept], log.time[kept], log.item[kept]
    moments_ = np.unique(np.concatenate([when, as_of]))
    key = who * len(moments_) + np.searchsorted(moments_, when)
    begin = np.searchsorted(who, customer)
    end = np.searchsorted(key, customer * len(moments_) + np.searchsorted(moments_, as_of))
    return np.concatenate([[0], np.cumsum(end - begin)]), what[ranges(begin, end)]


def ranges(begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """begin[0] .. end[0] - 1, begin[1] .. end[1] - 1, … in one array."""
    sizes = end - begin
    offset = np.repeat(begin - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes)
    return np.arange(int(sizes.sum())) + offset


def padded(
    indptr: np.ndarray, items: np.ndarray, index: np.ndarray, most: int | None = None, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Rows `index` of a ragged array, int64 (B, longest), -1 where there is none; with `most`, a random choice of so many."""
    parts = [items[indptr[i] : indptr[i + 1]] for i in index]
    if most is not None:
        rng = rng or np.random.default_rng(0)
        parts = [p if len(p) <= most else rng.choice(p, most, replace=False) for p in parts]
    out = np.full((len(parts), max((len(p) for p in parts), default=0) or 1), -1, dtype=np.int64)
    for row, part in enumerate(parts):
        out[row, : len(part)] = part
    return out


def build(
    connection: duckdb.DuckDBPyConnection,
    table: pa.Table,
    text_vectors: np.ndarray,
    settings: TrainSettings,
    progress: Progress | None = None,
    viewed_only: bool = False,
) -> Dataset:
    """Cut the history by time and read the inputs of all three slices.

    Args:
        viewed_only: see `load_log`.

    Raises:
        ArtifactError: too few redemptions, or a slice without any.
    """
    log = load_log(connection, table, viewed_only)
    businesses = sorted(set(table["business_id"].to_pylist()))
    cuts = time_cuts(log, len(businesses), settings)
    vocabulary = known_tokens(connection, log, table, cuts, businesses)
    catalogue = build_catalogue(table, vocabulary, text_vectors)
    first, _ = moments(log)
    asked = np.add.reduceat(log.target, first) > 0
    when, who = np.where(asked, log.time[first], np.nan), log.customer[first]  # not a number: in no slice
    b = log.customer_business[who]
    slices = {
        "train": when < cuts.validation_from[b],
        "validation": (when >= cuts.validation_from[b]) & (when < cuts.test_from[b]),
        "test": when >= cuts.test_from[b],
    }
    for name, mask in slices.items():
        if not mask.any():
            raise ArtifactError(f"the {name} slice holds 0 redemptions, needs at least 1. Bring a longer history in: regulars data import")
    caps: dict[str, tuple[int, int | None]] = {
        "train": (settings.max_examples, settings.max_per_customer),
        "validation": (settings.max_validation, None),
        "test": (settings.max_test, None),
    }
    rng = np.random.default_rng(settings.seed)
    chosen = {n: choose(np.flatnonzero(m), who[m], *caps[n], rng) for n, m in slices.items()}
    ages = (cuts.validation_from[b[chosen["train"]]] - when[chosen["train"]]) / DAY_S
    recency = np.exp2(-ages / settings.recency_half_life_days)
    every = np.concatenate(list(chosen.values()))
    whole = make_queries(connection, log, catalogue, vocabulary, every, settings.lead_s, progress)
    bounds = np.cumsum([0] + [len(c) for c in chosen.values()])
    parts = {n: take(whole, slice(bounds[i], bounds[i + 1])) for i, n in enumerate(chosen)}
    train = Queries(**{**parts["train"].__dict__, "weight": (recency / recency.mean()).astype(np.float32)})
    available = {n: int(m.sum()) for n, m in slices.items()}
    return Dataset(catalogue, vocabulary, log, cuts, train, parts["validation"], parts["test"], available)


def take(queries: Queries, part: slice) -> Queries:
    """A contiguous part of some queries."""
    q, begin, end = queries, part.start, part.stop
    return Queries(
        customer=q.customer[part],
        business=q.business[part],
        as_of=q.as_of[part],
        rows=asof.AsofRows(q.rows.features[part], q.rows.sequence_ids[part], q.rows.sequence_values[part]),
        indptr=q.indptr[begin : end + 1] - q.indptr[begin],
        items=q.items[q.indptr[begin] : q.indptr[end]],
        seen_indptr=q.seen_indptr[begin : end + 1] - q.seen_indptr[begin],
        seen=q.seen[q.seen_indptr[begin] : q.seen_indptr[end]],
        weight=q.weight[part],
        log=q.log,
    )


def take_index(queries: Queries, index: np.ndarray) -> Queries:
    """Some queries, in the order of `index`, int64 (B,)."""
    q = queries
    begin, end = q.indptr[index], q.indptr[index + 1]
    seen_begin, seen_end = q.seen_indptr[index], q.seen_indptr[index + 1]
    return Queries(
        customer=q.customer[index],
        business=q.business[index],
        as_of=q.as_of[index],
        rows=asof.AsofRows(q.rows.features[index], q.rows.sequence_ids[index], q.rows.sequence_values[index]),
        indptr=np.concatenate([[0], np.cumsum(end - begin)]),
        items=q.items[ranges(begin, end)],
        seen_indptr=np.concatenate([[0], np.cumsum(seen_end - seen_begin)]),
        seen=q.seen[ranges(seen_begin, seen_end)],
        weight=q.weight[index],
        log=q.log,
    )


def with_unknown(queries: Queries, share: float, seed: int) -> Queries:
    """The queries, and some of them once more as if the customer were unknown: no touches, no history.

    So that the model learns what to show to somebody of whom it knows nothing but the moment; every other one keeps the demographics.

    Args:
        share: of the queries that come once more, at the end.
    """
    rng = np.random.default_rng([seed, 17])
    count = len(queries)
    again = np.flatnonzero(rng.random(count) < share)
    out = take_index(queries, np.concatenate([np.arange(count), again]))
    nobody = finalize([CustomerState()] * len(again), out.as_of[count:])
    nobody[::2, DEMOGRAPHIC_COLUMNS] = out.rows.features[count::2, DEMOGRAPHIC_COLUMNS]
    out.rows.features[count:], out.rows.sequence_ids[count:], out.rows.sequence_values[count:] = nobody, 0, 0.0
    out.customer[count:] = -1
    return out


class BatchLoader:
    """Batches of queries; the order of an epoch follows from seed and epoch alone, and the place in it can be saved and taken up again.

    Lightning calls `set_epoch` through `sampler`, and `state_dict`/`load_state_dict` with its checkpoints.

    Args:
        shuffle: a new order each epoch, equal sizes for each process; else in order, every query once.
        max_positives: rewards of one query in a batch; None takes all.
        trim: leave out leading steps that are padding in the whole batch (the towers take any number of steps).
        rank, world: this process and how many there are; each takes every world-th query.
    """

    def __init__(
        self, queries: Queries, batch_size: int, seed: int = 0, shuffle: bool = False, max_positives: int | None = None,
        trim: bool = True, rank: int = 0, world: int = 1,
    ) -> None:  # fmt: skip
        self.queries, self.batch_size, self.seed, self.shuffle, self.trim = queries, batch_size, seed, shuffle, trim
        self.max_positives, self.rank, self.world = max_positives, rank, world
        self.epoch = self.done = self._skip = 0
        self.sampler, self.batch_sampler = self, None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._skip = int(state["done"]) % max(1, len(self))

    def _size(self) -> int:
        return len(self.queries) // self.world if self.shuffle else len(range(self.rank, len(self.queries), self.world))

    def __len__(self) -> int:
        return max(1, -(-self._size() // self.batch_size))

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        order = np.arange(len(self.queries))
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)[: self._size() * self.world or None]
        mine = order[self.rank :: self.world]
        self.done, self._skip = self._skip, 0
        for step in range(self.done, len(self)):
            self.done = step + 1
            yield self.batch(mine[step * self.batch_size : (step + 1) * self.batch_size], step)

    def batch(self, index: np.ndarray, step: int = 0) -> dict[str, torch.Tensor]:
        """The named tensors of `contracts.tensors.USER_TOWER` and, beside them, what the loss and the metrics need."""
        q = self.queries
        rng = np.random.default_rng([self.seed, self.epoch, step])
        arrays: dict[str, np.ndarray] = {
            **q.rows.batch(index),
            "index": index,
            "business": q.business[index],
            "as_of": q.as_of[index],
            "positives": padded(q.indptr, q.items, index, self.max_positives, rng),
            "seen": padded(q.seen_indptr, q.seen, index),
            "weight": q.weight[index],
        }
        if self.trim:
            real = np.flatnonzero((arrays["sequence_ids"][:, :, 1] > 0).any(axis=0))
            begin = int(real[0]) if len(real) else arrays["sequence_ids"].shape[1] - 1
            arrays["sequence_ids"] = arrays["sequence_ids"][:, begin:]
            arrays["sequence_values"] = arrays["sequence_values"][:, begin:]
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}
