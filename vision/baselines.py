"""What one writes in an afternoon: fields of a receipt by regular expressions over the lines of text, the peer of our parser.

It is meant to be a good one of its kind, and does what public solutions of the same task share: the company is the first line with a legal
form, else the first that looks like a name; the date is the first that is labelled as one, else the first; the total is the last amount on
a line that says total and none of the words that make it another one (sub, tax, items, discount, ...), the strongest label first, else the
largest amount that is neither cash nor change. It knows no columns, no arithmetic and no confidence.

`Enlarged` gives an engine the size of print that it wants.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from decimal import Decimal

import cv2
import numpy as np

from vision.types import OcrEngine, Quad, Receipt, TextLine

_LEGAL = re.compile(r"\b(?:SDN\.?\s*BHD|S/B|BHD|LTD|LIMITED|INC|LLC|PLC|GMBH|PTE|PTY|ENTERPRISE|TRADING|CORP)\b", re.I)
_NO_NAME = re.compile(
    r"\b(?:INVOICE|RECEIPT|CASH|BILL|TAX|GST|VAT|TEL|PHONE|FAX|DATE|TIME|NO|JALAN|JLN|LOT|STREET|ROAD|CUSTOMER|COPY|WELCOME|WWW)\b"
    r"|https?:|@|\d{4,}",
    re.I,
)
_REST_OF_A_NAME = re.compile(r"(?:CO\.?\s*)?(?:\(\w\)\s*)?(?:SDN|BHD|LTD|LIMITED|INC|LLC)\b", re.I)
_REGISTERED = re.compile(r"\s*\(?\s*(?:(?:CO|COMPANY|REG|NO)[.\s:]*)*\(?\d{4,7}\s?-.*$", re.I)
_HEAD_LINES = 8
"""A name stands among the first lines, if it does anywhere."""
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DATES = (
    (re.compile(r"(?<!\d)(?P<y>(?:19|20)\d\d)\s?[-/.]\s?(?P<m>\d{1,2})\s?[-/.]\s?(?P<d>\d{1,2})(?!\d)"), False),
    (re.compile(r"(?<!\d)(?P<d>\d{1,2})\s?[-/.]\s?(?P<m>\d{1,2})\s?[-/.]\s?(?P<y>(?:19|20)?\d\d)(?!\d)"), True),
    (re.compile(rf"(?<!\d)(?P<d>\d{{1,2}})[\s\-/.,]*(?P<n>{'|'.join(_MONTHS)})[A-Z]*[\s\-/.,']*(?P<y>(?:19|20)?\d\d)(?!\d)", re.I), True),
    (re.compile(rf"\b(?P<n>{'|'.join(_MONTHS)})[A-Z]*[\s.]*(?P<d>\d{{1,2}})[\s,]+(?P<y>(?:19|20)\d\d)(?!\d)", re.I), False),
)
_AMOUNT = re.compile(r"(?<![\d.,])(?P<a>\d{1,3}(?:[, ]\d{3})+[.]\s?\d{2}|\d+\s?[.,]\s?\d{2})(?![\d%]|[.,]\d)")
_TOTALS = tuple(
    re.compile(label, re.I)
    for label in (
        r"GRAND\s*TOTAL|NET+\s*TOTAL|TOTAL\s*(?:AMOUNT\s*)?(?:DUE|PAYABLE)|AMOUNT\s*DUE|BALANCE\s*DUE|ROUNDED\s*TOTAL|TOTAL\s*ROUND",
        r"T[O0]TAL\s*\(?\s*(?:SALES?|AMOUNT|INCL|RM|AMT)",
        r"\bT[O0]TAL\b",
        r"\bAMOUNT\b|\bSALES\b",
    )
)
_OTHER_TOTAL = re.compile(
    r"SUB|EXCL|INCLUDED|TAXABLE|BEFORE|QTY|QUANTITY|ITEMS?\b|DISC|SAVING|CHANGE|TAX\s*AMT|TOTAL\s*(?:GST|TAX|VAT|ROUNDING)|(?:GST|TAX|EST)\s*(?:SUMMARY|TOTAL)|POINTS?",
    re.I,
)
_PAID = re.compile(r"CASH|CHANGE|TENDER|PAID|ROUNDING|VISA|MASTER", re.I)


def read_by_regex(lines: Sequence[TextLine]) -> Receipt:
    """Merchant, date and total of a receipt, without confidences.

    Args:
        lines: a printed row each, top to bottom, as tesseract gives them.
    """
    texts = [line.text for line in lines]
    return Receipt(merchant=_company(texts), date=_date(texts), total=_total(texts))


def _company(texts: Sequence[str]) -> str | None:
    head = [t.strip(" .,:;-_'\"|*") for t in texts[:_HEAD_LINES]]
    legal = next((n for n, t in enumerate(head) if _LEGAL.search(t) and re.search(r"[A-Za-z]{3}", t)), None)
    named = None if legal is None else head[legal]
    if named and legal and _REST_OF_A_NAME.match(named):
        named = f"{head[legal - 1]} {named}"
    plain = next((t for t in head if sum(c.isalpha() for c in t) >= 4 and not _NO_NAME.search(t)), None)
    found = named or plain
    return _REGISTERED.sub("", found).strip() if found else None


def _date(texts: Sequence[str]) -> date | None:
    labelled = [t for t in texts if re.search(r"DATE|TARIKH|DATUM", t, re.I)]
    for text in (*labelled, *texts):
        for pattern, day_first in _DATES:
            for match in pattern.finditer(text):
                found = _day(match.groupdict(), day_first)
                if found:
                    return found
    return None


def _day(parts: dict[str, str], day_first: bool) -> date | None:
    """The day that a match names; where its month cannot be one, day and month change places."""
    year, day = int(parts["y"]), int(parts["d"])
    month = _MONTHS.index(parts["n"][:3].upper()) + 1 if "n" in parts else int(parts["m"])
    if day_first and month > 12:
        day, month = month, day
    try:
        return date(year + 2000 if year < 100 else year, month, day)
    except ValueError:
        return None


def _total(texts: Sequence[str]) -> Decimal | None:
    for label in _TOTALS:
        for number in range(len(texts) - 1, -1, -1):
            if label.search(texts[number]) and not _OTHER_TOTAL.search(texts[number]):
                below = texts[number + 1] if number + 1 < len(texts) else ""
                amounts = _amounts(texts[number]) or ([] if re.search(r"[A-Za-z]{3}", below) else _amounts(below))
                if amounts:
                    return amounts[-1]
    every = [a for t in texts if not _PAID.search(t) for a in _amounts(t)]
    return max(every, default=None)


def _amounts(text: str) -> list[Decimal]:
    return [_value(m["a"]) for m in _AMOUNT.finditer(text)]


def _value(text: str) -> Decimal:
    digits = re.sub(r"[^\d]", "", text)
    return Decimal(digits).scaleb(-2)


class Enlarged:
    """An engine that reads small pictures at twice their size; an OcrEngine.

    Tesseract wants letters of some 30 pixels. On receipts of 1,000 pixels it read a third more totals that way.

    Args:
        engine: reads the enlarged picture.
        below_px: pictures whose longer side is at least as long are left as they are.

    Raises:
        whatever the engine raises.
    """

    def __init__(self, engine: OcrEngine, below_px: int = 1500) -> None:
        self.engine, self.below_px = engine, below_px
        self.name = engine.name

    def read(self, pixels: np.ndarray) -> list[TextLine]:
        """See OcrEngine."""
        if pixels.ndim != 3 or max(pixels.shape[:2]) >= self.below_px:
            return self.engine.read(pixels)
        larger = np.asarray(cv2.resize(pixels, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), np.uint8)
        return [TextLine(_halved(line.quad), line.text, line.confidence) for line in self.engine.read(larger)]


def _halved(quad: Quad) -> Quad:
    a, b, c, d = ((x / 2, y / 2) for x, y in quad)
    return a, b, c, d
