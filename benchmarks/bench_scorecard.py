"""How much better than its peers is the recommender? Runs the scorecard and keeps it with its circumstances.

python -m benchmarks.bench_scorecard online_retail_ii movielens_100k      results/scorecard_<data>_<split>.json each
python -m benchmarks.bench_scorecard --taken FILE                         keeps what `regulars evaluate recommender --json` printed
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import record, write_json

PACKAGES = ("torch", "numpy", "implicit", "duckdb", "pytorch-lightning")


def measured(model: str, data: str, home: Path) -> dict[str, Any]:
    """The scorecard of one data set, in a process of its own."""
    command = [sys.executable, "-m", "regulars", "evaluate", model, "--data", data, "--home", str(home), "--json"]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def keep(result: dict[str, Any]) -> Path:
    """Write results/scorecard_<data>_<split>.json."""
    question = "How much better than its peers is the recommender?"
    ratio = result["ratio_to_best_peer"]
    print(f"{result['data']} ({result['split']}): x{ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}] of {result['best_peer']}")
    name = f"scorecard_{Path(result['data']).name}_{result['split']}"
    return write_json(name, {**record(question, {"seed": result["seed"]}, PACKAGES), "result": result})


def run(model: str, keep: Callable[[dict[str, Any]], Path], description: str | None) -> None:
    """Command line of the scorecard of a model: what `regulars evaluate <model>` takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", help=f"names or folders, as for regulars evaluate {model} --data")
    parser.add_argument("--home", type=Path, default=Path("var"), help="where imports are kept")
    parser.add_argument("--taken", type=Path, action="append", default=[], help="a file that holds the JSON object already")
    asked = parser.parse_args()
    taken = [json.loads(f.read_text(encoding="utf-8")) for f in asked.taken]
    for result in [*taken, *(measured(model, d, asked.home) for d in asked.data)]:
        print(f"Written: {keep(result)}")


if __name__ == "__main__":
    run("recommender", keep, __doc__)
