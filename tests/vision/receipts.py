"""Made-up receipts as they are printed, and their text as an engine would hand it over."""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass, field

from vision.types import Quad, TextLine

CHARACTER_PX, ROW_PX, TEXT_PX = 11.0, 26.0, 18.0


def lines_of(
    text: str, degrees: float = 0.0, jitter_px: float = 0.0, seed: int = 0, confidence: float = 0.97, gap: int = 2, shuffle: bool = False
) -> list[TextLine]:
    """Pieces of a page written in a fixed-width font, a row per line; `gap` or more blanks part two pieces.

    The page is turned clockwise by `degrees` about its top left corner; each piece is shifted by up to `jitter_px`.
    """
    rng = random.Random(seed)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    out = []
    for n, row in enumerate(text.strip("\n").split("\n")):
        for match in re.finditer(rf"\S(?:.*?\S)?(?=\s{{{gap},}}|\s*$)", row):
            dx, dy = rng.uniform(-jitter_px, jitter_px), rng.uniform(-jitter_px, jitter_px)
            x0, x1 = match.start() * CHARACTER_PX + dx, match.end() * CHARACTER_PX + dx
            y0 = n * ROW_PX + dy
            corners = ((x0, y0), (x1, y0), (x1, y0 + TEXT_PX), (x0, y0 + TEXT_PX))
            quad: Quad = tuple((x * cos - y * sin + 200, x * sin + y * cos + 100) for x, y in corners)  # type: ignore[assignment]
            out.append(TextLine(quad, match.group(), confidence))
    if shuffle:
        rng.shuffle(out)
    return out


@dataclass(frozen=True)
class MadeUp:
    """A page and what it says; a field that is None is not checked, except where `checks` names it."""

    name: str
    text: str
    merchant: str
    date: str | None
    total: str | None
    currency: str | None
    more: dict[str, str | None] = field(default_factory=dict)
    items: tuple[tuple[str, str, str], ...] = ()
    """(description, quantity, amount)"""
    reconciled: bool | None = True


RECEIPTS = [
    MadeUp("malaysian shop", """
        BLUE HERON MART SDN BHD
           (1234567-X)
      NO 12, JALAN KENANGA 3/4,
      50000 KUALA LUMPUR
        GST ID: 000123456789
            TAX INVOICE
DATE: 05/03/2018         TIME: 14:22:10
DESCRIPTION       QTY   PRICE   AMOUNT
RICE COOKER         1   89.90    89.90
PAPER CUP 50S       3    4.20    12.60
TOTAL QTY:          4
SUB-TOTAL                       102.50
ROUNDING ADJ                      0.00
TOTAL                           102.50
CASH                            110.00
CHANGE                            7.50
GST SUMMARY      AMOUNT(RM)    TAX(RM)
SR @ 6%              96.70        5.80
""", "BLUE HERON MART SDN BHD", "2018-03-05", "102.50", "MYR", {"cash": "110.00", "change": "7.50", "tax": "5.80"},
           (("RICE COOKER", "1", "89.90"), ("PAPER CUP 50S", "3", "12.60"))),
    MadeUp("rounded total", """
KEDAI KOPI BINTANG S/B
LOT 5, JALAN MERAH
TEL: 03-1234 5678
12-11-17              09:15 AM
KOPI O                    2.12
TOTAL SALES (INCLUSIVE GST) RM      2.12
ROUNDING ADJUSTMENT RM     .02-
ROUNDING RM                2.10
CASH RM                    5.00
CHANGE RM                  2.90
""", "KEDAI KOPI BINTANG S/B", "2017-11-12", "2.10", "MYR", {"change": "2.90"}),
    MadeUp("american restaurant with a tip", """
       HARBOR LIGHT DINER LLC
        14 Ocean Avenue
       Portland, ME 04101
        (207) 555-0134
Server: Dana        Table 7
12/31/2023 7:45 PM
1 Clam Chowder          8.50
2 Lobster Roll         49.00
1 Iced Tea              3.25
Subtotal               60.75
Tax                     4.86
Tip                    12.00
Total                 $77.61
Visa                  $77.61
""", "HARBOR LIGHT DINER LLC", "2023-12-31", "77.61", "USD", {"subtotal": "60.75", "tax": "4.86"},
           (("CLAM CHOWDER", "1", "8.50"), ("LOBSTER ROLL", "2", "49.00"), ("ICED TEA", "1", "3.25"))),
    MadeUp("german supermarket", """
      Sonnenmarkt Weber GmbH
        Hauptstraße 12
        10115 Berlin
      USt-IdNr. DE123456789
                            EUR
Bio Milch 1,5%             1,29 B
Roggenbrot                 3,49 B
Joghurt
   2 x 0,89                1,78 B
Pfand                      0,25 A
------------------------------
Summe              EUR     6,81
Bar                EUR    10,00
Rückgeld           EUR     3,19
MwSt    Netto      MwSt   Brutto
A 19%    0,21      0,04     0,25
B 7%     6,13      0,43     6,56
Datum 24.12.23     18:05 Uhr
""", "Sonnenmarkt Weber GmbH", "2023-12-24", "6.81", "EUR", {"cash": "10.00", "change": "3.19"}),
    MadeUp("german thousands", """
Möbelhaus Nordlicht GmbH
Lindenallee 7
Rechnung
05. Mai 2024
Sofa Modell Elch         1.249,00
Lieferung                   59,50
Gesamtbetrag           1.308,50 €
EC-Karte               1.308,50 €
""", "Möbelhaus Nordlicht GmbH", "2024-05-05", "1308.50", "EUR"),
    MadeUp("french bakery", """
BOULANGERIE DU PONT VERT
8 rue des Lilas
75011 Paris
SIRET 12345678900011
le 14 juillet 2023 08:31
2 x 1,20  Croissant           2,40
Baguette tradition            1,35
Sous-total                    3,75
TOTAL TTC                     3,75 €
Dont TVA 5,5%                 0,20
Espèces                       5,00
Rendu                         1,25
""", "BOULANGERIE DU PONT VERT", "2023-07-14", "3.75", "EUR", {"change": "1.25"}),
    MadeUp("spanish bar", """
BAR LA ENCINA S.L.
Calle Mayor 4
28013 Madrid
NIF B12345678
3 de marzo de 2024 21:10
Cerveza         2   2,50    5,00
Tortilla        1   6,50    6,50
Base imponible             10,45
IVA 10%                     1,05
TOTAL A PAGAR              11,50
Efectivo                   20,00
Cambio                      8,50
""", "BAR LA ENCINA S.L.", "2024-03-03", "11.50", "EUR", {"tax": "1.05"},
           (("Cerveza", "2", "5.00"), ("Tortilla", "1", "6.50"))),
    MadeUp("british grocer", """
THE COPPER KETTLE LTD
High Street
York YO1 7HH
VAT NO 123 4567 89
15 AUG 2022 11:02
Earl Grey Tea          £4.50
Shortbread             £3.25
Balance due            £7.75
Contactless            £7.75
""", "THE COPPER KETTLE LTD", "2022-08-15", "7.75", "GBP"),
    MadeUp("petrol", """
         TAX INVOICE
      GREENLEAF FUEL STATION
      JALAN LAPANGAN 9
18-01-2018 15:44:46   CASHIER: 3
ITEM         U\\PRICE    QNTY   AMOUNT
UNLEADED 95    2.570   16.32    41.95 S
TOTAL SALES     RM              41.95
TOTAL AMOUNT PAYABLE
                RM              41.95
EDC MASTER      RM              41.95
GST SUMMARY  AMOUNT RM         TAX RM
S: STANDARD 6%  39.58            2.37
""", "GREENLEAF FUEL STATION", "2018-01-18", "41.95", "MYR"),
    MadeUp("discount at the end", """
PAPER CRANE BOOKS SDN BHD
NO 8, JALAN TIMUR
12/01/18 16:52
DESCRIPTION             AMOUNT
NOTEBOOK A5
2PC @ 13.69              27.38 T
GREAT SAVING             -6.40
TOTAL RM INCL. OF GST    20.98
ROUNDING ADJ              0.02
TOTAL RM                 21.00
CASH                    -50.00
CHANGE                   29.00
TOTAL SAVINGS            -6.40
""", "PAPER CRANE BOOKS SDN BHD", "2018-01-12", "21.00", "MYR", {"cash": "50.00", "change": "29.00"}),
    MadeUp("tax added", """
Maple & Birch Hardware Inc.
200 King Street
Toronto ON
HST# 123456789RT0001
2024-02-29 10:15
Hammer                  24.99
Nails 2kg                9.99
Subtotal                34.98
HST 13%                  4.55
Total                  $39.53
Debit                  $39.53
""", "Maple & Birch Hardware Inc.", "2024-02-29", "39.53", "CAD", {"subtotal": "34.98", "tax": "4.55"}),
    MadeUp("name over two rows", """
GOLDEN LANTERN STATIONERY
SUPPLIES SDN. BHD.
(998877-K)
NO. 3, JALAN BUNGA
INVOICE
Date : 07/08/2019
Pen Blue      1 x 2.50     2.50
Total                      2.50
Cash                       3.00
Change                     0.50
""", "GOLDEN LANTERN STATIONERY SUPPLIES SDN. BHD.", "2019-08-07", "2.50", "MYR"),
    MadeUp("refund", """
RIVERSIDE TOYS LTD
REFUND RECEIPT
2 May 2023 13:20
Kite red                 -15.00
TOTAL                  £ -15.00
Visa                     -15.00
""", "RIVERSIDE TOYS LTD", "2023-05-02", "-15.00", "GBP"),
    MadeUp("dhaka sweets", """
MEGHNA SWEETS LIMITED
Road 11, Dhaka
Date: 21-02-2021
Rosogolla 1kg        320.00
Mishti Doi     2    90.00    180.00
Sub Total            500.00
VAT 5%                25.00
Net Payable       ৳ 525.00
Paid                 600.00
Change                75.00
""", "MEGHNA SWEETS LIMITED", "2021-02-21", "525.00", "BDT", {"tax": "25.00", "change": "75.00"}),
    MadeUp("indonesian, no decimals", """
WARUNG MELATI
Jl. Kenari 5
Tanggal 17/08/2022 12:01
Nasi Goreng   2   25.000   50.000
Es Teh        2    5.000   10.000
TOTAL            Rp 60.000
Tunai            Rp 100.000
Kembali          Rp 40.000
""", "WARUNG MELATI", "2022-08-17", "60000", "IDR"),
    MadeUp("swiss rounding", """
Bergkäserei Alpenrose AG
Dorfstrasse 3
MWST-Nr. CHE-123.456.789
13.02.2024 16:40
Alpkäse 0.312 kg       9.36
Brot                   4.20
Total CHF             13.55
Bar                   20.00
Rückgeld               6.45
""", "Bergkäserei Alpenrose AG", "2024-02-13", "13.55", "CHF"),
    MadeUp("cafe with service charge", """
CAFE SERENITY PTE LTD
1 Marina Way Singapore 018989
UEN 201712345K
04/06/2023 15:12
Flat White            6.00
Kaya Toast            4.00
Subtotal             10.00
Service Charge 10%    1.00
GST 8%                0.88
TOTAL              S$11.88
NETS               S$11.88
""", "CAFE SERENITY PTE LTD", "2023-06-04", "11.88", "SGD", {"subtotal": "10.00", "tax": "0.88"}),
    MadeUp("description above code and amount", """
MISTER FIXIT (M) SDN BHD
(CO REG :123456-W)
LOT 18, JALAN 6,
-TAX INVOICE-
MAGNETIC BOARD 90*60CM         *S
9087396         1 X 35.00     35.00
JAR CANDLE                     *S
9556481779603   2 X 19.90     39.80
ITEM(S) : 2          QTY(S) : 3
TOTAL INCL. GST@6%         RM 74.80
CASH                       RM 80.00
CHANGE                      RM 5.20
15-03-18 15:41 SH01 B019
""", "MISTER FIXIT (M) SDN BHD", "2018-03-15", "74.80", "MYR", {},
           (("MAGNETIC BOARD 90*60CM", "1", "35.00"), ("JAR CANDLE", "2", "39.80"))),
    MadeUp("quantity below", """
CORNER MART S/B (519999-X)
LOT P.T. 2811, JALAN ANGSA,
INVOICE NO : 18224/102/T0496
09:28PM    567455    22-11-17
261 COOKING OIL 5KG       RM48.70 Z
@2 X RM 24.35
086 BRIQUETTES             RM8.40 S
TOTAL SALES (INCLUSIVE GST) RM    57.10
CREDIT RM                 57.10
CHANGE RM                   .00
""", "CORNER MART S/B", "2017-11-22", "57.10", "MYR", {},
           (("COOKING OIL 5KG", "2", "48.70"), ("BRIQUETTES", "1", "8.40"))),
    MadeUp("ISO date and yen", """
SAKURA BENTO
2023/04/09 12:30
Salmon Bento       ¥1,080
Green Tea            ¥150
Total              ¥1,230
Cash               ¥2,000
Change               ¥770
""", "SAKURA BENTO", "2023-04-09", "1230", "JPY"),
    MadeUp("australian with GST inside", """
BANKSIA GARDEN CENTRE PTY LTD
ABN 12 345 678 901
9 Mar 2024 09:05
Potting Mix 25L      2 @ 8.95    17.90
Secateurs                        24.50
TOTAL                           $42.40
GST INCLUDED IN TOTAL            $3.85
EFTPOS                          $42.40
""", "BANKSIA GARDEN CENTRE PTY LTD", "2024-03-09", "42.40", "AUD", {"tax": "3.85"}),
    MadeUp("sums contradict", """
NIGHT OWL CAFE SDN BHD
JALAN SATU
Date: 14/02/2018
COFFEE                   8.00
SUBTOTAL                 8.00
TOTAL                   93.70
CASH                    10.00
CHANGE                   2.00
""", "NIGHT OWL CAFE SDN BHD", "2018-02-14", None, "MYR", reconciled=None),
]  # fmt: skip
