"""A customer's history week by week: the inputs of the sequence model, for many customers at once or for one.

The raw material is one row per customer and day with ten sums (`DAILY`). From it come, for an as-of day, 52 weekly steps of twelve channels
and forty static features. Weeks count back from the as-of day, so the newest is always a whole one. Nothing of the as-of day itself or
later is used: an as-of day `d` stands for midnight at its beginning (a request during day `d - 1` uses what that day has seen so far).

Letters: C customers, m rows of days, W = 52 weeks, K = 10 daily sums, n rows of the result.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.errors import ArtifactError, ContractError
from contracts.tables import COVERAGES
from contracts.tensors import CHANNEL_COUNT, FACTORS, STATIC_COUNT, WEEK_COUNT
from features.definitions import DAY_S, ENGAGEMENT, epoch_seconds, signed_log1p

DAILY = ("purchases", "spend", "discount", "engagement", "offers", "views", "redemptions", "negative", "tickets", "bad_tickets")
"""Sums kept of each day, in this order. A purchase is a transaction that is not a return (amount >= 0); spend is net of returns."""
PURCHASES, SPEND, DISCOUNT, ENGAGED, OFFERS, VIEWS, REDEMPTIONS, NEGATIVE, TICKETS, BAD = range(len(DAILY))
MONEY_SUMS = (SPEND, DISCOUNT)

CHANNELS = (*DAILY, "gap", "known")
"""Of a weekly step: the ten sums, the weeks since the last purchase at its end, and whether the customer was known by then."""
CHANNEL_FACTORS = (
    "frequency", "monetary", "monetary", "engagement", "engagement", "engagement", "redemption",
    "feedback", "feedback", "feedback", "recency", "tenure",
)  # fmt: skip
NEVER_DAYS = 3650.0
NO_DAY = -(2**31)
LATEST = (PURCHASES, ENGAGED, REDEMPTIONS, BAD)
"""Sums of which the last day is asked for."""
LONGEST_DAYS = 365
"""The longest window other than `ever`: of what happened earlier, only what `Older` holds is used."""
_WINDOWS: dict[str, tuple[int, tuple[float, ...], str]] = {
    "purchases": (PURCHASES, (30, 90, 180, 365, math.inf), "frequency"),
    "spend": (SPEND, (30, 90, 365, math.inf), "monetary"),
    "engagement": (ENGAGED, (30, 90), "engagement"),
    "offers": (OFFERS, (30, 90), "engagement"),
    "views": (VIEWS, (30, 90), "engagement"),
    "redemptions": (REDEMPTIONS, (30, 90, 365, math.inf), "redemption"),
    "tickets": (TICKETS, (90, 365), "feedback"),
    "bad_tickets": (BAD, (90, 365), "feedback"),
    "negative": (NEGATIVE, (365,), "feedback"),
}
_WINDOWED = tuple((f"{name}_{'ever' if days == math.inf else f'{days}d'}", f) for name, (_, spans, f) in _WINDOWS.items() for days in spans)
_OTHERS = (
    ("days_since_purchase", "recency"), ("overdue", "recency"), ("purchase_days", "frequency"), ("usual_gap", "frequency"),
    ("quickening", "frequency"), ("basket", "monetary"), ("discount_share", "monetary"), ("days_since_engagement", "engagement"),
    ("days_since_redemption", "redemption"), ("tenure", "tenure"), ("days_since_first_purchase", "tenure"),
    ("days_since_bad_ticket", "feedback"),
    ("year_sin", "season"), ("year_cos", "season"), ("half_year_sin", "season"), ("half_year_cos", "season"),
)  # fmt: skip
STATICS = tuple(name for name, _ in (*_WINDOWED, *_OTHERS))
STATIC_FACTORS = tuple(factor for _, factor in (*_WINDOWED, *_OTHERS))
assert len(STATICS) == STATIC_COUNT  # noqa: S101 - our own mistake, at import
assert len(CHANNELS) == CHANNEL_COUNT == len(CHANNEL_FACTORS)  # noqa: S101
FULL_PURCHASE_DAYS, FULL_SINCE_DAYS = 3, 60
"""Coverage is `full` from this many days with a purchase on, the first of them at least this many days ago."""
assert set(STATIC_FACTORS) == set(FACTORS)  # noqa: S101


@dataclass(frozen=True)
class Older:
    """What the days before a history's own came to, for C customers: all that the tensors ask about days more than a year back.

    Attributes:
        sums: float64 (C, 10), see `DAILY`.
        purchase_days: int64 (C,), days with a purchase.
        first_purchase: int64 (C,), day of the first purchase; `NO_DAY` without one.
        last: int64 (C, 4), last days with a purchase, an engagement, a redemption and a bad ticket; `NO_DAY` without one.
    """

    sums: np.ndarray
    purchase_days: np.ndarray
    first_purchase: np.ndarray
    last: np.ndarray


@dataclass(frozen=True)
class DailyHistory:
    """Days of C customers on which something happened, sorted by customer and day.

    Attributes:
        starts: int64 (C + 1,): customer c has the rows starts[c] .. starts[c + 1].
        days: int32 (m,), days since 1970-01-01 (UTC).
        sums: float32 (m, 10), see `DAILY`.
        joined: int32 (C,), day of joining, or the day of the first row where that is earlier or joining is unknown.
        older: what lies before the rows and more than a year before any as-of day asked for; None where the rows are all there is.
    """

    starts: np.ndarray
    days: np.ndarray
    sums: np.ndarray
    joined: np.ndarray
    older: Older | None = None

    def __len__(self) -> int:
        return len(self.joined)

    def part(self, begin: int, end: int) -> DailyHistory:
        """The customers begin .. end - 1, none of them folded; views, nothing is copied."""
        low, high = int(self.starts[begin]), int(self.starts[end])
        return DailyHistory(self.starts[begin : end + 1] - low, self.days[low:high], self.sums[low:high], self.joined[begin:end])


def as_of_day(as_of: datetime) -> int:
    """The first day that does not count: that of a midnight itself, else the day after."""
    return math.ceil(epoch_seconds(as_of) / DAY_S)


def facts(statics: np.ndarray) -> dict[str, np.ndarray]:
    """Every static feature by name in natural units: the inverse of the scales that the model sees.

    Args:
        statics: float32 (n, 40).

    Returns:
        float64 (n,) each: sums and counts as they are, `spend_*` and `basket` in money, `days_since_*`, `usual_gap` and `tenure` in days
        (3650 = never), `overdue` in usual gaps, `discount_share` 0 to 1, `quickening` the ratio (1 + purchase days of the last 90 days) /
        (1 + those of the 90 before), the seasons as sine and cosine.
    """
    values = {name: statics[:, i].astype(np.float64) for i, name in enumerate(STATICS)}
    for name in STATICS[:-4]:  # the seasons have no scale
        if name == "quickening":
            values[name] = np.exp(values[name])
        elif name != "discount_share":
            values[name] = np.copysign(np.expm1(np.abs(values[name])), values[name])
    return values


def coverage(statics: np.ndarray) -> np.ndarray:
    """How much is known of each customer: position in `contracts.tables.COVERAGES`, int64 (n,).

    `full`: purchases on three days or more, the first 60 days ago or earlier. `sparse`: one purchase or more. Else `cold_start`.

    Args:
        statics: float32 (n, 40).
    """
    known = facts(statics)
    days, since = np.rint(known["purchase_days"]), np.rint(known["days_since_first_purchase"])
    names = np.where(days >= 1, COVERAGES.index("sparse"), COVERAGES.index("cold_start"))
    return np.where((days >= FULL_PURCHASE_DAYS) & (since >= FULL_SINCE_DAYS), COVERAGES.index("full"), names).astype(np.int64)


EVENT_SUMS = {
    "engagement": ENGAGEMENT, "offers": ("offer_received",), "views": ("offer_viewed",), "redemptions": ("redemption",),
    "negative": ("reward_dismissed", "unsubscribe"),
}  # fmt: skip
_COUNTED = ", ".join(repr(t) for kinds in EVENT_SUMS.values() for t in kinds)
_EVENT_SUM = " ".join(f"WHEN '{kind}' THEN {DAILY.index(name)}" for name, kinds in EVENT_SUMS.items() for kind in kinds)
_DAY = "(epoch_us({}) // 86400000000)::INTEGER AS day"
WANTED = "history_customers"
"""Name of the relation (business_id, customer_id, code, shard) that must be registered before `ACTS_SQL` runs."""
_MINE = "JOIN " + WANTED + " w ON w.business_id = x.business_id AND w.customer_id = x.customer_id"
_JOINED = len(DAILY)
# Identifiers and literals are our own constants, never a user's text; $until is bound. Rows are not grouped here: nearly every act has a
# day of its own, and sorting one number a row in NumPy costs a third of what DuckDB's two groupings and sort did.
ACTS_SQL = f"""
SELECT code, shard, {_DAY.format("occurred_at")}, (CASE WHEN amount >= 0 THEN {PURCHASES} ELSE {SPEND} END)::UTINYINT AS kind,
       amount::DOUBLE AS amount, discount_amount::DOUBLE AS discount
FROM transactions x {_MINE} WHERE occurred_at < $until
UNION ALL BY NAME
SELECT code, shard, {_DAY.format("occurred_at")}, (CASE event_type {_EVENT_SUM} END)::UTINYINT AS kind
FROM events x {_MINE} WHERE occurred_at < $until AND event_type IN ({_COUNTED})
UNION ALL BY NAME
SELECT code, shard, {_DAY.format("created_at")},
       (CASE WHEN sentiment = 'NEGATIVE' OR rating <= 2 THEN {BAD} ELSE {TICKETS} END)::UTINYINT AS kind
FROM tickets x {_MINE} WHERE created_at < $until
UNION ALL BY NAME
SELECT code, shard, {_DAY.format("joined_at")}, {_JOINED}::UTINYINT AS kind FROM customers x {_MINE} WHERE joined_at IS NOT NULL
"""  # noqa: S608
"""Every act that a sum counts: code, shard, day, kind, amount, discount. `kind` is a position in `DAILY`: `spend` for a return, which is no
purchase, and `bad_tickets` for a ticket that is both; one more is for joining. Amount and discount are those of transactions."""


def read(connection: duckdb.DuckDBPyConnection, customers: pa.Table, until: datetime) -> DailyHistory:
    """The days of some customers before an instant, in one pass over the warehouse.

    Args:
        connection: with the warehouse's tables.
        customers: columns business_id, customer_id; distinct. The row is the customer's code.
    """
    with _wanted(connection, [customers]):
        acts = connection.sql(ACTS_SQL, params={"until": until}).to_arrow_table()
    return _history(acts, customers.num_rows)


def spread(connection: duckdb.DuckDBPyConnection, parts: Sequence[pa.Table], until: datetime, folder: Path) -> Path:
    """Lay the acts of some shards of customers before an instant out in files by shard, in one pass over the warehouse.

    For many shards: `read` looks at the whole warehouse for each of them, `read_part` at the shard's own files. The folder appears when all
    of them are written; one that is there is left as it is.

    Args:
        connection: with the warehouse's tables.
        parts: columns business_id, customer_id; each customer once in all. The place in the list is the shard's number.
        folder: to be made; yours to delete. Some 10 bytes an act.

    Returns:
        The folder, for `read_part`.

    Raises:
        ArtifactError: the files cannot be written.
    """
    if folder.exists():
        return folder
    making = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _wanted(connection, parts):
            connection.execute(f"COPY ({ACTS_SQL}) TO {_quoted(making)} (FORMAT parquet, PARTITION_BY (shard))", {"until": until})
        making.mkdir(exist_ok=True)  # there was nothing to write
        making.rename(folder)
    except (OSError, duckdb.Error) as exc:
        raise ArtifactError(f"cannot write the acts of {len(parts)} shards to {folder}: {exc}. Make room, or name another folder.") from exc
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def read_part(folder: Path, number: int, count: int) -> DailyHistory:
    """The days of one shard that `spread` laid out: what `read` gives for its customers.

    Args:
        number: of the shard. count: its customers.

    Raises:
        ArtifactError: the files are gone or damaged.
    """
    if not folder.is_dir():
        raise ArtifactError(f"no acts by shard in {folder}. Lay them out again: features.weekly.spread")
    try:
        files = sorted((folder / f"shard={number}").glob("*.parquet"))
        tables = [pq.read_table(file, columns=list(_ACTS.names)) for file in files]
    except (OSError, pa.ArrowException) as exc:
        raise ArtifactError(f"cannot read shard {number} in {folder}: {exc}. Delete the folder and lay the acts out again.") from exc
    return _history(pa.concat_tables(tables) if tables else _ACTS.empty_table(), count)


_ACTS = pa.schema([("code", pa.int32()), ("day", pa.int32()), ("kind", pa.uint8()), ("amount", pa.float64()), ("discount", pa.float64())])


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def coded(parts: Sequence[pa.Table]) -> pa.Table:
    """Whom `ACTS_SQL` is about, to be registered as `WANTED`: `code` is the row within the part, `shard` the part."""
    ids = pa.concat_tables([part.select(["business_id", "customer_id"]) for part in parts])
    code = np.concatenate([np.arange(part.num_rows, dtype=np.int32) for part in parts])
    shard = np.repeat(np.arange(len(parts), dtype=np.int32), [part.num_rows for part in parts])
    return ids.append_column("code", pa.array(code)).append_column("shard", pa.array(shard))


@contextmanager
def _wanted(connection: duckdb.DuckDBPyConnection, parts: Sequence[pa.Table]) -> Iterator[None]:
    connection.register(WANTED, coded(parts))
    try:
        yield
    finally:
        connection.unregister(WANTED)


def _history(acts: pa.Table, count: int) -> DailyHistory:
    """Acts of `count` customers, in any order, as days."""
    codes, days, kinds = (acts[name].to_numpy() for name in ("code", "day", "kind"))
    known = np.full(count, np.iinfo(np.int32).max, dtype=np.int32)
    joined = np.flatnonzero(kinds == _JOINED)
    known[codes[joined]] = days[joined]
    if len(joined):
        acts = acts.filter(pa.array(kinds != _JOINED))
        codes, days, kinds = (acts[name].to_numpy() for name in ("code", "day", "kind"))
    first, span = (int(days.min()), int(np.ptp(days)) + 1) if len(days) else (0, 1)
    # One number for customer and day: sorted as the history is, and the acts' rows in it come with the sorting.
    cells, rows = np.unique(codes * np.int64(span) + (days - first), return_inverse=True)
    sums = np.zeros((len(DAILY), len(cells)), dtype=np.float32)
    for k in range(len(DAILY)):
        if k not in MONEY_SUMS:
            sums[k] = np.bincount(rows[kinds == k], minlength=len(cells))
    sums[TICKETS] += sums[BAD]
    bought = np.flatnonzero(kinds <= SPEND)
    for k, name in ((SPEND, "amount"), (DISCOUNT, "discount")):
        value = acts[name].to_numpy()[bought]
        there = np.flatnonzero(np.nan_to_num(value))
        sums[k] = np.bincount(rows[bought[there]], weights=value[there], minlength=len(cells))
    owner, days = cells // span, (cells % span + first).astype(np.int32)
    starts = np.searchsorted(owner, np.arange(count + 1))
    has = np.flatnonzero(starts[1:] > starts[:-1])
    known[has] = np.minimum(known[has], days[starts[has]])
    return DailyHistory(starts, days, sums.T, known)  # (m, K) with columns that lie together, as `tensors` wants them


_EVERYONE = " UNION ".join(
    f"SELECT business_id, customer_id FROM {t} WHERE $business IS NULL OR business_id = $business"  # noqa: S608
    for t in ("customers", "transactions", "events", "tickets")
)
_SHARD = "(md5_number_lower(business_id || chr(31) || customer_id) % $count)::INTEGER"


def shard_customers(connection: duckdb.DuckDBPyConnection, number: int, count: int, business_id: str | None = None) -> pa.Table:
    """The customers of one shard of `count`: business_id, customer_id; sorted.

    A customer's shard depends on the two ids and `count` only (the lower half of an MD5), so it is the same on every machine, and each
    customer is in exactly one. Everyone whom the warehouse knows belongs to one, from whichever table.

    Args:
        connection: with the warehouse's tables.
        number: 0 to count - 1.
        business_id: only this business's customers; all when None.

    Raises:
        ContractError: no such shard.
    """
    if not 0 <= number < count:
        raise ContractError(f"shard {number} of {count} does not exist; it must be 0 to {count - 1}. Count shards from 0.")
    sql = f"SELECT business_id, customer_id FROM ({_EVERYONE}) WHERE {_SHARD} = $number ORDER BY ALL"  # noqa: S608
    return connection.sql(sql, params={"business": business_id, "number": number, "count": count}).to_arrow_table()


def shards(connection: duckdb.DuckDBPyConnection, count: int, business_id: str | None = None) -> list[pa.Table]:
    """All of `shard_customers(connection, 0 .. count - 1, count)` in one pass over the warehouse.

    Raises:
        ContractError: fewer than one shard.
    """
    if count < 1:
        raise ContractError(f"{count} shards cannot hold anyone; there must be at least 1. Ask for more.")
    sql = f"SELECT business_id, customer_id, {_SHARD} AS shard FROM ({_EVERYONE}) ORDER BY ALL"  # noqa: S608
    found = connection.sql(sql, params={"business": business_id, "count": count}).to_arrow_table()
    ids, shard = found.select(["business_id", "customer_id"]), found["shard"].to_numpy()
    return [ids.take(pa.array(np.flatnonzero(shard == number))) for number in range(count)]


_BANDS = (30, 90, 180, LONGEST_DAYS)
"""Ages in days at which windows end. The sums between two of them, added up from the newest on, are the windows' sums."""
_SPANS = (*_BANDS, math.inf)


def tensors(history: DailyHistory, as_of_day: int) -> dict[str, np.ndarray]:
    """The sequence model's inputs for every customer of a history, as of the beginning of a day.

    Rows are sorted by customer and day, so whatever is added up (a customer's week, or band of ages) is a run of neighbours, and each sum
    is one `reduceat` over its column.

    Returns:
        weeks float32 (C, 52, 12) and statics float32 (C, 40), finite.
    """
    count = len(history)
    owner = np.repeat(np.arange(count), np.diff(history.starts))
    days, sums = history.days, history.sums.T  # (m,), (K, m)
    before = days < as_of_day
    if not before.all():
        owner, days, sums = owner[before], days[before], sums[:, before]
    age = as_of_day - 1 - days  # 0 = the day before the as-of day
    bought = np.flatnonzero(sums[PURCHASES] > 0)
    return {
        "weeks": _weeks(history, as_of_day, owner, age, sums, bought),
        "statics": _statics(history, as_of_day, owner, age, sums, bought),
    }


def _runs(cells: np.ndarray) -> np.ndarray:
    """Where each new value of a sorted array begins; int64."""
    return np.flatnonzero(np.concatenate([[True], cells[1:] != cells[:-1]])) if len(cells) else np.zeros(0, dtype=np.int64)


def _weeks(history: DailyHistory, as_of_day: int, owner: np.ndarray, age: np.ndarray, sums: np.ndarray, bought: np.ndarray) -> np.ndarray:
    count, steps = len(history), WEEK_COUNT + 1  # the first takes whatever is older, and is left out in the end
    cells = owner * steps + np.maximum(WEEK_COUNT - age // 7, 0)
    begins = _runs(cells)
    grid = np.zeros((count * steps, CHANNEL_COUNT), dtype=np.float32)
    if len(begins):
        places = cells[begins]
        for k in range(len(DAILY)):
            totals = np.add.reduceat(sums[k], begins)
            there = np.flatnonzero(totals)  # most are 0 and need neither a logarithm nor a place
            grid[places[there], k] = signed_log1p(totals[there])
    last = np.full((count, steps), np.inf, dtype=np.float32)  # age of the newest purchase up to the end of a week
    last.reshape(-1)[cells[bought]] = age[bought]  # of a week's days the last one written stays, which is the newest
    if history.older is not None:
        older = history.older.last[:, 0]
        last[:, 0] = np.minimum(last[:, 0], np.where(older == NO_DAY, np.inf, as_of_day - 1 - older))
    out = grid.reshape(count, steps, CHANNEL_COUNT)[:, 1:]
    ends = np.arange(WEEK_COUNT - 1, -1, -1, dtype=np.int64) * 7  # age in days of the last day of each week
    known = (as_of_day - history.joined.astype(np.int64))[:, None] > ends
    newest = np.minimum.accumulate(last, axis=1)[:, 1:]
    gap = np.where(np.isfinite(newest), newest - ends, NEVER_DAYS)
    out[..., -2] = np.where(known, np.log1p(np.maximum(gap, 0) / 7.0), 0.0)
    out[..., -1] = known
    return np.ascontiguousarray(out)


def _statics(history: DailyHistory, as_of_day: int, owner: np.ndarray, age: np.ndarray, sums: np.ndarray, bought: np.ndarray) -> np.ndarray:
    count, older = len(history), history.older
    within = _window_sums(count, owner, age, [*sums, (sums[PURCHASES] > 0).astype(np.float32)])  # (K + 1, C, 5)
    if older is not None:
        within[: len(DAILY), :, -1] += older.sums.T
        within[-1, :, -1] += older.purchase_days
    logs = signed_log1p(within)
    columns = [logs[channel, :, _SPANS.index(span)] for channel, spans, _ in _WINDOWS.values() for span in spans]
    recency, engaged, redeemed, bad = (
        _newest(count, owner, age, np.flatnonzero(sums[k] > 0), as_of_day, None if older is None else older.last[:, i])
        for i, k in enumerate(LATEST)
    )
    first = np.full(count, NEVER_DAYS)
    first[owner[bought[::-1]]] = age[bought[::-1]]  # the last one written stays, here the oldest
    if older is not None:
        first = np.where(older.first_purchase == NO_DAY, first, _age(as_of_day, older.first_purchase))
    ever = within[:, :, -1]
    days_bought, spend, discount = ever[-1], ever[SPEND], ever[DISCOUNT]
    usual = np.maximum((first - recency) / np.maximum(days_bought - 1, 1), 1.0)
    gap = np.where(days_bought > 1, usual, np.maximum(first, 30.0))  # one purchase: as long as that is known
    half, two = within[-1, :, _SPANS.index(90)], within[-1, :, _SPANS.index(180)]
    columns += [
        np.log1p(recency),
        np.log1p(np.minimum(recency, NEVER_DAYS) / gap),
        np.log1p(days_bought),
        np.log1p(gap),
        np.log1p(half) - np.log1p(two - half),
        signed_log1p(spend / np.maximum(ever[PURCHASES], 1.0)),
        np.clip(discount / np.maximum(spend + discount, 1e-9), 0.0, 1.0),
        np.log1p(engaged),
        np.log1p(redeemed),
        np.log1p(np.maximum(as_of_day - 1 - history.joined.astype(np.int64), 0)),
        np.log1p(first),
        np.log1p(bad),
    ]
    angle = 2.0 * np.pi * as_of_day / 365.2425
    columns += [np.full(count, wave) for wave in (math.sin(angle), math.cos(angle), math.sin(2 * angle), math.cos(2 * angle))]
    return np.stack(columns, axis=1).astype(np.float32)


def _window_sums(count: int, owner: np.ndarray, age: np.ndarray, columns: list[np.ndarray]) -> np.ndarray:
    """Sums of each column (m,) over the last 30, 90, 180, 365 days and ever; float64 (number of columns, C, 5)."""
    bands = len(_SPANS)
    cells = owner * bands + (bands - 1 - np.searchsorted(_BANDS, age, side="right"))  # the oldest band first, as the rows are
    begins = _runs(cells)
    out = np.zeros((len(columns), count * bands))
    if len(begins):
        for k, column in enumerate(columns):
            out[k, cells[begins]] = np.add.reduceat(column, begins, dtype=np.float64)
    return np.cumsum(out.reshape(len(columns), count, bands)[..., ::-1], axis=2)


def _age(as_of_day: int, days: np.ndarray) -> np.ndarray:
    """Age in days of some days, float64; ten years for `NO_DAY`."""
    return np.where(days == NO_DAY, NEVER_DAYS, as_of_day - 1 - days)


def _newest(count: int, owner: np.ndarray, age: np.ndarray, rows: np.ndarray, as_of_day: int, older: np.ndarray | None) -> np.ndarray:
    """Age in days of each customer's newest of some rows (or older day), float64 (C,); ten years where there is none.

    A last day that is more than ten years ago stays as it is, so an older day counts only where no row does.
    """
    out = np.full(count, NEVER_DAYS) if older is None else _age(as_of_day, older)
    out[owner[rows]] = age[rows]  # of equal customers the last one written stays, which is the newest
    return out
