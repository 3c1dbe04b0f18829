"""What the routes about many customers at once do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from contracts import api_batch as api
from contracts.bundle import deployed_version
from contracts.paths import Home
from contracts.sequence import MODEL_NAME
from ray_apps.at_risk import AtRisk, Page, Wanted
from ray_apps.clock import ServingClock
from ray_apps.keys import Caller
from ray_apps.metrics import Stopwatch
from ray_apps.middleware import Gate
from ray_apps.scoring.jobs import Job, Jobs
from ray_apps.store import OperationalStore

_SHOWN = (
    "customer_id", "risk_level", "predicted_churn_date", "days_until_churn", "top_factor", "clv_at_risk", "clv_segment", "segment_id",
    "coverage",
)  # fmt: skip


class BatchService:
    """Jobs and who is at risk, without HTTP.

    Args:
        home: whose models, scores and warehouse. store: where jobs are kept. gate: bounds the requests that are worked on.
    """

    def __init__(self, home: Home, store: OperationalStore, clock: ServingClock, gate: Gate) -> None:
        self._home, self._jobs, self._clock, self._gate = home, Jobs(store), clock, gate
        self._at_risk = AtRisk(home.root)

    def close(self) -> None:
        """Close the connection to the warehouse."""
        self._at_risk.close()

    async def begin(self, caller: Caller, wanted: api.BatchRequest, stopwatch: Stopwatch) -> api.BatchJob:
        """Put a job in the queue.

        Raises:
            ArtifactError: no sequence model is deployed.
            Overloaded: too many jobs of the business wait.
        """
        async with self._gate.enter():
            deployed_version(self._home.models, MODEL_NAME)
            ids = None if wanted.customer_ids == "all" else list(wanted.customer_ids)
            job = await self._jobs.add(caller.business_id, ids, self._clock.now())
        return self._shown(job, stopwatch)

    async def job(self, caller: Caller, job_id: str, stopwatch: Stopwatch) -> api.BatchJob:
        """A job of this business.

        Raises:
            UnknownItem: there is none of that id.
        """
        async with self._gate.enter():
            job = await self._jobs.get(job_id, caller.business_id)
        return self._shown(job, stopwatch)

    async def at_risk(self, caller: Caller, wanted: Wanted, limit: int, offset: int, stopwatch: Stopwatch) -> api.AtRiskResponse:
        """One page of who is at risk.

        Raises:
            UnknownItem: nobody was scored yet.
        """
        async with self._gate.enter():
            page = await asyncio.to_thread(self._at_risk.page, caller.business_id, wanted, limit, offset)
        stopwatch.lap("read")
        return _page(page, limit, offset, stopwatch)

    async def at_risk_csv(self, caller: Caller, wanted: Wanted, limit: int | None) -> Iterator[bytes]:
        """The whole list, in pieces.

        Raises:
            UnknownItem: nobody was scored yet.
        """
        async with self._gate.enter():
            return await asyncio.to_thread(self._at_risk.csv, caller.business_id, wanted, limit)

    def _shown(self, job: Job, stopwatch: Stopwatch) -> api.BatchJob:
        found = job.result
        return api.BatchJob(
            job_id=job.job_id,
            status=job.status,  # type: ignore[arg-type]
            scope="all" if job.customers is None else "ids",
            total=job.total,
            done=job.done,
            as_of=job.as_of,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            result=None if found is None else _result(found),
            error=job.error,
            model_version=found["version"] if found is not None else f"{MODEL_NAME}/{deployed_version(self._home.models, MODEL_NAME)}",
            latency=round(stopwatch.stop(), 3),
        )


def _result(found: dict[str, Any]) -> api.BatchResult:
    return api.BatchResult(
        customers=found["customers"],
        unknown=found["unknown"],
        scored_at=found["scored_at"],
        levels=api.RiskCounts.model_validate(found["levels"]),
        clv_at_risk=found["clv_at_risk"],
    )


def _page(page: Page, limit: int, offset: int, stopwatch: Stopwatch) -> api.AtRiskResponse:
    items = [
        api.AtRiskCustomer.model_validate(
            {
                "churn_probability": row["churn_90"],
                "historicalCLV": float(row["historical_clv"]),
                "predictedCLV": float(row["predicted_clv"]),
                **{name: row[name] for name in _SHOWN},
            }
        )
        for row in page.rows
    ]
    following = offset + len(items)
    return api.AtRiskResponse(
        items=items,
        total=page.totals.total,
        clv_at_risk=page.totals.clv_at_risk,
        levels=api.RiskCounts.model_validate(page.totals.levels),
        limit=limit,
        offset=offset,
        next_offset=following if items and following < page.totals.total else None,
        run_id=page.run.run,
        as_of=page.run.as_of,
        model_version=f"{MODEL_NAME}/{page.run.version}",
        latency=round(stopwatch.stop(), 3),
    )
