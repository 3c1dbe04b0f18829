"""A products network for tests whose classes are colours: a real ONNX graph that nobody has to train, in a folder as training writes it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

from contracts.products import MEANS, NAME, RECORD, TOP
from tests.vision.products_drawn import picture
from vision.product_data import squared
from vision.products import LocalNetwork

SIZE, GRID = 64, 8
NAMES = ("circle-blue", "circle-red", "square-green")
BRANDS = ("", "Acme", "")
_COLOURS = np.array([[30, 40, 220], [220, 30, 30], [30, 180, 40]], np.float32)


def write_artifact(folder: Path, known_from: float = 0.8) -> Path:
    """A folder of the network; pictures whose embedding has at least the cosine `known_from` to a class's are known."""
    folder.mkdir(parents=True)
    _write_graph(folder / f"{NAME}.onnx")
    network = LocalNetwork(folder, 1)
    means = network.infer(np.stack([squared(picture(n, 1), SIZE) for n in NAMES]))["embedding"]
    with (folder / MEANS).open("wb") as file:
        np.savez(file, means=means)
    info = {
        "format": 1, "version": "products/test", "size": SIZE, "names": NAMES, "parents": [0, 0, 1], "coarse_names": ["round", "edged"],
        "brands": BRANDS, "coarse_mix": 0.5, "known": {"weights": [0.0, 30.0, 0.0], "bias": -30.0 * known_from, "threshold": 0.5},
        "catalogue": {"temperature": 0.05, "weight": 30.0, "bias": -24.0, "threshold": 0.5}, "record": {"left_out": []},
        "sha256": {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in (f"{NAME}.onnx", MEANS)},
    }  # fmt: skip
    (folder / RECORD).write_text(json.dumps(info), encoding="utf-8")
    return folder


def _write_graph(path: Path) -> None:
    """Each place says how like each colour it is, the mean over all places decides."""
    directions = _COLOURS - _COLOURS.mean(1, keepdims=True)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    cell = SIZE // GRID
    constants = {
        "cells_shape": np.array([-1, GRID, cell, GRID, cell, 3], np.int64),
        "directions": (directions.T / 20).astype(np.float32),  # (3, F)
        "six": np.array(6, np.float32), "fifty": np.array(50, np.float32), "tiny": np.array(1e-6, np.float32),
        "axes_cells": np.array([2, 4], np.int64), "axes_places": np.array([1, 2], np.int64), "axis_last": np.array([-1], np.int64),
        "top_count": np.array([TOP], np.int64), "of_round": np.array([0, 1], np.int64), "of_edged": np.array([2], np.int64),
        "map_axes": np.array([2, 3], np.int64), "map_tiles": np.array([1, 1, GRID, GRID], np.int64),
    }  # fmt: skip

    def node(kind: str, inputs: str, output: str, **attributes: object) -> object:
        return helper.make_node(kind, inputs.split(), output.split(), **attributes)

    nodes = [
        node("Cast", "pixels", "real", to=TensorProto.FLOAT),
        node("Reshape", "real cells_shape", "parts"),
        node("ReduceMean", "parts axes_cells", "cells", keepdims=0),  # (B, G, G, 3)
        node("ReduceMean", "cells axis_last", "grey"),
        node("Sub", "cells grey", "colour"),
        node("MatMul", "colour directions", "like"),  # (B, G, G, F)
        node("ReduceMean", "like axes_places", "likeness", keepdims=0),
        node("Mul", "likeness six", "fine_logits"),
        node("Gather", "fine_logits of_round", "round_logits", axis=1),
        node("ReduceMax", "round_logits axis_last", "round_logit"),
        node("Gather", "fine_logits of_edged", "edged_logit", axis=1),
        node("Concat", "round_logit edged_logit", "coarse_logits", axis=1),
        node("Div", "colour fifty", "places"),
        node("ReduceMean", "places axes_places", "vector", keepdims=0),
        node("ReduceL2", "vector axis_last", "length"),
        node("Max", "length tiny", "some_length"),
        node("Div", "vector some_length", "embedding"),
        node("TopK", "fine_logits top_count", "top_logits top", axis=1),
        node("Unsqueeze", "top map_axes", "top_index"),
        node("Tile", "top_index map_tiles", "top_places"),
        node("Transpose", "like", "class_maps", perm=[0, 3, 1, 2]),
        node("GatherElements", "class_maps top_places", "maps", axis=1),
    ]
    outputs = {
        "fine_logits": ["B", 3], "coarse_logits": ["B", 2], "embedding": ["B", 3], "maps": ["B", TOP, GRID, GRID],
        "places": ["B", GRID, GRID, 3],
    }  # fmt: skip
    graph = helper.make_graph(
        nodes,
        NAME,
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["B", SIZE, SIZE, 3])],
        [
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()),
            helper.make_tensor_value_info("top", TensorProto.INT64, ["B", TOP]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
