"""`python -m nlq.corpus.check WAREHOUSE [FILE.tsv ...]`: do the phrases of the bank link, lower and run on real rows?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import duckdb
import numpy as np

from contracts.errors import StackError
from nlq.corpus.bank import FOLDER, expand, read
from nlq.link import Catalog, Linker
from nlq.lower import lower
from nlq.program import parse
from nlq.vocabulary import TABLES, fields
from warehouse.store import Warehouse


def open_business(root: Path, business: str) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with the rows of one business."""
    source = Warehouse(root).connect()
    target = duckdb.connect()
    target.execute("SET TimeZone='UTC'")
    for name in TABLES:
        where = (
            "transaction_id IN (SELECT transaction_id FROM transactions WHERE business_id = $b)"
            if name == "transaction_items"
            else "business_id = $b"
        )
        query = f"SELECT * FROM {name} WHERE {where}"  # noqa: S608 - our own names
        target.register("incoming", source.sql(query, params={"b": business}).to_arrow_table())
        target.execute(f"CREATE TABLE {name} AS SELECT * FROM incoming")  # noqa: S608 - our own names
        target.unregister("incoming")
    return target


def values_of(connection: duckdb.DuckDBPyConnection) -> dict[str, list[str]]:
    """Distinct values by column, for placeholders."""
    found = {}
    for token, f in fields().items():
        if f.open:
            query = f'SELECT DISTINCT "{f.name}" FROM "{f.table}" WHERE "{f.name}" IS NOT NULL ORDER BY 1 LIMIT 3000'  # noqa: S608 - our names
            rows = connection.execute(query).fetchall()
            found[token] = [str(r[0]) for r in rows]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("warehouse", type=Path, help="folder of a warehouse with all ten tables")
    parser.add_argument("files", nargs="*", help="names of files in nlq/corpus/phrases; all when none")
    parser.add_argument("--times", type=int, default=4, help="expansions of each line")
    parser.add_argument("--show", action="store_true", help="print a question, its reading and the first row of each line")
    args = parser.parse_args()
    connection = open_business(args.warehouse, "biz-1")
    as_of = Warehouse(args.warehouse).as_of("biz-1")
    catalog = Catalog.read(connection, "biz-1", as_of)
    linker, values, rng = Linker(catalog), values_of(connection), np.random.default_rng(0)
    names = {Path(f).name for f in args.files}
    lines = [line for line in read(FOLDER) if not names or line.where.split(":")[0] in names]
    bad = empty = 0
    for line in lines:
        rows = 0
        for _ in range(args.times):
            question = expand(line, values, rng)
            linked = linker.link(question)
            try:
                program = parse(line.program, linked.slots())
                if program.kind == "refuse":
                    rows += 1
                    continue
                lowered = lower(program, linked, as_of)
                result = connection.execute(lowered.sql).fetchmany(3)
                rows += len(result)
            except (StackError, duckdb.Error, AssertionError, KeyError, IndexError) as exc:
                bad += 1
                sys.stdout.write(f"BAD {line.where} {question!r}\n    linked {linked.text!r}\n    {type(exc).__name__}: {str(exc)[:300]}\n")
                break
        else:
            if args.show and program.kind != "refuse":
                sys.stdout.write(f"{line.where} {question}\n    {lowered.interpretation}\n    {result[:1]}\n")
            if rows == 0:
                empty += 1
                sys.stdout.write(f"EMPTY {line.where} {question!r}\n")
    sys.stdout.write(f"{len(lines)} lines, {bad} bad, {empty} never gave a row\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
