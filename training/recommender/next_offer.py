"""Which kind of offer: for each of the eight reward types, the probability that the customer redeems one within the horizon.

The samples are active customers at moments of the training slice; inputs are what was known strictly before, labels the redemptions of
rewards of a type in the days after. A type counts only where the business had a valid reward of it at that moment, so the probability is
that of a redemption *given that the type is on offer*. An `informational` offer is never redeemed: there the label is that it was viewed.
The logits are calibrated type by type on the validation slice (Platt, 1999) and measured on the later test slice, against the base rate
that the validation slice shows.

Letters: M samples, T = 8 reward types in the order of `contracts.tables.REWARD_TYPES`, B batch, D embedding dim (64), F features (44).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from contracts.bundle import OfferType, OfferTypes
from contracts.errors import ArtifactError
from contracts.tables import REWARD_TYPES
from contracts.tensors import EMBEDDING_DIM, FEATURE_COUNT, OFFER_TYPE_COUNT
from features import asof
from training import metrics
from training.recommender.calibrate import active_customers, common_horizon, fit_logistic
from training.recommender.data import DAY_S, Catalogue, Dataset, examples_table
from training.recommender.model import Standardise, TwoTower
from training.settings import TrainSettings

USED = FEATURE_COUNT - 2
"""All features but the month (the last two, sine and cosine): within one or two years it cannot be told from a trend, and a model that
was given it carried the trend on. Without it the calibration error on a later slice fell (generated programme: worst type 0.024 to 0.013;
`online_retail_ii` 0.095 to 0.086, the rest of which is Christmas)."""
WEIGHTS, CONFIG, TYPES = "next_offer.pt", "next_offer.json", "offer_types.json"
TRAIN_MOMENTS, MOMENTS = 8, 3
WARMUP = 0.25
"""Share of the training slice before its first moment: earlier, hardly anybody has a history."""
HELD_OUT = 0.1
"""Share of the customers that training stops by."""
EPOCHS, PATIENCE, BATCH, RATE, DECAY = 60, 6, 512, 2e-3, 0.01
LEAST_POSITIVES = 10
"""With fewer in the validation slice, a type is given its base rate: a slope fitted on them would be chance."""
RESAMPLES = 200
VIEWED = "informational"


@dataclass(frozen=True)
class OfferConfig:
    """Sizes of the model; stored beside its weights as next_offer.json."""

    width: int = 64
    dropout: float = 0.1

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class OfferModel(nn.Module):
    """A customer's vector and features to a logit for each reward type."""

    def __init__(self, config: OfferConfig) -> None:
        super().__init__()
        self.config = config
        w = config.width
        self.standardise = Standardise(USED)
        self.hidden = nn.Sequential(
            nn.Linear(EMBEDDING_DIM + USED, w), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(w, w), nn.GELU(),
            nn.Dropout(config.dropout),
        )  # fmt: skip
        self.head = nn.Linear(w, OFFER_TYPE_COUNT)

    def forward(self, user_vector: Tensor, features: Tensor) -> Tensor:
        """Logits, float32 (B, T).

        Args:
            user_vector: float32 (B, D), length 1. features: float32 (B, F).
        """
        logits: Tensor = self.head(self.hidden(torch.cat([user_vector, self.standardise(features[:, :USED])], dim=1)))
        return logits


@dataclass(frozen=True)
class Sample:
    """Customers at moments, and which offer types they answered to afterwards.

    Attributes:
        vector: float32 (M, D), from the user tower. features: float32 (M, F).
        available: bool (M, T), whether the business had a valid reward of the type. label: bool (M, T), False where not available.
        business: int64 (M,), index in `Catalogue.businesses`. customer: int64 (M,), the same for the same customer.
    """

    vector: np.ndarray
    features: np.ndarray
    available: np.ndarray
    label: np.ndarray
    business: np.ndarray
    customer: np.ndarray

    def __len__(self) -> int:
        return len(self.customer)


@dataclass(frozen=True)
class NextOffer:
    """A trained model, its calibration, and what was measured (JSON-ready)."""

    model: OfferModel
    types: OfferTypes
    report: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write next_offer.pt, next_offer.json and offer_types.json."""
        save_offer_model(self.model, folder)
        (folder / TYPES).write_text(self.types.model_dump_json(), encoding="utf-8")


def fit_next_offer(
    connection: duckdb.DuckDBPyConnection, model: TwoTower, dataset: Dataset, settings: TrainSettings, console: Console
) -> NextOffer:
    """Train on the training slice, calibrate on the validation slice, measure on the test slice. A few seconds to a minute on one core.

    Args:
        connection: with the warehouse's tables. model: the trained towers. dataset: cut by time.

    Raises:
        ArtifactError: a slice has no active customer, so there is nothing to train or to calibrate on.
    """
    cuts = dataset.cuts
    begins, ends = (cuts.begin, cuts.validation_from, cuts.test_from), (cuts.validation_from, cuts.test_from, cuts.end)
    horizon = common_horizon(list(np.concatenate(begins)), list(np.concatenate(ends)), settings.horizon_days)
    samples = []
    with console.status("next offer: reading what customers answered to") as status:
        for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            first = begin + WARMUP * np.maximum(end - begin - horizon * DAY_S, 0.0) if number == 0 else begin
            moments = TRAIN_MOMENTS if number == 0 else MOMENTS
            samples.append(draw(connection, model, dataset, first, end, moments, horizon, settings))
            if not len(samples[-1]):
                raise ArtifactError(
                    f"0 active customers in the {('training', 'validation', 'test')[number]} slice, the next offer needs some. "
                    "Bring more history in: regulars data import"
                )
        status.update("next offer: training")
        trained = train(samples[0], settings)
    types, report = _calibrate(trained, samples[1], samples[2], horizon, dataset.catalogue.businesses, settings.seed)
    report |= {"trained_on": len(samples[0]), "asked_horizon_days": settings.horizon_days}
    auc = f"{report['mean_auc']:.3f}" if report["mean_auc"] is not None else "none"
    console.print(f"next offer: {len(samples[0]):,} samples, mean AUC {auc}, worst calibration error of a type {report['worst_ece']:.4f}")
    return NextOffer(trained, types, report)


def draw(
    connection: duckdb.DuckDBPyConnection, model: TwoTower, dataset: Dataset, begin: np.ndarray, end: np.ndarray, moments: int,
    horizon_days: float, settings: TrainSettings,
) -> Sample:  # fmt: skip
    """Active customers at moments whose horizon ends before `end`, each at an hour of its own.

    Args:
        begin, end: float64 (businesses,), epoch seconds; nothing before `begin` is a moment, nothing from `end` on is looked at.
        moments: per business; at each, `settings.calibration_customers` customers at most.
    """
    rng = np.random.default_rng([settings.seed, int(begin.min())])
    people, when, business = [], [], []
    for number, name in enumerate(dataset.catalogue.businesses):
        room = max(0.0, float(end[number] - begin[number]) - horizon_days * DAY_S)
        day = min(DAY_S, room / (2 * moments))
        for moment in np.linspace(float(begin[number]), float(begin[number]) + room - day, moments):
            active = active_customers(connection, name, float(moment))
            kept = np.sort(rng.choice(active.num_rows, min(active.num_rows, settings.calibration_customers), replace=False))
            people.append(active.take(pa.array(kept)))
            when.append(moment + rng.uniform(0.0, day, len(kept)))
            business.append(np.full(len(kept), number))
    return _sample(connection, model, dataset, pa.concat_tables(people), np.concatenate(when), np.concatenate(business), horizon_days)


def _sample(
    connection: duckdb.DuckDBPyConnection, model: TwoTower, dataset: Dataset, people: pa.Table, as_of: np.ndarray, business: np.ndarray,
    horizon_days: float,
) -> Sample:  # fmt: skip
    examples = examples_table(people, np.arange(people.num_rows), as_of)
    rows = asof.rows(connection, examples, dataset.vocabulary)
    keys = list(zip(people["business_id"].to_pylist(), people["customer_id"].to_pylist(), strict=True))
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    available = availability(dataset.catalogue, business, as_of)
    label = answered(connection, dataset.catalogue, people, as_of, horizon_days) & available
    return Sample(_vectors(model, rows), rows.features, available, label, business, np.array([number[k] for k in keys], dtype=np.int64))


def _vectors(model: TwoTower, rows: asof.AsofRows, batch_size: int = 512) -> np.ndarray:
    """float32 (M, D)."""
    model.eval()
    out = [np.zeros((0, EMBEDDING_DIM), np.float32)]
    with torch.inference_mode():
        for begin in range(0, len(rows), batch_size):
            batch = rows.batch(slice(begin, begin + batch_size))
            out.append(model.user(*(torch.from_numpy(batch[n]) for n in ("sequence_ids", "sequence_values", "features"))).numpy())
    return np.concatenate(out)


def availability(catalogue: Catalogue, business: np.ndarray, as_of: np.ndarray) -> np.ndarray:
    """bool (M, T): whether the business had a reward of the type that was valid at the moment."""
    kinds = np.array([REWARD_TYPES.index(t) for t in catalogue.table["reward_type"].to_pylist()])
    out = np.zeros((len(as_of), OFFER_TYPE_COUNT), dtype=bool)
    for b in np.unique(business):
        mine = business == b
        for kind in range(OFFER_TYPE_COUNT):
            rewards = (catalogue.business == b) & (kinds == kind)
            started = np.searchsorted(np.sort(catalogue.valid_from[rewards]), as_of[mine], side="right")
            ended = np.searchsorted(np.sort(catalogue.valid_to[rewards]), as_of[mine], side="left")
            out[mine, kind] = started > ended
    return out


def answered(
    connection: duckdb.DuckDBPyConnection, catalogue: Catalogue, people: pa.Table, as_of: np.ndarray, horizon_days: float
) -> np.ndarray:
    """bool (M, T): whether the customer redeemed (an `informational` one: viewed) a reward of the type in [as_of, as_of + horizon)."""
    kinds = pa.array([REWARD_TYPES.index(t) for t in catalogue.table["reward_type"].to_pylist()], pa.int64())
    asked = people.select(["business_id", "customer_id"]).append_column("sample", pa.array(np.arange(people.num_rows)))
    asked = asked.append_column("since", pa.array(as_of)).append_column("until", pa.array(as_of + horizon_days * DAY_S))
    connection.register("offer_rewards", catalogue.table.select(["business_id", "reward_id"]).append_column("kind", kinds))
    connection.register("offer_samples", asked)
    try:
        found = connection.sql(
            "SELECT DISTINCT s.sample, r.kind FROM events e "
            "JOIN offer_rewards r ON r.business_id = e.business_id AND r.reward_id = e.reward_id "
            "JOIN offer_samples s ON s.business_id = e.business_id AND s.customer_id = e.customer_id "
            "WHERE e.event_type = CASE WHEN r.kind = $viewed THEN 'offer_viewed' ELSE 'redemption' END "
            "AND epoch_us(e.occurred_at) / 1e6 >= s.since AND epoch_us(e.occurred_at) / 1e6 < s.until",
            params={"viewed": REWARD_TYPES.index(VIEWED)},
        ).to_arrow_table()
    finally:
        connection.unregister("offer_samples")
        connection.unregister("offer_rewards")
    out = np.zeros((people.num_rows, OFFER_TYPE_COUNT), dtype=bool)
    out[found["sample"].to_numpy(), found["kind"].to_numpy()] = True
    return out


def train(sample: Sample, settings: TrainSettings) -> OfferModel:
    """Fit the model; stops when customers that were held out are predicted no better. Same seed, same weights on one machine."""
    rng = np.random.default_rng(settings.seed)
    held = (rng.random(int(sample.customer.max()) + 1) < HELD_OUT)[sample.customer]
    if held.all() or not held.any():
        held = np.arange(len(sample)) % 10 == 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = OfferModel(OfferConfig())
        features = torch.from_numpy(sample.features[~held, :USED])
        model.standardise.set(features.mean(dim=0), features.std(dim=0, correction=0))
        _set_base_rates(model, sample)
        best, state, bad = float("inf"), model.state_dict(), 0
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
        for _ in range(EPOCHS):
            _epoch(model, optimizer, sample, rng.permutation(np.flatnonzero(~held)))
            loss = _loss(model.eval(), sample, np.flatnonzero(held)).item()
            if loss < best:
                best, bad, state = loss, 0, {k: v.clone() for k, v in model.state_dict().items()}
            elif (bad := bad + 1) >= PATIENCE:
                break
    model.load_state_dict(state)
    return model.eval()


def _set_base_rates(model: OfferModel, sample: Sample) -> None:
    """Begin at the rate of each type, so that the first steps are not spent on it."""
    rate = (sample.label.sum(axis=0) + 0.5) / (sample.available.sum(axis=0) + 1.0)
    with torch.no_grad():
        model.head.bias.copy_(torch.from_numpy(np.log(rate / (1.0 - rate))))


def _epoch(model: OfferModel, optimizer: torch.optim.Optimizer, sample: Sample, order: np.ndarray) -> None:
    model.train()
    for begin in range(0, len(order), BATCH):
        optimizer.zero_grad()
        _loss(model, sample, order[begin : begin + BATCH]).backward()
        optimizer.step()


def _loss(model: OfferModel, sample: Sample, index: np.ndarray) -> Tensor:
    """Mean binary cross-entropy over the types that were available."""
    with torch.set_grad_enabled(model.training):
        logits = model(torch.from_numpy(sample.vector[index]), torch.from_numpy(sample.features[index]))
        mask = torch.from_numpy(sample.available[index].astype(np.float32))
        each = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(sample.label[index].astype(np.float32)), reduction="none")
        return (each * mask).sum() / mask.sum().clamp(min=1.0)


def logits_of(model: OfferModel, sample: Sample) -> np.ndarray:
    """float32 (M, T)."""
    with torch.inference_mode():
        return np.asarray(model(torch.from_numpy(sample.vector), torch.from_numpy(sample.features)).numpy())


def _calibrate(
    model: OfferModel, validation: Sample, test: Sample, horizon_days: float, businesses: Sequence[str], seed: int
) -> tuple[OfferTypes, dict[str, Any]]:
    """Platt per type on the validation slice, and the measurement on the test slice."""
    fitted, tested = logits_of(model, validation), logits_of(model, test)
    types: dict[str, OfferType] = {}
    measured: dict[str, Any] = {}
    pooled: list[tuple[np.ndarray, np.ndarray]] = []
    for kind, name in enumerate(REWARD_TYPES):
        on, seen = validation.available[:, kind], test.available[:, kind]
        slope, intercept = platt(fitted[on, kind].astype(np.float64), validation.label[on, kind])
        probability = 1.0 / (1.0 + np.exp(-np.clip(slope * tested[seen, kind].astype(np.float64) + intercept, -60, 60)))
        label = test.label[seen, kind].astype(np.float64)
        base = (validation.label[on, kind].sum() + 0.5) / (on.sum() + 1.0)
        error = metrics.ece(probability, label)
        types[name] = OfferType(slope=slope, intercept=intercept, ece=error, share=float(label.mean()) if len(label) else 0.0)
        if len(label):
            measured[name] = _measure(probability, label, float(base), test.customer[seen], seed) | {
                "ece": error,
                "calibrated_on": int(on.sum()),
            }
            pooled.append((probability, label))
    everything = tuple(np.concatenate(p) for p in zip(*pooled, strict=True)) if pooled else (np.zeros(0), np.zeros(0))
    areas = [m["auc"]["value"] for m in measured.values() if m["auc"] is not None]
    report = {
        "horizon_days": round(horizon_days, 3), "tested_on": len(test), "types": measured, "ece": metrics.ece(*everything),
        "worst_ece": max((m["ece"] for m in measured.values()), default=0.0),
        "mean_auc": float(np.mean(areas)) if areas else None,
    }  # fmt: skip
    return OfferTypes(types=types, horizon_days=max(1, round(horizon_days)), shares=_shares(validation, test, businesses)), report


def platt(logit: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Slope, 0 or more, and intercept of a logistic regression of the label on the logit; the base rate alone where labels are few.

    Args:
        logit: float64 (M,). label: bool (M,).
    """
    positives = int(label.sum())
    if min(positives, len(label) - positives) >= LEAST_POSITIVES:
        slope, intercept = (float(v) for v in fit_logistic(logit[:, None], label.astype(np.float64)))
        if slope > 0:
            return slope, intercept
    rate = (positives + 0.5) / (len(label) + 1.0)
    return 0.0, float(np.log(rate / (1.0 - rate)))


def _shares(validation: Sample, test: Sample, businesses: Sequence[str]) -> dict[str, dict[str, float]]:
    """Share of each business's active customers who answered to each type that it had, over both later slices."""
    out: dict[str, dict[str, float]] = {}
    both = [(s.business, s.available, s.label) for s in (validation, test)]
    business, available, label = (np.concatenate(parts) for parts in zip(*both, strict=True))
    for number, name in enumerate(businesses):
        mine = business == number
        had = available[mine].sum(axis=0)
        out[name] = {t: float(label[mine, k].sum() / had[k]) for k, t in enumerate(REWARD_TYPES) if had[k]}
    return out


def _measure(probability: np.ndarray, label: np.ndarray, base: float, customer: np.ndarray, seed: int) -> dict[str, Any]:
    """Rate, AUC and log loss against the base rate, with intervals over customers."""
    mine, theirs = _log_loss(probability, label), _log_loss(np.full(len(label), base), label)
    values = np.column_stack([mine, theirs, theirs - mine])
    draws = metrics.bootstrap_means(values, customer, RESAMPLES, seed)
    names = ("log_loss", "base_log_loss", "gain")
    found: dict[str, Any] = {n: metrics.interval(values[:, i].mean(), draws[:, i]).as_dict() for i, n in enumerate(names)}
    area = auc(probability, label)
    found["auc"] = metrics.interval(area, _auc_draws(probability, label, customer, seed)).as_dict() if area is not None else None
    return found | {"tested_on": len(label), "rate": float(label.mean()), "stated": float(probability.mean())}


def _log_loss(probability: np.ndarray, label: np.ndarray) -> np.ndarray:
    p = np.clip(probability, 1e-9, 1 - 1e-9)
    return np.asarray(-(label * np.log(p) + (1 - label) * np.log(1 - p)))


def auc(score: np.ndarray, label: np.ndarray, weight: np.ndarray | None = None) -> float | None:
    """Chance that a positive scores above a negative, ties counting half; None without both.

    Args:
        score, label: float (M,). weight: how often each counts.
    """
    w = np.ones(len(label)) if weight is None else weight
    _, place = np.unique(score, return_inverse=True)
    positive, negative = (np.bincount(place, weights=w * part) for part in (label, 1.0 - label))
    pairs = positive.sum() * negative.sum()
    if not pairs:
        return None
    return float((positive * (np.cumsum(negative) - 0.5 * negative)).sum() / pairs)


def _auc_draws(score: np.ndarray, label: np.ndarray, customer: np.ndarray, seed: int) -> np.ndarray:
    """AUC over resampled customers; a draw without both labels counts as the value of chance."""
    _, group = np.unique(customer, return_inverse=True)
    n = int(group.max()) + 1
    rng = np.random.default_rng(seed)
    found = (auc(score, label, np.bincount(rng.integers(0, n, n), minlength=n)[group].astype(np.float64)) for _ in range(RESAMPLES))
    return np.array([0.5 if v is None else v for v in found])


def save_offer_model(model: OfferModel, folder: Path) -> None:
    """Write next_offer.pt and next_offer.json."""
    torch.save({k: v.detach().cpu().clone() for k, v in model.state_dict().items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(model.config.as_dict()), encoding="utf-8")


def load_offer_model(artifacts: Path) -> OfferModel:
    """The trained model of a run's artifacts, in eval mode.

    Raises:
        ArtifactError: the files are missing or do not match each other.
    """
    try:
        model = OfferModel(OfferConfig(**json.loads((artifacts / CONFIG).read_text(encoding="utf-8"))))
        model.load_state_dict(torch.load(artifacts / WEIGHTS, weights_only=True, map_location="cpu"))
    except Exception as exc:  # a damaged file raises whatever its bytes lead to: an unpickling error, EOFError, KeyError, ...
        why = str(exc).partition(". ")[0]  # torch goes on with advice to load it unsafely
        raise ArtifactError(f"cannot read the next-offer model in {artifacts}: {why}. Train again: regulars train recommender") from exc
    return model.eval()
