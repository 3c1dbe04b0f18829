"""A network of random weights, small enough for tests: everything of a real one but its sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel

from embeddings.text import model_folder
from nlq.model import ModelConfig, TextToSql
from nlq.train import write
from nlq.vocabulary import tokens

TOKENIZER_FILE = model_folder() / "tokenizer.json"
WIDTH, PIECES = 32, 30522
QUESTIONS = (
    "how many gold members in Austin",
    "top 5 customers by revenue last month",
    "average basket by store since June",
    "which rewards expire in the next 30 days",
    "customers with more than 3 purchases and no ticket in 60 days",
    "compare revenue this month with last month",
    "delete everything",
    "x",
)
RECORD: dict[str, Any] = {
    "trained_at": "2026-01-01T00:00:00+00:00", "pairs": 0, "programs": 0, "from_bank": 0, "phrases": "none", "settings": {"seed": 0},
    "torch": torch.__version__,
}  # fmt: skip


def encoder(width: int = WIDTH, seed: int = 0) -> BertModel:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=PIECES, hidden_size=width, num_hidden_layers=1, num_attention_heads=2, intermediate_size=width,
        max_position_embeddings=128, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.3,
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False)


def network(seed: int = 0, *, layers: int = 2, width: int = WIDTH) -> TextToSql:
    """In evaluation mode. Weights are large, so that what goes in shows in what comes out."""
    config = ModelConfig(width=WIDTH, layers=layers, heads=2, inner=32, dropout=0.0, vocabulary=len(tokens()))
    made = TextToSql(encoder(width, seed), config, width)
    with torch.no_grad():
        for p in made.layers.parameters():
            p.mul_(2.0)
        made.words.weight.mul_(4.0)
        made.positions.weight.mul_(10.0)
    return made.eval()


def folder_of(model: TextToSql, out: Path, words: list[str]) -> Path:
    """A model folder, written as training does; every confidence is 0.5 and is enough."""
    write(model, out, TOKENIZER_FILE, words, RECORD, 3, lambda _: {"calibration": {}, "threshold": 0.0, "scores": {}})
    return out
