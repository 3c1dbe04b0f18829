"""Bodies of forms: what is read, and every way in which one is refused."""

from __future__ import annotations

import random

import pytest

from ray_apps.multipart import MAX_HEADER_BYTES, MalformedMultipart, NotMultipart, WrongFields, boundary_of, parse

KIND = "multipart/form-data; boundary=xyz"
FIELDS = {"image": 2, "context": 1}


def part(name: str = "image", content: bytes = b"...", headers: str = "") -> bytes:
    return f'--xyz\r\nContent-Disposition: form-data; name="{name}"; filename="a.jpg"\r\n{headers}\r\n'.encode() + content + b"\r\n"


def read(body: bytes, kind: str = KIND) -> dict[str, list[bytes]]:
    return {name: [bytes(p) for p in parts] for name, parts in parse(body, kind, FIELDS).items()}


def test_fields_come_as_they_were_sent() -> None:
    content = b"\r\n--xy\r\n\x00--xyz\r\n\r\n"  # what only looks like a boundary
    body = part("image", content) + part("context", b"") + part("image", b"2", "Content-Type: image/png\r\n") + b"--xyz--\r\n"
    assert read(body) == {"image": [content, b"2"], "context": [b""]}
    assert read(b"--xyz--") == {}
    assert read(body + b"an epilogue that nobody reads") == read(body)
    assert read(b"--xyz \t\r\n" + part()[7:] + b"--xyz--") == {"image": [b"..."]}


@pytest.mark.parametrize(
    "kind",
    ['multipart/form-data; boundary="xyz"', "Multipart/Form-Data;charset=utf-8; boundary=xyz", "multipart/form-data; BOUNDARY=xyz ; a=b"],
)
def test_the_boundary_may_be_written_in_several_ways(kind: str) -> None:
    assert boundary_of(kind) == b"xyz"


def test_fields_that_httpx_writes() -> None:
    import httpx

    request = httpx.Request("POST", "http://x", files={"image": ("ü.jpg", b"\xff\xd8")}, data={"context": "{}"})
    assert read(request.read(), request.headers["content-type"]) == {"context": [b"{}"], "image": [b"\xff\xd8"]}


@pytest.mark.parametrize("kind", ["", "application/json", "multipart/mixed; boundary=xyz", "multipart/form-data-x; boundary=xyz"])
def test_other_types_are_refused(kind: str) -> None:
    with pytest.raises(NotMultipart, match="must be multipart/form-data"):
        read(b"", kind)


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        f"multipart/form-data; boundary={'x' * 71}",
        "multipart/form-data; boundary=ü",
        'multipart/form-data; boundary="x "',
        "multipart/form-data; boundary=a%b",
    ],
)
def test_boundaries_that_are_none_are_refused(kind: str) -> None:
    with pytest.raises(MalformedMultipart, match="no boundary"):
        read(b"", kind)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "does not begin"),
        (b"preamble\r\n" + part() + b"--xyz--", "does not begin"),
        (part(), "last boundary is missing"),
        (part() + b"--xy", "last boundary is missing"),
        (b"--xyz", "not followed by a line end"),
        (b"--xyz-", "not followed by a line end"),
        (b"--xyzz\r\n", "not followed by a line end"),
        (part() + b"--xyzz\r\n", "not followed by a line end"),
        (b"--xyz\r\n\r\nx\r\n--xyz--", "no headers"),
        (b"--xyz\r\n--xyz--", "no headers"),
        (b'--xyz\r\nContent-Disposition: form-data; name="image"\r\nx\r\n--xyz--', "no headers"),
        (part(headers=f"X: {'y' * MAX_HEADER_BYTES}\r\n") + b"--xyz--", "more than 4096 bytes"),
        (part(headers="no header\r\n") + b"--xyz--", "line among its headers"),
        (b"--xyz\r\nContent-Type: image/png\r\n\r\nx\r\n--xyz--", "does not name its field"),
        (b'--xyz\r\nContent-Disposition: attachment; name="image"\r\n\r\nx\r\n--xyz--', "does not name its field"),
        (b'--xyz\r\nContent-Disposition: form-data; filename="name=x"\r\n\r\nx\r\n--xyz--', "does not name its field"),
        (part(headers='Content-Disposition: form-data; name="context"\r\n') + b"--xyz--", "names its field twice"),
        (part(headers="Content-Transfer-Encoding: base64\r\n") + b"--xyz--", "transfer encoding 'base64'"),
    ],
)
def test_what_is_not_a_form_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(MalformedMultipart, match=said):
        read(body)


def test_transfer_encodings_that_change_nothing_are_taken() -> None:
    assert read(part(headers="Content-Transfer-Encoding: binary\r\n") + b"--xyz--") == {"image": [b"..."]}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (part("more") + b"--xyz--", "field 'more'; allowed: image, context"),
        (part("context") * 2 + b"--xyz--", "context 2 times, may have it 1 times"),
        (part() * 3 + b"--xyz--", "image 3 times"),
        (part() * 1_000, "image 3 times"),
    ],
)
def test_other_fields_are_refused(body: bytes, said: str) -> None:
    with pytest.raises(WrongFields, match=said):
        read(body)


def test_damaged_bodies_are_refused_or_read_and_never_break_it() -> None:
    whole = part("image", b"\x00\xff\r\n" * 5) + part("context", b"{}") + b"--xyz--\r\n"
    rng = random.Random(3)
    for _ in range(2_000):
        body = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(body))
            body[at : at + rng.randint(0, 9)] = rng.choice([b"", b"\r\n", b"--xyz", b"--", bytes([rng.randrange(256)])])
            body = body or bytearray(b"-")
        try:
            read(bytes(body))
        except (MalformedMultipart, WrongFields):
            continue
