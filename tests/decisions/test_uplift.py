"""The uplift learner on trials with a known effect."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import ArtifactError, ContractError, ShapeError
from decisions.qini import Trial
from decisions.uplift import UpliftModel, UpliftSettings, _ridge, effect_scores, fit

QUICK = UpliftSettings(splits=2, bags=4, folds=3)


def effect_of(x: np.ndarray) -> np.ndarray:
    return np.where(x[:, 0] > 0, 0.4, 0.0)


def trial(n: int, seed: int, differs: bool = True) -> tuple[np.ndarray, Trial]:
    """A trial in which a third is treated and the outcome depends more on the second feature than on the action."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.normal(size=(n, 3)), rng.integers(0, 2, size=n)])
    treatment = rng.random(n) < 1 / 3
    effect = effect_of(x) if differs else np.full(n, 0.2)
    outcome = 2.0 * x[:, 1] + x[:, 3] + effect * treatment + rng.normal(size=n)
    return x, Trial(treatment, outcome, np.full(n, 1 / 3))


@pytest.fixture(scope="module")
def fitted() -> UpliftModel:
    x, t = trial(6000, 1)
    return fit(x, t.treatment, t.outcome, t.propensity, ["a", "b", "c", "d"], settings=QUICK)


def test_it_finds_whom_the_action_moves_and_by_how_much(fitted: UpliftModel) -> None:
    x, _ = trial(5000, 2)
    effect = fitted.predict(x)
    assert effect.dtype == np.float32
    assert effect.shape == (5000,)
    moved, unmoved = effect[x[:, 0] > 0].mean(), effect[x[:, 0] <= 0].mean()
    assert moved - unmoved == pytest.approx(0.4, abs=0.2)
    assert abs(np.corrcoef(effect, x[:, 1])[0, 1]) < 0.3
    assert fitted.average.low < 0.2 < fitted.average.high


def test_where_nothing_differs_everyone_gets_nearly_the_average() -> None:
    x, t = trial(6000, 3, differs=False)
    model = fit(x, t.treatment, t.outcome, t.propensity, settings=QUICK)
    assert np.std(model.predict(x)) < 0.04
    assert model.predict(x).mean() == pytest.approx(model.average.value, abs=0.01)
    assert model.features == ("f0", "f1", "f2", "f3")


def test_scores_are_unbiased_whatever_the_outcome_models_say() -> None:
    x, t = trial(20_000, 4)
    scores = effect_scores(x, t, 2, 0)
    for rows in (x[:, 0] > 0, x[:, 0] <= 0):
        error = scores[rows].std() / np.sqrt(rows.sum())
        assert abs(scores[rows].mean() - effect_of(x[rows]).mean()) < 4 * error
    plain = t.outcome * (t.treatment * 3 - ~t.treatment * 1.5)
    assert scores.std() < 0.6 * plain.std()


def test_a_known_direction_is_kept() -> None:
    x, t = trial(3000, 5)
    model = fit(x, t.treatment, t.outcome, t.propensity, monotone=[-1, 0, 0, 0], settings=QUICK)
    low, high = x[:200].copy(), x[:200].copy()
    low[:, 0], high[:, 0] = -1.0, 1.0
    assert (model.raw(high) <= model.raw(low) + 1e-12).all()
    assert model.slopes[0] == 0.0


def test_the_ridge_without_penalty_is_least_squares() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(50, 3)) * [1, 10, 0.1] + 5
    y = rng.normal(size=50)
    intercept, slopes = _ridge(x, y, 0.0, None)
    assert np.append(intercept, slopes) == pytest.approx(np.linalg.lstsq(np.column_stack([np.ones(50), x]), y)[0])


def test_a_constant_column_changes_nothing(fitted: UpliftModel) -> None:
    x, t = trial(600, 7)
    with_constant = fit(np.column_stack([x, np.full(600, 3.0)]), t.treatment, t.outcome, t.propensity, settings=QUICK)
    assert np.isfinite(with_constant.raw(np.column_stack([x, np.full(600, 4.0)]))).all()
    assert with_constant.slopes[-1] == 0.0


def test_equal_seeds_give_equal_models_and_a_saved_one_predicts_the_same(tmp_path: Path, fitted: UpliftModel) -> None:
    x, t = trial(6000, 1)
    again = fit(x, t.treatment, t.outcome, t.propensity, ["a", "b", "c", "d"], settings=QUICK)
    fitted.save(tmp_path)
    loaded = UpliftModel.load(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.json"]
    for model in (again, loaded):
        np.testing.assert_array_equal(model.predict(x), fitted.predict(x))
    assert loaded.average == fitted.average


def test_a_damaged_file_is_refused(tmp_path: Path, fitted: UpliftModel) -> None:
    with pytest.raises(ArtifactError, match="cannot read"):
        UpliftModel.load(tmp_path)
    fitted.save(tmp_path)
    path = tmp_path / "model.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {"format": 0}))
    with pytest.raises(ArtifactError, match="has format 0"):
        UpliftModel.load(tmp_path)
    path.write_text(json.dumps(whole | {"body": whole["body"] | {"scale": 9.0}}))
    with pytest.raises(ArtifactError, match="checksum"):
        UpliftModel.load(tmp_path)
    path.write_text("[1")
    with pytest.raises(ArtifactError, match="cannot read"):
        UpliftModel.load(tmp_path)


def test_what_cannot_be_fitted_or_predicted_is_refused(fitted: UpliftModel) -> None:
    x, t = trial(100, 8)
    arrays = (t.treatment, t.outcome, t.propensity)
    with pytest.raises(ShapeError, match="X has 99 rows"):
        fit(x[:99], *arrays, settings=QUICK)
    with pytest.raises(ShapeError, match="X has shape"):
        fit(x[:, 0], *arrays, settings=QUICK)
    with pytest.raises(ContractError, match="monotone is"):
        fit(x, *arrays, monotone=[2, 0, 0, 0], settings=QUICK)
    with pytest.raises(ContractError, match="20 customers"):
        fit(x[:20], *(a[:20] for a in arrays), settings=QUICK)
    with pytest.raises(ContractError, match="control group"):
        fit(x, np.ones(100, dtype=bool), t.outcome, t.propensity, settings=QUICK)
    with pytest.raises(ShapeError, match="the model names"):
        fitted.predict(x[:, :2])
    with pytest.raises(ContractError, match="X must be finite"):
        fitted.predict(np.where(x > 0, np.nan, x))


def test_the_smallest_trial_can_be_fitted() -> None:
    x, t = trial(40, 9)
    t = replace(t, treatment=np.arange(40) % 3 == 0)
    assert np.isfinite(fit(x, t.treatment, t.outcome, t.propensity, settings=QUICK).predict(x)).all()
