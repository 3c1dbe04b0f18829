"""The text-to-SQL model beside the engines of a GPU server's repository."""

from __future__ import annotations

import pytest

from contracts.paths import Home
from nlq.translate import ARTIFACT
from regulars.export import _add_questions
from serving.triton import models_in


@pytest.mark.skipif(not (ARTIFACT / "model.json").is_file(), reason="no nlq/artifact: regulars train text-to-sql")
def test_the_repository_of_engines_gets_it_too(tmp_path):
    _add_questions(Home(tmp_path))
    assert models_in(tmp_path / "triton_repo_tensorrt") == ["text_to_sql"]


def test_without_a_model_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("nlq.translate.ARTIFACT", tmp_path / "none")
    _add_questions(Home(tmp_path))
    assert list(tmp_path.iterdir()) == []
