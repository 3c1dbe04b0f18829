"""Inputs and outputs of each served model. The `config.pbtxt` files, the exporters and the clients all answer to these.

Letters: B batch, T steps, F features, A attributes, D embedding dim, P pair features, W weeks, C channels, S static features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from contracts.errors import ShapeError

SEQUENCE_LENGTH = 50  # T: the most recent touches of a customer
FEATURE_COUNT = 44  # F: customer features and context
ATTRIBUTE_COUNT = 12  # A: numeric attributes and type of a reward
TEXT_DIM = 384  # all-MiniLM-L6-v2
EMBEDDING_DIM = 64  # D
PAIR_COUNT = 40  # P: what is known of one customer and one reward together (features.pairs)
RANKER_HEADS = ("redeem", "view")
OFFER_TYPE_COUNT = 8  # contracts.tables.REWARD_TYPES, in that order
WEEK_COUNT = 52  # W: weekly steps of the sequence model, the newest last
CHANNEL_COUNT = 12  # C: what one weekly step says (features.weekly)
STATIC_COUNT = 40  # S: what is known of a customer beside the weeks (features.weekly)
FACTORS = ("recency", "frequency", "monetary", "engagement", "redemption", "tenure", "feedback", "season")
"""The named factors that a forecast is attributed to; each input of the sequence model belongs to one (features.weekly)."""
HORIZONS_DAYS = (30, 60, 90)
MONTH_COUNT = 12
MONTH_DAYS = 30.4375
STEP_COUNT = 10  # 30-day steps of the curve of the first silent period

_TRITON = {"float32": "FP32", "int64": "INT64", "int32": "INT32", "uint8": "UINT8"}


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor of a served model, without the batch dimension.

    Attributes:
        name: as in the ONNX graph and in Triton's config.
        dtype: NumPy name, for example `float32`.
        shape: sizes after the batch dimension; -1 where a request chooses.
        sizes: smallest, usual and largest of each -1 of an input, in order, for what is compiled for a range of shapes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    sizes: tuple[tuple[int, int, int], ...] = ()

    @property
    def triton_dtype(self) -> str:
        return _TRITON[self.dtype]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether sizes without the batch dimension are this tensor's."""
        return len(shape) == len(self.shape) and all(wanted in (-1, found) for wanted, found in zip(self.shape, shape, strict=True))

    def shaped(self, which: int) -> tuple[int, ...]:
        """The shape with each -1 replaced by its smallest (0), usual (1) or largest (2) size."""
        free = iter(self.sizes)
        return tuple(next(free)[which] if size == -1 else size for size in self.shape)

    def check(self, array: np.ndarray) -> None:
        """Raise ShapeError unless `array` is (B, *shape) of this dtype."""
        if array.dtype != np.dtype(self.dtype) or not self.fits(array.shape[1:]):
            raise ShapeError(
                f"tensor {self.name} is {array.dtype} {tuple(array.shape)}, must be {self.dtype} (B, {', '.join(map(str, self.shape))}). "
                "Build it with features.sequences."
            )


@dataclass(frozen=True)
class ModelSpec:
    """A served model: its name in the model repository and its tensors."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int


USER_TOWER = ModelSpec(
    "user_tower",
    inputs=(
        TensorSpec("sequence_ids", "int64", (SEQUENCE_LENGTH, 2)),  # token (0 pad, 1 unknown), kind (0 pad)
        TensorSpec("sequence_values", "float32", (SEQUENCE_LENGTH, 2)),  # log1p(age in hours), log1p(value)
        TensorSpec("features", "float32", (FEATURE_COUNT,)),
    ),
    outputs=(TensorSpec("user_vector", "float32", (EMBEDDING_DIM,)),),
    max_batch_size=256,
)
ITEM_TOWER = ModelSpec(
    "item_tower",
    inputs=(
        TensorSpec("item_ids", "int64", (2,)),  # reward token (1 when unseen), category token
        TensorSpec("attributes", "float32", (ATTRIBUTE_COUNT,)),
        TensorSpec("text_vector", "float32", (TEXT_DIM,)),
    ),
    outputs=(TensorSpec("item_vector", "float32", (EMBEDDING_DIM,)),),
    max_batch_size=1024,
)
RANKER = ModelSpec(
    "ranker",  # one row a candidate: all candidates of a request are one batch
    inputs=(
        TensorSpec("pair_features", "float32", (PAIR_COUNT,)),
        TensorSpec("user_vector", "float32", (EMBEDDING_DIM,)),
        TensorSpec("item_vector", "float32", (EMBEDDING_DIM,)),
        TensorSpec("features", "float32", (FEATURE_COUNT,)),
    ),
    outputs=(TensorSpec("logits", "float32", (len(RANKER_HEADS),)),),
    max_batch_size=512,
)
NEXT_OFFER = ModelSpec(
    "next_offer",
    inputs=(TensorSpec("user_vector", "float32", (EMBEDDING_DIM,)), TensorSpec("features", "float32", (FEATURE_COUNT,))),
    outputs=(TensorSpec("offer_logits", "float32", (OFFER_TYPE_COUNT,)),),
    max_batch_size=256,
)
MODELS: dict[str, ModelSpec] = {m.name: m for m in (USER_TOWER, ITEM_TOWER, RANKER, NEXT_OFFER)}
"""In the order of the request: a tensor of one name is the same tensor wherever it occurs (the towers' vectors are the ranker's inputs)."""

_HISTORY = (
    TensorSpec("weeks", "float32", (WEEK_COUNT, CHANNEL_COUNT)),  # newest last, zeros before the customer was known
    TensorSpec("statics", "float32", (STATIC_COUNT,)),
)
_FORECAST = (
    TensorSpec("churn", "float32", (len(HORIZONS_DAYS),)),  # P(no purchase in the next 30, 60, 90 days), calibrated; falls with the horizon
    TensorSpec("silent_by", "float32", (STEP_COUNT,)),  # P(the first 90 silent days begin by day 0, 30, .. 270); its first is churn at 90
    TensorSpec("purchase_probability", "float32", (MONTH_COUNT,)),  # P(at least one purchase in month 1..12)
    TensorSpec("spend", "float32", (MONTH_COUNT,)),  # expected net spend of each month; they add up to the predicted CLV
    TensorSpec("spend_interval", "float32", (2,)),  # 80 % interval of the 12 months' sum
)
SEQUENCE = ModelSpec(
    "sequence",
    inputs=_HISTORY,
    outputs=(*_FORECAST, TensorSpec("impact_estimates", "float32", (len(FACTORS),))),  # learned from the exact ones; for batches
    max_batch_size=1024,
)
SEQUENCE_FACTORS = ModelSpec(
    "sequence_factors",  # the same weights, run on every coalition of factors: exact Shapley values of churn at 90 days
    inputs=_HISTORY,
    outputs=(
        *_FORECAST,
        TensorSpec("impacts", "float32", (len(FACTORS),)),  # add up to churn at 90 days less `reference`
        TensorSpec("reference", "float32", (1,)),  # churn at 90 days of the reference customer
    ),
    max_batch_size=16,
)
SEQUENCE_MODELS: dict[str, ModelSpec] = {m.name: m for m in (SEQUENCE, SEQUENCE_FACTORS)}
"""The models of one version of `sequence`, deployed together and apart from the recommender's."""


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of two outputs of one model, relative to the largest value of its row where that is over 1.

    Vectors of length 1 are compared as they are; logits, which may be of any size, in proportion. Infinite for other shapes and where a
    value is not finite.

    Args:
        found, expected: (B, ...).
    """
    if found.shape != expected.shape:
        return float("inf")
    wanted = expected.astype(np.float64)
    size = np.abs(wanted).max(axis=tuple(range(1, wanted.ndim)), keepdims=True, initial=1.0)
    gap = np.abs(found.astype(np.float64) - wanted) / size
    return float(gap.max(initial=0.0)) if np.isfinite(gap).all() else float("inf")
