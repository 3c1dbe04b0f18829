"""Words of a question: one form for texts that differ in nothing, word stems, and what must be equal for two questions to be the same."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from itertools import pairwise

_TOKEN = re.compile(r"[a-z]+-\d+|\d[\d.,]*\d|\d|[a-zà-öø-ÿ]+(?:'[a-z]+)?|[%$€£]")
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen twenty"
)
_NUMBERS = {word: str(n) for n, word in enumerate(_UNITS.split())}
_NUMBERS |= {"dozen": "12", "thirty": "30", "sixty": "60", "ninety": "90", "hundred": "100", "thousand": "1000"}
_STOP_TEXT = (
    "a an the of in on at to for with from and as is are was were be been being am do does did doing has have had having can "
    "could would will shall should may might must i me my we us our ours you your they them their it its this that these "
    "those there here what which who whom whose how please kindly show list give tell display find get want need like see "
    "know let name just also any some all so then than us out up about right now currently today's hi hello hey thanks thank "
    "much figure data result results question wonder exactly overall altogether ever still already such one ones"
)
_STOP = frozenset(_STOP_TEXT.split())
_PHRASES = ((r"\be[\s-]?mails?\b", "email"), (r"\blife ?time value\b", "clv"), (r"\bcustomer lifetime\b", "clv"), (r"\bclv value\b", "clv"),
            (r"\bbest[\s-]selling\b", "bestselling"), (r"\bup to\b", "atmost"), (r"\bat most\b", "atmost"), (r"\bat least\b", "atleast"),
            (r"\b(isn't|aren't|didn't|doesn't|don't|haven't|hasn't|hadn't|wasn't|weren't|won't|can't|cannot|wouldn't)\b", "not"),
            (r"\bmake up\b", "have"), (r"\bgot\b", "have"))  # fmt: skip
_SAME = {
    "customer": "customer member shopper client user people person patron buyer guest",
    "purchase": "purchase transaction order buy bought purchased purchasing buying",
    "revenue": "revenue sale turnover spend spent spending",
    "count": "count many number quantity",
    "by": "by per each every",
    "reward": "reward perk",
    "offer": "offer deal",
    "redeem": "redeem redeemed redemption redeeming claimed claim",
    "churn": "churn churning churned leave leaving left attrition",
    "ticket": "ticket complaint case",
    "tier": "tier membership",
    "average": "average mean avg typical",
    "top": "top best highest most largest biggest greatest",
    "bottom": "bottom worst lowest least smallest fewest",
    "more": "more above over exceeding greater higher larger",
    "fewer": "fewer less below under lower smaller",
    "not": "not no never without except excluding none neither nor",
    "share": "share percentage proportion percent fraction pct",
    "join": "join joined signed enrolled registered joining",
    "live": "live living located based resident residing",
    "open": "open opened opening",
    "view": "view viewed viewing saw seen",
    "month": "month monthly",
    "week": "week weekly",
    "day": "day daily",
    "year": "year yearly annual annually",
}
_SENSITIVE_TEXT = "not more fewer atleast atmost before after since until between last this next top bottom by"
_SENSITIVE = frozenset(_SENSITIVE_TEXT.split())
"""What the next word is matters with these: `viewed but did not redeem` is not `redeemed but did not view`."""


def normalise(question: str) -> str:
    """Lower case, no punctuation at the ends of words, single spaces: texts that only differ so are the same question."""
    text = unicodedata.normalize("NFKC", question).lower().replace("’", "'").replace("`", "'")
    text = re.sub(r"(?<!\d)[.,](?=\s|$)|(?<=\d)[.,](?=\s|$)|[!?;:\"()\[\]{}]+", " ", text)
    return re.sub(r"\s+", " ", text).strip(" '")


def stem(word: str) -> str:
    """A word without the ending of a plural or, for long ones, of a verb; synonyms become one word."""
    if word in _CANON:
        return _CANON[word]
    for ending, kept in (("ies", "y"), ("sses", "ss"), ("ches", "ch"), ("s", "")):
        if word.endswith(ending) and not word.endswith(("ss", "us", "is")) and len(word) > len(ending) + 2:
            word = word.removesuffix(ending) + kept
            break
    return _CANON.get(word, word)


_CANON = {word: base for base, words in _SAME.items() for word in words.split()}


def tokens(question: str) -> list[str]:
    """Stems of all words in order; numbers as digits without separators."""
    text = normalise(question)
    for pattern, instead in _PHRASES:
        text = re.sub(pattern, instead, text)
    return [_one(found) for found in _TOKEN.findall(text)]


def _one(word: str) -> str:
    if word[0].isdigit():
        plain = word.replace(",", "")
        return plain.rstrip("0").rstrip(".") if "." in plain else plain
    if word in _NUMBERS and word != "one":
        return _NUMBERS[word]
    if re.fullmatch(r"[a-z]+-\d+", word):
        return word
    return "share" if word == "%" else stem(word.removesuffix("'s"))


def content(question: str) -> list[str]:
    """Tokens that carry meaning, in order. `this` and `no` stay, for time and negation."""
    return [t for t in tokens(question) if t not in _STOP or t == "this"]


def meaning(question: str) -> Counter[str]:
    """What two texts must share to be the same question: every word that carries meaning, how often, and what negations and comparisons
    apply to. Numbers, values, ids and time words are among the words, so that questions which differ in one never are the same."""
    words = [t for t in content(question) if t != "this" or _dated(question)]
    pairs = [f"{a} {b}" for a, b in pairwise([*words, ""]) if a in _SENSITIVE]
    moves = [f"{a} to {b}" for a, b in re.findall(r"\bfrom (\S+) (?:up |down )?(?:in)?to (\S+)", normalise(question))]
    found = Counter(words + pairs + moves)
    return Counter({word: 1 if word == "count" else times for word, times in found.items()})


def _dated(question: str) -> bool:
    return re.search(r"\bthis\s+(day|week|month|quarter|year|spring|summer|autumn|fall|winter)", normalise(question)) is not None
