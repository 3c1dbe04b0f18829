"""What becomes of a run of the recommender: four graphs, the catalogue and its vectors, and what makes probabilities of their outputs.

Letters: N rewards, D embedding dim.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import nn

from contracts.bundle import Calibration, OfferTypes, Ranking
from contracts.errors import ArtifactError
from contracts.tensors import ITEM_TOWER, MODELS, NEXT_OFFER, RANKER, USER_TOWER, ModelSpec
from features import rewards
from features.vocabulary import Vocabulary
from training.export import parity
from training.export.parity import Hop
from training.recommender.model import TwoTower
from training.recommender.next_offer import OfferModel, load_offer_model
from training.recommender.ranker import Ranker, load_ranker
from training.recommender.train import load_model

COPIED = ("vocabulary.json", "calibration.json", "rewards.parquet", "ranking.json", "item_stats.npz", "offer_types.json")


@dataclass(frozen=True)
class RecommenderRun:
    """The models of one run; see `training.export.bundle.Models`."""

    towers: TwoTower
    ranker: Ranker
    offers: OfferModel

    nudge_within = ""

    def served(self) -> dict[str, tuple[ModelSpec, nn.Module]]:
        """What is exported, by name, in the order of `contracts.tensors.MODELS`."""
        modules = {USER_TOWER: self.towers.user, ITEM_TOWER: self.towers.item, RANKER: self.ranker, NEXT_OFFER: self.offers}
        return {spec.name: (spec, modules[spec]) for spec in MODELS.values()}

    def limits(self) -> Mapping[str, Sequence[int]]:
        """Sizes of the embedding tables that the ids point into."""
        v, kinds = self.towers.tokens.num_embeddings, self.towers.user.kinds.num_embeddings
        return {"sequence_ids": (v, kinds), "item_ids": (v, v)}

    def known(self) -> dict[str, np.ndarray]:
        """Golden inputs are made from the specs."""
        return {}

    def checks(self, folder: Path, golden: Mapping[str, np.ndarray]) -> list[Hop]:
        """Nothing beside parity: the models have no output in common."""
        return []


def load(artifacts: Path) -> RecommenderRun:
    """The models of a run's artifacts, in eval mode.

    Raises:
        ArtifactError: a file is missing or does not match another.
    """
    return RecommenderRun(load_model(artifacts), load_ranker(artifacts), load_offer_model(artifacts))


def files(artifacts: Path, models: RecommenderRun) -> Callable[[Path, Callable[[str], None]], None]:
    """What else the bundle needs of a run's artifacts: checks it now, returns what writes it into the bundle beside the ONNX files.

    Raises:
        ArtifactError: a file is missing or does not match another.
    """
    vocabulary, table, texts = _read_catalogue(artifacts)
    _check_sizes(models.towers, vocabulary, table, texts)

    def write(stage: Path, progress: Callable[[str], None]) -> None:
        for name in COPIED:
            shutil.copyfile(artifacts / name, stage / name)
        progress(f"computing the vectors of {table.num_rows:,} rewards")
        np.save(stage / "item_vectors.npy", item_vectors(stage / f"{ITEM_TOWER.name}.onnx", table, vocabulary, texts))

    return write


def _read_catalogue(artifacts: Path) -> tuple[Vocabulary, pa.Table, np.ndarray]:
    try:
        for kind, name in ((Calibration, "calibration.json"), (Ranking, "ranking.json"), (OfferTypes, "offer_types.json")):
            kind.model_validate_json((artifacts / name).read_bytes())
        with np.load(artifacts / "item_stats.npz", allow_pickle=False) as stats:
            stats.files  # noqa: B018 - reads the archive's table of contents
        table = pq.read_table(artifacts / "rewards.parquet")
        texts = np.load(artifacts / "text_vectors.npy", allow_pickle=False)
    except (OSError, ValueError, pa.ArrowException) as exc:
        raise ArtifactError(f"cannot read the run's files in {artifacts}: {exc}. Train again: regulars train recommender") from exc
    return Vocabulary.load(artifacts / "vocabulary.json"), table, texts


def _check_sizes(model: TwoTower, vocabulary: Vocabulary, table: pa.Table, texts: np.ndarray) -> None:
    """The files of one run belong together."""
    pairs = {
        "vocabulary.json and the token table": (len(vocabulary), model.tokens.num_embeddings),
        "text_vectors.npy and rewards.parquet": (len(texts), table.num_rows),
    }
    for names, (a, b) in pairs.items():
        if a != b:
            raise ArtifactError(f"{names} have {a} and {b} rows, must have as many. The files are of different runs; train again")
    missing = sorted({"redemptions", "redeemer_share"} - set(table.column_names))
    if missing or not table.num_rows:
        raise ArtifactError(
            f"rewards.parquet has {table.num_rows} rows and lacks {missing or 'nothing'}; it needs rewards with both. Train again"
        )


def item_vectors(model: Path, table: pa.Table, vocabulary: Vocabulary, texts: np.ndarray) -> np.ndarray:
    """The catalogue through the exported item tower, in batches: float32 (N, D), in the order of the table."""
    run = parity.onnx_run(model)
    inputs = {
        "item_ids": rewards.item_ids(table, vocabulary),
        "attributes": rewards.attributes(table),
        "text_vector": np.ascontiguousarray(texts, dtype=np.float32),
    }
    step = ITEM_TOWER.max_batch_size
    parts = [run({n: a[i : i + step] for n, a in inputs.items()})["item_vector"] for i in range(0, table.num_rows, step)]
    vectors = np.concatenate(parts)
    lengths = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(vectors).all() or np.abs(lengths - 1.0).max() > 1e-3:
        worst = int(np.nan_to_num(np.abs(lengths - 1.0), nan=np.inf).argmax())
        raise ArtifactError(
            f"vector of reward {table['reward_id'][worst]} has length {lengths[worst]:g}, must be 1. Train again: its inputs are off"
        )
    return vectors
