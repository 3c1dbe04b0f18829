"""The next offer: labels from after the moment only, masks, calibration, and that it learns who answers to what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rich.console import Console

from contracts.bundle import OfferTypes
from contracts.errors import ArtifactError
from contracts.paths import Home
from contracts.tables import EVENTS, REWARD_TYPES, REWARDS, TRANSACTIONS
from features.definitions import FEATURE_NAMES, KIND_COUNT
from training.recommender import data, next_offer
from training.recommender.model import ModelConfig, TwoTower
from training.settings import TrainSettings
from warehouse.store import Warehouse

DISCOUNT, EXPERIENCE, INFORMATIONAL = (REWARD_TYPES.index(t) for t in ("discount", "experience", "informational"))


@pytest.fixture(scope="module")
def towers(dataset: data.Dataset) -> TwoTower:
    """Untrained: what a customer did is in the features already."""
    torch.manual_seed(0)
    return TwoTower(ModelConfig(len(dataset.vocabulary), KIND_COUNT, 16, 2)).eval()


@pytest.fixture(scope="module")
def fitted(connection: Any, towers: TwoTower, dataset: data.Dataset, settings: TrainSettings) -> next_offer.NextOffer:
    return next_offer.fit_next_offer(connection, towers, dataset, settings, Console(file=StringIO()))


def people(*customers: str) -> pa.Table:
    return pa.table({"business_id": ["biz-1"] * len(customers), "customer_id": list(customers)})


def test_a_fit_gives_calibrated_types_and_says_how_good_they_are(fitted: next_offer.NextOffer, tmp_path: Path) -> None:
    types, report = fitted.types, fitted.report
    assert set(types.types) == set(REWARD_TYPES)
    assert types.horizon_days == 5
    assert set(types.shares) == {"biz-1"}
    assert set(types.shares["biz-1"]) == {"discount", "experience"}, "the programme has these two only"
    found = report["types"]["discount"]
    assert found["tested_on"] == report["tested_on"] > 0
    assert found["auc"]["low"] <= found["auc"]["value"] <= found["auc"]["high"]
    assert found["base_log_loss"]["value"] > 0
    assert abs(found["stated"] - found["rate"]) < 0.2
    assert set(report["types"]) == {"discount", "experience"}
    fitted.save(tmp_path)
    again = next_offer.load_offer_model(tmp_path)
    vector, features = torch.randn(3, 64), torch.randn(3, 44)
    torch.testing.assert_close(again(vector, features), fitted.model(vector, features))
    assert OfferTypes.model_validate_json((tmp_path / next_offer.TYPES).read_text()) == types


def test_the_same_seed_gives_the_same_model(
    fitted: next_offer.NextOffer, connection: Any, towers: TwoTower, dataset: data.Dataset, settings: TrainSettings, console: Console
) -> None:
    again = next_offer.fit_next_offer(connection, towers, dataset, settings, console)
    assert again.types == fitted.types
    assert again.report == fitted.report


def test_labels_are_answers_within_the_horizon(connection: Any, dataset: data.Dataset) -> None:
    """Against a slow count over the log, at each customer's own moments."""
    log, day = dataset.log, data.DAY_S
    names = log.customers["customer_id"].to_pylist()
    rng = np.random.default_rng(0)
    who = rng.integers(0, len(names), 60)
    when = rng.uniform(log.time.min(), log.time.max(), 60)
    when[0] = log.time[log.starts[who[0]]]  # at its very instant a redemption is after the moment
    found = next_offer.answered(connection, dataset.catalogue, people(*(names[i] for i in who)), when, 5.0)
    for i, (customer, moment) in enumerate(zip(who, when, strict=True)):
        mine = (log.customer == customer) & (log.time >= moment) & (log.time < moment + 5 * day)
        kinds = {"experience" if item == 11 else "discount" for item in log.item[mine]}
        assert {REWARD_TYPES[k] for k in np.flatnonzero(found[i])} == kinds
    assert found[0].any()


@pytest.fixture(scope="module")
def shop(new_home: Callable[[], Home]) -> Home:
    """One informational offer and one discount: views count for the first only."""
    home, day = new_home(), 86_400_000_000
    rewards = [
        {"reward_id": "news", "business_id": "biz-1", "name": "News", "reward_type": "informational"},
        {"reward_id": "cut", "business_id": "biz-1", "name": "Cut", "reward_type": "discount"},
        {"reward_id": "cut", "business_id": "biz-2", "name": "Another's", "reward_type": "informational"},
    ]
    acts = [("offer_viewed", "news", "a"), ("redemption", "news", "b"), ("offer_viewed", "cut", "b"), ("redemption", "cut", "c")]
    events = [
        {"event_id": f"e{i}", "business_id": "biz-1", "customer_id": c, "occurred_at": 10 * day, "event_type": kind, "reward_id": reward}
        for i, (kind, reward, c) in enumerate(acts)
    ]
    warehouse = Warehouse(home.warehouse)
    warehouse.land("rewards", pa.Table.from_pylist(rewards, schema=REWARDS.schema), "test")
    warehouse.land("events", pa.Table.from_pylist(events, schema=EVENTS.schema), "test")
    warehouse.land("transactions", TRANSACTIONS.schema.empty_table(), "test")
    return home


def test_an_informational_offer_is_answered_by_a_view_and_others_by_a_redemption(shop: Home) -> None:
    with Warehouse(shop.warehouse).connect() as connection:
        catalogue = SimpleNamespace(table=data.load_catalogue(connection))
        found = next_offer.answered(connection, catalogue, people("a", "b", "c"), np.full(3, 9.5 * data.DAY_S), 1.0)
    assert [[REWARD_TYPES[k] for k in np.flatnonzero(row)] for row in found] == [["informational"], [], ["discount"]]


def test_a_type_is_available_while_one_of_its_rewards_is_valid(dataset: data.Dataset) -> None:
    catalogue = replace(
        dataset.catalogue,
        valid_from=np.r_[np.full(11, 100.0), -np.inf],
        valid_to=np.r_[np.full(10, 200.0), 300.0, 50.0],
    )
    moments = np.array([0.0, 50.0, 50.1, 100.0, 200.1, 300.0, 300.1])
    found = next_offer.availability(catalogue, np.zeros(len(moments), np.int64), moments)
    assert found[:, DISCOUNT].tolist() == [False, False, False, True, True, True, False]
    assert found[:, EXPERIENCE].tolist() == [True, True, False, False, False, False, False]
    assert not found[:, INFORMATIONAL].any()


def test_no_moment_looks_beyond_its_slice(
    connection: Any, towers: TwoTower, dataset: data.Dataset, settings: TrainSettings, monkeypatch
) -> None:
    seen = []
    real = next_offer.answered

    def keep(connection: Any, catalogue: Any, people: Any, as_of: np.ndarray, horizon_days: float) -> np.ndarray:
        seen.append((as_of.min(), as_of.max() + horizon_days * data.DAY_S))
        return real(connection, catalogue, people, as_of, horizon_days)

    monkeypatch.setattr(next_offer, "answered", keep)
    next_offer.fit_next_offer(connection, towers, dataset, settings, Console(file=StringIO()))
    cuts = dataset.cuts
    edges = [(cuts.begin, cuts.validation_from), (cuts.validation_from, cuts.test_from), (cuts.test_from, cuts.end)]
    assert len(seen) == 3
    for (first, last), (begin, end) in zip(seen, edges, strict=True):
        assert begin[0] <= first <= last <= end[0] + 1e-3


def sample(rows: int, seed: int) -> next_offer.Sample:
    """Discounts are answered to by those whose first feature is high; the other type has no sign at all, and is not always there."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 44)).astype(np.float32)
    label = np.zeros((rows, 8), bool)
    label[:, DISCOUNT] = rng.random(rows) < 1 / (1 + np.exp(-(2 * features[:, 0] - 1)))
    available = np.zeros((rows, 8), bool)
    available[:, DISCOUNT] = True
    available[: rows // 2, EXPERIENCE] = True
    vector = rng.normal(size=(rows, 64)).astype(np.float32)
    return next_offer.Sample(vector / 8, features, available, label & available, np.zeros(rows, np.int64), np.arange(rows))


def test_it_learns_who_answers_and_is_calibrated(settings: TrainSettings) -> None:
    model = next_offer.train(sample(4000, 1), settings)
    types, report = next_offer._calibrate(model, sample(3000, 2), sample(3000, 3), 30.0, ["biz-1"], 0)
    found = report["types"]["discount"]
    assert found["auc"]["low"] > 0.8
    assert found["gain"]["low"] > 0.1
    assert found["ece"] < 0.04
    assert types.types["experience"].slope == 0.0, "nobody answered: the base rate alone"
    assert types.probabilities(next_offer.logits_of(model, sample(50, 4)))[:, EXPERIENCE].max() < 1e-3
    assert types.shares["biz-1"].keys() == {"discount", "experience"}
    assert report["mean_auc"] == found["auc"]["value"]


def test_the_month_moves_nothing(fitted: next_offer.NextOffer) -> None:
    vector, features = torch.randn(3, 64), torch.randn(3, 44)
    before = fitted.model(vector, features)
    features[:, -2:] += 1.0
    torch.testing.assert_close(fitted.model(vector, features), before)
    assert FEATURE_NAMES[next_offer.USED :] == ("month_sin", "month_cos")


def test_one_customer_alone_is_enough(settings: TrainSettings) -> None:
    few = replace(sample(30, 1), customer=np.zeros(30, np.int64))
    assert np.isfinite(next_offer.logits_of(next_offer.train(few, settings), few)).all()


def test_a_slice_without_anyone_active_is_refused(
    connection: Any, towers: TwoTower, dataset: data.Dataset, settings: TrainSettings, console: Console
) -> None:
    far = data.Cuts(*(c + 1e9 for c in (dataset.cuts.begin, dataset.cuts.validation_from, dataset.cuts.test_from, dataset.cuts.end)))
    with pytest.raises(ArtifactError, match="0 active customers in the training slice"):
        next_offer.fit_next_offer(connection, towers, replace(dataset, cuts=far), settings, console)


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="Train again"):
        next_offer.load_offer_model(tmp_path)


def test_platt_falls_back_to_the_base_rate() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(size=5000)
    label = rng.random(5000) < 1 / (1 + np.exp(-(1.5 * logit - 0.5)))
    np.testing.assert_allclose(next_offer.platt(logit, label), [1.5, -0.5], atol=0.15)
    slope, intercept = next_offer.platt(-logit, label)
    assert slope == 0.0
    assert 1 / (1 + np.exp(-intercept)) == pytest.approx(label.mean(), abs=1e-3)
    assert next_offer.platt(np.zeros(0), np.zeros(0, bool)) == (0.0, 0.0)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=30))
@hypothesis_settings(max_examples=40, deadline=None)
def test_auc_equals_a_count_of_pairs(rows: list[tuple[int, bool, int]]) -> None:
    score, label, weight = (np.array(x, dtype=float) for x in zip(*rows, strict=True))
    won = pairs = 0.0
    for a, x, v in rows:
        for b, y, w in rows:
            if x and not y:
                pairs += v * w
                won += v * w * (1.0 if a > b else 0.5 if a == b else 0.0)
    found = next_offer.auc(score, label, weight)
    assert found == (pytest.approx(won / pairs) if pairs else None)
