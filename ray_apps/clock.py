"""The serving clock: what "now" means to features, expiry dates and events."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from contracts.errors import ContractError

STALE_AFTER = timedelta(days=7)
MAX_SKEW = timedelta(minutes=5)


def wall_now() -> datetime:
    """The wall clock, UTC."""
    return datetime.fromtimestamp(time.time(), UTC)


@dataclass(frozen=True)
class ServingClock:
    """Runs with the wall clock, from an anchor: serving time `serving` was wall time `wall`.

    Attributes:
        serving: serving time at the anchor; None: the serving clock is the wall clock.
        wall: wall time at the anchor.
        read: source of wall time, replaced in tests.
    """

    serving: datetime | None = None
    wall: datetime | None = None
    read: Callable[[], datetime] = wall_now

    @property
    def mode(self) -> str:
        """`wall` or `warehouse`."""
        return "wall" if self.serving is None else "warehouse"

    def now(self) -> datetime:
        """Serving time, UTC."""
        wall = self.read()
        return wall if self.serving is None or self.wall is None else self.serving + (wall - self.wall)

    def counted_at(self, occurred_at: datetime) -> datetime:
        """The time from which an event counts: its own, or now when the serving clock lags behind its sender's.

        Raises:
            ContractError: the event is dated more than five minutes after the wall clock, so one of the two clocks is wrong.
        """
        latest = max(self.read(), self.now()) + MAX_SKEW
        if occurred_at > latest:
            raise ContractError(
                f"occurredAt {occurred_at.isoformat()} is after {latest.isoformat()}, this server's time and five minutes. "
                "Set the sender's clock, or send the event when it has happened."
            )
        return min(occurred_at, self.now())


def anchor(mode: str, as_of: datetime | None, last_served: datetime | None = None, read: Callable[[], datetime] = wall_now) -> ServingClock:
    """Choose the clock of a run.

    Args:
        mode: `wall`, `warehouse`, or `auto`: the warehouse's only when its newest row is more than a week old.
        as_of: newest row of the warehouse; None when it is empty.
        last_served: serving time at which an earlier run on this home stopped, so that time never runs backwards.
        read: source of wall time.
    """
    wall = read()
    if as_of is None or mode == "wall" or (mode == "auto" and wall - as_of <= STALE_AFTER):
        return ServingClock(read=read)
    start = max(as_of, last_served) if last_served is not None and last_served <= wall else as_of
    return ServingClock(serving=start, wall=wall, read=read)
