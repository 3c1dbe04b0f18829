"""The trained network as two ONNX files: the encoder with every layer's keys and values, and one decoding step with those cached."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nlq.decode import ENCODER, STEP
from nlq.model import TextToSql


class _Encoder(nn.Module):
    def __init__(self, model: TextToSql) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.memory(self.model.encode(ids, mask))


class _Step(nn.Module):
    def __init__(self, model: TextToSql) -> None:
        super().__init__()
        self.model = model

    def forward(self, token, position, past_k, past_v, memory_k, memory_v, mask):  # type: ignore[no-untyped-def]
        return self.model.step(token, position, past_k, past_v, memory_k, memory_v, mask)


def export(model: TextToSql, folder: Path, *, quantize: bool = True) -> list[Path]:
    """Write `encoder.onnx` and `step.onnx`.

    Args:
        quantize: weights to int8 (dynamic quantization of matrix products and of the word embedding); float32 otherwise.
    """
    model = model.eval()
    config: Any = model.encoder.config
    config._attn_implementation = "eager"  # its mask code exports with a dynamic batch
    folder.mkdir(parents=True, exist_ok=True)
    c = model.config
    ids, mask = torch.randint(5, 90, (2, 11)), torch.ones(2, 11, dtype=torch.int64)
    batch, length = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("length", min=2, max=128)
    _write(
        _Encoder(model),
        (ids, mask),
        folder / ENCODER,
        ["ids", "mask"],
        ["memory_k", "memory_v"],
        {"ids": {0: batch, 1: length}, "mask": {0: batch, 1: length}},
    )
    size = c.width // c.heads
    past = torch.zeros(c.layers, 3, c.heads, 4, size)
    memory = torch.zeros(c.layers, 1, c.heads, 11, size)
    beams, time, source = (
        torch.export.Dim("beams", min=1, max=64),
        torch.export.Dim("time", min=0, max=64),
        torch.export.Dim("source", min=2, max=128),
    )
    arguments = (torch.zeros(3, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), past, past.clone(), memory, memory.clone(), mask[:1])
    shapes = {
        "token": {0: beams}, "position": None, "past_k": {1: beams, 3: time}, "past_v": {1: beams, 3: time}, "memory_k": {3: source},
        "memory_v": {3: source}, "mask": {1: source},
    }  # fmt: skip
    _write(_Step(model), arguments, folder / STEP, list(shapes), ["logp", "next_k", "next_v"], shapes)
    files = [folder / ENCODER, folder / STEP]
    if quantize:
        for file in files:
            _quantize(file)
    return files


def _write(
    module: nn.Module, arguments: tuple[Tensor, ...], file: Path, inputs: list[str], outputs: list[str], shapes: Mapping[str, object]
) -> None:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, arguments, str(file), input_names=inputs, output_names=outputs, dynamic_shapes=tuple(shapes.values()), dynamo=True,
            external_data=False, optimize=True, verbose=False,
        )  # fmt: skip


def _quantize(file: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain = file.with_suffix(".float.onnx")
    file.rename(plain)
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)  # it advises, on the root logger, to prepare the graph, which the exporter has done
    try:
        quantize_dynamic(
            str(plain), str(file), weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul", "Gemm", "Gather"]
        )
    finally:
        log.setLevel(level)
    plain.unlink()
