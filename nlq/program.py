"""The language a question is translated into: what is counted, by what, where, in which order. Joins, grouping and SQL follow from it
(`nlq.lower`).

A program is a sequence of tokens in prefix order, so that each token decides what may come next:

    agg count customers ; ; eq customers.location V0 end
    list customers ; hasnot transactions during transactions.occurred_at T0 ) end
    agg sum transactions.amount ; stores; ; ; desc m0 N0 end

`Automaton` says which tokens may come next (no unknown column, operands that fit the column's type, tables joined along keys only);
`parse` gives the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TypeVar

from contracts.errors import ContractError
from nlq.vocabulary import (
    BUCKETS,
    COMPARE,
    CONDITIONS,
    CONSTANTS,
    DOWN,
    ENTITIES,
    OF_PERSON,
    OWNER,
    PAIRED,
    SIMPLE,
    SPREAD,
    TABLES,
    UP,
    WRAPPED,
    Field,
    fields,
    value_token,
)

MAX_TOKENS = 64
T = TypeVar("T")


@dataclass(frozen=True)
class Slots:
    """What the question offers as operands (`nlq.link` finds it).

    Attributes:
        numbers: how many of N0, N1, …
        values: for V0, V1, …: the columns that hold the value.
        times: how many of T0, T1, …
        durations: which of the times are also a length in days.
    """

    numbers: int = 0
    values: tuple[frozenset[str], ...] = ()
    times: int = 0
    durations: frozenset[int] = frozenset()


# ---- the tree


@dataclass(frozen=True)
class Simple:
    """fn is one of SIMPLE; target a table for count, else a column's token."""

    fn: str
    target: str

    @property
    def table(self) -> str:
        return self.target.split(".")[0]


@dataclass(frozen=True)
class Wrapped:
    """A metric made from others: see WRAPPED and SPREAD. `share` and `only` carry conditions, `vs` two times, `per` a bucket, `topshare` an
    entity and how many."""

    fn: str
    parts: tuple[Metric, ...]
    conditions: tuple[Condition, ...] = ()
    times: tuple[str, ...] = ()

    @property
    def table(self) -> str:
        return self.parts[0].table


Metric = Simple | Wrapped


@dataclass(frozen=True)
class Condition:
    """op is one of CONDITIONS or PAIRED; `column`/`operands` as the op needs; `table`, `metric`, `inner` for those that begin with has;
    `either` for or."""

    op: str
    column: str = ""
    operands: tuple[str, ...] = ()
    table: str = ""
    compare: str = ""
    metric: Simple | None = None
    inner: tuple[Condition, ...] = ()
    either: tuple[Condition, ...] = ()


@dataclass(frozen=True)
class Dimension:
    """A column, an entity (`table`), or a time bucket of a column."""

    target: str
    bucket: str = ""


@dataclass(frozen=True)
class Having:
    """metric is one of its own, or m0, m1: the shown ones."""

    compare: str
    metric: Simple | str
    operand: str


@dataclass(frozen=True)
class Order:
    """ref is m0, m1 (metrics), change (of vs and growth), d0 (first dimension) or a column's token; limit a slot, a constant, `one` or
    empty; each: per first dimension."""

    descending: bool
    ref: str
    limit: str = ""
    each: bool = False


@dataclass(frozen=True)
class Program:
    """kind is agg, list or refuse."""

    kind: str
    table: str = ""
    columns: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()
    dimensions: tuple[Dimension, ...] = ()
    conditions: tuple[Condition, ...] = ()
    having: tuple[Having, ...] = ()
    order: Order | None = None

    def tokens(self) -> tuple[str, ...]:
        return tuple(_write(self))

    def __str__(self) -> str:
        return " ".join(self.tokens())


REFUSE = Program("refuse")


# ---- what may come next


@cache
def _columns_of(tables: tuple[str, ...], types: tuple[str, ...] = ()) -> frozenset[str]:
    return frozenset(t for t, f in fields().items() if f.table in tables and (not types or f.type in types))


@dataclass
class Automaton:
    """Reads a program token by token. `allowed()` are the tokens that may come next; empty when the program is whole.

    A stack of what is still expected; each entry is a name and its arguments. Copy it to go on in two ways.
    """

    slots: Slots
    stack: list[tuple[str, ...]] = field(default_factory=lambda: [("query",)])
    base: str = ""
    column: str = ""
    metrics: int = 0
    dimensions: int = 0
    length: int = 0
    changes: bool = False
    taken: frozenset[str] = frozenset()

    def copy(self) -> Automaton:
        return replace(self, stack=list(self.stack))

    @property
    def done(self) -> bool:
        return not self.stack

    def allowed(self) -> frozenset[str]:
        if not self.stack:
            return frozenset()
        name, *rest = self.stack[-1]
        return getattr(self, f"_see_{name}")(*rest)

    def push(self, token: str) -> None:
        """Take the next token.

        Raises:
            ContractError: it is not one of `allowed()`.
        """
        if token not in self.allowed():
            some = ", ".join(sorted(self.allowed())[:12]) or "no more tokens"
            raise ContractError(f"{token} may not come here in a program, allowed are {some}. Correct the program")
        name, *rest = self.stack.pop()
        self.length += 1
        getattr(self, f"_take_{name}")(token, *rest)

    def _expect(self, *entries: tuple[str, ...]) -> None:
        self.stack.extend(reversed(entries))

    # the whole
    def _see_query(self) -> frozenset[str]:
        return frozenset(("list", "agg", "refuse"))

    def _take_query(self, token: str) -> None:
        if token == "list":
            self._expect(("listed",))
        elif token == "agg":
            self._expect(("metric", ""), ("metrics",))
        else:
            self._expect(("end",))

    def _see_end(self) -> frozenset[str]:
        return frozenset(("end",))

    def _take_end(self, token: str) -> None:
        self.stack.clear()

    def _see_listed(self) -> frozenset[str]:
        return frozenset(TABLES)

    def _take_listed(self, token: str) -> None:
        self.base = token
        self._expect(("columns",), ("conditions", token, ";"), ("orderlist",))

    def _section(self, token: str, again: tuple[str, ...]) -> bool:
        """Handles what closes a section; True when it was closed."""
        if token == "end":
            self.stack.clear()
            return True
        if token == ";":
            return True
        self._expect(again)
        return False

    def _see_columns(self) -> frozenset[str]:
        return _columns_of(UP[self.base]) | {";", "end"}

    def _take_columns(self, token: str) -> None:
        self._section(token, ("columns",))

    def _see_metrics(self) -> frozenset[str]:
        more = self._see_metric("second") if self.metrics < 3 else frozenset()
        return more | {";", "end"}

    def _take_metrics(self, token: str) -> None:
        if not self._section(token, ("metrics",)):
            self._take_metric(token, "second")
        elif token == ";":
            self._expect(("dimensions",), ("conditions", self.base, ";"), ("having",), ("order",))

    # metrics; scope "" is free, "second" binds to the base
    def _see_metric(self, scope: str) -> frozenset[str]:
        return frozenset((*SIMPLE, *WRAPPED, *SPREAD)) - (frozenset() if self.slots.times else {"vs"})

    def _take_metric(self, token: str, scope: str) -> None:
        self.metrics += 1
        self.changes |= token in ("vs", "growth")
        if token in SIMPLE:
            self._expect(("target", token, "" if scope == "" else self.base))
        elif token in ("share", "only"):
            self._expect(("simple", "" if token == "only" else "number"), ("nested",))
        elif token == "ratio":
            self._expect(("ratiopart",), ("ratiopart",))
        elif token == "pct":
            self._expect(("pctof",))
        elif token == "vs":
            self._expect(("simple", "number"), ("time",), ("time",))
        elif token == "per":
            self._expect(("additive",), ("unit",))
        elif token == "topshare":
            self._expect(("additive",), ("entity",), ("limitof",))
        else:
            self._expect(("simple", "number"))

    def _see_additive(self) -> frozenset[str]:
        return frozenset(("count", "sum"))

    def _take_additive(self, token: str) -> None:
        self._take_simple(token, "number")

    def _see_unit(self) -> frozenset[str]:
        return frozenset(("day", "week", "month", "quarter", "year"))

    def _take_unit(self, token: str) -> None:
        pass

    def _see_entity(self) -> frozenset[str]:
        return frozenset(t for t in UP[self.base] if t in ENTITIES) or frozenset(ENTITIES)

    def _take_entity(self, token: str) -> None:
        pass

    def _see_limitof(self) -> frozenset[str]:
        return frozenset(("one", *(f"N{i}" for i in range(self.slots.numbers)), *CONSTANTS))

    def _take_limitof(self, token: str) -> None:
        pass

    # "number": times can be compared by min and max, but neither be divided nor added up
    def _see_simple(self, need: str) -> frozenset[str]:
        return frozenset(SIMPLE)

    def _take_simple(self, token: str, need: str) -> None:
        self._expect(("target", token, self.base, need))

    def _see_ratiopart(self) -> frozenset[str]:
        return frozenset((*SIMPLE, "only"))

    def _take_ratiopart(self, token: str) -> None:
        if token == "only":
            self._expect(("freesimple",), ("nested",))
        else:
            self._expect(("target", token, "", "number"))

    def _see_freesimple(self) -> frozenset[str]:
        return frozenset(SIMPLE)

    def _take_freesimple(self, token: str) -> None:
        self._expect(("target", token, "", "number"))

    def _see_pctof(self) -> frozenset[str]:
        return frozenset(("share", "ratio", "of_total", "growth", "topshare"))

    def _take_pctof(self, token: str) -> None:
        self.metrics -= 1
        self._take_metric(token, "second")

    def _see_target(self, fn: str, base: str, need: str = "") -> frozenset[str]:
        tables = UP[base] if base else TABLES
        if fn == "count":
            return frozenset((base,)) if base else frozenset(TABLES)
        if fn == "distinct":
            return _columns_of(tables, ("id", "text", "enum"))
        if fn in ("min", "max") and not need:
            return _columns_of(tables, ("number", "time", "date"))
        return _columns_of(tables, ("number",))

    def _take_target(self, token: str, fn: str, base: str, need: str = "") -> None:
        table = token.split(".")[0]
        if not self.base or (self.base in UP[table] and table not in UP[self.base]):
            self.base = table  # the table with more rows, which reaches the other
        self.column = "" if fn in ("count", "distinct") else token
        self.nested_base = token.split(".")[0]

    nested_base: str = ""

    def _see_nested(self) -> frozenset[str]:
        return self._see_conditions(self.nested_base, ")")

    def _take_nested(self, token: str) -> None:
        self._take_conditions(token, self.nested_base, ")")

    # dimensions
    def _see_dimensions(self) -> frozenset[str]:
        up = UP[self.base]
        groups = _columns_of(up, ("id", "text", "enum", "flag", "number", "date")) | {t for t in up if t in ENTITIES}
        groups |= frozenset(BUCKETS) if self._see_bucketed() else frozenset()
        return (groups if self.dimensions < 3 else frozenset()) | {";", "end"}

    def _take_dimensions(self, token: str) -> None:
        if self._section(token, ("dimensions",)):
            return
        self.dimensions += 1
        if token in BUCKETS:
            self._expect(("bucketed",))

    def _see_bucketed(self) -> frozenset[str]:
        return _columns_of(UP[self.base], ("time", "date"))

    def _take_bucketed(self, token: str) -> None:
        pass

    # conditions
    def _see_conditions(self, scope: str, closer: str) -> frozenset[str]:
        closers = {";", "end"} if closer == ";" else {")"}
        return self._heads(scope) | closers

    def _heads(self, scope: str) -> frozenset[str]:
        heads = {*CONDITIONS, *PAIRED}
        for ops, need in ((("during", "notduring"), "time"), (("true", "false"), "flag"), (("like",), "text")):
            if not self._see_column(scope, need) or (need == "time" and not self.slots.times):
                heads -= set(ops)
        if not DOWN[scope]:
            heads -= {"has", "hasnot", "hasagg"}
        if not any(t in OF_PERSON for t in DOWN[scope]) or "customers" not in UP[scope]:
            heads -= set(PAIRED)
        elif not self.slots.times:
            heads.discard("hasmore")
        return frozenset(heads)

    def _take_conditions(self, token: str, scope: str, closer: str) -> None:
        if token == closer:
            return
        if token == "end":
            self.stack.clear()
            return
        self._expect(("conditions", scope, closer))
        self._take_condition(token, scope)

    def _see_condition(self, scope: str) -> frozenset[str]:
        return self._heads(scope) - {"or"}

    def _take_condition(self, token: str, scope: str) -> None:
        if token in ("eq", "ne"):
            self._expect(("column", scope, "eq"), ("operand",))
        elif token in COMPARE:
            self._expect(("column", scope, "compare"), ("operand",))
        elif token in ("in", "notin"):
            self.taken = frozenset()
            self._expect(("column", scope, "eq"), ("operand",), ("operands",))
        elif token == "like":
            self._expect(("column", scope, "text"), ("operand",))
        elif token in ("null", "notnull"):
            self._expect(("column", scope, "any"))
        elif token in ("true", "false"):
            self._expect(("column", scope, "flag"))
        elif token == "between":
            self._expect(("column", scope, "number"), ("operand",), ("operand",))
        elif token in ("during", "notduring"):
            self._expect(("column", scope, "time"), ("time",))
        elif token in ("has", "hasnot"):
            self._expect(("related", scope))
        elif token == "hasagg":
            self._expect(("compareop",), ("relatedmetric", scope))
        elif token == "hasmore":
            self._expect(("comparedmetric", scope))
        elif token == "hasin":
            self._expect(("followed", scope))
        else:
            self._expect(("condition", scope), ("condition", scope))

    def _see_column(self, scope: str, need: str) -> frozenset[str]:
        up = UP[scope]
        if need == "eq":
            found = _columns_of(up, ("id", "text", "enum", "number"))
            return frozenset(c for c in found if self._has_operand(fields()[c]))
        if need == "compare":
            return _columns_of(up, ("number",))
        if need == "number":
            return _columns_of(up, ("number",)) if self._numbers() else frozenset()
        if need == "text":
            return frozenset(c for c in _columns_of(up, ("text",)) if self._has_operand(fields()[c]))
        if need == "flag":
            return _columns_of(up, ("flag",))
        if need == "time":
            return _columns_of(up, ("time", "date"))
        return _columns_of(up)

    def _take_column(self, token: str, scope: str, need: str) -> None:
        self.column = token

    def _numbers(self) -> set[str]:
        return {f"N{i}" for i in range(self.slots.numbers)} | {f"T{i}" for i in self.slots.durations} | set(CONSTANTS)

    def _has_operand(self, f: Field) -> bool:
        """Whether `_operands_of` would find any, without making the set."""
        return f.type in ("enum", "number") or any(f.token in columns for columns in self.slots.values)

    def _operands_of(self, f: Field) -> set[str]:
        slots = {f"V{i}" for i, columns in enumerate(self.slots.values) if f.token in columns}
        if f.type == "enum":
            return {value_token(f, v) for v in f.values} | slots
        if f.type == "number":
            return self._numbers() | {"mean"}
        return slots

    def _see_operand(self) -> frozenset[str]:
        f = fields().get(self.column)
        if self.column in ("m0", "m1"):
            return frozenset(self._numbers())
        return frozenset(self._operands_of(f) if f else self._numbers() | {"mean"})

    def _take_operand(self, token: str) -> None:
        self.taken |= {token}

    def _see_operands(self) -> frozenset[str]:
        return (self._see_operand() - self.taken) | {")"}

    def _take_operands(self, token: str) -> None:
        self.taken |= {token}
        if token != ")":
            self._expect(("operands",))

    def _see_time(self) -> frozenset[str]:
        return frozenset(f"T{i}" for i in range(self.slots.times))

    def _take_time(self, token: str) -> None:
        pass

    def _see_related(self, scope: str) -> frozenset[str]:
        return frozenset(DOWN[scope])

    def _take_related(self, token: str, scope: str) -> None:
        self._expect(("conditions", token, ")"))

    def _see_compareop(self) -> frozenset[str]:
        return frozenset((*COMPARE, "eq"))

    def _take_compareop(self, token: str) -> None:
        pass

    def _see_relatedmetric(self, scope: str) -> frozenset[str]:
        return frozenset(("count", "sum", "avg", "max", "min", "distinct"))

    def _take_relatedmetric(self, token: str, scope: str) -> None:
        self._expect(("relatedtarget", token, scope))

    def _see_relatedtarget(self, fn: str, scope: str) -> frozenset[str]:
        if fn == "count":
            return frozenset(DOWN[scope])
        if fn != "distinct":
            return _columns_of(DOWN[scope], ("number",))
        through = tuple(t for t, owner in OWNER.items() if owner in DOWN[scope] and t != scope)
        return _columns_of((*DOWN[scope], *through), ("id", "text", "enum"))

    def _take_relatedtarget(self, token: str, fn: str, scope: str) -> None:
        self.column = token if fn not in ("count", "distinct") else ""
        self._expect(("operand",), ("conditions", owner_of(token), ")"))

    def _see_comparedmetric(self, scope: str) -> frozenset[str]:
        return frozenset(("count", "sum"))

    def _take_comparedmetric(self, token: str, scope: str) -> None:
        self._expect(("comparedtarget", token, scope))

    def _see_comparedtarget(self, fn: str, scope: str) -> frozenset[str]:
        people = tuple(t for t in DOWN[scope] if t in OF_PERSON)
        return frozenset(people) if fn == "count" else _columns_of(people, ("number",))

    def _take_comparedtarget(self, token: str, fn: str, scope: str) -> None:
        self._expect(("time",), ("time",), ("conditions", token.split(".")[0], ")"))

    def _see_followed(self, scope: str) -> frozenset[str]:
        return frozenset(t for t in DOWN[scope] if t in OF_PERSON)

    def _take_followed(self, token: str, scope: str) -> None:
        self._expect(("length",), ("conditions", token, ")"))

    def _see_length(self) -> frozenset[str]:
        return frozenset(self._numbers())

    def _take_length(self, token: str) -> None:
        pass

    # having and order
    def _see_having(self) -> frozenset[str]:
        return frozenset((*COMPARE, "eq", ";", "end")) if self.dimensions else frozenset((";", "end"))

    def _take_having(self, token: str) -> None:
        if not self._section(token, ("having",)):
            self._expect(("havingof",), ("operand",))

    def _see_havingof(self) -> frozenset[str]:
        return frozenset((*SIMPLE, "m0", *(("m1",) if self.metrics > 1 else ())))

    def _take_havingof(self, token: str) -> None:
        if token in SIMPLE:
            self._take_simple(token, "number")
        else:
            self.column = token

    def _see_order(self) -> frozenset[str]:
        return frozenset(("desc", "asc", "end")) if self.dimensions else frozenset(("end",))

    def _take_order(self, token: str) -> None:
        if token == "end":
            self.stack.clear()
        else:
            self._expect(("reference",), ("limit",))

    def _see_reference(self) -> frozenset[str]:
        return frozenset(("m0", "d0", *(("m1",) if self.metrics > 1 else ()), *(("change",) if self.changes else ())))

    def _take_reference(self, token: str) -> None:
        pass

    def _see_orderlist(self) -> frozenset[str]:
        return frozenset(("desc", "asc", "end"))

    def _take_orderlist(self, token: str) -> None:
        if token == "end":
            self.stack.clear()
        else:
            self._expect(("orderedby",), ("limit",))

    def _see_orderedby(self) -> frozenset[str]:
        return _columns_of(UP[self.base], ("number", "time", "date", "text"))

    def _take_orderedby(self, token: str) -> None:
        pass

    def _see_limit(self) -> frozenset[str]:
        return frozenset(("one", "end", *(f"N{i}" for i in range(self.slots.numbers)), *CONSTANTS))

    def _take_limit(self, token: str) -> None:
        if token == "end":
            self.stack.clear()
        else:
            self._expect(("each",))

    def _see_each(self) -> frozenset[str]:
        return frozenset(("end", "each")) if self.dimensions > 1 else frozenset(("end",))

    def _take_each(self, token: str) -> None:
        self.stack.clear()
        if token == "each":
            self._expect(("end",))


# ---- tokens to tree and back


def _base(metrics: Sequence[Metric]) -> str:
    """The table whose rows are counted: of the first metric's tables, the one that reaches the other."""
    found = ""
    for m in metrics:
        for table in _tables_of(m):
            if not found or (found in UP[table] and table not in UP[found]):
                found = table
    return found


def _tables_of(m: Metric) -> list[str]:
    return [m.table] if isinstance(m, Simple) else [t for p in m.parts for t in _tables_of(p)]


def owner_of(target: str) -> str:
    """The table whose rows a related metric counts: "different brands bought" are brands of items."""
    table = target.split(".")[0]
    return OWNER.get(table, table)


class _Reader:
    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens, self.at = tokens, 0

    def next(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1]

    def peek(self) -> str:
        return self.tokens[self.at]

    def program(self) -> Program:
        kind = self.next()
        if kind == "refuse":
            return REFUSE
        if kind == "list":
            table = self.next()
            columns = self.until(self.next)
            conditions = self.until(self.condition) if not self.ended() else ()
            return Program("list", table, columns, conditions=conditions, order=None if self.ended() else self.order())
        metrics = self.until(self.metric)
        dimensions = () if self.ended() else self.until(self.dimension)
        conditions = () if self.ended() else self.until(self.condition)
        having = () if self.ended() else self.until(self.having)
        return Program("agg", _base(metrics), (), metrics, dimensions, conditions, having, None if self.ended() else self.order())

    def ended(self) -> bool:
        return self.peek() == "end"

    def until(self, read: Callable[[], T], closers: tuple[str, ...] = (";", "end")) -> tuple[T, ...]:
        found: list[T] = []
        while self.peek() not in closers:
            found.append(read())
        if self.peek() != "end":
            self.next()
        return tuple(found)

    def nested(self) -> tuple[Condition, ...]:
        return self.until(self.condition, (")",))

    def metric(self) -> Metric:
        fn = self.next()
        if fn in SIMPLE:
            return Simple(fn, self.next())
        if fn in ("share", "only"):
            part = self.metric()
            return Wrapped(fn, (part,), self.nested())
        if fn == "ratio":
            return Wrapped(fn, (self.metric(), self.metric()))
        if fn == "vs":
            part = self.metric()
            return Wrapped(fn, (part,), times=(self.next(), self.next()))
        if fn == "per":
            part = self.metric()
            return Wrapped(fn, (part,), times=(self.next(),))
        if fn == "topshare":
            part = self.metric()
            return Wrapped(fn, (part,), times=(self.next(), self.next()))
        return Wrapped(fn, (self.metric(),))

    def dimension(self) -> Dimension:
        token = self.next()
        return Dimension(self.next(), token) if token in BUCKETS else Dimension(token)

    def condition(self) -> Condition:
        op = self.next()
        if op in ("has", "hasnot"):
            table = self.next()
            return Condition(op, table=table, inner=self.nested())
        if op == "hasagg":
            compare = self.next()
            metric = self.metric()
            assert isinstance(metric, Simple)  # noqa: S101 - the automaton allows no other
            operand = self.next()
            table = owner_of(metric.target)
            return Condition(op, table=table, compare=compare, metric=metric, operands=(operand,), inner=self.nested())
        if op == "hasmore":
            metric = self.metric()
            assert isinstance(metric, Simple)  # noqa: S101 - the automaton allows no other
            return Condition(op, table=metric.table, metric=metric, operands=(self.next(), self.next()), inner=self.nested())
        if op == "hasin":
            return Condition(op, table=self.next(), operands=(self.next(),), inner=self.nested())
        if op == "or":
            return Condition(op, either=(self.condition(), self.condition()))
        column = self.next()
        if op in ("in", "notin"):
            return Condition(op, column, self.until(self.next, (")",)))
        count = {"null": 0, "notnull": 0, "true": 0, "false": 0, "between": 2}.get(op, 1)
        return Condition(op, column, tuple(self.next() for _ in range(count)))

    def having(self) -> Having:
        compare = self.next()
        if self.peek() in ("m0", "m1"):
            return Having(compare, self.next(), self.next())
        metric = self.metric()
        assert isinstance(metric, Simple)  # noqa: S101 - the automaton allows no other
        return Having(compare, metric, self.next())

    def order(self) -> Order:
        descending = self.next() == "desc"
        ref = self.next()
        limit = "" if self.ended() else self.next()
        return Order(descending, ref, limit, not self.ended() and self.next() == "each")


def parse(tokens: Iterable[str] | str, slots: Slots | None = None) -> Program:
    """The tree of a program.

    Args:
        slots: what the question offers; checked against when given.

    Raises:
        ContractError: it is not a program, or names a slot that is not there.
    """
    listed = tokens.split() if isinstance(tokens, str) else list(tokens)
    everything = Slots(4, tuple(frozenset(fields()) for _ in range(4)), 3, frozenset(range(3)))
    automaton = Automaton(slots or everything)
    for token in listed:
        automaton.push(token)
    if not automaton.done:
        raise ContractError("the program is cut off, it must close with end. Correct the program")
    return _Reader(listed).program()


def _write(p: Program) -> list[str]:
    if p.kind == "refuse":
        return ["refuse", "end"]
    order = _order(p.order)
    if p.kind == "list":
        sections = [["list", p.table, *p.columns], [t for c in p.conditions for t in _condition(c)], order]
    else:
        sections = [
            ["agg", *(t for m in p.metrics for t in _metric(m))],
            [t for d in p.dimensions for t in ([d.bucket, d.target] if d.bucket else [d.target])],
            [t for c in p.conditions for t in _condition(c)],
            [t for h in p.having for t in (h.compare, *([h.metric] if isinstance(h.metric, str) else _metric(h.metric)), h.operand)],
            order,
        ]
    while len(sections) > 1 and not sections[-1]:
        sections.pop()
    out: list[str] = []
    for i, section in enumerate(sections):
        out += [*([";"] if i else []), *section]
    return [*out, "end"]


def _order(o: Order | None) -> list[str]:
    if o is None:
        return []
    return ["desc" if o.descending else "asc", o.ref, *([o.limit] if o.limit else []), *(["each"] if o.each else [])]


def _metric(m: Metric) -> list[str]:
    if isinstance(m, Simple):
        return [m.fn, m.target]
    out = [m.fn, *(t for p in m.parts for t in _metric(p)), *m.times]
    if m.fn in ("share", "only"):
        out += [*(t for c in m.conditions for t in _condition(c)), ")"]
    return out


def _condition(c: Condition) -> list[str]:
    inner = [*(t for i in c.inner for t in _condition(i)), ")"]
    if c.op in ("has", "hasnot"):
        return [c.op, c.table, *inner]
    if c.op == "hasagg":
        assert c.metric is not None  # noqa: S101 - see Condition
        return [c.op, c.compare, *_metric(c.metric), *c.operands, *inner]
    if c.op == "hasmore":
        assert c.metric is not None  # noqa: S101 - see Condition
        return [c.op, *_metric(c.metric), *c.operands, *inner]
    if c.op == "hasin":
        return [c.op, c.table, *c.operands, *inner]
    if c.op == "or":
        return [c.op, *(t for e in c.either for t in _condition(e))]
    return [c.op, c.column, *c.operands, *([")"] if c.op in ("in", "notin") else [])]
