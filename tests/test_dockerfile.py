"""Dockerfile.gpu, as far as it can be held without building it: stages, users, health checks, sources, nothing secret."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
JOBS, SERVERS = ("train", "compile"), ("triton", "endpoints")


def stages() -> dict[str, list[tuple[str, str]]]:
    """Instructions (name, rest) of each stage by its name; continued lines joined."""
    text = "\n".join(line for line in (ROOT / "Dockerfile.gpu").read_text().splitlines() if not line.startswith("#"))
    found: dict[str, list[tuple[str, str]]] = {"": []}
    current = ""
    for line in filter(None, (part.strip() for part in text.replace("\\\n", "").splitlines())):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            current = rest.split(" AS ")[1]
            found[current] = []
        found[current].append((name, rest.strip()))
    return found


def of(stage: str, instruction: str) -> list[str]:
    return [rest for name, rest in stages()[stage] if name == instruction]


def test_stages_are_those_of_the_processes():
    assert [s for s in stages() if s] == ["base", "train", "compile", "triton", "endpoints"]
    assert {name for parts in stages().values() for name, _ in parts} <= {
        "ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "CMD",
    }  # fmt: skip


@pytest.mark.parametrize("stage", [*JOBS, *SERVERS])
def test_no_process_is_root(stage):
    assert of(stage, "USER") == ["1000:1000"]
    after = [name for name, _ in stages()[stage]]
    assert "RUN" not in after[after.index("USER") :], "nothing is built as that user"


@pytest.mark.parametrize("stage", SERVERS)
def test_servers_have_a_health_check(stage):
    (check,) = of(stage, "HEALTHCHECK")
    assert re.match(r"--interval=\d+s --timeout=\d+s --start-period=\d+s --retries=\d+ +CMD \[", check)


@pytest.mark.parametrize("stage", JOBS)
def test_jobs_say_that_they_have_none(stage):
    assert of(stage, "HEALTHCHECK") == ["NONE"]


@pytest.mark.parametrize("stage", [*JOBS, *SERVERS])
def test_commands_are_in_exec_form(stage):
    (command,) = of(stage, "CMD")
    assert isinstance(json.loads(command), list)


def test_every_source_exists_and_is_let_through_to_the_builder():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for stage in stages() for rest in of(stage, "COPY") if "--from" not in rest for source in rest.split()[:-1]}
    assert [s for s in copied if not (ROOT / s).exists()] == []
    assert copied == allowed


def test_every_package_of_ours_is_copied():
    """The packages that the command line needs; a new one must be added here too."""
    copied = {s for rest in of("base", "COPY") for s in rest.split()[:-1]}
    packages = {p.parent.name for p in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks", "build"}
    assert packages <= copied


def test_versions_are_pinned_and_engine_and_server_are_of_one_release():
    images = [rest.split(" AS ")[0] for stage in stages() for rest in of(stage, "FROM") if rest.split(" AS ")[0] not in stages()]
    assert all(":" in image and not image.endswith("latest") for image in images)
    assert sum("${NGC_RELEASE}" in image for image in images) == 2
    assert of("", "ARG")[0].startswith("NGC_RELEASE=")
    installs = [rest for stage in stages() for rest in of(stage, "RUN") if "pip install" in rest]
    assert installs
    assert all("-c constraints.txt" in rest for rest in installs)


def test_nothing_secret_is_built_in():
    for stage in stages():
        for rest in [*of(stage, "ENV"), *of(stage, "ARG")]:
            assert not re.search(r"(?i)secret|token|passw|api_?key", rest)


def test_settings_that_are_set_exist(monkeypatch):
    from ray_apps.settings import ServeSettings
    from serving.triton import TritonSettings

    variables = dict(pair.split("=", 1) for pair in of("endpoints", "ENV")[0].split())
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert TritonSettings.load().external_url == "triton:8001"
    assert ServeSettings.load().port == 8000


def test_the_model_server_loads_every_model_of_its_repository(tmp_path):
    """Its command, run with a stand-in for the program that prints what it was given."""
    program = tmp_path / "tritonserver"
    program.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    program.chmod(0o755)
    for model in ("sequence", "user_tower"):
        (tmp_path / "a repository" / model).mkdir(parents=True)
        (tmp_path / "a repository" / model / "config.pbtxt").touch()
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "REGULARS_TRITON_REPOSITORY": str(tmp_path / "a repository")}
    (command,) = of("triton", "CMD")
    given = subprocess.run(json.loads(command), env=environment, capture_output=True, check=True, text=True).stdout.splitlines()
    assert [g for g in given if "model=" in g] == ["--load-model=sequence", "--load-model=user_tower"]
    assert f"--model-repository={tmp_path / 'a repository'}" in given


def test_shell_commands_parse():
    for stage in stages():
        for rest in [*of(stage, "RUN"), *(json.loads(c)[2] for c in of(stage, "CMD") if json.loads(c)[0] == "sh")]:
            assert subprocess.run(["sh", "-n", "-c", rest], capture_output=True, check=False).returncode == 0, rest
