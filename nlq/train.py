"""`regulars train text-to-sql`: make the corpus, teach the network, export it, measure it, fit its confidence, write the model folder.

Every step's result lies in the run folder, and the same command goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from contracts.errors import ArtifactError
from contracts.runs import bar, claim, stop_on_signal
from contracts.settings import StackSettings, settings_config
from embeddings.text import model_folder
from nlq.corpus.bank import FOLDER, held_out, read
from nlq.corpus.build import Recipe, chunks
from nlq.corpus.build import write as lines_of
from nlq.corpus.data import build
from nlq.corpus.pairs import Pair
from nlq.export import export
from nlq.model import ModelConfig, TextToSql, load_encoder
from nlq.spelling import lexicon
from nlq.tokens import Tokens, marks
from nlq.translate import FEATURES, FILES, MODEL, TOKENIZER
from nlq.vocabulary import token_ids, tokens

CARD = "MODEL_CARD.md"
LAST, WEIGHTS, PAIRS = "last.pt", "weights.pt", "pairs.jsonl"
_MARKS = 100
"""So many word pieces from the first mark on are slots and hints (nlq.tokens): only they learn, the others stay as the encoder came."""


class TextToSqlSettings(StackSettings):
    """Everything that decides what training gives. Variables start with REGULARS_TEXT_TO_SQL_."""

    model_config = settings_config("REGULARS_TEXT_TO_SQL_")

    base: str | None = Field(
        None, description="folder or hub name of a Hugging Face encoder or encoder-decoder; all-MiniLM-L6-v2 of the text package when None"
    )
    pairs: int = Field(320_000, ge=64, description="questions with programs to make")
    bank_share: float = Field(0.6, ge=0, le=1, description="share of them from written phrases; the rest is composed by the grammar")
    execute: bool = Field(True, description="run every program on the sample warehouse and leave out what fails")
    epochs: float = Field(1.0, gt=0, le=100, description="passes over the pairs")
    batch_size: int = Field(64, ge=2)
    learning_rate: float = Field(5e-4, gt=0, description="of the decoder; the encoder learns at 0.4 of it")
    warmup: int = Field(300, ge=0, description="steps until the full rate")
    smoothing: float = Field(0.03, ge=0, lt=1, description="label smoothing")
    layers: int = Field(3, ge=1, le=12, description="decoder layers")
    dropout: float = Field(0.1, ge=0, lt=1)
    width: int = Field(4, ge=1, le=16, description="beams when decoding")
    bf16: bool = Field(True, description="bfloat16 matrix products on the CPU or GPU")
    device: str = Field("auto", pattern="^(auto|cpu|cuda)$")
    customers: int = Field(2_000, ge=200, description="customers of the sample warehouse")
    seed: int = 0


@dataclass
class Example:
    """Word pieces and program tokens, as ids."""

    source: list[int]
    target: list[int]


class Marked(nn.Module):
    """A word embedding of which some rows learn while the rest stays: a step then does not touch twelve million weights.

    Args:
        weight: (V, D).
        first: the first of the `_MARKS` rows that learn.
    """

    def __init__(self, weight: Tensor, first: int = 0) -> None:
        super().__init__()
        self.weight: Tensor
        self.register_buffer("weight", weight.detach())
        self.first = first
        self.marks = nn.Parameter(weight[first : first + _MARKS].detach().clone())

    def forward(self, ids: Tensor) -> Tensor:
        at = ids - self.first
        own = (at >= 0) & (at < len(self.marks))
        return torch.where(
            own[..., None], functional.embedding(torch.where(own, at, 0), self.marks), functional.embedding(ids, self.weight)
        )


def new_model(settings: TextToSqlSettings, tokenizer: Tokens) -> TextToSql:
    """A network whose program tokens start from the encoder's vectors of their names."""
    torch.manual_seed(settings.seed)
    encoder, width = load_encoder(settings.base or model_folder())
    config = ModelConfig(layers=settings.layers, dropout=settings.dropout, vocabulary=len(tokens()))
    model = TextToSql(encoder, config, width)
    _make_room(model, tokenizer)
    names = [t.translate(str.maketrans("=._#", "    ")).strip() or "none" for t in tokens()]
    ids, mask = tokenizer.batch(names)
    with torch.no_grad():
        held = torch.from_numpy(mask)
        found = model.eval().encode(torch.from_numpy(ids), held)
        means = (found * held[..., None]).sum(1) / held.sum(1, keepdim=True)
        means = means - means.mean(0)
        model.words.weight.copy_(means / means.std() * 0.05 + torch.randn_like(means) * 0.01)
    return model


def _make_room(model: TextToSql, tokenizer: Tokens) -> None:
    """Rows of the word embedding for slots and hints: a vocabulary that keeps none free gets some behind its last word."""
    encoder: Any = model.encoder
    table = encoder.get_input_embeddings()
    if tokenizer.first_mark > 1:  # BERT's are among its first hundred, none of which is a word
        model.first_mark = tokenizer.first_mark
    if (more := tokenizer.size - table.num_embeddings) > 0:
        with torch.no_grad():
            new = table.weight.mean(0) + table.weight.std(0) * torch.randn(more, table.embedding_dim)
            encoder.set_input_embeddings(nn.Embedding.from_pretrained(torch.cat([table.weight, new]), freeze=False))


def tokenizer_of(settings: TextToSqlSettings, folder: Path) -> Path:
    """The `tokenizer.json` that goes with the encoder; of a checkpoint that has none it is made, in `folder`.

    Raises:
        ArtifactError: the checkpoint has no tokenizer that can be written as one file.
    """
    if settings.base is None:
        return model_folder() / "tokenizer.json"
    if (file := Path(settings.base) / "tokenizer.json").is_file():
        return file
    from transformers import AutoTokenizer

    file = folder / "tokenizer.json"
    try:
        AutoTokenizer.from_pretrained(settings.base).backend_tokenizer.save(str(file))
    except Exception as exc:  # the library raises what its parts raise
        raise ArtifactError(
            f"cannot load the tokenizer of {settings.base}: {exc}. Give a checkpoint with a fast tokenizer (tokenizer.json)"
        ) from exc
    return file


def corpus(settings: TextToSqlSettings, folder: Path, console: Console) -> Path:
    """Make the pairs, once; gives the file of them."""
    file = folder / PAIRS
    wanted = hashlib.sha256(
        json.dumps([settings.pairs, settings.bank_share, settings.execute, settings.customers, settings.seed, phrases_version()]).encode()
    ).hexdigest()
    stamp = file.with_suffix(".sha256")
    if file.is_file() and stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return file
    root = sample(settings, folder)
    recipe = Recipe(root, Tokens(model_folder() / "tokenizer.json").words(), settings.bank_share, settings.execute, settings.seed)
    temporary = file.with_suffix(".tmp")
    with bar(console) as shown, temporary.open("w", encoding="utf-8") as out:
        task = shown.add_task("questions", total=settings.pairs)
        for made in chunks(recipe, settings.pairs):
            out.write(lines_of(made))
            shown.advance(task, len(made))
    temporary.replace(file)
    stamp.write_text(wanted, encoding="utf-8")
    return file


def sample(settings: TextToSqlSettings, folder: Path) -> Path:
    """The root of the sample warehouse in the run folder, generated when it is not there."""
    root = folder / "sample" / "warehouse"
    if not (root / "manifest.json").is_file():
        shutil.rmtree(folder / "sample", ignore_errors=True)
        build(folder / "sample", customers=settings.customers)
    return root


def phrases_version() -> str:
    """16 hex digits that name the bank and the grammar."""
    files = [*sorted(FOLDER.glob("*.tsv")), Path(__file__).parent / "corpus" / "grammar.py", Path(__file__).parent / "vocabulary.py"]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:16]


def load_pairs(file: Path) -> list[Pair]:
    with file.open(encoding="utf-8") as lines:
        return [Pair(*json.loads(line)) for line in lines]


def words_of(found: Sequence[Pair], least: int = 3) -> list[str]:
    """Words of the questions that come at least so often: what the model has met. Typos come seldom."""
    import collections
    import re

    counts: collections.Counter[str] = collections.Counter()
    for pair in found:
        plain = re.sub(r"\[[A-Za-z0-9_.]+\]", " ", pair.text.lower())
        counts.update(set(re.findall(r"[a-z]+", plain)))
    return sorted(w for w, n in counts.items() if n >= max(least, len(found) // 20_000) and len(w) > 1)


def fit(
    settings: TextToSqlSettings, model: TextToSql, examples: list[Example], folder: Path, console: Console, stop: threading.Event
) -> bool:
    """Teach the network; resumes from `last.pt`. False when the user stopped it."""
    device = torch.device("cuda" if settings.device == "cuda" or (settings.device == "auto" and torch.cuda.is_available()) else "cpu")
    encoder: Any = model.encoder
    table = encoder.get_input_embeddings()
    first = model.first_mark
    marked = Marked(table.weight, first)
    encoder.set_input_embeddings(marked)
    model.to(device).train()
    steps = max(1, int(len(examples) * settings.epochs / settings.batch_size))
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for n, p in named if n.startswith("encoder") and p is not marked.marks], "lr": 0.4 * settings.learning_rate},
        {"params": [p for n, p in named if not n.startswith("encoder")], "lr": settings.learning_rate},
        {"params": [marked.marks], "lr": settings.learning_rate, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)

    def rate(step: int) -> float:
        progress = min(1.0, step / steps)
        return min(1.0, (step + 1) / max(1, settings.warmup)) * (0.49 * (1 + math.cos(math.pi * progress)) + 0.02)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    done = 0
    if (folder / LAST).is_file():
        state = torch.load(folder / LAST, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        done = state["step"]

    def save(step: int) -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "step": step}
        torch.save(state, folder / f"{LAST}.tmp")
        (folder / f"{LAST}.tmp").replace(folder / LAST)

    loss_seen, right_seen, saved = 0.0, 0.0, time.monotonic()
    with bar(console) as shown:
        task = shown.add_task("training", total=steps, completed=done)
        for step, batch in enumerate(_batches(examples, settings.batch_size, settings.seed, done), done):
            if step >= steps:
                break
            loss, right = _step(model, batch, settings, optimizer, device)
            schedule.step()
            weight = 0.02 if step > done else 1.0
            loss_seen, right_seen = (1 - weight) * loss_seen + weight * loss, (1 - weight) * right_seen + weight * right
            shown.update(task, advance=1, description=f"training, loss {loss_seen:.3f}, whole programs {right_seen:.1%}")
            if stop.is_set() or time.monotonic() - saved > 300:
                save(step + 1)
                saved = time.monotonic()
                if stop.is_set():
                    return False
        save(steps)
    with torch.no_grad():
        table.weight.copy_(marked.weight.cpu())
        table.weight[first : first + _MARKS].copy_(marked.marks.cpu())
    model.cpu()
    encoder.set_input_embeddings(table)
    torch.save(model.state_dict(), folder / WEIGHTS)
    return True


def _step(
    model: TextToSql, batch: list[Example], settings: TextToSqlSettings, optimizer: torch.optim.Optimizer, device: torch.device
) -> tuple[float, float]:
    ids, mask, program = (t.to(device) for t in _tensors(batch))
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
        logits = model(ids, mask, program[:, :-1])
    target = program[:, 1:]
    loss = functional.cross_entropy(logits.float().flatten(0, 1), target.flatten(), ignore_index=0, label_smoothing=settings.smoothing)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        right = ((logits.argmax(-1) == target) | (target == 0)).all(1).float().mean()
    return float(loss.detach()), float(right)


def _tensors(batch: list[Example]) -> tuple[Tensor, Tensor, Tensor]:
    length, time_ = max(len(e.source) for e in batch), max(len(e.target) for e in batch)
    ids, mask = torch.zeros(len(batch), length, dtype=torch.int64), torch.zeros(len(batch), length, dtype=torch.int64)
    program = torch.zeros(len(batch), time_, dtype=torch.int64)
    for row, e in enumerate(batch):
        ids[row, : len(e.source)] = torch.tensor(e.source)
        mask[row, : len(e.source)] = 1
        program[row, : len(e.target)] = torch.tensor(e.target)
    return ids, mask, program


def _batches(examples: list[Example], size: int, seed: int, skip: int) -> Iterator[list[Example]]:
    """Endless batches of questions of about one length, in an order that the seed decides; the first `skip` are passed over."""
    epoch = number = 0
    while True:
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(examples))
        for start in range(0, len(order), size * 50):
            part = sorted(order[start : start + size * 50], key=lambda i: len(examples[i].source) + len(examples[i].target))
            batches = [part[i : i + size] for i in range(0, len(part), size)]
            for j in rng.permutation(len(batches)):
                if number >= skip:
                    yield [examples[i] for i in batches[j]]
                number += 1
        epoch += 1


def encoded(found: Sequence[Pair], tokenizer: Tokens) -> list[Example]:
    index = token_ids()
    return [Example(tokenizer.encode(p.text), [index["<start>"], *(index[t] for t in p.program.split())]) for p in found]


def train(folder: Path, settings: TextToSqlSettings, console: Console, fresh: bool = False) -> dict[str, Any]:
    """All of it.

    Args:
        folder: of the run; what is there already is used unless `fresh`.

    Returns:
        the record, as in `model.json`.

    Raises:
        ConfigError: the folder holds a run with other settings.
        ArtifactError: the encoder cannot be loaded.
        KeyboardInterrupt: stopped by the user; the checkpoint is written.
    """
    from nlq.calibrate import calibrate

    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    claim(folder, settings.public())
    started = time.monotonic()
    with stop_on_signal() as stop:
        found = load_pairs(corpus(settings, folder, console))
        tokenizer_file = tokenizer_of(settings, folder)
        tokenizer = Tokens(tokenizer_file)
        model = new_model(settings, tokenizer)
        if (folder / WEIGHTS).is_file():
            model.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True))
        elif not fit(settings, model, encoded(found, tokenizer), folder, console, stop):
            raise KeyboardInterrupt
    out = folder / "artifact"
    record = {
        "trained_at": datetime.now(UTC).isoformat(timespec="seconds"), "settings": settings.public(),
        "phrases": phrases_version(), "pairs": len(found),
        "from_bank": sum(p.source != "grammar" for p in found), "programs": len({p.program for p in found}),
        "held_out_lines": sum(map(held_out, read())), "torch": torch.__version__, "seconds": round(time.monotonic() - started),
    }  # fmt: skip
    return write(
        model,
        out,
        tokenizer_file,
        words_of(found),
        record,
        settings.width,
        lambda folder_: calibrate(folder_, sample(settings, folder), console),
    )


def write(
    model: TextToSql,
    out: Path,
    tokenizer_file: Path,
    words: list[str],
    record: dict[str, Any],
    width: int,
    measure: Callable[[Path], dict[str, Any]],
) -> dict[str, Any]:
    """The model folder: export, then confidence and scores by `measure(folder)`, which gives {calibration, threshold, scores}."""
    export(model, out)
    shutil.copyfile(tokenizer_file, out / TOKENIZER)
    info: dict[str, Any] = {
        "version": "text-to-sql/1", "width": width, "calibration": {}, "threshold": 0.0, "record": record,
        "sha256": {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in FILES},
        "tokens": list(tokens()), "marks": list(marks()), "words": words,
        "lexicon": lexicon((line.question for line in read()), Tokens(tokenizer_file).words()),
    }  # fmt: skip
    (out / MODEL).write_text(json.dumps(info, indent=1), encoding="utf-8")
    found = measure(out)
    info |= {"calibration": found["calibration"], "threshold": found["threshold"], "record": {**record, "scores": found["scores"]}}
    (out / MODEL).write_text(json.dumps(info, indent=1), encoding="utf-8")
    (out / CARD).write_text(card(info), encoding="utf-8")
    done: dict[str, Any] = info["record"]
    return done


def card(info: dict[str, Any]) -> str:
    """MODEL_CARD.md of a model folder, from its `model.json`."""
    record = info["record"]
    rows = []
    for name, row in record.get("scores", {}).items():
        shown = ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in row.items())
        rows.append(f"| {name} | {shown} |")
    return "\n".join([
        f"# {info['version']}", "",
        "Reads questions in English about a loyalty programme and writes programs of `nlq/program.py`, from which SQL follows. Encoder:",
        "all-MiniLM-L6-v2 (Apache 2.0), fine-tuned; decoder: trained from nothing. Weights are int8, activations float32.", "",
        f"- Trained {record['trained_at']} on {record['pairs']:,} questions with {record['programs']:,} different programs",
        f"  ({record['from_bank']:,} from written phrases, the rest composed by a grammar); no customer's question, no public data.",
        f"- Confidence: logistic regression on {', '.join(FEATURES[1:])}; below {info['threshold']:g} there is no answer.",
        f"- Phrases and grammar {record['phrases']}, seed {record['settings']['seed']}, torch {record['torch']}.",
        "  Reproduce: `regulars train text-to-sql --fresh`.",
        *([f"- {record['note']}"] if record.get("note") else []), "",
        "| set | scores |", "|---|---|", *rows, "",
        "The confidence was fitted on the development questions and half of the held-out templates (the ones in this table), its threshold",
        "set on the former, so their shares of wrong ones flatter;",
        "`python -m benchmarks.bench_questions` measures on questions that nothing was fitted on.", "",
        "**Not for** other schemas or languages, questions of several steps, causes, advice, forecasts beyond `customer_risk_scores`.",
        "A confident wrong reading is possible: the interpretation and the SQL are always shown.", "",
    ])  # fmt: skip
