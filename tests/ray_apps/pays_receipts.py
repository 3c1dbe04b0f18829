"""A process that sends one receipt as soon as it is told to, and says what was decided.

`python -m tests.ray_apps.pays_receipts URL RECOGNITION_ID CUSTOMER`
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, date, datetime
from decimal import Decimal

from ray_apps.pictures import PictureStore, RecognitionRow
from ray_apps.store import OperationalStore
from vision.fingerprint import fingerprint
from vision.fraud import PointsSettings, judge
from vision.types import Receipt, TextLine

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def purchase(number: int = 1, *, day: date = date(2026, 11, 18), misread: bool = False) -> Receipt:
    """A receipt that was read surely; `misread`: as another photograph of it might be, with lines lost and digits wrong."""
    total = Decimal(f"{10 + number}.40")
    texts = [
        "CORNER CAFE",
        f"INVOICE 88{number:05d}31",
        f"{day.day:02d}/{day.month:02d}/{day.year} {8 + number % 12:02d}:{number * 7 % 60:02d}",
        f"ITEM {number + 3}.15",
        f"ITEM {number * 3 + 2}.25",
        f"CASH {20 + number * 2}.00",
        f"TILL 4711{number:04d}",
        f"TOTAL {total}",
    ]
    if misread:
        texts = [t for t in texts if not t.startswith("CASH")]
        texts[1] = texts[1][:-1] + "7"
    quad = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
    sure = {"merchant": 0.97, "date": 0.99, "total": 0.99}
    lines = [TextLine(quad, text, 0.99) for text in texts]
    return Receipt(merchant="Corner Cafe", date=day, total=total, currency="EUR", confidences=sure, reconciled=True, lines=lines)


async def main(url: str, recognition_id: str, customer_id: str) -> None:
    """Opens the store, waits for a line on the standard input, sends."""
    store = OperationalStore(url)
    receipt, rules = purchase(), PointsSettings()
    record = RecognitionRow(recognition_id, "biz-1", customer_id, NOW, "receipt", recognition_id, "ocr/1", {}, 1.0)
    await store.ping()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    decided = await PictureStore(store).award_receipt(
        record, receipt, fingerprint(receipt), lambda recent, earlier: judge(receipt, NOW, recent, earlier, rules)
    )
    sys.stdout.write(f"{decided.decision} {decided.points}\n")
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
