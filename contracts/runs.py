"""What long runs have in common: whose folder it is, Ctrl-C at the next step, progress."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from contracts.errors import ConfigError


def claim(folder: Path, values: Mapping[str, Any]) -> None:
    """Write down what a run folder is made with, so that it is not gone on with by something else.

    Args:
        values: settings, and whatever else decides what comes out.

    Raises:
        ConfigError: the folder holds a run with other values.
    """
    file = folder / "settings.json"
    mine = json.dumps(values, indent=1, sort_keys=True)
    if file.is_file() and file.read_text(encoding="utf-8") != mine:
        raise ConfigError(f"{folder} holds a run with other settings or data. Take them again, or start anew with --fresh.")
    file.write_text(mine, encoding="utf-8")


def bar(console: Console) -> Progress:
    """A bar that counts steps and tells the time left."""
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console)


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """The first Ctrl-C asks the run to stop at the next step; the second one is an ordinary one."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
