"""The words of a program (`nlq.program`): tables, columns, values and operators, as tokens that the model predicts.

A column's token is `table.column`. Virtual columns are computed from real ones (`nlq.lower`). A value that the schema fixes (a tier, an event type)
is a token too; open values, numbers and times come from the question and are slots (`nlq.link`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from contracts.values import (
    CHANNELS,
    CLV_SEGMENTS,
    COVERAGES,
    EVENT_TYPES,
    ISSUE_TYPES,
    PURCHASE_CHANNELS,
    REWARD_TYPES,
    RISK_LEVELS,
    SENTIMENTS,
    TIERS,
)
from nlq.types import ColumnKind

Type = Literal["id", "text", "enum", "number", "time", "date", "flag"]
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
)  # fmt: skip
FACTORS = ("recency", "frequency", "monetary", "engagement", "redemption", "tenure", "feedback", "season")


@dataclass(frozen=True)
class Field:
    """A column a program may name.

    Attributes:
        kind: how its values read in an answer.
        values: what the schema allows, for an enum.
        open: values come from the data and are looked up in questions.
        virtual: no such column is stored; `nlq.lower` computes it.
        ahead: a time that normally lies in the future ("in 30 days" counts forward).
    """

    table: str
    name: str
    type: Type
    kind: ColumnKind
    values: tuple[str, ...] = ()
    open: bool = False
    virtual: bool = False
    ahead: bool = False
    private: bool = False

    @property
    def token(self) -> str:
        return f"{self.table}.{self.name}"


def _fields(table: str, *rows: Field | tuple[object, ...]) -> list[Field]:
    return [r if isinstance(r, Field) else Field(table, *r) for r in rows]  # type: ignore[arg-type]


def _f(table: str, name: str, kind_type: Type, kind: ColumnKind, **more: object) -> Field:
    return Field(table, name, kind_type, kind, **more)  # type: ignore[arg-type]


@cache
def fields() -> dict[str, Field]:
    """Every column by token, in a fixed order."""
    c, p, r, t, ti = "customers", "products", "rewards", "transactions", "transaction_items"
    e, k, m, s, q = "events", "tickets", "campaigns", "segments", "customer_risk_scores"
    found = [
        _f(c, "customer_id", "id", "id", open=True), _f(c, "name", "text", "name", open=True),
        _f(c, "email", "text", "text", private=True), _f(c, "birth_date", "date", "time", private=True),
        _f(c, "joined_at", "time", "time"), _f(c, "gender", "enum", "category", values=("F", "M", "O")),
        _f(c, "age_group", "text", "category", open=True), _f(c, "income", "number", "money"),
        _f(c, "location", "text", "category", open=True), _f(c, "membership_tier", "enum", "category", values=TIERS),
        _f(c, "points_balance", "number", "number"), _f(c, "consent_personalization", "flag", "flag"),
        _f(c, "tenure_days", "number", "number", virtual=True),
        _f(c, "last_purchase_at", "time", "time", virtual=True),
        _f(c, "first_purchase_at", "time", "time", virtual=True), _f(c, "days_since_purchase", "number", "number", virtual=True),
        _f(c, "birth_month", "enum", "category", values=MONTHS, virtual=True, private=True),
        _f(p, "product_id", "id", "id", open=True), _f(p, "name", "text", "name", open=True), _f(p, "brand", "text", "category", open=True),
        _f(p, "category", "text", "category", open=True), _f(p, "price", "number", "money"),
        _f(r, "reward_id", "id", "id", open=True), _f(r, "name", "text", "name", open=True), _f(r, "description", "text", "text"),
        _f(r, "category", "text", "category", open=True), _f(r, "reward_type", "enum", "category", values=REWARD_TYPES),
        _f(r, "points_cost", "number", "number"), _f(r, "face_value", "number", "money"), _f(r, "difficulty", "number", "money"),
        _f(r, "valid_from", "time", "time"), _f(r, "valid_to", "time", "time", ahead=True), _f(r, "inventory", "number", "number"),
        _f(r, "active", "flag", "flag", virtual=True), _f(r, "expired", "flag", "flag", virtual=True),
        _f(t, "transaction_id", "id", "id", open=True), _f(t, "customer_id", "id", "id"), _f(t, "occurred_at", "time", "time"),
        _f(t, "amount", "number", "money"), _f(t, "discount_amount", "number", "money"),
        _f(t, "channel", "enum", "category", values=PURCHASE_CHANNELS), _f(t, "store", "text", "category", open=True),
        _f(t, "net_amount", "number", "money", virtual=True), _f(t, "weekday", "enum", "category", values=WEEKDAYS, virtual=True),
        _f(t, "weekend", "flag", "flag", virtual=True), _f(t, "hour", "number", "number", virtual=True),
        _f(ti, "product_id", "id", "id"), _f(ti, "customer_id", "id", "id", virtual=True), _f(ti, "quantity", "number", "number"), _f(ti, "amount", "number", "money"),
        _f(e, "event_id", "id", "id"), _f(e, "customer_id", "id", "id"), _f(e, "occurred_at", "time", "time"),
        _f(e, "event_type", "enum", "category", values=EVENT_TYPES), _f(e, "reward_id", "id", "id"), _f(e, "campaign_id", "id", "id"),
        _f(e, "channel", "enum", "category", values=CHANNELS), _f(e, "value", "number", "number"),
        _f(e, "upgrade", "flag", "flag", virtual=True), _f(e, "downgrade", "flag", "flag", virtual=True),
        _f(e, "from_tier", "enum", "category", values=TIERS, virtual=True), _f(e, "to_tier", "enum", "category", values=TIERS, virtual=True),
        _f(k, "ticket_id", "id", "id", open=True), _f(k, "customer_id", "id", "id"), _f(k, "created_at", "time", "time"),
        _f(k, "channel", "enum", "category", values=CHANNELS), _f(k, "issue_type", "enum", "category", values=ISSUE_TYPES),
        _f(k, "rating", "number", "number"), _f(k, "resolution_hours", "number", "number"), _f(k, "text", "text", "text"),
        _f(k, "sentiment", "enum", "category", values=SENTIMENTS),
        _f(m, "campaign_id", "id", "id", open=True), _f(m, "name", "text", "name", open=True),
        _f(m, "channel", "enum", "category", values=CHANNELS), _f(m, "started_at", "time", "time"),
        _f(m, "ended_at", "time", "time"), _f(m, "budget", "number", "money"), _f(m, "duration_days", "number", "number", virtual=True),
        _f(m, "running", "flag", "flag", virtual=True),
        _f(s, "segment_id", "id", "id", open=True), _f(s, "name", "text", "name", open=True), _f(s, "description", "text", "text"),
        _f(s, "size", "number", "number"), _f(s, "average_clv", "number", "money"), _f(s, "churn_rate", "number", "fraction"),
        _f(s, "redemption_rate", "number", "fraction"), _f(s, "updated_at", "time", "time"),
        _f(q, "customer_id", "id", "id"), _f(q, "scored_at", "time", "time"), _f(q, "churn_30", "number", "fraction"),
        _f(q, "churn_60", "number", "fraction"), _f(q, "churn_90", "number", "fraction"),
        _f(q, "risk_level", "enum", "category", values=RISK_LEVELS), _f(q, "predicted_churn_date", "date", "time", ahead=True),
        _f(q, "days_until_churn", "number", "number"), _f(q, "top_factor", "enum", "category", values=FACTORS),
        _f(q, "historical_clv", "number", "money"), _f(q, "predicted_clv", "number", "money"),
        _f(q, "clv_segment", "enum", "category", values=CLV_SEGMENTS), _f(q, "segment_id", "id", "id"),
        _f(q, "model_version", "text", "category"), _f(q, "coverage", "enum", "category", values=COVERAGES),
    ]  # fmt: skip
    return {f.token: f for f in found}


TABLES = (
    "customers", "products", "rewards", "transactions", "transaction_items", "events", "tickets", "campaigns", "segments", "customer_risk_scores",
)  # fmt: skip
PERSON = ("customers", "customer_risk_scores", "segments")
UP: dict[str, tuple[str, ...]] = {
    "customers": PERSON, "customer_risk_scores": ("customer_risk_scores", "customers", "segments"), "segments": ("segments",),
    "products": ("products",), "rewards": ("rewards",), "campaigns": ("campaigns",),
    "transactions": ("transactions", *PERSON), "transaction_items": ("transaction_items", "products", "transactions", *PERSON),
    "events": ("events", "rewards", "campaigns", *PERSON), "tickets": ("tickets", *PERSON),
}  # fmt: skip
"""Tables reached from a row of a table along keys, each giving at most one row: columns of these may be filtered on, grouped by and shown."""
OF_PERSON = ("transactions", "transaction_items", "events", "tickets")
DOWN: dict[str, tuple[str, ...]] = {
    "customers": OF_PERSON, "customer_risk_scores": OF_PERSON, "transactions": OF_PERSON, "events": OF_PERSON, "tickets": OF_PERSON,
    "rewards": ("events",), "products": ("transaction_items",), "campaigns": ("events",), "segments": (), "transaction_items": OF_PERSON,
}  # fmt: skip
"""Tables of which many rows belong to a row: reached by "has" only. For facts it is the customer's rows that count."""
TIME: dict[str, str] = {
    "customers": "joined_at", "transactions": "occurred_at", "transaction_items": "transactions.occurred_at", "events": "occurred_at",
    "tickets": "created_at", "campaigns": "started_at", "rewards": "valid_from", "segments": "updated_at", "customer_risk_scores": "scored_at",
}  # fmt: skip
DEFAULT_COLUMNS: dict[str, tuple[str, ...]] = {
    "customers": ("customer_id", "name"), "products": ("product_id", "name"), "rewards": ("reward_id", "name"),
    "campaigns": ("campaign_id", "name"), "segments": ("segment_id", "name"),
    "transactions": ("transaction_id", "customer_id", "occurred_at", "amount"), "tickets": ("ticket_id", "customer_id", "created_at"),
    "events": ("event_id", "customer_id", "occurred_at", "event_type"), "transaction_items": ("transaction_id", "product_id", "quantity", "amount"),
    "customer_risk_scores": ("customer_id",),
}  # fmt: skip
ENTITIES = ("customers", "products", "rewards", "campaigns", "segments")
"""Tables that a question may group by as a thing: their id and name."""

COMPARE = ("gt", "ge", "lt", "le")
SIMPLE = ("count", "distinct", "sum", "avg", "min", "max", "median")
WRAPPED = ("share", "only", "ratio", "of_total", "growth", "vs", "pct", "cumulative")
SPREAD = ("per", "topshare")
"""Wrapped metrics of the second round, a list of their own since tokens are only appended: a total per day, week, …; what the largest few
make of it."""
BUCKETS = ("day", "week", "month", "quarter", "year", "weekday", "hour")
CONDITIONS = (
    "eq",
    "ne",
    *COMPARE,
    "in",
    "notin",
    "like",
    "null",
    "notnull",
    "true",
    "false",
    "between",
    "during",
    "notduring",
    "has",
    "hasnot",
    "hasagg",
    "or",
)
PAIRED = ("hasmore", "hasin")
"""More conditions: more in one period than in another; something within so many days of joining."""
OWNER = {"products": "transaction_items", "rewards": "events", "campaigns": "events"}
"""Many of these belong to a row through the rows of another table."""  # fmt: skip
CONSTANTS: dict[str, float] = {f"#{c}": float(c) for c in ("0", "1", "2", "3", "4", "5", "10", "0.5", "30", "60", "90", "100")}
NUMBER_SLOTS = 4
VALUE_SLOTS = 4
TIME_SLOTS = 3
SLOTS = (*(f"N{i}" for i in range(NUMBER_SLOTS)), *(f"V{i}" for i in range(VALUE_SLOTS)), *(f"T{i}" for i in range(TIME_SLOTS)))


def value_token(field: Field, value: str) -> str:
    """Token of an enum's value; the same word is one token in every column."""
    return f"={value}"


@cache
def tokens() -> tuple[str, ...]:
    """The whole vocabulary in a fixed order; a token's position is its id. The order is part of a trained artifact: only append."""
    values: dict[str, None] = {}
    for f in fields().values():
        for v in f.values:
            values[value_token(f, v)] = None
    return (
        "<pad>", "<start>", "end", ";", ")", "list", "agg", "refuse", *SIMPLE, *WRAPPED, *BUCKETS, *CONDITIONS, "desc", "asc", "m0", "m1", "d0",
        "one", "each", "mean", *CONSTANTS, *SLOTS, *TABLES, *fields(), *values, *SPREAD, *PAIRED, "change",
    )  # fmt: skip


@cache
def token_ids() -> dict[str, int]:
    return {t: i for i, t in enumerate(tokens())}
