"""Low-rank updates of attention projections."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from glomflow.models.vlm.lora import Lora, Target, add_lora
from glomflow.models.vlm.methods.base import Recipe
from glomflow.models.vlm.methods.tuned import Cut, TunedMethod, TunedSettings, chosen_blocks

_RECIPE = Recipe(epochs=20, batch_size=5, balanced=True, lr=2e-5)


@dataclass(frozen=True)
class LoraSettings(TunedSettings):
    """Settings.

    Attributes:
        rank: r.
        alpha: Numerator of the factor alpha / r.
        dropout: Dropout of the updates' input.
        targets: Projections that are updated: q, k, v, out.
        vision_blocks: Blocks of the image tower, from 0, negative from the end; None: all.
        text_blocks: The same of the text tower; empty: it stays as it is.
    """

    recipe: Recipe = _RECIPE
    rank: int = 4
    alpha: float = 16.0
    dropout: float = 0.1
    targets: tuple[Target, ...] = ("q", "v")
    vision_blocks: tuple[int, ...] | None = (-1,)
    text_blocks: tuple[int, ...] | None = (-1,)


class LoraTuning(TunedMethod):
    """LoRA (Hu et al., ICLR 2022; arXiv 2106.09685) as in Glo-VLMs (arXiv 2508.15960)."""

    name = "lora"

    def __init__(self, settings: LoraSettings) -> None:
        self.settings: LoraSettings = settings
        self._updates: list[Lora] = []

    def _blocks(self, backbone: Any) -> dict[str, list[int]]:
        own = self.settings
        return {
            "vision": chosen_blocks(backbone.vision, own.vision_blocks, self.name, "vision_blocks"),
            "text": chosen_blocks(backbone.text, own.text_blocks, self.name, "text_blocks"),
        }

    def cut(self, backbone: Any) -> Cut:
        """Returns the first blocks that get updates."""
        blocks = self._blocks(backbone)
        return Cut(min(blocks["vision"], default=None), min(blocks["text"], default=None))

    @contextlib.contextmanager
    def attached(self, backbone: Any, seed: int) -> Iterator[dict[str, nn.Parameter]]:
        """Puts updates into the chosen blocks, and takes them out."""
        own = self.settings
        generator = torch.Generator().manual_seed(seed)
        named: dict[str, nn.Parameter] = {}
        try:
            for tower, numbers in self._blocks(backbone).items():
                if not numbers:
                    continue
                updates = add_lora(
                    [getattr(backbone, tower).blocks[number] for number in numbers],
                    rank=own.rank,
                    alpha=own.alpha,
                    dropout=own.dropout,
                    targets=own.targets,
                    generator=generator,
                )
                self._updates.append(updates)
                for place, value in enumerate(updates.parameters()):
                    named[f"{tower}.{place}"] = value
            self._switch(False)
            yield named
        finally:
            for updates in self._updates:
                updates.remove()
            self._updates.clear()

    @contextlib.contextmanager
    def training(self, backbone: Any) -> Iterator[None]:
        """Switches the updates' dropout on within the block."""
        self._switch(True)
        try:
            yield
        finally:
            self._switch(False)

    def _switch(self, training: bool) -> None:
        for updates in self._updates:
            for module in updates.modules:
                module.train(training)


_PUBLISHED = LoraSettings(recipe=replace(_RECIPE, balanced=False), loss="arange")

PRESETS = {
    "default": LoraSettings(),
    "small": LoraSettings(
        recipe=replace(_RECIPE, lr=5e-4), targets=("q", "k", "v", "out"), vision_blocks=None, text_blocks=None
    ),
    "clip": replace(_PUBLISHED, vision_blocks=(11,), text_blocks=(11,)),
    "plip": replace(_PUBLISHED, vision_blocks=(11,), text_blocks=(11,)),
    "conch": replace(_PUBLISHED, vision_blocks=(10, 11), text_blocks=(), targets=("q", "k", "v", "out")),
}
"""``clip``, ``plip`` and ``conch``: as published. ``small``: for models of a few million weights, which the
other recipes hardly move; chosen on phantom glomeruli."""
