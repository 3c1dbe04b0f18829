"""How well products are recognised: the trained classifier, the catalogue taught with few photos, a peer without any network, open set.

Letters: N pictures, F fine classes, D embedding dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import cv2
import numpy as np

from contracts.errors import ArtifactError
from training.metrics import ece
from vision import product_calibrate as fitting
from vision.catalogue import unit, views_of
from vision.product_data import Pictures, ProductSet, read_picture, read_set, squared
from vision.products import ProductRecognizer, probabilities

SHOTS = (1, 5, 20)
DRAWS = 3
"""Catalogues taught for each number of photos, each with other photos."""
PEER_PX = 64


def wilson(right: int, n: int) -> dict[str, float]:
    """A share with its 95 % interval. Source: Wilson 1927."""
    if n == 0:
        return {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0}
    z, p = 1.959964, right / n
    centre, half = (p + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n) * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    return {"value": round(p, 4), "low": round(max(0.0, centre - half), 4), "high": round(min(1.0, centre + half), 4), "n": n}


def held_back_scores(found: Mapping[str, np.ndarray], of: ProductSet, info: Mapping[str, Any], means: np.ndarray) -> dict[str, Any]:
    """Fine and coarse top-1 and calibration on the validation pictures, in the order of `of.rows("val")`.

    Args:
        found: `fine_logits` (calibrated), `coarse_logits`, `embedding` of each.
        info: with parents, coarse_mix and known, as in `model.json`.
        means: (F, D).
    """
    labels = of.fine[of.rows("val")]
    if not len(labels):
        return {}
    fine = fitting.softmax(found["fine_logits"])
    sums = fitting.grouped(fine, of.parents, len(of.coarse_names))
    coarse = info["coarse_mix"] * sums + (1 - info["coarse_mix"]) * fitting.softmax(found["coarse_logits"])
    right = fine.argmax(1) == labels
    signal = fitting.signals(found["fine_logits"], found["embedding"], means)
    known = fitting.known_probability(signal, info["known"]["weights"], info["known"]["bias"])
    return {
        "fine_top1": wilson(int(right.sum()), len(labels)),
        "coarse_top1": wilson(int((coarse.argmax(1) == of.parents[labels]).sum()), len(labels)),
        "fine_top5": round(float((np.argsort(-fine, 1)[:, :5] == labels[:, None]).any(1).mean()), 4),
        "expected_calibration_error": round(ece(fine.max(1), right.astype(float), 10), 4),
        "accepted_as_known": round(float((known >= info["known"]["threshold"]).mean()), 4),
    }


def few_shot(photos: Sequence[np.ndarray], queries: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The class that a catalogue finds for each query: half the nearest view's cosine, half the mean's, as `Catalogue.search`.

    Args:
        photos: for each class float32 (V, D), vectors of its views.
        queries: (N, D). labels: int (N,).

    Returns:
        bool (N,), where it is right.
    """
    near = np.stack([0.5 * (queries @ p.T).max(1) + 0.5 * queries @ unit(p.mean(0)) for p in photos], 1)
    found: np.ndarray = near.argmax(1) == labels
    return found


def plain_features(pixels: np.ndarray) -> np.ndarray:
    """HOG of the shape and a histogram of the colours, float32 (1892,), without any training: the peer's view of a picture.

    Source: Dalal and Triggs (CVPR 2005): 9 directions in cells of 8 x 8 pixels, blocks of 2 x 2 cells; colour in HSV, 8 x 4 x 4 bins.
    Square roots of the histogram, so that a dot product is Bhattacharyya's coefficient.
    """
    small = squared(pixels, PEER_PX)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    size, angle = cv2.cartToPolar(cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=1), cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=1))
    direction = np.minimum((angle % np.pi) / np.pi * 9, 8).astype(np.int64)
    cells = np.zeros((9, PEER_PX, PEER_PX), np.float32)
    np.put_along_axis(cells, direction[None], size[None], 0)
    grid = cells.reshape(9, PEER_PX // 8, 8, PEER_PX // 8, 8).sum((2, 4)).transpose(1, 2, 0)  # (8, 8, 9)
    blocks = np.concatenate([grid[:-1, :-1], grid[1:, :-1], grid[:-1, 1:], grid[1:, 1:]], -1)  # (7, 7, 36)
    hog = (blocks / (np.linalg.norm(blocks, axis=-1, keepdims=True) + 1e-3)).ravel()
    hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV)
    colours = cv2.calcHist([hsv], [0, 1, 2], None, [8, 4, 4], [0, 180, 0, 256, 0, 256]).ravel()
    return np.concatenate([0.5 * unit(hog), unit(np.sqrt(colours / max(1.0, float(colours.sum()))))]).astype(np.float32)


def score_products(data: Path, artifact: Path, seed: int = 0, threads: int | None = None) -> dict[str, Any]:
    """The scorecard of a trained folder on a training set's `val` pictures.

    Args:
        data: see vision/product_data.py. Its classes are matched by name; those that the network does not know measure open set and the
            catalogue of products it never saw.
        artifact: as `regulars train products` writes it.

    Raises:
        ArtifactError: one of the two is not usable, or they have no class in common.
    """
    recognizer = ProductRecognizer(artifact, threads=threads)
    whole = read_set(data, seed)
    strange = np.array([i for i, name in enumerate(whole.names) if name not in recognizer.record.names], dtype=np.int64)
    if len(strange) == len(whole.names):
        raise ArtifactError(f"{artifact} knows none of the classes of {data}. Train on it: regulars train products --data {data}")
    pictures = Pictures(whole.files, recognizer.record.size, 800)
    found = _answers(recognizer, pictures, whole)
    val, is_strange = whole.split == "val", np.isin(whole.fine, strange)
    place = np.array([recognizer.record.names.index(n) if n in recognizer.record.names else -1 for n in whole.names])
    rows = np.flatnonzero(val & ~is_strange)
    card = _classified(found, rows, place[whole.fine], recognizer)
    card["catalogue"] = _catalogues(found, whole, np.flatnonzero(~val), rows, seed, recognizer, pictures)
    card["peer_nearest_neighbour"] = _peer(whole, np.flatnonzero(~val & ~is_strange), rows)
    unseen = np.flatnonzero(is_strange)
    card["open_set"] = _open_set(found, rows, unseen, recognizer, recognizer.record.raw["record"]["left_out"][::2], whole)
    if len(strange) >= 2:
        taught, asked = unseen[~val[unseen]], unseen[val[unseen]]
        card["catalogue_of_unseen_classes"] = _catalogues(found, whole, taught, asked, seed, recognizer, pictures)
    card["latency_ms"] = _latency(recognizer, whole, rows)
    card["classes"], card["unseen_classes"] = len(whole.names) - len(strange), len(strange)
    card["model"], card["data_version"] = recognizer.version, whole.version()
    return card


def _answers(recognizer: ProductRecognizer, pictures: Pictures, whole: ProductSet) -> dict[str, np.ndarray]:
    found: list[dict[str, np.ndarray]] = []
    for i in range(0, len(whole), 16):
        batch = recognizer.network.infer(pictures.batch(np.arange(i, min(i + 16, len(whole)))))
        found.append({n: batch[n] for n in ("fine_logits", "coarse_logits", "embedding")})
    return {n: np.concatenate([f[n] for f in found]) for n in found[0]}


def _classified(found: dict[str, np.ndarray], rows: np.ndarray, labels: np.ndarray, recognizer: ProductRecognizer) -> dict[str, Any]:
    record = recognizer.record
    fine, coarse = probabilities(found["fine_logits"][rows], found["coarse_logits"][rows], record)
    right = fine.argmax(1) == labels[rows]
    return {
        "fine_top1": wilson(int(right.sum()), len(rows)),
        "coarse_top1": wilson(int((coarse.argmax(1) == record.parents[labels[rows]]).sum()), len(rows)),
        "expected_calibration_error": round(ece(fine.max(1), right.astype(float), 10), 4),
    }


def _catalogues(
    found: dict[str, np.ndarray], whole: ProductSet, photos: np.ndarray, queries: np.ndarray, seed: int, recognizer: ProductRecognizer,
    pictures: Pictures,
) -> dict[str, Any]:  # fmt: skip
    """Top-1 of catalogues taught with few photos of every class that the queries or the photos have."""
    classes = np.unique(whole.fine[photos])
    queries = queries[np.isin(whole.fine[queries], classes)]
    labels = np.searchsorted(classes, whole.fine[queries])
    out: dict[str, Any] = {"classes": len(classes), "queries": len(queries)}
    rng = np.random.default_rng([seed, 5])
    for shots in SHOTS:
        right = []
        for _ in range(DRAWS if len(queries) else 0):
            drawn = [rng.permutation(photos[whole.fine[photos] == one])[:shots] for one in classes]
            right.append(few_shot([_views(found, d, recognizer, pictures, shots) for d in drawn], found["embedding"][queries], labels))
        if right:
            out[f"top1_at_{shots}"] = wilson(int(np.mean([r.sum() for r in right])), len(queries))
    return out


def _views(found: dict[str, np.ndarray], rows: np.ndarray, recognizer: ProductRecognizer, pictures: Pictures, shots: int) -> np.ndarray:
    """Vectors of photos: of each photo's views where there are few, as the catalogue has it; of the photos themselves at 20."""
    if shots > 5:
        return found["embedding"][rows]
    return np.concatenate([recognizer.embed(views_of(p)) for p in pictures.batch(rows)])


def _peer(whole: ProductSet, photos: np.ndarray, queries: np.ndarray) -> dict[str, float]:
    known = np.stack([plain_features(read_picture(whole.files[i])) for i in photos])
    asked = np.stack([plain_features(read_picture(whole.files[i])) for i in queries])
    nearest = whole.fine[photos][(asked @ known.T).argmax(1)]
    return wilson(int((nearest == whole.fine[queries]).sum()), len(queries))


def _open_set(
    found: dict[str, np.ndarray], rows: np.ndarray, unseen: np.ndarray, recognizer: ProductRecognizer, fitted: list[str], whole: ProductSet
) -> dict[str, Any]:
    """AUROC of known against unknown pictures, of unknown classes that nothing was fitted on."""
    names = np.array(whole.names)[whole.fine[unseen]]
    unseen = unseen[~np.isin(names, fitted)]
    if not len(unseen):
        return {"note": "every class is known; train with leave_out to measure it"}
    record = recognizer.record
    both = [fitting.signals(found["fine_logits"][r], found["embedding"][r], record.means) for r in (rows, unseen)]
    known, unknown = (fitting.known_probability(s, record.known["weights"], record.known["bias"]) for s in both)
    out: dict[str, Any] = {"auroc": round(fitting.auroc(known, unknown), 4), "pictures": len(unseen)}
    out |= {f"auroc_{name}": round(fitting.auroc(both[0][:, i], both[1][:, i]), 4) for i, name in enumerate(fitting.SIGNALS)}
    out["known_accepted"] = wilson(int((known >= record.known["threshold"]).sum()), len(known))
    out["unknown_refused"] = wilson(int((unknown < record.known["threshold"]).sum()), len(unknown))
    return out


def _latency(recognizer: ProductRecognizer, whole: ProductSet, rows: np.ndarray, count: int = 50) -> dict[str, float]:
    took: list[float] = []
    stages: dict[str, list[float]] = {}
    for i in rows[:count]:
        pixels = read_picture(whole.files[i])
        began = perf_counter()
        found = recognizer.recognise(pixels)
        took.append((perf_counter() - began) * 1000)
        for name, value in found.stages_ms.items():
            stages.setdefault(name, []).append(value)
    return {"p50": round(median(took), 1), **{name: round(median(values), 1) for name, values in stages.items()}}
