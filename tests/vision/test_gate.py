"""The cheap look: its facts, its size, its weights."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.vision import drawn
from tests.vision.products_drawn import picture
from vision import gate
from vision.ocr import LocalNetworks


def test_facts_of_rows_on_white_paper() -> None:
    pixels = np.full((320, 320, 3), 240, np.uint8)
    text_map = np.zeros((320, 320), np.uint8)
    for y in range(20, 300, 20):
        text_map[y : y + 5, 40:280] = 255
        pixels[y : y + 5, 40:280] = 120
    found = gate.facts(pixels, text_map)
    assert found["text"] == pytest.approx(math.sqrt(14 * 5 * 240 / 320**2))
    assert found["pieces"] == pytest.approx(math.log1p(14) / 5)
    assert (found["grey"], found["paper"], found["even"]) == (1.0, 1.0, 1.0)
    assert found["ink"] == pytest.approx(0.5)
    turned = gate.facts(np.ascontiguousarray(np.rot90(pixels)), np.ascontiguousarray(np.rot90(text_map)))
    assert turned == pytest.approx(found), "it does not matter which way the page lies"


def test_facts_of_no_text_at_all() -> None:
    found = gate.facts(np.zeros((64, 96, 3), np.uint8), np.zeros((64, 96), np.uint8))
    assert set(found) == set(gate.WEIGHTS) - {""}
    assert {name: value for name, value in found.items() if value} == {"grey": 1.0}


def test_facts_of_text_everywhere_are_finite() -> None:
    found = gate.facts(np.zeros((64, 96, 3), np.uint8), np.full((64, 96), 255, np.uint8))
    assert all(math.isfinite(v) for v in found.values())
    assert found["paper"] == 0


@pytest.mark.parametrize("size", [(4000, 3000), (300, 300), (2000, 150), (32, 640), (33, 33)])
def test_the_look_costs_the_same_whatever_the_picture(size: tuple[int, int]) -> None:
    small = gate.small(np.zeros((*size, 3), np.uint8))
    assert all(side % 32 == 0 for side in small.shape[:2])
    assert small.shape[0] * small.shape[1] <= gate.PIXELS * 1.5
    assert small.shape[0] <= size[0] + 31


def test_a_receipt_looks_like_one_and_a_product_does_not(networks: LocalNetworks) -> None:
    assert gate.probability(drawn.receipt(), networks) > 0.9
    assert gate.probability(picture("circle-red", 1, 320, 240), networks) < 0.1
    assert gate.probability(np.full((300, 400, 3), 200, np.uint8), networks) < 0.3


def test_what_is_not_known_counts_nothing() -> None:
    assert gate.weighed({"unheard": 5.0}, {"": 0.0, "other": 3.0}) == 0.5
    assert gate.weighed({"a": 1.0}, {"": -1.0, "a": 3.0}) == pytest.approx(1 / (1 + math.exp(-2)))
    assert 0 <= gate.weighed({"a": -1e9}, {"": 0.0, "a": 1.0}) <= gate.weighed({"a": 1e9}, {"": 0.0, "a": 1.0}) <= 1
