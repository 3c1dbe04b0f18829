"""The warehouse's tables: columns, Arrow types, keys, partition time and the checks that a row must pass."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

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

TIMESTAMP = pa.timestamp("us", tz="UTC")
MONEY = pa.decimal128(18, 4)
TEXT = pa.string()

SINGLE_USE_REWARD_TYPES = ("experience", "upgrade")
"""Reward types that a customer redeems at most once; every other type is repeatable."""


@dataclass(frozen=True)
class Check:
    """A rule that a good row meets.

    Attributes:
        name: short reason under which a failing row is put aside, for example `amount_negative`.
        predicate: DuckDB boolean expression over the row's columns; NULL counts as passed.
    """

    name: str
    predicate: str


@dataclass(frozen=True)
class Table:
    """One warehouse table.

    Attributes:
        name: as the text-to-SQL schema names it.
        schema: Arrow columns; `nullable=False` where a value is required.
        key: columns that identify a row (with `business_id` where the table has one).
        time: column whose month partitions the files; None for tables partitioned by business only.
        checks: rules beyond types and required values.
    """

    name: str
    schema: pa.Schema
    key: tuple[str, ...]
    time: str | None = None
    checks: tuple[Check, ...] = field(default_factory=tuple)

    @property
    def columns(self) -> list[str]:
        return list(self.schema.names)

    @property
    def required(self) -> list[str]:
        return [f.name for f in self.schema if not f.nullable]


def _one_of(column: str, values: tuple[str, ...]) -> Check:
    listed = ", ".join(f"'{v}'" for v in values)
    return Check(f"{column}_unknown", f"{column} IN ({listed})")


def _not_negative(*columns: str) -> tuple[Check, ...]:
    return tuple(Check(f"{c}_negative", f"{c} >= 0") for c in columns)


def _schema(required: dict[str, pa.DataType], optional: dict[str, pa.DataType], order: str) -> pa.Schema:
    both = {**{n: pa.field(n, t, nullable=False) for n, t in required.items()}, **{n: pa.field(n, t) for n, t in optional.items()}}
    return pa.schema([both[n] for n in order.split()])


_ID = {"business_id": TEXT}

CUSTOMERS = Table(
    "customers",
    _schema(
        {**_ID, "customer_id": TEXT},
        {"name": TEXT, "email": TEXT, "joined_at": TIMESTAMP, "birth_date": pa.date32(), "gender": TEXT, "age_group": TEXT, "income": MONEY,
         "location": TEXT, "membership_tier": TEXT, "points_balance": pa.int64(), "consent_personalization": pa.bool_()},
        "customer_id business_id name email joined_at birth_date gender age_group income location membership_tier points_balance "
        "consent_personalization",
    ),
    ("business_id", "customer_id"),
    checks=(_one_of("membership_tier", TIERS), *_not_negative("income")),
)  # fmt: skip
PRODUCTS = Table(
    "products",
    _schema({**_ID, "product_id": TEXT}, {"name": TEXT, "brand": TEXT, "category": TEXT, "price": MONEY},
            "product_id business_id name brand category price"),
    ("business_id", "product_id"),
    checks=_not_negative("price"),
)  # fmt: skip
REWARDS = Table(
    "rewards",
    _schema(
        {**_ID, "reward_id": TEXT, "name": TEXT, "reward_type": TEXT},
        {"description": TEXT, "category": TEXT, "points_cost": pa.int64(), "face_value": MONEY, "difficulty": MONEY,
         "valid_from": TIMESTAMP, "valid_to": TIMESTAMP, "inventory": pa.int64()},
        "reward_id business_id name description category reward_type points_cost face_value difficulty valid_from valid_to inventory",
    ),
    ("business_id", "reward_id"),
    checks=(_one_of("reward_type", REWARD_TYPES), *_not_negative("points_cost", "face_value", "difficulty", "inventory"),
            Check("valid_to_before_valid_from", "valid_to >= valid_from")),
)  # fmt: skip
TRANSACTIONS = Table(
    "transactions",
    _schema(
        {**_ID, "transaction_id": TEXT, "customer_id": TEXT, "occurred_at": TIMESTAMP, "amount": MONEY},
        {"discount_amount": MONEY, "channel": TEXT, "store": TEXT},
        "transaction_id business_id customer_id occurred_at amount discount_amount channel store",
    ),
    ("business_id", "transaction_id"),
    time="occurred_at",
    checks=(_one_of("channel", PURCHASE_CHANNELS), *_not_negative("discount_amount")),
)
# No business_id of its own in the public schema: transaction ids are unique across businesses.
TRANSACTION_ITEMS = Table(
    "transaction_items",
    _schema({"transaction_id": TEXT, "product_id": TEXT, "quantity": pa.int64()}, {"amount": MONEY},
            "transaction_id product_id quantity amount"),
    ("transaction_id", "product_id"),
)  # fmt: skip
EVENTS = Table(
    "events",
    _schema(
        {**_ID, "event_id": TEXT, "customer_id": TEXT, "occurred_at": TIMESTAMP, "event_type": TEXT},
        {"reward_id": TEXT, "campaign_id": TEXT, "channel": TEXT, "value": pa.float64(), "metadata": TEXT},
        "event_id business_id customer_id occurred_at event_type reward_id campaign_id channel value metadata",
    ),
    ("business_id", "event_id"),
    time="occurred_at",
    checks=(_one_of("event_type", EVENT_TYPES), _one_of("channel", CHANNELS), Check("value_not_finite", "isfinite(value)"),
            Check("metadata_not_json", "json_valid(metadata)"),
            Check("reward_id_missing", "event_type NOT IN ('redemption', 'reward_dismissed') OR reward_id IS NOT NULL")),
)  # fmt: skip
TICKETS = Table(
    "tickets",
    _schema(
        {**_ID, "ticket_id": TEXT, "customer_id": TEXT, "created_at": TIMESTAMP},
        {"channel": TEXT, "issue_type": TEXT, "rating": pa.int64(), "resolution_hours": pa.float64(), "text": TEXT, "sentiment": TEXT},
        "ticket_id business_id customer_id created_at channel issue_type rating resolution_hours text sentiment",
    ),
    ("business_id", "ticket_id"),
    time="created_at",
    checks=(_one_of("issue_type", ISSUE_TYPES), _one_of("sentiment", SENTIMENTS), Check("rating_out_of_range", "rating BETWEEN 1 AND 5"),
            *_not_negative("resolution_hours")),
)  # fmt: skip
CAMPAIGNS = Table(
    "campaigns",
    _schema({**_ID, "campaign_id": TEXT, "name": TEXT}, {"channel": TEXT, "started_at": TIMESTAMP, "ended_at": TIMESTAMP, "budget": MONEY},
            "campaign_id business_id name channel started_at ended_at budget"),
    ("business_id", "campaign_id"),
    checks=(_one_of("channel", CHANNELS), *_not_negative("budget"), Check("ended_before_started", "ended_at >= started_at")),
)  # fmt: skip
SEGMENTS = Table(
    "segments",
    _schema(
        {**_ID, "segment_id": TEXT, "name": TEXT},
        {"description": TEXT, "size": pa.int64(), "average_clv": MONEY, "churn_rate": pa.float64(), "redemption_rate": pa.float64(),
         "updated_at": TIMESTAMP},
        "segment_id business_id name description size average_clv churn_rate redemption_rate updated_at",
    ),
    ("business_id", "segment_id"),
)  # fmt: skip
CUSTOMER_RISK_SCORES = Table(
    "customer_risk_scores",
    _schema(
        {**_ID, "customer_id": TEXT, "scored_at": TIMESTAMP},
        {"churn_30": pa.float64(), "churn_60": pa.float64(), "churn_90": pa.float64(), "risk_level": TEXT,
         "predicted_churn_date": pa.date32(), "days_until_churn": pa.int64(), "top_factor": TEXT,
         "historical_clv": MONEY, "predicted_clv": MONEY, "clv_segment": TEXT,
         "segment_id": TEXT, "model_version": TEXT, "coverage": TEXT},
        "customer_id business_id scored_at churn_30 churn_60 churn_90 risk_level predicted_churn_date days_until_churn top_factor "
        "historical_clv predicted_clv clv_segment segment_id model_version coverage",
    ),
    ("business_id", "customer_id", "scored_at"),
    time="scored_at",
    checks=(_one_of("risk_level", RISK_LEVELS), _one_of("clv_segment", CLV_SEGMENTS), _one_of("coverage", COVERAGES)),
)  # fmt: skip

TABLES: dict[str, Table] = {
    t.name: t
    for t in (CUSTOMERS, PRODUCTS, REWARDS, TRANSACTIONS, TRANSACTION_ITEMS, EVENTS, TICKETS, CAMPAIGNS, SEGMENTS, CUSTOMER_RISK_SCORES)
}
