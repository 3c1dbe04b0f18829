"""How often are questions answered right? Ours beside a peer, on the same questions, by the rows.

Sets: `test` (written before training by somebody who saw only the schema, never trained on), `development` (likewise written; errors on
it were looked at, and the confidence is fitted on it), `held-out templates` (lines of the bank whose programs were never trained on; the
half that the confidence is fitted on is a set of its own), refusals, and people's questions about other databases, which must be refused
(`foreign_questions`).

The peer is retrieval: the bank's nearest question by all-MiniLM-L6-v2, among those whose slots the question can fill, and its program.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from contracts.errors import ContractError
from embeddings.text import embed
from nlq.calibrate import DEVELOPMENT, Judge, Outcome
from nlq.corpus.bank import expand, fitted_on, held_out, read
from nlq.corpus.check import values_of
from nlq.evaluate import same_rows
from nlq.link import Linked
from nlq.lower import lower
from nlq.program import parse

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Question:
    """`wanted`: acceptable rows; none where it must be refused."""

    text: str
    set: str
    wanted: tuple[list[tuple[Any, ...]], ...]
    ordered: bool = False


class Retrieval:
    """The peer: nearest question of the bank, and its program."""

    def __init__(self, judge: Judge, cache: Path | None = None, seed: int = 3) -> None:
        self.judge = judge
        rng, values = np.random.default_rng(seed), values_of(judge.connection)
        self.programs: list[str] = []
        texts = []
        for line in read():
            if held_out(line):
                continue
            for _ in range(2):
                linked = judge.linker.link(expand(line, values, rng))
                try:
                    parse(line.program, linked.slots())
                except ContractError:
                    continue
                texts.append(plain(linked))
                self.programs.append(line.program)
        self.vectors = embed(texts, cache_dir=cache)
        self.threshold = 0.0

    def answer(self, question: str) -> tuple[list[tuple[Any, ...]] | None, float]:
        """Rows (None for a refusal) and the similarity."""
        linked = self.judge.linker.link(question)
        near = self.vectors @ embed([plain(linked)])[0]
        slots = linked.slots()
        for at in np.argsort(-near)[:200]:
            try:
                tree = parse(self.programs[at], slots)
                if tree.kind == "refuse":
                    return None, float(near[at])
                return self.judge.rows(lower(tree, linked, self.judge.catalog.as_of).sql), float(near[at])
            except (ContractError, duckdb.Error):
                continue
        return None, 0.0


def plain(linked: Linked) -> str:
    """A linked question as the sentence encoder knows words: slots named after what they hold."""
    text = linked.text
    for at, v in enumerate(linked.values):
        text = text.replace(f"[V{at}]", sorted(v.columns)[0].replace(".", " "))
    for mark, word in (("[N", "number"), ("[T", "period")):
        while mark in text:
            start = text.index(mark)
            text = text[:start] + word + text[text.index("]", start) + 1 :]
    while "[" in text and "]" in text[text.index("[") :]:
        start = text.index("[")
        text = text[:start] + text[text.index("]", start) + 1 :]
    return " ".join(text.split())


def questions_of(judge: Judge, file: Path, name: str, split: bool = False) -> list[Question]:
    """Questions of a JSONL file with their acceptable rows; `split` makes those that must be refused a set of their own."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        raw = json.loads(line)
        queries = raw.get("sql") or []
        wanted = tuple(judge.rows(q) for q in ([queries] if isinstance(queries, str) else queries))
        found.append(
            Question(raw["q"], raw.get("set", name if wanted or not split else f"{name} refusals"), wanted, bool(raw.get("ordered")))
        )
    return found


def questions_of_bank(judge: Judge, times: int = 2, seed: int = 9) -> list[Question]:
    """Held-out lines of the bank, each filled `times` times; those that the confidence was fitted on are sets of their own."""
    rng, values, found = np.random.default_rng(seed), values_of(judge.connection), []
    for line in read():
        if not held_out(line):
            continue
        for _ in range(times):
            text = expand(line, values, rng)
            linked = judge.linker.link(text)
            try:
                tree = parse(line.program, linked.slots())
                wanted = () if tree.kind == "refuse" else (judge.rows(lower(tree, linked, judge.catalog.as_of).sql),)
            except (ContractError, duckdb.Error):
                continue
            name = "held-out templates" if wanted else "held-out refusals"
            found.append(Question(text, f"{name}, fitted on" if fitted_on(line) else name, wanted))
    return found


def foreign_questions(folder: Path, each: int = 6) -> list[Question]:
    """People's questions about other databases: Spider's (Yu and others, EMNLP 2018), of the half of its databases that is held out here.

    A model of one schema cannot answer them, and must not: every one has to be refused. Those about shops and customers of another schema
    are a set of their own, since some of them can rightly be read as ours ("How many customers are there?").

    Args:
        folder: `spider_text_to_sql` of the public data sets.
        each: questions of each database, the first by the hash of their text.
    """

    def place(text: str) -> int:
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")

    shops = {schema["db_id"] for schema in json.loads((folder / "schemas.json").read_text(encoding="utf-8"))}
    file = str(folder / "questions_train.parquet")
    rows = duckdb.connect().execute("SELECT db_id, question FROM read_parquet($file)", {"file": file}).fetchall()
    by_database: dict[str, list[str]] = {}
    for database, question in rows:
        if place(database) % 2:
            by_database.setdefault(database, []).append(question)
    return [
        Question(q, "Spider, shops" if database in shops else "Spider, other subjects", ())
        for database in sorted(by_database)
        for q in sorted(by_database[database], key=place)[:each]
    ]


def score(
    judge: Judge, questions: Sequence[Question], peer: Retrieval | None = None, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """One row a set and system: questions, accuracy (a refusal counts as not right), answered, wrong_of_answered, refused, ms."""
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(q.set for q in questions):
        of_set = [q for q in questions if q.set == name]
        outcomes, times = [], []
        for q in of_set:
            start = time.perf_counter()
            outcomes.append(judge.outcome(q.text, q.wanted, q.set))
            times.append((time.perf_counter() - start) * 1000)
        rows.append({"set": name, "model": "regulars", **ours(outcomes, judge.model.threshold), "ms": round(float(np.median(times)), 1)})
        if peer is not None:
            rows.append({"set": name, "model": "nearest question (MiniLM)", **theirs(peer, of_set)})
        if progress is not None:
            progress(name)
    return rows


def ours(outcomes: Sequence[Outcome], threshold: float) -> dict[str, Any]:
    """Shares over a set, at the confidence that is the default."""
    given = np.array([o.answered and o.confidence >= threshold for o in outcomes])
    return _shares(
        np.array([o.must_refuse for o in outcomes]), given, np.array([o.right for o in outcomes]), np.array([o.answered for o in outcomes])
    )


def theirs(peer: Retrieval, questions: Sequence[Question]) -> dict[str, Any]:
    given, right = [], []
    for q in questions:
        rows, _ = peer.answer(q.text)
        given.append(rows is not None)
        right.append((not q.wanted) if rows is None else any(same_rows(rows, w) for w in q.wanted))
    return _shares(np.array([not q.wanted for q in questions]), np.array(given), np.array(right), np.array(given))


def _shares(refusals: np.ndarray, given: np.ndarray, right: np.ndarray, made: np.ndarray) -> dict[str, Any]:
    row: dict[str, Any] = {"questions": len(given)}
    real = ~refusals
    if real.any():
        row["accuracy"] = round(float((right & made)[real].mean()), 4)
        row["answered"] = round(float(given[real].mean()), 4)
        row["right_of_all"] = round(float((right & given)[real].mean()), 4)
        row["wrong_of_answered"] = round(float((given & ~right)[real].sum() / max(1, given[real].sum())), 4)
    if refusals.any():
        row["refused"] = round(float((~given)[refusals].mean()), 4)
    return row


__all__ = ["DEVELOPMENT", "Question", "Retrieval", "questions_of", "questions_of_bank", "score"]
