"""Pictures in the operational database: tables, and the rows as Python has them.

`awards` is the ledger of points: rows are only ever added, and triggers of the database refuse to change or delete one, except that an
erasure takes the customer's name out. Amounts of money are whole minor units (cents), with the currency beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Literal

import orjson
import sqlalchemy as sa

from ray_apps.store import Micros, metadata

Status = Literal["award", "review", "refused", "duplicate", "approved", "rejected"]
"""Of a receipt: `award` at once, waiting for a person (`review`), not paid (`refused`, or a `duplicate` of an earlier one), or what a
person said (`approved`, `rejected`)."""
ChallengeKind = Literal["product", "scavenger", "receipt"]

recognitions = sa.Table(
    "recognitions",
    metadata,
    sa.Column("business_id", sa.Text, primary_key=True),
    sa.Column("recognition_id", sa.Text, primary_key=True),
    sa.Column("customer_id", sa.Text),
    sa.Column("at", Micros, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("model_version", sa.Text, nullable=False),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("latency_ms", sa.Double, nullable=False),
    sa.Column("context", sa.Text, nullable=False),
    sa.Column("sent", sa.Boolean, nullable=False),
    sa.Index("recognitions_customer", "business_id", "customer_id", "at"),
    sa.Index("recognitions_at", "at"),
)
receipts = sa.Table(
    "receipts",
    metadata,
    sa.Column("business_id", sa.Text, primary_key=True),
    sa.Column("receipt_id", sa.Text, primary_key=True),
    sa.Column("customer_id", sa.Text),
    sa.Column("at", Micros, nullable=False),
    sa.Column("merchant", sa.Text),
    sa.Column("day", sa.Date),
    sa.Column("total_minor", sa.BigInteger),
    sa.Column("currency", sa.Text),
    sa.Column("fingerprint", sa.LargeBinary),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("points", sa.BigInteger, nullable=False),
    sa.Column("flags", sa.Text, nullable=False),
    sa.Column("duplicate_of", sa.Text),
    sa.Column("decided_by", sa.Text),
    sa.Column("decided_at", Micros),
    sa.Column("reason", sa.Text),
    sa.CheckConstraint("status IN ('award', 'review', 'refused', 'duplicate', 'approved', 'rejected')", name="receipts_status"),
    sa.CheckConstraint("points >= 0", name="receipts_points"),
    sa.Index("receipts_status_at", "business_id", "status", "at"),
    sa.Index("receipts_customer", "business_id", "customer_id"),
    sa.Index("receipts_at", "at"),
)
receipt_keys = sa.Table(
    "receipt_keys",
    metadata,
    sa.Column("business_id", sa.Text, primary_key=True),
    sa.Column("key", sa.BigInteger, primary_key=True),
    sa.Column("receipt_id", sa.Text, primary_key=True),
)
awards = sa.Table(
    "awards",
    metadata,
    sa.Column("award_id", sa.Text, primary_key=True),
    sa.Column("business_id", sa.Text, nullable=False),
    sa.Column("customer_id", sa.Text),
    sa.Column("source_kind", sa.Text, nullable=False),
    sa.Column("source_id", sa.Text, nullable=False),
    sa.Column("recognition_id", sa.Text, nullable=False),
    sa.Column("points", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", Micros, nullable=False),
    sa.CheckConstraint("source_kind IN ('receipt', 'challenge')", name="awards_source_kind"),
    sa.CheckConstraint("points >= 0", name="awards_points"),
    sa.UniqueConstraint("business_id", "source_kind", "source_id", name="awards_once"),
    sa.Index("awards_customer", "business_id", "customer_id", "at"),
)
challenges = sa.Table(
    "challenges",
    metadata,
    sa.Column("business_id", sa.Text, primary_key=True),
    sa.Column("challenge_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("wanted", sa.Text, nullable=False),
    sa.Column("min_confidence", sa.Double, nullable=False),
    sa.Column("points", sa.BigInteger, nullable=False),
    sa.Column("starts", Micros),
    sa.Column("ends", Micros),
    sa.CheckConstraint("kind IN ('product', 'scavenger', 'receipt')", name="challenges_kind"),
    sa.CheckConstraint("points >= 0", name="challenges_points"),
)
challenge_progress = sa.Table(
    "challenge_progress",
    metadata,
    sa.Column("business_id", sa.Text, primary_key=True),
    sa.Column("challenge_id", sa.Text, primary_key=True),
    sa.Column("customer_id", sa.Text, primary_key=True),
    sa.Column("item", sa.Text, primary_key=True),
    sa.Column("recognition_id", sa.Text, nullable=False),
    sa.Column("at", Micros, nullable=False),
    sa.Index("challenge_progress_customer", "business_id", "customer_id"),
)


@dataclass(frozen=True, slots=True)
class RecognitionRow:
    """One picture as it was answered.

    Attributes:
        customer_id: None where the caller named nobody.
        at: by the serving clock.
        kind: what the picture was taken for, `receipt`, `product` or `none`.
        sha256: of the file as it came, in hex.
        answer: as sent, in wire form (camelCase).
        latency_ms: milliseconds in the server.
        context: what the caller sent along, in wire form.
    """

    recognition_id: str
    business_id: str
    customer_id: str | None
    at: datetime
    kind: str
    sha256: str
    model_version: str
    answer: dict[str, Any]
    latency_ms: float
    context: dict[str, Any] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        plain = {c.name: storable(getattr(self, c.name)) for c in recognitions.c if c.name not in ("answer", "context", "sent")}
        return plain | {"answer": orjson.dumps(self.answer).decode(), "context": orjson.dumps(self.context).decode()}


@dataclass(frozen=True, slots=True)
class StoredFlag:
    """As `vision.fraud.Flag`: what speaks against a receipt."""

    code: str
    verdict: str
    reason: str


@dataclass(frozen=True, slots=True)
class Decided:
    """What became of a receipt.

    Attributes:
        decision: see `Status`.
        points: paid (`award`, `approved`), to be paid if a person agrees (`review`), else 0.
        flags: what spoke against it, the gravest first.
        award_id: the entry in the ledger, where points were paid.
        duplicate_of: the earlier receipt that it is most like, where one was taken as the same.
    """

    receipt_id: str
    decision: Status
    points: int
    flags: tuple[StoredFlag, ...] = ()
    award_id: str | None = None
    duplicate_of: str | None = None

    @property
    def paid(self) -> bool:
        return self.decision in ("award", "approved")


@dataclass(frozen=True, slots=True)
class StoredReceipt:
    """One receipt as it was judged. Fields of an erased customer's are None, flags empty.

    Attributes:
        total: in units of the currency; None where it could not be read.
        reason: what a person said about it.
    """

    receipt_id: str
    business_id: str
    customer_id: str | None
    at: datetime
    merchant: str | None
    day: date | None
    total: Decimal | None
    currency: str | None
    status: Status
    points: int
    flags: tuple[StoredFlag, ...]
    duplicate_of: str | None
    decided_by: str | None
    decided_at: datetime | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Award:
    """An entry in the ledger of points.

    Attributes:
        source_kind: `receipt` or `challenge`. source_id: unique among them, so that nothing is paid twice.
        recognition_id: the picture that earned it.
    """

    award_id: str
    business_id: str
    customer_id: str | None
    source_kind: str
    source_id: str
    recognition_id: str
    points: int
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Challenge:
    """Something to be photographed for points; each customer completes it once.

    Attributes:
        kind: `product` (show these), `scavenger` (find all of these, one picture after another), `receipt` (buy these).
        wanted: products or groups, as whoever recognises names them (`PictureStore.progress`); 1 to 100.
        min_confidence: 0 to 1; what was recognised with less does not count.
        starts, ends: from and until when it counts; None is always.
    """

    business_id: str
    challenge_id: str
    name: str
    kind: ChallengeKind
    wanted: tuple[str, ...]
    points: int
    min_confidence: float = 0.5
    starts: datetime | None = None
    ends: datetime | None = None

    def open_at(self, when: datetime) -> bool:
        return (self.starts is None or self.starts <= when) and (self.ends is None or when < self.ends)

    def values(self) -> dict[str, Any]:
        plain = {c.name: storable(getattr(self, c.name)) for c in challenges.c if c.name != "wanted"}
        return plain | {"wanted": orjson.dumps(self.wanted).decode()}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a customer is with a challenge.

    Attributes:
        found: of the wanted, in their order, those that were found until now.
        wanted: all of them.
        completed: all were found.
        completed_now: this picture completed it, and paid; the same when the same picture is counted again.
        award_id: the entry in the ledger, where `completed_now`.
        points: paid for it, where `completed_now`.
        open: False where the challenge has not begun, or is over: then nothing counts.
    """

    found: tuple[str, ...]
    wanted: tuple[str, ...]
    completed_now: bool = False
    award_id: str | None = None
    points: int = 0
    open: bool = True

    @property
    def completed(self) -> bool:
        return len(self.found) == len(self.wanted)


_NO_DECIMALS = ("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF")
_THREE_DECIMALS = ("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND")
_LARGEST = 2**63 - 1


def _decimals(currency: str | None) -> int:
    return 0 if currency in _NO_DECIMALS else 3 if currency in _THREE_DECIMALS else 2


def to_minor(total: Decimal | None, currency: str | None) -> int | None:
    """Whole minor units (ISO 4217; cents where the currency is not known); None where there is no total, or one beyond 64 bits."""
    if total is None or not total.is_finite() or total.adjusted() > 18:
        return None
    minor = int(total.scaleb(_decimals(currency)).to_integral_value(ROUND_HALF_EVEN))
    return minor if abs(minor) <= _LARGEST else None


def from_minor(minor: int | None, currency: str | None) -> Decimal | None:
    """The inverse of `to_minor`."""
    return None if minor is None else Decimal(minor).scaleb(-_decimals(currency))


def storable(value: Any) -> Any:
    """Text without NUL, which PostgreSQL cannot hold."""
    return value.replace("\x00", " ") if isinstance(value, str) else value


def recognition(row: Mapping[Any, Any]) -> RecognitionRow:
    plain = {c.name: row[c.name] for c in recognitions.c if c.name not in ("answer", "context", "sent")}
    return RecognitionRow(**plain, answer=orjson.loads(row["answer"]), context=orjson.loads(row["context"]))


def stored_flags(text: str) -> tuple[StoredFlag, ...]:
    return tuple(StoredFlag(**flag) for flag in orjson.loads(text))


def stored_receipt(row: Mapping[Any, Any]) -> StoredReceipt:
    plain = {c.name: row[c.name] for c in receipts.c if c.name not in ("total_minor", "flags", "fingerprint")}
    return StoredReceipt(**plain, total=from_minor(row["total_minor"], row["currency"]), flags=stored_flags(row["flags"]))


def challenge(row: Mapping[Any, Any]) -> Challenge:
    return Challenge(**{c.name: row[c.name] for c in challenges.c if c.name != "wanted"}, wanted=tuple(orjson.loads(row["wanted"])))
