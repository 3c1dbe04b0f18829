"""How much better than its peers are receipts read and products recognised? Runs the scorecards and keeps them with their circumstances.

    python -m benchmarks.bench_vision receipts --data receipts_sroie [--home HOME] [--pictures N] [--fresh]      results/receipts.json
    python -m benchmarks.bench_vision products --data grocery_products [--home HOME] [--model FOLDER]            results/products.json
    python -m benchmarks.bench_vision receipts --taken FILE       keeps what `regulars evaluate receipts --json` printed

Which receipts were misread is not kept, only how many: of the half that the rules were written with (`tune`) and of the other one
(`check`), see `bench_receipts.halves`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.bench_receipts import halves
from benchmarks.harness import record, write_json
from contracts.realdata import RealdataSettings, find_set
from vision.scorecard import read_receipt_set

QUESTIONS = {
    "receipts": "How exactly are receipts read, beside what else one would try?",
    "products": "How well are products recognised, by the network, by a catalogue of few photos, and without any network?",
}
PACKAGES = ("rapidocr", "onnxruntime", "opencv-python-headless", "numpy", "faiss-cpu")


def measured(what: str, asked: argparse.Namespace) -> dict[str, Any]:
    """The scorecard of a set, in a process of its own."""
    command = [sys.executable, "-m", "regulars", "evaluate", what, "--data", asked.data, "--home", str(asked.home), "--json"]
    if what == "receipts":
        command += ["--pictures", str(asked.pictures)] if asked.pictures else []
        command += ["--fresh"] if asked.fresh else []
    elif asked.model:
        command += ["--model", str(asked.model)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def by_half(result: dict[str, Any]) -> dict[str, Any]:
    """The result with counts of misread receipts by half in place of their ids."""
    pages = read_receipt_set(find_set(result["data"], RealdataSettings.load())).pages
    half = halves([p.receipt_id for p in pages])
    read = [p.receipt_id for p in pages][: result["pictures"]]
    sizes = {h: sum(half[i] == h for i in read) for h in ("tune", "check")}
    rows = []
    for row in result["rows"]:
        misread = row.pop("misread", None)
        if misread is not None:
            row["misread"] = {h: {name: sum(half[i] == h for i in ids) for name, ids in misread.items()} for h in sizes}
        rows.append(row)
    return {**result, "halves": sizes, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=tuple(QUESTIONS))
    parser.add_argument("--data", help="name or folder, as for regulars evaluate")
    parser.add_argument("--home", type=Path, default=Path("var"), help="where networks and readings are kept")
    parser.add_argument("--pictures", type=int, help="of receipts: only the first so many")
    parser.add_argument("--fresh", action="store_true", help="of receipts: read every picture again")
    parser.add_argument("--model", type=Path, help="of products: folder of the network")
    parser.add_argument("--taken", type=Path, help="a file that holds the JSON object already")
    asked = parser.parse_args()
    if not asked.data and not asked.taken:
        parser.error("give --data or --taken")
    result = json.loads(asked.taken.read_text(encoding="utf-8")) if asked.taken else measured(asked.what, asked)
    if asked.what == "receipts":
        result = by_half(result)
    for row in result["rows"]:
        print(
            row["model"],
            {k: v for k, v in row.items() if k in ("company", "date", "total", "fine_top1", "coarse_top1", "median_s", "median_ms")},
        )
    how = {"load": os.getloadavg()[0], "taken": bool(asked.taken)}
    print(f"Written: {write_json(asked.what, {**record(QUESTIONS[asked.what], how, PACKAGES), 'result': result})}")


if __name__ == "__main__":
    main()
