"""Which data set, which as-of day, who is asked about, and what may be known."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import ArtifactError, ConfigError
from contracts.tables import TRANSACTIONS
from training.sequence import data, protocols
from training.sequence.protocols import RealdataSettings, Source
from warehouse.store import Warehouse

NONE = RealdataSettings.load(environ={}, regulars_realdata=Path("/nowhere"))


def cds(folder: Path, rows: int = 3) -> Path:
    """A folder in the format of cdnow."""
    folder.mkdir(parents=True)
    table = pa.table({
        "customer_id": list(range(rows)), "date": [datetime(1997, 1, 1 + i) for i in range(rows)],
        "cds": [1] * rows, "amount_usd": [9.5] * rows,
    })  # fmt: skip
    pq.write_table(table, folder / "transactions.parquet")
    return folder


def selling(folder: Path, days: int) -> duckdb.DuckDBPyConnection:
    """A shop with a sale a day by one of ten customers."""
    begin = datetime(2025, 1, 1, tzinfo=UTC)
    rows = [
        {"transaction_id": f"t{d}", "business_id": "b", "customer_id": f"c{d % 10}", "occurred_at": begin + timedelta(days=d), "amount": 1}
        for d in range(days)
    ]
    warehouse = Warehouse(folder / "warehouse")
    warehouse.land("transactions", pa.Table.from_pylist(rows, schema=TRANSACTIONS.schema), "test")
    return warehouse.connect()


def test_sets_are_known_by_name_by_files_and_by_home(tmp_path: Path, shop_home: Path) -> None:
    folder = cds(tmp_path / "sets" / "cdnow")
    here = RealdataSettings.load(environ={}, regulars_realdata=tmp_path / "sets")
    assert protocols.recognise("cdnow", here) == Source("cdnow", folder, "cdnow")
    other = cds(tmp_path / "called otherwise")
    assert protocols.recognise(str(other), NONE) == Source("cdnow", other, str(other))
    assert protocols.recognise("generator", NONE) == Source("generator", None, "generator")
    assert protocols.recognise(str(shop_home), NONE).kind == protocols.HOME


def test_an_import_lands_once_under_evaluate(tmp_path: Path) -> None:
    source = protocols.recognise(str(cds(tmp_path / "cds")), NONE)
    place = protocols.landed_home(source, tmp_path / "home")
    assert place.parent == tmp_path / "home" / "evaluate"
    assert protocols.landed_home(source, tmp_path / "home") == place


@pytest.mark.parametrize("name", ["complete_journey", "folder"])
def test_a_sample_of_rows_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "transactions_sample.parquet").touch()
    with pytest.raises(ArtifactError, match="histories have holes"):
        protocols.recognise(name if name == "complete_journey" else str(tmp_path / name), NONE)


@pytest.mark.parametrize("name", ["movielens_100k", "no_such_set"])
def test_what_has_no_purchases_is_not_among_the_names(name: str) -> None:
    with pytest.raises(ArtifactError, match="cdnow, online_retail_ii, generator"):
        protocols.recognise(name, NONE)


def test_no_forecast_can_see_an_answer(shop: duckdb.DuckDBPyConnection, shop_home: Path) -> None:
    found = protocols.build(Source("home", shop_home, "shop"), shop, shop_home)
    assert found.as_of_day == data.span(shop)[1] - 91
    assert (found.months, found.value_days) == (3, 91)
    assert np.array_equal(found.now.customer, found.test.customer)
    for name in ("weeks", "statics", "active"):
        assert np.array_equal(getattr(found.now, name), getattr(found.test, name)), name
    assert (found.now.observed_days == 0).all()
    assert np.isinf(found.now.next_purchase_days).all()
    assert not any(
        getattr(found.now, f.name).any() for f in fields(found.now) if f.name in ("bought", "monthly_spend", "monthly_purchases")
    )
    assert np.isfinite(found.test.next_purchase_days).any()
    assert (found.test.monthly_spend > 0).any()
    assert found.truth is None


def test_default_times_depend_on_what_lies_before(tmp_path: Path) -> None:
    source = Source("home", tmp_path, "x")
    for days, left in ((545, 180), (544, 91), (400, 91)):
        with selling(tmp_path / str(days), days) as connection:
            found = protocols.build(source, connection, tmp_path)
            assert found.end_day - found.as_of_day == left, days
    with selling(tmp_path / "long", 600) as connection:
        asked = protocols.build(source, connection, tmp_path, 30, datetime(2025, 12, 1, tzinfo=UTC))
        assert data.midnight(asked.as_of_day) == datetime(2025, 12, 1, tzinfo=UTC)
        assert (asked.months, asked.value_days, asked.horizon_days) == (8, 244, 30)


def test_years_after_the_as_of_day_are_a_year_of_value(tmp_path: Path) -> None:
    with selling(tmp_path, 900) as connection:
        found = protocols.build(Source("home", tmp_path, "x"), connection, tmp_path, as_of=datetime(2025, 12, 1, tzinfo=UTC))
    assert (found.months, found.value_days) == (12, 365)


@pytest.mark.parametrize(
    ("horizon", "as_of", "error", "words"),
    [
        (45, None, ConfigError, "30, 60, 90"),
        (90, datetime(2025, 2, 1, tzinfo=UTC), ArtifactError, "31 days of data lie before 2025-02-01, 210 are needed"),
        (90, datetime(2026, 2, 1, tzinfo=UTC), ArtifactError, "churn within 90 days cannot be seen"),
        (30, datetime(2030, 1, 1, tzinfo=UTC), ArtifactError, "0 days of data follow"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, horizon: int, as_of: datetime | None, error: type[Exception], words: str
) -> None:
    with selling(tmp_path, 450) as connection, pytest.raises(error, match=words):
        protocols.build(Source("home", tmp_path, "x"), connection, tmp_path, horizon, as_of)


def test_the_truth_is_that_of_the_as_of_day_and_of_the_customer(shop: duckdb.DuckDBPyConnection, shop_home: Path, tmp_path: Path) -> None:
    day = data.span(shop)[1] - 100
    (tmp_path / "truth" / "biz-1").mkdir(parents=True)
    rows = [
        {"business_id": "biz-1", "customer_id": who, "as_of": data.midnight(at), "no_purchase_30": p + 0.1, "no_purchase_90": p}
        for who, at, p in (("c001", day, 0.25), ("c002", day, 0.5), ("c001", day + 90, 0.75), ("c003", day + 90, 0.8))
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "truth" / "biz-1" / "churn-0000-x.parquet")
    found = protocols.build(Source("generator", None, "generator"), shop, tmp_path)
    assert found.as_of_day == day  # the earliest that was written
    assert found.truth is not None
    names = found.now.customers.take(found.now.customer)["customer_id"].to_pylist()
    known = {n: p for n, p in zip(names, found.truth.tolist(), strict=True) if np.isfinite(p)}
    assert known == {"c001": 0.25, "c002": 0.5}
    shorter = protocols.build(Source("generator", None, "generator"), shop, tmp_path, 30)
    assert shorter.truth is not None
    assert np.nanmin(shorter.truth) == pytest.approx(0.35)
    other = protocols.build(Source("generator", None, "generator"), shop, tmp_path, as_of=data.midnight(day - 5))
    assert other.truth is None


def test_cdnow_is_cut_in_two_times_39_weeks(tmp_path: Path) -> None:
    rows = [
        {"transaction_id": f"t{d}", "business_id": "b", "customer_id": f"c{d % 10}", "amount": 1,
         "occurred_at": datetime(1997, 1, 1, tzinfo=UTC) + timedelta(days=d)}
        for d in range(546)
    ]  # fmt: skip
    warehouse = Warehouse(tmp_path / "warehouse")
    warehouse.land("transactions", pa.Table.from_pylist(rows, schema=TRANSACTIONS.schema), "test")
    with warehouse.connect() as connection:
        found = protocols.build(Source("cdnow", tmp_path, "cdnow"), connection, tmp_path)
    assert (found.end_day - found.as_of_day, found.value_days, found.months) == (273, 273, 9)


def test_of_very_many_customers_some_are_drawn(shop: duckdb.DuckDBPyConnection, shop_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "MOST_CUSTOMERS", 50)
    found = protocols.build(Source("home", shop_home, "shop"), shop, shop_home)
    assert len(found.now) == 50
    assert np.array_equal(found.now.customer, found.test.customer)
