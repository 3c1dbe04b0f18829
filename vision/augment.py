"""Re-photographs of a picture, made up: what the same receipt looks like when somebody photographs it again.

For tests and measurements. Turned by up to 15 degrees, seen from the side, cropped, brighter or darker, under a shadow, nearer or farther,
blurred, noisy, and compressed as a messenger would.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vision.types import Quad


@dataclass(frozen=True)
class Wear:
    """How far each change may go; each picture draws its own between none and this.

    Attributes:
        rotation_deg: either way.
        perspective: of the shorter side, by which each corner may move.
        crop: share of the width, and of the height, that is cut off, both sides together.
        brightness: factor up or down.
        shadow: darkening at the darker end of a soft shadow.
        scale: factor up or down.
        blur_px, noise: standard deviations, of 1,000 pixels of height and of 255 levels.
        jpeg_quality: of Pillow's and libjpeg's scale.
    """

    rotation_deg: float = 15.0
    perspective: float = 0.06
    crop: float = 0.10
    brightness: float = 0.4
    shadow: float = 0.4
    scale: float = 0.25
    blur_px: float = 0.8
    noise: float = 6.0
    jpeg_quality: int = 40


@dataclass(frozen=True)
class View:
    """Where a second picture is taken from.

    Attributes:
        homography: float64 (3, 3), from pixels of the first picture to pixels of the second.
        width, height: of the second, pixels.
    """

    homography: np.ndarray
    width: int
    height: int

    def moved(self, quad: Quad) -> Quad:
        """Where a piece of the first picture is in the second; it may lie outside."""
        corners = np.asarray(quad, dtype=np.float64)[None]
        a, b, c, d = ((float(x), float(y)) for x, y in cv2.perspectiveTransform(corners, self.homography)[0])
        return a, b, c, d


def view(width: int, height: int, rng: np.random.Generator, wear: Wear | None = None) -> View:
    """Draw a place to photograph a picture of that size from: turned, from the side, nearer or farther, and cropped."""
    wear = wear or Wear()
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float64)
    angle = np.deg2rad(rng.uniform(-wear.rotation_deg, wear.rotation_deg))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    moved = (corners - corners.mean(0)) @ turn + rng.uniform(-1, 1, (4, 2)) * wear.perspective * min(width, height)
    moved *= float(np.exp(rng.uniform(-1, 1) * np.log1p(wear.scale)))
    low, high = moved.min(0), moved.max(0)
    cut = rng.uniform(0, wear.crop, 2) * (high - low)
    low = low + cut * rng.uniform(0, 1, 2)
    size = np.maximum(np.round(high - moved.min(0) - cut), 32).astype(int)
    homography = cv2.getPerspectiveTransform(corners.astype(np.float32), (moved - low).astype(np.float32))
    return View(np.asarray(homography), int(size[0]), int(size[1]))


def rephotograph(pixels: np.ndarray, seen_from: View, rng: np.random.Generator, wear: Wear | None = None) -> np.ndarray:
    """Photograph a uint8 (H, W, 3) RGB picture again, lying on a dark table; uint8 (height, width, 3) of the view."""
    wear = wear or Wear()
    table = tuple(float(v) for v in rng.uniform(20, 110, 3))
    taken = cv2.warpPerspective(
        pixels, seen_from.homography, (seen_from.width, seen_from.height), borderMode=cv2.BORDER_CONSTANT, borderValue=table
    )
    return _light(np.asarray(taken), rng, wear)


def _light(pixels: np.ndarray, rng: np.random.Generator, wear: Wear) -> np.ndarray:
    """Shadow, brightness, blur, noise and compression; uint8 in, uint8 out."""
    height, width = pixels.shape[:2]
    angle = rng.uniform(0, 2 * np.pi)
    across = np.cos(angle) * np.linspace(-1, 1, width)[None, :] + np.sin(angle) * np.linspace(-1, 1, height)[:, None]
    dark = rng.uniform(0, wear.shadow) / (1 + np.exp(-(across - rng.uniform(-0.5, 0.5)) / rng.uniform(0.05, 0.6)))
    bright = np.exp(rng.uniform(-1, 1) * np.log1p(wear.brightness))
    light = (bright * (1 - dark))[..., None].astype(np.float32)
    lit = pixels.astype(np.float32) * light
    sigma = rng.uniform(0, wear.blur_px) * height / 1_000
    if sigma > 0.15:
        lit = np.asarray(cv2.GaussianBlur(lit, (0, 0), sigma))
    lit = lit + rng.normal(0, rng.uniform(0, wear.noise) + 1e-6, lit.shape).astype(np.float32)
    taken = np.clip(lit, 0, 255).astype(np.uint8)
    _, packed = cv2.imencode(".jpg", taken[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, wear.jpeg_quality])
    return np.ascontiguousarray(np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))[..., ::-1])
