"""Receipt or not, told in some tens of milliseconds from a small map of where text is, and from colours.

The network that finds text looks at the picture at a few ten thousand pixels: too few to read anything, enough to see that there are many
thin rows that run the same way on pale paper. A logistic regression weighs a few facts of that kind. Its weights come from
`python -m benchmarks.bench_gate --fit`, fitted on scanned receipts, the same laid on coloured tables and on clutter, and on photos of
products, cartons with print among them.

Letters: H W sizes of the small picture and its map.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import cv2
import numpy as np

from vision import preprocess
from vision.ocr import Networks

PIXELS = 320 * 320
"""Of the small picture, whatever its shape: the time of the network goes by them."""
THRESHOLD = 0.3
"""P(text) from which a pixel of the map counts."""
MOST_PIECES = 400
WEIGHTS: dict[str, float] = {
    "": -11.72, "grey": 3.99, "text": 2.06, "pieces": 3.75, "thin": 0.94, "big": 1.08, "aligned": -0.9, "spread": 0.28, "paper": 8.15,
    "ink": -1.0, "even": 4.4,
}  # fmt: skip


def probability(pixels: np.ndarray, networks: Networks) -> float:
    """P(a picture shows a receipt).

    Args:
        pixels: uint8 (H, W, 3), RGB.
        networks: where the network that finds text runs.

    Raises:
        UpstreamError: it runs elsewhere and cannot be reached.
    """
    looked_at = small(pixels)
    return weighed(facts(looked_at, networks.detect(looked_at)))


def small(pixels: np.ndarray) -> np.ndarray:
    """A picture at a size of about PIXELS that the network takes; not larger than it is, but for rounding."""
    height, width = pixels.shape[:2]
    longest = math.sqrt(PIXELS * max(height, width) / min(height, width))
    return preprocess.fitted(pixels, max(preprocess.GRANULE, round(longest)))


def weighed(found: Mapping[str, float], weights: Mapping[str, float] | None = None) -> float:
    """The logistic regression. Facts that it does not know count nothing."""
    weights = WEIGHTS if weights is None else weights
    z = weights[""] + sum(weights.get(name, 0.0) * value for name, value in found.items())
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, z))))


def facts(pixels: np.ndarray, text_map: np.ndarray) -> dict[str, float]:
    """What tells a receipt from other pictures, each about 0 to 1.

    Args:
        pixels: uint8 (H, W, 3), the small picture.
        text_map: uint8 (H, W), P(text) x 255.

    Returns:
        grey: share of the picture without colour; text: root of the share that is text; pieces: logarithm of their number;
        thin: how thin the middle piece is; big: how thick the thickest; aligned: how much they run one way; spread: how much of the
        picture they span; paper: share of the text's surroundings that is pale and without colour; ink: how much darker the text is
        than they; even: how little their brightness varies.
    """
    mask = (text_map > THRESHOLD * 255).astype(np.uint8)
    colours = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
    saturation, light = colours[..., 1], colours[..., 2]
    found = {"grey": float((saturation < 60).mean()), "text": math.sqrt(float(mask.mean()))}
    return found | _shapes(mask) | _ground(mask, saturation, light)


def _shapes(mask: np.ndarray) -> dict[str, float]:
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    contours = sorted((c for c in contours if len(c) > 2), key=len, reverse=True)[:MOST_PIECES]
    if not contours:
        return {"pieces": 0.0, "thin": 0.0, "big": 0.0, "aligned": 0.0, "spread": 0.0}
    rectangles = [cv2.minAreaRect(c) for c in contours]
    sides = np.array([r[1] for r in rectangles]) + 1
    angles = np.radians([r[2] + (90 if r[1][0] < r[1][1] else 0) for r in rectangles])
    length, thickness = sides.max(1), sides.min(1)
    weight = np.where(length > 2 * thickness, length, 0)
    along = abs((weight * np.exp(2j * angles)).sum()) / max(1e-9, weight.sum())
    hull = cv2.contourArea(cv2.convexHull(np.concatenate(contours)))
    unit = math.sqrt(mask.size)
    return {
        "pieces": math.log1p(len(contours)) / 5,
        "thin": max(0.0, 1 - float(np.median(thickness)) / unit / 0.06),
        "big": min(1.0, float(thickness.max()) / unit / 0.2),
        "aligned": float(along),
        "spread": hull / mask.size,
    }


def _ground(mask: np.ndarray, saturation: np.ndarray, light: np.ndarray) -> dict[str, float]:
    near = (cv2.dilate(mask, np.ones((9, 9), np.uint8)) > 0) & (mask == 0)
    if not near.any():
        return {"paper": 0.0, "ink": 0.0, "even": 0.0}
    around = light[near].astype(np.float32)
    level = max(1.0, float(np.median(around)))
    pale = (saturation[near] < 60) & (around > 0.7 * float(np.percentile(light, 95)))
    return {
        "paper": float(pale.mean()),
        "ink": float(np.clip(1 - light[mask > 0].mean() / level, -1, 1)),
        "even": max(0.0, 1 - float(around.std()) / level / 0.5),
    }
