"""Touches to the user tower's sequences: newest last, padded in front.

Shapes: sequence_ids (B, T, 2) = token id, kind code; sequence_values (B, T, 2) = log1p(age in hours) / 10, signed log1p(value) / 5.
The divisors bring ten years and an amount of 150 to about 1; padding is 0 everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from contracts.tensors import SEQUENCE_LENGTH
from features.definitions import Touch, signed_log1p
from features.vocabulary import Vocabulary

_AGE_SCALE, _VALUE_SCALE, _HOUR_S = 10.0, 5.0, 3600.0


def scale_values(ages_s: np.ndarray, values: np.ndarray) -> np.ndarray:
    """float32 (..., 2) from ages in seconds and values; NaN and infinite values count as 0, negative ones keep their sign."""
    clean = np.where(np.isfinite(values), values, 0.0)
    ages = np.log1p(np.maximum(ages_s, 0.0) / _HOUR_S) / _AGE_SCALE
    return np.stack([ages, signed_log1p(clean) / _VALUE_SCALE], axis=-1).astype(np.float32)


def encode(touches: Sequence[Sequence[Touch]], as_of: np.ndarray, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """The sequences of some customers.

    Args:
        touches: for each of B customers, touches in ascending order; the last 50 are taken. Keep only those before the as-of time.
        as_of: float64 (B,), epoch seconds.
        vocabulary: of the model.

    Returns:
        sequence_ids int64 (B, T, 2) and sequence_values float32 (B, T, 2).
    """
    ids = np.zeros((len(touches), SEQUENCE_LENGTH, 2), dtype=np.int64)
    values = np.zeros((len(touches), SEQUENCE_LENGTH, 2), dtype=np.float32)
    for row, mine in enumerate(touches):
        recent = mine[-SEQUENCE_LENGTH:]
        if not recent:
            continue
        times, kinds, tokens, amounts = zip(*recent, strict=True)
        ids[row, -len(recent) :, 0] = [vocabulary.id(t) for t in tokens]
        ids[row, -len(recent) :, 1] = kinds
        values[row, -len(recent) :] = scale_values(as_of[row] - np.array(times), np.array(amounts))
    return ids, values
