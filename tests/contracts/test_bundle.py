"""Bundles: what is deployed is whole."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts.bundle import (
    BUNDLES,
    MODEL_NAME,
    SERVED_MODELS,
    BundleManifest,
    Calibration,
    OfferType,
    OfferTypes,
    Ranking,
    deploy,
    deployed_version,
    file_sha256,
    read_manifest,
    require_files,
)
from contracts.errors import ArtifactError, ConfigError
from contracts.tables import REWARD_TYPES
from contracts.tensors import FEATURE_COUNT


def make(models: Path, version: str, model: str = MODEL_NAME) -> Path:
    folder = models / model / version
    folder.mkdir(parents=True)
    (folder / "user_tower.onnx").write_bytes(b"weights " + version.encode())
    manifest = BundleManifest(
        model=model, version=version, created_at="2026-11-21T00:00:00Z", data_version="d", code_version="c",
        as_of="2026-11-20T00:00:00Z", settings={}, metrics={}, files={"user_tower.onnx": file_sha256(folder / "user_tower.onnx")},
    )  # fmt: skip
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return folder


def test_what_was_deployed_is_served(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no deployed two-tower under .*regulars export"):
        deployed_version(tmp_path)
    for version in ("1", "2", "1"):
        if not (tmp_path / MODEL_NAME / version).exists():
            make(tmp_path, version)
        deploy(tmp_path, version)
        assert deployed_version(tmp_path) == version
    assert sorted(p.name for p in (tmp_path / MODEL_NAME).iterdir()) == ["1", "2", "deployed.json"]  # nothing temporary is left


def test_each_bundle_has_a_deployed_version_of_its_own(tmp_path: Path) -> None:
    make(tmp_path, "7")
    deploy(tmp_path, "7")
    with pytest.raises(ArtifactError, match=r"no deployed sequence under .*regulars train sequence; regulars export --model sequence"):
        deployed_version(tmp_path, "sequence")
    make(tmp_path, "2", "sequence")
    deploy(tmp_path, "2", "sequence")
    assert (deployed_version(tmp_path), deployed_version(tmp_path, "sequence")) == ("7", "2")
    for ask in (lambda: deployed_version(tmp_path, "towers"), lambda: deploy(tmp_path, "1", "towers")):
        with pytest.raises(ConfigError, match=r"no bundle 'towers', must be one of two-tower, sequence"):
            ask()


def test_no_model_on_triton_belongs_to_two_bundles() -> None:
    assert len(SERVED_MODELS) == sum(len(b.models) for b in BUNDLES.values())
    assert all({f"{name}.onnx" for name in b.models} < set(b.files) for b in BUNDLES.values())


@pytest.mark.parametrize("damage", ["changed", "missing", "no manifest", "manifest cut", "manifest with more"])
def test_a_damaged_bundle_is_not_deployed(tmp_path: Path, damage: str) -> None:
    make(tmp_path, "1")
    deploy(tmp_path, "1")
    folder = make(tmp_path, "2")
    manifest = folder / "manifest.json"
    match damage:
        case "changed":
            (folder / "user_tower.onnx").write_bytes(b"other")
        case "missing":
            (folder / "user_tower.onnx").unlink()
        case "no manifest":
            manifest.unlink()
        case "manifest cut":
            manifest.write_bytes(manifest.read_bytes()[:-10])
        case "manifest with more":
            manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "more": 1}))
    with pytest.raises(ArtifactError, match="Build the bundle again: regulars export"):
        deploy(tmp_path, "2")
    assert deployed_version(tmp_path) == "1"


def test_checksums_are_checked_unless_told_not_to(tmp_path: Path) -> None:
    folder = make(tmp_path, "1")
    whole = read_manifest(folder)
    (folder / "user_tower.onnx").write_bytes(b"other")
    assert read_manifest(folder, verify=False) == whole
    with pytest.raises(ArtifactError, match="has checksum"):
        read_manifest(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_a_broken_pointer_is_an_artifact_error(tmp_path: Path, text: str) -> None:
    (tmp_path / MODEL_NAME).mkdir()
    (tmp_path / MODEL_NAME / "deployed.json").write_text(text)
    with pytest.raises(ArtifactError, match="no deployed two-tower"):
        deployed_version(tmp_path)


CALIBRATION = Calibration(slope=4.0, popularity=0.5, intercept=-1.0, horizon_days=14, ece=0.01)


@given(st.floats(-1, 1), st.floats(0, 1))
def test_a_calibrated_score_is_the_logistic_function(cosine: float, share: float) -> None:
    expected = 1 / (1 + math.exp(-(4.0 * cosine + 0.5 * math.log(share + 1e-6) - 1.0)))
    assert math.isclose(CALIBRATION.probability(cosine, share), expected, rel_tol=1e-12)


def test_a_calibrated_score_is_a_probability_however_extreme() -> None:
    steep = Calibration(slope=1e6, popularity=0, intercept=0, horizon_days=1, ece=0)
    assert 0 <= steep.probability(-1, 0) < 1e-20
    assert steep.probability(1, 0) <= 1
    with pytest.raises(ValidationError, match="Extra inputs"):
        Calibration.model_validate({**CALIBRATION.model_dump(), "more": 1})


def test_many_probabilities_are_each_the_one_of_its_reward() -> None:
    cosines, shares = np.linspace(-1, 1, 9).astype(np.float32), np.linspace(0, 0.5, 9)
    expected = [CALIBRATION.probability(float(c), float(s)) for c, s in zip(cosines, shares, strict=True)]
    np.testing.assert_allclose(CALIBRATION.probabilities(cosines, shares), expected, rtol=1e-12)
    assert CALIBRATION.model_copy(update={"slope": 1e9}).probabilities(np.array([-1.0, 1.0]), np.zeros(2)).tolist() == [
        pytest.approx(0, abs=1e-20),
        1.0,
    ]


def ranking(**changes: object) -> Ranking:
    rng = np.random.default_rng(0)
    values: dict[str, object] = {
        "rate_weights": tuple(rng.normal(size=FEATURE_COUNT) / 10), "rate_intercept": 0.3,
        "feature_mean": tuple(rng.normal(size=FEATURE_COUNT)), "feature_std": (2.0,) * FEATURE_COUNT, "temperature": 1.5,
        "slope": 0.9, "intercept": -0.2, "horizon_days": 30, "ece": 0.01,
    }  # fmt: skip
    return Ranking.model_validate(values | changes)


LOGITS = st.lists(st.floats(-50, 50, width=32), min_size=0, max_size=20).map(lambda x: np.array(x, np.float32))


@given(logits=LOGITS, features=st.lists(st.floats(-1e6, 1e6, width=32), min_size=FEATURE_COUNT, max_size=FEATURE_COUNT))
def test_a_ranking_gives_probabilities_in_the_order_of_the_logits(logits: np.ndarray, features: list[float]) -> None:
    found = ranking().probabilities(logits, np.array(features, np.float32))
    assert found.shape == logits.shape
    assert np.isfinite(found).all()
    assert ((found >= 0) & (found <= 1)).all()
    order = np.argsort(logits, kind="stable")
    assert (np.diff(found[order]) >= 0).all()
    views = ranking(view_slope=0.7).view_probabilities(logits)
    assert ((views >= 0) & (views <= 1)).all()
    assert (np.diff(views[order]) >= 0).all()


def test_a_ranking_is_what_its_description_says() -> None:
    plain = ranking(rate_weights=(0.0,) * FEATURE_COUNT, rate_intercept=math.log(2.0), temperature=1.0, slope=1.0, intercept=0.0)
    logits = np.log(np.array([1.0, 3.0, 4.0]))
    shares = np.array([1.0, 3.0, 4.0]) / 8
    np.testing.assert_allclose(plain.probabilities(logits, np.zeros(FEATURE_COUNT)), 1 - np.exp(-2.0 * shares))
    mine = ranking()
    x = np.linspace(-1, 1, FEATURE_COUNT)
    expected = (x - np.array(mine.feature_mean)) / 2.0 @ np.array(mine.rate_weights) + 0.3
    assert mine.log_rate(x) == pytest.approx(expected)
    np.testing.assert_allclose(mine.log_rate(np.stack([x, x])), [expected, expected])
    share = np.exp(logits / 1.5) / np.exp(logits / 1.5).sum()
    cloglog = 0.9 * (expected + np.log(share)) - 0.2
    np.testing.assert_allclose(mine.probabilities(logits, x), 1 - np.exp(-np.exp(cloglog)))
    assert Ranking.model_validate_json(mine.model_dump_json()) == mine


@pytest.mark.parametrize(
    "bad",
    [{"slope": 0.0}, {"temperature": 0.0}, {"feature_std": (0.0,) * FEATURE_COUNT}, {"rate_weights": (1.0,)}, {"intercept": math.nan}],
)
def test_a_ranking_that_would_not_keep_the_order_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ranking(**bad)


def test_offer_types_give_a_probability_for_each_of_the_eight() -> None:
    types = {t: OfferType(slope=i / 2, intercept=-1.0, ece=0.0, share=0.1) for i, t in enumerate(REWARD_TYPES)}
    found = OfferTypes(types=types, horizon_days=30, shares={}).probabilities(np.full((2, 8), 1.0, np.float32))
    np.testing.assert_allclose(found, np.tile([1 / (1 + math.exp(1.0 - i / 2)) for i in range(8)], (2, 1)))
    assert OfferTypes(types=types, horizon_days=30, shares={}).probabilities(np.full(8, -1e30)).max() < 0.3
    del types["bogo"]
    with pytest.raises(ValidationError, match="bogo"):
        OfferTypes(types=types, horizon_days=30, shares={})


def test_a_bundle_of_fewer_files_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path, "1")
    with pytest.raises(ArtifactError, match=r"lacks .*offer_types\.json, ranker\.onnx.*Train and export again"):
        require_files(read_manifest(folder), folder)
    folder = make(tmp_path, "1", "sequence")
    with pytest.raises(ArtifactError, match=r"lacks forecast\.json, golden\.npz, sequence\.onnx.*regulars train sequence; regulars export"):
        require_files(read_manifest(folder), folder)
