"""What the ranker sees offline, from the warehouse's log, is what it sees online, from a customer's stored state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch

from contracts.tensors import RANKER, TEXT_DIM, USER_TOWER
from embeddings.index import RewardIndex
from embeddings.table import Filter, RewardTable
from features import asof
from features.definitions import KIND_COUNT, event_touch
from features.pairs import COLUMN
from features.state import CustomerState, pack, state_at, tensors, unpack
from ray_apps.deployments import rank
from ray_apps.deployments.explain import Catalogue
from ray_apps.deployments.model import _token_rows
from training.recommender import candidates
from training.recommender.data import DAY_S, Dataset, Queries, build, load_catalogue, queries_at
from training.recommender.evaluate import item_vectors, user_vectors
from training.recommender.model import ModelConfig, TwoTower
from training.recommender.statistics import Statistics
from warehouse.generate import GeneratorSettings, generate_into
from warehouse.store import Warehouse

BUSINESS = "biz-1"
States = Callable[[float], list[CustomerState]]


@dataclass(frozen=True)
class World:
    """A programme, customers whose answers are compared (rows of the log's), and how many nearest rewards are candidates."""

    name: str
    connection: duckdb.DuckDBPyConnection
    dataset: Dataset
    people: np.ndarray
    most: int


@pytest.fixture(scope="module", params=["small", "generated"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """The small programme, where c01 has redeemed the single-use reward; and one with purchases, demographics, tickets and dismissals."""
    if request.param == "small":
        dataset = request.getfixturevalue("dataset")
        yield World("small", request.getfixturevalue("connection"), dataset, np.array([0, 1, 9, 18, 27, 33, 59]), 3)
        return
    home = request.getfixturevalue("new_home")()
    warehouse = Warehouse(home.warehouse)
    asked = GeneratorSettings.load(environ={}, customers=150, months=4, end="2026-06-30", rewards=80, products=60)
    list(generate_into(home.root, warehouse, asked))
    with warehouse.connect() as connection:
        table = load_catalogue(connection)
        text = np.random.default_rng(0).normal(size=(table.num_rows, TEXT_DIM)) / 20
        dataset = build(connection, table, text, request.getfixturevalue("settings"))
        yield World("generated", connection, dataset, np.arange(0, len(dataset.log.customers), 5), 20)


@pytest.fixture(scope="module")
def dataset_of(world: World) -> Dataset:
    return world.dataset


@pytest.fixture(scope="module")
def moment(dataset_of: Dataset) -> float:
    """In the test slice, some time in the afternoon."""
    return float(dataset_of.cuts.test_from[0] // DAY_S * DAY_S + 3.6 * DAY_S)


@pytest.fixture(scope="module")
def model(dataset_of: Dataset) -> TwoTower:
    """Not trained: parity needs no quality."""
    torch.manual_seed(0)
    return TwoTower(ModelConfig(len(dataset_of.vocabulary), KIND_COUNT, 16, 2)).eval()


@pytest.fixture(scope="module")
def items(dataset_of: Dataset, model: TwoTower) -> np.ndarray:
    c = dataset_of.catalogue
    return item_vectors(model, c.item_ids, c.attributes, c.text_vectors)


@pytest.fixture(scope="module")
def statistics(dataset_of: Dataset) -> Statistics:
    return Statistics(dataset_of.catalogue, dataset_of.test.log, dataset_of.cuts.test_from)


@pytest.fixture(scope="module")
def served(dataset_of: Dataset, items: np.ndarray, statistics: Statistics, moment: float) -> Any:
    """What a request reads of a `Served`."""
    table = dataset_of.catalogue.table
    columns = table.append_column("redeemer_share", pa.nulls(table.num_rows, pa.float64())).to_pydict()
    rewards = RewardTable.from_arrow(table)
    index = RewardIndex(items, replace(rewards, inventory=np.full(len(rewards), -1)))  # today's stock says nothing of the past
    return SimpleNamespace(
        catalogue=Catalogue.build(columns, index.vectors), snapshot=SimpleNamespace(index=index, table=index.table),
        stats=statistics.at(moment), token_rows=_token_rows(dataset_of.vocabulary, columns),
    )  # fmt: skip


@pytest.fixture(scope="module")
def queries(world: World, dataset_of: Dataset, moment: float) -> Queries:
    none = np.zeros(len(world.people) + 1, np.int64)
    when = np.full(len(world.people), moment)
    return queries_at(world.connection, dataset_of.log, dataset_of.catalogue, dataset_of.vocabulary, world.people, when, none, none[:0])


@pytest.fixture(scope="module")
def offline(
    world: World, queries: Queries, dataset_of: Dataset, model: TwoTower, statistics: Statistics, items: np.ndarray
) -> candidates.Candidates:
    """As the ranker is trained."""
    tokens = candidates.token_rows(dataset_of.catalogue, len(dataset_of.vocabulary))
    users = user_vectors(model, queries)
    return candidates.collect(queries, dataset_of.log, dataset_of.catalogue, statistics, users, items, tokens, world.most)


@pytest.fixture(scope="module")
def states(world: World, dataset_of: Dataset) -> States:
    def at(as_of: float) -> list[CustomerState]:
        people = dataset_of.log.customers.take(pa.array(world.people))
        return [state for _, _, state in asof.states(world.connection, people, as_of)]

    return at


@pytest.fixture(scope="module")
def online(world: World, served: Any, dataset_of: Dataset, model: TwoTower) -> Callable[[CustomerState, float], rank.Candidates]:
    """As a request is answered."""

    def ask(state: CustomerState, now: float) -> rank.Candidates:
        tower = tensors([state], now, dataset_of.vocabulary)
        with torch.inference_mode():
            vector = model.user(*(torch.from_numpy(tower[t.name]) for t in USER_TOWER.inputs)).numpy()
        rules = Filter(BUSINESS, now, redeemed=state.redeemed)  # training offers what was dismissed: it was not redeemed
        return rank.candidates(served, vector, tower, state, rules, now, world.most)

    return ask


def compare(offline: candidates.Candidates, queries: Queries, found: list[rank.Candidates]) -> None:
    for q, mine in enumerate(found):
        part = slice(offline.indptr[q], offline.indptr[q + 1])
        assert mine.rows.tolist() == offline.rows[part].tolist()
        np.testing.assert_allclose(mine.inputs["pair_features"], offline.pairs[part], atol=1e-4)
        np.testing.assert_allclose(mine.features, queries.rows.features[q], atol=1e-4)


def test_both_ways_find_the_same_candidates_and_features(
    offline: candidates.Candidates, queries: Queries, online: Any, states: States, moment: float, world: World
) -> None:
    catalogue, now = world.dataset.catalogue, states(moment)
    found = [online(state, moment) for state in now]
    compare(offline, queries, found)
    ids, used_up = np.array(catalogue.table["reward_id"].to_pylist()), 0
    for state, mine in zip(now, found, strict=True):
        gone = np.isin(ids, list(state.redeemed)) & catalogue.single_use
        used_up += int(gone.sum())
        assert not gone[mine.rows].any()
    assert used_up
    assert {len(f.rows) for f in found} != {world.most}  # own ones and neighbours came on top
    assert any(len(f.rows) < len(catalogue) for f in found)
    every = np.concatenate([f.inputs["pair_features"] for f in found])
    assert world.name == "small" or every.any(axis=0).all()  # no feature is the same because it is nothing


@pytest.mark.parametrize("days", [0.0, 0.2, 2.0, 9.0])
def test_a_stored_state_is_brought_to_the_moment(
    offline: candidates.Candidates, queries: Queries, online: Any, states: States, moment: float, days: float
) -> None:
    """Written some days before, packed, and folded with what has come since."""
    before = states(moment - days * DAY_S)
    assert not days or any(s.pending for s in before)
    compare(offline, queries, [online(state_at(unpack(pack(s)), [], moment), moment) for s in before])


def test_a_redemption_more_is_seen(
    offline: candidates.Candidates, queries: Queries, online: Any, states: States, moment: float, world: World
) -> None:
    """Negative control: one touch that the warehouse does not hold, or a day more, is another answer."""
    state = states(moment)[0]
    when = np.datetime64(int((moment - 3600) * 1e6), "us").astype(object)
    before = online(state, moment)
    new = int(before.rows[before.inputs["pair_features"][:, COLUMN["redeemed"]] == 0][0])
    more = state_at(state, [event_touch("redemption", when, world.dataset.catalogue.table["reward_id"][new].as_py())], moment)
    for asked in (online(more, moment), online(state, moment + DAY_S)):
        with pytest.raises(AssertionError):
            compare(offline, queries, [asked])
    again = online(more, moment)
    row = again.rows.tolist().index(new)
    assert again.inputs["pair_features"][row, COLUMN["redeemed"]] == 1
    assert again.inputs["pair_features"][row, COLUMN["in_last"]] == 1


def test_somebody_unknown_is_the_same_both_ways(
    online: Any, world: World, model: TwoTower, statistics: Statistics, items: np.ndarray, queries: Queries, moment: float
) -> None:
    dataset = world.dataset
    one = replace(
        queries, rows=asof.AsofRows(*(np.zeros_like(x) for x in vars(queries.rows).values())), customer=np.full(len(world.people), -1)
    )
    one.rows.features[:] = tensors([CustomerState()], moment, dataset.vocabulary)["features"]
    one = replace(one, seen_indptr=np.zeros(len(world.people) + 1, np.int64), seen=np.zeros(0, np.int64))
    tokens = candidates.token_rows(dataset.catalogue, len(dataset.vocabulary))
    cold = candidates.collect(one, dataset.log, dataset.catalogue, statistics, user_vectors(model, one), items, tokens, world.most)
    compare(cold, one, [online(CustomerState(), moment)] * len(world.people))
    assert (np.diff(cold.indptr) == world.most).all()


def test_the_rankers_inputs_are_those_of_the_contract(online: Any, states: States, moment: float) -> None:
    found = online(states(moment)[0], moment)
    for tensor in RANKER.inputs:
        value = found.inputs[tensor.name]
        assert (value.shape, value.dtype) == ((len(found.rows), *tensor.shape), np.dtype(tensor.dtype))
