"""The trained network of products as ONNX, checked against torch on real pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from contracts.errors import ArtifactError
from contracts.products import NAME, product_spec
from contracts.tensors import ModelSpec, difference
from training.export import onnx
from vision.model import ProductNet

TOLERANCE = 1e-3
"""Relative, as contracts.tensors.difference has it: sums of a thousand float32 products in another order."""


def spec_of(model: ProductNet) -> ModelSpec:
    """The tensors of a network."""
    config = model.config
    return product_spec(config.size, len(config.parents), config.coarse, config.dim, model.grid())


def export(model: ProductNet, folder: Path, pictures: np.ndarray) -> Path:
    """Write `product_classifier.onnx`.

    Args:
        model: on the CPU.
        pictures: uint8 (B, S, S, 3), on which both must agree.

    Raises:
        ArtifactError: they do not.
    """
    from vision.products import LocalNetwork

    spec = spec_of(model.eval())
    folder.mkdir(parents=True, exist_ok=True)
    path = onnx.export(model, spec, folder / f"{NAME}.onnx")
    check(LocalNetwork(folder).infer(pictures), onnx.run_torch(model, spec, {"pixels": pictures}))
    return path


def check(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Raise ArtifactError unless two answers agree; the likeliest classes may change places where they tie."""
    gaps = {name: difference(found[name], value) for name, value in expected.items() if name not in ("top", "maps")}
    if (found["top"] == expected["top"]).all():
        gaps["maps"] = difference(found["maps"], expected["maps"])
    bad = {name: gap for name, gap in gaps.items() if not gap <= TOLERANCE}
    if bad:
        raise ArtifactError(
            f"the exported network differs from torch's by {bad}, at most {TOLERANCE} is allowed. Export it with another size"
        )
