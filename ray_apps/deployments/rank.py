"""The second stage of a request: candidates, what the ranker sees of them, and its answer as probabilities.

Letters: K candidates, P pair features, D embedding dim, N rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from contracts.bundle import Ranking
from embeddings.table import Filter
from features.pairs import History, context_of, nearest, pair_features
from features.state import CustomerState
from ray_apps.deployments.model import Served

REDEEM = 0


@dataclass(frozen=True, slots=True)
class Candidates:
    """The candidates of one request.

    Attributes:
        rows: int64 (K,), of the catalogue. inputs: the ranker's tensors, one row each.
        features: float32 (F,), the customer's.
    """

    rows: np.ndarray
    inputs: dict[str, np.ndarray]
    features: np.ndarray


def candidates(
    served: Served, vector: np.ndarray, tower: dict[str, np.ndarray], state: CustomerState, rules: Filter, now: float, most: int
) -> Candidates:
    """The nearest allowed rewards, the customer's own and their neighbours, with all that the ranker takes.

    Args:
        vector: float32 (1, D), L2 norm 1. tower: the user tower's inputs that it was made from.
        state: as of now. most: nearest rewards by vector.
    """
    history = History.of_state(state, rules.business_id, served.catalogue.row)
    rows = _rows(served, vector, history, rules, most)
    vectors = served.catalogue.vectors
    features = tower["features"][0]
    context = context_of(features, tower["sequence_ids"][0], tower["sequence_values"][0], now, served.token_rows[rules.business_id])
    item_vector = vectors[rows]
    pairs = pair_features(rows, item_vector @ vector[0], history, context, served.stats, vectors)
    k = len(rows)
    inputs = {
        "pair_features": pairs,
        "user_vector": np.repeat(vector, k, axis=0),
        "item_vector": item_vector,
        "features": np.repeat(tower["features"], k, axis=0),
    }
    return Candidates(rows, inputs, features)


def _rows(served: Served, vector: np.ndarray, history: History, rules: Filter, most: int) -> np.ndarray:
    """int64 (K,), ascending."""
    found = served.snapshot.index.search(vector, most, [rules])[0].rows
    if len(found) < most:  # everything that is allowed is there already
        return np.sort(found)
    more = np.setdiff1d(nearest(history, served.stats), found)
    more = more[served.snapshot.table.passes(more, rules)] if len(more) else more
    return np.sort(np.concatenate([found, more]))


def of_share(ranking: Ranking, features: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """From shares of the softmax over the candidates, any shape, to calibrated probabilities for one customer, features (F,)."""
    rate = float(ranking.log_rate(features))

    def probability(share: np.ndarray) -> np.ndarray:
        z = ranking.slope * (rate + np.log(np.maximum(share, 1e-300))) + ranking.intercept
        return np.asarray(-np.expm1(-np.exp(np.clip(z, -700.0, 4.0))))

    return probability


def ordered(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    """int64 (K,), positions from the highest; equal ones in the order of the rows."""
    return np.argsort(-np.asarray(scores), kind="stable")
