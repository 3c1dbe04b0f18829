"""How sure each field is: logistic models of a few facts.

The weights come from `python -m benchmarks.bench_receipts --fit` on the half `tune` of receipts_sroie: its annotated text as it is and with
1, 3 and 6 % of the characters misread and pieces lost, and the text of an engine (rapidocr) where it was at hand. Few totals are wrong
there, so the ridge draws weights towards what good sense expects (EXPECTED in that file).
"""

from __future__ import annotations

import math

WEIGHTS: dict[str, dict[str, float]] = {
    "total": {
        "": -0.85, "holds": 0.2, "paid": 0.86, "fails": -0.63, "strength": 1.47, "margin": 0.96, "rivals": -0.59, "printed": 0.56,
        "reading": 2.02, "repaired": -0.34, "negative": -0.47,
    },
    "date": {
        "": -4.35, "labelled": 0.06, "timed": 0.17, "repeated": 0.53, "ambiguous": -1.8, "margin": 0.99, "form": 0.67, "reading": 2.52,
        "plausible": 1.8,
    },
    "merchant": {"": -4.12, "margin": 0.36, "depth": -1.33, "reading": 3.95, "score": 0.24},
}  # fmt: skip


def confidence(kind: str, facts: dict[str, float]) -> float:
    """0 to 1, at most 0.995, for a field of this kind with these facts. Facts that the model does not know count nothing."""
    weights = WEIGHTS[kind]
    z = weights[""] + sum(weights.get(name, 0.0) * value for name, value in facts.items())
    return round(min(0.995, 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, z))))), 4)
