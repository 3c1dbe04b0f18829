"""Two years of invoices of a British gift shop (`online_retail_ii`).

The workbook's two sheets overlap for 1 to 9 December 2010: rows of `2010-2011` stay, rows of `2009-2010` only before 2010-12-01.
A line is left out, and counted in the notes by the first reason that applies: adjustment (invoice A...), cancellation (invoice C...), not a
product (postage, fees, vouchers, manual entries, tests), no customer, quantity or price not above zero.

What stays: one transaction per invoice, one item per (invoice, product), a product per stock code, and, as the shop has no rewards, one
`free_item` reward per product, whose purchase is a `redemption`. Cancelled invoices do not become transactions of negative amount: a row of
`transactions` is a purchase, and counting a return as one would make recency and frequency wrong. Amounts are therefore gross of returns.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa

from warehouse.importers.common import Notes, arrow, opened

NEEDED = {
    "transactions": ("invoice", "stock_code", "description", "quantity", "invoice_time", "unit_price", "customer_id", "country", "sheet"),
}
CUT = "2010-12-01"
PRODUCT_CODE = "^([0-9]{5}[A-Z]*|DCGS[0-9A-Z]+|PADS|SP[0-9]+)$"
MIN_CATEGORY_PRODUCTS = 15
OTHER = "other"

# Words that end a name without saying what the thing is.
_QUALIFIERS = frozenset((
    "RED", "BLUE", "GREEN", "PINK", "WHITE", "BLACK", "CREAM", "IVORY", "PURPLE", "YELLOW", "ORANGE", "GOLD", "SILVER", "BROWN",
    "GREY", "LILAC", "TURQUOISE", "NATURAL", "CLEAR", "LARGE", "SMALL", "MEDIUM", "BIG", "MINI", "DESIGN", "DESIGNS", "ASSORTED",
    "ASST", "COLOURS", "COLOUR", "PIECE", "PIECES", "SET", "PACK", "OF", "IN", "THE", "AND", "WITH", "FOR", "RETROSPOT",
    "POLKADOT", "SPOT", "VINTAGE", "CM", "SPACEBOY", "PAISLEY", "FLOCK", "CHRISTMAS", "GARDEN", "GIRL", "ROSE", "GIFT",
))  # fmt: skip
_COUNT_SUFFIX = re.compile(r"[\s,]*(\bIN\s+)?\b(SET|PACK|BOX|ASSTD?|S)\b\s*(OF|/)\s*\d+\s*$")

_LINES = f"""
    CREATE TABLE lines AS
    SELECT invoice, upper(trim(stock_code)) AS product_id, trim(description) AS description, quantity,
        invoice_time AT TIME ZONE 'UTC' AS invoiced_at,
        unit_price, CAST(customer_id AS VARCHAR) AS customer_id, CAST(country AS VARCHAR) AS country,
        CAST(CAST(unit_price AS DECIMAL(18, 4)) * quantity AS DECIMAL(18, 4)) AS amount,
        CASE WHEN sheet = '2009-2010' AND invoice_time >= TIMESTAMP '{CUT}' THEN 'in both sheets'
            WHEN upper(invoice) LIKE 'A%' THEN 'adjustment'
            WHEN upper(invoice) LIKE 'C%' THEN 'cancellation'
            WHEN stock_code IS NULL OR NOT regexp_matches(upper(trim(stock_code)), '{PRODUCT_CODE}') THEN 'not a product'
            WHEN customer_id IS NULL THEN 'no customer'
            WHEN quantity IS NULL OR unit_price IS NULL OR NOT (quantity > 0 AND unit_price > 0) THEN 'quantity or price not above zero'
        END AS left_out
    FROM transactions
"""  # noqa: S608 - built from constants
_GOOD = "CREATE VIEW good AS SELECT * FROM lines WHERE left_out IS NULL"
_PRODUCTS = """
    WITH named AS (
        SELECT product_id, description, count(*) AS uses FROM good
        WHERE description IS NOT NULL AND description NOT IN ('', 'nan') GROUP BY ALL
    ), best AS (
        SELECT product_id, first(description ORDER BY uses DESC, description) AS name FROM named GROUP BY product_id
    ), priced AS (
        SELECT product_id, CAST(median(unit_price) AS DECIMAL(18, 4)) AS price FROM good GROUP BY product_id
    )
    SELECT product_id, coalesce(name, product_id) AS name, price FROM priced LEFT JOIN best USING (product_id) ORDER BY product_id
"""
_QUERIES = {
    "products": "SELECT product_id, $business AS business_id, name, category, price FROM catalogue ORDER BY product_id",
    "rewards": """
        SELECT 'rew-' || product_id AS reward_id, $business AS business_id, name, category, 'free_item' AS reward_type, price AS face_value,
            format('{} ({})', name, category) AS description
        FROM catalogue ORDER BY product_id""",
    "customers": """
        SELECT customer_id, $business AS business_id, min(invoiced_at) AS joined_at, last(country ORDER BY invoiced_at, country) AS location
        FROM good GROUP BY customer_id ORDER BY customer_id""",
    "transactions": """
        SELECT $business || ':' || invoice AS transaction_id, $business AS business_id, min(customer_id) AS customer_id,
            min(invoiced_at) AS occurred_at, CAST(sum(amount) AS DECIMAL(18, 4)) AS amount, 'web' AS channel
        FROM good GROUP BY invoice ORDER BY occurred_at, invoice""",
    "transaction_items": """
        SELECT $business || ':' || invoice AS transaction_id, product_id, CAST(sum(quantity) AS BIGINT) AS quantity,
            CAST(sum(amount) AS DECIMAL(18, 4)) AS amount
        FROM good GROUP BY invoice, product_id ORDER BY invoice, product_id""",
    "events": """
        SELECT $business || ':' || invoice || ':' || product_id AS event_id, $business AS business_id, min(customer_id) AS customer_id,
            min(invoiced_at) AS occurred_at, 'redemption' AS event_type, 'rew-' || product_id AS reward_id, 'web' AS channel,
            CAST(sum(amount) AS DOUBLE) AS value
        FROM good GROUP BY invoice, product_id ORDER BY occurred_at, invoice, product_id""",
}


def tables(folder: Path, business_id: str, notes: Notes) -> Iterator[tuple[str, pa.Table]]:
    """Read `transactions.parquet`.

    Raises:
        ArtifactError: the file is missing or cannot be read.
        ContractError: the file lacks a column.
    """
    with opened(folder, NEEDED) as connection:
        connection.execute(_LINES)
        connection.execute(_GOOD)
        _build_catalogue(connection)
        for table, query in _QUERIES.items():
            yield table, arrow(connection, query, business=business_id)
        _report(connection, notes)


def head_nouns(names: list[str], least: int = MIN_CATEGORY_PRODUCTS) -> list[str]:
    """A rough category for each product name: lower case, what the thing is, as far as that can be told from the words alone.

    The last word that is not a colour, size or the like is a name's head. Heads that `least` names share are the categories; a name gets
    its last word that is one, else `other`.
    """
    words = [_words(name) for name in names]
    heads = Counter(w[-1] for w in words if w)
    frequent = {head for head, count in heads.items() if count >= least}
    return [next((w for w in reversed(ws) if w in frequent), OTHER) for ws in words]


def _words(name: str) -> list[str]:
    """Words that may say what a thing is, singular, lower case."""
    found = re.findall(r"[A-Z][A-Z'-]+", _COUNT_SUFFIX.sub("", name.upper()))
    return [_singular(w.lower()) for w in found if w not in _QUALIFIERS]


def _singular(word: str) -> str:
    if word.endswith(("xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us")) else word


def _build_catalogue(connection: duckdb.DuckDBPyConnection) -> None:
    products = arrow(connection, _PRODUCTS)
    catalogue = products.append_column("category", pa.array(head_nouns(products["name"].to_pylist()), pa.string()))
    connection.register("catalogue", catalogue)


def _report(connection: duckdb.DuckDBPyConnection, notes: Notes) -> None:
    for reason, count in connection.execute(
        "SELECT left_out, count(*) FROM lines WHERE left_out IS NOT NULL GROUP BY left_out ORDER BY count(*) DESC"
    ).fetchall():
        notes(f"{count:,} lines left out: {reason}")
    notes("cancelled invoices are not landed: amounts are gross of returns")
