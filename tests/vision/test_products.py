"""Recognition of one picture: boxes, known or not, taught products, calibration; by a network that is computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from contracts.errors import ArtifactError, ShapeError
from contracts.products import MEANS, NAME, RECORD
from tests.vision.products_drawn import NAMES, ByColour, picture, write_artifact
from vision import product_calibrate as fitting
from vision.catalogue import Catalogue
from vision.products import TAUGHT_THRESHOLD, LocalNetwork, ProductRecognizer, box_of, products_folder, read_record
from vision.types import Box


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_artifact(tmp_path_factory.mktemp("products"))


@pytest.fixture
def recognizer(folder):
    return ProductRecognizer(folder, ByColour())


@pytest.mark.parametrize("seed", range(4))
def test_a_known_product_is_named_with_its_brand_group_and_place(recognizer, seed):
    pixels = picture("circle-red", seed, 160, 120)
    found = recognizer.recognise(pixels)
    best = found.products[0]
    assert (best.name, best.brand, best.group, best.source, best.product_id) == ("circle-red", "Acme", "round", "classifier", None)
    assert found.nearest[0][0] == "circle-red"
    assert found.groups[0][0] == "round"
    assert sum(p for _, p in found.groups) == pytest.approx(1)
    y, x = np.argwhere((pixels == (220, 30, 30)).all(2)).mean(0)
    assert best.box.x <= x <= best.box.x + best.box.width
    assert best.box.y <= y <= best.box.y + best.box.height
    assert best.box.width < 100
    assert set(found.stages_ms) == {"prepare", "network", "decide"}


def test_what_is_not_known_has_no_products_but_says_what_is_nearest(recognizer):
    found = recognizer.recognise(picture("square-yellow", 3))
    assert found.products == ()
    assert found.known < 0.5
    assert len(found.nearest) == 3


def test_a_taught_product_is_recognised_for_its_business_only(folder, tmp_path):
    recognizer = ProductRecognizer(folder, ByColour())
    recognizer.catalogue = Catalogue(tmp_path, recognizer.embed, recognizer.version, recognizer.record.catalogue)
    recognizer.catalogue.teach("cafe", "p9", "Yellow box", "Sol", [picture("square-yellow", 4)])
    best = recognizer.recognise(picture("square-yellow", 5), "cafe").products[0]
    assert (best.product_id, best.name, best.brand, best.source) == ("p9", "Yellow box", "Sol", "catalogue")
    assert best.box.width < 56
    assert recognizer.recognise(picture("square-yellow", 5), "bar").products == ()
    assert recognizer.recognise(picture("circle-red", 5), "cafe").products[0].name == "circle-red"


def test_embeddings_come_in_batches_as_alone(recognizer):
    pictures = [picture(NAMES[i % 3], i, 40 + i, 50) for i in range(40)]
    together = recognizer.embed(pictures)
    assert together.shape == (40, 3)
    assert together[37] == pytest.approx(recognizer.embed([pictures[37]])[0], abs=1e-6)


@pytest.mark.parametrize("pixels", [np.zeros((40, 40), np.uint8), np.zeros((40, 40, 3), np.float32), np.zeros((4, 40, 3), np.uint8)])
def test_what_is_not_a_picture_is_refused(recognizer, pixels):
    with pytest.raises(ShapeError, match="must be uint8"):
        recognizer.recognise(pixels)


# --- boxes ---


def test_a_box_is_around_the_marked_places_in_pixels_of_the_picture():
    found = np.zeros((5, 5), np.float32)
    found[1:3, 3] = 1
    box = box_of(found, 500, 250)
    assert 200 <= box.x <= 300 <= 400 <= box.x + box.width <= 500
    assert 0 <= box.y <= 50 < 150 <= box.y + box.height <= 200


def test_a_box_holds_the_peak_and_not_what_lies_apart():
    found = np.zeros((7, 7), np.float32)
    found[1, 1], found[5, 5] = 1.0, 0.9
    box = box_of(found, 70, 70)
    assert box.x <= 15 <= box.x + box.width < 50


def test_a_class_has_all_places_that_speak_for_it_and_a_taught_product_only_those_that_do_so_clearly():
    found = np.full((5, 5), -1.0, np.float32)
    found[1:4, 1:3], found[1:4, 3] = 1.0, 0.15
    own, taught = box_of(found, 100, 100), box_of(found, 100, 100, TAUGHT_THRESHOLD)
    assert own.x + own.width >= 75
    assert (own.y, own.y + own.height) != (0, 100)
    assert taught.x + taught.width < 75


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_a_map_that_says_nothing_gives_the_whole_picture(value):
    assert box_of(np.full((5, 5), value, np.float32), 33, 44) == Box(0, 0, 33, 44)


@pytest.mark.parametrize("seed", range(20))
def test_boxes_lie_inside_the_picture(seed):
    rng = np.random.default_rng(seed)
    width, height = rng.integers(8, 400, 2).tolist()
    box = box_of(rng.normal(size=(5, 5)), width, height)
    assert 0 <= box.x < box.x + box.width <= width
    assert 0 <= box.y < box.y + box.height <= height


# --- calibration ---


def test_the_temperature_that_was_put_in_is_found():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 5)) * 2
    labels = np.array([rng.choice(5, p=p) for p in fitting.softmax(logits)])
    assert fitting.temperature(logits * 3, labels) == pytest.approx(3, rel=0.12)


def test_logistic_regression_agrees_with_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 3)) * (1, 5, 0.2) + (0, 3, 1)
    y = rng.random(400) < 1 / (1 + np.exp(-(x[:, 0] + 0.4 * x[:, 1] - 1)))
    weights, bias = fitting.fit_logistic(x, y, ridge=1e-8)
    peer = LogisticRegression(C=1e8, class_weight="balanced", max_iter=5000).fit(x, y)
    assert weights == pytest.approx(peer.coef_[0], rel=0.03, abs=0.03)
    assert bias == pytest.approx(peer.intercept_[0], rel=0.05)


def test_auroc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 9, 60), rng.integers(0, 7, 50)
    pairs = np.mean([(x > y) + 0.5 * (x == y) for x in a for y in b])
    assert fitting.auroc(a, b) == pytest.approx(pairs)


def test_the_threshold_lets_most_known_products_through():
    rng = np.random.default_rng(3)
    known, unknown = rng.normal(1, 1, (500, 3)), rng.normal(-1, 1, (500, 3))
    found = fitting.fit_known(known, unknown)
    passed = fitting.known_probability(known, found["weights"], found["bias"]) >= found["threshold"]
    refused = fitting.known_probability(unknown, found["weights"], found["bias"]) < found["threshold"]
    assert passed.mean() == pytest.approx(fitting.ACCEPTED, abs=0.005)
    assert refused.mean() > 0.9


def test_a_picture_without_its_own_class_looks_less_known():
    logits, means = np.eye(4) * 8, np.eye(4)
    whole = fitting.signals(logits, np.eye(4), means)
    without = fitting.signals_without_own(logits, np.eye(4), means, np.arange(4))
    assert (without < whole).all()


def test_groups_are_sums_and_the_mix_prefers_the_better_head():
    fine = np.array([[0.2, 0.5, 0.3]])
    assert fitting.grouped(fine, np.array([0, 0, 1]), 2) == pytest.approx(np.array([[0.7, 0.3]]))
    right, wrong = np.tile([[0.9, 0.1]], (5, 1)), np.tile([[0.1, 0.9]], (5, 1))
    labels = np.zeros(5, dtype=int)
    assert fitting.coarse_mix(right, wrong, labels) == 1.0
    assert fitting.coarse_mix(wrong, right, labels) == 0.0


# --- the folder ---


def test_a_folder_that_is_missing_or_damaged_is_refused(folder, tmp_path):
    with pytest.raises(ArtifactError, match="regulars train products"):
        read_record(products_folder(tmp_path))
    for name in (RECORD, MEANS, f"{NAME}.onnx"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    read_record(tmp_path)
    (tmp_path / MEANS).write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="another checksum"):
        read_record(tmp_path)
    (tmp_path / RECORD).write_text("{}")
    with pytest.raises(ArtifactError, match="KeyError"):
        read_record(tmp_path)
    with pytest.raises(ArtifactError, match="cannot load"):
        LocalNetwork(tmp_path)
