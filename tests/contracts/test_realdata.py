"""Data sets by name or by path."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.errors import ArtifactError
from contracts.realdata import RealdataSettings, find_set


def test_a_name_is_found_among_the_public_sets_and_a_path_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sets" / "some_set").mkdir(parents=True)
    (tmp_path / "elsewhere" / "mine").mkdir(parents=True)
    settings = RealdataSettings.load(environ={}, regulars_realdata=tmp_path / "sets")
    assert find_set("some_set", settings) == tmp_path / "sets" / "some_set"
    assert find_set(str(tmp_path / "elsewhere" / "mine"), settings) == tmp_path / "elsewhere" / "mine"
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert find_set("mine", settings).samefile(tmp_path / "elsewhere" / "mine")
    assert find_set(".", settings).samefile(tmp_path / "elsewhere")


def test_what_is_nowhere_is_refused_with_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="REGULARS_REALDATA"):
        find_set("no_such_set", RealdataSettings.load(environ={}, regulars_realdata=tmp_path))
