"""Which kind of offer to make to a customer: a probability for each of the eight reward types, and the best reward of each.

The same way as a recommendation (features now, user tower, candidates, ranker), with one more model on Triton beside the ranker. The best
reward of a type is the first one of it in the ranker's order, under the same rules; where no candidate is of a type, the best by cosine
and popularity among all rewards of that type. Of an unknown customer the business's shares stand in for the probabilities; without Triton
they do too, and popularity for the ranker.

Letters: T = 8 reward types in the order of `contracts.tables.REWARD_TYPES`, K candidates, D embedding dim.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from contracts.api import NextOfferRequest
from contracts.errors import UpstreamError
from contracts.tables import REWARD_TYPES
from contracts.tensors import NEXT_OFFER, RANKER, ModelSpec
from features.state import CustomerState
from ray_apps.deployments import rank
from ray_apps.deployments.model import Served
from ray_apps.deployments.population import Population
from ray_apps.deployments.recommend import CANDIDATES, POPULARITY_DAYS, Customer, Recommender, by_popularity
from ray_apps.deployments.rerank import Policy, margins, retention_value, spend_of
from ray_apps.metrics import Stopwatch
from ray_apps.settings import ServeSettings
from serving.client import TritonClient

logger = logging.getLogger("regulars.next_offer")

NOT_IN_CATALOGUE, NONE_ALLOWED, NO_HISTORY = "not_in_catalogue", "none_allowed", "no_history"
VIEWED = "informational"
MIN_LIFT = 1.2
"""A customer is said to be likelier than others from here on."""
WORDS = {
    "discount": "discount", "bogo": "two-for-one offer", "free_item": "free item", "points_bonus": "points bonus",
    "cashback": "cashback offer", "experience": "experience", "upgrade": "upgrade", "informational": "informational offer",
}  # fmt: skip
_NOBODY = Population()


@dataclass(frozen=True, slots=True)
class Pick:
    """The best allowed reward of a type: its row in the catalogue, and the probability that the customer redeems it."""

    row: int
    score: float


class NextOffers:
    """Answers which kind of offer to make.

    Args:
        recommender: where the customer's state, vector and rules come from.
        client: of the model server.
        settings: deadlines, the objective and what a redemption is worth.
    """

    def __init__(self, recommender: Recommender, client: TritonClient, settings: ServeSettings) -> None:
        self._recommender, self._client, self._settings = recommender, client, settings
        self._shelf: Shelf | None = None

    async def next_best(self, business_id: str, wanted: NextOfferRequest, stopwatch: Stopwatch) -> dict[str, Any]:
        """The body of a `NextOfferResponse` without its latency.

        Raises:
            ArtifactError: no model has been loaded yet.
        """
        customer = await self._recommender.customer(business_id, wanted.customer_id, wanted.context, stopwatch)
        stopwatch.lap("tower")
        served, shares = customer.served, customer.served.offer_types.shares.get(business_id, {})
        known = customer.state is not None and customer.state.touch_count > 0
        shelf = self._shelf_of(served)
        near = _near(customer, self._settings.candidates) if customer.vector is not None and shelf.rows(business_id) else None
        stopwatch.lap("search")
        found, scores = await asyncio.gather(self._probabilities(customer, known), self._scored(customer, near))
        whole = (found is not None or not known) and (scores is not None or near is None)
        usual = np.array([shares.get(kind, 0.0) for kind in REWARD_TYPES])
        picks = best_rewards(customer, shelf, near.rows if near is not None and scores is not None else None, scores)
        stopwatch.lap("rank")
        policy = Policy.of(self._settings, wanted.objective)
        offers = _offers(customer, usual if found is None else found, set(shares), picks, shelf, policy)
        best = offers[0] if offers[0]["available"] else None
        stopwatch.lap("rules")
        return {
            "customerId": wanted.customer_id,
            "offers": [{k: v for k, v in offer.items() if k != "value"} for offer in offers],
            "nextBestOffer": None if best is None else _named(best, customer, shares, found is not None),
            "modelVersion": served.name,
            "coverage": customer.coverage,
            "degraded": customer.degraded or not whole,
            "horizonDays": served.offer_types.horizon_days,
        }

    def _shelf_of(self, served: Served) -> Shelf:
        """Made anew when another version is served."""
        shelf = self._shelf
        if shelf is None or shelf.served is not served:
            shelf = self._shelf = Shelf(served)
        return shelf

    async def _probabilities(self, customer: Customer, known: bool) -> np.ndarray | None:
        """float64 (T,) of the model, calibrated; None for an unknown customer, and where Triton gives none."""
        if customer.vector is None or not known:
            return None
        inputs = {"user_vector": np.ascontiguousarray(customer.vector), "features": customer.tower["features"]}
        answer = await self._infer(NEXT_OFFER, inputs, customer.served)
        return None if answer is None else np.asarray(customer.served.offer_types.probabilities(answer["offer_logits"][0]))

    async def _scored(self, customer: Customer, near: rank.Candidates | None) -> np.ndarray | None:
        """float64 (K,): probability of redemption of each candidate; None without candidates, and where Triton gives none."""
        if near is None or not len(near.rows):
            return None
        answer = await self._infer(RANKER, near.inputs, customer.served)
        return None if answer is None else customer.served.ranking.probabilities(answer["logits"][:, rank.REDEEM], near.features)

    async def _infer(self, spec: ModelSpec, inputs: dict[str, np.ndarray], served: Served) -> dict[str, np.ndarray] | None:
        """Triton's answer; None where it gives none."""
        deadline_s = self._settings.tower_deadline_ms / 1000
        try:
            return await self._recommender.tower.call(
                lambda: self._client.infer(spec, inputs, served.version, deadline_s), deadline_s * 1.5
            )
        except UpstreamError as exc:
            logger.info("answering without %s: %s", spec.name, exc)
            return None


def _near(customer: Customer, most: int) -> rank.Candidates | None:
    """The candidates of a recommendation; None where nothing is allowed."""
    assert customer.vector is not None  # noqa: S101 - asked by the caller
    state = customer.state if customer.state is not None else CustomerState()
    found = rank.candidates(customer.served, customer.vector, customer.tower, state, customer.rules, customer.now, most)
    return found if len(found.rows) else None


class Shelf:
    """The rewards of one model version by business and type, sorted once."""

    def __init__(self, served: Served) -> None:
        self.served = served
        kinds = np.array(served.snapshot.table.reward_types)
        self._rows = {
            business: {str(kind): np.sort(rows[kinds[rows] == kind]) for kind in np.unique(kinds[rows])}
            for business, rows in served.snapshot.popularity.items()
        }

    def rows(self, business_id: str) -> Mapping[str, np.ndarray]:
        """Reward type -> rows of the catalogue, int64, whether they may be shown or not."""
        return self._rows.get(business_id, {})


def best_rewards(customer: Customer, shelf: Shelf, rows: np.ndarray | None, scores: np.ndarray | None) -> dict[str, Pick]:
    """The best allowed reward of each type that has one.

    Args:
        rows, scores: the ranker's candidates, int64 (K,) and float64 (K,); None without it: by cosine and popularity, or popularity alone.
    """
    snapshot = customer.served.snapshot
    if rows is None or scores is None:
        rows, scores = _simpler(customer)
    out: dict[str, Pick] = {}
    for at in rank.ordered(scores).tolist():
        out.setdefault(snapshot.table.reward_types[rows[at]], Pick(int(rows[at]), float(scores[at])))
    for kind, mine in shelf.rows(customer.business_id).items():
        if kind not in out:  # a rare type may lie behind the candidates
            allowed = mine[snapshot.table.passes(mine, customer.rules)]
            if len(allowed):
                found = _scores(customer, allowed)
                best = int(found.argmax())
                out[kind] = Pick(int(allowed[best]), float(found[best]))
    return out


def _simpler(customer: Customer) -> tuple[np.ndarray, np.ndarray]:
    """Allowed rewards to look at first, int64 (K,), and their scores float64 (K,), without the ranker."""
    if customer.vector is None:
        ranked = by_popularity(customer.served, customer.rules, customer.state, customer.now, customer.part, CANDIDATES)
        return np.array(ranked.rows, dtype=np.int64), np.array(ranked.scores, dtype=np.float64)
    rows = customer.served.snapshot.index.search(customer.vector, CANDIDATES, [customer.rules])[0].rows
    return rows, _scores(customer, rows)


def _scores(customer: Customer, rows: np.ndarray) -> np.ndarray:
    """float64 (K,), of rows int64 (K,): the probability of redemption within the horizon, calibrated from cosine and popularity, or from
    the share of redeemers where there is no vector."""
    snapshot = customer.served.snapshot
    if customer.vector is None:
        return np.asarray(1.0 - (1.0 - snapshot.redeemer_share[rows]) ** (snapshot.calibration.horizon_days / POPULARITY_DAYS))
    return snapshot.calibration.probabilities(snapshot.index.vectors[rows] @ customer.vector[0], snapshot.redeemer_share[rows])


def _offers(
    customer: Customer, probability: np.ndarray, history: set[str], picks: Mapping[str, Pick], shelf: Shelf, policy: Policy
) -> list[dict[str, Any]]:
    """All eight, best first: what can be offered before what cannot, by the objective, by the probability.

    Args:
        probability: float64 (T,).
        history: types that the business had when the probabilities were measured.
    """
    served = customer.served
    population = served.populations.get(customer.business_id, _NOBODY)
    spend = spend_of(customer.state, customer.now, population.basket)
    mine = shelf.rows(customer.business_id)
    out = []
    for number, kind in enumerate(REWARD_TYPES):
        pick = picks.get(kind)
        chance = float(probability[number]) if kind in mine and kind in history else 0.0
        # A view earns nothing by itself.
        earned = 0.0
        if pick is not None and kind != VIEWED:
            earned = float(margins(policy, served.catalogue.offers, np.array([pick.row]), spend)[0])
        worth = earned + retention_value(policy, spend) if policy.objective == "clv" else earned
        note = NOT_IN_CATALOGUE if kind not in mine else NONE_ALLOWED if pick is None else NO_HISTORY if kind not in history else None
        out.append(
            {
                "offerType": kind,
                "probability": round(chance, 6),
                "available": pick is not None,
                "expectedValue": None if pick is None else round(chance * earned, 4),
                "reward": None if pick is None else _shown(served, pick),
                "note": note,
                "value": chance if policy.objective == "redemption" else chance * worth,
            }
        )
    return sorted(out, key=lambda o: (not o["available"], -o["value"], -o["probability"]))


def _shown(served: Served, pick: Pick) -> dict[str, Any]:
    return {"rewardId": served.catalogue.reward_ids[pick.row], "name": served.catalogue.names[pick.row], "score": round(pick.score, 6)}


def _named(best: dict[str, Any], customer: Customer, shares: Mapping[str, float], by_model: bool) -> dict[str, Any]:
    return {
        "offerType": best["offerType"],
        "rewardId": best["reward"]["rewardId"],
        "name": best["reward"]["name"],
        "probability": best["probability"],
        "reason": _reason(best, customer, shares, by_model),
    }


def _reason(best: dict[str, Any], customer: Customer, shares: Mapping[str, float], by_model: bool) -> str:
    """One sentence whose numbers are this customer's, or the business's where nothing of theirs speaks for the offer."""
    kind, served = best["offerType"], customer.served
    word, verb, days = WORDS[kind], "view" if kind == VIEWED else "redeem", served.offer_types.horizon_days
    times = redeemed_of(customer.state, served, customer.business_id, kind) if customer.state is not None else 0
    share, one = shares.get(kind, 0.0), f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
    if times:
        many = "" if times == 1 else "es" if word.endswith("s") else "s"
        return f"You redeemed {times} {word}{many} before"
    if by_model and share > 0 and best["probability"] >= MIN_LIFT * share:
        return f"You are {best['probability'] / share:.1f}x as likely as other customers to {verb} {one} within {days} days"
    if share > 0:
        return f"{share:.0%} of customers {verb} {one} within {days} days"
    return f"New here: the first {word}"


def redeemed_of(state: CustomerState, served: Served, business_id: str, kind: str) -> int:
    """How often the customer redeemed a reward of a type, ever, among the rewards of the catalogue."""
    kinds, row = served.snapshot.table.reward_types, served.catalogue.row
    found = ((row.get((business_id, reward)), times) for reward, times in state.redeemed.items())
    return sum(times for at, times in found if at is not None and kinds[at] == kind)
