"""What every request passes before its route: body limit, bounded concurrency, one counter, no stack trace to the outside.

Plain ASGI, because a Starlette `BaseHTTPMiddleware` costs a task and two queues per request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.errors import Overloaded, TooLarge
from ray_apps import problems
from ray_apps.metrics import Metrics

logger = logging.getLogger("regulars.ingress")


class Boundary:
    """Outermost ASGI layer.

    Args:
        app: what answers.
        metrics: where requests are counted.
        max_body_bytes: longest request body; more is answered 413, before it is read where Content-Length tells.
        uploads: by path, the longest body of routes that take files.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, max_body_bytes: int, uploads: Mapping[str, int] | None = None) -> None:
        self.app, self.metrics, self.max_body_bytes, self._uploads = app, metrics, max_body_bytes, dict(uploads or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 0

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        most = self._uploads.get(scope["path"], self.max_body_bytes) if scope["method"] == "POST" else self.max_body_bytes
        try:
            declared = _content_length(scope)
            if declared is not None and declared > most:
                raise TooLarge(self._too_large(str(declared), most))
            await self.app(scope, self._limited(receive, most), counted_send)
        except TooLarge as exc:
            await self._answer(problems.from_error(exc), status, scope, receive, counted_send)
        except Exception:
            logger.exception("unexpected error in %s", _route(scope))
            await self._answer(problems.internal_error(), status, scope, receive, counted_send)
        self.metrics.requests.labels(_route(scope), str(status)).inc()

    async def _answer(self, response: ASGIApp, status: int, scope: Scope, receive: Receive, send: Send) -> None:
        if not status:
            await response(scope, receive, send)

    def _too_large(self, seen: str, most: int) -> str:
        what = "smaller or fewer pictures" if most != self.max_body_bytes else "fewer or smaller records per request"
        return f"The body has {seen} bytes, the limit is {most}. Send {what}."

    def _limited(self, receive: Receive, most: int) -> Receive:
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > most:
                    raise TooLarge(self._too_large(f"more than {most}", most))
            return message

        return limited


def _content_length(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else None
    return None


def _route(scope: Scope) -> str:
    """The route's template, never the path itself: that holds ids."""
    return getattr(scope.get("route"), "path", None) or "unmatched"


class Gate:
    """Bounded concurrency: `slots` requests run, `waiting` more wait, the next is refused at once."""

    def __init__(self, slots: int, waiting: int) -> None:
        self._semaphore = asyncio.Semaphore(slots)
        self._slots, self._bound, self._inside = slots, slots + waiting, 0

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Hold a slot.

        Raises:
            Overloaded: all slots and all waiting places are taken.
        """
        if self._inside >= self._bound:
            raise Overloaded(f"{self._inside} requests are being worked on, the bound is {self._bound}. Try again after Retry-After.", 1)
        self._inside += 1
        try:
            async with self._semaphore:
                yield
        finally:
            self._inside -= 1
