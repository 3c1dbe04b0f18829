"""Made-up products for tests: coloured shapes on noise."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np

from contracts.products import MEANS, NAME, RECORD
from vision.product_data import squared

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


SIZE, GRID = 64, 8
NAMES = ("circle-blue", "circle-red", "square-green")
HUES = np.array([[30, 40, 220], [220, 30, 30], [30, 180, 40]], np.float32)


class ByColour:
    """A network whose classes are colours: each place says how like each of them it is."""

    def infer(self, pixels):
        cells = pixels.reshape(len(pixels), GRID, SIZE // GRID, GRID, SIZE // GRID, 3).astype(np.float32).mean((2, 4))
        centred = cells - cells.mean(-1, keepdims=True)
        directions = HUES - HUES.mean(1, keepdims=True)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        like = centred @ directions.T / 20  # (B, G, G, F)
        logits = like.mean((1, 2)) * 6
        top = np.argsort(-logits, 1)
        places = centred / 50
        vector = places.mean((1, 2))
        return {
            "fine_logits": logits.astype(np.float32),
            "coarse_logits": np.stack([logits[:, :2].max(1), logits[:, 2]], 1).astype(np.float32),
            "embedding": (vector / np.linalg.norm(vector, axis=1, keepdims=True)).astype(np.float32),
            "top": top,
            "maps": np.take_along_axis(like.transpose(0, 3, 1, 2), top[:, :, None, None], 1).astype(np.float32),
            "places": places.astype(np.float32),
        }


def write_artifact(folder: Path) -> Path:
    """A folder as `regulars train products` writes it, but for the network, which ByColour computes."""
    (folder / f"{NAME}.onnx").write_bytes(b"not read here")
    means = ByColour().infer(np.stack([squared(picture(n, 1), SIZE) for n in NAMES]))["embedding"]
    with (folder / MEANS).open("wb") as file:
        np.savez(file, means=means)
    info = {
        "format": 1, "version": "products/test", "size": SIZE, "names": NAMES, "parents": [0, 0, 1], "coarse_names": ["round", "edged"],
        "brands": ["", "Acme", ""], "coarse_mix": 0.5, "known": {"weights": [0.0, 30.0, 0.0], "bias": -24.0, "threshold": 0.5},
        "catalogue": {"temperature": 0.05, "weight": 30.0, "bias": -24.0, "threshold": 0.5}, "record": {"left_out": []},
        "sha256": {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in (f"{NAME}.onnx", MEANS)},
    }  # fmt: skip
    (folder / RECORD).write_text(json.dumps(info))
    return folder
