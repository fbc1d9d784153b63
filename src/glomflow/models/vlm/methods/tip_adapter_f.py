"""The cache of Tip-Adapter with its keys fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from glomflow.models.vlm.methods.base import ClassText, Problem, Recipe, Settings, State, TrainedMethod
from glomflow.models.vlm.methods.tip_adapter import cache_logits, start_cache

_RECIPE = Recipe(epochs=20, batch_size=256, lr=1e-3, weight_decay=0.01, eps=1e-4, schedule="cosine")


@dataclass(frozen=True)
class TipAdapterFSettings(Settings):
    """Settings; the defaults are the authors'.

    Attributes:
        alpha: Weight of the cache's answer.
        beta: Sharpness.
        recipe: How the keys are trained.
    """

    alpha: float = 1.0
    beta: float = 5.5
    recipe: Recipe = _RECIPE


class TipAdapterF(TrainedMethod):
    """Tip-Adapter-F (Zhang et al., ECCV 2022; arXiv 2207.09519): keys start at the shots and are trained.

    Without a text tower the cache's answer is all there is.
    """

    name = "tip_adapter_f"
    needs_text = False

    def __init__(self, settings: TipAdapterFSettings) -> None:
        self.settings: TipAdapterFSettings = settings

    def start(self, problem: Problem) -> State:
        """Returns the shots as keys."""
        keys, values = start_cache(problem)
        runs = keys.new_ones(len(keys))
        fixed = {"values": values, "alpha": self.settings.alpha * runs, "beta": self.settings.beta * runs}
        return State({"keys": keys}, fixed)

    def logits(self, state: State, features: Tensor, text: ClassText) -> Tensor:
        """Returns (R, B, K)."""
        own = state.fixed
        return cache_logits(features, state.trained["keys"], own["values"], own["alpha"], own["beta"], text)


PRESETS = {name: TipAdapterFSettings() for name in ("default", "published")}
