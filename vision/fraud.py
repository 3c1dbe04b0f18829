"""Whether a receipt earns points: what speaks against it, in words, and award, review or refuse. Pure functions: nothing is read or stored.

A flag *refuses* only where the facts are sure (a date read with confidence, the same file again); everything doubtful goes to a person.
What is not known never refuses. The same receipt again is found by `vision.fingerprint`; `judge` is told.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from typing import Literal

from pydantic import Field

from contracts.errors import ContractError
from contracts.settings import StackSettings, settings_config
from vision.fingerprint import Likeness
from vision.types import Receipt

Verdict = Literal["award", "review", "refuse"]
CODES = {
    "unreadable": "the total or the date could not be read",
    "unsure": "a field was read with too little confidence",
    "reading": "the reader asks for a person",
    "future": "dated in the future",
    "too_old": "older than receipts may be",
    "arithmetic": "the amounts on the page contradict each other",
    "amount": "the total is out of the range that is awarded",
    "currency": "in a currency that is not accepted",
    "merchant": "not of a partner",
    "velocity": "more receipts than are usual in a day or a week",
    "same_receipt": "the same as an earlier receipt",
}
"""Every code of a flag, and what it means."""


class PointsSettings(StackSettings):
    """What a receipt earns, and what must be looked at by a person. Lists are JSON in the environment: `["EUR","CHF"]`."""

    model_config = settings_config("REGULARS_POINTS_")

    per_unit: Decimal = Field(Decimal(1), gt=0, le=10_000, description="points for each unit of the currency")
    minimum: int = Field(1, ge=0, description="fewest points of a receipt that is awarded")
    maximum: int = Field(1_000, ge=1, description="most points of one receipt")
    min_total: Decimal = Field(Decimal("0.01"), ge=0, description="totals below are refused")
    review_total: Decimal = Field(Decimal(500), gt=0, description="totals above are looked at by a person")
    max_total: Decimal = Field(Decimal(5_000), gt=0, description="totals above are refused")
    currencies: tuple[str, ...] = Field((), description="accepted currencies, ISO 4217; any when empty")
    partners: tuple[str, ...] = Field((), description="merchants whose receipts are awarded; any when empty")
    partner_likeness: float = Field(0.85, ge=0.5, le=1, description="how like a partner's name the merchant's must be, 1 is equal")
    max_age_days: int = Field(30, ge=0, le=3_650, description="days after which a receipt is too old")
    future_days: int = Field(1, ge=0, le=7, description="days that a receipt may be ahead, for time zones")
    per_day: int = Field(5, ge=1, description="receipts of one customer awarded in 24 hours without a person")
    per_week: int = Field(15, ge=1, description="receipts of one customer awarded in seven days without a person")
    sure: float = Field(0.9, ge=0, le=1, description="confidence that a total and a date need, to be awarded or refused without a person")
    same_sure: float = Field(0.9, ge=0.5, le=1, description="probability from which the same receipt is refused without a person")


@dataclass(frozen=True)
class Flag:
    """One thing that speaks against a receipt. `code` is one of CODES; `reason` says what was seen and what the rule is."""

    code: str
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Earlier:
    """A receipt found to be like this one. `own`: the same customer sent it."""

    receipt_id: str
    likeness: Likeness
    own: bool


@dataclass(frozen=True)
class Judgement:
    """What becomes of a receipt.

    Attributes:
        points: awarded when `decision` is award; to be awarded if a person agrees when review; 0 when refused.
        flags: all that was found, the gravest first.
    """

    decision: Verdict
    points: int
    flags: tuple[Flag, ...] = ()


def judge(
    receipt: Receipt,
    as_of: datetime,
    recent: Sequence[datetime] = (),
    earlier: Sequence[Earlier] = (),
    settings: PointsSettings | None = None,
) -> Judgement:
    """Decide on a receipt.

    Args:
        receipt: as read.
        as_of: now, with a time zone.
        recent: when receipts of this customer were awarded, at least of the last seven days.
        earlier: receipts of the business, awarded or waiting, that were found to be the same.
        settings: those of the environment when None.

    Raises:
        ContractError: a time without a time zone.
    """
    settings = settings or PointsSettings.load()
    for at in (as_of, *recent):
        if at.tzinfo is None:
            raise ContractError(f"the time {at.isoformat()} has no time zone, must have one. Give it in UTC.")
    flags = [
        *_reading(receipt, settings),
        *_dated(receipt, as_of, settings),
        *_amount(receipt, settings),
        *_merchant(receipt, settings),
        *_velocity(as_of, recent, settings),
        *_same(earlier, settings),
    ]
    flags.sort(key=lambda f: f.verdict != "refuse")
    decision: Verdict = "award"
    if flags:
        decision = flags[0].verdict
    return Judgement(decision, 0 if decision == "refuse" else points(receipt.total, settings), tuple(flags))


def points(total: Decimal | None, settings: PointsSettings) -> int:
    """Points of a total, rounded down, within the bounds; 0 where there is no total, or none to award."""
    if total is None or total < settings.min_total or total <= 0:
        return 0
    earned = int((total * settings.per_unit).to_integral_value(ROUND_FLOOR))
    return min(max(earned, settings.minimum), settings.maximum)


def _reading(receipt: Receipt, settings: PointsSettings) -> list[Flag]:
    flags = [
        Flag("unreadable", "review", f"The {name} could not be read. A person has to look.")
        for name, value in (("total", receipt.total), ("date", receipt.date))
        if value is None
    ]
    for name, value in (("total", receipt.total), ("date", receipt.date)):
        sureness = receipt.confidences.get(name, 0.0)
        if value is not None and sureness < settings.sure:
            flags.append(Flag("unsure", "review", f"The {name} was read with confidence {sureness:.2f}, {settings.sure:.2f} is needed."))
    if receipt.reconciled is False:
        flags.append(Flag("arithmetic", "review", "The amounts on the receipt do not add up to its total."))
    return flags + [Flag("reading", "review", reason) for reason in receipt.review]


def _sure(receipt: Receipt, name: str, settings: PointsSettings) -> Verdict:
    """A fact read with confidence refuses; another asks for a person."""
    return "refuse" if receipt.confidences.get(name, 0.0) >= settings.sure else "review"


def _dated(receipt: Receipt, as_of: datetime, settings: PointsSettings) -> list[Flag]:
    if receipt.date is None:
        return []
    age = (as_of.date() - receipt.date).days
    verdict = _sure(receipt, "date", settings)
    if age < -settings.future_days:
        return [Flag("future", verdict, f"The receipt is dated {receipt.date}, {-age} days after today.")]
    if age > settings.max_age_days:
        return [Flag("too_old", verdict, f"The receipt is of {receipt.date}, {age} days old; {settings.max_age_days} are allowed.")]
    return []


def _amount(receipt: Receipt, settings: PointsSettings) -> list[Flag]:
    flags, total = [], receipt.total
    if total is not None:
        verdict = _sure(receipt, "total", settings)
        if total < settings.min_total or total <= 0:
            flags.append(Flag("amount", verdict, f"The total is {total}; at least {settings.min_total} is needed."))
        elif total > settings.max_total:
            flags.append(Flag("amount", verdict, f"The total is {total}; at most {settings.max_total} is awarded."))
        elif total > settings.review_total:
            flags.append(Flag("amount", "review", f"The total is {total}; above {settings.review_total} a person looks."))
    if settings.currencies and receipt.currency is not None and receipt.currency not in settings.currencies:
        accepted = ", ".join(settings.currencies)
        flags.append(Flag("currency", "refuse", f"The receipt is in {receipt.currency}; accepted: {accepted}."))
    return flags


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.upper())


def _merchant(receipt: Receipt, settings: PointsSettings) -> list[Flag]:
    if not settings.partners:
        return []
    if not receipt.merchant:
        return [Flag("merchant", "review", "The merchant could not be read, and only partners' receipts are awarded.")]
    name = _plain(receipt.merchant)
    best = max(difflib.SequenceMatcher(None, name, _plain(partner), autojunk=False).ratio() for partner in settings.partners)
    if best >= settings.partner_likeness:
        return []
    return [Flag("merchant", _sure(receipt, "merchant", settings), f"{receipt.merchant} is not a partner.")]


def _velocity(as_of: datetime, recent: Sequence[datetime], settings: PointsSettings) -> list[Flag]:
    flags = []
    for days, most, word in ((1, settings.per_day, "24 hours"), (7, settings.per_week, "seven days")):
        count = sum(as_of - timedelta(days=days) < at <= as_of for at in recent)
        if count >= most:
            flags.append(Flag("velocity", "review", f"{count} receipts were awarded in the last {word}; up to {most} go without a person."))
    return flags


def _same(earlier: Sequence[Earlier], settings: PointsSettings) -> list[Flag]:
    flags = []
    for one in sorted((e for e in earlier if e.likeness.same), key=lambda e: -e.likeness.probability)[:3]:
        sure = one.likeness.by == "file" or (one.likeness.by == "text" and one.likeness.probability >= settings.same_sure)
        whose = "this customer" if one.own else "another customer"
        why = f": {'; '.join(one.likeness.reasons)}" if one.likeness.reasons else ""
        flags.append(Flag("same_receipt", "refuse" if sure else "review", f"The same as receipt {one.receipt_id} of {whose}{why}."))
    return flags
