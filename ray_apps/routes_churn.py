"""The routes about churn, lifetime value, risk and profile."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import FastAPI, Path, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from contracts import api_churn as api
from contracts.api import Id
from contracts.tensors import FACTORS
from ray_apps.metrics import Stopwatch
from ray_apps.routing import BODY_PROBLEMS, READERS, SECURED, WRITERS, answer, read, returns, takes
from ray_apps.service import Service

DOCUMENTED: tuple[tuple[type[BaseModel], Any], ...] = (
    (api.InterventionRequest, "validation"),
    (api.OutcomeRequest, "validation"),
    (api.ChurnPrediction, "serialization"),
    (api.ClvPrediction, "serialization"),
    (api.CustomerRisk, "serialization"),
    (api.CustomerProfile, "serialization"),
    (api.InterventionResponse, "serialization"),
    (api.OutcomeResponse, "serialization"),
    (api.ChurnCalibration, "serialization"),
)
CustomerQuery = Annotated[Id, Query(alias="customerId", description="The customer asked about; an unknown one gets a cold-start answer.")]
CustomerPath = Annotated[Id, Path(description="The customer asked about; an unknown one gets a cold-start answer.")]
PredictionPath = Annotated[Id, Path(description="The predictionId of an answer.")]
YesNo = Literal["true", "false"]
Horizon = Literal["30", "60", "90"]


def add_churn(app: FastAPI, service: Service) -> None:
    """Mount the routes."""
    _add_forecasts(app, service)
    _add_customers(app, service)
    _add_records(app, service)


def _add_forecasts(app: FastAPI, service: Service) -> None:
    @app.get("/api/v1/ml/churn/predict", **returns(api.ChurnPrediction, 401, 403, 422, 503), openapi_extra=SECURED)
    async def churn(
        request: Request,
        customer_id: CustomerQuery,
        factors: Annotated[int, Query(ge=1, le=len(FACTORS), description="Factors to show, the strongest first.")] = 3,
    ) -> Response:
        """Whether and when a customer will leave, and why. What the customer just did is counted.

        503 until a sequence model has been trained and exported.
        """
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), READERS)
        stopwatch.lap("auth")
        return answer(await service.churn.churn(caller, customer_id, factors, stopwatch), stopwatch)

    @app.get("/api/v1/ml/clv/predict", **returns(api.ClvPrediction, 401, 403, 422, 503), openapi_extra=SECURED)
    async def clv(request: Request, customer_id: CustomerQuery) -> Response:
        """What a customer has been worth, and the spend of each of the next 12 months.

        503 until a sequence model has been trained and exported.
        """
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), READERS)
        stopwatch.lap("auth")
        return answer(await service.churn.clv(caller, customer_id, stopwatch), stopwatch)

    @app.get("/api/v1/ml/churn/calibration", **returns(api.ChurnCalibration, 401, 403, 422, 503), openapi_extra=SECURED)
    async def calibration(
        request: Request,
        horizon_days: Annotated[
            Literal["30", "60", "90"], Query(alias="horizonDays", description="Horizon of the predictions, days.")
        ] = "90",
        days: Annotated[int, Query(ge=1, le=1095, description="How far back predictions are looked at.")] = 365,
        bins: Annotated[int, Query(ge=2, le=50, description="Bins of equal width.")] = 10,
        model_version: Annotated[Id | None, Query(alias="modelVersion", description="Only predictions of this version.")] = None,
        with_interventions: Annotated[
            YesNo, Query(alias="withInterventions", description="Count also predictions that something was done about.")
        ] = "false",
    ) -> Response:
        """How well past predictions fit what came of them: outcomes that were reported, and those that the events show."""
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), READERS)
        body = await service.churn.calibration(
            caller, int(horizon_days), days, bins, model_version, with_interventions == "true", stopwatch
        )
        return answer(body, stopwatch)


def _add_customers(app: FastAPI, service: Service) -> None:
    @app.get("/api/v1/customers/{customer_id}/risk", **returns(api.CustomerRisk, 401, 403, 422, 503), openapi_extra=SECURED)
    async def risk(request: Request, customer_id: CustomerPath) -> Response:
        """The risk of losing a customer, what would be lost, and what to do by simple rules (`basis`)."""
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), READERS)
        stopwatch.lap("auth")
        return answer(await service.churn.risk(caller, customer_id, stopwatch), stopwatch)

    @app.get("/api/v1/customers/{customer_id}/profile", **returns(api.CustomerProfile, 401, 403, 422, 503), openapi_extra=SECURED)
    async def profile(
        request: Request,
        customer_id: CustomerPath,
        embedding: Annotated[YesNo, Query(description="Also the customer's vector in the recommender.")] = "false",
    ) -> Response:
        """What is known of one customer: segment, churn, value, RFM, tier and points, coverage and freshness."""
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), READERS)
        stopwatch.lap("auth")
        return answer(await service.churn.profile(caller, customer_id, embedding == "true", stopwatch), stopwatch)


def _add_records(app: FastAPI, service: Service) -> None:
    path = "/api/v1/ml/churn/{prediction_id}"
    problems = (404, 409, *BODY_PROBLEMS)

    @app.put(path + "/intervention", **returns(api.InterventionResponse, *problems), openapi_extra=takes(api.InterventionRequest))
    async def intervene(request: Request, prediction_id: PredictionPath) -> Response:
        """Record what was done about a prediction; idempotent. Something else than before is a conflict (409)."""
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), WRITERS)
        given = await read(request, api.InterventionRequest)
        return answer(await service.churn.intervene(caller, prediction_id, given, stopwatch), stopwatch)

    @app.post(path + "/actual-churn", **returns(api.OutcomeResponse, *problems), openapi_extra=takes(api.OutcomeRequest))
    async def outcome(request: Request, prediction_id: PredictionPath) -> Response:
        """Record whether the customer left; idempotent. Something else than before is a conflict (409)."""
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), WRITERS)
        given = await read(request, api.OutcomeRequest)
        return answer(await service.churn.outcome(caller, prediction_id, given, stopwatch), stopwatch)
