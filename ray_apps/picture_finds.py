"""Which receipts of a business are the same as a new one: found by their keys, then compared.

What `vision.fingerprint.Known` does in memory is done here in the database, with the same bounds, and two more: how many are compared, and
how many pictures are laid over each other.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.errors import ArtifactError
from ray_apps.picture_rows import receipts, storable
from vision.fingerprint import MIN_NUMBERS, THRESHOLD, Fingerprint, Likeness, compare, keys
from vision.fraud import Earlier

log = logging.getLogger(__name__)

SKIP_ABOVE = 200
"""A key that more receipts have tells nothing, and is left out, as in `vision.fingerprint.Known`."""
CROWDED = 20
"""From so many receipts with a key on, one that is taken as the same as another adds no row for a key of that other: sending the same
again and again must not make its keys worthless."""
MAX_COMPARED, MAX_PICTURES = 1_000, 20
"""Receipts that one is compared with at most, and those of them whose pictures are laid over each other; most keys in common first."""
MIN_KEYS = 3
"""Common keys from which an erased receipt, of which nothing else is left, is taken as the same, for a person to look. On the fitting half
of `receipts_sroie`, with a reader's mistakes: 95 % of receipts photographed again, 0.06 % of pairs of different ones."""


class Found(NamedTuple):
    """Receipts that may be the same.

    Attributes:
        shared: receipt id -> the keys in common; most of them first.
        crowded: keys that `CROWDED` receipts or more have.
    """

    shared: dict[str, frozenset[int]]
    crowded: frozenset[int]


class Past(NamedTuple):
    """An earlier receipt to compare with; `fingerprint` is None where it was erased."""

    receipt_id: str
    fingerprint: bytes | None
    shared: frozenset[int]


@cache
def _by_key(count: int) -> sa.TextClause:
    """The first receipts of each of so many keys. Written out, as it takes as long to put together from parts as to run."""
    part = "SELECT * FROM (SELECT key, receipt_id FROM receipt_keys WHERE business_id = :business_id AND key = :key_{} LIMIT :most) AS k{}"
    query = sa.text(" UNION ALL ".join(part.format(n, n) for n in range(count)))
    names = ["most", *(f"key_{n}" for n in range(count))]
    return query.bindparams(sa.bindparam("business_id", type_=sa.Text), *(sa.bindparam(name, type_=sa.BigInteger) for name in names))


async def candidates(connection: AsyncConnection, business_id: str, print_: Fingerprint) -> Found:
    """Receipts of the business that share a telling key, at most `MAX_COMPARED`."""
    wanted = keys(print_)
    by_key: dict[int, list[str]] = defaultdict(list)
    if wanted:
        values = {f"key_{n}": key for n, key in enumerate(wanted)}
        for key, receipt_id in await connection.execute(
            _by_key(len(wanted)), {"business_id": business_id, "most": SKIP_ABOVE + 1, **values}
        ):
            by_key[key].append(receipt_id)
    shared: dict[str, set[int]] = defaultdict(set)
    for key, names in by_key.items():
        if len(names) <= SKIP_ABOVE:
            for name in names:
                shared[name].add(key)
    most = sorted(shared.items(), key=lambda item: -len(item[1]))[:MAX_COMPARED]
    return Found({name: frozenset(found) for name, found in most}, frozenset(k for k, names in by_key.items() if len(names) >= CROWDED))


async def pasts(connection: AsyncConnection, business_id: str, shared: Mapping[str, frozenset[int]]) -> list[Past]:
    """What to compare with, in the order of `shared`."""
    if not shared:
        return []
    mine = (receipts.c.business_id == business_id, receipts.c.receipt_id.in_(list(shared)))
    query = sa.select(receipts.c.receipt_id, receipts.c.fingerprint).where(*mine)
    prints = {row.receipt_id: row.fingerprint for row in await connection.execute(query)}
    return [Past(name, prints[name], found) for name, found in shared.items() if name in prints]


def compared(print_: Fingerprint, pasts: Iterable[Past]) -> dict[str, Likeness]:
    """How like each is, by receipt id. One that cannot be compared any more is judged by its keys."""
    found: dict[str, Likeness] = {}
    pictures = 0
    for past in pasts:
        try:
            other = None if past.fingerprint is None else Fingerprint.from_bytes(past.fingerprint)
        except ArtifactError as exc:
            log.warning("receipt %s is compared by its keys alone: %s", past.receipt_id, exc)
            other = None
        if other is None:
            found[past.receipt_id] = _by_keys(print_, past.shared)
            continue
        by_picture = min(len(print_.tokens), len(other.tokens)) < MIN_NUMBERS and print_.sha256 != other.sha256
        pictures += by_picture
        found[past.receipt_id] = Likeness(0.0, "picture") if by_picture and pictures > MAX_PICTURES else compare(print_, other)
    return found


def _by_keys(print_: Fingerprint, shared: frozenset[int]) -> Likeness:
    """Likeness to a receipt of which only keys are left; surely the same only if it is the same file. How it looks is left out: a
    quarter of a hash of 64 bits agrees by chance."""
    if print_.sha256 and shared & set(keys(Fingerprint(sha256=print_.sha256))):
        return Likeness(1.0, "file", ("it is the same file",))
    telling = shared - set(keys(Fingerprint(small=b"-", looks=print_.looks)))
    if len(telling) < MIN_KEYS:
        return Likeness(0.0, "picture")
    return Likeness(THRESHOLD, "picture", (f"{len(telling)} of the marks that are left of it are the same",))


async def earlier(connection: AsyncConnection, business_id: str, customer_id: str | None, seen: Mapping[str, Likeness]) -> list[Earlier]:
    """Those that are the same, the likeliest first, as they stand now.

    What a person rejected goes to a person again, unless it is the same file.
    """
    same = {name: likeness for name, likeness in seen.items() if likeness.same}
    if not same:
        return []
    mine = (receipts.c.business_id == business_id, receipts.c.receipt_id.in_(list(same)))
    query = sa.select(receipts.c.receipt_id, receipts.c.customer_id, receipts.c.status).where(*mine)
    found = []
    for name, whose, status in await connection.execute(query):
        likeness = same[name]
        if status == "rejected" and likeness.by != "file":
            likeness = Likeness(likeness.probability, "picture", (*likeness.reasons, "it was rejected"))
        found.append(Earlier(name, likeness, whose is not None and whose == storable(customer_id)))
    return sorted(found, key=lambda one: (-one.likeness.probability, one.receipt_id))
