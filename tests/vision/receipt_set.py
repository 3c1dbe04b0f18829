"""Sets of receipts in the format that `regulars evaluate receipts` takes, drawn by code."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from .drawn import font, receipt

PAGES = {
    "a": (
        "GREEN LEAF BAKERY LTD",
        "14 Harbour Street",
        "Date: 23/08/2021 17:45",
        "Rye bread      4.85",
        "Oat milk       1.99",
        "TOTAL GBP      6.84",
    ),
    "b": (
        "COPPER KETTLE LTD",
        "2 High Street",
        "Date: 14/02/2022 09:10",
        "Earl Grey      4.50",
        "Shortbread     3.25",
        "TOTAL GBP      7.75",
    ),
}
KEYS = {
    "a": {"company": "Green Leaf Bakery Ltd", "date": "23/08/2021", "total": "6.84"},
    "b": {"company": "COPPER KETTLE LTD", "date": "14 FEB 2022", "total": "GBP 7.75"},
}
MARGIN, SIZE = 40, 20


def write_set(folder: Path, boxes: bool = True, **changes: dict[str, str | None]) -> Path:
    """Two receipts; `changes` are other annotations by id."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for name, lines in PAGES.items():
        pixels = receipt(lines, SIZE, margin=MARGIN)
        Image.fromarray(pixels).save(folder / "images" / f"{name}.jpg", quality=95)
        pitch = int(SIZE * 1.9)
        for number, text in enumerate(lines):
            y = MARGIN + number * pitch
            rows.append(
                {"receipt_id": name, "x_min": float(MARGIN), "y_min": y + 2.0, "x_max": MARGIN + font(SIZE).getlength(text),
                 "y_max": y + SIZE + 4.0, "text": text.upper()}
            )  # fmt: skip
    pq.write_table(pa.Table.from_pylist([{"receipt_id": k, **v, **changes.get(k, {})} for k, v in KEYS.items()]), folder / "keys.parquet")
    if boxes:
        pq.write_table(pa.Table.from_pylist(rows), folder / "text_boxes.parquet")
    return folder
