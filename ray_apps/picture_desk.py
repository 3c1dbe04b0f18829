"""What the ingress and whoever looks at pictures say to each other; light, since the ingress needs none of what looks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from contracts.api_pictures import PictureContext

NO_MODEL = "none"


@dataclass(frozen=True)
class Shown:
    """A picture that was sent.

    Attributes:
        image: the file as it came.
        key: the caller's idempotency key: the first answer under it is the answer to all.
    """

    business_id: str
    image: bytes
    context: PictureContext = field(default_factory=PictureContext)
    key: str | None = None


@dataclass(frozen=True)
class Recognised:
    """A picture's answer.

    Attributes:
        body: of a `RecognitionResponse`.
        outcome: for the metrics: the status of a receipt, `challenge`, or the kind of the picture.
        repeated: the answer was given before.
        ms: milliseconds by stage.
    """

    body: dict[str, Any]
    outcome: str
    repeated: bool = False
    ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TaughtRow:
    """A product that a business taught. `taught_at`: ISO 8601."""

    product_id: str
    name: str
    brand: str
    photos: int
    version: int
    taught_at: str


@dataclass(frozen=True)
class PictureStatus:
    """What looks at pictures, and why it cannot; the version is `none` until the first picture."""

    model_version: str = NO_MODEL
    problem: str | None = None


class PictureDesk(Protocol):
    """Whoever looks at pictures, here or in another process. All but `close` may raise UpstreamError, UpstreamTimeout, Overloaded."""

    async def recognise(self, shown: Shown) -> Recognised:
        """Look at a picture, and pay what it earns, once.

        Raises:
            TooLarge, WrongType, PictureRefused: the file is not opened. UnknownItem: there is no such challenge.
            Conflict: another picture was sent under this key. ArtifactError: a network is missing or damaged.
        """
        ...

    async def teach(self, business_id: str, product_id: str, name: str, brand: str, images: list[bytes]) -> tuple[TaughtRow, str]:
        """Add a product to a business's catalogue, or replace what was taught of it; with the version of what looked at the photos.

        Raises:
            TooLarge, WrongType, PictureRefused: a file is not opened. ContractError: the catalogue is full.
            ArtifactError: there is no network that knows products.
        """
        ...

    async def taught(self, business_id: str) -> list[TaughtRow]:
        """What a business taught, by product id. Raises ArtifactError."""
        ...

    async def forget(self, business_id: str, product_id: str) -> None:
        """Take a product out of a catalogue. Raises UnknownItem, ArtifactError."""
        ...

    async def status(self) -> PictureStatus:
        """What looks at pictures."""
        ...

    async def close(self) -> None:
        """Let go of what this process holds for it."""
        ...
