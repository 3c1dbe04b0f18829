"""What a user would otherwise write: FastAPI, the torch modules in eager mode, exact search with NumPy, on the same weights.

It is given every advantage of simplicity: customers' states lie in a dict in memory, there is no key to check, no inbox to read, no
filter but validity and stock, no history to write, no explanation to compute.

`python -m benchmarks.baseline_fastapi --home var --port 8100 --now 1760000000`
"""

from __future__ import annotations

import argparse
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from contracts.bundle import MODEL_NAME, deployed_version
from contracts.paths import Home
from contracts.tensors import USER_TOWER
from embeddings.snapshot import Snapshot, from_bundle
from features.online import OnlineSettings, OnlineStore
from features.state import CustomerState, tensors
from features.vocabulary import Vocabulary
from training.recommender.train import load_model
from training.registry import Registry
from warehouse.store import Warehouse


class Ask(BaseModel):
    """The body that the product's endpoint takes."""

    model_config = ConfigDict(alias_generator=to_camel)
    customer_id: str
    context: dict[str, str] | None = None
    num_recommendations: int = 5


def create_app(
    tower: torch.nn.Module, vectors: np.ndarray, vocabulary: Vocabulary, snapshot: Snapshot, states: Mapping[str, CustomerState], now: float
) -> FastAPI:
    """The application.

    Args:
        tower: the user tower, in eval mode.
        vectors: float32 (N, D), in the order of the snapshot's rewards.
        now: epoch seconds at which all requests are answered.
    """
    app = FastAPI()
    names, ids = snapshot.rewards.column("name").to_pylist(), snapshot.rewards.column("reward_id").to_pylist()
    table = snapshot.table
    allowed = (table.valid_from <= now) & (now <= table.valid_to) & (table.inventory != 0)
    nobody = CustomerState()

    @app.post("/recommend")
    def recommend(ask: Ask) -> dict[str, Any]:
        started = time.perf_counter()
        inputs = tensors([states.get(ask.customer_id, nobody)], now, vocabulary)
        with torch.inference_mode():
            user = tower(*(torch.from_numpy(np.ascontiguousarray(inputs[t.name])) for t in USER_TOWER.inputs)).numpy()[0]
        scores = np.where(allowed, vectors @ user, -np.inf)
        top = np.argsort(-scores)[: ask.num_recommendations].tolist()
        return {
            "recommendationId": str(uuid.uuid4()),
            "customerId": ask.customer_id,
            "recommendations": [
                {
                    "rewardId": ids[row],
                    "name": names[row],
                    "score": snapshot.calibration.probability(float(scores[row]), float(snapshot.redeemer_share[row])),
                    "rank": rank,
                }
                for rank, row in enumerate(top, 1)
            ],
            "latency": (time.perf_counter() - started) * 1e3,
        }

    return app


def load_states(home: Home) -> dict[str, CustomerState]:
    """Every customer's state, out of the online store into a dict."""
    with Warehouse(home.warehouse).connect() as db:
        customers = db.execute("SELECT business_id, customer_id FROM customers ORDER BY ALL").fetchall()
    store = OnlineStore(OnlineSettings.load(), home)
    states: dict[str, CustomerState] = {}
    for i in range(0, len(customers), 1000):
        part = customers[i : i + 1000]
        states |= {c: s for (_, c), s in zip(part, store.read_many(part), strict=True) if s is not None}
    store.close()
    return states


def main() -> None:
    """Load the deployed version's torch weights and the customers' states; serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=Path("var"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--now", type=float, required=True, help="serving time, epoch seconds")
    arguments = parser.parse_args()
    home = Home(arguments.home)
    folder = home.models / MODEL_NAME / deployed_version(home.models)
    registry = Registry(home)
    tower = load_model(registry.run_artifacts(registry.latest_run())).user.eval()
    snapshot = from_bundle(folder)
    app = create_app(
        tower, np.load(folder / "item_vectors.npy"), Vocabulary.load(folder / "vocabulary.json"), snapshot, load_states(home), arguments.now
    )
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
