"""The circuit breaker and the gate."""

from __future__ import annotations

import asyncio

import pytest

from contracts.errors import ArtifactError, Overloaded, ShapeError, UpstreamError, UpstreamTimeout
from ray_apps.deployments.breaker import Breaker
from ray_apps.middleware import Gate


class Upstream:
    def __init__(self) -> None:
        self.error: Exception | None = None
        self.calls = self.probes = 0

    async def work(self) -> int:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return self.calls

    async def probe(self) -> None:
        self.probes += 1
        if self.error is not None:
            raise self.error


async def test_opens_after_failures_in_a_row_and_a_probe_closes_it() -> None:
    upstream, seen = Upstream(), []
    breaker = Breaker("it", 3, 0.01, upstream.probe, seen.append)
    assert await breaker.call(upstream.work, 1.0) == 1
    upstream.error = UpstreamError("down")
    for _ in range(3):
        with pytest.raises(UpstreamError, match="down"):
            await breaker.call(upstream.work, 1.0)
    assert breaker.open
    with pytest.raises(UpstreamError, match="it is down"):
        await breaker.call(upstream.work, 1.0)
    assert upstream.calls == 4  # the open breaker asked nobody
    upstream.error = None
    while breaker.open:
        await asyncio.sleep(0.005)
    assert await breaker.call(upstream.work, 1.0) == 5
    assert seen == [True, False]
    await breaker.stop()


async def test_one_success_forgets_the_failures() -> None:
    upstream = Upstream()
    breaker = Breaker("it", 2, 10, upstream.probe)
    for error in (ArtifactError("a"), None, UpstreamError("b"), None):
        upstream.error = error
        if error is None:
            await breaker.call(upstream.work, 1.0)
        else:
            with pytest.raises(type(error)):
                await breaker.call(upstream.work, 1.0)
    assert not breaker.open


async def test_slow_work_is_a_failure_and_a_mistake_of_ours_is_not() -> None:
    upstream = Upstream()
    breaker = Breaker("it", 1, 10, upstream.probe)
    upstream.error = ShapeError("ours")
    with pytest.raises(ShapeError):
        await breaker.call(upstream.work, 1.0)
    assert not breaker.open
    with pytest.raises(UpstreamTimeout, match="10 ms"):
        await breaker.call(lambda: asyncio.sleep(5), 0.01)
    assert breaker.open
    await breaker.stop()
    assert not breaker.open


async def test_gate_refuses_beyond_slots_and_waiting_places() -> None:
    gate, release = Gate(1, 1), asyncio.Event()

    async def pass_through() -> None:
        async with gate.enter():
            await release.wait()

    tasks = [asyncio.create_task(pass_through()) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="the bound is 2"):
        async with gate.enter():
            pass
    release.set()
    await asyncio.gather(*tasks)
    async with gate.enter():  # all places are free again
        pass
