"""The image tower of backbones that are built around a ViT of timm."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from glomflow.models.vlm.backbone import Tower


class TimmTower(Tower):
    """A ViT of timm within open_clip.

    Args:
        visual: open_clip's ``TimmModel`` around a ``VisionTransformer`` of timm.
    """

    def __init__(self, visual: Any) -> None:
        super().__init__()
        visual.trunk.blocks = nn.ModuleList(visual.trunk.blocks)
        self.visual = visual

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks."""
        blocks: nn.ModuleList = self.visual.trunk.blocks
        return blocks

    @property
    def prefix(self) -> int:
        """Class token and registers, if it has any."""
        return int(self.visual.trunk.num_prefix_tokens)

    def stem(self, inputs: Tensor) -> Tensor:
        """Embeds patches of pixels (N, 3, S, S)."""
        trunk = self.visual.trunk
        hidden: Tensor = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(inputs))))
        return hidden

    def head(self, hidden: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Pools and projects."""
        trunk = self.visual.trunk
        features: Tensor = self.visual.head(trunk.forward_head(trunk.norm(hidden)))
        return features

    def _block(self, block: nn.Module, hidden: Tensor, mask: Tensor | None) -> Tensor:
        return block(hidden)  # type: ignore[no-any-return]
