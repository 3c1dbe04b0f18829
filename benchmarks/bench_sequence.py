"""How much better than its peers does the sequence model tell who leaves and what customers are worth? Runs the scorecard and keeps it.

python -m benchmarks.bench_sequence cdnow online_retail_ii generator      results/sequence_<data>.json each
python -m benchmarks.bench_sequence --taken FILE                          keeps what `regulars evaluate sequence --json` printed
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.bench_scorecard import run
from benchmarks.harness import record, write_json

PACKAGES = ("torch", "numpy", "lightgbm", "scikit-learn", "scipy", "duckdb", "pytorch-lightning")


def keep(result: dict[str, Any]) -> Path:
    """Write results/sequence_<data>.json."""
    question = "How much better than its peers does the sequence model tell who leaves and what customers are worth?"
    for measure, found in result["versus_best_peer"].items():
        if found:
            span = f"[{found['low']:+.4f}, {found['high']:+.4f}]"
            print(f"{result['data']} {measure}: {found['difference']:+.4f} {span} against {found['peer']}")
    return write_json(f"sequence_{Path(result['data']).name}", {**record(question, {"seed": result["seed"]}, PACKAGES), "result": result})


if __name__ == "__main__":
    run("sequence", keep, __doc__)
