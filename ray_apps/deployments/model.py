"""The recommender's version that is being served: what a request needs of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import numpy as np

from contracts.bundle import BUNDLES, MODEL_NAME, OfferTypes, Ranking
from contracts.errors import ArtifactError
from contracts.paths import Home
from contracts.tensors import MODELS, USER_TOWER
from embeddings.snapshot import Snapshot, from_bundle
from features.definitions import DAY_S
from features.pairs import WINDOWS_DAYS, ItemStats, log_shares
from features.vocabulary import Vocabulary
from ray_apps.deployments.explain import Catalogue
from ray_apps.deployments.population import ContextLifts, Population, populations
from ray_apps.deployments.watcher import BundleWatcher, check_model
from serving.client import TritonClient
from warehouse.store import Warehouse


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


class ModelWatcher(BundleWatcher[Served]):
    """The recommender's watcher, which also counts anew what the warehouse holds.

    Args:
        home, client, poll_s, on_swap: see `BundleWatcher`.
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
        super().__init__(BUNDLES[MODEL_NAME], load, home, client, poll_s, on_swap)
        self._refresh_s, self._counted_at = refresh_s, time.monotonic()

    async def refresh(self) -> None:
        """Count again what the warehouse holds, when that was `refresh_s` ago."""
        if self._holder is None or time.monotonic() - self._counted_at < self._refresh_s:
            return
        self._counted_at = time.monotonic()
        served = self._holder.current
        self._holder.swap(await asyncio.to_thread(refreshed, served, self._home))
