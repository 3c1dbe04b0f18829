"""How sure each field is: logistic models of a few facts.

The weights come from `python -m benchmarks.bench_receipts --fit` on the half `tune` of receipts_sroie: its annotated text as it is
and with 1 to 10 % of the characters misread and pieces lost, and the text of an engine (rapidocr) where it was at hand. Few totals
are wrong there, so the ridge draws weights towards what good sense expects (EXPECTED in that file). Two weights were set by hand,
because the case does not occur there often enough: `fails` of the total (contradicting sums must fall below the bound of review)
and `doubtful` of the name (a title or an address, for want of a name).
"""

from __future__ import annotations

import math

WEIGHTS: dict[str, dict[str, float]] = {
    "total": {
        "": -0.4, "holds": 0.95, "paid": 0.68, "fails": -1.3, "strength": 0.29, "unnamed": -2.52, "margin": 0.78, "rivals": -1.12,
        "printed": 0.79, "reading": 2.34, "repaired": -0.81, "negative": -0.36,
    },
    "date": {
        "": -6.35, "labelled": 0.14, "timed": 0.18, "repeated": 0.63, "ambiguous": -1.57, "margin": 1.22, "form": 1.05, "reading": 2.72,
        "plausible": 2.15,
    },
    "merchant": {"": -2.11, "margin": 0.41, "depth": -1.1, "reading": 2.68, "score": 0.18, "doubtful": -2.5},
}  # fmt: skip


def confidence(kind: str, facts: dict[str, float]) -> float:
    """0 to 1, at most 0.995, for a field of this kind with these facts. Facts that the model does not know count nothing."""
    weights = WEIGHTS[kind]
    z = weights[""] + sum(weights.get(name, 0.0) * value for name, value in facts.items())
    return round(min(0.995, 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, z))))), 4)
