"""`regulars data`."""

from __future__ import annotations

import typer

app = typer.Typer(help="Bring data in: generate, import, inspect.", no_args_is_help=True)
