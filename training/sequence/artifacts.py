"""The files of a finished run of the sequence model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from contracts.errors import ArtifactError
from contracts.sequence import Forecasting
from training.sequence.model import FactorsModel, ModelConfig, SequenceModel

RUN_FILES = ("checkpoint.pt", "model.json", "reference.npz", "forecast.json", "settings.json", "metrics.json")
"""What a finished run holds; `metrics.json` is written last."""


@dataclass(frozen=True)
class Trained:
    """The models of one run, in eval mode.

    Attributes:
        model: forecasts. factors: the same weights with exact attributions against the reference customer. forecasting: the record.
    """

    model: SequenceModel
    factors: FactorsModel
    forecasting: Forecasting


def save(folder: Path, trained: Trained, settings: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Write `RUN_FILES`."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(trained.model.state_dict(), folder / "checkpoint.pt")
    (folder / "model.json").write_text(json.dumps(trained.model.config.as_dict()), encoding="utf-8")
    reference = {"weeks": trained.factors.reference_weeks.numpy(), "statics": trained.factors.reference_statics.numpy()}
    np.savez(folder / "reference.npz", allow_pickle=False, **reference)
    (folder / "forecast.json").write_text(trained.forecasting.model_dump_json(), encoding="utf-8")
    (folder / "settings.json").write_text(json.dumps(dict(settings)), encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(dict(metrics)), encoding="utf-8")


def load(folder: Path) -> Trained:
    """The models of a run's files.

    Raises:
        ArtifactError: a file is missing, damaged or does not match another.
    """
    try:
        config = ModelConfig(**json.loads((folder / "model.json").read_text(encoding="utf-8")))
        model = SequenceModel(config)
        model.load_state_dict(torch.load(folder / "checkpoint.pt", weights_only=True, map_location="cpu"))
        with np.load(folder / "reference.npz", allow_pickle=False) as reference:
            factors = FactorsModel(model, torch.from_numpy(reference["weeks"]), torch.from_numpy(reference["statics"]))
        forecasting = Forecasting.model_validate_json((folder / "forecast.json").read_bytes())
    except Exception as exc:  # a damaged file raises whatever its bytes lead to: an unpickling error, EOFError, KeyError, ...
        why = str(exc).partition(". ")[0]  # torch goes on with advice to load it unsafely
        raise ArtifactError(f"cannot read the model in {folder}: {why}. Train again: regulars train sequence") from exc
    return Trained(model.eval(), factors.eval(), forecasting)
