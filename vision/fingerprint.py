"""Whether two pictures show the same receipt: a small fingerprint of each, keys to find it by, and a comparison.

Two receipts of one shop look alike, so what was read decides: dates, times, amounts and long numbers (of the receipt, the till, the card).
Both sides were read with mistakes, and a part may be cut off, so nothing has to be equal: shares of common numbers are weighed together
with the date, the total and the time by a logistic regression. Where too little was read, the picture decides: binary features (ORB) that
must lie in the same places up to a perspective.

To find a fingerprint among very many, each has `keys`, whole numbers of 64 bits to be stored in an indexed column. Fingerprints that
share a key are candidates. A key that very many share (a chain's telephone number on one day) tells nothing, and is skipped: see `Known`,
which does in memory what a database does in SQL.

A receipt of which neither total nor date can be read is not found by what was read, but it is not awarded either: it goes to a person.

Sources: min-wise hashing, Broder 1997; ORB, Rublee and others 2011; RANSAC, Fischler and Bolles 1981.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from functools import cached_property
from typing import Generic, TypeVar

import cv2
import numpy as np
import orjson

from contracts.errors import ArtifactError
from vision.types import Picture, Receipt

VERSION = 1
MIN_NUMBERS = 5
"""Numbers that both must have for the text to decide."""
THRESHOLD = 0.5
"""Probability from which two are taken as the same."""
MIN_INLIERS, MIN_SPREAD = 14, 0.12
"""Features that must agree on one perspective, and the share of the page that they must span, for pictures to be the same."""

_MARKS_PER_CELL, _CELLS, _SIDE = 3, 8, 720
_PERMUTATIONS = 12
_MIX = np.random.default_rng(20261122).integers(1, 2**63, _PERMUTATIONS, dtype=np.uint64) | np.uint64(1)
_SKIP_ABOVE = 200

_TOKEN = re.compile(r"\S*\d\S*")
_FOLD = str.maketrans("OoDQIl|!SsBZz", "0000111155822")
_DATE = re.compile(
    r"(?<!\d)(\d{1,2})\s?[/.\-]\s?(\d{1,2})\s?[/.\-]\s?(20\d{2}|\d{2})(?!\d\d\d\b)|(?<!\d)(20\d{2})[/.\-](\d{1,2})[/.\-](\d{1,2})"
)
_TIME = re.compile(r"(?<!\d)([01]?\d|2[0-3])[:;]([0-5]\d)(?!\d)")
_NUMBER = re.compile(r"\d(?:[\d.,:/\-]*\d)?")
_AMOUNT = re.compile(r"\d{1,3}(?:[.,]?\d{3})*[.,]\d{2}")
_WORD = re.compile(r"[A-Z]{4,}")

T = TypeVar("T")


@dataclass(frozen=True)
class Fingerprint:
    """What tells one receipt from another, at most 8 KB.

    Attributes:
        sha256: of the picture's file, in hex; empty where there was none.
        day: of the receipt, as read.
        total: in hundredths, as read.
        merchant: as read, letters and digits only.
        amounts, numbers, dates, times, words: tokens of the text, digits without marks between them.
        marks: uint8 (M, 32), binary features; places: uint16 (M, 2), their places, 65535 is the longer side.
        aspect: height by width of the picture.
        looks: difference hash of the whole picture, 64 bits.
    """

    sha256: str = ""
    day: date | None = None
    total: int | None = None
    merchant: str = ""
    amounts: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()
    dates: frozenset[str] = frozenset()
    times: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()
    marks: np.ndarray = field(default_factory=lambda: np.zeros((0, 32), np.uint8), repr=False, compare=False)
    places: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.uint16), repr=False, compare=False)
    aspect: float = 0.0
    looks: int = 0

    @cached_property
    def tokens(self) -> frozenset[str]:
        """Amounts and long numbers together."""
        return self.amounts | self.numbers

    def to_bytes(self) -> bytes:
        """For storage; compressed, with a version."""
        head = {
            "sha256": self.sha256, "day": self.day, "total": self.total, "merchant": self.merchant, "aspect": self.aspect,
            "looks": self.looks, "marks": len(self.marks),
            **{name: sorted(getattr(self, name)) for name in _SETS},
        }  # fmt: skip
        packed = zlib.compress(orjson.dumps(head), 6)
        return struct.pack("<BI", VERSION, len(packed)) + packed + self.marks.tobytes() + self.places.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Fingerprint:
        """What `to_bytes` gave.

        Raises:
            ArtifactError: another version, or damaged.
        """
        try:
            version, length = struct.unpack_from("<BI", data)
            if version != VERSION:
                raise ArtifactError(
                    f"the fingerprint is of version {version}, this program reads {VERSION}. Make it anew from the picture."
                )
            head = orjson.loads(zlib.decompress(data[5 : 5 + length]))
            count, at = head.pop("marks"), 5 + length
            marks = np.frombuffer(data, np.uint8, count * 32, at).reshape(count, 32)
            places = np.frombuffer(data, np.uint16, count * 2, at + count * 32).reshape(count, 2)
            day = date.fromisoformat(head.pop("day")) if head["day"] else head.pop("day")
            sets = {name: frozenset(head.pop(name)) for name in _SETS}
            return cls(day=day, marks=marks, places=places, **(sets | head))
        except (struct.error, zlib.error, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise ArtifactError("the fingerprint is damaged: it does not unpack. Make it anew from the picture.") from exc


_SETS = ("amounts", "numbers", "dates", "times", "words")


@dataclass(frozen=True)
class Likeness:
    """What a comparison found.

    Attributes:
        probability: that both show the same receipt, 0 to 1.
        by: `file`, `text` or `picture`: what decided.
        reasons: in words, what speaks for it.
    """

    probability: float
    by: str
    reasons: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        return self.probability >= THRESHOLD


def fingerprint(receipt: Receipt, picture: Picture | None = None) -> Fingerprint:
    """Make a fingerprint of what was read, `receipt.lines` above all, and of the picture where there is one."""
    tokens = _tokens(line.text for line in receipt.lines)
    marks, places = (np.zeros((0, 32), np.uint8), np.zeros((0, 2), np.uint16)) if picture is None else _marks(picture.pixels)
    return Fingerprint(
        sha256=picture.sha256 if picture else "",
        day=receipt.date,
        total=None if receipt.total is None else int((receipt.total * 100).to_integral_value()),
        merchant=re.sub(r"[\W_]+", "", (receipt.merchant or "").upper()),
        marks=marks,
        places=places,
        aspect=picture.height / picture.width if picture else 0.0,
        looks=_looks(picture.pixels) if picture else 0,
        amounts=tokens["amounts"],
        numbers=tokens["numbers"],
        dates=tokens["dates"],
        times=tokens["times"],
        words=tokens["words"],
    )


def _tokens(texts: Iterable[str]) -> dict[str, frozenset[str]]:
    """Sort what stands in the text: dates, times, amounts, long numbers, words; letters that are misread digits are made digits."""
    found: dict[str, set[str]] = {name: set() for name in _SETS}
    for raw in texts:
        text = _TOKEN.sub(_folded, raw)
        found["words"].update(_WORD.findall(raw.upper()))
        for pattern, name in ((_DATE, "dates"), (_TIME, "times")):
            for match in pattern.finditer(text):
                parts = [p for p in match.groups() if p]
                found[name].add("".join(p[-2:].zfill(2) for p in parts))  # 7:05 is 0705, 1/4/2018 is 010418
            text = pattern.sub(" ", text)
        for match in _NUMBER.finditer(text):
            digits = re.sub(r"\D", "", match[0])
            if _AMOUNT.fullmatch(match[0]):
                if int(digits):
                    found["amounts"].add(digits.lstrip("0"))
            elif len(digits) >= 5:
                found["numbers"].add(digits)
            elif len(digits) >= 3:
                found["amounts"].add(digits)
    return {name: frozenset(values) for name, values in found.items()}


def _folded(match: re.Match[str]) -> str:
    """A word with digits in it; where they are the most of it, its letters that look like digits become digits."""
    text = match[0]
    digits, letters = sum(c.isdigit() for c in text), sum(c.isalpha() for c in text)
    return text.translate(_FOLD) if digits > letters else text


# Pictures


def _marks(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Binary features spread over the picture: uint8 (M, 32) and their places, uint16 (M, 2)."""
    height, width = pixels.shape[:2]
    scale = _SIDE / max(height, width)
    size = max(round(width * scale), 32), max(round(height * scale), 32)
    grey = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    orb = cv2.ORB.create(nfeatures=1_500, scaleFactor=1.2, nlevels=6, fastThreshold=8)
    points = orb.detect(grey, None)
    cells: dict[tuple[int, int], list[cv2.KeyPoint]] = defaultdict(list)
    for point in sorted(points, key=lambda p: -p.response):
        cell = cells[int(point.pt[0] * _CELLS / size[0]), int(point.pt[1] * _CELLS / size[1])]
        if len(cell) < _MARKS_PER_CELL:
            cell.append(point)
    chosen = [p for cell in cells.values() for p in cell]
    kept, marks = orb.compute(grey, chosen) if chosen else ([], None)
    if marks is None or len(kept) == 0:
        return np.zeros((0, 32), np.uint8), np.zeros((0, 2), np.uint16)
    places = np.array([p.pt for p in kept]) / max(size) * 65_535
    return np.ascontiguousarray(marks), np.clip(places, 0, 65_535).astype(np.uint16)


def _looks(pixels: np.ndarray) -> int:
    """Difference hash of 8 x 8: which of two neighbours is brighter. The same for a file that was only saved again or made smaller."""
    small = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "little", signed=True)


def agreeing(a: Fingerprint, b: Fingerprint) -> tuple[int, float]:
    """Features of two pictures that agree on one perspective, and the smaller of the shares of the two pages that they span."""
    if len(a.marks) < 8 or len(b.marks) < 8:
        return 0, 0.0
    pairs = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(a.marks, b.marks)
    pairs = [p for p in pairs if p.distance <= 64]
    if len(pairs) < 8:
        return 0, 0.0
    ours = np.array([a.places[p.queryIdx] for p in pairs], np.float32) / 65_535
    theirs = np.array([b.places[p.trainIdx] for p in pairs], np.float32) / 65_535
    homography, inliers = cv2.findHomography(ours, theirs, cv2.USAC_MAGSAC, 0.012, maxIters=2_000, confidence=0.995)
    if homography is None or inliers is None:
        return 0, 0.0
    held = inliers.ravel().astype(bool)
    if held.sum() < 4 or not _plausible(np.asarray(homography)):
        return 0, 0.0
    spans = [cv2.contourArea(cv2.convexHull(p[held])) / max(_area(f), 1e-6) for p, f in ((ours, a), (theirs, b))]
    return int(held.sum()), float(min(spans))


def _area(print_: Fingerprint) -> float:
    """Of the page, where the longer side is 1."""
    return min(print_.aspect, 1 / print_.aspect) if print_.aspect > 0 else 1.0


def _plausible(homography: np.ndarray) -> bool:
    """Whether a perspective is one that a camera can have: not mirrored, not folded, neither very small nor very large."""
    corners = cv2.perspectiveTransform(np.array([[[0, 0], [0.7, 0], [0.7, 0.7], [0, 0.7]]], np.float32), homography)[0]
    area = cv2.contourArea(corners, oriented=True) / 0.49
    return bool(cv2.isContourConvex(corners)) and 0.15 < abs(area) < 7 and np.linalg.det(homography[:2, :2]) > 0


# Comparing

FEATURES = ("one", "amounts", "numbers", "day", "total", "times", "words")
WEIGHTS = np.array([-2.3, 0.8, 2.9, 0.85, 0.3, 3.8, 1.3])
"""Of FEATURES. Fitted by `python -m benchmarks.bench_same_receipt --fit`; see there."""


def features(a: Fingerprint, b: Fingerprint) -> np.ndarray:
    """float64 (7,): evidence that two texts are of one receipt; each between -1 (differs) and 1 (agrees), 0 where nothing tells."""
    day = max(_equal(a.day, b.day), _any(a.dates, b.dates), key=lambda v: (v > 0, abs(v)))
    return np.array(
        [
            1.0,
            _share(a.amounts, b.amounts),
            _share(a.numbers, b.numbers),
            day,
            _equal(a.total, b.total),
            _times(a.times, b.times),
            _share(a.words, b.words),
        ]
    )


def _share(a: frozenset[str], b: frozenset[str]) -> float:
    """Share of the shorter list that is in the longer, from -1 to 1; small lists tell less. A wrong character is forgiven in long ones."""
    few = min(len(a), len(b))
    if few == 0:
        return 0.0
    common = a & b
    matched = len(common)
    if 0 < matched < few:
        ours, theirs = [_holes(t) for t in a - common], [_holes(t) for t in b - common]
        matched += min(_near(ours, theirs), _near(theirs, ours))
    return (2 * matched / few - 1) * min(1.0, few / 3)


def _near(ours: list[set[str]], theirs: list[set[str]]) -> int:
    """How many of ours differ from one of theirs in at most one character."""
    all_theirs = set().union(*theirs)
    return sum(not holes.isdisjoint(all_theirs) for holes in ours)


def _holes(token: str) -> set[str]:
    """A token of six characters or more with each of its characters left out: two that share one differ in one or two."""
    return {token, *(token[:n] + token[n + 1 :] for n in range(len(token)))} if len(token) >= 6 else set()


def _equal(a: Hashable | None, b: Hashable | None) -> float:
    return 0.0 if a is None or b is None else 1.0 if a == b else -1.0


def _any(a: frozenset[str], b: frozenset[str]) -> float:
    return 0.0 if not a or not b else 1.0 if a & b else -1.0


def _times(a: frozenset[str], b: frozenset[str]) -> float:
    """As `_any`, but times that differ in one digit tell nothing: one of them may be misread."""
    found = _any(a, b)
    near = found < 0 and any(sum(x != y for x, y in zip(one, other, strict=True)) == 1 for one in a for other in b)
    return 0.0 if near else found


def compare(a: Fingerprint, b: Fingerprint) -> Likeness:
    """Whether two fingerprints are of the same receipt. The same either way round."""
    if a.sha256 and a.sha256 == b.sha256:
        return Likeness(1.0, "file", ("it is the same file",))
    if min(len(a.tokens), len(b.tokens)) >= MIN_NUMBERS:
        found = features(a, b)
        return Likeness(float(1 / (1 + np.exp(-found @ WEIGHTS))), "text", _reasons(a, b))
    inliers, spread = agreeing(a, b)
    if _equal(a.total, b.total) < 0 and _equal(a.day, b.day) < 0:
        return Likeness(0.0, "picture")
    # A half where both bounds are just met; no figure of chance beyond that.
    probability = float(1 / (1 + np.exp(-min((inliers - MIN_INLIERS + 0.5) / 3, (spread - MIN_SPREAD) * 40))))
    return Likeness(probability, "picture", (f"{inliers} details of the picture lie in the same places",) if inliers else ())


def _reasons(a: Fingerprint, b: Fingerprint) -> tuple[str, ...]:
    said = []
    if a.day is not None and a.day == b.day:
        said.append(f"the same date, {a.day.isoformat()}")
    if a.total is not None and a.total == b.total:
        said.append(f"the same total, {Decimal(a.total) / 100}")
    if a.times & b.times:
        said.append("the same time of day")
    common, few = len(a.tokens & b.tokens), min(len(a.tokens), len(b.tokens))
    said.append(f"{common} of {few} numbers are the same")
    return tuple(said)


# Finding


def keys(print_: Fingerprint) -> tuple[int, ...]:
    """Whole numbers of 64 bits with sign, at most 30; two pictures of one receipt share at least one, nearly always."""
    found: list[tuple[object, ...]] = []
    if print_.sha256:
        found.append(("file", print_.sha256))
    if print_.aspect:
        found += [("looks", n, print_.looks >> 16 * n & 0xFFFF) for n in range(4)]
    if print_.day is not None and print_.total is not None:
        found.append(("day and total", print_.day.isoformat(), print_.total))
    tokens = sorted(print_.tokens)
    if tokens:
        hashes = np.array([_hash(t) for t in tokens], dtype=np.int64).view(np.uint64)
        mixed = hashes[None, :] * _MIX[:, None]
        mixed ^= mixed >> np.uint64(29)
        least = [tokens[i] for i in mixed.argmin(axis=1)]
        for n in range(6):
            if print_.day is not None:
                found.append(("day", print_.day.isoformat(), least[n]))
            if print_.total is not None:
                found.append(("total", print_.total, least[n + 6]))
            found.append(("two", n, least[n], least[n + 6]))
    return tuple(dict.fromkeys(_hash(*f) for f in found))


def _hash(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest(), "little", signed=True)


class Known(Generic[T]):
    """Fingerprints in memory, found by their keys; what a store does in SQL.

    For each key of the new one the store takes at most `skip_above` + 1 rows with that key; a key with more is left out. So the
    work is bounded, however many there are.
    """

    def __init__(self, skip_above: int = _SKIP_ABOVE) -> None:
        self.skip_above = skip_above
        self._by_key: dict[int, list[T]] = defaultdict(list)
        self._prints: dict[T, Fingerprint] = {}

    def add(self, name: T, print_: Fingerprint) -> None:
        self._prints[name] = print_
        for key in keys(print_):
            self._by_key[key].append(name)

    def candidates(self, print_: Fingerprint) -> set[T]:
        """Names of those that share a telling key."""
        lists = (self._by_key.get(key, []) for key in keys(print_))
        return {name for names in lists if len(names) <= self.skip_above for name in names}

    def find(self, print_: Fingerprint) -> list[tuple[T, Likeness]]:
        """Those taken as the same, the likeliest first."""
        found = [(name, compare(print_, self._prints[name])) for name in self.candidates(print_)]
        return sorted((f for f in found if f[1].same), key=lambda f: -f[1].probability)
