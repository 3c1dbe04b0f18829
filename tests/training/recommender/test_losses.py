"""The losses against SciPy, with negative controls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from training.recommender import losses


def slow_full(logits: np.ndarray, positives: list[list[int]], candidates: np.ndarray, weight: np.ndarray) -> float:
    """Mean over queries of the mean over positives, each against the query's candidates that are no positive."""
    total = 0.0
    for row, mine, allowed, w in zip(logits, positives, candidates, weight, strict=True):
        negatives = [row[i] for i in range(len(row)) if allowed[i] and i not in mine]
        total += w * np.mean([logsumexp([*negatives, row[p]]) - row[p] for p in mine])
    return float(total / weight.sum())


def pad(rows: list[list[int]]) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*r, *[-1] * (width - len(r))] for r in rows])


def example(seed: int, items: int = 12) -> tuple[np.ndarray, list[list[int]], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(4, items)) * 3
    positives = [sorted(int(i) for i in rng.choice(items, rng.integers(1, 4), replace=False)) for _ in range(4)]
    return logits, positives, rng.random((4, items)) < 0.8, rng.random(4) + 0.1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 100_000))
def test_full_softmax_equals_scipy(seed: int) -> None:
    logits, positives, candidates, weight = example(seed)
    found = losses.full_softmax(torch.tensor(logits), pad(positives), torch.tensor(candidates), torch.tensor(weight).float())
    assert float(found) == pytest.approx(slow_full(logits, positives, candidates, weight), abs=1e-4)


def test_a_nudged_logit_and_a_lifted_mask_change_the_loss() -> None:
    logits, positives, candidates, weight = example(1)
    right = slow_full(logits, positives, candidates, weight)
    for changed in ("logit", "mask"):
        l2, c2 = logits.copy(), candidates.copy()
        if changed == "logit":
            l2[0, positives[0][0]] += 0.05
        else:
            c2[:] = True
        found = losses.full_softmax(torch.tensor(l2), pad(positives), torch.tensor(c2), torch.tensor(weight).float())
        assert abs(float(found) - right) > 1e-3


def test_sampled_over_everything_equals_full() -> None:
    logits, positives, candidates, weight = example(2)
    t, p = torch.tensor(logits), pad(positives)
    rows = torch.arange(12)
    sampled = losses.sampled_softmax(
        t.gather(1, p.clamp(min=0)), p, t, rows, torch.zeros(12), torch.tensor(candidates), torch.tensor(weight).float()
    )
    assert float(sampled) == pytest.approx(slow_full(logits, positives, candidates, weight), abs=1e-4)


def test_queries_without_positives_and_padding_add_nothing() -> None:
    logits, positives, candidates, weight = example(3)
    t, c = torch.tensor(logits), torch.tensor(candidates)
    plain = losses.full_softmax(t, pad(positives), c, torch.tensor(weight).float())
    wider = torch.nn.functional.pad(pad(positives), (0, 5), value=-1)
    more = torch.cat([wider, torch.full((1, wider.shape[1]), -1)])
    again = losses.full_softmax(torch.cat([t, t[:1]]), more, torch.cat([c, c[:1]]), torch.tensor([*weight, 5.0]).float())
    assert float(plain) == pytest.approx(float(again), abs=1e-6)


def test_log_q_makes_the_sampled_sum_right_on_average_and_its_absence_does_not() -> None:
    """exp(logit - log Q) summed over the samples estimates the sum over all items; without log Q popular items count too often."""
    rng = np.random.default_rng(4)
    items, draws = 40, 60
    logits = rng.normal(size=items)
    q = rng.dirichlet(np.ones(items) * 0.5) + 1e-3
    q /= q.sum()
    included = 1 - (1 - q) ** draws
    logits += np.log(q)  # popular items have higher logits, as in practice
    positive, corrected, plain = torch.zeros(1, 1), [], []
    full = slow_full(np.append(logits, 0.0)[None], [[items]], np.ones((1, items + 1), bool), np.ones(1))
    for _ in range(400):
        rows = np.unique(rng.choice(items, draws, p=q))
        shape = torch.tensor(logits[rows])[None].float(), torch.tensor(rows)
        for log_q, results in ((np.log(included[rows]), corrected), (np.zeros(len(rows)), plain)):
            loss = losses.sampled_softmax(
                positive,
                torch.tensor([[items]]),
                shape[0],
                shape[1],
                torch.tensor(log_q).float(),
                torch.ones(1, len(rows), dtype=torch.bool),
            )
            results.append(float(torch.expm1(loss)))  # exp(loss) - 1 = sum of exp(negatives) / exp(positive): the estimate is linear in it
    error = np.std(corrected) / np.sqrt(len(corrected))
    assert abs(np.mean(corrected) - np.expm1(full)) < 5 * error
    assert abs(np.mean(plain) - np.expm1(full)) > 5 * np.std(plain) / np.sqrt(len(plain))


def test_accidental_hits_are_no_negatives() -> None:
    logits = torch.tensor([[2.0, 1.0]])
    everything = torch.ones(1, 2, dtype=torch.bool)
    loss = losses.sampled_softmax(torch.tensor([[2.0]]), torch.tensor([[7]]), logits, torch.tensor([7, 3]), torch.zeros(2), everything)
    assert float(loss) == pytest.approx(float(np.log1p(np.exp(-1.0))), abs=1e-6)
