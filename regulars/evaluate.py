"""`regulars evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regulars.common import DEFAULT_HOME, HomeOption, JsonOption, console, errors, print_json

if TYPE_CHECKING:
    from datetime import datetime

    from training.recommender.protocols import Source
    from training.sequence.settings import SequenceSettings
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


@app.command()
def sequence(
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="NAME_OR_FOLDER",
            help="cdnow, online_retail_ii (found by REGULARS_REALDATA), generator, a folder in the format of one, or a home folder.",
        ),
    ],
    home: HomeOption = DEFAULT_HOME,
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", metavar="DATE", help="First day that nothing is known about, YYYY-MM-DD; else the data set's own."),
    ] = None,
    horizon_days: Annotated[int, typer.Option("--horizon-days", help="Of churn: no purchase within 30, 60 or 90 days.")] = 90,
    models: Annotated[
        str | None, typer.Option("--models", help="Rows to run, with commas between; all of them without this option.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of sampling, weights and resampling.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file of the sequence model's training settings.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Few samples, one small network, few resamples: a rough look.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Forecast churn and value as of a day with ours and its peers, and print one table with 95 % intervals.

    Peers: LightGBM, RFM with logistic regression, BG/NBD with Gamma-Gamma, the last period again; each calibrated on the same later slice
    as ours. Nothing from the as-of day on is used but to compare with. Imported data is kept under HOME/evaluate.
    """
    from training.sequence import protocols, scorecard
    from training.sequence.settings import SequenceSettings

    rough: dict[str, Any] = {"max_samples": 3_000, "epochs": 2, "members": 1, "hidden": 8, "width": 32, "explained": 100} if fast else {}
    settings = SequenceSettings.load(config, seed=seed, **rough)
    source = protocols.recognise(data, protocols.RealdataSettings.load())
    chosen = _chosen(models, scorecard.MODELS)
    result = _forecasts(source, chosen, settings, home, horizon_days, _day(as_of), 200 if fast else 1_000)
    if as_json:
        print_json(result)
        return
    console.print(scorecard.table(result))


@app.command()
def receipts(
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="NAME_OR_FOLDER",
            help="receipts_sroie (found by REGULARS_REALDATA), or a folder with images/, keys.parquet and perhaps text_boxes.parquet.",
        ),
    ],
    home: HomeOption = DEFAULT_HOME,
    pictures: Annotated[int | None, typer.Option("--pictures", min=1, help="Only the first so many receipts, by their ids.")] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            help="What reads: regulars (or ours), rapidocr, tesseract, annotated (the annotated text), with commas between; all of them "
            "without this option.",
        ),
    ] = None,
    as_of: Annotated[
        str | None, typer.Option("--as-of", metavar="DATE", help="Day on which they are handed in, YYYY-MM-DD; else today.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Read every picture again instead of taking what was read before.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Read receipts with ours and its peers, and print one table with 95 % intervals.

    Rows: ours; the plain rapidocr package and tesseract with our parser; tesseract with regular expressions. What was read is kept under
    HOME/evaluate: Ctrl-C loses at most one picture, the same command goes on from there, and a second run takes seconds.
    """
    from datetime import UTC, datetime

    from contracts.realdata import RealdataSettings, find_set
    from vision import scorecard

    asked = ",".join(scorecard.OURS if e.strip() == "ours" else e for e in engine.split(",")) if engine is not None else None
    names = _chosen(asked, scorecard.ENGINES, "--engine")
    day = (_day(as_of) or datetime.now(UTC)).date()
    folder = find_set(data, RealdataSettings.load())
    result = scorecard.evaluate(folder, home, day, names, pictures, fresh, errors, data)
    if as_json:
        print_json(result)
        return
    console.print(scorecard.table(result))


@app.command()
def products(
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="NAME_OR_FOLDER",
            help="grocery_products (found by REGULARS_REALDATA), or a folder with labels.parquet, or with a folder of pictures for each "
            "class, perhaps below train/, val/, test/.",
        ),
    ],
    home: HomeOption = DEFAULT_HOME,
    split: Annotated[
        str | None, typer.Option("--split", help="Split that is asked, or all (but train); else test where there is one, else val.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="Folder of the network; else the home's, else the one that came with the product.")
    ] = None,
    shots: Annotated[str, typer.Option("--shots", help="Photos of a class that the catalogue is taught with, with commas.")] = "1,5,20",
    teach: Annotated[
        str | None, typer.Option("--teach", help="Set whose photos teach the catalogue and the peer; else the train split of --data.")
    ] = None,
    others: Annotated[
        str | None,
        typer.Option("--others", help="Set or folder of pictures of no product, for open set; else receipts_sroie where it is there."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of drawing photos.")] = 0,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Cores for the network; all without this option.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Recognise products with ours and its peers, and print one table with 95 % intervals.

    Rows: the trained network; a catalogue taught with few photos of each class; the nearest photo by shape and colour. Vectors of photos
    are kept under HOME/evaluate.
    """
    from contracts.realdata import RealdataSettings, find_set
    from vision import product_scorecard as card

    counts, settings = _counts(shots), RealdataSettings.load()
    folder, taught = find_set(data, settings), find_set(teach, settings) if teach else None
    nothing = settings.regulars_realdata / "receipts_sroie" / "images"
    strange = find_set(others, settings) if others else nothing if nothing.is_dir() else None
    result = card.evaluate(folder, card.artifact_of(model, home), home, split, counts, taught, strange, seed, threads, errors, data)
    if as_json:
        print_json(result)
        return
    console.print(card.table(result))


def _counts(asked: str) -> tuple[int, ...]:
    from contracts.errors import ConfigError

    found = [part.strip() for part in asked.split(",") if part.strip()]
    if not found or not all(part.isdecimal() and 1 <= int(part) <= 100 for part in found):
        raise ConfigError(f"--shots is {asked!r}, must be numbers of photos from 1 to 100 with commas between. Give them like 1,5,20.")
    return tuple(sorted({int(part) for part in found}))


def _day(asked: str | None) -> datetime | None:
    from datetime import UTC, datetime

    from contracts.errors import ConfigError

    if asked is None:
        return None
    try:
        return datetime.strptime(asked, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as exc:
        raise ConfigError(f"{asked!r} is not a day, must be like 1997-10-01. Give another --as-of.") from exc


def _forecasts(
    source: Source,
    models: tuple[str, ...],
    settings: SequenceSettings,
    home: Path,
    horizon_days: int,
    as_of: datetime | None,
    resamples: int,
) -> dict[str, Any]:
    """One data set, measured."""
    from contracts.paths import Home
    from training.sequence import fit, protocols, scorecard
    from warehouse.store import Warehouse

    (home / "evaluate").mkdir(parents=True, exist_ok=True)
    with errors.status(f"reading {source.name}"):
        place = protocols.landed_home(source, home)
    if source.kind == protocols.GENERATOR:
        _generate(place)
    with Warehouse(Home(place).warehouse).connect() as connection:
        with errors.status("building samples"):
            problem = protocols.build(source, connection, place, horizon_days, as_of, settings.seed)
        found = scorecard.run(
            problem,
            lambda: fit.fit_history(connection, problem.as_of_day, settings, errors),
            models,
            settings.seed,
            settings.threads,
            errors,
        )
    return scorecard.summary(found, settings.seed, resamples)


def _models(asked: str | None) -> tuple[str, ...]:
    from training.recommender.scorecard import MODELS

    return _chosen(asked, MODELS)


def _chosen(asked: str | None, allowed: tuple[str, ...], option: str = "--models") -> tuple[str, ...]:
    """The rows to run out of those that there are."""
    from contracts.errors import ConfigError

    if asked is None:
        return allowed
    chosen = tuple(dict.fromkeys(name.strip() for name in asked.split(",") if name.strip()))
    wrong = [name for name in chosen if name not in allowed]
    if wrong or not chosen:
        what = option.removeprefix("--").removesuffix("s")
        raise ConfigError(f"no {what} {', '.join(wrong) or repr(asked)}, there are {', '.join(allowed)}. Give another {option}.")
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
