"""What a business offers: products, rewards, campaigns, and the hidden vectors that decide who likes what."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from contracts.tables import REWARD_TYPES, SINGLE_USE_REWARD_TYPES
from warehouse.generator import text
from warehouse.generator.settings import DAY_S, GeneratorSettings, Window

LATENT = 16  # dimensions of taste
PART_COUNT = 4  # morning, lunch, afternoon, evening
FOREVER = 2**62
TYPE_SHARE = (0.22, 0.14, 0.20, 0.14, 0.10, 0.08, 0.07, 0.05)  # in the order of REWARD_TYPES
TYPE_PULL = (0.2, 0.3, 0.6, -0.1, 0.1, -0.2, -0.2, -1.2)  # how much each type is liked by everyone
CAMPAIGN_CHANNELS = ("email", "push", "email", "sms", "email", "app")
CAMPAIGN_REWARDS = 4
# Rows: morning, lunch, afternoon, evening; columns: CATEGORIES. Added to the utility.
DAYPART_PULL = np.array(
    [
        [0.6, 0.2, 0.4, 1.0, -0.6, -0.8, -0.4, -0.6, 0.0, -0.3],
        [-0.2, -0.3, -0.2, -0.7, 1.0, 0.9, 0.1, -0.1, 0.0, -0.2],
        [0.2, 0.6, 0.2, -0.8, -0.3, -0.3, 0.6, 0.4, 0.6, 0.0],
        [-0.6, 0.0, -0.2, -0.9, 0.2, 0.2, 0.3, 0.8, -0.2, 0.8],
    ]
)
FOLLOWS = {0: 2, 1: 7, 2: 0, 3: 8, 4: 6, 5: 8, 6: 4, 7: 1, 8: 5, 9: 0}  # after a reward of this category that one is in mind too


@dataclass(frozen=True)
class Rewards:
    """The catalogue; R rewards. Times are seconds since the epoch, money is in whole cents, -1 stands for "none"."""

    name: list[str]
    description: list[str]
    category: np.ndarray  # (R,) index into CATEGORIES
    type: np.ndarray  # (R,) index into REWARD_TYPES
    points: np.ndarray
    face_cents: np.ndarray
    difficulty_cents: np.ndarray
    valid_from: np.ndarray  # -1: always was
    valid_to: np.ndarray  # FOREVER: no end
    inventory: np.ndarray  # -1: not counted
    sold_out_at: np.ndarray  # FOREVER: never
    vector: np.ndarray  # (R, LATENT) float64
    pull: np.ndarray  # (R,) liked by everyone: power law plus type
    value: np.ndarray  # (R,) standardised worth, weighed by the customer's price sensitivity
    single_use: np.ndarray  # (R,) bool

    def open_at(self, time_s: np.ndarray) -> np.ndarray:
        """Which rewards can be redeemed at each time, bool (len(time_s), R)."""
        t = np.asarray(time_s)[:, None]
        return (self.valid_from <= t) & (t < self.valid_to) & (t < self.sold_out_at)


@dataclass(frozen=True)
class Products:
    """P products, sorted by category."""

    name: list[str]
    brand: np.ndarray
    category: np.ndarray
    price_cents: np.ndarray
    cumulative: np.ndarray  # (P,) category + cumulative share within it: one searchsorted draws products of many categories


@dataclass(frozen=True)
class Campaigns:
    """M campaigns, each within one week."""

    name: list[str]
    week: np.ndarray
    channel: list[str]
    started_at: np.ndarray
    ended_at: np.ndarray
    budget_cents: np.ndarray
    category: np.ndarray
    targeting: np.ndarray  # 0 by taste, 1 lapsing customers, 2 random
    rewards: np.ndarray  # (M, CAMPAIGN_REWARDS) reward indices


@dataclass(frozen=True)
class World:
    """All that customers of one business share."""

    window: Window
    category_vector: np.ndarray  # (C, LATENT)
    persona_vector: np.ndarray  # (8, LATENT)
    demographic_vector: np.ndarray  # (24, LATENT): 6 age groups, 3 genders, 3 incomes, 12 cities
    transition: np.ndarray  # (C, C): what a redeemed category does to the next choice
    rewards: Rewards
    products: Products
    campaigns: Campaigns


def build_world(settings: GeneratorSettings, business: str) -> World:
    """Draw the catalogue of one business; depends on the settings and the business id only."""
    key = [settings.seed, *business.encode()]
    rng = np.random.default_rng(np.random.SeedSequence(key, spawn_key=(0,)))
    window = settings.window()
    count = len(text.CATEGORIES)
    groups = _directions(rng, max(text.GROUPS) + 1)
    category_vector = 0.55 * groups[list(text.GROUPS)] + 0.85 * _directions(rng, count)
    rewards = _rewards(rng, settings.rewards, window, category_vector)
    return World(
        window=window,
        category_vector=category_vector,
        persona_vector=_directions(rng, 8) * np.sqrt(LATENT),
        demographic_vector=_directions(rng, 24) * np.sqrt(LATENT),
        transition=_transition(count),
        rewards=rewards,
        products=_products(rng, settings.products),
        campaigns=_campaigns(rng, window, rewards),
    )


def _directions(rng: np.random.Generator, count: int) -> np.ndarray:
    v = rng.normal(size=(count, LATENT))
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def _transition(count: int) -> np.ndarray:
    matrix = np.eye(count)
    for a, b in FOLLOWS.items():
        matrix[a, b] = 0.9
    return matrix


def _take(rng: np.random.Generator, weights: np.ndarray, count: int) -> np.ndarray:
    """`count` different indices, likelier where the weight is larger (Gumbel top-k)."""
    return np.argsort(-(np.log(weights) + rng.gumbel(size=len(weights))), kind="stable")[:count]


def _rewards(rng: np.random.Generator, count: int, window: Window, category_vector: np.ndarray) -> Rewards:
    shape = (len(text.CATEGORIES), len(REWARD_TYPES), 6, 8)
    weights = np.ones(shape) * np.array(TYPE_SHARE)[None, :, None, None]
    chosen = np.stack(np.unravel_index(_take(rng, weights.ravel(), count), shape), axis=1)
    category, kind, flavour_of, noun = chosen.T
    flavour = np.array([text.FLAVOURS.index(text.FLAVOURS_OF[text.CATEGORIES[c]][f]) for c, f in zip(category, flavour_of, strict=True)])
    vector = (
        category_vector[category] + 0.65 * _directions(rng, len(REWARD_TYPES))[kind]
        + 0.7 * _directions(rng, len(text.FLAVOURS))[flavour] + 0.35 * _directions(rng, count)
    )  # fmt: skip
    points, face, difficulty = _terms(rng, kind, category)
    valid_from, valid_to = _validity(rng, count, window)
    inventory, sold_out = _inventory(rng, count, window)
    popularity = -0.7 * np.log(1.0 + rng.permutation(count)) + 0.25 * rng.normal(size=count)
    value = np.log1p(face / 100.0) - points / 500.0 - difficulty / 3000.0
    names, sentences = _reward_texts(category, kind, flavour, noun, face, difficulty)
    return Rewards(
        name=names, description=sentences, category=category, type=kind, points=points, face_cents=face, difficulty_cents=difficulty,
        valid_from=valid_from, valid_to=valid_to, inventory=inventory, sold_out_at=sold_out, vector=vector,
        pull=popularity - popularity.mean() + np.array(TYPE_PULL)[kind], value=(value - value.mean()) / (value.std() + 1e-9),
        single_use=np.isin(kind, [REWARD_TYPES.index(t) for t in SINGLE_USE_REWARD_TYPES]),
    )  # fmt: skip


def _terms(rng: np.random.Generator, kind: np.ndarray, category: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points cost, face value and least spend (both in cents) by type."""
    price = np.array([text.BASE_PRICE[c] for c in text.CATEGORIES])[category]
    share = np.array([0.25, 1.0, 1.0, 0.3, 0.35, 4.0, 0.3, 0.0])[kind]
    face = np.round(price * share * rng.uniform(0.8, 1.3, len(kind)) * 4) * 25
    per_point = np.array([0.0, 0.4, 0.8, 0.0, 0.5, 0.35, 0.6, 0.0])[kind]  # points for one cent of value
    free = rng.random(len(kind)) < 0.25
    points = np.where(free, 0.0, np.round(face * per_point / 10) * 10)
    least = rng.choice([0, 0, 0, 500, 800, 1000, 1500, 2000], size=len(kind))
    difficulty = np.where(np.isin(kind, [5, 7]), 0, least)  # a masterclass or a story asks for no spend
    return points.astype(np.int64), face.astype(np.int64), difficulty.astype(np.int64)


def _validity(rng: np.random.Generator, count: int, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Half always there; the rest seasonal, launched on the way, launched in the last 60 days (a tenth), or withdrawn."""
    days = (window.end - window.start) // DAY_S
    kind = np.searchsorted(np.cumsum([0.55, 0.15, 0.15, 0.10]), rng.permutation(count) / count, side="right")
    first = np.full(count, -1, dtype=np.int64)
    last = np.full(count, FOREVER, dtype=np.int64)
    at = rng.random(count)
    length = rng.integers(6, 14, count) * 7 * DAY_S
    seasonal_from = window.start + (at * days).astype(np.int64) * DAY_S
    first = np.select(
        [kind == 1, kind == 2, kind == 3],
        [seasonal_from, seasonal_from, window.end - (1 + at * min(58, days - 1)).astype(np.int64) * DAY_S],
        first,
    )
    last = np.select(
        [kind == 1, kind == 4], [seasonal_from + length, window.start + (0.3 * days + at * 0.6 * days).astype(np.int64) * DAY_S], last
    )
    announced = (kind == 0) & (rng.random(count) < 0.2)  # still open, its last day already known
    return first, np.where(announced, window.end + length * 2, last)


def _inventory(rng: np.random.Generator, count: int, window: Window) -> tuple[np.ndarray, np.ndarray]:
    draw = rng.permutation(count) / count
    left = np.where(draw < 0.2, rng.integers(20, 4000, count), -1)
    sold_out = (draw >= 0.2) & (draw < 0.225)
    days = np.minimum(rng.integers(3, 40, count), (window.end - window.start) // DAY_S)
    return np.where(sold_out, 0, left), np.where(sold_out, window.end - days * DAY_S, FOREVER)


def _reward_texts(
    category: np.ndarray, kind: np.ndarray, flavour: np.ndarray, noun: np.ndarray, face: np.ndarray, difficulty: np.ndarray
) -> tuple[list[str], list[str]]:
    names, sentences = [], []
    for c, k, f, n, cents, least in zip(category, kind, flavour, noun, face, difficulty, strict=True):
        group, kind_name, taste = text.CATEGORIES[c], REWARD_TYPES[k], text.FLAVOURS[f]
        words = {
            "flavour": taste, "noun": text.NOUNS[group][n], "percent": 10 + 5 * int(cents // 50 % 6), "times": 2 + int(cents // 25 % 3),
            "value": f"${cents / 100:.2f}", "category": group, "words": text.FLAVOUR_WORDS[taste],
            "spend": f" when you spend ${least // 100} or more" if least else "",
        }  # fmt: skip
        names.append(text.REWARD_NAMES[kind_name].format(**words))
        sentences.append(_articles(text.REWARD_SENTENCES[kind_name].format(**{**words, "noun": str(words["noun"]).lower()})))
    return names, sentences


def _articles(sentence: str) -> str:
    return re.sub(r"\b([aA]) (?=[aeiou])", r"\1n ", sentence)


def _products(rng: np.random.Generator, count: int) -> Products:
    shape = (len(text.CATEGORIES), 6, 8, 3)
    order = rng.permutation(int(np.prod(shape)))
    _, one_each = np.unique(order // (len(order) // shape[0]), return_index=True)  # every category has a product
    chosen = np.sort(np.concatenate([order[one_each], np.delete(order, one_each)])[:count])
    category, flavour, noun, size = np.unravel_index(chosen, shape)
    names = [
        f"{text.FLAVOURS_OF[g][f]} {text.NOUNS[g][n]} {text.SIZES[g][s]}"
        for g, f, n, s in zip((text.CATEGORIES[c] for c in category), flavour, noun, size, strict=True)
    ]
    base = np.array([text.BASE_PRICE[c] for c in text.CATEGORIES])[category]
    price = np.round(base * (0.8 + 0.3 * size) * rng.uniform(0.85, 1.2, count) * 20) * 5
    share = rng.permutation(count) + 1.0
    share **= -0.8
    cumulative = np.empty(count)
    for c in range(shape[0]):
        rows = category == c
        cumulative[rows] = c + np.cumsum(share[rows]) / share[rows].sum()
    return Products(names, rng.integers(0, len(text.BRANDS), count), category, price.astype(np.int64), cumulative)


def _campaigns(rng: np.random.Generator, window: Window, rewards: Rewards) -> Campaigns:
    """One campaign a week and a second one every other week; each offers a few open rewards of its category."""
    week = np.sort(np.concatenate([np.arange(window.weeks), np.arange(0, window.weeks, 2)]))
    started = np.array([window.week_start(int(w)) for w in week]) + rng.integers(7, 10, len(week)) * 3600
    keep = started >= window.start
    week, started = week[keep], started[keep]
    category = rng.integers(0, len(text.CATEGORIES), len(week))
    targeting = rng.choice(3, p=[0.45, 0.2, 0.35], size=len(week))
    open_all_week = rewards.open_at(started) & rewards.open_at(started + 6 * DAY_S)
    fit = (
        rewards.pull[None, :] * 0.5
        + 3.0 * (rewards.category[None, :] == category[:, None])
        + rng.gumbel(size=(len(week), len(rewards.pull)))
    )
    chosen = np.argsort(-np.where(open_all_week, fit, -np.inf), axis=1, kind="stable")[:, :CAMPAIGN_REWARDS]
    channel = [CAMPAIGN_CHANNELS[i % len(CAMPAIGN_CHANNELS)] for i in range(len(week))]
    aim = ("Favourites", "Come Back", "Discover")
    names = [f"{text.CATEGORIES[c].title()} {aim[t]} week {w + 1}" for c, t, w in zip(category, targeting, week, strict=True)]
    ended = np.minimum([window.week_start(int(w) + 1) for w in week], window.end)
    return Campaigns(names, week, channel, started, ended, rng.integers(5, 80, len(week)) * 10_000, category, targeting, chosen)
