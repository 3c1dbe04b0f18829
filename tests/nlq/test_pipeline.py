"""From a question to an answer, over a real small warehouse: read, guarded, run, told; refused in the answer, never by an exception."""

from __future__ import annotations

import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import ArtifactError, ContractError, QueryRefused, UnknownItem, UpstreamTimeout
from nlq.corrections import Correction, Corrections
from nlq.execute import AskSettings, Engine
from nlq.pipeline import CORRECTION, MODEL, Answer, Asker, Limits
from nlq.templates import TEMPLATES, by_id, example, query
from nlq.types import OutputColumn, Rows, Translation

TIERS = example(by_id("customers-tiers"))


@pytest.fixture
def asker(by_heart: Any, small_engine: Engine) -> Asker:
    return Asker(by_heart, small_engine, currency="USD")


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: t.id)
def test_every_supported_question_is_answered(template, asker: Asker) -> None:
    answer = asker.ask(example(template), "biz-1")
    assert not answer.refused, answer.message
    assert answer.rows is not None
    assert answer.sentence
    assert answer.sentence.endswith(".")
    assert answer.sql == query(template)
    assert "biz-1" in (answer.executed_sql or "")
    assert [c.name for c in answer.columns] == list(answer.rows.columns)
    assert len(answer.related) == 3
    assert example(template) not in answer.related
    assert answer.source == MODEL
    assert {"translate", "guard", "execute", "answer", "chart", "total"} <= answer.ms.keys()


def test_the_answer_is_of_the_business_that_asks(asker: Asker, small_engine: Engine) -> None:
    question = example(by_id("value-top"))
    one, two = asker.ask(question, "biz-1"), asker.ask(question, "biz-2")
    assert one.rows != two.rows
    assert sum(n for _, n in asker.ask(TIERS, "biz-2").rows.data) == 60  # type: ignore[union-attr]


def test_declared_kinds_win_over_guessed_ones(told: Any, small_engine: Engine) -> None:
    sql = "SELECT membership_tier AS t, count(*) / 100.0 AS x FROM customers GROUP BY 1"
    columns = (OutputColumn("t", "category"), OutputColumn("x", "percent"))
    answer = Asker(told({"q": sql}, {"q": columns}), small_engine).ask("q", "biz-1")
    assert answer.columns == columns
    assert "%" in (answer.sentence or "")


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("", "empty"), (" \n\t", "empty"), ("x" * 501, "too_long"), ("tell me a joke", "out_of_scope"), ("\x00", "out_of_scope"),
        ("'; DROP TABLE customers; --", "out_of_scope"), ("🙈" * 100, "out_of_scope"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_with_suggestions(question: str, reason: str, asker: Asker) -> None:
    answer = asker.ask(question, "biz-1")
    assert (answer.refused, answer.reason) == (True, reason)
    assert answer.message
    assert (answer.sql, answer.rows, answer.sentence, answer.chart, answer.columns) == (None, None, None, None, ())
    assert len(answer.related) == 3
    assert "total" in answer.ms


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("DELETE FROM customers", "unsupported"),
        ("SELECT * FROM read_csv('/etc/passwd')", "unsupported"),
        ("SELECT email FROM customers", "private"),
        ("SELECT nothing FROM customers", "unsupported"),
        ("SELECT CAST(name AS INTEGER) AS n FROM customers", "unsupported"),
        ("not sql at all", "unsupported"),
    ],
)
def test_a_reading_that_may_not_run_is_refused(told: Any, sql: str, reason: str, small_engine: Engine) -> None:
    answer = Asker(told({"q": sql}), small_engine).ask("q", "biz-1")
    assert (answer.refused, answer.reason, answer.rows) == (True, reason, None)
    assert answer.message


def test_private_columns_are_for_those_who_may_see_them(told: Any, small_engine: Engine) -> None:
    asker = Asker(told({"q": "SELECT email FROM customers LIMIT 1"}), small_engine)
    assert asker.ask("q", "biz-1").reason == "private"
    assert not asker.ask("q", "biz-1", frozenset({"private_reader"})).refused


def test_limits(by_heart: Any, small_engine: Engine) -> None:
    asker = Asker(by_heart, small_engine, limits=Limits(rows=5, characters=80, suggestions=1))
    question = example(by_id("customers-points"), {}).replace("5000", "0")
    by_heart.known[question] = "SELECT customer_id FROM customers"
    answer = asker.ask(question, "biz-1")
    assert answer.rows is not None
    assert (len(answer.rows.data), answer.rows.truncated, len(answer.related)) == (5, True, 1)
    assert "there are more" in (answer.sentence or "")
    assert len(asker.ask(question, "biz-1", limit=2).rows.data) == 2  # type: ignore[union-attr]
    assert len(asker.ask(question, "biz-1", limit=99).rows.data) == 5  # type: ignore[union-attr]
    assert asker.ask("x" * 81, "biz-1").reason == "too_long"
    for wrong in ({"rows": 0}, {"characters": 0}, {"suggestions": -1}):
        with pytest.raises(ContractError, match="is not possible"):
            Limits(**wrong)


def test_a_correction_wins_over_the_model(by_heart: Any, small_engine: Engine) -> None:
    corrections = Corrections()
    asker = Asker(by_heart, small_engine, corrections)
    assert asker.ask(TIERS, "biz-1").source == MODEL
    corrections.add(Correction("c1", "biz-1", TIERS, "SELECT 42 AS customers FROM customers LIMIT 1"))
    by_heart.asked.clear()
    answer = asker.ask(TIERS.upper(), "biz-1")
    assert (answer.source, answer.confidence, answer.refused) == (CORRECTION, 1.0, False)
    assert answer.rows is not None
    assert answer.rows.data == ((42,),)
    assert by_heart.asked == []
    assert asker.ask(TIERS, "biz-2").source == MODEL
    corrections.remove("biz-1", "c1")
    assert asker.ask(TIERS, "biz-1").source == MODEL


def test_a_correction_passes_the_guard_and_one_that_cannot_run_is_left_to_the_model(by_heart: Any, small_engine: Engine) -> None:
    corrections = Corrections()
    asker = Asker(by_heart, small_engine, corrections)
    corrections.add(Correction("c1", "biz-1", TIERS, "SELECT gone FROM customers"))
    assert asker.ask(TIERS, "biz-1").source == MODEL
    corrections.add(Correction("c2", "biz-1", TIERS, "SELECT email FROM customers"))
    assert asker.ask(TIERS, "biz-1").reason == "private"


def test_a_translator_may_know_each_business(told: Any, small_engine: Engine) -> None:
    class Readers:
        def for_business(self, business_id: str) -> Any:
            known = {"biz-1": "SELECT 'one' AS name FROM customers LIMIT 1", "biz-2": "SELECT 'other' AS name FROM customers LIMIT 1"}
            return told({"who": known[business_id]})

    asker = Asker(Readers(), small_engine)
    assert [asker.ask("who", b).rows.data for b in ("biz-1", "biz-2")] == [(("one",),), (("other",),)]  # type: ignore[union-attr]


def test_fillers_of_related_questions_are_values_of_the_business(asker: Asker, small_engine: Engine) -> None:
    city = small_engine.run("SELECT DISTINCT split_part(location, ',', 1) FROM customers", "biz-1")
    answer = asker.ask("what is the average spend per customer in which city?", "biz-1")
    offered = [q for q in answer.related if q.startswith("What is the average spend per customer in")]
    assert offered
    assert offered[0].removesuffix("?").split(" in ")[1] in {row[0] for row in city.data}


class Broken:
    """An engine that always fails, or has no purchases."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def run(self, sql: str, business_id: str, limit: int | None = None) -> Rows:
        raise self.error

    def as_of(self, business_id: str) -> datetime:
        raise self.error


def test_what_is_no_fault_of_the_question_is_raised(by_heart: Any, small_engine: Engine) -> None:
    with pytest.raises(UpstreamTimeout):
        Asker(by_heart, Broken(UpstreamTimeout("late"))).ask(TIERS, "biz-1")
    with pytest.raises(UnknownItem):
        Asker(by_heart, small_engine).ask(TIERS, "biz-9")
    refused = Asker(by_heart, Broken(QueryRefused("too much", "too_large"))).ask(TIERS, "biz-1")
    assert (refused.reason, "too large" in (refused.message or "")) == ("unsupported", True)


def test_a_business_without_purchases_has_no_end_of_its_data(told: Any, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "customers.csv").write_text("customer_id,business_id,joined_at\na,b,2026-01-03\nc,b,2026-02-03\n", encoding="utf-8")
    sql = "SELECT date_trunc('month', joined_at) AS month, count(*) AS customers FROM customers GROUP BY 1"
    with Engine(folder, AskSettings()) as engine:
        with pytest.raises(ArtifactError):
            engine.as_of("b")
        answer = Asker(told({"q": sql}), engine).ask("q", "b")
    assert "customers went from 1 in Jan 2026 to 1 in Feb 2026, no change" in (answer.sentence or "").lower().replace("jan", "Jan").replace(
        "feb", "Feb"
    )


def test_many_threads_get_their_own_answers(asker: Asker) -> None:
    found: dict[tuple[int, str], Answer] = {}
    texts = [example(t) for t in TEMPLATES[:6]]

    def work(number: int) -> None:
        for text in texts:
            found[number, text] = asker.ask(text, f"biz-{number % 2 + 1}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        for text in texts:
            assert found[number, text].question == text
            assert found[number, text].business_id == f"biz-{number % 2 + 1}"
            assert sorted(map(str, found[number, text].rows.data)) == sorted(map(str, found[number % 2, text].rows.data))  # type: ignore[union-attr]


def test_a_refusal_keeps_what_the_model_said(small_engine: Engine) -> None:
    class Careful:
        def translate(self, question: str, *, roles: frozenset[str] = frozenset()) -> Translation:
            return Translation(
                question, True, "low_confidence", "Which month?", confidence=0.3, suggestions=("a?", "b?", "c?", "d?"), ms={"decode": 2.0}
            )

    answer = Asker(Careful(), small_engine).ask("revenue then", "biz-1")
    assert (answer.message, answer.related, answer.confidence, answer.ms["translate.decode"]) == (
        "Which month?",
        ("a?", "b?", "c?"),
        0.3,
        2.0,
    )
