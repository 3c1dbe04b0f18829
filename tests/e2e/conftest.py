"""The running stack, made with the command line as a user would: generate, train, export, serve."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import orjson
import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SHM = Path("/dev/shm")
START_S, STOP_S = 240.0, 60.0


def regulars(home: Path, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    command = [sys.executable, "-m", "regulars", *arguments, "--home", str(home)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT, check=False, env=os.environ | (environment or {}))


@dataclass
class Served:
    """A `regulars serve` of our own: what it printed, and everything that belongs to it can be told from anything else."""

    home: Path
    process: subprocess.Popen[str]
    temporary: Path
    shm_before: set[str]
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return str(self.record["url"])

    def client(self, **more: Any) -> httpx.Client:
        key = (self.home / "run" / "demo.key").read_text().strip()
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=30, **more)

    def family(self) -> list[psutil.Process]:
        """Every process that this stack has started, wherever it hangs in the tree."""
        marks = (str(self.temporary), str(self.home))
        return [p for p in psutil.process_iter() if p.pid != os.getpid() and _mentions(p, marks)]

    def left(self) -> tuple[list[str], set[str], list[str]]:
        """Processes, shared memory and temporary files that are left."""
        processes = [f"{p.pid} {p.name()}" for p in self.family() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        ours = {f.name for f in SHM.iterdir() if f.name.startswith(f"regulars-{self.process.pid}-")} - self.shm_before
        return processes, ours, [f.name for f in self.temporary.iterdir() if f.name.startswith("rg-")]

    def stop(self, how: signal.Signals = signal.SIGINT) -> int:
        """Stop it as Ctrl-C does; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def _mentions(process: psutil.Process, marks: tuple[str, ...]) -> bool:
    try:
        if any(mark in part for part in process.cmdline() for mark in marks) and "pytest" not in " ".join(process.cmdline()):
            return True
        return any(marks[0] in value for value in process.environ().values())
    except psutil.Error:
        return False


def begin(home: Path) -> Served:
    """Start `regulars serve` and return at once. Its temporary folder is its own, so that what is left can be seen."""
    temporary = Path(tempfile.mkdtemp(prefix="e", dir="/tmp"))  # short, see ray_apps.supervisor.short_folder
    environment = os.environ | {"TMPDIR": str(temporary)}
    shm = {f.name for f in SHM.iterdir()}
    command = [sys.executable, "-m", "regulars", "serve", "--home", str(home), "--port", "0", "--json"]
    with (temporary / "out").open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, text=True, cwd=ROOT, env=environment, start_new_session=True)
    return Served(home, process, temporary, shm)


def wait_ready(served: Served) -> Served:
    """Wait until it serves."""
    file, deadline = served.home / "run" / "serve.json", time.monotonic() + START_S
    while time.monotonic() < deadline:
        if served.process.poll() is not None:
            raise AssertionError(f"serve ended with {served.process.returncode}: {(served.temporary / 'out').read_text()}")
        if file.is_file():
            served.record = orjson.loads(file.read_bytes())
            return served
        time.sleep(0.1)
    served.stop()
    raise AssertionError("serve was not ready in time")


@pytest.fixture(scope="session")
def tools() -> SimpleNamespace:
    """`regulars`, `begin` and `wait_ready`, for tests that start a stack of their own."""
    return SimpleNamespace(regulars=regulars, begin=begin, wait_ready=wait_ready)


@pytest.fixture(scope="session")
def trained_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small programme, trained and exported; REGULARS_E2E_TRAINED names one made before, to save the minutes."""
    home = tmp_path_factory.mktemp("e2e") / "home"
    made = os.environ.get("REGULARS_E2E_TRAINED")
    if made:
        for name in ("warehouse", "models"):
            shutil.copytree(Path(made) / name, home / name)
        return home
    for arguments in (
        ("data", "generate", "--customers", "600", "--months", "6", "--seed", "5"),
        ("train", "recommender", "--epochs", "1", "--seed", "5"),
        ("export",),
    ):
        done = regulars(home, *arguments)
        assert done.returncode == 0, done.stderr
    return home


@pytest.fixture(scope="session")
def stack(trained_home: Path) -> Iterator[Served]:
    """The stack that most tests share; at its end nothing of it may be left."""
    served = wait_ready(begin(trained_home))
    yield served
    code = served.stop()
    left = served.left()
    shutil.rmtree(served.temporary, ignore_errors=True)
    assert (code, left) == (0, ([], set(), []))


@pytest.fixture
def client(stack: Served) -> Iterator[httpx.Client]:
    """With the demo key."""
    with stack.client() as found:
        yield found
