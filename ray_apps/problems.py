"""The one place where errors become HTTP: `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from contracts.errors import Overloaded, StackError, UpstreamError

logger = logging.getLogger("regulars.ingress")

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "https://regulars.invalid/problems/"
RETRY_AFTER_S = 1


class ProblemResponse(Response):
    """One `contracts.api.Problem`; `instance` and `requestId` are filled in when it is sent, from the request it answers."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        status: int,
        title: str,
        slug: str,
        detail: str,
        errors: Sequence[Mapping[str, str]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status_code=status, headers=dict(headers or {}))
        self.document: dict[str, Any] = {"type": TYPE_PREFIX + slug, "title": title, "status": status, "detail": detail}
        self.errors = list(errors or ())
        self.request_id = secrets.token_hex(8)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        document = self.document | {"instance": scope["path"], "requestId": self.request_id}
        self.body = orjson.dumps(document | ({"errors": self.errors} if self.errors else {}))
        self.headers["content-length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


def from_error(exc: StackError) -> ProblemResponse:
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
    return ProblemResponse(exc.status, exc.title, exc.slug, str(exc), headers=headers)


def internal_error() -> ProblemResponse:
    """Answer an error that nobody expected: no detail of ours leaves the process."""
    return ProblemResponse(500, "Internal error", "internal", "This is our mistake; it was logged. Try again, and report it if it stays.")


_HTTP = {
    404: ("Not found", "not-found", "There is nothing at this address. See /docs for what there is."),
    405: (
        "Method not allowed",
        "method-not-allowed",
        "This address does not take that method. Use one of the methods in the Allow header.",
    ),
}


def from_http(status: int, detail: str, headers: Mapping[str, str] | None = None) -> ProblemResponse:
    """Answer an error of the framework, such as an unknown path."""
    title, slug, text = _HTTP.get(status, (HTTPStatus(status).phrase, HTTPStatus(status).phrase.lower().replace(" ", "-"), detail))
    return ProblemResponse(status, title, slug, text, headers=headers)


def field_errors(errors: Sequence[Mapping[str, Any]], skip: int = 0) -> list[dict[str, str]]:
    """Pydantic's errors as fields and sentences; the values sent are not repeated, they may be private.

    Args:
        errors: of pydantic.
        skip: leading parts of each location to leave out (FastAPI's begin with `query` or `path`).
    """
    found = []
    for error in errors:
        path = ".".join(str(p)[:64] for p in error["loc"][skip:])
        found.append({"field": path or "body", "detail": str(error["msg"])})
    return found


def from_validation(errors: Sequence[Mapping[str, Any]], skip: int = 0) -> ProblemResponse:
    """Answer a request whose fields do not meet the contract."""
    listed = field_errors(errors[:20], skip)
    names = ", ".join(e["field"] for e in listed[:3])
    detail = f"{len(errors)} field(s) do not meet the contract: {names}. Correct what `errors` lists and send it again."
    return ProblemResponse(422, "Request does not meet the contract", "contract", detail, errors=listed)
