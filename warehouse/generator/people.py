"""Customers of one block: who they are, and the hidden traits that drive what they do."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts.tables import CUSTOMERS, TIERS
from warehouse.generator import text
from warehouse.generator.arrow import decimals, numbered, take, timestamps
from warehouse.generator.catalogue import World
from warehouse.generator.settings import DAY_S

TASTE_GAIN = 2.5  # standard deviation of a customer's taste over rewards, in logits, is about this


@dataclass(frozen=True)
class People:
    """Traits of n customers, fixed over time. Rates are per week, times seconds since the epoch."""

    first: int  # customers of the blocks before; numbers start at 1
    taste: np.ndarray  # (n, LATENT)
    taste_logits: np.ndarray  # (n, R) float32: taste, price sensitivity and everyone's liking of each reward
    category_logits: np.ndarray  # (n, C): pull of each product category
    price_sensitivity: np.ndarray
    novelty: np.ndarray
    rate: np.ndarray  # visits a week at an average time
    weekday: np.ndarray  # (n, 7) shares
    daypart: np.ndarray  # (n, 4) shares
    basket: np.ndarray  # mean lines of a purchase above one
    app: np.ndarray  # 0..1
    mail: np.ndarray  # 0..1
    redeems: np.ndarray  # chance that a visit brings a redemption from the catalogue
    hazard: np.ndarray  # weekly chance of beginning to leave, at peace
    digital: np.ndarray  # share of purchases not made in a store
    joined_at: np.ndarray
    age_group: np.ndarray
    gender: np.ndarray  # 0 F, 1 M, 2 O, 3 not told
    income: np.ndarray  # dollars a year; -1 not told
    city: np.ndarray
    store: np.ndarray  # 0..35
    birth_day: np.ndarray  # days since the epoch
    name: np.ndarray  # (n, 2) first and last name
    consent: np.ndarray

    def __len__(self) -> int:
        return len(self.rate)


def draw_people(world: World, first: int, count: int, rng: np.random.Generator) -> People:
    """Draw a block of customers."""
    age, gender = rng.choice(6, p=[0.17, 0.25, 0.2, 0.17, 0.12, 0.09], size=count), rng.choice(4, p=[0.5, 0.4, 0.03, 0.07], size=count)
    income = np.round(np.exp(rng.normal(10.95 + 0.1 * np.minimum(age, 3), 0.42)), -3).clip(12_000, 400_000)
    city = rng.choice(len(text.CITIES), p=_city_shares(), size=count)
    taste = _tastes(world, rng, age, gender, income, city)
    engagement = rng.normal(size=count)
    price_sensitivity = (0.6 - 0.35 * (np.log(income) - 11.1) + 0.35 * rng.normal(size=count)).clip(-0.3, 1.8)
    told = rng.random(count) >= 0.08
    return People(
        first=first, taste=taste, taste_logits=_reward_logits(world, taste, price_sensitivity),
        category_logits=1.1 * taste @ world.category_vector.T, price_sensitivity=price_sensitivity, novelty=rng.gamma(2.0, 0.4, count),
        rate=rng.gamma(1.3, 1.08 / 1.3, count).clip(0.03, 8), weekday=rng.dirichlet(np.full(7, 3.0), count), daypart=_dayparts(rng, age),
        basket=rng.gamma(2.0, 0.35, count).clip(0, 3), app=_sigmoid(engagement - 0.25 * (age - 2) + 0.5 * rng.normal(size=count)),
        mail=_sigmoid(0.7 * engagement + 0.1 * (age - 2) - 0.3 + 0.7 * rng.normal(size=count)),
        redeems=0.37 * _sigmoid(0.8 * engagement + 0.5 * price_sensitivity - 0.45 + 0.5 * rng.normal(size=count)),
        hazard=0.0058 * np.exp(0.6 * rng.normal(size=count) - 0.5 * engagement), digital=_sigmoid(0.7 * engagement - 0.6 - 0.2 * (age - 2)),
        joined_at=_joined(world, rng, count), age_group=age, gender=gender, income=np.where(told, income, -1), city=city,
        store=city * len(text.STORE_PARTS) + rng.integers(0, len(text.STORE_PARTS), count), birth_day=_birth_days(world, rng, age),
        name=_names(rng, gender), consent=rng.random(count) < 0.95,
    )  # fmt: skip


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def _city_shares() -> np.ndarray:
    share = 1.0 / (1.0 + 0.25 * np.arange(len(text.CITIES)))
    return share / share.sum()


def _tastes(
    world: World, rng: np.random.Generator, age: np.ndarray, gender: np.ndarray, income: np.ndarray, city: np.ndarray
) -> np.ndarray:
    """Half persona, a quarter demographics, the rest the customer's own; variance about 1 per dimension."""
    d = world.demographic_vector
    bracket = np.searchsorted([45_000, 80_000], income)
    shared = (d[age] + 0.6 * d[6 + np.minimum(gender, 2)] + 0.7 * d[9 + bracket] + 0.5 * d[12 + city]) / 1.45
    persona = world.persona_vector[rng.integers(0, len(world.persona_vector), len(age))]
    return np.sqrt(0.4) * persona + np.sqrt(0.2) * shared + np.sqrt(0.4) * rng.normal(size=persona.shape)


def _reward_logits(world: World, taste: np.ndarray, price_sensitivity: np.ndarray) -> np.ndarray:
    rewards = world.rewards
    scale = TASTE_GAIN / np.linalg.norm(rewards.vector, axis=1).mean()
    logits = scale * taste @ rewards.vector.T + rewards.pull[None, :] + 0.5 * price_sensitivity[:, None] * rewards.value[None, :]
    return logits.astype(np.float32)


def _dayparts(rng: np.random.Generator, age: np.ndarray) -> np.ndarray:
    """Morning, lunch, afternoon or evening people, with some of each."""
    kind = rng.choice(4, p=[0.38, 0.27, 0.17, 0.18], size=len(age))
    lean = np.full((len(age), 4), 0.6)
    lean[np.arange(len(age)), kind] = 4.5
    lean[:, 0] += 0.25 * age
    draws = rng.gamma(lean)
    return draws / draws.sum(axis=1, keepdims=True)


def _joined(world: World, rng: np.random.Generator, count: int) -> np.ndarray:
    """Three in five were members at the start (up to three years before), the rest join along the way, a few in the last days."""
    w = world.window
    before = w.start - (rng.beta(1.0, 1.4, count) * 3 * 365 * DAY_S).astype(np.int64)
    along = w.start + (rng.random(count) * (w.end - w.start - 600)).astype(np.int64)
    return np.where(rng.random(count) < 0.6, before, along)


def _birth_days(world: World, rng: np.random.Generator, age: np.ndarray) -> np.ndarray:
    years = np.array(text.AGE_FROM)[age] + rng.random(len(age)) * (np.array(text.AGE_SPAN)[age] - 0.1) + 0.05
    return world.window.end // DAY_S - (years * 365.25).astype(np.int64)


def _names(rng: np.random.Generator, gender: np.ndarray) -> np.ndarray:
    female = np.where(gender >= 2, rng.random(len(gender)) < 0.5, gender == 0)
    first = np.where(
        female, rng.integers(0, len(text.FIRST_F), len(gender)), len(text.FIRST_F) + rng.integers(0, len(text.FIRST_M), len(gender))
    )
    return np.stack([first, rng.integers(0, len(text.LAST), len(gender))], axis=1)


def customer_ids(people: People) -> pa.Array:
    """`cust-000042` for each customer of the block, in order."""
    return numbered("cust-", people.first + 1 + np.arange(len(people)), 6)


def customers_table(business: str, people: People, tier: np.ndarray, balance: np.ndarray) -> pa.Table:
    """The `customers` rows of a block, with the tier and points they end with."""
    n = len(people)
    firsts, lasts = text.FIRST_F + text.FIRST_M, text.LAST
    number = numbered("", people.first + 1 + np.arange(n), 6)
    email = pc.binary_join_element_wise(
        take([_ascii(x) for x in firsts], people.name[:, 0]), take([_ascii(x) for x in lasts], people.name[:, 1]),
        pc.binary_join_element_wise(number, pa.scalar("@example.com"), ""), ".",
    )  # fmt: skip
    columns = {
        "customer_id": customer_ids(people),
        "business_id": pa.repeat(business, n),
        "name": pc.binary_join_element_wise(take(firsts, people.name[:, 0]), take(lasts, people.name[:, 1]), " "),
        "email": email,
        "joined_at": timestamps(people.joined_at * 1_000_000),
        "birth_date": pa.array(people.birth_day.astype(np.int32)).cast(pa.date32()),
        "gender": take(["F", "M", "O", None], people.gender),
        "age_group": take(text.AGE_GROUPS, people.age_group),
        "income": decimals(people.income.astype(np.int64) * 100, people.income < 0),
        "location": take(text.CITIES, people.city),
        "membership_tier": take(TIERS, tier),
        "points_balance": pa.array(balance.astype(np.int64)),
        "consent_personalization": pa.array(people.consent),
    }
    return pa.Table.from_arrays([columns[name] for name in CUSTOMERS.columns], schema=CUSTOMERS.schema)


def _ascii(name: str) -> str:
    """Lower-case ASCII letters of a name, for an e-mail address."""
    plain = unicodedata.normalize("NFKD", name.replace("ı", "i").replace("ł", "l"))
    return "".join(c for c in plain.lower() if c.isascii() and c.isalpha())
