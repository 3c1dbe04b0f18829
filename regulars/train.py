"""`regulars train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regulars.common import DEFAULT_HOME, HomeOption, JsonOption, errors, print_json

app = typer.Typer(help="Train models.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Train models."""


@app.command()
def recommender(
    home: HomeOption = DEFAULT_HOME,
    epochs: Annotated[int | None, typer.Option(help="Most passes over the examples.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Queries a step and process.")] = None,
    max_examples: Annotated[int | None, typer.Option(help="Training queries kept, sampled with the seed.")] = None,
    devices: Annotated[int | None, typer.Option(help="Processes (GPUs, or CPU processes); more than one trains with DDP.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="auto, cpu or gpu.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of sampling, weights and shuffling.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; see docs for the names.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew instead of going on with an unfinished run.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train the two-tower recommender, evaluate it on the last part of the history and record the run.

    Ctrl-C stops at the next step with a checkpoint; the same command goes on from there. Every other setting is a
    variable REGULARS_TRAIN_<NAME>.
    """
    from contracts.paths import Home
    from embeddings.text import embed
    from regulars.common import console
    from training.recommender.evaluate import table
    from training.recommender.train import train_recommender
    from training.settings import TrainSettings

    settings = TrainSettings.load(
        config, epochs=epochs, batch_size=batch_size, max_examples=max_examples, devices=devices, accelerator=accelerator, seed=seed
    )
    result = train_recommender(Home(home), settings, embed, errors if as_json else console, fresh)
    if as_json:
        print_json({"run_id": result.run_id, **result.metrics})
        return
    console.print(table(result.metrics))
    report = result.metrics["calibration"]
    console.print(f"probabilities: expected calibration error {report['ece']:.4f} over {report['horizon_days']:g} days")
    console.print(f"run {result.run_id}; next: regulars export")


@app.command()
def sequence(
    home: HomeOption = DEFAULT_HOME,
    epochs: Annotated[int | None, typer.Option(help="Passes over the samples.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples a step and process.")] = None,
    max_samples: Annotated[int | None, typer.Option(help="Samples kept, drawn with the seed.")] = None,
    members: Annotated[int | None, typer.Option(help="Networks whose forecasts are averaged.")] = None,
    prior: Annotated[str | None, typer.Option(help="on, off or auto: whether spend begins at what buy-till-you-die models say.")] = None,
    devices: Annotated[int | None, typer.Option(help="Processes (GPUs, or CPU processes); more than one trains with DDP.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="auto, cpu or gpu.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of sampling, weights and shuffling.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; see docs for the names.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew instead of going on with an unfinished run.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train the sequence model (churn and lifetime value), calibrate it on the later slice and record the run.

    Ctrl-C stops at the next step with a checkpoint; the same command goes on from there. Every other setting is a
    variable REGULARS_SEQUENCE_<NAME>.
    """
    from contracts.paths import Home
    from regulars.common import console
    from training.sequence.settings import SequenceSettings
    from training.sequence.train import table, train_sequence

    settings = SequenceSettings.load(
        config, epochs=epochs, batch_size=batch_size, max_samples=max_samples, members=members, prior=prior, devices=devices,
        accelerator=accelerator, seed=seed,
    )  # fmt: skip
    result = train_sequence(Home(home), settings, errors if as_json else console, fresh)
    if as_json:
        print_json({"run_id": result.run_id, **result.metrics})
        return
    console.print(table(result.metrics))
    console.print(f"run {result.run_id}; next: regulars export")


@app.command("text-to-sql")
def text_to_sql(
    home: HomeOption = DEFAULT_HOME,
    pairs: Annotated[int | None, typer.Option(help="Questions with programs to make.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over them.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Questions a step.")] = None,
    base: Annotated[str | None, typer.Option(help="Folder or hub name of a Hugging Face encoder or encoder-decoder to start from.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the corpus, weights and shuffling.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; see docs for the names.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew instead of going on with an unfinished run.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make the corpus, train the model that reads questions, export it, fit its confidence and measure it.

    The model lies in HOME/text_to_sql/artifact and is used from then on instead of the one that came with the product. Ctrl-C stops at the
    next step with a checkpoint; the same command goes on from there. Every other setting is a variable REGULARS_TEXT_TO_SQL_<NAME>.
    """
    from nlq.train import TextToSqlSettings, train
    from nlq.translate import home_model
    from regulars.common import console

    settings = TextToSqlSettings.load(config, pairs=pairs, epochs=epochs, batch_size=batch_size, base=base, device=device, seed=seed)
    record = train(home_model(home).parent, settings, errors if as_json else console, fresh)
    if as_json:
        print_json(record)
        return
    console.print(f"{record['pairs']:,} questions, {record['seconds']:,} s; model in {home_model(home)}, used from now on")


@app.command()
def products(
    data: Annotated[
        Path, typer.Option("--data", help="Training set: labels.parquet with pictures, or a folder of pictures for each class.")
    ],
    home: HomeOption = DEFAULT_HOME,
    minutes: Annotated[float | None, typer.Option(help="For everything; the schedule is planned from measured step times.")] = None,
    model: Annotated[str | None, typer.Option(help="A convolutional network of timm.")] = None,
    weights: Annotated[str | None, typer.Option(help="First weights: auto, package, hub, scratch, or a file.")] = None,
    size: Annotated[int | None, typer.Option(help="Pixels of the square that pictures are brought to, a multiple of 32.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures a step.")] = None,
    leave_out: Annotated[int | None, typer.Option(help="Fine classes not trained on, that measure open set and catalogue.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, drawing and splits.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; in the home when not given.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; see docs for the names.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew instead of going on with an unfinished run.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train the network that knows products, calibrate, export and measure it.

    It lies in HOME/vision/products/artifact and is used from then on. Ctrl-C stops at the next step with a checkpoint; the same command
    goes on from there. Every other setting is a variable REGULARS_PRODUCTS_<NAME>.
    """
    from regulars.common import console
    from vision.products import products_folder
    from vision.train import ProductSettings, train

    settings = ProductSettings.load(
        config,
        minutes=minutes,
        model=model,
        weights=weights,
        size=size,
        batch_size=batch_size,
        leave_out=leave_out,
        device=device,
        seed=seed,
    )
    folder = out or products_folder(home).parent
    record = train(data, folder, settings, errors if as_json else console, fresh)
    if as_json:
        print_json(record)
        return
    for name, value in record["scores"].items():
        console.print(f"{name.replace('_', ' ')}: {value}")
    console.print(f"{record['pictures']:,} pictures, {record['seconds']:,} s; model in {folder / 'artifact'}")
