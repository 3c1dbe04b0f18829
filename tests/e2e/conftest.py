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
    """`regulars`, `begin`, `wait_ready` and `sequence_bundle`, for tests that start a stack of their own."""
    return SimpleNamespace(regulars=regulars, begin=begin, wait_ready=wait_ready, sequence_bundle=sequence_bundle)


@pytest.fixture(scope="session")
def trained_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small programme, trained and exported; REGULARS_E2E_TRAINED names one made before, to save the minutes."""
    home = tmp_path_factory.mktemp("e2e") / "home"
    made = os.environ.get("REGULARS_E2E_TRAINED")
    if made:
        for name in ("warehouse", "models"):
            shutil.copytree(Path(made) / name, home / name)
    else:
        for arguments in (
            ("data", "generate", "--customers", "600", "--months", "6", "--seed", "5"),
            ("train", "recommender", "--epochs", "1", "--seed", "5"),
            ("export",),
        ):
            done = regulars(home, *arguments)
            assert done.returncode == 0, done.stderr
    if not (home / "models" / "sequence" / "deployed.json").is_file():
        sequence_bundle(home)
    return home


def sequence_bundle(home: Path, version: str = "1", seed: int = 5) -> Path:
    """A deployed version of the sequence model without the minutes of training: small, random weights, real graphs and parity."""
    import numpy as np
    import torch

    from contracts.bundle import deploy
    from contracts.sequence import BaseRates, ChurnDefinition, Forecasting
    from features.weekly import as_of_day, read, shard_customers, tensors
    from training.export.bundle import RunRecord, build_bundle
    from training.sequence.artifacts import Trained, save
    from training.sequence.model import FactorsModel, ModelConfig, SequenceModel
    from warehouse.store import Warehouse

    warehouse = Warehouse(home / "warehouse")
    when = warehouse.as_of()
    with warehouse.connect() as connection:
        found = tensors(read(connection, shard_customers(connection, 0, 1), when), as_of_day(when))
    weeks, statics = (torch.from_numpy(found[name].mean(axis=0)) for name in ("weeks", "statics"))
    torch.manual_seed(seed)
    model = SequenceModel(ModelConfig(hidden=4, width=8, members=1)).eval()
    model.static_mean[: len(statics)] = statics  # the rest is what the model works out by itself
    model.static_std[: len(statics)] = torch.from_numpy(np.maximum(found["statics"].std(axis=0), 0.1))
    factors = FactorsModel(model, weeks, statics).eval()
    with torch.no_grad():
        model.reference_churn.copy_(factors(weeks[None], statics[None])[-1][0])
    rates = BaseRates(
        churn=(0.8, 0.7, 0.6), silent_by=tuple(0.6 + 0.04 * k for k in range(10)), purchase_probability=(0.3,) * 12, spend=(5.0,) * 12,
        spend_interval=(20.0, 120.0),
    )  # fmt: skip
    record = Forecasting(
        definition=ChurnDefinition(), reference_statics=tuple(statics.tolist()), base_rates={"": rates}, clv_cuts={"": (5.0, 20.0, 50.0)},
        ece=0.02, spend_months_seen=3,
    )  # fmt: skip
    run = Path(tempfile.mkdtemp(prefix="regulars-run-"))
    try:
        save(run, Trained(model, factors, record), {}, {})
        build_bundle(home / "models", run, version, RunRecord("test", "test", when.isoformat()), name="sequence")
    finally:
        shutil.rmtree(run)
    deploy(home / "models", version, "sequence")
    return home / "models" / "sequence" / version


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
