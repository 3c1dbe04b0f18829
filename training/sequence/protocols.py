"""From a data set to one question about time: what is known at the as-of day, and what came after it.

Every split is by time. The customers are those who had bought before the as-of day. Their samples are built twice by one definition: for
the forecasts with that day as the end of all that is known, and for the answers to the end of the data. No forecast sees the second.

`cdnow`      as of 1997-10-01: 39 weeks before, 39 weeks after, as in the published work.
`generator`  as of the earliest time at which the generator's own chances were written, 13 weeks before the end.
others       180 days before the end where a year or more lies before that, else 91 days before the end.

`complete_journey` is refused: what is to be had of it is a sample of rows, so that a customer's silence may be a row that is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.errors import ArtifactError, ConfigError
from contracts.realdata import RealdataSettings
from contracts.tensors import HORIZONS_DAYS
from training.recommender.protocols import GENERATOR, HOME, RETAIL, Source, landed_home
from training.recommender.protocols import recognise as recognise_among
from training.sequence import data, guard
from training.sequence.data import Samples, midnight
from warehouse.importers import cdnow, online_retail_ii

__all__ = ["GENERATOR", "HOME", "Problem", "RealdataSettings", "Source", "build", "landed_home", "recognise"]

CDNOW = "cdnow"
PUBLIC: dict[str, Mapping[str, tuple[str, ...]]] = {CDNOW: cdnow.NEEDED, RETAIL: online_retail_ii.NEEDED}
NAMES = (*PUBLIC, GENERATOR)
HOLED = "complete_journey"
CDNOW_AS_OF = datetime(1997, 10, 1)
LONG_TEST_DAYS, SHORT_TEST_DAYS, LONG_HISTORY_DAYS = 180, 91, 365
MOST_CUSTOMERS = 50_000
"""Of more customers so many are drawn."""


@dataclass(frozen=True)
class Problem:
    """One as-of day of one data set.

    Attributes:
        name: of the data set, as it was asked for.
        as_of_day, end_day: days since 1970-01-01, the first days that are not known to the forecasts and to the answers.
        horizon_days: of churn. months: whole months of 30.4375 days of value, 1 to 12.
        now: the customers' samples with the as-of day as the end: no label is known.
        test: the same customers in the same order with what came after.
        truth: float64 (n,), the generator's own chance of no purchase within the horizon, not a number where it was not written; or None.
    """

    name: str
    as_of_day: int
    end_day: int
    horizon_days: int
    months: int
    now: Samples
    test: Samples
    truth: np.ndarray | None = None

    @property
    def value_days(self) -> int:
        """Days that the value covers."""
        return min(self.end_day - self.as_of_day, round(self.months * data.MONTH_DAYS))


def recognise(name_or_folder: str, settings: RealdataSettings) -> Source:
    """What a name or a folder stands for, see `training.recommender.protocols.recognise`.

    Raises:
        ArtifactError: neither a name nor such a folder, or `complete_journey`.
    """
    folder = Path(name_or_folder)
    if name_or_folder == HOLED or (folder / "transactions_sample.parquet").is_file():
        raise ArtifactError(
            f"{HOLED} is a sample of rows: its histories have holes, and a hole looks like a customer who has left. "
            f"Take one of {', '.join(NAMES)}, or a home folder."
        )
    return recognise_among(name_or_folder, settings, PUBLIC)


def build(
    source: Source, connection: duckdb.DuckDBPyConnection, place: Path, horizon_days: int = 90, as_of: datetime | None = None, seed: int = 0
) -> Problem:
    """The problem of a data set.

    Args:
        connection: to the warehouse of `place`, the home folder that `landed_home` gave.
        as_of: another as-of time than the data set's own.
        seed: of the draw where there are more than `MOST_CUSTOMERS`.

    Raises:
        ConfigError: a horizon that is not forecast.
        ArtifactError: too little before the as-of day to learn from, or too little after it to compare with; or an input that
            knows what came later (`guard`).
    """
    if horizon_days not in HORIZONS_DAYS:
        raise ConfigError(f"horizon {horizon_days} is not forecast, must be one of {', '.join(map(str, HORIZONS_DAYS))} days.")
    begin, end = data.span(connection)
    files = sorted((place / "truth").glob("*/churn-*.parquet"))
    day = data.day_of(as_of) if as_of is not None else _default(source, begin, end, files)
    months = data.months_in(end - day)
    if end - day < horizon_days or months < 1:
        raise ArtifactError(
            f"{max(end - day, 0)} days of data follow {midnight(day):%Y-%m-%d}, churn within {horizon_days} days cannot be seen. "
            f"Take an --as-of no later than {midnight(end - max(horizon_days, 31)):%Y-%m-%d}."
        )
    least = 2 * horizon_days + 30
    if day - begin < least:
        raise ArtifactError(
            f"{max(day - begin, 0)} days of data lie before {midnight(day):%Y-%m-%d}, {least} are needed: a month of history, a horizon to "
            f"learn from and one to calibrate on. Take an --as-of from {midnight(begin + least):%Y-%m-%d} on, or more data."
        )
    now = data.build(connection, [day], day, max_per_day=MOST_CUSTOMERS, seed=seed)
    guard.check(connection, day, now, seed=seed)
    test = data.build(connection, [day], end, max_per_day=MOST_CUSTOMERS, seed=seed)
    return Problem(source.name, day, end, horizon_days, months, now, test, truth_of(files, now, day, horizon_days))


def _default(source: Source, begin: int, end: int, truth_files: list[Path]) -> int:
    """The as-of day of a data set when none is asked for."""
    if source.kind == CDNOW:
        return int(np.datetime64(CDNOW_AS_OF, "D").astype(np.int64))
    if source.kind == GENERATOR:
        written = [day for file in truth_files for day in _written(file)]
        return min(written, default=end - SHORT_TEST_DAYS)
    return end - (LONG_TEST_DAYS if end - LONG_TEST_DAYS - begin >= LONG_HISTORY_DAYS else SHORT_TEST_DAYS)


def _written(file: Path) -> list[int]:
    """The as-of days in a file of the generator's chances."""
    times = pq.read_table(file, columns=["as_of"])["as_of"].unique().to_pylist()
    return [data.day_of(t) for t in times]


def truth_of(files: list[Path], samples: Samples, as_of_day: int, horizon_days: int) -> np.ndarray | None:
    """The generator's own chance of no purchase, float64 (n,), not a number for whom it was not written; None without any."""
    chances: dict[tuple[str, str], float] = {}
    column = f"no_purchase_{horizon_days}"
    for file in files:
        if as_of_day not in _written(file):
            continue
        table = pq.read_table(file, columns=["business_id", "customer_id", "as_of", column])
        table = table.filter(pa.array([data.day_of(t) == as_of_day for t in table["as_of"].to_pylist()]))
        keys = zip(table["business_id"].to_pylist(), table["customer_id"].to_pylist(), strict=True)
        chances |= dict(zip(keys, table[column].to_pylist(), strict=True))
    if not chances:
        return None
    who = samples.customers.take(pa.array(samples.customer))
    keys = zip(who["business_id"].to_pylist(), who["customer_id"].to_pylist(), strict=True)
    return np.array([chances.get(key, np.nan) for key in keys], dtype=np.float64)
