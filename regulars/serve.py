"""`regulars serve` and `regulars recommend`."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from contracts.errors import ContractError, StackError, UpstreamError
from regulars.common import DEFAULT_HOME, HomeOption, JsonOption, console, print_json

CHECK_S = 0.5


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    app.command()(serve)
    app.command()(recommend)


def serve(
    home: HomeOption = DEFAULT_HOME,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 when not given.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 8000 when not given, 0 picks a free one.")] = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="Serve replicas that answer.")] = None,
    business: Annotated[str | None, typer.Option(help="Business of the demo key; the warehouse's largest when not given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Serve the deployed model: Triton, Ray Serve behind HAProxy, features, events. Ctrl-C stops everything."""
    stopping = threading.Event()

    def interrupt(signum: int, frame: Any) -> None:
        if not stopping.is_set():  # once: a second Ctrl-C must not break off the stopping
            stopping.set()
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    from ray_apps.settings import ServeSettings
    from ray_apps.stack import Stack
    from ray_apps.supervisor import end_children

    settings = ServeSettings.load(home=home, host=host, port=port, replicas=replicas, business_id=business)
    _keep_log(settings.folder.run / "logs")
    stack = Stack(settings, lambda text: None if as_json else console.print(f"  {text}", style="dim", highlight=False))
    try:
        running = stack.start()
        if as_json:
            print_json(running.__dict__)
        else:
            _show(running.__dict__, home)
        while not stopping.wait(CHECK_S):
            stack.check()
    except KeyboardInterrupt:
        if not as_json:
            console.print("Stopping.")
    finally:
        stopping.set()
        stack.stop()
        end_children()  # this process is nothing but the stack's: whatever is left below it must go
    if not as_json:
        console.print("Stopped; nothing is left running.")


def _keep_log(folder: Path) -> None:
    """The parent's own log, beside those of its children."""
    import logging

    folder.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=folder / "stack.log", level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")


def _show(running: dict[str, Any], home: Path) -> None:
    from rich.table import Table

    table = Table(title=f"Serving {running['model_version']} (ready in {running['seconds']} s)", title_justify="left", show_header=False)
    triton = running["triton"]
    for name, value in (
        ("endpoints", running["url"]),
        ("routes", f"{running['url']}/docs"),
        ("metrics", f"{running['url']}/metrics"),
        ("ready", f"{running['url']}/-/readyz"),
        ("model server", f"gRPC {triton['grpc']}, metrics {triton['metrics']}"),
        ("replicas", str(running["replicas"])),
        ("business", running["business_id"]),
        ("data version", running["data_version"]),
        ("clock", f"{running['clock']}, now {running['serving_time']}"),
        ("key", running["key_file"]),
        ("logs", running["logs"]),
    ):
        table.add_row(f"[bold]{name}[/]", value)
    console.print(table)
    flag = "" if home == DEFAULT_HOME else f" --home {home}"
    console.print(
        f"Ask for a customer from another terminal:\n  .venv/bin/regulars recommend CUSTOMER{flag}\n"
        f'  curl -s {running["url"]}/api/v1/ml/recommendations -H "Authorization: Bearer $(cat {running["key_file"]})" \\\n'
        "    -H 'Content-Type: application/json' -d '{\"customerId\": \"CUSTOMER\"}'\n"
        f"A key of your own: .venv/bin/regulars key create --business {running['business_id']}{flag}. Ctrl-C stops.",
        highlight=False,
        soft_wrap=True,
    )


def recommend(
    customer: Annotated[str, typer.Argument(help="The customer to recommend rewards to.")],
    home: HomeOption = DEFAULT_HOME,
    url: Annotated[str | None, typer.Option(help="Address of the server; the one that serves this home when not given.")] = None,
    key: Annotated[str | None, typer.Option(envvar="REGULARS_KEY", help="Bearer key; the one that `serve` wrote when not given.")] = None,
    count: Annotated[int, typer.Option("--n", min=1, max=50, help="How many rewards at most.")] = 5,
    time_of_day: Annotated[str | None, typer.Option("--time-of-day", help="morning, afternoon, evening or night.")] = None,
    page: Annotated[str | None, typer.Option(help="Page or screen on which the answer is shown.")] = None,
    location: Annotated[str | None, typer.Option(help="Where the customer is.")] = None,
    device: Annotated[str | None, typer.Option(help="Kind of device, for example ios.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the running server which rewards to show to one customer."""
    import httpx

    from contracts.paths import Home

    address, token = where(Home(home).run, url, key)
    context = {"timeOfDay": time_of_day, "page": page, "location": location, "deviceType": device}
    body = {"customerId": customer, "numRecommendations": count, "context": {k: v for k, v in context.items() if v is not None}}
    try:
        answer = httpx.post(f"{address}/api/v1/ml/recommendations", json=body, headers={"Authorization": f"Bearer {token}"}, timeout=30)
    except httpx.HTTPError as exc:
        raise UpstreamError(f"no server answers at {address} ({exc}). Start it: make serve (or regulars serve)") from exc
    if answer.status_code != 200:
        raise _refused(answer)
    if as_json:
        print_json(answer.json())
    else:
        _card(answer.json(), answer.headers.get("server-timing", ""))


def where(run: Path, url: str | None, key: str | None) -> tuple[str, str]:
    """Address and key of a running stack, those of the demo where not given.

    Raises:
        UpstreamError: none runs.
        ContractError: no key is there.
    """
    from ray_apps.record import running_record

    if url is None:
        found = running_record(run)
        if found is None:
            raise UpstreamError(f"no server runs on {run.parent}. Start it: make serve (or regulars serve --home {run.parent})")
        url = str(found["url"])
    if key is None:
        try:
            key = (run / "demo.key").read_text(encoding="utf-8").strip()
        except OSError as exc:
            raise ContractError(
                f"no key given and none at {run / 'demo.key'}. Give --key or REGULARS_KEY; make one: regulars key create"
            ) from exc
    return url.rstrip("/"), key


def _refused(answer: Any) -> StackError:
    try:
        detail = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = answer.text[:200]
    kind = ContractError if 400 <= answer.status_code < 500 else UpstreamError
    return kind(f"the server answered {answer.status_code}: {detail}")


def _card(answer: dict[str, Any], timing: str) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"For {answer['customerId']}"), title_justify="left")
    table.add_column("#", justify="right")
    table.add_column("reward")
    table.add_column("chance", justify="right")
    table.add_column("why")
    for r in answer["recommendations"]:
        why = Text(r["explanation"]).append(f"\n{', '.join(r['reasoning'])}", style="dim")
        table.add_row(str(r["rank"]), Text(r["name"]).append(f"\n{r['rewardId']}", style="dim"), f"{r['score'] * 100:.1f} %", why)
    console.print(table)
    note = " [yellow]degraded: a part is down, a simpler method answered[/]" if answer["degraded"] else ""
    console.print(
        f"{answer['modelVersion']}, coverage {answer['coverage']}, {answer['latency']:.1f} ms in the server{note}", highlight=False
    )
    console.print(_stages(timing), style="dim", highlight=False)


def _stages(timing: str) -> str:
    """`auth;dur=0.1, tower;dur=2` as `auth 0.10 ms · tower 2.00 ms`."""
    pairs = [part.strip().partition(";dur=") for part in timing.split(",") if ";dur=" in part]
    return " · ".join(f"{name} {float(ms):.2f} ms" for name, _, ms in pairs)
