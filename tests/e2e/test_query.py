"""Plain-English questions over the running stack: HTTP, the ingress, Ray's handle, the deployment that answers, DuckDB."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from contracts.api_query import QueryHistory, QueryResponse

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
QUERY = "/api/v1/ml/query"


@pytest.fixture(scope="module")
def keys(stack: Any, tools: SimpleNamespace) -> dict[str, str]:
    """A key of each role."""
    made = {}
    for role in ("analyst", "private_reader", "app"):
        done = tools.regulars(stack.home, "key", "create", "--business", stack.record["business_id"], "--role", role, "--json")
        assert done.returncode == 0, done.stderr
        made[role] = json.loads(done.stdout)["key"]
    return made


@pytest.fixture
def analyst(stack: Any, keys: dict[str, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {keys['analyst']}"}, timeout=60) as client:
        yield client


@pytest.fixture
def with_model(analyst: httpx.Client) -> httpx.Client:
    """The analyst's client, where a text-to-SQL model is deployed."""
    if not analyst.get("/-/readyz").json()["checks"]["questions"]:
        pytest.skip("no text-to-sql model is deployed in this home")
    return analyst


def test_the_stack_is_ready_with_and_without_a_model(analyst: httpx.Client) -> None:
    """Without one a question is a problem that says what to do, it is audited all the same, and the rest works."""
    ready = analyst.get("/-/readyz").json()
    assert ready["ready"] is True
    answer = analyst.post(QUERY, json={"query": "How many customers are there?"})
    if ready["checks"]["questions"]:
        assert answer.status_code == 200, answer.text
    else:
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert "regulars train text-to-sql" in answer.json()["detail"]
    newest = QueryHistory.model_validate(analyst.get(f"{QUERY}/history", params={"limit": 1}).json()).items[0]
    assert newest.query == "How many customers are there?"
    assert newest.outcome == ("answered" if ready["checks"]["questions"] else "failed")


def test_only_analysts_ask(stack: Any, keys: dict[str, str], analyst: httpx.Client) -> None:
    refused = httpx.post(f"{stack.url}{QUERY}", json={"query": "x"}, headers={"Authorization": f"Bearer {keys['app']}"}, timeout=60)
    assert refused.status_code == 403
    assert analyst.get(f"{QUERY}/templates").json()["total"] >= 50


def test_a_correction_is_tried_in_the_deployment(analyst: httpx.Client, keys: dict[str, str]) -> None:
    """The guard's refusal comes through Ray as it was raised; what runs is kept, and taken back."""
    analyst.post(QUERY, json={"query": "Which moon is the best?"})
    asked = analyst.get(f"{QUERY}/history", params={"limit": 1}).json()["items"][0]["queryId"]
    path = f"{QUERY}/{asked}/feedback"
    refused = analyst.post(path, json={"correct": False, "correctedSql": "DELETE FROM customers"})
    assert (refused.status_code, refused.json()["type"].rsplit("/", 1)[1]) == (422, "query-refused")
    private = {"correct": False, "correctedSql": "SELECT email FROM customers"}
    assert analyst.post(path, json=private).status_code == 422
    assert analyst.post(path, json=private, headers={"Authorization": f"Bearer {keys['private_reader']}"}).status_code == 200
    made = analyst.post(path, json={"correct": False, "correctedSql": "SELECT count(*) AS moons FROM customers"})
    assert made.status_code == 200, made.text
    assert analyst.get(f"{QUERY}/corrections").json()["total"] == 1
    assert analyst.delete(f"{QUERY}/corrections/{made.json()['correctionId']}").status_code == 204


def test_a_question_is_answered_exported_drawn_and_corrected(with_model: httpx.Client, stack: Any) -> None:
    from warehouse.store import Warehouse

    answer = with_model.post(QUERY, json={"query": "How many customers are there by membership tier?"})
    found = QueryResponse.model_validate(answer.json())
    assert found.refused is False, answer.text
    with Warehouse(stack.home / "warehouse").connect() as connection:
        query = "SELECT membership_tier, count(*) FROM customers WHERE business_id = ? GROUP BY 1"
        expected = dict(connection.execute(query, [stack.record["business_id"]]).fetchall())
    assert found.results is not None
    assert {tuple(sorted(map(str, row.values()))) for row in found.results.data} == {tuple(sorted(map(str, p))) for p in expected.items()}
    table = with_model.get(f"{QUERY}/{found.query_id}/export", params={"format": "csv"})
    assert len(list(csv.reader(io.StringIO(table.content.decode("utf-8-sig"))))) == 1 + len(expected)
    assert with_model.get(f"{QUERY}/{found.query_id}/export", params={"format": "pdf"}).content.startswith(b"%PDF-")
    assert with_model.get(f"{QUERY}/{found.query_id}/chart.png").content.startswith(b"\x89PNG")
    path = f"{QUERY}/{found.query_id}/feedback"
    made = with_model.post(path, json={"correct": False, "correctedSql": "SELECT count(*) AS everyone FROM customers"}).json()
    again = with_model.post(QUERY, json={"query": "how many customers are there by membership tier"}).json()
    assert (again["source"], again["results"]["data"]) == ("correction", [{"everyone": sum(expected.values())}])
    assert with_model.delete(f"{QUERY}/corrections/{made['correctionId']}").status_code == 204
    assert with_model.post(QUERY, json={"query": "How many customers are there by membership tier?"}).json()["source"] == "model"


def test_what_must_not_be_answered_is_refused(with_model: httpx.Client) -> None:
    for question in ("Delete all customers", "What is the weather in Paris?", "Show me the e-mail addresses of gold members"):
        found = QueryResponse.model_validate(with_model.post(QUERY, json={"query": question}).json())
        assert (found.refused, found.results) == (True, None), question
        assert found.message
