"""The desks that answer questions and look at pictures, called in deployments of their own."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException

from contracts.errors import Overloaded, StackError, UpstreamError, UpstreamTimeout
from ray_apps.picture_desk import PictureStatus, Recognised, Shown, TaughtRow
from ray_apps.question_desk import Again, Asked, DeskStatus, Made
from ray_apps.tuning import PictureServeSettings, QuestionSettings


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
        return await _called(self._handle, self._tuning.deadline_s, _QUESTIONS, self._tuning.waiting, method, *arguments)


class HandlePictures:
    """A `PictureDesk` behind a handle of Ray Serve; errors as in `HandleDesk`.

    Args:
        handle: of a deployment with a method `call(method, *arguments)`.
    """

    def __init__(self, handle: Any) -> None:
        self._handle, self._tuning = handle, PictureServeSettings.load()

    async def recognise(self, shown: Shown) -> Recognised:
        found: Recognised = await self._call("recognise", shown)
        return found

    async def teach(self, business_id: str, product_id: str, name: str, brand: str, images: list[bytes]) -> tuple[TaughtRow, str]:
        found: tuple[TaughtRow, str] = await self._call("teach", business_id, product_id, name, brand, images)
        return found

    async def taught(self, business_id: str) -> list[TaughtRow]:
        found: list[TaughtRow] = await self._call("taught", business_id)
        return found

    async def forget(self, business_id: str, product_id: str) -> None:
        await self._call("forget", business_id, product_id)

    async def status(self) -> PictureStatus:
        found: PictureStatus = await self._call("status")
        return found

    async def close(self) -> None:
        """Nothing is held here: the deployment ends with the application."""

    async def _call(self, method: str, *arguments: Any) -> Any:
        found = await _called(self._handle, self._tuning.deadline_s, _PICTURES, self._tuning.waiting, method, *arguments)
        if isinstance(found, StackError):
            raise found
        return found


class _Words(NamedTuple):
    """What an error says: `less`, to do after a deadline; `many`, that wait; `does`, what the part is for."""

    less: str
    many: str
    does: str


_QUESTIONS = _Words("Ask for less at once, or try again later.", "questions", "answers questions")
_PICTURES = _Words("Send a smaller picture, or try again later.", "pictures", "looks at pictures")


async def _called(handle: Any, deadline_s: float, words: _Words, waiting: int, method: str, *arguments: Any) -> Any:
    response = handle.call.remote(method, *arguments)
    try:
        return await asyncio.wait_for(response, deadline_s)
    except TimeoutError as exc:
        response.cancel()
        raise UpstreamTimeout(f"no answer within {deadline_s:g} s. {words.less}") from exc
    except BackPressureError as exc:
        raise Overloaded(f"{waiting} {words.many} wait already, no more may. Try again after Retry-After.", 1) from exc
    except RayTaskError as exc:
        # Its text is a traceback; ours is inside.
        if isinstance(exc.cause, StackError):
            raise exc.cause from exc
        raise UpstreamError(f"a part that {words.does} failed; it was logged. Try again, and report it if it stays.") from exc
    except (RayError, RayServeException) as exc:
        raise UpstreamError(f"what {words.does} is not reachable at the moment. Try again after Retry-After.") from exc
