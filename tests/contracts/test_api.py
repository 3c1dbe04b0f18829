"""Requests and responses of the HTTP API."""

from __future__ import annotations

import inspect
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel

from contracts import api
from contracts.api import EventIn, RecommendationRequest, Rejection, parse_event, split_events
from contracts.errors import ContractError, TooLarge

MODELS = [
    m
    for _, m in inspect.getmembers(api, inspect.isclass)
    if issubclass(m, (api.Request, api.Response)) and m not in (api.Request, api.Response)
]
EVERY = pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)


def raw(kind: str = "app_open", **more: Any) -> dict[str, Any]:
    return {"eventId": "e1", "customerId": "c1", "eventType": kind, **more}


def parsed(kind: str = "app_open", **more: Any) -> EventIn:
    event = parse_event(raw(kind, **more))
    assert isinstance(event, EventIn), event
    return event


def reason(value: Any, **options: Any) -> str:
    rejection = parse_event(value, **options)
    assert isinstance(rejection, Rejection), rejection
    assert rejection.detail
    return rejection.reason


# ---- the models


@EVERY
def test_every_field_is_camel_case_and_described(model: type[BaseModel]) -> None:
    schema = model.model_json_schema(by_alias=True)
    assert schema["additionalProperties"] is False
    assert schema["description"]
    for name in model.model_fields:
        on_wire = schema["properties"][to_camel(name)]
        assert on_wire["description"], name
        assert "$ref" in json.dumps(on_wire) or on_wire.get("examples"), f"{model.__name__}.{name} has no example"


@EVERY
def test_the_examples_are_allowed_values(model: type[BaseModel]) -> None:
    body = {}
    for name, field in model.model_fields.items():
        if field.examples:
            body[to_camel(name)] = field.examples[0]
        elif field.is_required():
            return  # holds other models: their own examples are checked
    made = model.model_validate(body)
    assert model.model_validate_json(made.model_dump_json(by_alias=True)) == made


@EVERY
def test_unknown_fields_are_refused(model: type[BaseModel]) -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        model.model_validate({"noSuchField": 1})


def test_an_answer_is_written_in_camel_case_without_absent_values() -> None:
    ready = api.Ready(ready=True, checks={"model": True})
    assert json.loads(ready.wire()) == {"ready": True, "checks": {"model": True}}


def test_the_request_of_the_contract_is_read() -> None:
    body = {
        "customerId": "cust-123",
        "context": {"page": "homepage", "timeOfDay": "morning", "location": "San Francisco, CA", "deviceType": "ios"},
        "numRecommendations": 5,
    }
    wanted = RecommendationRequest.model_validate(body)
    assert (wanted.customer_id, wanted.context.time_of_day, wanted.num_recommendations) == ("cust-123", "morning", 5)
    assert RecommendationRequest.model_validate({"customerId": "c"}).num_recommendations == 5


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"customerId": ""},
        {"customerId": "x" * 129},
        {"customerId": 5},
        {"customerId": "a\nb"},
        {"customerId": "a\u0000"},
        {"customerId": " a"},
        {"customerId": "a "},
        {"customerId": "a\n"},
        {"customerId": "a\u200bb"},
        {"customerId": "a\u202eb"},
        {"customerId": "c", "numRecommendations": 0},
        {"customerId": "c", "numRecommendations": 51},
        {"customerId": "c", "numRecommendations": "5"},
        {"customerId": "c", "numRecommendations": True},
        {"customerId": "c", "numRecommendations": 2.5},
        {"customerId": "c", "numRecommendations": float("nan")},
        {"customerId": "c", "context": {"timeOfDay": "noon"}},
        {"customerId": "c", "objective": "profit"},
        {"customerId": "c", "diversity": 1.01},
        {"customerId": "c", "diversity": "0.2"},
        {"customerId": "c", "context": {"page": "x" * 129}},
        {"customerId": "c", "context": {"weather": "rain"}},
        {"customerId": "c", "context": None},
    ],
)
def test_a_request_that_is_not_allowed_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RecommendationRequest.model_validate(body, by_alias=True, by_name=False)


@given(st.text(max_size=6))
@settings(max_examples=300, deadline=None)
def test_the_id_pattern_means_the_same_in_python_as_in_pydantic(text: str) -> None:
    allowed = re.fullmatch(api.ID_PATTERN, text) is not None
    try:
        RecommendationRequest(customer_id=text)
        accepted = True
    except ValidationError:
        accepted = False
    assert accepted == allowed
    assert not accepted or (text.strip() == text and "\n" not in text and text != "")


def test_ids_may_be_of_any_script() -> None:
    assert RecommendationRequest(customer_id="josé 山田 #1/ä").customer_id == "josé 山田 #1/ä"


# ---- events


def test_a_body_is_one_event_or_a_batch() -> None:
    assert split_events(raw()) == [raw()]
    assert split_events({"events": [1, 2]}) == [1, 2]
    assert len(split_events({"events": [raw()] * 1000})) == 1000
    for body in ([], "x", None, 5):
        with pytest.raises(ContractError, match="must be an object"):
            split_events(body)
    for body in ({"events": []}, {"events": {}}, {"events": None}, {"events": [raw()], "eventId": "e"}):
        with pytest.raises(ContractError, match="1 to 1000 events"):
            split_events(body)
    with pytest.raises(TooLarge, match="batch holds 1001 events"):
        split_events({"events": [raw()] * 1001})


@pytest.mark.parametrize("kind", api.API_EVENT_TYPES)
def test_every_type_has_a_smallest_event(kind: str) -> None:
    needed = {
        "purchase": {"amount": 0},
        "ticket": {"metadata": {"rating": 3}},
        "redemption": {"rewardId": "r"},
        "reward_dismissed": {"rewardId": "r"},
    }
    assert parsed(kind, **needed.get(kind, {})).event_type == kind


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "not_an_object"),
        ([1], "not_an_object"),
        ({}, "event_id_missing"),
        ({"event_id": "e", "customer_id": "c", "event_type": "app_open"}, "event_id_missing"),
        ({"eventId": "e", "eventType": "app_open"}, "customer_id_missing"),
        (raw(eventId="a\nb"), "event_id_invalid"),
        (raw(eventId=5), "event_id_invalid"),
        (raw("nap"), "event_type_unknown"),
        (raw(customerId="\ud800"), "customer_id_invalid"),
        (raw(colour="red"), "unknown_field"),
        (raw(occurredAt=5), "occurred_at_invalid"),
        (raw(occurredAt="5"), "occurred_at_invalid"),
        (raw(occurredAt="2026-11-21"), "occurred_at_invalid"),
        (raw(occurredAt="2026-13-21T00:00:00Z"), "occurred_at_invalid"),
        (raw(occurredAt="0001-01-01T00:00:00+23:00"), "occurred_at_invalid"),
        (raw(occurredAt="1969-12-31T23:59:59Z"), "occurred_at_out_of_range"),
        (raw(occurredAt="9999-12-31T23:59:59Z"), "occurred_at_out_of_range"),
        (raw(channel="fax"), "channel_unknown"),
        (raw(value="5"), "value_invalid"),
        (raw(value=True), "value_invalid"),
        (raw(value=float("inf")), "value_invalid"),
        (raw(value=1e13), "value_out_of_range"),
        (raw(metadata=[]), "metadata_invalid"),
        (raw(metadata={"a": float("nan")}), "metadata_invalid"),
        (raw(metadata={"a": "\ud800"}), "metadata_invalid"),
        (raw(metadata={"a": 1 << 70}), "metadata_invalid"),
        (raw(metadata={"a": "x" * 20_000}), "metadata_invalid"),
        (raw("purchase"), "amount_missing"),
        (raw("purchase", amount=-0.01), "amount_negative"),
        (raw("purchase", amount="1"), "amount_invalid"),
        (raw("purchase", amount=1, channel="email"), "channel_unknown"),
        (raw("purchase", amount=1, metadata={"store": 5}), "store_invalid"),
        (raw("purchase", amount=1, metadata={"discountAmount": -1}), "discount_amount_invalid"),
        (raw("purchase", amount=1, metadata={"items": "p1"}), "items_invalid"),
        (raw("purchase", amount=1, metadata={"items": ["p1"]}), "items_invalid"),
        (raw("purchase", amount=1, metadata={"items": [{"productId": ""}]}), "items_invalid"),
        (raw("purchase", amount=1, metadata={"items": [{"productId": "p\n"}]}), "items_invalid"),
        (raw("purchase", amount=1, metadata={"items": [{"productId": "p", "quantity": 1.5}]}), "items_invalid"),
        (raw("purchase", amount=1, metadata={"items": [{"productId": "p", "quantity": True}]}), "items_invalid"),
        (raw("purchase", amount=1, metadata={"items": [{"productId": "p", "amount": "1"}]}), "items_invalid"),
        (raw("purchase", amount=1, metadata={"items": [{"productId": "p"}] * 201}), "items_invalid"),
        (raw("redemption"), "reward_id_missing"),
        (raw("reward_dismissed"), "reward_id_missing"),
        (raw("ticket"), "ticket_text_or_rating_missing"),
        (raw("ticket", metadata={"text": ""}), "ticket_text_or_rating_missing"),
        (raw("ticket", metadata={"text": 5}), "text_invalid"),
        (raw("ticket", metadata={"rating": 6}), "rating_out_of_range"),
        (raw("ticket", metadata={"rating": 2.5}), "rating_out_of_range"),
        (raw("ticket", metadata={"rating": "5"}), "rating_out_of_range"),
        (raw("ticket", metadata={"text": "x", "issueType": "weather"}), "issue_type_unknown"),
        (raw("ticket", metadata={"text": "x", "sentiment": []}), "sentiment_unknown"),
        (raw("ticket", metadata={"text": "x", "resolutionHours": -1}), "resolution_hours_invalid"),
        (raw("feedback", metadata={"rating": 0}), "rating_out_of_range"),
    ],
)
def test_an_event_that_is_not_allowed_has_a_reason(value: Any, expected: str) -> None:
    assert reason(value) == expected


def test_deep_metadata_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(api.MAX_METADATA_DEPTH + 1):
        deep = {"a": [deep]}
    assert reason(raw(metadata=deep)) == "metadata_invalid"


def test_another_business_is_rejected() -> None:
    assert reason(raw(businessId="biz-2"), business_id="biz-1") == "business_not_yours"
    assert isinstance(parse_event(raw(businessId="biz-1"), business_id="biz-1"), EventIn)


def test_a_rejection_names_the_event_where_it_can() -> None:
    rejection = parse_event(raw("nap"))
    assert isinstance(rejection, Rejection)
    assert rejection.event_id == "e1"
    assert rejection.at(3) == api.RejectedEvent(index=3, event_id="e1", reason="event_type_unknown", detail=rejection.detail)
    hidden = parse_event({"eventId": "a\u0000b", "bad\nname": 1})
    assert isinstance(hidden, Rejection)
    assert hidden.event_id is None
    assert "\n" not in hidden.detail


def test_times_become_utc_and_absent_ones_now() -> None:
    assert parsed(occurredAt="2026-11-20T10:00:00+02:00").occurred_at == datetime(2026, 11, 20, 8, tzinfo=UTC)
    assert parsed(occurredAt="2026-11-20T10:00:00").occurred_at == datetime(2026, 11, 20, 10, tzinfo=UTC)
    assert abs(parsed().occurred_at - datetime.now(UTC)) < timedelta(minutes=1)
    then = datetime(2011, 12, 9, tzinfo=UTC)
    event = parse_event(raw(), now=then)
    assert isinstance(event, EventIn)
    assert event.occurred_at == then
    assert EventIn(event_id="e", customer_id="c", event_type="app_open", occurred_at=then).occurred_at == then


def test_what_was_left_out_is_no_part_of_the_content() -> None:
    a, b = parse_event(raw(), now=datetime(2011, 1, 1, tzinfo=UTC)), parse_event(raw(channel=None, businessId="b"))
    assert isinstance(a, EventIn)
    assert isinstance(b, EventIn)
    assert a.content() == {"eventId": "e1", "customerId": "c1", "eventType": "app_open"}
    assert a.content_hash() == b.content_hash()
    assert a.content_hash() != parsed(value=0).content_hash()
    assert parsed(metadata={"a": 1, "b": 2}).content_hash() == parsed(metadata={"b": 2, "a": 1}).content_hash()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        to_camel(n): JSON | st.sampled_from(["e1", "purchase", "ticket", "redemption", "2026-11-20T00:00:00Z"])
        for n in EventIn.model_fields
    },
)


@given(JSON | FIELDS | st.builds(lambda more: {**raw("purchase", amount=1), "metadata": more}, FIELDS | JSON))
@settings(max_examples=300, deadline=None)
def test_whatever_json_comes_in_is_an_event_or_a_reason(value: Any) -> None:
    result = parse_event(value, business_id="b")
    if isinstance(result, EventIn):
        again = parse_event(orjson.loads(orjson.dumps(result.content())))
        assert isinstance(again, EventIn)
        assert again.content_hash() == result.content_hash()
    else:
        assert result.reason
        orjson.dumps(result.at(0).model_dump(mode="json"))
