"""What a question mentions becomes slots: values, numbers and times, each counted from left to right."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlq.corpus.check import open_business
from nlq.link import MAX_VALUES, Catalog, Linked, Linker, Number, normalize, shared_words
from nlq.spelling import Speller
from nlq.vocabulary import NUMBER_SLOTS, TIME_SLOTS, VALUE_SLOTS, fields

NOW = datetime(2026, 10, 14, 13, tzinfo=UTC)
VALUES = {
    "customers.name": ["Ruth Müller", "Nadia O'Brien", "Rosa Novak"],
    "customers.location": ["Austin, TX", "Dallas, TX", "Los Angeles, CA", "New York, NY", "San Francisco, CA", "Boston, MA", "Zürich"],
    "customers.age_group": ["18-24", "25-34", "35-44", "45-54", "55-64", "65+"],
    "transactions.store": ["Austin Downtown", "Austin Station", "Los Angeles Station", "Corner 12"],
    "products.name": ["Vegan Muffin", "Vegan Wrap", "Iced Latte", "Green Tea Box", "Green Tea"],
    "products.category": ["bakery", "smoothies", "coffee", "house"],
    "products.brand": ["Café Olé", "Sol y Mar", "Of"],
    "rewards.name": ["Buy one Iced Latte, get one", "10 % off Bakery", "Free Iced Latte"],
    "rewards.category": ["bakery", "coffee"],
    "campaigns.name": ["Spring Sale", "Summer Sale"],
    "segments.name": ["Weekend Regulars", "Big Baskets"],
}
KNOWN = frozenset("how many customers in from purchases of show me the bakery and or sales we do best boss costs station house".split())  # noqa: SIM905
LINKER = Linker(Catalog.build(VALUES, NOW), KNOWN)


def link(question: str) -> Linked:
    return LINKER.link(question)


def found(question: str) -> list[dict[str, tuple[str, ...]]]:
    return [dict(v.columns) for v in link(question).values]


AUSTIN = {"customers.location": ("Austin, TX",), "transactions.store": ("Austin Downtown", "Austin Station")}


@pytest.mark.parametrize(
    ("question", "columns"),
    [
        ("customers in Dallas, TX", {"customers.location": ("Dallas, TX",)}),
        ("customers in dallas", {"customers.location": ("Dallas, TX",)}),
        ("purchases in Austin", AUSTIN),  # the city, and the stores that are named after it
        ("purchases in AUSTIN, tx", AUSTIN),
        ("customers in Texas", {"customers.location": ("Austin, TX", "Dallas, TX")}),  # a state is its cities
        ("customers in zurich", {"customers.location": ("Zürich",)}),
        ("customers in ZÜRICH", {"customers.location": ("Zürich",)}),
        ("customers in nyc", {"customers.location": ("New York, NY",)}),
        ("customers in New York City", {"customers.location": ("New York, NY",)}),
        ("customers in SF", {"customers.location": ("San Francisco, CA",)}),
        ("sales of Austin Station", {"transactions.store": ("Austin Station",)}),
        ("sales of corner 12", {"transactions.store": ("Corner 12",)}),
        ("purchases of ruth muller", {"customers.name": ("Ruth Müller",)}),
        ("Nadia O'Brien's purchases", {"customers.name": ("Nadia O'Brien",)}),
        ("sales of cafe ole", {"products.brand": ("Café Olé",)}),
        ("sales of bakery", {"products.category": ("bakery",), "rewards.category": ("bakery",)}),
        ("sales of smoothie", {"products.category": ("smoothies",)}),  # one of many
        ("sales of iced lattes", {"products.name": ("Iced Latte",)}),  # many of one
        ("sales of green tea box", {"products.name": ("Green Tea Box",)}),  # the longest that fits
        ("who are the weekend regulars", {"segments.name": ("Weekend Regulars",)}),
        ("redemptions of '10 % off Bakery'", {"rewards.name": ("10 % off Bakery",)}),
        ("redemptions of “buy one iced latte get one”", {"rewards.name": ("Buy one Iced Latte, get one",)}),
        # misspelt
        ("customers in Bostn", {"customers.location": ("Boston, MA",)}),
        ("customers in Los Angelos", {"customers.location": ("Los Angeles, CA",), "transactions.store": ("Los Angeles Station",)}),
        ("sales of smothies", {"products.category": ("smoothies",)}),
        # ids
        ("purchases of cust-000042", {"customers.customer_id": ("cust-000042",)}),
        ("purchases of CUST-000042", {"customers.customer_id": ("cust-000042",)}),
        ("is rew-0007 active", {"rewards.reward_id": ("rew-0007",)}),
        ("sales of prod-00123", {"products.product_id": ("prod-00123",)}),
        ("budget of camp-012", {"campaigns.campaign_id": ("camp-012",)}),
        ("who is in seg-3", {"segments.segment_id": ("seg-3",)}),
        ("purchases of customer A12-77", {"customers.customer_id": ("A12-77",)}),
        ("purchases of customer #17850", {"customers.customer_id": ("17850",)}),
        # ages
        ("customers aged 25-34", {"customers.age_group": ("25-34",)}),
        ("people between 25 and 34 years old", {"customers.age_group": ("25-34",)}),
        ("customers over 55", {"customers.age_group": ("55-64", "65+")}),
        ("members older than 55", {"customers.age_group": ("55-64", "65+")}),
        ("how many are over 65 years old", {"customers.age_group": ("65+",)}),
        ("how many are 65+", {"customers.age_group": ("65+",)}),
        ("women under 35", {"customers.age_group": ("18-24", "25-34")}),
        ("customers younger than 25", {"customers.age_group": ("18-24",)}),
        ("who is under 45 years old", {"customers.age_group": ("18-24", "25-34", "35-44")}),
    ],
)
def test_values_of_the_data(question: str, columns: dict[str, tuple[str, ...]]) -> None:
    assert found(question) == [columns]
    assert link(question).slots().values == (frozenset(columns),)


@pytest.mark.parametrize(
    "question",
    [
        "how many customers",
        "la la land",
        "the house",
        "of",
        "customers in Paris",
        "gold members",
        "tickets older than 30 days",
        "customers over 30",
        "who is under 30 years old",
        "over 25 points",
        "at least 35 purchases",
        "women under 35 points",
        "members over 55%",
        "best customers",
        "customer 2nd",
        "sales from boss",
        "may i see the sales",
    ],
)
def test_what_is_no_value(question: str) -> None:
    assert found(question) == []


def test_a_plain_word_is_a_value_only_when_it_is_written_as_a_name() -> None:
    assert found("sales of House products") == [{"products.category": ("house",)}]


def test_without_known_words_nothing_is_taken_for_misspelt() -> None:
    assert Linker(LINKER.catalog).link("customers in Bostn").values == ()


@pytest.mark.parametrize(
    ("question", "column", "text"),
    [
        ("which vegan products sell best", "products.name", "vegan"),
        ("list the Iced Latte rewards", "rewards.name", "Iced Latte"),
        ("how did the sale campaigns do", "campaigns.name", "sale"),
    ],
)
def test_a_word_that_several_names_share_is_searched_for(question: str, column: str, text: str) -> None:
    linked = LINKER.link(question)
    (value,) = linked.values
    if value.like:
        assert dict(value.columns) == {column: (text,)}
        assert "[V0] [like]" in linked.text
    else:  # a whole name comes first
        assert value.columns[column.replace("rewards", "products")]


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("tickets that mention refunds", "refunds"),
        ("tickets mentioning a courier last week", "courier"),
        ("how many tickets contain the word Parking?", "Parking"),
        ("complaints with the phrase stale", "stale"),
        ("who talked about the barista", "barista"),
        ("tickets that say cold", "cold"),
        ("rewards whose description mentions friend", "friend"),
    ],
)
def test_a_mentioned_word_is_looked_for_in_every_text(question: str, word: str) -> None:
    linked = link(question)
    (value,) = linked.values
    assert value.like
    assert value.columns["tickets.text"] == value.columns["rewards.description"] == (word,)
    assert not any(fields()[c].private for c in value.columns)
    assert "[V0] [like]" in linked.text


@pytest.mark.parametrize(
    "question",
    [
        "orders containing more than 3 items",
        "orders that contain neither",
        "baskets containing some products",
        "baskets containing cheap items",
        "tickets that mention it",
        "what did they talk about",
        "tickets mentioning 404",
    ],
)
def test_what_is_not_mentioned(question: str) -> None:
    assert link(question).values == ()


def test_a_value_that_is_mentioned_is_the_value() -> None:
    assert found("orders containing bakery") == [{"products.category": ("bakery",), "rewards.category": ("bakery",)}]
    assert found("orders containing neither bakery nor coffee") == [
        {"products.category": ("bakery",), "rewards.category": ("bakery",)},
        {"products.category": ("coffee",), "rewards.category": ("coffee",)},
    ]


def test_a_quoted_text_is_looked_for_in_every_text() -> None:
    (value,) = link('tickets that say "arrived cold"').values
    assert value.like
    assert value.columns["tickets.text"] == ("arrived cold",)
    assert {fields()[c].type for c in value.columns} == {"text"}
    assert not any(fields()[c].private for c in value.columns)
    assert found("the customer's city isn't known") == []  # apostrophes quote nothing


@pytest.mark.parametrize(
    ("question", "numbers"),
    [
        ("top 5", [Number(5)]),
        ("spent over $1,000", [Number(1000)]),
        ("spent over €1,234,567.50", [Number(1234567.5)]),
        ("over 2.5k points", [Number(2500)]),
        ("over 3 grand", [Number(3000)]),
        ("over 1.5 million points", [Number(1.5e6)]),
        ("2m points", [Number(2e6)]),
        (".5 of them", [Number(0.5)]),
        ("above 20%", [Number(20, percent=True)]),
        ("above 12.5 percent", [Number(12.5, percent=True)]),
        ("above 70 per cent", [Number(70, percent=True)]),
        ("at 5pm", [Number(17)]),
        ("before 9 a.m.", [Number(9)]),
        ("at 12am", [Number(0)]),
        ("at 12 pm", [Number(12)]),
        ("bought twice", [Number(2)]),
        ("five or twenty-five or a hundred", [Number(5), Number(25), Number(100)]),
        ("a dozen", [Number(12)]),
        ("between 9 and 17", [Number(9), Number(17)]),
        ("top ten of 3 over 7", [Number(10), Number(3), Number(7)]),  # in the order of the words
        ("at 13pm", []),
        ("-5", []),
        ("3rd", []),
        ("one customer", []),
        ("1e5", []),
        ("9" * 30, []),
        ("9" * 400, []),
    ],
)
def test_numbers(question: str, numbers: list[Number]) -> None:
    assert list(link(question).numbers) == numbers


@pytest.mark.parametrize(
    ("question", "text"),
    [
        (
            "top 5 customers in Austin over $50 last month",
            "top [N0] customers in [V0] [customers.location] [transactions.store] over [N1] [T0]",
        ),
        ("bakery or  coffee", "[V0] [products.category] [rewards.category] or [V1] [products.category] [rewards.category]"),
        ("since March, next 30 days, last 90 days", "[T0] , [T1] next 30 days , [T2] last 90 days"),
        ("above 20%, bought twice at 5pm", "above [N0] percent , bought [N1] times at [N2] pm"),
        ("Sol y Mar in March", "[V0] [products.brand] [T0]"),
        ("purchases of customers who joined in 2025", "purchases of customers who joined [T0]"),
        ("  how many?  ", "how many?"),
        ("[V0] and [N0] [customers.location]", "(V0) and (N0) (customers.location)"),  # nobody may type a slot
        ("", ""),
    ],
)
def test_the_text_that_the_model_reads(question: str, text: str) -> None:
    linked = link(question)
    assert linked.text == text
    assert linked.question == question


def test_a_value_is_no_time_and_a_time_is_no_number() -> None:
    values = {"products.brand": ["May Day", "March 2025"], "customers.location": ["Austin, TX"]}
    linked = Linker(Catalog.build(values, NOW)).link("may day and March 2025 in the last 30 days of 2024")
    assert [dict(v.columns) for v in linked.values] == [{"products.brand": ("May Day",)}, {"products.brand": ("March 2025",)}]
    assert [t.label for t in linked.times] == ["in the last 30 days", "of 2024"]
    assert linked.numbers == ()


def test_lengths_may_serve_as_numbers() -> None:
    assert link("since march, for 60 days").slots().durations == {1}


def test_there_are_only_so_many_slots() -> None:
    many = link("1 2 3 4 5 6 Austin Boston Dallas bakery coffee Zürich in 2021 in 2022 in 2023 in 2024 in 2025")
    assert (len(many.numbers), len(many.values), len(many.times)) == (NUMBER_SLOTS, VALUE_SLOTS, TIME_SLOTS)
    assert [n.value for n in many.numbers] == [1, 2, 3, 4]
    assert [v.text for v in many.values] == ["Austin", "Boston", "Dallas", "bakery"]


def test_normalize() -> None:
    assert normalize("  Café  Olé & Söhne's ") == "cafe ole and sohne s"
    assert normalize("10 % off!") == "10 off"
    assert normalize("日本") == ""


def test_shared_words() -> None:
    assert shared_words(["Vegan Muffin", "vegan wrap", "Iced Tea Box", "Iced Tea Jar", "Free Item", "Free Cup"]) >= {
        "vegan",
        "iced",
        "iced tea",
    }
    assert not {"free", "tea", "muffin"} & shared_words(
        ["Vegan Muffin", "vegan wrap", "Iced Tea Box", "Iced Tea Jar", "Free Item", "Free Cup"]
    )


def test_what_a_catalogue_leaves_out() -> None:
    names = [f"Name Number{i}" for i in range(MAX_VALUES + 1)]
    catalog = Catalog.build(
        {"customers.name": names, "customers.location": ["", "Ur", "1234", "Rome"], "rewards.reward_id": ["rew-1 x"]}, NOW
    )
    assert not {"ur", "1234", "name number1", "rew 1 x"} & set(catalog.phrases)
    assert catalog.phrases["rome"] == {"customers.location": ("Rome",)}
    assert Catalog.build({}, NOW).longest == 1


def test_a_catalogue_read_from_the_data(small_home: Path) -> None:
    connection = open_business(small_home / "warehouse", "biz-1")
    catalog = Catalog.read(connection, "biz-1", NOW)
    assert not catalog.several_scores
    ((name,),) = connection.execute("SELECT name FROM rewards ORDER BY reward_id LIMIT 1").fetchall()
    (value,) = Linker(catalog).link(f"who redeemed '{name}'").values
    assert value.columns["rewards.name"] == (name,)
    assert Catalog.read(connection, "biz-2", NOW).phrases == {}  # another business's values are not in it
    connection.execute(
        "INSERT INTO customer_risk_scores SELECT * REPLACE (scored_at - INTERVAL 1 DAY AS scored_at) FROM customer_risk_scores"
    )
    assert Catalog.read(connection, "biz-1", NOW).several_scores


PIECES = st.sampled_from(
    [
        "Austin",
        "texas",
        "bakery",
        "cust-1",
        "customer 12345",
        "25-34",
        "over 65",
        "20%",
        "$1,000",
        "2k",
        "5pm",
        "twice",
        "last 30 days",
        "in May",
        '"x y"',
        "'",
        "“",
        "”",
        "[V0]",
        "İ",
        "ſ",
        "K",
        "ß",
        "é",
        "\u0301",
        "日本",
        "٣",
        "½",
        "\x00",
        "\n",
        "&",
        "-",
        "Bostn",
        "vegan products",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=10).map(" ".join)))
def test_no_text_raises_and_slots_count_from_left_to_right(question: str) -> None:
    linked = LINKER.link(question)
    at = -1
    for letter, count in (("N", len(linked.numbers)), ("V", len(linked.values)), ("T", len(linked.times))):
        places = [linked.text.index(f"[{letter}{i}]") for i in range(count)]
        assert places == sorted(places)
        assert len(re.findall(rf"\[{letter}\d+\]", linked.text)) == count
        at = max(at, *places, 0)
    assert len(linked.numbers) <= NUMBER_SLOTS
    assert len(linked.values) <= VALUE_SLOTS
    assert len(linked.times) <= TIME_SLOTS
    assert all(v.columns and all(stored for stored in v.columns.values()) for v in linked.values)
    slots = linked.slots()
    assert (slots.numbers, len(slots.values), slots.times) == (len(linked.numbers), len(linked.values), len(linked.times))


def test_plain_words_are_put_right_before_values_are_looked_for() -> None:
    """`Bostn` is a city written wrong, `custmers` a plain word; without the speller it goes to the network as it was typed."""
    speller = Speller(["customers", "costs"], frozenset({"how", "many"}))
    typed = "how many custmers in Bostn"
    with_it, without = Linker(Catalog.build(VALUES, NOW), KNOWN, speller).link(typed), LINKER.link(typed)
    assert "how many customers in [V0]" in with_it.text
    assert "custmers" in without.text
    assert [dict(v.columns) for v in with_it.values] == [{"customers.location": ("Boston, MA",)}]


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("lattes sold in Boston", "[V0] [like] products sold in [V1] [customers.location]"),
        ("vegan products", "[V0] [like] products"),
        ("how many customers", "how many customers"),
    ],
)
def test_a_word_that_names_of_products_share_is_one(question: str, text: str) -> None:
    names = {**VALUES, "products.name": [*VALUES["products.name"], "Hot Latte", "Vegan Pie"]}
    assert Linker(Catalog.build(names, NOW), KNOWN).link(question).text == text
