"""The model version that is being served, and the change to the next one under load."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import numpy as np

from contracts.bundle import MODEL_NAME, OfferTypes, Ranking, deployed_version
from contracts.errors import ArtifactError, StackError, UpstreamError
from contracts.paths import Home
from contracts.tensors import MODELS, USER_TOWER, ModelSpec, difference
from embeddings.snapshot import IndexHolder, Snapshot, from_bundle
from features.definitions import DAY_S
from features.pairs import WINDOWS_DAYS, ItemStats, log_shares
from features.vocabulary import Vocabulary
from ray_apps.deployments.explain import Catalogue
from ray_apps.deployments.population import ContextLifts, Population, populations
from serving import repository
from serving.client import TritonClient
from warehouse.store import Warehouse

logger = logging.getLogger("regulars.model")
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Served:
    """Everything of one model version that a request needs; never changed, replaced whole.

    Attributes:
        stats: of the catalogue, for the ranker. token_rows: by business, the row of the catalogue of each token (-1: none), int64 (V,).
        lifts: by business, for answers without the model.
        golden: one known row: the inputs of every model and their answers, by the tensors' names.
        categories: (business id, product id) -> category, for purchases that have not landed yet.
    """

    snapshot: Snapshot
    vocabulary: Vocabulary
    catalogue: Catalogue
    populations: Mapping[str, Population]
    golden: dict[str, np.ndarray]
    categories: Mapping[tuple[str, str], str]
    stats: ItemStats
    token_rows: Mapping[str, np.ndarray]
    lifts: Mapping[str, ContextLifts]

    @property
    def version(self) -> str:
        return self.snapshot.version

    @property
    def name(self) -> str:
        """As answers name it, for example `two-tower/7`."""
        return f"{MODEL_NAME}/{self.version}"

    @property
    def ranking(self) -> Ranking:
        """From the ranker's logits to probabilities."""
        return self.snapshot.ranking

    @property
    def offer_types(self) -> OfferTypes:
        """From the next-offer model's logits to probabilities."""
        return self.snapshot.offer_types


def load(home: Home, version: str) -> Served:
    """Read a bundle and what explanations need from the warehouse. Takes seconds: call it in a thread.

    Raises:
        ArtifactError: the bundle or the warehouse cannot be used.
    """
    folder = home.models / MODEL_NAME / version
    snapshot = from_bundle(folder)
    columns = snapshot.rewards.to_pydict()
    try:
        with np.load(folder / "golden.npz", allow_pickle=False) as file:
            golden = {t.name: file[t.name][-1:] for spec in MODELS.values() for t in (*spec.inputs, *spec.outputs)}
    except (OSError, ValueError, KeyError) as exc:
        raise ArtifactError(f"cannot read {folder / 'golden.npz'}: {exc}. Build the bundle again: regulars export") from exc
    with Warehouse(home.warehouse).connect() as connection:
        found = populations(connection)
        products = connection.execute("SELECT business_id, product_id, category FROM products WHERE category <> ''").fetchall()
    catalogue = Catalogue.build(columns, snapshot.index.vectors)
    vocabulary = Vocabulary.load(folder / "vocabulary.json")
    return Served(
        snapshot=snapshot,
        vocabulary=vocabulary,
        catalogue=catalogue,
        populations=found,
        golden=golden,
        categories={(b, p): c for b, p, c in products},
        stats=ItemStats.from_arrays(snapshot.item_stats),
        token_rows=_token_rows(vocabulary, columns),
        lifts=_lifts(found, catalogue),
    )


def _token_rows(vocabulary: Vocabulary, columns: Mapping[str, list[Any]]) -> dict[str, np.ndarray]:
    """By business int64 (V,): the row of the catalogue of each token."""
    out: dict[str, np.ndarray] = {}
    tokens = vocabulary.encode(f"r:{r}" for r in columns["reward_id"])
    for row, (business_id, token) in enumerate(zip(columns["business_id"], tokens.tolist(), strict=True)):
        rows = out.setdefault(business_id, np.full(len(vocabulary), -1, dtype=np.int64))
        if token > 1:
            rows[token] = row
    return out


def _lifts(found: Mapping[str, Population], catalogue: Catalogue) -> dict[str, ContextLifts]:
    return {business_id: ContextLifts.build(population, catalogue.reward_ids) for business_id, population in found.items()}


def refreshed(served: Served, home: Home) -> Served:
    """The same model with what the warehouse says now: shares of redemptions, populations. Takes a second: call it in a thread.

    Raises:
        StackError: the warehouse cannot be read.
    """
    warehouse = Warehouse(home.warehouse)
    with warehouse.connect() as connection:
        found = populations(connection, served.populations)
        shares = redemption_shares(connection, served, {b: warehouse.as_of(b).timestamp() for b in found})
    stats = replace(served.stats, shares=shares)
    return replace(served, populations=found, stats=stats, lifts=_lifts(found, served.catalogue))


def redemption_shares(connection: duckdb.DuckDBPyConnection, served: Served, as_of: Mapping[str, float]) -> np.ndarray:
    """`ItemStats.shares` as of an instant of each business, float32 (3, N)."""
    counts = np.zeros((len(WINDOWS_DAYS), len(served.stats)))
    for business_id, until in as_of.items():
        begins = [until - days * DAY_S for days in WINDOWS_DAYS]
        columns = ", ".join("count(*) FILTER (epoch_us(occurred_at) / 1e6 >= ?)" for _ in begins)
        rows = connection.execute(
            f"SELECT reward_id, {columns} FROM events WHERE event_type = 'redemption' AND business_id = ? "  # noqa: S608 - our own text
            "AND epoch_us(occurred_at) / 1e6 >= ? GROUP BY reward_id",
            [*begins, business_id, min(begins)],
        ).fetchall()
        mine = [(served.catalogue.row[business_id, r], n) for r, *n in rows if (business_id, r) in served.catalogue.row]
        for row, n in mine:
            counts[:, row] = n
    business = served.snapshot.table.business
    totals = np.stack([np.bincount(business, c, len(served.snapshot.table.business_ids))[business] for c in counts])
    return log_shares(counts, totals)


async def check_tower(client: TritonClient, served: Served, deadline_s: float = 1.0) -> None:
    """`check_model` for the user tower, which every answer needs."""
    await check_model(client, served, USER_TOWER, deadline_s)


async def check_model(client: TritonClient, served: Served, spec: ModelSpec, deadline_s: float = 1.0) -> None:
    """Compare one model's answer in Triton to the known row; READY alone proves nothing.

    Raises:
        UpstreamError: it does not answer, or wrongly.
    """
    inputs = {t.name: served.golden[t.name] for t in spec.inputs}
    answer = await client.infer(spec, inputs, served.version, deadline_s)
    off = max(difference(answer[t.name], served.golden[t.name]) for t in spec.outputs)
    if not off <= TOLERANCE:
        raise UpstreamError(f"{spec.name} {served.version} is off by {off:.2g} on its known row, at most {TOLERANCE:g} is allowed.")


class ModelWatcher:
    """Serves what `deployed.json` says: builds the snapshot, loads the version in Triton, checks it there, swaps.

    Requests name the version they want, so the old one answers those that are under way. It stays loaded for a quick way back until
    the repository, which keeps the newest few, lets go of it at a later load.

    Args:
        home: where bundles, the model repository and the warehouse lie.
        client: of the model server.
        poll_s: pause between two looks at deployed.json.
        on_swap: told of each attempt: `ok` or `failed`.
        refresh_s: pause between two counts of what is redeemed now (`refreshed`).
    """

    def __init__(
        self,
        home: Home,
        client: TritonClient,
        poll_s: float,
        on_swap: Callable[[str], object] = lambda outcome: None,
        refresh_s: float = 300.0,
    ) -> None:
        self._home, self._client, self._poll_s, self._on_swap, self._refresh_s = home, client, poll_s, on_swap, refresh_s
        self._counted_at = time.monotonic()
        self._holder: IndexHolder[Served] | None = None
        self._task: asyncio.Task[None] | None = None
        self._refused: tuple[str, str] | None = None

    @property
    def current(self) -> Served | None:
        """Read it once per request."""
        return self._holder.current if self._holder is not None else None

    @property
    def problem(self) -> str | None:
        """Why the deployed version is not the served one; None when it is."""
        return self._refused[1] if self._refused is not None else None

    async def start(self) -> None:
        """Load the deployed version and watch for others.

        Raises:
            ArtifactError: nothing is deployed, or its bundle cannot be used.
        """
        await self._load_first()
        self._task = asyncio.create_task(self._watch(), name="model-watch")

    async def _load_first(self) -> None:
        version = await asyncio.to_thread(deployed_version, self._home.models)
        self._holder = IndexHolder(await asyncio.to_thread(load, self._home, version))

    async def stop(self) -> None:
        """End watching."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def look(self) -> None:
        """Swap when another version was deployed. A version that fails is tried again only after deployed.json named another one."""
        if self._holder is None:
            await self._load_first()
            return
        version = await asyncio.to_thread(deployed_version, self._home.models)
        if version == self._holder.current.version:
            self._refused = None
            return
        if self._refused is not None and self._refused[0] == version:
            return
        try:
            served = await asyncio.to_thread(load, self._home, version)
            await self._load_in_triton(served)
        except (StackError, OSError) as exc:
            self._refused = (version, f"version {version} was deployed but cannot be served: {exc}")
            self._on_swap("failed")
            logger.error("%s; version %s goes on", self._refused[1], self._holder.current.version)
            return
        old = self._holder.swap(served)
        self._refused = None
        self._on_swap("ok")
        logger.warning("now serving %s, before %s", served.name, old.name)

    async def refresh(self) -> None:
        """Count again what the warehouse holds, when that was `refresh_s` ago."""
        if self._holder is None or time.monotonic() - self._counted_at < self._refresh_s:
            return
        self._counted_at = time.monotonic()
        served = self._holder.current
        self._holder.swap(await asyncio.to_thread(refreshed, served, self._home))

    async def _load_in_triton(self, served: Served) -> None:
        missing = [name for name in MODELS if not await self._client.ready(name, served.version)]
        if missing:
            folder = self._home.models / MODEL_NAME / served.version
            await asyncio.to_thread(repository.build, folder, self._home.triton_repo)
        for name in missing:
            await self._client.load(name)
        for spec in MODELS.values():
            await check_model(self._client, served, spec)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self.look()
                await self.refresh()
            except Exception as exc:  # the watcher must outlive whatever it meets
                logger.warning("cannot look for another version or count anew: %s", exc)
