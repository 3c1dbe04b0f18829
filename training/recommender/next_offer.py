"""Which kind of offer: for each of the eight reward types, the probability that the customer redeems one within the horizon.

The samples are active customers at moments of the training slice; inputs are what was known strictly before, labels the redemptions of
rewards of a type in the days after. A type counts only where the business had a valid reward of it at that moment, so the probability is
that of a redemption *given that the type is on offer*. An `informational` offer is never redeemed: there the label is that it was viewed.
The logits are calibrated type by type on the validation slice (Platt, 1999) and measured on the later test slice, against the base rate
that the validation slice shows.

Letters: M samples, T = 8 reward types in the order of `contracts.tables.REWARD_TYPES`, B batch, D embedding dim (64), F features (44).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from contracts.errors import ArtifactError
from contracts.tensors import EMBEDDING_DIM, FEATURE_COUNT, OFFER_TYPE_COUNT
from training.recommender.model import Standardise

WEIGHTS, CONFIG = "next_offer.pt", "next_offer.json"


@dataclass(frozen=True)
class OfferConfig:
    """Sizes of the model; stored beside its weights as next_offer.json."""

    width: int = 64
    dropout: float = 0.1

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class OfferModel(nn.Module):
    """A customer's vector and features to a logit for each reward type."""

    def __init__(self, config: OfferConfig) -> None:
        super().__init__()
        self.config = config
        w = config.width
        self.standardise = Standardise(FEATURE_COUNT)
        self.layers = nn.Sequential(
            nn.Linear(EMBEDDING_DIM + FEATURE_COUNT, w), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(w, w), nn.GELU(),
            nn.Dropout(config.dropout), nn.Linear(w, OFFER_TYPE_COUNT),
        )  # fmt: skip

    def forward(self, user_vector: Tensor, features: Tensor) -> Tensor:
        """Logits, float32 (B, T).

        Args:
            user_vector: float32 (B, D), length 1. features: float32 (B, F).
        """
        logits: Tensor = self.layers(torch.cat([user_vector, self.standardise(features)], dim=1))
        return logits


def save_offer_model(model: OfferModel, folder: Path) -> None:
    """Write next_offer.pt and next_offer.json."""
    torch.save({k: v.detach().cpu().clone() for k, v in model.state_dict().items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(model.config.as_dict()), encoding="utf-8")


def load_offer_model(artifacts: Path) -> OfferModel:
    """The trained model of a run's artifacts, in eval mode.

    Raises:
        ArtifactError: the files are missing or do not match each other.
    """
    try:
        model = OfferModel(OfferConfig(**json.loads((artifacts / CONFIG).read_text(encoding="utf-8"))))
        model.load_state_dict(torch.load(artifacts / WEIGHTS, weights_only=True, map_location="cpu"))
    except (OSError, ValueError, TypeError, RuntimeError) as exc:
        raise ArtifactError(f"cannot read the next-offer model in {artifacts}: {exc}. Train again: regulars train recommender") from exc
    return model.eval()
