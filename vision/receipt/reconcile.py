"""Which printed value is the total, what the page's arithmetic says about it, and the repair of one misread digit."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal

from vision.receipt.items import items_sum
from vision.receipt.labels import STRENGTH, Labelled, Reading
from vision.receipt.text import fold, pattern
from vision.types import LineItem, Quad

ZERO = Decimal(0)
_LOOK_ALIKE = {"0": "689", "1": "74", "2": "7Z", "3": "859", "4": "19", "5": "638", "6": "580", "7": "12", "8": "3065", "9": "3408"}
"""Digits that text engines take for one another on thermal print."""
CENT_OFF = Decimal("0.01")
"""Taxes rounded line by line may be a cent off: that neither agrees nor contradicts."""
FIVE_CENTS = Decimal("0.05")
_SMALL = Decimal(1)
"""A "rounding" row with more than this holds the rounded total."""


@dataclass(frozen=True)
class Sums:
    """The page's sums of money; None where nothing says.

    Attributes:
        payments: all that was handed over or charged, in printed order.
        nets: bases printed apart from the total (subtotals, amounts without tax).
    """

    total: Labelled | None = None
    subtotal: Labelled | None = None
    tax: Decimal | None = None
    discount: Decimal | None = None
    service: Decimal = ZERO
    tip: Decimal = ZERO
    rounding: Decimal | None = None
    cash: Decimal | None = None
    change: Decimal | None = None
    payments: tuple[Decimal, ...] = ()
    nets: tuple[Decimal, ...] = ()
    of_items: Decimal | None = None
    quads: dict[str, tuple[Quad, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """The total and what speaks for it.

    Attributes:
        value: None where the page names no total.
        holds: equations that agree with it: "paid" (cash - change), "sum" (subtotal, tax, discount, rounding), "items".
        fails: equations whose terms are all there and which contradict it.
        repaired: the field of which one digit was corrected, or None.
        facts: what confidence is made of, see confidence.py.
    """

    value: Decimal | None
    sums: Sums
    holds: frozenset[str] = frozenset()
    fails: frozenset[str] = frozenset()
    repaired: str | None = None
    facts: dict[str, float] = field(default_factory=dict)


def decide(reading: Reading, items: tuple[LineItem, ...], items_discount: Decimal) -> Decision:
    """Choose the total among the labelled values by label, arithmetic and place, repair it where that is certain."""
    sums = _sums(reading, items, items_discount)
    candidates = _candidates(reading, sums)
    if not candidates:
        return Decision(None, sums)
    scores = {value: _score(value, rows, reading, sums) for value, rows in candidates.items()}
    value = max(scores, key=lambda v: scores[v])
    best = max(candidates[value], key=lambda x: (STRENGTH.get(x.kind, 0.0), x.row))
    sums = replace(sums, total=best, quads={**sums.quads, "total": (best.amount.piece.quad,)})
    judged = _without_itself(value, candidates[value], sums)
    holds, fails = check(value, judged)
    repaired = None
    if not holds and fails:
        found = repair(value, judged)
        if found is not None:
            repaired, new = found
            if repaired == "total":
                value = new
            else:
                sums = _with(sums, repaired, new)
            holds, fails = check(value, sums)
    return Decision(value, sums, holds, fails, repaired, _facts(value, best, scores, candidates, sums, holds, fails, repaired, reading))


def _sums(reading: Reading, items: tuple[LineItem, ...], items_discount: Decimal) -> Sums:
    by_kind: dict[str, list[Labelled]] = {}
    for x in reading.labelled:
        by_kind.setdefault(x.kind, []).append(x)
    quads: dict[str, tuple[Quad, ...]] = {}

    def take(name: str, found: list[Labelled]) -> Decimal | None:
        if not found:
            return None
        quads[name] = tuple(x.amount.piece.quad for x in found)
        return found[-1].value

    plain_taxes = [x for x in by_kind.get("tax", []) if not x.summary]
    summary = [x for x in by_kind.get("tax", []) if x.summary]
    tax = _tax(plain_taxes, summary, quads)
    discounts = [x for x in by_kind.get("discount", []) if x.value != 0]
    subtotals = [x for x in by_kind.get("subtotal", []) if not x.summary]
    roundings = [x for x in by_kind.get("rounding", []) if abs(x.value) < _SMALL]
    cash = [x for x in by_kind.get("cash", []) if x.value != 0]
    cards = [x for x in by_kind.get("card", []) if x.value != 0]
    change = take("change", by_kind.get("change", [])[:1])
    discount = sum({abs(x.value) for x in discounts}, ZERO) if discounts else (items_discount or None)
    if discounts:
        take("discount", discounts)
    nets = tuple(dict.fromkeys([x.value for x in subtotals] + [a.value for x in summary for a in x.whole[:1]]))
    gross_subtotals = [x for x in subtotals if not pattern("EXC|HT$|SUPPLIES|NET").search(fold(reading.labels[x.row]))]
    subtotal = (gross_subtotals or subtotals)[0] if subtotals else None
    if subtotal:
        quads["subtotal"] = (subtotal.amount.piece.quad,)
    return Sums(
        subtotal=subtotal,
        tax=tax,
        discount=discount,
        service=sum({x.value for x in by_kind.get("service", [])}, ZERO),
        tip=sum({x.value for x in by_kind.get("tip", [])}, ZERO),
        rounding=take("rounding", roundings[:1]),
        cash=abs(value) if (value := take("cash", cash[:1])) is not None else None,
        change=abs(change) if change is not None else None,
        payments=tuple(abs(x.value) for x in sorted(cash + cards, key=lambda x: x.row)),
        nets=nets,
        of_items=items_sum(items) if items else None,
        quads=quads,
    )


def _tax(plain: list[Labelled], summary: list[Labelled], quads: dict[str, tuple[Quad, ...]]) -> Decimal | None:
    """One figure of all tax rows: those beside the totals (added up when they are different taxes), else those of the table."""
    chosen = plain or summary
    if not chosen:
        return None
    quads["tax"] = tuple(x.amount.piece.quad for x in chosen)
    values = [x.value for x in chosen]
    if len(values) > 1 and abs(values[-1] - sum(values[:-1], ZERO)) <= Decimal("0.01"):
        return values[-1]  # the last row is the others' sum
    return sum(dict.fromkeys(values), ZERO) if len(values) <= 4 else max(values)


def _candidates(reading: Reading, sums: Sums) -> dict[Decimal, list[Labelled]]:
    """Values that may be the total, with the rows that name them."""
    out: dict[Decimal, list[Labelled]] = {}
    for x in reading.labelled:
        kind = x.kind
        if x.summary:
            continue
        if kind == "rounding" and abs(x.value) >= _SMALL:
            kind, x = "rounded", replace(x, kind="rounded")
        if kind in STRENGTH:
            out.setdefault(x.value, []).append(x)
    if any(STRENGTH[x.kind] >= STRENGTH["total"] for rows in out.values() for x in rows):
        return out
    # The total's own row was not read: what was paid less the change, else a subtotal or what was paid.
    paid = [x for x in reading.labelled if x.kind in ("cash", "card") and not x.summary and x.value != 0]
    if paid and sums.change is not None:
        out.setdefault(abs(paid[0].value) - sums.change, []).append(replace(paid[0], kind="paid"))
    for x in reading.labelled:
        if x.kind == "subtotal" and not x.summary:
            out.setdefault(x.value, []).append(x)
    for value, x in _derived(reading, sums):
        out.setdefault(value, []).append(x)
    if not out:
        for x in paid:
            out.setdefault(abs(x.value), []).append(x)
    if out:
        return out
    # No word is known: the largest amount of the lower half, if anything.
    half = len(reading.page.rows) // 3
    money = [(a, i) for i, row in enumerate(reading.amounts) for a in row if a.is_money and i >= half]
    if money:
        a, i = max(money, key=lambda m: m[0].value)
        out[a.value] = [Labelled("unlabelled", a, i)]
    return out


def _derived(reading: Reading, sums: Sums) -> Iterator[tuple[Decimal, Labelled]]:
    """Amounts printed below the subtotal without a readable word that are the subtotal with tax, service, discount or rounding."""
    if sums.subtotal is None:
        return
    reached = {sums.subtotal.value + change for change in _changes(sums) if change}
    for i in range(sums.subtotal.row + 1, len(reading.page.rows)):
        for a in reading.amounts[i]:
            if a.is_money and a.value in reached and i not in reading.summary_rows:
                yield a.value, Labelled("derived", a, i)


def _without_itself(value: Decimal, rows: list[Labelled], sums: Sums) -> Sums:
    """The sums without the subtotal that the value is itself: no row confirms itself."""
    if any(x.kind in STRENGTH for x in rows):
        return sums
    return replace(sums, nets=tuple(n for n in sums.nets if n != value))


def _score(value: Decimal, rows: list[Labelled], reading: Reading, sums: Sums) -> float:
    holds, fails = check(value, _without_itself(value, rows, sums))
    strengths = sorted((STRENGTH.get(x.kind, 0.0) - 1.5 * x.fuzzy for x in rows), reverse=True)
    score = strengths[0] + 0.4 * min(2, len(strengths) - 1)
    score += 3.0 * ("paid" in holds) + 1.5 * ("sum" in holds) + 1.0 * ("items" in holds)
    score -= 1.0 * ("paid" in fails)
    score += 0.5 * max(x.row for x in rows) / max(1, len(reading.page.rows))
    if value == 0 and (sums.of_items or any(n for n in sums.nets)):
        score -= 6.0
    if value < 0:
        score -= 0.5 + 2.0 * any(x.value > 0 and STRENGTH.get(x.kind, 0.0) >= 6 for x in reading.labelled)
    # "Total 6 % supplies": a part, unless the words say that tax is inside.
    if all(x.kind == "total" and "%" in reading.labels[x.row] for x in rows):
        score -= 2.0
    return score


def check(value: Decimal, sums: Sums) -> tuple[frozenset[str], frozenset[str]]:
    """(equations that agree with the total, equations that contradict it); those that lack a term are in neither."""
    holds: set[str] = set()
    fails: set[str] = set()
    paid = _paid(value, sums)
    if paid is not None:
        (holds if paid else fails).add("paid")
    # Supplies of two tax rates are often summed apart: both together are a base, too.
    pairs = tuple(a + b for a, b in itertools.combinations(sums.nets[:6], 2))
    for name, bases in (("sum", sums.nets + pairs), ("items", (sums.of_items,) if sums.of_items is not None else ())):
        distances = [_distance(base, value, sums) for base in bases]
        if not distances:
            continue
        if min(distances) == 0:
            holds.add(name)
        elif min(distances) > CENT_OFF:
            fails.add(name)
    return frozenset(holds), frozenset(fails)


def _paid(value: Decimal, sums: Sums) -> bool | None:
    if not sums.payments:
        return None
    handed = {*sums.payments, sum(sums.payments, ZERO)}
    if any(p + (sums.tip if sums.tip else ZERO) == value for p in handed) or any(p - sums.tip == value for p in handed):
        return True
    if sums.change is not None:
        return any(p - sums.change == value for p in handed)
    return None if all(p >= value for p in handed) else False


def _distance(base: Decimal, value: Decimal, sums: Sums) -> Decimal:
    """How far the total is from base with tax, discount, service, tip and rounding taken or left, whichever comes nearest."""
    distance = min(abs(base + change - value) for change in _changes(sums))
    if sums.rounding is None and value % FIVE_CENTS == 0:
        # Cash is rounded to five cents in places where nothing is printed about it.
        rounded = abs(base + (sums.tax or ZERO) - value), abs(base - value)
        return ZERO if min(rounded) <= Decimal("0.02") else distance
    return distance


def _changes(sums: Sums) -> Iterator[Decimal]:
    options = (
        (ZERO, sums.tax or ZERO),
        (ZERO, -(sums.discount or ZERO)),
        (ZERO, sums.service),
        (ZERO, sums.tip),
        (ZERO, sums.rounding or ZERO, -(sums.rounding or ZERO)),
    )
    for parts in itertools.product(*(tuple(dict.fromkeys(o)) for o in options)):
        yield sum(parts, ZERO)


def readings_of(value: Decimal) -> list[Decimal]:
    """What an amount may be when one of its digits was misread, a mark before it as one, or its decimal point lost."""
    text = f"{abs(value):.2f}"
    out = []
    for i, c in enumerate(text):
        for other in _LOOK_ALIKE.get(c, ""):
            if other.isdigit():
                out.append(text[:i] + other + text[i + 1 :])
    digits = text.replace(".", "")
    if len(digits) >= 4:
        out.append(text[1:])  # a mark before the amount was read as a digit
    if text.endswith(".00") and len(digits) > 4:
        out.append(f"{text[:-5]}.{text[-5:-3]}")  # 1250 for 12.50
    sign = -1 if value < 0 else 1
    return list(dict.fromkeys(sign * Decimal(t) for t in out if re.fullmatch(r"\d+\.\d\d", t)))


def repair(total: Decimal, sums: Sums) -> tuple[str, Decimal] | None:
    """(field, value) of the one change of one digit that makes the arithmetic agree, or None where none or several do.

    Fields tried: the total, cash, change and tax. A repair counts by the equations that agree with it; it may break none.
    """
    found: dict[tuple[str, Decimal], int] = {}
    before = len(check(total, sums)[0])
    for value in readings_of(total):
        n = len(check(value, sums)[0])
        if n > before:
            found["total", value] = n
    for name in ("cash", "change", "tax"):
        old = getattr(sums, name)
        if not old:
            continue
        for value in readings_of(old):
            changed = _with(sums, name, value)
            n = len(check(total, changed)[0])
            if n > before:
                found[name, value] = n
    if sums.rounding:
        # Where a rounding is printed, the total is a multiple of five cents.
        found = {key: n for key, n in found.items() if (key[1] if key[0] == "total" else total) % FIVE_CENTS == 0}
    if not found:
        return None
    most = max(found.values())
    best = [key for key, n in found.items() if n == most]
    return best[0] if len(best) == 1 else None


def _with(sums: Sums, name: str, value: Decimal) -> Sums:
    """The sums with cash, change or tax corrected."""
    if name == "cash":
        return replace(sums, cash=value, payments=tuple(value if p == sums.cash else p for p in sums.payments))
    return replace(sums, change=value) if name == "change" else replace(sums, tax=value)


def _facts(
    value: Decimal, best: Labelled, scores: dict[Decimal, float], candidates: dict[Decimal, list[Labelled]], sums: Sums,
    holds: frozenset[str], fails: frozenset[str], repaired: str | None, reading: Reading,
) -> dict[str, float]:  # fmt: skip
    others = [s for v, s in scores.items() if v != best.value]
    top = max(scores.values())
    printed = sum(1 for row in reading.amounts for a in row if abs(a.value) == abs(value) and a.places == 2)
    explained = {v for v in scores if v != value and any(abs(v + c - value) <= Decimal("0.01") for c in _changes(sums))}
    rivals = [
        v
        for v in scores
        if v not in explained and v != best.value and max(STRENGTH.get(x.kind, 0.0) for x in candidates[v]) >= 6.0 and v != 0
    ]
    return {
        "holds": float(min(3, len(holds))),
        "paid": float("paid" in holds),
        "fails": float(len(fails & {"paid", "sum"})),
        "strength": STRENGTH.get(best.kind, 0.0) / 10,
        "unnamed": float(best.kind not in STRENGTH),
        "margin": min(4.0, top - max(others)) / 4 if others else 1.0,
        "rivals": float(bool(rivals)),
        "printed": min(3.0, printed) / 3,
        "reading": best.amount.piece.confidence,
        "repaired": float(repaired is not None or best.amount.repaired or best.fuzzy),
        "negative": float(value <= 0),
    }
