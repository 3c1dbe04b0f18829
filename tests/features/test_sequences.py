from __future__ import annotations

import math

import numpy as np

from features.definitions import Touch
from features.sequences import encode, scale_values
from features.vocabulary import Vocabulary

VOCABULARY = Vocabulary(["<pad>", "<unknown>", "c:tea"])


def test_newest_is_last_and_padding_in_front() -> None:
    touches = [Touch(0.0, 17, "c:tea", 9.0), Touch(3600.0, 9, "", 0.0)]
    ids, values = encode([touches, []], np.array([7200.0, 0.0]), VOCABULARY)
    assert ids[0, -2:].tolist() == [[2, 17], [1, 9]]
    np.testing.assert_allclose(values[0, -2:], [[math.log1p(2) / 10, math.log1p(9) / 5], [math.log1p(1) / 10, 0]], rtol=1e-6)
    assert not ids[0, :-2].any()
    assert not values[0, :-2].any()
    assert not ids[1].any()


def test_only_the_newest_fifty_are_taken() -> None:
    touches = [Touch(float(i), i % 18 + 1, "", 0.0) for i in range(60)]
    ids, _ = encode([touches], np.array([100.0]), VOCABULARY)
    assert ids[0, :, 1].tolist() == [i % 18 + 1 for i in range(10, 60)]


def test_negative_and_missing_values_are_safe() -> None:
    values = scale_values(np.array([-5.0, 0.0, 0.0, 0.0]), np.array([-9.0, np.nan, np.inf, -np.inf]))
    assert np.isfinite(values).all()
    assert values[0].tolist() == [0.0, np.float32(-math.log1p(9) / 5)]
