"""What all adaptation methods share: the shots of many runs, the text of the classes, the interface.

A problem has R runs (draws x numbers of shots, say). All read rows of one table of image features, so that
nothing is copied per run; rows are padded to the longest run and masked. A method on features trains all
runs as one problem: every parameter has R as its leading dimension.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional

from glomflow.errors import GlomflowError
from glomflow.models.vlm.prompts import Prompts, encode_prompts


@dataclass(frozen=True)
class Rows:
    """Rows of a table that each run has, padded to the longest.

    Attributes:
        rows: (R, N) int64 rows of the table; 0 where padded.
        labels: (R, N) int64 classes; 0 where padded.
        mask: (R, N) bool, False where padded, which is at the end.
    """

    rows: Tensor
    labels: Tensor
    mask: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> Rows:
        """Pads the rows and classes of R runs.

        Raises:
            GlomflowError: A run has not as many rows as labels.
        """
        width = max((len(each) for each in rows), default=0)
        shape = (len(rows), width)
        places, truth = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
        mask = torch.zeros(shape, dtype=torch.bool)
        for run, (own, classes) in enumerate(zip(rows, labels, strict=True)):
            if len(own) != len(classes):
                raise GlomflowError(f"few-shot: run {run} has {len(own)} rows and {len(classes)} labels")
            places[run, : len(own)] = torch.as_tensor(own, dtype=torch.int64)
            truth[run, : len(own)] = torch.as_tensor(classes, dtype=torch.int64)
            mask[run, : len(own)] = True
        return cls(places, truth, mask)

    def take(self, runs: Tensor | slice) -> Rows:
        """Returns some of the runs."""
        return Rows(self.rows[runs], self.labels[runs], self.mask[runs])

    def to(self, device: torch.device) -> Rows:
        """Returns the rows on a device."""
        return Rows(self.rows.to(device), self.labels.to(device), self.mask.to(device))

    def counts(self, classes: int) -> Tensor:
        """Returns how many rows of each class each run has, (R, K)."""
        return (functional.one_hot(self.labels, classes) * self.mask[..., None]).sum(dim=1)


@dataclass(frozen=True)
class Shots:
    """What R runs may learn from: never a test crop.

    Attributes:
        classes: Names of the K classes, in the order of the labels.
        train: The shots.
        validation: What training may be stopped by; None: fixed recipe.
        names: A name for each run, for messages.
        seeds: A seed for each run, which all its draws depend on and nothing else does.
    """

    classes: tuple[str, ...]
    train: Rows
    validation: Rows | None
    names: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def runs(self) -> int:
        """R."""
        return len(self.names)

    def take(self, runs: Sequence[int]) -> Shots:
        """Returns some of the runs, without padding that these do not need."""
        chosen = torch.as_tensor(runs, dtype=torch.int64)
        parts = [
            None if part is None else _trimmed(part.take(chosen)) for part in (self.train, self.validation)
        ]
        if parts[0] is None:
            raise GlomflowError("few-shot: no shots")
        names, seeds = tuple(self.names[r] for r in runs), tuple(self.seeds[r] for r in runs)
        return Shots(self.classes, parts[0], parts[1], names, seeds)

    def to(self, device: torch.device) -> Shots:
        """Returns the shots with their rows on a device."""
        validation = None if self.validation is None else self.validation.to(device)
        return Shots(self.classes, self.train.to(device), validation, self.names, self.seeds)

    def check(self) -> list[str]:
        """Checks what every method needs.

        Returns:
            Remarks for the report: runs whose validation data lack a class.

        Raises:
            GlomflowError: A class has no shot in a run, or the validation data of a run show fewer than two
                classes; the message names the run, the class and the setting.
        """
        counts = self.train.counts(len(self.classes))
        if bool((counts == 0).any()):
            run, number = (int(v) for v in torch.nonzero(counts == 0)[0])
            raise GlomflowError(
                f"few-shot, {self.names[run]}: class '{self.classes[number]}' has no shot; label one on the "
                "training slides, or leave the class out of few_shot.classes"
            )
        if self.validation is None:
            return []
        remarks = []
        present = self.validation.counts(len(self.classes)) > 0
        for run, shown in enumerate(present):
            absent = [name for name, there in zip(self.classes, shown.tolist(), strict=True) if not there]
            if int(shown.sum()) < 2:
                raise GlomflowError(
                    f"few-shot, {self.names[run]}: the validation data show {int(shown.sum())} class(es) "
                    f"(none of '{absent[0]}'), so that no AUC can be computed; add validation slides, or set "
                    "selection: fixed"
                )
            if absent:
                remarks.append(
                    f"{self.names[run]}: no validation image of {', '.join(absent)}; the AUC that training "
                    "is stopped by is over the other classes"
                )
        return remarks


def _trimmed(rows: Rows) -> Rows:
    width = int(rows.mask.sum(dim=1).max()) if rows.mask.numel() else 0
    return Rows(rows.rows[:, :width], rows.labels[:, :width], rows.mask[:, :width])


@dataclass(frozen=True)
class ClassText:
    """The classes in the shared space.

    Attributes:
        embeddings: (K, D) of unit length.
        scale: Factor of the cosines (exp of CLIP's logit_scale).
        backbone: The frozen model, for methods that learn prompts.
        prompts: The sentences, for the same.
        absent: There is no text: the embeddings are zero, so that all classes are alike to an image.
    """

    embeddings: Tensor
    scale: float
    backbone: Any = field(default=None, repr=False)
    prompts: Prompts | None = None
    absent: bool = False

    @classmethod
    def none(cls, classes: int, width: int) -> ClassText:
        """Stands in for the text of K classes where a backbone has no text tower."""
        return cls(torch.zeros(classes, width, dtype=torch.float64), 1.0, absent=True)


def class_text(prompts: Prompts, backbone: Any) -> ClassText:
    """Encodes the classes' prompts with the frozen text tower.

    Args:
        prompts: The sentences; a class is the mean of its own.
        backbone: The frozen model.

    Raises:
        GlomflowError: A sentence has more tokens than the backbone takes.
    """
    encoded = encode_prompts(prompts, backbone)
    return ClassText(encoded.text, float(backbone.logit_scale.exp()), backbone, prompts)


@dataclass(frozen=True)
class Recipe:
    """How a method is trained.

    Attributes:
        epochs: At most so many passes; all of them without validation data.
        batch_size: Images per step.
        balanced: Classes take turns in the batches.
        optimiser: ``adamw`` or ``sgd``.
        lr: Highest learning rate.
        weight_decay: Decoupled for AdamW (Loshchilov and Hutter, ICLR 2019), added to the gradient for SGD.
        momentum: Of SGD.
        eps: Of AdamW.
        schedule: ``constant``, or ``cosine`` down to ``floor`` x ``lr``.
        per: Whether the schedule moves each ``step`` or each ``epoch``.
        floor: Share of ``lr`` at the end.
        warmup_epochs: First epochs at ``warmup_lr``.
        warmup_lr: Learning rate of these.
        min_delta: Gain of validation AUC that counts.
        patience: Epochs without a gain after which training stops.
    """

    epochs: int = 20
    batch_size: int = 16
    balanced: bool = False
    optimiser: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    eps: float = 1e-8
    schedule: Literal["constant", "cosine"] = "constant"
    per: Literal["step", "epoch"] = "step"
    floor: float = 0.0
    warmup_epochs: int = 0
    warmup_lr: float = 1e-5
    min_delta: float = 0.001
    patience: int = 7

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise GlomflowError(f"{name} is {getattr(self, name)}; it must be 1 or more")


@dataclass
class State:
    """Parameters of R runs.

    Attributes:
        trained: Name to (R, ...), what gradients change.
        fixed: Name to (R, ...), what they do not (statistics, caches).
    """

    trained: dict[str, Tensor] = field(default_factory=dict)
    fixed: dict[str, Tensor] = field(default_factory=dict)

    def take(self, runs: Tensor | slice) -> State:
        """Returns some of the runs: views for a slice, copies otherwise."""
        parts = [{name: value[runs] for name, value in part.items()} for part in (self.trained, self.fixed)]
        return State(*parts)

    def clone(self) -> State:
        """Returns a copy."""
        parts = [{name: v.clone() for name, v in part.items()} for part in (self.trained, self.fixed)]
        return State(*parts)

    def put(self, runs: Tensor, other: State) -> None:
        """Overwrites some of the runs."""
        for own, theirs in ((self.trained, other.trained), (self.fixed, other.fixed)):
            for name, value in own.items():
                value[runs] = theirs[name]


def _changed(settings: Any, changes: Mapping[str, Any]) -> Any:
    """Returns a dataclass with some of its values changed."""
    known = {entry.name for entry in fields(settings)}
    for name in changes:
        if name not in known:
            raise GlomflowError(
                f"'{name}' is no setting of {type(settings).__name__}; it has {sorted(known)}"
            )
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
    return replace(settings, **plain)


@dataclass(frozen=True)
class Settings:
    """Base of the settings of a method."""

    def but(self, **changes: Any) -> Self:
        """Returns the settings with some changed.

        Args:
            changes: New values; of ``recipe``, a recipe or a mapping of what is changed in it. Lists become
                tuples.

        Raises:
            GlomflowError: A setting is not known.
        """
        checked = dict(changes)
        recipe = getattr(self, "recipe", None)
        if recipe is not None and isinstance(checked.get("recipe"), Mapping):
            checked["recipe"] = _changed(recipe, checked["recipe"])
        result: Self = _changed(self, checked)
        return result


@dataclass(frozen=True)
class Problem:
    """A table of features with the shots and the text that a method sees.

    Attributes:
        table: (n, D) unit image features.
        shots: Rows of it.
        text: The classes.
    """

    table: Tensor
    shots: Shots
    text: ClassText

    def features(self) -> Tensor:
        """Returns the shots' features, (R, N, D); zeros where padded."""
        return self.table[self.shots.train.rows] * self.shots.train.mask[..., None]


class Method(ABC):
    """A way to adapt a model: settings, parameters of R runs, and logits from them."""

    name: ClassVar[str]
    needs: ClassVar[Literal["features", "activations"]] = "features"
    needs_text: ClassVar[bool] = True
    settings: Any

    @abstractmethod
    def logits(self, state: State, features: Tensor, text: ClassText) -> Tensor:
        """Returns (R, B, K) logits.

        Args:
            state: Parameters of R runs.
            features: (R, B, D) unit image features.
            text: The classes.
        """

    def adapted_text(self, state: State, text: ClassText) -> Tensor | None:
        """Returns the classes after adaptation, (R, K, D) or (K, D); None if there is no text."""
        return None if text.absent else text.embeddings

    def adapted_images(self, state: State, features: Tensor) -> Tensor:
        """Returns the features after adaptation, as ``features``: (R, B, D)."""
        return features


class SolvedMethod(Method):
    """A method without epochs: its state is computed at once."""

    @abstractmethod
    def solve(self, problem: Problem) -> State:
        """Computes the state of all runs from their shots."""

    def candidates(self) -> list[Self]:
        """Returns what validation data choose among, the defaults first; only these without such data."""
        return [self]


class TrainedMethod(Method):
    """A method that descends a loss, batch by batch."""

    noise_width: int = 0
    """Draws from 0 to 1 that training needs per image, for dropout."""
    group: int | None = None
    """Most runs that are trained at once; all if None."""
    needs_pairs: bool = False
    """Whether a training batch must hold at least two images."""

    @property
    def recipe(self) -> Recipe:
        """How it is trained."""
        found: Recipe = self.settings.recipe
        return found

    @abstractmethod
    def start(self, problem: Problem) -> State:
        """Returns the state before training."""

    def training_logits(
        self, state: State, features: Tensor, text: ClassText, mask: Tensor, noise: Tensor | None
    ) -> Tensor:
        """Returns (R, B, K) logits of a training batch; may update ``state.fixed`` in place.

        Args:
            state: Parameters of R runs.
            features: (R, B, D).
            text: The classes.
            mask: (R, B), False where padded.
            noise: (R, B, noise_width) from 0 to 1, or None.
        """
        return self.logits(state, features, text)

    def loss(self, state: State, logits: Tensor, labels: Tensor, mask: Tensor, text: ClassText) -> Tensor:
        """Returns each run's loss, (R,): the mean cross-entropy over the images of its batch."""
        each = functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        return (each * mask).sum(dim=1) / mask.sum(dim=1)


def uniform_per_run(seeds: Sequence[int], shape: Sequence[int], bound: float, like: Tensor) -> Tensor:
    """Draws (R, *shape) uniformly within +-``bound``, each run from its own seed."""
    draws = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        draws.append(torch.rand(*shape, generator=generator, dtype=torch.float64))
    return ((torch.stack(draws) * 2 - 1) * bound).to(like)
