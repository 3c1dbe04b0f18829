"""Networks that the model server runs where it can, and this process where it cannot."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from contracts.errors import StackError, UpstreamError
from contracts.products import FINGERPRINT
from serving.client import BlockingTritonClient

logger = logging.getLogger("regulars.networks")


class Served:
    """Models of the model server that one export made together, told by a parameter of their configuration.

    Args:
        url: `host:port` of the server's gRPC endpoint.
        deadline_s: longest time a call may take.
        names: of the models.
        version: of them.
    """

    def __init__(self, url: str, deadline_s: float, names: tuple[str, ...], version: str) -> None:
        self.client = BlockingTritonClient(url, deadline_s)
        self._names = names
        self._version = version

    def serves(self, wanted: str) -> bool:
        """Whether the server has the weights of a fingerprint; False as well where it cannot be reached."""
        try:
            return all(self.client.parameter(name, FINGERPRINT, self._version) == wanted for name in self._names)
        except UpstreamError:
            return False

    def load(self) -> None:
        """Have the server load what lies in its repository.

        Raises:
            UpstreamError: it is away, or could not.
        """
        for name in self._names:
            self.client.load(name)

    def alive(self) -> bool:
        """Whether the server answers at all."""
        try:
            return bool(self.client.server_id())
        except UpstreamError:
            return False

    def withdraw(self, repository: Path) -> None:
        """Take them out of a repository: the server would not start again with a model that it cannot load."""
        for name in self._names:
            shutil.rmtree(repository / name, ignore_errors=True)

    def close(self) -> None:
        """Close the connection for good."""
        self.client.close()


class _Remote(Protocol):
    served: Served


R = TypeVar("R", bound=_Remote)
L = TypeVar("L")


def remote_or_local(remote: R, local: Callable[[], L], wanted: str, build: Callable[[Path], object], repository: Path, what: str) -> R | L:
    """The model server's networks, loaded there when they are not yet; ones in this process, with a warning, when that cannot be had.

    Args:
        wanted: fingerprint of the weights.
        build: writes them into a model repository.
        repository: what the server reads.
        what: is done by them, for the warning.
    """
    served = remote.served
    try:
        if not served.serves(wanted):
            build(repository)
            try:
                served.load()
            except StackError:
                if served.alive():
                    served.withdraw(repository)
                raise
        if served.serves(wanted):
            return remote
        logger.warning("%s in this process: the model server's repository is not %s", what, repository)
    except (StackError, OSError) as exc:
        logger.warning("%s in this process: %s", what, exc)
    served.close()
    return local()
