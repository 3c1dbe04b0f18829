"""What the sequence model needs to know of one customer as of now: the stored weekly history and the inbox events not in it yet."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np

from contracts.errors import ArtifactError, StackError, UpstreamError
from contracts.tables import COVERAGES
from features.history import CustomerHistory, extended, tensors_of
from features.weekly import SPEND, as_of_day, coverage, facts
from ray_apps.deployments.breaker import Breaker
from ray_apps.deployments.lander import acts_of
from ray_apps.metrics import Metrics
from ray_apps.settings import ServeSettings
from ray_apps.store import InboxRow

logger = logging.getLogger("regulars.histories")


class HistoryStore(Protocol):
    """Stored histories (`features.online`)."""

    async def read_history(self, business_id: str, customer_id: str) -> CustomerHistory | None: ...


class Events(Protocol):
    """Events that have not landed yet (`ray_apps.store.OperationalStore`)."""

    async def recent_events(self, business_id: str, customer_id: str, above_seq: int, limit: int = 1000) -> list[InboxRow]: ...


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a customer as of an instant.

    Attributes:
        inputs: weeks float32 (1, 52, 12) and statics float32 (1, 40).
        facts: the static features in natural units, see `features.weekly.facts`.
        coverage: of `contracts.tables.COVERAGES`.
        spend: net spend ever, money.
        newest: time of the newest event of the inbox; None where there is none.
        whole: False when the inbox could not be read.
    """

    inputs: Mapping[str, np.ndarray]
    facts: Mapping[str, float]
    coverage: str
    spend: float
    newest: datetime | None
    whole: bool


class Histories:
    """Reads customers' histories.

    The circuit breaker is its own: a store that holds states and no histories yet is no reason to recommend without states.

    Args:
        store: stored histories.
        inbox: events above a history's watermark.
        settings: deadline and breaker.
        metrics: where the open breaker is shown.
    """

    def __init__(self, store: HistoryStore, inbox: Events, settings: ServeSettings, metrics: Metrics) -> None:
        self._store, self._inbox, self._deadline_s = store, inbox, settings.features_deadline_ms / 1000
        probe_s = settings.breaker_probe_ms / 1000
        self.breaker = Breaker(
            "the store of histories", settings.breaker_failures, probe_s, self._probe, metrics.breaker.labels("histories").set
        )

    async def stop(self) -> None:
        """End background probes."""
        await self.breaker.stop()

    async def _probe(self) -> None:
        await self._store.read_history("-", "-")

    async def known(self, business_id: str, customer_id: str, now: datetime) -> Known | None:
        """The customer as of now, up to the newest event; None where the stored history cannot be read.

        Without it a regular would look like somebody new, so the inbox alone is not enough.
        """
        try:
            base = await self.breaker.call(lambda: self._store.read_history(business_id, customer_id), self._deadline_s)
        except (StackError, OSError) as exc:
            logger.info("answering without the stored history: %s", type(exc).__name__)
            return None
        rows, whole = [], True
        try:
            rows = await self._inbox.recent_events(business_id, customer_id, base.watermark if base is not None else 0)
        except UpstreamError as exc:
            logger.info("answering without the inbox: %s", exc)
            whole = False
        try:
            return known_of(extended(base, acts_of(rows)), now, max((r.occurred_at for r in rows), default=None), whole)
        except ArtifactError as exc:
            logger.warning("answering without the stored history: %s", exc)
            return None


def known_of(history: CustomerHistory, now: datetime, newest: datetime | None = None, whole: bool = True) -> Known:
    """The inputs of a history as of an instant, and what they say.

    Raises:
        ArtifactError: see `features.history.tensors_of`.
    """
    inputs = tensors_of(history, now)
    statics = inputs["statics"]
    inside = history.days < as_of_day(now)
    return Known(
        inputs=inputs,
        facts={name: float(value[0]) for name, value in facts(statics).items()},
        coverage=COVERAGES[int(coverage(statics)[0])],
        spend=float(history.old_sums[SPEND] + history.sums[inside, SPEND].sum(dtype=np.float64)),
        newest=newest,
        whole=whole,
    )
