"""A recognizer for tests of pictures over HTTP: the real reading of text, and products known by their colour."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from tests.vision import drawn
from tests.vision.products_drawn import ByColour, picture
from vision.catalogue import Catalogue
from vision.ocr import LocalNetworks, PaddleOcr
from vision.ocr_settings import OcrSettings
from vision.products import ProductRecognizer
from vision.recognizer import Recognizer, catalogue_folder


class Network(ByColour):
    """`ByColour`, which also bears pictures without any colour: they are like nothing."""

    def infer(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore"):
            return {name: np.nan_to_num(value) for name, value in super().infer(pixels).items()}


class Shared:
    """Networks of all tests: a desk that ends does not close them."""

    def __init__(self, networks: LocalNetworks) -> None:
        self.alphabet, self.detect, self.recognize = networks.alphabet, networks.detect, networks.recognize


ROWS = (
    "GREEN LEAF BAKERY",
    "14 Harbour Street, Leith",
    "Receipt No: {number}",
    "Date: {day} 17:45",
    "Rye bread large      4.85",
    "Cinnamon bun         6.30",
    "Oat milk 1L          1.99",
    "TOTAL GBP           {total}",
    "CASH                20.00",
    "CHANGE               {change}",
    "Thank you, come again!",
)


def receipt(number: str = "004271", day: str = "18/11/2026", total: str = "13.14", size: int = 20) -> np.ndarray:
    """uint8 (H, W, 3): a receipt of two days before the tests' clock."""
    change = f"{20 - float(total):.2f}"
    return drawn.receipt([row.format(number=number, day=day, total=total, change=change) for row in ROWS], size)


def product(name: str, seed: int = 0, width: int = 240, height: int = 180) -> np.ndarray:
    """uint8 (H, W, 3): a large coloured shape on noise."""
    return np.asarray(cv2.resize(picture(name, seed), (width, height), interpolation=cv2.INTER_NEAREST))


def encoded(pixels: np.ndarray, kind: str = ".jpg", quality: int = 95) -> bytes:
    """A file of a picture."""
    return cv2.imencode(kind, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def recognizer(home: Path, networks: LocalNetworks, folder: Path | None) -> Recognizer:
    """A recognizer with the home's catalogue; without a products folder, one that reads receipts only."""
    products = None
    if folder is not None:
        products = ProductRecognizer(folder, Network())
        products.catalogue = Catalogue(catalogue_folder(home), products.embed, products.version, products.record.catalogue)
    return Recognizer(PaddleOcr(Shared(networks), OcrSettings()), products, text_version="test")
