"""Opens what somebody uploaded as a picture: hostile until proven.

In this order, so that each step only sees what the one before has bounded:
1. bytes: how many;
2. the kind, by the first bytes, never by the name or the stated content type: JPEG, PNG and WebP; others are named in the refusal;
3. the structure (`vision.containers`): pixels, scans and parts counted from headers, EXIF's orientation read, all else left out;
4. limits on size, shape and work, before any pixel is decoded; for a PNG, what it inflates to;
5. Pillow decodes the file that step 3 put together, with only the decoder of that one format allowed. A JPEG of very many pixels is decoded
   at a half or a quarter of its size right away, other formats are reduced at once;
6. colours to RGB (transparent parts become white), upright, and nothing else leaves: no profile, no metadata, no trailing data.

A colour profile is dropped, not applied: text and products are recognized without it. Time is bounded by bounding the work, not by signals,
which only the main thread could receive.
"""

from __future__ import annotations

import hashlib
import io

import numpy as np
from PIL import Image
from pydantic import Field

from contracts.errors import PictureRefused, TooLarge, WrongType
from contracts.settings import StackSettings, settings_config
from vision.containers import AGAIN, Container, check_inflates, walk
from vision.types import Picture


class PictureSettings(StackSettings):
    """Bounds of one uploaded picture.

    They bound the memory that opening a picture takes: see `tests/vision/test_upload.py`, which measures it.
    """

    model_config = settings_config("REGULARS_PICTURE_")

    max_bytes: int = Field(12_000_000, ge=1_000, le=100_000_000, description="most bytes of a picture's file")
    max_pixels: int = Field(40_000_000, ge=10_000, le=80_000_000, description="most pixels of a picture, width times height")
    decode_pixels: int = Field(
        16_000_000, ge=1_000_000, le=80_000_000, description="pixels above which a picture is decoded at half the size, or less"
    )
    min_side: int = Field(32, ge=1, le=1_000, description="fewest pixels of the shorter side")
    max_aspect: float = Field(20.0, ge=1, le=1_000, description="most times that the longer side is as long as the shorter")
    max_scans: int = Field(100, ge=10, le=1_000, description="most scans of a progressive JPEG; encoders write 10 or so")
    max_scan_pixels: int = Field(400_000_000, ge=1_000_000, le=4_000_000_000, description="most scans times pixels of a progressive JPEG")


_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"II*\0", "a TIFF or camera raw file"),
    (b"MM\0*", "a TIFF or camera raw file"),
    (b"II+\0", "a TIFF"),
    (b"MM\0+", "a TIFF"),
    (b"8BPS", "a Photoshop file"),
    (b"%PDF", "a PDF"),
    (b"%!PS", "a PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"PK\x05\x06", "a ZIP archive"),
    (b"\0\0\1\0", "an icon"),
    (b"\0\0\2\0", "a cursor"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"qoif", "a QOI picture"),
    (b"DDS ", "a DDS texture"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"\xca\xfe\xba\xbe", "a program"),
    (b"#!", "a script"),
    (b"push graphic-context", "an ImageMagick script"),
    (b"\x8aMNG", "an MNG animation"),
    (b"OggS", "a film or sound"),
    (b"\x1aE\xdf\xa3", "a film"),
    (b"ID3", "a sound"),
    (b"SQLite format 3", "a database"),
    (b"PAR1", "a Parquet file"),
    (b"gimp xcf", "a GIMP file"),
    (b"SIMPLE  =", "a FITS file"),
    (b"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (b"#?RADIANCE", "a Radiance picture"),
)
_BRANDS = {
    b"hei": "a HEIC picture",
    b"hev": "a HEIC picture",
    b"mif": "a HEIF picture",
    b"msf": "a HEIF picture",
    b"avi": "an AVIF picture",
}


def kind_of(data: bytes) -> str:
    """Name what a file is that we do not read, from its first bytes, for the refusal."""
    for magic, name in _KINDS:
        if data.startswith(magic):
            return name
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:11], "a film")
    if data[:4] == b"RIFF":
        return "a film or sound"
    if len(data) > 2 and data[:1] == b"P" and data[1:2] in b"1234567" and data[2:3].isspace():
        return "a PNM picture"
    start = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"<svg" in start:
        return "an SVG drawing"
    if start.startswith((b"<!doctype html", b"<html", b"<script")):
        return "an HTML page"
    if start.startswith(b"<?php"):
        return "a PHP script"
    if start.startswith(b"<"):
        return "an XML or HTML file"
    if start.startswith((b"{", b"[")):
        return "a JSON file"
    return "a file of an unknown kind"


def open_picture(data: bytes, limits: PictureSettings | None = None) -> Picture:
    """Decode an uploaded file within bounds.

    Args:
        data: the file as it came.
        limits: those of the environment when None.

    Returns:
        Upright uint8 (H, W, 3) RGB pixels. `scale` is 2 or more where the picture has more than `decode_pixels` pixels.

    Raises:
        TooLarge: more bytes or pixels than allowed.
        WrongType: neither JPEG nor PNG nor WebP by its content.
        PictureRefused: damaged, incomplete, animated, or of a size, shape or coding that is not decoded; `reason` says which.
    """
    limits = limits or PictureSettings.load()
    if not data:
        raise PictureRefused("The file is empty. Send a picture, JPEG, PNG or WebP.", "empty")
    if len(data) > limits.max_bytes:
        raise TooLarge(f"The picture has {len(data):,} bytes, may have {limits.max_bytes:,}. Send it smaller or more compressed.")
    found = walk(data)
    if found is None:
        advice = " On an iPhone: Settings, Camera, Formats, Most Compatible." if kind_of(data).startswith("a HEI") else ""
        raise WrongType(f"The file is {kind_of(data)}, must be a JPEG, PNG or WebP picture. Send one of these.{advice}")
    _check_size(found, limits)
    check_inflates(found)
    scale = 1
    while found.width * found.height > limits.decode_pixels * scale * scale:
        scale *= 2
    pixels = _upright(_decode(found, scale), found.orientation)
    return Picture(pixels, hashlib.sha256(data).hexdigest(), found.format, scale)


def _check_size(found: Container, limits: PictureSettings) -> None:
    size = f"{found.width} x {found.height} pixels"
    pixels, shorter, longer = found.width * found.height, min(found.width, found.height), max(found.width, found.height)
    if pixels > limits.max_pixels:
        raise TooLarge(f"The picture has {size}, {pixels:,} together, may have {limits.max_pixels:,}. Send it smaller.")
    if shorter < limits.min_side:
        raise PictureRefused(
            f"The picture has {size}; each side must have at least {limits.min_side}. Take the picture from nearer, or send it larger.",
            "size",
        )
    if longer > limits.max_aspect * shorter:
        raise PictureRefused(
            f"The picture has {size}; one side may be at most {limits.max_aspect:g} times the other. Send the part that matters.", "size"
        )
    if found.format == "JPEG" and (found.scans > limits.max_scans or found.scans * pixels > limits.max_scan_pixels):
        most = min(limits.max_scans, limits.max_scan_pixels // pixels)
        raise PictureRefused(f"The JPEG has {found.scans} scans, may have {most} at its size, {size}. {AGAIN}", "work")


def _decode(found: Container, scale: int) -> np.ndarray:
    """uint8 (H, W, 3), as stored, not yet upright."""
    try:
        with Image.open(io.BytesIO(found.clean()), formats=[found.format]) as image:
            if image.size != (found.width, found.height):
                raise PictureRefused(f"The picture is damaged: its sizes contradict each other. {AGAIN}")
            size = -(-found.width // scale), -(-found.height // scale)
            if scale > 1:
                image.draft(None, (found.width // scale, found.height // scale))  # of JPEG only: decodes at a half, a quarter or an eighth
            image.load()
            pixels = np.asarray(_rgb(image, size))
    except (PictureRefused, MemoryError):
        raise
    except Exception as exc:
        # Decoders raise whatever they like on damaged input (OSError, SyntaxError, struct.error, ...); none of it may leave as our mistake.
        raise PictureRefused(f"The picture is damaged: it does not decode. {AGAIN}", "damaged") from exc
    if pixels.shape != (size[1], size[0], 3) or pixels.dtype != np.uint8:
        raise PictureRefused(f"The picture is damaged: it does not decode to its stated size. {AGAIN}")
    return pixels


def _rgb(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Any of the modes that the three decoders give, as RGB of the wanted size."""
    if image.mode.startswith("I"):  # 16 bits of grey: the upper eight
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("L", "RGB") and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.size != size:
        image = image.reduce(-(-image.width // size[0]))
    if image.mode in ("RGBA", "LA"):
        image = image.convert("RGBA")
        paper = Image.new("RGB", image.size, "white")
        paper.paste(image, mask=image.getchannel("A"))
        return paper
    return image.convert("RGB")


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror as EXIF says."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
