"""What the routes about pictures do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from contracts import api_pictures as api
from contracts.errors import StackError
from ray_apps.clock import ServingClock
from ray_apps.keys import Caller
from ray_apps.metrics import Metrics, Stopwatch
from ray_apps.middleware import Gate
from ray_apps.picture_desk import NO_MODEL, PictureDesk, Shown, TaughtRow
from ray_apps.picture_rows import Challenge, Decided, RecognitionRow, StoredReceipt
from ray_apps.questions import Page
from ray_apps.store import OperationalStore
from ray_apps.tuning import PictureServeSettings

if TYPE_CHECKING:
    from ray_apps.pictures import PictureStore

_STATUS_S, STATUS_DEADLINE_S = 5.0, 1.0
_ROOM = 65_536
"""Bytes of a request beside its files."""


class Answered(NamedTuple):
    """The body of a `RecognitionResponse`, and whether it was given before."""

    body: dict[str, Any]
    repeated: bool


class PictureService:
    """Pictures, their history, reviews, challenges and taught products, without HTTP.

    Args:
        store: the operational database. desk: who looks. clock: the serving clock. gate: bounds the requests that are worked on.
    """

    def __init__(self, store: OperationalStore, desk: PictureDesk, clock: ServingClock, gate: Gate, metrics: Metrics) -> None:
        self.desk, self.tuning = desk, PictureServeSettings.load()
        self.uploads = Gate(self.tuning.uploads, 0)
        self._store, self._clock, self._gate, self._metrics = store, clock, gate, metrics
        self._pictures: PictureStore | None = None
        self._version, self._known_until = NO_MODEL, float("-inf")
        self._works = False

    def most_bytes(self) -> Mapping[str, int]:
        """The longest body of the routes that take files, by path."""
        from vision.upload import PictureSettings

        return {api.PICTURES: PictureSettings.load().max_bytes + _ROOM, api.PRODUCTS: self.tuning.teach_bytes + _ROOM}

    async def _stored(self) -> PictureStore:
        """What is stored; its module is imported when it is first needed, and not in the event loop: it brings OpenCV along."""
        if self._pictures is None:

            def load() -> PictureStore:
                from ray_apps.pictures import PictureStore

                return PictureStore(self._store)

            self._pictures = await asyncio.to_thread(load)
        return self._pictures

    async def recognise(self, caller: Caller, image: bytes, context: api.PictureContext, key: str | None, stopwatch: Stopwatch) -> Answered:
        """Look at a picture, and pay what it earns, once.

        Raises:
            as `PictureDesk.recognise`.
        """
        try:
            found = await self.desk.recognise(Shown(caller.business_id, image, context, key))
        except Exception as exc:
            self._observe(stopwatch, exc.slug if isinstance(exc, StackError) else "internal")
            raise
        self._seen(str(found.body["modelVersion"]))
        stopwatch.stages |= {name: ms / 1000 for name, ms in found.ms.items() if name in STAGES}
        self._observe(stopwatch, found.outcome)
        return Answered(found.body, found.repeated)

    def _observe(self, stopwatch: Stopwatch, outcome: str) -> None:
        stopwatch.stop()
        self._metrics.observe_picture(stopwatch, outcome)

    async def teach(self, caller: Caller, given: api.TeachRequest, images: list[bytes], stopwatch: Stopwatch) -> api.TaughtResponse:
        """Teach a product; it is known from the next picture on.

        Raises:
            as `PictureDesk.teach`.
        """
        taught, version = await self.desk.teach(caller.business_id, given.product_id, given.name, given.brand, images)
        self._seen(version)
        self._metrics.pictures.labels("taught").inc()
        return api.TaughtResponse(**_taught(taught), model_version=version, latency=round(stopwatch.stop(), 3))

    async def taught(self, caller: Caller, limit: int, offset: int, stopwatch: Stopwatch) -> api.TaughtProducts:
        """What the business taught, by productId."""
        async with self._gate.enter():
            found = await self.desk.taught(caller.business_id)
            version = await self._now()
        page = Page(found[offset : offset + limit], len(found))
        items = [api.TaughtProduct(**_taught(t)) for t in page.items]
        return api.TaughtProducts(items=items, **_paging(page, limit, offset, version, stopwatch))

    async def forget(self, caller: Caller, product_id: str) -> None:
        """Take a product out of the catalogue; raises UnknownItem."""
        async with self._gate.enter():
            await self.desk.forget(caller.business_id, product_id)

    async def history(self, caller: Caller, customer_id: str, limit: int, offset: int, stopwatch: Stopwatch) -> api.RecognitionHistory:
        """Pictures of a customer, newest first."""
        async with self._gate.enter():
            pictures = await self._stored()
            page = await pictures.history(caller.business_id, customer_id, limit, offset)
            balance = await pictures.points_balance(caller.business_id, customer_id)
            version = await self._now()
        items = [_record(r) for r in page.items]
        return api.RecognitionHistory(items=items, points_balance=balance, **_paging(page, limit, offset, version, stopwatch))

    async def reviews(self, caller: Caller, limit: int, offset: int, stopwatch: Stopwatch) -> api.ReceiptReviews:
        """Receipts that wait for a person, oldest first."""
        async with self._gate.enter():
            page = await (await self._stored()).review_queue(caller.business_id, limit, offset)
            version = await self._now()
        return api.ReceiptReviews(items=[_review(r) for r in page.items], **_paging(page, limit, offset, version, stopwatch))

    async def decide(
        self, caller: Caller, review_id: str, approve: bool, given: api.ReviewRequest, stopwatch: Stopwatch
    ) -> api.ReviewResponse:
        """Approve or reject a receipt; the same again answers the same.

        Raises:
            UnknownItem: this business has no such receipt. Conflict: it was decided otherwise before, or never waited.
            ContractError: points that are not allowed.
        """
        async with self._gate.enter():
            decided = await (await self._stored()).decide_review(
                caller.business_id, review_id, approve, caller.key_id, given.reason, points=given.points, at=self._clock.now()
            )
        self._metrics.pictures.labels(decided.decision).inc()
        return api.ReviewResponse(
            review_id=review_id,
            verdict="approved" if approve else "rejected",
            reward=_reward(decided, given.reason),
            latency=round(stopwatch.stop(), 3),
        )

    async def put_challenge(
        self, caller: Caller, challenge_id: str, given: api.ChallengeRequest, stopwatch: Stopwatch
    ) -> tuple[api.ChallengeResponse, bool]:
        """Keep a challenge in place of the one with its id; with whether it is new."""
        made = Challenge(
            caller.business_id, challenge_id, given.name, given.kind, tuple(given.wanted), given.points, given.min_confidence,
            given.starts_at, given.ends_at,
        )  # fmt: skip
        async with self._gate.enter():
            new = await (await self._stored()).put_challenge(made)
        return api.ChallengeResponse(**_challenge(made), latency=round(stopwatch.stop(), 3)), new

    async def challenge(self, caller: Caller, challenge_id: str, stopwatch: Stopwatch) -> api.ChallengeResponse:
        """A challenge; raises UnknownItem."""
        async with self._gate.enter():
            found = await (await self._stored()).challenge(caller.business_id, challenge_id)
        return api.ChallengeResponse(**_challenge(found), latency=round(stopwatch.stop(), 3))

    async def challenges(self, caller: Caller, limit: int, offset: int, stopwatch: Stopwatch) -> api.Challenges:
        """Challenges of the business, by id."""
        async with self._gate.enter():
            found = await (await self._stored()).challenges(caller.business_id)
            version = await self._now()
        page = Page(found[offset : offset + limit], len(found))
        items = [api.ChallengeRecord(**_challenge(c)) for c in page.items]
        return api.Challenges(items=items, **_paging(page, limit, offset, version, stopwatch))

    async def ready(self) -> bool:
        """Whether pictures can be looked at, as far as is known before the first one."""
        await self._now()
        return self._works

    async def _now(self) -> str:
        """What looks at pictures, at most five seconds ago."""
        if time.monotonic() > self._known_until:
            try:
                found = await asyncio.wait_for(self.desk.status(), STATUS_DEADLINE_S)
                self._seen(found.model_version, found.problem is None)
            except (StackError, TimeoutError):
                self._seen(NO_MODEL, False)
        return self._version

    def _seen(self, version: str, works: bool = True) -> None:
        self._version, self._works, self._known_until = version, works, time.monotonic() + _STATUS_S


STAGES = ("open", "products", "gate", "text", "parse", "match", "product", "award")
"""Stages of an answer that `Server-Timing` and the metrics show, beside `auth`, `receive` and `total`."""


def _taught(taught: TaughtRow) -> dict[str, Any]:
    return {
        "product_id": taught.product_id,
        "name": taught.name,
        "brand": taught.brand or None,
        "photos": taught.photos,
        "version": taught.version,
        "taught_at": taught.taught_at,
    }


def _record(row: RecognitionRow) -> api.RecognitionRecord:
    return api.RecognitionRecord(
        recognition_id=row.recognition_id,
        customer_id=row.customer_id,
        at=row.at,
        kind=row.kind,  # type: ignore[arg-type]
        answer=row.answer,
        model_version=row.model_version,
        latency=row.latency_ms,
    )


def _review(receipt: StoredReceipt) -> api.ReceiptReview:
    return api.ReceiptReview(
        review_id=receipt.receipt_id,
        customer_id=receipt.customer_id,
        at=receipt.at,
        merchant=receipt.merchant,
        date=receipt.day,
        total=None if receipt.total is None else float(receipt.total),
        currency=receipt.currency,
        points=receipt.points,
        flags=[api.PictureFlag(code=f.code, reason=f.reason) for f in receipt.flags],
    )


def _reward(decided: Decided, reason: str) -> api.PictureReward | None:
    if decided.award_id is None:
        return None
    return api.PictureReward(
        reward_id=decided.award_id, name="Points for a receipt", points=decided.points, reason=reason or "approved by a person"
    )


def _challenge(challenge: Challenge) -> dict[str, Any]:
    return {
        "challenge_id": challenge.challenge_id,
        "name": challenge.name,
        "kind": challenge.kind,
        "wanted": list(challenge.wanted),
        "min_confidence": challenge.min_confidence,
        "points": challenge.points,
        "starts_at": challenge.starts,
        "ends_at": challenge.ends,
    }


def _paging(page: Page, limit: int, offset: int, version: str, stopwatch: Stopwatch) -> dict[str, Any]:
    following = offset + len(page.items)
    return {
        "total": page.total,
        "limit": limit,
        "offset": offset,
        "next_offset": following if page.items and following < page.total else None,
        "model_version": version,
        "latency": round(stopwatch.stop(), 3),
    }
