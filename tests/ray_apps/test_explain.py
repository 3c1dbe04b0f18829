"""Every claim is recomputed here from the raw events, by other code, for many made-up programmes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.tables import TABLES
from contracts.tensors import RANKER
from features.definitions import event_touch, purchase_touch
from features.pairs import GROUP_COLUMNS, PAIR_NAMES
from features.state import CustomerState, fold
from ray_apps.deployments.explain import (
    MAX_REASONS,
    PART_OF_HOUR,
    PARTS,
    Catalogue,
    Explainer,
    Population,
    Reason,
    attributed,
    attribution_inputs,
    attribution_rows,
    impacts,
    moved,
    populations,
    shown_as,
)

DAY = 86_400.0
TODAY = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
NOW = TODAY.timestamp()
CATEGORIES = ("coffee", "pastry", "lunch")
few = settings(max_examples=6, deadline=None)


@dataclass
class World:
    """A made-up programme: its raw rows, and what explanations are made with."""

    raw: dict[str, list[dict[str, Any]]]
    catalogue: Catalogue
    population: Population

    def of(self, table: str, customer: str | None = None, kind: str | None = None) -> list[dict[str, Any]]:
        rows = self.raw[table]
        return [r for r in rows if customer in (None, r["customer_id"]) and kind in (None, r.get("event_type"))]

    def touches(self, customer: str) -> list:
        found = [event_touch(e["event_type"], e["occurred_at"], e["reward_id"]) for e in self.of("events", customer)]
        return found + [purchase_touch(t["occurred_at"], t["amount"]) for t in self.of("transactions", customer)]

    def state(self, customer: str) -> CustomerState:
        who = next(c for c in self.raw["customers"] if c["customer_id"] == customer)
        state = CustomerState()
        if who["birth_date"] is not None:
            born = datetime.combine(who["birth_date"], datetime.min.time(), UTC).timestamp()
            state.demographics[[1, 4]] = born, {"F": 1, "M": 2}[who["gender"]]
        return fold(state, self.touches(customer))


def world(seed: int, customers: int = 160, rewards: int = 12) -> World:
    """Customers with tastes: each redeems mostly one category, at one time of the day."""
    rng = np.random.default_rng(seed)
    catalogue = [
        {
            "reward_id": f"r-{i}", "business_id": "biz", "name": f"Reward {i}", "category": CATEGORIES[i % 3], "reward_type": "free_item",
            "points_cost": 50 * (i % 4), "difficulty": float(i % 5) * 4, "valid_from": TODAY - timedelta(days=int(rng.integers(5, 90))),
        }
        for i in range(rewards)
    ]  # fmt: skip
    people, events, purchases = [], [], []
    for n in range(customers):
        born = None if n % 7 == 0 else date(int(rng.integers(1950, 2006)), 6, 1)
        people.append({"customer_id": f"c-{n}", "business_id": "biz", "birth_date": born, "gender": None if born is None else "FM"[n % 2]})
        liked, hour = int(rng.integers(0, 3)), int(rng.integers(0, 24))
        for _ in range(int(rng.integers(0, 9)) if n % 10 else 0):
            reward = 3 * int(rng.integers(0, 4)) + liked if rng.random() < 0.8 else int(rng.integers(0, rewards))
            kind = str(rng.choice(["redemption", "redemption", "offer_viewed", "offer_received"]))
            when = (TODAY - timedelta(days=float(rng.uniform(0.5, 80)))).replace(hour=(hour + int(rng.integers(0, 3))) % 24)
            events.append({"customer_id": f"c-{n}", "event_type": kind, "occurred_at": when, "reward_id": f"r-{reward}"})
            purchases.append({"customer_id": f"c-{n}", "occurred_at": when, "amount": float(np.round(rng.gamma(3, 4) + 1, 2))})
    events += [{**purchases[0], "event_type": "app_open", "reward_id": None} for _ in range(2)]
    for i, row in enumerate(events):
        row |= {"event_id": f"e-{i}", "business_id": "biz"}
        row.pop("amount", None)
    for i, row in enumerate(purchases):
        row |= {"transaction_id": f"t-{i}", "business_id": "biz"}
    raw = {"rewards": catalogue, "customers": people, "events": events, "transactions": purchases}
    return World(raw, _of_rewards(catalogue, events, customers, rng), counted(raw)["biz"])


def _of_rewards(catalogue: list[dict], events: list[dict], customers: int, rng: np.random.Generator) -> Catalogue:
    since = TODAY - timedelta(days=90)
    who = {(e["reward_id"], e["customer_id"]) for e in events if e["event_type"] == "redemption" and e["occurred_at"] >= since}
    share = Counter(reward for reward, _ in who)
    vectors = rng.normal(size=(len(catalogue), 3)).astype(np.float32)
    columns = {name: [r[name] for r in catalogue] for name in catalogue[0]}
    columns["redeemer_share"] = [share[r] / customers for r in columns["reward_id"]]
    return Catalogue.build(columns, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def counted(raw: dict[str, list[dict]]) -> dict[str, Population]:
    """`populations` of raw rows."""
    with duckdb.connect() as connection:
        for name in ("rewards", "customers", "events", "transactions"):
            schema = TABLES[name].schema
            schema = pa.schema([pa.field(f.name, pa.float64() if pa.types.is_decimal(f.type) else f.type) for f in schema])
            connection.register(name, pa.Table.from_pylist(raw[name], schema=schema))
        return populations(connection)


def recompute(w: World, customer: str, row: int, part: str, reason: Reason) -> None:
    """Assert that the sentence is what the raw rows say."""
    reward = w.raw["rewards"][row]
    own = w.of("events", customer, "redemption")
    every = w.of("events", kind="redemption")
    numbers = [float(x) for x in re.findall(r"\d+(?:\.\d+)?", reason.sentence)]
    check = {
        "high_affinity_category": _category, "redeemed_before": _before, "time_of_day_match": _time, "similar_users_liked": _similar,
        "popular_now": _popular, "matches_taste": _taste, "offer_viewed": _offer, "offer_open": _offer, "fits_your_basket": _basket,
        "fits_your_points": _points, "new_reward": _new, "popular_with_peers": _peers,
    }[reason.code]  # fmt: skip
    check(w, customer, reward, part, reason, own, every, numbers)


def _category(w, customer, reward, part, reason, own, every, numbers) -> None:
    category = {r["reward_id"]: r["category"] for r in w.raw["rewards"]}
    others = [e for e in every if e["customer_id"] != customer]
    mine = sum(category[e["reward_id"]] == reward["category"] for e in own) / len(own)
    theirs = sum(category[e["reward_id"]] == reward["category"] for e in others) / len(others)
    assert reason.sentence == f"You redeem {reward['category']} rewards {mine / theirs:.1f}x more than other customers"
    assert mine / theirs >= 1.2


def _before(w, customer, reward, part, reason, own, every, numbers) -> None:
    times = [e["occurred_at"] for e in own if e["reward_id"] == reward["reward_id"]]
    often = {1: "once", 2: "twice"}.get(len(times), f"{len(times)} times")
    assert reason.sentence == f"You redeemed this {often} before, last on {max(times):%-d %B %Y}"


def _time(w, customer, reward, part, reason, own, every, numbers) -> None:
    this = [PART_OF_HOUR[e["occurred_at"].hour] == part for e in every if e["reward_id"] == reward["reward_id"]]
    lift = np.mean(this) / np.mean([PART_OF_HOUR[e["occurred_at"].hour] == part for e in every])
    assert numbers[-1] == pytest.approx(lift, abs=0.051)
    assert lift >= 1.2
    assert part in reason.sentence
    hours = [t["occurred_at"].hour for t in w.of("transactions", customer)]
    if w.touches(customer):
        assert numbers[0] == pytest.approx(np.mean([PART_OF_HOUR[h] == part for h in hours]) * 100, abs=1)
    else:
        assert reason.sentence.startswith("Redeemed ")


def _similar(w, customer, reward, part, reason, own, every, numbers) -> None:
    found = re.fullmatch(r"Of the (\d+) customers who redeemed (.+), (.+) redeemed this, ([\d.]+)x the usual share", reason.sentence)
    assert found is not None
    anchor = next(r for r in w.raw["rewards"] if r["name"] == found[2])
    assert any(e["reward_id"] == anchor["reward_id"] for e in own)
    assert anchor is not reward
    who = {r: {e["customer_id"] for e in every if e["reward_id"] == r} for r in (reward["reward_id"], anchor["reward_id"])}
    those, both = who[anchor["reward_id"]], who[anchor["reward_id"]] & who[reward["reward_id"]]
    share = len(both) / len(those)
    assert int(found[1]) == len(those)
    assert float(found[3].split()[0]) == pytest.approx(share * 100, abs=1)
    lift = share / (len(who[reward["reward_id"]]) / len({e["customer_id"] for e in every}))
    assert float(found[4]) == pytest.approx(lift, abs=0.051)
    assert lift >= 1.2
    assert len(both) >= 10


def _popular(w, customer, reward, part, reason, own, every, numbers) -> None:
    since = TODAY - timedelta(days=90)
    who = {e["customer_id"] for e in every if e["reward_id"] == reward["reward_id"] and e["occurred_at"] >= since}
    assert numbers[0] == pytest.approx(100 * len(who) / len(w.raw["customers"]), abs=1)


def _taste(w, customer, reward, part, reason, own, every, numbers) -> None:
    if not reason.sentence.startswith("Similar to "):
        count = min(50, len(w.touches(customer)))
        assert reason.sentence == (f"Chosen from your last {count} activities" if count > 1 else "Chosen from your latest activity")
        return
    other = reason.sentence.removeprefix("Similar to ").removesuffix(", which you redeemed")
    found = next(r for r in w.raw["rewards"] if r["name"] == other)
    assert found is not reward
    assert any(e["reward_id"] == found["reward_id"] for e in own)


def _offer(w, customer, reward, part, reason, own, every, numbers) -> None:
    kind = {"offer_viewed": "offer_viewed", "offer_open": "offer_received"}[reason.code]
    times = [e["occurred_at"] for e in w.of("events", customer, kind) if e["reward_id"] == reward["reward_id"]]
    assert max(times).strftime("%-d %B %Y") in reason.sentence
    assert not any(e["occurred_at"] > max(times) for e in own if e["reward_id"] == reward["reward_id"])


def _basket(w, customer, reward, part, reason, own, every, numbers) -> None:
    amounts = [t["amount"] for t in w.of("transactions", customer)]  # all are among the last 50 touches here
    assert numbers == pytest.approx([reward["difficulty"], len(amounts), sum(amounts) / len(amounts)], abs=0.0051)
    assert reward["difficulty"] <= 1.1 * sum(amounts) / len(amounts)


def _points(w, customer, reward, part, reason, own, every, numbers) -> None:
    cost = {r["reward_id"]: r["points_cost"] for r in w.raw["rewards"]}
    usual = sum(cost[e["reward_id"]] for e in own) / len(own)
    assert numbers == pytest.approx([reward["points_cost"], usual], abs=0.51)
    assert reward["points_cost"] <= 1.25 * usual


def _new(w, customer, reward, part, reason, own, every, numbers) -> None:
    if reason.sentence.startswith("Nobody"):
        assert not any(e["reward_id"] == reward["reward_id"] for e in every)
        return
    assert reason.sentence == f"New since {reward['valid_from']:%-d %B %Y}"
    assert TODAY - reward["valid_from"] <= timedelta(days=30)


def _peers(w, customer, reward, part, reason, own, every, numbers) -> None:
    def inside(c: dict[str, Any]) -> bool:
        if "women" in reason.sentence or " men," in reason.sentence:
            return bool(c["gender"] == ("F" if "women" in reason.sentence else "M"))
        if c["birth_date"] is None:
            return False
        age = (max(e["occurred_at"] for e in w.raw["events"]).date() - c["birth_date"]).days / 365.25
        low, high = {"under 25": (0, 25), "65 or older": (65, 200)}.get(
            next((t for t in ("under 25", "65 or older") if t in reason.sentence), ""),
            (numbers[1], numbers[2] + 1 if len(numbers) > 3 else 0),
        )
        return low <= age < high

    who = {e["customer_id"] for e in every if e["reward_id"] == reward["reward_id"]}
    peers = {c["customer_id"] for c in w.raw["customers"] if inside(c)}
    assert not w.touches(customer)
    assert customer in peers
    share = len(who & peers) / len(peers)
    assert numbers[0] == pytest.approx(share * 100, abs=1)
    assert numbers[-1] == pytest.approx(share / (len(who) / len(w.raw["customers"])), abs=0.051)
    assert len(who & peers) >= 10


def given_reasons(w: World, seed: int, customers: int = 40) -> Iterator[tuple[str, int, str, dict[str, float] | None, list[Reason]]]:
    """Reasons for a sample of customers, every reward, with and without moves of the groups."""
    rng = np.random.default_rng(seed)
    for n in rng.permutation(len(w.raw["customers"]))[:customers].tolist():
        customer, part = f"c-{n}", PARTS[n % 4]
        explainer = Explainer("biz", w.catalogue, w.population, w.state(customer), NOW, part)
        for row in range(len(w.raw["rewards"])):
            yield customer, row, part, None, explainer.reasons(row)
            moves = dict(zip(GROUP_COLUMNS, rng.normal(0, 0.02, len(GROUP_COLUMNS)).tolist(), strict=True))
            yield customer, row, part, moves, explainer.reasons(row, moves)


@few
@given(seed=st.integers(0, 10_000))
def test_every_claim_is_true_and_in_the_order_of_what_moved_the_score(seed: int) -> None:
    w = world(seed)
    group = {
        "high_affinity_category": "category", "redeemed_before": "again", "time_of_day_match": "time_of_day",
        "similar_users_liked": "neighbours", "popular_now": "popularity", "matches_taste": "taste", "offer_viewed": "offer",
        "offer_open": "offer", "fits_your_basket": "price", "fits_your_points": "price", "new_reward": "novelty",
    }  # fmt: skip
    for customer, row, part, moves, reasons in given_reasons(w, seed):
        assert reasons
        for reason in reasons:
            recompute(w, customer, row, part, reason)
        if moves is None or reasons[0].impact is None:
            continue
        assert len(reasons) <= MAX_REASONS
        assert [r.impact for r in reasons] == sorted((r.impact for r in reasons if r.impact is not None), reverse=True)
        assert all(moves[group[r.code]] == r.impact and r.impact > 0 for r in reasons)


def test_every_kind_of_claim_was_among_the_recomputed() -> None:
    codes: Counter[str] = Counter()
    for seed in (1, 2):
        w = world(seed)
        codes.update(r.code for *_, reasons in given_reasons(w, seed, 160) for r in reasons)
    assert set(codes) == {
        "high_affinity_category", "redeemed_before", "time_of_day_match", "similar_users_liked", "popular_now", "matches_taste",
        "offer_viewed", "offer_open", "fits_your_basket", "fits_your_points", "new_reward", "popular_with_peers",
    }  # fmt: skip


def test_a_group_that_moved_the_score_down_gives_no_reason() -> None:
    w = world(3)
    customer = w.of("events", kind="redemption")[0]["customer_id"]
    row = int(w.of("events", customer, "redemption")[0]["reward_id"][2:])
    explainer = Explainer("biz", w.catalogue, w.population, w.state(customer), NOW, "morning")
    assert explainer.reasons(row, {"again": 0.02, "unheard_of": 0.5})[0][::2] == ("redeemed_before", 0.02)
    for moves in ({"again": -0.02}, {"again": 0.0}, {}):
        (reason,) = explainer.reasons(row, moves)
        assert reason.impact is None
        assert reason.sentence.startswith("Chosen from")


def test_attribution_asks_for_each_group_at_the_reference() -> None:
    rng = np.random.default_rng(1)
    pairs, reference = rng.normal(size=(3, len(PAIR_NAMES))).astype(np.float32), np.zeros(len(PAIR_NAMES), np.float32)
    rows = attribution_rows(pairs, GROUP_COLUMNS, reference)
    assert (rows.shape, rows.dtype) == ((3 * len(GROUP_COLUMNS), len(PAIR_NAMES)), np.float32)
    for i in range(3):
        for g, columns in enumerate(GROUP_COLUMNS.values()):
            row = rows[i * len(GROUP_COLUMNS) + g]
            assert not row[columns].any()
            assert np.array_equal(np.delete(row, columns), np.delete(pairs[i], columns))


def test_moves_of_a_linear_ranker_are_its_terms() -> None:
    """Where score = w.x the move of a group is w.(x - reference) over its columns: an independent definition."""
    rng = np.random.default_rng(2)
    pairs, weights = rng.normal(size=(30, len(PAIR_NAMES))).astype(np.float32), rng.normal(size=(len(PAIR_NAMES), 2)).astype(np.float32)
    reference, shown = pairs.mean(axis=0), np.array([4, 0, 11])
    logits = pairs @ weights
    moves = moved(attribution_rows(pairs[shown], GROUP_COLUMNS, reference) @ weights, logits[shown])
    expected = [[float((pairs[i, c] - reference[c]) @ weights[c, 0]) for c in GROUP_COLUMNS.values()] for i in shown]
    np.testing.assert_allclose(moves, expected, atol=1e-4)
    probability = lambda share: 1.0 - np.exp(-0.3 * share)  # noqa: E731
    gained, now = impacts(logits[:, 0], shown, moves, probability)
    changed = logits[:, 0].astype(np.float64)
    changed[11] -= moves[2, 3]
    softmax = np.exp(changed) / np.exp(changed).sum()
    assert now[2] - gained[2, 3] == pytest.approx(probability(softmax[11]), abs=1e-9)
    assert (np.sign(gained) == np.sign(moves)).all()


def test_one_batch_asks_for_all_rewards_and_its_answer_names_the_groups() -> None:
    """A ranker that is logit = first pair feature of each group + user . item: taste is neutral in both at once."""
    rng = np.random.default_rng(5)
    c, k, user = 20, np.array([3, 7]), rng.normal(size=(1, 64)).astype(np.float32)
    inputs = {
        "pair_features": rng.normal(size=(c, len(PAIR_NAMES))).astype(np.float32), "user_vector": np.repeat(user, c, axis=0),
        "item_vector": rng.normal(size=(c, 64)).astype(np.float32), "features": np.ones((c, 44), np.float32),
    }  # fmt: skip
    inputs["pair_features"][:, 0] = inputs["item_vector"] @ user[0]
    heads = [columns[0] for columns in GROUP_COLUMNS.values()]

    def ranker(x: dict[str, np.ndarray]) -> np.ndarray:
        redeem = x["pair_features"][:, heads].sum(axis=1) + (x["user_vector"] * x["item_vector"]).sum(axis=1)
        return np.stack([redeem, -redeem], axis=1)

    asked = attribution_inputs(inputs, k)
    for spec in RANKER.inputs:
        spec.check(asked[spec.name])
        assert len(asked[spec.name]) == 2 * len(GROUP_COLUMNS)
    given_moves = attributed(ranker(inputs), k, ranker(asked), np.log)  # log share: a difference of logits, nearly
    assert [list(m) for m in given_moves] == [list(GROUP_COLUMNS)] * 2
    x = inputs["pair_features"]
    gap = (x[k] - x.mean(axis=0))[:, heads]
    gap[:, 0] *= 2  # the cosine, and the vectors
    assert (np.sign([list(m.values()) for m in given_moves]) == np.sign(gap)).all()
    np.testing.assert_allclose(moved(ranker(asked), ranker(inputs)[k]), gap, atol=1e-3)


def test_on_the_wire_are_three_reasons_at_most() -> None:
    reasons = [Reason("a", "A", 0.03000001), Reason("b", "B"), Reason("a", "C"), Reason("d", "D")]
    assert shown_as(reasons) == {
        "explanation": "A",
        "reasoning": ["a", "b"],
        "reasons": [{"code": "a", "sentence": "A", "impact": 0.03}, {"code": "b", "sentence": "B"}, {"code": "a", "sentence": "C"}],
    }


def test_a_redemption_long_past_has_no_date() -> None:
    w = world(4)
    opened = [event_touch("app_open", TODAY - timedelta(hours=h)) for h in range(50)]
    state = fold(CustomerState(), [event_touch("redemption", TODAY - timedelta(days=90), "r-0"), *opened])
    reasons = Explainer("biz", w.catalogue, w.population, state, NOW, "morning").reasons(0, {"again": 0.1})
    assert reasons == [Reason("redeemed_before", "You redeemed this once before", 0.1)]


def test_too_little_is_no_claim() -> None:
    w = world(4)
    once = fold(CustomerState(), [event_touch("redemption", datetime(2026, 11, 1, 8, tzinfo=UTC), "r-0")])
    explainer = Explainer("biz", w.catalogue, w.population, once, NOW, "morning")
    assert explainer.category_ratio("coffee") is None
    assert "high_affinity_category" not in {r.code for r in explainer.reasons(0)}


def _catalogue(**more: list) -> Catalogue:
    columns = {
        "reward_id": ["a", "b"], "business_id": ["biz", "biz"], "name": ["A", None], "category": ["x", None], "valid_from": [None, None],
        "redeemer_share": [0.0, 0.004],
    }  # fmt: skip
    return Catalogue.build(columns | more, np.eye(2, dtype=np.float32))


def test_someone_unknown_is_told_only_what_holds_for_all() -> None:
    explainer = Explainer("biz", _catalogue(), Population(), None, NOW, "night")
    assert explainer.reasons(0)[0] == Reason("new_reward", "Nobody has redeemed this in the last 90 days: be the first")
    assert explainer.reasons(1)[0] == Reason("popular_now", "Redeemed by less than 1 % of customers in the last 90 days")


def test_new_rewards_and_activity_counts() -> None:
    start = datetime(2026, 11, 3, tzinfo=UTC)
    state = fold(CustomerState(), [event_touch("app_open", datetime(2026, 11, d, tzinfo=UTC)) for d in (1, 2)])
    explainer = Explainer("biz", _catalogue(valid_from=[start, None]), Population(), state, NOW, "night")
    assert explainer.reasons(0) == [Reason("new_reward", "New since 3 November 2026")]
    assert explainer.reasons(1) == [Reason("matches_taste", "Chosen from your last 2 activities")]
    one = fold(CustomerState(), [event_touch("app_open", datetime(2026, 11, 1, tzinfo=UTC))])
    assert Explainer("biz", _catalogue(), Population(), one, NOW, "night").reasons(0) == [
        Reason("matches_taste", "Chosen from your latest activity")
    ]


def test_a_basket_too_small_for_the_reward_is_not_called_a_fit() -> None:
    bought = fold(CustomerState(), [purchase_touch(datetime(2026, 11, d, tzinfo=UTC), 10.0) for d in (1, 2, 3)])
    explainer = Explainer("biz", _catalogue(difficulty=[11.0, 11.5]), Population(), bought, NOW, "night")
    assert [explainer.reasons(row, {"price": 0.1})[0].code for row in (0, 1)] == ["fits_your_basket", "matches_taste"]


def test_similar_rewards_are_named() -> None:
    catalogue = _catalogue()
    same = Catalogue(**{**{f: getattr(catalogue, f) for f in catalogue.__dataclass_fields__}, "vectors": np.ones((2, 1), np.float32)})
    state = fold(CustomerState(), [event_touch("redemption", datetime(2026, 11, 1, tzinfo=UTC), "a")])
    reasons = Explainer("biz", same, Population(), state, NOW, "night").reasons(1)
    assert Reason("matches_taste", "Similar to A, which you redeemed") in reasons
