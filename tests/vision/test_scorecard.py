"""`regulars evaluate receipts`: sets, what is kept, rows, ratio, table."""

from __future__ import annotations

import io
import json
import shutil
import stat
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from contracts.errors import ArtifactError, ConfigError
from tests.vision.receipt_set import KEYS, write_set
from vision import scorecard
from vision.engines import ocr_folder as folder_of
from vision.evaluate import Truth
from vision.scorecard import ENGINES, OURS, REGEX, Kept, Read, Result, Source, read_all, read_receipt_set, source_of, summary, table
from vision.types import Receipt, TextLine

DAY = date(2024, 1, 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "receipts")


@pytest.fixture(scope="module")
def home(tmp_path_factory, ocr_folder):
    """A home whose networks are there already."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(ocr_folder, folder_of(home))
    return home


@pytest.fixture
def _no_tesseract(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))


def quiet():
    return Console(file=io.StringIO())


# --- sets ---


def test_a_set_has_its_receipts_in_order_with_boxes(data):
    whole = read_receipt_set(data)
    assert [p.receipt_id for p in whole.pages] == ["a", "b"]
    assert whole.pages[0].truth == Truth("Green Leaf Bakery Ltd", "23/08/2021", "6.84")
    assert whole.pages[0].boxes.shape == (len(whole.pages[0].texts), 4) == (6, 4)
    assert [p.receipt_id for p in read_receipt_set(data, 1).pages] == ["a"]


def test_annotations_that_cannot_be_compared_are_counted_and_left_out(tmp_path):
    whole = read_receipt_set(
        write_set(tmp_path / "set", False, a={"date": "yesterday", "total": "a lot"}, b={"company": " ", "date": None})
    )
    assert whole.pages[0].truth == Truth("Green Leaf Bakery Ltd", None, None)
    assert whole.pages[1].truth == Truth(None, None, "GBP 7.75")
    assert whole.unusable == {"company": 0, "date": 1, "total": 1}
    assert whole.pages[0].boxes is None


def test_what_is_no_set_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"keys\.parquet"):
        read_receipt_set(tmp_path)
    pq.write_table(pa.table({"receipt_id": ["a"]}), tmp_path / "keys.parquet")
    with pytest.raises(ArtifactError, match="company"):
        read_receipt_set(tmp_path)
    columns = {"company": ["x"], "date": ["2020-01-01"], "total": ["1.00"]}
    pq.write_table(pa.table({"receipt_id": ["a"], **columns}), tmp_path / "keys.parquet")
    with pytest.raises(ArtifactError, match="lacks a picture of receipt a"):
        read_receipt_set(tmp_path)
    pq.write_table(pa.table({"receipt_id": ["a"], **columns}).slice(0, 0), tmp_path / "keys.parquet")
    with pytest.raises(ArtifactError, match="no rows"):
        read_receipt_set(tmp_path)


# --- what is kept ---

LINE = TextLine(((0, 0), (9.5, 0), (9.5, 4), (0, 4)), "AB", 0.9, (0.8, 1.0), ((("A", 0.8), ("4", 0.1)), (("B", 1.0),)))


def test_what_was_read_is_kept_whole_and_by_version(tmp_path):
    kept = Kept(tmp_path, Source("x", "1", None))
    assert kept.get("00") is None
    kept.put("00", Read((LINE,), 1.5))
    assert kept.get("00") == Read((LINE,), 1.5)
    assert Kept(tmp_path, Source("x", "2", None)).get("00") is None
    assert Kept(tmp_path, Source("x", "1", None), fresh=True).get("00") is None
    (tmp_path / "x-1" / "00.json").write_text('{"seconds": 1, "lines": [[1]]}')
    assert kept.get("00") is None
    assert [p.name for p in (tmp_path / "x-1").iterdir()] == ["00.json"]


class Counting:
    """Reads nothing and counts; stops the run at a picture if told."""

    name = "counting"

    def __init__(self, stop_at=None):
        self.count, self.stop_at = 0, stop_at

    def read(self, pixels):
        self.count += 1
        if self.count == self.stop_at:
            raise KeyboardInterrupt
        return [LINE]


def test_a_stopped_run_goes_on_where_it_was_and_a_second_one_reads_nothing(data, tmp_path):
    pages = read_receipt_set(data).pages
    stopped, again, third = Counting(3), Counting(), Counting()  # the first picture is read twice: once to warm up
    with pytest.raises(KeyboardInterrupt):
        read_all(pages, [Source("x", "1", lambda: stopped)], tmp_path, False, quiet())
    found = read_all(pages, [Source("x", "1", lambda: again)], tmp_path, False, quiet())
    assert set(found["x"]) == {"a", "b"}
    assert again.count == 2  # of one picture, with the warming up
    read_all(pages, [Source("x", "1", lambda: third)], tmp_path, False, quiet())
    assert third.count == 0
    read_all(pages, [Source("x", "1", lambda: third)], tmp_path, True, quiet())
    assert third.count == 3


def test_a_picture_that_is_damaged_fails_alone_and_is_not_kept(tmp_path):
    folder = write_set(tmp_path / "set", False)
    (folder / "images" / "a.jpg").write_bytes(b"no picture")
    engine = Counting()
    found = read_all(read_receipt_set(folder).pages, [Source("x", "1", lambda: engine)], tmp_path, False, quiet())["x"]
    assert found["a"].error
    assert found["b"].lines == (LINE,)
    assert len(list((tmp_path / "evaluate" / "ocr" / "x-1").iterdir())) == 1


# --- scores ---


def receipt(total, sure, company=None):
    return Receipt(company, date(2021, 8, 23), Decimal(total), confidences={"total": sure, "date": 0.95, "merchant": 0.95})


def test_rows_count_what_is_right_and_what_is_sure_and_wrong(data):
    whole = read_receipt_set(data)
    ours = Result({"a": receipt("6.84", 0.99, KEYS["a"]["company"]), "b": receipt("7.00", 0.95)}, [0.5, 1.5])
    regex = Result({"a": receipt("6.84", 0.0)}, failed=1)
    found = summary("set", whole, {OURS: ours, REGEX: regex, "rapidocr_parser": Result(note="not installed")}, DAY)
    mine, theirs, missing = found["rows"]
    assert (mine["company"], mine["date"], mine["total"]) == (0.5, 0.5, 0.5)
    assert mine["total_low"] < 0.5 < mine["total_high"]
    assert (mine["wrong_sure_totals"], mine["sure_totals"], mine["wrong_sure_totals_n"], mine["sure_totals_n"]) == (0.5, 1.0, 1, 2)
    assert mine["misread"] == {"company": ["b"], "date": ["b"], "total": ["b"]}
    assert (mine["median_s"], mine["detection_f1"], mine["failed"]) == (1.0, None, 0)
    assert (theirs["total"], theirs["sure_totals"], theirs["failed"]) == (0.5, None, 1)
    assert missing == {"model": "rapidocr_parser", "note": "not installed"}
    assert found["ratio_to_tesseract_regex"]["value"] == pytest.approx(0.5 / (1 / 3), abs=1e-3)
    text = io.StringIO()
    Console(file=text, width=100).print(table(found))
    assert "not installed" in text.getvalue()
    assert "x1.50" in text.getvalue()
    assert "could not be read" in text.getvalue()


def test_the_ratio_is_that_of_the_means_of_the_three_fields():
    truths = {str(i): Truth("X", "2021-08-23" if i < 2 else None, "1.00") for i in range(4)}
    ours = Result({k: receipt("1.00", 1.0, "X") for k in truths})
    theirs = Result({k: receipt("1.00" if k != "3" else "2.00", 1.0, "Y") for k in truths})
    found = scorecard._ratio({OURS: ours, REGEX: theirs}, truths)
    assert found["value"] == pytest.approx(1.0 / ((0 + 1 + 0.75) / 3), abs=1e-3)
    assert found["low"] <= found["value"] <= found["high"]
    nothing = scorecard._ratio({OURS: ours, REGEX: Result()}, truths)
    assert nothing["value"] is None
    assert scorecard._ratio({OURS: ours}, truths) is None


@pytest.mark.usefixtures("_no_tesseract")
def test_ours_reads_drawn_receipts_and_what_is_not_installed_says_so(data, home):
    found = scorecard.evaluate(data, home, DAY, (OURS, "tesseract", "annotated"), console=quiet(), data="drawn")
    rows = {r["model"]: r for r in found["rows"]}
    assert list(rows) == ["regulars", "tesseract_parser", "tesseract_regex", "annotated_parser"]
    assert (rows[OURS]["company"], rows[OURS]["date"], rows[OURS]["total"]) == (1, 1, 1)
    assert rows[OURS]["detection_f1"] > 0.6
    assert rows[OURS]["character_accuracy"] > 0.95
    assert rows["annotated_parser"]["total"] == 1
    assert rows["annotated_parser"]["median_s"] is None
    assert "apt-get install tesseract-ocr" in rows["tesseract_regex"]["note"]
    assert found["ratio_to_tesseract_regex"] is None
    assert found["versions"]["tesseract"] is None
    json.dumps(found)


def test_without_annotated_lines_reading_is_not_scored(tmp_path, home):
    found = scorecard.evaluate(write_set(tmp_path / "set", False), home, DAY, (OURS, "annotated"), 1, console=quiet())
    assert [r["model"] for r in found["rows"]] == [OURS]
    assert found["rows"][0]["detection_f1"] is None
    assert found["rows"][0]["total"] == 1


def test_the_version_follows_settings_and_wrong_settings_are_no_missing_engine(home, monkeypatch):
    before = source_of("rapidocr", home).version
    assert source_of("rapidocr", home).version == before
    monkeypatch.setenv("REGULARS_OCR_MIN_CONFIDENCE", "0.6")
    assert source_of("rapidocr", home).version != before
    monkeypatch.setenv("REGULARS_OCR_MIN_CONFIDENCE", "6")
    with pytest.raises(ConfigError, match="min_confidence"):
        source_of("rapidocr", home)


def test_tesseract_is_the_program_with_its_version(tmp_path, monkeypatch, home):
    script = tmp_path / "tesseract"
    script.write_text('#!/bin/sh\ncase "$1" in --list-langs) echo eng;; --version) echo "tesseract 5.9.1";; esac\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    source = source_of("tesseract", home)
    assert not source.note
    assert source.open().name == "tesseract"
    assert scorecard.versions()["tesseract"] == "5.9.1"


def test_a_page_of_too_many_pieces_counts_as_not_read(data):
    pages = read_receipt_set(data).pages
    found = scorecard._parsed(OURS, pages, {"a": Read((LINE,) * 3001, 1.0), "b": Read((LINE,), 1.0)}, DAY)
    assert found.failed == 1
    assert found.seconds == [pytest.approx(1, abs=0.5)]


@pytest.mark.realdata
def test_some_real_receipts_are_read_better_than_by_regular_expressions(realdata: Path, home):
    if shutil.which("tesseract") is None:
        pytest.skip("no tesseract on this machine: apt-get install tesseract-ocr")
    found = scorecard.evaluate(realdata / "receipts_sroie", home, DAY, (OURS, "tesseract"), 5, console=quiet())
    rows = {r["model"]: r for r in found["rows"]}
    assert set(ENGINES) >= {OURS}
    assert rows[OURS]["total"] >= 0.8
    assert rows[OURS]["detection_f1"] > 0.8
    assert rows[OURS]["character_accuracy"] > 0.9
    assert found["ratio_to_tesseract_regex"]["value"] > 1
    assert np.isfinite(rows[REGEX]["median_s"])
