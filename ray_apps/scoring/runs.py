"""The record of a scoring run, where its files lie, and which run a command goes on with.

    <home>/scores/<run>/run.json            what is scored, as of when, by what; replaced atomically
    <home>/scores/<run>/customers.parquet   who is scored: one row group a shard
    <home>/scores/<run>/acts/               what they did until the as-of time, by shard, as it was in the warehouse when the run began
    <home>/scores/<run>/part-00012.parquet  rows of a finished shard
    <home>/scores/lock                      held while one command works on any run of this home

Everything that decides about a row is fixed when a run begins, so a run that was stopped and goes on ends with the same rows as another.
Of a finished run only run.json is kept: its rows are in the warehouse.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from contracts.errors import ArtifactError, UnknownItem
from features.weekly import shards as shards_of
from features.weekly import spread
from ray_apps.clock import STALE_AFTER, wall_now
from warehouse.store import Warehouse

State = Literal["scoring", "landing", "finished"]
TABLE = "customer_risk_scores"
PLAN_MEMORY = "2GB"


class Run(BaseModel):
    """The record `run.json`.

    Attributes:
        business_id: whose customers; None for all. partial: only some of them were asked for. job: made under a name, for a job.
        as_of: nothing at or after it counts. scored_at: key of the rows; the as-of time, plus a microsecond for each earlier run of it.
        version: of the model `sequence`. data_version: of the warehouse when the run began.
        shard_rows: customers of each shard. landing_rows: shards are landed together up to so many rows.
        unknown: how many were asked for that are not in the warehouse.
        levels: customers by risk level, and clv_at_risk: sum of churn at 90 days times predicted CLV; once finished.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    run: str
    business_id: str | None
    partial: bool = False
    job: bool = False
    as_of: datetime
    scored_at: datetime
    version: str
    data_version: str
    shard_rows: tuple[int, ...]
    unknown: int = 0
    batch_size: int = Field(ge=1)
    landing_rows: int = Field(ge=1)
    risk_cuts: tuple[float, float, float]
    state: State = "scoring"
    began_at: datetime
    finished_at: datetime | None = None
    levels: dict[str, int] = {}
    clv_at_risk: float = 0.0

    @property
    def customers(self) -> int:
        """Customers of all shards."""
        return sum(self.shard_rows)

    @property
    def shards(self) -> int:
        """How many parts there are."""
        return len(self.shard_rows)

    def landings(self) -> list[range]:
        """Which shards are landed together: neighbours, always the same ones."""
        groups, first, rows = [], 0, 0
        for shard, count in enumerate(self.shard_rows):
            if rows + count > self.landing_rows and shard > first:
                groups.append(range(first, shard))
                first, rows = shard, 0
            rows += count
        return [*groups, range(first, self.shards)]


class RunFolder:
    """Where the files of one run lie.

    Args:
        home: folder of everything. run: its id.
    """

    def __init__(self, home: Path, run: str) -> None:
        self.path = home / "scores" / run
        self.record, self.customers_file, self.acts = (self.path / n for n in ("run.json", "customers.parquet", "acts"))

    def part(self, shard: int) -> Path:
        """The file of a finished shard."""
        return self.path / f"part-{shard:05d}.parquet"

    def customers(self, shard: int) -> pa.Table:
        """Who belongs to a shard: business_id, customer_id.

        Raises:
            ArtifactError: the list is missing or damaged.
        """
        try:
            with pq.ParquetFile(self.customers_file) as file:
                return file.read_row_group(shard)
        except (OSError, pa.ArrowException) as exc:
            raise ArtifactError(f"cannot read {self.customers_file}: {exc}. Begin a new run: regulars score --fresh") from exc

    def write(self, run: Run) -> Run:
        """Replace the record."""
        temporary = self.record.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(run.model_dump_json(indent=1), encoding="utf-8")
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(self.record)
        return run

    def write_customers(self, parts: Sequence[pa.Table]) -> None:
        """Write who belongs to which shard."""
        schema = pa.schema([pa.field("business_id", pa.string()), pa.field("customer_id", pa.string())])
        with pq.ParquetWriter(self.customers_file, schema) as writer:
            for part in parts:
                # An empty shard is a row group too: the number of the group is that of the shard.
                writer.write_table(part.cast(schema), row_group_size=max(part.num_rows, 1))

    def tidy(self) -> None:
        """Delete all but the record."""
        for path in self.path.iterdir() if self.path.is_dir() else ():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path != self.record:
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the run; the record goes first, so that nothing half deleted is taken for a run."""
        self.record.unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)


def runs(home: Path) -> list[Run]:
    """Every run of a home, oldest first. What is no valid record is no run."""
    found = []
    for path in sorted((home / "scores").glob("*/run.json")):
        try:
            found.append(Run.model_validate_json(path.read_bytes()))
        except (OSError, ValueError):
            continue
    return sorted(found, key=lambda r: (r.began_at, r.run))


def read_run(home: Path, run: str) -> Run:
    """One run.

    Raises:
        UnknownItem: there is none of that id.
    """
    known = {r.run: r for r in runs(home)}
    if run not in known:
        newest = ", ".join(list(known)[-5:]) or "none"
        raise UnknownItem(
            f"no scoring run {run} under {home / 'scores'}; the newest are: {newest}. Give one of these, or none to begin one."
        )
    return known[run]


def latest_finished(home: Path, business_id: str) -> Run | None:
    """The newest finished run that holds all customers of a business."""
    mine = [r for r in runs(home) if r.state == "finished" and not r.partial and r.business_id in (None, business_id)]
    return max(mine, key=lambda r: r.scored_at, default=None)


def default_as_of(warehouse: Warehouse, business_id: str | None) -> datetime:
    """Now; where the newest row is more than a week old (an imported history), the midnight after it, so that all of it counts.

    Raises:
        ArtifactError: the warehouse holds no transaction or event.
    """
    newest, now = warehouse.as_of(business_id), wall_now()
    if now - newest <= STALE_AFTER:
        return now
    return newest.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)


def plan(
    home: Path,
    warehouse: Warehouse,
    *,
    run: str | None,
    business_id: str | None,
    as_of: datetime,
    version: str,
    shards: int | None,
    shard_size: int,
    batch_size: int,
    landing_rows: int,
    risk_cuts: tuple[float, float, float],
    customers: Sequence[str] | None = None,
    job: bool = False,
) -> Run:
    """Begin a run: write down who belongs to which shard and what they did, and the record last.

    Args:
        run: its id; made from what it is about when None.
        shards: how many; as many as `shard_size` asks for when None.
        customers: only these of the business; all when None.

    Raises:
        ArtifactError: there is nobody to score.
    """
    known = runs(home)
    data_version = warehouse.data_version()
    scored_at = _free_instant(as_of, {r.scored_at for r in known}, warehouse)
    digest = hashlib.sha256(f"{business_id} {scored_at} {version} {data_version}".encode()).hexdigest()[:8]
    folder = RunFolder(home, run or f"{as_of.astimezone(UTC):%Y%m%dT%H%M%S}-{digest}")
    folder.remove()
    folder.path.mkdir(parents=True)
    with warehouse.connect() as connection:
        connection.execute(f"SET memory_limit = '{PLAN_MEMORY}'")
        parts = _parts(connection, business_id, customers, shards, shard_size)
        found = sum(p.num_rows for p in parts)
        if not found and customers is None:
            whose = f" of business {business_id}" if business_id else ""
            raise ArtifactError(
                f"the warehouse {warehouse.root} knows no customer{whose}: nobody to score. Bring data in: regulars data generate"
            )
        folder.write_customers(parts)
        spread(connection, parts, as_of, folder.acts)
    record = Run(
        run=folder.path.name,
        business_id=business_id,
        partial=customers is not None,
        job=job,
        as_of=as_of,
        scored_at=scored_at,
        version=version,
        data_version=data_version,
        shard_rows=tuple(p.num_rows for p in parts),
        unknown=0 if customers is None else len(set(customers)) - found,
        batch_size=batch_size,
        landing_rows=landing_rows,
        risk_cuts=risk_cuts,
        began_at=wall_now(),
    )
    return folder.write(record)


def _parts(
    connection: duckdb.DuckDBPyConnection, business_id: str | None, customers: Sequence[str] | None, shards: int | None, shard_size: int
) -> list[pa.Table]:
    everyone = shards_of(connection, 1, business_id)[0]
    if customers is not None:
        wanted = pa.table({"customer_id": pa.array(sorted(set(customers)), pa.string())})
        everyone = everyone.join(wanted, "customer_id", join_type="left semi").sort_by("customer_id")
    count = shards or max(1, -(-everyone.num_rows // shard_size))
    if count == 1:
        return [everyone]
    parts = shards_of(connection, count, business_id)
    return parts if customers is None else [p.join(wanted, "customer_id", join_type="left semi").sort_by("customer_id") for p in parts]


def _free_instant(as_of: datetime, taken: set[datetime], warehouse: Warehouse) -> datetime:
    """The as-of time, or the first microsecond after it that no scores carry: a customer has one row for each instant."""
    with warehouse.connect() as connection:
        sql = f"SELECT max(scored_at) FROM {TABLE} WHERE scored_at >= $begin AND scored_at < $end"  # noqa: S608 - our constant
        newest = connection.execute(sql, {"begin": as_of, "end": as_of + timedelta(seconds=1)}).fetchall()[0][0]
    instant = as_of if newest is None else newest.astimezone(UTC) + timedelta(microseconds=1)
    while instant in taken:
        instant += timedelta(microseconds=1)
    return instant
