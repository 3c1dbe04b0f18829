"""embeddings/snapshot.py: bundles into memory, and their change under load."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.bundle import FILES, BundleManifest, Calibration, OfferType, OfferTypes, Ranking, file_sha256
from contracts.errors import ArtifactError
from contracts.tables import REWARD_TYPES, REWARDS
from embeddings.index import Filter, IndexSettings, RewardIndex, RewardTable
from embeddings.snapshot import IndexHolder, from_bundle

NAMES = tuple(n for n in FILES if not n.endswith(".onnx") and n != "golden.npz")
"""What is read; the models and their golden rows are others'."""


def unit(seed: int, n: int, dim: int = 8) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def write_bundle(folder: Path, vectors: np.ndarray, tokens: object = None, version: str = "7") -> Path:
    """Six rewards of two businesses, as training/export writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    row = dict.fromkeys(REWARDS.columns) | {"name": "n", "reward_type": "discount"}
    rows = [row | {"reward_id": f"r{i // 2}", "business_id": f"b{i % 2}"} for i in range(6)]
    rewards = pa.Table.from_pylist(rows, schema=REWARDS.schema)
    rewards = rewards.append_column("redemptions", pa.array([1, 5, 9, 5, None, 0]))
    rewards = rewards.append_column("redeemer_share", pa.array([0.1, 0.2, 0.3, 0.4, None, 0.0]))
    pq.write_table(rewards, folder / "rewards.parquet")
    np.save(folder / "item_vectors.npy", vectors)
    vocabulary = ["<pad>", "<unknown>", "r:r0", "c:coffee"] if tokens is None else tokens
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    calibration = Calibration(slope=2.0, popularity=0.5, intercept=-1.0, horizon_days=14, ece=0.01)
    (folder / "calibration.json").write_text(calibration.model_dump_json(), encoding="utf-8")
    zeros, ones = (0.0,) * 44, (1.0,) * 44
    ranking = Ranking(
        rate_weights=zeros, rate_intercept=0, feature_mean=zeros, feature_std=ones, temperature=2, slope=1, intercept=0, horizon_days=14,
        ece=0,
    )  # fmt: skip
    (folder / "ranking.json").write_text(ranking.model_dump_json(), encoding="utf-8")
    types = OfferTypes(types={t: OfferType(slope=1, intercept=0, ece=0, share=0) for t in REWARD_TYPES}, horizon_days=14, shares={})
    (folder / "offer_types.json").write_text(types.model_dump_json(), encoding="utf-8")
    np.savez(folder / "item_stats.npz", share=np.arange(6.0), pairs=np.zeros((2, 3)))
    for name in set(FILES) - set(NAMES):
        (folder / name).write_bytes(b"")
    files = {n: file_sha256(folder / n) for n in FILES}
    manifest = BundleManifest(
        model="two-tower", version=version, created_at="", data_version="", code_version="", as_of="", settings={}, metrics={}, files=files
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json(), encoding="utf-8")
    return folder


def test_from_bundle_reads_everything(tmp_path: Path) -> None:
    snapshot = from_bundle(write_bundle(tmp_path, unit(0, 6)), IndexSettings())
    assert snapshot.version == snapshot.manifest.version == "7"
    assert snapshot.tokens["<unknown>"] == 1
    assert snapshot.tokens["c:coffee"] == 3
    assert snapshot.calibration.slope == 2.0
    assert snapshot.ranking.temperature == 2.0
    assert snapshot.offer_types.horizon_days == 14
    assert {n: a.shape for n, a in snapshot.item_stats.items()} == {"share": (6,), "pairs": (2, 3)}
    assert snapshot.redeemer_share.tolist() == [0.1, 0.2, 0.3, 0.4, 0.0, 0.0]
    assert {b: rows.tolist() for b, rows in snapshot.popularity.items()} == {"b0": [2, 0, 4], "b1": [3, 1, 5]}
    assert snapshot.table.reward_ids == tuple(snapshot.rewards["reward_id"].to_pylist())
    assert len(snapshot.index.search(unit(1, 1), 5, [Filter("b1", 0.0)])[0].rows) == 3


@pytest.mark.parametrize("name", [*NAMES, "manifest.json"])
@pytest.mark.parametrize("verify", [True, False])
def test_a_missing_file_is_an_artifact_error(tmp_path: Path, name: str, verify: bool) -> None:
    (write_bundle(tmp_path, unit(0, 6)) / name).unlink()
    with pytest.raises(ArtifactError, match="Build the bundle again: regulars export"):
        from_bundle(tmp_path, verify=verify)


def test_a_changed_file_is_an_artifact_error(tmp_path: Path) -> None:
    np.save(write_bundle(tmp_path, unit(0, 6)) / "item_vectors.npy", unit(9, 6))
    with pytest.raises(ArtifactError, match="checksum"):
        from_bundle(tmp_path)


def test_vectors_of_another_catalogue_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="one row per reward"):
        from_bundle(write_bundle(tmp_path, unit(0, 5)))


def test_a_bundle_of_before_the_ranker_says_train_and_export_again(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, unit(0, 6))
    record = json.loads((folder / "manifest.json").read_text())
    del record["files"]["ranking.json"], record["files"]["ranker.onnx"]
    (folder / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match=r"lacks ranker.onnx, ranking.json: .*Train and export again"):
        from_bundle(folder)


@pytest.mark.parametrize("tokens", [{"r:r0": 2}, ["r:r0"], []])
def test_a_vocabulary_of_another_form_is_refused(tmp_path: Path, tokens: object) -> None:
    with pytest.raises(ArtifactError, match="must be a list that starts with"):
        from_bundle(write_bundle(tmp_path, unit(0, 6), tokens=tokens))


class Versioned:
    """An index whose ids name its version."""

    def __init__(self, version: int) -> None:
        self.version = version
        n = 20 + version % 7
        ids = [f"v{version}-{i}" for i in range(n)]
        self.index = RewardIndex(unit(version, n), RewardTable.build(ids, ["b"] * n), IndexSettings(kind="exact"))


def test_every_answer_under_swaps_comes_from_one_version() -> None:
    """Four threads search while the snapshot is replaced 150 times."""
    holder = IndexHolder(Versioned(0))
    user, stop = unit(99, 1), threading.Event()
    problems: list[str] = []
    seen: list[set[int]] = [set() for _ in range(4)]
    answers = [0] * 4

    def read(worker: int) -> None:
        try:
            while not stop.is_set():
                snapshot = holder.current
                rows, scores = snapshot.index.search(user, 5, [Filter("b", 0.0)])[0]
                ids = {snapshot.index.table.reward_ids[r].split("-")[0] for r in rows.tolist()}
                if ids != {f"v{snapshot.version}"} or len(rows) != 5:
                    problems.append(f"{snapshot.version}: {ids}")
                if not np.allclose(scores, unit(snapshot.version, len(snapshot.index))[rows] @ user[0], atol=1e-5):
                    problems.append(f"{snapshot.version}: scores of other vectors")
                seen[worker].add(snapshot.version)
                answers[worker] += 1
        except Exception as exc:
            problems.append(repr(exc))

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for version in range(1, 151):
        before = min(answers)
        assert holder.swap(Versioned(version)).version == version - 1
        if version % 10 == 0:  # let every thread answer at least once from now and then
            while min(answers) == before and not problems and all(t.is_alive() for t in threads):
                stop.wait(0.001)
    stop.set()
    for thread in threads:
        thread.join(timeout=30)
    assert not problems
    assert holder.current.version == 150
    assert len(set().union(*seen)) > 10
