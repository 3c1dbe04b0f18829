"""A circuit breaker: while an upstream is down, requests are told at once instead of waiting for its deadline."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from contracts.errors import ArtifactError, UpstreamError, UpstreamTimeout

logger = logging.getLogger("regulars.breaker")
T = TypeVar("T")


class Breaker:
    """Opens after some failures in a row; a background probe closes it again.

    Args:
        name: of the upstream, for messages.
        failures: UpstreamErrors or ArtifactErrors in a row that open it.
        probe_s: pause between two probes while it is open.
        probe: raises a StackError while the upstream is not right.
        on_change: told True when it opens, False when it closes.
    """

    def __init__(
        self,
        name: str,
        failures: int,
        probe_s: float,
        probe: Callable[[], Awaitable[object]],
        on_change: Callable[[bool], object] = lambda is_open: None,
    ) -> None:
        self.name = name
        self._failures, self._probe_s, self._probe, self._on_change = failures, probe_s, probe, on_change
        self._seen = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def open(self) -> bool:
        return self._task is not None

    async def call(self, work: Callable[[], Awaitable[T]], deadline_s: float) -> T:
        """The work's result.

        Raises:
            UpstreamError: the breaker is open (nothing was tried), or the work failed.
            UpstreamTimeout: the work took longer than the deadline.
        """
        if self.open:
            raise UpstreamError(f"{self.name} is down; it is looked at every {self._probe_s * 1000:.0f} ms. Try again soon.")
        try:
            async with asyncio.timeout(deadline_s):
                result = await work()
        except TimeoutError as exc:
            self._failed()
            raise UpstreamTimeout(f"{self.name} gave no answer within {deadline_s * 1000:.0f} ms. Try again soon.") from exc
        except (UpstreamError, ArtifactError):
            self._failed()
            raise
        self._seen = 0
        return result

    def _failed(self) -> None:
        self._seen += 1
        if self._seen >= self._failures and not self.open:
            logger.warning("%s failed %d times in a row: breaker open", self.name, self._seen)
            self._on_change(True)
            self._task = asyncio.create_task(self._watch(), name=f"breaker-{self.name}")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._probe_s)
            try:
                async with asyncio.timeout(max(1.0, self._probe_s)):
                    await self._probe()
            except Exception as exc:  # whatever it is, the upstream is not right yet
                logger.debug("%s is still down: %s", self.name, exc)
                continue
            logger.warning("%s is back: breaker closed", self.name)
            self._seen, self._task = 0, None
            self._on_change(False)
            return

    async def stop(self) -> None:
        """End the background probe."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
