"""What `regulars data generate` shows while it works."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from regulars.common import errors
from warehouse.generate import GeneratorSettings, generate_into, recorded_end
from warehouse.store import Warehouse


def run(home: Path, warehouse: Warehouse, settings: GeneratorSettings, end_given: bool) -> dict[str, Any]:
    """Generate, land and report; the progress bar and the summary go to standard error, so that `--json` stays alone on standard output.

    Without an end date a run that was started on an earlier day is gone on with, rather than refused.
    """
    if not end_given and (end := recorded_end(home, settings)):
        settings = GeneratorSettings.load(**{**settings.model_dump(), "end": end})
    start = time.perf_counter()
    landed: Counter[str] = Counter()
    new = rejected = 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors) as bar:
        task = bar.add_task(f"Generating {settings.customers * settings.businesses:,} customers", total=None)
        for report in generate_into(home, warehouse, settings, lambda done, total: bar.update(task, completed=done, total=total)):
            landed[report.table] += 0 if report.repeated else report.landed
            new += not report.repeated
            rejected += report.rejected
    facts = {
        "settings": settings.public(), "seconds": round(time.perf_counter() - start, 2), "unchanged": new == 0, "landed": dict(landed),
        "rejected": rejected, "rows": {name: t["rows"] for name, t in warehouse.info()["tables"].items() if t["rows"]},
        "data_version": warehouse.data_version(), "as_of": warehouse.as_of(settings.business_id),
    }  # fmt: skip
    _show(facts, home)
    return facts


def _show(facts: dict[str, Any], home: Path) -> None:
    if facts["unchanged"]:
        errors.print(
            f"Nothing to do: these settings were generated into {home} before. Data version {facts['data_version']}.", highlight=False
        )
        return
    table = Table("table", title="Generated")
    table.add_column("rows", justify="right")
    for name, count in facts["landed"].items():
        table.add_row(name, f"{count:,}")
    errors.print(table)
    errors.print(
        f"{facts['seconds']:.1f} s, {facts['rejected']} rows put aside, data version {facts['data_version']}, as of {facts['as_of']}",
        highlight=False,
    )
