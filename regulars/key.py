"""`regulars key`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regulars.common import DEFAULT_HOME, HomeOption, JsonOption, console, print_json

if TYPE_CHECKING:
    from ray_apps.store import KeyRow, OperationalStore

app = typer.Typer(help="Bearer keys of a business.", no_args_is_help=True)


@app.command("create")
def create(
    business: Annotated[str, typer.Option("--business", help="Business whose data the key opens.")],
    role: Annotated[str, typer.Option("--role", help="app, analyst, private_reader or admin; each may do what those before may.")] = "app",
    name: Annotated[str, typer.Option("--name", help="What the key is for, so that one knows which to revoke.")] = "unnamed",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it. It is printed once and cannot be shown again."""
    from ray_apps.keys import create_key

    made = _with_store(home, lambda store: create_key(store, business, role, name))
    if as_json:
        print_json({"key": made.token, **_public(made.row)})
        return
    console.print(f"Key [bold]{made.row.key_id}[/] for {business}, role {role}. Keep it now; it is not shown again:", highlight=False)
    typer.echo(made.token)


@app.command("list")
def list_keys(
    business: Annotated[str | None, typer.Option("--business", help="Only this business's keys.")] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """List keys, oldest first; their secrets are stored nowhere."""
    from rich.table import Table

    rows = _with_store(home, lambda store: store.keys(business))
    if as_json:
        print_json({"keys": [_public(row) for row in rows]})
        return
    table = Table("key", "business", "role", "name", "created", "revoked")
    for row in rows:
        revoked = f"{row.revoked_at:%Y-%m-%d %H:%M}" if row.revoked_at else ""
        table.add_row(row.key_id, row.business_id, row.role, row.name, f"{row.created_at:%Y-%m-%d %H:%M}", revoked)
    console.print(table)


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of the key, the part between rgl_ and the next underscore.")],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Revoke a key. Running servers refuse it within 30 seconds."""
    now_revoked = _with_store(home, lambda store: store.revoke_key(key_id))
    if as_json:
        print_json({"keyId": key_id, "revoked": True, "wasRevokedBefore": not now_revoked})
        return
    console.print(f"Key {key_id} {'is revoked' if now_revoked else 'was revoked before'}.", highlight=False)


def _public(row: KeyRow) -> dict[str, Any]:
    return {
        "keyId": row.key_id,
        "businessId": row.business_id,
        "role": row.role,
        "name": row.name,
        "createdAt": row.created_at.isoformat(),
        "revokedAt": row.revoked_at.isoformat() if row.revoked_at else None,
    }


def _with_store(home: Path, action: Callable[[OperationalStore], Awaitable[Any]]) -> Any:
    """Migrate the database of a home, open it, do one thing, close it."""
    import asyncio

    from ray_apps.migrations import upgrade_async
    from ray_apps.settings import ServeSettings
    from ray_apps.store import OperationalStore

    url = database_url(ServeSettings.load(home=home))

    async def run() -> Any:
        await upgrade_async(url)
        store = OperationalStore(url)
        try:
            return await action(store)
        finally:
            await store.close()

    return asyncio.run(run())


def database_url(settings: Any) -> str:
    """The operational database of the serving settings: theirs, or SQLite under their home."""
    url = settings.database_url
    if url is None:
        return str(settings.folder.database_url)
    return str(url.get_secret_value() if hasattr(url, "get_secret_value") else url)
