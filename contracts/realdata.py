"""Where the public data sets lie."""

from __future__ import annotations

from pathlib import Path

from contracts.errors import ArtifactError
from contracts.settings import StackSettings, settings_config


class RealdataSettings(StackSettings):
    """Where the public data sets lie (`REGULARS_REALDATA`)."""

    model_config = settings_config("")

    regulars_realdata: Path = Path("../shared/data")


def find_set(name_or_folder: str, settings: RealdataSettings) -> Path:
    """The folder of a data set, from its name among the public ones or from a path.

    Raises:
        ArtifactError: there is no such folder.
    """
    named = settings.regulars_realdata / name_or_folder
    places = [named] if len(Path(name_or_folder).parts) == 1 and name_or_folder not in (".", "..") else []
    for place in (*places, Path(name_or_folder)):
        if place.is_dir():
            return place
    raise ArtifactError(
        f"no data {name_or_folder}, neither as a folder nor in {settings.regulars_realdata} (REGULARS_REALDATA names the folder of the "
        "public sets). Give another --data."
    )
