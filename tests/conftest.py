"""Fixtures that every test may use."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Started in the background, a shell lets us inherit an ignored SIGINT; what we start must hear Ctrl-C all the same.
signal.signal(signal.SIGINT, signal.default_int_handler)
GPU_JOB = os.environ.get("REGULARS_REQUIRE_GPU") == "1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """On the GPU job (`make test-gpu`) a skip is a failure: it would say that nothing was checked."""
    report = yield
    if GPU_JOB and report.skipped and item.get_closest_marker("gpu"):
        report.outcome = "failed"
        report.longrepr = f"skipped on the GPU job: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Folder of the public data sets; skips where there is none."""
    folder = Path(os.environ.get("REGULARS_REALDATA", ROOT.parent / "shared" / "data")).resolve()
    if not (folder / "DATA.md").is_file():
        pytest.skip(f"no public data sets under {folder}; set REGULARS_REALDATA to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A function that gives a TCP port nobody listens on at this moment."""

    def find() -> int:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            return int(s.getsockname()[1])

    return find


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """A function that finds a server program on this machine, or skips and says how to get it."""
    packages = {"redis-server": "redis-server", "postgres": "postgresql", "initdb": "postgresql"}

    def find(name: str) -> str:
        found = shutil.which(name) or next((str(p) for p in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None)
        if found is None:
            pytest.skip(f"no {name} on this machine: apt-get install {packages.get(name, name)}")
        return found

    return find
