"""Eighteen months of purchases at the web shop CDNOW (`cdnow`), the standard set for models of customer value.

Everybody in it bought for the first time in January to March 1997; the files end on 1998-06-30. Several rows of one customer and day are
one purchase, as in the published work (Fader and Hardie, 2001): a transaction is a customer's day at midnight UTC, its amount the day's
sum, its CDs the quantity of the one product `cd`. Days of amount 0 stay: something was ordered. A customer joins with the first purchase.
There are neither rewards nor events, so nothing can be recommended from it. That a customer belongs to the published 1-in-10 sample has no
place in the warehouse and is not landed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from warehouse.importers.common import Notes, arrow, opened, single

NEEDED = {"transactions": ("customer_id", "date", "cds", "amount_usd")}
_GOOD = """
    CREATE VIEW good AS SELECT CAST(customer_id AS VARCHAR) AS customer_id, CAST(date AS TIMESTAMP) AT TIME ZONE 'UTC' AS day,
        customer_id || ':' || strftime(date, '%Y%m%d') AS purchase, cds, CAST(amount_usd AS DECIMAL(18, 4)) AS amount
    FROM transactions WHERE customer_id IS NOT NULL AND date IS NOT NULL AND amount_usd IS NOT NULL
"""
_QUERIES = {
    "products": "SELECT 'cd' AS product_id, $business AS business_id, 'CD' AS name, 'music' AS category",
    "customers": """
        SELECT customer_id, $business AS business_id, min(day) AS joined_at
        FROM good GROUP BY customer_id ORDER BY joined_at, customer_id""",
    "transactions": """
        SELECT $business || ':' || purchase AS transaction_id, $business AS business_id, min(customer_id) AS customer_id,
            min(day) AS occurred_at, CAST(sum(amount) AS DECIMAL(18, 4)) AS amount, 'web' AS channel
        FROM good GROUP BY purchase ORDER BY occurred_at, purchase""",
    "transaction_items": """
        SELECT $business || ':' || purchase AS transaction_id, 'cd' AS product_id, CAST(sum(cds) AS BIGINT) AS quantity,
            CAST(sum(amount) AS DECIMAL(18, 4)) AS amount
        FROM good WHERE cds IS NOT NULL GROUP BY purchase ORDER BY purchase""",
}


def tables(folder: Path, business_id: str, notes: Notes) -> Iterator[tuple[str, pa.Table]]:
    """Read `transactions.parquet`.

    Raises:
        ArtifactError: the file is missing or cannot be read.
        ContractError: the file lacks a column.
    """
    with opened(folder, NEEDED) as connection:
        connection.execute(_GOOD)
        for table, query in _QUERIES.items():
            yield table, arrow(connection, query, business=business_id)
        rows, kept = single(connection, "SELECT count(*) FROM transactions"), single(connection, "SELECT count(*) FROM good")
        days = single(connection, "SELECT count(*) FROM (SELECT DISTINCT purchase FROM good)")
        free = single(connection, "SELECT count(*) FROM (SELECT 1 FROM good GROUP BY purchase HAVING sum(amount) = 0)")
        if kept < rows:
            notes(f"{rows - kept:,} rows left out: no customer, day or amount")
        notes(f"{kept - days:,} rows merged into another one of the same customer and day: a day is one purchase")
        notes(f"{free:,} purchases of amount 0 stay")
