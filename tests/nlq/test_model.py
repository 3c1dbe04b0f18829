"""The network: step by step as at once, nothing from the future, nothing from padding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, T5Config, T5ForConditionalGeneration

from contracts.errors import ArtifactError
from nlq.model import ModelConfig, TextToSql, load_encoder
from nlq.program import MAX_TOKENS
from nlq.vocabulary import tokens

from .tiny import encoder, network

TOLERANCE = 1e-5
"""float32, two layers: what another order of sums changes."""


def inputs(length: int = 9, steps: int = 7, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    return torch.randint(5, 900, (1, length)), torch.ones(1, length, dtype=torch.int64), torch.randint(1, len(tokens()), (1, steps))


def stepped(model: TextToSql, ids: Tensor, mask: Tensor, program: Tensor) -> Tensor:
    """Log probabilities (T, vocabulary) with cached keys and values, a token at a time."""
    memory_k, memory_v = model.memory(model.encode(ids, mask))
    c = model.config
    past_k = past_v = torch.zeros(c.layers, 1, c.heads, 0, c.width // c.heads)
    found = []
    for position in range(program.shape[1]):
        logp, past_k, past_v = model.step(program[:, position], torch.tensor([position]), past_k, past_v, memory_k, memory_v, mask)
        found.append(logp[0])
    return torch.stack(found)


@torch.no_grad()
def test_steps_with_cached_keys_give_what_the_whole_program_gives() -> None:
    model = network()
    ids, mask, program = inputs()
    at_once = torch.log_softmax(model(ids, mask, program)[0], -1)
    torch.testing.assert_close(stepped(model, ids, mask, program), at_once, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_a_wrong_position_would_show() -> None:
    model = network()
    ids, mask, program = inputs()
    right = stepped(model, ids, mask, program)
    model.positions.weight.copy_(model.positions.weight.roll(1, 0))
    assert (stepped(model, ids, mask, program) - right).abs().max() > 100 * TOLERANCE


@torch.no_grad()
def test_a_later_token_changes_nothing_before_it() -> None:
    model = network()
    ids, mask, program = inputs()
    before = model(ids, mask, program)
    other = program.clone()
    other[0, 5] = (other[0, 5] + 1) % len(tokens())
    after = model(ids, mask, other)
    torch.testing.assert_close(after[:, :5], before[:, :5], atol=TOLERANCE, rtol=0)
    assert (after[:, 5] - before[:, 5]).abs().max() > 100 * TOLERANCE


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    model = network()
    ids, mask, program = inputs()
    alone = model(ids, mask, program)
    padded = torch.cat([ids, torch.randint(5, 900, (1, 4))], 1)
    held = torch.cat([mask, torch.zeros(1, 4, dtype=torch.int64)], 1)
    torch.testing.assert_close(model(padded, held, program), alone, atol=TOLERANCE, rtol=0)
    assert (model(padded, torch.ones_like(held), program) - alone).abs().max() > 100 * TOLERANCE


@torch.no_grad()
def test_beams_are_independent_and_share_the_question() -> None:
    model = network()
    ids, mask, program = inputs()
    memory = model.memory(model.encode(ids, mask))
    c = model.config
    empty = torch.zeros(c.layers, 2, c.heads, 0, c.width // c.heads)
    both, _, _ = model.step(program[0, :2], torch.tensor([0]), empty, empty, *memory, mask)
    for row in range(2):
        alone, _, _ = model.step(program[0, row : row + 1], torch.tensor([0]), empty[:, :1], empty[:, :1], *memory, mask)
        torch.testing.assert_close(both[row], alone[0], atol=TOLERANCE, rtol=0)
    assert (both[0] - both[1]).abs().max() > 100 * TOLERANCE


def test_every_weight_learns() -> None:
    model = network(width=48).train()
    ids, mask, program = inputs(steps=MAX_TOKENS)
    model(ids, mask, program).square().mean().backward()
    # positions of the encoder beyond the question, and word pieces that it does not hold, are in one matrix with those that it does
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # a constant added to all keys does not change a softmax
    assert not [name for name in missing if not name.endswith(("k.bias", "key.bias"))], missing


def test_an_encoder_of_another_width_gets_a_bridge() -> None:
    ids, mask, program = inputs()
    assert isinstance(network().bridge, torch.nn.Identity)
    wider = network(width=48)
    assert wider(ids, mask, program).shape == (1, 7, len(tokens()))
    assert wider.bridge.weight.shape == (32, 48)


def test_sizes_of_a_model_are_plain_values() -> None:
    assert ModelConfig(width=32, heads=2).as_dict()["width"] == 32


def test_an_encoder_is_loaded_from_a_folder(tmp_path: Path) -> None:
    made = encoder()
    made.save_pretrained(tmp_path)
    found, width = load_encoder(tmp_path, layers=0)
    assert width == 32
    assert len(found.encoder.layer) == 0
    found, _ = load_encoder(tmp_path)
    ids, mask, _ = inputs()
    torch.testing.assert_close(found.eval()(ids, mask).last_hidden_state, made.eval()(ids, mask).last_hidden_state, atol=TOLERANCE, rtol=0)


def test_of_an_encoder_decoder_the_encoder_is_taken(tmp_path: Path) -> None:
    config = T5Config(vocab_size=50, d_model=24, d_kv=8, d_ff=16, num_layers=1, num_heads=2, tie_word_embeddings=True)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    found, width = load_encoder(tmp_path)
    assert width == 24
    model = TextToSql(found, ModelConfig(width=32, layers=1, heads=2, inner=32), width).eval()
    ids, mask, program = inputs()
    assert model(ids % 50, mask, program).shape == (1, 7, len(tokens()))


def test_an_encoder_that_cannot_be_loaded_is_an_artifact_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot load the encoder"):
        load_encoder(tmp_path)
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="Give a folder"):
        load_encoder(tmp_path)
