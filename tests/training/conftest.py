"""Home folders whose MLflow database is laid out already: laying it out takes ten seconds, copying it none."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from contracts.paths import Home


@pytest.fixture(scope="session")
def new_home(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Home]:
    from training.registry import Registry

    template = Home(tmp_path_factory.mktemp("template"))
    Registry(template)

    def make() -> Home:
        home = Home(tmp_path_factory.mktemp("home"))
        home.mlruns.mkdir()
        shutil.copy(template.mlruns / "mlflow.db", home.mlruns / "mlflow.db")
        return home

    return make
