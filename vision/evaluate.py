"""How well receipts are read: exact matches after normalization, with intervals, and how honest the confidences are."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from contracts.errors import ContractError
from vision.receipt.dates import find_date
from vision.receipt.layout import Page, Piece, Row
from vision.receipt.text import plain
from vision.types import Receipt

FIELDS = ("merchant", "date", "total")
SURE = 0.9


@dataclass(frozen=True)
class Truth:
    """What a receipt says according to a person; None where that field was not annotated."""

    merchant: str | None
    date: str | None
    total: str | None


@dataclass(frozen=True)
class FieldScore:
    """Of one field over all receipts.

    Attributes:
        right, n: exact matches, and receipts where the field is annotated.
        rate, low, high: right / n with its 95 % Wilson interval.
        sure: fields given with confidence at least SURE.
        sure_wrong: wrong ones among them.
    """

    right: int
    n: int
    rate: float
    low: float
    high: float
    sure: int
    sure_wrong: int

    @property
    def sure_share(self) -> float:
        return self.sure / self.n if self.n else 0.0

    @property
    def sure_wrong_share(self) -> float:
        return self.sure_wrong / self.sure if self.sure else 0.0


def normalize_company(text: str) -> str:
    """Upper case, letters and digits only: case, accents, punctuation and blanks do not count, everything else does."""
    return re.sub(r"[^0-9A-Z]|(?<=\w)_", "", plain(text))


def normalize_total(text: str) -> Decimal:
    """The amount without currency, to the cent.

    Raises:
        ContractError: the text holds no number.
    """
    kept = re.sub(r"[^0-9.,-]", "", text)
    if re.search(r",\d{2}$", kept):
        kept = kept.replace(".", "").replace(",", ".")
    kept = kept.replace(",", "")
    if not re.fullmatch(r"-?\d*\.?\d+\.?", kept):
        raise ContractError(f"the total {text!r} holds no number; give it as 12.50 or RM 12.50.")
    return Decimal(kept).quantize(Decimal("0.01"))


def normalize_date(text: str) -> date:
    """The day that an annotated date names, day before month where both orders fit.

    Raises:
        ContractError: the text holds no date.
    """
    piece = Piece("DATE " + text, 0.0, 1.0, 0.0, 1.0, 1.0, ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)))
    found = find_date(Page((Row((piece,)),)), None, None)
    if found is None:
        raise ContractError(f"the date {text!r} is not one; give it as 2018-03-25, 25/03/2018 or 25 MAR 2018.")
    return found.value


def right(field: str, receipt: Receipt, truth: Truth) -> bool | None:
    """Whether a field was read exactly; None where it is not annotated."""
    wanted = getattr(truth, field)
    if wanted is None:
        return None
    got = getattr(receipt, field)
    if got is None:
        return False
    if field == "merchant":
        return normalize_company(got) == normalize_company(wanted)
    if field == "date":
        return got == normalize_date(wanted)
    return Decimal(got).quantize(Decimal("0.01")) == normalize_total(wanted)


def score_receipts(receipts: Mapping[str, Receipt], truths: Mapping[str, Truth]) -> dict[str, FieldScore]:
    """Scores of merchant, date and total over the receipts of `truths`; one that is missing in `receipts` counts as wrong.

    Raises:
        ContractError: `truths` is empty, or an annotation is not a date or an amount.
    """
    if not truths:
        raise ContractError("there are no annotated receipts to score against; give at least one.")
    scores = {}
    for name in FIELDS:
        judged = [
            (right(name, receipts.get(key, Receipt()), truth), receipts.get(key, Receipt()).confidences.get(name, 0.0))
            for key, truth in truths.items()
        ]
        known = [(ok, conf) for ok, conf in judged if ok is not None]
        hits = sum(ok for ok, _ in known)
        low, high = wilson(hits, len(known))
        sure = [ok for ok, conf in known if conf >= SURE]
        rate = hits / len(known) if known else 0.0
        scores[name] = FieldScore(hits, len(known), rate, low, high, len(sure), sum(not ok for ok in sure))
    return scores


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a share. Source: Wilson 1927, score interval."""
    if n == 0:
        return 0.0, 1.0
    p = hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)
