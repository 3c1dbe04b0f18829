"""Start and stop the process that holds Ray, and leave nothing behind whatever happens in between."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import psutil

from contracts.errors import UpstreamError, UpstreamTimeout
from ray_apps.host import SUBREAPER, haproxy_wrapper, prctl, ray_environment

CHECKOUT = Path(__file__).resolve().parent.parent
STOP_S = 12.0
LONGEST_TEMPORARY = 15


class RayHost:
    """The Ray process of one run.

    Args:
        logs: folder for its log and those of the replicas.
        environment: the environment to extend; the caller's.
        own: for a Ray of its own; else the environment stays as it is, for one that runs already.
    """

    def __init__(self, logs: Path, environment: Mapping[str, str] | None = None, own: bool = True) -> None:
        self.logs = logs
        self.run = Path(tempfile.mkdtemp(prefix="rg-", dir=short_folder(tempfile.gettempdir())))
        base = os.environ if environment is None else environment
        self._environment = ray_environment(self.run, base) if own else dict(base)
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[str] | None = None
        self._log_path = logs / "ray.log"

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, host: str, port: int, object_store_mb: int) -> None:
        """Start the process that serves and return at once; `wait_for("serve")` tells when it is ready for `deploy`."""
        haproxy_wrapper(self.run, self._environment)
        orders = {"run": str(self.run), "object_store_mb": object_store_mb, "host": host, "port": port, "logs": str(self.logs.resolve())}
        self.spawn("ray_apps.host", orders)

    def spawn(self, module: str, orders: dict[str, Any], log: str = "ray.log") -> None:
        """Start a module as the process, with its orders, and return at once; `wait_for` tells how far it is."""
        prctl(SUBREAPER, 1)  # orphaned grandchildren become our children, where `sweep` finds them
        self.logs.mkdir(parents=True, exist_ok=True)
        self._log = (self.logs / log).open("a", encoding="utf-8")
        self._log_path = self.logs / log
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=self._environment | {"PYTHONPATH": str(CHECKOUT)},
            text=True,
            start_new_session=True,  # Ctrl-C reaches only the parent, which stops everything in order
        )
        threading.Thread(target=self._read, args=(self._process.stdout,), name="ray-host", daemon=True).start()
        self._send(orders)

    def deploy(self, settings: dict[str, Any]) -> None:
        """Let it deploy the application; `wait_for("deployed")` tells when the replicas run."""
        self._send(settings)

    def wait_for(self, stage: str, timeout_s: float | None) -> dict[str, Any]:
        """Wait until the process has reported a stage; returns what it said.

        Args:
            timeout_s: None waits as long as the process lives.

        Raises:
            UpstreamError: it failed or ended before.
            UpstreamTimeout: it did not report within the time.
        """
        deadline = time.monotonic() + (float("inf") if timeout_s is None else timeout_s)
        while True:
            try:
                line = self._lines.get(timeout=0.2)
            except queue.Empty:
                line = {}
            if line.get("stage") == stage:
                return line
            if line.get("stage") == "failed":
                raise UpstreamError(f"Ray failed before stage {stage}: {line.get('error')}. Look into {self._log_path} and start again.")
            if not line and not self.alive:
                code = self._process.returncode if self._process else None
                raise UpstreamError(f"the Ray process ended with {code} before stage {stage}. Look into {self._log_path}.")
            if time.monotonic() > deadline:
                raise UpstreamTimeout(f"Ray did not reach stage {stage} within {timeout_s:g} s. Look into {self._log_path}.")

    def stop(self, timeout_s: float = STOP_S) -> None:
        """Stop it in order, then by force; removes its folder. May be called again, at any stage."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(OSError):
                if process.stdin is not None:
                    process.stdin.close()
            with suppress(OSError):
                process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout_s)
            end([p for p in [*_family(process.pid)] if p.is_running()])
            if process.poll() is None:
                process.kill()
            process.wait()
        end([p for p in psutil.Process().children(recursive=True) if _mentions(p, str(self.run))])
        if self._log is not None:
            self._log.close()
            self._log = None
        shutil.rmtree(self.run, ignore_errors=True)

    def _send(self, value: dict[str, Any]) -> None:
        if self._process is None or self._process.stdin is None:
            raise UpstreamError("the Ray process does not run. Start it first.")
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
        except OSError as exc:
            raise UpstreamError(f"the Ray process is gone ({exc}). Look into {self._log_path} and start again.") from exc

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            with suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict):
                    self._lines.put(found)


def short_folder(folder: str) -> str:
    """The folder, or /tmp where its path is too long for the sockets that Ray and HAProxy make in it."""
    return folder if len(folder) <= LONGEST_TEMPORARY else "/tmp"  # noqa: S108 - a private folder is made in it


def _family(pid: int) -> list[psutil.Process]:
    """All descendants; those of a dead process have become ours and are found through `Process().children()`."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def _mentions(process: psutil.Process, text: str) -> bool:
    """Whether a process belongs to a run: its command or its environment holds the run's folder."""
    try:
        return any(text in part for part in process.cmdline()) or any(text in value for value in process.environ().values())
    except psutil.Error:
        return False


def end(processes: list[psutil.Process], grace_s: float = 1.0) -> None:
    """Ask processes to end, then make them."""
    for process in processes:
        with suppress(psutil.Error):
            process.terminate()
    _, left = psutil.wait_procs(processes, timeout=grace_s)
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=5)


def end_children(grace_s: float = 1.0) -> None:
    """End whatever this process still has started, orphaned grandchildren included; the last thing before it ends itself."""
    end(psutil.Process().children(recursive=True), grace_s)
