"""Beam search: only programs come out, whatever the network says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import ArtifactError
from nlq.decode import ENCODER, STEP, Hypothesis, OnnxStepper, decode, probabilities
from nlq.program import MAX_TOKENS, Automaton, Slots, parse
from nlq.vocabulary import token_ids, tokens

SLOTS = (
    Slots(),
    Slots(2, (frozenset({"customers.location"}),), 1, frozenset({0})),
    Slots(4, (frozenset({"rewards.name"}), frozenset({"products.name", "products.brand"})), 3),
)


class Noise:
    """A network that says anything: seeded, by beam and position. `bias` makes some tokens likelier."""

    def __init__(self, seed: int, bias: dict[str, float] | None = None, scale: float = 3.0) -> None:
        self.seed, self.scale = seed, scale
        self.bias = np.zeros(len(tokens()))
        for token, value in (bias or {}).items():
            self.bias[token_ids()[token]] = value

    def start(self) -> tuple[np.ndarray, np.ndarray]:
        empty = np.zeros((1, 1, 1, 0, 1), np.float32)
        return empty, empty

    def encode(self, ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.start()

    def step(
        self, token: np.ndarray, position: int, past: tuple[np.ndarray, np.ndarray], memory: tuple[np.ndarray, np.ndarray], mask: np.ndarray
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """What a row says depends on all its own tokens, which lie in its past."""
        made = np.concatenate([past[0], token.astype(np.float32)[None, :, None, None, None]], 3)
        logits = np.stack([self.says(made[0, row, 0, :, 0]) for row in range(len(token))])
        return logits - np.logaddexp.reduce(logits, 1, keepdims=True), (made, made)

    def says(self, written: np.ndarray) -> np.ndarray:
        return np.random.default_rng([self.seed, *written.astype(int)]).normal(0, self.scale, len(tokens())) + self.bias


IDS = np.ones((1, 3), np.int64)


def run(network: Noise, slots: Slots = SLOTS[1], width: int = 4) -> list[Hypothesis]:
    return decode(network, IDS, IDS, slots, width)  # type: ignore[arg-type]


def likelihood(network: Noise, program: Sequence[str], slots: Slots) -> tuple[float, float, float]:
    """(score, raw, least) of a program, worked out token by token."""
    automaton, past = Automaton(slots), network.start()
    last, score, raw, least = "<start>", 0.0, 0.0, 1.0
    for position, token in enumerate(program):
        logp, past = network.step(np.array([token_ids()[last]]), position, past, past, IDS)
        of = {t: logp[0, token_ids()[t]] for t in automaton.allowed()}
        mine = of[token] - math.log(sum(math.exp(v) for v in of.values()))
        score, raw, least, last = score + mine, raw + of[token], min(least, math.exp(mine)), token
        automaton.push(token)
    return score, raw, least


@pytest.mark.parametrize("slots", SLOTS)
def test_only_programs_come_out_whatever_the_network_says(slots: Slots) -> None:
    kinds = set()
    for seed in range(12):
        found = run(Noise(seed, {"refuse": -20.0, "end": -3.0 * (seed % 3)}), slots)
        assert found
        for h in found:
            assert h.program[-1] == "end"
            assert len(h.program) < MAX_TOKENS
            kinds.add(parse(h.program, slots).kind)
    assert {"agg", "list"} <= kinds


def test_a_network_that_never_ends_is_a_refusal() -> None:
    found = run(Noise(0, {"end": -1e6, "refuse": -1e6, "or": 1e3}, scale=0.1))
    assert [h.program for h in found] == [("refuse", "end")]
    assert found[0].least == 0.0


def test_best_first_and_no_program_twice() -> None:
    found = [run(Noise(seed, {"refuse": -9.0}), width=5) for seed in range(8)]
    assert any(len(f) > 2 for f in found)
    for hypotheses in found:
        assert len(hypotheses) <= 5
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        assert len({h.program for h in hypotheses}) == len(hypotheses)


def test_scores_are_the_programs_own() -> None:
    for seed in range(6):
        network = Noise(seed, {"refuse": -9.0})
        for h in run(network):
            assert (h.score, h.raw, h.least) == pytest.approx(likelihood(network, h.program, SLOTS[1]), abs=1e-6)
            assert h.raw <= h.score <= 0.0


def test_one_beam_is_greedy() -> None:
    ended = 0
    for seed in range(12):
        network, automaton, written = Noise(seed, {"refuse": -9.0, "end": 4.0}), Automaton(SLOTS[1]), ["<start>"]
        while not automaton.done and len(written) < MAX_TOKENS:
            said = network.says(np.array([token_ids()[t] for t in written]))
            written.append(max(automaton.allowed(), key=lambda t: said[token_ids()[t]]))
            automaton.push(written[-1])
        ended += automaton.done
        assert run(network, width=1)[0].program == (tuple(written[1:]) if automaton.done else ("refuse", "end"))
    assert ended > 3


def test_more_beams_find_likelier_programs() -> None:
    better = worse = 0
    for seed in range(10):
        network = Noise(seed, {"refuse": -9.0, "end": 2.0})
        narrow, wide = run(network, width=1)[0].score, run(network, width=6)[0].score
        better += wide > narrow + 1e-9
        worse += wide < narrow - 1e-9
    assert better > worse


def test_probabilities_are_shares_of_what_was_found() -> None:
    found = [Hypothesis(("refuse", "end"), s, s, 0.5) for s in (-1.0, -2.0, -3000.0)]
    shares = probabilities(found)
    assert sum(shares) == pytest.approx(1.0)
    assert shares[0] / shares[1] == pytest.approx(math.e)
    assert shares[2] == 0.0


def test_the_exported_network_decodes_questions(tiny_folder: Path) -> None:
    from nlq.tokens import Tokens

    from .tiny import QUESTIONS, TOKENIZER_FILE

    stepper, pieces = OnnxStepper(tiny_folder), Tokens(TOKENIZER_FILE)
    scores = set()
    for q in QUESTIONS:
        for slots in SLOTS:
            for h in decode(stepper, *pieces.batch([q]), slots, 3):
                parse(h.program, slots)
                assert len(h.program) < MAX_TOKENS
                scores.add(round(h.score, 4))
    assert len(scores) > len(SLOTS) * 3  # it looks at the question


@pytest.mark.parametrize("name", [ENCODER, STEP])
def test_a_graph_that_is_missing_or_damaged_is_an_artifact_error(tiny_folder: Path, tmp_path: Path, name: str) -> None:
    for n in (ENCODER, STEP):
        (tmp_path / n).write_bytes((tiny_folder / n).read_bytes())
    OnnxStepper(tmp_path)
    (tmp_path / name).write_bytes(b"no graph")
    with pytest.raises(ArtifactError, match="cannot load the text_to_sql model"):
        OnnxStepper(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError, match="Export it again"):
        OnnxStepper(tmp_path)
