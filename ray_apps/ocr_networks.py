"""The two networks that read text, run by the model server: one call for a page's map, one call for each batch of its crops."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from contracts.ocr import OCR_DETECT, OCR_MODELS, OCR_RECOGNIZE, VERSION
from ray_apps.networks import Served, remote_or_local
from serving import repository
from vision.export_ocr import read_record
from vision.ocr import Answer, LocalNetworks, Networks


def open_networks(triton_url: str, triton_repo: Path, folder: Path, deadline_s: float = 10.0, threads: int | None = None) -> Networks:
    """The model server's networks of an OCR folder, loaded there when they are not yet; ones in this process when that cannot be had.

    Args:
        triton_url: `host:port` of the server's gRPC endpoint; empty where there is none.
        triton_repo: the repository that the server reads.
        folder: as `vision.export_ocr.export` writes it.
        deadline_s: longest time one stage of a picture may take.
        threads: cores for the networks in this process.

    Raises:
        ArtifactError: the folder is missing, damaged or stale.
    """
    wanted = str(read_record(folder)["fingerprint"])
    local = partial(LocalNetworks, folder, threads)
    if not triton_url:
        return local()
    remote = TritonNetworks(triton_url, folder, deadline_s)
    return remote_or_local(remote, local, wanted, partial(repository.build_ocr, folder), triton_repo, "text is read")


class TritonNetworks:
    """`vision.ocr.Networks` behind gRPC. Safe from several threads. Nothing is sent again.

    Args:
        url: `host:port` of the server's gRPC endpoint.
        folder: the OCR folder whose networks the server has; its record holds the alphabet.
        deadline_s: longest time one stage of a picture may take: its map, or all its batches.
    """

    def __init__(self, url: str, folder: Path, deadline_s: float = 10.0) -> None:
        self.alphabet: Sequence[str] = tuple(read_record(folder)["characters"])
        self.served = Served(url, deadline_s, tuple(OCR_MODELS), VERSION)

    def detect(self, pixels: np.ndarray) -> np.ndarray:
        """See `vision.ocr.Networks`. Raises as `BlockingTritonClient.infer` does."""
        return self.served.client.infer(OCR_DETECT, {"pixels": pixels[None]}, VERSION)["text_map"][0]

    def recognize(self, batches: Sequence[np.ndarray]) -> list[Answer]:
        """See `vision.ocr.Networks`. Raises as `BlockingTritonClient.infer` does."""
        answers = self.served.client.infer_all(OCR_RECOGNIZE, [{"crops": batch} for batch in batches], VERSION)
        return [(answer["characters"], answer["probabilities"]) for answer in answers]

    def close(self) -> None:
        """Close the connection for good."""
        self.served.close()
