"""Hand-made files in the formats of the public sets; no row is taken from them."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

_NAMES = pa.dictionary(pa.int8(), pa.string())


def write(folder: Path, name: str, rows: list[dict[str, Any]], **types: pa.DataType) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    for column, kind in types.items():
        table = table.set_column(table.column_names.index(column), column, table[column].cast(kind))
    pq.write_table(table, folder / f"{name}.parquet")


@pytest.fixture
def starbucks(tmp_path: Path) -> Path:
    """Two offers and an informational one; Ann sees before completing, Bob completes unseen, Eve views after, Zoe views too late."""
    folder = tmp_path / "starbucks"
    sent = {"channel_email": True, "channel_mobile": True, "channel_social": False, "channel_web": False}
    write(folder, "offers", [
        {"offer_id": "two", "offer_type": "bogo", "difficulty": 10, "reward": 10, "duration_days": 7.0, **sent},
        {"offer_id": "off", "offer_type": "discount", "difficulty": 20, "reward": 5, "duration_days": 1.0, **sent},
        {"offer_id": "new", "offer_type": "informational", "difficulty": 0, "reward": 0, "duration_days": 3.0, **sent},
    ])  # fmt: skip
    write(folder, "customers", [
        {"customer_id": "ann", "gender": "F", "age": 33, "income": 50000.0, "became_member_on": date(2017, 1, 2)},
        {"customer_id": "bob", "gender": None, "age": 118, "income": None, "became_member_on": date(2018, 1, 2)},
        {"customer_id": "eve", "gender": "F", "age": 75, "income": 40000.0, "became_member_on": date(2016, 1, 2)},
        {"customer_id": "zoe", "gender": "O", "age": 18, "income": 30000.0, "became_member_on": date(2015, 1, 2)},
    ])  # fmt: skip
    log = [
        ("ann", "offer received", 0, "two"), ("ann", "offer viewed", 6, "two"),
        ("ann", "transaction", 12, 11.5), ("ann", "offer completed", 12, "two"),
        ("bob", "offer received", 0, "two"), ("bob", "transaction", 3, 20.0),
        ("bob", "offer completed", 3, "two"), ("bob", "offer completed", 3, "two"),
        ("eve", "offer received", 0, "two"), ("eve", "transaction", 6, 10.0),
        ("eve", "offer completed", 6, "two"), ("eve", "offer viewed", 6, "two"),
        ("zoe", "offer received", 0, "off"), ("zoe", "offer viewed", 20, "off"), ("zoe", "offer received", 168, "off"),
        ("zoe", "transaction", 180, 25.0), ("zoe", "offer completed", 180, "off"), ("zoe", "offer received", 200, "new"),
    ]  # fmt: skip
    rewards = {"two": 10, "off": 5}
    write(folder, "events", [
        {"seq": i, "customer_id": who, "event": what, "time_hours": hour, "offer_id": None if what == "transaction" else subject,
         "amount": subject if what == "transaction" else None, "reward": rewards[subject] if what == "offer completed" else None}
        for i, (who, what, hour, subject) in enumerate(log)
    ], event=_NAMES, time_hours=pa.int16(), offer_id=_NAMES, reward=pa.int8())  # fmt: skip
    return folder


@pytest.fixture
def online_retail(tmp_path: Path) -> Path:
    """Two buyers, a line in both sheets, and one line of every kind that is left out."""
    folder = tmp_path / "retail"
    lines = [
        ("500001", "10001", "RED MUG", 2, datetime(2010, 11, 30, 9), 3.5, 7, "France", "2009-2010"),
        ("500001", "10001", "RED MUG", 1, datetime(2010, 11, 30, 9), 3.5, 7, "France", "2009-2010"),
        ("500001", "10002a", "TIN TRAY", 4, datetime(2010, 11, 30, 9), 0.25, 7, "France", "2009-2010"),
        ("500002", "10001", "RED MUG", 1, datetime(2010, 12, 3, 9), 3.0, 8, "Spain", "2009-2010"),
        ("500002", "10001", "RED MUG", 1, datetime(2010, 12, 3, 9), 3.0, 8, "Spain", "2010-2011"),
        ("500003", "10001", "mug?", 1, datetime(2011, 1, 3, 9), 4.0, 8, "Spain", "2010-2011"),
        ("C500004", "10001", "RED MUG", -1, datetime(2011, 1, 4, 9), 3.0, 8, "Spain", "2010-2011"),
        ("A500005", "B", "Adjust", 1, datetime(2011, 1, 4, 9), -10.0, None, "Spain", "2010-2011"),
        ("500006", "POST", "POSTAGE", 1, datetime(2011, 1, 4, 9), 12.0, 8, "Spain", "2010-2011"),
        ("500007", "10001", "RED MUG", 1, datetime(2011, 1, 4, 9), 3.0, None, "Spain", "2010-2011"),
        ("500008", "10001", "RED MUG", 1, datetime(2011, 1, 4, 9), 0.0, 8, "Spain", "2010-2011"),
    ]
    names = ("invoice", "stock_code", "description", "quantity", "invoice_time", "unit_price", "customer_id", "country", "sheet")
    write(folder, "transactions", [dict(zip(names, line, strict=True)) for line in lines], quantity=pa.int32())
    return folder


@pytest.fixture
def movielens(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    write(folder, "movies", [
        {"movie_id": 1, "title": "Some Film (1990)", "release_date": datetime(1990, 5, 1), "genres": "Comedy|Romance"},
        {"movie_id": 2, "title": "unknown", "release_date": None, "genres": "unknown"},
    ])  # fmt: skip
    write(
        folder,
        "users",
        [{"user_id": 1, "age": 24, "gender": "F", "occupation": "x"}, {"user_id": 2, "age": 12, "gender": "M", "occupation": "y"}],
    )
    write(folder, "ratings", [
        {"user_id": 1, "movie_id": 1, "rating": 5, "rated_at": datetime(1998, 1, 1, 10)},
        {"user_id": 1, "movie_id": 2, "rating": 3, "rated_at": datetime(1998, 1, 1, 11)},
    ], rated_at=pa.timestamp("us", "UTC"))  # fmt: skip
    return folder


@pytest.fixture
def cdnow(tmp_path: Path) -> Path:
    """Two buyers: one with two rows on a day, one whose purchase cost nothing."""
    folder = tmp_path / "cds"
    rows = [
        (1, datetime(1997, 1, 1), 1, 11.77),
        (1, datetime(1997, 1, 12), 1, 12.0),
        (1, datetime(1997, 1, 12), 5, 77.0),
        (12, datetime(1997, 3, 2), 2, 0.0),
    ]
    names = ("customer_id", "date", "cds", "amount_usd")
    write(folder, "transactions", [dict(zip(names, row, strict=True)) for row in rows], date=pa.timestamp("us"))
    return folder
