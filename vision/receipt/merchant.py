"""Who sold: the name in the receipt's header, joined where it is broken over rows, without registration numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from vision.receipt.layout import Page, Row
from vision.receipt.text import fold, pattern, plain
from vision.types import Quad

MAX_HEADER_ROWS = 14
_SUFFIX = re.compile(
    r"(?:\bSDN\.? ?,?B[HN]D\b\.?|SDN\.?BHD\b|\bS/B\b|\bBHD\b\.?|\bS\.?B\b$|\bP(?:TE|VT|TY)\.? ?(?:LTD|LIMITED)\b\.?|\bLTD\b\.?"
    r"|\bLIMITED\b|\bINC\b\.?|\bL\.?L\.?[CP]\b\.?|\bCORP(?:ORATION)?\b\.?"
    r"|\bGMBH\b(?: ?& ?CO\.? ?KG)?|\bAG\b|\bE\.?K\.?$|\bOHG\b|\bU\.?G\b|\bS\.?A\.?(?:R\.?L\.?|S\.?)?\b\.?$|\bS\.?R\.?L\b\.?"
    r"|\bS\.?P\.?A\b\.?|\bS\.?L\.?U?\b\.?$|\bB\.?V\b\.?$|\bN\.?V\b\.?$"
    r"|\bA/S\b|\bAB$|\bOY\b|\bAS$|\bPLC\b|\bP\.?T\b\.?$|\bCO\b\.?(?: ?LTD)?$|\bPLT\b|\bENTERPRISES?\b|\bTRADING\b|\bCOMPANY\b"
    r"|\bHOLDINGS?\b)"
)
_GLUED_SUFFIX = re.compile(r"SDN\.?BHD|SDNBHD|PTELTD|PVTLTD|PTYLTD")
_LEGAL = re.compile(
    r"SDN|\bS[O0]N\.? ?BHD|BHD|\bS/B\b|\bLTD\b|\bLIMITED\b|\bINC\b|\bLLC\b|\bGMBH\b|\bPLC\b|\bSARL\b|\bCORP\b|\bPTY\b|\bPVT\b"
)
_GENERIC = frozenset({
    "CO", "COMPANY", "HOLDINGS", "HOLDING", "ENTERPRISE", "ENTERPRISES", "TRADING", "MARKETING", "STATIONERY", "HARDWARE",
    "RESTAURANT", "RESTAURANTS", "RESTORAN", "CAFE", "BAKERY", "STORE", "STORES", "SHOP", "MART", "SUPERMARKET", "HYPERMARKET",
    "RETAIL", "RESOURCES", "SERVICES", "SERVICE", "SUPPLIES", "SUPPLY", "FOOD", "FOODS", "GROUP", "MANAGEMENT", "INDUSTRIES",
    "INTERNATIONAL", "MALAYSIA", "SINGAPORE", "CONFECTIONERY", "PHARMACY", "MOTOR", "ELECTRICAL", "FURNITURE", "KITCHEN",
    "DISTRIBUTION", "DISTRIBUTORS", "SOLUTIONS", "VENTURES", "CORPORATION", "AND", "THE", "OF", "M", "S", "E", "N", "W", "&", "KL",
})  # fmt: skip
_SUFFIX_WORDS = frozenset({
    "SDN", "BHD", "SDNBHD", "S/B", "LTD", "LIMITED", "INC", "LLC", "GMBH", "PTE", "PVT", "PTY", "CORP", "PLC", "AG", "SARL", "SRL", "CO",
})  # fmt: skip
_ADDRESS = re.compile(
    r"\bNO\b\.? ?:? ?\d|\bNO\.\d|\bLOT\b|\bJALAN\b|\bJLN\b|\bTAMAN\b|\bTMN\b|\bLORONG\b|\bLRG\b|\bBANDAR\b|\bSEKSYEN\b|\bPERSIARAN\b"
    r"|\bKAMPUNG\b|\bKAWASAN\b|\bMUKIM\b"
    r"|\bSTREET\b|\bST\.? ?#|\bROAD\b|\bRD\b|\bAVE(NUE)?\b|\bBLVD\b|\bDRIVE\b|\bLANE\b|\bHIGHWAY\b|\bHWY\b|\bSUITE\b|\bFLOOR\b|\bFLR\b"
    r"|\bLEVEL \d|\bUNIT \d|\bBLOCK\b|\bBLK\b"
    r"|STRASSE\b|STR\.|\bPLATZ\b|\bALLEE\b|WEG \d|\bRUE\b|\bPLACE\b|\bBD\b|\bCALLE\b|\bAVDA\b|\bPLAZA\b \d|\bVIA \w+|\bPIAZZA\b|\bRUA\b"
    r"|\b\d{5}\b|\bP\.?O\.? ?BOX\b|\bGROUND\b|\b\d+(ST|ND|RD|TH)\b"
    r"|\b[A-Z]{1,2}\d{1,2}[A-Z]? ?\d[A-Z]{2}\b|,\s?[A-Z]{2} \d{5}"
)
_NOT_NAME = pattern(
    r"TAXINVOICE|TAXINV|^INVOICE|SIMPLIFIEDTAX|^RECEIPT|OFFICIAIRECEIPT|OFFICIALRECEIPT|CASHRECEIPT|CASHSALE|^CASH$|CASHBILL|CASHMEMO"
    r"|GST(ID|NO|REG)|REGNO|COREG|COMPANYNO|COMPANYREG|TEL(NO|EPHONE)?$|^TEL|^FAX"
    r"|PHONE|EMAIL|WWW|HTTP|\bCOM$|WEICOME|WELCOME|THANKYOU|THANKS|TERIMAKASIH|DANKE|MERCI|GRACIAS|WILLKOMMEN|BIENVENUE|SELAMATDATANG"
    r"|^TABLE|CASHIER|SERVER|^DATE|^TIME|^ORDER"
    r"|QUEUE|GUEST|CUSTOMER|DUPLICATE|COPY|REPRINT|^BILL|LICENSEE|OWNEDBY|OPERATEDBY|FRANCHISE|FORMERIY|FORMERLY|MANAGEDBY|STORENO"
    r"|^STORE$|BRANCH|CAWANGAN|FILIALE|OUTLET|SHOPPINGHOURS"
    r"|OPENINGHOURS|BUSINESSHOURS|QUITTUNG|RECHNUNG|KASSENBON|BELEG|FACTURE|TICKET$|FACTURA|FATTURA|SCONTRINO|STEUERNR|USTID|VATNO"
    r"|VATREG|VATIN|SIRET|^ABN|^UEN|^HQ|MOBIIE|MOBILE|WHATSAPP"
    r"|^ITEM|DESCRIPTION|^QTY|PCLXL|WARNING|^TERMINAL|^TRANS|^STAFF|^ERROR|DINEIN|TAKEAWAY|TAKEOUT|CARRYOUT|^ATTN|^TO$|BILLTO|SHIPTO"
    r"|SOLDTO"
)
_STOP = pattern(r"^ITEM|DESCRIPTION|^QTY|SUBTOTAL|^TOTAL|UPRICE|UNITPRICE|^DATE|CASHIER")
_REGISTRATION = re.compile(
    r"[\s(\[{C]*(?:(?:CO|COMPANY|BUSINESS)?\.? ?(?:REG|REGN|REGISTRATION|ROC"
    r"|NO)\.? ?(?:NO)?\.? ?[:.]? ?)?[(\[{]?\s?[A-Z]{0,2}\d{5,9}\s?[-.–~]?\s?[A-Z0-9]{0,2}\s?[)\]}]*\s*$"
)
_ONLY_REGISTRATION = re.compile(
    r"^[\s(\[{]*(?:CO(?:MPANY)?\.? ?)?(?:REG|NO)?[.: ]*[A-Z]{0,2}\d{5,}[\s-]*[A-Z]?\s?[)\]}]*$|^[\d\s./:*#=_-]+$"
)
_SLOGAN = pattern(
    r"BESTIN|QUALITY|TASTEOF|EVERYDAY|SINCE|YOURFAVOU?RITE|ALWAYS|LOWPRICE|SAVEMONEY|LIVEBETTER|HAVEANICE|ENJOY|HAPPY|FOLLOWUS|LIKEUS"
    r"|SEEYOU|COMEAGAIN"
)


@dataclass(frozen=True)
class FoundMerchant:
    """A name and how it was decided; `facts` is what confidence is made of, see confidence.py."""

    name: str
    quads: tuple[Quad, ...]
    rows: tuple[int, ...]
    facts: dict[str, float] = field(default_factory=dict)


def find_merchant(page: Page) -> FoundMerchant | None:
    """The seller's name, or None where the header holds nothing that could be one."""
    header = _header(page.rows)
    scored = [(_score(i, header, page), i) for i in range(len(header))]
    scored = [(s, i) for s, i in scored if s > -5]
    if not scored:
        return None
    best_score, at = max(scored, key=lambda x: (x[0], -x[1]))
    first, last = _extend(at, header)
    rows = header[first : last + 1]
    name = _clean(" ".join(r.text for r in rows))
    if len(fold(name)) < 2:
        return None
    others = [s for s, i in scored if not first <= i <= last]
    usual = sorted(r.height for r in page.rows)[len(page.rows) // 2]
    return FoundMerchant(
        name,
        tuple(q for r in rows for q in r.quads),
        tuple(range(first, last + 1)),
        {
            "legal": float(bool(_LEGAL.search(plain(name)) or _GLUED_SUFFIX.search(plain(name).replace(" ", "")))),
            "margin": min(3.0, best_score - max(others)) if others else 3.0,
            "first": float(first == 0),
            "depth": min(1.0, first / 6),
            "joined": float(last > first),
            "large": min(2.0, max(r.height for r in rows) / max(1.0, usual)),
            "reading": min(r.confidence for r in rows),
            "score": best_score,
            "doubtful": float(best_score < 0),
        },
    )


def _header(rows: tuple[Row, ...]) -> list[Row]:
    """The rows above the first column heading, total or second dated row; at most MAX_HEADER_ROWS."""
    out: list[Row] = []
    for row in rows[:MAX_HEADER_ROWS]:
        folded = fold(row.text)
        if len(out) >= 3 and _STOP.search(folded) and not _SUFFIX.search(plain(row.text)):
            break
        out.append(row)
    return out


def _has_suffix(text: str) -> bool:
    upper = _strip_registration(plain(text))
    return bool(_SUFFIX.search(upper) or _GLUED_SUFFIX.search(upper.replace(" ", "")))


def _legal(text: str) -> bool:
    upper = plain(text)
    return bool(_LEGAL.search(upper) or _GLUED_SUFFIX.search(upper.replace(" ", "")))


def _score(i: int, header: list[Row], page: Page) -> float:
    row = header[i]
    upper = plain(row.text)
    bare = _strip_registration(upper)
    folded = fold(bare)
    letters = sum(c.isalpha() for c in bare)
    digits = sum(c.isdigit() for c in bare)
    if letters < 3 or _ONLY_REGISTRATION.match(upper):
        return -9.0
    score = 2.0 - 0.42 * i
    if _legal(bare):
        score += 3.2
    elif _has_suffix(bare):
        score += 1.2
    if _NOT_NAME.search(folded):
        score -= 4.5
    if _ADDRESS.search(bare) and not _legal(bare):
        score -= 4.0
    if _SLOGAN.search(folded):
        score -= 2.0
    if ("@" in upper and "." in upper) or "WWW" in upper or ".COM" in upper:
        score -= 4.0
    if digits > letters:
        score -= 3.0
    elif digits and not _legal(bare):
        score -= min(1.5, 0.25 * digits)
    if re.search(r"[:#]", bare):
        score -= 2.0
    if letters < 5:
        score -= 1.0
    if bare.rstrip().endswith(","):
        score -= 1.5
    # A name above a registration number or a tax id is the company's.
    after = plain(header[i + 1].text) if i + 1 < len(header) else ""
    if after and re.match(r"^[(\[{]?\s?(CO|REG|ROC|GST|NO|[A-Z]{0,2}\d{5,})", after) and _ONLY_REGISTRATION.match(after):
        score += 1.0
    # Scraps of a sign or of print below the page are read with little certainty.
    score -= 6.0 * max(0.0, 0.85 - row.confidence)
    usual = sorted(r.height for r in page.rows)[len(page.rows) // 2]
    if row.height > 1.35 * usual and not _ADDRESS.search(bare):
        score += min(1.2, row.height / usual - 1.0)
    # A company named after "owned by" or below a customer's or deliverer's heading is not the shop on the sign.
    before = fold(header[i - 1].text) if i else ""
    if pattern(r"OWNEDBY|OPERATEDBY|BILLTO|SHIPTO|SOLDTO|^TO$|CUSTOMER|ATTN|^DATE|DATE$").search(before):
        score -= 3.0
    # A sign's words over several rows, then the whole name in one.
    words = set(re.findall(r"[A-Z]{3,}", bare))
    sign = [set(re.findall(r"[A-Z]{3,}", plain(r.text))) for r in header[max(0, i - 2) : i]]
    if len(sign) == 2 and all(s and s < words for s in sign):
        score += 2.5
    # Two companies on one page: the upper one sells.
    if _legal(bare) and any(_legal(r.text) for r in header[:i]):
        score -= 3.0
    if _legal(bare) and i > 0 and any(_ADDRESS.search(plain(r.text)) and not _legal(r.text) for r in header[:i]):
        score -= 1.5
    return score


def _own_words(text: str) -> list[str]:
    """Words that tell this company from others: no suffix, no trade, nothing in brackets."""
    upper = re.sub(r"\([^)]*\)?", " ", _strip_registration(plain(text)))
    words = re.findall(r"[A-Z0-9&'/]+", upper)
    return [w for w in words if w not in _GENERIC and w not in _SUFFIX_WORDS and not _GLUED_SUFFIX.fullmatch(w)]


def _name_like(row: Row) -> bool:
    upper = plain(row.text)
    folded = fold(upper)
    return (
        sum(c.isalpha() for c in upper) >= 3
        and not _NOT_NAME.search(folded)
        and not _ADDRESS.search(upper)
        and not _ONLY_REGISTRATION.match(upper)
        and not re.search(r"[:#]|\d{4,}", upper)
    )


def _near(a: Row, b: Row) -> bool:
    return abs(b.y - a.y) < 2.6 * max(a.height, b.height)


def _extend(at: int, header: list[Row]) -> tuple[int, int]:
    """First and last row of the name that row `at` is part of."""
    first = last = at
    while first > 0 and _near(header[first - 1], header[first]):
        above = header[first - 1]
        joined = " ".join(r.text for r in header[first : last + 1])
        incomplete = (_legal(joined) or _has_suffix(joined)) and not _own_words(joined)
        open_bracket = above.text.count("(") > above.text.count(")") and joined.count(")") > joined.count("(")
        repeats = _repeats(above.text, plain(joined)) and _name_like(above)
        if not (open_bracket or repeats or (incomplete and _name_like(above) and not _has_legal_end(above))):
            break
        first -= 1
    while last + 1 < len(header) and _near(header[last], header[last + 1]) and last - first < 3:
        joined = " ".join(r.text for r in header[first : last + 1])
        below = header[last + 1]
        if _strip_registration(plain(joined)) != plain(joined):
            break
        upper = plain(below.text)
        open_bracket = joined.count("(") > joined.count(")") and upper.count(")") > 0 and not re.search(r"\d{4}", upper)
        continues = (_legal(upper) or _GLUED_SUFFIX.search(upper.replace(" ", ""))) and not _own_words(upper) and not _legal(joined)
        hanging = joined.rstrip()[-1:] in "&-" and _name_like(below)
        # A part of a company's name, then its suffix two rows below.
        part = (
            not _legal(joined) and last + 2 < len(header) and _name_like(below) and not _own_words(below.text)
            and _legal(header[last + 2].text)
        )  # fmt: skip
        repeats = _repeats(joined, upper) and _name_like(below) and not _legal(joined)
        if not (open_bracket or continues or hanging or part or repeats):
            break
        last += 1
    return first, last


def _repeats(joined: str, below: str) -> bool:
    """A second row that takes up the first one's last word: GREEN PANDA / PANDA HOUSE."""
    words, next_words = plain(joined).split(), below.split()
    return len(words) >= 2 and len(next_words) >= 2 and words[-1] == next_words[0] and len(words[-1]) >= 4


def _has_legal_end(row: Row) -> bool:
    return bool(re.search(r"(?:BHD|LTD|LIMITED|INC|LLC|GMBH|S/B)\.?$", _strip_registration(plain(row.text))))


def _strip_registration(upper: str) -> str:
    stripped = _REGISTRATION.sub("", upper)
    return stripped if sum(c.isalpha() for c in stripped) >= 3 else upper


def _clean(text: str) -> str:
    """The name as printed, without a registration number, marks around it and what follows a legal suffix."""
    text = " ".join(text.split())
    upper = plain(text)
    if len(upper) == len(text):
        keep = len(_strip_registration(upper))
        text = text[:keep]
    # Digits between letters are misread letters: FO0D, D.1.Y.
    text = re.sub(r"(?<=[A-Za-z])0(?=[A-Za-z])", "O", text)
    text = re.sub(r"(?<=[A-Z])1(?=[A-Z])|(?<=[A-Z]\.)1(?=\.[A-Z])", "I", text)
    text = re.sub(r"^[\s*=\-_~.:;,'\"|<>#+]+|[\s*=\-_~:;,'\"|<>#+]+$", "", text)
    # The legal form is known, whatever was read of it: SON BHD.
    text = re.sub(r"\b([Ss])[oO0](?i:(n\.? ?bhd))", lambda m: m[1] + ("D" if m[2][0].isupper() else "d") + m[2], text)
    text = re.sub(r"(?<=[A-Za-z)] )[5Ss]/[8Bb](?![\w/])", "S/B", text)
    end = re.search(r"(?i)\b(?:SDN\.? ?BHD\b\.?|S/B\b|GMBH\b|CO\.(?=\s[A-Z])(?!\s?(?:LTD|INC|KG)))", text)
    if end and not re.match(r"\s?(?:&|\([^\W\d]*[A-Za-z])", text[end.end() :]):
        text = text[: end.end()]
    return re.sub(r"\s?[(\[{]\s*$", "", text)
