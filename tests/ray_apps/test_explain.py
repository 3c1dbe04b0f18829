"""Every claim is recomputed here from the raw events, by other code."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from contracts.paths import Home
from features.definitions import event_touch, purchase_touch
from features.state import CustomerState, fold
from ray_apps.deployments.explain import PART_OF_HOUR, PARTS, Catalogue, Explainer, Population
from ray_apps.deployments.model import Served, load
from warehouse.store import Warehouse

DAY = 86_400.0
NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC).timestamp()


@pytest.fixture(scope="module")
def served(template_home: Path) -> Served:
    return load(Home(template_home), "1")


@pytest.fixture(scope="module")
def raw(template_home: Path) -> dict[str, list[dict]]:
    """All rows as Python objects."""
    with Warehouse(template_home / "warehouse").connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return {n: connection.table(n).df().to_dict("records") for n in ("events", "rewards", "transactions")}


def state_of(raw: dict[str, list[dict]], customer: str) -> CustomerState:
    touches = [event_touch(e["event_type"], e["occurred_at"], e["reward_id"]) for e in raw["events"] if e["customer_id"] == customer]
    touches += [purchase_touch(t["occurred_at"], float(t["amount"])) for t in raw["transactions"] if t["customer_id"] == customer]
    return fold(CustomerState(), touches)


def claims(served: Served, raw: dict[str, list[dict]]):
    """(customer, row, part, code, sentence) of every reason that every customer could be given."""
    for customer in sorted({e["customer_id"] for e in raw["events"]}):
        state = state_of(raw, customer)
        for part in PARTS:
            explainer = Explainer("biz-1", served.catalogue, served.populations["biz-1"], state, NOW, part)
            for row in range(12):
                for reason in explainer.reasons(row):
                    yield customer, row, part, reason.code, reason.sentence


def test_every_claim_is_true(served: Served, raw: dict[str, list[dict]]) -> None:
    category = {r["reward_id"]: r["category"] for r in raw["rewards"]}
    redemptions = [e for e in raw["events"] if e["event_type"] == "redemption"]
    seen: Counter[str] = Counter()
    for customer, row, part, code, sentence in claims(served, raw):
        seen[code] += 1
        reward = served.catalogue.reward_ids[row]
        own = [e for e in redemptions if e["customer_id"] == customer]
        others = [e for e in redemptions if e["customer_id"] != customer]
        if code == "high_affinity_category":
            mine = sum(category[e["reward_id"]] == category[reward] for e in own) / len(own)
            theirs = sum(category[e["reward_id"]] == category[reward] for e in others) / len(others)
            assert f"You redeem {category[reward]} rewards {mine / theirs:.1f}x more" in sentence
            assert mine / theirs >= 1.2
        elif code == "redeemed_before":
            count = sum(e["reward_id"] == reward for e in own)
            assert sentence == f"You redeemed this {({1: 'once', 2: 'twice'}).get(count, f'{count} times')} before"
        elif code == "time_of_day_match":
            hours = [t["occurred_at"].hour for t in raw["transactions"] if t["customer_id"] == customer]
            share = sum(PART_OF_HOUR[h] == part for h in hours) / len(hours)
            this = [PART_OF_HOUR[e["occurred_at"].hour] == part for e in redemptions if e["reward_id"] == reward]
            everything = [PART_OF_HOUR[e["occurred_at"].hour] == part for e in redemptions]
            lift = np.mean(this) / np.mean(everything)
            numbers = re.findall(r"[\d.]+", sentence)
            assert float(numbers[0]) == pytest.approx(share * 100, abs=1)
            assert float(numbers[1]) == pytest.approx(lift, abs=0.06)
            assert part in sentence
        elif code == "popular_now":
            assert float(re.findall(r"\d+", sentence)[0]) == pytest.approx(served.catalogue.share[row] * 100, abs=1)
        elif code == "matches_taste" and "Similar to" in sentence:
            other = sentence.removeprefix("Similar to ").removesuffix(", which you redeemed")
            at = served.catalogue.names.index(other)
            assert any(e["reward_id"] == served.catalogue.reward_ids[at] for e in own)
            assert other != served.catalogue.names[row]
    assert {"high_affinity_category", "redeemed_before", "time_of_day_match", "popular_now"} <= set(seen)


def test_too_little_is_no_claim(served: Served) -> None:
    once = fold(CustomerState(), [event_touch("redemption", datetime(2026, 11, 1, 8, tzinfo=UTC), "rew-00")])
    explainer = Explainer("biz-1", served.catalogue, served.populations["biz-1"], once, NOW, "morning")
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
    assert explainer.reasons(0)[0] == ("new_reward", "Nobody has redeemed this in the last 90 days: be the first")
    assert explainer.reasons(1)[0] == ("popular_now", "Redeemed by less than 1 % of customers in the last 90 days")


def test_new_rewards_and_activity_counts() -> None:
    start = datetime(2026, 11, 3, tzinfo=UTC)
    state = fold(CustomerState(), [event_touch("app_open", datetime(2026, 11, d, tzinfo=UTC)) for d in (1, 2)])
    explainer = Explainer("biz", _catalogue(valid_from=[start, None]), Population(), state, NOW, "night")
    assert explainer.reasons(0) == [("new_reward", "New since 3 November 2026")]
    assert explainer.reasons(1) == [("matches_taste", "Chosen from your last 2 activities")]
    one = fold(CustomerState(), [event_touch("app_open", datetime(2026, 11, 1, tzinfo=UTC))])
    assert Explainer("biz", _catalogue(), Population(), one, NOW, "night").reasons(0) == [
        ("matches_taste", "Chosen from your latest activity")
    ]


def test_similar_rewards_are_named() -> None:
    catalogue = _catalogue()
    same = Catalogue(**{**{f: getattr(catalogue, f) for f in catalogue.__dataclass_fields__}, "vectors": np.ones((2, 1), np.float32)})
    state = fold(CustomerState(), [event_touch("redemption", datetime(2026, 11, 1, tzinfo=UTC), "a")])
    reasons = Explainer("biz", same, Population(), state, NOW, "night").reasons(1)
    assert ("matches_taste", "Similar to A, which you redeemed") in reasons


def test_every_hour_belongs_to_one_part() -> None:
    assert Counter(PART_OF_HOUR) == {"morning": 7, "afternoon": 5, "evening": 5, "night": 7}
