"""Questions to SQL by the trained model: link, decode, choose, lower; and a refusal wherever that would be a guess.

The decoding loop runs in this process (`LocalDecoder`) or in the model server (a decoder that is handed in); the rest is the same.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from contracts.errors import ArtifactError, ContractError, StackError
from nlq.beyond import beyond
from nlq.decode import ENCODER, STEP, Hypothesis, OnnxStepper, decode
from nlq.link import Catalog, Linked, Linker
from nlq.lower import Lowered, lower
from nlq.program import Slots, parse
from nlq.spelling import Speller
from nlq.tokens import Tokens, marks
from nlq.types import Reason, Rows, Translation
from nlq.vocabulary import fields, tokens
from nlq.votes import Run, agreeing, within_reach

ARTIFACT = Path(__file__).parent / "artifact"
"""The model that comes with the product."""
TOKENIZER, MODEL = "tokenizer.json", "model.json"
FILES = (ENCODER, STEP, TOKENIZER)
PRIVATE_READER = "private_reader"
FEATURES = ("bias", "mass", "lead", "lost", "unknown", "unused", "length")
"""What the confidence is computed from: see `features_of`."""
_KEEP_S = 300.0
_MOST_LEAD, _LEAST_LOST = 8.0, 1e-3

_HOSTILE = re.compile(
    r"\b(?:drop|alter|truncate|create|grant|revoke|attach|detach|vacuum|pragma|install)\s+(?:table|view|database|schema|index|user|role|all|extension|\w+\s+to\b)"
    r"|\b(?:delete|insert|update|merge)\s+(?:from|into|\w+\s+set)\b|\bunion\s+(?:all\s+)?select\b|\bselect\b.{0,80}\bfrom\b|;\s*\w+|--\s|/\*|\bread_(?:csv|parquet|json|text|blob)\b"
    r"|\bignore (?:all|any|the|your|previous|prior|above|earlier)\b|\b(?:system prompt|jailbreak|developer mode|/etc/|\.\./|information_schema|sqlite_master|duckdb_\w+)"
    r"|\bbusiness_id\b|\bother (?:business|tenant|compan|merchant|store owner|retailer|client)|\ball (?:businesses|tenants|merchants)\b|\banother (?:business|tenant|company|merchant)",
    re.I,
)  # fmt: skip
_PRIVATE = re.compile(
    r"\be-?mail address|\bemails? of\b|\bbirth ?da(?:te|y)s?\b|\bphone|\bpasswords?\b|\bhome address|\bcredit card|\bssn\b|\bsocial security",
    re.I,
)
_WORD = re.compile(r"\[[A-Za-z0-9_.]+\]|[A-Za-z][A-Za-z'’-]*")


class Decoder(Protocol):
    """Where programs come from."""

    def decode(self, ids: np.ndarray, mask: np.ndarray, slots: Slots, width: int) -> list[Hypothesis]:
        """The best programs for int64 ids and mask (1, L), best first."""
        ...


class Source(Protocol):
    """What the values of a business are read from: `nlq.execute.Engine`."""

    def run(self, sql: str, business_id: str, limit: int | None = None) -> Rows: ...

    def as_of(self, business_id: str) -> datetime: ...


@dataclass(frozen=True)
class Model:
    """What is known of a trained model besides its weights; `model.json` of its folder.

    Attributes:
        version: `text-to-sql/N`.
        words: what the training questions consist of; anything else in a question makes the reading doubtful.
        lexicon: what misspelt words are put right to, the commonest first; empty in models from before.
        calibration: weights of FEATURES in the log odds that a reading is right.
        threshold: confidence below which there is no answer.
        sha256: by file name.
        record: how it was trained and what it scored.
    """

    version: str
    words: frozenset[str]
    calibration: Mapping[str, float]
    threshold: float
    width: int
    sha256: Mapping[str, str]
    record: Mapping[str, Any] = field(default_factory=dict)
    lexicon: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Model:
        """Check a model folder and read its `model.json`.

        Raises:
            ArtifactError: a file is missing, damaged, or made for another language of programs.
        """
        how = "Restore it (git checkout nlq/artifact) or train again: regulars train text-to-sql"
        try:
            raw = json.loads((folder / MODEL).read_text(encoding="utf-8"))
            made = cls(
                raw["version"],
                frozenset(raw["words"]),
                raw["calibration"],
                float(raw["threshold"]),
                int(raw["width"]),
                raw["sha256"],
                raw["record"],
                tuple(raw.get("lexicon", ())),
            )
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise ArtifactError(f"cannot read {folder / MODEL}: {exc}. {how}") from exc
        for name in FILES:
            try:
                found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            except OSError as exc:
                raise ArtifactError(f"cannot read {folder / name}: {exc.strerror}. {how}") from exc
            if found != made.sha256.get(name):
                raise ArtifactError(f"{folder / name} is not the file that {MODEL} names (SHA-256 differs). {how}")
        known = raw.get("tokens")
        if not known or known != list(tokens())[: len(known)] or raw.get("marks") != list(marks()):  # newer words are never said by it
            raise ArtifactError(f"the model in {folder} was trained for another language of programs than this version's. {how}")
        return made


class LocalDecoder:
    """Decodes in this process, one question at a time."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        self._stepper = OnnxStepper(folder, threads)
        self._lock = threading.Lock()

    def decode(self, ids: np.ndarray, mask: np.ndarray, slots: Slots, width: int) -> list[Hypothesis]:
        with self._lock:
            return decode(self._stepper, ids, mask, slots, width)


@dataclass(frozen=True)
class Reading:
    """A question as far as the model got: its links, its hypotheses, and the words that training never met."""

    linked: Linked
    hypotheses: tuple[Hypothesis, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """The hypothesis that is taken: its place, its SQL (None where it refuses) and the features of its confidence."""

    at: int
    lowered: Lowered | None
    features: Mapping[str, float]


class ModelTranslator:
    """`Readers` of nlq.pipeline: one translator a business. Safe from several threads.

    Args:
        model, decoder: of the same folder.
        file: the tokenizer.
        source: where a business's cities, products and names are read.
    """

    def __init__(self, model: Model, decoder: Decoder, file: Path, source: Source) -> None:
        self.model, self._decoder, self.source = model, decoder, source
        self.version = model.version
        self.tokens = Tokens(file)
        self._known = self.tokens.words() | model.words
        self._speller = Speller(model.lexicon, self.tokens.words())
        self._linkers: dict[str, tuple[float, Linker]] = {}
        self._lock = threading.Lock()

    def for_business(self, business_id: str) -> BusinessTranslator:
        return BusinessTranslator(self, business_id)

    def linker(self, business_id: str) -> Linker:
        """Read from the data, and again every five minutes."""
        with self._lock:
            at, linker = self._linkers.get(business_id, (float("-inf"), None))
            if linker is None or time.monotonic() - at > _KEEP_S:
                linker = self.linker_of(catalog(self.source, business_id))
                self._linkers[business_id] = (time.monotonic(), linker)
            return linker

    def linker_of(self, values: Catalog) -> Linker:
        """A linker over these values that knows this model's words."""
        return Linker(values, self._known, self._speller)

    def read(self, question: str, linker: Linker) -> Reading:
        """Link and decode."""
        linked = linker.link(question)
        ids, mask = self.tokens.batch([linked.text])
        found = self._decoder.decode(ids, mask, linked.slots(), self.model.width)
        return Reading(linked, tuple(found), tuple(self._unknown(linked)))

    def _unknown(self, linked: Linked) -> list[str]:
        """Words the training questions do not have."""
        unknown = []
        for word in (w for w in _WORD.findall(linked.text) if not w.startswith("[")):
            low = word.lower().replace("’", "'").strip("'-")
            parts = [p for p in re.split(r"[-']", low) if len(p) > 1]
            strange = [p for p in parts if p not in self.model.words and not _near(p, self.model.words)]
            if strange:
                unknown.append(word)
        return unknown

    def confidence(self, features: Mapping[str, float]) -> float:
        odds = sum(self.model.calibration.get(name, 0.0) * value for name, value in features.items())
        return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, odds))))


class BusinessTranslator:
    """`Translator` of nlq.types for one business."""

    def __init__(self, model: ModelTranslator, business_id: str) -> None:
        self._model, self._business_id = model, business_id

    def translate(self, question: str, *, roles: frozenset[str] = frozenset()) -> Translation:
        ms: dict[str, float] = {}
        start = time.perf_counter()
        linker = self._model.linker(self._business_id)
        ms["link"] = _since(start)
        early = self._refused_by_words(question)
        if early is not None:
            return _refusal(question, early, ms)
        unsayable = beyond(question)
        if unsayable is not None:
            return _refusal(
                question, "unsupported", ms, message=f"I cannot work out {unsayable}, so I do not answer rather than answer wrongly."
            )
        start = time.perf_counter()
        reading = self._model.read(question, linker)
        ms["decode"] = _since(start)
        start = time.perf_counter()
        chosen = choose(reading, linker.catalog, lambda sql: self._model.source.run(sql, self._business_id, limit=1))
        confidence, lowered = self._model.confidence(chosen.features), chosen.lowered
        ms["lower"] = _since(start)
        if lowered is None:
            return _refusal(question, _why(question), ms, confidence)
        program = " ".join(reading.hypotheses[chosen.at].program)
        if any(fields()[t].private for t in program.split() if t in fields()) and PRIVATE_READER not in roles:
            return _refusal(question, "private", ms, confidence)
        if confidence < self._model.model.threshold:
            message = None
            if reading.unknown:
                message = f"I do not know what {_quoted(reading.unknown)} means here, so I do not answer rather than answer wrongly."
            return _refusal(question, "low_confidence", ms, confidence, message, lowered.interpretation)
        return Translation(
            question, False, sql=lowered.sql, program=program, interpretation=lowered.interpretation, columns=lowered.columns,
            confidence=confidence, ms=ms,
        )  # fmt: skip

    def _refused_by_words(self, question: str) -> Reason | None:
        if not question.strip():
            return "empty"
        if _HOSTILE.search(question):
            return "hostile"
        others = re.findall(r"\bbiz-\w+", question.lower())
        return "hostile" if any(o != self._business_id.lower() for o in others) else None


def choose(reading: Reading, values: Catalog, run: Run | None = None) -> Choice:
    """The first hypothesis that SQL can say, unless a refusal comes before it or none can be said.

    Args:
        run: runs a SELECT on the data that is asked about, so that readings which come to the same count together; without it each
            stands for itself.
    """
    found = reading.hypotheses
    for at, hypothesis in enumerate(found):
        if hypothesis.program[0] == "refuse":
            break
        made = _lowered(hypothesis, reading.linked, values)
        if made is not None:
            rivals = {} if run is None else {i: _lowered(found[i], reading.linked, values) for i in within_reach(found, at)}
            same = agreeing(made, rivals, run)
            return Choice(at, made, features_of(reading, at, [i == at or i in same for i in range(len(found))]))
    return Choice(0, None, features_of(reading, 0, [i == 0 for i in range(len(reading.hypotheses))]))


def _lowered(hypothesis: Hypothesis, linked: Linked, values: Catalog) -> Lowered | None:
    if hypothesis.program[0] == "refuse":
        return None
    try:
        return lower(parse(hypothesis.program), linked, values.as_of, several_scores=values.several_scores)
    except (ContractError, KeyError, IndexError, AssertionError):
        return None


def catalog(source: Source, business_id: str) -> Catalog:
    """The values of a business, through the engine that answers its questions."""

    class Reader:
        def execute(self, query: str, parameters: Mapping[str, str]) -> Any:
            found = source.run(query.replace("$b", "'" + parameters["b"].replace("'", "''") + "'"), business_id, limit=60_000)

            class Result:
                def fetchall(self) -> Sequence[tuple[Any, ...]]:
                    return found.data

            return Result()

    return Catalog.read(Reader(), business_id, source.as_of(business_id))


def home_model(home: Path) -> Path:
    """Where `regulars train text-to-sql` puts its model."""
    return home / "text_to_sql" / "artifact"


def model_in(home: Path | None) -> Path:
    """The model to use: the one trained in this home, else the one that came with the product."""
    if home is not None and (home_model(home) / MODEL).is_file():
        return home_model(home)
    return ARTIFACT


def open_translator(source: Source, *, folder: Path = ARTIFACT, decoder: Decoder | None = None) -> ModelTranslator:
    """The translator of a model folder.

    Args:
        source: the engine.
        decoder: where decoding happens; in this process when None.

    Raises:
        ArtifactError: the folder holds no model, or a damaged one.
    """
    model = Model.read(folder)
    return ModelTranslator(model, decoder or LocalDecoder(folder), folder / TOKENIZER, source)


def features_of(reading: Reading, at: int, same: Sequence[bool]) -> dict[str, float]:
    """What tells whether the reading at a place is right.

    `mass`: log of the probability of all readings that come to the same (`same`, by place). `lead`: how far that is ahead of the others
    together. `lost`: log of the probability of all that was not found. `unknown`: words that training never met. `unused`: numbers,
    values and times of the question that the program does not name. `length`: of the program.
    """
    scores = np.array([h.score for h in reading.hypotheses])
    mine = np.array(same, bool)
    mass = float(np.logaddexp.reduce(scores[mine]))
    others = float(np.logaddexp.reduce(scores[~mine])) if not mine.all() else -math.inf
    left = 1.0 - float(np.exp(scores).sum())
    linked, program = reading.linked, reading.hypotheses[at].program
    slots = [f"N{i}" for i in range(len(linked.numbers))] + [f"V{i}" for i in range(len(linked.values))]
    slots += [f"T{i}" for i, t in enumerate(linked.times) if not re.search(r"next|coming", t.label)]
    used = set(program)
    return {
        "bias": 1.0, "mass": mass, "lead": min(_MOST_LEAD, mass - others), "lost": math.log(max(_LEAST_LOST, left)),
        "unknown": float(min(len(reading.unknown), 3)), "unused": float(sum(s not in used for s in slots)), "length": len(program) / 10.0,
    }  # fmt: skip


def _near(word: str, words: Iterable[str]) -> bool:
    """A typo of a known word."""
    if len(word) < 4:
        return False
    near = [w for w in words if abs(len(w) - len(word)) <= 1 and w[0] == word[0]]
    return bool(difflib.get_close_matches(word, near, 1, 0.8))


def _why(question: str) -> Reason:
    return "private" if _PRIVATE.search(question) else "out_of_scope"


def _quoted(words: Sequence[str]) -> str:
    return " and ".join(f"“{w}”" for w in words[:2])


def _since(start: float) -> float:
    return round((time.perf_counter() - start) * 1000, 3)


def _refusal(
    question: str,
    reason: Reason,
    ms: dict[str, float],
    confidence: float = 0.0,
    message: str | None = None,
    interpretation: str | None = None,
) -> Translation:
    return Translation(question, True, reason, message, interpretation=interpretation, confidence=confidence, ms=ms)


__all__ = [
    "ARTIFACT",
    "Decoder",
    "LocalDecoder",
    "Model",
    "ModelTranslator",
    "StackError",
    "catalog",
    "choose",
    "home_model",
    "model_in",
    "open_translator",
]
