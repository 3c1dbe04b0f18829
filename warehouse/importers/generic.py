"""Your own CSV or Parquet files, told by a YAML mapping. No SQL and no code in it: columns, constants and four simple transforms.

    name: corner-shop
    tables:
      transactions:
        file: sales/*.csv            # one file, or a pattern below the folder
        delimiter: ";"               # CSV only; the default is a comma
        columns:
          transaction_id: receipt    # target: source column
          customer_id: {columns: [shop, member], separator: "-"}
          occurred_at: {column: when, format: "%d.%m.%Y %H:%M", timezone: Europe/Berlin}
          amount: {column: total, decimal: ","}
          discount_amount: {column: discount_cents, scale: 0.01}
          channel: {column: till, map: {T1: store, WEB: web}, default: store}
          store: {value: High Street}

`business_id` is given by the import. A value that a transform cannot read goes on as it is, and the warehouse puts that row aside with
its reason.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from contracts.errors import ArtifactError, ContractError
from contracts.tables import TABLES
from warehouse.importers.common import Importer, Notes


class _Loader(yaml.SafeLoader):
    """Every scalar is text, but null: a column named `on` or a code `01` or `no` stays what it is."""


_Loader.yaml_implicit_resolvers = {
    first: [r for r in resolvers if r[0] == "tag:yaml.org,2002:null"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class ColumnRule(BaseModel):
    """Where one column of a table comes from: `column`, `columns` or `value`. Transforms apply in the order map, decimal, scale, format."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    column: str | None = None
    columns: list[str] | None = Field(None, min_length=1)
    separator: str = "-"
    value: str | None = None
    map: dict[str, str | None] | None = None
    default: str | None = None
    decimal: str | None = Field(None, pattern="^[.,]$")
    scale: float | None = Field(None, allow_inf_nan=False)
    format: str | None = None
    timezone: str = "UTC"

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, given: Any) -> Any:
        """`target: source` means `target: {column: source}`."""
        return {"column": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        given = [n for n in ("column", "columns", "value") if n in self.model_fields_set]
        if len(given) != 1:
            raise ValueError(f"give one of column, columns or value, not {', '.join(given) or 'none'}")
        if "default" in self.model_fields_set and self.map is None:
            raise ValueError("default needs a map")
        return self

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ValueError, OSError, KeyError) as exc:
            raise ValueError(f"no time zone {name!r}, write for example Europe/Berlin") from exc
        return name

    @property
    def sources(self) -> list[str]:
        return self.columns if self.columns is not None else [self.column] if self.column is not None else []

    @property
    def transforms(self) -> bool:
        return self.map is not None or self.decimal is not None or self.scale is not None or self.format is not None


class TableRule(BaseModel):
    """Where one table comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    file: str = Field(min_length=1)
    columns: dict[str, ColumnRule] = Field(min_length=1)
    delimiter: str = Field(",", min_length=1, max_length=1)
    encoding: str = "utf8"


class Mapping(BaseModel):
    """A whole mapping file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field("", pattern=r"^[\w .-]*$")
    tables: dict[str, TableRule] = Field(min_length=1)


def read_mapping(path: Path) -> Mapping:
    """Read and check a mapping file.

    Raises:
        ArtifactError: the file cannot be read.
        ContractError: it is not YAML, or names something unknown.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader that resolves less
    except OSError as exc:
        raise ArtifactError(f"cannot read mapping {path}: {exc}. Give the path of a YAML file; docs/data.md shows one.") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise ContractError(f"mapping {path} is not YAML: {exc}. docs/data.md shows one.") from exc
    try:
        mapping = Mapping.model_validate(raw)
    except ValidationError as exc:
        raise ContractError(f"mapping {path} is not valid: {_problems(exc)}. docs/data.md shows one.") from exc
    for table, rule in mapping.tables.items():
        _known(table, TABLES, f"mapping {path}: table")
        for target in rule.columns:
            _known(target, TABLES[table].columns, f"mapping {path}: column of {table}")
        lacking = [c for c in TABLES[table].required if c not in rule.columns and c != "business_id"]
        if lacking:
            raise ContractError(f"mapping {path}: {table} needs {', '.join(lacking)} as well. Add a line for each under columns.")
    return mapping


def _problems(exc: ValidationError) -> str:
    names = sorted({*Mapping.model_fields, *TableRule.model_fields, *ColumnRule.model_fields})
    parts = []
    for error in exc.errors(include_url=False):
        near = difflib.get_close_matches(str(error["loc"][-1]), names, n=1) if error["type"] == "extra_forbidden" and error["loc"] else []
        parts.append(f"{'.'.join(map(str, error['loc']))}: {error['msg']}{f' (did you mean {near[0]}?)' if near else ''}")
    return "; ".join(parts)


def _known(name: str, names: Iterable[str], what: str) -> None:
    options = list(names)
    if name not in options:
        near = difflib.get_close_matches(name, options, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(options)}."
        raise ContractError(f"{what} {name!r} is not known. {hint}")


def files(mapping: Mapping, folder: Path) -> list[Path]:
    """Every file that the mapping reads, in a fixed order."""
    return sorted({f for rule in mapping.tables.values() for f in _files(rule, folder)})


def _files(rule: TableRule, folder: Path) -> list[Path]:
    if Path(rule.file).is_absolute() or ".." in Path(rule.file).parts:
        raise ContractError(f"file {rule.file!r} leaves the folder, it must lie below {folder}. Give a path relative to --from.")
    found = sorted(p for p in folder.glob(rule.file) if p.is_file())
    if not found:
        raise ArtifactError(
            f"no file {rule.file} below {folder}, the mapping names it. Correct the mapping, or give the right folder with --from."
        )
    return found


def importer(mapping: Mapping) -> Importer:
    """An importer for this mapping: one batch per table and file."""

    def tables(folder: Path, business_id: str, notes: Notes) -> Iterator[tuple[str, pa.Table]]:
        for name, rule in mapping.tables.items():
            for path in _files(rule, folder):
                yield name, _convert(name, rule, _read(path, rule, notes), path, business_id)

    return tables


def _read(path: Path, rule: TableRule, notes: Notes) -> pa.Table:
    try:
        return pq.read_table(path) if path.suffix == ".parquet" else _read_csv(path, rule, notes)
    except (pa.ArrowException, OSError, LookupError) as exc:
        raise ArtifactError(f"cannot read {path}: {exc}. It must be Parquet (*.parquet) or CSV with a header line.") from exc


def _read_csv(path: Path, rule: TableRule, notes: Notes) -> pa.Table:
    """All columns as text; the warehouse reads the types value by value."""
    skipped: list[int] = []

    def skip(row: Any) -> str:
        skipped.append(row.actual_columns)
        return "skip"

    reading = pa_csv.ReadOptions(encoding=rule.encoding, use_threads=False)
    parsing = pa_csv.ParseOptions(delimiter=rule.delimiter, newlines_in_values=True, invalid_row_handler=skip)
    with pa_csv.open_csv(path, read_options=reading, parse_options=parsing) as head:
        names = head.schema.names
    skipped.clear()
    converting = pa_csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""], check_utf8=False
    )  # fmt: skip
    table = pa_csv.read_csv(path, read_options=reading, parse_options=parsing, convert_options=converting)
    if skipped:
        notes(f"{len(skipped):,} lines of {path.name} left out: not the {len(names)} fields of the header line")
    return table


def _convert(name: str, rule: TableRule, source: pa.Table, path: Path, business_id: str) -> pa.Table:
    for column in (c for r in rule.columns.values() for c in r.sources):
        _known(column, source.column_names, f"{path.name} for {name}: source column")
    out = {target: _column(column_rule, source) for target, column_rule in rule.columns.items()}
    if "business_id" in TABLES[name].columns and "business_id" not in out:
        out["business_id"] = pa.array([business_id] * source.num_rows, pa.string())
    return pa.table(out)


def _column(rule: ColumnRule, source: pa.Table) -> pa.ChunkedArray | pa.Array:
    if "value" in rule.model_fields_set:
        return pa.array([rule.value] * source.num_rows, pa.string())
    column = source[rule.sources[0]] if len(rule.sources) == 1 else _joined([source[c] for c in rule.sources], rule.separator)
    return _transformed(column, rule) if rule.transforms else column


def _joined(columns: list[pa.ChunkedArray], separator: str) -> pa.ChunkedArray:
    """Null where one of the parts is null."""
    return pc.binary_join_element_wise(*[c.cast(pa.string()) for c in columns], separator, null_handling="emit_null")


def _transformed(column: pa.ChunkedArray, rule: ColumnRule) -> pa.ChunkedArray:
    """Apply the transforms once to each distinct value."""
    text = column.cast(pa.string()) if not pa.types.is_string(column.type) else column
    encoded = text.cast(pa.binary()).combine_chunks().dictionary_encode()
    read = [_value(raw.decode("utf-8", "backslashreplace"), rule) for raw in encoded.dictionary.to_pylist()]
    return pa.chunked_array([pa.array(read, pa.string()).take(encoded.indices)])


def _value(text: str, rule: ColumnRule) -> str | None:
    if rule.map is not None:
        missing = rule.default if "default" in rule.model_fields_set else text
        mapped = rule.map.get(text.strip(), missing)
        if mapped is None:
            return None
        text = mapped
    if rule.decimal == ",":
        text = text.replace(".", "").replace(",", ".")
    if rule.scale is not None:
        text = _scaled(text, rule.scale)
    return _dated(text, rule) if rule.format is not None else text


def _scaled(text: str, scale: float) -> str:
    try:
        return format(Decimal(text.strip()) * Decimal(str(scale)), "f")
    except InvalidOperation:
        return text


def _dated(text: str, rule: ColumnRule) -> str:
    try:
        value = datetime.strptime(text.strip(), rule.format or "")
        return (value if value.tzinfo else value.replace(tzinfo=ZoneInfo(rule.timezone))).astimezone(UTC).isoformat()
    except (ValueError, OverflowError):
        return f"{text} (not {rule.format})"  # not left as it is: another reading of the digits might pass
