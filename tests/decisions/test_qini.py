"""Qini curves against a loop, on cases worked out by hand, and with a known truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from contracts.errors import ContractError, ShapeError
from decisions.qini import Trial, check, compare, curve, uplift_among_best


def trial(n: int = 4000, seed: int = 0, share: float = 0.5) -> tuple[np.ndarray, Trial]:
    """Features and a trial whose effect is 0.3 where the first feature is positive, else none."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    treatment = rng.random(n) < share
    chance = 0.2 + 0.3 * (treatment & (x[:, 0] > 0)) + 0.1 * (x[:, 1] > 0)
    return x, Trial(treatment, (rng.random(n) < chance).astype(float), np.full(n, share))


def test_the_curve_is_that_of_a_loop() -> None:
    x, t = trial(60, 1, 0.4)
    score = np.round(x[:, 0], 1)
    found = curve(score, t)
    gains = []
    for border in np.unique(score)[::-1]:
        best = score >= border
        treated, untreated = best & t.treatment, best & ~t.treatment
        matched = t.outcome[untreated].mean() * treated.sum() if untreated.any() else 0.0
        gains.append((best.mean(), (t.outcome[treated].sum() - matched) / 0.4 / 60))
    assert found.share[1:] == pytest.approx([share for share, _ in gains])
    assert found.gain[1:] == pytest.approx([gain for _, gain in gains])
    assert found.gain[0] == found.share[0] == 0.0


def test_a_constant_score_is_the_straight_line_and_its_negative_mirrors() -> None:
    x, t = trial()
    assert curve(np.zeros(4000), t).coefficient == pytest.approx(0.0, abs=1e-15)
    best, worst = curve((x[:, 0] > 0).astype(float), t), curve((x[:, 0] <= 0).astype(float), t)
    assert best.coefficient > 0.02
    assert worst.coefficient == pytest.approx(-best.coefficient, abs=0.003)
    assert best.auuc - best.coefficient == pytest.approx(best.gain[-1] / 2)


def test_the_perfect_score_has_the_known_area() -> None:
    """Half the customers have the effect e: the curve rises to e/2 at one half; area e/4/2 + e/4 less e/4 is e/8."""
    x, t = trial(200_000, 3)
    assert curve((x[:, 0] > 0).astype(float), t).coefficient == pytest.approx(0.3 / 8, abs=0.002)


def test_any_known_propensity_gives_the_same_area() -> None:
    """Those with the effect are treated in 8 of 10 cases, the others in 2: counted without weights the curve would bend."""
    rng = np.random.default_rng(5)
    x, _ = trial(200_000, 4)
    propensity = np.where(x[:, 0] > 0, 0.8, 0.2)
    treatment = rng.random(200_000) < propensity
    outcome = (rng.random(200_000) < 0.2 + 0.3 * (treatment & (x[:, 0] > 0))).astype(float)
    found = curve((x[:, 0] > 0).astype(float), Trial(treatment, outcome, propensity))
    assert found.coefficient == pytest.approx(0.3 / 8, abs=0.003)


def test_intervals_hold_the_truth_and_differences_are_paired() -> None:
    x, t = trial(8000, 6)
    good = (x[:, 0] > 0).astype(float)
    found = compare({"good": good, "noisy": good + x[:, 1] / 2, "random": x[:, 1] * 0}, t, resamples=200)
    assert found["qini"]["good"].low < 0.3 / 8 < found["qini"]["good"].high
    assert found["qini"]["good"].value == pytest.approx(curve(good, t).coefficient)
    apart = found["difference"]["good", "random"]
    assert apart.value == pytest.approx(found["qini"]["good"].value)
    assert apart.low > 0
    other = found["difference"]["random", "good"]
    assert (other.low, other.high) == pytest.approx((-apart.high, -apart.low))


def test_scores_of_different_folds_need_no_common_scale() -> None:
    x, t = trial(6000, 7)
    fold = np.arange(6000) % 3
    score = np.tanh(x[:, 0])
    plain = compare({"s": score}, t, fold, resamples=5)
    moved = compare({"s": score * (1 + fold) + 10 * fold}, t, fold, resamples=5)
    assert moved["qini"]["s"].value == pytest.approx(plain["qini"]["s"].value)


def test_the_best_share_shows_its_effect() -> None:
    x, t = trial(20_000, 8)
    best = uplift_among_best(x[:, 0], t, 0.3, resamples=200)
    assert best.low < 0.3 < best.high
    everyone = uplift_among_best(x[:, 0], t, 1.0, resamples=200)
    assert everyone.low < 0.15 < everyone.high < best.low


def test_what_is_no_trial_is_refused() -> None:
    x, t = trial(20, 9)
    with pytest.raises(ShapeError, match=r"must be \(20,\)"):
        check(t, x[:5, 0])
    with pytest.raises(ContractError, match="control group"):
        check(replace(t, treatment=np.ones(20, dtype=bool)))
    with pytest.raises(ContractError, match="strictly between"):
        check(replace(t, propensity=np.ones(20)))
    with pytest.raises(ContractError, match="finite"):
        curve(np.full(20, np.nan), t)
    with pytest.raises(ContractError, match="above 0"):
        uplift_among_best(x[:, 0], t, 0.0)
    with pytest.raises(ContractError, match="larger share"):
        uplift_among_best(np.arange(20.0), t, 0.05)
