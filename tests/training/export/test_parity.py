"""torch, ONNX Runtime and a real Triton agree on the golden rows; and the check can fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.bundle import BUNDLES
from contracts.errors import ArtifactError, ShapeError
from contracts.tensors import ITEM_TOWER, MODELS, SEQUENCE, USER_TOWER, ModelSpec
from serving import repository
from serving.client import BlockingTritonClient
from serving.triton import CHECKOUT, TritonServer, TritonSettings, golden_probe
from training.export import parity
from training.export.bundle import golden_reference, golden_rows, read_golden

SPECS = pytest.mark.parametrize(
    ("name", "spec"),
    [(b.name, s) for b in BUNDLES.values() for s in b.models.values()],
    ids=[s for b in BUNDLES.values() for s in b.models],
)


@pytest.fixture(scope="module")
def served(bundles, tmp_path_factory) -> Iterator[BlockingTritonClient]:
    """A client of a Triton that serves both bundles, each in its own version."""
    if not (CHECKOUT / ".triton" / "bin" / "python").exists():
        pytest.skip("no model server in .triton: make setup")
    folder: Path = tmp_path_factory.mktemp("triton")
    for bundle in bundles.values():
        repository.build(bundle.path, folder / "repository")
    probes = [golden_probe(bundle.path) for bundle in bundles.values()]

    def probe(client: BlockingTritonClient) -> None:
        for one in probes:
            one(client)

    server = TritonServer(TritonSettings.load(start_timeout_s=90), folder / "repository", folder / "run", probe)
    try:
        with BlockingTritonClient(server.start().url, 30.0) as client:
            yield client
    finally:
        server.stop()


@SPECS
def test_onnx_gives_what_torch_gives(name, spec, bundles):
    hop = next(h for h in bundles[name].hops if h.model == spec.name)
    assert hop.ok
    assert hop.rows == parity.GOLDEN_ROWS
    assert hop.max_difference < hop.tolerance / 4, "float32 rounding, well below what is allowed"


@SPECS
def test_triton_gives_what_torch_gives(name, spec, bundles, served):
    golden, version = read_golden(bundles[name].path), bundles[name].version

    def triton(inputs):
        return served.infer(spec, inputs, version)

    hop = parity.compare(spec, "torch → triton", golden_reference(spec, golden), triton, golden_rows(spec, golden))
    assert hop.ok, hop
    assert hop.max_difference < hop.tolerance / 4


@SPECS
def test_one_nudged_weight_fails_every_hop(name, spec, bundles, runs, served):
    bundle = bundles[name]
    golden, module = read_golden(bundle.path), runs[name].served()[spec.name][1]
    wrong = parity.torch_run(parity.nudged(module, runs[name].nudge_within), spec)
    for candidate in (parity.onnx_run(bundle.path / f"{spec.name}.onnx"), lambda i: served.infer(spec, i, bundle.version)):
        hop = parity.compare(spec, "nudged", wrong, candidate, golden_rows(spec, golden))
        assert not hop.ok
        with pytest.raises(ArtifactError, match=r"parity failed.*nudged"):
            parity.require([hop])


@SPECS
def test_a_control_that_sees_nothing_is_refused(name, spec, bundles, runs):
    """With a tolerance that lets everything pass, the check proves nothing and says so."""
    module, inputs = runs[name].served()[spec.name][1], golden_rows(spec, read_golden(bundles[name].path))
    with pytest.raises(ArtifactError, match="cannot see a wrong model"):
        parity.negative_control(spec, module, parity.torch_run(module, spec), inputs, 10.0, runs[name].nudge_within)


@pytest.mark.parametrize(
    ("tensor", "off", "ok"), [("churn", 0.9e-4, True), ("churn", 1.2e-4, False), ("spend", 4.5e-4, True), ("spend", 6e-4, False)]
)
def test_probabilities_and_money_have_tolerances_of_their_own(tensor, off, ok):
    """Probabilities in absolute terms, money in proportion to the row's largest amount."""
    size = 300.0 if tensor == "spend" else 1.0
    right = {t.name: np.full((4, *t.shape), size if t.name == tensor else 0.0, np.float32) for t in SEQUENCE.outputs}
    wrong = right | {tensor: right[tensor] * np.float32(1 + off)}
    inputs = {t.name: np.zeros((4, *t.shape), np.float32) for t in SEQUENCE.inputs}
    hop = parity.compare(SEQUENCE, "x", lambda i: right, lambda i: {k: v[: len(i["weeks"])] for k, v in wrong.items()}, inputs)
    assert (hop.tensor, hop.ok) == (tensor, ok)


def test_no_batch_is_larger_than_the_model_takes():
    small = ModelSpec("small", ITEM_TOWER.inputs, ITEM_TOWER.outputs, 5)
    seen = set()

    def zeros(part):
        seen.add(len(part["item_ids"]))
        return {"item_vector": np.zeros((len(part["item_ids"]), 64), np.float32)}

    parity.compare(
        small, "x", lambda i: {"item_vector": np.zeros((parity.GOLDEN_ROWS, 64), np.float32)}, zeros, parity.golden_inputs(small)
    )
    assert max(seen) == 5


def test_nudged_leaves_the_model_itself_alone(two_tower):
    before = {k: v.clone() for k, v in two_tower.user.state_dict().items()}
    other = parity.nudged(two_tower.user).state_dict()
    assert all((two_tower.user.state_dict()[k] == v).all() for k, v in before.items())
    assert sum(int((other[k] != v).sum()) for k, v in before.items()) == 1


def test_an_answer_that_is_not_finite_is_infinitely_wrong():
    inputs = parity.golden_inputs(ITEM_TOWER)
    rows = parity.GOLDEN_ROWS

    def zeros(part):
        return {"item_vector": np.zeros((len(part["item_ids"]), 64), np.float32)}

    def nans(part):
        return {"item_vector": np.full((len(part["item_ids"]), 64), np.nan, np.float32)}

    hop = parity.compare(ITEM_TOWER, "zeros → nans", zeros, nans, inputs)
    assert hop.max_difference == float("inf")
    assert not hop.ok
    assert hop.as_dict()["rows"] == rows


def test_an_answer_of_another_shape_is_refused():
    def short(part):
        return {"user_vector": np.zeros((len(part["features"]), 63), np.float32)}

    def full(part):
        return {"user_vector": np.zeros((len(part["features"]), 64), np.float32)}

    with pytest.raises(ShapeError, match="user_vector"):
        parity.compare(USER_TOWER, "x", full, short, parity.golden_inputs(USER_TOWER))


def test_a_file_that_is_not_onnx_is_refused(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"no")
    with pytest.raises(ArtifactError, match="cannot load"):
        parity.onnx_run(tmp_path / "x.onnx")


@given(seed=st.integers(0, 2**32 - 1), vocabulary=st.integers(3, 5000), kinds=st.integers(2, 30))
@settings(max_examples=15, deadline=None)
def test_golden_inputs_cover_padding_and_extremes_and_stay_in_range(seed, vocabulary, kinds):
    limits = {"sequence_ids": (vocabulary, kinds), "item_ids": (vocabulary, vocabulary)}
    for spec in MODELS.values():
        inputs = parity.golden_inputs(spec, limits, seed=seed)
        for tensor in spec.inputs:
            tensor.check(inputs[tensor.name])
            assert not inputs[tensor.name][0].any(), "row 0 is all padding"
            if tensor.dtype == "int64":
                assert (inputs[tensor.name] < np.asarray(limits[tensor.name])).all()
                assert (inputs[tensor.name] >= 0).all()
                assert (inputs[tensor.name][1] == np.asarray(limits[tensor.name]) - 1).all(), "row 1 has the highest ids"
            else:
                assert inputs[tensor.name][1].max() == np.float32(parity.EXTREMES.get(tensor.name, parity.EXTREME))
    real = parity.golden_inputs(USER_TOWER, limits, seed=seed)["sequence_ids"][:, :, 1] > 0
    assert (np.diff(real.astype(int), axis=1) >= 0).all(), "padded in front"
