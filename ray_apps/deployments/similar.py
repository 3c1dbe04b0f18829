"""Customers similar to a customer, by embedding: every known customer's vector is kept, and follows what the customer does.

A background task of each replica looks every second for new events and embeds their customers again. One replica of a home (the holder of
a file lock) also walks through everyone in the online store, in small batches with pauses, and saves the vectors in
`<home>/embeddings/customers-<version>.npz`, which the others load; after a restart only who is missing, has acted or has grown old is
embedded again. Whoever is asked about is embedded on the spot.

All vectors are made for one and the same context (noon of a Wednesday), not for the hour of a request: two customers must differ by what
they did, not by when they were looked at. So the vector of a recommendation, which holds its hour, is not taken for this index.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import prometheus_client as prometheus

from contracts.errors import ArtifactError, Overloaded, StackError, UnknownItem, UpstreamError
from contracts.paths import Home
from contracts.tensors import EMBEDDING_DIM, USER_TOWER
from embeddings.customers import CustomerIndex, Neighbour
from features.state import CustomerState, state_at, tensors
from ray_apps.clock import ServingClock
from ray_apps.deployments.breaker import Breaker
from ray_apps.deployments.lander import touches_of
from ray_apps.deployments.model import ModelWatcher, Served
from ray_apps.metrics import Metrics, Stopwatch
from ray_apps.settings import ServeSettings
from ray_apps.store import InboxRow
from ray_apps.tuning import SimilarSettings
from serving.client import TritonClient

logger = logging.getLogger("regulars.similar")

SHARED = 3
READ_SLICE = 8
"""States read in one go: about a millisecond of the event loop, then requests have their turn."""
OVERLAP = 256
"""Sequence numbers below the newest one that are looked at again: on PostgreSQL a lower one may be committed later."""
LOOK_LIMIT = 1000
FAILED_PAUSE_S = 5.0
RETRY_AFTER_S = 2
KEPT_FILES = 2
FORGET_AFTER_S = 600.0

CustomerKey = tuple[str, str]
"""business_id, customer_id."""


class NotIndexed(Overloaded):
    """No other customer of this business has a vector yet; answered with Retry-After."""

    title = "Not built yet"
    slug = "not-built"


class States(Protocol):
    """Base states of customers (`features.online`)."""

    async def read(self, business_id: str, customer_id: str) -> CustomerState | None: ...

    async def read_many(self, customers: Sequence[CustomerKey]) -> list[CustomerState | None]: ...

    async def customers(self) -> list[CustomerKey]: ...


class Inbox(Protocol):
    """Events that have not landed yet (`ray_apps.store.OperationalStore`)."""

    async def recent_events(self, business_id: str, customer_id: str, above_seq: int, limit: int = 1000) -> list[InboxRow]: ...

    async def customers_above(self, above_seq: int, limit: int = 1000) -> list[tuple[int, str, str]]: ...

    async def landed_seq(self) -> int: ...


@dataclass
class Build:
    """The vectors of one model version, and how far they are.

    Attributes:
        known: business -> customers in the online store when everyone was last counted.
        complete: everyone has been embedded once.
        seq: newest inbox event followed; `seen` are those within OVERLAP below it.
        next_walk: monotonic seconds.
        stamp: modification time (ns) of the file that was loaded or saved last.
        changed: something is not in the file yet; `erased`: an erasure is not.
    """

    version: str
    index: CustomerIndex
    known: dict[str, int] = field(default_factory=dict)
    complete: bool = False
    prepared: bool = False
    seq: int = 0
    seen: set[int] = field(default_factory=set)
    next_walk: float = 0.0
    stamp: int = 0
    changed: bool = False
    erased: bool = False


class SimilarCustomers:
    """Answers who is similar, and keeps the vectors.

    Args:
        home: where the vectors are saved.
        models: which version is served.
        states, inbox: where features come from.
        client: of the model server, for the background work.
        tower: breaker of the model server, for requests.
        clock: what is "now".
        metrics: where progress is shown.
        serve: deadline of requests, and the touches from which on the coverage is `full`.
        settings: see `SimilarSettings`.
    """

    def __init__(
        self,
        home: Home,
        models: ModelWatcher,
        states: States,
        inbox: Inbox,
        client: TritonClient,
        tower: Breaker,
        clock: ServingClock,
        metrics: Metrics,
        serve: ServeSettings,
        settings: SimilarSettings | None = None,
    ) -> None:
        self.settings = settings or SimilarSettings.load()
        self._folder, self._models, self._states, self._inbox = home.embeddings, models, states, inbox
        self._client, self._tower, self._clock, self._serve = client, tower, clock, serve
        self._build: Build | None = None
        self._task: asyncio.Task[None] | None = None
        self._lock: IO[str] | None = None
        registry = metrics.registry
        self._rows = prometheus.Gauge("regulars_similar_customers", "Customers known, and embedded.", ["state"], registry=registry)
        self._embedded = prometheus.Counter(
            "regulars_customer_embeddings_total", "Customers embedded for the similarity index.", ["reason"], registry=registry
        )

    # Requests

    async def similar(self, business_id: str, customer_id: str, limit: int, stopwatch: Stopwatch) -> dict[str, Any]:
        """The body of a `SimilarResponse`, less its latency.

        Raises:
            UnknownItem: nothing is known of the customer.
            NotIndexed: the vectors are being computed and there is none of this business yet.
            ArtifactError, UpstreamError: no model, no stored states, or the model server is away and the customer has no vector.
        """
        served = self._models.current
        if served is None:
            raise ArtifactError("no model is loaded yet. Wait until /-/readyz answers 200.")
        build, now = self._of(served), self._clock.now().timestamp()
        state = await self._state(served, (business_id, customer_id), now)
        if state is None:
            raise UnknownItem(
                f"nothing is known of customer {customer_id!r}. Send an event of this customer (POST /api/v1/events), then ask again."
            )
        stopwatch.lap("features")
        vector, as_of = await self._asked(served, build, (business_id, customer_id), state, now)
        stopwatch.lap("tower")
        found = build.index.search(vector, limit, business_id, exclude=(customer_id,))
        if not found and not build.complete:
            raise NotIndexed("the customers' vectors are being computed, none of them is there yet. Try again soon.", RETRY_AFTER_S)
        stopwatch.lap("search")
        shared = await self._shared(served, business_id, state, found)
        stopwatch.lap("rules")
        indexed = build.index.count(business_id)
        total = max(indexed, build.known.get(business_id, 0))
        full = state.touch_count >= self._serve.full_coverage_touches
        return {
            "customerId": customer_id,
            "similar": [_on_the_wire(n, names) for n, names in zip(found, shared, strict=True)],
            "modelVersion": served.name,
            "coverage": "cold_start" if not state.touch_count else "full" if full else "sparse",
            "freshness": {"vectorAgeSeconds": round(max(0.0, now - as_of), 3), "indexed": indexed, "total": total},
        }

    async def _asked(
        self, served: Served, build: Build, customer: CustomerKey, state: CustomerState, now: float
    ) -> tuple[np.ndarray, float]:
        """The asked customer's vector, float32 (D,), computed now and stored; without the model server the stored one and its time."""
        try:
            deadline_s = self._serve.tower_deadline_ms / 1000
            vectors = await self._tower.call(lambda: self._embed(served, [state], now, deadline_s), deadline_s * 1.5)
        except UpstreamError:
            row = build.index.get(*customer)
            if row is None:
                raise
            return row.vector, row.as_of
        self._store(build, [customer], [state], vectors, now, "request")
        return vectors[0], now

    async def _shared(self, served: Served, business_id: str, mine: CustomerState, found: Sequence[Neighbour]) -> list[list[str]]:
        """For each neighbour the names of up to three rewards that both redeemed: the most often by both, then the rarest."""
        if not mine.redeemed or not found:
            return [[] for _ in found]
        states = await self._read([(business_id, n.customer_id) for n in found])
        return [_shared_names(served, business_id, mine.redeemed, s.redeemed if s is not None else {}) for s in states]

    def forget(self, business_id: str, customer_id: str) -> bool:
        """Erase a customer's vector here and, if this replica saves, in the file; it does not come back from there. Whether there was one.

        The other replicas drop it when they load the file, or when a walk no longer meets the customer in the online store.
        """
        if self._build is None:
            return False
        self._build.changed = self._build.erased = True
        return self._build.index.remove(business_id, customer_id, self._clock.now().timestamp())

    # Vectors

    def _of(self, served: Served) -> Build:
        """The vectors of the served version; another version begins with none."""
        if self._build is None or self._build.version != served.version:
            self._build = Build(served.version, CustomerIndex(served.version, EMBEDDING_DIM, self.settings.exact_up_to))
        return self._build

    async def _state(self, served: Served, customer: CustomerKey, now: float, base: CustomerState | None = None) -> CustomerState | None:
        """A customer's state as of now, inbox events inside; None for an unknown one. `base`: the stored state, where it was read."""
        base = base if base is not None else await self._states.read(*customer)
        rows = await self._inbox.recent_events(*customer, base.watermark if base is not None else 0)
        if base is None and not rows:
            return None
        return state_at(base, touches_of(rows, lambda business, product: served.categories.get((business, product))), now)

    async def _embed(self, served: Served, states: Sequence[CustomerState], now: float, deadline_s: float) -> np.ndarray:
        """float32 (B, D), in the context that all customers are compared in."""
        inputs = tensors(states, now, served.vocabulary, neutral_time(served.snapshot.manifest.as_of))
        answer = await self._client.infer(USER_TOWER, inputs, served.version, deadline_s)
        return np.asarray(answer["user_vector"])

    def _store(
        self, build: Build, customers: Sequence[CustomerKey], states: Sequence[CustomerState], vectors: np.ndarray, now: float, reason: str
    ) -> None:
        rows: dict[str, list[int]] = {}
        for i, (business_id, _) in enumerate(customers):
            rows.setdefault(business_id, []).append(i)
        for business_id, at in rows.items():
            build.index.upsert(business_id, [customers[i][1] for i in at], vectors[at], now, [states[i].touch_count for i in at])
        build.changed = True
        self._embedded.labels(reason).inc(len(customers))
        self._show(build)

    def _show(self, build: Build) -> None:
        self._rows.labels("indexed").set(len(build.index))
        self._rows.labels("known").set(sum(build.known.values()))

    async def _read(self, customers: Sequence[CustomerKey]) -> list[CustomerState | None]:
        found: list[CustomerState | None] = []
        for begin in range(0, len(customers), READ_SLICE):
            found += await self._states.read_many(customers[begin : begin + READ_SLICE])
            await asyncio.sleep(0)
        return found

    # Background

    def start(self) -> None:
        """Begin to keep the vectors, unless the settings say not to."""
        if self.settings.background:
            self._task = asyncio.create_task(self._run(), name="similar-customers")

    async def stop(self) -> None:
        """End the background work and save what it knows."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._lock is not None:
            build = self._build
            try:
                if build is not None and build.changed and build.prepared:
                    await self._save(build)
            except OSError as exc:
                logger.warning("the customers' vectors were not saved: %s", exc)
            self._lock.close()
            self._lock = None

    async def _run(self) -> None:
        while True:
            pause_s = self.settings.poll_s
            try:
                await self.look()
            except (StackError, OSError) as exc:
                logger.warning("customers cannot be embedded now: %s", exc)
                pause_s = max(pause_s, FAILED_PAUSE_S)
            except Exception:  # the task must outlive whatever it meets
                logger.exception("customers cannot be embedded now")
                pause_s = max(pause_s, FAILED_PAUSE_S)
            await asyncio.sleep(pause_s)

    async def look(self) -> None:
        """One round: follow new events, then walk through everyone where it is due and ours to do, else load what another saved.

        Raises:
            StackError, OSError: a part is away; nothing is lost, look again.
        """
        served = self._models.current
        if served is None:
            return
        build = self._of(served)
        if not build.prepared:
            await self._prepare(build)
        await self._follow(served, build)
        if self._lock is None:  # who becomes the owner begins with what the one before saved
            self._try_to_own()
            await self._reload(build)
        if self._lock is not None and time.monotonic() >= build.next_walk:
            await self._walk(served, build)
        elif self._lock is not None and build.erased:
            await self._save(build)

    async def _prepare(self, build: Build) -> None:
        build.seq = await self._inbox.landed_seq()
        await self._reload(build)
        build.prepared = True

    async def _reload(self, build: Build) -> None:
        """Take over the file when it is another one than last time."""
        path = self._path(build)
        try:
            stamp = path.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if stamp == build.stamp:
            return
        build.stamp = stamp
        now = self._clock.now().timestamp()
        try:
            found, note = await asyncio.to_thread(CustomerIndex.load, path, build.version, now, exact_up_to=self.settings.exact_up_to)
            await asyncio.to_thread(build.index.merge, found)
        except ArtifactError as exc:
            logger.warning("the customers' vectors are computed anew: %s", exc)
            return
        build.known = {str(b): int(n) for b, n in note.get("known", {}).items()}
        build.complete = build.complete or bool(note.get("complete"))
        await self._optimise(build)
        self._show(build)

    def _path(self, build: Build) -> Path:
        return self._folder / f"customers-{build.version}.npz"

    def _try_to_own(self) -> None:
        """Become the replica that walks and saves, unless there is one: the first to ask is, until it ends."""
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = (self._folder / "customers.lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return
        self._lock = lock

    async def _follow(self, served: Served, build: Build) -> None:
        """Embed again whoever has new events."""
        while True:
            above = build.seq - OVERLAP
            rows = await self._inbox.customers_above(above, LOOK_LIMIT + OVERLAP)
            new = [row for row in rows if row[0] not in build.seen]
            if not new:
                return
            acted = list(dict.fromkeys((b, c) for _, b, c in new))
            for begin in range(0, len(acted), self.settings.batch):
                await self._embed_batch(served, build, acted[begin : begin + self.settings.batch], "event")
                await asyncio.sleep(self.settings.pause_s)
            build.seq = max(build.seq, rows[-1][0])
            build.seen = {seq for seq, _, _ in rows if seq > build.seq - OVERLAP}

    async def _walk(self, served: Served, build: Build) -> None:
        """Embed everyone in the online store who has no vector, has acted since or has an old one."""
        everyone = await self._states.customers()
        build.known = dict(Counter(b for b, _ in everyone))
        began = self._clock.now().timestamp()
        followed = saved = time.monotonic()
        for begin in range(0, len(everyone), self.settings.batch):
            if self._models.current is not served:
                return
            started = time.monotonic()
            await self._embed_batch(served, build, everyone[begin : begin + self.settings.batch], "walk")
            await self._rest(time.monotonic() - started)
            if time.monotonic() - followed >= self.settings.poll_s:
                await self._follow(served, build)
                followed = time.monotonic()
            if time.monotonic() - saved >= self.settings.save_s:
                await self._save(build)
                saved = time.monotonic()
        self._forget_the_gone(build, everyone, began)
        await self._optimise(build)
        build.complete = True
        build.next_walk = time.monotonic() + self.settings.refresh_s / 2
        await self._save(build)
        self._remove_old_files(build)
        logger.info("similar customers: %d embedded for model version %s", len(build.index), build.version)

    async def _embed_batch(self, served: Served, build: Build, customers: Sequence[CustomerKey], reason: str) -> None:
        now = self._clock.now().timestamp()
        wanted: list[CustomerKey] = []
        states: list[CustomerState] = []
        for customer, base in zip(customers, await self._read(customers), strict=True):
            if reason == "walk" and (base is None or self._up_to_date(build, customer, base, now)):
                continue
            state = await self._state(served, customer, now, base)
            if state is not None:
                wanted.append(customer)
                states.append(state)
        if wanted:
            vectors = await self._embed(served, states, now, self.settings.deadline_s)
            self._store(build, wanted, states, vectors, now, reason)

    def _up_to_date(self, build: Build, customer: CustomerKey, base: CustomerState, now: float) -> bool:
        """Whether a walk may pass: the vector holds all touches (they only ever become more), or there is nothing new of an erased one."""
        if base.time <= build.index.removed_at(*customer) > -math.inf:
            return True
        row = build.index.get(*customer)
        return row is not None and row.touches >= base.touch_count and now - row.as_of < self.settings.refresh_s / 2

    async def _rest(self, took_s: float) -> None:
        """Leave the machine to requests for as long as the batch took."""
        await asyncio.sleep(max(self.settings.pause_s, took_s))

    def _forget_the_gone(self, build: Build, everyone: Sequence[CustomerKey], began: float) -> None:
        """Who is in the online store no longer was erased. Newcomers, who are in the inbox only, have young vectors."""
        known = set(everyone)
        for business_id in build.index.businesses:
            for customer_id in build.index.customers(business_id):
                row = build.index.get(business_id, customer_id)
                if (business_id, customer_id) not in known and row is not None and row.as_of < began - FORGET_AFTER_S:
                    build.index.remove(business_id, customer_id, began)

    async def _optimise(self, build: Build) -> None:
        for business_id in build.index.businesses:
            await asyncio.to_thread(build.index.optimise, business_id)

    async def _save(self, build: Build) -> None:
        path, note = self._path(build), {"known": build.known, "complete": build.complete}
        build.changed = build.erased = False
        await asyncio.to_thread(build.index.save, path, note)
        build.stamp = path.stat().st_mtime_ns

    def _remove_old_files(self, build: Build) -> None:
        """Keep this version's file and the newest of the others: for the quick way back."""
        files = sorted(self._folder.glob("customers-*.npz"), key=lambda p: (p == self._path(build), p.stat().st_mtime_ns))
        for path in files[:-KEPT_FILES]:
            path.unlink(missing_ok=True)


def neutral_time(as_of: str) -> float:
    """Noon of the Wednesday on or before a model's as-of time (ISO 8601), epoch seconds: the context that customers are compared in."""
    moment = datetime.fromisoformat(as_of).astimezone(UTC)
    day = moment - timedelta(days=(moment.weekday() - 2) % 7)
    return day.replace(hour=12, minute=0, second=0, microsecond=0).timestamp()


def _on_the_wire(neighbour: Neighbour, shared: list[str]) -> dict[str, Any]:
    return {
        "customerId": neighbour.customer_id,
        "similarity": round(neighbour.cosine, 6),
        "sharedRewards": shared,
        "embeddedAt": datetime.fromtimestamp(neighbour.as_of, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }


def _shared_names(served: Served, business_id: str, mine: dict[str, int], theirs: dict[str, int]) -> list[str]:
    index, share, names = served.snapshot.index, served.snapshot.redeemer_share, served.catalogue.names

    def order(reward_id: str) -> tuple[int, float, str]:
        row = index.row(business_id, reward_id)
        return -min(mine[reward_id], theirs[reward_id]), float(share[row]) if row is not None else 0.0, reward_id

    both = sorted(mine.keys() & theirs.keys(), key=order)[:SHARED]
    rows = [index.row(business_id, r) for r in both]
    return [names[row] if row is not None else reward for reward, row in zip(both, rows, strict=True)]
