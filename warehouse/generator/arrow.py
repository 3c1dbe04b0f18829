"""NumPy columns to Arrow columns of the contract's types, without a Python object per value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts.tables import MONEY, TEXT, TIMESTAMP


def numbered(prefix: str, numbers: np.ndarray, width: int) -> pa.Array:
    """`prefix` and each number with leading zeros."""
    digits = pc.utf8_lpad(pa.array(np.asarray(numbers, dtype=np.int64)).cast(TEXT), width=width, padding="0")
    return pc.binary_join_element_wise(pa.scalar(prefix), digits, "") if prefix else digits


def take(values: Sequence[str | None] | pa.Array, index: np.ndarray) -> pa.Array:
    """`values[index]` as text; an index below 0 gives null."""
    source = values if isinstance(values, pa.Array) else pa.array(values, type=TEXT)
    return source.take(pa.array(index, mask=index < 0))


def decimals(cents: np.ndarray, null: np.ndarray | None = None) -> pa.Array:
    """Whole cents (int64) as the contract's money type, exactly; null where told."""
    words = np.empty((len(cents), 2), dtype=np.int64)
    words[:, 0] = cents * 100
    words[:, 1] = words[:, 0] >> 63
    array = pa.Array.from_buffers(MONEY, len(cents), [None, pa.py_buffer(words)])
    return array if null is None else pc.if_else(pa.array(null), pa.scalar(None, MONEY), array)


def timestamps(microseconds: np.ndarray, null: np.ndarray | None = None) -> pa.Array:
    """Microseconds since the epoch as the contract's timestamp type; null where told."""
    return pa.array(np.asarray(microseconds, dtype=np.int64), mask=null).cast(TIMESTAMP)


def whole(values: np.ndarray, null: np.ndarray | None = None) -> pa.Array:
    """int64, null where told."""
    return pa.array(np.asarray(values, dtype=np.int64), mask=null)


def real(values: np.ndarray) -> pa.Array:
    """float64; NaN becomes null."""
    return pa.array(values, type=pa.float64(), mask=np.isnan(values))
