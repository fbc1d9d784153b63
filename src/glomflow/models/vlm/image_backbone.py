"""Image encoders as backbones of methods that need no text."""

from __future__ import annotations

from functools import lru_cache
from math import isqrt

import numpy as np
import torch
from torch import Tensor, nn

from glomflow import config
from glomflow.config_vlm import VlmBackbone
from glomflow.errors import GlomflowError
from glomflow.models.encoders import Encoder, build_encoder, preprocess
from glomflow.models.vlm.backbone import Tower

_PARTS = 16
_OTHER_VIEWS = [(turns, mirrored) for mirrored in (False, True) for turns in range(4)][1:]


@lru_cache
def disc_weights(edge: int, radius: float | None) -> Tensor:
    """Returns how much each cell of a square map counts: its share within a disc in the middle.

    A glomerulus lies in the middle of its crop; the corners show its surroundings.

    Args:
        edge: Cells along an edge.
        radius: Of the disc, in halves of the edge; None: all cells count alike.

    Returns:
        (edge, edge) float32, sum 1.
    """
    if radius is None:
        return torch.full((edge, edge), 1.0 / edge**2)
    places = (np.arange(edge * _PARTS) + 0.5) / (edge * _PARTS) * 2.0 - 1.0
    inside = np.hypot(places[:, None], places[None, :]) <= radius
    shares = inside.reshape(edge, _PARTS, edge, _PARTS).mean(axis=(1, 3))
    return torch.from_numpy((shares / shares.sum()).astype(np.float32))


def pool_disc(maps: Tensor, radius: float | None) -> Tensor:
    """Averages feature maps (N, h, h, C) over a disc in the middle; returns (N, C).

    Raises:
        GlomflowError: The maps are not square.
    """
    if maps.ndim != 4 or maps.shape[1] != maps.shape[2]:
        raise GlomflowError(f"feature maps of shape {tuple(maps.shape)}; expected (N, h, h, C), square")
    weights = disc_weights(int(maps.shape[1]), radius).to(maps)
    return torch.einsum("nhwc,hw->nc", maps, weights)


class EncoderTower(Tower):
    """An encoder as a tower without blocks to cut it at: its state is the feature map, cell by cell.

    Args:
        encoder: The encoder.
        disc: Radius of the disc that the map is averaged over; None: the whole.
        symmetries: Average the maps of the eight turned and mirrored views, each turned back.
    """

    def __init__(self, encoder: Encoder, disc: float | None, *, symmetries: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.disc = disc
        self.symmetries = symmetries
        self._none = nn.ModuleList()

    @property
    def blocks(self) -> nn.ModuleList:
        """There are none."""
        return self._none

    def stem(self, inputs: Tensor) -> Tensor:
        """Returns the cells of the feature map, (N, h h, C)."""
        maps: Tensor = self.encoder(inputs)
        for turns, mirrored in _OTHER_VIEWS if self.symmetries else ():
            view = inputs.flip(3) if mirrored else inputs
            found: Tensor = self.encoder(torch.rot90(view, turns, (2, 3)))
            back = torch.rot90(found, -turns, (1, 2))
            maps = maps + (back.flip(2) if mirrored else back)
        return (maps / (len(_OTHER_VIEWS) + 1) if self.symmetries else maps).flatten(1, 2)

    def head(self, hidden: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Averages the cells."""
        edge = isqrt(int(hidden.shape[1]))
        return pool_disc(hidden.reshape(len(hidden), edge, edge, -1), self.disc)

    def _block(self, block: nn.Module, hidden: Tensor, mask: Tensor | None) -> Tensor:
        raise NotImplementedError("an encoder has no blocks")


class ImageBackbone(nn.Module):
    """An image encoder where a backbone is expected; it has no text tower. Frozen, in evaluation mode.

    Args:
        name: Key in the configuration.
        section: Its section.
        encoder: The section of the encoder.
        offline: Never reach for the internet.

    Attributes:
        vision: The encoder as a tower.
        dim: D, its channels.
        image_size: Edge that images must have, px; 0 if any will do.
        preprocessing: What is done to crops, in words.

    Raises:
        GlomflowError: The encoder cannot be built; the message names the key.
    """

    def __init__(
        self, name: str, section: VlmBackbone, encoder: config.Encoder, *, offline: bool = True
    ) -> None:
        super().__init__()
        try:
            built = build_encoder(encoder, offline=offline, stride=section.stride)
        except GlomflowError as error:
            raise GlomflowError(f"vlm.backbones.{name}: {error}") from error
        self.name = name
        self.vision = EncoderTower(built, section.disc, symmetries=section.symmetries)
        self.dim = built.channels
        self.image_size = built.fixed_size or 0
        views = 8 if section.symmetries else 1
        self.preprocessing = f"mean {encoder.mean}, SD {encoder.std}, disc {section.disc}, {views} views"
        self._mean, self._std = encoder.mean, encoder.std
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.requires_grad_(False)
        self.eval()

    def preprocess(self, crops: Tensor) -> Tensor:
        """Normalises crops (N, H, W, 3) uint8 to (N, 3, H, W), on the crops' device."""
        return preprocess(crops, self._mean, self._std)
