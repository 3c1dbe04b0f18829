"""Taught products: found at once, apart by business, whole on disk."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from contracts.errors import ArtifactError, ContractError, ShapeError, UnknownItem
from vision.catalogue import KEPT_PX, MAX_PHOTOS, Catalogue, unit, views_of

CALIBRATION = {"temperature": 0.05, "weight": 40.0, "bias": -36.0, "threshold": 0.5}
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


def embed(pictures):
    """Mean colour and brightness: enough to tell the pictures of this file, and cheap."""
    return np.stack([unit(np.append(p.reshape(-1, 3).mean(0), 20.0)) for p in pictures])


def photo(colour, seed=0, height=40, width=60):
    noise = np.random.default_rng(seed).integers(-10, 10, (height, width, 3))
    return np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def catalogue(tmp_path):
    return Catalogue(tmp_path / "c", embed, "v1", CALIBRATION)


def test_a_product_is_found_as_soon_as_it_is_taught(catalogue):
    assert catalogue.search("cafe", embed([photo("red")])[0]) == []
    catalogue.teach("cafe", "p1", "Red thing", "Acme", [photo("red")])
    catalogue.teach("cafe", "p2", "Blue thing", "Acme", [photo("blue", 1), photo("blue", 2)])
    best, other = catalogue.search("cafe", embed([photo("blue", 9)])[0])
    assert (best.product_id, best.name, best.brand) == ("p2", "Blue thing", "Acme")
    assert best.similarity > 0.95 > other.similarity
    assert best.confidence > 0.7
    assert best.confidence + other.confidence == pytest.approx(best.known)
    assert len(catalogue.search("cafe", embed([photo("blue")])[0], 1)) == 1


def test_what_is_like_nothing_taught_has_a_low_confidence(catalogue):
    catalogue.teach("cafe", "p1", "Red thing", "", [photo("red")])
    assert catalogue.search("cafe", embed([photo("red", 5)])[0])[0].confidence > 0.9
    assert catalogue.search("cafe", embed([photo("green")])[0])[0].confidence < 0.05


def test_one_business_never_meets_anothers_products(catalogue):
    catalogue.teach("cafe", "p1", "Red thing", "", [photo("red")])
    assert catalogue.search("bar", embed([photo("red")])[0]) == []
    assert catalogue.products("bar") == []
    with pytest.raises(UnknownItem, match="no product 'p1'"):
        catalogue.remove("bar", "p1")
    assert [p.product_id for p in catalogue.products("cafe")] == ["p1"]


def test_ids_that_look_like_paths_stay_in_the_folder(catalogue, tmp_path):
    catalogue.teach("../../x", "../../../y", "Name", "", [photo("red")])
    assert {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*.npz")} == {"c"}
    assert catalogue.products("../../x")[0].product_id == "../../../y"


def test_teaching_again_replaces_and_counts_versions(catalogue):
    assert catalogue.teach("cafe", "p1", "Thing", "", [photo("red")]).version == 1
    again = catalogue.teach("cafe", "p1", " Other name ", "Acme", [photo("blue"), photo("blue", 2)])
    assert (again.version, again.name, again.photos) == (2, "Other name", 2)
    assert len(catalogue.products("cafe")) == 1
    assert catalogue.search("cafe", embed([photo("blue")])[0])[0].similarity > 0.95


def test_another_process_sees_what_was_taught_and_removed(catalogue, tmp_path):
    other = Catalogue(tmp_path / "c", embed, "v1", CALIBRATION)
    assert other.products("cafe") == []
    catalogue.teach("cafe", "p1", "Thing", "", [photo("red")])
    assert [p.product_id for p in other.products("cafe")] == ["p1"]
    other.remove("cafe", "p1")
    assert catalogue.products("cafe") == []
    assert catalogue.search("cafe", embed([photo("red")])[0]) == []


def test_vectors_of_another_network_are_made_anew_from_the_photos(catalogue, tmp_path):
    catalogue.teach("cafe", "p1", "Thing", "", [photo("red"), photo("red", 3)])
    newer = Catalogue(tmp_path / "c", lambda pictures: embed(pictures)[:, ::-1].copy(), "v2", CALIBRATION)
    found = newer.products("cafe")[0]
    assert found.mean == pytest.approx(unit(embed([photo("red")])[0][::-1]), abs=0.02)
    assert (found.version, found.photos) == (1, 2)

    def never(pictures):
        raise AssertionError("they were written back")

    assert Catalogue(tmp_path / "c", never, "v2", CALIBRATION).products("cafe")[0].mean == pytest.approx(found.mean)


def test_a_damaged_file_is_refused_and_named(catalogue, tmp_path):
    catalogue.teach("cafe", "p1", "Thing", "", [photo("red")])
    file = next(tmp_path.rglob("*.npz"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=file.name):
        catalogue.products("cafe")


def test_a_file_with_a_damaged_photo_is_refused(catalogue, tmp_path):
    from embeddings import archive

    catalogue.teach("cafe", "p1", "Thing", "", [photo("red")])
    file = next(tmp_path.rglob("*.npz"))
    arrays, meta = archive.read(file, 1, "")
    arrays["photos"] = np.zeros_like(arrays["photos"])
    archive.write(file, arrays, {**meta, "model_version": "v0"})
    with pytest.raises(ArtifactError, match="a photo is damaged"):
        Catalogue(tmp_path / "c", embed, "v1", CALIBRATION).products("cafe")


@pytest.mark.parametrize(("product_id", "name", "count"), [("", "x", 1), ("p", " ", 1), ("p", "x", 0), ("p", "x", MAX_PHOTOS + 1)])
def test_what_cannot_be_taught_is_refused(catalogue, product_id, name, count):
    with pytest.raises(ContractError):
        catalogue.teach("cafe", product_id, name, "", [photo("red")] * count)
    assert catalogue.products("cafe") == []


def test_what_is_not_a_picture_is_refused(catalogue):
    with pytest.raises(ShapeError, match="must be uint8"):
        catalogue.teach("cafe", "p", "x", "", [np.zeros((40, 40), np.uint8)])


def test_photos_are_kept_small(catalogue, tmp_path):
    from embeddings import archive

    catalogue.teach("cafe", "p1", "Thing", "", [photo("red", height=1500, width=900)])
    arrays, _ = archive.read(next(tmp_path.rglob("*.npz")), 1, "")
    kept = cv2.imdecode(arrays["photos"], cv2.IMREAD_COLOR_RGB)
    assert kept.shape == (KEPT_PX, round(900 * KEPT_PX / 1500), 3)


def test_views_are_pictures_of_the_same_thing():
    views = views_of(photo("green"))
    assert len(views) == 8
    assert all(v.dtype == np.uint8 and v.ndim == 3 and min(v.shape[:2]) >= 8 for v in views)
    assert (views[1] == views[0][:, ::-1]).all()
    assert views[6].mean() > views[0].mean() > views[7].mean()
