"""What makes probabilities of the network's numbers: temperatures, the mix of the two heads, and when a product is one we know.

Letters: N pictures, F fine classes, C coarse classes, X signals.
"""

from __future__ import annotations

from typing import Any

import numpy as np

SIGNALS = ("probability", "cosine", "energy")
"""What tells a known product: the largest probability, the cosine to the nearest class mean, and the log of the summed exponentials of the
logits (Hendrycks and Gimpel 2017; Lee and others 2018; Liu and others 2020)."""
ACCEPTED = 0.95
"""Share of known products that the threshold lets through."""


def softmax(logits: np.ndarray) -> np.ndarray:
    """float64, over the last axis."""
    raised = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    found: np.ndarray = raised / raised.sum(-1, keepdims=True)
    return found


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The divisor of logits (N, F) under which the labels (N,) are likeliest, 0.1 to 10. Source: Guo and others (ICML 2017)."""
    grid = np.exp(np.linspace(np.log(0.1), np.log(10), 93))
    costs = [-np.log(softmax(logits / t)[np.arange(len(labels)), labels] + 1e-12).mean() for t in grid]
    return float(grid[int(np.argmin(costs))])


def grouped(fine: np.ndarray, parents: np.ndarray, coarse: int) -> np.ndarray:
    """Probabilities of coarse classes (N, C) as sums of their fine ones (N, F)."""
    onehot: np.ndarray = np.eye(coarse)[parents]
    found: np.ndarray = fine @ onehot
    return found


def coarse_mix(sums: np.ndarray, head: np.ndarray, labels: np.ndarray) -> float:
    """Weight of the fine sums beside the coarse head under which the labels are likeliest, in steps of 0.1."""
    grid = np.linspace(0, 1, 11)
    row = np.arange(len(labels))
    return float(grid[int(np.argmin([-np.log(w * sums[row, labels] + (1 - w) * head[row, labels] + 1e-12).mean() for w in grid]))])


def signals(logits: np.ndarray, embedding: np.ndarray, means: np.ndarray) -> np.ndarray:
    """float64 (N, X): SIGNALS of each picture.

    Args:
        logits: calibrated, (N, F).
        embedding: (N, D), L2 norm 1.
        means: (F, D), L2 norm 1.
    """
    logits = logits.astype(np.float64)
    peak = logits.max(1)
    energy = peak + np.log(np.exp(logits - peak[:, None]).sum(1))
    return np.stack([softmax(logits).max(1), (embedding @ means.T).max(1), energy], 1)


def signals_without_own(logits: np.ndarray, embedding: np.ndarray, means: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """As `signals`, with each picture's own class taken out of the logits and the means: what an unknown product would look like.

    It flatters the network, which has learned to tell that class apart; pictures of classes that were left out of the training are better.
    """
    own = np.zeros(logits.shape, dtype=bool)
    own[np.arange(len(labels)), labels] = True
    kept = np.where(own, -np.inf, logits.astype(np.float64))
    peak = kept.max(1)
    energy = peak + np.log(np.exp(kept - peak[:, None]).sum(1))
    cosines = np.where(own, -1.0, embedding @ means.T)
    return np.stack([softmax(kept).max(1), cosines.max(1), energy], 1)


def fit_logistic(x: np.ndarray, y: np.ndarray, ridge: float = 1e-2, steps: int = 50) -> tuple[np.ndarray, float]:
    """Logistic regression with both classes weighing the same, by Newton's method on standardised columns.

    Args:
        x: (N, X). y: bool (N,).

    Returns:
        weights float64 (X,) and bias, for the columns as they came.
    """
    centre, spread = x.mean(0), x.std(0) + 1e-9
    z = np.hstack([(x - centre) / spread, np.ones((len(x), 1))])
    weight = np.where(y, 0.5 / max(1, y.sum()), 0.5 / max(1, (~y).sum()))
    penalty = np.diag([ridge] * x.shape[1] + [1e-6])
    beta = np.zeros(z.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(z @ beta, -30, 30)))
        slope = z.T @ (weight * (p - y)) + penalty @ beta
        bend = (z * (weight * np.maximum(p * (1 - p), 1e-6))[:, None]).T @ z + penalty
        change = np.linalg.solve(bend, slope)
        beta = beta - change
        if np.abs(change).max() < 1e-9:
            break
    weights = beta[:-1] / spread
    return weights, float(beta[-1] - weights @ centre)


def known_probability(x: np.ndarray, weights: np.ndarray, bias: float) -> np.ndarray:
    """P(a product we know) of signals (N, X)."""
    found: np.ndarray = 1 / (1 + np.exp(-np.clip(x @ np.asarray(weights) + bias, -30, 30)))
    return found


def fit_known(known: np.ndarray, unknown: np.ndarray) -> dict[str, Any]:
    """What tells known from unknown products, fitted on signals of both (N, X): weights, bias, and the threshold that lets ACCEPTED of the
    known ones through."""
    x = np.vstack([known, unknown])
    weights, bias = fit_logistic(x, np.arange(len(x)) < len(known))
    threshold = float(np.quantile(known_probability(known, weights, bias), 1 - ACCEPTED))
    return {"weights": weights.tolist(), "bias": bias, "threshold": threshold}


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """P(a known picture's value is over an unknown one's), ties half."""
    both = np.sort(unknown)
    below, upto = np.searchsorted(both, known, "left"), np.searchsorted(both, known, "right")
    return float(((below + upto) / 2).mean() / max(1, len(unknown)))
