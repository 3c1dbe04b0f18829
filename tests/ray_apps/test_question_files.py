"""Answers as files: cells, CSV, PDF."""

from __future__ import annotations

import csv
import io
import re
import zlib
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlq.types import Rows
from ray_apps import question_files
from ray_apps.question_files import PDF_COLUMNS, Report, cell_text, dejavu, json_value, safe_cell, to_csv, to_pdf, western


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None), (True, True), (5, 5), (2**70, str(2**70)), (1.5, 1.5), (float("nan"), None), (float("inf"), None),
        (Decimal("12.50"), 12.5), (Decimal("7"), 7), (Decimal(2) ** 80, str(2**80)),
        (datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "2026-01-02T03:04:00Z"), (datetime(2026, 1, 2), "2026-01-02T00:00:00Z"),
        (datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=2))), "2026-01-01T22:00:00Z"),
        (date(2026, 1, 2), "2026-01-02"), (time(3, 4), "03:04:00"), (timedelta(hours=1), "1:00:00"),
        ([1, (float("nan"), date(2026, 1, 2))], [1, [None, "2026-01-02"]]), ({1: Decimal("1.5")}, {"1": 1.5}), (b"x", "b'x'"),
    ],
)  # fmt: skip
def test_a_cell_is_what_json_has(value: Any, expected: Any) -> None:
    assert json_value(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("=1+1", "'=1+1"), ("+1+cmd", "'+1+cmd"), ("-x", "'-x"), ("@SUM(A1)", "'@SUM(A1)"), ("\t=1", "'\t=1"), (" =1", "' =1"),
        ("＝1", "'＝1"), ("\n@a", "'\n@a"), ("-5", "-5"), ("+5.2e-3", "+5.2e-3"), ("-5 apples", "'-5 apples"), (-5, -5),
        (Decimal("-5.5"), -5.5), ("plain", "plain"), ("a=b", "a=b"), (None, None), (True, "true"), (False, "false"), (["="], "['=']"),
    ],
)  # fmt: skip
def test_no_cell_is_a_formula(value: Any, expected: Any) -> None:
    assert safe_cell(value) == expected


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\r\n")), st.integers()), max_size=20))
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_again_and_never_a_formula(data: list[tuple[str, int]]) -> None:
    written = to_csv(Rows(("=name", "n"), tuple(data)))
    header, *read = csv.reader(io.StringIO(written.decode("utf-8-sig"), newline=""))
    assert header == ["'=name", "n"]
    assert [r[0].removeprefix("'") if r[0] != d[0] else r[0] for r, d in zip(read, data, strict=True)] == [d[0] for d in data]
    for row in read:
        assert not row[0].lstrip().startswith(("=", "@")) or row[0].startswith("'")


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (1234567, "number", "1,234,567"), (0.1234, "fraction", "12.3 %"), (12.3, "percent", "12.3 %"),
        (Decimal("1234.5"), "money", "1,234.50"), (2.5, "number", "2.5"), (3.0, "number", "3"), (None, "", ""),
        (True, "flag", "yes"), (False, "flag", "no"),
        (float("nan"), "number", ""), (datetime(2026, 1, 2, tzinfo=UTC), "time", "2026-01-02"),
        (datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "time", "2026-01-02 03:04"),
        ("x", "text", "x"),
    ],
)  # fmt: skip
def test_cells_of_a_pdf_are_for_people(value: Any, kind: str, expected: str) -> None:
    assert cell_text(value, kind) == expected


def test_letters_beyond_western_europe_become_plain_ones() -> None:
    assert western("Zoë – “Łódź” 5 €, č ≥ 東") == 'Zoë - "?ódz" 5 EUR , c >= ?'
    assert western("plain") == "plain"


def shown_in(pdf: bytes) -> str:
    """The text of a PDF that was made without a font file: its content streams are plain Latin-1."""
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
    texts = []
    for stream in streams:
        try:
            found = zlib.decompress(stream)
        except zlib.error:
            continue
        texts += [t.decode("latin-1") for t in re.findall(rb"\(((?:[^()\\]|\\.)*)\)", found)]
    return re.sub(r"\s+", " ", re.sub(r"\\(.)", r"\1", " ".join(texts)))


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(question_files, "dejavu", lambda: None)


@pytest.mark.usefixtures("no_fonts")
def test_a_pdf_holds_question_sentence_facts_table_and_page_numbers() -> None:
    rows = Rows(("city", "spend"), tuple((f"Town {i}", Decimal(i) * 100) for i in range(120)), truncated=True)
    report = Report("Spend by city?", "Town 119 leads.", rows, ("category", "money"), (("Read as", "spend by city"),), None, 90)
    made = to_pdf(report)
    text = shown_in(made)
    pages = int(re.search(rb"/Count (\d+)", made)[1])  # type: ignore[index]
    assert pages > 1
    for said in ("Spend by city?", "Town 119 leads.", "Read as: spend by city", "Town 89", "8,900.00", f"Page 1 of {pages}",
                 f"Page {pages} of {pages}", "The first 90 of 120 rows", "more rows than the limit"):  # fmt: skip
        assert said in text, said
    assert "Town 90" not in text
    assert "replaced" not in text


@pytest.mark.usefixtures("no_fonts")
def test_a_pdf_says_what_it_leaves_out_or_replaces() -> None:
    wide = Rows(tuple(f"c{i}" for i in range(PDF_COLUMNS + 3)), (tuple(range(PDF_COLUMNS + 3)),))
    text = shown_in(to_pdf(Report("東京?", "Line\nbreak\x00 and\u200b more", wide)))
    assert "??" in text
    assert "Line break and" in text
    assert f"The first {PDF_COLUMNS} of {PDF_COLUMNS + 3} columns" in text
    assert "were replaced" in text
    assert "There are no rows." in shown_in(to_pdf(Report("Who?", "Nobody.", Rows(("a",), ()))))


@pytest.mark.skipif(dejavu() is None, reason="DejaVu Sans is not on this machine")
def test_a_font_of_the_machine_is_embedded() -> None:
    made = to_pdf(Report("Zoë Łódź → ≥", "Ωμέγα.", Rows(("näme",), (("č",), ("😀",), (None,)))))
    assert b"DejaVuSans" in made
    assert b"FontFile2" in made


def test_a_chart_is_put_in() -> None:
    png = (b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", b"\x00\x00\x00\x02\x00\x00\x00\x02\x08\x02\x00\x00\x00")
           + _chunk(b"IDAT", zlib.compress(b"\x00" + b"\xff" * 6 + b"\x00" + b"\x00" * 6)) + _chunk(b"IEND", b""))  # fmt: skip
    assert b"/Image" in to_pdf(Report("Q", "S", Rows(("a",), ((1,),)), chart=png))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
