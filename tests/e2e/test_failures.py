"""The stack while a part of it dies, and while it is stopped."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import httpx
import orjson
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
RECOMMENDATIONS = "/api/v1/ml/recommendations"
KNOWN = [f"cust-{n:06d}" for n in range(1, 40)]


class Load:
    """Concurrent requests from threads; counts (status, degraded)."""

    def __init__(self, stack, threads: int = 4) -> None:
        self.seen: Counter[tuple[int, object]] = Counter()
        self.bad: list[str] = []
        self._stack, self._stop, self._lock = stack, threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        with self._stack.client() as client:
            while not self._stop.is_set():
                number += 1
                try:
                    answer = client.post(RECOMMENDATIONS, json={"customerId": KNOWN[number % len(KNOWN)]})
                except httpx.HTTPError as exc:
                    self._note((0, None), repr(exc))
                    continue
                body = answer.json()
                fine = answer.status_code == 200 or (answer.status_code == 503 and "retry-after" in answer.headers)
                self._note((answer.status_code, body.get("degraded")), None if fine else answer.text)

    def _note(self, what: tuple[int, object], bad: str | None) -> None:
        with self._lock:
            self.seen[what] += 1
            if bad is not None:
                self.bad.append(bad)


def _triton_pid(stack) -> int:
    return int(orjson.loads((stack.home / "run" / "triton" / "triton.json").read_bytes()).get("pid", 0)) or stack.record["triton"]["pid"]


def _degraded(client: httpx.Client) -> bool:
    return bool(client.post(RECOMMENDATIONS, json={"customerId": KNOWN[0]}).json()["degraded"])


def test_killed_model_server_costs_quality_for_seconds_and_no_answer(stack) -> None:
    with stack.client() as client:
        known = next(c for c in KNOWN if client.post(RECOMMENDATIONS, json={"customerId": c}).json()["coverage"] == "full")
        with Load(stack) as load:
            time.sleep(1)
            os.kill(_triton_pid(stack), signal.SIGKILL)
            killed, back, degraded = time.monotonic(), None, False
            while time.monotonic() - killed < 60:
                now = client.post(RECOMMENDATIONS, json={"customerId": known}).json()["degraded"]
                degraded = degraded or now
                if degraded and not now:
                    back = time.monotonic() - killed
                    break
                time.sleep(0.02)
            time.sleep(1)
    assert load.bad == [], load.seen
    assert degraded
    assert back is not None
    assert load.seen[200, True] > 0
    assert load.seen[200, False] > 0


def test_replica_that_dies_is_replaced(stack) -> None:
    replica = next(p for p in stack.family() if "ServeReplica" in " ".join(p.cmdline()))
    replica.kill()
    with stack.client() as client:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if client.post(RECOMMENDATIONS, json={"customerId": KNOWN[0]}).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.5)
    raise AssertionError("no answer within 120 s of the replica's death")


@pytest.mark.parametrize("after_s", [0.5, 6.0, 14.0])
def test_interrupted_start_leaves_nothing(trained_home: Path, tmp_path: Path, tools: SimpleNamespace, after_s: float) -> None:
    home = tmp_path / "home"
    for name in ("warehouse", "models"):
        shutil.copytree(trained_home / name, home / name)
    served = tools.begin(home)
    time.sleep(after_s)
    code = served.stop(signal.SIGINT if after_s != 6.0 else signal.SIGTERM)
    left = served.left()
    shutil.rmtree(served.temporary, ignore_errors=True)
    assert code in (0, 130, -2, -15)
    assert left == ([], set(), [])
    assert not (home / "run" / "serve.json").exists()
