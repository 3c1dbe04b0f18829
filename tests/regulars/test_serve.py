"""`regulars serve` and `regulars recommend` where no server can run."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from contracts.errors import ArtifactError, ConfigError, ContractError, UpstreamError
from ray_apps.settings import ServeSettings
from ray_apps.stack import Stack, _first_answer, _first_business, _public_port
from regulars import cli
from regulars.serve import _refused, _stages
from warehouse.store import Warehouse


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["regulars", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_recommend_without_a_server_says_how_to_start_one(monkeypatch, capsys, tmp_path: Path) -> None:
    assert run(monkeypatch, "recommend", "cust-1", "--home", str(tmp_path)) == 4
    assert "make serve" in " ".join(capsys.readouterr().err.split())


def test_recommend_of_an_address_where_nobody_listens(monkeypatch, capsys, tmp_path: Path, free_port) -> None:
    assert run(monkeypatch, "recommend", "c", "--home", str(tmp_path), "--key", "k", "--url", f"http://127.0.0.1:{free_port()}") == 4
    assert "make serve" in " ".join(capsys.readouterr().err.split())


def test_recommend_without_a_key_says_how_to_make_one(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.delenv("REGULARS_KEY", raising=False)
    assert run(monkeypatch, "recommend", "c", "--home", str(tmp_path), "--url", "http://127.0.0.1:1") == 2
    assert "key create" in " ".join(capsys.readouterr().err.split())


def test_serve_without_a_model_says_how_to_make_one(tmp_path: Path) -> None:
    stack = Stack(ServeSettings(home=tmp_path))
    with pytest.raises(ArtifactError, match="regulars train"):
        stack.start()
    stack.stop()
    assert not (tmp_path / "run" / "serve.json").exists()


def test_one_stack_per_home(tmp_path: Path) -> None:
    first, second = Stack(ServeSettings(home=tmp_path)), Stack(ServeSettings(home=tmp_path))
    first._lock_home()
    with pytest.raises(ConfigError, match="already runs"):
        second.start()
    second.stop()
    first.stop()
    second._lock_home()
    second.stop()


def test_check_of_a_stack_that_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(UpstreamError, match="Ray process ended"):
        Stack(ServeSettings(home=tmp_path)).check()


def test_taken_port_and_foreign_address_are_refused(free_port) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="another --port"):
            _public_port("127.0.0.1", taken.getsockname()[1])
    port = free_port()
    assert _public_port("127.0.0.1", port) == port
    assert _public_port("127.0.0.1", 0) > 0


def test_warehouse_without_rewards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="data generate"):
        _first_business(Warehouse(tmp_path))


def test_waiting_for_a_first_answer_ends(free_port) -> None:
    with pytest.raises(UpstreamError, match="gave no recommendation"):
        _first_answer("127.0.0.1", free_port(), "key", 0.3)


def test_refusals_become_errors_with_the_servers_words() -> None:
    assert isinstance(_refused(httpx.Response(422, json={"detail": "correct it"})), ContractError)
    found = _refused(httpx.Response(503, text="<html>"))
    assert isinstance(found, UpstreamError)
    assert "503" in str(found)


def test_server_timing_is_readable() -> None:
    assert _stages("auth;dur=0.1, total;dur=2.345") == "auth 0.10 ms · total 2.35 ms"
