"""`regulars data import` and `regulars data info`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from contracts.errors import ArtifactError, ContractError
from regulars.cli import app

MAPPING = "tables: {products: {file: p.csv, columns: {product_id: id, price: cost}}, customers: {file: c.csv, columns: {customer_id: id}}}"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.yaml").write_text(MAPPING, encoding="utf-8")
    (tmp_path / "p.csv").write_text("id,cost\n1,2.50\n2,free\n1,2.50\n", encoding="utf-8")
    (tmp_path / "c.csv").write_text("id\n7\n", encoding="utf-8")
    return tmp_path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def test_import_prints_counts_and_reasons(shop: Path) -> None:
    result = call("import", shop / "shop.yaml", "--from", shop, "--business", "b", "--home", shop / "home")
    assert result.exit_code == 0, result.output
    assert "price_not_money 1" in " ".join(result.output.split())


def test_import_and_info_speak_json(shop: Path) -> None:
    result = call("import", shop / "shop.yaml", "--from", shop, "--business", "b", "--home", shop / "home", "--json")
    answer = json.loads(result.stdout)
    assert [(t["table"], t["landed"], t["duplicates"], t["rejected"]) for t in answer["tables"]] == [
        ("products", 1, 1, 1),
        ("customers", 1, 0, 0),
    ]
    info = json.loads(call("info", "--home", shop / "home", "--json").stdout)
    assert info["data_version"] == answer["data_version"]
    assert info["tables"]["products"]["reasons"] == {"price_not_money": 1}
    assert info["businesses"]["b"]["customers"] == 1
    again = json.loads(call("import", shop / "shop.yaml", "--from", shop, "--business", "b", "--home", shop / "home", "--json").stdout)
    assert all(t["repeated"] for t in again["tables"])


def test_info_shows_tables_and_reasons(shop: Path) -> None:
    call("import", shop / "shop.yaml", "--from", shop, "--business", "b", "--home", shop / "home")
    result = call("info", "--home", shop / "home")
    assert result.exit_code == 0
    assert "products" in result.output
    assert "b: 1 customers, 0 rewards" in result.output


def test_info_of_an_empty_home_says_what_to_do(tmp_path: Path) -> None:
    result = call("info", "--home", tmp_path / "none")
    assert result.exit_code == 0
    assert "regulars data generate" in result.output
    assert not (tmp_path / "none").exists()


def test_import_fails_where_nothing_is_good_or_there(shop: Path) -> None:
    (shop / "p.csv").write_text("id,cost\n2,free\n", encoding="utf-8")
    (shop / "c.csv").write_text("id\n  \n", encoding="utf-8")
    result = call("import", shop / "shop.yaml", "--from", shop, "--home", shop / "home")
    assert isinstance(result.exception, ContractError)
    assert "put aside" in str(result.exception)
    assert isinstance(call("import", "movielens_100k", "--from", shop / "none", "--home", shop / "home").exception, ArtifactError)
