"""Which customers are alike: segments found in behaviour, named by what sets them apart, with ids that survive a refit.

k-means on scaled behaviour. For each number of segments allowed the customers are drawn anew (bootstrap), segments found from scratch, and
everyone assigned by both; the adjusted Rand index between the two says how much of the division is more than an accident. The number that
agrees most is taken, of nearly equal ones the largest; `stable` says whether that is as much as was asked for.

Fitting needs scikit-learn; assigning is NumPy only, for the serving path. Letters: N customers, F behaviours, K segments.

Source: k-means++, Arthur and Vassilvitskii (2007); stability, Hennig (2007); adjusted Rand index, Hubert and Arabie (1985); matching, Kuhn
(1955).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import ArtifactError, ContractError, ShapeError
from features.weekly import facts

FORMAT = 1
_REACH = 3.0
"""Scaled behaviours are cut here, so that a few wholesalers are no segment of their own."""
_AS_GOOD = 0.005
"""Stabilities that differ by less are equal."""


@dataclass(frozen=True)
class Behaviour:
    """One behaviour that segments differ in: the static feature it is made of, and words for little and much of it."""

    name: str
    fact: str
    little: str
    much: str
    unit: str


BEHAVIOURS = (
    Behaviour("recency", "days_since_purchase", "Recent", "Lapsed", "days since the last purchase"),
    Behaviour("frequency", "purchases_365d", "Rare", "Frequent", "purchases in a year"),
    Behaviour("basket", "basket", "Small-basket", "Big-basket", "spent per purchase"),
    Behaviour("discounts", "discount_share", "Full-price", "Bargain-hunting", "share of prices discounted"),
    Behaviour("engagement", "engagement_90d", "Quiet", "Engaged", "app and mail acts in 90 days"),
    Behaviour("redemptions", "redemptions_365d", "Saving-up", "Reward-loving", "rewards redeemed in a year"),
    Behaviour("tenure", "tenure", "New", "Long-standing", "days since joining"),
    Behaviour("trend", "quickening", "Slowing", "Quickening", "purchase days now over those a quarter ago"),
)


@dataclass(frozen=True)
class SegmentSettings:
    """How segments are found.

    Attributes:
        fewest, most: numbers of segments tried.
        stable: adjusted Rand index under resampling from which the segments count as stable.
        resamples: bootstrap samples for each number.
        starts: k-means runs with other first centres, of which the best is kept.
        sample: customers, drawn at random, that segments are found on; everyone is assigned.
        apart: an earlier segment keeps its id when its centre is nearer than this, in scaled units.
        seed: of samples and starts.
    """

    fewest: int = 10
    most: int = 20
    stable: float = 0.8
    resamples: int = 5
    starts: int = 10
    sample: int = 20_000
    apart: float = 1.5
    seed: int = 7


@dataclass(frozen=True)
class Segment:
    """One segment.

    Attributes:
        id: as `seg-03`; the same across refits while its centre stays near.
        name: from the two behaviours that distinguish it most, unique.
        description: a sentence with typical values.
        size: customers of the fit.
        top_features: behaviours by how far the centre is from everyone's mean, with that distance in standard deviations.
    """

    id: str
    name: str
    description: str
    size: int
    top_features: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Assignment:
    """Whose segment is which.

    Attributes:
        primary: int64 (N,), position in `Segmentation.segments`.
        confidence: float64 (N,), probability of the primary one under round segments of equal spread.
        others: int64 (N, M), the next best, best first; `other_confidence` (N, M) theirs.
    """

    primary: np.ndarray
    confidence: np.ndarray
    others: np.ndarray
    other_confidence: np.ndarray


@dataclass(frozen=True)
class Segmentation:
    """Segments as found, able to assign anyone.

    Attributes:
        centres: float64 (K, F), scaled.
        mean, scale: float64 (F,), of the behaviours before scaling.
        spread: mean squared distance to the own centre, per behaviour.
        shares: float64 (K,), share of customers.
        stability: adjusted Rand index under resampling of each number tried, and whether the one taken is stable.
        next_id: number of the next new id.
    """

    segments: tuple[Segment, ...]
    centres: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    spread: float
    shares: np.ndarray
    stability: dict[int, float]
    stable: bool
    next_id: int

    def assign(self, behaviour: np.ndarray, choices: int = 2) -> Assignment:
        """The segment of each customer, with confidence and second choices.

        Args:
            behaviour: float (N, F), from `behaviour_of`.
            choices: further segments named, at most K - 1.

        Raises:
            ShapeError: other columns than the segments were found on.
            ContractError: a value that is not finite.
        """
        x = _checked(behaviour, len(self.mean))
        far = _distances(_scaled(x, self.mean, self.scale), self.centres)
        fit = np.log(np.maximum(self.shares, 1e-12)) - far / (2 * max(self.spread, 1e-9))
        fit -= fit.max(axis=1, keepdims=True)
        chance = np.exp(fit)
        chance /= chance.sum(axis=1, keepdims=True)
        # The nearest centre, as the segments were found; the chance only orders the others and says how sure that is.
        primary = far.argmin(axis=1)
        rows = np.arange(len(x))
        rest = chance.copy()
        rest[rows, primary] = -1.0
        others = np.argsort(-rest, axis=1, kind="stable")[:, : min(choices, len(self.centres) - 1)]
        return Assignment(primary, chance[rows, primary], others, np.take_along_axis(chance, others, axis=1))

    def save(self, path: Path) -> None:
        """Write one JSON file, atomically."""
        body = {
            "format": FORMAT, "next_id": self.next_id, "stable": self.stable, "spread": self.spread, "shares": self.shares.tolist(),
            "stability": {str(k): v for k, v in self.stability.items()}, "centres": self.centres.tolist(), "mean": self.mean.tolist(),
            "scale": self.scale.tolist(), "segments": [vars(s) for s in self.segments],
        }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps(body), encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Segmentation:
        """What `save` wrote.

        Raises:
            ArtifactError: the file is missing, damaged, or of another format.
        """
        again = "Find the segments again."
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
            if body["format"] != FORMAT:
                raise ArtifactError(f"segments {path} have format {body['format']}, this release reads {FORMAT}. {again}")
            found = cls(
                segments=tuple(_segment(s) for s in body["segments"]), centres=np.asarray(body["centres"], dtype=np.float64),
                mean=np.asarray(body["mean"]), scale=np.asarray(body["scale"]), spread=body["spread"], shares=np.asarray(body["shares"]),
                stability={int(k): v for k, v in body["stability"].items()}, stable=body["stable"], next_id=body["next_id"],
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise ArtifactError(f"cannot read segments {path}: {exc}. {again}") from exc
        if found.centres.shape != (len(found.segments), len(found.mean)):
            raise ArtifactError(f"segments {path} hold {len(found.segments)} names and centres of shape {found.centres.shape}. {again}")
        return found


def behaviour_of(statics: np.ndarray) -> np.ndarray:
    """Behaviours of customers from the weekly features, float64 (N, F): logarithms of counts, money and days.

    Args:
        statics: float32 (N, 40), see `features.weekly.tensors`.
    """
    known = facts(statics)
    columns = []
    for b in BEHAVIOURS:
        value = known[b.fact]
        if b.name == "discounts":
            columns.append(value)
        elif b.name == "trend":
            columns.append(np.log(np.maximum(value, 1e-6)))
        else:
            # Away for more than a year, or never there: ten years would push everybody else together.
            columns.append(np.log1p(np.maximum(np.minimum(value, 365.0) if b.name == "recency" else value, 0.0)))
    return np.stack(columns, axis=1)


def discover(behaviour: np.ndarray, previous: Segmentation | None = None, settings: SegmentSettings | None = None) -> Segmentation:
    """Find the segments.

    Args:
        behaviour: float (N, F), finite, in the order of `BEHAVIOURS`.
        previous: segments found earlier; those that are still there keep their ids.

    Raises:
        ShapeError: not N rows of the behaviours.
        ContractError: values that are not finite, or too few customers for the number of segments.
    """
    settings = settings or SegmentSettings()
    x = _checked(behaviour, len(BEHAVIOURS))
    if not 2 <= settings.fewest <= settings.most or len(x) < 10 * settings.most:
        raise ContractError(
            f"{len(x)} customers for {settings.fewest} to {settings.most} segments; at least 10 each, and 2 segments, "
            "are needed. Ask for fewer."
        )
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    z = _scaled(x, mean, scale)
    rng = np.random.default_rng(settings.seed)
    sample = z if len(z) <= settings.sample else z[rng.choice(len(z), settings.sample, replace=False)]
    found: dict[int, np.ndarray] = {}
    stability: dict[int, float] = {}
    for k in range(settings.fewest, settings.most + 1):
        found[k] = _centres(sample, k, settings.starts, settings.seed)
        stability[k] = stability_of(sample, found[k], settings)
    best = max(stability.values())
    chosen = max(k for k, value in stability.items() if value >= best - _AS_GOOD)
    centres = found[chosen]
    far = _distances(z, centres)
    primary = far.argmin(axis=1)
    sizes = np.bincount(primary, minlength=chosen)
    ids, next_id = _ids(centres, mean, scale, previous, settings.apart)
    order = np.argsort(ids)
    segments = _described(centres[order], sizes[order], [ids[i] for i in order], x, _ranked(primary, order))
    return Segmentation(
        segments=segments, centres=centres[order], mean=mean, scale=scale, spread=float(far.min(axis=1).mean() / z.shape[1]),
        shares=sizes[order] / len(z), stability=stability, stable=stability[chosen] >= settings.stable, next_id=next_id,
    )  # fmt: skip


def stability_of(z: np.ndarray, centres: np.ndarray, settings: SegmentSettings) -> float:
    """Mean adjusted Rand index between the segments of all and those found on bootstrap samples, from scratch with other starts."""
    from sklearn.metrics import adjusted_rand_score

    own = _distances(z, centres).argmin(axis=1)
    agreements = []
    for b in range(settings.resamples):
        rng = np.random.default_rng([settings.seed, len(centres), b])
        other = _centres(z[rng.integers(0, len(z), len(z))], len(centres), settings.starts, settings.seed + 1000 + b)
        agreements.append(adjusted_rand_score(own, _distances(z, other).argmin(axis=1)))
    return round(float(np.mean(agreements)), 4)


def migration(before: np.ndarray, after: np.ndarray, segments: int) -> np.ndarray:
    """How many customers went from which segment to which, int64 (K, K), rows the earlier one.

    Args:
        before, after: int (N,), `Assignment.primary` of the same customers at two times.

    Raises:
        ShapeError: not the same customers.
    """
    if before.shape != after.shape:
        raise ShapeError(f"{before.shape} customers before, {after.shape} after; must be the same ones. Give both in one order.")
    return np.bincount(before * segments + after, minlength=segments * segments).reshape(segments, segments)


def _centres(z: np.ndarray, k: int, starts: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    return np.asarray(KMeans(k, n_init=starts, random_state=seed, algorithm="lloyd").fit(z).cluster_centers_, dtype=np.float64)


def _ids(centres: np.ndarray, mean: np.ndarray, scale: np.ndarray, previous: Segmentation | None, apart: float) -> tuple[list[str], int]:
    """An id for each centre: the earlier segment's that it is matched with, where that is near; else a new one."""
    if previous is None:
        return [f"seg-{i + 1:02d}" for i in range(len(centres))], len(centres) + 1
    from scipy.optimize import linear_sum_assignment

    moved = (centres * scale + mean - previous.mean) / previous.scale
    far = np.sqrt(_distances(moved, previous.centres))
    ids, used = [""] * len(centres), previous.next_id
    for new, old in zip(*linear_sum_assignment(np.minimum(far, 10 * apart)), strict=True):
        if far[new, old] < apart:
            ids[new] = previous.segments[old].id
    for i, known in enumerate(ids):
        if not known:
            ids[i] = f"seg-{used:02d}"
            used += 1
    return ids, used


def _described(centres: np.ndarray, sizes: np.ndarray, ids: list[str], x: np.ndarray, primary: np.ndarray) -> tuple[Segment, ...]:
    """Names and sentences; a name that is taken gets a further word, at last a number."""
    taken: set[str] = set()
    found = []
    for i, centre in enumerate(centres):
        order = np.argsort(-np.abs(centre), kind="stable")
        words = [BEHAVIOURS[f].much if centre[f] > 0 else BEHAVIOURS[f].little for f in order]
        names = [_phrase(words[:n]) for n in range(2, len(words) + 1)]
        name = next((n for n in names if n not in taken), f"{names[0]} {ids[i].removeprefix('seg-')}")
        taken.add(name)
        typical = np.median(x[primary == i], axis=0) if sizes[i] else x.mean(axis=0)
        parts = [f"{_natural(BEHAVIOURS[f], typical[f])} {BEHAVIOURS[f].unit}" for f in order[:3]]
        top = tuple((BEHAVIOURS[f].name, round(float(centre[f]), 2)) for f in order[:4])
        found.append(Segment(ids[i], name, f"Typically {parts[0]}, {parts[1]} and {parts[2]}.", int(sizes[i]), top))
    return tuple(found)


def _phrase(words: list[str]) -> str:
    return f"{words[0]}, {', '.join(w[0].lower() + w[1:] for w in words[1:])}"


def _natural(behaviour: Behaviour, value: float) -> str:
    if behaviour.name == "discounts":
        return f"{value:.0%}"
    number = float(np.exp(value)) if behaviour.name == "trend" else float(np.expm1(value))
    return f"{number:,.1f}" if behaviour.name in ("trend", "basket") else f"{number:,.0f}"


def _ranked(primary: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Positions before ordering to positions after it."""
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return place[primary]


def _scaled(x: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.clip((x - mean) / scale, -_REACH, _REACH)


def _distances(z: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Squared distances, float64 (N, K)."""
    return np.maximum((z**2).sum(axis=1)[:, None] - 2 * z @ centres.T + (centres**2).sum(axis=1)[None], 0.0)


def _checked(behaviour: np.ndarray, features: int) -> np.ndarray:
    if behaviour.ndim != 2 or behaviour.shape[1] != features:
        raise ShapeError(f"behaviour has shape {behaviour.shape}, must be (customers, {features}). Make it with behaviour_of.")
    x = np.asarray(behaviour, dtype=np.float64)
    if not np.isfinite(x).all():
        raise ContractError("behaviour must be finite. Leave out customers of whom nothing is known.")
    return x


def _segment(body: dict[str, Any]) -> Segment:
    return Segment(**{**body, "top_features": tuple((name, value) for name, value in body["top_features"])})
