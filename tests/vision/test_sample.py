"""A receipt drawn by code is read as what it says, from either of two photographs, and both are the same receipt."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from vision import sample
from vision.fingerprint import compare, fingerprint
from vision.ocr import PaddleOcr
from vision.receipt import read_receipt
from vision.types import Picture
from vision.upload import open_picture

AT = datetime(2026, 10, 14, 12, 40, tzinfo=UTC)
ITEMS = (sample.Bought("Oat Milk", Decimal("1.99")), sample.Bought("Citrus Poke Bowl", Decimal("9.50"), 2))


def test_it_is_read_as_what_it_says_and_known_again(networks, tmp_path):
    paper = sample.receipt("GREEN LEAF CORNER", AT, ITEMS)
    prints = []
    for seed in (1, 2):
        picture = open_picture(sample.save(sample.photograph(paper, seed), tmp_path / "shots" / f"{seed}.jpg").read_bytes())
        assert isinstance(picture, Picture)
        found = read_receipt(PaddleOcr(networks).read(picture.pixels), AT.date())
        assert (found.total, found.date) == (sample.total(ITEMS), AT.date())
        prints.append(fingerprint(found, picture))
    assert compare(*prints).same
    assert sample.total(ITEMS) == Decimal("22.67")
