"""A receipt drawn by code and photographed by code, for demonstrations: nothing of it was ever printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vision.augment import Wear, rephotograph, view

WIDTH, FACE, PITCH, MARGIN = 560, 22, 38, 36
TAX = Decimal("0.08")
_WEAR = Wear(rotation_deg=6, perspective=0.03, crop=0.0, jpeg_quality=80)


@dataclass(frozen=True)
class Bought:
    """A line of the receipt: `unit_price` in the receipt's currency."""

    name: str
    unit_price: Decimal
    quantity: int = 1

    @property
    def amount(self) -> Decimal:
        return self.unit_price * self.quantity


def total(items: Sequence[Bought]) -> Decimal:
    """What such a receipt says is to be paid, tax included."""
    net = sum((i.amount for i in items), Decimal(0))
    return net + (net * TAX).quantize(Decimal("0.01"))


def receipt(merchant: str, at: datetime, items: Sequence[Bought]) -> np.ndarray:
    """The paper, flat: uint8 (H, 560, 3)."""
    net = sum((i.amount for i in items), Decimal(0))
    tax = (net * TAX).quantize(Decimal("0.01"))
    rows: list[tuple[str, str]] = [
        (merchant, ""), ("12 Harbour Street", ""), (f"{at:%Y-%m-%d}  {at:%H:%M}", f"No {at:%d%H%M}"), ("", ""),
        *((f"{i.quantity} x {i.name}"[:34], f"{i.amount:.2f}") for i in items), ("", ""),
        ("Subtotal", f"{net:.2f}"), (f"Tax {TAX * 100:.0f} %", f"{tax:.2f}"), ("TOTAL USD", f"{net + tax:.2f}"), ("", ""),
        ("Thank you, come again", ""),
    ]  # fmt: skip
    image = Image.new("RGB", (WIDTH, PITCH * len(rows) + 2 * MARGIN), (246, 245, 240))
    draw, face = ImageDraw.Draw(image), ImageFont.load_default(FACE)
    for number, (left, right) in enumerate(rows):
        y = MARGIN + number * PITCH
        draw.text((MARGIN, y), left, font=face, fill=(35, 35, 40))
        if right:
            draw.text((WIDTH - MARGIN - face.getlength(right), y), right, font=face, fill=(35, 35, 40))
    return np.asarray(image).copy()


def photograph(paper: np.ndarray, seed: int) -> np.ndarray:
    """The paper on a dark table, seen a little from the side: uint8 (H, W, 3). Another seed is another photograph."""
    rng = np.random.default_rng(seed)
    return rephotograph(paper, view(paper.shape[1], paper.shape[0], rng, _WEAR), rng, _WEAR)


def save(pixels: np.ndarray, path: Path) -> Path:
    """Write a JPEG; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _, packed = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    path.write_bytes(packed.tobytes())
    return path
