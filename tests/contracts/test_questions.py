"""The wire form of a question's operands: written and read back, and refused in every other form."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import ContractError
from contracts.questions import Operands, slots_from_json, slots_to_json

COUNTS = st.integers(0, 4)
GOOD = {"numbers": 1, "values": [["customers.location"]], "times": 1, "durations": [0]}


@given(COUNTS, st.lists(st.frozensets(st.text(max_size=5)), max_size=4), COUNTS, st.frozensets(COUNTS))
def test_operands_are_read_as_written(numbers, values, times, durations):
    text = slots_to_json(numbers, values, times, durations)
    assert slots_from_json(text) == Operands(numbers, tuple(tuple(sorted(v)) for v in values), times, tuple(sorted(durations)))


def test_the_same_operands_give_the_same_text():
    values = [{"b", "a", "c"}, ["x"]]
    assert slots_to_json(0, values, 2, {1, 0}) == slots_to_json(0, [["c", "b", "a"], {"x"}], 2, [0, 1])


def test_what_is_not_json_is_refused():
    with pytest.raises(ContractError, match="slots is not JSON"):
        slots_from_json("{")


@pytest.mark.parametrize(
    "other",
    [
        [], 7, {}, {**GOOD, "more": 1}, {**GOOD, "numbers": "1"}, {**GOOD, "numbers": -1}, {**GOOD, "times": True}, {**GOOD, "times": 1.0},
        {**GOOD, "values": "abc"}, {**GOOD, "values": ["abc"]}, {**GOOD, "values": [[1]]}, {**GOOD, "durations": 1},
        {**GOOD, "durations": [None]},
    ],
    ids=str,
)  # fmt: skip
def test_another_form_is_refused_and_shown(other):
    assert slots_from_json(json.dumps(GOOD)).numbers == 1
    with pytest.raises(ContractError, match="not of its form"):
        slots_from_json(json.dumps(other))
