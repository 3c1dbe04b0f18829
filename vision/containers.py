"""Walks through the bytes of a JPEG, PNG or WebP file before any decoder sees them, and hands on only what a decoder needs.

The decoder gets a file put together anew: the header, the tables and the coded pixels. Everything else (EXIF, ICC, XMP, comments,
thumbnails, further pictures, and whatever was appended after the end) is left out unread, so that no parser of ours or of Pillow's can
be led astray by it, and so that a file that is a picture and a ZIP, a PDF or a script at once is only a picture afterwards. Telephones
do append data after the end of a JPEG (a film, a depth map, a second exposure), which is why trailing data is dropped and not refused.

Only the orientation is read from EXIF, by a reader of a dozen lines that looks at one directory.

What bounds the work: the size in pixels is known from the header; parts, scans and the bytes that a PNG inflates to are counted.
Sources: ITU-T T.81 (JPEG), W3C PNG third edition, RFC 9649 (WebP), CIPA DC-008 (Exif).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from contracts.errors import PictureRefused

REASONS = ("empty", "truncated", "damaged", "animated", "size", "work", "inflates", "coding")
"""What `PictureRefused.reason` may say: `size` too small or narrow, `work` too much to decode, `inflates` holds more than its size says,
`coding` a rare kind of the format that cameras do not write."""

MAX_PARTS = 5_000
"""Segments of a JPEG or chunks of a WebP. The largest found in telephone pictures (depth maps in XMP) have a few hundred."""
MAX_CHUNKS = 20_000
"""Chunks of a PNG: libpng writes 8 KB each."""
AGAIN = "Take the picture again, or save it anew as a JPEG."

_PNG = b"\x89PNG\r\n\x1a\n"
_MARKER = re.compile(rb"\xff(?![\x00\xd0-\xd7\xff])")
"""The next marker in entropy-coded data: not a stuffed zero, a restart or a fill byte. Linear, whatever the bytes are."""
_CODINGS = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive"}
_STEP = 1 << 16
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


@dataclass(frozen=True)
class Container:
    """What the walk found.

    Attributes:
        format: JPEG, PNG or WEBP.
        width, height: pixels as stored, before the orientation is applied.
        orientation: of EXIF, 1 to 8.
        scans: passes over the whole picture that decoding takes.
        parts: pieces of the file to decode, in order.
        deflated: a PNG's compressed pixels, else empty.
        inflated_bytes: what they must inflate to.
    """

    format: str
    width: int
    height: int
    orientation: int
    scans: int
    parts: tuple[bytes | memoryview, ...]
    deflated: bytes = b""
    inflated_bytes: int = 0

    def clean(self) -> bytes:
        """The file to decode."""
        return b"".join(self.parts)


def walk(data: bytes) -> Container | None:
    """Read the structure of a file, or give None where it is none of the three formats by its first bytes.

    A PNG's pixels are not inflated here; see `check_inflates`.

    Raises:
        PictureRefused: the structure is broken, incomplete, animated, or of a rare coding.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith(_PNG):
        return _png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    return None


def _truncated(what: str) -> PictureRefused:
    return PictureRefused(f"The picture is not complete: {what}. Send the whole file. {AGAIN}", "truncated")


def _damaged(what: str) -> PictureRefused:
    return PictureRefused(f"The picture is damaged: {what}. {AGAIN}", "damaged")


def _coding(what: str) -> PictureRefused:
    return PictureRefused(f"The picture is stored in a way that is not read here: {what}. {AGAIN}", "coding")


def _animated(what: str) -> PictureRefused:
    return PictureRefused(f"The file is {what}; only pictures that stand still are read. Send one picture.", "animated")


def _too_many(what: str, limit: int) -> PictureRefused:
    return PictureRefused(f"The file has more than {limit} {what}, which no camera writes. {AGAIN}", "work")


# JPEG


@dataclass
class _Frame:
    width: int
    height: int
    components: int


def _jpeg(data: bytes) -> Container:
    view = memoryview(data)
    kept: list[bytes | memoryview] = [view[:2]]
    frame: _Frame | None = None
    orientation, scans, parts, at = 1, 0, 0, 2
    while True:
        marker, at = _next_marker(data, at)
        if marker == 0xD9:
            break
        parts += 1
        if parts > MAX_PARTS:
            raise _too_many("segments", MAX_PARTS)
        if marker in (0x01, *range(0xD0, 0xD8)):
            continue  # stand alone, mean nothing here
        if marker in (0x00, 0xD8):
            raise _damaged(f"a JPEG with marker {marker:#04x} out of place")
        body, end = _segment(data, at)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if frame is not None:
                raise _damaged("a JPEG with two frame headers")
            frame = _frame(marker, data[body:end])
        elif marker in (0xC8, 0xCC, 0xDC, 0xDE, 0xDF):
            raise _coding("a JPEG with arithmetic coding, an unknown height or several resolutions")
        elif marker == 0xE1 and orientation == 1 and data[body : body + 6] == b"Exif\0\0":
            orientation = exif_orientation(data[body + 6 : end])
        if marker in (0xC4, 0xDB, 0xDD) or 0xC0 <= marker <= 0xC2 or _is_adobe(marker, data, body):
            kept += [b"\xff", view[at - 1 : end]]
        at = end
        if marker == 0xDA:
            if frame is None:
                raise _damaged("a JPEG with pixels before its header")
            scans += 1
            found = _MARKER.search(data, end)
            if found is None:
                raise _truncated("a JPEG without its end")
            kept += [b"\xff", view[body - 3 : found.start()]]
            at = found.start()
    if frame is None or scans == 0:
        raise _damaged("a JPEG without pixels")
    kept.append(b"\xff\xd9")
    return Container("JPEG", frame.width, frame.height, orientation, scans, tuple(kept))


def _next_marker(data: bytes, at: int) -> tuple[int, int]:
    """Marker byte and the place after it; fill bytes before it are skipped."""
    if at >= len(data):
        raise _truncated("a JPEG without its end")
    if data[at] != 0xFF:
        raise _damaged("a JPEG whose segments do not follow each other")
    found = re.compile(rb"\xff*").match(data, at)
    end = found.end() if found else at
    if end >= len(data):
        raise _truncated("a JPEG without its end")
    return data[end], end + 1


def _segment(data: bytes, at: int) -> tuple[int, int]:
    """Begin and end of the content of the segment whose length stands at `at`."""
    if at + 2 > len(data):
        raise _truncated("a JPEG that ends inside a segment")
    (length,) = struct.unpack_from(">H", data, at)
    if length < 2:
        raise _damaged("a JPEG segment of impossible length")
    if at + length > len(data):
        raise _truncated("a JPEG that ends inside a segment")
    return at + 2, at + length


def _frame(marker: int, body: bytes) -> _Frame:
    if marker not in _CODINGS:
        raise _coding("a lossless, hierarchical or arithmetic JPEG")
    if len(body) < 6:
        raise _damaged("a JPEG whose header is too short")
    precision, height, width, components = struct.unpack_from(">BHHB", body)
    if precision != 8:
        raise _coding(f"a JPEG of {precision} bits")
    if components not in (1, 3, 4) or len(body) != 6 + 3 * components:
        raise _damaged(f"a JPEG of {components} colours")
    samplings = [(body[7 + 3 * i] >> 4, body[7 + 3 * i] & 15) for i in range(components)]
    if any(not (1 <= h <= 4 and 1 <= v <= 4) for h, v in samplings):
        raise _damaged("a JPEG with impossible sampling")
    if width == 0 or height == 0:
        raise _damaged("a JPEG without width or height")
    return _Frame(width, height, components)


def _is_adobe(marker: int, data: bytes, body: int) -> bool:
    """Whether a segment says how the colours are coded: without it, CMYK pictures come out inverted."""
    return marker == 0xEE and data[body : body + 5] == b"Adobe"


# PNG


def _png(data: bytes) -> Container:
    view = memoryview(data)
    header: bytes | None = None
    kept: list[bytes | memoryview] = [_PNG]
    pixels: list[memoryview] = []
    orientation, last = 1, b""
    for kind, body, end in _png_chunks(data):
        if header is None and kind != b"IHDR":
            raise _damaged("a PNG that does not begin with its header")
        if kind == b"IHDR":
            if header is not None:
                raise _damaged("a PNG with two headers")
            header = _png_header(data[body:end])
            kept.append(view[body - 8 : end + 4])
        elif kind == b"IDAT":
            if pixels and last != b"IDAT":
                raise _damaged("a PNG whose pixels are interrupted")
            pixels.append(view[body:end])
        elif kind in (b"PLTE", b"tRNS"):
            if pixels or end - body > 768:
                raise _damaged("a PNG whose palette is out of place")
            kept.append(view[body - 8 : end + 4])
        elif kind == b"acTL":
            raise _animated("an animated PNG")
        elif kind == b"eXIf":
            orientation = exif_orientation(data[body:end])
        elif kind != b"IEND" and not kind[0] & 0x20:
            raise _coding(f"a PNG with a chunk {kind!r} that must be understood and is not")
        last = kind
    if header is None or not pixels:
        raise _damaged("a PNG without pixels")
    width, height, _, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if colour == 3 and not any(bytes(part[4:8]) == b"PLTE" for part in kept[2:]):
        raise _damaged("a PNG whose palette is missing")
    deflated = b"".join(pixels)
    crc = zlib.crc32(deflated, zlib.crc32(b"IDAT"))
    kept += [struct.pack(">I", len(deflated)) + b"IDAT", deflated, struct.pack(">I", crc), b"\0\0\0\0IEND\xaeB`\x82"]
    return Container("PNG", width, height, orientation, 7 if interlaced else 1, tuple(kept), deflated, _png_bytes(header))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, begin and end of each chunk, checksums compared, up to and with the end chunk."""
    view, at = memoryview(data), len(_PNG)
    for _ in range(MAX_CHUNKS):
        if at + 12 > len(data):
            raise _truncated("a PNG without its end")
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            raise _truncated("a PNG that ends inside a chunk")
        if not kind.isalpha():
            raise _damaged("a PNG chunk without a name")
        if zlib.crc32(view[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise _damaged(f"a PNG whose chunk {kind.decode('ascii')} has a wrong checksum")
        yield kind, at + 8, end
        if kind == b"IEND":
            return
        at = end + 4
    raise _too_many("chunks", MAX_CHUNKS)


def _png_header(body: bytes) -> bytes:
    if len(body) != 13:
        raise _damaged("a PNG whose header has a wrong length")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", body)
    if width == 0 or height == 0:
        raise _damaged("a PNG without width or height")
    if depth not in _PNG_DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
        raise _damaged("a PNG of an unknown kind")
    return body


def check_inflates(found: Container) -> None:
    """Inflate a PNG's pixels piece by piece, counting and keeping nothing: they must fill the picture, exactly.

    So a file of a few kilobytes cannot hold gigabytes behind its last row, and one that ends early is known before it is decoded.
    Call it after the size in pixels was checked: the work is bounded by that. Other formats pass.

    Raises:
        PictureRefused: more or fewer bytes than rows, or not a zlib stream.
    """
    if found.format != "PNG":
        return
    view, inflate, produced, end = memoryview(found.deflated), zlib.decompressobj(), 0, False
    try:
        for start in range(0, len(view), _STEP):
            # By small pieces: what is not consumed is copied at each call.
            piece: bytes | memoryview = view[start : start + _STEP]
            while piece and not end:
                produced += len(inflate.decompress(piece, 16 * _STEP))
                end = produced > found.inflated_bytes or inflate.eof
                piece = inflate.unconsumed_tail
            if end:
                break
        while not end and (more := len(inflate.decompress(b"", 16 * _STEP))):
            produced += more
            end = produced > found.inflated_bytes
    except zlib.error as exc:
        raise _damaged(f"a PNG whose pixels do not inflate ({exc})") from exc
    if produced > found.inflated_bytes or inflate.unused_data or (inflate.eof and start + _STEP < len(view)):
        raise PictureRefused(f"The PNG holds more than its size in pixels allows. {AGAIN}", "inflates")
    if produced < found.inflated_bytes or not inflate.eof:
        raise _truncated("a PNG whose last rows are missing")


def _png_bytes(header: bytes) -> int:
    """Bytes of all rows with their filter bytes, over the seven passes where it is interlaced."""
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", header)
    bits = depth * _PNG_CHANNELS[colour]
    if not interlace:
        return height * (1 + (width * bits + 7) // 8)
    total = 0
    for x, y, dx, dy in _ADAM7:
        columns, rows = (width - x + dx - 1) // dx, (height - y + dy - 1) // dy
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


# WebP


def _webp(data: bytes) -> Container:
    view = memoryview(data)
    canvas: tuple[int, int] | None = None
    alpha: memoryview | None = None
    picture: tuple[bytes, memoryview] | None = None
    orientation = 1
    for kind, body, end in _webp_chunks(data):
        if kind in (b"ANIM", b"ANMF"):
            raise _animated("an animated WebP")
        if kind == b"VP8X":
            if canvas is not None or end - body < 10:
                raise _damaged("a WebP with a broken header")
            if data[body] & 0x02:
                raise _animated("an animated WebP")
            canvas = _int24(data, body + 4) + 1, _int24(data, body + 7) + 1
        elif kind == b"ALPH":
            alpha = view[body:end]
        elif kind in (b"VP8 ", b"VP8L"):
            if picture is not None:
                raise _damaged("a WebP with two pictures")
            picture = kind, view[body:end]
        elif kind == b"EXIF":
            raw = data[body:end]
            orientation = exif_orientation(raw.removeprefix(b"Exif\0\0"))
    if picture is None:
        raise _damaged("a WebP without pixels")
    width, height = _webp_size(*picture)
    if canvas is not None and canvas != (width, height):
        raise _damaged("a WebP whose sizes contradict each other")
    chunks = [picture]
    if alpha is not None and picture[0] == b"VP8 ":
        header = struct.pack("<B3x", 0x10) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        chunks = [(b"VP8X", memoryview(header)), (b"ALPH", alpha), picture]
    parts: list[bytes | memoryview] = []
    for kind, content in chunks:
        parts += [kind + struct.pack("<I", len(content)), content, b"\0" * (len(content) % 2)]
    size = 4 + sum(map(len, parts))
    return Container("WEBP", width, height, orientation, 1, (b"RIFF" + struct.pack("<I", size) + b"WEBP", *parts))


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, begin and end of each chunk inside the length that the file states; what lies behind that is left alone."""
    (stated,) = struct.unpack_from("<I", data, 4)
    limit, at = 8 + stated, 12
    if limit > len(data) + (stated % 2):
        raise _truncated("a WebP shorter than it says")
    limit = min(limit, len(data))
    for _ in range(MAX_PARTS):
        if at >= limit:
            return
        if at + 8 > limit:
            raise _damaged("a WebP whose chunks do not add up")
        kind, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > limit:
            raise _truncated("a WebP that ends inside a chunk")
        yield kind, at + 8, at + 8 + length
        at += 8 + length + length % 2
    raise _too_many("chunks", MAX_PARTS)


def _webp_size(kind: bytes, content: memoryview) -> tuple[int, int]:
    head = bytes(content[:10])
    if kind == b"VP8L":
        if len(head) < 5 or head[0] != 0x2F:
            raise _damaged("a WebP whose lossless part has no header")
        bits = int.from_bytes(head[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if len(head) < 10 or head[3:6] != b"\x9d\x01\x2a" or head[0] & 1:
        raise _damaged("a WebP without a key frame")
    width, height = (v & 0x3FFF for v in struct.unpack_from("<HH", head, 6))
    if width == 0 or height == 0:
        raise _damaged("a WebP without width or height")
    return width, height


def _int24(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "little")


# EXIF


def exif_orientation(tiff: bytes) -> int:
    """How a picture lies, 1 to 8, from the first directory of an EXIF block; 1 where it is broken or says nothing.

    Never follows a pointer but the one to the first directory, so nothing can loop.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return 1
    (at,) = struct.unpack_from(f"{order}I", tiff, 4)
    if at + 2 > len(tiff):
        return 1
    (count,) = struct.unpack_from(f"{order}H", tiff, at)
    for n in range(min(count, 512)):
        place = at + 2 + 12 * n
        if place + 12 > len(tiff):
            return 1
        tag, kind, values = struct.unpack_from(f"{order}HHI", tiff, place)
        if tag == 0x0112:
            (value,) = struct.unpack_from(f"{order}H", tiff, place + 8)
            return int(value) if kind == 3 and values == 1 and 1 <= value <= 8 else 1
    return 1
