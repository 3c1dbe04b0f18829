"""embeddings/table.py"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from contracts.errors import ShapeError
from contracts.tables import REWARDS, SINGLE_USE_REWARD_TYPES
from embeddings.table import UNLIMITED, Filter, RewardTable


def test_from_arrow_reads_the_contract_table_and_opens_what_is_null() -> None:
    row = dict.fromkeys(REWARDS.columns) | {"business_id": "b", "name": "n"}
    rows = [
        row | {"reward_id": "1", "reward_type": "discount"},
        row | {"reward_id": "2", "reward_type": "upgrade", "inventory": 0, "valid_from": datetime(2020, 1, 1, tzinfo=UTC)},
        row
        | {"reward_id": "3", "reward_type": "experience", "inventory": 4, "valid_to": datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)},
    ]
    table = RewardTable.from_arrow(pa.Table.from_pylist(rows, schema=REWARDS.schema))
    assert table.inventory.tolist() == [UNLIMITED, 0, 4]
    assert table.valid_from.tolist() == [-np.inf, 1577836800.0, -np.inf]
    assert table.valid_to.tolist() == [np.inf, np.inf, 1.5]
    assert table.single_use.tolist() == [t in SINGLE_USE_REWARD_TYPES for t in table.reward_types] == [False, True, True]
    assert (len(table), table.business_ids, table.reward_ids) == (3, ("b",), ("1", "2", "3"))


def test_rows_out_of_range_are_not_admitted() -> None:
    table = RewardTable.build(["a", "b"], ["x", "x"], single_use=[True, False])
    assert table.passes(np.array([-1, 0, 1, 2]), Filter("x", 0.0)).tolist() == [False, True, True, False]
    assert table.passes(np.array([0, 1]), Filter("x", 0.0, redeemed={"a", "b"})).tolist() == [False, True]


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ShapeError, match="column inventory has 1 rows, reward_ids has 2"):
        RewardTable.build(["a", "b"], ["x", "x"], inventory=[1])
