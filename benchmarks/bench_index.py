"""Which index for which catalogue: exact, IVF and HNSW with a tenth of the rewards filtered out.

    python -m benchmarks.bench_index                                320, 50,000 and 1,000,000 rewards; some minutes
    python -m benchmarks.bench_index --rows 1000000 --centres 5000  one size, vectors of another structure

Vectors are synthetic: customers near some of 200 centres, rewards around them (cosine to the centre 0.64), so that an approximate index has
the structure that a trained model's vectors have. With fewer or more centres, or none, IVF looks at more cells to find as much. One
business owns all, which is the hardest case: with more, each is searched on its own. HNSW is left out above 100,000: minutes to build.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np

from benchmarks.harness import record, write_json
from contracts.tensors import EMBEDDING_DIM
from embeddings.index import Filter, IndexSettings, RewardIndex, RewardTable

KINDS = ("exact", "ivf", "hnsw")
SIZES = [320, 50_000, 1_000_000]
K, FILTERED, DISMISSED, BLOCKS, BURST = 10, 0.10, 3, 5, 20
HNSW_UP_TO, TIE = 100_000, 1e-5


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


def worst_good_scores(vectors: np.ndarray, table: RewardTable, users: np.ndarray, filters: list[Filter]) -> np.ndarray:
    """float32 (B,): the exact k-th best score of each customer, by comparing all; a returned row at least as good counts as found."""
    allowed = np.flatnonzero(table.passes(np.arange(len(table)), Filter("b", 10.0)))
    scores, places = faiss.knn(users, vectors[allowed], K + DISMISSED, metric=faiss.METRIC_INNER_PRODUCT)
    wanted = [[f"r{row}" not in query.dismissed for row in allowed[at]] for at, query in zip(places, filters, strict=True)]
    return np.array([mine[np.array(ok)][K - 1] for mine, ok in zip(scores, wanted, strict=True)])


def recall(index: RewardIndex, users: np.ndarray, filters: list[Filter], worst: np.ndarray) -> np.ndarray:
    """float64 (B,): the share of the exact answer found by each query. Fails when a forbidden row is returned."""
    shares = []
    for user, query, least, found in zip(users, filters, worst, index.search(users, K, filters), strict=True):
        assert len(found.rows) == len(set(found.rows.tolist())) == K, index.kind
        assert index.table.passes(found.rows, query).all(), index.kind
        shares.append(float((index.vectors[found.rows] @ user >= least - TIE).mean()))
    return np.array(shares)


def measure(indexes: dict[str, RewardIndex], users: np.ndarray, filters: list[Filter], seconds: float) -> dict[str, np.ndarray]:
    """Milliseconds of single searches; the kinds take turns by twenty, so that a busy moment hits all of them.

    Not one by one: an exact scan of a million rewards reads 256 MB, after which another kind would begin with nothing in the caches.
    """
    taken: dict[str, list[float]] = {kind: [] for kind in indexes}
    stop, i = time.perf_counter() + seconds, 0
    while time.perf_counter() < stop:
        for kind, index in indexes.items():
            for at in range(i, i + BURST):
                user, query = users[at % len(users)][None], [filters[at % len(users)]]
                start = time.perf_counter()
                index.search(user, K, query)
                taken[kind].append((time.perf_counter() - start) * 1e3)
        i += BURST
    return {kind: np.asarray(values) for kind, values in taken.items()}


def build(kinds: Sequence[str], vectors: np.ndarray, table: RewardTable) -> tuple[dict[str, RewardIndex], dict[str, float]]:
    """The indexes and the seconds that each took."""
    indexes, build_s = {}, {}
    for kind in kinds:
        start = time.perf_counter()
        indexes[kind] = RewardIndex(vectors, table, IndexSettings(kind=kind, exact_below=0))  # type: ignore[arg-type]
        build_s[kind] = time.perf_counter() - start
    return indexes, build_s


def bench(n: int, queries: int, seconds: float, seed: int, centre_count: int) -> list[dict[str, Any]]:
    """One row a kind."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((centre_count, EMBEDDING_DIM)) / np.sqrt(EMBEDDING_DIM) if centre_count else np.zeros((1, EMBEDDING_DIM))
    vectors, users, table = synthetic(rng, centres, n), synthetic(rng, centres, queries), catalogue(rng, n)
    filters = [Filter("b", 10.0, dismissed={f"r{r}" for r in rng.integers(0, n, DISMISSED)}) for _ in range(queries)]
    indexes, build_s = build([k for k in KINDS if k != "hnsw" or n <= HNSW_UP_TO], vectors, table)
    worst = worst_good_scores(vectors, table, users, filters)
    recalls = {kind: recall(index, users, filters, worst) for kind, index in indexes.items()}
    assert recalls["exact"].mean() == 1.0, "the exact index disagrees with itself: nothing below would mean anything"
    measure(indexes, users, filters, seconds / 10)  # warm-up
    blocks, loads = [], []
    for _ in range(BLOCKS):
        blocks.append(measure(indexes, users, filters, seconds / BLOCKS))
        loads.append(os.getloadavg()[0])
    rows = []
    for kind in indexes:
        medians = [float(np.median(block[kind])) for block in blocks]
        together = np.concatenate([block[kind] for block in blocks])
        rows.append(
            {
                "rows": n, "centres": centre_count, "kind": kind, "nprobe": indexes[kind].nprobe if kind == "ivf" else None,
                "recall_at_10": float(recalls[kind].mean()), "worst_recall": float(recalls[kind].min()),
                "p50_ms": float(np.median(medians)), "p50_ms_low": min(medians), "p50_ms_high": max(medians),
                "p99_ms": float(np.percentile(together, 99)), "build_s": build_s[kind], "n_timed": len(together), "n_recall": queries,
                "load": [round(load, 1) for load in loads],
            }
        )  # fmt: skip
    return rows


def main() -> None:
    """Run, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES, help="catalogue sizes")
    parser.add_argument("--centres", type=int, default=200, help="of the synthetic vectors; 0: no structure at all")
    parser.add_argument("--queries", type=int, default=500, help="customers, for recall and for timing")
    parser.add_argument("--seconds", type=float, default=10.0, help="timing per size, all kinds together")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    fixed = {"k": K, "dim": EMBEDDING_DIM, "filtered": FILTERED, "dismissed": DISMISSED, "threads": 1, "batch": 1, "blocks": BLOCKS}
    settings = {**vars(options), **fixed, "load_at_start": os.getloadavg()[0]}
    defaults = IndexSettings().public()
    result = record("Which index for which catalogue?", settings | {"index": defaults | {"exact_below": 0}}, ["faiss-cpu", "numpy"])
    rows = [row for n in options.rows for row in bench(n, options.queries, options.seconds, options.seed, options.centres)]
    print(
        f"{'rows':>9} {'kind':<6} {'cells':>5} {'recall@10':>9} {'worst':>6} {'p50 ms (spread)':>21} {'p99 ms':>8} {'build s':>8} {'n':>7}"
    )
    for r in rows:
        spread = f"{r['p50_ms']:.3f} ({r['p50_ms_low']:.3f}-{r['p50_ms_high']:.3f})"
        print(
            f"{r['rows']:>9,} {r['kind']:<6} {r['nprobe'] or '':>5} {r['recall_at_10']:>9.4f} {r['worst_recall']:>6.2f} {spread:>21} "
            f"{r['p99_ms']:>8.2f} {r['build_s']:>8.2f} {r['n_timed']:>7,}"
        )
    size = "" if options.rows == SIZES else "-" + "-".join(str(n) for n in options.rows)
    structure = "" if options.centres == 200 else f"-{options.centres}-centres"
    print(write_json(f"index{size}{structure}", result | {"results": rows}).name)


if __name__ == "__main__":
    main()
