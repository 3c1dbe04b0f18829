"""One look at a picture: how long it takes, stage by stage, for receipts beside the plain `rapidocr` package and for products.

    python -m benchmarks.bench_recognize --data-receipts ../shared/data/receipts_sroie --data-products ../shared/data/grocery_products \
        --home HOME [--receipts 50] [--products 100] [--write]

Receipts: our whole look (receipt or product, text, fields) against the package's reading of the text alone, on the same decoded pictures,
one after the other in alternating order; ratio of the medians, and the median of each picture's ratio with its interval. Products: the
whole look. Opening the file, which comes before and is the same for all, is told by itself. The first pictures warm up and do not count.
Besides: how often each kind of picture was taken for what it is. HOME has a trained product network, else the one that is shipped is used.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.harness import ratio_interval, record, write_json
from vision.engines import RapidOcrEngine
from vision.recognizer import Recognizer, open_recognizer
from vision.types import OcrEngine, Picture
from vision.upload import open_picture

AS_OF = date(2019, 6, 1)
WARM_UP = 2


@dataclass
class Times:
    """Of one kind of picture, milliseconds."""

    opened: list[float] = field(default_factory=list)
    looked: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    stages: list[dict[str, float]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    def summary(self, wanted: str) -> dict[str, Any]:
        """p50 and p95 of all and of each stage, shares, what was taken for what; the ratio to the peer where there is one."""
        out: dict[str, Any] = {
            "n": len(self.looked), "taken_rightly": float(np.mean([k == wanted for k in self.kinds])),
            "taken_for": {k: self.kinds.count(k) for k in sorted(set(self.kinds))},
            "look_ms": _quantiles(self.looked), "open_ms": _quantiles(self.opened), "stages": self._stages(),
        }  # fmt: skip
        if self.peer:
            ratio, low, high = ratio_interval(self.looked, self.peer)
            of_p50 = float(np.median(self.looked) / np.median(self.peer))
            out["rapidocr_ms"] = _quantiles(self.peer)
            out |= {"ratio_of_p50": round(of_p50, 4), "ratio": round(ratio, 4), "ratio_low": round(low, 4), "ratio_high": round(high, 4)}
        return out

    def _stages(self) -> dict[str, dict[str, float]]:
        names = sorted({n for s in self.stages for n in s if n != "total"}, key=lambda n: -sum(s.get(n, 0.0) for s in self.stages))
        whole = sum(s["total"] for s in self.stages)
        found = {}
        for name in names:
            values = [s.get(name, 0.0) for s in self.stages]
            found[name] = _quantiles(values) | {"share": round(sum(values) / whole, 4)}
        return found


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(values, q)), 2) for q in (50, 95)}


def measure(recognizer: Recognizer, files: Sequence[Path], peer: OcrEngine | None) -> Times:
    """Look at each file once; the peer before or after, in turn."""
    times = Times()
    for number, path in enumerate(files):
        data = path.read_bytes()
        began = perf_counter()
        picture = open_picture(data)
        opened = (perf_counter() - began) * 1000
        theirs = _peer(peer, picture) if peer and number % 2 else 0.0
        seen = recognizer.look(picture, AS_OF)
        theirs = _peer(peer, picture) if peer and not number % 2 else theirs
        if number < WARM_UP:
            continue
        times.opened.append(opened)
        times.looked.append(seen.stages_ms["total"])
        times.stages.append(seen.stages_ms)
        times.kinds.append(seen.kind)
        if peer:
            times.peer.append(theirs)
    return times


def _peer(peer: OcrEngine, picture: Picture) -> float:
    began = perf_counter()
    peer.read(picture.pixels)
    return (perf_counter() - began) * 1000


def spread(files: Sequence[Path], count: int) -> list[Path]:
    """As many of the files, evenly spread over all."""
    return [files[i * len(files) // count] for i in range(min(count, len(files)))] if count < len(files) else list(files)


def table(results: dict[str, dict[str, Any]]) -> Table:
    """What is printed."""
    out = Table(box=None, padding=(0, 2))
    for name in ("picture", "stage", "p50 ms", "p95 ms", "share"):
        out.add_column(name, justify="left" if name in ("picture", "stage") else "right")
    for kind, found in results.items():
        out.add_row(kind, "open the file", *(f"{found['open_ms'][q]:.1f}" for q in ("p50", "p95")), "")
        for stage, s in found["stages"].items():
            out.add_row("", stage, f"{s['p50']:.1f}", f"{s['p95']:.1f}", f"{s['share']:.1%}")
        out.add_row("", f"whole look, n = {found['n']}", *(f"{found['look_ms'][q]:.1f}" for q in ("p50", "p95")), "100%")
        if "rapidocr_ms" in found:
            out.add_row("", "the package rapidocr", *(f"{found['rapidocr_ms'][q]:.1f}" for q in ("p50", "p95")), "")
            told = (
                f"{found['ratio_of_p50']:.2f}; of each picture {found['ratio']:.2f} [{found['ratio_low']:.2f}, {found['ratio_high']:.2f}]"
            )
            out.add_row("", f"ours / the package's p50: {told}", "", "", "")
        out.add_row("", f"taken for: {json.dumps(found['taken_for'])}", "", "", "")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-receipts", type=Path, required=True, help="folder of receipts_sroie")
    parser.add_argument("--data-products", type=Path, required=True, help="folder of grocery_products")
    parser.add_argument("--home", type=Path, help="holds the networks; a temporary folder with the shipped ones when not given")
    parser.add_argument("--receipts", type=int, default=50, help="how many")
    parser.add_argument("--products", type=int, default=100, help="how many, of the validation split")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results/recognize.json")
    args = parser.parse_args()
    receipts = spread(sorted((args.data_receipts / "images").glob("*.jpg")), args.receipts + WARM_UP)
    rows = [r for r in pq.read_table(args.data_products / "labels.parquet").to_pylist() if r["split"] == "val"]
    products = spread([args.data_products / r["file"] for r in rows], args.products + WARM_UP)
    with tempfile.TemporaryDirectory() as temporary:
        recognizer = open_recognizer(args.home or Path(temporary))
        results = {
            "receipt": measure(recognizer, receipts, RapidOcrEngine()).summary("receipt"),
            "product": measure(recognizer, products, None).summary("product"),
        }
    Console(width=150).print(table(results))
    if args.write:
        how = {"receipts": args.receipts, "products": args.products, "model_version": recognizer.version, **recognizer.settings.public()}
        packages = ["rapidocr", "onnxruntime", "opencv-python-headless", "numpy"]
        about = record("How long does one look at a picture take, and is it quicker than rapidocr?", how, packages)
        print(write_json("recognize", about | {"results": results}).name)


if __name__ == "__main__":
    main()
