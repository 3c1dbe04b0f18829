"""Plain-English questions over the app; the translator is a dictionary, everything behind it is real."""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.api_query import QueryCorrections, QueryFeedbackResponse, QueryHistory, QueryResponse, QueryTemplates, SavedQueries
from contracts.errors import ArtifactError, ConfigError, Overloaded, UpstreamError, UpstreamTimeout
from nlq.translate import MODEL, home_model
from nlq.types import OutputColumn, Translation
from ray_apps.deployments.questions import QuestionDesk, version_of
from ray_apps.keys import create_key
from ray_apps.query_service import QueryService
from ray_apps.questions import questions as audit
from ray_apps.routes_query import wants_picture

QUERY = "/api/v1/ml/query"
COUNT, TOP, EMAILS, DAYS = "How many customers?", "Top customers by purchases", "e-mail addresses", "Purchases each day"
SQL = {
    COUNT: ("SELECT count(*) AS customers FROM customers", "number of customers", (("customers", "number"),)),
    TOP: (
        "SELECT customer_id, count(*) AS purchases, sum(amount) AS spend FROM transactions GROUP BY 1 ORDER BY 2 DESC, 1",
        "customers by number of purchases",
        (("customer_id", "id"), ("purchases", "number"), ("spend", "money")),
    ),
    DAYS: (
        "SELECT date_trunc('month', occurred_at) AS month, count(*) AS purchases FROM transactions GROUP BY 1 ORDER BY 1",
        "purchases by month",
        (("month", "time"), ("purchases", "number")),
    ),
    EMAILS: ("SELECT customer_id, email FROM customers", "e-mail address of customers", (("customer_id", "id"), ("email", "text"))),
    "Everyone of the others": ("SELECT customer_id FROM customers WHERE business_id = 'biz-2'", "customers of biz-2", ()),
    "Break it": ("DROP TABLE customers", "drop", ()),
    "Formulas": ("SELECT '=1+1' AS x, -5 AS y", "text", (("x", "text"), ("y", "number"))),
}


class Dictionary:
    """Reads what it holds, and refuses the rest."""

    version = "text-to-sql/9"

    def __init__(self) -> None:
        self.fail: Exception | None = None

    def translate(self, question: str, *, roles: frozenset[str] = frozenset()) -> Translation:
        if self.fail is not None:
            raise self.fail
        if question not in SQL:
            return Translation(question, True, "out_of_scope", "The data holds nothing about this.", confidence=0.99, suggestions=(COUNT,))
        sql, interpretation, columns = SQL[question]
        kinds = tuple(OutputColumn(n, k) for n, k in columns)  # type: ignore[arg-type]
        return Translation(question, False, sql=sql, interpretation=interpretation, columns=kinds, confidence=0.97, ms={"model": 1.5})


def is_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    return dict(answer.json())


@pytest.fixture
async def asking(api: Any) -> Any:
    """The app with a desk around the dictionary and an analyst's key; `more` makes keys of other roles and businesses."""
    await api.service.queries.desk.close()
    api.translator = Dictionary()
    desk = QuestionDesk(api.service.settings, open_translator=lambda settings, engine: api.translator)
    api.service.queries.desk = desk

    async def key(role: str, business: str = "biz-1") -> dict[str, str]:
        return {"Authorization": f"Bearer {(await create_key(api.service.store, business, role, role)).token}"}

    api.key = key
    api.http.headers.update(await key("analyst"))
    return api


async def ask(api: Any, question: str, status: int = 200, headers: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    answer = await api.http.post(QUERY, json={"query": question, **more}, headers=headers)
    assert answer.status_code == status, answer.text
    return dict(answer.json())


async def test_a_question_gets_rows_a_sentence_and_links(asking: Any) -> None:
    answer = await asking.http.post(QUERY, json={"query": COUNT})
    found = QueryResponse.model_validate(answer.json())
    assert (found.refused, found.sql, found.interpretation) == (False, SQL[COUNT][0], "number of customers")
    assert found.results is not None
    assert (found.results.columns, found.results.kinds, found.results.data) == (["customers"], ["number"], [{"customers": 30}])
    assert "30" in str(found.answer)
    assert (found.confidence, found.source, found.model_version) == (0.97, "model", "text-to-sql/9")
    assert found.query_id in found.export_options[0].href
    assert found.related_queries
    stages = answer.headers["server-timing"]
    assert {"auth", "translate", "guard", "execute", "total"} <= {s.partition(";")[0] for s in stages.split(", ")}


async def test_rows_are_json_and_limited(asking: Any) -> None:
    found = await ask(asking, TOP, limit=2)
    assert found["results"]["truncated"] is True
    assert found["results"]["data"][0] == {"customer_id": "cust-0", "purchases": 8, "spend": 76.0}
    assert len(found["results"]["data"]) == found["results"]["total"] == 2
    whole = await ask(asking, TOP)
    assert (whole["results"]["truncated"], whole["results"]["total"]) == (False, 28)
    months = await ask(asking, DAYS)
    assert all(row["month"].endswith("T00:00:00Z") for row in months["results"]["data"])


async def test_the_tenant_is_the_keys_whatever_the_sql_says(asking: Any) -> None:
    other = await asking.key("admin", "biz-2")
    assert (await ask(asking, COUNT, headers=other))["results"]["data"] == [{"customers": 1}]
    refused = await ask(asking, "Everyone of the others")
    assert (refused["refused"], refused["reason"]) == (True, "hostile")
    is_problem(await asking.http.post(QUERY, json={"query": COUNT, "businessId": "biz-2"}), 403)
    nobody = is_problem(await asking.http.post(QUERY, json={"query": COUNT}, headers=await asking.key("analyst", "biz-3")), 503)
    assert "biz-1" not in nobody["detail"]


async def test_what_cannot_be_answered_is_refused_with_suggestions(asking: Any) -> None:
    for question, reason in (("What will the weather be?", "out_of_scope"), ("Break it", "unsupported"), ("\n \t", "empty")):
        found = await ask(asking, question)
        QueryResponse.model_validate(found)
        assert (found["refused"], found["reason"]) == (True, reason)
        assert found["message"]
        assert not {"sql", "results", "answer", "visualization"} & found.keys()
    assert (await ask(asking, "What will the weather be?"))["suggestions"] == [COUNT]


async def test_private_columns_are_for_those_who_may_see_them(asking: Any) -> None:
    assert (await ask(asking, EMAILS))["reason"] == "private"
    reader = await asking.key("private_reader")
    seen = await ask(asking, EMAILS, headers=reader)
    assert seen["results"]["columns"] == ["customer_id", "email"]
    assert (await ask(asking, EMAILS, headers=await asking.key("admin")))["refused"] is False
    # What one may see, another still may not export.
    is_problem(await asking.http.get(f"{QUERY}/{seen['queryId']}/export"), 422)
    assert (await asking.http.get(f"{QUERY}/{seen['queryId']}/export", headers=reader)).status_code == 200


async def test_bad_requests_are_problems(asking: Any) -> None:
    for body in ({}, {"query": ""}, {"query": 5}, {"query": "x" * 2001}, {"query": COUNT, "limit": 0}, {"query": COUNT, "limit": 1001},
                 {"query": COUNT, "limit": True}, {"query": COUNT, "more": 1}):  # fmt: skip
        is_problem(await asking.http.post(QUERY, json=body), 422)
    is_problem(await asking.http.post(QUERY, content=b"{", headers={"Content-Type": "application/json"}), 400)
    is_problem(await asking.http.post(QUERY, content=b"x", headers={"Content-Type": "text/plain"}), 415)
    for query in ({"limit": 0}, {"limit": 101}, {"offset": -1}, {"mine": "1"}):
        is_problem(await asking.http.get(f"{QUERY}/history", params=query), 422)
    app = await asking.key("app")
    for path in ("history", "templates", "saved", "corrections", "q-1/export", "q-1/chart.png"):
        assert "analyst" in is_problem(await asking.http.get(f"{QUERY}/{path}", headers=app), 403)["detail"]
    is_problem(await asking.http.post(QUERY, json={"query": COUNT}, headers=app), 403)
    is_problem(await asking.http.post(QUERY, json={"query": COUNT}, headers={"Authorization": "none"}), 401)


async def test_every_question_is_audited_and_no_row_is_kept(asking: Any) -> None:
    asked = [await ask(asking, TOP), await ask(asking, "Sing a song"), await ask(asking, COUNT)]
    asking.translator.fail = UpstreamTimeout("the model server took too long.")
    is_problem(await asking.http.post(QUERY, json={"query": COUNT}), 503)
    asking.translator.fail = ZeroDivisionError("secret detail")
    assert "secret" not in is_problem(await asking.http.post(QUERY, json={"query": COUNT}), 500)["detail"]
    page = QueryHistory.model_validate((await asking.http.get(f"{QUERY}/history")).json())
    assert [(i.outcome, i.reason) for i in page.items] == [
        ("failed", "internal"), ("failed", "upstream-timeout"), ("answered", None), ("refused", "out_of_scope"), ("answered", None),
    ]  # fmt: skip
    assert [i.query_id for i in page.items[2:]] == [a["queryId"] for a in reversed(asked)]
    first = page.items[-1]
    assert (first.query, first.sql, first.rows, first.model_version) == (TOP, SQL[TOP][0], 28, "text-to-sql/9")
    async with asking.service.store.reading() as connection:
        kept = str((await connection.execute(audit.select())).all())
    assert "cust-0" not in kept
    two = QueryHistory.model_validate((await asking.http.get(f"{QUERY}/history", params={"limit": 2, "offset": 1})).json())
    assert (two.items, two.total, two.next_offset) == (page.items[1:3], 5, 3)
    other = await asking.key("analyst")
    assert (await asking.http.get(f"{QUERY}/history", params={"mine": "true"}, headers=other)).json()["total"] == 0
    assert (await asking.http.get(f"{QUERY}/history", headers=await asking.key("analyst", "biz-2"))).json()["total"] == 0


async def test_no_trace_no_answer(asking: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(asked: object) -> None:
        raise UpstreamError("the operational database failed.")

    monkeypatch.setattr(asking.service.queries.questions, "record", down)
    is_problem(await asking.http.post(QUERY, json={"query": COUNT}), 503)


async def test_an_answer_as_csv_is_safe_to_open(asking: Any) -> None:
    found = await ask(asking, TOP, limit=1)
    answer = await asking.http.get(f"{QUERY}/{found['queryId']}/export", params={"format": "csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert f'filename="{found["queryId"]}.csv"' in answer.headers["content-disposition"]
    rows = list(csv.reader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert (rows[0], rows[1], len(rows)) == (["customer_id", "purchases", "spend"], ["cust-0", "8", "76.0"], 29)  # all rows, not one
    formulas = await ask(asking, "Formulas")
    text = (await asking.http.get(f"{QUERY}/{formulas['queryId']}/export")).text
    assert text.splitlines()[1] == "'=1+1,-5"


async def test_an_answer_as_pdf_and_as_picture(asking: Any) -> None:
    found = await ask(asking, TOP)
    answer = await asking.http.get(f"{QUERY}/{found['queryId']}/export", params={"format": "pdf"})
    assert (answer.headers["content-type"], answer.content[:5]) == ("application/pdf", b"%PDF-")
    assert "png" in [o["format"] for o in found["exportOptions"]]
    picture = await asking.http.get(f"{QUERY}/{found['queryId']}/chart.png")
    assert (picture.headers["content-type"], picture.content[:4]) == ("image/png", b"\x89PNG")
    direct = await asking.http.post(QUERY, json={"query": TOP}, headers={"Accept": "image/png"})
    assert (direct.status_code, direct.content[:4]) == (200, b"\x89PNG")
    assert direct.headers["x-query-id"].startswith("q-")
    one = await ask(asking, COUNT)
    assert "no chart" in is_problem(await asking.http.get(f"{QUERY}/{one['queryId']}/chart.png"), 406)["detail"]
    assert (
        "application/json"
        in is_problem(await asking.http.post(QUERY, json={"query": COUNT}, headers={"Accept": "image/png"}), 406)["detail"]
    )
    is_problem(await asking.http.post(QUERY, json={"query": "Sing"}, headers={"Accept": "image/png"}), 406)
    async with asking.service.store.reading() as connection:
        uses = [(r.action, r.outcome, r.row_count) for r in await connection.execute(audit.select()) if r.action != "ask"]
    assert uses == [("pdf", "answered", 28), ("chart", "answered", 28), ("chart", "refused", 1)]


async def test_what_has_no_answer_is_not_exported(asking: Any) -> None:
    refused = await ask(asking, "Sing a song")
    assert "was refused" in is_problem(await asking.http.get(f"{QUERY}/{refused['queryId']}/export"), 422)["detail"]
    is_problem(await asking.http.get(f"{QUERY}/q-none/export"), 404)
    found = await ask(asking, COUNT)
    is_problem(await asking.http.get(f"{QUERY}/{found['queryId']}/export", params={"format": "xml"}), 422)
    is_problem(await asking.http.get(f"{QUERY}/{found['queryId']}/export", headers=await asking.key("analyst", "biz-2")), 404)


async def test_templates_are_paged(asking: Any) -> None:
    whole = QueryTemplates.model_validate((await asking.http.get(f"{QUERY}/templates")).json())
    assert whole.total >= 50
    assert not any("{" in t.example for t in whole.items)
    assert whole.model_version == "text-to-sql/9"
    churn = (await asking.http.get(f"{QUERY}/templates", params={"category": "churn", "limit": 2})).json()
    assert {t["category"] for t in churn["items"]} == {"churn"}
    assert churn["nextOffset"] == 2


async def test_questions_are_kept_and_deleted(asking: Any) -> None:
    found = await ask(asking, COUNT)
    saved = await asking.http.post(f"{QUERY}/saved", json={"name": "Mine", "queryId": found["queryId"]})
    assert (saved.json()["query"], saved.json()["duplicate"]) == (COUNT, False)
    assert (await asking.http.post(f"{QUERY}/saved", json={"name": "Mine", "query": COUNT})).json()["duplicate"] is True
    is_problem(await asking.http.post(f"{QUERY}/saved", json={"name": "Mine", "query": TOP}), 409)
    is_problem(await asking.http.post(f"{QUERY}/saved", json={"name": "Mine", "queryId": "q-none"}), 404)
    for body in ({"name": "x"}, {"name": "x", "query": COUNT, "queryId": "q"}, {"name": "", "query": COUNT}, {"name": "x", "query": "\n"}):
        is_problem(await asking.http.post(f"{QUERY}/saved", json=body), 422)
    page = SavedQueries.model_validate((await asking.http.get(f"{QUERY}/saved")).json())
    assert [s.name for s in page.items] == ["Mine"]
    path = f"{QUERY}/saved/{page.items[0].saved_id}"
    is_problem(await asking.http.delete(path, headers=await asking.key("admin", "biz-2")), 404)
    assert (await asking.http.delete(path)).status_code == 204
    is_problem(await asking.http.delete(path), 404)


async def test_a_correction_answers_the_question_at_once(asking: Any) -> None:
    wrong = await ask(asking, "Who sings best?")
    path = f"{QUERY}/{wrong['queryId']}/feedback"
    better = "SELECT customer_id FROM customers ORDER BY 1 LIMIT 1"
    made = await asking.http.post(path, json={"correct": False, "correctedSql": better, "note": "the first one"})
    assert QueryFeedbackResponse.model_validate(made.json()).sql == better
    found = await ask(asking, "  who SINGS best ")
    assert (found["refused"], found["source"], found["results"]["data"]) == (False, "correction", [{"customer_id": "cust-0"}])
    assert (await ask(asking, "Who sings best?", headers=await asking.key("analyst", "biz-2")))["refused"] is True
    again = await asking.http.post(path, json={"correct": False, "correctedQuery": COUNT})
    assert again.json()["interpretation"] == "number of customers"
    assert (await ask(asking, "Who sings best?"))["results"]["data"] == [{"customers": 30}]
    page = QueryCorrections.model_validate((await asking.http.get(f"{QUERY}/corrections")).json())
    assert [(c.query, c.sql) for c in page.items] == [("Who sings best?", SQL[COUNT][0])]
    lines = await asking.http.get(f"{QUERY}/corrections", params={"format": "jsonl"})
    assert lines.text == f'{{"q":"Who sings best?","sql":"{SQL[COUNT][0]}"}}\n'
    gone = f"{QUERY}/corrections/{page.items[0].correction_id}"
    is_problem(await asking.http.delete(gone, headers=await asking.key("admin", "biz-2")), 404)
    assert (await asking.http.delete(gone)).status_code == 204
    is_problem(await asking.http.delete(gone), 404)
    assert (await ask(asking, "Who sings best?"))["refused"] is True


async def test_a_correction_survives_a_new_desk(asking: Any) -> None:
    wrong = await ask(asking, "Who sings best?")
    await asking.http.post(f"{QUERY}/{wrong['queryId']}/feedback", json={"correct": False, "correctedQuery": TOP})
    await asking.service.queries.desk.close()
    asking.service.queries.desk = QuestionDesk(asking.service.settings, open_translator=lambda settings, engine: asking.translator)
    found = await ask(asking, "Who sings best?")
    assert (found["source"], found["results"]["kinds"]) == ("correction", ["id", "number", "money"])


async def test_a_correction_answers_the_same_words_otherwise_put(asking: Any) -> None:
    """A translator without sentence vectors: the words decide."""
    wrong = await ask(asking, "Who sings best in Paris?")
    await asking.http.post(f"{QUERY}/{wrong['queryId']}/feedback", json={"correct": False, "correctedQuery": COUNT})
    assert (await ask(asking, "Please show me who sings best in Paris"))["source"] == "correction"
    assert (await ask(asking, "Who sings worst in Paris?"))["refused"] is True


async def test_a_correction_passes_the_guard(asking: Any) -> None:
    found = await ask(asking, COUNT)
    path = f"{QUERY}/{found['queryId']}/feedback"
    for sql, said in (
        ("DELETE FROM customers", "SELECT"), ("SELECT 1; SELECT 2", ""), ("SELECT email FROM customers", ""),
        ("SELECT nothing FROM customers", ""), ("SELECT * FROM read_csv('/etc/passwd')", ""), ("SELECT 1 WHERE 'x'::INTEGER = 1", "x"),
    ):  # fmt: skip
        problem = is_problem(await asking.http.post(path, json={"correct": False, "correctedSql": sql}), 422)
        assert said in problem["detail"], problem
    assert "was refused" in is_problem(await asking.http.post(path, json={"correct": False, "correctedQuery": "Sing"}), 422)["detail"]
    for body in ({}, {"correct": 1}, {"correct": True, "correctedSql": "SELECT 1"}, {"correct": False, "correctedSql": "SELECT 1",
                 "correctedQuery": COUNT}):  # fmt: skip
        is_problem(await asking.http.post(path, json=body), 422)
    is_problem(await asking.http.post(f"{QUERY}/q-none/feedback", json={"correct": True}), 404)
    assert (await asking.http.get(f"{QUERY}/corrections")).json()["total"] == 0
    fine = QueryFeedbackResponse.model_validate((await asking.http.post(path, json={"correct": True})).json())
    assert (fine.correct, fine.correction_id, fine.model_version) == (True, None, "text-to-sql/9")


async def test_without_a_model_the_answer_says_how_to_get_one(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(settings: object, engine: object) -> Any:
        raise ArtifactError("no text-to-sql model is deployed. Train one: regulars train text-to-sql")

    monkeypatch.setattr("ray_apps.deployments.questions._translator", absent)
    await api.service.queries.desk.close()
    api.service.queries.desk = QuestionDesk(api.service.settings)
    api.http.headers["Authorization"] = f"Bearer {api.keys['analyst']}"
    for _ in range(2):
        problem = is_problem(await api.http.post(QUERY, json={"query": COUNT}), 503)
        assert "regulars train text-to-sql" in problem["detail"]
    history = (await api.http.get(f"{QUERY}/history")).json()
    assert (history["items"][0]["outcome"], history["items"][0]["reason"], history["modelVersion"]) == ("failed", "artifact", "none")
    ready = (await api.http.get("/-/readyz")).json()
    assert (ready["ready"], ready["checks"]["questions"]) == (True, False)
    api.http.headers["Authorization"] = f"Bearer {api.keys['app']}"
    assert (await api.recommend())["recommendations"]


async def test_another_deployed_model_is_used_and_a_bad_one_is_not(asking: Any, caplog: pytest.LogCaptureFixture) -> None:
    desk = asking.service.queries.desk
    desk.tuning = replace_tuning(desk.tuning, look_s=1e-9)
    assert (await ask(asking, COUNT))["modelVersion"] == "text-to-sql/9"
    trained = home_model(Path(asking.home))
    trained.mkdir(parents=True)
    (trained / MODEL).write_text("{}")
    newer = Dictionary()
    newer.version = "text-to-sql/10"
    old, asking.translator = asking.translator, newer
    assert (await ask(asking, COUNT))["modelVersion"] == "text-to-sql/10"

    def broken(settings: object, engine: object) -> Any:
        raise ConfigError("the bundle is damaged")

    desk._open = broken
    (trained / MODEL).write_text("{ }")
    with caplog.at_level(logging.WARNING):
        assert (await ask(asking, COUNT))["modelVersion"] == "text-to-sql/10"
        assert (await ask(asking, COUNT))["modelVersion"] == "text-to-sql/10"
    assert caplog.text.count("the bundle is damaged") == 1
    assert "damaged" in str((await desk.status()).problem)
    assert old.version == "text-to-sql/9"


def replace_tuning(tuning: Any, **more: Any) -> Any:
    return tuning.model_copy(update=more)


async def test_a_damaged_warehouse_shows_no_path(asking: Any, caplog: pytest.LogCaptureFixture) -> None:
    await ask(asking, COUNT)
    for file in (Path(asking.home) / "warehouse").rglob("*.parquet"):
        file.unlink()
    desk = asking.service.queries.desk
    desk._engine.close()
    problem = is_problem(await asking.http.post(QUERY, json={"query": COUNT}), 503)
    assert problem["detail"] == "the warehouse cannot be read. Its operator finds the reason in the log."
    assert "parquet" in caplog.text


async def test_questions_are_counted(asking: Any) -> None:
    found = await ask(asking, COUNT)
    await ask(asking, "Sing")
    asking.translator.fail = Overloaded("full")
    answer = await asking.http.post(QUERY, json={"query": COUNT})
    assert answer.headers["retry-after"] == "1"
    await asking.http.post(f"{QUERY}/{found['queryId']}/feedback", json={"correct": True})
    text = (await asking.http.get("/metrics")).text
    for line in (
        'regulars_questions_total{outcome="answered",reason=""} 1.0',
        'regulars_questions_total{outcome="refused",reason="out_of_scope"} 1.0',
        'regulars_questions_total{outcome="failed",reason="overloaded"} 1.0',
        'regulars_question_stage_seconds_count{stage="translate"} 2.0',
        'regulars_question_feedback_total{verdict="correct"} 1.0',
    ):
        assert line in text


async def test_a_desk_that_does_not_answer_leaves_the_lists_alone(asking: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        async def status(self) -> Any:
            import asyncio

            await asyncio.sleep(60)

    monkeypatch.setattr("ray_apps.query_service.STATUS_DEADLINE_S", 0.01)
    queries = QueryService(asking.service.store, Slow(), asking.service.gate, asking.service.metrics)  # type: ignore[arg-type]
    assert not await queries.ready()


async def test_the_routes_are_documented(asking: Any) -> None:
    schema = (await asking.http.get("/openapi.json")).json()
    post = schema["paths"][QUERY]["post"]["responses"]
    assert set(post["200"]["content"]) == {"application/json", "image/png"}
    assert "refused: true" in post["200"]["description"]
    assert set(schema["paths"][QUERY + "/{query_id}/export"]["get"]["responses"]["200"]["content"]) == {"text/csv", "application/pdf"}
    assert set(schema["paths"][QUERY + "/saved/{saved_id}"]["delete"]["responses"]) == {"204", "401", "403", "404", "422", "503"}
    assert {"QueryRequest", "QueryResponse", "Results", "QueryCorrections"} <= set(schema["components"]["schemas"])


@pytest.mark.parametrize(
    ("accept", "picture"),
    [(None, False), ("image/png", True), ("application/json", False), ("image/png, application/json", False), ("*/*", False),
     ("image/png, */*;q=0.1", True), ("image/png;q=0.2, application/json", False), ("image/png;q=x", False), ("image/*", True)],
)  # fmt: skip
def test_accept_chooses_the_form(accept: str | None, picture: bool) -> None:
    assert wants_picture(accept) is picture


def test_a_model_is_named_like_the_others() -> None:
    class Named:
        version = "7"

    assert version_of(Named()) == "text-to-sql/7"
    assert version_of(object()) == "text-to-sql/unknown"
    assert version_of(Dictionary()) == "text-to-sql/9"
