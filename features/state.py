"""What is known of one customer, small enough for one stored value, and foldable: late touches need no recomputation.

A state is a sum: folding the same touches in any order, or in several goes, gives the same state (to rounding). The decayed sums refer
to the time of the newest touch, and are decayed further when they are read.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import orjson

from contracts.errors import ArtifactError
from contracts.tensors import SEQUENCE_LENGTH
from features import sequences
from features.definitions import (
    DEMOGRAPHICS,
    GROUP_COUNT,
    GROUP_OF_KIND,
    HALF_LIFE_COUNT,
    HALF_LIVES_S,
    KIND_CODES,
    KIND_COUNT,
    NO_DEMOGRAPHICS,
    PURCHASE,
    RECENCY_COUNT,
    RECENCY_OF_KIND,
    SPEND_GROUP,
    SUM_COUNT,
    Touch,
    assemble,
)
from features.vocabulary import Vocabulary

NEVER = float("-inf")
_PURCHASE, _REDEMPTION, _DISMISSED = KIND_CODES[PURCHASE], KIND_CODES["redemption"], KIND_CODES["reward_dismissed"]
# Plain lists: on the request path a handful of touches is folded, and there Python beats NumPy's overhead a call.
_GROUPS_OF = [[int(g) for g in np.flatnonzero(GROUP_OF_KIND[kind])] for kind in range(KIND_COUNT)]
_RECENCIES_OF = [[int(r) for r in np.flatnonzero(RECENCY_OF_KIND[kind])] for kind in range(KIND_COUNT)]


@dataclass(slots=True)
class CustomerState:
    """Everything that features, sequence, rules and explanations need to know of a customer. Never changed in place.

    Attributes:
        time: epoch seconds of the newest touch, which `sums` refer to; -inf without touches.
        sums: float64 (24,), decayed to `time`, see `features.definitions`.
        last: float64 (6,), epoch seconds of the last touches; NaN = never.
        recent: the newest 50 touches, ascending.
        redeemed: reward id -> how often it was redeemed, ever.
        redeemed_at: reward id -> epoch seconds of its first and of its last redemption.
        dismissed: reward ids that the customer does not want.
        touch_count: touches, ever.
        purchase_hours: int64 (24,), purchases by hour of day (UTC), ever.
        demographics: float64 (5,), see `features.definitions.DEMOGRAPHICS`.
        watermark: inbox sequence number up to which events are inside.
        pending: touches that the warehouse already held at the time of writing but that lay at or after it (a customer's fast clock,
            or the very newest row); `state_at` counts them once their time has come.
    """

    time: float = NEVER
    sums: np.ndarray = field(default_factory=lambda: np.zeros(SUM_COUNT))
    last: np.ndarray = field(default_factory=lambda: np.full(RECENCY_COUNT, np.nan))
    recent: list[Touch] = field(default_factory=list)
    redeemed: dict[str, int] = field(default_factory=dict)
    redeemed_at: dict[str, tuple[float, float]] = field(default_factory=dict)
    dismissed: frozenset[str] = frozenset()
    touch_count: int = 0
    purchase_hours: np.ndarray = field(default_factory=lambda: np.zeros(24, dtype=np.int64))
    demographics: np.ndarray = field(default_factory=NO_DEMOGRAPHICS.copy)
    watermark: int = 0
    pending: list[Touch] = field(default_factory=list)


def fold(state: CustomerState, touches: Iterable[Touch]) -> CustomerState:
    """A new state with the touches inside, whenever they happened. Order does not matter; each touch must be folded once only."""
    new = list(touches)
    if not new:
        return state
    time = max(state.time, max(t.time for t in new))
    sums = (state.sums if state.touch_count else np.zeros(SUM_COUNT)).reshape(GROUP_COUNT, HALF_LIFE_COUNT)
    sums = sums * np.exp2((state.time - time) / HALF_LIVES_S) if state.touch_count else sums
    last, hours = state.last.copy(), state.purchase_hours.copy()
    redeemed, redeemed_at, dismissed = dict(state.redeemed), dict(state.redeemed_at), set(state.dismissed)
    for touch in new:
        weight = np.exp2((touch.time - time) / HALF_LIVES_S)
        for group in _GROUPS_OF[touch.kind]:
            sums[group] += weight * touch.value if group == SPEND_GROUP else weight
        for recency in _RECENCIES_OF[touch.kind]:
            last[recency] = np.fmax(last[recency], touch.time)
        _count(touch, redeemed, redeemed_at, dismissed, hours)
    return CustomerState(
        time=time,
        sums=sums.reshape(SUM_COUNT),
        last=last,
        recent=sorted([*state.recent, *new])[-SEQUENCE_LENGTH:],
        redeemed=redeemed,
        redeemed_at=redeemed_at,
        dismissed=frozenset(dismissed),
        touch_count=state.touch_count + len(new),
        purchase_hours=hours,
        demographics=state.demographics,
        watermark=state.watermark,
        pending=state.pending,
    )


def _count(
    touch: Touch, redeemed: dict[str, int], redeemed_at: dict[str, tuple[float, float]], dismissed: set[str], hours: np.ndarray
) -> None:
    reward = touch.token[2:] if touch.token.startswith("r:") else None
    if touch.kind == _PURCHASE:
        hours[int(touch.time % 86_400 // 3_600)] += 1
    elif touch.kind == _REDEMPTION and reward:
        redeemed[reward] = redeemed.get(reward, 0) + 1
        first, last = redeemed_at.get(reward, (touch.time, touch.time))
        redeemed_at[reward] = (min(first, touch.time), max(last, touch.time))
    elif touch.kind == _DISMISSED and reward:
        dismissed.add(reward)


def state_at(base: CustomerState | None, touches: Iterable[Touch], as_of: float) -> CustomerState:
    """The state as of an instant: the base and those of the touches that lie strictly before it.

    Args:
        base: holds only touches before the as-of time; None for a customer without a stored state. Touches inside it cannot be
            taken out again, so for an as-of time before `base.time` (a clock behind the writer's) they count with age 0.
        touches: not inside the base; later ones than the as-of time are left out.
        as_of: epoch seconds.
    """
    base = base if base is not None else CustomerState()
    folded = fold(base, [t for t in (*base.pending, *touches) if t.time < as_of])
    return replace(folded, pending=[t for t in base.pending if t.time >= as_of]) if base.pending else folded


def finalize(states: Sequence[CustomerState], as_of: float | np.ndarray, context_time: float | np.ndarray | None = None) -> np.ndarray:
    """The 44 features of some customers.

    Args:
        states: B states, as of the as-of time (`state_at`).
        as_of: epoch seconds, one for all or float64 (B,).
        context_time: the request's time for hour, weekday and month; the as-of time when None.

    Returns:
        float32 (B, 44).
    """
    count = len(states)
    moment = np.broadcast_to(np.asarray(as_of, dtype=np.float64), (count,))
    context = moment if context_time is None else np.broadcast_to(np.asarray(context_time, dtype=np.float64), (count,))
    times = np.array([s.time if s.touch_count else t for s, t in zip(states, moment, strict=True)])
    sums = np.array([s.sums for s in states]).reshape(count, GROUP_COUNT, HALF_LIFE_COUNT)
    sums = sums * np.exp2(-np.maximum(moment - times, 0.0)[:, None] / HALF_LIVES_S)[:, None, :]
    last = np.array([s.last for s in states]).reshape(count, RECENCY_COUNT)
    demographics = np.array([s.demographics for s in states]).reshape(count, len(DEMOGRAPHICS))
    return assemble(sums.reshape(count, SUM_COUNT), last, demographics, moment, context)


def tensors(
    states: Sequence[CustomerState], as_of: float | np.ndarray, vocabulary: Vocabulary, context_time: float | np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The named tensors of `contracts.tensors.USER_TOWER` for some customers; arguments as in `finalize`."""
    moment = np.broadcast_to(np.asarray(as_of, dtype=np.float64), (len(states),))
    ids, values = sequences.encode([s.recent for s in states], moment, vocabulary)
    return {"sequence_ids": ids, "sequence_values": values, "features": finalize(states, moment, context_time)}


# Packed: magic, format version, numbers of recent and of pending touches, length of the JSON part, touch_count, watermark, time; sums,
# last, demographics; hours (uint32); touches' times, values (float64), kinds (uint8); JSON [tokens, redeemed, dismissed,
# redeemed_at]; CRC-32 of all.
STATE_FORMAT = 2
"""Of packed states; a stored one of another format cannot be read, and is materialized again."""
_MAGIC, _VERSION = b"RGST", STATE_FORMAT
_HEAD = struct.Struct("<4sBBBIQQd")
_NUMBERS = SUM_COUNT + RECENCY_COUNT + len(DEMOGRAPHICS)
_FIXED = _HEAD.size + 8 * _NUMBERS + 4 * 24
_AGAIN = "Materialize the online store again: regulars serve does it at start."


def pack(state: CustomerState) -> bytes:
    """A state as bytes; `unpack` gives it back exactly. At most 50 pending touches are kept, the next to come."""
    pending = sorted(state.pending)[:SEQUENCE_LENGTH]
    touches = [*state.recent, *pending]
    texts = orjson.dumps([[t.token for t in touches], state.redeemed, sorted(state.dismissed), state.redeemed_at])
    parts = [
        _HEAD.pack(_MAGIC, _VERSION, len(state.recent), len(pending), len(texts), state.touch_count, state.watermark, state.time),
        np.concatenate([state.sums, state.last, state.demographics]).astype("<f8").tobytes(),
        state.purchase_hours.astype("<u4").tobytes(),
        struct.pack(f"<{len(touches)}d", *(t.time for t in touches)),
        struct.pack(f"<{len(touches)}d", *(t.value for t in touches)),
        bytes(t.kind for t in touches),
        texts,
    ]
    body = b"".join(parts)
    return body + struct.pack("<I", zlib.crc32(body))


def unpack(packed: bytes) -> CustomerState:
    """The state that was packed.

    Raises:
        ArtifactError: the bytes are damaged or of another format version.
    """
    if len(packed) < _FIXED + 4 or packed[:4] != _MAGIC:
        raise ArtifactError(f"stored state of {len(packed)} bytes is not one; it must begin with {_MAGIC!r}. {_AGAIN}")
    if packed[4] != _VERSION:
        raise ArtifactError(f"stored state has format {packed[4]}, this program reads {_VERSION}. {_AGAIN}")
    if zlib.crc32(packed[:-4]) != int.from_bytes(packed[-4:], "little"):
        raise ArtifactError(f"stored state of {len(packed)} bytes does not match its checksum. {_AGAIN}")
    _, _, recent, pending, text_length, touch_count, watermark, time = _HEAD.unpack_from(packed)
    n = recent + pending
    numbers = np.frombuffer(packed, "<f8", _NUMBERS, _HEAD.size)
    hours = np.frombuffer(packed, "<u4", 24, _HEAD.size + 8 * _NUMBERS)
    floats = struct.unpack_from(f"<{2 * n}d", packed, _FIXED)
    begin = _FIXED + 17 * n
    tokens, redeemed, dismissed, redeemed_at = orjson.loads(packed[begin : begin + text_length])
    touches = list(map(Touch, floats[:n], packed[_FIXED + 16 * n : begin], tokens, floats[n:]))
    return CustomerState(
        time=time,
        sums=numbers[:SUM_COUNT],
        last=numbers[SUM_COUNT : SUM_COUNT + RECENCY_COUNT],
        recent=touches[:recent],
        redeemed=redeemed,
        redeemed_at={reward: (times[0], times[1]) for reward, times in redeemed_at.items()},
        dismissed=frozenset(dismissed),
        touch_count=touch_count,
        purchase_hours=hours.astype(np.int64),
        demographics=numbers[SUM_COUNT + RECENCY_COUNT :],
        watermark=watermark,
        pending=touches[recent:],
    )
