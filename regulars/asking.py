"""`regulars ask`: a question in plain English, its answer in the terminal; or a file of questions, answered a line each."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regulars.common import DEFAULT_HOME, HomeOption, JsonOption, console, errors, print_json

if TYPE_CHECKING:
    from nlq.execute import Engine
    from nlq.pipeline import Answer, Asker
    from nlq.translate import ModelTranslator

SHOWN_ROWS = 40
_BLOCKS = " ▏▎▍▌▋▊▉█"
_HEIGHTS = "▁▂▃▄▅▆▇█"
_BAR_CELLS, _SPARK_FROM, _SPARK_CELLS = 24, 9, 72


def register(app: typer.Typer) -> None:
    """Add the command of this file to the command line."""
    app.command("ask")(ask)


def ask(
    question: Annotated[str | None, typer.Argument(help="The question, in quotes.")] = None,
    business: Annotated[str | None, typer.Option(help="Whose data; the business with the most customers when not given.")] = None,
    warehouse: Annotated[
        Path | None,
        typer.Option(help="Warehouse folder, folder of <table>.parquet or .csv files, or .duckdb file; HOME/warehouse if not given."),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    batch: Annotated[Path | None, typer.Option(help='File of {"q": "..."} a line; prints one JSON object a line, in order.')] = None,
    sql: Annotated[bool, typer.Option("--sql", help="Also show the SQL.")] = False,
    chart: Annotated[Path | None, typer.Option(help="Write the chart to this file: .png, or .json for its Vega-Lite form.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the rows to this file, for spreadsheets.")] = None,
    currency: Annotated[str | None, typer.Option(metavar="CODE", help="ISO code of the money, as USD; no sign without it.")] = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Ask about the loyalty programme in plain English.

    Answers with a sentence, a table and a small chart, or says that it cannot. The data is only read. Bounds of a query are variables
    REGULARS_ASK_<NAME>.
    """
    from contracts.errors import ContractError
    from contracts.paths import Home
    from nlq.execute import AskSettings, Engine
    from nlq.pipeline import Asker, Limits

    if (question is None) == (batch is None):
        raise ContractError("give either a question or --batch FILE: regulars ask \"how many gold members are there?\"")  # fmt: skip
    if chart is not None and chart.suffix not in (".png", ".json"):
        raise ContractError(f"--chart is {chart}, must end in .png or .json. Rename it.")
    settings = AskSettings.load()
    lines = _lines(batch) if batch is not None else []
    with Engine(warehouse or Home(home).warehouse, settings) as engine:
        whose = _business(engine, business)
        limits = Limits(rows=settings.row_limit, suggestions=0 if batch is not None else 3)
        asker = Asker(_translator(engine, home), engine, limits=limits, currency=currency)
        if batch is not None:
            _answer_all(asker, whose, lines)
            return
        answer = asker.ask(question or "", whose)
    _write(answer, chart, csv)
    if as_json:
        print_json(as_dict(answer))
    else:
        _show(answer, sql, currency)


def _translator(engine: Engine, home: Path) -> ModelTranslator:
    """The model of this home, or the one that comes with the product, in this process."""
    from nlq.translate import model_in, open_translator

    return open_translator(engine, folder=model_in(home))


def _business(engine: Engine, asked: str | None) -> str:
    from contracts.errors import ArtifactError, UnknownItem

    found = engine.businesses()
    if not found:
        raise ArtifactError(f"{engine.root} holds no business's rows. Bring data in: regulars data generate")
    if asked is not None:
        if asked not in found:
            raise UnknownItem(f"no business {asked!r} in {engine.root}, there are {', '.join(found)}. Take one with --business.")
        return asked
    return (
        found[0] if len(found) == 1 else max(found, key=lambda b: engine.run("SELECT count(*) FROM customers", b).data[0][0])
    )  # the first of equals


# ---- a file of questions ----------------------------------------------------------------------------------------------------


def _lines(path: Path) -> list[str]:
    from contracts.errors import ConfigError

    try:
        return path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}. Give a file of questions with --batch.") from exc


def _answer_all(asker: Asker, business: str, lines: list[str]) -> None:
    """One JSON object for each line that is not empty; whatever happens to one question, the next is answered."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    wanted = [line for line in lines if line.strip()]
    columns = (TextColumn("answering"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    refused = 0
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("answering", total=len(wanted))
        for found in answers(asker, business, wanted):
            refused += found["refused"]
            print_json(found)
            progress.advance(task)
    errors.print(f"{len(wanted):,} questions, {refused:,} refused", highlight=False)


def answers(asker: Asker, business: str, lines: list[str]) -> Iterator[dict[str, Any]]:
    """{q, refused, reason, sql, columns, rows, confidence, ms} for each line; a line that is no question is refused with `bad_line`."""
    from contracts.errors import StackError, UpstreamTimeout

    for line in lines:
        start = time.perf_counter()
        question = _question(line)
        if question is None:
            yield _line(None, "bad_line", start)
            continue
        try:
            answer = asker.ask(question, business)
        except UpstreamTimeout:
            yield _line(question, "timeout", start)
        except StackError as exc:
            errors.print(f"{question!r}: {exc}", markup=False, highlight=False, soft_wrap=True)
            yield _line(question, "unavailable", start)
        else:
            yield _line(question, answer.reason, start, answer)


def _question(line: str) -> str | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    question = found.get("q") if isinstance(found, dict) else None
    return question if isinstance(question, str) else None


def _line(question: str | None, reason: str | None, start: float, answer: Answer | None = None) -> dict[str, Any]:
    from ray_apps.question_files import json_value

    rows = answer.rows if answer is not None else None
    return {
        "q": question,
        "refused": answer is None or answer.refused,
        "reason": reason,
        "sql": answer.executed_sql if answer is not None else None,
        "columns": list(rows.columns) if rows is not None else [],
        "rows": [json_value(row) for row in rows.data] if rows is not None else [],
        "confidence": round(answer.confidence, 4) if answer is not None else 0.0,
        "ms": round((time.perf_counter() - start) * 1e3, 1),
    }


def as_dict(answer: Answer) -> dict[str, Any]:
    """An answer as JSON has it; `sql` is the reading, `executed_sql` what ran."""
    from ray_apps.question_files import json_value

    rows = answer.rows
    return {
        "q": answer.question, "business_id": answer.business_id,
        "refused": answer.refused, "reason": answer.reason, "message": answer.message,
        "interpretation": answer.interpretation, "answer": answer.sentence, "sql": answer.sql, "executed_sql": answer.executed_sql,
        "columns": [{"name": c.name, "kind": c.kind} for c in answer.columns],
        "rows": [json_value(row) for row in rows.data] if rows is not None else [], "truncated": rows is not None and rows.truncated,
        "chart": answer.chart, "related": list(answer.related), "confidence": round(answer.confidence, 4), "source": answer.source,
        "ms": dict(answer.ms),
    }  # fmt: skip


# ---- files ------------------------------------------------------------------------------------------------------------------


def _write(answer: Answer, chart: Path | None, csv: Path | None) -> None:
    if csv is not None:
        if answer.rows is None:
            errors.print(f"No rows, so {csv} is not written.", highlight=False)
        else:
            from ray_apps.question_files import to_csv

            _file(csv, to_csv(answer.rows), "--csv")
    if chart is not None:
        if answer.chart is None:
            errors.print(f"No chart suits this answer, so {chart} is not written.", highlight=False)
        elif chart.suffix == ".json":
            _file(chart, json.dumps(answer.chart, ensure_ascii=False, indent=1).encode(), "--chart")
        else:
            from nlq.chart import png

            _file(chart, png(answer.chart), "--chart")


def _file(path: Path, content: bytes, option: str) -> None:
    from contracts.errors import ConfigError

    try:
        path.write_bytes(content)
    except OSError as exc:
        raise ConfigError(f"cannot write {path}: {exc.strerror}. Give another file with {option}.") from exc


# ---- the terminal -----------------------------------------------------------------------------------------------------------


def _show(answer: Answer, sql: bool, currency: str | None) -> None:
    from rich.text import Text

    if answer.refused:
        console.print(Text(answer.message or "", style="bold"))
    else:
        console.print(Text(answer.sentence or "", style="bold"))
        _table(answer, currency)
    if sql and answer.sql:
        console.print(Text(f"\n{pretty(answer.sql)}", style="cyan"))
    if answer.related:
        console.print(Text("\nYou may ask:" if answer.refused else "\nRelated:", style="dim"))
        for question in answer.related:
            console.print(Text(f"  {question}", style="dim"))
    total = answer.ms.get("total", 0.0)
    if not answer.refused:
        kind = "from a correction" if answer.source == "correction" else f"confidence {answer.confidence:.0%}"
        console.print(Text(f"\n{answer.business_id}, {kind}, {total:,.0f} ms", style="dim"))


def _table(answer: Answer, currency: str | None) -> None:
    """The rows, with a bar beside the quantity that matters, or a line of blocks where they are a series in time."""
    from rich.table import Table
    from rich.text import Text

    from nlq.columns import MEASURES, grain_of, period, shape_of, shown
    from nlq.types import Translation

    if answer.rows is None or len(answer.rows.data) * len(answer.rows.columns) <= 1:
        return
    shape = shape_of(Translation(answer.question, False, sql=answer.sql, columns=answer.columns), answer.rows)
    spark, bars = drawn(shape)
    table = Table(padding=(0, 1, 0, 0), box=None, header_style="bold")
    for name, kind in zip(shape.names, shape.kinds, strict=True):
        table.add_column(Text(name), justify="right" if kind in MEASURES else "left", overflow="fold")
    if bars:
        table.add_column("", no_wrap=True)
    moments = {t: shape.moments(t) for t in shape.times}
    grains = {t: grain_of(found, shape.names[t]) for t, found in moments.items() if found}
    for number, row in enumerate(shape.rows.data[:SHOWN_ROWS]):
        cells = [
            Text(period((moments[i] or [])[number], grains[i]) if i in grains else shown(value, shape.kinds[i], currency, shape.names[i]))
            for i, value in enumerate(row)
        ]
        table.add_row(*cells, *([Text(bars[number], style="blue")] if bars else []))
    console.print(table)
    if len(shape.rows.data) > SHOWN_ROWS:
        console.print(Text(f"... and {len(shape.rows.data) - SHOWN_ROWS:,} more rows; all of them: --csv FILE or --json", style="dim"))
    if spark:
        console.print(Text(f"\n{spark}", style="blue"))


def drawn(shape: Any) -> tuple[str, list[str]]:
    """(a line of blocks over time, a bar a row); either is empty where it would say nothing."""
    rows = shape.rows.data
    if not shape.measures or len(rows) < 2 or len(shape.labels) + len(shape.times) == 0:
        return "", []
    values = [row[shape.measure] for row in rows]
    known = [float(v) for v in values if v is not None]
    if not known or min(known) < 0 or max(known) == 0:
        return "", []
    if len(shape.times) == 1 and not shape.labels and len(rows) >= _SPARK_FROM:
        moments = shape.moments(shape.times[0])
        if moments is not None and len(set(moments)) == len(moments):
            in_time = [v for _, v in sorted(zip(moments, values, strict=True), key=lambda pair: pair[0])]
            return sparkline([0.0 if v is None else float(v) for v in in_time]), []
    return "", [bar(float(v or 0) / max(known)) for v in values]


def bar(share: float, cells: int = _BAR_CELLS) -> str:
    """A bar of at most so many cells, to an eighth of a cell; at least an eighth where there is anything at all."""
    eighths = max(round(share * cells * 8), 1 if share > 0 else 0)
    return "█" * (eighths // 8) + _BLOCKS[eighths % 8].strip()


def sparkline(values: list[float], cells: int = _SPARK_CELLS) -> str:
    """One block a value, from zero up; of more values than cells, the mean of neighbours."""
    if len(values) > cells:
        edges = [round(i * len(values) / cells) for i in range(cells + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    top = max(values, default=0.0)
    return "".join(_HEIGHTS[min(7, int(v / top * 8))] if top > 0 else _HEIGHTS[0] for v in values)


def pretty(sql: str) -> str:
    """SQL in lines; as it is where it cannot be read."""
    import sqlglot
    from sqlglot.errors import SqlglotError

    try:
        return sqlglot.parse_one(sql, read="duckdb").sql(dialect="duckdb", pretty=True)
    except SqlglotError:
        return sql
