"""`regulars evaluate receipts`: ours and its peers on the same scanned receipts, one table, with intervals.

A set is a folder with

    keys.parquet          receipt_id, company, date, total (as a person read them; empty where not annotated)
    images/<id>.jpg
    text_boxes.parquet    receipt_id, x_min, y_min, x_max, y_max, text; may be missing, then reading itself is not scored

Rows: `regulars` (our reading, our parser), `rapidocr_parser` (the plain package, our parser), `tesseract_parser`, `tesseract_regex`
(regular expressions instead of our parser) and `annotated_parser` (our parser on the annotated text: what better reading could give).

What an engine reads is kept in the home by the picture's checksum and all that decides the reading, so that a stopped run goes on where it
was and a second one takes seconds. Its seconds are kept with it: they are those of the run that read the picture, in which the engines
took turns.

Letters: N receipts.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import math
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from contracts.errors import ArtifactError, ConfigError, ContractError, TooLarge, UpstreamError
from contracts.runs import bar
from vision import engines as engines_module
from vision.baselines import Enlarged, read_by_regex
from vision.engines import ocr_folder, open_engine
from vision.evaluate import FIELDS, SURE, FieldScore, Truth, normalize_date, normalize_total, right, score_receipts, wilson
from vision.export_ocr import export
from vision.ocr_settings import OcrSettings
from vision.receipt import read_receipt
from vision.text_scores import TextScores, compare
from vision.types import OcrEngine, Picture, Receipt, TextLine
from vision.upload import open_picture

OURS, RAPID, TESSERACT, ANNOTATED = "regulars", "rapidocr", "tesseract", "annotated"
ENGINES = (OURS, RAPID, TESSERACT, ANNOTATED)
REGEX = "tesseract_regex"
ROWS: Mapping[str, tuple[str, ...]] = {
    OURS: (OURS,), RAPID: ("rapidocr_parser",), TESSERACT: ("tesseract_parser", REGEX), ANNOTATED: ("annotated_parser",),
}  # fmt: skip
"""Rows that each engine's text gives."""
NAMES = dict(zip(FIELDS, ("company", "date", "total"), strict=True))
"""Our fields by the set's names for them."""
RESAMPLES = 1_000
_OUR_SOURCES = ("ocr.py", "ocr_detect.py", "ocr_recognize.py", "preprocess.py", "export_ocr.py", "engines.py")
_LIBRARIES = ("onnxruntime", "opencv-python-headless", "numpy")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


# ---- the set ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    """An annotated receipt.

    Attributes:
        boxes: float64 (N, 4) x_min, y_min, x_max, y_max in pixels of the picture, and `texts` of each; None where they are not annotated.
    """

    receipt_id: str
    file: Path
    truth: Truth
    boxes: np.ndarray | None = None
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReceiptSet:
    """Annotated receipts.

    Attributes:
        unusable: annotations that are neither a date nor an amount, by field; they are not scored.
    """

    pages: tuple[Page, ...]
    unusable: Mapping[str, int]


def read_receipt_set(folder: Path, pictures: int | None = None) -> ReceiptSet:
    """Read a set, in the order of its ids.

    Args:
        pictures: only the first so many; all when None.

    Raises:
        ArtifactError: not such a folder, or a picture is missing.
    """
    keys = _rows_of(folder / "keys.parquet", ("receipt_id", "company", "date", "total"))
    if not keys:
        raise ArtifactError(f"{folder / 'keys.parquet'} has no rows, must have one for each receipt. Give another --data.")
    lines: dict[str, list[dict[str, Any]]] = {}
    annotated = (folder / "text_boxes.parquet").is_file()
    if annotated:
        for line in _rows_of(folder / "text_boxes.parquet", ("receipt_id", "x_min", "y_min", "x_max", "y_max", "text")):
            lines.setdefault(str(line["receipt_id"]), []).append(line)
    unusable = dict.fromkeys(NAMES.values(), 0)
    pages = []
    for key in sorted(keys, key=lambda k: str(k["receipt_id"]))[:pictures]:
        name = str(key["receipt_id"])
        boxes = np.array([[float(b[n]) for n in ("x_min", "y_min", "x_max", "y_max")] for b in lines.get(name, ())]).reshape(-1, 4)
        texts = tuple(str(b["text"]) for b in lines.get(name, ()))
        pages.append(Page(name, _picture_of(folder, name), _truth(key, unusable), boxes if annotated else None, texts))
    return ReceiptSet(tuple(pages), unusable)


def _rows_of(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, columns=list(columns)).to_pylist()
    except (OSError, pa.ArrowException) as exc:
        raise ArtifactError(f"cannot use {path}: {exc}. It must have the columns {', '.join(columns)}. Give another --data.") from exc
    missing = [c for c in columns if rows and c not in rows[0]]
    if missing:
        raise ArtifactError(f"{path} lacks {', '.join(missing)}, must have the columns {', '.join(columns)}. Give another --data.")
    return rows


def _picture_of(folder: Path, name: str) -> Path:
    found = next((p for s in _SUFFIXES if (p := folder / "images" / f"{name}{s}").is_file()), None)
    if found is None:
        raise ArtifactError(f"{folder / 'images'} lacks a picture of receipt {name}. Add it, or take it out of keys.parquet.")
    return found


def _truth(key: Mapping[str, Any], unusable: dict[str, int]) -> Truth:
    """What a person read, without what cannot be compared."""
    found = {n: str(key[n] if key[n] is not None else "").strip() for n in NAMES.values()}
    checks: dict[str, Callable[[str], object]] = {"date": normalize_date, "total": normalize_total}
    for name, check in checks.items():
        try:
            if found[name]:
                check(found[name])
        except ContractError:
            unusable[name] += 1
            found[name] = ""
    return Truth(found["company"] or None, found["date"] or None, found["total"] or None)


# ---- reading ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """An engine that may read.

    Attributes:
        version: of all that decides what it reads; names its part of the cache.
        note: why it cannot read, and how to change that; empty where it can.
    """

    name: str
    version: str
    open: Callable[[], OcrEngine]
    note: str = ""


@dataclass(frozen=True)
class Read:
    """What an engine read from a picture. `error` says why it read nothing."""

    lines: tuple[TextLine, ...] = ()
    seconds: float | None = None
    error: str = ""


def source_of(name: str, home: Path) -> Source:
    """An engine of `ENGINES` that reads pictures. One that is not installed says so in its note.

    Raises:
        ConfigError: a setting of reading is wrong.
    """
    settings = OcrSettings.load(engine="paddle" if name == OURS else name)

    def opened() -> OcrEngine:
        return open_engine(home, settings)

    try:
        if name == OURS:
            record = export(ocr_folder(home), settings.script)
            return Source(name, _version(_OUR_SOURCES, settings, _LIBRARIES, record["sha256"]), opened)
        if name == TESSERACT:
            engine = Enlarged(opened())
            return Source(name, _version(("engines.py",), settings, ("tesseract",), engine.below_px), lambda: engine)
        if importlib.util.find_spec("rapidocr") is None:
            opened()
        return Source(name, _version(("engines.py",), settings, ("rapidocr", *_LIBRARIES)), opened)
    except ConfigError as exc:
        return Source(name, "", opened, str(exc))


def versions() -> dict[str, str | None]:
    """Of what reads; None where it is not installed."""
    found: dict[str, str | None] = {}
    for package in ("rapidocr", *_LIBRARIES):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    program = shutil.which("tesseract")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout if program else ""
    found["tesseract"] = said.split("\n", 1)[0].removeprefix("tesseract ").strip() or None
    return found


def _version(sources: Sequence[str], settings: OcrSettings, packages: Sequence[str], more: object = None) -> str:
    """12 hex digits over code, settings, packages and whatever else decides the reading."""
    folder, known = Path(engines_module.__file__).parent, versions()
    found = hashlib.sha256(orjson.dumps([settings.public(), [known[p] for p in packages], more], option=orjson.OPT_SORT_KEYS))
    for name in sources:
        found.update((folder / name).read_bytes())
    return found.hexdigest()[:12]


class Kept:
    """What one engine read, by picture, in a folder; each file is whole or not there.

    Args:
        folder: of all engines.
        fresh: take nothing that was kept before, but write.
    """

    def __init__(self, folder: Path, source: Source, fresh: bool = False) -> None:
        self.folder, self.fresh = folder / f"{source.name}-{source.version}", fresh

    def get(self, sha256: str) -> Read | None:
        """What was read, or None; a damaged file counts as none."""
        if self.fresh:
            return None
        try:
            raw = orjson.loads((self.folder / f"{sha256}.json").read_bytes())
            return Read(tuple(_line(r) for r in raw["lines"]), float(raw["seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, sha256: str, read: Read) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{sha256}.json"
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(orjson.dumps({"seconds": read.seconds, "lines": [_row(line) for line in read.lines]}))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _row(line: TextLine) -> list[Any]:
    return [line.quad, line.text, line.confidence, line.characters, line.alternatives]


def _line(row: list[Any]) -> TextLine:
    quad, text, confidence, characters, alternatives = row
    a, b, c, d = ((float(x), float(y)) for x, y in quad)
    others = tuple(tuple((str(c), float(p)) for c, p in one) for one in alternatives)
    return TextLine((a, b, c, d), str(text), float(confidence), tuple(map(float, characters)), others)


def read_all(pages: Sequence[Page], sources: Sequence[Source], home: Path, fresh: bool, console: Console) -> dict[str, dict[str, Read]]:
    """Every picture by every engine, from what was kept or anew: engine -> receipt id -> what it read.

    The engines take turns at each picture, in another order from one to the next, so that what else the machine does hits all alike.
    """
    kept = {s.name: Kept(home / "evaluate" / "ocr", s, fresh) for s in sources}
    opened: dict[str, OcrEngine] = {}
    out: dict[str, dict[str, Read]] = {s.name: {} for s in sources}
    with bar(console) as progress:
        task = progress.add_task("reading", total=len(pages) * len(sources))
        for number, page in enumerate(pages):
            data = page.file.read_bytes()
            sha256, picture = hashlib.sha256(data).hexdigest(), None
            for turn in range(len(sources)):
                source = sources[(number + turn) % len(sources)]
                found = kept[source.name].get(sha256)
                if found is None:
                    try:
                        picture = picture or open_picture(data)
                        found = _read(source, opened, picture)
                        kept[source.name].put(sha256, found)
                    except (ContractError, UpstreamError) as exc:
                        found = Read(error=str(exc))
                out[source.name][page.receipt_id] = found
                progress.advance(task)
    return out


def _read(source: Source, opened: dict[str, OcrEngine], picture: Picture) -> Read:
    engine = opened.get(source.name)
    if engine is None:
        engine = opened[source.name] = source.open()
        engine.read(picture.pixels)  # the first reading allocates: its time is no other's
    began = perf_counter()
    lines = engine.read(picture.pixels)
    seconds = perf_counter() - began
    if picture.scale > 1:  # annotations are in pixels of the file
        lines = [TextLine(_scaled(n, picture.scale), n.text, n.confidence, n.characters, n.alternatives) for n in lines]
    return Read(tuple(lines), seconds)


def _scaled(line: TextLine, scale: int) -> Any:
    return tuple((x * scale, y * scale) for x, y in line.quad)


def annotated(pages: Sequence[Page]) -> dict[str, Read]:
    """The annotated text as if an engine had read it."""
    out = {}
    for page in pages:
        boxes = page.boxes if page.boxes is not None else np.zeros((0, 4))
        lines = (TextLine(((a, b), (c, b), (c, d), (a, d)), t, 0.97) for (a, b, c, d), t in zip(boxes.tolist(), page.texts, strict=True))
        out[page.receipt_id] = Read(tuple(lines))
    return out


# ---- scoring ----------------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """One row, before it is put into numbers.

    Attributes:
        receipts: by id, as parsed. seconds: of each picture, reading and parsing.
        text: of the engine's reading; None where lines are not annotated or were not read.
    """

    receipts: dict[str, Receipt] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    text: TextScores | None = None
    failed: int = 0
    note: str = ""


def evaluate(
    folder: Path, home: Path, as_of: date, names: Sequence[str] = ENGINES, pictures: int | None = None, fresh: bool = False,
    console: Console | None = None, data: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Read a set by every engine, parse, score: the object that `--json` prints.

    Args:
        folder: of the set.
        home: where networks and readings are kept.
        as_of: the day on which the receipts are handed in; what is dated later is doubted.
        names: out of `ENGINES`.
        data: what the set is called.

    Raises:
        ArtifactError: the set is not usable.
    """
    whole = read_receipt_set(folder, pictures)
    console = console or Console(stderr=True)
    sources = {name: source_of(name, home) for name in names if name != ANNOTATED}
    read = read_all(whole.pages, [s for s in sources.values() if not s.note], home, fresh, console)
    boxes = whole.pages[0].boxes is not None
    if ANNOTATED in names and boxes:
        read[ANNOTATED] = annotated(whole.pages)
    results: dict[str, Result] = {}
    for name in names:
        for row in ROWS[name]:
            if name in read:
                results[row] = _parsed(row, whole.pages, read[name], as_of)
            elif name in sources:
                results[row] = Result(note=sources[name].note)
    for name in sources:
        if name in read and boxes:
            results[ROWS[name][0]].text = results[ROWS[name][-1]].text = _text(whole.pages, read[name])
    return summary(data or str(folder), whole, results, as_of)


def _parsed(row: str, pages: Sequence[Page], read: Mapping[str, Read], as_of: date) -> Result:
    out = Result()
    for page in pages:
        found = read[page.receipt_id]
        began = perf_counter()
        try:
            receipt = read_by_regex(found.lines) if row == REGEX else read_receipt(found.lines, as_of)
        except TooLarge as exc:
            receipt, found = Receipt(), Read(error=str(exc))
        out.receipts[page.receipt_id] = receipt
        out.failed += bool(found.error)
        if found.seconds is not None:
            out.seconds.append(found.seconds + perf_counter() - began)
    return out


def _text(pages: Sequence[Page], read: Mapping[str, Read]) -> TextScores:
    scores = TextScores()
    for page in pages:
        if page.boxes is not None and len(page.boxes):
            compare(read[page.receipt_id].lines, page.boxes, page.texts, scores)
    return scores


def summary(data: str, whole: ReceiptSet, results: Mapping[str, Result], as_of: date) -> dict[str, Any]:
    """What comes of it; what cannot be measured is None."""
    truths = {page.receipt_id: page.truth for page in whole.pages}
    return {
        "data": data, "pictures": len(whole.pages), "as_of": as_of.isoformat(), "versions": versions(),
        "unusable_annotations": dict(whole.unusable),
        "rows": [{"model": name, **_numbers(name, result, truths)} for name, result in results.items()],
        "ratio_to_tesseract_regex": _ratio(results, truths),
    }  # fmt: skip


def _numbers(name: str, result: Result, truths: Mapping[str, Truth]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if result.note:
        return {"note": result.note}
    scores = score_receipts(result.receipts, truths)
    for ours, theirs in NAMES.items():
        score = scores[ours]
        out |= {theirs: _rounded(score.rate) if score.n else None, f"{theirs}_low": _rounded(score.low)}
        out |= {f"{theirs}_high": _rounded(score.high), f"{theirs}_right": score.right, f"{theirs}_n": score.n}
    out |= _sureness(scores["total"], name != REGEX)
    quality = result.text.quality() if result.text else {}
    out |= {"detection_f1": quality.get("f1"), "character_accuracy": quality.get("character_accuracy")}
    out["median_s"] = _rounded(median(result.seconds)) if result.seconds else None
    out["failed"] = result.failed
    out["misread"] = {
        theirs: [key for key, truth in truths.items() if right(ours, result.receipts.get(key, Receipt()), truth) is False]
        for ours, theirs in NAMES.items()
    }
    return {k: _rounded(v) if isinstance(v, float) else v for k, v in out.items()}


def _sureness(score: FieldScore, tells: bool) -> dict[str, Any]:
    """How many totals were given with confidence of at least SURE, and how many of them are wrong."""
    if not tells:
        return dict.fromkeys(("wrong_sure_totals", "wrong_sure_totals_high", "wrong_sure_totals_n", "sure_totals", "sure_totals_n"))
    share = score.sure_wrong_share if score.sure else None
    return {
        "wrong_sure_totals": share, "wrong_sure_totals_high": wilson(score.sure_wrong, score.sure)[1] if score.sure else None,
        "wrong_sure_totals_n": score.sure_wrong, "sure_totals": score.sure_share, "sure_totals_n": score.sure,
    }  # fmt: skip


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def _ratio(results: Mapping[str, Result], truths: Mapping[str, Truth], seed: int = 0) -> dict[str, float | None] | None:
    """Ours by the peer's mean of company, date and total, with a 95 % interval over resampled receipts; the same ones for both."""
    pair = [results.get(n) for n in (OURS, REGEX)]
    if any(r is None or r.note for r in pair):
        return None
    marks = [np.array([[_mark(f, r.receipts.get(k, Receipt()), t) for f in FIELDS] for k, t in truths.items()]) for r in pair if r]
    picks = np.random.default_rng(seed).integers(0, len(truths), (RESAMPLES, len(truths)))
    ours, theirs = (_mean_of_fields(m) for m in marks)
    draws = np.array([[_mean_of_fields(m[p]) for m in marks] for p in picks])
    ratios = draws[:, 0] / np.maximum(draws[:, 1], 1e-9)
    low, high = np.percentile(ratios, [2.5, 97.5])
    value = ours / theirs if theirs > 0 else math.nan
    return {"value": _rounded(value), "low": _rounded(float(low)), "high": _rounded(float(high))}


def _mark(name: str, receipt: Receipt, truth: Truth) -> float:
    found = right(name, receipt, truth)
    return math.nan if found is None else float(found)


def _mean_of_fields(marks: np.ndarray) -> float:
    """Mean of the shares of each field (N, 3), over receipts where it is annotated."""
    known = ~np.isnan(marks)
    shares = np.nansum(marks, 0) / np.maximum(known.sum(0), 1)
    return float(shares[known.any(0)].mean()) if known.any() else math.nan


# ---- for people -------------------------------------------------------------------------------------------------------------


_SHOWN: tuple[tuple[str, str, str, bool], ...] = (
    ("company", "company\n95 %", ".3f", True), ("date", "date\n95 %", ".3f", True), ("total", "total\n95 %", ".3f", True),
    ("wrong_sure_totals", "wrong\nsure", ".1%", False), ("sure_totals", "sure", ".0%", True),
    ("detection_f1", "box\nF1", ".3f", True),
    ("character_accuracy", "chars", ".3f", True), ("median_s", "s", ".2f", False),
)  # fmt: skip


def table(result: Mapping[str, Any]) -> Table:
    """The result as one table; of each column the best is bold (the annotated text does not compete)."""
    out = Table(title=f"{result['data']}: {result['pictures']} receipts, as of {result['as_of']}", padding=(0, 0), pad_edge=False)
    out.add_column("model", no_wrap=True)
    for _, head, _, _ in _SHOWN:
        out.add_column(head, justify="right", no_wrap=True)
    rows = [r for r in result["rows"] if "note" not in r]
    competing = [r for r in rows if r["model"] not in ROWS[ANNOTATED]]
    for row in rows:
        out.add_row(row["model"], *(_cell(row, competing, *shown) for shown in _SHOWN))
    notes = [f"Exact matches after normalization. sure: totals given with confidence of {SURE} or more; wrong sure: of these."]
    ratio = result["ratio_to_tesseract_regex"]
    if ratio and ratio["value"] is not None:
        notes.append(f"Mean of the three, {OURS} by {REGEX}: x{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})")
    notes += list(dict.fromkeys(r["note"] for r in result["rows"] if "note" in r))
    notes += [f"{n} annotated {name}s cannot be compared and are left out." for name, n in result["unusable_annotations"].items() if n]
    notes += [f"{r['model']}: {r['failed']} pictures could not be read; they count as wrong." for r in rows if r["failed"]]
    out.caption = Text("\n".join(notes))
    return out


def _cell(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], name: str, head: str, shape: str, more: bool) -> Text:
    """A number, below it its interval; bold where it is the best."""
    value = row.get(name)
    if value is None:
        return Text("")
    values = [r[name] for r in rows if r.get(name) is not None]
    best = (max if more else min)(values) if values else None
    text = Text(format(value, shape), style="bold" if value == best and row in rows else "")
    if f"{name}_low" in row:
        text.append(f"\n{row[f'{name}_low']:.2f}–{row[f'{name}_high']:.2f}".replace("0.", "."), style="not bold")
    return text
