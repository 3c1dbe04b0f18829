"""Receipt or product: how often the cheap look is right, how often it is unsure, and the fit of its weights.

    python -m benchmarks.bench_gate --data-receipts ../shared/data/receipts_sroie --data-products ../shared/data/grocery_products [--fit]

Receipts: as scanned, photographed again (`vision.augment`), on a coloured table, on clutter (a photo of a product), a part of one from
near, and turned by a quarter. Products: as photographed, and close-ups of cartons, whose print is the hard case. Weights are fitted on
the half `tune` of the receipts and the products' training split; what is reported otherwise comes from the other half and the validation
split, receipts laid on clutter of that split.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.bench_receipts import halves
from benchmarks.harness import record, write_json
from vision import augment, engines, gate
from vision.ocr import Networks, PaddleOcr
from vision.ocr_settings import OcrSettings
from vision.recognizer import RecognizerSettings

CARTONS = ("Juice", "Milk", "Yoghurt", "Soyghurt", "Soy-Milk", "Sour-Cream", "Oatghurt", "Oat-Milk", "Sour-Milk")
RIDGE = 0.3
Rows = list[tuple[str, bool, dict[str, float]]]
"""(what kind of picture, whether it is a receipt, facts)"""


def picture(path: Path) -> np.ndarray:
    """uint8 (H, W, 3), RGB."""
    return np.asarray(Image.open(path).convert("RGB"))


def on_ground(pixels: np.ndarray, ground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A receipt lying on something: turned, from the side, a third to nearly all of the picture's longer side."""
    wear = augment.Wear(crop=0.0, scale=0.0)
    height, width = pixels.shape[:2]
    seen = augment.view(width, height, rng, wear)
    room = 1 / rng.uniform(0.45, 0.95)
    size = (round(seen.width * room), round(seen.height * room))
    shift = np.array([[1, 0, rng.uniform(0, size[0] - seen.width)], [0, 1, rng.uniform(0, size[1] - seen.height)], [0, 0, 1]])
    homography = shift @ seen.homography
    taken = cv2.warpPerspective(pixels, homography, size)
    there = cv2.warpPerspective(np.full(pixels.shape[:2], 255, np.uint8), homography, size)[..., None] / 255
    below = cv2.resize(ground, size, interpolation=cv2.INTER_LINEAR)
    laid = (taken * there + below * (1 - there)).astype(np.uint8)
    return augment.rephotograph(laid, augment.View(np.eye(3), *size), rng, wear)


def part_of(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The part around a share of 0.35 to 0.7 of each side of a receipt, photographed from near."""
    height, width = (round(s * rng.uniform(0.35, 0.7)) for s in pixels.shape[:2])
    y, x = (int(rng.integers(0, s - t + 1)) for s, t in zip(pixels.shape[:2], (height, width), strict=True))
    near = np.ascontiguousarray(pixels[y : y + height, x : x + width])
    return augment.rephotograph(near, augment.view(width, height, rng), rng)


def table(rng: np.random.Generator) -> np.ndarray:
    """A surface of one colour with a soft pattern: wood, cloth, plastic."""
    colour = rng.uniform(20, 250, 3)
    grain = cv2.resize(rng.normal(0, 1, (int(rng.integers(2, 40)), int(rng.integers(2, 40)))), (200, 200), interpolation=cv2.INTER_CUBIC)
    return np.clip(colour + rng.uniform(0, 30) * grain[..., None], 0, 255).astype(np.uint8)


def receipts(folder: Path, half: str, clutter: list[Path], rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """(kind of picture, pixels) of a half's receipts."""
    part = halves(pq.read_table(folder / "keys.parquet")["receipt_id"].to_pylist())
    for name in sorted(k for k, p in part.items() if p == half):
        pixels = picture(folder / "images" / f"{name}.jpg")
        yield "receipt as scanned", pixels
        yield "receipt photographed again", augment.rephotograph(pixels, augment.view(pixels.shape[1], pixels.shape[0], rng), rng)
        yield "receipt on a table", on_ground(pixels, table(rng), rng)
        yield "receipt on clutter", on_ground(pixels, picture(clutter[int(rng.integers(len(clutter)))]), rng)
        yield "receipt, a part of it", part_of(pixels, rng)
        yield "receipt on its side", np.ascontiguousarray(np.rot90(on_ground(pixels, table(rng), rng)))


def products(folder: Path, split: str, most: int, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """(kind of picture, pixels) of a split: half of `most` cartons, half the rest, and a close-up of each carton."""
    rows = [r for r in pq.read_table(folder / "labels.parquet").to_pylist() if r["split"] == split]
    for carton in (True, False):
        group = [r for r in rows if (r["coarse_name"] in CARTONS) == carton]
        for at in rng.permutation(len(group))[: most // 2]:
            pixels = picture(_file(folder, group[at]))
            yield ("carton" if carton else "fruit or vegetable"), pixels
            if carton:
                share = rng.uniform(0.3, 0.7)
                height, width = (round(s * share) for s in pixels.shape[:2])
                y, x = (int(rng.integers(0, s - t + 1)) for s, t in zip(pixels.shape[:2], (height, width), strict=True))
                yield "carton, close-up", cv2.resize(pixels[y : y + height, x : x + width], None, fx=3, fy=3)


def _file(folder: Path, row: dict[str, Any]) -> Path:
    return folder / str(row["file"])


def facts_of(pictures: Iterator[tuple[str, np.ndarray]], networks: Networks) -> Rows:
    """Facts of each picture."""
    out: Rows = []
    for kind, pixels in pictures:
        looked_at = gate.small(pixels)
        out.append((kind, kind.startswith("receipt"), gate.facts(looked_at, networks.detect(looked_at))))
    return out


def fit(rows: Rows, ridge: float = RIDGE) -> dict[str, float]:
    """Weights of the logistic regression by Newton's method, both sides weighing the same; the ridge spares the constant."""
    names = list(rows[0][2])
    x = np.array([[1.0, *(found[n] for n in names)] for _, _, found in rows])
    y = np.array([float(is_receipt) for _, is_receipt, _ in rows])
    weight = np.where(y > 0, 0.5 / y.mean(), 0.5 / (1 - y.mean()))
    w = np.zeros(x.shape[1])
    penalty = np.diag([1e-6, *([ridge] * len(names))])
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        step = np.linalg.solve(x.T @ (x * (weight * p * (1 - p))[:, None]) + penalty, x.T @ (weight * (y - p)) - penalty @ w)
        w = w + step
        if np.abs(step).max() < 1e-8:
            break
    return {name: round(float(v), 2) for name, v in zip(["", *names], w, strict=True)}


def scores(rows: Rows, settings: RecognizerSettings) -> dict[str, dict[str, float]]:
    """By kind of picture: how many, the share decided rightly at a half, sure and right, sure and wrong, unsure."""
    out = {}
    for kind in dict.fromkeys(r[0] for r in rows):
        group = [(is_receipt, gate.weighed(found)) for k, is_receipt, found in rows if k == kind]
        wanted = np.array([r for r, _ in group])
        chance = np.array([c for _, c in group])
        sure = np.where(chance >= settings.receipt_from, 1, np.where(chance < settings.product_below, 0, -1))
        out[kind] = {
            "n": len(group),
            "right": float(((chance >= 0.5) == wanted).mean()),
            "sure_right": float((sure == wanted).mean()),
            "sure_wrong": float((sure == 1 - wanted).mean()),
            "unsure": float((sure < 0).mean()),
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-receipts", type=Path, required=True, help="folder of receipts_sroie")
    parser.add_argument("--data-products", type=Path, required=True, help="folder of grocery_products")
    parser.add_argument("--home", type=Path, help="keeps the exported networks; a temporary folder when not given")
    parser.add_argument("--products", type=int, default=400, help="pictures of products at most, close-ups not counted")
    parser.add_argument("--fit", action="store_true", help="print new weights from the halves meant for that, nothing else")
    parser.add_argument("--facts", type=Path, help="also write the facts of each picture here, a JSON object a line")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results/gate.json")
    args = parser.parse_args()
    half, split = ("tune", "train") if args.fit else ("check", "val")
    rng = np.random.default_rng(20261122 + args.fit)
    clutter = sorted((args.data_products / split).rglob("*.jpg"))
    with tempfile.TemporaryDirectory() as temporary:
        engine = engines.open_engine(args.home or Path(temporary), OcrSettings.load(engine="paddle"))
        assert isinstance(engine, PaddleOcr)
        rows = facts_of(receipts(args.data_receipts, half, clutter, rng), engine.networks)
        rows += facts_of(products(args.data_products, split, args.products, rng), engine.networks)
        times = timed(engine.networks, picture(clutter[0]))
    if args.facts:
        args.facts.write_text("".join(json.dumps([k, r, f]) + "\n" for k, r, f in rows), encoding="utf-8")
    if args.fit:
        print(json.dumps(fit(rows), indent=1))
        return
    settings = RecognizerSettings.load()
    found = scores(rows, settings)
    print(f"{'':28} {'n':>5} {'right':>7} {'sure, right':>12} {'sure, wrong':>12} {'unsure':>7}")
    for kind, s in found.items():
        print(f"{kind:28} {s['n']:5.0f} {s['right']:7.3f} {s['sure_right']:12.3f} {s['sure_wrong']:12.3f} {s['unsure']:7.3f}")
    print(f"one look: {times:.0f} ms in the median")
    if args.write:
        how = {"receipts": half, "products": split, **settings.public()}
        write_json("gate", record("How often is it told rightly, and cheaply, what a picture shows?", how, ["onnxruntime", "numpy"]) | {
            "scores": found, "look_p50_ms": round(times, 1)})  # fmt: skip


def timed(networks: Networks, pixels: np.ndarray, repeats: int = 15) -> float:
    """Median milliseconds of one look."""
    times = []
    for _ in range(repeats):
        began = perf_counter()
        gate.probability(pixels, networks)
        times.append((perf_counter() - began) * 1000)
    return float(np.median(times))


if __name__ == "__main__":
    main()
