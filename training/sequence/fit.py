"""From a history to a calibrated model: early samples, a later slice that calibrates, and all of it for the model that is kept."""

from __future__ import annotations

import copy
import shutil
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import torch
from rich.console import Console

from contracts.errors import ArtifactError
from contracts.tensors import HORIZONS_DAYS, MONTH_COUNT, SEQUENCE
from features import weekly
from training.sequence import calibrate, data, guard, module
from training.sequence.bgnbd import BgNbd, GammaGamma
from training.sequence.data import Samples, midnight
from training.sequence.model import LIVES, Member, ModelConfig, SequenceModel, prior_of
from training.sequence.settings import SequenceSettings

SHORT_DAYS = 300
_MONTH, _AMOUNT = sum(Member.SIZES[:2]), sum(Member.SIZES[:3])  # places of the two levels among a member's logits
_SEASON = slice(weekly.STATICS.index("year_sin"), weekly.STATICS.index("half_year_cos") + 1)
_STILL = 1e6
"""As deviation of an input: whatever it is, the network sees nothing of it."""


@dataclass
class Fitted:
    """A model and what it was made of.

    Attributes:
        model: calibrated, in eval mode. train: samples of the kept model. calibration: the later slice; empty where history is short.
        now: everyone at the as-of day, without labels. slice_report: how a model without the slice did on it, see `calibrate`.
        history: the kept model's passes. season: whether a yearly wave is learned.
    """

    model: SequenceModel
    train: Samples
    calibration: Samples
    now: Samples
    slice_report: dict[str, Any]
    season: bool
    history: list[dict[str, float]] = field(default_factory=list)

    def predict(self, samples: Samples, months: int = MONTH_COUNT) -> dict[str, np.ndarray]:
        """Outputs of `contracts.tensors.SEQUENCE` by name, float32; `spend_interval` is that of the first `months` months."""
        return predict(self.model, samples, months)


@torch.inference_mode()
def predict(model: SequenceModel, samples: Samples, months: int = MONTH_COUNT) -> dict[str, np.ndarray]:
    """See `Fitted.predict`."""
    parts = []
    for begin in range(0, max(len(samples), 1), calibrate.CHUNK):
        rows = slice(begin, begin + calibrate.CHUNK)
        logits, seen = model.logits(torch.from_numpy(samples.weeks[rows]), torch.from_numpy(samples.statics[rows]))
        churn, silent_by, probability, spend, _ = model.forecast(logits)
        total = spend[:, :months].sum(-1, keepdim=True)
        interval = model.interval(total, logits[:, -2:], torch.full_like(total, float(months)))
        parts.append((churn, silent_by, probability, spend, interval, model.impact_estimates(seen, churn)))
    return {t.name: torch.cat(p).numpy() for t, p in zip(SEQUENCE.outputs, zip(*parts, strict=True), strict=True)}


def as_of_days(begin: int, end: int, settings: SequenceSettings) -> list[int]:
    """As-of days of samples whose labels end at `end`: back from 30 days before it. Empty where the history is too short."""
    step, first = settings.step_days, settings.first_days
    if end - begin < SHORT_DAYS:
        step, first = max(1, step // 2), first // 2
    return list(range(end - HORIZONS_DAYS[0], begin + first - 1, -step))[::-1]


def fit_history(
    connection: duckdb.DuckDBPyConnection,
    as_of_day: int,
    settings: SequenceSettings,
    console: Console,
    folder: Path | None = None,
    stop: threading.Event | None = None,
) -> Fitted:
    """Train on what lies before a day.

    First a model is trained on samples whose labels end `slice_days` earlier, and calibrated on the customers of that day; then one on all
    samples, which takes the calibration over. A history too short for the first is trained without calibration.

    Args:
        connection: with the warehouse's tables; what they hold from the as-of day on is not read.
        as_of_day: days since 1970-01-01, the first day that is not known.
        folder: for checkpoints, to go on with after an interruption; a temporary one when None.
        stop: set it to end at the next step.

    Raises:
        ArtifactError: too little history, or samples that know what came later (`guard`).
        Interrupted: `stop` was set.
        ConfigError: a GPU was asked for and there is none.
    """
    own = folder is None
    place = folder or Path(tempfile.mkdtemp(prefix="sequence-"))
    try:
        return _fit(connection, as_of_day, settings, console, place, stop or threading.Event())
    finally:
        if own:
            shutil.rmtree(place, ignore_errors=True)


def _fit(
    connection: duckdb.DuckDBPyConnection, as_of_day: int, settings: SequenceSettings, console: Console, folder: Path, stop: threading.Event
) -> Fitted:
    begin, last = data.span(connection)
    end = min(as_of_day, last)
    days = as_of_days(begin, end, settings)
    if not days:
        raise ArtifactError(
            f"{max(end - begin, 0)} days of history lie before {midnight(as_of_day):%Y-%m-%d}, at least "
            f"{settings.first_days // 2 + HORIZONS_DAYS[0]} are needed. Bring more in, or take a later as-of time."
        )
    season, known = end - begin >= settings.season_days, end - begin >= settings.season_input_days
    with console.status("reading histories"):
        customers = data.load_customers(connection, end)
        history = weekly.read(connection, customers, midnight(end))
        now = data.build(connection, [as_of_day], as_of_day, customers=customers, history=history)
        train = _samples(connection, days, end, settings, customers, history)
        guard.check(connection, as_of_day, train, seed=settings.seed)
    early_end = end - settings.slice_days
    early_days = as_of_days(begin, early_end, settings)
    later = (
        data.build(connection, [early_end], end, customers=customers, history=history) if early_days else train.take(np.zeros(0, np.int64))
    )
    console.print(
        f"{len(train):,} samples of {customers.num_rows:,} customers at {len(days)} as-of times; {len(later):,} in the later slice"
    )
    early, report = None, dict[str, Any]()
    if early_days:
        before = _samples(connection, early_days, early_end, settings, customers, history)
        guard.check(connection, early_end, before, most=100, seed=settings.seed)
        guard.check(connection, end, later, most=100, seed=settings.seed)
        early, report = _early(before, later, settings, (season, known), folder, console, stop)
    lean = bool(report.get("prior", settings.prior != "off"))
    fitted = new_model(train, settings, known, lean)
    passes = module.fit(fitted, train, settings, season, folder / "all", console, stop, "all samples")
    if early is not None:
        calibrate.take_over(fitted, early, now)
    return Fitted(fitted.eval(), train, later, now, report, season, passes)


def _early(
    before: Samples, later: Samples, settings: SequenceSettings, season: tuple[bool, bool], folder: Path, console: Console,
    stop: threading.Event,
) -> tuple[SequenceModel, dict[str, Any]]:  # fmt: skip
    """A model that has not seen the later slice, calibrated on it, and how it did there.

    With `prior` auto there are two, one that begins at the prior and one that does not, and the one that orders the slice's customers
    better by what they spent is taken.
    """
    found = []
    for lean in {"on": (True,), "off": (False,), "auto": (True, False)}[settings.prior]:
        model = new_model(before, settings, season[1], lean)
        what = "before the slice, " + ("from the prior" if lean else "free")
        module.fit(model, before, settings, season[0], folder / ("early" if lean else "early-free"), console, stop, what)
        report: dict[str, Any] = {"prior": lean, **calibrate.calibrate(model, later)}
        found.append((report["rank_correlation"] + report["gini"], model, report))
    _, model, report = max(found, key=lambda f: f[0])
    return model, report


def _config(settings: SequenceSettings) -> ModelConfig:
    return ModelConfig(settings.hidden, settings.width, settings.members, settings.dropout)


def _samples(
    connection: duckdb.DuckDBPyConnection,
    days: list[int],
    end: int,
    settings: SequenceSettings,
    customers: Any,
    history: weekly.DailyHistory,
) -> Samples:
    each = max(1, settings.max_samples // len(days))
    return data.build(connection, days, end, max_per_day=each, seed=settings.seed, customers=customers, history=history)


def new_model(samples: Samples, settings: SequenceSettings, season: bool, lean: bool = True) -> SequenceModel:
    """An untrained model with the constants that its samples give: moments of the inputs, and the parameters of `Lives`.

    Args:
        season: whether the time of the year is an input.
        lean: whether the heads begin at the prior (`model.prior_of`) or at the samples' means.
    """
    torch.manual_seed(settings.seed)
    model = SequenceModel(_config(settings))
    newest = samples.take(np.flatnonzero(samples.as_of_day == samples.as_of_day.max()))
    parameters = life_parameters(newest)
    if parameters is not None:
        model.lives.parameters_of.copy_(torch.tensor(parameters))
    with torch.no_grad():
        statics = torch.from_numpy(samples.statics)
        known = torch.cat([statics, model.lives(statics)], -1)
        model.static_mean.copy_(known.mean(0))
        model.static_std.copy_(known.std(0).clamp(min=1e-2))
        flat = samples.weeks.reshape(-1, samples.weeks.shape[-1])
        model.week_mean.copy_(torch.from_numpy(flat.mean(0)))
        model.week_std.copy_(torch.from_numpy(np.maximum(flat.std(0), 1e-2)))
        if not season:
            model.static_std[_SEASON] = _STILL
        for member in model.networks():
            torch.nn.init.normal_(member.heads.weight, std=0.005)
            torch.nn.init.zeros_(member.heads.bias)
            if not lean:
                torch.nn.init.zeros_(member.trust)
            typical = prior_of(known[:, -LIVES:]).mean(0)
            member.heads.bias[_MONTH] = (1.0 - member.trust[0]) * typical[0]
            member.heads.bias[_AMOUNT] = (1.0 - member.trust[1]) * typical[1]
    return model


def life_parameters(samples: Samples) -> list[float] | None:
    """r, alpha, a, b (weeks), p, q, gamma of the customers of one as-of day; None where nobody bought twice."""
    known = weekly.facts(samples.statics)
    count, first, last = (np.rint(known[n]) for n in ("purchase_days", "days_since_first_purchase", "days_since_purchase"))
    try:
        counts = BgNbd.fit(np.maximum(count - 1, 0), (first - last) / 7, (first + 1) / 7)
        amounts = GammaGamma.fit(count, known["spend_ever"] / np.maximum(count, 1))
    except ArtifactError:
        return None
    return [counts.r, counts.alpha, counts.a, counts.b, amounts.p, amounts.q, amounts.gamma]


def explain(model: SequenceModel, factors: Any, samples: Samples, count: int, seed: int) -> float:
    """Teach the quick attributions from the exact ones of some customers; in place.

    Returns:
        share of held-out customers whose largest factor towards churn is the same by both.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(samples), min(count, len(samples)), replace=False))
    weeks, statics = torch.from_numpy(samples.weeks[rows]), torch.from_numpy(samples.statics[rows])
    with torch.no_grad():
        exact = torch.cat([factors(weeks[i : i + 16], statics[i : i + 16])[5] for i in range(0, len(rows), 16)])
        logits, seen = model.logits(weeks, statics)
        churn = model.forecast(logits)[0]
        model.reference_churn.copy_(factors(weeks[:1], statics[:1])[6][0])
    held = len(rows) // 5
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.explainer.parameters(), lr=3e-3, weight_decay=1e-3)
    best, kept = float("inf"), copy.deepcopy(model.explainer.state_dict())
    for step in range(1_500):
        batch = torch.from_numpy(rng.integers(held, len(rows), min(256, len(rows) - held)))
        loss = ((model.impact_estimates(seen[batch], churn[batch]) - exact[batch]) ** 2).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 99:
            with torch.no_grad():
                error = float(((model.impact_estimates(seen[:held], churn[:held]) - exact[:held]) ** 2).sum(-1).mean())
            if error < best:
                best, kept = error, copy.deepcopy(model.explainer.state_dict())
    model.explainer.load_state_dict(kept)
    with torch.no_grad():
        return float((model.impact_estimates(seen[:held], churn[:held]).argmax(-1) == exact[:held].argmax(-1)).float().mean())
