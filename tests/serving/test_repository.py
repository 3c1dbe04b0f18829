"""The model repository: whole at every instant, versions kept, configs that match the contracts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from contracts.bundle import BUNDLES, MODEL_NAME, SERVED_MODELS, BundleManifest, deploy, file_sha256
from contracts.errors import ArtifactError, ConfigError
from contracts.tensors import ITEM_TOWER, MODELS, USER_TOWER
from serving import repository
from serving.repository import build, check_config, config_text, read_config, versions


class _Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def make_bundle(models_dir: Path, version: str, content: str = "", bundle: str = MODEL_NAME) -> Path:
    folder = models_dir / bundle / version
    folder.mkdir(parents=True)
    for name in BUNDLES[bundle].models:
        (folder / f"{name}.onnx").write_text(f"{name} {version} {content}")
    manifest = BundleManifest(
        model=bundle,
        version=version,
        created_at="2026-01-01T00:00:00Z",
        data_version="d",
        code_version="c",
        as_of="2026-01-01T00:00:00Z",
        settings={},
        metrics={},
        files={f"{name}.onnx": file_sha256(folder / f"{name}.onnx") for name in BUNDLES[bundle].models},
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return folder


def assert_loadable(root: Path) -> None:
    """What Triton needs: every folder has a config and at least one version, every version its whole file."""
    for folder in root.iterdir() if root.is_dir() else ():
        check_config(read_config(folder / "config.pbtxt"), SERVED_MODELS[folder.name])
        assert versions(root, folder.name)
        assert {f.name for f in folder.iterdir()} == {"config.pbtxt", *map(str, versions(root, folder.name))}
        for version in versions(root, folder.name):
            assert (folder / str(version) / "model.onnx").read_text().startswith(f"{folder.name} {version} ")


@pytest.mark.parametrize("spec", SERVED_MODELS.values(), ids=lambda s: s.name)
def test_committed_config_has_the_tensors_of_the_contract(spec):
    config = read_config(repository.TEMPLATES / spec.name / "config.pbtxt")
    check_config(config, spec)
    assert config.backend == "onnxruntime"
    assert not config.HasField("dynamic_batching"), "requests were left waiting by the Python-based backend's batcher"
    assert [g.kind for g in config.instance_group] == [0], "no kind (KIND_AUTO) is right with and without a GPU"
    assert config.version_policy.HasField("all")


def test_config_that_differs_from_the_contract_is_refused():
    config = read_config(repository.TEMPLATES / "user_tower" / "config.pbtxt")
    config.input[2].dims[0] = 43
    with pytest.raises(ArtifactError, match="43"):
        check_config(config, USER_TOWER)
    with pytest.raises(ArtifactError, match="item_tower"):
        check_config(read_config(repository.TEMPLATES / "user_tower" / "config.pbtxt"), ITEM_TOWER)


def test_config_that_cannot_be_parsed_is_refused(tmp_path):
    (tmp_path / "config.pbtxt").write_text("name: {")
    with pytest.raises(ArtifactError, match="cannot read"):
        read_config(tmp_path / "config.pbtxt")


def test_config_for_tensorrt_changes_the_backend_and_nothing_of_the_tensors(tmp_path):
    (tmp_path / "config.pbtxt").write_text(config_text("user_tower", "tensorrt"))
    config = read_config(tmp_path / "config.pbtxt")
    check_config(config, USER_TOWER)
    assert (config.backend, config.default_model_filename, len(config.parameters)) == ("tensorrt", "model.plan", 0)
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert config.dynamic_batching.default_queue_policy.max_queue_size > 0


def test_build_places_versions_and_keeps_the_newest_and_the_deployed(tmp_path):
    models, root = tmp_path / "models", tmp_path / "repo"
    for number in range(1, 6):
        bundle = make_bundle(models, str(number))
        assert build(bundle, root, keep=2) == [root / name / str(number) for name in MODELS]
        if number == 1:
            deploy(models, "1")
        assert_loadable(root)
    assert versions(root, "user_tower") == versions(root, "item_tower") == [1, 4, 5]


def test_two_bundles_have_versions_of_their_own(tmp_path):
    """Adding and pruning the versions of one leaves the other's models, down to the bytes, as they are."""
    models, root = tmp_path / "models", tmp_path / "repo"
    build(make_bundle(models, "7"), root, keep=1)
    deploy(models, "7")
    for number in (1, 2, 3):
        bundle = make_bundle(models, str(number), bundle="sequence")
        assert build(bundle, root, keep=1) == [root / name / str(number) for name in ("sequence", "sequence_factors")]
        if number == 1:
            deploy(models, "1", "sequence")
        assert_loadable(root)
    assert {name: versions(root, name) for name in SERVED_MODELS} == {name: [7] if name in MODELS else [1, 3] for name in SERVED_MODELS}
    build(make_bundle(models, "8"), root, keep=1)
    assert (versions(root, "ranker"), versions(root, "sequence")) == ([7, 8], [1, 3])


def test_build_of_an_older_version_keeps_it(tmp_path):
    models, root = tmp_path / "models", tmp_path / "repo"
    for number in (3, 2, 1):
        build(make_bundle(models, str(number)), root, keep=1)
        assert number in versions(root, "user_tower")


def test_build_is_repeatable_and_leaves_the_config_alone(tmp_path):
    bundle, root = make_bundle(tmp_path / "models", "1"), tmp_path / "repo"
    build(bundle, root)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    build(bundle, root)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


def test_build_renews_a_config_that_differs(tmp_path):
    bundle, root = make_bundle(tmp_path / "models", "1"), tmp_path / "repo"
    build(bundle, root)
    (root / "user_tower" / "config.pbtxt").write_text('name: "old"')
    build(bundle, root)
    assert_loadable(root)


def test_build_copies_where_links_are_not_possible(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    build(make_bundle(tmp_path / "models", "1"), tmp_path / "repo")
    assert_loadable(tmp_path / "repo")


def test_build_refuses_another_content_under_the_same_version(tmp_path):
    build(make_bundle(tmp_path / "a", "1"), tmp_path / "repo")
    with pytest.raises(ArtifactError, match="never changes"):
        build(make_bundle(tmp_path / "b", "1", "other"), tmp_path / "repo")


@pytest.mark.parametrize("name", ["latest", "0", "01", "-1"])
def test_build_refuses_a_version_that_triton_cannot_name(tmp_path, name):
    with pytest.raises(ArtifactError, match="whole number"):
        build(make_bundle(tmp_path / "models", name), tmp_path / "repo")


def test_build_refuses_a_model_that_is_not_of_the_bundle(tmp_path):
    with pytest.raises(ConfigError, match=r"sequence is not a model of two-tower.*user_tower"):
        build(make_bundle(tmp_path / "models", "1"), tmp_path / "repo", ["sequence"])
    assert build(make_bundle(tmp_path / "models", "2"), tmp_path / "repo", ["ranker"]) == [tmp_path / "repo" / "ranker" / "2"]


def test_build_refuses_an_unknown_bundle(tmp_path):
    bundle = make_bundle(tmp_path / "models", "1")
    bundle.parent.rename(tmp_path / "models" / "churn")
    with pytest.raises(ConfigError, match=r"no bundle 'churn', must be one of two-tower, sequence"):
        build(tmp_path / "models" / "churn" / "1", tmp_path / "repo")


def test_build_refuses_a_damaged_bundle(tmp_path):
    bundle = make_bundle(tmp_path / "models", "1")
    (bundle / "user_tower.onnx").write_text("changed")
    with pytest.raises(ArtifactError, match="checksum"):
        build(bundle, tmp_path / "repo")
    assert not (tmp_path / "repo").exists()


def test_build_for_tensorrt_wants_plans_and_a_repository_of_its_own(tmp_path):
    bundle = make_bundle(tmp_path / "models", "1")
    with pytest.raises(ArtifactError, match="regulars compile"):
        build(bundle, tmp_path / "repo", target="tensorrt")
    (bundle / "engines").mkdir()
    for name in MODELS:
        (bundle / "engines" / f"{name}.plan").write_text("plan")
    build(bundle, tmp_path / "trt", target="tensorrt")
    assert (tmp_path / "trt" / "user_tower" / "1" / "model.plan").is_file()
    build(make_bundle(tmp_path / "models", "2"), tmp_path / "repo")
    with pytest.raises(ArtifactError, match="repository of its own"):
        build(bundle, tmp_path / "repo", target="tensorrt")


def test_a_crash_at_any_point_leaves_a_loadable_repository(tmp_path, monkeypatch):
    """Kill the n-th operation on the file system, for every n, then check, finish, and check again."""
    pristine, left = tmp_path / "pristine", tmp_path / "left"
    models = tmp_path / "models"
    for number in (1, 2):
        build(make_bundle(models, str(number)), pristine, keep=2)
    deploy(models, "1")
    bundle = make_bundle(models, "3")
    crashes = 0
    for start in (pristine, None):  # adding to a repository, and making one
        for n in range(1, 100):
            root = left / f"{start is None}-{n}"
            if start is not None:
                shutil.copytree(start, root)
            with monkeypatch.context() as patch:
                _kill_nth_operation(patch, n)
                try:
                    build(bundle, root, keep=1)
                    break
                except _Killed:
                    crashes += 1
            assert_loadable(root)
            build(bundle, root, keep=1)
            assert_loadable(root)
            assert versions(root, "user_tower") == versions(root, "item_tower") == ([1, 3] if start else [3])
    assert crashes > 15


def _kill_nth_operation(patch: pytest.MonkeyPatch, n: int) -> None:
    count = 0

    def counted(real: Callable) -> Callable:
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == n:
                raise _Killed
            return real(*args, **kwargs)

        return call

    for owner, name in (
        (Path, "rename"),
        (Path, "replace"),
        (Path, "write_text"),
        (Path, "mkdir"),
        (os, "link"),
        (shutil, "rmtree"),
        (repository.tempfile, "mkdtemp"),
    ):
        patch.setattr(owner, name, counted(getattr(owner, name)))
