"""Off-policy estimates on simulated logs whose truth is known; the gate; every refusal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from contracts.errors import ConfigError, ContractError, ShapeError
from decisions.off_policy import METHODS, Log, Method, Predictor, cross_fitted, difference, estimate, gate, logged, ridge
from decisions.settings import DecisionSettings

SETTINGS = DecisionSettings(resamples=300, seed=3)
ACTIONS = 4


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def pays(x: np.ndarray) -> np.ndarray:
    """Chance of a reward of each action, (N, A)."""
    return 0.1 + 0.5 / (1 + np.exp(-np.stack([x[:, 0], -x[:, 0], x[:, 1], x[:, 0] * x[:, 1]], axis=1)))


def choices(x: np.ndarray, sharp: float) -> np.ndarray:
    return softmax(sharp * np.stack([x[:, 1], x[:, 0], -x[:, 0], x[:, 1]], axis=1))


def simulate(n: int, seed: int, sharp: float = 0.5) -> Log:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    p = choices(x, sharp)
    action = np.minimum((rng.random((n, 1)) > p.cumsum(axis=1)).sum(axis=1), ACTIONS - 1)
    rows = np.arange(n)
    reward = (rng.random(n) < pays(x)[rows, action]).astype(np.float64)
    return Log(x, action, p[rows, action], reward, logging=p)


def target_of(log: Log, sharp: float = 1.0) -> np.ndarray:
    return softmax(sharp * pays(log.context) * 8)


@pytest.fixture(scope="module")
def truth() -> float:
    x = np.random.default_rng(0).normal(size=(400_000, 2))
    return float((softmax(pays(x) * 8) * pays(x)).sum(axis=1).mean())


@pytest.mark.parametrize("method", METHODS)
def test_intervals_hold_the_simulated_truth(method: Method, truth: float) -> None:
    inside = 0
    for seed in range(60):
        log = simulate(600, seed)
        found = estimate(log, target_of(log), method, SETTINGS)
        inside += found.low <= truth <= found.high
    assert inside >= 53  # 95 % of 60 is 57; 52 or fewer has a chance of 2 %


def test_the_mean_reward_would_be_wrong(truth: float) -> None:
    """Negative control: the log's own mean is another policy's value."""
    log = simulate(5000, 1)
    own = logged(log, SETTINGS)
    assert own.high < truth < estimate(log, target_of(log), "dr", SETTINGS).high


def test_ips_is_the_mean_of_weighted_rewards_and_snips_its_ratio() -> None:
    log = simulate(300, 1)
    weight = target_of(log)[np.arange(300), log.action] / log.propensity
    assert weight.max() < np.sqrt(300)
    assert estimate(log, target_of(log), "ips", SETTINGS).value == pytest.approx((weight * log.reward).mean())
    assert estimate(log, target_of(log), "snips", SETTINGS).value == pytest.approx((weight * log.reward).sum() / weight.sum())


def test_the_logging_policy_itself_is_worth_its_mean_reward() -> None:
    log = simulate(400, 2)
    for method in ("ips", "snips"):
        found = estimate(log, choices(log.context, 0.5), method, SETTINGS)
        assert found.value == pytest.approx(log.reward.mean())
        assert found.effective == pytest.approx(400)
        assert found.weight_z == 0.0


def test_doubly_robust_is_narrower_and_stays_right_with_a_wrong_model(truth: float) -> None:
    log = simulate(4000, 5)
    target = target_of(log)
    wrong = estimate(log, target, "dr", SETTINGS, model=lambda *_: lambda x: np.full((len(x), ACTIONS), 0.9))
    right = estimate(log, target, "dr", SETTINGS)
    ips = estimate(log, target, "ips", SETTINGS)
    assert wrong.low < truth < wrong.high
    assert right.high - right.low < min(ips.high - ips.low, wrong.high - wrong.low)


def test_the_model_of_a_row_saw_neither_it_nor_its_group() -> None:
    log = simulate(40, 1)
    group = np.arange(40) // 4
    seen: list[set[float]] = []

    def spy(context: np.ndarray, action: np.ndarray, reward: np.ndarray, actions: int) -> Predictor:
        seen.append(set(context[:, 0]))
        return lambda x: np.full((len(x), actions), float(len(seen) - 1))

    which = cross_fitted(replace(log, group=group, reward=log.reward * 100), ACTIONS, spy, SETTINGS)[:, 0].astype(int)
    for row in range(40):
        mates = set(log.context[group == group[row], 0])
        assert not mates & seen[which[row]]
    assert len(seen) == SETTINGS.folds


def test_an_action_never_seen_is_expected_to_earn_what_all_share() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 1))
    action = rng.integers(0, 2, 500)
    predict = ridge(x, action, 2.0 * x[:, 0] + action, 3)
    found = predict(np.array([[0.0], [1.0]]))
    assert found[:, 1] - found[:, 0] == pytest.approx([1.0, 1.0], abs=0.1)
    assert found[1, 2] - found[0, 2] == pytest.approx(2.0, abs=0.1)
    assert found[0, 0] < found[0, 2] < found[0, 1]


def test_rows_of_one_customer_count_as_one() -> None:
    log = simulate(300, 4)
    many = Log(*(np.repeat(a, 10, axis=0) for a in (log.context, log.action, log.propensity, log.reward)))
    many = replace(many, logging=np.repeat(log.logging, 10, axis=0))
    together = replace(many, group=np.repeat(np.arange(300), 10))
    free = SETTINGS.model_copy(update={"clip": 1000.0})
    for method in ("ips", "snips"):
        once = estimate(log, target_of(log), method, free)
        ten = estimate(together, target_of(together), method, free)
        assert (ten.value, ten.low, ten.high) == pytest.approx((once.value, once.low, once.high))
        apart = estimate(many, target_of(many), method, free)
        assert apart.high - apart.low < 0.5 * (ten.high - ten.low)


def test_clipping_widens_the_interval_by_what_it_may_hide(truth: float) -> None:
    log = simulate(2000, 6, sharp=1.5)
    target = target_of(log)
    hard = SETTINGS.model_copy(update={"clip": 1.5})
    for method in METHODS:
        found = estimate(log, target, method, hard, reward_range=(0.0, 1.0))
        assert found.missing > 0.05
        assert found.low <= truth <= found.high
        assert found.slack[1] > 0
        unknown = estimate(replace(log, logging=None), target, method, hard, reward_range=(0.0, 1.0))
        assert unknown.missing == pytest.approx(found.missing, rel=0.3)


def test_choices_that_the_log_never_makes_are_noticed_without_its_probabilities() -> None:
    log = simulate(2000, 7)
    blocked = log.logging.copy()
    blocked[:, 0] = 0.0
    blocked /= blocked.sum(axis=1, keepdims=True)
    keep = log.action != 0
    kept = Log(log.context[keep], log.action[keep], blocked[keep][np.arange(keep.sum()), log.action[keep]], log.reward[keep])
    wants = np.tile([0.4, 0.2, 0.2, 0.2], (len(kept.reward), 1))
    found = estimate(kept, wants, "snips", SETTINGS)
    assert found.missing == pytest.approx(0.4, abs=0.1)
    assert not gate(found, logged(kept, SETTINGS), SETTINGS).allowed
    exact = estimate(replace(kept, logging=blocked[keep]), wants, "snips", SETTINGS)
    assert exact.missing == pytest.approx(0.4)


def test_no_reward_at_all_still_leaves_room_above() -> None:
    log = replace(simulate(500, 8), reward=np.zeros(500))
    found = estimate(log, target_of(log), "ips", SETTINGS, reward_range=(0.0, 1.0))
    assert found.value == 0.0
    assert 0.01 < found.high < 1.0


def test_a_better_policy_passes_the_gate_and_a_worse_one_does_not() -> None:
    log = simulate(6000, 9)
    base = logged(log, SETTINGS)
    good = gate(estimate(log, target_of(log), "dr", SETTINGS), base, SETTINGS)
    assert (good.allowed, good.code) == (True, "ok")
    bad = gate(estimate(log, target_of(log, -1.0), "dr", SETTINGS), base, SETTINGS)
    assert (bad.allowed, bad.code) == (False, "worse")
    assert "worse" in bad.reason
    few = simulate(250, 9)
    assert gate(estimate(few, target_of(few, 0.0), "dr", SETTINGS), logged(few, SETTINGS), SETTINGS).code == "not_shown"


def test_the_gate_can_ask_for_more_than_no_loss() -> None:
    log = simulate(6000, 9)
    found, base = estimate(log, target_of(log), "dr", SETTINGS), logged(log, SETTINGS)
    much = SETTINGS.model_copy(update={"gate_min_gain": 1.0})
    assert gate(found, base, much).code == "worse"
    assert gate(found, base.value, SETTINGS).allowed
    assert gate(found, found.low - 0.01, SETTINGS).allowed
    assert not gate(found, found.low + 0.01, SETTINGS).allowed


def test_the_gate_names_too_little_overlap_and_wrong_propensities() -> None:
    log = simulate(2000, 10)
    target, base = target_of(log), logged(log, SETTINGS)
    strict = SETTINGS.model_copy(update={"gate_min_effective": 1990.0})
    assert gate(estimate(log, target, "dr", strict), base, strict).code == "overlap"
    false = replace(log, propensity=np.clip(log.propensity * 0.7, 1e-6, 1.0), logging=None)
    assert gate(estimate(false, target, "dr", SETTINGS), base, SETTINGS).code == "propensities"
    hard = SETTINGS.model_copy(update={"clip": 1.2})
    assert gate(estimate(log, target, "dr", hard), base, hard).code == "support"


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    log = simulate(2000, 11)
    one, other = estimate(log, target_of(log), "dr", SETTINGS), estimate(log, target_of(log, 0.8), "dr", SETTINGS)
    gain = difference(one, other, SETTINGS)
    assert gain.value == pytest.approx(one.value - other.value)
    assert gain.high - gain.low < 0.5 * (one.high - one.low)
    same = difference(one, one, SETTINGS)
    assert same.value == 0.0


def test_equal_settings_give_equal_numbers() -> None:
    log = simulate(300, 12)
    assert estimate(log, target_of(log), "dr", SETTINGS).interval == estimate(log, target_of(log), "dr", SETTINGS).interval


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": np.zeros(30)}, "context has shape"),
        ({"action": np.zeros(29, dtype=int)}, "action has shape"),
        ({"group": np.zeros((30, 1))}, "group has shape"),
        ({"logging": np.full((30, 3), 1 / 3)}, "logging has shape"),
        ({"reward": np.zeros(1)}, "a log of 1 rows"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(change: dict[str, np.ndarray], message: str) -> None:
    log = simulate(30, 1)
    with pytest.raises(ShapeError, match=message):
        estimate(replace(log, **change), target_of(log), "ips", SETTINGS)
    with pytest.raises(ShapeError, match="target has shape"):
        estimate(log, target_of(log)[:5], "ips", SETTINGS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": np.full(30, 4)}, "integers from 0 to 3"),
        ({"action": np.zeros(30)}, "integers from 0 to 3"),
        ({"propensity": np.zeros(30)}, "above 0"),
        ({"reward": np.full(30, np.nan)}, "must be finite"),
        ({"propensity": np.full(30, 0.123)}, "differs from the logging"),
    ],
)
def test_values_that_are_no_log_are_refused(change: dict[str, np.ndarray], message: str) -> None:
    log = simulate(30, 1)
    with pytest.raises(ContractError, match=message):
        estimate(replace(log, **change), target_of(log), "ips", SETTINGS)


def test_other_refusals() -> None:
    log = simulate(30, 1)
    with pytest.raises(ContractError, match="sum to 1"):
        estimate(log, target_of(log) * 0.9, "ips", SETTINGS)
    with pytest.raises(ContractError, match="no off-policy method"):
        estimate(log, target_of(log), "best", SETTINGS)  # type: ignore[arg-type]
    with pytest.raises(ContractError, match="outside reward_range"):
        estimate(log, target_of(log), "ips", SETTINGS, reward_range=(0.0, 0.5))
    only = np.zeros((30, ACTIONS))
    only[np.arange(30), (log.action + 1) % ACTIONS] = 1.0
    with pytest.raises(ContractError, match="never chooses"):
        estimate(log, only, "snips", SETTINGS)
    with pytest.raises(ShapeError, match="of one log"):
        difference(estimate(log, target_of(log), "ips", SETTINGS), logged(simulate(31, 1), SETTINGS), SETTINGS)
    with pytest.raises(ShapeError, match="says nothing"):
        logged(Log(log.context[:1], log.action[:1], log.propensity[:1], log.reward[:1]), SETTINGS)


def test_settings_come_from_the_environment_and_refuse_a_typo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGULARS_DECISIONS_GATE_MIN_GAIN", "0.05")
    assert DecisionSettings.load().gate_min_gain == 0.05
    monkeypatch.setenv("REGULARS_DECISIONS_GATE_MIN_GIAN", "0.05")
    with pytest.raises(ConfigError, match="GATE_MIN_GAIN"):
        DecisionSettings.load()
