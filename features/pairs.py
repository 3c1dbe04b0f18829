"""What is known of one customer and one reward together: the ranker's `pair_features`. Training and serving call the same function.

Letters: K candidate rewards of one customer, N rewards of the catalogue, P = 40 features, H rewards that the customer redeemed,
M neighbours of a reward, T steps of the sequence, D embedding dim.

Everything is computed from what was known strictly before the as-of time: the customer's own redemptions, the newest touches (through the
user tower's sequence tensors, so that both paths see the same), and statistics of the catalogue as of that day.

Sources: item-item affinity is EASE (Steck 2019); the rhythm of repeats follows Hu et al. (2020, TIFU-KNN) in spirit: how often, how
lately, and how overdue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from contracts.errors import ArtifactError
from contracts.tensors import PAIR_COUNT
from features.definitions import COUNT_SCALE, DAY_S, FEATURE_NAMES, KIND_CODES, SPEND_SCALE
from features.state import CustomerState

WINDOWS_DAYS = (7, 30, 90)
PARTS = 4
SHARE_FLOOR = 1e-5  # added to shares before the logarithm
TEXT_SIZE = 32  # text vectors are brought to so many dimensions
RECENT_HALF_LIFE_DAYS = 30.0
MAX_HISTORY = 300  # newest rewards of a customer that neighbours are looked up for
TASTE_ROWS = 10
OWN_ROWS, NEAR_ROWS = 100, 100
_MOMENT_S = DAY_S  # redemptions within a day of the newest one belong to the last moment
_NEVER_LOG = float(np.log1p(3650.0))
_RECEIVED, _VIEWED, _REDEEMED = KIND_CODES["offer_received"], KIND_CODES["offer_viewed"], KIND_CODES["redemption"]

GROUPS: dict[str, tuple[str, ...]] = {
    "taste": ("cosine", "cosine_rank", "taste_vectors", "taste_text"),
    "neighbours": ("affinity", "affinity_recent", "affinity_last", "follows_last", "affinity_rank", "follows_max"),
    "again": ("redeemed", "count", "count_share", "days_since", "days_since_first", "own_rhythm", "item_rhythm", "in_last", "moment_share"),
    "popularity": ("share_7d", "share_30d", "share_90d", "trend", "repeat_share"),
    "novelty": ("item_age", "days_left"),
    "category": ("category_share", "category_lift", "category_days_since", "category_count"),
    "offer": ("received", "days_since_received", "viewed", "days_since_viewed", "open_offer", "times_received"),
    "time_of_day": ("part_lift",),
    "price": ("difficulty_fit", "points_fit", "value_fit"),
}
"""Named groups of features, for explanations."""
PAIR_NAMES: tuple[str, ...] = tuple(name for names in GROUPS.values() for name in names)
assert len(PAIR_NAMES) == PAIR_COUNT  # noqa: S101 - our own mistake, at import
COLUMN = {name: i for i, name in enumerate(PAIR_NAMES)}
GROUP_COLUMNS: dict[str, list[int]] = {group: [COLUMN[n] for n in names] for group, names in GROUPS.items()}


@dataclass(frozen=True)
class ItemStats:
    """Statistics of the catalogue; those of redemptions are as of one instant.

    Attributes:
        shares: float32 (3, N), log of the reward's share of its business's redemptions of the last 7, 30, 90 days (plus a little).
        repeat_share: float32 (N,), share of its redeemers who redeemed it again. gap_days: float32 (N,), their median pause.
        part_lift: float32 (N, 4), log of how much likelier it is redeemed in that part of the day than others.
        first_seen: float64 (N,), epoch seconds: start of validity, else its first redemption; inf where never seen.
        valid_to: float64 (N,), epoch seconds; inf where open.
        category: int32 (N,), code; rewards without one share a code. category_share: float32 (N,), of all redemptions, by reward.
        difficulty, points, value: float32 (N,), log1p; NaN where missing.
        text: float32 (N, 32), length 1.
        neighbours: int32 (N, M), weights: float32 (N, M): what redeeming the row's reward says for others (EASE).
        followers: int32 (N, M), follow: float32 (N, M): what tends to be redeemed at the next moment (log lift).
    """

    shares: np.ndarray
    repeat_share: np.ndarray
    gap_days: np.ndarray
    part_lift: np.ndarray
    first_seen: np.ndarray
    valid_to: np.ndarray
    category: np.ndarray
    category_share: np.ndarray
    difficulty: np.ndarray
    points: np.ndarray
    value: np.ndarray
    text: np.ndarray
    neighbours: np.ndarray
    weights: np.ndarray
    followers: np.ndarray
    follow: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """For `item_stats.npz`."""
        return dict(self.__dict__)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ItemStats:
        """What `arrays` gave.

        Raises:
            ArtifactError: an array is missing, or they are not of one catalogue.
        """
        missing = sorted(set(cls.__dataclass_fields__) - set(arrays))
        if missing:
            raise ArtifactError(f"item statistics lack {', '.join(missing)}. Train and export again: regulars train recommender")
        stats = cls(**{name: np.asarray(arrays[name]) for name in cls.__dataclass_fields__})
        rows = {name: value.shape[1 if name == "shares" else 0] for name, value in stats.arrays().items()}
        if len(set(rows.values())) != 1:
            raise ArtifactError(
                f"item statistics have {sorted(set(rows.values()))} rows, must be of one catalogue. Train and export again."
            )
        return stats

    def __len__(self) -> int:
        return len(self.category)


@dataclass(frozen=True)
class History:
    """What one customer redeemed before the as-of time.

    Attributes:
        rows: int64 (H,), rows of the catalogue, each once. count: float64 (H,). first, last: float64 (H,), epoch seconds.
    """

    rows: np.ndarray
    count: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, times: np.ndarray) -> History:
        """From single redemptions: rows int64 (L,), times float64 (L,), ascending."""
        unique, inverse, count = np.unique(rows, return_inverse=True, return_counts=True)
        first, last = np.full(len(unique), np.inf), np.full(len(unique), -np.inf)
        np.minimum.at(first, inverse, times)
        np.maximum.at(last, inverse, times)
        return cls(unique, count.astype(np.float64), first, last)

    @classmethod
    def of_state(cls, state: CustomerState, business_id: str, catalogue: Mapping[tuple[str, str], int]) -> History:
        """From a stored state: the rewards of the catalogue, (business id, reward id) -> row, among those that it holds."""
        found = [(catalogue.get((business_id, r), -1), n, *state.redeemed_at[r]) for r, n in state.redeemed.items()]
        rows = sorted(f for f in found if f[0] >= 0)
        table = np.array(rows, dtype=np.float64).reshape(-1, 4)
        return cls(table[:, 0].astype(np.int64), table[:, 1], table[:, 2], table[:, 3])

    @property
    def moments(self) -> int:
        """Different days of first and last redemptions: at least so often something was redeemed."""
        return len(np.unique(np.concatenate([self.first, self.last]) // DAY_S))


@dataclass(frozen=True)
class Context:
    """The rest of what is known at the moment.

    Attributes:
        as_of: epoch seconds. part: 0..3, part of the day of the request.
        sequence_rows: int64 (T,), the touched reward's row of the catalogue, -1 where none. kinds: int64 (T,), 0 is padding.
        ages_days: float64 (T,).
        basket: log1p of the customer's average purchase, NaN where unknown.
    """

    as_of: float
    part: int
    sequence_rows: np.ndarray
    kinds: np.ndarray
    ages_days: np.ndarray
    basket: float


def log_shares(counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """`ItemStats.shares` from counts: float32 of counts / totals, both of any one shape."""
    return np.log(counts / np.maximum(totals, 1.0) + SHARE_FLOOR).astype(np.float32)


_FEATURE = {name: i for i, name in enumerate(FEATURE_NAMES)}
_AGE_SCALE = 10.0  # of features.sequences.scale_values


def part_of_hour(hour: float) -> int:
    """0 morning (5 to 12), 1 afternoon (to 17), 2 evening (to 22), 3 night."""
    return 0 if 5 <= hour < 12 else 1 if 12 <= hour < 17 else 2 if 17 <= hour < 22 else 3


def part_of_features(features: np.ndarray) -> int:
    """The part of the day that the context features, in float32 (F,), say."""
    hour = np.arctan2(features[_FEATURE["hour_sin"]], features[_FEATURE["hour_cos"]]) / (2.0 * np.pi) * 24.0 % 24.0
    return part_of_hour(float(hour) + 1e-4)


def popularity_in_context(stats: ItemStats, part: int) -> np.ndarray:
    """What is shown to somebody of whom nothing is known, float32 (N,), log scale: redeemed lately, and at this time of the day."""
    return np.asarray((stats.shares[0] + stats.shares[1]) / 2.0 + stats.part_lift[:, part])


def context_of(
    features: np.ndarray, sequence_ids: np.ndarray, sequence_values: np.ndarray, as_of: float, token_rows: np.ndarray
) -> Context:
    """From one customer's inputs of the user tower.

    Args:
        features: float32 (F,). sequence_ids: (T, 2). sequence_values: float32 (T, 2).
        as_of: epoch seconds.
        token_rows: int64 (V,), row of the catalogue of each token for this business; -1 where there is none.
    """
    purchases = np.expm1(features[_FEATURE["purchases_180d"]] * COUNT_SCALE)
    spend = np.expm1(features[_FEATURE["spend_180d"]] * SPEND_SCALE)
    return Context(
        as_of=as_of,
        part=part_of_features(features),
        sequence_rows=token_rows[sequence_ids[:, 0]],
        kinds=sequence_ids[:, 1],
        ages_days=np.expm1(sequence_values[:, 0].astype(np.float64) * _AGE_SCALE) / 24.0,
        basket=float(np.log1p(max(spend, 0.0) / purchases)) if purchases > 0.05 else float("nan"),
    )


def nearest(history: History, stats: ItemStats, own: int = OWN_ROWS, near: int = NEAR_ROWS) -> np.ndarray:
    """int64, ascending: rewards that are candidates whatever the vectors say: the customer's newest own ones and their best neighbours."""
    if not len(history.rows):
        return history.rows
    order = np.argsort(-history.last, kind="stable")[:MAX_HISTORY]
    rows = history.rows[order]
    affinity = np.bincount(stats.neighbours[rows].ravel(), stats.weights[rows].ravel(), len(stats))
    best = np.argpartition(-affinity, min(near, len(affinity) - 1))[:near]
    return np.union1d(rows[:own], best[affinity[best] > 0])


def pair_features(
    candidates: np.ndarray, cosine: np.ndarray, history: History, context: Context, stats: ItemStats, item_vectors: np.ndarray
) -> np.ndarray:
    """The ranker's view of some candidates of one customer.

    Args:
        candidates: int64 (K,), rows of the catalogue. cosine: float32 (K,), user vector times item vector.
        item_vectors: float32 (N, D), length 1.

    Returns:
        float32 (K, P), finite, about -10..10.
    """
    out = np.zeros((len(candidates), PAIR_COUNT), dtype=np.float32)
    n = len(stats)
    _taste(out, candidates, cosine, history, stats, item_vectors)
    _neighbours(out, candidates, history, context.as_of, stats, n)
    _again(out, candidates, history, context.as_of, stats, n)
    _popularity(out, candidates, context.as_of, stats)
    _category(out, candidates, history, context.as_of, stats)
    _offer(out, candidates, context, n)
    out[:, COLUMN["part_lift"]] = stats.part_lift[candidates, context.part]
    _price(out, candidates, history, context.basket, stats)
    return np.nan_to_num(np.clip(out, -20.0, 20.0))


def _set(out: np.ndarray, **columns: np.ndarray | float) -> None:
    for name, values in columns.items():
        out[:, COLUMN[name]] = values


def _log_days(seconds: np.ndarray) -> np.ndarray:
    """log1p of days, about 0..1 over ten years."""
    return np.log1p(np.maximum(seconds, 0.0) / DAY_S) / _NEVER_LOG


def _recip_rank(scores: np.ndarray) -> np.ndarray:
    """1 / log2(2 + place), place 0 is the best."""
    place = np.empty(len(scores))
    place[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    return 1.0 / np.log2(2.0 + place)


def _taste(out: np.ndarray, candidates: np.ndarray, cosine: np.ndarray, h: History, stats: ItemStats, vectors: np.ndarray) -> None:
    _set(out, cosine=cosine, cosine_rank=_recip_rank(cosine))
    if not len(h.rows):
        return
    newest = h.rows[np.argsort(-h.last, kind="stable")[:TASTE_ROWS]]
    near = vectors[candidates] @ vectors[newest].T
    near[candidates[:, None] == newest[None, :]] = -1.0  # itself says nothing; see "again"
    profile = stats.text[newest].mean(axis=0)
    _set(out, taste_vectors=near.max(axis=1), taste_text=stats.text[candidates] @ profile)


def _neighbours(out: np.ndarray, candidates: np.ndarray, h: History, as_of: float, stats: ItemStats, n: int) -> None:
    if not len(h.rows):
        return
    order = np.argsort(-h.last, kind="stable")[:MAX_HISTORY]
    rows, last = h.rows[order], h.last[order]
    flat, weights = stats.neighbours[rows].ravel(), stats.weights[rows]
    recent = np.exp2(-(as_of - last) / (RECENT_HALF_LIFE_DAYS * DAY_S))
    newest = last >= last[0] - _MOMENT_S
    affinity = np.bincount(flat, weights.ravel(), n)[candidates]
    lately = np.bincount(flat, (weights * recent[:, None]).ravel(), n)[candidates]
    width = weights.shape[1]
    few = int(newest.sum())  # the newest come first
    now = np.bincount(flat[: few * width], weights[:few].ravel(), n)[candidates]
    after, follow = stats.followers[rows[:few]].ravel(), stats.follow[rows[:few]].ravel()
    follows = np.bincount(after, follow, n)[candidates] / few
    best = np.zeros(n, dtype=np.float32)
    np.maximum.at(best, after, follow)
    _set(
        out, affinity=affinity, affinity_recent=lately, affinity_last=now, affinity_rank=_recip_rank(affinity), follows_last=follows,
        follows_max=best[candidates],
    )  # fmt: skip


def _again(out: np.ndarray, candidates: np.ndarray, h: History, as_of: float, stats: ItemStats, n: int) -> None:
    if not len(h.rows):
        return
    place = np.full(n, -1, dtype=np.int64)
    place[h.rows] = np.arange(len(h.rows))
    at = place[candidates]
    mine = np.flatnonzero(at >= 0)
    if not len(mine):
        return
    p, rows = at[mine], candidates[mine]
    count, since, span = h.count[p], (as_of - h.last[p]) / DAY_S, (h.last[p] - h.first[p]) / DAY_S
    own_gap = np.where(count > 1, span / np.maximum(count - 1, 1), np.nan)
    values = {
        "redeemed": 1.0,
        "count": np.log1p(count),
        "count_share": count / h.count.sum(),
        "days_since": _log_days(as_of - h.last[p]),
        "days_since_first": _log_days(as_of - h.first[p]),
        "own_rhythm": np.nan_to_num(np.log((since + 1.0) / (own_gap + 1.0))),
        "item_rhythm": np.nan_to_num(np.log((since + 1.0) / (stats.gap_days[rows] + 1.0))),
        "in_last": h.last[p] >= h.last.max() - _MOMENT_S,
        "moment_share": count / max(h.moments, 1),
    }
    for name, value in values.items():
        out[mine, COLUMN[name]] = value


def _popularity(out: np.ndarray, candidates: np.ndarray, as_of: float, stats: ItemStats) -> None:
    week, month, quarter = stats.shares[:, candidates] / 4.0
    age, left = as_of - stats.first_seen[candidates], stats.valid_to[candidates] - as_of
    _set(
        out, share_7d=week, share_30d=month, share_90d=quarter, trend=week - quarter, repeat_share=stats.repeat_share[candidates],
        item_age=_log_days(np.where(np.isfinite(age), age, 0.0)),
        days_left=1.0 - _log_days(np.where(np.isfinite(left), left, 3650.0 * DAY_S)),
    )  # fmt: skip


def _category(out: np.ndarray, candidates: np.ndarray, h: History, as_of: float, stats: ItemStats) -> None:
    if not len(h.rows):
        _set(out, category_days_since=1.0)
        return
    size = int(stats.category.max()) + 1
    codes = stats.category[h.rows]
    count = np.bincount(codes, h.count, size)
    last = np.full(size, as_of - 3650.0 * DAY_S)
    np.maximum.at(last, codes, h.last)
    mine = stats.category[candidates]
    share, total = count[mine] / h.count.sum(), h.count.sum()
    expected = stats.category_share[candidates]
    lift = np.log((count[mine] + 2.0 * expected) / (total * expected + 2.0 * expected + 1e-9) + 1e-3)
    _set(
        out,
        category_share=share,
        category_lift=lift,
        category_days_since=_log_days(as_of - last)[mine],
        category_count=np.log1p(count[mine]),
    )


def _offer(out: np.ndarray, candidates: np.ndarray, c: Context, n: int) -> None:
    real = (c.sequence_rows >= 0) & np.isin(c.kinds, (_RECEIVED, _VIEWED, _REDEEMED))
    if not real.any():
        return
    rows, kinds, ages = c.sequence_rows[real], c.kinds[real], c.ages_days[real]
    youngest = {}
    for kind in (_RECEIVED, _VIEWED, _REDEEMED):
        age = np.full(n, np.inf)
        of_kind = kinds == kind
        np.minimum.at(age, rows[of_kind], ages[of_kind])
        youngest[kind] = age[candidates]
    received, viewed, redeemed = youngest[_RECEIVED], youngest[_VIEWED], youngest[_REDEEMED]
    times = np.bincount(rows[kinds == _RECEIVED], minlength=n)[candidates]

    def fresh(age: np.ndarray) -> np.ndarray:
        return np.where(np.isfinite(age), 1.0 - np.log1p(np.where(np.isfinite(age), age, 0.0)) / _NEVER_LOG, 0.0)

    _set(
        out, received=np.isfinite(received), days_since_received=fresh(received), viewed=np.isfinite(viewed),
        days_since_viewed=fresh(viewed), open_offer=np.isfinite(received) & (received < redeemed), times_received=np.log1p(times),
    )  # fmt: skip


def _price(out: np.ndarray, candidates: np.ndarray, h: History, basket: float, stats: ItemStats) -> None:
    if np.isfinite(basket):
        _set(out, difficulty_fit=np.nan_to_num(stats.difficulty[candidates] - basket))
    if len(h.rows):
        for name, column in (("points_fit", stats.points), ("value_fit", stats.value)):
            own = column[h.rows]
            known = np.isfinite(own)
            if known.any():
                usual = np.average(own[known], weights=h.count[known])
                _set(out, **{name: np.nan_to_num(column[candidates] - usual)})
