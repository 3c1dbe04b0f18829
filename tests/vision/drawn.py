"""Receipts drawn by code, for tests: nothing of them was ever printed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

ROWS = (
    "GREEN LEAF BAKERY",
    "14 Harbour Street, Leith",
    "Receipt No: 004271",
    "Date: 23/08/2021 17:45",
    "Rye bread large      4.85",
    "Cinnamon bun  3 x 2.10",
    "Oat milk 1L          1.99",
    "TOTAL GBP           13.14",
    "Thank you, come again!",
)


def font(size: int, name: str = "DejaVuSans.ttf") -> ImageFont.FreeTypeFont:
    """A free font that comes with matplotlib, so that every machine draws alike."""
    spec = importlib.util.find_spec("matplotlib")
    assert spec is not None
    assert spec.origin is not None
    return ImageFont.truetype(str(Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / name), size)


def receipt(rows: Sequence[str] = ROWS, size: int = 20, paper: int = 245, ink: int = 25, margin: int = 40) -> np.ndarray:
    """uint8 (H, W, 3): the rows printed below each other on paper of a grey."""
    face = font(size)
    width = int(max(face.getlength(row) for row in rows)) + 2 * margin
    pitch = int(size * 1.9)
    image = Image.new("RGB", (width, pitch * len(rows) + 2 * margin), (paper,) * 3)
    draw = ImageDraw.Draw(image)
    for number, row in enumerate(rows):
        draw.text((margin, margin + number * pitch), row, font=face, fill=(ink,) * 3)
    return np.asarray(image).copy()


def rotated(pixels: np.ndarray, degrees: float, ground: int = 90) -> np.ndarray:
    """Turned counter-clockwise about its centre on a larger ground."""
    height, width = pixels.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    cos, sin = abs(matrix[0, 0]), abs(matrix[0, 1])
    size = (int(height * sin + width * cos), int(height * cos + width * sin))
    matrix[:, 2] += (size[0] / 2 - width / 2, size[1] / 2 - height / 2)
    return cv2.warpAffine(pixels, matrix, size, flags=cv2.INTER_CUBIC, borderValue=(ground,) * 3)


def plain(text: str) -> str:
    """Letters and digits only: blanks and points are read differently from one rendering to the next."""
    return "".join(c for c in text.upper() if c.isalnum())
