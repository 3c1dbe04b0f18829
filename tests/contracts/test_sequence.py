"""From the sequence model's numbers to levels, dates and segments."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from contracts.sequence import LONGEST_DAYS, STEP_DAYS, days_until_churn, risk_levels
from contracts.tensors import STEP_COUNT

STEPS = st.lists(st.floats(0, 1, width=32), min_size=STEP_COUNT, max_size=STEP_COUNT)


def days_of_one(silent_by: list[float], recency: float) -> float:
    """The definition, for one customer."""
    left = max(90.0 - recency, 0.0)
    if left == 0.0:
        return 0.0
    when = [0.0, left, *(90 + STEP_DAYS * (k - 0.5) for k in range(1, STEP_COUNT))]
    cumulative = [0.0, *silent_by]
    for k, reached in enumerate(cumulative):
        if reached >= 0.5:
            share = (0.5 - cumulative[k - 1]) / max(reached - cumulative[k - 1], 1e-12)
            return left if k == 1 else min(when[k - 1] + (when[k] - when[k - 1]) * share, LONGEST_DAYS)
    survival = max(1.0 - cumulative[-1], 1e-12)
    hazard = 1.0 - (survival / max(1.0 - cumulative[1], 1e-12)) ** (1.0 / (STEP_COUNT - 1))
    return min(when[-1] + STEP_DAYS * np.log(survival / 0.5) / -np.log1p(-min(max(hazard, 1e-6), 1 - 1e-9)), LONGEST_DAYS)


@given(st.lists(st.tuples(STEPS, st.integers(0, 200)), min_size=1, max_size=8))
def test_days_until_churn_are_those_of_each_customer_alone(customers: list[tuple[list[float], int]]) -> None:
    curves = np.sort(np.array([c for c, _ in customers], np.float32), axis=1)
    recency = np.array([r for _, r in customers], float)
    expected = [days_of_one([float(x) for x in curve], r) for curve, r in zip(curves, recency, strict=True)]
    np.testing.assert_allclose(days_until_churn(curves, recency), expected, rtol=1e-9, atol=1e-6)


def test_somebody_silent_for_long_enough_has_churned() -> None:
    curve = np.full((3, STEP_COUNT), 0.9, np.float32)
    np.testing.assert_array_equal(days_until_churn(curve, np.array([90.0, 89.0, 10.0])), [0.0, 1.0, 80.0])


def test_no_customers_have_no_days() -> None:
    assert days_until_churn(np.zeros((0, STEP_COUNT), np.float32), np.zeros(0)).shape == (0,)


def test_a_level_begins_at_its_cut() -> None:
    np.testing.assert_array_equal(risk_levels(np.array([0.0, 0.39, 0.4, 0.6, 0.79, 0.8, 1.0])), [0, 0, 1, 2, 2, 3, 3])
