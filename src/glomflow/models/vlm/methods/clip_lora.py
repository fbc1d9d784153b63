"""CLIP-LoRA: low-rank updates everywhere, with one recipe for all data."""

from __future__ import annotations

from dataclasses import dataclass, replace

from glomflow.models.vlm.lora import Target
from glomflow.models.vlm.methods.base import Recipe
from glomflow.models.vlm.methods.lora import LoraSettings, LoraTuning
from glomflow.models.vlm.methods.tuned import Loss

_RECIPE = Recipe(epochs=20, batch_size=32, lr=2e-4, weight_decay=1e-2, schedule="cosine")


@dataclass(frozen=True)
class ClipLoraSettings(LoraSettings):
    """Settings; the defaults are the authors' but for the number of steps."""

    recipe: Recipe = _RECIPE
    loss: Loss = "cross_entropy"
    rank: int = 2
    alpha: float = 1.0
    dropout: float = 0.25
    targets: tuple[Target, ...] = ("q", "k", "v")
    vision_blocks: tuple[int, ...] | None = None
    text_blocks: tuple[int, ...] | None = None


class ClipLora(LoraTuning):
    """CLIP-LoRA (Zanella and Ben Ayed, CVPRW 2024; arXiv 2405.18541).

    Updates of q, k and v in every block of both towers, cross-entropy over the classes, one fixed recipe
    without validation data. All blocks are changed: images are cached after the patch embedding.
    """

    name = "clip_lora"


PRESETS = {
    "default": ClipLoraSettings(),
    "small": ClipLoraSettings(recipe=replace(_RECIPE, batch_size=5, balanced=True, lr=1e-3), alpha=4.0),
    "published": ClipLoraSettings(steps_per_shot=500),
}
"""``published``: 500 steps per shot, as the authors; ``default``: 20 epochs, for a CPU; ``small``: for models
of a few million weights, chosen on phantom glomeruli."""
