"""From a run's files to a bundle: whole or not there, and refused when the files do not belong together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from contracts.bundle import BUNDLES, FILES, MODEL_NAME, read_manifest
from contracts.errors import ArtifactError
from contracts.tensors import MODELS
from training.export import bundle as bundle_module
from training.export.bundle import RECIPES, build_bundle, check_bundle, read_golden
from training.export.onnx import run_torch

from .conftest import RECORD, REWARD_COUNT


def test_bundle_holds_what_the_contract_says(bundle):
    manifest = read_manifest(bundle.path)
    assert bundle.path.parts[-2:] == (MODEL_NAME, "1")
    assert set(manifest.files) == {f.name for f in bundle.path.iterdir()} - {"manifest.json"}
    assert set(manifest.files) == set(FILES)
    assert (manifest.model, manifest.version, manifest.data_version, manifest.code_version) == (MODEL_NAME, "1", "data-1", "code-1")
    assert manifest.settings == {"width": 32}
    assert manifest.metrics == {"ndcg@10": 0.5}
    assert [h.model for h in bundle.hops] == list(MODELS)
    assert not [p for p in bundle.path.parent.iterdir() if p.name.startswith(".")], "no stage is left"
    assert bundle.path.stat().st_mode & 0o755 == 0o755


def test_every_bundle_has_a_recipe():
    assert set(RECIPES) == set(BUNDLES)


@pytest.fixture
def exported_before(bundle, monkeypatch) -> None:
    """The exporter copies what it made before: seconds less, and the same files."""
    copy = lambda module, spec, path, metadata: shutil.copyfile(bundle.path / path.name, path)  # noqa: E731
    monkeypatch.setattr(bundle_module.onnx, "export", copy)


@pytest.mark.usefixtures("exported_before")
def test_a_whole_bundle_is_kept_and_a_damaged_one_made_again(bundle, artifacts, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(bundle.path.parent, models / MODEL_NAME)
    again = build_bundle(models, artifacts, "1", RECORD)
    assert again.reused
    assert [h.ok for h in again.hops] == [True] * len(MODELS)
    (models / MODEL_NAME / "1" / "user_tower.onnx").write_bytes(b"damaged")
    assert not build_bundle(models, artifacts, "1", RECORD).reused
    read_manifest(models / MODEL_NAME / "1")


@pytest.mark.usefixtures("exported_before")
def test_a_failed_build_leaves_nothing(artifacts, tmp_path, monkeypatch):
    def refuse(*_):
        raise ArtifactError("parity failed")

    monkeypatch.setattr(bundle_module.parity, "require", refuse)
    with pytest.raises(ArtifactError, match="parity failed"):
        build_bundle(tmp_path, artifacts, "1", RECORD)
    assert list((tmp_path / MODEL_NAME).iterdir()) == []


def test_golden_rows_go_through_the_whole_chain(bundle, trained):
    golden = read_golden(bundle.path)
    for spec, module in trained.served().values():
        found = run_torch(module, spec, {t.name: golden[t.name] for t in spec.inputs})
        for tensor in spec.outputs:
            np.testing.assert_allclose(found[tensor.name], golden[tensor.name], atol=1e-6)
    assert np.abs(golden["pair_features"]).max() == 10.0


@pytest.mark.parametrize("part", ["towers", "ranker", "offers"])
def test_another_models_bundle_fails_parity(bundle, trained, part):
    from training.export.parity import nudged

    with pytest.raises(ArtifactError, match="parity failed"):
        check_bundle(replace(trained, **{part: nudged(getattr(trained, part))}), bundle.path)


@pytest.mark.usefixtures("exported_before")
def test_a_bundle_of_fewer_files_is_made_again(bundle, artifacts, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(bundle.path.parent, models / MODEL_NAME)
    path = models / MODEL_NAME / "1" / "manifest.json"
    record = json.loads(path.read_text())
    del record["files"]["ranking.json"]
    path.write_text(json.dumps(record))
    assert not build_bundle(models, artifacts, "1", RECORD).reused


def test_golden_rows_that_are_missing_are_an_artifact_error(tmp_path):
    folder = tmp_path / MODEL_NAME / "1"
    with pytest.raises(ArtifactError, match=r"golden\.npz"):
        read_golden(folder)
    folder.mkdir(parents=True)
    np.savez(folder / "golden.npz", features=np.zeros(3))
    with pytest.raises(ArtifactError, match=r"golden\.npz"):
        read_golden(folder)


def _drop_column(folder: Path) -> None:
    table = pq.read_table(folder / "rewards.parquet")
    pq.write_table(table.drop_columns(["redeemer_share"]), folder / "rewards.parquet")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "checkpoint.pt").unlink(), "cannot read"),
        (lambda f: (f / "calibration.json").write_text("{}"), "cannot read the run's files"),
        (lambda f: (f / "ranker.pt").unlink(), "cannot read the ranker"),
        (lambda f: (f / "next_offer.json").write_text("[]"), "cannot read the next-offer model"),
        (lambda f: (f / "ranking.json").write_text("{}"), "cannot read the run's files"),
        (lambda f: (f / "item_stats.npz").write_bytes(b"no"), "cannot read the run's files"),
        (lambda f: (f / "offer_types.json").write_text('{"types": {}, "horizon_days": 1, "shares": {}}'), "cannot read the run's files"),
        (lambda f: (f / "rewards.parquet").write_bytes(b"no"), "cannot read the run's files"),
        (lambda f: (f / "metrics.json").write_text("{"), "cannot read the run's files"),
        (lambda f: (f / "vocabulary.json").write_text(json.dumps(["<pad>", "<unknown>"])), "2 and 17 rows"),
        (lambda f: np.save(f / "text_vectors.npy", np.zeros((3, 384), np.float32)), "3 and 12 rows"),
        (_drop_column, "redeemer_share"),
    ],
    ids=[
        "no weights",
        "calibration",
        "ranker",
        "next offer",
        "ranking",
        "item statistics",
        "offer types",
        "rewards",
        "metrics",
        "vocabulary",
        "text vectors",
        "column",
    ],
)
def test_files_that_are_missing_or_do_not_belong_together_are_refused(
    artifacts, tmp_path, harm: Callable[[Path], object], message, monkeypatch
):
    folder = tmp_path / "artifacts"
    shutil.copytree(artifacts, folder)
    harm(folder)
    monkeypatch.setattr(bundle_module.onnx, "export", lambda module, spec, path, metadata: path.write_bytes(b""))
    monkeypatch.setattr(bundle_module, "_prove", lambda *_: [])
    monkeypatch.setattr(bundle_module.recommender, "item_vectors", lambda *_: np.zeros((REWARD_COUNT, 64), np.float32))
    with pytest.raises(ArtifactError, match=message):
        build_bundle(tmp_path / "models", folder, "1", RECORD)
    assert not (tmp_path / "models" / MODEL_NAME / "1").exists()
