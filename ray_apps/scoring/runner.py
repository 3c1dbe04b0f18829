"""A scoring run from its plan to its rows in the warehouse; may be stopped at any instant and goes on where it was.

A shard is done when its file has its name, so nothing but files tells what is left. When all are there they are landed, some together, as
the sources `score:<run>:<first shard>`, each of which the warehouse lands once only.
"""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.bundle import deployed_version
from contracts.errors import ArtifactError, ConfigError
from contracts.sequence import MODEL_NAME
from contracts.tables import RISK_LEVELS
from ray_apps.clock import wall_now
from ray_apps.scoring.runs import TABLE, Run, RunFolder, default_as_of, plan, read_run, runs
from ray_apps.scoring.settings import ScoreSettings
from ray_apps.scoring.shard import ShardReport, ShardScorer, part_rows
from ray_apps.tuning import ChurnSettings
from warehouse.store import Warehouse


class Progress(Protocol):
    """Who is told how far a run is."""

    def begin(self, run: Run, done: int) -> None:
        """The run, and the customers that are done already."""

    def advance(self, customers: int) -> None:
        """So many customers more are done."""

    def landing(self, shard: int) -> None:
        """All shards up to this one are being landed."""


class Silent:
    """Tells nobody."""

    def begin(self, run: Run, done: int) -> None:
        """Nothing."""

    def advance(self, customers: int) -> None:
        """Nothing."""

    def landing(self, shard: int) -> None:
        """Nothing."""


Engine = Callable[[ScoreSettings, Run, Sequence[int], Callable[[int], None]], Iterator[ShardReport]]
"""Scores the given shards of a run; told customers as they are done; gives a report of each finished shard."""


def score(
    settings: ScoreSettings,
    *,
    run: str | None = None,
    fresh: bool = False,
    customers: Sequence[str] | None = None,
    progress: Progress | None = None,
    wait_for_others: bool = False,
) -> dict[str, Any]:
    """Score customers into `customer_risk_scores`; goes on with an unfinished run of the same model and business.

    Args:
        settings: what, where and how.
        run: go on with this one, or begin one of this id where `customers` or a job names it.
        fresh: begin anew; unfinished runs of the same business that have landed nothing are given up.
        customers: ids of `settings.business_id`, for a named run; everyone when None.
        wait_for_others: wait while another command works on this home, instead of raising.

    Returns:
        run, state, repeated, customers, unknown, scored, resumed (shards found done), shards, seconds (of this call),
        customers_per_second, engine, version, as_of, scored_at, data_version, levels, clv_at_risk, and seconds of each part of the work.

    Raises:
        ConfigError: another command works on this home.
        ArtifactError: no model is deployed, there is nobody to score, or what the run began with is gone.
        UnknownItem: there is no run of that id.
    """
    began = time.perf_counter()
    home, shown = settings.home, progress or Silent()
    with _alone(home, wait_for_others):
        record, repeated = _choose(settings, run, fresh, customers)
        folder = RunFolder(home, record.run)
        reports: list[ShardReport] = []
        resumed, engine = record.shards, "none"
        if record.state == "scoring":
            missing = _missing(folder, record)
            resumed = record.shards - len(missing)
            shown.begin(record, record.customers - sum(record.shard_rows[s] for s in missing))
            engine = _engine(settings, sum(record.shard_rows[s] for s in missing)) if missing else "none"
            if missing:
                reports = list(_ENGINES[engine](settings, record, missing, shown.advance))
            record = folder.write(record.model_copy(update={"state": "landing"}))
        elif record.state == "landing":
            shown.begin(record, record.customers)
        if record.state == "landing":
            record = _land(home, folder, record, shown)
        folder.tidy()
    return _summary(record, reports, repeated, resumed, engine, time.perf_counter() - began)


@contextmanager
def _alone(home: Path, wait_for_others: bool) -> Iterator[None]:
    (home / "scores").mkdir(parents=True, exist_ok=True)
    with (home / "scores" / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait_for_others else fcntl.LOCK_NB))
        except OSError as exc:
            raise ConfigError(f"another command is scoring on {home}, one at a time is allowed. Wait until it has ended.") from exc
        yield


def _choose(settings: ScoreSettings, run: str | None, fresh: bool, customers: Sequence[str] | None) -> tuple[Run, bool]:
    """The run to work on, and whether it is finished already."""
    home, warehouse = settings.home, Warehouse(settings.folder.warehouse)
    known = runs(home)
    if run is not None and any(r.run == run for r in known):
        found = read_run(home, run)
        return found, found.state == "finished"
    if run is not None and customers is None and settings.as_of is None:
        read_run(home, run)  # raises: only a job names a run that is not there yet
    version = deployed_version(settings.folder.models, MODEL_NAME)
    as_of = settings.as_of or default_as_of(warehouse, settings.business_id)
    if run is None:
        same = [r for r in known if r.business_id == settings.business_id and not r.job]
        kept = _reusable(same, settings, version, as_of, warehouse) if not fresh else None
        if kept is not None:
            return kept, kept.state == "finished"
        _give_up(home, [r for r in same if r.state != "finished"])
    record = plan(
        home,
        warehouse,
        run=run,
        business_id=settings.business_id,
        as_of=as_of,
        version=version,
        shards=settings.shards,
        shard_size=settings.shard_size,
        batch_size=settings.batch_size,
        landing_rows=settings.landing_rows,
        risk_cuts=ChurnSettings.load().risk_cuts,
        customers=customers,
        job=run is not None,
    )
    return record, False


def _reusable(same: list[Run], settings: ScoreSettings, version: str, as_of: Any, warehouse: Warehouse) -> Run | None:
    """An unfinished run to go on with, else a finished one of the very same data, moment and model."""
    fits = [r for r in same if r.version == version and (settings.as_of is None or r.as_of == as_of)]
    unfinished = [r for r in fits if r.state != "finished"]
    if unfinished:
        return unfinished[-1]
    version_now = warehouse.data_version()
    return next((r for r in reversed(fits) if r.as_of == as_of and r.data_version == version_now), None)


def _give_up(home: Path, unfinished: list[Run]) -> None:
    """Runs that nobody goes on with: what has begun to land is landed to its end, the others are deleted."""
    for old in unfinished:
        folder = RunFolder(home, old.run)
        if old.state == "landing":
            _land(home, folder, old, Silent())
            folder.tidy()
        else:
            folder.remove()


def _missing(folder: RunFolder, record: Run) -> list[int]:
    for left in folder.path.glob("*.tmp"):
        left.unlink(missing_ok=True)
    return [s for s, rows in enumerate(record.shard_rows) if part_rows(folder.part(s)) != rows]


# ---- engines ----------------------------------------------------------------------------------------------------------------


def _engine(settings: ScoreSettings, customers: int) -> str:
    if settings.engine != "auto":
        return settings.engine
    return "ray" if settings.ray_address is not None or customers >= settings.ray_from else "local"


class _Stopped(Exception):  # noqa: N818 - no error: the command is being stopped
    """Ends the work of a thread at its next chunk."""


def _local(settings: ScoreSettings, run: Run, shards: Sequence[int], advance: Callable[[int], None]) -> Iterator[ShardReport]:
    """In this process: as many threads as workers, each with a model of its own."""
    mine, stopping = threading.local(), threading.Event()
    workers = min(settings.worker_count, len(shards))

    def tick(customers: int) -> None:
        if stopping.is_set():
            raise _Stopped
        advance(customers)

    def work(shard: int) -> ShardReport:
        if not hasattr(mine, "scorer"):
            mine.scorer = ShardScorer(settings.home, run, 1)
        report: ShardReport = mine.scorer.score(shard, tick)
        return report

    with ThreadPoolExecutor(workers, thread_name_prefix="score") as pool:
        try:
            pending = {pool.submit(work, s) for s in shards}
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            stopping.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _ray(settings: ScoreSettings, run: Run, shards: Sequence[int], advance: Callable[[int], None]) -> Iterator[ShardReport]:
    from ray_apps.scoring.cluster import score_shards

    for report in score_shards(settings, run, shards):
        advance(report.customers)
        yield report


_ENGINES: dict[str, Engine] = {"local": _local, "ray": _ray}


# ---- landing ----------------------------------------------------------------------------------------------------------------


def _land(home: Path, folder: RunFolder, record: Run, progress: Progress) -> Run:
    """Land every part and write the end into the record.

    Raises:
        ArtifactError: a part is gone, or the warehouse refused rows of ours.
    """
    warehouse, levels, at_risk = Warehouse(home / "warehouse"), np.zeros(len(RISK_LEVELS), dtype=np.int64), 0.0
    for shards in record.landings():
        progress.landing(shards.stop)
        expected = sum(record.shard_rows[s] for s in shards)
        part = pa.concat_tables([_read_part(folder, record, s) for s in shards])
        report = warehouse.land(TABLE, part, f"score:{record.run}:{shards.start}")
        if report.rejected or part.num_rows != expected or report.landed + report.duplicates != expected:
            raise ArtifactError(
                f"parts {shards.start} to {shards.stop - 1} of run {record.run} have {part.num_rows} rows, {expected} were planned, and "
                f"{report.rejected} were refused ({report.reasons}). Begin a new run: regulars score --fresh"
            )
        levels += np.bincount(_positions(part["risk_level"]), minlength=len(RISK_LEVELS))
        at_risk += clv_at_risk(part)
    named = dict(zip(RISK_LEVELS, levels.tolist(), strict=True))
    update = {"state": "finished", "finished_at": wall_now(), "levels": named, "clv_at_risk": round(at_risk, 2)}
    return folder.write(record.model_copy(update=update))


def _read_part(folder: RunFolder, record: Run, shard: int) -> pa.Table:
    try:
        return pq.read_table(folder.part(shard))
    except (OSError, pa.ArrowException) as exc:
        raise ArtifactError(f"cannot read part {shard} of run {record.run}: {exc}. Begin a new run: regulars score --fresh") from exc


def clv_at_risk(part: pa.Table) -> float:
    """Sum of churn at 90 days times predicted CLV."""
    return float(pc.sum(pc.multiply(part["churn_90"], part["predicted_clv"].cast(pa.float64()))).as_py() or 0.0)


def _positions(levels: pa.ChunkedArray) -> np.ndarray:
    return pc.index_in(levels, pa.array(RISK_LEVELS)).to_numpy()


def _summary(record: Run, reports: list[ShardReport], repeated: bool, resumed: int, engine: str, seconds: float) -> dict[str, Any]:
    scored = sum(r.customers for r in reports)
    parts = {name: round(sum(getattr(r, name) for r in reports), 3) for name in ("read_s", "features_s", "model_s", "rows_s", "write_s")}
    return {
        "run": record.run,
        "state": record.state,
        "repeated": repeated,
        "business_id": record.business_id,
        "customers": record.customers,
        "unknown": record.unknown,
        "scored": scored,
        "seconds": round(seconds, 3),
        "customers_per_second": round(scored / seconds, 1) if scored else 0.0,
        "shards": record.shards,
        "resumed": resumed,
        "engine": engine,
        "version": f"{MODEL_NAME}/{record.version}",
        "as_of": record.as_of.isoformat(),
        "scored_at": record.scored_at.isoformat(),
        "data_version": record.data_version,
        "levels": record.levels,
        "clv_at_risk": record.clv_at_risk,
        "work_s": parts,
    }
