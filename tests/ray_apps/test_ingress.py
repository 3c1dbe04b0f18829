"""The routes, in this process, with ONNX Runtime in place of Triton."""

from __future__ import annotations

import re
from typing import Any

import httpx

from contracts.api import RecommendationResponse

RECOMMENDATIONS = "/api/v1/ml/recommendations"
GOOD = {"customerId": "cust-0"}


def is_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The answer is a problem document of that status that says what to do and shows no inside of ours."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["title"]
    assert body["type"].startswith("https://regulars.invalid/problems/")
    assert len(body["detail"]) > 20
    assert body["instance"] == answer.request.url.path
    assert body["requestId"]
    assert "Traceback" not in answer.text
    return dict(body)


async def test_known_customer_gets_a_full_answer(api) -> None:
    body = await api.recommend("cust-0", numRecommendations=4)
    RecommendationResponse.model_validate(body)
    assert (body["coverage"], body["degraded"], body["modelVersion"]) == ("full", False, "two-tower/1")
    assert [r["rank"] for r in body["recommendations"]] == [1, 2, 3, 4]
    scores = [r["score"] for r in body["recommendations"]]
    assert scores == sorted(scores, reverse=True)


async def test_stages_are_timed(api) -> None:
    answer = await api.http.post(RECOMMENDATIONS, json=GOOD)
    stages = [part.partition(";")[0] for part in answer.headers["server-timing"].split(", ")]
    assert stages == ["auth", "features", "tower", "search", "rank", "rules", "total"]
    metrics = (await api.http.get("/metrics")).text
    assert 'regulars_stage_seconds_count{stage="tower"} 1.0' in metrics
    assert 'regulars_recommendations_total{coverage="full",degraded="false"} 1.0' in metrics
    assert 'regulars_requests_total{route="/api/v1/ml/recommendations",status="200"} 1.0' in metrics
    assert "cust-0" not in metrics


BAD_BODIES = [
    (b"", 400, None),
    (b'{"customerId": ', 400, None),
    (b"\xff\xfe", 400, None),
    (b'{"customerId": "c", "numRecommendations": NaN}', 400, None),
    (b'{"customerId": "c", "numRecommendations": Infinity}', 400, None),
    (b"[" * 100_000, 400, None),
    (b"[]", 422, "body"),
    (b"null", 422, "body"),
    (b"{}", 422, "customerId"),
    (b'{"customerId": ""}', 422, "customerId"),
    (b'{"customerId": 7}', 422, "customerId"),
    (b'{"customerId": "a\\u0000b"}', 422, "customerId"),
    (b'{"customerId": "c", "numRecommendations": 0}', 422, "numRecommendations"),
    (b'{"customerId": "c", "numRecommendations": 51}', 422, "numRecommendations"),
    (b'{"customerId": "c", "numRecommendations": "5"}', 422, "numRecommendations"),
    (b'{"customerId": "c", "numRecommendations": true}', 422, "numRecommendations"),
    (b'{"customerId": "c", "context": {"timeOfDay": "noon"}}', 422, "context.timeOfDay"),
    (b'{"customerId": "c", "surprise": 1}', 422, "surprise"),
]


async def test_bad_bodies_are_refused_with_a_reason(api) -> None:
    for content, status, field in BAD_BODIES:
        body = is_problem(await api.http.post(RECOMMENDATIONS, content=content, headers={"Content-Type": "application/json"}), status)
        assert ([e["field"] for e in body["errors"]] == [field]) if field else ("errors" not in body), content[:60]


async def test_other_media_types_are_refused(api) -> None:
    for media in ("text/plain", "application/xml", "application/x-www-form-urlencoded", ""):
        is_problem(await api.http.post(RECOMMENDATIONS, content=b"{}", headers={"Content-Type": media}), 415)


async def test_charset_of_json_is_accepted(api) -> None:
    answer = await api.http.post(
        RECOMMENDATIONS, content=b'{"customerId": "cust-0"}', headers={"Content-Type": "Application/JSON; charset=utf-8"}
    )
    assert answer.status_code == 200


async def test_large_body_is_refused_before_it_is_read(api) -> None:
    is_problem(await api.http.post(RECOMMENDATIONS, content=b" " * (10 << 20), headers={"Content-Type": "application/json"}), 413)


async def test_large_body_without_a_length_is_refused_while_it_streams(api) -> None:
    sent = []

    async def chunks():
        for _ in range(200):
            sent.append(1)
            yield b" " * 65_536

    is_problem(await api.http.post(RECOMMENDATIONS, content=chunks(), headers={"Content-Type": "application/json"}), 413)


async def test_without_a_valid_key_nothing_is_answered(api) -> None:
    del api.http.headers["Authorization"]
    for header in (None, "", "Bearer", "Bearer nonsense", "Basic abc", "Bearer rgl_000000000000_" + "A" * 43):
        headers = {} if header is None else {"Authorization": header}
        for method, path in (("POST", RECOMMENDATIONS), ("POST", "/api/v1/events"), ("POST", RECOMMENDATIONS + "/x/feedback")):
            answer = await api.http.request(method, path, json=GOOD, headers=headers)
            is_problem(answer, 401)
            assert answer.headers["www-authenticate"].startswith("Bearer")
        is_problem(await api.http.get(RECOMMENDATIONS, params={"customerId": "c"}, headers=headers), 401)


async def test_foreign_business_is_forbidden(api) -> None:
    is_problem(await api.http.post(RECOMMENDATIONS, json={**GOOD, "businessId": "biz-2"}), 403)
    assert (await api.http.post(RECOMMENDATIONS, json={**GOOD, "businessId": "biz-1"})).status_code == 200


async def test_analyst_reads_but_does_not_write(api) -> None:
    headers = {"Authorization": f"Bearer {api.keys['analyst']}"}
    is_problem(await api.http.post(RECOMMENDATIONS, json=GOOD, headers=headers), 403)
    assert (await api.http.get(RECOMMENDATIONS, params={"customerId": "cust-0"}, headers=headers)).status_code == 200


async def test_unknown_paths_and_methods_are_problems(api) -> None:
    is_problem(await api.http.get("/nowhere"), 404)
    answer = await api.http.delete(RECOMMENDATIONS)
    is_problem(answer, 405)
    assert answer.headers["allow"] == "GET, POST"


async def test_bad_query_parameters_name_the_parameter(api) -> None:
    for name, query in (("customerId", {}), ("customerId", {"customerId": ""}), ("limit", {"customerId": "c", "limit": "0"}),
                        ("limit", {"customerId": "c", "limit": "x"}), ("offset", {"customerId": "c", "offset": "-1"})):  # fmt: skip
        body = is_problem(await api.http.get(RECOMMENDATIONS, params=query), 422)
        assert body["errors"][0]["field"] == name


async def test_history_is_paged_newest_first(api) -> None:
    ids = [(await api.recommend("cust-0"))["recommendationId"] for _ in range(3)]
    page = (await api.http.get(RECOMMENDATIONS, params={"customerId": "cust-0", "limit": 2})).json()
    assert [r["recommendationId"] for r in page["items"]] == ids[:0:-1]
    assert (page["total"], page["nextOffset"]) == (3, 2)
    rest = (await api.http.get(RECOMMENDATIONS, params={"customerId": "cust-0", "limit": 2, "offset": 2})).json()
    assert [r["recommendationId"] for r in rest["items"]] == ids[:1]
    assert "nextOffset" not in rest


async def test_negative_feedback_keeps_the_reward_out_and_is_idempotent(api) -> None:
    first = await api.recommend("cust-0", numRecommendations=3)
    unwanted = first["recommendations"][0]["rewardId"]
    path = f"{RECOMMENDATIONS}/{first['recommendationId']}/feedback"
    given = {"eventType": "NEGATIVE_FEEDBACK", "rewardId": unwanted, "metadata": {"screen": "home"}}
    answers = [(await api.http.post(path, json=given)).json() for _ in range(2)]
    assert [a["duplicate"] for a in answers] == [False, True]
    assert unwanted not in [r["rewardId"] for r in (await api.recommend("cust-0", numRecommendations=50))["recommendations"]]
    assert unwanted in [r["rewardId"] for r in (await api.recommend("cust-5", numRecommendations=50))["recommendations"]]


async def test_conversion_of_a_single_use_reward_removes_it(api) -> None:
    first = await api.recommend("cust-0", numRecommendations=50)
    assert "rew-03" in [r["rewardId"] for r in first["recommendations"]]  # an experience
    path = f"{RECOMMENDATIONS}/{first['recommendationId']}/feedback"
    for _ in range(2):
        assert (await api.http.post(path, json={"eventType": "CONVERSION", "rewardId": "rew-03"})).status_code == 200
    assert "rew-03" not in [r["rewardId"] for r in (await api.recommend("cust-0", numRecommendations=50))["recommendations"]]


async def test_feedback_on_what_was_not_shown_is_not_found(api) -> None:
    first = await api.recommend("cust-0", numRecommendations=1)
    path = f"{RECOMMENDATIONS}/{first['recommendationId']}/feedback"
    is_problem(await api.http.post(path, json={"eventType": "CLICK", "rewardId": "rew-99"}), 404)
    is_problem(await api.http.post(f"{RECOMMENDATIONS}/unknown/feedback", json={"eventType": "CLICK", "rewardId": "rew-00"}), 404)
    other = {"Authorization": f"Bearer {api.keys['other']}"}
    shown = first["recommendations"][0]["rewardId"]
    is_problem(await api.http.post(path, json={"eventType": "CLICK", "rewardId": shown}, headers=other), 404)
    is_problem(await api.http.post(path, json={"eventType": "LIKE", "rewardId": shown}), 422)


async def test_events_count_at_the_next_request_and_only_once(api) -> None:
    event = {"eventId": "ev-1", "customerId": "cust-0", "eventType": "redemption", "rewardId": "rew-07"}
    assert "rew-07" in [r["rewardId"] for r in (await api.recommend("cust-0", numRecommendations=50))["recommendations"]]
    assert (await api.send(event))["accepted"] == 1
    assert "rew-07" not in [r["rewardId"] for r in (await api.recommend("cust-0", numRecommendations=50))["recommendations"]]
    again = await api.send(event, {**event, "rewardId": "rew-01"})
    assert (again["accepted"], again["duplicates"]) == (0, 1)
    assert again["rejected"][0]["reason"] == "event_id_conflict"


async def test_one_bad_event_fails_alone(api) -> None:
    body = await api.send(
        {"eventId": "a", "customerId": "c", "eventType": "app_open"},
        {"eventId": "b", "customerId": "c", "eventType": "redemption"},
        {"eventId": "c", "customerId": "c", "eventType": "app_open", "businessId": "biz-2"},
        {"eventId": "d", "customerId": "c", "eventType": "app_open", "occurredAt": "2100-01-01T00:00:00Z"},
        {"eventId": "e", "customerId": "c", "eventType": "purchase", "amount": 4.5},
    )
    assert body["accepted"] == 2
    assert [r["index"] for r in body["rejected"]] == [1, 2, 3]


async def test_event_sent_alone_is_refused_as_a_problem(api) -> None:
    good = {"eventId": "solo", "customerId": "c", "eventType": "app_open"}
    assert (await api.http.post("/api/v1/events", json=good)).json()["accepted"] == 1
    assert (await api.http.post("/api/v1/events", json=good)).json()["duplicates"] == 1
    is_problem(await api.http.post("/api/v1/events", json={**good, "channel": "app"}), 409)
    body = is_problem(await api.http.post("/api/v1/events", json={**good, "eventType": "purchase"}), 422)
    assert body["errors"][0]["field"] == "amount_missing"
    is_problem(await api.http.post("/api/v1/events", json={}), 422)


async def test_event_bodies_of_another_form_are_refused(api) -> None:
    for content in (b"[]", b'{"events": []}', b'"x"', b'{"events": [1], "more": 1}'):
        is_problem(await api.http.post("/api/v1/events", content=content, headers={"Content-Type": "application/json"}), 422)


async def test_too_many_events_are_refused(api) -> None:
    event = {"eventId": "x", "customerId": "c", "eventType": "app_open"}
    is_problem(await api.http.post("/api/v1/events", json={"events": [event] * 1001}), 413)


async def test_more_requests_than_places_are_told_to_come_back(api) -> None:
    api.service.gate._bound = 0
    answer = await api.http.post(RECOMMENDATIONS, json=GOOD)
    is_problem(answer, 503)
    assert int(answer.headers["retry-after"]) >= 1


async def test_unexpected_error_shows_nothing_of_ours(api, monkeypatch, caplog) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr(api.service.recommender, "recommend", broken)
    answer = await api.http.post(RECOMMENDATIONS, json=GOOD)
    assert "secret" not in str(is_problem(answer, 500))
    assert "secret inside" in caplog.text  # but the log has it


async def test_no_customer_id_reaches_the_log(api, caplog) -> None:
    caplog.set_level("DEBUG", logger="regulars")
    api.tower.fail = RuntimeError("not ours")
    await api.http.post(RECOMMENDATIONS, json={"customerId": "very-private-id"})
    assert "very-private-id" not in caplog.text


async def test_ready_and_healthy(api) -> None:
    assert (await api.http.get("/-/healthz")).json() == {"status": "ok"}
    ready = (await api.http.get("/-/readyz")).json()
    assert ready["ready"] is True
    assert ready["modelVersion"] == "two-tower/1"


async def test_not_ready_says_what_is_missing(api) -> None:
    await api.service.models.stop()  # what watches for versions would load it again
    api.service.models._holder = None
    answer = await api.http.get("/-/readyz")
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert answer.json()["checks"]["model"] is False
    refused = await api.http.post(RECOMMENDATIONS, json=GOOD)
    is_problem(refused, 503)
    assert refused.headers["retry-after"]


async def test_openapi_describes_every_route_and_resolves(api) -> None:
    schema = (await api.http.get("/openapi.json")).json()
    text = str(schema)
    assert set(schema["paths"]) == {
        RECOMMENDATIONS, RECOMMENDATIONS + "/{recommendation_id}/feedback", "/api/v1/ml/offers/next-best",
        "/api/v1/ml/customers/{customer_id}/similar", "/api/v1/events", "/-/readyz",
        "/api/v1/ml/churn/predict", "/api/v1/ml/clv/predict", "/api/v1/ml/churn/calibration", "/api/v1/customers/{customer_id}/risk",
        "/api/v1/customers/{customer_id}/profile", "/api/v1/ml/churn/{prediction_id}/intervention",
        "/api/v1/ml/churn/{prediction_id}/actual-churn", "/api/v1/ml/churn/at-risk", "/api/v1/predictions/batch",
        "/api/v1/predictions/batch/{job_id}",
        *("/api/v1/ml/query" + rest for rest in (
            "", "/templates", "/history", "/saved", "/saved/{saved_id}", "/corrections", "/corrections/{correction_id}",
            "/{query_id}/feedback", "/{query_id}/export", "/{query_id}/chart.png",
        )),
        *("/api/v1/ml/image-recognition" + rest for rest in (
            "", "/history", "/reviews", "/reviews/{review_id}/approve", "/reviews/{review_id}/reject", "/challenges",
            "/challenges/{challenge_id}",
        )),
        "/api/v1/ml/products", "/api/v1/ml/products/{product_id}",
    }  # fmt: skip
    for name in {part.split("'")[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in schema["components"]["schemas"]
    body = schema["paths"][RECOMMENDATIONS]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/RecommendationRequest"}
    page = await api.http.get("/docs")
    assert page.status_code == 200
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(assets) >= 3
    for asset in assets:  # nothing from another host
        assert asset.startswith("/docs/assets/"), asset
        assert (await api.http.get(asset)).status_code == 200
