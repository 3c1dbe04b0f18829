"""A picture with what was seen in it drawn over it: boxes of products with their names, the places of a receipt's fields with their values.

Values of a receipt stand in a panel beside the picture, keyed by colour, so that nothing of the print is hidden. Outlines are drawn twice,
dark below bright, so that they show on any ground.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from contracts.errors import ShapeError
from vision.recognizer import Seen
from vision.types import Picture, Quad, Receipt

LONGEST_PX, SHORTEST_PX = 1_600, 720
"""Longer side of the picture as it is drawn: larger ones are made smaller, smaller ones larger, so that the lettering fits."""
COLOURS: dict[str, tuple[int, int, int]] = {
    "merchant": (255, 196, 0), "date": (0, 200, 255), "total": (255, 70, 70), "subtotal": (255, 140, 60), "tax": (190, 130, 255),
    "discount": (255, 120, 200), "rounding": (160, 160, 160), "cash": (110, 220, 130), "change": (60, 180, 160), "items": (90, 150, 255),
}  # fmt: skip
_PRODUCT = (60, 220, 90)
_PANEL, _BRIGHT, _DIM = (24, 26, 30), (245, 245, 245), (165, 170, 178)
_FIELDS = ("merchant", "date", "total", "currency", "subtotal", "tax", "discount", "rounding", "cash", "change")

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class _Line:
    """A row of the panel."""

    text: str
    colour: Colour | None = None
    dim: bool = False


def annotate(picture: Picture, seen: Seen) -> bytes:
    """Draw what was seen.

    Args:
        picture: the one that was looked at.
        seen: what was found in it.

    Returns:
        a PNG file.

    Raises:
        ShapeError: `seen` is of a picture of another size.
    """
    size = (picture.width * picture.scale, picture.height * picture.scale)
    if (seen.width, seen.height) != size:
        raise ShapeError(
            f"what was seen is of {seen.width} x {seen.height} pixels, the picture has {size[0]} x {size[1]}. Draw on the one looked at."
        )
    longer = max(picture.width, picture.height)
    factor = min(max(1.0, SHORTEST_PX / longer), LONGEST_PX / longer)
    image = Image.fromarray(picture.pixels)
    if factor != 1:
        image = image.resize((max(1, round(picture.width * factor)), max(1, round(picture.height * factor))), Image.Resampling.LANCZOS)
    text_px = max(14, round(max(image.size) / 55))
    if seen.receipt is not None:
        _places(image, seen.receipt, factor, max(2, text_px // 8))
    for product in reversed(seen.products):  # the best one on top
        box, back = product.box, factor / picture.scale
        corners = (box.x * back, box.y * back, (box.x + box.width) * back - 1, (box.y + box.height) * back - 1)
        label = f"{product.brand} {product.name}".strip()
        _boxed(image, corners, f"{label} {product.confidence:.0%}", text_px)
    image = _with_panel(image, _lines(seen), text_px)
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=3)
    return out.getvalue()


def _places(image: Image.Image, receipt: Receipt, factor: float, width: int) -> None:
    """Outlines around the pieces that the fields of a receipt were read from."""
    draw = ImageDraw.Draw(image)
    # The line items first: a total that stands among them stays visible.
    names = sorted(receipt.boxes, key=lambda name: name != "items")
    for name in names:
        for quad in receipt.boxes[name]:
            _outline(draw, _around(quad, factor, width + 1), COLOURS.get(name, _DIM), width)


def _around(quad: Quad, factor: float, margin: float) -> list[tuple[float, float]]:
    """Corners on the drawn picture, moved outwards so that the outline runs beside the print and not over it."""
    points = np.asarray(quad, dtype=np.float64) * factor
    along, down = points[1] - points[0], points[3] - points[0]
    right, below = (v / max(1e-9, float(np.hypot(*v))) * margin for v in (along, down))
    outwards = np.stack([-right - below, right - below, right + below, below - right])
    return [(float(x), float(y)) for x, y in points + outwards]


def _outline(draw: ImageDraw.ImageDraw, corners: Sequence[tuple[float, float]], colour: Colour, width: int) -> None:
    ring = [*corners, corners[0], corners[1]]  # once more around the first corner, so that it is joined like the others
    draw.line(ring, fill=(0, 0, 0), width=width + 2, joint="curve")
    draw.line(ring, fill=colour, width=width, joint="curve")


def _boxed(image: Image.Image, corners: tuple[float, float, float, float], label: str, text_px: int) -> None:
    """A rectangle with its name on a dark plate, above it where there is room, else inside; never outside the picture."""
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = corners
    _outline(draw, [(left, top), (right, top), (right, bottom), (left, bottom)], _PRODUCT, max(2, text_px // 6))
    font = _font(text_px)
    label = _shortened(label, font, image.width - 8)
    across, pad = round(font.getlength(label)) + 8, 4
    x = min(max(0, left), max(0, image.width - across))
    y = top - text_px - 2 * pad if top >= text_px + 2 * pad else max(0, top)
    draw.rectangle((x, y, x + across, y + text_px + 2 * pad), fill=_PANEL, outline=_PRODUCT)
    draw.text((x + 4, y + pad + text_px / 2), label, font=font, fill=_BRIGHT, anchor="lm")


def _lines(seen: Seen) -> list[_Line]:
    """What the panel says."""
    if seen.receipt is None:
        told = [_Line(seen.kind.upper())] if seen.kind == "nothing" else []
        return told + [_Line(note, dim=True) for note in seen.notes]
    receipt = seen.receipt
    lines = [_Line("RECEIPT")]
    for name in _FIELDS:
        value = getattr(receipt, name)
        if value is not None:
            sure = receipt.confidences.get(name)
            lines.append(_Line(f"{name}: {value}" + (f"   {sure:.0%}" if sure is not None else ""), COLOURS.get(name)))
        elif name in ("merchant", "date", "total"):
            lines.append(_Line(f"{name}: not found", COLOURS[name], dim=True))
    if receipt.items:
        lines.append(_Line("items", COLOURS["items"]))
        for item in receipt.items:
            lines.append(_Line(f"  {item.quantity:f} x {item.description}   {item.amount}", dim=item.confidence < 0.5))
    return lines + [_Line(f"review: {reason}", dim=True) for reason in receipt.review] + [_Line(note, dim=True) for note in seen.notes]


def _with_panel(image: Image.Image, lines: Sequence[_Line], text_px: int) -> Image.Image:
    """The picture with what there is to say to its right, long texts on several rows; the picture alone where there is nothing."""
    if not lines:
        return image
    width = max(18 * text_px, image.width // 2)
    font, pad, pitch = _font(text_px), text_px, round(text_px * 1.5)
    rows = [row for line in lines for row in _wrapped(line, font, width - 2 * pad - text_px)]
    whole = Image.new("RGB", (image.width + width, max(image.height, pitch * len(rows) + 2 * pad)), _PANEL)
    whole.paste(image, (0, 0))
    draw = ImageDraw.Draw(whole)
    for number, row in enumerate(rows):
        x, y = image.width + pad, pad + number * pitch
        if row.colour is not None:
            draw.rectangle((x, y + text_px * 0.15, x + text_px * 0.7, y + text_px * 0.85), fill=row.colour)
        draw.text((x + text_px, y + text_px / 2), row.text, font=font, fill=_DIM if row.dim else _BRIGHT, anchor="lm")
    return whole


def _wrapped(line: _Line, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> Iterable[_Line]:
    """A line cut at blanks into rows that fit; a word that is too long is cut."""
    row, colour = "", line.colour
    for word in line.text.split(" "):
        longer = f"{row} {word}" if row else word
        if row.strip() and font.getlength(longer) > width:
            yield _Line(_shortened(row, font, width), colour, line.dim)
            longer, colour = f"   {word}", None
        row = longer
    yield _Line(_shortened(row, font, width), colour, line.dim)


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that comes with Pillow, so that it is there on every machine."""
    return ImageFont.load_default(size)
