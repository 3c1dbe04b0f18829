"""A recognizer for tests of pictures over HTTP: the real reading of text, and products known by their colour."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from contracts.products import MEANS, NAME, RECORD
from tests.vision import drawn
from tests.vision.products_drawn import picture
from tests.vision.test_products import NAMES, SIZE, ByColour
from vision.catalogue import Catalogue
from vision.ocr import LocalNetworks, PaddleOcr
from vision.ocr_settings import OcrSettings
from vision.product_data import squared
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


def products_folder(folder: Path) -> Path:
    """A products folder whose network is `ByColour`: it knows a blue and a red circle and a green square."""
    folder.mkdir(parents=True)
    (folder / f"{NAME}.onnx").write_bytes(b"not read here")
    means = io.BytesIO()
    np.savez(means, means=Network().infer(np.stack([squared(picture(n, 1), SIZE) for n in NAMES]))["embedding"])
    (folder / MEANS).write_bytes(means.getvalue())
    info: dict[str, Any] = {
        "format": 1, "version": "products/test", "size": SIZE, "names": NAMES, "parents": [0, 0, 1], "coarse_names": ["round", "edged"],
        "brands": ["", "Acme", ""], "coarse_mix": 0.5, "known": {"weights": [0.0, 30.0, 0.0], "bias": -24.0, "threshold": 0.5},
        "catalogue": {"temperature": 0.05, "weight": 30.0, "bias": -24.0, "threshold": 0.5}, "record": {"left_out": []},
        "sha256": {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in (f"{NAME}.onnx", MEANS)},
    }  # fmt: skip
    (folder / RECORD).write_text(json.dumps(info))
    return folder


def recognizer(home: Path, networks: LocalNetworks, folder: Path | None) -> Recognizer:
    """A recognizer with the home's catalogue; without a products folder, one that reads receipts only."""
    products = None
    if folder is not None:
        products = ProductRecognizer(folder, Network())
        products.catalogue = Catalogue(catalogue_folder(home), products.embed, products.version, products.record.catalogue)
    return Recognizer(PaddleOcr(Shared(networks), OcrSettings()), products, text_version="test")
