"""Nearest customers by embedding: the customers of one business, each with its newest vector, replaced in place as they act.

Each business has a part of its own with its own vectors, ids and index, so no search can meet a row of another business. A part's rows
lie side by side in one array: the last row fills the place of a removed one. Up to `exact_up_to` customers FAISS goes through that array
itself (`faiss.knn`: no second copy that could differ); above, `optimise` puts an IVF index beside it, whose rows are replaced by id
(a hash table as its direct map). Measured in one thread, k = 20, D = 64: exact 0.26 ms at 50,000 customers, 0.70 ms at 100,000, 2.3 ms at
200,000.

Sizes: N customers of a business, D embedding dim, B rows of a batch.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import faiss as _faiss
import numpy as np

from contracts.errors import ArtifactError, ContractError, ShapeError
from contracts.tensors import EMBEDDING_DIM
from embeddings import archive
from embeddings.index import enough_cells

faiss: Any = _faiss  # the type stubs that it brings lack half of what is used here
FORMAT = 1
MAX_K = 1000
EXACT_UP_TO = 100_000
TARGET_RECALL = 0.99
_AGAIN = "Remove the file: the vectors are computed again by the running stack (regulars serve)."
_NORM_TOLERANCE = 1e-3
_TRAINING_ROWS_PER_LIST = 64


class Neighbour(NamedTuple):
    """One customer near another: cosine in [-1, 1]; `as_of` is the instant (epoch seconds) that the vector is of."""

    customer_id: str
    cosine: float
    as_of: float


class Row(NamedTuple):
    """What is stored of one customer: float32 (D,), epoch seconds, and how many touches are inside (-1: not known)."""

    vector: np.ndarray
    as_of: float
    touches: int


class CustomerIndex:
    """The vectors of all businesses' customers, of one model version. Any number of threads may read and write it.

    Args:
        model_version: whose user tower made the vectors; vectors of another one are refused.
        dim: D.
        exact_up_to: customers of one business up to which every vector is compared.
    """

    def __init__(self, model_version: str, dim: int = EMBEDDING_DIM, exact_up_to: int = EXACT_UP_TO) -> None:
        self.model_version, self.dim, self.exact_up_to = model_version, dim, exact_up_to
        self._parts: dict[str, _Part] = {}
        self._removed: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(part.count for part in list(self._parts.values()))

    def count(self, business_id: str) -> int:
        """How many customers of a business have a vector."""
        part = self._parts.get(business_id)
        return part.count if part is not None else 0

    @property
    def businesses(self) -> list[str]:
        """The businesses that have, or had, a customer here."""
        return list(self._parts)

    def customers(self, business_id: str) -> list[str]:
        """The ids of a business's customers, in no order."""
        part = self._parts.get(business_id)
        return part.listing() if part is not None else []

    def get(self, business_id: str, customer_id: str) -> Row | None:
        """A copy of what is stored of a customer; None where there is nothing."""
        part = self._parts.get(business_id)
        return part.get(customer_id) if part is not None else None

    def upsert(
        self,
        business_id: str,
        customer_ids: Sequence[str],
        vectors: np.ndarray,
        as_of: float | np.ndarray,
        touches: Sequence[int] | np.ndarray | None = None,
    ) -> int:
        """Store vectors, each in place of the customer's older one.

        Args:
            customer_ids: B of them.
            vectors: float32 (B, D), L2 norm 1.
            as_of: epoch seconds, one for all or (B,). A vector older than the stored one changes nothing, and neither does one of a
                customer who was removed after it.
            touches: how many touches of the customer are inside.

        Returns:
            How many rows are new or replaced.

        Raises:
            ShapeError: not float32 (B, D), not as many as the ids, not finite, or not of norm 1. Nothing is stored then.
        """
        self._check(vectors, len(customer_ids))
        times = np.broadcast_to(np.asarray(as_of, dtype=np.float64), (len(customer_ids),))
        counts = np.full(len(customer_ids), -1, dtype=np.int64) if touches is None else np.asarray(touches, dtype=np.int64)
        if len(counts) != len(customer_ids) or not np.isfinite(times).all():
            raise ShapeError(f"{len(counts)} touch counts and finite times must come with {len(customer_ids)} customers. Send one each.")
        with self._lock:
            part = self._parts.setdefault(business_id, _Part(self.dim))
        allowed = [i for i, c in enumerate(customer_ids) if times[i] > self.removed_at(business_id, c)]
        return part.upsert(customer_ids, vectors, times, counts, allowed)

    def _check(self, vectors: np.ndarray, expected: int) -> None:
        if vectors.dtype != np.float32 or vectors.shape != (expected, self.dim):
            raise ShapeError(
                f"customer vectors are {vectors.dtype} {vectors.shape}, must be float32 ({expected}, {self.dim}). "
                "Send what the user tower gave, one row a customer."
            )
        norms = np.einsum("nd,nd->n", vectors, vectors)  # NaN and infinity fail the comparison
        if not (np.abs(norms - 1.0) <= 2 * _NORM_TOLERANCE).all():
            raise ShapeError("customer vectors must be finite and of L2 norm 1. Check the features sent to the user tower.")

    def remove(self, business_id: str, customer_id: str, at: float) -> bool:
        """Forget a customer: nothing as of `at` (epoch seconds) or before can come back, from a file or from another process neither.

        Returns:
            Whether there was a vector.
        """
        with self._lock:
            key = (business_id, customer_id)
            self._removed[key] = max(at, self._removed.get(key, -math.inf))
        part = self._parts.get(business_id)
        return part.remove(customer_id) if part is not None else False

    def removed_at(self, business_id: str, customer_id: str) -> float:
        """Until when (epoch seconds) a customer was erased; -inf for one who never was."""
        return self._removed.get((business_id, customer_id), -math.inf)

    def search(self, vector: np.ndarray, k: int, business_id: str, exclude: Collection[str] = ()) -> list[Neighbour]:
        """The k customers of one business whose vectors are nearest.

        Args:
            vector: float32 (D,), L2 norm 1.
            k: 1 to 1000.
            exclude: customer ids to leave out, such as the one asked about.

        Returns:
            Best first; fewer than k where the business has fewer. Equal cosines in the order of their ids. Empty for an unknown business.

        Raises:
            ShapeError: the vector is not float32 (D,), not finite or not of norm 1.
            ContractError: k is out of range.

        Source: inner-product search, FAISS.
        """
        if not 1 <= k <= MAX_K:
            raise ContractError(f"k is {k}, must be 1 to {MAX_K}. Ask for fewer customers.")
        self._check(vector[None] if vector.ndim == 1 else vector, 1)
        part = self._parts.get(business_id)
        return part.search(np.ascontiguousarray(vector.reshape(1, -1)), k, exclude) if part is not None else []

    def optimise(self, business_id: str) -> bool:
        """Build the IVF index of a business that has outgrown exact search, or has doubled since; takes seconds, blocks nobody.

        Returns:
            Whether one was built. FAISS lets other Python threads run meanwhile: call it in one.
        """
        part = self._parts.get(business_id)
        if part is None or part.count <= self.exact_up_to or part.count < 2 * part.optimised_at:
            return False
        part.optimise()
        return True

    def merge(self, other: CustomerIndex) -> int:
        """Take over what another index knows better (newer vectors, removals); returns how many rows changed.

        Raises:
            ArtifactError: it is of another model version.
        """
        if other.model_version != self.model_version:
            raise ArtifactError(
                f"customer vectors are of model version {other.model_version}, this index is of {self.model_version}: they cannot be "
                "compared. Build them again."
            )
        for (business_id, customer_id), at in list(other._removed.items()):
            row = self.get(business_id, customer_id)
            if row is None or row.as_of <= at:
                self.remove(business_id, customer_id, at)
        changed = 0
        for business_id in other.businesses:
            ids, vectors, as_of, touches = other._parts[business_id].copy()
            for i in range(0, len(ids), 1000):  # in turns with whoever searches
                s = slice(i, i + 1000)
                changed += self.upsert(business_id, ids[s], vectors[s], as_of[s], touches[s])
        return changed

    def save(self, path: Path, note: Mapping[str, Any] | None = None) -> None:
        """Write everything into one file, atomically, with a checksum; `note` (JSON-ready) comes back from `load`."""
        parts = {name: self._parts[name].copy() for name in self.businesses}
        text = {"business": list(parts), "customers": [p[0] for p in parts.values()]}
        empty = (np.empty((0, self.dim), np.float32), np.empty(0), np.empty(0, np.int64))
        columns = list(zip(*((p[1], p[2], p[3]) for p in parts.values()), strict=True)) or [[e] for e in empty]
        arrays = {name: np.concatenate(c) for name, c in zip(("vectors", "as_of", "touches"), columns, strict=True)}
        removed = [[b, c, at] for (b, c), at in list(self._removed.items())]
        meta = {"format": FORMAT, "model_version": self.model_version, "removed": removed, "note": dict(note or {})}
        archive.write(path, arrays | {"text": archive.as_bytes(text)}, meta)

    @classmethod
    def load(cls, path: Path, model_version: str, not_after: float = math.inf, **settings: Any) -> tuple[Self, dict[str, Any]]:
        """Read what `save` wrote.

        Args:
            model_version: which one the vectors must be of.
            not_after: vectors of a later instant (epoch seconds) are left out: a clock was set back.
            settings: of the index, see the constructor.

        Returns:
            The index and the note.

        Raises:
            ArtifactError: the file is missing, damaged, of another format or of another model version.
        """
        arrays, meta = archive.read(path, FORMAT, _AGAIN)
        if meta.get("model_version") != model_version:
            raise ArtifactError(
                f"customer vectors in {path} are of model version {meta.get('model_version')}, {model_version} is served. {_AGAIN}"
            )
        try:
            index = cls(model_version, **settings)
            index._fill(arrays, not_after)
            index._removed = {(str(b), str(c)): float(at) for b, c, at in meta["removed"]}
            return index, dict(meta["note"])
        except (KeyError, ValueError, TypeError, ShapeError) as exc:
            raise ArtifactError(f"cannot use customer vectors {path}: {exc}. {_AGAIN}") from exc

    def _fill(self, arrays: dict[str, np.ndarray], not_after: float) -> None:
        text = json.loads(arrays["text"].tobytes())
        total, begin = sum(map(len, text["customers"])), 0
        if not total == len(arrays["vectors"]) == len(arrays["as_of"]) == len(arrays["touches"]):
            raise ShapeError(f"{len(arrays['vectors'])} vectors of {total} customers")
        for business_id, ids in zip(text["business"], text["customers"], strict=True):
            rows = np.arange(begin, begin + len(ids))
            begin += len(ids)
            keep = arrays["as_of"][rows] <= not_after
            kept, names = rows[keep], [c for c, wanted in zip(ids, keep, strict=True) if wanted]
            self.upsert(business_id, names, arrays["vectors"][kept], arrays["as_of"][kept], arrays["touches"][kept])


@dataclass(slots=True)
class _Approximate:
    """An IVF index over a part's rows, for how many it was trained, and how many of its cells a search looks at."""

    index: Any
    trained_for: int
    nprobe: int

    def replace(self, row: int, vector: np.ndarray) -> None:
        self.drop(row)
        self.index.add_with_ids(vector.reshape(1, -1), np.array([row], dtype=np.int64))

    def drop(self, row: int) -> None:
        # A direct map of the kind Hashtable takes a list of ids only, and finds each without a walk over its cell.
        self.index.remove_ids(faiss.IDSelectorArray(np.array([row], dtype=np.int64)))


class _Part:
    """One business's customers. The lock is held for each call, so a search never meets half of a vector."""

    def __init__(self, dim: int) -> None:
        self.ids: list[str] = []
        self.place: dict[str, int] = {}
        self.vectors = np.empty((64, dim), dtype=np.float32)
        self.as_of = np.empty(64)
        self.touches = np.empty(64, dtype=np.int64)
        self.lock = threading.Lock()
        self.near: _Approximate | None = None
        self.changed: set[int] | None = None  # rows that changed while an IVF index is being built

    @property
    def count(self) -> int:
        return len(self.ids)

    @property
    def optimised_at(self) -> int:
        return self.near.trained_for if self.near is not None else 0

    def listing(self) -> list[str]:
        with self.lock:
            return list(self.ids)

    def get(self, customer_id: str) -> Row | None:
        with self.lock:
            row = self.place.get(customer_id)
            return None if row is None else Row(self.vectors[row].copy(), float(self.as_of[row]), int(self.touches[row]))

    def copy(self) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
        with self.lock:
            n = self.count
            return list(self.ids), self.vectors[:n].copy(), self.as_of[:n].copy(), self.touches[:n].copy()

    def upsert(self, ids: Sequence[str], vectors: np.ndarray, as_of: np.ndarray, touches: np.ndarray, allowed: Sequence[int]) -> int:
        changed = 0
        with self.lock:
            self._grow(len(self.ids) + len(allowed))
            for i in allowed:
                row = self.place.get(ids[i])
                if row is None:
                    row = self.place[ids[i]] = len(self.ids)
                    self.ids.append(ids[i])
                elif as_of[i] < self.as_of[row]:
                    continue
                self.vectors[row], self.as_of[row], self.touches[row] = vectors[i], as_of[i], touches[i]
                self._moved(row)
                changed += 1
        return changed

    def _grow(self, needed: int) -> None:
        size = len(self.vectors)
        if needed <= size:
            return
        size = max(needed, 2 * size)
        for name in ("vectors", "as_of", "touches"):
            old = getattr(self, name)
            new = np.empty((size, *old.shape[1:]), dtype=old.dtype)
            new[: self.count] = old[: self.count]
            setattr(self, name, new)

    def _moved(self, row: int) -> None:
        """A row has another content now (or, past the end, none)."""
        if self.changed is not None:
            self.changed.add(row)
        if self.near is not None:
            self._follow(self.near, row)

    def _follow(self, near: _Approximate, row: int) -> None:
        if row < self.count:
            near.replace(row, self.vectors[row])
        else:
            near.drop(row)

    def remove(self, customer_id: str) -> bool:
        with self.lock:
            row = self.place.pop(customer_id, None)
            if row is None:
                return False
            last = self.count - 1
            moved = self.ids.pop()
            if row != last:
                self.ids[row], self.place[moved] = moved, row
                for array in (self.vectors, self.as_of, self.touches):
                    array[row] = array[last]
                self._moved(row)
            self._moved(last)
            self.vectors[last] = 0.0  # erased means erased
            return True

    def search(self, vector: np.ndarray, k: int, exclude: Collection[str]) -> list[Neighbour]:
        with self.lock:
            unwanted = {self.place[c] for c in exclude if c in self.place}
            owed = min(k, self.count - len(unwanted))
            if owed <= 0:
                return []
            found = self._nearest(vector, owed + len(unwanted), unwanted)
            if len(found) < owed:
                found = self._exact(vector, owed + len(unwanted), unwanted)
            best = sorted((Neighbour(self.ids[r], cosine, float(self.as_of[r])) for r, cosine in found), key=lambda n: (-n.cosine, n[0]))
        return best[:owed]

    def _nearest(self, vector: np.ndarray, k: int, unwanted: set[int]) -> list[tuple[int, float]]:
        if self.near is None:
            return self._exact(vector, k, unwanted)
        cosines, rows = self.near.index.search(vector, k, params=faiss.SearchParametersIVF(nprobe=self.near.nprobe))
        return self._usable(rows[0], cosines[0], unwanted)

    def _exact(self, vector: np.ndarray, k: int, unwanted: set[int]) -> list[tuple[int, float]]:
        cosines, rows = faiss.knn(vector, self.vectors[: self.count], k, metric=faiss.METRIC_INNER_PRODUCT)
        return self._usable(rows[0], cosines[0], unwanted)

    def _usable(self, rows: np.ndarray, cosines: np.ndarray, unwanted: set[int]) -> list[tuple[int, float]]:
        """What was found less FAISS's -1 and the unwanted; a cosine that rounding took past 1 is 1."""
        pairs = zip(rows.tolist(), cosines.tolist(), strict=True)
        return [(r, max(-1.0, min(1.0, c))) for r, c in pairs if 0 <= r < self.count and r not in unwanted and math.isfinite(c)]

    def optimise(self) -> None:
        with self.lock:
            n, self.changed = self.count, set()
            vectors = self.vectors[:n].copy()
        try:
            index = _ivf(vectors)
            near = _Approximate(index, n, enough_cells(index, vectors, TARGET_RECALL))
            with self.lock:
                rows = set(self.changed) | set(range(n, self.count)) | set(range(self.count, n))
                for row in sorted(rows):
                    self._follow(near, row)
                self.near = near
        finally:
            self.changed = None


def _ivf(vectors: np.ndarray) -> Any:
    n, dim = vectors.shape
    lists = max(1, min(2 ** round(math.log2(4 * math.sqrt(n))), n // _TRAINING_ROWS_PER_LIST))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
    sample = vectors[np.random.default_rng(0).permutation(n)[: lists * _TRAINING_ROWS_PER_LIST]]
    index.train(sample)
    index.set_direct_map_type(faiss.DirectMap.Hashtable)
    for begin in range(0, n, 10_000):
        index.add_with_ids(vectors[begin : begin + 10_000], np.arange(begin, min(n, begin + 10_000)))
    return index
