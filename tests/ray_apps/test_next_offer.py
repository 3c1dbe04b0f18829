"""Next best offer over the app: all eight types, the rules, cold start, and what happens when a part is away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from contracts.api import NextOfferResponse
from contracts.errors import ArtifactError, UpstreamError
from contracts.tables import REWARD_TYPES
from contracts.tensors import NEXT_OFFER
from ray_apps.deployments import next_offer
from ray_apps.deployments.rerank import Policy, margins, spend_of
from ray_apps.metrics import Stopwatch

PATH = "/api/v1/ml/offers/next-best"


async def ask(api: Any, customer: str = "cust-0", **body: Any) -> dict[str, Any]:
    answer = await api.http.post(PATH, json={"customerId": customer, **body})
    assert answer.status_code == 200, answer.text
    found = dict(answer.json())
    NextOfferResponse.model_validate(found)
    assert {o["offerType"] for o in found["offers"]} == set(REWARD_TYPES)
    return found


def by_type(body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {o["offerType"]: o for o in body["offers"]}


def offered(body: dict[str, Any]) -> set[str]:
    return {o["reward"]["rewardId"] for o in body["offers"] if o["reward"] is not None}


async def test_a_known_customer_gets_the_models_calibrated_probabilities(api) -> None:
    body = await ask(api)
    assert (body["customerId"], body["coverage"], body["degraded"]) == ("cust-0", "full", False)
    assert (body["modelVersion"], body["horizonDays"]) == ("two-tower/1", 30)
    assert body["latency"] > 0
    found, served = by_type(body), api.service.models.current
    customer = await api.service.recommender.customer("biz-1", "cust-0", _context(), Stopwatch())
    assert customer.vector is not None
    answer = await api.tower.infer(NEXT_OFFER, {"user_vector": customer.vector, "features": np.zeros((1, 44), np.float32)}, "1")
    expected = served.offer_types.probabilities(answer["offer_logits"][0])
    for kind in ("free_item", "experience", "upgrade"):
        assert found[kind]["available"]
        assert found[kind]["note"] is None
        assert found[kind]["probability"] == pytest.approx(expected[REWARD_TYPES.index(kind)], abs=0.01)  # the clock goes on
    for kind in set(REWARD_TYPES) - {"free_item", "experience", "upgrade"}:
        assert (found[kind]["available"], found[kind]["probability"], found[kind]["note"]) == (False, 0.0, "not_in_catalogue")
        assert found[kind]["reward"] is None
        assert found[kind]["expectedValue"] is None


async def test_the_best_is_the_first_and_rewards_are_those_of_a_recommendation(api) -> None:
    for customer in ("cust-0", "cust-1", "nobody"):
        body = await ask(api, customer)
        first, best = body["offers"][0], body["nextBestOffer"]
        assert (best["offerType"], best["rewardId"], best["probability"]) == (
            first["offerType"], first["reward"]["rewardId"], first["probability"],
        )  # fmt: skip
        assert [o["available"] for o in body["offers"]] == sorted((o["available"] for o in body["offers"]), reverse=True)
        shown = [o["probability"] for o in body["offers"] if o["available"]]
        assert shown == sorted(shown, reverse=True)
        served = api.service.models.current
        kinds = dict(zip(served.snapshot.table.reward_ids, served.snapshot.table.reward_types, strict=True))
        recommended = (await api.recommend(customer, numRecommendations=50))["recommendations"]
        for offer in (o for o in body["offers"] if o["reward"] is not None):
            mine = next(r for r in recommended if kinds[r["rewardId"]] == offer["offerType"])
            assert offer["reward"]["rewardId"] == mine["rewardId"]
            assert offer["reward"]["score"] == pytest.approx(mine["score"], abs=0.01)


async def test_expected_value_is_probability_times_margin(api) -> None:
    body = await ask(api)
    customer = await api.service.recommender.customer("biz-1", "cust-0", _context(), Stopwatch())
    catalogue, policy = customer.served.catalogue, Policy()
    spend = spend_of(customer.state, customer.now, customer.served.populations["biz-1"].basket)
    for offer in (o for o in body["offers"] if o["available"]):
        row = catalogue.row["biz-1", offer["reward"]["rewardId"]]
        margin = margins(policy, catalogue.offers, np.array([row]), spend)[0]
        assert margin > 0
        assert offer["expectedValue"] == pytest.approx(offer["probability"] * margin, rel=1e-3)
    for objective in ("expected_value", "clv"):
        values = [o["expectedValue"] for o in (await ask(api, objective=objective))["offers"] if o["available"]]
        assert values == sorted(values, reverse=True)  # every reward costs the same here


async def test_dismissed_redeemed_expired_and_sold_out_rewards_are_not_offered(api) -> None:
    sent = [
        {"eventId": "n-1", "customerId": "cust-0", "eventType": "reward_dismissed", "rewardId": "rew-07"},
        {"eventId": "n-2", "customerId": "cust-0", "eventType": "redemption", "rewardId": "rew-03"},
    ]
    assert {"rew-03", "rew-07"} <= offered(await ask(api))
    await api.send(*sent)
    body = await ask(api)
    found = by_type(body)
    assert not {"rew-03", "rew-07", "rew-10", "rew-11", "rew-12"} & offered(body)
    for kind in ("experience", "upgrade"):
        assert (found[kind]["available"], found[kind]["reward"], found[kind]["note"]) == (False, None, "none_allowed")
        assert found[kind]["probability"] > 0
    assert body["nextBestOffer"]["offerType"] == "free_item"


async def test_a_type_whose_every_reward_was_dismissed_leaves_nothing_to_offer(api) -> None:
    await api.send(
        *({"eventId": f"d-{i}", "customerId": "cust-0", "eventType": "reward_dismissed", "rewardId": f"rew-{i:02d}"} for i in range(12))
    )
    body = await ask(api)
    assert body["nextBestOffer"] is None
    assert not offered(body)


async def test_unknown_customers_get_the_shares_of_the_business(api) -> None:
    body = await ask(api, "nobody")
    found = by_type(body)
    assert (body["coverage"], body["degraded"]) == ("cold_start", False)
    assert [found[k]["probability"] for k in ("free_item", "experience", "upgrade")] == [0.6, 0.2, 0.1]
    assert body["nextBestOffer"]["reason"] == "60% of customers redeem a free item within 30 days"
    snapshot = api.service.models.current.snapshot
    rows = [r for r in snapshot.popularity["biz-1"].tolist() if snapshot.table.reward_types[r] == "free_item"]
    assert body["nextBestOffer"]["rewardId"] in {snapshot.table.reward_ids[r] for r in rows[:4]}


async def test_another_business_has_its_own_catalogue(api) -> None:
    api.http.headers["Authorization"] = f"Bearer {api.keys['other']}"
    body = await ask(api, "cust-0")
    assert offered(body) == {"rew-12"}
    assert by_type(body)["free_item"]["probability"] == 0.3


async def test_without_triton_the_shares_stand_in(api) -> None:
    api.tower.fail = UpstreamError("away")
    body = await ask(api)
    assert (body["coverage"], body["degraded"]) == ("full", True)
    assert by_type(body)["free_item"]["probability"] == 0.6
    assert body["nextBestOffer"] is not None


@pytest.mark.parametrize(("gone", "share"), [("next_offer", True), ("ranker", False)])
async def test_where_only_one_model_fails_the_other_still_counts(api, monkeypatch, gone: str, share: bool) -> None:
    whole, infer = await ask(api), api.tower.infer

    async def half(spec, inputs, version="", deadline_s=None):
        if spec.name == gone:
            raise UpstreamError("no such model")
        return await infer(spec, inputs, version, deadline_s)

    monkeypatch.setattr(api.tower, "infer", half)
    body = await ask(api)
    assert body["degraded"]
    assert not whole["degraded"]
    found, before = by_type(body), by_type(whole)
    assert found["experience"]["probability"] == (0.2 if share else pytest.approx(before["experience"]["probability"], abs=0.01))
    if gone == "next_offer":
        assert offered(body) == offered(whole)
    assert {k for k in found if found[k]["available"]} == {"free_item", "experience", "upgrade"}


async def test_without_stored_states_it_answers_degraded(api, monkeypatch) -> None:
    async def broken(*_: object) -> None:
        raise ArtifactError("no file")

    monkeypatch.setattr(api.service.states, "read", broken)
    body = await ask(api)
    assert body["degraded"]
    assert body["nextBestOffer"] is not None


async def test_a_type_without_history_is_offered_last_and_says_so(api) -> None:
    shares = api.service.models.current.offer_types.shares["biz-1"]
    del shares["free_item"]
    body = await ask(api)
    found = by_type(body)["free_item"]
    assert (found["probability"], found["available"], found["note"]) == (0.0, True, "no_history")
    assert [o["offerType"] for o in body["offers"] if o["available"]][-1] == "free_item"


async def test_a_rare_type_behind_many_others_is_found(api, monkeypatch) -> None:
    for customer in ("cust-0", "nobody"):
        with monkeypatch.context() as patch:
            whole = by_type(await ask(api, customer))
            patch.setattr(api.service.offers, "_settings", api.service.settings.model_copy(update={"candidates": 1}))
            found = by_type(await ask(api, customer))
        for kind in ("experience", "upgrade"):  # one reward each
            assert found[kind]["reward"]["rewardId"] == whole[kind]["reward"]["rewardId"]
        assert found["free_item"]["available"]


@pytest.mark.parametrize(
    ("customer", "reason"),
    [("cust-0", "You redeemed 8 free items before"), ("nobody", "60% of customers redeem a free item within 30 days")],
)
async def test_the_reason_is_said_in_the_customers_numbers(api, customer: str, reason: str) -> None:
    body = await ask(api, customer, objective="redemption")
    best = next(o for o in body["offers"] if o["offerType"] == "free_item")
    state = (await api.service.recommender.customer("biz-1", customer, _context(), Stopwatch())).state
    served = api.service.models.current
    if state is not None:
        assert next_offer.redeemed_of(state, served, "biz-1", "free_item") == 8
        assert next_offer.redeemed_of(state, served, "biz-2", "free_item") == 0
    assert best["reward"] is not None
    asked = await api.service.recommender.customer("biz-1", customer, _context(), Stopwatch())
    assert next_offer._reason(best, asked, {"free_item": 0.6}, customer == "cust-0") == reason


async def test_the_other_reasons(api) -> None:
    asked = await api.service.recommender.customer("biz-1", "cust-1", _context(), Stopwatch())
    offer = {"offerType": "informational", "probability": 0.5}
    likelier = next_offer._reason(offer, asked, {"informational": 0.2}, True)
    assert likelier == "You are 2.5x as likely as other customers to view an informational offer within 30 days"
    assert next_offer._reason(offer, asked, {}, True) == "New here: the first informational offer"


@pytest.mark.parametrize(
    ("kind", "times", "said"),
    [("points_bonus", 2, "2 points bonuses"), ("points_bonus", 1, "1 points bonus"), ("bogo", 3, "3 two-for-one offers")],
)
async def test_what_was_redeemed_is_counted_in_words(api, monkeypatch, kind: str, times: int, said: str) -> None:
    asked = await api.service.recommender.customer("biz-1", "cust-0", _context(), Stopwatch())
    monkeypatch.setattr(next_offer, "redeemed_of", lambda *_: times)
    assert next_offer._reason({"offerType": kind, "probability": 0.5}, asked, {}, True) == f"You redeemed {said} before"


async def test_answer_before_any_model_is_refused(api) -> None:
    api.service.models._holder = None
    answer = await api.http.post(PATH, json={"customerId": "cust-0"})
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")


@pytest.mark.parametrize("body", [{}, {"customerId": ""}, {"customerId": "c", "page": "x"}, {"customerId": "c", "objective": "luck"}])
async def test_a_body_that_is_not_the_contracts_is_refused(api, body: dict[str, Any]) -> None:
    assert (await api.http.post(PATH, json=body)).status_code == 422


async def test_another_business_is_forbidden_and_a_key_is_needed(api) -> None:
    assert (await api.http.post(PATH, json={"customerId": "c", "businessId": "biz-2"})).status_code == 403
    assert (await api.http.post(PATH, json={"customerId": "c"}, headers={"Authorization": "Bearer no"})).status_code == 401
    analyst = {"Authorization": f"Bearer {api.keys['analyst']}"}
    assert (await api.http.post(PATH, json={"customerId": "c"}, headers=analyst)).status_code == 403


async def test_it_is_documented(api) -> None:
    document = (await api.http.get("/openapi.json")).json()
    operation = document["paths"][PATH]["post"]
    assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/NextOfferRequest")
    assert operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/NextOfferResponse")
    assert {"NextOfferRequest", "NextOfferResponse", "OfferProbability", "OfferReward", "NextBestOffer"} <= set(
        document["components"]["schemas"]
    )


def _context():
    from contracts.api import RecommendationContext

    return RecommendationContext()
