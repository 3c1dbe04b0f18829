"""From crops of text to batches for the recognition network, and from its answers to text.

A crop's padded width depends on the crop alone, so what is read from it does not depend on what else is on the page: the network averages
over a crop's whole width in places, and padding it further would change its answers a little.

Letters: B batch, T steps of 8 pixels, R readings of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from contracts.ocr import BLANK, CROP_HEIGHT, OCR_RECOGNIZE
from vision.preprocess import PADDING

BUCKET = 32
"""Crops are padded to multiples of this."""
NARROWEST = 64
WIDEST = OCR_RECOGNIZE.inputs[0].sizes[0][2]
BATCH_PIXELS = 4096
"""Widths of a batch's crops add up to no more than this, so that memory is bounded whatever is on the page."""
LIKELY = 0.01
"""Other readings of a character are told from this probability on."""


@dataclass(frozen=True)
class Reading:
    """What was read from one crop.

    Attributes:
        text: may be empty.
        confidence: mean over its characters, 0 to 1; 0 where there are none.
        characters: confidence of each.
        alternatives: of each, other characters with their probability, likeliest first.
    """

    text: str
    confidence: float
    characters: tuple[float, ...] = ()
    alternatives: tuple[tuple[tuple[str, float], ...], ...] = ()


def padded_width(width: int) -> int:
    """The width that a crop of this width is padded to."""
    return min(WIDEST, max(NARROWEST, -(-width // BUCKET) * BUCKET))


def batches(crops: Sequence[np.ndarray]) -> list[tuple[list[int], np.ndarray]]:
    """Crops of one padded width together, the widest first: a batch that takes long should not be the last to start.

    Args:
        crops: uint8 (CROP_HEIGHT, width, 3) each, not wider than WIDEST.

    Returns:
        for each batch the positions of its crops, and uint8 (B, CROP_HEIGHT, padded width, 3).
    """
    groups: dict[int, list[int]] = {}
    for position, crop in enumerate(crops):
        groups.setdefault(padded_width(crop.shape[1]), []).append(position)
    found = []
    for width in sorted(groups, reverse=True):
        most = max(1, min(OCR_RECOGNIZE.max_batch_size, BATCH_PIXELS // width))
        members = groups[width]
        found += [(part, _stacked(crops, part, width)) for part in (members[i : i + most] for i in range(0, len(members), most))]
    return found


def _stacked(crops: Sequence[np.ndarray], members: Sequence[int], width: int) -> np.ndarray:
    batch = np.full((len(members), CROP_HEIGHT, width, 3), PADDING, np.uint8)
    for row, member in enumerate(members):
        batch[row, :, : crops[member].shape[1]] = crops[member]
    return batch


def decode(characters: np.ndarray, probabilities: np.ndarray, alphabet: Sequence[str]) -> Reading:
    """Read the steps of one crop: equal neighbours are one character, blanks separate (greedy CTC, Graves and others 2006).

    Args:
        characters: int32 (T, R), likeliest first; 0 is blank, c is alphabet[c - 1].
        probabilities: float32 (T, R).
        alphabet: the record's characters.
    """
    best = characters[:, 0]
    starts = np.flatnonzero(np.diff(best, prepend=-1) != 0)
    stops = np.append(starts[1:], len(best))
    text, sure, other = [], [], []
    for start, stop in zip(starts, stops, strict=True):
        if best[start] == BLANK:
            continue
        step = start + int(np.argmax(probabilities[start:stop, 0]))
        text.append(alphabet[best[step] - 1])
        sure.append(round(float(probabilities[step, 0]), 4))
        other.append(_others(characters[step], probabilities[step], alphabet))
    confidence = round(float(np.mean(sure)), 4) if sure else 0.0
    return Reading("".join(text), confidence, tuple(sure), tuple(other))


def _others(characters: np.ndarray, probabilities: np.ndarray, alphabet: Sequence[str]) -> tuple[tuple[str, float], ...]:
    if probabilities[1] < LIKELY:
        return ()
    pairs = zip(characters[1:].tolist(), probabilities[1:].tolist(), strict=True)
    return tuple((alphabet[c - 1], round(p, 4)) for c, p in pairs if c != BLANK and p >= LIKELY)
