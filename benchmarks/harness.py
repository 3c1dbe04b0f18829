"""What the benchmarks share: a closed-loop load generator, alternation, statistics, the record, table and plot.

The load generator speaks HTTP/1.1 over asyncio streams itself: it runs on the same cores as what it measures, and a full client library
would cost more than a no-op route does.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib.metadata as metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).resolve().parent / "results"
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Target:
    """A server under load.

    Attributes:
        name: row label.
        host, port: where it listens.
        requests: complete HTTP/1.1 requests, cycled through.
    """

    name: str
    host: str
    port: int
    requests: Sequence[bytes]


@dataclass
class Block:
    """What one target did in one block at one concurrency; latencies in milliseconds of the requests answered 200."""

    target: str
    concurrency: int
    latencies_ms: np.ndarray
    failed: int
    elapsed_s: float

    @property
    def rate(self) -> float:
        return len(self.latencies_ms) / self.elapsed_s


def http_post(path: str, body: dict[str, Any], host: str, port: int, headers: dict[str, str] | None = None) -> bytes:
    """One complete keep-alive POST with a JSON body."""
    payload = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}:{port}", "Content-Type: application/json", f"Content-Length: {len(payload)}"]
    lines += [f"{k}: {v}" for k, v in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + payload


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, bytes]:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head[9:12])
    lowered = head.lower()
    at = lowered.find(b"content-length:")
    if at >= 0:
        return status, await reader.readexactly(int(lowered[at + 15 : lowered.index(b"\r\n", at)]))
    body = bytearray()
    while True:  # chunked
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        body += (await reader.readexactly(size + 2))[:-2]
        if size == 0:
            return status, bytes(body)


async def fetch(target: Target, request: bytes) -> tuple[int, bytes]:
    """Send one request on a fresh connection: (status, body)."""
    reader, writer = await asyncio.open_connection(target.host, target.port)
    try:
        return await _exchange(reader, writer, request)
    finally:
        writer.close()


async def closed_loop(target: Target, concurrency: int, seconds: float, offset: int = 0) -> Block:
    """Keep `concurrency` requests in flight for `seconds`; a connection that breaks counts one failure and is opened anew."""
    latencies: list[float] = []
    failed = 0
    stop_at = time.perf_counter() + seconds

    async def worker(n: int) -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection(target.host, target.port)
        i = offset + n
        while time.perf_counter() < stop_at:
            started = time.perf_counter()
            try:
                status, _ = await _exchange(reader, writer, target.requests[i % len(target.requests)])
            except (OSError, asyncio.IncompleteReadError):
                failed += 1
                reader, writer = await asyncio.open_connection(target.host, target.port)
                continue
            if status == 200:
                latencies.append((time.perf_counter() - started) * 1e3)
            else:
                failed += 1
            i += concurrency
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(worker(n) for n in range(concurrency)))
    return Block(target.name, concurrency, np.asarray(latencies), failed, time.perf_counter() - started)


async def alternate(targets: Sequence[Target], levels: Sequence[int], rounds: int, seconds: float, warmup_s: float = 2.0) -> list[Block]:
    """Warm every target up, then in each round let every target run at every level, the order turning from round to round."""
    for target in targets:
        for level in levels:
            await closed_loop(target, level, warmup_s)
    blocks: list[Block] = []
    for turn in range(rounds):
        order = [targets[(turn + k) % len(targets)] for k in range(len(targets))]
        for level in levels:
            for target in order:
                blocks.append(await closed_loop(target, level, seconds, offset=turn * 1009))
    return blocks


@dataclass
class Row:
    """All blocks of one target at one concurrency."""

    target: str
    concurrency: int
    n: int
    failed: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    rate: float
    rates: list[float] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)


def rows(blocks: Sequence[Block]) -> list[Row]:
    """One row per (target, concurrency), in first-seen order. A row with a failed request is void: its figures are NaN."""
    grouped: dict[tuple[str, int], list[Block]] = {}
    for block in blocks:
        grouped.setdefault((block.target, block.concurrency), []).append(block)
    return [_row(key, group) for key, group in grouped.items()]


def _row(key: tuple[str, int], group: list[Block]) -> Row:
    latencies = np.concatenate([b.latencies_ms for b in group])
    failed = sum(b.failed for b in group)
    if failed or not len(latencies):
        return Row(*key, len(latencies), failed, float("nan"), float("nan"), float("nan"), float("nan"))
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99])
    rates = [b.rate for b in group]
    return Row(*key, len(latencies), 0, p50, p95, p99, float(np.median(rates)), rates, [float(np.median(b.latencies_ms)) for b in group])


def ratio_interval(candidate: Sequence[float], baseline: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Median of the per-round ratios candidate / baseline, with a 95 % bootstrap interval over rounds."""
    pairs = np.asarray(candidate, float) / np.asarray(baseline, float)
    picks = np.random.default_rng(seed).integers(0, len(pairs), size=(2000, len(pairs)))
    low, high = np.percentile(np.median(pairs[picks], axis=1), [2.5, 97.5])
    return float(np.median(pairs)), float(low), float(high)


def record(question: str, settings: dict[str, Any], packages: Sequence[str]) -> dict[str, Any]:
    """Where, when and with what a result was made."""
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    dirty = subprocess.run(
        ["git", "-C", str(ROOT), "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "question": question,
        "commit": (commit or "unknown") + ("-dirty" if dirty else ""),
        "made_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "device": {"machine": platform.machine(), "cpu": _cpu(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {"python": platform.python_version(), **{p: metadata.version(p) for p in packages}},
        "settings": settings,
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def write_json(name: str, result: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write a result under results/."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=1, default=float) + "\n", encoding="utf-8")
    return path


def plot(results: Sequence[Row], title: str, path: Path) -> None:
    """Latency percentiles and throughput by concurrency, one colour a target."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), constrained_layout=True)
    for i, name in enumerate(dict.fromkeys(r.target for r in results)):
        own = [r for r in results if r.target == name]
        levels = [r.concurrency for r in own]
        left.plot(levels, [r.p50_ms for r in own], marker="o", color=f"C{i}", label=f"{name} p50")
        left.plot(levels, [r.p99_ms for r in own], marker="^", ls="--", color=f"C{i}", alpha=0.6, label=f"{name} p99")
        right.plot(levels, [r.rate for r in own], marker="o", color=f"C{i}", label=name)
    for axis, label in ((left, "latency, ms"), (right, "requests / s")):
        axis.set(xscale="log", xlabel="concurrency", ylabel=label, xticks=sorted({r.concurrency for r in results}))
        axis.get_xaxis().set_major_formatter(plt.ScalarFormatter())
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    left.set_yscale("log")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)
