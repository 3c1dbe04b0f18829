"""The harness counts what it should: failures void a row, ratios come with an interval, requests reach the server whole."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from benchmarks import harness
from benchmarks.harness import Block, Target


async def _server(status: int, seen: list[bytes], chunked: bool = False) -> asyncio.Server:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                seen.append(await reader.readexactly(length))
                if chunked:
                    writer.write(b"HTTP/1.1 %d X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" % status)
                else:
                    writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\n{}" % status)
        except asyncio.IncompleteReadError:
            writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)


def _target(server: asyncio.Server, name: str = "a") -> Target:
    port = server.sockets[0].getsockname()[1]
    bodies = [{"n": n} for n in range(5)]
    return Target(name, "127.0.0.1", port, [harness.http_post("/x", b, "127.0.0.1", port) for b in bodies])


@pytest.mark.parametrize("chunked", [False, True])
async def test_every_request_is_sent_whole_and_counted(chunked: bool) -> None:
    seen: list[bytes] = []
    server = await _server(200, seen, chunked)
    async with server:
        block = await harness.closed_loop(_target(server), concurrency=3, seconds=0.1)
    assert block.failed == 0
    assert len(block.latencies_ms) == len(seen) > 3
    assert {json.loads(s)["n"] for s in seen} == {0, 1, 2, 3, 4}


async def test_an_answer_that_is_not_200_is_a_failure_and_voids_the_row() -> None:
    server = await _server(503, [])
    async with server:
        block = await harness.closed_loop(_target(server), concurrency=2, seconds=0.05)
    assert block.failed > 0
    assert len(block.latencies_ms) == 0
    (row,) = harness.rows([block])
    assert np.isnan(row.p50_ms)
    assert np.isnan(row.rate)


async def test_targets_take_turns() -> None:
    server = await _server(200, [])
    async with server:
        targets = [_target(server, "a"), _target(server, "b")]
        blocks = await harness.alternate(targets, (1, 2), rounds=2, seconds=0.02, warmup_s=0.01)
    assert [b.target for b in blocks] == ["a", "b", "a", "b", "b", "a", "b", "a"]


def test_percentiles_are_over_all_blocks_and_the_rate_is_their_median() -> None:
    blocks = [Block("a", 1, np.arange(1, 101, dtype=float), 0, s) for s in (1.0, 2.0, 4.0)]
    (row,) = harness.rows(blocks)
    assert (row.n, row.rate) == (300, 50.0)
    assert row.p50_ms == pytest.approx(50.5)


def test_a_ratio_that_holds_in_every_round_has_a_narrow_interval() -> None:
    noise = np.random.default_rng(0).lognormal(0, 1, 20)  # drift of the machine, the same for both
    assert harness.ratio_interval(3 * noise, noise) == pytest.approx((3, 3, 3))
    middle, low, high = harness.ratio_interval([1, 2, 3, 4], [1, 1, 1, 1])
    assert low < middle < high


def test_a_result_says_where_it_was_made(tmp_path) -> None:
    made = harness.record("q", {"seed": 1}, ["numpy"])
    assert {"commit", "device", "versions", "settings", "made_at"} <= made.keys()
    assert json.loads(harness.write_json("x", made, tmp_path).read_text())["versions"]["numpy"] == np.__version__
