"""A model bundle: one folder with everything that a model needs to be served, and its record.

<models dir>/two-tower/<version>/
    manifest.json      BundleManifest: who made it from what, and the checksum of each file
    user_tower.onnx item_tower.onnx
    vocabulary.json    list of tokens; index = token id; 0 "<pad>", 1 "<unknown>", then "r:<reward_id>" and "c:<category>"
    rewards.parquet    the catalogue, columns of the `rewards` table plus `redemptions` and `redeemer_share` (last 90 days)
    item_vectors.npy   float32 (N, D), L2 norm 1, rows in the order of rewards.parquet
    calibration.json   Calibration
    golden.npz         inputs of both towers and the vectors torch gave for them
<models dir>/two-tower/deployed.json   {"version": "7"}, replaced atomically
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from contracts.errors import ArtifactError

MODEL_NAME = "two-tower"
PAD, UNKNOWN = "<pad>", "<unknown>"


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
    """The version that is to be served.

    Raises:
        ArtifactError: nothing was deployed yet.
    """
    path = models_dir / model / "deployed.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ArtifactError(
            f"no deployed {model} under {models_dir} ({exc}). Train and export one: regulars train recommender; regulars export"
        ) from exc


def deploy(models_dir: Path, version: str, model: str = MODEL_NAME) -> None:
    """Make `version` the one to be served; atomic, a reader sees the old or the new one.

    Raises:
        ArtifactError: that version's bundle is missing or damaged.
    """
    read_manifest(models_dir / model / version)
    path = models_dir / model / "deployed.json"
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"version": version}), encoding="utf-8")
    temporary.replace(path)
