"""Sets of products as they are divided: any split names, for measuring. (`product_data.read_set` divides for training.)

Either labels.parquet names the split of each picture, or the first folders do: train/, val/ (valid/, validation/), test/, each with folders
of pictures for each class below. Where nothing divides a set, its split is empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from contracts.errors import ArtifactError
from vision.product_data import ProductSet, read_set

TRAIN, TEST = "train", "test"
VALIDATION = ("val", "valid", "validation")


def read_divided(folder: Path) -> ProductSet:
    """A set with the splits as it names them.

    Raises:
        ArtifactError: it is not usable, see `product_data.read_set`; or a class is in two coarse classes.
    """
    if (folder / "labels.parquet").is_file():
        whole = read_set(folder, whole=True)
        return replace(whole, split=np.array([str(s) for s in pq.read_table(folder / "labels.parquet")["split"].to_pylist()]))
    parts = [name for name in (TRAIN, *VALIDATION, TEST) if (folder / name).is_dir()]
    if not parts:
        whole = read_set(folder, whole=True)
        return replace(whole, split=np.full(len(whole), "", dtype="<U1"))
    return _joined({name: read_set(folder / name) for name in parts})


def _joined(parts: Mapping[str, ProductSet]) -> ProductSet:
    """Sets as one, by the names of their classes; each set is a split."""
    coarse_of: dict[str, str] = {}
    brands: dict[str, str] = {}
    for part in parts.values():
        for name, parent, brand in zip(part.names, part.parents, part.brands, strict=True):
            coarse = part.coarse_names[parent]
            if coarse_of.setdefault(name, coarse) != coarse:
                raise ArtifactError(
                    f"class {name} is in {coarse_of[name]} and in {coarse}, must be in one coarse class. Rename one of the two"
                )
            brands.setdefault(name, brand)
    names = sorted(coarse_of, key=lambda n: (coarse_of[n], n))
    coarse_names = sorted(set(coarse_of.values()))
    place = {name: i for i, name in enumerate(names)}
    return ProductSet(
        tuple(file for part in parts.values() for file in part.files),
        np.array([place[part.names[i]] for part in parts.values() for i in part.fine], dtype=np.int64),
        np.array([split for split, part in parts.items() for _ in part.files]),
        tuple(names),
        np.array([coarse_names.index(coarse_of[n]) for n in names], dtype=np.int64),
        tuple(coarse_names),
        tuple(brands[n] for n in names),
    )
