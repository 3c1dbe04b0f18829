"""Settings of the generator and the time window that follows from them."""

from __future__ import annotations

import calendar
import datetime as dt
import hashlib
import json
import re
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from contracts.settings import StackSettings, settings_config

BLOCK = 4_000  # customers simulated together; part of the meaning of a seed, so a constant and no setting
DAY_S = 86_400
WEEK_S = 7 * DAY_S


def _today() -> dt.date:
    return dt.datetime.now(dt.UTC).date()


class GeneratorSettings(StackSettings):
    """What to generate. The same settings give bit-identical tables.

    `end` is a UTC date; everything happens in [end - months, end), midnight to midnight. `truth` adds the model's own
    probabilities beside the tables and changes nothing in them.
    """

    model_config = settings_config("REGULARS_GENERATE_")

    customers: int = Field(20_000, ge=1, le=5_000_000)
    months: int = Field(18, ge=1, le=60)
    seed: int = Field(7, ge=0, lt=2**63)
    business_id: str = Field("biz-1", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    businesses: int = Field(1, ge=1, le=50)
    end: dt.date = Field(default_factory=_today, ge=dt.date(1980, 1, 1), le=dt.date(2200, 1, 1))
    rewards: int = Field(320, ge=40, le=3_000)
    products: int = Field(600, ge=60, le=1_400)
    truth: bool = True

    def business_ids(self) -> list[str]:
        """`biz-1`, then counting on (`biz-2`, ...); a name without a final number gets one (`cafe`, `cafe-2`)."""
        found = re.fullmatch(r"(.*?)(\d+)", self.business_id)
        stem, first = (found[1], int(found[2])) if found else (f"{self.business_id}-", 1)
        return [self.business_id] + [f"{stem}{first + i}" for i in range(1, self.businesses)]

    def digest(self) -> str:
        """12 hex digits that differ whenever the tables of one business would; the names of landed chunks carry it."""
        values = self.model_dump(mode="json", exclude={"truth", "businesses", "business_id"})
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]

    def window(self) -> Window:
        """The time covered, cut into weeks that end at `end`."""
        months = self.end.year * 12 + self.end.month - 1 - self.months
        year, month = divmod(months, 12)
        day = min(self.end.day, calendar.monthrange(year, month + 1)[1])
        start = dt.date(year, month + 1, day)
        return Window(_epoch_s(start), _epoch_s(self.end))


def _epoch_s(day: dt.date) -> int:
    return int(dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC).timestamp())


@dataclass(frozen=True)
class Window:
    """[start, end) in seconds since the epoch. Weeks are counted back from `end`, so the first one may be partly outside."""

    start: int
    end: int

    @property
    def weeks(self) -> int:
        return -((self.start - self.end) // WEEK_S)

    def week_start(self, week: int) -> int:
        """Seconds since the epoch at which week 0..weeks begins."""
        return self.end - (self.weeks - week) * WEEK_S


def season(time_s: np.ndarray) -> np.ndarray:
    """Factor on the visiting rate by date: a yearly swing of 8 %, December up to 40 % higher, busy Saturdays; float64."""
    days = np.asarray(time_s) // DAY_S
    of_year = (days - (days.astype("datetime64[D]").astype("datetime64[Y]").astype("datetime64[D]").astype(np.int64))).astype(np.float64)
    weekday = (days + 3) % 7  # 1970-01-01 was a Thursday; 0 is Monday
    december = np.exp(-(((of_year - 349.0) / 12.0) ** 2))
    by_weekday = np.array([0.92, 0.95, 0.97, 1.0, 1.15, 1.16, 0.85])
    return (1.0 + 0.08 * np.sin(2 * np.pi * (of_year - 100.0) / 365.0) + 0.4 * december) * by_weekday[weekday]
