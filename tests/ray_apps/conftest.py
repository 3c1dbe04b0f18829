"""A migrated operational database on both engines: `database_url` is parametrised over them."""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ray_apps.migrations import upgrade_async
from ray_apps.store import OperationalStore


def _unprivileged() -> dict[str, int]:
    """PostgreSQL refuses to run as root: the user and group to become."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid}
    pytest.skip("PostgreSQL cannot run as root and this machine has neither user postgres nor nobody; run the tests as another user")


@pytest.fixture(scope="session")
def postgres_server(program: Callable[[str], str], free_port: Callable[[], int]) -> Iterator[str]:
    """URL (without a database) of a PostgreSQL server of our own, on loopback, password needed; stopped at the end."""
    initdb, postgres = program("initdb"), program("postgres")
    who, port, password = _unprivileged(), free_port(), secrets.token_hex(8)
    folder = Path(tempfile.mkdtemp(prefix="regulars-pg-"))
    try:
        word = folder / "password"
        word.write_text(password)
        for path in (folder, word):
            if who:
                os.chown(path, who["user"], who["group"])
        asked = ["-D", str(folder / "data"), "-U", "regulars", "-A", "scram-sha-256", f"--pwfile={word}", "-E", "UTF8", "--no-sync"]
        subprocess.run([initdb, *asked], check=True, capture_output=True, cwd="/", **who)  # type: ignore[call-overload]
        settings = ["-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen([postgres, "-D", str(folder / "data"), *settings], stdout=log, stderr=log, cwd="/", **who)  # type: ignore[call-overload]
        try:
            url = f"postgresql://regulars:{password}@127.0.0.1:{port}"
            with ThreadPoolExecutor(1) as other:  # this fixture may be asked for inside a running event loop
                other.submit(lambda: asyncio.run(_wait_until_up(url, server, folder / "log"))).result()
            yield url
        finally:
            server.send_signal(signal.SIGINT)  # "fast" shutdown
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _wait_until_up(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    import asyncpg

    for _ in range(300):
        assert server.poll() is None, log.read_text()
        try:
            connection = await asyncpg.connect(f"{url}/postgres")
        except (OSError, asyncpg.PostgresError):
            time.sleep(0.1)
            continue
        await connection.execute("CREATE DATABASE migrated")
        await connection.close()
        await upgrade_async(f"{url}/migrated")
        return
    raise AssertionError(log.read_text())


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def engine(request: pytest.FixtureRequest) -> str:
    """Which engine this run of the test uses."""
    return str(request.param)


@pytest.fixture
async def empty_database_url(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A database without any table."""
    if engine == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    async for url in _database(request.getfixturevalue("postgres_server"), "template1"):
        yield url


@pytest.fixture
async def database_url(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A migrated database, empty."""
    if engine == "sqlite":
        url = f"sqlite:///{tmp_path / 'regulars.db'}"
        await upgrade_async(url)
        yield url
        return
    async for url in _database(request.getfixturevalue("postgres_server"), "migrated"):
        yield url


async def _database(server: str, template: str) -> AsyncIterator[str]:
    import asyncpg

    name = f"t{secrets.token_hex(6)}"
    connection = await asyncpg.connect(f"{server}/postgres")
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield f"{server}/{name}"
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[OperationalStore]:
    """A store on a migrated, empty database."""
    opened = OperationalStore(database_url)
    yield opened
    await opened.close()
