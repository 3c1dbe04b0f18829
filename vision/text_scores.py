"""How well text is found and read: found lines against annotated ones.

F1 of boxes (IoU of the upright bounding boxes at least 0.5, matched one to one), and character accuracy, 1 - edit distance / annotated
characters, blanks and case ignored. An engine may cut a line in two or join two: annotated and found boxes that overlap are compared
together, in reading order. What was found where nothing is annotated counts as `extra`; most of it is text that nobody annotated.

Letters: N annotated boxes, M found lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vision.types import TextLine

OVERLAP = 0.3
"""Share of the smaller box that lies in the other, from which two boxes are about the same text."""


@dataclass
class TextScores:
    """Sums over pictures.

    Attributes:
        matched, found, annotated: boxes.
        distance, right, characters: edit distance, characters kept and characters annotated.
        extra: characters read where nothing is annotated.
    """

    matched: int = 0
    found: int = 0
    annotated: int = 0
    distance: int = 0
    right: int = 0
    characters: int = 0
    extra: int = 0

    def quality(self) -> dict[str, float]:
        """Each measure by name; per annotated character where it is about characters."""
        precision, recall = self.matched / max(1, self.found), self.matched / max(1, self.annotated)
        return {
            "f1": 2 * precision * recall / max(1e-9, precision + recall), "precision": precision, "recall": recall,
            "character_accuracy": 1 - self.distance / max(1, self.characters), "characters_found": self.right / max(1, self.characters),
            "extra": self.extra / max(1, self.characters),
        }  # fmt: skip


def plain(text: str) -> str:
    """Upper case, without blanks."""
    return "".join(text.upper().split())


def edit_distance(a: str, b: str) -> tuple[int, int]:
    """Levenshtein distance of two texts, and the characters of `a` that a shortest way keeps."""
    if not a or not b:
        return max(len(a), len(b)), 0
    row = [(j, 0) for j in range(len(b) + 1)]  # distance, less the characters kept: the least is the best
    for i, letter in enumerate(a, 1):
        below = [(i, 0)]
        for j, other in enumerate(b, 1):
            (d, k), (up, up_kept), (back, back_kept) = row[j - 1], row[j], below[j - 1]
            below.append(min((d, k - 1) if letter == other else (d + 1, k), (up + 1, up_kept), (back + 1, back_kept)))
        row = below
    return row[-1][0], -row[-1][1]


def compare(lines: Sequence[TextLine], boxes: np.ndarray, texts: Sequence[str], scores: TextScores) -> None:
    """Add one picture.

    Args:
        lines: that were found.
        boxes: (N, 4) annotated x_min, y_min, x_max, y_max, in pixels of the same picture.
        texts: of each.
        scores: added to.
    """
    found = np.array([[*np.min(line.quad, 0), *np.max(line.quad, 0)] for line in lines]).reshape(-1, 4)
    low = np.maximum(boxes[:, None, :2], found[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], found[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(-1)  # (N, M)
    area, other = (np.clip(b[:, 2:] - b[:, :2], 1e-6, None).prod(-1) for b in (boxes, found))
    iou = common / (area[:, None] + other[None] - common)
    scores.found += len(found)
    scores.annotated += len(boxes)
    scores.matched += _one_to_one(iou)
    near = common / np.minimum(area[:, None], other[None]) >= OVERLAP
    for mine, theirs in _groups(near):
        expected = "".join(plain(texts[i]) for i in _in_order(boxes, mine))
        read = "".join(plain(lines[j].text) for j in _in_order(found, theirs))
        if not mine:
            scores.extra += len(read)
            continue
        distance, kept = edit_distance(expected, read)
        scores.distance += min(distance, len(expected))
        scores.right += kept
        scores.characters += len(expected)


def _one_to_one(iou: np.ndarray) -> int:
    matched = 0
    iou = iou.copy()
    while iou.size and iou.max() >= 0.5:
        i, j = np.unravel_index(int(iou.argmax()), iou.shape)
        iou[i, :] = iou[:, j] = 0
        matched += 1
    return matched


def _groups(near: np.ndarray) -> list[tuple[list[int], list[int]]]:
    """Connected parts of the graph of annotated and found boxes."""
    rows, columns = near.shape
    left, groups = set(range(rows + columns)), []
    while left:
        part: set[int] = set()
        edge = {left.pop()}
        while edge:
            part |= edge
            edge = {
                int(k)
                for e in edge
                for k in (np.flatnonzero(near[e]) + rows if e < rows else np.flatnonzero(near[:, e - rows]))
                if int(k) not in part
            }
        left -= part
        groups.append((sorted(e for e in part if e < rows), sorted(e - rows for e in part if e >= rows)))
    return groups


def _in_order(boxes: np.ndarray, which: Sequence[int]) -> list[int]:
    """Row by row; boxes whose middles lie within half a height of each other are of one row."""
    rows: list[list[int]] = []
    for i in sorted(which, key=lambda k: boxes[k, 1] + boxes[k, 3]):
        height = boxes[i, 3] - boxes[i, 1]
        if rows and abs(boxes[i, [1, 3]].mean() - boxes[rows[-1][0], [1, 3]].mean()) < height / 2:
            rows[-1].append(i)
        else:
            rows.append([i])
    return [i for row in rows for i in sorted(row, key=lambda k: boxes[k, 0])]
