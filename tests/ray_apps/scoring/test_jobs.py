"""Jobs: one at a time, in order, through deaths of their processes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from contracts.errors import ArtifactError, Overloaded, UnknownItem, UpstreamError
from ray_apps.migrations import upgrade_async
from ray_apps.scoring import jobs as jobs_module
from ray_apps.scoring.jobs import FAILED, FINISHED, MAX_ATTEMPTS, MAX_WAITING, QUEUED, RUNNING, JobRunner, Jobs, batch_jobs, work
from ray_apps.scoring.settings import ScoreSettings
from ray_apps.store import OperationalStore

AS_OF = datetime(2025, 6, 15, 10, 30, tzinfo=UTC)
Rows = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
async def jobs(store: OperationalStore) -> Jobs:
    """On both engines."""
    return Jobs(store)


@pytest.fixture
async def scorable_store(scorable: Path) -> AsyncIterator[OperationalStore]:
    """The migrated database of `scorable`."""
    url = f"sqlite:///{scorable / 'regulars.db'}"
    await upgrade_async(url)
    opened = OperationalStore(url)
    yield opened
    await opened.close()


async def test_a_job_is_stored_and_found_by_its_business_only(jobs: Jobs) -> None:
    made = await jobs.add("biz-1", ["b", "a", "b"], AS_OF)
    assert (made.customers, made.status, made.as_of, made.done, made.total, made.result) == (["a", "b"], QUEUED, AS_OF, 0, None, None)
    assert await jobs.get(made.job_id, "biz-1") == made == await jobs.get(made.job_id)
    for ask in (jobs.get(made.job_id, "biz-2"), jobs.get("nothing"), jobs.get("a\x00b")):
        with pytest.raises(UnknownItem, match="there is no job"):
            await ask


async def test_everyone_is_asked_for_once_while_it_waits(jobs: Jobs) -> None:
    first = await jobs.add("biz-1", None, AS_OF)
    assert (await jobs.add("biz-1", None, AS_OF)).job_id == first.job_id
    assert (await jobs.add("biz-2", None, AS_OF)).job_id != first.job_id
    await jobs.begin(first.job_id)
    assert (await jobs.add("biz-1", None, AS_OF)).job_id != first.job_id


async def test_too_many_waiting_jobs_are_refused(jobs: Jobs) -> None:
    for _ in range(MAX_WAITING):
        await jobs.add("biz-1", ["a"], AS_OF)
    with pytest.raises(Overloaded, match="at most 20 may"):
        await jobs.add("biz-1", ["a"], AS_OF)
    await jobs.add("biz-2", ["a"], AS_OF)


async def test_the_oldest_comes_first_and_what_was_running_before_it(jobs: Jobs) -> None:
    assert await jobs.next() is None
    first, second = await jobs.add("biz-1", ["a"], AS_OF), await jobs.add("biz-1", ["b"], AS_OF)
    assert (await jobs.next()).job_id == first.job_id  # type: ignore[union-attr]
    await jobs.begin(second.job_id)
    assert (await jobs.next()).job_id == second.job_id  # type: ignore[union-attr]
    await jobs.progress(second.job_id, 10, 4)
    started = (await jobs.get(second.job_id)).started_at
    await jobs.begin(second.job_id)
    running = await jobs.get(second.job_id)
    assert (running.status, running.total, running.done, running.started_at) == (RUNNING, 10, 4, started)
    await jobs.finish(second.job_id, {"customers": 10})
    await jobs.fail(first.job_id, "x" * 5000)
    assert await jobs.next() is None
    over = [await jobs.get(j.job_id) for j in (first, second)]
    assert [(j.status, j.done, j.result, len(j.error or "")) for j in over] == [
        (FAILED, 0, None, 2000),
        (FINISHED, 10, {"customers": 10}, 0),
    ]
    assert all(j.finished_at is not None for j in over)


async def test_a_job_is_worked_on_by_the_command(scorable: Path, scorable_store: OperationalStore, scores: Rows) -> None:
    """`regulars score --job` in a process of its own; one of all customers of a business, then one of some."""
    jobs = Jobs(scorable_store)
    everyone, some = await jobs.add("biz-2", None, AS_OF), await jobs.add("biz-1", ["cust-0001", "nobody"], AS_OF)
    runner = JobRunner(scorable_store, scorable, scorable / "run" / "logs", poll_s=0.05)
    assert await runner.run_next()
    found = await jobs.get(everyone.job_id)
    assert (found.status, found.total, found.done) == (FINISHED, 40, 40), (scorable / "run" / "logs" / "jobs.log").read_text()
    assert found.result is not None
    assert found.result["run"] == everyone.job_id
    assert await runner.run_next()
    assert not await runner.run_next()
    found = await jobs.get(some.job_id)
    assert found.result is not None
    assert (found.status, found.total, found.result["unknown"]) == (FINISHED, 1, 1)
    rows = scores(scorable)
    assert len(rows) == 41
    assert sorted({r[2] for r in rows})[0] == AS_OF


async def test_a_job_goes_on_with_the_next_stack(scorable: Path, scorable_store: OperationalStore, scores: Rows, monkeypatch: Any) -> None:
    """The runner is cancelled while its process works, as by a stack that is stopped."""
    for name, value in (("SHARD_SIZE", "3"), ("WORKERS", "1")):
        monkeypatch.setenv(f"REGULARS_SCORE_{name}", value)
    jobs = Jobs(scorable_store)
    job = await jobs.add("biz-1", None, AS_OF)
    runner = JobRunner(scorable_store, scorable, scorable / "run" / "logs", poll_s=0.05)
    task = asyncio.create_task(runner.run_forever())
    parts = scorable / "scores" / job.job_id
    deadline = time.monotonic() + 120
    while len(list(parts.glob("part-*.parquet"))) < 3:
        assert time.monotonic() < deadline
        assert not task.done()
        await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    left = await jobs.get(job.job_id)
    assert (left.status, left.attempts, scores(scorable)) == (RUNNING, 0, [])
    assert await runner.run_next()
    found = await jobs.get(job.job_id)
    assert found.result is not None
    assert (found.status, found.result["resumed"] >= 3, len(scores(scorable))) == (FINISHED, True, 300)


async def test_a_process_that_is_killed_is_started_again_but_not_for_ever(
    scorable: Path, scorable_store: OperationalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Jobs(scorable_store)
    job = await jobs.add("biz-1", None, AS_OF)
    runner, killed = JobRunner(scorable_store, scorable, scorable / "logs", poll_s=0.01), []
    started = jobs_module.subprocess.Popen

    def start_and_kill(*arguments: Any, **more: Any) -> Any:
        process = started(*arguments, **more)
        os.kill(process.pid, signal.SIGKILL)
        killed.append(process.pid)
        return process

    monkeypatch.setattr(jobs_module.subprocess, "Popen", start_and_kill)
    for _ in range(MAX_ATTEMPTS):
        assert await runner.run_next()
    assert (await jobs.get(job.job_id)).attempts == len(killed) == MAX_ATTEMPTS
    assert await runner.run_next()
    found = await jobs.get(job.job_id)
    assert (found.status, len(killed)) == (FAILED, MAX_ATTEMPTS)
    assert "ended 3 times" in (found.error or "")


async def test_a_mistake_that_stays_makes_the_job_failed(
    scorable: Path, scorable_store: OperationalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module.os, "nice", lambda by: 0)
    monkeypatch.setattr(jobs_module, "prctl", lambda option, value: None)
    jobs, url = Jobs(scorable_store), f"sqlite:///{scorable / 'regulars.db'}"
    (scorable / "models" / "sequence" / "deployed.json").unlink()
    job = await jobs.add("biz-1", None, AS_OF)
    with pytest.raises(ArtifactError, match="no deployed sequence"):
        await asyncio.to_thread(work, ScoreSettings(home=scorable), url, job.job_id)
    found = await jobs.get(job.job_id)
    assert found.status == FAILED
    assert "regulars train sequence" in (found.error or "")
    with pytest.raises(UnknownItem):
        await asyncio.to_thread(work, ScoreSettings(home=scorable), url, "nothing")


async def test_a_part_that_is_away_leaves_the_job_for_another_attempt(
    scorable: Path, scorable_store: OperationalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module.os, "nice", lambda by: 0)
    monkeypatch.setattr(jobs_module, "prctl", lambda option, value: None)

    def away(*_: Any, **__: Any) -> Any:
        raise UpstreamError("Ray is away")

    monkeypatch.setattr(jobs_module, "score", away)
    jobs = Jobs(scorable_store)
    job = await jobs.add("biz-1", None, AS_OF)
    with pytest.raises(UpstreamError):
        await asyncio.to_thread(work, ScoreSettings(home=scorable), f"sqlite:///{scorable / 'regulars.db'}", job.job_id)
    assert (await jobs.get(job.job_id)).status == RUNNING


async def test_progress_is_written_while_it_works(scorable_store: OperationalStore, scorable: Path) -> None:
    jobs = Jobs(scorable_store)
    job = await jobs.add("biz-1", None, AS_OF)

    def run() -> None:
        with jobs_module._noted(f"sqlite:///{scorable / 'regulars.db'}", job.job_id, every_s=0.02) as progress:
            progress.total = 300
            progress.advance(120)
            deadline = time.monotonic() + 20
            while asyncio.run(jobs_module._with(f"sqlite:///{scorable / 'regulars.db'}", lambda j: j.get(job.job_id))).done != 120:
                assert time.monotonic() < deadline

    await asyncio.to_thread(run)
    assert (await jobs.get(job.job_id)).total == 300


async def test_a_database_that_is_away_is_waited_for(tmp_path: Path) -> None:
    store = OperationalStore(f"sqlite:///{tmp_path / 'none' / 'x.db'}")
    task = asyncio.create_task(JobRunner(store, tmp_path, tmp_path, poll_s=0.01).run_forever())
    await asyncio.sleep(0.2)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await store.close()


async def test_the_status_is_one_of_four(scorable_store: OperationalStore) -> None:
    job = await Jobs(scorable_store).add("biz-1", None, AS_OF)
    with pytest.raises(UpstreamError, match="IntegrityError"):
        async with scorable_store.transaction() as connection:
            await connection.execute(sa.update(batch_jobs).where(batch_jobs.c.job_id == job.job_id).values(status="lost"))
