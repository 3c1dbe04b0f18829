"""The network that knows products, run by the model server."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from contracts.products import NAME, PRODUCT_CLASSIFIER, VERSION, fingerprint
from ray_apps.networks import Served, remote_or_local
from serving import repository
from vision.products import LocalNetwork, ProductNetwork, read_record


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
    local = partial(LocalNetwork, folder, threads)
    if not triton_url:
        return local()
    remote = TritonNetwork(triton_url, deadline_s)
    return remote_or_local(remote, local, wanted, partial(repository.build_products, folder), triton_repo, "products are recognised")


class TritonNetwork:
    """`vision.products.ProductNetwork` behind gRPC. Safe from several threads. Nothing is sent again.

    Args:
        url: `host:port` of the server's gRPC endpoint.
        deadline_s: longest time a call may take.
    """

    def __init__(self, url: str, deadline_s: float = 5.0) -> None:
        self.served = Served(url, deadline_s, (NAME,), VERSION)

    def infer(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """See `vision.products.ProductNetwork`. Raises as `BlockingTritonClient.infer` does."""
        return self.served.client.infer(PRODUCT_CLASSIFIER, {"pixels": pixels}, VERSION)

    def close(self) -> None:
        """Close the connection for good."""
        self.served.close()
