"""Receipts from pieces of text: `read_receipt(lines, as_of) -> Receipt`."""

from vision.receipt.read import ReceiptSettings, read_receipt

__all__ = ["ReceiptSettings", "read_receipt"]
