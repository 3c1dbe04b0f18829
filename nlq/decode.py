"""From a linked question to programs: beam search in which only what the grammar allows can be said.

Needs numpy, tokenizers and an ONNX Runtime session pair; no torch. The same code runs in this process and inside the model server.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from contracts.errors import ArtifactError
from nlq.program import MAX_TOKENS, Automaton, Slots
from nlq.vocabulary import token_ids, tokens

ENCODER, STEP = "encoder.onnx", "step.onnx"


@dataclass(frozen=True)
class Hypothesis:
    """A program and its score.

    Attributes:
        program: tokens, `end` the last.
        score: sum of log probabilities, renormalised over what was allowed at each step.
        raw: the same without renormalising: low where the network wanted to say what it may not.
        least: the smallest renormalised probability of a step.
    """

    program: tuple[str, ...]
    score: float
    raw: float
    least: float


class Stepper(Protocol):
    """The network's two halves."""

    def encode(self, ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values, each (layers, 1, H, L, D), of int64 ids and mask (1, L)."""
        ...

    def step(
        self, token: np.ndarray, position: int, past: tuple[np.ndarray, np.ndarray], memory: tuple[np.ndarray, np.ndarray], mask: np.ndarray
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """Log probabilities (N, vocabulary) after token (N,), and the past with it."""
        ...


class OnnxStepper:
    """The two halves in ONNX Runtime, on the CPU.

    Raises:
        ArtifactError: a file is missing or damaged.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._encoder, self._step = (
                onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"]) for name in (ENCODER, STEP)
            )
        except Exception as exc:  # the runtime has an error class for each kind of damage
            raise ArtifactError(
                f"cannot load the text_to_sql model in {folder}: {exc}. Export it again: regulars train text-to-sql"
            ) from exc
        shape = next(i.shape for i in self._step.get_inputs() if i.name == "past_k")
        self._empty = np.zeros((shape[0], 1, shape[2], 0, shape[4]), np.float32)

    def start(self) -> tuple[np.ndarray, np.ndarray]:
        return self._empty, self._empty

    def encode(self, ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        k, v = self._encoder.run(None, {"ids": ids, "mask": mask})
        return k, v

    def step(
        self, token: np.ndarray, position: int, past: tuple[np.ndarray, np.ndarray], memory: tuple[np.ndarray, np.ndarray], mask: np.ndarray
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        feed: dict[str, Any] = {
            "token": token, "position": np.array([position], np.int64), "past_k": past[0], "past_v": past[1],
            "memory_k": memory[0], "memory_v": memory[1], "mask": mask,
        }  # fmt: skip
        logp, k, v = self._step.run(None, feed)
        return logp, (k, v)


@dataclass
class _Beam:
    automaton: Automaton
    program: tuple[str, ...]
    score: float
    raw: float
    least: float


def decode(stepper: OnnxStepper, ids: np.ndarray, mask: np.ndarray, slots: Slots, width: int = 4) -> list[Hypothesis]:
    """The best programs, best first; at least one.

    Args:
        ids, mask: int64 (1, L).
        slots: what operands the question offers.
        width: beams.
    """
    words, index = tokens(), token_ids()
    memory = stepper.encode(ids, mask)
    past = stepper.start()
    beams = [_Beam(Automaton(slots), (), 0.0, 0.0, 1.0)]
    done: list[Hypothesis] = []
    last = np.array([index["<start>"]], np.int64)
    for position in range(MAX_TOKENS - 1):
        logp, past = stepper.step(last, position, past, memory, mask)
        options: list[tuple[float, int, int, float, float]] = []
        for row, beam in enumerate(beams):
            allowed = np.fromiter((index[t] for t in beam.automaton.allowed()), np.int64)
            allowed = allowed[allowed < logp.shape[1]]  # a model may be older than the newest words
            found = logp[row, allowed]
            whole = float(np.logaddexp.reduce(found))
            best = np.argsort(-found)[:width]
            options += [
                (beam.score + float(found[i]) - whole, row, int(allowed[i]), float(found[i]), math.exp(float(found[i]) - whole))
                for i in best
            ]
        options.sort(key=lambda o: -o[0])
        following: list[_Beam] = []
        rows: list[int] = []
        for score, row, token, raw, p in options:
            if len(following) + 0 >= width:
                break
            parent = beams[row]
            program = (*parent.program, words[token])
            least = min(parent.least, p)
            if words[token] == "end":
                done.append(Hypothesis(program, score, parent.raw + raw, least))
                continue
            automaton = parent.automaton.copy()
            automaton.push(words[token])
            following.append(_Beam(automaton, program, score, parent.raw + raw, least))
            rows.append(row)
        done.sort(key=lambda h: -h.score)
        if (
            not following
            or (len(done) >= width and done[width - 1].score >= following[0].score)
            or (done and done[0].score > following[0].score + 7)
        ):
            break
        beams = following
        past = (past[0][:, rows], past[1][:, rows])
        last = np.array([index[b.program[-1]] for b in beams], np.int64)
    return done[:width] or [Hypothesis(("refuse", "end"), -99.0, -99.0, 0.0)]


def probabilities(found: Sequence[Hypothesis]) -> list[float]:
    """Of each hypothesis among those found."""
    scores = np.array([h.score for h in found])
    weights = np.exp(scores - scores.max())
    return [float(w) for w in weights / weights.sum()]
