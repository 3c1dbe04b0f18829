"""Pictures in the operational database: what was recognised, receipts and their points, challenges.

Points are paid once: all that decides on a receipt (whether it came before, how many were paid lately) is read in the transaction that
writes the decision and the entry in the ledger, and such transactions of one business run one after another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime

from ray_apps.picture_rows import Award, Challenge, Decided, Progress, RecognitionRow, StoredReceipt
from ray_apps.questions import Page, new_id
from ray_apps.store import OperationalStore
from vision.fingerprint import Fingerprint
from vision.fraud import Earlier, Judgement
from vision.types import Receipt

__all__ = ["Award", "Challenge", "Decided", "Page", "PictureStore", "Progress", "RecognitionRow", "StoredReceipt", "recognition_id"]

Judge = Callable[[Sequence[datetime], Sequence[Earlier]], Judgement]
"""Given when receipts of the customer were paid lately, and the earlier receipts that are the same: the decision (`vision.fraud.judge`)."""


def recognition_id(business_id: str, idempotency_key: str | None = None) -> str:
    """The id of a recognition: always the same for a key of a business, random without a key."""
    if idempotency_key is None:
        return new_id("rec")
    return "rec-" + hashlib.sha256(f"{business_id}\x1f{idempotency_key}".encode()).hexdigest()[:32]


class PictureStore:
    """The pictures of the operational database.

    Every method raises UpstreamError if the database fails.
    """

    def __init__(self, store: OperationalStore) -> None:
        self._store = store

    async def answered(self, record: RecognitionRow) -> RecognitionRow | None:
        """The first answer that was sent under the record's id; None where there is none yet. Ask before recognising when the caller
        gave an idempotency key.

        Raises:
            Conflict: another picture, customer or context was sent under this id.
        """
        raise NotImplementedError

    async def recognised(self, record: RecognitionRow) -> RecognitionRow:
        """Keep an answer; it is on disk when this returns. Call it last (after `award_receipt` and `progress`), with the
        answer as it is to be sent.

        Returns:
            What is to be sent: the record, or the first one that was kept under its id.

        Raises:
            Conflict: another picture, customer or context was sent under this id.
        """
        raise NotImplementedError

    async def history(self, business_id: str, customer_id: str | None, limit: int, offset: int = 0) -> Page:
        """`RecognitionRow`s of a customer (of all when None), newest first."""
        raise NotImplementedError

    async def award_receipt(self, record: RecognitionRow, receipt: Receipt, print_: Fingerprint, judge: Judge) -> Decided:
        """Judge a receipt and pay its points, once.

        Args:
            record: its customer is paid; its `answer` is kept until `recognised` brings the one that was sent.

        Raises:
            ContractError: the record names no customer; see `would_award`.
            Conflict: another picture, customer or context was sent under this id.
        """
        raise NotImplementedError

    async def would_award(self, record: RecognitionRow, receipt: Receipt, print_: Fingerprint, judge: Judge) -> Decided:
        """What `award_receipt` would decide; nothing is written, and the record needs no customer."""
        raise NotImplementedError

    async def review_queue(self, business_id: str, limit: int, offset: int = 0) -> Page:
        """`StoredReceipt`s that wait for a person, oldest first."""
        raise NotImplementedError

    async def decide_review(
        self,
        business_id: str,
        receipt_id: str,
        approve: bool,
        by: str,
        reason: str,
        *,
        points: int | None = None,
        at: datetime | None = None,
    ) -> Decided:
        """A person's decision on a receipt; the same again changes nothing.

        Args:
            by: who decides, a key's id.
            points: to be paid instead of those that were reckoned, for instance where the total could not be read.
            at: when, by the serving clock; the wall clock's time when None.

        Raises:
            UnknownItem: this business has no such receipt.
            Conflict: it was decided otherwise before, or never waited.
            ContractError: negative points.
        """
        raise NotImplementedError

    async def points_balance(self, business_id: str, customer_id: str) -> int:
        """Sum of a customer's entries in the ledger."""
        raise NotImplementedError

    async def awards(self, business_id: str, customer_id: str, limit: int, offset: int = 0) -> Page:
        """`Award`s of a customer, newest first."""
        raise NotImplementedError

    async def put_challenge(self, challenge: Challenge) -> bool:
        """Keep a challenge in place of the one with its id; True where it is new.

        Raises:
            ContractError: a value that is not allowed.
        """
        raise NotImplementedError

    async def challenge(self, business_id: str, challenge_id: str) -> Challenge:
        """A challenge.

        Raises:
            UnknownItem: this business has no such challenge.
        """
        raise NotImplementedError

    async def challenges(self, business_id: str) -> list[Challenge]:
        """All challenges of a business, by id."""
        raise NotImplementedError

    async def progress(
        self, challenge: Challenge, customer_id: str, items: Sequence[str], recognition_id: str, at: datetime | None = None
    ) -> Progress:
        """Count what a picture shows; each wanted thing counts once, and the challenge is paid once to each customer.

        Args:
            items: those of `challenge.wanted` that were recognised surely enough; others are left out.
            at: when, by the serving clock; the wall clock's time when None.
        """
        raise NotImplementedError

    async def erase_pictures_of(self, business_id: str, customer_id: str) -> dict[str, int]:
        """Delete what is a customer's own."""
        raise NotImplementedError

    async def prune(self, before: datetime) -> dict[str, int]:
        """Delete recognitions, and receipts that were not paid, from before a time."""
        raise NotImplementedError
