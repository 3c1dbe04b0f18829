"""From the weights inside the installed `rapidocr` package to the two networks that are served: `ocr_detect.onnx` and `ocr_recognize.onnx`.

The package carries PP-OCRv6 (small) of PaddleOCR as ONNX. What is changed, none of it the weights' meaning:

- pictures come in as they lie in memory, uint8 (B, H, W, 3) in RGB: the cast, the scaling to -1..1 and the order of the axes are in the
  graph, and the first convolution's channels are swapped, since the networks were trained on BGR;
- detection answers uint8, P(text) x 255, a quarter of the bytes;
- recognition answers the three likeliest characters of a step instead of the probabilities of all 18,710 (36 MB for a batch of six lines),
  and knows the characters of the scripts that are asked for only.

Nothing of the weights is kept in this repository. Letters: B batch, H W picture, T steps.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contracts.bundle import file_sha256
from contracts.errors import ArtifactError, ConfigError
from contracts.ocr import BUNDLE, OCR_DETECT, OCR_MODELS, OCR_RECOGNIZE, READINGS, RECORD, VERSION, fingerprint

SOURCES = {OCR_DETECT.name: "PP-OCRv6_det_small.onnx", OCR_RECOGNIZE.name: "PP-OCRv6_rec_small.onnx"}
LICENCE = "Apache-2.0"
ORIGIN = (
    "PP-OCRv6 small of PaddleOCR (PaddlePaddle authors), converted to ONNX by RapidOCR (RapidAI), as carried in the PyPI package rapidocr"
)
SCRIPTS = ("latin", "all")
FORMAT = 1  # of the graphs that are written here; another number makes folders of older ones stale

_LATIN_NAMES = ("LATIN ", "DIGIT ")
_LATIN_ALSO = "€£¥₹₽₩₱₫฿₺₴₦₵₡₲₪₸₼₾¢¤°©®™№§¶•·–—‘’“”„‚«»‹›…×÷±µºª¹²³¼½¾√†‡♦★☆●■□▪"


def characters_of(script: str, known: Sequence[str]) -> list[int]:
    """Indices of the known characters that a script keeps.

    Args:
        script: `latin` (letters with and without accents, digits, punctuation, currency signs) or `all`.
        known: the characters of the weights, without blank.

    Raises:
        ConfigError: no such script.
    """
    if script not in SCRIPTS:
        raise ConfigError(f"the script of OCR is {script!r}, must be one of {', '.join(SCRIPTS)}. Set REGULARS_OCR_SCRIPT to one of them")
    return [i for i, c in enumerate(known) if script == "all" or _is_latin(c)]


def _is_latin(character: str) -> bool:
    return character.isascii() or character in _LATIN_ALSO or unicodedata.name(character[0], "").startswith(_LATIN_NAMES)


def source_folder() -> Path:
    """The folder of the installed package that holds the weights.

    Raises:
        ConfigError: the package is not installed.
        ArtifactError: it is, without the weights that are wanted.
    """
    spec = importlib.util.find_spec("rapidocr")  # not imported: it would load OpenCV and its own settings
    if spec is None or spec.origin is None:
        raise ConfigError(
            "rapidocr is not installed, the OCR networks are made from the weights it carries. Install it: pip install rapidocr==3.10.*"
        )
    folder = Path(spec.origin).parent / "models"
    missing = [name for name in SOURCES.values() if not (folder / name).is_file()]
    if missing:
        raise ArtifactError(
            f"{folder} lacks {', '.join(missing)}, which rapidocr 3.10 carries. Install that version: pip install rapidocr==3.10.*"
        )
    return folder


def export(out: Path, script: str = "latin", source: Path | None = None) -> dict[str, Any]:
    """Write the networks and their record `model.json` into a folder.

    Safe to repeat: a folder that was made from the same weights, for the same script, in this format stays as it is. Comes in by one
    rename, so a folder is whole or not there.

    Args:
        out: the folder; replaced.
        script: see `characters_of`.
        source: a folder with the package's weights; the installed package's when None.

    Returns:
        the record.

    Raises:
        ConfigError: no such script, or the package is not installed.
        ArtifactError: the weights are missing or not what this was written for.
    """
    folder = source or source_folder()
    checksums = {name: _checksum(folder / name) for name in SOURCES.values()}
    record = _kept(out, script, checksums)
    if record is not None:
        return record
    out.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f"{out.name}.", dir=out.parent))
    try:
        stage.chmod(0o755)
        characters = _write_networks(folder, stage, script)
        record = _record(stage, script, checksums, characters)
        (stage / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
        _replace(stage, out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return record


def read_record(folder: Path) -> dict[str, Any]:
    """The record of an OCR folder, its files checked against it.

    Raises:
        ArtifactError: missing, damaged, or another format.
    """
    how = "Make it again: regulars export --model ocr"
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        damaged = [n for n in OCR_MODELS if file_sha256(folder / f"{n}.onnx") != record["sha256"][f"{n}.onnx"]]
        stale = record["format"] != FORMAT
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ArtifactError(f"cannot read the OCR networks in {folder}: {type(exc).__name__}: {exc}. {how}") from exc
    if damaged:
        raise ArtifactError(f"{folder / damaged[0]}.onnx has another checksum than {RECORD} says. {how}")
    if stale:
        raise ArtifactError(f"the OCR networks in {folder} are of format {record['format']}, must be {FORMAT}. {how}")
    return dict(record)


def _checksum(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as exc:
        raise ArtifactError(f"cannot read {path}: {exc.strerror}. Install the package again: pip install rapidocr==3.10.*") from exc


def _kept(out: Path, script: str, checksums: dict[str, str]) -> dict[str, Any] | None:
    try:
        record = read_record(out)
    except ArtifactError:
        return None
    return record if record["script"] == script and record["made_from"] == checksums else None


def _replace(stage: Path, out: Path) -> None:
    old = Path(tempfile.mkdtemp(prefix=f"{out.name}.", dir=out.parent)) / "old"
    try:
        if out.is_dir():
            out.rename(old)
        stage.rename(out)
    finally:
        shutil.rmtree(old.parent, ignore_errors=True)


def _record(stage: Path, script: str, checksums: dict[str, str], characters: list[str]) -> dict[str, Any]:
    sha256 = {f"{name}.onnx": file_sha256(stage / f"{name}.onnx") for name in OCR_MODELS}
    return {
        "bundle": BUNDLE, "version": VERSION, "format": FORMAT, "script": script, "origin": ORIGIN,
        "package": f"rapidocr {_package_version()}", "licence": LICENCE, "licence_text": "https://www.apache.org/licenses/LICENSE-2.0",
        "changes": "input and output layers only: uint8 RGB in, uint8 map and three likeliest characters out, characters by script",
        "made_from": checksums, "sha256": sha256, "fingerprint": fingerprint(sha256), "characters": characters,
    }  # fmt: skip


def _package_version() -> str:
    try:
        return importlib.metadata.version("rapidocr")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _write_networks(folder: Path, stage: Path, script: str) -> list[str]:
    """Both graphs; the characters of the second, from index 1."""
    import onnx

    detect = _load(folder / SOURCES[OCR_DETECT.name])
    recognize = _load(folder / SOURCES[OCR_RECOGNIZE.name])
    try:
        known = [*{p.key: p.value for p in recognize.metadata_props}["character"].splitlines(), " "]
        kept = characters_of(script, known)
        for model in (detect, recognize):
            _without_identities(model.graph)
            _takes_pictures(model.graph)
        _answers_bytes(detect.graph)
        _answers_readings(recognize.graph, kept, len(known))
    except (KeyError, IndexError, StopIteration) as exc:
        raise ArtifactError(
            f"the weights in {folder} are not the graphs that vision/export_ocr.py was written for ({type(exc).__name__}: {exc}). "
            "Install the package it names: pip install rapidocr==3.10.*"
        ) from exc
    for model, spec in ((detect, OCR_DETECT), (recognize, OCR_RECOGNIZE)):
        _declare(model, spec)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, stage / f"{spec.name}.onnx")
    return [known[i] for i in kept]


def _load(path: Path) -> Any:
    import onnx

    try:
        return onnx.load(path)
    except Exception as exc:  # onnx raises protobuf's own errors, of several kinds
        raise ArtifactError(f"cannot read {path}: {exc}. Install the package again: pip install rapidocr==3.10.*") from exc


def _without_identities(graph: Any) -> None:
    """Take out nodes that only rename; the converter left one behind nearly every addition."""
    outputs = {o.name for o in graph.output}
    renamed = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Identity" and n.output[0] not in outputs}

    def root(name: str) -> str:
        while name in renamed:
            name = renamed[name]
        return name

    kept = [n for n in graph.node if n.output[0] not in renamed]
    for node in kept:
        node.input[:] = [root(name) for name in node.input]
    del graph.node[:]
    graph.node.extend(kept)


def _constant(graph: Any, name: str, value: np.ndarray) -> str:
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def _initializer(graph: Any, name: str) -> Any:
    return next(i for i in graph.initializer if i.name == name)


def _takes_pictures(graph: Any) -> None:
    """uint8 (B, H, W, 3) RGB in front: cast, (B, 3, H, W), x / 127.5 - 1 as in training, and the first kernel's channels swapped."""
    from onnx import helper, numpy_helper

    first = next(n for n in graph.node if n.op_type == "Conv" and graph.input[0].name in n.input)
    readers = [n for n in graph.node if graph.input[0].name in n.input]
    if len(readers) != 1:
        raise KeyError("more than one node reads the picture")
    weights = _initializer(graph, first.input[1])
    weights.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(weights)[:, ::-1]), weights.name))
    scale = _constant(graph, "picture_scale", np.array(1 / 127.5, np.float32))
    shift = _constant(graph, "picture_shift", np.array(-1, np.float32))
    name = "picture"
    nodes = [
        helper.make_node("Cast", [name], ["picture_real"], to=1),
        helper.make_node("Transpose", ["picture_real"], ["picture_planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["picture_planes", scale], ["picture_scaled"]),
        helper.make_node("Add", ["picture_scaled", shift], ["picture_normal"]),
    ]
    first.input[0] = "picture_normal"
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


def _answers_bytes(graph: Any) -> None:
    """float32 (B, 1, H, W) behind becomes uint8 (B, H, W), rounded."""
    from onnx import helper

    scale = _constant(graph, "map_scale", np.array(255, np.float32))
    graph.node.extend([
        helper.make_node("Mul", [graph.output[0].name, scale], ["map_scaled"]),
        helper.make_node("Round", ["map_scaled"], ["map_round"]),
        helper.make_node("Squeeze", ["map_round"], ["map_real"], axes=[1]),
        helper.make_node("Cast", ["map_real"], ["text_map"], to=2),
    ])  # fmt: skip


def _answers_readings(graph: Any, kept: Sequence[int], known: int) -> None:
    """The last layer keeps blank and the characters of the script; its softmax is followed by the three likeliest of each step."""
    from onnx import helper, numpy_helper

    softmax = next(n for n in graph.node if n.op_type == "Softmax" and n.output[0] == graph.output[0].name)
    add = next(n for n in graph.node if softmax.input[0] in n.output)
    product = next(n for n in graph.node if add.input[0] in n.output)
    classes = np.array([0, *(i + 1 for i in kept)])
    for name in (product.input[1], add.input[1]):
        tensor = _initializer(graph, name)
        values = numpy_helper.to_array(tensor)
        if values.shape[-1] != known + 1:
            raise KeyError(f"the last layer has {values.shape[-1]} classes, the record {known + 1} characters")
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[..., classes]), name))
    count = _constant(graph, "reading_count", np.array([READINGS], np.int64))
    graph.node.extend([
        helper.make_node("TopK", [softmax.output[0], count], ["probabilities", "reading_index"], axis=-1),
        helper.make_node("Cast", ["reading_index"], ["characters"], to=6),
    ])  # fmt: skip


def _declare(model: Any, spec: Any) -> None:
    """Inputs and outputs under the names, types and shapes of the spec; shapes of what lies between are found again."""
    from onnx import TensorProto, helper

    kinds = {"uint8": TensorProto.UINT8, "int32": TensorProto.INT32, "float32": TensorProto.FLOAT}

    def info(tensor: Any) -> Any:
        shape = [f"{tensor.name}_{i}" if size == -1 else size for i, size in enumerate(tensor.shape)]
        return helper.make_tensor_value_info(tensor.name, kinds[tensor.dtype], ["batch", *shape])

    graph = model.graph
    for node in graph.node:
        node.input[:] = [spec.inputs[0].name if name == "picture" else name for name in node.input]
    for field, tensors in ((graph.input, spec.inputs), (graph.output, spec.outputs)):
        del field[:]
        field.extend([info(t) for t in tensors])
    del graph.value_info[:]
    del model.metadata_props[:]
    helper.set_model_props(model, {"licence": LICENCE, "origin": ORIGIN})
    model.producer_name = "regulars vision.export_ocr"
    graph.name = spec.name
    model.ir_version = max(model.ir_version, 7)
