"""The HTTP routes. `create_app` needs no Ray, so the same app runs in a test process and in a Serve replica."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from contracts import api
from contracts.errors import StackError
from ray_apps import problems, routes_batch, routes_churn, routes_pictures, routes_query
from ray_apps.metrics import Stopwatch
from ray_apps.middleware import Boundary
from ray_apps.routing import (
    BODY_PROBLEMS,
    JSON,
    READERS,
    SECURED,
    WRITERS,
    answer,
    own_business,
    problem_responses,
    read,
    read_json,
    returns,
    takes,
)
from ray_apps.service import Service

TITLE, VERSION = "Regulars", "1.0.0"
CustomerQuery = Annotated[api.Id, Query(alias="customerId", description="The customer asked about.")]
_DOCUMENTED: tuple[tuple[type[BaseModel], Any], ...] = (
    (api.RecommendationRequest, "validation"),
    (api.FeedbackRequest, "validation"),
    (api.NextOfferRequest, "validation"),
    (api.EventIn, "validation"),
    (api.EventBatch, "validation"),
    (api.RecommendationResponse, "serialization"),
    (api.FeedbackResponse, "serialization"),
    (api.RecommendationHistory, "serialization"),
    (api.NextOfferResponse, "serialization"),
    (api.SimilarResponse, "serialization"),
    (api.EventsResponse, "serialization"),
    (api.Ready, "serialization"),
    (api.Problem, "serialization"),
    *routes_churn.DOCUMENTED,
    *routes_batch.DOCUMENTED,
    *routes_query.DOCUMENTED,
    *routes_pictures.DOCUMENTED,
)


def create_app(service: Service) -> ASGIApp:
    """The ASGI application around a service; its lifespan starts and stops the service."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    # /docs with assets of our own: it also works where the net does not reach a CDN.
    app = FastAPIOffline(title=TITLE, version=VERSION, lifespan=lifespan, redoc_url=None, redirect_slashes=False, static_url="/docs/assets")
    _add_recommendations(app, service)
    _add_offers(app, service)
    _add_customers(app, service)
    routes_churn.add_churn(app, service)
    routes_batch.add_batch(app, service)
    routes_query.add_query(app, service)
    routes_pictures.add_pictures(app, service)
    _add_events(app, service)
    _add_operations(app, service)
    _add_handlers(app)
    app.openapi = _documented(app)  # type: ignore[method-assign]
    return Boundary(app, service.metrics, service.settings.max_body_bytes, service.pictures.most_bytes())


def _add_recommendations(app: FastAPI, service: Service) -> None:
    path = "/api/v1/ml/recommendations"

    @app.post(path, **returns(api.RecommendationResponse, *BODY_PROBLEMS), openapi_extra=takes(api.RecommendationRequest))
    async def recommend(request: Request) -> Response:
        """Rewards to show to one customer, best first. An unknown customer gets a cold-start answer."""
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), WRITERS)
        stopwatch.lap("auth")
        wanted = await read(request, api.RecommendationRequest)
        own_business(caller, wanted.business_id)
        return answer(await service.recommend(caller, wanted, stopwatch), stopwatch)

    @app.get(path, **returns(api.RecommendationHistory, 401, 403, 422, 503), openapi_extra=SECURED)
    async def history(
        request: Request,
        customer_id: CustomerQuery,
        limit: Annotated[int, Query(ge=1, le=100, description="Answers per page.")] = 20,
        offset: Annotated[int, Query(ge=0, le=1_000_000, description="Newer answers to skip.")] = 0,
    ) -> Response:
        """Past answers for one customer, newest first."""
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), READERS)
        return answer(await service.history(caller, customer_id, limit, offset, stopwatch), stopwatch)

    @app.post(
        path + "/{recommendation_id}/feedback",
        **returns(api.FeedbackResponse, 404, *BODY_PROBLEMS),
        openapi_extra=takes(api.FeedbackRequest),
    )
    async def feedback(request: Request, recommendation_id: Annotated[api.Id, Path(description="From the answer.")]) -> Response:
        """What the customer did with a recommended reward; idempotent. NEGATIVE_FEEDBACK keeps the reward out of the next answers."""
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), WRITERS)
        given = await read(request, api.FeedbackRequest)
        return answer(await service.feedback(caller, recommendation_id, given, stopwatch), stopwatch)


def _add_customers(app: FastAPI, service: Service) -> None:
    @app.get("/api/v1/ml/customers/{customer_id}/similar", **returns(api.SimilarResponse, 401, 403, 404, 422, 503), openapi_extra=SECURED)
    async def similar(
        request: Request,
        customer_id: Annotated[api.Id, Path(description="The customer asked about.")],
        limit: Annotated[int, Query(ge=1, le=100, description="Customers at most.")] = 10,
    ) -> Response:
        """The customers of this business most like one of them, nearest first.

        What the asked customer just did is counted. 503 with Retry-After until the first customers have been embedded.
        """
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), READERS)
        stopwatch.lap("auth")
        return answer(await service.similar(caller, customer_id, limit, stopwatch), stopwatch)


def _add_offers(app: FastAPI, service: Service) -> None:
    path = "/api/v1/ml/offers/next-best"

    @app.post(path, **returns(api.NextOfferResponse, *BODY_PROBLEMS), openapi_extra=takes(api.NextOfferRequest))
    async def next_best(request: Request) -> Response:
        """A probability for each of the eight offer types, and the offer to make to one customer.

        Rewards that were dismissed, have expired, are sold out or were redeemed once and for all are not offered. An unknown customer gets
        the shares of this business's customers.
        """
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), WRITERS)
        stopwatch.lap("auth")
        wanted = await read(request, api.NextOfferRequest)
        own_business(caller, wanted.business_id)
        return answer(await service.next_offer(caller, wanted, stopwatch), stopwatch)


def _add_events(app: FastAPI, service: Service) -> None:
    @app.post("/api/v1/events", **returns(api.EventsResponse, 409, *BODY_PROBLEMS), openapi_extra=takes(api.EventIn, api.EventBatch))
    async def events(request: Request) -> Response:
        """One event, or `{"events": [...]}` with up to 1000. The same `eventId` again changes nothing.

        The events of a batch are checked one by one: those that are refused are listed in `rejected`, the others are taken. An event
        sent alone that is refused is answered 422, or 409 when its `eventId` was used before with other content.
        """
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), WRITERS)
        body = await read_json(request)
        stored = await service.events(caller, api.split_events(body), stopwatch)
        if stored.rejected and "events" not in body:
            return _refused_event(stored.rejected[0])
        return answer(stored, stopwatch)


def _refused_event(refused: api.RejectedEvent) -> Response:
    """An event sent alone has nothing to be listed beside: it is answered as a problem."""
    conflict = refused.reason == "event_id_conflict"
    status, title, slug = (409, "Conflict", "conflict") if conflict else (422, "Request does not meet the contract", "contract")
    return problems.ProblemResponse(status, title, slug, refused.detail, errors=[{"field": refused.reason, "detail": refused.detail}])


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get("/-/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return answer(api.Health())

    ready_problem = {
        "description": "Not ready; `checks` says what is missing.",
        "content": {JSON: {"schema": {"$ref": "#/components/schemas/Ready"}}},
    }

    @app.get("/-/readyz", **returns(api.Ready) | {"responses": returns(api.Ready)["responses"] | {503: ready_problem}})
    async def readyz() -> Response:
        """Whether requests can be served by the model."""
        found = await service.ready()
        response = answer(found, status=200 if found.ready else 503)
        if not found.ready:
            response.headers["Retry-After"] = str(problems.RETRY_AFTER_S)
        return response

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_handlers(app: FastAPI) -> None:
    @app.exception_handler(StackError)
    async def ours(_: Request, exc: StackError) -> Response:
        return problems.from_error(exc)

    @app.exception_handler(ValidationError)
    async def body(_: Request, exc: ValidationError) -> Response:
        return problems.from_validation(exc.errors(include_url=False, include_context=False, include_input=False))

    @app.exception_handler(RequestValidationError)
    async def parameters(_: Request, exc: RequestValidationError) -> Response:
        return problems.from_validation(exc.errors(), skip=1)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, exc: Exception) -> Response:
        return problems.internal_error()  # Starlette raises it again, and `Boundary` logs it

    @app.exception_handler(HTTPException)
    async def framework(request: Request, exc: HTTPException) -> Response:
        headers = dict(exc.headers or {})
        if exc.status_code == 405:  # the framework names the methods of one of the path's routes only
            headers["Allow"] = ", ".join(sorted(_methods(app, request.url.path)))
        return problems.from_http(exc.status_code, str(exc.detail), headers)


def _methods(app: FastAPI, path: str) -> set[str]:
    """The methods of all routes of a path."""
    return {method for route in app.routes if isinstance(route, Route) and route.path_regex.match(path) for method in route.methods or ()}


def _documented(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """OpenAPI with the bodies that the routes read themselves (FastAPI does not see them)."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=TITLE, version=VERSION, routes=app.routes)
            _, definitions = models_json_schema(_DOCUMENTED, ref_template="#/components/schemas/{model}")
            components = schema.setdefault("components", {})
            components["schemas"] = definitions["$defs"]
            # Checked one by one, so the batch itself may hold anything; more than 1000 is answered 413 rather than 422.
            batch = components["schemas"]["EventBatch"]["properties"]["events"]
            batch["items"] = {"description": "An `EventIn`. One that is not is listed in `rejected`; the others are taken."}
            batch.pop("maxItems", None)
            components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
            for path in schema["paths"].values():
                for operation in path.values():
                    # FastAPI documents its own 422 for every parameter; ours is problem+json.
                    if JSON in operation["responses"].get("422", {}).get("content", {}):
                        operation["responses"]["422"] = problem_responses(422)[422]
            app.openapi_schema = schema
        return app.openapi_schema

    return openapi
