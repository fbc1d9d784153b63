"""Fine-tunes a backbone from cached activations, run by run, with one frozen copy for all runs.

What lies below the first changed block is never computed again: images enter there from the cache, prompts
from a state computed once. What a run has learned is a small dictionary of tensors; it is put into the
backbone to predict and taken out again, and the backbone's bits are checked.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from glomflow.errors import DivergedError, GlomflowError
from glomflow.models.vlm.losses import contrastive_loss
from glomflow.models.vlm.methods.base import Recipe, Rows, Shots
from glomflow.models.vlm.methods.tuned import Cut, TunedMethod
from glomflow.models.vlm.prompts import Prompts, ensemble
from glomflow.models.vlm.tokens import shortened
from glomflow.training.seeds import derive_seed, seeded_torch
from glomflow.training.vlm_batched import Selection
from glomflow.training.vlm_optimiser import epoch_batches, learning_rate
from glomflow.training.vlm_selection import EarlyStopping, masked_macro_auc

Precision = Literal["float32", "bfloat16"]
"""Of the towers' products; weights, activations in the cache, losses and steps are float32 either way."""

Activations = NDArray[np.float32]
"""(n, tokens, width) before the method's first changed block, or unit features (n, D) if it changes none."""


def _products(backbone: Any, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(backbone.logit_scale.device.type, dtype=torch.bfloat16)


@dataclass(frozen=True)
class TextInputs:
    """The classes' prompts before the first changed block of the text tower.

    Attributes:
        prompts: The sentences.
        tokens: (T, L) int64, without the filling that no tower needs.
        hidden: (T, L, width) before the block; unit features (T, D) if the tower stays as it is.
        block: The block, or None.
        precision: Of the products above the block.
    """

    prompts: Prompts
    tokens: Tensor
    hidden: Tensor
    block: int | None
    precision: Precision = "float32"

    @classmethod
    @torch.no_grad()
    def of(
        cls, backbone: Any, prompts: Prompts, block: int | None, precision: Precision = "float32"
    ) -> TextInputs:
        """Computes them."""
        tokens = shortened(backbone, backbone.tokenise(prompts.texts))
        if block is None:
            return cls(prompts, tokens, backbone.text_features(tokens), None, precision)
        hidden = backbone.text.run(backbone.text.stem(tokens), 0, block, inputs=tokens)
        return cls(prompts, tokens, hidden, block, precision)

    @property
    def owners(self) -> Tensor:
        """The class of each sentence, (T,)."""
        return self.prompts.owners.to(self.hidden.device)

    def features(self, backbone: Any, chosen: Tensor | None = None) -> Tensor:
        """Returns the unit features of the sentences, or of those chosen, (T, D)."""
        hidden = self.hidden if chosen is None else self.hidden[chosen]
        tokens = self.tokens if chosen is None else self.tokens[chosen]
        if self.block is None:
            return hidden
        with _products(backbone, self.precision):
            found: Tensor = backbone.text.tail(hidden, self.block, tokens)
        return functional.normalize(found.float(), dim=-1)

    def classes(self, backbone: Any) -> Tensor:
        """Returns the classes, each the mean of its prompts, (K, D) of unit length."""
        return ensemble(self.features(backbone), self.owners, len(self.prompts.classes))


@dataclass
class TunedRun:
    """What one run has learned.

    Attributes:
        method: The method.
        backbone: The frozen model that it is put into to predict.
        text: The prompts.
        cut: Where images enter.
        name: Name of the run.
        state: Name of each trained parameter to its value.
        epochs: Epochs trained.
        score: Validation AUC; NaN without validation.
        remarks: What a report should say.
    """

    method: TunedMethod
    backbone: Any
    text: TextInputs
    cut: Cut
    name: str
    state: dict[str, Tensor]
    epochs: int
    score: float
    remarks: list[str] = field(default_factory=list)

    @torch.no_grad()
    def predict(
        self, activations: Activations, rows: NDArray[np.int64] | None = None, *, batch_size: int = 32
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predicts images.

        Args:
            activations: From :meth:`glomflow.training.vlm_cache.ActivationCache.hidden`, cut where the
                method says.
            rows: Which images; all if None.
            batch_size: Images per forward pass.

        Returns:
            Logits (n, K), unit image features (n, D) and class features (K, D), on the CPU.
        """
        places = np.arange(len(activations)) if rows is None else np.asarray(rows, dtype=np.int64)
        with self.method.attached(self.backbone, 0) as parameters:
            for name, value in self.state.items():
                parameters[name].copy_(value)
            features = _image_features(
                self.backbone, self.cut, activations, places, batch_size, self.text.precision
            )
            classes = self.text.classes(self.backbone)
            logits = self.backbone.logit_scale.exp() * features @ classes.T
            return logits.cpu(), features.cpu(), classes.cpu()


def _image_features(
    backbone: Any,
    cut: Cut,
    activations: Activations,
    rows: NDArray[np.int64],
    batch_size: int,
    precision: Precision,
) -> Tensor:
    parts = [
        _tail(backbone, cut, activations, rows[start : start + batch_size], precision)
        for start in range(0, len(rows), batch_size)
    ]
    return torch.cat(parts)


def _tail(
    backbone: Any, cut: Cut, activations: Activations, rows: NDArray[np.int64], precision: Precision
) -> Tensor:
    """Returns the unit features (b, D) of images from the cut on."""
    hidden = torch.from_numpy(np.array(activations[rows])).to(backbone.logit_scale.device)
    if cut.vision is None:
        return hidden
    with _products(backbone, precision):
        found: Tensor = backbone.vision.tail(hidden, cut.vision)
    return functional.normalize(found.float(), dim=-1)


def tune(
    method: TunedMethod,
    backbone: Any,
    activations: Activations,
    shots: Shots,
    prompts: Prompts,
    *,
    selection: Selection = "fixed",
    precision: Precision = "float32",
) -> Iterator[TunedRun]:
    """Fine-tunes a backbone for each run.

    Args:
        method: A fine-tuning method.
        backbone: The frozen model; it is the same to the bit afterwards, and between two runs.
        activations: The images that the shots' rows point into, cut where ``method.cut(backbone)`` says.
        shots: Shots, and validation rows if there are any.
        prompts: The classes' sentences, in the order of the labels.
        selection: As :func:`glomflow.training.vlm_batched.fit`.
        precision: ``bfloat16`` is faster where the processor has it, and moves probabilities by about 0.01.

    Yields:
        Each run's result, in order; take what is needed of one before the next, for memory's sake.

    Raises:
        GlomflowError: A class has no shots, validation data are asked for and missing, classes and prompts
            disagree, or a setting cannot be used; the message names run, class and setting.
    """
    if selection == "validation" and shots.validation is None:
        raise GlomflowError(
            f"{method.name}: selection is 'validation', and there are no validation images; split some "
            "slides off the training slides, or set selection: fixed"
        )
    if selection == "fixed":
        shots = replace(shots, validation=None)
    if prompts.classes != shots.classes:
        raise GlomflowError(
            f"{method.name}: prompts are for {', '.join(prompts.classes)}, shots for "
            f"{', '.join(shots.classes)}; give both the same classes in the same order"
        )
    _check_settings(method)
    shots.check()
    cut = method.cut(backbone)
    text = TextInputs.of(backbone, prompts, cut.text, precision)
    for run in range(shots.runs):
        own = shots.take([run])
        yield _Tuning(method, backbone, activations, own, text, cut).result()


def _check_settings(method: TunedMethod) -> None:
    settings = method.settings
    if settings.loss != "cross_entropy" and settings.recipe.batch_size < 2:
        raise GlomflowError(
            f"{method.name}: batch_size is {settings.recipe.batch_size}; the contrastive loss of one image "
            "is 0 whatever the weights are; set batch_size to 2 or more, or loss: cross_entropy"
        )


class _Tuning:
    """The training of one run."""

    def __init__(
        self,
        method: TunedMethod,
        backbone: Any,
        activations: Activations,
        shots: Shots,
        text: TextInputs,
        cut: Cut,
    ) -> None:
        self.method, self.backbone, self.activations = method, backbone, activations
        self.shots, self.text, self.cut = shots, text, cut
        self.seed = shots.seeds[0]
        self.rows, self.labels = _run_rows(shots.train)
        self.recipe: Recipe = self._recipe()

    def _recipe(self) -> Recipe:
        """Returns the recipe, with the epochs that ``steps_per_shot`` asks for."""
        settings = self.method.settings
        recipe: Recipe = settings.recipe
        if settings.steps_per_shot is None:
            return recipe
        most = int(np.bincount(self.labels).max())
        steps = len(epoch_batches(recipe, self.labels, seed=self.seed, epoch=0))
        return replace(recipe, epochs=math.ceil(settings.steps_per_shot * most / steps))

    def result(self) -> TunedRun:
        """Trains, and puts the backbone back."""
        start = derive_seed(self.seed, "adapted layers")
        with self.method.attached(self.backbone, start) as parameters:
            state, epochs, score = self._train(parameters)
        return TunedRun(
            self.method,
            self.backbone,
            self.text,
            self.cut,
            self.shots.names[0],
            state,
            epochs,
            score,
            self.shots.check(),
        )

    def _train(self, parameters: dict[str, nn.Parameter]) -> tuple[dict[str, Tensor], int, float]:
        optimiser = _torch_optimiser(self.recipe, list(parameters.values()))
        stopping = EarlyStopping(self.recipe, 1) if self.shots.validation is not None else None
        best: dict[str, Tensor] = {}
        taken = 0
        for epoch in range(self.recipe.epochs):
            taken = self._pass(optimiser, epoch, taken)
            if stopping is None:
                continue
            better, stopped = stopping.see(np.array([0]), np.array([self._validate()]), epoch)
            if better[0]:
                best = _copied(parameters)
            if stopped[0]:
                break
        if stopping is None:
            return _copied(parameters), self.recipe.epochs, math.nan
        return best, int(stopping.epochs[0]), float(stopping.best[0])

    def _pass(self, optimiser: torch.optim.Optimizer, epoch: int, taken: int) -> int:
        """Goes through the batches once; returns the steps taken since the start."""
        batches = epoch_batches(self.recipe, self.labels, seed=self.seed, epoch=epoch)
        with (
            self.method.training(self.backbone),
            seeded_torch(self.seed, "dropout", epoch),
        ):
            for batch in batches:
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate(self.recipe, taken, len(batches), epoch)
                optimiser.zero_grad(set_to_none=True)
                loss = self._loss(batch)
                if not math.isfinite(float(loss.detach())):
                    raise DivergedError(
                        f"{self.method.name}, {self.shots.names[0]}: the loss is not finite in epoch {epoch}"
                        f"; lower the learning rate ({self.recipe.lr})"
                    )
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                taken += 1
        return taken

    def _loss(self, batch: NDArray[np.int64]) -> Tensor:
        rows, precision = self.rows[batch], self.text.precision
        images = _tail(self.backbone, self.cut, self.activations, rows, precision)
        labels = torch.from_numpy(self.labels[batch]).to(images.device)
        scale = self.backbone.logit_scale.exp()
        kind = self.method.settings.loss
        if kind == "cross_entropy":
            logits = scale * images @ self.text.classes(self.backbone).T
            return functional.cross_entropy(logits, labels)
        return contrastive_loss(images, self._texts(labels), labels, scale, kind)

    def _texts(self, labels: Tensor) -> Tensor:
        """Returns a text for each image of a batch, (b, D)."""
        if self.method.settings.texts == "ensemble":
            return self.text.classes(self.backbone)[labels]
        owners = self.text.prompts.owners
        drawn = [
            int(own[torch.randint(len(own), (1,))])
            for own in (torch.nonzero(owners == label).ravel() for label in labels.tolist())
        ]
        return self.text.features(self.backbone, torch.tensor(drawn, device=labels.device))

    @torch.no_grad()
    def _validate(self) -> float:
        assert self.shots.validation is not None
        rows, labels = _run_rows(self.shots.validation)
        features = _image_features(self.backbone, self.cut, self.activations, rows, 32, self.text.precision)
        logits = self.backbone.logit_scale.exp() * features @ self.text.classes(self.backbone).T
        truth = torch.from_numpy(labels)[None]
        chances = logits.double().softmax(dim=-1).cpu()[None]
        return float(masked_macro_auc(chances, truth, torch.ones_like(truth, dtype=torch.bool))[0])


def _run_rows(rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the rows and classes of the only run."""
    mask = rows.mask[0]
    return rows.rows[0][mask].cpu().numpy(), rows.labels[0][mask].cpu().numpy()


def _torch_optimiser(recipe: Recipe, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, eps=recipe.eps)


def _copied(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in parameters.items()}
