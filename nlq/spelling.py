"""Typing mistakes in plain words of a question: "avarage refferals" is read as "average referrals".

Only a word that is in no dictionary here is looked at, and only words of the written phrases are put in its place. Values of the data are
the linker's business.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Sequence

_WORD = re.compile(r"(?<![\w\[@./'’-])[A-Za-z]{4,}(?![\w\]@/'’-])")
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|(?<!\w)'[^']*'(?!\w)")
_CALENDAR = (
    "january february march april june july august september october november december monday tuesday wednesday thursday friday saturday "
    "sunday yesterday today"
)


def lexicon(texts: Iterable[str], known: Container[str]) -> list[str]:
    """Words of the bank's lines (placeholders left out) and of the calendar, the commonest first.

    Args:
        known: words that are right; one that is not among them counts when three lines have it, since lines may hold typing mistakes.
    """
    counts: Counter[str] = Counter(_CALENDAR.split())
    for text in texts:
        plain = re.sub(r"\{[^}]*\}", " ", text.lower())
        counts.update({w for w in re.findall(r"[a-z]+", plain) if len(w) > 3})
    return [word for word, n in counts.most_common() if n > 2 or word in known]


class Speller:
    """Puts words right.

    Args:
        words: what a word may be put right to, the commonest first; without any nothing is ever changed.
        known: other words that are right as they stand.
    """

    def __init__(self, words: Sequence[str], known: Container[str] = frozenset()) -> None:
        self._known = known
        self._words = frozenset(words)
        self._by_start: dict[str, list[str]] = {}
        for word in words:
            self._by_start.setdefault(word[0], []).append(word)

    def correct(self, question: str, values: Container[str] = frozenset(), near: Iterable[str] = ()) -> str:
        """The question with its plain words put right; quoted words, ids, names and values of the data stay.

        Args:
            values: words that values of the data consist of.
            near: values that a misspelt word is rather meant to be than a plain word.
        """
        if not self._words:
            return question
        quoted = [m.span() for m in _QUOTED.finditer(question)]
        listed = tuple(near)

        def put_right(m: re.Match[str]) -> str:
            word = m[0].lower()
            if word in self._words or word in self._known or word in values or any(a <= m.start() < b for a, b in quoted):
                return m[0]
            if m[0][0].isupper() and m.start() > 0 and not question.isupper():
                return m[0]  # a name
            allowed = 1 if len(word) < 8 else 2
            best, least = None, allowed + 1
            for candidate in self._by_start.get(word[0], ()):
                if abs(len(candidate) - len(word)) < least and (found := distance(word, candidate, least - 1)) < least:
                    best, least = candidate, found
            if best is None or any(distance(word, value, least) <= least for value in listed):
                return m[0]
            return best

        return _WORD.sub(put_right, question)


def distance(a: str, b: str, most: int) -> int:
    """Letters to insert, delete, replace or swap with the next (optimal string alignment); most + 1 when there are more than `most`."""
    if abs(len(a) - len(b)) > most:
        return most + 1
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, before, row = before, row, [i]
        for j, y in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return most + 1
    return min(row[-1], most + 1)
