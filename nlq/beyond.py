"""What a question asks for that programs cannot say: the order of a customer's acts, pairs of things, ages in years.

A network that was taught only what can be said answers such a question with the nearest thing that can, and is often sure of it. These
patterns are narrow: each names one thing, in words that mean nothing else, and the refusal says which.
"""

from __future__ import annotations

import re

_ACT = r"(?:purchases?|orders?|visits?|transactions?|redemptions?|tickets?|buys?)"
_BOUGHT = r"(?:bought|purchased|ordered|visited|been active|active|shopped|came|come)"
_UNIT = r"(?:day|week|month|quarter|year)"
_OWN = r"(?:their|his|her|its)"
_JOINING = r"(?:joining|signup|sign-up|signing up|registration|enrol?ling)"
_WORDS = r"(?:[\w'’]+ ){0,3}"

_PATTERNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "what is bought together",
        (
            r"(?:bought|purchased|ordered|sold|redeemed|go(?:es)?) (?:most (?:often )?)?together",
            r"frequently bought with",
            r"basket analysis",
        ),
    ),
    ("acts in a row", (r"in a row", r"consecutive(?:ly)?", r"back[- ]to[- ]back", r"streaks?")),
    (
        "what a customer's latest act was",
        (
            rf"(?:latest|most recent|last|first) (?:{_ACT}|review|rating) (?:was|were|is|being|had|has|got|came|contain\w*)"
            r"(?! (?:on|in|before|after|since|over|more|less|at|within)\b)",
        ),
    ),
    (
        "the time between two acts",
        (
            rf"between {_WORDS}(?:first|1st|two|successive) {_WORDS}{_ACT}",
            rf"(?:days?|weeks?|months?|time|gap|interval) between (?:{_OWN} |the |customers?'? )?{_ACT}",
        ),
    ),
    ("what came after another act of the same customer", (rf"since {_OWN} (?:own )?(?:last|latest|most recent|first) (?:\w+ )?{_ACT}",)),
    (
        "the time to a first act",
        (
            rf"(?:days?|weeks?|months?|time|long|wait) {_WORDS}(?:from|between) {_JOINING} (?:to|and|until|till) {_WORDS}first",
            rf"(?:time|days?|long|weeks?) {_WORDS}(?:to|until|till|before) {_WORDS}first {_ACT}",
        ),
    ),
    (
        "acts in each of several periods",
        (rf"{_BOUGHT} {_WORDS}(?:in|during) (?:every|each) (?:single )?{_UNIT}", rf"every single {_UNIT}"),
    ),
    (
        "ages in years: only age groups are known",
        (r"(?:average|mean|median|oldest|youngest) age(?! (?:group|band|bracket|range|segment))",),
    ),
    (
        "what followed another act within a time",
        (
            r"within \w+ (?:hours?|days?|weeks?) (?:after|of) "
            r"(?:the|their|a|an|receiving|opening|clicking|viewing) (?:e-?mail|click|offer|push|message|open|view|campaign)\w*",
        ),
    ),
)
_RULES = tuple((re.compile(rf"\b(?:{'|'.join(patterns)})\b", re.I), what) for what, patterns in _PATTERNS)


def beyond(question: str) -> str | None:
    """What a question asks for that cannot be said, in words; None where nothing of the kind is recognised."""
    return next((what for pattern, what in _RULES if pattern.search(question)), None)
