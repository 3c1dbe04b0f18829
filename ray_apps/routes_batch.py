"""The routes about many customers at once: batch predictions and who is at risk."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import FastAPI, Path, Query, Request
from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse

from contracts import api_batch as api
from contracts.api import Id
from contracts.api_churn import RiskLevel
from ray_apps.at_risk import AT_RISK, Wanted
from ray_apps.metrics import Stopwatch
from ray_apps.routing import BODY_PROBLEMS, SECURED, answer, own_business, read, returns, takes
from ray_apps.service import Service

DOCUMENTED: tuple[tuple[type[BaseModel], Any], ...] = (
    (api.BatchRequest, "validation"),
    (api.BatchJob, "serialization"),
    (api.AtRiskResponse, "serialization"),
)
ANALYSTS = ("analyst", "private_reader", "admin")
"""Reports over all customers are for them; the key of an app is not enough."""
DEFAULT_LIMIT, CSV = 100, "text/csv"
YesNo = Literal["true", "false"]


def add_batch(app: FastAPI, service: Service) -> None:
    """Mount the routes."""
    _add_jobs(app, service)
    _add_at_risk(app, service)


def _accepts(model: type[BaseModel], *problems: int) -> dict[str, Any]:
    """As `returns`, with 202 in place of 200."""
    made = returns(model, *problems)
    made["responses"][202] = made["responses"].pop(200) | {"description": "Accepted"}
    return made | {"status_code": 202}


def _add_jobs(app: FastAPI, service: Service) -> None:
    path = "/api/v1/predictions/batch"

    @app.post(path, **_accepts(api.BatchJob, *BODY_PROBLEMS), openapi_extra=takes(api.BatchRequest))
    async def begin(request: Request) -> Response:
        """Score some customers, or all of them, into the table `customer_risk_scores`; answered at once with a job to ask about.

        Jobs are worked on one after the other. They see what has landed in the warehouse, which lags behind the events by a minute. All
        customers asked for while such a job still waits are that job. 503 until a sequence model has been trained and exported.
        """
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), ANALYSTS)
        wanted = await read(request, api.BatchRequest)
        own_business(caller, wanted.business_id)
        return answer(await service.batch.begin(caller, wanted, stopwatch), stopwatch, 202)

    @app.get(path + "/{job_id}", **returns(api.BatchJob, 401, 403, 404, 422, 503), openapi_extra=SECURED)
    async def job(request: Request, job_id: Annotated[Id, Path(description="From the answer that accepted the job.")]) -> Response:
        """How far a job is, and what came of it."""
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), ANALYSTS)
        return answer(await service.batch.job(caller, job_id, stopwatch), stopwatch)


def _add_at_risk(app: FastAPI, service: Service) -> None:
    documented = returns(api.AtRiskResponse, 401, 403, 404, 422, 503)
    documented["responses"][200]["content"][CSV] = {"schema": {"type": "string"}}

    @app.get("/api/v1/ml/churn/at-risk", **documented, openapi_extra=SECURED)
    async def at_risk(
        request: Request,
        risk_level: Annotated[
            list[RiskLevel] | None, Query(alias="riskLevel", description="May be given again; HIGH and CRITICAL without it.")
        ] = None,
        days: Annotated[
            int | None, Query(alias="daysUntilChurn", ge=0, le=100_000, description="Expected to leave within so many days.")
        ] = None,
        segment: Annotated[Id | None, Query(description="A segment's id, or a CLV segment such as VERY_HIGH.")] = None,
        churned: Annotated[YesNo, Query(description="Also those silent for so long that they count as gone.")] = "false",
        limit: Annotated[int | None, Query(ge=1, le=1000, description="Customers a page; 100 without it, and all of them as CSV.")] = None,
        offset: Annotated[int, Query(ge=0, le=100_000_000, description="Customers to skip; not for CSV.")] = 0,
        form: Annotated[Literal["json", "csv"], Query(alias="format", description="csv is for spreadsheets.")] = "json",
    ) -> Response:
        """Who may be lost, by what that would cost: churn in 90 days times the value of the next 12 months.

        From the newest finished scoring of the business, by `regulars score` or a batch job over all customers; 404 until there is one.
        """
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), ANALYSTS)
        stopwatch.lap("auth")
        wanted = Wanted(tuple(dict.fromkeys(risk_level or AT_RISK)), days, segment, churned == "true")
        if form == "csv":
            pieces = await service.batch.at_risk_csv(caller, wanted, limit)
            headers = {"Content-Disposition": 'attachment; filename="at-risk.csv"'}
            return StreamingResponse(pieces, media_type=f"{CSV}; charset=utf-8", headers=headers)
        return answer(await service.batch.at_risk(caller, wanted, limit or DEFAULT_LIMIT, offset, stopwatch), stopwatch)
