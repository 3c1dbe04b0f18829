"""What the model server checks before it decodes, and what it answers with; tests/serving/test_text_to_sql.py asks it for real."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import ContractError, UpstreamError
from contracts.questions import slots_to_json
from nlq.decode import Hypothesis
from nlq.program import Slots
from nlq.served import check_question, from_outputs, read_slots, to_outputs, written

ROOT = Path(__file__).resolve().parents[2]
ONES = np.ones(5, np.int64)
FOUND = [Hypothesis(("list", "customers", "end"), -0.5, -0.75, 0.25), Hypothesis(("refuse", "end"), -2.0, -3.0, 0.125)]


def test_slots_come_back_as_they_were():
    for slots in (Slots(), Slots(4, (frozenset({"customers.location", "products.name"}), frozenset()), 3, frozenset({0, 2}))):
        assert read_slots(written(slots)) == slots


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (slots_to_json(5, [], 0, []), "5 numbers, at most 4"),
        (slots_to_json(0, [[]] * 5, 0, []), "5 values, at most 4"),
        (slots_to_json(0, [], 4, []), "4 times, at most 3"),
        (slots_to_json(0, [["customers.location", "customers.hat"]], 0, []), r"names customers\.hat, which is no column"),
        (slots_to_json(0, [], 1, [1]), "time 1 is a duration, but it has 1 times"),
    ],
)
def test_operands_that_programs_cannot_name_are_refused(text, message):
    with pytest.raises(ContractError, match=message):
        read_slots(text)


@pytest.mark.parametrize(
    ("ids", "mask", "width", "message"),
    [
        (ONES[:1], ONES[:1], 4, "ids has shape"),
        (np.ones(97), np.ones(97), 4, "2 to 96"),
        (ONES[None], ONES[None], 4, "ids has shape"),
        (ONES, ONES[:4], 4, "mask has shape"),
        (ONES, ONES * 2, 4, "mask has shape"),
        (ONES, ONES * 0, 4, "mask has shape"),
        (ONES, ONES, 0, "width is 0"),
        (ONES, ONES, 17, "width is 17"),
    ],
)
def test_a_question_that_cannot_be_decoded_is_refused(ids, mask, width, message):
    check_question(ONES, ONES, 16)
    with pytest.raises(ContractError, match=message):
        check_question(ids, mask, width)


def test_outputs_hold_the_hypotheses():
    programs, scores = to_outputs(FOUND)
    assert (scores.dtype, scores.shape) == (np.float32, (2, 3))
    assert from_outputs(programs, scores) == FOUND


@pytest.mark.parametrize(
    ("programs", "scores"),
    [
        ([], np.zeros((0, 3))),
        (["refuse end"], np.zeros((2, 3))),
        (["refuse end"], np.zeros((1, 2))),
        (["refuse end"], np.full((1, 3), np.nan)),
    ],
)
def test_outputs_that_are_none_are_refused(programs, scores):
    with pytest.raises(UpstreamError, match="N >= 1 finite rows of 3"):
        from_outputs(programs, scores)


def test_it_needs_only_what_the_model_server_has():
    """Its environment is made from triton-requirements.txt: no torch, no pyarrow, no tokenizers, none of our other packages."""
    code = "import sys, nlq.served; print(sorted({m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert {name for name in eval(done.stdout) if name[0] != "_"} <= {"nlq", "contracts", "numpy", "google", "sitecustomize"}  # noqa: S307
