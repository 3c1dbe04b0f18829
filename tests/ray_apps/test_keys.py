"""Bearer keys and `regulars key`."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from contracts.errors import ContractError, Forbidden, Unauthorized, UnknownItem, UpstreamError
from ray_apps.keys import Caller, KeyRing, create_key, require, require_business, secret_hash
from ray_apps.migrations import upgrade_async
from ray_apps.settings import ServeSettings
from ray_apps.store import KeyRow, OperationalStore
from regulars import key as command


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[OperationalStore]:
    url = f"sqlite:///{tmp_path / 'regulars.db'}"
    await upgrade_async(url)
    opened = OperationalStore(url)
    yield opened
    await opened.close()


class Counting:
    """A store that counts the look-ups and may be down."""

    def __init__(self, store: OperationalStore) -> None:
        self.store, self.calls, self.down = store, 0, False

    async def key(self, key_id: str) -> KeyRow | None:
        self.calls += 1
        if self.down:
            raise UpstreamError("down")
        return await self.store.key(key_id)


async def test_a_key_opens_its_business(store: OperationalStore) -> None:
    made = await create_key(store, "biz-1", "analyst", "demo")
    assert re.fullmatch(r"rgl_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", made.token)
    ring = KeyRing(store)
    caller = Caller("biz-1", "analyst", made.row.key_id)
    assert await ring.authenticate(f"Bearer {made.token}") == caller
    assert await ring.authenticate(f"  bearer   {made.token} ") == caller


async def test_the_secret_is_stored_and_shown_nowhere(store: OperationalStore, tmp_path: Path) -> None:
    made = await create_key(store, "biz-1", "app", "demo")
    secret = made.token.split("_", 2)[2]
    assert (await store.keys())[0].hash == secret_hash(secret)
    await store.close()
    assert all(secret.encode() not in p.read_bytes() for p in tmp_path.iterdir())
    assert secret not in repr(made)


async def test_two_keys_differ(store: OperationalStore) -> None:
    tokens = {(await create_key(store, "biz-1", "app", "demo")).token for _ in range(20)}
    assert len(tokens) == 20


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Basic dTpw", "rgl_000000000000_x", "Bearer rgl_zz_x", "Bearer rgl_000000000000_" + "é" * 43,
     "Bearer rgl_000000000000_" + "x" * 44, "Bearer rgl_000000000000_" + "x" * 43 + "\n."],
)  # fmt: skip
async def test_what_is_no_key_is_refused_without_asking_the_database(header: str | None, store: OperationalStore) -> None:
    counting = Counting(store)
    with pytest.raises(Unauthorized, match="regulars key create") as seen:
        await KeyRing(counting).authenticate(header)  # type: ignore[arg-type]
    assert counting.calls == 0
    assert not header or header.partition(" ")[2] == "" or header.partition(" ")[2] not in str(seen.value)


async def test_a_wrong_secret_and_an_unknown_id_are_refused_alike(store: OperationalStore) -> None:
    made = await create_key(store, "biz-1", "app", "demo")
    ring = KeyRing(store)
    messages = []
    for token in (f"rgl_{made.row.key_id}_{'x' * 43}", f"rgl_{'0' * 12}_{'x' * 43}"):
        with pytest.raises(Unauthorized) as seen:
            await ring.authenticate(f"Bearer {token}")
        assert "xxx" not in str(seen.value)
        messages.append(str(seen.value).replace(made.row.key_id, "ID").replace("0" * 12, "ID"))
    assert messages[0] == messages[1]


async def test_a_revoked_key_stops_within_the_ttl(store: OperationalStore) -> None:
    made = await create_key(store, "biz-1", "app", "demo")
    clock, counting = Clock(), Counting(store)
    ring = KeyRing(counting, ttl_s=30, clock=clock)  # type: ignore[arg-type]
    for _ in range(3):
        await ring.authenticate(f"Bearer {made.token}")
    assert counting.calls == 1
    await store.revoke_key(made.row.key_id)
    clock.now = 29.9
    await ring.authenticate(f"Bearer {made.token}")
    clock.now = 30.0
    for _ in range(3):
        with pytest.raises(Unauthorized, match="not known or was revoked"):
            await ring.authenticate(f"Bearer {made.token}")
    assert counting.calls == 2  # bad ones are cached too
    clock.now = 60.0
    with pytest.raises(Unauthorized):
        await ring.authenticate(f"Bearer {made.token}")
    assert counting.calls == 3


async def test_a_known_key_works_while_the_database_is_down(store: OperationalStore) -> None:
    made = await create_key(store, "biz-1", "app", "demo")
    clock, counting = Clock(), Counting(store)
    ring = KeyRing(counting, clock=clock)  # type: ignore[arg-type]
    await ring.authenticate(f"Bearer {made.token}")
    counting.down = True
    await ring.authenticate(f"Bearer {made.token}")
    clock.now = 31
    with pytest.raises(UpstreamError, match="down"):
        await ring.authenticate(f"Bearer {made.token}")
    counting.down = False
    await ring.authenticate(f"Bearer {made.token}")  # the failure was not remembered


async def test_the_cache_is_bounded_and_wrong_keys_push_out_no_good_one(store: OperationalStore) -> None:
    made = await create_key(store, "biz-1", "app", "demo")
    counting = Counting(store)
    ring = KeyRing(counting, capacity=5)  # type: ignore[arg-type]
    await ring.authenticate(f"Bearer {made.token}")
    for i in range(20):
        with pytest.raises(Unauthorized):
            await ring.authenticate(f"Bearer rgl_{i:012x}_{'x' * 43}")
    assert (len(ring._good), len(ring._bad)) == (1, 5)
    await ring.authenticate(f"Bearer {made.token}")
    assert counting.calls == 21


def test_each_role_may_do_what_those_before_it_may() -> None:
    order = ["app", "analyst", "private_reader", "admin"]
    for i, mine in enumerate(order):
        for j, needed in enumerate(order):
            caller = Caller("biz-1", mine, "k")
            if i >= j:
                require(caller, needed)
            else:
                with pytest.raises(Forbidden, match=f"role {mine}, this needs {needed}"):
                    require(caller, needed)


def test_another_business_is_forbidden() -> None:
    caller = Caller("biz-1", "admin", "k")
    assert require_business(caller, None) == require_business(caller, "biz-1") == "biz-1"
    with pytest.raises(Forbidden, match="businessId biz-2 is not the business of key k"):
        require_business(caller, "biz-2")


@pytest.mark.parametrize(
    ("business", "role", "name", "message"),
    [("b", "boss", "n", "role is 'boss'"), ("", "app", "n", "business id is ''"), ("a b", "app", "n", "business id"),
     ("b", "app", "", "name is ''"),
     ("b", "app", "a\nb", "printable"), ("b", "app", "x" * 129, "1 to 128")],
)  # fmt: skip
async def test_a_key_that_makes_no_sense_is_not_made(business: str, role: str, name: str, message: str, store: OperationalStore) -> None:
    with pytest.raises(ContractError, match=message):
        await create_key(store, business, role, name)


# ---- the command line


def run(*arguments: str) -> Any:
    return CliRunner().invoke(command.app, list(arguments), catch_exceptions=False)


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    home = ["--home", str(tmp_path / "new")]
    made = json.loads(run("create", "--business", "biz-1", "--name", "demo", "--json", *home).stdout)
    assert (made["businessId"], made["role"], made["name"]) == ("biz-1", "app", "demo")
    text = run("create", "--business", "biz-2", "--role", "admin", *home).stdout
    token = text.strip().splitlines()[-1]
    assert re.fullmatch(r"rgl_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", token)
    listed = json.loads(run("list", "--json", *home).stdout)["keys"]
    assert [k["businessId"] for k in listed] == ["biz-1", "biz-2"]
    assert not any("hash" in k or "key" in k for k in listed)
    assert json.loads(run("revoke", made["keyId"], "--json", *home).stdout) == {
        "keyId": made["keyId"], "revoked": True, "wasRevokedBefore": False,
    }  # fmt: skip
    assert "was revoked before" in run("revoke", made["keyId"], *home).stdout
    table = run("list", "--business", "biz-1", *home).stdout
    assert made["keyId"] in table
    assert token.split("_")[1] not in table
    assert made["key"].split("_", 2)[2] not in table
    with pytest.raises(UnknownItem, match="there is no key nope"):
        run("revoke", "nope", *home)


def test_a_database_of_the_settings_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGULARS_SERVE_DATABASE_URL", f"sqlite:///{tmp_path / 'elsewhere.db'}")
    run("create", "--business", "biz-1", "--home", str(tmp_path / "home"))
    assert (tmp_path / "elsewhere.db").is_file()
    assert not (tmp_path / "home" / "regulars.db").exists()
    monkeypatch.delenv("REGULARS_SERVE_DATABASE_URL")
    assert command.database_url(ServeSettings.load(home=tmp_path)) == f"sqlite:///{tmp_path / 'regulars.db'}"


def test_help_does_not_import_the_database(tmp_path: Path) -> None:
    code = "import sys, regulars.key; sys.exit('sqlalchemy' in sys.modules or 'ray_apps.store' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(command.__file__).parent.parent)


async def test_no_token_reaches_the_log(store: OperationalStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    made = await create_key(store, "biz-1", "app", "demo")
    await KeyRing(store).authenticate(f"Bearer {made.token}")
    assert made.token.split("_", 2)[2] not in caplog.text
