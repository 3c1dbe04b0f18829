"""The exported network says what the trained one says."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from nlq.decode import ENCODER, STEP, OnnxStepper
from nlq.export import _quantize, export
from nlq.model import TextToSql
from nlq.tokens import Tokens
from nlq.vocabulary import tokens

from .tiny import QUESTIONS, TOKENIZER_FILE, network

TOLERANCE = 1e-4
"""float32 in two runtimes."""
QUANTIZED = 0.05
"""Mean change of a probability by int8 weights; random weights have no flat directions, trained ones suffer less."""


@pytest.fixture(scope="module")
def model() -> TextToSql:
    return network()


@pytest.fixture(scope="module")
def plain(model: TextToSql, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("float")
    assert export(model, folder, quantize=False) == [folder / ENCODER, folder / STEP]
    return folder


def by_onnx(folder: Path, ids: np.ndarray, mask: np.ndarray, program: np.ndarray) -> np.ndarray:
    """Log probabilities (T, beams, vocabulary) of two beams that write the same program."""
    stepper = OnnxStepper(folder)
    memory = stepper.encode(ids, mask)
    past = stepper.start()
    found = []
    for position, token in enumerate(program):
        if position == 1:
            past = (np.repeat(past[0], 2, 1), np.repeat(past[1], 2, 1))
        logp, past = stepper.step(np.array([token] * (2 if position else 1), np.int64), position, past, memory, mask)
        found.append(logp[-1:])
    return np.concatenate(found)


def by_torch(model: TextToSql, ids: np.ndarray, mask: np.ndarray, program: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logits = model(torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(program)[None])
        return torch.log_softmax(logits[0], -1).numpy()


def cases() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    rng, pieces = np.random.default_rng(0), Tokens(TOKENIZER_FILE)
    return [(*pieces.batch([q]), rng.integers(1, len(tokens()), 6)) for q in QUESTIONS[:4]]


def test_float_graphs_say_what_the_network_says_at_every_length(model: TextToSql, plain: Path) -> None:
    for ids, mask, program in cases():
        np.testing.assert_allclose(by_onnx(plain, ids, mask, program), by_torch(model, ids, mask, program), atol=TOLERANCE)


def test_one_nudged_weight_shows(model: TextToSql, plain: Path) -> None:
    other = network()
    with torch.no_grad():
        other.layers[1].up.bias[0] += 3.0
    ids, mask, program = cases()[0]
    assert np.abs(by_onnx(plain, ids, mask, program) - by_torch(other, ids, mask, program)).max() > 10 * TOLERANCE


def test_quantized_graphs_are_smaller_and_near(model: TextToSql, plain: Path, tiny_folder: Path) -> None:
    size = {f: sum((f / n).stat().st_size for n in (ENCODER, STEP)) for f in (plain, tiny_folder)}
    assert size[tiny_folder] < 0.5 * size[plain]
    for ids, mask, program in cases():
        a, b = by_onnx(tiny_folder, ids, mask, program), by_torch(model, ids, mask, program)
        assert np.abs(np.exp(a) - np.exp(b)).sum(-1).mean() / 2 < QUANTIZED * 4
        assert np.abs(a - b).max() > TOLERANCE  # they are quantized indeed


def test_quantizing_leaves_no_other_files_and_the_log_as_it_was(plain: Path, tmp_path: Path) -> None:
    (tmp_path / STEP).write_bytes((plain / STEP).read_bytes())
    before = logging.getLogger().level
    _quantize(tmp_path / STEP)
    assert [p.name for p in tmp_path.iterdir()] == [STEP]
    assert logging.getLogger().level == before


def test_names_and_shapes_are_those_that_the_decoder_feeds(plain: Path) -> None:
    encoder, step = (onnxruntime.InferenceSession(str(plain / n), providers=["CPUExecutionProvider"]) for n in (ENCODER, STEP))
    assert [i.name for i in encoder.get_inputs()] == ["ids", "mask"]
    assert [o.name for o in encoder.get_outputs()] == ["memory_k", "memory_v"]
    assert [i.name for i in step.get_inputs()] == ["token", "position", "past_k", "past_v", "memory_k", "memory_v", "mask"]
    assert [o.name for o in step.get_outputs()] == ["logp", "next_k", "next_v"]
    assert step.get_inputs()[2].shape[::2] == [2, 2, 16]  # layers, heads, width of a head
