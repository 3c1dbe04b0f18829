"""Why a reward was recommended: sentences whose numbers are computed from the customer's own data, or not said at all.

Two steps. *What moved the score*: the ranker's score is attributed to named groups of pair features (`features.pairs.GROUPS`) by
leaving each group out: its features are set to those of the request's average candidate and the ranker is asked again, all rewards and
groups in one batch (`attribution_inputs`, `attributed`). *What can be said*: each group has a sentence maker; the groups that moved
the score up and have a sentence give the reasons, by how much they moved it. Where nothing was attributed the fixed order stands.

Each claim can be recomputed from the raw events; `tests/ray_apps/test_explain.py` does.

Letters: K rewards shown, C candidates, P pair features, G groups, D embedding dim.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from features.definitions import KIND_CODES, PURCHASE
from features.pairs import GROUP_COLUMNS
from features.state import CustomerState
from ray_apps.deployments.population import PART_OF_HOUR, PARTS, PEERS, Population, peers_of
from ray_apps.deployments.population import populations as populations
from ray_apps.deployments.rerank import NEW_DAYS, Offers

HOUR_OF_PART = {"morning": 9, "afternoon": 14, "evening": 19, "night": 23}
"""The hour that stands for a part of the day in a request's context."""

VECTOR_GROUP = "taste"
"""The group of pair features that the item vector belongs to."""
MAX_REASONS = 3
MIN_IMPACT = 1e-6
"""Least move of the probability that counts as one: the answer's rounding."""
MIN_CATEGORY_REDEMPTIONS, MIN_CATEGORY_RATIO = 2, 1.2
MIN_PART_PURCHASES, MIN_PART_SHARE = 5, 0.35
MIN_REWARD_PART_LIFT, MIN_PEER_LIFT = 1.2, 1.2
MIN_SHARE, MIN_SIMILARITY = 0.01, 0.6
MIN_BASKETS, MAX_STRETCH = 3, 1.1
MAX_POINTS_RATIO = 1.25
DAY_S = 86_400.0
_BOUGHT, _RECEIVED, _VIEWED, _REDEEMED = (KIND_CODES[k] for k in (PURCHASE, "offer_received", "offer_viewed", "redemption"))


def attribution_rows(pair_features: np.ndarray, groups: Mapping[str, Sequence[int]], reference: np.ndarray) -> np.ndarray:
    """The rows to ask the ranker for: each reward once per group, that group's features set to the reference.

    Args:
        pair_features: float32 (K, P), of the rewards shown.
        groups: name -> columns, in the order of the result.
        reference: float32 (P,), for example the mean of the request's candidates.

    Returns:
        float32 (K * G, P), all groups of the first reward, then of the next.
    """
    rows = np.repeat(pair_features[:, None, :], len(groups), axis=1)
    for group, columns in enumerate(groups.values()):
        rows[:, group, columns] = reference[columns]
    return rows.reshape(-1, pair_features.shape[1])


def attribution_inputs(
    inputs: Mapping[str, np.ndarray], shown: np.ndarray, groups: Mapping[str, Sequence[int]] = GROUP_COLUMNS
) -> dict[str, np.ndarray]:
    """The ranker's inputs (`contracts.tensors.RANKER`) for `attribution_rows` of one request: one batch of K * G rows.

    The reference is the request's average candidate, so a feature that is the same for all of them moves nothing. For "taste" the item
    vector is the average one too; its dot product with the user vector is then the average cosine, as the feature says.

    Args:
        inputs: of all C candidates, as they were ranked.
        shown: int64 (K,), positions among them.
    """
    count = len(groups)
    pairs, vectors = inputs["pair_features"], inputs["item_vector"]
    asked = {name: np.repeat(value[shown], count, axis=0) for name, value in inputs.items() if name != "pair_features"}
    asked["pair_features"] = attribution_rows(pairs[shown], groups, pairs.mean(axis=0))
    if VECTOR_GROUP in groups:
        asked["item_vector"][list(groups).index(VECTOR_GROUP) :: count] = vectors.mean(axis=0)
    return asked


def attributed(
    logits: np.ndarray,
    shown: np.ndarray,
    without: np.ndarray,
    probability: Callable[[np.ndarray], np.ndarray],
    groups: Iterable[str] = GROUP_COLUMNS,
) -> list[dict[str, float]]:
    """For each reward shown: group -> by how much it raised the probability; what `Explainer.reasons` takes.

    Args:
        logits: (C, heads), of all candidates. shown: int64 (K,), positions among them.
        without: (K * G, heads), the ranker's answer to `attribution_inputs`.
        probability: see `impacts`.
    """
    gained, _ = impacts(logits[:, 0], shown, moved(without, logits[shown]), probability)
    names = list(groups)
    return [dict(zip(names, row, strict=True)) for row in gained.tolist()]


def moved(logits: np.ndarray, base: np.ndarray) -> np.ndarray:
    """How much each group moved the redeem logit: positive is up.

    Args:
        logits: float32 (K * G,) or (K * G, heads), the ranker's answer to `attribution_rows`; the first head is `redeem`.
        base: float32 (K,) or (K, heads), its answer to the rows as they are.

    Returns:
        float64 (K, G).
    """
    without, whole = (np.asarray(x, dtype=np.float64).reshape(len(x), -1)[:, 0] for x in (logits, base))
    return np.asarray(whole[:, None] - without.reshape(len(whole), -1))


def impacts(
    logits: np.ndarray, positions: np.ndarray, moves: np.ndarray, probability: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """What the moves are worth in probability: each shown reward's logit is changed alone, the other candidates keep theirs.

    Args:
        logits: (C,), redeem logits of all candidates of the request.
        positions: int64 (K,), which of them are shown.
        moves: (K, G), from `moved`.
        probability: from shares of the softmax, any shape, to calibrated probabilities of the same shape; never falling.

    Returns:
        float64 (K, G): probability as it is, less that without the group; and float64 (K,), the probability as it is.
    """
    all_logits = logits.astype(np.float64)
    shifted = np.exp(all_logits - all_logits.max())
    mine = shifted[positions]
    rest = np.maximum(shifted.sum() - mine, 0.0)
    without = mine[:, None] * np.exp(-moves)
    now = np.asarray(probability(mine / (mine + rest)), dtype=np.float64)
    return now[:, None] - np.asarray(probability(without / (without + rest[:, None]))), now


@dataclass(frozen=True)
class Catalogue:
    """The rewards of a model version as plain lists, row for row with its vectors; lists, because one is read at a time.

    Attributes:
        vectors: float32 (N, D), L2 norm 1.
        share: redeemers among the business's customers in the 90 days before the model's as-of time, 0..1.
        row: (business id, reward id) -> row.
        offers: what they cost and are.
    """

    reward_ids: list[str]
    names: list[str]
    categories: list[str]
    valid_from: list[float | None]
    share: list[float]
    vectors: np.ndarray
    row: Mapping[tuple[str, str], int]
    offers: Offers = field(default_factory=lambda: Offers.build({"reward_id": []}))

    @classmethod
    def build(cls, columns: Mapping[str, Sequence[Any]], vectors: np.ndarray) -> Catalogue:
        """From the columns of rewards.parquet."""
        ids, business = list(columns["reward_id"]), list(columns["business_id"])
        return cls(
            reward_ids=ids,
            names=[name or reward_id for name, reward_id in zip(columns["name"], ids, strict=True)],
            categories=[c or "" for c in columns["category"]],
            valid_from=[None if t is None else t.timestamp() for t in columns["valid_from"]],
            share=[float(s or 0.0) for s in columns["redeemer_share"]],
            vectors=vectors,
            row={(b, r): i for i, (b, r) in enumerate(zip(business, ids, strict=True))},
            offers=Offers.build(columns),
        )


class Reason(NamedTuple):
    """One reason: a code for programs, a sentence for the customer, and by how much it raised the probability, where that was measured."""

    code: str
    sentence: str
    impact: float | None = None


def shown_as(reasons: Sequence[Reason]) -> dict[str, Any]:
    """The fields of one recommendation on the wire: `explanation`, `reasoning` and `reasons`, strongest first."""
    top = reasons[:MAX_REASONS]
    wire: list[dict[str, Any]] = [{"code": r.code, "sentence": r.sentence} for r in top]
    for entry, reason in zip(wire, top, strict=True):
        if reason.impact is not None:
            entry["impact"] = round(reason.impact, 6)
    return {"explanation": top[0].sentence, "reasoning": list(dict.fromkeys(r.code for r in top)), "reasons": wire}


class Explainer:
    """Explains the rewards of one answer; what depends on the customer only is computed once.

    Args:
        business_id: the tenant.
        catalogue: of the model version that made the answer.
        population: of the business.
        state: the customer's, as of now; None for a customer of whom nothing is known. One without any touch may still have demographics.
        now: epoch seconds, serving time.
        part: part of the day that the answer is for.
    """

    def __init__(
        self, business_id: str, catalogue: Catalogue, population: Population, state: CustomerState | None, now: float, part: str
    ) -> None:
        self._catalogue, self._population, self._now, self._part = catalogue, population, now, part
        self._peers = peers_of(state, now)
        self._state = state if state is not None and state.touch_count else None
        self._redeemed = dict(self._state.redeemed) if self._state else {}
        self._rows = {catalogue.row[business_id, r]: n for r, n in self._redeemed.items() if (business_id, r) in catalogue.row}
        self._business_id = business_id
        self._by_category = Counter[str]()
        for row, count in self._rows.items():
            self._by_category[catalogue.categories[row]] += count
        self._total = sum(self._by_category.values())
        self._part_share = self._share_of_part()
        self._last: dict[str, float] = {}
        self._offers = self._open_offers()
        self._baskets = [t.value for t in self._state.recent if t.kind == _BOUGHT and t.value > 0] if self._state else []
        self._makers: dict[str, Callable[[int], Reason | None]] = {
            "category": self._category,
            "again": self._before,
            "time_of_day": self._time_of_day,
            "peers": self._like_you,  # not among the ranker's groups: for answers without it
            "neighbours": self._similar_customers,
            "popularity": self._popular,
            "taste": self._taste,
            "offer": self._offer,
            "price": self._price,
            "novelty": self._new,
        }

    def reasons(self, row: int, moves: Mapping[str, float] | None = None) -> list[Reason]:
        """Reasons for one row of the catalogue, strongest first; at least one.

        Args:
            moves: group -> by how much it raised the probability (`impacts`). With it, at most three reasons of the groups that raised it
                most; without, those that can be given, in a fixed order.
        """
        if moves is None:
            found = [maker(row) for maker in self._makers.values()]
            return [r for r in found if r is not None] or [self._otherwise(row)]
        strongest: list[Reason] = []
        for group, impact in sorted(moves.items(), key=lambda item: -item[1]):
            reason = self._makers[group](row) if impact >= MIN_IMPACT and group in self._makers else None
            if reason is not None:
                strongest.append(reason._replace(impact=impact))
                if len(strongest) == MAX_REASONS:
                    break
        return strongest or [self._otherwise(row)]

    def category_ratio(self, category: str) -> float | None:
        """The customer's share of redemptions in a category over the other customers' share; None where it cannot be said."""
        own, everyone = self._by_category[category], self._population
        others, others_total = everyone.by_category.get(category, 0) - own, everyone.total - self._total
        if own < MIN_CATEGORY_REDEMPTIONS or others <= 0 or others_total <= 0:
            return None
        return (own / self._total) / (others / others_total)

    def _category(self, row: int) -> Reason | None:
        category = self._catalogue.categories[row]
        ratio = self.category_ratio(category) if category else None
        if ratio is None or ratio < MIN_CATEGORY_RATIO:
            return None
        return Reason("high_affinity_category", f"You redeem {category} rewards {_times(ratio)} more than other customers")

    def _before(self, row: int) -> Reason | None:
        count = self._rows.get(row, 0)
        if not count:
            return None
        often = "once" if count == 1 else "twice" if count == 2 else f"{count} times"
        last = self._last.get(self._catalogue.reward_ids[row])  # known where it is among the latest touches
        return Reason("redeemed_before", f"You redeemed this {often} before" + (f", last on {_day(last)}" if last is not None else ""))

    def _share_of_part(self) -> float | None:
        """Share of the customer's purchases in the answer's part of the day; None for too few."""
        hours = self._state.purchase_hours.tolist() if self._state else []
        total = sum(hours)
        if total < MIN_PART_PURCHASES:
            return None
        return float(sum(n for n, part in zip(hours, PART_OF_HOUR, strict=True) if part == self._part) / total)

    def _time_of_day(self, row: int) -> Reason | None:
        """For somebody who buys at this time of day, or of whom nothing is known but the time."""
        lift = self._population.part_lift(self._catalogue.reward_ids[row], PARTS.index(self._part))
        if lift is None or lift < MIN_REWARD_PART_LIFT:
            return None
        when = f"{'at' if self._part == 'night' else 'in the'} {self._part}"
        if self._state is None:
            return Reason("time_of_day_match", f"Redeemed {_times(lift)} as often {when} as is usual for rewards")
        mine = self._part_share
        if mine is None or mine < MIN_PART_SHARE:
            return None
        return Reason("time_of_day_match", f"{_percent(mine)} of your purchases are {when}, when this is redeemed {_times(lift)} as often")

    def _similar_customers(self, row: int) -> Reason | None:
        """What those who redeemed one of the customer's rewards redeemed too: the anchor that says most for this reward."""
        for anchor, found in self._population.together.get(self._catalogue.reward_ids[row], {}).items():
            if anchor in self._redeemed and (self._business_id, anchor) in self._catalogue.row:
                name = self._catalogue.names[self._catalogue.row[self._business_id, anchor]]
                share, lift = _percent(found.both / found.others), _times(found.lift)
                return Reason(
                    "similar_users_liked",
                    f"Of the {found.others} customers who redeemed {name}, {share} redeemed this, {lift} the usual share",
                )
        return None

    def _popular(self, row: int) -> Reason | None:
        share = self._catalogue.share[row]
        if share < MIN_SHARE:
            return None
        return Reason("popular_now", f"Redeemed by {_percent(share)} of customers in the last 90 days")

    def _taste(self, row: int) -> Reason | None:
        others = [r for r in self._rows if r != row]
        if not others:
            return None
        cosines = self._catalogue.vectors[others] @ self._catalogue.vectors[row]
        best = int(np.argmax(cosines))
        if cosines[best] < MIN_SIMILARITY:
            return None
        return Reason("matches_taste", f"Similar to {self._catalogue.names[others[best]]}, which you redeemed")

    def _open_offers(self) -> dict[str, tuple[int, float]]:
        """reward id -> (kind, time) of the newest sending or viewing among the latest touches, unless it was redeemed since."""
        found: dict[str, tuple[int, float]] = {}
        for touch in self._state.recent if self._state else ():
            if touch.kind in (_RECEIVED, _VIEWED) and touch.token.startswith("r:"):
                found[touch.token[2:]] = (touch.kind, touch.time)
            elif touch.kind == _REDEEMED:
                self._last[touch.token[2:]] = touch.time
                found.pop(touch.token[2:], None)
        return found

    def _offer(self, row: int) -> Reason | None:
        offer = self._offers.get(self._catalogue.reward_ids[row])
        if offer is None:
            return None
        kind, when = offer
        if kind == _VIEWED:
            return Reason("offer_viewed", f"You looked at this on {_day(when)}")
        return Reason("offer_open", f"This was offered to you on {_day(when)}")

    def _price(self, row: int) -> Reason | None:
        """Within reach: the least spend against the customer's latest baskets, else the points against those that were paid before."""
        offers = self._catalogue.offers
        if not len(offers.difficulty):
            return None
        needed, points = float(offers.difficulty[row]), float(offers.points_cost[row])
        if needed > 0 and len(self._baskets) >= MIN_BASKETS:
            usual = sum(self._baskets) / len(self._baskets)
            if needed > MAX_STRETCH * usual:
                return None
            return Reason("fits_your_basket", f"Needs a purchase of {needed:.2f}; your last {len(self._baskets)} averaged {usual:.2f}")
        if points > 0 and self._total:
            usual = sum(float(offers.points_cost[r]) * n for r, n in self._rows.items()) / self._total
            if points <= MAX_POINTS_RATIO * usual:
                return Reason("fits_your_points", f"Costs {points:.0f} points; the rewards that you redeemed cost {usual:.0f} on average")
        return None

    def _new(self, row: int) -> Reason | None:
        start = self._catalogue.valid_from[row]
        if start is None or not 0 <= self._now - start <= NEW_DAYS * DAY_S:
            return None
        return Reason("new_reward", f"New since {_day(start)}")

    def _like_you(self, row: int) -> Reason | None:
        """For a customer who has not acted yet: what people of the same age or gender redeem."""
        if self._state is not None or not self._peers:
            return None
        found = [(self._population.peer_share(self._catalogue.reward_ids[row], peer), peer) for peer in self._peers]
        best = max(((share_lift, peer) for share_lift, peer in found if share_lift is not None), key=lambda x: x[0][1], default=None)
        if best is None or best[0][1] < MIN_PEER_LIFT:
            return None
        (share, lift), peer = best
        return Reason("popular_with_peers", f"Redeemed by {_percent(share)} of {PEERS[peer]}, {_times(lift)} the share of all customers")

    def _otherwise(self, row: int) -> Reason:
        """What is always true: what the model looked at."""
        if self._state is None:
            share = self._catalogue.share[row]
            if not share:
                return Reason("new_reward", "Nobody has redeemed this in the last 90 days: be the first")
            return Reason("popular_now", f"Redeemed by {_percent(share)} of customers in the last 90 days")
        count = len(self._state.recent)
        return Reason("matches_taste", f"Chosen from your last {count} activities" if count > 1 else "Chosen from your latest activity")


def _times(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio < 10 else f"{ratio:.0f}x"


def _percent(share: float) -> str:
    """A whole number of percent, never rounded to 0 or 100 unless it is."""
    if 0 < share < 0.01:
        return "less than 1 %"
    return f"{min(99, round(share * 100)) if share < 1 else 100} %"


def _day(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).strftime("%-d %B %Y")
