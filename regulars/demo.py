"""`regulars demo`: the whole chain on a generated programme, in one command, with the time that each step took."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.table import Table

from contracts.errors import ArtifactError, UpstreamError
from contracts.paths import Home
from regulars.common import DEFAULT_HOME, HomeOption, console

START_TIMEOUT_S = 600.0  # of a machine that does much else at the same time
STOP_TIMEOUT_S = 60.0
INTERRUPTED = 130
EXAMPLES = 40_000  # half of the training default: a minute less, for about 0.01 of NDCG@10
SAMPLES = 24_000  # of the sequence model, a third of its default, with the prior that the generator's history chooses


QUESTIONS = ("Which 5 customers spent the most last month?", "What is the redemption rate by reward category this year?")


@dataclass
class Step:
    """One line of the demo's closing table."""

    name: str
    what: str
    seconds: float


def register(app: typer.Typer) -> None:
    """Add `demo` to the command line."""
    app.command()(demo)


def demo(
    home: HomeOption = DEFAULT_HOME,
    customers: Annotated[int, typer.Option(min=100, help="How many customers to generate.")] = 20_000,
    months: Annotated[int, typer.Option(min=3, max=60, help="How many months of history.")] = 18,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 7,
    epochs: Annotated[int | None, typer.Option(min=1, help="Training epochs; the training default when not given.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train again although a trained model is there.")] = False,
    port: Annotated[int, typer.Option(help="Port of the endpoints; 0 picks a free one.")] = 0,
) -> None:
    """Generate a programme, train, export, score, ask, read a receipt, serve, recommend, pay points once; then stop. Takes minutes."""
    steps: list[Step] = []
    paths = Home(home)
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def step(name: str, what: str, act: Callable[[], Any]) -> Any:
        console.rule(f"[bold]{name}[/] {what}", align="left")
        started = time.perf_counter()
        result = act()
        steps.append(Step(name, what, time.perf_counter() - started))
        return result

    size = ["--customers", str(customers), "--months", str(months), "--seed", str(seed)]
    if _holds_own_data(paths):
        console.print(f"There is history of your own under [bold]{paths.warehouse}[/]: used as it is.")
    else:
        step("generate", f"{customers:,} customers, {months} months of events", lambda: _run(home, "data", "generate", *size))
    if fresh or not _has_model(paths):
        more = ["--max-examples", str(EXAMPLES), *(["--epochs", str(epochs)] if epochs else [])]
        step(
            "train",
            "two-tower recommender and ranker, measured against popularity",
            lambda: _run(home, "train", "recommender", "--seed", str(seed), *more),
        )
        few = ["--max-samples", str(SAMPLES), "--epochs", "4", "--prior", "on"]
        step(
            "train",
            "churn and lifetime value: an LSTM over weeks, calibrated",
            lambda: _run(home, "train", "sequence", "--seed", str(seed), *few),
        )
        step("export", "PyTorch → ONNX → Triton, parity checked at each hop", lambda: _run(home, "export"))
    else:
        console.print(f"There is a trained model under [bold]{paths.models}[/] already: used as it is (--fresh trains anew).")
    step("score", "churn and 12 months of spend of everyone, into customer_risk_scores", lambda: _run(home, "score"))
    step(
        "at risk",
        "who may be lost, and what that is worth",
        lambda: _run(home, "at-risk", "--n", "5", "--level", "MEDIUM", "--level", "HIGH", "--level", "CRITICAL"),
    )
    for question in QUESTIONS:
        step("ask", question, partial(_run, home, "ask", question))
    photos = _photos(paths, seed)
    step(
        "recognize",
        "a receipt, drawn and photographed by code",
        lambda: _run(
            home, "recognize", str(photos[0]), "--kind", "receipt", "--products", str(home), "--annotate", str(photos[0].parent / "seen")
        ),
    )
    server = step("serve", "Triton and Ray Serve, until the first answer", lambda: _start(home, port))
    try:
        for title, customer in _three_customers(paths):
            step("recommend", f"{title} ({customer})", partial(_run, home, "recommend", customer))
        step("points", "for that receipt, and for another photograph of it", lambda: _send(paths, photos, _three_customers(paths)[0][1]))
    finally:
        step("stop", "every process this started", lambda: _stop(server))
    _summary(steps, home)


def _holds_own_data(paths: Home) -> bool:
    """Whether rewards were imported; what the generator made it may go on with, or find complete."""
    from warehouse.store import Warehouse

    if not paths.warehouse.is_dir() or (paths.root / "generated").is_dir():
        return False
    with Warehouse(paths.warehouse).connect() as db:
        row = db.execute("SELECT count(*) FROM rewards").fetchone()
        return bool(row and row[0])


def _has_model(paths: Home) -> bool:
    """Whether everything that is served has a deployed version."""
    from contracts.bundle import BUNDLES, deployed_version, read_manifest

    try:
        for name in BUNDLES:
            read_manifest(paths.models / name / deployed_version(paths.models, name))
    except ArtifactError:
        return False
    return True


def _child(home: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A command of ours in a session of its own: Ctrl-C reaches it once, through us."""
    return subprocess.Popen([sys.executable, "-m", "regulars", *arguments, "--home", str(home)], start_new_session=True)


def _run(home: Path, *arguments: str) -> None:
    process = _child(home, *arguments)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        _stop(process)  # gets the time to leave a checkpoint
        raise
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise typer.Exit(code)


def _start(home: Path, port: int) -> subprocess.Popen[bytes]:
    record = Home(home).run / "serve.json"
    record.unlink(missing_ok=True)
    process = _child(home, "serve", "--port", str(port))
    deadline = time.monotonic() + START_TIMEOUT_S
    try:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise typer.Exit(process.returncode or 1)
            if record.is_file() and orjson.loads(record.read_bytes()).get("ready"):
                return process
            time.sleep(0.2)
    except KeyboardInterrupt:
        _stop(process)
        raise
    _stop(process)
    raise UpstreamError(
        f"the stack was not ready within {START_TIMEOUT_S:.0f} s. Look into {record.parent} for its logs, then run it alone: regulars serve"
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _three_customers(paths: Home) -> list[tuple[str, str]]:
    """A regular, a newcomer and one that nobody has seen."""
    from warehouse.store import Warehouse

    regular = """
        SELECT customer_id FROM events WHERE event_type = 'redemption' GROUP BY customer_id ORDER BY count(*) DESC, customer_id
        LIMIT 1 OFFSET 100"""
    newcomer = """
        WITH acts AS (SELECT business_id, customer_id FROM events UNION ALL SELECT business_id, customer_id FROM transactions)
        SELECT customer_id FROM customers JOIN acts USING (business_id, customer_id)
        GROUP BY customer_id, joined_at HAVING count(*) BETWEEN 2 AND 4 ORDER BY joined_at DESC, customer_id LIMIT 1"""
    found: list[tuple[str, str]] = []
    with Warehouse(paths.warehouse).connect() as db:
        for title, query in (("a regular", regular), ("a newcomer", newcomer)):
            row = db.execute(query).fetchone()
            if row:
                found.append((title, str(row[0])))
    return [*found, ("somebody unknown", "cust-from-nowhere")]


def _photos(paths: Home, seed: int) -> list[Path]:
    """Two photographs of one receipt over three of the programme's products."""
    from vision import sample
    from warehouse.store import Warehouse

    store = Warehouse(paths.warehouse)
    with store.connect() as db:
        rows = db.execute("SELECT DISTINCT name, price FROM products ORDER BY name LIMIT 400").fetchall()
    rows = [r for r in rows if r[1]][:: max(1, len(rows) // 3)][:3] or [("Rye bread", "4.85"), ("Oat milk", "1.99")]
    items = [sample.Bought(str(name), Decimal(str(price)).quantize(Decimal("0.01")), 1 + n % 2) for n, (name, price) in enumerate(rows)]
    paper = sample.receipt("GREEN LEAF CORNER", store.as_of(), items)
    folder = paths.root / "demo"
    return [sample.save(sample.photograph(paper, seed + n), folder / f"receipt-{n + 1}.jpg") for n in range(2)]


def _send(paths: Home, photos: list[Path], customer: str) -> None:
    """Hand photographs in for a customer and say what became of each.

    Raises:
        UpstreamError: the stack did not answer as it should.
    """
    import httpx

    from regulars.serve import where

    url, key = where(paths.run, None, None)
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=120) as client:
        for photo in photos:
            answer = client.post(
                "/api/v1/ml/image-recognition",
                files={"image": (photo.name, photo.read_bytes(), "image/jpeg")},
                data={"context": orjson.dumps({"customerId": customer}).decode()},
            )
            if answer.status_code != 200:
                raise UpstreamError(f"{photo.name} was answered with {answer.status_code}: {answer.text[:300]}. Look into {paths.run}")
            found = answer.json()
            why = "; ".join(flag["reason"] for flag in found.get("flags", []))
            points = (found.get("reward") or {}).get("points", 0)
            console.print(f"{photo.name}: [bold]{found.get('status')}[/], {points} points. {why}", highlight=False)


def _summary(steps: list[Step], home: Path) -> None:
    table = Table(title="What happened", title_justify="left")
    table.add_column("step")
    table.add_column("what")
    table.add_column("seconds", justify="right")
    for s in steps:
        table.add_row(s.name, s.what, f"{s.seconds:.1f}")
    table.add_row("[bold]total[/]", "", f"[bold]{sum(s.seconds for s in steps):.1f}[/]")
    console.print(table)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024**2
    console.print(f"Largest process: {peak:.1f} GiB. Everything lies under [bold]{home}[/].")
    flag = "" if os.fspath(home) == os.fspath(DEFAULT_HOME) else f" --home {home}"
    console.print(
        "\n[bold]Next[/]\n"
        "  make serve                                   keep it running, then from another terminal:\n"
        f"  .venv/bin/regulars recommend cust-000042{flag}    ask for a customer\n"
        "  open the /docs page that `make serve` prints  every route, with examples to try\n"
        f"  .venv/bin/regulars recognize PHOTO{flag}         read a receipt, know a product\n"
        f"  .venv/bin/regulars at-risk{flag}                 who may be lost, and what that is worth\n"
        "  .venv/bin/regulars doctor                    what is installed, what a GPU would add\n"
        "  make bench                                   against FastAPI + eager torch + NumPy"
    )
