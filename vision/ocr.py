"""Our own reading of text: PP-OCRv6's two networks, run in this process or by the model server, and what lies around them.

Text is looked for at the picture's own size up to a limit, the boxes are cut out, and crops of about one width are read together. Whether
the page lies on its side is told by the shapes of the boxes, whether it stands on its head by how sure the reading of a few of them is: no
third network, and nothing to pay for pages that are upright.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from contracts.errors import ShapeError
from contracts.ocr import OCR_DETECT, OCR_RECOGNIZE
from vision import ocr_detect, ocr_recognize, preprocess
from vision.export_ocr import read_record
from vision.ocr_settings import OcrSettings
from vision.types import TextLine

Answer = tuple[np.ndarray, np.ndarray]
"""Of one batch: characters int32 (B, T, 3) and probabilities float32 (B, T, 3)."""

SAMPLE = 6  # crops that decide whether a page stands on its head
SURE = 0.9  # mean confidence of the sample from which nothing else is tried
MIN_SIDE = 8


class Networks(Protocol):
    """Where the two networks run."""

    @property
    def alphabet(self) -> Sequence[str]:
        """The characters that recognition answers, from index 1."""
        ...

    def detect(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3), sizes multiples of 32, to uint8 (H, W): P(text) x 255."""
        ...

    def recognize(self, batches: Sequence[np.ndarray]) -> list[Answer]:
        """uint8 (B, 48, width, 3) each, to one answer each, in their order."""
        ...


class LocalNetworks:
    """The networks in this process, by ONNX Runtime. May be used by several threads at once.

    Args:
        folder: as `vision.export_ocr.export` writes it.
        threads: cores to use; all that this process may use when None.

    Raises:
        ArtifactError: the folder is missing, damaged or stale.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self.alphabet = tuple(read_record(folder)["characters"])
        count = threads or len(os.sched_getaffinity(0))
        self._detect = _session(folder / f"{OCR_DETECT.name}.onnx", count)
        # A crop is too small to be shared among cores: each batch has one, several batches run side by side.
        self._recognize = _session(folder / f"{OCR_RECOGNIZE.name}.onnx", 1)
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="ocr") if count > 1 else None

    def detect(self, pixels: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._detect.run(["text_map"], {"pixels": pixels[None]})[0][0]
        return found

    def recognize(self, batches: Sequence[np.ndarray]) -> list[Answer]:
        return list(map(self._read, batches) if self._pool is None or len(batches) < 2 else self._pool.map(self._read, batches))

    def _read(self, batch: np.ndarray) -> Answer:
        characters, probabilities = self._recognize.run(["characters", "probabilities"], {"crops": batch})
        return characters, probabilities

    def close(self) -> None:
        """Stop its threads."""
        if self._pool is not None:
            self._pool.shutdown()


def _session(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class Page:
    """What was read from a picture.

    Attributes:
        lines: pieces of text in reading order, corners in pixels of the picture as it was given.
        turned: clockwise quarter turns that made the page upright.
        skew: radians, of the lines on the upright page, clockwise.
        stretched: whether its contrast was raised.
        stages_ms: time by stage: prepare, detect, boxes, crops, recognize, decode.
    """

    lines: list[TextLine]
    turned: int
    skew: float
    stretched: bool
    stages_ms: dict[str, float]


class PaddleOcr:
    """Reads text with PP-OCRv6; an OcrEngine. May be used by several threads at once.

    Args:
        networks: where the two networks run.
        settings: see OcrSettings.
    """

    name = "paddle"

    def __init__(self, networks: Networks, settings: OcrSettings | None = None) -> None:
        self.networks = networks
        self.settings = settings or OcrSettings.load()

    def read(self, pixels: np.ndarray) -> list[TextLine]:
        """See OcrEngine.

        Raises:
            ShapeError: not a uint8 (H, W, 3) picture.
        """
        return self.page(pixels).lines

    def page(self, pixels: np.ndarray) -> Page:
        """Read a picture and tell how it lay. Raises as `read` does."""
        check_picture(pixels)
        return _Reader(self.networks, self.settings, pixels).page()


def check_picture(pixels: np.ndarray) -> None:
    """Raise ShapeError unless an array is a picture."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape[:2]) < 1:
        raise ShapeError(
            f"the picture is {pixels.dtype} {pixels.shape}, must be uint8 (H, W, 3), RGB. Decode it with vision.upload.open_picture"
        )


class _Reader:
    """The reading of one picture."""

    def __init__(self, networks: Networks, settings: OcrSettings, pixels: np.ndarray) -> None:
        self.networks, self.settings = networks, settings
        self.given = pixels
        self.turned = 0
        self.stretched = False
        self.stages: dict[str, float] = dict.fromkeys(("prepare", "detect", "boxes", "crops", "recognize", "decode"), 0.0)
        self._last = perf_counter()

    def _stage(self, name: str) -> None:
        now = perf_counter()
        self.stages[name] += (now - self._last) * 1000
        self._last = now

    def page(self) -> Page:
        height, width = self.given.shape[:2]
        if min(height, width) < MIN_SIDE:
            return Page([], 0, 0.0, False, self.stages)
        self.pixels = self.given
        if self.settings.stretch and preprocess.contrast_of(self.pixels) < preprocess.CONTRAST_LOW:
            self.pixels, self.stretched = preprocess.stretched(self.pixels), True
        found = self._detected()
        if self.settings.turn and len(found) and ocr_detect.sideways(found):
            self._turn(1)
            found = self._detected()
        readings: dict[int, ocr_recognize.Reading] = {}
        if self.settings.turn and len(found):
            sample = _sample(found)
            readings = self._readings(found, sample)
            if _sureness(readings) < SURE:
                on_its_head = self._readings(found, sample, flip=True)
                if _sureness(on_its_head) > _sureness(readings):
                    self._turn(2)
                    found, readings = self._detected(), {}
        readings |= self._readings(found, [i for i in range(len(found)) if i not in readings])
        lines = self._lines(found, readings)
        return Page(lines, self.turned, ocr_detect.skew(found.quads), self.stretched, self.stages)

    def _turn(self, quarters: int) -> None:
        self.pixels = preprocess.turned(self.pixels, quarters)
        self.turned = (self.turned + quarters) % 4

    def _detected(self) -> ocr_detect.Found:
        s = self.settings
        height, width = self.pixels.shape[:2]
        fitted = preprocess.fitted(self.pixels, s.longest_px)
        self._stage("prepare")
        text_map = self.networks.detect(fitted)
        self._stage("detect")
        found = ocr_detect.boxes(text_map, width, height, s.map_threshold, s.box_threshold, s.growth)
        self._stage("boxes")
        return found

    def _readings(self, found: ocr_detect.Found, which: Sequence[int], flip: bool = False) -> dict[int, ocr_recognize.Reading]:
        downwards = ocr_detect.downwards(found)
        crops = [self._crop(found.quads[i], bool(downwards[i]), flip) for i in which]
        batches = ocr_recognize.batches(crops)
        self._stage("crops")
        answers = self.networks.recognize([batch for _, batch in batches])
        self._stage("recognize")
        alphabet = self.networks.alphabet
        readings = {
            which[member]: ocr_recognize.decode(characters[row], probabilities[row], alphabet)
            for (members, _), (characters, probabilities) in zip(batches, answers, strict=True)
            for row, member in enumerate(members)
        }
        self._stage("decode")
        return readings

    def _crop(self, quad: np.ndarray, downwards: bool, flip: bool) -> np.ndarray:
        corners = np.roll(quad, -((1 if downwards else 0) + (2 if flip else 0)), axis=0)
        return preprocess.crop(self.pixels, corners, ocr_recognize.WIDEST)

    def _lines(self, found: ocr_detect.Found, readings: dict[int, ocr_recognize.Reading]) -> list[TextLine]:
        height, width = self.given.shape[:2]
        tight = found.quads if found.tight is None else found.tight
        quads = preprocess.turned_back(tight, self.turned, width, height)
        lines = []
        for i, quad in enumerate(quads):
            reading = readings[i]
            if not reading.text.strip() or reading.confidence < self.settings.min_confidence:
                continue
            corners = tuple((round(float(x), 1), round(float(y), 1)) for x, y in quad)
            lines.append(TextLine(corners, reading.text, reading.confidence, reading.characters, reading.alternatives))  # type: ignore[arg-type]
        self._stage("decode")
        return lines


def _sample(found: ocr_detect.Found) -> list[int]:
    """A few boxes of middling length: long enough to be words, short enough to cost little."""
    width, height = ocr_detect.sizes(found.quads)
    shape = np.maximum(width, height) / np.maximum(np.minimum(width, height), 1)
    return [int(i) for i in np.argsort(np.abs(shape - 7), kind="stable")[:SAMPLE]]


def _sureness(readings: dict[int, ocr_recognize.Reading]) -> float:
    """Mean confidence of the characters of some readings; 0 where nothing was read."""
    sure = [c for reading in readings.values() for c in reading.characters]
    return float(np.mean(sure)) if sure else 0.0
