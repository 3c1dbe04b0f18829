"""Request and response of the routes about many customers at once: batch predictions and who is at risk."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from contracts.api import Coverage, Id, Request, Response
from contracts.api_churn import ClvSegment, Day, Factor, RiskLevel

MAX_IDS = 10_000
JobStatus = Literal["queued", "running", "finished", "failed"]


class BatchRequest(Request):
    """Ask for scores of some customers, or of all."""

    customer_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_IDS)] | Literal["all"] = Field(examples=["all"])
    """Up to 10,000 ids, or `all`."""
    business_id: Id | None = Field(default=None, examples=["biz-1"])
    """The business of the key; another is refused."""


class RiskCounts(Response):
    """Customers by risk level."""

    low: int = Field(ge=0, alias="LOW", examples=[700])
    """Below the first cut."""
    medium: int = Field(ge=0, alias="MEDIUM", examples=[180])
    """From the first cut."""
    high: int = Field(ge=0, alias="HIGH", examples=[90])
    """From the second cut."""
    critical: int = Field(ge=0, alias="CRITICAL", examples=[30])
    """From the third cut."""


class BatchResult(Response):
    """What came of a job; its rows are in the table `customer_risk_scores`, under this `scoredAt`."""

    customers: int = Field(ge=0, examples=[1000])
    """Rows written."""
    unknown: int = Field(ge=0, examples=[0])
    """Ids that were asked for and that the warehouse does not hold."""
    scored_at: datetime
    """Key of the rows: the as-of time, moved by a microsecond for each earlier scoring of the same moment."""
    levels: RiskCounts
    """By risk level."""
    clv_at_risk: float = Field(examples=[12345.67])
    """Sum of churn in 90 days times predicted CLV."""


class BatchJob(Response):
    """A job and how far it is."""

    job_id: Id = Field(examples=["job-4f0d9b1c2e5a4c7f9a0b8d6e"])
    """Ask with it: GET /api/v1/predictions/batch/{jobId}."""
    status: JobStatus
    """A job that was running when the service stopped goes on when it is back."""
    scope: Literal["all", "ids"]
    """Whether all customers were asked for."""
    total: int | None = Field(default=None, ge=0, examples=[1000])
    """Customers to score; absent until they have been counted."""
    done: int = Field(ge=0, examples=[250])
    """Customers scored."""
    as_of: datetime
    """Moment that the scores are about: when the job was asked for."""
    created_at: datetime
    """Wall clock."""
    started_at: datetime | None = None
    """Wall clock; absent while the job waits."""
    finished_at: datetime | None = None
    """Wall clock; absent until it is over."""
    result: BatchResult | None = None
    """Once finished."""
    error: str | None = None
    """Why it failed, and what to do."""
    model_version: str = Field(examples=["sequence/4"])
    """The model of the result; the deployed one until then."""
    latency: float = Field(ge=0, examples=[1.4])
    """Milliseconds in the server."""


class AtRiskCustomer(Response):
    """One customer, as scored."""

    customer_id: str = Field(examples=["cust-123"])
    """Who."""
    churn_probability: float = Field(ge=0, le=1, examples=[0.73])
    """Of no purchase in the 90 days after `asOf`."""
    risk_level: RiskLevel
    """LOW to CRITICAL."""
    predicted_churn_date: Day
    """When the customer has probably churned; in the past for those who have."""
    days_until_churn: int = Field(ge=0, examples=[45])
    """From `asOf`; 0 for those who have churned."""
    top_factor: Factor | None = None
    """What raises the risk most; absent where nothing does or nothing is known."""
    historical_clv: float = Field(alias="historicalCLV", examples=[512.2])
    """Net spend until `asOf`."""
    predicted_clv: float = Field(alias="predictedCLV", examples=[420.5])
    """Expected net spend of the next 12 months."""
    clv_at_risk: float = Field(examples=[306.97])
    """The one times the other."""
    clv_segment: ClvSegment
    """By predicted CLV."""
    segment_id: str | None = None
    """The customer's segment; absent where there are none."""
    coverage: Coverage
    """How much is known of the customer."""


class AtRiskResponse(Response):
    """Customers at risk, the largest CLV at risk first."""

    items: list[AtRiskCustomer]
    """One page."""
    total: int = Field(ge=0, examples=[120])
    """Customers on all pages."""
    clv_at_risk: float = Field(examples=[45678.9])
    """Of customers on all pages."""
    levels: RiskCounts
    """Customers who meet the other conditions, by level, whichever levels were asked for."""
    limit: int = Field(ge=1, le=1000, examples=[100])
    """As asked for."""
    offset: int = Field(ge=0, examples=[0])
    """As asked for."""
    next_offset: int | None = Field(default=None, ge=0)
    """Of the next page; absent on the last one."""
    run_id: str = Field(examples=["20261121T120000-1a2b3c4d"])
    """The scoring that the list is from."""
    as_of: datetime
    """Moment that the scores are about."""
    model_version: str = Field(examples=["sequence/4"])
    """The model that made the scores."""
    latency: float = Field(ge=0, examples=[12.5])
    """Milliseconds in the server."""
