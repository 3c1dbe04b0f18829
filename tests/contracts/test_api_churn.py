"""Requests and responses of the routes about churn, value, risk and profile."""

from __future__ import annotations

import inspect
import json
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel

from contracts import api, api_churn
from contracts.api_churn import OutcomeRequest

MODELS = [
    m
    for _, m in inspect.getmembers(api_churn, inspect.isclass)
    if issubclass(m, (api.Request, api.Response)) and m.__module__ == api_churn.__name__
]
EVERY = pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)


def on_wire(model: type[BaseModel], name: str) -> str:
    return model.model_fields[name].alias or to_camel(name)


def test_there_are_models() -> None:
    assert len(MODELS) > 15


@EVERY
def test_every_field_is_camel_case_and_described(model: type[BaseModel]) -> None:
    schema = model.model_json_schema(by_alias=True)
    assert schema["additionalProperties"] is False
    assert schema["description"]
    for name in model.model_fields:
        field = schema["properties"][on_wire(model, name)]
        assert field.get("description"), name
        assert "_" not in on_wire(model, name)
        assert "$ref" in json.dumps(field) or field.get("examples"), f"{model.__name__}.{name} has no example"


@EVERY
def test_the_examples_are_allowed_values(model: type[BaseModel]) -> None:
    body = {}
    for name, field in model.model_fields.items():
        if field.examples:
            body[on_wire(model, name)] = field.examples[0]
        elif field.is_required():
            return  # holds other models: their own examples are checked
    made = model.model_validate(body)
    assert model.model_validate_json(made.model_dump_json(by_alias=True)) == made


def test_the_words_of_the_public_contract_are_used() -> None:
    churn = set(api_churn.ChurnPrediction.model_json_schema()["properties"])
    assert {"predictionId", "customerId", "churnProbability", "horizons", "riskLevel", "predictedChurnDate", "daysUntilChurn", "topFactors",
            "recommendedActions", "coverage", "modelVersion", "latency"} <= churn  # fmt: skip
    clv = set(api_churn.ClvPrediction.model_json_schema()["properties"])
    assert {"historicalCLV", "predictedCLV", "totalCLV", "interval", "clvSegment", "monthlyBreakdown", "recommendations"} <= clv


@pytest.mark.parametrize("value", [5, "5", "2026-1-5", "2026-02-30", "2026-01-15T00:00:00", "２０２６-01-15", True, {}])
def test_a_day_is_an_iso_date(value: Any) -> None:
    with pytest.raises(ValidationError):
        OutcomeRequest.model_validate({"churned": True, "churnDate": value})


def test_an_outcome_does_not_contradict_itself() -> None:
    good = OutcomeRequest.model_validate({"churned": True, "churnDate": "2026-01-15"})
    assert good.churn_date == date(2026, 1, 15)
    assert OutcomeRequest(churned=True, churn_date=date(2026, 1, 15)) == good
    assert OutcomeRequest.model_validate({"churned": False, "churnDate": None}).churn_date is None
    with pytest.raises(ValidationError, match="Leave one of them out"):
        OutcomeRequest.model_validate({"churned": False, "churnDate": "2026-01-15"})
