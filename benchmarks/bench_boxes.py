"""Is the box where the product is?

    python -m benchmarks.bench_boxes --model FOLDER            figures of both halves; benchmarks/results/boxes.json
    python -m benchmarks.bench_boxes --model FOLDER --choose   what each threshold gives on the half that it is chosen on

The boxes in `benchmarks/data/product_boxes.json` were drawn by eye, before any network's was looked at, on pictures of the validation split
of `grocery_products`. Half of them (seeded, of piles and of single products alike) is for choosing `BOX_THRESHOLD` and `TAUGHT_THRESHOLD`
in `vision.products`; the other half is what the figures are read from. Each picture's box is that of the likeliest class, whether the class
is right or not.

For the catalogue every class with a labelled picture is taught with `--shots` pictures of the training split, and the box is that of the
right product, so that only the place is measured.

Peers that look at nothing: the whole picture, and a rectangle in its middle with 70 % of its width and height. A pile fills its picture, so
the whole picture is hard to beat there; the figures are given apart for single products (in a hand, on a shelf).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import ROOT, record, write_json
from vision.catalogue import unit, views_of
from vision.evaluate_products import wilson
from vision.product_data import ProductSet, prepared, read_picture, read_set
from vision.products import BOX_THRESHOLD, TAUGHT_THRESHOLD, ProductRecognizer, box_of, products_folder
from vision.types import Box

LABELS = ROOT / "benchmarks" / "data" / "product_boxes.json"
THRESHOLDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)
CENTRE = 0.7


@dataclass(frozen=True)
class Labelled:
    """A picture whose product's place a person drew. `single`: one product, or its cartons on a shelf; else a pile."""

    file: str
    box: Box
    single: bool


@dataclass(frozen=True)
class Seen:
    """What the network says of a picture.

    Attributes:
        own, taught: float32 (G, G), the map of the likeliest class, and of the right product of the catalogue.
        right: whether the likeliest class is the right one.
    """

    labelled: Labelled
    width: int
    height: int
    own: np.ndarray
    taught: np.ndarray
    right: bool


Found = tuple[Box, tuple[float, float]]
"""A box and the one place that is surest, in pixels."""


def read_labels(path: Path = LABELS) -> list[Labelled]:
    rows = json.loads(path.read_text(encoding="utf-8"))["boxes"]
    return [Labelled(r["file"], Box(r["x"], r["y"], r["width"], r["height"]), r["note"] != "pile") for r in rows]


def for_choosing(labels: list[Labelled], seed: int) -> np.ndarray:
    """bool (N,): the half that settings are chosen on, drawn apart from piles and from single products."""
    single = np.array([x.single for x in labels])
    chosen = np.zeros(len(labels), bool)
    for kind in (False, True):
        rows = np.random.default_rng([seed, kind]).permutation(np.flatnonzero(single == kind))
        chosen[rows[: len(rows) // 2]] = True
    return chosen


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0 to 1."""
    across = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    down = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    both = max(0, across) * max(0, down)
    return both / (a.width * a.height + b.width * b.height - both)


def inside(place: tuple[float, float], box: Box) -> bool:
    return box.x <= place[0] <= box.x + box.width and box.y <= place[1] <= box.y + box.height


def middle(box: Box) -> tuple[float, float]:
    return box.x + box.width / 2, box.y + box.height / 2


def peak_of(found: np.ndarray, width: int, height: int) -> tuple[float, float]:
    """Middle of the place with the most, in pixels."""
    row, column = np.unravel_index(int(found.argmax()), found.shape)
    return (int(column) + 0.5) * width / found.shape[1], (int(row) + 0.5) * height / found.shape[0]


def look(recognizer: ProductRecognizer, data: Path, labels: list[Labelled], shots: int, seed: int) -> list[Seen]:
    """The network's maps of every labelled picture."""
    whole, names = read_set(data), recognizer.record.names
    row_of = {file.relative_to(data).as_posix(): i for i, file in enumerate(whole.files)}
    classes = {x.file: int(whole.fine[row_of[x.file]]) for x in labels}
    means = {one: _mean(recognizer, whole, one, shots, seed) for one in sorted(set(classes.values()))}
    out = []
    for x in labels:
        pixels = read_picture(data / x.file)
        found = {name: value[0] for name, value in recognizer.network.infer(prepared(pixels, recognizer.record.size)[None]).items()}
        right = names[int(found["top"][0])] == whole.names[classes[x.file]]
        out.append(Seen(x, pixels.shape[1], pixels.shape[0], found["maps"][0], found["places"] @ means[classes[x.file]], right))
    return out


def _mean(recognizer: ProductRecognizer, whole: ProductSet, one: int, shots: int, seed: int) -> np.ndarray:
    """The mean vector of a product taught with a few photos, as the catalogue makes it."""
    rows = np.flatnonzero((whole.fine == one) & (whole.split == "train"))
    photos = [read_picture(whole.files[i]) for i in np.random.default_rng([seed, one]).permutation(rows)[:shots]]
    return unit(recognizer.embed([view for p in photos for view in views_of(p)]).mean(0))


def methods(threshold: float = BOX_THRESHOLD, taught: float = TAUGHT_THRESHOLD) -> dict[str, Callable[[Seen], Found]]:
    """Ways to say where the product is, the peers last."""

    def centred(share: float) -> Callable[[Seen], Found]:
        def found(s: Seen) -> Found:
            width, height = round(s.width * share), round(s.height * share)
            box = Box((s.width - width) // 2, (s.height - height) // 2, width, height)
            return box, middle(box)

        return found

    return {
        "classifier": lambda s: (box_of(s.own, s.width, s.height, threshold), peak_of(s.own, s.width, s.height)),
        "catalogue": lambda s: (box_of(s.taught, s.width, s.height, taught), peak_of(s.taught, s.width, s.height)),
        "the middle 70 %": centred(CENTRE),
        "the whole picture": centred(1.0),
    }


def score(seen: list[Seen], method: Callable[[Seen], Found], seed: int) -> dict[str, Any]:
    """Figures of one way on some pictures; the mean with its 95 % interval by bootstrap over pictures."""
    found = [method(s) for s in seen]
    values = np.array([iou(box, s.labelled.box) for (box, _), s in zip(found, seen, strict=True)])
    picks = np.random.default_rng(seed).integers(0, len(values), (4000, len(values)))
    low, high = np.percentile(values[picks].mean(1), (2.5, 97.5))
    pointed = sum(inside(place, s.labelled.box) for (_, place), s in zip(found, seen, strict=True))
    centred = sum(inside(middle(box), s.labelled.box) for (box, _), s in zip(found, seen, strict=True))
    return {
        "iou_mean": {"value": round(float(values.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)},
        "iou_median": round(float(np.median(values)), 4),
        "iou_at_least_half": wilson(int((values >= 0.5).sum()), len(values)),
        "peak_inside": wilson(pointed, len(values)),
        "middle_inside": wilson(centred, len(values)),
    }


def measure(seen: list[Seen], chosen: np.ndarray, seed: int) -> dict[str, Any]:
    """Figures by half, by kind of picture and by way."""
    halves = {"reported": ~chosen, "chosen_on": chosen}
    single = np.array([s.labelled.single for s in seen])
    kinds = {"all": np.ones(len(seen), bool), "single": single, "pile": ~single}
    return {
        half: {
            kind: {
                name: score([s for s, use in zip(seen, rows & of, strict=True) if use], method, seed) for name, method in methods().items()
            }
            for kind, of in kinds.items()
        }
        for half, rows in halves.items()
    }


def show(figures: dict[str, Any], half: str) -> None:
    print(f"\n{half}   pictures   IoU mean (95 %)       median   >= 0.5   peak in   middle in")
    for kind, ways in figures[half].items():
        for name, f in ways.items():
            mean, n = f["iou_mean"], f["peak_inside"]["n"]
            interval = f"{mean['value']:.3f} ({mean['low']:.3f}-{mean['high']:.3f})"
            shares = "   ".join(f"{f[k]['value']:.2f}" for k in ("iou_at_least_half", "peak_inside", "middle_inside"))
            print(f"{kind:<7} {name:<18} {n:>4}   {interval}   {f['iou_median']:.3f}   {shares}")


def choose(seen: list[Seen]) -> None:
    """Mean IoU on some pictures by threshold: of all, and of those of single products."""
    single = [s for s in seen if s.labelled.single]
    print(f"{'threshold':>9}  {'classifier':>10}  {'single':>6}  {'catalogue':>9}  {'single':>6}")
    for threshold in THRESHOLDS:
        ways = methods(threshold, threshold)
        own, taught = ([_mean_iou(of, ways[name]) for of in (seen, single)] for name in ("classifier", "catalogue"))
        print(f"{threshold:>9}  {own[0]:>10.3f}  {own[1]:>6.3f}  {taught[0]:>9.3f}  {taught[1]:>6.3f}")


def _mean_iou(seen: list[Seen], method: Callable[[Seen], Found]) -> float:
    return float(np.mean([iou(method(s)[0], s.labelled.box) for s in seen]))


def main() -> None:
    """Run, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "grocery_products", help="folder of the pictures")
    parser.add_argument("--model", type=Path, default=products_folder(ROOT / "var"), help="folder that `regulars train products` wrote")
    parser.add_argument("--shots", type=int, default=5, help="photos that teach each product of the catalogue")
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--choose", action="store_true", help="print what each threshold gives on the choosing half, and stop")
    options = parser.parse_args()
    recognizer, labels = ProductRecognizer(options.model), read_labels()
    chosen = for_choosing(labels, options.seed)
    seen = look(recognizer, options.data, labels, options.shots, options.seed)
    if options.choose:
        choose([s for s, use in zip(seen, chosen, strict=True) if use])
        return
    settings = {"data": options.data.name, "shots": options.shots, "seed": options.seed, "thresholds": [BOX_THRESHOLD, TAUGHT_THRESHOLD]}
    settings |= {"model": recognizer.record.raw["model"], "size": recognizer.record.size, "version": recognizer.version}
    result = record("Is the box where the product is?", settings, ["numpy", "onnxruntime", "opencv-python-headless"])
    figures = measure(seen, chosen, options.seed)
    result["class_right"] = wilson(sum(s.right for s in seen), len(seen))
    for half in figures:
        show(figures, half)
    print(f"written: {write_json('boxes', result | figures)}")


if __name__ == "__main__":
    main()
