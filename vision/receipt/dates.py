"""The day of purchase: dates in many forms, the order of day and month decided by what else is known."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, timedelta

from vision.receipt.layout import Page, Row
from vision.receipt.text import as_digits, fold, pattern, plain
from vision.types import Quad

_MONTHS = {
    1: "JANUARY JAN JANUAR JANVIER JANV JANUARI ENERO ENE GENNAIO GEN JANEIRO",
    2: "FEBRUARY FEB FEBRUAR FEVRIER FEVR FEV FEBRUARI FEBRERO FEBBRAIO FEVEREIRO",
    3: "MARCH MAR MARZ MRZ MARS MAC MARZO MARET MAART MARCO",
    4: "APRIL APR AVRIL AVR ABRIL ABR APRILE",
    5: "MAY MAI MEI MAYO MAGGIO MAIO",
    6: "JUNE JUN JUNI JUIN JUNIO GIUGNO GIU JUNHO",
    7: "JULY JUL JULI JUIL JUILLET JULAI JULIO LUGLIO LUG JULHO",
    8: "AUGUST AUG AOUT AOU OGOS OGO AGOSTO AGO AGUSTUS AUGUSTUS",
    9: "SEPTEMBER SEP SEPT SEPTEMBRE SEPTIEMBRE SETTEMBRE SET SETEMBRO",
    10: "OCTOBER OCT OKTOBER OKT OCTOBRE OCTUBRE OTTOBRE OTT OUTUBRO OUT",
    11: "NOVEMBER NOV NOVEMBRE NOVIEMBRE NOVEMBRO NOPEMBER",
    12: "DECEMBER DEC DEZEMBER DEZ DECEMBRE DICIEMBRE DIC DISEMBER DIS DESEMBER DES DICEMBRE DEZEMBRO",
}
"""English, German, French, Malay, Spanish, Italian, Indonesian, Dutch and Portuguese, without accents."""
MONTHS = {name: number for number, names in _MONTHS.items() for name in names.split()}
_NAME = "|".join(sorted(MONTHS, key=len, reverse=True))
_YEAR = r"(?P<year>(?:19|20)\d{2}|'?\d{2})(?:(?!\d)|(?=\d{1,2}:\d{2}))"
_DAY_MONTH = re.compile(
    rf"(?<!\d)(?P<day>\d{{1,2}})(?:ST|ND|RD|TH|\.)?[\s./,-]*(?:DE\s)?(?P<month>{_NAME})(?![A-Z])[\s./,'-]*(?:DE\s)?{_YEAR}"
)
_GLUED = re.compile(rf"(?<!\d)(?P<day>\d{{1,2}})(?P<month>{_NAME})(?P<year>(?:19|20)\d{{2}}|\d{{2}})(?!\d)")
_MONTH_DAY = re.compile(rf"(?<![A-Z])(?P<month>{_NAME})[\s./-]*(?P<day>\d{{1,2}})(?:ST|ND|RD|TH)?[\s,./-]+{_YEAR}")
_YEAR_NAME = re.compile(rf"(?<!\d)(?P<year>(?:19|20)\d{{2}})[\s./-]*(?P<month>{_NAME})(?![A-Z])[\s./-]*(?P<day>\d{{1,2}})(?!\d)")
_YEAR_FIRST = re.compile(
    r"(?<!\d)(?P<a>(?:19|20)\d{2})\s?(?P<s>[./-])\s?(?P<b>\d{1,2})\s?[./-]\s?(?P<c>\d{1,2})(?:(?!\d)"
    r"|(?=\d{2}:\d{2}))"
)
_CJK = re.compile(r"(?P<a>(?:19|20)\d{2})\s?年\s?(?P<b>\d{1,2})\s?月\s?(?P<c>\d{1,2})\s?日")
_THREE = re.compile(r"(?<![\d.,/])(?P<a>\d{1,2})\s?(?P<s>[./-])\s?(?P<b>\d{1,2})\s?(?P<s2>(?P=s))\s?" + _YEAR.replace("year", "c"))
_THREE_LOOSE = re.compile(
    r"(?<![\d.,/-])(?P<a>\d{1,2})\s?(?P<s>[./' ,-])\s?(?P<b>\d{1,2})\s?(?P<s2>[./' ,-])\s?" + _YEAR.replace("year", "c")
)
_COMPACT = re.compile(r"(?<!\d)(?P<a>20\d{2})(?P<b>0[1-9]|1[0-2])(?P<c>0[1-9]|[12]\d|3[01])(?!\d)")
_COMPACT_DAY_FIRST = re.compile(r"(?<!\d)(?P<a>0[1-9]|[12]\d|3[01])(?P<b>0[1-9]|1[0-2])(?P<c>20\d{2})(?!\d)")
_TIME = re.compile(r"(?<!\d)[0-2]?\d\s?[:.]\s?[0-5]\d(?:\s?[:.]\s?[0-5]\d)?\s?(?:[AP]\.?M\b)?")
_LABEL = pattern(r"DATE|DATUM|TARIKH|FECHA|TANGGAL|TGL|DATA|^DT|FECHA|ISSUED|DATO|PVM")
_OTHER = pattern(r"EXPIR|VALID|BESTBEFORE|USEBY|DELIVERY|DEIIVERY|DUEDATE|ACT$|GSTACT|SINCE|BIRTH|MEMBERSINCE|RETURNBY|RETURNABLE|UNTIL"
    r"|BEFORE|GULTIG"
                 r"|HALTBAR|SEIT|FAELLIG|VERSION|WARRANTY|NEXT|PERIOD|EFFECTIVE|PROMO|OFFER|ENDS|APPOINT")  # fmt: skip
MONTH_FIRST = {"USD", "PHP"}
"""Currencies of countries that write 12/31/2018."""
YEAR_FIRST = {"JPY", "CNY", "KRW", "SEK", "HUF", "TWD"}
EARLIEST = date(1990, 1, 1)


@dataclass(frozen=True)
class Found:
    """A date and how it was decided.

    Attributes:
        facts: what confidence is made of, see confidence.py.
    """

    value: date
    quads: tuple[Quad, ...]
    facts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Candidate:
    readings: dict[str, date]
    row: Row
    score: float
    separator: str
    labelled: bool
    timed: bool
    confidence: float


def find_date(page: Page, currency: str | None, as_of: date | None) -> Found | None:
    """The date of purchase, or None where no date is on the page.

    Args:
        currency: ISO 4217 where known: it tells which of day and month is usually written first.
        as_of: a reading later than a day after it is put behind the others.
    """
    candidates = [c for n, row in enumerate(page.rows) for c in _candidates(row, n, page, as_of)]
    if not candidates:
        return None
    order_votes = _order_votes(candidates)
    chosen: list[tuple[float, date, _Candidate, bool]] = []
    for c in candidates:
        value, ambiguous = _decide(c, order_votes, currency, as_of)
        chosen.append((c.score, value, c, ambiguous))
    times_seen = Counter(value for _, value, _, _ in chosen)

    def worth(entry: tuple[float, date, _Candidate, bool]) -> float:
        score, value, _, _ = entry
        late = as_of is not None and value > as_of + timedelta(days=1)
        return score + 0.6 * min(2, times_seen[value] - 1) - (3.0 if late else 0.0)

    best = max(chosen, key=worth)
    _, value, candidate, ambiguous = best
    others = [worth(e) for e in chosen if e[1] != value]
    return Found(
        value,
        _quads_of(candidate),
        {
            "labelled": float(candidate.labelled),
            "timed": float(candidate.timed),
            "repeated": float(times_seen[value] > 1),
            "ambiguous": float(ambiguous),
            "margin": min(2.0, worth(best) - max(others)) if others else 2.0,
            "form": candidate.score,
            "reading": candidate.confidence,
            "plausible": float(as_of is None or as_of - timedelta(days=3660) <= value <= as_of + timedelta(days=1)),
        },
    )


def _quads_of(candidate: _Candidate) -> tuple[Quad, ...]:
    with_digits = [p.quad for p in candidate.row.pieces if sum(ch.isdigit() for ch in p.text) >= 2 and _in_piece(p.text, candidate)]
    return tuple(with_digits) or candidate.row.quads


def _in_piece(text: str, candidate: _Candidate) -> bool:
    days = {d.day for d in candidate.readings.values()} | {d.month for d in candidate.readings.values()}
    return any(int(n) in days for n in re.findall(r"\d{1,2}", _repaired(plain(text))))


def _repaired(text: str) -> str:
    """Letters read for digits inside words that are otherwise a date or a time: O5/O3/2O18."""

    def word(match: re.Match[str]) -> str:
        w = match.group()
        digits = sum(c.isdigit() for c in w)
        if digits >= 3 and len(re.findall(r"[./-]", w)) >= 2 and re.fullmatch(r"[\dOQDILSB|!Z./:-]+", w):
            return as_digits(w)
        return w

    text = re.sub(r"\S+", word, text)
    # A day or year beside a month's name: O5 MAY 2O18.
    text = re.sub(
        rf"\b([OIL\d])([OIL\d])(?=[\s./-]*(?:{_NAME})\b)",
        lambda m: as_digits(m.group()) if re.search(r"\d", m.group()) else m.group(),
        text,
    )
    text = re.sub(r"\b2[O0][OIL\d]{2}\b", lambda m: as_digits(m.group()), text)
    return re.sub(r"[A-Z0158]{3,9}", _month_repaired, text)


def _month_repaired(match: re.Match[str]) -> str:
    """A month's name with digits read for letters: 0CT, N0V."""
    word = match.group()
    if word.isalpha() or word.isdigit():
        return word
    lettered = word.translate(str.maketrans("0158", "OISB"))
    return (
        lettered
        if lettered in MONTHS
        else word.translate(str.maketrans("1", "L"))
        if word.translate(str.maketrans("1", "L")) in MONTHS
        else word
    )


def _candidates(row: Row, number: int, page: Page, as_of: date | None) -> list[_Candidate]:
    text = _repaired(plain(row.text))
    if sum(c.isdigit() for c in text) < 3:
        return []
    folded = fold(row.text)
    label = bool(_LABEL.search(folded))
    above = page.rows[number - 1] if number else None
    label_above = not label and above is not None and bool(_LABEL.search(fold(above.text))) and not re.search(r"\d{2}", above.text)
    other = bool(_OTHER.search(folded))
    out: list[_Candidate] = []
    taken: list[tuple[int, int]] = []

    def add(match: re.Match[str], readings: dict[str, date], form: float, separator: str) -> None:
        if not readings or form < -1 or any(match.start() < e and s < match.end() for s, e in taken):
            return
        taken.append(match.span())
        rest = text[: match.start()] + " " + text[match.end() :]
        timed = bool(_TIME.search(rest))
        # A slip's first date is its own; the header and the foot carry it more often than the middle.
        score = form + 1.0 * label + 0.5 * label_above + 0.5 * timed - 1.5 * other - 0.3 * number / max(1, len(page.rows))
        out.append(_Candidate(readings, row, score, separator, label or label_above, timed, row.confidence))

    for regex in (_DAY_MONTH, _GLUED, _MONTH_DAY, _YEAR_NAME):
        for m in regex.finditer(text):
            value = _date(m["year"], MONTHS[m["month"]], int(m["day"]), as_of)
            add(m, {"name": value} if value else {}, 2.0, "name")
    for regex in (_YEAR_FIRST, _CJK):
        for m in regex.finditer(text):
            value = _date(m["a"], int(m["b"]), int(m["c"]), as_of)
            add(m, {"ymd": value} if value else {}, 2.0, "ymd")
    for regex in (_THREE, _THREE_LOOSE):  # what is surely a date first, so that no loose one takes a part of it
        for m in regex.finditer(text):
            add(m, _orders(m["a"], m["b"], m["c"], as_of), _form(m["s"], m["s2"], len(m["c"].strip("'")) == 4, label), m["s"])
    for m in _COMPACT.finditer(text):
        value = _date(m["a"], int(m["b"]), int(m["c"]), as_of)
        add(m, {"ymd": value} if value else {}, 0.6 if label else -0.4, "compact")
    if label:
        for m in _COMPACT_DAY_FIRST.finditer(text):
            value = _date(m["c"], int(m["b"]), int(m["a"]), as_of)
            add(m, {"dmy": value} if value else {}, 0.3, "compact")
    return out


def _form(first: str, second: str, full_year: bool, label: bool) -> float:
    """How much three numbers with these separators look like a date."""
    if first in " ,'" or second in " ,'":
        return (0.7 if full_year else 0.2) if label else -9.0
    if first != second:
        return 1.2 if full_year else 0.4
    if first == "." and not full_year:
        return 0.9
    return 1.8 if full_year else 1.4


def _orders(a: str, b: str, c: str, as_of: date | None) -> dict[str, date]:
    """Valid readings of three numbers, by the order of day, month and year."""
    readings = {"dmy": _date(c, int(b), int(a), as_of), "mdy": _date(c, int(a), int(b), as_of)}
    if len(c.strip("'")) == 2 and int(a) > 9:
        readings["ymd"] = _date(a, int(b), int(c.strip("'")), as_of)
    return {order: value for order, value in readings.items() if value is not None}


def _date(year: str, month: int, day: int, as_of: date | None) -> date | None:
    y = int(year.strip("'"))
    if y < 100:
        y += 2000 if y < 80 else 1900
    try:
        value = date(y, month, day)
    except ValueError:
        return None
    latest = date(as_of.year + 30, 12, 31) if as_of else date(2079, 12, 31)
    return value if EARLIEST <= value <= latest else None


def _order_votes(candidates: list[_Candidate]) -> Counter[str]:
    """How many dates of the page can only be read in one order of day and month."""
    votes: Counter[str] = Counter()
    for c in candidates:
        orders = [o for o in ("dmy", "mdy") if o in c.readings]
        if len(orders) == 1 and c.separator not in ("name", "ymd", "compact"):
            votes[orders[0]] += 1
    return votes


def _decide(c: _Candidate, votes: Counter[str], currency: str | None, as_of: date | None) -> tuple[date, bool]:
    """(reading, whether another was as good) of a date."""
    readings = c.readings
    if as_of is not None:
        past = {o: v for o, v in readings.items() if v <= as_of + timedelta(days=1)}
        readings = past or readings
    if len(set(readings.values())) == 1:
        return next(iter(readings.values())), False
    preferred = "mdy" if currency in MONTH_FIRST and c.separator != "." else "dmy"
    if votes["dmy"] != votes["mdy"]:
        preferred = "dmy" if votes["dmy"] > votes["mdy"] else "mdy"
        known = True
    else:
        known = currency is not None
    if currency in YEAR_FIRST and "ymd" in readings:
        return readings["ymd"], False
    for order in (preferred, "dmy", "mdy", "ymd"):
        if order in readings:
            doubtful = not known and "dmy" in readings and "mdy" in readings and readings["dmy"] != readings["mdy"]
            return readings[order], doubtful
    raise AssertionError("a candidate has a reading")  # pragma: no cover
