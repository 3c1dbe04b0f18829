"""What the model itself knows and no table shows: true choice probabilities, true churn, hidden traits.

With them the best attainable ranking and the best attainable churn forecast can be scored, so that a trained model is judged
against what is possible and not against 1.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from contracts.tables import TEXT, TIMESTAMP
from warehouse.generator.arrow import take, timestamps
from warehouse.generator.assemble import reward_ids
from warehouse.generator.behaviour import BAD_KEEP, FADING_LEAVE, FADING_RATE, HAZARD_BAD, HAZARD_WARM, WARM_KEEP, Block
from warehouse.generator.catalogue import LATENT, PART_COUNT
from warehouse.generator.people import customer_ids
from warehouse.generator.settings import DAY_S, WEEK_S

SAMPLE = 2_000  # customers of a business whose probabilities are written
CHOICE_WEEKS = (2, 0)  # weeks before the end at which choice probabilities are written
CHURN_WEEKS = (13, 2, 0)  # the first leaves 91 days of history to compare with
HORIZONS = (30, 60, 90)
MEAN_OFFER_LIFT = 1.05  # mean effect of campaigns on the visiting rate; future mailings are unknown at the as-of time


def choice_probabilities(block: Block, who: np.ndarray, at: int) -> np.ndarray:
    """Probability of each reward to be the next one that each customer redeems from the catalogue, given the state at `at`.

    A mixture over the customer's times of day. Exact for a redemption at `at`; until the real next one the catalogue and the
    points in hand may change a little.

    Returns:
        float64 (len(who), R); rows sum to 1, or to 0 for a customer who can redeem nothing.
    """
    total = np.zeros((len(who), block.state.logits.shape[1]))
    for part in range(PART_COUNT):
        logits = block.choice_logits(who, np.full(len(who), part), np.full(len(who), at))
        top = logits.max(axis=1, keepdims=True)
        weights = np.exp(logits - np.where(np.isfinite(top), top, 0.0))
        total += block.people.daypart[who, part][:, None] * weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
    return total


def no_purchase(block: Block, at: int, horizons: tuple[int, ...] = HORIZONS) -> np.ndarray:
    """Probability that each customer makes no purchase within each number of days from `at`, float64 (n, len(horizons)).

    Closed form: without a purchase there is no new experience and no redemption, so along that path the hazard and the rate
    follow from the state. Of those who have not bought yet, `calm` are here, `fading` are about to leave, `gone` have left.
    """
    s, p = block.state, block.people
    calm, fading, gone = (s.alive & ~s.fading).astype(float), (s.alive & s.fading).astype(float), 1.0 - s.alive
    bad, warm, out = s.bad.copy(), s.warm.copy(), np.empty((len(p), len(horizons)))
    for day in range(max(horizons)):
        if day % 7 == 0:
            fades = calm * np.minimum(p.hazard * np.exp(HAZARD_BAD * bad + HAZARD_WARM * warm), 0.6)
            gone, fading, calm = gone + fading * FADING_LEAVE, fading * (1 - FADING_LEAVE) + fades, calm - fades
            rate = block.visit_rate(at + (day + np.arange(7)) * DAY_S, bad) * MEAN_OFFER_LIFT
            bad, warm = bad * BAD_KEEP, warm * WARM_KEEP
        calm, fading = calm * np.exp(-rate[:, day % 7]), fading * np.exp(-FADING_RATE * rate[:, day % 7])
        if day + 1 in horizons:
            out[:, horizons.index(day + 1)] = gone + fading + calm
    return out


class TruthRecorder:
    """Watches one block and keeps what is asked about it at the as-of times.

    Args:
        share: part of the customers to sample, 0..1.
    """

    def __init__(self, business: str, share: float, rng: np.random.Generator) -> None:
        self.business, self.share, self.rng = business, share, rng
        self.sample: np.ndarray | None = None
        self.redemptions: list[pa.Table] = []
        self.churn: list[pa.Table] = []

    def __call__(self, block: Block, week: int) -> None:
        left = block.world.window.weeks - week
        if left not in CHURN_WEEKS:
            return
        if self.sample is None:
            self.sample = np.flatnonzero(self.rng.random(len(block.people)) < self.share)
        at = block.world.window.week_start(week)
        who = self.sample[block.people.joined_at[self.sample] < at]
        if left in CHOICE_WEEKS:
            self._choices(block, who, at)
        self._churn(block, who, at)

    def _choices(self, block: Block, who: np.ndarray, at: int) -> None:
        probability = choice_probabilities(block, who, at)
        row, reward = np.nonzero(probability > 0)
        columns = {
            **self._head(block, who[row], at),
            "reward_id": take(reward_ids(block.world), reward),
            "probability": pa.array(probability[row, reward]),
        }
        self.redemptions.append(pa.table(columns))

    def _churn(self, block: Block, who: np.ndarray, at: int) -> None:
        chances = no_purchase(block, at)[who]
        columns = {
            **self._head(block, who, at),
            "gone": pa.array(~block.state.alive[who]),
            "fading": pa.array((block.state.alive & block.state.fading)[who]),
            "weekly_hazard": pa.array(block.hazard()[who]),
            **{f"no_purchase_{h}": pa.array(chances[:, i]) for i, h in enumerate(HORIZONS)},
        }
        self.churn.append(pa.table(columns))

    def _head(self, block: Block, who: np.ndarray, at: int) -> dict[str, pa.Array]:
        return {
            "business_id": pa.repeat(self.business, len(who)),
            "customer_id": take(customer_ids(block.people), who),
            "as_of": timestamps(np.full(len(who), at * 1_000_000)),
        }

    def tables(self, block: Block) -> dict[str, pa.Table]:
        """`redemptions`, `churn` and `traits` of the block; the first two carry the as-of times in the file's metadata."""
        window = block.world.window

        def meta(weeks: tuple[int, ...]) -> dict[str, str]:
            times = ",".join(str(np.datetime64(window.end - w * WEEK_S, "s")) + "Z" for w in weeks if w <= window.weeks)
            return {"as_of": times, "horizons_days": ",".join(map(str, HORIZONS))}

        return {
            "redemptions": _concat(self.redemptions).replace_schema_metadata(meta(CHOICE_WEEKS)),
            "churn": _concat(self.churn).replace_schema_metadata(meta(CHURN_WEEKS)),
            "traits": _traits(self.business, block),
        }


def _concat(parts: list[pa.Table]) -> pa.Table:
    return (
        pa.concat_tables(parts).combine_chunks()
        if parts
        else pa.table({"business_id": pa.array([], TEXT), "as_of": pa.array([], TIMESTAMP)})
    )


def _traits(business: str, block: Block) -> pa.Table:
    p, left = block.people, block.state.left_at
    return pa.table(
        {
            "business_id": pa.repeat(business, len(p)),
            "customer_id": customer_ids(p),
            "visits_per_week": pa.array(p.rate),
            "price_sensitivity": pa.array(p.price_sensitivity),
            "novelty": pa.array(p.novelty),
            "app": pa.array(p.app),
            "mail": pa.array(p.mail),
            "redeems": pa.array(p.redeems),
            "base_hazard": pa.array(p.hazard),
            "left_at": timestamps(np.where(left == 2**62, 0, left) * 1_000_000, left == 2**62),
            **{f"taste_{i}": pa.array(p.taste[:, i]) for i in range(LATENT)},
        }
    )
