"""Settings of single parts of the serving processes, in groups of their own under longer prefixes than `REGULARS_SERVE_`.

Imported with the package: whoever reads `REGULARS_SERVE_*` must know that these names are not mistyped ones of it.
"""

from __future__ import annotations

from pydantic import Field

from contracts.settings import StackSettings, settings_config


class VectorSettings(StackSettings):
    """How long a customer's vector may be used again: `REGULARS_SERVE_VECTOR_*`."""

    model_config = settings_config("REGULARS_SERVE_VECTOR_")
    ttl_s: float = Field(60.0, ge=0, le=86_400, description="Oldest vector that is used again; 0 computes one for every request.")
    entries: int = Field(20_000, ge=1, le=10_000_000, description="Customers at most; the one not used for longest makes room.")


class SimilarSettings(StackSettings):
    """How the customers' vectors are kept: `REGULARS_SERVE_SIMILAR_*`."""

    model_config = settings_config("REGULARS_SERVE_SIMILAR_")
    background: bool = Field(True, description="Embed every known customer in the background; else only those who are asked about.")
    batch: int = Field(16, ge=1, le=256, description="Customers of one call of the model server: a larger one holds requests up longer.")
    pause_s: float = Field(0.01, ge=0, le=60, description="Least pause between two batches; never shorter than the batch took.")
    poll_s: float = Field(1.0, gt=0, le=3600, description="Pause between two looks for customers with new events.")
    refresh_s: float = Field(21_600.0, ge=1, description="Oldest vector of a customer without new events; then it is computed again.")
    save_s: float = Field(60.0, gt=0, le=86_400, description="Pause between two savings of the file while it is being filled.")
    deadline_s: float = Field(5.0, gt=0, le=60, description="Longest wait for the model server's answer to one batch.")
    exact_up_to: int = Field(100_000, ge=0, description="Customers of one business up to which every vector is compared.")
