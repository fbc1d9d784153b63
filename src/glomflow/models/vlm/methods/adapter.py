"""Bottleneck adapters behind the blocks of the image tower."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from glomflow.models.vlm.methods.base import Recipe
from glomflow.models.vlm.methods.tuned import Cut, TunedMethod, TunedSettings, chosen_blocks

_RECIPE = Recipe(epochs=20, batch_size=5, balanced=True, lr=1e-3)


@dataclass(frozen=True)
class AdapterSettings(TunedSettings):
    """Settings.

    Attributes:
        bottleneck: Width of an adapter's middle.
        dropout: Share of it that training leaves out.
        blocks: Blocks of the image tower that get one, from 0, negative from the end; None: all.
    """

    recipe: Recipe = _RECIPE
    bottleneck: int = 64
    dropout: float = 0.0
    blocks: tuple[int, ...] | None = None


class Bottleneck(nn.Module):
    """x + up(dropout(relu(down(x)))); the identity at the start.

    Args:
        width: Width of x.
        inner: Width of the middle.
        dropout: Share of the middle that training leaves out.
        generator: Source of the draws.
    """

    def __init__(self, width: int, inner: int, dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            self.down.weight.normal_(0.0, width**-0.5, generator=generator)
            for zero in (self.down.bias, self.up.weight, self.up.bias):
                zero.zero_()

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns the adapted state, of the shape of ``hidden``."""
        added: Tensor = self.up(self.dropout(torch.relu(self.down(hidden))))
        return hidden + added


class Adapter(TunedMethod):
    """Output adapters (Houlsby et al., ICML 2019) as in Glo-VLMs (arXiv 2508.15960), image tower only.

    With adapters in all blocks activations are cached after the patch embedding, otherwise before the first
    block that has one. The text tower is frozen, its features computed once.
    """

    name = "adapter"

    def __init__(self, settings: AdapterSettings) -> None:
        self.settings: AdapterSettings = settings
        self._modules: list[Bottleneck] = []

    def _blocks(self, backbone: Any) -> list[int]:
        return chosen_blocks(backbone.vision, self.settings.blocks, self.name, "blocks")

    def cut(self, backbone: Any) -> Cut:
        """Returns the first block: what enters it is what no adapter has touched."""
        return Cut(min(self._blocks(backbone)), None)

    @contextlib.contextmanager
    def attached(self, backbone: Any, seed: int) -> Iterator[dict[str, nn.Parameter]]:
        """Hangs an adapter behind each chosen block."""
        generator = torch.Generator().manual_seed(seed)
        named: dict[str, nn.Parameter] = {}
        handles = []
        device = backbone.logit_scale.device
        for number in self._blocks(backbone):
            block = backbone.vision.blocks[number]
            # a block's first vector (of a norm or a projection) is as wide as its state
            width = next(value.shape[0] for value in block.parameters() if value.ndim == 1)
            module = Bottleneck(width, self.settings.bottleneck, self.settings.dropout, generator)
            module.to(device).eval()
            self._modules.append(module)
            handles.append(block.register_forward_hook(_adapting(module)))
            named |= {f"{number}.{name}": value for name, value in module.named_parameters()}
        try:
            yield named
        finally:
            for handle in handles:
                handle.remove()
            self._modules.clear()

    @contextlib.contextmanager
    def training(self, backbone: Any) -> Iterator[None]:
        """Switches dropout on within the block."""
        for module in self._modules:
            module.train()
        try:
            yield
        finally:
            for module in self._modules:
                module.eval()


def _adapting(module: Bottleneck) -> Any:
    def hook(block: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (module(output[0]), *output[1:])
        return module(output)

    return hook


_CONCH = replace(_RECIPE, lr=1e-4, weight_decay=0.01, balanced=False)

PRESETS = {
    "default": AdapterSettings(),
    "clip": AdapterSettings(recipe=replace(_RECIPE, balanced=False), loss="arange"),
    "plip": AdapterSettings(recipe=replace(_RECIPE, balanced=False), loss="arange"),
    "conch": AdapterSettings(recipe=_CONCH, loss="arange", dropout=0.1, blocks=(6, 7, 8, 9, 10, 11)),
}
"""``clip``, ``plip`` and ``conch``: as published."""
