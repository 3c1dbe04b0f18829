"""Pictures in the operational database: receipts paid once, reviews, challenges, erasure."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from alembic import command
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import Conflict, ContractError, UnknownItem, UpstreamError
from ray_apps import picture_finds
from ray_apps.migrations import config, upgrade_async
from ray_apps.picture_rows import (
    Status,
    awards,
    challenge_progress,
    challenges,
    from_minor,
    receipt_keys,
    receipts,
    recognitions,
    to_minor,
)
from ray_apps.pictures import Challenge, Decided, PictureStore, Progress, RecognitionRow, recognition_id
from ray_apps.store import OperationalStore
from tests.ray_apps.pays_receipts import NOW, purchase
from vision import fraud
from vision.fingerprint import Fingerprint, compare, fingerprint
from vision.fraud import Earlier, Flag, Judgement, PointsSettings
from vision.types import Picture, Receipt

ROOT = Path(__file__).resolve().parents[2]
RULES = PointsSettings()
TABLES = (recognitions, receipts, receipt_keys, awards, challenges, challenge_progress)


@pytest.fixture
def pictures(store: OperationalStore) -> PictureStore:
    return PictureStore(store)


@pytest.fixture
async def another(database_url: str) -> AsyncIterator[PictureStore]:
    """Connections of their own to the same database, as another process has them."""
    opened = OperationalStore(database_url)
    yield PictureStore(opened)
    await opened.close()


def record(name: str = "rec-1", customer: str | None = "c1", business: str = "biz-1", **more: Any) -> RecognitionRow:
    values = {"at": NOW, "kind": "receipt", "sha256": f"sha of {name}", "model_version": "ocr/1", "answer": {"isReceiptDetected": True}}
    return RecognitionRow(name, business, customer, **{**values, "latency_ms": 12.5, **more})


def print_of(receipt: Receipt, sha256: str = "") -> Fingerprint:
    return replace(fingerprint(receipt), sha256=sha256)


async def send(
    pictures: PictureStore, name: str = "rec-1", receipt: Receipt | None = None, rules: PointsSettings = RULES, **more: Any
) -> Decided:
    receipt = receipt or purchase()
    row = record(name, **more)

    def judge(recent: Sequence[datetime], earlier: Sequence[Earlier]) -> Judgement:
        return fraud.judge(receipt, row.at, recent, earlier, rules)

    return await pictures.award_receipt(row, receipt, print_of(receipt, row.sha256), judge)


async def rows_of(store: OperationalStore, table: sa.Table) -> list[dict[str, Any]]:
    async with store.reading() as connection:
        return [dict(r) for r in (await connection.execute(sa.select(table))).mappings()]


async def counts(store: OperationalStore) -> dict[str, int]:
    return {table.name: len(await rows_of(store, table)) for table in TABLES}


def codes(decided: Decided) -> list[tuple[str, str]]:
    return [(f.code, f.verdict) for f in decided.flags]


# ---- paid once


async def test_a_receipt_is_paid_and_stands_in_the_ledger(pictures: PictureStore, store: OperationalStore) -> None:
    decided = await send(pictures)
    assert (decided.decision, decided.points, decided.flags, decided.paid) == ("award", 11, (), True)
    page = await pictures.awards("biz-1", "c1", 10)
    assert page.total == 1
    assert (page.items[0].award_id, page.items[0].points, page.items[0].at) == (decided.award_id, 11, NOW)
    assert await pictures.points_balance("biz-1", "c1") == 11
    assert await pictures.points_balance("biz-1", "nobody") == 0
    (row,) = await rows_of(store, receipts)
    assert (row["merchant"], row["day"], row["total_minor"], row["currency"]) == ("Corner Cafe", date(2026, 11, 18), 1140, "EUR")


async def test_the_same_receipt_is_paid_to_nobody_again(pictures: PictureStore) -> None:
    first = await send(pictures)
    again = await send(pictures, "rec-2", purchase(misread=True))
    other = await send(pictures, "rec-3", purchase(misread=True), customer="c2")
    for decided, whose in ((again, "of this customer"), (other, "of another customer")):
        assert (decided.decision, decided.points, decided.award_id, decided.duplicate_of) == ("duplicate", 0, None, "rec-1")
        assert codes(decided) == [("same_receipt", "refuse")]
        assert whose in decided.flags[0].reason
    assert (await pictures.awards("biz-1", "c1", 10)).total == 1
    assert await pictures.points_balance("biz-1", "c2") == 0
    different = await send(pictures, "rec-4", purchase(2))  # negative control: the same shop on the same day
    assert (different.decision, different.duplicate_of) == ("award", None)
    assert await pictures.points_balance("biz-1", "c1") == first.points + different.points


async def test_businesses_do_not_see_each_other(pictures: PictureStore) -> None:
    await send(pictures)
    same_id = await send(pictures, "rec-1", business="biz-2", sha256="another")
    assert (same_id.decision, same_id.duplicate_of) == ("award", None)
    for business in ("biz-1", "biz-2"):
        assert (await pictures.awards(business, "c1", 10)).total == 1
        assert (await pictures.history(business, None, 10)).total == 1
    assert (await pictures.history("biz-3", None, 10)).total == (await pictures.review_queue("biz-2", 10)).total == 0


async def test_the_same_receipt_many_times_at_once_is_paid_once(pictures: PictureStore, another: PictureStore) -> None:
    sent = [send((pictures, another)[n % 2], f"rec-{n}", purchase(misread=n % 3 == 0), customer=f"c{n % 4}") for n in range(12)]
    decided = await asyncio.gather(*sent)
    assert sorted(d.decision for d in decided) == ["award", *["duplicate"] * 11]
    (winner,) = (d.receipt_id for d in decided if d.paid)
    assert {d.duplicate_of for d in decided if not d.paid} == {winner}
    assert sum([await pictures.points_balance("biz-1", f"c{n}") for n in range(4)]) == 11


async def test_what_is_stored_while_others_are_compared_is_compared_too(
    pictures: PictureStore, another: PictureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared, sent = picture_finds.compared, []

    def meanwhile(print_: Fingerprint, pasts: Sequence[picture_finds.Past]) -> dict[str, Any]:
        if not sent:
            sent.append("rec-2")
            asyncio.run_coroutine_threadsafe(send(another, "rec-2", customer="c2"), loop).result()
        return compared(print_, pasts)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(picture_finds, "compared", meanwhile)
    late = await send(pictures, "rec-1")
    assert (late.decision, late.duplicate_of) == ("duplicate", "rec-2")


async def test_two_processes_pay_once(pictures: PictureStore, database_url: str) -> None:
    arguments = [sys.executable, "-m", "tests.ray_apps.pays_receipts", database_url]
    pipe = asyncio.subprocess.PIPE
    started = [await asyncio.create_subprocess_exec(*arguments, f"rec-{n}", f"c{n}", stdin=pipe, stdout=pipe, cwd=ROOT) for n in range(2)]
    for process in started:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    said = await asyncio.gather(*(process.communicate(b"go\n") for process in started))
    assert sorted(out for out, _ in said) == [b"award 11\n", b"duplicate 0\n"]
    assert sum([await pictures.points_balance("biz-1", f"c{n}") for n in range(2)]) == 11


async def test_a_queue_in_one_business_leaves_connections_for_others(another: PictureStore, database_url: str) -> None:
    small = OperationalStore(database_url, pool_size=2)
    pictures = PictureStore(small)
    async with another._turn("biz-1"):
        sent = [asyncio.create_task(send(pictures, f"rec-{n}")) for n in range(6)]
        await asyncio.sleep(0.5)
        await small.ping()  # without the queue in the process both connections wait for biz-1
    assert sorted(d.decision for d in await asyncio.gather(*sent)) == ["award", *["duplicate"] * 5]
    await small.close()


# ---- the same request again


async def test_the_same_request_again_gets_the_first_decision(pictures: PictureStore, another: PictureStore) -> None:
    name = recognition_id("biz-1", "key-1")
    decided = await asyncio.gather(*(send(p, name) for p in (pictures, another, pictures)))
    assert decided[0].paid
    assert decided[1:] == [decided[0]] * 2
    assert await send(pictures, name) == decided[0]
    assert (await pictures.awards("biz-1", "c1", 10)).total == 1


def test_ids_follow_from_the_key_and_are_random_without_one() -> None:
    assert recognition_id("biz-1", "k") == recognition_id("biz-1", "k")
    ids = {recognition_id("biz-1", "k"), recognition_id("biz-2", "k"), recognition_id("biz-1", "l")}
    assert len(ids | {recognition_id("biz-1") for _ in range(5)}) == 8


@pytest.mark.parametrize(
    ("change", "what"), [({"sha256": "other"}, "picture"), ({"customer": "c2"}, "customer"), ({"context": {"challengeId": "x"}}, "context")]
)
async def test_a_key_is_for_one_request(pictures: PictureStore, change: dict[str, Any], what: str) -> None:
    await send(pictures)
    with pytest.raises(Conflict, match=f"another {what}, .* Send a new key"):
        await send(pictures, **change)
    for call in (pictures.answered, pictures.recognised):
        with pytest.raises(Conflict, match=f"another {what}, .* Send a new key"):
            await call(record(**change))
    assert [r.answer for r in (await pictures.history("biz-1", None, 10)).items] == [record().answer]


async def test_the_first_answer_is_kept_and_sent_again(pictures: PictureStore) -> None:
    assert await pictures.answered(record()) is None
    await send(pictures, context={"customerId": "c1"})
    asked = record(context={"customerId": "c1"})
    assert await pictures.answered(asked) is None  # decided, but nothing was sent yet
    first = replace(asked, answer={"reward": {"points": 11}}, latency_ms=80.0)
    assert await pictures.recognised(first) == first
    assert await pictures.recognised(replace(asked, answer={"reward": None})) == first
    assert await pictures.answered(asked) == first
    product = record("rec-2", customer=None, kind="product", at=NOW + timedelta(seconds=1))
    assert await pictures.recognised(product) == product
    page = await pictures.history("biz-1", None, 1)
    assert (page.items, page.total) == ([product], 2)
    assert (await pictures.history("biz-1", None, 10, 1)).items == [first]
    assert (await pictures.history("biz-1", "c1", 10)).items == [first]


# ---- all or nothing


async def test_an_error_in_between_leaves_nothing(pictures: PictureStore, store: OperationalStore) -> None:
    def fails(recent: Sequence[datetime], earlier: Sequence[Earlier]) -> Judgement:
        raise ContractError("no")

    def pays_less_than_nothing(recent: Sequence[datetime], earlier: Sequence[Earlier]) -> Judgement:
        return Judgement("award", -1)

    for judge, error in ((fails, ContractError), (pays_less_than_nothing, UpstreamError)):
        with pytest.raises(error):
            await pictures.award_receipt(record(), purchase(), print_of(purchase()), judge)
        assert set((await counts(store)).values()) == {0}
    async with store.transaction() as connection:  # so that the last of the writes fails
        made = {"award_id": "aw-1", "business_id": "biz-1", "source_kind": "receipt", "source_id": "rec-1", "recognition_id": "rec-1"}
        await connection.execute(sa.insert(awards).values(**made, points=1, reason="", at=NOW))
    with pytest.raises(UpstreamError, match="failed"):
        await send(pictures)
    found = await counts(store)
    assert found.pop("awards") == 1
    assert set(found.values()) == {0}
    assert (await send(pictures, "rec-2")).paid  # what was left behind is not in the way


async def test_the_database_itself_refuses_to_change_the_ledger(pictures: PictureStore, store: OperationalStore) -> None:
    await send(pictures)
    before = await rows_of(store, awards)
    for statement in (
        sa.update(awards).values(points=1_000),
        sa.update(awards).values(customer_id="c2"),
        sa.update(awards).values(at=NOW),
        sa.delete(awards),
    ):
        with pytest.raises(UpstreamError, match="failed"):
            async with store.transaction() as connection:
                await connection.execute(statement)
    assert await rows_of(store, awards) == before


async def test_a_receipt_of_nobody_is_not_paid_but_can_be_asked_about(pictures: PictureStore, store: OperationalStore) -> None:
    receipt = purchase()
    with pytest.raises(ContractError, match="nobody's"):
        await send(pictures, customer=None)

    async def asked() -> Decided:
        return await pictures.would_award(
            record("rec-9", customer=None), print_of(receipt), lambda recent, earlier: fraud.judge(receipt, NOW, recent, earlier, RULES)
        )

    assert ((await asked()).decision, (await asked()).points) == ("award", 11)
    assert set((await counts(store)).values()) == {0}
    await send(pictures)
    assert ((await asked()).decision, (await asked()).duplicate_of) == ("duplicate", "rec-1")
    assert (await counts(store))["receipts"] == 1


# ---- what the judge is told


async def test_the_ledger_says_how_many_were_paid_lately(pictures: PictureStore) -> None:
    for n in range(5):
        assert (await send(pictures, f"rec-{n}", purchase(n + 1), at=NOW - timedelta(hours=n))).decision == "award"
    sixth = await send(pictures, "rec-5", purchase(6))
    assert (sixth.decision, codes(sixth)) == ("review", [("velocity", "review")])
    for n, change in enumerate(({"customer": "c2"}, {"business": "biz-2"}, {"at": NOW + timedelta(hours=25)})):
        assert (await send(pictures, f"rec-{n + 6}", purchase(n + 7), **change)).decision == "award"


async def test_a_waiting_receipt_counts_as_earlier_and_a_refused_one_does_not(pictures: PictureStore) -> None:
    doubtful = replace(purchase(), reconciled=False)
    waiting = await send(pictures, "rec-1", doubtful)
    assert (waiting.decision, waiting.points) == ("review", 11)
    assert (await send(pictures, "rec-2", customer="c2")).decision == "duplicate"
    refused = await send(pictures, "rec-3", purchase(2), rules=PointsSettings(currencies=("USD",)))
    assert (refused.decision, refused.points, codes(refused)) == ("refused", 0, [("currency", "refuse")])
    assert (await send(pictures, "rec-4", purchase(2))).decision == "award"


def vague(number: int = 1, sha256: str = "") -> Receipt:
    """A receipt with so few numbers that a picture would have to decide."""
    return replace(purchase(number), lines=purchase(number).lines[-1:])


async def test_sending_the_same_many_times_does_not_hide_it(pictures: PictureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_finds, "SKIP_ABOVE", 8)

    def doubts(recent: Sequence[datetime], earlier: Sequence[Earlier]) -> Judgement:
        return Judgement("review" if earlier else "award", 5, (Flag("same_receipt", "review", "The same."),) if earlier else ())

    async def flood(business: str) -> list[Status]:
        sent = [record(f"rec-{n}", business=business) for n in range(12)]
        return [(await pictures.award_receipt(r, purchase(), print_of(purchase()), doubts)).decision for r in sent]

    monkeypatch.setattr(picture_finds, "CROWDED", 4)
    assert await flood("biz-1") == ["award", *["review"] * 11]
    monkeypatch.setattr(picture_finds, "CROWDED", 1_000)  # negative control: its keys become too common to look at
    assert (await flood("biz-2")).count("award") > 1


async def test_what_cannot_be_read_any_more_is_judged_by_its_keys(
    pictures: PictureStore, store: OperationalStore, caplog: pytest.LogCaptureFixture
) -> None:
    await send(pictures)
    async with store.transaction() as connection:
        await connection.execute(sa.update(receipts).values(fingerprint=b"\xff of another version"))
    with caplog.at_level(logging.WARNING):
        again = await send(pictures, "rec-2", purchase(misread=True), customer="c2")
    assert (again.decision, codes(again), again.duplicate_of) == ("review", [("same_receipt", "review")], "rec-1")
    assert "receipt rec-1 is compared by its keys alone" in caplog.text
    assert (await send(pictures, "rec-3", purchase(2), customer="c3")).decision == "award"


def test_few_pictures_are_laid_over_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (400, 300, 3), dtype=np.uint8)
    new, *stored = (fingerprint(vague(), Picture(pixels, f"file {n}", "PNG")) for n in range(4))
    past = [picture_finds.Past(f"r{n}", one.to_bytes(), frozenset()) for n, one in enumerate(stored)]
    monkeypatch.setattr(picture_finds, "MAX_PICTURES", 2)
    found = picture_finds.compared(new, past)
    assert [found[f"r{n}"].same for n in range(3)] == [True, True, False]
    assert compare(new, stored[2]).same  # negative control
    same_file = picture_finds.Past("r3", new.to_bytes(), frozenset())
    assert picture_finds.compared(new, [*past, same_file])["r3"].by == "file"


# ---- reviews


async def waiting(pictures: PictureStore, name: str = "rec-1", number: int = 1, **more: Any) -> None:
    decided = await send(pictures, name, replace(purchase(number), reconciled=False), **more)
    assert decided.decision == "review"


async def test_a_person_approves_or_rejects(pictures: PictureStore) -> None:
    for n in range(3):
        await waiting(pictures, f"rec-{n}", n + 1, at=NOW + timedelta(minutes=n))
    assert await pictures.points_balance("biz-1", "c1") == 0
    page = await pictures.review_queue("biz-1", 2, 1)
    assert ([r.receipt_id for r in page.items], page.total) == (["rec-1", "rec-2"], 3)
    first = page.items[0]
    assert (first.total, first.customer_id, first.points, first.flags[0].code) == (Decimal("12.40"), "c1", 12, "arithmetic")

    approved = await pictures.decide_review("biz-1", "rec-1", True, "key-1", "adds up", at=NOW)
    rejected = await pictures.decide_review("biz-1", "rec-2", False, "key-1", "a drawing")
    assert (approved.decision, approved.points, approved.paid) == ("approved", 12, True)
    assert (rejected.decision, rejected.points, rejected.award_id) == ("rejected", 0, None)
    (award,) = (await pictures.awards("biz-1", "c1", 10)).items
    assert (award.award_id, award.points, award.recognition_id, award.at) == (approved.award_id, 12, "rec-1", NOW)
    assert [r.receipt_id for r in (await pictures.review_queue("biz-1", 10)).items] == ["rec-0"]

    assert await pictures.decide_review("biz-1", "rec-1", True, "key-2", "again") == approved
    assert await pictures.decide_review("biz-1", "rec-2", False, "key-2", "again") == rejected
    for receipt_id, approve, points in (("rec-1", False, None), ("rec-2", True, None), ("rec-1", True, 5)):
        with pytest.raises(Conflict, match="only one that waits can be decided"):
            await pictures.decide_review("biz-1", receipt_id, approve, "key-2", "no", points=points)
    assert await send(pictures, "rec-1", at=NOW) == approved  # the same request again: as it stands now
    assert await pictures.points_balance("biz-1", "c1") == 12


async def test_what_never_waited_is_not_decided(pictures: PictureStore) -> None:
    await send(pictures)
    await waiting(pictures, "rec-2", 2)
    with pytest.raises(Conflict, match="stands as award"):
        await pictures.decide_review("biz-1", "rec-1", True, "key-1", "")
    for business, receipt_id in (("biz-2", "rec-2"), ("biz-1", "rec-9"), ("biz-1", "rec\x00")):
        with pytest.raises(UnknownItem, match="there is no receipt"):
            await pictures.decide_review(business, receipt_id, True, "key-1", "")
    for points, approve in ((-1, True), (1_000_001, True), (5, False)):
        with pytest.raises(ContractError, match="must be 0 to 1,000,000"):
            await pictures.decide_review("biz-1", "rec-2", approve, "key-1", "", points=points)


async def test_a_person_says_the_points_where_nothing_was_read(pictures: PictureStore) -> None:
    decided = await send(pictures, receipt=replace(purchase(), total=None))
    assert (decided.decision, decided.points) == ("review", 0)
    approved = await pictures.decide_review("biz-1", "rec-1", True, "key-1", "it says 11.40", points=11)
    assert (approved.points, await pictures.points_balance("biz-1", "c1")) == (11, 11)


async def test_two_people_at_once_make_one_decision(pictures: PictureStore, another: PictureStore) -> None:
    await waiting(pictures)
    said = [(pictures, True), (another, False), (pictures, True), (another, False)]
    done = await asyncio.gather(*(p.decide_review("biz-1", "rec-1", yes, "k", "") for p, yes in said), return_exceptions=True)
    assert sum(isinstance(d, Conflict) for d in done) == 2
    (decided,) = {d for d in done if isinstance(d, Decided)}
    assert (await pictures.awards("biz-1", "c1", 10)).total == (decided.decision == "approved")


async def test_what_a_person_rejected_goes_to_a_person_again(pictures: PictureStore) -> None:
    await waiting(pictures, sha256="the file")
    await pictures.decide_review("biz-1", "rec-1", False, "key-1", "a drawing")
    again = await send(pictures, "rec-2", purchase(misread=True))
    assert (again.decision, codes(again)) == ("review", [("same_receipt", "review")])
    assert "it was rejected" in again.flags[0].reason
    same_file = await send(pictures, "rec-3", purchase(misread=True), sha256="the file", customer="c2")
    assert same_file.decision == "duplicate"


# ---- challenges

HUNT = Challenge("biz-1", "hunt", "Find all three", "scavenger", ("milk", "bread", "tea"), 30, 0.6, NOW - timedelta(days=1), NOW)
OPEN = NOW - timedelta(hours=1)


async def test_challenges_are_kept_by_id(pictures: PictureStore) -> None:
    assert await pictures.put_challenge(HUNT)
    easier = replace(HUNT, wanted=("milk", "bread"), starts=None, ends=None)
    assert not await pictures.put_challenge(easier)
    assert await pictures.challenge("biz-1", "hunt") == easier
    assert await pictures.put_challenge(replace(HUNT, challenge_id="a", kind="product"))
    assert [c.challenge_id for c in await pictures.challenges("biz-1")] == ["a", "hunt"]
    assert await pictures.challenges("biz-2") == []
    for business, name in (("biz-2", "hunt"), ("biz-1", "b"), ("biz-1", "hunt\x00")):
        with pytest.raises(UnknownItem, match="there is no challenge"):
            await pictures.challenge(business, name)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"kind": "race"}, "must be product, scavenger, receipt"),
        ({"wanted": ()}, "must be 1 to 100"),
        ({"wanted": tuple(map(str, range(101)))}, "must be 1 to 100"),
        ({"wanted": ("tea", "tea")}, "named once"),
        ({"min_confidence": 1.5}, "must be 0 to 1"),
        ({"min_confidence": float("nan")}, "must be 0 to 1"),
        ({"points": -1}, "must be 0 to 1,000,000"),
        ({"ends": HUNT.starts}, "before it begins"),
    ],
)
async def test_a_challenge_that_is_none_is_refused(pictures: PictureStore, change: dict[str, Any], why: str) -> None:
    with pytest.raises(ContractError, match=why):
        await pictures.put_challenge(replace(HUNT, **change))


async def test_each_thing_counts_once_and_the_challenge_is_paid_once(pictures: PictureStore) -> None:
    async def shown(*items: str, name: str) -> Progress:
        return await pictures.progress(HUNT, "c1", items, name, OPEN)

    first = await shown("tea", "wine", name="rec-1")
    assert (first.found, first.wanted, first.completed, first.completed_now) == (("tea",), HUNT.wanted, False, False)
    assert (await shown("tea", name="rec-2")).found == ("tea",)
    last = await shown("bread", "milk", name="rec-3")
    assert (last.found, last.completed, last.completed_now, last.points) == (HUNT.wanted, True, True, 30)
    assert await shown("bread", "milk", name="rec-3") == last  # the same picture again
    later = await shown("milk", name="rec-4")
    assert (later.completed, later.completed_now, later.award_id) == (True, False, None)
    (award,) = (await pictures.awards("biz-1", "c1", 10)).items
    assert (award.award_id, award.source_kind, award.points, award.recognition_id) == (last.award_id, "challenge", 30, "rec-3")
    assert (await pictures.progress(HUNT, "c2", HUNT.wanted, "rec-5", OPEN)).completed_now  # to each customer
    elsewhere = replace(HUNT, business_id="biz-2")
    assert (await pictures.progress(elsewhere, "c1", ("milk",), "rec-6", OPEN)).found == ("milk",)


async def test_outside_its_time_nothing_counts(pictures: PictureStore) -> None:
    for when in (NOW - timedelta(days=2), NOW):
        found = await pictures.progress(HUNT, "c1", HUNT.wanted, "rec-1", when)
        assert (found.open, found.found, found.completed_now) == (False, (), False)
    always = replace(HUNT, starts=None, ends=None)
    assert (await pictures.progress(always, "c1", HUNT.wanted, "rec-1")).completed_now


async def test_a_challenge_completed_many_times_at_once_is_paid_once(pictures: PictureStore, another: PictureStore) -> None:
    done = await asyncio.gather(
        *((pictures, another)[n % 2].progress(HUNT, "c1", HUNT.wanted[n % 3 :][:1], f"rec-{n}", OPEN) for n in range(9))
    )
    assert sum(d.completed_now for d in done) == 1
    assert await pictures.points_balance("biz-1", "c1") == 30
    assert (await pictures.awards("biz-1", "c1", 10)).total == 1


# ---- erasure and upkeep


async def test_erasure_leaves_nothing_to_read_and_nothing_to_earn(pictures: PictureStore, store: OperationalStore) -> None:
    who = "somebody@example.org"
    await send(pictures, "rec-1", customer=who, sha256="the file", answer={"receipt": {"merchant": "Corner Cafe"}})
    await waiting(pictures, "rec-2", 2, customer=who)
    await send(pictures, "rec-3", customer=who, sha256="third")  # a duplicate
    await pictures.progress(HUNT, who, HUNT.wanted, "rec-4", OPEN)
    await send(pictures, "rec-5", purchase(5), customer="c2", sha256="fifth")
    done = await pictures.erase_pictures_of("biz-1", who)
    assert done == {"recognitions": 3, "challenge_progress": 3, "receipts": 3, "awards": 2}
    assert set((await pictures.erase_pictures_of("biz-1", who)).values()) == {0}

    kept = {table.name: await rows_of(store, table) for table in TABLES}
    assert [r["receipt_id"] for r in kept["receipts"] if r["fingerprint"] is not None] == ["rec-5"]
    own = [r for rows in kept.values() for r in rows if "rec-5" not in r.values()]
    for secret in (who, "Corner Cafe", "the file", "1140", "2026"):
        assert not [r for r in own if any(secret in str(v) for k, v in r.items() if k not in ("key", "at", "decided_at", "source_id"))]
    assert (await pictures.review_queue("biz-1", 10)).total == (await pictures.history("biz-1", who, 10)).total == 0
    assert await pictures.points_balance("biz-1", who) == 0
    assert await pictures.points_balance("biz-1", "c2") == 15
    assert sum(r["points"] for r in kept["awards"]) == 11 + 30 + 15

    same_file = await send(pictures, "rec-6", customer="c3", sha256="the file")
    assert (same_file.decision, same_file.duplicate_of) == ("duplicate", "rec-1")
    for number in (1, 2):
        again = await send(pictures, f"rec-7{number}", purchase(number, misread=True), customer="c3")
        assert (again.decision, codes(again)) == ("review", [("same_receipt", "review")])
    assert (await send(pictures, "rec-8", purchase(3), customer="c3")).decision == "award"
    returned = await pictures.progress(HUNT, who, HUNT.wanted, "rec-9", OPEN)
    assert (returned.completed, returned.completed_now, returned.award_id) == (True, False, None)
    assert (
        await send(pictures, "rec-1", customer=who, sha256="the file")
    ).points == 11  # the decision that was made; nothing is paid again
    assert await pictures.points_balance("biz-1", who) == 0


async def test_prune_keeps_what_was_paid(pictures: PictureStore, store: OperationalStore) -> None:
    await send(pictures)
    await send(pictures, "rec-2")
    await send(pictures, "rec-3", purchase(3), at=NOW + timedelta(days=1))
    await waiting(pictures, "rec-4", 4)
    assert await pictures.prune(NOW + timedelta(hours=1)) == {"recognitions": 3, "receipts": 1}
    assert (await pictures.history("biz-1", None, 10)).total == 1
    assert (await pictures.review_queue("biz-1", 10)).total == 1
    assert (await send(pictures, "rec-5")).decision == "duplicate"


async def test_nul_is_no_reason_to_lose_a_picture(pictures: PictureStore) -> None:
    odd = replace(purchase(), merchant="a\x00b")
    decided = await send(pictures, receipt=replace(odd, reconciled=False), customer="c\x001", context={"challengeId": "x\x00"})
    assert decided.decision == "review"
    (row,) = (await pictures.review_queue("biz-1", 10)).items
    assert (row.merchant, row.customer_id) == ("a b", "c 1")
    await pictures.recognised(record(customer="c\x001", context={"challengeId": "x\x00"}, answer={"merchant": "a\x00b"}))
    (kept,) = (await pictures.history("biz-1", "c\x001", 10)).items
    assert kept.answer == {"merchant": "a\x00b"}


async def test_going_back_a_migration_and_forth(database_url: str) -> None:
    store = OperationalStore(database_url)
    async with store.transaction() as connection:
        await connection.run_sync(lambda c: command.downgrade(config(c), "0004_questions"))
    with pytest.raises(UpstreamError, match="failed"):
        await send(PictureStore(store))
    await store.close()
    await upgrade_async(database_url)
    store = OperationalStore(database_url)
    assert (await send(PictureStore(store))).paid
    await store.close()


# ---- money


@pytest.mark.parametrize(
    ("total", "currency", "minor"),
    [
        ("12.40", "EUR", 1240),
        ("12.4", None, 1240),
        ("1240", "JPY", 1240),
        ("1.2345", "KWD", 1234),
        ("-3.00", "USD", -300),
        ("1e30", "EUR", None),
        ("999999999999999999", "EUR", None),
        ("NaN", "EUR", None),
    ],
)
def test_money_is_whole_minor_units(total: str, currency: str | None, minor: int | None) -> None:
    assert to_minor(Decimal(total), currency) == minor


@given(st.integers(-(2**63) + 1, 2**63 - 1), st.sampled_from(["EUR", "JPY", "KWD", None]))
def test_money_comes_back_exactly(minor: int, currency: str | None) -> None:
    total = from_minor(minor, currency)
    assert total is not None
    assert to_minor(total, currency) == minor
    assert to_minor(None, currency) is from_minor(None, currency) is None


async def test_a_total_beyond_all_bounds_is_no_failure(pictures: PictureStore) -> None:
    decided = await send(pictures, receipt=replace(purchase(), total=Decimal("1e25"), confidences={"date": 0.99, "total": 0.5}))
    assert decided.decision == "review"
    (row,) = (await pictures.review_queue("biz-1", 10)).items
    assert row.total is None
    assert row.at == NOW.astimezone(UTC)
