"""What the route modules share: reading bodies, answering, and what the OpenAPI document says of it."""

from __future__ import annotations

from typing import Any, TypeVar

import orjson
from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from contracts import api
from contracts.errors import ContractError, Forbidden
from ray_apps import problems
from ray_apps.keys import Caller
from ray_apps.metrics import Stopwatch

JSON = "application/json"
WRITERS, READERS = ("app", "admin"), ("app", "analyst", "private_reader", "admin")


class UnsupportedMediaError(ContractError):
    """The body is not JSON."""

    status = 415
    title = "Unsupported media type"
    slug = "unsupported-media-type"


class MalformedJsonError(ContractError):
    """The body is not valid JSON."""

    status = 400
    title = "Malformed JSON"
    slug = "malformed-json"


async def read_json(request: Request) -> Any:
    """The parsed body; orjson refuses NaN, Infinity, lone surrogates and nesting beyond 1024 levels.

    Raises:
        UnsupportedMediaError, MalformedJsonError.
    """
    sent = request.headers.get("content-type", "")
    if sent.partition(";")[0].strip().lower() != JSON:
        raise UnsupportedMediaError(f"Content-Type is {sent[:100] or 'absent'!r}, must be {JSON}. Send JSON and say so.")
    try:
        return orjson.loads(await request.body())
    except orjson.JSONDecodeError as exc:
        raise MalformedJsonError(f"The body is not valid JSON ({exc.msg}, position {exc.pos}). Send one JSON object in UTF-8.") from exc


Model = TypeVar("Model", bound=BaseModel)


async def read(request: Request, model: type[Model]) -> Model:
    """The body as `model`.

    Raises:
        UnsupportedMediaError, MalformedJsonError, pydantic.ValidationError.
    """
    return model.model_validate(await read_json(request))


def own_business(caller: Caller, business_id: str | None) -> None:
    """Raise Forbidden for another business than the caller's."""
    if business_id is not None and business_id != caller.business_id:
        raise Forbidden(f"businessId {business_id} is not the one of this key. Leave it out, or use a key of that business.")


def answer(body: Any, stopwatch: Stopwatch | None = None, status: int = 200) -> Response:
    """A JSON response; the stages' times go into `Server-Timing`."""
    headers = {"Server-Timing": stopwatch.header()} if stopwatch else None
    content = body.wire() if isinstance(body, api.Response) else orjson.dumps(body)
    return Response(content, status_code=status, media_type=JSON, headers=headers)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The responses of these statuses, for the OpenAPI document."""
    content = {"content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    return {status: {"description": _PROBLEMS[status], **content} for status in statuses}


_PROBLEMS = {
    400: "The body is not valid JSON, or the request is not valid HTTP.",
    401: "No key, or not a valid one.",
    403: "The key does not allow this.",
    404: "There is no such thing for this business.",
    406: "There is no such form of the answer.",
    408: "The body did not come in time.",
    409: "The same id was used before with other content.",
    413: "The body is too large.",
    415: "The body, or a file in it, is of another kind.",
    422: "The request does not meet the contract; `errors` names the fields.",
    503: "Overloaded, or a part is unavailable; see Retry-After.",
}
BODY_PROBLEMS = (400, 401, 403, 413, 415, 422, 503)


def returns(model: type[BaseModel], *problem_statuses: int) -> dict[str, Any]:
    """Arguments of a route that answers `model` or one of these problems."""
    ok = {"description": "OK", "content": {JSON: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}}
    return {"responses": {200: ok, **problem_responses(*problem_statuses)}, "response_class": Response}


def takes(*models: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a secured route that reads one of these bodies itself."""
    references: list[dict[str, Any]] = [{"$ref": f"#/components/schemas/{m.__name__}"} for m in models]
    schema = references[0] if len(references) == 1 else {"anyOf": references}
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}, "security": [{"bearer": []}]}


SECURED: dict[str, Any] = {"security": [{"bearer": []}]}
