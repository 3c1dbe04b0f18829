"""The catalogue as the item tower sees it; training and serving both call this."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts.errors import ContractError
from contracts.tables import REWARD_TYPES
from contracts.tensors import ATTRIBUTE_COUNT
from features.vocabulary import Vocabulary

ATTRIBUTE_NAMES = ("points_cost", "face_value", "difficulty", "has_validity_window", *(f"type_{t}" for t in REWARD_TYPES))
assert len(ATTRIBUTE_NAMES) == ATTRIBUTE_COUNT  # noqa: S101 - our own mistake, at import

_SCALES = {"points_cost": 8.0, "face_value": 5.0, "difficulty": 5.0}


def attributes(rewards: pa.Table) -> np.ndarray:
    """Numeric attributes and type of each reward.

    Args:
        rewards: columns of the `rewards` table.

    Returns:
        float32 (N, 12): log1p of points_cost, face_value and difficulty (scaled; 0 where missing), 1 where a validity window is
        set, and the type one-hot.

    Raises:
        ContractError: a reward type that is not known.
    """
    out = np.zeros((rewards.num_rows, ATTRIBUTE_COUNT), dtype=np.float32)
    for column, (name, scale) in enumerate(_SCALES.items()):
        numbers = pc.fill_null(pc.cast(rewards[name], pa.float64()), 0.0).to_numpy(zero_copy_only=False)
        out[:, column] = np.log1p(np.maximum(numbers, 0.0)) / scale
    window = pc.or_(pc.is_valid(rewards["valid_from"]), pc.is_valid(rewards["valid_to"]))
    out[:, 3] = window.to_numpy(zero_copy_only=False)
    types = rewards["reward_type"].to_pylist()
    unknown = sorted({str(t) for t in types} - set(REWARD_TYPES))
    if unknown:
        raise ContractError(
            f"reward type {', '.join(unknown)} is not known; it must be one of {', '.join(REWARD_TYPES)}. Correct the catalogue."
        )
    out[np.arange(len(types)), [4 + REWARD_TYPES.index(t) for t in types]] = 1.0
    return out


def item_ids(rewards: pa.Table, vocabulary: Vocabulary) -> np.ndarray:
    """int64 (N, 2): reward token (1 when the model has not seen it) and category token."""
    ids = vocabulary.encode(f"r:{r}" for r in rewards["reward_id"].to_pylist())
    categories = vocabulary.encode(f"c:{c}" if c else "" for c in rewards["category"].to_pylist())
    return np.stack([ids, categories], axis=1)


def texts(rewards: pa.Table) -> list[str]:
    """`name. description. category` of each reward, what is missing left out: the sentence that is embedded."""
    rows = rewards.select(["name", "description", "category"]).to_pylist()
    return [". ".join(str(v).strip().rstrip(".") for v in row.values() if v and str(v).strip()) for row in rows]
