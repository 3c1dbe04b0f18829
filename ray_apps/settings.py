"""Settings of the serving processes: `REGULARS_SERVE_*`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from contracts.api import Objective
from contracts.paths import Home
from contracts.settings import StackSettings, settings_config


class ServeSettings(StackSettings):
    """One frozen object for `regulars serve` and everything it starts.

    The parent resolves `database_url`, `triton_url` and the clock's anchor and hands the object to the replicas, so that all of
    them agree.
    """

    model_config = settings_config("REGULARS_SERVE_")

    home: Path = Path("var")
    host: str = Field("127.0.0.1", description="Address of the public port; loopback unless you put a firewall in front.")
    port: int = Field(8000, ge=0, le=65535, description="0 picks a free one.")
    replicas: int = Field(1, ge=1, le=64)
    business_id: str | None = Field(None, description="Tenant that the demo key is for; the warehouse's first when not given.")

    clock: Literal["auto", "wall", "warehouse"] = "auto"
    clock_anchor_serving: datetime | None = Field(None, description="Serving time at `clock_anchor_wall`; None: the wall clock.")
    clock_anchor_wall: datetime | None = None

    database_url: str | None = Field(None, description="Operational database; SQLite under the home when not given.")
    triton_url: str | None = Field(None, description="host:port of Triton's gRPC; filled in by the parent process.")

    tower_deadline_ms: int = Field(150, ge=1, le=60_000, description="Longest wait for Triton's answer to one request.")
    features_deadline_ms: int = Field(250, ge=1, le=60_000, description="Longest wait for the customer's state.")
    breaker_failures: int = Field(3, ge=1, le=1000, description="Failures in a row that open a circuit breaker.")
    breaker_probe_ms: int = Field(250, ge=10, le=60_000, description="Pause between two background probes of an open breaker.")

    max_body_bytes: int = Field(1 << 20, ge=1024)
    max_ongoing_requests: int = Field(64, ge=1, le=4096, description="Requests that one replica works on at once.")
    max_queued_requests: int = Field(64, ge=0, le=65_536, description="Requests that wait beyond those; more are answered 503.")
    max_recommendations: int = Field(50, ge=1, le=1000)

    candidates: int = Field(100, ge=10, le=400, description="Nearest rewards that the ranker scores, beside the customer's own.")
    explain_deadline_ms: int = Field(50, ge=0, le=60_000, description="Longest wait for what moved the scores; 0: reasons without it.")
    statistics_refresh_s: float = Field(300.0, gt=0, le=86_400, description="Pause between two counts of what is redeemed now.")

    objective: Objective = Field("redemption", description="What the order of an answer maximises; a request may ask for another.")
    diversity: float = Field(0.0, ge=0, le=1, description="Weight of being unlike the rewards before; 0 orders by the objective alone.")
    max_per_category: int | None = Field(None, ge=1, description="Most rewards of one category in an answer; any number when not given.")
    max_per_type: int | None = Field(None, ge=1, description="Most rewards of one type in an answer; any number when not given.")
    new_share: float = Field(0.0, ge=0, le=1, description="Least share of an answer for rewards that began in the last 30 days, if any.")
    frequency_cap: int | None = Field(
        None,
        ge=1,
        description="A reward shown this often within `frequency_days` without click or redemption is held back; never if not given.",
    )
    frequency_days: float = Field(7.0, gt=0, le=365)
    gross_margin: float = Field(0.6, ge=0, le=1, description="Margin of a basket before the reward, share of its amount.")
    reward_cost_share: float = Field(0.35, ge=0, le=1, description="What giving a reward costs, share of its face value.")
    point_value: float = Field(0.01, ge=0, le=1000, description="Liability of one point, money: released when points pay for a reward.")
    yearly_retention: float = Field(0.8, ge=0, lt=1, description="Share of customers still active a year later, for the clv objective.")
    yearly_discount_rate: float = Field(0.1, ge=0, le=1, description="For the clv objective.")
    retention_lift: float = Field(0.01, ge=0, le=1, description="How much one redemption raises the yearly retention; an assumption.")

    full_coverage_touches: int = Field(5, ge=1, description="Touches from which on the coverage is `full`; fewer is `sparse`.")
    deployed_poll_s: float = Field(1.0, gt=0, le=3600, description="Pause between two looks at deployed.json.")
    landing_interval_s: float = Field(60.0, gt=0, le=86_400, description="Pause between two landings of the inbox in the warehouse.")
    start_timeout_s: float = Field(180.0, gt=0, le=3600)
    object_store_mb: int = Field(100, ge=80, le=65_536)
    noop_route: bool = Field(False, description="Also serve /noop, which does nothing: the floor that benchmarks compare with.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @property
    def folder(self) -> Home:
        return Home(self.home)
