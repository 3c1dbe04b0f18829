"""`regulars ask`: answers in the terminal, files, and a file of questions; with a translator that was told what to say."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from contracts.errors import ArtifactError, ConfigError, ContractError, UnknownItem, UpstreamError, UpstreamTimeout
from nlq.types import Translation
from regulars import asking
from regulars.cli import app

KNOWN = {
    "how many customers?": "SELECT count(*) AS customers FROM customers",
    "customers by city": "SELECT location, count(*) AS customers FROM customers GROUP BY 1 ORDER BY 2 DESC, 1",
    "names": "SELECT name FROM customers ORDER BY name",
    "revenue by month": "SELECT date_trunc('month', occurred_at) AS month, sum(amount) AS revenue FROM transactions GROUP BY 1 ORDER BY 1",
    "last purchase": "SELECT occurred_at, CAST(occurred_at AS DATE) AS day, amount FROM transactions ORDER BY occurred_at DESC LIMIT 1",
    "e-mails": "SELECT email FROM customers",
    "nobody": "SELECT name FROM customers WHERE location = 'Atlantis'",
}


class Told:
    """A translator without a model; some questions fail as a model server may."""

    def translate(self, question: str, *, roles: frozenset[str] = frozenset()) -> Translation:
        if question == "late":
            raise UpstreamTimeout("the model took longer than 1 s. Ask again.")
        if question == "away":
            raise UpstreamError("the model server does not answer. Start it.")
        sql = KNOWN.get(question)
        if sql is None:
            return Translation(question, True, "out_of_scope")
        return Translation(question, False, sql=sql, interpretation=question.rstrip("?"), confidence=0.93)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plain folder of CSV files: two businesses, one much smaller."""
    root = tmp_path / "data"
    root.mkdir()
    people = [(f"c{i}", "big", f"Ann {i}", ("Austin, TX", "Boston, MA", "Miami, FL")[i % 3]) for i in range(50)]
    people += [("c1", "small", "=Foreign()", "Paris"), ("c2", "small", "Zoë", "Paris")]
    _write(root / "customers.csv", "customer_id business_id name location", people)
    bought = [(f"t{i}", "big", f"c{i % 50}", f"2026-{i % 12 + 1:02d}-03 10:00:00", f"{i}.50") for i in range(60)]
    bought.append(("t99", "small", "c1", "2026-05-03 10:00:00", "7.25"))
    _write(root / "transactions.csv", "transaction_id business_id customer_id occurred_at amount", bought)
    return root


def _write(path: Path, names: str, rows: list[tuple[str, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names.split(), *rows])


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_translator", lambda home, engine: Told())


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["ask", *map(str, arguments)])


def said(*arguments: object) -> Any:
    done = run(*arguments)
    assert done.exit_code == 0, done.output or done.exception
    return done


# ---- one question ----


def test_a_number_is_a_sentence(folder: Path) -> None:
    out = said("how many customers?", "--warehouse", folder).stdout
    assert "How many customers: 50." in out
    assert "big, confidence 93%" in out
    assert "Related:" in out
    assert "SELECT" not in out


def test_a_table_has_a_bar_beside_what_counts(folder: Path) -> None:
    out = said("customers by city", "--warehouse", folder, "--sql").stdout
    assert "Austin, TX 17" in out
    lines = [line for line in out.splitlines() if "█" in line]
    assert len(lines) == 3
    assert lines[0].count("█") > lines[2].count("█") > 10
    assert "GROUP BY" in out


def test_a_series_in_time_has_a_line_of_blocks(folder: Path) -> None:
    out = said("revenue by month", "--warehouse", folder, "--currency", "EUR").stdout
    assert "Jan 2026" in out
    assert "€" in out
    assert any(set(line) <= set("▁▂▃▄▅▆▇█") and len(line) == 12 for line in out.splitlines())


def test_long_lists_are_cut_in_the_terminal_only(folder: Path, tmp_path: Path) -> None:
    out = said("names", "--warehouse", folder, "--csv", tmp_path / "names.csv").stdout
    assert "... and 10 more rows" in out
    rows = list(csv.reader((tmp_path / "names.csv").read_text(encoding="utf-8-sig").splitlines()))
    assert len(rows) == 51
    assert rows[0] == ["name"]


def test_the_business_with_the_most_customers_answers_unless_another_is_named(folder: Path) -> None:
    assert ": 2." in said("how many customers?", "--warehouse", folder, "--business", "small").stdout
    refused = run("how many customers?", "--warehouse", folder, "--business", "none")
    assert isinstance(refused.exception, UnknownItem)
    assert "big, small" in str(refused.exception)


def test_cells_that_look_like_formulas_are_made_harmless(folder: Path, tmp_path: Path) -> None:
    said("names", "--warehouse", folder, "--business", "small", "--csv", tmp_path / "names.csv")
    assert "'=Foreign()" in (tmp_path / "names.csv").read_text(encoding="utf-8-sig")


def test_a_refusal_says_what_may_be_asked(folder: Path, tmp_path: Path) -> None:
    done = said("tell me a joke", "--warehouse", folder, "--csv", tmp_path / "x.csv", "--chart", tmp_path / "x.png")
    assert "not a question about the loyalty programme" in done.stdout
    assert "You may ask:" in done.stdout
    assert not (tmp_path / "x.csv").exists()
    assert "is not written" in done.stderr
    assert "No rows match" in said("nobody", "--warehouse", folder).stdout


def test_json_holds_everything(folder: Path) -> None:
    found = json.loads(said("customers by city", "--warehouse", folder, "--json").stdout)
    assert found["rows"] == [["Austin, TX", 17], ["Boston, MA", 17], ["Miami, FL", 16]]
    assert found["columns"] == [{"name": "location", "kind": "category"}, {"name": "customers", "kind": "number"}]
    assert found["chart"]["mark"]["type"] == "bar"
    assert (found["refused"], found["truncated"], found["confidence"], found["source"]) == (False, False, 0.93, "model")
    assert found["answer"].startswith("Customers by city: ")
    assert "'big'" in found["executed_sql"]
    assert "'big'" not in found["sql"]


def test_charts_are_written(folder: Path, tmp_path: Path) -> None:
    said("customers by city", "--warehouse", folder, "--chart", tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    said("customers by city", "--warehouse", folder, "--chart", tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))["$schema"].endswith("v5.json")
    assert "No chart suits" in said("how many customers?", "--warehouse", folder, "--chart", tmp_path / "d.png").stderr


def test_wrong_use_is_told(folder: Path, tmp_path: Path) -> None:
    for arguments in ((), ("x", "--batch", tmp_path / "f")):
        assert isinstance(run(*arguments).exception, ContractError)
    assert "must end in" in str(run("x", "--chart", "a.gif").exception)
    assert "cannot write" in str(run("names", "--warehouse", folder, "--csv", tmp_path / "no" / "f.csv").exception)
    assert isinstance(run("x", "--warehouse", tmp_path / "nothing").exception, ArtifactError)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "customers.csv").write_text("customer_id,business_id\n", encoding="utf-8")
    assert isinstance(run("x", "--warehouse", tmp_path / "empty").exception, ArtifactError)
    assert isinstance(run("--batch", tmp_path / "nothing.jsonl", "--warehouse", folder).exception, ConfigError)


# ---- a file of questions ----


def batch(folder: Path, tmp_path: Path, *lines: str) -> list[dict[str, Any]]:
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [json.loads(line) for line in said("--warehouse", folder, "--batch", file, "--json").stdout.splitlines()]


def test_a_file_of_questions_is_answered_in_order(folder: Path, tmp_path: Path) -> None:
    questions = ["customers by city", "tell me a joke", "how many customers?", "e-mails"]
    found = batch(folder, tmp_path, *(json.dumps({"q": q, "sql": "ignored"}) for q in questions))
    assert [f["q"] for f in found] == questions
    assert [f["refused"] for f in found] == [False, True, False, True]
    assert [f["reason"] for f in found] == [None, "out_of_scope", None, "private"]
    assert all(list(f) == ["q", "refused", "reason", "sql", "columns", "rows", "confidence", "ms"] for f in found)
    assert found[0]["columns"] == ["location", "customers"]
    assert found[2]["rows"] == [[50]]
    assert (found[1]["sql"], found[1]["columns"], found[1]["rows"]) == (None, [], [])
    assert found[0]["sql"].startswith("SELECT")
    assert all(f["ms"] > 0 for f in found)


def test_values_of_a_batch_are_json(folder: Path, tmp_path: Path) -> None:
    row = batch(folder, tmp_path, '{"q": "last purchase"}')[0]["rows"][0]
    assert row == ["2026-12-03T10:00:00Z", "2026-12-03", pytest.approx(row[2])]
    assert isinstance(row[2], float)


def test_a_bad_line_is_refused_and_the_rest_answered(folder: Path, tmp_path: Path) -> None:
    bad = ["not json", "[1]", '{"question": "x"}', '{"q": 5}', "[" * 5_000, '"q"', "\ufeff{}", "null"]
    found = batch(folder, tmp_path, *bad, "", '{"q": "how many customers?"}', '{"q": ""}')
    assert [f["reason"] for f in found] == ["bad_line"] * len(bad) + [None, "empty"]
    assert all(f["refused"] and f["q"] is None for f in found[: len(bad)])
    assert found[-2]["rows"] == [[50]]


def test_what_fails_for_one_question_does_not_end_the_batch(folder: Path, tmp_path: Path) -> None:
    found = batch(folder, tmp_path, '{"q": "late"}', '{"q": "away"}', '{"q": "how many customers?"}')
    assert [f["reason"] for f in found] == ["timeout", "unavailable", None]


def test_bytes_that_are_no_text_are_a_bad_line(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_bytes(b'\xff\xfe{"q"\n{"q": "how many customers?"}\n')
    found = [json.loads(line) for line in said("--warehouse", folder, "--batch", file).stdout.splitlines()]
    assert [f["refused"] for f in found] == [True, False]


# ---- blocks ----


def test_bars_and_blocks_are_to_scale() -> None:
    assert asking.bar(1.0, 10) == "█" * 10
    assert asking.bar(0.5, 10) == "█" * 5
    assert asking.bar(0.0) == ""
    assert asking.bar(1e-6) == "▏"
    assert asking.sparkline([0, 1, 2, 4, 8]) == "▁▂▃▅█"
    assert len(asking.sparkline([float(i) for i in range(1000)], 72)) == 72
    assert asking.sparkline([0.0, 0.0]) == "▁▁"
    assert asking.pretty("not (sql") == "not (sql"


def test_without_a_model_the_command_says_how_to_get_one(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the translator of the product, whose model was taken away
    monkeypatch.setattr("nlq.translate.ARTIFACT", tmp_path / "nothing")
    refused = run("how many customers?", "--warehouse", folder)
    assert isinstance(refused.exception, ArtifactError)
    assert "regulars train text-to-sql" in str(refused.exception)
