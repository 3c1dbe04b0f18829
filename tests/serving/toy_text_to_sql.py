"""A text-to-SQL model folder without training and without torch: two small graphs with the real names and shapes, random weights.

Every input counts: the token, the position, each past token, each piece of the question and its mask.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from contracts.questions import RECORD, SERVED_FILES
from nlq.program import MAX_TOKENS
from nlq.vocabulary import token_ids, tokens

WIDTH, PIECES = 8, 30_522
FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


def toy_folder(folder: Path, version: str = "text-to-sql/1", nudge: float = 0.0) -> Path:
    """Write encoder.onnx, step.onnx and model.json; `nudge` is added to one weight."""
    folder.mkdir(parents=True)
    onnx.save(_encoder(), folder / "encoder.onnx")
    onnx.save(_step(nudge), folder / "step.onnx")
    checksums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in SERVED_FILES}
    (folder / RECORD).write_text(json.dumps({"version": version, "sha256": checksums}))
    return folder


def _weights(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def _model(nodes, inputs, outputs, constants) -> onnx.ModelProto:
    held = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    infos = [[helper.make_tensor_value_info(*i) for i in side] for side in (inputs, outputs)]
    graph = helper.make_graph(nodes, "toy", *infos, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _encoder() -> onnx.ModelProto:
    """memory_k (1, 1, 1, L, D): vectors of the pieces, nothing where masked; memory_v the same doubled."""
    nodes = [
        helper.make_node("Gather", ["pieces", "ids"], ["found"]),
        helper.make_node("Cast", ["mask"], ["real"], to=FLOAT),
        helper.make_node("Unsqueeze", ["real", "last"], ["column"]),
        helper.make_node("Mul", ["found", "column"], ["held"]),
        helper.make_node("Unsqueeze", ["held", "front"], ["memory_k"]),
        helper.make_node("Add", ["memory_k", "memory_k"], ["memory_v"]),
    ]
    sides = [("ids", INT, [1, "l"]), ("mask", INT, [1, "l"])], [(f"memory_{m}", FLOAT, [1, 1, 1, "l", WIDTH]) for m in "kv"]
    return _model(nodes, *sides, {"pieces": _weights(1, PIECES, WIDTH), "last": np.array([2]), "front": np.array([0, 1])})


def _step(nudge: float) -> onnx.ModelProto:
    """The token, its position, the tokens before it and the question, added up and compared with each token's vector."""
    nodes = [
        helper.make_node("Gather", ["words", "token"], ["word"]),
        helper.make_node("Gather", ["positions", "position"], ["place"]),
        helper.make_node("Cast", ["mask"], ["real"], to=FLOAT),
        helper.make_node("ReduceSum", ["real"], ["count"], keepdims=0),
        helper.make_node("Add", ["memory_k", "memory_v"], ["memory"]),
        helper.make_node("ReduceSum", ["memory", "but_last"], ["summed"], keepdims=0),
        helper.make_node("Div", ["summed", "count"], ["question"]),
        helper.make_node("Add", ["past_k", "past_v"], ["past"]),
        helper.make_node("ReduceSum", ["past", "time"], ["before"], keepdims=0),
        helper.make_node("Sum", ["word", "place", "question", "before"], ["all"]),
        helper.make_node("Tanh", ["all"], ["bounded"]),
        helper.make_node("MatMul", ["bounded", "out"], ["scored"]),
        helper.make_node("Add", ["scored", "bias"], ["logits"]),
        helper.make_node("LogSoftmax", ["logits"], ["logp"], axis=-1),
        helper.make_node("Unsqueeze", ["bounded", "around"], ["own"]),
        helper.make_node("Concat", ["past_k", "own"], ["next_k"], axis=3),
        helper.make_node("Concat", ["past_v", "own"], ["next_v"], axis=3),
    ]
    size = len(tokens())
    out, bias = _weights(3, WIDTH, size), np.zeros(size, np.float32)
    out[0, token_ids()["end"]] += nudge
    bias[[token_ids()[t] for t in ("end", ";", ")")]] = 2.0  # programs end
    shape = [1, "n", 1, "t", WIDTH]
    inputs = [
        ("token", INT, ["n"]), ("position", INT, [1]), ("past_k", FLOAT, shape), ("past_v", FLOAT, shape),
        ("memory_k", FLOAT, [1, 1, 1, "l", WIDTH]), ("memory_v", FLOAT, [1, 1, 1, "l", WIDTH]), ("mask", INT, [1, "l"]),
    ]  # fmt: skip
    longer = [1, "n", 1, "u", WIDTH]
    outputs = [("logp", FLOAT, ["n", size]), ("next_k", FLOAT, longer), ("next_v", FLOAT, longer)]
    constants = {
        "words": _weights(4, size, WIDTH), "positions": _weights(5, MAX_TOKENS, WIDTH, scale=0.3), "out": out, "bias": bias,
        "but_last": np.array([0, 1, 2, 3]), "time": np.array([0, 2, 3]), "around": np.array([0, 2, 3]),
    }  # fmt: skip
    return _model(nodes, inputs, outputs, constants)


def toy_questions(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """ids and mask int64 (1, L) of questions of different lengths."""
    rng = np.random.default_rng(7)
    made = [rng.integers(1000, 20_000, (1, rng.integers(4, 40))) for _ in range(count)]
    return [(ids, np.ones_like(ids)) for ids in made]
