"""Measuring boxes: overlap, halves, peers and the labels themselves."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.bench_boxes import Labelled, Seen, for_choosing, iou, methods, peak_of, read_labels, score
from vision.types import Box


def test_overlap_agrees_with_counting_pixels():
    rng = np.random.default_rng(0)
    for _ in range(50):
        boxes, masks = [], []
        for _ in range(2):
            x, y, width, height = (int(v) for v in rng.integers(1, 12, 4))
            mask = np.zeros((30, 30), bool)
            mask[y : y + height, x : x + width] = True
            boxes.append(Box(x, y, width, height))
            masks.append(mask)
        assert iou(*boxes) == pytest.approx((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())


def test_the_labels_lie_inside_their_pictures_and_name_each_once():
    labels = read_labels()
    assert len({x.file for x in labels}) == len(labels) >= 50
    for x in labels:
        assert x.file.startswith("val/")
        assert 0 <= x.box.x < x.box.x + x.box.width <= 348
        assert 0 <= x.box.y < x.box.y + x.box.height <= 348


def test_both_halves_hold_as_many_single_products():
    labels = read_labels()
    chosen = for_choosing(labels, 6)
    single = np.array([x.single for x in labels])
    assert abs(int((chosen & single).sum()) - int((~chosen & single).sum())) <= 1
    assert abs(int(chosen.sum()) - int((~chosen).sum())) <= 2
    assert (chosen == for_choosing(labels, 6)).all()
    assert (chosen != for_choosing(labels, 7)).any()


def test_a_map_that_marks_the_product_beats_the_peers():
    found = np.full((5, 5), -1.0, np.float32)
    found[3, 4] = 1.0
    seen = [Seen(Labelled("a", Box(75, 55, 25, 30), True), 100, 100, found, found, True)]
    scores = {name: score(seen, method, 0) for name, method in methods().items()}
    assert peak_of(found, 100, 100) == (90.0, 70.0)
    assert scores["classifier"]["iou_mean"]["value"] > 0.5 > scores["the whole picture"]["iou_mean"]["value"]
    assert scores["the whole picture"]["iou_mean"]["value"] == pytest.approx(0.075)
    assert scores["classifier"]["peak_inside"]["value"] == 1
    assert scores["the whole picture"]["peak_inside"]["value"] == 0
