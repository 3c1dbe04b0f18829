"""Which rows of a batch are good: types row by row, required values, and the table's checks.

A value's verdict depends on nothing but that value and its Arrow type, never on its neighbours in the batch: however a history is
split into batches, the same rows land.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any

import duckdb
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from contracts.errors import ContractError
from contracts.tables import TIMESTAMP, Table

EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)
"""Timestamps outside [EARLIEST, LATEST) are put aside as `<column>_out_of_range`: a typing error would open a partition of its own."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LOW_US, _HIGH_US = (EARLIEST - _EPOCH) // _MICROSECOND, (LATEST - _EPOCH) // _MICROSECOND
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_MONEY_LIMIT = 10**14  # decimal(18, 4)
_MONEY_STEP = Decimal("0.0001")
_INTEGER = re.compile(r"[+-]?\d{1,19}(\.0*)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_BOOLEANS = {"true": True, "t": True, "yes": True, "y": True, "1": True, "false": False, "f": False, "no": False, "n": False, "0": False}


@dataclass(frozen=True)
class Verdict:
    """What `validate` found.

    Attributes:
        good: rows that may land, exactly the contract's columns and types, in the batch's order.
        reasons: object (rows of the batch,), None where the row is good, else why it is put aside.
    """

    good: pa.Table
    reasons: np.ndarray

    @property
    def rejected(self) -> int:
        return len(self.reasons) - self.good.num_rows

    def counts(self) -> dict[str, int]:
        """Rows put aside by reason."""
        return dict(sorted(Counter(r for r in self.reasons if r is not None).items())) if self.rejected else {}


def validate(table: Table, batch: pa.Table) -> Verdict:
    """Judge each row; the first reason that applies is the one given.

    Raises:
        ContractError: the batch has a column that the table does not know, or one name twice.
    """
    _check_names(table, batch)
    reasons = np.full(batch.num_rows, None, dtype=object)
    columns = []
    for field in table.schema:
        if field.name not in batch.column_names:
            column = pa.nulls(batch.num_rows, field.type)
        else:
            column, bad = convert(batch[field.name], field.type)
            for suffix, mask in bad.items():
                _mark(reasons, mask, f"{field.name}_{suffix}")
        columns.append(column)
        if not field.nullable:
            _mark(reasons, _missing(column), f"{field.name}_missing")
    cast = pa.table(columns, schema=pa.schema([pa.field(f.name, f.type) for f in table.schema]))
    _run_checks(table, cast, reasons)
    keep = np.array([r is None for r in reasons], dtype=bool) if any(r is not None for r in reasons) else None
    return Verdict(cast if keep is None else cast.filter(pa.array(keep)), reasons)


def aside(batch: pa.Table, verdict: Verdict, source: str, at: datetime) -> pa.Table:
    """The rows put aside, each as JSON of what came in: columns reason, row, source, put_aside_at."""
    index = np.flatnonzero([r is not None for r in verdict.reasons])
    part = batch.take(pa.array(index, pa.int64()))
    values = {name: _readable(part[name]) for name in part.column_names}
    rows = [_json({name: values[name][i] for name in values}) for i in range(len(index))]
    return pa.table(
        {
            "reason": pa.array([str(verdict.reasons[i]) for i in index], pa.string()),
            "row": pa.array(rows, pa.string()),
            "source": pa.array([source] * len(index), pa.string()),
            "put_aside_at": pa.array([at] * len(index), TIMESTAMP),
        }
    )


def _check_names(table: Table, batch: pa.Table) -> None:
    unknown = [n for n in batch.column_names if n not in table.columns]
    if unknown:
        raise ContractError(
            f"{table.name} has no column {', '.join(unknown)}; it has {', '.join(table.columns)}. Rename or drop what is unknown."
        )
    twice = [n for n, count in Counter(batch.column_names).items() if count > 1]
    if twice:
        raise ContractError(
            f"the batch for {table.name} has column {', '.join(twice)} twice, each name may come once. Drop one of the two."
        )


def _mark(reasons: np.ndarray, mask: np.ndarray, reason: str) -> None:
    if mask.any():
        hit = np.flatnonzero(mask)
        reasons[[i for i in hit if reasons[i] is None]] = reason


def _missing(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    null = pc.is_null(column)
    if pa.types.is_string(column.type):
        null = pc.or_kleene(null, pc.equal(pc.binary_length(pc.utf8_trim_whitespace(column)), 0))
    return _bool(null)


def _bool(mask: Any) -> np.ndarray:
    array = mask.combine_chunks() if isinstance(mask, pa.ChunkedArray) else mask
    return np.asarray(array.fill_null(False).to_numpy(zero_copy_only=False), dtype=bool)


def _run_checks(table: Table, cast: pa.Table, reasons: np.ndarray) -> None:
    if not table.checks or not cast.num_rows:
        return
    cases = " ".join(f"WHEN NOT ({c.predicate}) THEN {i}" for i, c in enumerate(table.checks))
    numbered = cast.append_column("row_index__", pa.array(np.arange(cast.num_rows)))
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("batch", numbered)
        # Predicates are constants of contracts/tables.py, never a caller's text.
        found = connection.execute(
            f"SELECT * FROM (SELECT row_index__, CASE {cases} END AS failed FROM batch) WHERE failed IS NOT NULL"  # noqa: S608
        ).fetchall()
    for row, failed in found:
        if reasons[row] is None:
            reasons[row] = table.checks[failed].name


# ---- types ------------------------------------------------------------------------------------------------------------------


def convert(column: pa.ChunkedArray, target: pa.DataType) -> tuple[pa.Array, dict[str, np.ndarray]]:
    """Bring a column to the contract's type, value by value.

    Returns:
        the column with null where a value could not be read, and a mask of those rows for each reason (`not_money`, `out_of_range`, ...).
    """
    array = _flatten(column)
    source = array.type
    bad: dict[str, np.ndarray] = {}
    if pa.types.is_null(source):
        return pa.nulls(len(array), target), bad
    if pa.types.is_string(target) and (pa.types.is_large_string(source) or pa.types.is_string_view(source)):
        array, source = array.cast(target), target
    if _is_text(source) and (source != target or not _valid_utf8(array)):
        out, wrong = _each_distinct(array, target)
    elif source == target:
        out, wrong = array, np.zeros(len(array), dtype=bool)
    else:
        out, wrong = _typed(array, target)
    if wrong.any():
        bad[f"not_{type_name(target)}"] = wrong
    if pa.types.is_timestamp(target):
        out, outside = _within_range(out)
        if outside.any():
            bad["out_of_range"] = outside
    return out, bad


def type_name(target: pa.DataType) -> str:
    """How a reason names a type: text, integer, number, money, timestamp, date or boolean."""
    tests: tuple[tuple[Callable[[pa.DataType], bool], str], ...] = (
        (pa.types.is_string, "text"), (pa.types.is_integer, "integer"), (pa.types.is_floating, "number"), (pa.types.is_decimal, "money"),
        (pa.types.is_timestamp, "timestamp"), (pa.types.is_date, "date"), (pa.types.is_boolean, "boolean"),
    )  # fmt: skip
    return next(name for test, name in tests if test(target))


def _flatten(column: pa.ChunkedArray) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    array = column.combine_chunks()
    return pa.chunked_array([array]).combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _is_text(source: pa.DataType) -> bool:
    tests = (
        pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
        pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary,
    )  # fmt: skip
    return any(test(source) for test in tests)


def _valid_utf8(array: pa.Array) -> bool:
    if not pa.types.is_string(array.type):
        return True
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _each_distinct(array: pa.Array, target: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    """Read text: each distinct value once, in Python."""
    encoded = array.cast(pa.large_binary() if not pa.types.is_string(array.type) else pa.binary()).dictionary_encode()
    read = _READERS[type_name(target)]
    values = [_try(read, raw) for raw in encoded.dictionary.to_pylist()]
    lookup = pa.array(values, target)
    out = lookup.take(encoded.indices)
    return out, _bool(pc.and_(pc.is_null(out), pc.is_valid(array)))


def _try(read: Callable[[str], Any], raw: bytes) -> Any:
    try:
        return read(raw.decode("utf-8"))
    except (ValueError, OverflowError, InvalidOperation):
        return None


def _read_integer(text: str) -> int:
    if not _INTEGER.fullmatch(text.strip()):
        raise ValueError(text)
    value = int(text.strip().split(".")[0])
    if not -(2**63) <= value < 2**63:
        raise OverflowError(text)
    return value


def _read_number(text: str) -> float:
    if not _NUMBER.fullmatch(text.strip()):
        raise ValueError(text)
    value = float(text)
    if not math.isfinite(value):
        raise OverflowError(text)
    return value


def _read_money(text: str) -> Decimal:
    if not _NUMBER.fullmatch(text.strip()):
        raise ValueError(text)
    return _money(Decimal(text.strip()))


def _money(value: Decimal) -> Decimal:
    rounded = value.quantize(_MONEY_STEP, ROUND_HALF_EVEN)
    if abs(rounded) >= _MONEY_LIMIT:
        raise OverflowError(value)
    return rounded


def _read_timestamp(text: str) -> datetime:
    value = datetime.fromisoformat(text.strip())
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _read_date(text: str) -> date:
    return _read_timestamp(text).date()


def _read_boolean(text: str) -> bool:
    known = _BOOLEANS.get(text.strip().lower())
    if known is None:
        raise ValueError(text)
    return known


_READERS: dict[str, Callable[[str], Any]] = {
    "text": str, "integer": _read_integer, "number": _read_number, "money": _read_money, "timestamp": _read_timestamp,
    "date": _read_date, "boolean": _read_boolean,
}  # fmt: skip


def _typed(array: pa.Array, target: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    """From a typed column that is not text."""
    source = array.type
    name = type_name(target)
    if name == "timestamp" and (pa.types.is_timestamp(source) or pa.types.is_date(source)):
        return _to_timestamp(array)
    if name == "date" and (pa.types.is_timestamp(source) or pa.types.is_date(source)):
        stamps, wrong = _to_timestamp(array)
        return _floor_to_date(stamps), wrong
    if pa.types.is_decimal(source):
        return _from_decimal(array, target)
    if pa.types.is_integer(source) or pa.types.is_floating(source):
        return _from_numeric(array, target)
    # What is left (booleans for numbers, lists, structs, durations) has no meaning in this column.
    return pa.nulls(len(array), target), _bool(pc.is_valid(array))


def _to_timestamp(array: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Any unit and zone to microseconds in UTC; without zone it is read as UTC. Values that would overflow become out of range."""
    if pa.types.is_date(array.type):
        array = array.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())
        low, high, multiply, divide = _LOW_US // (86_400 * 10**6), _HIGH_US // (86_400 * 10**6), 86_400 * 10**6, 1
    else:
        per_second = _PER_SECOND[array.type.unit]
        array = array.cast(pa.int64())
        multiply, divide = max(1, 10**6 // per_second), max(1, per_second // 10**6)
        low, high = _LOW_US // multiply * divide, _HIGH_US // multiply * divide
    valid = _bool(pc.is_valid(array))
    ticks = array.fill_null(0).to_numpy(zero_copy_only=False)
    # One tick beyond the range stays beyond it after scaling, so `_within_range` names it.
    micros = np.clip(ticks, low - divide, high) * multiply // divide
    return pa.array(micros, pa.int64(), mask=~valid).cast(TIMESTAMP), np.zeros(len(array), dtype=bool)


def _floor_to_date(stamps: pa.Array) -> pa.Array:
    days = stamps.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False) // (86_400 * 10**6)
    return pa.array(days.astype(np.int32), pa.int32(), mask=_bool(pc.is_null(stamps))).cast(pa.date32())


def _within_range(stamps: pa.Array) -> tuple[pa.Array, np.ndarray]:
    micros = stamps.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    outside = (micros < _LOW_US) | (micros >= _HIGH_US)
    if not outside.any():
        return stamps, outside
    return pc.if_else(pa.array(outside), pa.scalar(None, TIMESTAMP), stamps), outside


def _from_decimal(array: pa.Array, target: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    encoded = array.dictionary_encode()
    read = _DECIMAL_READERS.get(type_name(target), _read_nothing)
    values = [None if v is None else _try(read, format(v, "f").encode()) for v in encoded.dictionary.to_pylist()]
    out = pa.array(values, target).take(encoded.indices)
    return out, _bool(pc.and_(pc.is_null(out), pc.is_valid(array)))


def _read_nothing(text: str) -> None:
    raise ValueError(text)


def _read_integral_text(text: str) -> str:
    return str(_read_integer(text))


_DECIMAL_READERS: dict[str, Callable[[str], Any]] = {
    "text": _read_integral_text, "integer": _read_integer, "number": _read_number, "money": _read_money,
}  # fmt: skip


def _from_numeric(array: pa.Array, target: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    valid = _bool(pc.is_valid(array))
    floating = pa.types.is_floating(array.type)
    values = array.fill_null(0).to_numpy(zero_copy_only=False)
    if floating:
        values = values.astype(np.float64)
    name = type_name(target)
    with np.errstate(invalid="ignore"):
        integral = np.isfinite(values) & (np.floor(values) == values) if floating else np.ones(len(values), dtype=bool)
        limits = {"integer": 2**63, "text": 2**63, "money": _MONEY_LIMIT, "boolean": 2}
        ok = integral if name in ("integer", "text", "boolean") else np.ones(len(values), dtype=bool)
        if name in limits:
            low = {"boolean": 0, "money": 1 - _MONEY_LIMIT}.get(name, -limits[name])
            ok = ok & (values < limits[name]) & (values >= low)
    if name in ("timestamp", "date"):
        ok = np.zeros(len(values), dtype=bool)  # a bare number says neither its unit nor its epoch
    safe = np.where(ok, values, values.dtype.type(0))
    return _numeric_array(safe, ~(ok & valid), target, name), valid & ~ok


def _numeric_array(values: np.ndarray, null: np.ndarray, target: pa.DataType, name: str) -> pa.Array:
    if name in ("timestamp", "date"):
        return pa.nulls(len(values), target)
    if name == "number":
        return pa.array(values.astype(np.float64), pa.float64(), mask=null)
    if name == "money" and values.dtype.kind == "f":
        return pa.array(values, pa.float64(), mask=null).cast(target)
    whole = pa.array(values.astype(np.int64), pa.int64(), mask=null)
    if name == "money":
        return whole.cast(pa.decimal128(19, 0)).cast(target)
    return whole.cast(target)


# ---- readable copies of bad rows --------------------------------------------------------------------------------------------


def _readable(column: pa.ChunkedArray) -> list[Any]:
    """Python values for JSON; a value that cannot be shown does not stop the others."""
    try:
        return [_cell(v) for v in column.to_pylist()]
    except (ValueError, OverflowError, pa.ArrowException):
        return [_one(scalar) for scalar in column]


def _one(scalar: pa.Scalar) -> Any:
    try:
        return _cell(scalar.as_py())
    except (ValueError, OverflowError, pa.ArrowException):
        value = getattr(scalar, "value", None)
        buffer = scalar.as_buffer() if hasattr(scalar, "as_buffer") else None
        return repr(buffer.to_pybytes()) if buffer is not None else str(value)


def _cell(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON knows no NaN
    return value


def _json(row: dict[str, Any]) -> str:
    return orjson.dumps(row, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode()


def _plain(value: Any) -> str:
    return repr(value) if isinstance(value, bytes) else str(value)
