"""The one place where errors become HTTP: `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from contracts.errors import Overloaded, StackError, UpstreamError

logger = logging.getLogger("regulars.ingress")

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "https://regulars.dev/problems/"
RETRY_AFTER_S = 1


class FieldError(BaseModel):
    """What is wrong with one field of the request."""

    model_config = ConfigDict(extra="forbid")
    pointer: str = Field(description="Where in the request, for example `body.context.timeOfDay`.")
    detail: str


class Problem(BaseModel):
    """RFC 9457 problem details."""

    model_config = ConfigDict(extra="allow")
    type: str = Field(description="Identifies the kind of problem.")
    title: str
    status: int
    detail: str = Field(description="What was seen, the rule, and what to do.")
    errors: list[FieldError] | None = None


def problem(
    status: int, title: str, slug: str, detail: str, errors: Sequence[Mapping[str, str]] | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """One problem document as a response; `type` is `about:blank`-free: a name under our own prefix."""
    body: dict[str, Any] = {"type": TYPE_PREFIX + slug, "title": title, "status": status, "detail": detail}
    if errors:
        body["errors"] = list(errors)
    return Response(orjson.dumps(body), status_code=status, media_type=MEDIA_TYPE, headers=dict(headers or {}))


def from_error(exc: StackError) -> Response:
    """Answer one of our own errors; 401 names the scheme, 503 says when to try again."""
    headers: dict[str, str] = {}
    if exc.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="regulars"'
    if exc.status == HTTPStatus.SERVICE_UNAVAILABLE or isinstance(exc, UpstreamError):
        headers["Retry-After"] = str(exc.retry_after_s if isinstance(exc, Overloaded) else RETRY_AFTER_S)
    if exc.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(exc, Overloaded):
        logger.warning("answered %d %s: %s", exc.status, exc.slug, exc)
    if exc.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return internal_error()
    return problem(exc.status, exc.title, exc.slug, str(exc), headers=headers)


def internal_error() -> Response:
    """Answer an error that nobody expected: no detail of ours leaves the process."""
    return problem(500, "Internal error", "internal", "This is our mistake; it was logged. Try again, and report it if it stays.")


_HTTP = {
    404: ("Not found", "not-found", "There is nothing at this address. See /docs for what there is."),
    405: ("Method not allowed", "method-not-allowed", "This address does not take that method. Use one of the methods in the Allow header."),
}


def from_http(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Answer an error of the framework, such as an unknown path."""
    title, slug, text = _HTTP.get(status, (HTTPStatus(status).phrase, HTTPStatus(status).phrase.lower().replace(" ", "-"), detail))
    return problem(status, title, slug, text, headers=headers)


def field_errors(errors: Sequence[Mapping[str, Any]], where: str | None = None) -> list[dict[str, str]]:
    """Turn pydantic's errors into pointers and sentences; the values sent are not repeated, they may be private."""
    found = []
    for error in errors:
        path = [str(p) for p in error["loc"]]
        found.append({"pointer": ".".join([where, *path] if where else path), "detail": str(error["msg"])})
    return found


def from_validation(errors: Sequence[Mapping[str, Any]], where: str | None = None) -> Response:
    """Answer a request whose fields do not meet the contract (422), or whose body is no JSON at all (400)."""
    if any(e["type"] == "json_invalid" for e in errors):
        return malformed(str(errors[0].get("ctx", {}).get("error", "syntax error")))
    listed = field_errors(errors, where)
    names = ", ".join(e["pointer"] for e in listed[:3])
    detail = f"{len(listed)} field(s) do not meet the contract: {names}. Correct what `errors` lists and send it again."
    return problem(422, "Request does not meet the contract", "contract", detail, errors=listed)


def malformed(reason: str) -> Response:
    """Answer a body that is no JSON."""
    return problem(400, "Malformed JSON", "malformed-json", f"The body is not valid JSON: {reason}. Send one JSON object in UTF-8.")


def finite(value: Any) -> bool:
    """True when no number anywhere inside is NaN or infinite."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(finite(v) for v in value.values())
    return all(finite(v) for v in value) if isinstance(value, list) else True
