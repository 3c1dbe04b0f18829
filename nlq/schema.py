"""What a question may touch: tables, columns, how tables join, which columns are private.

Names and types come from `contracts.tables`, so that they cannot drift apart; this file adds what a column *means*: kind, unit, the
values of closed categories, a description, and who may see it. Importable without DuckDB, sqlglot or torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import pyarrow as pa

from contracts.errors import ContractError
from contracts.tables import (
    CHANNELS,
    CLV_SEGMENTS,
    COVERAGES,
    EVENT_TYPES,
    ISSUE_TYPES,
    PURCHASE_CHANNELS,
    REWARD_TYPES,
    RISK_LEVELS,
    SENTIMENTS,
    TABLES,
    TIERS,
)

Kind = Literal["id", "text", "category", "number", "money", "time", "date", "flag", "json"]
Unit = Literal["fraction", "points", "hours", "days", "stars", "pieces", "people"]

TENANT = "business_id"
"""The column that says whose row it is. Questions never name it: the guard adds it."""
PRIVATE_READER = "private_reader"
"""Role of those who may see private columns."""
TOP_FACTORS = ("recency", "frequency", "monetary", "engagement", "redemption", "tenure", "feedback", "season")


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: as in the table.
        table: the table's name.
        kind: what it holds. `category` has few distinct values, `text` many or free ones; `time` is an instant (UTC), `date` a day.
        sql_type: DuckDB's type.
        description: what it means, in plain English, lower case, no full stop.
        private: only for the role `PRIVATE_READER`.
        values: all values of a closed category, in their natural order; empty where the data decides.
        unit: of a number, where there is one; a `fraction` lies in 0..1.
    """

    name: str
    table: str
    kind: Kind
    sql_type: str
    description: str
    private: bool = False
    values: tuple[str, ...] = ()
    unit: Unit | None = None

    @property
    def full_name(self) -> str:
        return f"{self.table}.{self.name}"


@dataclass(frozen=True)
class ForeignKey:
    """A many-to-one join: each row of `table` has at most one row of `to_table` with `to_column` equal to its `column`.

    Right inside one business only; the guard filters both sides, so the ids alone are the join condition.
    """

    table: str
    column: str
    to_table: str
    to_column: str

    @property
    def condition(self) -> str:
        return f"{self.table}.{self.column} = {self.to_table}.{self.to_column}"


@dataclass(frozen=True)
class SchemaTable:
    """One table.

    Attributes:
        name: as in the warehouse.
        description: what one row is.
        columns: by name, in the table's order.
        key: columns that tell its rows apart inside one business.
        time: the column that dates a row; None where rows have no date.
        name_column: what people call a row by; None where a row has only an id.
    """

    name: str
    description: str
    columns: dict[str, Column]
    key: tuple[str, ...]
    time: str | None = None
    name_column: str | None = None

    @property
    def has_tenant(self) -> bool:
        return TENANT in self.columns


@dataclass(frozen=True)
class Schema:
    """Tables by name, and the joins between them."""

    tables: dict[str, SchemaTable]
    foreign_keys: tuple[ForeignKey, ...] = field(default_factory=tuple)

    def table(self, name: str) -> SchemaTable:
        """Raises ContractError for a name that is not a table's."""
        if name not in self.tables:
            raise ContractError(f"no table {name!r}, there are {', '.join(self.tables)}. Use one of these names.")
        return self.tables[name]

    def column(self, table: str, name: str) -> Column:
        """Raises ContractError for a table or a column that does not exist."""
        columns = self.table(table).columns
        if name not in columns:
            raise ContractError(f"no column {name!r} in {table}, there are {', '.join(columns)}. Use one of these names.")
        return columns[name]

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """All columns, table by table."""
        return tuple(column for table in self.tables.values() for column in table.columns.values())

    @cached_property
    def private(self) -> frozenset[tuple[str, str]]:
        """(table, column) of every private column."""
        return frozenset((c.table, c.name) for c in self.columns if c.private)

    @cached_property
    def types(self) -> dict[str, dict[str, str]]:
        """`{table: {column: DuckDB type}}`, as sqlglot's optimizer takes it."""
        return {name: {c.name: c.sql_type for c in table.columns.values()} for name, table in self.tables.items()}

    def joins(self, one: str, other: str) -> tuple[ForeignKey, ...]:
        """The keys that join two tables, whichever way they point."""
        return tuple(k for k in self.foreign_keys if {k.table, k.to_table} == {one, other})

    def out_of(self, table: str) -> tuple[ForeignKey, ...]:
        """Many-to-one joins that leave this table."""
        return tuple(k for k in self.foreign_keys if k.table == table)

    def path(self, start: str, end: str) -> tuple[ForeignKey, ...] | None:
        """The shortest chain of many-to-one joins from `start` to `end`; empty when they are the same, None when there is none.

        Along such a chain no row of `start` is repeated, so counts and sums over it stay right.
        """
        chains: list[tuple[str, tuple[ForeignKey, ...]]] = [(start, ())]
        seen = {start}
        for name, chain in chains:
            if name == end:
                return chain
            for key in self.out_of(name):
                if key.to_table not in seen:
                    seen.add(key.to_table)
                    chains.append((key.to_table, (*chain, key)))
        return None


_SQL_TYPES = {
    pa.string(): "VARCHAR", pa.int64(): "BIGINT", pa.float64(): "DOUBLE", pa.bool_(): "BOOLEAN", pa.date32(): "DATE",
    pa.decimal128(18, 4): "DECIMAL(18, 4)", pa.timestamp("us", tz="UTC"): "TIMESTAMPTZ",
}  # fmt: skip

# table -> what one row is, its own time, the column that names a row, and a line per column: kind, description, what else there is.
_Line = tuple[str, Kind, str] | tuple[str, Kind, str, dict[str, object]]
_MEANING: dict[str, tuple[str, str | None, str | None, tuple[_Line, ...]]] = {
    "customers": ("a member of the loyalty programme", "joined_at", "name", (
        ("customer_id", "id", "id of the customer"),
        ("business_id", "id", "id of the business"),
        ("name", "text", "name of the customer"),
        ("email", "text", "e-mail address", {"private": True}),
        ("joined_at", "time", "when the customer joined the programme"),
        ("birth_date", "date", "date of birth", {"private": True}),
        ("gender", "category", "gender"),
        ("age_group", "category", "age group"),
        ("income", "money", "yearly income"),
        ("location", "category", "city or region where the customer lives"),
        ("membership_tier", "category", "membership tier", {"values": TIERS}),
        ("points_balance", "number", "points that the customer holds now", {"unit": "points"}),
        ("consent_personalization", "flag", "whether the customer consents to personalization"),
    )),
    "products": ("a product that is sold", None, "name", (
        ("product_id", "id", "id of the product"),
        ("business_id", "id", "id of the business"),
        ("name", "text", "name of the product"),
        ("brand", "category", "brand"),
        ("category", "category", "category of the product"),
        ("price", "money", "list price"),
    )),
    "rewards": ("a reward that customers can redeem", None, "name", (
        ("reward_id", "id", "id of the reward"),
        ("business_id", "id", "id of the business"),
        ("name", "text", "name of the reward"),
        ("description", "text", "what the reward gives"),
        ("category", "category", "category of the reward"),
        ("reward_type", "category", "type of the reward", {"values": REWARD_TYPES}),
        ("points_cost", "number", "points that a redemption costs", {"unit": "points"}),
        ("face_value", "money", "what the reward is worth"),
        ("difficulty", "money", "least spend that the reward asks for"),
        ("valid_from", "time", "start of validity"),
        ("valid_to", "time", "end of validity, when the reward expires"),
        ("inventory", "number", "pieces left in stock", {"unit": "pieces"}),
    )),
    "transactions": ("a purchase", "occurred_at", None, (
        ("transaction_id", "id", "id of the purchase"),
        ("business_id", "id", "id of the business"),
        ("customer_id", "id", "id of the customer who bought"),
        ("occurred_at", "time", "when the purchase happened"),
        ("amount", "money", "amount paid, negative for a refund"),
        ("discount_amount", "money", "discount given"),
        ("channel", "category", "where it was bought", {"values": PURCHASE_CHANNELS}),
        ("store", "category", "the store"),
    )),
    "transaction_items": ("a line of a purchase: one product of it", None, None, (
        ("transaction_id", "id", "id of the purchase"),
        ("product_id", "id", "id of the product"),
        ("quantity", "number", "pieces bought", {"unit": "pieces"}),
        ("amount", "money", "amount of the line"),
    )),
    "events": ("something that a customer did or got, by event_type", "occurred_at", None, (
        ("event_id", "id", "id of the event"),
        ("business_id", "id", "id of the business"),
        ("customer_id", "id", "id of the customer"),
        ("occurred_at", "time", "when it happened"),
        ("event_type", "category", "what happened", {"values": EVENT_TYPES}),
        ("reward_id", "id", "id of the reward concerned"),
        ("campaign_id", "id", "id of the campaign concerned"),
        ("channel", "category", "channel", {"values": CHANNELS}),
        ("value", "number", "amount of the event, by its type (points, rating and so on)"),
        ("metadata", "json", "further facts as JSON"),
    )),
    "tickets": ("a support ticket", "created_at", None, (
        ("ticket_id", "id", "id of the ticket"),
        ("business_id", "id", "id of the business"),
        ("customer_id", "id", "id of the customer who wrote"),
        ("created_at", "time", "when the ticket was opened"),
        ("channel", "category", "channel by which it came"),
        ("issue_type", "category", "what it is about", {"values": ISSUE_TYPES}),
        ("rating", "number", "rating by the customer, 1 to 5", {"unit": "stars"}),
        ("resolution_hours", "number", "hours until it was resolved", {"unit": "hours"}),
        ("text", "text", "what the customer wrote"),
        ("sentiment", "category", "sentiment of the text", {"values": SENTIMENTS}),
    )),
    "campaigns": ("a marketing campaign", "started_at", "name", (
        ("campaign_id", "id", "id of the campaign"),
        ("business_id", "id", "id of the business"),
        ("name", "text", "name of the campaign"),
        ("channel", "category", "channel", {"values": CHANNELS}),
        ("started_at", "time", "when it started"),
        ("ended_at", "time", "when it ended"),
        ("budget", "money", "budget"),
    )),
    "segments": ("a group of customers found by the model", "updated_at", "name", (
        ("segment_id", "id", "id of the segment"),
        ("business_id", "id", "id of the business"),
        ("name", "text", "name of the segment"),
        ("description", "text", "who is in it"),
        ("size", "number", "customers in the segment", {"unit": "people"}),
        ("average_clv", "money", "average customer lifetime value"),
        ("churn_rate", "number", "share of its customers who are expected to leave", {"unit": "fraction"}),
        ("redemption_rate", "number", "share of its offers that are redeemed", {"unit": "fraction"}),
        ("updated_at", "time", "when it was computed"),
    )),
    "customer_risk_scores": ("the model's forecast for a customer", "scored_at", None, (
        ("customer_id", "id", "id of the customer"),
        ("business_id", "id", "id of the business"),
        ("scored_at", "time", "when the forecast was made"),
        ("churn_30", "number", "probability of leaving within 30 days", {"unit": "fraction"}),
        ("churn_60", "number", "probability of leaving within 60 days", {"unit": "fraction"}),
        ("churn_90", "number", "probability of leaving within 90 days", {"unit": "fraction"}),
        ("risk_level", "category", "risk of leaving, as a level", {"values": RISK_LEVELS}),
        ("predicted_churn_date", "date", "day on which the customer is expected to leave"),
        ("days_until_churn", "number", "days until the customer is expected to leave", {"unit": "days"}),
        ("top_factor", "category", "what drives the risk most", {"values": TOP_FACTORS}),
        ("historical_clv", "money", "what the customer has spent so far"),
        ("predicted_clv", "money", "net spend expected in the next 12 months"),
        ("clv_segment", "category", "value of the customer, as a level", {"values": CLV_SEGMENTS}),
        ("segment_id", "id", "id of the segment"),
        ("model_version", "category", "version of the model"),
        ("coverage", "category", "how much history the forecast rests on", {"values": COVERAGES}),
    )),
}  # fmt: skip

_KEYS = (
    "transactions.customer_id = customers.customer_id",
    "transaction_items.transaction_id = transactions.transaction_id",
    "transaction_items.product_id = products.product_id",
    "events.customer_id = customers.customer_id",
    "events.reward_id = rewards.reward_id",
    "events.campaign_id = campaigns.campaign_id",
    "tickets.customer_id = customers.customer_id",
    "customer_risk_scores.customer_id = customers.customer_id",
    "customer_risk_scores.segment_id = segments.segment_id",
)


def _build() -> Schema:
    tables = {}
    for name, (description, time, name_column, lines) in _MEANING.items():
        arrow = TABLES[name].schema
        columns = {
            line[0]: Column(line[0], name, line[1], _SQL_TYPES[arrow.field(line[0]).type], line[2], **(line[3] if len(line) > 3 else {}))  # type: ignore[arg-type]
            for line in lines
        }
        key = tuple(c for c in TABLES[name].key if c != TENANT)
        tables[name] = SchemaTable(name, description, columns, key, time, name_column)
    sides = [condition.replace(" = ", ".").split(".") for condition in _KEYS]
    return Schema(tables, tuple(ForeignKey(*side) for side in sides))


SCHEMA = _build()
"""The one schema of questions."""
