"""Interrupted between two epochs, and artifacts whose bytes are not what they were."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from contracts.errors import ArtifactError
from training.recommender import fitting
from training.recommender.data import Dataset
from training.recommender.module import Recommender
from training.recommender.next_offer import load_offer_model
from training.recommender.ranker import Ranker, load_ranker, save_ranker
from training.recommender.train import load_model
from training.settings import TrainSettings


def test_asked_during_validation_it_ends_with_the_epoch_and_goes_on_with_the_next(
    dataset: Dataset, settings: TrainSettings, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = TrainSettings.load(environ={}, **{**settings.public(), "epochs": 2})
    stop, real = threading.Event(), Recommender.on_validation_epoch_start

    def ask(self: Recommender) -> None:
        stop.set()
        real(self)

    with monkeypatch.context() as patch:
        patch.setattr(Recommender, "on_validation_epoch_start", ask)
        with pytest.raises(fitting.Interrupted):
            fitting.fit(dataset, short, tmp_path / "stopped", console, stop)
    again = fitting.fit(dataset, short, tmp_path / "stopped", console)
    whole = fitting.fit(dataset, short, tmp_path / "whole", console)
    assert again.resumed
    assert [h["epoch"] for h in again.history] == [0.0, 1.0]
    assert again.history[-1]["val_ndcg"] == pytest.approx(whole.history[-1]["val_ndcg"], abs=1e-4)


def test_the_other_processes_of_a_run_end_after_the_training(
    dataset: Dataset, settings: TrainSettings, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = SimpleNamespace(fit=lambda *a, **k: None, is_global_zero=False)
    monkeypatch.setattr(fitting, "_prepare", lambda *a: (other, None, None, ()))
    with pytest.raises(SystemExit) as ended:
        fitting.fit(dataset, settings, tmp_path, console)
    assert ended.value.code == 0


LOADERS: list[tuple[Callable[[Path], object], str, str]] = [
    (load_model, "model.json", "checkpoint.pt"),
    (load_ranker, "ranker.json", "ranker.pt"),
    (load_offer_model, "next_offer.json", "next_offer.pt"),
]


@pytest.mark.parametrize(("load", "config", "weights"), LOADERS, ids=["towers", "ranker", "next offer"])
@pytest.mark.parametrize(
    "content", [b"", b"x", b"PK\x03\x04", b"\x80\x02}q\x00.", b"\x80\x04\x95"], ids=["empty", "text", "zip", "other", "cut"]
)
def test_damaged_weights_are_refused(
    load: Callable[[Path], object], config: str, weights: str, content: bytes, tmp_path: Path, settings: TrainSettings
) -> None:
    """Whatever the bytes are; the configuration is one that can be read."""
    save_ranker(Ranker.empty(settings), tmp_path)
    plain = {"model.json": '{"vocabulary": 9, "kinds": 20, "width": 16, "heads": 2}', "next_offer.json": "{}"}
    if config in plain:
        (tmp_path / config).write_text(plain[config])
    (tmp_path / weights).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"cannot read .* Train again") as refused:
        load(tmp_path)
    assert "weights_only" not in str(refused.value)  # no advice to load it unsafely


def test_weights_of_another_size_are_refused(tmp_path: Path, settings: TrainSettings) -> None:
    save_ranker(Ranker.empty(settings), tmp_path)
    assert isinstance(load_ranker(tmp_path), Ranker)  # the control: as they are they can be read
    torch.save({"heads.weight": torch.zeros(1)}, tmp_path / "ranker.pt")
    with pytest.raises(ArtifactError, match="cannot read the ranker"):
        load_ranker(tmp_path)
