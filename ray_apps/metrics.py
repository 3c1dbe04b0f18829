"""Prometheus metrics of one replica, and the stopwatch that fills them."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

STAGES = ("auth", "features", "tower", "search", "rank", "rules", "total")
_BUCKETS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 2.0, 5.0, 10.0, 20.0)


class Metrics:
    """All metrics, in a registry of their own so that two apps in one process do not collide."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.stage = Histogram(
            "regulars_stage_seconds", "Time of one stage of a recommendation.", ["stage"], buckets=_BUCKETS, registry=self.registry
        )
        self.recommendations = Counter(
            "regulars_recommendations_total", "Recommendations answered.", ["coverage", "degraded"], registry=self.registry
        )
        self.requests = Counter("regulars_requests_total", "HTTP requests answered.", ["route", "status"], registry=self.registry)
        self.events = Counter("regulars_events_total", "Events received.", ["outcome"], registry=self.registry)
        self.breaker = Gauge(
            "regulars_breaker_open", "1 while an upstream's circuit breaker is open.", ["upstream"], registry=self.registry
        )
        self.model = Gauge("regulars_model_info", "1 for the model version being served.", ["version"], registry=self.registry)
        self.swaps = Counter("regulars_model_swaps_total", "Attempts to serve another model version.", ["outcome"], registry=self.registry)
        self.lost_logs = Counter("regulars_recommendation_log_failures_total", "Answers that could not be logged.", registry=self.registry)
        self.forecasts = Counter("regulars_forecasts_total", "Forecasts answered.", ["route", "coverage", "source"], registry=self.registry)
        self.forecast_stage = Histogram(
            "regulars_forecast_stage_seconds", "Time of one stage of a forecast.", ["stage"], buckets=_BUCKETS, registry=self.registry
        )
        self.sequence = Gauge(
            "regulars_sequence_model_info", "1 for the version of the sequence model being served.", ["version"], registry=self.registry
        )
        self.questions = Counter("regulars_questions_total", "Questions asked.", ["outcome", "reason"], registry=self.registry)
        self.question_stage = Histogram(
            "regulars_question_stage_seconds", "Time of one stage of a question.", ["stage"], buckets=_LONG, registry=self.registry
        )
        self.question_feedback = Counter("regulars_question_feedback_total", "Answers judged.", ["verdict"], registry=self.registry)
        self.pictures = Counter("regulars_pictures_total", "Pictures looked at.", ["outcome"], registry=self.registry)
        self.picture_stage = Histogram(
            "regulars_picture_stage_seconds", "Time of one stage of a picture.", ["stage"], buckets=_LONG, registry=self.registry
        )
        self._version: str | None = None
        self._sequence_version: str | None = None
        self._stages = {name: self.stage.labels(name) for name in STAGES}

    def served(self, version: str) -> None:
        """Show which model version answers from now on."""
        if self._version is not None:
            self.model.labels(self._version).set(0)
        self.model.labels(version).set(1)
        self._version = version

    def served_sequence(self, version: str) -> None:
        """Show which version of the sequence model answers from now on."""
        if self._sequence_version is not None:
            self.sequence.labels(self._sequence_version).set(0)
        self.sequence.labels(version).set(1)
        self._sequence_version = version

    def observe_forecast(self, stopwatch: Stopwatch, route: str, coverage: str, source: str) -> None:
        """Add one forecast and its stage times."""
        for name, seconds in stopwatch.stages.items():
            self.forecast_stage.labels(name).observe(seconds)
        self.forecasts.labels(route, coverage, source).inc()

    def observe_question(self, stopwatch: Stopwatch, outcome: str, reason: str | None) -> None:
        """Add one question and its stage times."""
        for name, seconds in stopwatch.stages.items():
            self.question_stage.labels(name).observe(seconds)
        self.questions.labels(outcome, reason or "").inc()

    def observe_picture(self, stopwatch: Stopwatch, outcome: str) -> None:
        """Add one picture and its stage times."""
        for name, seconds in stopwatch.stages.items():
            self.picture_stage.labels(name).observe(seconds)
        self.pictures.labels(outcome).inc()

    def observe(self, stopwatch: Stopwatch) -> None:
        """Add one request's stage times."""
        for name, seconds in stopwatch.stages.items():
            self._stages[name].observe(seconds)

    def render(self) -> bytes:
        """Prometheus text exposition."""
        return generate_latest(self.registry)


class Stopwatch:
    """Wall time per stage of one request, seconds."""

    __slots__ = ("_last", "_start", "stages")

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self.stages: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """The time since the last lap belongs to `stage`."""
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + now - self._last
        self._last = now

    def stop(self) -> float:
        """Close `total`; milliseconds since the request came in."""
        self.stages["total"] = time.perf_counter() - self._start
        return self.stages["total"] * 1000.0

    def header(self) -> str:
        """Value of `Server-Timing`, milliseconds."""
        return ", ".join(f"{name};dur={seconds * 1000.0:.3f}" for name, seconds in self.stages.items())
