"""Pictures made ready for the networks, with OpenCV and NumPy only.

Letters: H W sizes of a picture in pixels, N boxes.
"""

from __future__ import annotations

import cv2
import numpy as np

from contracts.ocr import CROP_HEIGHT

GRANULE = 32
"""Sizes that the detection network takes are multiples of this."""
PADDING = 127
"""What a crop is filled up with: the middle of the range, nought to the network."""
CONTRAST_LOW = 70
"""Luma between the 2nd and the 98th percentile of a picture, below which its contrast is stretched."""


def fitted(pixels: np.ndarray, longest: int) -> np.ndarray:
    """A picture at a size that the detection network takes: its own where it is not over `longest`, else scaled down, rounded to GRANULE.

    Args:
        pixels: uint8 (H, W, 3).
        longest: pixels of the longer side.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, longest / max(height, width))
    size = tuple(max(GRANULE, round(side * scale / GRANULE) * GRANULE) for side in (width, height))
    if size == (width, height):
        return pixels
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 0.7 else cv2.INTER_LINEAR)


def turned(pixels: np.ndarray, quarters: int) -> np.ndarray:
    """A picture turned clockwise by a number of quarter turns."""
    codes = {1: cv2.ROTATE_90_CLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_COUNTERCLOCKWISE}
    return cv2.rotate(pixels, codes[quarters % 4]) if quarters % 4 else pixels


def turned_back(quads: np.ndarray, quarters: int, width: int, height: int) -> np.ndarray:
    """Corners found on a turned picture, in pixels of the picture before.

    Args:
        quads: float32 (N, 4, 2), x and y on the turned picture.
        quarters: clockwise quarter turns that were made.
        width, height: of the picture before.
    """
    x, y = quads[..., 0], quads[..., 1]
    match quarters % 4:
        case 1:
            return np.stack([y, height - x], -1)
        case 2:
            return np.stack([width - x, height - y], -1)
        case 3:
            return np.stack([width - y, x], -1)
    return quads


def contrast_of(pixels: np.ndarray) -> float:
    """Luma between the 2nd and the 98th percentile of a picture, 0 to 255; read from every fourth row and column."""
    low, high = np.percentile(pixels[::4, ::4, 1], (2, 98))  # green is most of the luma
    return float(high - low)


def stretched(pixels: np.ndarray) -> np.ndarray:
    """A pale or dark picture with its local contrast raised: CLAHE on the luma, colours kept.

    Source: contrast limited adaptive histogram equalisation, Zuiderveld 1994.
    """
    luma, red, blue = cv2.split(cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb))
    equal = cv2.createCLAHE(clipLimit=4.0, tileGridSize=(8, 8)).apply(luma)
    return cv2.cvtColor(cv2.merge([equal, red, blue]), cv2.COLOR_YCrCb2RGB)


def crop(pixels: np.ndarray, quad: np.ndarray, widest: int) -> np.ndarray:
    """The text inside a quadrilateral, upright, CROP_HEIGHT high, as wide as its shape says.

    Args:
        pixels: uint8 (H, W, 3).
        quad: float32 (4, 2), the text's corners from its top left clockwise.
        widest: pixels; a longer text is squeezed.

    Returns:
        uint8 (CROP_HEIGHT, width, 3).
    """
    top, right, bottom, left = (float(np.hypot(*(quad[(i + 1) % 4] - quad[i]))) for i in range(4))
    across, along = max(left, right, 1.0), max(top, bottom, 1.0)
    width = min(widest, max(8, int(np.ceil(CROP_HEIGHT * along / across))))
    if across > 2 * CROP_HEIGHT:  # one interpolated sample in so many pixels would miss thin strokes
        full = _warped(pixels, quad, round(along), round(across))
        return cv2.resize(full, (width, CROP_HEIGHT), interpolation=cv2.INTER_AREA)
    return _warped(pixels, quad, width, CROP_HEIGHT)


def _warped(pixels: np.ndarray, quad: np.ndarray, width: int, height: int) -> np.ndarray:
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    matrix = cv2.getPerspectiveTransform(np.ascontiguousarray(quad, np.float32), target)
    return cv2.warpPerspective(pixels, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
