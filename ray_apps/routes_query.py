"""The routes about plain-English questions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from fastapi import FastAPI, Path, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from contracts import api_query as api
from contracts.api import Id, Text
from ray_apps.metrics import Stopwatch
from ray_apps.routing import BODY_PROBLEMS, SECURED, answer, own_business, problem_responses, read, returns, takes
from ray_apps.service import Service

DOCUMENTED: tuple[tuple[type[BaseModel], Any], ...] = (
    (api.QueryRequest, "validation"),
    (api.SaveRequest, "validation"),
    (api.QueryFeedbackRequest, "validation"),
    (api.QueryResponse, "serialization"),
    (api.QueryHistory, "serialization"),
    (api.QueryTemplates, "serialization"),
    (api.SavedResponse, "serialization"),
    (api.SavedQueries, "serialization"),
    (api.QueryFeedbackResponse, "serialization"),
    (api.QueryCorrections, "serialization"),
)
ASKERS = ("analyst", "private_reader", "admin")
"""Any question is a report over all customers: the key of an app is not enough."""
PNG, CSV, PDF, JSONL = "image/png", "text/csv; charset=utf-8", "application/pdf", "application/x-ndjson"
MOST_CORRECTIONS = 10_000
QueryPath = Annotated[Id, Path(description="The queryId of an answer.")]
YesNo = Literal["true", "false"]
Limit = Annotated[int, Query(ge=1, le=100, description="Items per page.")]
Offset = Annotated[int, Query(ge=0, le=1_000_000, description="Items to skip.")]


def add_query(app: FastAPI, service: Service) -> None:
    """Mount the routes."""
    _add_ask(app, service)
    _add_lists(app, service)
    _add_saved(app, service)
    _add_corrections(app, service)
    _add_files(app, service)


def wants_picture(accept: str | None) -> bool:
    """Whether `Accept` prefers image/png to JSON; equal weights mean JSON."""
    weights = {"png": 0.0, "json": 0.0}
    for part in (accept or "").split(","):
        kind, *parameters = (p.strip().lower() for p in part.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        weight = float(quality) if quality.replace(".", "", 1).isdigit() else 0.0
        if kind in (PNG, "image/*"):
            weights["png"] = max(weights["png"], weight)
        elif kind in ("application/json", "application/*", "*/*"):
            weights["json"] = max(weights["json"], weight)
    return weights["png"] > weights["json"]


def _file(content: bytes, media_type: str, name: str | None = None, stopwatch: Stopwatch | None = None) -> Response:
    headers = {"Cache-Control": "no-store"}
    if name is not None:
        headers["Content-Disposition"] = f'attachment; filename="{name}"'
    if stopwatch is not None:
        headers["Server-Timing"] = stopwatch.header()
    return Response(content, media_type=media_type, headers=headers)


def _returns_file(*media_types: str, problems: tuple[int, ...]) -> dict[str, Any]:
    content = {m.partition(";")[0]: {"schema": {"type": "string", "format": "binary"}} for m in media_types}
    return {"responses": {200: {"description": "OK", "content": content}, **problem_responses(*problems)}, "response_class": Response}


def _add_ask(app: FastAPI, service: Service) -> None:
    documented = returns(api.QueryResponse, 406, *BODY_PROBLEMS)
    documented["responses"][200]["content"][PNG] = {"schema": {"type": "string", "format": "binary"}}
    documented["responses"][200]["description"] = "The answer; or, with `refused: true`, why there is none and what can be asked."

    @app.post(api.QUERIES, **documented, openapi_extra=takes(api.QueryRequest))
    async def ask(request: Request) -> Response:
        """Answer a question in plain English from the warehouse: how it was understood, the SQL, a sentence, the rows, a chart.

        A question that was read and cannot or must not be answered is **200** with `refused: true`, a `reason`, a `message` and
        `suggestions`; there is then no SQL and there are no rows. 422 is for requests that are not of this form. The SQL reads the data of
        the key's business only, one SELECT, within limits of rows, memory and time; too slow a question is 503. Every question is audited.
        With `Accept: image/png` the chart alone is answered, with the header `X-Query-Id`; 406 where there is none.

        503 until a text-to-SQL model has been deployed.
        """
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), ASKERS)
        stopwatch.lap("auth")
        wanted = await read(request, api.QueryRequest)
        own_business(caller, wanted.business_id)
        answered = await service.queries.ask(caller, wanted, stopwatch)
        if not wants_picture(request.headers.get("accept")):
            return answer(answered.body, stopwatch)
        response = _file(await service.queries.chart(answered), PNG, stopwatch=stopwatch)
        response.headers["X-Query-Id"] = answered.body.query_id
        return response


def _add_lists(app: FastAPI, service: Service) -> None:
    @app.get(api.QUERIES + "/templates", **returns(api.QueryTemplates, 401, 403, 422, 503), openapi_extra=SECURED)
    async def templates(
        request: Request,
        category: Annotated[Text | None, Query(description="Only questions about this, for example churn.")] = None,
        limit: Limit = 100,
        offset: Offset = 0,
    ) -> Response:
        """Questions that are known to be answered, by what they are about; others are, too."""
        stopwatch = Stopwatch()
        await service.authenticate(request.headers.get("authorization"), ASKERS)
        return answer(await service.queries.templates(category, limit, offset, stopwatch), stopwatch)

    @app.get(api.QUERIES + "/history", **returns(api.QueryHistory, 401, 403, 422, 503), openapi_extra=SECURED)
    async def history(
        request: Request,
        limit: Limit = 20,
        offset: Offset = 0,
        mine: Annotated[YesNo, Query(description="Only questions of this key.")] = "false",
    ) -> Response:
        """What was asked in this business, by whom, and what became of it, newest first. Rows are never kept."""
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), ASKERS)
        return answer(await service.queries.history(caller, limit, offset, mine == "true", stopwatch), stopwatch)


def _add_saved(app: FastAPI, service: Service) -> None:
    path = api.QUERIES + "/saved"

    @app.post(path, **returns(api.SavedResponse, 404, 409, *BODY_PROBLEMS), openapi_extra=takes(api.SaveRequest))
    async def save(request: Request) -> Response:
        """Keep a question under a name; the same again changes nothing, another under that name is a conflict (409)."""
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), ASKERS)
        return answer(await service.queries.save(caller, await read(request, api.SaveRequest), stopwatch), stopwatch)

    @app.get(path, **returns(api.SavedQueries, 401, 403, 422, 503), openapi_extra=SECURED)
    async def saved(request: Request, limit: Limit = 20, offset: Offset = 0) -> Response:
        """Kept questions of this business, by name."""
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), ASKERS)
        return answer(await service.queries.saved(caller, limit, offset, stopwatch), stopwatch)

    @app.delete(path + "/{saved_id}", **_nothing(), openapi_extra=SECURED)
    async def forget(request: Request, saved_id: Annotated[Id, Path(description="The savedId.")]) -> Response:
        """Delete a kept question."""
        caller = await service.authenticate(request.headers.get("authorization"), ASKERS)
        await service.queries.forget(caller, saved_id)
        return Response(status_code=204)


def _nothing() -> dict[str, Any]:
    responses = {204: {"description": "Deleted."}, **problem_responses(401, 403, 404, 422, 503)}
    return {"responses": responses, "response_class": Response, "status_code": 204}


def _add_corrections(app: FastAPI, service: Service) -> None:
    path = api.QUERIES + "/corrections"
    documented = returns(api.QueryCorrections, 401, 403, 422, 503)
    documented["responses"][200]["content"][JSONL] = {"schema": {"type": "string"}}

    @app.get(path, **documented, openapi_extra=SECURED)
    async def corrections(
        request: Request,
        limit: Limit = 20,
        offset: Offset = 0,
        form: Annotated[Literal["json", "jsonl"], Query(alias="format", description="jsonl: all of them as training pairs.")] = "json",
    ) -> Response:
        """Questions that analysts have said the meaning of, newest first."""
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), ASKERS)
        if form == "json":
            return answer(await service.queries.corrections(caller, limit, offset, stopwatch), stopwatch)
        found = await service.queries.corrections(caller, MOST_CORRECTIONS, 0, stopwatch)
        lines = b"".join(orjson.dumps({"q": c.query, "sql": c.sql}) + b"\n" for c in found.items)
        return _file(lines, JSONL, "corrections.jsonl", stopwatch)

    @app.delete(path + "/{correction_id}", **_nothing(), openapi_extra=SECURED)
    async def take_back(request: Request, correction_id: Annotated[Id, Path(description="The correctionId.")]) -> Response:
        """Take a correction back: the model answers its question again."""
        caller = await service.authenticate(request.headers.get("authorization"), ASKERS)
        await service.queries.take_back(caller, correction_id)
        return Response(status_code=204)

    documented = returns(api.QueryFeedbackResponse, 404, *BODY_PROBLEMS)

    @app.post(api.QUERIES + "/{query_id}/feedback", **documented, openapi_extra=takes(api.QueryFeedbackRequest))
    async def feedback(request: Request, query_id: QueryPath) -> Response:
        """Say whether an answer was right. `correctedSql` or `correctedQuery` says what would have been: from the next question on, this
        question of this business is answered so. The SQL passes the same guard as every other; 422 says which rule it breaks."""
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), ASKERS)
        given = await read(request, api.QueryFeedbackRequest)
        return answer(await service.queries.feedback(caller, query_id, given, stopwatch), stopwatch)


def _add_files(app: FastAPI, service: Service) -> None:
    problems = (401, 403, 404, 422, 503)

    @app.get(api.QUERIES + "/{query_id}/export", **_returns_file(CSV, PDF, problems=problems), openapi_extra=SECURED)
    async def export(
        request: Request,
        query_id: QueryPath,
        form: Annotated[api.ExportFormat, Query(alias="format", description="csv for spreadsheets, pdf to hand on.")] = "csv",
    ) -> Response:
        """An answer as a file. Its SQL is run again, over the data of now and with the rights of this key."""
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), ASKERS)
        content = await service.queries.file(caller, query_id, form, stopwatch)
        return _file(content, CSV if form == "csv" else PDF, f"{query_id}.{form}", stopwatch)

    @app.get(api.QUERIES + "/{query_id}/chart.png", **_returns_file(PNG, problems=(*problems, 406)), openapi_extra=SECURED)
    async def chart(request: Request, query_id: QueryPath) -> Response:
        """The chart of an answer, over the data of now; 406 where none suits its rows."""
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), ASKERS)
        return _file(await service.queries.file(caller, query_id, "chart", stopwatch), PNG, stopwatch=stopwatch)
