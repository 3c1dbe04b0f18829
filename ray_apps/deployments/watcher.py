"""Which version of a bundle is being served, and the change to the next one under load. One watcher a bundle."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

import numpy as np

from contracts.bundle import BundleSpec, deployed_version
from contracts.errors import StackError, UpstreamError
from contracts.paths import Home
from contracts.tensors import ModelSpec, difference
from embeddings.snapshot import IndexHolder
from serving import repository
from serving.client import TritonClient

logger = logging.getLogger("regulars.model")
TOLERANCE = 1e-3


class Version(Protocol):
    """One version of a bundle, read into memory; never changed, replaced whole.

    `name` is what answers call it, for example `two-tower/7`; `golden` is one known row: the inputs of every model and their answers, by
    the tensors' names.
    """

    @property
    def version(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def golden(self) -> Mapping[str, np.ndarray]: ...


V = TypeVar("V", bound=Version)


async def check_model(client: TritonClient, served: Version, spec: ModelSpec, deadline_s: float = 1.0) -> None:
    """Compare one model's answer in Triton to the known row; READY alone proves nothing.

    Raises:
        UpstreamError: it does not answer, or wrongly.
    """
    inputs = {t.name: served.golden[t.name] for t in spec.inputs}
    answer = await client.infer(spec, inputs, served.version, deadline_s)
    off = max(difference(answer[t.name], served.golden[t.name]) for t in spec.outputs)
    if not off <= TOLERANCE:
        raise UpstreamError(f"{spec.name} {served.version} is off by {off:.2g} on its known row, at most {TOLERANCE:g} is allowed.")


class BundleWatcher(Generic[V]):
    """Serves what a bundle's `deployed.json` says: reads the version, loads it in Triton, checks it there, swaps.

    Requests name the version they want, so the old one answers those that are under way. It stays loaded for a quick way back until
    the repository, which keeps the newest few, lets go of it at a later load.

    Args:
        bundle: which one.
        load: reads a version; takes seconds, called in a thread. Raises ArtifactError.
        home: where bundles, the model repository and the warehouse lie.
        client: of the model server.
        poll_s: pause between two looks at deployed.json.
        on_swap: told of each attempt: `ok` or `failed`.
    """

    def __init__(
        self,
        bundle: BundleSpec,
        load: Callable[[Home, str], V],
        home: Home,
        client: TritonClient,
        poll_s: float,
        on_swap: Callable[[str], object] = lambda outcome: None,
    ) -> None:
        self._bundle, self._load = bundle, load
        self._home, self._client, self._poll_s, self._on_swap = home, client, poll_s, on_swap
        self._holder: IndexHolder[V] | None = None
        self._task: asyncio.Task[None] | None = None
        self._refused: tuple[str, str] | None = None

    @property
    def current(self) -> V | None:
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
        self._begin()

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._watch(), name=f"{self._bundle.name}-watch")

    async def _load_first(self) -> None:
        version = await asyncio.to_thread(deployed_version, self._home.models, self._bundle.name)
        self._holder = IndexHolder(await asyncio.to_thread(self._load, self._home, version))

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
        version = await asyncio.to_thread(deployed_version, self._home.models, self._bundle.name)
        if version == self._holder.current.version:
            self._refused = None
            return
        if self._refused is not None and self._refused[0] == version:
            return
        try:
            served = await asyncio.to_thread(self._load, self._home, version)
            await self._load_in_triton(served)
        except (StackError, OSError) as exc:
            self._refuse(version, exc)
            logger.error("%s; version %s goes on", self.problem, self._holder.current.version)
            return
        old = self._holder.swap(served)
        self._refused = None
        self._on_swap("ok")
        logger.warning("now serving %s, before %s", served.name, old.name)

    def _refuse(self, version: str, exc: Exception) -> None:
        self._refused = (version, f"version {version} was deployed but cannot be served: {exc}")
        self._on_swap("failed")

    async def refresh(self) -> None:
        """What is to be done at every look beside it."""

    async def _load_in_triton(self, served: V) -> None:
        missing = [name for name in self._bundle.models if not await self._client.ready(name, served.version)]
        if missing:
            folder = self._home.models / self._bundle.name / served.version
            await asyncio.to_thread(repository.build, folder, self._home.triton_repo)
        for name in missing:
            await self._client.load(name)
        for spec in self._bundle.models.values():
            await check_model(self._client, served, spec)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self.look()
                await self.refresh()
            except Exception as exc:  # the watcher must outlive whatever it meets
                logger.warning("cannot look for another version or count anew: %s", exc)
