"""How sure to be: weights from outcomes, the threshold from what may be wrong, scores by set."""

from __future__ import annotations

import io
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import nlq.calibrate
from contracts.errors import QueryRefused
from nlq.calibrate import DEVELOPMENT, MOST_WRONG, Judge, Outcome, calibrate, fit_confidence, recalibrate, summary, threshold, unseen
from nlq.corpus.bank import Line
from nlq.decode import Hypothesis
from nlq.program import Slots
from nlq.translate import FEATURES, Model


def outcome(right: bool, *, answered: bool = True, must_refuse: bool = False, confidence: float = 0.5, **features: float) -> Outcome:
    made = dict.fromkeys(FEATURES, 0.0) | {"bias": 1.0} | features
    return Outcome("q", "development", must_refuse, answered, right, made, confidence, "agg count customers end")


def drawn(count: int = 4000) -> list[Outcome]:
    """Outcomes whose log odds of being right are 1 + 2 mass - unknown."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        mass, unknown = -float(rng.exponential(0.6)), float(rng.integers(0, 3))
        p = 1 / (1 + math.exp(-(1 + 2 * mass - unknown)))
        found.append(outcome(bool(rng.random() < p), mass=mass, unknown=unknown))
    return found


def test_weights_are_those_that_the_outcomes_were_drawn_with() -> None:
    found = fit_confidence(drawn())
    assert set(found) == set(FEATURES)
    assert found["bias"] == pytest.approx(1.0, abs=0.2)
    assert found["mass"] == pytest.approx(2.0, abs=0.3)
    assert found["unknown"] == pytest.approx(-1.0, abs=0.2)
    assert found["length"] == 0.0  # it never varied


def test_refusals_are_not_fitted_on() -> None:
    refused = [outcome(False, answered=False, mass=-9.0) for _ in range(500)]
    assert fit_confidence([*drawn(800), *refused]) == fit_confidence(drawn(800))


@pytest.mark.parametrize(("right", "sure"), [(True, True), (False, False)])
def test_outcomes_that_are_all_alike_give_a_constant(right: bool, sure: bool) -> None:
    found = fit_confidence([outcome(right, mass=-float(i)) for i in range(20)])
    assert {f for f, w in found.items() if w} == {"bias"}
    assert (found["bias"] > 0) is sure
    assert fit_confidence([outcome(False, answered=False)])["bias"] == 0.0


def test_the_threshold_answers_most_while_few_are_wrong() -> None:
    confidences = np.linspace(0.999, 0.001, 1000)
    right = [not (i == 100 or i > 800) for i in range(1000)]
    outcomes = [outcome(r) for r in right]
    limit = threshold(outcomes, confidences)
    given = confidences >= limit
    wrong = sum(not r for r, g in zip(right, given, strict=True) if g)
    assert wrong / given.sum() <= MOST_WRONG
    assert given.sum() > 800
    # one step further would be too many
    assert (wrong + 1) / (given.sum() + 1) > MOST_WRONG


def test_the_threshold_does_not_part_equal_confidences() -> None:
    """Half of those with one confidence are wrong, though the first of them in the list are right."""
    outcomes = [outcome(True)] * 60 + [outcome(True)] * 10 + [outcome(False)] * 10
    confidences = np.array([0.9] * 60 + [0.6] * 20)
    assert 0.6 < threshold(outcomes, confidences) <= 0.9


def test_when_the_surest_answers_are_wrong_none_is_given() -> None:
    outcomes = [outcome(False)] * 5 + [outcome(True)] * 5
    confidences = np.linspace(0.99, 0.5, 10)
    assert (confidences < threshold(outcomes, confidences)).all()
    assert threshold([outcome(False, answered=False)], np.array([0.9])) == 1.0


def test_what_the_model_refused_is_not_counted_as_given() -> None:
    outcomes = [outcome(True)] * 50 + [outcome(False, answered=False)] * 50
    confidences = np.array([0.5] * 50 + [0.99] * 50)
    assert threshold(outcomes, confidences) == 0.5


def test_a_summary_counts_questions_and_refusals_apart() -> None:
    outcomes = [
        outcome(True), outcome(True), outcome(False), outcome(False, answered=False),
        outcome(True, answered=False, must_refuse=True), outcome(False, must_refuse=True), outcome(False, must_refuse=True),
    ]  # fmt: skip
    confidences = np.array([0.9, 0.4, 0.8, 0.9, 0.9, 0.9, 0.4])
    found = summary(outcomes, confidences, 0.5)
    assert found == {"questions": 7, "accuracy": 0.5, "answered": 0.5, "wrong_of_answered": 0.5, "refused": 0.6667}
    assert "refused" not in summary(outcomes[:4], confidences[:4], 0.5)
    assert summary(outcomes[:1], confidences[:1], 0.95)["wrong_of_answered"] == 0.0


def test_the_bar_is_set_on_confidences_that_were_not_fitted_on_the_question() -> None:
    """An outcome that only its own presence could explain is not sure."""
    alike = [outcome(at % 2 == 0, mass=-float(at % 5)) for at in range(200)]
    odd = [*alike, outcome(True, unknown=3.0)]
    weights = fit_confidence(odd)
    fitted = 1 / (1 + math.exp(-(weights["bias"] + 3 * weights["unknown"])))
    assert unseen(odd, 5)[-1] < fitted
    assert len(unseen(odd, 5)) == len(odd)


# ---- on a warehouse, by a model


@pytest.fixture(scope="module")
def judge(tiny_folder: Path, small_home: Path) -> Judge:
    return Judge(tiny_folder, small_home / "warehouse")


class Always:
    """A decoder that always says the same."""

    def __init__(self, program: str) -> None:
        self.program = program

    def decode(self, ids: np.ndarray, mask: np.ndarray, slots: Slots, width: int) -> list[Hypothesis]:
        return [Hypothesis(tuple(self.program.split()), -0.1, -0.1, 0.9)]


def by(judge: Judge, program: str, monkeypatch: pytest.MonkeyPatch) -> Judge:
    monkeypatch.setattr(judge.translator, "_decoder", Always(program))
    return judge


def test_right_is_by_rows(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    by(judge, "agg count customers end", monkeypatch)
    right, wrong = judge.rows("SELECT 60"), judge.rows("SELECT 61")
    assert judge.outcome("how many", [right], "s").right
    assert not judge.outcome("how many", [wrong], "s").right
    assert judge.outcome("how many", [wrong, right], "s").right
    given = judge.outcome("how many", [], "s")
    assert (given.must_refuse, given.answered, given.right) == (True, True, False)
    hostile = judge.outcome("drop table customers", [], "s")
    assert (hostile.answered, hostile.right, hostile.program) == (False, True, "refuse")


def test_refusing_what_has_an_answer_is_not_right(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    by(judge, "refuse end", monkeypatch)
    found = judge.outcome("how many", [judge.rows("SELECT 60")], "s")
    assert (found.answered, found.right) == (False, False)
    assert judge.outcome("tell a joke", [], "s").right


def test_files_give_sets_and_several_references(judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by(judge, "agg count customers end", monkeypatch)
    lines = [
        {"q": "how many", "sql": "SELECT count(*) FROM customers", "set": "mine"},
        {"q": "count", "sql": ["SELECT 0", "SELECT count(*) FROM customers"]},
        {"q": "a joke"},
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    found = judge.of_file(tmp_path / "q.jsonl", "rest")
    assert [(o.set, o.must_refuse, o.right) for o in found] == [("mine", False, True), ("rest", False, True), ("rest", True, False)]


def test_of_the_bank_only_held_out_lines_are_judged(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    by(judge, "agg count customers end", monkeypatch)
    lines = [
        Line(f"points over {n}", f"agg count customers ; ; gt customers.points_balance #{n} end", f"a:{n}")
        for n in (0, 1, 2, 3, 4, 5, 10, 30, 60, 90, 100)
    ]
    lines += [Line("joke {n}", "refuse end", "a:99"), Line("misfit", "agg count customers ; ; gt customers.points_balance N0 end", "a:98")]
    monkeypatch.setattr(nlq.calibrate, "read", lambda: lines)
    monkeypatch.setattr(nlq.calibrate, "held_out", lambda line: line.where in ("a:0", "a:99", "a:98", "a:1"))
    monkeypatch.setattr(nlq.calibrate, "fitted_on", lambda line: line.where != "a:1")
    found = judge.of_bank(2)
    assert [o.question.split()[0] for o in found] == ["points", "points", "joke", "joke"]
    assert [o.must_refuse for o in found] == [False, False, True, True]


def test_development_questions_have_references_that_run(judge: Judge) -> None:
    """One in ten of them, on a small warehouse: the tables and columns are there."""
    lines = [json.loads(line) for line in DEVELOPMENT.read_text(encoding="utf-8").splitlines()]
    assert len(lines) > 500
    assert sum("sql" not in line for line in lines) > 100
    for line in lines[::10]:
        queries = line.get("sql", [])
        for sql in [queries] if isinstance(queries, str) else queries:
            judge.rows(sql)


def test_even_a_model_of_random_weights_is_calibrated(
    tiny_folder: Path, small_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = DEVELOPMENT.read_text(encoding="utf-8").splitlines()[::60]
    (tmp_path / "few.jsonl").write_text("\n".join(few))
    monkeypatch.setattr(nlq.calibrate, "DEVELOPMENT", tmp_path / "few.jsonl")
    monkeypatch.setattr(nlq.calibrate, "read", lambda: [])
    shown = io.StringIO()
    found = calibrate(tiny_folder, small_home / "warehouse", Console(file=shown))
    assert set(found) == {"calibration", "threshold", "scores"}
    assert set(found["calibration"]) == set(FEATURES)
    assert sum(row["questions"] for row in found["scores"].values()) == len(few)
    assert "development" in shown.getvalue()


def test_a_model_is_calibrated_again_in_its_folder(
    tiny_folder: Path, small_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    found = {"calibration": {"bias": 0.25}, "threshold": 0.5, "scores": {"development": {"questions": 2}}}
    monkeypatch.setattr(nlq.calibrate, "calibrate", lambda *_: found)
    monkeypatch.setattr("nlq.train.card", lambda info: f"below {info['threshold']}")
    recalibrate(folder, small_home / "warehouse", Console(file=io.StringIO()))
    model = Model.read(folder)  # its files are still those of the checksums
    assert (model.threshold, dict(model.calibration), model.record["scores"]) == (0.5, {"bias": 0.25}, found["scores"])
    assert (folder / "MODEL_CARD.md").read_text() == "below 0.5"


def test_what_cannot_be_run_is_refused_as_the_engine_does(judge: Judge) -> None:
    assert judge.run("SELECT 1").data == ((1,),)
    with pytest.raises(QueryRefused, match="cannot be run"):
        judge.run("SELECT nothing")
