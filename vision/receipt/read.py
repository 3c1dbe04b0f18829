"""A receipt from the pieces of text on its picture."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal

from pydantic import Field

from contracts.settings import StackSettings, settings_config
from vision.receipt.confidence import confidence
from vision.receipt.dates import Found, find_date
from vision.receipt.items import find_items, with_confidence
from vision.receipt.labels import read_labels
from vision.receipt.layout import lay_out
from vision.receipt.merchant import FoundMerchant, find_merchant
from vision.receipt.money import currency_of, dollars_repaired, page_uses_decimal_comma
from vision.receipt.reconcile import Decision, decide
from vision.types import LineItem, Quad, Receipt, TextLine


class ReceiptSettings(StackSettings):
    """When a person looks at a receipt. Variables start with `REGULARS_RECEIPT_`.

    Attributes:
        review_below: a merchant, date or total with less confidence goes to review.
        review_largest: a total of more than this, whatever the currency, goes to review; None: none does.
    """

    model_config = settings_config("REGULARS_RECEIPT_")
    review_below: float = Field(default=0.7, ge=0.0, le=1.0)
    review_largest: Decimal | None = Field(default=None, gt=0)


def read_receipt(lines: Sequence[TextLine], as_of: date | None = None, settings: ReceiptSettings | None = None) -> Receipt:
    """What a receipt says.

    Args:
        lines: pieces of text in any order; a piece may be a row, a word or anything between.
        as_of: the day on which it was handed in; dates after it are doubted. None where that is not known.
        settings: the process's own when None.

    Raises:
        TooLarge: more than 3,000 pieces.
        ShapeError: a piece whose place is not four finite corners.
    """
    settings = settings or ReceiptSettings.load()
    page = dollars_repaired(lay_out(lines))
    reading = read_labels(page, page_uses_decimal_comma(page))
    items, item_quads, items_discount = find_items(reading)
    decision = decide(reading, items, items_discount)
    currency, currency_confidence = currency_of(page, [a for row in reading.amounts for a in row])
    day = find_date(page, currency, as_of)
    merchant = find_merchant(page)
    confidences, boxes = _confidences(decision, day, merchant), _boxes(decision, day, merchant)
    if currency:
        confidences["currency"] = currency_confidence
    if items:
        boxes["items"] = item_quads
        items = _judged(items, decision)
        confidences["items"] = round(sum(i.confidence for i in items) / len(items), 4)
    sums = decision.sums
    receipt = Receipt(
        merchant=merchant.name if merchant else None,
        date=day.value if day else None,
        total=decision.value,
        currency=currency,
        subtotal=sums.subtotal.value if sums.subtotal else None,
        tax=sums.tax,
        discount=sums.discount,
        rounding=sums.rounding,
        cash=sums.cash,
        change=sums.change,
        items=items,
        confidences=confidences,
        boxes=boxes,
        reconciled=_reconciled(decision),
        lines=tuple(lines),
    )
    return Receipt(**{**receipt.__dict__, "review": _review(receipt, decision, day, as_of, settings)})


def _reconciled(decision: Decision) -> bool | None:
    if decision.value is None:
        return None
    if decision.holds:
        return True
    return False if decision.fails & {"paid", "sum"} else None


def _confidences(decision: Decision, day: Found | None, merchant: FoundMerchant | None) -> dict[str, float]:
    out: dict[str, float] = {}
    if merchant:
        out["merchant"] = confidence("merchant", merchant.facts)
    if day:
        out["date"] = confidence("date", day.facts)
    if decision.value is not None:
        out["total"] = confidence("total", decision.facts)
    sums = decision.sums
    agreed = 0.95 if decision.holds else (0.5 if decision.fails else 0.7)
    for name in ("subtotal", "tax", "discount", "rounding", "cash", "change"):
        if getattr(sums, name) is not None:
            out[name] = agreed
    return out


def _boxes(decision: Decision, day: Found | None, merchant: FoundMerchant | None) -> dict[str, tuple[Quad, ...]]:
    boxes = dict(decision.sums.quads)
    if day:
        boxes["date"] = day.quads
    if merchant:
        boxes["merchant"] = merchant.quads
    return boxes


def _judged(items: tuple[LineItem, ...], decision: Decision) -> tuple[LineItem, ...]:
    if "items" in decision.holds:
        return with_confidence(items, 1.25)
    return with_confidence(items, 0.7 if "items" in decision.fails else 0.9)


def _review(receipt: Receipt, decision: Decision, day: Found | None, as_of: date | None, settings: ReceiptSettings) -> tuple[str, ...]:
    reasons = []
    for name in ("merchant", "date", "total"):
        value = getattr(receipt, name)
        if value is None:
            reasons.append(f"{name}: not found")
        elif receipt.confidences[name] < settings.review_below:
            reasons.append(f"{name}: confidence {receipt.confidences[name]:.2f} is below {settings.review_below:.2f}")
    if receipt.reconciled is False:
        reasons.append("total: the page's sums contradict it")
    if decision.repaired:
        reasons.append(f"{decision.repaired}: one digit was corrected by the page's arithmetic")
    if receipt.total is not None and settings.review_largest is not None and receipt.total > settings.review_largest:
        reasons.append(f"total: {receipt.total} is above {settings.review_largest}")
    if day and as_of is not None and day.value > as_of + timedelta(days=1):
        reasons.append(f"date: {day.value} is after {as_of}")
    if day and day.facts["ambiguous"]:
        reasons.append("date: day and month may be exchanged")
    return tuple(reasons)
