"""Pictures over the running stack: HAProxy, the ingress, Ray's handle, the deployment that looks, Triton, the database."""

from __future__ import annotations

import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from contracts.api_pictures import PICTURES, PRODUCTS, RecognitionHistory, RecognitionResponse, TaughtResponse
from tests.ray_apps import eyes
from tests.vision.hostile import KINDS
from tests.vision.products_drawn import write_set
from vision.augment import rephotograph, view

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
RECOMMENDATIONS = "/api/v1/ml/recommendations"


@pytest.fixture(scope="module")
def page(stack: Any) -> np.ndarray:
    """A receipt of the stack's own day."""
    return eyes.receipt(day=datetime.fromisoformat(stack.record["serving_time"]).strftime("%d/%m/%Y"))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained product network."""
    from rich.console import Console

    from vision.train import ProductSettings, train

    root = tmp_path_factory.mktemp("products")
    settings = ProductSettings.load(
        environ={}, model="test_efficientnet", size=64, batch_size=8, weights="scratch", precision="fp32", steps=40
    )
    train(write_set(root / "data", 6), root / "run", settings, Console(file=io.StringIO()))
    return root / "run" / "artifact"


def post(client: httpx.Client, image: bytes, headers: dict[str, str] | None = None, **context: str) -> httpx.Response:
    form = {"context": json.dumps(context)}
    return client.post(PICTURES, files={"image": ("a.jpg", image)}, data=form, headers=headers, timeout=90)


def look(client: httpx.Client, image: bytes, **context: str) -> RecognitionResponse:
    answer = post(client, image, **context)
    assert answer.status_code == 200, answer.text
    return RecognitionResponse.model_validate(answer.json())


def test_pictures_are_ready_and_never_make_the_stack_unready(client: httpx.Client) -> None:
    ready = client.get("/-/readyz").json()
    assert (ready["ready"], ready["checks"]["pictures"]) == (True, True)


def test_a_receipt_is_paid_once_and_a_photograph_of_it_is_not(client: httpx.Client, page: np.ndarray) -> None:
    image, rng = eyes.encoded(page), np.random.default_rng(5)
    with ThreadPoolExecutor(2) as at_once:
        first, second = at_once.map(lambda who: look(client, image, customerId=who), ("cust-e2e-1", "cust-e2e-2"))
    assert sorted((str(first.status), str(second.status))) == ["awarded", "duplicate"]
    paid = first if first.status == "awarded" else second
    assert paid.receipt is not None
    assert paid.reward is not None
    assert (paid.receipt.merchant, paid.receipt.total, paid.reward.points) == ("GREEN LEAF BAKERY", 13.14, 13)
    photo = rephotograph(page, view(page.shape[1], page.shape[0], rng), rng)
    again = look(client, eyes.encoded(photo), customerId="cust-e2e-3")
    assert (again.status, again.duplicate_of, again.reward) == ("duplicate", paid.recognition_id, None)
    whose = "cust-e2e-1" if paid is first else "cust-e2e-2"
    history = RecognitionHistory.model_validate(client.get(PICTURES + "/history", params={"customerId": whose}).json())
    assert (history.points_balance, history.items[0].recognition_id) == (13, paid.recognition_id)


def test_text_is_read_by_the_model_server(stack: Any, client: httpx.Client, page: np.ndarray) -> None:
    def detected() -> int:
        lines = httpx.get(stack.record["triton"]["metrics"], timeout=30).text.splitlines()
        return sum(int(float(x.split()[-1])) for x in lines if x.startswith('nv_inference_request_success{model="ocr_detect"'))

    before, deadline = detected(), time.monotonic() + 180
    while detected() == before:  # a server that was restarted meanwhile is asked again after a while
        assert time.monotonic() < deadline
        look(client, eyes.encoded(page))


def test_a_product_network_is_picked_up_and_a_product_taught_and_known_at_once(stack: Any, client: httpx.Client, artifact: Path) -> None:
    import shutil

    folder = stack.home / "vision" / "products"
    shutil.copytree(artifact, folder / "artifact.new")
    (folder / "artifact.new").rename(folder / "artifact")
    photos = [("image", ("a.jpg", eyes.encoded(eyes.product("circle-pink", n)))) for n in (1, 2, 3)]
    deadline = time.monotonic() + 60  # an open recognizer looks for another network every 15 s
    while (answer := client.post(PRODUCTS, files=photos, data={"productId": "pink", "name": "Pink cup"}, timeout=60)).status_code == 503:
        assert "regulars train products" in answer.json()["detail"]
        assert time.monotonic() < deadline
        time.sleep(1)
    assert answer.status_code == 201, answer.text
    assert TaughtResponse.model_validate(answer.json()).photos == 3
    found = look(client, photos[0][1][1], expectedProduct="pink cups")
    assert [(o.object, o.product_id, o.source) for o in found.detected_objects][:1] == [("Pink cup", "pink", "catalogue")]
    assert found.expected_product is not None
    assert found.expected_product.matches
    assert client.delete(PRODUCTS + "/pink").status_code == 204
    assert client.get(PRODUCTS).json()["total"] == 0


def test_errors_come_through_as_problems(stack: Any, client: httpx.Client) -> None:
    refused = client.post(PICTURES, files={"image": b"GIF89a"})
    assert (refused.status_code, refused.json()["type"].rsplit("/", 1)[1]) == (415, "wrong-type")
    assert post(client, eyes.encoded(eyes.product("circle-red")), challengeId="no-such").status_code == 404
    assert client.delete(PRODUCTS + "/no-such").status_code == 404
    # A body over the limit: the answer, or a closed connection while the rest is still being sent.
    try:
        large = client.post(PICTURES, files={"image": b"\0" * 13_000_000}, timeout=60)
    except httpx.HTTPError:
        return
    assert large.status_code == 413


def test_hostile_files_cost_no_worker_and_hold_nothing_up(stack: Any, client: httpx.Client) -> None:
    def looker() -> psutil.Process:
        return next(p for p in stack.family() if "Pictures" in " ".join(p.cmdline()) and "ServeReplica" in " ".join(p.cmdline()))

    before = looker()
    for name, kind in KINDS.items():
        answer = client.post(PICTURES, files={"image": kind.make()}, timeout=90)
        assert answer.status_code == (200 if kind.error is None else kind.error.status), (name, answer.text)
        if kind.error is not None:
            assert answer.headers["content-type"] == "application/problem+json"
    after = looker()
    assert after.pid == before.pid
    assert after.memory_info().rss < 1_500_000_000


def test_recommendations_are_answered_while_pictures_are_looked_at(client: httpx.Client, page: np.ndarray) -> None:
    image = eyes.encoded(page)
    with ThreadPoolExecutor(3) as working:
        jobs = [working.submit(post, client, image) for _ in range(3)]
        answered = 0
        while not all(job.done() for job in jobs):
            assert client.post(RECOMMENDATIONS, json={"customerId": "cust-000001"}).status_code == 200
            answered += 1
    assert answered > 3
    assert [job.result().status_code for job in jobs] == [200] * 3


def _is_model_server(command: list[str], home: Path) -> bool:
    return command[0].endswith("tritonserver") and any(str(home) in part for part in command)


def test_a_killed_model_server_costs_no_answer(stack: Any, client: httpx.Client, page: np.ndarray) -> None:
    image = eyes.encoded(page)
    next(p for p in psutil.process_iter(["cmdline"]) if _is_model_server(p.info["cmdline"] or [""], stack.home)).kill()
    for _ in range(2):
        answer = post(client, image)
        assert answer.status_code == 200, answer.text
        assert answer.json()["receipt"]["total"] == 13.14
    deadline = time.monotonic() + 90
    while not client.get("/-/readyz").json()["ready"]:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_a_person_decides_over_the_stack(stack: Any, client: httpx.Client, tools: SimpleNamespace) -> None:
    made = tools.regulars(stack.home, "key", "create", "--business", stack.record["business_id"], "--role", "analyst", "--json")
    analyst = {"Authorization": f"Bearer {json.loads(made.stdout)['key']}"}
    rows = [r for r in eyes.ROWS if not r.startswith(("TOTAL", "CASH", "CHANGE", "Date"))]
    found = look(client, eyes.encoded(eyes.drawn.receipt([r.format(number="7") for r in rows])), customerId="cust-e2e-9")
    assert found.status == "review"
    path = f"{PICTURES}/reviews/{found.recognition_id}"
    assert client.post(path + "/approve", json={}).status_code == 403
    approved = client.post(path + "/approve", json={"points": 13, "reason": "legible"}, headers=analyst)
    assert (approved.status_code, approved.json()["reward"]["points"]) == (200, 13)
    assert client.post(path + "/reject", json={}, headers=analyst).status_code == 409
