"""One look at a picture: a receipt, a product, or nothing that we know, and what it says.

What a picture shows is told first, cheaply, from a small map of its text (`vision.gate`): reading a receipt costs some fifty times what
recognising a product does, so a photo of a product must not pay for it. Where the gate is unsure both are done, and what was found decides;
so too where it is sure of a product but none is known: the receipt may lie too small in the picture for its rows to be seen in the map.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from pydantic import Field

from contracts.errors import ConfigError, ContractError
from contracts.settings import StackSettings, settings_config
from vision import engines, gate
from vision.catalogue import Catalogue
from vision.export_ocr import read_record
from vision.matching import ProductMatcher
from vision.ocr import Networks, PaddleOcr
from vision.ocr_settings import OcrSettings
from vision.products import ProductNetwork, ProductRecognizer, Recognition, products_folder
from vision.receipt import read_receipt
from vision.types import Box, DetectedProduct, OcrEngine, Picture, Receipt

Kind = Literal["receipt", "product", "nothing"]
Asked = Literal["auto", "receipt", "product"]
KINDS: tuple[Asked, ...] = ("auto", "receipt", "product")


class RecognizerSettings(StackSettings):
    """How it is told what a picture shows; variables REGULARS_RECOGNIZE_*."""

    model_config = settings_config("REGULARS_RECOGNIZE_")

    receipt_from: float = Field(default=0.9, ge=0, le=1, description="probability of a receipt from which only the text is read")
    product_below: float = Field(default=0.3, ge=0, le=1, description="probability of a receipt below which products are looked for first")
    threads: int = Field(default=0, ge=0, le=256, description="cores that the product network may use; 0: all that the process is given")


@dataclass(frozen=True)
class Seen:
    """What one look at a picture found.

    Attributes:
        kind: what the picture shows.
        width, height: of the picture, pixels of the upright upload.
        scale: see `vision.types.Picture`. The receipt's quads are in pixels of the decoded picture, times `scale` those of the upload.
        receipt: what it says; None unless `kind` is `receipt`.
        products: best first, boxes in pixels of the upload; empty unless `kind` is `product`.
        known, nearest, groups: see `vision.products.Recognition`; 0 and empty where products were not looked for.
        receipt_probability: of the gate; 1 or 0 where the caller said what it is.
        model_version: of everything that took part.
        stages_ms: time by stage, with `total`.
        notes: what a person should know, for example that there is no product network.
    """

    kind: Kind
    width: int
    height: int
    scale: int = 1
    receipt: Receipt | None = None
    products: tuple[DetectedProduct, ...] = ()
    known: float = 0.0
    nearest: tuple[tuple[str, float], ...] = ()
    groups: tuple[tuple[str, float], ...] = ()
    receipt_probability: float = 0.0
    model_version: str = ""
    stages_ms: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Recognizer:
    """Looks at pictures. May be used by several threads at once.

    Args:
        engine: reads text.
        products: recognises products; None where there is no trained network: then only receipts are read.
        settings: see RecognizerSettings; those of the environment when None.
        text_version: of what reads text, for `model_version`.
    """

    def __init__(
        self,
        engine: OcrEngine,
        products: ProductRecognizer | None,
        settings: RecognizerSettings | None = None,
        text_version: str = "",
    ) -> None:
        self.engine = engine
        self.products = products
        self.settings = settings or RecognizerSettings.load()
        if self.settings.product_below > self.settings.receipt_from:
            raise ConfigError(
                f"product_below is {self.settings.product_below}, must not be over receipt_from, {self.settings.receipt_from}. "
                "Lower REGULARS_RECOGNIZE_PRODUCT_BELOW."
            )
        parts = [f"{engine.name}-{text_version}" if text_version else engine.name]
        self.version = "+".join(parts + ([f"products-{products.version}"] if products else []))

    def look(
        self,
        picture: Picture,
        as_of: date,
        business_id: str = "",
        matcher: ProductMatcher | None = None,
        kind: Asked = "auto",
    ) -> Seen:
        """What a picture shows.

        Args:
            picture: as `vision.upload.open_picture` gives it.
            as_of: the day on which it was handed in.
            business_id: whose taught products are asked; none when empty.
            matcher: puts product ids to a receipt's line items; None leaves them out.
            kind: what the caller knows it to be; `auto` where it does not.

        Raises:
            ContractError: no such kind.
            TooLarge: more than 3,000 pieces of text.
            UpstreamError: a network runs elsewhere and cannot be reached.
        """
        if kind not in KINDS:
            raise ContractError(f"kind is {kind!r}, must be one of {', '.join(KINDS)}. Leave it out to have it found.")
        return _Look(self, picture, as_of, business_id, matcher).seen(kind)


class _Look:
    """The look at one picture."""

    def __init__(self, recognizer: Recognizer, picture: Picture, as_of: date, business_id: str, matcher: ProductMatcher | None) -> None:
        self.recognizer, self.picture, self.as_of, self.business_id, self.matcher = recognizer, picture, as_of, business_id, matcher
        self.stages: dict[str, float] = {}
        self._began = self._last = perf_counter()

    def seen(self, asked: Asked) -> Seen:
        chance = self._chance() if asked == "auto" else float(asked == "receipt")
        receipt, found = self._both(chance) if asked == "auto" else self._one(asked)
        if asked == "auto":
            legible = receipt is not None and _speaks_of_a_purchase(receipt, chance)
        else:
            legible = receipt is not None and len(receipt.lines) > 0
        products = found.products if found is not None else ()
        if legible and products:
            legible = chance >= 0.5
        kind: Kind = "receipt" if legible else "product" if products else "nothing"
        notes = (self._why_nothing(asked, receipt),) if kind == "nothing" else ()
        return self._told(kind, receipt, found, chance, notes)

    def _one(self, asked: Asked) -> tuple[Receipt | None, Recognition | None]:
        return (self._receipt(), None) if asked == "receipt" else (None, self._products())

    def _both(self, chance: float) -> tuple[Receipt | None, Recognition | None]:
        """What is likelier first, the other only where that leaves a doubt."""
        settings = self.recognizer.settings
        if chance < settings.product_below:
            found = self._products()
            return (None if found is not None and found.products else self._receipt()), found
        receipt = self._receipt()
        sure = chance >= settings.receipt_from and _speaks_of_a_purchase(receipt, chance)
        return receipt, None if sure else self._products()

    def _told(self, kind: Kind, receipt: Receipt | None, found: Recognition | None, chance: float, notes: tuple[str, ...]) -> Seen:
        picture, scale = self.picture, self.picture.scale
        products = found.products if found is not None and kind == "product" else ()
        return Seen(
            kind,
            picture.width * scale,
            picture.height * scale,
            scale,
            receipt if kind == "receipt" else None,
            tuple(replace(p, box=_scaled(p.box, scale)) for p in products),
            found.known if found is not None else 0.0,
            found.nearest if found is not None else (),
            found.groups if found is not None else (),
            chance,
            self.recognizer.version,
            {**self.stages, "total": (perf_counter() - self._began) * 1000},
            notes,
        )

    def _stage(self, name: str) -> None:
        now = perf_counter()
        self.stages[name] = self.stages.get(name, 0.0) + (now - self._last) * 1000
        self._last = now

    def _chance(self) -> float:
        """P(receipt); where nothing can tell, a half: then both are done."""
        engine = self.recognizer.engine
        chance = gate.probability(self.picture.pixels, engine.networks) if isinstance(engine, PaddleOcr) else 0.5
        self._stage("gate")
        return chance

    def _receipt(self) -> Receipt:
        engine, pixels = self.recognizer.engine, self.picture.pixels
        if isinstance(engine, PaddleOcr):
            page = engine.page(pixels)
            lines = page.lines
            self.stages |= {f"text_{name}": ms for name, ms in page.stages_ms.items()}
            self._last = perf_counter()
        else:
            lines = engine.read(pixels)
            self._stage("text")
        receipt = read_receipt(lines, self.as_of)
        self._stage("parse")
        if self.matcher is not None and receipt.items:
            receipt = replace(receipt, items=self.matcher.match(receipt.items))
            self._stage("match")
        return receipt

    def _products(self) -> Recognition | None:
        products = self.recognizer.products
        if products is None:
            return None
        found = products.recognise(self.picture.pixels, self.business_id)
        self.stages |= {f"product_{name}": ms for name, ms in found.stages_ms.items()}
        self._last = perf_counter()
        return found

    def _why_nothing(self, asked: Asked, receipt: Receipt | None) -> str:
        if asked == "receipt":
            return "no text was read in it"
        if self.recognizer.products is None:
            return NO_PRODUCTS if asked == "product" else f"it shows no receipt; {NO_PRODUCTS}"
        if asked == "product":
            return "it shows no product that is known"
        if receipt is not None and receipt.lines:
            return "it has text, but not that of a receipt, and shows no product that is known"
        return "it shows neither a receipt nor a product that is known"


NO_PRODUCTS = "products are not recognised here, there is no trained network. Train one: regulars train products"


def _speaks_of_a_purchase(receipt: Receipt, chance: float) -> bool:
    """Whether what was read is a receipt's: by itself where a total stands with a date or sums that agree, else with the look of one."""
    amounts = len(receipt.items) + sum(getattr(receipt, n) is not None for n in ("subtotal", "tax", "cash", "change"))
    if receipt.total is not None and (receipt.date is not None or receipt.reconciled is True):
        return True
    return chance >= 0.5 and len(receipt.lines) >= 3 and (receipt.total is not None or receipt.date is not None or amounts >= 2)


def _scaled(box: Box, scale: int) -> Box:
    return box if scale == 1 else Box(box.x * scale, box.y * scale, box.width * scale, box.height * scale)


# ---- opening one ------------------------------------------------------------------------------------------------------------


def shipped_folder() -> Path:
    """Where the product network that comes with the program lies, as `regulars train products` writes it; it may not be there."""
    return Path(__file__).parent / "artifact"


def catalogue_folder(home: Path) -> Path:
    """Where a home keeps the products that businesses taught."""
    return home / "vision" / "catalogue"


def open_recognizer(
    home: Path,
    networks: Callable[[Path], Networks] | None = None,
    product_network: Callable[[Path], ProductNetwork] | None = None,
    settings: RecognizerSettings | None = None,
) -> Recognizer:
    """All that a home has to look at pictures with.

    Networks that read text are exported into the home when they are not there yet. The product network is the home's own, else the one that
    comes with the program, else none: then products are not recognised.

    Args:
        home: the data directory.
        networks: from the OCR folder to where its networks run; this process when None.
        product_network: from the products folder to where its network runs; this process when None.
        settings: read from the environment when None.

    Raises:
        ConfigError: what reads text is not installed.
        ArtifactError: weights are missing or damaged.
    """
    settings = settings or RecognizerSettings.load()
    ocr = engines.ocr_folder(home)
    try:
        with _alone(ocr.parent):
            engine = engines.open_engine(home, OcrSettings.load(), networks)
    except OSError as exc:
        raise ConfigError(f"cannot write what reads text into {ocr}: {exc.strerror}. Give a home that can be written to.") from exc
    version = read_record(ocr)["fingerprint"][:8] if isinstance(engine, PaddleOcr) else ""
    folder = next((f for f in (products_folder(home), shipped_folder()) if f.is_dir()), None)
    products = None
    if folder is not None:
        products = ProductRecognizer(folder, product_network(folder) if product_network else None, threads=settings.threads or None)
        products.catalogue = Catalogue(catalogue_folder(home), products.embed, products.version, products.record.catalogue)
    return Recognizer(engine, products, settings, version)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of several processes that set a home up at once one works, the others wait and find it done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "setup.lock").open("a")
    except OSError:  # a home that cannot be written to: whatever it needs is there already, or the export says that it cannot
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ---- the answer -------------------------------------------------------------------------------------------------------------


def to_api(seen: Seen) -> dict[str, Any]:
    """The answer of image recognition as JSON has it, without what only a server knows (recognitionId, reward)."""
    return {
        "kind": seen.kind,
        "picture": {"width": seen.width, "height": seen.height},
        "detectedObjects": [_object(p) for p in seen.products],
        "isReceiptDetected": seen.kind == "receipt",
        "receipt": None if seen.receipt is None else _receipt(seen.receipt),
        "notes": list(seen.notes),
        "modelVersion": seen.model_version,
        "latency": round(seen.stages_ms.get("total", 0.0)),
    }


def _object(product: DetectedProduct) -> dict[str, Any]:
    box = product.box
    return {
        "object": product.name,
        "brand": product.brand or None,
        "group": product.group or None,
        "productId": product.product_id,
        "source": product.source,
        "confidence": round(product.confidence, 4),
        "boundingBox": {"x": box.x, "y": box.y, "width": box.width, "height": box.height},
    }


def _receipt(receipt: Receipt) -> dict[str, Any]:
    return {
        "merchant": receipt.merchant,
        "date": receipt.date.isoformat() if receipt.date else None,
        "total": _number(receipt.total),
        "currency": receipt.currency,
        **{name: _number(getattr(receipt, name)) for name in ("subtotal", "tax", "discount", "rounding", "cash", "change")},
        "lineItems": [
            {
                "description": item.description,
                "quantity": _number(item.quantity),
                "unitPrice": _number(item.unit_price),
                "amount": _number(item.amount),
                "productId": item.product_id,
                "confidence": round(item.confidence, 4),
            }
            for item in receipt.items
        ],
        "confidences": {("lineItems" if name == "items" else name): round(value, 4) for name, value in receipt.confidences.items()},
        "reconciled": receipt.reconciled,
        "review": list(receipt.review),
    }


def _number(value: Decimal | None) -> float | int | None:
    """An amount as JSON's number: whole where it is whole."""
    if value is None:
        return None
    return int(value) if value == value.to_integral_value() else float(value)
