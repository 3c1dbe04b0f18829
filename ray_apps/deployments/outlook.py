"""From a forecast to the bodies of the answers: churn, lifetime value, risk, and what to do about it.

What to do follows from simple rules with settings (`ray_apps.tuning.ChurnSettings`); lifts are assumptions. The rules say so (`basis`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from contracts.tables import COVERAGES, RISK_LEVELS
from contracts.tensors import HORIZONS_DAYS, MONTH_DAYS
from ray_apps.deployments.forecaster import Outlook
from ray_apps.predictions import StoredPrediction
from ray_apps.tuning import ChurnSettings

ACQUISITION_SHARE, RETENTION_SHARE = 0.2, 0.1
LOW, MEDIUM, HIGH, CRITICAL = RISK_LEVELS
VALUABLE = ("HIGH", "VERY_HIGH")
INCENTIVE_OF = {LOW: "none", MEDIUM: "points_bonus", HIGH: "discount", CRITICAL: "discount"}
MONTHS_OF = {LOW: 0, MEDIUM: 1, HIGH: 1, CRITICAL: 3}

ACTION_OF_FACTOR = {
    "recency": "Send personalized re-engagement offer",
    "frequency": "Offer a bonus for the next three visits",
    "monetary": "Offer a bonus on a basket above the usual one",
    "engagement": "Reach out on another channel: messages are no longer opened",
    "redemption": "Remind of the rewards that the points are enough for",
    "tenure": "Send the welcome series with a first reward",
    "feedback": "Settle the complaint before any offer, and apologise",
    "season": "Plan the offer for the customer's own season",
}


def common(found: Outlook) -> dict[str, Any]:
    """The fields that every answer has."""
    return {
        "predictionId": found.prediction_id,
        "customerId": found.customer_id,
        "coverage": found.coverage,
        "degraded": found.degraded,
        "source": found.source,
        "asOf": wire_time(found.as_of),
        "modelVersion": found.model_version,
    }


def wire_time(when: Any) -> str:
    """As Pydantic writes a UTC time."""
    return str(when.isoformat().replace("+00:00", "Z"))


def horizons(found: Outlook) -> dict[str, float]:
    """Probability of no purchase within 30, 60, 90 days."""
    return {str(days): p for days, p in zip(HORIZONS_DAYS, found.forecast.churn, strict=True)}


def churn_body(found: Outlook, shown: int) -> dict[str, Any]:
    """The body of a `ChurnPrediction` without its latency.

    Args:
        shown: factors to show; the rest goes into `otherFactors`, so that all add up.
    """
    factors = found.forecast.factors
    return common(found) | {
        "churnProbability": found.forecast.churn[-1],
        "horizons": horizons(found),
        "riskLevel": found.level,
        "predictedChurnDate": found.churn_date.isoformat(),
        "daysUntilChurn": found.days_until_churn,
        "referenceProbability": found.forecast.reference,
        "topFactors": factors[:shown],
        "otherFactors": round(sum(f["impact"] for f in factors[shown:]), 6) + 0.0,
        "recommendedActions": churn_actions(found),
    }


def top_factor(found: Outlook) -> str | None:
    """The factor that raises the probability most; None where none does."""
    rising = [f for f in found.forecast.factors if f["impact"] > 0]
    return rising[0]["factor"] if rising else None


def churn_actions(found: Outlook) -> list[str]:
    """What to do, most important first: by the level, the factor that raises the risk most, and the value."""
    if found.level == LOW:
        return ["No action needed: keep the usual messages"]
    factor = top_factor(found)
    actions = [ACTION_OF_FACTOR[factor]] if factor is not None else []
    if found.coverage != "cold_start" and not found.active:
        actions.insert(0, "Send a win-back offer: the customer has been away for 90 days")
    elif found.level == CRITICAL and found.segment in VALUABLE:
        actions.insert(0, "Call or write personally this week")
    if found.level in (HIGH, CRITICAL) and ACTION_OF_FACTOR["recency"] not in actions:
        actions.append(ACTION_OF_FACTOR["recency"])
    return actions or ["Remind of the points and rewards by e-mail or push"]


def clv_body(found: Outlook) -> dict[str, Any]:
    """The body of a `ClvPrediction` without its latency."""
    months = []
    for k, (spend, chance) in enumerate(zip(found.forecast.spend, found.forecast.purchase_probability, strict=True)):
        begins = (found.as_of + timedelta(days=k * MONTH_DAYS)).date()
        months.append(
            {"month": f"{begins:%Y-%m}", "startsOn": begins.isoformat(), "predictedSpend": spend, "probability": round(chance, 6)}
        )
    value = values(found)
    recommendations = {
        "maxAcquisitionCost": round(max(0.0, ACQUISITION_SHARE * value["totalCLV"]), 2),
        "maxRetentionSpend": round(RETENTION_SHARE * value["predictedCLV"], 2),
        "recommendedActions": value_actions(found),
    }
    return common(found) | value | {"monthlyBreakdown": months, "recommendations": recommendations}


def values(found: Outlook) -> dict[str, Any]:
    """Past and future spend, with the interval and the segment of the future one."""
    spent = round(found.known.spend, 2) if found.known is not None else found.forecast.spent
    low, high = found.forecast.interval
    return {
        "historicalCLV": spent,
        "predictedCLV": found.forecast.predicted,
        "totalCLV": round(spent + found.forecast.predicted, 2),
        "interval": {"low": low, "high": high, "level": found.interval_level},
        "clvSegment": found.segment,
    }


def value_actions(found: Outlook) -> list[str]:
    """What to do, by value and risk."""
    if found.segment in VALUABLE and found.level in (HIGH, CRITICAL):
        return ["Keep this customer first: personal contact and a retention offer", "Ask what went wrong"]
    if found.segment in VALUABLE:
        return ["Invite to early access and give a personal contact", "Ask for a referral"]
    if found.level in (HIGH, CRITICAL):
        return ["Send a low-cost reminder; an expensive offer would not pay"]
    return ["Raise the basket with a bundle or a threshold bonus"]


def risk_body(found: Outlook, settings: ChurnSettings) -> dict[str, Any]:
    """The body of a `CustomerRisk` without its latency."""
    return common(found) | {
        "riskAssessment": {
            "churnProbability": found.forecast.churn[-1],
            "riskLevel": found.level,
            "timeToChurnDays": found.days_until_churn,
        },
        "customerValue": {"clv": found.forecast.predicted, "segment": found.segment},
        "recommendation": recommendation(found, settings),
    }


def recommendation(found: Outlook, settings: ChurnSettings) -> dict[str, Any]:
    """What to do about a risk, by rules.

    Retention lift and the incentive's cost (a share of the predicted CLV) are settings by level. Where the incentive would not earn its
    cost, or a complaint comes first, none is given. LOW: nothing. MEDIUM: a reminder with bonus points. HIGH: a discount.
    CRITICAL: personal outreach to valuable customers, else a longer discount; those who have churned are won back.
    """
    at = RISK_LEVELS.index(found.level)
    lift, churn, clv = settings.retention_lift[at], found.forecast.churn[-1], found.forecast.predicted
    kind, cost = INCENTIVE_OF[found.level], round(settings.incentive_share[at] * clv, 2)
    action = {LOW: "NONE", MEDIUM: "REMINDER", HIGH: "OFFER", CRITICAL: "OFFER"}[found.level]
    if found.level != LOW and top_factor(found) == "feedback":
        action, kind = "SERVICE_RECOVERY", "none"
    elif found.level != LOW and found.coverage != "cold_start" and not found.active:
        action = "WIN_BACK"
    elif found.level == CRITICAL and found.segment in VALUABLE:
        action, kind = "PERSONAL_OUTREACH", "upgrade"
    roi = (clv * churn * lift - cost) / cost if cost > 0 else 0.0
    if kind == "none" or cost <= 0 or roi <= 0:
        kind, cost, roi = "none", 0.0, 0.0
    confidence = settings.confidence[COVERAGES.index(found.coverage)]
    return {
        "action": action,
        "incentive": {"type": kind, "value": cost, "durationMonths": MONTHS_OF[found.level] if kind != "none" else 0},
        "expectedRoi": round(roi, 4),
        "retentionLift": lift,
        "confidence": confidence / 2 if found.degraded else confidence,
        "basis": "rules",
    }


def stored(found: Outlook, created_at: Any) -> StoredPrediction:
    """The record of a forecast that was just made."""
    return StoredPrediction(
        prediction_id=found.prediction_id,
        business_id=found.business_id,
        customer_id=found.customer_id,
        created_at=created_at,
        as_of=found.as_of,
        model_version=found.model_version,
        coverage=found.coverage,
        degraded=found.degraded,
        active=found.active,
        churn=found.forecast.churn,
        payload=found.forecast.payload(),
    )
