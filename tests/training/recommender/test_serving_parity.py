"""What the ranker sees offline, from the warehouse's log, is what it sees online, from a customer's stored state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch

from contracts.tensors import RANKER, USER_TOWER
from embeddings.index import RewardIndex
from embeddings.table import Filter, RewardTable
from features import asof
from features.definitions import KIND_COUNT, event_touch
from features.pairs import COLUMN, GROUP_COLUMNS
from features.state import CustomerState, pack, state_at, tensors, unpack
from ray_apps.deployments import rank
from ray_apps.deployments.explain import Catalogue
from ray_apps.deployments.model import _token_rows
from training.recommender import candidates
from training.recommender.data import DAY_S, Dataset, Queries, queries_at
from training.recommender.evaluate import item_vectors, user_vectors
from training.recommender.model import ModelConfig, TwoTower
from training.recommender.statistics import Statistics

BUSINESS, MOST = "biz-1", 3
PEOPLE = np.array([0, 1, 9, 18, 27, 33, 59])
"""c01 has redeemed the single-use reward; every ninth one the reward that is new."""
States = Callable[[float], list[CustomerState]]


@pytest.fixture(scope="module")
def moment(dataset: Dataset) -> float:
    """In the test slice, some time in the afternoon."""
    return float(dataset.cuts.test_from[0] // DAY_S * DAY_S + 3.6 * DAY_S)


@pytest.fixture(scope="module")
def model(dataset: Dataset) -> TwoTower:
    """Not trained: parity needs no quality."""
    torch.manual_seed(0)
    return TwoTower(ModelConfig(len(dataset.vocabulary), KIND_COUNT, 16, 2)).eval()


@pytest.fixture(scope="module")
def items(dataset: Dataset, model: TwoTower) -> np.ndarray:
    c = dataset.catalogue
    return item_vectors(model, c.item_ids, c.attributes, c.text_vectors)


@pytest.fixture(scope="module")
def statistics(dataset: Dataset) -> Statistics:
    return Statistics(dataset.catalogue, dataset.test.log, dataset.cuts.test_from)


@pytest.fixture(scope="module")
def served(dataset: Dataset, items: np.ndarray, statistics: Statistics, moment: float) -> Any:
    """What a request reads of a `Served`."""
    table = dataset.catalogue.table
    columns = table.append_column("redeemer_share", pa.nulls(table.num_rows, pa.float64())).to_pydict()
    index = RewardIndex(items, RewardTable.from_arrow(table))
    return SimpleNamespace(
        catalogue=Catalogue.build(columns, index.vectors), snapshot=SimpleNamespace(index=index, table=index.table),
        stats=statistics.at(moment), token_rows=_token_rows(dataset.vocabulary, columns),
    )  # fmt: skip


@pytest.fixture(scope="module")
def queries(connection: duckdb.DuckDBPyConnection, dataset: Dataset, moment: float) -> Queries:
    none = np.zeros(len(PEOPLE) + 1, np.int64)
    when = np.full(len(PEOPLE), moment)
    return queries_at(connection, dataset.log, dataset.catalogue, dataset.vocabulary, PEOPLE, when, none, none[:0])


@pytest.fixture(scope="module")
def offline(queries: Queries, dataset: Dataset, model: TwoTower, statistics: Statistics, items: np.ndarray) -> candidates.Candidates:
    """As the ranker is trained."""
    tokens = candidates.token_rows(dataset.catalogue, len(dataset.vocabulary))
    users = user_vectors(model, queries)
    return candidates.collect(queries, dataset.log, dataset.catalogue, statistics, users, items, tokens, MOST)


@pytest.fixture(scope="module")
def states(connection: duckdb.DuckDBPyConnection, dataset: Dataset) -> States:
    def at(as_of: float) -> list[CustomerState]:
        people = dataset.log.customers.take(pa.array(PEOPLE))
        return [state for _, _, state in asof.states(connection, people, as_of)]

    return at


@pytest.fixture(scope="module")
def online(served: Any, dataset: Dataset, model: TwoTower) -> Callable[[CustomerState, float], rank.Candidates]:
    """As a request is answered."""

    def ask(state: CustomerState, now: float) -> rank.Candidates:
        tower = tensors([state], now, dataset.vocabulary)
        with torch.inference_mode():
            vector = model.user(*(torch.from_numpy(tower[t.name]) for t in USER_TOWER.inputs)).numpy()
        rules = Filter(BUSINESS, now, dismissed=state.dismissed, redeemed=state.redeemed)
        return rank.candidates(served, vector, tower, state, rules, now, MOST)

    return ask


def compare(offline: candidates.Candidates, queries: Queries, found: list[rank.Candidates]) -> None:
    for q, mine in enumerate(found):
        part = slice(offline.indptr[q], offline.indptr[q + 1])
        assert mine.rows.tolist() == offline.rows[part].tolist()
        np.testing.assert_allclose(mine.inputs["pair_features"], offline.pairs[part], atol=1e-4)
        np.testing.assert_allclose(mine.features, queries.rows.features[q], atol=1e-4)


def test_both_ways_find_the_same_candidates_and_features(
    offline: candidates.Candidates, queries: Queries, online: Any, states: States, moment: float, dataset: Dataset
) -> None:
    found = [online(state, moment) for state in states(moment)]
    compare(offline, queries, found)
    assert 11 not in found[PEOPLE.tolist().index(1)].rows  # used up
    assert {len(f.rows) for f in found} != {MOST}  # own ones and neighbours came on top
    assert any(len(f.rows) < len(dataset.catalogue) for f in found)
    for name, columns in GROUP_COLUMNS.items():  # nothing is the same because it is nothing
        assert np.concatenate([f.inputs["pair_features"] for f in found])[:, columns].any() or name == "price"


@pytest.mark.parametrize("days", [0.0, 0.2, 2.0, 9.0])
def test_a_stored_state_is_brought_to_the_moment(
    offline: candidates.Candidates, queries: Queries, online: Any, states: States, moment: float, days: float
) -> None:
    """Written some days before, packed, and folded with what has come since."""
    before = states(moment - days * DAY_S)
    assert not days or any(s.pending for s in before)
    compare(offline, queries, [online(state_at(unpack(pack(s)), [], moment), moment) for s in before])


def test_a_redemption_more_is_seen(offline: candidates.Candidates, queries: Queries, online: Any, states: States, moment: float) -> None:
    """Negative control: one touch that the warehouse does not hold, or a day more, is another answer."""
    state = states(moment)[0]
    when = np.datetime64(int((moment - 3600) * 1e6), "us").astype(object)
    more = state_at(state, [event_touch("redemption", when, "rew-04")], moment)
    for asked in (online(more, moment), online(state, moment + DAY_S)):
        with pytest.raises(AssertionError):
            compare(offline, queries, [asked])
    again = online(more, moment)
    row = again.rows.tolist().index(4)
    assert again.inputs["pair_features"][row, COLUMN["redeemed"]] == 1
    assert again.inputs["pair_features"][row, COLUMN["in_last"]] == 1


def test_somebody_unknown_is_the_same_both_ways(
    online: Any, dataset: Dataset, model: TwoTower, statistics: Statistics, items: np.ndarray, queries: Queries, moment: float
) -> None:
    one = replace(queries, rows=asof.AsofRows(*(np.zeros_like(x) for x in vars(queries.rows).values())), customer=np.full(len(PEOPLE), -1))
    one.rows.features[:] = tensors([CustomerState()], moment, dataset.vocabulary)["features"]
    one = replace(one, seen_indptr=np.zeros(len(PEOPLE) + 1, np.int64), seen=np.zeros(0, np.int64))
    tokens = candidates.token_rows(dataset.catalogue, len(dataset.vocabulary))
    cold = candidates.collect(one, dataset.log, dataset.catalogue, statistics, user_vectors(model, one), items, tokens, MOST)
    compare(cold, one, [online(CustomerState(), moment)] * len(PEOPLE))
    assert (np.diff(cold.indptr) == MOST).all()


def test_the_rankers_inputs_are_those_of_the_contract(online: Any, states: States, moment: float) -> None:
    found = online(states(moment)[0], moment)
    for tensor in RANKER.inputs:
        value = found.inputs[tensor.name]
        assert (value.shape, value.dtype) == ((len(found.rows), *tensor.shape), np.dtype(tensor.dtype))
