"""Intervals of ratios: against a second computation, and by how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from decisions.statistics import Interval, _at_most, bernstein, group_sums, poisson_counts, standard_error, studentised


def terms(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.exponential(size=n), rng.uniform(0.5, 1.5, size=n)], axis=1)


def test_group_sums_add_up_and_rows_of_a_group_stay_together() -> None:
    columns = np.arange(8.0).reshape(4, 2)
    assert group_sums(columns, np.array(["b", "a", "b", "a"])).tolist() == [[8.0, 10.0], [4.0, 6.0]]
    assert group_sums(columns, None).tolist() == columns.tolist()


def test_the_standard_error_of_a_mean_is_the_usual_one() -> None:
    x = terms(50)[:, 0]
    assert standard_error(np.stack([x, np.ones(50)], axis=1)) == pytest.approx(x.std(ddof=1) / np.sqrt(50))


def test_poisson_counts_have_mean_and_variance_one() -> None:
    counts = poisson_counts(np.random.default_rng(0), 400, 1000)
    assert counts.mean() == pytest.approx(1.0, abs=0.01)
    assert counts.var() == pytest.approx(1.0, abs=0.01)


def test_the_studentised_interval_leans_to_the_long_tail() -> None:
    found = studentised(terms(60), 2000, 1)
    assert found.high - found.value > 1.1 * (found.value - found.low) > 0


def test_the_studentised_interval_holds_the_mean_of_a_skewed_variable() -> None:
    """Log-normal with a long tail, 100 observations: a normal interval holds the mean in some 86 of 100."""
    rng = np.random.default_rng(3)
    inside = normal = 0
    for run in range(200):
        x = np.exp(1.3 * rng.normal(size=100))
        pairs = np.stack([x, np.ones(100)], axis=1)
        found, error = studentised(pairs, 400, run), standard_error(pairs)
        inside += found.low <= np.exp(1.3**2 / 2) <= found.high
        normal += abs(x.mean() - np.exp(1.3**2 / 2)) <= 1.96 * error
    assert inside >= 180 > normal


def test_many_groups_are_put_together_without_changing_value_or_spread() -> None:
    many = terms(4000)
    fewer = _at_most(many, 500, 0)
    assert len(fewer) == 500
    assert fewer.sum(axis=0) == pytest.approx(many.sum(axis=0))
    assert standard_error(fewer) == pytest.approx(standard_error(many), rel=0.15)


def test_a_constant_has_no_width_and_three_events_have_no_upper_limit() -> None:
    constant = studentised(np.ones((20, 2)), 200, 0)
    assert (constant.low, constant.high) == (1.0, 1.0)
    rare = np.stack([np.arange(100) < 1, np.ones(100)], axis=1).astype(float)
    assert studentised(rare, 400, 0).high == np.inf


def test_bernstein_is_never_empty_and_shrinks_with_rows() -> None:
    none = np.stack([np.zeros(100), np.ones(100)], axis=1)
    assert 0 < bernstein(none, 1.0).high < 0.15
    assert bernstein(np.repeat(none, 10, axis=0), 1.0).high < bernstein(none, 1.0).high / 5


def test_an_interval_is_written_rounded() -> None:
    assert Interval(1 / 3, 0.0, 1.0).as_dict() == {"value": 0.333333, "low": 0.0, "high": 1.0}
