"""`regulars evaluate recommender`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import embeddings.text
from contracts.errors import ArtifactError, ConfigError
from regulars.cli import app
from warehouse.importers.movielens_100k import NEEDED

MODELS = "popularity,item_knn,random"


def films(folder: Path, people: int = 30, films: int = 25) -> Path:
    """A folder in the format of movielens_100k with two folds."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for u in range(1, people + 1):
        for i, m in enumerate(rng.permutation(films)[:18] + 1):
            rated = {"user_id": u, "movie_id": int(m), "rating": int(rng.integers(1, 6)), "rated_at": 880_000_000 + u * 10_000 + i}
            rows.append({**rated, "fold_test": 1 + i % 2})
    table = pa.Table.from_pylist(rows)
    stamps = table["rated_at"].cast(pa.timestamp("s", tz="UTC"))
    pq.write_table(table.set_column(3, "rated_at", stamps), folder / "ratings.parquet")
    users = [{"user_id": u, "age": 30, "gender": "F", "occupation": "x"} for u in range(1, people + 1)]
    pq.write_table(pa.Table.from_pylist(users), folder / "users.parquet")
    titles = [{"movie_id": m, "title": f"Film {m}", "release_date": None, "genres": "Drama"} for m in range(1, films + 1)]
    movies = pa.Table.from_pylist(titles)
    pq.write_table(movies.set_column(2, "release_date", movies["release_date"].cast(pa.date32())), folder / "movies.parquet")
    return folder


@pytest.fixture
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts without a language model."""

    def embed(texts: list[str], **_: Any) -> np.ndarray:
        return np.stack([np.random.default_rng(len(t)).standard_normal(384) for t in texts]).astype(np.float32)

    monkeypatch.setattr(embeddings.text, "embed", embed)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["evaluate", "recommender", *arguments])


@pytest.mark.usefixtures("_no_model")
def test_json_is_one_object_with_the_promised_keys(tmp_path: Path) -> None:
    folder = films(tmp_path / "whatever it is called")
    common = ("--data", str(folder), "--home", str(tmp_path / "home"), "--models", MODELS, "--fast", "--json", "--seed", "3")
    done = run(*common, "--split", "all")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["data"], found["split"], found["seed"]) == (str(folder), "folds", 3)
    assert [r["model"] for r in found["rows"]] == MODELS.split(",")
    assert {"ndcg_at_10", "ndcg_at_10_low", "ndcg_at_10_high"} <= set(found["rows"][0])
    assert found["parts"] == ["fold 1", "fold 2"]
    assert found["splits"]["leave-one-out"]["customers"] > 0
    again = json.loads(run(*common).stdout)
    for row in (*found["rows"], *again["rows"]):
        row.pop("training_seconds")
    assert again["rows"] == found["rows"]
    assert "splits" not in again


@pytest.mark.usefixtures("_no_model")
def test_people_get_a_table(tmp_path: Path) -> None:
    folder = films(tmp_path / "films")
    done = run(
        "--data", str(folder), "--home", str(tmp_path / "home"), "--models", "popularity,random", "--fast", "--split", "leave-one-out"
    )
    assert done.exit_code == 0, done.output
    assert "popularity" in done.stdout
    assert "leave-one-out" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("--data", "no_such_set"), ArtifactError, "movielens_100k"),
        (("--data", "generator", "--models", "magic"), ConfigError, "no model magic"),
        (("--data", "generator", "--models", ","), ConfigError, "--models"),
        (("--data", "generator", "--split", "folds"), ConfigError, "--split"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_read(
    arguments: tuple[str, ...], error: type[Exception], words: str, tmp_path: Path
) -> None:
    done = run(*arguments, "--home", str(tmp_path))
    assert isinstance(done.exception, error)
    assert words in str(done.exception)
    assert not (tmp_path / "evaluate").exists()


@pytest.mark.usefixtures("_no_model")
def test_the_generator_is_generated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CUSTOMERS", "300"), ("MONTHS", "6"), ("REWARDS", "40"), ("END", "2026-01-01")):
        monkeypatch.setenv(f"REGULARS_GENERATE_{name}", value)
    common = ("--data", "generator", "--home", str(tmp_path), "--models", "popularity,personal_popularity", "--fast", "--json")
    done = run(*common)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["attainable"]["rows"][-1]["model"] == "truth"
    assert found["repeat"]["queries"] > 0
    manifest = next((tmp_path / "evaluate").glob("generator*")) / "warehouse" / "manifest.json"
    before = manifest.read_bytes()
    assert run(*common).exit_code == 0
    assert manifest.read_bytes() == before


@pytest.mark.realdata
@pytest.mark.usefixtures("_no_model")
def test_a_part_of_movielens(realdata: Path, tmp_path: Path) -> None:
    folder = tmp_path / "part"
    folder.mkdir()
    for name in NEEDED:
        table = pq.read_table(realdata / "movielens_100k" / f"{name}.parquet")
        if name == "ratings":
            few = (table["user_id"].to_numpy() % 8 == 0) & (table["fold_test"].to_numpy() < 4)
            table = table.filter(pa.array(few))
        pq.write_table(table, folder / f"{name}.parquet")
    done = run("--data", str(folder), "--home", str(tmp_path / "home"), "--models", "popularity,item_knn,ease,random", "--json")
    assert done.exit_code == 0, done.output
    rows = {r["model"]: r["ndcg_at_10"] for r in json.loads(done.stdout)["rows"]}
    assert rows["ease"] > rows["popularity"] > 5 * rows["random"]
