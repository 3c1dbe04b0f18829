"""One customer's weekly history, small enough for one stored value, and foldable: late acts need no recomputation.

`features.weekly` asks of days more than a year back only for what they came to, so only the last 400 days are kept by day. The tensors are
made by `features.weekly.tensors` itself, of this as of any other history; folding the same acts in any order, or in several goes, gives the
same history (to rounding).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from contracts.errors import ArtifactError
from features import weekly
from features.definitions import DAY_S, epoch_seconds, finite
from features.weekly import DAILY, LATEST, LONGEST_DAYS, NO_DAY

KEPT_DAYS = 400
"""Days before the writing time that are kept by day: the longest window, and as-of times up to 35 days before the writing time."""
UNKNOWN_DAY = int(np.iinfo(np.int32).max)
"""As `joined`: nothing is known of the customer."""
_EVER = datetime(9999, 12, 31, tzinfo=UTC)
_CHANNEL_OF = {kind: DAILY.index(name) for name, kinds in weekly.EVENT_SUMS.items() for kind in kinds}
_LATEST_OF = {channel: i for i, channel in enumerate(LATEST)}


class DayAct(NamedTuple):
    """A part of what one act adds to its day.

    Attributes:
        day: days since 1970-01-01 (UTC).
        channel: position in `features.weekly.DAILY`.
        value: what is added to that sum; not 0.
    """

    day: int
    channel: int
    value: float


def purchase_acts(occurred_at: datetime, amount: float, discount: float | None = None) -> list[DayAct]:
    """What a transaction adds: a purchase unless it is a return (amount < 0), net spend, discount."""
    parts = ((weekly.PURCHASES, float(amount >= 0)), (weekly.SPEND, float(amount)), (weekly.DISCOUNT, finite(discount)))
    return [DayAct(_day(occurred_at), channel, value) for channel, value in parts if value]


def event_acts(event_type: str, occurred_at: datetime) -> list[DayAct]:
    """What an event adds; nothing for the types that no sum counts."""
    channel = _CHANNEL_OF.get(event_type)
    return [] if channel is None else [DayAct(_day(occurred_at), channel, 1.0)]


def ticket_acts(created_at: datetime, rating: float | None = None, sentiment: str | None = None) -> list[DayAct]:
    """What a service ticket adds. It is a bad one when its sentiment is NEGATIVE or its rating 2 or less."""
    bad = sentiment == "NEGATIVE" or (rating is not None and rating <= 2)
    return [DayAct(_day(created_at), channel, 1.0) for channel in ((weekly.TICKETS, weekly.BAD) if bad else (weekly.TICKETS,))]


def _day(when: datetime) -> int:
    return int(epoch_seconds(when) // DAY_S)


def _no_days() -> np.ndarray:
    return np.zeros(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class CustomerHistory:
    """Everything that the sequence model's inputs need to know of a customer. Never changed in place.

    Attributes:
        watermark: inbox sequence number up to which events are inside.
        joined: day of joining, or the day of the first row where that is earlier or joining is unknown; `UNKNOWN_DAY` without either.
        folded_before: days before it are in `old_*` only; `NO_DAY` when nothing is folded.
        days: int32 (r,), days on which something happened, ascending, `folded_before` or later.
        sums: float32 (r, 10), see `features.weekly.DAILY`.
        old_sums: float64 (10,), sums of the days before.
        old_days: int32 (p,), the days before with a purchase, ascending. Kept one by one: an act that comes very late must not count a
            day twice.
        old_last: int32 (4,), last days before with a purchase, an engagement, a redemption and a bad ticket; `NO_DAY` without one.
    """

    watermark: int = 0
    joined: int = UNKNOWN_DAY
    folded_before: int = NO_DAY
    days: np.ndarray = field(default_factory=_no_days)
    sums: np.ndarray = field(default_factory=lambda: np.zeros((0, len(DAILY)), dtype=np.float32))
    old_sums: np.ndarray = field(default_factory=lambda: np.zeros(len(DAILY)))
    old_days: np.ndarray = field(default_factory=_no_days)
    old_last: np.ndarray = field(default_factory=lambda: np.full(len(LATEST), NO_DAY, dtype=np.int32))


def extended(base: CustomerHistory | None, acts: Iterable[DayAct]) -> CustomerHistory:
    """A history with some acts inside, whenever they happened; the watermark stays. Each act must be folded once only.

    Args:
        base: None for a customer without a stored history.
        acts: in any order. Those of the as-of day or later are left out by `tensors_of`, those later on the last day are not: whoever wants
            an instant within a day leaves out what is later.
    """
    base, new = base or CustomerHistory(), list(acts)
    if not new:
        return base
    recent = [a for a in new if a.day >= base.folded_before]
    days = np.union1d(base.days, np.array([a.day for a in recent], dtype=np.int32))
    sums = np.zeros((len(days), len(DAILY)), dtype=np.float32)
    sums[np.searchsorted(days, base.days)] = base.sums
    for act in recent:
        sums[np.searchsorted(days, act.day), act.channel] += act.value
    made = replace(base, days=days, sums=sums, joined=min(base.joined, *(a.day for a in new)))
    old = [a for a in new if a.day < base.folded_before]
    return _with_old(made, old) if old else made


def _with_old(history: CustomerHistory, acts: list[DayAct]) -> CustomerHistory:
    sums, last = history.old_sums.copy(), history.old_last.copy()
    for act in acts:
        sums[act.channel] += act.value
        if act.channel in _LATEST_OF:
            last[_LATEST_OF[act.channel]] = max(last[_LATEST_OF[act.channel]], act.day)
    bought = np.array([a.day for a in acts if a.channel == weekly.PURCHASES], dtype=np.int32)
    return replace(history, old_sums=sums, old_last=last, old_days=np.union1d(history.old_days, bought))


def tensors_of(history: CustomerHistory, as_of: datetime) -> dict[str, np.ndarray]:
    """The sequence model's inputs for one customer: weeks float32 (1, 52, 12) and statics float32 (1, 40), see `features.weekly.tensors`.

    Args:
        as_of: the days up to and with the one before `features.weekly.as_of_day(as_of)` count.

    Raises:
        ArtifactError: the as-of time is more than 35 days before the time at which the history was written.
    """
    day = weekly.as_of_day(as_of)
    if history.folded_before > day - LONGEST_DAYS:
        raise ArtifactError(
            f"stored history is by day from day {history.folded_before} on, as of day {day} it must be so from {day - LONGEST_DAYS} on. "
            f"The clock is behind that of the writer, or the as-of time is long ago. {_AGAIN}"
        )
    older = weekly.Older(
        history.old_sums[None],
        np.array([len(history.old_days)]),
        np.array([history.old_days[0] if len(history.old_days) else NO_DAY], dtype=np.int64),
        history.old_last[None].astype(np.int64),
    )
    starts = np.array([0, len(history.days)])
    joined = np.array([history.joined], dtype=np.int32)
    return weekly.tensors(weekly.DailyHistory(starts, history.days, history.sums, joined, older), day)


def histories(
    connection: duckdb.DuckDBPyConnection, customers: pa.Table, as_of: datetime, watermark: int = 0
) -> Iterator[tuple[str, str, CustomerHistory]]:
    """The history of each customer from the warehouse: (business_id, customer_id, history).

    Args:
        customers: columns business_id, customer_id; distinct.
        as_of: days more than 400 before it are folded. Rows at or after it are inside, and count as soon as their day does in `tensors_of`.
        watermark: written into each history.
    """
    found = weekly.read(connection, customers, _EVER)
    border = weekly.as_of_day(as_of) - KEPT_DAYS
    names = zip(customers["business_id"].to_pylist(), customers["customer_id"].to_pylist(), strict=True)
    for code, (business_id, customer_id) in enumerate(names):
        begin, end = int(found.starts[code]), int(found.starts[code + 1])
        at = begin + int(np.searchsorted(found.days[begin:end], border))
        yield business_id, customer_id, _folded(found, code, slice(begin, at), slice(at, end), border, watermark)


def _folded(found: weekly.DailyHistory, code: int, old: slice, kept: slice, border: int, watermark: int) -> CustomerHistory:
    made = CustomerHistory(
        watermark=watermark,
        joined=int(found.joined[code]),
        folded_before=border,
        days=found.days[kept],
        sums=np.ascontiguousarray(found.sums[kept]),
    )
    if old.start == old.stop:
        return made
    days, sums = found.days[old], found.sums[old]
    there = sums[:, LATEST] > 0
    last = [int(days[np.flatnonzero(rows)[-1]]) if rows.any() else NO_DAY for rows in there.T]
    return replace(made, old_sums=sums.sum(axis=0, dtype=np.float64), old_days=days[there[:, 0]], old_last=np.array(last, dtype=np.int32))


# Packed: magic, format version, numbers of days and of old purchase days, watermark, folded_before, joined; old sums, old last days, old
# purchase days; the days, which sums of each are not 0 (a bit each), and those sums, row by row; CRC-32 of all.
HISTORY_FORMAT = 1
"""Of packed histories; a stored one of another format cannot be read, and is materialized again."""
_MAGIC = b"RGHS"
_HEAD = struct.Struct("<4sBIIQii")
_FIXED = _HEAD.size + 8 * len(DAILY) + 4 * len(LATEST)
_BITS = 1 << np.arange(len(DAILY), dtype=np.uint16)
_AGAIN = "Materialize the online store again: regulars serve does it at start."


def pack(history: CustomerHistory) -> bytes:
    """A history as bytes; `unpack` gives it back exactly."""
    there = history.sums != 0
    parts = [
        _HEAD.pack(
            _MAGIC, HISTORY_FORMAT, len(history.days), len(history.old_days), history.watermark, history.folded_before, history.joined
        ),
        history.old_sums.astype("<f8").tobytes(),
        history.old_last.astype("<i4").tobytes(),
        history.old_days.astype("<i4").tobytes(),
        history.days.astype("<i4").tobytes(),
        (there @ _BITS).astype("<u2").tobytes(),
        history.sums[there].astype("<f4").tobytes(),
    ]
    body = b"".join(parts)
    return body + struct.pack("<I", zlib.crc32(body))


def unpack(packed: bytes) -> CustomerHistory:
    """The history that was packed.

    Raises:
        ArtifactError: the bytes are damaged or of another format version.
    """
    if len(packed) < _FIXED + 4 or packed[:4] != _MAGIC:
        raise ArtifactError(f"stored history of {len(packed)} bytes is not one; it must begin with {_MAGIC!r}. {_AGAIN}")
    if packed[4] != HISTORY_FORMAT:
        raise ArtifactError(f"stored history has format {packed[4]}, this program reads {HISTORY_FORMAT}. {_AGAIN}")
    if zlib.crc32(packed[:-4]) != int.from_bytes(packed[-4:], "little"):
        raise ArtifactError(f"stored history of {len(packed)} bytes does not match its checksum. {_AGAIN}")
    _, _, rows, old, watermark, folded_before, joined = _HEAD.unpack_from(packed)
    at = _FIXED + 4 * old
    there = (np.frombuffer(packed, "<u2", rows, at + 4 * rows)[:, None] & _BITS) != 0
    sums = np.zeros((rows, len(DAILY)), dtype=np.float32)
    sums[there] = np.frombuffer(packed, "<f4", int(there.sum()), at + 6 * rows)
    return CustomerHistory(
        watermark=watermark,
        joined=joined,
        folded_before=folded_before,
        days=np.frombuffer(packed, "<i4", rows, at),
        sums=sums,
        old_sums=np.frombuffer(packed, "<f8", len(DAILY), _HEAD.size),
        old_days=np.frombuffer(packed, "<i4", old, _FIXED),
        old_last=np.frombuffer(packed, "<i4", len(LATEST), _HEAD.size + 8 * len(DAILY)),
    )
