"""Hand-made warehouses for the tests of features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from contracts.tables import TABLES

Rows = dict[str, list[dict[str, Any]]]
START = datetime(2015, 3, 1, 12, tzinfo=UTC)


class Shop:
    """A DuckDB connection with the warehouse's tables, filled by hand."""

    def __init__(self) -> None:
        self._connection = duckdb.connect(config={"threads": 1})
        for name, table in TABLES.items():
            self._connection.register("empty", table.schema.empty_table())
            self._connection.execute(f"CREATE TABLE {name} AS SELECT * FROM empty")  # noqa: S608 - our own names
            self._connection.unregister("empty")
        self._waiting: Rows = {}
        self._next = 0

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The connection; rows added since are inserted first, a table at a time (one by one would be slow)."""
        for name, rows in self._waiting.items():
            self._connection.register("more", pa.Table.from_pylist(rows, schema=TABLES[name].schema))
            self._connection.execute(f"INSERT INTO {name} SELECT * FROM more")  # noqa: S608 - our own names
            self._connection.unregister("more")
        self._waiting = {}
        return self._connection

    def clear(self) -> None:
        self._waiting = {}
        for name in TABLES:
            self._connection.execute(f"TRUNCATE {name}")

    def add(self, table: str, *rows: dict[str, Any]) -> None:
        if rows:
            self._waiting.setdefault(table, []).extend({"business_id": "b", **row} for row in rows)

    def id(self) -> str:
        self._next += 1
        return f"id-{self._next}"

    def purchase(self, customer: str, when: datetime, amount: float, *lines: tuple[str, float]) -> None:
        """A transaction with lines of (product id, amount)."""
        key = self.id()
        self.add("transactions", {"transaction_id": key, "customer_id": customer, "occurred_at": when, "amount": _money(amount)})
        self.add("transaction_items", *({"transaction_id": key, "product_id": p, "quantity": 1, "amount": _money(a)} for p, a in lines))

    def event(self, customer: str, when: datetime, kind: str, reward: str | None = None, value: float | None = None) -> None:
        row = {"event_id": self.id(), "customer_id": customer, "occurred_at": when, "event_type": kind, "reward_id": reward, "value": value}
        self.add("events", row)

    def ticket(self, customer: str, when: datetime, rating: int | None = None) -> None:
        self.add("tickets", {"ticket_id": self.id(), "customer_id": customer, "created_at": when, "rating": rating})


def _money(amount: float) -> Any:
    return Decimal(str(round(amount, 4)))


@pytest.fixture(scope="module")
def _shop() -> Iterator[Shop]:
    shop = Shop()
    yield shop
    shop.connection.close()


@pytest.fixture
def shop(_shop: Shop) -> Shop:
    """An empty warehouse with two products, two rewards and nobody in it."""
    return fill(_shop)


def fill(shop: Shop) -> Shop:
    shop.clear()
    shop.add("products", {"product_id": "p1", "category": "tea"}, {"product_id": "p2", "category": "coffee"}, {"product_id": "p3"})
    shop.add(
        "rewards",
        {"reward_id": "r1", "name": "Free tea", "reward_type": "free_item", "category": "tea"},
        {"reward_id": "r2", "name": "A tour", "reward_type": "experience"},
    )
    return shop


@pytest.fixture
def refill() -> Callable[[Shop], Shop]:
    """Empties a shop again: for property tests, which run many times over one fixture."""
    return fill


@pytest.fixture
def at() -> Callable[[float], datetime]:
    """A time by its distance in days from the shop's first day."""
    return lambda days: START + timedelta(days=days)


@pytest.fixture
def examples() -> Callable[..., pa.Table]:
    """(customer, as-of time) pairs as the table that `asof.rows` takes."""

    def make(*pairs: tuple[str, datetime]) -> pa.Table:
        rows = [{"business_id": "b", "customer_id": c, "as_of": t} for c, t in pairs]
        schema = pa.schema([("business_id", pa.string()), ("customer_id", pa.string()), ("as_of", pa.timestamp("us", tz="UTC"))])
        return pa.Table.from_pylist(rows, schema=schema)

    return make
