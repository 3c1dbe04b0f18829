"""Queries: cut by time, blind to the future, the same after a save."""

from __future__ import annotations

from datetime import timedelta

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from contracts.errors import ArtifactError
from contracts.tables import EVENTS, REWARDS, TABLES, TIMESTAMP
from features import asof
from features.definitions import KIND_CODES
from features.state import CustomerState, finalize
from training.recommender import data
from training.settings import TrainSettings


def shop(events: pa.Table, rewards: pa.Table) -> duckdb.DuckDBPyConnection:
    """A connection with the warehouse's tables."""
    connection = duckdb.connect(config={"threads": 1})
    for name, table in TABLES.items():
        connection.register("rows", {"events": events, "rewards": rewards}.get(name, table.schema.empty_table()))
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM rows")  # noqa: S608 - our own names
        connection.unregister("rows")
    return connection


def test_slices_follow_each_other_in_time(dataset: data.Dataset, settings: TrainSettings) -> None:
    lead = settings.lead_s
    assert dataset.train.as_of.max() + lead < dataset.cuts.validation_from[0] <= dataset.validation.as_of.min() + lead + 1e-6
    assert dataset.validation.as_of.max() + lead < dataset.cuts.test_from[0] <= dataset.test.as_of.min() + lead + 1e-6
    counts = [len(q.items) for q in (dataset.train, dataset.validation, dataset.test)]
    assert 0.75 < counts[0] / sum(counts) < 0.85


def test_simultaneous_redemptions_are_one_query(dataset: data.Dataset) -> None:
    every = [dataset.train, dataset.validation, dataset.test]
    assert sum(len(q.items) for q in every) == len(dataset.log.item)
    assert any((np.diff(q.indptr) > 1).any() for q in every)
    key = dataset.train.customer * 1e12 + dataset.train.as_of
    assert len(np.unique(key)) == len(key)


def test_no_query_sees_its_own_redemption_or_a_later_one(connection: duckdb.DuckDBPyConnection, dataset: data.Dataset) -> None:
    """The last redemption inside each sequence is the customer's redemption before the query; the control looks a minute later."""
    log, queries = dataset.log, dataset.train
    kind = KIND_CODES["redemption"]

    def redemptions_seen(rows: asof.AsofRows) -> np.ndarray:
        return (rows.sequence_ids[:, :, 1] == kind).sum(axis=1)

    def before(moment: np.ndarray) -> np.ndarray:
        return np.array([((log.customer == c) & (log.time < t)).sum() for c, t in zip(queries.customer, moment, strict=True)])

    short = before(queries.as_of) * 2 < 45  # the whole history fits into the sequence
    assert short.sum() > 10
    assert (redemptions_seen(queries.rows)[short] == before(queries.as_of)[short]).all()
    late = asof.rows(connection, data.examples_table(log.customers, queries.customer, queries.as_of + 120.0), dataset.vocabulary)
    assert (redemptions_seen(late)[short] > before(queries.as_of)[short]).all()


def test_later_events_change_no_training_query(
    settings: TrainSettings, dataset: data.Dataset, connection: duckdb.DuckDBPyConnection
) -> None:
    """Add a flood of events after the train cut-off: tokens, inputs and answers of the training slice stay."""
    events = connection.sql("SELECT * FROM events").to_arrow_table().select(EVENTS.columns).cast(EVENTS.schema)
    rewards = connection.sql("SELECT * FROM rewards").to_arrow_table().select(REWARDS.columns).cast(REWARDS.schema)
    stamp = np.datetime64(int(dataset.cuts.validation_from[0] * 1e6), "us").astype(object)
    flood = [
        {"event_id": f"x{i}", "business_id": "biz-1", "customer_id": f"c{i % 60:02d}", "event_type": "offer_viewed",
         "reward_id": f"rew-{i % 12:02d}", "occurred_at": stamp + timedelta(seconds=i)}
        for i in range(1, 300)
    ]  # fmt: skip
    more = shop(pa.concat_tables([events, pa.Table.from_pylist(flood, schema=EVENTS.schema)]), rewards)
    again = data.build(more, data.load_catalogue(more), dataset.catalogue.text_vectors, settings)
    assert again.vocabulary.tokens == dataset.vocabulary.tokens
    for name in ("features", "sequence_ids", "sequence_values"):
        np.testing.assert_array_equal(getattr(again.train.rows, name), getattr(dataset.train.rows, name))
    np.testing.assert_array_equal(again.train.items, dataset.train.items)
    assert not np.array_equal(again.test.rows.sequence_ids, dataset.test.rows.sequence_ids)  # the control: later ones do change


def test_rewards_first_seen_after_the_cut_are_unknown(dataset: data.Dataset) -> None:
    names = dataset.catalogue.table["reward_id"].to_pylist()
    first = {i: dataset.log.time[dataset.log.item == i].min() for i in np.unique(dataset.log.item)}
    for i, name in enumerate(names):
        known = first.get(i, np.inf) < dataset.cuts.validation_from[0]
        assert (f"r:{name}" in dataset.vocabulary.tokens) == known
        assert (dataset.catalogue.item_ids[i, 0] != 1) == known


def test_candidates_are_valid_and_single_use_rewards_are_not_offered_again(dataset: data.Dataset) -> None:
    q = dataset.train
    candidates = q.candidates(dataset.catalogue, np.arange(len(q)))
    early = q.as_of < dataset.catalogue.valid_from[10]
    assert not candidates[early, 10].any()
    assert candidates[~early, 10].all()
    names = dataset.log.customers["customer_id"].to_pylist()
    had = (q.customer == names.index("c01")) & (q.as_of > dataset.log.time[dataset.log.item == 11][0])
    assert had.any()
    assert not candidates[had, 11].any()
    assert candidates[~had, 11].all()


def test_another_business_is_no_candidate() -> None:
    rewards = pa.Table.from_pylist(
        [{"reward_id": f"r{b}", "business_id": f"b{b}", "name": "x", "reward_type": "discount"} for b in range(2)], schema=REWARDS.schema
    )
    rng = np.random.default_rng(0)
    start = np.datetime64("2025-01-01", "us")
    rows = [
        {"event_id": f"e{i}", "business_id": f"b{i % 2}", "customer_id": "same", "event_type": "redemption", "reward_id": f"r{i % 2}",
         "occurred_at": (start + np.timedelta64(int(rng.integers(1, 8_640_000)) + 86_400_000 * (i % 2), "s")).astype(object)}
        for i in range(60)
    ]  # fmt: skip
    connection = shop(pa.Table.from_pylist(rows, schema=EVENTS.schema), rewards)
    found = data.build(connection, data.load_catalogue(connection), np.zeros((2, 384)), TrainSettings.load(environ={}))
    assert len(found.log.customers) == 2
    assert found.cuts.test_from[1] - found.cuts.test_from[0] > 500 * data.DAY_S
    assert found.test.candidates(found.catalogue, np.arange(len(found.test))).sum(axis=1).tolist() == [1] * len(found.test)
    assert set(found.test.business) == {0, 1}
    assert "r:r1" in found.vocabulary.tokens


def test_choose_keeps_the_latest_and_spaces_evenly() -> None:
    customer = np.repeat([0, 1, 2], [10, 3, 40])
    kept = data.choose(np.arange(53), customer, 1_000, 5, np.random.default_rng(0))
    assert np.bincount(customer[kept]).tolist() == [5, 3, 5]
    assert {9, 12, 52} <= set(kept.tolist())
    assert len(data.choose(np.arange(53), customer, 7, 5, np.random.default_rng(0))) == 7


def test_padded_samples_without_repeats() -> None:
    indptr, items = np.array([0, 5, 5, 7]), np.arange(7)
    assert data.padded(indptr, items, np.array([2, 1])).tolist() == [[5, 6], [-1, -1]]
    few = data.padded(indptr, items, np.array([0]), 3, np.random.default_rng(0))[0]
    assert len(set(few.tolist())) == 3


def test_loader_gives_every_query_once_and_goes_on_where_it_was(dataset: data.Dataset) -> None:
    loader = data.BatchLoader(dataset.train, 50, seed=3, shuffle=True)
    loader.set_epoch(1)
    whole = [b["index"].tolist() for b in loader]
    assert sorted(i for b in whole for i in b) == list(range(len(dataset.train)))
    assert whole != [b["index"].tolist() for b in data.BatchLoader(dataset.train, 50, seed=3, shuffle=True)]
    first = iter(loader)
    next(first)
    other = data.BatchLoader(dataset.train, 50, seed=3, shuffle=True)
    other.set_epoch(1)
    other.load_state_dict(loader.state_dict())
    assert [b["index"].tolist() for b in other] == whole[1:]
    assert [b["index"].tolist() for b in other] == whole  # the skip counts once


def test_processes_share_the_queries(dataset: data.Dataset) -> None:
    parts = [data.BatchLoader(dataset.validation, 50, rank=r, world=2) for r in range(2)]
    seen = [i for p in parts for b in p for i in b["index"].tolist()]
    assert sorted(seen) == list(range(len(dataset.validation)))
    train = [data.BatchLoader(dataset.train, 50, shuffle=True, rank=r, world=2) for r in range(2)]
    assert len(list(train[0])) == len(list(train[1])) == len(train[0])


def test_a_warehouse_without_rewards_or_redemptions_is_refused(settings: TrainSettings, dataset: data.Dataset) -> None:
    empty = shop(EVENTS.schema.empty_table(), REWARDS.schema.empty_table())
    with pytest.raises(ArtifactError, match="0 rewards"):
        data.load_catalogue(empty)
    with pytest.raises(ArtifactError, match="at least 10"):
        data.load_log(empty, dataset.catalogue.table)
    with pytest.raises(ArtifactError, match="one each"):
        data.build_catalogue(dataset.catalogue.table, dataset.vocabulary, np.zeros((3, 384)))


def test_a_history_of_one_moment_cannot_be_cut(settings: TrainSettings, dataset: data.Dataset) -> None:
    moment = np.datetime64("2025-01-01", "us").astype(object)
    rows = [
        {
            "event_id": f"e{i}",
            "business_id": "biz-1",
            "customer_id": f"c{i}",
            "event_type": "redemption",
            "reward_id": "rew-01",
            "occurred_at": moment,
        }
        for i in range(20)
    ]
    connection = shop(pa.Table.from_pylist(rows, schema=EVENTS.schema), dataset.catalogue.table)
    with pytest.raises(ArtifactError, match="slice holds 0"):
        data.build(connection, data.load_catalogue(connection), dataset.catalogue.text_vectors, settings)


def test_examples_keep_microseconds(dataset: data.Dataset) -> None:
    table = data.examples_table(dataset.log.customers, np.array([0]), np.array([1_700_000_000.123456]))
    assert table["as_of"].cast(TIMESTAMP).cast(pa.int64()).to_pylist() == [1_700_000_000_123_456]


def test_some_queries_come_once_more_as_of_somebody_unknown(dataset: data.Dataset) -> None:
    """At the end: their touches, history and features are hidden; the moment, the answers and what was used up stay."""
    queries = dataset.validation
    count = len(queries)
    before = queries.rows.features.copy()
    queries.rows.features[:, data.DEMOGRAPHIC_COLUMNS] = 0.7  # so that there is something to hide
    try:
        whole = data.with_unknown(queries, 0.5, 3)
        cold = np.arange(count, len(whole))
        assert 0.3 * count < len(cold) < 0.7 * count
        assert (whole.customer[cold] == -1).all()
        np.testing.assert_array_equal(whole.customer[:count], queries.customer)
        for name in ("features", "sequence_ids", "sequence_values"):
            np.testing.assert_array_equal(getattr(whole.rows, name)[:count], getattr(queries.rows, name))
        assert not whole.rows.sequence_ids[cold].any()
        assert not whole.rows.sequence_values[cold].any()
        nobody = finalize([CustomerState()] * len(cold), whole.as_of[cold])
        shown, columns = whole.rows.features[cold], data.DEMOGRAPHIC_COLUMNS
        np.testing.assert_array_equal(shown[1::2], nobody[1::2])
        np.testing.assert_allclose(shown[::2, columns], 0.7)
        np.testing.assert_array_equal(np.delete(shown[::2], np.r_[columns], axis=1), np.delete(nobody[::2], np.r_[columns], axis=1))
        np.testing.assert_allclose(queries.rows.features[:, columns], 0.7)  # what was given is not written to
        asked = np.array([np.flatnonzero(queries.as_of == t)[0] for t in whole.as_of[cold]])
        for name in ("items", "seen"):
            both = [data.padded(getattr(q, "indptr" if name == "items" else "seen_indptr"), getattr(q, name), i)
                    for q, i in ((whole, cold), (queries, asked))]  # fmt: skip
            np.testing.assert_array_equal(*both)
        np.testing.assert_array_equal(data.with_unknown(queries, 0.5, 3).as_of, whole.as_of)
        assert not np.array_equal(data.with_unknown(queries, 0.5, 4).as_of, whole.as_of)
        assert len(data.with_unknown(queries, 0.0, 3)) == count
    finally:
        queries.rows.features[:] = before
