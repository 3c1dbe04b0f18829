"""Vector search over the rewards of all businesses; whatever the index type, no row that a filter forbids ever leaves.

Three things keep that promise. The filter goes *into* the FAISS search as a selector, so that the k best *allowed* rows are looked for.
Every answer is checked against the table once more, because selectors were ignored by some FAISS index types in some versions. And where
an approximate index found fewer rows than it owes, an exact search over the allowed rows answers instead.

Sizes: N rows in all, D embedding dim, B customers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import faiss as _faiss
import numpy as np
from pydantic import Field

from contracts.errors import ArtifactError, ConfigError, ContractError, ShapeError
from contracts.settings import StackSettings, settings_config
from embeddings import archive
from embeddings.table import UNLIMITED, Filter, RewardTable

__all__ = ["UNLIMITED", "Filter", "Found", "IndexSettings", "RewardIndex", "RewardTable"]

faiss: Any = _faiss  # the type stubs that it brings lack half of what is used here
FORMAT = 2
_AGAIN = "Rebuild it: regulars export"
MAX_K = 1000
_GPU_MAX_K = 2048  # FAISS's own limit for k on a GPU
_TRAINING_ROWS_PER_LIST = 39  # fewer, and FAISS warns that its clusters mean little
_SAMPLED_ROWS_PER_LIST = 64  # more makes training longer (256, FAISS's default: 15 s a million, 64: 3 s) and recall no better
_TRIALS, _TRIAL_K, _MOVED = 128, 10, np.float32(0.3)


class IndexSettings(StackSettings):
    """Which index, and how hard it looks. Variables start with `REGULARS_INDEX_`.

    Attributes:
        kind: `auto` is exact while no business has more than `exact_up_to` rewards, IVF above.
        gpu: put the approximate (or the exact) index on the first GPU.
        lists: IVF cells; None takes the power of two next to sqrt(N).
        nprobe: IVF cells searched for a query; None takes half again as many as reach `target_recall` on queries made of the
            catalogue itself: rewards moved a little, whose exact answers are computed once, while building.
        target_recall: share of the exact ten best that such a query must find, in the mean.
        links, ef_construction, ef: HNSW's neighbours per node, effort while building and while searching.
        exact_up_to: see `kind`.
        exact_below: a business with at most so many rewards is searched exactly even beside an approximate index: faster, and complete.
    """

    model_config = settings_config("REGULARS_INDEX_")
    kind: Literal["auto", "exact", "ivf", "hnsw"] = "auto"
    gpu: bool = False
    lists: int | None = Field(default=None, ge=1, le=1 << 20)
    nprobe: int | None = Field(default=None, ge=1, le=1 << 20)
    target_recall: float = Field(default=0.99, gt=0, le=1)
    links: int = Field(default=32, ge=2, le=512)
    ef_construction: int = Field(default=80, ge=4, le=10_000)
    ef: int = Field(default=200, ge=1, le=10_000)
    exact_up_to: int = Field(default=50_000, ge=0)
    exact_below: int = Field(default=20_000, ge=0)


class Found(NamedTuple):
    """One customer's answer, best first: rows int64 (k',), scores float32 (k',); k' <= k. Equal scores are in the order of their rows."""

    rows: np.ndarray
    scores: np.ndarray


_NOTHING = Found(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))


@dataclass(frozen=True, slots=True)
class _Window:
    """The rows of one business that may be shown from `start` until before `end`: between two dates of the catalogue nothing changes."""

    start: float
    end: float
    allowed: np.ndarray  # bool (n,), by place within the business
    count: int
    selector: _Selector  # by place, or by row where an index over all rows is searched


class _Selector:
    """FAISS search parameters that admit the set bits of a bitmap. Keeps the bitmap alive: FAISS only borrows it."""

    __slots__ = ("bits", "parameters", "size")

    def __init__(self, bits: np.ndarray, size: int, make: Any) -> None:
        self.bits = bits
        self.size = size
        self.parameters = make(faiss.IDSelectorBitmap(size, faiss.swig_ptr(bits)))

    def without(self, positions: np.ndarray, make: Any) -> _Selector:
        """The same less these positions; the bitmap is copied."""
        bits = self.bits.copy()
        np.bitwise_and.at(bits, positions >> 3, ~(np.uint8(1) << (positions & 7).astype(np.uint8)))
        return _Selector(bits, self.size, make)


class _Part:
    """The rows of one business: where they are, when they are valid, and (for exact search) their vectors side by side."""

    def __init__(self, index: RewardIndex, rows: np.ndarray, exact: bool) -> None:
        table = index.table
        self.rows = rows
        self.place = {table.reward_ids[r]: i for i, r in enumerate(rows.tolist())}
        if len(self.place) != len(rows):
            raise ContractError(
                f"business {table.business_ids[table.business[rows[0]]]} has {len(rows)} rewards but {len(self.place)} different ids, "
                "which must be unique within a business. Land the rewards again: regulars data import"
            )
        self.single_use = table.single_use[rows]
        self._from, self._to = table.valid_from[rows], table.valid_to[rows]
        self._in_stock = table.inventory[rows] != 0
        # The first instant at which something changes: a start, or the instant after an (inclusive) end.
        self._changes = np.unique(np.concatenate([self._from, np.nextafter(self._to, np.inf)]))
        self._total = len(table)
        self.flat: Any = _flat(index.vectors[rows]) if exact else None
        self.make = _flat_parameters if exact else index._parameters
        self._window: _Window | None = None

    def window(self, now: float) -> _Window:
        """What is allowed at `now`; remembered, since `now` hardly moves between requests. Safe to race: the last one stays."""
        window = self._window
        if window is None or not window.start <= now < window.end:
            window = self._window = self._make_window(now)
        return window

    def _make_window(self, now: float) -> _Window:
        at = int(np.searchsorted(self._changes, now, side="right"))
        start = float(self._changes[at - 1]) if at else -math.inf
        end = float(self._changes[at]) if at < len(self._changes) else math.inf
        allowed = self._in_stock & (self._from <= now) & (self._to >= now)
        if self.flat is not None:
            mask = allowed
        else:
            mask = np.zeros(self._total, dtype=bool)
            mask[self.rows[allowed]] = True
        bits = np.packbits(mask, bitorder="little")
        return _Window(start, end, allowed, int(allowed.sum()), _Selector(bits, len(mask), self.make))

    def excluded(self, query: Filter, allowed: np.ndarray) -> np.ndarray:
        """Places within the business that this customer must not get, among the allowed ones: int64, sorted, unique."""
        if not (query.dismissed or query.redeemed or query.excluded_rows):
            return _NOTHING.rows
        place = self.place
        places = {place[i] for i in query.dismissed if i in place}
        places.update(p for p in (place.get(i, -1) for i in query.redeemed) if p >= 0 and self.single_use[p])
        if query.excluded_rows:
            at = np.searchsorted(self.rows, np.fromiter(query.excluded_rows, dtype=np.int64, count=len(query.excluded_rows)))
            rows = set(query.excluded_rows)
            places.update(p for p in at.tolist() if p < len(self.rows) and int(self.rows[p]) in rows)
        found = np.array(sorted(places), dtype=np.int64)
        return found[allowed[found]]


class RewardIndex:
    """Search over float32 unit vectors, with the filters inside the search.

    Args:
        vectors: float32 (N, D), L2 norm 1, so that a dot product is a cosine.
        table: N rows of metadata in the same order.
        settings: see IndexSettings.

    Raises:
        ShapeError: vectors are not float32 (N, D), not finite, or not as many as the table's rows.
        ContractError: two rewards of one business have the same id.
        ConfigError: a GPU index was asked for and this FAISS has none.

    An index is read-only once built, so any number of threads may search it; a new catalogue is a new index (see snapshot.IndexHolder).
    """

    def __init__(self, vectors: np.ndarray, table: RewardTable, settings: IndexSettings | None = None) -> None:
        self._prepare(vectors, table, settings or IndexSettings.load())
        self._index: Any = self._build() if self.kind != "exact" or self.settings.gpu else None
        self._split()

    def _prepare(self, vectors: np.ndarray, table: RewardTable, settings: IndexSettings) -> None:
        if vectors.ndim != 2 or vectors.dtype != np.float32 or len(vectors) != len(table):
            raise ShapeError(
                f"item vectors are {vectors.dtype} {vectors.shape}, must be float32 ({len(table)}, D): one row per reward. "
                "Rebuild them: regulars export"
            )
        if not np.isfinite(vectors).all():
            raise ShapeError("item vectors hold NaN or infinity, must be finite unit vectors. Train again: regulars train recommender")
        self.vectors, self.table, self.settings = np.ascontiguousarray(vectors), table, settings
        counts = np.bincount(table.business, minlength=1)
        self.kind: str = settings.kind
        self.nprobe = settings.nprobe or 1
        if self.kind == "auto":
            self.kind = "exact" if counts.max(initial=0) <= settings.exact_up_to else "ivf"

    def _split(self) -> None:
        order = np.argsort(self.table.business, kind="stable")
        edges = np.searchsorted(self.table.business[order], np.arange(len(self.table.business_ids) + 1))
        self._parts: dict[str, _Part] = {}
        for i, name in enumerate(self.table.business_ids):
            rows = order[edges[i] : edges[i + 1]].astype(np.int64)
            exact = self._index is None or len(rows) <= self.settings.exact_below
            self._parts[name] = _Part(self, rows, exact)

    def _build(self) -> Any:
        n, dim = self.vectors.shape
        if self.kind == "ivf":
            lists = self.settings.lists or 2 ** max(0, round(math.log2(math.sqrt(max(n, 1)))))
            lists = max(1, min(lists, n // _TRAINING_ROWS_PER_LIST))
            index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
            sample = np.random.default_rng(0).permutation(n)[: max(_TRAINING_ROWS_PER_LIST, lists * _SAMPLED_ROWS_PER_LIST)]
            if n:
                index.train(self.vectors[sample])
        elif self.kind == "hnsw":
            index = faiss.IndexHNSWFlat(dim, self.settings.links, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = self.settings.ef_construction
        else:
            index = faiss.IndexFlatIP(dim)
        if n:
            index.add(self.vectors)
        if self.kind == "ivf":
            self.nprobe = self.settings.nprobe or enough_cells(index, self.vectors, self.settings.target_recall)
        return self._to_gpu(index) if self.settings.gpu else index

    def _to_gpu(self, index: Any) -> Any:
        if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
            raise ConfigError(
                f"REGULARS_INDEX_GPU is on, but FAISS {faiss.__version__} here finds no GPU. Install faiss-gpu-cu12 in place of faiss-cpu "
                "on a machine with an NVIDIA GPU, or unset REGULARS_INDEX_GPU."
            )
        if self.kind == "hnsw":
            raise ConfigError("FAISS has no HNSW on a GPU. Set REGULARS_INDEX_KIND=ivf, or unset REGULARS_INDEX_GPU.")
        self._resources = faiss.StandardGpuResources()  # must outlive the index
        index = faiss.index_cpu_to_gpu(self._resources, 0, index)
        if self.kind == "ivf":
            index.nprobe = self.nprobe
        return index

    @property
    def dim(self) -> int:
        """D, the embedding dim."""
        return int(self.vectors.shape[1])

    def __len__(self) -> int:
        return len(self.table)

    def rows_of(self, business_id: str) -> np.ndarray:
        """Rows of one business, int64, ascending; empty for an unknown one."""
        part = self._parts.get(business_id)
        return part.rows if part else _NOTHING.rows

    def row(self, business_id: str, reward_id: str) -> int | None:
        """The row of a reward, None when this business has none of that id."""
        part = self._parts.get(business_id)
        place = part.place.get(reward_id) if part else None
        return None if part is None or place is None else int(part.rows[place])

    def allowed_rows(self, query: Filter) -> np.ndarray:
        """Every row that the filter admits, int64, ascending."""
        part = self._parts.get(query.business_id)
        if part is None or math.isnan(query.now):
            return _NOTHING.rows
        allowed = part.window(query.now).allowed
        excluded = part.excluded(query, allowed)
        if len(excluded):
            allowed = allowed.copy()
            allowed[excluded] = False
        return part.rows[allowed]

    def search(self, user_vectors: np.ndarray, k: int, filters: Sequence[Filter]) -> list[Found]:
        """The k rewards nearest to each customer among those that the customer's filter admits.

        Args:
            user_vectors: float32 (B, D), L2 norm 1.
            k: 1 to 1000.
            filters: B of them.

        Returns:
            B answers, best first. Where a filter admits fewer than k rows the answer holds exactly those, so the answers may differ in
            length; nothing is padded and FAISS's -1 never leaves. The order among equal scores is that of the rows. An unknown business
            gets an empty answer. Each answer depends on its own vector and filter only, not on the rest of the batch.

        Raises:
            ShapeError: the vectors are not float32 (B, D) of the index's D, or not finite, or there are not B filters.
            ContractError: k is out of range.

        Source: inner-product search, FAISS; recall measured in recall.py.
        """
        self._check(user_vectors, k, filters)
        vectors = np.ascontiguousarray(user_vectors)
        return [self._search_one(vectors[i : i + 1], k, query) for i, query in enumerate(filters)]

    def _check(self, user_vectors: np.ndarray, k: int, filters: Sequence[Filter]) -> None:
        if user_vectors.ndim != 2 or user_vectors.dtype != np.float32:
            raise ShapeError(
                f"user vectors are {user_vectors.dtype} {user_vectors.shape}, must be float32 (B, {self.dim}). "
                "Send what the user tower gave."
            )
        if user_vectors.shape[1] != self.dim:
            raise ShapeError(f"index has dim {self.dim}, user tower emits {user_vectors.shape[1]}. Rebuild it: regulars export")
        if len(filters) != len(user_vectors):
            raise ShapeError(
                f"{len(user_vectors)} user vectors came with {len(filters)} filters, must be one filter each. Send as many of both."
            )
        if not 1 <= k <= MAX_K:
            raise ContractError(f"k is {k}, must be 1 to {MAX_K}. Ask for fewer rewards.")
        if not np.isfinite(user_vectors).all():
            raise ShapeError("user vectors hold NaN or infinity, must be finite. Check the features sent to the user tower.")

    def _search_one(self, vector: np.ndarray, k: int, query: Filter) -> Found:
        part = self._parts.get(query.business_id)
        if part is None or math.isnan(query.now):
            return _NOTHING
        window = part.window(query.now)
        excluded = part.excluded(query, window.allowed)
        owed = min(k, window.count - len(excluded))
        if owed <= 0:
            return _NOTHING
        selector = window.selector
        if len(excluded):
            selector = selector.without(excluded if part.flat is not None else part.rows[excluded], part.make)
        if part.flat is not None:
            found = self._exact(part, vector, owed, window.count - len(excluded), selector)
        else:
            found = self._approximate(vector, owed, selector)
        return self._verified(found, vector, owed, query)

    def _exact(self, part: _Part, vector: np.ndarray, k: int, allowed: int, selector: _Selector) -> Found:
        """Ask for one more than wanted: when it ties with the last one, ask for more until the tie is whole, so that the row decides it."""
        ask = min(k + 1, allowed)
        while True:
            scores, places = part.flat.search(vector, ask, params=selector.parameters)
            if ask == allowed or scores[0, -1] < scores[0, k - 1]:
                return _ordered(part.rows[places[0]], scores[0], k)
            ask = min(4 * ask, allowed)

    def _approximate(self, vector: np.ndarray, k: int, selector: _Selector) -> Found:
        if self.settings.gpu:  # no selectors there: look wider, the check below sorts out what is not allowed
            scores, rows = self._index.search(vector, min(_GPU_MAX_K, 4 * k + 256, max(1, len(self))))
        else:
            scores, rows = self._index.search(vector, k, params=selector.parameters)
        return _ordered(rows[0], scores[0], _GPU_MAX_K if self.settings.gpu else k)

    def _verified(self, found: Found, vector: np.ndarray, owed: int, query: Filter) -> Found:
        """Drop whatever the table does not admit (FAISS's -1 too), then make up for what is missing."""
        ok = self.table.passes(found.rows, query)
        if not ok.all():
            found = Found(found.rows[ok], found.scores[ok])
        if len(found.rows) < owed:
            found = exact_search(self.vectors, self.allowed_rows(query), vector[0], owed)
            ok = self.table.passes(found.rows, query)
            found = Found(found.rows[ok], found.scores[ok])
        return Found(found.rows[:owed], found.scores[:owed])

    def _parameters(self, selector: Any) -> Any:
        if self.kind == "ivf":
            return faiss.SearchParametersIVF(sel=selector, nprobe=self.nprobe)
        if self.kind == "hnsw":
            return faiss.SearchParametersHNSW(sel=selector, efSearch=self.settings.ef)
        return faiss.SearchParameters(sel=selector)

    def save(self, path: Path) -> None:
        """Write everything into one file, atomically: a reader sees the old or the new one, whole."""
        arrays = _table_arrays(self.table) | {"vectors": self.vectors}
        if self._index is not None:
            plain = faiss.index_gpu_to_cpu(self._index) if self.settings.gpu else self._index
            arrays["faiss"] = faiss.serialize_index(plain)
        archive.write(path, arrays, {"format": FORMAT, "settings": self.settings.public(), "kind": self.kind, "nprobe": self.nprobe})

    @classmethod
    def load(cls, path: Path) -> RewardIndex:
        """Read an index that `save` wrote; nothing is trained again.

        Raises:
            ArtifactError: the file is missing, damaged, or of another format.
        """
        arrays, meta = archive.read(path, FORMAT, _AGAIN)
        index = cls.__new__(cls)
        try:
            settings = IndexSettings(**meta["settings"])
            index._prepare(arrays["vectors"], _table_from(arrays), settings)
            index.nprobe = int(meta["nprobe"])
            stored = arrays.get("faiss")
            index._index = None if stored is None else faiss.deserialize_index(stored)
        except (KeyError, ValueError, RuntimeError, ShapeError) as exc:
            raise ArtifactError(f"cannot use index {path}: {exc}. Rebuild it: regulars export") from exc
        if index._index is not None and settings.gpu:
            index._index = index._to_gpu(index._index)
        index._split()
        return index


def enough_cells(index: Any, vectors: np.ndarray, target: float) -> int:
    """The fewest cells (in steps of a half) with which an IVF index finds the share `target` of the exact ten best.

    The queries are rows moved by noise of 0.3 of their length: customers lie near the rewards that they like, not on them. That is a
    little harder than customers spread as the rewards are (benchmarks/bench_index.py). Where the vectors have no structure this becomes
    many cells: slow, but right. Half again as many are taken as this took, since 128 queries say it to about 0.005 only.

    Args:
        index: a FAISS IVF index that holds the vectors.
        vectors: float32 (N, D), L2 norm 1.
    """
    if not len(vectors):
        return 1
    rng = np.random.default_rng(0)
    queries = vectors[rng.integers(0, len(vectors), _TRIALS)]
    queries = queries + _MOVED * (rng.standard_normal(queries.shape) / math.sqrt(vectors.shape[1])).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    k, cells = min(_TRIAL_K, len(vectors)), 1
    wanted, _ = faiss.knn(queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
    while cells < index.nlist:
        scores, _ = index.search(queries, k, params=faiss.SearchParametersIVF(nprobe=cells))
        if float((scores >= wanted[:, -1:] - 1e-5).mean()) >= target:
            break
        cells += max(1, cells // 2)
    return int(min(cells + cells // 2, index.nlist))


def exact_search(vectors: np.ndarray, rows: np.ndarray, vector: np.ndarray, k: int) -> Found:
    """The k best of `rows` by inner product, in NumPy: slow and complete. Equal scores in the order of their rows.

    Args:
        vectors: float32 (N, D); rows: int64, ascending; vector: float32 (D,); k: at least 1.
    """
    scores = np.einsum("nd,d->n", vectors[rows], vector)
    if k < len(rows):
        last = np.partition(scores, len(rows) - k)[len(rows) - k]
        near = scores >= last
        rows, scores = rows[near], scores[near]
    return _ordered(rows, scores, k)


def _ordered(rows: np.ndarray, scores: np.ndarray, k: int) -> Found:
    order = np.lexsort((rows, -scores))[:k]
    return Found(rows[order], scores[order])


def _flat(vectors: np.ndarray) -> Any:
    index = faiss.IndexFlatIP(vectors.shape[1])
    if len(vectors):
        index.add(vectors)
    return index


def _flat_parameters(selector: Any) -> Any:
    return faiss.SearchParameters(sel=selector)


def _table_arrays(table: RewardTable) -> dict[str, np.ndarray]:
    """Text as JSON bytes: an object array would need pickle to be read again."""
    text = {"reward_ids": table.reward_ids, "business_ids": table.business_ids, "reward_types": table.reward_types}
    return {
        "text": archive.as_bytes(text),
        "business": table.business,
        "valid_from": table.valid_from,
        "valid_to": table.valid_to,
        "inventory": table.inventory,
        "single_use": table.single_use,
    }


def _table_from(arrays: dict[str, np.ndarray]) -> RewardTable:
    fields: dict[str, Any] = {name: tuple(values) for name, values in json.loads(arrays["text"].tobytes()).items()}
    fields |= {n: arrays[n] for n in ("business", "valid_from", "valid_to", "inventory", "single_use")}
    return RewardTable(**fields)
