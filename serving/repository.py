"""From a bundle to the folder that Triton loads.

    <repository>/user_tower/config.pbtxt      from serving/triton_repo, the same everywhere
    <repository>/user_tower/7/model.onnx      one folder per version (model.plan for TensorRT)

    <repository>/text_to_sql/1/               model.py, encoder.onnx, step.onnx; one version only, of `build_questions`
    <repository>/ocr_detect/1/model.onnx      and ocr_recognize; one version only, of `build_ocr`
    <repository>/product_classifier/1/        one version only, of `build_products`

Everything is prepared in `<repository>.staging` beside it and comes in by one rename per model, so that at any instant, also after
SIGKILL, the repository holds only whole versions and loads. A version never changes. The newest few are kept, and always the deployed one.
The bundles (`contracts.bundle.BUNDLES`) have models of different names, so each is added and pruned by its own version numbers.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from google.protobuf import text_format
from pydantic import Field
from tritonclient.grpc import model_config_pb2

from contracts import ocr, products, questions
from contracts.bundle import SERVED_MODELS, bundle_of, deployed_version, file_sha256, read_manifest
from contracts.errors import ArtifactError, ConfigError
from contracts.settings import StackSettings, settings_config
from contracts.tensors import ModelSpec

TEMPLATES = Path(__file__).resolve().parent / "triton_repo"
Target = Literal["onnxruntime", "tensorrt"]
FILES: dict[str, str] = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}


class RepositorySettings(StackSettings):
    """How the model repository is kept; variables REGULARS_REPOSITORY_*."""

    model_config = settings_config("REGULARS_REPOSITORY_")

    keep_versions: int = Field(default=3, ge=1, le=100, description="newest versions of each model that stay loaded")
    question_instances: int = Field(default=0, ge=0, le=64, description="processes of text_to_sql; 0: one for every 8 cores, at least one")


def build(
    bundle_dir: Path, repository: Path, models: Sequence[str] | None = None, keep: int | None = None, target: Target = "onnxruntime"
) -> list[Path]:
    """Add a bundle's models to the repository as the bundle's version, and let go of versions beyond the newest `keep`.

    Safe to repeat: what is there with the same content stays as it is. One builder at a time (file lock).

    Args:
        bundle_dir: `<models dir>/<bundle>/<version>`; the bundle is one of `contracts.bundle.BUNDLES`, the version a whole number from 1.
        repository: Triton's model repository; made when missing. The models of other bundles in it are left alone.
        models: names of models of that bundle; all of them when None.
        keep: versions of each model to keep; RepositorySettings' when None.
        target: `onnxruntime` takes `<model>.onnx`, `tensorrt` takes `engines/<model>.plan` of the bundle.

    Returns:
        the version folders, one per model.

    Raises:
        ArtifactError: the bundle is damaged, not a numbered version, lacks a file, or that version is there with other content.
        ConfigError: an unknown bundle, or a model that is not of it.
    """
    version = _version_of(bundle_dir)
    spec = bundle_of(bundle_dir)
    read_manifest(bundle_dir)
    names = tuple(spec.models) if models is None else tuple(models)
    unknown = sorted(set(names) - set(spec.models))
    if unknown:
        raise ConfigError(f"{', '.join(unknown)} is not a model of {spec.name}, must be one of {', '.join(spec.models)}. Correct the name")
    sources = {name: _source(bundle_dir, name, target) for name in names}
    limit = RepositorySettings.load().keep_versions if keep is None else keep
    with _staging(repository) as staging:
        folders = [_add(repository, staging, name, version, source, target) for name, source in sources.items()]
        keep_also = {version, _deployed(bundle_dir)}
        for name in names:
            _prune(repository / name, staging, limit, keep_also)
    return folders


def build_questions(folder: Path, repository: Path, instances: int | None = None) -> Path:
    """Put the text-to-SQL model of a folder into the repository, as its only version.

    Safe to repeat: what is there with the same content stays as it is. Other content under the same number is replaced: this model comes
    with the product, and nobody waits for an older one of it.

    Args:
        folder: `nlq/artifact`, or what `regulars train text-to-sql` wrote.
        repository: Triton's model repository; made when missing. Other models in it are left alone.
        instances: processes that answer; RepositorySettings' when None.

    Returns:
        the version's folder.

    Raises:
        ArtifactError: the folder lacks a file, a checksum does not fit, or its version is not `text-to-sql/` and a whole number from 1.
    """
    version, fingerprint = _questions_version(folder)
    count = (RepositorySettings.load().question_instances or max(1, (os.cpu_count() or 1) // 8)) if instances is None else instances
    config = read_config(TEMPLATES / questions.TEXT_TO_SQL / "config.pbtxt")
    config.instance_group[0].count = count
    config.parameters[questions.FINGERPRINT].string_value = fingerprint
    files = {name: folder / name for name in questions.SERVED_FILES} | {"model.py": TEMPLATES / questions.TEXT_TO_SQL / "model.py"}
    with _staging(repository) as staging:
        return _put_only(repository / questions.TEXT_TO_SQL, version, files, str(text_format.MessageToString(config)), staging)


def build_ocr(folder: Path, repository: Path, target: Target = "onnxruntime") -> list[Path]:
    """Put the two networks that read text into the repository, each as its only version.

    Safe to repeat, like `build_questions`, and for the same reason other content under the same number is replaced.

    Args:
        folder: as `vision.export_ocr.export` writes it; with `engines/<model>.plan` for TensorRT.
        repository: Triton's model repository; made when missing. Other models in it are left alone.
        target: see `build`.

    Returns:
        the versions' folders, detection first.

    Raises:
        ArtifactError: the folder lacks a file, a checksum does not fit, or a committed config does not match contracts/ocr.py.
    """
    how = "Make it again: regulars export --model ocr"
    try:
        sha256 = json.loads((folder / ocr.RECORD).read_text(encoding="utf-8"))["sha256"]
        damaged = [name for name in ocr.OCR_MODELS if file_sha256(folder / f"{name}.onnx") != sha256[f"{name}.onnx"]]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ArtifactError(f"cannot read the OCR networks in {folder}: {type(exc).__name__}: {exc}. {how}") from exc
    if damaged:
        raise ArtifactError(f"{folder / damaged[0]}.onnx has another checksum than {ocr.RECORD} says. {how}")
    sources = {name: _source(folder, name, target) for name in ocr.OCR_MODELS}
    with _staging(repository) as staging:
        return [
            _put_only(repository / name, ocr.VERSION, {FILES[target]: source}, _ocr_config(name, target, ocr.fingerprint(sha256)), staging)
            for name, source in sources.items()
        ]


def _ocr_config(model: str, target: Target, fingerprint: str) -> str:
    config = text_format.Parse(config_text(model, target), model_config_pb2.ModelConfig())
    config.parameters[ocr.FINGERPRINT].string_value = fingerprint
    return str(text_format.MessageToString(config))


def build_products(folder: Path, repository: Path, target: Target = "onnxruntime") -> Path:
    """Put the network that knows products into the repository, as its only version; another one under the same number is replaced.

    Args:
        folder: as `regulars train products` writes it; with `engines/product_classifier.plan` for TensorRT.
        repository: Triton's model repository; made when missing. Other models in it are left alone.
        target: see `build`.

    Returns:
        the version's folder.

    Raises:
        ArtifactError: the folder lacks a file, a checksum does not fit, or the committed config does not match contracts/products.py.
    """
    how = "Train it again: regulars train products"
    network = f"{products.NAME}.onnx"
    try:
        sha256 = json.loads((folder / products.RECORD).read_text(encoding="utf-8"))["sha256"]
        damaged = file_sha256(folder / network) != sha256[network]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ArtifactError(f"cannot read the product network in {folder}: {type(exc).__name__}: {exc}. {how}") from exc
    if damaged:
        raise ArtifactError(f"{folder / network} has another checksum than {products.RECORD} says. {how}")
    source = _source(folder, products.NAME, target)
    config = text_format.Parse(config_text(products.NAME, target), model_config_pb2.ModelConfig())
    config.parameters[products.FINGERPRINT].string_value = products.fingerprint(sha256)
    with _staging(repository) as staging:
        return _put_only(
            repository / products.NAME, products.VERSION, {FILES[target]: source}, str(text_format.MessageToString(config)), staging
        )


def _put_only(model: Path, version: str, files: Mapping[str, Path], config: str, staging: Path) -> Path:
    """Make files the only version of a model, replacing what is there with other content."""
    if not all(_same(model / version / name, source) for name, source in files.items()):
        stage = Path(tempfile.mkdtemp(dir=staging)) / model.name
        (stage / version).mkdir(parents=True)
        for name, source in files.items():
            shutil.copyfile(source, stage / version / name)  # no link: training writes its folder in place
        if model.is_dir():
            if (model / version).is_dir():
                (model / version).rename(stage / "replaced")
            (stage / version).rename(model / version)
        else:
            (stage / "config.pbtxt").write_text(config, encoding="utf-8")
            stage.rename(model)
    _write_config(model / "config.pbtxt", config, staging)
    _prune(model, staging, 0, {version})
    return model / version


def remove_questions(repository: Path) -> None:
    """Take the text-to-SQL model out of the repository, where there is one: a server that cannot load a model does not start."""
    model = repository / questions.TEXT_TO_SQL
    if model.is_dir():
        with _staging(repository) as staging:
            gone = Path(tempfile.mkdtemp(dir=staging)) / model.name
            model.rename(gone)
            shutil.rmtree(gone)


def _questions_version(folder: Path) -> tuple[str, str]:
    """Number and fingerprint of a text-to-SQL model whose files are as its record says."""
    how = "Restore the folder, or train again: regulars train text-to-sql"
    try:
        record = json.loads((folder / questions.RECORD).read_text(encoding="utf-8"))
        bundle, _, number = record["version"].partition("/")
        damaged = [name for name in questions.SERVED_FILES if file_sha256(folder / name) != record["sha256"][name]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ArtifactError(f"cannot read the text-to-SQL model in {folder}: {type(exc).__name__}: {exc}. {how}") from exc
    if damaged:
        raise ArtifactError(f"{folder / damaged[0]} has another checksum than {questions.RECORD} says. {how}")
    if bundle != questions.BUNDLE or not number.isdigit() or str(int(number)) != number or int(number) < 1:
        raise ArtifactError(f"{folder} holds version {record['version']!r}, must be {questions.BUNDLE}/N, N a whole number from 1. {how}")
    return number, questions.fingerprint(record["sha256"])


def _same(present: Path, source: Path) -> bool:
    return present.is_file() and file_sha256(present) == file_sha256(source)


def versions(repository: Path, model: str) -> list[int]:
    """Versions of a model in the repository, ascending."""
    return sorted(int(f.name) for f in (repository / model).glob("*") if f.name.isdigit() and f.is_dir())


def read_config(path: Path) -> model_config_pb2.ModelConfig:
    """Parse a config.pbtxt.

    Raises:
        ArtifactError: missing or not valid.
    """
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except (OSError, text_format.ParseError) as exc:
        raise ArtifactError(f"cannot read {path}: {exc}. Restore it from serving/triton_repo, then: regulars export") from exc


def check_config(config: model_config_pb2.ModelConfig, spec: ModelSpec) -> None:
    """Raise ArtifactError unless a config has exactly the tensors, the name and the batch size of a ModelSpec."""
    wanted = {t.name: (f"TYPE_{t.triton_dtype}", t.shape) for t in (*spec.inputs, *spec.outputs)}
    both = (*config.input, *config.output)
    found = {t.name: (model_config_pb2.DataType.Name(t.data_type), tuple(t.dims)) for t in both}
    sides = ([t.name for t in config.input], [t.name for t in config.output])
    expected = ([t.name for t in spec.inputs], [t.name for t in spec.outputs])
    head = (config.name, config.max_batch_size)
    if found != wanted or sides != expected or head != (spec.name, spec.max_batch_size):
        raise ArtifactError(
            f"config of {config.name or 'a model'} says {head} {found}, contracts/tensors.py says "
            f"{(spec.name, spec.max_batch_size)} {wanted}. Correct serving/triton_repo"
        )


def config_text(model: str, target: Target) -> str:
    """The config.pbtxt of a model for a target: the committed text, with the backend changed for TensorRT.

    Raises:
        ArtifactError: the committed config is missing, not valid, or does not match contracts/tensors.py.
    """
    path = TEMPLATES / model / "config.pbtxt"
    config = read_config(path)
    check_config(config, {**SERVED_MODELS, **ocr.OCR_MODELS, **products.PRODUCT_MODELS}[model])
    if target == "onnxruntime":
        return path.read_text(encoding="utf-8")
    config.backend = "tensorrt"
    config.default_model_filename = FILES[target]
    config.parameters.clear()  # ONNX Runtime's
    # Whatever waits is batched, nothing waits in order to be batched; beyond the queue's bound a request is refused at once.
    config.dynamic_batching.max_queue_delay_microseconds = 0
    config.dynamic_batching.default_queue_policy.max_queue_size = 1024
    return str(text_format.MessageToString(config))


def _version_of(bundle_dir: Path) -> str:
    name = bundle_dir.name
    if not name.isdigit() or str(int(name)) != name or int(name) < 1:
        raise ArtifactError(
            f"bundle folder is named {name!r}, must be a whole number from 1 (Triton's version). Build it with regulars export"
        )
    return name


def _source(bundle_dir: Path, model: str, target: Target) -> Path:
    path = bundle_dir / f"{model}.onnx" if target == "onnxruntime" else bundle_dir / "engines" / f"{model}.plan"
    if not path.is_file():
        step = "regulars export" if target == "onnxruntime" else "regulars compile --target tensorrt, in the image that has TensorRT"
        raise ArtifactError(f"{path} is missing, {target} needs it. Make it: {step}")
    return path


def _deployed(bundle_dir: Path) -> str:
    try:
        return deployed_version(bundle_dir.parent.parent, bundle_dir.parent.name)
    except ArtifactError:
        return ""


@contextmanager
def _staging(repository: Path) -> Iterator[Path]:
    """An empty folder on the repository's file system, held by one builder; what a killed one left in it is removed."""
    repository.mkdir(parents=True, exist_ok=True)
    staging = repository.with_name(repository.name + ".staging")
    staging.mkdir(exist_ok=True)
    with (staging / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in staging.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
        yield staging


def _add(repository: Path, staging: Path, model: str, version: str, source: Path, target: Target) -> Path:
    folder = repository / model
    final = folder / version
    name = FILES[target]
    if final.is_dir():
        _check_same(final / name, source, model, version)
    else:
        stage = Path(tempfile.mkdtemp(dir=staging)) / model  # mkdtemp's own folder is private, Triton may be another user
        _link(source, stage / version / name)
        _fit(folder, name, target)
        if folder.is_dir():
            (stage / version).rename(final)
        else:
            (stage / "config.pbtxt").write_text(config_text(model, target), encoding="utf-8")
            stage.rename(folder)
    _write_config(folder / "config.pbtxt", config_text(model, target), staging)
    return final


def _check_same(present: Path, source: Path, model: str, version: str) -> None:
    if not present.is_file() or file_sha256(present) != file_sha256(source):
        raise ArtifactError(
            f"version {version} of {model} is in the repository with other content than {source}; a version never changes. "
            "Train and export a new one, or remove this one from the repository"
        )


def _fit(folder: Path, name: str, target: Target) -> None:
    """One config serves all versions of a model, so all must be of one kind."""
    other = [v for v in folder.glob("*/model.*") if v.name != name]
    if other:
        raise ArtifactError(
            f"{folder} holds {other[0].parent.name}/{other[0].name}, {target} needs {name} in every version. Use a repository of its own"
        )


def _link(source: Path, target: Path) -> None:
    """Hard link where the file system can (bundles are never written in place), else copy."""
    target.parent.mkdir(parents=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _write_config(path: Path, text: str, staging: Path) -> None:
    """Replace a config only when it differs: Triton reloads every version of a model whose config changed."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    temporary = Path(tempfile.mkdtemp(dir=staging)) / path.name
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _prune(folder: Path, staging: Path, keep: int, keep_also: set[str]) -> None:
    """Move versions beyond the newest `keep` out by rename, then delete them."""
    present = versions(folder.parent, folder.name)
    for version in present[: max(0, len(present) - keep)]:
        if str(version) not in keep_also:
            gone = Path(tempfile.mkdtemp(dir=staging)) / str(version)
            (folder / str(version)).rename(gone)
            shutil.rmtree(gone)
