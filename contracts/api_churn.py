"""Request and response of the routes about churn, lifetime value, risk and profile: camelCase on the wire, snake_case here.

A forecast is about a stated instant (`asOf`), by a stated model version. `source` says where its numbers come from: `model`; `stored`, an
earlier forecast of the same customer that stands in while the model is away; `base_rates`, what is usual among the business's new
customers (for those of whom nothing is known, and while the model is away).
"""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from contracts.api import Coverage, Id, Request, Response
from contracts.tables import CLV_SEGMENTS, RISK_LEVELS, TIERS
from contracts.tensors import EMBEDDING_DIM, FACTORS, MONTH_COUNT

Source = Literal["model", "stored", "base_rates"]
RiskLevel = Literal[RISK_LEVELS]  # type: ignore[valid-type]
ClvSegment = Literal[CLV_SEGMENTS]  # type: ignore[valid-type]
Factor = Literal[FACTORS]  # type: ignore[valid-type]
Tier = Literal[TIERS]  # type: ignore[valid-type]
RiskAction = Literal["NONE", "REMINDER", "OFFER", "PERSONAL_OUTREACH", "SERVICE_RECOVERY", "WIN_BACK"]
RfmClass = Literal["CHAMPION", "LOYAL", "NEW", "PROMISING", "AT_RISK", "HIBERNATING"]
PREDICTION_EXAMPLE = "4f0d9b1c2e5a4c7f9a0b8d6e3c1f2a5b"


def _iso_date(value: Any) -> Any:
    """ISO 8601 text only: Pydantic would else read 5 or "5" as days or seconds since 1970, and a time as its date."""
    if type(value) is date:
        return value
    if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value, re.ASCII):
        raise ValueError("must be an ISO 8601 date, for example 2026-01-15")
    return value


Day = Annotated[date, BeforeValidator(_iso_date, json_schema_input_type=date)]


class ChurnFactor(Response):
    """One of the eight factors of a forecast, in the customer's own numbers."""

    factor: Factor = Field(examples=["recency"])
    """Which kind of behaviour it is."""
    impact: float = Field(ge=-1, le=1, examples=[0.31])
    """How much it adds to `churnProbability`, against the reference customer (the average active one): an exact Shapley value.
    Directional, not causal."""
    description: str = Field(examples=["35 days since last purchase (usual: 15 days)"])
    """For people."""
    current_value: float = Field(examples=[35.0])
    """The customer's number in the description."""
    expected_value: float = Field(examples=[15.0])
    """What it is compared with: the customer's own usual number where there is one (recency), else the reference customer's."""


class ChurnPrediction(Response):
    """Whether and when a customer will leave, and why."""

    prediction_id: str = Field(examples=[PREDICTION_EXAMPLE])
    """Names this prediction where an intervention or an outcome is recorded."""
    customer_id: str = Field(examples=["cust-123"])
    """The customer asked about."""
    churn_probability: float = Field(ge=0, le=1, examples=[0.73])
    """Calibrated probability of no purchase within 90 days from `asOf`."""
    horizons: dict[str, float] = Field(examples=[{"30": 0.89, "60": 0.81, "90": 0.73}])
    """Probability of no purchase within so many days; the longer, the smaller."""
    risk_level: RiskLevel = Field(examples=["HIGH"])
    """Of `churnProbability`; the cuts are settings of the server."""
    predicted_churn_date: date = Field(examples=["2026-01-15"])
    """The day by which it is as likely as not that the customer will have been silent for 90 days; in the past for one who has been."""
    days_until_churn: int = Field(ge=0, examples=[45])
    """Days until then; 0 for one who has churned, at most 730."""
    reference_probability: float = Field(ge=0, le=1, examples=[0.35])
    """`churnProbability` of the reference customer; with all impacts it adds up to `churnProbability`. Without factors, the same as it."""
    top_factors: list[ChurnFactor] = Field(max_length=len(FACTORS))
    """The strongest of the eight, by the size of their impact; empty where nothing was attributed."""
    other_factors: float = Field(ge=-1, le=1, examples=[0.04])
    """Sum of the impacts that are not shown."""
    recommended_actions: list[str] = Field(examples=[["Send personalized re-engagement offer"]])
    """What to do, by simple rules on level, top factor and value."""
    coverage: Coverage = Field(examples=["full"])
    """How much was known of the customer: full is three days with a purchase or more, the first 60 days ago or earlier."""
    degraded: bool = Field(examples=[False])
    """True when a part failed and something simpler answered; `source` says what."""
    source: Source = Field(examples=["model"])
    """Where the numbers come from."""
    as_of: datetime = Field(examples=["2025-12-01T08:30:00Z"])
    """The instant that the forecast is about; earlier than now only where `source` is `stored`."""
    model_version: str = Field(examples=["sequence/4"])
    """The model that made it."""
    latency: float = Field(ge=0, examples=[6.1])
    """Milliseconds spent in the server."""


class Interval(Response):
    """An interval of the next 12 months' spend."""

    low: float = Field(examples=[210.4])
    """Lower end, money."""
    high: float = Field(examples=[655.0])
    """Upper end, money."""
    level: float = Field(gt=0, lt=1, examples=[0.8])
    """Share of customers whose spend falls inside."""


class MonthForecast(Response):
    """One of the next 12 months."""

    month: str = Field(pattern=r"^\d{4}-\d{2}$", examples=["2026-01"])
    """Calendar label of the day on which it begins. Months are 30.4375 days long, so a label can occur twice; `startsOn` is unique."""
    starts_on: date = Field(examples=["2026-01-01"])
    """The day on which it begins: `asOf` and k times 30.4375 days."""
    predicted_spend: float = Field(examples=[34.2])
    """Expected net spend, money."""
    probability: float = Field(ge=0, le=1, examples=[0.71])
    """Probability of at least one purchase."""


class ClvRecommendations(Response):
    """How much the customer is worth spending on."""

    max_acquisition_cost: float = Field(ge=0, examples=[310.9])
    """20 % of `totalCLV`: what winning one such customer may cost, money."""
    max_retention_spend: float = Field(ge=0, examples=[41.2])
    """10 % of `predictedCLV`: what keeping this one may cost, money; only the future can still be kept."""
    recommended_actions: list[str] = Field(examples=[["Invite to early access and give a personal contact"]])
    """What to do, by simple rules on value and risk."""


class ClvPrediction(Response):
    """What a customer has been worth and will be."""

    prediction_id: str = Field(examples=[PREDICTION_EXAMPLE])
    """Names this prediction."""
    customer_id: str = Field(examples=["cust-123"])
    """The customer asked about."""
    historical_clv: float = Field(alias="historicalCLV", examples=[1142.5])
    """Net spend so far, money."""
    predicted_clv: float = Field(alias="predictedCLV", ge=0, examples=[412.0])
    """Expected net spend of the next 12 months, money."""
    total_clv: float = Field(alias="totalCLV", examples=[1554.5])
    """Both."""
    interval: Interval
    """Of `predictedCLV`."""
    clv_segment: ClvSegment = Field(examples=["HIGH"])
    """Of `predictedCLV` among the business's customers: the upper half is MEDIUM, the best fifth HIGH, the best twentieth VERY_HIGH."""
    monthly_breakdown: list[MonthForecast] = Field(min_length=MONTH_COUNT, max_length=MONTH_COUNT)
    """The next 12 months; their `predictedSpend` adds up to `predictedCLV` to the cent."""
    recommendations: ClvRecommendations
    """What follows from it."""
    coverage: Coverage = Field(examples=["full"])
    """How much was known of the customer."""
    degraded: bool = Field(examples=[False])
    """True when a part failed and something simpler answered; `source` says what."""
    source: Source = Field(examples=["model"])
    """Where the numbers come from."""
    as_of: datetime = Field(examples=["2025-12-01T08:30:00Z"])
    """The instant that the forecast is about."""
    model_version: str = Field(examples=["sequence/4"])
    """The model that made it."""
    latency: float = Field(ge=0, examples=[4.9])
    """Milliseconds spent in the server."""


class RiskAssessment(Response):
    """The risk of losing a customer."""

    churn_probability: float = Field(ge=0, le=1, examples=[0.73])
    """Calibrated probability of no purchase within 90 days."""
    risk_level: RiskLevel = Field(examples=["HIGH"])
    """Of that probability."""
    time_to_churn_days: int = Field(ge=0, examples=[45])
    """Days until it is as likely as not that the customer will have been silent for 90 days."""


class CustomerValue(Response):
    """What would be lost."""

    clv: float = Field(ge=0, examples=[412.0])
    """Expected net spend of the next 12 months, money."""
    segment: ClvSegment = Field(examples=["HIGH"])
    """Of that value among the business's customers."""


class Incentive(Response):
    """What to give."""

    type: Literal["none", "points_bonus", "discount", "upgrade"] = Field(examples=["discount"])
    """Kind of incentive."""
    value: float = Field(ge=0, examples=[12.4])
    """What it may cost, money."""
    duration_months: int = Field(ge=0, le=12, examples=[1])
    """How long it is valid."""


class RiskRecommendation(Response):
    """What to do about it, by documented rules; assumptions, not measured effects."""

    action: RiskAction = Field(examples=["OFFER"])
    """Kind of action."""
    incentive: Incentive
    """What to give with it."""
    expected_roi: float = Field(examples=[1.3])
    """(predicted CLV x churn probability x retention lift - incentive's value) / incentive's value; 0 without an incentive."""
    retention_lift: float = Field(ge=0, le=1, examples=[0.1])
    """Share of the churn that the action is assumed to prevent: a setting of the server, by level."""
    confidence: float = Field(ge=0, le=1, examples=[0.8])
    """How far to trust it, by coverage: a setting of the server; half of it while `degraded`."""
    basis: Literal["rules"] = Field(default="rules", examples=["rules"])
    """How it was chosen."""


class CustomerRisk(Response):
    """The risk of losing a customer, what would be lost, and what to do."""

    prediction_id: str = Field(examples=[PREDICTION_EXAMPLE])
    """Names the prediction behind it."""
    customer_id: str = Field(examples=["cust-123"])
    """The customer asked about."""
    risk_assessment: RiskAssessment
    """The risk."""
    customer_value: CustomerValue
    """The value at stake."""
    recommendation: RiskRecommendation
    """What to do."""
    coverage: Coverage = Field(examples=["full"])
    """How much was known of the customer."""
    degraded: bool = Field(examples=[False])
    """True when a part failed and something simpler answered."""
    source: Source = Field(examples=["model"])
    """Where the numbers come from."""
    as_of: datetime = Field(examples=["2025-12-01T08:30:00Z"])
    """The instant that the forecast is about."""
    model_version: str = Field(examples=["sequence/4"])
    """The model that made it."""
    latency: float = Field(ge=0, examples=[6.4])
    """Milliseconds spent in the server."""


class ProfileChurn(Response):
    """Churn in a profile."""

    churn_probability: float = Field(ge=0, le=1, examples=[0.73])
    """Calibrated probability of no purchase within 90 days."""
    horizons: dict[str, float] = Field(examples=[{"30": 0.89, "60": 0.81, "90": 0.73}])
    """Probability of no purchase within so many days."""
    risk_level: RiskLevel = Field(examples=["HIGH"])
    """Of the 90-day one."""
    days_until_churn: int = Field(ge=0, examples=[45])
    """Days until it is as likely as not that the customer will have been silent for 90 days."""
    predicted_churn_date: date = Field(examples=["2026-01-15"])
    """That day."""
    top_factor: Factor | None = Field(default=None, examples=["recency"])
    """The factor that raises the probability most; null where none does or nothing was attributed."""


class ProfileValue(Response):
    """Lifetime value in a profile."""

    historical_clv: float = Field(alias="historicalCLV", examples=[1142.5])
    """Net spend so far, money."""
    predicted_clv: float = Field(alias="predictedCLV", ge=0, examples=[412.0])
    """Expected net spend of the next 12 months, money."""
    total_clv: float = Field(alias="totalCLV", examples=[1554.5])
    """Both."""
    interval: Interval
    """Of `predictedCLV`."""
    clv_segment: ClvSegment = Field(examples=["HIGH"])
    """Of `predictedCLV` among the business's customers."""


class Rfm(Response):
    """Recency, frequency and monetary value among the business's customers who ever bought."""

    recency: int = Field(ge=1, le=5, examples=[2])
    """Quintile of the days since the last purchase; 5 is the most recent fifth."""
    frequency: int = Field(ge=1, le=5, examples=[4])
    """Quintile of the purchases in the last 365 days; 5 is the most frequent fifth."""
    monetary: int = Field(ge=1, le=5, examples=[5])
    """Quintile of the net spend in the last 365 days; 5 is the highest fifth."""
    rfm_class: RfmClass = Field(examples=["AT_RISK"])
    """Named by the quintiles."""
    days_since_purchase: int = Field(ge=0, examples=[35])
    """Days since the last purchase."""
    purchases: int = Field(ge=0, examples=[14])
    """Purchases in the last 365 days."""
    spend: float = Field(examples=[402.1])
    """Net spend in the last 365 days, money."""


class Loyalty(Response):
    """Where the customer stands in the programme."""

    tier: Tier | None = Field(default=None, examples=["SILVER"])
    """As stored; null where the programme has none."""
    points_balance: int | None = Field(default=None, examples=[1250])
    """As stored."""
    next_tier: Tier | None = Field(default=None, examples=["GOLD"])
    """The one above; null at the top, and without a tier."""
    spend_to_next_tier: float | None = Field(default=None, ge=0, examples=[97.9])
    """Net spend that is lacking in the last 365 days, money; the spend that a tier needs is a setting of the server."""
    progress: float | None = Field(default=None, ge=0, le=1, examples=[0.84])
    """Share of the next tier's spend that is reached; null where there is no next tier."""


class Freshness(Response):
    """How new what was known of the customer is."""

    newest_event_at: datetime | None = Field(default=None, examples=["2025-12-01T08:29:41Z"])
    """The newest act of the customer that is inside; null where there is none."""
    age_seconds: float | None = Field(default=None, ge=0, examples=[19.2])
    """Time since then."""


class CustomerProfile(Response):
    """What is known of one customer, on one page."""

    prediction_id: str = Field(examples=[PREDICTION_EXAMPLE])
    """Names the prediction behind it."""
    customer_id: str = Field(examples=["cust-123"])
    """The customer asked about."""
    segment: ClvSegment = Field(examples=["HIGH"])
    """The customer's segment: that of the predicted CLV."""
    churn: ProfileChurn
    """Whether and when the customer will leave."""
    clv: ProfileValue
    """What the customer has been worth and will be."""
    rfm: Rfm | None = None
    """Null for a customer who never bought, and until the business's cut points are counted."""
    loyalty: Loyalty | None = None
    """Null for a customer whom the programme does not list."""
    embedding: list[float] | None = Field(
        default=None, min_length=EMBEDDING_DIM, max_length=EMBEDDING_DIM, examples=[[0.125] * EMBEDDING_DIM]
    )
    """The customer's vector in the recommender, length 1, where it was asked for and can be computed."""
    embedding_version: str | None = Field(default=None, examples=["two-tower/7"])
    """The model that made the vector."""
    freshness: Freshness
    """How new all this is."""
    coverage: Coverage = Field(examples=["full"])
    """How much was known of the customer."""
    degraded: bool = Field(examples=[False])
    """True when a part failed and something simpler answered, or something is missing for that reason."""
    source: Source = Field(examples=["model"])
    """Where the forecast's numbers come from."""
    as_of: datetime = Field(examples=["2025-12-01T08:30:00Z"])
    """The instant that the forecast is about."""
    model_version: str = Field(examples=["sequence/4"])
    """The model that made the forecast."""
    latency: float = Field(ge=0, examples=[9.4])
    """Milliseconds spent in the server."""


class InterventionRequest(Request):
    """What was done about a prediction."""

    campaign_id: Id = Field(examples=["camp-012"])
    """The campaign that it belongs to."""
    intervention_type: Id = Field(examples=["RETENTION_OFFER"])
    """Kind of intervention, a word of your own."""


class InterventionResponse(Response):
    """The intervention is recorded; the same again changes nothing."""

    prediction_id: str = Field(examples=[PREDICTION_EXAMPLE])
    """The prediction it is about."""
    customer_id: str = Field(examples=["cust-123"])
    """The customer it is about."""
    campaign_id: str = Field(examples=["camp-012"])
    """As sent."""
    intervention_type: str = Field(examples=["RETENTION_OFFER"])
    """As sent."""
    duplicate: bool = Field(examples=[False])
    """True when it was recorded before."""
    model_version: str = Field(examples=["sequence/4"])
    """The model that made the prediction."""
    latency: float = Field(ge=0, examples=[1.9])
    """Milliseconds spent in the server."""


class OutcomeRequest(Request):
    """What came of a prediction: whether the customer made no purchase in the 90 days after it."""

    # The rule of `_consistent`, for readers of the OpenAPI document.
    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"properties": {"churned": {"const": True}}}, {"properties": {"churnDate": {"type": "null"}}}]}
    )

    churned: bool = Field(strict=True, examples=[True])
    """Whether the customer left."""
    churn_date: Day | None = Field(default=None, examples=["2026-01-15"])
    """When, where that is known; only with `churned` true."""

    @model_validator(mode="after")
    def _consistent(self) -> OutcomeRequest:
        if self.churn_date is not None and not self.churned:
            raise ValueError("churnDate says when the customer left, churned says that they did not. Leave one of them out")
        return self


class OutcomeResponse(Response):
    """The outcome is recorded; the same again changes nothing."""

    prediction_id: str = Field(examples=[PREDICTION_EXAMPLE])
    """The prediction it is about."""
    customer_id: str = Field(examples=["cust-123"])
    """The customer it is about."""
    churned: bool = Field(examples=[True])
    """As sent."""
    churn_date: date | None = Field(default=None, examples=["2026-01-15"])
    """As sent."""
    churn_probability: float = Field(ge=0, le=1, examples=[0.73])
    """What had been predicted."""
    duplicate: bool = Field(examples=[False])
    """True when it was recorded before."""
    model_version: str = Field(examples=["sequence/4"])
    """The model that made the prediction."""
    latency: float = Field(ge=0, examples=[2.0])
    """Milliseconds spent in the server."""


class CalibrationBin(Response):
    """Predictions of like probability."""

    low: float = Field(ge=0, le=1, examples=[0.7])
    """From this probability."""
    high: float = Field(ge=0, le=1, examples=[0.8])
    """Up to this one."""
    n: int = Field(ge=0, examples=[412])
    """Predictions in it."""
    predicted: float | None = Field(default=None, ge=0, le=1, examples=[0.746])
    """Their mean probability; absent in an empty bin."""
    seen: float | None = Field(default=None, ge=0, le=1, examples=[0.731])
    """Share of them that churned; absent in an empty bin."""


class ChurnCalibration(Response):
    """How well past predictions fit what came of them."""

    horizon_days: int = Field(examples=[90])
    """The horizon that is judged."""
    n: int = Field(ge=0, examples=[4120])
    """Predictions with a known outcome: by the model, about customers who were active, one a customer, day and version, without those
    that something was done about unless asked for."""
    reported: int = Field(ge=0, examples=[12])
    """Of them, outcomes that were reported."""
    seen: int = Field(ge=0, examples=[4108])
    """Of them, outcomes that the events themselves show: the horizon is over, with or without a purchase in it."""
    pending: int = Field(ge=0, examples=[950])
    """Predictions whose outcome is not known yet."""
    intervened: int = Field(ge=0, examples=[61])
    """Predictions left out because something was done about them."""
    predicted: float | None = Field(default=None, ge=0, le=1, examples=[0.412])
    """Mean probability; absent without outcomes."""
    churn_rate: float | None = Field(default=None, ge=0, le=1, examples=[0.405])
    """Share that churned; absent without outcomes."""
    ece: float | None = Field(default=None, ge=0, le=1, examples=[0.013])
    """Expected calibration error: the bins' distances between predicted and seen, weighed by n; absent without outcomes."""
    auc: float | None = Field(default=None, ge=0, le=1, examples=[0.871])
    """Chance that one who churned had the higher probability of two; absent where all or none did."""
    bins: list[CalibrationBin]
    """By probability, of equal width."""
    since: datetime = Field(examples=["2025-06-01T00:00:00Z"])
    """Predictions from this instant on were looked at."""
    truncated: bool = Field(examples=[False])
    """True when there were more predictions than are looked at; the newest were taken."""
    model_version: str = Field(examples=["sequence/4"])
    """The version that is being served now, or the one asked for; predictions of every version count unless one was asked for."""
    latency: float = Field(ge=0, examples=[35.0])
    """Milliseconds spent in the server."""
