"""The scorecard: what it asks, what it counts, and that retrieval is a real peer."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import nlq.scorecard
from nlq.calibrate import Judge
from nlq.corpus.bank import Line, read
from nlq.scorecard import Question, Retrieval, foreign_questions, plain, questions_of, questions_of_bank, score
from nlq.translate import ARTIFACT

LINES = [
    Line(
        "how many gold members in {city}", "agg count customers ; ; eq customers.membership_tier =GOLD eq customers.location V0 end", "a:1"
    ),
    Line("how many members in {city}", "agg count customers ; ; eq customers.location V0 end", "a:2"),
    Line("list every store's revenue", "agg sum transactions.amount ; transactions.store end", "a:3"),
    Line("what is the weather tomorrow", "refuse end", "a:4"),
]


@pytest.fixture(scope="module")
def judge(small_home: Path) -> Judge:
    return Judge(ARTIFACT, small_home / "warehouse")


def test_questions_come_with_the_rows_of_each_right_query(judge: Judge, tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    lines = [
        {"q": "how many customers", "sql": "SELECT count(*) FROM customers"},
        {"q": "who", "sql": ["SELECT 1", "SELECT 2"], "set": "mine", "ordered": True},
        {"q": "drop it"},
    ]
    file.write_text("\n".join(json.dumps(line) for line in lines))
    one, two, three = questions_of(judge, file, "test")
    assert one == Question("how many customers", "test", ([(60,)],))
    assert (two.set, two.ordered, two.wanted) == ("mine", True, ([(1,)], [(2,)]))
    assert three.wanted == ()


def test_held_out_lines_are_asked_and_no_others(judge: Judge) -> None:
    found = questions_of_bank(judge, times=1)
    kept = [line for line in read() if nlq.scorecard.held_out(line)]
    assert 0.6 * len(kept) < len(found) <= len(kept)
    parts = ("held-out templates", "held-out refusals")
    assert {q.set for q in found} == {f"{part}{half}" for part in parts for half in ("", ", fitted on")}


def test_the_peer_finds_the_nearest_line_whose_slots_the_question_fills(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nlq.scorecard, "read", lambda: LINES)
    monkeypatch.setattr(nlq.scorecard, "held_out", lambda line: False)
    peer = Retrieval(judge)
    assert set(peer.programs) == {line.program for line in LINES}
    city = judge.connection.execute("SELECT location FROM customers LIMIT 1").fetchall()[0][0].split(",")[0]
    rows, near = peer.answer(f"number of members living in {city}")
    assert rows == [
        (judge.connection.execute("SELECT count(*) FROM customers WHERE location LIKE $c || '%'", {"c": city}).fetchall()[0][0],)
    ]
    assert 0.5 < near <= 1.001
    assert peer.answer("how is the weather going to be tomorrow")[0] is None
    table = score(judge, [Question(f"how many members in {city}", "s", ([(10**9,)],)), Question("weather tomorrow?", "r", ())], peer)
    by = {(row["set"], row["model"]): row for row in table}
    theirs = by["s", "nearest question (MiniLM)"]
    assert (theirs["accuracy"], theirs["answered"], theirs["wrong_of_answered"]) == (0.0, 1.0, 1.0)
    assert by["r", "nearest question (MiniLM)"]["refused"] == 1.0
    assert by["r", "regulars"]["questions"] == 1


def test_slots_become_words_the_sentence_encoder_knows(judge: Judge) -> None:
    city = judge.connection.execute("SELECT location FROM customers LIMIT 1").fetchall()[0][0]
    said = plain(judge.linker.link(f"top 5 customers of {city} last month"))
    assert said.startswith("top number customers of customers location")
    assert "[" not in said
    assert "period" in said


def test_foreign_questions_are_of_held_out_databases_and_must_be_refused(tmp_path: Path) -> None:
    names = [f"db_{i}" for i in range(40)]
    rows = [{"db_id": n, "question": f"How many singers of {n} are there, {i}?"} for n in names for i in range(9)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "questions_train.parquet")
    (tmp_path / "schemas.json").write_text(json.dumps([{"db_id": n} for n in names[:20]]))
    found = foreign_questions(tmp_path, each=4)
    databases = {n for n in names if any(f" {n} " in q.text for q in found)}
    assert 8 < len(databases) < 32
    assert len(found) == 4 * len(databases)
    assert {q.set for q in found} == {"Spider, shops", "Spider, other subjects"}
    assert not any(q.wanted for q in found)
    assert found == foreign_questions(tmp_path, each=4)


@pytest.mark.realdata
def test_questions_about_other_subjects_are_hardly_ever_answered(judge: Judge, realdata: Path) -> None:
    found = [q for q in foreign_questions(realdata / "spider_text_to_sql", each=1) if q.set == "Spider, other subjects"]
    assert len(found) > 30
    (row,) = score(judge, found)
    assert row["refused"] >= 0.85, row
