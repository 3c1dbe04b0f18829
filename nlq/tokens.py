"""Linked questions as token ids: the encoder's own word pieces, and one piece for each slot and hint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from contracts.errors import ArtifactError
from nlq.vocabulary import SLOTS, fields

MAX_INPUT = 96
_MARK = re.compile(r"\[([A-Za-z0-9_.]+)\]")
_FIRST_UNUSED = 1
"""BERT's vocabularies keep ids 1 to 99 for words of one's own ([unused0] …)."""


def marks() -> tuple[str, ...]:
    """Slots and hints in a fixed order: only append."""
    return (*SLOTS, "like", *(t for t, f in fields().items() if f.open))


class Tokens:
    """Word pieces of a tokenizer.json.

    Attributes:
        first_mark: id of the first slot or hint: a word that the vocabulary keeps free (BERT), else the first beyond it.
        size: rows that the encoder's word embedding must have.

    Raises:
        ArtifactError: the file cannot be read, or has no pieces for padding and the end of a text.
    """

    def __init__(self, file: Path) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as exc:  # the library raises Exception itself
            raise ArtifactError(f"cannot read the tokenizer {file}: {exc}. Train or fetch the text_to_sql model again") from exc
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        unused = self._tokenizer.token_to_id("[unused0]")
        self.first_mark = _FIRST_UNUSED if unused is not None else self._tokenizer.get_vocab_size()
        self._marks = {m: i + self.first_mark for i, m in enumerate(marks())}
        self.size = max(self._tokenizer.get_vocab_size(), self.first_mark + len(self._marks))
        self.pad, self._stop = self._special(file, "[PAD]", "<pad>"), self._special(file, "[SEP]", "</s>")
        start = [i for name in ("[CLS]", "<s>") if (i := self._tokenizer.token_to_id(name)) is not None]
        self._start: list[int] = start[:1]  # T5 has none

    def _special(self, file: Path, *names: str) -> int:
        for name in names:
            if (found := self._tokenizer.token_to_id(name)) is not None:
                return int(found)
        raise ArtifactError(f"the tokenizer {file} has none of {', '.join(names)}, which questions are written with. Take another encoder")

    def words(self) -> frozenset[str]:
        """Whole words the vocabulary knows."""
        plain = (w.lstrip("▁Ġ") for w in self._tokenizer.get_vocab())  # SentencePiece and byte-level BPE mark where a word begins
        return frozenset(w for w in plain if w.isalpha() and len(w) > 1)

    def encode(self, text: str) -> list[int]:
        """Ids of a linked question, at most MAX_INPUT."""
        ids = [*self._start]
        at = 0
        for m in _MARK.finditer(text):
            if m[1] in self._marks:
                ids += self._pieces(text[at : m.start()])
                ids.append(self._marks[m[1]])
                at = m.end()
        ids += self._pieces(text[at:])
        return [*ids[: MAX_INPUT - 1], self._stop]

    def _pieces(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids) if text.strip() else []

    def batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """int64 ids (B, L) and mask (B, L), padded to the longest."""
        listed = [self.encode(t) for t in texts]
        length = max(map(len, listed))
        ids = np.full((len(listed), length), self.pad, np.int64)
        for row, found in zip(ids, listed, strict=True):
            row[: len(found)] = found
        mask = (np.arange(length)[None, :] < np.array([len(x) for x in listed])[:, None]).astype(np.int64)
        return ids, mask
