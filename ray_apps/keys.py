"""Bearer keys: `rgl_<key id>_<secret>`, made by `regulars key create`, checked at every request.

The secret is 32 random bytes, so only its SHA-256 is stored: a slow hash protects passwords that people choose, which can be guessed;
256 random bits cannot, and a slow hash would cost every request milliseconds.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from contracts.api import ROLES, TEXT_PATTERN
from contracts.errors import ContractError, Forbidden, Unauthorized
from ray_apps.store import KeyRow, OperationalStore

_KEY = re.compile(r"rgl_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_BUSINESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_HOW = "Send the header `Authorization: Bearer <key>`; make a key with: regulars key create"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request: one key of one business.

    Attributes:
        role: `app` (recommendations, events, feedback), `analyst` (and reports, questions), `private_reader` (and private
            columns in answers to questions), `admin` (and models, privacy).
    """

    business_id: str
    role: str
    key_id: str


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made. `token` is shown once and stored nowhere."""

    token: str
    row: KeyRow

    def __repr__(self) -> str:  # a token must not reach a log by accident
        return f"NewKey(key_id={self.row.key_id!r})"


def secret_hash(secret: str) -> str:
    """SHA-256 of a key's secret, hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


def require(caller: Caller, role: str) -> None:
    """Raise Forbidden unless the caller's role is at least `role`: app < analyst < private_reader < admin."""
    if ROLES.index(caller.role) < ROLES.index(role):
        raise Forbidden(
            f"key {caller.key_id} has role {caller.role}, this needs {role}. Use a key with that role: regulars key create --role {role}"
        )


def require_business(caller: Caller, business_id: str | None) -> str:
    """The caller's business; raises Forbidden if the request names another."""
    if business_id is not None and business_id != caller.business_id:
        raise Forbidden(
            f"businessId {business_id} is not the business of key {caller.key_id}. Leave it out, or use a key of that business."
        )
    return caller.business_id


async def create_key(store: OperationalStore, business_id: str, role: str, name: str) -> NewKey:
    """Make and store a key.

    Raises:
        ContractError: unknown role, or a business id or name that is not allowed.
    """
    if role not in ROLES:
        raise ContractError(f"role is {role!r}, must be one of {', '.join(ROLES)}.")
    if not _BUSINESS.fullmatch(business_id):
        raise ContractError(f"business id is {business_id!r}, must be 1 to 128 letters, digits, dots, dashes or underscores.")
    if not 1 <= len(name) <= 128 or not re.fullmatch(TEXT_PATTERN, name):
        raise ContractError(f"name is {name[:140]!r}, must be 1 to 128 printable characters.")
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    row = KeyRow(key_id, business_id, role, secret_hash(secret), name, datetime.now(UTC), None)
    await store.add_key(row)
    return NewKey(f"rgl_{key_id}_{secret}", row)


class KeyRing:
    """Checks bearer keys, with a small cache.

    A revoked key stops working within `ttl_s`. The cache holds digests, never keys, and at most `capacity` good and as many bad
    ones, so that neither many keys nor a flood of wrong ones fills the memory.

    Args:
        ttl_s: seconds for which an answer of the database is believed.
        capacity: entries of either kind.
        clock: monotonic seconds, replaced in tests.
    """

    def __init__(
        self, store: OperationalStore, *, ttl_s: float = 30.0, capacity: int = 4096, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._ttl_s, self._capacity, self._clock = store, ttl_s, capacity, clock
        self._good: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()
        self._bad: OrderedDict[bytes, tuple[float, None]] = OrderedDict()

    async def authenticate(self, header: str | None) -> Caller:
        """Who sent a request.

        Args:
            header: value of `Authorization`.

        Raises:
            Unauthorized: no key, or not a valid one; the message never repeats it.
            UpstreamError: the database failed and the key is not in the cache.
        """
        scheme, _, token = (header or "").strip().partition(" ")
        parts = _KEY.fullmatch(token.strip()) if scheme.lower() == "bearer" else None
        if parts is None:
            seen = "no bearer key" if not header else "a credential that is not one of our keys"
            raise Unauthorized(f"request carries {seen}. {_HOW}")
        digest = hashlib.sha256(token.strip().encode()).digest()
        caller = self._cached(digest)
        if caller is None and digest not in self._bad:
            caller = await self._look_up(parts[1], parts[2])
            self._remember(digest, caller)
        if caller is None:
            raise Unauthorized(f"key {parts[1]} is not known or was revoked. {_HOW}")
        return caller

    def _cached(self, digest: bytes) -> Caller | None:
        """The caller of a fresh good entry; stale entries of either kind are forgotten."""
        now = self._clock()
        for entries in (self._good, self._bad):
            found = entries.get(digest)
            if found is not None and found[0] <= now:
                del entries[digest]
        found = self._good.get(digest)
        return None if found is None else found[1]

    def _remember(self, digest: bytes, caller: Caller | None) -> None:
        until = self._clock() + self._ttl_s
        if caller is None:
            self._bad[digest] = (until, None)
        else:
            self._good[digest] = (until, caller)
        for entries in (self._good, self._bad):
            while len(entries) > self._capacity:
                entries.popitem(last=False)

    async def _look_up(self, key_id: str, secret: str) -> Caller | None:
        row = await self._store.key(key_id)
        expected = row.hash if row is not None else "0" * 64  # compare in any case: the time must not tell which ids exist
        same = hmac.compare_digest(expected, secret_hash(secret))
        if row is None or not same or row.revoked_at is not None:
            return None
        return Caller(row.business_id, row.role, row.key_id)
