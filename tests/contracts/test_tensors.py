"""Tensor specifications."""

from __future__ import annotations

import numpy as np
import pytest

from contracts.errors import ShapeError
from contracts.tensors import MODELS, TensorSpec, difference

ALL = [t for m in MODELS.values() for t in (*m.inputs, *m.outputs)]


@pytest.mark.parametrize("spec", ALL, ids=lambda t: t.name)
def test_the_right_array_passes(spec: TensorSpec) -> None:
    for rows in (0, 1, 3):
        spec.check(np.zeros((rows, *spec.shape), dtype=spec.dtype))


@pytest.mark.parametrize("spec", ALL, ids=lambda t: t.name)
def test_a_wrong_array_is_a_shape_error_that_quotes_both(spec: TensorSpec) -> None:
    wrong = [
        np.zeros((2, *spec.shape), dtype="float64"),
        np.zeros(spec.shape, dtype=spec.dtype),
        np.zeros((2, *spec.shape[:-1], spec.shape[-1] + 1), dtype=spec.dtype),
        np.zeros((2, *spec.shape, 1), dtype=spec.dtype),
    ]
    for array in wrong:
        with pytest.raises(ShapeError, match=f"tensor {spec.name} is {array.dtype} .*must be {spec.dtype}"):
            spec.check(array)


@pytest.mark.parametrize("spec", ALL, ids=lambda t: t.name)
def test_every_dtype_has_a_name_in_triton(spec: TensorSpec) -> None:
    assert spec.triton_dtype in ("FP32", "INT64")


def test_models_are_found_by_their_names() -> None:
    assert all(name == model.name and model.max_batch_size > 0 for name, model in MODELS.items())
    for model in MODELS.values():
        names = [t.name for t in (*model.inputs, *model.outputs)]
        assert len(set(names)) == len(names)


def test_tensors_of_one_name_are_the_same() -> None:
    found: dict[str, TensorSpec] = {}
    for tensor in ALL:
        assert found.setdefault(tensor.name, tensor) == tensor


def test_difference_is_relative_to_logits_and_absolute_for_vectors() -> None:
    assert difference(np.array([[0.5, -0.5]], "f4"), np.array([[0.5, -0.4]], "f4")) == pytest.approx(0.1)
    assert difference(np.array([[101.0, 2.0], [0.0, 0.0]], "f4"), np.array([[100.0, 2.5], [0.0, 0.0]], "f4")) == pytest.approx(0.01)
    assert difference(np.zeros((0, 3)), np.zeros((0, 3))) == 0.0
    for bad in (np.array([[np.nan, 0.0]]), np.array([[np.inf, 0.0]]), np.zeros((1, 3))):
        assert difference(bad, np.zeros((1, 2))) == float("inf")
