"""Is the same receipt, photographed again, found; and is a different one left alone?

    python -m benchmarks.bench_same_receipt                      text as annotated, with the mistakes of a reader put in; some minutes
    python -m benchmarks.bench_same_receipt --pictures           and what the picture alone tells
    python -m benchmarks.bench_same_receipt --ocr --receipts 30  both sides read by the real engine; a second or more a picture
    python -m benchmarks.bench_same_receipt --fit                the weights of `vision.fingerprint.WEIGHTS`, from half of the receipts

The receipts are those of `receipts_sroie`. Half of them, by a hash of the id, are for fitting, and figures are reported on the others (with
`--all`, on all). Each is stored once and photographed again `--times` times (`vision.augment`: turned, seen from the side, cropped, darker,
under a shadow, blurred, JPEG 40). Without `--ocr` the text is the annotation's: pieces outside the new picture are lost, those at its edge
are cut, and both sides get mistakes of their own (characters confused, dropped, joined and split pieces). The fields are read by
`vision.receipt` from that text.

Also made: the same purchase on another day and the same day again (other time, other numbers of the receipt; same goods, same total), which
are different receipts; and the same receipt with its total or its date altered, which is the same.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from benchmarks.harness import ROOT, record, write_json
from ray_apps.picture_finds import MIN_KEYS
from vision import fingerprint as fp
from vision.augment import View, rephotograph, view
from vision.engines import open_engine
from vision.evaluate import wilson
from vision.fingerprint import Fingerprint, Known, compare, features, fingerprint
from vision.ocr_settings import OcrSettings
from vision.receipt.read import read_receipt
from vision.types import OcrEngine, Picture, TextLine

CONFUSED = {
    "0": "O8", "O": "0", "1": "I7", "I": "1l", "5": "S6", "S": "5", "8": "B3", "B": "8", "2": "Z7", "6": "8", "9": "4", "3": "8", "4": "9",
    ".": ",", ",": ".", ":": ".", "/": "1", "-": ".",
}  # fmt: skip
AS_OF = date(2019, 1, 1)
DATE = re.compile(r"\d{1,2}[/.\-]\d{1,2}[/.\-]\d{2,4}")
TIME = re.compile(r"\d{1,2}:\d{2}(:\d{2})?")


@dataclass(frozen=True)
class Source:
    """One receipt as annotated."""

    name: str
    path: Path
    lines: list[TextLine]
    size: tuple[int, int]
    company: str

    @property
    def fits(self) -> bool:
        return hashlib.sha256(self.name.encode()).digest()[0] % 2 == 0

    def pixels(self) -> np.ndarray:
        return np.ascontiguousarray(np.asarray(cv2.imread(str(self.path)))[..., ::-1])


def sources(folder: Path) -> list[Source]:
    keys = pd.read_parquet(folder / "keys.parquet")
    boxes = {str(name): rows for name, rows in pd.read_parquet(folder / "text_boxes.parquet").groupby("receipt_id")}
    found = []
    for row in keys.to_dict("records"):
        name, lines = str(row["receipt_id"]), []
        for b in boxes[name].sort_values(["y_min", "x_min"]).to_dict("records"):
            x, y, right, bottom = (float(b[c]) for c in ("x_min", "y_min", "x_max", "y_max"))
            lines.append(TextLine(((x, y), (right, y), (right, bottom), (x, bottom)), str(b["text"]), 1.0))
        size = int(row["width_px"]), int(row["height_px"])
        found.append(Source(name, folder / "images" / f"{name}.jpg", lines, size, str(row["company"])))
    return found


# Text with a reader's mistakes


def misread(text: str, rng: np.random.Generator, share: float) -> str:
    """Confuse, drop and add characters; `share` is the chance of each."""
    out = []
    for c in text:
        luck = rng.random()
        if luck < share * 0.7 and c.upper() in CONFUSED:
            options = CONFUSED[c.upper()]
            out.append(options[int(rng.integers(len(options)))])
        elif luck < share * 0.85:
            continue
        elif luck < share:
            out.append(c + " ")
        else:
            out.append(c)
    return "".join(out)


def seen(source: Source, lines: list[TextLine], again: View | None, rng: np.random.Generator, share: float) -> list[TextLine]:
    """The pieces that a reader finds, with its mistakes, in the first picture or a later one."""
    width, height = source.size if again is None else (again.width, again.height)
    found = []
    for line in lines:
        quad = line.quad if again is None else again.moved(line.quad)
        ends = np.array([np.mean([quad[0], quad[3]], axis=0), np.mean([quad[1], quad[2]], axis=0)])
        steps = np.linspace(0, 1, max(len(line.text), 2))[:, None]
        places = ends[0] + (ends[1] - ends[0]) * steps
        inside = ((places > 2) & (places < (width - 2, height - 2))).all(axis=1)
        text = "".join(c for c, ok in zip(line.text, inside, strict=False) if ok)
        if not text.strip() or rng.random() < share:
            continue
        text = misread(text, rng, share)
        if rng.random() < 0.1:
            text = text.replace(" ", "")
        found.append(TextLine(quad, text, 0.9))
    return found


def altered(lines: list[TextLine], kind: str, rng: np.random.Generator, total: str | None, day: date | None) -> list[TextLine]:
    """Another receipt with the same goods (`another_day`, `same_day`), or the same with an edit (`edited_total`, `edited_date`)."""
    days = int(rng.integers(1, 40))
    clock = f"{rng.integers(8, 22):02d}:{rng.integers(0, 60):02d}"
    texts = []
    for n, line in enumerate(lines):
        text = line.text
        if kind in ("another_day", "edited_date"):
            text = DATE.sub(lambda m: _later(m[0], days), text)
        if kind in ("another_day", "same_day"):
            text = TIME.sub(clock, text)
            if n > len(lines) * 0.25 or re.search(r"NO|#|INV|BILL|RECEIPT|TRX|SLIP|DOC", text.upper()):
                text = re.sub(r"(?<![\d.])\d{5,}(?![\d.])", lambda m: _another(m[0], rng) if len(m[0]) != 13 else m[0], text)
        if kind == "edited_total" and total:
            text = text.replace(total, str(int(rng.integers(1, 9))) + total)
        texts.append(TextLine(line.quad, text, line.confidence))
    return texts


def _another(number: str, rng: np.random.Generator) -> str:
    keep = max(len(number) - 4, 1)
    return number[:keep] + "".join(str(d) for d in rng.integers(0, 10, len(number) - keep))


def _later(text: str, days: int) -> str:
    """A printed date some days later, in the same form; as it is where it is not day, month, year."""
    a, b, c = re.split(r"[/.\-]", text)
    mark = text[len(a)]
    try:
        moved = date(int(c) + (2000 if len(c) == 2 else 0), int(b), int(a)) + timedelta(days)
    except ValueError:
        return text
    return f"{moved.day:02d}{mark}{moved.month:02d}{mark}{moved.year % 10 ** len(c):0{len(c)}d}"


# Fingerprints


class Maker:
    """Makes fingerprints of a source, in one of the ways that the options ask for."""

    def __init__(self, pictures: bool, engine: OcrEngine | None, share: float, times: int, seed: int) -> None:
        self.pictures, self.engine, self.share, self.times, self.seed = pictures, engine, share, times, seed

    def of(self, source: Source, lines: list[TextLine], turn: int) -> Fingerprint:
        """Of the first picture (turn 0) or of a re-photograph."""
        rng = np.random.default_rng([self.seed, int(hashlib.sha256(source.name.encode()).hexdigest()[:8], 16), turn])
        again = view(*source.size, rng) if turn else None
        pixels = source.pixels() if self.pictures or self.engine else None
        if again is not None and pixels is not None:
            pixels = rephotograph(pixels, again, rng)
        by_engine = self.engine.read(pixels) if self.engine and pixels is not None else None
        read = seen(source, lines, again, rng, self.share) if by_engine is None else by_engine
        receipt = read_receipt(read, as_of=AS_OF)
        return fingerprint(receipt, Picture(pixels, f"{source.name}/{turn}", "JPEG") if pixels is not None and self.pictures else None)


def share_of(hits: int, n: int) -> dict[str, float]:
    low, high = wilson(hits, n)
    return {"hits": hits, "n": n, "share": hits / max(n, 1), "low": low, "high": high}


def pairs(stored: dict[str, Fingerprint], again: dict[str, list[Fingerprint]]) -> Iterator[tuple[str, str, Fingerprint, Fingerprint]]:
    """Every stored one with every picture of every other, first ones and later ones."""
    for name, first in stored.items():
        for other, second in stored.items():
            if name < other:
                yield name, other, first, second
            if name != other:
                for later in again[other]:
                    yield name, other, first, later


def measure(found: list[Source], maker: Maker, company_of: dict[str, str]) -> dict[str, Any]:
    """All figures of one run."""
    stored = {s.name: maker.of(s, s.lines, 0) for s in found}
    again = {s.name: [maker.of(s, s.lines, turn) for turn in range(1, maker.times + 1)] for s in found}
    known: Known[str] = Known()
    for name, print_ in stored.items():
        known.add(name, print_)
    later = [(name, print_) for name, prints in again.items() for print_ in prints]
    started = time.perf_counter()
    finds = [(name, {n for n, _ in known.find(print_)}) for name, print_ in later]
    find_ms = (time.perf_counter() - started) / max(len(finds), 1) * 1e3
    judged = [(company_of[a] == company_of[b], compare(x, y).same) for a, b, x, y in pairs(stored, again)]
    chain = [same for sibling, same in judged if sibling]
    result: dict[str, Any] = {
        "caught": share_of(sum(name in names for name, names in finds), len(finds)),
        "a_key_shared": share_of(sum(name in known.candidates(p) for name, p in later), len(later)),
        "different_pairs_taken_as_same": share_of(sum(same for _, same in judged), len(judged)),
        "of_one_company": share_of(sum(chain), len(chain)),
        "found_another": share_of(sum(bool(names - {name}) for name, names in finds), len(finds)),
        "find_ms": find_ms,
        "bytes": float(np.median([len(p.to_bytes()) for p in stored.values()])),
        "missed": sorted({name for name, names in finds if name not in names}),
    }
    result |= by_keys(stored, again, company_of)
    if not maker.engine:
        for kind in ("another_day", "same_day", "edited_total", "edited_date"):
            hits = [compare(first, maker.of(s, lines, 1)).same for s, first, lines in _altered(found, stored, kind, maker.seed)]
            result[kind] = share_of(sum(hits), len(hits))
    if maker.pictures:
        result |= by_picture(stored, again, company_of)
    return result


def _altered(
    found: list[Source], stored: dict[str, Fingerprint], kind: str, seed: int
) -> Iterator[tuple[Source, Fingerprint, list[TextLine]]]:
    for s in found:
        first, rng = stored[s.name], np.random.default_rng([seed, 99, int(hashlib.sha256(s.name.encode()).hexdigest()[:8], 16)])
        total = f"{first.total / 100:.2f}" if first.total else None
        lines = altered(s.lines, kind, rng, total, first.day)
        changed = {"another_day": DATE, "edited_date": DATE, "same_day": TIME}.get(kind)
        if any(a.text != b.text and (changed is None or changed.search(b.text)) for a, b in zip(lines, s.lines, strict=True)):
            yield s, first, lines


def by_keys(stored: dict[str, Fingerprint], again: dict[str, list[Fingerprint]], company_of: dict[str, str]) -> dict[str, Any]:
    """What is told by keys of the text alone, at least `MIN_KEYS` in common: all that is left of a receipt that was erased."""

    @cache
    def kept(print_: Fingerprint) -> frozenset[int]:
        return frozenset(fp.keys(replace(print_, sha256="", small=b"")))

    same = [len(kept(stored[n]) & kept(p)) >= MIN_KEYS for n, prints in again.items() for p in prints]
    other = [(company_of[a] == company_of[b], len(kept(x) & kept(y)) >= MIN_KEYS) for a, b, x, y in pairs(stored, again)]
    chain = [taken for sibling, taken in other if sibling]
    return {
        "keys_caught": share_of(sum(same), len(same)),
        "keys_false": share_of(sum(taken for _, taken in other), len(other)),
        "keys_false_of_one_company": share_of(sum(chain), len(chain)),
    }


def by_picture(stored: dict[str, Fingerprint], again: dict[str, list[Fingerprint]], company_of: dict[str, str]) -> dict[str, Any]:
    """What would be decided if nothing had been read; of different ones, all of one company and some of others."""
    started = time.perf_counter()
    same = [fp.agreeing(stored[n], p) for n, prints in again.items() for p in prints]
    ms = (time.perf_counter() - started) / max(len(same), 1) * 1e3
    rng = np.random.default_rng(3)
    others = [fp.agreeing(x, y) for a, b, x, y in pairs(stored, again) if company_of[a] == company_of[b] or rng.random() < 0.01]

    def taken(values: list[tuple[int, float]]) -> int:
        return sum(n >= fp.MIN_INLIERS and like >= fp.MIN_LIKE for n, like in values)

    def above(values: list[tuple[int, float]], bound: float) -> float:
        return sum(n >= fp.MIN_INLIERS and like >= bound for n, like in values) / max(len(values), 1)

    table = {f"{bound:.1f}": [above(same, bound), above(others, bound)] for bound in (0.3, 0.4, 0.5, 0.6, 0.7)}
    return {
        "picture_caught": share_of(taken(same), len(same)),
        "picture_false": share_of(taken(others), len(others)),
        "picture_ms": ms,
        "picture_like_at_least": table,
    }


# Fitting


def fit(found: list[Source], maker: Maker, penalty: float = 1.0) -> np.ndarray:
    """Weights of the logistic regression. Both answers weigh the same in sum, and of the different ones those made up half."""
    stored = {s.name: maker.of(s, s.lines, 0) for s in found}
    again = {s.name: [maker.of(s, s.lines, turn) for turn in range(1, maker.times + 1)] for s in found}
    same = [(stored[n], p) for n, prints in again.items() for p in prints]
    other = [(x, y) for _, _, x, y in pairs(stored, again)]
    real = len(other)
    for kind in ("another_day", "same_day"):
        other += [
            (f, maker.of(s, lines, t)) for s, f, lines in _altered(found, stored, kind, maker.seed) for t in range(1, maker.times + 1)
        ]
    count_made = len(other) - real
    for kind in ("edited_total", "edited_date"):
        same += [(f, maker.of(s, lines, 1)) for s, f, lines in _altered(found, stored, kind, maker.seed)]
    x = np.array([features(a, b) for a, b in [*same, *other]])
    y = np.array([1.0] * len(same) + [0.0] * len(other))
    made = np.arange(len(y)) >= len(y) - count_made
    # A pair that is far off says little: what counts is how the close ones are told apart.
    close = (y == 1) | (x[:, 1] + x[:, 2] > -1.2)
    x, y, made = x[close], y[close], made[close]
    groups = [(y == 1, 0.5), ((y == 0) & made, 0.25), ((y == 0) & ~made, 0.25)]
    weight = sum(share / max(group.sum(), 1) * group for group, share in groups) * len(y)
    w = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ w))
        gradient = x.T @ (weight * (p - y)) + penalty * np.r_[0, w[1:]]
        hessian = (x * (weight * p * (1 - p))[:, None]).T @ x + penalty * np.diag(np.r_[1e-6, np.ones(len(w) - 1)])
        w -= np.linalg.solve(hessian, gradient)
    print(f"{int(y.sum())} same, {int((1 - y).sum())} different and close, {int(made.sum())} of these made up")
    return w


def main() -> None:
    """Run, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "receipts_sroie", help="folder of the receipts")
    parser.add_argument("--receipts", type=int, default=0, help="how many; all when 0")
    parser.add_argument("--times", type=int, default=4, help="re-photographs of each")
    parser.add_argument("--mistakes", type=float, default=0.02, help="chance that a character, or a piece, is misread")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--all", action="store_true", help="report on all receipts, those of the fitting half too")
    parser.add_argument("--pictures", action="store_true", help="fingerprints of the pictures too")
    parser.add_argument("--ocr", action="store_true", help="read both sides with the real engine")
    parser.add_argument("--engine", default="paddle", help="which, with --ocr: paddle, rapidocr, tesseract")
    parser.add_argument("--home", type=Path, default=ROOT / "var", help="where that engine's networks are exported to")
    parser.add_argument("--fit", action="store_true", help="fit the weights on the fitting half, print them, and stop")
    options = parser.parse_args()
    everything = sources(options.data)
    company_of = {s.name: s.company for s in everything}
    if options.fit:
        weights = fit([s for s in everything if s.fits], Maker(False, None, options.mistakes, options.times, options.seed))
        for name, value in zip(fp.FEATURES, weights, strict=True):
            print(f"{name:<10} {value:7.2f}")
        return
    chosen = [s for s in everything if options.all or not s.fits][: options.receipts or None]
    engine = open_engine(options.home, OcrSettings(engine=options.engine)) if options.ocr else None
    maker = Maker(options.pictures, engine, options.mistakes, options.times, options.seed)
    settings = {k: v.name if isinstance(v, Path) else v for k, v in vars(options).items()}
    result = record("Is the same receipt, photographed again, found?", settings | {"load": os.getloadavg()[0]}, ["numpy"])
    figures = measure(chosen, maker, company_of)
    show(figures)
    name = "same_receipt" + ("_ocr" if options.ocr else "")
    print(write_json(name, result | {"receipts": len(chosen), "results": {k: v for k, v in figures.items() if k != "missed"}}).name)


def show(figures: dict[str, Any]) -> None:
    """A line a figure."""
    line: Callable[[str, dict[str, float]], str] = lambda name, v: (  # noqa: E731
        f"{name:<32} {v['share']:8.4f}  ({v['low']:.4f}-{v['high']:.4f})  {v['hits']:,} of {v['n']:,}"
    )
    for name, value in figures.items():
        print(line(name, value) if isinstance(value, dict) and "share" in value else f"{name:<32} {value}")


if __name__ == "__main__":
    main()
