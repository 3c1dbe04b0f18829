"""Scores of text that was found and read."""

from __future__ import annotations

import random

import numpy as np
import pytest

from vision.text_scores import TextScores, compare, edit_distance
from vision.types import TextLine


def line(text, x0, y0, x1, y1):
    return TextLine(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), text, 1.0)


def slow(a, b):
    """Levenshtein's distance by its definition."""
    if not a or not b:
        return len(a) + len(b)
    return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))


def test_distances_are_those_of_the_definition():
    rng = random.Random(0)
    for _ in range(30):
        a, b = ("".join(rng.choice("ABC") for _ in range(rng.randint(0, 5))) for _ in range(2))
        distance, kept = edit_distance(a, b)
        assert distance == slow(a, b)
        assert 0 <= kept <= min(len(a), len(b))


def test_the_same_text_in_the_same_boxes_is_perfect_and_case_and_blanks_do_not_count():
    scores = TextScores()
    compare(
        [line("total 9.50", 0, 0, 90, 20), line("Tea", 0, 40, 30, 60)],
        np.array([[0, 0, 90, 20], [0, 40, 30, 60.0]]),
        ["TOTAL 9.50", "TEA"],
        scores,
    )
    quality = scores.quality()
    assert quality["f1"] == pytest.approx(1)
    assert (quality["character_accuracy"], quality["extra"]) == (1, 0)


def test_a_line_that_was_cut_is_compared_whole_and_only_its_boxes_are_wrong():
    scores = TextScores()
    compare([line("TOTAL", 0, 0, 45, 20), line("9.50", 46, 2, 90, 20)], np.array([[0, 0, 90, 20.0]]), ["TOTAL 9.50"], scores)
    assert scores.quality()["character_accuracy"] == 1
    assert (scores.matched, scores.found, scores.annotated) == (1, 2, 1)


def test_what_is_missed_and_what_is_invented_costs():
    scores = TextScores()
    compare([line("INK", 200, 200, 240, 220)], np.array([[0, 0, 90, 20.0]]), ["TOTAL"], scores)
    quality = scores.quality()
    assert (quality["f1"], quality["character_accuracy"], quality["extra"]) == (pytest.approx(0), 0, pytest.approx(3 / 5))


def test_nothing_is_no_mistake():
    assert TextScores().quality()["character_accuracy"] == 1
