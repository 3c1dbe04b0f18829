"""Typing mistakes: put right where a plain word was meant, left alone where a value, a name or another word was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlq.corpus.bank import read
from nlq.spelling import Speller, distance, lexicon

WORDS = ["customers", "members", "average", "quarter", "people", "store", "total", "november", "referrals", "coupon"]
SPELLER = Speller(WORDS, frozenset({"stories", "bought", "last", "settle"}))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("avarage total", "average total"), ("refferals", "referrals"), ("custmers in novmber", "customers in november"),
        ("peolpe last quater?", "people last quarter?"), ("AVARAGE BY STROE", "average BY store"), ("Custmers", "customers"),
    ],
)  # fmt: skip
def test_typing_mistakes_are_put_right(typed: str, meant: str) -> None:
    assert SPELLER.correct(typed) == meant


@pytest.mark.parametrize(
    "text",
    [
        "stories", "who bought", "customers of Memberz", "'avarage' in texts", 'with "quater" inside', "cust-peolpe", "qqqqqqq", "sto",
        "[people]x", "avarage@people.example", "",
    ],
)  # fmt: skip
def test_what_is_right_or_no_plain_word_stays(text: str) -> None:
    assert SPELLER.correct(text) == text


def test_values_of_the_data_come_before_plain_words() -> None:
    assert SPELLER.correct("sales in coupan") == "sales in coupon"
    assert SPELLER.correct("sales in coupan", values=frozenset({"coupan"})) == "sales in coupan"
    assert SPELLER.correct("sales in coupan", near=["coupang"]) == "sales in coupan"


def test_the_commonest_of_equals_is_taken() -> None:
    assert Speller(["offer", "often"]).correct("offee") == "offer"
    assert Speller(["often", "offer"]).correct("oftes offes") == "often offer"


def test_without_words_nothing_is_changed() -> None:
    assert Speller([]).correct("avarage") == "avarage"


@given(st.text("abcd", max_size=8), st.text("abcd", max_size=8), st.integers(0, 4))
def test_distance_is_a_bounded_distance(a: str, b: str, most: int) -> None:
    found = distance(a, b, most)
    assert (found == 0) == (a == b)
    assert found == distance(b, a, most)
    whole = distance(a, b, 20)
    assert found == min(whole, most + 1)
    assert abs(len(a) - len(b)) <= whole <= max(len(a), len(b))


def test_a_swap_is_one_mistake() -> None:
    assert distance("peolpe", "people", 2) == 1


def test_the_lexicon_holds_words_of_the_bank_the_commonest_first_and_no_mistakes() -> None:
    assert lexicon(["show stores {city_word} twise", "stores", "stores open"], frozenset({"show"}))[0] == "stores"
    small = lexicon(["show stores {city_word} twise", "stores", "stores open"], frozenset({"show", "twice"}))
    assert {"stores", "show"} <= set(small)
    assert not {"twise", "city", "word", "open"} & set(small)
    whole = lexicon((line.question for line in read()), frozenset())
    assert {"customers", "revenue", "monday"} <= set(whole)
    assert len(whole) > 800
