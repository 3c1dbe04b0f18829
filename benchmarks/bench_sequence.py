"""How much better than its peers does the sequence model tell who leaves and what customers are worth? Runs the scorecard and keeps it.

python -m benchmarks.bench_sequence cdnow online_retail_ii generator      results/sequence_<data>.json each
python -m benchmarks.bench_sequence --taken FILE                          keeps what `regulars evaluate sequence --json` printed
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import record, write_json

PACKAGES = ("torch", "numpy", "lightgbm", "scikit-learn", "scipy", "duckdb", "pytorch-lightning")


def measured(data: str, home: Path) -> dict[str, Any]:
    """The scorecard of one data set, in a process of its own."""
    command = [sys.executable, "-m", "regulars", "evaluate", "sequence", "--data", data, "--home", str(home), "--json"]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def keep(result: dict[str, Any]) -> Path:
    """Write results/sequence_<data>.json."""
    question = "How much better than its peers does the sequence model tell who leaves and what customers are worth?"
    for measure, found in result["versus_best_peer"].items():
        if found:
            span = f"[{found['low']:+.4f}, {found['high']:+.4f}]"
            print(f"{result['data']} {measure}: {found['difference']:+.4f} {span} against {found['peer']}")
    return write_json(f"sequence_{Path(result['data']).name}", {**record(question, {"seed": result["seed"]}, PACKAGES), "result": result})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", help="names or folders, as for regulars evaluate sequence --data")
    parser.add_argument("--home", type=Path, default=Path("var"), help="where imports are kept")
    parser.add_argument("--taken", type=Path, action="append", default=[], help="a file that holds the JSON object already")
    asked = parser.parse_args()
    for result in [*(json.loads(f.read_text(encoding="utf-8")) for f in asked.taken), *(measured(d, asked.home) for d in asked.data)]:
        print(f"Written: {keep(result)}")


if __name__ == "__main__":
    main()
