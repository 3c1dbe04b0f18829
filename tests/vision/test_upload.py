"""Uploads: hostile files are refused or handled, memory and work are bounded, what comes out is upright RGB."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from contracts.errors import ConfigError, ContractError, PictureRefused, TooLarge, WrongType
from tests.vision import hostile
from tests.vision.hostile import KINDS, SIZE, jpeg, png, saved, scene, webp
from vision.containers import REASONS
from vision.upload import PictureSettings, open_picture

LIMITS = PictureSettings()
ROOT = Path(__file__).resolve().parents[2]
MEGABYTE = 1 << 20
WORST = (
    "png_that_inflates_to_256_megabytes",
    "text_that_inflates_to_256_megabytes",
    "png_of_two_billion_squared",
    "jpeg_of_65500_squared",
    "webp_of_16383_squared",
    "jpeg_with_thousands_of_scans",
    "eight_megabytes_of_metadata",
    "more_pixels_than_are_decoded_png",
)


def test_at_least_sixty_kinds() -> None:
    assert len(KINDS) >= 60
    assert {k.reason for k in KINDS.values() if k.reason} == set(REASONS)


@pytest.mark.parametrize("name", KINDS)
def test_hostile_files_are_refused_or_handled(name: str) -> None:
    kind = KINDS[name]
    data = kind.make()
    if kind.error is None:
        picture = open_picture(data, LIMITS)
        assert (picture.width, picture.height) == kind.size
        assert picture.pixels.dtype == np.uint8
        assert picture.pixels.shape == (picture.height, picture.width, 3)
        assert picture.pixels.flags.c_contiguous
        assert picture.sha256 == hashlib.sha256(data).hexdigest()
        return
    with pytest.raises(kind.error) as caught:
        open_picture(data, LIMITS)
    assert type(caught.value) is kind.error
    assert getattr(caught.value, "reason", None) == kind.reason
    assert str(caught.value).count(". ") >= 1, "a refusal says what is wrong, and what to do"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied_as_pillow_does(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(scene(), kind, exif=exif, **options)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(open_picture(data, LIMITS).pixels, expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_come_out_as_without_us(mode: str) -> None:
    data = saved(scene(mode), "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(open_picture(data, LIMITS).pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA"])
def test_pngs_come_out_as_without_us(mode: str) -> None:
    data = saved(scene(mode), "PNG")
    assert np.array_equal(open_picture(data, LIMITS).pixels, np.asarray(scene(mode).convert("RGB")))


def test_transparent_parts_are_white() -> None:
    image = scene("RGBA")
    image.putalpha(Image.fromarray(np.where(np.arange(SIZE[0])[None, :] < 80, 0, 255).astype(np.uint8).repeat(SIZE[1], 0)))
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
        pixels = open_picture(saved(image, kind, **options), LIMITS).pixels
        assert (pixels[:, :80] == 255).all()
        assert np.array_equal(pixels[:, 80:], np.asarray(scene())[:, 80:])


def test_sixteen_bits_keep_the_upper_eight() -> None:
    grey = np.asarray(scene("L"))
    data = saved(Image.fromarray(grey.astype(np.uint16) * 256 + 17), "PNG")
    assert np.array_equal(open_picture(data, LIMITS).pixels[..., 0], grey)


def test_trailing_data_changes_nothing_but_the_hash() -> None:
    for data in (jpeg(), png(), webp()):
        alone, followed = open_picture(data, LIMITS), open_picture(data + b"PK\x03\x04 and more", LIMITS)
        assert np.array_equal(alone.pixels, followed.pixels)
        assert alone.sha256 != followed.sha256
        assert alone.format == followed.format


def test_scale_tells_how_much_smaller_a_picture_was_decoded() -> None:
    limits = PictureSettings(decode_pixels=1_000_000)
    for kind in ("JPEG", "PNG", "WEBP"):
        picture = open_picture(saved(scene(size=(3_001, 1_501)), kind), limits)
        assert picture.scale == 4
        assert (picture.width, picture.height) == (751, 376)
        whole = open_picture(saved(scene(size=(900, 600)), kind), limits)
        assert whole.scale == 1


def test_limits_are_limits() -> None:
    data = jpeg()
    assert open_picture(data, PictureSettings(max_bytes=len(data))).width == SIZE[0]
    with pytest.raises(TooLarge, match="bytes"):
        open_picture(data + bytes(2), PictureSettings(max_bytes=len(data) + 1))
    with pytest.raises(TooLarge, match="pixels"):
        open_picture(jpeg(), PictureSettings(max_pixels=SIZE[0] * SIZE[1] - 1))
    with pytest.raises(PictureRefused, match="at least 121"):
        open_picture(jpeg(), PictureSettings(min_side=121))
    with pytest.raises(PictureRefused, match=r"1\.3 times"):
        open_picture(jpeg(), PictureSettings(max_aspect=1.3))


def test_limits_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGULARS_PICTURE_MAX_BYTES", "1000")
    with pytest.raises(TooLarge, match="may have 1,000"):
        open_picture(jpeg())
    monkeypatch.setenv("REGULARS_PICTURE_MAX_BYTES", "-1")
    with pytest.raises(ConfigError):
        open_picture(jpeg())


@pytest.mark.parametrize(("name", "word"), [("heic", "HEIC"), ("pdf", "PDF"), ("svg_with_script", "SVG"), ("zip", "ZIP"), ("film", "film")])
def test_a_wrong_type_is_named(name: str, word: str) -> None:
    with pytest.raises(WrongType, match=word):
        open_picture(KINDS[name].make(), LIMITS)


def test_a_picture_that_decodes_to_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Image.new("RGB", (7, 9))
    monkeypatch.setattr("vision.upload._rgb", lambda image, size: wrong)
    with pytest.raises(PictureRefused, match="stated size"):
        open_picture(jpeg(), LIMITS)
    monkeypatch.setattr("vision.upload.Image.open", lambda *a, **k: wrong)
    with pytest.raises(PictureRefused, match="contradict"):
        open_picture(jpeg(), LIMITS)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([jpeg(quality=30), jpeg(progressive=True), png(), webp(), webp(lossless=True)]), st.data())
def test_whatever_is_changed_nothing_else_is_raised(data: bytes, draw: st.DataObject) -> None:
    changed = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 6))):
        at = draw.draw(st.integers(0, len(changed) - 1))
        changed[at : at + draw.draw(st.integers(0, 4))] = draw.draw(st.binary(max_size=4))
        if not changed:
            break
    try:
        picture = open_picture(bytes(changed), LIMITS)
    except ContractError:
        return
    assert picture.pixels.shape[2] == 3


CHILD = """
import json, resource, struct, sys
from tests.vision import hostile
from contracts.errors import ContractError
from vision.upload import PictureSettings, open_picture
files = []
while head := sys.stdin.buffer.read(8):
    files.append(sys.stdin.buffer.read(struct.unpack(">Q", head)[0]))
limits, said = PictureSettings(**json.loads(sys.argv[2])), []
for small in (hostile.jpeg(), hostile.png(), hostile.webp()):
    open_picture(small, limits)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + int(sys.argv[1]), now + int(sys.argv[1])))
for data in files:
    try:
        said.append("opened %d x %d" % open_picture(data, limits).pixels.shape[:2])
    except ContractError as exc:
        said.append(type(exc).__name__)
    except MemoryError:
        said.append("no memory")
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"said": said, "more_kb": after - before}))
"""


def in_a_child(files: list[bytes], more_bytes: int, **limits: int) -> tuple[list[str], int]:
    """What became of files, one after the other, in a process that may take so many bytes more, and how many more it had at its peak."""
    sent = b"".join(struct.pack(">Q", len(data)) + data for data in files)
    command = [sys.executable, "-c", CHILD, str(more_bytes), json.dumps(limits)]
    done = subprocess.run(command, input=sent, capture_output=True, check=False, cwd=ROOT, timeout=280)
    assert done.returncode == 0, done.stderr.decode()
    answer = json.loads(done.stdout)
    return answer["said"], answer["more_kb"] * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_bombs_stay_within_eighty_megabytes_and_the_process_lives() -> None:
    said, more = in_a_child([KINDS[name].make() for name in WORST], 200 * MEGABYTE)
    for name, what in zip(WORST, said, strict=True):
        error = KINDS[name].error
        assert what == error.__name__ if error else what.startswith("opened"), name
    assert more < 80 * MEGABYTE


def largest(side: int) -> list[bytes]:
    """What takes most memory to decode: 16 bits of four colours; all coefficients of a progressive JPEG without subsampling; a WebP."""
    image = Image.new("RGB", (side, side), "grey")
    return [
        hostile.made_png(side, side, hostile.zeros(side * (1 + side * 8)), depth=16, colour=6),
        saved(image, "JPEG", progressive=True, subsampling=0),
        saved(image, "WEBP", method=0),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_picture_takes_at_most_twelve_bytes_a_pixel() -> None:
    # With the limits as they are, 40 megapixels, that is 480 MB; a quarter of the pixels is quicker to make.
    said, more = in_a_child(largest(3_150), 200 * MEGABYTE, max_pixels=10_000_000, decode_pixels=4_000_000)
    assert said == ["opened 1575 x 1575"] * 3
    assert more < 12 * 3_150 * 3_150


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_child_would_notice() -> None:
    assert in_a_child([KINDS["more_pixels_than_are_decoded_png"].make()], 10 * MEGABYTE)[0] == ["no memory"]
