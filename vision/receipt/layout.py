"""From pieces of text on a picture to printed rows: how far the page is turned, and which pieces stand side by side."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from contracts.errors import ShapeError, TooLarge
from vision.types import Quad, TextLine

MAX_PIECES = 3000
MAX_CHARACTERS = 300
"""Of one piece; longer ones are cut, so that no pattern works long on a hostile text."""
MAX_SKEW_DEGREES = 30.0


@dataclass(frozen=True)
class Piece:
    """A piece of text on the page turned upright.

    Attributes:
        x0, x1: left and right end, pixels along the row.
        y: centre across the rows, pixels.
        height: of the text, pixels.
        quad: where it lies in the picture as it came.
    """

    text: str
    x0: float
    x1: float
    y: float
    height: float
    confidence: float
    quad: Quad


@dataclass(frozen=True)
class Row:
    """A printed row: pieces from left to right, never empty."""

    pieces: tuple[Piece, ...]

    @cached_property
    def text(self) -> str:
        return " ".join(p.text for p in self.pieces)

    @cached_property
    def y(self) -> float:
        return sum(p.y for p in self.pieces) / len(self.pieces)

    @cached_property
    def height(self) -> float:
        return sorted(p.height for p in self.pieces)[len(self.pieces) // 2]

    @property
    def x0(self) -> float:
        return min(p.x0 for p in self.pieces)

    @property
    def x1(self) -> float:
        return max(p.x1 for p in self.pieces)

    @property
    def confidence(self) -> float:
        return min(p.confidence for p in self.pieces)

    @property
    def quads(self) -> tuple[Quad, ...]:
        return tuple(p.quad for p in self.pieces)


@dataclass(frozen=True)
class Page:
    """Rows from top to bottom.

    Attributes:
        skew_degrees: how far the rows fall to the right (positive: clockwise) in the picture as it came, -30 to 300: with quarter turns.
    """

    rows: tuple[Row, ...]
    skew_degrees: float = 0.0

    @cached_property
    def left(self) -> float:
        return min((r.x0 for r in self.rows), default=0.0)

    @cached_property
    def right(self) -> float:
        return max((r.x1 for r in self.rows), default=0.0)


def lay_out(lines: Sequence[TextLine]) -> Page:
    """Turn the page upright and group its pieces to rows. Pieces without text are left out.

    Raises:
        TooLarge: more than MAX_PIECES pieces.
        ShapeError: a quadrilateral does not have four finite corners.
    """
    if len(lines) > MAX_PIECES:
        raise TooLarge(f"the page has {len(lines)} pieces of text, at most {MAX_PIECES} are read. Send one receipt per picture.")
    for line in lines:
        if len(line.quad) != 4 or not all(len(corner) == 2 and all(math.isfinite(c) for c in corner) for corner in line.quad):
            raise ShapeError(
                f"the place of the text {line.text[:40]!r} is {line.quad}, must be four finite (x, y) corners. Check the text engine."
            )
    lines = [line for line in lines if line.text.strip()]
    skew = estimate_skew(lines)
    return Page(tuple(_rows([_piece(line, skew) for line in lines])), skew)


def estimate_skew(lines: Sequence[TextLine]) -> float:
    """Degrees by which rows fall to the right: the median slope of the pieces' upper and lower edges, long pieces counting more.

    A page may also lie on its side or stand on its head: a piece's corners begin at the top left of its text, and most of its text tells
    the quarter. Where an engine gives upright boxes only (all edges level), the slope at which the centres of pieces fall together into
    the sharpest rows is taken, within 8 degrees.
    """
    slopes: list[tuple[float, float]] = []
    for line in lines:
        (ax, ay), (bx, by), (cx, cy), (dx, dy) = line.quad
        width = math.hypot(bx - ax, by - ay)
        height = math.hypot(dx - ax, dy - ay)
        if width > 2 * height and width > 0:
            slopes.append((math.degrees(math.atan2((by - ay) + (cy - dy), (bx - ax) + (cx - dx))), width))
    if not slopes:
        return 0.0
    quarters: dict[int, float] = {}
    for angle, width in slopes:
        quarter = round(angle / 90) % 4
        quarters[quarter] = quarters.get(quarter, 0.0) + width
    turned = 90.0 * max(quarters, key=lambda q: (quarters[q], -q))
    slopes = [((angle - turned + 180) % 360 - 180, width) for angle, width in slopes]
    if all(abs(angle) < 0.01 for angle, _ in slopes):
        return turned if turned else _skew_of_centres(lines)
    slopes.sort()
    half = sum(width for _, width in slopes) / 2
    passed = list(itertools.accumulate(width for _, width in slopes))
    middle = slopes[bisect.bisect_left(passed, half)][0]
    return turned + max(-MAX_SKEW_DEGREES, min(MAX_SKEW_DEGREES, middle))


def _skew_of_centres(lines: Sequence[TextLine]) -> float:
    centres = [(sum(c[0] for c in line.quad) / 4, sum(c[1] for c in line.quad) / 4) for line in lines]
    heights = sorted(abs(line.quad[3][1] - line.quad[0][1]) for line in lines)
    bin_px = max(1.0, heights[len(heights) // 2] / 4)

    def sharpness(degrees: float) -> float:
        t = math.tan(math.radians(degrees))
        counts: dict[int, int] = {}
        for x, y in centres:
            k = math.floor((y - x * t) / bin_px)
            counts[k] = counts.get(k, 0) + 1
        # Neighbouring bins count half, so that a row on a bin's edge is not lost.
        return sum(n * n + n * counts.get(k + 1, 0) for k, n in counts.items())

    level = sharpness(0.0)
    angles = [i / 4 for i in range(-32, 33)]
    best = max(angles, key=lambda a: (sharpness(a), -abs(a)))
    # Leaving the level that the boxes state takes clear evidence.
    return best if len(lines) >= 12 and sharpness(best) > 1.15 * level else 0.0


def _piece(line: TextLine, skew_degrees: float) -> Piece:
    cos, sin = math.cos(math.radians(skew_degrees)), math.sin(math.radians(skew_degrees))
    turned = [(x * cos + y * sin, y * cos - x * sin) for x, y in line.quad]
    xs, ys = [x for x, _ in turned], [y for _, y in turned]
    # Of a turned box the middle of the sides tells the height, not its extreme corners.
    height = max(1.0, (ys[2] + ys[3] - ys[0] - ys[1]) / 2)
    return Piece(" ".join(line.text.split())[:MAX_CHARACTERS], min(xs), max(xs), sum(ys) / 4, height, line.confidence, line.quad)


def _rows(pieces: list[Piece]) -> list[Row]:
    if not pieces:
        return []
    heights = sorted(p.height for p in pieces)
    usual = heights[len(heights) // 2]
    rows: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda p: (p.y, p.x0)):
        best, best_distance = None, math.inf
        for row in rows[-6:]:
            if any(_side_overlap(piece, other) > 0.3 for other in row):
                continue
            nearest = min(row, key=lambda other: abs((other.x0 + other.x1) - (piece.x0 + piece.x1)))
            reach = 0.55 * min(max(piece.height, nearest.height), 1.6 * usual, 1.5 * min(piece.height, nearest.height))
            distance = abs(piece.y - nearest.y)
            if distance <= reach and distance < best_distance:
                best, best_distance = row, distance
        if best is None:
            rows.append([piece])
        else:
            best.append(piece)
    made = [Row(tuple(sorted(row, key=lambda p: p.x0))) for row in rows]
    return sorted(made, key=lambda r: r.y)


def _side_overlap(a: Piece, b: Piece) -> float:
    """Share of the narrower piece that lies above or below the other."""
    shared = min(a.x1, b.x1) - max(a.x0, b.x0)
    return shared / max(1.0, min(a.x1 - a.x0, b.x1 - b.x0))
