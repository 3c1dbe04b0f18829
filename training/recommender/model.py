"""The two-tower model, whole. Plain operations, so that each tower exports to ONNX with a dynamic batch.

Letters: B batch, T steps (50), R newest steps (8), F features (44), A attributes (12), W width, H heads, D embedding dim (64),
V vocabulary.

A score is the dot product of two vectors of length 1, so everything that a reward brings (its popularity too) is in its vector and
FAISS can search it. The two towers share the token table: a reward that the customer touched and the same reward in the catalogue start
from the same vector, which is what lets the model learn "again" and "instead" from few examples.

Source: Covington et al. (2016); Yi et al. (2019); pre-norm encoder of Xiong et al. (2020).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contracts.tensors import ATTRIBUTE_COUNT, EMBEDDING_DIM, FEATURE_COUNT, SEQUENCE_LENGTH, TEXT_DIM

UNKNOWN_ID = 1
NEWEST = 8  # R


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a model; stored with its weights."""

    vocabulary: int
    kinds: int
    width: int = 64
    heads: int = 4
    layers: int = 1
    dropout: float = 0.1
    id_dropout: float = 0.1

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Standardise(nn.Module):
    """(x - mean) / std with values of the training set, cut to ±5; part of the weights, so it is exported with them."""

    mean: Tensor
    std: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def set(self, mean: Tensor, std: Tensor) -> None:
        """Take mean and standard deviation, float32 (size,); a constant column keeps a deviation of 1."""
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.std).clamp(-5.0, 5.0)


class SelfAttention(nn.Module):
    """Pre-norm self-attention and a feed-forward layer over (B, T, W), asked by the newest R steps only.

    The last layer needs no more than a few steps' states: asking with 8 of 50 steps makes a training step in about two thirds of the time.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm_attention = nn.LayerNorm(config.width)
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm_forward = nn.LayerNorm(config.width)
        self.up = nn.Linear(config.width, 2 * config.width)
        self.down = nn.Linear(2 * config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor, newest: int) -> Tensor:
        """x (B, T, W); bias (B, T), 0 where a step is real and very low where it is padding; returns (B, R, W), R = newest."""
        t, w = x.shape[1], x.shape[2]
        size = w // self.heads
        normed = self.norm_attention(x)
        query = self.query(normed[:, -newest:]).reshape(-1, newest, self.heads, size).transpose(1, 2)  # (B, H, R, W/H)
        key, value = self.key_value(normed).reshape(-1, t, 2, self.heads, size).permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, T, W/H)
        logits = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(size) + bias[:, None, None, :]  # (B, H, R, T)
        mixed = torch.matmul(torch.softmax(logits, dim=-1), value)  # (B, H, R, W/H)
        x = x[:, -newest:] + self.dropout(self.out(mixed.transpose(1, 2).reshape(-1, newest, w)))  # (B, R, W)
        return x + self.dropout(self.down(F.gelu(self.up(self.norm_forward(x)))))


class UserTower(nn.Module):
    """A customer's last touches and features to `user_vector`."""

    def __init__(self, config: ModelConfig, tokens: nn.Embedding) -> None:
        super().__init__()
        w, d = config.width, EMBEDDING_DIM
        self.heads = config.heads
        self.tokens = tokens
        self.token_in = nn.Linear(d, w)
        self.kinds = nn.Embedding(config.kinds, w, padding_idx=0)
        self.values = nn.Sequential(nn.Linear(2, w), nn.ReLU(), nn.Linear(w, w))
        self.position = nn.Parameter(0.02 * torch.randn(SEQUENCE_LENGTH, w))
        self.layers = nn.ModuleList(SelfAttention(config) for _ in range(config.layers))
        self.norm_all = nn.LayerNorm(w)
        self.norm_newest = nn.LayerNorm(w)
        self.standardise = Standardise(FEATURE_COUNT)
        self.features = nn.Sequential(nn.Linear(FEATURE_COUNT, 2 * w), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(2 * w, w))
        self.key = nn.Linear(w, w)
        self.query = nn.Linear(w, w)
        self.gate = nn.Linear(w, config.heads)
        self.fusion = nn.Sequential(nn.Linear(4 * w, 2 * w), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(2 * w, d))
        self.mix = nn.Linear(config.heads * d, d, bias=False)
        with torch.no_grad():
            self.mix.weight.copy_(torch.eye(d).repeat(1, config.heads) / config.heads)

    def forward(self, sequence_ids: Tensor, sequence_values: Tensor, features: Tensor) -> Tensor:
        """Vectors of length 1.

        Args:
            sequence_ids: int64 (B, T, 2), token and kind, 0 is padding; newest step last.
            sequence_values: float32 (B, T, 2), log1p(age in hours) / 10 and signed log1p(value) / 5 (`features.sequences`).
            features: float32 (B, F).

        Returns:
            user_vector float32 (B, D).
        """
        real = (sequence_ids[:, :, 1] > 0).to(sequence_values.dtype)  # (B, T)
        bias = (real - 1.0) * 1e4
        token = self.tokens(sequence_ids[:, :, 0])  # (B, T, D)
        t = token.shape[1]
        x = self.token_in(token) + self.kinds(sequence_ids[:, :, 1]) + self.values(sequence_values * 4.0) + self.position[-t:]  # (B, T, W)
        for layer in self.layers[:-1]:
            x = layer(x, bias, t)
        newest = min(NEWEST, t)
        recent = self.norm_newest(self.layers[-1](x, bias, newest)) * real[:, -newest:, None]  # (B, R, W)
        f = self.features(self.standardise(features))  # (B, W)
        pooled, interest = self._pool(self.norm_all(x), token, f, bias, real)
        fused = self.fusion(torch.cat([pooled, recent[:, -1], recent.sum(dim=1) * (1.0 / NEWEST), f], dim=1))  # (B, D)
        return F.normalize(fused + interest, dim=1, eps=1e-6)

    def _pool(self, x: Tensor, token: Tensor, f: Tensor, bias: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Attention over the steps asked by the features: the mixed states (B, W) and the mixed raw tokens (B, D)."""
        t, w = x.shape[1], x.shape[2]
        size = w // self.heads
        q = self.query(f).reshape(-1, 1, self.heads, size)
        k = self.key(x).reshape(-1, t, self.heads, size)
        logits = (q * k).sum(dim=3) / math.sqrt(size) + self.gate(x) + bias[:, :, None]  # (B, T, H)
        weight = torch.softmax(logits, dim=1) * real[:, :, None]
        pooled = (weight[:, :, :, None] * x.reshape(-1, t, self.heads, size)).sum(dim=1).reshape(-1, w)  # (B, W)
        interest = torch.matmul(weight.transpose(1, 2), token).reshape(-1, self.heads * token.shape[2])  # (B, H * D)
        return pooled, self.mix(interest)


class ItemTower(nn.Module):
    """A reward's token, category, attributes and text to `item_vector`; an unseen reward lives by the last three."""

    def __init__(self, config: ModelConfig, tokens: nn.Embedding) -> None:
        super().__init__()
        w, d = config.width, EMBEDDING_DIM
        self.id_dropout = config.id_dropout
        self.tokens = tokens
        self.standardise = Standardise(ATTRIBUTE_COUNT)
        self.attributes = nn.Linear(ATTRIBUTE_COUNT, w)
        self.text = nn.Linear(TEXT_DIM, w)
        self.fusion = nn.Sequential(nn.GELU(), nn.Dropout(config.dropout), nn.Linear(w, w), nn.GELU(), nn.Linear(w, d))
        self.category = nn.Linear(d, d, bias=False)

    def forward(self, item_ids: Tensor, attributes: Tensor, text_vector: Tensor) -> Tensor:
        """Vectors of length 1.

        Args:
            item_ids: int64 (B, 2), token of the reward (1 when unseen) and of its category.
            attributes: float32 (B, A).
            text_vector: float32 (B, 384).

        Returns:
            item_vector float32 (B, D).
        """
        own = self.tokens(item_ids[:, 0])  # (B, D)
        category = self.category(self.tokens(item_ids[:, 1]))
        content = self.fusion(self.attributes(self.standardise(attributes)) + self.text(text_vector))
        return F.normalize(own + category + content, dim=1, eps=1e-6)


class TwoTower(nn.Module):
    """Both towers, the shared token table and the learned scale (one over the temperature)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, EMBEDDING_DIM, padding_idx=0)
        nn.init.normal_(self.tokens.weight, std=0.1)
        with torch.no_grad():
            self.tokens.weight[:2] = 0.0  # <pad> stays zero, <unknown> starts there
        self.user = UserTower(config, self.tokens)
        self.item = ItemTower(config, self.tokens)
        self.log_scale = nn.Parameter(torch.tensor(math.log(12.0)))

    @property
    def scale(self) -> Tensor:
        """What a cosine is multiplied by before the softmax; 1 to 60."""
        return self.log_scale.clamp(0.0, math.log(60.0)).exp()

    def hide_ids(self, item_ids: Tensor) -> Tensor:
        """In training, show some rewards as <unknown>, so that the content part learns to stand alone."""
        if not self.training or self.config.id_dropout == 0:
            return item_ids
        hidden = torch.rand(item_ids.shape[0], device=item_ids.device) < self.config.id_dropout
        return torch.stack([torch.where(hidden, torch.full_like(item_ids[:, 0], UNKNOWN_ID), item_ids[:, 0]), item_ids[:, 1]], dim=1)
