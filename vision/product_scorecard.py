"""`regulars evaluate products`: the trained network, the catalogue taught with few photos, and a peer without any network.

Rows: `regulars` (the trained classifier), `catalogue_1`, `catalogue_5`, `catalogue_20` (the network's embedding only: every class is
taught with so many photos of the set, as a business teaches products; several draws), `nearest_neighbour` (the nearest of all those photos
by shape and colour, nothing trained). Classes are those of the set by their names, whatever their order and ids; a class that the network
does not know measures open set, and the catalogue of products it never saw (`unseen_1`, ...).

Photos come from the set's `train` split, or from another set's. Where there is neither, up to half of each class's pictures are taken
for photos and the others are asked.

Letters: N pictures, F classes, V views of a photo, D embedding dim.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from contracts.errors import ArtifactError, ConfigError
from contracts.products import RECORD
from contracts.runs import bar
from training.metrics import ece
from vision import product_calibrate as fitting
from vision.catalogue import views_of
from vision.evaluate_products import DRAWS, SHOTS, nearest_class, plain_features, wilson
from vision.product_data import PICTURES, ProductSet, prepared, read_picture
from vision.product_splits import TEST, TRAIN, VALIDATION, read_divided
from vision.products import ProductRecognizer, probabilities, products_folder
from vision.recognizer import shipped_folder

OURS, PEER = "regulars", "nearest_neighbour"
ALL = "all"
TIMED = 50
"""Pictures that are timed."""
MOST_OTHERS = 300
_TOLD = ("trained_at", "weights", "data_version", "pictures", "calibration_pictures", "left_out")


def artifact_of(asked: Path | None, home: Path) -> Path:
    """The folder of the network: as asked, else the home's, else the one that came with the product.

    Raises:
        ArtifactError: there is none.
    """
    if asked is not None:
        return asked
    for folder in (products_folder(home), shipped_folder()):
        if (folder / RECORD).is_file():
            return folder
    raise ArtifactError(f"no product network in {home}, and none came with this installation. Train one: regulars train products")


# ---- which pictures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """Pictures and what they show.

    Attributes:
        labels: int64 (N,), index into `Problem.names`.
    """

    files: tuple[Path, ...]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    def only(self, rows: np.ndarray) -> Shown:
        """Rows, by index or mask."""
        chosen = np.flatnonzero(rows) if rows.dtype == bool else rows
        return Shown(tuple(self.files[i] for i in chosen), self.labels[chosen])


@dataclass(frozen=True)
class Problem:
    """What is asked, and the photos that teach.

    Attributes:
        names, groups: of the classes, and of each its coarse class.
        place: int64 (F,), index of each class in the network's names; -1 where it does not know it.
        apart: the photos were taken out of what would have been asked, as no other photos are there.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    place: np.ndarray
    asked: Shown
    photos: Shown
    split: str
    apart: bool


def split_of(whole: ProductSet, asked: str | None) -> tuple[str, np.ndarray]:
    """The split to ask and its rows.

    Without a wish: `test` where there is one, else the validation split, else all but `train`, else all.

    Raises:
        ConfigError: there is no such split.
    """
    names = sorted(set(whole.split.tolist()))
    if asked is None:
        asked = next((n for n in (TEST, *VALIDATION) if n in names), ALL)
    if asked == ALL:
        rows = np.flatnonzero(whole.split != TRAIN)
        return ALL, rows if len(rows) else np.arange(len(whole))
    if asked not in names:
        there = ", ".join(n for n in (*names, ALL) if n)
        raise ConfigError(f"split {asked} is not in the set, must be one of {there}. Give another --split.")
    return asked, whole.rows(asked)


def plain(name: str) -> str:
    """A class's name without case, blanks and marks."""
    return "".join(c for c in name.casefold() if c.isalnum())


def places(names: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """int64 (F,): where each name is among the network's, -1 where it is not. Case, blanks and marks do not count where that is clear."""
    exact = {name: i for i, name in enumerate(known)}
    alike = {plain(name): i for i, name in enumerate(known)}
    clear = len(alike) == len(known) and len({plain(n) for n in names}) == len(names)
    return np.array([exact.get(n, alike.get(plain(n), -1) if clear else -1) for n in names], dtype=np.int64)


def problem_of(
    whole: ProductSet, split: str | None, known: Sequence[str], most: int, seed: int, teach: ProductSet | None = None
) -> Problem:
    """What is asked of a set.

    Args:
        known: the network's classes.
        most: photos of a class that a catalogue takes at most.
        teach: whose photos teach; the set's own when None.

    Raises:
        ConfigError: no such split.
        ArtifactError: the network knows none of the classes.
    """
    name, rows = split_of(whole, split)
    names, place = whole.names, places(whole.names, known)
    if not (place[whole.fine[rows]] >= 0).any():
        raise ArtifactError(
            f"the network knows none of the {len(names)} classes that are asked, for example {names[0]}; it knows {known[0]} and "
            f"{len(known) - 1} others. Train on this set (regulars train products), or give another --model."
        )
    asked = Shown(tuple(whole.files[i] for i in rows), whole.fine[rows])
    apart = False
    if teach is not None:
        at = places(teach.names, names)
        taught = np.flatnonzero((at[teach.fine] >= 0) & ((teach.split == TRAIN) | ~(teach.split == TRAIN).any()))
        photos = Shown(tuple(teach.files[i] for i in taught), at[teach.fine[taught]])
    else:
        rest = np.setdiff1d(whole.rows(TRAIN), rows)
        photos = Shown(tuple(whole.files[i] for i in rest), whole.fine[rest])
    if not len(photos):
        chosen, apart = taken_out(asked.labels, most, seed), True
        photos, asked = asked.only(chosen), asked.only(~chosen)
    groups = tuple(whole.coarse_names[i] for i in whole.parents)
    return Problem(names, groups, place, asked, photos, name, apart)


def taken_out(labels: np.ndarray, most: int, seed: int) -> np.ndarray:
    """bool (N,): up to `most` pictures of each class, at most half of them."""
    rng = np.random.default_rng([seed, 11])
    chosen = np.zeros(len(labels), dtype=bool)
    for one in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == one))
        chosen[rows[: min(most, len(rows) // 2)]] = True
    return chosen


# ---- answers ----------------------------------------------------------------------------------------------------------------


class Views:
    """Vectors of the views of photos, as the catalogue makes them; kept in a folder by the picture's checksum, each whole or not there.

    Args:
        folder: of one network.
    """

    def __init__(self, folder: Path, recognizer: ProductRecognizer) -> None:
        self.folder, self.recognizer = folder, recognizer
        self._known: dict[Path, np.ndarray] = {}

    def of(self, file: Path) -> np.ndarray:
        """float32 (V, D), L2 norm 1."""
        found = self._known.get(file)
        if found is None:
            found = self._known[file] = self._read(file)
        return found

    def _read(self, file: Path) -> np.ndarray:
        kept = self.folder / f"{hashlib.sha256(file.read_bytes()).hexdigest()}.npy"
        try:
            found: np.ndarray = np.load(kept, allow_pickle=False)
            if found.ndim == 2 and found.dtype == np.float32:
                return found
        except (OSError, ValueError):
            pass  # not there, or damaged: it is made anew
        found = self.recognizer.embed(views_of(read_picture(file)))
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_name(f".{kept.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as stream:
                np.save(stream, found, allow_pickle=False)
            temporary.replace(kept)
        finally:
            temporary.unlink(missing_ok=True)
        return found


def answers(files: Sequence[Path], recognizer: ProductRecognizer, progress: Progress, what: str) -> dict[str, np.ndarray]:
    """`fine_logits`, `coarse_logits` and `embedding` of each picture."""
    names = ("fine_logits", "coarse_logits", "embedding")
    found: list[dict[str, np.ndarray]] = []
    task = progress.add_task(what, total=len(files))
    for i in range(0, len(files), 16):
        some = files[i : i + 16]
        batch = recognizer.network.infer(np.stack([prepared(read_picture(f), recognizer.record.size) for f in some]))
        found.append({n: batch[n] for n in names})
        progress.advance(task, len(some))
    return {n: np.concatenate([f[n] for f in found]) for n in names}


def evaluate(
    folder: Path, artifact: Path, home: Path, split: str | None = None, shots: Sequence[int] = SHOTS, teach: Path | None = None,
    others: Path | None = None, seed: int = 0, threads: int | None = None, console: Console | None = None, data: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure on a set: the object that `--json` prints.

    Args:
        folder: of the set, see vision/product_data.py; any split names.
        artifact: of the network, as `regulars train products` writes it.
        home: where vectors of photos are kept.
        shots: photos of a class that a catalogue is taught with.
        teach: a set whose photos teach the catalogue and the peer; the set itself when None.
        others: a folder of pictures that show no product at all.
        data: what the set is called.

    Raises:
        ArtifactError: one of them is not usable, or the network knows none of the classes.
        ConfigError: no such split.
    """
    recognizer = ProductRecognizer(artifact, threads=threads)
    whole = read_divided(folder)
    taught = read_divided(teach) if teach else None
    problem = problem_of(whole, split, recognizer.record.names, max(shots), seed, taught)
    seen = not problem.apart and (taught or whole).version() == recognizer.record.raw["record"].get("data_version")
    known = problem.place[problem.asked.labels] >= 0
    asked, strange = problem.asked.only(known), problem.asked.only(~known)
    views = Views(home / "evaluate" / "views" / recognizer.version.replace("/", "-"), recognizer)
    record = recognizer.record
    with bar(console or Console(stderr=True)) as progress:
        found = answers(asked.files, recognizer, progress, "recognising")
        rows = [_classified(found, asked, problem, recognizer)]
        rights = found["fine_logits"].argmax(1) == problem.place[asked.labels]
        photos = problem.photos.only(problem.place[problem.photos.labels] >= 0)
        rows += _catalogues(found["embedding"], asked, photos, problem, views, shots, seed, progress, "catalogue", rights)
        rows += [_peer(asked, photos, problem, progress)] if len(photos) else []
        unknown = {}
        if len(strange):
            met = answers(strange.files, recognizer, progress, "unseen classes")
            new = problem.photos.only(problem.place[problem.photos.labels] < 0)
            rows += _catalogues(met["embedding"], strange, new, problem, views, shots, seed, progress, "unseen", None)
            fitted = record.raw["record"]["left_out"][::2]  # they helped to choose what counts as known
            fresh = ~np.isin(np.array(problem.names)[strange.labels], fitted)
            if fresh.any():
                unknown["unseen_classes"] = {n: v[fresh] for n, v in met.items()}
        if others is not None:
            unknown["other_pictures"] = answers(pictures_of(others), recognizer, progress, "other pictures")
    return {
        "data": data or str(folder), "split": problem.split, "pictures": len(asked), "classes": len(np.unique(asked.labels)),
        "unseen_pictures": len(strange), "photos": len(problem.photos), "photos_taken_out": problem.apart,
        "photos_trained_on": seen, "model": recognizer.version,
        "trained": {n: record.raw["record"].get(n) for n in _TOLD},
        "versions": {p: importlib.metadata.version(p) for p in ("onnxruntime", "opencv-python-headless", "numpy", "faiss-cpu")},
        "seed": seed, "draws": DRAWS, "rows": rows, "open_set": {n: _open_set(found, u, recognizer) for n, u in unknown.items()},
    }  # fmt: skip


def pictures_of(folder: Path) -> list[Path]:
    """The pictures under a folder, the first MOST_OTHERS by name.

    Raises:
        ArtifactError: there are none.
    """
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
    if not found:
        raise ArtifactError(f"{folder} holds no pictures ({', '.join(PICTURES)}). Give another --others.")
    return found[:MOST_OTHERS]


def _share(name: str, right: int, n: int) -> dict[str, Any]:
    found = wilson(right, n)
    return {name: found["value"] if n else None, f"{name}_low": found["low"], f"{name}_high": found["high"]}


def _classified(found: Mapping[str, np.ndarray], asked: Shown, problem: Problem, recognizer: ProductRecognizer) -> dict[str, Any]:
    """The row of the trained classifier."""
    record, wanted = recognizer.record, problem.place[asked.labels]
    fine, coarse = probabilities(found["fine_logits"], found["coarse_logits"], record)
    right = fine.argmax(1) == wanted
    return {
        "model": OURS, "pictures": len(asked), **_share("fine_top1", int(right.sum()), len(asked)),
        **_share("coarse_top1", int((coarse.argmax(1) == record.parents[wanted]).sum()), len(asked)),
        "fine_top5": round(float((np.argsort(-fine, 1)[:, :5] == wanted[:, None]).any(1).mean()), 4),
        "expected_calibration_error": round(ece(fine.max(1), right.astype(float), 10), 4), "median_ms": _latency(recognizer, asked),
    }  # fmt: skip


def _latency(recognizer: ProductRecognizer, asked: Shown) -> float:
    """Milliseconds to recognise a decoded picture, in the median."""
    took = []
    for file in asked.files[:: max(1, len(asked) // TIMED)]:
        pixels = read_picture(file)
        began = perf_counter()
        recognizer.recognise(pixels)
        took.append((perf_counter() - began) * 1000)
    return round(median(took), 1)


def _catalogues(
    embedding: np.ndarray, asked: Shown, photos: Shown, problem: Problem, views: Views, shots: Sequence[int], seed: int, progress: Progress,
    label: str, trained: np.ndarray | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for each number of photos; none where fewer than two classes can be taught.

    Args:
        trained: bool (N,), where the classifier is right; None where it does not know the classes.
    """
    classes = np.unique(photos.labels)
    kept = np.isin(asked.labels, classes)
    if len(classes) < 2 or not kept.any():
        return []
    labels, queries = asked.labels[kept], embedding[kept]
    groups = np.array(problem.groups)
    rng = np.random.default_rng([seed, 5])
    orders = [{int(c): rng.permutation(np.flatnonzero(photos.labels == c)) for c in classes} for _ in range(DRAWS)]
    wanted = {int(i) for order in orders for rows in order.values() for i in rows[: max(shots)]}
    task = progress.add_task(f"{label}: photos", total=len(wanted))
    for i in sorted(wanted):
        views.of(photos.files[i])
        progress.advance(task)
    out = []
    for count in shots:
        fine, coarse = [], []
        for order in orders:
            taught = [np.concatenate([views.of(photos.files[i]) for i in rows[:count]]) for rows in order.values()]
            found = classes[nearest_class(taught, queries)]
            fine.append(float((found == labels).mean()))
            coarse.append(float((groups[found] == groups[labels]).mean()))
        n, mean = len(labels), float(np.mean(fine))
        row = {"model": f"{label}_{count}", "pictures": n, "classes": len(classes), **_share("fine_top1", round(mean * n), n)}
        row |= {**_share("coarse_top1", round(float(np.mean(coarse)) * n), n), "fine_top1_draws": [round(f, 4) for f in fine]}
        if trained is not None and trained[kept].any():
            row["share_of_trained"] = round(mean / float(trained[kept].mean()), 4)
        out.append(row)
    return out


def _peer(asked: Shown, photos: Shown, problem: Problem, progress: Progress) -> dict[str, Any]:
    """The row of the nearest photo by shape and colour."""
    task = progress.add_task("nearest neighbour", total=len(photos) + len(asked))

    def features(file: Path) -> np.ndarray:
        progress.advance(task)
        return plain_features(read_picture(file))

    known = np.stack([features(f) for f in photos.files])
    found, took = [], []
    for file in asked.files:
        pixels = read_picture(file)
        began = perf_counter()
        found.append(int(photos.labels[int((known @ plain_features(pixels)).argmax())]))
        took.append((perf_counter() - began) * 1000)
        progress.advance(task)
    groups, nearest = np.array(problem.groups), np.array(found)
    return {
        "model": PEER, "pictures": len(asked), **_share("fine_top1", int((nearest == asked.labels).sum()), len(asked)),
        **_share("coarse_top1", int((groups[nearest] == groups[asked.labels]).sum()), len(asked)), "median_ms": round(median(took), 1),
    }  # fmt: skip


def _open_set(known: Mapping[str, np.ndarray], unknown: Mapping[str, np.ndarray], recognizer: ProductRecognizer) -> dict[str, Any]:
    """How well pictures of known products are told from others: AUROC, and what the threshold lets through and refuses."""
    record = recognizer.record
    signals = [fitting.signals(f["fine_logits"], f["embedding"], record.means) for f in (known, unknown)]
    chances = [fitting.known_probability(s, record.known["weights"], record.known["bias"]) for s in signals]
    threshold = record.known["threshold"]
    return {
        "pictures": len(chances[1]), "auroc": round(fitting.auroc(chances[0], chances[1]), 4),
        **_share("known_accepted", int((chances[0] >= threshold).sum()), len(chances[0])),
        **_share("unknown_refused", int((chances[1] < threshold).sum()), len(chances[1])),
    }  # fmt: skip


# ---- for people -------------------------------------------------------------------------------------------------------------


_SHOWN: tuple[tuple[str, str, str], ...] = (
    ("fine_top1", "fine\n95 %", ".3f"), ("coarse_top1", "coarse\n95 %", ".3f"), ("fine_top5", "fine\ntop 5", ".3f"),
    ("expected_calibration_error", "ECE", ".3f"), ("share_of_trained", "of the\ntrained", ".2f"), ("median_ms", "ms", ".1f"),
)  # fmt: skip


def table(result: Mapping[str, Any]) -> Table:
    """The result as one table."""
    title = f"{result['data']}, split {result['split']}: {result['pictures']} pictures of {result['classes']} classes, {result['model']}"
    out = Table(title=title, padding=(0, 1), pad_edge=False)
    out.add_column("model", no_wrap=True)
    for _, head, _ in _SHOWN:
        out.add_column(head, justify="right", no_wrap=True)
    for row in result["rows"]:
        out.add_row(row["model"], *(_cell(row, name, shape) for name, _, shape in _SHOWN))
    notes = []
    if result["photos_taken_out"]:
        notes.append(
            "No other photos are there to teach with: up to half of each class's pictures were taken out of what is asked. Where they were "
            "taken minutes apart from those, catalogue and peer are flattered."
        )
    if result["photos_trained_on"]:
        notes.append("The network was trained on the photos that teach: the catalogue's rows do not show what it makes of new products.")
    words = {"unseen_classes": "pictures of classes it never saw", "other_pictures": "pictures of no product"}
    for name, found in result["open_set"].items():
        notes.append(
            f"Known or not, {found['pictures']} {words[name]}: AUROC {found['auroc']:.3f}; {found['known_accepted']:.0%} of the known "
            f"accepted, {found['unknown_refused']:.0%} of the others refused."
        )
    out.caption = Text("\n".join(notes))
    return out


def _cell(row: Mapping[str, Any], name: str, shape: str) -> Text:
    value = row.get(name)
    if value is None:
        return Text("")
    text = Text(format(value, shape))
    if f"{name}_low" in row:
        text.append(f"\n{row[f'{name}_low']:.2f}–{row[f'{name}_high']:.2f}".replace("0.", "."))
    return text
