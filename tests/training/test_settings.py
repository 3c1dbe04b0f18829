from __future__ import annotations

import pytest

from contracts.errors import ConfigError
from training.settings import TrainSettings


def test_the_fingerprint_follows_what_decides_the_weights() -> None:
    plain = TrainSettings.load(environ={})
    assert plain.fingerprint("d1") == TrainSettings.load(environ={}, accelerator="cpu", threads=2).fingerprint("d1")
    assert plain.fingerprint("d1") != plain.fingerprint("d2")
    assert plain.fingerprint("d1") != TrainSettings.load(environ={}, seed=8).fingerprint("d1")


def test_a_mistyped_variable_is_refused() -> None:
    with pytest.raises(ConfigError, match="REGULARS_TRAIN_EPOCHS"):
        TrainSettings.load(environ={"REGULARS_TRAIN_EPOCH": "3"})


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="epochs"):
        TrainSettings.load(environ={}, epochs=0)
