"""The next best offer of the running stack, with the model on Triton."""

from __future__ import annotations

import secrets
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
PATH = "/api/v1/ml/offers/next-best"
TYPES = {"discount", "bogo", "free_item", "points_bonus", "cashback", "experience", "upgrade", "informational"}


def ask(client: httpx.Client, customer: str, **body: Any) -> dict[str, Any]:
    answer = client.post(PATH, json={"customerId": customer, **body})
    assert answer.status_code == 200, answer.text
    found = dict(answer.json())
    assert {o["offerType"] for o in found["offers"]} == TYPES
    assert len(found["offers"]) == 8
    assert all(0 <= o["probability"] <= 1 for o in found["offers"])
    assert found["horizonDays"] >= 1
    best = found["nextBestOffer"]
    assert (best["offerType"], best["probability"]) == (found["offers"][0]["offerType"], found["offers"][0]["probability"])
    return found


def rewards(body: dict[str, Any]) -> set[str]:
    return {o["reward"]["rewardId"] for o in body["offers"] if o["reward"] is not None}


@pytest.fixture(scope="module")
def regular(stack) -> str:
    """The customer with the second most redemptions; other tests change the first one."""
    from warehouse.store import Warehouse

    query = "SELECT customer_id FROM events WHERE event_type = 'redemption' GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1 OFFSET 1"
    with Warehouse(stack.home / "warehouse").connect() as connection:
        return str(connection.execute(query).fetchone()[0])


def test_a_regular_gets_the_models_answer(client: httpx.Client, regular: str) -> None:
    body = ask(client, regular, context={"timeOfDay": "morning"})
    assert (body["coverage"], body["degraded"], body["customerId"]) == ("full", False, regular)
    assert body["modelVersion"].startswith("two-tower/")
    assert body["nextBestOffer"]["reason"]
    assert body["latency"] > 0


def test_two_customers_get_probabilities_of_their_own(client: httpx.Client, regular: str) -> None:
    mine, nobody = ask(client, regular), ask(client, f"nobody-{secrets.token_hex(4)}")
    assert sum(o["probability"] for o in mine["offers"]) > sum(o["probability"] for o in nobody["offers"]), "a regular redeems more"


def test_an_unknown_customer_gets_a_cold_start_answer(client: httpx.Client) -> None:
    body = ask(client, f"nobody-{secrets.token_hex(4)}")
    assert (body["coverage"], body["degraded"]) == ("cold_start", False)
    assert body["nextBestOffer"]["rewardId"] in rewards(body)


def test_a_dismissed_reward_is_not_offered_any_more(client: httpx.Client, regular: str) -> None:
    gone = ask(client, regular)["nextBestOffer"]["rewardId"]
    event = {"eventId": secrets.token_hex(8), "customerId": regular, "eventType": "reward_dismissed", "rewardId": gone}
    assert client.post("/api/v1/events", json=event).json()["accepted"] == 1
    assert gone not in rewards(ask(client, regular))


@pytest.mark.parametrize("body", [{}, {"customerId": "c", "more": 1}, {"customerId": 5}])
def test_a_body_that_is_not_the_contracts_is_a_problem(client: httpx.Client, body: dict[str, Any]) -> None:
    answer = client.post(PATH, json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
