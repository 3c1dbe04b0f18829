"""From what was seen in a picture to its answer: the receipt's points, the expected product, the challenge."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from ray_apps.picture_desk import NO_MODEL, Shown
from ray_apps.picture_rows import Challenge, Decided, RecognitionRow
from ray_apps.pictures import PictureStore, recognition_id
from vision.fingerprint import Fingerprint
from vision.fraud import judge
from vision.recognizer import Seen, to_api
from vision.types import Receipt

EXPECTED_FROM = 0.5
"""Confidence from which an expected product is taken as shown."""
_STATUS = {"award": "awarded", "approved": "awarded", "rejected": "refused"}
"""Words of the store that the answer says otherwise."""


def blank(shown: Shown, sha256: str, now: datetime) -> RecognitionRow:
    """The record of a picture that nobody has looked at yet."""
    context = shown.context.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"business_id"})
    return RecognitionRow(
        recognition_id=recognition_id(shown.business_id, shown.key),
        business_id=shown.business_id,
        customer_id=shown.context.customer_id,
        at=now,
        kind="nothing",
        sha256=sha256,
        model_version=NO_MODEL,
        answer={},
        latency_ms=0.0,
        context=context,
    )


def of_look(record: RecognitionRow, seen: Seen) -> RecognitionRow:
    """The record with what was seen."""
    return replace(record, kind=seen.kind, model_version=seen.model_version)


def finished(record: RecognitionRow, body: dict[str, Any]) -> RecognitionRow:
    """The record as it is kept."""
    return replace(record, answer=body, latency_ms=float(body["latency"]))


def base(record: RecognitionRow, seen: Seen) -> dict[str, Any]:
    """The answer's body as far as the picture alone tells, absent values left out."""
    body = _present({"recognitionId": record.recognition_id} | to_api(seen))
    return body | {"rewardEligible": False, "latency": 0.0}


def _present(value: Any) -> Any:
    """JSON without nulls."""
    if isinstance(value, dict):
        return {k: _present(v) for k, v in value.items() if v is not None}
    return [_present(v) for v in value] if isinstance(value, list) else value


async def judged(store: PictureStore, record: RecognitionRow, receipt: Receipt, print_: Fingerprint, now: datetime) -> Decided:
    """Judge a receipt: paid where it is a customer's, else only what would be."""
    judging = partial(_judge, receipt, now)
    if record.customer_id is None:
        return await store.would_award(record, print_, judging)
    return await store.award_receipt(record, receipt, print_, judging)


def _judge(receipt: Receipt, now: datetime, recent: Any, earlier: Any) -> Any:
    return judge(receipt, now, recent, earlier)


def add_receipt(body: dict[str, Any], receipt: Receipt, decided: Decided, record: RecognitionRow) -> str:
    """Add what became of a receipt; returns its status."""
    status = _STATUS.get(decided.decision, decided.decision)
    body["flags"] = [{"code": f.code, "reason": f.reason} for f in decided.flags]
    if decided.duplicate_of is not None:
        body["duplicateOf"] = decided.duplicate_of
    body["rewardEligible"] = status == "awarded" and decided.points > 0
    if record.customer_id is None:
        return "receipt"
    body["status"] = status
    if decided.award_id is not None:
        body["reward"] = reward(decided.award_id, "Points for a receipt", decided.points, bought(receipt))
    return status


def reward(award_id: str, name: str, points: int, reason: str) -> dict[str, Any]:
    """A `PictureReward`."""
    return {"rewardId": award_id, "name": name, "points": points, "reason": reason}


def bought(receipt: Receipt) -> str:
    """A receipt in a few words."""
    paid = "a receipt" if receipt.total is None else " ".join(filter(None, (str(receipt.total), receipt.currency)))
    return paid + (f" at {receipt.merchant}" if receipt.merchant else "") + (f" on {receipt.date.isoformat()}" if receipt.date else "")


def add_expected(body: dict[str, Any], seen: Seen, names: Mapping[str, str], expected: str) -> None:
    """Add whether the picture shows the product that was expected."""
    fits = [(label, sure) for label, sure in shown_in(seen, names) if same_product(expected, label)]
    label, sure = max(fits, key=lambda fit: fit[1], default=(None, 0.0))
    matches = sure >= EXPECTED_FROM
    body["expectedProduct"] = {"name": expected, "matches": matches} | ({"expected": label} if matches else {})
    body["rewardEligible"] = body["rewardEligible"] or matches


async def add_challenge(
    body: dict[str, Any], seen: Seen, names: Mapping[str, str], challenge: Challenge, record: RecognitionRow, store: PictureStore
) -> str | None:
    """Count the picture for a challenge and add how far the customer is; returns `challenge` when that completed it.

    A receipt that was not accepted (the same again, too old, waiting for a person) does not count.
    """
    state: dict[str, Any] = {"challengeId": challenge.challenge_id, "name": challenge.name, "wanted": list(challenge.wanted)}
    problem = _does_not_count(body, seen, challenge)
    found = () if problem else found_of(challenge, seen, names)
    if record.customer_id is None:
        done = len(found) == len(challenge.wanted) and challenge.open_at(record.at)
        body["challenge"] = _with_problem(state | {"found": list(found), "completed": False}, problem)
        body["rewardEligible"] = body["rewardEligible"] or done
        return None
    progress = await store.progress(challenge, record.customer_id, found, record.recognition_id, record.at)
    if not progress.open:
        problem = f"The challenge is not open on {record.at.date().isoformat()}, so this picture does not count."
    state |= {"found": list(progress.found), "completed": progress.completed}
    if progress.completed_now and progress.award_id is not None:
        state["reward"] = reward(progress.award_id, challenge.name, progress.points, f"{challenge.name}: completed")
        body.setdefault("reward", state["reward"])
        body["rewardEligible"] = True
    body["challenge"] = _with_problem(state, problem)
    return "challenge" if progress.completed_now else None


def _does_not_count(body: Mapping[str, Any], seen: Seen, challenge: Challenge) -> str | None:
    wanted = "receipt" if challenge.kind == "receipt" else "product"
    if seen.kind != wanted:
        shows = "nothing that we know" if seen.kind == "nothing" else f"a {seen.kind}"
        return f"The challenge asks for a picture of a {wanted}; this shows {shows}."
    if body.get("status", "awarded") != "awarded":
        return f"The receipt was not accepted ({body['status']}), so it does not count."
    return None


def _with_problem(state: dict[str, Any], problem: str | None) -> dict[str, Any]:
    return state if problem is None else state | {"problem": problem}


def found_of(challenge: Challenge, seen: Seen, names: Mapping[str, str]) -> tuple[str, ...]:
    """Which of a challenge's things a picture shows, surely enough."""
    sure = [label for label, confidence in shown_in(seen, names) if confidence >= challenge.min_confidence]
    return tuple(wanted for wanted in challenge.wanted if any(same_product(wanted, label) for label in sure))


def shown_in(seen: Seen, names: Mapping[str, str]) -> list[tuple[str, float]]:
    """Everything that a picture can be said to show, with its confidence: products by name, with brand and by id, their groups; of a
    receipt its merchant, and its lines by product and as printed."""
    found: list[tuple[str, float]] = []
    for p in seen.products:
        labels = [p.name, f"{p.brand} {p.name}" if p.brand else "", p.product_id or ""]
        found += [(label, p.confidence) for label in labels if label]
    if seen.products:
        found += [(name, sure) for name, sure in seen.groups if any(p.group == name for p in seen.products)]
    if seen.receipt is not None:
        if seen.receipt.merchant:
            found.append((seen.receipt.merchant, seen.receipt.confidences.get("merchant", 0.0)))
        for item in seen.receipt.items:
            found.append((item.description, item.confidence))
            if item.product_id is not None:
                found += [(label, item.product_confidence) for label in (names.get(item.product_id, ""), item.product_id) if label]
    return found


def same_product(wanted: str, label: str) -> bool:
    """Whether two names mean the same product: equal words, whatever their case, accents, marks and number (apple, Apples)."""
    ours = _words(wanted)
    return bool(ours) and ours == _words(label)


def _words(name: str) -> tuple[str, ...]:
    plain = "".join(c for c in unicodedata.normalize("NFKD", name).casefold() if not unicodedata.combining(c))
    return tuple(map(_singular, re.findall(r"\w+", plain.replace("_", " "))))


def _singular(word: str) -> str:
    """One of many, roughly; the same for a word and its plural is all that counts."""
    if len(word) < 4 or word.endswith("ss"):
        return word
    for end, instead in (("ies", "y"), ("oes", "o"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("sses", "ss"), ("s", "")):
        if word.endswith(end):
            return word[: -len(end)] + instead
    return word
