"""How sure each field is: logistic models of a few facts, fitted once on real receipts."""

from __future__ import annotations

import math

WEIGHTS: dict[str, dict[str, float]] = {
    "total": {
        "": -2.0, "holds": 1.2, "paid": 0.8, "fails": -1.0, "strength": 2.0, "margin": 1.0, "rivals": -1.2, "printed": 1.0, "reading": 1.5,
        "repaired": -1.0, "negative": -1.0,
    },
    "date": {
        "": -2.0, "labelled": 1.0, "timed": 0.7, "repeated": 1.0, "ambiguous": -2.5, "margin": 0.6, "form": 0.5, "reading": 2.0,
        "plausible": 1.0,
    },
    "merchant": {
        "": -2.5, "legal": 1.5, "margin": 0.7, "first": 0.5, "depth": -1.0, "joined": -0.5, "large": 0.2, "reading": 2.0, "score": 0.3,
    },
}  # fmt: skip


def confidence(kind: str, facts: dict[str, float]) -> float:
    """0 to 1, at most 0.995, for a field of this kind with these facts. Facts that the model does not know count nothing."""
    weights = WEIGHTS[kind]
    z = weights[""] + sum(weights.get(name, 0.0) * value for name, value in facts.items())
    return round(min(0.995, 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, z))))), 4)
