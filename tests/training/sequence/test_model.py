"""The graph: shapes, orders, exact attributions, what the prior says."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from contracts.tensors import FACTORS, SEQUENCE, SEQUENCE_FACTORS, STATIC_COUNT, WEEK_COUNT
from features.weekly import CHANNEL_FACTORS, STATIC_FACTORS, STATICS
from training.sequence.bgnbd import BgNbd, GammaGamma
from training.sequence.model import FactorsModel, Lives, ModelConfig, SequenceModel, prior_of, shapley_weights


def customers(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(n, WEEK_COUNT, 12, generator=rng), torch.rand(n, STATIC_COUNT, generator=rng) * 3


@pytest.fixture(scope="module")
def model() -> SequenceModel:
    torch.manual_seed(3)
    found = SequenceModel(ModelConfig(hidden=8, width=16, members=2))
    for p in found.members.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return found.eval()


@pytest.fixture(scope="module")
def factors(model: SequenceModel) -> FactorsModel:
    weeks, statics = customers(50, 9)
    return FactorsModel(model, weeks.mean(0), statics.mean(0)).eval()


def test_outputs_are_those_of_the_contract(model: SequenceModel, factors: FactorsModel) -> None:
    weeks, statics = customers(5)
    with torch.no_grad():
        for spec, module in ((SEQUENCE, model), (SEQUENCE_FACTORS, factors)):
            outputs = module(weeks, statics)
            assert [tuple(o.shape[1:]) for o in outputs] == [t.shape for t in spec.outputs]
            assert all(torch.isfinite(o).all() for o in outputs)


def test_probabilities_are_in_order(model: SequenceModel) -> None:
    with torch.no_grad():
        churn, silent_by, probability, spend, interval, _ = model(*customers(200))
    assert (churn.diff(dim=1) <= 0).all()
    assert (silent_by.diff(dim=1) >= 0).all()
    assert (silent_by[:, 0] - churn[:, 2]).abs().max() < 1e-6
    assert ((probability > 0) & (probability < 1)).all()
    assert (spend >= 0).all()
    assert (interval[:, 0] <= interval[:, 1]).all()


def test_attributions_add_up_and_are_the_definition_of_shapley(model: SequenceModel, factors: FactorsModel) -> None:
    """Against the average over all orders in which eight factors can be revealed, each coalition asked for through the public graph."""
    weeks, statics = customers(1, 4)
    with torch.no_grad():
        churn, *_, impacts, reference = factors(weeks, statics)
        assert (impacts.sum() - (churn[0, 2] - reference[0, 0])).abs() < 1e-5
        values: dict[frozenset[int], float] = {}
        for size in range(len(FACTORS) + 1):
            for chosen in itertools.combinations(range(len(FACTORS)), size):
                week_mask = torch.tensor([FACTORS.index(f) in chosen for f in CHANNEL_FACTORS])
                static_mask = torch.tensor([FACTORS.index(f) in chosen for f in STATIC_FACTORS])
                w = torch.where(week_mask, weeks, factors.reference_weeks)
                s = torch.where(static_mask, statics, factors.reference_statics)
                values[frozenset(chosen)] = float(model(w, s)[0][0, 2])
    n = len(FACTORS)
    for factor in range(n):
        total = 0.0
        for chosen, value in values.items():
            if factor not in chosen:
                weight = math.factorial(len(chosen)) * math.factorial(n - len(chosen) - 1) / math.factorial(n)
                total += weight * (values[chosen | {factor}] - value)
        assert float(impacts[0, factor]) == pytest.approx(total, abs=1e-5)


def test_the_reference_customer_has_no_attributions_and_a_factor_alone_has_all(factors: FactorsModel) -> None:
    weeks, statics = factors.reference_weeks[None].clone(), factors.reference_statics[None].clone()
    with torch.no_grad():
        assert factors(weeks, statics)[5].abs().max() < 1e-6
        statics[:, STATICS.index("usual_gap")] += 1.0
        impacts = factors(weeks, statics)[5][0]
    frequency = FACTORS.index("frequency")
    assert impacts[frequency].abs() > 1e-4
    assert impacts[[i for i in range(8) if i != frequency]].abs().max() < 1e-6


def test_weights_sum_to_nothing_for_a_constant_game() -> None:
    assert np.abs(shapley_weights().sum(0)).max() < 1e-12


def test_quick_attributions_add_up(model: SequenceModel) -> None:
    with torch.no_grad():
        churn, *_, estimates = model(*customers(20))
    assert (estimates.sum(1) - (churn[:, 2] - model.reference_churn)).abs().max() < 1e-5


def test_the_interval_grows_with_the_chance_of_spending_and_holds_the_stated_share(model: SequenceModel) -> None:
    """Against draws from the law that it is of."""
    rng = np.random.default_rng(0)
    total = torch.full((4, 1), 100.0)
    raw = torch.tensor([[-4.0, -1.0], [-1.0, 0.0], [0.5, 0.0], [3.0, 0.0]])
    months = torch.full((4, 1), 6.0)
    with torch.no_grad():
        nothing, mean, deviation = (v.numpy()[:, 0] for v in model.total_law(total, raw, months))
        low, high = model.interval(total, raw, months).numpy().T
    drawn = np.exp(mean[:, None] + deviation[:, None] * rng.standard_normal((4, 200_000)))
    drawn *= rng.random(drawn.shape) >= nothing[:, None]
    assert drawn.mean(1) == pytest.approx(np.full(4, 100.0), rel=0.05)
    inside = ((drawn >= low[:, None] - 1e-6) & (drawn <= high[:, None])).mean(1)
    assert inside[:3] == pytest.approx(np.full(3, 0.8), abs=0.01)
    assert inside[3] == pytest.approx(max(0.8, nothing[3]), abs=0.01)
    assert low[0] > 0
    assert (low[1:] == 0).all()


def test_the_prior_is_bg_nbd_and_gamma_gamma() -> None:
    lives, known = Lives(), torch.zeros(4, STATIC_COUNT)
    days, first = np.array([1.0, 2.0, 5.0, 12.0]), np.array([50.0, 200.0, 300.0, 364.0])
    last, spend = np.array([50.0, 20.0, 250.0, 3.0]), np.array([20.0, 90.0, 60.0, 900.0])
    names = ("purchase_days", "days_since_first_purchase", "days_since_purchase", "spend_ever")
    for name, value in zip(names, (days, first, last, spend), strict=True):
        known[:, STATICS.index(name)] = torch.from_numpy(np.log1p(value)).float()
    r, alpha, a, b, p, q, gamma = (float(v) for v in lives.parameters_of)
    with torch.no_grad():
        rate, _, amount = lives(known).numpy().T
    soon = BgNbd(r, alpha, a, b).purchases(0.01, days - 1, (first - last) / 7, (first + 1) / 7) / 0.01
    repeat = days > 1  # of who bought once BG/NBD is sure that they stayed; ours lets time tell
    assert np.exp(rate[repeat]) == pytest.approx(soon[repeat], rel=0.02)
    assert np.exp(amount) == pytest.approx(GammaGamma(p, q, gamma).mean(days, spend / days), rel=1e-3)
    odds, log_amount = prior_of(torch.from_numpy(np.stack([rate, rate, amount], 1))).numpy().T
    month = np.exp(rate) * 30.4375 / 7
    assert 1 / (1 + np.exp(-odds)) == pytest.approx(1 - np.exp(-month), rel=1e-4)
    assert np.exp(log_amount) / (1 + np.exp(-odds)) == pytest.approx(month * np.exp(amount), rel=1e-4)
