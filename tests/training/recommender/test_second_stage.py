"""The ranker learns what decides, and nothing where nothing does."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from contracts.errors import ArtifactError
from contracts.tensors import EMBEDDING_DIM, FEATURE_COUNT, PAIR_COUNT
from training import metrics
from training.recommender import second_stage
from training.recommender.candidates import Candidates
from training.recommender.data import DAY_S, Dataset, take_index
from training.recommender.ranker import Ranker, load_ranker, save_ranker
from training.recommender.second_stage import Examples
from training.settings import TrainSettings

DECIDES, LOOKED_AT = 7, 11  # columns of the pair features
N = 20


@pytest.fixture(scope="module")
def quick() -> TrainSettings:
    return TrainSettings.load(
        environ={}, ranker_epochs=12, ranker_batch_size=16, ranker_width=16, ranker_dropout=0.0, ranker_learning_rate=0.01, seed=3
    )


@pytest.fixture(scope="module")
def items() -> np.ndarray:
    found = np.random.default_rng(9).normal(size=(N, EMBEDDING_DIM)).astype(np.float32)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def planted(seed: int, queries: int = 400, shuffled: bool = False, days: float = 40.0) -> Examples:
    """10 to 14 candidates a query: that with the largest value of one feature is redeemed, those above 1 in another one are viewed."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(10, 15, queries)
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    pairs = rng.normal(size=(indptr[-1], PAIR_COUNT)).astype(np.float32)
    redeemed = np.zeros(indptr[-1], bool)
    for begin, end in pairwise(indptr):
        redeemed[begin + (int(rng.integers(end - begin)) if shuffled else int(pairs[begin:end, DECIDES].argmax()))] = True
    rows = np.concatenate([np.sort(rng.choice(N, s, replace=False)) for s in sizes])
    users = rng.normal(size=(queries, EMBEDDING_DIM)).astype(np.float32)
    features = rng.normal(size=(queries, FEATURE_COUNT)).astype(np.float32)
    as_of = np.linspace(0, days * DAY_S, queries)
    return Examples(Candidates(indptr, rows, pairs, redeemed), users, features, as_of, pairs[:, LOOKED_AT] > 1)


def quality(ranker: Ranker, examples: Examples, items: np.ndarray) -> float:
    """Mean NDCG@10."""
    logits = second_stage.logits_of(ranker, examples, items)[..., 0]
    sizes = np.diff(examples.candidates.indptr)
    real = np.arange(logits.shape[1]) < sizes[:, None]
    relevant = np.zeros(logits.shape, bool)
    relevant[real] = examples.candidates.redeemed
    query, rank = metrics.ranks(logits, real, relevant)
    return float(metrics.ndcg(query, rank, len(examples), 10).mean())


@pytest.fixture(scope="module")
def learned(quick: TrainSettings, items: np.ndarray) -> tuple[Ranker, list[dict[str, float]]]:
    return second_stage.fit_ranker(planted(1, 1_200), items, quick)


def test_it_learns_the_feature_that_decides(learned: tuple[Ranker, list[dict[str, float]]], items: np.ndarray) -> None:
    ranker, history = learned
    assert quality(ranker, planted(2), items) > 0.95
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]
    assert not ranker.training


def test_it_learns_nothing_where_nothing_decides(quick: TrainSettings, items: np.ndarray) -> None:
    """Negative control: the best of 12 at random has an NDCG@10 of about 0.4."""
    ranker, history = second_stage.fit_ranker(planted(1, shuffled=True), items, quick)
    assert quality(ranker, planted(2, shuffled=True), items) < 0.5
    assert quality(ranker, planted(2), items) < 0.6
    assert max(h["val_ndcg"] for h in history) < 0.65


def test_the_second_head_learns_views(learned: tuple[Ranker, list[dict[str, float]]], items: np.ndarray) -> None:
    fresh = planted(2)
    logits = second_stage.logits_of(learned[0], fresh, items)
    real = np.arange(logits.shape[1]) < np.diff(fresh.candidates.indptr)[:, None]
    view = logits[..., second_stage.VIEW][real]
    assert view[fresh.viewed].mean() > view[~fresh.viewed].mean() + 1
    unseen = second_stage.logits_of(learned[0], fresh, items)[..., second_stage.REDEEM][real]
    assert abs(np.corrcoef(unseen, fresh.viewed)[0, 1]) < 0.3  # the control: the other head does not say it


def test_the_same_seed_gives_the_same_weights(quick: TrainSettings, items: np.ndarray) -> None:
    short = TrainSettings.load(environ={}, **{**quick.public(), "ranker_epochs": 2, "ranker_dropout": 0.2})
    other = TrainSettings.load(environ={}, **{**short.public(), "seed": 4})
    examples = planted(1, 80)
    first, again, different = (second_stage.fit_ranker(examples, items, s)[0].state_dict() for s in (short, short, other))
    for name, value in first.items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=0)
    assert any(not torch.equal(different[name], value) for name, value in first.items())


def test_it_ends_at_the_next_step_when_it_is_asked_to(quick: TrainSettings, items: np.ndarray) -> None:
    stop, told = threading.Event(), list[tuple[int, int, float]]()

    def report(*said: Any) -> None:
        told.append(said)
        stop.set()

    with pytest.raises(second_stage.Stopped):
        second_stage.fit_ranker(planted(1, 60), items, quick, report, stop)
    assert [t[:2] for t in told] == [(1, 12)]
    with pytest.raises(second_stage.Stopped):
        second_stage.fit_ranker(planted(1, 60), items, quick, report, stop)
    assert len(told) == 1


def test_it_stops_when_it_gets_no_better_and_keeps_the_best(items: np.ndarray) -> None:
    patient = TrainSettings.load(environ={}, ranker_epochs=40, ranker_patience=2, ranker_width=16, ranker_batch_size=16, seed=3)
    ranker, history = second_stage.fit_ranker(planted(1, 100, shuffled=True), items, patient)
    values = [h["val_ndcg"] for h in history]
    assert len(values) < 40
    assert int(np.argmax(values)) == len(values) - 3
    held = np.arange(85, 100)  # the latest 15 %
    part = second_stage.logits_of(ranker, planted(1, 100, shuffled=True), items, held)
    assert part.shape[0] == 15


@pytest.mark.parametrize("steps", [1, 9, 10, 11])
def test_any_number_of_steps_can_be_scheduled(items: np.ndarray, steps: int) -> None:
    one_each = TrainSettings.load(environ={}, ranker_epochs=steps, ranker_batch_size=64, ranker_width=16, ranker_patience=99)
    ranker, history = second_stage.fit_ranker(planted(1, 20), items, one_each)
    assert len(history) == steps
    assert all(torch.isfinite(p).all() for p in ranker.parameters())


@pytest.mark.parametrize(("queries", "days"), [(3, 40.0), (60, 0.5)])
def test_a_handful_of_queries_or_a_single_day_can_be_learned_from(
    quick: TrainSettings, items: np.ndarray, queries: int, days: float
) -> None:
    ranker, history = second_stage.fit_ranker(planted(1, queries, days=days), items, quick)
    assert all(0 <= h["val_ndcg"] <= 1 for h in history)
    assert history
    assert all(torch.isfinite(p).all() for p in ranker.parameters())


def test_queries_without_an_answer_and_histories_without_views_are_learned_around(quick: TrainSettings, items: np.ndarray) -> None:
    examples = planted(1, 60)
    c = examples.candidates
    none = replace(examples, candidates=replace(c, redeemed=np.zeros_like(c.redeemed)), viewed=np.zeros_like(examples.viewed))
    ranker, history = second_stage.fit_ranker(none, items, quick)
    assert {h["val_ndcg"] for h in history} == {0.0}
    assert all(torch.isfinite(p).all() for p in ranker.parameters())
    examples = planted(1)
    c = examples.candidates
    half = replace(examples, candidates=replace(c, redeemed=c.redeemed & (c.query() % 2 == 0)))
    assert quality(second_stage.fit_ranker(half, items, quick)[0], planted(2), items) > 0.7


def test_logits_do_not_depend_on_who_else_is_in_the_batch(learned: tuple[Ranker, list[dict[str, float]]], items: np.ndarray) -> None:
    examples = planted(2, 30)
    whole = second_stage.logits_of(learned[0], examples, items)
    single = second_stage.logits_of(learned[0], examples, items, size=1)
    np.testing.assert_allclose(single, whole, atol=1e-5)
    index = np.array([7, 3])
    some = second_stage.logits_of(learned[0], examples, items, index)
    np.testing.assert_allclose(some, whole[index][:, : some.shape[1]], atol=1e-5)
    for row, size in zip(whole, np.diff(examples.candidates.indptr), strict=True):
        assert row[:size].all()
        assert not row[size:].any()


def test_a_ranker_survives_its_files_and_a_damaged_one_is_refused(learned: tuple[Ranker, Any], items: np.ndarray, tmp_path: Any) -> None:
    save_ranker(learned[0], tmp_path)
    examples = planted(2, 10)
    again = second_stage.logits_of(load_ranker(tmp_path), examples, items)
    np.testing.assert_array_equal(again, second_stage.logits_of(learned[0], examples, items))
    for name, content in (
        ("ranker.json", b'{"width": 8}'),
        ("ranker.json", b"{"),
        ("ranker.pt", b"x"),
        ("ranker.pt", b""),
        ("ranker.json", b'{"wide": 1}'),
    ):
        save_ranker(learned[0], tmp_path)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ArtifactError, match="cannot read the ranker"):
            load_ranker(tmp_path)


# --- views ---


def test_a_view_counts_within_a_week_of_the_query_by_the_same_customer(dataset: Dataset) -> None:
    names = dataset.log.customers["customer_id"].to_pylist()
    now = 1_000 * DAY_S
    queries = replace(
        take_index(dataset.validation, np.arange(4)), customer=np.array([2, 5, -1, 2]), as_of=np.array([now, now, now, 2 * now])
    )
    rows = np.array([0, 1, 2, 3, 4, 0, 1, 0, 1, 0, 1, 4])
    candidates = Candidates(np.array([0, 5, 7, 9, 12]), rows, np.zeros((12, PAIR_COUNT), np.float32), np.zeros(12, bool))
    seen = [
        (2, 0, now), (2, 1, now - 1), (2, 2, now + 7 * DAY_S), (2, 3, now + 7 * DAY_S - 1), (2, 9, now + 5), (5, 1, now + 5),
        (2, 4, 2 * now + DAY_S),
    ]  # fmt: skip
    table = pa.Table.from_pylist([{"business_id": "biz-1", "customer_id": names[c], "time": t, "item": i} for c, i, t in reversed(seen)])
    stranger = pa.Table.from_pylist([{"business_id": "biz-1", "customer_id": "nobody", "time": now + 9.0, "item": 0}])
    found = second_stage.viewed_after(pa.concat_tables([stranger, table]), queries, candidates)
    assert np.flatnonzero(found).tolist() == [0, 3, 6, 11]
    assert not second_stage.viewed_after(stranger, queries, candidates).any()
    assert np.flatnonzero(second_stage.viewed_after(table, queries, candidates, days=8.0)).tolist() == [0, 2, 3, 6, 11]
    examples = Examples(candidates, np.zeros((4, 64), np.float32), queries.rows.features, queries.as_of, np.zeros(12, bool))
    assert second_stage.with_views(examples, table, queries).viewed.sum() == 4
    assert second_stage.with_views(examples, table.slice(0, 0), queries) is examples


def test_views_are_read_from_the_events(connection: Any, dataset: Dataset) -> None:
    found = second_stage.load_views(connection, dataset.catalogue)
    assert found.num_rows == connection.execute("SELECT count(*) FROM events WHERE event_type = 'offer_viewed'").fetchall()[0][0]
    assert set(found["item"].to_pylist()) <= set(range(len(dataset.catalogue)))
    few = replace(dataset.catalogue, table=dataset.catalogue.table.slice(0, 2), business=dataset.catalogue.business[:2])
    assert set(second_stage.load_views(connection, few)["item"].to_pylist()) == {0, 1}
