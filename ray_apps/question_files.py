"""Answers as files: CSV for spreadsheets, PDF to hand on; and cells as JSON has them.

A cell of a CSV file that a spreadsheet would take for a formula gets an apostrophe in front (OWASP, "CSV Injection"); numbers stay numbers.
The PDF uses DejaVu Sans where the machine has it. The fonts inside every PDF reader hold Western European letters only: without DejaVu,
what they lack is written as its plain letter, else as a question mark, and the file says so.
"""

from __future__ import annotations

import csv
import io
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nlq.types import Rows

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_LARGEST = 2**63 - 1
PDF_COLUMNS, PDF_CELL = 12, 300
_FONT_FOLDERS = ("/usr/share/fonts/truetype/dejavu", "/usr/share/fonts/dejavu-sans-fonts", "/usr/share/fonts/TTF")
_DARK, _GREY, _BAND = (34, 34, 34), (110, 110, 110), (242, 244, 247)


def json_value(value: Any) -> Any:
    """A cell as JSON has it: Decimal becomes a number, times ISO 8601 UTC; what JSON lacks (NaN, very large integers) null or text."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, Decimal):
        return json_value(int(value) if value == value.to_integral_value() and value.as_tuple().exponent == 0 else float(value))
    if isinstance(value, int):
        return value if -_LARGEST - 1 <= value <= _LARGEST else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return str(value)
    if isinstance(value, list | tuple | set):
        return [json_value(v) for v in value]
    if isinstance(value, dict):
        return {str(k): json_value(v) for k, v in value.items()}
    return value if isinstance(value, str) else str(value)


def safe_cell(value: Any) -> Any:
    """A cell of a CSV file."""
    plain = json_value(value)
    if isinstance(plain, bool):
        return "true" if plain else "false"
    if isinstance(plain, list | dict):
        plain = str(plain)
    if isinstance(plain, str) and plain.lstrip().startswith(_FORMULA) and not _NUMBER.fullmatch(plain):
        return "'" + plain
    return plain


def to_csv(rows: Rows) -> bytes:
    """Rows as CSV (RFC 4180) in UTF-8 with a byte order mark, without which spreadsheets take it for another code page."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([safe_cell(name) for name in rows.columns])
    writer.writerows([safe_cell(value) for value in row] for row in rows.data)
    return "\ufeff".encode() + out.getvalue().encode()


@dataclass(frozen=True)
class Report:
    """What a PDF shows.

    Attributes:
        kinds: of the columns, as in `nlq.types.OutputColumn`.
        facts: lines below the title, as (name, text).
        chart: PNG, or None.
        most_rows: of the table; more are told and left out.
    """

    question: str
    sentence: str
    rows: Rows
    kinds: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    chart: bytes | None = None
    most_rows: int = 500


def to_pdf(report: Report) -> bytes:
    """The answer as a PDF: question, sentence, chart, table, page numbers."""
    return _Pdf(report).made()


@lru_cache(maxsize=1)
def dejavu() -> tuple[Path, Path] | None:
    """DejaVu Sans, plain and bold, of the system or of matplotlib (which is found, not imported); None where there is none."""
    folders = [Path(f) for f in _FONT_FOLDERS]
    found = find_spec("matplotlib")
    if found is not None and found.origin is not None:
        folders.append(Path(found.origin).parent / "mpl-data" / "fonts" / "ttf")
    for folder in folders:
        files = folder / "DejaVuSans.ttf", folder / "DejaVuSans-Bold.ttf"
        if all(f.is_file() for f in files):
            return files
    return None


def western(text: str) -> str:
    """Text in the letters that every PDF reader has (Latin-1)."""
    plain = "".join(_WESTERN.get(c, c) for c in text)
    shown = []
    for letter in plain:
        if ord(letter) > 255:
            bare = "".join(c for c in unicodedata.normalize("NFKD", letter) if ord(c) < 256)
            shown.append(bare or ("" if unicodedata.combining(letter) else "?"))
        else:
            shown.append(letter)
    return "".join(shown)


_WESTERN = {"–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "…": "...", "€": "EUR ", "•": "-", "≥": ">=", "≤": "<=", "−": "-"}


class _Pdf:
    """One document."""

    def __init__(self, report: Report) -> None:
        from fpdf import FPDF

        class Paged(FPDF):
            """With the page number at the foot of each page."""

            def footer(self) -> None:
                self.set_y(-12)
                self.set_font(size=8)
                self.set_text_color(*_GREY)
                self.cell(0, 8, f"Page {self.page_no()} of {{nb}}", align="R")

        self.report, self.replaced, fonts = report, False, dejavu()
        shown = len(report.rows.columns[:PDF_COLUMNS])
        self.pdf = Paged(orientation="landscape" if shown > 6 else "portrait", format="A4")
        self.unicode = fonts is not None
        if fonts is not None:
            self.pdf.add_font("Text", "", fonts[0])
            self.pdf.add_font("Text", "B", fonts[1])
        self.font = "Text" if fonts is not None else "Helvetica"
        self.pdf.set_font(self.font, size=10)
        self.pdf.set_title(self.text(report.question)[:200])
        self.pdf.set_creator("Regulars")
        self.pdf.set_auto_page_break(True, margin=16)
        self.pdf.add_page()

    def text(self, value: str) -> str:
        """What can be shown of a text: no control characters, one line."""
        line = " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in value).split())
        if self.unicode:
            # Beyond the basic plane (emoji), and what the font has no glyph for.
            cmap: Any = getattr(self.pdf.fonts[self.font.lower()], "cmap", ())
            kept = "".join(c if ord(c) in cmap else "?" for c in line if unicodedata.category(c) not in ("Cf", "Mn"))
        else:
            kept = western(line)
        self.replaced |= kept != line
        return kept

    def made(self) -> bytes:
        self._head()
        if self.report.chart is not None:
            self._chart(self.report.chart)
        self._table()
        if self.replaced:
            self._line("Letters that the font of this document lacks were replaced; the CSV export holds them.", 8, _GREY)
        return bytes(self.pdf.output())

    def _line(self, text: str, size: float, colour: tuple[int, int, int] = _DARK, style: str = "") -> None:
        self.pdf.set_font(self.font, style, size)
        self.pdf.set_text_color(*colour)
        self.pdf.multi_cell(0, size * 0.5, text, new_x="LMARGIN", new_y="NEXT")

    def _head(self) -> None:
        report = self.report
        self._line(self.text(report.question), 16, style="B")
        self.pdf.ln(2)
        self._line(self.text(report.sentence), 11)
        self.pdf.ln(2)
        for name, value in report.facts:
            self._line(self.text(f"{name}: {value}"), 8, _GREY)
        self.pdf.ln(3)

    def _chart(self, chart: bytes) -> None:
        width = min(self.pdf.epw, 160.0)
        self.pdf.image(io.BytesIO(chart), w=width, h=95, keep_aspect_ratio=True)
        self.pdf.ln(4)

    def _table(self) -> None:
        from fpdf.fonts import FontFace

        report = self.report
        rows, columns = report.rows.data[: report.most_rows], report.rows.columns[:PDF_COLUMNS]
        if not report.rows.data:
            self._line("There are no rows.", 10, _GREY)
            return
        right = [all(isinstance(r[i], int | float | Decimal | None) for r in rows) for i in range(len(columns))]
        self.pdf.set_font(self.font, size=8)
        self.pdf.set_text_color(*_DARK)
        align = tuple("RIGHT" if r else "LEFT" for r in right)
        heading = FontFace(emphasis="BOLD", fill_color=_BAND)
        with self.pdf.table(headings_style=heading, text_align=align, borders_layout="HORIZONTAL_LINES", line_height=5) as table:
            for values in (columns, *rows):
                line = table.row()
                for i, value in enumerate(values[: len(columns)]):
                    kind = report.kinds[i] if i < len(report.kinds) else ""
                    text = str(value).replace("_", " ") if values is columns else cell_text(value, kind)
                    line.cell(self.text(text)[:PDF_CELL])
        for left_out, of, what in ((len(rows), len(report.rows.data), "rows"), (len(columns), len(report.rows.columns), "columns")):
            if left_out < of:
                self._line(f"The first {left_out:,} of {of:,} {what}; the CSV export holds all of them.", 8, _GREY)
        if report.rows.truncated:
            self._line("There are more rows than the limit of an export.", 8, _GREY)


def cell_text(value: Any, kind: str) -> str:
    """A cell for people."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float | Decimal):
        number = float(value)
        if not math.isfinite(number):
            return ""
        if kind == "money":
            return f"{value:,.2f}"
        if kind in ("fraction", "percent"):
            return f"{number * (100 if kind == 'fraction' else 1):.1f} %"
        return f"{value:,}" if isinstance(value, int) else f"{number:,.3f}".rstrip("0").rstrip(".")
    if isinstance(value, datetime):
        moment = (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
        return f"{moment:%Y-%m-%d}" if moment.time() == time(0) else f"{moment:%Y-%m-%d %H:%M}"
    return str(json_value(value))
