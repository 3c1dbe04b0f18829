"""ray_apps/deployments/vectors.py: a vector is used again only while nothing it depends on has changed."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import ConfigError, ShapeError
from features.definitions import KIND_CODES, Touch
from features.state import CustomerState, state_at
from ray_apps.deployments.vectors import Facts, Key, VectorCache, facts_of
from ray_apps.metrics import Metrics
from ray_apps.settings import ServeSettings
from ray_apps.tuning import SimilarSettings, VectorSettings

KEY = Key("b", "c", "7")
NOW = datetime(2026, 11, 20, 9, 59, 58, tzinfo=UTC).timestamp()
BASE = CustomerState(watermark=40)
VECTOR = np.full((1, 4), 0.5, dtype=np.float32)


def touch(kind: str, at: float) -> Touch:
    return Touch(at, KIND_CODES[kind], "r:x", 0.0)


def facts(touches: list[Touch] | None = None, newest: int = 0, now: float = NOW, base: CustomerState = BASE) -> Facts:
    return facts_of(state_at(base, touches or [], now), newest, now)


def cache(ttl_s: float = 60.0, entries: int = 100, clock: object = None, metrics: Metrics | None = None) -> VectorCache:
    return VectorCache(VectorSettings(ttl_s=ttl_s, entries=entries), metrics, clock or (lambda: 0.0))  # type: ignore[arg-type]


def test_the_same_facts_give_the_same_vector_which_nobody_can_change() -> None:
    held, given_in = cache(), VECTOR.copy()
    held.put(KEY, facts(), given_in)
    given_in[:] = 9.0
    found = held.get(KEY, facts(now=NOW + 1))
    assert found is not None
    assert np.array_equal(found, VECTOR)
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0] = 1.0


@pytest.mark.parametrize("kind", ["app_open", "reward_dismissed", "redemption", "purchase"])
def test_any_new_act_makes_it_stale_at_once(kind: str) -> None:
    held = cache()
    held.put(KEY, facts([touch("app_open", NOW - 100)], 41), VECTOR)
    assert held.get(KEY, facts([touch("app_open", NOW - 100)], 41)) is not None
    assert held.get(KEY, facts([touch("app_open", NOW - 100), touch(kind, NOW - 1)], 42)) is None
    assert held.get(KEY, facts([touch("app_open", NOW - 100)], 41)) is None, "what was stale does not come back"


def test_an_act_committed_late_or_under_the_same_number_makes_it_stale() -> None:
    one = [touch("app_open", NOW - 100)]
    for later in ([*one, touch("app_open", NOW - 500)], [touch("app_open", NOW - 99)]):
        held = cache()
        held.put(KEY, facts(one, 41), VECTOR)
        assert held.get(KEY, facts(later, 41)) is None


def test_a_landing_makes_it_stale() -> None:
    held = cache()
    held.put(KEY, facts(newest=41), VECTOR)
    assert held.get(KEY, facts(base=CustomerState(watermark=41))) is None


def test_an_act_whose_time_has_come_makes_it_stale() -> None:
    held, base = cache(), CustomerState(pending=[touch("redemption", NOW + 5)])
    held.put(KEY, facts(base=base), VECTOR)
    assert held.get(KEY, facts(base=base, now=NOW + 4)) is not None
    assert held.get(KEY, facts(base=base, now=NOW + 6)) is None


def test_another_model_version_business_or_customer_has_its_own() -> None:
    held = cache()
    held.put(KEY, facts(), VECTOR)
    for other in (Key("b", "c", "8"), Key("x", "c", "7"), Key("b", "x", "7")):
        assert held.get(other, facts()) is None
    assert held.get(KEY, facts()) is not None


@pytest.mark.parametrize(
    ("when", "same"),
    [
        ((2026, 11, 20, 11, 59), True),
        ((2026, 11, 20, 12, 0), False),  # another part of the day
        ((2026, 11, 21, 9, 59), False),  # another weekday
        ((2026, 11, 27, 9, 59), True),  # nothing but the age, which the time to live bounds
        ((2027, 1, 1, 9, 59), False),  # a Friday too, of another month
    ],
)
def test_the_context_is_part_of_the_day_weekday_and_month(when: tuple[int, ...], same: bool) -> None:
    held = cache()
    state = state_at(BASE, [], NOW)
    held.put(KEY, facts_of(state, 0, NOW), VECTOR)
    assert (held.get(KEY, facts_of(state, 0, datetime(*when, tzinfo=UTC).timestamp())) is not None) == same  # type: ignore[arg-type]


def test_it_expires() -> None:
    now = SimpleNamespace(s=1000.0)
    held = cache(ttl_s=60, clock=lambda: now.s)
    held.put(KEY, facts(), VECTOR)
    now.s += 59.9
    assert held.get(KEY, facts()) is not None
    now.s += 0.1
    assert held.get(KEY, facts()) is None


def test_zero_turns_it_off() -> None:
    held = cache(ttl_s=0)
    held.put(KEY, facts(), VECTOR)
    assert held.get(KEY, facts()) is None
    assert len(held) == 0


def test_the_one_not_used_for_longest_makes_room() -> None:
    held = cache(entries=2)
    a, b, c = (Key("b", name, "7") for name in "abc")
    held.put(a, facts(), VECTOR)
    held.put(b, facts(), VECTOR)
    held.get(a, facts())
    held.put(c, facts(), VECTOR)
    assert [held.get(k, facts()) is not None for k in (a, b, c)] == [True, False, True]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.booleans()), max_size=60))
def test_a_hit_is_always_the_vector_of_these_facts(acts: list[tuple[int, int, bool]]) -> None:
    held = cache(entries=4)
    for customer, newest, put in acts:
        key, known = Key("b", str(customer), "7"), facts(newest=newest)
        if put:
            held.put(key, known, np.full((1, 2), customer * 10 + newest, dtype=np.float32))
        else:
            found = held.get(key, known)
            assert found is None or found[0, 0] == customer * 10 + newest
        assert len(held) <= 4


def test_forgetting_a_customer_and_everything() -> None:
    held = cache()
    for key in (KEY, KEY._replace(model_version="8"), KEY._replace(customer_id="d")):
        held.put(key, facts(), VECTOR)
    held.forget("b", "c")
    assert len(held) == 1
    held.clear()
    assert len(held) == 0


def test_metrics_tell_hits_from_misses() -> None:
    metrics = Metrics()
    held = cache(metrics=metrics)
    held.get(KEY, facts())
    held.put(KEY, facts(), VECTOR)
    held.get(KEY, facts())
    held.get(KEY, facts(newest=9))
    shown = metrics.render().decode()
    for line in ('{outcome="absent"} 1.0', '{outcome="hit"} 1.0', '{outcome="stale"} 1.0', '{outcome="expired"} 0.0'):
        assert f"regulars_vector_cache_total{line}" in shown
    assert "regulars_vector_cache_entries 0.0" in shown


@pytest.mark.parametrize("vector", [VECTOR[0], VECTOR.astype(np.float64), np.full((1, 4), np.nan, dtype=np.float32), VECTOR.repeat(2, 0)])
def test_what_is_not_a_vector_is_refused(vector: np.ndarray) -> None:
    with pytest.raises(ShapeError, match=r"float32 \(1, D\)"):
        cache().put(KEY, facts(), vector)


def test_settings_of_longer_prefixes_are_known_to_the_serving_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGULARS_SERVE_VECTOR_TTL_S", "5")
    monkeypatch.setenv("REGULARS_SERVE_SIMILAR_BATCH", "8")
    ServeSettings.load()
    assert (VectorSettings.load().ttl_s, SimilarSettings.load().batch) == (5.0, 8)
    monkeypatch.setenv("REGULARS_SERVE_VECTOR_TTL", "5")
    with pytest.raises(ConfigError, match="TTL_S"):
        VectorSettings.load()
