"""What was bought: rows between the heading and the totals, with quantity, price and amount, over one, two or three rows."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal

from vision.receipt.labels import Reading, heading_words, money_of
from vision.receipt.layout import Row
from vision.receipt.money import CENT, Amount
from vision.receipt.text import fold, pattern, plain
from vision.types import LineItem, Quad

MAX_ITEMS = 300
_HEADING = pattern(
    r"DESCRIPTION|DESC$|^DESC|^ITEM|^QTY|QUANTITY|UPRICE|UNITPRICE|UNIT.?PRICE|^PRICE|AMOUNT$|^ARTIKEL|^MENGE|ARTICLE|DESIGNATION|PRODUCT|KETERANGAN|BARANG|CODE.*TOTAL|TOTALTAX$"
)
_QUANTITY_TIMES = re.compile(
    r"(?<![\w.])@?\s?(?P<q>\d{1,4}(?:[.,]\d{1,3})?)\s?(?P<u>PCS?|PKTS?|UNITS?|EA|KG|G|L|LTR|ROLL|BOX|ST|STK|BTL|CTN|SET)?\.?\s?(?P<x>[X×*@]|@\s?X)\s?(?:RM|\$|€|£|RS\.?|USD|EUR)?\s?(?P<p>\d{0,6}[.,]\d{1,4}|\d{1,6})?(?![\w])"
)
_END = {"strong", "rounded", "inclusive", "total", "subtotal", "cash", "card", "change"}
_NOT_ITEM = pattern(
    r"^DATE|INVOICE|RECEIPT|CASHIER|TABLE|TELEPHONE|^TEL|GSTID|GSTREG|GSTNO|REGNO|TERMINAL|TRANS|SALESPERSON|SERVER|MEMBER|ORDERNO|^ORDER|COUNTER|STAFF|^TIME|PAX|DOCNO|^SLIP|^POS"
)
_CODE = re.compile(r"^[\s#*]*[\dA-Z-]*\d{3,}[\dA-Z/-]*[\s*]*$")
_TAX_CODE = re.compile(r"(?<![\w.])(?:SR|ZRL?|SRS|ZR|OS|S|Z|T|A|B|E|SR-?0?|TX)\*?$")


@dataclass
class _Draft:
    """An item being put together from rows."""

    amount: Amount
    row: int
    quantity: Decimal
    unit_price: Decimal | None
    words: list[tuple[int, str]]
    quads: list[Quad]
    confidence: float
    counted: bool


def find_items(reading: Reading) -> tuple[tuple[LineItem, ...], tuple[Quad, ...], Decimal]:
    """Items top to bottom, the pieces they were read from, and what was taken off between them (discount rows, positive)."""
    start, end = _zone(reading)
    drafts: list[_Draft] = []
    texts: list[tuple[int, str]] = []  # rows with words and no amount
    discount = Decimal(0)
    no_cents = not any(a.places == 2 for row in reading.amounts for a in row)
    pending: tuple[int, Decimal, Decimal] | None = None
    for i in range(start, end):
        row, amounts = reading.page.rows[i], reading.amounts[i]
        label = reading.labels[i]
        upper = plain(row.text)
        if i in reading.summary_rows or (_NOT_ITEM.search(fold(label)) and not drafts):
            continue
        money = money_of(amounts, no_cents)
        quantity, price, times = _quantity_and_price(upper, amounts)
        kind = reading.kinds[i]
        if kind == "discount" and money:
            discount += abs(money[-1].value)
            continue
        if kind in ("ignored", "rounding", "tip"):
            continue
        right = _at_right(money, reading)
        if right is None:
            words = _described(row, amounts)
            if times is not None and price is not None and quantity is not None:
                if drafts and drafts[-1].row >= i - 2 and abs(quantity * price - drafts[-1].amount.value) <= Decimal("0.02"):
                    drafts[-1].quantity, drafts[-1].unit_price, drafts[-1].counted = quantity, price, True
                else:
                    pending = (i, quantity, price)
                words = _described(row, amounts)
            if len(fold(words)) >= 3:
                texts.append((i, words))
            continue
        if pending and pending[0] == i - 1 and quantity is None and abs(pending[1] * pending[2] - right.value) <= Decimal("0.02"):
            quantity, price = pending[1], pending[2]
        pending = None
        counted = quantity is not None and price is not None and abs(quantity * price - right.value) <= Decimal("0.02")
        if not counted:
            quantity, price, counted = _columns(amounts, right, upper)
        drafts.append(
            _Draft(
                right,
                i,
                quantity or Decimal(1),
                price,
                [(i, w) for w in [_described(row, amounts)] if w],
                list(row.quads),
                row.confidence,
                counted,
            )
        )
        if len(drafts) >= MAX_ITEMS:
            break
    _give_words(drafts, texts, reading)
    items = [_item(d) for d in drafts if d.words or d.counted]
    return tuple(items), tuple(q for d in drafts for q in d.quads), discount


def _zone(reading: Reading) -> tuple[int, int]:
    """Rows [start, end) between the column heading (or the header) and the first total."""
    first_total = next((x.row for x in reading.labelled if x.kind in _END and not x.summary), len(reading.page.rows))
    start = 0
    for i in range(first_total):
        folded = fold(reading.labels[i])
        heads = heading_words(reading.labels[i])
        if _HEADING.search(folded) and (heads >= 2 or len(folded) <= 14) and not reading.amounts[i]:
            start = i + 1
    if start:
        return start, first_total
    for i in range(first_total):
        if any(a.places == 2 for a in reading.amounts[i]) and i >= 2:
            return max(0, i - 2), first_total
    return 0, first_total


def _at_right(money: list[Amount], reading: Reading) -> Amount | None:
    """The amount of the row if it stands in the right part of the page, where amounts are printed."""
    if not money:
        return None
    last = money[-1]
    page = reading.page
    return last if last.x1 > page.left + 0.55 * (page.right - page.left) else None


def _quantity_and_price(upper: str, amounts: tuple[Amount, ...]) -> tuple[Decimal | None, Decimal | None, str | None]:
    """(quantity, unit price, sign) of "2 x 3.50", "@2 X RM 24.35", "2 PC @ 269.00", "0.535 kg x 12.90/kg"."""
    match = _QUANTITY_TIMES.search(upper)
    if match is None:
        return None, None, None
    quantity = _number(match["q"])
    price = _number(match["p"]) if match["p"] else None
    if price is None and match.end() <= len(upper):
        # "1 X" in one column, the price in the next.
        money = [a for a in amounts if a.places >= 2]
        if len(money) >= 2:
            price = money[-2].value
    if match["x"] == "*" and price is None:
        price = next((a.value for a in amounts if a.places >= 2), None)
    if quantity is None or quantity <= 0 or quantity > 9999:
        return None, None, None
    return quantity, price, match["x"]


def _number(text: str) -> Decimal:
    return Decimal(text.replace(",", ".") if not text.startswith((".", ",")) else "0" + text.replace(",", "."))


def _columns(amounts: tuple[Amount, ...], right: Amount, upper: str) -> tuple[Decimal | None, Decimal | None, bool]:
    """(quantity, unit price, agrees) of a row with columns: any two numbers before the amount whose product it is."""
    others = [a for a in amounts if a is not right and a.value > 0]
    numbers = [a for a in others if (a.places == 0 and a.value <= 9999) or a.places <= 3]
    for q in numbers:
        for p in others:
            if p is q or p.places < 2:
                continue
            if abs(q.value * p.value - abs(right.value)) <= Decimal("0.02") and (q.value != 1 or p.value == abs(right.value)):
                return q.value, p.value, True
    for n in others:
        if n.places == 0 and 1 < n.value <= 99 and re.match(rf"\s*{int(n.value)}\b", upper):
            return n.value, (right.value / n.value).quantize(CENT), False
    same = any(p.value == right.value for p in others)
    return Decimal(1), right.value if same else None, same


def _described(row: Row, amounts: tuple[Amount, ...]) -> str:
    """Description of a row: its words without amounts, "2 x 3.50" and a quantity or code in front; numbers among the words stay."""
    parts = []
    for piece in row.pieces:
        text = piece.text
        for a in sorted((a for a in amounts if a.piece is piece and (a.is_money or a.places)), key=lambda a: -a.start):
            text = text[: a.start] + " " + text[a.end :]
        text = _QUANTITY_TIMES.sub(lambda m: " " * len(m.group()), plain(text)) if _QUANTITY_TIMES.search(plain(text)) else text
        if re.search(r"[^\W\d_]{2}", text):
            parts.append(text)
    return _words(re.sub(r"^\s*\d{1,3}(?:\.0)?\s+(?=[^\W\d_])", "", " ".join(" ".join(parts).split())))


def _words(label: str) -> str:
    """Description of a row: its words without codes, tax codes, marks and lone numbers."""
    words = [w for w in label.split() if not _CODE.match(plain(w))]
    text = " ".join(words)
    text = _TAX_CODE.sub("", plain(text)) if _TAX_CODE.search(plain(text)) and len(fold(text)) > 3 else text
    text = re.sub(r"(?i)(?<![\w])(?:RM|MYR|USD|EUR|[$€£¥৳])(?![\w])", " ", text)
    text = re.sub(r"^[\s*:;.,@#|xX-]+(?=\W|$)|[\s*:;,@#|-]+$", "", text)
    text = " ".join(text.split())
    return (
        text if sum(c.isalpha() for c in text) >= 2 and not re.fullmatch(r"(?i)(SR|ZRL?|S|Z|T|D|TX|PC|PCS|EA|KG|UNIT|X)\W*", text) else ""
    )


def _give_words(drafts: list[_Draft], texts: list[tuple[int, str]], reading: Reading) -> None:
    """Give rows without an amount to the item they describe: above or below it, as the whole list is printed."""
    if not drafts:
        return
    bare = [d for d in drafts if not d.words]
    rows = {i for i, _ in texts}
    above = sum((d.row - 1) in rows for d in bare)
    below = sum((d.row + 1) in rows for d in bare)
    first, last = drafts[0].row, drafts[-1].row
    if any(i < first for i in rows) and not any(i > last for i in rows):
        above += 1
    elif any(i > last for i in rows) and not any(i < first for i in rows):
        below += 1
    from_above = above >= below if bare else False
    for i, words in texts:
        before = [d for d in drafts if d.row < i]
        after = [d for d in drafts if d.row > i]
        target = None
        if from_above and bare:
            target = after[0] if after and after[0].row - i <= 3 else None
        elif before and i - before[-1].row <= 2:
            target = before[-1]
        if target is not None and len(target.words) < 4:
            target.words.append((i, words))
            target.quads += list(reading.page.rows[i].quads)


def _item(d: _Draft) -> LineItem:
    description = " ".join(dict.fromkeys(words for _, words in sorted(d.words)))
    confidence = 0.5 + 0.3 * d.counted + 0.2 * bool(d.words)
    whole = d.quantity == d.quantity.to_integral()
    quantity = d.quantity.to_integral() if whole else d.quantity.normalize()
    return LineItem(description, d.amount.value, quantity, d.unit_price, round(confidence * d.confidence, 3))


def items_sum(items: tuple[LineItem, ...]) -> Decimal:
    """What all items cost together."""
    return sum((i.amount for i in items), Decimal(0))


def with_confidence(items: tuple[LineItem, ...], factor: float) -> tuple[LineItem, ...]:
    """Items with their confidence times `factor`, at most 0.99: their sum agreed, or did not."""
    return tuple(replace(i, confidence=round(min(0.99, i.confidence * factor), 3)) for i in items)
