"""Rows, numbers, dates, names, labels, sums and repairs, each alone."""

from __future__ import annotations

import math
from datetime import date
from decimal import Decimal

import pytest

from tests.vision.receipts import lines_of
from vision.receipt import read_receipt
from vision.receipt.confidence import WEIGHTS, confidence
from vision.receipt.dates import find_date
from vision.receipt.labels import kind_of, read_labels
from vision.receipt.layout import Page, Piece, Row, estimate_skew, lay_out
from vision.receipt.merchant import find_merchant
from vision.receipt.money import amounts_of, currency_of, dollars_repaired, page_uses_decimal_comma, row_amounts
from vision.receipt.reconcile import Sums, check, readings_of, repair
from vision.receipt.text import fold
from vision.types import TextLine

QUAD = ((0.0, 0.0), (100.0, 0.0), (100.0, 10.0), (0.0, 10.0))


def _piece(text: str) -> Piece:
    return Piece(text, 0.0, 100.0, 5.0, 10.0, 0.9, QUAD)


def _row(*texts: str) -> Row:
    return Row(tuple(_piece(t) for t in texts))


def _page(text: str) -> Page:
    return lay_out(lines_of(text))


# Rows


@pytest.mark.parametrize("degrees", [-11.0, -2.5, 0.0, 1.0, 8.0, 90.0, 97.0, 173.0, 180.0, 270.0])
def test_skew_is_found_and_rows_are_put_together(degrees: float) -> None:
    text = "\n".join(f"ITEM NUMBER {n:<12}{n}.50          {n}.50" for n in range(1, 15))
    lines = lines_of(text, degrees=degrees, shuffle=True)
    assert estimate_skew(lines) == pytest.approx(degrees, abs=0.2)
    assert [r.text for r in lay_out(lines).rows] == [f"ITEM NUMBER {n} {n}.50 {n}.50" for n in range(1, 15)]


def test_upright_boxes_of_a_turned_page_still_make_rows() -> None:
    text = "\n".join(f"THING {n:<14}{n}              {n}.50" for n in range(1, 16))
    upright = []
    for line in lines_of(text, degrees=3.0):
        xs, ys = [x for x, _ in line.quad], [y for _, y in line.quad]
        box = ((min(xs), min(ys)), (max(xs), min(ys)), (max(xs), max(ys)), (min(xs), max(ys)))
        upright.append(TextLine(box, line.text, line.confidence))
    assert estimate_skew(upright) == pytest.approx(3.0, abs=0.6)
    assert [r.text for r in lay_out(upright).rows] == [f"THING {n} {n} {n}.50" for n in range(1, 16)]


def test_a_large_headline_does_not_swallow_the_rows_beside_it() -> None:
    big = TextLine(((0.0, 0.0), (100.0, 0.0), (100.0, 60.0), (0.0, 60.0)), "SHOP", 0.9)
    small = [
        TextLine(((120.0, y), (200.0, y), (200.0, y + 14), (120.0, y + 14)), t, 0.9)
        for y, t in ((0.0, "one"), (22.0, "two"), (44.0, "three"))
    ]
    rows = lay_out([big, *small]).rows
    assert [[p.text for p in r.pieces] for r in rows if "SHOP" not in r.text] in ([["one"], ["three"]], [["one"], ["two"], ["three"]])


def test_blank_pieces_are_left_out() -> None:
    assert lay_out([TextLine(QUAD, "  ", 0.9)]).rows == ()


# Numbers


@pytest.mark.parametrize(
    ("text", "comma", "values"),
    [
        ("1,234.56", False, ["1234.56"]),
        ("1.234,56", True, ["1234.56"]),
        ("1 234,56", True, ["1234.56"]),
        ("12,50", False, ["12.50"]),
        ("RM108.50 S", False, ["108.50"]),
        ("-RM0.02", False, ["-0.02"]),
        ("RM -0.02", False, ["-0.02"]),
        ("(5.00)", False, ["-5.00"]),
        ("5.00-", False, ["-5.00"]),
        (".02", False, ["0.02"]),
        ("13.94ZR", False, ["13.94"]),
        ("TOTAL19.40", False, ["19.40"]),
        ("1O.5O", False, ["10.50"]),
        ("RMl2.S0", False, ["12.50"]),
        ("10. 50", False, ["10.50"]),
        ("3 125.00", False, ["3", "125.00"]),
        ("2 x 3.50", False, ["2", "3.50"]),
        ("Rp 25.000", False, ["25000"]),
        ("¥1,080", False, ["1080"]),
        ("€ 3,50", True, ["3.50"]),
        ("3,50 €", True, ["3.50"]),
        ("6%", False, []),
        ("19:40", False, []),
        ("12/03/2018", False, []),
        ("05-05-2018", False, []),
        ("03-7731 8169", False, ["8169"]),
        ("E4MP3", False, []),
        ("SOLD", False, []),
    ],
)
def test_numbers_as_they_are_printed(text: str, comma: bool, values: list[str]) -> None:
    assert [a.value for a in amounts_of(_piece(text), comma)] == [Decimal(v) for v in values]


def test_letters_for_digits_are_marked_as_repaired() -> None:
    assert [a.repaired for a in amounts_of(_piece("1O.50"))] == [True]
    assert [a.repaired for a in amounts_of(_piece("10.50"))] == [False]


def test_an_s_before_an_amount_is_a_dollar_where_the_page_has_dollars() -> None:
    def texts(text: str) -> list[str]:
        return [p.text for row in dollars_repaired(_page(text)).rows for p in row.pieces]

    assert texts("TEA  $1.10\nTOTAL  S8.20\nSODA S8") == ["TEA", "$1.10", "TOTAL", "$8.20", "SODA S8"]
    assert texts("TEA  1.10\nTOTAL  S8.20") == ["TEA", "1.10", "TOTAL", "S8.20"]


def test_a_currency_in_the_piece_before_belongs_to_the_amount() -> None:
    assert [(a.currency, a.value) for a in row_amounts(_row("TOTAL", "RM", "12.50"), False)] == [("RM", Decimal("12.50"))]


def test_the_decimal_sign_is_the_pages_usual_one() -> None:
    assert page_uses_decimal_comma(_page("Brot  3,49\nMilch  1,29\n1.50"))
    assert not page_uses_decimal_comma(_page("Bread  3.49\nMilk  1.29\n1,50"))


@pytest.mark.parametrize(
    ("text", "currency"),
    [
        ("A SDN BHD\nTOTAL  $12.00", "MYR"),
        ("A LLC\nTOTAL  $12.00", "USD"),
        ("A PTE LTD\nTOTAL  $12.00", "SGD"),
        ("TOTAL  £12.00", "GBP"),
        ("AMOUNT(RM)\n12.00", "MYR"),
        ("A GmbH\nSumme  12,00", "EUR"),
        ("Total  kr 120", "SEK"),
        ("TOTAL  12.00", None),
    ],
)
def test_the_currency_by_signs_then_by_country(text: str, currency: str | None) -> None:
    page = _page(text)
    assert currency_of(page, [a for row in page.rows for a in row_amounts(row, False)])[0] == currency


# Dates


@pytest.mark.parametrize(
    ("text", "currency", "day"),
    [
        ("DATE: 05/03/2018", "MYR", "2018-03-05"),
        ("05/03/2018", "USD", "2018-05-03"),
        ("25/03/2018", "USD", "2018-03-25"),
        ("03/25/2018", None, "2018-03-25"),
        ("17-02-18 07:44PM", None, "2018-02-17"),
        ("12.05.24", "EUR", "2024-05-12"),
        ("2018/02/22 13:34", None, "2018-02-22"),
        ("DATE/TIME : 20180428/191204", None, "2018-04-28"),
        ("28 MAR 18", None, "2018-03-28"),
        ("25/FEB/2017 07:43:54", None, "2017-02-25"),
        ("OCT 3, 2016 12:16:25 PM", None, "2016-10-03"),
        ("0CT 3, 2016", None, "2016-10-03"),
        ("05MAY2018", None, "2018-05-05"),
        ("5. Mai 2024", None, "2024-05-05"),
        ("le 14 juillet 2023", None, "2023-07-14"),
        ("3 de marzo de 2024", None, "2024-03-03"),
        ("17 Ogos 2019", "MYR", "2019-08-17"),
        ("2nd August 2021", None, "2021-08-02"),
        ("24. Dez. 2022", None, "2022-12-24"),
        ("DATE 12 03 2018", "MYR", "2018-03-12"),
        (": 05-05-201811:25:29", "MYR", "2018-05-05"),
        ("O5/O3/2O18", "MYR", "2018-03-05"),
        ("2023年4月9日", "JPY", "2023-04-09"),
        ("18/03/05", "JPY", "2018-03-05"),
        ("ORD #18 -REG #19- 21/03/2018", None, "2018-03-21"),
    ],
)
def test_dates_of_many_forms(text: str, currency: str | None, day: str) -> None:
    found = find_date(_page(text), currency, date(2025, 1, 1))
    assert found is not None
    assert str(found.value) == day


@pytest.mark.parametrize("text", ["TEL 03-1234 5678", "NO 12, 14 & 16", "99/99/2018", "31/02/2018", "INVOICE 123456", "192.168.10.20", ""])
def test_what_is_no_date(text: str) -> None:
    assert find_date(_page("SHOP\n" + text), None, None) is None


def test_another_date_of_the_page_tells_the_order() -> None:
    found = find_date(_page("DATE 03/04/2018\nDUE DATE 03/28/2018"), None, None)
    assert found is not None
    assert found.value == date(2018, 3, 4)


def test_a_reading_in_the_future_is_not_taken() -> None:
    found = find_date(_page("DATE 05/11/2024"), "EUR", date(2024, 6, 1))
    assert found is not None
    assert found.value == date(2024, 5, 11)


def test_an_undecided_order_is_said_to_be_so() -> None:
    undecided = find_date(_page("DATE 05/03/2018"), None, None)
    decided = find_date(_page("DATE 05/03/2018"), "MYR", None)
    assert undecided is not None
    assert decided is not None
    assert undecided.facts["ambiguous"] == 1.0
    assert confidence("date", undecided.facts) < confidence("date", decided.facts)


def test_expiry_and_law_dates_are_not_the_day_of_purchase() -> None:
    found = find_date(_page("POINTS EXPIRY 31/10/2020\nVALID UNTIL 01/01/2021\n18-01-2018 15:44"), "MYR", date(2025, 1, 1))
    assert found is not None
    assert found.value == date(2018, 1, 18)


# Names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("OAK TREE CAFE SDN BHD (126926-H)\n3RD FLR, JALAN SATU", "OAK TREE CAFE SDN BHD"),
        ("TAX INVOICE\nOAK TREE CAFE\nNO 2, JALAN SATU\nTEL: 03-123", "OAK TREE CAFE"),
        ("OAK TREE BOOK\nCO. (M) SDN BHD\n(CO. NO. 113825-W)\nNO 8, JALAN DUA", "OAK TREE BOOK CO. (M) SDN BHD"),
        ("OAK HARDWARE\nENTERPRISE (SETIA\nALAM) SDN BHD\n822737-X", "OAK HARDWARE ENTERPRISE (SETIA ALAM) SDN BHD"),
        ("SUSHI OAK - RIVERSIDE\nKMO FOODS SDN BHD (1132106-H)\nNO. 9-G, JALAN TIGA", "KMO FOODS SDN BHD"),
        ("OAK STATIONERY SHOP\nNO. 31G, JALAN EMPAT\nTAX INVOICE\nOWNED BY :\nOAK SUPPLY SDN BHD (1135772-K)", "OAK STATIONERY SHOP"),
        ("OAK BAKERIES SDN BHD (139386 X)\nLOT 3, JALAN LIMA\nDATE: 28/08/2017\nPINE MART SDN BHD\nFLOOR 1", "OAK BAKERIES SDN BHD"),
        ("MR. F.1.X. (M) SDN BHD\nNO 1, JALAN SATU", "MR. F.I.X. (M) SDN BHD"),
        ("OAK HOLDINGS SON. BHD.(2\nNO 1, JALAN SATU", "OAK HOLDINGS SDN. BHD."),
        ("Oak Foods (M) Son Bhd\nNO 1, JALAN SATU", "Oak Foods (M) Sdn Bhd"),
        ("24 OAK MART 5/B (519537-X)\nNO 1, JALAN SATU", "24 OAK MART S/B"),
        ("OAK FO0DS LTD\n12 Mill Lane", "OAK FOODS LTD"),
        ("WELCOME TO\nOak Tree Hardware Inc.\n200 King Street", "Oak Tree Hardware Inc."),
        ("3180303\nOAK STATIONERY SDN BHD\n(162761-M)", "OAK STATIONERY SDN BHD"),
        ("RESTAURANT OAKLING\nOAKLING HOUSE\n002693074-K\n13, JLN TASIK", "RESTAURANT OAKLING OAKLING HOUSE"),
        ("THE BEST QUALITY EVERY DAY\nBäckerei Eiche GmbH\nHauptstraße 1", "Bäckerei Eiche GmbH"),
    ],
)
def test_merchants(text: str, name: str) -> None:
    found = find_merchant(_page(text + "\nITEM  QTY  PRICE\nBREAD  1  2.00\nTOTAL  2.00"))
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("text", ["TAX INVOICE", "12345", "NO 3, JALAN SATU, 50000 KUALA LUMPUR"])
def test_no_name_has_little_confidence(text: str) -> None:
    found = find_merchant(_page(text))
    assert found is None or confidence("merchant", found.facts) < 0.6


# Labels


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("TOTAL", "total"), ("T0TAI :", "total"), ("GRAND TOTAL", "strong"), ("AMOUNT DUE", "strong"), ("Zu zahlen", "strong"),
        ("TOTAL SALES (INCLUSIVE GST) RM", "inclusive"), ("TOTAL INCL. GST@6%", "inclusive"), ("Total Inel. GST96%", "inclusive"),
        ("TOTAL ROUNDED", "rounded"), ("TOTAL AFTER ADJ INCL GST", "rounded"), ("ROUNDED TOTAL (RM):", "rounded"),
        ("ROUNDING ADJUSTMENT", "rounding"), ("ROUND ADJ", "rounding"), ("GROUND FLOOR", None),
        ("SUB-TOTAL", "subtotal"), ("Zwischensumme", "subtotal"), ("TOTAL (EXCLUDING GST):", "subtotal"), ("Total HT", "subtotal"),
        ("TOTAL GST", "tax"), ("GST PAYABLE (6%):", "tax"), ("*6% GST INCLUDED", "tax"), ("TOTAL INCLUDES 6% GST", "tax"),
        ("MwSt 19%", "tax"),
        ("Sales Tax", "tax"), ("LESS DISCOUNT:", "discount"), ("COUPON DISCOUNT", "discount"), ("Rabatt", "discount"),
        ("CASH", "cash"), ("CASH TENDERED", "cash"), ("Bar EUR", "cash"), ("PAID: CASH", "cash"), ("CASHIER: 888", None), ("TUNAI", "cash"),
        ("CHANGE", "change"), ("CASH CHANGE", "change"), ("CHANGE DUE :", "change"), ("Rückgeld", "change"),
        ("EXCHANGE WITHIN 7 DAYS", None),
        ("VISA", "card"), ("EC-Karte", "card"), ("TOTAL QTY: 3", "ignored"), ("TOTAL SAVINGS", "ignored"), ("ITEM COUNT", "ignored"),
        ("SERVICE CHARGE 10%", "service"), ("Tip", "tip"), ("Jumlah", "total"), ("Suma", "total"), ("GREEN TEA", None),
    ],
)  # fmt: skip
def test_words_beside_amounts(label: str, kind: str | None) -> None:
    from vision.receipt.labels import label_text

    assert kind_of(label_text(_row(label), []))[0] == kind


def test_an_amount_may_stand_in_the_row_below_its_words() -> None:
    reading = read_labels(_page("TOTAL AMOUNT PAYABLE\n                RM   41.95"), False)
    assert [(x.kind, x.value) for x in reading.labelled] == [("strong", Decimal("41.95"))]


def test_the_rows_of_a_tax_table_are_no_totals() -> None:
    reading = read_labels(_page("TOTAL   42.50\nGST SUMMARY   AMOUNT   TAX\nSR @ 6%   0.19   0.01\nTOTAL   42.47   0.01"), False)
    assert [x.value for x in reading.labelled if x.kind == "total" and not x.summary] == [Decimal("42.50")]


def test_folded_words_are_equal_whatever_was_misread() -> None:
    assert fold("T0TAL  sa1es") == fold("TOTALSALES") == fold("Tótal SALE5")


# Sums


def _sums(**values: str) -> Sums:
    cash = Decimal(values["cash"]) if "cash" in values else None
    return Sums(
        cash=cash,
        payments=(cash,) if cash is not None else (),
        change=Decimal(values["change"]) if "change" in values else None,
        tax=Decimal(values["tax"]) if "tax" in values else None,
        rounding=Decimal(values["rounding"]) if "rounding" in values else None,
        nets=(Decimal(values["net"]),) if "net" in values else (),
        of_items=Decimal(values["items"]) if "items" in values else None,
    )


def test_equations_that_hold_and_that_fail() -> None:
    sums = _sums(cash="50.00", change="7.50", net="40.10", tax="2.40", items="42.50")
    assert check(Decimal("42.50"), sums) == (frozenset({"paid", "sum", "items"}), frozenset())
    assert check(Decimal("41.50"), sums) == (frozenset(), frozenset({"paid", "sum", "items"}))
    assert check(Decimal("42.50"), Sums()) == (frozenset(), frozenset())


def test_rounding_may_go_either_way() -> None:
    assert check(Decimal("42.50"), _sums(net="42.48", rounding="0.02"))[0] == {"sum"}
    assert check(Decimal("42.50"), _sums(net="42.52", rounding="0.02"))[0] == {"sum"}


def test_supplies_of_two_tax_rates_add_up() -> None:
    page = "TOTAL 0% SUPPLIES:   14.35\nTOTAL 6% SUPPLIES (INC. GST):   27.09\nTOTAL PAYABLE:   41.44"
    receipt = read_receipt(lines_of(page))
    assert (receipt.total, receipt.reconciled) == (Decimal("41.44"), True)


def test_a_cent_off_neither_agrees_nor_contradicts() -> None:
    assert check(Decimal("42.51"), _sums(net="40.10", tax="2.40")) == (frozenset(), frozenset())


def test_a_printed_rounding_decides_between_readings() -> None:
    # 106.10 + 6.37 - 0.02 = 112.45; cash and total were each misread.
    sums = _sums(cash="112.48", change="0.00", net="106.10", tax="6.37", rounding="-0.02")
    assert repair(Decimal("112.46"), sums) == ("total", Decimal("112.45"))


def test_exactly_one_reading_that_fits_is_a_repair() -> None:
    assert repair(Decimal("42.60"), _sums(cash="50.00", change="7.50")) == ("total", Decimal("42.50"))
    assert repair(Decimal("42.50"), _sums(cash="60.00", change="7.50")) == ("cash", Decimal("50.00"))


def test_two_readings_that_fit_alike_are_none() -> None:
    sums = _sums(cash="6.00", change="2.00")
    assert check(Decimal("3.00"), sums)[1] == {"paid"}
    assert repair(Decimal("3.00"), sums) == ("cash", Decimal("5.00"))
    assert repair(Decimal("5.00"), _sums(cash="9.00", change="1.00")) is None  # total 8.00, cash 6.00 and change 4.00 fit alike


def test_a_mark_read_as_a_leading_digit_is_taken_off() -> None:
    assert repair(Decimal("194.19"), _sums(net="88.86", tax="5.33")) == ("total", Decimal("94.19"))


def test_no_reading_that_fits_is_no_repair() -> None:
    assert repair(Decimal("42.50"), _sums(cash="100.00", change="11.11")) is None


def test_readings_change_one_digit_or_set_the_lost_point() -> None:
    readings = readings_of(Decimal("1250.00"))
    assert Decimal("12.50") in readings
    assert Decimal("1250.00") not in readings
    assert all(r > 0 for r in readings)
    assert all(r < 0 for r in readings_of(Decimal("-3.50")))


# Confidence


@pytest.mark.parametrize("kind", list(WEIGHTS))
def test_confidence_is_a_probability_whatever_the_facts(kind: str) -> None:
    for value in (-1e6, 0.0, 1e6):
        c = confidence(kind, dict.fromkeys(WEIGHTS[kind], value))
        assert 0.0 <= c <= 0.995
        assert math.isfinite(c)


@pytest.mark.parametrize(
    ("kind", "worse"), [("total", "fails"), ("total", "rivals"), ("total", "repaired"), ("date", "ambiguous"), ("merchant", "depth")]
)
def test_what_speaks_against_a_field_lowers_its_confidence(kind: str, worse: str) -> None:
    assert confidence(kind, {worse: 1.0}) < confidence(kind, {worse: 0.0})
