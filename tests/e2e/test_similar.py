"""Similar customers on the running stack."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
PATH = "/api/v1/ml/customers/{}/similar"


def until(look: Callable[[], Any], seconds: float = 120.0) -> Any:
    """What `look` gives, once it gives something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.25)
    raise AssertionError("it did not happen in time")


def ask(client: httpx.Client, customer: str, limit: int = 10) -> dict[str, Any]:
    answer = client.get(PATH.format(customer), params={"limit": limit})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def similarity(client: httpx.Client, customer: str, other: str) -> float | None:
    return next((s["similarity"] for s in ask(client, customer, 100)["similar"] if s["customerId"] == other), None)


@pytest.fixture(scope="module")
def customers(stack) -> list[str]:
    """Everyone of the demo key's business."""
    from warehouse.store import Warehouse

    with Warehouse(stack.home / "warehouse").connect() as connection:
        query = "SELECT customer_id FROM customers WHERE business_id = ? ORDER BY 1"
        return [row[0] for row in connection.execute(query, [stack.record["business_id"]]).fetchall()]


@pytest.fixture
def indexed(client: httpx.Client, customers: list[str]) -> list[str]:
    """The same, once all of them have a vector."""

    def complete() -> bool:
        answer = client.get(PATH.format(customers[0]))
        if answer.status_code == 503:
            assert int(answer.headers["Retry-After"]) >= 1
            return False
        freshness = answer.json()["freshness"]
        return freshness["indexed"] == freshness["total"] >= len(customers)

    until(complete)
    return customers


def test_nearest_customers_of_the_own_business_without_the_asked_one(client: httpx.Client, indexed: list[str]) -> None:
    body = ask(client, indexed[0], 100)
    found = [s["customerId"] for s in body["similar"]]
    assert len(found) == len(set(found)) == min(100, len(indexed) - 1)
    assert indexed[0] not in found
    cosines = [s["similarity"] for s in body["similar"]]
    assert cosines == sorted(cosines, reverse=True)
    assert all(-1 <= c <= 1 for c in cosines)
    assert all(len(s["sharedRewards"]) <= 3 and s["embeddedAt"].endswith("Z") for s in body["similar"])
    assert body["modelVersion"].startswith("two-tower/")
    assert body["freshness"]["vectorAgeSeconds"] < 1
    mutual = similarity(client, found[0], indexed[0])
    assert mutual is None or mutual == pytest.approx(cosines[0], abs=2e-3), "the two differ by the moments at which they were embedded"


def test_a_new_event_changes_the_vector_soon(client: httpx.Client, indexed: list[str]) -> None:
    """Two newcomers are alike until one of them acts; the other is asked, so what changes is the stored vector, not the fresh one."""
    one, other = (f"twin-{secrets.token_hex(4)}" for _ in range(2))
    for customer in (one, other):
        client.post("/api/v1/events", json={"eventId": secrets.token_hex(8), "customerId": customer, "eventType": "app_open"})
    before = until(lambda: similarity(client, one, other))
    assert before > 0.99
    rewards = client.post("/api/v1/ml/recommendations", json={"customerId": other}).json()["recommendations"]
    events = [
        {"eventId": secrets.token_hex(8), "customerId": other, "eventType": kind, "rewardId": rewards[0]["rewardId"]}
        for kind in ("offer_viewed", "redemption", "redemption", "redemption")
    ]
    assert client.post("/api/v1/events", json={"events": events}).json()["accepted"] == 4
    until(lambda: (similarity(client, one, other) or -1.0) < before - 1e-3, 30)


@pytest.mark.parametrize("limit", ["0", "101", "ten", "1.5"])
def test_limit_is_checked(client: httpx.Client, customers: list[str], limit: str) -> None:
    answer = client.get(PATH.format(customers[0]), params={"limit": limit})
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert answer.json()["errors"][0]["field"] == "limit"


def test_an_unknown_customer_is_a_404_that_says_what_to_do(client: httpx.Client) -> None:
    answer = client.get(PATH.format("nobody-knows-me"))
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert "POST /api/v1/events" in answer.json()["detail"]


def test_it_takes_a_key(client: httpx.Client, customers: list[str]) -> None:
    assert client.get(PATH.format(customers[0]), headers={"Authorization": ""}).status_code == 401


def test_progress_is_shown(stack, client: httpx.Client, indexed: list[str]) -> None:
    assert client.get("/-/readyz").status_code == 200
    shown = client.get("/metrics").text
    assert 'regulars_similar_customers{state="indexed"}' in shown
    assert (stack.home / "embeddings").is_dir()
