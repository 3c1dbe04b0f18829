"""Request and response of each route of the HTTP API: camelCase on the wire, snake_case here.

Requests refuse unknown fields, numbers sent as text or as true/false, NaN and infinity, and control characters. Events are checked one
by one (`split_events`, then `parse_event`), so that one bad event in a batch fails alone.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel, to_snake

from contracts.errors import ContractError, TooLarge
from contracts.tables import CHANNELS, EVENT_TYPES, ISSUE_TYPES, PURCHASE_CHANNELS, REWARD_TYPES, SENTIMENTS

MAX_EVENTS = 1000
MAX_METADATA_BYTES = 16_384
MAX_METADATA_DEPTH = 16
MAX_ITEMS = 200
MAX_AHEAD = timedelta(days=1)
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)

API_EVENT_TYPES = ("purchase", "feedback", "ticket", *EVENT_TYPES)
"""What an event's `eventType` may be: the warehouse's own types, and three that land elsewhere or under another name."""
REWARD_EVENT_TYPES = ("redemption", "reward_dismissed")
TIMES_OF_DAY = ("morning", "afternoon", "evening", "night")
ROLES = ("app", "analyst", "private_reader", "admin")

# Written as ranges, not as \p{C}: the same pattern must mean the same in Rust (Pydantic), Python and ECMAScript (OpenAPI readers).
_UNSEEN = r"\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\uffff"
_BLANK = r"\x20\xa0\u1680\u2000-\u200a\u202f\u205f\u3000"
ID_PATTERN = f"^[^{_UNSEEN}{_BLANK}]([^{_UNSEEN}]*[^{_UNSEEN}{_BLANK}])?$"
TEXT_PATTERN = f"^[^{_UNSEEN}]*$"


def _not_text_nor_bool(value: Any) -> Any:
    """JSON numbers only: Pydantic would else read "5" and true as numbers, and the OpenAPI document would be a lie."""
    if isinstance(value, (str, bytes, bool)):
        raise ValueError(f"must be a JSON number, got {type(value).__name__}")
    return value


def _iso_time(value: Any) -> Any:
    """ISO 8601 text only: Pydantic would else read 5 or "5" as seconds since 1970."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not re.match(r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}", value):
        raise ValueError("must be ISO 8601 date and time, for example 2026-11-21T08:30:00Z")
    return value


def _utc(value: datetime) -> datetime:
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError as exc:
        raise ValueError("is out of range") from exc


def _check_plain(value: Any, depth: int) -> None:
    if depth > MAX_METADATA_DEPTH:
        raise ValueError(f"is nested deeper than {MAX_METADATA_DEPTH} levels")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("holds NaN or infinity, must hold finite numbers")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_plain(inner, depth + 1)


def _plain_json(value: dict[str, Any]) -> dict[str, Any]:
    """A JSON object that can be stored and read back as it is: finite, shallow, valid UTF-8, at most 16 KiB."""
    _check_plain(value, 0)
    try:
        size = len(orjson.dumps(value))
    except orjson.JSONEncodeError as exc:
        raise ValueError(f"is not plain JSON: {exc}") from exc
    if size > MAX_METADATA_BYTES:
        raise ValueError(f"is {size} bytes, must be at most {MAX_METADATA_BYTES}")
    return value


Id = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=ID_PATTERN)]
Text = Annotated[str, StringConstraints(max_length=128, pattern=TEXT_PATTERN)]
# json_schema_input_type hides the bounds of such a field from its JSON schema, so those fields repeat them in json_schema_extra.
Integer = Annotated[int, BeforeValidator(_not_text_nor_bool, json_schema_input_type=int)]
Number = Annotated[float, BeforeValidator(_not_text_nor_bool, json_schema_input_type=float)]
Time = Annotated[datetime, BeforeValidator(_iso_time, json_schema_input_type=datetime), AfterValidator(_utc)]
Metadata = Annotated[dict[str, Any], AfterValidator(_plain_json)]
Coverage = Literal["full", "sparse", "cold_start"]
FeedbackType = Literal["IMPRESSION", "CLICK", "CONVERSION", "NEGATIVE_FEEDBACK"]
Role = Literal["app", "analyst", "private_reader", "admin"]
Objective = Literal["redemption", "expected_value", "clv"]
"""What the order of an answer maximises."""
OfferKind = Literal[REWARD_TYPES]  # type: ignore[valid-type]
ApiEventType = Literal[API_EVENT_TYPES]  # type: ignore[valid-type]
Channel = Literal[CHANNELS]  # type: ignore[valid-type]


class Request(BaseModel):
    """Base of what callers send: unknown fields are refused."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Response(BaseModel):
    """Base of what we answer."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True,
        protected_namespaces=(),
    )  # fmt: skip

    def wire(self) -> bytes:
        """The JSON body, camelCase, absent values left out."""
        return orjson.dumps(self.model_dump(mode="json", by_alias=True, exclude_none=True))


class RecommendationContext(Request):
    """Where and when the customer will see the answer."""

    page: Text | None = Field(default=None, examples=["homepage"])
    """Page or screen of the app."""
    time_of_day: Literal["morning", "afternoon", "evening", "night"] | None = Field(default=None, examples=["morning"])
    """Part of the customer's day; derived from the server's clock (UTC) when absent."""
    location: Text | None = Field(default=None, examples=["San Francisco, CA"])
    """Place of the customer, free text."""
    device_type: Text | None = Field(default=None, examples=["ios"])
    """Kind of device, for example ios, android or web."""


class RecommendationRequest(Request):
    """Ask which rewards to show to one customer."""

    customer_id: Id = Field(examples=["cust-123"])
    """The customer; an unknown one gets a cold-start answer."""
    business_id: Id | None = Field(default=None, examples=["biz-1"])
    """May be left out; one that is not the caller's is refused with 403."""
    context: RecommendationContext = Field(
        default_factory=RecommendationContext,
        examples=[{"page": "homepage", "timeOfDay": "morning", "location": "San Francisco, CA", "deviceType": "ios"}],
    )
    """Where and when the answer will be shown."""
    num_recommendations: Integer = Field(default=5, ge=1, le=50, examples=[5], json_schema_extra={"minimum": 1, "maximum": 50})
    """How many rewards at most."""
    objective: Objective | None = Field(default=None, examples=["redemption"])
    """What the order maximises: redemption (the probability), expected_value (probability x margin of the reward) or clv (margin and the
    worth of keeping the customer). The server's setting when absent. `score` is the probability whatever the order."""
    diversity: Number | None = Field(default=None, ge=0, le=1, examples=[0.2], json_schema_extra={"minimum": 0, "maximum": 1})
    """0 orders by the objective alone, 1 by how unlike the rewards are to those before; the server's setting when absent."""


class Reason(Response):
    """Why a reward was recommended."""

    code: str = Field(examples=["high_affinity_category"])
    """Short, stable, for programs."""
    sentence: str = Field(examples=["You redeem coffee rewards 3.0x more than other customers"])
    """For people; its numbers are computed from the customer's own data and that of all customers."""
    impact: float | None = Field(default=None, ge=-1, le=1, examples=[0.031])
    """How much lower `score` would be if this were not so; absent where it was not measured."""


class Recommendation(Response):
    """One recommended reward."""

    reward_id: str = Field(examples=["reward-456"])
    """The reward."""
    name: str = Field(examples=["Free Latte"])
    """Its name in the catalogue."""
    score: float = Field(ge=0, le=1, examples=[0.89])
    """Calibrated probability that the customer redeems it within the model's horizon."""
    rank: int = Field(ge=1, examples=[1])
    """1 is the best."""
    explanation: str = Field(examples=["You redeem coffee rewards 3x more than other customers"])
    """One sentence computed from the customer's own data."""
    reasoning: list[str] = Field(examples=[["high_affinity_category", "time_of_day_match"]])
    """Machine-readable reasons, strongest first."""
    reasons: list[Reason] | None = Field(
        default=None,
        examples=[
            [{"code": "high_affinity_category", "sentence": "You redeem coffee rewards 3.0x more than other customers", "impact": 0.031}]
        ],
    )
    """The same reasons with a sentence each, at most three: those that moved the score most."""


class RecommendationResponse(Response):
    """The rewards to show, best first."""

    recommendation_id: str = Field(examples=["0c3f9b8e5d1c4a0f8a4be1c9a2f4f6d1"])
    """Names this answer in feedback and history."""
    customer_id: str = Field(examples=["cust-123"])
    """The customer asked about."""
    recommendations: list[Recommendation]
    """Best first; fewer than asked for when fewer rewards are allowed for this customer."""
    model_version: str = Field(examples=["two-tower/7"])
    """The model that made this answer."""
    latency: float = Field(ge=0, examples=[8.7])
    """Milliseconds spent in the server."""
    coverage: Coverage = Field(examples=["full"])
    """How much was known of the customer."""
    degraded: bool = Field(examples=[False])
    """True when a part failed and a simpler method answered."""


class FeedbackRequest(Request):
    """What the customer did with one recommended reward."""

    event_type: FeedbackType = Field(examples=["CLICK"])
    """NEGATIVE_FEEDBACK keeps the reward out of this customer's next answers."""
    reward_id: Id = Field(examples=["reward-456"])
    """One of the rewards of that recommendation."""
    metadata: Metadata = Field(default_factory=dict, examples=[{"screen": "home"}])
    """Anything else worth keeping, at most 16 KiB of JSON."""


class FeedbackResponse(Response):
    """Feedback was stored; sending it again changes nothing."""

    recommendation_id: str = Field(examples=["0c3f9b8e5d1c4a0f8a4be1c9a2f4f6d1"])
    """The recommendation the feedback is about."""
    reward_id: str = Field(examples=["reward-456"])
    """The reward the feedback is about."""
    event_type: FeedbackType = Field(examples=["CLICK"])
    """What the customer did."""
    duplicate: bool = Field(examples=[False])
    """True when this feedback had been received before."""
    model_version: str = Field(examples=["two-tower/7"])
    """The model that made the recommendation."""
    latency: float = Field(ge=0, examples=[1.9])
    """Milliseconds spent in the server."""


class RecommendationRecord(Response):
    """One past answer."""

    recommendation_id: str = Field(examples=["0c3f9b8e5d1c4a0f8a4be1c9a2f4f6d1"])
    """Names the answer."""
    customer_id: str = Field(examples=["cust-123"])
    """The customer it was for."""
    created_at: datetime = Field(examples=["2026-11-21T08:30:00Z"])
    """When it was given, UTC."""
    model_version: str = Field(examples=["two-tower/7"])
    """The model that made it."""
    coverage: Coverage = Field(examples=["full"])
    """How much was known of the customer."""
    degraded: bool = Field(examples=[False])
    """True when a simpler method answered."""
    recommendations: list[Recommendation]
    """What was shown, best first."""


class RecommendationHistory(Response):
    """Past answers for one customer, newest first, one page of them."""

    items: list[RecommendationRecord]
    """This page."""
    total: int = Field(ge=0, examples=[42])
    """How many there are in all."""
    limit: int = Field(ge=1, examples=[20])
    """Asked-for page size."""
    offset: int = Field(ge=0, examples=[0])
    """How many newer ones were skipped."""
    next_offset: int | None = Field(default=None, examples=[20])
    """Offset of the next page; absent on the last one."""
    model_version: str = Field(examples=["two-tower/7"])
    """The model that is being served now."""
    latency: float = Field(ge=0, examples=[1.2])
    """Milliseconds spent in the server."""


class SimilarCustomer(Response):
    """One customer near the asked one."""

    customer_id: str = Field(examples=["cust-456"])
    """The customer."""
    similarity: float = Field(ge=-1, le=1, examples=[0.93])
    """Cosine of the two customers' vectors."""
    shared_rewards: list[str] = Field(examples=[["Free Latte", "Two for one: pastry"]])
    """Names of up to three rewards that both redeemed, the most often by both first."""
    embedded_at: datetime = Field(examples=["2026-11-21T08:30:00.125Z"])
    """What the customer did before this instant is in the vector."""


class VectorFreshness(Response):
    """How new and how complete the vectors are that were compared."""

    vector_age_seconds: float = Field(ge=0, examples=[0.0])
    """Age of the asked customer's own vector; more than 0 only while the model server is away."""
    indexed: int = Field(ge=0, examples=[19873])
    """Customers of this business that have a vector."""
    total: int = Field(ge=0, examples=[20000])
    """Customers of this business that are known. More than `indexed`: the others are being embedded."""


class SimilarResponse(Response):
    """The customers most like the asked one, nearest first."""

    customer_id: str = Field(examples=["cust-123"])
    """The customer asked about."""
    similar: list[SimilarCustomer]
    """Nearest first, without the asked one; fewer than `limit` when there are fewer."""
    model_version: str = Field(examples=["two-tower/7"])
    """The model whose vectors were compared."""
    latency: float = Field(ge=0, examples=[3.4])
    """Milliseconds spent in the server."""
    coverage: Coverage = Field(examples=["full"])
    """How much was known of the asked customer."""
    freshness: VectorFreshness
    """How new and how complete the vectors are."""


class NextOfferRequest(Request):
    """Ask which kind of offer to make to one customer."""

    customer_id: Id = Field(examples=["cust-123"])
    """The customer; an unknown one gets a cold-start answer."""
    business_id: Id | None = Field(default=None, examples=["biz-1"])
    """May be left out; one that is not the caller's is refused with 403."""
    context: RecommendationContext = Field(
        default_factory=RecommendationContext, examples=[{"page": "homepage", "timeOfDay": "morning", "deviceType": "ios"}]
    )
    """Where and when the offer will be made."""
    objective: Objective | None = Field(default=None, examples=["redemption"])
    """What the order maximises; see `RecommendationRequest`. The server's setting when absent."""


class OfferReward(Response):
    """The best allowed reward of one type for this customer."""

    reward_id: str = Field(examples=["reward-456"])
    """The reward."""
    name: str = Field(examples=["Free Latte"])
    """Its name in the catalogue."""
    score: float = Field(ge=0, le=1, examples=[0.12])
    """Probability that the customer redeems this very reward within the horizon."""


class OfferProbability(Response):
    """One of the eight offer types."""

    offer_type: OfferKind = Field(examples=["free_item"])
    """The reward type."""
    probability: float = Field(ge=0, le=1, examples=[0.31])
    """Calibrated probability that the customer redeems (an informational one: views) a reward of the type within the horizon, while it is
    on offer. 0 for a type that the catalogue has not, or of which this business has no history yet."""
    available: bool = Field(examples=[True])
    """Whether a reward of the type may be offered to this customer now."""
    expected_value: float | None = Field(default=None, examples=[1.42])
    """Probability times what redeeming the best reward leaves, money; null where there is none to offer."""
    reward: OfferReward | None = None
    """The best allowed one; null where there is none: dismissed, expired, sold out, redeemed once and for all, or not in the catalogue."""
    note: Literal["not_in_catalogue", "none_allowed", "no_history"] | None = Field(default=None, examples=["none_allowed"])
    """Why it cannot be offered, or why its probability is 0."""


class NextBestOffer(Response):
    """The offer to make."""

    offer_type: OfferKind = Field(examples=["free_item"])
    """The first of `offers`."""
    reward_id: str = Field(examples=["reward-456"])
    """Its best reward."""
    name: str = Field(examples=["Free Latte"])
    """The reward's name in the catalogue."""
    probability: float = Field(ge=0, le=1, examples=[0.31])
    """Of the type, as in `offers`."""
    reason: str = Field(examples=["You redeemed 6 free items before"])
    """One sentence computed from the customer's own data."""


class NextOfferResponse(Response):
    """A probability for each of the eight offer types, and the offer to make."""

    customer_id: str = Field(examples=["cust-123"])
    """The customer asked about."""
    offers: list[OfferProbability] = Field(min_length=8, max_length=8)
    """All eight types, best first: those that can be offered before those that cannot."""
    next_best_offer: NextBestOffer | None = None
    """The first of them with its reward; null where nothing may be offered."""
    model_version: str = Field(examples=["two-tower/7"])
    """The model that made this answer."""
    latency: float = Field(ge=0, examples=[4.2])
    """Milliseconds spent in the server."""
    coverage: Coverage = Field(examples=["full"])
    """How much was known of the customer."""
    degraded: bool = Field(examples=[False])
    """True when a part failed and the business's shares stand in for the model."""
    horizon_days: int = Field(ge=1, examples=[30])
    """What the probabilities are about."""


class EventIn(Request):
    """One dated act of a customer. The same `eventId` sent again changes nothing."""

    event_id: Id = Field(examples=["evt-20261121-000001"])
    """The caller's own id of this event, unique within the business."""
    customer_id: Id = Field(examples=["cust-123"])
    """Who acted."""
    business_id: Id | None = Field(default=None, examples=["biz-1"])
    """May be left out; one that is not the caller's is refused."""
    event_type: ApiEventType = Field(examples=["redemption"])
    """What happened. A purchase needs `amount`; a redemption or reward_dismissed needs `rewardId`; a ticket needs `metadata.text` or
    `metadata.rating`."""
    occurred_at: Time = Field(default_factory=lambda: datetime.now(UTC), examples=["2026-11-21T08:30:00Z"])
    """When it happened, ISO 8601 (UTC unless it says otherwise); now when absent."""
    reward_id: Id | None = Field(default=None, examples=["reward-456"])
    """The reward it is about."""
    campaign_id: Id | None = Field(default=None, examples=["camp-012"])
    """The campaign that led to it."""
    channel: Channel | None = Field(default=None, examples=["app"])
    """Where it happened. A purchase's channel is store, app or web."""
    value: Number | None = Field(default=None, ge=-1e12, le=1e12, examples=[4.5], json_schema_extra={"minimum": -1e12, "maximum": 1e12})
    """A number that belongs to the event, for example points earned or a rating."""
    amount: Number | None = Field(default=None, ge=0, le=1e12, examples=[12.4], json_schema_extra={"minimum": 0, "maximum": 1e12})
    """Money paid, for a purchase, in the business's currency."""
    metadata: Metadata = Field(default_factory=dict, examples=[{"store": "Market Street"}])
    """Anything else, at most 16 KiB. Read from a purchase: store, discountAmount, items [{productId, quantity, amount}];
    from a ticket: text, rating 1..5, issueType, resolutionHours, sentiment; from feedback: rating, text."""

    def content(self) -> dict[str, Any]:
        """What the caller said, JSON-ready, camelCase, without what was left out and without the business."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True, exclude={"business_id"})

    def content_hash(self) -> str:
        """SHA-256 (hex) of `content`: two events with the same id must have the same one."""
        return hashlib.sha256(orjson.dumps(self.content(), option=orjson.OPT_SORT_KEYS)).hexdigest()


class EventBatch(Request):
    """Several events at once. Each is checked on its own; see `rejected` in the answer."""

    events: list[EventIn] = Field(min_length=1, max_length=MAX_EVENTS)
    """1 to 1000 events."""


class RejectedEvent(Response):
    """Why one event was not taken."""

    index: int = Field(ge=0, examples=[3])
    """Position in the batch, from 0."""
    event_id: str | None = Field(default=None, examples=["evt-20261121-000004"])
    """Its id, where one could be read."""
    reason: str = Field(examples=["amount_missing"])
    """Short, stable reason for programs."""
    detail: str = Field(examples=["a purchase needs amount. Send the money paid, 0 or more."])
    """What to do, for people."""


class EventsResponse(Response):
    """What became of the events."""

    accepted: int = Field(ge=0, examples=[997])
    """Stored now; features see them at the next request."""
    duplicates: int = Field(ge=0, examples=[2])
    """Were stored before with the same content; nothing changed."""
    rejected: list[RejectedEvent] = Field(default_factory=list)
    """Not stored as events; put aside with the reason."""
    model_version: str | None = Field(default=None, examples=["two-tower/7"])
    """The model that is being served now."""
    latency: float = Field(default=0.0, ge=0, examples=[3.1])
    """Milliseconds spent in the server."""


class FieldProblem(Response):
    """One field that does not meet the contract."""

    field: str = Field(examples=["context.timeOfDay"])
    """Path of the field in the body, or the name of the parameter."""
    detail: str = Field(examples=["Input should be 'morning', 'afternoon', 'evening' or 'night'"])
    """What is wrong with it."""


class Problem(Response):
    """RFC 9457 problem details, `application/problem+json`."""

    type: str = Field(examples=["https://regulars.invalid/problems/contract"])
    """Names the kind of problem; not a page."""
    title: str = Field(examples=["Request does not meet the contract"])
    """Short, the same for every problem of this kind."""
    status: int = Field(ge=400, le=599, examples=[422])
    """HTTP status."""
    detail: str = Field(examples=["numRecommendations is 80, must be 1 to 50. Ask for fewer."])
    """What was seen, the rule, and what to do."""
    instance: str = Field(examples=["/api/v1/ml/recommendations"])
    """Path of the request."""
    request_id: str | None = Field(default=None, examples=["9f0c2a7e"])
    """Finds this request in the server's log."""
    errors: list[FieldProblem] | None = None
    """The fields at fault, where that is known."""


class Health(Response):
    """The process lives."""

    status: Literal["ok"] = Field(default="ok", examples=["ok"])
    """Always ok: a dead process does not answer."""


class Ready(Response):
    """Whether requests can be served, and what is missing when not (then with status 503)."""

    ready: bool = Field(examples=[True])
    """True when every part that is needed works."""
    checks: dict[str, bool] = Field(examples=[{"database": True, "model": True, "triton": True, "features": True, "sequence": True}])
    """Each part, and whether it works. `model` (is the served version the deployed one?), `sequence` (can forecasts be made?), `questions`
    and `pictures` are shown only."""
    model_version: str | None = Field(default=None, examples=["two-tower/7"])
    """The model that is being served."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """An event that was not taken: where the ingress adds the index, it becomes a `RejectedEvent`."""

    reason: str
    detail: str
    event_id: str | None = None

    def at(self, index: int) -> RejectedEvent:
        return RejectedEvent(index=index, event_id=self.event_id, reason=self.reason, detail=self.detail)


def split_events(body: Any) -> list[Any]:
    """The raw events of a parsed body: one event, or `{"events": [...]}`.

    Raises:
        ContractError: neither of the two, or an empty list.
        TooLarge: more than 1000 events.
    """
    if not isinstance(body, Mapping):
        raise ContractError(f'body is a JSON {type(body).__name__}, must be an object: one event, or {{"events": [...]}}.')
    if "events" not in body:
        return [body]
    events = body["events"]
    if len(body) > 1 or not isinstance(events, list) or not events:
        raise ContractError('a batch must be {"events": [1 to 1000 events]} and nothing else. Send the other fields inside each event.')
    if len(events) > MAX_EVENTS:
        raise TooLarge(f"batch holds {len(events)} events, must hold at most {MAX_EVENTS}. Send several batches.")
    return events


def parse_event(raw: Any, *, business_id: str | None = None, now: datetime | None = None) -> EventIn | Rejection:
    """Check one event.

    Args:
        raw: the event as parsed from JSON.
        business_id: the caller's business; an event of another is rejected with `business_not_yours`.
        now: the time that stands for an absent `occurredAt`; the wall clock when None.

    Returns:
        The event, or why it was not taken; never raises for anything that JSON can hold.
    """
    if not isinstance(raw, Mapping):
        return Rejection(
            "not_an_object", f"event is a JSON {type(raw).__name__}, must be an object with eventId, customerId and eventType."
        )
    try:
        event = EventIn.model_validate(raw, by_alias=True, by_name=False)
    except ValidationError as exc:
        return _rejection(raw, exc)
    if now is not None and "occurred_at" not in event.model_fields_set:
        # object.__setattr__ rather than model_copy: the field must stay "unset", or a repeat of the event would have another content hash.
        event.__dict__["occurred_at"] = now
    reason = _business_reason(event, business_id) or _time_reason(event) or _type_reason(event)
    return event if reason is None else Rejection(*reason, event_id=event.event_id)


def _rejection(raw: Mapping[str, Any], exc: ValidationError) -> Rejection:
    first = exc.errors(include_url=False, include_context=False)[0]
    field = str(first["loc"][0]) if first["loc"] else "event"
    field = field[:64] if field.isprintable() else "field"
    event_id = raw.get("eventId", raw.get("event_id"))
    event_id = event_id[:128] if isinstance(event_id, str) and event_id[:128].isprintable() else None
    if first["type"] == "extra_forbidden":
        return Rejection("unknown_field", f"{field} is not a field of an event. Leave it out or put it into metadata.", event_id)
    kind = {"missing": "missing", "literal_error": "unknown", "greater_than_equal": "out_of_range", "less_than_equal": "out_of_range"}
    if field == "amount" and first["type"] == "greater_than_equal":
        return Rejection(
            "amount_negative", f"amount is {raw.get('amount')}, must be 0 or more. Send refunds as an event of your own.", event_id
        )
    if first["type"] == "string_pattern_mismatch":
        first["msg"] = "must hold printable characters only and neither start nor end with a blank"
    reason = f"{to_snake(field)}_{kind.get(first['type'], 'invalid')}"
    return Rejection(reason, f"{field}: {first['msg'].removeprefix('Value error, ')}. Correct it and send the event again.", event_id)


def _business_reason(event: EventIn, business_id: str | None) -> tuple[str, str] | None:
    if business_id is not None and event.business_id is not None and event.business_id != business_id:
        return "business_not_yours", f"businessId {event.business_id} is not the caller's. Leave it out, or use that business's key."
    return None


def _time_reason(event: EventIn) -> tuple[str, str] | None:
    if not EARLIEST <= event.occurred_at <= datetime.now(UTC) + MAX_AHEAD:
        return "occurred_at_out_of_range", (
            f"occurredAt is {event.occurred_at.isoformat()}, must be after 1970 and at most one day ahead. Check the sender's clock."
        )
    return None


def _type_reason(event: EventIn) -> tuple[str, str] | None:
    match event.event_type:
        case "purchase":
            return _purchase_reason(event)
        case "ticket":
            return _ticket_reason(event.metadata)
        case "feedback":
            return _rating_reason(event.metadata)
        case kind if kind in REWARD_EVENT_TYPES and event.reward_id is None:
            return "reward_id_missing", f"a {kind} needs rewardId. Send the reward it is about."
    return None


def _purchase_reason(event: EventIn) -> tuple[str, str] | None:
    if event.amount is None:
        return "amount_missing", "a purchase needs amount. Send the money paid, 0 or more."
    if event.channel is not None and event.channel not in PURCHASE_CHANNELS:
        return "channel_unknown", f"channel of a purchase is {event.channel}, must be one of {', '.join(PURCHASE_CHANNELS)}."
    if not _text_or_none(event.metadata.get("store"), 128):
        return "store_invalid", "metadata.store must be text of at most 128 characters."
    if not _number_or_none(event.metadata.get("discountAmount"), 0, 1e12):
        return "discount_amount_invalid", "metadata.discountAmount must be a number, 0 or more."
    return _items_reason(event.metadata.get("items"))


def _items_reason(items: Any) -> tuple[str, str] | None:
    if items is None:
        return None
    if not isinstance(items, list) or len(items) > MAX_ITEMS:
        return "items_invalid", f"metadata.items must be a list of at most {MAX_ITEMS} objects {{productId, quantity, amount}}."
    for item in items:
        good = (
            isinstance(item, dict)
            and isinstance(item.get("productId"), str)
            and re.fullmatch(ID_PATTERN, item["productId"]) is not None
            and len(item["productId"]) <= 128
            and _number_or_none(item.get("quantity"), 0, 1_000_000)
            and (item.get("quantity") is None or item["quantity"] == int(item["quantity"]))
            and _number_or_none(item.get("amount"), -1e12, 1e12)
        )
        if not good:
            return "items_invalid", "an entry of metadata.items needs productId (text), and may have quantity (whole) and amount (number)."
    return None


def _ticket_reason(metadata: dict[str, Any]) -> tuple[str, str] | None:
    if not metadata.get("text") and metadata.get("rating") is None:
        return "ticket_text_or_rating_missing", "a ticket needs metadata.text or metadata.rating (1 to 5). Send one of them."
    if not _text_or_none(metadata.get("text"), MAX_METADATA_BYTES):
        return "text_invalid", "metadata.text must be text."
    for name, allowed in (("issueType", ISSUE_TYPES), ("sentiment", SENTIMENTS)):
        if metadata.get(name) is not None and metadata[name] not in allowed:
            return f"{to_snake(name)}_unknown", f"metadata.{name} must be one of {', '.join(allowed)}."
    if not _number_or_none(metadata.get("resolutionHours"), 0, 1e6):
        return "resolution_hours_invalid", "metadata.resolutionHours must be a number, 0 or more."
    return _rating_reason(metadata)


def _rating_reason(metadata: dict[str, Any]) -> tuple[str, str] | None:
    rating = metadata.get("rating")
    if rating is not None and (not _number_or_none(rating, 1, 5) or rating != int(rating)):
        return "rating_out_of_range", "metadata.rating must be a whole number from 1 to 5."
    return None


def _number_or_none(value: Any, low: float, high: float) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high)


def _text_or_none(value: Any, longest: int) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= longest)
