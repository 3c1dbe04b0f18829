"""What a row's amount is: a total, a tax, cash, change and so on, told by the words before it in several languages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from difflib import SequenceMatcher

from vision.receipt.layout import Page, Row
from vision.receipt.money import Amount, row_amounts
from vision.receipt.text import fold, pattern

_IGNORED = pattern(
    r"TOTA[LI].?(QTY|QUANT|ITEM|PCS|PIECE|UNIT|COUNT|NUMBER|WEIGHT|POINT|GUEST|DISC|SAV)|TOTQTY|ITEMCOUNT|ITEMSCOUNT|NOOFITEM|NOITEM"
    r"|NUMBEROFITEM|ITEMSSOLD"
    r"|QTYTOTA|QTYS?$|POINT|PUNKTE|PAXS?$|SAVING|SAVED|YOUSAVE|ERSPART|GESPART|AHORR|JIMAT|EXCHANGERATE|WECHSELKURS|AWARD|NEWBALANCE"
    r"|OLDBALANCE"
    r"|PREVIOUSBALANCE|CARDBALANCE|ACCOUNTBALANCE|POINTSBALANCE|EARNED|JUMLAHBARANG|ARTICLES?$|LOADINGCHARGE|INVOICENO|RECEIPTNO|APPROVAL"
    r"|REFERENCE|CARDN|MERCHANTN|TERMINAL|TRACENO|STANNO|BATCH|SHIFT"
)
_CHANGE = pattern(
    r"(?<!EX)CHANGE(?!ABLE|D(?!UE)|S)|CHG(?!E?S)$|RUCKGELD|RUCKGEID|WECHSELGELD|ZURUCK|RENDU|MONNAIE|CAMBIO|VUELTO|BAKI|KEMBALI|RESTO$"
    r"|WISSELGELD|VAXEL|TROCO"
)
_ROUNDED = pattern(
    r"ROUND(ED)?(TOTAL|AMOUNT|AMT)|TOTAL(SALES)?(ROUNDED|ROUNDING)|TOTAL(AFTER|WITH|INCL?)(ADJ|ROUND)|AFTER(ADJ|ROUND)|ROUNDEDNET"
    r"|NETAFTERROUND|ROUNDEDTOTAL"
)
_ROUNDING = pattern(r"(?<!G)ROUND|RND|PEMBUNDARAN|BUNDAR|RUNDUNG|ARRONDI|REDONDEO|GENAP|AFRONDING|AVRUND|SENADJ")
_SUBTOTAL = pattern(
    r"SUB.?TOTA|SUBTTL|SUBTL|STOTAL$|ZWISCHENSUMME|SOUSTOTAL|SUBJUMLAH|TUSSENTOTAAL|TOTALBEFORE|BEFORETAX|BEFOREGST|EXCL|EXC(?=GST|OF"
    r"|TAX)|TOTALHT|MONTANTHT|BASEIMPON"
    r"|TAXABLE|NETT?OF(TAX|GST|VAT)|NETTOBETRAG|NETTO$|NETTOSUMME|^NETAMOUNT|^NETSALES|GROSSSALES|ITEMTOTAL|FOODTOTAL|MERCHANDISE"
    r"|IMPONIBILE|SUPPLIES|SUPPIIES|EXEMPT"
)
_TAX_WORD = (
    r"(GST|VAT|MWST|UST|MEHRWERTSTEUER|STEUER|TVA|IVA|IGIC|SST|SVCTAX|SERVICETAX|SALESTAX|TAX|CUKAI|PPN|HST|PST|QST|BTW"
    r"|MOMS|IMPUESTO|TAXES|TPS|TVQ)"
)
_TAX = pattern(
    rf"^(TOTAL|ADD|PLUS|INCL?|INCLUDES?|INCLUDED|INCLUSIVE(OF)?|PRICESINCLUSIVE|BILLINCLUSIVE(OF)?|ENTHALTENE?|DAVON|DONT|INKL|OF|C|S"
    rf"|THE|STATE|LOCAL|CITY|SR|ZR|ZRL){{0,5}}"
    rf"{_TAX_WORD}(?!ABLE|INVOICE|ID|REG|NO)|TOTALINCLUDE[SD]|{_TAX_WORD}(AMOUNT|AMT|INCLUDED|INCL|PAYABLE)?$|INCLUDED(IN|TOTAL)"
    rf"|{_TAX_WORD}PAYABLE"
)
_INCLUSIVE_TOTAL = pattern(r"(TOTAL|SALES|AMOUNT|AMT|TTL).*(INCL|INC|CLUSIV|WITH|INKL|TTC)|TTC|TOTALGROSS")
_INCLUSIVE_MISREAD = pattern(rf"TOTAL(SALES)?(?!INCLUDE)I[A-Z]{{2,7}}(OF)?{_TAX_WORD}")
_DISCOUNT = pattern(
    r"DISC(OUNT)?|RABATT|REMISE|REDUC|DESCUENTO|DESCTO|DISKAUN|DISKON|PROMOTION|VOUCHER|COUPON|REBATE|NACHLASS|KORTING|SCONTO|MARKDOWN"
)
_SERVICE = pattern(
    r"SERVICECH|SERVCH|SRVCH|SRVCCH|SVCCH|SVCHG|SERVCHARGE|SERVICEFEE|BEDIENUNG|CAJPERKHIDMATAN|^SERVICE$|^SVC|DELIVERYFEE|DELIVERYCH|SHIPPING"
    r"|PACKAGING"
)
_TIP = pattern(r"^TIPS?$|GRATUITY|TRINKGELD|POURBOIRE|PROPINA|TIPAMOUNT|^TIPADDED")
_STRONG = pattern(
    r"GRANDTOTAL|FINALTOTAL|NETT?TOTAL|TOTALNETT?|(TOTAL|AMOUNT|AMT|BALANCE|BILL)(TO)?(DUE|PAYABLE|PAY$|TOPAY)|TOTALPAYABLE"
    r"|TOTALAMT?PAY|TOTALDUE|TOTALTOPAY|DUETOTAL"
    r"|PAYTHISAMOUNT|ZUZAHLEN|ZAHLBETRAG|ENDSUMME|ENDBETRAG|RECHNUNGSBETRAG|GESAMTBETRAG|APAYER|NETAPAYER|TOTALAPAYER|TOTALAPAGAR"
    r"|IMPORTETOTAL|JUMLAHBESAR"
    r"|JUMLAHKESELURUHAN|TEBETALEN|TOTALEDAPAGARE|TOTALTTC|NETTPAYABLE|NETPAYABLE|AMOUNTDUE|BALANCEDUE|TOTALSALE$|TOTALBILL"
    r"|NETAMOUNTPAY|TOBEPAID|ORDERTOTAL"
)
_TOTAL = pattern(r"TOTA|TOTAL|TTL|TOTL|JUMLAH|SUMME|GESAMT|SUMA$|IMPORTE|TOTAAL|TOTALE|TOTALT|SUMMA|BETRAG|^NETT?$|^NETTAMOUNT|AMTDUE")
_AMOUNT = pattern(
    r"^(THE)?(AMOUNT|AMT|MONTANT|SALE|SALES|BALANCE|BAL|DUE|PAYABLE)(RM|USD|EUR|MYR|SGD|GBP)?$|^SALEAMOUNT|BILLAMOUNT"
    r"|SALEAMT"
)
_CASH = pattern(
    r"CASH(?!IER|SALE|BILL|MEMO|INV|REC|CARRY|&)|TENDER|^PAID|PAIDBY|AMOUNTPAID|AMTPAID|PAIDAMOUNT|PAYMENT(?!MODE|TYPE)|TUNAI|^BAR$"
    r"|BARZAHLUNG|BARGELD|GEGEBEN|ESPECES|EFECTIVO"
    r"|ENTREGADO|RECU$|BAYAR|CONTANT|KONTANT|DINHEIRO|RECEIVED|CONTANTI"
)
_CARD = pattern(
    r"VISA|MASTER|CARD$|CARDPAY|CREDIT|DEBIT|AMEX|EFTPOS|^EDC|MAESTRO|GIRO|KARTE|CARTE|TARJETA|CHEQUE|ALIPAY|WECHAT|PAYPAL|WALLET"
    r"|GRABPAY|TNG|BOOST|DUITNOW|CONTACTLESS|APPLEPAY|GOOGLEPAY|NETS$|BANCONTACT|PINPAS"
)
_SUMMARY = pattern(
    r"(GST|TAX|VAT|MWST|UST|SST|TVA|STEUER).?(SUMMARY|SUMMAR|ANALYSIS|BREAKDOWN|DETAIL|RATE(?=AMT|AMOUNT)|CODE|SATZ)|SUMMARYGST"
    r"|STEUERUBERSICHT|RECAPTVA|MWSTNETTO|NETTOMWST|NETTOBRUTTO"
)
_SUMMARY_HEAD = pattern(r"(AMOUNT|AMT|NET|NETTO|SALES).*(TAX|GST|VAT|MWST|UST|TVA)")

STRENGTH = {"rounded": 10.0, "strong": 8.0, "inclusive": 6.5, "total": 6.0, "amount": 2.5}
"""How much a label speaks for its amount being what was to be paid."""
_FUZZY = (("TOTAL", "total"), ("GRANDTOTAL", "strong"), ("SUBTOTAL", "subtotal"), ("ROUNDING", "rounding"), ("CHANGE", "change"),
          ("DISCOUNT", "discount"), ("AMOUNTDUE", "strong"), ("TOTALPAYABLE", "strong"), ("GESAMTBETRAG", "strong"))  # fmt: skip


@dataclass(frozen=True)
class Labelled:
    """An amount and what the words beside it say it is.

    Attributes:
        kind: rounded, strong, inclusive, total, amount (all totals, in falling strength), subtotal, net, tax, discount,
            service, tip, rounding, cash, card, change.
        row: number of the row with the words.
        whole: other amounts of the same row, left to right; of a tax often the amount it is of.
        fuzzy: True where the words fit only nearly.
    """

    kind: str
    amount: Amount
    row: int
    whole: tuple[Amount, ...] = ()
    fuzzy: bool = False
    summary: bool = False

    @property
    def value(self) -> Decimal:
        return self.amount.value


def kind_of(label: str) -> tuple[str | None, bool]:
    """(kind, fuzzy) of a row's words; "ignored" for totals of something else than money due, None where nothing is known."""
    folded = fold(label)
    if len(folded) < 2:
        return None, False
    for regex, kind in (
        (_SERVICE, "service"), (_CHANGE, "change"), (_IGNORED, "ignored"), (_ROUNDED, "rounded"), (_ROUNDING, "rounding"),
        (_SUBTOTAL, "subtotal"), (_DISCOUNT, "discount"), (_TIP, "tip"),
    ):  # fmt: skip
        if regex.search(folded):
            if kind == "rounding" and _TOTAL.search(folded):
                return "rounded", False
            if kind == "subtotal" and (_INCLUSIVE_TOTAL.search(folded) and not pattern("EXC|SUB|HT$|SUPPLIES").search(folded)):
                return "inclusive", False
            if kind == "discount" and pattern("AFTER|TOTALAFTER|NETTOTAL").search(folded) and _TOTAL.search(folded):
                return "inclusive", False
            return kind, False
    if _STRONG.search(folded):
        return "strong", False
    if _INCLUSIVE_MISREAD.search(folded):
        return "inclusive", False
    if _TAX.search(folded) and not (_INCLUSIVE_TOTAL.search(folded) and not pattern("INCLUDED|INCLUDES").search(folded)):
        return "tax", False
    if _INCLUSIVE_TOTAL.search(folded):
        return "inclusive", False
    if _CASH.search(folded):
        return "cash", False
    if _TOTAL.search(folded):
        return "total", False
    if _CARD.search(folded):
        return "card", False
    if _AMOUNT.search(folded):
        return "amount", False
    if 5 <= len(folded) <= 16:
        for word, kind in _FUZZY:
            if abs(len(folded) - len(word)) <= 1 and SequenceMatcher(None, folded, word.replace("L", "I")).ratio() >= 0.8:
                return kind, True
    return None, False


_CODES = re.compile(r"(?<!\w)(?:RM|MYR|USD|EUR|CHF|GBP|SGD|AUD|CAD|INR|BDT|[$€£¥৳₹])(?!\w)")


_HEADS = pattern(r"DESC|ITEM|QTY|QUANT|PRICE|AMOUNT|AMT|TOTAL|DISC|RSP|VALUE|MENU|ARTIKEL|MENGE|PREIS|PRIX|TAX|CODE|UP(?=A|T|$)")


def heading_words(label: str) -> int:
    """How many words of column headings ("QTY  PRICE  AMOUNT") a row has."""
    return len(_HEADS.findall(fold(label)))


def is_heading(label: str) -> bool:
    """Whether a row without numbers heads the columns of a list."""
    return heading_words(label) >= 2 and bool(_COLUMN.search(fold(label)))


_COLUMN = pattern(r"DESC|QTY|QUANT|PRICE|MENGE|PREIS|PRIX|RSP|^ITEM")


def label_text(row: Row, amounts: list[Amount]) -> str:
    """The row's words: its text without numbers and currencies."""
    parts = []
    for piece in row.pieces:
        text = piece.text
        for a in sorted((a for a in amounts if a.piece is piece), key=lambda a: -a.start):
            text = text[: a.start] + " " + text[a.end :]
        parts.append(text)
    return " ".join(_CODES.sub(" ", " ".join(parts)).split())


@dataclass(frozen=True)
class Reading:
    """The page with its numbers and their meaning.

    Attributes:
        amounts: of each row, left to right.
        labels: words of each row.
        kinds: of each row, None where it has no known words.
        labelled: amounts with a meaning, top to bottom.
        summary_rows: rows of a tax table.
    """

    page: Page
    amounts: tuple[tuple[Amount, ...], ...]
    labels: tuple[str, ...]
    kinds: tuple[str | None, ...]
    labelled: tuple[Labelled, ...]
    summary_rows: frozenset[int]


def read_labels(page: Page, decimal_comma: bool) -> Reading:
    """Give each row's amounts a meaning. An amount may stand in the row below (or, alone, just above) its words."""
    amounts = [row_amounts(row, decimal_comma) for row in page.rows]
    labels = [label_text(row, a) for row, a in zip(page.rows, amounts, strict=True)]
    found = [kind_of(label) for label in labels]
    summary = _summary_rows(labels, amounts, found)
    no_cents = not any(a.places == 2 for row in amounts for a in row)
    labelled: list[Labelled] = []
    used: set[int] = set()
    for i, (kind, fuzzy) in enumerate(found):
        if kind is None or kind == "ignored" or (i in summary and kind != "tax"):
            continue
        row_money = money_of(amounts[i], no_cents)
        at = i
        if not row_money and i not in summary and not is_heading(labels[i]):
            at = _row_beside(i, page, amounts, found, no_cents, used)
            row_money = money_of(amounts[at], no_cents) if at != i else []
        if not row_money:
            continue
        used.add(at)
        labelled.append(Labelled(kind, row_money[-1], i, tuple(row_money[:-1]), fuzzy, i in summary))
    for i in sorted(summary):
        if found[i][0] != "tax" and len(money_of(amounts[i], False)) >= 2:
            money = money_of(amounts[i], False)
            labelled.append(Labelled("tax", money[-1], i, tuple(money[:-1]), False, True))
    labelled = _balance_after_cash(labelled, labels)
    return Reading(
        page,
        tuple(map(tuple, amounts)),
        tuple(labels),
        tuple(k for k, _ in found),
        tuple(sorted(labelled, key=lambda x: x.row)),
        frozenset(summary),
    )


def money_of(amounts: list[Amount] | tuple[Amount, ...], no_cents: bool) -> list[Amount]:
    """Those printed like money; on a page without decimals every whole number of a labelled row."""
    money = [a for a in amounts if a.is_money]
    return money or ([a for a in amounts if a.places == 0] if no_cents else [])


def _row_beside(
    i: int, page: Page, amounts: list[list[Amount]], found: list[tuple[str | None, bool]], no_cents: bool, used: set[int]
) -> int:
    """The row that holds the amount of row i's words, which has none itself: i where there is none."""
    for j in (i + 1, i - 1):
        if not 0 <= j < len(page.rows) or j in used or not money_of(amounts[j], no_cents):
            continue
        words = fold(label_text(page.rows[j], amounts[j]))
        if found[j][0] is not None or len(words) > 3:
            continue
        reach = 2.2 if j > i else 1.0
        if abs(page.rows[j].y - page.rows[i].y) <= reach * max(page.rows[i].height, page.rows[j].height):
            return j
    return i


def _summary_rows(labels: list[str], amounts: list[list[Amount]], found: list[tuple[str | None, bool]]) -> set[int]:
    """Rows of tables like "GST SUMMARY  AMOUNT  TAX": a heading, then rows of two or three amounts."""
    rows: set[int] = set()
    for i, label in enumerate(labels):
        folded = fold(label)
        money = [a for a in amounts[i] if a.places == 2]
        head = (_SUMMARY.search(folded) or (_SUMMARY_HEAD.search(folded) and len(folded) < 30 and found[i][0] != "total")) and not money
        if not head or pattern("INVOICE|DESC|QTY|ITEM|UNIT|PRICE").search(folded):
            continue
        rows.add(i)
        for j in range(i + 1, min(len(labels), i + 9)):
            count = sum(1 for a in amounts[j] if a.places == 2)
            if count >= 2 or (count == 1 and kind_of(labels[j])[0] in ("tax", None) and len(fold(labels[j])) <= 12 and fold(labels[j])):
                if found[j][0] in ("cash", "card", "change", "strong", "rounded", "rounding"):
                    break
                rows.add(j)
            elif count or (amounts[j] and not _SUMMARY_HEAD.search(fold(labels[j]))) or j > i + 2:
                break
    return rows


def _balance_after_cash(labelled: list[Labelled], labels: list[str]) -> list[Labelled]:
    """ "BALANCE" means what is due before the payment, and the change after it."""
    paid_at = min((x.row for x in labelled if x.kind in ("cash", "card")), default=None)
    out = []
    for x in labelled:
        folded = fold(labels[x.row])
        if paid_at is not None and x.row > paid_at and x.kind == "amount" and pattern("^BAL").search(folded):
            x = Labelled("change", x.amount, x.row, x.whole, x.fuzzy)
        out.append(x)
    return out
