"""How exactly receipts are read from text pieces, and the fit of the confidences.

    python -m benchmarks.bench_receipts --data ../shared/data/receipts_sroie [--ocr FILE.jsonl] [--half tune|check|all]
        [--noise 0.03] [--fit] [--json FILE]

Without `--ocr` the text is what a person annotated; FILE.jsonl holds an engine's text, a receipt a line:
{"id", "lines": [[[[x, y] x 4], text, score], ...]}. `--noise` misreads that share of the characters (look-alikes), drops as many
pieces and lowers their confidence. The rules were written with the half `tune` before the eyes; `check` was only counted.
`--fit` prints new weights for vision/receipt/confidence.py from the chosen half: a ridge logistic model on the annotated text
at several noise levels, and on the engine's text where there is some.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

import vision.receipt.read as reader
from vision.evaluate import FIELDS, Truth, right, score_receipts
from vision.receipt import read_receipt
from vision.receipt.confidence import WEIGHTS
from vision.types import Receipt, TextLine

AS_OF = date(2019, 6, 1)
NOISES = {"total": (0.0, 0.01, 0.03, 0.06, 0.1), "date": (0.0, 0.01, 0.03, 0.06, 0.1), "merchant": (0.0, 0.01)}
"""Of the pages that a model is fitted on. A date or total survives much noise, a name of thirty letters next to none, so that heavy
noise would only teach that every name is doubtful."""
_ALIKE = {"0": "O8", "1": "lI7", "2": "Z7", "3": "8", "4": "1", "5": "S6", "6": "85", "7": "1", "8": "B3", "9": "8", "O": "0", "I": "1l",
          "S": "5", "B": "8", "L": "I", "E": "F", "M": "N", ".": ",", ",": ".", " ": ""}  # fmt: skip


def halves(receipt_ids: list[str]) -> dict[str, str]:
    """receipt -> "tune" or "check", the same in every run."""
    shuffled = sorted(receipt_ids)
    random.Random(1).shuffle(shuffled)  # noqa: S311 - a split, no secret
    return {k: "tune" if n < len(shuffled) // 2 else "check" for n, k in enumerate(shuffled)}


def annotated(folder: Path) -> tuple[dict[str, list[TextLine]], dict[str, Truth]]:
    """Text pieces and truths by receipt."""
    truths = {k["receipt_id"]: Truth(k["company"], k["date"], k["total"]) for k in pq.read_table(folder / "keys.parquet").to_pylist()}
    lines: dict[str, list[TextLine]] = {key: [] for key in truths}
    for b in pq.read_table(folder / "text_boxes.parquet").to_pylist():
        x0, y0, x1, y1 = (float(b[n]) for n in ("x_min", "y_min", "x_max", "y_max"))
        lines[b["receipt_id"]].append(TextLine(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), b["text"], 0.97))
    return lines, truths


def read_engine(path: Path) -> dict[str, list[TextLine]]:
    """An engine's text by receipt."""
    out = {}
    for row in map(json.loads, path.read_text().splitlines()):
        out[row["id"]] = [
            TextLine(tuple((float(x), float(y)) for x, y in quad), text, float(score))  # type: ignore[arg-type]
            for quad, text, score in row["lines"]
        ]
    return out


def worsened(lines: list[TextLine], noise: float, rng: random.Random) -> list[TextLine]:
    """The same page, read badly."""
    out = []
    for line in lines:
        if rng.random() < noise:
            continue
        text = "".join(rng.choice(_ALIKE[c] or " ") if c in _ALIKE and _ALIKE[c] and rng.random() < noise else c for c in line.text)
        if rng.random() < 2 * noise:
            text = text.replace(" ", "")
        misread = text != line.text
        sure = 0.97 - rng.random() * (0.35 if misread else 0.08)
        out.append(TextLine(line.quad, text, sure))
    return out


def observations(lines: dict[str, list[TextLine]], truths: dict[str, Truth]) -> Iterator[tuple[str, dict[str, float], bool]]:
    """(kind, facts, right) of every field that was read."""
    seen: dict[str, dict[str, float]] = {}
    original = reader.confidence

    def spy(kind: str, facts: dict[str, float]) -> float:
        seen[kind] = dict(facts)
        return original(kind, facts)

    reader.confidence = spy
    try:
        for key, pieces in lines.items():
            seen.clear()
            receipt = read_receipt(pieces, AS_OF)
            for kind, facts in seen.items():
                ok = right(kind, receipt, truths[key])
                if ok is not None:
                    yield kind, facts, ok
    finally:
        reader.confidence = original


EXPECTED = {
    "fails": -0.8,
    "rivals": -0.8,
    "repaired": -0.8,
    "unnamed": -2.5,
    "negative": -0.8,
    "ambiguous": -2.5,
    "plausible": 1.0,
    "reading": 2.0,
    "depth": -0.8,
}
"""What good sense expects where the data say little: the ridge draws towards these, other weights towards zero."""


def fit(rows: list[tuple[dict[str, float], bool]], names: list[str], ridge: float = 2.0) -> dict[str, float]:
    """Weights of a logistic model by Newton's method; the ridge spares the constant."""
    x = np.array([[1.0, *(facts.get(n, 0.0) for n in names)] for facts, _ in rows])
    y = np.array([float(ok) for _, ok in rows])
    w = prior = np.array([0.0, *(EXPECTED.get(n, 0.0) for n in names)])
    penalty = np.diag([1e-6, *([ridge] * len(names))])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        step = np.linalg.solve(x.T @ (x * (p * (1 - p))[:, None]) + penalty, x.T @ (y - p) - penalty @ (w - prior))
        w = w + step
        if np.abs(step).max() < 1e-6:
            break
    return {name: round(float(v), 2) for name, v in zip(["", *names], w, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of receipts_sroie")
    parser.add_argument("--ocr", type=Path, help="an engine's text instead of the annotated one")
    parser.add_argument("--half", choices=("tune", "check", "all"), default="all", help="which receipts")
    parser.add_argument("--noise", type=float, default=0.0, help="share of misread characters and lost pieces")
    parser.add_argument("--seed", type=int, default=1, help="of the noise")
    parser.add_argument("--fit", action="store_true", help="print new weights")
    parser.add_argument("--show", action="store_true", help="print what was read wrongly")
    parser.add_argument("--json", type=Path, help="write the scores here")
    args = parser.parse_args()
    boxes, truths = annotated(args.data)
    engine = read_engine(args.ocr) if args.ocr else {}
    half = halves(list(truths))
    wanted = [k for k in truths if args.half in ("all", half[k]) and (not engine or k in engine)]
    rng = random.Random(args.seed)  # noqa: S311 - noise, no secret
    if args.fit:
        by_kind: dict[str, list[tuple[dict[str, float], bool]]] = {kind: [] for kind in WEIGHTS}
        chosen = [k for k in truths if args.half in ("all", half[k])]
        sources = [(n, {k: worsened(boxes[k], n, rng) for k in chosen}) for n in NOISES["total"]]
        if engine:
            sources += 3 * [(0.0, {k: engine[k] for k in wanted})]  # real mistakes weigh more than made-up ones
        for noise, source in sources:
            for kind, facts, ok in observations(source, truths):
                if noise in NOISES[kind]:
                    by_kind[kind].append((facts, ok))
        for kind, rows in by_kind.items():
            print(kind, len(rows), "fields,", sum(not ok for _, ok in rows), "wrong:", fit(rows, [n for n in WEIGHTS[kind] if n]))
        return
    lines = {k: (engine or boxes)[k] for k in wanted}
    if args.noise:
        lines = {k: worsened(v, args.noise, rng) for k, v in lines.items()}
    began = time.process_time()
    receipts: dict[str, Receipt] = {k: read_receipt(v, AS_OF) for k, v in lines.items()}
    ms = 1000 * (time.process_time() - began) / max(1, len(lines))
    scores = score_receipts(receipts, {k: truths[k] for k in wanted})
    if args.show:
        for k in wanted:
            for name in FIELDS:
                if not right(name, receipts[k], truths[k]):
                    print(
                        k,
                        name,
                        repr(getattr(receipts[k], name)),
                        "annotated",
                        repr(getattr(truths[k], name)),
                        receipts[k].confidences.get(name),
                    )
    for name, s in scores.items():
        print(
            f"{name:9} {s.right}/{s.n} = {s.rate:.3f} [{s.low:.3f}, {s.high:.3f}]; "
            f"sure {s.sure_share:.3f}, wrong among them {s.sure_wrong} = {s.sure_wrong_share:.3f}"
        )
    reconciled = [r.reconciled for r in receipts.values()]
    print(
        f"sums agree {reconciled.count(True)}, contradict {reconciled.count(False)}, say nothing {reconciled.count(None)}; "
        f"{ms:.1f} ms of CPU a receipt"
    )
    if args.json:
        args.json.write_text(
            json.dumps(
                {"n": len(wanted), "half": args.half, "noise": args.noise, "scores": {k: asdict(v) for k, v in scores.items()}}, indent=1
            )
        )


if __name__ == "__main__":
    main()
