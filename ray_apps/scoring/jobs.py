"""Scorings asked for over HTTP: rows of the operational database, worked on one at a time by a process of the stack.

The stack's parent starts `regulars score --job ID` for the oldest job that is not over. A job is a run of the same id, so one whose process
or stack died goes on where it was; a job whose process died three times under one that lives is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from contracts.errors import Overloaded, StackError, UnknownItem, UpstreamError
from ray_apps.host import PDEATHSIG, prctl
from ray_apps.scoring.runner import score
from ray_apps.scoring.runs import Run
from ray_apps.scoring.settings import ScoreSettings
from ray_apps.store import Micros, OperationalStore, metadata
from ray_apps.supervisor import CHECKOUT

log = logging.getLogger("regulars.jobs")
QUEUED, RUNNING, FINISHED, FAILED = "queued", "running", "finished", "failed"
MAX_WAITING = 20
"""Jobs of one business that may wait."""
MAX_ATTEMPTS = 3
NICENESS = 10

batch_jobs = sa.Table(
    "batch_jobs",
    metadata,
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("business_id", sa.Text, nullable=False),
    sa.Column("customers", sa.Text),
    sa.Column("as_of", Micros, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("total", sa.BigInteger),
    sa.Column("done", sa.BigInteger, nullable=False),
    sa.Column("created_at", Micros, nullable=False),
    sa.Column("started_at", Micros),
    sa.Column("finished_at", Micros),
    sa.Column("result", sa.Text),
    sa.Column("error", sa.Text),
    sa.CheckConstraint("status IN ('queued', 'running', 'finished', 'failed')", name="batch_jobs_status"),
    sa.Index("batch_jobs_business", "business_id", "status"),
    sa.Index("batch_jobs_created", "status", "created_at"),
)


@dataclass(frozen=True)
class Job:
    """One row.

    Attributes:
        customers: ids; None for all of the business. as_of: serving time when it was asked for.
        total: customers of the run, None until it is planned. attempts: processes that ended before the job did.
        result: of `runner.score`, once finished.
    """

    job_id: str
    business_id: str
    customers: list[str] | None
    as_of: datetime
    status: str
    attempts: int
    total: int | None
    done: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    result: dict[str, Any] | None
    error: str | None


class Jobs:
    """Access to the jobs. Raises as `OperationalStore` does.

    Args:
        store: the operational database.
    """

    def __init__(self, store: OperationalStore) -> None:
        self._store = store

    async def add(self, business_id: str, customers: Sequence[str] | None, as_of: datetime) -> Job:
        """A new job; the one that waits already where everyone is asked for again.

        Raises:
            Overloaded: too many of the business wait.
        """
        waiting = (batch_jobs.c.business_id == business_id, batch_jobs.c.status == QUEUED)
        async with self._store.transaction() as connection:
            count = (await connection.execute(sa.select(sa.func.count()).where(*waiting))).scalar_one()
            same = (await connection.execute(sa.select(batch_jobs).where(*waiting, batch_jobs.c.customers.is_(None)))).mappings().first()
            if customers is None and same is not None:
                return _job(same)
            if count >= MAX_WAITING:
                raise Overloaded(f"{count} jobs of {business_id} wait, at most {MAX_WAITING} may. Try again when one is done.", 30)
            row = {
                "job_id": f"job-{secrets.token_hex(12)}",
                "business_id": business_id,
                "customers": None if customers is None else json.dumps(sorted(set(customers))),
                "as_of": as_of,
                "status": QUEUED,
                "attempts": 0,
                "done": 0,
                "created_at": datetime.now(UTC),
            }
            await connection.execute(sa.insert(batch_jobs).values(row))
        return await self.get(str(row["job_id"]))

    async def get(self, job_id: str, business_id: str | None = None) -> Job:
        """One job, of any business where none is given.

        Raises:
            UnknownItem: there is none of that id for this business.
        """
        found = None
        if "\x00" not in job_id:  # PostgreSQL has no NUL in text
            query = sa.select(batch_jobs).where(batch_jobs.c.job_id == job_id)
            if business_id is not None:
                query = query.where(batch_jobs.c.business_id == business_id)
            async with self._store.reading() as connection:
                found = (await connection.execute(query)).mappings().first()
        if found is None:
            raise UnknownItem(f"there is no job {job_id}. Use the jobId of an answer of POST /api/v1/predictions/batch.")
        return _job(found)

    async def next(self) -> Job | None:
        """What to work on: a job that was running when its process died, else the oldest that waits."""
        open_ones = sa.select(batch_jobs).where(batch_jobs.c.status.in_((RUNNING, QUEUED)))
        order = (sa.case((batch_jobs.c.status == RUNNING, 0), else_=1), batch_jobs.c.created_at, batch_jobs.c.job_id)
        async with self._store.reading() as connection:
            found = (await connection.execute(open_ones.order_by(*order).limit(1))).mappings().first()
        return None if found is None else _job(found)

    async def begin(self, job_id: str) -> None:
        """A process works on it."""
        started = sa.func.coalesce(batch_jobs.c.started_at, sa.bindparam("now", datetime.now(UTC), type_=Micros))
        await self._change(job_id, status=RUNNING, started_at=started)

    async def broke(self, job_id: str) -> None:
        """Its process ended before the job did."""
        await self._change(job_id, attempts=batch_jobs.c.attempts + 1)

    async def progress(self, job_id: str, total: int, done: int) -> None:
        """How far it is."""
        await self._change(job_id, total=total, done=done)

    async def finish(self, job_id: str, result: dict[str, Any]) -> None:
        """It is over and went well."""
        customers = result["customers"]
        await self._change(
            job_id, status=FINISHED, finished_at=datetime.now(UTC), total=customers, done=customers, result=json.dumps(result)
        )

    async def fail(self, job_id: str, error: str) -> None:
        """It is over and did not go well."""
        await self._change(job_id, status=FAILED, finished_at=datetime.now(UTC), error=error[:2000])

    async def _change(self, job_id: str, **values: Any) -> None:
        async with self._store.transaction() as connection:
            await connection.execute(sa.update(batch_jobs).where(batch_jobs.c.job_id == job_id).values(**values))


def _job(row: Any) -> Job:
    columns = dict(row)
    for name in ("customers", "result"):
        columns[name] = None if columns[name] is None else json.loads(columns[name])
    return Job(**columns)


# ---- in the process of a job ------------------------------------------------------------------------------------------------


def work(settings: ScoreSettings, database_url: str, job_id: str) -> dict[str, Any]:
    """Work on a job to its end; a mistake that trying again does not mend makes it failed.

    Args:
        settings: of the home; business and as-of time are the job's.

    Returns:
        As `runner.score`.

    Raises:
        UnknownItem: there is no such job.
        StackError: as `runner.score`.
    """
    prctl(PDEATHSIG, signal.SIGTERM)  # with the stack; what is done is kept, and the next stack goes on
    os.nice(NICENESS)  # behind whatever answers requests
    job = asyncio.run(_with(database_url, lambda jobs: jobs.get(job_id)))
    mine = settings.model_copy(update={"business_id": job.business_id, "as_of": job.as_of})
    asyncio.run(_with(database_url, lambda jobs: jobs.begin(job_id)))
    try:
        with _noted(database_url, job_id) as progress:
            result = score(mine, run=job_id, customers=job.customers, progress=progress, wait_for_others=True)
    except UpstreamError:
        raise  # the next attempt may go better
    except StackError as exc:
        error = f"{exc.title}: {exc}"
        asyncio.run(_with(database_url, lambda jobs: jobs.fail(job_id, error)))
        raise
    asyncio.run(_with(database_url, lambda jobs: jobs.finish(job_id, result)))
    return result


async def _with(database_url: str, do: Any) -> Any:
    store = OperationalStore(database_url)
    try:
        return await do(Jobs(store))
    finally:
        await store.close()


class _Noted:
    """A `runner.Progress` that a thread writes into the job every second."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.done = 0

    def begin(self, run: Run, done: int) -> None:
        """The run is planned."""
        self.done, self.total = done, run.customers

    def advance(self, customers: int) -> None:
        """Customers more are done."""
        self.done += customers

    def landing(self, shard: int) -> None:
        """The customers are done."""


@contextlib.contextmanager
def _noted(database_url: str, job_id: str, every_s: float = 1.0) -> Iterator[_Noted]:
    progress, over = _Noted(), threading.Event()

    def write() -> None:
        while not over.wait(every_s):
            total, done = progress.total, progress.done
            if total is not None:
                with contextlib.suppress(UpstreamError):  # a busy database is no reason to stop scoring
                    asyncio.run(_with(database_url, lambda jobs: jobs.progress(job_id, total, done)))  # noqa: B023 - run at once

    thread = threading.Thread(target=write, name="job-progress", daemon=True)
    thread.start()
    try:
        yield progress
    finally:
        over.set()
        thread.join()


# ---- in the stack's parent --------------------------------------------------------------------------------------------------


class JobRunner:
    """Works on the jobs of a home, one at a time.

    Args:
        store: the operational database. home: whose.
        logs: folder for what the processes say.
        poll_s: pause between two looks.
    """

    def __init__(self, store: OperationalStore, home: Path, logs: Path, poll_s: float = 1.0) -> None:
        self._jobs, self._home, self._logs, self._poll_s = Jobs(store), home, logs, poll_s

    async def run_forever(self) -> None:
        """Until cancelled; the process of a job is then ended, and the job goes on with the next stack."""
        while True:
            try:
                if not await self.run_next():
                    await asyncio.sleep(self._poll_s)
            except UpstreamError as exc:
                log.warning("cannot look for jobs: %s", exc)
                await asyncio.sleep(self._poll_s * 5)

    async def run_next(self) -> bool:
        """Work on the next job, if there is one; returns whether there was."""
        job = await self._jobs.next()
        if job is None:
            return False
        if job.attempts >= MAX_ATTEMPTS:
            error = f"its process ended {job.attempts} times before the job did. Look into {self._log} on the server, then ask again."
            await self._jobs.fail(job.job_id, error)
            return True
        code = await self._process(job.job_id)
        left = await self._jobs.get(job.job_id)
        if left.status in (QUEUED, RUNNING):
            log.warning("the process of job %s ended with %d, %d times before", job.job_id, code, left.attempts)
            await self._jobs.broke(job.job_id)
            await asyncio.sleep(self._poll_s)
        return True

    @property
    def _log(self) -> Path:
        return self._logs / "jobs.log"

    async def _process(self, job_id: str) -> int:
        self._logs.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "regulars", "score", "--job", job_id, "--home", str(self._home.resolve()), "--json"]
        with self._log.open("a", encoding="utf-8") as out:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=CHECKOUT, start_new_session=True)
        try:
            while process.poll() is None:
                await asyncio.sleep(0.05)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        return process.returncode
