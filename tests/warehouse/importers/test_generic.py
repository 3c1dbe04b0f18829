"""Own files by a mapping: the worked example of docs/data.md, and every refusal."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import ArtifactError, ContractError
from warehouse.importers import import_into
from warehouse.importers.generic import read_mapping
from warehouse.store import Warehouse

DOCS = Path(__file__).resolve().parents[3] / "docs" / "data.md"


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The files that docs/data.md shows."""
    for name, text in re.findall(r"```\w+ file=(\S+)\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL):
        path = tmp_path / "example" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "example"


def test_the_example_of_the_docs_lands_as_the_docs_say(tmp_path: Path, example: Path) -> None:
    warehouse = Warehouse(tmp_path / "wh")
    reports = {r.table: r for r in import_into(warehouse, example / "shop.yaml", example, "corner")}
    assert (reports["customers"].landed, reports["transactions"].landed) == (2, 3)
    assert reports["transactions"].reasons == {"occurred_at_not_timestamp": 1}
    with warehouse.connect() as connection:
        found = connection.execute(
            "SELECT transaction_id, occurred_at, amount, discount_amount, channel, store FROM transactions ORDER BY occurred_at"
        ).fetchall()
        consents = connection.execute("SELECT consent_personalization FROM customers ORDER BY customer_id").fetchall()
    assert found[1] == ("T1-2", datetime(2024, 5, 2, 16, 40, tzinfo=UTC), Decimal("1008.0000"), Decimal("2.5000"), "store", "High Street")
    assert [f[0] for f in found] == ["T1-1", "T1-2", "WEB-1"]
    assert found[2][4] == "web"
    assert consents == [(True,), (False,)]


def test_the_example_again_changes_nothing_until_a_file_changes(tmp_path: Path, example: Path) -> None:
    warehouse = Warehouse(tmp_path / "wh")
    import_into(warehouse, example / "shop.yaml", example, "corner")
    assert all(r.repeated for r in import_into(warehouse, example / "shop.yaml", example, "corner"))
    with (example / "sales" / "2024-05.csv").open("a", encoding="utf-8") as file:
        file.write("T1;9;1001;04.05.2024 10:00;1,00;0\n")
    grown = {r.table: r for r in import_into(warehouse, example / "shop.yaml", example, "corner")}
    assert (grown["transactions"].landed, grown["transactions"].duplicates) == (1, 3)


def mapped(tmp_path: Path, yaml: str, **files: str | bytes) -> list[str]:
    """Import a `products` mapping over the files; returns the notes."""
    folder = tmp_path / "in"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "m.yaml").write_text(yaml, encoding="utf-8")
    notes: list[str] = []
    import_into(Warehouse(tmp_path / "wh"), str(tmp_path / "m.yaml"), folder, "b", notes=notes.append)
    return notes


def products(tmp_path: Path) -> list[tuple[object, ...]]:
    with Warehouse(tmp_path / "wh").connect() as connection:
        return connection.execute("SELECT product_id, name, price FROM products ORDER BY product_id").fetchall()


SIMPLE = "tables: {products: {file: '*.csv', columns: {product_id: id, name: title, price: {column: cents, scale: 0.01}}}}"


def test_broken_lines_and_bytes_cost_only_themselves(tmp_path: Path) -> None:
    notes = mapped(tmp_path, SIMPLE, a=b'id,title,cents\n1,ok,150\n2,too,many,fields\n3,bad \xff byte,200\n4,,abc\n5,"two\nlines",7\n')
    assert products(tmp_path) == [("1", "ok", Decimal("1.5000")), ("5", "two\nlines", Decimal("0.0700"))]
    assert Warehouse(tmp_path / "wh").info()["tables"]["products"]["reasons"] == {"name_not_text": 1, "price_not_money": 1}
    assert notes == ["1 lines of a.csv left out: not the 3 fields of the header line"]


def test_a_pattern_reads_every_file_and_parquet_works_as_well(tmp_path: Path) -> None:
    mapped(tmp_path, SIMPLE, a="id,title,cents\n1,x,100\n", b="id,title,cents\n2,y,200\n")
    pq.write_table(pa.table({"id": [3], "title": ["z"], "cents": [300]}), tmp_path / "in" / "c.parquet")
    mapped(tmp_path, SIMPLE.replace("*.csv", "*.parquet"))
    assert products(tmp_path) == [("1", "x", Decimal("1.0000")), ("2", "y", Decimal("2.0000")), ("3", "z", Decimal("3.0000"))]


def test_a_date_that_does_not_match_its_format_is_put_aside_not_read_otherwise(tmp_path: Path) -> None:
    yaml = "tables: {customers: {file: a.csv, columns: {customer_id: id, joined_at: {column: on, format: '%Y%d%m'}}}}"
    mapped(tmp_path, yaml, a="id,on\n1,20200513\n2,20201305\n")
    info = Warehouse(tmp_path / "wh").info()["tables"]["customers"]
    assert (info["rows"], info["reasons"]) == (1, {"joined_at_not_timestamp": 1})


def test_yaml_words_and_numbers_stay_text(tmp_path: Path) -> None:
    yaml = (
        "tables: {products: {file: a.csv, columns: {product_id: no, name: {column: on, map: {01: yes, off: null}}, brand: {value: 007}}}}"
    )
    mapped(tmp_path, yaml, a="no,on\n010,01\n011,off\n")
    assert [r[:2] for r in products(tmp_path)] == [("010", "yes"), ("011", None)]


def test_map_without_default_keeps_other_values_and_may_give_null(tmp_path: Path) -> None:
    yaml = (
        "tables: {products: {file: a.csv, columns: {product_id: id, name: {column: n, map: {x: null, y: why}}, business_id: {value: own}}}}"
    )
    mapped(tmp_path, yaml, a="id,n\n1,x\n2,y\n3,z\n")
    assert [r[1] for r in products(tmp_path)] == [None, "why", "z"]
    assert list(Warehouse(tmp_path / "wh").info()["businesses"]) == ["own"]


@pytest.mark.parametrize(
    ("yaml", "match"),
    [
        ("tables: {product: {file: a, columns: {product_id: id}}}", "table 'product' is not known. Did you mean products"),
        (
            "tables: {products: {file: a, columns: {product_id: id, prise: p}}}",
            "column of products 'prise' is not known. Did you mean price",
        ),
        ("tables: {products: {file: a, columns: {name: n}}}", "products needs product_id as well"),
        ("tables: {products: {file: a, colums: {}, columns: {product_id: id}}}", "did you mean columns"),
        ("tables: {products: {file: a, columns: {product_id: {column: id, expr: '1+1'}}}}", "expr: Extra inputs"),
        ("tables: {products: {file: a, columns: {product_id: {column: id, value: 1}}}}", "give one of column, columns or value"),
        ("tables: {products: {file: a, columns: {product_id: {scale: 2}}}}", "not none"),
        ("tables: {products: {file: a, columns: {product_id: {column: id, default: x}}}}", "default needs a map"),
        ("tables: {products: {file: a, columns: {product_id: {column: id, timezone: Mars/Base}}}}", "no time zone 'Mars/Base'"),
        ("tables: {products: {file: a, columns: {product_id: {column: id, timezone: ../x}}}}", "no time zone"),
        ("[1, 2", "is not YAML"),
        ("just text", "is not valid"),
        ("", "is not valid"),
    ],
)
def test_a_mapping_that_is_wrong_is_refused_with_a_hint(tmp_path: Path, yaml: str, match: str) -> None:
    (tmp_path / "m.yaml").write_text(yaml, encoding="utf-8")
    with pytest.raises(ContractError, match=re.escape(match)):
        read_mapping(tmp_path / "m.yaml")


def test_a_mapping_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot read mapping"):
        import_into(Warehouse(tmp_path / "wh"), tmp_path / "none.yaml", tmp_path, "b")


@pytest.mark.parametrize("pattern", ["../*.csv", "/etc/*.csv"])
def test_files_outside_the_folder_are_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ContractError, match="leaves the folder"):
        mapped(tmp_path, SIMPLE.replace("*.csv", pattern), a="id\n")


def test_missing_files_columns_and_unreadable_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no file \*\.csv"):
        mapped(tmp_path, SIMPLE)
    with pytest.raises(ContractError, match=r"source column 'cents' is not known\. Did you mean cent"):
        mapped(tmp_path, SIMPLE, a="id,title,cent\n1,x,1\n")
    with pytest.raises(ArtifactError, match="cannot read"):
        mapped(tmp_path, SIMPLE, a="")
    with pytest.raises(ArtifactError, match="cannot read"):
        mapped(tmp_path, SIMPLE.replace("file:", "encoding: klingon, file:"), a="id,title,cents\n1,x,1\n")


def test_another_encoding_is_read(tmp_path: Path) -> None:
    mapped(tmp_path, SIMPLE.replace("file:", "encoding: latin-1, file:"), a="id,title,cents\n1,café,1\n".encode("latin-1"))
    assert products(tmp_path)[0][1] == "café"
