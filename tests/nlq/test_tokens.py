"""Linked questions as word pieces: slots and hints are one piece each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from contracts.errors import ArtifactError
from nlq.tokens import MAX_INPUT, Tokens, marks
from nlq.vocabulary import SLOTS, fields

from .tiny import TOKENIZER_FILE


@pytest.fixture(scope="module")
def pieces() -> Tokens:
    return Tokens(TOKENIZER_FILE)


def test_slots_and_hints_are_one_piece_each_that_no_word_has(pieces: Tokens) -> None:
    found = [pieces.encode(f"[{m}]")[1:-1] for m in marks()]
    assert all(len(f) == 1 for f in found)
    ids = {f[0] for f in found}
    assert len(ids) == len(marks())
    assert max(ids) < 100  # the encoder's own words begin at 100
    assert not ids & set(pieces.encode("how many [unknown] customers v0 N0 T1 live in Austin, unused1?"))


def test_marks_are_slots_and_columns_of_open_values() -> None:
    assert set(SLOTS) < set(marks())
    assert set(marks()) - set(SLOTS) - {"like"} == {t for t, f in fields().items() if f.open}
    assert len(set(marks())) == len(marks())


def test_a_mark_parts_words_and_keeps_its_place(pieces: Tokens) -> None:
    whole = pieces.encode("gold members in [V0] [customers.location] since [T0]")
    alone = [pieces.encode(t)[1:-1] for t in ("gold members in", "[V0]", "[customers.location]", "since", "[T0]")]
    assert whole[1:-1] == [i for part in alone for i in part]


def test_brackets_that_are_no_mark_are_text(pieces: Tokens) -> None:
    assert pieces.encode("[V9] [nothing]") != pieces.encode("")
    assert len(pieces.encode("[V9]")) > 3


@pytest.mark.parametrize("text", ["", " ", "?", "é" * 30, "𓀀 \x00 \u202e", "[" * 500, "word " * 1000])
def test_any_text_has_a_start_a_stop_and_a_bound(pieces: Tokens, text: str) -> None:
    ids = pieces.encode(text)
    assert 2 <= len(ids) <= MAX_INPUT
    assert (ids[0], ids[-1]) == (pieces.encode("")[0], pieces.encode("")[1])


def test_a_batch_is_padded_to_its_longest_and_masked(pieces: Tokens) -> None:
    ids, mask = pieces.batch(["how many", "how many gold customers are there in [V0]"])
    assert ids.dtype == mask.dtype == np.int64
    assert ids.shape == mask.shape == (2, len(pieces.encode("how many gold customers are there in [V0]")))
    short = len(pieces.encode("how many"))
    assert list(ids[0, :short]) == pieces.encode("how many")
    assert (ids[0, short:] == pieces.pad).all()
    assert list(mask.sum(1)) == [short, ids.shape[1]]


def test_known_words_are_whole_ones(pieces: Tokens) -> None:
    words = pieces.words()
    assert {"customers", "revenue", "gold"} <= words
    assert not [w for w in words if w.startswith("#") or len(w) < 2]


def test_a_tokenizer_that_cannot_be_read_is_an_artifact_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot read the tokenizer"):
        Tokens(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match="cannot read the tokenizer"):
        Tokens(tmp_path / "tokenizer.json")


def test_a_vocabulary_without_an_end_is_refused(tmp_path: Path) -> None:
    Tokenizer(WordLevel({"[PAD]": 0, "word": 1}, unk_token="word")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ArtifactError, match=r"has none of \[SEP\], </s>"):
        Tokens(tmp_path / "tokenizer.json")


def test_where_no_word_is_free_marks_lie_behind_the_last(tmp_path: Path) -> None:
    Tokenizer(WordLevel({"<pad>": 0, "</s>": 1, "gold": 2}, unk_token="gold")).save(str(tmp_path / "tokenizer.json"))
    pieces = Tokens(tmp_path / "tokenizer.json")
    assert (pieces.first_mark, pieces.size) == (3, 3 + len(marks()))
    assert pieces.encode(f"[{marks()[0]}] gold [{marks()[-1]}]") == [3, 2, 2 + len(marks()), 1]


def test_of_berts_vocabulary_the_free_words_are_taken(pieces: Tokens) -> None:
    """A trained model holds these ids: they must not move."""
    assert (pieces.first_mark, pieces.size) == (1, 30522)
    assert pieces.encode("[N0]") == [101, 1, 102]
