"""Settings of `regulars score`: `REGULARS_SCORE_*`."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from contracts.paths import Home
from contracts.settings import StackSettings, settings_config

Engine = Literal["auto", "local", "ray"]


class ScoreSettings(StackSettings):
    """One frozen object for one scoring.

    A shard is the unit of work, of resuming and of memory. `ray_from` is a guess: no size was found at which Ray wins on one machine.
    """

    model_config = settings_config("REGULARS_SCORE_")

    home: Path = Path("var")
    business_id: str | None = Field(None, description="Only this business; all when not given.")
    as_of: datetime | None = Field(None, description="Moment that the scores are about; see `runs.default_as_of` when not given.")
    shards: int | None = Field(None, ge=1, le=100_000, description="Parts that the customers are split into; by `shard_size` if not given.")
    shard_size: int = Field(25_000, ge=1, le=1_000_000, description="Customers of a shard where `shards` is not given.")
    landing_rows: int = Field(250_000, ge=1, description="Rows, about, that become visible in the warehouse at one instant.")
    workers: int | None = Field(None, ge=1, le=1024, description="Actors (threads of the local engine); all cores when not given.")
    batch_size: int = Field(1024, ge=1, le=1024, description="Rows of one call of the model.")
    engine: Engine = Field("auto", description="local: in this process. ray: actors of Ray Data. auto: by `ray_from`.")
    ray_from: int = Field(200_000, ge=0, description="Customers from which `auto` takes Ray: starting it takes seconds.")
    ray_address: str | None = Field(None, description="Join this Ray cluster (or `auto`) instead of starting one for the command.")
    object_store_mb: int = Field(100, ge=80, le=65_536)

    @property
    def folder(self) -> Home:
        return Home(self.home)

    @property
    def worker_count(self) -> int:
        """Actors or threads."""
        return self.workers or os.cpu_count() or 1
