"""The serving clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from contracts.errors import ContractError
from ray_apps.clock import MAX_SKEW, STALE_AFTER, ServingClock, anchor

WALL = datetime(2026, 11, 21, 12, tzinfo=UTC)
OLD = datetime(2011, 12, 9, 12, tzinfo=UTC)


def at(moment: datetime):
    return lambda: moment


@pytest.mark.parametrize(
    ("mode", "as_of", "expected"),
    [
        ("auto", None, "wall"),
        ("auto", WALL - timedelta(days=1), "wall"),
        ("auto", WALL - STALE_AFTER, "wall"),
        ("auto", WALL - STALE_AFTER - timedelta(seconds=1), "warehouse"),
        ("auto", WALL + timedelta(days=2), "wall"),
        ("wall", OLD, "wall"),
        ("warehouse", OLD, "warehouse"),
        ("warehouse", WALL - timedelta(days=1), "warehouse"),
        ("warehouse", None, "wall"),
    ],
)
def test_mode_follows_the_setting_and_the_age_of_the_data(mode: str, as_of: datetime | None, expected: str) -> None:
    assert anchor(mode, as_of, read=at(WALL)).mode == expected


def test_warehouse_clock_starts_at_the_as_of_time_and_runs_on() -> None:
    clock = anchor("auto", OLD, read=at(WALL))
    assert clock.now() == OLD
    assert ServingClock(clock.serving, clock.wall, at(WALL + timedelta(hours=3))).now() == OLD + timedelta(hours=3)


def test_warehouse_clock_never_runs_backwards_over_restarts() -> None:
    assert anchor("auto", OLD, OLD + timedelta(hours=5), read=at(WALL)).now() == OLD + timedelta(hours=5)
    assert anchor("auto", OLD, OLD - timedelta(days=1), read=at(WALL)).now() == OLD
    assert anchor("auto", OLD, WALL + timedelta(days=9), read=at(WALL)).now() == OLD  # a note that cannot be true


def test_past_events_keep_their_time() -> None:
    clock = anchor("auto", OLD, read=at(WALL))
    assert clock.counted_at(OLD - timedelta(days=3)) == OLD - timedelta(days=3)


def test_events_after_the_serving_clock_count_from_now() -> None:
    clock = anchor("auto", OLD, read=at(WALL))
    assert clock.counted_at(WALL) == OLD
    assert clock.counted_at(WALL + MAX_SKEW) == OLD


def test_events_of_the_future_are_refused() -> None:
    for clock in (anchor("auto", OLD, read=at(WALL)), anchor("wall", None, read=at(WALL))):
        with pytest.raises(ContractError, match="five minutes"):
            clock.counted_at(WALL + MAX_SKEW + timedelta(seconds=1))
