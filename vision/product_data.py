"""Pictures of products with their classes, from folders.

A training set is either

    labels.parquet            split, file, fine_name, coarse_name (others are ignored; `brand` is kept where it is there)
    train/0001.jpg            wherever `file` says

or plain folders, a folder a class, with or without a first level `train/` and `val/`:

    Milk/Arla-Standard/1.jpg  coarse/fine/picture
    Arla-Standard/1.jpg       fine/picture: each class is its own coarse class

Where nothing says which pictures are for validation, a tenth of each class is, drawn with the seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.errors import ArtifactError

PICTURES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class ProductSet:
    """Pictures and their classes.

    Attributes:
        files: paths.
        fine: int64 (N,), index into `names`.
        split: text (N,), `train` or `val`.
        names: of the fine classes, sorted by coarse class and name.
        parents: int64 (F,), index into `coarse_names`.
        brands: of the fine classes; empty where unknown.
    """

    files: tuple[Path, ...]
    fine: np.ndarray
    split: np.ndarray
    names: tuple[str, ...]
    parents: np.ndarray
    coarse_names: tuple[str, ...]
    brands: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def rows(self, split: str) -> np.ndarray:
        """int64, the pictures of a split."""
        return np.flatnonzero(self.split == split)

    def version(self) -> str:
        """16 hex digits over pictures and classes."""
        found = hashlib.sha256()
        for file, fine, split in zip(self.files, self.fine, self.split, strict=True):
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            found.update(f"{content} {self.names[fine]} {split}\n".encode())
        return found.hexdigest()[:16]

    def without(self, classes: Sequence[int] | np.ndarray) -> tuple[ProductSet, np.ndarray]:
        """The set without some fine classes, and the rows that it keeps."""
        kept = np.setdiff1d(np.arange(len(self.names)), classes)
        rows = np.flatnonzero(np.isin(self.fine, kept))
        parents = self.parents[kept]
        coarse = np.unique(parents)
        return replace(
            self,
            files=tuple(self.files[i] for i in rows),
            fine=np.searchsorted(kept, self.fine[rows]),
            split=self.split[rows],
            names=tuple(self.names[i] for i in kept),
            parents=np.searchsorted(coarse, parents),
            coarse_names=tuple(self.coarse_names[i] for i in coarse),
            brands=tuple(self.brands[i] for i in kept),
        ), rows


def read_set(folder: Path, seed: int = 0, whole: bool = False) -> ProductSet:
    """Read a training set.

    Args:
        whole: also the pictures of other splits than `train` and `val`, as if they were for training: for who divides them anew.

    Raises:
        ArtifactError: no such folder, no pictures in it, fewer than two classes, a class in two coarse classes, or missing files.
    """
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not a folder. Name one with labels.parquet, or with a folder of pictures for each class")
    rows = _from_labels(folder) if (folder / "labels.parquet").is_file() else _from_folders(folder)
    if not whole and any(r.split == "train" for r in rows):  # a test split is neither learnt from nor calibrated on
        rows = [r for r in rows if r.split in ("train", "val")]
    coarse_of: dict[str, str] = {}
    for row in rows:
        if coarse_of.setdefault(row.fine, row.coarse) != row.coarse:
            raise ArtifactError(
                f"class {row.fine} is in {coarse_of[row.fine]} and in {row.coarse}, must be in one coarse class. Rename one of the two"
            )
    if len(coarse_of) < 2:
        raise ArtifactError(
            f"{folder} has {len(coarse_of)} classes with pictures, at least 2 are needed. Add a folder of pictures for each class"
        )
    names = sorted(coarse_of, key=lambda n: (coarse_of[n], n))
    coarse_names = sorted(set(coarse_of.values()))
    place = {name: i for i, name in enumerate(names)}
    fine = np.array([place[r.fine] for r in rows], dtype=np.int64)
    brand = {r.fine: r.brand for r in rows}
    return ProductSet(
        tuple(r.file for r in rows),
        fine,
        _split([r.split for r in rows], fine, seed),
        tuple(names),
        np.array([coarse_names.index(coarse_of[n]) for n in names], dtype=np.int64),
        tuple(coarse_names),
        tuple(brand[n] for n in names),
    )


@dataclass(frozen=True)
class _Row:
    file: Path
    fine: str
    coarse: str
    split: str = ""
    brand: str = ""


def _from_labels(folder: Path) -> list[_Row]:
    path = folder / "labels.parquet"
    try:
        table = pq.read_table(path)
        split, file, fine, coarse = (table[name].to_pylist() for name in ("split", "file", "fine_name", "coarse_name"))
    except (OSError, KeyError, pa.ArrowException) as exc:
        raise ArtifactError(f"cannot use {path}: {exc}. It must have the columns split, file, fine_name and coarse_name") from exc
    brand = table["brand"].to_pylist() if "brand" in table.column_names else [""] * len(file)
    root = folder.resolve()
    rows = [_Row(folder / f, str(a), str(c), str(s), str(b or "")) for s, f, a, c, b in zip(split, file, fine, coarse, brand, strict=True)]
    missing = [r.file for r in rows if not r.file.is_file() or not r.file.resolve().is_relative_to(root)]
    if missing:
        raise ArtifactError(
            f"{path} names {missing[0]}, which is not a file under {folder}; {len(missing)} in all. Add them, or the rows go"
        )
    return rows


def _from_folders(folder: Path) -> list[_Row]:
    rows = []
    for split in ("train", "val") if (folder / "train").is_dir() else ("",):
        root = folder / split
        for file in sorted(p for p in root.rglob("*") if p.suffix.lower() in PICTURES and p.is_file()):
            parts = file.relative_to(root).parts[:-1]
            if len(parts) in (1, 2):
                rows.append(_Row(file, parts[-1], parts[0], split))
    if not rows:
        raise ArtifactError(f"{folder} holds no pictures ({', '.join(PICTURES)}) in fine/ or coarse/fine/ folders. Name another folder")
    return rows


def _split(given: list[str], fine: np.ndarray, seed: int) -> np.ndarray:
    split = np.array(given)
    if (split == "val").any():
        return np.where(split == "val", "val", "train")
    return np.where(slice_of(fine, 0.1, seed), "val", "train")


def slice_of(fine: np.ndarray, share: float, seed: int) -> np.ndarray:
    """bool (N,): a share of each class, at least one picture of those that have three or more."""
    rng = np.random.default_rng([seed, 7])
    chosen = np.zeros(len(fine), dtype=bool)
    for one in np.unique(fine):
        rows = rng.permutation(np.flatnonzero(fine == one))
        chosen[rows[: max(len(rows) >= 3, round(len(rows) * share))]] = True
    return chosen


def read_picture(file: Path) -> np.ndarray:
    """uint8 (H, W, 3) RGB, upright.

    Raises:
        ArtifactError: it cannot be read.
    """
    flags = cv2.IMREAD_COLOR_RGB
    found = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), flags)
    if found is None:
        raise ArtifactError(f"cannot read picture {file}. Take it out of the training set, or save it again as JPEG")
    return np.asarray(found, dtype=np.uint8)


def squared(pixels: np.ndarray, size: int) -> np.ndarray:
    """A picture brought to a square of `size` pixels, whole, not cut: places on it are shares of its width and height."""
    height, width = pixels.shape[:2]
    if (height, width) == (size, size):
        return pixels
    smaller = max(height, width) > size
    return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def stored_size(size: int) -> int:
    """Side at which training keeps pictures: a cut third still has pixels."""
    return round(size * 1.3 / 8) * 8


def prepared(pixels: np.ndarray, size: int) -> np.ndarray:
    """A picture as the network was taught to see it, uint8 (size, size, 3): by way of the size that training keeps.

    Straight to the small square would be sharper than anything it has met, and cost it three pictures in a hundred.
    """
    return squared(squared(pixels, stored_size(size)), size)


class Pictures:
    """Pictures of a set as squares, kept in memory where they fit.

    Args:
        files: to read.
        size: pixels of a side.
        cache_mb: most memory for them; beyond that each is read again whenever it is wanted.
    """

    def __init__(self, files: Sequence[Path], size: int, cache_mb: int = 1500) -> None:
        self.files, self.size = list(files), size
        self._kept: list[np.ndarray | None] = [None] * len(files)
        self._keep = max(0, cache_mb * 2**20 // (3 * size * size))

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, rows: np.ndarray) -> np.ndarray:
        """uint8 (B, size, size, 3)."""
        return np.stack([self._one(int(i)) for i in rows])

    def _one(self, row: int) -> np.ndarray:
        found = self._kept[row]
        if found is None:
            found = squared(read_picture(self.files[row]), self.size)
            if row < self._keep:
                self._kept[row] = found
        return found
