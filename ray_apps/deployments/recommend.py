"""The pipeline of one recommendation: features, user tower, index, rules. In the same process as the ingress, all on its event loop.

Every stage that can fail has a simpler stand-in, so a known caller always gets an answer: without Triton or without stored features
the most popular of the allowed rewards are recommended, and the answer says `degraded`.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from contracts.api import RecommendationContext, RecommendationRequest
from contracts.errors import ArtifactError, StackError, UpstreamError
from contracts.tensors import USER_TOWER
from embeddings.table import Filter
from features.state import CustomerState, state_at, tensors
from ray_apps.clock import ServingClock
from ray_apps.deployments.breaker import Breaker
from ray_apps.deployments.explain import HOUR_OF_PART, PART_OF_HOUR, PARTS, Explainer, Population
from ray_apps.deployments.lander import touches_of
from ray_apps.deployments.model import ModelWatcher, Served, check_tower
from ray_apps.metrics import Metrics, Stopwatch
from ray_apps.settings import ServeSettings
from ray_apps.store import InboxRow
from serving.client import TritonClient

logger = logging.getLogger("regulars.recommend")

CANDIDATES = 200
POPULARITY_DAYS = 90
LIFT_BOUNDS = (0.5, 2.0)
_NOBODY = Population()


class States(Protocol):
    """Base states of customers (`features.online`)."""

    async def read(self, business_id: str, customer_id: str) -> CustomerState | None: ...


class Inbox(Protocol):
    """Events that have not landed yet (`ray_apps.store.OperationalStore`)."""

    async def recent_events(self, business_id: str, customer_id: str, above_seq: int, limit: int = 1000) -> list[InboxRow]: ...


@dataclass(frozen=True, slots=True)
class Ranked:
    """Rows of the catalogue, best first, and the probability of redemption of each."""

    rows: Sequence[int]
    scores: Sequence[float]


@dataclass(frozen=True, slots=True)
class Answer:
    """One recommendation before it is put on the wire."""

    recommendation_id: str
    recommendations: list[dict[str, Any]]
    model_version: str
    coverage: str
    degraded: bool


@dataclass(frozen=True, slots=True)
class Customer:
    """What is known of the asked customer at this moment, for answers other than recommendations.

    Attributes:
        now, context_time: epoch seconds; the second one stands for hour, weekday and month.
        part: of the day.
        state: None for an unknown customer.
        vector: float32 (1, D); None for an unknown customer, and where Triton or the stored state is away.
        rules: what may be shown.
        degraded: something could not be read or computed.
    """

    served: Served
    business_id: str
    now: float
    context_time: float
    part: str
    state: CustomerState | None
    vector: np.ndarray | None
    rules: Filter
    coverage: str
    degraded: bool


class Recommender:
    """Recommends rewards to customers.

    Args:
        models: which version to serve.
        states, inbox: where features come from.
        client: of the model server.
        clock: what is "now".
        settings: deadlines and breaker.
        metrics: where open breakers are shown.
    """

    def __init__(
        self,
        models: ModelWatcher,
        states: States,
        inbox: Inbox,
        client: TritonClient,
        clock: ServingClock,
        settings: ServeSettings,
        metrics: Metrics,
    ) -> None:
        self._models, self._states, self._inbox, self._client, self._clock, self._settings = models, states, inbox, client, clock, settings
        probe_s = settings.breaker_probe_ms / 1000
        self.tower = Breaker("the model server", settings.breaker_failures, probe_s, self._probe_tower, metrics.breaker.labels("tower").set)
        self.features = Breaker(
            "the feature store", settings.breaker_failures, probe_s, self._probe_states, metrics.breaker.labels("features").set
        )

    async def stop(self) -> None:
        """End background probes."""
        await self.tower.stop()
        await self.features.stop()

    async def recommend(self, business_id: str, wanted: RecommendationRequest, stopwatch: Stopwatch) -> Answer:
        """The best allowed rewards for one customer.

        Raises:
            ArtifactError: no model has been loaded yet.
        """
        served = self._models.current
        if served is None:
            raise ArtifactError("no model is loaded yet. Wait until /-/readyz answers 200.")
        now = self._clock.now().timestamp()
        state, whole = await self._state(served, business_id, wanted.customer_id, now)
        stopwatch.lap("features")
        context_time = _context_time(now, wanted.context.time_of_day)
        part = wanted.context.time_of_day or PART_OF_HOUR[int(now % 86_400 // 3_600)]
        known = state is not None and state.touch_count > 0
        vector = await self._vector(served, state, now, context_time) if known and whole and state is not None else None
        stopwatch.lap("tower")
        rules = _filter(business_id, now, state)
        if vector is not None:
            ranked = by_model(served, vector, rules, wanted.num_recommendations)
        else:
            population = served.populations.get(business_id, _NOBODY)
            ranked = by_popularity(served, population, rules, part, wanted.num_recommendations)
        stopwatch.lap("search")
        shown = self._explained(served, business_id, state if known else None, ranked, now, part)
        stopwatch.lap("rules")
        return Answer(secrets.token_hex(16), shown, served.name, self._coverage(state), not whole or (known and vector is None))

    async def customer(self, business_id: str, customer_id: str, context: RecommendationContext, stopwatch: Stopwatch) -> Customer:
        """The customer as of now, on the same way as a recommendation.

        Raises:
            ArtifactError: no model has been loaded yet.
        """
        served = self._models.current
        if served is None:
            raise ArtifactError("no model is loaded yet. Wait until /-/readyz answers 200.")
        now = self._clock.now().timestamp()
        state, whole = await self._state(served, business_id, customer_id, now)
        stopwatch.lap("features")
        context_time = _context_time(now, context.time_of_day)
        known = state is not None and state.touch_count > 0
        vector = await self._vector(served, state, now, context_time) if known and whole and state is not None else None
        return Customer(
            served=served,
            business_id=business_id,
            now=now,
            context_time=context_time,
            part=context.time_of_day or PART_OF_HOUR[int(now % 86_400 // 3_600)],
            state=state,
            vector=vector,
            rules=_filter(business_id, now, state),
            coverage=self._coverage(state),
            degraded=not whole or (known and vector is None),
        )

    async def _state(self, served: Served, business_id: str, customer_id: str, now: float) -> tuple[CustomerState | None, bool]:
        """The customer's state as of now, and whether all of it could be read. What is in the inbox counts even without the rest."""
        deadline_s, whole, base = self._settings.features_deadline_ms / 1000, True, None
        try:
            base = await self.features.call(lambda: self._states.read(business_id, customer_id), deadline_s)
        except (StackError, OSError) as exc:
            logger.info("answering without the stored state: %s", exc)
            whole = False
        try:
            rows = await self._inbox.recent_events(business_id, customer_id, base.watermark if base is not None else 0)
        except UpstreamError as exc:
            logger.info("answering without the inbox: %s", exc)
            return base, False
        if base is None and not rows:
            return None, whole
        touches = touches_of(rows, lambda business, product: served.categories.get((business, product)))
        return state_at(base, touches, now), whole

    async def _vector(self, served: Served, state: CustomerState, now: float, context_time: float) -> np.ndarray | None:
        """The customer's vector, float32 (1, D); None where Triton gives none."""
        inputs = tensors([state], now, served.vocabulary, context_time)
        deadline_s = self._settings.tower_deadline_ms / 1000
        try:
            answer = await self.tower.call(lambda: self._client.infer(USER_TOWER, inputs, served.version, deadline_s), deadline_s * 1.5)
        except UpstreamError as exc:
            logger.info("answering without the model: %s", exc)
            return None
        return answer["user_vector"]

    def _explained(
        self, served: Served, business_id: str, state: CustomerState | None, ranked: Ranked, now: float, part: str
    ) -> list[dict[str, Any]]:
        catalogue = served.catalogue
        explainer = Explainer(business_id, catalogue, served.populations.get(business_id, _NOBODY), state, now, part)
        shown = []
        for rank, (row, score) in enumerate(zip(ranked.rows, ranked.scores, strict=True), start=1):
            reasons = explainer.reasons(row)
            shown.append(
                {
                    "rewardId": catalogue.reward_ids[row],
                    "name": catalogue.names[row],
                    "score": round(score, 6),
                    "rank": rank,
                    "explanation": reasons[0].sentence,
                    "reasoning": list(dict.fromkeys(r.code for r in reasons)),
                }
            )
        return shown

    def _coverage(self, state: CustomerState | None) -> str:
        if state is None or not state.touch_count:
            return "cold_start"
        return "full" if state.touch_count >= self._settings.full_coverage_touches else "sparse"

    async def _probe_tower(self) -> None:
        served = self._models.current
        if served is not None:
            await check_tower(self._client, served)

    async def _probe_states(self) -> None:
        await self._states.read("-", "-")


def by_model(served: Served, vector: np.ndarray, rules: Filter, count: int) -> Ranked:
    """The allowed rewards nearest to the customer, ordered by calibrated probability.

    The probability also weighs popularity, so more candidates than wanted are taken and ordered by it.

    Args:
        vector: float32 (1, D), L2 norm 1.
    """
    found = served.snapshot.index.search(vector, max(CANDIDATES, count), [rules])[0]
    scores = served.snapshot.calibration.probabilities(found.scores, served.snapshot.redeemer_share[found.rows])
    best = np.argsort(-scores, kind="stable")[:count]
    return Ranked(found.rows[best].tolist(), scores[best].tolist())


def by_popularity(served: Served, population: Population, rules: Filter, part: str, count: int) -> Ranked:
    """The allowed rewards that most customers redeem, weighed by how well they fit the part of the day.

    A reward's score is the share of customers who redeemed it in 90 days, brought to the model's horizon: what is known of a customer
    of whom nothing is known.
    """
    allowed = served.snapshot.index.allowed_rows(rules)
    if not len(allowed):
        return Ranked([], [])
    shares = served.snapshot.redeemer_share[allowed]
    index = PARTS.index(part)
    likely = np.argsort(-shares, kind="stable")[: max(CANDIDATES, count)]
    horizon = served.snapshot.calibration.horizon_days / POPULARITY_DAYS
    rows, scores = [], []
    for row, share in zip(allowed[likely].tolist(), shares[likely].tolist(), strict=True):
        lift = population.part_lift(served.catalogue.reward_ids[row], index)
        weighed = min(1.0, share * min(max(lift if lift is not None else 1.0, LIFT_BOUNDS[0]), LIFT_BOUNDS[1]))
        rows.append(row)
        scores.append(1.0 - math.pow(1.0 - weighed, horizon))
    best = sorted(range(len(rows)), key=lambda i: -scores[i])[:count]
    return Ranked([rows[i] for i in best], [scores[i] for i in best])


def _filter(business_id: str, now: float, state: CustomerState | None) -> Filter:
    if state is None:
        return Filter(business_id, now)
    return Filter(business_id, now, dismissed=state.dismissed, redeemed=state.redeemed)


def _context_time(now: float, part: str | None) -> float:
    """The request's time for hour, weekday and month: now, moved to the asked part of the day unless it is in it already."""
    if part is None or PART_OF_HOUR[int(now % 86_400 // 3_600)] == part:
        return now
    return now - now % 86_400 + HOUR_OF_PART[part] * 3_600
