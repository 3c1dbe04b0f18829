"""Reading text from receipts: ours against the plain `rapidocr` package, on the same pictures, alternating.

    python benchmarks/bench_ocr.py --data DATA/receipts_sroie --pictures 50
    python benchmarks/bench_ocr.py --data DATA/receipts_sroie --engines paddle,rapidocr,tesseract --lines out/

Time: one picture after the other, each engine's turn in another order from picture to picture; p50 and p95 of each, and the median of the
ratios of each picture's times. Ours also by stage. `cpu_p50_s` counts the time of all cores, waiting threads that spin included.

Quality, against the annotated lines: see vision/text_scores.py.
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
from vision.text_scores import TextScores, compare
from vision.types import OcrEngine, TextLine


@dataclass
class Scores(TextScores):
    """Sums over pictures."""

    times_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    stages_ms: dict[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, float]:
        return {
            **self.quality(),
            "p50_s": float(np.median(self.times_s)), "p95_s": float(np.percentile(self.times_s, 95)),
            "cpu_p50_s": float(np.median(self.cpu_s)),
        }  # fmt: skip


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
