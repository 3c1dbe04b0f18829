"""Where questions are decoded in the running stack: the answers alone would not show it, since the same loop can run in the replica."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest

from nlq.translate import ARTIFACT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def decoded(stack: Any) -> int:
    """Questions that the model server has answered so far."""
    text = httpx.get(stack.record["triton"]["metrics"], timeout=30).text
    return int(float(re.findall(r'^nv_inference_request_success{model="text_to_sql",version="\d+"} (\S+)', text, re.MULTILINE)[0]))


@pytest.mark.skipif(not (ARTIFACT / "model.json").is_file(), reason="no nlq/artifact: regulars train text-to-sql")
def test_each_question_is_one_request_to_the_model_server(stack: Any, tools: Any) -> None:
    made = tools.regulars(stack.home, "key", "create", "--business", stack.record["business_id"], "--role", "analyst", "--json")
    key = json.loads(made.stdout)["key"]
    before = decoded(stack)
    for number, question in enumerate(("How many customers are there?", "Which stores sold most?", "Revenue by month"), 1):
        answer = httpx.post(
            f"{stack.url}/api/v1/ml/query", json={"query": question}, headers={"Authorization": f"Bearer {key}"}, timeout=60
        ).json()
        assert answer["modelVersion"].startswith("text-to-sql/")
        assert decoded(stack) - before == number
