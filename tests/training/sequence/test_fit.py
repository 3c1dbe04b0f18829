"""Fitting a history: calibrated on a later slice, going on after an interruption, refusing what is too short."""

from __future__ import annotations

import threading
from io import StringIO
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch
from rich.console import Console

from contracts.errors import ArtifactError, ConfigError
from contracts.tensors import SEQUENCE, STATIC_COUNT
from features.weekly import STATICS
from training.recommender.fitting import LAST, Interrupted
from training.sequence import calibrate, data, fit, metrics, module
from training.sequence.fit import Fitted
from training.sequence.model import FactorsModel
from training.sequence.settings import SequenceSettings

QUICK: dict[str, Any] = {
    "hidden": 4,
    "width": 8,
    "members": 1,
    "epochs": 2,
    "batch_size": 128,
    "explained": 60,
    "prior": "on",
    "threads": 1,
}


def settings(**changes: Any) -> SequenceSettings:
    return SequenceSettings.load(environ={}, **{**QUICK, **changes})


def quiet() -> Console:
    return Console(file=StringIO())


@pytest.fixture(scope="module")
def day(shop: duckdb.DuckDBPyConnection) -> int:
    return data.span(shop)[1] - 91


@pytest.fixture(scope="module")
def fitted(shop: duckdb.DuckDBPyConnection, day: int) -> Fitted:
    return fit.fit_history(shop, day, settings(epochs=4), quiet())


def test_it_knows_more_than_chance_and_nothing_of_later(shop: duckdb.DuckDBPyConnection, day: int, fitted: Fitted) -> None:
    assert int((fitted.train.as_of_day + fitted.train.observed_days).max()) <= day
    assert int(fitted.now.observed_days.max()) == 0
    test = data.build(shop, [day], day + 91)
    rows = test.asked(90)
    outputs = fitted.predict(test, 3)
    assert metrics.auc(outputs["churn"][rows, 2], test.churned(90)[rows])(metrics.ones(int(rows.sum()))) > 0.6
    assert metrics.spearman(outputs["spend"][:, :3].sum(1), test.spent(91))(metrics.ones(len(test))) > 0.3
    assert {t.name for t in SEQUENCE.outputs} == set(outputs)


def test_the_slice_is_measured_on_customers_that_did_not_set_it(fitted: Fitted) -> None:
    report = fitted.slice_report
    assert 0 <= report["ece"] < 0.3
    assert 0.55 < report["coverage"] <= 1
    assert report["auc"] > 0.55
    assert report["amount_power"] == pytest.approx(min(calibrate.POWERS, key=lambda p: abs(p - report["amount_power"])), abs=1e-6)


def test_the_time_of_the_year_counts_only_after_a_year(fitted: Fitted, shop: duckdb.DuckDBPyConnection, day: int) -> None:
    assert not fitted.season  # 389 days
    statics = torch.zeros(2, STATIC_COUNT)
    statics[1, STATICS.index("year_sin")] = 0.1
    weeks = torch.zeros(2, 52, 12)
    with torch.no_grad():
        still = fitted.model.standardise(weeks, statics)[1]
    assert (still[0] - still[1]).abs().max() < 1e-5
    samples = data.build(shop, [day - 150, day - 30], day)
    with torch.no_grad():
        moving = fit.new_model(samples, settings(), season=True).standardise(weeks, statics)[1]
    assert (moving[0] - moving[1]).abs().max() > 1e-3  # the control


def test_interrupted_it_goes_on_to_the_same_weights(shop: duckdb.DuckDBPyConnection, day: int, tmp_path: Path) -> None:
    whole = fit.fit_history(shop, day, settings(), quiet(), tmp_path / "whole")
    stop = threading.Event()
    real, steps = module.SequenceModule.training_step, [0]

    def step(self: module.SequenceModule, batch: module.Batch, batch_idx: int) -> torch.Tensor:
        steps[0] += 1
        if steps[0] == 5:
            stop.set()
        return real(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.SequenceModule, "training_step", step)
        with pytest.raises(Interrupted):
            fit.fit_history(shop, day, settings(), quiet(), tmp_path / "cut", stop)
    assert (tmp_path / "cut" / "early" / LAST).is_file()
    resumed = fit.fit_history(shop, day, settings(), quiet(), tmp_path / "cut")
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    again = fit.fit_history(shop, day, settings(), quiet(), tmp_path / "cut")  # finished parts are taken as they are
    assert all(torch.equal(again.model.state_dict()[name], theirs[name]) for name in theirs)


def test_the_slice_chooses_the_prior(shop: duckdb.DuckDBPyConnection, day: int) -> None:
    out = StringIO()
    auto = fit.fit_history(shop, day, settings(prior="auto"), Console(file=out, width=200))
    assert "from the prior" in out.getvalue()
    assert "free" in out.getvalue()
    quality = [fit.fit_history(shop, day, settings(prior=p), quiet()).slice_report for p in ("on", "off")]
    best = max(quality, key=lambda r: r["rank_correlation"] + r["gini"])
    assert auto.slice_report["prior"] == best["prior"]


def test_a_short_history_is_trained_without_a_slice_and_a_shorter_one_refused(shop: duckdb.DuckDBPyConnection) -> None:
    begin = data.span(shop)[0]
    short = fit.fit_history(shop, begin + 100, settings(), quiet())
    assert short.slice_report == {}
    assert len(short.calibration) == 0
    with pytest.raises(ArtifactError, match=r"50 days of history lie before .* at least 58"):
        fit.fit_history(shop, begin + 50, settings(), quiet())


def test_quick_attributions_follow_the_exact_ones(fitted: Fitted) -> None:
    now = fitted.now
    factors = FactorsModel(fitted.model, torch.from_numpy(now.weeks.mean(0)), torch.from_numpy(now.statics.mean(0))).eval()
    agreement = fit.explain(fitted.model, factors, now, 300, seed=1)
    assert agreement > 0.4  # of eight factors
    with torch.no_grad():
        churn, *_, quick = fitted.model(torch.from_numpy(now.weeks), torch.from_numpy(now.statics))
    assert (quick.sum(1) - (churn[:, 2] - fitted.model.reference_churn)).abs().max() < 1e-5


def test_a_gpu_that_is_not_there_is_an_error(shop: duckdb.DuckDBPyConnection, day: int) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="no CUDA device"):
        fit.fit_history(shop, day, settings(accelerator="gpu"), quiet())


def test_weights_that_are_no_numbers_are_not_kept(
    shop: duckdb.DuckDBPyConnection, day: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.SequenceModule.training_step
    monkeypatch.setattr(module.SequenceModule, "training_step", lambda self, batch, number: real(self, batch, number) * float("nan"))
    with pytest.raises(ArtifactError, match="training diverged"):
        fit.fit_history(shop, day, settings(), quiet(), tmp_path)
    assert not list(tmp_path.rglob(module.DONE))


def test_batches_hold_every_sample_once_and_differ_by_pass(fitted: Fitted) -> None:
    loader = module.SampleLoader(fitted.train, settings(batch_size=64))
    first = torch.cat([b["statics"] for b in loader])
    loader.set_epoch(1)
    second = torch.cat([b["statics"] for b in loader])
    assert len(first) == len(loader) * 64
    assert not torch.equal(first, second)
    halves = [torch.cat([b["total"] for b in module.SampleLoader(fitted.train, settings(batch_size=64), r, 2)]) for r in (0, 1)]
    assert len(halves[0]) == len(halves[1])
    assert not torch.equal(*halves)


def test_platt_finds_the_slope_and_little_data_moves_it_little() -> None:
    rng = np.random.default_rng(3)
    z = rng.normal(0, 2, 20_000)
    label = rng.random(len(z)) < 1 / (1 + np.exp(-(0.5 * z + 0.3)))
    slope, intercept = calibrate.platt(z, label)
    assert slope == pytest.approx(0.5, abs=0.03)
    assert intercept == pytest.approx(0.3, abs=0.05)
    few, _ = calibrate.platt(z[:20], label[:20])
    assert abs(few - 1) < abs(calibrate.platt(z[:20], label[:20], prior=1.0)[0] - 1)


def test_an_interval_of_nobody_holds_no_share() -> None:
    assert np.isnan(calibrate.inside(np.zeros((0, 2)), np.zeros(0)))
