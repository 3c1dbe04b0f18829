"""The second stage: from one customer and one candidate reward to two logits, redeem and view.

A deep and cross network: cross layers multiply the inputs with each other exactly, a small perceptron beside them learns the rest, and
both heads read both. Plain operations, so that it exports to ONNX with a dynamic batch.

Letters: B candidates, P pair features, D embedding dim (64), F features (44), I all inputs together, R rank of a cross layer.

Source: DCN-v2, Wang et al. (2021), in its low-rank form.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from contracts.errors import ArtifactError
from contracts.tensors import EMBEDDING_DIM, FEATURE_COUNT, PAIR_COUNT, RANKER_HEADS
from training.recommender.model import Standardise
from training.settings import TrainSettings

WEIGHTS, CONFIG = "ranker.pt", "ranker.json"


@dataclass(frozen=True)
class RankerConfig:
    """Sizes of a ranker; stored beside its weights as ranker.json."""

    pairs: int = PAIR_COUNT
    width: int = 64
    crosses: int = 2
    rank: int = 16
    dropout: float = 0.1

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Cross(nn.Module):
    """x0 * (W x + b) + x with a W of low rank."""

    def __init__(self, size: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(size, rank, bias=False)
        self.up = nn.Linear(rank, size)

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        return x0 * self.up(self.down(x)) + x


class Ranker(nn.Module):
    """Logits of one customer's candidates, one row each."""

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        self.config = config
        size = config.pairs + 2 * EMBEDDING_DIM + FEATURE_COUNT  # I
        self.standardise_pairs = Standardise(config.pairs)
        self.standardise_features = Standardise(FEATURE_COUNT)
        self.crosses = nn.ModuleList(Cross(size, config.rank) for _ in range(config.crosses))
        self.deep = nn.Sequential(
            nn.Linear(size, config.width), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(config.width, config.width), nn.GELU()
        )
        self.heads = nn.Linear(size + config.width, len(RANKER_HEADS))

    @classmethod
    def empty(cls, settings: TrainSettings) -> Ranker:
        """Untrained, of the sizes that the settings ask for."""
        return cls(RankerConfig(width=settings.ranker_width, dropout=settings.ranker_dropout))

    def forward(self, pair_features: Tensor, user_vector: Tensor, item_vector: Tensor, features: Tensor) -> Tensor:
        """Logits, float32 (B, 2): redeem, view.

        Args:
            pair_features: float32 (B, P). user_vector, item_vector: float32 (B, D), length 1. features: float32 (B, F).
        """
        x0 = torch.cat([self.standardise_pairs(pair_features), user_vector, item_vector, self.standardise_features(features)], dim=1)
        x = x0  # (B, I)
        for cross in self.crosses:
            x = cross(x0, x)
        return self.heads(torch.cat([x, self.deep(x0)], dim=1))


def save_ranker(ranker: Ranker, folder: Path) -> None:
    """Write ranker.pt and ranker.json."""
    torch.save({k: v.detach().cpu().clone() for k, v in ranker.state_dict().items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(ranker.config.as_dict()), encoding="utf-8")


def load_ranker(artifacts: Path) -> Ranker:
    """The trained ranker of a run's artifacts, in eval mode.

    Raises:
        ArtifactError: the files are missing or do not match each other.
    """
    try:
        ranker = Ranker(RankerConfig(**json.loads((artifacts / CONFIG).read_text(encoding="utf-8"))))
        ranker.load_state_dict(torch.load(artifacts / WEIGHTS, weights_only=True, map_location="cpu"))
    except Exception as exc:  # a damaged file raises whatever its bytes lead to: an unpickling error, EOFError, KeyError, ...
        why = str(exc).partition(". ")[0]  # torch goes on with advice to load it unsafely
        raise ArtifactError(f"cannot read the ranker in {artifacts}: {why}. Train again: regulars train recommender") from exc
    return ranker.eval()
