"""The networks that read text, exported once from the installed package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vision.export_ocr import export
from vision.ocr import LocalNetworks


@pytest.fixture(scope="session")
def ocr_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCR folder for Latin script."""
    folder = tmp_path_factory.mktemp("ocr") / "model"
    export(folder)
    return folder


@pytest.fixture(scope="session")
def networks(ocr_folder: Path) -> Iterator[LocalNetworks]:
    """Its networks in this process."""
    local = LocalNetworks(ocr_folder, 2)
    yield local
    local.close()
