"""Settings of single parts of the serving processes, in groups of their own under longer prefixes than `REGULARS_SERVE_`.

Imported with the package: whoever reads `REGULARS_SERVE_*` must know that these names are not mistyped ones of it.
"""

from __future__ import annotations

from pydantic import Field, model_validator

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


class ChurnSettings(StackSettings):
    """Forecasts of churn and value, and the rules that follow from them: `REGULARS_SERVE_CHURN_*`.

    The rules stand in until decisions are learned. Lifts and confidences are assumptions of the business, not measured effects.
    """

    model_config = settings_config("REGULARS_SERVE_CHURN_")
    deadline_ms: int = Field(300, ge=1, le=60_000, description="Longest wait for the model server's answer to one forecast.")
    risk_cuts: tuple[float, float, float] = Field(
        (0.4, 0.6, 0.8), description="90-day probability from which on it is MEDIUM, HIGH, CRITICAL."
    )
    stored_days: float = Field(7.0, ge=0, le=90, description="Oldest earlier forecast that stands in while the model server is away.")
    refresh_s: float = Field(600.0, gt=0, le=86_400, description="Pause between two counts of the business's cut points.")

    retention_lift: tuple[float, float, float, float] = Field(
        (0.0, 0.05, 0.10, 0.10), description="Share of churn that the action is assumed to prevent, by level from LOW to CRITICAL."
    )
    incentive_share: tuple[float, float, float, float] = Field(
        (0.0, 0.01, 0.03, 0.04), description="Share of the predicted CLV that an incentive may cost, by level from LOW to CRITICAL."
    )
    confidence: tuple[float, float, float] = Field(
        (0.8, 0.5, 0.2), description="In the recommendation, for coverage full, sparse, cold start."
    )
    tier_spend: tuple[float, float, float] = Field(
        (300.0, 900.0, 1800.0), description="Net spend in 365 days that SILVER, GOLD and PLATINUM need."
    )

    @model_validator(mode="after")
    def _ordered(self) -> ChurnSettings:
        for name in ("risk_cuts", "tier_spend"):
            values = getattr(self, name)
            if list(values) != sorted(set(values)) or values[0] <= 0:
                raise ValueError(f"{name} is {values}, must rise from above 0")
        for name in ("risk_cuts", "retention_lift", "incentive_share", "confidence"):
            if not all(0 <= v <= 1 for v in getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}, must be 0 to 1 each")
        return self


class QuestionSettings(StackSettings):
    """Plain-English questions over HTTP: `REGULARS_SERVE_QUESTIONS_*`. How they are run: `REGULARS_ASK_*`."""

    model_config = settings_config("REGULARS_SERVE_QUESTIONS_")
    replicas: int = Field(1, ge=1, le=16, description="Processes that answer questions.")
    threads: int = Field(2, ge=1, le=64, description="Questions that one of them works on at once.")
    waiting: int = Field(16, ge=0, le=4096, description="Questions that wait for one of them beyond those; more are answered 503.")
    deadline_s: float = Field(20.0, gt=0, le=600, description="Longest wait for an answer; above the time limit of one query.")
    decode_deadline_s: float = Field(5.0, gt=0, le=600, description="Longest wait for the model server's reading of a question.")
    look_s: float = Field(2.0, gt=0, le=3600, description="Pause between two looks for another deployed model.")
    csv_rows: int = Field(10_000, ge=1, le=1_000_000, description="Rows of a CSV export at most.")
    pdf_rows: int = Field(500, ge=1, le=10_000, description="Rows of a PDF export at most.")
    chart_scale: float = Field(2.0, ge=0.5, le=4, description="Pixels of a chart's picture for each of its units.")


class PictureServeSettings(StackSettings):
    """Pictures over HTTP: `REGULARS_PICTURES_*`.

    Bounds of one picture: `REGULARS_PICTURE_*`. How it is told what a picture shows: `REGULARS_RECOGNIZE_*`; what a receipt earns:
    `REGULARS_POINTS_*`.
    """

    model_config = settings_config("REGULARS_PICTURES_")
    replicas: int = Field(1, ge=1, le=16, description="Processes that look at pictures.")
    threads: int = Field(2, ge=1, le=64, description="Pictures that one of them works on at once; each may take some hundred MB.")
    waiting: int = Field(6, ge=0, le=1024, description="Pictures that wait for one of them beyond those; more are answered 503.")
    uploads: int = Field(8, ge=1, le=1024, description="Uploads that one replica of the ingress holds in memory at once; more: 503.")
    receive_s: float = Field(30.0, gt=0, le=600, description="Longest time that the bytes of an upload may take to come.")
    deadline_s: float = Field(30.0, gt=0, le=600, description="Longest wait for an answer, from when the upload is there.")
    network_deadline_s: float = Field(10.0, gt=0, le=600, description="Longest wait for the model server in one stage of a picture.")
    teach_bytes: int = Field(24_000_000, ge=10_000, le=500_000_000, description="Most bytes of all photos of a product together.")
    most_taught: int = Field(2_000, ge=1, le=100_000, description="Products that one business may teach.")
    warm_up_s: float | None = Field(
        5.0,
        ge=0,
        le=86_400,
        description="Pause after the start until the networks are loaded; the first picture loads them if it is sooner.",
    )
    look_s: float = Field(
        15.0,
        gt=0,
        le=3600,
        description="Pause before the model server is asked again when it failed, and between two looks for another network.",
    )
    match_products: int = Field(
        20_000, ge=0, le=1_000_000, description="Products of a business that a receipt's lines are matched with at most."
    )
