"""Alembic migrations of the operational database, run without an alembic.ini.

A new one, to be read and corrected before it is committed:
`python -c "from ray_apps.migrations import revise; revise('sqlite:///var/regulars.db', 'what changes')"`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from pydantic import SecretStr
from sqlalchemy.engine import Connection

from contracts.errors import ConfigError
from ray_apps import picture_rows, predictions, questions  # noqa: F401 - their tables join the metadata
from ray_apps.store import OperationalStore, async_url

MIGRATION_LOCK = 0x5265_6702  # "Reg", 2: PostgreSQL advisory lock, one migration at a time


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration; `env.py` migrates over the given connection."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    made.attributes["connection"] = connection
    return made


async def upgrade_async(url: str | SecretStr, revision: str = "head") -> None:
    """Bring the database to a revision; all of it or nothing. Safe when several processes do it at once: the others wait.

    SQLite waits for `BEGIN IMMEDIATE`, PostgreSQL for an advisory lock; both are inside the migration's own transaction.

    Raises:
        ConfigError: the folder of a SQLite file cannot be made.
        UpstreamError: the database failed.
    """
    plain = url.get_secret_value() if isinstance(url, SecretStr) else url
    _make_folder(plain)
    store = OperationalStore(plain, timeout_s=60.0)
    try:
        async with store.transaction() as connection:
            if not store.is_sqlite:
                await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            await connection.run_sync(lambda sync: command.upgrade(config(sync), revision))
    finally:
        await store.close()


def upgrade(url: str | SecretStr, revision: str = "head") -> None:
    """`upgrade_async` for callers without an event loop."""
    asyncio.run(upgrade_async(url, revision))


def revise(url: str, message: str) -> None:
    """Write a new migration from the difference between the models and a database that is up to date."""

    async def run() -> None:
        store = OperationalStore(url)
        try:
            async with store.transaction() as connection:
                await connection.run_sync(lambda sync: command.revision(config(sync), message, autogenerate=True))
        finally:
            await store.close()

    asyncio.run(run())


def _make_folder(url: str) -> None:
    parsed = async_url(url)
    if parsed.get_backend_name() != "sqlite":
        return
    folder = Path(parsed.database or "").parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(
            f"cannot make folder {folder} for the operational database: {exc.strerror}. Give a --home that can be written."
        ) from exc
