"""Looks at pictures: opening, the networks, the rules about receipts, the catalogue of taught products; in a replica of its own.

Decoding a large picture takes a core for tenths of a second and reading a receipt for one; beside the recommendations' event loop they
would hold those up. `ray_apps.app` puts a `PicturesDesk` into a deployment which the ingress calls by its handle; without Ray (tests) the
service calls it directly.

Nothing is loaded when the process starts, so the stack starts no later for it: the networks come with the first picture, or a few seconds
after the stack was ready. They run in the model server. When that fails, the picture is looked at once more by networks in this process,
and so are the next ones, until the model server is asked again.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from contracts.errors import ArtifactError, ConfigError, ContractError, Overloaded, StackError, UnknownItem, UpstreamError
from ray_apps.clock import ServingClock
from ray_apps.picture_desk import NO_MODEL, PictureStatus, Recognised, Shown, TaughtRow
from ray_apps.record import running_record
from ray_apps.settings import ServeSettings
from ray_apps.store import OperationalStore
from ray_apps.tuning import PictureServeSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ray_apps.pictures import PictureStore
    from vision.catalogue import Taught
    from vision.fingerprint import Fingerprint
    from vision.recognizer import Recognizer, Seen

logger = logging.getLogger("regulars.pictures")
T = TypeVar("T")
Opener = Callable[[bool], "Recognizer"]
"""From whether the model server may be asked to a recognizer."""
_AGAIN_AFTER = 4
"""Looks between two tries to have networks that run in this process run by the model server."""


@dataclass(frozen=True)
class _Look:
    """One picture, looked at.

    Attributes:
        print_: of a receipt.
        names: product id to name, of the products that a receipt's lines may mean.
    """

    seen: Seen
    print_: Fingerprint | None
    names: dict[str, str]
    ms: dict[str, float]


class PicturesDesk:
    """Looks at pictures in this process.

    Args:
        settings: whose home, model server, database and clock.
        opener: opens a recognizer; that of the home when None.
    """

    def __init__(self, settings: ServeSettings, *, opener: Opener | None = None) -> None:
        self.settings, self.tuning = settings, PictureServeSettings.load()
        self.clock = ServingClock(settings.clock_anchor_serving, settings.clock_anchor_wall)
        self._store = OperationalStore(settings.database_url or settings.folder.database_url)
        self._threads = ThreadPoolExecutor(self.tuning.threads, thread_name_prefix="picture")
        self._inside = 0
        self.eyes = _Eyes(settings, self.tuning, opener)
        self._lines: Any = None
        self._warming: asyncio.Task[None] | None = None

    @functools.cached_property
    def pictures(self) -> PictureStore:
        """What is stored of pictures."""
        from ray_apps.pictures import PictureStore

        return PictureStore(self._store)

    async def close(self) -> None:
        """End the threads and the database connections."""
        if self._warming is not None:
            self._warming.cancel()
            with suppress(asyncio.CancelledError):
                await self._warming
        await asyncio.to_thread(self._threads.shutdown, True, cancel_futures=True)
        self.eyes.close()
        await self._store.close()

    async def recognise(self, shown: Shown) -> Recognised:
        from ray_apps.deployments import picture_answer as answers

        began, now = time.perf_counter(), self.clock.now()
        sha256 = hashlib.sha256(shown.image).hexdigest()
        record = answers.blank(shown, sha256, now)
        if shown.key is not None and (kept := await self.pictures.answered(record)) is not None:
            return Recognised(kept.answer, "repeated", repeated=True)
        challenge = await self._challenge(shown)
        look = await self._working(lambda: self._look(shown, now.date()))
        looked = time.perf_counter()
        record = answers.of_look(record, look.seen)
        body = answers.base(record, look.seen)
        outcome: str = look.seen.kind
        if look.print_ is not None and look.seen.receipt is not None:
            decided = await answers.judged(self.pictures, record, look.seen.receipt, look.print_, now)
            outcome = answers.add_receipt(body, look.seen.receipt, decided, record)
        if shown.context.expected_product is not None:
            answers.add_expected(body, look.seen, look.names, shown.context.expected_product)
        if challenge is not None:
            outcome = await answers.add_challenge(body, look.seen, look.names, challenge, record, self.pictures) or outcome
        ended = time.perf_counter()
        ms = look.ms | {"award": (ended - looked) * 1000}
        body["latency"] = round((ended - began) * 1000, 3)
        kept = await self.pictures.recognised(answers.finished(record, body))
        return Recognised(kept.answer, outcome, kept.answer != body, ms)

    async def _challenge(self, shown: Shown) -> Any:
        """The challenge that a picture is for, before it is looked at. Raises UnknownItem."""
        name = shown.context.challenge_id
        return None if name is None else await self.pictures.challenge(shown.business_id, name)

    def _look(self, shown: Shown, today: date) -> _Look:
        """In a thread: open the picture and look at it."""
        from vision.fingerprint import fingerprint
        from vision.upload import open_picture

        at = [time.perf_counter()]
        picture = open_picture(shown.image)
        at.append(time.perf_counter())
        matcher = self._matcher(shown.business_id)
        at.append(time.perf_counter())
        seen = self.eyes.used(lambda r: r.look(picture, today, shown.business_id, matcher))
        print_ = fingerprint(seen.receipt, picture) if seen.receipt is not None else None
        names = {} if matcher is None else {p.product_id: p.name for p in matcher.products}
        ms = {"open": (at[1] - at[0]) * 1000, "products": (at[2] - at[1]) * 1000}
        return _Look(seen, print_, names, ms | _stages(seen.stages_ms))

    def _matcher(self, business_id: str) -> Any:
        from ray_apps.deployments.receipt_lines import Matchers, by_letters

        if self._lines is None:
            self._lines = Matchers(self.settings.folder.warehouse, self.tuning.match_products, by_letters)
        return self._lines.of(business_id)

    async def teach(self, business_id: str, product_id: str, name: str, brand: str, images: list[bytes]) -> tuple[TaughtRow, str]:
        return await self._working(lambda: self._teach(business_id, product_id, name, brand, images))

    def _teach(self, business_id: str, product_id: str, name: str, brand: str, images: Sequence[bytes]) -> tuple[TaughtRow, str]:
        from vision.upload import open_picture

        pictures = [open_picture(image).pixels for image in images]

        def work(recognizer: Recognizer) -> tuple[TaughtRow, str]:
            catalogue = catalogue_of(recognizer)
            there = {p.product_id for p in catalogue.products(business_id)}
            if product_id not in there and len(there) >= self.tuning.most_taught:
                raise ContractError(
                    f"{len(there)} products are taught, at most {self.tuning.most_taught} may be. Delete one that is not needed any more."
                )
            return _row(catalogue.teach(business_id, product_id, name, brand, pictures)), recognizer.version

        return self.eyes.used(work)

    async def taught(self, business_id: str) -> list[TaughtRow]:
        def work(recognizer: Recognizer) -> list[TaughtRow]:
            # Without a network that knows products nothing is known by its photos, whatever was taught once.
            return [_row(t) for t in catalogue_of(recognizer).products(business_id)] if recognizer.products is not None else []

        return await self._working(lambda: self.eyes.used(work))

    async def forget(self, business_id: str, product_id: str) -> None:
        def work(recognizer: Recognizer) -> None:
            if recognizer.products is None:
                raise UnknownItem(f"no product {product_id!r} was taught. List the taught products and correct the id")
            catalogue_of(recognizer).remove(business_id, product_id)

        await self._working(lambda: self.eyes.used(work))

    async def status(self) -> PictureStatus:
        if self._warming is None and self.tuning.warm_up_s is not None:
            self._warming = asyncio.get_running_loop().create_task(self._warm_up())
        return PictureStatus(self.eyes.version, self.eyes.problem)

    async def _working(self, work: Callable[[], T]) -> T:
        """Run in a thread, a bounded number at once. A place is free again when the work has ended, not when somebody stopped waiting.

        Raises:
            Overloaded: all places are taken.
        """
        bound = self.tuning.threads + self.tuning.waiting
        if self._inside >= bound:
            raise Overloaded(f"{self._inside} pictures are being looked at, the bound is {bound}. Try again after Retry-After.", 1)
        self._inside += 1
        loop = asyncio.get_running_loop()
        job = self._threads.submit(work)
        job.add_done_callback(lambda _: self._leave(loop))
        return await asyncio.wrap_future(job)

    def _leave(self, loop: asyncio.AbstractEventLoop) -> None:
        def leave() -> None:
            self._inside -= 1

        with suppress(RuntimeError):  # the loop is closed: nobody counts any more
            loop.call_soon_threadsafe(leave)

    async def _warm_up(self) -> None:
        """Load the networks a while after the stack has said that it is ready; never where none runs (tests)."""
        while running_record(self.settings.folder.run) is None:
            await asyncio.sleep(1.0)
        await asyncio.sleep(self.tuning.warm_up_s or 0.0)
        try:
            await self._working(lambda: self.eyes.used(lambda r: r.version))
        except StackError as exc:
            logger.warning("pictures: %s", exc)


class _Eyes:
    """The recognizer: opened when it is first needed, opened anew when another network is there, with a spare for when the model server
    fails. Safe from several threads."""

    def __init__(self, settings: ServeSettings, tuning: PictureServeSettings, opener: Opener | None) -> None:
        self._settings, self._tuning = settings, tuning
        self._open = opener or functools.partial(_opened, settings, tuning)
        self._lock = threading.Lock()
        self._first: Recognizer | None = None
        self._spare: Recognizer | None = None
        self._stamp: object = None
        self._looked = self._failed = self._opened = float("-inf")
        self.version, self.problem = NO_MODEL, _missing()

    def used(self, work: Callable[[Recognizer], T]) -> T:
        """Work with a recognizer; once more with networks in this process when the model server fails.

        Raises:
            what `work` raises. ArtifactError, ConfigError: there is no recognizer.
        """
        if time.monotonic() - self._failed > self._tuning.look_s:
            try:
                return work(self._current())
            except UpstreamError as exc:
                logger.warning("pictures are looked at in this process: %s", exc)
                self._failed = time.monotonic()
        return work(self._in_process())

    def _current(self) -> Recognizer:
        with self._lock:
            if self._first is None or time.monotonic() - self._looked > self._tuning.look_s:
                self._looked = time.monotonic()
                stamp = _stamp(self._settings.home)
                if self._first is None or stamp != self._stamp or self._might_be_served():
                    self._first, self._spare, self._stamp = self._opening(True), None, stamp
                    self._opened = time.monotonic()
            return self._first

    def _might_be_served(self) -> bool:
        """Whether networks run in this process because the model server could not be had when they were opened, a good while ago."""
        return bool(
            self._settings.triton_url
            and time.monotonic() - self._opened > _AGAIN_AFTER * self._tuning.look_s
            and any(not hasattr(network, "served") for network in _networks(self._first))
        )

    def _in_process(self) -> Recognizer:
        with self._lock:
            if self._spare is None:
                self._spare = self._opening(False)
            return self._spare

    def _opening(self, served: bool) -> Recognizer:
        try:
            found = self._open(served)
        except (ArtifactError, ConfigError, UpstreamError) as exc:
            self.problem = str(exc)
            # Also what the operator has to set right is, to a caller, a part that is not there at the moment.
            raise ArtifactError(self.problem) from exc
        self.version, self.problem = found.version, None
        return found

    def close(self) -> None:
        """Let go of the networks."""
        with self._lock:
            for recognizer in (self._first, self._spare):
                for network in _networks(recognizer):
                    if hasattr(network, "close"):
                        network.close()
            self._first = self._spare = None


def _opened(settings: ServeSettings, tuning: PictureServeSettings, served: bool) -> Recognizer:
    """The recognizer of a home, its networks in the model server or in this process."""
    from ray_apps.ocr_networks import open_networks
    from ray_apps.product_network import open_network
    from vision.recognizer import open_recognizer

    url = settings.triton_url or "" if served else ""
    repository, deadline_s = settings.folder.triton_repo, tuning.network_deadline_s

    def text(folder: Path) -> Any:
        return open_networks(url, repository, folder, deadline_s)

    def products(folder: Path) -> Any:
        return open_network(url, repository, folder, deadline_s)

    return open_recognizer(settings.home, text, products)


def _networks(recognizer: Recognizer | None) -> list[Any]:
    """Where the networks of a recognizer run; none of engines that are not ours."""
    parts = (getattr(recognizer, "engine", None), getattr(recognizer, "products", None))
    found = (getattr(part, "networks", None) or getattr(part, "network", None) for part in parts)
    return [network for network in found if network is not None]


def _missing() -> str | None:
    """Why no picture can be looked at, as far as can be told without loading anything."""
    from importlib.util import find_spec

    from vision.ocr_settings import OcrSettings

    engine = OcrSettings.load().engine
    if engine in ("paddle", "rapidocr") and find_spec("rapidocr") is None:
        return "the package rapidocr, whose networks read text, is not installed. Install it: pip install rapidocr==3.10.*"
    return None


def _stamp(home: Path) -> object:
    """Changes when there is another product network to use."""
    from contracts.products import BUNDLE, RECORD

    try:
        found = (home / "vision" / BUNDLE / "artifact" / RECORD).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def catalogue_of(recognizer: Recognizer) -> Any:
    """The catalogue of taught products.

    Raises:
        ArtifactError: no network knows products here.
    """
    if recognizer.products is None or recognizer.products.catalogue is None:
        raise ArtifactError("there is no trained product network here, so nothing can be taught. Train one: regulars train products")
    return recognizer.products.catalogue


def _row(taught: Taught) -> TaughtRow:
    return TaughtRow(taught.product_id, taught.name, taught.brand, taught.photos, taught.version, taught.taught_at)


def _stages(found: dict[str, float]) -> dict[str, float]:
    """The stages that the metrics know: gate, text (finding and reading it), parse, match, product."""
    ms: dict[str, float] = {}
    for name, value in found.items():
        group = name.partition("_")[0]
        if group != "total":
            ms[group] = ms.get(group, 0.0) + value
    return ms
