"""Where things lie under one data directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Home:
    """The folder that holds all that a run makes; nothing is written elsewhere.

    warehouse/ Parquet; models/ bundles; triton_repo/ the built model repository; mlruns/ MLflow; online/ Feast on SQLite;
    embeddings/ vectors of customers, one file a model version; regulars.db operational data; run/ process ids and logs.
    """

    root: Path

    @property
    def warehouse(self) -> Path:
        return self.root / "warehouse"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def triton_repo(self) -> Path:
        return self.root / "triton_repo"

    @property
    def mlruns(self) -> Path:
        return self.root / "mlruns"

    @property
    def online(self) -> Path:
        return self.root / "online"

    @property
    def embeddings(self) -> Path:
        return self.root / "embeddings"

    @property
    def database_url(self) -> str:
        return f"sqlite:///{(self.root / 'regulars.db').resolve()}"

    @property
    def run(self) -> Path:
        return self.root / "run"
