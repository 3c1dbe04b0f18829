"""The run: it learns, stops, goes on, records; better than popularity."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from contracts.bundle import Calibration
from contracts.errors import ArtifactError, ConfigError
from contracts.paths import Home
from features.definitions import KIND_COUNT
from training.recommender import calibrate, data, evaluate, train
from training.recommender.model import ModelConfig, TwoTower
from training.recommender.module import Recommender
from training.registry import RUN_FILES, Registry
from training.settings import TrainSettings

Embed = Callable[[list[str]], np.ndarray]


def small(settings: TrainSettings, **changes: Any) -> TrainSettings:
    return TrainSettings.load(environ={}, **{**settings.public(), **changes})


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int, act: Callable[[], None]) -> None:
    """Call `act` when so many training steps are done."""
    real, done = Recommender.training_step, [0]

    def step(self: Recommender, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        done[0] += 1
        if done[0] == steps:
            act()
        return real(self, batch, batch_idx)

    monkeypatch.setattr(Recommender, "training_step", step)


def test_it_beats_popularity_and_says_so(trained: train.TrainResult) -> None:
    lift = trained.metrics["lift"]["popularity"]
    assert lift["better"]
    assert lift["difference"]["low"] > 0
    assert lift["ratio"]["low"] > 1
    methods = trained.metrics["methods"]
    assert methods["two_tower"]["ndcg@10"]["low"] > methods["popularity"]["ndcg@10"]["high"]
    assert str(evaluate.table(trained.metrics).title).startswith("Test slice")


def test_an_interrupted_run_goes_on_exactly_as_if_nothing_had_happened(
    dataset: data.Dataset, settings: TrainSettings, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = small(settings, epochs=2)
    whole = train.fit(dataset, short, tmp_path / "whole", console)
    steps = len(data.BatchLoader(data.with_unknown(dataset.train, short.cold_share, short.seed), short.batch_size, shuffle=True))
    for name, at in (("first", 2), ("last of an epoch", steps), ("second", steps + 1)):
        stop = threading.Event()
        with monkeypatch.context() as patch:
            stop_after(patch, at, stop.set)
            with pytest.raises(train.Interrupted):
                train.fit(dataset, short, tmp_path / name, console, stop)
        again = train.fit(dataset, short, tmp_path / name, console)
        assert again.resumed
        assert [h["epoch"] for h in again.history] == [0.0, 1.0]
        assert again.history[-1]["val_ndcg"] == pytest.approx(whole.history[-1]["val_ndcg"], abs=1e-4)
        for key, value in whole.model.state_dict().items():
            torch.testing.assert_close(again.model.state_dict()[key], value, atol=1e-4, rtol=1e-3)


def test_ctrl_c_ends_with_a_checkpoint_and_the_next_run_takes_it_up(
    home: Home, settings: TrainSettings, embed: Embed, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, out = small(settings, epochs=1, seed=11), StringIO()
    with monkeypatch.context() as patch:
        stop_after(patch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            train.train_recommender(home, mine, embed, Console(file=out, width=200))
    assert "Run the same command again" in out.getvalue()
    assert len(list((home.mlruns / "unfinished").glob("*/last.ckpt"))) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    result = train.train_recommender(home, mine, embed, Console(file=out, width=200))
    assert "going on" in out.getvalue()
    assert result.metrics["training"]["resumed"]
    assert not list((home.mlruns / "unfinished").glob("*/last.ckpt"))


def test_it_can_learn_a_tiny_set_by_heart(dataset: data.Dataset, settings: TrainSettings, tmp_path: Path, console: Console) -> None:
    few = data.take(dataset.train, slice(0, 32))
    tiny = replace(dataset, train=few, validation=few)
    many = small(settings, epochs=60, patience=60, dropout=0.0, id_dropout=0.0, batch_size=32, learning_rate=0.01, width=32)
    fitted = train.fit(tiny, many, tmp_path, console)
    assert fitted.history[-1]["val_ndcg"] > 0.97
    assert fitted.history[-1]["train_loss"] < 0.25 * fitted.history[0]["train_loss"]


def test_sampled_softmax_learns_too(dataset: data.Dataset, settings: TrainSettings, tmp_path: Path, console: Console) -> None:
    fitted = train.fit(dataset, small(settings, full_softmax_items=1, extra_negatives=8, epochs=2), tmp_path, console)
    found = evaluate.evaluate(fitted.model, dataset, 100, 0)
    assert found["methods"]["two_tower"]["ndcg@10"]["value"] > found["methods"]["popularity"]["ndcg@10"]["value"]


class Turned:
    """Scores of a retrieval, as they are or turned round."""

    def __init__(self, model: TwoTower, dataset: data.Dataset, sign: float) -> None:
        c = dataset.catalogue
        self.model, self.sign = model, sign
        self.items = evaluate.item_vectors(model, c.item_ids, c.attributes, c.text_vectors)

    def scores(self, queries: data.Queries, index: np.ndarray) -> np.ndarray:
        return self.sign * (evaluate.user_vectors(self.model, data.take_index(queries, index)) @ self.items.T)


def test_the_served_order_is_that_of_what_serves(dataset: data.Dataset, settings: TrainSettings, tmp_path: Path, console: Console) -> None:
    model = train.fit(dataset, small(settings, epochs=1), tmp_path, console).model
    for sign, same in ((1.0, True), (-1.0, False)):
        found = evaluate.evaluate(model, dataset, 100, 0, Turned(model, dataset, sign))["methods"]
        assert (found["as_served"]["ndcg@10"] == found["two_tower"]["ndcg@10"]) is same
    assert "as_served" not in evaluate.evaluate(model, dataset, 100, 0)["methods"]


def test_a_run_records_all_that_an_export_needs(
    home: Home, trained: train.TrainResult, settings: TrainSettings, dataset: data.Dataset
) -> None:
    folder = Registry(home).run_artifacts(trained.run_id)
    assert set(RUN_FILES) <= {p.name for p in folder.iterdir()}
    model = train.load_model(folder)
    assert model.config.vocabulary == len(dataset.vocabulary)
    assert Calibration.model_validate_json((folder / "calibration.json").read_text()).ece < 0.15
    rewards = pq.read_table(folder / "rewards.parquet")
    assert rewards["reward_id"].to_pylist() == dataset.catalogue.table["reward_id"].to_pylist()
    assert 0 < max(rewards["redeemer_share"].to_pylist()) <= 1
    assert max(rewards["redemptions"].to_pylist()) > 10
    assert np.load(folder / "text_vectors.npy").shape == (len(dataset.catalogue), 384)
    assert json.loads((folder / "settings.json").read_text())["seed"] == settings.seed
    assert set(trained.metrics["methods"]) == {"two_tower", "as_served", "popularity", "recent_popularity"}
    run = Registry(home).client.get_run(trained.run_id)
    assert set(run.data.tags) >= {"data_version", "code_version", "as_of"}
    assert run.data.params["width"] == "16"
    points = Registry(home).client.get_metric_history(trained.run_id, "val_ndcg")
    assert [p.step for p in points] == list(range(trained.metrics["training"]["epochs"]))


def test_a_damaged_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="Train again"):
        train.load_model(tmp_path)


def test_a_gpu_that_is_not_there_is_refused(dataset: data.Dataset, settings: TrainSettings, tmp_path: Path, console: Console) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="no CUDA device"):
        train.fit(dataset, small(settings, accelerator="gpu"), tmp_path, console)


def test_candidates_on_the_device_equal_those_in_numpy(dataset: data.Dataset, settings: TrainSettings) -> None:
    config = ModelConfig(len(dataset.vocabulary), KIND_COUNT, 16, 2)
    module = Recommender(config, settings, dataset.catalogue, np.ones(len(dataset.catalogue)), 10)
    index = np.arange(len(dataset.train))
    batch = data.BatchLoader(dataset.train, len(index)).batch(index)
    expected = dataset.train.candidates(dataset.catalogue, index)
    np.testing.assert_array_equal(module.candidates(batch).numpy(), expected)
    rows = torch.tensor([0, 3, 11])
    np.testing.assert_array_equal(module.candidates(batch, rows).numpy(), expected[:, [0, 3, 11]])


def test_recent_counts_equal_a_slow_count(dataset: data.Dataset) -> None:
    recent, log = evaluate.RecentCounts(dataset), dataset.log
    for moment in dataset.test.as_of[:5]:
        end = moment // data.DAY_S * data.DAY_S
        mine = log.item[(log.time >= end - 30 * data.DAY_S) & (log.time < end)]
        np.testing.assert_array_equal(recent.before(np.array([moment]))[0], np.bincount(mine, minlength=len(dataset.catalogue)))


def test_logistic_fit_finds_the_weights_and_survives_separable_labels() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40_000, 2))
    y = (rng.random(40_000) < 1 / (1 + np.exp(-(x @ [2.0, -1.0] + 0.5)))).astype(float)
    np.testing.assert_allclose(calibrate.fit_logistic(x, y), [2.0, -1.0, 0.5], atol=0.1)
    assert np.isfinite(calibrate.fit_logistic(x, (x[:, 0] > 0).astype(float))).all()
    assert calibrate.fit_logistic(x, np.zeros(40_000))[-1] < -5


def test_shares_count_active_customers_once(connection: Any, dataset: data.Dataset) -> None:
    counts, share = calibrate.redeemer_shares(connection, dataset.catalogue, dataset.log, dataset.cuts.end)
    log, end = dataset.log, dataset.cuts.end[0]
    inside = (log.time < end) & (log.time >= end - 90 * data.DAY_S)
    assert counts[0] == (inside & (log.item == 0)).sum()
    people = calibrate.active_customers(connection, "biz-1", end).num_rows
    assert share[0] == pytest.approx(len(set(log.customer[inside & (log.item == 0)])) / people)


def test_the_horizon_fits_into_every_slice() -> None:
    day = data.DAY_S
    assert calibrate.common_horizon([0.0], [100 * day], 30) == 30
    assert calibrate.common_horizon([0.0, 0.0], [100 * day, 10 * day], 30) == 7
    assert calibrate.common_horizon([0.0], [day], 30) == 0.75


def test_calibration_needs_someone_active(connection: Any, dataset: data.Dataset, settings: TrainSettings, tmp_path: Path) -> None:
    far = data.Cuts(*(c + 1e9 for c in (dataset.cuts.begin, dataset.cuts.validation_from, dataset.cuts.test_from, dataset.cuts.end)))
    module = Recommender(
        ModelConfig(len(dataset.vocabulary), KIND_COUNT, 16, 2), settings, dataset.catalogue, np.ones(len(dataset.catalogue)), 10
    )
    with pytest.raises(ArtifactError, match="0 active customers"):
        calibrate.calibrate(connection, module.model, replace(dataset, cuts=far), settings)


@pytest.mark.gpu
def test_training_runs_in_mixed_precision_on_a_gpu(
    dataset: data.Dataset, settings: TrainSettings, tmp_path: Path, console: Console
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no NVIDIA GPU here; run on a GPU machine: make test-gpu")
    fitted = train.fit(dataset, small(settings, accelerator="gpu", epochs=3), tmp_path, console)
    assert fitted.history[-1]["train_loss"] < fitted.history[0]["train_loss"]
    assert all(torch.isfinite(p).all() for p in fitted.model.parameters())
