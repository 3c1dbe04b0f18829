"""Forecasts of one customer: the sequence model on what is known now, or what stands in for it.

The model's version is watched apart from the recommender's (`SequenceWatcher`): a home without one serves everything else. A customer who
never bought gets the business's base rates. While the model server is away, the customer's newest stored forecast stands in, and base rates
where there is none that is new enough; such an answer is `degraded`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np

from contracts.bundle import BUNDLES, deployed_version, read_manifest, require_files
from contracts.errors import ArtifactError, StackError, UpstreamError
from contracts.paths import Home
from contracts.sequence import MODEL_NAME, BaseRates, Forecasting, days_until_churn, risk_levels
from contracts.tables import CLV_SEGMENTS, RISK_LEVELS
from contracts.tensors import FACTORS, HORIZONS_DAYS, SEQUENCE, SEQUENCE_FACTORS, SEQUENCE_MODELS, ModelSpec
from embeddings.snapshot import IndexHolder
from features.weekly import NEVER_DAYS, facts
from ray_apps.clock import ServingClock
from ray_apps.deployments.breaker import Breaker
from ray_apps.deployments.factors import described
from ray_apps.deployments.histories import Histories, Known
from ray_apps.deployments.watcher import BundleWatcher, check_model
from ray_apps.metrics import Metrics, Stopwatch
from ray_apps.predictions import Predictions, StoredPrediction
from ray_apps.settings import ServeSettings
from ray_apps.tuning import ChurnSettings
from serving.client import TritonClient

logger = logging.getLogger("regulars.forecaster")

HOW = "Train and export one: regulars train sequence; regulars export"
MODEL, STORED, BASE_RATES = "model", "stored", "base_rates"


@dataclass(frozen=True)
class ServedSequence:
    """One version of the sequence model; never changed, replaced whole.

    Attributes:
        reference: the reference customer's static features in natural units.
        golden: one known row: the inputs and both models' answers, by the tensors' names.
    """

    version: str
    forecasting: Forecasting
    reference: Mapping[str, float]
    golden: Mapping[str, np.ndarray]

    @property
    def name(self) -> str:
        """As answers name it, for example `sequence/4`."""
        return f"{MODEL_NAME}/{self.version}"


def load(home: Home, version: str) -> ServedSequence:
    """Read a bundle of the sequence model.

    Raises:
        ArtifactError: it cannot be used.
    """
    folder = home.models / MODEL_NAME / version
    require_files(read_manifest(folder), folder)
    try:
        with np.load(folder / "golden.npz", allow_pickle=False) as file:
            golden = {t.name: file[t.name][-1:] for spec in SEQUENCE_MODELS.values() for t in (*spec.inputs, *spec.outputs)}
        forecasting = Forecasting.model_validate_json((folder / "forecast.json").read_bytes())
    except (OSError, ValueError, KeyError) as exc:
        raise ArtifactError(f"cannot read the bundle {folder}: {exc}. Build it again: regulars export --model {MODEL_NAME}") from exc
    reference = facts(np.array([forecasting.reference_statics], dtype=np.float32))
    return ServedSequence(version, forecasting, {name: float(value[0]) for name, value in reference.items()}, golden)


class SequenceWatcher(BundleWatcher[ServedSequence]):
    """Watches the sequence model, which a home may be without.

    Without a deployed version it waits for one. A first version is served as soon as its record is read, also while the model server cannot
    be reached: answers without the model need the record only, and the version is loaded there when it is back.
    """

    def __init__(self, home: Home, client: TritonClient, poll_s: float, metrics: Metrics) -> None:
        super().__init__(BUNDLES[MODEL_NAME], load, home, client, poll_s, self._swapped)
        self._metrics, self._in_triton = metrics, False
        self._absent: str | None = f"no {MODEL_NAME} model is served yet. {HOW}"

    @property
    def problem(self) -> str | None:
        """Why the deployed version is not the served one, or why there is none; None when all is well."""
        return super().problem or (self._absent if self._holder is None else None)

    @property
    def loaded(self) -> bool:
        """Whether the served version has been checked in the model server."""
        return self._in_triton

    async def start(self) -> None:
        """Load the deployed version, if there is one, and watch for others."""
        await self.look()
        self._begin()

    async def look(self) -> None:
        """See `BundleWatcher.look`; a missing model is no error."""
        if self._holder is None:
            await self._load_first()
        elif not self._in_triton:
            await self._bring(self._holder.current)
        else:
            await super().look()

    async def _load_first(self) -> None:
        try:
            version = await asyncio.to_thread(deployed_version, self._home.models, MODEL_NAME)
        except ArtifactError as exc:
            self._absent = str(exc)
            return
        if self._refused is not None and self._refused[0] == version:
            return
        try:
            served = await asyncio.to_thread(self._load, self._home, version)
        except (StackError, OSError) as exc:
            self._refuse(version, exc)
            logger.error("%s", self.problem)
            return
        await self._bring(served)

    async def _bring(self, served: ServedSequence) -> None:
        """Load the first version in the model server and serve it; while that is away, serve it without."""
        try:
            await self._load_in_triton(served)
        except (StackError, OSError) as exc:
            if await self._client.ready():
                self._holder = None
                self._refuse(served.version, exc)
                logger.error("%s", self.problem)
                return
            self._holder = IndexHolder(served)
            return
        self._in_triton, self._holder = True, IndexHolder(served)
        self._on_swap("ok")
        logger.warning("now serving %s", served.name)

    def _swapped(self, outcome: str) -> None:
        self._metrics.swaps.labels(outcome).inc()
        if self.current is not None:
            self._metrics.served_sequence(self.current.version)


@dataclass(frozen=True, slots=True)
class Forecast:
    """The numbers of one forecast.

    Attributes:
        churn: at 30, 60, 90 days. silent_by: (10,). purchase_probability: (12,). See `contracts.tensors.SEQUENCE`.
        spend: (12,), to the cent. interval: of their sum.
        reference: churn at 90 days of the reference customer; with `factors`' impacts it adds up to churn at 90 days.
        factors: all eight, the strongest first, as answers show them; none where nothing was attributed.
        recency_days: days since the last purchase; 0 where there is none. spent: net spend ever.
    """

    churn: tuple[float, float, float]
    silent_by: tuple[float, ...]
    purchase_probability: tuple[float, ...]
    spend: tuple[float, ...]
    interval: tuple[float, float]
    reference: float
    factors: list[dict[str, Any]]
    recency_days: float
    spent: float

    @property
    def predicted(self) -> float:
        """Net spend of the next 12 months, to the cent: the sum of `spend`."""
        return round(sum(self.spend), 2)

    def payload(self) -> dict[str, Any]:
        """JSON-ready, without the churn probabilities, which are stored beside it."""
        return {name: getattr(self, name) for name in _STORED}

    @classmethod
    def of_payload(cls, churn: tuple[float, float, float], payload: Mapping[str, Any]) -> Forecast:
        """The inverse of `payload`."""
        fields: dict[str, Any] = {name: tuple(payload[name]) if name in _TUPLES else payload[name] for name in _STORED}
        return cls(churn=churn, **fields)


_TUPLES = ("silent_by", "purchase_probability", "spend", "interval")
_STORED = (*_TUPLES, "reference", "factors", "recency_days", "spent")


@dataclass(frozen=True, slots=True)
class Outlook:
    """One forecast as it is answered.

    Attributes:
        as_of: what it is about; earlier than `now` for a stored one.
        known: of the customer now; None where it could not be read.
        source: `model`, `stored` or `base_rates`.
        level: of `RISK_LEVELS`. segment: of `CLV_SEGMENTS`.
        churn_date, days_until_churn: see `contracts.sequence.days_until_churn`; the date lies in the past for those who have churned.
    """

    prediction_id: str
    business_id: str
    customer_id: str
    model_version: str
    now: datetime
    as_of: datetime
    known: Known | None
    forecast: Forecast
    coverage: str
    source: str
    degraded: bool
    level: str
    segment: str
    interval_level: float
    churn_date: date
    days_until_churn: int

    @property
    def active(self) -> bool:
        """Whether churn is still to come: a purchase in the 90 days before."""
        return self.coverage != "cold_start" and self.forecast.recency_days < HORIZONS_DAYS[-1]


class Forecaster:
    """Makes forecasts.

    Args:
        watcher: which version to serve.
        histories: what is known of a customer.
        predictions: earlier forecasts.
        client: of the model server.
        clock: what is "now".
        settings, churn: deadlines, breaker, cuts.
        metrics: where the open breaker is shown.
    """

    def __init__(
        self,
        watcher: SequenceWatcher,
        histories: Histories,
        predictions: Predictions,
        client: TritonClient,
        clock: ServingClock,
        settings: ServeSettings,
        churn: ChurnSettings,
        metrics: Metrics,
    ) -> None:
        self._watcher, self._histories, self._predictions, self._client, self._clock = watcher, histories, predictions, client, clock
        self.settings = churn
        probe_s = settings.breaker_probe_ms / 1000
        self.breaker = Breaker(
            "the forecast model", settings.breaker_failures, probe_s, self._probe, metrics.breaker.labels("sequence").set
        )

    async def stop(self) -> None:
        """End background probes."""
        await self.breaker.stop()

    async def outlook(self, business_id: str, customer_id: str, spec: ModelSpec, stopwatch: Stopwatch) -> Outlook:
        """The forecast of one customer as of now; one call of the model server.

        Args:
            spec: `SEQUENCE_FACTORS`, which attributes, or `SEQUENCE`, which does not.

        Raises:
            ArtifactError: no sequence model is served.
        """
        served = self._watcher.current
        if served is None:
            raise ArtifactError(f"no forecast can be made: {self._watcher.problem}")
        now = self._clock.now()
        known = await self._histories.known(business_id, customer_id, now)
        stopwatch.lap("features")
        found: Forecast | None = None
        source, as_of, prediction_id = MODEL, now, secrets.token_hex(16)
        version, coverage = served.name, known.coverage if known is not None else "cold_start"
        nobody = known is not None and coverage == "cold_start"
        if known is not None and not nobody:
            found = await self._by_model(served, known, spec, now)
            stopwatch.lap("forecast")
        if found is None and not nobody and (stored := await self._stored(business_id, customer_id, now)) is not None:
            found, source, as_of = Forecast.of_payload(stored.churn, stored.payload), STORED, stored.as_of
            version, coverage, prediction_id = stored.model_version, stored.coverage, stored.prediction_id
        if found is None:
            found, source = _base_rates(served.forecasting.rates_of(business_id), known), BASE_RATES
        days, when = _churn_day(found, served.forecasting, as_of, now)
        return Outlook(
            prediction_id=prediction_id,
            business_id=business_id,
            customer_id=customer_id,
            model_version=version,
            now=now,
            as_of=as_of,
            known=known,
            forecast=found,
            coverage=coverage,
            source=source,
            degraded=known is None or not known.whole or (source != MODEL and not nobody),
            level=RISK_LEVELS[int(risk_levels(np.array(found.churn[-1]), self.settings.risk_cuts))],
            segment=CLV_SEGMENTS[int(served.forecasting.segments(business_id, np.array(found.predicted)))],
            interval_level=served.forecasting.interval_level,
            churn_date=when,
            days_until_churn=days,
        )

    async def _by_model(self, served: ServedSequence, known: Known, spec: ModelSpec, now: datetime) -> Forecast | None:
        """The model's forecast; None where Triton gives none."""
        deadline_s = self.settings.deadline_ms / 1000
        try:
            answer = await self.breaker.call(
                lambda: self._client.infer(spec, dict(known.inputs), served.version, deadline_s), deadline_s * 1.5
            )
        except UpstreamError as exc:
            logger.info("answering without %s: %s", spec.name, exc)
            return None
        return by_model(answer, known, served.reference, now)

    async def _stored(self, business_id: str, customer_id: str, now: datetime) -> StoredPrediction | None:
        """The newest earlier forecast that may stand in, one with factors before others; None where there is none."""
        since = now - timedelta(days=self.settings.stored_days)
        try:
            found = await self._predictions.newest(business_id, customer_id, since)
        except UpstreamError as exc:
            logger.info("answering without earlier forecasts: %s", exc)
            return None
        return next((p for p in found if p.payload["factors"]), found[0] if found else None)

    async def _probe(self) -> None:
        served = self._watcher.current
        if served is not None:
            for spec in (SEQUENCE_FACTORS, SEQUENCE):
                await check_model(self._client, served, spec)


def by_model(answer: Mapping[str, np.ndarray], known: Known, reference: Mapping[str, float], now: datetime) -> Forecast:
    """A model's answer for one customer, with its factors where the model attributes.

    Args:
        answer: outputs of `SEQUENCE_FACTORS` or `SEQUENCE`, one row.
        reference: the reference customer's static features in natural units.
    """
    row = {name: value[0].astype(np.float64) for name, value in answer.items()}
    a, b, c = (min(max(round(float(p), 6), 0.0), 1.0) for p in row["churn"])
    impacts = row.get("impacts")
    low, high = (round(float(x), 2) for x in row["spend_interval"])
    return Forecast(
        churn=(a, b, c),
        silent_by=tuple(row["silent_by"].tolist()),
        purchase_probability=tuple(min(max(round(p, 6), 0.0), 1.0) for p in row["purchase_probability"].tolist()),
        spend=tuple(np.round(row["spend"], 2).tolist()),
        interval=(low, high),
        reference=c if impacts is None else round(float(row["reference"][0]), 6),
        factors=[] if impacts is None else described(dict(zip(FACTORS, impacts.tolist(), strict=True)), known.facts, reference, now),
        recency_days=_recency(known),
        spent=round(known.spend, 2),
    )


def _base_rates(rates: BaseRates, known: Known | None) -> Forecast:
    a, b, c = rates.churn
    return Forecast(
        churn=(a, b, c),
        silent_by=rates.silent_by,
        purchase_probability=rates.purchase_probability,
        spend=tuple(round(s, 2) for s in rates.spend),
        interval=(round(rates.spend_interval[0], 2), round(rates.spend_interval[1], 2)),
        reference=c,
        factors=[],
        recency_days=_recency(known) if known is not None else 0.0,
        spent=round(known.spend, 2) if known is not None else 0.0,
    )


def _recency(known: Known) -> float:
    """Whole days since the last purchase; 0 where there is none."""
    days = float(round(known.facts["days_since_purchase"]))
    return 0.0 if days >= NEVER_DAYS else days


def _churn_day(found: Forecast, forecasting: Forecasting, as_of: datetime, now: datetime) -> tuple[int, date]:
    """Whole days from now until the customer has probably churned, 0 or more, and the day; the day lies behind those who have churned."""
    silent = forecasting.definition.silent_days
    if found.recency_days >= silent:
        return 0, as_of.date() + timedelta(days=silent - int(found.recency_days))
    days = days_until_churn(np.array([found.silent_by]), np.array([found.recency_days]), silent)
    when = as_of.date() + timedelta(days=int(np.ceil(days[0])))
    return max(0, (when - now.date()).days), when
