"""`regulars key`."""

from __future__ import annotations

import typer

app = typer.Typer(help="Bearer keys of a business.", no_args_is_help=True)
