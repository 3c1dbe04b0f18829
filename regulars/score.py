"""`regulars score` and `regulars at-risk`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regulars.common import DEFAULT_HOME, HomeOption, JsonOption, console, errors, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray_apps.at_risk import Page
    from ray_apps.scoring.runs import Run
    from ray_apps.scoring.settings import ScoreSettings


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    app.command()(score)
    app.command("at-risk")(at_risk)


def score(
    home: HomeOption = DEFAULT_HOME,
    business: Annotated[str | None, typer.Option(help="Only the customers of this business; all businesses when not given.")] = None,
    as_of: Annotated[
        datetime | None,
        typer.Option(
            "--as-of",
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"],
            help="Moment (UTC) that the scores are about; now if not given, the end of the history where that is over a week old.",
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
    if job is not None:
        found = _work(settings, job)
    else:
        with _Bar(as_json) as bar:
            found = score_customers(settings, run=run, fresh=fresh, progress=bar)
    if csv is not None:
        _write(csv, home, found["run"])
    if as_json:
        print_json(found)
    else:
        _show(found)


def _work(settings: ScoreSettings, job: str) -> dict[str, Any]:
    from ray_apps.scoring.jobs import work
    from ray_apps.settings import ServeSettings

    served = ServeSettings.load(home=settings.home)
    return work(settings, served.database_url or served.folder.database_url, job)


def _write(path: Path, home: Path, run: str) -> None:
    from ray_apps.at_risk import run_csv
    from ray_apps.scoring.runs import read_run

    _write_pieces(path, run_csv(home, read_run(home, run)))


def _write_pieces(path: Path, pieces: Iterator[bytes]) -> None:
    from contracts.errors import ConfigError

    try:
        with path.open("wb") as file:
            for piece in pieces:
                file.write(piece)
    except OSError as exc:
        raise ConfigError(f"cannot write {path}: {exc.strerror}. Give another file with --csv.") from exc


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


def at_risk(
    home: HomeOption = DEFAULT_HOME,
    business: Annotated[str | None, typer.Option(help="Whose customers; the business with the most when not given.")] = None,
    level: Annotated[
        list[str] | None, typer.Option(help="LOW, MEDIUM, HIGH or CRITICAL; may be given again. HIGH and CRITICAL when not given.")
    ] = None,
    days: Annotated[int | None, typer.Option(min=0, help="Only those expected to leave within so many days.")] = None,
    segment: Annotated[str | None, typer.Option(help="A segment's id, or a CLV segment (LOW, MEDIUM, HIGH, VERY_HIGH).")] = None,
    churned: Annotated[bool, typer.Option("--churned", help="Also those silent for so long that they count as gone.")] = False,
    count: Annotated[int, typer.Option("--n", min=1, max=10_000, help="How many customers to show at most.")] = 20,
    csv: Annotated[Path | None, typer.Option(help="Write all of them to this file instead, for spreadsheets.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show who may be lost, by what that would cost: churn in 90 days times the value of the next 12 months.

    From the newest finished scoring; make one with: regulars score.
    """
    from contracts.errors import ContractError
    from contracts.tables import RISK_LEVELS
    from ray_apps.at_risk import AT_RISK, AtRisk, Wanted

    levels = tuple(name.upper() for name in level or AT_RISK)
    wrong = [name for name in levels if name not in RISK_LEVELS]
    if wrong:
        raise ContractError(f"--level is {', '.join(wrong)}, must be one of {', '.join(RISK_LEVELS)}.")
    wanted = Wanted(levels, days, segment, churned)
    report = AtRisk(home)
    whose = business or _largest(home)
    if csv is not None:
        _write_pieces(csv, report.csv(whose, wanted))
        return
    page = report.page(whose, wanted, count)
    report.close()
    if as_json:
        totals = {"total": page.totals.total, "clv_at_risk": page.totals.clv_at_risk, "levels": page.totals.levels}
        print_json({"business_id": whose, "run": page.run.run, **totals, "customers": page.rows})
    else:
        _list(whose, page)


def _largest(home: Path) -> str:
    from contracts.errors import ArtifactError
    from contracts.paths import Home
    from warehouse.store import Warehouse

    found = Warehouse(Home(home).warehouse).info()["businesses"]
    if not found:
        raise ArtifactError(f"the warehouse of {home} is empty. Bring data in, train and score: regulars data generate")
    return str(max(found, key=lambda b: (found[b]["customers"], b)))


def _list(business: str, page: Page) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"At risk in {business}, as of {page.run.as_of:%Y-%m-%d}", title_justify="left", padding=(0, 0, 0, 1))
    for name, right in (("customer", False), ("90 days", True), ("level", False), ("gone by", False), ("why", False),
                        ("a year", True), ("at risk", True)):  # fmt: skip
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for row in page.rows:
        table.add_row(
            Text(row["customer_id"]), f"{row['churn_90'] * 100:.0f} %", row["risk_level"],
            str(row["predicted_churn_date"]), row["top_factor"] or "",
            f"{row['predicted_clv']:,.2f}", f"{row['clv_at_risk']:,.2f}",
        )  # fmt: skip
    console.print(table)
    levels = ", ".join(f"{name} {number:,}" for name, number in page.totals.levels.items())
    console.print(
        f"{page.totals.total:,} customers, {page.totals.clv_at_risk:,.2f} at risk in all; by level: {levels}. Run {page.run.run}",
        highlight=False,
    )
