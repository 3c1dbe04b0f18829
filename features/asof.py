"""Features and sequences for many (customer, as-of time) pairs at once, from the warehouse.

Only touches strictly before an as-of time count. DuckDB sorts the touches by customer, time and content; NumPy runs the decayed sums
through them and gathers at the positions that the as-of times fall on.

Method of the sums: the recurrence S_i = S_(i-1) * 2^(-(t_i - t_(i-1)) / half-life) + w_i, for all customers at once, step k handling
the k-th touch of each. It only ever shrinks what it holds, so ten years with a half-life of 7 days lose no digits (a cumulative sum of
w * 2^(t / half-life) would overflow after twenty). Long histories are cut into blocks of `_BLOCK` touches that run side by side; a
second run over the blocks' totals carries them on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts.errors import ContractError
from contracts.tables import TIMESTAMP
from contracts.tensors import FEATURE_COUNT, SEQUENCE_LENGTH
from features.definitions import (
    DEMOGRAPHICS,
    DEMOGRAPHICS_SQL,
    GROUP_COUNT,
    GROUP_OF_KIND,
    HALF_LIFE_COUNT,
    KIND_CODES,
    PURCHASE,
    RECENCY_COUNT,
    RECENCY_OF_KIND,
    SPEND_GROUP,
    SUM_COUNT,
    TOUCHES_SQL,
    WANTED,
    Touch,
    assemble,
    decay,
)
from features.sequences import scale_values
from features.state import CustomerState
from features.vocabulary import Vocabulary

Progress = Callable[[int, int], None]
"""Called with (done, total) as work goes on."""

_BLOCK = 256
_CHUNK = 32_768


@dataclass(frozen=True)
class AsofRows:
    """Inputs of the user tower for n examples.

    Ids are held as int32 to halve the memory of large sets; `batch` casts to the int64 that the tower takes.

    Attributes:
        features: float32 (n, 44).
        sequence_ids: int32 (n, 50, 2): token id, kind code.
        sequence_values: float32 (n, 50, 2).
    """

    features: np.ndarray
    sequence_ids: np.ndarray
    sequence_values: np.ndarray

    def __len__(self) -> int:
        return len(self.features)

    def batch(self, index: np.ndarray | slice) -> dict[str, np.ndarray]:
        """The named tensors of `contracts.tensors.USER_TOWER` for some rows, ids as int64."""
        return {
            "sequence_ids": self.sequence_ids[index].astype(np.int64),
            "sequence_values": self.sequence_values[index],
            "features": self.features[index],
        }


@dataclass(frozen=True)
class Touches:
    """Touches of C customers, sorted by customer, time and content.

    Attributes:
        starts: int64 (C + 1,): customer c has the touches starts[c] .. starts[c + 1].
        times: float64 (m,), epoch seconds.
        kinds: uint8 (m,).
        token_codes: int32 (m,), index in `tokens`.
        tokens: distinct token texts.
        values: float64 (m,), finite.
    """

    starts: np.ndarray
    times: np.ndarray
    kinds: np.ndarray
    token_codes: np.ndarray
    tokens: list[str]
    values: np.ndarray

    def positions(self, codes: np.ndarray, as_of: np.ndarray) -> np.ndarray:
        """Index one past the last touch of customer `codes[i]` that lies strictly before `as_of[i]`; int64 (n,)."""
        moments = np.unique(np.concatenate([self.times, as_of]))
        rank = len(moments)
        owners = np.repeat(np.arange(len(self.starts) - 1, dtype=np.int64), np.diff(self.starts))
        mine = owners * rank + np.searchsorted(moments, self.times)
        return np.searchsorted(mine, codes * rank + np.searchsorted(moments, as_of), side="left")


def load_touches(connection: duckdb.DuckDBPyConnection, customers: pa.Table) -> Touches:
    """Read the touches of some customers.

    Args:
        connection: with the warehouse's tables.
        customers: columns business_id, customer_id; distinct. The row is the customer's code.
    """
    coded = customers.select(["business_id", "customer_id"]).append_column("code", pa.array(np.arange(customers.num_rows)))
    sql = (
        f"SELECT w.code, t.time, t.kind, t.token, t.value FROM ({TOUCHES_SQL}) t JOIN {WANTED} w "  # noqa: S608 - our own constants
        "ON w.business_id = t.business_id AND w.customer_id = t.customer_id ORDER BY w.code, t.time, t.kind, t.token, t.value"
    )
    table = _query(connection, coded, sql)
    tokens = pc.dictionary_encode(table["token"].combine_chunks())
    tokens = tokens.combine_chunks() if isinstance(tokens, pa.ChunkedArray) else tokens
    codes = table["code"].to_numpy()
    return Touches(
        starts=np.searchsorted(codes, np.arange(customers.num_rows + 1)),
        times=table["time"].to_numpy(),
        kinds=table["kind"].to_numpy(),
        token_codes=tokens.indices.to_numpy(zero_copy_only=False).astype(np.int32),
        tokens=tokens.dictionary.to_pylist(),
        values=table["value"].to_numpy(),
    )


def load_demographics(connection: duckdb.DuckDBPyConnection, customers: pa.Table) -> np.ndarray:
    """float64 (C, 5), columns of `DEMOGRAPHICS`; NaN where unknown, or where the customer is not in `customers`."""
    coded = customers.select(["business_id", "customer_id"]).append_column("code", pa.array(np.arange(customers.num_rows)))
    sql = (
        f"SELECT w.code, d.* FROM ({DEMOGRAPHICS_SQL}) d JOIN {WANTED} w "  # noqa: S608 - our own constants
        "ON w.business_id = d.business_id AND w.customer_id = d.customer_id"
    )
    table = _query(connection, coded, sql)
    out = np.full((customers.num_rows, len(DEMOGRAPHICS)), np.nan)
    codes = table["code"].to_numpy()
    for column, name in enumerate(DEMOGRAPHICS):
        out[codes, column] = pc.fill_null(pc.cast(table[name], pa.float64()), np.nan).to_numpy()
    return out


def _query(connection: duckdb.DuckDBPyConnection, wanted: pa.Table, sql: str) -> pa.Table:
    connection.register(WANTED, wanted)
    try:
        return connection.sql(sql).to_arrow_table()
    finally:
        connection.unregister(WANTED)


def decayed_sums(touches: Touches, codes: np.ndarray, positions: np.ndarray, as_of: np.ndarray) -> np.ndarray:
    """The 24 decayed sums at the as-of times.

    Args:
        codes, positions, as_of: (n,), see `Touches.positions`.

    Returns:
        float64 (n, 24).
    """
    starts, totals = _blocks(touches.starts)
    block_of = np.searchsorted(starts, np.arange(len(touches.times)), side="right") - 1
    out = np.zeros((len(positions), GROUP_COUNT, HALF_LIFE_COUNT))
    some = positions > touches.starts[codes]
    at = positions[some] - 1
    kept, which = np.unique(at, return_inverse=True)
    ends = starts[1:] - 1
    wanted = np.unique(np.concatenate([kept, ends]))
    local = _run(touches.times, starts, wanted, lambda index: _weights(touches, index))
    whole = _run(touches.times[ends], totals, np.arange(len(ends)), lambda index: local[np.searchsorted(wanted, ends[index])])
    sums = local[np.searchsorted(wanted, kept)]
    before = block_of[kept] - 1
    # A block that is not its customer's first goes on from the state at the end of the block before it.
    on = ~np.isin(block_of[kept], totals[:-1])
    sums[on] += whole[before[on]] * decay(touches.times[kept[on]] - touches.times[ends[before[on]]])[:, None, :]
    out[some] = sums[which] * decay(as_of[some] - touches.times[at])[:, None, :]
    return out.reshape(len(positions), SUM_COUNT)


def _blocks(starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut each customer's touches into blocks: starts of the blocks (with the end), and the first block of each customer (with the end)."""
    counts = -(-np.diff(starts) // _BLOCK)
    first = np.concatenate([[0], np.cumsum(counts)])
    within = np.arange(first[-1]) - np.repeat(first[:-1], counts)
    return np.append(np.repeat(starts[:-1], counts) + within * _BLOCK, starts[-1]), first


def _weights(touches: Touches, index: np.ndarray) -> np.ndarray:
    """What the touches add to each sum; float64 (k, G, 1)."""
    weights = GROUP_OF_KIND[touches.kinds[index]]
    weights[:, SPEND_GROUP] *= touches.values[index]
    return weights[:, :, None]


def _run(times: np.ndarray, starts: np.ndarray, wanted: np.ndarray, weights: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Run the recurrence through every segment starts[s] .. starts[s + 1]; float64 (len(wanted), G, H) at the sorted indexes `wanted`."""
    lengths = np.diff(starts)
    order = np.argsort(-lengths, kind="stable")
    begin, lengths = starts[:-1][order], lengths[order]
    slot = np.full(len(times), -1, dtype=np.int64)
    slot[wanted] = np.arange(len(wanted))
    out = np.zeros((len(wanted), GROUP_COUNT, HALF_LIFE_COUNT))
    state = np.zeros((len(begin), GROUP_COUNT, HALF_LIFE_COUNT))
    for step in range(int(lengths[0]) if len(lengths) else 0):
        active = int(np.searchsorted(-lengths, -step, side="left"))  # segments longer than `step` come first
        index = begin[:active] + step
        if step:
            state[:active] *= decay(times[index] - times[index - 1])[:, None, :]
        state[:active] += weights(index)
        slots = slot[index]
        out[slots[slots >= 0]] = state[:active][slots >= 0]
    return out


def last_times(touches: Touches, codes: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Time of the last touch of each recency before the positions; float64 (n, 6), NaN = never."""
    out = np.full((len(positions), RECENCY_COUNT), np.nan)
    if not len(touches.times):
        return out
    begin = touches.starts[codes]
    for column in range(RECENCY_COUNT):
        counts = RECENCY_OF_KIND[touches.kinds, column] > 0
        latest = np.maximum.accumulate(np.where(counts, np.arange(len(counts)), -1))
        at = np.where(positions > begin, latest[np.maximum(positions - 1, 0)], -1)
        some = at >= begin
        out[some, column] = touches.times[at[some]]
    return out


def _gather(
    touches: Touches, begin: np.ndarray, positions: np.ndarray, as_of: np.ndarray, token_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """int32 (k, T, 2) and float32 (k, T, 2) of the last touches before the positions."""
    index = positions[:, None] - np.arange(SEQUENCE_LENGTH, 0, -1)
    inside = index >= begin[:, None]
    ids = np.zeros((*index.shape, 2), dtype=np.int32)
    values = np.zeros((*index.shape, 2), dtype=np.float32)
    flat = index[inside]
    ids[inside] = np.stack([token_ids[touches.token_codes[flat]], touches.kinds[flat]], axis=1)
    ages = np.broadcast_to(as_of[:, None], index.shape)[inside] - touches.times[flat]
    values[inside] = scale_values(ages, touches.values[flat])
    return ids, values


def encode_examples(examples: pa.Table) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """Distinct customers of some examples, each example's code (row) among them, and its as-of time in epoch seconds.

    Raises:
        ContractError: a column is missing or an as-of time is null.
    """
    missing = [c for c in ("business_id", "customer_id", "as_of") if c not in examples.column_names]
    if missing:
        raise ContractError(f"examples lack {', '.join(missing)}; they must have business_id, customer_id and as_of. Add the columns.")
    if examples["as_of"].null_count:
        raise ContractError(f"{examples['as_of'].null_count} examples have no as_of; every example must have one. Drop or fill them.")
    stamps = examples["as_of"].cast(TIMESTAMP if _has_zone(examples["as_of"].type) else pa.timestamp("us"), safe=False)
    as_of = stamps.cast(pa.int64()).to_numpy() / 1e6
    keys = examples.select(["business_id", "customer_id"]).append_column("row", pa.array(np.arange(examples.num_rows)))
    groups = keys.group_by(["business_id", "customer_id"]).aggregate([("row", "list")])
    groups = groups.select(["business_id", "customer_id", "row_list"]).sort_by([("business_id", "ascending"), ("customer_id", "ascending")])
    lists = groups["row_list"].combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    codes = np.empty(examples.num_rows, dtype=np.int64)
    codes[lists.flatten().to_numpy()] = np.repeat(np.arange(groups.num_rows), pc.list_value_length(lists).to_numpy())
    return groups.select(["business_id", "customer_id"]), codes, as_of


def _has_zone(kind: pa.DataType) -> bool:
    return getattr(kind, "tz", None) is not None


def rows(connection: duckdb.DuckDBPyConnection, examples: pa.Table, vocabulary: Vocabulary, progress: Progress | None = None) -> AsofRows:
    """The user tower's inputs for each example, in the order of the examples.

    Args:
        connection: with the warehouse's tables (`warehouse.store.Warehouse.connect()`).
        examples: columns business_id, customer_id, as_of (timestamp; without a zone it is UTC). A customer that the warehouse does
            not know has no touches and no demographics. The request's time is the as-of time.
        vocabulary: token ids.
        progress: called with (examples done, all examples).

    Raises:
        ContractError: a column is missing or an as-of time is null.

    Memory: 50 * 16 + 44 * 4 = 976 bytes an example, and about 100 bytes a touch.
    """
    n = examples.num_rows
    out = AsofRows(
        np.zeros((n, FEATURE_COUNT), np.float32),
        np.zeros((n, SEQUENCE_LENGTH, 2), np.int32),
        np.zeros((n, SEQUENCE_LENGTH, 2), np.float32),
    )
    for index, part in iterate(connection, examples, vocabulary):
        out.features[index] = part.features
        out.sequence_ids[index] = part.sequence_ids
        out.sequence_values[index] = part.sequence_values
        if progress is not None:
            progress(index.stop, n)
    return out


def iterate(
    connection: duckdb.DuckDBPyConnection, examples: pa.Table, vocabulary: Vocabulary, chunk: int = _CHUNK
) -> Iterator[tuple[slice, AsofRows]]:
    """As `rows`, but a chunk of examples at a time, each with its slice: for sets whose rows do not fit in memory."""
    customers, codes, as_of = encode_examples(examples)
    touches = load_touches(connection, customers)
    demographics = load_demographics(connection, customers)
    token_ids = vocabulary.encode(touches.tokens) if touches.tokens else np.zeros(1, np.int64)
    positions = touches.positions(codes, as_of)
    sums = decayed_sums(touches, codes, positions, as_of)
    last = last_times(touches, codes, positions)
    for begin in range(0, examples.num_rows, chunk):
        part = slice(begin, min(begin + chunk, examples.num_rows))
        moment = as_of[part]
        features = assemble(sums[part], last[part], demographics[codes[part]], moment, moment)
        ids, values = _gather(touches, touches.starts[codes[part]], positions[part], moment, token_ids)
        yield part, AsofRows(features, ids, values)


def customers_table(connection: duckdb.DuckDBPyConnection, business_id: str | None = None) -> pa.Table:
    """Everyone whom the warehouse knows, as customer or from a transaction, an event or a ticket: business_id, customer_id; sorted."""
    where = "" if business_id is None else " WHERE business_id = ?"
    union = " UNION ".join(f"SELECT business_id, customer_id FROM {t}" for t in ("customers", "transactions", "events", "tickets"))  # noqa: S608
    sql = f"SELECT business_id, customer_id FROM ({union}){where} ORDER BY ALL"  # noqa: S608 - our own constants
    parameters: dict[str, Any] = {} if business_id is None else {"params": [business_id]}
    return connection.sql(sql, **parameters).to_arrow_table()


def states(
    connection: duckdb.DuckDBPyConnection, customers: pa.Table, as_of: float, watermark: int = 0
) -> Iterator[tuple[str, str, CustomerState]]:
    """The state of each customer as of an instant, from the warehouse: (business_id, customer_id, state).

    Args:
        customers: columns business_id, customer_id; distinct.
        as_of: epoch seconds; touches at or after it become `pending`.
        watermark: written into each state.
    """
    touches = load_touches(connection, customers)
    demographics = load_demographics(connection, customers)
    codes = np.arange(customers.num_rows)
    positions = touches.positions(codes, np.full(len(codes), as_of))
    empty = positions == touches.starts[:-1]
    newest = np.full(len(codes), -np.inf)
    newest[~empty] = touches.times[positions[~empty] - 1]
    sums = decayed_sums(touches, codes, positions, newest)
    last = last_times(touches, codes, positions)
    hours = _purchase_hours(touches, positions)
    redeemed, dismissed = _reward_counts(touches, positions, "redemption"), _reward_counts(touches, positions, "reward_dismissed")
    redeemed_at = _redemption_times(touches, positions)
    names = zip(customers["business_id"].to_pylist(), customers["customer_id"].to_pylist(), strict=True)
    for code, (business_id, customer_id) in enumerate(names):
        begin, at, end = int(touches.starts[code]), int(positions[code]), int(touches.starts[code + 1])
        yield (
            business_id,
            customer_id,
            CustomerState(
                time=float(newest[code]),
                sums=sums[code],
                last=last[code],
                recent=_slice(touches, max(begin, at - SEQUENCE_LENGTH), at),
                redeemed=redeemed.get(code, {}),
                redeemed_at=redeemed_at.get(code, {}),
                dismissed=frozenset(dismissed.get(code, ())),
                touch_count=at - begin,
                purchase_hours=hours[code],
                demographics=demographics[code],
                watermark=watermark,
                pending=_slice(touches, at, min(end, at + SEQUENCE_LENGTH)),
            ),
        )


def _slice(touches: Touches, begin: int, end: int) -> list[Touch]:
    part = slice(begin, end)
    tokens = (touches.tokens[c] for c in touches.token_codes[part].tolist())
    return list(map(Touch, touches.times[part].tolist(), touches.kinds[part].tolist(), tokens, touches.values[part].tolist()))


def _before(touches: Touches, positions: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Indexes of the touches of a kind that lie before their customer's position, and the customers' codes."""
    index = np.flatnonzero(touches.kinds == KIND_CODES[kind])
    owners = np.searchsorted(touches.starts, index, side="right") - 1
    inside = index < positions[owners]
    return index[inside], owners[inside]


def _purchase_hours(touches: Touches, positions: np.ndarray) -> np.ndarray:
    """Purchases by hour of day (UTC); int64 (C, 24)."""
    index, owners = _before(touches, positions, PURCHASE)
    hour = (touches.times[index] % 86_400 // 3_600).astype(np.int64)
    return np.bincount(owners * 24 + hour, minlength=24 * len(positions)).reshape(len(positions), 24)


def _reward_counts(touches: Touches, positions: np.ndarray, kind: str) -> dict[int, dict[str, int]]:
    """Customer's code -> reward id -> touches of the kind."""
    out: dict[int, dict[str, int]] = {}
    index, owners = _before(touches, positions, kind)
    for owner, token in zip(owners.tolist(), touches.token_codes[index].tolist(), strict=True):
        text = touches.tokens[token]
        if text.startswith("r:"):
            counts = out.setdefault(owner, {})
            counts[text[2:]] = counts.get(text[2:], 0) + 1
    return out


def _redemption_times(touches: Touches, positions: np.ndarray) -> dict[int, dict[str, tuple[float, float]]]:
    """Customer's code -> reward id -> epoch seconds of its first and last redemption."""
    out: dict[int, dict[str, tuple[float, float]]] = {}
    index, owners = _before(touches, positions, "redemption")
    for owner, token, time in zip(owners.tolist(), touches.token_codes[index].tolist(), touches.times[index].tolist(), strict=True):
        text = touches.tokens[token]
        if text.startswith("r:"):
            mine = out.setdefault(owner, {})
            first, _ = mine.get(text[2:], (time, time))
            mine[text[2:]] = (first, time)  # a customer's touches ascend
    return out
