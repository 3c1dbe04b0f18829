"""The model version that is being served, and the change to the next one under load."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from contracts.bundle import MODEL_NAME, OfferTypes, Ranking, deployed_version
from contracts.errors import ArtifactError, StackError, UpstreamError
from contracts.paths import Home
from contracts.tensors import MODELS, USER_TOWER, ModelSpec, difference
from embeddings.snapshot import IndexHolder, Snapshot, from_bundle
from features.vocabulary import Vocabulary
from ray_apps.deployments.explain import Catalogue, Population, populations
from serving import repository
from serving.client import TritonClient
from warehouse.store import Warehouse

logger = logging.getLogger("regulars.model")
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Served:
    """Everything of one model version that a request needs; never changed, replaced whole.

    Attributes:
        golden: one known row: the inputs of every model and their answers, by the tensors' names.
        categories: (business id, product id) -> category, for purchases that have not landed yet.
    """

    snapshot: Snapshot
    vocabulary: Vocabulary
    catalogue: Catalogue
    populations: Mapping[str, Population]
    golden: dict[str, np.ndarray]
    categories: Mapping[tuple[str, str], str]

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
    def item_stats(self) -> dict[str, np.ndarray]:
        """Arrays about the rewards that the ranker's pair features are made of."""
        return self.snapshot.item_stats

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
    return Served(snapshot, vocabulary, catalogue, found, golden, {(b, p): c for b, p, c in products})


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
    """

    def __init__(
        self,
        home: Home,
        client: TritonClient,
        poll_s: float,
        on_swap: Callable[[str], object] = lambda outcome: None,
    ) -> None:
        self._home, self._client, self._poll_s, self._on_swap = home, client, poll_s, on_swap
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
            except Exception as exc:  # the watcher must outlive whatever it meets
                logger.warning("cannot look for another version: %s", exc)
