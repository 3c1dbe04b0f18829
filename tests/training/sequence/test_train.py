"""The run: recorded, complete, readable again."""

from __future__ import annotations

import json
import os
import signal
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from contracts.errors import ArtifactError
from contracts.paths import Home
from training.registry import Registry
from training.sequence import artifacts, module, train
from training.sequence.settings import SequenceSettings

from .test_fit import quiet, settings


@pytest.fixture(scope="module")
def result(shop_home: Path) -> train.TrainResult:
    return train.train_sequence(Home(shop_home), settings(), quiet())


def test_a_run_holds_its_files_and_its_record(result: train.TrainResult, shop_home: Path) -> None:
    registry = Registry(Home(shop_home))
    folder = registry.run_artifacts(result.run_id)
    assert set(artifacts.RUN_FILES) <= {f.name for f in folder.iterdir()}
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(result.metrics))
    tags = registry.client.get_run(result.run_id).data.tags
    assert {"data_version", "code_version", "as_of"} <= set(tags)
    assert not list((Home(shop_home).mlruns / "unfinished").iterdir())
    assert "AUC" in _shown(train.table(result.metrics))


def _shown(table: object) -> str:
    out = StringIO()
    Console(file=out, width=160).print(table)
    return out.getvalue()


def test_what_is_read_again_forecasts_the_same(result: train.TrainResult, shop_home: Path) -> None:
    trained = artifacts.load(Registry(Home(shop_home)).run_artifacts(result.run_id))
    weeks, statics = trained.factors.reference_weeks[None], trained.factors.reference_statics[None]
    with torch.no_grad():
        churn = trained.model(weeks, statics)[0]
        *_, impacts, reference = trained.factors(weeks, statics)
    assert float(reference[0, 0]) == pytest.approx(result.metrics["reference_churn"], abs=1e-5)
    assert float(churn[0, 2]) == pytest.approx(float(reference[0, 0]), abs=1e-6)
    assert float(impacts.abs().max()) < 1e-6
    record = trained.forecasting
    assert set(record.base_rates) == {"biz-1", ""}
    assert list(record.clv_cuts["biz-1"]) == sorted(record.clv_cuts["biz-1"])
    assert record.definition.silent_days == 90
    assert record.reference_statics == pytest.approx(trained.factors.reference_statics.tolist())
    assert 0 < record.ece < 1


def test_damaged_files_say_what_to_do(result: train.TrainResult, shop_home: Path, tmp_path: Path) -> None:
    folder = Registry(Home(shop_home)).run_artifacts(result.run_id)
    trained = artifacts.load(folder)
    artifacts.save(tmp_path, trained, {}, {})
    artifacts.load(tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"no weights")
    with pytest.raises(ArtifactError, match="Train again: regulars train sequence"):
        artifacts.load(tmp_path)


def test_ctrl_c_leaves_a_checkpoint_and_the_same_command_goes_on(shop_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, steps = settings(seed=8), [0]
    real = module.SequenceModule.training_step

    def step(self: module.SequenceModule, batch: module.Batch, batch_idx: int) -> torch.Tensor:
        steps[0] += 1
        if steps[0] == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, batch, batch_idx)

    monkeypatch.setattr(module.SequenceModule, "training_step", step)
    out = Console(file=StringIO(), width=300)
    with pytest.raises(KeyboardInterrupt):
        train.train_sequence(Home(shop_home), chosen, out)
    assert "Run the same command again" in out.file.getvalue()  # type: ignore[attr-defined]
    unfinished = Home(shop_home).mlruns / "unfinished"
    assert len(list(unfinished.rglob("last.ckpt"))) == 1
    assert train.train_sequence(Home(shop_home), chosen, quiet()).metrics["passes"] == 2
    assert not list(unfinished.iterdir())


def test_fresh_forgets_an_unfinished_run(shop_home: Path, tmp_path: Path) -> None:
    home, chosen = Home(shop_home), settings(seed=9)
    from warehouse.store import Warehouse

    folder = home.mlruns / "unfinished" / chosen.fingerprint(Warehouse(home.warehouse).data_version())
    (folder / "all").mkdir(parents=True)
    (folder / "all" / module.DONE).write_bytes(b"of another program")
    assert train.train_sequence(home, chosen, quiet(), fresh=True).run_id


def test_fingerprint_follows_what_decides_the_weights() -> None:
    one = SequenceSettings.load(environ={})
    assert one.fingerprint("a") == SequenceSettings.load(environ={}, threads=3).fingerprint("a")
    assert len({one.fingerprint("a"), one.fingerprint("b"), SequenceSettings.load(environ={}, hidden=16).fingerprint("a")}) == 3
    assert [one.epochs_for(n) for n in (1_000, 40_000, 80_000, 10**6)] == [10, 6, 3, 3]
    assert np.isfinite(one.learning_rate)


@pytest.mark.gpu
def test_on_a_gpu_it_learns_as_on_the_cpu(result: train.TrainResult, shop_home: Path) -> None:
    """bf16 on the device against float32 here: not the same weights, but as good a forecast."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    found = train.train_sequence(Home(shop_home), settings(accelerator="gpu"), quiet())
    assert found.metrics["slice"]["auc"] == pytest.approx(result.metrics["slice"]["auc"], abs=0.05)
