"""Whether a network that was compiled for another runtime sees what ONNX Runtime sees.

The networks of pictures are compared by what is decided from them, not tensor by tensor: a map of bytes and the order of unlikely
characters differ between any two runtimes.

Letters: B batch, H W sizes of a picture, S side of the product network's square.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from contracts.ocr import CROP_HEIGHT, OCR_DETECT, OCR_RECOGNIZE
from contracts.products import NAME, product_spec
from contracts.tensors import ModelSpec
from training.export import parity
from vision.product_calibrate import softmax
from vision.products import ProductRecord

if TYPE_CHECKING:
    from training.export.parity import Hop, Run

LINES = ("GREEN LEAF BAKERY", "Rye bread 4.85", "2 x Oat milk 3.98", "TOTAL 8.83", "23/08/2021 17:45")
MAP_TOLERANCE = 0.005
"""Mean difference of the text map, as a probability."""
CHARACTER_TOLERANCE = 0.02
"""Share of the characters read with a probability of at least a half that may differ."""
PROBABILITY_TOLERANCE = 0.02
"""Largest difference of a class's probability, and largest distance between both embeddings (of length 1)."""


def page() -> np.ndarray:
    """A drawn receipt, uint8 (320, 480, 3)."""
    drawn = np.full((320, 480, 3), 240, np.uint8)
    for number, text in enumerate(LINES):
        cv2.putText(drawn, text, (30, 50 + 55 * number), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (30, 30, 30), 2, cv2.LINE_AA)
    return drawn


def product_model(record: ProductRecord, grid: int) -> ModelSpec:
    """The tensors of a trained product network."""
    return product_spec(record.size, len(record.names), len(record.coarse_names), record.means.shape[1], grid)


def comparison(spec: ModelSpec, onnx_path: Path, hop: str) -> Callable[[Run], Hop]:
    """What compares another runtime's answers with ONNX Runtime's on drawn pictures, for `tensorrt.compile`.

    Args:
        spec: `OCR_DETECT`, `OCR_RECOGNIZE` or a product network's.
        onnx_path: the exported network.
        hop: name of the comparison.
    """
    inputs = {spec.inputs[0].name: _drawn(spec)}
    expected = parity.onnx_run(onnx_path)(inputs)
    measure, tolerance, tensor = {
        OCR_DETECT.name: (_maps, MAP_TOLERANCE, "text_map"), OCR_RECOGNIZE.name: (_characters, CHARACTER_TOLERANCE, "characters"),
        NAME: (_products, PROBABILITY_TOLERANCE, "fine_logits"),
    }[spec.name]  # fmt: skip

    def compare(run: Run) -> Hop:
        found = run(inputs)
        for output in spec.outputs:
            output.check(found[output.name])
        return parity.Hop(spec.name, hop, len(inputs[spec.inputs[0].name]), float(measure(found, expected)), tolerance, tensor)

    return compare


def _drawn(spec: ModelSpec) -> np.ndarray:
    whole = page()
    if spec.name == OCR_DETECT.name:
        return whole[None]
    if spec.name == OCR_RECOGNIZE.name:
        rows = [whole[18 + 55 * i : 66 + 55 * i, :384] for i in range(len(LINES))]
        return np.stack([cv2.resize(row, (384, CROP_HEIGHT)) for row in rows])
    side = spec.inputs[0].shape[0]
    rng = np.random.default_rng(7)
    coarse = rng.integers(0, 256, (6, 6, 6, 3)).astype(np.uint8)  # blurred patches of colour, like nothing and everything
    return np.stack([cv2.resize(patch, (side, side), interpolation=cv2.INTER_CUBIC) for patch in coarse])


def _maps(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    return float(np.abs(found["text_map"].astype(float) - expected["text_map"]).mean() / 255)


def _characters(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    sure = expected["probabilities"][..., 0] >= 0.5
    return float((found["characters"][..., 0] != expected["characters"][..., 0])[sure].mean()) if sure.any() else np.inf


def _products(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    chances = np.abs(softmax(found["fine_logits"]) - softmax(expected["fine_logits"])).max()
    apart = np.linalg.norm(found["embedding"] - expected["embedding"], axis=1).max()
    worst = float(max(chances, apart))
    return worst if np.isfinite(chances + apart) else np.inf
