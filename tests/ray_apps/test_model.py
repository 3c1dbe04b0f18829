"""A bundle that cannot be served is refused when it is loaded or checked, not when a customer asks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from contracts.bundle import MODEL_NAME, file_sha256
from contracts.errors import ArtifactError, UpstreamError
from contracts.paths import Home
from contracts.tensors import MODELS
from ray_apps.deployments.model import check_model, check_tower, load


def sign(folder: Path) -> None:
    """Make the manifest's checksums those of the files as they are."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"] = {name: file_sha256(folder / name) for name in manifest["files"]}
    path.write_text(json.dumps(manifest))


def drop_a_tensor(path: Path) -> None:
    with np.load(path) as file:
        rest = {name: file[name] for name in file.files if name != "logits"}
    np.savez(path, allow_pickle=False, **rest)


@pytest.mark.parametrize("harm", [drop_a_tensor, lambda path: path.write_bytes(b"no archive")], ids=["a tensor is missing", "no archive"])
def test_a_bundle_without_known_rows_is_refused(home: Path, harm: Callable[[Path], object]) -> None:
    folder = home / "models" / MODEL_NAME / "1"
    assert load(Home(home), "1").name == "two-tower/1"  # the control
    harm(folder / "golden.npz")
    with pytest.raises(ArtifactError, match="checksum"):
        load(Home(home), "1")
    sign(folder)
    with pytest.raises(ArtifactError, match=r"cannot read .*golden\.npz"):
        load(Home(home), "1")


async def test_every_model_is_compared_to_its_known_row(api) -> None:
    served = api.service.models.current
    for spec in MODELS.values():
        await check_model(api.tower, served, spec)
    await check_tower(api.tower, served)
    infer = api.tower.infer

    async def wrong(spec, inputs, version="", deadline_s=None):
        await asyncio.sleep(0)
        return {name: value + 0.01 for name, value in (await infer(spec, inputs, version)).items()}

    api.tower.infer = wrong
    for spec in MODELS.values():
        with pytest.raises(UpstreamError, match=f"{spec.name} 1 is off by 0.0"):
            await check_model(api.tower, served, spec)


async def test_a_model_that_answers_no_number_is_off(api) -> None:
    served, infer = api.service.models.current, api.tower.infer

    async def nothing(spec, inputs, version="", deadline_s=None):
        return {name: np.full_like(value, np.nan) for name, value in (await infer(spec, inputs, version)).items()}

    api.tower.infer = nothing
    with pytest.raises(UpstreamError, match="is off by"):
        await check_tower(api.tower, served)
