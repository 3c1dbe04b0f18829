"""`regulars evaluate products`: sets and their splits, which pictures are asked, rows, open set; by a network that is computed by hand."""

from __future__ import annotations

import io
import json

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from contracts.errors import ArtifactError, ConfigError
from contracts.products import RECORD
from tests.vision import products_drawn
from tests.vision.products_drawn import CLASSES, picture, write_set
from vision import product_scorecard as module
from vision.product_scorecard import artifact_of, evaluate, places, problem_of, split_of, table, taken_out
from vision.product_splits import read_divided
from vision.products import ProductRecognizer, products_folder

KNOWN = ("circle-blue", "circle-red", "square-green")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return products_drawn.write_artifact(tmp_path_factory.mktemp("products"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("data"), 6)


@pytest.fixture(autouse=True)
def _by_hand(monkeypatch):
    """The network is computed by hand; everything else is as it is."""
    monkeypatch.setattr(module, "ProductRecognizer", lambda folder, threads: ProductRecognizer(folder, products_drawn.ByColour()))


def run(of, folder, home, **more):
    return evaluate(of, folder, home, shots=(1, 3), console=Console(file=io.StringIO()), **more)


def relabelled(data, to, split):
    """A copy by labels.parquet, under another split's name."""
    whole = read_divided(data)
    rows = []
    for i, file in enumerate(whole.files):
        name = f"{split}_{i:04d}.png"
        (to / split).mkdir(parents=True, exist_ok=True)
        (to / split / name).write_bytes(file.read_bytes())
        fine = whole.names[whole.fine[i]]
        rows.append({"split": split, "file": f"{split}/{name}", "fine_name": fine, "coarse_name": CLASSES[fine]})
    pq.write_table(pa.Table.from_pylist(rows), to / "labels.parquet")
    return to


# --- sets ---


def test_folders_divide_a_set_by_any_of_the_usual_names(tmp_path):
    write_set(tmp_path, 3)
    (tmp_path / "val").rename(tmp_path / "test")
    found = read_divided(tmp_path)
    assert sorted(set(found.split)) == ["test", "train"]
    assert (len(found.rows("test")), len(found.rows("train"))) == (4, 8)
    assert found.names == ("square-green", "square-yellow", "circle-blue", "circle-red")
    assert all(found.names[c] == f.parent.name for c, f in zip(found.fine, found.files, strict=True))


def test_a_set_that_nothing_divides_has_an_empty_split(tmp_path):
    found = read_divided(write_set(tmp_path, 2, split=False))
    assert set(found.split) == {""}
    assert split_of(found, None)[0] == "all"
    assert len(split_of(found, None)[1]) == 8


def test_labels_keep_the_names_of_their_splits(data, tmp_path):
    found = read_divided(relabelled(data, tmp_path, "heldback"))
    assert set(found.split) == {"heldback"}
    assert split_of(found, None)[0] == "all"
    assert split_of(found, "heldback")[1].tolist() == list(range(24))


def test_a_class_in_two_groups_is_refused(tmp_path):
    write_set(tmp_path, 3)
    (tmp_path / "val" / "round" / "circle-red").rename(tmp_path / "val" / "edged" / "circle-red")
    with pytest.raises(ArtifactError, match="must be in one coarse class"):
        read_divided(tmp_path)


@pytest.mark.parametrize(("there", "asked"), [("train val test", "test"), ("train val", "val"), ("train valid", "valid"), ("train", "all")])
def test_the_split_that_is_asked_is_never_train_unless_it_is_all_there_is(there, asked, data):
    whole = read_divided(data)
    names = there.split()
    split = np.array([names[i % len(names)] for i in range(len(whole))])
    name, rows = split_of(module.ProductSet(**{**whole.__dict__, "split": split}), None)
    assert name == asked
    assert len(names) == 1 or "train" not in split[rows]
    assert len(rows) > 0


def test_a_split_that_is_not_there_is_refused(data):
    with pytest.raises(ConfigError, match="must be one of train, val, all"):
        split_of(read_divided(data), "dev")


def test_classes_are_found_by_name_whatever_their_order_and_marks():
    assert places(("Square Green", "circle-red", "pear"), KNOWN).tolist() == [2, 1, -1]
    assert places(("a-b", "A B"), ("a b", "x")).tolist() == [-1, -1]  # unclear which of the two it is


def test_photos_are_taken_out_only_where_no_others_are_there(data, tmp_path):
    problem = problem_of(read_divided(data), "val", KNOWN, 20, 0)
    assert (problem.apart, len(problem.asked), len(problem.photos)) == (False, 8, 16)
    alone = problem_of(read_divided(relabelled(data, tmp_path, "test")), None, KNOWN, 2, 0)
    assert (alone.apart, len(alone.asked), len(alone.photos)) == (True, 16, 8)
    assert not set(alone.asked.files) & set(alone.photos.files)
    other = problem_of(read_divided(tmp_path), None, KNOWN, 2, 0, read_divided(data))
    assert (other.apart, len(other.asked), len(other.photos)) == (False, 24, 16)
    assert [other.names[i] for i in other.photos.labels] == [f.parent.name for f in other.photos.files]


def test_half_of_a_class_at_most_is_taken_out():
    chosen = taken_out(np.array([0] * 5 + [1] * 30 + [2]), 20, 0)
    assert [int(chosen[:5].sum()), int(chosen[5:35].sum()), int(chosen[35:].sum())] == [2, 15, 0]


def test_other_classes_cannot_be_asked(data):
    with pytest.raises(ArtifactError, match="knows none of the 4 classes"):
        problem_of(read_divided(data), None, ("pear", "plum"), 20, 0)


# --- which network ---


def test_the_network_is_the_one_asked_for_else_the_homes_else_the_one_that_came_along(folder, tmp_path, monkeypatch):
    assert artifact_of(tmp_path / "x", tmp_path) == tmp_path / "x"
    monkeypatch.setattr(module, "shipped_folder", lambda: tmp_path / "missing")
    with pytest.raises(ArtifactError, match="regulars train products"):
        artifact_of(None, tmp_path)
    monkeypatch.setattr(module, "shipped_folder", lambda: folder)
    assert artifact_of(None, tmp_path) == folder
    products_folder(tmp_path).mkdir(parents=True)
    (products_folder(tmp_path) / RECORD).write_bytes((folder / RECORD).read_bytes())
    assert artifact_of(None, tmp_path) == products_folder(tmp_path)


# --- the measurement ---


def test_all_rows_of_a_set_with_a_class_that_the_network_does_not_know(data, folder, tmp_path):
    (tmp_path / "others").mkdir()
    cv2.imwrite(str(tmp_path / "others" / "grey.png"), np.random.default_rng(0).integers(100, 140, (60, 60, 3)).astype(np.uint8))
    found = run(data, folder, tmp_path, others=tmp_path / "others", data="drawn")
    rows = {r["model"]: r for r in found["rows"]}
    assert list(rows) == ["regulars", "catalogue_1", "catalogue_3", "nearest_neighbour"]
    assert (found["pictures"], found["classes"], found["unseen_pictures"]) == (6, 3, 2)
    assert (rows["regulars"]["fine_top1"], rows["regulars"]["coarse_top1"], rows["regulars"]["fine_top5"]) == (1, 1, 1)
    assert rows["regulars"]["fine_top1_low"] < 1
    assert rows["catalogue_3"]["fine_top1"] >= 0.8
    assert rows["catalogue_3"]["share_of_trained"] == pytest.approx(rows["catalogue_3"]["fine_top1"], abs=1e-3)
    assert len(rows["catalogue_1"]["fine_top1_draws"]) == 3
    assert 0 <= rows["nearest_neighbour"]["fine_top1"] <= 1
    assert found["open_set"]["unseen_classes"]["pictures"] == 2
    assert found["open_set"]["other_pictures"]["unknown_refused"] == 1
    json.dumps(found)
    text = io.StringIO()
    Console(file=text, width=100).print(table(found))
    assert "catalogue_3" in text.getvalue()
    assert "1 pictures of no product" in text.getvalue()


def test_a_set_of_one_split_is_its_own_photos_and_says_so(data, folder, tmp_path):
    found = run(relabelled(data, tmp_path / "set", "test"), folder, tmp_path / "home")
    assert (found["split"], found["photos_taken_out"], found["photos_trained_on"]) == ("test", True, False)
    assert found["rows"][0]["fine_top1"] == 1
    text = io.StringIO()
    Console(file=text, width=100).print(table(found))
    assert "taken out" in text.getvalue()


def test_vectors_of_photos_are_kept_and_damaged_ones_made_anew(data, folder, tmp_path):
    before = run(data, folder, tmp_path)
    kept = sorted((tmp_path / "evaluate" / "views").rglob("*.npy"))
    assert len(kept) == len({f.read_bytes() for f in data.rglob("train/*/*/*.png") if f.parent.name in KNOWN})
    kept[0].write_bytes(b"damaged")
    stamp = kept[1].stat().st_mtime_ns
    again = run(data, folder, tmp_path)
    assert [r["fine_top1"] for r in again["rows"]] == [r["fine_top1"] for r in before["rows"]]
    assert kept[1].stat().st_mtime_ns == stamp
    assert np.load(kept[0]).dtype == np.float32


def test_a_folder_without_pictures_is_no_others(tmp_path):
    with pytest.raises(ArtifactError, match="--others"):
        module.pictures_of(tmp_path)


def test_a_catalogue_needs_two_classes(data, folder, tmp_path):
    for name in ("circle-red", "square-green", "square-yellow"):
        for group in ("round", "edged"):
            path = tmp_path / "few" / "train" / group / name
            path.mkdir(parents=True, exist_ok=True)
    only = tmp_path / "few"
    for k in range(2):
        cv2.imwrite(str(only / "train" / "round" / "circle-red" / f"{k}.png"), picture("circle-red", k))
        cv2.imwrite(str(only / "train" / "edged" / "square-yellow" / f"{k}.png"), picture("square-yellow", k))
    found = run(data, folder, tmp_path / "home", teach=only)
    assert [r["model"] for r in found["rows"]] == ["regulars", "nearest_neighbour"]


@pytest.mark.realdata
def test_some_real_products_are_recognised_far_better_than_by_chance(realdata, tmp_path, monkeypatch):
    monkeypatch.undo()
    if not (module.shipped_folder() / RECORD).is_file():
        pytest.skip("no product network came with this checkout: vision/artifact")
    rows = pq.read_table(realdata / "grocery_products" / "labels.parquet").to_pylist()[::60]
    for row in rows:
        copy = tmp_path / "set" / row["file"]
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((realdata / "grocery_products" / row["file"]).read_bytes())
    pq.write_table(pa.Table.from_pylist([{**r, "split": "test"} for r in rows]), tmp_path / "set" / "labels.parquet")
    found = evaluate(tmp_path / "set", module.shipped_folder(), tmp_path, shots=(1,), console=Console(file=io.StringIO()))
    assert found["rows"][0]["fine_top1"] > 0.3  # most were trained on: this shows that classes are matched by name, no more
