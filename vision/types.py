"""What the parts of picture recognition hand to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Protocol

import numpy as np

Quad = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]
"""Corners of a piece of text in pixels of the picture, from its top left clockwise; the origin is the picture's top left."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright, without metadata.

    Attributes:
        pixels: uint8 (H, W, 3), RGB.
        sha256: of the file as it came, in hex.
        format: JPEG, PNG or WEBP.
        scale: pixels of the upright upload for each pixel here, along each side; more than 1 where a very large one was decoded smaller.
    """

    pixels: np.ndarray
    sha256: str
    format: str
    scale: int = 1

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])


@dataclass(frozen=True)
class TextLine:
    """A piece of text as an engine found it: a line, or a part of one.

    Attributes:
        confidence: of the reading, 0 to 1.
        characters: confidence of each character of `text`, where the engine tells.
        alternatives: for each character of `text`, what it might be instead with its probability, likeliest first; where the engine tells.
    """

    quad: Quad
    text: str
    confidence: float
    characters: tuple[float, ...] = ()
    alternatives: tuple[tuple[tuple[str, float], ...], ...] = ()


class OcrEngine(Protocol):
    """Reads text."""

    name: str

    def read(self, pixels: np.ndarray) -> list[TextLine]:
        """Pieces of text of a uint8 (H, W, 3) RGB picture, top to bottom, then left to right."""
        ...


@dataclass(frozen=True)
class LineItem:
    """A bought thing. `product_id` is None where no product of the catalogue is near enough."""

    description: str
    amount: Decimal
    quantity: Decimal = Decimal(1)
    unit_price: Decimal | None = None
    confidence: float = 0.0
    product_id: str | None = None
    product_confidence: float = 0.0


@dataclass(frozen=True)
class Receipt:
    """What was read from a receipt; a field that could not be read is None.

    Attributes:
        currency: ISO 4217, or None where nothing on the page tells.
        subtotal, tax, discount, rounding, cash, change: as printed; discount positive.
        confidences: field name -> 0 to 1, for merchant, date, total and every other field that is there.
        boxes: field name -> the pieces it was read from.
        reconciled: True when the page's arithmetic agrees, False when it contradicts the total, None when nothing tells.
        review: why a person should look, empty when nobody needs to.
    """

    merchant: str | None = None
    date: date | None = None
    total: Decimal | None = None
    currency: str | None = None
    subtotal: Decimal | None = None
    tax: Decimal | None = None
    discount: Decimal | None = None
    rounding: Decimal | None = None
    cash: Decimal | None = None
    change: Decimal | None = None
    items: tuple[LineItem, ...] = ()
    confidences: dict[str, float] = field(default_factory=dict)
    boxes: dict[str, tuple[Quad, ...]] = field(default_factory=dict)
    reconciled: bool | None = None
    review: tuple[str, ...] = ()
    lines: Sequence[TextLine] = ()


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the picture, from its top left."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class DetectedProduct:
    """A product that was recognised in a picture.

    Attributes:
        name: of the product or of the fine class.
        group: the coarse class; empty for taught products.
        confidence: 0 to 1, calibrated.
        source: `classifier`, or `catalogue` for a taught product.
        product_id: of the taught product; None for a class of the network.
    """

    name: str
    brand: str
    confidence: float
    box: Box
    source: str
    group: str = ""
    product_id: str | None = None
