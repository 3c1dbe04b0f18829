"""A customer's vector, used again while it is certain to be the same: explicit freshness, bounded memory.

A vector answers for its customer only while nothing that the user tower reads has changed beyond the passing of a few seconds: the same
model version, the same events counted, the same part of the day, weekday and month, and an age below the setting. What has been counted
is compared as facts, not guessed from time, so an event, a dismissal or a redemption makes the vector stale at the very next request.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
from prometheus_client import Counter, Gauge

from contracts.errors import ShapeError
from features.state import CustomerState
from ray_apps.deployments.explain import PART_OF_HOUR
from ray_apps.metrics import Metrics
from ray_apps.tuning import VectorSettings


class Key(NamedTuple):
    """Whose vector, made by which version of the model."""

    business_id: str
    customer_id: str
    model_version: str


class Facts(NamedTuple):
    """All that a vector depends on, less the seconds that pass. Equal facts within the time to live: the same vector.

    Attributes:
        watermark: inbox sequence number up to which events are inside the stored state.
        newest: sequence number of the newest inbox event counted on top of it; 0 without any.
        touches: touches counted. A touch whose time has come, or one that was committed late, changes it.
        last: epoch seconds of the newest touch counted.
        context: part of the day, weekday (0 Monday), month.
    """

    watermark: int
    newest: int
    touches: int
    last: float
    context: tuple[str, int, int]


def facts_of(state: CustomerState, newest: int, context_time: float) -> Facts:
    """The facts of a request.

    Args:
        state: as of the request, with the inbox events inside (`features.state.state_at`).
        newest: sequence number of the newest of those inbox events; 0 when there were none.
        context_time: epoch seconds, the time that the context features are made of.
    """
    moment = datetime.fromtimestamp(context_time, UTC)
    return Facts(state.watermark, newest, state.touch_count, state.time, (PART_OF_HOUR[moment.hour], moment.weekday(), moment.month))


@dataclass(frozen=True, slots=True)
class _Entry:
    facts: Facts
    computed_at: float
    vector: np.ndarray


class VectorCache:
    """Vectors of the customers seen last. Safe to use from several threads.

    Args:
        settings: time to live and bound.
        metrics: where hits, misses and the size are shown.
        clock: monotonic seconds.
    """

    def __init__(
        self, settings: VectorSettings | None = None, metrics: Metrics | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings = settings or VectorSettings.load()
        self._clock = clock
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._lock = threading.Lock()
        registry = (metrics or Metrics()).registry
        looked = Counter("regulars_vector_cache_total", "Looks for a customer's vector.", ["outcome"], registry=registry)
        self._outcomes = {name: looked.labels(name) for name in ("hit", "absent", "stale", "expired")}
        self._size = Gauge("regulars_vector_cache_entries", "Vectors kept.", registry=registry)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key, facts: Facts) -> np.ndarray | None:
        """The customer's vector, float32 (1, D), read-only; None where it must be computed.

        A stale or expired one is dropped, so that it cannot come back.
        """
        with self._lock:
            entry = self._entries.get(key)
            outcome = self._judge(entry, facts)
            if outcome == "hit":
                self._entries.move_to_end(key)
            elif entry is not None:
                del self._entries[key]
                self._size.set(len(self._entries))
        self._outcomes[outcome].inc()
        return entry.vector if entry is not None and outcome == "hit" else None

    def _judge(self, entry: _Entry | None, facts: Facts) -> str:
        if entry is None:
            return "absent"
        if entry.facts != facts:
            return "stale"
        return "hit" if self._clock() - entry.computed_at < self.settings.ttl_s else "expired"

    def put(self, key: Key, facts: Facts, vector: np.ndarray) -> None:
        """Keep a vector that was just computed from these facts; a copy is kept.

        Args:
            vector: float32 (1, D), finite.

        Raises:
            ShapeError: it is not.
        """
        if vector.dtype != np.float32 or vector.ndim != 2 or len(vector) != 1 or not np.isfinite(vector).all():
            raise ShapeError(f"vector is {vector.dtype} {vector.shape}, must be float32 (1, D) and finite. Keep what the user tower gave.")
        if not self.settings.ttl_s:
            return
        kept = vector.copy()
        kept.flags.writeable = False
        with self._lock:
            self._entries[key] = _Entry(facts, self._clock(), kept)
            self._entries.move_to_end(key)
            while len(self._entries) > self.settings.entries:
                self._entries.popitem(last=False)
            self._size.set(len(self._entries))

    def clear(self) -> None:
        """Forget everything. Not needed at a change of the model: the version is part of the key."""
        with self._lock:
            self._entries.clear()
            self._size.set(0)

    def forget(self, business_id: str, customer_id: str) -> None:
        """Drop a customer's vectors of all versions (erasure)."""
        with self._lock:
            for key in [k for k in self._entries if k[:2] == (business_id, customer_id)]:
                del self._entries[key]
            self._size.set(len(self._entries))
