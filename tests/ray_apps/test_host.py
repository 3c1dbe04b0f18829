"""Ray's environment, and the program that stands in for HAProxy."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from contracts.errors import UpstreamError
from ray_apps.host import PROXY, UNAVAILABLE, free_ports, haproxy_wrapper, ray_environment
from ray_apps.record import running_record
from ray_apps.supervisor import RayHost, short_folder

CONFIG = """global
    stats socket {run}/admin.sock
defaults
    mode http
    errorfile 503 /elsewhere/500.http
frontend prometheus
    bind :{metrics}
frontend http_frontend
    bind 127.0.0.1:8000
listen stats
  bind *:{stats}
"""


def test_wrapper_moves_every_listener_to_loopback_and_answers_503(tmp_path: Path) -> None:
    environment = ray_environment(tmp_path, {"PATH": "/usr/bin:/bin"})
    wrapper = haproxy_wrapper(tmp_path, environment)
    config = tmp_path / "haproxy.cfg"
    ports = {"metrics": environment["RAY_SERVE_HAPROXY_METRICS_PORT"], "stats": environment["RAY_SERVE_HAPROXY_STATS_PORT"]}
    config.write_text(CONFIG.format(run=tmp_path, **ports))
    wrapper.write_text(wrapper.read_text().replace('exec "', 'echo "'))
    for _ in range(2):  # Ray may start it again over the same file
        done = subprocess.run([wrapper, "-db", "-f", config], capture_output=True, text=True, check=True)
    lines = [line.strip() for line in config.read_text().splitlines()]
    assert [line for line in lines if line.startswith("bind")] == [
        f"bind 127.0.0.1:{ports['metrics']}", "bind 127.0.0.1:8000", f"bind 127.0.0.1:{ports['stats']}",
    ]  # fmt: skip
    files = {int(line.split()[1]): Path(line.split()[2]) for line in lines if line.startswith("errorfile")}
    assert set(files) == set(UNAVAILABLE)
    for file in files.values():
        head, _, body = file.read_bytes().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in head
        assert f"Content-Length: {len(body)}".encode() in head
    assert done.stdout.split()[1:] == ["-db", "-f", str(config)]


def test_each_run_has_ports_and_a_token_of_its_own(tmp_path: Path) -> None:
    one, two = (ray_environment(tmp_path / n, {"KEPT": "yes"}) for n in "ab")
    assert one["KEPT"] == "yes"
    assert one["RAY_AUTH_MODE"] == "token"
    assert one["RAY_AUTH_TOKEN"] != two["RAY_AUTH_TOKEN"]
    assert one["RAY_SERVE_HAPROXY_SOCKET_PATH"] == str(tmp_path / "a" / PROXY / "admin.sock")
    assert len(set(free_ports(20))) == 20


def test_socket_paths_stay_short() -> None:
    assert short_folder("/tmp") == "/tmp"
    assert short_folder("/var/folders/zz/zyxvpxvq6csfxvn_n0000000000000/T") == "/tmp"


def test_ray_process_that_was_not_started_says_so(tmp_path: Path) -> None:
    host = RayHost(tmp_path)
    with pytest.raises(UpstreamError, match="does not run"):
        host.deploy({})
    with pytest.raises(UpstreamError, match="ended with None"):
        host.wait_for("serve", 0.1)
    host.stop()
    assert not host.run.exists()


def test_record_of_a_dead_stack_is_none(tmp_path: Path) -> None:
    assert running_record(tmp_path) is None
    for text in ("{", "[]", '{"pid": "x"}', '{"pid": 999999999}'):
        (tmp_path / "serve.json").write_text(text)
        assert running_record(tmp_path) is None
