"""The products of a business that the lines of its receipts may mean, out of the warehouse."""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np

from contracts.errors import ArtifactError
from vision.matching import Product, ProductMatcher
from warehouse.store import Warehouse

logger = logging.getLogger("regulars.pictures")
Embed = Callable[[Sequence[str]], np.ndarray]
LOOK_S = 60.0
"""Pause between two looks for other products."""
KEPT = 8
"""Businesses whose matcher is kept; the one not used for longest makes room."""


@dataclass
class _Kept:
    stamp: object
    matcher: ProductMatcher | None
    looked: float


class Matchers:
    """A matcher for each business, made when its first receipt comes and again when its products changed. Safe from several threads.

    Args:
        warehouse: the folder.
        most: products of a business at most; of one with more, no line is matched.
        embed: texts to vectors.
    """

    def __init__(self, warehouse: Path, most: int, embed: Embed) -> None:
        self._warehouse, self._most, self._embed = Warehouse(warehouse), most, embed
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def of(self, business_id: str) -> ProductMatcher | None:
        """The matcher of a business; None where it has no products, too many, or the warehouse cannot be read: receipts go without."""
        with self._lock:
            kept = self._kept.get(business_id)
            if kept is None or time.monotonic() - kept.looked > LOOK_S:
                kept = self._kept[business_id] = self._looked(business_id, kept)
            self._kept.move_to_end(business_id)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return kept.matcher

    def _looked(self, business_id: str, kept: _Kept | None) -> _Kept:
        now = time.monotonic()
        try:
            stamp = self._warehouse.views(business_id)["products"].files
            if kept is not None and stamp == kept.stamp:
                return _Kept(stamp, kept.matcher, now)
            products = self._products(business_id) if stamp else []
        except (ArtifactError, duckdb.Error) as exc:
            logger.warning("the lines of receipts are not matched with products: %s", exc)
            return kept or _Kept(None, None, now)
        if len(products) > self._most:
            logger.warning(
                "%s has more than %d products: lines are not matched (REGULARS_PICTURES_MATCH_PRODUCTS)", business_id, self._most
            )
            products = []
        return _Kept(stamp, ProductMatcher(products, self._embed) if products else None, now)

    def _products(self, business_id: str) -> list[Product]:
        query = "SELECT product_id, name, brand, category, price FROM products WHERE business_id = ? AND name IS NOT NULL LIMIT ?"
        with self._warehouse.connect() as connection:
            return [Product(*row) for row in connection.execute(query, [business_id, self._most + 1]).fetchall()]


def by_letters(texts: Sequence[str]) -> np.ndarray:
    """Texts to float32 (N, 512) of L2 norm 1 by their groups of three letters: no network, so nothing of torch in this process."""
    found = np.zeros((len(texts), 512), np.float32)
    for row, text in enumerate(texts):
        padded = f" {text.lower()} "
        for i in range(len(padded) - 2):
            found[row, zlib.crc32(padded[i : i + 3].encode()) % 512] += 1
    length: np.ndarray = np.linalg.norm(found, axis=1, keepdims=True)
    return found / np.maximum(length, 1e-9)
