"""Segments: found where there are some, stable ids, assignment, names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from contracts.errors import ArtifactError, ContractError, ShapeError
from contracts.tensors import STATIC_COUNT
from decisions.segments import BEHAVIOURS, Segmentation, SegmentSettings, behaviour_of, discover, migration
from features.weekly import STATICS

F = len(BEHAVIOURS)
QUICK = SegmentSettings(fewest=4, most=6, resamples=2, starts=4)


def crowds(n: int = 900, seed: int = 0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Five kinds of customers far apart."""
    centres = np.random.default_rng(5).uniform(1, 9, size=(5, F))
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 5, n)
    return centres[kind] + shift + rng.normal(size=(n, F)) * 0.3, kind


@pytest.fixture(scope="module")
def found() -> Segmentation:
    return discover(crowds()[0], settings=QUICK)


def test_the_number_of_segments_is_the_stable_one(found: Segmentation) -> None:
    x, kind = crowds()
    assert len(found.segments) == 5
    assert found.stable
    assert found.stability[5] > 0.99 > found.stability[6]
    assert adjusted_rand_score(kind, found.assign(x).primary) > 0.99
    assert sum(s.size for s in found.segments) == 900


def test_without_structure_the_most_stable_number_is_taken_and_not_called_stable() -> None:
    x = np.random.default_rng(1).normal(size=(400, F))
    unclear = discover(x, settings=QUICK)
    assert not unclear.stable
    assert unclear.stability[len(unclear.segments)] >= max(unclear.stability.values()) - 0.005
    assert max(unclear.stability.values()) < 0.8


def test_ids_stay_with_their_segments_across_refits(found: Segmentation) -> None:
    x, _ = crowds(seed=9, shift=0.2)
    again = discover(x, previous=found, settings=replace(QUICK, seed=99))
    assert {s.id for s in again.segments} == {s.id for s in found.segments}
    moved = {s.id: again.centres[i] * again.scale + again.mean for i, s in enumerate(again.segments)}
    for i, s in enumerate(found.segments):
        assert moved[s.id] == pytest.approx(found.centres[i] * found.scale + found.mean, abs=0.5)
    assert again.next_id == found.next_id


def test_a_new_kind_of_customer_gets_a_new_id(found: Segmentation) -> None:
    x, kind = crowds(seed=3)
    x[kind == 2] = x[kind == 2] * 0.1 + np.where(np.arange(F) % 2, 14.0, -5.0)
    again = discover(x, previous=found, settings=QUICK)
    new = {s.id for s in again.segments} - {s.id for s in found.segments}
    assert new == {"seg-06"}
    assert again.next_id == 7


def test_between_two_centres_nobody_is_sure(found: Segmentation) -> None:
    natural = found.centres * found.scale + found.mean
    points = np.stack([natural[0], (natural[0] + natural[1]) / 2])
    got = found.assign(points, choices=2)
    assert got.primary[0] == 0
    assert got.confidence[0] > 0.99
    assert got.confidence[1] < 0.9
    assert {int(got.primary[1]), int(got.others[1, 0])} == {0, 1}
    assert got.others.shape == got.other_confidence.shape == (2, 2)
    assert (np.diff(got.other_confidence, axis=1) <= 0).all()
    assert (got.confidence + got.other_confidence.sum(axis=1) <= 1 + 1e-9).all()


def test_names_are_unique_and_say_what_is_different(found: Segmentation) -> None:
    names = [s.name for s in found.segments]
    assert len(set(names)) == len(names)
    for i, s in enumerate(found.segments):
        feature, distance = s.top_features[0]
        b = next(b for b in BEHAVIOURS if b.name == feature)
        assert distance == round(float(found.centres[i][BEHAVIOURS.index(b)]), 2)
        assert s.name.startswith(b.much if distance > 0 else b.little)
        assert b.unit in s.description


def test_migration_counts_every_customer_once() -> None:
    moved = migration(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)
    assert moved.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    with pytest.raises(ShapeError, match="the same ones"):
        migration(np.zeros(2, dtype=int), np.zeros(3, dtype=int), 3)


def test_behaviours_come_from_the_weekly_features() -> None:
    statics = np.zeros((2, STATIC_COUNT), dtype=np.float32)
    statics[:, STATICS.index("days_since_purchase")] = np.log1p([9.0, 3650.0])
    statics[:, STATICS.index("discount_share")] = 0.25
    got = behaviour_of(statics)
    assert got.shape == (2, F)
    assert got[:, 0] == pytest.approx(np.log1p([9.0, 365.0]))
    assert got[:, 3] == pytest.approx([0.25, 0.25])
    assert got[:, 7] == pytest.approx([0.0, 0.0])


def test_saved_segments_assign_the_same(tmp_path: Path, found: Segmentation) -> None:
    found.save(tmp_path / "segments.json")
    loaded = Segmentation.load(tmp_path / "segments.json")
    x, _ = crowds(50, 4)
    np.testing.assert_array_equal(loaded.assign(x).confidence, found.assign(x).confidence)
    assert loaded.segments == found.segments
    assert loaded.stability == found.stability


def test_a_damaged_file_is_refused(tmp_path: Path, found: Segmentation) -> None:
    path = tmp_path / "segments.json"
    with pytest.raises(ArtifactError, match="cannot read"):
        Segmentation.load(path)
    found.save(path)
    body = json.loads(path.read_text())
    path.write_text(json.dumps(body | {"format": 0}))
    with pytest.raises(ArtifactError, match="format 0"):
        Segmentation.load(path)
    path.write_text(json.dumps(body | {"centres": body["centres"][1:]}))
    with pytest.raises(ArtifactError, match="centres of shape"):
        Segmentation.load(path)


def test_what_cannot_be_segmented_is_refused(found: Segmentation) -> None:
    x, _ = crowds(100)
    with pytest.raises(ShapeError, match="behaviour has shape"):
        discover(x[:, :3], settings=QUICK)
    with pytest.raises(ContractError, match="must be finite"):
        found.assign(np.full((1, F), np.nan))
    with pytest.raises(ContractError, match="Ask for fewer"):
        discover(x[:20], settings=QUICK)
