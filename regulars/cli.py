"""`regulars`: each command is a thin door to a package."""

from __future__ import annotations

import sys

import typer
from rich.markup import escape

from contracts.errors import StackError
from regulars import asking, data, demo, doctor, evaluate, export, key, recognize, score, serve, train
from regulars.common import errors

INTERRUPTED = 130

app = typer.Typer(
    name="regulars",
    help="From a loyalty programme's events to decisions: generate or import data, train, export, serve, ask.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(data.app, name="data")
app.add_typer(train.app, name="train")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(key.app, name="key")
export.register(app)
serve.register(app)
score.register(app)
asking.register(app)
recognize.register(app)
doctor.register(app)
demo.register(app)


def main() -> None:
    """Entry point: an expected error prints one message and ends with its exit code, Ctrl-C with 130, wrong usage with 2."""
    try:
        app()
    except StackError as exc:
        errors.print(f"[bold red]{exc.title}:[/] {escape(str(exc))}", highlight=False, soft_wrap=True)
        sys.exit(exc.exit_code)
    except SystemExit as exc:
        if exc.code == INTERRUPTED:
            errors.print("Interrupted. Nothing half-written is left; run the same command again to go on.")
        raise
