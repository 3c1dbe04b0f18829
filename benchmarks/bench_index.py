"""Which index for which catalogue: exact, IVF and HNSW with a tenth of the rewards filtered out.

    python -m benchmarks.bench_index                      320 and 50,000 rewards
    python -m benchmarks.bench_index --rows 1000000       one size; HNSW takes minutes to build there

Vectors are synthetic: customers near some of 200 centres, rewards around them, so that an approximate index has the structure that a
trained model's vectors have. One business owns all, which is the hardest case: with more, each is searched on its own.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

import faiss
import numpy as np

from benchmarks.harness import record, write_json
from contracts.tensors import EMBEDDING_DIM
from embeddings.index import Filter, IndexSettings, RewardIndex, RewardTable
from embeddings.recall import recall_at_k

KINDS = ("exact", "ivf", "hnsw")
K, CENTRES, FILTERED, DISMISSED = 10, 200, 0.10, 3


def synthetic(rng: np.random.Generator, centres: np.ndarray, n: int) -> np.ndarray:
    """float32 (n, D) unit vectors around the centres."""
    x = centres[rng.integers(0, len(centres), n)] + rng.standard_normal((n, centres.shape[1])) * 0.15
    unit: np.ndarray = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return unit


def catalogue(rng: np.random.Generator, n: int) -> RewardTable:
    """One business; a tenth is sold out or expired."""
    gone = rng.random(n) < FILTERED
    half = rng.random(n) < 0.5
    return RewardTable.build(
        [f"r{i}" for i in range(n)],
        ["b"] * n,
        valid_to=np.where(gone & half, 1.0, np.inf),
        inventory=np.where(gone & ~half, 0, -1),
    )


def measure(indexes: dict[str, RewardIndex], users: np.ndarray, filters: list[Filter], seconds: float) -> dict[str, np.ndarray]:
    """Microseconds of single searches; the kinds take turns, so that a busy moment hits all of them."""
    taken: dict[str, list[float]] = {kind: [] for kind in indexes}
    for index in indexes.values():  # warm-up
        for i in range(50):
            index.search(users[i % len(users)][None], K, [filters[i % len(users)]])
    stop, i = time.perf_counter() + seconds, 0
    while time.perf_counter() < stop:
        user, query = users[i % len(users)][None], [filters[i % len(users)]]
        for kind, index in indexes.items():
            start = time.perf_counter()
            index.search(user, K, query)
            taken[kind].append((time.perf_counter() - start) * 1e6)
        i += 1
    return {kind: np.asarray(values) for kind, values in taken.items()}


def bench(n: int, queries: int, seconds: float, seed: int, exact_below: int) -> list[dict[str, Any]]:
    """One row a kind."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((CENTRES, EMBEDDING_DIM)) / np.sqrt(EMBEDDING_DIM)
    vectors, users, table = synthetic(rng, centres, n), synthetic(rng, centres, queries), catalogue(rng, n)
    filters = [Filter("b", 10.0, dismissed={f"r{r}" for r in rng.integers(0, n, DISMISSED)}) for _ in range(queries)]
    indexes, build_s = {}, {}
    for kind in KINDS:
        start = time.perf_counter()
        indexes[kind] = RewardIndex(vectors, table, IndexSettings(kind=kind, exact_below=exact_below))  # type: ignore[arg-type]
        build_s[kind] = time.perf_counter() - start
    recalls = {kind: recall_at_k(index, users, K, filters) for kind, index in indexes.items()}
    assert recalls["exact"].mean == 1.0, "the exact index disagrees with NumPy: nothing below would mean anything"
    for kind, index in indexes.items():
        for query, found in zip(filters, index.search(users, K, filters), strict=True):
            assert len(found.rows) == K, kind
            assert table.passes(found.rows, query).all(), kind
    taken = measure(indexes, users, filters, seconds)
    return [
        {
            "rows": n,
            "kind": kind,
            "recall_at_10": recalls[kind].mean,
            "worst_recall": recalls[kind].worst,
            "p50_us": float(np.percentile(taken[kind], 50)),
            "p99_us": float(np.percentile(taken[kind], 99)),
            "build_s": build_s[kind],
            "n_timed": len(taken[kind]),
            "n_recall": recalls[kind].n,
        }
        for kind in KINDS
    ]


def main() -> None:
    """Run, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, nargs="+", default=[320, 50_000], help="catalogue sizes")
    parser.add_argument("--queries", type=int, default=500, help="customers, for recall and for timing")
    parser.add_argument("--seconds", type=float, default=6.0, help="timing per size, all kinds together")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    load = os.getloadavg()[0]
    settings = {
        **vars(options),
        "k": K,
        "dim": EMBEDDING_DIM,
        "filtered": FILTERED,
        "dismissed": DISMISSED,
        "threads": 1,
        "batch": 1,
        "load_at_start": load,
    }
    defaults = IndexSettings().public()
    result = record("Which index for which catalogue?", settings | {"index": defaults | {"exact_below": 0}}, ["faiss-cpu", "numpy"])
    rows = [row for n in options.rows for row in bench(n, options.queries, options.seconds, options.seed, exact_below=0)]
    print(f"{'rows':>9} {'kind':<6} {'recall@10':>9} {'worst':>6} {'p50 µs':>9} {'p99 µs':>9} {'build s':>8} {'n':>7}")
    for r in rows:
        print(
            f"{r['rows']:>9,} {r['kind']:<6} {r['recall_at_10']:>9.4f} {r['worst_recall']:>6.2f} "
            f"{r['p50_us']:>9.1f} {r['p99_us']:>9.1f} {r['build_s']:>8.2f} {r['n_timed']:>7,}"
        )
    size = "" if options.rows == [320, 50_000] else "-" + "-".join(str(n) for n in options.rows)
    print(write_json(f"index{size}", result | {"results": rows}).name)


if __name__ == "__main__":
    main()
