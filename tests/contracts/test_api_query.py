"""Requests and responses of the routes about questions."""

from __future__ import annotations

import inspect
import json
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from contracts import api, api_query
from contracts.api_query import QueryFeedbackRequest, QueryRequest, SaveRequest, one_line

MODELS = [
    m
    for name, m in inspect.getmembers(api_query, inspect.isclass)
    if issubclass(m, (api.Request, api.Response)) and m.__module__ == api_query.__name__ and not name.startswith("_")
]
EVERY = pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)


def test_there_are_models() -> None:
    assert len(MODELS) > 12


@EVERY
def test_every_field_is_camel_case_and_described(model: type[BaseModel]) -> None:
    schema = model.model_json_schema(by_alias=True)
    assert schema["additionalProperties"] is False
    assert schema["description"]
    for name in model.model_fields:
        field = schema["properties"][to_camel(name)]
        assert field.get("description"), name
        assert "$ref" in json.dumps(field) or field.get("examples"), f"{model.__name__}.{name} has no example"


@EVERY
def test_the_examples_are_allowed_values(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        for example in field.examples or ():
            annotated: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
            TypeAdapter(annotated).validate_python(example), name


def test_the_words_of_the_public_contract_are_used() -> None:
    words = {"interpretation", "sql", "answer", "results", "visualization", "exportOptions", "relatedQueries", "confidence"}
    assert words | {"modelVersion", "latency", "queryId", "refused"} <= set(api_query.QueryResponse.model_json_schema()["properties"])
    assert {"total", "columns", "data", "truncated"} <= set(api_query.Results.model_json_schema()["properties"])


def test_a_question_is_one_line() -> None:
    assert one_line(" how\nmany\x00 customers\u200b \t?") == "how many customers ?"
    assert QueryRequest(query="a\r\nb").query == "a b"
    assert QueryRequest(query=" ").query == ""  # a question that is read, and refused in the answer


@pytest.mark.parametrize(
    ("model", "body", "said"),
    [
        (QueryRequest, {"query": ""}, "at least 1"),
        (QueryRequest, {"query": "x" * 2001}, "at most 2000"),
        (QueryRequest, {"query": "x", "limit": 1001}, "less than or equal"),
        (QueryRequest, {"query": "x", "limit": "5"}, "JSON number"),
        (SaveRequest, {"name": "a"}, "either query or queryId"),
        (SaveRequest, {"name": "a", "query": "x", "queryId": "q"}, "either query or queryId"),
        (SaveRequest, {"name": "a", "query": " "}, "holds no words"),
        (SaveRequest, {"name": "a\nb", "query": "x"}, "pattern"),
        (QueryFeedbackRequest, {"correct": "yes"}, "valid boolean"),
        (QueryFeedbackRequest, {"correct": True, "correctedQuery": "x"}, "nothing to correct"),
        (QueryFeedbackRequest, {"correct": False, "correctedQuery": "x", "correctedSql": "y"}, "not both"),
        (QueryFeedbackRequest, {"correct": False, "correctedSql": "x" * 10_001}, "at most 10000"),
    ],
)
def test_what_does_not_fit_is_refused(model: type[BaseModel], body: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        model.model_validate(body)
