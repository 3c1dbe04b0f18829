"""Scoring over Ray Data: shards are rows of a dataset, actors hold the model, what comes back are reports.

`python -m ray_apps.scoring.cluster` is the process that holds Ray, of its own for the reasons given in `ray_apps.host`: it is started by
`score_shards`, told what to do in one JSON line, and prints one line a finished shard. Rows never travel through Ray: an actor writes a
shard's file itself, so the object store stays small whatever is scored.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ray_apps.host import PDEATHSIG, prctl, report, start_ray
from ray_apps.scoring.runs import Run
from ray_apps.scoring.settings import ScoreSettings
from ray_apps.scoring.shard import ShardReport, ShardScorer
from ray_apps.supervisor import RayHost

MODULE = "ray_apps.scoring.cluster"
START_S = 180.0


def score_shards(settings: ScoreSettings, run: Run, shards: Sequence[int]) -> Iterator[ShardReport]:
    """Score shards on a Ray started for this call, or on the cluster of `settings.ray_address`; reports as they are done.

    Raises:
        UpstreamError: the process that holds Ray failed or ended, or the cluster could not be joined.
        UpstreamTimeout: Ray did not start in time.
    """
    host = RayHost(settings.folder.run / "logs", own=settings.ray_address is None)
    orders = {
        "run_folder": str(host.run),
        "address": settings.ray_address,
        "object_store_mb": settings.object_store_mb,
        "home": str(settings.home.resolve()),
        "run": run.model_dump(mode="json"),
        "shards": list(shards),
        "workers": min(settings.worker_count, len(shards)),
    }
    try:
        host.spawn(MODULE, orders, "score.log")
        host.wait_for("ray", START_S)
        for _ in shards:
            yield ShardReport(**host.wait_for("shard", None)["of"])
    finally:
        host.stop()


class ShardActor:
    """One worker: a model, and as many shards as it is given.

    Args:
        home: as every machine of the cluster sees it. run: the record, JSON-ready.
    """

    def __init__(self, home: str, run: dict[str, Any]) -> None:
        self._scorer = ShardScorer(Path(home), Run.model_validate(run))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Score the shards of a batch: column `shard` to column `report` (JSON)."""
        done = [json.dumps(self._scorer.score(int(shard)).as_dict()) for shard in batch["shard"]]
        return {"report": np.array(done, dtype=object)}


def score_on_ray(orders: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Reports of the shards as Ray Data has them done; Ray is running."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    shards, workers = orders["shards"], orders["workers"]
    dataset = ray.data.from_items([{"shard": s} for s in shards], override_num_blocks=len(shards)).map_batches(
        ShardActor,
        batch_size=1,
        # One shard waits at an actor while it works on another; more would leave the last actor alone with what waits.
        compute=ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
        num_cpus=min(1.0, (os.cpu_count() or 1) / workers),
        fn_constructor_args=(orders["home"], orders["run"]),
    )
    for row in dataset.iter_rows():
        yield json.loads(row["report"])


def _join(address: str) -> None:
    import ray

    ray.init(address=address, log_to_driver=False, configure_logging=False)


def _on_terminate(signum: int, frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)


def main() -> None:
    """Start or join Ray, score, report."""
    import logging

    prctl(PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _on_terminate)
    logging.getLogger("ray").setLevel(logging.WARNING)
    orders = json.loads(sys.stdin.readline())
    import ray

    try:
        if orders["address"]:
            _join(orders["address"])
        else:
            start_ray(Path(orders["run_folder"]), orders["object_store_mb"])
        report("ray")
        for of in score_on_ray(orders):
            report("shard", of=of)
    except Exception as exc:
        cause = getattr(exc, "cause", None) or exc
        report("failed", error=f"{type(cause).__name__}: {cause}"[-2000:])
        raise
    finally:
        if ray.is_initialized():
            ray.shutdown()


if __name__ == "__main__":
    main()
