"""Both towers: shapes, masks, separability."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contracts.tensors import ATTRIBUTE_COUNT, FEATURE_COUNT, ITEM_TOWER, SEQUENCE_LENGTH, TEXT_DIM, USER_TOWER
from training.recommender.model import UNKNOWN_ID, ModelConfig, TwoTower


@pytest.fixture(params=[1, 2])
def model(request: pytest.FixtureRequest) -> TwoTower:
    torch.manual_seed(0)
    return TwoTower(ModelConfig(vocabulary=30, kinds=19, layers=request.param)).eval()


def customers(n: int, steps: int = 20) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    ids, values = torch.zeros(n, SEQUENCE_LENGTH, 2, dtype=torch.int64), torch.zeros(n, SEQUENCE_LENGTH, 2)
    ids[:, -steps:, 0] = torch.randint(1, 30, (n, steps), generator=g)
    ids[:, -steps:, 1] = torch.randint(1, 19, (n, steps), generator=g)
    values[:, -steps:] = torch.rand(n, steps, 2, generator=g)
    return ids, values, torch.randn(n, FEATURE_COUNT, generator=g)


@torch.inference_mode()
def test_vectors_meet_the_contract_and_have_length_one(model: TwoTower) -> None:
    user = model.user(*customers(5)).numpy()
    items = torch.randint(0, 30, (7, 2)), torch.randn(7, ATTRIBUTE_COUNT), torch.randn(7, TEXT_DIM)
    item = model.item(*items).numpy()
    USER_TOWER.outputs[0].check(user)
    ITEM_TOWER.outputs[0].check(item)
    for vectors in (user, item):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@torch.inference_mode()
def test_what_stands_in_the_padding_changes_nothing(model: TwoTower) -> None:
    ids, values, features = customers(4)
    plain = model.user(ids, values, features)
    values[:, :10] = 9.0
    ids[:, :10, 0] = 5  # a token, but kind 0: padding
    torch.testing.assert_close(model.user(ids, values, features), plain, atol=1e-5, rtol=0)
    ids[:, 40, 0] = 1
    assert (model.user(ids, values, features) - plain).abs().max() > 1e-4  # the control: a real step does matter


@torch.inference_mode()
@pytest.mark.parametrize("steps", [0, 1, 5, 20])
def test_leading_padding_may_be_cut_off(model: TwoTower, steps: int) -> None:
    ids, values, features = customers(4, max(steps, 1))
    if steps == 0:
        ids[:], values[:] = 0, 0
    kept = max(steps, 1)
    torch.testing.assert_close(
        model.user(ids[:, -kept:], values[:, -kept:], features), model.user(ids, values, features), atol=1e-5, rtol=0
    )


@torch.inference_mode()
def test_permuting_a_batch_permutes_its_output(model: TwoTower) -> None:
    batch = customers(6)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    torch.testing.assert_close(model.user(*(t[order] for t in batch)), model.user(*batch)[order], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_customer_without_history_gets_a_finite_vector_from_the_features(model: TwoTower) -> None:
    ids, values, features = (torch.zeros_like(t) for t in customers(2))
    features[1] = 1.0
    vectors = model.user(ids, values, features)
    assert torch.isfinite(vectors).all()
    assert (vectors[0] - vectors[1]).abs().max() > 1e-3


@torch.inference_mode()
def test_an_unseen_reward_gets_its_vector_from_text_and_attributes(model: TwoTower) -> None:
    ids = torch.full((2, 2), UNKNOWN_ID)
    attributes, text = torch.zeros(2, ATTRIBUTE_COUNT), torch.randn(2, TEXT_DIM)
    vectors = model.item(ids, attributes, text)
    assert torch.isfinite(vectors).all()
    assert (vectors[0] - vectors[1]).abs().max() > 1e-3


def test_ids_are_hidden_in_training_only(model: TwoTower) -> None:
    ids = torch.full((2_000, 2), 7)
    assert torch.equal(model.hide_ids(ids), ids)
    model.train()
    hidden = model.hide_ids(ids)
    assert 0.05 < (hidden[:, 0] == UNKNOWN_ID).float().mean() < 0.15
    assert torch.equal(hidden[:, 1], ids[:, 1])


def test_padding_learns_nothing_and_the_scale_stays_in_bounds(model: TwoTower) -> None:
    model.train()
    model.user(*customers(3)).sum().backward()
    assert model.tokens.weight.grad is not None
    assert model.tokens.weight.grad[0].abs().sum() == 0
    with torch.no_grad():
        model.log_scale.fill_(50.0)
    assert float(model.scale.detach()) == pytest.approx(60.0)


def test_standardise_keeps_constant_columns() -> None:
    torch.manual_seed(0)
    layer = TwoTower(ModelConfig(vocabulary=3, kinds=19)).item.standardise
    layer.set(torch.full((ATTRIBUTE_COUNT,), 2.0), torch.zeros(ATTRIBUTE_COUNT))
    assert layer(torch.full((1, ATTRIBUTE_COUNT), 3.0)).tolist() == [[1.0] * ATTRIBUTE_COUNT]
