"""The words that say in English how a question was read."""

from __future__ import annotations

from collections.abc import Sequence

from nlq.link import Linked
from nlq.program import Condition, Metric, Program, Simple
from nlq.vocabulary import ENTITIES, PAIRED, fields

_NOUNS = {
    "customer_risk_scores": "scored customers", "transaction_items": "items sold", "transactions": "purchases",
}  # fmt: skip
_COMPARES = {"gt": "over", "ge": "at least", "lt": "under", "le": "at most", "eq": "exactly"}


class Describer:
    """Says a program in English, with what its slots hold."""

    def __init__(self, linked: Linked) -> None:
        self.linked = linked

    def describe(self, p: Program) -> str:
        if p.kind == "list":
            text = _NOUNS.get(p.table, p.table)
            if p.columns:
                text += " with " + _joined([self.column(c, p.table) for c in p.columns])
        else:
            text = _joined([self.metric(m) for m in p.metrics])
            if p.dimensions:
                text += " by " + _joined(
                    [d.bucket or (d.target.rstrip("s") if d.target in ENTITIES else self.column(d.target, p.table)) for d in p.dimensions]
                )
        if p.conditions:
            text += ", where " + _joined([self.condition(c, p.table) for c in p.conditions])
        if p.having:
            text += ", only those with " + _joined(
                [
                    f"{self.metric(p.metrics[min(int(h.metric[1:]), len(p.metrics) - 1)] if isinstance(h.metric, str) else h.metric)} "
                    f"{_COMPARES[h.compare]} {self.operand(h.operand)}"
                    for h in p.having
                ]
            )
        if p.order is not None:
            ref = self.column(p.order.ref, p.table) if "." in p.order.ref else {"m0": 0, "m1": 1}.get(p.order.ref, -1)
            if p.order.ref == "change":
                ref = "change"
            what = ref if isinstance(ref, str) else (self.metric(p.metrics[ref]) if ref >= 0 and ref < len(p.metrics) else "the group")
            text += f", {'highest' if p.order.descending else 'lowest'} {what} first"
            if p.order.limit:
                count = "1" if p.order.limit == "one" else self.operand(p.order.limit)
                text += f", the first {count}" + (" of each" if p.order.each else "")
        return text

    def column(self, token: str, base: str) -> str:
        f = fields()[token]
        name = f.name.replace("_", " ")
        if f.table == base or f.table == "customer_risk_scores" or name.startswith(f.table.rstrip("s")):
            return name
        return f"{f.table.rstrip('s').replace('_', ' ')} {name}"

    def metric(self, m: Metric) -> str:
        if isinstance(m, Simple):
            if m.fn == "count":
                return f"number of {_NOUNS.get(m.target, m.target)}"
            name = self.column(m.target, "transactions")
            return {"distinct": f"number of different {_plural(name)}", "sum": f"total {name}", "avg": f"average {name}"}.get(
                m.fn, f"{m.fn}imum {name}" if m.fn != "median" else f"median {name}"
            )
        first = self.metric(m.parts[0])
        where = _joined([self.condition(c, m.table) for c in m.conditions])
        if m.fn == "share":
            return f"share of {first.removeprefix('number of ')} where {where}" if where else f"share of {first}"
        if m.fn == "only":
            return f"{first} where {where}" if where else first
        if m.fn == "ratio":
            return f"{first} divided by {self.metric(m.parts[1])}"
        if m.fn == "pct":
            return f"percentage: {first}"
        if m.fn == "vs":
            return f"{first} in {' compared with '.join(self.linked.times[int(t[1:])].label for t in m.times)}"
        if m.fn == "per":
            return f"{first} per {m.times[0]} on average"
        if m.fn == "topshare":
            n = self.operand(m.times[1]) if m.times[1] != "one" else "1"
            return f"share of {first} that the top {n} {m.times[0]} make"
        return {"of_total": f"{first} and its share of the total", "growth": f"{first} and its change from the one before"}.get(
            m.fn, f"cumulative {first}"
        )

    def condition(self, c: Condition, base: str) -> str:
        if c.op == "or":
            return " or ".join(self.condition(e, base) for e in c.either)
        if c.op in ("has", "hasnot"):
            where = _joined([self.condition(i, c.table) for i in c.inner])
            return f"there {'are' if c.op == 'has' else 'are no'} {_NOUNS.get(c.table, c.table)}" + (f" with {where}" if where else "")
        if c.op == "hasagg":
            assert c.metric is not None  # noqa: S101
            where = _joined([self.condition(i, c.table) for i in c.inner])
            return f"{self.metric(c.metric)} is {_COMPARES[c.compare]} {self.operand(c.operands[0])}" + (f" with {where}" if where else "")
        if c.op in PAIRED:
            where = _joined([self.condition(i, c.table) for i in c.inner])
            tail = f" with {where}" if where else ""
            if c.op == "hasin":
                return f"there are {_NOUNS.get(c.table, c.table)}{tail} within {self.operand(c.operands[0])} of joining"
            assert c.metric is not None  # noqa: S101
            first, second = (self.linked.times[int(t[1:])].label for t in c.operands)
            return f"{self.metric(c.metric)}{tail} {first} is more than {second}"
        name = self.column(c.column, base)
        if c.op in ("during", "notduring"):
            label = self.linked.times[int(c.operands[0][1:])].label
            return f"{name} is {'not ' if c.op == 'notduring' else ''}{label}"
        if c.op in ("null", "notnull"):
            return f"{name} is {'not known' if c.op == 'null' else 'known'}"
        if c.op in ("true", "false"):
            return f"{name} is {'yes' if c.op == 'true' else 'no'}"
        listed = " or ".join(self.operand(o, c.column) for o in c.operands)
        if c.op == "between":
            return f"{name} is between {' and '.join(self.operand(o) for o in c.operands)}"
        if c.op == "like":
            return f"{name} contains {listed}"
        how = {"eq": "", "in": "", "ne": "not ", "notin": "not "}
        return f"{name} is {how[c.op] if c.op in how else _COMPARES[c.op] + ' '}{listed}"

    def operand(self, o: str, column: str = "") -> str:
        if o == "mean":
            return "the average"
        if o.startswith("="):
            return o[1:]
        if o.startswith("#"):
            return o[1:]
        if o.startswith("T"):
            return f"{self.linked.times[int(o[1:])].days or 0:g} days"
        if o.startswith("V"):
            return " or ".join(self.linked.values[int(o[1:])].columns.get(column, ())[:3])
        n = self.linked.numbers[int(o[1:])]
        return f"{n.value:g} %" if n.percent else f"{n.value:,g}"


def _plural(name: str) -> str:
    return f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1] if parts else ""
