"""The glomerulus finder's network: a U-Net decoder on any timm encoder.

It gives two maps: the probability that a pixel belongs to a glomerulus, and the distance of the pixel
from that glomerulus's outline as a share of the largest, which falls to zero between glomeruli that touch
and so tells them apart. Both can be averaged where tiles overlap.

Ronneberger et al., U-Net: convolutional networks for biomedical image segmentation, MICCAI 2015.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from glomflow import config
from glomflow.config_finder import FinderEncoder
from glomflow.errors import GlomflowError
from glomflow.models.encoder_weights import load_state
from glomflow.models.encoders import build_encoder
from glomflow.models.torchvision_compat import import_timm

MAPS = 2
"""Maps of the network: glomerulus, distance."""
_WIDEST, _NARROWEST = 96, 24


class FinderNet(nn.Module):
    """A pyramid of features, decoded from coarse to fine with skip connections.

    Args:
        pyramid: timm model made with ``features_only``.
        name: Name of the timm model.

    Attributes:
        stride: Edge of a pixel of the maps, px of the images.
        fixed_size: Edge that the images must have, or None if any multiple of 32 will do.
    """

    def __init__(self, pyramid: Any, name: str) -> None:
        super().__init__()
        self.encoder = pyramid.to(memory_format=torch.channels_last)
        self.name = name
        self._channels_last = "NHWC" in str(getattr(pyramid, "output_fmt", "NCHW"))
        defaults = getattr(pyramid, "pretrained_cfg", None) or getattr(pyramid, "default_cfg", {})
        self.fixed_size = int(defaults["input_size"][-1]) if defaults.get("fixed_input_size") else None
        reductions = [int(reduction) for reduction in pyramid.feature_info.reduction()]
        # Of several maps of one size, as transformers give them, the deepest is taken.
        self._levels = [reductions.index(r) + reductions.count(r) - 1 for r in sorted(set(reductions))]
        self.stride = min(reductions)
        channels = [int(pyramid.feature_info.channels()[level]) for level in self._levels]
        below = channels[-1]
        blocks: Any = nn.ModuleList()
        for depth, skip in enumerate(reversed(channels[:-1])):
            width = max(_NARROWEST, _WIDEST // 2**depth)
            blocks.append(_Block(below + skip, width))
            below = width
        self.decoder = blocks.to(memory_format=torch.channels_last)
        self.head = nn.Conv2d(below, MAPS, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images.

        Args:
            images: (B, 3, H, W) normalised float; H and W multiples of 32.

        Returns:
            (B, 2, H / stride, W / stride) logits: glomerulus, distance.
        """
        features = self.encoder(images.contiguous(memory_format=torch.channels_last))
        maps = [features[level] for level in self._levels]
        if self._channels_last:
            maps = [each.permute(0, 3, 1, 2) for each in maps]
        below = maps[-1]
        for block, skip in zip(self.decoder, reversed(maps[:-1]), strict=True):
            below = block(torch.cat([_enlarged(below, skip), skip], dim=1))
        logits: Tensor = self.head(below)
        return logits

    def freeze_encoder(self, frozen: bool) -> None:
        """Sets whether the encoder is trained."""
        for parameter in self.encoder.parameters():
            parameter.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> FinderNet:
        """Sets training mode, but for the running statistics of the encoder: batches are small."""
        super().train(mode)
        for module in self.encoder.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.training = False
        return self

    def check_size(self, key: str, edge: int) -> None:
        """Raises a GlomflowError that names ``key`` if the encoder cannot take images of this edge."""
        if self.fixed_size is not None and edge != self.fixed_size:
            raise GlomflowError(
                f"imaging.finder.{key}: {edge}, but {self.name} takes images of {self.fixed_size} px only; "
                f"set imaging.finder.tile and imaging.finder.training.patch to {self.fixed_size}, or choose "
                "another imaging.finder.encoder.name"
            )


class _Block(nn.Sequential):
    """Two convolutions, each normalised and rectified."""

    def __init__(self, channels: int, width: int) -> None:
        layers: list[nn.Module] = []
        for source in (channels, width):
            layers += [
                nn.Conv2d(source, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


def _enlarged(below: Tensor, skip: Tensor) -> Tensor:
    """Repeats pixels until a map has the size of the next finer one."""
    height, width = skip.shape[-2:]
    if (height, width) != (2 * below.shape[-2], 2 * below.shape[-1]):
        return functional.interpolate(below, size=(height, width), mode="nearest")
    batch, channels, rows, columns = below.shape
    # As a broadcast, because its gradient is a plain sum: the same bits at every run, also on a GPU.
    spread = below[:, :, :, None, :, None].expand(batch, channels, rows, 2, columns, 2)
    return spread.reshape(batch, channels, height, width).contiguous(memory_format=torch.channels_last)


def build_finder_net(settings: FinderEncoder, *, pretrained: bool, offline: bool = True) -> FinderNet:
    """Builds the finder's network.

    Args:
        settings: The encoder.
        pretrained: Load the encoder's weights; False where trained ones will be loaded over them.
        offline: Never reach for the internet.

    Returns:
        The network, on the CPU, in evaluation mode; its decoder is drawn from torch's generator.

    Raises:
        GlomflowError: The encoder cannot be built; the message names the key.
    """
    weights = settings.weights if pretrained else "random"
    chosen = config.Encoder(
        name=settings.name,
        weights=weights,
        sha256=settings.sha256,
        mean=settings.mean,
        std=settings.std,
        trainable="all",
    )
    try:
        loaded = build_encoder(chosen, offline=offline).network.state_dict()
    except GlomflowError as error:
        raise GlomflowError(f"imaging.finder.{error}") from error
    with torch.random.fork_rng(devices=[]):
        pyramid = import_timm().create_model(settings.name, features_only=True)
    try:
        load_state(pyramid, loaded, settings.weights)
    except GlomflowError as error:
        raise GlomflowError(
            f"imaging.finder.encoder.name: timm gives no pyramid of features of '{settings.name}'; "
            "choose another model"
        ) from error
    return FinderNet(pyramid, settings.name).eval()
