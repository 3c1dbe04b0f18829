"""Words as they are printed, whatever case, accents, blanks and misread letters they come with."""

from __future__ import annotations

import re
import unicodedata

_DIGIT_AS_LETTER = str.maketrans({"0": "O", "1": "I", "5": "S", "8": "B", "|": "I", "!": "I", "$": "S", "€": "E"})
_LETTER_AS_DIGIT = str.maketrans({"O": "0", "o": "0", "Q": "0", "D": "0", "I": "1", "l": "1", "|": "1", "!": "1", "i": "1",
                                  "S": "5", "s": "5", "B": "8", "Z": "2", "z": "2", "G": "6"})  # fmt: skip
LETTERS_LIKE_DIGITS = "OoQDIl|!iSsBZzG"


def plain(text: str) -> str:
    """Upper case without accents; every kind of dash, quotation mark and blank becomes the usual one."""
    text = unicodedata.normalize("NFKD", text.replace("ß", "ss").replace("€", "€"))
    text = "".join(c for c in text if not unicodedata.combining(c))
    text = re.sub(r"[‐-―−]", "-", text)
    text = re.sub(r"[‘’`´]", "'", text)
    return " ".join(text.upper().split())


def fold(text: str) -> str:
    """Letters only, as a key to compare words by: misread letters and missing blanks make no difference.

    Digits within words count as the letters they look like (T0TAL), L and I are one letter (TOTAI), other digits are left out.
    """
    kept = []
    for word in re.findall(r"[^\s:;,.()\[\]/\\*=+<>@#%\"'-]+", plain(text)):
        if any(c.isalpha() for c in word):
            kept.append(re.sub(r"[^A-Z]", "", word.translate(_DIGIT_AS_LETTER)))
    return "".join(kept).replace("L", "I")


def pattern(source: str) -> re.Pattern[str]:
    """A regular expression over folded text; `source` is written with plain upper-case letters."""
    return re.compile(source.replace("L", "I"))


def as_digits(text: str) -> str:
    """Letters that look like digits as these digits; same length."""
    return text.translate(_LETTER_AS_DIGIT)
