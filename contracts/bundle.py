"""A model bundle: one folder with everything that a model needs to be served, and its record.

There are two (`BUNDLES`), each with versions, a deployed one and models on Triton of its own: the recommender `two-tower`, described here,
and `sequence`, described in contracts/sequence.py.

<models dir>/two-tower/<version>/
    manifest.json      BundleManifest: who made it from what, and the checksum of each file
    user_tower.onnx item_tower.onnx ranker.onnx next_offer.onnx
    vocabulary.json    list of tokens; index = token id; 0 "<pad>", 1 "<unknown>", then "r:<reward_id>" and "c:<category>"
    rewards.parquet    the catalogue, columns of the `rewards` table plus `redemptions` and `redeemer_share` (last 90 days)
    item_vectors.npy   float32 (N, D), L2 norm 1, rows in the order of rewards.parquet
    calibration.json   Calibration
    ranking.json       Ranking: from the ranker's logits to probabilities
    item_stats.npz     arrays about the rewards that the ranker's pair features are made of
    offer_types.json   OfferTypes: from the next-offer model's logits to probabilities
    golden.npz         inputs of every model and what torch gave for them; a tensor of one name is one array
<models dir>/two-tower/deployed.json   {"version": "7"}, replaced atomically
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from contracts import sequence
from contracts.errors import ArtifactError, ConfigError
from contracts.tables import REWARD_TYPES
from contracts.tensors import FEATURE_COUNT, MODELS, SEQUENCE_MODELS, ModelSpec

MODEL_NAME = "two-tower"
PAD, UNKNOWN = "<pad>", "<unknown>"
FILES = (
    *(f"{name}.onnx" for name in MODELS), "vocabulary.json", "rewards.parquet", "item_vectors.npy", "calibration.json", "ranking.json",
    "item_stats.npz", "offer_types.json", "golden.npz",
)  # fmt: skip
"""What a bundle of `two-tower` holds beside its manifest."""


@dataclass(frozen=True)
class BundleSpec:
    """One kind of bundle.

    Attributes:
        name: the folder of its versions, its name in the registry and in `modelVersion`.
        models: what its versions put on Triton, by name, in the order of a request.
        files: what a version holds beside its manifest.
        train: the command that makes a run of it.
    """

    name: str
    models: dict[str, ModelSpec]
    files: tuple[str, ...]
    train: str


BUNDLES: dict[str, BundleSpec] = {
    b.name: b
    for b in (
        BundleSpec(MODEL_NAME, MODELS, FILES, "regulars train recommender"),
        BundleSpec(sequence.MODEL_NAME, SEQUENCE_MODELS, sequence.FILES, "regulars train sequence"),
    )
}
"""By name. No model on Triton belongs to two of them, so their versions are counted apart."""
SERVED_MODELS: dict[str, ModelSpec] = {name: spec for b in BUNDLES.values() for name, spec in b.models.items()}
"""Every model of every bundle, by its name on Triton."""


def bundle_spec(name: str) -> BundleSpec:
    """The bundle of a name.

    Raises:
        ConfigError: there is none of that name.
    """
    try:
        return BUNDLES[name]
    except KeyError:
        raise ConfigError(f"there is no bundle {name!r}, must be one of {', '.join(BUNDLES)}. Correct the name") from None


def bundle_of(folder: Path) -> BundleSpec:
    """Which bundle a version's folder, `<models dir>/<bundle>/<version>`, is of.

    Raises:
        ConfigError: its parent folder has the name of none.
    """
    return bundle_spec(folder.parent.name)


class Calibration(BaseModel):
    """From a cosine to a probability of redemption within the horizon: sigmoid(slope * cosine + popularity * log_share + intercept).

    `log_share` is log(redeemer_share + 1e-6) of the reward.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    slope: float
    popularity: float
    intercept: float
    horizon_days: int
    ece: float

    def probability(self, cosine: float, redeemer_share: float) -> float:
        """Calibrated probability, 0..1, for one reward."""
        z = self.slope * cosine + self.popularity * math.log(redeemer_share + 1e-6) + self.intercept
        return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, z))))

    def probabilities(self, cosines: np.ndarray, redeemer_shares: np.ndarray) -> np.ndarray:
        """As `probability`, for arrays of equal shape; float64."""
        z = self.slope * cosines.astype(np.float64) + self.popularity * np.log(redeemer_shares + 1e-6) + self.intercept
        return _sigmoid(z)


class Ranking(BaseModel):
    """From the ranker's logits over one customer's candidates to calibrated probabilities.

    A customer redeems at a rate that their features give; the softmax of the redeem logits says how it is shared among the candidates;
    the chance of at least one redemption of a reward is 1 - exp(-its part of the rate). `slope` and `intercept` calibrate that on the
    scale on which it is linear, log(-log(1 - p)): log(rate) + log(share).

    Attributes:
        rate_weights, rate_intercept: log(rate) = rate_weights . standardised features + rate_intercept.
        feature_mean, feature_std: (44,), of the standardisation, which is cut to +-5.
        temperature: divides the logits before the softmax.
        slope, intercept: of the calibration; the slope is positive, so the order of the probabilities is the order of the logits.
        view_slope, view_intercept: probability of a view within the horizon = sigmoid(view_slope * view logit + view_intercept).
        horizon_days: what the probabilities are about. ece: error of the redemption's probability on a later slice.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    rate_weights: tuple[float, ...] = Field(min_length=FEATURE_COUNT, max_length=FEATURE_COUNT)
    rate_intercept: float
    feature_mean: tuple[float, ...] = Field(min_length=FEATURE_COUNT, max_length=FEATURE_COUNT)
    feature_std: tuple[float, ...] = Field(min_length=FEATURE_COUNT, max_length=FEATURE_COUNT)
    temperature: float = Field(gt=0)
    slope: float = Field(gt=0)
    intercept: float
    view_slope: float = 1.0
    view_intercept: float = 0.0
    horizon_days: int = Field(ge=1)
    ece: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _spread(self) -> Ranking:
        if min(self.feature_std) <= 0:
            raise ValueError(f"feature_std holds {min(self.feature_std):g}, must be positive. Give a constant column 1")
        return self

    def standardised(self, features: np.ndarray) -> np.ndarray:
        """float64 (..., 44) of features (..., 44): mean 0, deviation 1, cut to +-5."""
        return np.clip((features.astype(np.float64) - self.feature_mean) / self.feature_std, -5.0, 5.0)

    def log_rate(self, features: np.ndarray) -> np.ndarray:
        """Log of the expected redemptions within the horizon, float64 (...), of features (..., 44)."""
        return np.clip(self.standardised(features) @ np.asarray(self.rate_weights) + self.rate_intercept, -30.0, 30.0)

    def probabilities(self, redeem_logits: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Probability that the customer redeems each candidate within the horizon.

        Args:
            redeem_logits: (K,), of all candidates of one customer. features: (44,), the customer's.

        Returns:
            float64 (K,), in 0..1, in the order of the logits.
        """
        z = redeem_logits.astype(np.float64) / self.temperature
        z = z - z.max(initial=-np.inf) if len(z) else z
        log_share = z - np.log(np.exp(z).sum()) if len(z) else z
        return -np.expm1(-np.exp(np.clip(self.slope * (self.log_rate(features) + log_share) + self.intercept, -700.0, 4.0)))

    def view_probabilities(self, view_logits: np.ndarray) -> np.ndarray:
        """Probability that the customer views each candidate within the horizon, float64 (K,) of logits (K,)."""
        return _sigmoid(self.view_slope * view_logits.astype(np.float64) + self.view_intercept)


class OfferType(BaseModel):
    """Calibration of one offer type: probability = sigmoid(slope * logit + intercept).

    Attributes:
        ece: its error on a later slice. share: which part of the customers of that slice redeemed one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    slope: float = Field(ge=0)
    intercept: float
    ece: float = Field(ge=0, le=1)
    share: float = Field(ge=0, le=1)


class OfferTypes(BaseModel):
    """From the next-offer model's eight logits to probabilities.

    Attributes:
        types: calibration by reward type, all of `contracts.tables.REWARD_TYPES`.
        horizon_days: what the probabilities are about.
        shares: business id -> reward type -> share of its active customers who redeem one within the horizon; a type that the business
            never offered is absent. What is known of a customer of whom nothing is known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    types: dict[str, OfferType]
    horizon_days: int = Field(ge=1)
    shares: dict[str, dict[str, float]]

    @model_validator(mode="after")
    def _complete(self) -> OfferTypes:
        if set(self.types) != set(REWARD_TYPES):
            raise ValueError(f"types are {sorted(self.types)}, must be {', '.join(REWARD_TYPES)}. Train again")
        return self

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """float64 (..., 8) of logits (..., 8), both in the order of `REWARD_TYPES`: P(redeems one of the type within the horizon)."""
        slope, intercept = (np.array([getattr(self.types[t], name) for t in REWARD_TYPES]) for name in ("slope", "intercept"))
        return _sigmoid(slope * logits.astype(np.float64) + intercept)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.clip(z, -60.0, 60.0)))


class BundleManifest(BaseModel):
    """The record beside a model."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: str
    version: str
    created_at: str
    data_version: str
    code_version: str
    as_of: str
    settings: dict[str, Any]
    metrics: dict[str, Any]
    files: dict[str, str]


def require_files(manifest: BundleManifest, folder: Path) -> None:
    """Raise ArtifactError where a bundle is of a version of this program that made fewer files."""
    spec = bundle_spec(manifest.model)
    missing = sorted(set(spec.files) - set(manifest.files))
    if missing:
        raise ArtifactError(
            f"bundle {folder} lacks {', '.join(missing)}: it was made before these were served. "
            f"Train and export again: {spec.train}; regulars export"
        )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def read_manifest(folder: Path, verify: bool = True) -> BundleManifest:
    """Read a bundle's manifest and, unless told not to, check every file against its checksum.

    Raises:
        ArtifactError: the manifest is missing or not valid, or a file is missing or changed.
    """
    path = folder / "manifest.json"
    try:
        manifest = BundleManifest.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise ArtifactError(f"cannot read {path}: {exc}. Build the bundle again: regulars export") from exc
    for name, expected in manifest.files.items() if verify else ():
        file = folder / name
        found = file_sha256(file) if file.is_file() else "no file"
        if found != expected:
            raise ArtifactError(
                f"{file} has checksum {found[:12]}, its manifest says {expected[:12]}. Build the bundle again: regulars export"
            )
    return manifest


def deployed_version(models_dir: Path, model: str = MODEL_NAME) -> str:
    """The version of a bundle that is to be served.

    Raises:
        ArtifactError: nothing was deployed yet.
        ConfigError: there is no bundle of that name.
    """
    train = bundle_spec(model).train
    path = models_dir / model / "deployed.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ArtifactError(
            f"no deployed {model} under {models_dir} ({exc}). Train and export one: {train}; regulars export --model {model}"
        ) from exc


def deploy(models_dir: Path, version: str, model: str = MODEL_NAME) -> None:
    """Make `version` of a bundle the one to be served; atomic, a reader sees the old or the new one. The other bundles stay as they are.

    Raises:
        ArtifactError: that version's bundle is missing or damaged.
        ConfigError: there is no bundle of that name.
    """
    bundle_spec(model)
    read_manifest(models_dir / model / version)
    path = models_dir / model / "deployed.json"
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"version": version}), encoding="utf-8")
    temporary.replace(path)
