"""What is asked, what is known: slices do not overlap, and what is held out changes no input."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import ArtifactError, ConfigError
from contracts.paths import Home
from contracts.tensors import TEXT_DIM
from training.recommender import data, protocols
from training.recommender.protocols import Problem
from training.settings import TrainSettings

SETTINGS = TrainSettings.load(environ={}, bootstrap=100)
PEOPLE, FILMS, FOLDS = 25, 30, (2, 3)


def ratings(changed_fold: int | None = None) -> pa.Table:
    """Every person rated 20 of 30 films within a few days; with `changed_fold` other films, stars and times in that fold."""
    rng, other = np.random.default_rng(4), np.random.default_rng(9)
    rows = []
    for person in range(1, PEOPLE + 1):
        films = rng.permutation(np.arange(1, FILMS + 1))
        free = iter(films[20:])
        for number, film in enumerate(films[:20]):
            fold, stars = int(rng.choice(FOLDS)), int(rng.integers(1, 6))
            when = datetime(1998, 1, 1, tzinfo=UTC) + timedelta(days=person, seconds=int(rng.integers(0, 40)) * 60 + number // 3)
            if fold == changed_fold:
                stars, when = int(other.integers(1, 6)), when + timedelta(days=int(other.integers(-3, 3)))
                film = next(free, film)
            rows.append({"user_id": person, "movie_id": int(film), "rating": stars, "rated_at": when, "fold_test": fold})
    return pa.Table.from_pylist(rows)


def write_films(folder: Path, table: pa.Table) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "ratings.parquet")
    users = [{"user_id": u, "age": 20 + u, "gender": "FM"[u % 2]} for u in range(1, PEOPLE + 1)]
    pq.write_table(pa.Table.from_pylist(users), folder / "users.parquet")
    films = [
        {"movie_id": m, "title": f"Film {m} (1990)", "release_date": datetime(1990, 1, 1), "genres": ("Drama", "Comedy|Drama")[m % 2]}
        for m in range(1, FILMS + 1)
    ]
    pq.write_table(pa.Table.from_pylist(films), folder / "movies.parquet")
    return folder


def solve(folder: Path, home: Path, split: str) -> list[Problem]:
    source = protocols.recognise(str(folder), protocols.RealdataSettings())
    place = protocols.landed_home(source, home)
    from warehouse.store import Warehouse

    with Warehouse(Home(place).warehouse).connect() as connection:
        table = data.load_catalogue(connection)
    return list(protocols.problems(source, place, split, table, np.zeros((table.num_rows, TEXT_DIM), np.float32), SETTINGS))


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_films(tmp_path_factory.mktemp("anything"), ratings())


@pytest.fixture(scope="module")
def folds(films: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Problem]:
    return solve(films, tmp_path_factory.mktemp("home"), "folds")


@pytest.fixture(scope="module")
def last(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Problem:
    return solve(films, tmp_path_factory.mktemp("home"), "leave-one-out")[0]


def asked(queries: data.Queries) -> set[tuple[str, int]]:
    """(customer id, item) pairs that the queries ask for."""
    names = queries.log.customers["customer_id"].to_pylist()
    who = np.repeat(queries.customer, np.diff(queries.indptr))
    return set(zip((names[c] for c in who), queries.items.tolist(), strict=True))


def liked(fold: int | None = None) -> set[tuple[str, int]]:
    rows = [r for r in ratings().to_pylist() if r["rating"] >= 4 and fold in (None, r["fold_test"])]
    order = sorted(f"film-{m}" for m in range(1, FILMS + 1))
    return {(str(r["user_id"]), order.index(f"film-{r['movie_id']}")) for r in rows}


def test_folds_partition_the_liked_films(folds: list[Problem]) -> None:
    assert [p.label for p in folds] == ["fold 2", "fold 3"]
    found = [asked(p.dataset.test) for p in folds]
    assert found == [liked(2), liked(3)]
    assert not found[0] & found[1]
    assert found[0] | found[1] == liked()


def test_slices_of_a_fold_do_not_overlap(folds: list[Problem]) -> None:
    d = folds[0].dataset
    train, validation, test = asked(d.train), asked(d.validation), asked(d.test)
    assert train
    assert validation
    assert not train & validation
    assert not (train | validation) & test


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_what_is_asked_for_is_in_no_history(folds: list[Problem], name: str) -> None:
    queries = getattr(folds[0].dataset, name)
    index = np.arange(len(queries))
    indptr, items, times = queries.history(index)
    relevant = queries.relevant(index, FILMS)
    rated = np.zeros_like(relevant)
    row = np.repeat(index, np.diff(queries.seen_indptr))
    rated[row, queries.seen] = True
    assert not relevant[np.repeat(index, np.diff(indptr)), items].any()
    assert not (relevant & rated).any()
    assert (times < np.repeat(queries.as_of, np.diff(indptr))).all()
    # All that was rated, with any stars, is no candidate.
    assert not (queries.candidates(folds[0].dataset.catalogue, index) & rated).any()
    assert rated.sum() > len(items)


def test_the_sequence_holds_the_rated_films_that_are_left(folds: list[Problem]) -> None:
    test = folds[0].dataset.test
    names = test.log.customers["customer_id"].to_pylist()
    kept = [r for r in ratings().to_pylist() if r["fold_test"] != 2]
    for q in range(len(test)):
        mine = [r for r in kept if str(r["user_id"]) == names[test.customer[q]]]
        touches = len(mine) + sum(r["rating"] >= 4 for r in mine)
        assert (test.rows.sequence_ids[q, :, 1] > 0).sum() == touches


def test_held_out_rows_change_no_input(films: Path, folds: list[Problem], tmp_path: Path) -> None:
    """Negative control first: the answers do change."""
    other = solve(write_films(tmp_path / "other", ratings(changed_fold=2)), tmp_path / "home", "folds")[0].dataset
    mine = folds[0].dataset
    assert asked(mine.test) != asked(other.test)
    assert mine.vocabulary.tokens == other.vocabulary.tokens
    for name in ("train", "validation"):
        a, b = getattr(mine, name), getattr(other, name)
        assert asked(a) == asked(b)
        for column in ("features", "sequence_ids", "sequence_values"):
            np.testing.assert_array_equal(getattr(a.rows, column), getattr(b.rows, column))
    who = {n: i for i, n in enumerate(np.array(other.test.log.customers["customer_id"].to_pylist())[other.test.customer])}
    for q, name in enumerate(np.array(mine.test.log.customers["customer_id"].to_pylist())[mine.test.customer]):
        if name in who:
            np.testing.assert_array_equal(mine.test.rows.features[q], other.test.rows.features[who[name]])
            np.testing.assert_array_equal(mine.test.rows.sequence_ids[q], other.test.rows.sequence_ids[who[name]])


def test_leave_one_out_asks_for_the_last_liked_film(last: Problem) -> None:
    order = sorted(f"film-{m}" for m in range(1, FILMS + 1))
    wanted, second = set(), set()
    for person in range(1, PEOPLE + 1):
        mine = [r for r in ratings().to_pylist() if r["user_id"] == person and r["rating"] >= 4]
        mine.sort(key=lambda r: (r["rated_at"], order.index(f"film-{r['movie_id']}")))
        wanted |= {(str(person), order.index(f"film-{r['movie_id']}")) for r in mine[-1:]}
        second |= {(str(person), order.index(f"film-{r['movie_id']}")) for r in mine[-2:-1]}
    d = last.dataset
    assert asked(d.test) == wanted
    assert asked(d.validation) == second
    assert not asked(d.train) & (wanted | second)
    assert d.split == "last"


def test_leave_one_out_knows_all_that_was_rated_before(last: Problem) -> None:
    test = last.dataset.test
    names = test.log.customers["customer_id"].to_pylist()
    order = sorted(f"film-{m}" for m in range(1, FILMS + 1))
    for q in range(len(test)):
        target = int(test.items[test.indptr[q]])
        mine = sorted(
            (r["rated_at"].timestamp(), order.index(f"film-{r['movie_id']}"))
            for r in ratings().to_pylist()
            if str(r["user_id"]) == names[test.customer[q]]
        )
        before = mine[: [film for _, film in mine].index(target)]
        assert sorted(test.seen[test.seen_indptr[q] : test.seen_indptr[q + 1]]) == sorted(film for _, film in before)


def test_only_viewed_completions_are_asked_for(home: Home, settings: TrainSettings, tmp_path: Path) -> None:
    from contracts.tables import EVENTS
    from warehouse.store import Warehouse

    warehouse = Warehouse(home.warehouse)
    rows = [r for r in warehouse.connect().sql("SELECT * FROM events").to_arrow_table().to_pylist() if r["event_type"] == "redemption"]
    for i, row in enumerate(rows):
        row["metadata"] = f'{{"viewed_before": {str(i % 2 == 0).lower()}}}'
    other = Warehouse(tmp_path / "warehouse")
    other.land("rewards", warehouse.connect().sql("SELECT * FROM rewards").to_arrow_table(), "t")
    other.land("events", pa.Table.from_pylist(rows, schema=EVENTS.schema), "t")
    connection = other.connect()
    table = data.load_catalogue(connection)
    log = data.load_log(connection, table, viewed_only=True)
    assert log.target.sum() == sum(i % 2 == 0 for i in range(len(rows)))
    dataset = data.build(connection, table, np.zeros((table.num_rows, TEXT_DIM)), settings, viewed_only=True)
    slices = (dataset.train, dataset.validation, dataset.test)
    assert sum(len(q.items) for q in slices) == log.target.sum()
    assert all((np.diff(q.indptr) > 0).all() for q in slices)
    assert len(dataset.log.item) == len(rows)  # the others stay history


def test_unknown_customers_have_no_history(dataset: data.Dataset, connection) -> None:  # type: ignore[no-untyped-def]
    nobody = protocols.unknown(dataset.test, connection, dataset.vocabulary)
    assert not nobody.rows.sequence_ids.any()
    assert len(nobody.history(np.arange(5))[1]) == 0
    np.testing.assert_array_equal(nobody.items, dataset.test.items)
    # Time of day and week stay: moments differ, so do rows.
    assert len(np.unique(nobody.rows.features, axis=0)) > 1


def test_the_truth_asks_for_the_next_redemption_from_the_catalogue(dataset: data.Dataset, connection, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert protocols.attainable(connection, dataset, tmp_path) is None
    moment = datetime.fromtimestamp(float(dataset.cuts.test_from[0]) + 86_400, UTC)
    rows = [
        {"business_id": "biz-1", "customer_id": f"c{c:02d}", "as_of": at, "reward_id": f"rew-{r:02d}", "probability": (r + 1) / 10}
        for c in (1, 2, 3) for at in (moment, moment + timedelta(days=14)) for r in range(4)
    ]  # fmt: skip
    (tmp_path / "biz-1").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "biz-1" / "redemptions-0.parquet")
    found = protocols.attainable(connection, dataset, tmp_path)
    assert found is not None
    q = found.queries
    assert (q.as_of == moment.timestamp()).all()
    np.testing.assert_allclose(found.truth[:, :5], np.tile([0.1, 0.2, 0.3, 0.4, 0.0], (len(q), 1)), rtol=1e-6)
    for row in range(len(q)):
        log = dataset.log
        mine = np.flatnonzero((log.customer == q.customer[row]) & (log.time >= q.as_of[row]))
        same = mine[log.time[mine] == log.time[mine[0]]]
        assert q.items[row] in log.item[same]


def test_a_folder_is_known_by_its_files(films: Path, home: Home, tmp_path: Path) -> None:
    settings = protocols.RealdataSettings(regulars_realdata=films.parent)
    assert protocols.recognise(str(films), settings).kind == "movielens_100k"
    assert protocols.recognise(str(home.root), settings).kind == "home"
    assert protocols.recognise(str(home.warehouse), settings).folder == home.root
    assert protocols.recognise("generator", settings).folder is None
    with pytest.raises(ArtifactError, match="REGULARS_REALDATA"):
        protocols.recognise("online_retail_ii", settings)
    with pytest.raises(ArtifactError, match="must be one of"):
        protocols.recognise("no_such_set", settings)
    with pytest.raises(ArtifactError, match="by its files and columns"):
        protocols.recognise(str(tmp_path), settings)


def test_importing_again_changes_nothing(films: Path, tmp_path: Path) -> None:
    source = protocols.recognise(str(films), protocols.RealdataSettings())
    first = protocols.landed_home(source, tmp_path)
    before = (first / "warehouse" / "manifest.json").read_bytes()
    assert protocols.landed_home(source, tmp_path) == first
    assert (first / "warehouse" / "manifest.json").read_bytes() == before


def test_splits_are_those_of_the_set(films: Path) -> None:
    film = protocols.Source("movielens_100k", films, "x")
    assert protocols.splits_of(film, None) == ["folds"]
    assert protocols.splits_of(film, "all") == ["folds", "leave-one-out"]
    assert protocols.splits_of(protocols.Source("online_retail_ii", films, "y"), None) == ["time"]
    with pytest.raises(ConfigError, match="--split"):
        protocols.splits_of(film, "time")


def test_no_folds_is_said(films: Path, tmp_path: Path) -> None:
    without = write_films(tmp_path / "without", ratings().drop_columns(["fold_test"]))
    with pytest.raises(ArtifactError, match="no column fold_test"):
        solve(without, tmp_path / "home", "folds")
    empty = ratings().drop_columns(["fold_test"]).append_column("fold_test", pa.nulls(PEOPLE * 20, pa.int64()))
    with pytest.raises(ArtifactError, match="names no fold"):
        solve(write_films(tmp_path / "empty", empty), tmp_path / "home", "folds")


def test_too_few_ratings_are_said(tmp_path: Path) -> None:
    rows = [r for r in ratings().to_pylist() if r["user_id"] < 4]
    for row in rows:
        row["rating"] = 5 if row["fold_test"] == 2 else 1
    few = write_films(tmp_path / "few", pa.Table.from_pylist(rows))
    with pytest.raises(ArtifactError, match="holds 0 queries"):
        solve(few, tmp_path / "home", "folds")
