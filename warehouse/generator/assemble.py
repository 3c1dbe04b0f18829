"""From a simulated block to the rows of the contract's tables."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts.tables import (
    CAMPAIGNS,
    CHANNELS,
    EVENT_TYPES,
    EVENTS,
    ISSUE_TYPES,
    PRODUCTS,
    PURCHASE_CHANNELS,
    REWARD_TYPES,
    REWARDS,
    SENTIMENTS,
    TICKETS,
    TIERS,
    TRANSACTION_ITEMS,
    TRANSACTIONS,
    Table,
)
from warehouse.generator import text
from warehouse.generator.arrow import decimals, numbered, real, take, timestamps, whole
from warehouse.generator.behaviour import Block
from warehouse.generator.catalogue import FOREVER, World
from warehouse.generator.people import customer_ids

MICRO = 1_000_000
PER_BLOCK = 100_000_000  # numbers reserved for the rows of one block
STORES = tuple(f"{city.split(',')[0]} {part}" for city in text.CITIES for part in text.STORE_PARTS)
TIER_CHANGES = [f'{{"from":"{a}","to":"{b}"}}' for a in TIERS for b in TIERS]


def _table(spec: Table, columns: dict[str, pa.Array]) -> pa.Table:
    return pa.Table.from_arrays([columns[name] for name in spec.columns], schema=spec.schema)


def reward_ids(world: World) -> pa.Array:
    return numbered("rew-", 1 + np.arange(len(world.rewards.pull)), 4)


def product_ids(world: World) -> pa.Array:
    return numbered("prod-", 1 + np.arange(len(world.products.price_cents)), 5)


def campaign_ids(world: World) -> pa.Array:
    return numbered("camp-", 1 + np.arange(len(world.campaigns.week)), 3)


def products_table(business: str, world: World) -> pa.Table:
    p = world.products
    columns = {
        "product_id": product_ids(world),
        "business_id": pa.repeat(business, len(p.name)),
        "name": pa.array(p.name),
        "brand": take(text.BRANDS, p.brand),
        "category": take(text.CATEGORIES, p.category),
        "price": decimals(p.price_cents),
    }
    return _table(PRODUCTS, columns)


def rewards_table(business: str, world: World) -> pa.Table:
    r = world.rewards
    columns = {
        "reward_id": reward_ids(world),
        "business_id": pa.repeat(business, len(r.name)),
        "name": pa.array(r.name),
        "description": pa.array(r.description),
        "category": take(text.CATEGORIES, r.category),
        "reward_type": take(REWARD_TYPES, r.type),
        "points_cost": whole(r.points),
        "face_value": decimals(r.face_cents),
        "difficulty": decimals(r.difficulty_cents),
        "valid_from": timestamps(np.maximum(r.valid_from, 0) * MICRO, r.valid_from < 0),
        "valid_to": timestamps(np.where(r.valid_to == FOREVER, 0, r.valid_to) * MICRO, r.valid_to == FOREVER),
        "inventory": whole(r.inventory, r.inventory < 0),
    }
    return _table(REWARDS, columns)


def campaigns_table(business: str, world: World) -> pa.Table:
    c = world.campaigns
    columns = {
        "campaign_id": campaign_ids(world),
        "business_id": pa.repeat(business, len(c.name)),
        "name": pa.array(c.name, pa.string()),
        "channel": pa.array(c.channel, pa.string()),
        "started_at": timestamps(c.started_at * MICRO),
        "ended_at": timestamps(c.ended_at * MICRO),
        "budget": decimals(c.budget_cents),
    }
    return _table(CAMPAIGNS, columns)


def purchase_tables(business: str, block: Block, number: int) -> tuple[pa.Table, pa.Table]:
    """`transactions` (in order of time) and their `transaction_items`. `amount` is what was paid, after `discount_amount`;
    the items of a purchase add up to amount + discount_amount."""
    c = block.purchases.joined()
    keep = (c["at"] >= block.world.window.start) & (c["at"] < block.world.window.end)
    order = np.flatnonzero(keep)[np.lexsort((c["who"][keep], c["at"][keep]))]
    c = {name: column[order] for name, column in c.items()}
    ids = numbered(f"tx-{business}-", number * PER_BLOCK + 1 + np.arange(len(order)), 10)
    columns = {
        "transaction_id": ids,
        "business_id": pa.repeat(business, len(ids)),
        "customer_id": take(customer_ids(block.people), c["who"]),
        "occurred_at": timestamps(c["at"] * MICRO),
        "amount": decimals(c["gross"] - c["discount"]),
        "discount_amount": decimals(c["discount"]),
        "channel": take(PURCHASE_CHANNELS, c["channel"]),
        "store": take(STORES, c["store"]),
    }
    lines = np.flatnonzero(c["product"].ravel() >= 0)
    items = {
        "transaction_id": ids.take(pa.array(lines // 3)),
        "product_id": take(product_ids(block.world), c["product"].ravel()[lines]),
        "quantity": whole(c["quantity"].ravel()[lines]),
        "amount": decimals(c["line"].ravel()[lines]),
    }
    return _table(TRANSACTIONS, columns), _table(TRANSACTION_ITEMS, items)


def events_table(business: str, block: Block, number: int) -> pa.Table:
    """`events` in order of time. `value`: worth of a redemption, points posted or expired, stars of a review, the new tier's index."""
    c = block.events.joined()
    order = np.lexsort((c["kind"], c["who"], c["at"]))
    c = {name: column[order] for name, column in c.items()}
    columns = {
        "event_id": numbered("evt-", number * PER_BLOCK + 1 + np.arange(len(order)), 10),
        "business_id": pa.repeat(business, len(order)),
        "customer_id": take(customer_ids(block.people), c["who"]),
        "occurred_at": timestamps(c["at"] * MICRO),
        "event_type": take(EVENT_TYPES, c["kind"]),
        "reward_id": take(reward_ids(block.world), c["reward"]),
        "campaign_id": take(campaign_ids(block.world), c["campaign"]),
        "channel": take(CHANNELS, c["channel"]),
        "value": real(c["value"]),
        "metadata": take(TIER_CHANGES, c["meta"]),
    }
    return _table(EVENTS, columns)


def tickets_table(business: str, block: Block, number: int) -> pa.Table:
    c = block.tickets.joined()
    window = block.world.window
    keep = (c["at"] >= window.start) & (c["at"] < window.end)
    order = np.flatnonzero(keep)[np.lexsort((c["who"][keep], c["at"][keep]))]
    c = {name: column[order] for name, column in c.items()}
    sentiment = np.where(c["rating"] <= 2, 2, np.where(c["rating"] == 3, 1, 0))
    late = c["at"] + (c["hours"] * 3600) >= window.end  # still open: not resolved within the history
    columns = {
        "ticket_id": numbered("tick-", number * PER_BLOCK + 1 + np.arange(len(order)), 10),
        "business_id": pa.repeat(business, len(order)),
        "customer_id": take(customer_ids(block.people), c["who"]),
        "created_at": timestamps(c["at"] * MICRO),
        "channel": take(CHANNELS, c["channel"]),
        "issue_type": take(ISSUE_TYPES, c["issue"]),
        "rating": whole(c["rating"]),
        "resolution_hours": real(np.where(late, np.nan, c["hours"])),
        "text": _ticket_text(block.world, c, sentiment),
        "sentiment": take(SENTIMENTS, sentiment),
    }
    return _table(TICKETS, columns)


def _ticket_text(world: World, c: dict[str, np.ndarray], sentiment: np.ndarray) -> pa.Array:
    """opener + before + product + after + place + closing, each drawn from the grammar by a different part of the ticket's number."""
    befores: list[str] = []
    afters: list[str] = []
    start, count = np.zeros((6, 3), int), np.zeros((6, 3), int)
    for i, kind in enumerate(ISSUE_TYPES):
        for j, mood in enumerate(SENTIMENTS):
            bodies = text.TICKET_BODIES[kind][mood]
            start[i, j], count[i, j] = len(befores), len(bodies)
            befores += [b for b, _ in bodies]
            afters += [a for _, a in bodies]
    words, issue = c["words"], c["issue"]
    body = start[issue, sentiment] + words % count[issue, sentiment]
    body = np.where(c["sold_out"] & (sentiment == 2), start[0, 2] + 1, body)
    mark = np.where(sentiment == 1, 1, 0)  # questions end with a question mark, the rest with a full stop
    place = np.where((words // 7) % 3 == 0, c["city"], -1)
    sentences = pc.binary_join_element_wise(
        take(_flat(text.OPENERS), sentiment * 4 + (words // 31) % 4),
        take(befores, body),
        take([n.lower() for n in world.products.name], c["product"]),
        take(afters, body),
        pc.fill_null(take([f" in {city.split(',')[0]}" for city in text.CITIES], place), ""),
        take([".", "?"], mark),
        take(_flat(text.CLOSINGS), sentiment * 4 + (words // 127) % 4),
        "",
    )
    return pc.replace_substring_regex(sentences, r"\b([aA]) ([aeiou])", r"\1n \2")


def _flat(parts: Mapping[str, tuple[str, ...]]) -> list[str]:
    return [word for mood in SENTIMENTS for word in parts[mood]]
