from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from contracts.errors import ContractError
from contracts.tables import REWARDS
from contracts.tensors import ITEM_TOWER
from features.rewards import attributes, item_ids, texts
from features.vocabulary import Vocabulary


def _table(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist(
        [{"business_id": "b", "name": "n", "reward_type": "bogo", "reward_id": "x", **r} for r in rows], schema=REWARDS.schema
    )


def test_attributes_of_a_full_and_of_a_bare_reward() -> None:
    full = {
        "points_cost": 100,
        "face_value": Decimal("4.5"),
        "difficulty": 0,
        "valid_to": datetime(2030, 1, 1, tzinfo=UTC),
        "reward_type": "upgrade",
    }
    found = attributes(_table(full, {}))
    ITEM_TOWER.inputs[1].check(found)
    expected = [np.log1p(100) / 8, np.log1p(4.5) / 5, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    np.testing.assert_allclose(found, [expected, [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]], rtol=1e-6)


def test_unknown_type_is_refused() -> None:
    with pytest.raises(ContractError, match="reward type coupon is not known"):
        attributes(_table({"reward_type": "coupon"}))


def test_item_ids_fall_back_to_unknown() -> None:
    vocabulary = Vocabulary(["<pad>", "<unknown>", "r:a", "c:tea"])
    found = item_ids(
        _table({"reward_id": "a", "category": "tea"}, {"reward_id": "b", "category": None}, {"reward_id": "c", "category": "new"}),
        vocabulary,
    )
    ITEM_TOWER.inputs[0].check(found)
    assert found.tolist() == [[2, 3], [1, 1], [1, 1]]


def test_texts_leave_out_what_is_missing() -> None:
    rows = _table({"name": "Free tea.", "description": "A cup", "category": "tea"}, {"name": "Tour", "description": " "})
    assert texts(rows) == ["Free tea. A cup. tea", "Tour"]


def test_no_rewards_give_empty_arrays() -> None:
    assert attributes(_table()).shape == (0, 12)
    assert item_ids(_table(), Vocabulary(["<pad>", "<unknown>"])).shape == (0, 2)
    assert texts(_table()) == []
