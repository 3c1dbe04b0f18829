"""The first wall: of all SQL, one SELECT over known tables, columns and functions, narrowed to one business.

An allow-list over sqlglot's syntax tree. Whatever is not named here is refused, arguments of nodes included, because the generator prints
some of them as they came. The SQL that is run is printed from the tree, never the text that was sent.

Tenancy and privacy hold by construction, not by analysis: each reference to a table of the schema, wherever it stands, becomes

    (SELECT <the columns the role may see> FROM <table> WHERE business_id = '<business>') AS <alias>

so that inside the query another business's rows and a private column do not exist, whatever `*`, an alias or a correlated subquery makes
of them. What sqlglot and DuckDB may understand differently is thereby small; `nlq.execute` is the second wall, and needs none of this.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import sqlglot
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, traverse_scope
from sqlglot.tokens import TokenType

from contracts.errors import ContractError, QueryRefused
from nlq.schema import PRIVATE_READER, SCHEMA, TENANT, Schema

# It logs what it could not parse, with the user's text; our errors say it without.
logging.getLogger("sqlglot").setLevel(logging.CRITICAL)

REASONS = {
    "not_sql": "the text is not SQL that can be read",
    "several_statements": "more than one statement",
    "not_select": "not a SELECT",
    "too_long": "the text is too long",
    "too_deep": "nested too deeply",
    "too_complex": "too many tables, joins or subqueries",
    "construct": "a part of SQL that is not allowed",
    "function": "a function that is not allowed",
    "table_function": "a function, file or parameter in place of a table",
    "qualified_name": "a name with a database or schema in front",
    "unknown_table": "no such table",
    "unknown_column": "no such column",
    "name": "a name that is not allowed here",
    "private": "a private column",
    "tenant": "another business",
    "recursive": "a recursive query",
    "cross_join": "tables that are joined by no condition",
    "limit": "a LIMIT or OFFSET that is not a plain number",
    "cannot_run": "the engine cannot run it",
    "too_large": "it needs more memory than a question may take",
}
"""What `QueryRefused.reason` may be. The last two come from `nlq.execute`."""

MAX_CHARACTERS = 8_000
MAX_TOKENS = 2_500
MAX_PARENTHESES = 40
MAX_DEPTH = 120
"""Levels of the syntax tree; a chain of 100 ANDs has 100."""
MAX_TABLES = 16
MAX_JOINS = 8
MAX_SELECTS = 24
MAX_COLUMNS = 100
MAX_VALUES = 500
MAX_OFFSET = 1_000_000


@dataclass(frozen=True)
class Guarded:
    """A query that may be run.

    Attributes:
        sql: one SELECT in DuckDB's dialect, every table narrowed to the business. It asks for one row more than `limit` where the
            query set no smaller limit itself, so that what is cut off shows.
        tables: the schema's tables that it reads.
        columns: `table.column` that it reads by name or by `*`.
        limit: rows that may be shown.
    """

    sql: str
    tables: frozenset[str]
    columns: frozenset[str]
    limit: int


def check(sql: str, *, business_id: str, roles: frozenset[str] = frozenset(), row_limit: int = 1_000, schema: Schema = SCHEMA) -> Guarded:
    """Refuse the query, or give back one that reads this business's rows only.

    Args:
        sql: as a model or a person wrote it.
        business_id: whose rows; it comes from the caller's key, never from the question.
        roles: `private_reader` may see private columns.
        row_limit: most rows of an answer, at least 1.

    Raises:
        QueryRefused: with a `reason` of `REASONS`.
        ContractError: business_id is empty, longer than 200 characters or holds a zero byte; row_limit is below 1.
    """
    if not business_id or len(business_id) > 200 or "\x00" in business_id:
        raise ContractError(f"business_id has {len(business_id)} characters, 1 to 200 without a zero byte are allowed. Send the key's own.")
    if row_limit < 1:
        raise ContractError(f"row_limit is {row_limit}, at least 1 is needed. Raise it.")
    try:
        return _check(sql, business_id, roles, row_limit, schema)
    except RecursionError:
        _refuse("too_deep", "the query is nested too deeply to be read. Ask for less at once.")
    except SqlglotError:
        _refuse("not_sql", "the text is not SQL that can be read; one SELECT in DuckDB's dialect is allowed. Correct it.")
    except (KeyError, ValueError, TypeError, AttributeError, IndexError):
        # A mistake of the parser on input that nobody wrote before: closed, not open.
        _refuse("not_sql", "the query cannot be analysed; one plain SELECT is allowed. Write it more simply.")


def _check(sql: str, business_id: str, roles: frozenset[str], row_limit: int, schema: Schema) -> Guarded:
    _check_text(sql)
    tree = _one_select(sql)
    for node in tree.walk():
        _check_node(node)
    _check_size(tree)
    hidden = frozenset() if PRIVATE_READER in roles else schema.private
    _check_names(tree, {column for _, column in hidden}, schema)
    references = _table_references(tree, schema)
    _check_tenant(tree, business_id)
    columns = _resolve(tree, schema, hidden)
    limit = _set_limit(tree, row_limit)
    # References inside one another do not occur (a table has no children), so any order does.
    for table in references:
        _narrow(table, business_id, schema, hidden)
    printed = tree.sql(dialect="duckdb", comments=False, identify=True)
    return Guarded(printed, frozenset(t.name.lower() for t in references), columns, limit)


def _refuse(reason: str, message: str) -> NoReturn:
    raise QueryRefused(message, reason)


def _shown(text: object) -> str:
    """A piece of the query for a message: short, and in one line."""
    flat = " ".join(str(text).split())
    return repr(flat if len(flat) <= 60 else flat[:57] + "...")


# ---- text to one tree -------------------------------------------------------------------------------------------------------


def _check_text(sql: str) -> None:
    if len(sql) > MAX_CHARACTERS:
        _refuse("too_long", f"the query has {len(sql)} characters, {MAX_CHARACTERS} are allowed. Ask for less at once.")
    odd = next((c for c in sql if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co") and c not in "\n\r\t"), None)
    if odd is not None:
        _refuse("not_sql", f"the query holds the character U+{ord(odd):04X}, no control or invisible ones are allowed. Remove it.")
    tokens = DuckDB().tokenize(sql)
    if len(tokens) > MAX_TOKENS:
        _refuse("too_long", f"the query has {len(tokens)} words and signs, {MAX_TOKENS} are allowed. Ask for less at once.")
    depth = deepest = 0
    for token in tokens:
        depth += (token.token_type in _OPENING) - (token.token_type in _CLOSING)
        deepest = max(deepest, depth)
    if deepest > MAX_PARENTHESES:
        _refuse("too_deep", f"the query has {deepest} parentheses inside one another, {MAX_PARENTHESES} are allowed. Write it flatter.")


_OPENING = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE, TokenType.CASE}
_CLOSING = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE, TokenType.END}


def _one_select(sql: str) -> exp.Query:
    statements = [s for s in sqlglot.parse(sql, read="duckdb") if s is not None]
    if not statements:
        _refuse("not_sql", "the query is empty, one SELECT is needed. Write one.")
    if len(statements) > 1:
        _refuse("several_statements", f"there are {len(statements)} statements, one SELECT is allowed. Send one.")
    tree: Any = statements[0]
    if not isinstance(tree, exp.Select | exp.SetOperation | exp.Subquery):
        _refuse("not_select", f"this is {type(tree).__name__.upper()}, only SELECT is allowed. Ask for rows.")
    while isinstance(tree, exp.Subquery):
        if set(_given(tree)) != {"this"} or not isinstance(tree.this, exp.Select | exp.SetOperation | exp.Subquery):
            _refuse("construct", f"{_shown(tree)} is more than one SELECT in parentheses. Take the parentheses away.")
        tree = tree.this.pop()
    return tree


# ---- what may stand in the tree ---------------------------------------------------------------------------------------------

_QUERY = {"with_", "order", "limit", "offset"}
_ARGUMENTS: dict[type[exp.Expr], set[str]] = {
    exp.Select: _QUERY | {"expressions", "distinct", "from_", "joins", "where", "group", "having", "qualify", "windows"},
    exp.Union: _QUERY | {"this", "expression", "distinct"},
    exp.Intersect: _QUERY | {"this", "expression", "distinct"},
    exp.Except: _QUERY | {"this", "expression", "distinct"},
    exp.Subquery: {"this", "alias"},
    exp.With: {"expressions"},
    exp.CTE: {"this", "alias", "materialized"},
    exp.From: {"this"},
    exp.Table: {"this", "alias"},
    exp.TableAlias: {"this", "columns"},
    exp.Join: {"this", "on", "using", "side", "kind"},
    exp.Lateral: {"this", "alias"},
    exp.Where: {"this"},
    exp.Group: {"expressions", "rollup", "all"},
    exp.Rollup: {"expressions"},
    exp.Having: {"this"},
    exp.Qualify: {"this"},
    exp.Order: {"expressions"},
    exp.Ordered: {"this", "desc", "nulls_first"},
    exp.Limit: {"expression"},
    exp.Offset: {"expression"},
    exp.Distinct: {"expressions", "on"},
    exp.Star: set(),
    exp.Column: {"this", "table"},
    exp.Identifier: {"this", "quoted"},
    exp.Alias: {"this", "alias"},
    exp.Literal: {"this", "is_string"},
    exp.Boolean: {"this"},
    exp.Null: set(),
    exp.Var: {"this"},
    exp.Paren: {"this"},
    exp.Tuple: {"expressions"},
    exp.Cast: {"this", "to"},
    exp.TryCast: {"this", "to", "safe", "requires_string"},
    exp.DataType: {"this", "expressions"},
    exp.DataTypeParam: {"this"},
    exp.Interval: {"this", "unit"},
    exp.In: {"this", "expressions", "query"},
    exp.Exists: {"this"},
    exp.Any: {"this"},
    exp.All: {"this"},
    exp.Between: {"this", "low", "high"},
    exp.Case: {"this", "ifs", "default"},
    exp.If: {"this", "true", "false"},
    exp.Window: {"this", "partition_by", "order", "spec", "alias", "over"},
    exp.WindowSpec: {"kind", "start", "start_side", "end", "end_side"},
    exp.Filter: {"this", "expression"},
    exp.WithinGroup: {"this", "expression"},
    exp.AtTimeZone: {"this", "zone"},
    exp.JSONExtractScalar: {"this", "expression", "only_json_types", "scalar_only"},
    exp.JSONPath: {"expressions"},
    exp.JSONPathRoot: set(),
    exp.JSONPathKey: {"this"},
    exp.Anonymous: {"this", "expressions"},
}  # fmt: skip
"""Which arguments each class of node may have. A class that is neither here nor in `_PLAIN` is refused."""

_PLAIN: tuple[type[exp.Expr], ...] = (
    exp.And, exp.Or, exp.Not, exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Is, exp.NullSafeEQ, exp.NullSafeNEQ,
    exp.Add, exp.Sub, exp.Mul, exp.Div, exp.IntDiv, exp.Mod, exp.Neg, exp.DPipe, exp.Like, exp.ILike, exp.SimilarTo, exp.Escape,
    exp.Count, exp.CountIf, exp.Sum, exp.Avg, exp.Min, exp.Max, exp.Median, exp.Mode, exp.Stddev, exp.StddevSamp, exp.StddevPop,
    exp.Variance, exp.VariancePop, exp.PercentileCont, exp.PercentileDisc, exp.Quantile, exp.ApproxDistinct, exp.ApproxQuantile,
    exp.Corr, exp.CovarPop, exp.CovarSamp, exp.LogicalAnd, exp.LogicalOr, exp.AnyValue, exp.IgnoreNulls, exp.First, exp.Last, exp.ArgMin,
    exp.ArgMax, exp.GroupConcat, exp.RegrSlope, exp.RegrIntercept, exp.Kurtosis, exp.Skewness, exp.Grouping,
    exp.Abs, exp.Round, exp.Floor, exp.Ceil, exp.Trunc, exp.Sign, exp.Sqrt, exp.Pow, exp.Exp, exp.Ln, exp.Log, exp.Greatest, exp.Least,
    exp.IsNan, exp.Coalesce, exp.Nullif, exp.Lower, exp.Upper, exp.Length, exp.Trim, exp.Substring, exp.Left, exp.Right, exp.Replace,
    exp.Concat, exp.ConcatWs, exp.Contains, exp.StartsWith, exp.EndsWith, exp.StrPosition, exp.SplitPart, exp.RegexpLike, exp.RegexpExtract,
    exp.Levenshtein, exp.JarowinklerSimilarity,
    exp.TimestampTrunc, exp.DateTrunc, exp.Extract, exp.Year, exp.Month, exp.Day, exp.Hour, exp.Minute, exp.Week, exp.Quarter,
    exp.DayOfWeek, exp.DayOfWeekIso, exp.DayOfYear, exp.WeekOfYear, exp.Dayname, exp.Monthname, exp.DateDiff, exp.DateAdd, exp.DateBin,
    exp.DateFromParts, exp.Date, exp.LastDay, exp.TimeToStr, exp.StrToTime, exp.TimeToUnix, exp.ToDays, exp.CurrentDate,
    exp.CurrentTimestamp,
    exp.RowNumber, exp.Rank, exp.DenseRank, exp.PercentRank, exp.CumeDist, exp.Ntile, exp.Lag, exp.Lead, exp.FirstValue, exp.LastValue,
    exp.NthValue,
)  # fmt: skip
"""Operators and functions: any arguments that are expressions or flags, none that are bare text."""
_PLAIN_SET = frozenset(_PLAIN)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BY_NAME = _words(
    "mean count_star date_part datepart date_sub datesub weekday yearweek isoyear age to_weeks to_months to_years to_hours now isfinite "
    "prefix suffix strip_accents round_even favg fsum decade century"
)
"""Functions that sqlglot has no class for."""

_TYPES = frozenset(
    getattr(exp.DType, name)
    for name in _words(
        "BOOLEAN TINYINT SMALLINT INT BIGINT INT128 FLOAT DOUBLE DECIMAL VARCHAR TEXT DATE TIME TIMESTAMP TIMESTAMPNTZ TIMESTAMPTZ INTERVAL"
    )
)
_PARTS = _words(
    "YEAR YEARS QUARTER QUARTERS MONTH MONTHS WEEK WEEKS DAY DAYS HOUR HOURS MINUTE MINUTES SECOND SECONDS MILLISECOND MICROSECOND DECADE "
    "CENTURY DOW DAYOFWEEK ISODOW DAYOFWEEKISO DOY DAYOFYEAR ISOYEAR YEARWEEK EPOCH"
)
"""Parts of a date: sqlglot prints them as they came."""
_TEXTS: dict[tuple[type[exp.Expr], str], re.Pattern[str]] = {
    (exp.Join, "side"): re.compile("LEFT|RIGHT|FULL", re.IGNORECASE),
    (exp.Join, "kind"): re.compile("INNER|OUTER|CROSS|SEMI|ANTI", re.IGNORECASE),
    (exp.Identifier, "this"): re.compile(r"[^\x00-\x1f]{1,100}"),
    (exp.Literal, "this"): re.compile(r"[\s\S]*"),
    (exp.Var, "this"): re.compile("|".join([*_PARTS, "ALL"]), re.IGNORECASE),
    (exp.Anonymous, "this"): re.compile("|".join(_BY_NAME), re.IGNORECASE),
    (exp.Window, "over"): re.compile("OVER", re.IGNORECASE),
    (exp.WindowSpec, "kind"): re.compile("ROWS|RANGE", re.IGNORECASE),
    (exp.WindowSpec, "start"): re.compile("UNBOUNDED|CURRENT ROW", re.IGNORECASE),
    (exp.WindowSpec, "end"): re.compile("UNBOUNDED|CURRENT ROW", re.IGNORECASE),
    (exp.WindowSpec, "start_side"): re.compile("PRECEDING|FOLLOWING", re.IGNORECASE),
    (exp.WindowSpec, "end_side"): re.compile("PRECEDING|FOLLOWING", re.IGNORECASE),
    (exp.JSONPathKey, "this"): re.compile(r"[A-Za-z_][A-Za-z0-9_]*"),
    (exp.Trim, "position"): re.compile("LEADING|TRAILING|BOTH|LTRIM|RTRIM", re.IGNORECASE),
}
"""Arguments that are bare text, and what they may be."""
_NUMBER = re.compile(r"(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
_TABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


def _given(node: exp.Expr) -> dict[str, Any]:
    """The arguments that say something."""
    return {key: value for key, value in node.args.items() if value is not None and value is not False and value != [] and value != ""}


def _check_node(node: exp.Expr) -> None:
    kind = type(node)
    given = _given(node)
    allowed = _ARGUMENTS.get(kind)
    if allowed is None and kind not in _PLAIN_SET:
        _refuse_node(node)
    if allowed is not None and not set(given) <= allowed:
        _refuse_argument(node, next(iter(set(given) - allowed)))
    for key, value in given.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str):
                pattern = _TEXTS.get((kind, key))
                if pattern is None or not pattern.fullmatch(item):
                    _refuse_text(node, key, item)
            elif not isinstance(item, exp.Expr | bool | exp.DType):
                _refuse("construct", f"{_shown(node)} holds something that is not SQL. Write it more simply.")
    if isinstance(node, exp.Literal) and not node.is_string and not _NUMBER.fullmatch(node.name):
        _refuse("construct", f"{_shown(node)} is no plain number. Write digits.")
    if isinstance(node, exp.DataType) and node.this not in _TYPES:
        _refuse("construct", f"the type {_shown(node)} is not allowed; text, numbers, dates and times are. Take one of these.")
    if isinstance(node, exp.Limit | exp.Offset):
        _check_limit(node)
    if isinstance(node, exp.Lateral) and not isinstance(node.this, exp.Subquery):
        _refuse("table_function", f"{_shown(node)} takes rows from a function; only tables and subqueries are allowed. Name a table.")


def _refuse_node(node: exp.Expr) -> NoReturn:
    name = type(node).__name__
    if isinstance(node, exp.DML | exp.DDL | exp.Command) and not isinstance(node, exp.Query):
        _refuse("not_select", f"{name.upper()} writes; only SELECT is allowed. Ask for rows.")
    if isinstance(node.parent, exp.Table | exp.From | exp.Join | exp.TableAlias):
        _refuse(
            "table_function", f"{_shown(node)} stands where a table must; functions, files and parameters are not allowed. Name a table."
        )
    if isinstance(node, exp.Func):
        _refuse("function", f"the function {_shown(node.sql_name())} is not allowed. Use counts, sums, averages, dates, text and windows.")
    _refuse("construct", f"{name} in {_shown(node)} is not allowed in a question's SQL. Write it as a plain SELECT.")


def _refuse_argument(node: exp.Expr, key: str) -> NoReturn:
    if isinstance(node, exp.With) and key == "recursive":
        _refuse("recursive", "WITH RECURSIVE is not allowed. Write the steps as plain subqueries.")
    if isinstance(node, exp.Table | exp.Column) and key in ("db", "catalog"):
        _refuse("qualified_name", f"{_shown(node)} names a database or schema; only bare table names are allowed. Take the prefix away.")
    if isinstance(node, exp.Select) and key == "into":
        _refuse("not_select", "SELECT INTO writes a table; only reading is allowed. Take INTO away.")
    _refuse("construct", f"{key.strip('_').upper()} in {_shown(node)} is not allowed in a question's SQL. Write it as a plain SELECT.")


def _refuse_text(node: exp.Expr, key: str, text: str) -> NoReturn:
    if isinstance(node, exp.Anonymous) and key == "this":
        if isinstance(node.parent, exp.Table | exp.From | exp.Join):
            _refuse("table_function", f"{_shown(node)} stands where a table must; functions are not allowed there. Name a table.")
        _refuse("function", f"the function {_shown(text)} is not allowed. Use counts, sums, averages, dates, text and windows.")
    if isinstance(node, exp.Identifier):
        _refuse("name", f"the name {_shown(text)} is not allowed; 1 to 100 printable characters are. Choose another.")
    _refuse("construct", f"{_shown(text)} in {_shown(node)} is not allowed in a question's SQL. Write it as a plain SELECT.")


def _check_limit(node: exp.Limit | exp.Offset) -> None:
    number = node.args.get("expression")
    if not isinstance(number, exp.Literal) or number.is_string or not number.name.isdecimal() or int(number.name) > MAX_OFFSET:
        _refuse("limit", f"{_shown(node)} must be a whole number of at most {MAX_OFFSET}. Write digits.")


def _check_size(tree: exp.Expr) -> None:
    counts = {"table references": (exp.Table, MAX_TABLES), "joins": (exp.Join, MAX_JOINS), "SELECTs": (exp.Select, MAX_SELECTS)}
    for what, (kind, most) in counts.items():
        found = sum(1 for _ in tree.find_all(kind))
        if found > most:
            _refuse("too_complex", f"the query has {found} {what}, {most} are allowed. Ask for less at once.")
    for select in tree.find_all(exp.Select):
        if len(select.expressions) > MAX_COLUMNS:
            _refuse("too_complex", f"a SELECT has {len(select.expressions)} columns, {MAX_COLUMNS} are allowed. Ask for less at once.")
    for node in tree.find_all(exp.In, exp.Tuple, exp.Anonymous, exp.Coalesce, exp.Concat):
        if len(node.expressions) > MAX_VALUES:
            _refuse("too_complex", f"a list has {len(node.expressions)} values, {MAX_VALUES} are allowed. Ask for less at once.")
    depth = _depth(tree)
    if depth > MAX_DEPTH:
        _refuse("too_deep", f"the query is {depth} levels deep, {MAX_DEPTH} are allowed. Write it flatter.")


def _depth(tree: exp.Expr) -> int:
    deepest, level = 0, [tree]
    while level:
        deepest += 1
        level = [child for node in level for child in node.iter_expressions()]
    return deepest


# ---- names ------------------------------------------------------------------------------------------------------------------


def _check_names(tree: exp.Expr, private: set[str], schema: Schema) -> None:
    """Private names nowhere; names of tables and subqueries plain, so that no two readings of them exist."""
    for node in tree.find_all(exp.Identifier):
        if _plain_name(node.name) in private:
            _refuse("private", f"{_shown(node.name)} is a private column, only for the role {PRIVATE_READER!r}. Ask without it.")
    for alias in tree.find_all(exp.TableAlias):
        if alias.name and not _TABLE_NAME.fullmatch(alias.name):
            _refuse("name", f"{_shown(alias.name)} cannot name a table; letters, digits and _ are allowed, at most 63. Choose another.")
        if alias.columns and isinstance(alias.parent, exp.Table):
            _refuse("construct", f"{_shown(alias)} renames a table's columns by position, which is not allowed. Use AS in the SELECT.")
    for cte in tree.find_all(exp.CTE):
        if cte.alias.lower() in schema.tables:
            _refuse("name", f"WITH {_shown(cte.alias)} would hide the table of that name. Choose another name.")


def _plain_name(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().strip()


def _table_references(tree: exp.Expr, schema: Schema) -> list[exp.Table]:
    """The references to tables of the schema; every other one must be to a WITH query that is in sight."""
    references = []
    for table in tree.find_all(exp.Table):
        if not isinstance(table.this, exp.Identifier):
            _refuse("table_function", f"{_shown(table)} stands where a table must; functions and files are not allowed. Name a table.")
        if not isinstance(table.parent, exp.From | exp.Join):
            _refuse("construct", f"{_shown(table)} is not allowed there. Name tables after FROM and JOIN only.")
        name = table.name
        if name.isascii() and name.lower() in schema.tables:
            references.append(table)
        elif name.lower() not in _with_names(table):
            _refuse("unknown_table", f"no table {_shown(name)}, there are {', '.join(schema.tables)}. Use one of these names.")
    return references


def _with_names(table: exp.Table) -> set[str]:
    """Names of the WITH queries that this place can see: those of every query around it, inside a WITH only the earlier ones."""
    names: set[str] = set()
    below: exp.Expr = table
    above = table.parent
    while above is not None:
        if isinstance(above, exp.With):
            earlier = above.expressions[: next(i for i, cte in enumerate(above.expressions) if cte is below)]
            names |= {cte.alias.lower() for cte in earlier}
        elif isinstance(above, exp.Query) and above.args.get("with_") is not None and above.args["with_"] is not below:
            names |= {cte.alias.lower() for cte in above.args["with_"].expressions}
        below, above = above, above.parent
    return names


def _check_tenant(tree: exp.Expr, business_id: str) -> None:
    """A comparison of business_id with another business's id: it would find nothing, and silence is a worse answer than a refusal."""
    for column in tree.find_all(exp.Column):
        if column.name.lower() != TENANT:
            continue
        condition = column.find_ancestor(exp.Predicate, exp.Select)
        if isinstance(condition, exp.Predicate) and not isinstance(condition, exp.Exists):
            direct = [*condition.iter_expressions()]
            literals = [n for n in direct if isinstance(n, exp.Literal)]
            if any(n.is_string and n.name != business_id for n in literals):
                _refuse("tenant", "the query names another business; a key sees its own only. Take the condition on business_id away.")


# ---- columns ----------------------------------------------------------------------------------------------------------------


def _resolve(tree: exp.Expr, schema: Schema, hidden: frozenset[tuple[str, str]]) -> frozenset[str]:
    """Resolve every column on a copy of the tree; refuse unknown ones, and tables that nothing joins. Returns `table.column` read."""
    types = {table: {c: t for c, t in columns.items() if (table, c) not in hidden} for table, columns in schema.types.items()}
    visible: dict[str, Any] = {**types}
    try:
        resolved = qualify(tree.copy(), schema=visible, dialect="duckdb", quote_identifiers=False)
    except SqlglotError as exc:
        found = re.sub(r"\s+", " ", str(exc)).strip()[:120]
        _refuse("unknown_column", f"a column cannot be found or is ambiguous ({found}). Use the schema's columns, with the table in front.")
    for whole in resolved.find_all(exp.TableColumn):
        _refuse("unknown_column", f"{_shown(whole.name)} names a table where a column must stand. Name one of its columns.")
    columns = set()
    for scope in traverse_scope(resolved):
        for column in scope.columns:
            source = scope.sources.get(column.table)
            if isinstance(source, exp.Table) and not isinstance(column.this, exp.Star):
                if column.name not in types.get(source.name, {}):
                    _refuse("unknown_column", f"no column {_shown(column.name)} in {_shown(source.name)}. Use the schema's columns.")
                columns.add(f"{source.name}.{column.name}")
        if isinstance(scope.expression, exp.Select):
            _check_joined(scope)
    return frozenset(columns)


def _check_joined(scope: Scope) -> None:
    """Refuse a FROM whose parts no condition links: its rows are multiplied, which no question means and no machine likes.

    A part that has one row by its form (only aggregates and no GROUP BY, or LIMIT 1) may stand alone, for example an as-of date.
    """
    select: Any = scope.expression
    parts = [select.args["from_"].this] if select.args.get("from_") else []
    joins = select.args.get("joins") or []
    parts += [join.this for join in joins]
    names = {part.alias_or_name for part in parts}
    if len(parts) < 2:
        return
    links: list[set[str]] = [{c.table for c in condition.find_all(exp.Column)} & names for condition in _conditions(select, joins)]
    for part in parts:
        if isinstance(part, exp.Lateral):
            links.append({part.alias_or_name} | ({c.table for c in part.find_all(exp.Column)} & names))
    alone = [p.alias_or_name for p in parts if _has_one_row(p, scope)]
    groups: list[set[str]] = [{name} for name in names - set(alone)]
    for link in links:
        met = [g for g in groups if g & link]
        groups = [g for g in groups if not g & link] + ([set().union(*met)] if met else [])
    if len(groups) > 1:
        loose = sorted(min(group) for group in groups)
        _refuse("cross_join", f"no condition joins {' and '.join(map(repr, loose))}. Join them along their ids.")


def _conditions(select: exp.Select, joins: list[exp.Join]) -> Iterator[exp.Expr]:
    """The conditions that must hold at once: of ON and of WHERE."""
    found = [join.args["on"] for join in joins if join.args.get("on") is not None]
    if select.args.get("where") is not None:
        found.append(select.args["where"].this)
    while found:
        condition = found.pop().unnest()
        if isinstance(condition, exp.And):
            found += [condition.left, condition.right]
        else:
            yield condition


def _has_one_row(part: exp.Expr, scope: Scope) -> bool:
    query: Any = part
    if isinstance(part, exp.Table):
        source = scope.sources.get(part.alias_or_name)
        query = source.expression if isinstance(source, Scope) else None
    while isinstance(query, exp.Lateral | exp.Subquery | exp.CTE):
        query = query.this
    if not isinstance(query, exp.Select):
        return False
    limit = query.args.get("limit")
    if limit is not None and limit.expression.name in ("0", "1"):
        return True
    if query.args.get("group") is not None:
        return False
    return query.args.get("from_") is None or all(_aggregates(e) for e in query.expressions)


def _aggregates(expression: exp.Expr) -> bool:
    """Whether an expression of the SELECT list has an aggregate of this query: outside windows and subqueries."""
    if isinstance(expression, exp.Window | exp.Query):
        return False
    return isinstance(expression, exp.AggFunc) or any(_aggregates(child) for child in expression.iter_expressions())


# ---- the query that is run --------------------------------------------------------------------------------------------------


def _set_limit(tree: exp.Query, row_limit: int) -> int:
    own = tree.args.get("limit")
    if own is not None and int(own.expression.name) <= row_limit:
        return row_limit
    tree.set("limit", exp.Limit(expression=exp.Literal.number(row_limit + 1)))
    return row_limit


def _narrow(table: exp.Table, business_id: str, schema: Schema, hidden: frozenset[tuple[str, str]]) -> None:
    """Put the filtered subquery in place of the table."""
    spec = schema.tables[table.name.lower()]
    columns = [exp.column(name) for name in spec.columns if (spec.name, name) not in hidden]
    rows = exp.select(*columns).from_(exp.table_(spec.name))
    if spec.has_tenant:
        rows = rows.where(_own(business_id))
    else:
        # Lines of purchases have no business of their own; the purchase that they belong to has.
        key = next(k for k in schema.out_of(spec.name) if schema.tables[k.to_table].has_tenant)
        purchases = exp.select(exp.column(key.to_column)).from_(exp.table_(key.to_table)).where(_own(business_id))
        rows = rows.where(exp.In(this=exp.column(key.column), query=exp.Subquery(this=purchases)))
    alias = table.alias or spec.name
    table.replace(exp.Subquery(this=rows, alias=exp.TableAlias(this=exp.to_identifier(alias))))


def _own(business_id: str) -> exp.EQ:
    return exp.EQ(this=exp.column(TENANT), expression=exp.Literal.string(business_id))
