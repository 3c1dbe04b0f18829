"""From forecasts to actions: the rules, whatever the model."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import api_churn
from contracts.errors import ConfigError
from contracts.sequence import ChurnDefinition, Forecasting
from contracts.tables import CLV_SEGMENTS, RISK_LEVELS
from ray_apps.deployments import outlook
from ray_apps.deployments.forecaster import Forecast, Outlook, _churn_day
from ray_apps.tuning import ChurnSettings

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)


def made(level: str = "HIGH", segment: str = "HIGH", top: str | None = "recency", **more: Any) -> Outlook:
    factors = [] if top is None else [{"factor": top, "impact": 0.2, "description": "", "currentValue": 1.0, "expectedValue": 1.0}]
    churn = (0.2, 0.5, 0.7, 0.9)[RISK_LEVELS.index(level)]
    forecast = Forecast(
        churn=(churn, churn, churn), silent_by=(churn,) * 10, purchase_probability=(0.5,) * 12, spend=(33.33,) * 12,
        interval=(200.0, 700.0), reference=0.4, factors=factors, recency_days=more.pop("recency", 20.0), spent=100.0,
    )  # fmt: skip
    plain: dict[str, Any] = {
        "prediction_id": "p", "business_id": "b", "customer_id": "c", "model_version": "sequence/1", "now": NOW, "as_of": NOW,
        "known": None, "forecast": forecast, "coverage": "full", "source": "model", "degraded": False, "level": level, "segment": segment,
        "interval_level": 0.8, "churn_date": NOW.date(), "days_until_churn": 30,
    }  # fmt: skip
    return Outlook(**(plain | more))


@pytest.mark.parametrize(
    ("found", "action", "incentive"),
    [
        (made("LOW"), "NONE", "none"),
        (made("MEDIUM"), "REMINDER", "points_bonus"),
        (made("HIGH"), "OFFER", "discount"),
        (made("CRITICAL"), "PERSONAL_OUTREACH", "upgrade"),
        (made("CRITICAL", "LOW"), "OFFER", "discount"),
        (made("CRITICAL", recency=95.0), "WIN_BACK", "discount"),
        (made("HIGH", top="feedback"), "SERVICE_RECOVERY", "none"),
        (made("MEDIUM", top=None, coverage="cold_start"), "REMINDER", "points_bonus"),
    ],
)
def test_what_to_do_follows_from_level_factor_and_value(found: Outlook, action: str, incentive: str) -> None:
    settings = ChurnSettings()
    body = outlook.recommendation(found, settings)
    api_churn.RiskRecommendation.model_validate(body)
    assert (body["action"], body["incentive"]["type"], body["basis"]) == (action, incentive, "rules")
    cost, at = body["incentive"]["value"], RISK_LEVELS.index(found.level)
    if incentive == "none":
        assert (cost, body["expectedRoi"], body["incentive"]["durationMonths"]) == (0, 0, 0)
    else:
        assert cost == round(settings.incentive_share[at] * found.forecast.predicted, 2)
        saved = found.forecast.predicted * found.forecast.churn[-1] * settings.retention_lift[at]
        assert body["expectedRoi"] == pytest.approx((saved - cost) / cost, abs=1e-3)
        assert body["incentive"]["durationMonths"] > 0


def test_an_incentive_that_would_not_earn_its_cost_is_not_given() -> None:
    dear = ChurnSettings(incentive_share=(0.0, 0.5, 0.5, 0.5))
    body = outlook.recommendation(made("HIGH"), dear)
    assert (body["action"], body["incentive"]["type"], body["expectedRoi"]) == ("OFFER", "none", 0)


def test_confidence_is_less_for_those_less_known_and_while_degraded() -> None:
    settings = ChurnSettings()
    seen = [outlook.recommendation(made(coverage=c, degraded=d), settings)["confidence"] for c, d in
            (("full", False), ("sparse", False), ("cold_start", False), ("full", True))]  # fmt: skip
    assert seen == [0.8, 0.5, 0.2, 0.4]


@pytest.mark.parametrize("level", RISK_LEVELS)
@pytest.mark.parametrize("segment", CLV_SEGMENTS)
@pytest.mark.parametrize("top", [None, "recency", "feedback", "season"])
def test_every_combination_has_actions_and_meets_the_contract(level: str, segment: str, top: str | None) -> None:
    for found in (made(level, segment, top), made(level, segment, top, recency=200.0), made(level, segment, top, coverage="cold_start")):
        for model, body in (
            (api_churn.ChurnPrediction, outlook.churn_body(found, 3)),
            (api_churn.ClvPrediction, outlook.clv_body(found)),
            (api_churn.CustomerRisk, outlook.risk_body(found, ChurnSettings())),
        ):
            model.model_validate(body | {"latency": 1.0})
        assert outlook.churn_actions(found)
        assert outlook.value_actions(found)


def test_the_first_action_is_the_most_important() -> None:
    assert outlook.churn_actions(made("LOW")) == ["No action needed: keep the usual messages"]
    assert outlook.churn_actions(made("HIGH"))[0] == "Send personalized re-engagement offer"
    assert outlook.churn_actions(made("CRITICAL", "VERY_HIGH"))[0] == "Call or write personally this week"
    assert outlook.churn_actions(made("HIGH", recency=100.0))[0].startswith("Send a win-back offer")
    assert outlook.churn_actions(made("MEDIUM", top=None)) == ["Remind of the points and rewards by e-mail or push"]
    assert outlook.churn_actions(made("HIGH", top="feedback"))[0] == outlook.ACTION_OF_FACTOR["feedback"]
    lowering = made("MEDIUM")
    lowering.forecast.factors[0]["impact"] = -0.1
    assert outlook.top_factor(lowering) is None


def test_a_stored_forecast_comes_back_as_it_was() -> None:
    import orjson

    found = made().forecast
    assert Forecast.of_payload(found.churn, orjson.loads(orjson.dumps(found.payload()))) == found


FORECASTING = Forecasting.model_construct(definition=ChurnDefinition())


@given(st.lists(st.floats(0.0, 0.2), min_size=10, max_size=10), st.integers(0, 200), st.integers(0, 6))
def test_the_day_of_churn_lies_ahead_of_those_who_stay_and_behind_those_who_left(steps: list[float], recency: int, ago: int) -> None:
    found = replace(made().forecast, silent_by=tuple(np.minimum(np.cumsum(steps), 1.0).tolist()), recency_days=float(recency))
    as_of = NOW - timedelta(days=ago)
    days, when = _churn_day(found, FORECASTING, as_of, NOW)
    if recency >= 90:
        assert (days, when) == (0, as_of.date() + timedelta(days=90 - recency))
    else:
        assert when >= as_of.date() + timedelta(days=90 - recency)
        assert days == max(0, (when - NOW.date()).days)
        assert when <= as_of.date() + timedelta(days=730)


@pytest.mark.parametrize(
    ("name", "value"),
    [("risk_cuts", (0.6, 0.4, 0.8)), ("risk_cuts", (0.4, 0.6, 1.8)), ("tier_spend", (0.0, 1.0, 2.0)), ("retention_lift", (0, 0, 0, 2))],
)
def test_settings_that_make_no_sense_are_refused(name: str, value: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=name):
        ChurnSettings.load(**{name: value})


def test_the_environment_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGULARS_SERVE_CHURN_RISK_CUTS", "[0.3, 0.5, 0.7]")
    assert ChurnSettings.load().risk_cuts == (0.3, 0.5, 0.7)
