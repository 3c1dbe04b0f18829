"""What the index knows about each reward, and what a query asks of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from contracts.errors import ShapeError
from contracts.tables import SINGLE_USE_REWARD_TYPES

UNLIMITED = -1
"""Inventory of a reward that never sells out."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What one query may be answered with.

    Attributes:
        business_id: only this tenant's rewards.
        now: epoch seconds; only rewards with valid_from <= now <= valid_to.
        dismissed: reward ids that the customer does not want to see again.
        redeemed: reward ids that the customer redeemed; single-use ones among them are left out, repeatable ones stay.
        excluded_rows: rows of the table to leave out, whatever the reason.
    """

    business_id: str
    now: float
    dismissed: Collection[str] = ()
    redeemed: Collection[str] = ()
    excluded_rows: Collection[int] = ()


@dataclass(frozen=True)
class RewardTable:
    """Metadata of the catalogue, one element per row of the index, in the same order.

    Attributes:
        reward_ids: unique within a business, not across businesses.
        business_ids: the businesses; `business` points into it.
        business: int32 (N,).
        valid_from, valid_to: float64 (N,), epoch seconds, both inclusive; -inf and +inf where open.
        inventory: int64 (N,); 0 is sold out, -1 unlimited.
        reward_types: one of contracts.tables.REWARD_TYPES each.
        single_use: bool (N,); a customer redeems it at most once.
    """

    reward_ids: tuple[str, ...]
    business_ids: tuple[str, ...]
    business: np.ndarray
    valid_from: np.ndarray
    valid_to: np.ndarray
    inventory: np.ndarray
    reward_types: tuple[str, ...]
    single_use: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.reward_ids)
        for name in ("business", "valid_from", "valid_to", "inventory", "reward_types", "single_use"):
            if len(getattr(self, name)) != n:
                raise ShapeError(
                    f"column {name} has {len(getattr(self, name))} rows, reward_ids has {n}. Build the table with RewardTable.build."
                )

    def __len__(self) -> int:
        return len(self.reward_ids)

    @classmethod
    def build(
        cls,
        reward_ids: Sequence[str],
        business: Sequence[str],
        valid_from: Sequence[float] | np.ndarray | None = None,
        valid_to: Sequence[float] | np.ndarray | None = None,
        inventory: Sequence[int] | np.ndarray | None = None,
        reward_types: Sequence[str] | None = None,
        single_use: Sequence[bool] | np.ndarray | None = None,
    ) -> RewardTable:
        """A table from plain columns; what is left out is open, unlimited, repeatable.

        Args:
            business: business id of each row.
            reward_types: decides `single_use` where that is left out (contracts.tables.SINGLE_USE_REWARD_TYPES).

        Raises:
            ShapeError: columns of different lengths.
        """
        n = len(reward_ids)
        names = tuple(dict.fromkeys(business))
        code = {name: i for i, name in enumerate(names)}
        types = tuple(reward_types) if reward_types is not None else ("discount",) * n
        once = [t in SINGLE_USE_REWARD_TYPES for t in types] if single_use is None else single_use
        return cls(
            reward_ids=tuple(reward_ids),
            business_ids=names,
            business=np.array([code[b] for b in business], dtype=np.int32),
            valid_from=np.full(n, -np.inf) if valid_from is None else np.asarray(valid_from, dtype=np.float64),
            valid_to=np.full(n, np.inf) if valid_to is None else np.asarray(valid_to, dtype=np.float64),
            inventory=np.full(n, UNLIMITED, dtype=np.int64) if inventory is None else np.asarray(inventory, dtype=np.int64),
            reward_types=types,
            single_use=np.asarray(once, dtype=bool),
        )

    @classmethod
    def from_arrow(cls, rewards: pa.Table) -> RewardTable:
        """A table from the warehouse's `rewards` columns; NULL dates are open, NULL inventory is unlimited.

        A negative inventory can not be landed, so -1 is free to mean unlimited.
        """
        inventory = rewards["inventory"].to_pylist()
        return cls.build(
            reward_ids=rewards["reward_id"].to_pylist(),
            business=rewards["business_id"].to_pylist(),
            valid_from=_epoch_s(rewards["valid_from"], -np.inf),
            valid_to=_epoch_s(rewards["valid_to"], np.inf),
            inventory=[UNLIMITED if v is None else v for v in inventory],
            reward_types=rewards["reward_type"].to_pylist(),
        )

    @cached_property
    def _code(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.business_ids)}

    def passes(self, rows: np.ndarray, query: Filter) -> np.ndarray:
        """Which of these rows the filter admits: bool, same length as `rows`; a row out of range is not admitted.

        This is the definition of the filter. The index selects with its own precomputed masks and checks every answer here once more.
        """
        inside = (rows >= 0) & (rows < len(self))
        if not inside.all():
            admitted = np.zeros(len(rows), dtype=bool)
            admitted[inside] = self.passes(rows[inside], query)
            return admitted
        ok: np.ndarray = self.business[rows] == self._code.get(query.business_id, -1)
        ok &= self.valid_from[rows] <= query.now
        ok &= self.valid_to[rows] >= query.now
        ok &= self.inventory[rows] != 0
        if query.dismissed or query.redeemed or query.excluded_rows:
            ok &= np.fromiter((self._wanted(r, query) for r in rows.tolist()), dtype=bool, count=len(rows))
        return ok

    def _wanted(self, row: int, query: Filter) -> bool:
        reward_id = self.reward_ids[row]
        used_up = bool(self.single_use[row]) and reward_id in query.redeemed
        return reward_id not in query.dismissed and not used_up and row not in query.excluded_rows


def _epoch_s(column: pa.ChunkedArray, missing: float) -> np.ndarray:
    microseconds = column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_pylist()
    return np.array([missing if v is None else v / 1e6 for v in microseconds], dtype=np.float64)
