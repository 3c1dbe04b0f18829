"""The command line: every command documents itself, errors end with their exit code and no stack trace."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import typer

from regulars.cli import app

ROOT_COMMAND = typer.main.get_command(app)


def _commands(command: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found = [(path, command)]
    for name, child in getattr(command, "commands", {}).items():
        found += _commands(child, (*path, name))
    return found


ALL = _commands(ROOT_COMMAND)


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(p) or "regulars" for p, _ in ALL])
def test_every_command_and_option_has_help(path: tuple[str, ...], command: Any) -> None:
    assert (command.help or "").strip(), path
    for parameter in command.params:
        if isinstance(parameter, typer.core.TyperOption) and parameter.name not in ("help", "install_completion", "show_completion"):
            assert parameter.help, (path, parameter.name)


def test_the_commands_of_the_issue_are_there() -> None:
    names = {" ".join(p) for p, _ in ALL}
    assert {
        "data generate", "data import", "data info", "train recommender", "evaluate recommender", "export", "compile", "serve", "recommend",
        "key create", "doctor", "demo",
    } <= names  # fmt: skip


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "regulars", *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_an_expected_error_is_one_message_and_an_exit_code(tmp_path) -> None:
    done = _run("export", "--home", str(tmp_path))
    assert done.returncode in (2, 3)
    assert "Traceback" not in done.stderr
    assert "regulars train recommender" in done.stderr.replace("\n", " ")


def test_an_unknown_option_is_a_usage_error() -> None:
    done = _run("data", "info", "--no-such-option")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
