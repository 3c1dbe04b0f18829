"""Calls of the desks and errors on their way through Ray; the real way is in tests/e2e/test_query.py and test_pictures.py."""

from __future__ import annotations

import asyncio
import pickle
import warnings
from typing import Any

import pytest

from contracts.errors import ArtifactError, Overloaded, PictureRefused, QueryRefused, UpstreamError, UpstreamTimeout
from ray_apps.picture_desk import PictureStatus, Recognised, Shown, TaughtRow
from ray_apps.question_desk import Again, Asked, DeskStatus, Made

with warnings.catch_warnings():  # Ray Serve warns about its own pydantic models when it is imported
    warnings.simplefilter("ignore")
    from ray.exceptions import ActorDiedError, RayTaskError
    from ray.serve.exceptions import BackPressureError

    from ray_apps.deployments.handle import HandleDesk, HandlePictures


class Given:
    """An error that a call answers with, rather than raising it."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class Handle:
    """Stands for Serve's: answers a call with a value or an error, as Ray raises it."""

    def __init__(self, outcome: Any) -> None:
        self.outcome, self.calls, self.cancelled = outcome, [], 0
        self.call = self

    def remote(self, *arguments: Any) -> Any:
        self.calls.append(arguments)
        handle = self

        class Response:
            def __await__(self) -> Any:
                return handle._answer().__await__()

            def cancel(self) -> None:
                handle.cancelled += 1

        return Response()

    async def _answer(self) -> Any:
        if self.outcome == "never":
            await asyncio.sleep(60)
        if isinstance(self.outcome, Given):
            return pickle.loads(pickle.dumps(self.outcome.error))  # noqa: S301 - as Ray hands it over
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def task_error(cause: Exception) -> Exception:
    error: Exception = RayTaskError("call", "a traceback with secrets", cause).as_instanceof_cause()
    return error


async def test_calls_go_through_with_their_arguments() -> None:
    asked, status, made = Asked("q", False), DeskStatus("text-to-sql/1"), Made(b"x", 1)
    again = Again("q", "SELECT 1", None, (), 0.5)
    roles = frozenset({"private_reader"})
    handle = Handle(asked)
    desk = HandleDesk(handle)
    assert await desk.ask("q", "biz-1", roles, 5) is asked
    handle.outcome = made
    assert await desk.make("csv", again, "biz-1", roles) is made
    handle.outcome = b"png"
    assert await desk.draw({"mark": "bar"}) == b"png"
    handle.outcome = ("a",)
    assert await desk.trial("SELECT 1 AS a", "biz-1", roles) == ("a",)
    handle.outcome = status
    assert await desk.status() is status
    await desk.close()
    assert handle.calls == [("ask", "q", "biz-1", roles, 5), ("make", "csv", again, "biz-1", roles), ("draw", {"mark": "bar"}),
                            ("trial", "SELECT 1 AS a", "biz-1", roles), ("status",)]  # fmt: skip


@pytest.mark.parametrize("cause", [ArtifactError("no model"), QueryRefused("not a SELECT", "not_select"), UpstreamTimeout("slow")])
async def test_our_own_errors_arrive_as_they_were(cause: Exception) -> None:
    with pytest.raises(type(cause)) as seen:
        await HandleDesk(Handle(task_error(cause))).ask("q", "b", frozenset(), 1)
    assert seen.value is cause


@pytest.mark.parametrize(
    ("outcome", "kind", "said"),
    [
        (task_error(ZeroDivisionError("secret")), UpstreamError, "failed; it was logged"),
        (ActorDiedError(), UpstreamError, "not reachable"),
        (BackPressureError(num_queued_requests=16, max_queued_requests=16), Overloaded, "questions wait already"),
    ],
)
async def test_other_errors_show_nothing_of_the_inside(outcome: Exception, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said) as seen:
        await HandleDesk(Handle(outcome)).ask("q", "b", frozenset(), 1)
    assert "secret" not in str(seen.value)


async def test_a_deadline_ends_the_wait() -> None:
    handle = Handle("never")
    desk = HandleDesk(handle)
    desk._tuning = desk._tuning.model_copy(update={"deadline_s": 0.01})
    with pytest.raises(UpstreamTimeout, match=r"no answer within 0.01 s"):
        await desk.ask("q", "b", frozenset(), 1)
    assert handle.cancelled == 1


async def test_pictures_go_through_with_their_arguments() -> None:
    shown, found, row, status = Shown("biz-1", b"x"), Recognised({}, "nothing"), TaughtRow("p", "n", "", 1, 1, "t"), PictureStatus("v")
    handle = Handle(found)
    desk = HandlePictures(handle)
    assert await desk.recognise(shown) is found
    handle.outcome = (row, "v")
    assert await desk.teach("biz-1", "p", "n", "", [b"x"]) == (row, "v")
    handle.outcome = [row]
    assert await desk.taught("biz-1") == [row]
    handle.outcome = None
    await desk.forget("biz-1", "p")
    handle.outcome = status
    assert await desk.status() is status
    await desk.close()
    assert handle.calls == [("recognise", shown), ("teach", "biz-1", "p", "n", "", [b"x"]), ("taught", "biz-1"), ("forget", "biz-1", "p"),
                            ("status",)]  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "kind", "said"),
    [
        (task_error(PictureRefused("damaged", "damaged")), PictureRefused, "damaged"),
        (Given(PictureRefused("scans", "work")), PictureRefused, "scans"),
        (task_error(ZeroDivisionError("secret")), UpstreamError, "looks at pictures failed; it was logged"),
        (ActorDiedError(), UpstreamError, "what looks at pictures is not reachable"),
        (BackPressureError(num_queued_requests=6, max_queued_requests=6), Overloaded, "6 pictures wait already"),
    ],
)
async def test_errors_about_pictures_say_so(outcome: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said) as seen:
        await HandlePictures(Handle(outcome)).recognise(Shown("biz-1", b"x"))
    assert "secret" not in str(seen.value)
