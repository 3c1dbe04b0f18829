"""One small warehouse for all tests of questions, and a translator that knows the templates by heart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from nlq.corpus.data import build
from nlq.execute import AskSettings, Engine
from nlq.templates import TEMPLATES, example, query
from nlq.types import OutputColumn, Translation


class ByHeart:
    """Reads what it was told, and refuses the rest: a Translator without a model."""

    def __init__(self, known: Mapping[str, str], columns: Mapping[str, tuple[OutputColumn, ...]] | None = None) -> None:
        self.known, self.columns, self.asked = dict(known), dict(columns or {}), list[str]()

    def translate(self, question: str, *, roles: frozenset[str] = frozenset()) -> Translation:
        self.asked.append(question)
        if question not in self.known:
            return Translation(question, True, "out_of_scope")
        named = self.columns.get(question, ())
        return Translation(question, False, sql=self.known[question], interpretation=f"as asked, {question}", columns=named, confidence=0.9)


@pytest.fixture(scope="session")
def small_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose warehouse has all ten tables filled, for biz-1 and biz-2; nobody may change it."""
    home = tmp_path_factory.mktemp("nlq") / "home"
    build(home, customers=60, months=3, rewards=40)
    return home


@pytest.fixture(scope="session")
def small_engine(small_home: Path) -> Iterator[Engine]:
    with Engine(small_home / "warehouse", AskSettings()) as engine:
        yield engine


@pytest.fixture(scope="session")
def told() -> type[ByHeart]:
    """The class, for tests that need a translator of their own."""
    return ByHeart


@pytest.fixture
def by_heart() -> ByHeart:
    return ByHeart({example(t): query(t) for t in TEMPLATES})


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of random weights, quantized; nobody may change it."""
    from .tiny import folder_of, network  # torch only where a test asks for it

    return folder_of(network(), tmp_path_factory.mktemp("text_to_sql") / "artifact", words=["how", "many", "customers", "in", "gold"])
