"""The error tree."""

from __future__ import annotations

import inspect

import pytest

from contracts import errors
from contracts.errors import Overloaded, StackError

TREE = [e for _, e in inspect.getmembers(errors, inspect.isclass) if issubclass(e, StackError)]


@pytest.mark.parametrize("error", TREE, ids=lambda e: e.__name__)
def test_every_error_knows_its_answer(error: type[StackError]) -> None:
    made = error("seen. Rule. Next step.")
    assert isinstance(made, StackError)
    assert str(made) == "seen. Rule. Next step."
    assert 400 <= error.status <= 599
    assert error.title
    assert error.slug == error.slug.lower()
    assert error.exit_code in (1, 2, 3, 4)


def test_slugs_tell_errors_apart() -> None:
    assert len({e.slug for e in TREE}) == len(TREE)


@pytest.mark.parametrize(
    ("root", "statuses", "code"),
    [("ContractError", range(400, 500), 2), ("ArtifactError", range(500, 600), 3), ("UpstreamError", range(500, 600), 4)],
)
def test_a_branch_shares_its_exit_code_and_class_of_status(root: str, statuses: range, code: int) -> None:
    branch = [e for e in TREE if issubclass(e, getattr(errors, root))]
    assert branch
    assert all(e.status in statuses and e.exit_code == code for e in branch)


def test_the_drawing_names_every_error() -> None:
    drawn = errors.__doc__ or ""
    assert all(e.__name__ in drawn for e in TREE)


def test_overloaded_says_when_to_come_back() -> None:
    assert Overloaded("full").retry_after_s == 1
    assert Overloaded("full", 7).retry_after_s == 7
