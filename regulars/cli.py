"""`regulars`: each command is a thin door to a package."""

from __future__ import annotations

import sys

import click
import typer

from contracts.errors import StackError
from regulars import data, demo, doctor, export, key, serve, train
from regulars.common import errors

app = typer.Typer(
    name="regulars",
    help="From a loyalty programme's events to decisions: generate or import data, train, export, serve, ask.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(data.app, name="data")
app.add_typer(train.app, name="train")
app.add_typer(key.app, name="key")
export.register(app)
serve.register(app)
doctor.register(app)
demo.register(app)


def main() -> None:
    """Entry point: an expected error prints one line and ends with its exit code, Ctrl-C with 130."""
    try:
        code = app(standalone_mode=False)
    except StackError as exc:
        errors.print(f"[bold red]{exc.title}:[/] {exc}", highlight=False, soft_wrap=True)
        sys.exit(exc.exit_code)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except (KeyboardInterrupt, click.Abort):
        errors.print("Interrupted. Nothing half-written is left; run the same command again to go on.")
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
