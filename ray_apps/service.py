"""What the routes do: everything behind HTTP, put together from its parts. One per replica."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from contracts import api
from contracts.errors import Forbidden, StackError, UnknownItem
from contracts.tensors import MODELS
from features.history import CustomerHistory
from features.online import OnlineSettings, OnlineStore
from features.state import CustomerState
from ray_apps.batch_service import BatchService
from ray_apps.churn_service import ChurnService
from ray_apps.clock import ServingClock
from ray_apps.deployments.model import ModelWatcher
from ray_apps.deployments.next_offer import NextOffers
from ray_apps.deployments.recommend import Recommender
from ray_apps.deployments.similar import SimilarCustomers
from ray_apps.keys import Caller, KeyRing
from ray_apps.metrics import Metrics, Stopwatch
from ray_apps.middleware import Gate
from ray_apps.picture_desk import PictureDesk
from ray_apps.picture_service import PictureService
from ray_apps.query_service import QueryService
from ray_apps.question_desk import Desk
from ray_apps.settings import ServeSettings
from ray_apps.store import FeedbackReport, OperationalStore, RecommendationLog, StoredRecommendation
from serving.client import TritonClient

logger = logging.getLogger("regulars.service")

LOG_DELAY_S = 0.15
"""Longest time until an answer of another replica can be given feedback: its log is written in batches."""


class BaseStates:
    """The stored states of customers, for the event loop: SQLite is read in place (0.3 ms, less than a change of threads costs)."""

    def __init__(self, store: OnlineStore, in_thread: bool) -> None:
        self._store, self._in_thread = store, in_thread

    async def read(self, business_id: str, customer_id: str) -> CustomerState | None:
        """The stored state; None for an unknown customer. Raises as `OnlineStore.read`."""
        if self._in_thread:
            return await asyncio.to_thread(self._store.read, business_id, customer_id)
        return self._store.read(business_id, customer_id)

    async def read_history(self, business_id: str, customer_id: str) -> CustomerHistory | None:
        """The stored weekly history; None for an unknown customer. Raises as `OnlineStore.read_history`."""
        if self._in_thread:
            return await asyncio.to_thread(self._store.read_history, business_id, customer_id)
        return self._store.read_history(business_id, customer_id)

    async def read_many(self, customers: Sequence[tuple[str, str]]) -> list[CustomerState | None]:
        """As `read`, for some (business id, customer id) at once."""
        if self._in_thread:
            return await asyncio.to_thread(self._store.read_many, customers)
        return self._store.read_many(customers)

    async def customers(self) -> list[tuple[str, str]]:
        """Everyone who has a stored state: (business id, customer id)."""
        return await asyncio.to_thread(self._store.customers)

    def close(self) -> None:
        """Close the store's connections."""
        self._store.close()


class Service:
    """The application without HTTP.

    Args:
        settings: with `triton_url`, `database_url` and the clock's anchor filled in by the parent process.
        desk: who answers questions; a desk in this process when None.
        pictures: who looks at pictures; a desk in this process when None.
    """

    def __init__(self, settings: ServeSettings, desk: Desk | None = None, pictures: PictureDesk | None = None) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.clock = ServingClock(settings.clock_anchor_serving, settings.clock_anchor_wall)
        self.gate = Gate(settings.max_ongoing_requests, settings.max_queued_requests)
        home, online = settings.folder, OnlineSettings.load()
        self.store = OperationalStore(settings.database_url or home.database_url)
        self.keys = KeyRing(self.store)
        self.log = RecommendationLog(self.store)
        self.states = BaseStates(OnlineStore(online, home), in_thread=online.kind != "sqlite")
        self.client = TritonClient(settings.triton_url or "127.0.0.1:8001", settings.tower_deadline_ms / 1000)
        self.models = ModelWatcher(home, self.client, settings.deployed_poll_s, self._swapped, settings.statistics_refresh_s)
        self.recommender = Recommender(self.models, self.states, self.store, self.client, self.clock, settings, self.metrics)
        self.offers = NextOffers(self.recommender, self.client, settings)
        self.customers = SimilarCustomers(
            home, self.models, self.states, self.store, self.client, self.recommender.tower, self.clock, self.metrics, settings
        )
        self.churn = ChurnService(
            home, self.store, self.recommender, self.states, self.client, self.clock, self.gate, settings, self.metrics
        )
        self.batch = BatchService(home, self.store, self.clock, self.gate)
        self.queries = QueryService(self.store, desk or _desk_here(settings), self.gate, self.metrics)
        self.pictures = PictureService(self.store, pictures or _looks_here(settings), self.clock, self.gate, self.metrics)

    async def start(self) -> None:
        """Load the model and begin the background work.

        Raises:
            ArtifactError: nothing is deployed, or it cannot be used.
        """
        self.log.start()
        await self.models.start()
        self._swapped("ok")
        self.customers.start()
        await self.churn.start()

    async def stop(self) -> None:
        """End the background work and write what waits to be written."""
        self.batch.close()
        await self.queries.desk.close()
        await self.pictures.desk.close()
        await self.churn.stop()
        await self.customers.stop()
        await self.recommender.stop()
        await self.models.stop()
        try:
            await self.log.close()
        except StackError as exc:
            logger.error("the last recommendations were not written: %s", exc)
        await self.store.close()
        await self.client.close()
        self.states.close()

    def _swapped(self, outcome: str) -> None:
        self.metrics.swaps.labels(outcome).inc()
        if self.models.current is not None:
            self.metrics.served(self.models.current.version)

    @property
    def model_name(self) -> str:
        """As answers name the model being served."""
        return self.models.current.name if self.models.current is not None else "none"

    async def authenticate(self, header: str | None, roles: Sequence[str]) -> Caller:
        """The caller.

        Raises:
            Unauthorized: no valid key.
            Forbidden: a key of a role that may not do this.
        """
        caller = await self.keys.authenticate(header)
        if caller.role not in roles:
            raise Forbidden(
                f"key {caller.key_id} has role {caller.role}, this needs one of {', '.join(roles)}. Use a key with such a role."
            )
        return caller

    async def recommend(self, caller: Caller, wanted: api.RecommendationRequest, stopwatch: Stopwatch) -> dict[str, Any]:
        """The body of a `RecommendationResponse`.

        Raises:
            Overloaded: too many requests at once.
            ArtifactError: no model is loaded yet.
        """
        async with self.gate.enter():
            answer = await self.recommender.recommend(caller.business_id, wanted, stopwatch)
        await self.log.append(
            StoredRecommendation(
                recommendation_id=answer.recommendation_id,
                business_id=caller.business_id,
                customer_id=wanted.customer_id,
                created_at=self.clock.read(),
                model_version=answer.model_version,
                degraded=answer.degraded,
                coverage=answer.coverage,
                recommendations=answer.recommendations,
            )
        )
        latency = stopwatch.stop()
        self.metrics.observe(stopwatch)
        self.metrics.recommendations.labels(answer.coverage, str(answer.degraded).lower()).inc()
        return {
            "recommendationId": answer.recommendation_id,
            "customerId": wanted.customer_id,
            "recommendations": answer.recommendations,
            "modelVersion": answer.model_version,
            "latency": round(latency, 3),
            "coverage": answer.coverage,
            "degraded": answer.degraded,
        }

    async def feedback(
        self, caller: Caller, recommendation_id: str, given: api.FeedbackRequest, stopwatch: Stopwatch
    ) -> api.FeedbackResponse:
        """Store feedback; a conversion also counts as a redemption, a negative one as a dismissal, from the next answer on.

        Raises:
            UnknownItem: this business has no such answer, or the reward was not in it.
        """
        async with self.gate.enter():
            report = await self._written(lambda: self._add_feedback(caller, recommendation_id, given))
            if given.event_type == "CONVERSION":
                event = _redemption(recommendation_id, report.recommendation.customer_id, given.reward_id)
                event.__dict__["occurred_at"] = self.clock.now()
                await self.store.insert_events(caller.business_id, [event])
        return api.FeedbackResponse(
            recommendation_id=recommendation_id,
            reward_id=given.reward_id,
            event_type=given.event_type,
            duplicate=not report.created,
            model_version=report.recommendation.model_version,
            latency=round(stopwatch.stop(), 3),
        )

    async def _add_feedback(self, caller: Caller, recommendation_id: str, given: api.FeedbackRequest) -> FeedbackReport:
        return await self.store.add_feedback(
            caller.business_id, recommendation_id, given.reward_id, given.event_type, given.metadata, self.clock.now()
        )

    async def _written(self, work: Callable[[], Awaitable[FeedbackReport]]) -> FeedbackReport:
        """Run the work; when it does not find the answer, once more after what waits in the logs has been written."""
        try:
            return await work()
        except UnknownItem:
            await self.log.flush()
            await asyncio.sleep(LOG_DELAY_S if self.settings.replicas > 1 else 0)
            return await work()

    async def history(self, caller: Caller, customer_id: str, limit: int, offset: int, stopwatch: Stopwatch) -> api.RecommendationHistory:
        """Past answers of one customer, newest first."""
        async with self.gate.enter():
            await self.log.flush()
            page = await self.store.history(caller.business_id, customer_id, limit, offset)
        items = [
            api.RecommendationRecord(
                recommendation_id=r.recommendation_id,
                customer_id=r.customer_id,
                created_at=r.created_at,
                model_version=r.model_version,
                coverage=r.coverage,  # type: ignore[arg-type]
                degraded=r.degraded,
                recommendations=[api.Recommendation.model_validate(x) for x in r.recommendations],
            )
            for r in page.items
        ]
        following = offset + len(items)
        return api.RecommendationHistory(
            items=items,
            total=page.total,
            limit=limit,
            offset=offset,
            next_offset=following if items and following < page.total else None,
            model_version=self.model_name,
            latency=round(stopwatch.stop(), 3),
        )

    async def similar(self, caller: Caller, customer_id: str, limit: int, stopwatch: Stopwatch) -> dict[str, Any]:
        """The body of a `SimilarResponse`.

        Raises:
            UnknownItem: nothing is known of the customer.
            NotIndexed: the customers' vectors are still being computed and there is none of this business yet.
        """
        async with self.gate.enter():
            body = await self.customers.similar(caller.business_id, customer_id, limit, stopwatch)
        return body | {"latency": round(stopwatch.stop(), 3)}

    async def next_offer(self, caller: Caller, wanted: api.NextOfferRequest, stopwatch: Stopwatch) -> dict[str, Any]:
        """The body of a `NextOfferResponse`.

        Raises:
            Overloaded: too many requests at once.
            ArtifactError: no model is loaded yet.
        """
        async with self.gate.enter():
            body = await self.offers.next_best(caller.business_id, wanted, stopwatch)
        return body | {"latency": round(stopwatch.stop(), 3)}

    async def events(self, caller: Caller, raw: list[Any], stopwatch: Stopwatch) -> api.EventsResponse:
        """Store events; each is checked on its own, those not taken are put aside with the reason."""
        async with self.gate.enter():
            parsed = [api.parse_event(r, business_id=caller.business_id, now=self.clock.now()) for r in raw]
            refused = {i: p for i, p in enumerate(parsed) if isinstance(p, api.Rejection)}
            places = [i for i, p in enumerate(parsed) if isinstance(p, api.EventIn)]
            events = [p for p in parsed if isinstance(p, api.EventIn)]
            report = await self.store.insert_events(caller.business_id, events, self.clock.counted_at)
            refused |= {places[i]: rejection for i, rejection in report.rejected}
            await self.store.put_aside(caller.business_id, [(raw[i], r.reason) for i, r in sorted(refused.items())])
        for outcome, count in (("accepted", report.accepted), ("duplicate", report.duplicates), ("rejected", len(refused))):
            self.metrics.events.labels(outcome).inc(count)
        return api.EventsResponse(
            accepted=report.accepted,
            duplicates=report.duplicates,
            rejected=[r.at(i) for i, r in sorted(refused.items())],
            model_version=self.model_name,
            latency=round(stopwatch.stop(), 3),
        )

    async def ready(self) -> api.Ready:
        """Whether the model can answer, part by part."""
        served = self.models.current
        checks = {
            "model": served is not None and self.models.problem is None,
            "triton": served is not None and not self.recommender.tower.open and await self._loaded(served.version),
            "database": await _works(self.store.ping),
            "features": not self.recommender.features.open and await _works(lambda: self.states.read("-", "-")),
            "sequence": await self.churn.ready(),
            "questions": await self.queries.ready(),
            "pictures": await self.pictures.ready(),
        }
        # A version that was deployed but cannot be served is shown, yet the old one goes on serving; the others named here are extra.
        extra = ("model", "sequence", "questions", "pictures")
        ready = served is not None and all(ok for name, ok in checks.items() if name not in extra)
        return api.Ready(ready=ready, checks=checks, model_version=served.name if served is not None else None)

    async def _loaded(self, version: str) -> bool:
        """Whether Triton has every model of the version."""
        return all(await asyncio.gather(*(self.client.ready(name, version) for name in MODELS)))


def _desk_here(settings: ServeSettings) -> Desk:
    from ray_apps.deployments.questions import QuestionDesk

    return QuestionDesk(settings)


def _looks_here(settings: ServeSettings) -> PictureDesk:
    from ray_apps.deployments.pictures import PicturesDesk

    return PicturesDesk(settings)


async def _works(check: Callable[[], Awaitable[object]]) -> bool:
    try:
        await check()
    except StackError:
        return False
    return True


def _redemption(recommendation_id: str, customer_id: str, reward_id: str) -> api.EventIn:
    """The redemption that a conversion stands for; its id makes a repeat harmless, and its time stays out of its content hash."""
    digest = hashlib.sha256(reward_id.encode()).hexdigest()[:16]
    return api.EventIn(
        event_id=f"conversion-{recommendation_id}-{digest}"[:128], customer_id=customer_id, event_type="redemption", reward_id=reward_id,
        metadata={"recommendationId": recommendation_id},
    )  # fmt: skip
