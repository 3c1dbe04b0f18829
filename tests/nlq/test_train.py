"""Training: a run makes a model folder that translates, can be stopped and goes on, and never mixes settings."""

from __future__ import annotations

import io
import json
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BartConfig, BartModel, T5Config, T5Model

import nlq.calibrate
import nlq.train
from contracts.errors import ArtifactError, ConfigError
from nlq.corpus.bank import held_out, read
from nlq.corpus.pairs import Pair
from nlq.decode import OnnxStepper
from nlq.execute import Engine
from nlq.export import export
from nlq.program import parse
from nlq.tokens import Tokens
from nlq.train import (
    LAST,
    PAIRS,
    WEIGHTS,
    Example,
    Marked,
    TextToSqlSettings,
    corpus,
    encoded,
    fit,
    load_pairs,
    new_model,
    phrases_version,
    sample,
    tokenizer_of,
    train,
    words_of,
)
from nlq.translate import FILES, MODEL, Model, open_translator
from nlq.vocabulary import token_ids, tokens

from .tiny import TOKENIZER_FILE, encoder, network

QUIET = Console(file=io.StringIO())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than they do, in networks of this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny encoder."""
    folder = tmp_path_factory.mktemp("base")
    encoder().save_pretrained(folder)
    shutil.copyfile(TOKENIZER_FILE, folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def settings(base: Path) -> TextToSqlSettings:
    """Two steps; nothing at random after the start, so that runs can be compared."""
    return TextToSqlSettings.load(
        environ={},
        base=str(base),
        pairs=64,
        batch_size=32,
        epochs=1.0,
        warmup=1,
        layers=1,
        dropout=0.0,
        bf16=False,
        device="cpu",
        width=2,
        customers=200,
    )


@pytest.fixture(scope="module")
def prepared(settings: TextToSqlSettings, small_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a sample warehouse (the tests' own) and pairs."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copytree(small_home / "warehouse", folder / "sample" / "warehouse")
    corpus(settings, folder, QUIET)
    return folder


@pytest.fixture
def run(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder of a test's own; confidence is fitted on few questions."""
    lines = nlq.calibrate.DEVELOPMENT.read_text(encoding="utf-8").splitlines()[::80]
    (tmp_path / "few.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(nlq.calibrate, "DEVELOPMENT", tmp_path / "few.jsonl")
    monkeypatch.setattr(nlq.calibrate, "read", lambda: [])
    shutil.copytree(prepared, tmp_path / "run")
    return tmp_path / "run"


def examples(count: int = 48) -> list[Example]:
    rng = torch.Generator().manual_seed(0)
    index = token_ids()
    target = [index[t] for t in ("<start>", "agg", "count", "customers", "end")]
    return [Example(torch.randint(1, 3000, (4 + i % 5,), generator=rng).tolist(), target) for i in range(count)]


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


# ---- pairs


def test_the_corpus_is_made_once_and_again_when_phrases_or_settings_change(
    settings: TextToSqlSettings, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(prepared, folder)
    file = folder / PAIRS
    found = load_pairs(file)
    assert len(found) == settings.pairs
    assert not {p.program for p in found} & {line.program for line in read() if held_out(line) and line.program != "refuse end"}
    for p in found:
        parse(p.program)
    file.write_text(file.read_text() + json.dumps(["kept", "list customers end", "grammar"]) + "\n")
    assert corpus(settings, folder, QUIET) == file
    assert load_pairs(file)[-1].text == "kept"
    monkeypatch.setattr(nlq.train, "phrases_version", lambda: "another")
    corpus(settings, folder, QUIET)
    assert load_pairs(file) == found  # the same seed, made anew


def test_the_sample_warehouse_is_made_once(settings: TextToSqlSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[dict[str, Any]] = []

    def build(home: Path, **sizes: int) -> None:
        built.append(sizes)
        (home / "warehouse").mkdir(parents=True)
        (home / "warehouse" / "manifest.json").write_text("{}")

    monkeypatch.setattr(nlq.train, "build", build)
    (tmp_path / "sample" / "half").mkdir(parents=True)  # left by a run that was killed
    assert sample(settings, tmp_path) == sample(settings, tmp_path) == tmp_path / "sample" / "warehouse"
    assert built == [{"customers": 200}]
    assert not (tmp_path / "sample" / "half").exists()


def test_the_version_of_the_phrases_is_their_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = phrases_version()
    assert before == phrases_version()
    assert len(before) == 16
    monkeypatch.setattr(nlq.train, "FOLDER", tmp_path)
    (tmp_path / "a.tsv").write_text("a\tlist customers end")
    one = phrases_version()
    (tmp_path / "a.tsv").write_text("b\tlist customers end")
    assert len({before, one, phrases_version()}) == 3


def test_known_words_come_often_enough() -> None:
    found = [Pair(f"gold customers [V0] [customers.location] {'x' * (i + 2)}", "list customers end", "grammar") for i in range(4)]
    assert words_of(found) == ["customers", "gold"]
    assert words_of(found[:2]) == []


def test_pairs_become_ids(base: Path) -> None:
    (example,) = encoded([Pair("how many", "agg count customers end", "grammar")], Tokens(TOKENIZER_FILE))
    assert example.source == Tokens(TOKENIZER_FILE).encode("how many")
    assert [tokens()[i] for i in example.target] == ["<start>", "agg", "count", "customers", "end"]


# ---- the network


def test_of_the_word_pieces_only_marks_learn() -> None:
    table = torch.nn.Embedding(500, 8)
    marked, ids = Marked(table.weight), torch.tensor([[3, 99, 100, 499]])
    torch.testing.assert_close(marked(ids), table(ids))
    marked(ids).sum().backward()
    assert [n for n, p in marked.named_parameters() if p.requires_grad] == ["marks"]
    assert (marked.marks.grad.abs().sum(1) > 0).nonzero().flatten().tolist() == [3, 99]


def test_the_same_seed_gives_the_same_start(settings: TextToSqlSettings) -> None:
    pieces = Tokens(TOKENIZER_FILE)
    one, two = weights(new_model(settings, pieces)), weights(new_model(settings, pieces))
    other = weights(new_model(settings.model_copy(update={"seed": 1}), pieces))
    assert all(torch.equal(one[n], two[n]) for n in one)
    assert not torch.equal(one["words.weight"], other["words.weight"])


def test_training_teaches_and_leaves_plain_words_as_they_came(settings: TextToSqlSettings, tmp_path: Path) -> None:
    model, data = network(), examples()
    more = settings.model_copy(update={"epochs": 8.0, "batch_size": 16, "learning_rate": 5e-3})
    before = weights(model)
    assert fit(more, model, data, tmp_path, QUIET, threading.Event())
    after = weights(model)
    assert set(after) == set(before)
    name = "encoder.embeddings.word_embeddings.weight"
    assert torch.equal(after[name][100:], before[name][100:])
    assert not torch.equal(after[name][:100], before[name][:100])
    saved = torch.load(tmp_path / WEIGHTS, weights_only=True)
    assert all(torch.equal(saved[n], after[n]) for n in after)
    ids = torch.tensor([data[0].source])
    program = torch.tensor([data[0].target])
    with torch.no_grad():
        said = model.eval()(ids, torch.ones_like(ids), program[:, :-1]).argmax(-1)
    assert said.tolist() == program[:, 1:].tolist()


def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    settings: TextToSqlSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = settings.model_copy(update={"epochs": 2.0, "batch_size": 16})  # six steps, two passes
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    whole, parted = network(), network()
    assert fit(few, whole, examples(), tmp_path / "one", QUIET, threading.Event())

    stop, taken = threading.Event(), []
    step = nlq.train._step

    def counted(*arguments: Any) -> tuple[float, float]:
        taken.append(1)
        if len(taken) == 2:
            stop.set()
        return step(*arguments)

    monkeypatch.setattr(nlq.train, "_step", counted)
    assert not fit(few, parted, examples(), tmp_path / "two", QUIET, stop)
    assert (len(taken), (tmp_path / "two" / LAST).is_file(), (tmp_path / "two" / WEIGHTS).exists()) == (2, True, False)
    again = network(seed=5)  # what it starts from does not matter
    assert fit(few, again, examples(), tmp_path / "two", QUIET, threading.Event())
    assert len(taken) == 6
    wanted, found = weights(whole), weights(again)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], atol=1e-5, rtol=0)


# ---- other encoders


def checkpoint(kind: str, folder: Path) -> Path:
    """A tiny encoder-decoder with a vocabulary that keeps no word free."""
    known = ["<pad>", "</s>", "<unk>", *(["<s>"] if kind == "bart" else []), "▁how", "how", "many", "gold"]
    pieces = Tokenizer(WordLevel({w: i for i, w in enumerate(known)}, unk_token="<unk>"))
    pieces.pre_tokenizer = Whitespace()
    pieces.save(str(folder / "tokenizer.json"))
    made: Any
    if kind == "t5":
        made = T5Model(T5Config(vocab_size=20, d_model=24, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.0))
    else:
        sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
        made = BartModel(
            BartConfig(vocab_size=20, d_model=24, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=128, **sizes)
        )
    made.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_the_encoder_of_any_encoder_decoder_learns_and_is_exported(kind: str, settings: TextToSqlSettings, tmp_path: Path) -> None:
    other = settings.model_copy(update={"base": str(checkpoint(kind, tmp_path)), "batch_size": 4})
    pieces = Tokens(tokenizer_of(other, tmp_path))
    assert pieces.words() == {"how", "many", "gold"}
    model = new_model(other, pieces)
    table: Any = model.encoder
    before = table.get_input_embeddings().weight.detach().clone()
    assert len(before) == pieces.size
    question = "how many [V0] gold"
    data = encoded([Pair(question, "agg count customers end", "grammar")] * 8, pieces)
    assert fit(other, model, data, tmp_path, QUIET, threading.Event())
    moved = (table.get_input_embeddings().weight != before).any(1).nonzero().flatten().tolist()
    mark = pieces.encode("[V0]")[-2]
    assert mark in moved
    assert min(moved) >= pieces.first_mark  # words stay as they came
    export(model, tmp_path / "out", quantize=False)
    ids, mask = pieces.batch([question])
    with torch.no_grad():
        wanted = model.memory(model.encode(torch.from_numpy(ids), torch.from_numpy(mask)))
    for found, want in zip(OnnxStepper(tmp_path / "out").encode(ids, mask), wanted, strict=True):
        torch.testing.assert_close(torch.from_numpy(found), want, atol=1e-4, rtol=0)


def test_the_tokenizer_is_the_encoders_own(settings: TextToSqlSettings, tmp_path: Path) -> None:
    assert tokenizer_of(settings, tmp_path) == Path(settings.base or "") / "tokenizer.json"
    assert tokenizer_of(settings.model_copy(update={"base": None}), tmp_path) == TOKENIZER_FILE
    slow = tmp_path / "slow"  # a checkpoint with a list of words only
    encoder().save_pretrained(slow)
    words = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "gold"]
    (slow / "vocab.txt").write_text("\n".join(words))
    made = tokenizer_of(settings.model_copy(update={"base": str(slow)}), tmp_path)
    assert made == tmp_path / "tokenizer.json"
    assert "gold" in Tokens(made).words()
    with pytest.raises(ArtifactError, match="cannot load the tokenizer"):
        tokenizer_of(settings.model_copy(update={"base": str(tmp_path / "nothing")}), tmp_path)


# ---- all of it


def test_ctrl_c_leaves_a_checkpoint_and_the_same_command_goes_on_to_a_model_that_translates(
    settings: TextToSqlSettings, run: Path, small_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = nlq.train._step

    def interrupted(*arguments: Any) -> tuple[float, float]:
        signal.raise_signal(signal.SIGINT)
        return step(*arguments)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(nlq.train, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(run, settings, QUIET)
    assert signal.getsignal(signal.SIGINT) is before
    assert torch.load(run / LAST, weights_only=True)["step"] == 1
    assert not (run / WEIGHTS).exists()

    record = train(run, settings, QUIET)
    assert (run / WEIGHTS).is_file()
    assert record["pairs"] == 64
    assert set(record["scores"]) <= {"development", "development refusals"}
    out = run / "artifact"
    assert {p.name for p in out.iterdir()} == {*FILES, MODEL, "MODEL_CARD.md"}
    assert "regulars train text-to-sql" in (out / "MODEL_CARD.md").read_text()
    model = Model.read(out)
    assert model.width == 2
    assert model.record["settings"]["pairs"] == 64
    found = open_translator(small_engine, folder=out).for_business("biz-1").translate("how many customers do we have")
    assert found.refused == (found.sql is None)

    with pytest.raises(ConfigError, match="holds a run with other settings or data"):
        train(run, settings.model_copy(update={"seed": 1}), QUIET)
    # nothing is trained again
    monkeypatch.setattr(nlq.train, "fit", None)
    monkeypatch.setattr(nlq.train, "write", lambda *_: {"written": True})
    assert train(run, settings, QUIET) == {"written": True}


def test_fresh_forgets_the_run(settings: TextToSqlSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "settings.json").write_text("{}")
    (tmp_path / "run" / WEIGHTS).write_text("old")
    with pytest.raises(ConfigError, match="start anew with --fresh"):
        train(tmp_path / "run", settings, QUIET)

    class Reached(Exception):  # noqa: N818 - no error
        pass

    def stop(*_: object) -> Path:
        raise Reached

    monkeypatch.setattr(nlq.train, "corpus", stop)
    with pytest.raises(Reached):
        train(tmp_path / "run", settings, QUIET, fresh=True)
    assert not (tmp_path / "run" / WEIGHTS).exists()
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["pairs"] == 64


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="pairs"):
        TextToSqlSettings.load(environ={}, pairs=3)
    with pytest.raises(ConfigError, match="Did you mean REGULARS_TEXT_TO_SQL_EPOCHS"):
        TextToSqlSettings.load(environ={"REGULARS_TEXT_TO_SQL_EPOCH": "2"})
