"""The sequence model's bundle: its files, its golden customers, and what must hold between its two graphs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from contracts.bundle import read_manifest
from contracts.errors import ArtifactError
from contracts.sequence import FILES, Forecasting
from contracts.tensors import CHANNEL_COUNT, SEQUENCE, SEQUENCE_FACTORS, SEQUENCE_MODELS
from features.weekly import CHANNELS, STATICS
from training.export import bundle as bundle_module
from training.export import sequence
from training.export.bundle import build_bundle, check_bundle, read_golden
from training.export.parity import GOLDEN_ROWS, nudged, require

from .conftest import RECORD


def test_bundle_holds_what_the_contract_says(sequence_bundle, sequence_run):
    manifest = read_manifest(sequence_bundle.path)
    assert sequence_bundle.path.parts[-2:] == ("sequence", "3")
    assert set(manifest.files) == {f.name for f in sequence_bundle.path.iterdir()} - {"manifest.json"} == set(FILES)
    assert (manifest.model, manifest.version, manifest.as_of) == ("sequence", "3", RECORD.as_of)
    assert (manifest.settings, manifest.metrics) == ({"hidden": 8}, {"churn_90/auc": 0.8})
    assert Forecasting.model_validate_json((sequence_bundle.path / "forecast.json").read_bytes()) == sequence_run.trained.forecasting
    assert [h.model for h in sequence_bundle.hops if h.hop == "torch → onnx"] == list(SEQUENCE_MODELS)
    assert all(h.ok for h in sequence_bundle.hops)
    assert len(sequence_bundle.hops) == len(SEQUENCE_MODELS) + 3


def test_golden_customers_are_what_the_features_make_of_people():
    found = sequence.golden_histories()
    for tensor in SEQUENCE.inputs:
        tensor.check(found[tensor.name])
    weeks, statics = found["weeks"], found["statics"]
    assert len(weeks) == GOLDEN_ROWS
    assert not weeks[0].any(), "of the first one nothing is known"
    assert (weeks[1].min(), weeks[2].max()) == (sequence.EXTREME, -sequence.EXTREME)
    ordinary, known = weeks[3:], weeks[3:, :, CHANNELS.index("known")]
    assert 0.1 < (known == 0).mean() < 0.9, "some weeks lie before the customer was known"
    assert not ordinary[known == 0].any()
    assert (np.diff(known, axis=1) >= 0).all(), "known in the end, and for good"
    assert all(ordinary[..., channel].std() > 0.05 for channel in range(CHANNEL_COUNT))
    recency = np.expm1(statics[3:, STATICS.index("days_since_purchase")])
    assert recency.min() < 10
    assert recency.max() > 90
    again = sequence.golden_histories()
    assert all((again[name] == found[name]).all() for name in found)


def test_impacts_add_up_and_the_two_graphs_agree(sequence_bundle):
    golden = read_golden(sequence_bundle.path)
    moved = golden["churn"][:, -1] - golden["reference"][:, 0]
    assert np.abs(moved).max() > 0.01, "else it would be no proof"
    np.testing.assert_allclose(golden["impacts"].sum(-1), moved, atol=1e-5)
    np.testing.assert_allclose(golden["impact_estimates"].sum(-1), moved, atol=1e-5)


@pytest.mark.parametrize(
    ("side", "tensor", "message"),
    [
        ("explained", "impacts", "sequence_factors sum of impacts"),
        ("forecasts", "impact_estimates", "sequence sum of impact_estimates"),
        ("forecasts", "purchase_probability", "sequence → sequence_factors: purchase_probability"),
    ],
)
@pytest.mark.parametrize("wrong", [0.002, np.nan])
def test_outputs_that_do_not_fit_each_other_are_refused(sequence_bundle, side, tensor, message, wrong):
    golden = read_golden(sequence_bundle.path)
    sides = {
        "forecasts": {t.name: golden[t.name] for t in SEQUENCE.outputs},
        "explained": {t.name: golden[t.name] for t in SEQUENCE_FACTORS.outputs},
    }
    require(sequence.consistency(**sides))
    sides[side][tensor] = sides[side][tensor].copy()
    sides[side][tensor][5, 0] += wrong
    with pytest.raises(ArtifactError, match=message):
        require(sequence.consistency(**sides))


@pytest.mark.parametrize("part", ["model", "factors"])
def test_another_models_bundle_fails_parity(sequence_bundle, sequence_run, part):
    other = replace(sequence_run.trained, **{part: nudged(getattr(sequence_run.trained, part), "heads")})
    with pytest.raises(ArtifactError, match="parity failed"):
        check_bundle(sequence.SequenceRun(other), sequence_bundle.path)


def _another_reference(folder: Path) -> None:
    record = json.loads((folder / "forecast.json").read_text())
    record["reference_statics"][3] += 0.5
    (folder / "forecast.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "checkpoint.pt").unlink(), "cannot read the model"),
        (lambda f: (f / "forecast.json").write_text("{}"), "cannot read the model"),
        (lambda f: (f / "metrics.json").write_text("{"), r"cannot read the run's files.*regulars train sequence"),
        (_another_reference, r"reference customers .* differ by 0\.5"),
    ],
    ids=["no weights", "record", "metrics", "reference"],
)
def test_files_that_are_missing_or_do_not_belong_together_are_refused(
    sequence_bundle, sequence_artifacts, tmp_path, monkeypatch, harm: Callable[[Path], object], message
):
    folder = tmp_path / "artifacts"
    shutil.copytree(sequence_artifacts, folder)
    harm(folder)
    copy = lambda module, spec, path, metadata: shutil.copyfile(sequence_bundle.path / path.name, path)  # noqa: E731
    monkeypatch.setattr(bundle_module.onnx, "export", copy)
    with pytest.raises(ArtifactError, match=message):
        build_bundle(tmp_path / "models", folder, "1", RECORD, name="sequence")
    assert not (tmp_path / "models" / "sequence" / "1").exists()


def test_estimates_of_another_reference_are_refused(sequence_bundle, sequence_run, monkeypatch):
    """A model whose `reference_churn` was not set to its reference customer's: batches would not add up to what requests say."""
    trained = sequence_run.trained
    before = trained.model.reference_churn.clone()
    golden = read_golden(sequence_bundle.path)
    try:
        with torch.no_grad():
            trained.model.reference_churn += 0.05
        answers = bundle_module.make_golden(sequence_run)
    finally:
        trained.model.reference_churn.copy_(before)
    assert not sequence.consistency(answers, golden)[1].ok
