"""How well products are recognised: measures of the trained classifier and of a catalogue taught with few photos, and a peer without any
network. `vision.product_scorecard` puts them together.

Letters: N pictures, F fine classes, D embedding dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from training.metrics import ece
from vision import product_calibrate as fitting
from vision.catalogue import unit
from vision.product_data import ProductSet, squared

SHOTS = (1, 5, 20)
DRAWS = 3
"""Catalogues taught for each number of photos, each with other photos."""
PEER_PX = 64


def wilson(right: int, n: int) -> dict[str, float]:
    """A share with its 95 % interval. Source: Wilson 1927."""
    if n == 0:
        return {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0}
    z, p = 1.959964, right / n
    centre, half = (p + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n) * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    return {"value": round(p, 4), "low": round(max(0.0, centre - half), 4), "high": round(min(1.0, centre + half), 4), "n": n}


def held_back_scores(found: Mapping[str, np.ndarray], of: ProductSet, info: Mapping[str, Any], means: np.ndarray) -> dict[str, Any]:
    """Fine and coarse top-1 and calibration on the validation pictures, in the order of `of.rows("val")`.

    Args:
        found: `fine_logits` (calibrated), `coarse_logits`, `embedding` of each.
        info: with parents, coarse_mix and known, as in `model.json`.
        means: (F, D).
    """
    labels = of.fine[of.rows("val")]
    if not len(labels):
        return {}
    fine = fitting.softmax(found["fine_logits"])
    sums = fitting.grouped(fine, of.parents, len(of.coarse_names))
    coarse = info["coarse_mix"] * sums + (1 - info["coarse_mix"]) * fitting.softmax(found["coarse_logits"])
    right = fine.argmax(1) == labels
    signal = fitting.signals(found["fine_logits"], found["embedding"], means)
    known = fitting.known_probability(signal, info["known"]["weights"], info["known"]["bias"])
    return {
        "fine_top1": wilson(int(right.sum()), len(labels)),
        "coarse_top1": wilson(int((coarse.argmax(1) == of.parents[labels]).sum()), len(labels)),
        "fine_top5": round(float((np.argsort(-fine, 1)[:, :5] == labels[:, None]).any(1).mean()), 4),
        "expected_calibration_error": round(ece(fine.max(1), right.astype(float), 10), 4),
        "accepted_as_known": round(float((known >= info["known"]["threshold"]).mean()), 4),
    }


def nearest_class(photos: Sequence[np.ndarray], queries: np.ndarray) -> np.ndarray:
    """The class that a catalogue finds for each query: half the nearest view's cosine, half the mean's, as `Catalogue.search`.

    Args:
        photos: for each class float32 (V, D), vectors of its views.
        queries: (N, D).

    Returns:
        int64 (N,), index into `photos`.
    """
    near = np.stack([0.5 * (queries @ p.T).max(1) + 0.5 * queries @ unit(p.mean(0)) for p in photos], 1)
    found: np.ndarray = near.argmax(1)
    return found


def plain_features(pixels: np.ndarray) -> np.ndarray:
    """HOG of the shape and a histogram of the colours, float32 (1892,), without any training: the peer's view of a picture.

    Source: Dalal and Triggs (CVPR 2005): 9 directions in cells of 8 x 8 pixels, blocks of 2 x 2 cells; colour in HSV, 8 x 4 x 4 bins.
    Square roots of the histogram, so that a dot product is Bhattacharyya's coefficient.
    """
    small = squared(pixels, PEER_PX)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    size, angle = cv2.cartToPolar(cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=1), cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=1))
    direction = np.minimum((angle % np.pi) / np.pi * 9, 8).astype(np.int64)
    cells = np.zeros((9, PEER_PX, PEER_PX), np.float32)
    np.put_along_axis(cells, direction[None], size[None], 0)
    grid = cells.reshape(9, PEER_PX // 8, 8, PEER_PX // 8, 8).sum((2, 4)).transpose(1, 2, 0)  # (8, 8, 9)
    blocks = np.concatenate([grid[:-1, :-1], grid[1:, :-1], grid[:-1, 1:], grid[1:, 1:]], -1)  # (7, 7, 36)
    hog = (blocks / (np.linalg.norm(blocks, axis=-1, keepdims=True) + 1e-3)).ravel()
    hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV)
    colours = cv2.calcHist([hsv], [0, 1, 2], None, [8, 4, 4], [0, 180, 0, 256, 0, 256]).ravel()
    return np.concatenate([0.5 * unit(hog), unit(np.sqrt(colours / max(1.0, float(colours.sum()))))]).astype(np.float32)
