"""The desk that answers questions, called in its own deployment."""

from __future__ import annotations

import asyncio
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException

from contracts.errors import Overloaded, StackError, UpstreamError, UpstreamTimeout
from ray_apps.question_desk import Again, Asked, DeskStatus, Made
from ray_apps.tuning import QuestionSettings


class HandleDesk:
    """A `Desk` behind a handle of Ray Serve. Our own errors arrive as they were raised; whatever else goes wrong is an UpstreamError.

    Args:
        handle: of a deployment with a method `call(method, *arguments)`.
    """

    def __init__(self, handle: Any) -> None:
        self._handle, self._tuning = handle, QuestionSettings.load()

    async def ask(self, question: str, business_id: str, roles: frozenset[str], limit: int) -> Asked:
        found: Asked = await self._call("ask", question, business_id, roles, limit)
        return found

    async def make(self, form: str, again: Again, business_id: str, roles: frozenset[str]) -> Made:
        found: Made = await self._call("make", form, again, business_id, roles)
        return found

    async def draw(self, chart: dict[str, Any]) -> bytes:
        found: bytes = await self._call("draw", chart)
        return found

    async def trial(self, sql: str, business_id: str, roles: frozenset[str]) -> tuple[str, ...]:
        found: tuple[str, ...] = await self._call("trial", sql, business_id, roles)
        return found

    async def status(self) -> DeskStatus:
        found: DeskStatus = await self._call("status")
        return found

    async def close(self) -> None:
        """Nothing is held here: the deployment ends with the application."""

    async def _call(self, method: str, *arguments: Any) -> Any:
        response = self._handle.call.remote(method, *arguments)
        try:
            return await asyncio.wait_for(response, self._tuning.deadline_s)
        except TimeoutError as exc:
            response.cancel()
            raise UpstreamTimeout(f"no answer within {self._tuning.deadline_s:g} s. Ask for less at once, or try again later.") from exc
        except BackPressureError as exc:
            raise Overloaded(f"{self._tuning.waiting} questions wait already, no more may. Try again after Retry-After.", 1) from exc
        except RayTaskError as exc:
            # Its text is a traceback; ours is inside.
            if isinstance(exc.cause, StackError):
                raise exc.cause from exc
            raise UpstreamError("a part that answers questions failed; it was logged. Try again, and report it if it stays.") from exc
        except (RayError, RayServeException) as exc:
            raise UpstreamError("what answers questions is not reachable at the moment. Try again after Retry-After.") from exc
