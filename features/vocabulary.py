"""Tokens to ids: what the towers embed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np

from contracts.bundle import PAD, UNKNOWN
from contracts.errors import ArtifactError
from features.definitions import epoch_seconds

PAD_ID, UNKNOWN_ID = 0, 1


class Vocabulary:
    """The tokens that a model knows; the index in the list is the id. 0 is padding, 1 is everything unknown.

    Args:
        tokens: `<pad>`, `<unknown>`, then `r:<reward_id>` and `c:<category>`, each once.

    Raises:
        ArtifactError: the list does not begin so, or holds a token twice.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens: list[str] = list(tokens)
        if self.tokens[:2] != [PAD, UNKNOWN]:
            raise ArtifactError(
                f"vocabulary begins with {self.tokens[:2]}, must begin with {[PAD, UNKNOWN]}. Export the model again: regulars export"
            )
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self._ids) != len(self.tokens):
            raise ArtifactError(
                f"vocabulary holds {len(self.tokens) - len(self._ids)} tokens twice, each must be unique. Export the model again."
            )

    def __len__(self) -> int:
        return len(self.tokens)

    def id(self, token: str) -> int:
        """Id of one token; 1 where it is not known."""
        return self._ids.get(token, UNKNOWN_ID)

    def encode(self, tokens: Iterable[str]) -> np.ndarray:
        """Ids of tokens, int64 (len,)."""
        get = self._ids.get
        return np.array([get(t, UNKNOWN_ID) for t in tokens], dtype=np.int64)

    def save(self, path: Path) -> None:
        """Write the JSON list of a bundle's `vocabulary.json`."""
        path.write_text(json.dumps(self.tokens, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read a `vocabulary.json`.

        Raises:
            ArtifactError: no such file, or not a list of tokens.
        """
        try:
            tokens = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise ArtifactError(f"cannot read vocabulary {path}: {exc}. Export the model again: regulars export") from exc
        if not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens):
            raise ArtifactError(f"vocabulary {path} is not a list of tokens. Export the model again: regulars export")
        return cls(tokens)

    @classmethod
    def build(cls, connection: duckdb.DuckDBPyConnection, cutoff: datetime, min_events: int = 1) -> Vocabulary:
        """The tokens that training up to a cut-off time can learn.

        Rewards with at least `min_events` events strictly before the cut-off (an id that training never meets would keep a random
        vector; it is better served as unknown, from its attributes and text), and all categories of products and rewards.

        Args:
            connection: of the warehouse.
            cutoff: as-of time; later events add no token.
            min_events: least number of events of a reward.
        """
        seen = connection.execute(
            "SELECT reward_id FROM events WHERE reward_id <> '' AND epoch_us(occurred_at) / 1e6 < ? "
            "AND reward_id IN (SELECT reward_id FROM rewards) GROUP BY 1 HAVING count(*) >= ? ORDER BY 1",
            [epoch_seconds(cutoff), min_events],
        ).fetchall()
        categories = connection.execute(
            "SELECT category FROM products WHERE category <> '' UNION SELECT category FROM rewards WHERE category <> '' ORDER BY 1"
        ).fetchall()
        return cls([PAD, UNKNOWN, *(f"r:{row[0]}" for row in seen), *(f"c:{row[0]}" for row in categories)])
