"""What a recommender's bundle holds beside its models: the catalogue's vectors."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from contracts.errors import ArtifactError
from contracts.tensors import ITEM_TOWER
from features import rewards
from features.vocabulary import Vocabulary
from training.export import recommender
from training.export.onnx import run_torch
from training.export.recommender import item_vectors

from .conftest import REWARD_COUNT


def test_item_vectors_are_torchs_in_the_order_of_the_catalogue(bundle, artifacts, two_tower):
    vectors = np.load(bundle.path / "item_vectors.npy")
    table = pq.read_table(bundle.path / "rewards.parquet")
    inputs = {
        "item_ids": rewards.item_ids(table, Vocabulary.load(bundle.path / "vocabulary.json")),
        "attributes": rewards.attributes(table),
        "text_vector": np.load(artifacts / "text_vectors.npy"),
    }
    assert vectors.shape == (REWARD_COUNT, 64)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, run_torch(two_tower.item, ITEM_TOWER, inputs)["item_vector"], atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_item_vectors_in_small_batches_are_the_same(bundle, artifacts, monkeypatch):
    table, texts = pq.read_table(bundle.path / "rewards.parquet"), np.load(artifacts / "text_vectors.npy")
    small = type(ITEM_TOWER)(ITEM_TOWER.name, ITEM_TOWER.inputs, ITEM_TOWER.outputs, 5)
    monkeypatch.setattr(recommender, "ITEM_TOWER", small)
    again = item_vectors(bundle.path / "item_tower.onnx", table, Vocabulary.load(bundle.path / "vocabulary.json"), texts)
    np.testing.assert_allclose(again, np.load(bundle.path / "item_vectors.npy"), atol=1e-6)


def test_item_vectors_that_are_not_of_length_one_are_refused(bundle, artifacts):
    table, texts = pq.read_table(bundle.path / "rewards.parquet"), np.load(artifacts / "text_vectors.npy").copy()
    texts[3] = np.nan
    with pytest.raises(ArtifactError, match="rew-3"):
        item_vectors(bundle.path / "item_tower.onnx", table, Vocabulary.load(bundle.path / "vocabulary.json"), texts)
