"""Reads a `multipart/form-data` body that lies in memory, within bounds: hostile until proven.

The body has been limited before it comes here (`ray_apps.middleware`). What is strict: every part names its field, no field twice, no field
that the route does not know, a closing boundary, no transfer encoding. File names and stated content types are not read: a picture's kind
is told from its bytes, and nothing is ever written under a name that a caller chose.

Source: RFC 7578 and RFC 2046, section 5.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from contracts.errors import ContractError

MAX_HEADER_BYTES = 4_096
"""Of one part, all its header lines together."""
_BOUNDARY = re.compile(r"""(?:^|;)\s*boundary\s*=\s*(?:"([^"]{1,70})"|([^\s;"]{1,70}))\s*(?=;|$)""", re.IGNORECASE)
_ALLOWED = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_NAME = re.compile(r""";\s*name\s*=\s*(?:"([^"\\\r\n]{1,64})"|([^\s;"]{1,64}))""", re.IGNORECASE)
_HOW = "Send multipart/form-data, as `curl -F image=@photo.jpg` does."


class NotMultipart(ContractError):  # noqa: N818 - as in contracts.errors
    """The body is of another kind."""

    status = 415
    title = "Unsupported media type"
    slug = "unsupported-media-type"


class MalformedMultipart(ContractError):  # noqa: N818
    """The body is not valid multipart/form-data."""

    status = 400
    title = "Malformed multipart body"
    slug = "malformed-multipart"


class WrongFields(ContractError):  # noqa: N818
    """The body has other fields than the route takes."""


def boundary_of(content_type: str) -> bytes:
    """The boundary that a Content-Type header states.

    Raises:
        NotMultipart: another type. MalformedMultipart: no boundary, or one that is not allowed.
    """
    kind, _, parameters = content_type.partition(";")
    if kind.strip().lower() != "multipart/form-data":
        raise NotMultipart(f"Content-Type is {content_type[:100] or 'absent'!r}, must be multipart/form-data. {_HOW}")
    found = _BOUNDARY.search(parameters)
    boundary = (found[1] or found[2]) if found else ""
    if not _ALLOWED.fullmatch(boundary):
        raise MalformedMultipart(f"The Content-Type names no boundary of 1 to 70 allowed characters. {_HOW}")
    return boundary.encode("ascii")


def parse(body: bytes, content_type: str, fields: Mapping[str, int]) -> dict[str, list[memoryview]]:
    """The fields of a body, in order; nothing is copied.

    Args:
        body: whole.
        content_type: of the request.
        fields: the names that may come, and how often at most.

    Raises:
        NotMultipart, MalformedMultipart: see there. WrongFields: a field that is not one of `fields`, or too often.
    """
    delimiter = b"--" + boundary_of(content_type)
    found: dict[str, list[memoryview]] = {}
    view, at = memoryview(body), _first(body, delimiter)
    while True:  # ends: each turn reads a part, and more parts than `fields` allows are refused
        if body[at : at + 2] == b"--":
            return found
        at = _line_end(body, at)
        end = body.find(b"\r\n" + delimiter, at - 2)
        if end < 0:
            raise MalformedMultipart(f"The body ends inside a part: its last boundary is missing. {_HOW}")
        name, start = _headers(body, at, end)
        if name not in fields:
            raise WrongFields(f"The body has a field {name!r}; allowed: {', '.join(fields)}. Leave it out, or correct its name.")
        found.setdefault(name, []).append(view[start:end])
        if len(found[name]) > fields[name]:
            raise WrongFields(f"The body has the field {name} {len(found[name])} times, may have it {fields[name]} times. Send fewer.")
        at = end + 2 + len(delimiter)


def _first(body: bytes, delimiter: bytes) -> int:
    """Behind the first boundary; a preamble, which no client writes, is not taken."""
    if not body.startswith(delimiter):
        raise MalformedMultipart(f"The body does not begin with the boundary that its Content-Type states. {_HOW}")
    return len(delimiter)


def _line_end(body: bytes, at: int) -> int:
    """Behind the line end that closes a boundary, blanks before it allowed."""
    while body[at : at + 1] in (b" ", b"\t"):
        at += 1
    if body[at : at + 2] != b"\r\n":
        raise MalformedMultipart(f"A boundary is not followed by a line end. {_HOW}")
    return at + 2


def _headers(body: bytes, at: int, end: int) -> tuple[str, int]:
    """The field's name, and where its content begins.

    Raises:
        MalformedMultipart: no name, a line that is not a header, a transfer encoding, or too long.
    """
    stop = body.find(b"\r\n\r\n", at, min(end + 2, at + MAX_HEADER_BYTES))
    if stop < 0:
        raise MalformedMultipart(f"A part has no headers, or more than {MAX_HEADER_BYTES} bytes of them. {_HOW}")
    name = None
    for line in body[at:stop].split(b"\r\n"):
        key, colon, value = line.decode("utf-8", "replace").partition(":")
        match (key.strip().lower(), bool(colon)):
            case (_, False):
                raise MalformedMultipart(f"A part has a line among its headers that is none. {_HOW}")
            case ("content-disposition", True) if name is None:
                field = _NAME.search(value)
                if value.partition(";")[0].strip().lower() != "form-data" or field is None:
                    raise MalformedMultipart(f"A part does not name its field. {_HOW}")
                name = field[1] or field[2]
            case ("content-disposition", True):
                raise MalformedMultipart(f"A part names its field twice. {_HOW}")
            case ("content-transfer-encoding", True) if value.strip().lower() not in ("binary", "8bit", "7bit"):
                raise MalformedMultipart(
                    f"A part has the transfer encoding {value.strip()[:40]!r}, must have none. Send bytes as they are."
                )
    if name is None:
        raise MalformedMultipart(f"A part does not name its field. {_HOW}")
    return name, stop + 4
