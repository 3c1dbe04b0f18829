"""`regulars score` and `regulars at-risk`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regulars.common import DEFAULT_HOME, HomeOption, JsonOption, console, errors, print_json

if TYPE_CHECKING:
    from ray_apps.scoring.runs import Run


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    app.command()(score)


def score(
    home: HomeOption = DEFAULT_HOME,
    business: Annotated[str | None, typer.Option(help="Only the customers of this business; all businesses when not given.")] = None,
    as_of: Annotated[
        datetime | None,
        typer.Option(
            "--as-of",
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"],
            help="Moment (UTC) that the scores are about; now when not given, the newest row's time where that is over a week old.",
        ),
    ] = None,
    shards: Annotated[int | None, typer.Option(min=1, help="Parts the customers are split into; 25,000 each if not given.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Ray actors, or threads of the local engine; all cores if not given.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, max=1024, help="Customers of one call of the model; 1024 if not given.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="ray: Ray Data, which takes seconds to start. local: this process. auto (default): by size.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="Go on with this run, finished or not, and with no other.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin a new run instead of going on with an unfinished one.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Also write the run's rows to this file, for spreadsheets.")] = None,
    job: Annotated[str | None, typer.Option(help="Work on a job of POST /api/v1/predictions/batch; `regulars serve` does this.")] = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Score every customer with the deployed sequence model into the table customer_risk_scores.

    Churn in 30, 60 and 90 days, the expected date, what raises the risk most, spend until now and in the next 12 months. May be stopped at
    any moment: the same command goes on where it was, and each customer is in the table once a run. Every other setting is a variable
    REGULARS_SCORE_<NAME>.
    """
    from datetime import UTC

    from ray_apps.scoring.runner import score as score_customers
    from ray_apps.scoring.settings import ScoreSettings

    settings = ScoreSettings.load(
        home=home, business_id=business, as_of=as_of.replace(tzinfo=UTC) if as_of else None, shards=shards, workers=workers,
        batch_size=batch_size, engine=engine,
    )  # fmt: skip
    with _Bar(as_json) as bar:
        found = score_customers(settings, run=run, fresh=fresh, progress=bar)
    if as_json:
        print_json(found)
    else:
        _show(found)


class _Bar:
    """A progress bar on standard error, a `ray_apps.scoring.runner.Progress`."""

    def __init__(self, quiet: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=errors, disable=quiet, transient=True)
        self._task = self._progress.add_task("planning", total=None)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, run: Run, done: int) -> None:
        """Say which run it is."""
        self._progress.update(self._task, description=f"scoring {run.run}", total=run.customers, completed=done)

    def advance(self, customers: int) -> None:
        """Move on."""
        self._progress.advance(self._task, customers)

    def landing(self, shard: int) -> None:
        """The customers are done; their rows go into the warehouse."""
        self._progress.update(self._task, description=f"landing {shard} shards")


def _show(found: dict[str, Any]) -> None:
    from rich.table import Table

    if found["repeated"]:
        console.print(f"Run {found['run']} is finished, on the same data and as of the same moment: nothing changed. Score anew: --fresh")
    table = Table(title=f"Run {found['run']}", title_justify="left", show_header=False)
    rate = f", {found['customers_per_second']:,.0f} a second ({found['engine']})" if found["scored"] else ""
    resumed = f", {found['resumed']} done before" if found["resumed"] and not found["repeated"] else ""
    for name, value in (
        ("customers", f"{found['customers']:,}"),
        ("scored now", f"{found['scored']:,} in {found['seconds']:.1f} s{rate}"),
        ("shards", f"{found['shards']}{resumed}"),
        ("as of", found["as_of"]),
        ("model", found["version"]),
        ("risk levels", ", ".join(f"{level} {count:,}" for level, count in found["levels"].items())),
        ("CLV at risk", f"{found['clv_at_risk']:,.2f}"),
    ):
        table.add_row(f"[bold]{name}[/]", value)
    console.print(table)
