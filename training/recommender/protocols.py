"""From a data set to evaluation problems: what is known, what is asked, and when.

`time`           the history is cut at the quantiles of its redemption times (`data.build`); every set but `movielens_100k`.
`folds`          `movielens_100k`: each published test fold that is there is the test slice once, and the other rows are the history.
`leave-one-out`  `movielens_100k`: the last liked film of each customer is asked for, and all that the customer rated before is the history.

In the last two what is asked for is no later than the rest, so rows are left out instead: inputs are read through a connection whose
`events` lack them, and the queries carry a log that lacks them. A validation slice is held out of the history in the same way, and so
are the answers of the training queries. Whatever a customer rated in the history, with any stars, is no candidate.

`starbucks_rewards`: only a completion after the offer was viewed is asked for. Others stay in the history.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.bundle import file_sha256
from contracts.errors import ArtifactError, ConfigError
from contracts.paths import Home
from contracts.realdata import RealdataSettings
from features import asof
from features.vocabulary import Vocabulary
from training.recommender import data
from training.recommender.data import DAY_S, Catalogue, Cuts, Dataset, Log, Queries
from training.settings import TrainSettings
from warehouse.importers import import_into, movielens_100k, online_retail_ii, starbucks_rewards
from warehouse.store import Warehouse

GENERATOR, HOME = "generator", "home"
MOVIELENS, RETAIL, STARBUCKS = "movielens_100k", "online_retail_ii", "starbucks_rewards"
PUBLIC: dict[str, Mapping[str, tuple[str, ...]]] = {
    MOVIELENS: movielens_100k.NEEDED,
    RETAIL: online_retail_ii.NEEDED,
    STARBUCKS: starbucks_rewards.NEEDED,
}
NAMES = (*PUBLIC, GENERATOR)
BUSINESS = "biz-1"
TIME, FOLDS, LAST, ALL = "time", "folds", "leave-one-out", "all"
SPLITS = (TIME, FOLDS, LAST, ALL)
VALIDATION_SHARE = 0.125
COPIES = 8
COPY_SHARE = 0.2


@dataclass(frozen=True)
class Source:
    """A data set to evaluate on.

    Attributes:
        kind: one of `NAMES`, or `home` for a folder that Regulars itself made.
        folder: of the files; None for the generator, which has none before it ran.
        name: as it was asked for.
    """

    kind: str
    folder: Path | None
    name: str


@dataclass(frozen=True)
class Attainable:
    """Queries of the generator whose true probabilities are known.

    Attributes:
        queries: at the as-of time of the truth; each asks for the customer's next redemption from the catalogue.
        truth: float32 (Q, N), probability of each reward to be that redemption.
    """

    queries: Queries
    truth: np.ndarray


@dataclass(frozen=True)
class Problem:
    """One training and one test.

    Attributes:
        label: of the split, for example `fold 2`.
        connection: of the warehouse; in splits not by time its events lack the rows of the test and the validation slice.
        test_connection: likewise, less the rows of the test slice only; inputs of test queries are read through it.
        repeats: whether customers may redeem a reward again.
    """

    label: str
    connection: duckdb.DuckDBPyConnection
    test_connection: duckdb.DuckDBPyConnection
    dataset: Dataset
    repeats: bool
    attainable: Attainable | None = None


# ---- which data set ---------------------------------------------------------------------------------------------------------


def recognise(name_or_folder: str, settings: RealdataSettings, public: Mapping[str, Mapping[str, tuple[str, ...]]] | None = None) -> Source:
    """What a name or a folder stands for; a folder is known by its files and their columns, whatever it is called.

    Args:
        public: files and columns of each public set that is allowed; `PUBLIC` when None.

    Raises:
        ArtifactError: neither a name nor such a folder.
    """
    public = PUBLIC if public is None else public
    folder = Path(name_or_folder)
    if name_or_folder == GENERATOR and not folder.is_dir():
        return Source(GENERATOR, None, name_or_folder)
    if name_or_folder in public:
        place = settings.regulars_realdata / name_or_folder
        folder = place if place.is_dir() or not folder.is_dir() else folder
    if not folder.is_dir():
        names = ", ".join((*public, GENERATOR))
        where = " " if name_or_folder not in public else f" (looked in {folder}; REGULARS_REALDATA names the folder of the sets) "
        raise ArtifactError(
            f"no data {name_or_folder}{where}- must be one of {names}, or a folder in the format of one. Give another --data."
        )
    for home in (folder, folder.parent):
        if (home / "warehouse" / "manifest.json").is_file() and folder in (home, home / "warehouse"):
            return Source(HOME, home, name_or_folder)
    for kind, needed in public.items():
        if all(_has(folder / f"{file}.parquet", columns) for file, columns in needed.items()):
            return Source(kind, folder, name_or_folder)
    raise ArtifactError(
        f"folder {folder} is none of {', '.join(public)} by its files and columns, and no home folder (warehouse/manifest.json). "
        "docs/data.md lists the columns; or import it with a mapping (regulars data import) and give that home folder."
    )


def _has(path: Path, columns: tuple[str, ...]) -> bool:
    try:
        return set(columns) <= set(pq.read_schema(path).names)
    except (OSError, pa.ArrowException):
        return False


def landed_home(source: Source, home: Path) -> Path:
    """The home folder whose warehouse holds the data: the source's own, or one under `home/evaluate` named by the files' content.

    Importing what is there already changes nothing. For the generator the folder may be empty: the caller generates into it.
    """
    if source.kind == HOME and source.folder is not None:
        return source.folder
    if source.folder is None:
        return home / "evaluate" / GENERATOR
    digest = hashlib.sha256("\n".join(f"{f.name} {file_sha256(f)}" for f in sorted(source.folder.glob("*.parquet"))).encode())
    place = home / "evaluate" / f"{source.kind}-{digest.hexdigest()[:12]}"
    import_into(Warehouse(Home(place).warehouse), source.kind, source.folder, BUSINESS)
    return place


def splits_of(source: Source, asked: str | None) -> list[str]:
    """The splits to run.

    Raises:
        ConfigError: the split is not for this data set.
    """
    allowed = [FOLDS, LAST] if source.kind == MOVIELENS else [TIME]
    if asked in (None, ALL):
        return allowed if asked == ALL else allowed[:1]
    if asked not in allowed:
        raise ConfigError(f"split {asked} is not for {source.name}, must be one of {', '.join(allowed)}, all. Give another --split.")
    return [str(asked)]


# ---- problems ---------------------------------------------------------------------------------------------------------------


def problems(
    source: Source, place: Path, split: str, table: pa.Table, text_vectors: np.ndarray, settings: TrainSettings
) -> Iterator[Problem]:
    """The problems of one split, one after another, so that one is in memory at a time.

    Args:
        place: home folder that `landed_home` gave.
        table, text_vectors: the catalogue and the vectors of its texts.

    Raises:
        ArtifactError: too little history, or no published folds.
    """
    warehouse = Warehouse(Home(place).warehouse)
    if split == TIME:
        yield _time_problem(warehouse, place, table, text_vectors, settings, source.kind == STARBUCKS)
        return
    ratings = rated(warehouse, table)
    if split == LAST:
        yield last_problem(warehouse, ratings, table, text_vectors, settings)
        return
    folds = published_folds(source, ratings, table)
    for fold in np.unique(folds[folds >= 0]).tolist():
        yield fold_problem(warehouse, ratings, folds == fold, f"fold {fold}", table, text_vectors, settings)


def _time_problem(
    warehouse: Warehouse, place: Path, table: pa.Table, text_vectors: np.ndarray, settings: TrainSettings, viewed_only: bool
) -> Problem:
    connection = warehouse.connect()
    dataset = data.build(connection, table, text_vectors, settings, viewed_only=viewed_only)
    repeats = not bool(dataset.catalogue.single_use.all())
    return Problem(TIME, connection, connection, dataset, repeats, attainable(connection, dataset, place / "truth"))


def rated(warehouse: Warehouse, table: pa.Table) -> Log:
    """Every rated film as a log whose targets are the liked ones."""
    with warehouse.connect() as connection:
        return data.load_log(connection, table, kinds=("review", "redemption"))


def published_folds(source: Source, ratings: Log, table: pa.Table) -> np.ndarray:
    """int64 (L,), the published test fold of each row of `ratings`, -1 where there is none.

    Raises:
        ArtifactError: the file does not say.
    """
    assert source.folder is not None  # noqa: S101 - only the generator has none
    path = source.folder / "ratings.parquet"
    if not _has(path, ("fold_test",)):
        raise ArtifactError(f"{path} has no column fold_test, the split by folds needs it. Give --split {LAST}.")
    frame = pq.read_table(path, columns=["user_id", "movie_id", "fold_test"]).to_pandas()
    fold = {
        (str(u), f"film-{m}"): int(f) for u, m, f in zip(frame["user_id"], frame["movie_id"], frame["fold_test"].fillna(-1), strict=True)
    }
    who, what = ratings.customers["customer_id"].to_pylist(), table["reward_id"].to_pylist()
    pairs = zip(ratings.customer.tolist(), ratings.item.tolist(), strict=True)
    out = np.array([fold.get((who[c], what[i]), -1) for c, i in pairs], dtype=np.int64)
    if not (out >= 0).any():
        raise ArtifactError(f"{path} names no fold in fold_test, the split by folds needs some. Give --split {LAST}.")
    return out


def fold_problem(
    warehouse: Warehouse, ratings: Log, test: np.ndarray, label: str, table: pa.Table, text_vectors: np.ndarray, settings: TrainSettings
) -> Problem:
    """A test slice of given rows; validation and training answers are held out of the rest at random.

    Training queries are `COPIES` times all customers, each time with another fifth of what they rated left out and asked for: the same
    kind of question as the test's, which a question about the next film in time would not be.

    Args:
        ratings: see `rated`. test: bool (L,), its rows in the test slice.
    """
    rng = np.random.default_rng([settings.seed, 1])
    validation = _draw(~test, VALIDATION_SHARE, rng)
    as_of = float(ratings.time[~test].max()) + DAY_S
    frame = _Frame(warehouse, ratings, table, text_vectors, test | validation, as_of)
    copies = [_draw(~(test | validation), COPY_SHARE, rng) for _ in range(COPIES)]
    train = concatenate([frame.held_out(test | validation | c, c, as_of) for c in copies])
    found = {"train": train, "validation": frame.held_out(test | validation, validation, as_of), "test": frame.held_out(test, test, as_of)}
    return frame.problem(label, "fold", found, test, settings)


def last_problem(warehouse: Warehouse, ratings: Log, table: pa.Table, text_vectors: np.ndarray, settings: TrainSettings) -> Problem:
    """The last liked film of each customer is the test, the one before it the validation; training asks for earlier ones in time."""
    position = np.arange(len(ratings.item))
    liked = np.flatnonzero(ratings.target)
    order = _from_end(ratings.customer[liked])
    last, second = (_first_of(ratings, liked[order == n]) for n in (0, 1))
    after_last, after_second = (position >= first[ratings.customer] for first in (last, second))
    # Who liked one film only has no second last: nothing of theirs is left for training then.
    after_second |= after_last | (second[ratings.customer] == len(position))
    as_of = float(ratings.time[~after_last].max()) + DAY_S
    frame = _Frame(warehouse, ratings, table, text_vectors, after_second, as_of)
    found = {
        "train": frame.in_time(after_second, settings),
        "validation": frame.single(after_second, second),
        "test": frame.single(after_last, last),
    }
    return frame.problem(LAST, "last", found, after_last, settings)


def _from_end(customer: np.ndarray) -> np.ndarray:
    """0 for the last row of each customer, 1 for the one before it, …; customers ascending."""
    end = np.searchsorted(customer, customer, side="right")
    return end - 1 - np.arange(len(customer))


def _first_of(ratings: Log, rows: np.ndarray) -> np.ndarray:
    """int64 (C,): the row of each customer, past the end where there is none."""
    out = np.full(len(ratings.customers), len(ratings.item))
    out[ratings.customer[rows]] = rows
    return out


def _draw(allowed: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """bool (L,): a random share of the allowed rows. Rows that are not allowed have no part in the draw."""
    out = np.zeros(len(allowed), dtype=bool)
    index = np.flatnonzero(allowed)
    out[index[rng.random(len(index)) < share]] = True
    return out


class _Frame:
    """What the slices of a split by left-out rows share.

    Args:
        hidden: bool (L,), rows of the test and validation slices; vocabulary and catalogue are made without them.
        as_of: epoch seconds, after every row of the history.
    """

    def __init__(
        self, warehouse: Warehouse, ratings: Log, table: pa.Table, text_vectors: np.ndarray, hidden: np.ndarray, as_of: float
    ) -> None:
        self.warehouse, self.ratings, self.table, self.as_of = warehouse, ratings, table, as_of
        self.connection = without_rows(warehouse, ratings, table, hidden)
        self.vocabulary = Vocabulary.build(self.connection, datetime.fromtimestamp(as_of, UTC))
        self.catalogue: Catalogue = data.build_catalogue(table, self.vocabulary, text_vectors)

    def held_out(self, hidden: np.ndarray, asked: np.ndarray, as_of: float) -> Queries:
        """One query a customer, for what it liked among the rows `asked`; the history lacks the rows `hidden`."""
        rows = np.flatnonzero(asked & self.ratings.target)
        customer, count = np.unique(self.ratings.customer[rows], return_counts=True)
        indptr = np.concatenate([[0], np.cumsum(count)])
        return self._queries(hidden, customer, np.full(len(customer), as_of), indptr, self.ratings.item[rows])

    def single(self, hidden: np.ndarray, row: np.ndarray) -> Queries:
        """One query a customer, for the film of its row (none where that is past the end); the history lacks the rows `hidden`."""
        customer = np.flatnonzero(row < len(self.ratings.item))
        asked = row[customer]
        # What was rated in the same second and comes first in the order of films is known.
        moments = self.ratings.time[asked] + 1e-6
        return self._queries(hidden, customer, moments, np.arange(len(customer) + 1), self.ratings.item[asked])

    def in_time(self, hidden: np.ndarray, settings: TrainSettings) -> Queries:
        """Each liked film that is not hidden is asked for at its time."""
        rows = np.flatnonzero(self.ratings.target & ~hidden)
        rng = np.random.default_rng(settings.seed)
        rows = data.choose(rows, self.ratings.customer[rows], settings.max_examples, settings.max_per_customer, rng)
        customer, time = self.ratings.customer[rows], self.ratings.time[rows]
        return self._queries(hidden, customer, time, np.arange(len(rows) + 1), self.ratings.item[rows])

    def _queries(self, hidden: np.ndarray, customer: np.ndarray, as_of: np.ndarray, indptr: np.ndarray, items: np.ndarray) -> Queries:
        log = self.ratings.without(hidden | ~self.ratings.target)
        seen = self.ratings.without(hidden)
        with without_rows(self.warehouse, self.ratings, self.table, hidden) as connection:
            return data.queries_at(connection, log, self.catalogue, self.vocabulary, customer, as_of, indptr, items, seen_log=seen)

    def problem(self, label: str, split: str, found: dict[str, Queries], test: np.ndarray, settings: TrainSettings) -> Problem:
        for name, queries in found.items():
            if not len(queries):
                raise ArtifactError(f"the {name} slice of {label} holds 0 queries, needs at least 1. Give more ratings.")
        end = np.full(len(self.catalogue.businesses), self.as_of + 1.0)
        cuts = Cuts(np.full(len(end), self.ratings.time.min()), end, end, end)
        counts = {name: len(q) for name, q in found.items()}
        dataset = Dataset(self.catalogue, self.vocabulary, found["validation"].log, cuts, **found, available=counts, split=split)
        test_connection = without_rows(self.warehouse, self.ratings, self.table, test)
        return Problem(label, self.connection, test_connection, dataset, repeats=False)


def without_rows(warehouse: Warehouse, ratings: Log, table: pa.Table, hidden: np.ndarray) -> duckdb.DuckDBPyConnection:
    """A connection whose `events` lack the hidden pairs of customer and reward, and whose customers joined at the first event left."""
    connection = warehouse.connect()
    names = ratings.customers.take(pa.array(ratings.customer[hidden]))
    pairs = names.append_column("reward_id", table["reward_id"].take(pa.array(ratings.item[hidden])))
    connection.register("pairs", pairs)
    connection.execute("CREATE TABLE left_out AS SELECT * FROM pairs")
    connection.unregister("pairs")
    connection.execute("ALTER VIEW events RENAME TO all_events")
    connection.execute("ALTER VIEW customers RENAME TO all_customers")
    connection.execute("CREATE VIEW events AS SELECT * FROM all_events ANTI JOIN left_out USING (business_id, customer_id, reward_id)")
    connection.execute(
        "CREATE VIEW customers AS SELECT c.* REPLACE (f.first_at AS joined_at) FROM all_customers c LEFT JOIN "
        "(SELECT business_id, customer_id, min(occurred_at) AS first_at FROM events GROUP BY ALL) f USING (business_id, customer_id)"
    )
    return connection


def concatenate(parts: list[Queries]) -> Queries:
    """Queries one after another; the customers of each part become others of the common log, as their histories differ."""
    logs = [p.log for p in parts]
    shift = np.concatenate([[0], np.cumsum([len(log.customers) for log in logs])])
    offset = np.concatenate([[0], np.cumsum([len(log.item) for log in logs])])
    log = Log(
        customer=np.concatenate([g.customer + s for g, s in zip(logs, shift, strict=False)]),
        item=np.concatenate([g.item for g in logs]),
        time=np.concatenate([g.time for g in logs]),
        starts=np.concatenate([*(g.starts[:-1] + o for g, o in zip(logs, offset, strict=False)), offset[-1:]]),
        customers=pa.concat_tables([g.customers for g in logs]),
        customer_business=np.concatenate([g.customer_business for g in logs]),
        target=np.concatenate([g.target for g in logs]),
    )
    rows = [np.concatenate([getattr(p.rows, n) for p in parts]) for n in ("features", "sequence_ids", "sequence_values")]
    indptr, items = _join([(p.indptr, p.items) for p in parts])
    seen_indptr, seen = _join([(p.seen_indptr, p.seen) for p in parts])
    return Queries(
        customer=np.concatenate([p.customer + s for p, s in zip(parts, shift, strict=False)]),
        business=np.concatenate([p.business for p in parts]),
        as_of=np.concatenate([p.as_of for p in parts]),
        rows=asof.AsofRows(*rows),
        indptr=indptr,
        items=items,
        seen_indptr=seen_indptr,
        seen=seen,
        weight=np.concatenate([p.weight for p in parts]),
        log=log,
    )


def _join(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    sizes = np.concatenate([np.diff(indptr) for indptr, _ in parts])
    return np.concatenate([[0], np.cumsum(sizes)]), np.concatenate([items for _, items in parts])


def unknown(queries: Queries, connection: duckdb.DuckDBPyConnection, vocabulary: Vocabulary) -> Queries:
    """The same questions at the same moments about customers of whom nothing is known: no touch, no demographics, nothing redeemed."""
    people = queries.log.customers.take(pa.array(queries.customer))
    nobody = people.set_column(people.column_names.index("customer_id"), "customer_id", pa.array([""] * len(queries), pa.string()))
    examples = data.examples_table(nobody, np.arange(len(queries)), queries.as_of)
    return replace(
        queries,
        rows=asof.rows(connection, examples, vocabulary),
        seen_indptr=np.zeros(len(queries) + 1, np.int64),
        seen=queries.seen[:0],
        log=queries.log.without(np.ones(len(queries.log.item), dtype=bool)),
    )


# ---- the generator's truth --------------------------------------------------------------------------------------------------


def attainable(connection: duckdb.DuckDBPyConnection, dataset: Dataset, folder: Path) -> Attainable | None:
    """The truth's queries, or None where there is no truth.

    Of each customer whose probabilities were written before the end, the first redemption from the catalogue (not of an offer that
    was sent) after that moment.
    """
    files = sorted(folder.glob("*/redemptions-*.parquet"))
    if not files:
        return None
    truth = pa.concat_tables([pq.read_table(f).replace_schema_metadata() for f in files]).to_pandas()
    truth = truth[truth["as_of"] == truth.groupby("business_id")["as_of"].transform("min")]
    asked = truth[["business_id", "customer_id", "as_of"]].drop_duplicates()
    connection.register("asked", asked)
    try:
        found = connection.sql(_NEXT).to_arrow_table().to_pylist()
    finally:
        connection.unregister("asked")
    people = _rows_of(dataset.log.customers, "customer_id")
    rewards = _rows_of(dataset.catalogue.table, "reward_id")
    keys = [(people.get((r["business_id"], r["customer_id"]), -1), rewards.get((r["business_id"], r["reward_id"]), -1)) for r in found]
    known = sorted((who, what, r["as_of"].timestamp()) for (who, what), r in zip(keys, found, strict=True) if who >= 0 and what >= 0)
    if not known:
        return None
    customer = np.array([k[0] for k in known], dtype=np.int64)
    place = {c: i for i, c in enumerate(customer.tolist())}
    probability = np.zeros((len(known), len(dataset.catalogue)), dtype=np.float32)
    columns = (truth[c].tolist() for c in ("business_id", "customer_id", "reward_id", "probability"))
    for business, name, reward, value in zip(*columns, strict=True):
        row = place.get(people.get((business, name), -1))
        if row is not None and (business, reward) in rewards:
            probability[row, rewards[business, reward]] = value
    queries = data.queries_at(
        connection, dataset.log, dataset.catalogue, dataset.vocabulary, customer, np.array([k[2] for k in known]),
        np.arange(len(known) + 1), np.array([k[1] for k in known], dtype=np.int64),
    )  # fmt: skip
    return Attainable(queries, probability)


_NEXT = """
    SELECT a.business_id, a.customer_id, any_value(a.as_of) AS as_of, arg_min(e.reward_id, e.occurred_at) AS reward_id
    FROM events e JOIN asked a ON a.business_id = e.business_id AND a.customer_id = e.customer_id AND e.occurred_at >= a.as_of
    WHERE e.event_type = 'redemption' AND e.campaign_id IS NULL GROUP BY a.business_id, a.customer_id
"""


def _rows_of(table: pa.Table, key: str) -> dict[tuple[str, str], int]:
    """Row of each (business, key)."""
    return {pair: row for row, pair in enumerate(zip(table["business_id"].to_pylist(), table[key].to_pylist(), strict=True))}
