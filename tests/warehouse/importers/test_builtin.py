"""The built-in importers on hand-made files of the same formats."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import ArtifactError, ContractError
from warehouse.importers import IMPORTERS, import_into
from warehouse.importers.common import age_group_sql
from warehouse.importers.movielens_100k import tables as movielens_tables
from warehouse.importers.online_retail_ii import OTHER, head_nouns
from warehouse.store import Warehouse


def imported(tmp_path: Path, name: str, folder: Path) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Rows of each table after an import into an empty warehouse, and the notes."""
    warehouse, notes = Warehouse(tmp_path / "wh"), []
    reports = import_into(warehouse, name, folder, "shop", notes=notes.append)
    assert sum(r.rejected + r.duplicates for r in reports) == 0
    with warehouse.connect() as connection:
        return {r.table: connection.table(r.table).to_arrow_table().to_pylist() for r in reports}, notes


def test_starbucks_offers_become_rewards_with_readable_names(tmp_path: Path, starbucks: Path) -> None:
    tables, _ = imported(tmp_path, "starbucks_rewards", starbucks)
    by_id = {r["reward_id"]: r for r in tables["rewards"]}
    assert by_id["two"]["name"] == "Buy one get one: spend $10, get $10 (7 days)"
    assert by_id["off"]["name"] == "Discount: spend $20, get $5 off (1 days)"
    assert by_id["off"]["description"].endswith("Sent by email, mobile app; valid for 1 days from receipt.")
    assert (by_id["off"]["reward_type"], by_id["off"]["difficulty"], by_id["off"]["face_value"]) == (
        "discount",
        Decimal("20.0000"),
        Decimal("5.0000"),
    )
    assert by_id["new"]["reward_type"] == "informational"


def test_starbucks_customers_have_bands_and_no_age_where_unknown(tmp_path: Path, starbucks: Path) -> None:
    tables, notes = imported(tmp_path, "starbucks_rewards", starbucks)
    assert {c["customer_id"]: c["age_group"] for c in tables["customers"]} == {"ann": "25-34", "bob": None, "eve": "75+", "zoe": "18-24"}
    assert any(n.startswith("1 customers of age 118") for n in notes)


def test_starbucks_redemptions_say_whether_the_offer_was_viewed_before(tmp_path: Path, starbucks: Path) -> None:
    tables, notes = imported(tmp_path, "starbucks_rewards", starbucks)
    redeemed = [(e["customer_id"], json.loads(e["metadata"])["viewed_before"]) for e in tables["events"] if e["event_type"] == "redemption"]
    assert sorted(redeemed) == [("ann", True), ("bob", False), ("bob", False), ("eve", False), ("zoe", False)]
    assert any(n.startswith("1 completions repeat another") for n in notes)
    assert any(n.startswith("4 redemptions happened without") for n in notes)


def test_starbucks_order_within_an_hour_is_kept(tmp_path: Path, starbucks: Path) -> None:
    tables, _ = imported(tmp_path, "starbucks_rewards", starbucks)
    events = sorted(tables["events"], key=lambda e: e["occurred_at"])
    assert [int(e["event_id"].split(":")[1]) for e in events if e["customer_id"] == "eve"] == [8, 10, 11]
    assert events[0]["occurred_at"] == datetime(2018, 7, 27, tzinfo=UTC)
    assert len({e["occurred_at"] for e in events}) == len(events)
    assert {t["customer_id"]: t["amount"] for t in tables["transactions"]}["ann"] == Decimal("11.5000")


def test_online_retail_leaves_out_what_is_no_purchase_and_says_so(tmp_path: Path, online_retail: Path) -> None:
    tables, notes = imported(tmp_path, "online_retail_ii", online_retail)
    purchases = {t["transaction_id"]: (t["amount"], t["customer_id"]) for t in tables["transactions"]}
    assert purchases == {
        "shop:500001": (Decimal("11.5000"), "7"), "shop:500002": (Decimal("3.0000"), "8"), "shop:500003": (Decimal("4.0000"), "8"),
    }  # fmt: skip
    for reason in ("in both sheets", "cancellation", "adjustment", "not a product", "no customer", "quantity or price not above zero"):
        assert f"1 lines left out: {reason}" in notes


def test_online_retail_merges_lines_of_one_product_and_redeems_each_once(tmp_path: Path, online_retail: Path) -> None:
    tables, _ = imported(tmp_path, "online_retail_ii", online_retail)
    items = {(i["transaction_id"], i["product_id"]): (i["quantity"], i["amount"]) for i in tables["transaction_items"]}
    assert items[("shop:500001", "10001")] == (3, Decimal("10.5000"))
    assert len(items) == 4
    assert {(e["event_id"], e["reward_id"], e["value"], e["channel"], e["event_type"]) for e in tables["events"]} >= {
        ("shop:500001:10001", "rew-10001", 10.5, "web", "redemption"), ("shop:500001:10002A", "rew-10002A", 1.0, "web", "redemption"),
    }  # fmt: skip
    assert len(tables["events"]) == 4


def test_online_retail_products_and_rewards_agree(tmp_path: Path, online_retail: Path) -> None:
    tables, _ = imported(tmp_path, "online_retail_ii", online_retail)
    mug = next(p for p in tables["products"] if p["product_id"] == "10001")
    assert (mug["name"], mug["price"], mug["category"]) == ("RED MUG", Decimal("3.5000"), OTHER)
    assert {(r["reward_id"], r["name"], r["category"], r["face_value"], r["reward_type"]) for r in tables["rewards"]} == {
        (f"rew-{p['product_id']}", p["name"], p["category"], p["price"], "free_item") for p in tables["products"]
    }
    assert {c["customer_id"]: (c["location"], c["joined_at"]) for c in tables["customers"]}["8"] == (
        "Spain",
        datetime(2010, 12, 3, 9, tzinfo=UTC),
    )


def test_head_nouns_find_what_a_thing_is() -> None:
    names = ["WHITE HEART HOLDER", "T-LIGHT HOLDERS, PINK", "SET OF 3 CAKE TINS", "RED TIN BOX OF 12", "TIN ROBOT", "GIFT BOXES", "42", ""]
    assert head_nouns(names, least=2) == ["holder", "holder", "tin", "tin", "tin", OTHER, OTHER, OTHER]


def test_movielens_liked_films_are_redemptions_and_all_ratings_reviews(tmp_path: Path, movielens: Path) -> None:
    tables, notes = imported(tmp_path, "movielens_100k", movielens)
    assert sorted((e["event_type"], e["reward_id"], e["value"]) for e in tables["events"]) == [
        ("redemption", "film-1", 5.0), ("review", "film-1", 5.0), ("review", "film-2", 3.0),
    ]  # fmt: skip
    film = next(r for r in tables["rewards"] if r["reward_id"] == "film-1")
    assert (film["reward_type"], film["category"]) == ("experience", "comedy")
    assert film["description"] == "Some Film (1990). Genres: Comedy, Romance. Released 1990"
    assert {c["customer_id"]: (c["age_group"], c["name"]) for c in tables["customers"]} == {"1": ("18-24", None), "2": ("under-18", None)}
    assert any("1 lower ones" in n for n in notes)


def test_movielens_threshold_is_a_parameter(movielens: Path) -> None:
    events = dict(movielens_tables(movielens, "shop", lambda _: None, liked_from=3))["events"].to_pylist()
    assert sum(e["event_type"] == "redemption" for e in events) == 2


def test_cdnow_rows_of_one_day_are_one_purchase_and_free_ones_stay(tmp_path: Path, cdnow: Path) -> None:
    tables, notes = imported(tmp_path, "cdnow", cdnow)
    assert {t["transaction_id"]: (t["customer_id"], t["occurred_at"], t["amount"]) for t in tables["transactions"]} == {
        "shop:1:19970101": ("1", datetime(1997, 1, 1, tzinfo=UTC), Decimal("11.7700")),
        "shop:1:19970112": ("1", datetime(1997, 1, 12, tzinfo=UTC), Decimal("89.0000")),
        "shop:12:19970302": ("12", datetime(1997, 3, 2, tzinfo=UTC), Decimal("0.0000")),
    }
    assert sorted(i["quantity"] for i in tables["transaction_items"]) == [1, 2, 6]
    assert {c["customer_id"]: c["joined_at"].date().isoformat() for c in tables["customers"]} == {"1": "1997-01-01", "12": "1997-03-02"}
    assert notes[0].startswith("1 rows merged")
    assert notes[1] == "1 purchases of amount 0 stay"


def test_cdnow_leaves_out_rows_without_customer_day_or_amount(tmp_path: Path, cdnow: Path) -> None:
    file = cdnow / "transactions.parquet"
    rows = pq.read_table(file)
    pq.write_table(rows.set_column(3, "amount_usd", pa.array([None, 12.0, 77.0, 0.0])), file)
    tables, notes = imported(tmp_path, "cdnow", cdnow)
    assert sorted(t["transaction_id"] for t in tables["transactions"]) == ["shop:12:19970302", "shop:1:19970112"]
    assert notes[0] == "1 rows left out: no customer, day or amount"


FIXTURES = {"starbucks_rewards": "starbucks", "online_retail_ii": "online_retail", "movielens_100k": "movielens", "cdnow": "cdnow"}


@pytest.mark.parametrize(("name", "fixture"), FIXTURES.items())
def test_importing_again_changes_nothing_and_two_businesses_do_not_mix(
    tmp_path: Path, request: pytest.FixtureRequest, name: str, fixture: str
) -> None:
    folder, warehouse = request.getfixturevalue(fixture), Warehouse(tmp_path / "wh")
    first = import_into(warehouse, name, folder, "one")
    version = warehouse.data_version()
    assert all(r.repeated for r in import_into(warehouse, name, folder, "one"))
    assert warehouse.data_version() == version
    other = import_into(warehouse, name, folder, "two")
    assert [(r.table, r.landed) for r in other] == [(r.table, r.landed) for r in first]
    assert warehouse.as_of("one") == warehouse.as_of("two")


@pytest.mark.parametrize("name", IMPORTERS)
def test_missing_folder_file_or_column_is_told(tmp_path: Path, request: pytest.FixtureRequest, name: str) -> None:
    warehouse = Warehouse(tmp_path / "wh")
    with pytest.raises(ArtifactError, match="no folder"):
        import_into(warehouse, name, tmp_path / "nowhere", "shop")
    with pytest.raises(ArtifactError, match="no folder"):
        list(IMPORTERS[name](tmp_path / "nowhere", "shop", lambda _: None))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="no file"):
        import_into(warehouse, name, tmp_path / "empty", "shop")
    fixture = FIXTURES[name]
    folder = request.getfixturevalue(fixture)
    file = sorted(folder.glob("*.parquet"))[0]
    pq.write_table(pq.read_table(file).drop_columns(["customer_id" if fixture != "movielens" else "title"]), file)
    with pytest.raises(ContractError, match="has no column"):
        import_into(warehouse, name, folder, "shop")
    file.write_bytes(b"not parquet")
    with pytest.raises(ArtifactError, match="cannot read"):
        import_into(warehouse, name, folder, "shop")


def test_unknown_importer_and_empty_business_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="Did you mean starbucks_rewards"):
        import_into(Warehouse(tmp_path / "wh"), "starbuck_rewards", tmp_path, "shop")
    with pytest.raises(ContractError, match="business id is empty"):
        import_into(Warehouse(tmp_path / "wh"), "starbucks_rewards", tmp_path, " ")


def test_age_groups_cover_every_age() -> None:
    import duckdb

    ages = [None, 0, 17, 18, 24, 25, 74, 75, 117]
    with duckdb.connect() as connection:
        found = [connection.execute(f"SELECT {age_group_sql('$1::INTEGER')}", [a]).fetchone() for a in ages]
    assert [f[0] for f in found if f] == [None, "under-18", "under-18", "18-24", "18-24", "25-34", "65-74", "75+", "75+"]


@pytest.mark.realdata
def test_starbucks_counts_are_those_of_the_public_set(tmp_path: Path, realdata: Path) -> None:
    warehouse, notes = Warehouse(tmp_path), []
    reports = {r.table: r for r in import_into(warehouse, "starbucks_rewards", realdata / "starbucks_rewards", "cafe", notes=notes.append)}
    assert {t: (r.landed, r.duplicates, r.rejected) for t, r in reports.items() if t in ("rewards", "customers")} == {
        "rewards": (10, 0, 0), "customers": (13_600, 0, 0),
    }  # fmt: skip
    assert reports["events"].landed + reports["transactions"].landed == 244_606
    with warehouse.connect() as connection:
        kinds = dict(connection.execute("SELECT event_type, count(*) FROM events GROUP BY event_type").fetchall())
        assert sum(kinds.values()) == reports["events"].landed
        informational = connection.execute(
            """SELECT count(*) FROM events JOIN rewards USING (business_id, reward_id)
            WHERE reward_type = 'informational' AND event_type = 'redemption'"""
        ).fetchone()
        waves = connection.execute(
            "SELECT count(DISTINCT date_trunc('hour', occurred_at)) FROM events WHERE event_type = 'offer_received'"
        ).fetchone()
    assert set(kinds) == {"offer_received", "offer_viewed", "redemption"}
    assert informational == (0,)
    assert waves == (6,)


@pytest.mark.realdata
def test_online_retail_counts_every_line_of_the_public_set_once(tmp_path: Path, realdata: Path) -> None:
    warehouse, notes = Warehouse(tmp_path), []
    reports = import_into(warehouse, "online_retail_ii", realdata / "online_retail_ii", "gifts", notes=notes.append)
    assert all(r.duplicates == r.rejected == 0 for r in reports)
    left_out = {n.split(": ")[1]: int(n.split(" ")[0].replace(",", "")) for n in notes if " lines left out: " in n}
    assert 15_000 < left_out["in both sheets"] < 22_600
    with warehouse.connect() as connection:
        matched = connection.execute(
            "SELECT count(*), count(DISTINCT event_id) FROM events e JOIN rewards r USING (business_id, reward_id) WHERE e.value > 0"
        ).fetchone()
        totals = connection.execute("SELECT (SELECT sum(amount) FROM transactions), (SELECT sum(amount) FROM transaction_items)").fetchone()
    landed = {r.table: r.landed for r in reports}
    assert matched == (landed["events"], landed["events"])
    assert totals is not None
    assert totals[0] == totals[1]
    lines = pq.read_metadata(realdata / "online_retail_ii" / "transactions.parquet").num_rows
    assert lines == 871_447
    assert landed["transaction_items"] <= lines - sum(left_out.values())


@pytest.mark.realdata
def test_movielens_counts_are_those_of_the_public_set(tmp_path: Path, realdata: Path) -> None:
    warehouse = Warehouse(tmp_path)
    landed = {r.table: r.landed for r in import_into(warehouse, "movielens_100k", realdata / "movielens_100k", "films")}
    assert (landed["rewards"], landed["customers"]) == (1_682, 943)
    with warehouse.connect() as connection:
        assert connection.execute("SELECT count(*) FROM events WHERE event_type = 'review'").fetchone() == (80_000,)


@pytest.mark.realdata
def test_cdnow_counts_are_those_of_the_public_set(tmp_path: Path, realdata: Path) -> None:
    warehouse = Warehouse(tmp_path)
    reports = {r.table: r for r in import_into(warehouse, "cdnow", realdata / "cdnow", "cds")}
    assert all(r.duplicates == r.rejected == 0 for r in reports.values())
    rows = pq.read_table(realdata / "cdnow" / "transactions.parquet", columns=["customer_id", "date"])
    days = rows.group_by(["customer_id", "date"]).aggregate([]).num_rows
    assert (reports["customers"].landed, reports["transactions"].landed) == (18_831, days)
    with warehouse.connect() as connection:
        latest = connection.execute("SELECT max(joined_at) < TIMESTAMPTZ '1997-04-01 00:00:00+00' FROM customers").fetchone()
    assert latest == (True,)
