"""Trains a method on cached features for all runs as one problem.

Every parameter has the runs as its leading dimension. Runs are sorted by their number of batches, so that
those which still have a batch in a step are a prefix: views, without copies. A run's batches, dropout,
learning rate, optimiser and early stopping are its own; the result is that of training it alone, to rounding.
No test row comes in here: a run's shots and, if it has any, validation rows are all that is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glomflow.errors import DivergedError, GlomflowError
from glomflow.models.vlm.methods.base import (
    ClassText,
    Method,
    Problem,
    Recipe,
    Rows,
    Shots,
    SolvedMethod,
    State,
    TrainedMethod,
)
from glomflow.training.seeds import derive_seed
from glomflow.training.vlm_optimiser import Optimiser, epoch_batches
from glomflow.training.vlm_selection import EarlyStopping, masked_macro_auc

Selection = Literal["fixed", "validation"]
_ELEMENTS = 20_000_000  # of features gathered at once for prediction


@dataclass
class Fitted:
    """A method with the parameters of R runs.

    Attributes:
        method: The method; after validation, runs may differ in settings (their state holds them).
        state: Parameters.
        text: The classes before adaptation.
        epochs: (R,) epochs of which the parameters are; 0 without epochs.
        scores: (R,) validation AUC of these; NaN without validation.
        remarks: What a report should say.
    """

    method: Method
    state: State
    text: ClassText
    epochs: NDArray[np.int64]
    scores: NDArray[np.float64]
    remarks: list[str] = field(default_factory=list)

    @property
    def runs(self) -> int:
        """R."""
        return len(self.epochs)

    @torch.no_grad()
    def logits(self, features: Tensor, runs: Sequence[int] | None = None) -> Tensor:
        """Returns the logits of images by each run.

        Args:
            features: (n, D) that all runs see, or (runs, n, D).
            runs: Which runs; all if None.

        Returns:
            (runs, n, K).
        """
        chosen = list(range(self.runs)) if runs is None else list(runs)
        features = features.to(self.text.embeddings)
        parts = []
        for own in self._groups(chosen, features.shape[-2] * features.shape[-1]):
            part = self.state.take(torch.as_tensor([chosen[place] for place in own]))
            parts.append(self.method.logits(part, _seen(features, own), self.text))
        return torch.cat(parts)

    @torch.no_grad()
    def class_text(self, run: int) -> Tensor | None:
        """Returns the classes of one run after adaptation, (K, D), or None without text."""
        found = self.method.adapted_text(self.state.take(slice(run, run + 1)), self.text)
        return found[0] if found is not None and found.ndim == 3 else found

    @torch.no_grad()
    def image_features(self, features: Tensor, run: int) -> Tensor:
        """Returns the features (n, D) of images after one run's adaptation."""
        own = features[None].to(self.text.embeddings)
        return self.method.adapted_images(self.state.take(slice(run, run + 1)), own)[0]

    def _groups(self, chosen: list[int], elements: int) -> Iterator[list[int]]:
        size = max(1, _ELEMENTS // max(1, elements))
        if isinstance(self.method, TrainedMethod) and self.method.group:
            size = min(size, self.method.group)
        for start in range(0, len(chosen), size):
            yield list(range(start, min(start + size, len(chosen))))


def _seen(features: Tensor, places: list[int]) -> Tensor:
    return features.expand(len(places), -1, -1) if features.ndim == 2 else features[places]


def fit(
    method: Method,
    table: Tensor,
    shots: Shots,
    text: ClassText,
    *,
    selection: Selection = "fixed",
    dtype: torch.dtype = torch.float64,
) -> Fitted:
    """Fits a method to all runs.

    Args:
        method: A method on features.
        table: (n, D) unit image features that the shots' rows point into.
        shots: Shots, and validation rows if there are any.
        text: The classes.
        selection: ``fixed``: settings and epochs as they are; validation rows are not looked at.
            ``validation``: epochs (early stopping) or settings are chosen by macro AUC on validation rows.
        dtype: Of all arithmetic but the towers'. In double precision a run agrees with one trained alone to
            1e-6 even after hundreds of steps.

    Raises:
        GlomflowError: A class has no shots, validation data are asked for and missing, or a setting cannot
            be used; the message names run, class and setting.
    """
    if selection == "validation" and shots.validation is None:
        raise GlomflowError(
            f"{method.name}: selection is 'validation', and there are no validation images; split some "
            "slides off the training slides, or set selection: fixed"
        )
    if text.absent and method.needs_text:
        raise GlomflowError(
            f"{method.name}: it compares images with texts, and the backbone has no text tower; choose "
            "another method or backbone"
        )
    if selection == "fixed":
        shots = replace(shots, validation=None)
    remarks = shots.check()
    shots = shots.to(table.device)
    text = replace(text, embeddings=text.embeddings.to(table.device, dtype))
    problem = Problem(table.to(dtype), shots, text)
    if isinstance(method, SolvedMethod):
        fitted = _solve(method, problem)
    elif isinstance(method, TrainedMethod):
        fitted = _train_groups(method, problem)
    else:
        raise GlomflowError(f"{method.name} does not train on features")
    fitted.remarks = remarks + fitted.remarks
    return fitted


def _validate(method: Method, state: State, problem: Problem) -> NDArray[np.float64]:
    """Returns the macro AUC of R runs on their validation rows, (R,)."""
    rows = problem.shots.validation
    assert rows is not None
    scores = []
    size = max(1, _ELEMENTS // max(1, rows.rows.shape[1] * problem.table.shape[1]))
    with torch.no_grad():
        for start in range(0, len(rows.rows), size):
            part = rows.take(slice(start, start + size))
            own = state.take(slice(start, start + size))
            chances = method.logits(own, problem.table[part.rows], problem.text).softmax(dim=-1)
            scores.append(masked_macro_auc(chances, part.labels, part.mask))
    return torch.cat(scores).cpu().numpy().astype(np.float64)


def _solve(method: SolvedMethod, problem: Problem) -> Fitted:
    runs = problem.shots.runs
    epochs, scores = np.zeros(runs, dtype=np.int64), np.full(runs, np.nan)
    state = method.solve(problem)
    candidates = method.candidates()
    if problem.shots.validation is None or len(candidates) == 1:
        return Fitted(method, state, problem.text, epochs, scores)
    scores = _validate(method, state, problem)
    for candidate in candidates[1:]:
        other = candidate.solve(problem)
        found = _validate(candidate, other, problem)
        better = np.flatnonzero(found > scores)
        places = torch.as_tensor(better)
        state.put(places, other.take(places))
        scores[better] = found[better]
    return Fitted(method, state, problem.text, epochs, scores)


def _check_trained(method: TrainedMethod, shots: Shots) -> None:
    recipe = method.recipe
    if method.needs_pairs and recipe.batch_size < 2:
        raise GlomflowError(
            f"{method.name}: batch_size is {recipe.batch_size}; batch normalisation needs at least two "
            "images in a batch; set batch_size to 2 or more"
        )


def _train_groups(method: TrainedMethod, problem: Problem) -> Fitted:
    """Trains groups of runs one after the other; all at once if the method sets no limit."""
    _check_trained(method, problem.shots)
    size = method.group or problem.shots.runs
    parts = []
    for start in range(0, problem.shots.runs, size):
        own = problem.shots.take(range(start, min(start + size, problem.shots.runs)))
        parts.append(_train(method, replace(problem, shots=own)))
    if len(parts) == 1:
        return parts[0]
    return Fitted(
        method,
        _joined([part.state for part in parts]),
        problem.text,
        np.concatenate([part.epochs for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )


def _joined(states: Sequence[State]) -> State:
    trained = {name: torch.cat([state.trained[name] for state in states]) for name in states[0].trained}
    fixed = {name: torch.cat([state.fixed[name] for state in states]) for name in states[0].fixed}
    return State(trained, fixed)


@dataclass
class _Epoch:
    """One epoch's batches of R runs.

    Attributes:
        places: (R, steps, B) places among a run's shots.
        mask: (R, steps, B).
        steps: (R,) batches of each run.
    """

    places: Tensor
    mask: Tensor
    steps: NDArray[np.int64]


def _epoch(shots: Shots, recipe: Recipe, epoch: int) -> _Epoch:
    batches = []
    for run, seed in enumerate(shots.seeds):
        count = int(shots.train.mask[run].sum())
        labels = shots.train.labels[run, :count].cpu().numpy()
        batches.append(epoch_batches(recipe, labels, seed=seed, epoch=epoch))
    steps = np.array([len(own) for own in batches])
    width = max(len(batch) for own in batches for batch in own)
    places = np.zeros((len(batches), int(steps.max()), width), dtype=np.int64)
    mask = np.zeros(places.shape, dtype=bool)
    for run, own in enumerate(batches):
        for step, batch in enumerate(own):
            places[run, step, : len(batch)] = batch
            mask[run, step, : len(batch)] = True
    device = shots.train.rows.device
    return _Epoch(torch.from_numpy(places).to(device), torch.from_numpy(mask).to(device), steps)


def _noise(method: TrainedMethod, shots: Shots, epoch: int, drawn: _Epoch) -> Tensor | None:
    """Draws (R, steps, B, width) from 0 to 1, each run's own from its own seed."""
    if not method.noise_width:
        return None
    result = torch.zeros(*drawn.places.shape, method.noise_width)
    for run, seed in enumerate(shots.seeds):
        generator = torch.Generator().manual_seed(derive_seed(seed, "dropout", epoch))
        count = int(drawn.mask[run].sum())
        result[run][drawn.mask[run].cpu()] = torch.rand(count, method.noise_width, generator=generator)
    return result.to(drawn.places.device)


def _train(method: TrainedMethod, problem: Problem) -> Fitted:
    """Trains runs together; their order is restored at the end."""
    recipe, shots = method.recipe, problem.shots
    sizes = shots.train.mask.sum(dim=1).cpu().numpy()
    order = np.lexsort((-sizes, -_epoch(shots, recipe, 0).steps))
    back = np.argsort(order)
    live = replace(problem, shots=_ordered(shots, order))
    state = method.start(live)
    optimiser = Optimiser(recipe, state.trained, _epoch(live.shots, recipe, 0).steps)
    stopping = EarlyStopping(recipe, shots.runs) if shots.validation is not None else None
    final, best = state.clone(), np.arange(shots.runs)
    epochs = np.full(shots.runs, recipe.epochs)
    for epoch in range(recipe.epochs):
        _pass(method, live, state, optimiser, epoch)
        if stopping is None:
            continue
        better, stopped = stopping.see(best, _validate(method, state, live), epoch)
        places = torch.as_tensor(np.flatnonzero(better))
        final.put(torch.as_tensor(best[better]), state.take(places))
        keep = np.flatnonzero(~stopped)
        if not len(keep):
            break
        if len(keep) < len(best):
            chosen = torch.as_tensor(keep)
            state, best = state.take(chosen), best[keep]
            optimiser.keep(keep, state.trained)
            live = replace(live, shots=_ordered(live.shots, keep))
    if stopping is None:
        final, scores = state, np.full(shots.runs, np.nan)
    else:
        scores, epochs = stopping.best, stopping.epochs
    return Fitted(method, final.take(torch.as_tensor(back)), problem.text, epochs[back], scores[back])


def _ordered(shots: Shots, order: NDArray[np.int64]) -> Shots:
    chosen = torch.as_tensor(order)

    def part(rows: Rows | None) -> Rows | None:
        return None if rows is None else rows.take(chosen)

    train = part(shots.train)
    assert train is not None
    names, seeds = tuple(shots.names[r] for r in order), tuple(shots.seeds[r] for r in order)
    return Shots(shots.classes, train, part(shots.validation), names, seeds)


def _pass(method: TrainedMethod, problem: Problem, state: State, optimiser: Optimiser, epoch: int) -> None:
    """Goes through all runs' batches once."""
    shots, drawn = problem.shots, _epoch(problem.shots, method.recipe, epoch)
    noise = _noise(method, shots, epoch, drawn)
    widths = drawn.mask.sum(dim=2).cpu().numpy()
    for step in range(int(drawn.steps.max())):
        runs = int((drawn.steps > step).sum())
        for start, stop in _spans(widths[:runs, step]):
            own = slice(start, stop)
            width = int(widths[own, step].max())
            places, mask = drawn.places[own, step, :width], drawn.mask[own, step, :width]
            part = state.take(own)
            for name, value in part.trained.items():
                part.trained[name] = value.detach().requires_grad_()
            seen = problem.table[shots.train.rows[own].gather(1, places)]
            drops = None if noise is None else noise[own, step, :width]
            logits = method.training_logits(part, seen, problem.text, mask, drops)
            labels = shots.train.labels[own].gather(1, places)
            losses = method.loss(part, logits, labels, mask, problem.text)
            if not math.isfinite(float(losses.detach().sum())):
                run = start + int(torch.nonzero(~losses.detach().isfinite())[0])
                raise DivergedError(
                    f"{method.name}, {shots.names[run]}: the loss is not finite in epoch {epoch}; lower the "
                    f"learning rate ({method.recipe.lr})"
                )
            optimiser.give(start, torch.autograd.grad(losses.sum(), list(part.trained.values())))
        optimiser.step(runs, epoch)


def _spans(widths: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Cuts runs into neighbours whose batches are alike in size, so that padding stays below one half."""
    spans, start, most = [], 0, int(widths[0])
    for place in range(1, len(widths)):
        own = int(widths[place])
        if own > most or 2 * own <= most:
            spans.append((start, place))
            start, most = place, own
    return [*spans, (start, len(widths))]
