"""What counts in the loss and what is masked."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest
import torch

from training.sequence import data, losses
from training.sequence.data import Samples
from training.sequence.model import ModelConfig, SequenceModel


@pytest.fixture(scope="module")
def samples(shop: duckdb.DuckDBPyConnection) -> Samples:
    end = data.span(shop)[1]
    return data.build(shop, [end - 200, end - 95, end - 45], end)


def test_hazards_are_at_risk_only_while_quiet_and_known(samples: Samples) -> None:
    t = losses.targets(samples)
    for i in range(len(samples)):
        quiet_so_far = True
        for b in range(3):
            known = samples.observed_days[i] >= 30 * (b + 1)
            assert t.quiet_known[i, b] == (quiet_so_far and known)
            if known:
                quiet_so_far = quiet_so_far and not samples.bought[i, b]
                assert not t.quiet_known[i, b] or t.quiet[i, b] == (not samples.bought[i, b])
            else:
                quiet_so_far = False
    assert (t.quiet_known[samples.observed_days == 45][:, 1:] == 0).all()


def test_the_first_silence_is_an_event_once(samples: Samples) -> None:
    t = losses.targets(samples)
    for i in range(len(samples)):
        empty = [not b for b in samples.bought[i]]
        silent = [all(empty[k : k + 3]) for k in range(10)]
        for k in range(1, 10):
            known = samples.observed_days[i] >= 30 * (k + 3) and not any(silent[:k])
            assert t.silent_known[i, k - 1] == known
            assert not known or t.silent[i, k - 1] == silent[k]


def test_unknown_months_do_not_matter(samples: Samples) -> None:
    torch.manual_seed(0)
    model = SequenceModel(ModelConfig(hidden=4, width=8, members=1))
    logits = torch.randn(len(samples), 39)

    def total(s: Samples) -> float:
        arrays = {k: torch.from_numpy(v) for k, v in losses.targets(s).arrays().items()}
        return sum(float(v.detach()) for v in losses.loss(model, logits, arrays, 30.0).values())

    before = total(samples)
    unknown = np.arange(12) >= samples.months_seen[:, None]
    samples.monthly_spend[unknown] += 1e6
    assert total(samples) == pytest.approx(before, rel=1e-6)
    known = samples.monthly_spend.copy()
    samples.monthly_spend[~unknown] += 10.0  # the control
    assert abs(total(samples) - before) > 1e-3
    samples.monthly_spend[:] = np.where(unknown, known - 1e6, known)


def test_inactive_customers_weigh_less(samples: Samples) -> None:
    t = losses.targets(samples, 0.25)
    assert set(t.weight[samples.active].ravel()) == {1.0}
    assert set(t.weight[~samples.active].ravel()) == {0.25}


def test_the_best_mean_of_the_deviance_is_the_mean() -> None:
    y = torch.tensor([0.0, 0.0, 1.0, 7.0])
    candidates = torch.linspace(0.5, 5.0, 451)
    best = min(candidates, key=lambda m: float(losses.tweedie(y, m.expand(4)).mean()))
    assert float(best) == pytest.approx(2.0, abs=0.011)


def test_the_likelihood_of_a_sum_prefers_what_happened(samples: Samples) -> None:
    model = SequenceModel(ModelConfig(hidden=4, width=8, members=1))
    t = {"months": torch.full((2, 1), 3.0), "total": torch.tensor([[0.0], [90.0]])}
    expected = torch.full((2, 1), 60.0)
    says_nothing, says_something = torch.tensor([[3.0, 0.0]]).expand(2, 2), torch.tensor([[-3.0, 0.0]]).expand(2, 2)
    a, b = (losses.total_likelihood(model, expected, raw, t) for raw in (says_nothing, says_something))
    assert a[0] < b[0]
    assert b[1] < a[1]


def test_the_surest_of_nothing_still_has_a_gradient() -> None:
    model = SequenceModel(ModelConfig(hidden=4, width=8, members=1))
    t = {"months": torch.full((2, 1), 3.0), "total": torch.tensor([[0.0], [90.0]])}
    raw = torch.tensor([[40.0, 0.0], [40.0, 0.0]], requires_grad=True)
    value = losses.total_likelihood(model, torch.full((2, 1), 60.0), raw, t).sum()
    assert torch.isfinite(value)
    (gradient,) = torch.autograd.grad(value, raw)
    assert torch.isfinite(gradient).all()
