"""Prompts whose words are learned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from glomflow.errors import GlomflowError
from glomflow.models.vlm.methods.base import ClassText, Problem, Recipe, Settings, State, TrainedMethod
from glomflow.models.vlm.tokens import shortened

_PLACEHOLDER = "x"


_RECIPE = Recipe(
    epochs=200,
    batch_size=32,
    optimiser="sgd",
    lr=0.002,
    weight_decay=5e-4,
    schedule="cosine",
    per="epoch",
    warmup_epochs=1,
)


@dataclass(frozen=True)
class CoopSettings(Settings):
    """Settings; the defaults are the authors' for 16 shots (their ``vit_b16``).

    Attributes:
        context: Learned words before the class name.
        class_specific: Whether each class has its own words.
        group: Most runs whose prompts go through the text tower at once. One: a run's numbers do not depend
            on the others'; more is faster on a GPU and agrees to the tower's rounding.
        recipe: How they are trained.
    """

    context: int = 16
    class_specific: bool = False
    group: int = 1
    recipe: Recipe = _RECIPE


class Coop(TrainedMethod):
    """CoOp, context optimisation (Zhou et al., IJCV 2022; arXiv 2109.01134).

    A class's prompt is a sequence of learned vectors, the same for all classes (or its own), followed by the
    class's name; the text tower is frozen, gradients pass through it. Images are cached features. All
    classes (and the runs of a group) are one batch of the text tower.
    """

    name = "coop"

    def __init__(self, settings: CoopSettings) -> None:
        self.settings: CoopSettings = settings
        self.group = settings.group
        self._known: tuple[Any, Tensor, Tensor] | None = None

    def start(self, problem: Problem) -> State:
        """Draws the words from a normal distribution of SD 0.02, each run from its own seed.

        Raises:
            GlomflowError: There is no text tower, or a prompt is too long for it.
        """
        _, embeddings = self._prompts(problem.text)
        places = len(embeddings) if self.settings.class_specific else 1
        draws = []
        for seed in problem.shots.seeds:
            generator = torch.Generator().manual_seed(seed)
            shape = (places, self.settings.context, embeddings.shape[-1])
            draws.append(0.02 * torch.randn(shape, generator=generator, dtype=torch.float64))
        return State({"context": torch.stack(draws).to(problem.table)})

    def adapted_text(self, state: State, text: ClassText) -> Tensor | None:
        """Returns the classes' learned prompts, (R, K, D) of unit length."""
        tokens, embeddings = self._prompts(text)
        context = state.trained["context"]
        runs, classes, length = len(context), len(embeddings), self.settings.context
        words = context.to(embeddings.dtype).expand(-1, classes, -1, -1)
        before = embeddings[None, :, :1].expand(runs, -1, -1, -1)
        after = embeddings[None, :, 1 + length :].expand(runs, -1, -1, -1)
        sequence = torch.cat([before, words, after], dim=2).flatten(0, 1)
        found = text.backbone.text.from_embeddings(sequence, tokens.repeat(runs, 1))
        unit: Tensor = functional.normalize(found, dim=-1)
        return unit.reshape(runs, classes, -1).to(context.dtype)

    def logits(self, state: State, features: Tensor, text: ClassText) -> Tensor:
        """Returns (R, B, K)."""
        learned = self.adapted_text(state, text)
        assert learned is not None
        return text.scale * features @ learned.transpose(1, 2)

    def _prompts(self, text: ClassText) -> tuple[Tensor, Tensor]:
        """Returns tokens (K, L) with room for the words, and their embeddings (K, L, width)."""
        if text.backbone is None or text.prompts is None:
            raise GlomflowError(
                "coop learns prompts through a text tower, and there is none; give the classes' text with "
                "class_text, or choose another method"
            )
        if self._known is not None and self._known[0] is text:
            return self._known[1], self._known[2]
        length = self.settings.context
        names = text.prompts.names
        tokens = text.backbone.tokenise([f"{_PLACEHOLDER} " * length + f"{name}." for name in names])
        room = tokens[:, 1 : 1 + length]
        if bool((room != tokens[:1, 1:2]).any()):
            raise GlomflowError(
                f"coop: the tokeniser of {text.backbone.name} does not turn '{_PLACEHOLDER}' into one token, "
                "so that the learned words have no place; choose another method"
            )
        tokens = shortened(text.backbone, tokens)
        with torch.no_grad():
            embeddings = text.backbone.text.token_embeddings(tokens)
        self._known = (text, tokens, embeddings)
        return tokens, embeddings


PRESETS = {
    "default": CoopSettings(recipe=replace(_RECIPE, epochs=50)),
    "published": CoopSettings(),
}
"""``default``: 50 epochs, which the authors train for with one shot."""
