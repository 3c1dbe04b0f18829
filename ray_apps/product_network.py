"""The network that knows products, run by the model server."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from contracts.errors import StackError, UpstreamError
from contracts.products import FINGERPRINT, NAME, PRODUCT_CLASSIFIER, VERSION, fingerprint
from serving import repository
from serving.client import BlockingTritonClient
from vision.products import LocalNetwork, ProductNetwork, read_record

logger = logging.getLogger("regulars.products")


def open_network(triton_url: str, triton_repo: Path, folder: Path, deadline_s: float = 5.0, threads: int | None = None) -> ProductNetwork:
    """The model server's network of a products folder, loaded there when it is not yet; one in this process when that cannot be had.

    Args:
        triton_url: `host:port` of the server's gRPC endpoint; empty where there is none.
        triton_repo: the repository that the server reads.
        folder: as `regulars train products` writes it.
        deadline_s: longest time a call may take.
        threads: cores for the network in this process.

    Raises:
        ArtifactError: the folder is missing, damaged or stale.
    """
    wanted = fingerprint(read_record(folder).raw["sha256"])
    if not triton_url:
        return LocalNetwork(folder, threads)
    remote = TritonNetwork(triton_url, deadline_s)
    try:
        if not remote.serves(wanted):
            repository.build_products(folder, triton_repo)
            remote.load()
        if remote.serves(wanted):
            return remote
        logger.warning("products are recognised in this process: the model server's repository is not %s", triton_repo)
    except (StackError, OSError) as exc:
        logger.warning("products are recognised in this process: %s", exc)
    remote.close()
    return LocalNetwork(folder, threads)


class TritonNetwork:
    """`vision.products.ProductNetwork` behind gRPC. Safe from several threads. Nothing is sent again.

    Args:
        url: `host:port` of the server's gRPC endpoint.
        deadline_s: longest time a call may take.
    """

    def __init__(self, url: str, deadline_s: float = 5.0) -> None:
        self._client = BlockingTritonClient(url, deadline_s)

    def infer(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """See `vision.products.ProductNetwork`. Raises as `BlockingTritonClient.infer` does."""
        return self._client.infer(PRODUCT_CLASSIFIER, {"pixels": pixels}, VERSION)

    def serves(self, wanted: str) -> bool:
        """Whether the server has the weights of a fingerprint; False as well where it cannot be reached."""
        try:
            return self._client.parameter(NAME, FINGERPRINT, VERSION) == wanted
        except UpstreamError:
            return False

    def load(self) -> None:
        """Have the server load what lies in its repository.

        Raises:
            UpstreamError: it is away, or could not.
        """
        self._client.load(NAME)

    def close(self) -> None:
        """Close the connection for good."""
        self._client.close()
