"""What every command shares: the data directory option, the console, JSON output."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

HomeOption = Annotated[
    Path, typer.Option("--home", envvar="REGULARS_HOME", help="Folder that holds everything a run makes.", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, for machines.")]
DEFAULT_HOME = Path("var")

console = Console()
errors = Console(stderr=True)


def print_json(value: Any) -> None:
    """One JSON object and a newline on standard output."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS, default=str).decode() + "\n")
    sys.stdout.flush()
