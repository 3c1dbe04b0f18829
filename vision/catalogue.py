"""Products that a business taught with one to five photos: known at once, without training.

Each photo is seen in several ways (cut, mirrored, brighter), each view becomes a vector of the product network, and a picture is compared
with all vectors of its business's products (FAISS, exact) and with their means. One file a product, written atomically, never pickle:

    <folder>/<business, 24 hex digits>/<product, 24 hex digits>.npz     vectors, the photos as small JPEGs, and a record as JSON

so that processes that share the folder need no lock, and see each other's products at the next search. Vectors of another version of the
network are made anew from the photos when they are first met.

Letters: P photos, V views of each, D embedding dim, N vectors.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import faiss
import numpy as np

from contracts.errors import ArtifactError, ContractError, UnknownItem
from embeddings import archive
from vision.product_calibrate import known_probability, softmax

FORMAT = 1
MAX_PHOTOS = 20
"""The route takes 1 to 5; teaching from a folder may take more."""
KEPT_PX = 320
_AGAIN = "Teach the product again"

Embed = Callable[[list[np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Taught:
    """A product of a business's catalogue.

    Attributes:
        version: 1 when first taught, one more each time it is taught again.
        mean: float32 (D,), L2 norm 1, of all views.
    """

    product_id: str
    name: str
    brand: str
    photos: int
    version: int
    taught_at: str
    mean: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True)
class Match:
    """A taught product that a picture is near to.

    Attributes:
        similarity: half the cosine to the nearest view, half that to the mean.
        known: P(the picture shows a product of this catalogue).
        confidence: P(it shows this one).
    """

    product_id: str
    name: str
    brand: str
    similarity: float
    known: float
    confidence: float
    mean: np.ndarray


class Catalogue:
    """Taught products, apart by business: no search can meet another's. Safe from several threads and processes.

    Args:
        folder: where they lie; made when missing.
        embed: pictures of any size to float32 (N, D), L2 norm 1 (`ProductRecognizer.embed`).
        model_version: of the network behind `embed`.
        calibration: `catalogue` of the network's record: temperature, weight, bias.
    """

    def __init__(self, folder: Path, embed: Embed, model_version: str, calibration: Mapping[str, Any]) -> None:
        self.folder, self._embed, self._version = folder, embed, model_version
        self._temperature = float(calibration["temperature"])
        self._known = (np.array([calibration["weight"]]), float(calibration["bias"]))
        self._lock = threading.RLock()
        self._businesses: dict[str, _Business] = {}

    def teach(self, business_id: str, product_id: str, name: str, brand: str, pictures: Sequence[np.ndarray]) -> Taught:
        """Add a product, or replace what was taught of it.

        Args:
            pictures: 1 to 20 of uint8 (H, W, 3) RGB.

        Raises:
            ContractError: no name or id, or another number of pictures.
            ShapeError: not a picture.
        """
        if not product_id.strip() or not name.strip() or not business_id:
            raise ContractError("a taught product needs productId and name. Send both, not empty")
        if not 1 <= len(pictures) <= MAX_PHOTOS:
            raise ContractError(f"{len(pictures)} photos, must be 1 to {MAX_PHOTOS}. Send photos of the product from different sides")
        kept = [_encoded(p) for p in pictures]
        vectors = self._vectors([_decoded(k) for k in kept])
        with self._lock:
            before = {p.product_id: p for p in self.products(business_id)}.get(product_id)
            meta = {
                "format": FORMAT, "business_id": business_id, "product_id": product_id, "name": name.strip(), "brand": brand.strip(),
                "version": before.version + 1 if before else 1, "model_version": self._version,
                "taught_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }  # fmt: skip
            path = self._path(business_id, product_id)
            _write(path, vectors, kept, meta)
            return self._business(business_id).files[path.name][1]

    def remove(self, business_id: str, product_id: str) -> None:
        """Forget a product.

        Raises:
            UnknownItem: the business taught no such product.
        """
        with self._lock:
            try:
                self._path(business_id, product_id).unlink()
            except FileNotFoundError as exc:
                raise UnknownItem(f"no product {product_id!r} was taught. List the taught products and correct the id") from exc
            self._business(business_id)

    def products(self, business_id: str) -> list[Taught]:
        """What a business taught, by product id."""
        with self._lock:
            return sorted((taught for _, taught in self._business(business_id).files.values()), key=lambda t: t.product_id)

    def search(self, business_id: str, vector: np.ndarray, k: int = 5) -> list[Match]:
        """The nearest taught products of a business, best first; fewer than k where it taught fewer.

        Args:
            vector: float32 (D,), L2 norm 1.

        Raises:
            ArtifactError: a file of the catalogue is damaged.
        """
        with self._lock:
            business = self._business(business_id)
            products, views, owner, means = business.products, business.views, business.owner, business.means
        if not products:
            return []
        query = np.ascontiguousarray(vector[None], np.float32)
        cosines, rows = faiss.knn(query, views, len(views), metric=faiss.METRIC_INNER_PRODUCT)
        nearest = np.full(len(products), -1.0)
        np.maximum.at(nearest, owner[rows[0]], cosines[0])
        similar = 0.5 * nearest + 0.5 * (means @ query[0])
        share = softmax(similar / self._temperature)
        known = float(known_probability(similar.max().reshape(1, 1), *self._known)[0])
        return [
            Match(p.product_id, p.name, p.brand, float(similar[i]), known, float(share[i]) * known, p.mean)
            for i in np.argsort(-similar, kind="stable")[:k]
            for p in (products[i],)
        ]

    def _vectors(self, pictures: list[np.ndarray]) -> np.ndarray:
        return self._embed([view for p in pictures for view in views_of(p)])

    def _path(self, business_id: str, product_id: str) -> Path:
        return self.folder / _hex(business_id) / f"{_hex(product_id)}.npz"

    def _business(self, business_id: str) -> _Business:
        """The business's products as the folder has them now; only files that changed are read."""
        root = self.folder / _hex(business_id)
        known = self._businesses.setdefault(business_id, _Business())
        found: dict[str, tuple[tuple[int, int, int], Taught]] = {}
        for path in sorted(root.glob("*.npz")) if root.is_dir() else []:
            try:
                stat = path.stat()
            except FileNotFoundError:  # removed by another process meanwhile
                continue
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            old = known.files.get(path.name)
            found[path.name] = old if old and old[0] == stamp else (stamp, self._read(path))
        if found != known.files or not known.ready:
            known = self._businesses[business_id] = _Business(found)
        return known

    def _read(self, path: Path) -> Taught:
        arrays, meta = archive.read(path, FORMAT, _AGAIN)
        try:
            ends = np.cumsum(arrays["sizes"])
            kept = [arrays["photos"][e - n : e] for n, e in zip(arrays["sizes"], ends, strict=True)]
            vectors = arrays["vectors"]
            if meta["model_version"] != self._version:
                vectors = self._vectors([_decoded(k) for k in kept])
                _write(path, vectors, kept, {**meta, "model_version": self._version})
            return Taught(
                meta["product_id"],
                meta["name"],
                meta["brand"],
                len(kept),
                int(meta["version"]),
                meta["taught_at"],
                unit(vectors.mean(0)),
                vectors,
            )
        except (KeyError, ValueError, TypeError, cv2.error) as exc:
            raise ArtifactError(f"cannot use taught product {path}: {exc}. {_AGAIN}") from exc


class _Business:
    """One business's products, ready to be searched."""

    def __init__(self, files: dict[str, tuple[tuple[int, int, int], Taught]] | None = None) -> None:
        self.ready = files is not None
        self.files = files or {}
        self.products = [taught for _, taught in self.files.values()]
        self.owner: np.ndarray = np.repeat(np.arange(len(self.products)), [len(p.vectors) for p in self.products])
        self.views: np.ndarray = (
            np.ascontiguousarray(np.concatenate([p.vectors for p in self.products])) if self.products else np.zeros((0, 1), np.float32)
        )
        self.means: np.ndarray = np.stack([p.mean for p in self.products]) if self.products else np.zeros((0, 1), np.float32)


def views_of(pixels: np.ndarray) -> list[np.ndarray]:
    """Ways to see a photo: whole, mirrored, its middle at two sizes, a little turned to both sides, brighter and darker."""
    height, width = pixels.shape[:2]

    def middle(share: float) -> np.ndarray:
        dy, dx = int(height * (1 - share) / 2), int(width * (1 - share) / 2)
        return pixels[dy : height - dy, dx : width - dx]

    def turned(degrees: float) -> np.ndarray:
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.15)
        return np.asarray(cv2.warpAffine(pixels, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101), np.uint8)

    def lit(gain: float) -> np.ndarray:
        return np.clip(pixels.astype(np.float32) * gain, 0, 255).astype(np.uint8)

    return [pixels, np.ascontiguousarray(pixels[:, ::-1]), middle(0.85), middle(0.7), turned(10), turned(-10), lit(1.2), lit(0.8)]


def unit(vector: np.ndarray) -> np.ndarray:
    """A vector brought to length 1."""
    found: np.ndarray = (vector / max(1e-12, float(np.linalg.norm(vector)))).astype(np.float32)
    return found


def _hex(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:24]


def _encoded(pixels: np.ndarray) -> np.ndarray:
    from vision.products import check_picture

    height, width = check_picture(pixels).shape[:2]
    scale = min(1.0, KEPT_PX / max(height, width))
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if scale < 1 else pixels
    return np.asarray(cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])[1], np.uint8).ravel()


def _decoded(kept: np.ndarray) -> np.ndarray:
    found = cv2.imdecode(kept, cv2.IMREAD_COLOR_RGB)
    if found is None:
        raise ValueError("a photo is damaged")
    return np.asarray(found, np.uint8)


def _write(path: Path, vectors: np.ndarray, kept: list[np.ndarray], meta: dict[str, Any]) -> None:
    arrays = {"vectors": vectors.astype(np.float32), "photos": np.concatenate(kept), "sizes": np.array([len(k) for k in kept])}
    archive.write(path, arrays, meta)
