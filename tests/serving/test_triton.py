"""The launcher with a real server: what kills it, freezes it or keeps it from starting, and that nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from contracts.bundle import BUNDLES, MODEL_NAME, BundleManifest, deploy, file_sha256
from contracts.errors import ArtifactError, ConfigError, Overloaded, UpstreamError, UpstreamTimeout
from contracts.tensors import USER_TOWER
from serving.client import BlockingTritonClient
from serving.triton import (
    SHM,
    TritonServer,
    TritonSettings,
    deployed_probe,
    find_environment,
    golden_probe,
    install_backends,
    remove_leftovers,
)

from .conftest import ROOT, toy_answer, toy_inputs, toy_probe, write_version

WAIT_S = 60.0


def left_of(server_id: str) -> list[str]:
    """Processes and shared memory that carry the id."""
    found = [f.name for f in SHM.glob(f"{server_id}-*")]
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE and any(server_id in p for p in process.cmdline()):
                found.append(" ".join(process.cmdline())[:80])
        except psutil.Error:
            continue
    return found


def eventually(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, f"not within {WAIT_S:g} s: {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    write_version(folder, "1")
    return folder


@pytest.fixture
def victim(tmp_path, repository, quick_settings) -> Iterator[TritonServer]:
    """A watched server that a test may harm."""
    server = TritonServer(quick_settings(health_timeout_s=0.5), repository, tmp_path / "run", toy_probe)
    try:
        yield server.start().watch()
    finally:
        server.stop()


def test_the_running_server_is_ours_and_answers_the_known_row(triton):
    assert triton.healthy()
    assert triton.start() is triton, "a second start changes nothing"
    assert psutil.Process(triton.pid).ppid() == os.getpid()
    assert os.getpgid(triton.pid) != os.getpgid(0), "Ctrl-C in our terminal must not reach it"
    addresses = {c.laddr.ip for c in psutil.Process(triton.pid).net_connections(kind="tcp") if c.status == psutil.CONN_LISTEN}
    assert {a.removeprefix("::ffff:") for a in addresses} == {"127.0.0.1"}
    assert len({triton.ports.http, triton.ports.grpc, triton.ports.metrics}) == 3
    assert triton.http_url.endswith(str(triton.ports.http))
    assert triton.metrics_url.endswith("/metrics")


def test_killed_then_frozen_it_comes_back_on_its_ports_and_stop_leaves_nothing(victim):
    ports, ids = victim.ports, []
    for number, harm in enumerate((signal.SIGKILL, signal.SIGSTOP), start=1):
        ids.append(victim.server_id)
        os.kill(victim.pid, harm)
        if harm is signal.SIGSTOP:
            with BlockingTritonClient(victim.url, 0.3) as client, pytest.raises(UpstreamTimeout):
                client.server_id()
        eventually(lambda n=number: victim.restarts == n, f"restart after {harm.name}")
        assert victim.ports == ports
        assert victim.healthy()
        assert left_of(ids[-1]) == []
    ids.append(victim.server_id)
    assert len(set(ids)) == 3
    assert left_of(victim.server_id) != []
    victim.stop()
    assert left_of(victim.server_id) == []
    assert not list(victim.run_dir.glob("triton.json*"))
    victim.stop()


def test_a_server_that_answers_wrongly_is_restarted(victim):
    """READY stays true; only the known row tells."""
    right = victim.probe
    asked = threading.Event()

    def wrong(client: BlockingTritonClient) -> None:
        if victim.server_id == before:
            asked.set()
            raise UpstreamError("wrong row")
        right(client)

    before = victim.server_id
    victim.probe = wrong
    eventually(lambda: victim.restarts == 1, "restart after wrong answers")
    assert asked.is_set()


def test_a_busy_server_is_not_restarted(triton, monkeypatch):
    def busy(client: BlockingTritonClient) -> None:
        raise Overloaded("queue full")

    monkeypatch.setattr(triton, "probe", busy)
    assert triton.healthy()


def test_it_dies_with_its_parent_and_the_next_start_sweeps(tmp_path, repository, quick_settings):
    quick_settings()
    script = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from serving.triton import TritonServer, TritonSettings
        server = TritonServer(TritonSettings.load(start_timeout_s=90), Path(sys.argv[1]), Path(sys.argv[2])).start()
        print(server.server_id, flush=True)
        time.sleep(600)
    """)
    run_dir = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(repository), str(run_dir)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        try:
            server_id = parent.stdout.readline().strip()
        finally:
            parent.kill()
    assert server_id.startswith(f"regulars-{parent.pid}-")
    assert json.loads((run_dir / "triton.json").read_text())["server_id"] == server_id
    eventually(lambda: not any("bin/tritonserver" in p for p in left_of(server_id)), "the server dies with its parent")
    leftover = SHM / f"{server_id}-left-by-a-killed-stub"
    leftover.write_bytes(b"x")
    with TritonServer(quick_settings(), repository, run_dir, toy_probe):
        assert left_of(server_id) == []


def test_leftovers_of_others_are_not_touched():
    mine, other = SHM / "regulars-test-aaaa-1", SHM / "regulars-test-aaaab-1"
    for file in (mine, other):
        file.write_bytes(b"x")
    try:
        remove_leftovers("regulars-test-aaaa")
        assert not mine.exists()
        assert other.exists()
    finally:
        other.unlink()


def test_one_server_per_folder(triton, quick_settings):
    second = TritonServer(quick_settings(), triton.repository, triton.run_dir)
    with pytest.raises(ConfigError, match="another model server runs"):
        second.start()
    assert triton.healthy(), "the first one is not harmed"


def test_a_taken_port_is_named(tmp_path, repository, quick_settings):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} .*REGULARS_TRITON_GRPC_PORT"):
            TritonServer(quick_settings(grpc_port=port), repository, tmp_path / "run").start()


def test_no_environment_says_make_setup(tmp_path, repository):
    settings = TritonSettings.load(environment=tmp_path / "none")
    with pytest.raises(ConfigError, match="make setup"):
        TritonServer(settings, repository, tmp_path / "run").start()


def test_an_environment_without_the_program_or_that_does_not_run_says_make_setup(tmp_path):
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.symlink_to("/bin/false")
    with pytest.raises(ConfigError, match=r"does not run.*make setup"):
        find_environment(tmp_path)
    python.unlink()
    python.symlink_to(sys.executable)
    with pytest.raises(ConfigError, match=r"is missing.*make setup"):
        find_environment(tmp_path)


def _environment_with(tmp_path: Path, program: str, quick_settings: Callable[..., TritonSettings]) -> TritonSettings:
    """The real environment with another program in the place of tritonserver."""
    real = find_environment(quick_settings().environment)
    site = tmp_path / "site"
    triton = site / "pytriton" / "tritonserver"
    (triton / "bin").mkdir(parents=True)
    for name in ("backends", "python_backend_stubs", "caches"):
        (triton / name).symlink_to(real.triton / name)
    (triton / "bin" / "tritonserver").write_text(f"#!/bin/sh\n{program}\n")
    (triton / "bin" / "tritonserver").chmod(0o755)
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f'#!/bin/sh\nif [ "$2" = "-c" ]; then echo \'["{site}", "/usr/lib", "{real.version}"]\'; else exec {sys.executable} "$@"; fi\n'
    )
    python.chmod(0o755)
    return quick_settings(environment=tmp_path / "env", start_timeout_s=1.0)


def test_a_hang_at_start_is_ended_by_the_deadline_with_the_logs_tail(tmp_path, repository, quick_settings):
    settings = _environment_with(tmp_path, "echo looking for libcudart; exec sleep 600", quick_settings)
    server = TritonServer(settings, repository, tmp_path / "run")
    with pytest.raises(UpstreamTimeout, match=r"not ready within 1 s[\s\S]*looking for libcudart"):
        server.start()
    assert left_of(server.server_id) == []
    assert server.pid is None


def test_an_end_at_start_shows_the_logs_tail(tmp_path, repository, quick_settings):
    settings = _environment_with(tmp_path, "echo no such model; exit 3", quick_settings)
    with pytest.raises(UpstreamError, match=r"ended with 3[\s\S]*no such model"):
        TritonServer(settings, repository, tmp_path / "run").start()


def test_a_model_that_cannot_be_loaded_ends_the_start(tmp_path, quick_settings):
    write_version(tmp_path / "repository", "1")
    (tmp_path / "repository" / "item_tower" / "1" / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(UpstreamError, match=r"during its start[\s\S]*item_tower"):
        TritonServer(quick_settings(), tmp_path / "repository", tmp_path / "run").start()


def test_ready_with_wrong_answers_is_not_ready(tmp_path, repository, quick_settings):
    def wrong(client: BlockingTritonClient) -> None:
        raise UpstreamError("known row differs")

    server = TritonServer(quick_settings(), repository, tmp_path / "run", wrong)
    with pytest.raises(UpstreamError, match="started, but is not right: known row differs"):
        server.start()
    assert left_of(server.server_id) == []


def test_no_repository_says_what_to_do(tmp_path, quick_settings):
    with pytest.raises(ArtifactError, match="regulars export"):
        TritonServer(quick_settings(), tmp_path / "none", tmp_path / "run").start()


def test_an_external_server_is_used_and_left_alone(triton, tmp_path):
    with TritonServer(TritonSettings.load(external_url=triton.url), tmp_path / "none", tmp_path / "run", toy_probe) as external:
        assert external.url == triton.url
        assert external.pid is None
        assert external.healthy()
        assert external.http_url == external.metrics_url == ""
    assert triton.healthy()
    assert not (tmp_path / "run").exists()


def test_an_external_server_that_is_away_is_a_timeout(tmp_path, free_port):
    settings = TritonSettings.load(external_url=f"127.0.0.1:{free_port()}", start_timeout_s=0.2)
    with pytest.raises(UpstreamTimeout, match="external server"):
        TritonServer(settings, tmp_path, tmp_path / "run").start()


def test_somebody_elses_server_on_our_port_is_noticed(triton, monkeypatch):
    monkeypatch.setattr(triton, "server_id", "regulars-another")
    assert not triton.healthy()


def test_backends_are_copied_once_and_renewed_when_changed(tmp_path, quick_settings):
    environment = find_environment(quick_settings().environment)
    folder = install_backends(environment, tmp_path / "backends")
    before = {p: p.stat().st_ino for p in folder.rglob("*") if p.is_file()}
    assert {p.name for p in before} >= {"libtriton_python.so", "triton_python_backend_stub", "triton_python_backend_utils.py", "model.py"}
    (folder / "onnxruntime" / "model.py").write_text("old")
    install_backends(environment, folder)
    changed = {p.name for p in before if p.stat().st_ino != before[p]}
    assert changed == {"model.py"}


def _golden_bundle(models: Path, version: str, scale: float, bundle: str = MODEL_NAME) -> Path:
    folder = models / bundle / version
    folder.mkdir(parents=True)
    arrays: dict[str, np.ndarray] = {}
    for spec in BUNDLES[bundle].models.values():
        inputs = {name: arrays.get(name, made) for name, made in toy_inputs(spec, 2).items()}
        arrays |= {**inputs, **{t.name: toy_answer(spec, inputs, scale, i) for i, t in enumerate(spec.outputs)}}
    np.savez(folder / "golden.npz", **arrays)
    manifest = BundleManifest(
        model=bundle, version=version, created_at="", data_version="", code_version="", as_of="", settings={}, metrics={},
        files={"golden.npz": file_sha256(folder / "golden.npz")},
    )  # fmt: skip
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return folder


def test_golden_probe_compares_and_can_fail(triton, tmp_path):
    with BlockingTritonClient(triton.url, WAIT_S) as client:
        golden_probe(_golden_bundle(tmp_path, "1", 1.0))(client)
        with pytest.raises(UpstreamError, match="off by"):
            golden_probe(_golden_bundle(tmp_path, "2", 2.5))(client)
    with pytest.raises(ArtifactError, match=r"golden\.npz"):
        golden_probe(tmp_path / MODEL_NAME / "none")
    with pytest.raises(ConfigError, match="no bundle"):
        golden_probe(tmp_path / "none" / "1")


def test_deployed_probe_moves_on_only_when_the_server_has_the_version(triton, tmp_path):
    for version, scale in (("1", 1.0), ("2", 2.0), ("99", 1.0)):
        _golden_bundle(tmp_path, version, scale)
    probe = deployed_probe(tmp_path)
    with BlockingTritonClient(triton.url, WAIT_S) as client:
        with pytest.raises(ArtifactError, match="no deployed"):
            probe(client)
        for version in ("1", "99", "2"):  # 99 is not loaded: the probe stays with the version before
            deploy(tmp_path, version)
            probe(client)
        (tmp_path / MODEL_NAME / "deployed.json").unlink()
        probe(client)
        (tmp_path / MODEL_NAME / "2" / "golden.npz").write_bytes(b"")
        probe(client)


def test_deployed_probe_compares_every_bundle_that_is_deployed(triton, tmp_path):
    """One, the other or both; what is deployed later is taken up once the server has it."""
    _golden_bundle(tmp_path, "1", 1.0)
    _golden_bundle(tmp_path, "4", 1.0, "sequence")
    _golden_bundle(tmp_path, "5", 1.0, "sequence")
    with BlockingTritonClient(triton.url, WAIT_S) as client:
        deploy(tmp_path, "4", "sequence")
        deployed_probe(tmp_path)(client)  # the sequence model alone
        with pytest.raises(ArtifactError, match="no deployed two-tower"):
            deployed_probe(tmp_path, [MODEL_NAME])(client)
        deploy(tmp_path, "1")
        deployed_probe(tmp_path)(client)
        deploy(tmp_path, "5", "sequence")  # which is not loaded
        with pytest.raises(UpstreamError, match="sequence"):
            deployed_probe(tmp_path)(client)
        started_without = deployed_probe(tmp_path, [MODEL_NAME])
        for _ in range(2):
            started_without(client)
        shutil.rmtree(tmp_path / "sequence" / "4")
        _golden_bundle(tmp_path, "4", 3.0, "sequence")
        deploy(tmp_path, "4", "sequence")  # it is loaded, and is not what the bundle says
        with pytest.raises(UpstreamError, match="sequence version 4 is off by"):
            started_without(client)


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="REGULARS_TRITON_GRPC_PORT"):
        TritonSettings.load(environ={"REGULARS_TRITON_GRCP_PORT": "1"})
    with pytest.raises(ConfigError, match="grpc_port"):
        TritonSettings.load(grpc_port=70000)
    assert USER_TOWER.max_batch_size == 256
