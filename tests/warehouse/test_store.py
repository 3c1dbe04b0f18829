"""Landing: idempotent, whole or absent, and readable while it happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import warehouse.store as store_module
from contracts.errors import ArtifactError, ContractError
from contracts.tables import MONEY, TABLES, TEXT, TIMESTAMP
from warehouse.store import Warehouse

ROOT = Path(__file__).resolve().parents[2]
BASE = datetime(2024, 1, 30, tzinfo=UTC)


def purchases(numbers: list[int], business: str = "biz-1") -> pa.Table:
    """Transactions whose content follows from their number."""
    return pa.table(
        {
            "transaction_id": [f"tx-{n}" for n in numbers],
            "business_id": [business if n % 5 else "biz-2" for n in numbers],
            "customer_id": [f"cust-{n % 3}" for n in numbers],
            "occurred_at": pa.array([BASE + timedelta(hours=7 * n) for n in numbers], TIMESTAMP),
            "amount": [f"{n}.25" for n in numbers],
        },
        schema=pa.schema(
            {"transaction_id": TEXT, "business_id": TEXT, "customer_id": TEXT, "occurred_at": TIMESTAMP, "amount": TEXT}
        ),
    )  # fmt: skip


def rows(warehouse: Warehouse, table: str = "transactions") -> list[tuple[object, ...]]:
    with warehouse.connect() as connection:
        return sorted(connection.table(table).fetchall(), key=repr)


def files_on_disk(warehouse: Warehouse) -> set[str]:
    return {str(p.relative_to(warehouse.root)) for p in warehouse.root.rglob("*.parquet")}


def files_in_manifest(warehouse: Warehouse) -> set[str]:
    manifest = json.loads((warehouse.root / "manifest.json").read_bytes())
    return {f["path"] for f in manifest["files"] + manifest["aside"]} | set(manifest["merged"])


def test_landed_rows_are_read_back_with_the_contracts_columns_and_types(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / "wh")
    report = warehouse.land("transactions", purchases([1, 2, 3]), "a")
    assert (report.landed, report.duplicates, report.rejected, report.repeated) == (3, 0, 0, False)
    with warehouse.connect() as connection:
        for name, spec in TABLES.items():
            found = connection.table(name).to_arrow_table().schema
            assert [(f.name, f.type) for f in found] == [(f.name, f.type) for f in spec.schema], name
        assert connection.execute("SELECT sum(amount) FROM transactions").fetchone() == (pa.scalar("6.7500").cast(MONEY).as_py(),)


def test_empty_warehouse_has_every_view_with_the_same_types_as_a_full_one(tmp_path: Path) -> None:
    with Warehouse(tmp_path / "nothing").connect() as connection:
        for name, spec in TABLES.items():
            found = connection.table(name).to_arrow_table()
            assert found.num_rows == 0
            assert [(f.name, f.type) for f in found.schema] == [(f.name, f.type) for f in spec.schema], name
    assert not (tmp_path / "nothing").exists()


def test_time_zone_of_a_connection_is_utc(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.land("transactions", purchases([1]), "a")
    with warehouse.connect() as connection:
        assert connection.execute("SELECT CAST(occurred_at AS VARCHAR) FROM transactions").fetchone() == ("2024-01-30 07:00:00+00",)


def test_same_source_again_changes_nothing_and_returns_the_first_report(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    first = warehouse.land("transactions", purchases([1, 2]), "a")
    before = (tmp_path / "manifest.json").read_bytes()
    again = warehouse.land("transactions", purchases([3, 4, 5]), "a")
    assert again.repeated
    assert {**again.as_dict(), "repeated": False} == first.as_dict()
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_one_source_may_land_in_several_tables(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.land("transactions", purchases([1]), "a")
    report = warehouse.land("transaction_items", pa.table({"transaction_id": ["tx-1"], "product_id": ["p"], "quantity": [1]}), "a")
    assert report.landed == 1
    assert not report.repeated


def test_duplicates_inside_the_batch_and_against_earlier_ones_are_counted(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.land("transactions", purchases([1, 2, 3]), "a")
    report = warehouse.land("transactions", purchases([3, 4, 4, 5]), "b")
    assert (report.landed, report.duplicates) == (2, 2)
    assert len(rows(warehouse)) == 5


def test_the_same_key_in_another_business_is_another_row(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.land("transactions", purchases([1]), "a")
    assert warehouse.land("transactions", purchases([1], business="biz-9"), "b").landed == 1


def test_files_are_partitioned_by_business_and_month(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.land("transactions", purchases([1, 5, 100]), "a")
    folders = sorted(str(Path(f).parent) for f in files_on_disk(warehouse))
    assert folders == [
        "transactions/business_id=biz-1/month=2024-01",
        "transactions/business_id=biz-2/month=2024-01",
        "transactions/business_id=biz-2/month=2024-02",
    ]


@pytest.mark.parametrize("business", ["../../up", "a/b", "ünï", "x" * 400, "50% [off]*?", "tab\there", "it's"])
def test_odd_business_ids_stay_inside_the_folder_and_are_read_back(tmp_path: Path, business: str) -> None:
    warehouse = Warehouse(tmp_path / "wh [odd]'s *")
    warehouse.land("transactions", purchases([1], business=business), "a")
    assert warehouse.land("transactions", purchases([1], business=business), "b").duplicates == 1
    with warehouse.connect() as connection:
        assert connection.execute("SELECT business_id FROM transactions").fetchall() == [(business,)]
    assert warehouse.as_of(business) == BASE + timedelta(hours=7)
    assert all(p.is_relative_to(warehouse.root) for p in tmp_path.rglob("*.parquet"))


def test_a_reader_keeps_its_snapshot_while_others_land(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.land("transactions", purchases([1]), "a")
    with warehouse.connect() as connection:
        warehouse.land("transactions", purchases([2]), "b")
        assert connection.execute("SELECT count(*) FROM transactions").fetchone() == (1,)
    assert len(rows(warehouse)) == 2


def test_an_empty_batch_is_remembered_as_landed(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    assert warehouse.land("transactions", purchases([]), "a").landed == 0
    assert warehouse.land("transactions", purchases([]), "a").repeated
    assert rows(warehouse) == []


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    def land(start: int) -> None:
        for n in range(start, start + 20, 5):
            Warehouse(tmp_path).land("transactions", purchases(list(range(n, n + 8))), f"from-{n}")

    threads = [threading.Thread(target=land, args=(s,)) for s in (0, 10, 20)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(rows(Warehouse(tmp_path))) == 43
    assert files_on_disk(Warehouse(tmp_path)) == files_in_manifest(Warehouse(tmp_path))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_split_order_and_repeat_gives_the_same_table(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=25))
    expected = Warehouse(tmp_path_factory.mktemp("once"))
    expected.land("transactions", purchases(sorted(set(numbers))), "all")
    shuffled = data.draw(st.permutations(numbers))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(numbers)), max_size=3)))
    parts = [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, len(numbers)], strict=True)]
    order = data.draw(st.lists(st.integers(0, len(parts) - 1), max_size=4)) + list(range(len(parts)))
    split = Warehouse(tmp_path_factory.mktemp("split"))
    for turn, i in enumerate(order):
        report = split.land("transactions", purchases(parts[i]), data.draw(st.sampled_from([f"part-{i}", f"turn-{turn}"])))
        assert report.landed + report.duplicates + report.rejected == len(parts[i])
    assert rows(split) == rows(expected)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def mixed() -> pa.Table:
    """Good and bad rows over two businesses and two months."""
    good = purchases(list(range(0, 60, 9)))
    bad = purchases([500]).set_column(4, "amount", pa.array(["much"]))
    return pa.concat_tables([good, bad])


@pytest.mark.parametrize("step", range(0, 30, 3))
def test_a_landing_stopped_at_any_step_is_whole_or_absent_and_a_repeat_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.land("transactions", purchases([1, 2]), "before")
    before = rows(warehouse)
    whole = Warehouse(tmp_path / "whole")
    for source, batch in (("before", purchases([1, 2])), ("batch", mixed())):
        whole.land("transactions", batch, source)
    after, calls, flush = rows(whole), 0, store_module._flush

    def stop_at(path: Path) -> None:
        nonlocal calls
        calls += 1
        if calls > step:
            raise Killed
        flush(path)

    monkeypatch.setattr(store_module, "_flush", stop_at)
    try:
        warehouse.land("transactions", mixed(), "batch")
    except Killed:
        assert rows(warehouse) in (before, after)
    monkeypatch.setattr(store_module, "_flush", flush)
    report = warehouse.land("transactions", mixed(), "batch")
    assert (report.landed, report.duplicates, report.rejected) == (7, 0, 1)
    assert rows(warehouse) == after
    warehouse.land("transactions", purchases([]), "sweep")
    orphans = {f for f in files_on_disk(warehouse) - files_in_manifest(warehouse) if not f.startswith("whole")}
    assert not orphans
    assert not list(tmp_path.glob("*.tmp"))


KILL_SCRIPT = """
import os, signal, sys
from pathlib import Path
import pyarrow as pa
import warehouse.store as s
flush, left = s._flush, [int(sys.argv[2])]
def dying(path):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    flush(path)
s._flush = dying
s.Warehouse(Path(sys.argv[1])).land("products", pa.table({"product_id": ["a", "b"], "business_id": ["x", "y"]}), "one")
"""


@pytest.mark.parametrize(("step", "visible"), [(6, 0), (99, 2)])
def test_sigkill_leaves_no_partial_batch_and_no_lock(tmp_path: Path, step: int, visible: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILL_SCRIPT, str(tmp_path), str(step)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == (0 if visible else -signal.SIGKILL)
    warehouse = Warehouse(tmp_path)
    assert len(rows(warehouse, "products")) == visible
    warehouse.land("products", pa.table({"product_id": ["a", "b"], "business_id": ["x", "y"]}), "one")
    assert len(rows(warehouse, "products")) == 2
    assert files_on_disk(warehouse) == files_in_manifest(warehouse)


def test_rows_put_aside_are_kept_with_reason_and_content(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    report = warehouse.land("transactions", mixed(), "a")
    assert report.reasons == {"amount_not_money": 1}
    kept = pq.read_table(next((tmp_path / "quarantine" / "transactions").glob("*.parquet"))).to_pylist()
    assert kept[0]["reason"] == "amount_not_money"
    assert kept[0]["source"] == "a"
    assert json.loads(kept[0]["row"])["amount"] == "much"
    assert warehouse.info()["tables"]["transactions"]["reasons"] == {"amount_not_money": 1}


def test_data_version_names_the_rows_not_the_folder(tmp_path: Path) -> None:
    one, other = Warehouse(tmp_path / "a"), Warehouse(tmp_path / "b")
    empty = one.data_version()
    for warehouse in (one, other):
        warehouse.land("transactions", purchases([1, 2]), "s")
    assert one.data_version() == other.data_version() != empty
    other.land("transactions", purchases([3]), "t")
    assert one.data_version() != other.data_version()


def scores(numbers: list[int], scored_at: datetime) -> pa.Table:
    """Rows of customer_risk_scores, made at one instant."""
    return pa.table(
        {
            "customer_id": [f"cust-{n}" for n in numbers],
            "business_id": ["biz-1"] * len(numbers),
            "scored_at": pa.array([scored_at] * len(numbers), TIMESTAMP),
        }
    )


def test_scores_do_not_change_the_data_version(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.land("transactions", purchases([1, 2]), "s")
    version = warehouse.data_version()
    warehouse.land("customer_risk_scores", scores([1, 2], BASE), "score:1")
    assert warehouse.data_version() == version


def test_a_customer_has_one_score_for_each_instant(tmp_path: Path) -> None:
    """Also where the files of other instants, which cannot hold the key, are left out of the search for known keys."""
    warehouse = Warehouse(tmp_path)
    found = [
        warehouse.land("customer_risk_scores", scores(numbers, BASE + timedelta(microseconds=later)), f"{later}{numbers}")
        for numbers, later in (([1, 2], 0), ([1, 2], 1), ([2, 3], 0), ([1, 3], 1))
    ]
    assert [(r.landed, r.duplicates) for r in found] == [(2, 0), (2, 0), (1, 1), (1, 1)]


def test_as_of_is_the_last_transaction_else_the_last_event(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    event = {
        "event_id": ["e"],
        "business_id": ["only-events"],
        "customer_id": ["c"],
        "occurred_at": ["2025-05-05T10:00:00+02:00"],
        "event_type": ["app_open"],
    }
    warehouse.land("events", pa.table(event), "e")
    assert warehouse.as_of() == datetime(2025, 5, 5, 8, tzinfo=UTC)
    warehouse.land("transactions", purchases([1, 2]), "t")
    assert warehouse.as_of() == BASE + timedelta(hours=14)
    assert warehouse.as_of("only-events") == datetime(2025, 5, 5, 8, tzinfo=UTC)


def test_as_of_of_nothing_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="regulars data generate"):
        Warehouse(tmp_path).as_of()
    with pytest.raises(ArtifactError, match="of business nobody"):
        Warehouse(tmp_path).as_of("nobody")


def test_info_counts_rows_businesses_and_dates(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.land("transactions", purchases([1, 2, 5, 5]), "a")
    info = warehouse.info()
    table = info["tables"]["transactions"]
    assert (table["rows"], table["duplicates"], table["landings"], table["from"][:10], table["to"][:10]) == (
        3,
        1,
        1,
        "2024-01-30",
        "2024-01-31",
    )
    assert info["businesses"]["biz-2"]["transactions"] == 1
    assert info["data_version"] == warehouse.data_version()
    assert info["bytes"] > 0


@pytest.mark.parametrize(
    ("table", "source", "match"), [("nothing", "a", "no table 'nothing'"), ("transactions", "", "source is empty")]
)  # fmt: skip
def test_wrong_table_or_source_is_refused(tmp_path: Path, table: str, source: str, match: str) -> None:
    with pytest.raises(ContractError, match=match):
        Warehouse(tmp_path).land(table, purchases([1]), source)


@pytest.mark.parametrize("text", ["{", '{"format": 99, "files": [], "aside": [], "landings": {}}', "[]", '{"format": 1}'])
def test_a_damaged_manifest_is_reported(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        Warehouse(tmp_path).connect()


@pytest.mark.parametrize("damage", ["gone", "damaged"])
def test_a_file_that_is_gone_or_damaged_is_reported(tmp_path: Path, damage: str) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.land("transactions", purchases([1]), "a")
    file = next(tmp_path.rglob("*.parquet"))
    if damage == "gone":
        file.unlink()
        with pytest.raises(ArtifactError, match="Nothing was landed"):
            warehouse.land("transactions", purchases([1]), "b")
    else:
        file.write_bytes(b"not parquet")
    with pytest.raises(ArtifactError, match="gone or damaged"):
        warehouse.connect()


def test_a_disk_that_cannot_be_written_is_reported_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.land("transactions", purchases([1]), "a")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module.pq, "write_table", full)
    with pytest.raises(ArtifactError, match="No space left"):
        warehouse.land("transactions", purchases([2]), "b")
    monkeypatch.undo()
    assert len(rows(warehouse)) == 1
    assert warehouse.land("transactions", purchases([2]), "b").landed == 1


def bad_purchase(number: int) -> pa.Table:
    return purchases([number]).set_column(4, "amount", pa.array(["much"]))


def test_small_files_are_merged_and_earlier_readers_still_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MERGE_AT", 4)
    warehouse = Warehouse(tmp_path)
    for n in (1, 2, 3):
        warehouse.land("transactions", pa.concat_tables([purchases([n]), bad_purchase(n)]), f"s{n}")
    with warehouse.connect() as earlier:
        warehouse.land("transactions", pa.concat_tables([purchases([4]), bad_purchase(4)]), "s4")
        assert earlier.execute("SELECT count(*) FROM transactions").fetchone() == (3,)
    info = warehouse.info()["tables"]["transactions"]
    assert (info["files"], info["rows"], info["landings"], info["reasons"]) == (1, 4, 4, {"amount_not_money": 4})
    assert len(rows(warehouse)) == 4
    assert warehouse.land("transactions", purchases([1]), "again").duplicates == 1
    assert warehouse.as_of() == BASE + timedelta(hours=28)
    monkeypatch.setattr(store_module, "KEEP_MERGED_S", 0)
    warehouse.land("transactions", purchases([6]), "later")
    assert len(files_on_disk(warehouse)) == 3  # the merged one, the new one, the merged rows put aside
    assert files_on_disk(warehouse) == files_in_manifest(warehouse)


def test_only_the_last_reports_are_kept_and_totals_count_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "KEEP_REPORTS", 2)
    warehouse = Warehouse(tmp_path)
    for n in (1, 2, 3):
        warehouse.land("transactions", purchases([n]), f"s{n}")
    forgotten = warehouse.land("transactions", purchases([1]), "s1")
    assert (forgotten.repeated, forgotten.landed, forgotten.duplicates) == (False, 0, 1)
    assert warehouse.land("transactions", purchases([3]), "s3").repeated
    assert warehouse.info()["tables"]["transactions"]["landings"] == 4


def test_many_files_are_read(tmp_path: Path) -> None:
    """Three thousand manifest entries; the same few files stand for them all."""
    warehouse = Warehouse(tmp_path)
    warehouse.land("transactions", purchases([1, 2, 3, 4]), "a")
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["files"] = manifest["files"] * 3000
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with warehouse.connect() as connection:
        assert connection.execute("SELECT count(*) FROM transactions WHERE business_id = 'biz-1'").fetchone() == (12_000,)


def test_a_large_typed_batch_keeps_its_order_and_rows(tmp_path: Path) -> None:
    n = 200_000
    batch = pa.table(
        {
            "transaction_id": np.char.add("t", np.arange(n).astype(str)).tolist(),
            "business_id": ["b"] * n,
            "customer_id": ["c"] * n,
            "occurred_at": pa.array(np.full(n, 1_700_000_000_000_000)).cast(TIMESTAMP),
            "amount": pa.array(np.arange(n), pa.int64()),
        }
    )
    warehouse = Warehouse(tmp_path)
    assert warehouse.land("transactions", batch, "a").landed == n
    assert warehouse.land("transactions", batch.slice(100, 50), "b").duplicates == 50
    stored = pq.read_table(next(tmp_path.rglob("*.parquet")))
    assert stored["transaction_id"].to_pylist()[:3] == ["t0", "t1", "t2"]


def test_views_of_one_business_read_its_files_and_no_others(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.land("transactions", purchases(list(range(20))), "first")
    assert warehouse.businesses() == ["biz-1", "biz-2"]
    view = warehouse.views("biz-2")["transactions"]
    with warehouse.connect() as connection:
        assert {r[0] for r in connection.sql(f"SELECT DISTINCT business_id FROM ({view.select})").fetchall()} == {"biz-2"}  # noqa: S608
    assert view.files
    assert all("business_id=biz-2" in str(file) for file in view.files)
    assert set(view.files) < set(warehouse.views()["transactions"].files)
