"""From files to tables: built-in importers by name, and a YAML mapping for files of one's own."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable
from pathlib import Path

from contracts.bundle import file_sha256
from contracts.errors import ArtifactError, ContractError
from warehouse.importers import cdnow, generic, movielens_100k, online_retail_ii, starbucks_rewards
from warehouse.importers.common import Importer, Notes
from warehouse.store import LandingReport, Warehouse

IMPORTERS: dict[str, Importer] = {
    "starbucks_rewards": starbucks_rewards.tables,
    "online_retail_ii": online_retail_ii.tables,
    "movielens_100k": movielens_100k.tables,
    "cdnow": cdnow.tables,
}


def import_into(
    warehouse: Warehouse,
    name_or_mapping: str | Path,
    folder: Path,
    business_id: str,
    notes: Notes = lambda _: None,
    on_report: Callable[[LandingReport], None] = lambda _: None,
) -> list[LandingReport]:
    """Import a folder into the warehouse; the same files again change nothing.

    Args:
        name_or_mapping: a name of `IMPORTERS`, or the path of a YAML mapping (`generic.Mapping`).
        folder: where the source files lie.
        business_id: given to each row.
        notes: told what was left out or decided.
        on_report: told of each landing as it is done.

    Raises:
        ContractError: no such importer or mapping, a mapping that is not valid, or files without the needed columns.
        ArtifactError: a file is missing or cannot be read.
    """
    if not business_id.strip():
        raise ContractError("the business id is empty, every row needs one. Give it with --business.")
    if not folder.is_dir():
        raise ArtifactError(f"no folder {folder}, it must hold the files to import. Give it with --from.")
    importer, label, files = _choose(str(name_or_mapping), folder)
    digest = _digest(label, business_id, files)
    reports = []
    for number, (table, batch) in enumerate(importer(folder, business_id, notes)):
        report = warehouse.land(table, batch, f"import:{label.split(':')[0]}:{digest}:{number}")
        on_report(report)
        reports.append(report)
    return reports


def _choose(name: str, folder: Path) -> tuple[Importer, str, list[Path]]:
    """The importer, a label that names it with its mapping, and the files it reads."""
    if name in IMPORTERS:
        return IMPORTERS[name], name, sorted(folder.glob("*.parquet"))
    path = Path(name)
    if path.suffix.lower() in (".yaml", ".yml"):
        mapping = generic.read_mapping(path)
        label = f"{mapping.name or path.stem}:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        return generic.importer(mapping), label, generic.files(mapping, folder)
    near = difflib.get_close_matches(name, IMPORTERS, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ContractError(
        f"no importer {name!r}, there are {', '.join(IMPORTERS)}, or give a mapping file *.yaml.{hint} docs/data.md shows one."
    )


def _digest(label: str, business_id: str, files: list[Path]) -> str:
    """Names these files' content, the importer and the business."""
    parts = [label, business_id, *(f"{f.name} {file_sha256(f)}" for f in files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
