"""What product a picture shows, of which brand, and where: without torch, by ONNX Runtime in this process or by the model server.

Letters: B batch, S side of the network's square, G side of its maps, D embedding dim, F fine classes.
"""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np

from contracts.bundle import file_sha256
from contracts.errors import ArtifactError, ShapeError
from contracts.products import BUNDLE, MAX_BATCH, MEANS, NAME, RECORD
from vision.product_calibrate import grouped, known_probability, signals, softmax
from vision.product_data import prepared
from vision.types import Box, DetectedProduct

if TYPE_CHECKING:
    from vision.catalogue import Catalogue

FORMAT = 1
BOX_THRESHOLD = 0.05
"""Share of a map's peak from which a place belongs to the product: what gave the best boxes on labelled pictures
(`benchmarks/bench_boxes.py`). The map of a class is below nought where the picture speaks against it."""
TAUGHT_THRESHOLD = 0.25
"""The same for a taught product, whose map is above nought almost everywhere."""
_ENLARGE = 16
_AGAIN = "Train it again: regulars train products"


def products_folder(home: Path) -> Path:
    """Where a home keeps the network that knows products."""
    return home / "vision" / BUNDLE / "artifact"


class ProductNetwork(Protocol):
    """Where the network runs."""

    def infer(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """uint8 (B, S, S, 3), to the outputs of `contracts.products.product_spec` by name."""
        ...


class LocalNetwork:
    """The network in this process, by ONNX Runtime. May be used by several threads at once.

    Args:
        folder: as `regulars train products` writes it.
        threads: cores to use; all that this process may use when None.

    Raises:
        ArtifactError: the file cannot be loaded.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = onnxruntime.InferenceSession(folder / f"{NAME}.onnx", options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # the runtime raises classes of its own
            raise ArtifactError(f"cannot load {folder / NAME}.onnx: {exc}. {_AGAIN}") from exc
        self._names = [o.name for o in self._session.get_outputs()]

    def infer(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self._names, self._session.run(self._names, {"pixels": pixels}), strict=True))


@dataclass(frozen=True)
class ProductRecord:
    """What the folder's record says; see `contracts.products.RECORD`."""

    version: str
    size: int
    names: tuple[str, ...]
    parents: np.ndarray
    coarse_names: tuple[str, ...]
    brands: tuple[str, ...]
    coarse_mix: float
    known: dict[str, Any]
    catalogue: dict[str, Any]
    means: np.ndarray
    raw: dict[str, Any]


def read_record(folder: Path) -> ProductRecord:
    """The record of a products folder, its files checked against it.

    Raises:
        ArtifactError: missing, damaged, or of another format.
    """
    try:
        raw = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        damaged = [name for name, sha256 in raw["sha256"].items() if file_sha256(folder / name) != sha256]
        if damaged or raw["format"] != FORMAT:
            raise ValueError(f"{damaged[0]} has another checksum" if damaged else f"format {raw['format']}, must be {FORMAT}")
        with np.load(io.BytesIO((folder / MEANS).read_bytes()), allow_pickle=False) as file:
            means = file["means"].astype(np.float32)
        return ProductRecord(
            raw["version"], int(raw["size"]), tuple(raw["names"]), np.array(raw["parents"]), tuple(raw["coarse_names"]),
            tuple(raw["brands"]), float(raw["coarse_mix"]), raw["known"], raw["catalogue"], means, raw,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ArtifactError(f"cannot use the product network in {folder}: {type(exc).__name__}: {exc}. {_AGAIN}") from exc


@dataclass(frozen=True)
class Recognition:
    """What a picture shows.

    Attributes:
        products: best first; empty where it is not a product we know.
        known: P(it is a product that the network knows).
        nearest: fine class names with probabilities, likeliest first, also where the product is not known.
        groups: coarse class names with probabilities, likeliest first.
        stages_ms: time by stage: prepare, network, decide.
    """

    products: tuple[DetectedProduct, ...]
    known: float
    nearest: tuple[tuple[str, float], ...]
    groups: tuple[tuple[str, float], ...]
    stages_ms: dict[str, float]


class ProductRecognizer:
    """Recognises products. May be used by several threads at once.

    Args:
        folder: as `regulars train products` writes it.
        network: where it runs; this process when None.
        catalogue: products that businesses taught.
        threads: cores for the network in this process.

    Raises:
        ArtifactError: the folder is missing or damaged.
    """

    def __init__(
        self, folder: Path, network: ProductNetwork | None = None, catalogue: Catalogue | None = None, threads: int | None = None
    ) -> None:
        self.record = read_record(folder)
        self.network = network or LocalNetwork(folder, threads)
        self.catalogue = catalogue

    @property
    def version(self) -> str:
        return self.record.version

    def embed(self, pictures: list[np.ndarray]) -> np.ndarray:
        """Pictures of any size to float32 (N, D), L2 norm 1. Raises ShapeError."""
        squares = [prepared(check_picture(p), self.record.size) for p in pictures]
        batches = [np.stack(squares[i : i + MAX_BATCH]) for i in range(0, len(squares), MAX_BATCH)]
        return np.concatenate([self.network.infer(batch)["embedding"] for batch in batches])

    def recognise(self, pixels: np.ndarray, business_id: str = "") -> Recognition:
        """What a picture shows.

        Args:
            pixels: uint8 (H, W, 3), RGB.
            business_id: whose taught products are asked; none when empty.

        Raises:
            ShapeError: not a picture.
            UpstreamError: the network runs elsewhere and cannot be reached.
        """
        at = [perf_counter()]
        square = prepared(check_picture(pixels), self.record.size)
        at.append(perf_counter())
        found = {name: value[0] for name, value in self.network.infer(square[None]).items()}
        at.append(perf_counter())
        answer = self._decide(found, pixels.shape[1], pixels.shape[0], business_id)
        at.append(perf_counter())
        stages = {n: (b - a) * 1000 for n, a, b in zip(("prepare", "network", "decide"), at[:-1], at[1:], strict=True)}
        return Recognition(*answer, stages)

    def _decide(self, found: dict[str, np.ndarray], width: int, height: int, business_id: str) -> tuple[Any, float, Any, Any]:
        record = self.record
        fine, coarse = probabilities(found["fine_logits"][None], found["coarse_logits"][None], record)
        order, groups = np.argsort(-fine[0])[:5], np.argsort(-coarse[0])[:3]
        signal = signals(found["fine_logits"][None], found["embedding"][None], record.means)
        known = float(known_probability(signal, record.known["weights"], record.known["bias"])[0])
        products = self._taught(found, width, height, business_id)
        if known >= record.known["threshold"]:
            best = int(found["top"][0])
            box = box_of(found["maps"][0], width, height)
            name, group = record.names[best], record.coarse_names[record.parents[best]]
            products.append(DetectedProduct(name, record.brands[best], float(fine[0, best]), box, "classifier", group))
        products.sort(key=lambda p: -p.confidence)
        return (
            tuple(products),
            known,
            tuple((record.names[i], float(fine[0, i])) for i in order),
            tuple((record.coarse_names[i], float(coarse[0, i])) for i in groups),
        )

    def _taught(self, found: dict[str, np.ndarray], width: int, height: int, business_id: str) -> list[DetectedProduct]:
        if self.catalogue is None or not business_id:
            return []
        matches = self.catalogue.search(business_id, found["embedding"], 1)
        return [
            DetectedProduct(
                m.name,
                m.brand,
                m.confidence,
                box_of(found["places"] @ m.mean, width, height, TAUGHT_THRESHOLD),
                "catalogue",
                "",
                m.product_id,
            )
            for m in matches
            if m.known >= self.record.catalogue["threshold"]
        ]


def probabilities(fine_logits: np.ndarray, coarse_logits: np.ndarray, record: ProductRecord) -> tuple[np.ndarray, np.ndarray]:
    """Fine (B, F) and coarse (B, C) probabilities; the coarse ones are the sums of their fine classes mixed with the coarse head's."""
    fine = softmax(fine_logits)
    sums = grouped(fine, record.parents, len(record.coarse_names))
    return fine, record.coarse_mix * sums + (1 - record.coarse_mix) * softmax(coarse_logits)


def box_of(found: np.ndarray, width: int, height: int, threshold: float = BOX_THRESHOLD) -> Box:
    """The rectangle around what a map marks: the connected places of at least `threshold` of the peak that hold the peak.

    Args:
        found: float (G, G), what each place adds to a class.
        width, height: of the picture, which the map covers whole.

    Returns:
        the box in pixels of the picture; the whole picture where no place speaks for the class.
    """
    raised = np.maximum(found.astype(np.float32), 0)
    if not np.isfinite(raised).all() or raised.max() <= 0:
        return Box(0, 0, width, height)
    side = len(raised) * _ENLARGE
    large = cv2.resize(raised, (side, side), interpolation=cv2.INTER_LINEAR)
    mask = (large >= threshold * large.max()).astype(np.uint8)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    part = int(parts[np.unravel_index(int(large.argmax()), large.shape)])
    left, top, across, down = (int(stats[part, i]) for i in range(4))
    x, y = left * width // side, top * height // side
    right, bottom = -(-(left + across) * width // side), -(-(top + down) * height // side)
    return Box(x, y, max(1, min(width, right) - x), max(1, min(height, bottom) - y))


def check_picture(pixels: np.ndarray) -> np.ndarray:
    """The picture itself.

    Raises:
        ShapeError: it is not uint8 (H, W, 3) with at least 8 pixels on each side.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape[:2]) < 8:
        raise ShapeError(
            f"a picture is {pixels.dtype} {tuple(pixels.shape)}, must be uint8 (height, width, 3) with at least 8 pixels a side. "
            "Open it with vision.upload.open_picture"
        )
    return pixels
