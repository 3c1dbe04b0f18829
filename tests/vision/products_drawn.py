"""Made-up products for tests: coloured shapes on noise."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

CLASSES = {"circle-red": "round", "circle-blue": "round", "square-green": "edged", "square-yellow": "edged"}
COLOURS = {"red": (220, 30, 30), "blue": (30, 40, 220), "green": (30, 180, 40), "yellow": (230, 220, 30), "pink": (240, 120, 200)}


def picture(name: str, seed: int, width: int = 56, height: int = 48) -> np.ndarray:
    """uint8 (height, width, 3): a shape somewhere on noise."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 150, (height, width, 3)).astype(np.uint8)
    shape, colour = name.split("-")
    x, y = int(rng.integers(18, width - 18)), int(rng.integers(16, height - 16))
    if shape == "circle":
        cv2.circle(pixels, (x, y), 13, COLOURS[colour], -1)
    else:
        cv2.rectangle(pixels, (x - 11, y - 11), (x + 11, y + 11), COLOURS[colour], -1)
    return pixels


def write_set(folder: Path, each: int = 6, split: bool = True) -> Path:
    """A training set of plain folders: coarse/fine/picture, below train/ and val/ or not."""
    for i, (name, coarse) in enumerate(CLASSES.items()):
        for k in range(each):
            part = ("val" if k % 3 == 0 else "train",) if split else ()
            path = folder.joinpath(*part, coarse, name, f"{k}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), cv2.cvtColor(picture(name, 100 * i + k), cv2.COLOR_RGB2BGR))
    return folder
