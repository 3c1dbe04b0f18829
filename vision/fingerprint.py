"""Whether two pictures show the same receipt: a small fingerprint of each, keys to find it by, and a comparison.

Two receipts of one shop look alike, so what was read decides: dates, times, amounts and long numbers (of the receipt, the till, the card).
Both sides were read with mistakes, and a part may be cut off, so nothing has to be equal: shares of common numbers are weighed together
with the date, the total and the time by a logistic regression. Where too little was read, the picture decides: a small grey copy of
5 KB is laid over the other by features that agree on one perspective, and must look the same there. That tells receipts of different
shops apart, but those of one shop only in part, so what the picture decides goes to a person (`vision.fraud`).

To find a fingerprint among very many, each has `keys`, whole numbers of 64 bits to be stored in an indexed column. Fingerprints that
share a key are candidates. A key that very many share (a chain's telephone number on one day) tells nothing, and is skipped: see `Known`,
which does in memory what a database does in SQL.

A receipt of which neither total nor date can be read is not found by what was read, but it is not awarded either: it goes to a person.

Sources: min-wise hashing, Broder 1997; SIFT, Lowe 2004; MAGSAC++, Barath and others 2020.
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
MIN_INLIERS, MIN_LIKE = 20, 0.6
"""Features that must agree on one perspective, and the correlation of the two pictures laid over each other, for them to be the same."""

_SIDE, _SMALL_BYTES = 400, 6_500
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
        small: a grey copy of the picture, 400 pixels on the longer side, as WebP.
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
    small: bytes = field(default=b"", repr=False)
    looks: int = 0

    @cached_property
    def tokens(self) -> frozenset[str]:
        """Amounts and long numbers together."""
        return self.amounts | self.numbers

    def to_bytes(self) -> bytes:
        """For storage; compressed, with a version."""
        head = {
            "sha256": self.sha256, "day": self.day, "total": self.total, "merchant": self.merchant,
            "looks": self.looks,
            **{name: sorted(getattr(self, name)) for name in _SETS},
        }  # fmt: skip
        packed = zlib.compress(orjson.dumps(head), 6)
        return struct.pack("<BI", VERSION, len(packed)) + packed + self.small

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
            day = date.fromisoformat(head.pop("day")) if head["day"] else head.pop("day")
            sets = {name: frozenset(head.pop(name)) for name in _SETS}
            return cls(day=day, small=bytes(data[5 + length :]), **(sets | head))
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
    return Fingerprint(
        sha256=picture.sha256 if picture else "",
        day=receipt.date,
        total=_hundredths(receipt.total),
        merchant=re.sub(r"[\W_]+", "", (receipt.merchant or "").upper()),
        small=_small(picture.pixels) if picture else b"",
        looks=_looks(picture.pixels) if picture else 0,
        amounts=tokens["amounts"],
        numbers=tokens["numbers"],
        dates=tokens["dates"],
        times=tokens["times"],
        words=tokens["words"],
    )


def _hundredths(total: Decimal | None) -> int | None:
    """A misread total may be of any length; one beyond 64 bits tells nothing, and could not be stored."""
    if total is None or total.adjusted() > 15:
        return None
    return int((total * 100).to_integral_value())


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


def _small(pixels: np.ndarray) -> bytes:
    """A grey copy of a picture, as good as fits."""
    height, width = pixels.shape[:2]
    scale = _SIDE / max(height, width)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, (max(round(width * scale), 16), max(round(height * scale), 16)), interpolation=cv2.INTER_AREA)
    packed = b""
    for quality in (60, 45, 30, 20, 10, 1):
        packed = cv2.imencode(".webp", grey, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()
        if len(packed) <= _SMALL_BYTES:
            break
    return packed


def _looks(pixels: np.ndarray) -> int:
    """Difference hash of 8 x 8: which of two neighbours is brighter. The same for a file that was only saved again or made smaller."""
    small = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "little", signed=True)


def agreeing(a: Fingerprint, b: Fingerprint) -> tuple[int, float]:
    """Features of two pictures that agree on one perspective, and how alike the pictures are when laid over each other, -1 to 1."""
    if not a.small or not b.small:
        return 0, 0.0
    ours, theirs = (np.asarray(cv2.imdecode(np.frombuffer(x.small, np.uint8), cv2.IMREAD_GRAYSCALE)) for x in (a, b))
    sift = cv2.SIFT.create(nfeatures=700, contrastThreshold=0.02)
    (points, first), (others, second) = sift.detectAndCompute(ours, None), sift.detectAndCompute(theirs, None)
    if first is None or second is None or len(points) < 8 or len(others) < 8:
        return 0, 0.0
    matches = cv2.BFMatcher(cv2.NORM_L2).knnMatch(first, second, k=2)
    good = [m[0] for m in matches if len(m) == 2 and m[0].distance < 0.85 * m[1].distance]
    if len(good) < 8:
        return 0, 0.0
    source = np.array([points[m.queryIdx].pt for m in good], np.float32)
    target = np.array([others[m.trainIdx].pt for m in good], np.float32)
    homography, inliers = cv2.findHomography(source, target, cv2.USAC_MAGSAC, 4.0, maxIters=3_000, confidence=0.995)
    if homography is None or inliers is None:
        return 0, 0.0
    return int(inliers.sum()), _alike(ours, theirs, np.asarray(homography))


def _alike(ours: np.ndarray, theirs: np.ndarray, homography: np.ndarray) -> float:
    """Correlation of two grey pictures, light and contrast evened out, where one laid over the other covers it."""
    size = (theirs.shape[1], theirs.shape[0])
    moved = cv2.warpPerspective(_even(ours), homography, size)
    covered = cv2.warpPerspective(np.ones(ours.shape, np.float32), homography, size) > 0.5
    x, y = moved[covered], _even(theirs)[covered]
    if covered.mean() < 0.15 or x.std() < 1e-6 or y.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def _even(grey: np.ndarray) -> np.ndarray:
    """Float32, as wide and high: each place less its surroundings, by their contrast."""
    values = grey.astype(np.float32)
    detail = cv2.GaussianBlur(values, (0, 0), 0.8) - cv2.GaussianBlur(values, (0, 0), 6)
    return np.asarray(detail / (np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), 10)) + 8), np.float32)


# Comparing

FEATURES = ("one", "amounts", "numbers", "day", "total", "times", "words")
WEIGHTS = np.array([-1.8, 1.3, 2.9, 0.6, 0.2, 4.0, 0.8])
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
            _moment(a, b, day),
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


def _moment(a: Fingerprint, b: Fingerprint, day: float) -> float:
    """Of the time of day. The same on different days tells nothing, nor do times that differ in one digit: one may be misread."""
    found = _any(a.times, b.times)
    if found > 0:
        return 1.0 if day >= 0 else 0.0
    near = any(sum(x != y for x, y in zip(one, other, strict=True)) == 1 for one in a.times for other in b.times)
    return 0.0 if near else found


def compare(a: Fingerprint, b: Fingerprint) -> Likeness:
    """Whether two fingerprints are of the same receipt. The same either way round."""
    if a.sha256 and a.sha256 == b.sha256:
        return Likeness(1.0, "file", ("it is the same file",))
    if min(len(a.tokens), len(b.tokens)) >= MIN_NUMBERS:
        found = features(a, b)
        probability = float(1 / (1 + np.exp(-found @ WEIGHTS)))
        if _share(a.tokens, b.tokens) < 0:
            # Most numbers differ: a shop's own, a day and a time may agree by chance, among very many receipts.
            probability = min(probability, 0.2)
        return Likeness(probability, "text", _reasons(a, b))
    if _equal(a.total, b.total) < 0 and _equal(a.day, b.day) < 0:
        return Likeness(0.0, "picture")
    first, second = sorted((a, b), key=lambda one: one.small)  # so that it is the same either way round
    inliers, like = agreeing(first, second)
    # A half where both bounds are just met; no figure of chance beyond that.
    probability = float(1 / (1 + np.exp(-min((inliers - MIN_INLIERS + 0.5) / 3, (like - MIN_LIKE) * 10))))
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
    if print_.small:
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
