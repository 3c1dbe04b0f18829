"""What the routes about churn, value, risk and profile do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

import numpy as np

from contracts import api_churn as api
from contracts.api import RecommendationContext
from contracts.errors import ContractError, StackError, UnknownItem
from contracts.paths import Home
from contracts.tensors import SEQUENCE, SEQUENCE_FACTORS, ModelSpec
from ray_apps.calibration import calibration, seen_outcomes
from ray_apps.clock import ServingClock
from ray_apps.deployments import outlook
from ray_apps.deployments.base import CustomerBase, loyalty
from ray_apps.deployments.forecaster import STORED, Forecaster, Outlook, SequenceWatcher
from ray_apps.deployments.histories import Histories
from ray_apps.deployments.recommend import Recommender
from ray_apps.keys import Caller
from ray_apps.metrics import Metrics, Stopwatch
from ray_apps.middleware import Gate
from ray_apps.predictions import PredictionLog, Predictions, Recorded
from ray_apps.settings import ServeSettings
from ray_apps.store import OperationalStore
from ray_apps.tuning import ChurnSettings
from serving.client import TritonClient

logger = logging.getLogger("regulars.churn")
LOG_DELAY_S = 0.15
"""Longest time until a prediction of another replica can be found: its log is written in batches."""
JUDGED_MOST = 100_000
T = TypeVar("T")


class ChurnService:
    """Churn, value, risk and profile, without HTTP.

    Args:
        home: whose models and warehouse.
        store: the operational database.
        recommender: where states, the breaker of the feature store and vectors come from.
        states: also reads histories (`ray_apps.service.BaseStates`).
        client: of the model server.
        gate: bounds the requests that are worked on.
    """

    def __init__(
        self,
        home: Home,
        store: OperationalStore,
        recommender: Recommender,
        states: Any,
        client: TritonClient,
        clock: ServingClock,
        gate: Gate,
        settings: ServeSettings,
        metrics: Metrics,
    ) -> None:
        self._home, self._store, self._recommender, self._states, self._clock, self._gate = home, store, recommender, states, clock, gate
        self._settings, self._metrics, self.churn_settings = settings, metrics, ChurnSettings.load()
        self.predictions = Predictions(store)
        self.log = PredictionLog(self.predictions)
        self.models = SequenceWatcher(home, client, settings.deployed_poll_s, metrics)
        self.histories = Histories(states, store, settings, metrics)
        self.forecaster = Forecaster(self.models, self.histories, self.predictions, client, clock, settings, self.churn_settings, metrics)
        self.base = CustomerBase(home, clock.now, self.churn_settings.refresh_s)

    async def start(self) -> None:
        """Load the sequence model, if there is one, and begin the background work."""
        self.log.start()
        await self.models.start()
        self.base.start()

    async def stop(self) -> None:
        """End the background work and write what waits to be written."""
        await self.base.stop()
        await self.forecaster.stop()
        await self.histories.stop()
        await self.models.stop()
        try:
            await self.log.close()
        except StackError as exc:
            logger.error("the last predictions were not written: %s", exc)

    @property
    def model_name(self) -> str:
        """As answers name the model being served."""
        return self.models.current.name if self.models.current is not None else "none"

    async def ready(self) -> bool:
        """Whether forecasts are made by the deployed version of the model."""
        return (
            self.models.current is not None
            and self.models.problem is None
            and self.models.loaded
            and not self.forecaster.breaker.open
            and not self.histories.breaker.open
        )

    async def churn(self, caller: Caller, customer_id: str, shown: int, stopwatch: Stopwatch) -> dict[str, Any]:
        """The body of a `ChurnPrediction`.

        Raises:
            Overloaded: too many requests at once.
            ArtifactError: no sequence model is served.
        """
        found = await self._outlook(caller, customer_id, SEQUENCE_FACTORS, stopwatch)
        return self._timed(outlook.churn_body(found, shown), "churn", found, stopwatch)

    async def clv(self, caller: Caller, customer_id: str, stopwatch: Stopwatch) -> dict[str, Any]:
        """The body of a `ClvPrediction`; raises as `churn`."""
        found = await self._outlook(caller, customer_id, SEQUENCE, stopwatch)
        return self._timed(outlook.clv_body(found), "clv", found, stopwatch)

    async def risk(self, caller: Caller, customer_id: str, stopwatch: Stopwatch) -> dict[str, Any]:
        """The body of a `CustomerRisk`; raises as `churn`."""
        found = await self._outlook(caller, customer_id, SEQUENCE_FACTORS, stopwatch)
        return self._timed(outlook.risk_body(found, self.churn_settings), "risk", found, stopwatch)

    async def profile(self, caller: Caller, customer_id: str, embedding: bool, stopwatch: Stopwatch) -> dict[str, Any]:
        """The body of a `CustomerProfile`; raises as `churn`. What cannot be read beside the forecast is null, and the answer degraded."""
        found = await self._outlook(caller, customer_id, SEQUENCE_FACTORS, stopwatch)
        async with self._gate.enter():
            body = outlook.common(found) | {
                "segment": found.segment,
                "churn": {
                    "churnProbability": found.forecast.churn[-1],
                    "horizons": outlook.horizons(found),
                    "riskLevel": found.level,
                    "daysUntilChurn": found.days_until_churn,
                    "predictedChurnDate": found.churn_date.isoformat(),
                    "topFactor": outlook.top_factor(found),
                },
                "clv": outlook.values(found),
                "rfm": self._rfm(found),
            }
            newest, state_read = await self._newest(found)
            body["freshness"] = {
                "newestEventAt": None if newest is None else outlook.wire_time(newest),
                "ageSeconds": None if newest is None else round(max(0.0, (found.now - newest).total_seconds()), 3),
            }
            body["loyalty"], member_read = await self._loyalty(found)
            vector, version, embedded = await self._vector(found, stopwatch) if embedding else (None, None, True)
            body |= {"embedding": vector, "embeddingVersion": version}
        body["degraded"] = found.degraded or not (state_read and member_read and embedded)
        return self._timed(body, "profile", found, stopwatch)

    async def intervene(
        self, caller: Caller, prediction_id: str, given: api.InterventionRequest, stopwatch: Stopwatch
    ) -> api.InterventionResponse:
        """Record what was done about a prediction.

        Raises:
            UnknownItem: this business has no such prediction.
            Conflict: something else was recorded before.
        """
        done = await self._written(
            lambda: self.predictions.add_intervention(caller.business_id, prediction_id, given.campaign_id, given.intervention_type)
        )
        return api.InterventionResponse(
            prediction_id=prediction_id,
            customer_id=done.prediction.customer_id,
            campaign_id=given.campaign_id,
            intervention_type=given.intervention_type,
            duplicate=not done.created,
            model_version=done.prediction.model_version,
            latency=round(stopwatch.stop(), 3),
        )

    async def outcome(self, caller: Caller, prediction_id: str, given: api.OutcomeRequest, stopwatch: Stopwatch) -> api.OutcomeResponse:
        """Record what came of a prediction.

        Raises:
            UnknownItem: this business has no such prediction.
            ContractError: the day of churn is still to come.
            Conflict: another outcome was recorded before.
        """
        done = await self._written(lambda: self._add_outcome(caller.business_id, prediction_id, given.churned, given.churn_date))
        return api.OutcomeResponse(
            prediction_id=prediction_id,
            customer_id=done.prediction.customer_id,
            churned=given.churned,
            churn_date=given.churn_date,
            churn_probability=done.prediction.churn[-1],
            duplicate=not done.created,
            model_version=done.prediction.model_version,
            latency=round(stopwatch.stop(), 3),
        )

    async def _add_outcome(self, business_id: str, prediction_id: str, churned: bool, churn_date: date | None) -> Recorded:
        await self.predictions.get(business_id, prediction_id)
        today = max(self._clock.now(), self._clock.read()).date()
        if churn_date is not None and churn_date > today:
            raise ContractError(f"churnDate is {churn_date}, after today, {today}. Report an outcome when it is there.")
        return await self.predictions.add_outcome(business_id, prediction_id, churned, churn_date)

    async def calibration(
        self, caller: Caller, horizon_days: int, days: int, bins: int, version: str | None, with_interventions: bool, stopwatch: Stopwatch
    ) -> dict[str, Any]:
        """The body of a `ChurnCalibration`.

        Args:
            days: how far back predictions are looked at.
            version: of the model, for example `sequence/4`; all when None.
        """
        async with self._gate.enter():
            with contextlib.suppress(StackError):
                await self.log.flush()
            now = self._clock.now()
            since = now - timedelta(days=days)
            found, more = await self.predictions.judged(caller.business_id, since, now, JUDGED_MOST)
            mine = [p for p in found if version is None or p.model_version == version]
            seen = await asyncio.to_thread(seen_outcomes, self._home.warehouse, caller.business_id, mine, horizon_days)
            judged = await asyncio.to_thread(calibration, mine, seen, horizon_days, bins, with_interventions)
        return judged | {
            "horizonDays": horizon_days,
            "since": outlook.wire_time(since),
            "truncated": more,
            "modelVersion": version or self.model_name,
            "latency": round(stopwatch.stop(), 3),
        }

    async def _outlook(self, caller: Caller, customer_id: str, spec: ModelSpec, stopwatch: Stopwatch) -> Outlook:
        """The forecast; a new one is kept for later."""
        async with self._gate.enter():
            found = await self.forecaster.outlook(caller.business_id, customer_id, spec, stopwatch)
        if found.source != STORED:
            await self.log.append(outlook.stored(found, self._clock.read()))
        return found

    def _timed(self, body: dict[str, Any], route: str, found: Outlook, stopwatch: Stopwatch) -> dict[str, Any]:
        stopwatch.lap("rules")
        latency = stopwatch.stop()
        self._metrics.observe_forecast(stopwatch, route, found.coverage, found.source)
        return body | {"latency": round(latency, 3)}

    async def _written(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run the work; when it does not find the prediction, once more after what waits in the logs has been written."""
        async with self._gate.enter():
            try:
                return await work()
            except UnknownItem:
                await self.log.flush()
                await asyncio.sleep(LOG_DELAY_S if self._settings.replicas > 1 else 0)
                return await work()

    def _rfm(self, found: Outlook) -> dict[str, Any] | None:
        cuts = self.base.cuts(found.business_id)
        return cuts.rfm(found.known.facts) if cuts is not None and found.known is not None else None

    async def _newest(self, found: Outlook) -> tuple[datetime | None, bool]:
        """Time of the newest act that is inside, and whether that could be read."""
        newest = found.known.newest if found.known is not None else None
        try:
            state = await self._recommender.features.call(
                lambda: self._states.read(found.business_id, found.customer_id), self._settings.features_deadline_ms / 1000
            )
        except (StackError, OSError) as exc:
            logger.info("answering without the stored state: %s", type(exc).__name__)
            return newest, False
        if state is not None and state.touch_count:
            stored = datetime.fromtimestamp(state.time, UTC)
            newest = stored if newest is None else max(newest, stored)
        return newest, True

    async def _loyalty(self, found: Outlook) -> tuple[dict[str, Any] | None, bool]:
        """The body of a `Loyalty`, and whether the warehouse could be read."""
        try:
            member = await self.base.member(found.business_id, found.customer_id)
        except StackError as exc:
            logger.warning("answering without tier and points: %s", exc)
            return None, False
        if member is None:
            return None, True
        spend = found.known.facts["spend_365d"] if found.known is not None else None
        return loyalty(*member, spend, self.churn_settings.tier_spend), True

    async def _vector(self, found: Outlook, stopwatch: Stopwatch) -> tuple[list[float] | None, str | None, bool]:
        """The customer's vector in the recommender, the version that made it, and whether nothing failed on the way."""
        try:
            customer = await self._recommender.customer(found.business_id, found.customer_id, RecommendationContext(), Stopwatch())
        except StackError as exc:
            logger.info("answering without the vector: %s", exc)
            return None, None, False
        stopwatch.lap("tower")
        if customer.vector is None:
            return None, None, not customer.degraded
        return np.round(customer.vector[0].astype(np.float64), 6).tolist(), customer.served.name, True
