"""A tiny warehouse of two businesses whose rows can be told apart wherever they turn up.

Every text of `biz-2` holds "two" (ids included, customers' ids excepted: those are the same in both, as in real life), its times lie in
2090. Customers of both have e-mail addresses under example.com and birth dates in 1900, which nothing else has.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from contracts.tables import CLV_SEGMENTS, ISSUE_TYPES, REWARD_TYPES, RISK_LEVELS, SENTIMENTS, TABLES, TIERS
from warehouse.store import Warehouse

MINE, FOREIGN = "biz-1", "biz-2"
CUSTOMERS = 40
CITIES = ("Austin", "Boston", "Denver")


def rows(business: str) -> dict[str, pa.Table]:
    """All ten tables of one business."""
    tag = "one" if business == MINE else "two"
    start = datetime(2026 if business == MINE else 2090, 1, 1, tzinfo=UTC)
    b = {"business_id": business}
    customers = [f"cust-{i:03d}" for i in range(CUSTOMERS)]
    purchases = [(f"{tag}-tx-{i:03d}", customers[i * 7 % 31], start + timedelta(hours=31 * i), i) for i in range(120)]
    tables: dict[str, list[dict[str, Any]]] = {
        "customers": [
            {
                **b,
                "customer_id": c,
                "name": f"{tag} name {i % 17}",
                "email": f"{tag}{i}@example.com",
                "joined_at": start - timedelta(days=i),
                "birth_date": date(1900, 1 + i % 12, 1),
                "gender": f"{tag[0]}{i % 2}",
                "age_group": None,
                "income": Decimal(1000 + i),
                "location": f"{CITIES[i % 3]} {tag}",
                "membership_tier": TIERS[i % 4],
                "points_balance": i * 10,
                "consent_personalization": i % 3 > 0,
            }
            for i, c in enumerate(customers)
        ],
        "products": [
            {
                **b,
                "product_id": f"{tag}-p{i}",
                "name": f"{tag} product {i}",
                "brand": f"{tag} brand",
                "category": f"{tag} cat {i % 3}",
                "price": Decimal(i + 1),
            }
            for i in range(9)
        ],
        "rewards": [
            {
                **b,
                "reward_id": f"{tag}-r{i}",
                "name": f"{tag} reward {i}",
                "reward_type": REWARD_TYPES[i % 8],
                "category": f"{tag} cat",
                "points_cost": 10 * i,
                "valid_from": start,
            }
            for i in range(9)
        ],
        "transactions": [
            {
                **b,
                "transaction_id": t,
                "customer_id": c,
                "occurred_at": at,
                "amount": Decimal(i % 13) + Decimal("0.25"),
                "discount_amount": Decimal(i % 2),
                "channel": ("store", "app", "web")[i % 3],
                "store": f"{tag} store {i % 4}",
            }
            for t, c, at, i in purchases
        ],
        "transaction_items": [
            {"transaction_id": t, "product_id": f"{tag}-p{(i + k) % 9}", "quantity": k + 1, "amount": Decimal(k + 1)}
            for t, _, _, i in purchases
            for k in range(1 + i % 2)
        ],
        "events": [
            {
                **b,
                "event_id": f"{tag}-e{i}",
                "customer_id": customers[i % 23],
                "occurred_at": start + timedelta(hours=5 * i),
                "event_type": ("redemption", "app_open", "offer_viewed")[i % 3],
                "reward_id": f"{tag}-r{i % 9}" if i % 3 != 1 else None,
                "campaign_id": f"{tag}-c{i % 3}",
                "channel": "app",
                "value": i / 4,
                "metadata": f'{{"from": "{tag}"}}',
            }
            for i in range(200)
        ],
        "tickets": [
            {
                **b,
                "ticket_id": f"{tag}-k{i}",
                "customer_id": customers[i % 11],
                "created_at": start + timedelta(days=i),
                "channel": "email",
                "issue_type": ISSUE_TYPES[i % 6],
                "rating": 1 + i % 5,
                "resolution_hours": i / 2,
                "text": f"{tag} text {i}",
                "sentiment": SENTIMENTS[i % 3],
            }
            for i in range(30)
        ],
        "campaigns": [
            {
                **b,
                "campaign_id": f"{tag}-c{i}",
                "name": f"{tag} campaign {i}",
                "channel": "email",
                "started_at": start,
                "ended_at": start + timedelta(days=30),
                "budget": Decimal(100 * i),
            }
            for i in range(3)
        ],
        "segments": [
            {
                **b,
                "segment_id": f"{tag}-s{i}",
                "name": f"{tag} segment {i}",
                "size": 10 + i,
                "average_clv": Decimal(i),
                "churn_rate": i / 10,
                "updated_at": start,
            }
            for i in range(4)
        ],
        "customer_risk_scores": [
            {
                **b,
                "customer_id": c,
                "scored_at": start,
                "churn_30": i / 90,
                "churn_60": i / 60,
                "churn_90": i / 45,
                "risk_level": RISK_LEVELS[i % 4],
                "predicted_churn_date": start.date(),
                "days_until_churn": i,
                "top_factor": "recency",
                "predicted_clv": Decimal(i * 3),
                "clv_segment": CLV_SEGMENTS[i % 4],
                "segment_id": f"{tag}-s{i % 4}",
                "model_version": tag,
                "coverage": "full",
            }
            for i, c in enumerate(customers)
        ],
    }
    return {name: pa.Table.from_pylist(lines, schema=TABLES[name].schema) for name, lines in tables.items()}


def land(warehouse: Warehouse, *businesses: str) -> Warehouse:
    for business in businesses:
        for name, table in rows(business).items():
            report = warehouse.land(name, table, f"{name} of {business}")
            assert report.landed == table.num_rows, report
    return warehouse


def texts(data: object) -> str:
    """Everything of a result as one text, to be searched."""
    return repr(data).lower()


FOREIGN_TEXT = re.compile(
    r"\btwo(-\w|\d| (name|product|brand|cat|reward|store|text|campaign|segment)|[\"'])|(austin|boston|denver) two|biz-2|\b2090\b"
)


def is_foreign(data: object) -> bool:
    return FOREIGN_TEXT.search(texts(data)) is not None


def is_private(data: object) -> bool:
    return "example.com" in texts(data) or "datetime.date(1900" in texts(data)
