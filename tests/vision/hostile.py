"""Makes pictures and files that were sent to do harm, or that are only odd, each by code.

`KINDS` maps a name to a `Kind`: the maker and what must become of the file: `opens` (with the size that comes out), or the error and,
for a `PictureRefused`, its reason. Nothing here is larger than the limits of `PictureSettings` but what says so.
"""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from contracts.errors import ContractError, PictureRefused, TooLarge, WrongType

SIZE = (160, 120)
SEED = 7


@dataclass(frozen=True)
class Kind:
    """One kind of file, and what must become of it.

    Attributes:
        make: gives the file.
        size: (width, height) of the pixels that come out, None where the file must be refused.
        error, reason: how it must be refused.
    """

    make: Callable[[], bytes]
    size: tuple[int, int] | None = SIZE
    error: type[ContractError] | None = None
    reason: str | None = None


KINDS: dict[str, Kind] = {}
Maker = Callable[[], bytes]


def opens(size: tuple[int, int] = SIZE) -> Callable[[Maker], Maker]:
    def add(make: Maker) -> Maker:
        KINDS[make.__name__] = Kind(make, size)
        return make

    return add


def refused(error: type[ContractError], reason: str | None = None) -> Callable[[Maker], Maker]:
    def add(make: Maker) -> Maker:
        KINDS[make.__name__] = Kind(make, None, error, reason)
        return make

    return add


def bad(reason: str) -> Callable[[Maker], Maker]:
    return refused(PictureRefused, reason)


def scene(mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    """A picture with edges, in which up, down, left and right differ."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    pixels = np.stack([x * 255 // size[0], y * 255 // size[1], (x // 8 + y // 8) % 2 * 200], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(**options: Any) -> bytes:
    return saved(scene(), "JPEG", **options)


def png(**options: Any) -> bytes:
    return saved(scene(), "PNG", **options)


def webp(**options: Any) -> bytes:
    return saved(scene(), "WEBP", **options)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def made_png(width: int, height: int, rows: bytes, *, depth: int = 8, colour: int = 0, interlace: int = 0, extra: bytes = b"") -> bytes:
    """A PNG with any header and any compressed pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """`count` zero bytes, compressed without ever holding them."""
    compress, parts, block = zlib.compressobj(9), [], bytes(1 << 20)
    for _ in range(count >> 20):
        parts.append(compress.compress(block))
    return b"".join([*parts, compress.compress(bytes(count & 0xFFFFF)), compress.flush()])


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def with_segments(data: bytes, *segments: bytes) -> bytes:
    """A JPEG with segments right behind its start."""
    return data[:2] + b"".join(segments) + data[2:]


def header_at(data: bytes) -> int:
    """Where the frame header's content begins (precision, height, width)."""
    return next(data.index(m) for m in (b"\xff\xc0", b"\xff\xc2") if m in data) + 4


def with_header(data: bytes, at: int, value: bytes) -> bytes:
    place = header_at(data) + at
    return data[:place] + value + data[place + len(value) :]


def exif(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}IHHHIHxxI", 8, 1, 0x0112, kind, 1, orientation, 0)


def exif_jpeg(tiff: bytes) -> bytes:
    return with_segments(jpeg(), segment(0xE1, b"Exif\0\0" + tiff))


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(k + struct.pack("<I", len(c)) + c + b"\0" * (len(c) % 2) for k, c in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def vp8(data: bytes) -> bytes:
    """The lossy pixels of a plain WebP."""
    assert data[12:16] == b"VP8 "
    return data[20 : 20 + struct.unpack_from("<I", data, 16)[0]]


def vp8x(flags: int, width: int, height: int) -> tuple[bytes, bytes]:
    return b"VP8X", struct.pack("<B3x", flags) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


# What must open


@opens()
def plain_jpeg() -> bytes:
    return jpeg()


@opens()
def progressive_jpeg() -> bytes:
    return jpeg(progressive=True)


@opens()
def grey_jpeg() -> bytes:
    return saved(scene("L"), "JPEG")


@opens()
def cmyk_jpeg() -> bytes:
    return saved(scene("CMYK"), "JPEG")


@opens()
def jpeg_with_restarts() -> bytes:
    return jpeg(restart_marker_rows=1)


@opens((SIZE[1], SIZE[0]))
def turned_jpeg() -> bytes:
    return exif_jpeg(exif(6))


@opens((SIZE[1], SIZE[0]))
def turned_jpeg_big_endian() -> bytes:
    return exif_jpeg(exif(8, ">"))


@opens()
def impossible_orientation() -> bytes:
    return exif_jpeg(exif(9))


@opens()
def orientation_of_a_wrong_type() -> bytes:
    return exif_jpeg(exif(6, kind=12))


@opens()
def exif_whose_directory_points_to_itself() -> bytes:
    return exif_jpeg(b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x8769, 4, 1, 8) + struct.pack("<I", 8))


@opens()
def exif_that_points_outside() -> bytes:
    return exif_jpeg(b"II*\0" + struct.pack("<I", 0xFFFFFFF0))


@opens()
def exif_with_65535_entries() -> bytes:
    return exif_jpeg(b"II*\0" + struct.pack("<IH", 8, 65_535) + b"\1" * 60_000)


@opens()
def exif_cut_short() -> bytes:
    return exif_jpeg(b"II*\0" + struct.pack("<IH", 8, 40) + b"\0" * 30)


@opens()
def exif_of_an_unknown_order() -> bytes:
    return exif_jpeg(b"XX*\0" + bytes(40))


@opens()
def eight_megabytes_of_metadata() -> bytes:
    return with_segments(jpeg(), *[segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(65_000))] * 125)


@opens()
def broken_colour_profile() -> bytes:
    return with_segments(jpeg(), segment(0xE2, b"ICC_PROFILE\0\x01\x01" + b"\xff" * 60_000))


@opens()
def script_in_a_comment() -> bytes:
    return with_segments(jpeg(), segment(0xFE, b"<?php system($_GET['c']); ?><script>alert(1)</script>"))


@opens()
def jpeg_then_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../evil.sh", "rm -rf /")
    return jpeg() + file.getvalue()


@opens()
def jpeg_then_html() -> bytes:
    return jpeg() + b"<html><script>alert(1)</script></html>"


@opens()
def jpeg_then_php() -> bytes:
    return jpeg() + b"<?php system('id'); ?>"


@opens()
def png_then_pdf() -> bytes:
    return png() + b"%PDF-1.7\n1 0 obj<</OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj\n%%EOF"


@opens()
def webp_then_program() -> bytes:
    return webp() + b"\x7fELF" + bytes(1000)


@opens()
def jpeg_then_another_jpeg() -> bytes:
    return jpeg() + saved(scene(size=(640, 480)), "JPEG")


@opens()
def several_pictures_in_one_jpeg() -> bytes:
    return saved(scene(), "MPO", save_all=True, append_images=[scene(size=(320, 240)), scene()])


@opens()
def fill_bytes_between_segments() -> bytes:
    data = jpeg()
    return data[:2] + b"\xff" * 100_000 + data[2:]


@opens()
def palette_png() -> bytes:
    return saved(scene("P"), "PNG")


@opens()
def palette_png_with_transparency() -> bytes:
    return saved(scene("P"), "PNG", transparency=bytes(range(256)))


@opens()
def one_bit_png() -> bytes:
    return saved(scene("1"), "PNG")


@opens()
def sixteen_bit_grey_png() -> bytes:
    return saved(Image.fromarray(np.asarray(scene("L")).astype(np.uint16) * 257), "PNG")


@opens((64, 48))
def sixteen_bit_colour_png() -> bytes:
    return made_png(64, 48, zlib.compress((b"\0" + bytes(range(192)) * 2) * 48), depth=16, colour=2)


@opens((64, 48))
def interlaced_png() -> bytes:
    rows = b"".join((b"\0" + bytes([90]) * c) * r for c, r in ((8, 6), (8, 6), (16, 6), (16, 12), (32, 12), (32, 24), (64, 24)))
    return made_png(64, 48, zlib.compress(rows), interlace=1)


@opens()
def transparent_png() -> bytes:
    return saved(scene("RGBA"), "PNG")


@opens()
def grey_and_alpha_png() -> bytes:
    return saved(scene("LA"), "PNG")


@opens()
def png_with_a_transparent_colour() -> bytes:
    return saved(scene(), "PNG", transparency=(0, 0, 0))


@opens((SIZE[1], SIZE[0]))
def turned_png() -> bytes:
    data = png()
    return data[:33] + chunk(b"eXIf", exif(6)) + data[33:]


@opens()
def text_that_inflates_to_256_megabytes() -> bytes:
    data = png()
    return data[:33] + chunk(b"zTXt", b"Comment\0\0" + zeros(1 << 28)) + data[33:]


@opens()
def colour_profile_that_inflates_to_256_megabytes() -> bytes:
    data = png()
    return data[:33] + chunk(b"iCCP", b"icc\0\0" + zeros(1 << 28)) + data[33:]


@opens()
def a_thousand_text_chunks() -> bytes:
    info = PngImagePlugin.PngInfo()
    for n in range(1000):
        info.add_text(f"k{n}", "x" * 1000)
    return png(pnginfo=info)


@opens()
def lossless_webp() -> bytes:
    return webp(lossless=True)


@opens()
def transparent_webp() -> bytes:
    return saved(scene("RGBA"), "WEBP")


@opens((SIZE[1], SIZE[0]))
def turned_webp() -> bytes:
    return riff(vp8x(0x08, *SIZE), (b"VP8 ", vp8(webp())), (b"EXIF", exif(6)))


@opens()
def webp_with_unknown_chunks() -> bytes:
    return riff((b"VP8 ", vp8(webp())), (b"EVIL", b"\xff" * 10_001), (b"XMP ", b"<x/>"))


@opens((4_100 // 2, 4_000 // 2))
def more_pixels_than_are_decoded_jpeg() -> bytes:
    return saved(Image.new("RGB", (4_100, 4_000), "grey"), "JPEG")


@opens((4_101 // 2 + 1, 4_000 // 2))
def more_pixels_than_are_decoded_png() -> bytes:
    return made_png(4_101, 4_000, zeros(4_102 * 4_000))


@opens()
def jpeg_with_its_middle_overwritten() -> bytes:
    # Decoders fill in what they cannot read: a picture comes out, and what is on it shows whether it is of use.
    data = bytearray(jpeg())
    middle = len(data) // 2
    data[middle : middle + 60] = bytes(60)
    return bytes(data)


# Wrong kinds


def _wrong(name: str, content: bytes) -> None:
    KINDS[name] = Kind(lambda: content, None, WrongType)


for _name, _content in {
    "gif": saved(scene("P"), "GIF"),
    "animated_gif": saved(scene("P"), "GIF", save_all=True, append_images=[scene("L").convert("P")]),
    "bmp": saved(scene(), "BMP"),
    "tiff": saved(scene(), "TIFF"),
    "icon": saved(scene(), "ICO"),
    "pdf": saved(scene(), "PDF"),
    "eps": saved(scene(), "EPS"),
    "pnm": saved(scene(), "PPM"),
    "dds": saved(scene(), "DDS"),
    "targa": saved(scene(), "TGA"),
    "photoshop": b"8BPS\0\1" + bytes(200),
    "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
    "avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1" + bytes(200),
    "film": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(200),
    "sound": b"RIFF\x24\0\0\0WAVEfmt " + bytes(200),
    "jpeg_2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(200),
    "jpeg_xl": b"\xff\x0a" + bytes(200),
    "zip": b"PK\x03\x04" + bytes(200),
    "gzip": b"\x1f\x8b\x08" + bytes(200),
    "program": b"\x7fELF\2\1\1" + bytes(200),
    "html_named_jpg": b"<!DOCTYPE html><html><body>hello</body></html>",
    "php": b"<?php phpinfo(); ?>",
    "json": b'{"image": "none"}',
    "script": b"#!/bin/sh\nid\n",
    "imagemagick_script": b"push graphic-context\nviewbox 0 0 1 1\nfill 'url(https://example.invalid/\"|id\")'\npop graphic-context",
    "svg_with_script": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "svg_with_entities": b'\xef\xbb\xbf <?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a "lol"><!ENTITY b "&a;&a;">]><svg>&b;</svg>',
    "svg_that_reads_a_file": b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
    "xml": b'<?xml version="1.0"?><a/>',
    "only_zeros": bytes(5_000),
    "only_blanks": b" \n" * 500,
    "noise": random.Random(SEED).randbytes(5_000),
    "one_byte": b"\xff",
    "two_bytes_of_a_jpeg": b"\xff\xd8",
    "half_a_signature_of_a_png": b"\x89PNG\r\n",
    "path_instead_of_a_file": b"/etc/passwd",
    "address_instead_of_a_file": b"http://169.254.169.254/latest/meta-data/",
}.items():
    _wrong(_name, _content)


# Too large


@refused(TooLarge)
def more_bytes_than_allowed() -> bytes:
    return jpeg() + bytes(12_000_000)


@refused(TooLarge)
def jpeg_of_65500_squared() -> bytes:
    return with_header(jpeg(), 1, struct.pack(">HH", 65_500, 65_500))


@refused(TooLarge)
def png_of_two_billion_squared() -> bytes:
    return made_png(0x7FFFFFFF, 0x7FFFFFFF, zeros(1000))


@refused(TooLarge)
def png_bomb_of_50000_squared() -> bytes:
    return made_png(50_000, 50_000, zeros(1 << 24), depth=1)


@refused(TooLarge)
def webp_of_16383_squared() -> bytes:
    body = bytearray(vp8(webp()))
    body[6:10] = struct.pack("<HH", 16_383, 16_383)
    return riff((b"VP8 ", bytes(body)))


@refused(TooLarge)
def lossless_webp_of_16384_squared() -> bytes:
    return riff((b"VP8L", b"\x2f" + struct.pack("<I", 0x0FFFFFFF) + bytes(100)))


# Bombs and shapes


@bad("inflates")
def png_that_inflates_to_256_megabytes() -> bytes:
    return made_png(*SIZE, zeros(1 << 28))


@bad("inflates")
def png_with_one_byte_too_much() -> bytes:
    return made_png(64, 48, zlib.compress(bytes(65 * 48 + 1)))


@bad("inflates")
def png_with_data_behind_its_pixels() -> bytes:
    return made_png(64, 48, zlib.compress(bytes(65 * 48)) + b"hidden" * 40_000)


@bad("work")
def jpeg_with_thousands_of_scans() -> bytes:
    data = jpeg(progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:-2] + data[start:-2] * 3_000 + data[-2:]


@bad("work")
def large_jpeg_with_dozens_of_scans() -> bytes:
    data = with_header(jpeg(progressive=True), 1, struct.pack(">HH", 6_000, 6_000))
    start = data.rindex(b"\xff\xda")
    return data[:-2] + data[start:-2] * 40 + data[-2:]


@bad("work")
def a_hundred_thousand_segments() -> bytes:
    return with_segments(jpeg(), segment(0xFE, b"") * 100_000)


@bad("work")
def a_hundred_thousand_chunks() -> bytes:
    data = png()
    return data[:33] + chunk(b"tEXt", b"") * 100_000 + data[33:]


@bad("work")
def a_hundred_thousand_webp_chunks() -> bytes:
    return riff(*[(b"EVIL", b"")] * 100_000, (b"VP8 ", vp8(webp())))


@bad("size")
def one_pixel() -> bytes:
    return saved(Image.new("RGB", (1, 1)), "PNG")


@bad("size")
def one_by_sixty_thousand() -> bytes:
    return saved(Image.new("RGB", (1, 60_000)), "JPEG")


@bad("size")
def forty_by_sixty_thousand() -> bytes:
    return saved(Image.new("L", (60_000, 40)), "JPEG")


# Animated


@bad("animated")
def animated_png() -> bytes:
    return saved(scene(), "PNG", save_all=True, append_images=[scene().rotate(90)])


@bad("animated")
def animated_webp() -> bytes:
    return saved(scene(), "WEBP", save_all=True, append_images=[scene().rotate(90)])


@bad("animated")
def webp_that_says_animated() -> bytes:
    return riff(vp8x(0x02, *SIZE), (b"VP8 ", vp8(webp())))


# Cut short


@bad("empty")
def empty() -> bytes:
    return b""


@bad("truncated")
def first_half_of_a_jpeg() -> bytes:
    return jpeg()[: len(jpeg()) // 2]


@bad("truncated")
def jpeg_without_its_end() -> bytes:
    return jpeg()[:-2]


@bad("truncated")
def jpeg_cut_in_a_segment() -> bytes:
    return jpeg()[:40]


@bad("truncated")
def jpeg_cut_in_a_length() -> bytes:
    return b"\xff\xd8\xff\xe0\0"


@bad("truncated")
def jpeg_of_fill_bytes() -> bytes:
    return b"\xff\xd8" + b"\xff" * 1_000_000


@bad("truncated")
def jpeg_cut_between_segments() -> bytes:
    return b"\xff\xd8" + segment(0xFE, b"hello")


@bad("truncated")
def first_half_of_a_png() -> bytes:
    return png()[: len(png()) // 2]


@bad("truncated")
def png_without_its_end() -> bytes:
    return png()[:-12]


@bad("truncated")
def png_with_half_its_rows() -> bytes:
    return made_png(64, 48, zlib.compress(bytes(65 * 24)))


@bad("truncated")
def png_whose_stream_is_cut() -> bytes:
    return made_png(64, 48, zlib.compress(random.Random(SEED).randbytes(65 * 48))[:-400])


@bad("truncated")
def png_chunk_of_four_gigabytes() -> bytes:
    return png()[:33] + struct.pack(">I", 0xFFFFFFFF) + b"IDAT" + bytes(100)


@bad("truncated")
def first_half_of_a_webp() -> bytes:
    return webp()[: len(webp()) // 2]


@bad("truncated")
def webp_chunk_longer_than_the_file() -> bytes:
    data = bytearray(webp())
    data[16:20] = struct.pack("<I", 0xFFFFFF)
    return bytes(data)


# Damaged


@bad("damaged")
def jpeg_whose_segments_do_not_follow() -> bytes:
    return jpeg()[:2] + segment(0xFE, b"x") + b"garbage" + jpeg()[2:]


@bad("damaged")
def jpeg_segment_of_length_one() -> bytes:
    return jpeg()[:2] + b"\xff\xfe\0\1" + jpeg()[2:]


@bad("damaged")
def jpeg_in_a_jpeg() -> bytes:
    return jpeg()[:2] + jpeg()


@bad("damaged")
def jpeg_with_two_headers() -> bytes:
    data = jpeg()
    at = header_at(data) - 4
    return data[:at] + data[at : at + 19] + data[at:]


@bad("damaged")
def jpeg_with_pixels_first() -> bytes:
    data = jpeg()
    return data[:2] + data[data.rindex(b"\xff\xda") :]


@bad("damaged")
def jpeg_without_pixels() -> bytes:
    data = jpeg()
    return data[: data.rindex(b"\xff\xda")] + b"\xff\xd9"


@bad("damaged")
def jpeg_of_no_height() -> bytes:
    return with_header(jpeg(), 1, struct.pack(">HH", 0, 120))


@bad("damaged")
def jpeg_of_two_colours() -> bytes:
    return with_header(jpeg(), 5, b"\2")


@bad("damaged")
def jpeg_with_sampling_of_fifteen() -> bytes:
    return with_header(jpeg(), 7, b"\xff")


@bad("damaged")
def jpeg_with_a_short_header() -> bytes:
    return b"\xff\xd8" + segment(0xC0, b"\x08\0") + jpeg()[2:]


@bad("damaged")
def jpeg_without_tables() -> bytes:
    data = jpeg()
    first = data.index(b"\xff\xdb")
    return data[:2] + data[header_at(data) - 4 :] if first else b""


@bad("damaged")
def png_with_a_wrong_checksum() -> bytes:
    data = bytearray(png())
    data[-20] ^= 0xFF
    return bytes(data)


@bad("damaged")
def png_without_a_header() -> bytes:
    return png()[:8] + png()[33:]


@bad("damaged")
def png_with_a_second_header() -> bytes:
    return png()[:33] + png()[8:]


@bad("damaged")
def png_with_a_long_header() -> bytes:
    return png()[:8] + chunk(b"IHDR", bytes(14)) + png()[33:]


@bad("damaged")
def png_of_no_width() -> bytes:
    return made_png(0, 48, zlib.compress(b"\0" * 48))


@bad("damaged")
def png_of_three_bits() -> bytes:
    return made_png(64, 48, zeros(100), depth=3)


@bad("damaged")
def png_without_pixels() -> bytes:
    return png()[:33] + chunk(b"IEND", b"")


@bad("damaged")
def png_without_its_palette() -> bytes:
    return made_png(64, 48, zlib.compress(bytes(65 * 48)), colour=3)


@bad("damaged")
def png_with_a_late_palette() -> bytes:
    return png()[:-12] + chunk(b"PLTE", bytes(768)) + png()[-12:]


@bad("damaged")
def png_with_interrupted_pixels() -> bytes:
    return made_png(64, 48, zlib.compress(bytes(65 * 48)))[:-12] + chunk(b"tIME", bytes(7)) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@bad("damaged")
def png_with_a_nameless_chunk() -> bytes:
    return png()[:33] + chunk(b"\0\1\2\3", b"") + png()[33:]


@bad("damaged")
def png_whose_pixels_are_not_compressed() -> bytes:
    return made_png(64, 48, b"these are not the bytes that you are looking for" * 10)


@bad("damaged")
def png_with_an_unknown_filter() -> bytes:
    return made_png(64, 48, zlib.compress((b"\x09" + bytes(64)) * 48))


@bad("damaged")
def webp_without_pixels() -> bytes:
    return riff(vp8x(0, *SIZE))


@bad("damaged")
def webp_with_two_pictures() -> bytes:
    return riff((b"VP8 ", vp8(webp())), (b"VP8 ", vp8(webp())))


@bad("damaged")
def webp_with_two_sizes() -> bytes:
    return riff(vp8x(0, 4_000, 3_000), (b"VP8 ", vp8(webp())))


@bad("damaged")
def webp_with_a_short_header() -> bytes:
    return riff((b"VP8X", b"\0"), (b"VP8 ", vp8(webp())))


@bad("damaged")
def webp_without_a_key_frame() -> bytes:
    return riff((b"VP8 ", b"\1" + vp8(webp())[1:]))


@bad("damaged")
def webp_of_no_width() -> bytes:
    return riff((b"VP8 ", vp8(webp())[:6] + bytes(4) + vp8(webp())[10:]))


@bad("damaged")
def lossless_webp_without_a_header() -> bytes:
    return riff((b"VP8L", b"\0\0\0\0\0"))


@bad("damaged")
def webp_whose_chunks_do_not_add_up() -> bytes:
    data = riff((b"VP8 ", vp8(webp()))) + b"EVIL"
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


@bad("damaged")
def webp_of_noise() -> bytes:
    return riff((b"VP8 ", vp8(webp())[:10] + random.Random(SEED).randbytes(20)))


# Rare codings


@bad("coding")
def twelve_bit_jpeg() -> bytes:
    return with_header(jpeg(), 0, b"\x0c")


@bad("coding")
def lossless_jpeg() -> bytes:
    data = bytearray(jpeg())
    data[header_at(jpeg()) - 3] = 0xC3
    return bytes(data)


@bad("coding")
def arithmetic_jpeg() -> bytes:
    data = bytearray(jpeg())
    data[header_at(jpeg()) - 3] = 0xC9
    return bytes(data)


@bad("coding")
def hierarchical_jpeg() -> bytes:
    return with_segments(jpeg(), segment(0xDE, bytes(15)))


@bad("coding")
def png_with_a_chunk_that_must_be_understood() -> bytes:
    return png()[:8] + png()[8:33] + chunk(b"EVIL", b"x") + png()[33:]
