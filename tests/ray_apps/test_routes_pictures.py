"""Pictures over the app: the real reading of text, a network computed by hand for products, a real database."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from contracts import api_pictures as models
from contracts.errors import ArtifactError, ConfigError, Overloaded, UpstreamError, UpstreamTimeout
from ray_apps.deployments import picture_answer as answers
from ray_apps.deployments.pictures import PicturesDesk, catalogue_of
from ray_apps.keys import create_key
from ray_apps.picture_desk import PictureStatus, Recognised, Shown
from tests.ray_apps import eyes
from tests.vision.hostile import KINDS
from tests.vision.products_drawn import write_artifact
from vision.augment import rephotograph, view
from vision.export_ocr import export
from vision.ocr import LocalNetworks
from vision.recognizer import Recognizer, Seen
from vision.types import Box, DetectedProduct

PICTURES, PRODUCTS = models.PICTURES, models.PRODUCTS


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNetworks]:
    folder = tmp_path_factory.mktemp("ocr") / "model"
    export(folder)
    local = LocalNetworks(folder, 2)
    yield local
    local.close()


@pytest.fixture(scope="session")
def products_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("products"))


class Pictures:
    """The app with a desk that really looks, and what a test asks of it."""

    def __init__(self, api: Any, opener: Any) -> None:
        self.api, self.http, self.service = api, api.http, api.service
        self.desk = self.service.pictures.desk = PicturesDesk(self.service.settings, opener=opener)

    async def key(self, role: str, business: str = "biz-1") -> dict[str, str]:
        return {"Authorization": f"Bearer {(await create_key(self.service.store, business, role, role)).token}"}

    async def post(self, image: bytes, headers: dict[str, str] | None = None, **context: Any) -> httpx.Response:
        form = {"context": json.dumps(context)} if context else {}
        answer: httpx.Response = await self.http.post(PICTURES, files={"image": ("a.jpg", image)}, data=form, headers=headers)
        return answer

    async def look(self, pixels: np.ndarray, headers: dict[str, str] | None = None, **context: Any) -> models.RecognitionResponse:
        answer = await self.post(eyes.encoded(pixels), headers, **context)
        assert answer.status_code == 200, answer.text
        return models.RecognitionResponse.model_validate(answer.json())

    async def teach(self, *photos: np.ndarray, headers: dict[str, str] | None = None, **fields: str) -> httpx.Response:
        files = [("image", ("a.jpg", eyes.encoded(p))) for p in photos]
        answer: httpx.Response = await self.http.post(PRODUCTS, files=files, data=fields, headers=headers)
        return answer


@pytest.fixture
async def pictures(api: Any, networks: LocalNetworks, products_folder: Path) -> Pictures:
    await api.service.pictures.desk.close()
    return Pictures(api, lambda served: eyes.recognizer(api.home, networks, products_folder))


@pytest.fixture
async def blind(api: Any) -> Pictures:
    """The app with a desk that opens pictures, and sees nothing in them."""
    await api.service.pictures.desk.close()
    return Pictures(api, lambda served: Blind())


class Blind:
    """A recognizer that costs nothing."""

    version, products, engine = "blind", None, None
    seen = Seen("nothing", 160, 120, model_version="blind", stages_ms={"gate": 1.0, "total": 1.0})

    def look(self, picture: Any, *_: Any) -> Seen:
        return self.seen


def is_problem(answer: httpx.Response, status: int, said: str = "") -> dict[str, Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert said in answer.json()["detail"], answer.text
    return dict(answer.json())


# Receipts


async def test_a_receipt_is_read_and_paid_once(pictures: Pictures) -> None:
    image = eyes.encoded(eyes.receipt())
    answer = await pictures.post(image, customerId="cust-1")
    assert answer.status_code == 200, answer.text
    found = models.RecognitionResponse.model_validate(answer.json())
    assert (found.kind, found.is_receipt_detected, found.status, found.reward_eligible, found.flags) == (
        "receipt",
        True,
        "awarded",
        True,
        [],
    )
    assert found.receipt is not None
    assert (found.receipt.merchant, str(found.receipt.date), found.receipt.total) == ("GREEN LEAF BAKERY", "2026-11-18", 13.14)
    assert [line.amount for line in found.receipt.line_items] == [4.85, 6.3, 1.99]
    assert found.reward is not None
    assert (found.reward.points, found.reward.reason) == (13, "13.14 GBP at GREEN LEAF BAKERY on 2026-11-18")
    stages = {s.partition(";")[0] for s in answer.headers["server-timing"].split(", ")}
    assert {"auth", "receive", "open", "gate", "text", "parse", "award", "total"} <= stages

    again = await pictures.look(eyes.receipt(), customerId="cust-1")
    assert (again.status, again.reward, again.reward_eligible, again.duplicate_of) == ("duplicate", None, False, found.recognition_id)
    assert [f.code for f in again.flags] == ["same_receipt"]
    page, rng = eyes.receipt(size=24), np.random.default_rng(5)
    photo = rephotograph(page, view(page.shape[1], page.shape[0], rng), rng)
    other = await pictures.look(photo, customerId="cust-2")
    assert (other.status, other.duplicate_of, other.reward) == ("duplicate", found.recognition_id, None)

    page = models.RecognitionHistory.model_validate(
        (await pictures.http.get(PICTURES + "/history", params={"customerId": "cust-1"})).json()
    )
    assert (page.total, page.points_balance) == (2, 13)
    assert [i.recognition_id for i in page.items] == [again.recognition_id, found.recognition_id]
    assert models.RecognitionResponse.model_validate(page.items[1].answer) == found
    metrics = (await pictures.http.get("/metrics")).text
    assert 'regulars_pictures_total{outcome="awarded"} 1.0' in metrics
    assert 'regulars_pictures_total{outcome="duplicate"} 2.0' in metrics


async def test_without_a_customer_nothing_is_paid_and_the_answer_says_what_would_be(pictures: Pictures) -> None:
    found = await pictures.look(eyes.receipt())
    assert (found.reward_eligible, found.reward, found.status) == (True, None, None)
    paid = await pictures.look(eyes.receipt(), customerId="cust-1")
    assert paid.status == "awarded"
    assert (await pictures.look(eyes.receipt())).reward_eligible is False


async def test_an_old_receipt_is_refused_with_the_reason(pictures: Pictures) -> None:
    found = await pictures.look(eyes.receipt(day="18/08/2026"), customerId="cust-1")
    assert (found.status, found.reward_eligible, found.flags[0].code) == ("refused", False, "too_old")
    assert "30 are allowed" in found.flags[0].reason


async def test_a_key_repeats_the_first_answer(pictures: Pictures) -> None:
    image, other = eyes.encoded(eyes.receipt()), eyes.encoded(eyes.product("circle-red", 3))
    head = {"Idempotency-Key": "order-7"}
    first = await pictures.post(image, head, customerId="cust-1")
    again = await pictures.post(image, head, customerId="cust-1")
    assert (first.status_code, again.json(), "idempotency-replayed" in first.headers) == (200, first.json(), False)
    assert again.headers["idempotency-replayed"] == "true"
    is_problem(await pictures.post(other, head, customerId="cust-1"), 409)
    is_problem(await pictures.post(image, head, customerId="cust-2"), 409)
    theirs = await pictures.post(image, head | await pictures.key("app", "biz-2"), customerId="cust-1")
    assert theirs.json()["recognitionId"] != first.json()["recognitionId"]
    is_problem(await pictures.post(image, {"Idempotency-Key": "x" * 129}, customerId="cust-1"), 422)
    balance = await pictures.http.get(PICTURES + "/history", params={"customerId": "cust-1"})
    assert balance.json()["pointsBalance"] == 13


async def test_the_same_receipt_at_once_is_paid_once(pictures: Pictures) -> None:
    found = await asyncio.gather(*(pictures.look(eyes.receipt(), customerId=f"cust-{n}") for n in range(3)))
    assert sorted(str(f.status) for f in found) == ["awarded", "duplicate", "duplicate"]


async def test_a_person_decides_on_what_is_unclear(pictures: Pictures) -> None:
    unclear = [r for r in eyes.ROWS if "TOTAL" not in r and "CASH" not in r and "CHANGE" not in r]
    page = eyes.drawn.receipt([r.format(number="1", day="18/11/2026") for r in unclear])
    found = await pictures.look(page, customerId="cust-1")
    assert (found.status, found.reward) == ("review", None)
    is_problem(await pictures.http.get(PICTURES + "/reviews"), 403)
    analyst, others = await pictures.key("analyst"), await pictures.key("analyst", "biz-2")
    queue = models.ReceiptReviews.model_validate((await pictures.http.get(PICTURES + "/reviews", headers=analyst)).json())
    assert [(r.review_id, r.customer_id, r.merchant) for r in queue.items] == [(found.recognition_id, "cust-1", "GREEN LEAF BAKERY")]
    assert queue.items[0].flags
    assert (await pictures.http.get(PICTURES + "/reviews", headers=others)).json()["total"] == 0
    path = f"{PICTURES}/reviews/{found.recognition_id}"
    is_problem(await pictures.http.post(path + "/approve", json={}), 403)
    is_problem(await pictures.http.post(path + "/approve", json={}, headers=others), 404)
    is_problem(await pictures.http.post(path + "/reject", json={"points": 5}, headers=analyst), 422, "only with an approval")
    given = {"reason": "13.14 is legible", "points": 13}
    for _ in range(2):
        answer = await pictures.http.post(path + "/approve", json=given, headers=analyst)
        done = models.ReviewResponse.model_validate(answer.json())
        assert done.reward is not None
        assert (done.verdict, done.reward.points) == ("approved", 13)
    is_problem(await pictures.http.post(path + "/reject", json={}, headers=analyst), 409)
    is_problem(await pictures.http.post(PICTURES + "/reviews/nothing/reject", json={}, headers=analyst), 404)
    assert (await pictures.http.get(PICTURES + "/history", params={"customerId": "cust-1"})).json()["pointsBalance"] == 13


# Products and challenges


async def test_a_product_is_named_placed_and_compared_with_what_was_expected(pictures: Pictures) -> None:
    found = await pictures.look(eyes.product("circle-red", 3), expectedProduct="Circle Reds")
    best = found.detected_objects[0]
    assert (found.kind, best.object, best.brand, best.group, best.source) == ("product", "circle-red", "Acme", "round", "classifier")
    assert best.bounding_box.width < found.picture.width == 240
    assert found.expected_product is not None
    assert (found.expected_product.matches, found.expected_product.expected, found.reward_eligible) == (True, "circle-red", True)
    group = await pictures.look(eyes.product("circle-red", 3), expectedProduct="ROUND")
    assert group.expected_product is not None
    assert group.expected_product.matches
    other = await pictures.look(eyes.product("circle-red", 3), expectedProduct="circle blue")
    assert other.expected_product is not None
    assert (other.expected_product.matches, other.expected_product.expected, other.reward_eligible) == (False, None, False)
    unknown = await pictures.look(eyes.product("square-yellow", 3), expectedProduct="circle")
    assert (unknown.kind, unknown.detected_objects, unknown.reward_eligible) == ("nothing", [], False)
    assert unknown.notes


async def test_a_taught_product_is_known_at_once_and_forgotten(pictures: Pictures) -> None:
    pink = eyes.product("circle-pink", 1)
    assert (await pictures.look(pink)).kind == "nothing"
    answer = await pictures.teach(pink, eyes.product("circle-pink", 2), productId="prod-9", name="Pink cup", brand="Acme")
    assert answer.status_code == 201, answer.text
    taught = models.TaughtResponse.model_validate(answer.json())
    assert (taught.product_id, taught.name, taught.brand, taught.photos, taught.version) == ("prod-9", "Pink cup", "Acme", 2, 1)
    found = await pictures.look(eyes.product("circle-pink", 4), expectedProduct="prod-9")
    best = found.detected_objects[0]
    assert (best.object, best.product_id, best.source) == ("Pink cup", "prod-9", "catalogue")
    assert found.reward_eligible
    others = await pictures.key("app", "biz-2")
    assert (await pictures.look(pink, others)).kind == "nothing"
    assert (await pictures.http.get(PRODUCTS, headers=others)).json()["total"] == 0
    is_problem(await pictures.http.delete(PRODUCTS + "/prod-9", headers=others), 404)
    listed = models.TaughtProducts.model_validate((await pictures.http.get(PRODUCTS)).json())
    assert [(p.product_id, p.photos) for p in listed.items] == [("prod-9", 2)]
    assert (await pictures.http.delete(PRODUCTS + "/prod-9")).status_code == 204
    assert (await pictures.look(pink)).kind == "nothing"


async def test_bad_teaching_is_refused(pictures: Pictures) -> None:
    photo = eyes.product("circle-red", 1)
    is_problem(await pictures.teach(photo, productId="p", name=" "), 422)
    is_problem(await pictures.teach(photo, productId="p"), 422)
    is_problem(await pictures.teach(photo, productId="p", name="n", more="x"), 422, "field 'more'")
    is_problem(await pictures.teach(*[photo] * 6, productId="p", name="n"), 422, "image 6 times")
    is_problem(await pictures.http.post(PRODUCTS, files={"productId": b"p"}), 422, "no field image")
    is_problem(await pictures.http.post(PRODUCTS, files={"image": b"GIF89a", "productId": b"p", "name": b"n"}), 415, "a GIF")
    is_problem(await pictures.http.post(PRODUCTS, files={"image": b"x", "productId": b"\xff", "name": b"n"}), 422, "not UTF-8")
    is_problem(await pictures.teach(photo, productId="p", name="n", headers=await pictures.key("analyst")), 403)
    pictures.desk.tuning = pictures.desk.tuning.model_copy(update={"most_taught": 1})
    assert (await pictures.teach(photo, productId="p", name="n")).status_code == 201
    assert (await pictures.teach(photo, productId="p", name="again")).json()["version"] == 2
    is_problem(await pictures.teach(photo, productId="q", name="n"), 422, "at most 1 may be")


async def test_a_scavenger_hunt_is_completed_and_paid_once(pictures: Pictures) -> None:
    path = PICTURES + "/challenges/hunt"
    hunt = {"name": "Two shapes", "kind": "scavenger", "wanted": ["Circle Red", "edged"], "points": 100}
    is_problem(await pictures.http.put(path, json=hunt), 403)
    analyst = await pictures.key("analyst")
    assert (await pictures.http.put(path, json=hunt, headers=analyst)).status_code == 201
    assert (await pictures.http.put(path, json=hunt, headers=analyst)).status_code == 200
    kept = models.ChallengeResponse.model_validate((await pictures.http.get(path)).json())
    assert (kept.wanted, kept.points) == (["Circle Red", "edged"], 100)
    who = {"customerId": "cust-1", "challengeId": "hunt"}

    async def state(name: str, **context: str) -> models.ChallengeState:
        found = await pictures.look(eyes.product(name, 3), **context)
        assert found.challenge is not None
        return found.challenge

    one = await state("circle-red", **who)
    assert (one.found, one.completed, one.reward) == (["Circle Red"], False, None)
    same = await state("circle-red", **who)
    assert (same.found, same.completed) == (["Circle Red"], False)
    last = await state("square-green", **who)
    assert last.reward is not None
    assert (last.found, last.completed, last.reward.points) == (["Circle Red", "edged"], True, 100)
    again = await state("square-green", **who)
    assert (again.completed, again.reward) == (True, None)
    nobody = await state("square-green", challengeId="hunt")
    assert (nobody.found, nobody.completed) == (["edged"], False)
    wrong = await pictures.look(eyes.receipt(), **who)
    assert wrong.challenge is not None
    assert "asks for a picture of a product" in str(wrong.challenge.problem)
    assert (await pictures.http.get(PICTURES + "/history", params={"customerId": "cust-1"})).json()["pointsBalance"] == 113

    others = await pictures.key("app", "biz-2")
    is_problem(await pictures.http.get(path, headers=others), 404)
    is_problem(await pictures.post(eyes.encoded(eyes.product("circle-red", 3)), others, **who), 404)
    assert (await pictures.http.get(PICTURES + "/challenges", headers=others)).json()["total"] == 0
    assert models.Challenges.model_validate((await pictures.http.get(PICTURES + "/challenges")).json()).total == 1


async def test_a_challenge_counts_only_in_its_time_and_only_accepted_receipts(pictures: Pictures) -> None:
    analyst = await pictures.key("analyst")
    over = {"name": "Old", "kind": "product", "wanted": ["circle-red"], "points": 5, "endsAt": "2026-11-01T00:00:00Z"}
    rye = {"name": "Rye", "kind": "receipt", "wanted": ["rye bread large"], "points": 7}
    for name, body in (("over", over), ("rye", rye)):
        assert (await pictures.http.put(f"{PICTURES}/challenges/{name}", json=body, headers=analyst)).status_code == 201
    late = await pictures.look(eyes.product("circle-red", 3), customerId="cust-1", challengeId="over")
    assert late.challenge is not None
    assert (late.challenge.found, late.reward_eligible) == ([], False)
    assert "not open on 2026-11-20" in str(late.challenge.problem)
    would = await pictures.look(eyes.receipt(), challengeId="rye")
    assert would.challenge is not None
    assert (would.challenge.found, would.challenge.completed, would.reward_eligible) == (["rye bread large"], False, True)
    bought = await pictures.look(eyes.receipt(), customerId="cust-1", challengeId="rye")
    assert bought.challenge is not None
    assert bought.reward is not None
    assert bought.challenge.reward is not None
    assert (bought.reward.points, bought.challenge.reward.points) == (13, 7)
    again = await pictures.look(eyes.receipt(), customerId="cust-2", challengeId="rye")
    assert again.challenge is not None
    assert (again.challenge.found, again.challenge.completed) == ([], False)
    assert "not accepted (duplicate)" in str(again.challenge.problem)


@pytest.mark.parametrize(
    "change",
    [{"wanted": []}, {"wanted": ["a", "A"]}, {"kind": "film"}, {"points": -1}, {"minConfidence": 2}, {"startsAt": "2026-12-01T00:00:00Z"}],
)
async def test_challenges_that_are_none_are_refused(blind: Pictures, change: dict[str, Any]) -> None:
    body = {"name": "n", "kind": "product", "wanted": ["a"], "points": 1, "endsAt": "2026-11-30T00:00:00Z"} | change
    is_problem(await blind.http.put(PICTURES + "/challenges/c", json=body, headers=await blind.key("admin")), 422)


def test_names_mean_the_same_whatever_their_case_marks_and_number() -> None:
    same = [("Apple", "apples"), ("Crème fraîche", "creme-fraiche"), ("oat_milk 1L", "Oat Milk 1l"), ("Berries", "berry"), ("boxes", "box"),
            ("Tomatoes", "tomato"), ("glasses", "glass"), ("peaches", "peach"), ("PROD-1", "prod-1"), ("radish", "radishes")]  # fmt: skip
    for one, other in same:
        assert answers.same_product(one, other), (one, other)
    for one, other in [("apple", "apple juice"), ("milk", "oat milk"), ("", ""), ("-", "-"), ("glass", "gla"), ("gas", "ga"), ("1", "2")]:
        assert not answers.same_product(one, other), (one, other)


def test_what_a_picture_shows_has_every_name_and_no_group_of_another() -> None:
    cup = DetectedProduct("Cup", "Acme", 0.7, Box(0, 0, 1, 1), "classifier", "cups")
    seen = Seen("product", 10, 10, products=(cup,), groups=(("cups", 0.9), ("plates", 0.1)))
    assert answers.shown_in(seen, {}) == [("Cup", 0.7), ("Acme Cup", 0.7), ("cups", 0.9)]


# Hostile, too much, and broken


async def test_hostile_uploads_are_refused_or_handled_and_the_worker_lives(blind: Pictures) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, kind in KINDS.items():
        answer = await blind.post(kind.make())
        if kind.error is None:
            assert answer.status_code == 200, (name, answer.text)
        else:
            assert answer.status_code == kind.error.status, (name, answer.text)
            is_problem(answer, kind.error.status)
    assert len(KINDS) >= 60
    assert (await blind.look(eyes.product("circle-red"))).kind == "nothing"
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 700


async def test_bodies_that_are_not_of_the_form_are_problems(blind: Pictures) -> None:
    http, image = blind.http, eyes.encoded(eyes.product("circle-red"))
    is_problem(await http.post(PICTURES, json={}), 415, "multipart/form-data")
    is_problem(await http.post(PICTURES, content=b"x", headers={"Content-Type": "multipart/form-data"}), 400, "no boundary")
    is_problem(await http.post(PICTURES, content=b"x", headers={"Content-Type": "multipart/form-data; boundary=y"}), 400, "does not begin")
    is_problem(await http.post(PICTURES, files={"context": b"{}"}), 422, "no field image")
    is_problem(await http.post(PICTURES, files=[("image", image), ("image", image)]), 422, "image 2 times")
    is_problem(await http.post(PICTURES, files={"image": image, "more": b"x"}), 422, "field 'more'")
    is_problem(await http.post(PICTURES, files={"image": b""}), 422, "empty")
    for context, status in ((b"{", 400), (b"\xff", 400), (b"[]", 422), (b'{"customer": "x"}', 422), (b'{"customerId": 5}', 422),
                            (b'{"expectedProduct": " "}', 422), (b" " * 5_000, 422), (b'{"businessId": "biz-2"}', 403)):  # fmt: skip
        is_problem(await http.post(PICTURES, files={"image": image, "context": context}), status)
    is_problem(await blind.post(image, challengeId="no-such"), 404, "no-such")
    is_problem(await blind.post(image, {"Authorization": "Bearer x"}), 401)
    is_problem(await blind.post(image, await blind.key("analyst")), 403)


async def test_a_body_over_the_limit_is_refused_before_it_is_read(blind: Pictures) -> None:
    most = blind.service.pictures.most_bytes()[PICTURES]
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1 << 20
            yield b"\0" * (1 << 20)

    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    is_problem(await blind.http.post(PICTURES, content=endless(), headers=kind), 413, f"the limit is {most}")
    assert read <= most + (2 << 20)
    is_problem(await blind.http.post(PICTURES, content=b"", headers=kind | {"Content-Length": str(most + 1)}), 413)
    # Other routes keep the small limit.
    is_problem(
        await blind.http.put(PICTURES + "/challenges/c", content=b"\0" * (2 << 20), headers={"Content-Type": "application/json"}), 413
    )


async def test_a_slow_upload_is_ended(blind: Pictures) -> None:
    blind.service.pictures.tuning = blind.service.pictures.tuning.model_copy(update={"receive_s": 0.05})

    async def slow() -> AsyncIterator[bytes]:
        yield b"--x"
        await asyncio.sleep(30)

    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    is_problem(await blind.http.post(PICTURES, content=slow(), headers=kind), 408, "not there after 0.05 s")


async def test_too_many_pictures_at_once_are_answered_503(blind: Pictures) -> None:
    import threading

    go, image = threading.Event(), eyes.encoded(eyes.product("circle-red"))
    blind.desk.tuning = blind.desk.tuning.model_copy(update={"threads": 1, "waiting": 1})

    class Waits(Blind):
        def look(self, picture: Any, *_: Any) -> Seen:
            go.wait(30)
            return self.seen

    blind.desk.eyes._open = lambda served: Waits()  # type: ignore[assignment, return-value]
    working = [asyncio.create_task(blind.post(image)) for _ in range(2)]
    while blind.desk._inside < 2:
        await asyncio.sleep(0.01)
    full = await blind.post(image)
    is_problem(full, 503, "the bound is 2")
    assert full.headers["retry-after"]
    # Somebody who stops waiting frees no place: the thread works on.
    working[0].cancel()
    await asyncio.sleep(0.05)
    assert blind.desk._inside == 2
    go.set()
    assert (await working[1]).status_code == 200
    while blind.desk._inside:
        await asyncio.sleep(0.01)
    assert (await blind.post(image)).status_code == 200


async def test_too_many_uploads_at_once_are_answered_503(blind: Pictures) -> None:
    from ray_apps.middleware import Gate

    blind.service.pictures.uploads = Gate(1, 0)
    async with blind.service.pictures.uploads.enter():
        is_problem(await blind.post(b"x"), 503)
    is_problem(await blind.post(b"x"), 415)


async def test_when_the_model_server_fails_this_process_looks(blind: Pictures) -> None:
    opened: list[bool] = []

    class Served(Blind):
        def look(self, picture: Any, *_: Any) -> Seen:
            raise UpstreamError("the model server is away. Try again")

    def opener(served: bool) -> Any:
        opened.append(served)
        return Served() if served else Blind()

    blind.desk.eyes._open = opener
    image = eyes.encoded(eyes.product("circle-red"))
    assert (await blind.post(image)).status_code == 200
    assert (await blind.post(image)).status_code == 200
    assert opened == [True, False]  # until `look_s` is over, the model server is not asked again
    blind.desk.eyes._failed = float("-inf")
    assert (await blind.post(image)).status_code == 200
    assert opened == [True, False]


@pytest.mark.parametrize("error", [ArtifactError("weights are missing"), ConfigError("not installed"), UpstreamError("away")])
async def test_what_cannot_be_opened_is_503_and_shown(blind: Pictures, error: Exception) -> None:
    def opener(served: bool) -> Recognizer:
        raise error

    blind.desk.eyes._open = opener
    is_problem(await blind.post(eyes.encoded(eyes.product("circle-red"))), 503, str(error))
    assert (await blind.desk.status()).problem == str(error)
    blind.service.pictures._known_until = float("-inf")
    ready = (await blind.http.get("/-/readyz")).json()
    assert (ready["ready"], ready["checks"]["pictures"]) == (True, False)


async def test_another_network_is_used_when_it_is_there(blind: Pictures, products_folder: Path) -> None:
    import shutil

    opened: list[bool] = []

    def opener(served: bool) -> Any:
        opened.append(served)
        return Blind()

    blind.desk.eyes._open = opener
    image = eyes.encoded(eyes.product("circle-red"))
    await blind.post(image)
    shutil.copytree(products_folder, blind.api.home / "vision" / "products" / "artifact")
    await blind.post(image)
    assert opened == [True]
    blind.desk.eyes._looked = float("-inf")
    await blind.post(image)
    assert opened == [True, True]


async def test_without_a_product_network_receipts_are_read_and_nothing_is_taught(api: Any, networks: LocalNetworks) -> None:
    await api.service.pictures.desk.close()
    pictures = Pictures(api, lambda served: eyes.recognizer(api.home, networks, None))
    assert (await pictures.look(eyes.receipt(), customerId="cust-1")).status == "awarded"
    assert "regulars train products" in (await pictures.look(eyes.product("circle-red"))).notes[0]
    is_problem(await pictures.teach(eyes.product("circle-red"), productId="p", name="n"), 503, "regulars train products")
    assert (await pictures.http.get(PRODUCTS)).json()["total"] == 0
    is_problem(await pictures.http.delete(PRODUCTS + "/p"), 404)
    with pytest.raises(ArtifactError, match="nothing can be taught"):
        catalogue_of(Blind())  # type: ignore[arg-type]


class Desk:
    """A desk in another process that fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def recognise(self, shown: Shown) -> Recognised:
        raise self.error

    async def status(self) -> PictureStatus:
        raise self.error

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(UpstreamTimeout("no answer"), "upstream-timeout"), (Overloaded("full"), "overloaded"), (UpstreamError("gone"), "upstream")],
)
async def test_failures_of_the_desk_are_503_and_counted(blind: Pictures, error: Exception, outcome: str) -> None:
    await blind.desk.close()
    blind.service.pictures.desk = Desk(error)
    blind.service.pictures._known_until = float("-inf")
    is_problem(await blind.post(b"x"), 503)
    assert f'regulars_pictures_total{{outcome="{outcome}"}} 1.0' in (await blind.http.get("/metrics")).text
    assert await blind.service.pictures.ready() is False


async def test_history_is_the_businesss_own_and_paged(blind: Pictures) -> None:
    for n in range(3):
        await blind.look(eyes.product("circle-red", n), customerId="cust-1")
    params: dict[str, Any] = {"customerId": "cust-1", "limit": 2}
    first = models.RecognitionHistory.model_validate((await blind.http.get(PICTURES + "/history", params=params)).json())
    assert (first.total, len(first.items), first.next_offset, first.model_version) == (3, 2, 2, "blind")
    rest = (await blind.http.get(PICTURES + "/history", params=params | {"offset": 2})).json()
    assert (len(rest["items"]), rest.get("nextOffset")) == (1, None)
    others = await blind.key("app", "biz-2")
    assert (await blind.http.get(PICTURES + "/history", params=params, headers=others)).json()["total"] == 0
    is_problem(await blind.http.get(PICTURES + "/history"), 422)


async def test_lines_are_matched_with_the_products_of_the_business(pictures: Pictures) -> None:
    import pyarrow as pa

    from contracts.tables import TABLES
    from warehouse.store import Warehouse

    rows = [
        {"business_id": "biz-1", "product_id": "prod-1", "name": "Rye bread large", "category": "bread", "price": None},
        {"business_id": "biz-2", "product_id": "prod-2", "name": "Cinnamon bun", "category": "bread", "price": None},
    ]
    Warehouse(pictures.api.home / "warehouse").land("products", pa.Table.from_pylist(rows, schema=TABLES["products"].schema), "test")
    found = await pictures.look(eyes.receipt(), expectedProduct="prod-1")
    assert found.receipt is not None
    assert [line.product_id for line in found.receipt.line_items] == ["prod-1", None, None]
    assert found.expected_product is not None
    assert found.expected_product.matches


async def test_the_networks_are_loaded_a_while_after_the_stack_is_ready(blind: Pictures) -> None:
    import os

    blind.desk.tuning = blind.desk.tuning.model_copy(update={"warm_up_s": 0.0})
    assert (await blind.desk.status()).model_version == "none"
    run = blind.service.settings.folder.run
    run.mkdir(exist_ok=True)
    (run / "serve.json").write_text(json.dumps({"pid": os.getpid()}))
    for _ in range(500):
        if (await blind.desk.status()).model_version == "blind":
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not loaded")
