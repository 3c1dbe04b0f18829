"""Numbers on a receipt: 1,234.56 and 1.234,56, RM, $ and €, minus signs, letters read for digits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal

from vision.receipt.layout import Page, Piece, Row
from vision.receipt.text import LETTERS_LIKE_DIGITS, as_digits, plain

CENT = Decimal("0.01")
SYMBOLS = {
    "RM": "MYR", "MYR": "MYR", "US$": "USD", "USD": "USD", "S$": "SGD", "SGD": "SGD", "A$": "AUD", "AUD": "AUD", "C$": "CAD", "CAD": "CAD",
    "NZ$": "NZD", "NZD": "NZD", "HK$": "HKD", "HKD": "HKD", "€": "EUR", "EUR": "EUR", "EURO": "EUR", "£": "GBP", "GBP": "GBP", "¥": "JPY",
    "円": "JPY", "JPY": "JPY", "CNY": "CNY", "RMB": "CNY", "৳": "BDT", "TK": "BDT", "BDT": "BDT", "₹": "INR", "RS": "INR", "INR": "INR",
    "CHF": "CHF", "RP": "IDR", "IDR": "IDR", "฿": "THB", "THB": "THB", "₱": "PHP", "PHP": "PHP", "₩": "KRW", "KRW": "KRW", "₫": "VND",
    "VND": "VND", "R$": "BRL", "BRL": "BRL", "MX$": "MXN", "MXN": "MXN", "ZAR": "ZAR", "SEK": "SEK", "NOK": "NOK", "DKK": "DKK",
    "PLN": "PLN", "ZŁ": "PLN", "AED": "AED", "SAR": "SAR", "$": "$", "KR": "KR",
}  # fmt: skip
"""As printed -> ISO 4217; "$" and "KR" are several countries' (see currency_of)."""
WITHOUT_CENTS = {"JPY", "KRW", "VND", "IDR", "CLP", "ISK", "HUF"}
_COUNTRY = (
    (r"SDN\.? ?BHD|\bS/B\b|MALAYSIA|\bSST\b", "MYR"), (r"\bPTE\.? ?LTD|SINGAPORE", "SGD"), (r"\bABN\b|AUSTRALIA|\bPTY\b", "AUD"),
    (r"\bHST\b|\bQST\b|\bTPS\b|\bTVQ\b|CANADA", "CAD"), (r"NEW ZEALAND", "NZD"), (r"HONG ?KONG", "HKD"), (r"MEXICO|\bRFC\b", "MXN"),
    (r"\bGMBH\b|\bMWST\b|\bUST\b|\bTVA\b|\bSIRET\b|\bBTW\b|\bIVA\b|\bNIF\b|\bCIF\b|\bP\.? ?IVA\b|\bSARL\b|\bS\.?R\.?L\b", "EUR"),
    (r"\bVAT (REG|NO)|\bUNITED KINGDOM\b|\bLONDON\b", "GBP"), (r"BANGLADESH|\bDHAKA\b|\bBIN NO", "BDT"), (r"\bGSTIN\b|\bCGST\b"
        r"|\bFSSAI\b|INDIA\b", "INR"),
    (r"\bJAPAN\b|合計", "JPY"), (r"INDONESIA|\bNPWP\b|\bPPN\b", "IDR"), (r"\bTHAILAND\b", "THB"), (r"PHILIPPINES", "PHP"),
    (r"SVERIGE|\bMOMS\b|\bORG\.? ?NR", "SEK"), (r"\bUSA\b|UNITED STATES|\bSALES TAX\b|, [A-Z]{2} \d{5}\b", "USD"),
)  # fmt: skip

_CURRENCY = (
    r"(?:(?<![A-Z])(?:US\$|S\$|A\$|C\$|NZ\$|HK\$|R\$|MX\$|RM|MYR|USD|SGD|AUD|CAD|NZD|HKD|EURO?|GBP|JPY|CNY|RMB|BDT|INR|CHF|IDR|THB|PHP"
    r"|KRW"
    r"|VND|BRL|MXN|PLN|SEK|NOK|DKK|TK\.?|RS\.?|RP\.?|KR\.?)|[$€£¥৳₹฿₱₩₫円])"
)
_NUMBER = re.compile(
    rf"(?P<before>[-(]\s?)?(?:(?P<currency>{_CURRENCY})\s?(?P<inner>-\s?)?)?"
    r"(?<![\d.,:/])(?P<number>"
    r"\d{1,3}(?:(?P<group>[.,' ])\d{3})(?:(?P=group)\d{3})*[.,]\d{2}(?!\d)"  # 1,234.56
    r"|\d{0,7}[.,]\s?\d{2}(?!\d)"  # 12.50, .50
    r"|\d{1,3}(?:[.,]\d{3})+(?!\d)"  # 25.000: thousands, or a price per litre
    r"|\d{1,6}[.,]\d{3,4}(?!\d)"  # 0.7500
    r"|\d{1,6}[.,]\d(?!\d)"  # 2.0
    r"|\d{1,7}(?!\d)"
    rf")(?![:/]\d|[.,]\d)(?P<close>\s?\))?(?P<after>\s?-(?![\w.]))?(?:\s?(?P<unit>{_CURRENCY})(?![A-Z]))?(?P<percent>\s?%)?"
)
_WORD = re.compile(
    rf"(?P<head>[-(]?{_CURRENCY}?-?)(?P<core>[\d{LETTERS_LIKE_DIGITS}]+(?:[.,][\d{LETTERS_LIKE_DIGITS}]{{3}})*[.,][\d{LETTERS_LIKE_DIGITS}]{{2}})"
    r"(?P<tail>[A-Z]{0,3}[*)]?)",
    re.IGNORECASE,
)

_DOLLAR_AS_LETTER = re.compile(r"(?<![A-Za-z0-9.,])[Ss](?=\d{1,5}[.,]\d{2}(?!\d))")


@dataclass(frozen=True)
class Amount:
    """A number on the page.

    Attributes:
        places: decimals as printed.
        currency: as printed, upper case, or None.
        grouped: True where it is only digits and one separator before three of them: 25.000 may be 25 thousand or 25.
        repaired: True where letters were taken for the digits they look like.
        start, end: its characters in the piece's text.
    """

    value: Decimal
    places: int
    currency: str | None
    grouped: bool
    repaired: bool
    piece: Piece
    start: int
    end: int

    @property
    def x1(self) -> float:
        """Right end in pixels, by the share of characters."""
        return self.piece.x0 + (self.piece.x1 - self.piece.x0) * self.end / max(1, len(self.piece.text))

    @property
    def x0(self) -> float:
        return self.piece.x0 + (self.piece.x1 - self.piece.x0) * self.start / max(1, len(self.piece.text))

    @property
    def is_money(self) -> bool:
        """Printed like an amount: two decimals, or a currency beside it."""
        return self.places == 2 or self.currency is not None


def repair_digits(text: str) -> str:
    """Letters read for digits inside amounts as these digits ("RM1O.5O" is RM10.50); same length.

    A word is repaired only when it has the form of an amount, a true digit in it, and no more letters than digits (O aside).
    """

    def word(match: re.Match[str]) -> str:
        found = _WORD.fullmatch(match.group())
        if found is None:
            return match.group()
        core = found["core"]
        digits = sum(c.isdigit() for c in core)
        letters = sum(c.isalpha() or c in "|!" for c in core)
        zeros = sum(c in "Oo" for c in core)
        if not letters or not digits or digits < letters - zeros:
            return match.group()
        return found["head"] + as_digits(core) + found["tail"]

    return re.sub(r"\S+", word, text)


def dollars_repaired(page: Page) -> Page:
    """The page with S before an amount as $, where the page has a $ elsewhere: S8.20 is $8.20 there, not 58.20."""
    if not any("$" in row.text for row in page.rows):
        return page
    rows = tuple(Row(tuple(replace(p, text=_DOLLAR_AS_LETTER.sub("$", p.text)) for p in row.pieces)) for row in page.rows)
    return replace(page, rows=rows)


def amounts_of(piece: Piece, decimal_comma: bool = False) -> list[Amount]:
    """Numbers of a piece from left to right; percentages, times, dates and numbers inside words are left out.

    Args:
        decimal_comma: whether the page writes 12,50; then 1 234,56 is one number and 1.234 is a thousand.
    """
    text = piece.text.replace("–", "-").replace("−", "-").replace("—", "-").replace("×", "x")
    # Upper case letter by letter: the length, and with it every position, must stay.
    repaired = "".join(c.upper() if len(c.upper()) == 1 else c for c in repair_digits(text))
    found = []
    for match in _NUMBER.finditer(repaired):
        start, end = match.start("number"), match.end("number")
        if match["percent"] or _in_word(repaired, match) or (match["group"] == " " and not decimal_comma):
            if match["group"] == " ":
                found += _split_at_blank(piece, repaired, match)
            continue
        value, places, grouped = _value(match["number"], decimal_comma)
        if match["currency"] or match["unit"]:
            printed = (match["currency"] or match["unit"]).rstrip(".")
            if grouped and SYMBOLS.get(printed) in WITHOUT_CENTS:
                value, places, grouped = Decimal(re.sub(r"\D", "", match["number"])), 0, False
        else:
            printed = None
        before = (match["before"] or "").strip()
        # A dash after a word is punctuation ("TOTAL-12.50" in a run of words), a dash after nothing or a blank is a sign.
        negative = (
            (before == "-" and not re.search(r"\w$", repaired[: match.start()]))
            or bool(match["inner"])
            or (before == "(" and bool(match["close"]))
            or bool(match["after"])
        )
        found.append(
            Amount(
                -value if negative else value,
                places,
                printed,
                grouped,
                repaired[start:end] != text[start:end],
                piece,
                match.start(),
                match.end(),
            )
        )
    return found


def _split_at_blank(piece: Piece, text: str, match: re.Match[str]) -> list[Amount]:
    """ "3 125.00" on a page with decimal points: 3 of something, and 125.00."""
    blank = text.index(" ", match.start("number"))
    left = Piece(text[match.start("number") : blank], piece.x0, piece.x1, piece.y, piece.height, piece.confidence, piece.quad)
    right = Piece(text[blank + 1 : match.end()], piece.x0, piece.x1, piece.y, piece.height, piece.confidence, piece.quad)
    out = []
    for part, offset in ((left, match.start("number")), (right, blank + 1)):
        for a in amounts_of(part):
            out.append(Amount(a.value, a.places, a.currency, a.grouped, a.repaired, piece, offset + a.start, offset + a.end))
    return out


def _in_word(text: str, match: re.Match[str]) -> bool:
    """True for the digits of codes, phone numbers, dates and weights; amounts with two decimals may touch a word (TOTAL19.40)."""
    start, end = match.start("number"), match.end("number")
    before, after = text[start - 1 : start], text[end : end + 1]
    decimals = bool(re.search(r"[.,]\s?\d{2}$", match["number"]))
    if re.search(r"\d[-/]$", text[:start]) or re.match(r"[-/]\d", text[end:]):
        return True
    if before == "#":
        return True
    if decimals:
        return bool(re.match(r"(KG|G|ML|L|LTR|MM|CM|M|OZ|LB)\b", text[end:].lstrip())) and not match["currency"] if after else False
    if match["currency"]:
        return after.isalpha()
    return (before.isalpha() and before not in "X@") or (after.isalpha() and after not in "X@") or before == "_"


def _value(number: str, decimal_comma: bool) -> tuple[Decimal, int, bool]:
    """(value, decimals, grouped) of a number as printed."""
    number = number.replace(" ", "").replace("'", "")
    separators = re.findall(r"[.,]", number)
    if not separators:
        return Decimal(number), 0, False
    whole, _, fraction = re.fullmatch(r"(.*)([.,])(\d+)", number).groups()  # type: ignore[union-attr]
    whole = re.sub(r"[.,]", "", whole) or "0"
    if len(fraction) == 3 and (len(separators) > 1 or (separators[-1] == ".") == decimal_comma):
        return Decimal(whole + fraction), 0, False
    return Decimal(f"{whole}.{fraction}"), len(fraction), len(fraction) == 3 and len(whole) <= 3 and whole != "0"


def page_uses_decimal_comma(page: Page) -> bool:
    """Whether most amounts with two decimals have a comma before them."""
    counts: Counter[str] = Counter()
    for row in page.rows:
        counts.update(m.group(1) for m in re.finditer(r"\d([.,])\d{2}(?![\d.,])", row.text))
    return counts[","] > counts["."]


def row_amounts(row: Row, decimal_comma: bool) -> list[Amount]:
    """Numbers of a row from left to right; a currency alone in the piece before an amount is that amount's."""
    out: list[Amount] = []
    waiting: str | None = None
    for piece in row.pieces:
        bare = plain(piece.text).strip(" :.()*-")
        found = amounts_of(piece, decimal_comma)
        if not found and bare in SYMBOLS:
            waiting = bare
            continue
        if found and waiting and found[0].currency is None and plain(piece.text)[:1] in "0123456789.,-(":
            first = found[0]
            found[0] = Amount(first.value, first.places, waiting, first.grouped, first.repaired, piece, first.start, first.end)
        waiting = bare.split(" ")[-1] if bare.split(" ")[-1:] and bare.split(" ")[-1] in SYMBOLS and not found else None
        out += found
    return out


def currency_of(page: Page, amounts: Iterable[Amount]) -> tuple[str | None, float]:
    """(ISO 4217, confidence) by what stands beside amounts, then by words that one country's receipts carry."""
    text = plain("\n".join(row.text for row in page.rows)) if page.rows else ""
    printed = Counter(SYMBOLS[a.currency] for a in amounts if a.currency in SYMBOLS)
    for name in re.findall(
        r"[(\[]\s?(RM|MYR|EUR|USD|SGD|GBP|CHF|BDT|INR|AUD|CAD|€|£|৳|₹|\$)\s?[)\]]|\b(RM|MYR|EUR|GBP|SGD|CHF)\b|(€|£|৳|₹)", text
    ):
        printed[SYMBOLS[next(n for n in name if n)]] += 1
    country = next((code for words, code in _COUNTRY if re.search(words, text)), None)
    shared = printed.pop("$", 0)
    crowns = printed.pop("KR", 0)
    if printed:
        code, count = printed.most_common(1)[0]
        return code, 0.99 if count / sum(printed.values()) > 0.8 else 0.8
    if shared:
        if country in ("MYR", "SGD", "AUD", "CAD", "NZD", "HKD", "MXN", "USD"):
            return country, 0.9
        return "USD", 0.7
    if crowns:
        return ("SEK", 0.6)
    return (country, 0.8) if country else (None, 0.0)
