"""Pictures in the operational database: what was recognised, receipts and their points, challenges.

Points are paid once: all that decides on a receipt (whether it came before, how many were paid lately) is read in the transaction that
writes the decision and the entry in the ledger, and such transactions of one business run one after another: SQLite has one writer,
PostgreSQL gives an advisory lock. Comparing pictures takes milliseconds each, so it is done before; in the transaction only what was
stored in between is compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from weakref import WeakValueDictionary

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.errors import Conflict, ContractError, UnknownItem
from ray_apps import picture_finds as finds
from ray_apps import picture_rows as rows
from ray_apps.picture_rows import (
    Award,
    Challenge,
    Decided,
    Progress,
    RecognitionRow,
    Status,
    StoredReceipt,
    awards,
    challenge_progress,
    challenges,
    receipt_keys,
    receipts,
    recognitions,
    storable,
    to_minor,
)
from ray_apps.questions import Page, new_id
from ray_apps.store import OperationalStore
from vision.fingerprint import Fingerprint, Likeness, keys
from vision.fraud import Earlier, Judgement
from vision.types import Receipt

__all__ = ["Award", "Challenge", "Decided", "Page", "PictureStore", "Progress", "RecognitionRow", "StoredReceipt", "recognition_id"]

Judge = Callable[[Sequence[datetime], Sequence[Earlier]], Judgement]
"""Given when receipts of the customer were paid lately, and the earlier receipts that are the same: the decision (`vision.fraud.judge`)."""

RECENT = timedelta(days=8)
"""What the judge is told of the ledger: the week that it counts, and a day."""
MAX_POINTS = 1_000_000
MAX_WANTED = 100


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
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def _turn(self, business_id: str) -> AsyncIterator[AsyncConnection]:
        """A write transaction, alone in its business. Those of this process queue here, where they hold no connection that others need."""
        turn = self._turns.setdefault(business_id, asyncio.Lock())
        async with turn, self._store.transaction() as connection:
            if not self._store.is_sqlite:
                number = hashlib.blake2b(f"pictures\x1f{business_id}".encode(), digest_size=8).digest()
                lock = sa.literal(int.from_bytes(number, "little", signed=True), sa.BigInteger)
                await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(lock)))
            yield connection

    # Recognitions

    async def answered(self, record: RecognitionRow) -> RecognitionRow | None:
        """The first answer that was sent under the record's id; None where there is none yet. Ask before recognising when the caller
        gave an idempotency key.

        Raises:
            Conflict: another picture, customer or context was sent under this id.
        """
        async with self._store.reading() as connection:
            row = await _recognition(connection, record)
        return rows.recognition(row) if row is not None and row["sent"] else None

    async def recognised(self, record: RecognitionRow) -> RecognitionRow:
        """Keep an answer; it is on disk when this returns. Call it last (after `award_receipt` and `progress`), with the
        answer as it is to be sent.

        Returns:
            What is to be sent: the record, or the first one that was kept under its id.

        Raises:
            Conflict: another picture, customer or context was sent under this id.
        """
        made = record.values() | {"sent": True}
        statement = self._store.insert_into(recognitions).values(made)
        changed = {name: made[name] for name in ("kind", "model_version", "answer", "latency_ms", "sent")}
        statement = statement.on_conflict_do_update(
            index_elements=["business_id", "recognition_id"], set_=changed, where=recognitions.c.sent.is_(False)
        )
        async with self._store.transaction() as connection:
            await connection.execute(statement)
            row = await _recognition(connection, record)  # another request under this id: the change is rolled back
        return record if row is None else rows.recognition(row)

    async def history(self, business_id: str, customer_id: str | None, limit: int, offset: int = 0) -> Page:
        """`RecognitionRow`s of a customer (of all when None), newest first."""
        mine = [recognitions.c.business_id == business_id]
        if customer_id is not None:
            mine.append(recognitions.c.customer_id == storable(customer_id))
        order = (recognitions.c.at.desc(), recognitions.c.recognition_id)
        return await self._page(recognitions, mine, order, limit, offset, rows.recognition)

    async def _page(
        self,
        table: sa.Table,
        where: Sequence[sa.ColumnElement[bool]],
        order: Sequence[Any],
        limit: int,
        offset: int,
        make: Callable[[Mapping[Any, Any]], Any],
    ) -> Page:
        query = sa.select(table).where(*where).order_by(*order).limit(limit).offset(offset)
        async with self._store.reading() as connection:
            total = (await connection.execute(sa.select(sa.func.count()).select_from(table).where(*where))).scalar_one()
            return Page([make(row) for row in (await connection.execute(query)).mappings()], total)

    # Receipts

    async def award_receipt(self, record: RecognitionRow, receipt: Receipt, print_: Fingerprint, judge: Judge) -> Decided:
        """Judge a receipt and pay its points, once. The same record again gives the decision as it stands by then.

        Args:
            record: its customer is paid; its `answer` is kept until `recognised` brings the one that was sent.
            judge: is called in the transaction: it must be quick. What it raises leaves nothing written.

        Raises:
            ContractError: the record names no customer; see `would_award`.
            Conflict: another picture, customer or context was sent under this id.
        """
        if record.customer_id is None:
            raise ContractError("the receipt is nobody's: points are paid to a customer. Send customerId, or ask what would be paid.")
        business_id = record.business_id
        async with self._store.reading() as connection:
            known = await _known(connection, record)
            if known is not None:
                return known
            past = await finds.pasts(connection, business_id, (await finds.candidates(connection, business_id, print_)).shared)
        seen = await asyncio.to_thread(finds.compared, print_, past)
        async with self._turn(business_id) as connection:
            known = await _known(connection, record)
            if known is not None:
                return known
            found = await finds.candidates(connection, business_id, print_)
            news = {name: shared for name, shared in found.shared.items() if name not in seen}
            if news:
                seen |= await asyncio.to_thread(finds.compared, print_, await finds.pasts(connection, business_id, news))
            decided = await _decide(connection, record, seen, judge)
            await self._write(connection, record, receipt, print_, decided, found)
        return decided

    async def would_award(self, record: RecognitionRow, print_: Fingerprint, judge: Judge) -> Decided:
        """What `award_receipt` would decide; nothing is written, and the record needs no customer."""
        async with self._store.reading() as connection:
            found = await finds.candidates(connection, record.business_id, print_)
            past = await finds.pasts(connection, record.business_id, found.shared)
        seen = await asyncio.to_thread(finds.compared, print_, past)
        async with self._store.reading() as connection:
            return await _decide(connection, record, seen, judge)

    async def _write(
        self,
        connection: AsyncConnection,
        record: RecognitionRow,
        receipt: Receipt,
        print_: Fingerprint,
        decided: Decided,
        found: finds.Found,
    ) -> None:
        """The receipt, the keys to find it by and its entry in the ledger. One that is not paid needs no keys: it can be paid no more."""
        statement = self._store.insert_into(recognitions).values(record.values() | {"sent": False}).on_conflict_do_nothing()
        await connection.execute(statement)
        alive = decided.paid or decided.decision == "review"
        row = {
            "business_id": record.business_id,
            "receipt_id": record.recognition_id,
            "customer_id": storable(record.customer_id),
            "at": record.at,
            "merchant": storable(receipt.merchant),
            "day": receipt.date,
            "total_minor": to_minor(receipt.total, receipt.currency),
            "currency": storable(receipt.currency),
            "fingerprint": print_.to_bytes() if alive else None,
            "status": decided.decision,
            "points": decided.points,
            "flags": orjson.dumps(decided.flags).decode(),
            "duplicate_of": decided.duplicate_of,
        }
        await connection.execute(sa.insert(receipts).values(row))
        if alive:
            held = found.shared.get(decided.duplicate_of or "", frozenset())
            new = [key for key in keys(print_) if key not in held or key not in found.crowded]
            made = [{"business_id": record.business_id, "key": key, "receipt_id": record.recognition_id} for key in new]
            if made:
                await connection.execute(sa.insert(receipt_keys), made)
        if decided.paid:
            award = Award(
                decided.award_id or "", record.business_id, record.customer_id, "receipt", record.recognition_id, record.recognition_id,
                decided.points, "receipt", record.at,
            )  # fmt: skip
            await connection.execute(sa.insert(awards).values(_award_values(award)))

    async def review_queue(self, business_id: str, limit: int, offset: int = 0) -> Page:
        """`StoredReceipt`s that wait for a person, oldest first."""
        mine = (receipts.c.business_id == business_id, receipts.c.status == "review")
        return await self._page(receipts, mine, (receipts.c.at, receipts.c.receipt_id), limit, offset, rows.stored_receipt)

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
            ContractError: points out of range, or with a refusal.
        """
        if points is not None and not (approve and 0 <= points <= MAX_POINTS):
            raise ContractError(f"points are {points}, must be 0 to {MAX_POINTS:,}, and only with an approval. Correct or leave them out.")
        async with self._turn(business_id) as connection:
            row = await _receipt(connection, business_id, receipt_id)
            if row is None:
                raise UnknownItem(f"there is no receipt {receipt_id}. See those that wait with GET /api/v1/ml/image-recognition/reviews.")
            wanted: Status = "approved" if approve else "rejected"
            if row["status"] != "review":
                if row["status"] == wanted and points in (None, row["points"]):
                    return await _stored_decision(connection, row)
                raise Conflict(
                    f"receipt {receipt_id} stands as {row['status']} with {row['points']} points, only one that waits can be decided. "
                    "Leave it, or send the same decision."
                )
            paid = (row["points"] if points is None else points) if approve else 0
            when = at or datetime.now(UTC)
            changed = {"status": wanted, "points": paid, "decided_by": by, "decided_at": when, "reason": storable(reason)}
            mine = (receipts.c.business_id == business_id, receipts.c.receipt_id == receipt_id)
            await connection.execute(sa.update(receipts).where(*mine).values(changed))
            if approve:
                award = Award(
                    new_id("aw"), business_id, row["customer_id"], "receipt", receipt_id, receipt_id, paid, "receipt, approved", when
                )
                await connection.execute(sa.insert(awards).values(_award_values(award)))
            return await _stored_decision(connection, {**row, **changed})

    # The ledger

    async def points_balance(self, business_id: str, customer_id: str) -> int:
        """Sum of a customer's entries in the ledger."""
        mine = (awards.c.business_id == business_id, awards.c.customer_id == storable(customer_id))
        query = sa.select(sa.func.coalesce(sa.func.sum(awards.c.points), 0)).where(*mine)
        async with self._store.reading() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def awards(self, business_id: str, customer_id: str, limit: int, offset: int = 0) -> Page:
        """`Award`s of a customer, newest first."""
        mine = (awards.c.business_id == business_id, awards.c.customer_id == storable(customer_id))
        return await self._page(awards, mine, (awards.c.at.desc(), awards.c.award_id), limit, offset, lambda row: Award(**row))

    # Challenges

    async def put_challenge(self, challenge: Challenge) -> bool:
        """Keep a challenge in place of the one with its id; True where it is new. What was found and paid before stays.

        Raises:
            ContractError: a value that is not allowed.
        """
        _check(challenge)
        made = challenge.values()
        same = (challenges.c.business_id == challenge.business_id, challenges.c.challenge_id == challenge.challenge_id)
        async with self._turn(challenge.business_id) as connection:
            known = (await connection.execute(sa.select(challenges.c.challenge_id).where(*same))).first() is not None
            statement = sa.update(challenges).where(*same) if known else sa.insert(challenges)
            await connection.execute(statement.values(made))
        return not known

    async def challenge(self, business_id: str, challenge_id: str) -> Challenge:
        """A challenge.

        Raises:
            UnknownItem: this business has no such challenge.
        """
        mine = (challenges.c.business_id == business_id, challenges.c.challenge_id == storable(challenge_id))
        async with self._store.reading() as connection:
            row = (await connection.execute(sa.select(challenges).where(*mine))).mappings().first()
        if row is None:
            raise UnknownItem(f"there is no challenge {challenge_id}. See them with GET /api/v1/ml/image-recognition/challenges.")
        return rows.challenge(row)

    async def challenges(self, business_id: str) -> list[Challenge]:
        """All challenges of a business, by id."""
        query = sa.select(challenges).where(challenges.c.business_id == business_id).order_by(challenges.c.challenge_id)
        async with self._store.reading() as connection:
            return [rows.challenge(row) for row in (await connection.execute(query)).mappings()]

    async def progress(
        self, challenge: Challenge, customer_id: str, items: Sequence[str], recognition_id: str, at: datetime | None = None
    ) -> Progress:
        """Count what a picture shows; each wanted thing counts once, and the challenge is paid once to each customer.

        Args:
            items: those of `challenge.wanted` that were recognised surely enough; others are left out.
            recognition_id: the same again changes nothing, and gives the same.
            at: when, by the serving clock; the wall clock's time when None.
        """
        when = at or datetime.now(UTC)
        is_open = challenge.open_at(when)
        customer = str(storable(customer_id))
        whose = {"business_id": challenge.business_id, "challenge_id": challenge.challenge_id, "customer_id": customer}
        async with self._turn(challenge.business_id) as connection:
            if is_open:
                made = [{**whose, "item": i, "recognition_id": recognition_id, "at": when} for i in challenge.wanted if i in set(items)]
                if made:
                    await connection.execute(self._store.insert_into(challenge_progress).on_conflict_do_nothing(), made)
            query = sa.select(challenge_progress.c.item).where(*(challenge_progress.c[name] == value for name, value in whose.items()))
            have = set((await connection.execute(query)).scalars())
            progress = Progress(tuple(i for i in challenge.wanted if i in have), challenge.wanted, open=is_open)
            paid = await self._pay(connection, challenge, customer, recognition_id, when, is_open and progress.completed)
        if paid is None:
            return progress
        return replace(progress, completed_now=True, award_id=paid.award_id, points=paid.points)

    async def _pay(
        self, connection: AsyncConnection, challenge: Challenge, customer_id: str, recognition_id: str, when: datetime, earned: bool
    ) -> Award | None:
        """The entry that this picture earned, made now or, when the picture is counted again, before."""
        source_id = _once(challenge.challenge_id, customer_id)
        if earned:
            award = Award(
                new_id("aw"), challenge.business_id, customer_id, "challenge", source_id, recognition_id, challenge.points,
                f"challenge {challenge.challenge_id}", when,
            )  # fmt: skip
            statement = self._store.insert_into(awards).values(_award_values(award))
            await connection.execute(statement.on_conflict_do_nothing(index_elements=["business_id", "source_kind", "source_id"]))
        mine = (awards.c.business_id == challenge.business_id, awards.c.source_kind == "challenge", awards.c.source_id == source_id)
        this = (awards.c.recognition_id == recognition_id, awards.c.customer_id == customer_id)
        row = (await connection.execute(sa.select(awards).where(*mine, *this))).mappings().first()
        return None if row is None else Award(**row)

    # Upkeep

    async def erase_pictures_of(self, business_id: str, customer_id: str) -> dict[str, int]:
        """Erase a customer: answers and progress are deleted, the name is taken out of receipts and ledger, and of a receipt everything is
        deleted that says where, when or for how much it was.

        Kept are the keys of receipts (hashes of 64 bits), and that points were paid, to nobody any more. Without the keys a new account
        could be paid for the same receipts again. They tell nothing to a reader, but the same file is still refused, and a receipt with
        enough of them in common goes to a person. Fingerprints are not kept: they hold a small picture, and numbers that may be of a
        bank card or a membership. That a challenge was paid is kept as a hash of it and the customer's id, which only who knows the
        id can make again. Receipts that wait are closed.

        Returns:
            Rows changed or deleted, by table.
        """
        customer = storable(customer_id)
        empty = ("customer_id", "merchant", "day", "total_minor", "currency", "fingerprint", "reason")
        async with self._turn(business_id) as connection:
            waiting = (receipts.c.business_id == business_id, receipts.c.customer_id == customer, receipts.c.status == "review")
            closed = {"status": "rejected", "points": 0, "decided_by": "erasure", "decided_at": datetime.now(UTC)}
            await connection.execute(sa.update(receipts).where(*waiting).values(closed))
            changes: dict[sa.Table, dict[str, Any] | None] = {
                recognitions: None,
                challenge_progress: None,
                receipts: dict.fromkeys(empty) | {"flags": "[]"},
                awards: {"customer_id": None},
            }
            counts = {}
            for table, values in changes.items():
                mine = (table.c.business_id == business_id, table.c.customer_id == customer)
                change = sa.delete(table).where(*mine) if values is None else sa.update(table).where(*mine).values(values)
                counts[table.name] = (await connection.execute(change)).rowcount
        return counts

    async def prune(self, before: datetime) -> dict[str, int]:
        """Delete, from before a time, the answers and the receipts that were not paid. Paid ones stay, to be known when they come again.

        Returns:
            Rows deleted, by table.
        """
        unpaid = receipts.c.status.in_(("refused", "duplicate"))
        changes = {recognitions: (recognitions.c.at < before,), receipts: (receipts.c.at < before, unpaid)}
        async with self._store.transaction() as connection:
            return {table.name: (await connection.execute(sa.delete(table).where(*where))).rowcount for table, where in changes.items()}


async def _recognition(connection: AsyncConnection, record: RecognitionRow) -> Mapping[Any, Any] | None:
    """The row under the record's id, if there is one; Conflict where it is of another request."""
    mine = (recognitions.c.business_id == record.business_id, recognitions.c.recognition_id == record.recognition_id)
    row = (await connection.execute(sa.select(recognitions).where(*mine))).mappings().first()
    if row is not None:
        made = record.values()
        other = [name for name in ("sha256", "customer_id", "context") if row[name] != made[name]]
        if other:
            raise Conflict(
                f"recognition {record.recognition_id} was asked for before with another {' and '.join(_SAID[name] for name in other)}, "
                "an Idempotency-Key is for one request. Send a new key."
            )
    return row


_SAID = {"sha256": "picture", "customer_id": "customer", "context": "context"}


async def _receipt(connection: AsyncConnection, business_id: str, receipt_id: str) -> Mapping[Any, Any] | None:
    mine = (receipts.c.business_id == business_id, receipts.c.receipt_id == storable(receipt_id))
    return (await connection.execute(sa.select(receipts).where(*mine))).mappings().first()


async def _known(connection: AsyncConnection, record: RecognitionRow) -> Decided | None:
    """The decision on this record as it stands, if it was decided."""
    await _recognition(connection, record)
    row = await _receipt(connection, record.business_id, record.recognition_id)
    return None if row is None else await _stored_decision(connection, row)


async def _stored_decision(connection: AsyncConnection, row: Mapping[Any, Any]) -> Decided:
    mine = (awards.c.business_id == row["business_id"], awards.c.source_kind == "receipt", awards.c.source_id == row["receipt_id"])
    award_id = (await connection.execute(sa.select(awards.c.award_id).where(*mine))).scalar_one_or_none()
    return Decided(row["receipt_id"], row["status"], row["points"], rows.stored_flags(row["flags"]), award_id, row["duplicate_of"])


async def _recent(connection: AsyncConnection, record: RecognitionRow) -> list[datetime]:
    """When receipts of the customer were paid lately."""
    if record.customer_id is None:
        return []
    mine = (awards.c.business_id == record.business_id, awards.c.customer_id == storable(record.customer_id))
    query = sa.select(awards.c.at).where(*mine, awards.c.source_kind == "receipt", awards.c.at > record.at - RECENT)
    return list((await connection.execute(query.order_by(awards.c.at.desc()).limit(1_000))).scalars())


async def _decide(connection: AsyncConnection, record: RecognitionRow, seen: Mapping[str, Likeness], judge: Judge) -> Decided:
    """What the judge says of the receipts that are the same and of what was paid lately."""
    earlier = await finds.earlier(connection, record.business_id, record.customer_id, seen)
    judgement = judge(await _recent(connection, record), earlier)
    again = any(f.code == "same_receipt" and f.verdict == "refuse" for f in judgement.flags)
    status: Status = "duplicate" if again else "refused"
    if judgement.decision != "refuse":
        status = judgement.decision
    return Decided(
        record.recognition_id,
        status,
        0 if judgement.decision == "refuse" else judgement.points,
        tuple(rows.StoredFlag(f.code, f.verdict, f.reason) for f in judgement.flags),
        new_id("aw") if status == "award" else None,
        earlier[0].receipt_id if earlier else None,
    )


def _award_values(award: Award) -> dict[str, Any]:
    return {c.name: storable(getattr(award, c.name)) for c in awards.c}


def _once(challenge_id: str, customer_id: str) -> str:
    """The mark that a challenge was paid to a customer; it does not say to whom."""
    return hashlib.sha256(f"{challenge_id}\x1f{customer_id}".encode()).hexdigest()


def _check(challenge: Challenge) -> None:
    """Raises ContractError where a challenge is not one."""
    kinds = ("product", "scavenger", "receipt")
    rules = (
        (challenge.kind in kinds, f"kind is {challenge.kind}, must be {', '.join(kinds)}"),
        (0 < len(challenge.wanted) <= MAX_WANTED, f"{len(challenge.wanted)} things are wanted, must be 1 to {MAX_WANTED}"),
        (len(set(challenge.wanted)) == len(challenge.wanted), "a thing is wanted twice, each must be named once"),
        (0 <= challenge.min_confidence <= 1, f"the least confidence is {challenge.min_confidence}, must be 0 to 1"),
        (0 <= challenge.points <= MAX_POINTS, f"points are {challenge.points}, must be 0 to {MAX_POINTS:,}"),
        (
            challenge.starts is None or challenge.ends is None or challenge.starts < challenge.ends,
            f"it ends at {challenge.ends}, before it begins at {challenge.starts}",
        ),
    )
    for holds, wrong in rules:
        if not holds:
            raise ContractError(f"challenge {challenge.challenge_id}: {wrong}. Correct it and send it again.")
