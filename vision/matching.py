"""Which product of the catalogue a receipt's line means: text vectors, spelling and price together."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from difflib import SequenceMatcher

import numpy as np

from contracts.errors import ContractError, ShapeError
from embeddings import text as text_vectors
from vision.receipt.text import plain
from vision.types import LineItem

Embed = Callable[[Sequence[str]], np.ndarray]
"""Texts to float32 (N, D) of L2 norm 1."""
SHORTLIST = 20
"""Products per line whose spelling is compared: the nearest by vector and the nearest by shared letters."""
MATCH_BELOW = 0.5
"""A line whose best product has less confidence matches none."""
_UNITS = re.compile(r"\b\d+([.,]\d+)?\s?(KG|G|GM|ML|L|LTR|PCS?|PK|PKT|CL|OZ|LB|S)\b|\b\d+\s?[X*]\s?\d+\w*")


@dataclass(frozen=True)
class Product:
    """A row of the table `products`."""

    product_id: str
    name: str
    brand: str | None = None
    category: str | None = None
    price: Decimal | None = None

    @property
    def words(self) -> str:
        """Name with brand in front, where the name does not carry it."""
        if self.brand and plain(self.brand) not in plain(self.name):
            return f"{self.brand} {self.name}"
        return self.name


class ProductMatcher:
    """Matches descriptions to one business's products; the products' vectors are made once.

    Args:
        products: at least one, with different ids.
        embed: the project's text vectors when None.
        match_below: see MATCH_BELOW.

    Raises:
        ContractError: no products, or an id twice.
        ShapeError: `embed` does not give one vector a text.
    """

    def __init__(self, products: Sequence[Product], embed: Embed | None = None, match_below: float = MATCH_BELOW) -> None:
        if not products:
            raise ContractError("there are no products to match lines to; load the table products first.")
        seen: set[str] = set()
        for p in products:
            if p.product_id in seen:
                raise ContractError(f"product id {p.product_id!r} is there twice, ids must differ. Remove one row of products.")
            seen.add(p.product_id)
        self.products = tuple(products)
        self.match_below = match_below
        self._embed = embed or text_vectors.embed
        self._keys = [_key(p.words) for p in self.products]
        self._letters = [_trigrams(k) for k in self._keys]
        self._rows_of: dict[str, list[int]] = {}
        for row, letters in enumerate(self._letters):
            for part in letters:
                self._rows_of.setdefault(part, []).append(row)
        self._vectors = self._vectors_of([p.words for p in self.products])

    def match(self, items: Sequence[LineItem]) -> tuple[LineItem, ...]:
        """The items with `product_id` and `product_confidence` where a product is near enough; one batch of text vectors for all."""
        described = [i for i, item in enumerate(items) if _key(item.description)]
        out = [replace(item, product_id=None, product_confidence=0.0) for item in items]
        if not described:
            return tuple(out)
        nearness = self._vectors_of([_spelled(items[i].description) for i in described]) @ self._vectors.T  # (lines, products)
        for line, i in enumerate(described):
            row, confidence = self._best(items[i], nearness[line])
            if confidence >= self.match_below:
                out[i] = replace(items[i], product_id=self.products[row].product_id, product_confidence=round(confidence, 4))
        return tuple(out)

    def _vectors_of(self, texts: list[str]) -> np.ndarray:
        vectors = np.asarray(self._embed(texts), dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise ShapeError(f"text vectors have shape {vectors.shape}, must be ({len(texts)}, D): one a text. Check the text model.")
        return vectors

    def _best(self, item: LineItem, nearness: np.ndarray) -> tuple[int, float]:
        """(row of the products, confidence) of the best product for a line."""
        key = _key(item.description)
        letters = _trigrams(key)
        shared = self._shared(letters)
        nearest = np.argpartition(-nearness, min(SHORTLIST, len(nearness) - 1))[:SHORTLIST]
        spelled_alike = sorted(shared, key=lambda r: -shared[r] / (len(letters) + len(self._letters[r])))[:SHORTLIST]
        rows = list(dict.fromkeys([*map(int, nearest), *spelled_alike]))
        scores = sorted(((self._score(item, key, r, float(nearness[r])), r) for r in rows), reverse=True)
        best, row = scores[0]
        runner_up = scores[1][0] if len(scores) > 1 else 0.0
        # Two products that fit alike make each other doubtful; the same name twice cannot be told apart.
        doubt = max(0.0, 0.08 - (best - runner_up)) / 0.08
        return row, max(0.0, min(0.99, best - 0.25 * doubt))

    def _shared(self, letters: set[str]) -> dict[int, int]:
        """Products that share letters with a line, and how many; parts that nearly all products have tell nothing and cost most."""
        common = max(200, len(self.products) // 5)
        counts: dict[int, int] = {}
        for part in letters:
            rows = self._rows_of.get(part, ())
            if len(rows) <= common:
                for row in rows:
                    counts[row] = counts.get(row, 0) + 1
        return counts

    def _score(self, item: LineItem, key: str, row: int, nearness: float) -> float:
        """0 to 1: mostly spelling, vectors for other words of the same meaning, the price for or against."""
        fuzzy = _alike(key, self._keys[row])
        score = 0.65 * fuzzy + 0.35 * max(0.0, nearness)
        score = max(score, 0.9 * fuzzy)
        return score + _price_evidence(item, self.products[row].price) * min(1.0, score * 1.5)


def _price_evidence(item: LineItem, price: Decimal | None) -> float:
    """What the price adds: the catalogue's price speaks for the product, one less than half or more than double against it."""
    paid = item.unit_price if item.unit_price else (item.amount / item.quantity if item.quantity else item.amount)
    if not price or price <= 0 or paid <= 0:
        return 0.0
    ratio = float(paid / price)
    if 0.995 <= ratio <= 1.005:
        return 0.08
    if 0.7 <= ratio <= 1.3:
        return 0.02
    return -0.15 if ratio < 0.5 or ratio > 2 else -0.03


def _key(text: str) -> str:
    """Words to compare by: no sizes, digits or marks."""
    upper = _UNITS.sub(" ", plain(text))
    return " ".join(re.findall(r"[A-Z]{2,}", upper)) or " ".join(re.findall(r"[A-Z0-9]+", plain(text)))


def _spelled(description: str) -> str:
    """A description as a sentence encoder knows words: lower case, without sizes."""
    return (_key(description) or description).lower()


def _trigrams(key: str) -> set[str]:
    padded = f" {key} "
    return {padded[i : i + 3] for i in range(len(padded) - 2)}


def _alike(line: str, product: str) -> float:
    """0 to 1: how far the words of the line are the product's, abbreviations (CHOC for CHOCOLATE) and order aside."""
    whole = SequenceMatcher(None, line.replace(" ", ""), product.replace(" ", "")).ratio()
    ours, theirs = line.split(), product.split()
    if not ours or not theirs:
        return whole

    def best(words: list[str], others: list[str]) -> float:
        return sum(len(w) * max(_word(w, o) for o in others) for w in words) / sum(map(len, words))

    forth, back = best(ours, theirs), best(theirs, ours)
    # A receipt leaves words out more often than it adds some.
    words = 0.6 * forth + 0.4 * back
    return max(whole, words)


def _word(a: str, b: str) -> float:
    if a == b:
        return 1.0
    short, long = sorted((a, b), key=len)
    if len(short) >= 3 and long.startswith(short):
        return 0.9
    if len(short) >= 3 and long[0] == short[0] and _is_squeezed(short, long):
        return 0.75
    ratio = SequenceMatcher(None, a, b).ratio()
    return ratio if ratio >= 0.75 else 0.3 * ratio


def _is_squeezed(short: str, long: str) -> bool:
    """Whether the short word is the long one without some letters: CHKN for CHICKEN."""
    letters = iter(long)
    return all(c in letters for c in short)
