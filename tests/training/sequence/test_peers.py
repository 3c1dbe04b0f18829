"""Each peer learns what is there to learn, is corrected on the later slice, and copes with labels that are missing or all alike."""

from __future__ import annotations

from dataclasses import fields, replace

import duckdb
import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from contracts.errors import ArtifactError
from features import weekly
from training.sequence import data, metrics, peers
from training.sequence.data import Samples
from training.sequence.peers import PEERS, Platt, Question

HORIZON, MONTHS = 90, 2


@pytest.fixture(scope="module")
def problem(shop: duckdb.DuckDBPyConnection) -> tuple[Question, Samples]:
    """A question 91 days before the end of the small shop, and its answers."""
    end = data.span(shop)[1]
    day = end - 91
    train = data.build(shop, range(day - 260, day - 180, 20), day)
    question = Question(train, data.build(shop, [day - 91], day), data.build(shop, [day], day), HORIZON, MONTHS, seed=3)
    return question, data.build(shop, [day], end)


@pytest.fixture(scope="module")
def answers(problem: tuple[Question, Samples]) -> dict[str, peers.Answer]:
    return {name: peer().answer(problem[0]) for name, peer in PEERS.items()}


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_finds_who_leaves_and_who_spends(name: str, answers: dict[str, peers.Answer], problem: tuple[Question, Samples]) -> None:
    test, found = problem[1], answers[name]
    active, label, value = test.active, test.churned(HORIZON), peers.spent(test, MONTHS)
    assert found.churn.shape == found.value.shape == (len(test),)
    assert ((found.churn >= 0) & (found.churn <= 1)).all()
    assert metrics.auc(found.churn[active], label[active])(metrics.ones(int(active.sum()))) > 0.6
    assert metrics.spearman(found.value, value)(metrics.ones(len(value))) > 0.3
    assert abs(metrics.bias(found.value, value)) < 0.6


def test_the_same_question_gets_the_same_answer(problem: tuple[Question, Samples], answers: dict[str, peers.Answer]) -> None:
    again = PEERS["lightgbm"]().answer(problem[0])
    assert np.array_equal(again.churn, answers["lightgbm"].churn)
    assert np.array_equal(again.value, answers["lightgbm"].value)


def test_the_interval_of_bg_nbd_holds_its_forecast_and_most_spend(
    answers: dict[str, peers.Answer], problem: tuple[Question, Samples]
) -> None:
    found = answers["bg_nbd"]
    assert found.low is not None
    assert found.high is not None
    assert (found.low <= found.high).all()
    assert 0.6 < metrics.coverage(found.low, found.high, peers.spent(problem[1], MONTHS)) < 0.97


def test_lives_are_those_of_the_transactions(shop: duckdb.DuckDBPyConnection, problem: tuple[Question, Samples]) -> None:
    now = problem[0].now
    lives = peers.Lives.of(now)
    day = int(now.as_of_day[0])
    rows = shop.execute(
        "SELECT customer_id, count(DISTINCT d), min(d), max(d) FROM (SELECT customer_id, epoch_us(occurred_at) // 86400000000 AS d "
        "FROM transactions WHERE amount >= 0) WHERE d < $day GROUP BY ALL ORDER BY customer_id",
        {"day": day},
    ).fetchall()
    names = now.customers.take(now.customer)["customer_id"].to_pylist()
    assert [r[0] for r in rows] == names
    count, first, last = (np.array([r[i] for r in rows], dtype=float) for i in (1, 2, 3))
    assert lives.x == pytest.approx(count - 1, abs=1e-9)
    assert lives.t_x == pytest.approx((last - first) / 7, abs=1e-9)
    assert pytest.approx((day - first) / 7, abs=1e-9) == lives.T
    net = dict(
        shop.execute(
            "SELECT customer_id, sum(amount)::DOUBLE FROM transactions WHERE epoch_us(occurred_at) // 86400000000 < $day GROUP BY ALL",
            {"day": day},
        ).fetchall()
    )
    assert lives.m * lives.k == pytest.approx([net[n] for n in names], rel=1e-3, abs=0.01)


def test_last_period_is_last_period(problem: tuple[Question, Samples], answers: dict[str, peers.Answer]) -> None:
    now = problem[0].now
    spend = weekly.facts(now.statics)
    weeks = round(MONTHS * data.MONTH_DAYS / 7)
    assert weeks == 9
    quiet = spend["purchases_90d"] < 0.5
    assert quiet.any()
    assert (answers["last_period"].value[quiet] == 0).mean() > 0.9  # a return may still come
    longer = replace(problem[0], months=12)
    found = PEERS["last_period"]().answer(longer)
    assert np.isclose(found.value, spend["spend_365d"], rtol=1e-3, atol=0.01).mean() > 0.98  # 52 weeks are a day short of a year


def test_platt_is_logistic_regression_on_the_logit() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(40_000)
    label = rng.random(40_000) < expit(0.6 * np.log(p / (1 - p)) - 0.8)
    found = Platt.fit(p, label)
    line = LogisticRegression(C=1e9).fit(np.log(p / (1 - p))[:, None], label)
    assert (found.slope, found.intercept) == pytest.approx((line.coef_[0, 0], line.intercept_[0]), rel=0.02)
    assert metrics.ece(found(p), label) < metrics.ece(p, label) / 4
    assert Platt.fit(p[:0], label[:0]) == Platt()


def test_a_turned_slope_moves_no_level(problem: tuple[Question, Samples], answers: dict[str, peers.Answer]) -> None:
    p, active = np.array([0.1, 0.5, 0.8, 0.99]), np.array([True, True, True, False])
    found = Platt(0.5, 3.0).turned(p, active)
    odds, before = np.log(found / (1 - found)), np.log(p / (1 - p))
    assert odds[:3].mean() == pytest.approx(before[:3].mean())
    assert np.diff(odds) == pytest.approx(0.5 * np.diff(before))
    for name in ("lightgbm", "rfm_logistic", "bg_nbd"):
        shaped = answers[name].shaped
        assert shaped is not None
        assert np.array_equal(np.argsort(shaped[1], kind="stable"), np.argsort(answers[name].value, kind="stable"))
        assert len(shaped[0]) == len(problem[1])
    assert answers["last_period"].shaped is None


def test_value_is_scaled_to_the_total_between_a_half_and_two() -> None:
    assert peers.factor(np.full(4, 10.0), np.array([0.0, 30.0, 10.0, 10.0])) == 1.25
    assert peers.factor(np.ones(3), np.full(3, 9.0)) == 2.0
    assert peers.factor(np.zeros(3), np.ones(3)) == peers.factor(np.ones(3), np.zeros(3)) == 1.0


def test_samples_ended_earlier_are_those_that_were_built_then(shop: duckdb.DuckDBPyConnection, problem: tuple[Question, Samples]) -> None:
    days, end = [int(d) for d in np.unique(problem[0].train.as_of_day)], int(problem[0].train.as_of_day.max())
    then = data.build(shop, days[:-1], end, customers=problem[0].train.customers, history=_history(shop, problem[0].train, end))
    now = peers.ended(problem[0].train, end)
    assert len(now) == len(then) < len(problem[0].train)
    for field in fields(then):
        if field.name != "customers":
            a, b = getattr(now, field.name), getattr(then, field.name)
            assert a.dtype == b.dtype, field.name
            if field.name not in ("bought", "monthly_spend", "monthly_purchases", "months_seen"):
                assert np.array_equal(a, b), field.name
    assert set(then.months_seen - now.months_seen) == {0, 1}  # a day short of a month is forgiven to the one, not to the other
    known = np.arange(12) < now.months_seen[:, None]
    assert np.array_equal(now.monthly_spend * known, then.monthly_spend * known)
    assert not (now.bought & ~then.bought).any()


def _history(shop: duckdb.DuckDBPyConnection, samples: Samples, end: int) -> weekly.DailyHistory:
    return weekly.read(shop, samples.customers, data.midnight(end))


def test_settings_and_corrections_come_from_before_the_answers(problem: tuple[Question, Samples]) -> None:
    """What is learned for the corrections knows nothing from the later slice's day on."""
    seen = list[tuple[int, bool]]()

    class Watched(peers.RfmLogistic):
        def learn(self, question: Question, train: Samples, later: Samples | None) -> None:
            seen.append((int((train.as_of_day + train.observed_days).max()), later is not None))
            super().learn(question, train, later)

    Watched().answer(problem[0])
    start = int(problem[0].calibration.as_of_day.min())
    assert seen == [(start, True), (int((problem[0].train.as_of_day + problem[0].train.observed_days).max()), False)]


@pytest.mark.parametrize("name", ["lightgbm", "rfm_logistic"])
def test_months_beyond_the_labels_are_extended(name: str, problem: tuple[Question, Samples]) -> None:
    found = PEERS[name]().answer(replace(problem[0], months=12))
    assert found.value.sum() > 2.5 * PEERS[name]().answer(problem[0]).value.sum()


@pytest.mark.parametrize("name", ["lightgbm", "rfm_logistic", "bg_nbd"])
def test_labels_all_alike_or_missing_give_a_constant_and_no_correction(name: str, problem: tuple[Question, Samples]) -> None:
    question = problem[0]
    nobody = {"train": question.train, "calibration": question.calibration}
    gone = {
        k: replace(s, next_purchase_days=np.full(len(s), np.inf, dtype=np.float32), monthly_spend=np.zeros_like(s.monthly_spend))
        for k, s in nobody.items()
    }
    found = PEERS[name]().answer(replace(question, **gone))
    assert np.isfinite(found.churn).all()
    assert name == "bg_nbd" or found.churn.min() > 0.9
    blind = {k: s.take(np.arange(0)) for k, s in nobody.items()}
    found = PEERS[name]().answer(replace(question, **blind))
    assert np.isfinite(found.churn).all()
    assert np.isfinite(found.value).all()
    if name != "bg_nbd":
        assert (found.value == 0).all()


def test_recency_without_any_label_is_refused(problem: tuple[Question, Samples]) -> None:
    none = problem[0].train.take(np.arange(0))
    with pytest.raises(ArtifactError, match="churn cannot be learned"):
        PEERS["last_period"]().answer(replace(problem[0], train=none, calibration=none))


def test_histories_without_a_second_purchase_correct_nothing(problem: tuple[Question, Samples]) -> None:
    question = problem[0]
    statics = question.calibration.statics.copy()
    statics[:, weekly.STATICS.index("purchase_days")] = np.log1p(1.0)
    peer = peers.BuyTillYouDie()
    peer.answer(replace(question, calibration=replace(question.calibration, statics=statics)))
    assert (peer.chosen["platt"], peer.chosen["value_factor"]) == ([1.0, 0.0], 1.0)
    with pytest.raises(ArtifactError, match="second time"):
        peer.answer(replace(question, now=replace(question.calibration, statics=statics)))


def test_value_is_learned_on_as_many_months_as_enough_samples_show(problem: tuple[Question, Samples]) -> None:
    few = problem[0].train.take(np.arange(1_000) % len(problem[0].train))
    seen = np.where(np.arange(1_000) < 50, 9, 4).astype(np.int8)
    few = replace(few, months_seen=seen)
    assert peers.value_months(few, 12) == 4
    assert peers.value_months(few, 12, least=10) == 9
    assert peers.value_months(few, 3) == 3
    assert peers.value_months(few.take(np.arange(0)), 3) == 1
