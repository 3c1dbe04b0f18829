"""Ways of saying things that are put into plainer words before a question is linked: the network meets them as it was taught.

Only what means the same is exchanged; what a question is about is never guessed.
"""

from __future__ import annotations

import re

_COUNTED = (
    r"(?:orders?|purchases?|transactions?|visits?|redemptions?|tickets?|items?|products?|stores?|points?|times?|rewards?|referrals?|reviews?|"
    r"opens?|clicks?|logins?|baskets?|units?|complaints?|months?|weeks?|days?|hours?|stars?)"
)
_NOW = re.compile(r",? ?\bright now\b", re.I)
_RUNNING = re.compile(r"\b(?:active|running|valid|live|open|available|current|redeemable|expired)\b", re.I)
_CHANNELS = re.compile(
    r"\b(?:app|web|store)(?: (?:sales|revenue|orders))?(?:\s*(?:,|/|vs\.?|versus|and|or|against)\s*)+(?:the )?(?:app|web|store)"
    r"(?:\s*(?:,|/|vs\.?|versus|and|or|against)\s*)+(?:the )?(?:app|web|store)\b",
    re.I,
)
_SHORT = {
    "yr": "year", "yrs": "years", "wk": "week", "wks": "weeks", "qtr": "quarter", "mth": "month", "mths": "months", "ppl": "people",
    "havent": "haven't", "hasnt": "hasn't", "didnt": "didn't", "dont": "don't", "doesnt": "doesn't", "isnt": "isn't", "arent": "aren't",
    "whos": "who's", "whats": "what's", "w/o": "without", "tmrw": "tomorrow", "avg": "average", "custs": "customers",
    "txns": "transactions",
    "num": "number", "nr": "number", "qty": "quantity",
}  # fmt: skip
_SMALL = {"a": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7}
_SETTLED = (
    r"(?:to (?:be |get )?(?:resolved?|closed?|fix(?:ed)?|solved?|answer(?:ed)?|handled?|settled?|clear(?:ed)?)"
    r"|(?:of )?resolution(?: time)?)"
)
_BOUND = r"(?:(?:more|longer|less|fewer) than|over|under|at least|at most|within)"


def _hours(m: re.Match[str]) -> str:
    count = int(m["n"]) if m["n"].isdigit() else _SMALL[m["n"].lower()]
    return f"{m['more']} {count * 24} hours {m['end']}"


def _done_in_hours(m: re.Match[str]) -> str:
    count = int(m["n"]) if m["n"].isdigit() else _SMALL[m["n"].lower()]
    return f"{m['done']} in {m['more'] or 'at most'} {count * 24} hours"


_DONE = r"(?:resolved|closed|fixed|solved|answered|handled|settled)"
_POLITE_FIRST = (
    r"^(?:(?:if (?:it is|it's|its) not too much trouble|if possible|if i may(?: ask)?|when you have a (?:minute|moment|second|sec)"
    r"|sorry to bother(?: you)?"
    r"|quick (?:question|one)|hey(?: there)?|hi(?: there)?|hello|good (?:morning|afternoon|evening)|dear (?:team|all))\s*[,:!.–-]+\s*)+"
)
_POLITE_LAST = (
    r"(?:,? (?:if i may(?: ask)?|if (?:that is|that's|it is|it's) (?:ok|okay|possible|all ?right)|if you (?:can|could|please|don't mind)"
    r"|thank you(?: very much| so much)?|thanks(?: a lot| in advance)?|cheers|please))+(?=[?.! ]*$)"
)
_PURPOSE = (
    r",? ?(?:please,? )?\b(?:for|on) (?:the|my|our|a|tomorrow's|today's|monday's)"
    r" (?:chart|slides?|board(?: meeting| deck| pack)?|deck|report"
    r"|presentation|meeting|newsletter|pitch|summary)\b(?: on \w+ ?\d*| tomorrow| today)?(?=[?.! ]*$)"
)
_RULES: tuple[tuple[re.Pattern[str], object], ...] = tuple(
    (re.compile(pattern, re.I), instead)
    for pattern, instead in (
        *((rf"\b{short}\b", whole) for short, whole in _SHORT.items()),
        (r"\b(customer|member)s? (?:quantity|quantities|numbers)\b", r"number of \1s"),
        (r"\bquantity of (customers|members|people)\b", r"number of \1"),
        (r",? ?\b(?:pls|plz|thx|thanks|tks)\b", ""),
        (rf"\b(\d+)\s?\+ (?={_COUNTED}\b)", r"at least \1 "),
        (rf"\b(\d+) or more (?={_COUNTED}\b)", r"at least \1 "),
        (rf"\b(\d+) or (?:fewer|less) (?={_COUNTED}\b)", r"at most \1 "),
        (r"\b(?:half(?: of)?[ -]a[ -]year|half[ -]year|six months)\b", "6 months"),
        (r"\b(?:year and a half|one and a half years|1\.5 years)\b", "18 months"),
        (r"\b(more|longer|less) than half a day\b", r"\1 than 12 hours"),
        (
            rf"\b(?P<more>{_BOUND}) (?P<n>\d|{'|'.join(_SMALL)}) days? (?P<end>{_SETTLED})",
            _hours,
        ),
        (
            rf"\b(?P<done>{_DONE}) (?:in|within) (?P<more>under|less than|over|more than|at most)? ?(?P<n>\d|{'|'.join(_SMALL)}) days?\b",
            _done_in_hours,
        ),
        (rf"\b(?:0|zero) (?={_COUNTED}\b)", "no "),
        (_POLITE_FIRST, ""),
        (_POLITE_LAST, ""),
        (_PURPOSE, ""),
        (r",? ?\b(?:at the moment|at this moment|at present|as of now|as we speak|as things stand)\b", ""),
        (r"\bconsents? (?:is |are |was )?(?:turned|switched) off\b", "no consent"),
        (r"\bconsents? (?:is |are |was )?(?:turned|switched) on\b", "given consent"),
    )
)


def plainer(question: str) -> str:
    """The question with odd ways of saying things exchanged for plain ones; what stands in quotation marks is left alone."""
    if '"' in question or "“" in question:
        return question
    for pattern, instead in _RULES:
        question = pattern.sub(instead, question)  # type: ignore[call-overload]
    if not _RUNNING.search(question):
        question = _NOW.sub("", question)
    return _each_channel(question)


def _each_channel(question: str) -> str:
    """ "App vs store vs web sales" are sales by channel: there are no others."""
    found = _CHANNELS.search(question)
    if found is None or len({w.lower() for w in re.findall(r"app|store|web", found[0], re.I)}) < 3:
        return question
    rest = " ".join((question[: found.start()] + question[found.end() :]).split())
    return f"{rest.rstrip(' ?.!')} by channel{'?' if question.rstrip().endswith('?') else ''}"
