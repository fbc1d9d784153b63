"""Training the glomerulus finder.

The loss is binary cross-entropy and Dice (Milletari et al., V-Net, 3DV 2016) on the glomerulus map and
binary cross-entropy on the distance map. The weights that are kept are a moving average over steps, of
the step with the lowest validation loss.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

import glomflow
from glomflow.config_finder import Finder
from glomflow.errors import GlomflowError
from glomflow.files import write_json
from glomflow.models.encoders import preprocess
from glomflow.models.trained_weights import save_weights
from glomflow.models.unet import FinderNet, build_finder_net
from glomflow.tables import Column, Schema, write_table
from glomflow.training.checkpoints import (
    Checkpoint,
    Observer,
    Stateful,
    restore,
    training_digest,
    training_state,
)
from glomflow.training.features import resolve_device
from glomflow.training.finder_data import PatchSource, PreparedField, prepare_field
from glomflow.training.finder_types import Bytes, FinderField, FinderFiles
from glomflow.training.optimisation import autocast, grad_scaler, move_average
from glomflow.training.seeds import deterministic, seeded_torch

FINDER_HISTORY: Schema = {
    "step": Column("int64", "steps done"),
    "learning_rate": Column("float64", "learning rate of the decoder at the last step"),
    "train_loss": Column("float64", "mean loss of the steps since the row before"),
    "validation_loss": Column("float64", "mean loss on the validation patches; missing without any"),
    "validation_dice": Column("float64", "Dice of the glomerulus map on the validation patches"),
}

_WARM_UP = 0.05
_LAST_RATE = 0.01
_LONGEST_MEMORY = 0.99
_TIMED = 3
_SPARE = 0.95
"""Share of the time that is planned with; the rest goes to validation and to writing."""


@dataclass(frozen=True, eq=False)
class _Task:
    """What is trained and how.

    ``average`` is the moving average of ``net``; ``held_out`` are validation patches with their
    targets, or None.
    """

    net: FinderNet
    average: FinderNet
    patches: PatchSource
    held_out: tuple[Bytes, Bytes] | None
    settings: Finder
    device: torch.device
    pool: Executor


@dataclass
class _Progress:
    """Where a training stands; ``planned`` is 0 until the number of steps is settled."""

    step: int = 0
    planned: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    best_state: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def train_finder(
    training: Sequence[FinderField],
    validation: Sequence[FinderField],
    settings: Finder,
    files: FinderFiles,
    *,
    seed: int,
    device: str = "auto",
    threads: int = 1,
    offline: bool = True,
    checkpoint_interval: float = 30.0,
    observer: Observer | None = None,
) -> None:
    """Trains a finder on annotated fields and writes its weights.

    Args:
        training: Fields to learn from.
        validation: Fields to choose the best step on; without any, the last step is taken.
        settings: The section ``imaging.finder``.
        files: Where to write; the checkpoint is removed at the end.
        seed: Seed of the decoder's first weights and of all draws.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads.
        offline: Never reach for the internet.
        checkpoint_interval: Seconds between checkpoints, taken at looks at the validation patches.
        observer: Called with the number of steps done after each of these.

    Raises:
        GlomflowError: No training field shows a glomerulus, the encoder cannot be built or takes
            another size of patches, or the loss is not finite.
        ImageError: A field cannot be read.
    """
    files.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    saved = Checkpoint(
        files.checkpoint, _digest(training, validation, settings, seed), interval=checkpoint_interval
    )
    with deterministic(threads), ThreadPoolExecutor(threads) as pool:
        scratch = files.checkpoint.parent
        prepared = [
            [prepare_field(each, settings.um_per_px, scratch) for each in fields]
            for fields in (training, validation)
        ]
        task = _prepare(prepared[0], prepared[1], settings, seed, resolve_device(device), offline, pool)
        progress = _fit(task, saved, observer)
    _write(progress, training, validation, settings, seed, files)
    saved.remove()


def _prepare(
    training: list[PreparedField],
    validation: list[PreparedField],
    settings: Finder,
    seed: int,
    device: torch.device,
    offline: bool,
    pool: Executor,
) -> _Task:
    patches = PatchSource(training, settings.training, seed)
    held_out = None
    if any(len(each.centres) for each in validation):
        source = PatchSource(validation, settings.training, seed)
        count = settings.training.validation_patches
        held_out = source.batch("validation", count=count, changed=False, pool=pool)
    else:
        print("finder: no validation field shows a glomerulus; the last step is taken")
    with seeded_torch(seed, "finder"):
        net = build_finder_net(settings.encoder, pretrained=True, offline=offline)
    net.check_size("training.patch", settings.training.patch)
    net.to(device)
    average = copy.deepcopy(net).requires_grad_(False).eval()
    return _Task(net, average, patches, held_out, settings, device, pool)


def _fit(task: _Task, saved: Checkpoint, observer: Observer | None) -> _Progress:
    options = task.settings.training
    optimiser = _optimiser(task)
    scaler = grad_scaler(task.device, options.precision)
    parts = _parts(task, optimiser, scaler)
    progress, resumed = restore(saved, _Progress(), parts, task.device)
    if resumed:
        print(f"finder: going on after step {progress.step} from {saved.path}")
    if not progress.planned:
        progress.planned = plan_steps(options.steps, options.max_minutes, lambda: _seconds(task))
        print(f"finder: {progress.planned} steps of {options.batch_size} patches planned", flush=True)
    losses: list[Tensor] = []
    started, first = time.monotonic(), progress.step
    while progress.step < progress.planned:
        losses.append(_step(task, optimiser, scaler, progress.step, progress.planned))
        progress.step += 1
        if progress.step % options.validate_every and progress.step < progress.planned:
            continue
        _look(task, progress, losses)
        losses = []
        pace = (time.monotonic() - started) / (progress.step - first)
        _report(progress, pace)
        if saved.due():
            saved.save(training_state(progress, parts))
        if observer is not None:
            observer(progress.step)
    return progress


def plan_steps(steps: int, max_minutes: float | None, seconds: Any) -> int:
    """Settles how many steps are taken.

    Args:
        steps: The number wanted.
        max_minutes: Time that they may take, or None.
        seconds: Returns the mean seconds per step; called only where there is a limit.

    Returns:
        At least 1, at most ``steps``.
    """
    if max_minutes is None:
        return steps
    return max(1, min(steps, int(_SPARE * 60.0 * max_minutes / seconds())))


def rate_at(step: int, planned: int, highest: float) -> float:
    """Returns the learning rate of a step, from 0: a short climb, then a cosine."""
    climb = max(1, round(_WARM_UP * planned))
    if step < climb:
        return highest * (step + 1) / climb
    share = (step - climb) / max(1, planned - climb)
    return highest * (_LAST_RATE + 0.5 * (1.0 - _LAST_RATE) * (1.0 + math.cos(math.pi * share)))


def _seconds(task: _Task) -> float:
    """Times a step with and without the encoder, and leaves the network as it was."""
    before = copy.deepcopy(task.net.state_dict())
    options = task.settings.training
    times = []
    for frozen in (True, False):
        task.net.train().freeze_encoder(frozen or options.encoder_rate == 0)
        for number in range(_TIMED + 1):
            if number == 1:
                started = time.monotonic()
            _loss_of(task, ("timing", number)).backward()  # type: ignore[no-untyped-call]
            _synchronise(task.device)
        times.append((time.monotonic() - started) / _TIMED)
    task.net.zero_grad(set_to_none=True)
    task.net.load_state_dict(before)
    return options.frozen * times[0] + (1.0 - options.frozen) * times[1]


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _step(task: _Task, optimiser: torch.optim.Optimizer, scaler: Any, step: int, planned: int) -> Tensor:
    options = task.settings.training
    rate = rate_at(step, planned, options.learning_rate)
    for group in optimiser.param_groups:
        group["lr"] = rate * group["share"]
    task.net.train().freeze_encoder(step < options.frozen * planned or options.encoder_rate == 0)
    loss = _loss_of(task, ("step", step))
    optimiser.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.step(optimiser)
    scaler.update()
    _remember(task, step)
    return loss.detach()


def _loss_of(task: _Task, parts: tuple[object, ...]) -> Tensor:
    options = task.settings.training
    images, targets = task.patches.batch(*parts, count=options.batch_size, changed=True, pool=task.pool)
    loss, _ = finder_loss(_logits(task, task.net, images), _tensor(targets, task.device))
    return loss


def _logits(task: _Task, net: FinderNet, images: Bytes) -> Tensor:
    encoder = task.settings.encoder
    inputs = preprocess(_tensor(images, task.device), encoder.mean, encoder.std)
    with autocast(task.device, task.settings.training.precision):
        logits: Tensor = net(inputs)
    return logits.float()


def _tensor(values: Bytes, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)


def finder_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the loss of a batch.

    Args:
        logits: (B, 2, h, w): glomerulus, distance.
        targets: (B, H, W, 2) uint8, 0 to 255; averaged to the size of the logits.

    Returns:
        The loss, and the sums that Dice is made of, (2,): the overlap twice, and both areas.
    """
    wanted = targets.permute(0, 3, 1, 2).float() / 255.0
    if wanted.shape[-2:] != logits.shape[-2:]:
        wanted = functional.adaptive_avg_pool2d(wanted, (logits.shape[-2], logits.shape[-1]))
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted)
    given, truth = logits[:, 0].sigmoid(), wanted[:, 0]
    dice = (2.0 * (given * truth).sum() + 1.0) / (given.sum() + truth.sum() + 1.0)
    inside, real = (logits[:, 0] > 0).float(), (truth > 0.5).float()
    overlap = torch.stack([2.0 * (inside * real).sum(), inside.sum() + real.sum()]).detach()
    return 2.0 * entropy + (1.0 - dice), overlap


@torch.no_grad()
def _remember(task: _Task, step: int) -> None:
    """Moves the average towards the network; it forgets its first steps faster."""
    mine, theirs = list(task.average.parameters()), list(task.net.parameters())
    move_average(mine, theirs, _LONGEST_MEMORY, step)
    for buffer, current in zip(task.average.buffers(), task.net.buffers(), strict=True):
        buffer.copy_(current)


@torch.no_grad()
def _look(task: _Task, progress: _Progress, losses: list[Tensor]) -> None:
    """Adds a row to the history and keeps the averaged weights if they are the best so far."""
    mean = float(torch.stack(losses).mean())
    loss, dice = _validate(task)
    if not math.isfinite(mean) or (task.held_out is not None and not math.isfinite(loss)):
        raise GlomflowError(
            f"finder: the loss is not finite before step {progress.step}; lower "
            "imaging.finder.training.learning_rate"
        )
    options = task.settings.training
    rate = rate_at(progress.step - 1, progress.planned, options.learning_rate)
    progress.history.append(
        {
            "step": progress.step,
            "learning_rate": rate,
            "train_loss": mean,
            "validation_loss": loss,
            "validation_dice": dice,
        }
    )
    if loss < progress.best_loss or (math.isnan(loss) and progress.step == progress.planned):
        progress.best_loss, progress.best_step = loss, progress.step
        progress.best_state = {name: value.clone() for name, value in task.average.state_dict().items()}


def _validate(task: _Task) -> tuple[float, float]:
    """Returns mean loss and Dice of the averaged network on the validation patches, or NaN."""
    if task.held_out is None:
        return math.nan, math.nan
    images, targets = task.held_out
    size = task.settings.training.batch_size
    parts = []
    for start in range(0, len(images), size):
        rows = slice(start, start + size)
        logits = _logits(task, task.average, images[rows])
        loss, overlap = finder_loss(logits, _tensor(targets[rows], task.device))
        parts.append(torch.cat([loss[None] * len(images[rows]), overlap]))
    total = torch.stack(parts).double().sum(0).cpu()
    return float(total[0]) / len(images), float((total[1] + 1e-9) / (total[2] + 1e-9))


def _optimiser(task: _Task) -> torch.optim.Optimizer:
    options = task.settings.training
    groups = [
        {"params": list(task.net.decoder.parameters()) + list(task.net.head.parameters()), "share": 1.0},
        {"params": list(task.net.encoder.parameters()), "share": options.encoder_rate},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True)


def _parts(task: _Task, optimiser: torch.optim.Optimizer, scaler: Any) -> dict[str, Stateful]:
    """Returns what changes while training."""
    return {"net": task.net, "average": task.average, "optimiser": optimiser, "scaler": scaler}


def _report(progress: _Progress, pace: float) -> None:
    row = progress.history[-1]
    line = f"finder: step {progress.step}/{progress.planned}, train loss {row['train_loss']:.4f}"
    if not math.isnan(row["validation_loss"]):
        line += f", validation loss {row['validation_loss']:.4f}, Dice {row['validation_dice']:.3f}"
    print(f"{line}, {pace:.2f} s per step", flush=True)


def _digest(
    training: Sequence[FinderField], validation: Sequence[FinderField], settings: Finder, seed: int
) -> str:
    files, parts = [], []
    for part, fields in (("train", training), ("validation", validation)):
        for each in fields:
            if isinstance(each.source, Path):
                files.append(each.source)
            shapes = [outline.polygon for outline in each.outlines]
            arrays = shapes if isinstance(each.source, Path) else [*shapes, each.source]
            content = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))
            parts.append([part, each.image, each.um_per_px, content.hexdigest()])
    learnt = settings.model_dump(include={"um_per_px", "encoder", "training"})
    return training_digest({"fields": parts, "settings": learnt, "seed": seed}, files)


def _write(
    progress: _Progress,
    training: Sequence[FinderField],
    validation: Sequence[FinderField],
    settings: Finder,
    seed: int,
    files: FinderFiles,
) -> None:
    write_table(files.history, pd.DataFrame(progress.history), FINDER_HISTORY)
    row = next(row for row in progress.history if row["step"] == progress.best_step)
    known = not math.isnan(row["validation_loss"])
    write_json(
        files.description,
        {
            "glomflow": glomflow.__version__,
            "um_per_px": settings.um_per_px,
            "encoder": settings.encoder.model_dump(mode="json"),
            "training": settings.training.model_dump(mode="json"),
            "seed": seed,
            "steps": progress.planned,
            "selected_step": progress.best_step,
            "validation_loss": row["validation_loss"] if known else None,
            "validation_dice": row["validation_dice"] if known else None,
            "training_images": [each.image for each in training],
            "validation_images": [each.image for each in validation],
            "training_glomeruli": sum(len(each.outlines) for each in training),
            "validation_glomeruli": sum(len(each.outlines) for each in validation),
        },
    )
    save_weights(files.weights, progress.best_state)
