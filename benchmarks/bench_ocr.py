"""Reading text from receipts: ours against the plain `rapidocr` package, on the same pictures, alternating.

    python benchmarks/bench_ocr.py --data DATA/receipts_sroie --pictures 50
    python benchmarks/bench_ocr.py --data DATA/receipts_sroie --engines paddle,rapidocr,tesseract --lines out/

Time: one picture after the other, each engine's turn in another order from picture to picture; p50 and p95 of each, and the median of the
ratios of each picture's times. Ours also by stage. `cpu_p50_s` counts the time of all cores, waiting threads that spin included.

Quality, against the annotated lines: F1 of boxes (IoU of the upright bounding boxes at least 0.5, matched one to one), the share of
annotated characters that were found, and character accuracy, 1 - edit distance / annotated characters, blanks and case ignored. An engine
may cut a line in two or join two: annotated and found boxes that overlap are compared together, in reading order. What was found where
nothing is annotated counts as `extra`, per annotated character; most of it is text that nobody annotated.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pyarrow import parquet

from benchmarks.harness import ratio_interval, record, write_json
from vision.engines import open_engine
from vision.ocr import PaddleOcr
from vision.ocr_settings import OcrSettings
from vision.types import OcrEngine, TextLine

OVERLAP = 0.3
"""Share of the smaller box that lies in the other, from which two boxes are about the same text."""


@dataclass
class Scores:
    """Sums over pictures."""

    matched: int = 0
    found: int = 0
    annotated: int = 0
    distance: int = 0
    right: int = 0
    characters: int = 0
    extra: int = 0
    times_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    stages_ms: dict[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, float]:
        precision, recall = self.matched / max(1, self.found), self.matched / max(1, self.annotated)
        return {
            "f1": 2 * precision * recall / max(1e-9, precision + recall), "precision": precision, "recall": recall,
            "character_accuracy": 1 - self.distance / max(1, self.characters), "characters_found": self.right / max(1, self.characters),
            "extra": self.extra / max(1, self.characters),
            "p50_s": float(np.median(self.times_s)), "p95_s": float(np.percentile(self.times_s, 95)),
            "cpu_p50_s": float(np.median(self.cpu_s)),
        }  # fmt: skip


def plain(text: str) -> str:
    """Upper case, without blanks."""
    return "".join(text.upper().split())


def edit_distance(a: str, b: str) -> tuple[int, int]:
    """Levenshtein distance of two texts, and the characters of `a` that a shortest way keeps."""
    if not a or not b:
        return max(len(a), len(b)), 0
    row = [(j, 0) for j in range(len(b) + 1)]  # distance, less the characters kept: the least is the best
    for i, letter in enumerate(a, 1):
        below = [(i, 0)]
        for j, other in enumerate(b, 1):
            (d, k), (up, up_kept), (back, back_kept) = row[j - 1], row[j], below[j - 1]
            below.append(min((d, k - 1) if letter == other else (d + 1, k), (up + 1, up_kept), (back + 1, back_kept)))
        row = below
    return row[-1][0], -row[-1][1]


def compare(lines: list[TextLine], boxes: np.ndarray, texts: list[str], scores: Scores) -> None:
    """Add one picture.

    Args:
        boxes: (N, 4) annotated x_min, y_min, x_max, y_max.
        texts: of each.
    """
    found = np.array([[*np.min(line.quad, 0), *np.max(line.quad, 0)] for line in lines]).reshape(-1, 4)
    low = np.maximum(boxes[:, None, :2], found[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], found[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(-1)
    area, other = (np.clip(b[:, 2:] - b[:, :2], 1e-6, None).prod(-1) for b in (boxes, found))
    iou = common / (area[:, None] + other[None] - common)
    scores.found += len(found)
    scores.annotated += len(boxes)
    scores.matched += _one_to_one(iou)
    near = common / np.minimum(area[:, None], other[None]) >= OVERLAP
    for mine, theirs in _groups(near):
        expected = "".join(plain(texts[i]) for i in _in_order(boxes, mine))
        read = "".join(plain(lines[j].text) for j in _in_order(found, theirs))
        if not mine:
            scores.extra += len(read)
            continue
        distance, kept = edit_distance(expected, read)
        scores.distance += min(distance, len(expected))
        scores.right += kept
        scores.characters += len(expected)


def _one_to_one(iou: np.ndarray) -> int:
    matched = 0
    iou = iou.copy()
    while iou.size and iou.max() >= 0.5:
        i, j = np.unravel_index(int(iou.argmax()), iou.shape)
        iou[i, :] = iou[:, j] = 0
        matched += 1
    return matched


def _groups(near: np.ndarray) -> list[tuple[list[int], list[int]]]:
    """Connected parts of the graph of annotated and found boxes."""
    rows, columns = near.shape
    left, groups = set(range(rows + columns)), []
    while left:
        part, edge = set(), {left.pop()}
        while edge:
            part |= edge
            edge = {
                int(k)
                for e in edge
                for k in (np.flatnonzero(near[e]) + rows if e < rows else np.flatnonzero(near[:, e - rows]))
                if int(k) not in part
            }
        left -= part
        groups.append((sorted(e for e in part if e < rows), sorted(e - rows for e in part if e >= rows)))
    return groups


def _in_order(boxes: np.ndarray, which: list[int]) -> list[int]:
    """Row by row; boxes whose middles lie within half a height of each other are of one row."""
    rows: list[list[int]] = []
    for i in sorted(which, key=lambda k: boxes[k, 1] + boxes[k, 3]):
        height = boxes[i, 3] - boxes[i, 1]
        if rows and abs(boxes[i, [1, 3]].mean() - boxes[rows[-1][0], [1, 3]].mean()) < height / 2:
            rows[-1].append(i)
        else:
            rows.append([i])
    return [i for row in rows for i in sorted(row, key=lambda k: boxes[k, 0])]


def chosen(data: Path, count: int, part: str) -> list[str]:
    """Ids of pictures: every third is of the part `tune`, the others are of `check`; each taken in the order of their names."""
    ids = sorted(p.stem for p in (data / "images").glob("*.jpg"))
    parts = {"tune": ids[::3], "check": [i for n, i in enumerate(ids) if n % 3], "all": ids}
    return parts[part][:count] if count else parts[part]


def picture(data: Path, receipt: str) -> np.ndarray:
    """uint8 (H, W, 3), RGB."""
    return np.asarray(Image.open(data / "images" / f"{receipt}.jpg").convert("RGB"))


def run(data: Path, engines: dict[str, OcrEngine], ids: list[str], lines_to: Path | None, repeats: int) -> dict[str, Scores]:
    """Read every picture with every engine."""
    rows = parquet.read_table(data / "text_boxes.parquet").to_pandas().sort_values(["receipt_id", "line_no"])
    scores = {name: Scores() for name in engines}
    if lines_to is not None:
        lines_to.mkdir(parents=True, exist_ok=True)
        for name in engines:
            (lines_to / f"{name}.jsonl").unlink(missing_ok=True)
    for number, receipt in enumerate(ids):
        pixels = picture(data, receipt)
        annotated = rows[rows.receipt_id == receipt]
        order = list(engines) if number % 2 == 0 else list(engines)[::-1]
        for name in order:
            started = time.process_time()
            lines, seconds = _timed(engines[name], pixels, repeats, scores[name])
            scores[name].cpu_s.append((time.process_time() - started) / repeats)
            scores[name].times_s.append(seconds)
            compare(lines, annotated[["x_min", "y_min", "x_max", "y_max"]].to_numpy(), list(annotated.text), scores[name])
            if lines_to is not None:
                with (lines_to / f"{name}.jsonl").open("a", encoding="utf-8") as file:
                    file.write(_as_json(receipt, pixels, lines) + "\n")
    return scores


def _timed(engine: OcrEngine, pixels: np.ndarray, repeats: int, scores: Scores) -> tuple[list[TextLine], float]:
    times, lines = [], []  # type: list[float], list[TextLine]
    for _ in range(repeats):
        started = time.perf_counter()
        if isinstance(engine, PaddleOcr):
            page = engine.page(pixels)
            lines = page.lines
            for stage, ms in page.stages_ms.items():
                scores.stages_ms[stage] = scores.stages_ms.get(stage, 0.0) + ms / repeats
        else:
            lines = engine.read(pixels)
        times.append(time.perf_counter() - started)
    return lines, float(np.median(times))


def _as_json(receipt: str, pixels: np.ndarray, lines: list[TextLine]) -> str:
    texts = [[[list(p) for p in line.quad], line.text, line.confidence] for line in lines]
    return json.dumps({"id": receipt, "width": pixels.shape[1], "height": pixels.shape[0], "lines": texts}, ensure_ascii=False)


def report(scores: dict[str, Scores], baseline: str) -> dict[str, Any]:
    """What is printed and kept: each engine's figures, its times by the baseline's, its stages."""
    result: dict[str, Any] = {}
    for name, score in scores.items():
        result[name] = score.summary()
        if baseline in scores and name != baseline:
            ratio, low, high = ratio_interval(score.times_s, scores[baseline].times_s)
            p50 = float(np.median(score.times_s) / np.median(scores[baseline].times_s))
            result[name] |= {"ratio_of_p50": p50, "ratio": ratio, "ratio_low": low, "ratio_high": high}
        if score.stages_ms:
            total = sum(score.stages_ms.values())
            result[name]["stages_share"] = {k: round(v / total, 4) for k, v in score.stages_ms.items()}
            result[name]["stages_ms"] = {k: round(v / len(score.times_s), 2) for k, v in score.stages_ms.items()}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with images/, text_boxes.parquet")
    parser.add_argument("--engines", default="paddle,rapidocr", help="of paddle, rapidocr, tesseract, easyocr")
    parser.add_argument("--pictures", type=int, default=50, help="how many; 0 for all")
    parser.add_argument("--part", choices=("tune", "check", "all"), default="tune", help="a third of the pictures, the rest, or all")
    parser.add_argument("--repeats", type=int, default=1, help="readings of each picture; their median counts")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of ours, for example longest_px=736")
    parser.add_argument("--home", type=Path, help="keeps the exported networks; a temporary folder when not given")
    parser.add_argument("--lines", type=Path, help="folder for what each engine read, a JSON object a picture")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results/ocr.json")
    arguments = parser.parse_args()
    settings = dict(pair.split("=", 1) for pair in arguments.set)
    ids = chosen(arguments.data, arguments.pictures, arguments.part)
    with tempfile.TemporaryDirectory() as temporary:
        home = arguments.home or Path(temporary)
        names = arguments.engines.split(",")
        engines = {name: open_engine(home, OcrSettings.load(**{**settings, "engine": name})) for name in names}
        for engine in engines.values():  # the first run allocates
            engine.read(picture(arguments.data, ids[0]))
        scores = run(arguments.data, engines, ids, arguments.lines, arguments.repeats)
    result = report(scores, "rapidocr")
    print(json.dumps(result, indent=1))
    if arguments.write:
        how = {"part": arguments.part, "pictures": len(ids), "repeats": arguments.repeats, "settings": settings}
        packages = ["rapidocr", "onnxruntime", "opencv-python-headless", "numpy"]
        print(
            write_json(
                "ocr", record("Is our reading of text quicker than rapidocr, and as right?", how, packages) | {"engines": result}
            ).name
        )


if __name__ == "__main__":
    main()
