"""A residual bottleneck on frozen image features."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from glomflow.errors import GlomflowError
from glomflow.models.vlm.methods.base import (
    ClassText,
    Problem,
    Recipe,
    Settings,
    State,
    TrainedMethod,
    uniform_per_run,
)

_RECIPE = Recipe(epochs=50, batch_size=32, lr=1e-3, schedule="cosine")


@dataclass(frozen=True)
class ClipAdapterSettings(Settings):
    """Settings of the adapter.

    Attributes:
        reduction: Width of the features over that of the bottleneck.
        ratio: Share of the adapted features in the sum, 0 to 1.
        recipe: How it is trained.
    """

    reduction: int = 4
    ratio: float = 0.2
    recipe: Recipe = _RECIPE


class ClipAdapter(TrainedMethod):
    """CLIP-Adapter (Gao et al., IJCV 2024; arXiv 2110.04544) on the image side.

    An image's feature f becomes the unit vector along ratio x A(f) + (1 - ratio) x f, with A two linear maps
    without bias, each followed by ReLU. The classes' texts stay.
    """

    name = "clip_adapter"

    def __init__(self, settings: ClipAdapterSettings) -> None:
        self.settings: ClipAdapterSettings = settings

    def start(self, problem: Problem) -> State:
        """Draws the weights as torch.nn.Linear does, each run from its own seed.

        Raises:
            GlomflowError: The features are narrower than the reduction.
        """
        like, seeds = problem.table, problem.shots.seeds
        width = like.shape[1]
        inner = width // self.settings.reduction
        if inner < 1:
            raise GlomflowError(
                f"clip_adapter: features of width {width} cannot be reduced {self.settings.reduction} times; "
                "lower reduction"
            )
        down, up = uniform_per_run(seeds, (2, inner * width), 1.0, like).unbind(dim=1)
        trained = {
            "down": down.reshape(-1, inner, width) * width**-0.5,
            "up": up.reshape(-1, width, inner) * inner**-0.5,
        }
        return State(trained)

    def adapted_images(self, state: State, features: Tensor) -> Tensor:
        """Returns (R, B, D) of unit length."""
        inner = functional.relu(features @ state.trained["down"].transpose(1, 2))
        outer = functional.relu(inner @ state.trained["up"].transpose(1, 2))
        ratio = self.settings.ratio
        return functional.normalize(ratio * outer + (1 - ratio) * features, dim=-1)

    def logits(self, state: State, features: Tensor, text: ClassText) -> Tensor:
        """Returns (R, B, K)."""
        return text.scale * self.adapted_images(state, features) @ text.embeddings.T


_COOP = Recipe(
    epochs=200,
    batch_size=32,
    optimiser="sgd",
    lr=0.002,
    weight_decay=5e-4,
    schedule="cosine",
    per="epoch",
    warmup_epochs=1,
)

PRESETS = {"default": ClipAdapterSettings(), "published": ClipAdapterSettings(recipe=_COOP)}
"""``published``: with the training of CoOp, on whose code the authors' own builds."""
