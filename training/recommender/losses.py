"""Softmax losses of the two-tower model. Letters: B queries, P positives of a query, N items, M sampled items.

Full softmax (`full_softmax`): every reward of the catalogue is a negative. Use it while the catalogue is small enough to run the item
tower over all of it each step. Sampled softmax (`sampled_softmax`): the batch's own rewards plus extra samples; use it for big
catalogues. Subtracting log Q(item), the expected number of times that an item is among the samples, makes it an estimate of the
full one; without it, popular rewards are pushed down because they are drawn as negatives more often.

A query may have several positives at once (one basket). Each is scored against the negatives only, never against the query's other
positives; that also removes accidental hits.

Source: Yi et al. (2019), Sampling-bias-corrected neural modeling for large corpus item recommendations; Bengio and Senécal (2008).
"""

from __future__ import annotations

import torch
from torch import Tensor


def multi_positive(
    positive_logits: Tensor, positive_mask: Tensor, negative_logits: Tensor, negative_mask: Tensor, weight: Tensor
) -> Tensor:
    """Weighted mean over queries of the mean over positives of -log softmax(positive | itself and the negatives).

    Args:
        positive_logits: float (B, P). positive_mask: bool (B, P), False where padded.
        negative_logits: float (B, M), already corrected. negative_mask: bool (B, M), False where an item is no negative of this query.
        weight: float (B,), weight of a query, 0 leaves it out.

    Returns:
        Scalar, float32.
    """
    negatives = torch.where(negative_mask, negative_logits.float(), torch.full_like(negative_logits, -1e9, dtype=torch.float32))
    below = torch.logsumexp(negatives, dim=1, keepdim=True)  # (B, 1)
    positives = positive_logits.float()
    each = torch.logaddexp(below, positives) - positives  # (B, P)
    counts = positive_mask.sum(dim=1).clamp(min=1)
    per_query = torch.where(positive_mask, each, torch.zeros_like(each)).sum(dim=1) / counts
    weight = torch.where(positive_mask.any(dim=1), weight, torch.zeros_like(weight))
    return (per_query * weight).sum() / weight.sum().clamp(min=1e-9)


def full_softmax(logits: Tensor, positives: Tensor, candidates: Tensor, weight: Tensor | None = None) -> Tensor:
    """Loss over the whole catalogue.

    Args:
        logits: float (B, N), cosine times scale.
        positives: int64 (B, P), rows of the catalogue, -1 where padded.
        candidates: bool (B, N), rewards that this customer could have had (right business, valid at the time).
        weight: float (B,) or None.
    """
    mask, rows = positives >= 0, positives.clamp(min=0)
    hit = torch.zeros(candidates.shape, dtype=torch.int32, device=rows.device).scatter_add(1, rows, mask.int()) > 0  # (B, N)
    weight = torch.ones_like(logits[:, 0]) if weight is None else weight
    return multi_positive(logits.gather(1, rows), mask, logits, candidates & ~hit, weight)


def sampled_softmax(
    positive_logits: Tensor,
    positives: Tensor,
    sampled_logits: Tensor,
    sampled: Tensor,
    log_q: Tensor,
    candidates: Tensor,
    weight: Tensor | None = None,
) -> Tensor:
    """Estimate of `full_softmax` from M sampled items.

    Args:
        positive_logits: float (B, P), logits of the positives, without correction.
        positives: int64 (B, P), rows of the catalogue, -1 where padded.
        sampled_logits: float (B, M). sampled: int64 (M,), their rows of the catalogue.
        log_q: float (M,), log of the expected number of times that the item is among the M samples.
        candidates: bool (B, M), False where a sample was not available to this customer.
        weight: float (B,) or None.
    """
    mask = positives >= 0
    accidental = (sampled[None, None, :] == positives[:, :, None]).any(dim=1)  # (B, M)
    weight = torch.ones_like(positive_logits[:, 0]) if weight is None else weight
    return multi_positive(positive_logits, mask, sampled_logits - log_q[None, :], candidates & ~accidental, weight)
