"""A linear probe that starts at the classes' prompts and is held near them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from glomflow.models.vlm.methods.base import ClassText, Problem, Recipe, Settings, State, TrainedMethod

_RECIPE = Recipe(
    epochs=300,
    batch_size=256,
    optimiser="sgd",
    lr=0.1,
    schedule="cosine",
    per="epoch",
    warmup_epochs=1,
)


@dataclass(frozen=True)
class ClapSettings(Settings):
    """Settings; the defaults are the authors'.

    Attributes:
        constraint: Whether weights are held near the prompts; without it this is their ZS-LP.
        recipe: How it is trained.
    """

    constraint: bool = True
    recipe: Recipe = _RECIPE


class Clap(TrainedMethod):
    """CLAP, the class-adaptive linear probe (Silva-Rodriguez et al., CVPR 2024; arXiv 2312.12730).

    Logits are scaled cosines with one vector per class, which starts at the class's text. To the
    cross-entropy comes the mean over classes of a_c |w_c - t_c|^2: a_c is the mean zero-shot probability of
    the class for its own shots, so that classes that the text tells well stay near it. Made for training
    without validation data. Features are those of one view of each shot (the authors augment).
    """

    name = "clap"

    def __init__(self, settings: ClapSettings) -> None:
        self.settings: ClapSettings = settings

    def start(self, problem: Problem) -> State:
        """Returns the texts as weights, and how tightly each is held."""
        train, classes = problem.shots.train, len(problem.shots.classes)
        chances = (problem.text.scale * problem.features() @ problem.text.embeddings.T).softmax(dim=-1)
        member = functional.one_hot(train.labels, classes) * train.mask[..., None]
        hold = (chances * member).sum(dim=1) / member.sum(dim=1).clamp(min=1)
        weight = problem.text.embeddings.expand(problem.shots.runs, -1, -1).clone()
        return State({"weight": weight}, {"hold": hold if self.settings.constraint else 0.0 * hold})

    def logits(self, state: State, features: Tensor, text: ClassText) -> Tensor:
        """Returns (R, B, K)."""
        unit = functional.normalize(state.trained["weight"], dim=-1)
        return text.scale * features @ unit.transpose(1, 2)

    def loss(self, state: State, logits: Tensor, labels: Tensor, mask: Tensor, text: ClassText) -> Tensor:
        """Returns (R,): cross-entropy and constraint."""
        moved = (state.trained["weight"] - text.embeddings).pow(2).sum(dim=-1)
        return super().loss(state, logits, labels, mask, text) + (state.fixed["hold"] * moved).mean(dim=1)

    def adapted_text(self, state: State, text: ClassText) -> Tensor | None:
        """Returns the trained class vectors, (R, K, D) of unit length."""
        return functional.normalize(state.trained["weight"], dim=-1)


PRESETS = {
    "default": ClapSettings(),
    "published": ClapSettings(),
    "zs_lp": ClapSettings(constraint=False),
}
"""``zs_lp``: the authors' probe without the constraint."""
