"""What crosses to and from the model `text_to_sql` on Triton: a linked question as token ids and its operands, and the programs found.

Inputs: `ids` and `mask` INT64 (L,), `slots` BYTES (1,) as written by `slots_to_json`, `width` INT32 (1,), the beams.
Outputs: `programs` BYTES (N,), tokens with blanks between, best first, and `scores` FP32 (N, 3): score, raw and least of
`nlq.decode.Hypothesis`. Needs nothing beside the standard library: it is read inside the model server, too.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from contracts.errors import ContractError

TEXT_TO_SQL = "text_to_sql"
BUNDLE = "text-to-sql"
SERVED_FILES = ("encoder.onnx", "step.onnx")
"""Files of a model's folder that the model server needs; their checksums are in its RECORD."""
RECORD = "model.json"
MAX_WIDTH = 16
SCORES = ("score", "raw", "least")
TENSORS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "ids": ("INT64", (-1,)), "mask": ("INT64", (-1,)), "slots": ("STRING", (1,)), "width": ("INT32", (1,)),
    "programs": ("STRING", (-1,)), "scores": ("FP32", (-1, len(SCORES))),
}  # fmt: skip
"""Type and shape of each tensor as config.pbtxt names them, inputs first; there is no batch dimension."""
INPUTS = ("ids", "mask", "slots", "width")
FINGERPRINT = "fingerprint"
"""Parameter of the served config.pbtxt: which weights they are, since two trainings may bear one version."""


@dataclass(frozen=True)
class Operands:
    """What a question offers, as it crosses the wire; see `nlq.program.Slots`.

    Attributes:
        numbers, times: how many there are.
        values: for each value, the columns that hold it.
        durations: which times are also a length in days.
    """

    numbers: int
    values: tuple[tuple[str, ...], ...]
    times: int
    durations: tuple[int, ...]


def fingerprint(sha256: Mapping[str, str]) -> str:
    """Names the served files of a model by their checksums."""
    return "-".join(sha256[name][:16] for name in SERVED_FILES)


def slots_to_json(numbers: int, values: Sequence[Collection[str]], times: int, durations: Collection[int]) -> str:
    """The input `slots`; the same operands give the same text."""
    return json.dumps(
        {"numbers": numbers, "values": [sorted(v) for v in values], "times": times, "durations": sorted(durations)}, separators=(",", ":")
    )


def slots_from_json(text: str) -> Operands:
    """Read the input `slots`.

    Raises:
        ContractError: it is not JSON, or not of this form. Whether columns exist is the decoder's to say.
    """
    try:
        raw = json.loads(text)
    except ValueError as exc:
        raise ContractError(f"slots is not JSON: {exc}. {_FORM}") from exc
    if not isinstance(raw, dict) or raw.keys() != {"numbers", "values", "times", "durations"}:
        raise ContractError(f"slots is {_shown(raw)}, which is not of its form. {_FORM}")
    counts = all(_is_count(raw[name]) for name in ("numbers", "times"))
    values = _is_list(raw["values"]) and all(_is_list(v) and all(isinstance(c, str) for c in v) for v in raw["values"])
    if not counts or not values or not _is_list(raw["durations"]) or not all(_is_count(d) for d in raw["durations"]):
        raise ContractError(f"slots is {_shown(raw)}, which is not of its form. {_FORM}")
    return Operands(raw["numbers"], tuple(tuple(v) for v in raw["values"]), raw["times"], tuple(raw["durations"]))


_FORM = (
    'It must be {"numbers": int, "values": [[column, ...], ...], "times": int, "durations": [int, ...]}. '
    "Send it as contracts.questions writes it"
)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
