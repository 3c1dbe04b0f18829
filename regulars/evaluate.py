"""`regulars evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regulars.common import DEFAULT_HOME, HomeOption, JsonOption, console, errors, print_json

if TYPE_CHECKING:
    from training.recommender.protocols import Source
    from training.settings import TrainSettings

app = typer.Typer(help="Measure models against what else one would try.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Measure models against what else one would try."""


@app.command()
def recommender(
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="NAME_OR_FOLDER",
            help="movielens_100k, online_retail_ii, starbucks_rewards (found by REGULARS_REALDATA), generator, a folder in the format "
            "of one of them, or a home folder.",
        ),
    ],
    home: HomeOption = DEFAULT_HOME,
    split: Annotated[
        str | None, typer.Option("--split", help="time; for movielens_100k folds (default), leave-one-out, or all for both.")
    ] = None,
    models: Annotated[
        str | None, typer.Option("--models", help="Rows to run, with commas between; all of them without this option.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of sampling, weights and resampling.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file of training settings.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Few examples, queries and resamples: a rough look in a minute or two.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train ours and its peers on the same split and print one table with 95 % intervals.

    Peers: popularity, item neighbours, iALS, BPR, EASE, a plain two-tower; each tuned on the validation slice. Imported data is kept under
    HOME/evaluate, so that a second run is quick.
    """
    from training.recommender import protocols
    from training.recommender.scorecard import tables
    from training.settings import TrainSettings

    rough: dict[str, Any] = {"max_examples": 4_000, "max_validation": 300, "max_test": 500, "epochs": 2, "bootstrap": 200} if fast else {}
    settings = TrainSettings.load(config, seed=seed, **rough)
    source = protocols.recognise(data, protocols.RealdataSettings.load())
    splits = protocols.splits_of(source, split)
    chosen = _models(models)
    results = [_one(source, s, chosen, settings, home) for s in splits]
    if as_json:
        print_json({**results[0], "splits": {r["split"]: r for r in results[1:]}} if results[1:] else results[0])
        return
    for table in (t for r in results for t in tables(r)):
        console.print(table)


def _models(asked: str | None) -> tuple[str, ...]:
    from contracts.errors import ConfigError
    from training.recommender.scorecard import MODELS

    if asked is None:
        return MODELS
    chosen = tuple(dict.fromkeys(name.strip() for name in asked.split(",") if name.strip()))
    wrong = [name for name in chosen if name not in MODELS]
    if wrong or not chosen:
        raise ConfigError(f"no model {', '.join(wrong) or repr(asked)}, there are {', '.join(MODELS)}. Give another --models.")
    return chosen


def _one(source: Source, split: str, models: tuple[str, ...], settings: TrainSettings, home: Path) -> dict[str, Any]:
    """One split of one data set, measured."""
    import tempfile

    from contracts.paths import Home
    from embeddings.text import embed
    from features.rewards import texts
    from training.recommender import protocols, scorecard
    from training.recommender.data import load_catalogue
    from warehouse.store import Warehouse

    (home / "evaluate").mkdir(parents=True, exist_ok=True)
    with errors.status(f"reading {source.name}"):
        place = protocols.landed_home(source, home)
    if source.kind == protocols.GENERATOR:
        _generate(place)
    with errors.status("reading the catalogue and embedding its texts"):
        with Warehouse(Home(place).warehouse).connect() as connection:
            table = load_catalogue(connection)
        vectors = embed(texts(table), cache_dir=home / "evaluate" / "texts")
    problems = protocols.problems(source, place, split, table, vectors, settings)
    with tempfile.TemporaryDirectory(dir=home / "evaluate", prefix="run-") as folder:
        found = scorecard.run(problems, settings, models, Path(folder), errors)
    return scorecard.summary(source.name, split, found, settings)


def _generate(place: Path) -> None:
    """The generator's programme at its default size, unless it is there."""
    from contracts.paths import Home
    from regulars.generating import run
    from warehouse.generate import GeneratorSettings
    from warehouse.store import Warehouse

    run(place, Warehouse(Home(place).warehouse), GeneratorSettings.load(), end_given=False)
