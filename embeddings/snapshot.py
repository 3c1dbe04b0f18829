"""What one version of the model serves with, and how a running process changes to the next one without a pause."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.bundle import PAD, UNKNOWN, BundleManifest, Calibration, OfferTypes, Ranking, read_manifest, require_files
from contracts.errors import ArtifactError, StackError
from embeddings.index import IndexSettings, RewardIndex
from embeddings.table import RewardTable

T = TypeVar("T")


class IndexHolder(Generic[T]):
    """The snapshot that requests are answered from; replaced whole, under load, without a lock.

    A request reads `current` once and works with what it got to its end, so that rows, ids and vectors come from one version. Reading and
    replacing one attribute are atomic in Python. The old snapshot is freed when its last request is done.
    """

    def __init__(self, first: T) -> None:
        self._current = first

    @property
    def current(self) -> T:
        """The newest snapshot. Read it once per request."""
        return self._current

    def swap(self, new: T) -> T:
        """Serve `new` from the next request on; returns the one it replaces."""
        old, self._current = self._current, new
        return old


@dataclass(frozen=True)
class Snapshot:
    """A bundle in memory; nothing in it changes.

    Attributes:
        version: of the bundle; `manifest` is its record.
        index: item vectors; `table` is its metadata.
        rewards: rewards.parquet, row for row.
        tokens: token to id, as the towers were trained with.
        calibration: from a cosine to a probability.
        ranking: from the ranker's logits to probabilities.
        item_stats: arrays about the rewards that the ranker's pair features are made of (`features.pairs`).
        offer_types: from the next-offer model's logits to probabilities.
        redeemer_share: float64 (N,), share of the business's customers who redeemed the reward in the last 90 days.
        popularity: per business its rows, int64, most redeemed first (then the larger share, then the order of the rows).
    """

    version: str
    manifest: BundleManifest
    index: RewardIndex
    rewards: pa.Table
    tokens: dict[str, int]
    calibration: Calibration
    ranking: Ranking
    item_stats: dict[str, np.ndarray]
    offer_types: OfferTypes
    redeemer_share: np.ndarray
    popularity: dict[str, np.ndarray]

    @property
    def table(self) -> RewardTable:
        return self.index.table


def from_bundle(folder: Path, settings: IndexSettings | None = None, verify: bool = True) -> Snapshot:
    """Read a bundle (contracts/bundle.py) and build its index; needs no torch.

    Args:
        folder: <models dir>/two-tower/<version>.
        settings: of the index; the process's own when None.
        verify: check every file against the manifest's checksum first.

    Raises:
        ArtifactError: a file is missing, damaged, or does not match another; or the bundle is of an earlier version of this program.
    """
    manifest = read_manifest(folder, verify=verify)
    require_files(manifest, folder)
    try:
        rewards = pq.read_table(folder / "rewards.parquet")
        vectors = np.load(folder / "item_vectors.npy", allow_pickle=False)
        tokens = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        calibration = Calibration.model_validate_json((folder / "calibration.json").read_bytes())
        ranking = Ranking.model_validate_json((folder / "ranking.json").read_bytes())
        offer_types = OfferTypes.model_validate_json((folder / "offer_types.json").read_bytes())
        with np.load(folder / "item_stats.npz", allow_pickle=False) as file:
            item_stats = {name: file[name] for name in file.files}
        share = _numbers(rewards, "redeemer_share")
        popularity = _popularity(rewards, share)
        index = RewardIndex(vectors, RewardTable.from_arrow(rewards), settings)
    except (OSError, ValueError, KeyError, pa.ArrowException, StackError) as exc:
        raise ArtifactError(f"bundle {folder} is not usable: {exc}. Build the bundle again: regulars export") from exc
    if not isinstance(tokens, list) or tokens[:2] != [PAD, UNKNOWN]:
        raise ArtifactError(
            f"{folder / 'vocabulary.json'} must be a list that starts with {PAD!r}, {UNKNOWN!r}. Build the bundle again: regulars export"
        )
    return Snapshot(
        version=manifest.version,
        manifest=manifest,
        index=index,
        rewards=rewards,
        tokens={t: i for i, t in enumerate(tokens)},
        calibration=calibration,
        ranking=ranking,
        item_stats=item_stats,
        offer_types=offer_types,
        redeemer_share=share,
        popularity=popularity,
    )


def _numbers(rewards: pa.Table, column: str) -> np.ndarray:
    return np.array([0.0 if v is None else float(v) for v in rewards[column].to_pylist()], dtype=np.float64)


def _popularity(rewards: pa.Table, share: np.ndarray) -> dict[str, np.ndarray]:
    redemptions = _numbers(rewards, "redemptions")
    business = np.array(rewards["business_id"].to_pylist(), dtype=object)
    order = np.lexsort((np.arange(len(share)), -share, -redemptions))
    return {name: order[business[order] == name].astype(np.int64) for name in dict.fromkeys(business.tolist())}
