"""Answers that an analyst has put right: they win over the model when the question is the same.

The same means: equal but for case, punctuation and spaces; or, where sentence vectors are at hand, near by cosine *and* equal in every word
that carries meaning (numbers, values, ids, time words, negations and what these apply to). Vectors alone call "gold members in Austin" and
"gold members in Boston" the same; words alone miss nothing dangerous but take any order of them for equal, which the vectors see.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from contracts.errors import ConfigError, ContractError
from nlq.types import OutputColumn, Translation
from nlq.wording import content, meaning, normalise

Encode = Callable[[Sequence[str]], np.ndarray]
"""Texts to float32 (N, D), L2 norm 1, as `embeddings.text.embed`."""
THRESHOLD = 0.75
"""Least cosine, a net below the test of words, not in place of it: by the pairs in tests/nlq/test_corrections.py, paraphrases have 0.53 to
0.90 with MiniLM, and questions of different meaning 0.69 to 0.99."""


NEAR_CONFIDENCE = 0.95
"""Shown with an answer by a correction whose text is not equal: set, not measured."""


@dataclass(frozen=True)
class Correction:
    """What a question means in one business, as a person said.

    Attributes:
        correction_id: names it; a later one for the same question takes its place.
        sql: DuckDB, before the guard: it passes the guard at every use, with the rights of whoever asks.
        columns: of the result where known.
    """

    correction_id: str
    business_id: str
    question: str
    sql: str
    interpretation: str | None = None
    columns: tuple[OutputColumn, ...] = ()


@dataclass(frozen=True)
class Found:
    """A correction for a question; `similarity` is 1 where the texts are equal."""

    correction: Correction
    similarity: float

    def translation(self, question: str) -> Translation:
        """As if the model had read the question so."""
        c = self.correction
        return Translation(
            question=question,
            refused=False,
            sql=c.sql,
            interpretation=c.interpretation or c.question,
            columns=c.columns,
            confidence=1.0 if self.similarity == 1 else NEAR_CONFIDENCE,
        )


class Corrections:
    """All corrections of a process, by business. Safe for several threads: readers see a whole state, writers wait for each other.

    Args:
        encode: sentence vectors; None finds equal texts only. Called when a correction is added and when a question has no equal text but
            the same meaning by its words: rarely.
        threshold: least cosine for texts that are not equal.

    Raises:
        ConfigError: threshold is not in (0, 1].
    """

    def __init__(self, encode: Encode | None = None, threshold: float = THRESHOLD) -> None:
        if not 0 < threshold <= 1:
            raise ConfigError(f"threshold is {threshold}, must be above 0 and at most 1. Leave it out for {THRESHOLD}.")
        self._encode, self._threshold = encode, threshold
        self._kept: dict[str, dict[str, Correction]] = {}  # business -> normalised question -> correction
        self._lock = threading.Lock()

    def add(self, correction: Correction) -> None:
        """Keep one; it replaces an earlier one for the same text, or of the same id.

        Raises:
            ContractError: question or SQL is empty.
        """
        key = normalise(correction.question)
        if not key or not correction.sql.strip():
            raise ContractError("a correction needs a question and its SQL, one of them is empty. Send both.")
        with self._lock:
            before = self._kept.get(correction.business_id, {})
            mine = {k: c for k, c in before.items() if k != key and c.correction_id != correction.correction_id}
            self._kept = {**self._kept, correction.business_id: {**mine, key: correction}}

    def remove(self, business_id: str, which: str) -> bool:
        """Forget one by its id or its question; False where there is none."""
        key = normalise(which)
        with self._lock:
            before = self._kept.get(business_id, {})
            after = {k: c for k, c in before.items() if k != key and c.correction_id != which}
            self._kept = {**self._kept, business_id: after}
        return len(after) < len(before)

    def of(self, business_id: str) -> tuple[Correction, ...]:
        """All of a business, oldest first."""
        return tuple(self._kept.get(business_id, {}).values())

    def find(self, question: str, business_id: str) -> Found | None:
        """The correction whose question is the same, else None. Never one of another business."""
        kept = self._kept.get(business_id)
        if not kept:
            return None
        if (equal := kept.get(normalise(question))) is not None:
            return Found(equal, 1.0)
        if self._encode is None:
            return None
        asked = meaning(question)
        alike = [c for c in kept.values() if meaning(c.question) == asked]
        if not asked or not alike:
            return None
        vectors = self._encode([question, *(c.question for c in alike)])
        cosines = vectors[1:] @ vectors[0]
        best = int(np.argmax(cosines))
        return Found(alike[best], float(cosines[best])) if cosines[best] >= self._threshold else None

    def export(self, path: Path, business_id: str | None = None) -> int:
        """Write training pairs, one JSON object a line: q, sql, business_id, correction_id. Returns their number.

        Raises:
            ConfigError: the file cannot be written.
        """
        chosen = self._kept if business_id is None else {business_id: self._kept.get(business_id, {})}
        found = [c for mine in chosen.values() for c in mine.values()]
        lines = [
            json.dumps({"q": c.question, "sql": c.sql, "business_id": c.business_id, "correction_id": c.correction_id}, ensure_ascii=False)
            for c in found
        ]
        try:
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        except OSError as exc:
            raise ConfigError(f"cannot write {path}: {exc.strerror}. Give another file.") from exc
        return len(found)


def read(path: Path, encode: Encode | None = None) -> Corrections:
    """Corrections from a file of `export`.

    Raises:
        ConfigError: the file cannot be read, or a line is not a training pair.
    """
    corrections = Corrections(encode)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"cannot read {path}: {exc}. Give a file of corrections, one JSON object a line.") from exc
    for number, line in enumerate(lines, 1):
        try:
            one = json.loads(line)
            corrections.add(Correction(one.get("correction_id") or f"line-{number}", one["business_id"], one["q"], one["sql"]))
        except (ValueError, KeyError, TypeError, AttributeError, ContractError) as exc:
            raise ConfigError(
                f"{path} line {number} is no correction, needs q, sql and business_id as texts. Correct or delete it."
            ) from exc
    return corrections


def by_words(texts: Sequence[str]) -> np.ndarray:
    """Vectors without a network: words that carry meaning and their pairs in order, hashed to 1,024 places.

    Of two texts with the same words they tell how much of the order is the same: all the vectors are needed for here.

    Returns:
        float32 (N, 1024), L2 norm 1 (0 for a text without such words).
    """
    found = np.zeros((len(texts), 1024), np.float32)
    for row, text in enumerate(texts):
        words = content(text)
        for term in words:
            found[row, zlib.crc32(term.encode()) % 1024] += 1
        for a, b in pairwise(words):
            found[row, zlib.crc32(f"{a} {b}".encode()) % 1024] += 2
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


def minilm(cache_dir: Path | None = None) -> Encode | None:
    """Sentence vectors by all-MiniLM-L6-v2, or None where its weights are not here. torch is imported at the first text, not before."""
    from contracts.errors import ArtifactError
    from embeddings.text import embed, model_folder

    try:
        model_folder()
    except ArtifactError:
        return None
    return lambda texts: embed(texts, cache_dir=cache_dir)
