from __future__ import annotations

import json

import pytest

from contracts.errors import ArtifactError
from features.vocabulary import Vocabulary


def test_build_takes_rewards_met_before_the_cutoff_and_all_categories(shop, at) -> None:
    shop.event("a", at(1), "offer_viewed", "r1")
    shop.event("a", at(5), "offer_viewed", "r2")
    shop.event("a", at(1), "offer_viewed", "not-in-the-catalogue")
    assert Vocabulary.build(shop.connection, at(5)).tokens == ["<pad>", "<unknown>", "r:r1", "c:coffee", "c:tea"]
    assert "r:r2" in Vocabulary.build(shop.connection, at(5.001)).tokens
    assert "r:r1" not in Vocabulary.build(shop.connection, at(5), min_events=2).tokens


def test_save_and_load_give_the_same_ids(tmp_path) -> None:
    vocabulary = Vocabulary(["<pad>", "<unknown>", "r:ü", "c:tea"])
    vocabulary.save(tmp_path / "v.json")
    back = Vocabulary.load(tmp_path / "v.json")
    assert json.loads((tmp_path / "v.json").read_text(encoding="utf-8")) == back.tokens == vocabulary.tokens
    assert back.encode(["c:tea", "", "r:never"]).tolist() == [3, 1, 1]
    assert len(back) == 4


@pytest.mark.parametrize("tokens", [[], ["<unknown>", "<pad>"], ["<pad>", "<unknown>", "r:1", "r:1"]])
def test_a_wrong_list_is_refused(tokens) -> None:
    with pytest.raises(ArtifactError, match="vocabulary"):
        Vocabulary(tokens)


@pytest.mark.parametrize("text", [None, "{", '{"a": 1}', "[1, 2]"])
def test_a_wrong_file_is_refused(tmp_path, text) -> None:
    path = tmp_path / "v.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ArtifactError, match="vocabulary"):
        Vocabulary.load(path)
