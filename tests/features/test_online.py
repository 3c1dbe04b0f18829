from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import redis

from contracts.errors import ArtifactError, ConfigError, UpstreamError, UpstreamTimeout
from contracts.paths import Home
from features import asof, weekly
from features.definitions import Touch, epoch_seconds
from features.history import CustomerHistory, extended, purchase_acts, tensors_of
from features.history import pack as pack_history
from features.online import OnlineSettings, OnlineStore, connection_string, materialize
from features.state import CustomerState, fold, pack, state_at, tensors
from features.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parents[2]
HISTORY = extended(CustomerHistory(watermark=5, folded_before=20_000), purchase_acts(datetime(2026, 3, 1, tzinfo=UTC), 12.5, 1.0))
STATE = fold(CustomerState(watermark=3), [Touch(1e9, 3, "r:x", 1.0), Touch(1.1e9, 17, "c:tea", 5.0)])


@pytest.fixture
def store(tmp_path) -> Iterator[OnlineStore]:
    store = OnlineStore(OnlineSettings(), Home(tmp_path))
    yield store
    store.close()


def _round_trip(store: OnlineStore) -> None:
    """Write, read, overwrite, read many: what each kind of store must do."""
    assert store.write([("b", "c", STATE), ("b", "d", CustomerState()), ("other", "c", CustomerState(watermark=9))]) == 3
    found = store.read("b", "c")
    assert found is not None
    assert pack(found) == pack(STATE)
    newer = fold(CustomerState(watermark=4), [Touch(1.2e9, 1, "", 0.0)])
    store.write([("b", "c", newer)])
    states = store.read_many([("b", "nobody"), ("other", "c"), ("b", "c")])
    assert [None if s is None else s.watermark for s in states] == [None, 9, 4]
    assert store.read("c", "b") is None
    assert store.read_many([]) == []
    strange = "c*[1]?\\ü"  # a pattern's characters, and more bytes than letters
    store.write([("b", strange, STATE)])
    assert store.customers() == sorted([("b", "c"), ("b", "d"), ("b", strange), ("other", "c")])
    _histories_round_trip(store)
    assert store.customers() == sorted([("b", "c"), ("b", "d"), ("b", strange), ("other", "c")])


def _histories_round_trip(store: OnlineStore) -> None:
    """Histories beside the states of ("b", "c"), ("b", "d") and ("other", "c")."""
    with pytest.raises(ArtifactError, match="state but no history"):  # as a store of an older version has them
        store.read_history("b", "c")
    assert store.read_history("b", "nobody") is None
    assert store.write_histories([("b", "c", HISTORY), ("other", "c", CustomerHistory())]) == 2
    found = store.read_history("b", "c")
    assert found is not None
    assert pack_history(found) == pack_history(HISTORY)
    assert found.watermark == 5
    store.write_histories([("b", "c", replace(HISTORY, watermark=6))])
    assert (newer := store.read_history("b", "c")) is not None
    assert newer.watermark == 6
    state = store.read("b", "c")
    assert state is not None
    assert state.watermark == 4  # neither write touches the other view


def test_sqlite_reads_what_was_written(store) -> None:
    _round_trip(store)


def test_listing_customers_before_anything_was_materialized_is_an_artifact_error(store) -> None:
    with pytest.raises(ArtifactError, match="no online store"):
        store.customers()


def test_states_outlive_the_process(store, tmp_path) -> None:
    store.write([("b", "c", STATE)])
    again = OnlineStore(OnlineSettings(), Home(tmp_path))
    found = again.read("b", "c")
    again.close()
    assert found is not None
    assert found.redeemed == {"x": 1}


def test_a_store_that_was_never_written_says_how_to_fill_it(store, tmp_path) -> None:
    with pytest.raises(ArtifactError, match="regulars serve"):
        store.read("b", "c")
    assert not (tmp_path / "online").exists()


def test_a_file_without_tables_or_of_other_content_is_an_artifact_error(store, tmp_path) -> None:
    file = tmp_path / "online" / "online.db"
    file.parent.mkdir()
    file.touch()
    with pytest.raises(ArtifactError, match="no such table"):
        store.read("b", "c")
    store.close()
    file.write_bytes(b"no database" * 1000)
    with pytest.raises(ArtifactError, match="not a database"):
        store.read("b", "c")


def test_a_locked_file_is_an_artifact_error(store, tmp_path) -> None:
    store.write([("b", "c", STATE)])
    store._writer.online_store._conn.execute("PRAGMA busy_timeout=50")
    other = sqlite3.connect(tmp_path / "online" / "online.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(ArtifactError, match="locked"):
        store.write([("b", "c", STATE)])
    assert store.read("b", "c") is not None  # readers do not wait for writers
    other.close()


def test_a_damaged_value_is_an_artifact_error(store, monkeypatch) -> None:
    monkeypatch.setattr("features.online.pack", lambda state: pack(state)[:-1] + b"!")
    store.write([("b", "c", STATE)])
    with pytest.raises(ArtifactError, match="checksum"):
        store.read("b", "c")


def test_a_damaged_history_is_an_artifact_error_and_the_state_can_still_be_read(store, monkeypatch) -> None:
    monkeypatch.setattr("features.online.pack_history", lambda history: pack_history(history)[:-1] + b"!")
    store.write([("b", "c", STATE)])
    store.write_histories([("b", "c", HISTORY)])
    with pytest.raises(ArtifactError, match="checksum"):
        store.read_history("b", "c")
    assert store.read("b", "c") is not None


def test_a_store_from_before_there_were_histories_says_how_to_get_them(store, tmp_path) -> None:
    store.write([("b", "c", STATE)])
    store.close()
    with sqlite3.connect(tmp_path / "online" / "online.db") as connection:
        connection.execute("DROP TABLE regulars_customer_history")
    connection.close()
    old = OnlineStore(OnlineSettings(), Home(tmp_path))
    assert old.read("b", "c") is not None  # the recommender goes on
    with pytest.raises(ArtifactError, match="regulars serve"):
        old.read_history("b", "c")
    old.write_histories([("b", "c", HISTORY)])  # the table is made again
    assert old.read_history("b", "c") is not None
    old.close()


def test_threads_may_read_while_another_writes(store) -> None:
    store.write([("b", "c", STATE)])
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(50):
                assert store.read("b", "c") is not None
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(10):
        store.write([("b", f"{n}-{i}", STATE) for i in range(50)])
    for thread in threads:
        thread.join()
    assert not failures


def test_materialized_states_serve_what_the_warehouse_says(store, shop, at, examples) -> None:
    shop.add("customers", {"customer_id": "a", "joined_at": at(0), "gender": "F"}, {"customer_id": "quiet"})
    for day in range(60):
        shop.event("a", at(day), "redemption", "r1", 2.0)
        shop.purchase("b", at(day), 10.0, ("p1", 1.0))
    vocabulary = Vocabulary.build(shop.connection, at(60))
    seen: list[tuple[int, int]] = []
    assert materialize(shop.connection, store, at(50), 7, progress=lambda d, n: seen.append((d, n))) == 3
    assert seen[-1] == (3, 3)
    assert materialize(shop.connection, store, at(50), 7) == 3  # repeatable
    states = store.read_many([("b", c) for c in ("a", "b", "quiet")])
    # Two days later: the rows that lay after the materialization have become due.
    moment = at(51.5)
    online = tensors([state_at(s, [], epoch_seconds(moment)) for s in states], epoch_seconds(moment), vocabulary)
    offline = asof.rows(shop.connection, examples(*((c, moment) for c in ("a", "b", "quiet"))), vocabulary).batch(slice(None))
    for name, array in offline.items():
        np.testing.assert_allclose(online[name], array, atol=1e-5)


def test_materialized_histories_serve_what_the_warehouse_says(store, shop, at) -> None:
    shop.add("customers", {"customer_id": "a", "joined_at": at(0)}, {"customer_id": "quiet"})
    for day in range(0, 900, 9):
        shop.purchase("a", at(day), 10.0 + day)
        shop.event("a", at(day + 2), "app_open")
        shop.purchase("b", at(day / 3), 5.0)
    moment = at(899.5)  # noon, the shop's hour, plus half a day: a midnight
    materialize(shop.connection, store, at(880), 7)  # 19 days before: what lay after it counts once its day has come
    wanted = pa.table({"business_id": ["b"] * 3, "customer_id": ["a", "b", "quiet"]})
    expected = weekly.tensors(weekly.read(shop.connection, wanted, moment), weekly.as_of_day(moment))
    for row, customer in enumerate(("a", "b", "quiet")):
        found = store.read_history("b", customer)
        assert found is not None
        assert found.watermark == 7
        for name, array in tensors_of(found, moment).items():
            np.testing.assert_allclose(array, expected[name][row : row + 1], atol=1e-5)


def test_materialize_can_be_told_whom(store, shop, at) -> None:
    shop.event("a", at(0), "app_open")
    shop.event("b", at(0), "app_open")
    assert materialize(shop.connection, store, at(1), 1, customers=[("b", "b"), ("b", "b")]) == 1
    assert [s is not None for s in store.read_many([("b", "a"), ("b", "b")])] == [False, True]
    assert [store.read_history("b", c) is not None for c in ("a", "b")] == [False, True]


def test_the_warehouses_own_connection_will_do(store, tmp_path, at) -> None:
    from contracts.tables import TABLES
    from warehouse.store import Warehouse

    warehouse = Warehouse(tmp_path / "warehouse")
    row = {"event_id": "e", "business_id": "b", "customer_id": "a", "occurred_at": at(0), "event_type": "redemption", "reward_id": "r1"}
    warehouse.land("events", pa.Table.from_pylist([row], schema=TABLES["events"].schema), "test")
    connection = warehouse.connect()
    assert materialize(connection, store, at(1), 1) == 1
    found = store.read("b", "a")
    connection.close()
    assert found is not None
    assert found.redeemed == {"r1": 1}


def test_the_request_path_does_not_import_torch() -> None:
    code = "import sys, features.online, features.state, features.rewards; print('torch' in sys.modules, 'feast' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
    assert done.stderr == ""


def test_asking_feast_for_torch_still_gives_torch(monkeypatch) -> None:
    import importlib

    from feast.torch_wrapper import get_torch

    monkeypatch.setattr(importlib, "import_module", lambda name: name)
    assert get_torch() == "torch"


def test_connection_string_keeps_odd_passwords_whole() -> None:
    from feast.infra.online_stores.redis import RedisOnlineStore

    text = connection_string("rediss://ann:1%2C2%3D%22x@[::1]:7000/3".replace("[::1]", "localhost"), 0.5)
    nodes, options = RedisOnlineStore._parse_connection_string(text)
    assert nodes == [{"host": "localhost", "port": "7000"}]
    assert options == {
        "db": 3, "socket_timeout": 0.5, "socket_connect_timeout": 0.5, "retry": None, "ssl": True, "username": "ann", "password": '1,2="x',
    }  # fmt: skip
    assert RedisOnlineStore._parse_connection_string(connection_string("redis://:123@h", 1))[1]["password"] == "123"


@pytest.mark.parametrize("url", ["http://h:1", "redis://", "redis://h:port/0", "redis://h/zero"])
def test_a_wrong_redis_url_is_refused_without_its_password(url, tmp_path) -> None:
    with pytest.raises(ConfigError, match="REGULARS_ONLINE_REDIS_URL"):
        OnlineStore(OnlineSettings(kind="redis", redis_url=url), Home(tmp_path))


def test_settings_hide_the_password_and_refuse_a_typo() -> None:
    assert "secret" not in json.dumps(OnlineSettings(redis_url="redis://:secret@h").public())
    with pytest.raises(ConfigError, match="REGULARS_ONLINE_KIND"):
        OnlineSettings.load(environ={"REGULARS_ONLINE_KIMD": "redis"})


@pytest.fixture
def redis_server(program, free_port, tmp_path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    port = free_port()
    command = [
        program("redis-server"),
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--requirepass",
        "12345",
        "--dir",
        str(tmp_path),
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port, password="12345")
    for _ in range(200):
        try:
            client.ping()
            break
        except redis.ConnectionError:
            time.sleep(0.05)
    client.close()
    yield server, f"redis://:12345@127.0.0.1:{port}/2"
    server.send_signal(signal.SIGCONT)
    server.terminate()
    server.wait(10)


@pytest.mark.services
def test_redis_reads_what_was_written_and_says_when_it_is_gone(redis_server, tmp_path) -> None:
    server, url = redis_server
    store = OnlineStore(OnlineSettings(kind="redis", redis_url=url, redis_timeout_s=0.3), Home(tmp_path))
    _round_trip(store)
    os.kill(server.pid, signal.SIGSTOP)
    with pytest.raises(UpstreamTimeout, match=r"within 0\.3 s"):
        store.read("b", "c")
    os.kill(server.pid, signal.SIGCONT)
    assert store.read("b", "c") is not None
    server.terminate()
    server.wait(10)
    with pytest.raises(UpstreamError, match="REGULARS_ONLINE_REDIS_URL"):
        store.read("b", "c")
    with pytest.raises(UpstreamError, match="REGULARS_ONLINE_REDIS_URL"):
        store.write([("b", "c", STATE)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.close()
