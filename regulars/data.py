"""`regulars data`: bring data in and look at it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regulars.common import DEFAULT_HOME, HomeOption, JsonOption, console, errors, print_json

if TYPE_CHECKING:
    from warehouse.store import LandingReport

app = typer.Typer(help="Bring data in: generate, import, inspect.", no_args_is_help=True)


# ---- generate ---------------------------------------------------------------------------------------------------------------


@app.command("generate")
def generate(
    customers: Annotated[int | None, typer.Option("--customers", help="Customers of each business (20,000).")] = None,
    months: Annotated[int | None, typer.Option("--months", help="Months of history (18).")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="The same seed gives the same tables (7).")] = None,
    end: Annotated[
        str | None,
        typer.Option("--end", metavar="YYYY-MM-DD", help="UTC date at which the history ends (today, or that of the run to go on with)."),
    ] = None,
    business: Annotated[str | None, typer.Option("--business", help="Business id (biz-1).")] = None,
    businesses: Annotated[int | None, typer.Option("--businesses", help="How many businesses: biz-1, biz-2, ... (1).")] = None,
    rewards: Annotated[int | None, typer.Option("--rewards", help="Rewards in the catalogue (320).")] = None,
    truth: Annotated[
        bool | None,
        typer.Option("--truth/--no-truth", help="Write the model's own probabilities under HOME/truth (yes).", show_default=False),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Generate a seeded loyalty programme. The same command again goes on where it stopped, or changes nothing."""
    from contracts.paths import Home
    from regulars.generating import run
    from warehouse.generate import GeneratorSettings
    from warehouse.store import Warehouse

    settings = GeneratorSettings.load(
        customers=customers, months=months, seed=seed, end=end, business_id=business, businesses=businesses, rewards=rewards, truth=truth
    )
    facts = run(home, Warehouse(Home(home).warehouse), settings, end_given="end" in settings.model_fields_set)
    if json:
        print_json(facts)


# ---- import -----------------------------------------------------------------------------------------------------------------


@app.command("import")
def import_(
    name: Annotated[
        str, typer.Argument(metavar="NAME_OR_MAPPING", help="Name of a built-in importer, or a YAML mapping file of your own.")
    ],
    folder: Annotated[Path, typer.Option("--from", help="Folder that holds the source files.")],
    business: Annotated[str, typer.Option("--business", help="Business id that the rows get.")] = "biz-1",
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Import a public data set by name, or your own files through a mapping. Importing the same files again changes nothing."""
    from contracts.errors import ContractError
    from contracts.paths import Home
    from warehouse.importers import import_into
    from warehouse.store import Warehouse

    warehouse = Warehouse(Home(home).warehouse)
    notes: list[str] = []
    with errors.status(f"Importing {name} from {folder} ...") as status:
        reports = import_into(
            warehouse, name, folder, business, notes=notes.append,
            on_report=lambda r: status.update(f"Importing {name}: {r.table} landed {r.landed:,} rows ..."),
        )  # fmt: skip
    if json:
        print_json({"data_version": warehouse.data_version(), "tables": [r.as_dict() for r in reports], "notes": notes})
    else:
        _print_reports(reports, notes)
    if not any(r.landed or r.duplicates for r in reports) and any(r.rejected for r in reports):
        raise ContractError(f"every row of {folder} was put aside, at least one must be good. See the reasons above and correct the files.")


def _print_reports(reports: list[LandingReport], notes: list[str]) -> None:
    from rich.table import Table

    table = Table("table", title="Landed")
    for heading in ("landed", "duplicates", "put aside"):
        table.add_column(heading, justify="right")
    table.add_column("reasons")
    for r in reports:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(r.reasons.items(), key=lambda kv: -kv[1]))
        again = "nothing changed: landed before" if r.repeated else ""
        table.add_row(r.table, f"{r.landed:,}", f"{r.duplicates:,}", f"{r.rejected:,}", "; ".join(filter(None, (again, reasons))))
    console.print(table)
    for note in notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)


# ---- info -------------------------------------------------------------------------------------------------------------------


@app.command("info")
def info(home: HomeOption = DEFAULT_HOME, json: JsonOption = False) -> None:
    """Show what the warehouse holds: rows, dates, data version, as-of time, rows put aside with the reason, size on disk."""
    from contracts.paths import Home
    from warehouse.store import Warehouse

    facts = Warehouse(Home(home).warehouse).info()
    if json:
        print_json(facts)
    elif not any(t["rows"] or t["rejected"] for t in facts["tables"].values()):
        console.print(
            f"The warehouse under {home} is empty. Fill it: regulars data generate, or regulars data import starbucks_rewards --from FOLDER"
        )
    else:
        _print_info(facts)


def _print_info(facts: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("table", title=f"Warehouse, data version {facts['data_version']}")
    for heading in ("rows", "files", "MiB", "from", "to", "put aside"):
        table.add_column(heading, justify="right")
    for name, t in facts["tables"].items():
        if t["rows"] or t["rejected"]:
            table.add_row(
                name, f"{t['rows']:,}", f"{t['files']:,}", f"{t['bytes'] / 2**20:.1f}", (t["from"] or "")[:10], (t["to"] or "")[:10],
                ", ".join(f"{reason} {count:,}" for reason, count in t["reasons"].items()) or "0",
            )  # fmt: skip
    console.print(table)
    for business, b in facts["businesses"].items():
        console.print(
            f"{business}: {b['customers']:,} customers, {b['rewards']:,} rewards, as of {b['as_of'] or 'no dated rows'}",
            highlight=False,
            markup=False,
        )
    console.print(f"As of {facts['as_of']}, {facts['bytes'] / 2**20:.1f} MiB on disk", highlight=False)
