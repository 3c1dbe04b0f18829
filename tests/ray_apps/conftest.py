"""A migrated operational database on both engines: `database_url` is parametrised over them."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.bundle import MODEL_NAME, PAD, UNKNOWN, BundleManifest, Calibration, OfferType, OfferTypes, Ranking, deploy, file_sha256
from contracts.paths import Home
from contracts.sequence import MODEL_NAME as SEQUENCE_NAME
from contracts.sequence import BaseRates, ChurnDefinition, Forecasting
from contracts.tables import REWARD_TYPES, TABLES
from contracts.tensors import (
    CHANNEL_COUNT,
    EMBEDDING_DIM,
    FACTORS,
    FEATURE_COUNT,
    ITEM_TOWER,
    MODELS,
    NEXT_OFFER,
    RANKER,
    SEQUENCE_MODELS,
    STATIC_COUNT,
    STEP_COUNT,
    USER_TOWER,
    WEEK_COUNT,
    ModelSpec,
)  # fmt: skip
from features.online import OnlineSettings, OnlineStore, materialize
from features.pairs import ItemStats
from features.weekly import CHANNEL_FACTORS, STATIC_FACTORS
from ray_apps.ingress import create_app
from ray_apps.keys import create_key
from ray_apps.migrations import upgrade, upgrade_async
from ray_apps.service import Service
from ray_apps.settings import ServeSettings
from ray_apps.store import OperationalStore
from ray_apps.tuning import SimilarSettings
from warehouse.store import Warehouse


def _unprivileged() -> dict[str, int]:
    """PostgreSQL refuses to run as root: the user and group to become."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid}
    pytest.skip("PostgreSQL cannot run as root and this machine has neither user postgres nor nobody; run the tests as another user")


@pytest.fixture(scope="session")
def postgres_server(program: Callable[[str], str], free_port: Callable[[], int]) -> Iterator[str]:
    """URL (without a database) of a PostgreSQL server of our own, on loopback, password needed; stopped at the end."""
    initdb, postgres = program("initdb"), program("postgres")
    who, port, password = _unprivileged(), free_port(), secrets.token_hex(8)
    folder = Path(tempfile.mkdtemp(prefix="regulars-pg-"))
    try:
        word = folder / "password"
        word.write_text(password)
        for path in (folder, word):
            if who:
                os.chown(path, who["user"], who["group"])
        asked = ["-D", str(folder / "data"), "-U", "regulars", "-A", "scram-sha-256", f"--pwfile={word}", "-E", "UTF8", "--no-sync"]
        subprocess.run([initdb, *asked], check=True, capture_output=True, cwd="/", **who)  # type: ignore[call-overload]
        settings = ["-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen([postgres, "-D", str(folder / "data"), *settings], stdout=log, stderr=log, cwd="/", **who)  # type: ignore[call-overload]
        try:
            url = f"postgresql://regulars:{password}@127.0.0.1:{port}"
            with ThreadPoolExecutor(1) as other:  # this fixture may be asked for inside a running event loop
                other.submit(lambda: asyncio.run(_wait_until_up(url, server, folder / "log"))).result()
            yield url
        finally:
            server.send_signal(signal.SIGINT)  # "fast" shutdown
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _wait_until_up(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    import asyncpg

    for _ in range(300):
        assert server.poll() is None, log.read_text()
        try:
            connection = await asyncpg.connect(f"{url}/postgres")
        except (OSError, asyncpg.PostgresError):
            time.sleep(0.1)
            continue
        await connection.execute("CREATE DATABASE migrated")
        await connection.close()
        await upgrade_async(f"{url}/migrated")
        return
    raise AssertionError(log.read_text())


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def engine(request: pytest.FixtureRequest) -> str:
    """Which engine this run of the test uses."""
    return str(request.param)


@pytest.fixture
async def empty_database_url(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A database without any table."""
    if engine == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    async for url in _database(request.getfixturevalue("postgres_server"), "template1"):
        yield url


@pytest.fixture
async def database_url(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A migrated database, empty."""
    if engine == "sqlite":
        url = f"sqlite:///{tmp_path / 'regulars.db'}"
        await upgrade_async(url)
        yield url
        return
    async for url in _database(request.getfixturevalue("postgres_server"), "migrated"):
        yield url


async def _database(server: str, template: str) -> AsyncIterator[str]:
    import asyncpg

    name = f"t{secrets.token_hex(6)}"
    connection = await asyncpg.connect(f"{server}/postgres")
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield f"{server}/{name}"
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[OperationalStore]:
    """A store on a migrated, empty database."""
    opened = OperationalStore(database_url)
    yield opened
    await opened.close()


# A whole home without training: a small catalogue and history, and a bundle whose user tower is one matrix.

BUSINESS, OTHER = "biz-1", "biz-2"
CATEGORIES = ("coffee", "pastry", "lunch", "tea")
NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
"""Morning; the newest row of the home is some minutes older."""


@pytest.fixture(scope="session")
def template_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with data, a deployed version 1, a migrated database and a filled online store; `home` is a copy to write to."""
    root = tmp_path_factory.mktemp("template") / "home"
    rows = _history()
    warehouse = Warehouse(root / "warehouse")
    for name, found in rows.items():
        warehouse.land(name, pa.Table.from_pylist(found, schema=TABLES[name].schema), "test")
    write_bundle(root, "1", seed=1)
    with ThreadPoolExecutor(1) as other:  # this fixture may be asked for inside a running event loop
        other.submit(upgrade, Home(root).database_url).result()
    online = OnlineStore(OnlineSettings(), Home(root))
    with warehouse.connect() as connection:
        materialize(connection, online, NOW, 0)
    online.close()
    return root


@pytest.fixture
def home(template_home: Path, tmp_path: Path) -> Path:
    """A home of one's own: warehouse, bundle, filled online store, migrated database."""
    return Path(shutil.copytree(template_home, tmp_path / "home"))


def _history() -> dict[str, list[dict[str, Any]]]:
    """12 rewards (and one of another business), 30 customers; cust-0 loves coffee, cust-1 came twice, cust-2 never acted."""
    rng = np.random.default_rng(3)
    rewards = [_reward(i, BUSINESS) for i in range(12)] + [_reward(12, OTHER)]
    customers = [{"business_id": b, "customer_id": c, "joined_at": NOW - timedelta(days=300)} for b, c in _customers()]
    customers[0] |= {"membership_tier": "SILVER", "points_balance": 120}
    events: list[dict[str, Any]] = []
    purchases: list[dict[str, Any]] = []
    for number in (0, *range(3, 30)):
        for step in range(8):
            liked = 4 * (step % 3) if number == 0 else int(rng.integers(0, 12))
            when = NOW - timedelta(days=float(rng.uniform(1, 80)))
            when = when.replace(hour=8 if number == 0 else int(rng.integers(0, 24)))
            events.append(_event(len(events), number, "redemption", when, f"rew-{liked:02d}"))
            purchases.append(
                {
                    "transaction_id": f"t-{number}-{step}",
                    "business_id": BUSINESS,
                    "customer_id": f"cust-{number}",
                    "occurred_at": when,
                    "amount": Decimal("9.5"),
                }
            )
    events += [_event(len(events) + i, 1, "offer_viewed", NOW - timedelta(days=3 + i), "rew-01") for i in range(2)]
    purchases[-1]["occurred_at"] = NOW - timedelta(minutes=5)
    return {"rewards": rewards, "customers": customers, "events": events, "transactions": purchases}


def _customers() -> list[tuple[str, str]]:
    return [(BUSINESS, f"cust-{n}") for n in range(30)] + [(OTHER, "cust-other")]


def _reward(i: int, business: str) -> dict[str, Any]:
    kinds = {3: "experience", 7: "upgrade"}
    return {
        "reward_id": f"rew-{i:02d}", "business_id": business, "name": f"Reward {i}", "category": CATEGORIES[i % 4],
        "reward_type": kinds.get(i, "free_item"), "points_cost": 100,
        "valid_to": NOW - timedelta(days=1) if i == 10 else None, "inventory": 0 if i == 11 else None,
    }  # fmt: skip


def _event(i: int, customer: int, kind: str, when: datetime, reward: str) -> dict[str, Any]:
    return {
        "event_id": f"e-{i}", "business_id": BUSINESS, "customer_id": f"cust-{customer}", "occurred_at": when, "event_type": kind,
        "reward_id": reward,
    }  # fmt: skip


def write_bundle(root: Path, version: str, seed: int, deployed: bool = True) -> Path:
    """A bundle whose towers are one matrix each, normalised: quick, and of the contract's shapes."""
    rng = np.random.default_rng(seed)
    folder = root / "models" / MODEL_NAME / version
    folder.mkdir(parents=True)
    rewards = _history()["rewards"]
    count = Counter((e["business_id"], e["reward_id"]) for e in _history()["events"] if e["event_type"] == "redemption")
    for reward in rewards:
        reward["redemptions"] = count[reward["business_id"], reward["reward_id"]]
        reward["redeemer_share"] = min(1.0, reward["redemptions"] / 60)
    schema = pa.schema([*TABLES["rewards"].schema, pa.field("redemptions", pa.int64()), pa.field("redeemer_share", pa.float64())])
    pq.write_table(pa.Table.from_pylist(rewards, schema=schema), folder / "rewards.parquet")
    vectors = rng.normal(size=(len(rewards), EMBEDDING_DIM)).astype(np.float32)
    np.save(folder / "item_vectors.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    tokens = [PAD, UNKNOWN, *(f"r:{r['reward_id']}" for r in rewards), *(f"c:{c}" for c in CATEGORIES)]
    (folder / "vocabulary.json").write_text(json.dumps(tokens))
    calibration = Calibration(slope=4.0, popularity=0.5, intercept=-1.0, horizon_days=30, ece=0.01)
    (folder / "calibration.json").write_text(calibration.model_dump_json())
    golden: dict[str, np.ndarray] = {}
    for spec in MODELS.values():
        golden |= _write_model(folder / f"{spec.name}.onnx", spec, golden, rng)
    write_second_stage(folder, rewards)
    np.savez(folder / "golden.npz", **golden)
    files = {f.name: file_sha256(f) for f in sorted(folder.iterdir())}
    manifest = BundleManifest(
        model=MODEL_NAME, version=version, created_at=NOW.isoformat(), data_version="test", code_version="test", as_of=NOW.isoformat(),
        settings={}, metrics={}, files=files,
    )  # fmt: skip
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    if deployed:
        deploy(root / "models", version)
    return folder


def plain_stats(rewards: list[dict[str, Any]]) -> ItemStats:
    """Statistics of a catalogue of which nothing but the shares is known; every reward neighbours the next."""
    n = len(rewards)
    share = np.log(np.array([float(r["redeemer_share"] or 0.0) for r in rewards], np.float32) + 1e-5)
    following = ((np.arange(n) + 1) % n).astype(np.int32)[:, None]
    none = np.zeros(n, np.float32)
    return ItemStats(
        shares=np.stack([share] * 3), repeat_share=none, gap_days=none + 30, part_lift=np.zeros((n, 4), np.float32),
        first_seen=np.zeros(n), valid_to=np.full(n, np.inf), category=np.zeros(n, np.int32), category_share=none + 1, difficulty=none,
        points=none, value=none, text=np.zeros((n, 32), np.float32), neighbours=following, weights=np.full((n, 1), 0.1, np.float32),
        followers=following, follow=np.zeros((n, 1), np.float32),
    )  # fmt: skip


def write_second_stage(folder: Path, rewards: list[dict[str, Any]]) -> None:
    """ranking.json, item_stats.npz and offer_types.json of a bundle."""
    zeros, ones = (0.0,) * FEATURE_COUNT, (1.0,) * FEATURE_COUNT
    ranking = Ranking(
        rate_weights=zeros, rate_intercept=0.0, feature_mean=zeros, feature_std=ones, temperature=1.0, slope=1.0, intercept=0.0,
        horizon_days=30, ece=0.01,
    )  # fmt: skip
    (folder / "ranking.json").write_text(ranking.model_dump_json())
    np.savez(folder / "item_stats.npz", allow_pickle=False, **plain_stats(rewards).arrays())
    types = {t: OfferType(slope=1.0, intercept=-1.0, ece=0.01, share=0.1) for t in REWARD_TYPES}
    shares = {BUSINESS: {"free_item": 0.6, "experience": 0.2, "upgrade": 0.1}, OTHER: {"free_item": 0.3}}
    (folder / "offer_types.json").write_text(OfferTypes(types=types, horizon_days=30, shares=shares).model_dump_json())


def _write_model(path: Path, spec: ModelSpec, golden: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A model of one matrix; returns its golden rows, which go on from those of the models before.

    The towers: input @ matrix, then L2 norm 1. The ranker: both logits are four times the cosine. Next offer: user vector @ matrix.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    used = {USER_TOWER: "features", ITEM_TOWER: "attributes", NEXT_OFFER: "user_vector", RANKER: "both"}[spec]
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    out, width = spec.outputs[0].name, spec.outputs[0].shape[0]
    size = next((t.shape[0] for t in spec.inputs if t.name == used), EMBEDDING_DIM)
    matrix = np.full((size, width), 4.0, np.float32) if spec is RANKER else rng.normal(size=(size, width)).astype(np.float32)
    tower = spec in (USER_TOWER, ITEM_TOWER)
    nodes = [helper.make_node("Mul", ["user_vector", "item_vector"], ["both"])] if spec is RANKER else []
    nodes.append(helper.make_node("MatMul", [used, "matrix"], ["raw" if tower else out]))
    if tower:
        nodes.append(helper.make_node("LpNormalization", ["raw"], [out], axis=-1, p=2))
    graph = helper.make_graph(
        nodes,
        spec.name,
        [helper.make_tensor_value_info(t.name, kinds[t.dtype], ["B", *t.shape]) for t in spec.inputs],
        [helper.make_tensor_value_info(t.name, kinds[t.dtype], ["B", *t.shape]) for t in spec.outputs],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    rows = {
        t.name: rng.normal(size=(2, *t.shape)).astype(np.float32) if t.dtype == "float32" else np.ones((2, *t.shape), np.int64)
        for t in spec.inputs
    }
    rows |= {name: array for name, array in golden.items() if name in rows}
    raw = (rows["user_vector"] * rows["item_vector"] if spec is RANKER else rows[used]) @ matrix
    return rows | {out: raw / np.linalg.norm(raw, axis=1, keepdims=True) if tower else raw}


REFERENCE_CHURN = 0.42
FACTORS_GRAPH, FORECAST_GRAPH = "impacts", "impact_estimates"


def forecasting(reference: np.ndarray) -> Forecasting:
    """The record of a sequence model whose base rates can be told from its forecasts."""
    rates = BaseRates(
        churn=(0.75, 0.65, 0.55), silent_by=tuple(0.55 + 0.04 * k for k in range(STEP_COUNT)),
        purchase_probability=(0.25,) * 12, spend=(3.125,) * 12, spend_interval=(10.0, 80.0),
    )  # fmt: skip
    return Forecasting(
        definition=ChurnDefinition(), reference_statics=tuple(reference.tolist()), base_rates={"": rates},
        clv_cuts={"": (50.0, 150.0, 400.0)}, ece=0.01, spend_months_seen=12,
    )  # fmt: skip


def write_sequence_bundle(root: Path, version: str = "1", seed: int = 1, deployed: bool = True) -> Path:
    """A bundle of the sequence model: additive in the factors, so that its attributions are exact, and of the contract's shapes."""
    import onnxruntime

    rng = np.random.default_rng(seed)
    folder = root / "models" / SEQUENCE_NAME / version
    folder.mkdir(parents=True)
    reference = np.abs(rng.normal(size=STATIC_COUNT)).astype(np.float32)
    (folder / "forecast.json").write_text(forecasting(reference).model_dump_json())
    golden = {
        "weeks": np.abs(rng.normal(size=(2, WEEK_COUNT, CHANNEL_COUNT))).astype(np.float32),
        "statics": np.abs(rng.normal(size=(2, STATIC_COUNT))).astype(np.float32),
    }
    weights = rng.normal(size=(CHANNEL_COUNT + STATIC_COUNT, len(FACTORS))).astype(np.float32)
    for spec in SEQUENCE_MODELS.values():
        path = folder / f"{spec.name}.onnx"
        _write_sequence_model(path, spec, weights, reference)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        golden |= dict(zip((t.name for t in spec.outputs), session.run(None, {t.name: golden[t.name] for t in spec.inputs}), strict=True))
    np.savez(folder / "golden.npz", allow_pickle=False, **golden)
    manifest = BundleManifest(
        model=SEQUENCE_NAME, version=version, created_at=NOW.isoformat(), data_version="test", code_version="test", as_of=NOW.isoformat(),
        settings={}, metrics={}, files={f.name: file_sha256(f) for f in sorted(folder.iterdir())},
    )  # fmt: skip
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    if deployed:
        deploy(root / "models", version, SEQUENCE_NAME)
    return folder


def _write_sequence_model(path: Path, spec: ModelSpec, weights: np.ndarray, reference: np.ndarray) -> None:
    """Impact of a factor = 0.05 tanh(inputs of that factor less the reference's, weighed); churn at 90 days = 0.42 + all impacts."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    of = np.array([FACTORS.index(f) for f in (*CHANNEL_FACTORS, *STATIC_FACTORS)])
    masked = weights * (of[:, None] == np.arange(len(FACTORS)))
    constants = {
        "reference_inputs": np.concatenate([np.zeros(CHANNEL_COUNT, np.float32), reference]),
        "masked": masked.astype(np.float32), "small": np.float32(0.05), "usual": np.float32([[REFERENCE_CHURN]]), "one": np.float32(1.0),
        "nothing": np.float32(0.0), "weeks_axis": np.array([1], np.int64), "earlier": np.float32([[0.5, 0.25, 0.0]]),
        "later": np.linspace(0, 0.9, STEP_COUNT, dtype=np.float32)[None], "months": np.linspace(1, 0.8, 12, dtype=np.float32)[None],
        "money": np.linspace(10, 21, 12, dtype=np.float32)[None], "wide": np.float32([[0.5, 2.0]]),
    }  # fmt: skip
    outputs = [t.name for t in spec.outputs]
    moves = FACTORS_GRAPH if FACTORS_GRAPH in outputs else FORECAST_GRAPH
    steps = [
        ("ReduceMean", ["weeks", "weeks_axis"], "level", {"keepdims": 0}), ("Concat", ["level", "statics"], "both", {"axis": 1}),
        ("Sub", ["both", "reference_inputs"], "apart", {}), ("MatMul", ["apart", "masked"], "pushed", {}), ("Tanh", ["pushed"], "bent", {}),
        ("Mul", ["bent", "small"], moves, {}), ("ReduceSum", [moves, "weeks_axis"], "moved", {"keepdims": 1}),
        ("Add", ["moved", "usual"], "leaves", {}), ("Sub", ["one", "leaves"], "stays", {}),
        ("Mul", ["stays", "earlier"], "sooner", {}), ("Add", ["leaves", "sooner"], "churn", {}),
        ("Mul", ["stays", "later"], "more", {}), ("Add", ["leaves", "more"], "silent_by", {}),
        ("Mul", ["stays", "months"], "purchase_probability", {}), ("Mul", ["stays", "money"], "spend", {}),
        ("ReduceSum", ["spend", "weeks_axis"], "year", {"keepdims": 1}), ("Mul", ["year", "wide"], "spend_interval", {}),
    ]  # fmt: skip
    if "reference" in outputs:
        steps += [("Mul", ["leaves", "nothing"], "zero", {}), ("Add", ["zero", "usual"], "reference", {})]
    graph = helper.make_graph(
        [helper.make_node(kind, given, [made], **options) for kind, given, made, options in steps],
        spec.name,
        [helper.make_tensor_value_info(t.name, TensorProto.FLOAT, ["B", *t.shape]) for t in spec.inputs],
        [helper.make_tensor_value_info(t.name, TensorProto.FLOAT, ["B", *t.shape]) for t in spec.outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)


class LocalTower:
    """Stands in for Triton: runs the deployed bundles' models with ONNX Runtime. `fail` makes it break, `delay_s` makes it slow."""

    def __init__(self, root: Path) -> None:
        self._models = root / "models"
        self._sessions: dict[tuple[str, str], Any] = {}
        self.fail: Exception | None = None
        self.delay_s = 0.0
        self.calls = 0
        self.loaded: set[str] = set()

    async def infer(
        self, spec: ModelSpec, inputs: dict[str, np.ndarray], version: str = "", deadline_s: float | None = None
    ) -> dict[str, np.ndarray]:
        import onnxruntime

        self.calls += 1
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.fail is not None:
            raise self.fail
        key = (version, spec.name)
        if key not in self._sessions:
            self._sessions[key] = onnxruntime.InferenceSession(
                self._models / (SEQUENCE_NAME if spec.name in SEQUENCE_MODELS else MODEL_NAME) / version / f"{spec.name}.onnx",
                providers=["CPUExecutionProvider"],
            )
        names = {i.name for i in self._sessions[key].get_inputs()}
        found = self._sessions[key].run(None, {k: v for k, v in inputs.items() if k in names})
        return {t.name: value for t, value in zip(spec.outputs, found, strict=True)}

    async def ready(self, model: str = "", version: str = "") -> bool:
        return self.fail is None

    async def load(self, model: str, deadline_s: float = 1.0) -> None:
        if self.fail is not None:
            raise self.fail
        self.loaded.add(model)

    async def close(self) -> None:
        pass


@dataclass
class Api:
    """The app in this process, and what a test needs to reach into it."""

    http: httpx.AsyncClient
    service: Service
    tower: LocalTower
    home: Path
    keys: dict[str, str]

    async def recommend(self, customer: str = "cust-0", **body: Any) -> dict[str, Any]:
        """A recommendation that must succeed."""
        answer = await self.http.post("/api/v1/ml/recommendations", json={"customerId": customer, **body})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def send(self, *events: dict[str, Any]) -> dict[str, Any]:
        """Events that must be read; some may be rejected."""
        answer = await self.http.post("/api/v1/events", json={"events": list(events)})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


@asynccontextmanager
async def serving(home: Path) -> AsyncIterator[Api]:
    """The app on a home, with ONNX Runtime in place of Triton and the clock standing at NOW plus what passes."""
    settings = ServeSettings(
        home=home, clock_anchor_serving=NOW, clock_anchor_wall=datetime.now(UTC), deployed_poll_s=0.05, breaker_probe_ms=20
    )
    service = Service(settings)
    tower = LocalTower(home)
    service.client = service.models._client = service.recommender._client = service.offers._client = service.customers._client = tower  # type: ignore[assignment]
    service.churn.models._client = service.churn.forecaster._client = tower  # type: ignore[assignment]
    service.customers.settings = SimilarSettings(background=False)  # tests count the tower's calls; test_similar.py walks by itself
    app = create_app(service)
    keys = {}
    for name, business, role in (("app", BUSINESS, "app"), ("analyst", BUSINESS, "analyst"), ("other", OTHER, "app")):
        keys[name] = (await create_key(service.store, business, role, name)).token
    await service.start()
    headers = {"Authorization": f"Bearer {keys['app']}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=headers) as http:
        yield Api(http, service, tower, home, keys)
    await service.stop()


@pytest.fixture
async def api(home: Path) -> AsyncIterator[Api]:
    """The app on `home`, which has no sequence model."""
    async with serving(home) as found:
        yield found


@pytest.fixture(scope="session")
def bundle() -> Callable[..., Path]:
    """`write_sequence_bundle`."""
    return write_sequence_bundle


@pytest.fixture
async def churn_api(home: Path) -> AsyncIterator[Api]:
    """The app on `home` with version 1 of a sequence model."""
    write_sequence_bundle(home)
    async with serving(home) as found:
        yield found
