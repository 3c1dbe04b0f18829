"""The parts of the stack that need no running servers."""

from __future__ import annotations

from pathlib import Path

from contracts.bundle import deploy
from ray_apps.settings import ServeSettings
from ray_apps.stack import Stack
from serving import repository

from .conftest import write_sequence_bundle


def test_other_bundles_come_with_the_recommender_where_they_are_deployed_and_whole(tmp_path: Path) -> None:
    told: list[str] = []
    stack = Stack(ServeSettings.load(home=tmp_path), told.append)
    assert (stack._add_other_bundles(), told, stack.home.triton_repo.exists()) == ({}, [], False)
    folder = write_sequence_bundle(tmp_path, "1", deployed=False)
    assert stack._add_other_bundles() == {}, "there, but not deployed"
    deploy(stack.home.models, "1", "sequence")
    assert stack._add_other_bundles() == {"sequence": "1"}
    assert repository.versions(stack.home.triton_repo, "sequence_factors") == [1]
    assert told == []
    (folder / "sequence.onnx").write_bytes(b"damaged")
    assert stack._add_other_bundles() == {}
    assert len(told) == 1
    assert "without sequence" in told[0]
    assert "checksum" in told[0]
