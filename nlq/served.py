"""The decoding loop as the model server runs it: requests checked, one call of `nlq.decode` each. Also what both sides say of its tensors.

Runs in the server's own Python (NumPy 1, ONNX Runtime; no torch, none of our other libraries); serving/triton_repo/text_to_sql/model.py
calls it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from contracts.errors import ContractError, UpstreamError
from contracts.questions import MAX_WIDTH, SCORES, slots_from_json, slots_to_json
from nlq.decode import Hypothesis, OnnxStepper, decode
from nlq.program import Slots
from nlq.tokens import MAX_INPUT
from nlq.vocabulary import NUMBER_SLOTS, TIME_SLOTS, VALUE_SLOTS, fields

_WARM_TOKENS = 24


class ServedDecoder:
    """The network of a folder, loaded and warm, for one request at a time.

    Raises:
        ArtifactError: a file is missing or damaged.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        self._stepper = OnnxStepper(folder, threads)
        self.answer(np.arange(5, 5 + _WARM_TOKENS), np.ones(_WARM_TOKENS, np.int64), written(Slots()), 2)  # the first run allocates

    def answer(self, ids: np.ndarray, mask: np.ndarray, slots: str, width: int) -> tuple[list[str], np.ndarray]:
        """The best programs, best first, and their scores float32 (N, 3).

        Args:
            ids, mask: int64 (L,), 2 to MAX_INPUT long.
            slots: as `contracts.questions.slots_to_json` writes them.
            width: beams, 1 to MAX_WIDTH.

        Raises:
            ContractError: one of them is not as said, or `slots` names what the language of programs does not have.
        """
        check_question(ids, mask, width)
        return to_outputs(decode(self._stepper, ids[None], mask[None], read_slots(slots), width))


def check_question(ids: np.ndarray, mask: np.ndarray, width: int) -> None:
    """Raise ContractError unless the question can be decoded; see `ServedDecoder.answer`."""
    if ids.ndim != 1 or not 2 <= ids.size <= MAX_INPUT:
        raise ContractError(f"ids has shape {ids.shape}, must be (L,) of 2 to {MAX_INPUT} tokens. Shorten the question")
    if mask.shape != ids.shape or not np.isin(mask, (0, 1)).all() or not mask.any():
        raise ContractError(
            f"mask has shape {mask.shape}, must be {ids.shape} like ids, of ones and zeros with at least one 1. Send the tokenizer's"
        )
    if not 1 <= width <= MAX_WIDTH:
        raise ContractError(f"width is {width}, must be 1 to {MAX_WIDTH} beams. Set it within that")


def written(slots: Slots) -> str:
    """The input `slots`."""
    return slots_to_json(slots.numbers, slots.values, slots.times, slots.durations)


def read_slots(text: str) -> Slots:
    """Operands from the input `slots`.

    Raises:
        ContractError: not as contracts.questions writes it, more operands than programs have names for, or an unknown column.
    """
    found = slots_from_json(text)
    for name, count, most in (
        ("numbers", found.numbers, NUMBER_SLOTS),
        ("values", len(found.values), VALUE_SLOTS),
        ("times", found.times, TIME_SLOTS),
    ):
        if count > most:
            raise ContractError(f"slots has {count} {name}, at most {most} are allowed. Leave out the rest")
    unknown = sorted({c for v in found.values for c in v} - fields().keys())
    if unknown:
        raise ContractError(f"slots names {', '.join(unknown[:3])}, which is no column of nlq.vocabulary. Use one version on both sides")
    beyond = [d for d in found.durations if d >= found.times]
    if beyond:
        raise ContractError(f"slots says that time {beyond[0]} is a duration, but it has {found.times} times. Correct durations")
    return Slots(found.numbers, tuple(frozenset(v) for v in found.values), found.times, frozenset(found.durations))


def to_outputs(found: list[Hypothesis]) -> tuple[list[str], np.ndarray]:
    """The outputs `programs` and `scores` float32 (N, 3)."""
    return [" ".join(h.program) for h in found], np.array([[getattr(h, s) for s in SCORES] for h in found], np.float32)


def from_outputs(programs: list[str], scores: np.ndarray) -> list[Hypothesis]:
    """Hypotheses from the outputs.

    Raises:
        UpstreamError: they are empty, of different lengths, or not finite.
    """
    if not programs or scores.shape != (len(programs), len(SCORES)) or not np.isfinite(scores).all():
        raise UpstreamError(
            f"the model server answered {len(programs)} programs and scores of shape {scores.shape}, must be N >= 1 finite rows of "
            f"{len(SCORES)}. "
            "An empty one means NumPy 2 in the model server's environment: make setup"
        )
    return [Hypothesis(tuple(p.split(" ")), *map(float, row)) for p, row in zip(programs, scores, strict=True)]
