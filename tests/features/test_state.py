from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import ArtifactError
from contracts.tensors import USER_TOWER
from features.definitions import KIND_COUNT, Touch
from features.state import CustomerState, finalize, fold, pack, state_at, tensors, unpack
from features.vocabulary import Vocabulary

TOUCHES = st.lists(
    st.builds(
        Touch,
        time=st.sampled_from([1e9, 1e9 + 1, 1.2e9, 1.3e9]),
        kind=st.integers(1, KIND_COUNT - 1),
        token=st.sampled_from(["", "r:ä", "r:2", "c:tea"]),
        value=st.floats(-1e4, 1e4),
    ),
    max_size=70,
)
NOW = 1.5e9


def _same(one: CustomerState, other: CustomerState) -> None:
    np.testing.assert_allclose(one.sums, other.sums, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(one.last, other.last)
    np.testing.assert_array_equal(one.purchase_hours, other.purchase_hours)
    np.testing.assert_array_equal(one.demographics, other.demographics)
    for name in ("time", "recent", "redeemed", "dismissed", "touch_count", "watermark", "pending"):
        assert getattr(one, name) == getattr(other, name), name


@settings(max_examples=60, deadline=None)
@given(TOUCHES, st.integers(0, 70), st.randoms(use_true_random=False))
def test_fold_does_not_depend_on_order_or_grouping(touches, cut, random) -> None:
    shuffled = random.sample(touches, len(touches))
    _same(fold(CustomerState(), touches), fold(fold(CustomerState(), shuffled[:cut]), shuffled[cut:]))


@settings(max_examples=60, deadline=None)
@given(TOUCHES, TOUCHES)
def test_unpack_gives_back_what_was_packed(touches, pending) -> None:
    state = fold(CustomerState(watermark=2**40, demographics=np.array([1.0, np.nan, 3, 4, 5])), touches)
    state.pending = sorted(pending)[:50]
    packed = pack(state)
    back = unpack(packed)
    _same(state, back)
    np.testing.assert_array_equal(state.sums, back.sums)
    assert pack(back) == packed


def test_fold_leaves_the_given_state_alone() -> None:
    state = unpack(pack(fold(CustomerState(), [Touch(1e9, 1, "", 0.0)])))
    before = pack(state)
    fold(state, [Touch(1.1e9, 3, "r:x", 1.0), Touch(0.9e9, 17, "c:y", 9.0)])
    assert pack(state) == before


@settings(max_examples=40, deadline=None)
@given(TOUCHES, st.data())
def test_any_damaged_byte_is_noticed(touches, data) -> None:
    packed = bytearray(pack(fold(CustomerState(), touches)))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ArtifactError):
        unpack(bytes(packed))


def test_messages_tell_what_is_wrong_with_stored_bytes() -> None:
    packed = pack(CustomerState())
    with pytest.raises(ArtifactError, match="is not one"):
        unpack(packed[:20])
    with pytest.raises(ArtifactError, match="format 9, this program reads 2"):
        unpack(packed[:4] + b"\x09" + packed[5:])
    with pytest.raises(ArtifactError, match="does not match its checksum"):
        unpack(packed[:-4] + struct.pack("<I", 0))


def test_state_at_counts_only_what_is_strictly_before() -> None:
    touch = Touch(1e9, 3, "r:x", 1.0)
    assert state_at(None, [touch], 1e9).touch_count == 0
    assert state_at(None, [touch], 1e9 + 1e-3).redeemed == {"x": 1}


def test_pending_touches_count_once_their_time_has_come() -> None:
    base = CustomerState(pending=[Touch(1e9, 3, "r:x", 1.0), Touch(2e9, 4, "r:y", 1.0)])
    early, later = state_at(base, [], 1e9), state_at(base, [], 1.5e9)
    assert (early.touch_count, len(early.pending)) == (0, 2)
    assert (later.redeemed, later.dismissed, len(later.pending)) == ({"x": 1}, set(), 1)


def test_a_clock_behind_the_writers_reads_ages_of_zero() -> None:
    state = fold(CustomerState(), [Touch(1e9, 17, "c:tea", 5.0)])
    behind, now = finalize([state], 1e9 - 60), finalize([state], 1e9, 1e9 - 60)
    np.testing.assert_array_equal(behind[:, :30], now[:, :30])


def test_context_time_only_moves_the_context() -> None:
    state = fold(CustomerState(), [Touch(1e9, 17, "c:tea", 5.0)])
    plain, other = finalize([state], NOW), finalize([state], NOW, NOW + 5 * 3600)
    np.testing.assert_array_equal(plain[:, :38], other[:, :38])
    assert not np.array_equal(plain[:, 38:], other[:, 38:])


def test_tensors_meet_the_contract_for_many_and_for_none() -> None:
    vocabulary = Vocabulary(["<pad>", "<unknown>"])
    for states in ([CustomerState(), fold(CustomerState(), [Touch(1e9, 17, "c:tea", 5.0)])], []):
        batch = tensors(states, NOW, vocabulary)
        for spec in USER_TOWER.inputs:
            spec.check(batch[spec.name])
            assert len(batch[spec.name]) == len(states)


def test_rows_of_a_batch_do_not_influence_each_other() -> None:
    one, two = fold(CustomerState(), [Touch(1e9, 3, "r:x", 1.0)]), fold(CustomerState(), [Touch(1.2e9, 17, "", 7.0)])
    both, swapped = finalize([one, two], np.array([NOW, NOW + 9])), finalize([two, one], np.array([NOW + 9, NOW]))
    np.testing.assert_array_equal(both, swapped[::-1])
