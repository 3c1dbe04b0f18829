"""The pipeline of one recommendation: features, user tower, candidates, ranker, rules, reasons. In the process of the ingress, on its loop.

Every stage that can fail has a simpler stand-in, so a known caller always gets an answer: without the ranker the nearest rewards are
recommended, without Triton or without stored features the most popular of the allowed ones, and the answer says `degraded`.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np

from contracts.api import RecommendationContext, RecommendationRequest
from contracts.errors import ArtifactError, StackError, UpstreamError
from contracts.tensors import RANKER, USER_TOWER, ModelSpec
from embeddings.table import Filter
from features.definitions import DAY_S
from features.state import CustomerState, state_at, tensors
from ray_apps.clock import ServingClock
from ray_apps.deployments import rank
from ray_apps.deployments.breaker import Breaker
from ray_apps.deployments.explain import HOUR_OF_PART, Explainer, attributed, attribution_inputs, shown_as
from ray_apps.deployments.lander import touches_of
from ray_apps.deployments.model import ModelWatcher, Served, check_tower
from ray_apps.deployments.population import PART_OF_HOUR, PARTS, Population, peers_of
from ray_apps.deployments.rerank import Policy, held_back, rerank, spend_of
from ray_apps.deployments.vectors import Key, VectorCache, facts_of
from ray_apps.metrics import Metrics, Stopwatch
from ray_apps.settings import ServeSettings
from ray_apps.store import InboxRow, Shown
from serving.client import TritonClient

logger = logging.getLogger("regulars.recommend")

CANDIDATES = 200
POPULARITY_DAYS = 90
MAX_EXPLAINED = 10  # rewards of one answer whose scores are attributed
_NOBODY = Population()


class States(Protocol):
    """Base states of customers (`features.online`)."""

    async def read(self, business_id: str, customer_id: str) -> CustomerState | None: ...


class Inbox(Protocol):
    """Events that have not landed yet (`ray_apps.store.OperationalStore`)."""

    async def recent_events(self, business_id: str, customer_id: str, above_seq: int, limit: int = 1000) -> list[InboxRow]: ...

    async def shown_to(self, business_id: str, customer_id: str, since: datetime, limit: int = 100) -> Shown: ...


@dataclass(frozen=True, slots=True)
class Ranked:
    """Rows of the catalogue, best first, and the probability of redemption of each.

    Attributes:
        moves: for each row what raised its probability, by group of pair features; None where it was not asked.
    """

    rows: Sequence[int]
    scores: Sequence[float]
    moves: Sequence[Mapping[str, float] | None] | None = None


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
        tower: the user tower's inputs; of an unknown customer those that say nothing but the moment.
        vector: float32 (1, D); None for an unknown customer, and where Triton or the stored state is away.
        rules: what may be shown.
        degraded: something could not be read or computed.
    """

    served: Served
    business_id: str
    customer_id: str
    now: float
    context_time: float
    part: str
    state: CustomerState | None
    tower: dict[str, np.ndarray]
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
        vectors: customers' vectors that may be used again; one of its own when not given.
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
        vectors: VectorCache | None = None,
    ) -> None:
        self.vectors = vectors if vectors is not None else VectorCache(metrics=metrics)
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
        asked = await self.customer(business_id, wanted.customer_id, wanted.context, stopwatch)
        stopwatch.lap("tower")
        ranked, whole = await self._ranked(asked, wanted, stopwatch)
        shown = self._explained(asked, ranked)
        stopwatch.lap("rules")
        return Answer(secrets.token_hex(16), shown, asked.served.name, asked.coverage, asked.degraded or not whole)

    async def customer(self, business_id: str, customer_id: str, context: RecommendationContext, stopwatch: Stopwatch) -> Customer:
        """The customer as of now, on the same way as a recommendation.

        Raises:
            ArtifactError: no model has been loaded yet.
        """
        served = self._models.current
        if served is None:
            raise ArtifactError("no model is loaded yet. Wait until /-/readyz answers 200.")
        now = self._clock.now().timestamp()
        state, whole, newest = await self._state(served, business_id, customer_id, now)
        stopwatch.lap("features")
        context_time = _context_time(now, context.time_of_day)
        tower = tensors([state if state is not None else CustomerState()], now, served.vocabulary, context_time)
        known = state is not None and state.touch_count > 0
        vector = await self._vector(served, business_id, customer_id, state, newest, tower, context_time) if known and whole else None
        return Customer(
            served=served,
            business_id=business_id,
            customer_id=customer_id,
            now=now,
            context_time=context_time,
            part=context.time_of_day or PART_OF_HOUR[int(now % 86_400 // 3_600)],
            state=state,
            tower=tower,
            vector=vector,
            rules=_filter(business_id, now, state),
            coverage=self._coverage(state),
            degraded=not whole or (known and vector is None),
        )

    async def _state(self, served: Served, business_id: str, customer_id: str, now: float) -> tuple[CustomerState | None, bool, int]:
        """The customer's state as of now, whether all of it could be read, and the newest inbox event's number (0 without any).

        What is in the inbox counts even without the rest.
        """
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
            return base, False, 0
        if base is None and not rows:
            return None, whole, 0
        touches = touches_of(rows, lambda business, product: served.categories.get((business, product)))
        return state_at(base, touches, now), whole, rows[-1].seq if rows else 0

    async def _vector(
        self, served: Served, business_id: str, customer_id: str, state: CustomerState | None, newest: int, tower: dict[str, np.ndarray],
        context_time: float,
    ) -> np.ndarray | None:  # fmt: skip
        """The customer's vector, float32 (1, D): the kept one while nothing has changed, else Triton's; None where it gives none."""
        key = Key(business_id, customer_id, served.version)
        facts = facts_of(state, newest, context_time) if state is not None else None
        if facts is not None and (kept := self.vectors.get(key, facts)) is not None:
            return kept
        deadline_s = self._settings.tower_deadline_ms / 1000
        answer = await self._infer(USER_TOWER, tower, served, deadline_s)
        if answer is None:
            return None
        if facts is not None:
            self.vectors.put(key, facts, answer["user_vector"])
        return answer["user_vector"]

    async def _infer(
        self, spec: ModelSpec, inputs: dict[str, np.ndarray], served: Served, deadline_s: float
    ) -> dict[str, np.ndarray] | None:
        """Triton's answer; None where it gives none."""
        try:
            return await self.tower.call(lambda: self._client.infer(spec, inputs, served.version, deadline_s), deadline_s * 1.5)
        except UpstreamError as exc:
            logger.info("answering without %s: %s", spec.name, exc)
            return None

    async def _ranked(self, asked: Customer, wanted: RecommendationRequest, stopwatch: Stopwatch) -> tuple[Ranked, bool]:
        """The best rewards, and whether all stages answered: without the ranker the nearest ones, without a vector the popular ones."""
        served, count = asked.served, wanted.num_recommendations
        population = served.populations.get(asked.business_id, _NOBODY)
        most = max(self._settings.candidates, count)
        if asked.vector is None:
            popular = by_popularity(served, asked.rules, asked.state, asked.now, asked.part, most)
            return await self._ordered(asked, wanted, population, popular), True
        if asked.business_id not in served.token_rows:
            return Ranked([], []), True  # a business without rewards
        state = asked.state if asked.state is not None else CustomerState()
        found = rank.candidates(served, asked.vector, asked.tower, state, asked.rules, asked.now, most)
        stopwatch.lap("search")
        if not len(found.rows):
            return Ranked([], []), True
        answer = await self._infer(RANKER, found.inputs, served, self._settings.tower_deadline_ms / 1000)
        if answer is None:
            return await self._ordered(asked, wanted, population, by_model(served, asked.vector, asked.rules, most)), False
        logits = answer["logits"]
        scores = served.ranking.probabilities(logits[:, rank.REDEEM], found.features)
        order = await self._policy(asked, wanted, population, found.rows, scores)
        stopwatch.lap("rank")
        moves = await self._moves(asked.served, found, logits, order[:MAX_EXPLAINED])
        rest = [None] * (len(order) - len(moves))
        return Ranked(found.rows[order].tolist(), scores[order].tolist(), [*moves, *rest]), True

    async def _ordered(self, asked: Customer, wanted: RecommendationRequest, population: Population, found: Ranked) -> Ranked:
        """What was found without the ranker, under the same objective, diversity and caps."""
        rows, scores = np.array(found.rows, dtype=np.int64), np.array(found.scores, dtype=np.float64)
        order = await self._policy(asked, wanted, population, rows, scores)
        return Ranked(rows[order].tolist(), scores[order].tolist())

    async def _policy(
        self, asked: Customer, wanted: RecommendationRequest, population: Population, rows: np.ndarray, scores: np.ndarray
    ) -> np.ndarray:
        """int64 (K,), positions of the candidates to show, best first by the objective within the caps."""
        policy = Policy.of(self._settings, wanted.objective, wanted.diversity)
        catalogue = asked.served.catalogue
        held = await self._held(asked, rows) if self._settings.frequency_cap is not None else None
        spend = spend_of(asked.state, asked.now, population.basket)
        return rerank(
            policy,
            catalogue.offers,
            rows,
            scores,
            wanted.num_recommendations,
            spend=spend,
            vectors=catalogue.vectors,
            held=held,
            now=asked.now,
        )

    async def _held(self, asked: Customer, rows: np.ndarray) -> np.ndarray | None:
        """bool (C,): candidates that were shown often enough lately; None where that cannot be read."""
        days, cap = self._settings.frequency_days, self._settings.frequency_cap
        assert cap is not None  # noqa: S101 - asked by the caller
        try:
            shown = await self._inbox.shown_to(asked.business_id, asked.customer_id, datetime.fromtimestamp(asked.now - days * DAY_S, UTC))
        except UpstreamError as exc:
            logger.info("answering without the frequency cap: %s", exc)
            return None
        redeemed = asked.state.redeemed_at if asked.state is not None else {}
        acted = {**shown.acted, **{r: max(last, shown.acted.get(r, 0.0)) for r, (_, last) in redeemed.items()}}
        frozen = held_back(shown.times, acted, cap, days, asked.now)
        ids = asked.served.catalogue.reward_ids
        return np.array([ids[row] in frozen for row in rows.tolist()], dtype=bool)

    async def _moves(
        self, served: Served, found: rank.Candidates, logits: np.ndarray, shown: np.ndarray
    ) -> Sequence[Mapping[str, float] | None]:
        """For each reward shown what raised its probability; None where the ranker is not asked or does not answer in time."""
        deadline_s = self._settings.explain_deadline_ms / 1000
        if not deadline_s or not len(shown) or self.tower.open:
            return [None] * len(shown)
        asked = attribution_inputs(found.inputs, shown)
        try:
            answer = await self._client.infer(RANKER, asked, served.version, deadline_s)
        except UpstreamError as exc:
            logger.info("explaining without what moved the scores: %s", exc)
            return [None] * len(shown)
        return attributed(logits, shown, answer["logits"], rank.of_share(served.ranking, found.features))

    def _explained(self, asked: Customer, ranked: Ranked) -> list[dict[str, Any]]:
        served = asked.served
        population = served.populations.get(asked.business_id, _NOBODY)
        explainer = Explainer(asked.business_id, served.catalogue, population, asked.state, asked.now, asked.part)
        moves = ranked.moves if ranked.moves is not None else [None] * len(ranked.rows)
        return [
            {
                "rewardId": served.catalogue.reward_ids[row],
                "name": served.catalogue.names[row],
                "score": round(score, 6),
                "rank": place,
                **shown_as(explainer.reasons(row, moved)),
            }
            for place, (row, score, moved) in enumerate(zip(ranked.rows, ranked.scores, moves, strict=True), start=1)
        ]

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


def by_popularity(served: Served, rules: Filter, state: CustomerState | None, now: float, part: str, count: int) -> Ranked:
    """The allowed rewards that most customers redeem, weighed by their trend and by how well they fit the part of the day, age and gender.

    A reward's score is the share of customers who redeemed it in 90 days, brought to the model's horizon: what is known of a customer
    of whom nothing is known.
    """
    allowed = served.snapshot.index.allowed_rows(rules)
    if not len(allowed):
        return Ranked([], [])
    week, month, quarter = served.stats.shares[:, allowed].astype(np.float64)
    shares = served.snapshot.redeemer_share[allowed] * np.exp((week + month) / 2.0 - quarter)
    lifts = served.lifts.get(rules.business_id)
    fit = lifts.of(allowed, PARTS.index(part), peers_of(state, now)) if lifts is not None else np.ones(len(allowed))
    scores = 1.0 - (1.0 - np.minimum(1.0, shares * fit)) ** (served.snapshot.calibration.horizon_days / POPULARITY_DAYS)
    best = rank.ordered(scores)[:count]
    return Ranked(allowed[best].tolist(), scores[best].tolist())


def _filter(business_id: str, now: float, state: CustomerState | None) -> Filter:
    if state is None:
        return Filter(business_id, now)
    return Filter(business_id, now, dismissed=state.dismissed, redeemed=state.redeemed)


def _context_time(now: float, part: str | None) -> float:
    """The request's time for hour, weekday and month: now, moved to the asked part of the day unless it is in it already."""
    if part is None or PART_OF_HOUR[int(now % 86_400 // 3_600)] == part:
        return now
    return now - now % 86_400 + HOUR_OF_PART[part] * 3_600
