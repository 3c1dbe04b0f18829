"""From a program to SQL: joins along keys, grouping, time windows.

The SQL is built as a sqlglot tree, never from pieces of text. Times are literals computed from the as-of time, so that it runs the same
later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import sqlglot.expressions as exp

from contracts.errors import ContractError
from contracts.tables import TIERS
from nlq.describe import Describer
from nlq.link import Linked
from nlq.program import Condition, Dimension, Having, Metric, Program, Simple, Wrapped
from nlq.times import Window
from nlq.types import ColumnKind, OutputColumn
from nlq.vocabulary import CONSTANTS, DEFAULT_COLUMNS, ENTITIES, PAIRED, TIME, UP, Field, fields

_OPS: dict[str, type[exp.Binary]] = {"eq": exp.EQ, "ne": exp.NEQ, "gt": exp.GT, "ge": exp.GTE, "lt": exp.LT, "le": exp.LTE}
_KEYS = {
    "customers": "customer_id", "customer_risk_scores": "customer_id", "products": "product_id", "rewards": "reward_id",
    "campaigns": "campaign_id", "segments": "segment_id", "transactions": "transaction_id",
}  # fmt: skip


@dataclass(frozen=True)
class Lowered:
    """SQL of a program: DuckDB text, its columns, and the reading in English."""

    sql: str
    columns: tuple[OutputColumn, ...]
    interpretation: str


def lower(program: Program, linked: Linked, as_of: datetime, *, several_scores: bool = False) -> Lowered:
    """SQL for a program and what its slots hold.

    Args:
        as_of: what tenure and the like are counted from.
        several_scores: take each customer's newest row of customer_risk_scores.

    Raises:
        ContractError: the program cannot be said in SQL (a refusal, or metrics of two tables with conditions on one).
    """
    if program.kind == "refuse":
        raise ContractError("a refusal has no SQL. Ask for something the tables hold")
    return _Lowering(linked, as_of, several_scores).lower(program)


@dataclass
class _Scope:
    """A FROM clause that grows as columns of other tables are named."""

    lowering: _Lowering
    table: str
    depth: int = 0
    joined: list[str] = field(default_factory=list)

    def alias(self, table: str) -> str:
        return table if self.depth == 0 else f"{table}_{self.depth}"

    def need(self, table: str) -> str:
        if table != self.table and table not in self.joined:
            if table == "segments":
                self.need("customer_risk_scores")
            elif self.table == "transaction_items" and table in ("customers", "customer_risk_scores"):
                self.need("transactions")
            self.joined.append(table)
        return self.alias(table)

    def holder(self, table: str) -> str:
        """The table whose column joins `table`."""
        if table == "segments":
            return "customer_risk_scores"
        if self.table == "transaction_items" and table in ("customers", "customer_risk_scores"):
            return "transactions"
        return self.table

    def key(self, name: str) -> exp.Expr:
        """A key column of this scope, through transactions for the items."""
        if name == "customer_id" and self.table == "transaction_items":
            self.need("transactions")
            return exp.column(name, table=self.alias("transactions"))
        return exp.column(name, table=self.alias(self.table))

    def column(self, token: str) -> exp.Expr:
        f = fields()[token]
        if f.virtual:
            return self.lowering.virtual(self, f)
        return exp.column(f.name, table=self.need(f.table))

    def source(self, table: str) -> exp.Expr:
        if table == "customer_risk_scores" and self.lowering.several_scores:
            newest = (
                exp.select("*").from_(exp.to_table("customer_risk_scores"))
                .qualify(exp.EQ(
                    this=exp.Window(
                        this=exp.RowNumber(), partition_by=[exp.column("customer_id")],
                        order=exp.Order(expressions=[exp.Ordered(this=exp.column("scored_at"), desc=True)]),
                    ),
                    expression=exp.Literal.number(1),
                ))
            )  # fmt: skip
            return newest.subquery(self.alias(table))
        made = exp.to_table(table)
        return made if self.depth == 0 else exp.alias_(made, self.alias(table), table=True)

    def onto(self, select: exp.Select) -> exp.Select:
        """FROM and JOINs; to be called when every column has been named."""
        select = select.from_(self.source(self.table))
        for table in self.joined:
            key = _KEYS[table]
            on = exp.EQ(this=exp.column(key, table=self.alias(self.holder(table))), expression=exp.column(key, table=self.alias(table)))
            select = select.join(self.source(table), on=on)
        return select


class _Lowering:
    def __init__(self, linked: Linked, as_of: datetime, several_scores: bool) -> None:
        self.linked, self.as_of, self.several_scores = linked, as_of, several_scores
        self.names: list[str] = []
        self.columns: list[OutputColumn] = []
        self.second_metric = 0

    def lower(self, p: Program) -> Lowered:
        if p.kind == "list":
            select = self.listing(p)
        elif self.crosses(p):
            select = self.crossing(p)
        elif _tops(p):
            select = self.of_the_largest(p)
        else:
            select = self.aggregate(p)
        return Lowered(select.sql("duckdb"), tuple(self.columns), Describer(self.linked).describe(p))

    # ---- lists

    def listing(self, p: Program) -> exp.Select:
        scope = _Scope(self, p.table)
        base = [f"{p.table}.{c}" for c in DEFAULT_COLUMNS[p.table]]
        if p.table == "transaction_items":
            base = ["transactions.transaction_id", *(c for c in base if not c.endswith("transaction_id"))]
        shown = [*base, *(c for c in p.columns if c not in base)]
        if p.order is not None and p.order.ref not in shown:
            shown.append(p.order.ref)
        select = exp.Select()
        for token in shown:
            if token == "transactions.transaction_id" and p.table == "transaction_items":
                select = self.put(select, exp.column("transaction_id", table="transaction_items"), "transaction_id", "id")
            else:
                select = self.put(select, scope.column(token), self.label(fields()[token], shown), fields()[token].kind)
        wheres = [self.condition(c, scope) for c in p.conditions]
        order = None
        if p.order is not None:
            order = exp.Ordered(this=scope.column(p.order.ref), desc=p.order.descending, nulls_first=False)
        select = scope.onto(select)
        if wheres:
            select = select.where(*wheres)
        if order is not None:
            select = select.order_by(order)
            if p.order is not None and p.order.limit:
                select = select.limit(self.limit(p.order.limit))
        return select

    def put(self, select: exp.Select, e: exp.Expr, name: str, kind: ColumnKind) -> exp.Select:
        name = _unlike(name, self.names)
        self.names.append(name)
        self.columns.append(OutputColumn(name, kind))
        same = isinstance(e, exp.Column) and e.name == name
        return select.select(e if same else exp.alias_(e, name, quoted=not re.fullmatch(r"[a-z_][a-z0-9_]*", name)))

    @staticmethod
    def label(f: Field, shown: Sequence[str]) -> str:
        twins = [t for t in shown if t != f.token and fields()[t].name == f.name]
        return f"{f.table.rstrip('s')}_{f.name}" if twins else f.name

    # ---- aggregates

    def aggregate(self, p: Program) -> exp.Select:
        scope = _Scope(self, p.table)
        groups: list[exp.Expr] = []
        buckets: list[exp.Expr] = []
        select = exp.Select()
        for d in p.dimensions:
            for e, name, kind in self.dimension(d, scope, [x.target for x in p.dimensions]):
                select = self.put(select, e, name, kind)
                groups.append(e)
            if d.bucket:
                buckets.append(groups[-1])
        over = buckets[0] if buckets else None
        firsts: list[tuple[exp.Expr, ColumnKind]] = []
        for number, m in enumerate(p.metrics):
            if number == 1:
                self.second_metric = len(self.names)
            found = self.metric(m, scope, over, [g for g in groups if g is not over])
            for e, name, kind in found:
                select = self.put(select, e, name, kind)
            # Of a total and its share it is the share that "at least 10 %" speaks of.
            firsts.append(
                (
                    found[-1 if isinstance(m, Wrapped) and m.fn != "vs" else 0][0],
                    found[-1 if isinstance(m, Wrapped) and m.fn != "vs" else 0][2],
                )
            )
        wheres = self.wheres(p, scope)
        havings = [
            self.having_shown(h, firsts) if isinstance(h.metric, str) else self.having(h.compare, h.metric, h.operand, scope, p)
            for h in p.having
        ]
        select = scope.onto(select)
        if wheres:
            select = select.where(*wheres)
        if groups:
            select = select.group_by(*[g.copy() for g in groups])
        for h in havings:
            select = select.having(h)
        return self.ordered(select, p, groups, buckets)

    def wheres(self, p: Program, scope: _Scope) -> list[exp.Expr]:
        """Which rows a grouping counts."""
        found = [self.condition(c, scope) for c in p.conditions]
        if (kinds := _only_types(p)) and p.dimensions:  # groups without any of the counted events are left out
            held = [exp.Literal.string(k) for k in kinds]
            found.append(exp.In(this=scope.column("events.event_type"), expressions=held))
        if any(d.target == "transactions.store" for d in p.dimensions):  # a purchase on the web has no store, not one without a name
            found.append(exp.Not(this=exp.Is(this=scope.column("transactions.store"), expression=exp.Null())))
        return found

    def ordered(self, select: exp.Select, p: Program, groups: list[exp.Expr], buckets: list[exp.Expr]) -> exp.Select:
        if p.order is None:
            return select.order_by(*[b.copy() for b in buckets]) if buckets else select
        if p.order.ref == "change":
            name = next(n for n in self.names if n in ("change", "growth", "growth_percent"))
        else:
            number = {"d0": 0, "m0": self.first_metric(p), "m1": self.second_metric}[p.order.ref]
            name = self.names[min(number, len(self.names) - 1)]
        by = exp.Ordered(this=exp.column(name), desc=p.order.descending, nulls_first=False)
        if p.order.each:
            partition = [exp.column(n) for n in self.names[: 2 if p.dimensions[0].target in ENTITIES else 1]]
            # The one best of a group may be several that are equal; of "top 3" there are three.
            number_of = exp.Anonymous(this="RANK") if p.order.limit == "one" else exp.RowNumber()
            rank = exp.Window(this=number_of, partition_by=partition, order=exp.Order(expressions=[by]))
            inner = select.subquery("grouped")
            return (
                exp.select(*[exp.column(n) for n in self.names]).from_(inner)
                .qualify(exp.LTE(this=rank, expression=self.limit(p.order.limit)))
                .order_by(partition[0].copy(), by.copy())
            )  # fmt: skip
        select = select.order_by(by)
        return select.limit(self.limit(p.order.limit)) if p.order.limit else select

    @staticmethod
    def first_metric(p: Program) -> int:
        return sum(2 if d.target in ENTITIES else 1 for d in p.dimensions)

    def dimension(self, d: Dimension, scope: _Scope, all_of: list[str]) -> list[tuple[exp.Expr, str, ColumnKind]]:
        if d.bucket:
            return [(self.bucket(d.bucket, scope.column(d.target)), d.bucket, "category" if d.bucket == "weekday" else "time")]
        if d.target in ENTITIES:
            key = _KEYS[d.target]
            single = d.target.rstrip("s")
            several = sum(t in ENTITIES for t in all_of) > 1
            name = f"{single}_name" if several else "name"
            return [(scope.column(f"{d.target}.{key}"), key, "id"), (scope.column(f"{d.target}.name"), name, "name")]
        f = fields()[d.target]
        return [(scope.column(d.target), self.label(f, [t for t in all_of if "." in t]), f.kind)]

    @staticmethod
    def bucket(unit: str, column: exp.Expr) -> exp.Expr:
        if unit == "weekday":
            return exp.Anonymous(this="DAYNAME", expressions=[column])
        if unit == "hour":
            return exp.Anonymous(this="HOUR", expressions=[column])
        return exp.cast(exp.Anonymous(this="DATE_TRUNC", expressions=[exp.Literal.string(unit), column]), "date")

    def metric(self, m: Metric, scope: _Scope, over: exp.Expr | None, others: list[exp.Expr]) -> list[tuple[exp.Expr, str, ColumnKind]]:
        if isinstance(m, Simple):
            return [(self.simple(m, scope), metric_name(m), _kind(m))]
        first = m.parts[0]
        if m.fn == "pct":
            inner = self.metric(first, scope, over, others)
            e, name, _ = inner[-1]
            renamed = {"share": "percent", "rate": "percent"}.get(name, f"{name}_percent")
            return [*inner[:-1], (exp.Mul(this=exp.Literal.number(100), expression=_paren(e)), renamed, "percent")]
        if m.fn == "share":
            assert isinstance(first, Simple)  # noqa: S101 - the automaton allows no other
            part = self.simple(first, scope, [self.condition(c, scope) for c in m.conditions])
            return [(_divide(part, self.simple(first, scope)), "share", "fraction")]
        if m.fn == "only":
            assert isinstance(first, Simple)  # noqa: S101
            return [(self.simple(first, scope, [self.condition(c, scope) for c in m.conditions]), metric_name(first), _kind(first))]
        if m.fn == "ratio":
            top, bottom = (self.metric(part, scope, over, others)[0] for part in m.parts)
            kind = "number" if top[2] == "number" else top[2]
            both_counts = all(_counts(p) for p in m.parts)
            same = _target(m.parts[0]) == _target(m.parts[1])
            return [
                (_divide(top[0], bottom[0]), "rate" if both_counts and same else "average", "fraction" if both_counts and same else kind)
            ]
        assert isinstance(first, Simple)  # noqa: S101
        value = self.simple(first, scope)
        if m.fn == "of_total":
            total = exp.Window(this=exp.Sum(this=value.copy()))
            return [(value, metric_name(first), _kind(first)), (_divide(value.copy(), total), "share", "fraction")]
        if m.fn == "vs":
            return self.versus(m, first, scope)
        if m.fn == "per":
            unit = m.times[0]
            units = exp.Count(this=exp.Distinct(expressions=[self.bucket(unit, scope.column(self.time_column(first.table)))]))
            return [
                (_divide(value, units), f"average_{metric_name(first)}_per_{unit}", "number" if _kind(first) == "number" else _kind(first))
            ]
        if m.fn == "topshare":
            raise ContractError("the share of the largest few stands alone. Ask for it without groups and other figures")
        if over is None:
            raise ContractError(f"a {m.fn} figure goes from one period to the next, and none is named. Ask for it by month, or by week")
        order = exp.Order(expressions=[exp.Ordered(this=over.copy())])
        if m.fn == "cumulative":
            running = exp.Window(this=exp.Sum(this=value), partition_by=[o.copy() for o in others], order=order)
            return [(running, f"cumulative_{metric_name(first)}", _kind(first))]
        before = exp.Window(this=exp.Lag(this=value.copy()), partition_by=[o.copy() for o in others], order=order)
        change = exp.Sub(this=_divide(value.copy(), before), expression=exp.Literal.number(1))
        return [(value, metric_name(first), _kind(first)), (change, "growth", "fraction")]

    def versus(self, m: Wrapped, first: Simple, scope: _Scope) -> list[tuple[exp.Expr, str, ColumnKind]]:
        made = []
        column = scope.column(self.time_column(first.table))
        labels = [_slug(self.window(t).label) for t in m.times]
        if labels[0] == labels[1]:
            labels = ["first_period", "second_period"]
        for slot in m.times:
            value = self.simple(first, scope, [self.within(column.copy(), self.window(slot), False)])
            # Who bought nothing in a period spent 0 in it: without that, what fell to nothing would have no change.
            made.append(exp.Coalesce(this=value, expressions=[exp.Literal.number(0)]) if first.fn == "sum" else value)
        kind = _kind(first)
        change = exp.Sub(this=made[0].copy(), expression=made[1].copy())
        return [
            (made[0], labels[0], kind), (made[1], labels[1], kind), (change, "change", kind),
            (exp.Sub(this=_divide(made[0].copy(), made[1].copy()), expression=exp.Literal.number(1)), "change_share", "fraction"),
        ]  # fmt: skip

    @staticmethod
    def time_column(table: str) -> str:
        name = TIME.get(table)
        if name is None:
            raise ContractError(f"{table} has no time of its own, so it has no periods to compare or to average. Ask about another table")
        return name if "." in name else f"{table}.{name}"

    def simple(self, m: Simple, scope: _Scope, only: list[exp.Expr] | None = None) -> exp.Expr:
        made: exp.Expr
        if m.fn == "count":
            scope.need(m.target)
            made = exp.Count(this=exp.Star())
        else:
            column = scope.column(m.target)
            made = {
                "distinct": lambda: exp.Count(this=exp.Distinct(expressions=[column])), "sum": lambda: exp.Sum(this=column),
                "avg": lambda: exp.Avg(this=column), "min": lambda: exp.Min(this=column), "max": lambda: exp.Max(this=column),
                "median": lambda: exp.Median(this=column),
            }[m.fn]()  # fmt: skip
        return exp.Filter(this=made, expression=exp.Where(this=exp.and_(*only))) if only else made

    def having_shown(self, h: Having, shown: Sequence[tuple[exp.Expr, ColumnKind]]) -> exp.Expr:
        """A bound on a metric that is shown; one that looks at other rows is bounded after these are known, which SQL has no HAVING for."""
        e, kind = shown[min(int(str(h.metric)[1:]), len(shown) - 1)]
        if e.find(exp.Window):
            raise ContractError("a share of the total or a change cannot be a condition. Ask for the whole table")
        return _OPS[h.compare](this=_paren(e.copy()), expression=self.bound(h.operand, kind))

    def bound(self, operand: str, kind: ColumnKind) -> exp.Expr:
        """What a shown figure is held against; "12 %" of a figure that is no percentage is 0.12."""
        percent = operand.startswith("N") and self.linked.numbers[int(operand[1:])].percent
        return self.number(operand, None, fraction=kind == "fraction" or (percent and kind != "percent"))

    def having(self, compare: str, m: Simple, operand: str, scope: _Scope, p: Program) -> exp.Expr:
        value = self.simple(m, scope)
        if operand != "mean":
            return _OPS[compare](this=value, expression=self.number(operand, fields().get(m.target) if m.fn != "distinct" else None))
        inner = _Scope(self, p.table)
        found = self.simple(m, inner)
        keys = [e for d in p.dimensions for e, _, _ in self.dimension(d, inner, [x.target for x in p.dimensions])]
        wheres = self.wheres(p, inner)
        each = inner.onto(exp.select(exp.alias_(found, "v"))).group_by(*keys)
        if wheres:
            each = each.where(*wheres)
        mean = exp.select(exp.Avg(this=exp.column("v"))).from_(each.subquery("per_group"))
        return _OPS[compare](this=value, expression=mean.subquery())

    def of_the_largest(self, p: Program) -> exp.Select:
        """What the largest few (or per cent) of an entity make of a total: each one's sum, ranked, then added up."""
        wrapped = p.metrics[0]
        percent = isinstance(wrapped, Wrapped) and wrapped.fn == "pct"
        top = wrapped.parts[0] if percent and isinstance(wrapped, Wrapped) else wrapped
        if len(p.metrics) != 1 or p.dimensions or p.having or p.order is not None or not isinstance(top, Wrapped):
            raise ContractError("the share of the largest few stands alone. Ask for it without groups and other figures")
        entity, operand = top.times
        simple = top.parts[0]
        if entity not in UP[p.table] or not isinstance(simple, Simple):
            raise ContractError(f"{p.table} do not belong to {entity}. Ask for the largest of another thing")
        scope = _Scope(self, p.table)
        value = self.simple(simple, scope)
        key = scope.column(f"{entity}.{_KEYS[entity]}")
        wheres = [self.condition(c, scope) for c in p.conditions]
        order = exp.Order(expressions=[exp.Ordered(this=value.copy(), desc=True)])
        share_of = operand.startswith("N") and self.linked.numbers[int(operand[1:])].percent
        # Of "the top 10 %" each one's place counts, from 0 to 1.
        place = exp.Window(this=exp.Anonymous(this="PERCENT_RANK") if share_of else exp.RowNumber(), order=order)
        each = scope.onto(exp.select(exp.alias_(value, "v"), exp.alias_(place, "place"))).group_by(key)
        if wheres:
            each = each.where(*wheres)
        bound: exp.Expr = exp.LTE(this=exp.column("place"), expression=self.limit(operand))
        if share_of:
            bound = exp.LT(this=exp.column("place"), expression=_literal(self.linked.numbers[int(operand[1:])].value / 100))
        total = exp.Sum(this=exp.column("v"))
        share = _divide(exp.Filter(this=total.copy(), expression=exp.Where(this=bound)), total)
        select = exp.Select()
        if percent:
            select = self.put(select, exp.Mul(this=exp.Literal.number(100), expression=_paren(share)), "percent", "percent")
        else:
            select = self.put(select, share, "share", "fraction")
        return select.from_(each.subquery("each_one"))

    # ---- metrics of two tables

    @staticmethod
    def crosses(p: Program) -> bool:
        simples = [*(s for m in p.metrics for s in _simples(m)), *(h.metric for h in p.having if isinstance(h.metric, Simple))]
        # Rows of a joined table come up once for each row that is counted: they can neither be counted nor, unless one fits one, be summed.
        return any(
            s.table not in UP[p.table] or (s.fn == "count" and s.table != p.table) or (s.fn == "sum" and p.table not in UP[s.table])
            for s in simples
        )

    def crossing(self, p: Program) -> exp.Select:
        """A ratio whose two sides count rows of different tables: each side by itself, then one over the other, group by group."""
        wrapped = p.metrics[0]
        percent = isinstance(wrapped, Wrapped) and wrapped.fn == "pct"
        ratio = wrapped.parts[0] if percent and isinstance(wrapped, Wrapped) else wrapped
        if (
            len(p.metrics) != 1
            or not isinstance(ratio, Wrapped)
            or ratio.fn != "ratio"
            or any(isinstance(h.metric, Simple) for h in p.having)
            or (p.order is not None and p.order.each)
        ):
            raise ContractError("metrics of two tables can only be a ratio. Ask for one of them at a time")
        sides: list[exp.Select] = []
        names: list[str] = []
        kinds: list[ColumnKind] = []
        for number, part in enumerate(ratio.parts):
            simple = part if isinstance(part, Simple) else part.parts[0]
            reach = UP[simple.table]
            scope = _Scope(self, simple.table)
            select = exp.Select()
            groups: list[exp.Expr] = []
            for d in p.dimensions:
                if d.target.split(".")[0] not in reach or d.bucket:
                    raise ContractError(f"{simple.table} cannot be grouped by {d.target}. Ask for another grouping")
                for e, name, kind in self.dimension(d, scope, [x.target for x in p.dimensions]):
                    if number == 0:
                        names.append(_unlike(name, names))
                        kinds.append(kind)
                    select = select.select(exp.alias_(e, names[len(groups)]))
                    groups.append(e)
            value = self.metric(part, scope, None, [])[0][0]
            select = select.select(exp.alias_(value, f"v{number}"))
            wheres = [self.condition(c, scope) for c in p.conditions if _reaches(c, reach)]
            select = scope.onto(select)
            if wheres:
                select = select.where(*wheres)
            sides.append(select.group_by(*[g.copy() for g in groups]) if groups else select)
        value = _divide(exp.column("v0", table="a"), exp.column("v1", table="b"))
        both = [exp.EQ(this=exp.column(n, table="a"), expression=exp.column(n, table="b")) for n in names]
        select = exp.Select()
        for n, kind in zip(names, kinds, strict=True):
            select = self.put(select, exp.column(n, table="a"), n, kind)
        if percent:
            select = self.put(select, exp.Mul(this=exp.Literal.number(100), expression=_paren(value)), "percent", "percent")
        else:
            select = self.put(select, value, "average", "number")
        select = select.from_(sides[0].subquery("a"))
        select = select.join(sides[1].subquery("b"), on=exp.and_(*both)) if both else select.join(sides[1].subquery("b"), join_type="cross")
        shown = exp.Mul(this=exp.Literal.number(100), expression=exp.paren(value.copy())) if percent else value
        for h in p.having:
            select = select.where(
                _OPS[h.compare](this=_paren(shown.copy()), expression=self.bound(h.operand, "percent" if percent else "number"))
            )
        return self.ordered(select, p, [], [])

    # ---- conditions

    def condition(self, c: Condition, scope: _Scope) -> exp.Expr:
        if c.op == "or":
            return exp.paren(exp.or_(*[self.condition(e, scope) for e in c.either]))
        if c.op in ("has", "hasnot"):
            select, inner = self.related(c.table, scope)
            wheres = [self.correlate(c.table, scope, inner), *(self.condition(i, inner) for i in c.inner)]
            found = exp.Exists(this=inner.onto(select.select(exp.Literal.number(1))).where(*wheres))
            return exp.Not(this=found) if c.op == "hasnot" else found
        if c.op == "hasagg":
            return self.total_of_related(c, scope)
        if c.op == "hasmore":
            return self.more_than_before(c, scope)
        if c.op == "hasin":
            return self.soon_after_joining(c, scope)
        f = fields()[c.column]
        column = scope.column(c.column)
        made: exp.Expr
        if c.op in ("null", "notnull"):
            null = exp.Is(this=column, expression=exp.Null())
            return exp.Not(this=null) if c.op == "notnull" else null
        if c.op in ("true", "false"):
            return column if c.op == "true" else exp.Not(this=column)
        if c.op in ("during", "notduring"):
            made = self.within(column, self.window(c.operands[0]), f.ahead, f.type == "date")
            return exp.Not(this=exp.paren(made)) if c.op == "notduring" else made
        if c.op == "like":
            return _contains(column, [v for o in c.operands for v in self.texts(o, f)])
        if c.op == "between":
            low, high = sorted(float(self.number(o, f).this) for o in c.operands)
            return exp.Between(this=column, low=_literal(low), high=_literal(high))
        if f.type == "number" and c.op in ("in", "notin"):
            numbers = exp.In(this=column, expressions=[self.number(o, f, scope) for o in c.operands])
            return exp.Not(this=numbers) if c.op == "notin" else numbers
        if f.type == "number":
            return _OPS[c.op](this=column, expression=self.number(c.operands[0], f, scope))
        texts = [v for o in c.operands for v in self.texts(o, f)]
        if all(o.startswith("V") and self.value(o).like for o in c.operands):
            made = _contains(column, texts)
            return exp.Not(this=exp.paren(made)) if c.op in ("ne", "notin") else made
        if len(texts) == 1:
            return (exp.NEQ if c.op in ("ne", "notin") else exp.EQ)(this=column, expression=exp.Literal.string(texts[0]))
        within = exp.In(this=column, expressions=[exp.Literal.string(t) for t in texts])
        return exp.Not(this=within) if c.op in ("ne", "notin") else within

    def related(self, table: str, scope: _Scope) -> tuple[exp.Select, _Scope]:
        return exp.Select(), _Scope(self, table, scope.depth + 1)

    @staticmethod
    def correlate(table: str, scope: _Scope, inner: _Scope) -> exp.Expr:
        key = _related_key(scope.table, table)
        return exp.EQ(this=inner.key(key), expression=scope.key(key))

    def more_than_before(self, c: Condition, scope: _Scope) -> exp.Expr:
        """A customer's total in one period against that in another; none is 0."""
        assert c.metric is not None  # noqa: S101 - see Condition
        totals = []
        for slot in c.operands:
            inner = _Scope(self, c.table, scope.depth + 1)
            value = exp.Coalesce(this=self.simple(c.metric, inner), expressions=[exp.Literal.number(0)])
            at = inner.column(self.time_column(c.table))
            wheres = [self.within(at, self.window(slot), False), *(self.condition(i, inner) for i in c.inner)]
            held = exp.EQ(this=inner.key("customer_id"), expression=scope.key("customer_id"))
            totals.append(inner.onto(exp.select(value)).where(held, *wheres).subquery())
        return exp.GT(this=totals[0], expression=totals[1])

    def soon_after_joining(self, c: Condition, scope: _Scope) -> exp.Expr:
        """Whether the customer did something within so many days of joining."""
        joined = scope.column("customers.joined_at")
        inner = _Scope(self, c.table, scope.depth + 1)
        at = inner.column(self.time_column(c.table))
        days = exp.Interval(this=self.number(c.operands[0], None), unit=exp.var("DAY"))
        wheres = [
            self.correlate(c.table, scope, inner) if scope.table in ("customers", "customer_risk_scores")
            else exp.EQ(this=inner.key("customer_id"), expression=scope.key("customer_id")),
            exp.GTE(this=at, expression=joined.copy()),
            exp.LT(this=at.copy(), expression=exp.Add(this=joined.copy(), expression=days)),
            *(self.condition(i, inner) for i in c.inner),
        ]  # fmt: skip
        return exp.Exists(this=inner.onto(exp.select(exp.Literal.number(1))).where(*wheres))

    def total_of_related(self, c: Condition, scope: _Scope) -> exp.Expr:
        assert c.metric is not None  # noqa: S101 - see Condition
        key = _related_key(scope.table, c.table)
        select, inner = self.related(c.table, scope)
        value = self.simple(c.metric, inner)
        wheres = [self.condition(i, inner) for i in c.inner]
        held = inner.key(key)
        counts = c.metric.fn in ("count", "distinct")
        if c.operands[0] == "mean":
            per_one = inner.onto(exp.select(exp.alias_(value.copy(), "v"))).where(*wheres).group_by(held.copy())
            bound: exp.Expr = exp.select(exp.Avg(this=exp.column("v"))).from_(per_one.subquery("per_one")).subquery()
        else:
            bound = self.number(c.operands[0], None if counts else fields()[c.metric.target])
        if counts and c.compare in ("lt", "le", "eq"):
            total = inner.onto(select.select(value)).where(exp.EQ(this=held, expression=scope.key(key)), *wheres)
            return _OPS[c.compare](this=total.subquery(), expression=bound)
        some = (
            inner.onto(select.select(held))
            .where(exp.Not(this=exp.Is(this=held.copy(), expression=exp.Null())), *wheres)
            .group_by(held.copy())
        )
        some = some.having(_OPS[c.compare](this=value, expression=bound))
        return exp.In(this=scope.key(key), query=some.subquery())

    def virtual(self, scope: _Scope, f: Field) -> exp.Expr:
        if f.token == "transaction_items.customer_id":
            return scope.column("transactions.customer_id")
        alias = scope.need(f.table)

        def col(name: str) -> exp.Expr:
            return exp.column(name, table=alias)

        def call(name: str, *args: exp.Expr) -> exp.Expr:
            return exp.Anonymous(this=name, expressions=list(args))

        if f.name in ("last_purchase_at", "first_purchase_at", "days_since_purchase"):
            inner = _Scope(self, "transactions", scope.depth + 1)
            at = inner.column("transactions.occurred_at")
            found = inner.onto(exp.select((exp.Min if f.name == "first_purchase_at" else exp.Max)(this=at)))
            found = found.where(exp.EQ(this=inner.key("customer_id"), expression=exp.column("customer_id", table=alias)))
            if f.name != "days_since_purchase":
                return found.subquery()
            return call("DATE_DIFF", exp.Literal.string("day"), found.subquery(), _time(self.as_of))
        if f.name == "tenure_days":
            return call("DATE_DIFF", exp.Literal.string("day"), col("joined_at"), _time(self.as_of))
        if f.name == "duration_days":
            return call("DATE_DIFF", exp.Literal.string("day"), col("started_at"), col("ended_at"))
        if f.name == "net_amount":
            less = exp.Coalesce(this=col("discount_amount"), expressions=[exp.Literal.number(0)])
            return exp.paren(exp.Sub(this=col("amount"), expression=less))
        if f.name in ("active", "expired", "running"):
            return self.current(f, col)
        if f.name in ("upgrade", "downgrade"):
            ranks = []
            for side in ("to", "from"):
                tier = call("JSON_EXTRACT_STRING", col("metadata"), exp.Literal.string(f"$.{side}"))
                ranks.append(
                    exp.Case(this=tier, ifs=[exp.If(this=exp.Literal.string(t), true=exp.Literal.number(i)) for i, t in enumerate(TIERS)])
                )
            is_change = exp.EQ(this=col("event_type"), expression=exp.Literal.string("tier_change"))
            return exp.paren(exp.and_(is_change, (exp.GT if f.name == "upgrade" else exp.LT)(this=ranks[0], expression=ranks[1])))
        if f.name in ("from_tier", "to_tier"):
            return call("JSON_EXTRACT_STRING", col("metadata"), exp.Literal.string("$." + f.name.split("_")[0]))
        if f.name == "birth_month":
            return call("MONTHNAME", col("birth_date"))
        if f.name == "hour":
            return call("HOUR", col("occurred_at"))
        if f.name == "weekend":
            return exp.In(this=call("DAYNAME", col("occurred_at")), expressions=[exp.Literal.string(d) for d in ("Saturday", "Sunday")])
        return call("DAYNAME", col("occurred_at"))

    def current(self, f: Field, col: Callable[[str], exp.Expr]) -> exp.Expr:
        """Whether a reward or a campaign is open at the as-of time; an end that is not known is open."""
        start, end = ("started_at", "ended_at") if f.name == "running" else ("valid_from", "valid_to")
        if f.name == "expired":
            return exp.paren(exp.LT(this=col(end), expression=_time(self.as_of)))
        begun: exp.Expr = exp.LTE(this=col(start), expression=_time(self.as_of))
        if f.name == "active":
            begun = exp.paren(exp.or_(exp.Is(this=col(start), expression=exp.Null()), begun))
        ends = exp.or_(exp.Is(this=col(end), expression=exp.Null()), exp.GTE(this=col(end), expression=_time(self.as_of)))
        return exp.paren(exp.and_(begun, exp.paren(ends)))

    # ---- operands

    def value(self, slot: str):  # type: ignore[no-untyped-def]
        return self.linked.values[int(slot[1:])]

    def window(self, slot: str) -> Window:
        return self.linked.times[int(slot[1:])]

    def texts(self, operand: str, f: Field) -> tuple[str, ...]:
        if operand.startswith("="):
            return (operand[1:],)
        return tuple(self.value(operand).columns[f.token])

    def number(self, operand: str, f: Field | None, scope: _Scope | None = None, *, fraction: bool = False) -> exp.Expr:
        if operand == "mean":
            if f is None or scope is None:
                raise ContractError("an average of what is not clear. Ask with a number")
            inner = _Scope(self, f.table, 9)
            return inner.onto(exp.select(exp.Avg(this=inner.column(f.token)))).subquery()
        fraction = fraction or (f is not None and f.kind == "fraction")
        if operand in CONSTANTS:
            return _literal(CONSTANTS[operand])
        if operand.startswith("T"):
            days = self.window(operand).days or 0
            return _literal(days * 24 if f is not None and f.name == "resolution_hours" else days)
        n = self.linked.numbers[int(operand[1:])]
        return _literal(n.value / 100 if fraction and (n.percent or n.value > 1) else n.value)

    def limit(self, operand: str) -> exp.Expr:
        if operand == "one":
            return exp.Literal.number(1)
        return exp.Literal.number(int(min(1e9, max(1, float(self.number(operand, None).this)))))

    @staticmethod
    def within(column: exp.Expr, window: Window, ahead: bool, is_date: bool = False) -> exp.Expr:
        start, end = window.ahead if ahead and window.ahead else (window.start, window.end)
        make = _date if is_date else _time
        bounds: list[exp.Expr] = []
        if start is not None:
            bounds.append(exp.GTE(this=column.copy(), expression=make(start)))
        if end is not None:
            bounds.append(exp.LT(this=column.copy(), expression=make(end)))
        return exp.and_(*bounds)


def _related_key(table: str, other: str) -> str:
    """What joins the many rows of `other` to a row of `table`: an order has its items, everything else of a fact its customer's."""
    if other == "transaction_items" and table in ("transactions", "transaction_items"):
        return "transaction_id"
    return {"rewards": "reward_id", "campaigns": "campaign_id", "products": "product_id"}.get(table, "customer_id")


def _tops(p: Program) -> bool:
    """Whether the first metric is the share of the largest few."""
    m = p.metrics[0]
    return isinstance(m, Wrapped) and (
        m.fn == "topshare" or (m.fn == "pct" and isinstance(m.parts[0], Wrapped) and m.parts[0].fn == "topshare")
    )


def _unlike(name: str, taken: Sequence[str]) -> str:
    """The name, with a number behind it where it is taken."""
    found, n = name, 2
    while found in taken:
        found, n = f"{name}_{n}", n + 1
    return found


def _time(t: datetime) -> exp.Expr:
    return exp.cast(
        exp.Literal.string(
            t.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds").rstrip("0").rstrip(".") + "+00"
        ),
        "timestamptz",
    )


def _date(t: datetime) -> exp.Expr:
    return exp.cast(exp.Literal.string(t.date().isoformat()), "date")


def _literal(n: float) -> exp.Expr:
    return exp.Literal.number(int(n) if float(n).is_integer() else round(n, 10))


def _paren(e: exp.Expr) -> exp.Expr:
    return exp.paren(e) if isinstance(e, exp.Binary) else e


def _contains(column: exp.Expr, texts: Sequence[str]) -> exp.Expr:
    """Whether any of the texts is in it, whatever the case."""
    return exp.or_(
        *[exp.Anonymous(this="CONTAINS", expressions=[exp.Lower(this=column.copy()), exp.Literal.string(t.lower())]) for t in texts]
    )


def _divide(a: exp.Expr, b: exp.Expr) -> exp.Expr:
    top = exp.cast(a, "double")
    return exp.Div(this=top, expression=exp.Nullif(this=b, expression=exp.Literal.number(0)))


def _slug(label: str) -> str:
    words = re.sub(r"^(?:in|during|over|for|within|since|from) ", "", label.lower())
    slug = re.sub(r"[^a-z0-9]+", "_", words).strip("_") or "period"
    return slug if slug[0].isalpha() else f"p_{slug}"


def _only_types(p: Program) -> list[str]:
    """The event types that the metrics count, where each of them counts one."""
    found: list[str] = []

    def look(m: Metric) -> bool:
        if isinstance(m, Simple):
            return False
        if m.fn == "only":
            named = [
                c.operands[0][1:]
                for c in m.conditions
                if c.op == "eq" and c.column == "events.event_type" and c.operands[0].startswith("=")
            ]
            found.extend(k for k in named if k not in found)
            return bool(named)
        return m.fn in ("ratio", "pct") and all(look(part) for part in m.parts)

    return found if p.table == "events" and all(look(m) for m in p.metrics) else []


def _simples(m: Metric) -> list[Simple]:
    return [m] if isinstance(m, Simple) else [s for p in m.parts for s in _simples(p)]


def _target(m: Metric) -> str:
    return m.target if isinstance(m, Simple) else _target(m.parts[0])


def _counts(m: Metric) -> bool:
    return m.fn in ("count", "distinct") if isinstance(m, Simple) else _counts(m.parts[0])


def _reaches(c: Condition, tables: Sequence[str]) -> bool:
    if c.op == "or":
        return all(_reaches(e, tables) for e in c.either)
    if c.op in ("has", "hasnot", "hasagg", *PAIRED):
        return "customers" in tables
    return c.column.split(".")[0] in tables


_METRIC_NAMES = {
    ("count", "transactions"): "purchases", ("count", "transaction_items"): "lines", ("count", "customer_risk_scores"): "customers",
    ("sum", "transactions.amount"): "revenue", ("avg", "transactions.amount"): "average_purchase",
    ("sum", "transaction_items.quantity"): "quantity",
    ("sum", "transaction_items.amount"): "revenue", ("distinct", "transactions.customer_id"): "customers",
    ("distinct", "events.customer_id"): "customers", ("distinct", "tickets.customer_id"): "customers",
}  # fmt: skip


def metric_name(m: Simple) -> str:
    """The column that a metric gives."""
    known = _METRIC_NAMES.get((m.fn, m.target))
    if known:
        return known
    if m.fn == "count":
        return m.target
    name = fields()[m.target].name
    return {"distinct": f"distinct_{name}", "sum": f"total_{name}", "avg": f"average_{name}"}.get(m.fn, f"{m.fn}_{name}").replace(
        "average_average", "average"
    )


def _kind(m: Simple) -> ColumnKind:
    if m.fn in ("count", "distinct"):
        return "number"
    f = fields()[m.target]
    return "time" if f.type in ("time", "date") else f.kind
