"""Start, watch, restart and stop a model server of our own, or use one that runs already.

The server is the `tritonserver` binary of the `nvidia-pytriton` wheel in its own environment (`.triton`, made by `make setup`). What goes
wrong with it in practice, and what is done here about it:

- it can hang at start for good (a library that its Python stub does not find): every start has a deadline and ends with the log's tail;
- READY is no proof of right answers: ready here means that a known row came back as expected (`probe`);
- a taken port may be somebody else's server: each has an `--id` of its own, and it is compared before anything is believed;
- it must not outlive us: it dies with the thread that forked it (PR_SET_PDEATHSIG), so one thread, kept for that, forks;
- a killed server leaves stubs and shared memory behind: both carry the server's id in their names and are removed by that name.

Everything it writes lies in `run_dir`; it listens on the loopback address only.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
import psutil
from pydantic import Field

from contracts.bundle import BUNDLES, MODEL_NAME, bundle_of, bundle_spec, deployed_version
from contracts.errors import ArtifactError, ConfigError, Overloaded, StackError, UpstreamError, UpstreamTimeout
from contracts.settings import StackSettings, settings_config
from contracts.tensors import difference
from serving.client import BlockingTritonClient

log = logging.getLogger(__name__)

CHECKOUT = Path(__file__).resolve().parent.parent
BACKENDS = Path(__file__).resolve().parent / "backends"
LOOPBACK = "127.0.0.1"
PROBE_TOLERANCE = 1e-3
LOG_TAIL_LINES = 15
PROBE_EVERY = 4  # of so many health checks one also compares the known row
SHM = Path("/dev/shm")  # noqa: S108 - Triton's shared memory, not a temporary file of ours

Probe = Callable[[BlockingTritonClient], None]

# Runs in the model server's Python before the binary takes its place: die with the parent, and check that it did not die meanwhile.
_LAUNCHER = (
    "import ctypes,os,signal,sys\n"
    "ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit('parent is gone')\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


class TritonSettings(StackSettings):
    """How the model server is started and watched; variables REGULARS_TRITON_*."""

    model_config = settings_config("REGULARS_TRITON_")

    environment: Path = Field(default=CHECKOUT / ".triton", description="the model server's own Python environment")
    external_url: str = Field(default="", description="host:port (gRPC) of a Triton that runs already; nothing is started then")
    http_port: int = Field(default=0, ge=0, le=65535, description="0 chooses a free one")
    grpc_port: int = Field(default=0, ge=0, le=65535, description="0 chooses a free one")
    metrics_port: int = Field(default=0, ge=0, le=65535, description="0 chooses a free one")
    start_timeout_s: float = Field(default=120.0, gt=0, le=600)
    stop_timeout_s: float = Field(default=10.0, gt=0, le=120, description="from SIGTERM to SIGKILL")
    health_interval_s: float = Field(default=0.5, gt=0, le=60)
    health_timeout_s: float = Field(default=1.5, gt=0, le=60)
    health_failures: int = Field(default=3, ge=1, le=100, description="failed checks in a row before a restart")
    backoff_max_s: float = Field(default=5.0, gt=0, le=300, description="longest pause between two tries to restart")
    instance_threads: int = Field(default=1, ge=1, le=256, description="ONNX Runtime threads of one model instance")
    log_file: Path | None = Field(default=None, description="default: triton.log in the run folder")


@dataclass(frozen=True)
class Ports:
    """TCP ports on the loopback address."""

    http: int
    grpc: int
    metrics: int


@dataclass(frozen=True)
class _Environment:
    """The files of the model server's environment that a start needs."""

    python: Path
    triton: Path
    version: str
    libraries: tuple[str, ...]


def golden_probe(bundle: Path, tolerance: float = PROBE_TOLERANCE) -> Probe:
    """A probe that sends the last golden row (an ordinary one; the first are extremes) of each model of a bundle and compares the answer.

    Args:
        bundle: a version's folder, `<models dir>/<bundle>/<version>`, with golden.npz (one array per tensor name).
        tolerance: largest difference (`contracts.tensors.difference`); wide enough for FP16 engines, far below the distance of two
            different vectors.

    Raises:
        ArtifactError: golden.npz is missing, unreadable or lacks a model's tensors.
        ConfigError: the folder is not a bundle's.
    """
    kind = bundle_of(bundle)
    try:
        with np.load(bundle / "golden.npz", allow_pickle=False) as file:
            rows = {t.name: file[t.name][-1:] for spec in kind.models.values() for t in (*spec.inputs, *spec.outputs)}
    except (OSError, ValueError, KeyError) as exc:
        raise ArtifactError(f"cannot read {bundle / 'golden.npz'}: {exc}. Train and export again: {kind.train}; regulars export") from exc

    def probe(client: BlockingTritonClient) -> None:
        for spec in kind.models.values():
            answer = client.infer(spec, {t.name: rows[t.name] for t in spec.inputs}, bundle.name)
            for tensor in spec.outputs:
                off = difference(answer[tensor.name], rows[tensor.name])
                if off > tolerance:
                    raise UpstreamError(
                        f"{spec.name} version {bundle.name} is off by {off:.2g} on its known row, at most {tolerance:g} is allowed. "
                        "The model repository does not hold what the bundle says: regulars export"
                    )

    return probe


def deployed_probe(models_dir: Path, bundles: Sequence[str] | None = None) -> Probe:
    """A probe with the golden rows of the deployed versions, of every bundle that there is.

    The first call demands `bundles`. After it, the probe moves to a newly deployed version, or takes up another bundle, only when the
    server has loaded it: between the deployment and the load, the server is right with what it had before.

    Args:
        bundles: names of `contracts.bundle.BUNDLES` that the server was started with; those with a deployed version when None.

    Raises:
        ArtifactError: (the probe's first call) one of `bundles` has no deployed version, or there is none at all.
    """
    known: dict[str, tuple[str, Probe]] = {}
    first = True

    def look(name: str, client: BlockingTritonClient) -> None:
        version = deployed_version(models_dir, name)
        if name in known and known[name][0] == version:
            return
        if first or all(client.ready(model, version) for model in bundle_spec(name).models):
            known[name] = (version, golden_probe(models_dir / name / version))

    def probe(client: BlockingTritonClient) -> None:
        nonlocal first
        if not first:
            names: Sequence[str] = tuple(BUNDLES)
        else:
            names = _deployed_bundles(models_dir) if bundles is None else bundles
        for name in names:
            with ExitStack() as as_before:
                if not first:  # a record that cannot be read at this moment is no reason to doubt the server
                    as_before.enter_context(suppress(ArtifactError))
                look(name, client)
        first = False
        for _, compare in known.values():
            compare(client)

    return probe


def _deployed_bundles(models_dir: Path) -> list[str]:
    """Bundles with a deployed version; the recommender where there is none, so that asking for its version says what to do."""
    return [name for name in BUNDLES if (models_dir / name / "deployed.json").is_file()] or [MODEL_NAME]


class TritonServer:
    """One model server: `start`, `watch`, `stop`; or `with TritonServer(...) as server:` for all three.

    Args:
        settings: see TritonSettings.
        repository: Triton's model repository; every folder in it with a config.pbtxt is loaded at start.
        run_dir: log, backends and state lie here; one running server per folder.
        probe: called with a client when the server says it is ready; raises a StackError when a known row's answer is wrong.
            May be replaced (`server.probe = ...`) when another version is deployed.
    """

    def __init__(self, settings: TritonSettings, repository: Path, run_dir: Path, probe: Probe | None = None) -> None:
        self.settings = settings
        self.repository = repository
        self.run_dir = run_dir
        self.probe = probe
        self.server_id = ""
        self.ports: Ports | None = None
        self.restarts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._client: BlockingTritonClient | None = None
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None
        self._forker: ThreadPoolExecutor | None = None
        self._folder_lock: IO[bytes] | None = None

    # -- what others ask -------------------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """`host:port` of the gRPC endpoint; empty before the start."""
        if self.settings.external_url:
            return self.settings.external_url
        return f"{LOOPBACK}:{self.ports.grpc}" if self.ports else ""

    @property
    def http_url(self) -> str:
        """`http://host:port` of the HTTP endpoint; empty before the start and for an external server."""
        return f"http://{LOOPBACK}:{self.ports.http}" if self.ports else ""

    @property
    def metrics_url(self) -> str:
        """Address of the Prometheus metrics; empty before the start and for an external server."""
        return f"http://{LOOPBACK}:{self.ports.metrics}/metrics" if self.ports else ""

    @property
    def pid(self) -> int | None:
        """Process id of the running server; None where there is none of ours."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def log_path(self) -> Path:
        return self.settings.log_file or self.run_dir / "triton.log"

    def healthy(self, compare: bool = True) -> bool:
        """Whether it is there, ours, ready and (with `compare`) right on the known row."""
        try:
            self._check(self._connect(), compare)
        except StackError as exc:
            log.debug("model server not healthy: %s", exc)
            return False
        return True

    # -- start, watch, stop ----------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start the server and return when it answers the known row.

        Raises:
            ConfigError: no model server installed, a port is taken, or another server runs on this folder.
            UpstreamError: it ended during the start, or answers wrongly; the message holds the log's tail.
            UpstreamTimeout: it was not ready within `start_timeout_s`; it was ended.
        """
        with self._lock:
            if self.pid is not None:
                return self
            self._stopping.clear()
            if self.settings.external_url:
                self._wait_ready(time.monotonic() + self.settings.start_timeout_s)
                return self
            environment = find_environment(self.settings.environment)
            self._lock_folder()
            try:
                self._sweep_previous()
                self._launch(environment)
            except BaseException:
                self._end()
                raise
        return self

    def watch(self) -> Self:
        """Look after the server from a thread of its own: restart it when it ended or stopped answering. No-op for an external server."""
        if self._watcher is None and not self.settings.external_url:
            self._watcher = threading.Thread(target=self._watch, name="triton-watch", daemon=True)
            self._watcher.start()
        return self

    def stop(self) -> None:
        """End the server: SIGTERM (it drains), then SIGKILL; no process and no shared memory of it is left. May be called again."""
        self._stopping.set()
        watcher, self._watcher = self._watcher, None
        if watcher is not None and watcher is not threading.current_thread():
            watcher.join()
        with self._lock:
            self._end()

    def __enter__(self) -> Self:
        return self.start().watch()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    # -- inside ----------------------------------------------------------------------------------------------------------------------

    def _lock_folder(self) -> None:
        if self._folder_lock is not None:
            return
        self.run_dir.mkdir(parents=True, exist_ok=True)
        file = (self.run_dir / "triton.lock").open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            file.close()
            raise ConfigError(f"another model server runs on {self.run_dir}, one is allowed. Stop it, or give another --home") from exc
        self._folder_lock = file

    def _choose_ports(self) -> Ports:
        """Those of the settings, or free ones; a restart keeps what the start chose."""
        if self.ports is not None:
            return self.ports
        wanted = {"http": self.settings.http_port, "grpc": self.settings.grpc_port, "metrics": self.settings.metrics_port}
        chosen: dict[str, int] = {}
        with ExitStack() as held:  # all held at once, so that they differ
            for name, port in wanted.items():
                chosen[name] = _bind(held, name, port)
        return Ports(**chosen)

    def _launch(self, environment: _Environment) -> None:
        """One start: fork, wait for ready; on any failure nothing of it is left."""
        ports = self.ports = self._choose_ports()
        self.server_id = f"regulars-{os.getpid()}-{secrets.token_hex(4)}"
        backends = install_backends(environment, self.run_dir / "backends")
        self._write_state(ports)
        command = _command(environment, self.repository, backends, ports, self.server_id, self.settings)
        if self._forker is None:
            self._forker = ThreadPoolExecutor(1, thread_name_prefix="triton-fork")
        self._process = self._forker.submit(self._fork, environment, command).result()
        try:
            self._wait_ready(time.monotonic() + self.settings.start_timeout_s)
        except BaseException:
            self._kill()
            raise

    def _fork(self, environment: _Environment, command: list[str]) -> subprocess.Popen[bytes]:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as out:
            return subprocess.Popen(
                [str(environment.python), "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=_process_environment(environment, self.settings),
                process_group=0,
                cwd=self.run_dir,
            )

    def _connect(self) -> BlockingTritonClient:
        if self._client is None:
            self._client = BlockingTritonClient(self.url, self.settings.health_timeout_s)
        return self._client

    def _check(self, client: BlockingTritonClient, compare: bool) -> None:
        found = client.server_id()
        if not self.settings.external_url and found != self.server_id:
            raise UpstreamError(f"the server at {self.url} is {found!r}, ours is {self.server_id!r}. The port was taken: choose others")
        if not client.ready():
            raise UpstreamError(f"the model server at {self.url} is not ready. Look into {self.log_path}")
        if compare and self.probe is not None:
            with suppress(Overloaded):  # it answers, only not everybody at once: no reason to restart it
                self.probe(client)

    def _wait_ready(self, deadline: float) -> None:
        client, ready, problem = self._connect(), False, "it never answered"
        while not self._stopping.is_set():
            if self._process is not None and self._process.poll() is not None:
                raise UpstreamError(f"the model server ended with {self._process.returncode} during its start. {self._log_tail()}")
            ready = client.ready()
            try:
                self._check(client, compare=ready)
                return
            except StackError as exc:
                problem = str(exc)
                if ready and not isinstance(exc, UpstreamTimeout):
                    raise UpstreamError(f"the model server started, but is not right: {exc}. {self._log_tail()}") from exc
            if time.monotonic() > deadline:
                limit = self.settings.start_timeout_s
                raise UpstreamTimeout(f"the model server was not ready within {limit:g} s ({problem}); it was ended. {self._log_tail()}")
            time.sleep(0.02)
        raise UpstreamError("the model server was stopped during its start. Start it again")

    def _log_tail(self) -> str:
        if self.settings.external_url:
            return f"It is an external server: look at {self.url}"
        try:
            lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
        except OSError:
            lines = []
        return f"Last lines of {self.log_path}:\n" + "\n".join(lines)

    def _watch(self) -> None:
        failures = checks = 0
        while not self._stopping.is_set():
            if self._ended_within(self.settings.health_interval_s):
                log.warning("model server %s ended; restarting", self.server_id)
                failures = self._restart()
                continue
            checks += 1
            compare = failures > 0 or checks % PROBE_EVERY == 0  # a failure is looked at in full until it is over
            failures = 0 if self.healthy(compare) else failures + 1
            if failures >= self.settings.health_failures and not self._stopping.is_set():
                log.warning("model server %s failed %d health checks; restarting", self.server_id, failures)
                failures = self._restart()

    def _ended_within(self, seconds: float) -> bool:
        """Wait up to `seconds` (less when told to stop); whether the process is gone by then."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._stopping.is_set():
            if self.pid is None:
                break
            self._stopping.wait(min(0.05, seconds))
        return self.pid is None and not self._stopping.is_set()

    def _restart(self) -> int:
        """Bring the server back on its ports, for as long as it takes; returns 0, the new count of failures."""
        pause = 0.1
        while not self._stopping.is_set():
            with self._lock:
                try:
                    self._kill()
                    self._launch(find_environment(self.settings.environment))
                    self.restarts += 1
                    log.warning("model server is back as %s (restart %d)", self.server_id, self.restarts)
                    return 0
                except (StackError, OSError) as exc:
                    log.error("model server did not come back: %s", exc)
                except RuntimeError:  # the interpreter is shutting down: no new threads, nothing to restart for
                    return 0
            self._stopping.wait(pause)
            pause = min(2 * pause, self.settings.backoff_max_s)
        return 0

    def _end(self) -> None:
        """Stop for good and let go of the folder."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)  # a frozen one would not hear the first
            with suppress(subprocess.TimeoutExpired):
                process.wait(self.settings.stop_timeout_s)
        self._kill()
        if self._forker is not None:
            self._forker.shutdown()
            self._forker = None
        if self._folder_lock is not None:
            (self.run_dir / "triton.json").unlink(missing_ok=True)
            self._folder_lock.close()
            self._folder_lock = None
            self.ports = None

    def _kill(self) -> None:
        """No process and no shared memory of the current server afterwards."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                process.kill()
            process.wait()
        if self.server_id:
            remove_leftovers(self.server_id)

    def _write_state(self, ports: Ports) -> None:
        state = {"server_id": self.server_id, "owner_pid": os.getpid(), "repository": str(self.repository), **asdict(ports)}
        temporary = self.run_dir / "triton.json.tmp"
        temporary.write_text(json.dumps(state), encoding="utf-8")
        temporary.replace(self.run_dir / "triton.json")

    def _sweep_previous(self) -> None:
        """Remove what a server of this folder left when its owner was killed; the folder's lock says that no owner lives."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            state = json.loads((self.run_dir / "triton.json").read_text(encoding="utf-8"))
            remove_leftovers(str(state["server_id"]))


def find_environment(folder: Path) -> _Environment:
    """Locate the model server's program and libraries.

    Raises:
        ConfigError: the environment or the program in it is missing.
    """
    python = folder / "bin" / "python"
    missing = f"no model server under {folder}: %s is missing. Install it: make setup (or set REGULARS_TRITON_EXTERNAL_URL)"
    if not python.exists():
        raise ConfigError(missing % python)
    code = (
        "import json, sys, sysconfig\n"
        "print(json.dumps([sysconfig.get_paths()['purelib'], sysconfig.get_config_var('LIBDIR'), '%d.%d' % sys.version_info[:2]]))"
    )
    try:
        found = subprocess.run([str(python), "-I", "-c", code], capture_output=True, check=True, timeout=30, text=True)
        site, libraries, version = json.loads(found.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as exc:
        raise ConfigError(f"{python} does not run: {exc}. Install the model server again: make setup") from exc
    triton = Path(site) / "pytriton" / "tritonserver"
    for needed in (triton / "bin" / "tritonserver", triton / "python_backend_stubs" / version / "triton_python_backend_stub"):
        if not needed.is_file():
            raise ConfigError(missing % needed)
    return _Environment(python, triton, version, (f"{site}/nvidia_pytriton.libs", libraries))


def install_backends(environment: _Environment, folder: Path) -> Path:
    """Put NVIDIA's Python backend, the stub for the environment's Python and our Python-based backends into one folder."""
    source = environment.triton / "backends" / "python"
    stub = environment.triton / "python_backend_stubs" / environment.version / "triton_python_backend_stub"
    for file in (source / "libtriton_python.so", source / "triton_python_backend_utils.py", stub):
        _copy_if_changed(file, folder / "python" / file.name)
    for file in sorted(BACKENDS.glob("*/*.py")):
        _copy_if_changed(file, folder / file.parent.name / file.name)
    return folder


def _copy_if_changed(source: Path, target: Path) -> None:
    """Copy by rename, since the target may be a program that still runs."""
    a = source.stat()
    if target.is_file() and (target.stat().st_size, target.stat().st_mtime_ns) == (a.st_size, a.st_mtime_ns):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".tmp")
    shutil.copy2(source, temporary)
    temporary.replace(target)


def models_in(repository: Path) -> list[str]:
    """Names of the models of a repository: its folders with a config.pbtxt.

    Raises:
        ArtifactError: the repository is not a folder.
    """
    if not repository.is_dir():
        raise ArtifactError(f"no model repository at {repository}. Train and export a model: regulars train recommender; regulars export")
    return sorted(f.parent.name for f in repository.glob("*/config.pbtxt"))


def _command(env: _Environment, repository: Path, backends: Path, ports: Ports, server_id: str, settings: TritonSettings) -> list[str]:
    flags = {
        "id": server_id,
        "model-repository": repository.resolve(),
        "backend-directory": backends.resolve(),
        "cache-directory": env.triton / "caches",
        "model-control-mode": "explicit",
        "strict-readiness": "false",  # else it is not ready, and would be restarted, while one more model is being loaded
        "http-address": LOOPBACK,
        "grpc-address": LOOPBACK,
        "metrics-address": LOOPBACK,
        "http-port": ports.http,
        "grpc-port": ports.grpc,
        "metrics-port": ports.metrics,
        "exit-timeout-secs": max(1, int(settings.stop_timeout_s) - 1),
        "allow-gpu-metrics": "false",
        "log-verbose": 0,
        # The stubs' shared memory carries our id in its name, so that it can be told from anybody else's.
        "backend-config": f"python,shm-region-prefix-name={server_id}-",
    }
    return [
        str(env.triton / "bin" / "tritonserver"),
        "--disable-auto-complete-config",
        *(f"--{k}={v}" for k, v in flags.items()),
        *(f"--backend-config={b.name},shm-region-prefix-name={server_id}-" for b in sorted(BACKENDS.iterdir()) if b.is_dir()),
        *(f"--load-model={name}" for name in models_in(repository)),
    ]


def _process_environment(environment: _Environment, settings: TritonSettings) -> dict[str, str]:
    """A small environment of its own: the stub embeds Python and finds its packages through PATH's python3."""
    return {
        "PATH": f"{environment.python.parent}:/usr/bin:/bin",
        "LD_LIBRARY_PATH": ":".join(environment.libraries),
        "REGULARS_CODE": str(CHECKOUT),  # for serving/triton_repo/text_to_sql, which runs nlq
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "LANG": "C.UTF-8",
        "REGULARS_TRITON_INSTANCE_THREADS": str(settings.instance_threads),
    }


def _bind(held: ExitStack, name: str, port: int) -> int:
    s = held.enter_context(socket.socket())
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        s.bind((LOOPBACK, port))
    except OSError as exc:
        raise ConfigError(
            f"port {port} ({name} of the model server) is taken: {exc.strerror}. Set REGULARS_TRITON_{name.upper()}_PORT to another or to 0"
        ) from exc
    return int(s.getsockname()[1])


def remove_leftovers(server_id: str, timeout_s: float = 5.0) -> None:
    """End every process and remove every shared memory file that carries this server's id; nobody else's has it."""
    processes = [p for p in psutil.process_iter() if _carries(p, server_id)]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=timeout_s)
    for file in SHM.glob(f"{server_id}-*"):
        file.unlink(missing_ok=True)


def _carries(process: psutil.Process, server_id: str) -> bool:
    try:
        return process.pid != os.getpid() and any(server_id in part for part in process.cmdline())
    except psutil.Error:
        return False
