"""The model that comes with the product, on questions it never saw: floors under what it reached, so that it cannot get worse unseen.

`python -m benchmarks.bench_questions` prints the figures themselves.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from nlq.calibrate import Judge, Outcome
from nlq.corpus.data import build
from nlq.translate import ARTIFACT
from nlq.vocabulary import fields

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    home = tmp_path_factory.mktemp("sample")
    build(home, customers=2000)
    return Judge(ARTIFACT, home / "warehouse")


@pytest.fixture(scope="module")
def questions(judge: Judge) -> list[Outcome]:
    return judge.of_file(DATA / "questions.jsonl", "test")


@pytest.fixture(scope="module")
def refusals(judge: Judge) -> list[Outcome]:
    return judge.of_file(DATA / "refusals.jsonl", "refusals")


def given(judge: Judge, outcomes: list[Outcome]) -> list[Outcome]:
    return [o for o in outcomes if o.answered and o.confidence >= judge.model.threshold]


def test_questions_of_somebody_else_are_read_right(questions: list[Outcome]) -> None:
    assert len(questions) == 120
    assert sum(o.answered and o.right for o in questions) >= 107


def test_answers_that_are_given_are_seldom_wrong(judge: Judge, questions: list[Outcome]) -> None:
    answers = given(judge, questions)
    assert len(answers) >= 90
    assert sum(not o.right for o in answers) <= 0.03 * len(answers)


def test_confidence_parts_right_from_wrong(questions: list[Outcome]) -> None:
    right = [o.confidence for o in questions if o.answered and o.right]
    wrong = [o.confidence for o in questions if o.answered and not o.right]
    pairs = [(r > w) + 0.5 * (r == w) for r in right for w in wrong]
    assert sum(pairs) / len(pairs) >= 0.75


def test_what_must_be_refused_is_refused(judge: Judge, refusals: list[Outcome]) -> None:
    assert len(refusals) >= 200
    # Private columns are refused for want of a role, whatever the confidence: tests/nlq/test_translate.py.
    answered = [o for o in given(judge, refusals) if not any(t in fields() and fields()[t].private for t in o.program.split())]
    assert len(answered) <= 0.01 * len(refusals), [o.question for o in answered]
