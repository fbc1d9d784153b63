"""Fine-tuning of the last blocks of both towers."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from torch import nn

from glomflow.models.vlm.methods.base import Recipe
from glomflow.models.vlm.methods.tuned import Cut, TunedMethod, TunedSettings, borrowed, last_blocks

_RECIPE = Recipe(
    epochs=20,
    batch_size=5,
    balanced=True,
    lr=1e-4,
    weight_decay=0.01,
    schedule="cosine",
    per="epoch",
    floor=0.01,
)


@dataclass(frozen=True)
class VanillaSettings(TunedSettings):
    """Settings.

    Attributes:
        vision_blocks: Last blocks of the image tower that are trained.
        text_blocks: The same of the text tower.
        logit_scale: Whether the factor of the cosines is trained.
    """

    recipe: Recipe = _RECIPE
    vision_blocks: int = 4
    text_blocks: int = 2
    logit_scale: bool = True


class Vanilla(TunedMethod):
    """The fine-tuning of Glo-VLMs (arXiv 2508.15960): contrastive, the last blocks of each tower."""

    name = "vanilla"

    def __init__(self, settings: VanillaSettings) -> None:
        self.settings: VanillaSettings = settings

    def cut(self, backbone: Any) -> Cut:
        """Returns the first trained blocks."""
        own = self.settings
        vision = last_blocks(backbone.vision, own.vision_blocks, self.name, "vision_blocks")
        text = last_blocks(backbone.text, own.text_blocks, self.name, "text_blocks")
        return Cut(vision if own.vision_blocks else None, text if own.text_blocks else None)

    def attached(
        self, backbone: Any, seed: int
    ) -> contextlib.AbstractContextManager[dict[str, nn.Parameter]]:
        """Lends the last blocks; nothing is drawn."""
        cut, chosen = self.cut(backbone), {}
        for tower, first in (("vision", cut.vision), ("text", cut.text)):
            blocks = getattr(backbone, tower).blocks
            for number in range(len(blocks) if first is None else first, len(blocks)):
                for name, value in blocks[number].named_parameters():
                    chosen[f"{tower}.{number}.{name}"] = value
        if self.settings.logit_scale:
            chosen["logit_scale"] = backbone.logit_scale
        return borrowed(chosen)


def _published(**changes: Any) -> VanillaSettings:
    recipe = Recipe(**{**_RECIPE.__dict__, "balanced": False, **changes.pop("recipe", {})})
    return VanillaSettings(recipe=recipe, loss="arange", **changes)


PRESETS = {
    "default": VanillaSettings(),
    "clip": _published(),
    "plip": _published(),
    "conch": _published(vision_blocks=2, text_blocks=2, recipe={"lr": 2e-5, "balanced": True, "epochs": 3}),
}
"""``clip``, ``plip`` and ``conch``: as published, with batches and loss to match."""
