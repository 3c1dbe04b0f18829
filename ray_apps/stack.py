"""The running stack: what `regulars serve` starts, watches and stops.

Order: the Ray process is started first and takes seconds; meanwhile the database is migrated, the model repository built, Triton
started and the online store filled. Then the application is deployed and one real recommendation must answer before it says ready.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import httpx
import pyarrow as pa

from contracts.bundle import BUNDLES, MODEL_NAME, deployed_version, read_manifest
from contracts.errors import ArtifactError, ConfigError, StackError, UpstreamError, UpstreamTimeout
from features.history import HISTORY_FORMAT
from features.online import OnlineSettings, OnlineStore, materialize
from features.state import STATE_FORMAT
from nlq.translate import Model, model_in
from ray_apps.clock import ServingClock, anchor
from ray_apps.deployments.lander import Lander
from ray_apps.host import free_ports
from ray_apps.keys import KeyRing, create_key
from ray_apps.migrations import upgrade
from ray_apps.record import RECORD, running_record
from ray_apps.scoring.jobs import JobRunner
from ray_apps.settings import ServeSettings
from ray_apps.store import OperationalStore
from ray_apps.supervisor import RayHost
from serving import repository
from serving.triton import TritonServer, TritonSettings, deployed_probe
from warehouse.store import Warehouse

log = logging.getLogger("regulars.stack")

DEMO_KEY, LOCK, CLOCK, MATERIALIZED = "demo.key", "serve.lock", "clock.json", "materialized.json"
PROBE_CUSTOMER = "readiness-check"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Running:
    """What runs where, for people and for `serve.json`."""

    pid: int
    url: str
    host: str
    port: int
    business_id: str
    model_version: str
    data_version: str
    clock: str
    serving_time: str
    triton: dict[str, Any]
    key_file: str
    logs: str
    replicas: int
    seconds: float
    ready: bool = True


class Stack:
    """One running stack on one home.

    Args:
        settings: as the user gave them.
        say: told each step in words.
    """

    def __init__(self, settings: ServeSettings, say: Say = lambda text: None) -> None:
        self.settings, self._say = settings, say
        self.home = settings.folder
        self._lock: IO[str] | None = None
        self._ray: RayHost | None = None
        self._triton: TritonServer | None = None
        self._background: _Background | None = None
        self.clock = ServingClock()

    def start(self) -> Running:
        """Start everything; returns when a real recommendation has been answered.

        Raises:
            ConfigError: a wrong setting, a taken port, or another stack on this home.
            ArtifactError: no model is deployed, or no data is there.
            UpstreamError, UpstreamTimeout: a part did not start.
        """
        began = time.monotonic()
        self._lock_home()
        version = deployed_version(self.home.models)
        read_manifest(self.home.models / MODEL_NAME / version)
        warehouse = Warehouse(self.home.warehouse)
        business_id = self.settings.business_id or _first_business(warehouse)
        port = _public_port(self.settings.host, self.settings.port)
        self._say("Ray Serve and HAProxy are starting")
        self._ray = RayHost(self.home.run / "logs")
        self._ray.start(self.settings.host, port, self.settings.object_store_mb)
        url = self.settings.database_url or self.home.database_url
        self._say("operational database: migrations")
        upgrade(url)
        self._start_triton(version)
        self.clock = anchor(self.settings.clock, warehouse.as_of(), self._last_served())
        materialized = self._materialize(warehouse, url)
        if materialized:
            self._say(f"online features: {materialized:,} customers")
        key = asyncio.run(self._demo_key(url, business_id))
        assert self._triton is not None  # noqa: S101 - _start_triton has set it
        resolved = self.settings.model_copy(
            update={
                "port": port,
                "database_url": url,
                "triton_url": self._triton.url,
                "clock_anchor_serving": self.clock.serving,
                "clock_anchor_wall": self.clock.wall,
                "home": self.home.root.resolve(),
            }
        )
        self._ray.wait_for("serve", self.settings.start_timeout_s)
        self._say("replicas are loading")
        self._ray.deploy(resolved.model_dump(mode="json"))
        self._ray.wait_for("deployed", self.settings.start_timeout_s)
        answered = _first_answer(self.settings.host, port, key, self.settings.start_timeout_s)
        self._background = _Background(url, warehouse, self.home.run / CLOCK, self.clock, self.settings.landing_interval_s, self._online)
        self._background.start()
        running = Running(
            pid=os.getpid(),
            url=f"http://{_reachable(self.settings.host)}:{port}",
            host=self.settings.host,
            port=port,
            business_id=business_id,
            model_version=str(answered["modelVersion"]),
            data_version=warehouse.data_version(),
            clock=self.clock.mode,
            serving_time=self.clock.now().isoformat(timespec="seconds"),
            triton={"pid": self._triton.pid, "grpc": self._triton.url, "http": self._triton.http_url, "metrics": self._triton.metrics_url},
            key_file=str((self.home.run / DEMO_KEY).resolve()),
            logs=str((self.home.run / "logs").resolve()),
            replicas=self.settings.replicas,
            seconds=round(time.monotonic() - began, 1),
        )
        _write_atomically(self.home.run / RECORD, json.dumps(running.__dict__, indent=1))
        return running

    def check(self) -> None:
        """Raise UpstreamError when the Ray process is gone; Triton is watched and restarted by itself."""
        if self._ray is None or not self._ray.alive:
            raise UpstreamError(f"the Ray process ended. Look into {self.home.run / 'logs' / 'ray.log'} and start again: regulars serve")

    def stop(self) -> None:
        """Stop everything, whatever has been started; leaves no process, socket or shared memory. May be called again."""
        if self._lock is not None:
            with suppress(OSError):
                (self.home.run / RECORD).unlink(missing_ok=True)
        if self._ray is not None:
            self._ray.stop()
        if self._background is not None:
            self._background.stop()
        if self._triton is not None:
            self._triton.stop()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _lock_home(self) -> None:
        self.home.run.mkdir(parents=True, exist_ok=True)
        lock = (self.home.run / LOCK).open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            lock.close()
            found = running_record(self.home.run)
            where = f" (process {found['pid']}, {found['url']})" if found else ""
            raise ConfigError(
                f"a stack already runs on {self.home.root}{where}, one per home is allowed. Stop it, or give another --home."
            ) from exc
        self._lock = lock
        (self.home.run / RECORD).unlink(missing_ok=True)

    def _start_triton(self, version: str) -> None:
        repository.build(self.home.models / MODEL_NAME / version, self.home.triton_repo)
        served = {MODEL_NAME: version, **self._add_other_bundles()}
        self._add_questions()
        self._say(f"model server: {', '.join(f'{name}/{v}' for name, v in served.items())}")
        (self.home.run / "logs").mkdir(parents=True, exist_ok=True)
        self._triton = TritonServer(
            TritonSettings.load(), self.home.triton_repo, self.home.run / "triton", deployed_probe(self.home.models, tuple(served))
        )
        self._triton.start().watch()

    def _add_other_bundles(self) -> dict[str, str]:
        """Deployed versions of the bundles beside the recommender's, by name; one that cannot be used is told and left out."""
        added = {}
        for name in BUNDLES:
            if name == MODEL_NAME or not (self.home.models / name / "deployed.json").is_file():
                continue
            try:
                version = deployed_version(self.home.models, name)
                repository.build(self.home.models / name / version, self.home.triton_repo)
                added[name] = version
            except ArtifactError as exc:
                self._say(f"model server: without {name}: {exc}")
        return added

    def _add_questions(self) -> None:
        """Add the text-to-SQL model of the home, else the one that comes with the product; one that cannot be used is told and left out."""
        folder = model_in(self.home.root)
        try:
            Model.read(folder)
            repository.build_questions(folder, self.home.triton_repo)
        except ArtifactError as exc:
            repository.remove_questions(self.home.triton_repo)
            self._say(f"model server: without text_to_sql: {exc}")

    def _last_served(self) -> datetime | None:
        try:
            return datetime.fromisoformat(json.loads((self.home.run / CLOCK).read_text(encoding="utf-8"))["serving"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _online(self) -> OnlineStore:
        return OnlineStore(OnlineSettings.load(), self.home)

    def _materialize(self, warehouse: Warehouse, url: str) -> int:
        """Fill the online store unless it holds this very state of the warehouse; returns customers written, 0 when it did."""
        mark = self.home.run / MATERIALIZED
        # A killed run may have landed rows without moving the marker: land first, or they count in the states and in the inbox.
        watermark = asyncio.run(_land(url, warehouse))
        online_settings = OnlineSettings.load().public()
        formats = {"state": STATE_FORMAT, "history": HISTORY_FORMAT}
        wanted = {"data_version": warehouse.data_version(), "online": online_settings, "watermark": watermark, **formats}
        with suppress(OSError, ValueError):
            if json.loads(mark.read_text(encoding="utf-8")) == wanted:
                return 0
        online = self._online()
        shown = [0.0]

        def progress(done: int, total: int) -> None:
            if time.monotonic() - shown[0] > 2:
                shown[0] = time.monotonic()
                self._say(f"online features: {done:,} of {total:,} customers")

        try:
            with warehouse.connect() as connection:
                written = materialize(connection, online, self.clock.now(), watermark, progress=progress)
        finally:
            online.close()
        _write_atomically(mark, json.dumps(wanted))
        return written

    async def _demo_key(self, url: str, business_id: str) -> str:
        """The key that `regulars recommend` uses; a new one when there is none, or it does not fit the database."""
        file = self.home.run / DEMO_KEY
        store = OperationalStore(url)
        try:
            with suppress(OSError, StackError):
                token = file.read_text(encoding="utf-8").strip()
                caller = await KeyRing(store).authenticate(f"Bearer {token}")
                if caller.business_id == business_id:
                    return token
            made = await create_key(store, business_id, "app", "made by regulars serve")
        finally:
            await store.close()
        _write_atomically(file, made.token + "\n", mode=0o600)
        return made.token


class _Background:
    """The lander, the scorings asked for, and a note of the serving time, on an event loop of their own thread."""

    def __init__(
        self, url: str, warehouse: Warehouse, clock_file: Path, clock: ServingClock, interval_s: float, online: Callable[[], OnlineStore]
    ) -> None:
        self._url, self._warehouse, self._clock_file, self._clock, self._interval_s = url, warehouse, clock_file, clock, interval_s
        self._online = online
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="lander", daemon=True)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Wait for a landing that is under way, then end."""
        if self._thread.is_alive():
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(lambda: self._task.cancel() if self._task else None)
            self._thread.join(timeout=30)
        self._note()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._run())
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    async def _run(self) -> None:
        store, online = OperationalStore(self._url), self._online()

        def recompute(connection: Any, *, as_of: datetime, watermark: int, customers: pa.Table) -> int:
            pairs = list(zip(customers["business_id"].to_pylist(), customers["customer_id"].to_pylist(), strict=True))
            return materialize(connection, online, as_of, watermark, pairs)

        lander = Lander(store, self._warehouse, recompute, now=self._clock.now)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(lander.run_forever(self._interval_s))
                group.create_task(self._keep_noting())
                group.create_task(JobRunner(store, self._warehouse.root.parent, self._clock_file.parent / "logs").run_forever())
        finally:
            online.close()
            await store.close()

    async def _keep_noting(self) -> None:
        while True:
            self._note()
            await asyncio.sleep(5)

    def _note(self) -> None:
        """So that a run on the warehouse's clock goes on where this one stops, and time never runs backwards."""
        if self._clock.mode == "warehouse":
            with suppress(OSError):
                _write_atomically(self._clock_file, json.dumps({"serving": self._clock.now().isoformat()}))


async def _land(url: str, warehouse: Warehouse) -> int:
    """Land what waits in the inbox, without recomputing states; returns the sequence number up to which it has landed."""
    store = OperationalStore(url)
    try:
        lander = Lander(store, warehouse, lambda connection, **ignored: 0)
        while (await lander.land_once()).rows:
            pass
        return await store.landed_seq()
    finally:
        await store.close()


def _first_business(warehouse: Warehouse) -> str:
    with warehouse.connect() as connection:
        row = connection.execute("SELECT business_id FROM rewards GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1").fetchone()
    if row is None:
        raise ArtifactError(
            f"the warehouse {warehouse.root} holds no rewards, so there is nothing to recommend. Bring data in: regulars data generate"
        )
    return str(row[0])


def _public_port(host: str, port: int) -> int:
    """The port to listen on, free at this moment.

    Raises:
        ConfigError: it is taken, or the address is not one of this machine.
    """
    if port == 0:
        return free_ports(1)[0]
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, port))
        except OSError as exc:
            raise ConfigError(f"cannot listen on {host} port {port}: {exc.strerror}. Give another --port, or 0 for any free one.") from exc
    return port


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound


def _first_answer(host: str, port: int, key: str, timeout_s: float) -> dict[str, Any]:
    """Ask until a recommendation made by the model server's stack answers.

    Raises:
        UpstreamTimeout: none did within the time.
    """
    deadline, problem = time.monotonic() + timeout_s, "no answer"
    with httpx.Client(base_url=f"http://{_reachable(host)}:{port}", timeout=10, headers={"Authorization": f"Bearer {key}"}) as client:
        while time.monotonic() < deadline:
            try:
                ready = client.get("/-/readyz")
                if ready.status_code == 200:
                    answer = client.post("/api/v1/ml/recommendations", json={"customerId": PROBE_CUSTOMER, "numRecommendations": 1})
                    if answer.status_code == 200:
                        return dict(answer.json())
                    ready = answer
                problem = f"{ready.status_code} {ready.text[:200]}"
            except httpx.HTTPError as exc:
                problem = f"{type(exc).__name__}: {exc}"
            time.sleep(0.1)
    raise UpstreamTimeout(f"the stack gave no recommendation within {timeout_s:g} s; last: {problem}. Look into the logs and start again.")


def _write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as f:
        f.write(text)
    temporary.replace(path)
