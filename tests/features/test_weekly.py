"""Weekly histories: against a slow reference, point in time, coverage, natural units, shards."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import ArtifactError, ContractError
from contracts.tables import COVERAGES, EVENT_TYPES
from contracts.tensors import CHANNEL_COUNT, STATIC_COUNT, WEEK_COUNT
from features import weekly

TODAY = 20_000
NEVER = 3650.0
Day = tuple[int, dict[str, float]]


@dataclass
class Person:
    """A customer as the reference sees one: (day, sums by name), and the day of joining."""

    days: list[Day] = field(default_factory=list)
    joined: int | None = None


def history_of(people: list[Person]) -> weekly.DailyHistory:
    starts, days, sums, joined = [0], [], [], []
    for person in people:
        for day, found in sorted(person.days, key=lambda row: row[0]):
            days.append(day)
            sums.append([found.get(name, 0.0) for name in weekly.DAILY])
        starts.append(len(days))
        known = [day for day, _ in person.days] + ([person.joined] if person.joined is not None else [])
        joined.append(min(known, default=np.iinfo(np.int32).max))
    return weekly.DailyHistory(
        np.array(starts), np.array(days, np.int32), np.array(sums, np.float32).reshape(-1, len(weekly.DAILY)), np.array(joined, np.int32)
    )


def log(value: float) -> float:
    return math.copysign(math.log1p(abs(value)), value)


def slow_weeks(person: Person, as_of: int) -> np.ndarray:
    """One customer's weeks, one day after the other."""
    out = np.zeros((WEEK_COUNT, CHANNEL_COUNT))
    known = min([day for day, _ in person.days] + ([person.joined] if person.joined is not None else []), default=None)
    for step in range(WEEK_COUNT):
        end = as_of - 7 * (WEEK_COUNT - 1 - step)  # the day after the week
        for column, name in enumerate(weekly.DAILY):
            out[step, column] = log(math.fsum(found.get(name, 0.0) for day, found in person.days if end - 7 <= day < end))
        if known is not None and known < end:
            bought = [day for day, found in person.days if day < end and found.get("purchases", 0) > 0]
            out[step, 10] = math.log1p((end - 1 - max(bought) if bought else NEVER) / 7)
            out[step, 11] = 1
    return out


def slow_statics(person: Person, as_of: int) -> dict[str, float]:
    """One customer's statics, each from its definition in words."""
    past = [(as_of - 1 - day, found) for day, found in person.days if day < as_of]

    def total(name: str, span: float) -> float:
        return math.fsum(found.get(name, 0.0) for age, found in past if age < span)

    def ages(name: str) -> list[int]:
        return [age for age, found in past if found.get(name, 0) > 0]

    out = {}
    for name, spans in {
        "purchases": (30, 90, 180, 365, math.inf), "spend": (30, 90, 365, math.inf), "engagement": (30, 90), "offers": (30, 90),
        "views": (30, 90), "redemptions": (30, 90, 365, math.inf), "tickets": (90, 365), "bad_tickets": (90, 365), "negative": (365,),
    }.items():  # fmt: skip
        for span in spans:
            out[f"{name}_{'ever' if span == math.inf else f'{span}d'}"] = log(total(name, span))
    bought = ages("purchases")
    recency, first = min(bought, default=NEVER), max(bought, default=NEVER)
    gap = max((first - recency) / (len(bought) - 1), 1.0) if len(bought) > 1 else max(first, 30.0)
    spend, discount = total("spend", math.inf), total("discount", math.inf)
    joined = min([day for day, _ in person.days] + ([person.joined] if person.joined is not None else []), default=as_of)
    angle = 2 * math.pi * as_of / 365.2425
    return out | {
        "days_since_purchase": math.log1p(recency),
        "overdue": math.log1p(min(recency, NEVER) / gap),
        "purchase_days": math.log1p(len(bought)),
        "usual_gap": math.log1p(gap),
        "quickening": math.log1p(sum(a < 90 for a in bought)) - math.log1p(sum(90 <= a < 180 for a in bought)),
        "basket": log(spend / max(total("purchases", math.inf), 1.0)),
        "discount_share": min(max(discount / max(spend + discount, 1e-9), 0.0), 1.0),
        "days_since_engagement": math.log1p(min(ages("engagement"), default=NEVER)),
        "days_since_redemption": math.log1p(min(ages("redemptions"), default=NEVER)),
        "tenure": math.log1p(max(as_of - 1 - joined, 0)),
        "days_since_first_purchase": math.log1p(first),
        "days_since_bad_ticket": math.log1p(min(ages("bad_tickets"), default=NEVER)),
        "year_sin": math.sin(angle), "year_cos": math.cos(angle),
        "half_year_sin": math.sin(2 * angle), "half_year_cos": math.cos(2 * angle),
    }  # fmt: skip


COUNTS = st.integers(0, 3).map(float)
MONEY = st.integers(-5000, 20_000).map(lambda cents: cents / 100)
SUMS = st.fixed_dictionaries(
    {},
    optional={name: MONEY if name == "spend" else st.integers(0, 900).map(lambda c: c / 100) if name == "discount" else COUNTS
              for name in weekly.DAILY},
)  # fmt: skip
# Near the as-of day, at the windows' edges, and years away.
DAYS = st.one_of(
    st.integers(TODAY - 100, TODAY + 10),
    st.integers(TODAY - 900, TODAY),
    st.sampled_from([TODAY - edge + d for edge in (0, 7, 30, 90, 180, 364, 365, 400) for d in (-1, 0, 1)]),
    st.integers(10_000, TODAY),
)
PEOPLE = st.builds(
    Person,
    st.lists(st.tuples(DAYS, SUMS), max_size=12, unique_by=lambda row: row[0]),
    st.one_of(st.none(), st.integers(TODAY - 1000, TODAY + 5)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(PEOPLE, max_size=5))
def test_tensors_are_what_the_slow_reference_says(people: list[Person]) -> None:
    found = weekly.tensors(history_of(people), TODAY)
    assert found["weeks"].shape == (len(people), WEEK_COUNT, CHANNEL_COUNT)
    assert found["statics"].shape == (len(people), STATIC_COUNT)
    assert found["weeks"].dtype == found["statics"].dtype == np.float32
    for row, person in enumerate(people):
        np.testing.assert_allclose(found["weeks"][row], slow_weeks(person, TODAY), atol=1e-5)
        expected = slow_statics(person, TODAY)
        assert tuple(expected) == weekly.STATICS
        np.testing.assert_allclose(found["statics"][row], list(expected.values()), atol=1e-5, err_msg=str(weekly.STATICS))


def test_a_part_of_a_history_gives_the_tensors_of_its_customers() -> None:
    rng = random.Random(1)
    people = [Person([(TODAY - rng.randint(1, 500), {"purchases": 1.0, "spend": rng.random()})] * (n % 3 > 0), TODAY - 9) for n in range(9)]
    whole, some = weekly.tensors(history_of(people), TODAY), weekly.tensors(history_of(people).part(2, 7), TODAY)
    for name, array in some.items():
        np.testing.assert_array_equal(array, whole[name][2:7])


@settings(max_examples=25, deadline=None)
@given(st.lists(PEOPLE, min_size=1, max_size=4), st.randoms())
def test_days_from_the_as_of_day_on_change_nothing(people: list[Person], random) -> None:
    past = [Person([row for row in p.days if row[0] < TODAY], p.joined) for p in people]
    future = [
        Person([*p.days, *((TODAY + n, {"purchases": 9.0, "spend": 900.0}) for n in range(1, random.randint(2, 9)))], p.joined)
        for p in past
    ]
    before, after = (weekly.tensors(history_of(x), TODAY) for x in (past, future))
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name])
    # Negative control: the same rows a day later are inside.
    late = weekly.tensors(history_of(future), TODAY + 10)
    assert not np.array_equal(late["statics"], weekly.tensors(history_of(past), TODAY + 10)["statics"])


def test_an_as_of_day_is_the_first_that_does_not_count() -> None:
    midnight = datetime(1970, 1, 3, tzinfo=UTC)
    assert weekly.as_of_day(midnight) == 2
    assert weekly.as_of_day(midnight + timedelta(microseconds=1)) == 3


def test_facts_are_in_natural_units() -> None:
    person = Person([(TODAY - 36, {"purchases": 2.0, "spend": 40.0, "discount": 10.0}), (TODAY - 101, {"purchases": 1.0, "spend": -70.0})])
    known = weekly.facts(weekly.tensors(history_of([person, Person()]), TODAY)["statics"])
    assert tuple(known) == weekly.STATICS
    assert all(v.dtype == np.float64 and v.shape == (2,) for v in known.values())
    expected = {
        "days_since_purchase": 35, "days_since_first_purchase": 100, "purchase_days": 2, "purchases_90d": 2, "purchases_ever": 3,
        "spend_90d": 40, "spend_ever": -30, "basket": -10, "usual_gap": 65, "quickening": 1.0, "tenure": 100,
    }  # fmt: skip
    for name, value in expected.items():
        assert known[name][0] == pytest.approx(value, abs=1e-3), name
    assert known["days_since_purchase"][1] == pytest.approx(NEVER, abs=0.1)


@pytest.mark.parametrize(
    ("ages", "name"),
    [([], "cold_start"), ([5], "sparse"), ([59, 3], "sparse"), ([60, 3], "sparse"), ([59, 30, 3], "sparse"), ([60, 30, 3], "full"),
     ([3000, 2000, 1000], "full")],
)  # fmt: skip
def test_coverage_by_days_with_a_purchase_and_the_first(ages: list[int], name: str) -> None:
    person = Person([(TODAY - 1 - age, {"purchases": 4.0, "spend": 1.0}) for age in ages] + [(TODAY - 300, {"views": 3.0})])
    found = weekly.coverage(weekly.tensors(history_of([person]), TODAY)["statics"])
    assert found.dtype == np.int64
    assert COVERAGES[found[0]] == name


def pairs(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["business_id"].to_pylist(), table["customer_id"].to_pylist(), strict=True))


def test_each_customer_is_in_exactly_one_shard_whichever_table_knows_them(shop, at) -> None:
    shop.add("customers", *({"customer_id": f"c{n}"} for n in range(200)))
    shop.event("only-events", at(0), "app_open")
    shop.purchase("only-purchases", at(0), 1.0)
    shop.ticket("only-tickets", at(0))
    shop.add("events", {"business_id": "x", "event_id": "e", "customer_id": "c1", "occurred_at": at(0), "event_type": "app_open"})
    everyone = [("b", c) for c in [*(f"c{n}" for n in range(200)), "only-events", "only-purchases", "only-tickets"]] + [("x", "c1")]
    parts = weekly.shards(shop.connection, 4)
    assert sorted(p for part in parts for p in pairs(part)) == sorted(everyone)
    assert all(30 < part.num_rows < 75 for part in parts)
    for number, part in enumerate(parts):
        assert pairs(weekly.shard_customers(shop.connection, number, 4)) == pairs(part) == sorted(pairs(part))
    assert pairs(weekly.shard_customers(shop.connection, 0, 1, "x")) == [("x", "c1")]
    assert [pairs(part) for part in weekly.shards(shop.connection, 1, "x")] == [[("x", "c1")]]


def test_a_customers_shard_is_the_same_everywhere(shop) -> None:
    # Workers of other versions and machines must agree: the expected shard comes from another MD5.
    import hashlib

    shop.add("customers", *({"customer_id": f"c{n}"} for n in range(50)))
    for number in range(7):
        for business, customer in pairs(weekly.shard_customers(shop.connection, number, 7)):
            digest = hashlib.md5(f"{business}\x1f{customer}".encode(), usedforsecurity=False).digest()
            assert int.from_bytes(digest[8:], "little") % 7 == number


@pytest.mark.parametrize("number", [-1, 3])
def test_a_shard_that_does_not_exist_is_refused(shop, number: int) -> None:
    with pytest.raises(ContractError, match="0 to 2"):
        weekly.shard_customers(shop.connection, number, 3)


def test_no_shards_at_all_are_refused() -> None:
    with duckdb.connect() as connection, pytest.raises(ContractError, match="at least 1"):
        weekly.shards(connection, 0)


def assert_equal(found: weekly.DailyHistory, expected: weekly.DailyHistory) -> None:
    for name in ("starts", "days", "sums", "joined"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
        assert getattr(found, name).dtype == getattr(expected, name).dtype, name


COUNTED = {
    "app_open": "engagement", "email_open": "engagement", "email_click": "engagement", "push_click": "engagement",
    "offer_received": "offers", "offer_viewed": "views", "redemption": "redemptions",
    "reward_dismissed": "negative", "unsubscribe": "negative",
}  # fmt: skip


def fill(shop: Any, rng: random.Random, customer: str, until: datetime, business: str = "b") -> Person:
    """Random rows of every table around an instant, and what they come to before it."""
    sums: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    who = {"business_id": business, "customer_id": customer}
    for _ in range(rng.randint(0, 60)):
        when = until + rng.choice([timedelta(days=rng.uniform(-700, 3)), timedelta(hours=rng.uniform(-60, 5)), timedelta(microseconds=-1),
                                   timedelta()])  # fmt: skip
        day = sums[(when - datetime(1970, 1, 1, tzinfo=UTC)).days] if when < until else defaultdict(float)
        kind = rng.choice(["purchase", "ticket", *EVENT_TYPES])
        if kind == "purchase":
            amount, discount = rng.choice([0, 1250, -300, rng.randint(-999, 9999)]), rng.choice([None, 0, 125])
            money = {"amount": Decimal(amount) / 100, "discount_amount": None if discount is None else Decimal(discount) / 100}
            shop.add("transactions", {**who, "transaction_id": shop.id(), "occurred_at": when, **money})
            day["purchases"] += amount >= 0
            day["spend"] += amount / 100
            day["discount"] += (discount or 0) / 100
        elif kind == "ticket":
            rating, sentiment = rng.choice([None, 1, 2, 3]), rng.choice([None, "NEGATIVE", "NEUTRAL"])
            shop.add("tickets", {**who, "ticket_id": shop.id(), "created_at": when, "rating": rating, "sentiment": sentiment})
            day["tickets"] += 1
            day["bad_tickets"] += sentiment == "NEGATIVE" or (rating or 5) <= 2
        else:
            shop.add("events", {**who, "event_id": shop.id(), "occurred_at": when, "event_type": kind})
            if kind in COUNTED:
                day[COUNTED[kind]] += 1
    joined = rng.choice([None, until - timedelta(days=rng.uniform(-5, 400))])
    if joined or rng.random() < 0.5:
        shop.add("customers", {**who, "joined_at": joined})
    return Person(
        [(day, found) for day, found in sums.items() if found], (joined - datetime(1970, 1, 1, tzinfo=UTC)).days if joined else None
    )


@pytest.mark.parametrize("seed", range(3))
def test_days_are_read_as_the_rows_say(shop, seed: int, tmp_path: Path) -> None:
    rng, until = random.Random(seed), datetime(2026, 3, 4, 12, tzinfo=UTC)
    people = {f"c{n}": fill(shop, rng, f"c{n}", until) for n in range(8)}
    fill(shop, rng, "c1", until, business="another")
    fill(shop, rng, "not asked for", until)
    expected = history_of(list(people.values()))
    wanted = pa.table({"business_id": ["b"] * len(people), "customer_id": list(people)})
    found = weekly.read(shop.connection, wanted, until)
    np.testing.assert_allclose(found.sums, expected.sums, rtol=1e-6)
    assert_equal(weekly.DailyHistory(found.starts, found.days, expected.sums, found.joined), expected)
    # The same from files by shard; customers in the order of their shard.
    parts = [wanted.slice(0, 3), wanted.slice(3, 0), wanted.slice(3)]
    folder = weekly.spread(shop.connection, parts, until, tmp_path / "new" / "it's by shard")
    for number, part in enumerate(parts):
        assert_equal(weekly.read_part(folder, number, part.num_rows), weekly.read(shop.connection, part, until))
    shop.clear()
    weekly.spread(shop.connection, parts, until, folder)  # is there already
    assert len(weekly.read_part(folder, 0, 3).days) == expected.starts[3]
    assert [p.name for p in folder.parent.iterdir()] == ["it's by shard"]


def test_a_warehouse_without_acts_is_read_and_laid_out(shop, at, tmp_path: Path) -> None:
    nobody = pa.table({"business_id": ["b"], "customer_id": ["nobody"]})
    found = weekly.read(shop.connection, nobody, at(0))
    assert_equal(found, history_of([Person()]))
    folder = weekly.spread(shop.connection, [nobody], at(0), tmp_path / "acts")
    assert_equal(weekly.read_part(folder, 0, 1), found)


def test_acts_that_cannot_be_laid_out_are_an_artifact_error(shop, at, tmp_path: Path) -> None:
    shop.purchase("a", at(0), 1.0)
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot write the acts of 1 shards"):
        weekly.spread(shop.connection, [pa.table({"business_id": ["b"], "customer_id": ["a"]})], at(1), tmp_path / "file" / "acts")


def test_acts_that_are_gone_or_damaged_are_an_artifact_error(shop, at, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no acts by shard"):
        weekly.read_part(tmp_path / "acts", 0, 1)
    shop.purchase("a", at(0), 1.0)
    folder = weekly.spread(shop.connection, [pa.table({"business_id": ["b"], "customer_id": ["a"]})], at(1), tmp_path / "acts")
    next(folder.rglob("*.parquet")).write_bytes(b"no parquet")
    with pytest.raises(ArtifactError, match="cannot read shard 0"):
        weekly.read_part(folder, 0, 1)
