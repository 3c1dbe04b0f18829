"""From a training run's files to a bundle (contracts/bundle.py): every served model as ONNX, parity proved, every file with its checksum.

Letters: N rewards, D embedding dim, B batch.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from torch import nn

from contracts.bundle import FILES, MODEL_NAME, BundleManifest, Calibration, OfferTypes, Ranking, file_sha256, read_manifest
from contracts.errors import ArtifactError
from contracts.tensors import ITEM_TOWER, MODELS, NEXT_OFFER, RANKER, USER_TOWER, ModelSpec
from features import rewards
from features.vocabulary import Vocabulary
from training.export import onnx, parity
from training.export.parity import Hop, Run
from training.recommender.model import TwoTower
from training.recommender.next_offer import OfferModel, load_offer_model
from training.recommender.ranker import Ranker, load_ranker
from training.recommender.train import load_model

log = logging.getLogger(__name__)

COPIED = ("vocabulary.json", "calibration.json", "rewards.parquet", "ranking.json", "item_stats.npz", "offer_types.json")
GOLDEN = "golden.npz"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class RunRecord:
    """Where a model came from: hash of the data, commit of the code, instant after which it knows nothing."""

    data_version: str
    code_version: str
    as_of: str


@dataclass(frozen=True)
class Bundle:
    """A finished bundle.

    Attributes:
        path: its folder. version: its folder's name. hops: what the parity checks found.
        reused: it was there already, whole; only parity was checked again.
    """

    path: Path
    version: str
    hops: list[Hop]
    reused: bool = False


@dataclass(frozen=True)
class Trained:
    """The models of one run."""

    towers: TwoTower
    ranker: Ranker
    offers: OfferModel

    def served(self) -> dict[str, tuple[ModelSpec, nn.Module]]:
        """What is exported, by name, in the order of `contracts.tensors.MODELS`."""
        modules = {USER_TOWER: self.towers.user, ITEM_TOWER: self.towers.item, RANKER: self.ranker, NEXT_OFFER: self.offers}
        return {spec.name: (spec, modules[spec]) for spec in MODELS.values()}


def load_trained(artifacts: Path) -> Trained:
    """The models of a run's artifacts, in eval mode.

    Raises:
        ArtifactError: a file is missing or does not match another.
    """
    return Trained(load_model(artifacts), load_ranker(artifacts), load_offer_model(artifacts))


def build_bundle(models_dir: Path, artifacts: Path, version: str, record: RunRecord, progress: Progress = log.info) -> Bundle:
    """Export every model, compare each with torch, compute the catalogue's vectors, and put the bundle in its place by one rename.

    Args:
        models_dir: folder of all models; the bundle comes to `two-tower/<version>` in it.
        artifacts: a run's files (training.registry.RUN_FILES).
        version: whole number from 1, from the model registry.
        progress: told each step.

    Raises:
        ArtifactError: a file of the run is missing or does not match, or parity failed; nothing was put in place.
    """
    folder = models_dir / MODEL_NAME / version
    model = load_trained(artifacts)
    if _is_whole(folder):
        progress(f"version {version} is there already, whole: checking its parity again")
        return Bundle(folder, version, check_bundle(model, folder), reused=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{version}-", dir=folder.parent))
    try:
        hops = _fill(stage, model, artifacts, version, record, progress)
        stage.chmod(0o755)  # mkdtemp's folder is private; another user may run the servers
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        stage.rename(folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return Bundle(folder, version, hops)


def check_bundle(model: Trained, folder: Path) -> list[Hop]:
    """Parity of a bundle's ONNX files with the model, each with its negative control.

    Raises:
        ArtifactError: a file is missing, differs, or the check could not fail.
    """
    golden = read_golden(folder)
    return [_prove(spec, module, folder, golden) for spec, module in model.served().values()]


def read_golden(folder: Path) -> dict[str, np.ndarray]:
    """Arrays of golden.npz by tensor name: inputs of every model and torch's outputs.

    Raises:
        ArtifactError: missing, or without one of the tensors.
    """
    try:
        with np.load(folder / GOLDEN, allow_pickle=False) as file:
            return {t.name: file[t.name] for spec in MODELS.values() for t in (*spec.inputs, *spec.outputs)}
    except (OSError, ValueError, KeyError) as exc:
        raise ArtifactError(f"cannot read {folder / GOLDEN}: {exc}. Build the bundle again: regulars export") from exc


def golden_reference(spec: ModelSpec, golden: Mapping[str, np.ndarray]) -> Run:
    """torch's recorded answers for the golden rows, for a hop that is checked without torch."""
    return lambda inputs: {t.name: golden[t.name] for t in spec.outputs}


def golden_rows(spec: ModelSpec, golden: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One model's inputs out of the golden arrays."""
    return {t.name: golden[t.name] for t in spec.inputs}


def _is_whole(folder: Path) -> bool:
    try:
        return set(FILES) <= set(read_manifest(folder).files)
    except ArtifactError:
        return False


def _fill(stage: Path, model: Trained, artifacts: Path, version: str, record: RunRecord, progress: Progress) -> list[Hop]:
    vocabulary, table, texts = _read_catalogue(artifacts)
    _check_sizes(model.towers, vocabulary, table, texts)
    for name in COPIED:
        shutil.copyfile(artifacts / name, stage / name)
    metadata = {"version": version, "code": record.code_version, "data": record.data_version, "as_of": record.as_of}
    for spec, module in model.served().values():
        progress(f"exporting {spec.name} to ONNX")
        onnx.export(module, spec, stage / f"{spec.name}.onnx", metadata)
    golden = _make_golden(model)
    np.savez(stage / GOLDEN, allow_pickle=False, **golden)
    progress("comparing ONNX Runtime with torch on the golden rows")
    hops = [_prove(spec, module, stage, golden) for spec, module in model.served().values()]
    progress(f"computing the vectors of {table.num_rows:,} rewards")
    np.save(stage / "item_vectors.npy", item_vectors(stage / f"{ITEM_TOWER.name}.onnx", table, vocabulary, texts))
    _write_manifest(stage, artifacts, version, record)
    return hops


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


def _make_golden(model: Trained) -> dict[str, np.ndarray]:
    """Rows that go through the whole chain: the ranker gets the vectors that the towers gave, and all get the same features."""
    v, kinds = model.towers.tokens.num_embeddings, model.towers.user.kinds.num_embeddings
    limits = {"sequence_ids": (v, kinds), "item_ids": (v, v)}
    golden: dict[str, np.ndarray] = {}
    for spec, module in model.served().values():
        inputs = parity.golden_inputs(spec, limits, known=golden)
        golden |= {**inputs, **parity.torch_run(module, spec)(inputs)}
    return golden


def _prove(spec: ModelSpec, module: nn.Module, folder: Path, golden: Mapping[str, np.ndarray]) -> Hop:
    """torch against ONNX Runtime, with the negative control."""
    candidate, inputs = parity.onnx_run(folder / f"{spec.name}.onnx"), golden_rows(spec, golden)
    hop = parity.compare(spec, "torch → onnx", parity.torch_run(module, spec), candidate, inputs)
    parity.require([hop])
    parity.negative_control(spec, module, candidate, inputs)
    return hop


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


def _write_manifest(stage: Path, artifacts: Path, version: str, record: RunRecord) -> None:
    try:
        settings, metrics = (orjson.loads((artifacts / n).read_bytes()) for n in ("settings.json", "metrics.json"))
    except (OSError, ValueError) as exc:
        raise ArtifactError(f"cannot read the run's files in {artifacts}: {exc}. Train again: regulars train recommender") from exc
    manifest = BundleManifest(
        model=MODEL_NAME,
        version=version,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=settings,
        metrics=metrics,
        files={f.name: file_sha256(f) for f in sorted(stage.iterdir())},
        data_version=record.data_version,
        code_version=record.code_version,
        as_of=record.as_of,
    )
    path = stage / "manifest.json"
    with path.open("wb") as file:
        file.write(orjson.dumps(manifest.model_dump(), option=orjson.OPT_INDENT_2))
        file.flush()
        os.fsync(file.fileno())
