"""From a training run's files to a bundle (contracts/bundle.py): every served model as ONNX, parity proved, every file with its checksum.

What is particular to one bundle (its models, its golden rows, its other files) is in `training.export.recommender` and
`training.export.sequence`. Letters: B batch.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson
from torch import nn

from contracts import sequence as sequence_contract
from contracts.bundle import BUNDLES, MODEL_NAME, BundleManifest, bundle_of, bundle_spec, file_sha256, read_manifest
from contracts.errors import ArtifactError
from contracts.tensors import ModelSpec
from training.export import onnx, parity, recommender, sequence
from training.export.parity import Hop, Run

log = logging.getLogger(__name__)

GOLDEN = "golden.npz"
Progress = Callable[[str], None]


class Models(Protocol):
    """The models of one run, as a bundle takes them.

    Attributes:
        nudge_within: part of the name of the weights that the negative control may change; all of them when empty.
    """

    @property
    def nudge_within(self) -> str: ...

    def served(self) -> dict[str, tuple[ModelSpec, nn.Module]]:
        """What is exported, by name, in the order of the bundle's models."""

    def limits(self) -> Mapping[str, Sequence[int]]:
        """Of integer inputs, see `parity.golden_inputs`."""

    def known(self) -> dict[str, np.ndarray]:
        """Golden inputs that are not made from the specs alone, by tensor name."""

    def checks(self, folder: Path, golden: Mapping[str, np.ndarray]) -> list[Hop]:
        """What must hold beside parity, of the exported files on the golden rows."""


@dataclass(frozen=True)
class Recipe:
    """How a run of one bundle is read.

    Attributes:
        load: the models of a run's artifacts.
        files: reads and checks what else the bundle takes from the artifacts; returns what writes it beside the ONNX files.
    """

    load: Callable[[Path], Any]
    files: Callable[[Path, Any], Callable[[Path, Progress], None]]


RECIPES = {
    MODEL_NAME: Recipe(recommender.load, recommender.files),
    sequence_contract.MODEL_NAME: Recipe(sequence.load, sequence.files),
}
"""By the bundle's name: one for each of `contracts.bundle.BUNDLES`."""


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


def build_bundle(
    models_dir: Path, artifacts: Path, version: str, record: RunRecord, progress: Progress = log.info, name: str = MODEL_NAME
) -> Bundle:
    """Export every model, compare each with torch, add the bundle's other files, and put it in its place by one rename.

    Args:
        models_dir: folder of all models; the bundle comes to `<name>/<version>` in it.
        artifacts: a run's files (training.registry.run_files).
        version: whole number from 1, from the model registry.
        progress: told each step.
        name: which bundle, of `contracts.bundle.BUNDLES`.

    Raises:
        ArtifactError: a file of the run is missing or does not match, or parity failed; nothing was put in place.
        ConfigError: there is no bundle of that name.
    """
    folder = models_dir / bundle_spec(name).name / version
    models: Models = RECIPES[name].load(artifacts)
    if _is_whole(folder):
        progress(f"version {version} is there already, whole: checking its parity again")
        return Bundle(folder, version, check_bundle(models, folder), reused=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{version}-", dir=folder.parent))
    try:
        hops = _fill(stage, models, artifacts, name, version, record, progress)
        stage.chmod(0o755)  # mkdtemp's folder is private; another user may run the servers
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        stage.rename(folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return Bundle(folder, version, hops)


def check_bundle(models: Models, folder: Path) -> list[Hop]:
    """Parity of a bundle's ONNX files with the models, each with its negative control, and the bundle's own checks.

    Raises:
        ArtifactError: a file is missing, differs, or the check could not fail.
    """
    return _prove(models, folder, read_golden(folder))


def read_golden(folder: Path) -> dict[str, np.ndarray]:
    """Arrays of a bundle's golden.npz by tensor name: inputs of every model and torch's outputs.

    Raises:
        ArtifactError: missing, or without one of the tensors.
        ConfigError: the folder is not a bundle's.
    """
    specs = bundle_of(folder).models.values()
    try:
        with np.load(folder / GOLDEN, allow_pickle=False) as file:
            return {t.name: file[t.name] for spec in specs for t in (*spec.inputs, *spec.outputs)}
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
        return set(bundle_of(folder).files) <= set(read_manifest(folder).files)
    except ArtifactError:
        return False


def _fill(stage: Path, models: Models, artifacts: Path, name: str, version: str, record: RunRecord, progress: Progress) -> list[Hop]:
    write_files = RECIPES[name].files(artifacts, models)
    metadata = {"version": version, "code": record.code_version, "data": record.data_version, "as_of": record.as_of}
    for spec, module in models.served().values():
        progress(f"exporting {spec.name} to ONNX")
        onnx.export(module, spec, stage / f"{spec.name}.onnx", metadata)
    golden = make_golden(models)
    np.savez(stage / GOLDEN, allow_pickle=False, **golden)
    progress("comparing ONNX Runtime with torch on the golden rows")
    hops = _prove(models, stage, golden)
    write_files(stage, progress)
    _write_manifest(stage, artifacts, name, version, record)
    return hops


def make_golden(models: Models) -> dict[str, np.ndarray]:
    """Rows that go through the whole chain: a later model gets what an earlier one gave, and all get the same inputs."""
    golden = models.known()
    for spec, module in models.served().values():
        inputs = parity.golden_inputs(spec, models.limits(), known=golden)
        golden |= {**inputs, **parity.torch_run(module, spec)(inputs)}
    return golden


def _prove(models: Models, folder: Path, golden: Mapping[str, np.ndarray]) -> list[Hop]:
    """torch against ONNX Runtime, with the negative control, and what must hold beside parity."""
    hops = []
    for spec, module in models.served().values():
        candidate, inputs = parity.onnx_run(folder / f"{spec.name}.onnx"), golden_rows(spec, golden)
        hops.append(parity.compare(spec, "torch → onnx", parity.torch_run(module, spec), candidate, inputs))
        parity.require(hops)
        parity.negative_control(spec, module, candidate, inputs, within=models.nudge_within)
    hops += models.checks(folder, golden)
    parity.require(hops)
    return hops


def _write_manifest(stage: Path, artifacts: Path, name: str, version: str, record: RunRecord) -> None:
    try:
        settings, metrics = (orjson.loads((artifacts / n).read_bytes()) for n in ("settings.json", "metrics.json"))
    except (OSError, ValueError) as exc:
        raise ArtifactError(f"cannot read the run's files in {artifacts}: {exc}. Train again: {BUNDLES[name].train}") from exc
    manifest = BundleManifest(
        model=name,
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
