"""What knows the future is caught, and what does not is let through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import duckdb
import numpy as np
import pytest

from contracts.errors import ArtifactError
from features import weekly
from training.sequence import data, guard
from training.sequence.data import Samples


@pytest.fixture(scope="module")
def cut_day(shop: duckdb.DuckDBPyConnection) -> int:
    return data.span(shop)[1] - 91


@pytest.fixture(scope="module")
def samples(shop: duckdb.DuckDBPyConnection, cut_day: int) -> Samples:
    """Of three as-of days, labels up to 91 days before the end of the tables."""
    return data.build(shop, [cut_day - 180, cut_day - 120, cut_day - 90], cut_day)


def with_static(samples: Samples, name: str, value: np.ndarray) -> Samples:
    statics = samples.statics.copy()
    statics[:, weekly.STATICS.index(name)] = value
    return replace(samples, statics=statics)


def test_honest_samples_pass_in_any_order(shop: duckdb.DuckDBPyConnection, samples: Samples, cut_day: int) -> None:
    guard.check(shop, cut_day, samples, most=150)
    guard.check(shop, cut_day, samples.take(np.random.default_rng(0).permutation(len(samples))), most=150)
    guard.check(shop, cut_day, samples.take(np.arange(0)))


def test_a_static_that_knows_whether_a_purchase_follows_is_caught(shop: duckdb.DuckDBPyConnection, samples: Samples, cut_day: int) -> None:
    planted = with_static(samples, "tenure", (samples.next_purchase_days < 90).astype(np.float32))
    with pytest.raises(ArtifactError, match=r"statics\.tenure of .* know what came later"):
        guard.check(shop, cut_day, planted)


def test_a_static_that_counts_a_week_too_many_is_caught(shop: duckdb.DuckDBPyConnection, samples: Samples, cut_day: int) -> None:
    late = data.build(shop, [cut_day - 83], cut_day, customers=samples.customers, history=_history(shop, samples, cut_day))
    one_day = samples.take(samples.as_of_day == cut_day - 90)
    shifted = late.take(np.isin(late.customer, one_day.customer))
    planted = replace(one_day, statics=shifted.statics)
    with pytest.raises(ArtifactError, match=r"statics\.purchases_30d"):
        guard.check(shop, cut_day, planted)


def _history(shop: duckdb.DuckDBPyConnection, samples: Samples, cut_day: int) -> weekly.DailyHistory:
    return weekly.read(shop, samples.customers, data.midnight(cut_day))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("weeks", lambda w: w + (np.arange(12) == weekly.ENGAGED), r"weeks\.engagement"),
        ("next_purchase_days", lambda d: np.minimum(d, 100.0), "next_purchase_days of"),
        ("monthly_spend", lambda s: s + 1.0, r"monthly_spend\[0\]"),
    ],
)
def test_weeks_and_labels_are_checked_too(
    shop: duckdb.DuckDBPyConnection, samples: Samples, cut_day: int, name: str, change: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    planted = replace(samples, **{name: change(getattr(samples, name))})
    with pytest.raises(ArtifactError, match=words):
        guard.check(shop, cut_day, planted)


def test_labels_that_reach_too_far_are_refused(shop: duckdb.DuckDBPyConnection, samples: Samples, cut_day: int) -> None:
    with pytest.raises(ArtifactError, match="labels reach to"):
        guard.check(shop, cut_day - 1, samples)


def test_purchases_after_the_cut_are_no_labels(shop: duckdb.DuckDBPyConnection, samples: Samples, cut_day: int) -> None:
    """Labels up to the end of the tables that say they end at the cut."""
    end = data.span(shop)[1]
    far = data.build(shop, [cut_day - 90], end)
    planted = replace(far, observed_days=np.full(len(far), 90, dtype=np.int32))
    with pytest.raises(ArtifactError, match=r"bought\[3\], .* know what came later"):
        guard.check(shop, cut_day, planted)


def test_customers_who_had_not_bought_yet_are_refused(shop: duckdb.DuckDBPyConnection, samples: Samples, cut_day: int) -> None:
    early = replace(samples, as_of_day=np.full(len(samples), cut_day - 250, dtype=np.int32))
    with pytest.raises(ArtifactError, match="had not bought by then"):
        guard.check(shop, cut_day, early)
