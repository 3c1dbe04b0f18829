"""The same receipt is found again; a different one, however alike, is left alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from contracts.errors import ArtifactError
from vision.augment import View, Wear, rephotograph, view
from vision.fingerprint import (
    MIN_INLIERS,
    MIN_LIKE,
    VERSION,
    Fingerprint,
    Known,
    agreeing,
    compare,
    fingerprint,
    keys,
)
from vision.types import Picture, Receipt, TextLine

GOODS = ("FLAT WHITE", "CHEESE BAGEL", "ORANGE JUICE", "OAT COOKIE", "GREEN TEA", "TOMATO SOUP", "APPLE PIE", "MINERAL WATER")
FONT = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf")


@dataclass(frozen=True)
class Slip:
    """A receipt of one chain: the head is the same for all."""

    day: date
    clock: str
    number: int
    bought: tuple[tuple[str, int], ...]

    @property
    def total(self) -> int:
        return sum(cents for _, cents in self.bought)

    def texts(self) -> list[str]:
        return [
            "CORNER CAFE LTD",
            "12 HIGH STREET, 55100 TOWN",
            "TEL 03-5512 7788 GST 000115154944",
            f"DATE {self.day:%d/%m/%Y} {self.clock}",
            f"RECEIPT NO {self.number:08d}",
            *[f"{name} {cents / 100:.2f}" for name, cents in self.bought],
            f"TOTAL {self.total / 100:.2f}",
            "THANK YOU, SEE YOU AGAIN",
        ]


def slip(seed: int) -> Slip:
    rng = np.random.default_rng([11, seed])
    bought = tuple((GOODS[int(g)], int(rng.integers(150, 1_900))) for g in rng.choice(len(GOODS), int(rng.integers(4, 8)), replace=False))
    day = date(2026, 3, 1) + timedelta(int(rng.integers(0, 200)))
    return Slip(day, f"{rng.integers(8, 20):02d}:{rng.integers(0, 60):02d}", int(rng.integers(10**5, 10**8)), bought)


def read(one: Slip, mistakes: int = 0, rng: np.random.Generator | None = None) -> Receipt:
    """What a reader makes of it, with so many characters wrong."""
    texts = one.texts()
    for _ in range(mistakes):
        assert rng is not None
        n = int(rng.integers(len(texts)))
        at = int(rng.integers(len(texts[n])))
        texts[n] = texts[n][:at] + str(rng.choice(list("0123456789BOIS.,"))) + texts[n][at + 1 :]
    lines = [
        TextLine(((0.0, 20.0 * n), (300.0, 20.0 * n), (300.0, 20.0 * n + 16), (0.0, 20.0 * n + 16)), t, 0.9) for n, t in enumerate(texts)
    ]
    return Receipt("Corner Cafe Ltd", one.day, Decimal(one.total) / 100, lines=lines)


@cache
def drawn(seed: int) -> np.ndarray:
    """A picture of it, uint8 (H, W, 3)."""
    texts = slip(seed).texts()
    image = Image.new("RGB", (460, 40 + 44 * len(texts)), (238, 236, 230))
    draw, font = ImageDraw.Draw(image), ImageFont.truetype(FONT, 22)
    for n, text in enumerate(texts):
        draw.text((14, 20 + 44 * n), text, fill=(30, 30, 34), font=font)
    return np.asarray(image)


def picture(seed: int, turn: int = 0) -> Picture:
    pixels = drawn(seed)
    if turn:
        rng = np.random.default_rng([seed, turn])
        pixels = rephotograph(pixels, view(pixels.shape[1], pixels.shape[0], rng), rng)
    return Picture(pixels, f"{seed}/{turn}", "JPEG")


EMPTY = Receipt()


def test_a_receipt_read_again_with_mistakes_is_the_same() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        a, b = fingerprint(read(slip(seed), 4, rng)), fingerprint(read(slip(seed), 4, rng))
        found = compare(a, b)
        assert found.same
        assert found.by == "text"
        assert found.reasons[-1].endswith("numbers are the same")


def test_other_receipts_of_the_same_chain_are_not() -> None:
    prints = [fingerprint(read(slip(seed))) for seed in range(40)]
    assert not any(compare(a, b).same for n, a in enumerate(prints) for b in prints[:n])


def test_the_same_purchase_on_another_day_is_another_receipt() -> None:
    for seed in range(20):
        first = slip(seed)
        later = replace(first, day=first.day + timedelta(1), clock="07:41", number=first.number + 8_231)
        assert not compare(fingerprint(read(first)), fingerprint(read(later))).same


def test_an_edited_total_does_not_make_another_receipt() -> None:
    for seed in range(20):
        receipt = read(slip(seed))
        lines = [replace(line, text="TOTAL 999.99") if line.text.startswith("TOTAL") else line for line in receipt.lines]
        edited = replace(receipt, total=Decimal("999.99"), lines=lines)
        assert compare(fingerprint(receipt), fingerprint(edited)).same


def test_a_part_cut_off_does_not_make_another_receipt() -> None:
    for seed in range(20):
        receipt = read(slip(seed))
        assert compare(fingerprint(receipt), fingerprint(replace(receipt, lines=receipt.lines[2:]))).same


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 6))
def test_comparing_is_the_same_either_way_round(a: int, b: int, mistakes: int) -> None:
    rng = np.random.default_rng([a, b])
    x, y = fingerprint(read(slip(a), mistakes, rng)), fingerprint(read(slip(b), mistakes, rng))
    assert compare(x, y) == compare(y, x)


def test_the_same_file_is_the_same_whatever_was_read() -> None:
    one = picture(1)
    found = compare(fingerprint(EMPTY, one), fingerprint(read(slip(2)), one))
    assert (found.probability, found.by, found.same) == (1.0, "file", True)


def test_where_nothing_was_read_the_picture_decides() -> None:
    for seed in range(6):
        first = fingerprint(EMPTY, picture(seed))
        assert 0 < len(first.small) <= 6_500
        found = compare(first, fingerprint(EMPTY, picture(seed, 1)))
        assert found.by == "picture"
        assert found.same
        assert not compare(first, fingerprint(EMPTY, Picture(np.full((500, 300, 3), 200, np.uint8), "x", "JPEG"))).same


def test_pictures_agree_with_their_own_rephotographs_and_not_with_noise() -> None:
    rng = np.random.default_rng(5)
    noise = fingerprint(EMPTY, Picture(rng.integers(0, 255, (600, 400, 3), dtype=np.uint8), "n", "JPEG"))
    for seed in range(6):
        first = fingerprint(EMPTY, picture(seed))
        inliers, like = agreeing(first, fingerprint(EMPTY, picture(seed, 2)))
        assert inliers >= MIN_INLIERS
        assert like >= MIN_LIKE
        assert agreeing(first, noise)[0] < MIN_INLIERS


def test_two_of_which_nothing_is_known_are_not_the_same() -> None:
    found = compare(fingerprint(EMPTY), fingerprint(EMPTY))
    assert not found.same
    assert found.reasons == ()


def test_two_contradictions_outweigh_a_picture() -> None:
    a = fingerprint(Receipt(date=date(2026, 1, 1), total=Decimal(3)), picture(3))
    b = fingerprint(Receipt(date=date(2026, 1, 2), total=Decimal(4)), picture(3, 1))
    assert compare(a, b).probability == 0


def test_what_the_text_gives() -> None:
    lines = ["INV 0O12345 15/04/2O18 17:33", "2018-03-09", "RM 1,234.50 RM0.00", "55100 MILK 3.2O", "TOTAL:B.40"]
    made = fingerprint(Receipt(lines=[TextLine(((0, 0),) * 4, t, 1.0) for t in lines]))
    assert made.dates == {"150418", "180309"}
    assert made.times == {"1733"}
    assert made.amounts == {"123450", "320"}
    assert made.numbers == {"0012345", "55100"}
    assert made.words == {"MILK", "TOTAL"}


# Storing


def test_stored_and_read_again_it_is_the_same_and_small() -> None:
    one = fingerprint(read(slip(3)), picture(3))
    data = one.to_bytes()
    again = Fingerprint.from_bytes(data)
    assert again == one
    assert again.small == one.small != b""
    assert len(data) <= 8_192
    assert Fingerprint.from_bytes(Fingerprint().to_bytes()) == Fingerprint()


def test_a_total_of_thirty_digits_is_stored_as_none_at_all() -> None:
    made = fingerprint(Receipt(total=Decimal("1e25"), lines=()))
    assert made.total is None
    assert Fingerprint.from_bytes(made.to_bytes()) == made
    assert Fingerprint.from_bytes(fingerprint(Receipt(total=Decimal("9e15"))).to_bytes()).total == 9 * 10**17


def test_other_versions_and_damage_are_refused() -> None:
    data = fingerprint(read(slip(3)), picture(3)).to_bytes()
    with pytest.raises(ArtifactError, match=f"version {VERSION + 1}"):
        Fingerprint.from_bytes(bytes([VERSION + 1]) + data[1:])
    for broken in (b"", data[:3], data[:40], data[:1] + struct.pack("<I", 7) + data[5:]):
        with pytest.raises(ArtifactError, match="damaged"):
            Fingerprint.from_bytes(broken)


# Finding


def test_a_key_is_shared_by_readings_of_one_receipt() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        a, b = (keys(fingerprint(read(slip(seed), 5, rng))) for _ in range(2))
        assert set(a) & set(b)
        assert len(a) <= 30
        assert all(-(2**63) <= key < 2**63 for key in a)


def test_keys_still_meet_where_date_and_total_were_not_read() -> None:
    for seed in range(20):
        receipt = read(slip(seed))
        assert set(keys(fingerprint(receipt))) & set(keys(fingerprint(replace(receipt, date=None, total=None))))


def test_known_finds_its_own_among_many() -> None:
    known: Known[int] = Known()
    for seed in range(200):
        known.add(seed, fingerprint(read(slip(seed))))
    rng = np.random.default_rng(1)
    for seed in range(0, 200, 10):
        assert [name for name, _ in known.find(fingerprint(read(slip(seed), 3, rng)))] == [seed]
    assert known.find(fingerprint(read(slip(500)))) == []


def test_a_key_of_very_many_is_skipped() -> None:
    one = fingerprint(Receipt(date=date(2026, 1, 1), total=Decimal(5)))
    for count, found in ((3, 3), (4, 0)):
        known: Known[int] = Known(skip_above=3)
        for n in range(count):
            known.add(n, one)
        assert len(known.candidates(one)) == found


# Re-photographs


def test_a_view_moves_corners_and_keeps_most_of_the_page_in_sight() -> None:
    for seed in range(20):
        seen = view(400, 800, np.random.default_rng(seed))
        corners = np.array(seen.moved(((100, 200), (300, 200), (300, 600), (100, 600))))
        assert (corners > 0).all()
        assert (corners < (seen.width, seen.height)).all()


def test_without_wear_nothing_changes() -> None:
    none = Wear(0, 0, 0, 0, 0, 0, 0, 0, 95)
    rng = np.random.default_rng(0)
    pixels = drawn(1)
    seen = view(pixels.shape[1], pixels.shape[0], rng, none)
    again = rephotograph(pixels, seen, rng, none)
    assert again.shape == pixels.shape
    assert np.abs(again.astype(int) - pixels).mean() < 2


def test_the_same_seed_takes_the_same_picture() -> None:
    def take() -> tuple[View, np.ndarray]:
        rng = np.random.default_rng(4)
        seen = view(460, 600, rng)
        return seen, rephotograph(drawn(1), seen, rng)

    (a, x), (b, y) = take(), take()
    assert np.array_equal(a.homography, b.homography)
    assert np.array_equal(x, y)
    assert x.shape == (a.height, a.width, 3)
